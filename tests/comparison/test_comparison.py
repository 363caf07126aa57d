"""`compare_transfer`: plain scikit-learn gives the same numbers, one by one."""

import itertools
import os
import re
from collections import Counter
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import AdaBoostClassifier, ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, get_scorer, make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC
from skorch.callbacks import Callback, EpochScoring

import sktl
from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    RawPixels,
    compare_transfer,
    probe_layers,
    rank_backbones,
)
from sktl._comparison.evidence import Evidence
from sktl._comparison.findings import Findings
from sktl._comparison.score_curve import ScoreCurve
from sktl._features.engine import Engine
from sktl._training.scoring import NetInTraining
from sktl.exceptions import ImageSizeWarning
from tests.helpers import encode, first_and_slow


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:120], y[:120]


@pytest.fixture(scope="module")
def contenders():
    return {
        "pixels": LogisticRegression(max_iter=500),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), LogisticRegression(max_iter=500)
        ),
    }


@pytest.fixture(scope="module")
def report(digits, contenders):
    return compare_transfer(*digits, contenders, cv=3, random_state=0)


def scores_of(report):
    """{contender: mean score at its last, largest size}."""
    results = report.results_
    return dict(zip(results["contender"], results["mean_test_score"], strict=True))


def splits_of(report, row=0):
    """Scores of one row, by split."""
    columns = [f"split{i}_test_score" for i in range(report.n_splits_)]
    return np.array([report.results_[column][row] for column in columns])


def test_scores_are_those_of_cross_val_score(digits, contenders, report):
    for i, (name, contender) in enumerate(contenders.items()):
        scores = cross_val_score(contender, *digits, cv=3)
        row = [report.results_[f"split{fold}_test_score"][i] for fold in range(3)]
        assert report.results_["contender"][i] == name
        assert row == scores.tolist()
        assert report.results_["mean_test_score"][i] == pytest.approx(scores.mean())
        error = scores.std(ddof=1) / np.sqrt(3)
        assert report.results_["se_test_score"][i] == pytest.approx(error)


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: y.astype(str)])
def test_predictions_are_those_of_cross_val_predict(digits, contenders, labels):
    X, y = digits[0], labels(digits[1])
    contenders = contenders | {"without": LinearSVC()}
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    report = compare_transfer(X, y, contenders, cv=folds)
    assert report.classes_.tolist() == sorted(set(y))
    for name, contender in contenders.items():
        found = report.predictions_[name]
        assert found["row"].tolist() == list(range(len(y)))
        expected = cross_val_predict(contender, X, y, cv=folds)
        assert found["predict"].tolist() == expected.tolist()
        for split, (_, test) in enumerate(folds.split(X, y)):
            assert set(found["split"][test]) == {split}
    assert "predict_proba" not in report.predictions_["without"]
    expected = cross_val_predict(
        contenders["pixels"], X, y, cv=folds, method="predict_proba"
    )
    found = report.predictions_["pixels"]["predict_proba"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_predictions_of_splits_that_overlap_lack_and_repeat_rows(digits):
    """Class 2 is not in the first training part, which has no probability for it."""
    X, y = digits[0][:60], digits[1][:60] % 3
    known = np.flatnonzero(y[:40] < 2)
    splits = [(known, np.arange(40, 50)), (np.arange(40), np.arange(45, 55))]
    contender = LogisticRegression(max_iter=500)
    report = compare_transfer(X, y, {"one": contender}, cv=splits)
    found = report.predictions_["one"]
    rows = [*range(40, 45), *np.repeat(range(45, 50), 2), *range(50, 55)]
    assert found["row"].tolist() == rows
    for i, (train, test) in enumerate(splits):
        of_split = found["split"] == i
        model = clone(contender).fit(X[train], y[train])
        assert found["row"][of_split].tolist() == test.tolist()
        shown = found["predict_proba"][of_split]
        assert (shown[:, : 2 + i] == model.predict_proba(X[test])).all()
    assert (found["predict_proba"][found["split"] == 0, 2] == 0).all()


def test_several_scores_are_columns_beside_the_first(digits, contenders):
    """One that a contender has not costs it nothing else."""
    X, y = digits
    contenders = {"svm": LinearSVC(), "pixels": contenders["pixels"]}
    scoring = ["accuracy", "neg_log_loss", "neg_expected_calibration_error"]
    report = compare_transfer(X, y, contenders, cv=3, scoring=scoring)
    alone = compare_transfer(X, y, contenders, cv=3)
    assert report.scoring_ == "accuracy"
    assert (splits_of(report, 1) == splits_of(alone, 1)).all()
    assert report.n_splits_ == 3
    assert alone.findings_ == []
    for finding, score in zip(report.findings_, scoring[1:], strict=True):
        assert f"{score!r} could not be computed for 'svm': Attr" in finding
    losses = cross_val_score(contenders["pixels"], X, y, cv=3, scoring="neg_log_loss")
    none, mean = report.results_["mean_test_neg_log_loss"]
    assert np.isnan(none)
    assert mean == pytest.approx(losses.mean())
    _, error = report.results_["se_test_neg_log_loss"]
    assert error == pytest.approx(losses.std(ddof=1) / 3**0.5)
    title, svm, pixels = map(str.split, str(report).splitlines()[:3])
    assert set(scoring) < set(title)
    assert svm.count("-") == 2
    assert f"{mean:.3f}" in pixels


def test_splits_may_be_masks(digits):
    X, y = digits
    models = {"one": KNeighborsClassifier(3), "two": KNeighborsClassifier(1)}
    splits = list(StratifiedKFold(4).split(X, y))
    masks = [[np.isin(np.arange(len(y)), part) for part in split] for split in splits]
    rows, masked = (compare_transfer(X, y, models, cv=cv) for cv in (splits, masks))
    for name in ("train_size", "test_size", "low_test_score", "high_test_score"):
        assert masked.results_[name].tolist() == rows.results_[name].tolist()
    assert masked.gain("one", over="two") == rows.gain("one", over="two")
    assert np.array_equal(
        masked.predictions_["one"]["row"], rows.predictions_["one"]["row"]
    )


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


def test_calibration_error_is_that_of_labels_with_names_and_of_sure_predictions(digits):
    """Many are exactly 1, and belong to the last of the 15 bins."""
    X, y = digits[0], np.where(digits[1] > 4, "high", "low")
    model = GaussianNB()
    report = compare_transfer(
        X, y, {"one": model}, cv=3, scoring="neg_expected_calibration_error"
    )
    for score, (train, test) in zip(
        splits_of(report), StratifiedKFold(3).split(X, y), strict=True
    ):
        model.fit(X[train], y[train])
        sure = model.predict_proba(X[test]).max(axis=1)
        right = model.predict(X[test]) == y[test]
        assert 0 < (sure == 1).sum() < (sure > 14 / 15).sum()
        error = 0
        for low, high in itertools.pairwise([*np.linspace(0, 1, 16)[:-1], np.inf]):
            inside = (sure >= low) & (sure < high)
            if inside.any():
                gap = abs(right[inside].mean() - sure[inside].mean())
                error += inside.mean() * gap
        assert score == pytest.approx(-error)


def test_calibration_error_is_the_gap_between_probabilities_and_outcomes(digits):
    """Against a loop over the bins, written out."""
    X, y = digits
    model = LogisticRegression(C=1e-3)
    report = compare_transfer(
        X, y, {"one": model}, cv=3, scoring="neg_expected_calibration_error"
    )
    edges = np.linspace(0, 1, 16)
    for score, (train, test) in zip(
        splits_of(report), StratifiedKFold(3).split(X, y), strict=True
    ):
        model.fit(X[train], y[train])
        sure = model.predict_proba(X[test]).max(axis=1)
        right = model.predict(X[test]) == y[test]
        error = 0
        for low, high in itertools.pairwise(edges):
            inside = (sure >= low) & (sure < high)
            if inside.any():
                gap = abs(right[inside].mean() - sure[inside].mean())
                error += inside.mean() * gap
        assert error > 0.1
        assert score == pytest.approx(-error)


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "f1_macro"])
def test_chance_is_the_score_of_what_knows_the_labels_alone(digits, scoring):
    X, y = digits[0], digits[1] > 7
    contenders = {"any": LogisticRegression(max_iter=500)}
    report = compare_transfer(X, y, contenders, cv=3, scoring=scoring)
    expected = cross_val_score(DummyClassifier(), X, y, cv=3, scoring=scoring)
    assert report.chance_ == pytest.approx(expected.mean())


def test_all_contenders_together_pass_each_image_once(digits):
    sktl.clear_cache()
    X, y = digits
    frozen = PretrainedFeatureExtractor("sktl_mini")
    compare_transfer(
        X,
        y,
        {
            "linear": make_pipeline(frozen, LogisticRegression(max_iter=500)),
            "dummy": make_pipeline(frozen, DummyClassifier()),
            "probe": FineTunedCNNClassifier("sktl_mini", strategy="linear_probe"),
        },
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    assert sktl.cache_info().computed == len(np.unique(X, axis=0))


def test_random_state_is_given_to_whatever_left_it_open(digits, make):
    X, y = digits
    contender = {"scratch": make("scratch", max_epochs=1, random_state=None)}
    options = {"cv": 2, "scoring": "neg_log_loss"}
    first, same, other = (
        splits_of(compare_transfer(X, y, contender, **options, random_state=seed))
        for seed in (3, 3, 4)
    )
    assert (first == same).all()
    assert (first != other).all()
    assert contender["scratch"].random_state is None
    assert not hasattr(contender["scratch"], "target_")


def test_seed_differs_from_split_to_split_but_not_between_contenders(digits):
    """What luck a seed has is then not common to all splits."""
    X, y = digits
    seeds = []

    class Witness(DummyClassifier):
        def fit(self, X, y):
            seeds.append(self.random_state)
            return super().fit(X, y)

    both = {"one": Witness(), "two": make_pipeline(Witness())}
    compare_transfer(X, y, both, cv=3, random_state=0)
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3


def test_print_is_an_aligned_table(report):
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    titles = ["contender", "accuracy", "95 % interval", "fit seconds"]
    assert re.split(r"  +", lines[0]) == titles
    assert repr(report) == str(report)


def test_small_scores_are_shown_with_three_digits(digits, tmp_path, pyplot):
    """Those of numbers near 0.01 have errors of 0.0001, which three decimals hide."""
    X, y = digits
    model = RidgeCV()
    options = {"cv": 3, "scoring": "neg_mean_squared_error"}
    report = compare_transfer(X, 0.01 * (y + 0.5), {"ridge": model}, **options)
    mean = cross_val_score(model, X, 0.01 * (y + 0.5), **options).mean()
    assert -1e-3 < mean < -1e-4
    written = f"{mean:.6f}"
    assert written in str(report)
    assert written in [text.get_text() for text in report.plot().ax_.texts]
    report.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert f"highest mean neg_mean_squared_error, {written} " in page
    assert f">{report.results_['split0_test_score'][0]:.6f}<" in page


def test_frame_has_a_row_per_contender(report):
    frame = report.to_frame()
    assert list(frame.index) == ["pixels", "features"]
    assert frame.loc["features", "train_size"] == 80
    assert frame.loc["pixels", "mean_test_score"] == pytest.approx(
        report.results_["mean_test_score"][0]
    )


@pytest.fixture
def count_images(monkeypatch):
    """How many images passed frozen networks since the test began."""
    passed = []

    def batches(self, module, pixels):
        if self.batch_size > 1:  # one blank image shows what shapes there are
            passed.append(len(pixels))
        return original(self, module, pixels)

    original = Engine.batches
    monkeypatch.setattr(Engine, "batches", batches)
    return lambda: sum(passed)


def test_features_and_fine_tuning_share_one_pass(tiny_network, count_images):
    sktl.clear_cache()
    X = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    network = {"backbone": tiny_network, "image_size": 8}
    frozen = PretrainedFeatureExtractor(**network)
    tuned = FineTunedCNNClassifier(**network, max_epochs=1, unfreeze_from=1)
    report = compare_transfer(
        X,
        np.arange(24) % 2,
        {
            "linear": make_pipeline(frozen, LogisticRegression()),
            "tuned": tuned,
            "boosted": make_pipeline(frozen, DummyClassifier()),
        },
        cv=3,
    )
    assert count_images() == 24
    assert report.pass_seconds_ > 0


@pytest.mark.slow
def test_default_contenders_run_and_transfer_helps(digits, count_images):
    sktl.clear_cache()
    X, y = digits[0][:40], digits[1][:40]
    network = PretrainedFeatureExtractor("sktl_mini", image_size=32)
    report = compare_transfer(X, y, backbone=network, cv=2, random_state=0)
    scores = scores_of(report)
    assert len(scores) == 8
    frozen = scores["frozen features + logistic regression"]
    assert frozen > scores["untrained network + logistic regression"]
    assert frozen > scores["most frequent class"] + 0.5
    # The pretrained network, for features and fine-tuning together; the untrained one.
    assert count_images() == 2 * len(np.unique(X, axis=0))


@pytest.mark.parametrize("contender", [LogisticRegression, 3])
def test_contender_that_is_no_estimator_is_named(digits, contender):
    with pytest.raises(ValueError, match=r"contenders\['mine'\]=.* must be a"):
        compare_transfer(*digits, {"mine": contender})


def test_name_that_is_no_text_is_refused(digits):
    with pytest.raises(ValueError, match="has the name 3; names must be str"):
        compare_transfer(*digits, {3: DummyClassifier()})


def test_message_does_not_repeat_megabytes(digits):
    """Such as a file in base64, or a dict of all there is."""
    huge = "iVBORw0KGgo" * 100_000
    for wrong in ({"X": huge}, {"contenders": huge}, {"cv": [huge]}):
        with pytest.raises((TypeError, ValueError)) as caught:
            compare_transfer(**{"X": digits[0], "y": digits[1]} | wrong)
        assert len(str(caught.value)) < 2000


def test_folder_as_x_is_refused(digits):
    for tool in (compare_transfer, probe_layers, rank_backbones):
        with pytest.raises(TypeError, match=r"X is one image .* This one is a folder"):
            tool(str(Path(__file__).parent), digits[1])


def test_failing_contender_raises(digits):
    X, y = digits
    with pytest.raises(ValueError, match="pooling") as caught:
        compare_transfer(
            X,
            y,
            {
                "broken": make_pipeline(
                    PretrainedFeatureExtractor("sktl_mini", pooling="none"),
                    LogisticRegression(),
                )
            },
            cv=2,
        )
    assert caught.value.__notes__ == ["Raised by contender 'broken'."]


def test_single_split_is_refused(digits, contenders):
    with pytest.raises(ValueError, match="gives 1 split"):
        compare_transfer(*digits, contenders, cv=[(np.arange(60), np.arange(60, 99))])


# --- training sizes -----------------------------------------------------------------


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


# --- what is wrong with the data or the splits, said before anything is fitted --------


@pytest.fixture
def unfitted():
    """A contender that must not be fitted."""

    class Unfitted(DummyClassifier):
        def fit(self, X, y):
            raise AssertionError("was fitted")

    return {"unfitted": Unfitted()}


@pytest.mark.parametrize(
    ("y", "params", "message"),
    [
        (np.zeros(12), {}, "y holds only 1 class"),
        (np.arange(12) % 4, {"cv": 5}, "cv=5 folds need .* has 3 of 12 rows"),
        (np.arange(12) % 2, {"scoring": "acuracy"}, "acuracy"),
        (np.arange(12) % 2, {"scoring": []}, "is empty"),
        (np.arange(12) % 2, {"scoring": ["f1", "f1"]}, "holds 'f1' twice"),
        (np.arange(12) % 2, {"scoring": 3}, "scoring=3 must be a name"),
        (np.arange(12) % 2, {"scoring": {"a": "f1"}}, "scoring=.* or a list of these"),
        (
            *(np.arange(12) % 2, {"scoring": {"qwk": accuracy_score}}),
            r"of these\. To name .* scorer.__name__ = 'qwk', and pass \[scorer\]\.",
        ),
        (np.arange(12) % 2, {"scoring": accuracy_score}, "looks like .* a metric"),
        (np.arange(12) // 6, {"cv": KFold(2)}, r"Split 0 of cv=.* trains on 6 rows"),
        (np.array([None, 1] * 6), {}, "y holds no label"),
    ],
)
def test_data_that_cannot_be_compared_are_refused(unfitted, y, params, message):
    with pytest.raises(ValueError, match=message):
        compare_transfer(np.zeros((12, 64)), y, unfitted, **params)


def test_groups_stay_together_with_a_number_of_folds(digits):
    X, y = digits
    groups = np.arange(120) // 4
    report = compare_transfer(
        X, y, {"one": LogisticRegression(max_iter=500)}, cv=3, groups=groups
    )
    expected = cross_val_score(
        LogisticRegression(max_iter=500),
        X,
        y,
        groups=groups,
        cv=StratifiedGroupKFold(3),
    )
    assert splits_of(report).tolist() == expected.tolist()


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_groups_reach_the_search_of_a_contender_if_metadata_is_routed(digits, n_jobs):
    X, y = digits
    groups = pd.Series(np.arange(120) // 4, index=np.arange(120)[::-1])
    grid = {"C": [0.01, 1]}
    search = GridSearchCV(SVC(), grid, cv=GroupKFold(3))
    contenders = {"search": search, "plain": SVC()}
    contenders["knows no routing"] = AdaBoostClassifier(n_estimators=2)
    params = {"groups": groups, "cv": 3, "n_jobs": n_jobs}
    with config_context(enable_metadata_routing=True):
        report = compare_transfer(X, y, contenders, **params)
        smaller = compare_transfer(X, y, contenders, train_sizes=[40, 60], **params)
        expected = cross_val_score(
            search, X, y, params={"groups": groups}, cv=StratifiedGroupKFold(3)
        )
    assert splits_of(report).tolist() == expected.tolist()
    assert (report.results_["error"] == "").all()
    assert (smaller.results_["error"] == "").all()


def test_groups_reach_a_fine_tuned_contender_unless_it_declines(digits):
    X, y = digits
    groups = np.arange(120) // 12
    noise = np.random.default_rng(0).permutation(y)
    clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe", random_state=0)
    params = {"groups": groups, "cv": 2, "scoring": "neg_log_loss"}
    with config_context(enable_metadata_routing=True):
        declines = clone(clf).set_fit_request(groups=False)
        contenders = {"gets them": clf, "declines": declines}
        report = compare_transfer(X, noise, contenders, **params)
    expected = [
        get_scorer("neg_log_loss")(
            clone(clf).fit(X[train], noise[train], groups=whose), X[test], noise[test]
        )
        for train, test in StratifiedGroupKFold(2).split(X, noise, groups)
        for whose in (groups[train], None)
    ]
    np.testing.assert_allclose(splits_of(report, 0), expected[::2])
    np.testing.assert_allclose(splits_of(report, 1), expected[1::2])
    assert expected[::2] != expected[1::2]


def test_search_by_groups_is_told_how_it_gets_them(digits):
    groups = np.arange(120) // 4
    search = GridSearchCV(LogisticRegression(), {"C": [1]}, cv=GroupKFold(3))
    contenders = {"search": search, "any": DummyClassifier()}
    report = compare_transfer(*digits, contenders, cv=3, groups=groups)
    error, none = report.results_["error"]
    assert none == ""
    assert "set_config(enable_metadata_routing=True)" in error
    report = compare_transfer(*digits, contenders, cv=3)
    assert "set_config" not in report.results_["error"][0]


# --- contenders that fail -----------------------------------------------------------


class FailsWithout(LogisticRegression):
    """Fails where a row is not in the training part."""

    def __init__(self, row=0):
        super().__init__(max_iter=500)
        self.row = row

    def fit(self, X, y):
        if not (X == self.row).all(axis=1).any():
            raise RuntimeError("the row is not here")
        return super().fit(X, y)


def test_contender_that_fails_on_a_split_has_a_row_that_says_so(digits, contenders):
    X, y = digits
    (fails,) = [
        i for i, (_, test) in enumerate(StratifiedKFold(3).split(X, y)) if 0 in test
    ]
    both = {"fails": FailsWithout(row=X[0]), "pixels": contenders["pixels"]}
    report = compare_transfer(X, y, both, cv=3)
    assert np.isnan(splits_of(report, 0)).tolist() == [i == fails for i in range(3)]
    for name in ("mean_test_score", "high_test_score", "mean_fit_time"):
        assert np.isnan(report.results_[name]).tolist() == [True, False]
    error, none = report.results_["error"]
    assert none == ""
    assert error == (
        f"split {fails}: RuntimeError: the row is not here (failed on 1 of 3 splits)"
    )
    assert (splits_of(report, 1) == cross_val_score(both["pixels"], X, y, cv=3)).all()
    assert report.findings_ == [f"'fails' failed: {error}"]
    assert "\nfails        failed          failed       failed\n" in str(report)


def test_sizes_at_which_a_contender_fails_are_told(digits):
    X, y = digits
    least = {"needs 30": NeedsRows(30), "any": DummyClassifier()}
    report = compare_transfer(X, y, least, cv=2, train_sizes=[10, 20, 60])
    assert report.findings_ == [
        "'needs 30' failed with 10, 20 training rows: split 0: ValueError: 10 rows "
        "are not enough (failed on 2 of 2 splits)"
    ]


class NeedsRows(DummyClassifier):
    def __init__(self, n_rows):
        super().__init__()
        self.n_rows = n_rows

    def fit(self, X, y):
        if len(X) < self.n_rows:
            raise ValueError(f"{len(X)} rows are not enough")
        return super().fit(X, y)


def test_contender_without_what_a_score_needs_fails_alone(digits):
    X, y = digits
    both = {"svm": SVC(), "logistic": LogisticRegression(max_iter=500)}
    report = compare_transfer(X, y, both, cv=2, scoring="neg_log_loss")
    assert np.isnan(report.results_["mean_test_score"]).tolist() == [True, False]
    assert "SVC has none" in report.results_["error"][0]
    assert "predict_proba" in report.results_["error"][0]


def test_contender_predicts_a_test_part_once_by_each_method(digits):
    """However many scores read that; one of the user's gets the contender itself."""
    calls = Counter()

    class Counting(LogisticRegression):
        def predict(self, X):
            calls["predict"] += 1
            return super().predict(X)

        def predict_proba(self, X):
            calls["predict_proba"] += 1
            return super().predict_proba(X)

    def n_epochs(model, X, y):
        assert isinstance(model, Counting)
        return model.n_iter_[0]

    scoring = [make_scorer(accuracy_score), "neg_log_loss", "roc_auc_ovr"]
    report = compare_transfer(
        *digits, {"one": Counting(max_iter=300)}, cv=2, scoring=[*scoring, n_epochs]
    )
    assert calls == {"predict": 2, "predict_proba": 2}
    assert report.results_["mean_test_n_epochs"] > 1


@pytest.mark.parametrize(
    "step", ["Findings", "collect_evidence", "collect_predictions"]
)
def test_failure_after_the_last_fit_costs_a_sentence_and_not_the_scores(
    digits, contenders, monkeypatch, step
):
    def broken(*args):
        raise KeyError("optimizer__weight_decay")

    monkeypatch.setattr(f"sktl._comparison.compare.{step}", broken)
    report = compare_transfer(*digits, contenders, cv=2)
    assert np.isfinite(report.results_["mean_test_score"]).all()
    finding = report.findings_[-1]
    assert "scores are complete" in finding
    assert "KeyError: 'optimizer__weight_decay'" in finding
    assert finding in str(report)


@pytest.mark.slow
def test_process_that_dies_is_the_failure_of_its_contender(digits, contenders):
    class Dies(DummyClassifier):
        def fit(self, X, y):
            os._exit(1)

    both = {"pixels": contenders["pixels"], "dies": Dies()}
    report = compare_transfer(*digits, both, cv=2, n_jobs=2)
    assert np.isnan(report.results_["mean_test_score"]).tolist() == [False, True]
    assert "TerminatedWorkerError" in report.results_["error"][1]


@pytest.mark.parametrize("bad", [0, 59, 60, 119])
def test_unreadable_image_is_named_by_its_row_in_x(digits, make, bad):
    """In whichever part it is: of what is trained on, or of what is scored."""
    X, y = digits
    images = [encode(np.uint8(x.reshape(8, 8) * 15)) for x in X]
    images[bad] = b"no image"
    contenders = {
        "any": DummyClassifier(),
        "network": make(),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), DummyClassifier()
        ),
    }
    report = compare_transfer(images, y > 4, contenders, cv=KFold(2))
    ok, *errors = report.results_["error"]
    assert ok == ""
    for error in errors:
        assert "1 image(s) of X could not be read" in error
        assert f"\n  row {bad}: " in error
        assert "failed on 2 of 2 splits" in error


def test_row_that_is_no_image_of_numbers_is_named_by_its_row_in_x(digits, make):
    X, y = digits[0].copy(), digits[1] > 4
    X[[70, 110], 3] = np.nan
    report = compare_transfer(
        X, y, {"any": DummyClassifier(), "net": make()}, cv=KFold(2)
    )
    ok, error = report.results_["error"]
    assert ok == ""
    assert "Row 10 of the training part is row 70 of X." in error


def test_error_of_an_inner_fold_or_of_others_is_not_taken_for_a_row_of_x(digits):
    """Only the rows of the whole part are known."""

    class Configured(DummyClassifier):
        def fit(self, X, y):
            raise ValueError("config table: row 3 has no value")

    images = [encode(np.uint8(x.reshape(8, 8) * 15)) for x in digits[0]]
    images[100] = b"no image"
    model = make_pipeline(RawPixels(), DummyClassifier())
    search = GridSearchCV(
        model, {"dummyclassifier__strategy": ["prior"]}, cv=2, error_score="raise"
    )
    contenders = {"any": DummyClassifier(), "search": search, "other": Configured()}
    report = compare_transfer(images, np.arange(120) % 2, contenders, cv=KFold(2))
    ok, search, other = report.results_["error"]
    assert ok == ""
    assert "\n  row 10: " in search  # of the second half of the training part
    assert other == (
        "split 0: ValueError: config table: row 3 has no value (failed on 2 of 2 "
        "splits)"
    )


def test_failure_on_a_file_of_any_name_is_printed_and_saved(
    digits, tmp_path, monkeypatch, pyplot
):
    """Bytes that are no UTF-8 and a line end in it; `~` is the home of the user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    broken = os.fsdecode(os.fsencode(tmp_path) + b"/broken-\xff.png\n")
    try:
        Path(broken).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system has no such names")
    paths = [broken]
    for i, row in enumerate(digits[0][1:40]):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(encode(np.uint8(row.reshape(8, 8) * 15)))
    contenders = {
        "any": DummyClassifier(),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), DummyClassifier()
        ),
    }
    report = compare_transfer(paths, np.arange(40) % 2, contenders, cv=2)
    report.save_html("~/report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in (str(report), report._repr_html_(), *report.findings_, page):
        assert r"broken-\udcff.png\n" in unescape(text)
        text.encode()


def test_twin_that_fails_leaves_no_effect(digits):
    X, y = digits
    broken = PretrainedFeatureExtractor("sktl_mini", weights=None, pooling="none")
    both = {
        "untrained": make_pipeline(broken, DummyClassifier()),
        "trained": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini", pooling="none"), DummyClassifier()
        ),
        "other": DummyClassifier(),
    }
    report = compare_transfer(X, y, both, cv=2)
    assert np.isnan(report.effects_["difference"]).all()
    assert report.findings_[0] == (
        "'trained' and 'untrained' cannot be compared, as one of them failed."
    )


def test_interrupt_is_no_failure_of_a_contender(digits):
    class Interrupted(DummyClassifier):
        def fit(self, X, y):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_transfer(*digits, {"one": DummyClassifier(), "two": Interrupted()})


def test_warning_of_a_fit_passes_through(digits):
    contender = {"one": LogisticRegression(max_iter=1)}
    with pytest.warns(ConvergenceWarning):
        compare_transfer(*digits, contender, cv=2)


@pytest.mark.parametrize(
    ("is_kept", "bad"),
    [(False, []), (True, [b"no image"])],
    ids=["passed in each fold", "of a pass that fails"],
)
def test_images_much_larger_than_the_network_sees_warn_once(is_kept, bad, tmp_path):
    X = [np.full((300, 300, 3), level, np.uint8) for level in range(8)] + bad
    cache = str(tmp_path) if is_kept else None
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=cache)
    contenders = {
        name: make_pipeline(extractor, DummyClassifier(strategy=name))
        for name in ("prior", "uniform")
    }
    # Without the last row, which may be unreadable, and with it.
    folds = [(range(0, 4), range(4, 8)), (range(0, 4), range(4, len(X)))]
    with pytest.warns(ImageSizeWarning) as caught:
        compare_transfer(X, np.arange(len(X)) % 2, contenders, cv=folds)
    assert [w.filename for w in caught] == [__file__]


# --- what transfer does -------------------------------------------------------------


@pytest.fixture
def duel(make, digits):
    """A small network, fine-tuned and from scratch, that learns within seconds."""
    X, y = digits
    contenders = {
        "tuned": make(max_epochs=3),
        "scratch": make("scratch", max_epochs=4, lr=0.01),
    }
    return contenders, X, (y > 4).astype(str)


def test_effect_is_the_gain_over_the_twin(digits, tiny_network):
    X, y = digits
    both = {
        name: make_pipeline(
            PretrainedFeatureExtractor(tiny_network, weights=weights, image_size=8),
            LogisticRegression(max_iter=500),
        )
        for name, weights in (("untrained", None), ("trained", "DEFAULT"))
    }
    report = compare_transfer(X, y, both, cv=4)
    difference = splits_of(report, 1) - splits_of(report, 0)
    effects = {name: values[0] for name, values in report.effects_.items()}
    assert effects["contender"] == "trained"
    assert effects["twin"] == "untrained"
    assert effects["kind"] == "untrained"
    assert effects["difference"] == pytest.approx(difference.mean())
    names = ("difference", "low", "high", "p_value")
    assert report.gain("trained", over="untrained") == tuple(map(effects.get, names))
    (indicator,) = report.indicators_["value"]
    assert indicator == pytest.approx(splits_of(report, 1).mean())
    assert report.indicators_["indicator"] == ["score of frozen features"]


def test_perfect_mean_has_one_interval_wherever_it_is_shown(digits):
    """All three rows in n may be wrong of a model that is right on n."""
    X, y = digits[0][digits[1] < 2], digits[1][digits[1] < 2]
    features = PretrainedFeatureExtractor("sktl_mini")
    contenders = {
        "frozen": make_pipeline(features, LogisticRegression(max_iter=500)),
        "tuned": FineTunedCNNClassifier(
            "sktl_mini", unfreeze_from="last", max_epochs=1, batch_size=32
        ),
    }
    report = compare_transfer(X, y, contenders, cv=3, random_state=0)
    assert report.results_["mean_test_score"].tolist() == [1, 1]
    assert report.indicators_["low"] == report.results_["low_test_score"][:1]
    _, means, (below, _) = report.mean_curves()["tuned"]
    assert (below[means == 1] > 0).all()


def test_gain_is_that_of_rows_and_splits(digits, contenders, report):
    """The variance written out for folds, from scikit-learn's own predictions."""
    X, y = digits
    features, pixels = (
        cross_val_predict(contenders[name], X, y, cv=3) == y
        for name in ("features", "pixels")
    )
    difference = features.astype(float) - pixels
    folds = [difference[test] for _, test in StratifiedKFold(3).split(X, y)]
    of_rows = np.mean([fold.var(ddof=1) / len(fold) for fold in folds])
    of_splits = np.var([fold.mean() for fold in folds], ddof=1)
    unseen = 1 / 120**2  # as if one more row made a difference
    error = np.sqrt(of_rows / 3 + unseen + max(0, of_splits - of_rows) / 3)
    gain = report.gain("features", over="pixels")
    assert gain.mean == pytest.approx(np.mean([fold.mean() for fold in folds]))
    assert of_splits < of_rows  # so that there are as many degrees of freedom as rows
    low, high = stats.t.interval(0.95, 119, gain.mean, error)
    assert (gain.low, gain.high) == pytest.approx((low, high))
    p_value = 2 * stats.t.sf(gain.mean / error, 119)
    assert gain.p_value == pytest.approx(p_value)
    assert report.gain("pixels", over="features").mean == -gain.mean


@pytest.mark.parametrize("failing", ["scratch", "tuned"])
def test_network_that_fails_on_a_split_loses_nothing_but_its_indicators(failing):
    """Its curve of that split is empty, and so is the score of the reference."""
    scores = {"scratch": [0.5, 0.5], "tuned": [0.6, 0.6]}
    scores[failing] = [np.nan, 0.6]
    curve = {name: np.array([0.0, 1.0]) for name in ("epoch", "seconds", "score")}
    curves = {"scratch": [curve, curve], "tuned": [curve, curve]}
    curves[failing] = [{}, curve]
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
    }
    evidence = Evidence({}, 0.2, 100, 100)
    findings = Findings(fake_scores(scores, (80,)), curves, contenders, evidence)
    assert findings.sentences() == [
        "'tuned' and 'scratch' cannot be compared, as one of them failed."
    ]
    rows = findings.indicators()
    timed = rows["contender"][rows["indicator"] == "epochs to the score from scratch"]
    assert timed.tolist() == (["scratch"] if failing == "tuned" else [])
    assert np.isnan(rows["value"][rows["indicator"] == "gain over from scratch"]).all()


def test_pass_is_shared_whatever_comes_first_and_however_it_trains(
    tiny_network, count_images
):
    sktl.clear_cache()
    X = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    network = {"backbone": tiny_network, "image_size": 8}
    tuned = FineTunedCNNClassifier(
        **network, batch_size=5, max_epochs=1, unfreeze_from=1
    )
    frozen = make_pipeline(PretrainedFeatureExtractor(**network), LogisticRegression())
    contenders = {"tuned": tuned, "frozen": frozen}
    compare_transfer(X, np.arange(24) % 2, contenders, cv=3)
    assert count_images() == 24


def test_gain_over_a_contender_that_is_not_there_is_refused(report):
    with pytest.raises(
        ValueError, match="'pixel' is not one of the contenders, which are 'pixels'"
    ):
        report.gain("features", over="pixel")


def fake_scores(scores, sizes):
    """Results as of contenders with these scores: {name: rows of sizes x splits}."""
    rows = [np.atleast_2d(values) for values in scores.values()]
    n_sizes, n_splits = rows[0].shape
    results = {"contender": np.repeat(np.array(list(scores), dtype=object), n_sizes)}
    for i in range(n_splits):
        results[f"split{i}_test_score"] = np.concatenate([row[:, i] for row in rows])
    n_rows = len(results["contender"])
    rows = {"train_size": np.tile(sizes, len(scores)), "test_size": np.full(n_rows, 20)}
    return results | rows | {"error": [""] * n_rows}


def findings_on(scratch, tuned, curves=None, sizes=(80,), **known):
    """What is found of two networks with these scores per size and split."""
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
    }
    results = fake_scores({"scratch": scratch, "tuned": tuned}, sizes)
    known = {"shared": 0.2, "n_units": 100, "n_tested": 100} | known
    evidence = Evidence({}, **known, bounds=(0.0, 1.0), margin=0.01)
    return Findings(results, curves or {}, contenders, evidence)


def sentences_on(*args, **kwargs):
    return findings_on(*args, **kwargs).sentences()


@pytest.mark.parametrize(
    ("tuned", "verdict", "sentence"),
    [
        (
            [0.70, 0.71, 0.70, 0.69, 0.70],
            "worse",
            "Negative transfer: 'tuned' loses to 'scratch' by 0.100 "
            "(95 % interval 0.087 to 0.113, p < 0.001).",
        ),
        (
            [0.90, 0.91, 0.90, 0.89, 0.90],
            "better",
            "Transfer helps: 'tuned' is ahead of 'scratch' by 0.100 "
            "(95 % interval 0.087 to 0.113, p < 0.001).",
        ),
        (
            [0.90, 0.71, 0.80, 0.79, 0.75],
            "inconclusive",
            "Inconclusive: 'tuned' is behind 'scratch' by 0.010 (95 % interval "
            "-0.122 to 0.142, p = 0.84). Here, only a difference of more than 0.13 "
            "could be detected; a clear answer would take more than 100 times as many "
            "rows.",
        ),
        (
            [0.80, 0.80, 0.80, 0.80, 0.80],
            "equivalent",
            "Equivalent within 0.01: 'tuned' is level with 'scratch' "
            "(95 % interval 0.000 to 0.000, p = 1).",
        ),
    ],
)
def test_finding_says_whether_transfer_helps_or_hurts(tuned, verdict, sentence):
    found = findings_on([0.8] * 5, tuned)
    assert found.sentences() == [sentence]
    assert found.effects()["verdict"].tolist() == [verdict]


@pytest.mark.parametrize(
    ("known", "unlike", "what"),
    [
        ({"n_tested": 80}, 0.11, "splits instead of 5"),
        # What the same rows contribute stays, however often they are drawn.
        ({"n_tested": 80}, 0.03, "rows instead of 100"),
        ({"n_tested": 80, "shared": 0.0}, 0.05, "rows instead of 100"),
        ({"n_tested": 100}, 0.07, "rows instead of 100"),
        ({"unit": "groups"}, 0.07, "groups instead of 100"),
    ],
)
def test_what_would_tell_is_what_the_variance_comes_from(known, unlike, what):
    tuned = 0.8 + unlike + np.array([-0.09, -0.05, 0.0, 0.05, 0.09])
    (sentence,) = sentences_on([0.8] * 5, tuned, **known)
    assert re.search(rf"a clear answer would take about \d+ {what}\.$", sentence)


def test_detectable_difference_is_adjusted_as_the_verdict_is():
    """What is clear alone, but not beside another pair, is not "detectable"."""
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "ahead": FineTunedCNNClassifier("sktl_mini"),
        "equal": FineTunedCNNClassifier("sktl_mini", strategy="gradual"),
    }
    scores = {
        "scratch": [0.80, 0.80, 0.80, 0.80, 0.80],
        "ahead": [0.83, 0.87, 0.84, 0.88, 0.83],
        "equal": [0.84, 0.76, 0.82, 0.78, 0.80],
    }
    results = fake_scores(scores, (80,))
    evidence = Evidence({}, 0.2, 100, 100, bounds=(0.0, 1.0), margin=0.01)
    found = Findings(results, {}, contenders, evidence)
    assert min(gain.interval().p_value for gain in found.gains) < 0.05
    sentence = found.sentences()[0]
    assert sentence.startswith("Inconclusive: 'ahead'")
    difference, detectable = re.findall(r"(?:by|more than) ([\d.]+)", sentence)
    assert float(detectable) > float(difference)


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        (
            [0.1, 0.1, 0.0],
            "'scratch' catches up with 'tuned' between 40 and 80 training rows.",
        ),
        (
            [0.1, -0.1, -0.1],
            "'scratch' catches up with 'tuned' between 20 and 40 training rows, and "
            "overtakes it.",
        ),
        (
            [0.1, 0.1, 0.1],
            "'scratch' does not catch up with 'tuned', which is still ahead at 80 "
            "training rows.",
        ),
        (
            [-0.1, 0.0, 0.0],
            "'tuned' is not ahead of 'scratch' at any size from 20 to 80 training "
            "rows.",
        ),
        (
            [0.1, 0.008, 0.0],
            "'scratch' catches up with 'tuned' by 80 training rows; it is unclear "
            "whether it does so by 40.",
        ),
        (
            [0.1, 0.0, 0.008],
            "It is unclear whether 'scratch' catches up with 'tuned' by 80 "
            "training rows.",
        ),
    ],
)
def test_finding_says_from_which_size_on_scratch_catches_up(gains, sentence):
    """Not being told apart is not catching up: the interval must be in the margin."""
    noise = np.array([0.0, 0.005, -0.005, 0.0])
    scratch = np.full((3, 4), 0.5)
    tuned = 0.5 + np.array(gains)[:, np.newaxis] + noise
    assert sentences_on(scratch, tuned, sizes=(20, 40, 80))[-1] == sentence


# --- curves -------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", first_and_slow([None, "neg_log_loss", "roc_auc"]))
def test_curve_is_what_shorter_trainings_score(duel, scoring):
    contenders, X, y = duel
    report = compare_transfer(X, y, contenders, cv=2, scoring=scoring, random_state=0)
    scorer = get_scorer(scoring or "accuracy")
    for row, name in enumerate(contenders):
        for i, (train, test) in enumerate(StratifiedKFold(2).split(X, y)):
            curve = report.curves_[name][i]
            n_epochs = contenders[name].max_epochs
            assert curve["epoch"].tolist() == list(range(n_epochs + 1))
            assert (np.diff(curve["seconds"]) > 0).all()
            assert curve["score"][-1] == splits_of(report, row)[i]
            shorter = clone(contenders[name]).set_params(max_epochs=2)
            shorter.fit(X[train], y[train])
            assert curve["score"][2] == scorer(shorter, X[test], y[test])
        if name == "tuned":
            probe = clone(contenders[name]).set_params(strategy="linear_probe")
            probe.fit(X[train], y[train])
            assert curve["score"][0] == pytest.approx(scorer(probe, X[test], y[test]))


def test_curve_scores_each_of_its_points_once_where_nothing_is_averaged(make, duel):
    """With random weights in it, the last epoch's network is the one that predicts."""
    _, X, y = duel
    scored = []

    def scorer(estimator, X, y):
        scored.append(type(estimator))
        return float((estimator.predict(X) == y).mean())

    contender = make(max_epochs=2, reinit_from="last", initial_share=0.25)
    report = compare_transfer(X, y, {"one": contender}, cv=2, scoring=scorer)
    n_points = sum(len(curve["epoch"]) for curve in report.curves_["one"])
    assert scored.count(NetInTraining) == n_points == 2 * 3


def test_curve_of_a_network_that_stops_early_ends_at_the_score_of_the_best_epoch(
    make, duel
):
    """The last epoch is another one, whose network is not the one that predicts."""
    _, X, y = duel
    stopping = {"early_stopping": True, "n_iter_no_change": 1, "random_state": 0}
    contender = make("scratch", lr=0.1, max_epochs=9, **stopping)
    report = compare_transfer(X, y, {"one": contender}, cv=2)
    ends = [curve["score"][-1] for curve in report.curves_["one"]]
    assert max(len(curve["epoch"]) for curve in report.curves_["one"]) < 10
    assert ends == splits_of(report).tolist()


@pytest.mark.parametrize("strategy", ["lp_ft", "gradual", "scratch"])
def test_network_that_is_watched_is_trained_as_ever(make, duel, strategy):
    _, X, y = duel
    contender = make(strategy, dropout=0.2)
    options = {"cv": 2, "scoring": "neg_log_loss"}
    report = compare_transfer(X, y, {"one": contender}, **options)
    assert len(report.curves_["one"]) == 2
    assert splits_of(report).tolist() == (
        cross_val_score(contender, X, y, **options).tolist()
    )


def test_callbacks_of_a_contender_stay_its_own(make, duel):
    _, X, y = duel
    own = EpochScoring("accuracy", name="own")
    contender = make(callbacks=[own])
    report = compare_transfer(X, y, {"one": contender}, cv=2)
    assert contender.callbacks == [own]
    assert len(report.curves_["one"]) == 2


def test_seconds_of_a_curve_are_without_the_scoring(make, duel, monkeypatch):
    """By a clock that only scores and epochs move on."""
    _, X, y = duel
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("sktl._comparison.score_curve.time", clock)

    def score(estimator, X, y):
        clock.now += 100
        return accuracy_score(y, estimator.predict(X))

    class Epoch(Callback):
        def on_epoch_begin(self, net, **kwargs):
            clock.now += 3

    curve = ScoreCurve(score, X[60:], y[60:], range(60))
    make(callbacks=[curve, Epoch()]).fit(X[:60], y[:60])
    assert curve.points(1.0)["seconds"].tolist() == [0, 3, 6]
    assert curve.seconds_outside_ == 300


def test_fit_seconds_are_without_the_scoring(make, duel, monkeypatch):
    _, X, y = duel
    monkeypatch.setattr(ScoreCurve, "seconds_outside_", -1000.0)
    (seconds,) = compare_transfer(X, y, {"one": make()}, cv=2).results_["mean_fit_time"]
    assert 990 < seconds < 1010 + 60


def test_score_that_reads_the_rows_itself_has_a_curve(make, duel):
    _, X, y = duel

    def score_of_bright_rows(estimator, X, y):
        bright = X.mean(axis=1) > 4.5
        return accuracy_score(y[bright], estimator.predict(X[bright]))

    report = compare_transfer(X, y, {"one": make()}, cv=2, scoring=score_of_bright_rows)
    assert report.scoring_ == "score_of_bright_rows"
    for i, curve in enumerate(report.curves_["one"]):
        assert curve["score"][-1] == splits_of(report)[i]


def test_contenders_without_epochs_have_no_curve(make, duel):
    _, X, y = duel
    contenders = {
        "probe": make("linear_probe"),
        "pipeline": make_pipeline(make()),
    }
    assert compare_transfer(X, y, contenders, cv=2).curves_ == {}


def test_indicators_tell_how_soon_the_score_from_scratch_is_reached(duel):
    contenders, X, y = duel
    report = compare_transfer(X, y, contenders, cv=3, random_state=0)
    table = zip(*report.indicators_.values(), strict=True)
    values = {(row[0], row[1]): row[3:] for row in table}
    names = [f"{axis} to the score from scratch" for axis in ("epochs", "seconds")]
    assert list(values) == [
        *[(name, who) for name in names for who in ("tuned", "scratch")],
        ("gain over from scratch", "tuned"),
    ]
    wanted = splits_of(report, 1)
    for axis, name in zip(("epoch", "seconds"), names, strict=True):
        for who in contenders:
            times = []
            for curve, score in zip(report.curves_[who], wanted, strict=True):
                reached = curve[axis][curve["score"] >= score]
                times.append(reached[0] if len(reached) else curve[axis][-1])
            value, low, high = values[name, who]
            assert value == pytest.approx(np.mean(times))
            assert 0 <= low <= value <= high
    effects = [report.effects_[name][0] for name in ("difference", "low", "high")]
    assert list(values["gain over from scratch", "tuned"]) == effects


def test_score_that_is_not_reached_is_told_by_the_splits():
    def curve(*scores):
        n = len(scores)
        return {"epoch": np.arange(n), "seconds": np.ones(n), "score": np.array(scores)}

    curves = {
        "tuned": [curve(0.5, 0.8), curve(0.5, 0.7), curve(0.7, 0.7)],
        "scratch": [curve(0.1, 0.8)] * 3,
    }
    *_, last = sentences_on([0.8] * 3, [0.8, 0.7, 0.7], curves)
    assert last == (
        "'tuned' does not reach the final score of 'scratch' in 2 of 3 splits."
    )
    curves["tuned"] = [curve(0.5, 0.8), curve(0.9, 0.7), curve(0.8, 0.7)]
    *_, last = sentences_on([0.8] * 3, [0.8, 0.7, 0.7], curves)
    assert last == (
        "'tuned' reaches the final score of 'scratch' after 0.3 epochs (1 s); "
        "'scratch' itself takes 1.0 epochs (1 s)."
    )


# --- networks, and what the report remembers ----------------------------------------


def test_best_of_a_ranking_are_compared_side_by_side(digits, tiny_network):
    X, y = digits
    small = {"image_size": 8}
    ranking = rank_backbones(
        X,
        y,
        {
            "tiny": PretrainedFeatureExtractor(tiny_network, **small),
            "random": PretrainedFeatureExtractor(tiny_network, weights=None, **small),
            "mini": PretrainedFeatureExtractor("sktl_mini", **small),
        },
    )
    best = ranking.best(2)
    assert list(best) == ranking.results_["backbone"][:2].tolist()
    with pytest.raises(ValueError, match="k=4 must be a whole number from 1 to 3"):
        ranking.best(4)
    contenders = {
        label: make_pipeline(extractor, LogisticRegression(max_iter=500))
        for label, extractor in best.items()
    }
    scores = scores_of(compare_transfer(X, y, contenders, cv=2))
    assert list(scores) == list(best)


def test_report_remembers_what_was_compared_with_what(report, contenders):
    expected = {
        "rows": "120",
        "classes": "10",
        "cv": "3",
        "scoring": "accuracy",
        "train_sizes": "None",
        "random_state": "0",
    }
    expected |= {name: repr(contender) for name, contender in contenders.items()}
    assert report.parameters_.items() >= expected.items()
    assert report.versions_["sktl"] == sktl.__version__
    assert report.versions_["torch"] == torch.__version__.split("+")[0]


@pytest.mark.slow
def test_processes_give_the_same_report(digits, contenders, tmp_path):
    contenders = contenders | {
        "tuned": FineTunedCNNClassifier(
            "sktl_mini", max_epochs=2, cache=tmp_path, random_state=0
        )
    }
    alone, together = (
        compare_transfer(*digits, contenders, cv=2, n_jobs=n_jobs, random_state=0)
        for n_jobs in (None, 2)
    )
    scores = [run.results_["mean_test_score"] for run in (alone, together)]
    # Processes compute with fewer threads each: the features differ by rounding.
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert len(together.curves_["tuned"]) == 2


def test_page_of_a_comparison_is_saved(duel, tmp_path, pyplot):
    """Curves and a failed split among it."""
    contenders, X, y = duel
    contenders["fails"] = FailsWithout(row=X[0])
    report = compare_transfer(X, y, contenders, cv=2)
    report.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "the row is not here" in page
    assert page.count("<img") >= 1


def test_time_to_a_score_that_is_not_reached_is_longer_than_the_training():
    """The other splits are not lost; nobody knows an upper end."""
    curve = {"epoch": np.arange(3), "seconds": np.arange(3) * 2.0}
    there, not_there = ([0.1, 0.9, 0.9], [0.1, 0.2, 0.3])
    curves = {
        "tuned": [curve | {"score": np.array(s)} for s in (there, not_there, there)],
        "scratch": [curve | {"score": np.array([0.1, 0.5, 0.8])}] * 3,
    }
    rows = findings_on([0.8] * 3, [0.9, 0.3, 0.9], curves).indicators()
    table = zip(*rows.values(), strict=True)
    found = {(indicator, name): ends for indicator, name, _, *ends in table}
    for axis, unit in (("epochs", 1), ("seconds", 2)):
        value, low, high = found[f"{axis} to the score from scratch", "tuned"]
        assert value == pytest.approx(unit * (1 + 2 + 1) / 3)
        assert 0 <= low < value
        assert high == np.inf
        ends = found[f"{axis} to the score from scratch", "scratch"]
        assert ends == [2 * unit] * 3


def test_contenders_that_all_failed_have_a_page_and_no_chance(
    make_comparison, tmp_path
):
    failed = np.full((1, 3), np.nan)
    report = make_comparison({"a": failed, "b": failed}, [50])
    assert set(report.rank().values()) == {0.0}
    report.save_html(tmp_path / "page.html")
    assert "Every contender failed." in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("margin", [0, -0.01, True, "small", np.inf])
def test_margin_that_is_no_size_of_a_difference_is_refused(digits, margin):
    with pytest.raises(
        ValueError, match="margin=.* must be a number above 0.*best value is 1"
    ):
        compare_transfer(*digits, {"one": DummyClassifier()}, cv=2, margin=margin)


def test_interval_of_a_correlation_ends_at_its_bounds(digits):
    """Matthews' is from -1 to 1."""
    X, y = digits[0], digits[1] % 2
    model = LogisticRegression(max_iter=500)
    report = compare_transfer(X, y, {"one": model}, cv=5, scoring="matthews_corrcoef")
    expected = cross_val_score(model, X, y, cv=5, scoring="matthews_corrcoef")
    assert scores_of(report)["one"] == pytest.approx(expected.mean())
    low, high = (report.results_[f"{end}_test_score"][0] for end in ("low", "high"))
    assert -1 <= low < expected.mean() < high <= 1


@pytest.mark.parametrize("name", ["accuracy", "accuracy_points"])
def test_score_of_the_user_has_no_bounds_whatever_its_name(digits, name):
    """Intervals reach as far up as down."""

    def points(estimator, X, y):
        return 100 * accuracy_score(y, estimator.predict(X))

    points.__name__ = name
    models = {C: LogisticRegression(C=float(C), max_iter=500) for C in ("1", "1e-5")}
    report = compare_transfer(*digits, models, cv=5, scoring=points)
    gain = report.gain("1", over="1e-5")
    assert gain.high - gain.mean == pytest.approx(gain.mean - gain.low) != 0
    low, mean, high = (
        report.results_[f"{of}_test_score"] for of in ("low", "mean", "high")
    )
    np.testing.assert_allclose(high - mean, mean - low)
    assert mean.max() > 50


def test_twins_that_never_differ_cannot_be_told_apart_in_few_words(digits):
    """No number of splits would, and no margin says what would not matter."""
    features = PretrainedFeatureExtractor("sktl_mini", image_size=16)
    contenders = {
        "frozen": make_pipeline(features, DummyClassifier()),
        "untrained": make_pipeline(
            clone(features).set_params(weights=None), DummyClassifier()
        ),
    }
    report = compare_transfer(
        *digits, contenders, cv=2, scoring=lambda estimator, X, y: 3.0
    )
    (sentence,) = (f for f in report.findings_ if f.startswith("Inconclusive"))
    assert "are needed" not in sentence


def test_split_that_tests_on_no_rows_is_named(digits):
    splits = [(np.arange(60), np.arange(60, 70)), (np.arange(60), np.array([], int))]
    with pytest.raises(ValueError, match=r"(?s)Split 1 .*no test rows"):
        compare_transfer(*digits, {"one": DummyClassifier()}, cv=splits)


def accuracy_of_the_user(estimator, X, y):
    return np.mean(estimator.predict(X) == y)


@pytest.mark.parametrize(
    ("cv", "scoring"),
    [
        (5, "accuracy"),
        (LeaveOneOut(), "accuracy"),
        (5, accuracy_of_the_user),
        (LeaveOneOut(), accuracy_of_the_user),
    ],
)
def test_interval_of_a_perfect_score_does_not_depend_on_the_splits(cv, scoring):
    """One row of 24 might have been wrong, however they are split."""
    X, y = load_digits(n_class=2, return_X_y=True)
    models = {"C=1": LogisticRegression(), "C=2": LogisticRegression(C=2)}
    report = compare_transfer(X[:24], y[:24], models, cv=cv, scoring=scoring)
    gain = report.gain("C=1", over="C=2")
    half = stats.t.ppf(0.975, 23) / 24
    assert report.results_["low_test_score"] == pytest.approx([1 - 1.5 * half] * 2)
    assert (gain.low, gain.high) == pytest.approx((-half, half))


def test_perfect_score_of_groups_is_no_less_sure_than_one_with_an_error():
    X, y = load_digits(n_class=2, return_X_y=True)
    X, y, groups = X[:60], y[:60], np.arange(60) // 6

    def recall(wrong):
        """A model that knows all answers but some."""
        known = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
        known |= {row.tobytes(): 1 - known[row.tobytes()] for row in X[:wrong]}
        return FunctionClassifier(known)

    models = {"perfect": recall(0), "one error": recall(1)}
    report = compare_transfer(X, y, models, cv=5, groups=groups)
    low, high = (report.results_[f"{end}_test_score"] for end in ("low", "high"))
    assert high[0] - low[0] < high[1] - low[1] < 0.1


class FunctionClassifier(ClassifierMixin, BaseEstimator):
    """Looks rows up."""

    def __init__(self, known):
        self.known = known

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.array([self.known[row.tobytes()] for row in X])


@pytest.mark.parametrize("is_learnable", [True, False])
def test_contenders_no_better_than_one_that_is_blind_are_told(digits, is_learnable):
    X, y = digits
    y = y if is_learnable else np.random.default_rng(0).permutation(y)
    models = {"prior": DummyClassifier(), "near": KNeighborsClassifier(1)}
    models |= {"bayes": GaussianNB()}
    findings = compare_transfer(X, y, models, cv=3).findings_
    said = "No contender is clearly ahead of 'prior', which does not see the images."
    assert findings == ([] if is_learnable else [said])


@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_infinite_score_is_a_failure_that_costs_the_others_nothing(digits, value):
    def score(model, X, y):
        return value if isinstance(model, DummyClassifier) else model.score(X, y)

    models = {"dummy": DummyClassifier(), "one": LogisticRegression(max_iter=300)}
    models["two"] = LogisticRegression(C=0.1, max_iter=300)
    report = compare_transfer(*digits, models, cv=3, scoring=score)
    assert f"part is {value}; it may" in report.results_["error"][0]
    assert np.isfinite(report.gain("one", over="two").mean)
    assert np.isnan(report.gain("one", over="dummy")).all()
    assert sum(report.rank().values()) == pytest.approx(1)


def test_margin_that_no_difference_of_correlations_can_exceed_is_refused(digits):
    with pytest.raises(ValueError, match="as this score lies between -1 and 1"):
        compare_transfer(
            digits[0],
            digits[1] > 4,
            {"one": DummyClassifier()},
            cv=2,
            scoring="matthews_corrcoef",
            margin=2,
        )


def test_margin_that_no_difference_can_exceed_is_refused(digits):
    with pytest.raises(ValueError, match="margin=1 is as large as a difference can be"):
        compare_transfer(*digits, {"a": DummyClassifier()}, margin=1)


def test_groups_of_one_per_split_do_not_prove_a_difference_to_be_none():
    X, y = load_digits(n_class=2, return_X_y=True)
    features = PretrainedFeatureExtractor("sktl_mini")
    untrained = PretrainedFeatureExtractor("sktl_mini", weights=None)
    models = {
        "frozen": make_pipeline(features, LogisticRegression()),
        "untrained": make_pipeline(untrained, LogisticRegression()),
    }
    groups = np.arange(24) // 8
    report = compare_transfer(X[:24], y[:24], models, cv=3, groups=groups)
    assert report.effects_["difference"] == [0]
    assert report.effects_["verdict"] == ["inconclusive"]


def test_score_that_is_not_a_number_is_a_failure_with_a_reason():
    X, y = load_digits(return_X_y=True)

    def r2_of_the_user(model, X, y):
        return r2_score(y, model.predict(X))

    cv, models = LeaveOneOut(), {"a": DummyRegressor()}
    with pytest.raises(ValueError, match=r"1 row\(s\) of the test part is nan"):
        compare_transfer(X[:12], y[:12] + 0.5, models, cv=cv, scoring=r2_of_the_user)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(50), r"groups has shape \(50,\), but y has 120 rows"),
        (np.arange(150), r"groups has shape \(150,\), but y has 120 rows"),
        ([None] * 10 + ["a", "b"] * 55, r"missing .* for 10 row\(s\), first for row 0"),
    ],
)
def test_groups_that_are_not_one_for_each_row_are_refused(digits, groups, message):
    cv = list(KFold(3).split(digits[0]))
    with pytest.raises(ValueError, match=message):
        compare_transfer(*digits, {"a": DummyClassifier()}, cv=cv, groups=groups)


def test_splits_of_other_rows_are_refused(digits):
    cv = KFold(2).split(np.zeros(150))
    with pytest.raises(ValueError, match="names row 149, but X has 120 rows"):
        compare_transfer(*digits, {"a": DummyClassifier()}, cv=cv)


def test_frozen_estimator_is_a_contender(digits):
    X, y = digits
    network = make_pipeline(PretrainedFeatureExtractor("sktl_mini"), LinearSVC())
    models = {"deployed": FrozenEstimator(network.fit(X[:60], y[:60])), "svc": SVC()}
    report = compare_transfer(X, y, models, cv=3)
    assert report.results_["kind"].tolist() == ["frozen features", "classical"]
    expected = cross_val_score(models["deployed"], X, y, cv=3)
    assert splits_of(report, 0).tolist() == expected.tolist()


def test_pass_that_was_not_made_has_no_seconds(digits):
    report = compare_transfer(*digits, {"svc": SVC()}, cv=3)
    assert np.isnan(report.pass_seconds_)
    assert report.parameters_["seconds of the passes"] == "in the fits"


def test_reference_reaches_its_score_by_its_last_epoch():
    curve = {name: np.array([0.0, 1.0, 2.0]) for name in ("epoch", "seconds")}
    curves = {
        "scratch": [curve | {"score": np.array(s)} for s in ([0, 0.5, 0.5], [0, 0, 1])],
        "tuned": [curve | {"score": np.array(s)} for s in ([1, 1, 1], [0, 1, 1])],
    }
    found = findings_on([0.5, 1.0], [1.0, 1.0], curves).indicators()
    is_epochs = found["indicator"] == "epochs to the score from scratch"
    assert (found["high"][is_epochs] <= 2).all()


@pytest.mark.parametrize(
    ("in_between", "end"),
    [
        ([0.60, 0.61, 0.60, 0.59, 0.60], "training rows."),
        ([0.9, 0.1, 0.8, 0.2, 0.5], "training rows at which that is clear."),
    ],
)
def test_what_was_never_behind_does_not_catch_up(in_between, end):
    scratch, tuned = [0.80, 0.81, 0.80, 0.79, 0.80], [0.60, 0.61, 0.60, 0.59, 0.60]
    found = sentences_on([scratch] * 3, [tuned, in_between, tuned], sizes=(20, 40, 80))
    said = f"'tuned' is not ahead of 'scratch' at any size from 20 to 80 {end}"
    assert said in found


def test_catching_up_is_judged_among_as_many_comparisons_at_each_size():
    """At 20 rows "ahead" is ahead by a p-value below 5 %, but not as one of two."""
    noise = [0.84, 0.76, 0.82, 0.78, 0.80]
    scores = {
        "scratch": [[0.8] * 5, [0.8] * 5],
        "ahead": [[0.83, 0.87, 0.84, 0.88, 0.83], [0.8] * 5],
        "equal": [noise, noise],
    }
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "ahead": FineTunedCNNClassifier("sktl_mini"),
        "equal": FineTunedCNNClassifier("sktl_mini", strategy="gradual"),
    }
    evidence = Evidence({}, 0.2, 100, 100, bounds=(0.0, 1.0), margin=0.01)
    found = Findings(fake_scores(scores, (20, 80)), {}, contenders, evidence)
    assert (
        "'scratch' catches up with 'ahead' by 80 training rows; it is unclear whether "
        "it does so by 20." in found.sentences()
    )
