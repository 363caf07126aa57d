"""`RawPixels`: the images themselves as rows, from every form of X."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator

from sktl import RawPixels
from sktl.exceptions import ImageReadError
from tests.helpers import encode, write
from tests.images.samples import RGB


@pytest.fixture
def noise():
    """Images in colour, `(n, 8, 8, 3)`."""
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_all_estimator_checks_pass():
    pixels = RawPixels(4, image_shape=(1, -1))
    results = check_estimator(pixels, on_fail=None, on_skip=None)
    assert Counter(result["status"] for result in results) == {"passed": 47}


def test_small_squares_are_left_as_they_are():
    X, _ = load_digits(return_X_y=True)
    assert np.abs(RawPixels().fit_transform(X[:99]) - X[:99] / 16).max() <= 0.5 / 255


@pytest.mark.parametrize("shape", [(8, 8, 3), (40, 60, 3), (5, 9, 3)])
def test_images_are_stretched_to_a_size_that_is_given(shape):
    """Larger ones and smaller ones, as PIL resizes them."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    row = RawPixels(image_size=16).fit_transform([image])
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(row, np.asarray(expected).reshape(1, -1) / 255)


@pytest.mark.parametrize("shapes", [[(8, 8), (8, 9)], [(8, 8), (9, 9)], [(40, 40)]])
def test_images_that_are_no_small_squares_of_one_size_get_32_pixels(shapes):
    images = [np.zeros(shape, np.uint8) for shape in shapes]
    assert RawPixels().fit_transform(images).shape == (len(images), 32 * 32)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_fit_and_transform_give_what_both_at_once_give(n_jobs):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (7, 10, 12, 1), dtype=np.uint8)
    pixels = RawPixels(9, n_jobs=n_jobs)
    assert (pixels.fit(X).transform(X) == RawPixels(9).fit_transform(X)).all()
    assert pixels.transform(X).shape == (7, 81)


def test_images_of_another_size_than_those_of_fit_give_equally_long_rows():
    rng = np.random.default_rng(0)
    small, other = rng.integers(0, 256, (2, 5, 8, 8), dtype=np.uint8)
    pixels = RawPixels().fit(small)
    assert pixels.transform([*other[:, :7, :6]]).shape == (5, 64)


def test_rows_are_read_as_they_are_told():
    X = np.random.default_rng(0).integers(0, 2, (4, 60)).astype(float)
    shaped = RawPixels(image_shape=(6, 10), value_range=(0, 2)).fit(X)
    assert shaped.transform(X).max() == pytest.approx(0.5, abs=0.5 / 255)
    assert shaped.transform(X).shape == (4, 32 * 32)


def test_every_form_of_the_same_images_gives_the_same_rows(tmp_path, noise):
    paths = [str(path) for path in write(tmp_path, noise)]
    forms = [
        list(noise),
        np.moveaxis(noise, -1, 1),
        noise.reshape(5, -1),
        paths,
        pd.DataFrame({"photo": paths}),
        [encode(image) for image in noise],
        [Image.fromarray(image) for image in noise],
    ]
    for X in forms:
        assert np.array_equal(RawPixels().fit_transform(X), noise.reshape(5, -1) / 255)


def test_colour_is_converted_to_grey_where_fit_saw_none(noise):
    pixels = RawPixels().fit(noise[..., 0])
    luma = [np.asarray(Image.fromarray(image).convert("L")) for image in noise]
    assert np.array_equal(pixels.transform(noise), np.reshape(luma, (5, -1)) / 255)
    assert (pixels.image_size_, pixels.n_channels_) == (8, 1)


def test_names_of_columns_say_which_pixel_they_are(noise):
    noise = np.repeat(noise, 2, axis=1).repeat(2, axis=2)
    pixels = RawPixels().set_output(transform="pandas").fit(noise)
    frame = pixels.transform(noise)
    for channel, colour in enumerate(["red", "green", "blue"]):
        expected = noise[:, 3, 15, channel] / 255
        assert np.array_equal(frame[f"pixel_03_15_{colour}"], expected)
    grey = pixels.fit(noise[..., 0]).transform(noise[..., 0])
    assert np.array_equal(grey["pixel_03_15"], noise[:, 3, 15, 0] / 255)


def test_unreadable_images_are_listed_in_one_error_or_are_nan(noise):
    X = [noise[0], None, noise[1], "none.png"]
    with pytest.raises(ImageReadError) as caught:
        RawPixels().fit(X)
    assert [row for row, *_ in caught.value.failures] == [1, 3]
    with pytest.warns(UserWarning, match=r"(?s)2 image\(s\).*Their features are NaN"):
        rows = RawPixels(on_error="nan").fit_transform(X)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True]
    assert np.array_equal(rows[[0, 2]], noise[:2].reshape(2, -1) / 255)


def test_fit_to_no_readable_image_is_an_error_and_leaves_it_unfitted(noise):
    pixels = RawPixels(on_error="nan").fit(noise)
    with pytest.raises(ImageReadError, match="row 0"):
        pixels.fit(["none.png"])
    assert not [name for name in vars(pixels) if name.endswith("_")]


def test_no_images_give_no_rows_after_fit():
    assert RawPixels().fit(RGB).transform(RGB[:0]).shape == (0, RGB[0].size)
