"""Checkpoints: training that was cut off goes on to the same weights, bit by bit.

Run as a script, this file trains in processes of its own and kills them.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from skorch.callbacks import BatchScoring, Callback, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn
from torchvision.transforms import v2

from sktl import FineTunedCNNClassifier
from sktl._utils import atomic
from sktl.exceptions import CheckpointWarning, ModelFileError, TrainingDivergedError
from tests.helpers import first_and_slow, make_tiny_network

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

N_ROWS, BATCH_SIZE, N_EPOCHS = 48, 16, 4
N_STEPS = N_ROWS // BATCH_SIZE  # in each epoch
OPTIM = torch.optim


def schedule(policy, **parameters):
    return {"callbacks": [("schedule", LRScheduler(policy, **parameters))]}


def make_settings():
    """New callbacks each time, as in another session."""
    momentum = {"optimizer": OPTIM.SGD, "optimizer__momentum": 0.9}
    stop = {"early_stopping": True, "validation_fraction": 0.3}
    return {
        "lp_ft": {"strategy": "lp_ft"},
        "full_dropout_augment": {
            "strategy": "full",
            "dropout": 0.3,
            "augment": ("flip", "crop", "color"),
        },
        "gradual_hidden_momentum_schedule": momentum
        | {"strategy": "gradual", "hidden_units": (8,), "lr": 0.01}
        | schedule("CosineAnnealingLR", T_max=N_EPOCHS),
        "early_stopping": stop | {"n_iter_no_change": 4, "lr": 0.03},
        "early_stopping_refit": stop | {"refit": True, "lr": 0.01},
        "scratch_class_weight": {"strategy": "scratch", "class_weight": "balanced"},
        "linear_probe_hidden": {"strategy": "linear_probe", "hidden_units": (8,)},
        "reinit_layer_decay": {"strategy": "full", "reinit_from": "last"},
        "augment_function": {"augment": v2.Compose([v2.RandomVerticalFlip()])},
        "adam_amsgrad": {"optimizer": OPTIM.Adam, "optimizer__amsgrad": True},
        # A sum of losses is too much for the scale of the first step.
        "float16": {"precision": "float16", "criterion__reduction": "sum"},
        "rmsprop": {"optimizer": OPTIM.RMSprop, "optimizer__centered": True},
        "nadam": {"optimizer": OPTIM.NAdam},
        "steps": momentum | schedule("MultiStepLR", milestones=[2, 4]),
        "plateau": schedule("ReduceLROnPlateau", patience=0, threshold=1.0),
        "cycle_by_batch": schedule(
            OPTIM.lr_scheduler.OneCycleLR,
            max_lr=0.01,
            total_steps=N_EPOCHS * N_STEPS,
            step_every="batch",
        ),
        "score_by_batch": {
            "callbacks": [
                BatchScoring("accuracy", name="by_batch", lower_is_better=False),
            ],
        },
        "loss_with_parameters": {"criterion": Tempered},
        "inner_split_and_score": {
            "train_split": ValidSplit(3, stratified=True),
            "callbacks": [EpochScoring("f1_macro", lower_is_better=False)],
        },
    }


class Tempered(nn.CrossEntropyLoss):
    """Learns a temperature."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, codes):
        return super().forward(self.scale * logits, codes)


SETTINGS = list(make_settings())
KILLED = ["lp_ft", "gradual_hidden_momentum_schedule", "early_stopping_refit"]
N_KILLS = 2


digits = functools.cache(load_digits)
network = functools.cache(make_tiny_network)


def make_data(seed=0):
    X, y = digits(n_class=3, return_X_y=True)
    rows = np.random.RandomState(seed).permutation(len(X))[:N_ROWS]
    return X[rows], y[rows]


def make_classifier(setting="lp_ft", network_seed=0, **parameters):
    parameters = {
        "image_size": 8,
        "batch_size": BATCH_SIZE,
        "max_epochs": N_EPOCHS,
        "random_state": 3,
        "cache": None,
        "augment": None,
        **make_settings()[setting],
        **parameters,
    }
    return FineTunedCNNClassifier(network(network_seed), **parameters)


def results(clf):
    """All that training left behind, times aside."""
    state = clf.module_.state_dict() | clf.criterion_.state_dict()
    arrays = {n: t.detach().cpu().numpy() for n, t in state.items()}
    for i, values in clf.optimizer_.state_dict()["state"].items():
        arrays |= {
            f"{i}.{n}": torch.as_tensor(v).cpu().numpy()
            for n, v in values.items()
            if v is not None
        }
    for name in clf.history[-1].keys() - {"dur", "batches"} if clf.history else ():
        arrays[f"history.{name}"] = np.array(clf.history[:, name])
    return arrays | {"n_epochs": np.array(clf.n_epochs_)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


# ---- processes that are killed


def fit_to_file(setting, path, **parameters):
    clf = make_classifier(setting, max_epochs=6 * N_EPOCHS, **parameters)
    np.savez(path, **results(clf.fit(*make_data())))


def in_process(task, *args, wait=None, **kwargs):
    """Run in a process of its own, killed when `wait` returns; whether it ended."""
    child = os.fork()
    if child == 0:
        try:
            task(*args, **kwargs)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if wait is not None:
        wait()
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == 0


def fit_and_kill(setting, folder):
    """Let a process go on after each kill, and start anew after each end."""
    rng = np.random.default_rng(0)
    checkpoint, end = folder / "checkpoint", folder / "resumed.npz"
    in_process(fit_to_file, setting, folder / "unbroken.npz")
    begun = time.perf_counter()
    in_process(fit_to_file, setting, end, checkpoint=folder / "other")
    duration = time.perf_counter() - begun
    unbroken, killed = dict(np.load(folder / "unbroken.npz")), 0
    assert_same(dict(np.load(end)), unbroken)

    def wait():
        while not checkpoint.exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, duration / 3))

    while True:
        last = None if killed == N_KILLS else wait
        if in_process(fit_to_file, setting, end, wait=last, checkpoint=checkpoint):
            assert_same(dict(np.load(end)), unbroken)
            checkpoint.unlink()
            if last is None:
                return
        else:
            killed += 1


@pytest.mark.parametrize("device", ["cpu"], indirect=True)  # a fork cannot use CUDA
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.slow
def test_fit_goes_on_after_each_kill(tmp_path):
    """At random moments: in an epoch, while the checkpoint is written, and between.

    Fault 19. In a process that has done nothing else, so that it can be forked.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # as pytest has made it
    command = [sys.executable, __file__, str(tmp_path), *KILLED]
    done = subprocess.run(
        command,
        env=os.environ | one_thread | path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr


# ---- training that fails within one process


class Crash(Exception):
    pass


@pytest.fixture
def steps(monkeypatch):
    """The training steps since it was cleared; `steps.limit` of them succeed."""

    class Steps(list):
        limit, error = None, Crash()

    steps, step = Steps(), FineTunedCNNClassifier.train_step

    def train_step(net, batch, **kwargs):
        if len(steps) == steps.limit:
            raise steps.error
        steps.append(len(net.history))
        return step(net, batch, **kwargs)

    monkeypatch.setattr(FineTunedCNNClassifier, "train_step", train_step)
    return steps


def first_epoch(steps, clf, data):
    """The epoch in which training begins; it fails at its second step."""
    steps.limit = 1
    with pytest.raises(Crash):
        clf.fit(*data)
    steps.limit = None
    return steps.pop()


def crash(steps, fit, *data, limit, **kwargs):
    """Train up to a step at which it fails."""
    steps.clear()
    steps.limit = limit
    with pytest.raises(type(steps.error)):
        fit(*data, **kwargs)
    steps.clear()
    steps.limit = None


IN_EACH_RUN = [
    "lp_ft",
    "full_dropout_augment",
    "gradual_hidden_momentum_schedule",
    "early_stopping_refit",
    "inner_split_and_score",
]


@pytest.mark.parametrize(
    "setting",
    [
        setting
        if setting in IN_EACH_RUN
        else pytest.param(setting, marks=pytest.mark.slow)
        for setting in SETTINGS
    ],
)
def test_fit_goes_on_to_the_same_weights(tmp_path, steps, setting):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier(setting).fit(*data)
    n_steps, n_in_two_epochs = len(steps), steps.index(3)
    clf = make_classifier(setting, checkpoint=path)
    crash(steps, clf.fit, *data, limit=n_in_two_epochs + 1)
    resumed = make_classifier(setting, checkpoint=path).fit(*data)
    assert_same(results(resumed), results(unbroken))
    assert len(steps) == n_steps - n_in_two_epochs
    X, _ = data
    assert np.array_equal(resumed.predict_proba(X), unbroken.predict_proba(X))


def test_fit_without_a_crash_is_not_changed_by_a_checkpoint(tmp_path):
    data = make_data()
    plain = make_classifier("full_dropout_augment").fit(*data)
    path = tmp_path / "checkpoint"
    kept = make_classifier("full_dropout_augment", checkpoint=path).fit(*data)
    assert_same(results(kept), results(plain))


def test_fit_that_crashes_in_each_epoch_arrives(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier().fit(*data)
    for _ in range(N_EPOCHS - 1):
        crash(steps, make_classifier(checkpoint=path).fit, *data, limit=N_STEPS + 1)
    resumed = make_classifier(checkpoint=path).fit(*data)
    assert steps == [N_EPOCHS] * N_STEPS
    assert_same(results(resumed), results(unbroken))


def test_fit_goes_on_after_memory_ran_out(tmp_path, steps):
    """The error is torch's own, and the checkpoint is of use. Fault 31."""
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier().fit(*data)
    steps.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    for limit in np.random.default_rng(0).integers(1, 2 * N_STEPS, 4):
        crash(steps, make_classifier(checkpoint=path).fit, *data, limit=limit)
    resumed = make_classifier(checkpoint=path).fit(*data)
    assert_same(results(resumed), results(unbroken))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
@pytest.mark.parametrize("setting", ["lp_ft", "gradual_hidden_momentum_schedule"])
def test_fit_goes_on_after_interrupts_at_any_moment(tmp_path, setting, interrupt_after):
    """The same object, in the same process; each is interrupted at most four times."""
    data, rng = make_data(), np.random.default_rng(0)
    unbroken = make_classifier(setting).fit(*data)
    start = time.perf_counter()
    make_classifier(setting, checkpoint=tmp_path / "unbroken").fit(*data)
    duration = time.perf_counter() - start
    n_interrupts = 0
    for i in range(4):
        clf = make_classifier(setting, checkpoint=tmp_path / f"{i}")
        for _ in range(4):
            with contextlib.suppress(KeyboardInterrupt):
                n_interrupts += 1
                with interrupt_after(rng.uniform(0.02, duration)):
                    clf.fit(*data)
                n_interrupts -= 1
        assert_same(results(clf.fit(*data)), results(unbroken))
    assert n_interrupts > 1  # fewer where the fit that was timed was a slow one


def test_global_generators_are_left_alone_when_training_goes_on(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path).fit, *data, limit=2 * N_STEPS)
    before = torch.get_rng_state()
    make_classifier(checkpoint=path).fit(*data)
    assert torch.equal(torch.get_rng_state(), before)


def test_finished_fit_returns_at_once(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    first = make_classifier(checkpoint=path).fit(*data)
    steps.clear()
    again = make_classifier(checkpoint=path).fit(*data)
    assert steps == []
    assert_same(results(again), results(first))


def test_fit_that_stopped_early_stops_again(tmp_path, steps):
    """The epoch that ended training is not kept, only those before."""
    path, data = tmp_path / "checkpoint", make_data()
    first = make_classifier("early_stopping", max_epochs=40, checkpoint=path).fit(*data)
    assert len(first.history) < 40
    steps.clear()
    again = make_classifier("early_stopping", max_epochs=40, checkpoint=path).fit(*data)
    assert set(steps) == {len(first.history)}
    assert_same(results(again), results(first))


def test_weighted_rows_go_on(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    weight = np.linspace(0.5, 2, N_ROWS)
    unbroken = make_classifier().fit(*data, sample_weight=weight)
    clf = make_classifier(checkpoint=path)
    crash(steps, clf.fit, *data, limit=7, sample_weight=weight)
    resumed = clf.fit(*data, sample_weight=weight)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(resumed), results(unbroken))


def test_partial_fit_goes_on(tmp_path, steps):
    """The first fit is another run: it is done anew, the second goes on."""
    path, data, more = tmp_path / "checkpoint", make_data(), make_data(seed=1)
    unbroken = make_classifier().fit(*data).partial_fit(*more)
    clf = make_classifier(checkpoint=path).fit(*data)
    crash(steps, clf.partial_fit, *more, limit=7)
    again = make_classifier().fit(*data).set_params(checkpoint=path)
    steps.clear()
    again.partial_fit(*more)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(again), results(unbroken))


def test_warm_start_goes_on(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier(warm_start=True).fit(*data).fit(*data)
    first = make_classifier(warm_start=True, checkpoint=path).fit(*data)
    crash(steps, first.fit, *data, limit=7)
    again = make_classifier(warm_start=True).fit(*data).set_params(checkpoint=path)
    steps.clear()
    again.fit(*data)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(again), results(unbroken))


def test_cross_validation_may_use_one_path(tmp_path):
    """Each fold is another run, and takes the file over."""
    X, y = make_data()
    expected = cross_val_score(make_classifier(), X, y, cv=2)
    kept = make_classifier(checkpoint=tmp_path / "checkpoint")
    for _ in range(2):
        assert cross_val_score(kept, X, y, cv=2).tolist() == expected.tolist()


# ---- other runs


class Named(Callback):
    def __init__(self, name):
        self.name = name


class Hidden(Callback):
    def __init__(self, name):
        self._name = name


class Darker:
    """Its content is in no attribute that `vars` shows."""

    __slots__ = ("divisor",)

    def __init__(self, divisor):
        self.divisor = divisor

    def __call__(self, image):
        return image // self.divisor


def make_loss(factor):
    class Loss(nn.CrossEntropyLoss):
        weight_of_all = factor

        def forward(self, logits, codes):
            return super().forward(logits, codes) * self.weight_of_all

    return Loss


def darker(image):
    return image // 2


def brighter(image):
    return 255 - image // 2


def by_divisor(divisor):
    return lambda image: image // divisor


def by_default(divisor):
    def change(image, divisor=divisor):
        return image // divisor

    return change


def in_module(**names):
    """A function as a script would define it, among names of its own."""
    names = {"__name__": "script", **names}
    exec("def change(image):\n    return helper(image) // DIVISOR", names)
    return names["change"]


def by_table(divisor):
    class ByTable:
        divisors = [divisor]

        def __call__(self, image):
            return image // self.divisors[0]

    return ByTable()


def jitter(brightness):
    return v2.Compose([v2.ColorJitter(brightness=brightness)])


def smooth(label_smoothing):
    return functools.partial(nn.CrossEntropyLoss, label_smoothing=label_smoothing)


def losses(*criteria):
    """Of a strategy that follows them from the beginning."""
    return tuple({"criterion": loss, "strategy": "full"} for loss in criteria)


def augments(*changes):
    return tuple({"augment": change} for change in changes)


OTHER = {
    "lr": ({}, {"lr": 0.002}),
    "random_state": ({}, {"random_state": 4}),
    "strategy": ({}, {"strategy": "full"}),
    "max_epochs": ({}, {"max_epochs": N_EPOCHS + 1}),
    "batch_size": ({}, {"batch_size": 12}),
    "dropout": ({"dropout": 0.1}, {"dropout": 0.2}),
    "network": ({}, {"network_seed": 1}),
    "image_size": ({}, {"image_size": 12}),
    "optimizer_setting": ({}, {"optimizer__weight_decay": 0.1}),
    "callback": ({}, {"callbacks": [Named("a")]}),
    "callback_setting": ({"callbacks": [Named("a")]}, {"callbacks": [Named("b")]}),
    "private": ({"callbacks": [Hidden("a")]}, {"callbacks": [Hidden("b")]}),
    "schedule": (schedule("StepLR", step_size=1), schedule("StepLR", step_size=2)),
    "schedule_function": (
        schedule("LambdaLR", lr_lambda=lambda epoch: 0.9**epoch),
        schedule("LambdaLR", lr_lambda=lambda epoch: 0.8**epoch),
    ),
    "loss_setting": losses(smooth(0.1), smooth(0.2)),
    "loss_class": losses(make_loss(1.0), make_loss(2.0)),
    "function": augments(darker, brighter),
    "lambda": augments(lambda image: image // 2, lambda image: image // 3),
    "closure": augments(by_divisor(2), by_divisor(3)),
    "default": augments(by_default(2), by_default(3)),
    "constant": augments(
        in_module(DIVISOR=2, helper=darker), in_module(DIVISOR=3, helper=darker)
    ),
    "helper": augments(
        in_module(DIVISOR=2, helper=darker), in_module(DIVISOR=2, helper=brighter)
    ),
    "helper_of_helper": augments(
        in_module(DIVISOR=1, helper=in_module(DIVISOR=2, helper=darker)),
        in_module(DIVISOR=1, helper=in_module(DIVISOR=3, helper=darker)),
    ),
    "class_table": augments(by_table(2), by_table(3)),
    "object": augments(Darker(2), Darker(3)),
    "method": augments(Darker(2).__call__, Darker(3).__call__),
    "transform": augments(jitter(0.1), jitter(0.4)),
    "transform_function": augments(v2.Lambda(by_divisor(2)), v2.Lambda(by_divisor(3))),
}


@pytest.mark.parametrize(
    ("before", "after"), first_and_slow(OTHER.values()), ids=OTHER.keys()
)
def test_other_parameters_begin_anew(tmp_path, steps, before, after):
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path, **before).fit, *data, limit=7)
    assert first_epoch(steps, make_classifier(checkpoint=path, **after), data) == 1


_written = []


def _write(epoch):
    _written.append(epoch)


class Writes(Callback):
    """It keeps what it sees in a list that the user can look at."""

    def on_epoch_end(self, net, **kwargs):
        _write(len(net.history))


SAME = {
    "callback_that_writes": lambda: {"callbacks": [Writes()]},
    "loss_setting": lambda: losses(smooth(0.1))[0],
    "loss_class": lambda: losses(make_loss(2.0))[0],
    "closure": lambda: {"augment": by_divisor(2)},
    "default": lambda: {"augment": by_default(2)},
    "constant": lambda: {"augment": in_module(DIVISOR=2, helper=darker)},
    "object": lambda: {"augment": Darker(2)},
    "transform_function": lambda: {"augment": v2.Lambda(by_divisor(2))},
    "callback": lambda: {"callbacks": [Hidden("a")]},
}


@pytest.mark.parametrize("make", first_and_slow(SAME.values()), ids=SAME)
def test_same_parameters_made_anew_go_on(tmp_path, steps, make):
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path, **make()).fit, *data, limit=7)
    assert first_epoch(steps, make_classifier(checkpoint=path, **make()), data) == 3


def test_parameter_that_cannot_be_compared_begins_anew_and_warns(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    lock = threading.Lock()

    def locked(image):
        with lock:
            return image

    fresh = make_classifier(augment=locked).fit(*data)
    clf = make_classifier(augment=locked, checkpoint=path)
    with pytest.warns(CheckpointWarning, match="augment=<function.*cannot be compared"):
        crash(steps, clf.fit, *data, limit=7)
    with pytest.warns(CheckpointWarning, match="training starts over, and no checkp"):
        clf.fit(*data)
    assert len(steps) == N_EPOCHS * N_STEPS
    assert_same(results(clf), results(fresh))
    assert not path.exists()


def test_last_bits_of_a_fitted_head_make_no_other_run(tmp_path, steps, monkeypatch):
    """On a GPU they differ from fit to fit."""
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path).fit, *data, limit=7)
    fit = LogisticRegression.fit

    def fit_differently(model, *args, **kwargs):
        fit(model, *args, **kwargs)
        model.coef_ *= 1 + 1e-6
        return model

    monkeypatch.setattr(LogisticRegression, "fit", fit_differently)
    assert first_epoch(steps, make_classifier(checkpoint=path), data) == 3


def test_last_bits_of_frozen_activations_make_no_other_run(
    tmp_path, steps, monkeypatch
):
    """On another processor they differ."""
    path, data = tmp_path / "checkpoint", make_data()
    params = {"checkpoint": path, "unfreeze_from": "last"}
    crash(steps, make_classifier(**params).fit, *data, limit=7)
    compute = FineTunedCNNClassifier._activations
    monkeypatch.setattr(
        FineTunedCNNClassifier,
        "_activations",
        lambda net, images, cut: compute(net, images, cut) * np.float32(1 + 1e-6),
    )
    assert first_epoch(steps, make_classifier(**params), data) == 3


def test_other_groups_that_are_held_out_begin_anew(tmp_path, steps):
    """Else epochs that trained on them would have been before."""
    path, (X, y) = tmp_path / "checkpoint", make_data()
    params = {"checkpoint": path, "train_split": ValidSplit(GroupKFold(3))}
    groups = np.arange(N_ROWS) % 3
    clf = make_classifier(**params)
    crash(steps, clf.fit, X, y, limit=7, groups=groups)
    steps.clear()
    make_classifier(**params).fit(X, y, groups=(groups + 1) % 3)
    assert steps[0] == 1


def test_other_groups_for_the_penalty_begin_anew(tmp_path, steps):
    path, (X, y) = tmp_path / "checkpoint", make_data()
    groups = np.arange(N_ROWS) % 3
    crash(steps, make_classifier(checkpoint=path).fit, X, y, limit=7, groups=groups)
    steps.clear()
    make_classifier(checkpoint=path).fit(X, y, groups=groups // 2)
    assert steps[0] == 1


def test_precision_chosen_otherwise_is_another_run(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    params = {"checkpoint": path, "precision": "float32"}
    crash(steps, make_classifier(**params).fit, *data, limit=7)
    other = make_classifier(**params | {"precision": "bfloat16"})
    assert first_epoch(steps, other, data) == 1


def test_name_of_the_device_makes_no_other_run(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path, device="cpu").fit, *data, limit=7)
    again = make_classifier(checkpoint=path, device=torch.device("cpu"))
    assert first_epoch(steps, again, data) == 3


def other_pixel(X, y):
    X = X.copy()
    X[0, 20] = 16 - X[0, 20]
    return X, y


def other_label(X, y):
    y = y.copy()
    y[0] = (y[0] + 1) % 3
    return X, y


OTHER_DATA = {
    "pixel": lambda X, y: (other_pixel(X, y), {}),
    "label": lambda X, y: (other_label(X, y), {}),
    "order": lambda X, y: ((X[::-1], y[::-1]), {}),
    "fewer": lambda X, y: ((X[:-1], y[:-1]), {}),
    "weight": lambda X, y: ((X, y), {"sample_weight": np.arange(1.0, N_ROWS + 1)}),
}


@pytest.mark.parametrize("change", first_and_slow(OTHER_DATA.values()), ids=OTHER_DATA)
def test_other_rows_begin_anew(tmp_path, steps, change):
    path, data = tmp_path / "checkpoint", make_data()
    others, kwargs = change(*data)
    fresh = make_classifier().fit(*others, **kwargs)
    crash(steps, make_classifier(checkpoint=path).fit, *data, limit=7)
    other = make_classifier(checkpoint=path).fit(*others, **kwargs)
    assert len(steps) == N_EPOCHS * N_STEPS
    assert_same(results(other), results(fresh))


@pytest.mark.parametrize(
    "parameters",
    first_and_slow([{"cache": "memory"}, {"verbose": 1}, {"n_jobs": 2}]),
    ids=str,
)
def test_parameters_without_influence_go_on(tmp_path, steps, parameters):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier().fit(*data)
    crash(steps, make_classifier(checkpoint=path).fit, *data, limit=7)
    resumed = make_classifier(checkpoint=path, **parameters).fit(*data)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(resumed), results(unbroken))


def test_checkpoint_that_was_moved_goes_on(tmp_path, steps):
    path, data = tmp_path / "checkpoint", make_data()
    crash(steps, make_classifier(checkpoint=path).fit, *data, limit=7)
    path = path.rename(tmp_path / "elsewhere")
    assert first_epoch(steps, make_classifier(checkpoint=str(path)), data) == 3


# ---- files that are none, and files that cannot be written


def flipped(whole):
    return whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]


DAMAGED = {
    "flipped": flipped,
    "cut_off": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "text": lambda whole: b"my thesis",
    "title_only": lambda whole: whole.partition(b"\n")[0],
    "other_form": lambda whole: whole.replace(b"form 3", b"form 1", 1),
    "pickle": lambda whole: pickle.dumps({"module": {}}),
    "forged": lambda whole: seal(whole, torch_saved(Payload())),
    "forged_text": lambda whole: seal(whole, b"no zip"),
}


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/sktl-payload-ran",)


def torch_saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def seal(whole, body):
    """Another body behind the first lines, with the right digest."""
    title, run, _, _ = whole.split(b"\n", 3)
    digest = hashlib.sha256(run + body).hexdigest().encode()
    return b"\n".join([title, run, digest, body])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "checkpoint"
    make_classifier(checkpoint=path).fit(*make_data())
    return path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, whole, damage):
    path, data = tmp_path / "checkpoint", make_data()
    damaged = damage(whole)
    path.write_bytes(damaged)
    with pytest.raises(ModelFileError, match="Delete it to start over") as caught:
        make_classifier(checkpoint=path).fit(*data)
    assert repr(str(path)) in str(caught.value)
    assert path.read_bytes() == damaged


def test_saved_classifier_is_not_overwritten_by_a_checkpoint(tmp_path):
    path, data = tmp_path / "model", make_data()
    clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe", image_size=16)
    clf.fit(*data).save(path)
    saved = path.read_bytes()
    with pytest.raises(ModelFileError, match="it is not a checkpoint"):
        make_classifier(checkpoint=path).fit(*data)
    assert path.read_bytes() == saved


def test_pipe_is_refused_without_a_wait(tmp_path):
    path = tmp_path / "checkpoint"
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="a folder or a device"):
        make_classifier(checkpoint=path).fit(*make_data())


def test_home_folder_is_expanded(tmp_path, steps, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = make_data()
    crash(steps, make_classifier(checkpoint="~/run").fit, *data, limit=7)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert first_epoch(steps, make_classifier(checkpoint="~/run"), data) == 3


class Remembering(LRScheduler):
    """Its schedule remembers what no checkpoint can hold."""

    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        self.lr_scheduler_.of_mine = threading.Thread()


def test_state_that_could_not_be_read_back_is_refused_at_once(tmp_path):
    clf = make_classifier(
        checkpoint=tmp_path / "checkpoint",
        callbacks=[Remembering("StepLR", step_size=1)],
    )
    with pytest.raises(TypeError, match="checkpoint cannot save.*Leave checkpoint out"):
        clf.fit(*make_data())
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "missing" / "checkpoint"
    with pytest.raises(FileNotFoundError, match="folder that exists") as caught:
        make_classifier(checkpoint=path).fit(*make_data())
    assert caught.value.filename == str(path)


def test_full_disk_ends_training_and_the_epochs_before_are_kept(
    tmp_path, steps, monkeypatch
):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier().fit(*data)
    sync, synced = os.fsync, []

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # two for each checkpoint: the file's, the folder's
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left.*room") as caught:
            make_classifier(checkpoint=path).fit(*data)
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    steps.clear()
    resumed = make_classifier(checkpoint=path).fit(*data)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(resumed), results(unbroken))


def test_diverged_training_leaves_the_last_good_epoch(tmp_path, steps, monkeypatch):
    path, data = tmp_path / "checkpoint", make_data()
    unbroken = make_classifier().fit(*data)
    get_loss = FineTunedCNNClassifier.get_loss
    steps.clear()
    with monkeypatch.context() as patched:
        patched.setattr(
            FineTunedCNNClassifier,
            "get_loss",
            lambda *args, **kw: (
                get_loss(*args, **kw) * (1 if len(steps) < 8 else np.nan)
            ),
        )
        with pytest.raises(TrainingDivergedError):
            make_classifier(checkpoint=path).fit(*data)
    steps.clear()
    resumed = make_classifier(checkpoint=path).fit(*data)
    assert len(steps) == (N_EPOCHS - 2) * N_STEPS
    assert_same(results(resumed), results(unbroken))


@pytest.mark.parametrize("seed", [None, np.random.RandomState(0)], ids=str)
def test_checkpoint_without_a_seed_is_refused(tmp_path, seed):
    clf = make_classifier(checkpoint=tmp_path / "checkpoint", random_state=seed)
    with pytest.raises(ValueError, match="checkpoint=.* without a fixed seed.*an int"):
        clf.fit(*make_data())
    with pytest.raises(NotFittedError):
        clf.predict(make_data()[0])
    assert list(tmp_path.iterdir()) == []


def test_solved_probe_writes_no_checkpoint(tmp_path):
    """It has no epochs to go on from."""
    path = tmp_path / "checkpoint"
    make_classifier(strategy="linear_probe", checkpoint=path).fit(*make_data())
    assert not path.exists()


def test_size_of_a_checkpoint_does_not_grow_with_the_batches(tmp_path):
    """A header has a bound, which long trainings would meet."""
    sizes = []
    for batch_size in (BATCH_SIZE, 1):
        path = tmp_path / f"{batch_size}"
        clf = make_classifier(batch_size=batch_size, max_epochs=2, checkpoint=path)
        clf.fit(*make_data())
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] + 200


if __name__ == "__main__":
    for setting in sys.argv[2:]:
        folder = Path(sys.argv[1], setting)
        folder.mkdir()
        fit_and_kill(setting, folder)
