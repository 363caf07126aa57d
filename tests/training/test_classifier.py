"""`FineTunedCNNClassifier`: a skorch net, a scikit-learn classifier, truly frozen."""

import tracemalloc
from copy import deepcopy

import numpy as np
import pytest
import skorch
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import Dataset, ValidSplit

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    cache_info,
)
from sktl._features.cache import open_cache
from sktl._networks.backbones import load_backbone
from sktl.exceptions import ImageReadError, WeightsMismatchError
from tests.helpers import encode, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "scratch"]


@pytest.fixture(autouse=True)
def _empty_cache():
    open_cache("memory").clear()  # which keeps the networks


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:60], y[:60], X[60:120], y[60:120]


@pytest.fixture(scope="module")
def three(digits):
    """Three classes with names, few enough to train on in a second."""
    X, y, _, _ = digits
    rows = y < 3
    return X[rows], np.array(["zero", "one", "two"])[y[rows]]


def quick(**params):
    defaults = {
        "image_size": 32,
        "backbone": "sktl_mini",
        "unfreeze_from": "last",
        "max_epochs": 2,
        "random_state": 0,
    }
    return FineTunedCNNClassifier(**defaults | params)


@pytest.mark.parametrize("strategy", first_and_slow(reversed(STRATEGIES)))
def test_labels_come_back_as_they_were_given(three, strategy):
    X, y = three
    clf = quick(strategy=strategy).fit(X, y)
    assert clf.classes_.tolist() == ["one", "two", "zero"]
    assert set(clf.predict(X)) <= set(y)
    assert clf.predict_proba(X).sum(axis=1) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "labels",
    first_and_slow([[5, 3], [True, False], [2.0, 7.0], ["a", "b"], np.int32([8, 9])]),
)
def test_labels_of_any_kind(digits, labels):
    X, y, _, _ = digits
    rows = y < 2
    given = np.asarray(labels)[y[rows]]
    clf = quick(strategy="linear_probe").fit(X[rows], given)
    assert clf.score(X[rows], given) == 1
    assert clf.predict(X[rows]).dtype == given.dtype


@pytest.mark.parametrize("C", first_and_slow([0.01, 1.0]))
def test_linear_probe_is_logistic_regression_on_the_features(digits, C):
    X, y, X_test, _ = digits
    probe = FineTunedCNNClassifier(
        "sktl_mini", strategy="linear_probe", C=C, precision="float32"
    ).fit(X, y)
    model = make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", precision="float32"),
        FunctionTransformer(np.float64),  # in float32, lbfgs ends earlier
        GlobalScaler(),
        LogisticRegression(C=C, max_iter=10_000, tol=1e-8),
    ).fit(X, y)
    np.testing.assert_allclose(
        probe.predict_proba(X_test), model.predict_proba(X_test), atol=1e-4
    )


@pytest.mark.parametrize("C", first_and_slow([0.01, 1.0]))
def test_linear_probe_of_two_classes_is_logistic_regression_too(digits, C):
    X, y, X_test, _ = digits
    X, y = X[y < 2], y[y < 2]
    probe = FineTunedCNNClassifier(
        "sktl_mini", strategy="linear_probe", C=C, precision="float32"
    ).fit(X, y)
    model = make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", precision="float32"),
        FunctionTransformer(np.float64),
        GlobalScaler(),
        LogisticRegression(C=C, tol=1e-9),
    ).fit(X, y)
    np.testing.assert_allclose(
        probe.decision_function(X_test), model.decision_function(X_test), atol=1e-3
    )


@pytest.mark.parametrize("n_classes", first_and_slow([2, 10]))
def test_penalty_of_the_probe_is_that_of_ridge_by_leave_one_out(digits, n_classes):
    """Ten times as much; scikit-learn's RidgeCV leaves each row out."""
    X, y, _, _ = digits
    X, y = X[y < n_classes], y[y < n_classes]
    noisy = np.where(np.arange(len(y)) % 3 == 0, np.roll(y, 1), y)
    extractor = PretrainedFeatureExtractor("sktl_mini", precision="float32")
    scaled = GlobalScaler().fit_transform(extractor.fit_transform(X).astype(float))
    ridge = RidgeCV(np.logspace(-2, 6, 33)).fit(scaled, np.eye(n_classes)[noisy])
    C = 10 / ridge.alpha_
    assert C < 0.5  # of noise, not the upper end
    auto, fixed = (
        FineTunedCNNClassifier(
            "sktl_mini", strategy="linear_probe", C=c, precision="float32"
        )
        for c in ("auto", C)
    )
    np.testing.assert_allclose(
        auto.fit(X, noisy).predict_proba(X),
        fixed.fit(X, noisy).predict_proba(X),
        atol=1e-6,
    )


def test_order_and_copies_of_rows_move_no_bit_of_the_probe(digits):
    X, y, X_test, _ = digits
    probe = FineTunedCNNClassifier(
        "sktl_mini", strategy="linear_probe", precision="float32"
    )
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(y)), 2))
    copied = probe.fit(X[rows], y[rows]).predict_proba(X_test)
    weighted = probe.fit(X, y, np.full(len(y), 2)).predict_proba(X_test)
    assert np.array_equal(copied, weighted)


@pytest.mark.parametrize("C", [0, "some"])
def test_penalty_that_is_none_is_refused(digits, C):
    X, y, _, _ = digits
    with pytest.raises(ValueError, match="The 'C' parameter .* must be"):
        FineTunedCNNClassifier("sktl_mini", C=C).fit(X, y)


@pytest.mark.slow
def test_training_lowers_the_loss_of_every_epoch_strategy(digits):
    X, y, _, _ = digits
    for strategy in STRATEGIES[1:]:
        clf = quick(strategy=strategy, max_epochs=6).fit(X, y)
        losses = clf.history[:, "train_loss"]
        assert losses[-1] < losses[0], strategy


# ---- frozen and trained parts


def test_training_leaves_the_shared_network_alone(digits):
    """Extractors of this process use the same network."""
    X, y, _, _ = digits
    before = load_backbone("sktl_mini").digest
    quick(strategy="full", max_epochs=1).fit(X, y)
    assert load_backbone("sktl_mini").digest == before


def test_each_image_passes_the_frozen_part_once(three):
    X, y = three
    quick(max_epochs=3).fit(X, y)
    assert cache_info().computed == len(np.unique(X, axis=0))
    quick(max_epochs=2).fit(X, y)
    assert cache_info().computed == len(np.unique(X, axis=0))


def test_module_is_the_whole_network(digits):
    """From preprocessed images to logits, for users of plain torch."""
    X, y, X_test, _ = digits
    clf = quick(image_size=64, precision="float32").fit(X, y)
    pixels = np.round(X_test.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(p).convert("RGB").resize((64, 64), Image.BILINEAR))
        for p in pixels
    ]
    images = (torch.tensor(np.array(resized)) / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = deepcopy(clf.module_).cpu().eval()(images.permute(0, 3, 1, 2))
    expected = clf.decision_function(X_test)
    np.testing.assert_allclose(logits, expected, atol=1e-3)


# ---- randomness


@pytest.mark.parametrize("strategy", first_and_slow(reversed(STRATEGIES)))
def test_random_state_alone_decides_the_result(make, three, strategy):
    X, y = three
    torch.manual_seed(1)
    first = make(strategy=strategy).fit(X, y).predict_proba(X)
    torch.manual_seed(2)
    np.random.seed(2)
    second = make(strategy=strategy).fit(X, y).predict_proba(X)
    assert np.array_equal(first, second)


def test_random_state_is_what_scikit_learn_takes(make, three):
    X, y = three

    def fitted(seed):
        clf = make(strategy="scratch", max_epochs=1, random_state=seed).fit(X, y)
        return clf.predict_proba(X)

    assert np.array_equal(fitted(np.int64(3)), fitted(3))
    state = np.random.RandomState(3)
    first, second = fitted(state), fitted(state)  # it moves on
    assert not np.array_equal(first, second)
    assert np.array_equal(fitted(np.random.RandomState(3)), first)
    with pytest.raises(ValueError, match=r"random_state.*RandomState.*Generator"):
        fitted(np.random.default_rng(3))


def test_rows_do_not_influence_one_another(digits):
    X, y, X_test, _ = digits
    clf = quick().fit(X, y)
    together = clf.predict_proba(X_test)
    fours = np.vstack([clf.predict_proba(X_test[i : i + 4]) for i in range(5)])
    assert np.array_equal(fours[::4], together[:5])


@pytest.mark.parametrize("n_rows", first_and_slow([1, 2, 3]))
@pytest.mark.parametrize("strategy", first_and_slow(["full", "lp_ft"]))
def test_few_rows_are_computed_alone_and_differ_by_rounding(digits, strategy, n_rows):
    X, y, X_test, _ = digits
    clf = quick(strategy=strategy, image_size=64, max_epochs=1, precision="float32")
    clf.fit(X, y)
    together = clf.decision_function(X_test)[:n_rows]
    seen = []
    clf.module_.head.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    few = clf.decision_function(X_test[:n_rows])
    assert seen == [n_rows]
    np.testing.assert_allclose(few, together, rtol=1e-4, atol=1e-4)


def test_subclass_predicts_with_dropout_by_the_arguments_of_skorch(make, digits):
    """Its `evaluation_step` has two, as skorch documents it."""
    X, y, X_test, _ = digits

    class WithDropout(FineTunedCNNClassifier):
        def evaluation_step(self, batch, training=False):
            return super().evaluation_step(batch, training=True)

    settings = make("full", max_epochs=1, dropout=0.5).get_params(deep=False)
    clf = WithDropout(**settings).fit(X, y)
    for n_rows in (2, len(X_test)):
        first, second = (clf.predict_proba(X_test[:n_rows]) for _ in range(2))
        assert first.shape == (n_rows, len(clf.classes_))
        assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("strategy", "n_rows"),
    first_and_slow([("full", 1030), ("lp_ft", 1030), ("full", 1024), ("full", 2050)]),
)
def test_many_rows_are_predicted_in_parts_with_the_same_bits(make, strategy, n_rows):
    X = np.random.default_rng(0).integers(0, 256, (n_rows, 8, 8, 3), dtype=np.uint8)
    clf = make(strategy, max_epochs=1, cache=None).fit(X[:12], [0, 1] * 6)
    apart = [clf.predict_proba(X[i : i + 205]) for i in range(0, n_rows, 205)]
    assert np.array_equal(clf.predict_proba(X), np.vstack(apart))


@pytest.mark.slow
def test_memory_of_a_prediction_does_not_grow_with_the_rows(make):
    X = np.random.default_rng(0).integers(0, 256, (4096, 8, 8, 3), dtype=np.uint8)
    clf = make("full", image_size=64, max_epochs=1).fit(X[:12], [0, 1] * 6)
    peaks = []
    for n_rows in (1024, 4096):
        tracemalloc.start()
        clf.predict(X[:n_rows])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_unreadable_images_of_all_parts_are_named_by_row(make, digits):
    pixels = (15 * digits[0][:12]).astype(np.uint8).reshape(-1, 8, 8)
    X = [encode(image) for image in pixels]
    clf = make("full").fit(X, [0, 1] * 6)
    X = X * 100
    X[3] = X[1100] = X[1199] = b"no image"
    with pytest.raises(ImageReadError) as info:
        clf.predict(X)
    assert [row for row, *_ in info.value.failures] == [3, 1100, 1199]


# ---- a skorch net


def test_is_a_skorch_net_with_history_and_callbacks(three):
    X, y = three
    clf = quick(
        train_split=ValidSplit(3, stratified=True),
        callbacks=[("f1", EpochScoring("f1_macro", lower_is_better=False))],
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
    ).fit(X, y)
    assert isinstance(clf, skorch.NeuralNetClassifier)
    assert {"train_loss", "valid_loss", "valid_acc", "f1_macro"} <= set(clf.history[-1])
    assert clf.history[-1, "valid_acc"] > 0.5
    assert clf.optimizer_.param_groups[0]["momentum"] == 0.9


def test_partial_fit_goes_on_from_where_it_was(make, three):
    X, y = three
    clf = make().fit(X, y)
    clf.partial_fit(X, y)
    assert len(clf.history) == 4
    with pytest.raises(ValueError, match=r"y holds \['three'\], which the classes"):
        clf.partial_fit(X[:1], ["three"])


def test_partial_fit_learns_all_classes_it_is_told_of(make, three):
    X, y = three
    clf = make(strategy="full")
    clf.partial_fit(X[y == "one"], y[y == "one"], classes=np.unique(y))
    clf.partial_fit(X, y)
    assert clf.predict_proba(X).shape == (len(X), 3)


def test_partial_fit_of_a_fitted_head_is_refused(three):
    clf = quick(strategy="linear_probe")
    with pytest.raises(AttributeError, match="no attribute 'partial_fit'") as raised:
        clf.partial_fit(*three)
    assert "cannot continue training" in str(raised.value.__cause__)
    clf.set_params(hidden_units=[4]).partial_fit(*three).partial_fit(*three)
    assert len(clf.history) == 4


def test_head_is_fitted_without_the_validation_rows(digits):
    """Or the validation score would be that of rows the head has seen."""
    X, y, _, _ = digits
    noise = np.random.default_rng(0).permutation(y)
    split = ValidSplit(0.5, stratified=True)  # another split at every call
    clf = quick(max_epochs=1, lr=1e-9, train_split=split).fit(X, noise)
    assert clf.history[-1, "valid_acc"] < 0.5


def test_warm_start_keeps_the_classes_it_began_with(make, three):
    X, y = three
    clf = make(strategy="full", warm_start=True).fit(X, y)
    clf.fit(X, y)
    assert len(clf.history) == 4
    with pytest.raises(ValueError, match="which the classes .* leave out"):
        clf.fit(X, np.arange(len(X)) % 2)


def test_first_batch_of_a_stream_may_lack_classes(three):
    X, y = three
    first = y != "two"
    clf = quick().partial_fit(X[first], y[first], classes=np.unique(y))
    assert clf.predict_proba(X).shape == (len(X), 3)
    assert clf.score(X[first], y[first]) == 1


def test_classes_of_skorch_are_refused(three):
    with pytest.raises(ValueError, match="labels are taken from y"):
        quick(classes=["zero", "one", "two"]).fit(*three)


@pytest.mark.parametrize("unfreeze_from", first_and_slow(["stem", "*", np.int64(4)]))
def test_everything_may_be_unfrozen_after_probing(three, unfreeze_from):
    clf = quick(max_epochs=1, unfreeze_from=unfreeze_from).fit(*three)
    assert clf.frozen_up_to_ == ""
    assert clf.score(*three) == 1


def test_numpy_integers_are_integers(make, three):
    numbers = {"batch_size": np.int64(8), "image_size": np.int64(8)}
    plain = make(batch_size=8, image_size=8).fit(*three)
    clf = make(**numbers).fit(*three)
    assert np.array_equal(clf.predict_proba(three[0]), plain.predict_proba(three[0]))


@pytest.mark.parametrize("use_safetensors", first_and_slow([False, True]))
def test_saved_parameters_load_into_another_net(make, three, tmp_path, use_safetensors):
    X, y = three
    clf = make().fit(X, y)
    clf.save_params(tmp_path / "params", use_safetensors=use_safetensors)
    other = make(random_state=1).fit(X, y)
    other.load_params(tmp_path / "params", use_safetensors=use_safetensors)
    assert other.get_params()["device"] == clf.get_params()["device"]
    assert np.array_equal(other.predict_proba(X), clf.predict_proba(X))


def test_loaded_parameters_are_those_of_the_frozen_part_too(three, tmp_path):
    X, y = three
    clf = quick(unfreeze_from="last").fit(X, y)
    clf.save_params(tmp_path / "params")
    other = quick(unfreeze_from="last", weights=None).fit(X, y)
    other.load_params(tmp_path / "params")
    assert np.array_equal(other.predict_proba(X), clf.predict_proba(X))
    other.save(tmp_path / "other")
    loaded = FineTunedCNNClassifier.load(tmp_path / "other")
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))


def test_callback_of_the_user_takes_the_place_of_ours_of_that_name(make, three):
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=1.0)
    clf = make(max_epochs=4, callbacks=[("early_stopping", stop)]).fit(*three)
    assert len(clf.history) == clf.n_epochs_ < 4
    constant = LRScheduler("StepLR", step_size=99)
    clf = make(lr_schedule="one_cycle", callbacks=[("lr_schedule", constant)])
    assert len(clf.fit(*three).history) == 2


def test_rates_set_by_a_callback_hold_within_the_cycle(make, three):
    class Stop(Callback):
        def on_train_begin(self, net, **kwargs):
            self.rates = []

        def on_grad_computed(self, net, **kwargs):
            self.rates.append(max(g["lr"] for g in net.optimizer_.param_groups))

        def on_epoch_end(self, net, **kwargs):
            net.set_params(lr=1e-9)

    clf = make(strategy="full", callbacks=[("stop", Stop())]).fit(*three)
    rates = dict(clf.callbacks_)["stop"].rates
    first = len(rates) // 2
    assert min(rates[:first]) > 1e-9 >= max(rates[first:])


def test_callback_that_refit_leaves_without_rows_is_refused_before_the_search(three):
    stop = {"early_stopping": True, "validation_fraction": 0.3, "refit": True}
    watcher = EarlyStopping(patience=3)
    with pytest.raises(ValueError, match=r"'valid_loss', .* second fit of refit=True"):
        quick(callbacks=[watcher], **stop).fit(*three)


def test_split_of_the_user_may_give_both_parts(three):
    X, y = three

    def split(dataset, codes=None):
        return Dataset(X[::2], y[::2]), Dataset(X[1::2], y[1::2])

    clf = quick(train_split=split).fit(X, y)
    assert "valid_loss" in clf.history[-1]
    assert clf.score(X, y) > 0.5


# ---- scikit-learn's tools


@pytest.mark.slow
def test_grid_search_over_strategy_and_pipeline(digits):
    X, y, _, _ = digits
    search = GridSearchCV(
        make_pipeline(quick(max_epochs=1)),
        {"finetunedcnnclassifier__strategy": STRATEGIES},
        cv=2,
        error_score="raise",
    )
    search.fit(X, y)
    assert len(search.cv_results_["mean_test_score"]) == 4
    assert search.best_score_ > 0.5


@pytest.mark.slow
def test_grid_search_over_backbone(digits):
    X, y, _, _ = digits
    grid = {"backbone": ["sktl_mini", "squeezenet1_1"]}
    clf = quick(strategy="linear_probe", weights=None, image_size=32)
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]


def test_cross_validate_takes_paths_and_arrays(three, tmp_path):
    X, y = three
    images = np.round(X.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    clf = quick(strategy="linear_probe")
    of_paths, of_images, of_rows = (
        cross_validate(clf, data, y, cv=2, error_score="raise")["test_score"]
        for data in (paths, images, X)
    )
    assert np.array_equal(of_paths, of_images)
    assert np.array_equal(of_images, of_rows)


@pytest.mark.slow
def test_folds_in_other_processes_give_the_same_scores(three):
    X, y = three
    alone = cross_val_score(quick(), X, y, cv=2)
    parallel = cross_val_score(quick(), X, y, cv=2, n_jobs=2)
    assert np.array_equal(alone, parallel)


# ---- one's own source model


def test_saved_backbone_is_the_next_backbone(three, tmp_path):
    X, y = three
    path = tmp_path / "mine.safetensors"
    source = quick(strategy="scratch").fit(X, y)
    source.save_backbone(path)
    extractor = PretrainedFeatureExtractor(
        "sktl_mini", weights=path, precision="float32"
    )
    features = extractor.fit_transform(X)
    with torch.no_grad():
        (batch,) = source.get_dataset(X)[:][:1]
        module = deepcopy(source.module_).cpu().eval()
        expected = module.features(_normal(batch["rows"]))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    target = quick(weights=path, strategy="linear_probe").fit(X, y)
    assert target.score(X, y) > 0.5


def _normal(pixels):
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def test_saved_backbone_in_half_precision_is_half_as_large(three, tmp_path):
    clf = quick(strategy="linear_probe").fit(*three)
    sizes = []
    for precision in ("float32", "float16"):
        clf.save_backbone(tmp_path / "mine.safetensors", precision)
        sizes.append((tmp_path / "mine.safetensors").stat().st_size)
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.02)


def test_saved_backbone_of_another_architecture_is_refused(three, tmp_path):
    path = tmp_path / "mine.safetensors"
    quick(strategy="linear_probe").fit(*three).save_backbone(path)
    with pytest.raises(WeightsMismatchError, match="missing tensors"):
        quick(backbone="resnet18", weights=path).fit(*three)


# ---- what goes wrong


def test_network_given_as_module_is_trained_in_a_copy(tiny_network, three):
    X, y = three
    before = {k: v.clone() for k, v in tiny_network.state_dict().items()}
    clf = quick(backbone=tiny_network, strategy="full", image_size=16).fit(X, y)
    assert clone(clf).fit(X, y).predict_proba(X).shape == (len(X), 3)
    after = tiny_network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "precision"), [("mine.pth", "float32"), ("mine.safetensors", "int8")]
)
def test_saved_backbone_has_to_be_loadable(three, tmp_path, name, precision):
    clf = quick(strategy="linear_probe").fit(*three)
    with pytest.raises(ValueError, match=r"must end in '\.safetensors', and precision"):
        clf.save_backbone(tmp_path / name, precision)


def test_log_probabilities_are_those_of_a_nonlinearity_of_ones_own(make):
    X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    clf = make("full", predict_nonlinearity=lambda x: torch.softmax(x / 2, -1))
    clf.fit(X, [0, 1, 2] * 4)
    np.testing.assert_allclose(
        clf.predict_log_proba(X), np.log(clf.predict_proba(X)), rtol=1e-6
    )
    usual = make("full").fit(X, [0, 1, 2] * 4)
    assert not np.allclose(usual.predict_log_proba(X), clf.predict_log_proba(X))


def test_first_batch_of_one_class_waits_for_others(make):
    X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    clf = make("lp_ft").partial_fit(X, ["a"] * 12, classes=["a", "b"])
    assert (clf.predict_proba(X)[:, 0] > 0.9).all()  # nothing else was ever seen
    assert clf.partial_fit(X, ["a", "b"] * 6).predict(X).shape == (12,)
