"""Training sizes: nested subsets, and what is said of each size."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from sktl import compare_transfer
from tests.helpers import splits_of


def test_each_size_has_the_interval_of_its_own_scores(digits):
    """No end is cut off here, so the mean lies in the middle."""
    models = {"one": KNeighborsClassifier(1), "two": DummyClassifier()}
    report = compare_transfer(
        *digits, models, cv=3, train_sizes=[12, 72], random_state=0
    )
    low, mean, high = (
        report.results_[f"{of}_test_score"] for of in ("low", "mean", "high")
    )
    assert mean[1] > mean[0] + 0.1
    assert (high < 1).all()
    np.testing.assert_allclose((low + high) / 2, mean)


def test_scores_on_a_size_are_those_of_fits_on_nested_subsets(digits):
    """The rows each fit got are written down by the contender itself."""
    X, y = digits
    seen = []

    class Witness(LogisticRegression):
        def fit(self, X, y):
            seen.append((X, y))
            return super().fit(X, y)

    sizes = [12, 0.5, 80]
    report = compare_transfer(
        X, y, {"one": Witness(max_iter=500)}, cv=3, train_sizes=sizes, random_state=0
    )
    assert report.results_["train_size"].tolist() == [12, 40, 80]
    assert [len(rows) for rows, _ in seen] == [12] * 3 + [40] * 3 + [80] * 3
    folds = list(StratifiedKFold(3).split(X, y))
    for i, (train, test) in enumerate(folds):
        small, middle, whole = (as_tuples(*seen[i + 3 * size]) for size in range(3))
        assert whole == as_tuples(X[train], y[train]), "in the same order"
        assert set(small) < set(middle) < set(whole)
        model = LogisticRegression(max_iter=500).fit(*seen[3 + i])
        assert splits_of(report, 1)[i] == model.score(X[test], y[test])


def test_largest_size_is_the_comparison_without_sizes(digits):
    X, y = digits
    contender = {"one": ExtraTreesClassifier(3)}
    common = {"cv": 3, "random_state": 0}
    report = compare_transfer(X, y, contender, train_sizes=[0.5, 1.0], **common)
    plain = compare_transfer(X, y, contender, **common)
    assert (splits_of(report, 1) == splits_of(plain)).all()


def as_tuples(X, y):
    return [(*row, label) for row, label in zip(X.tolist(), y.tolist(), strict=True)]


def test_subsets_hold_classes_in_their_shares_from_the_first_row_on():
    """Of every size; the training part is all rows, in two orders."""
    y = np.repeat(["a", "b", "c"], [60, 30, 5])
    everyone, sizes, seen = np.arange(95), list(range(3, 96)), []

    class Witness(DummyClassifier):
        def fit(self, X, y):
            seen.append(y.tolist())
            return super().fit(X, y)

    splits = [(everyone, everyone), (everyone[::-1], everyone)]
    options = {"cv": splits, "train_sizes": sizes, "random_state": 0}
    compare_transfer(np.zeros((95, 1)), y, {"one": Witness()}, **options)
    assert set(seen[0]) == set(seen[1]) == {"a", "b", "c"}
    for size, labels in zip(np.repeat(sizes, 2), seen, strict=True):
        assert len(labels) == size
        for label, share in (("a", 60 / 95), ("b", 30 / 95), ("c", 5 / 95)):
            assert abs(labels.count(label) - size * share) < 2.5


def test_subsets_are_drawn_by_random_state(digits):
    X, y = digits
    contender = {"one": LogisticRegression(max_iter=500)}
    same, again, other = (
        compare_transfer(
            X, y, contender, cv=2, train_sizes=[20, 40], random_state=seed
        ).results_["mean_test_score"]
        for seed in (0, 0, 1)
    )
    assert (same == again).all()
    assert (same != other).any()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            [40, 20],
            r"train_sizes\[1\]=20 is 20 rows, which is not more than the 40 before",
        ),
        (
            [20, 40, 40],
            r"train_sizes\[2\]=40 is 40 rows, which is not more than the 40 before",
        ),
        (
            [0.5, 0.501],
            r"train_sizes\[1\]=0.501 is 40 rows, which is not more than the 40",
        ),
        ([20, 81], r"train_sizes\[1\]=81 is 81 rows. Accepted: 10 .* to 80 rows"),
        ([9], r"train_sizes\[0\]=9 is 9 rows. Accepted: 10 .* to 80 rows"),
        ([0.5, 1.5], r"train_sizes\[1\]=1.5 is not a size. Accepted: 10"),
        ([np.nan], r"train_sizes\[0\]=nan is not a size"),
        (["all"], r"train_sizes\[0\]='all' is not a size"),
        ([True, 20], r"train_sizes\[0\]=True is not a size"),
        ([], r"train_sizes=\[\] must be a list"),
        (20, r"train_sizes=20 must be a list"),
    ],
)
def test_training_size_that_cannot_be_is_named(digits, contenders, sizes, message):
    with pytest.raises(ValueError, match=message):
        compare_transfer(*digits, contenders, cv=3, train_sizes=sizes)


def test_sizes_at_which_a_contender_fails_are_told(digits):
    X, y = digits
    least = {"needs 30": NeedsRows(30), "any": DummyClassifier()}
    least |= {"so does this": NeedsRows(29), "needs 15": NeedsRows(15)}
    least |= {"and this": NeedsRows(30)}
    report = compare_transfer(X, y, least, cv=2, train_sizes=[10, 20, 60])
    assert report.findings_ == [
        "'needs 30', 'so does this' and 'and this' failed with 10, 20 training rows: "
        "split 0: ValueError: 10 rows are not enough (failed on 2 of 2 splits)",
        "'needs 15' failed with 10 training rows: split 0: ValueError: 10 rows are not "
        "enough (failed on 2 of 2 splits)",
    ]


class NeedsRows(DummyClassifier):
    def __init__(self, n_rows):
        super().__init__()
        self.n_rows = n_rows

    def fit(self, X, y):
        if len(X) < self.n_rows:
            raise ValueError(f"{len(X)} rows are not enough")
        return super().fit(X, y)
