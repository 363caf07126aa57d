"""Every accepted form of X gives the same images."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image

from sktl._images.forms import open_images
from sktl.exceptions import ImageLayoutError
from tests.helpers import encode, write
from tests.images.samples import GREY, NCHW, RGB, SIDE, N, all_pixels


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
def test_same_images_give_same_bits_in_every_form(form, tmp_path):
    """Layout, dtype and container are no part of an image.

    Nor of its digest, where it came as numbers: it has one cache entry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = list(open_images((NUMBERS | ENCODED)[form](tmp_path)))
        pixels = [image.pixels() for image in images]

    np.testing.assert_array_equal(pixels, RGB)
    assert all(p.dtype == np.uint8 and p.flags.c_contiguous for p in pixels)
    digests = [image.digest() for image in images]
    assert {len(digest) for digest in digests} == {32}
    assert len(set(digests)) == N
    if form in NUMBERS:
        assert digests == [image.digest() for image in open_images(RGB)]


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


def test_images_may_differ_in_size(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 40), (40, 3), (17, 23)]
    arrays = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    for X in (arrays, write(tmp_path, arrays), [Image.fromarray(a) for a in arrays]):
        pixels = all_pixels(X, channels="last")
        for got, expected in zip(pixels, arrays, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_pixels_do_not_share_memory_with_the_input():
    """Nobody can change an image between its digest and its pixels."""
    X = RGB.copy()
    image = open_images(X)[0]

    X[:] = 0

    np.testing.assert_array_equal(image.pixels(), RGB[0])


def test_images_are_a_sequence():
    images = open_images(RGB)

    assert len(images) == N
    np.testing.assert_array_equal(images[-1].pixels(), RGB[-1])
    np.testing.assert_array_equal(images[np.int64(2)].pixels(), RGB[2])
    assert len(list(images)) == N
    for outside in (N, -N - 1):
        with pytest.raises(IndexError, match="out of range"):
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
    """What is hashed is what is decoded, also when the file changes in between.

    Fault 14.
    """
    first, second = write(tmp_path, RGB[:2])
    image = open_images([first])[0]
    digest = image.digest()

    first.write_bytes(second.read_bytes())

    np.testing.assert_array_equal(image.pixels(), RGB[0])
    assert image.digest() == digest
    assert open_images([first])[0].digest() != digest


def test_shape_is_part_of_the_digest():
    flat, tall = (
        open_images([GREY[0].reshape(3, 27)]),
        open_images([GREY[0].reshape(27, 3)]),
    )

    assert flat[0].digest() != tall[0].digest()


def test_encoded_bytes_and_pixels_never_share_a_digest():
    """Also where a file's bytes are those that are hashed of an array."""
    data = np.array([SIDE, SIDE], "<i8").tobytes() + RGB[0].tobytes()

    assert open_images([data])[0].digest() != open_images(RGB)[0].digest()


def objects(rows):
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    return column


@pytest.mark.parametrize(
    "column",
    [
        pd.Series,
        lambda rows: pd.DataFrame({"pixels": rows}),
        lambda rows: pd.Series([row.tolist() for row in rows]),
        objects,
        lambda rows: pl.DataFrame({"pixels": [row.tolist() for row in rows]}),
    ],
)
def test_rows_of_numbers_in_cells_are_images(column):
    rows = list(GREY.reshape(len(GREY), -1))
    expected = all_pixels(rows)
    for image, other in zip(all_pixels(column(rows)), expected, strict=True):
        assert np.array_equal(image, other)


def test_row_that_is_missing_among_rows_of_numbers_is_named():
    rows = objects([*GREY.reshape(len(GREY), -1), None])
    with pytest.raises(ImageLayoutError, match=f"None in row {len(GREY)}. Leave such"):
        open_images(rows)
