"""Several tags per image: indicators in, indicators out, one loss per tag."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from sktl import FineTunedCNNClassifier, GlobalScaler, PretrainedFeatureExtractor
from tests.helpers import first_and_slow

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
RNG = np.random.default_rng(0)
TAGS = np.c_[np.arange(36) % 2, np.arange(36) % 3 == 0, np.arange(36) % 5 < 2].astype(
    int
)
X = RNG.integers(0, 120, (36, 8, 8, 3)).astype(np.uint8)
X += (100 * TAGS[:, None, None]).astype(np.uint8)


@pytest.fixture
def features(make):
    extractor = PretrainedFeatureExtractor(
        make().backbone, image_size=8, device="cpu", precision="float32"
    )
    return extractor.fit_transform(X).astype(float)


def oracle(**params):
    """What scikit-learn has for it, to be fitted on features."""
    model = LogisticRegression(tol=1e-8, max_iter=10_000, **params)
    return make_pipeline(GlobalScaler(), OneVsRestClassifier(model))


# ---- the fitted head


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1, 1: 5}])
def test_linear_probe_is_a_logistic_regression_per_tag(make, features, class_weight):
    clf = make("linear_probe", C=0.5, class_weight=class_weight).fit(X, TAGS)
    expected = oracle(C=0.5, class_weight=class_weight).fit(features, TAGS)
    np.testing.assert_allclose(
        clf.predict_proba(X), expected.predict_proba(features), atol=1e-5
    )
    np.testing.assert_allclose(
        clf.decision_function(X), expected.decision_function(features), atol=1e-4
    )
    assert (clf.predict(X) == expected.predict(features)).all()


def test_penalty_of_each_tag_is_that_of_ridge_by_leave_one_out(make, features):
    """Ten times as much; scikit-learn's RidgeCV leaves each row out."""
    scaled = GlobalScaler().fit_transform(features)
    tags = np.c_[TAGS, np.random.default_rng(0).permutation(TAGS[:, 0])]
    alpha = RidgeCV(np.logspace(-2, 6, 33), alpha_per_target=True).fit(scaled, tags)
    logits = make("linear_probe").fit(X, tags).decision_function(X)
    for tag, column, penalty in zip(logits.T, tags.T, alpha.alpha_, strict=True):
        model = LogisticRegression(C=min(1, 10 / penalty), tol=1e-8, max_iter=10_000)
        expected = model.fit(scaled, column).decision_function(scaled)
        np.testing.assert_allclose(tag, expected, atol=1e-4)


def test_weight_of_a_fitted_head_is_a_number_of_copies(make):
    copies = np.random.default_rng(1).integers(0, 4, 36)
    repeated = np.repeat(np.arange(36), copies)
    weighted = make("linear_probe", class_weight="balanced")
    weighted.fit(X, TAGS, sample_weight=copies)
    plain = make("linear_probe", class_weight="balanced")
    plain.fit(X[repeated], TAGS[repeated])
    np.testing.assert_allclose(
        weighted.predict_proba(X), plain.predict_proba(X), atol=1e-5
    )


# ---- any strategy


@pytest.mark.parametrize("strategy", first_and_slow(reversed(STRATEGIES)))
def test_predictions_are_indicators_and_probabilities_of_each_tag(make, strategy):
    clf = make(strategy).fit(X, TAGS)
    probabilities = clf.predict_proba(X)
    assert clf.classes_.tolist() == [0, 1, 2]
    assert probabilities.shape == TAGS.shape
    assert ((probabilities > 0) & (probabilities < 1)).all()
    predicted = clf.predict(X)
    assert predicted.dtype == TAGS.dtype
    assert (predicted == (probabilities > 0.5)).all()
    logits = clf.decision_function(X)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, rtol=1e-6)
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(probabilities))
    assert clf.score(X, TAGS) == accuracy_score(TAGS, predicted)


def test_loss_is_that_of_torch_for_each_tag(make):
    """The first step's loss, before anything was learnt."""
    clf = make("full", lr=1e-12, max_epochs=1, batch_size=36).fit(X, TAGS)
    loss = torch.nn.BCEWithLogitsLoss()(
        torch.tensor(clf.decision_function(X)), torch.tensor(TAGS, dtype=float)
    )
    assert clf.history[0, "train_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_weights_of_classes_weigh_rows_and_tags_in_training(make):
    clf = make("full", lr=1e-12, max_epochs=1, batch_size=36, class_weight="balanced")
    clf.fit(X, TAGS)
    share = TAGS.mean(axis=0)
    weights = np.where(TAGS, 1 / (2 * share), 1 / (2 * (1 - share)))
    losses = torch.nn.BCEWithLogitsLoss(reduction="none")(
        torch.tensor(clf.decision_function(X)), torch.tensor(TAGS, dtype=float)
    )
    expected = (losses.numpy() * weights).mean() / weights.mean()
    assert clf.history[0, "train_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "same",
    [TAGS.astype(bool), TAGS.astype(float), TAGS.tolist(), csr_array(TAGS)],
    ids=["bool", "float", "list", "sparse"],
)
def test_form_of_the_indicators_does_not_matter(make, same):
    expected = make("linear_probe").fit(X, TAGS)
    found = make("linear_probe").fit(X, same)
    assert (found.predict_proba(X) == expected.predict_proba(X)).all()


@pytest.mark.slow
def test_tags_of_digits_are_learnt():
    digits, number = load_digits(return_X_y=True)
    tags = np.c_[number % 2 == 0, np.isin(number, [0, 6, 8, 9])]  # even, has a loop
    clf = FineTunedCNNClassifier("sktl_mini", max_epochs=2, random_state=0)
    clf.fit(digits[:300], tags[:300])
    predicted = clf.predict(digits[300:500])
    assert ((predicted == tags[300:500]).mean(axis=0) > 0.9).all()


@pytest.mark.parametrize("monitor", ["loss", "average_precision"])
def test_early_stopping_watches_tags(make, monitor):
    clf = make("full", monitor=monitor, early_stopping=True, validation_fraction=1 / 3)
    clf.set_params(max_epochs=4).fit(X, TAGS)
    name = "valid_loss" if monitor == "loss" else "valid_score"
    best = np.argmin if monitor == "loss" else np.argmax
    assert clf.n_epochs_ == best(clf.history[:, name]) + 1


def test_partial_fit_goes_on_with_the_tags_it_began_with(make):
    first = np.flatnonzero(TAGS[:, 0])  # that it can be off, classes= says
    clf = make("full", class_weight="balanced")
    clf.partial_fit(X[first], TAGS[first], classes=range(3))
    clf.partial_fit(X, TAGS)
    assert len(clf.history) == 4
    with pytest.raises(ValueError, match="y has 2 columns, but there are 3 tags"):
        clf.partial_fit(X, TAGS[:, :2])
    with pytest.raises(ValueError, match="y has 3 columns, but there are 2 tags"):
        make("full").partial_fit(X, TAGS, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"y has shape \(36,\)"):
        clf.partial_fit(X, TAGS[:, 0])


def test_search_over_tags_is_by_any_score_of_them(make):
    search = GridSearchCV(
        make("full"),
        {"lr": [1e-12, 0.3]},
        cv=2,
        scoring="average_precision",
        error_score="raise",
    )
    first, second = search.fit(X, TAGS).cv_results_["mean_test_score"]
    assert first != second


def test_saved_classifier_of_tags_is_loaded(tmp_path):
    clf = FineTunedCNNClassifier(
        "sktl_mini", strategy="linear_probe", random_state=0
    ).fit(X, TAGS)
    clf.save(tmp_path / "tags.safetensors")
    again = FineTunedCNNClassifier.load(tmp_path / "tags.safetensors")
    assert (again.predict_proba(X) == clf.predict_proba(X)).all()
    assert again.classes_.tolist() == [0, 1, 2]


# ---- what goes wrong


def with_cell(value):
    y = TAGS.astype(object)
    y[7, 1] = value
    return y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (TAGS * [1, 0, 1], r"y holds no 1 in column\(s\) \[1\]"),
        (TAGS | [0, 0, 1], r"y holds no 0 in column\(s\) \[2\]"),
        (TAGS * 2, "y holds 2 in row 0, column 1"),
        (with_cell(0.5), "y holds 0.5 in row 7, column 1"),
        (with_cell(np.nan), "y holds nan in row 7, column 1"),
        (with_cell(None), "y holds None in row 7, column 1"),
        (with_cell("1"), "y holds '1' in row 7, column 1"),
    ],
)
def test_what_is_no_indicator_is_named_by_row_and_column(make, y, message):
    with pytest.raises(ValueError, match=message):
        make().fit(X, y)


def test_loss_that_a_fitted_head_cannot_follow_is_told_of(make):
    params = {"criterion": torch.nn.BCEWithLogitsLoss}
    params["criterion__pos_weight"] = torch.ones(3)
    with pytest.warns(UserWarning, match="fitted by logistic regression"):
        make("linear_probe", **params).fit(X, TAGS)


def test_one_label_per_row_as_indicators_is_warned_of(make):
    one_hot = np.eye(3)[np.arange(36) % 3]
    with pytest.warns(UserWarning, match="exactly one 1 in each row.*argmax"):
        clf = make("linear_probe").fit(X, one_hot)
    assert clf.predict(X).shape == (36, 3)


def test_loss_of_probabilities_trains_as_that_of_logits_does(make):
    """`BCELoss` is given probabilities."""
    ours = make("full", criterion=torch.nn.BCELoss).fit(X, TAGS)
    usual = make("full").fit(X, TAGS)
    np.testing.assert_allclose(
        ours.predict_proba(X), usual.predict_proba(X), rtol=1e-3, atol=1e-4
    )


def test_tag_that_is_the_same_in_all_rows_of_a_first_batch_is_unlikely(make):
    clf = make("lp_ft", lr=1e-6)
    tags = TAGS.copy()
    tags[:, 1] = 0
    clf.partial_fit(X, tags, classes=[0, 1, 2])
    probabilities = clf.predict_proba(X)
    assert probabilities[:, 1].max() < 0.05
    assert probabilities[:, 0].std() > 0.05
