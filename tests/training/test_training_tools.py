"""What surrounds training: callbacks, bars, Ctrl-C, searches, copies, chance."""

import os
import pickle
import random
import signal
import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from skorch import callbacks as skorch_callbacks
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit
from torch import nn
from tqdm import tqdm

from sktl import FineTunedCNNClassifier
from tests.helpers import each_once, first_and_slow

BY_EPOCHS = ["lp_ft", "full", "gradual", "scratch"]
Y = np.arange(36) % 3
NOISE = np.random.default_rng(3).permutation(Y)  # labels that cannot be learnt
X = np.random.default_rng(0).integers(0, 200, (36, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn
STOP = {"early_stopping": True, "validation_fraction": 0.2}


def state_of(clf):
    return {n: t.clone() for n, t in clf.module_.state_dict().items()}


def is_same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- the head


def test_dropout_comes_before_each_layer_of_the_head(make):
    head = make(hidden_units=(6, 5), dropout=0.3).fit(X, Y).module_.head
    kinds = [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in head] == [*kinds, nn.Dropout, nn.Linear]
    widths = [(m.in_features, m.out_features) for m in head if type(m) is nn.Linear]
    assert widths == [(8, 6), (6, 5), (5, 3)]
    assert {m.p for m in head if type(m) is nn.Dropout} == {0.3}


def test_head_with_dropout_is_solved_as_one_without(make):
    plain = make("linear_probe").fit(X, Y)
    dropout = make("linear_probe", dropout=0.5).fit(X, Y)
    assert np.array_equal(plain.predict_proba(X), dropout.predict_proba(X))


@pytest.mark.parametrize("hidden_units", [(0,), (5, 2.5), ("8",)])
def test_impossible_widths_are_named(make, hidden_units):
    with pytest.raises(ValueError, match=r"hidden_units=.*Pass the widths"):
        make(hidden_units=hidden_units).fit(X, Y)


@pytest.mark.parametrize(("strategy", "hidden_units"), each_once(BY_EPOCHS, [(), (5,)]))
def test_training_in_three_goes_has_as_many_epochs(make, strategy, hidden_units):
    clf = make(strategy, warm_start=True, hidden_units=hidden_units).fit(X, Y)
    clf.partial_fit(X, Y).fit(X, Y)
    assert len(clf.history) == clf.n_epochs_ == 6


# ---- batches, optimizers, float16


@pytest.mark.parametrize("train_split", [None, ValidSplit(3, stratified=True)])
def test_own_collate_fn_gets_single_rows_and_changes_nothing(make, train_split):
    n_rows = []

    def collate(rows):
        n_rows.append(len(rows))
        assert all(len(row) == 2 for row in rows)
        return torch.utils.data.default_collate(rows)

    own = make(iterator_train__collate_fn=collate, train_split=train_split).fit(X, Y)
    default = make(train_split=train_split).fit(X, Y)
    assert set(n_rows) == {12}
    assert is_same(state_of(own), state_of(default))


@pytest.mark.parametrize(
    "params", [{"foreach": True}, {"fused": False}, {"differentiable": False}], ids=str
)
def test_variants_of_the_optimizer_take_the_same_steps(make, params):
    params = {f"optimizer__{name}": value for name, value in params.items()}
    one = make("full", max_epochs=1, batch_size=36)
    other = clone(one).set_params(**params)
    for clf in (one, other):
        clf.fit(X, Y)
    for name, tensor in state_of(one).items():
        torch.testing.assert_close(tensor, state_of(other)[name], rtol=1e-4, atol=1e-6)


class ScaledLoss(nn.CrossEntropyLoss):
    """A loss so small, or so large, that float16 has no number for its gradients."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits, target):
        return self.factor * super().forward(logits, target)


class Gradients(Callback):
    """Keeps the gradients of the last step, as callbacks see them."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        pairs = [(n, p.grad) for n, p in named_parameters if p.grad is not None]
        self.seen_ = {name: grad.clone() for name, grad in pairs}


def fit_scaled(make, precision, factor, **params):
    """Plain gradient descent that makes up for the factor."""
    optimizer = {"optimizer": torch.optim.SGD, "lr": 0.1 / factor}
    loss = {"criterion": ScaledLoss, "criterion__factor": factor}
    clf = make("full", precision=precision, **optimizer, **loss, **params)
    return clf.set_params(callbacks=[Gradients()]).fit(X, Y)


def test_gradients_too_small_for_float16_train_as_in_float32(make):
    half, single = (fit_scaled(make, p, 1e-7) for p in ("float16", "float32"))
    for name, tensor in state_of(single).items():
        torch.testing.assert_close(state_of(half)[name], tensor, rtol=0.01, atol=5e-3)
    gradients = dict(single.callbacks_)["Gradients"].seen_
    assert max(grad.abs().max() for grad in gradients.values()) < 6e-8
    for name, grad in dict(half.callbacks_)["Gradients"].seen_.items():
        torch.testing.assert_close(grad, gradients[name], rtol=0.05, atol=1e-10)


def test_step_of_infinite_gradients_is_left_out_in_float16(make):
    clf = fit_scaled(make, "float16", 10.0, max_epochs=40)
    assert clf.scaler_.is_enabled()
    assert clf.scaler_.get_scale() < 2**16  # some steps were too large
    assert all(tensor.isfinite().all() for tensor in state_of(clf).values())
    assert clf.history[-1, "train_loss"] < clf.history[0, "train_loss"]


# ---- callbacks, bars, Ctrl-C


def test_callbacks_of_skorch_work(make, tmp_path, capsys):
    scheduler = torch.optim.lr_scheduler.StepLR
    clf = make(
        max_epochs=30,
        train_split=ValidSplit(3, stratified=True),
        verbose=1,
        callbacks=[
            skorch_callbacks.ProgressBar(),  # which an early stop must not overtake
            skorch_callbacks.EarlyStopping(patience=2, threshold=10.0),
            skorch_callbacks.LRScheduler(scheduler, step_size=1, gamma=0.5),
            skorch_callbacks.Checkpoint(dirname=tmp_path),
            ("f1", skorch_callbacks.EpochScoring("f1_macro", lower_is_better=False)),
        ],
    ).fit(X, Y)
    # The stop comes before the third step of the schedule.
    assert len(clf.history) == 3
    rates = [group["lr"] for group in clf.optimizer_.param_groups]
    assert rates == pytest.approx([1e-4 / 4])
    assert (tmp_path / "params.pt").exists()
    assert "f1_macro" in clf.history[0]
    assert not tqdm._instances


@pytest.mark.parametrize("strategy", first_and_slow(BY_EPOCHS))
def test_bar_shows_images_per_second_if_asked(make, capfd, strategy):
    make(strategy).fit(X, Y)
    assert capfd.readouterr() == ("", "")
    make(strategy, verbose=1).fit(X, Y)
    shown = capfd.readouterr().err
    assert "2/2" in shown
    assert "images/s=" in shown
    assert ("phase=unfreeze" in shown) == (strategy in ("lp_ft", "gradual"))


class Interrupt(Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, real):
        self.real = real

    def on_grad_computed(self, net, **kwargs):
        self.seen = net.optimizer_, net.module_
        if not self.real:
            raise KeyboardInterrupt
        # A shell starts what runs in the background without it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)  # for the signal
        finally:
            signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("strategy", ["full", "gradual"])
def test_interruption_raises_and_leaves_neither_bar_nor_freeze(make, strategy, real):
    clf = make(strategy, verbose=1, callbacks=[("interrupt", Interrupt(real))])
    bars = set(tqdm._instances)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert bars.issuperset(tqdm._instances)
    optimizer, module = dict(clf.callbacks_)["interrupt"].seen
    assert not optimizer._optimizer_step_pre_hooks
    assert all(p.requires_grad for p in module.tail.parameters())
    clf.set_params(callbacks__interrupt=None, verbose=0)
    assert len(clf.fit(X, Y).history) == 2


# ---- scikit-learn's tools


@pytest.mark.parametrize(
    ("strategy", "grid"),
    first_and_slow(
        [
            ("lp_ft", {"strategy": ["full", "gradual"]}),
            ("full", {"hidden_units": [(), (5,)]}),
            ("full", {"layer_decay": [1.0, 0.1]}),
            ("lp_ft", {"augment": [None, ("flip", "color")]}),
            ("gradual", {"callbacks__unfreeze__epochs_per_stage": [1, 2]}),
            ("full", {"callbacks__early_stopping__patience": [1, 40]}),
        ]
    ),
)
def test_grid_search_tells_settings_apart(make, strategy, grid):
    clf = make(strategy, lr=0.1, max_epochs=8)
    if "callbacks__early_stopping__patience" in grid:
        clf.set_params(max_epochs=40, **STOP)
    search = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss", error_score="raise")
    first, second = search.fit(X, NOISE).cv_results_["mean_test_score"]
    assert first != second


@pytest.mark.parametrize("strategy", first_and_slow(BY_EPOCHS))
def test_fitted_net_survives_pickle_and_clone(make, strategy):
    params = {"hidden_units": (5,), "augment": "flip", **STOP}
    clf = make(strategy, **params).fit(X, Y)
    again = pickle.loads(pickle.dumps(clf))
    assert again.get_params()["device"] == "auto"
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.n_epochs_ == clf.n_epochs_
    assert len(again.partial_fit(X, Y).history) > len(clf.history)
    fresh = clone(clf)
    with pytest.raises(NotFittedError):
        fresh.predict_log_proba(X)
    assert is_same(state_of(fresh.fit(X, Y)), state_of(clf))


@pytest.mark.parametrize(
    ("strategy", "deep"), each_once(["linear_probe", "gradual"], [True, False])
)
def test_parameters_of_a_fitted_net_can_be_set_again(make, strategy, deep):
    params = {"callbacks__early_stopping__patience": 1, "callbacks__print_log": None}
    clf = make(strategy, max_epochs=4, **STOP, **params).fit(X, Y)
    before, state = clf.get_params(deep=deep), state_of(clf)
    assert before.items() >= params.items()
    clf.set_params(**before)
    assert clf.get_params(deep=deep).keys() == before.keys()
    assert is_same(state_of(clf), state)
    assert is_same(state_of(clone(clf).fit(X, Y)), state)


@pytest.mark.parametrize(
    "change",
    first_and_slow(
        [
            {"iterator_train__shuffle": False},
            {"iterator_train__drop_last": True},
            {"iterator_valid__batch_size": 5},
            {"dataset__length": 36},
            {"callbacks__print_log": None},
        ]
    ),
    ids=str,
)
def test_what_is_set_on_a_fitted_net_counts_from_the_next_fit_on(make, change):
    """As in a net that has it from the start."""
    clf = make("full", batch_size=5).fit(X, Y).set_params(**change)
    clf.partial_fit(X, Y)
    fresh = make("full", batch_size=5, **change).fit(X, Y)
    assert is_same(state_of(clf.fit(X, Y)), state_of(fresh))


RANDOM = {"hidden_units": (5,), "dropout": 0.2, "reinit_from": "conv2"}


@pytest.mark.parametrize("augment", first_and_slow([None, "flip", "crop", "color"]))
@pytest.mark.parametrize("strategy", first_and_slow(BY_EPOCHS))
def test_random_state_alone_decides_and_global_generators_rest(make, strategy, augment):
    params = RANDOM | {"augment": augment, **STOP}
    clf = make(strategy, **params)
    first = state_of(clf.fit(X, Y))
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    second = state_of(clf.fit(X, Y))
    clf.predict(X)
    assert is_same(first, second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    other = state_of(clf.set_params(random_state=1).fit(X, Y))
    assert not is_same(first, other)


def fit_mini(strategy):
    clf = FineTunedCNNClassifier(
        "sktl_mini",
        strategy=strategy,
        image_size=16,
        max_epochs=1,
        batch_size=32,  # after many steps, roundings differ by more
        lr_schedule="constant",
        augment=("flip", "crop", "color"),
        random_state=0,
        hidden_units=(5,),
    )
    return clf.fit(X, Y).predict_proba(X)


@pytest.fixture
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.slow
def test_random_state_decides_in_other_processes_too(one_thread):
    """Bit for bit with as many threads; sums of other lengths round differently."""
    strategies = ["lp_ft", "gradual", "scratch"]
    with parallel_config("loky", inner_max_num_threads=1):
        there = Parallel(n_jobs=2)(delayed(fit_mini)(s) for s in strategies)
    here = [fit_mini(strategy) for strategy in strategies]
    np.testing.assert_array_equal(there, here)
    torch.set_num_threads(2)
    np.testing.assert_allclose([fit_mini(s) for s in strategies], here, rtol=1e-4)
