"""Learning rates over the steps of a training, and the average with initial weights."""

import numpy as np
import pytest
import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    LRScheduler,
    TrainEndCheckpoint,
)

from sktl import FineTunedCNNClassifier
from tests.helpers import first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

Y = np.arange(36) % 3
X = np.random.default_rng(0).integers(0, 200, (36, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn


class Rates(Callback):
    """Records the highest rate of each step."""

    def on_train_begin(self, net, **kwargs):
        self.rates = []

    def on_grad_computed(self, net, **kwargs):
        self.rates.append(max(g["lr"] for g in net.optimizer_.param_groups))


def rates_of(clf):
    return dict(clf.callbacks_)["rates"].rates


@pytest.fixture
def cycle(make):
    def cycle(strategy="full", **params):
        defaults = {"lr_schedule": "one_cycle", "max_epochs": 4, "lr": 0.1}
        return make(strategy, callbacks=[("rates", Rates())], **defaults | params)

    return cycle


def test_one_cycle_rises_for_a_quarter_of_the_steps_and_falls_to_zero(cycle):
    rates = rates_of(cycle().fit(X, Y))
    assert len(rates) == 12
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert (np.diff(rates[3:]) < 0).all()
    assert rates[-1] == pytest.approx(0.1 * (1 + np.cos(np.pi * 8 / 9)) / 2)


def test_one_cycle_is_that_of_torch_but_for_where_it_begins_and_ends(cycle):
    """torch begins and ends at a fraction of the rate, and both parts are cosines."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, 39, pct_start=0.25, div_factor=1e9, final_div_factor=1e9
    )
    expected = []
    for _ in range(39):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rates = rates_of(cycle(max_epochs=13).fit(X, Y))
    assert np.abs(np.array(rates) - expected)[10:].max() < 0.01


def test_each_training_has_a_cycle_of_its_own(cycle):
    clf = cycle().fit(X, Y)
    first = rates_of(clf)
    after = sorted({g["lr"] for g in clf.optimizer_.param_groups})
    assert after == pytest.approx([0.01, 0.1])
    assert rates_of(clf.partial_fit(X, Y)) == first
    clf.set_params(lr=0.2).partial_fit(X, Y)
    assert rates_of(clf) == pytest.approx(2 * np.array(first))


def test_cycle_after_a_scheduler_of_the_user_has_the_rates_that_are_set(make):
    """torch's schedulers leave the rates that they began with in the optimiser."""
    scheduler = LRScheduler("StepLR", step_size=1, gamma=0.5)
    clf = make("full", lr_schedule="one_cycle", callbacks=[scheduler], lr=0.1)
    clf.fit(X, Y).set_params(callbacks=[("rates", Rates())])
    assert max(rates_of(clf.set_params(lr=1e-3).partial_fit(X, Y))) <= 1e-3


def test_scheduler_of_the_user_takes_the_place_of_the_cycle(make):
    scheduler = LRScheduler("StepLR", step_size=1, gamma=0.5)
    clf = make(
        "full",
        lr_schedule="one_cycle",
        callbacks=[scheduler, ("rates", Rates())],
        lr=0.1,
    ).fit(X, Y)
    assert rates_of(clf) == pytest.approx([0.1] * 3 + [0.05] * 3)


def tensors(clf):
    return {n: t.clone() for n, t in clf.module_.state_dict().items()}


@pytest.mark.parametrize("strategy", first_and_slow(["lp_ft", "gradual"]))
def test_final_weights_are_an_average_with_the_initial_ones(make, strategy):
    def end(share):
        return tensors(make(strategy, initial_share=share, lr=0.1).fit(X, Y))

    none, quarter, half = end(0.0), end(0.25), end(0.5)
    moved = 0
    for name, tensor in none.items():
        if tensor.is_floating_point():
            begin = 2 * half[name] - tensor
            expected = torch.lerp(begin, tensor, 0.75)
            torch.testing.assert_close(quarter[name], expected, rtol=1e-3, atol=1e-5)
            moved += not torch.equal(begin, tensor)
    assert moved


@pytest.mark.parametrize(
    ("n_rows", "share"), first_and_slow([(5, 0.8), (10, 0.7), (20, 0.6)])
)
def test_initial_weights_have_a_larger_share_by_default_where_images_are_few(
    make, n_rows, share
):
    default = FineTunedCNNClassifier().initial_share
    clf, given, trained = (
        make(initial_share=initial_share, lr=0.1).fit(X[:n_rows], Y[:n_rows])
        for initial_share in (default, share, 0.0)
    )
    assert clf.initial_share_ == pytest.approx(share)
    for name, tensor in tensors(clf).items():
        torch.testing.assert_close(tensor, tensors(given)[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(t, tensors(trained)[n]) for n, t in tensors(clf).items())


def test_images_that_are_repeated_count_once(make):
    """So do those of any weight but zero, which do not count."""

    def share(X, y, **weights):
        return make(initial_share="auto").fit(X, y, **weights).initial_share_

    once = share(X[:10], Y[:10])
    assert share(np.tile(X[:10], (3, 1, 1, 1)), np.tile(Y[:10], 3)) == once
    assert share(X[:10], Y[:10], sample_weight=np.full(10, 0.1)) == once
    assert share(X[:12], Y[:12], sample_weight=np.arange(12) < 10) == once


@pytest.mark.parametrize(
    ("strategy", "params"),
    first_and_slow(
        [
            ("scratch", {}),
            ("full", {}),
            ("lp_ft", {"hidden_units": (4,)}),
            ("lp_ft", {"reinit_from": "last"}),
        ]
    ),
)
def test_random_initial_weights_have_no_share(make, strategy, params):
    plain, shared = (
        tensors(make(strategy, initial_share=share, **params).fit(X, Y))
        for share in (0.0, 0.5)
    )
    assert all(torch.equal(plain[name], shared[name]) for name in plain)
    assert make(strategy, initial_share=0.5, **params).fit(X, Y).initial_share_ == 0


def test_training_that_goes_on_is_not_averaged(make):
    class Last(Callback):
        def on_epoch_end(self, net, **kwargs):
            self.last = tensors(net)

    clf = make(initial_share=0.5, callbacks=[("last", Last())]).fit(X, Y)
    last = dict(clf.callbacks_)["last"].last
    assert any(not torch.equal(last[n], t) for n, t in tensors(clf).items())
    clf.partial_fit(X, Y)
    last = dict(clf.callbacks_)["last"].last
    assert all(torch.equal(last[n], t) for n, t in tensors(clf).items())


def test_fit_that_goes_on_after_a_crash_is_averaged_with_its_first_weights(
    make, tmp_path
):
    class Crash(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2 and (tmp_path / "crash").exists():
                raise KeyboardInterrupt

    params = {"initial_share": 0.5, "callbacks": [Crash()], "lr": 0.05}
    whole = tensors(make(**params).fit(X, Y))
    clf = make(checkpoint=tmp_path / "run", **params)
    (tmp_path / "crash").touch()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    (tmp_path / "crash").unlink()
    again = tensors(clf.fit(X, Y))
    assert len(clf.history) == 2
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-7)


def test_what_is_saved_at_the_end_of_training_is_the_average(make, tmp_path):
    saved = TrainEndCheckpoint(dirname=str(tmp_path), f_params="params.pt")
    clf = make("lp_ft", initial_share=0.5, lr=0.1, callbacks=[saved]).fit(X, Y)
    state = torch.load(tmp_path / "train_end_params.pt", weights_only=True)
    for name, tensor in tensors(clf).items():
        assert torch.equal(state[name], tensor)


def test_best_epoch_that_a_callback_restores_is_averaged_too(make, tmp_path):
    def end(share):
        best = Checkpoint("train_loss_best", load_best=True, dirname=str(tmp_path))
        params = {"initial_share": share, "lr": 0.1, "max_epochs": 2}
        return tensors(make("lp_ft", callbacks=[best], **params).fit(X, Y))

    none, quarter, half = end(0.0), end(0.25), end(0.5)
    for name in ("head.weight", "head.bias"):
        begin = 2 * half[name] - none[name]
        expected = torch.lerp(begin, none[name], 0.75)
        assert not torch.equal(quarter[name], none[name])
        torch.testing.assert_close(quarter[name], expected, rtol=1e-3, atol=1e-5)
