"""`FineTunedCNNRegressor`: numbers, by the parts that the classifier is made of."""

import pickle
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import skorch
import torch
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneGroupOut,
    cross_val_score,
)
from sklearn.utils.estimator_checks import check_estimator
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    PretrainedFeatureExtractor,
)
from sktl.exceptions import ModelFileError
from tests.helpers import each_once, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
RNG = np.random.default_rng(0)
X = RNG.integers(0, 120, (36, 8, 8, 3)).astype(np.uint8)
LIGHT = RNG.uniform(0, 120, 36)
X[..., 0] += LIGHT.astype(np.uint8)[:, None, None]
PRICE = 1e5 + 300 * LIGHT
BOTH = np.c_[PRICE, -0.01 * LIGHT + RNG.normal(0, 0.1, 36)]


@pytest.fixture
def regressor(kept_network):
    def make(strategy="linear_probe", **params):
        defaults = {
            "image_size": 8,
            "batch_size": 12,
            "max_epochs": 2,
            "precision": "float32",
            "random_state": 0,
        }
        return FineTunedCNNRegressor(
            kept_network, strategy=strategy, **defaults | params
        )

    return make


@pytest.fixture
def features(regressor):
    extractor = PretrainedFeatureExtractor(
        regressor().backbone, image_size=8, precision="float32"
    )
    return extractor.fit_transform(X).astype(float)


@pytest.mark.slow
def test_all_estimator_checks_pass():
    reg = FineTunedCNNRegressor(
        "sktl_mini", strategy="linear_probe", image_shape=(1, -1), random_state=0
    )
    results = check_estimator(reg, on_fail=None, on_skip=None)
    assert Counter(r["status"] for r in results) == {"passed": 60}


def test_is_a_skorch_net_of_numbers(regressor):
    reg = regressor("full").fit(X, PRICE)
    assert isinstance(reg, skorch.NeuralNetRegressor)
    assert not hasattr(reg, "predict_proba")
    assert "train_loss" in reg.history[-1]


# ---- the fitted head; the oracle is scikit-learn on the features


@pytest.mark.parametrize("y", [PRICE, BOTH], ids=["one", "two"])
def test_linear_probe_is_ridge_with_the_penalty_of_leave_one_out(
    regressor, features, y
):
    grid = np.logspace(-2, 6, 33)
    scaled = (y - y.mean(axis=0)) / y.std(axis=0)
    features = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    model = RidgeCV(grid, alpha_per_target=y.ndim > 1).fit(features, scaled)
    expected = model.predict(features) * y.std(axis=0) + y.mean(axis=0)
    predicted = regressor().fit(X, y).predict(X)
    assert predicted.shape == y.shape
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "weights", first_and_slow([RNG.uniform(0.01, 0.2, 36), np.ones(36)])
)
def test_penalty_is_that_of_models_that_each_lack_a_row(regressor, features, weights):
    """By brute force: the closed form of what is left out is right."""
    y = LIGHT + 40 * np.random.default_rng(1).normal(size=36)
    expected = best_ridge(features, y, weights, np.arange(36)).predict(features)
    predicted = regressor().fit(X, y, sample_weight=weights).predict(X)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4)


def test_penalty_is_that_of_models_that_each_lack_all_copies_of_an_image(regressor):
    """Others of its augmented copies would tell what an image is."""
    made = []

    def brighter(image):
        made.append(image // 2 + torch.randint(100, (1,), dtype=torch.uint8))
        return made[-1]

    y = LIGHT + 40 * np.random.default_rng(1).normal(size=36)
    reg = regressor(augment=brighter, max_epochs=3).fit(X, y)
    extractor = PretrainedFeatureExtractor(
        reg.backbone, image_size=8, precision="float32"
    ).fit(X)
    copies = extractor.transform(torch.stack(made).permute(0, 2, 3, 1).numpy())
    images = np.tile(np.arange(36), 3)
    ridge = best_ridge(copies, y[images], np.full(108, 1 / 3), images)
    expected = ridge.predict(extractor.transform(X))
    np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("weights", "size"),
    each_once([np.ones(36), RNG.uniform(0, 0.2, 36).round(1)], [3, 12]),
)
def test_penalty_is_that_of_models_that_each_lack_a_group(
    regressor, features, weights, size
):
    """By two formulas: there are more rows in a large group than features."""
    groups = np.random.default_rng(2).permutation(36) // size
    y = LIGHT + 60 * np.random.default_rng(16).normal(size=(36 // size))[groups]
    kept = weights > 0
    rows = features[kept], y[kept], weights[kept], np.flatnonzero(kept)
    ridge = best_ridge(*rows, groups[kept])
    fit = regressor().fit
    predicted = fit(X, y, sample_weight=weights, groups=groups).predict(X)
    np.testing.assert_allclose(predicted, ridge.predict(features), rtol=1e-4)
    single = fit(X, y, sample_weight=weights).predict(X)
    assert np.abs(single - predicted).max() > 1  # another penalty


def best_ridge(features, y, weights, images, groups=None):
    """Ridge regression with the penalty that predicts best the groups left out."""
    features = features.astype(float)
    groups = images if groups is None else groups
    splits = [*LeaveOneGroupOut().split(features, y, groups)]

    def squared_errors(penalty):
        for train, test in splits:
            of_train = weights[train]
            centre = np.average(features[train], axis=0, weights=of_train)
            mean = np.average(y[train], weights=of_train)
            rows = features[train] - centre
            weighted = rows.T * of_train
            of_rows = weighted @ rows + penalty * np.eye(len(weighted))
            slope = np.linalg.solve(of_rows, weighted @ (y[train] - mean))
            away = (features[test] - centre) @ slope + mean - y[test]
            yield weights[test] @ away**2

    centre = np.average(features, axis=0, weights=weights)
    variance = np.average((features - centre) ** 2, axis=0, weights=weights).mean()
    unit = variance * weights.sum() / len(np.unique(images))
    penalties = np.logspace(-2, 6, 33) * unit
    best = min(penalties, key=lambda penalty: sum(squared_errors(penalty)))
    return Ridge(best).fit(features, y, weights)


def test_feature_that_hardly_varies_in_training_does_not_run_wild():
    """Among features of an untrained network there are some."""
    digits, number = load_digits(return_X_y=True)
    reg = FineTunedCNNRegressor(
        "sktl_mini", weights=None, strategy="linear_probe", random_state=0
    )
    folds = KFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(reg, digits[:100], number[:100] + 0.5, cv=folds)
    assert scores.min() > 0.2


def test_weight_of_a_fitted_head_is_a_number_of_copies(regressor):
    copies = np.random.default_rng(1).integers(0, 4, 36)
    repeated = np.repeat(np.arange(36), copies)
    weighted = regressor().fit(X, BOTH, sample_weight=copies)
    plain = regressor().fit(X[repeated], BOTH[repeated])
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), rtol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 1 / 36, 100.0])
def test_one_weight_for_all_rows_leaves_the_probe_as_it_is(regressor, weight):
    weighted = regressor().fit(X, BOTH, sample_weight=np.full(36, weight))
    plain = regressor().fit(X, BOTH)
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), rtol=1e-5)


# ---- any strategy


@pytest.mark.parametrize(
    ("strategy", "y"), each_once(STRATEGIES, [PRICE, BOTH, PRICE[:, None]])
)
def test_predictions_have_the_unit_and_shape_of_y(regressor, strategy, y):
    reg = regressor(strategy).fit(X, y)
    predicted = reg.predict(X)
    assert predicted.shape == y.shape
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(predicted.mean(axis=0), y.mean(axis=0), rtol=0.5)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("strategy", "unit"), each_once(STRATEGIES, [1e6, 1e-170, 1e140])
)
def test_unit_of_y_changes_nothing_but_the_unit(regressor, strategy, unit):
    one, other = (regressor(strategy).fit(X, LIGHT * f + f) for f in (1.0, unit))
    np.testing.assert_allclose(
        other.predict(X) / unit, one.predict(X), rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings("error::sklearn.exceptions.UndefinedMetricWarning")
def test_one_row_is_enough_to_begin_with(regressor):
    reg = regressor("lp_ft", augment="auto").partial_fit(X[:1], PRICE[:1])
    assert reg.predict(X[:2]).shape == (2,)


@pytest.mark.slow
def test_training_lowers_the_squared_error(regressor):
    y = LIGHT + RNG.normal(0, 1, 36)
    reg = regressor("full", max_epochs=30, lr=0.01).fit(X, y)
    losses = reg.history[:, "train_loss"]
    assert losses[-1] < losses[0]
    error = np.mean(((reg.predict(X) - y) / y.std()) ** 2)
    assert error == pytest.approx(losses[-1], rel=0.3)


@pytest.mark.slow
def test_numbers_that_digits_show_are_learnt():
    digits, number = load_digits(return_X_y=True)
    reg = FineTunedCNNRegressor("sktl_mini", max_epochs=2, random_state=0)
    reg.fit(digits[:200], number[:200])
    assert reg.score(digits[200:400], number[200:400]) > 0.75


@pytest.mark.parametrize("monitor", ["loss", "r2"])
def test_early_stopping_keeps_the_best_epoch(regressor, monitor):
    noise = np.random.default_rng(3).permutation(PRICE)
    stop = {"early_stopping": True, "validation_fraction": 1 / 3}
    reg = regressor("full", monitor=monitor, n_iter_no_change=3, **stop)
    reg.set_params(max_epochs=40, lr=0.05).fit(X, noise)
    if monitor == "loss":
        assert reg.n_epochs_ == np.argmin(reg.history[:, "valid_loss"]) + 1
    else:
        assert reg.n_epochs_ == np.argmax(reg.history[:, "valid_score"]) + 1


@pytest.mark.parametrize("monitor", ["loss", "r2"])
def test_what_early_stopping_began_with_is_in_the_history(regressor, monitor):
    stop = {"early_stopping": True, "validation_fraction": 1 / 3}
    reg = regressor("lp_ft", monitor=monitor, lr=1e-12, **stop).fit(X, PRICE)
    name = "valid_loss" if monitor == "loss" else "valid_score"
    first, second = reg.history
    assert first[f"{name}_before"] == pytest.approx(first[name], rel=1e-4)
    assert f"{name}_before" not in second


def test_numbers_that_vary_in_one_group_alone_can_be_held_out(regressor):
    stop = {"early_stopping": True, "validation_fraction": 0.3, "max_epochs": 1}
    y = np.where(np.arange(len(PRICE)) < 9, PRICE, 0.0)
    for seed in range(4):
        reg = regressor("full", random_state=seed, **stop)
        assert reg.fit(X, y, groups=np.arange(len(y)) // 9).n_epochs_ == 1


def test_random_hidden_layers_are_nothing_to_go_back_to(regressor):
    """No head is fitted then, so the first epoch is the first state to compare."""
    stop = {"early_stopping": True, "validation_fraction": 1 / 3}
    reg = regressor("lp_ft", hidden_units=(4,), lr=1e-12, **stop).fit(X, PRICE)
    assert "valid_loss_before" not in reg.history[0]
    assert reg.n_epochs_ == np.argmin(reg.history[:, "valid_loss"]) + 1


@pytest.mark.parametrize(
    ("scoring", "use_caching"),
    each_once(["r2", "neg_mean_absolute_error"], [True, False]),
)
def test_scoring_callback_scores_numbers_in_their_unit(regressor, scoring, use_caching):
    score = EpochScoring(
        scoring, name="score", lower_is_better=False, use_caching=use_caching
    )
    split = ValidSplit(3)
    reg = regressor("lp_ft", callbacks=[("score", score)], train_split=split)
    reg.set_params(lr=1e-12).fit(X, PRICE)
    _, valid = split(np.arange(36), PRICE)
    rows = valid.indices
    expected = get_scorer(scoring)(reg, X[rows], PRICE[rows])
    assert reg.history[-1, "score"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_partial_fit_warns_of_a_first_batch_that_does_not_vary(regressor):
    reg = regressor("full")
    with pytest.warns(UserWarning, match="does not vary, so its standard deviation"):
        reg.partial_fit(X[:4], np.full(4, 7.0))
    assert reg.target_scale_ == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reg.partial_fit(X[:4], np.full(4, 7.0))  # a later one may be constant


def test_partial_fit_goes_on_in_the_unit_it_began_with(regressor):
    reg = regressor("full").partial_fit(X, PRICE)
    mean = reg.target_mean_
    reg.partial_fit(X[:12], PRICE[:12] * 2)
    assert reg.target_mean_ == mean
    assert len(reg.history) == 4
    with pytest.raises(ValueError, match="in the first call"):
        reg.partial_fit(X, BOTH)


def test_fitted_regressor_survives_pickle_clone_and_search(regressor):
    reg = regressor("lp_ft").fit(X, BOTH)
    again = pickle.loads(pickle.dumps(reg))
    assert np.array_equal(again.predict(X), reg.predict(X))
    assert np.array_equal(clone(reg).fit(X, BOTH).predict(X), reg.predict(X))
    search = GridSearchCV(reg, {"lr": [1e-3, 1e-1]}, cv=2, error_score="raise")
    first, second = search.fit(X, PRICE).cv_results_["mean_test_score"]
    assert first != second


@pytest.mark.parametrize("y", first_and_slow([PRICE, BOTH]), ids=["one", "two"])
def test_saved_regressor_is_loaded_as_it_was(tmp_path, y):
    reg = FineTunedCNNRegressor(
        "sktl_mini", max_epochs=1, hidden_units=(4,), random_state=0
    )
    reg.fit(X, y).save(tmp_path / "prices.safetensors")
    again = FineTunedCNNRegressor.load(tmp_path / "prices.safetensors", device="cpu")
    assert np.array_equal(again.predict(X), reg.predict(X))
    assert np.array_equal(again.target_scale_, reg.target_scale_)
    assert again.predict(X).shape == y.shape
    assert again.history[:, "train_loss"] == reg.history[:, "train_loss"]


def test_file_of_a_regressor_is_not_loaded_as_a_classifier(tmp_path):
    reg = FineTunedCNNRegressor("sktl_mini", strategy="linear_probe").fit(X, PRICE)
    reg.save(tmp_path / "prices.safetensors")
    with pytest.raises(ModelFileError, match="'FineTunedCNNRegressor', not a"):
        FineTunedCNNClassifier.load(tmp_path / "prices.safetensors")


def test_saved_backbone_of_a_regressor_is_a_network_for_others(tmp_path):
    reg = FineTunedCNNRegressor(
        "sktl_mini", strategy="full", max_epochs=1, random_state=0
    )
    path = tmp_path / "backbone.safetensors"
    reg.fit(X, PRICE).save_backbone(path)
    solved = FineTunedCNNRegressor("sktl_mini", weights=path, strategy="linear_probe")
    assert solved.fit(X, PRICE).predict(X).shape == PRICE.shape


# ---- what goes wrong


def test_unfitted_regressor_says_so(regressor):
    for use in (lambda r: r.predict(X), lambda r: r.initialize()):
        with pytest.raises(NotFittedError):
            use(regressor())


def test_other_loss_of_a_fitted_head_is_told_of(regressor):
    with pytest.warns(UserWarning, match="fitted by ridge regression"):
        regressor(criterion=torch.nn.L1Loss).fit(X, PRICE)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_file_with_a_scale_that_is_none_is_refused(
    regressor, tmp_path, monkeypatch, scale
):
    reg = regressor().set_params(backbone="sktl_mini").fit(X, PRICE)
    path = tmp_path / "model.safetensors"
    # As if another version had written it: by hand, `scale` cannot be set.
    monkeypatch.setattr(type(reg.target_), "__post_init__", lambda self: None)
    reg.target_ = replace(reg.target_, scale=np.array(scale))
    reg.save(path)
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="not means and deviations"):
        FineTunedCNNRegressor.load(path)


def test_weights_of_one_change_nothing_for_several_numbers(regressor):
    """The loss has an entry per number then, and one weight a row."""
    plain = regressor("full").fit(X, BOTH)
    weighted = regressor("full").fit(X, BOTH, sample_weight=np.ones(len(X)))
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), rtol=1e-5)
    weight = 1.0 + np.arange(len(X))
    other = regressor("full").fit(X, BOTH, sample_weight=weight).predict(X)
    assert not np.allclose(other, plain.predict(X), rtol=1e-5)


def test_sparse_numbers_are_refused(regressor):
    with pytest.raises((TypeError, ValueError), match="sparse|Sparse"):
        regressor().fit(X, csr_array(BOTH))


def test_no_numbers_are_refused(regressor):
    with pytest.raises(ValueError, match="at least|0 sample|no numbers"):
        regressor().fit(X[:0], PRICE[:0])


def test_weights_of_zero_everywhere_are_refused(regressor):
    with pytest.raises(ValueError, match="zero in every row|at least one non-zero"):
        regressor().fit(X, PRICE, sample_weight=np.zeros(len(X)))


def test_weights_are_routed_to_fit_and_score(regressor):
    weights = 1.0 + np.arange(36)
    with config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        routed = cross_val_score(
            model, X, PRICE, cv=KFold(3), params={"sample_weight": weights}
        )
    for score, (train, test) in zip(routed, KFold(3).split(X), strict=True):
        fitted = regressor().fit(X[train], PRICE[train], weights[train])
        assert score == fitted.score(X[test], PRICE[test], weights[test])


def test_classes_of_numbers_are_refused(regressor):
    with pytest.raises(TypeError, match="numbers have no classes"):
        regressor("full").partial_fit(X, PRICE, classes=[0, 1])
