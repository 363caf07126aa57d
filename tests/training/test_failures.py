"""What is refused, what a failure leaves behind, and what may be set after `fit`."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch import callbacks as skorch_callbacks
from skorch.callbacks import Callback
from skorch.dataset import Dataset, ValidSplit
from torch import nn
from torch.utils.data import Subset, TensorDataset

from sktl import FineTunedCNNClassifier
from tests.helpers import each_once, first_and_slow, run_python

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
BY_EPOCHS = STRATEGIES[1:]
Y = np.arange(36) % 3
X = np.random.default_rng(0).integers(0, 200, (36, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn


class Fail(Callback):
    """Raises at the end of an epoch."""

    def __init__(self, error=RuntimeError):
        self.error = error

    def on_epoch_end(self, net, **kwargs):
        raise self.error

    def on_train_end(self, net, **kwargs):
        raise self.error


class Rates(Callback):
    """Notes the learning rate of each step."""

    def initialize(self):
        self.seen = []
        return self

    def on_grad_computed(self, net, *args, **kwargs):
        self.seen.append(net.optimizer_.param_groups[0]["lr"])


def is_unfitted(clf):
    for use in (clf.predict, clf.predict_proba, clf.decision_function):
        with pytest.raises(NotFittedError):
            use(X)
    return not clf.__sklearn_is_fitted__() and not hasattr(clf, "classes_")


# ---- after a failure


FAILURES = {
    "labels": lambda clf: clf.fit(X, Y[:-1]),
    "one class": lambda clf: clf.fit(X, Y * 0),
    "images": lambda clf: clf.fit(["nowhere.png"] * 36, Y),
    "weights": lambda clf: clf.fit(X, Y, sample_weight=-np.ones(36)),
    "parameter": lambda clf: clf.set_params(lr=-1).fit(X, Y),
    "widths": lambda clf: clf.set_params(hidden_units=(0,)).fit(X, Y),
    "keyword": lambda clf: clf.fit(X, Y, nonsense=3),
    "training": lambda clf: clf.set_params(callbacks=[Fail()]).fit(X, Y),
    "Ctrl-C": lambda clf: clf.set_params(callbacks=[Fail(KeyboardInterrupt)]).fit(X, Y),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("strategy", "again"),
    [("lp_ft", False), *first_and_slow([(s, True) for s in STRATEGIES])],
)
def test_fit_that_failed_leaves_nothing_that_predicts(make, strategy, failure, again):
    clf = make(strategy)
    if again:
        clf.fit(X[:30], np.array(["x", "y", "z"])[Y[:30]])
    former = vars(clf).get("callbacks_")
    with pytest.raises((ValueError, TypeError, RuntimeError, KeyboardInterrupt)):
        FAILURES[failure](clf)
    assert is_unfitted(clf)
    with pytest.raises(NotFittedError):
        clf.forward(X)
    # How far the training came that failed, and nothing of an earlier one.
    assert former is None or vars(clf).get("callbacks_") is not former
    trained = failure in ("training", "Ctrl-C")
    assert bool(clf.history) == (trained and strategy != "linear_probe")
    assert "callbacks" in clf.prefixes_  # so that they can be set
    clf.set_params(callbacks=None, lr=0.001, hidden_units=())
    expected = make(strategy, lr=0.001).fit(X, Y).predict_proba(X)
    assert np.array_equal(clf.fit(X, Y).predict_proba(X), expected)


@pytest.mark.parametrize("goes_on", ["partial_fit", "warm_start"])
def test_rows_that_are_refused_change_nothing_where_training_goes_on(make, goes_on):
    light = X / 255
    clf = make("full", warm_start=goes_on == "warm_start").fit(light, Y)
    before = clf.predict_proba(light), clf.value_range_
    go_on = clf.fit if goes_on == "warm_start" else clf.partial_fit
    with pytest.raises(ValueError, match=r"\[7, 8, 9\], which the classes \[0, 1, 2\]"):
        go_on(light / 2, Y + 7)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        go_on(light, Y[:-1])
    assert np.array_equal(clf.predict_proba(light), before[0])
    assert clf.value_range_ == before[1]


REFUSED = {
    "unreadable image": ({}, lambda go_on: go_on([b"no image"] * 36, Y)),
    "no rows": ({}, lambda go_on: go_on(X[:0], Y[:0])),
    "missing device": ({"device": "meta"}, lambda go_on: go_on(X, Y)),
    "parameter": ({"lr": -1}, lambda go_on: go_on(X, Y)),
    "split": ({"early_stopping": True}, lambda go_on: go_on(X[:4], Y[:4])),
}


@pytest.mark.parametrize(
    ("failure", "goes_on"), each_once([*REFUSED], ["partial_fit", "warm_start"])
)
def test_batch_that_cannot_be_trained_on_costs_no_trained_weights(
    make, goes_on, failure
):
    params, fail = REFUSED[failure]
    clf = make("full", warm_start=goes_on == "warm_start").fit(list(X), Y)
    go_on = clf.fit if goes_on == "warm_start" else clf.partial_fit
    before = clf.predict_proba(X)
    clf.set_params(**params)
    with pytest.raises(ValueError, match=r"read|no rows|device=|'lr'|hold out"):
        fail(go_on)
    clf.set_params(device="auto", lr=0.001, early_stopping=False)
    assert np.array_equal(clf.predict_proba(X), before)
    assert len(go_on(X, Y).history) == 4


@pytest.mark.parametrize("goes_on", ["partial_fit", "warm_start"])
def test_training_that_failed_on_the_way_leaves_nothing_that_predicts(make, goes_on):
    clf = make("full", warm_start=goes_on == "warm_start").fit(X, Y)
    clf.callbacks_.append(("fail", Fail()))
    with pytest.raises(RuntimeError):
        (clf.fit if goes_on == "warm_start" else clf.partial_fit)(X, Y)
    assert is_unfitted(clf)


# ---- torch data sets


DATA_SETS = {
    "Dataset": lambda: Dataset(X, Y),
    "without y": lambda: Dataset(X),
    "TensorDataset": lambda: TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "Subset": lambda: Subset(Dataset(X, Y), [1, 2]),
}


@pytest.mark.parametrize(("strategy", "kind"), each_once(STRATEGIES, [*DATA_SETS]))
def test_data_set_of_the_user_is_refused(make, strategy, kind):
    """It would be read as what the frozen part gives."""
    data, clf = DATA_SETS[kind](), make(strategy)
    with pytest.raises(TypeError, match=r"X is a torch data set .* paths or PIL"):
        clf.fit(data, Y)
    clf.fit(X, Y)
    for use in (clf.predict, clf.predict_proba, clf.decision_function, clf.forward):
        with pytest.raises(TypeError, match=r"X is a torch data set .* paths or PIL"):
            use(data)


def test_data_set_of_the_net_is_taken(make):
    clf = make().fit(X, Y)
    rows = clf.get_dataset(X)
    assert np.array_equal(clf.predict_proba(rows), clf.predict_proba(X))
    part = Subset(rows, range(4, 14))
    assert np.array_equal(clf.predict(part), clf.predict(X)[4:14])


# ---- parameters that have no use, or cannot work


@pytest.mark.parametrize(
    "name", ["module__hidden_units", "module__anything", "compile__mode"]
)
def test_parameters_of_the_module_are_refused(make, name):
    with pytest.raises(ValueError, match=f"{name} is skorch's parameter"):
        make(**{name: (3,)}).fit(X, Y)
    clf = make().fit(X, Y)
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match=f"{name} is skorch's parameter"):
        clf.set_params(**{name: (3,)})
    assert np.array_equal(clf.predict_proba(X), before)


def test_rows_that_make_no_batch_are_refused(make):
    clf = make("full", batch_size=64, iterator_train__drop_last=True)
    with pytest.raises(ValueError, match="36 training rows do not fill a batch of"):
        clf.fit(X, Y)


def test_epochs_of_fit_are_a_parameter(make):
    with pytest.raises(TypeError, match=r"Set max_epochs, as in set_params\(max_epoch"):
        make().fit(X, Y, epochs=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        make().fit(X, Y, epoch=3)


def test_initialize_says_what_to_call_instead():
    with pytest.raises(
        NotFittedError, match="not seen any y yet. Call fit or partial_fit"
    ):
        FineTunedCNNClassifier("sktl_mini").initialize()
    assert not hasattr(FineTunedCNNClassifier("sktl_mini"), "classes_")


@pytest.mark.parametrize("method", ["save_params", "load_params"])
def test_files_of_parameters_need_a_fitted_net_and_say_so(make, method, tmp_path):
    for name in ("f_params", "f_history"):
        with pytest.raises(NotFittedError, match="is not fitted yet.* Call 'fit'"):
            getattr(make(), method)(**{name: tmp_path / "file"})


def test_callback_that_loads_another_training_is_refused(make, tmp_path):
    """skorch's files do not hold what the first fit chose."""
    end = skorch_callbacks.TrainEndCheckpoint(dirname=str(tmp_path))
    resume = skorch_callbacks.LoadInitState(end)
    with pytest.raises(ValueError, match="'LoadInitState' is.* checkpoint= instead"):
        make(callbacks=[end, resume]).fit(X, Y)
    clf = make().fit(X, Y).set_params(callbacks=[end, resume])
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match="checkpoint= instead"):
        clf.partial_fit(X, Y)
    assert np.array_equal(clf.predict_proba(X), before)


@pytest.mark.parametrize("name", ["shuffle", "drop_last"])
def test_parameter_that_reorders_predictions_is_refused(make, name):
    wrong = {f"iterator_valid__{name}": True}
    message = f"iterator_valid__{name}=True would change the order or the number"
    with pytest.raises(ValueError, match=message):
        make(**wrong).fit(X, Y)
    clf = make().fit(X, Y)
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match=message):
        clf.set_params(**wrong)
    assert np.array_equal(clf.predict_proba(X), before)
    clf.set_params(**dict.fromkeys(wrong, False))  # as it is


def test_callback_that_watches_held_out_rows_is_refused_without_any(make):
    stop = skorch_callbacks.EarlyStopping()
    with pytest.raises(ValueError, match="watches 'valid_loss', but no rows are held"):
        make(callbacks=[stop]).fit(X, Y)
    clf = make("full", callbacks=[skorch_callbacks.Checkpoint()])
    with pytest.raises(ValueError, match="watches 'valid_loss_best'.*train_loss_best"):
        clf.fit(X, Y)
    watches_training = skorch_callbacks.EarlyStopping("train_loss", patience=1)
    clf = make("full", callbacks=[watches_training], max_epochs=5, lr=1e-12)
    assert len(clf.fit(X, Y).history) <= 3


@pytest.mark.parametrize("strategy", first_and_slow(reversed(STRATEGIES)))
def test_checkpoint_at_the_end_is_written_whatever_the_strategy(
    make, strategy, tmp_path
):
    end = skorch_callbacks.TrainEndCheckpoint(dirname=tmp_path)
    clf = make(strategy, callbacks=[end]).fit(X, Y)
    assert len(clf.history) == (0 if strategy == "linear_probe" else 2)
    state = torch.load(tmp_path / "train_end_params.pt", weights_only=True)
    assert all(torch.equal(state[n], t) for n, t in clf.module_.state_dict().items())


# ---- LBFGS


@pytest.mark.parametrize(
    ("strategy", "params"),
    first_and_slow(
        [("lp_ft", {}), ("full", {"backbone_lr_ratio": 1.0}), ("scratch", {})]
    ),
)
def test_lbfgs_lowers_the_loss_where_all_has_one_rate(make, strategy, params):
    params = {"lr": 0.02, "batch_size": 36, "max_epochs": 4, **params}
    clf = make(strategy, optimizer=torch.optim.LBFGS, **params).fit(X, Y)
    losses = clf.history[:, "train_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("strategy", "params", "message"),
    [
        ("full", {}, "Set backbone_lr_ratio=1.0 and layer_decay=1.0"),
        ("lp_ft", {"precision": "float16"}, "Use 'float32' or 'bfloat16'"),
        ("gradual", {}, "LBFGS cannot unfreeze parameters"),
    ],
)
def test_lbfgs_says_what_it_cannot_do(make, strategy, params, message):
    with pytest.raises(ValueError, match=message):
        make(strategy, optimizer=torch.optim.LBFGS, **params).fit(X, Y)


# ---- set after fit


def rates(clf):
    named = clf.module_.named_parameters()
    of = {p: g["lr"] for g in clf.optimizer_.param_groups for p in g["params"]}
    return {name: of[p] for name, p in named if p in of}


@pytest.mark.parametrize(
    "change",
    first_and_slow(
        [
            {"lr": 0.2, "layer_decay": 0.5},
            {"lr": 0.3},
            {"optimizer__lr": 0.3},
            {"backbone_lr_ratio": 0.7},
            {"layer_decay": 0.25},
            {"optimizer": torch.optim.SGD},
            {"criterion": nn.MultiMarginLoss},
        ]
    ),
    ids=str,
)
def test_rates_set_after_fit_are_those_of_a_fit_with_them(make, change):
    """Pretrained layers keep their share of the rate."""
    clf = make("full", max_epochs=1).fit(X, Y).set_params(**change)
    fresh = make("full", max_epochs=1, **change).fit(X, Y)
    assert rates(clf) == pytest.approx(rates(fresh))
    assert type(clf.optimizer_) is type(fresh.optimizer_)
    assert type(clf.criterion_) is type(fresh.criterion_)
    before = copy.deepcopy(clf.module_.state_dict())
    clf.partial_fit(X, Y)
    moved = [not torch.equal(t, before[n]) for n, t in clf.module_.state_dict().items()]
    assert len(clf.history) == 2
    assert any(moved)


def test_strategy_set_after_fit_counts_from_the_next_fit_on(make):
    """Training goes on with the network that there is, and with its rates."""
    clf = make("full", reinit_from="conv2", max_epochs=1).fit(X, Y)
    clf.set_params(strategy="lp_ft", unfreeze_from="last", lr=0.3, hidden_units=(4,))
    fresh = make("full", reinit_from="conv2", max_epochs=1, lr=0.3).fit(X, Y)
    assert rates(clf) == pytest.approx(rates(fresh))
    clf.set_params(strategy="gradual").partial_fit(X, Y)
    assert clf.frozen_up_to_ == ""
    clf.set_params(strategy="lp_ft", reinit_from=None, callbacks=None).fit(X, Y)
    assert clf.frozen_up_to_ != ""


@pytest.mark.parametrize(
    "name", first_and_slow(["unfreeze_from", "hidden_units", "dropout"])
)
def test_warm_start_refuses_parameters_of_another_network(make, name):
    clf = make("lp_ft", warm_start=True).fit(X, Y)
    before = clf.predict_proba(X)
    change = {"unfreeze_from": "first", "hidden_units": (4,), "dropout": 0.5}[name]
    clf.set_params(**{name: change})
    with pytest.raises(ValueError, match=rf"{name} was set to .* warm_start=False"):
        clf.fit(X, Y)
    assert np.array_equal(clf.predict_proba(X), before)
    clf.set_params(warm_start=False).fit(X, Y)
    fresh = make("lp_ft", **{name: change}).fit(X, Y)
    assert np.array_equal(clf.predict_proba(X), fresh.predict_proba(X))


@pytest.mark.parametrize(
    "change", [{"precision": "bfloat16"}, {"predict_nonlinearity": None}], ids=str
)
def test_how_the_network_computes_counts_at_once(make, change):
    clf = make().fit(X, Y)
    before = clf.predict_proba(X)
    assert not np.array_equal(clf.set_params(**change).predict_proba(X), before)


@pytest.mark.parametrize(
    "change",
    [
        {
            "weights": None,
            "hidden_units": (5,),
            "dropout": 0.5,
            "unfreeze_from": "first",
        },
        {"C": 3.0, "initial_share": 0.5, "image_size": 10},
    ],
    ids=str,
)
def test_what_the_network_began_with_is_left_alone_where_training_goes_on(make, change):
    clf, other = make().fit(X, Y), make().fit(X, Y).set_params(**change)
    clf.partial_fit(X, Y), other.partial_fit(X, Y)
    assert np.array_equal(clf.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize(
    ("before", "change"),
    first_and_slow(
        [
            ({}, {"early_stopping": True}),
            ({"early_stopping": True, "monitor": "accuracy"}, {"monitor": "loss"}),
        ]
    ),
    ids=str,
)
def test_early_stopping_set_after_fit_keeps_the_epoch_of_least_loss(
    make, before, change
):
    params = {"max_epochs": 6, "lr": 0.3, "validation_fraction": 0.5}
    clf = make("full", **params, **before).fit(X, Y)
    n_before = len(clf.history)
    clf.set_params(**change).partial_fit(X, Y)
    losses = clf.history[n_before:, "valid_loss"]
    assert clf.n_epochs_ == n_before + 1 + np.argmin(losses)
    assert np.argmin(losses) != np.argmax(losses)


def test_schedule_and_callbacks_set_after_fit_count_where_training_goes_on(make):
    clf = make("full", lr_schedule="constant").fit(X, Y)
    clf.set_params(lr_schedule="one_cycle", callbacks=[("rates", Rates())])
    clf.partial_fit(X, Y)
    rates = dict(clf.callbacks_)["rates"].seen
    assert len(rates) == len(set(rates)) == 6  # two epochs of three batches


def test_option_of_the_optimizer_set_after_fit_is_there_and_kept(make):
    clf = make("full", optimizer=torch.optim.SGD).fit(X, Y)
    clf.set_params(optimizer__momentum=0.5)
    assert {g["momentum"] for g in clf.optimizer_.param_groups} == {0.5}
    assert clone(clf).get_params()["optimizer__momentum"] == 0.5
    assert {g["momentum"] for g in clf.fit(X, Y).optimizer_.param_groups} == {0.5}


@pytest.mark.parametrize("strategy", first_and_slow(["lp_ft", "full", "gradual"]))
def test_copy_of_a_fitted_net_is_as_the_net(make, strategy):
    clf = make(strategy).fit(X, Y)
    copied = copy.deepcopy(clf)
    for net in (clf, copied):
        net.set_params(optimizer=torch.optim.SGD, lr=0.3).partial_fit(X, Y)
    assert np.array_equal(copied.predict_proba(X), clf.predict_proba(X))
    assert rates(copied) == pytest.approx(rates(clf))
    copied.partial_fit(X, Y)
    assert not np.array_equal(copied.predict_proba(X), clf.predict_proba(X))


def test_device_set_after_fit_moves_the_weights(make, monkeypatch):
    """No second device is at hand: what is asked of torch is recorded."""
    clf = make().fit(X, Y)
    moves = []
    monkeypatch.setattr(nn.Module, "to", lambda self, *a, **k: moves.append(a) or self)
    clf.set_params(device=torch.device("cpu"))
    assert (torch.device("cpu"),) in moves


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda:7"])
def test_pickle_comes_back_on_a_device_that_is_there(make, monkeypatch, device):
    """A CPU model where CUDA exists, and a model of a card that does not."""
    clf = make().fit(X, Y)
    expected = clf.predict_proba(X)
    clf.device = device
    data = pickle.dumps(clf)
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    again = pickle.loads(data)
    assert again.get_params()["device"] == device
    assert {p.device.type for p in again.module_.parameters()} == {"cpu"}
    again.set_params(device="cpu")
    assert np.array_equal(again.predict_proba(X), expected)


def test_clone_of_a_failed_classifier_is_as_new(make):
    clf = make(callbacks=[("fail", Fail())])
    with contextlib.suppress(RuntimeError):
        clf.fit(X, Y)
    fresh = clone(clf).set_params(callbacks=None)
    assert fresh.fit(X, Y).score(X, Y) > 0.3


def test_split_of_the_user_gets_keywords_of_fit(make):
    seen = []

    class Recorded(ValidSplit):
        def __call__(self, dataset, y=None, sites=None):
            seen.append(sites)
            return super().__call__(dataset, y)

    make(train_split=Recorded(3)).fit(X, Y, sites="mine")
    assert seen == ["mine"]


def test_last_batch_of_two_rows_or_more_is_trained_on(make):
    """From scratch too, where batch norms need two rows."""
    clf = make("scratch").fit(X[:30], Y[:30])  # 12, 12 and 6
    assert clf.history[:, "train_batch_count"] == [3, 3]


def test_last_batch_of_one_row_is_left_out_where_batch_norm_needs_two(make):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)
    )
    network.append(nn.Linear(4, 3))
    clf = make("scratch", backbone=network).fit(X[:25], Y[:25])  # 12, 12 and 1
    assert clf.history[:, "train_batch_count"] == [2, 2]
    clf = make("full", backbone=network).fit(X[:25], Y[:25])  # keeps its statistics
    assert clf.history[:, "train_batch_count"] == [3, 3]


def test_class_too_rare_to_hold_out_is_named(make):
    names = np.where(np.arange(36) == 5, "rare", np.array(["a", "b"])[Y % 2])
    with pytest.raises(ValueError, match=r"of \['rare'\] there is only 1 row"):
        make(early_stopping=True).fit(X, names)


def test_partial_fit_with_other_classes_than_before_is_refused(make):
    clf = make().partial_fit(X, Y, classes=[0, 1, 2])
    clf.partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="in the first call they were"):
        clf.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y holds \[2\], which the classes \[0, 1\] "):
        make().partial_fit(X, Y, classes=[0, 1])


@pytest.mark.slow
def test_strides_of_a_kernel_of_one_pixel_do_not_crash_training():
    """oneDNN writes beyond the gradient of such weights, in channels last."""
    script = """
import numpy as np, torch
from sktl import FineTunedCNNClassifier
torch.manual_seed(0)
layers = torch.nn.Conv2d(3, 64, 1, 2, bias=False), torch.nn.AdaptiveAvgPool2d(1)
network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 2))
X = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
clf = FineTunedCNNClassifier(network, strategy="full", augment=None, max_epochs=30)
clf.fit(X, [0, 1, 0, 1])
images = torch.randn(2, 3, 224, 224)
state = {n.removeprefix("0."): t for n, t in clf.module_.tail.state_dict().items()}
layers[0].load_state_dict(state)
with torch.no_grad():
    expected = layers[1](layers[0](images)).flatten(1)
    print(torch.allclose(clf.module_.features(images), expected, atol=1e-5))
"""
    assert run_python(script).strip() == "True"
