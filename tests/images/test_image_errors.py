"""What X is refused in which words, what is unreadable, and that nothing leaks."""

import io
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image, ImageFile
from scipy import sparse

from sktl._images.forms import check_images, open_images
from sktl.exceptions import ImageLayoutError, ImageReadError
from tests.helpers import encode, write
from tests.images.samples import RGB, all_pixels

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
    ],
)
def test_numbers_that_are_no_table_are_an_error(X, message):
    with pytest.raises(ValueError, match=message):
        open_images(X)


def test_numbers_in_a_sparse_matrix_are_an_error():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        open_images(sparse.csr_array(np.eye(4)))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_table_with_a_column_of_paths_names_the_column(frame):
    X = frame({"age": [1, 2], "scan": ["a.png", "b.png"]})
    with pytest.raises(ImageLayoutError, match=r"2 columns.*'scan'.*ColumnTransformer"):
        open_images(X)


# Images that cannot be read


def bad_items(folder):
    """Items that are no readable image, with what their reason must say."""
    whole = encode(RGB[0], "JPEG", quality=95)
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    return [
        (str(folder / "missing.png"), "no such file"),
        ("missing.png", "no such file (seen from "),
        (folder, "is a directory"),
        ("", "empty string"),
        (folder / "text.jpg", "begins with b'not an image'"),
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
        (np.zeros(4), "ndarray (shape (4,))"),
        (np.zeros((2, 3, 3, 3)), "ndarray (shape (2, 3, 3, 3))"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.zeros((3, 3), complex), "Complex"),
        (np.zeros((3, 9, 3), np.uint8), "an array has shape (3, 9, 3)"),
        (np.zeros((0, 3)), "0 sample"),
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
        with pytest.raises(ImageReadError) as error:
            images[row - len(images)].pixels()
        assert error.value.index == row


def test_check_images_lists_all_unreadable_rows(tmp_path):
    """Fault 30."""
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


def test_reason_is_the_same_where_images_must_have_a_shape(tmp_path):
    broken = encode(RGB[0], "PNG")[:-30]

    expected = check_images([broken, tmp_path])

    assert check_images([broken, tmp_path], image_shape=(9, 9)) == expected


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
    data[1000] ^= 255
    known = Image.open(io.BytesIO(data))
    with pytest.raises(OSError, match="broken data stream"):
        known.load()
    known.load()  # what makes the rule necessary
    image = Image.open(io.BytesIO(data))
    images = open_images([image])

    for _ in range(3):
        with pytest.raises(ImageReadError, match="row 0"):
            images[0]
    assert len(check_images([image])) == 1


def test_several_threads_may_load_one_pil_image():
    """PIL's own loading is not safe in threads; X may hold an image several times."""
    array = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    data = encode(array)
    for _ in range(5):
        images = open_images([Image.open(io.BytesIO(data))] * 8)
        together = Barrier(8)

        def read(row, images=images, together=together):
            together.wait()
            return images[row].pixels()

        with ThreadPoolExecutor(8) as threads:
            for pixels in threads.map(read, range(8)):
                np.testing.assert_array_equal(pixels, array)


def test_several_threads_read_the_same_images(tmp_path):
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_is_no_file_and_hangs_nothing(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    (problem,) = check_images([tmp_path / "image.png"])
    assert "is a device, pipe or socket" in str(problem)
