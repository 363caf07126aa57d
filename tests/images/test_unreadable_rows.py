"""What is no image is an unreadable row, alone and among others; and no rows at all."""

import io
import mmap
from collections import UserList, deque

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer

from sktl import PretrainedFeatureExtractor, check_images
from sktl.exceptions import ImageReadError
from tests.helpers import encode, write
from tests.images.samples import RGB

MISSING = {
    "None": lambda: [None],
    "NaN": lambda: [np.nan],
    "pd.NA": lambda: [pd.NA],
    "pd.NaT": lambda: (pd.NaT,),
    "number": lambda: [5],
    "dict": lambda: [{}],
    "Series of None": lambda: pd.Series([None]),
    "Series of NaN": lambda: pd.Series([np.nan]),
    "Series of NA": lambda: pd.Series([pd.NA], dtype="string"),
    "polars null": lambda: pl.Series([None]),
    "polars null str": lambda: pl.Series([None], dtype=pl.String),
    "object array": lambda: np.array([None], object),
    "float array": lambda: np.array([np.nan]),
    "object column": lambda: np.array([[None]], object),
    "float column": lambda: np.array([[np.nan]]),
}
FRAMES = {
    "frame of None": lambda: pd.DataFrame({"photo": [None]}),
    "frame of NaN": lambda: pd.DataFrame({"photo": [np.nan]}),
    "frame of NA": lambda: pd.DataFrame({"photo": pd.array([pd.NA], "Float64")}),
    "frame of numbers": lambda: pd.DataFrame({"photo": [1.0]}),
    "polars frame": lambda: pl.DataFrame({"photo": [None]}),
}


def extractor(**params):
    return PretrainedFeatureExtractor("sktl_mini", cache=None, **params)


@pytest.mark.parametrize("form", MISSING | FRAMES)
def test_batch_without_any_image_is_unreadable_rows(form, tmp_path):
    X = (MISSING | FRAMES)[form]()
    seen = [str(path) for path in write(tmp_path, RGB)]
    if form in FRAMES:
        seen = type(X)({"photo": seen})
    fitted = extractor(on_error="nan").fit(seen)

    with pytest.warns(UserWarning, match="(?s)1 image.*row 0: .* where a path"):
        features = fitted.transform(X)
    assert features.shape == (1, fitted.n_features_out_)
    assert np.isnan(features).all()
    with pytest.raises(ImageReadError, match="row 0"):
        extractor().fit(seen).transform(X)
    [(row, path, reason)] = check_images(X)
    assert (row, path) == (0, None)
    assert "where a path" in reason


@pytest.mark.parametrize("seen", [RGB, list(RGB), RGB[..., 0]])
def test_batch_without_any_image_after_arrays_is_unreadable_rows(seen):
    fitted = extractor(on_error="nan").fit(seen)
    with pytest.warns(UserWarning, match="2 image"):
        assert np.isnan(fitted.transform([None, 1.0])).all()


def test_row_without_photo_behind_a_column_transformer_is_nan(tmp_path):
    paths = [str(path) for path in write(tmp_path, RGB)]
    table = pd.DataFrame({"photo": paths, "age": range(len(paths))})
    columns = ColumnTransformer(
        [("image", extractor(on_error="nan"), ["photo"])], remainder="passthrough"
    ).fit(table)
    lost = pd.DataFrame({"photo": [None], "age": [7]})

    with pytest.warns(UserWarning, match="row 0: missing value"):
        row = columns.transform(lost)
    assert np.isnan(row[0, :-1]).all()
    assert row[0, -1] == 7


def test_numbers_after_rows_of_numbers_are_refused_in_scikit_learns_words():
    fitted = extractor(on_error="nan").fit(RGB.reshape(len(RGB), -1))
    with pytest.raises(ValueError, match="Reshape your data"):
        fitted.transform(RGB[0].reshape(-1))


# Nothing at all


@pytest.mark.parametrize(
    ("seen", "empty"),
    [
        (list(RGB), []),
        (list(RGB), pd.Series([], dtype=str)),
        (RGB, RGB[:0]),
        (RGB[..., 0], np.zeros((0, 9, 9))),
        (RGB.reshape(5, -1), np.zeros((0, 243), np.uint8)),
        (pd.DataFrame({"f": [encode(RGB[0])]}), pd.DataFrame({"f": []})),
    ],
)
def test_no_rows_give_no_rows_of_the_right_width(seen, empty):
    fitted = extractor().fit(seen)
    features = fitted.transform(empty)

    assert features.shape == (0, fitted.n_features_out_)
    assert features.dtype == np.float32


def test_no_rows_hold_no_unreadable_image():
    assert check_images([]) == []


# Containers, and items that are read


SEQUENCES = {
    "deque": deque,
    "UserList": UserList,
    "tuple": tuple,
    "Index": pd.Index,
    "dict values": lambda items: list(dict(enumerate(items)).values()),
}


@pytest.mark.parametrize("container", SEQUENCES)
def test_any_sequence_is_taken(container, tmp_path):
    paths = [str(path) for path in write(tmp_path, RGB)]

    features = extractor().fit_transform(SEQUENCES[container](paths))

    np.testing.assert_array_equal(features, extractor().fit_transform(paths))


@pytest.mark.parametrize(
    "X", [iter([1]), (x for x in []), {"a.png"}, {"a": "a.png"}, object()]
)
def test_what_is_no_sequence_is_refused_in_words_of_images(X):
    with pytest.raises(TypeError, match=f"X is a {type(X).__name__} .*a list, Series"):
        extractor().fit(X)


class PairsOfImageAndLabel:
    """What torch calls a map-style data set."""

    def __len__(self):
        return len(RGB)

    def __getitem__(self, index):
        return RGB[index], 0


def test_data_set_of_pairs_is_refused_in_words_of_images():
    with pytest.raises(TypeError, match="X is a PairsOfImageAndLabel .*a list, Series"):
        extractor().fit(PairsOfImageAndLabel())


def test_open_files_and_buffers_are_read_as_often_as_asked(tmp_path):
    path = write(tmp_path, RGB[:1])[0]
    data = path.read_bytes()
    expected = extractor().fit_transform([path])
    with open(path, "rb") as file, open(path, "rb") as other:
        mapped = mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ)
        file.seek(3)
        items = [file, mapped, io.BytesIO(data), memoryview(data), bytearray(data)]
        for item in items:
            for _ in range(2):
                features = extractor().fit_transform([item])
                np.testing.assert_array_equal(features, expected)
            with pytest.raises(TypeError, match=r"X is one image.*\[X\]"):
                extractor().fit(item)
        assert file.tell() == 3


def test_files_that_cannot_be_read_name_their_row(tmp_path):
    path = write(tmp_path, RGB[:1])[0]
    with open(path, encoding="latin-1") as text, open(path, "rb") as closed:
        closed.close()
        found = check_images([path, text, closed])

    assert [row for row, _, _ in found] == [1, 2]
    assert "mode 'rb'" in found[0][2]
    assert "closed file" in found[1][2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no\nanswer"), "RuntimeError: no answer"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("no\nanswer"), "no answer"),
        (ValueError(), "ValueError"),
        (OSError(5, "no answer"), "no answer"),
    ],
)
def test_whatever_an_image_raises_is_told_in_one_line(error, reason):
    class Broken(io.RawIOBase):
        def tell(self):
            raise error

    assert check_images([Broken()]) == [(0, None, reason)]
