"""What rows move a score, against formulas and the bootstrap."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sktl import PretrainedFeatureExtractor, compare_transfer
from sktl._comparison.influence import Predicted, influence, make_units
from sktl._targets.scoring import Scorer
from tests.helpers import first_and_slow


@pytest.fixture(scope="module")
def fitted():
    X, y = load_digits(return_X_y=True)
    y = (y % 3 == 0).astype(int)
    X = X + np.random.RandomState(0).normal(0, 10, X.shape)
    return (
        LogisticRegression(max_iter=300).fit(X[:150], y[:150]),
        X[150:300],
        y[150:300],
    )


def moved(fitted, scorer, units=None):
    if isinstance(scorer, str):
        scorer = Scorer(scorer, get_scorer(scorer))
    else:
        scorer = Scorer("score", scorer, is_of_user=True)
    model, X, y = fitted
    units = np.arange(len(y)) if units is None else units
    score = scorer(model, X, y)
    return influence(
        Predicted(model, X), y, units, scorer, score, n_units=units.max() + 1
    )


def test_accuracy_is_moved_as_a_mean_of_hits(fitted):
    model, X, y = fitted
    hits = model.predict(X) == y
    found = moved(fitted, "accuracy")
    expected = (hits - hits.mean()) / np.sqrt(len(y) * (len(y) - 1))
    assert found == pytest.approx(expected)


def test_accuracy_at_once_is_accuracy_without_each_unit(fitted):
    """The same score under a name that is not known, by units of several rows."""
    units = np.random.RandomState(0).randint(40, size=150)

    def score(y_true, y_predicted):
        return accuracy_score(y_true, y_predicted)

    found = moved(fitted, "accuracy", units)
    assert found == pytest.approx(moved(fitted, make_scorer(score), units))


def test_log_loss_is_moved_as_a_mean_of_losses(fitted):
    model, X, y = fitted
    least = np.finfo(float).eps  # as scikit-learn bounds what is surely wrong
    losses = -np.log(np.maximum(model.predict_proba(X)[np.arange(len(y)), y], least))
    found = moved(fitted, "neg_log_loss")
    expected = (losses.mean() - losses) / np.sqrt(len(y) * (len(y) - 1))
    assert found == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scoring",
    [
        "f1",
        *(
            pytest.param(scoring, marks=pytest.mark.slow)
            for scoring in ("roc_auc", "balanced_accuracy", "matthews_corrcoef")
        ),
    ],
)
def test_other_scores_have_the_standard_error_of_the_bootstrap(fitted, scoring):
    model, X, y = fitted
    scorer = get_scorer(scoring)
    rng = np.random.default_rng(0)
    parts = rng.integers(len(y), size=(400, len(y)))
    expected = np.std([scorer(model, X[part], y[part]) for part in parts])
    found = np.sqrt(np.sum(moved(fitted, scoring) ** 2))
    assert found == pytest.approx(expected, rel=0.12)


def test_margins_of_an_svm_are_enough_for_an_area(fitted):
    """It has no probabilities."""
    _, X, y = fitted
    model = SVC().fit(X[:75], y[:75])
    assert moved((model, X[75:], y[75:]), "roc_auc") is not None


def needs_all_rows(model, X, y):
    if len(y) < 150:
        raise ValueError("too few rows")
    return accuracy_score(y, model.predict(X))


@pytest.mark.parametrize(
    "scorer",
    [
        lambda model, X, y: float(np.mean(X > 5)),  # of the rows themselves
        lambda model, X, y: float(model.n_iter_[0]),  # of the fit
        needs_all_rows,
    ],
)
def test_score_of_more_than_predictions_is_not_known_by_rows(fitted, scorer):
    assert moved(fitted, scorer) is None


def test_one_unit_alone_moves_nothing_that_could_be_told(fitted):
    assert moved(fitted, "accuracy", np.zeros(150, dtype=int)) is None


def test_units_are_groups_and_not_too_many():
    groups = np.repeat(["b", "a", "c"], 4)
    units = make_units(groups, np.arange(12))
    assert len(np.unique(units)) == 3
    assert all(len(np.unique(units[groups == group])) == 1 for group in "abc")
    sizes = np.bincount(make_units(np.arange(1050), np.arange(1050)))
    assert len(sizes) == 200
    assert set(sizes) == {5, 6}


def test_score_that_is_not_known_by_rows_has_the_interval_of_its_splits():
    """And nothing fails."""
    X, y = load_digits(return_X_y=True)

    def brightness(model, X, y):
        return X.mean() / 16 + 0.0 * model.score(X, y)

    model = {"model": LogisticRegression(max_iter=300)}
    report = compare_transfer(X[:100], y[:100], model, cv=4, scoring=brightness)
    results = report.results_
    values = np.array([results[f"split{i}_test_score"][0] for i in range(4)])
    half = 3.182 * values.std(ddof=1) / 2  # no row is tested on twice
    assert results["high_test_score"] - values.mean() == pytest.approx(half, rel=1e-3)
    assert report.findings_ == [
        "The intervals of 'model' are computed from the splits alone: a test part is a "
        "single row or group, or the score cannot be worked out again with a row left "
        "out (it may not be defined without some row). Take them with care."
    ]


@pytest.mark.parametrize(
    ("scoring", "cost"),
    first_and_slow(
        [
            ("average_precision", 11),
            ("f1", 12),
            ("recall", 12),
            ("matthews_corrcoef", 12),
        ]
    ),
)
def test_perfect_score_with_one_positive_row_in_each_split_hangs_on_these(
    scoring, cost
):
    """Without that row, scikit-learn sets the score to 0."""
    y = (np.arange(60) % 12 == 0).astype(int)
    models = {"perfect": SVC(C=100), "other": SVC(C=1000)}
    report = compare_transfer(y[:, None].astype(float), y, models, scoring=scoring)
    assert report.results_["mean_test_score"].tolist() == [1, 1]
    # Of the rule of three; five splits. One error in a part of 12 takes `cost` / 12.
    half = stats.t.ppf(0.975, 4) * 1.5 * cost / 60
    assert report.results_["low_test_score"] == pytest.approx([1 - half] * 2)
    gain = report.gain("perfect", over="other")
    assert gain.high == -gain.low == pytest.approx(half / 1.5)
    assert any("defined without some row" in text for text in report.findings_)


@pytest.mark.parametrize(
    ("scoring", "n_rows"),
    [
        ("accuracy", 60),
        ("recall", 10),
        # Of the first error in 2 positive rows of 12: F1s of 2 / 3 and 20 / 21.
        pytest.param(
            "f1_macro",
            60 / 12 / np.mean([1 / 3, 1 / 21]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_perfect_score_is_as_sure_as_there_are_rows_that_may_lower_it(scoring, n_rows):
    y = (np.arange(60) % 6 == 0).astype(int)
    X = y[:, None].astype(float)
    if scoring == "f1_macro":
        y = np.array(["no", "yes"], dtype=object)[y]
    report = compare_transfer(X, y, {"perfect": SVC(C=100)}, scoring=scoring)
    half = stats.t.ppf(0.975, 59) * 1.5 / n_rows
    assert report.results_["low_test_score"] == pytest.approx([1 - half])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_score_that_is_set_to_zero_anyhow_is_known_without_each_row(fitted):
    _, X, y = fitted
    units = np.arange(150) % 20
    never = DummyClassifier().fit(X, y)  # predicts no positive row
    for scoring in ("precision", "f1", "f1_macro"):
        assert moved((never, X, y), scoring, units) is not None
    for scoring in ("f1", "f1_macro", "precision", "recall", "average_precision"):
        assert (moved(fitted, scoring, units) != 0).sum() > 10


def test_labels_predicted_in_one_column_are_those_without_the_axis():
    """So predicts CatBoost where there are more than two classes."""

    class InOneColumn(SVC):
        def predict(self, X):
            return super().predict(X)[:, None]

    X, y = load_digits(return_X_y=True)
    models = {"plain": SVC(), "column": InOneColumn(), "other": LogisticRegression()}
    report = compare_transfer(X[:90], y[:90], models, cv=3)
    assert report.gain("column", over="other") == report.gain("plain", over="other")
    plain, column = (report.predictions_[name] for name in ("plain", "column"))
    assert np.array_equal(column["predict"], plain["predict"])


def test_rows_that_are_never_tested_on_make_an_interval_no_narrower():
    """Twice the same 20 test rows: the t-interval of these, and of one more."""
    X, y = load_digits(return_X_y=True)
    cv = [(np.arange(20, 320), np.arange(20))] * 2
    model = SVC(gamma=0.01)
    report = compare_transfer(X[:320], y[:320], {"model": model}, cv=cv)
    hits = model.fit(X[20:320], y[20:320]).predict(X[:20]) == y[:20]
    half = stats.t.ppf(0.975, 19) * np.hypot(stats.sem(hits), 1 / 20)
    (low,) = report.results_["low_test_score"]
    assert 0 < low == pytest.approx(hits.mean() - half)


@pytest.mark.parametrize("n_tested", [20, 25])  # 5 is the exact root of 25
def test_same_test_rows_in_all_splits_tell_nothing_of_a_score_not_known_by_rows(
    n_tested,
):
    """However little the score varies between the splits."""
    X, y = load_digits(return_X_y=True)
    cv = [(np.arange(n_tested, 100), np.arange(n_tested))] * 3
    features = PretrainedFeatureExtractor("sktl_mini", image_size=16)
    untrained = clone(features).set_params(weights=None)
    guess = DummyClassifier(strategy="uniform")
    models = {
        "frozen": make_pipeline(features, guess),
        "untrained": make_pipeline(untrained, guess),
    }

    def points(model, X, y):
        return 100 * model.score(X, y)

    report = compare_transfer(
        X[:100], y[:100], models, cv=cv, scoring=points, random_state=0
    )
    gain = report.gain("frozen", over="untrained")
    assert (gain.low, gain.high, gain.p_value) == (-np.inf, np.inf, 1)
    assert report.results_["low_test_score"].tolist() == [-np.inf, -np.inf]
    assert report.effects_["verdict"] == ["inconclusive"]
    assert set(report.rank().values()) == {0.5}
    assert "no difference could be detected: all splits" in report.findings_[0]
    display = report.plot()
    numbers = [text.get_text() for text in display.ax_.texts]
    assert numbers == [f"{m:.3f}" for m in -np.sort(-display.means)]


def test_groups_widen_the_interval():
    """Four copies of a row are one row."""
    X, y = load_digits(return_X_y=True)
    X, y, groups = (np.repeat(part, 4, axis=0) for part in (X[:60], y[:60], range(60)))
    model = {"model": SVC()}
    widths = []
    for whose in (groups, np.arange(240)):
        results = compare_transfer(X, y, model, cv=5, groups=whose).results_
        widths += (results["high_test_score"] - results["low_test_score"]).tolist()
    assert widths[0] > 1.5 * widths[1]
