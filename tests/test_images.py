"""Every accepted form of X gives the same pictures; every other one a clear error."""

import io
import pickle
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sktl import _pictures
from sktl._images import Geometry, check_images, fit_to, open_images
from sktl.exceptions import ImageLayoutError, ImageReadError

N, SIDE = 5, 9


def make_rgb():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    rgb[0, 0, 0] = 0, 128, 255
    return rgb


RGB = make_rgb()
GREY = RGB[..., 0]
NCHW = RGB.transpose(0, 3, 1, 2)


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder, arrays, suffix="png", **options):
    """Save pictures and give their paths."""
    paths = [folder / f"{i}.{suffix}" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path, **options)
    return paths


def in_object_array(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def memmap_of(array, folder):
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def all_pixels(X, **options):
    return [picture.pixels() for picture in open_images(X, **options)]


class NotAnArray:
    """What scikit-learn's own checks pass: an object with `__array__` alone."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


# Numbers: each gives RGB from the function of the temporary folder.
NUMBERS = {
    "uint8 nhwc": lambda d: RGB,
    "uint8 nchw": lambda d: NCHW,
    "uint8 rows": lambda d: RGB.reshape(N, -1),
    "read-only": lambda d: read_only(RGB),
    "memmap": lambda d: memmap_of(RGB, d),
    "memmap of floats": lambda d: memmap_of(RGB / 255, d),
    "Fortran order": lambda d: np.asfortranarray(RGB),
    "Fortran order rows": lambda d: np.asfortranarray(RGB.reshape(N, -1)),
    "not contiguous": lambda d: np.repeat(RGB, 2, axis=2)[:, :, ::2],
    "reversed strides": lambda d: RGB[:, ::-1].copy()[:, ::-1],
    "uint16": lambda d: RGB.astype(np.uint16) * 257,
    "uint16 big-endian": lambda d: (RGB.astype(np.uint16) * 257).astype(">u2"),
    "int64": lambda d: RGB.astype(np.int64),
    "int32 rows": lambda d: RGB.reshape(N, -1).astype(np.int32),
    "float64 0-1": lambda d: RGB / 255,
    "float32 0-1": lambda d: (RGB / 255).astype(np.float32),
    "float16 0-1": lambda d: (RGB / 255).astype(np.float16),
    "float32 0-1 nchw": lambda d: (NCHW / 255).astype(np.float32),
    "float64 0-255": lambda d: RGB.astype(float),
    "float64 0-65535": lambda d: RGB * 257.0,
    "object numbers": lambda d: RGB.astype(object),
    "object rows": lambda d: RGB.reshape(N, -1).astype(object),
    "nested lists": lambda d: RGB.tolist(),
    "nested lists of rows": lambda d: RGB.reshape(N, -1).tolist(),
    "list of rows": lambda d: list(RGB.reshape(N, -1)),
    "__array__": lambda d: NotAnArray(RGB.reshape(N, -1)),
    "pandas rows": lambda d: pd.DataFrame(RGB.reshape(N, -1)),
    "pandas float rows": lambda d: pd.DataFrame(RGB.reshape(N, -1) / 255),
    "polars rows": lambda d: pl.DataFrame(RGB.reshape(N, -1)),
    "torch uint8": lambda d: torch.tensor(RGB),
    "torch uint8 nchw": lambda d: torch.tensor(NCHW),
    "torch float nchw": lambda d: torch.tensor(NCHW / 255).float(),
    "torch with gradient": lambda d: torch.tensor(RGB / 255, requires_grad=True),
    "torch bfloat16": lambda d: torch.tensor(RGB).bfloat16(),
    "torch uint16": lambda d: torch.tensor(RGB.astype(np.uint16) * 257),
    "torch rows": lambda d: torch.tensor(RGB).reshape(N, -1),
    "list of arrays": lambda d: list(RGB),
    "tuple of arrays": lambda d: tuple(RGB),
    "list of float arrays": lambda d: list(RGB / 255),
    "list of chw arrays": lambda d: list(NCHW),
    "list of tensors": lambda d: list(torch.tensor(RGB)),
    "list of gradient tensors": lambda d: list(
        torch.tensor(NCHW / 255, requires_grad=True)
    ),
    "list of row tensors": lambda d: list(torch.tensor(RGB).reshape(N, -1)),
    "object array of arrays": lambda d: in_object_array(list(RGB)),
    "Series of arrays": lambda d: pd.Series(list(RGB)),
    "list of PIL": lambda d: [Image.fromarray(a) for a in RGB],
    "object array of PIL": lambda d: in_object_array([Image.fromarray(a) for a in RGB]),
    "Series of PIL": lambda d: pd.Series([Image.fromarray(a) for a in RGB]),
    "polars Series of PIL": lambda d: pl.Series(
        [Image.fromarray(a) for a in RGB], dtype=pl.Object
    ),
    "lazily opened PIL": lambda d: [Image.open(path) for path in write(d, RGB)],
    "mixed numbers": lambda d: [
        RGB[0],
        RGB[1] / 255,
        Image.fromarray(RGB[2]),
        *RGB[3:],
    ],
}

ENCODED = {
    "list of str": lambda d: [str(p) for p in write(d, RGB)],
    "list of Path": lambda d: write(d, RGB),
    "tuple of str": lambda d: tuple(str(p) for p in write(d, RGB)),
    "numpy str": lambda d: np.array([str(p) for p in write(d, RGB)]),
    "numpy object of str": lambda d: in_object_array([str(p) for p in write(d, RGB)]),
    "numpy column of str": lambda d: np.array([[str(p)] for p in write(d, RGB)]),
    "numpy column of Path": lambda d: np.array([[p] for p in write(d, RGB)], object),
    "pandas str": lambda d: pd.Series([str(p) for p in write(d, RGB)]),
    "pandas object": lambda d: pd.Series([str(p) for p in write(d, RGB)], dtype=object),
    "pandas Path": lambda d: pd.Series(write(d, RGB)),
    "pandas other index": lambda d: pd.Series(write(d, RGB), index=range(7, 7 + N)),
    "pandas frame": lambda d: pd.DataFrame({"f": [str(p) for p in write(d, RGB)]}),
    "pandas frame of Path": lambda d: pd.DataFrame({"f": write(d, RGB)}),
    "polars str": lambda d: pl.Series([str(p) for p in write(d, RGB)]),
    "polars frame": lambda d: pl.DataFrame({"f": [str(p) for p in write(d, RGB)]}),
    "bytes": lambda d: [encode(a) for a in RGB],
    "bytearray": lambda d: [bytearray(encode(a)) for a in RGB],
    "pandas bytes": lambda d: pd.Series([encode(a) for a in RGB]),
    "polars bytes": lambda d: pl.Series([encode(a) for a in RGB], dtype=pl.Binary),
    "bmp": lambda d: write(d, RGB, "bmp"),
    "tiff": lambda d: write(d, RGB, "tiff", compression="tiff_lzw"),
    "webp": lambda d: write(d, RGB, "webp", lossless=True),
    "ppm": lambda d: write(d, RGB, "ppm"),
    "path and PIL": lambda d: [*write(d, RGB)[:2], *map(Image.fromarray, RGB[2:])],
}


@pytest.mark.parametrize("form", NUMBERS | ENCODED)
def test_same_pictures_give_same_bits_in_every_form(form, tmp_path):
    """Layout, dtype and container are no part of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = all_pixels((NUMBERS | ENCODED)[form](tmp_path))

    np.testing.assert_array_equal(pixels, RGB)
    assert all(p.dtype == np.uint8 and p.flags.c_contiguous for p in pixels)


@pytest.mark.parametrize("form", NUMBERS)
def test_digest_is_of_the_pixels_where_numbers_came(form, tmp_path):
    """One cache entry for a picture, whatever form its pixels came in."""
    expected = [picture.digest() for picture in open_images(RGB)]

    digests = [picture.digest() for picture in open_images(NUMBERS[form](tmp_path))]

    assert digests == expected
    assert len(set(digests)) == N
    assert all(len(digest) == 32 for digest in digests)


GREY_FORMS = {
    "nhw": lambda: GREY,
    "nhw1": lambda: GREY[..., None],
    "n1hw": lambda: GREY[:, None],
    "rows": lambda: GREY.reshape(N, -1),
    "float rows": lambda: GREY.reshape(N, -1) / 255,
    "list of arrays": lambda: list(GREY),
    "list of hw1 arrays": lambda: list(GREY[..., None]),
    "PIL L": lambda: [Image.fromarray(a) for a in GREY],
    "PNG": lambda: [encode(a) for a in GREY],
    "16-bit PNG": lambda: [encode(a.astype(np.uint16) * 257) for a in GREY],
    "16-bit TIFF": lambda: [encode(a.astype(np.uint16) * 257, "TIFF") for a in GREY],
    "16-bit PIL": lambda: [Image.fromarray(a.astype(np.uint16) * 257) for a in GREY],
}


@pytest.mark.parametrize("form", GREY_FORMS)
def test_grey_is_repeated_in_every_form(form):
    pixels = all_pixels(GREY_FORMS[form]())

    np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=-1))


def test_booleans_are_black_and_white():
    mask = GREY > 100

    pixels = all_pixels(mask)

    np.testing.assert_array_equal(pixels, np.stack([mask * 255] * 3, axis=-1))
    np.testing.assert_array_equal(all_pixels(mask, value_range=(0, 9)), pixels)
    np.testing.assert_array_equal(
        all_pixels([Image.fromarray(m) for m in mask]), pixels
    )


def test_alpha_is_laid_over_white_in_every_form():
    """The exact mean of colour and white, rounded; ties cannot occur with 255."""
    alpha = np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 1), np.uint8)
    alpha[0, 0, :3, 0] = 0, 255, 128
    rgba = np.concatenate([RGB, alpha], axis=-1)
    share = alpha / 255
    expected = np.rint(RGB * share + 255 * (1 - share))

    for X in (
        rgba,
        rgba.transpose(0, 3, 1, 2),
        rgba / 255,
        list(rgba),
        [Image.fromarray(a) for a in rgba],
        [encode(a) for a in rgba],
        [encode(a, "WEBP", lossless=True, exact=True) for a in rgba],
    ):
        np.testing.assert_array_equal(all_pixels(X), expected)

    grey_alpha = rgba[..., [0, 3]]
    expected = np.stack([expected[..., 0]] * 3, axis=-1)
    np.testing.assert_array_equal(all_pixels(grey_alpha, channels="last"), expected)
    np.testing.assert_array_equal(
        all_pixels([Image.fromarray(a) for a in grey_alpha]), expected
    )


def test_pictures_may_differ_in_size(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 40), (40, 3), (17, 23)]
    arrays = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    for X in (arrays, write(tmp_path, arrays), [Image.fromarray(a) for a in arrays]):
        pixels = all_pixels(X, channels="last")
        for got, expected in zip(pixels, arrays, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_pixels_do_not_share_memory_with_the_input():
    """Nobody can change a picture between its digest and its pixels."""
    X = RGB.copy()
    picture = open_images(X)[0]

    X[:] = 0

    np.testing.assert_array_equal(picture.pixels(), RGB[0])


def test_images_are_a_sequence():
    images = open_images(RGB)

    assert len(images) == N
    np.testing.assert_array_equal(images[-1].pixels(), RGB[-1])
    np.testing.assert_array_equal(images[np.int64(2)].pixels(), RGB[2])
    assert len(list(images)) == N
    for outside in (N, -N - 1):
        with pytest.raises(IndexError, match=f"image {outside} of {N}"):
            images[outside]


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (GREY.reshape(N, -1), SIDE * SIDE),
        (pd.DataFrame(GREY.reshape(N, -1)), SIDE * SIDE),
        (pd.DataFrame({"file": ["a.png"]}), 1),
        (np.array([["a.png"]], object), 1),
        (pd.Series(["a.png"]), None),
        (["a.png"], None),
        (RGB, None),
        (list(RGB), None),
    ],
)
def test_n_columns_is_the_width_of_two_dimensional_input(X, expected):
    assert open_images(X).n_columns == expected


def test_paths_are_kept_as_given(tmp_path):
    path = write(tmp_path, RGB[:1])[0]

    assert open_images([path])[0].path == str(path)
    assert open_images([encode(RGB[0])])[0].path is None
    assert open_images(RGB)[0].path is None


def test_encoded_digest_is_of_the_bytes(tmp_path):
    """Name and place of a file are no part of it; its bytes are."""
    path = write(tmp_path, RGB[:1])[0]
    data = path.read_bytes()
    (tmp_path / "other").write_bytes(data)

    digests = [p.digest() for p in open_images([path, tmp_path / "other", data])]

    assert len(set(digests)) == 1
    assert open_images([data + b"\0"])[0].digest() not in digests
    assert open_images(RGB)[0].digest() not in digests


def test_file_is_read_once(tmp_path):
    """What is hashed is what is decoded, also when the file changes in between."""
    first, second = write(tmp_path, RGB[:2])
    picture = open_images([first])[0]
    digest = picture.digest()

    first.write_bytes(second.read_bytes())

    np.testing.assert_array_equal(picture.pixels(), RGB[0])
    assert picture.digest() == digest
    assert open_images([first])[0].digest() != digest


def test_shape_is_part_of_the_digest():
    flat, tall = (
        open_images(GREY[:1].reshape(1, 3, 27)),
        open_images(GREY[:1].reshape(1, 27, 3)),
    )

    assert flat[0].digest() != tall[0].digest()


# Layout


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((2, 8, 8, 3), "auto", (8, 8)),
        ((2, 3, 8, 8), "auto", (8, 8)),
        ((2, 1, 8, 7), "auto", (8, 7)),
        ((2, 4, 8, 7), "auto", (8, 7)),
        ((2, 8, 3, 4), "auto", (8, 3)),
        ((2, 3, 32, 3), "last", (3, 32)),
        ((2, 3, 32, 3), "first", (32, 3)),
        ((2, 2, 8, 7), "first", (8, 7)),
        ((2, 8, 7, 2), "last", (8, 7)),
    ],
)
def test_channels_are_found_where_the_shape_tells(shape, channels, expected):
    pixels = all_pixels(np.zeros(shape, np.uint8), channels=channels)

    assert pixels[0].shape == (*expected, 3)


@pytest.mark.parametrize(
    "shape", [(2, 3, 32, 3), (2, 1, 8, 3), (2, 4, 1, 4), (2, 8, 8, 8), (2, 8, 7, 2)]
)
def test_channels_are_never_guessed(shape):
    with pytest.raises(
        ImageLayoutError, match=r"channels='last'.*channels='first'"
    ) as e:
        open_images(np.zeros(shape, np.uint8))
    assert str(shape) in str(e.value)


def test_channels_told_by_image_shape_are_no_guess():
    X = np.zeros((2, 3, 32, 3), np.uint8)

    assert all_pixels(X, image_shape=(3, 32))[0].shape == (3, 32, 3)
    assert all_pixels(X, image_shape=(32, 3, 3))[0].shape == (32, 3, 3)


def test_channels_given_but_not_there_are_an_error():
    with pytest.raises(ImageLayoutError, match=r"channels='last'.*8 channels"):
        open_images(np.zeros((2, 3, 8, 8), np.uint8), channels="last")


@pytest.mark.parametrize("channels", ["NHWC", None, 3])
def test_channels_unknown_are_an_error(channels):
    with pytest.raises(ValueError, match=r"channels=.* must be 'auto', 'last' or"):
        open_images(RGB, channels=channels)


@pytest.mark.parametrize(
    ("n_columns", "image_shape", "expected"),
    [
        (1, None, (1, 1)),
        (3, None, (1, 1)),
        (64, None, (8, 8)),
        (192, None, (8, 8)),
        (12, (3, 4), (3, 4)),
        (12, (3, -1), (3, 4)),
        (12, (-1, 3), (4, 3)),
        (7, (1, -1), (1, 7)),
        (12, (2, 2, 3), (2, 2)),
        (12, (2, -1, 3), (2, 2)),
        (12, [2, 2, -1], (2, 2)),
        (12, np.array([2, 2, 3]), (2, 2)),
    ],
)
def test_rows_become_pictures_by_image_shape(n_columns, image_shape, expected):
    X = np.arange(2 * n_columns, dtype=np.uint8).reshape(2, -1)
    depth = n_columns // (expected[0] * expected[1])

    pixels = all_pixels(X, image_shape=image_shape)

    by_hand = X.reshape(2, *expected, depth)
    np.testing.assert_array_equal(pixels, np.broadcast_to(by_hand, (2, *expected, 3)))


def test_rows_of_planes_are_read_with_channels_first():
    """CIFAR-10's own files hold red, then green, then blue."""
    rows = NCHW.reshape(N, -1)

    np.testing.assert_array_equal(all_pixels(rows, channels="first"), RGB)


@pytest.mark.parametrize("n_columns", [2, 5, 63, 65, 193])
def test_rows_that_are_no_square_name_image_shape(n_columns):
    with pytest.raises(ImageLayoutError, match=rf"{n_columns} columns.*image_shape="):
        open_images(np.zeros((3, n_columns)))


@pytest.mark.parametrize("image_shape", [(8, 7), (3, -1), (4, 4, 3), (4, 2, -1)])
def test_rows_that_do_not_fit_image_shape_are_an_error(image_shape):
    with pytest.raises(ImageLayoutError, match="64 columns") as error:
        open_images(np.zeros((3, 64)), image_shape=image_shape)
    assert f"image_shape={image_shape}" in str(error.value)


@pytest.mark.parametrize(
    "image_shape",
    [8, (8,), (8, 8, 3, 1), (-1, -1), (0, 8), (8.0, 8), "8x8", (8, 8, 5), (-2, 8)],
)
def test_image_shape_malformed_is_an_error(image_shape):
    with pytest.raises(ImageLayoutError, match=r"image_shape=.* must be \(h, w\)"):
        open_images(np.zeros((3, 64)), image_shape=image_shape)


@pytest.mark.parametrize("image_shape", [(9, 9), (9, -1), (9, 9, 3), (-1, 9, 3)])
def test_image_shape_that_pictures_already_have_is_accepted(image_shape, tmp_path):
    for X in (RGB, NCHW, list(RGB), write(tmp_path, RGB)):
        np.testing.assert_array_equal(all_pixels(X, image_shape=image_shape), RGB)


def test_image_shape_that_contradicts_pictures_is_an_error(tmp_path):
    for X in (RGB, GREY):
        with pytest.raises(ImageLayoutError, match=r"image_shape=\(8, 9\)"):
            open_images(X, image_shape=(8, 9))
    with pytest.raises(ImageLayoutError, match=r"image_shape=\(9, 9, 1\)"):
        open_images(RGB, image_shape=(9, 9, 1))
    for X in (list(RGB), write(tmp_path, RGB), [Image.fromarray(RGB[0])]):
        with pytest.raises(ImageReadError, match=r"row 0.*image_shape=\(8, 9\)"):
            open_images(X, image_shape=(8, 9))[0]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (2, 0, 8), (2, 8, 8, 0)])
def test_shape_without_pictures_is_an_error(shape):
    with pytest.raises(ImageLayoutError, match=r"accepted are \(n, h, w\)") as error:
        open_images(np.zeros(shape, np.uint8))
    assert str(shape) in str(error.value)


# Which numbers are black and white


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], (0, 1)),
        ([0, 1], (0, 1)),
        ([0.2, 0.3], (0, 1)),
        ([0, 16], (0, 16)),
        ([0, 17], (0, 255)),
        ([0.0, 255.0], (0, 255)),
        ([0, 4095], (0, 65535)),
        ([0, 65536], (0, 65536)),
        ([-1.0, 1.0], (-1, 1)),
        ([-3.0, -2.0], (-3, -2)),
    ],
)
def test_range_is_learnt_as_the_smallest_usual_one(values, expected):
    X = np.resize(values, (4, 9))

    for form in (X, X.reshape(4, 3, 3), list(X.reshape(4, 3, 3)), X.tolist()):
        images = open_images(form)
        assert images.value_range == expected
        lo, hi = expected
        by_hand = np.rint((X - lo) / (hi - lo) * 255).reshape(4, 3, 3)
        np.testing.assert_array_equal([p.pixels()[..., 1] for p in images], by_hand)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_range_is_not_learnt_where_the_dtype_decides(dtype):
    assert open_images(np.ones((4, 9), dtype)).value_range is None


def test_range_learnt_of_a_constant_is_no_division_by_zero():
    images = open_images(np.full((4, 9), -3.5))

    with np.errstate(all="raise"):
        pixels = [picture.pixels() for picture in images]

    assert images.value_range == (-3.5, -3.5)
    np.testing.assert_array_equal(pixels, 0)


def test_learnt_range_decides_in_transform_and_clips():
    """A later batch is read by the range of `fit`, however its values lie."""
    learnt = open_images(np.array([[0.0, 16.0, 8.0, 1.0]])).value_range

    images = open_images(
        np.array([[0.5, -2.0, 99.0, 16.0]]), fitted=True, learnt_range=learnt
    )

    assert images.value_range == (0, 16)
    assert images[0].pixels()[..., 0].ravel().tolist() == [8, 0, 255, 255]


def test_dtype_decides_before_a_learnt_range():
    for X in (RGB, RGB.astype(np.uint16) * 257):
        pixels = all_pixels(X, fitted=True, learnt_range=(0, 1))
        np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("X", [RGB / 255, list(RGB / 255), RGB.astype(int)])
def test_numbers_after_fit_on_pictures_ask_for_a_range(X):
    """The batch never decides, so there is nothing to read these numbers by."""
    with pytest.raises(ValueError, match=r"fit saw none.*value_range=\(lo, hi\)"):
        open_images(X, fitted=True, learnt_range=None)
    assert all_pixels(X, value_range=(0, 255), fitted=True)
    assert all_pixels(RGB, fitted=True, learnt_range=None)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.int64, np.float32, np.float64]
)
def test_range_given_holds_for_every_numeric_dtype(dtype):
    X = np.array([[0, 8, 16, 99]]).astype(dtype)

    for form in (X, list(X.reshape(1, 2, 2))):
        images = open_images(form, value_range=(0, 16))
        assert images.value_range == (0, 16)
        assert images[0].pixels()[..., 0].ravel().tolist() == [0, 128, 255, 255]


def test_range_given_does_not_touch_8_bit_pictures(tmp_path):
    for X in (write(tmp_path, RGB), [Image.fromarray(a) for a in RGB]):
        np.testing.assert_array_equal(all_pixels(X, value_range=(0, 1)), RGB)


def test_range_given_reads_float_and_12_bit_files():
    """Such files do not say what white is; then their digest tells ranges apart."""
    grey12 = GREY[0].astype(np.uint16) * 16
    for data in (
        encode(GREY[0].astype(np.float32) * 16, "TIFF"),
        encode(grey12, "TIFF"),
        encode(grey12),
        encode(GREY[0].astype(np.int32) * 16, "TIFF"),
    ):
        picture = open_images([data], value_range=(0, 4080))[0]
        np.testing.assert_array_equal(picture.pixels()[..., 2], GREY[0])
        other = open_images([data], value_range=(0, 4095))[0]
        assert other.digest() != picture.digest()


@pytest.mark.parametrize(
    "value_range",
    ["minmax", (1, 0), (0, 0), (0, np.inf), (np.nan, 1), (0,), (0, 1, 2), 255, None],
)
def test_range_malformed_is_an_error(value_range):
    with pytest.raises(
        ValueError, match=r"value_range=.* must be 'auto' or two finite"
    ):
        open_images(RGB, value_range=value_range)


def test_range_too_wide_for_float64_is_an_error():
    with pytest.raises(ValueError, match=r"too far apart.*value_range="):
        open_images(np.array([[-1.7e308, 1.7e308, 0, 0]]))


# What scikit-learn refuses, in its words


@pytest.mark.parametrize("shape", [(4, 9), (4, 3, 3), (4, 3, 3, 3)])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_numbers_not_finite_are_an_error(shape, fitted, bad, word):
    X = np.zeros(shape)
    X.flat[5] = bad
    with pytest.raises(ValueError, match=word):
        open_images(X, fitted=fitted, learnt_range=(0, 1) if fitted else None)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(9), "Reshape your data"),
        ([1, 2, 3], "Reshape your data"),
        (pd.Series([1.0, 2.0]), "2-dimensional container"),
        (np.zeros((0, 9)), "0 sample"),
        (np.zeros((0, 9, 9), np.uint8), "0 sample"),
        ([], "0 sample"),
        (pd.Series([], dtype=str), "0 sample"),
        (pd.DataFrame({"file": pd.Series([], dtype=str)}), "0 sample"),
        (np.zeros((5, 0)), "0 feature"),
        (np.zeros((4, 4), complex), "Complex data not supported"),
        (np.zeros((4, 4, 4), complex), "Complex data not supported"),
        (np.zeros((4, 4), "datetime64[s]"), "real numbers"),
        (None, "Reshape your data"),
    ],
)
def test_numbers_that_are_no_table_are_an_error(X, message):
    with pytest.raises(ValueError, match=message):
        open_images(X)


def test_numbers_in_a_sparse_matrix_are_an_error():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        open_images(sparse.csr_array(np.eye(4)))


@pytest.mark.parametrize("X", ["a.png", Path("a.png"), b"png", Image.new("L", (3, 3))])
def test_single_picture_is_an_error_that_shows_the_list(X):
    with pytest.raises(TypeError, match=r"X is one picture.*\[X\]"):
        open_images(X)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_table_with_a_column_of_paths_names_the_column(frame):
    X = frame({"age": [1, 2], "scan": ["a.png", "b.png"]})
    with pytest.raises(ImageLayoutError, match=r"2 columns.*'scan'.*ColumnTransformer"):
        open_images(X)


class MeanColour(TransformerMixin, BaseEstimator):
    """The smallest estimator that opens images as sktl's own do."""

    def fit(self, X, y=None):
        images = open_images(X, image_shape=(1, -1))
        self.value_range_ = images.value_range
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X):
        check_is_fitted(self)
        images = open_images(
            X, image_shape=(1, -1), fitted=True, learnt_range=self.value_range_
        )
        validate_data(self, X, reset=False, skip_check_array=True)
        return np.array([picture.pixels().mean(axis=(0, 1)) for picture in images])


def test_estimator_on_open_images_passes_all_checks_of_scikit_learn():
    results = check_estimator(MeanColour(), on_fail=None, on_skip=None)

    assert Counter(result["status"] for result in results) == {"passed": 47}


# Pictures that cannot be read


def bad_items(folder):
    """Items that are no readable picture, with what their reason must say."""
    whole = encode(RGB[0], "JPEG", quality=95)
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    return [
        (str(folder / "missing.png"), "no such file"),
        ("missing.png", "no such file (seen from "),
        (folder, "is a directory"),
        ("", "empty string"),
        (folder / "text.jpg", "begins with b'not a picture'"),
        (folder / "empty.png", "0 bytes"),
        ("nul\0.png", "null"),
        (b"", "0 bytes"),
        (whole[: len(whole) // 2], "runcated"),
        (None, "missing value (None)"),
        (np.nan, "missing value (nan)"),
        (pd.NA, "missing value"),
        (pd.NaT, "missing value"),
        (5, "int (5)"),
        ({"a": 1}, "dict"),
        ([1, 2], "list"),
        (np.zeros(4), "ndarray"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.zeros((3, 3), complex), "Complex"),
        (np.zeros((3, 9, 3), np.uint8), "channels="),
        (np.zeros((0, 3), np.uint8), "0 sample"),
    ]


def test_unreadable_items_name_row_path_and_reason(tmp_path):
    good = write(tmp_path, RGB[:1])[0]
    bad, reasons = zip(*bad_items(tmp_path), strict=True)
    images = open_images([good, *bad, good])

    np.testing.assert_array_equal(images[0].pixels(), RGB[0])
    np.testing.assert_array_equal(images[-1].pixels(), RGB[0])
    for row, (item, reason) in enumerate(zip(bad, reasons, strict=True), start=1):
        with pytest.raises(ImageReadError) as error:
            images[row].pixels()
        assert error.value.index == row
        assert reason in error.value.reason, item
        path = str(item) if isinstance(item, (str, Path)) else None
        assert error.value.path == path
        assert isinstance(error.value.__cause__, Exception)


def test_check_images_lists_all_unreadable_rows(tmp_path):
    good = write(tmp_path, RGB[:1])[0]
    bad, reasons = zip(*bad_items(tmp_path), strict=True)
    X = [good, *bad, good]

    found = check_images(X)

    assert [row for row, _, _ in found] == list(range(1, 1 + len(bad)))
    assert all(r in reason for r, (_, _, reason) in zip(reasons, found, strict=True))
    assert check_images(X, n_jobs=3) == found
    assert check_images(RGB) == []
    assert check_images([good] * 3, n_jobs=2) == []


def test_missing_cells_of_series_and_frames_are_their_rows(tmp_path):
    path = str(write(tmp_path, RGB[:1])[0])
    for X in (
        pd.Series([path, None]),
        pd.Series([path, np.nan], dtype=object),
        pd.DataFrame({"file": [path, None]}),
        pl.Series([path, None]),
        pl.DataFrame({"file": [path, None]}),
    ):
        [(row, _, reason)] = check_images(X)
        assert row == 1
        assert "missing value" in reason


def test_unreadable_error_survives_pickling():
    with pytest.raises(ImageReadError) as error:
        open_images(["nowhere.png"])[0]

    copy = pickle.loads(pickle.dumps(error.value))

    assert copy.failures == error.value.failures


def test_float_items_that_are_not_finite_do_not_spoil_the_learnt_range():
    images = open_images([np.full((3, 3), np.inf), np.full((3, 3), 0.5)])

    assert images.value_range == (0, 1)
    assert images[1].pixels().max() == 128


def test_broken_pil_image_is_refused_again_and_again():
    """PIL itself takes a failed load for a finished one when it is asked again."""
    data = bytearray(encode(np.random.default_rng(0).integers(0, 255, (64, 64), "u1")))
    del data[-40:]
    image = Image.open(io.BytesIO(data))
    images = open_images([image])

    for _ in range(3):
        with pytest.raises(ImageReadError, match="row 0"):
            images[0]
    assert len(check_images([image])) == 1


def test_several_threads_read_the_same_pictures(tmp_path):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    lazy = [Image.open(path) for path in write(tmp_path, arrays)]
    for X in (arrays, arrays / 255, [encode(a) for a in arrays], lazy * 4):
        images = open_images(X)
        rows = list(range(len(images))) * 4
        with ThreadPoolExecutor(8) as threads:
            pixels = list(threads.map(lambda i, m=images: m[i].pixels(), rows))
        for row, got in zip(rows, pixels, strict=True):
            np.testing.assert_array_equal(got, arrays[row % 8])


def test_user_images_and_arrays_stay_as_they_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(RGB[0, :4], "JPEG", exif=exif.tobytes())))
    palette = Image.fromarray(RGB[1]).quantize(16)
    before = [
        (i.size, i.mode, i.copy().tobytes(), dict(i.info)) for i in (image, palette)
    ]

    all_pixels([image, palette])

    after = [(i.size, i.mode, i.tobytes(), dict(i.info)) for i in (image, palette)]
    assert after == before
    assert image.getexif()[0x0112] == 6


def pil_globals():
    modules = (Image, ImageFile)
    return [
        {k: v for k, v in vars(m).items() if k.isupper() and not isinstance(v, dict)}
        for m in modules
    ]


def test_nothing_global_changes(tmp_path):
    Image.init()  # PIL's own plugins, which PIL registers when it needs them
    before = repr(pil_globals()), list(warnings.filters)

    for X in (RGB, write(tmp_path, RGB), [b"broken"], [encode(RGB[0])[:50]], RGB / 255):
        check_images(X)
    for X in (np.zeros((2, 3, 8, 3)), np.full((3, 3, 3), np.nan), "one.png"):
        with pytest.raises((ValueError, TypeError)):
            check_images(X)

    assert (repr(pil_globals()), list(warnings.filters)) == before


# Pixels to a network's square


def by_torchvision(pixels, geometry):
    image = Image.fromarray(pixels)
    mode = InterpolationMode(geometry.interpolation)
    resized = tv.resize(image, geometry.resize, mode)
    return np.asarray(tv.center_crop(resized, geometry.crop))


SIZES = [(64, 64), (37, 91), (91, 37), (20, 20), (7, 200), (200, 7), (1, 1), (256, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resize", "crop"), [(32, 28), (64, 64), (20, 33), (35, 20)])
def test_fit_to_equals_torchvision(size, interpolation, resize, crop):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    geometry = Geometry(resize, crop, interpolation)

    fitted = fit_to(pixels, geometry)

    assert fitted.shape == (crop, crop, 3)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    np.testing.assert_array_equal(fitted, by_torchvision(pixels, geometry))


@settings(max_examples=150, deadline=None)
@given(*[st.integers(1, 70)] * 4)
def test_fit_to_equals_torchvision_for_any_size(height, width, resize, crop):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    geometry = Geometry(resize, crop)

    np.testing.assert_array_equal(
        fit_to(pixels, geometry), by_torchvision(pixels, geometry)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_fit_to_stretches_as_pil_resizes(size, interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize((24, 24), method))

    fitted = fit_to(pixels, Geometry(99, 24, interpolation, stretch=True))

    np.testing.assert_array_equal(fitted, expected)


def test_fit_to_returns_what_already_fits_unchanged():
    pixels = RGB[0]

    assert fit_to(pixels, Geometry(SIDE, SIDE)) is pixels
    assert fit_to(pixels, Geometry(1, SIDE, stretch=True)) is pixels


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (1, 90), (90, 1)])
@pytest.mark.parametrize("crop", [20, 32, 50])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fit_to_of_extreme_shapes_equals_torchvision_closely(
    size, crop, interpolation, monkeypatch
):
    """Of a smooth picture: PIL may round its two passes in the other order."""
    height, width = np.indices(size)
    waves = [np.sin(width / 5), np.cos(height / 5), np.sin((width + height) / 9)]
    pixels = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    geometry = Geometry(32, crop, interpolation)
    monkeypatch.setattr(_pictures, "MAX_RESIZED_PIXELS", 64)

    difference = fit_to(pixels, geometry).astype(int) - by_torchvision(pixels, geometry)

    assert np.abs(difference).max() <= 2


def test_fit_to_of_extreme_shapes_never_makes_a_giant(monkeypatch):
    """A whole 1 x 3000 would become 256 x 768000: 786 MB in PIL."""
    largest = []
    resize = Image.Image.resize

    def record(image, size, *args, **kwargs):
        largest.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)
    row = np.random.default_rng(0).integers(0, 256, (1, 3000, 3), np.uint8)

    fitted = fit_to(row, Geometry(256, 224))
    turned = fit_to(row.swapaxes(0, 1), Geometry(256, 224))

    assert fitted.shape == (224, 224, 3)
    np.testing.assert_array_equal(turned, fitted.swapaxes(0, 1))
    assert max(largest) == 256 * 224


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 0, "crop": 8}, "resize=0"),
        ({"resize": 8, "crop": -1}, "crop=-1"),
        ({"resize": 8, "crop": 8, "interpolation": "cubic"}, "interpolation='cubic'"),
    ],
)
def test_geometry_malformed_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Geometry(**arguments)
