"""Comparisons, probes and rankings of numbers and tags; scikit-learn is the oracle."""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    make_scorer,
    r2_score,
)
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    GlobalScaler,
    PretrainedFeatureExtractor,
    compare_transfer,
    probe_layers,
    rank_backbones,
)
from sktl._comparison.contenders import default_contenders
from sktl._targets.kinds import check_rows
from tests.helpers import first_and_slow, splits_of

X, NUMBER = load_digits(return_X_y=True)
X, NUMBER = X[:120], NUMBER[:120]
RNG = np.random.default_rng(0)
PRICE = 1000 * NUMBER + RNG.normal(0, 300, 120)  # the number an image shows, plus noise
BOTH = np.c_[PRICE, X.sum(axis=1) / 7]  # and how much ink it has
TAGS = np.c_[NUMBER % 2 == 0, np.isin(NUMBER, [0, 6, 8, 9])]  # even, has a loop
RIDGE = RidgeCV(np.logspace(-6, 8, 57), alpha_per_target=True)
LOGISTIC = OneVsRestClassifier(LogisticRegression(max_iter=500))
# Folds for indicators keep the shares of these: each row counts for its rarest tag.
STRATA = np.where(TAGS[:, 1], 0, np.where(TAGS[:, 0], 1, 2))
TAG_FOLDS = list(StratifiedKFold(3).split(X, STRATA))
BASE = {"numbers": PRICE, "two numbers": BOTH, "tags": TAGS}


def scores_of(report, name, what="test_score"):
    (row,) = np.flatnonzero(report.results_["contender"] == name)
    splits = range(report.n_splits_)
    return np.array([report.results_[f"split{i}_{what}"][row] for i in splits])


# ---- compare_transfer


@pytest.mark.parametrize("y", [PRICE, BOTH], ids=["one", "two"])
def test_scores_of_numbers_are_those_of_cross_val_score(y):
    contenders = {"ridge": RIDGE, "mean": DummyRegressor()}
    report = compare_transfer(X, y, contenders, cv=3)
    assert (report.scoring_, report.target_) == ("r2", "numbers")
    assert report.classes_ is None
    for name, contender in contenders.items():
        expected = cross_val_score(contender, X, y, cv=KFold(3), scoring="r2")
        np.testing.assert_allclose(scores_of(report, name), expected)
    assert report.chance_ == pytest.approx(scores_of(report, "mean").mean())
    found = report.predictions_["ridge"]
    assert found["row"].tolist() == list(range(120))
    assert (found["y"] == y).all()
    for i in range(3):
        here = found["split"] == i
        score = r2_score(found["y"][here], found["predict"][here])
        assert score == pytest.approx(scores_of(report, "ridge")[i])
    assert "predict_proba" not in found


def test_scores_of_tags_are_mean_average_precisions():
    contenders = {
        "logistic": LOGISTIC,
        "neighbours": KNeighborsClassifier(),  # probabilities come as a list
        "each": MultiOutputClassifier(LogisticRegression(max_iter=500)),
    }
    report = compare_transfer(X, TAGS, contenders, cv=3)
    assert (report.scoring_, report.target_) == ("average_precision", "indicators")
    for name, contender in contenders.items():
        expected = cross_val_score(
            contender, X, TAGS, cv=TAG_FOLDS, scoring=report.scoring_
        )
        np.testing.assert_allclose(scores_of(report, name), expected)
        found = report.predictions_[name]
        assert found["predict_proba"].shape == TAGS.shape
        for i in range(3):
            here = found["split"] == i
            shown = found["predict_proba"][here]
            score = average_precision_score(found["y"][here], shown)
            assert score == pytest.approx(expected[i])
    share = [average_precision_score(TAGS[t], 0 * TAGS[t]) for _, t in TAG_FOLDS]
    assert report.chance_ == pytest.approx(np.mean(share))


@pytest.mark.slow
@pytest.mark.parametrize("y", BASE.values(), ids=BASE)
def test_default_contenders_have_their_counterparts(y):
    y, target = check_rows(X, y)
    network = PretrainedFeatureExtractor("sktl_mini", image_size=32)
    contenders = default_contenders(network, target)
    for name in ("fine-tuned network", "network from scratch"):
        contenders[name].set_params(max_epochs=1)
    report = compare_transfer(X, y, contenders, cv=2, random_state=0)
    assert (report.results_["error"] == "").all()
    scores = dict(zip(contenders, report.results_["mean_test_score"], strict=True))
    assert next(iter(scores.values())) == pytest.approx(report.chance_)
    assert scores["frozen features + SVM"] > report.chance_ + 0.2
    assert scores["frozen features + gradient boosting"] > report.chance_ + 0.2
    twins = dict(
        zip(report.effects_["contender"], report.effects_["twin"], strict=True)
    )
    assert twins == {
        f"frozen features + {target.linear_name}": (
            f"untrained network + {target.linear_name}"
        ),
        "fine-tuned network": "network from scratch",
    }
    assert set(report.curves_) == {"fine-tuned network", "network from scratch"}
    assert set(report.results_["kind"]) == {
        "classical",
        "random weights",
        "frozen features",
        "fine-tuned",
    }


@pytest.mark.parametrize(
    ("face", "y"),
    first_and_slow([(FineTunedCNNRegressor, PRICE), (FineTunedCNNClassifier, TAGS)]),
)
def test_curve_ends_at_the_score_of_the_trained_network(tiny_network, face, y):
    net = face(tiny_network, image_size=8, max_epochs=2, random_state=0)
    report = compare_transfer(X, y, {"net": net}, cv=2)
    ends = [curve["score"][-1] for curve in report.curves_["net"]]
    assert ends == pytest.approx(scores_of(report, "net").tolist())
    assert [len(curve["epoch"]) for curve in report.curves_["net"]] == [3, 3]


def test_groups_stay_together_whatever_is_predicted():
    groups = np.arange(120) // 4
    report = compare_transfer(X, PRICE, {"ridge": RIDGE}, cv=3, groups=groups)
    expected = cross_val_score(RIDGE, X, PRICE, groups=groups, cv=GroupKFold(3))
    np.testing.assert_allclose(scores_of(report, "ridge"), expected)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("folds", "groups"),
    [(StratifiedKFold(4), None), (StratifiedGroupKFold(4), np.arange(60) // 2)],
    ids=["rows", "groups"],
)
def test_each_fold_tests_on_rare_tags(folds, groups):
    tags = np.zeros((60, 3), dtype=int)
    tags[:8, 0] = tags[8:17, 1] = tags[:30, 2] = 1
    tags[20, 0] = tags[20, 1] = 1
    contenders = {"neighbours": KNeighborsClassifier()}
    report = compare_transfer(X[:60], tags, contenders, cv=4, groups=groups)
    assert report.results_["error"].tolist() == [""]
    found = report.predictions_["neighbours"]
    strata = np.select(list(tags.T == 1), [0, 1, 2], 3)  # by each row's rarest tag
    for i, (_, test) in enumerate(folds.split(X[:60], strata, groups)):
        assert (found["row"][found["split"] == i] == test).all()
        assert tags[test].any(axis=0).all()


def test_each_fold_tests_on_rows_that_lack_a_tag_which_nearly_all_have():
    tags = np.ones((60, 2), dtype=int)
    tags[:5, 0] = tags[::2, 1] = 0
    contenders = {"neighbours": KNeighborsClassifier()}
    report = compare_transfer(X[:60], tags, contenders, cv=5, scoring="roc_auc")
    assert report.results_["error"].tolist() == [""]


def test_further_score_that_a_test_part_cannot_have_is_missing_and_named():
    """scikit-learn would count 0 for the part without a positive row."""
    report = compare_transfer(
        X,
        IN_ORDER,
        {"one": KNeighborsClassifier()},
        cv=[(ROWS[30:], ROWS[:30]), (ROWS[::2], ROWS[1::2])],
        scoring=["accuracy", "average_precision", "f1"],
    )
    for name in ("average_precision", "f1"):
        assert np.isnan(report.results_[f"mean_test_{name}"]).all()
        assert any(f"{name!r} could not be" in text for text in report.findings_)


def test_folds_are_plain_if_no_combination_of_tags_is_frequent_enough():
    tags = np.eye(6, dtype=int)[np.arange(12) % 6]
    tags[:, 0] |= np.arange(12) % 2
    contenders = {"any": DummyClassifier()}
    report = compare_transfer(X[:12], tags, contenders, cv=5, scoring="accuracy")
    found = report.predictions_["any"]
    for i, (_, test) in enumerate(KFold(5).split(X[:12])):
        assert (found["row"][found["split"] == i] == test).all()


@pytest.mark.parametrize("y", BASE.values(), ids=BASE)
def test_smaller_training_parts_lie_in_larger_ones(y):
    fitted = []

    class Witness(DummyClassifier if y is TAGS else DummyRegressor):
        def fit(self, X, y):
            fitted.append({row.tobytes() for row in X})
            assert y is not TAGS or (y.any(axis=0) & ~y.all(axis=0)).all()
            return super().fit(X, y)

    rows = np.arange(120.0)[:, None]
    compare_transfer(
        rows, y, {"witness": Witness()}, cv=2, train_sizes=[4, 10, 1.0], random_state=0
    )
    own = fitted[-6:]
    assert [len(rows) for rows in own] == [4, 4, 10, 10, 60, 60]
    assert own[0] < own[2] < own[4]
    assert own[1] < own[3] < own[5]


class NeedsEachTag(DummyClassifier):
    def fit(self, X, y):
        assert y.any(axis=0).all()
        return super().fit(X, y)


def test_small_training_parts_hold_the_rarest_tag_whatever_its_column():
    """Each row that has it has a common one too, in a column before or behind."""
    tags = np.zeros((80, 3), int)
    tags[::2, 0] = tags[1::2, 1] = tags[::16, 2] = 1
    X = np.random.default_rng(0).random((80, 64))
    for order in ([0, 1, 2], [2, 1, 0]):
        report = compare_transfer(
            X,
            tags[:, order],
            {"one": NeedsEachTag()},
            cv=5,
            train_sizes=[3, 6],
            scoring="accuracy",
            random_state=0,
        )
        assert report.results_["error"].tolist() == ["", ""]


@pytest.mark.parametrize(
    "tool",
    [
        lambda X, y, **cv: compare_transfer(X, y, {"ridge": RIDGE}, **cv),
        pytest.param(
            lambda X, y, **cv: probe_layers(X, y, "sktl_mini", **cv),
            marks=pytest.mark.slow,
        ),
        lambda X, y, **cv: rank_backbones(X, y, ["sktl_mini"], method="probe", **cv),
    ],
    ids=["compare_transfer", "probe_layers", "rank_backbones"],
)
def test_rows_in_the_order_of_their_numbers_are_warned_of(tool):
    """As those of a sorted list of folders may be."""
    order = np.argsort(PRICE)
    said = r"scores -\d.* in some order.*shuffle=True"
    with pytest.warns(UserWarning, match=said) as caught:
        tool(X[order], PRICE[order])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tool(X, PRICE)
        tool(X[order], PRICE[order], cv=KFold(5, shuffle=True, random_state=0))


def test_few_large_numbers_among_many_small_ones_are_no_order():
    prices = np.random.default_rng(1).lognormal(sigma=2, size=(20, 60))
    dummy = {"dummy": DummyRegressor()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y in prices:
            compare_transfer(X[:60], y, dummy, scoring="neg_mean_absolute_error")


def test_steps_of_numbers_are_an_order():
    steps, ridge = np.repeat([1, 2, 3, 4, 5.5], 20), {"ridge": RIDGE}
    with pytest.warns(UserWarning, match="seem to be in some order"):
        compare_transfer(X[:100], steps, ridge, scoring="neg_mean_absolute_error")


def test_whole_numbers_are_labels_unless_it_is_said():
    report = compare_transfer(X, NUMBER, {"any": DummyClassifier()}, cv=2)
    assert report.target_ == "labels"
    report = compare_transfer(X, NUMBER, {"ridge": RIDGE}, cv=2, target="numbers")
    expected = cross_val_score(RIDGE, X, NUMBER, cv=KFold(2))
    np.testing.assert_allclose(scores_of(report, "ridge"), expected)


@pytest.mark.parametrize(
    ("y", "target"),
    [
        (pd.Series(PRICE, dtype="Float64"), "numbers"),
        (pd.Series(PRICE, dtype=object), "numbers"),
        (pd.DataFrame(BOTH, dtype=object), "numbers"),
        (pd.DataFrame({"a": NUMBER, "b": NUMBER % 2}), "numbers"),
        (pd.Series(NUMBER, dtype="Int64"), "labels"),
        (pd.Series(NUMBER % 2 == 0, dtype="boolean"), "labels"),
        (pd.Series(PRICE > 5000).astype(float), "labels"),
        (pd.DataFrame(TAGS, dtype="boolean"), "indicators"),
        (TAGS.astype(float), "indicators"),
        (TAGS.tolist(), "indicators"),
    ],
)
def test_what_y_holds_is_recognised_in_any_column(y, target):
    found, kind = check_rows(X, y)
    assert kind.name == target
    assert found.dtype != object


def test_one_column_is_one_number():
    frame = pd.DataFrame({"price": PRICE})
    report = compare_transfer(X, frame, {"ridge": RIDGE}, cv=2)
    plain = compare_transfer(X, PRICE, {"ridge": RIDGE}, cv=2)
    assert (scores_of(report, "ridge") == scores_of(plain, "ridge")).all()


# ---- probe_layers and rank_backbones


@pytest.mark.parametrize(
    ("y", "model"),
    [
        (PRICE, RIDGE),
        pytest.param(BOTH, RIDGE, marks=pytest.mark.slow),
        (TAGS, LOGISTIC),
    ],
    ids=BASE,
)
def test_probes_are_cross_validated_linear_models(y, model):
    features = PretrainedFeatureExtractor("sktl_mini").fit_transform(X)
    scoring = "average_precision" if y is TAGS else "r2"
    model = make_pipeline(GlobalScaler(), model)
    folds = TAG_FOLDS if y is TAGS else 3
    expected = cross_val_score(model, features, y, cv=folds, scoring=scoring)
    probe = probe_layers(X, y, cv=3, backbone="sktl_mini")
    assert probe.scoring_ == scoring
    last = [probe.results_[f"split{i}_test_score"][-1] for i in range(3)]
    np.testing.assert_allclose(last, expected, rtol=1e-5)
    ranking = rank_backbones(X, y, ["sktl_mini"], method="probe", cv=3)
    assert ranking.results_["score"][0] == pytest.approx(expected.mean(), rel=1e-5)


def test_advice_names_the_estimator_for_the_target():
    probe = probe_layers(X, PRICE, cv=3, backbone="sktl_mini")
    text = " ".join(probe.recommendation_["text"].split())
    assert "GlobalScaler and RidgeCV" in text
    assert "FineTunedCNNRegressor()" in text
    assert "FineTunedCNNClassifier" not in text


@pytest.mark.parametrize("y", [PRICE, BOTH], ids=["one", "two"])
def test_logme_of_numbers_does_not_depend_on_their_unit(y):
    candidates = {
        "as shipped": "sktl_mini",
        "untrained": PretrainedFeatureExtractor("sktl_mini", weights=None),
    }
    ranking = rank_backbones(X, PRICE, candidates)
    assert ranking.results_["backbone"][0] == "as shipped"
    other = rank_backbones(X, -3 * PRICE + 1e6, candidates)
    np.testing.assert_allclose(
        other.results_["score"], ranking.results_["score"], rtol=1e-6
    )


def test_logme_of_several_columns_is_the_mean_over_them():
    scores = [
        rank_backbones(X, y, ["sktl_mini"], target="numbers").results_["score"][0]
        for y in (BOTH, BOTH[:, 0], BOTH[:, 1])
    ]
    assert scores[0] == pytest.approx(np.mean(scores[1:]))


# ---- what goes wrong


class Unfitted(DummyRegressor):
    """A contender that must not be fitted."""

    def fit(self, X, y):
        raise AssertionError("was fitted")


@pytest.mark.parametrize(
    ("y", "params", "message"),
    [
        (NUMBER, {}, "contenders\\['one'\\] is a regressor, but y holds labels"),
        (TAGS, {}, "contenders\\['one'\\] is a regressor, but y holds indicators"),
        (PRICE, {"scoring": "accuracy"}, "'accuracy' does not suit y.* numbers"),
        (PRICE, {"scoring": ["r2", "roc_auc"]}, "'roc_auc' does not suit y"),
        (PRICE, {"scoring": "neg_expected_calibration_error"}, "does not suit y"),
        (PRICE, {"target": "labels"}, "Unknown label type: continuous"),
        (PRICE, {"target": "number"}, "target='number' must be 'auto', 'labels'"),
        (np.append(PRICE[:-1], np.inf), {}, "NaN or infinity in 1 row.* row 119"),
        (pd.array([0.5, *[None] * 119]), {"target": "numbers"}, "first in row 1"),
        (
            PRICE,
            {"train_sizes": [1]},
            r"\[0\]=1 is 1 rows. Accepted: 2 .* numbers\) to 96",
        ),
        (PRICE, {"cv": 121}, "121"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_fit(y, params, message):
    with pytest.raises(ValueError, match=message):
        compare_transfer(X, y, {"one": Unfitted()}, **params)


@pytest.mark.parametrize("tool", [compare_transfer, probe_layers])
def test_whole_numbers_that_are_too_many_for_labels_are_hinted_at(tool):
    price = RNG.permutation(120)
    with pytest.raises(ValueError, match="numbers to predict, pass target='numbers'"):
        tool(X, price)
    with pytest.raises(ValueError, match=r"rows?\.|out of X and y\.$"):
        tool(X, price.astype(str))


ROWS = np.arange(120)
IN_ORDER = np.sort(NUMBER % 2)
THREE = np.where(ROWS < 90, ROWS % 2, 2)  # the third occurs in one fold
RARE = np.c_[ROWS % 2, ROWS % 5 < 2, np.isin(ROWS, [0, 40, 80])].astype(int)
UNDEFINED = {
    "area, one class": (
        *(IN_ORDER, [(ROWS[30:], ROWS[:30]), (ROWS[:90], ROWS[90:])], "roc_auc"),
        r"scoring='roc_auc' .* split 0 of cv=.*, whose 30 test row\(s\) hold only "
        r"class 0\. .* hold each class, or another score\.$",
    ),
    "precision, no positive": (
        *(IN_ORDER, [(ROWS[30:], ROWS[:30]), (ROWS[:90], ROWS[90:])]),
        *(["average_precision", "accuracy"], r"'average_precision' .* only class 0\."),
    ),
    "area of each class": (
        *(THREE, [(ROWS[::2], ROWS[1::2]), (ROWS[20:], ROWS[:20])], "roc_auc_ovr"),
        r"split 1 of .* 20 test row\(s\) do not hold class\(es\) \[2\]\.",
    ),
    "log loss of text": (
        np.array(["a", "b", "c"])[THREE],
        *([(ROWS[::2], ROWS[1::2]), (ROWS[20:], ROWS[:20])], "neg_log_loss"),
        r"'neg_log_loss' .* do not hold class\(es\) \['c'\]\.",
    ),
    "a tag that is missing": (
        *(RARE, 4, None),
        r"'average_precision' is not defined on split 3 of cv=4, whose 30 test row"
        r"\(s\) hold no 1 in column\(s\) \[2\] of y.* with and without each tag, or",
    ),
    "no positive row": (
        *(IN_ORDER, [(ROWS[30:], ROWS[:30]), (ROWS[:90], ROWS[90:])], "f1"),
        r"'f1' .* split 0 .* whose 30 test row\(s\) hold only class 0\.",
    ),
    "one number in several rows": (
        *(
            np.where(ROWS < 20, 0, PRICE),
            [(ROWS[9:], ROWS[:9]), (ROWS[:60], ROWS[60:])],
        ),
        None,
        r"'r2' .* split 0 .* whose 9 test row\(s\) hold a single number\.",
    ),
    "a correlation of one class": (
        *(IN_ORDER, [(ROWS[30:], ROWS[:30]), (ROWS[:90], ROWS[90:])]),
        "matthews_corrcoef",
        r"'matthews_corrcoef' .* split 0 .* hold only class 0\.",
    ),
    "one number": (
        *(PRICE, LeaveOneOut(), None),
        r"'r2' .* split 0 of cv=LeaveOneOut\(\), whose 1 test row\(s\) hold a single "
        r"number\. .* hold different numbers, or another score\.$",
    ),
}


@pytest.mark.parametrize(
    ("y", "cv", "scoring", "message"), UNDEFINED.values(), ids=UNDEFINED
)
def test_score_that_a_test_part_cannot_have_is_refused_before_a_fit(
    y, cv, scoring, message
):
    class Unfit(DummyRegressor if y.dtype.kind == "f" else DummyClassifier):
        def fit(self, X, y):
            raise AssertionError("was fitted")

    with pytest.raises(ValueError, match=f"(?s){message}"):
        compare_transfer(X, y, {"one": Unfit()}, cv=cv, scoring=scoring)


@pytest.mark.parametrize("tool", ["probe_layers", "rank_backbones"])
def test_probe_is_refused_a_score_that_a_test_part_cannot_have(tool):
    def probe(X, y, **params):
        if tool == "probe_layers":
            return probe_layers(X, y, **params)
        return rank_backbones(X, y, method="probe", **params)

    unread = [b"no image"] * 120
    with pytest.raises(ValueError, match=r"'average_precision' .* \[2\] of y"):
        probe(unread, RARE, cv=4)


@pytest.mark.parametrize(
    ("y", "cv", "scoring"),
    [
        (THREE, [(ROWS[::2], ROWS[1::2]), (ROWS[20:], ROWS[:20])], "balanced_accuracy"),
        (1 - RARE, 4, "average_precision"),  # a tag that all have: 1
        (PRICE, LeaveOneOut(), "neg_mean_absolute_error"),
        *(
            pytest.param(*others, marks=pytest.mark.slow)
            for others in [
                (THREE, [(ROWS[::2], ROWS[1::2]), (ROWS[20:], ROWS[:20])], "f1_macro"),
                (NUMBER, LeaveOneOut(), None),
                (RARE, 4, "f1_micro"),
                (RARE, 4, "f1_weighted"),
            ]
        ),
    ],
)
def test_score_that_small_test_parts_can_have_is_computed(y, cv, scoring):
    model = DummyRegressor() if y is PRICE else DummyClassifier()
    report = compare_transfer(X, y, {"one": model}, cv=cv, scoring=scoring)
    assert report.results_["error"].tolist() == [""]


def test_classifier_for_numbers_is_refused():
    both = {"ridge": RIDGE, "logistic": LOGISTIC}
    with pytest.raises(ValueError, match="'logistic'. is a classifier, but y holds nu"):
        compare_transfer(X, PRICE, both)


def test_split_without_some_tag_is_named():
    tags = np.c_[NUMBER % 2, np.arange(120) < 40]
    with pytest.raises(ValueError, match=r"Split 0 of cv=KF.* trains .* no 1 in col"):
        compare_transfer(X, tags, {"logistic": LOGISTIC}, cv=KFold(3))


@pytest.mark.parametrize("y", [PRICE, TAGS], ids=["numbers", "indicators"])
def test_h_score_is_for_labels(y):
    with pytest.raises(ValueError, match="method='hscore' compares classes, but y hol"):
        rank_backbones(X, y, method="hscore")


@pytest.mark.parametrize("y", first_and_slow(BASE.values()), ids=BASE)
def test_svm_of_each_target_takes_no_notice_of_frames_from_transformers(y):
    """Of polars' frames `TransformedTargetRegressor` could make nothing."""
    y, target = check_rows(X, y)
    name = "frozen features + SVM"
    contenders = {name: default_contenders("sktl_mini", target)[name]}
    expected = compare_transfer(X, y, contenders, cv=2, random_state=0)
    with sklearn.config_context(transform_output="polars"):
        found = compare_transfer(X, y, contenders, cv=2, random_state=0)
    assert found.results_["error"].tolist() == [""]
    # Of such a frame scikit-learn makes float64.
    scores = [of.results_["mean_test_score"] for of in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def gain_of_alarms(y, predicted):
    """What right alarms bring, less what false ones cost."""
    return float(np.mean(5 * (y & predicted) - (~y & predicted)))


def count_of_hits(y, predicted):
    return float(np.sum(y == predicted))


@pytest.mark.parametrize("score", first_and_slow([gain_of_alarms, count_of_hits]))
def test_score_that_depends_on_the_number_of_rows_is_what_scikit_learn_gives(score):
    """It is lower for fewer rows, but not for want of anything."""
    y = NUMBER > 1
    scorer = make_scorer(score)
    scorer.__name__ = "own"
    model = LogisticRegression(max_iter=1000)
    report = compare_transfer(X, y, {"model": model}, cv=3, scoring=["f1", scorer])
    wanted = cross_val_score(model, X, y, cv=3, scoring=scorer)
    assert report.results_["mean_test_own"] == pytest.approx(wanted.mean())
    assert report.findings_ == []


def test_tags_of_rows_without_any_are_scored_in_further_columns():
    names = ["accuracy", "f1_samples", "jaccard_samples"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such rows count as 0
        report = compare_transfer(X, TAGS, {"model": LOGISTIC}, cv=3, scoring=names)
    assert np.isfinite(report.results_["mean_test_f1_samples"]).all()
    assert np.isfinite(report.results_["mean_test_jaccard_samples"]).all()


@pytest.mark.parametrize("first", first_and_slow([0, -1]))
def test_score_of_rows_without_tags_does_not_depend_on_their_order(first):
    """A test part lacks a tag, and one of its rows has none at all."""
    y = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]] * 5)
    part = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    y[:4] = np.roll(part, first, axis=0)
    splits = [(np.arange(4, 20), np.arange(4)), (np.arange(12), np.arange(12, 20))]
    model = MultiOutputClassifier(KNeighborsClassifier(3))
    names = ["f1_samples", "accuracy", "jaccard_samples", "f1_macro"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such rows count as 0
        report = compare_transfer(X[:20], y, {"model": model}, cv=splits, scoring=names)
    assert np.isfinite(report.results_["mean_test_score"]).all()
    assert np.isfinite(report.results_["mean_test_jaccard_samples"]).all()
    (finding,) = (f for f in report.findings_ if "could not be computed" in f)
    assert finding.startswith(
        "'f1_macro' could not be computed for 'model': ValueError"
    )
    assert "on split 0 of cv=" in finding
    assert finding.endswith("whose 4 test row(s) hold no 1 in column(s) [2] of y.")


def test_f1_of_a_class_by_name_is_not_zero_for_want_of_rows_in_further_columns():
    """As one has it of labels that are words."""
    y = np.where(NUMBER < 9, "well", "ill")
    (well,), rows = np.nonzero(y == "well"), np.arange(120)
    splits = [(np.setdiff1d(rows, part), part) for part in (well[:9], rows[:30])]
    scorer = make_scorer(f1_score, pos_label="ill")
    scorer.__name__ = "f1_ill"
    report = compare_transfer(
        X,
        y,
        {"model": KNeighborsClassifier(3)},
        cv=splits,
        scoring=["accuracy", scorer],
    )
    assert np.isnan(report.results_["mean_test_f1_ill"]).all()


def test_one_given_test_part_is_scored_on_with_draws_as_the_error_says():
    train, test = np.arange(80), np.arange(80, 120)
    ridge = {"ridge": RIDGE}
    with pytest.raises(
        ValueError, match=r"gives 1 split.*cv=\[\(train\[rows\], test\)"
    ):
        compare_transfer(X, PRICE, ridge, cv=[(train, test)])
    draws = ShuffleSplit(5, train_size=0.8, random_state=0).split(train)
    cv = [(train[rows], test) for rows, _ in draws]
    report = compare_transfer(X, PRICE, ridge, cv=cv)
    expected = cross_val_score(RIDGE, X, PRICE, cv=cv)
    np.testing.assert_allclose(scores_of(report, "ridge"), expected)


def test_each_contender_lacks_a_score_for_its_own_reason():
    """One has no probabilities; the test parts of the other lack a class."""
    models = {"svm": LinearSVC(), "logistic": LogisticRegression(max_iter=1000)}
    rows = np.argsort(NUMBER, kind="stable")
    scoring = ["accuracy", make_scorer(log_loss, response_method="predict_proba")]
    scoring[1].__name__ = "loss"
    report = compare_transfer(
        X[rows], NUMBER[rows], models, cv=KFold(3), scoring=scoring
    )
    of_svm, of_logistic = report.findings_
    assert "could not be computed for 'svm': AttributeError" in of_svm
    assert "could not be computed for 'logistic': ValueError" in of_logistic


@pytest.mark.parametrize("tool", [compare_transfer, probe_layers, rank_backbones])
def test_missing_y_is_refused_in_words(tool):
    with pytest.raises(ValueError, match="Pass one label per image"):
        tool(np.zeros((9, 64)), None)


def test_sparse_indicators_are_those_that_are_dense(digits):
    X, y = digits[0][:30], np.eye(3, dtype=int)[np.arange(30) % 3]
    dense, sparse = (
        compare_transfer(X, tags, {"one": DummyClassifier()}, cv=3)
        for tags in (y, csr_array(y))
    )
    assert splits_of(sparse).tolist() == splits_of(dense).tolist()
