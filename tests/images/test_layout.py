"""How numbers form images, and which of them are black and white."""

import numpy as np
import pytest
from PIL import Image

from sktl._images.forms import open_images
from sktl.exceptions import ImageLayoutError, ImageReadError
from tests.helpers import encode, write
from tests.images.samples import GREY, NCHW, RGB, N, all_pixels

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
def test_rows_become_images_by_image_shape(n_columns, image_shape, expected):
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
def test_image_shape_that_images_already_have_is_accepted(image_shape, tmp_path):
    for X in (RGB, NCHW, list(RGB), write(tmp_path, RGB)):
        np.testing.assert_array_equal(all_pixels(X, image_shape=image_shape), RGB)


def test_image_shape_that_contradicts_images_is_an_error(tmp_path):
    for X in (RGB, GREY):
        with pytest.raises(ImageLayoutError, match=r"image_shape=\(8, 9\)"):
            open_images(X, image_shape=(8, 9))
    with pytest.raises(ImageLayoutError, match=r"image_shape=\(9, 9, 1\)"):
        open_images(RGB, image_shape=(9, 9, 1))
    for X in (list(RGB), write(tmp_path, RGB), [Image.fromarray(RGB[0])]):
        with pytest.raises(ImageReadError, match=r"row 0.*image_shape=\(8, 9\)"):
            open_images(X, image_shape=(8, 9))[0]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (2, 0, 8), (2, 8, 8, 0)])
def test_shape_without_images_is_an_error(shape):
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
        ([0, 170], (0, 255)),
        ([0.0, 255.0], (0, 255)),
        ([0, 40950], (0, 65535)),
        ([0, 70000], (0, 70000)),
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
        pixels = [image.pixels() for image in images]

    assert images.value_range == (-3.5, -3.5)
    np.testing.assert_array_equal(pixels, 0)


@pytest.mark.parametrize("X", [RGB / 255, list(RGB / 255), RGB.astype(int)])
def test_numbers_after_fit_on_images_ask_for_a_range(X):
    """The batch never decides, so there is nothing to read these numbers by."""
    with pytest.raises(ValueError, match=r"fit saw no such.*value_range=\(lo, hi\)"):
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


def test_range_given_does_not_touch_8_bit_images(tmp_path):
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
        image = open_images([data], value_range=(0, 4080))[0]
        np.testing.assert_array_equal(image.pixels()[..., 2], GREY[0])
        other = open_images([data], value_range=(0, 4095))[0]
        assert other.digest() != image.digest()


@pytest.mark.parametrize(
    "value_range",
    [
        *("minmax", (1, 0), (0, 0), (0, np.inf), (np.nan, 1), (-1.7e308, 1.7e308)),
        *((0,), (0, 1, 2), 255, None),
    ],
)
def test_range_malformed_is_an_error(value_range):
    with pytest.raises(
        ValueError, match=r"value_range=.* must be 'auto' or two finite"
    ):
        open_images(RGB, value_range=value_range)


def test_range_too_wide_for_float64_is_an_error():
    with pytest.raises(ValueError, match=r"too far apart.*value_range="):
        open_images(np.array([[-1.7e308, 1.7e308, 0, 0]]))
