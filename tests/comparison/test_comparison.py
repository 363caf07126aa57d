"""`compare_transfer`: plain scikit-learn gives the same numbers, one by one."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score
from sklearn.model_selection import (
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

import sktl
from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    compare_transfer,
    probe_layers,
    rank_backbones,
)
from sktl._features.engine import Engine
from sktl.exceptions import ImageSizeWarning
from tests.helpers import FailsWithout, first_and_slow, scores_of, splits_of


@pytest.fixture(scope="module")
def report(digits, contenders):
    return compare_transfer(*digits, contenders, cv=3, random_state=0)


def test_scores_are_those_of_cross_val_score(digits, contenders, report):
    for i, (name, contender) in enumerate(contenders.items()):
        scores = cross_val_score(contender, *digits, cv=3)
        row = [report.results_[f"split{fold}_test_score"][i] for fold in range(3)]
        assert report.results_["contender"][i] == name
        assert row == scores.tolist()
        assert report.results_["mean_test_score"][i] == pytest.approx(scores.mean())
        error = scores.std(ddof=1) / np.sqrt(3)
        assert report.results_["se_test_score"][i] == pytest.approx(error)


@pytest.mark.parametrize(
    "labels", first_and_slow([lambda y: y, lambda y: y.astype(str)])
)
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


@pytest.mark.parametrize("scoring", first_and_slow([None, "neg_log_loss", "f1_macro"]))
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


def test_print_is_an_aligned_table(report):
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    titles = ["contender", "accuracy", "95 % interval", "fit seconds"]
    assert re.split(r"  +", lines[0]) == titles
    assert repr(report) == str(report)


@pytest.mark.slow
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


def test_single_split_is_refused(digits, contenders):
    with pytest.raises(ValueError, match="gives 1 split"):
        compare_transfer(*digits, contenders, cv=[(np.arange(60), np.arange(60, 99))])


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


def test_class_that_is_tested_but_not_trained_on_is_warned_of(digits):
    X, y = digits
    groups = np.where(y == 3, 0, 1 + np.arange(120) % 8)  # all threes are one group
    said = r"Class\(es\) \[3\] .* in 1 of 3 splits .* needs rows in several groups"
    contender = {"one": LogisticRegression(max_iter=500)}
    with pytest.warns(UserWarning, match=said):
        compare_transfer(X, y, contender, cv=3, groups=groups)


@pytest.mark.parametrize("cv", [3, LeaveOneOut()])
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_class_of_one_row_is_to_be_labelled_more(digits, cv):
    X, y = digits[0][:20], np.arange(20) // 7  # 0 and 1 seven times, 2 six times
    y[0] = 9
    said = r"Class\(es\) \[9\] of y .* Label more rows of these, or leave them out"
    with pytest.warns(UserWarning, match=said):
        compare_transfer(X, y, {"one": DummyClassifier()}, cv=cv)


def test_nothing_is_not_taken_for_one_class(unfitted):
    with pytest.raises(ValueError, match="0 sample.* is their folder right"):
        compare_transfer([], [], unfitted)


@pytest.mark.parametrize(
    "step", first_and_slow(["Findings", "collect_evidence", "collect_predictions"])
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


@pytest.mark.parametrize(
    ("is_kept", "bad"),
    [pytest.param(False, [], marks=pytest.mark.slow), (True, [b"no image"])],
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


@pytest.mark.slow
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


# --- networks, and what the report remembers ----------------------------------------


@pytest.mark.slow
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


@pytest.mark.parametrize("name", first_and_slow(["accuracy", "accuracy_points"]))
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
        pytest.param(LeaveOneOut(), accuracy_of_the_user, marks=pytest.mark.slow),
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
