"""Numbers on another scale than the one they are read by: clipped, or warned of."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    RawPixels,
    check_images,
)
from sktl.exceptions import ImageRangeWarning
from tests.helpers import encode, first_and_slow

DIGITS = load_digits().images[:40]


def fit(X, **params):
    params = {"image_size": 16, "cache": None} | params
    return PretrainedFeatureExtractor("sktl_mini", **params).fit(X)


def features(X, **params):
    return fit(X, **params).transform(X)


# Rounding


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (DIGITS * 1.0001, (0, 16)),
        (DIGITS * (1 + 1e-15), (0, 16)),
        (DIGITS / 16 * (1 + 1e-15), (0, 1)),
        (DIGITS / 16 - 1e-3, (0, 1)),
        (DIGITS * 16, (0, 255)),
        (DIGITS * 4096, (0, 65535)),
    ],
)
def test_range_is_not_left_for_a_wider_one_by_rounding(X, expected):
    assert fit(X).value_range_ == expected


@pytest.mark.slow
def test_features_hardly_change_by_rounding():
    np.testing.assert_array_equal(features(DIGITS * 1.0001), features(DIGITS))
    np.testing.assert_allclose(features(DIGITS * 16), features(DIGITS), atol=0.1)


@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageRangeWarning")
@pytest.mark.parametrize(
    ("X", "too_narrow"),
    [
        (DIGITS * 1.02, (0, 16)),
        (DIGITS / 16 - 0.02, (0, 1)),
        (DIGITS * 17, (0, 255)),
    ],
)
def test_range_that_is_left_by_more_than_rounding_is_another(X, too_narrow):
    assert fit(X).value_range_ != too_narrow


# Little of the range


@pytest.mark.parametrize(
    "X",
    [
        DIGITS * 1.05,  # up to 17 of 255
        DIGITS / 16 * 0.12,  # less than an eighth
        DIGITS * 255.9,  # 12 bits of 16
        (DIGITS * 255.9).astype(np.uint16),
        (DIGITS > 7).astype(np.uint8),
        DIGITS.astype(np.uint8),
        list(DIGITS.astype(np.uint8)),
    ],
)
def test_numbers_that_fill_little_of_their_range_are_warned_of(X):
    with pytest.warns(ImageRangeWarning, match=r"fill so little.*value_range=\(lo, hi"):
        fit(X)


@pytest.mark.parametrize(
    "X",
    [
        (DIGITS > 7),
        (DIGITS * 15.9).astype(np.uint8),
        (DIGITS * 4095).astype(np.uint16),
        DIGITS / 16 * 0.13,  # dark, and not too dark
        np.zeros((40, 8, 8), np.uint8),  # of one colour each
        DIGITS[:3].astype(np.uint8),  # too few to tell
        np.concatenate([DIGITS.astype(np.uint8), np.full((1, 8, 8), 255, np.uint8)]),
    ],
)
def test_numbers_that_are_merely_dark_are_not_warned_of(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(X).transform(X)


@pytest.mark.parametrize("first", [0, 1])
def test_arrays_of_one_dtype_are_warned_of_whatever_those_of_others_hold(first):
    bright, dark = (DIGITS * 15.9).astype(np.uint8), (DIGITS * 255).astype(np.uint16)
    X = [x for pair in zip(bright, dark, strict=True) for x in pair][first:]
    message = r"uint16 numbers from 0 to 4080, .*65535 .*Rescale these arrays.*other"
    with pytest.warns(ImageRangeWarning, match=message) as caught:
        fit(X)
    assert len(caught) == 1


def test_arrays_of_several_dtypes_that_fill_their_ranges_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bright, deep = (
            (DIGITS * 15.9).astype(np.uint8),
            (DIGITS * 4095).astype(np.uint16),
        )
        fit([*bright, *deep, *DIGITS / 16])


# Another scale than in fit


@pytest.mark.parametrize(
    ("seen", "given"),
    [
        (DIGITS / 16, DIGITS),
        (DIGITS / 16, DIGITS[:1]),
        (DIGITS, DIGITS / 16),
        (DIGITS / 16, DIGITS * 16),
        (DIGITS * 16, DIGITS / 16),
        (DIGITS / 16, (DIGITS > 7).astype(np.uint8)),
        (DIGITS / 16, (DIGITS * 255.9).astype(np.uint16)),
        (DIGITS / 16, (DIGITS / 16 - 0.45) / 0.22),
        (DIGITS * 16, (DIGITS / 16 - 0.45) / 0.22),
        (DIGITS / 8 - 1, DIGITS),
        (DIGITS / 8 - 1, DIGITS / 4080),
        (DIGITS / 16, DIGITS / 16 * 1.2),
        (DIGITS / 16, DIGITS / 16 - 0.2),
        (list(DIGITS / 16), list(DIGITS)),
        (DIGITS.reshape(40, -1), DIGITS.reshape(40, -1) / 16),
        # One pixel in fifty of a mask, which is 0 or 1, then 0 or 255.
        (np.eye(50)[None].repeat(4, 0), 255 * np.eye(50)[None].repeat(4, 0)),
    ],
)
def test_other_scale_than_that_of_fit_is_warned_of(seen, given):
    extractor = fit(seen)
    with pytest.warns(ImageRangeWarning, match="estimator expects"):
        extractor.transform(given)


def test_other_scale_is_warned_of_by_the_classifier(make):
    classifier = make("linear_probe", image_shape=(8, 8))
    classifier.fit(DIGITS[:20] / 16, np.arange(20) % 2)

    with pytest.warns(
        ImageRangeWarning, match=r"from 0 to 16, but .* 0 \(black\) to 1 "
    ):
        classifier.predict(DIGITS)


@pytest.mark.parametrize(
    "given",
    [
        DIGITS[:1] / 160,  # one dark image, and three of them
        DIGITS[:3] / 160,
        DIGITS / 16 * 1.05,
        DIGITS * 0 + 0.01,
        np.where(np.arange(DIGITS.size).reshape(DIGITS.shape) == 7, 3.0, DIGITS / 16),
    ],
)
def test_same_scale_as_in_fit_is_not_warned_of(given):
    extractor = fit(DIGITS / 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor.transform(given)


@pytest.mark.parametrize(
    "X", first_and_slow([DIGITS, DIGITS.astype(np.uint8), DIGITS * 99])
)
def test_range_given_by_the_user_is_never_questioned(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value_range in [(0, 1), (0, 65535)]:
            fit(X, value_range=value_range).transform(X)


def test_warning_names_the_line_of_the_caller():
    with pytest.warns(ImageRangeWarning) as caught:
        FineTunedCNNClassifier("sktl_mini", strategy="linear_probe").fit(
            DIGITS.astype(np.uint8), np.arange(40) % 2
        )
    assert caught[0].filename == __file__


# Files and PIL images, whose range is that of their format


def _deep(peak, kind):
    numbers = np.linspace(0, peak, 6 * 40 * 40).reshape(6, 40, 40).astype(np.uint16)
    if kind == "PIL":
        return [Image.fromarray(image) for image in numbers]
    return [encode(Image.fromarray(image), kind) for image in numbers]


def _grey(level):
    return Image.new("L", (9, 9), level)


def _train(X):
    probe = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe", cache=None)
    make_pipeline(probe).fit(X, [0, 1] * 3)


@pytest.mark.parametrize("kind", first_and_slow(["PNG", "TIFF", "PIL"]))
@pytest.mark.parametrize(
    "use",
    [
        lambda X: make_pipeline(fit(X)).transform(X),
        _train,
        lambda X: make_pipeline(RawPixels()).fit_transform(X),
        lambda X: RawPixels().fit(DIGITS).transform(X),
        check_images,
    ],
    ids=["features", "training", "pixels", "pixels after fit", "check"],
)
def test_camera_of_12_bits_in_files_of_16_is_warned_of(kind, use):
    message = r"6 of 6 .*black.*such as \(0, 4095\)"
    with pytest.warns(ImageRangeWarning, match=message) as caught:
        use(_deep(4095, kind))
    assert len(caught) == 1


def test_class_numbers_in_files_of_8_bits_are_warned_of():
    masks = [encode(Image.fromarray(np.uint8(image > 8))) for image in DIGITS]
    with pytest.warns(ImageRangeWarning, match="40 of 40 .*8 bits yourself"):
        features(masks)


@pytest.mark.parametrize("kind", first_and_slow(["PNG", "TIFF", "PIL"]))
@pytest.mark.parametrize("n_bright", [1, 6, 60])
def test_camera_of_12_bits_among_images_of_8_bits_is_warned_of(kind, n_bright):
    pixels = np.random.default_rng(0).integers(0, 256, (n_bright, 9, 9), np.uint8)
    bright = [Image.fromarray(image) for image in pixels]
    if kind != "PIL":
        bright = [encode(image, kind) for image in bright]
    message = r"^6 of the 6 images of 16 bits are nearly black.*such as \(0, 4095\)"
    with pytest.warns(ImageRangeWarning, match=message) as caught:
        features(bright + _deep(4095, kind))
    assert len(caught) == 1


def test_masks_of_8_bits_among_images_of_16_bits_and_arrays_are_warned_of():
    masks = [encode(Image.fromarray(np.uint8(image > 8))) for image in DIGITS]
    message = "^40 of the 40 images of 8 bits are nearly black.*8 bits yourself"
    with pytest.warns(ImageRangeWarning, match=message):
        features([*masks, *_deep(65535, "PNG"), *np.tile(DIGITS, (2, 1, 1))])


def _colour_png(numbers):
    """A PNG of 16 bits a channel, which PIL cannot write."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    height, width, _ = numbers.shape
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in numbers)
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("value_range", ["auto", (0, 4095)])
def test_colours_of_12_bits_are_warned_of_also_with_a_range(value_range):
    """PIL reads the upper 8 of 16 bits, to which no range is applied."""
    colours = np.random.default_rng(0).integers(0, 4096, (6, 9, 9, 3))
    message = "^6 of 6 images are nearly black.*colour images of 16 bits"
    with pytest.warns(ImageRangeWarning, match=message):
        features(list(map(_colour_png, colours)), value_range=value_range)


@pytest.mark.parametrize(
    ("images", "params"),
    [
        (_deep(65535, "PNG"), {}),
        (_deep(4095, "PNG")[:3] + [_grey(200)] * 9, {}),
        (_deep(4095, "PNG") + [_grey(200)] * 9, {"value_range": (0, 4095)}),
        (_deep(4095, "PNG"), {"value_range": (0, 4095)}),
        (_deep(4095, "PNG")[:3], {}),
        (_deep(4095, "PNG") + _deep(65535, "PNG")[-1:], {}),
        (list(map(_grey, range(9))), {}),
    ],
    ids=[
        "16 bits",
        "few of them",
        "range of them",
        "range given",
        "few",
        "one is bright",
        "of one colour",
    ],
)
def test_files_that_may_well_be_dark_are_not_warned_of(images, params):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageRangeWarning)
        features(images, **params)


def test_images_of_weight_zero_have_no_say_in_the_range():
    X, y, weight = (
        DIGITS.astype(float),
        np.arange(len(DIGITS)) % 2,
        np.ones(len(DIGITS)),
    )
    X[0], weight[0] = 5000, 0
    probe = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageRangeWarning)
        assert probe.fit(X, y, sample_weight=weight).value_range_ == (0, 16)
        expected = clone(probe).fit(X[1:], y[1:]).predict_proba(X[1:])
        np.testing.assert_array_equal(probe.predict_proba(X[1:]), expected)
