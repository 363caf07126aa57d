"""What `y` may be, and what is said of all else; by the faces that fit it."""

import numpy as np
import pandas as pd
import pytest

from sktl import FineTunedCNNClassifier, FineTunedCNNRegressor

X = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
LABELS = ["a", "b"] * 6
NO_TAG = "y holds <NA> in row 2, column 0. Indicators are 0 or 1"


def objects(*values):
    return pd.Series(list(values) * 6, dtype=object)


def probe(kind, **params):
    return kind(strategy="linear_probe", random_state=0, **params)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            objects("a", pd.NA),
            r"no label \(None or NaN\) in 6 row\(s\), first in row 1",
        ),
        (objects("a", None), "no label .* first in row 1"),
        (pd.Series(["a", pd.NA] * 6, dtype="string"), "no label .* first in row 1"),
        (pd.Series([1, pd.NA] * 6, dtype="Int64"), "no label .* first in row 1"),
        (objects("a", pd.NaT), "no label .* first in row 1"),
        (objects("a", 1), "y mixes labels of the types int, str"),
        (objects(1, "a"), "y mixes labels of the types int, str"),
        (["a", 1] * 6, "y mixes labels of the types int, str"),
        (["a", b"a"] * 6, "y mixes labels of the types bytes, str"),
        (["a", np.nan] * 6, "no label .* first in row 1"),
        ([{"a": 1}, {"b": 2}] * 6, "{'a': 1} in row 0, a dict, which is not a label"),
        ([0.0, np.inf] * 6, "y holds infinity in row 1"),
        (np.linspace(0, 1, 12), "Unknown label type: continuous. Maybe you are trying"),
        ([["a"], ["a", "b"]] * 6, "list of labels in row 1.*MultiLabelBinarizer"),
        ([{"a"}, {"a", "b"}] * 6, "set of labels in row 0.*MultiLabelBinarizer"),
        ([{"a"}, {"b"}] * 6, "set of labels in row 0.*MultiLabelBinarizer"),
        (pd.DataFrame({"a": [1, 0, pd.NA] * 4, "b": [0, 1, 1] * 4}), NO_TAG),
        (pd.DataFrame({"a": [1, 0, pd.NA] * 4, "b": 1}, dtype="boolean"), NO_TAG),
        ([["a", "b"]] * 12, "y holds 'a' in row 0, column 0.*MultiLabelBinarizer"),
    ],
)
def test_what_is_no_label_is_named(y, message):
    with pytest.raises(ValueError, match=message):
        probe(FineTunedCNNClassifier).fit(X, y)


def test_numbers_taken_for_labels_warn_at_the_line_of_the_user():
    X = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    prices = np.r_[1, 1, np.arange(22)] * 1000
    said = "22 different numbers in 24 rows.*FineTunedCNNRegressor.*target='numbers'"
    with pytest.warns(UserWarning, match=said) as caught:
        probe(FineTunedCNNClassifier, backbone="sktl_mini").fit(X, prices)
    assert [w.filename for w in caught] == [__file__]


def test_many_names_or_announced_classes_are_not_taken_for_numbers(recwarn):
    X = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    clf = probe(FineTunedCNNClassifier, backbone="sktl_mini")
    clf.fit(X, [f"class {i}" for i in range(24)])
    few, all_of_them = np.arange(24) % 3, np.arange(24)
    clf = FineTunedCNNClassifier("sktl_mini", strategy="full", max_epochs=1)
    clf.partial_fit(X, few, classes=all_of_them)
    clf.partial_fit(X, all_of_them)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (objects(True, False), [False, True]),
        (objects(3, 7), [3, 7]),
        (LABELS, ["a", "b"]),
        ([[label] for label in "ab" * 6], ["a", "b"]),
        (pd.Series(LABELS, dtype="category"), ["a", "b"]),
        (pd.Series(LABELS, dtype="string"), ["a", "b"]),
        (pd.Series([True, False] * 6, dtype="boolean"), [False, True]),
    ],
)
def test_labels_of_any_column_come_back(y, classes):
    clf = probe(FineTunedCNNClassifier).fit(X, y)
    assert clf.classes_.tolist() == classes
    assert set(clf.predict(X)) <= set(classes)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (objects(1.5, pd.NA), "y holds NaN or infinity in 6 row.*first in row 1"),
        (pd.Series([1.5, pd.NA] * 6, dtype="Float64"), "NaN or infinity .* row 1"),
        ([1.5, None] * 6, "NaN or infinity .* first in row 1"),
        ([[1.5, 0.5], [1.5, np.inf]] * 6, "NaN or infinity in 6 row.* first in row 1"),
        (None, "Pass one number per image"),
        (
            objects(1.5, "a"),
            "'a' in row 1, which is not a number.*FineTunedCNNClassifier",
        ),
        (pd.Series(LABELS, dtype="string"), "'a' in row 0, which is not a number"),
        ([[1.5, "a"]] * 12, "'a' in row 0, which is not a number"),
        ([{1.5}] * 12, r"{1\.5} in row 0, which is not a number"),
        ([[1.5], [1.5, 2.5]] * 6, "rows of different lengths"),
        (pd.date_range("2020", periods=12), "y holds times .*such as days"),
        ([1e308, -1e308] * 6, r"up to 1e\+308, whose variance is beyond float64"),
        ([1e200, 3e200] * 6, r"up to 3e\+200, whose variance is beyond float64"),
        (np.zeros((12, 2, 2)), "Found array with dim 3"),
    ],
)
def test_what_is_no_number_is_named(y, message):
    with pytest.raises(ValueError, match=message):
        probe(FineTunedCNNRegressor).fit(X, y)


@pytest.mark.parametrize(
    ("kind", "y", "monitor", "other"),
    [
        (FineTunedCNNClassifier, LABELS, "r2", "accuracy"),
        (FineTunedCNNRegressor, np.arange(12) / 8, "accuracy", "r2"),
    ],
)
def test_monitor_that_does_not_suit_y_is_refused(kind, y, monitor, other):
    stop = {"early_stopping": True, "monitor": monitor}
    with pytest.raises(ValueError, match=f"monitor='{monitor}' does not suit.*{other}"):
        kind(max_epochs=1, **stop).fit(X, y)
