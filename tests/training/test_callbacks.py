"""What is frozen stays as it is, and what is not trains as if written by hand."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    Freezer,
    GradientNormClipping,
    LoadInitState,
    LRScheduler,
    TrainEndCheckpoint,
)
from skorch.dataset import ValidSplit
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    StepLR,
)

from sktl.callbacks import Freeze, FreezeUpTo, GradualUnfreeze
from sktl.exceptions import UnknownSubmoduleError
from tests.helpers import first_and_slow

X = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
BATCH_SIZE = 6
STAGES = ["block1", "block2", "block3"]


class Small(nn.Module):
    """Two blocks with all that could drift, and a head."""

    def __init__(self, width=8):
        super().__init__()
        self.block1 = block(6, width)
        self.block2 = block(width, width)
        self.block3 = block(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.block3(self.block2(self.block1(x))))


def block(n_in, n_out):
    return nn.Sequential(
        nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(0.3)
    )


def make_net(*callbacks, module=Small, seed=0, cls=NeuralNetClassifier, **params):
    torch.manual_seed(seed)
    defaults = {
        "criterion": nn.CrossEntropyLoss,
        "train_split": None,
        "verbose": 0,
        "batch_size": BATCH_SIZE,
        "max_epochs": 3,
        "lr": 0.05,
        "callbacks": list(callbacks),
    }
    return cls(module, **(defaults | params))


def fit(net, method="fit"):
    torch.manual_seed(1)
    return getattr(net, method)(X, Y)


def state_of(net):
    return copy.deepcopy(net.module_.state_dict())


def initial_state(module=Small):
    return state_of(fit(make_net(module=module, max_epochs=0)))


def is_same(a, b):
    """Whether two state dicts are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def changed(before, after):
    """The top-level parts of which anything changed."""
    names = [n for n in before if not torch.equal(before[n], after[n])]
    return sorted({name.split(".")[0] for name in names})


class ByHand:
    """A plain loop that freezes as torch's tutorials do; draws as skorch does."""

    def __init__(self, optimizer, **options):
        torch.manual_seed(1)
        self.module = Small()
        self.options = {"lr": 0.05} | options
        self.make_optimizer = optimizer
        self.loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), BATCH_SIZE
        )

    def blocks(self, *names):
        return [self.module.get_submodule(name) for name in names]

    def freeze(self, *names):
        self.frozen = self.blocks(*names)
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        for module in self.frozen:
            module.requires_grad_(False)

    def start(self):
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer(trainable, **self.options)

    def epoch(self):
        for x, y in self.loader:
            self.optimizer.step(functools.partial(self.step, x, y))

    def step(self, x, y):
        self.optimizer.zero_grad()
        self.module.train()
        for module in self.frozen:
            module.eval()
        loss = nn.functional.cross_entropy(self.module(x), y)
        loss.backward()
        return loss


class Spy(Callback):
    """Looks at a net in the middle of each step, when gradients are there."""

    def __init__(self, look):
        self.look = look

    def initialize(self):
        self.seen_ = []
        return self

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.seen_.append(self.look(net))


def seen_in_steps(look, *callbacks, **params):
    """Fit a net and list what `look` gives for it in each step."""
    net = fit(make_net(*callbacks, ("spy", Spy(look)), **params))
    return dict(net.callbacks_)["spy"].seen_


def names_in_optimizer(net):
    name_of = {p: name for name, p in net.module_.named_parameters()}
    groups = net.optimizer_.param_groups
    return [[name_of[p] for p in group["params"]] for group in groups]


def rates(net):
    """The learning rate of each parameter that the optimiser has."""
    name_of = {p: name for name, p in net.module_.named_parameters()}
    groups = net.optimizer_.param_groups
    return {name_of[p]: group["lr"] for group in groups for p in group["params"]}


FREEZES = {
    "by name": Freeze(["block1", "block2"]),
    "by glob": Freeze("block[12]"),
    "by parameters": Freeze(["block1.*", "block2.*"]),
    "up to": FreezeUpTo("block2"),
    "gradually": GradualUnfreeze(["block1", "block2", "block3"], epochs_per_stage=9),
}
# The first of its kind is tried in each run, and all where what is frozen is tested.
OTHERWISE_NAMED = ("by glob", "by parameters")


@pytest.fixture(
    params=[
        pytest.param(
            callback, marks=pytest.mark.slow if name in OTHERWISE_NAMED else [], id=name
        )
        for name, callback in FREEZES.items()
    ]
)
def freeze(request):
    """A callback that freezes `block1` and `block2`, made anew."""
    return clone(request.param)


# --- what is frozen -------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"weight_decay": 0.1},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9},
    "Adagrad": {},
    "Adadelta": {},
    "NAdam": {},
    "RAdam": {},
    "Rprop": {},
    "ASGD": {"weight_decay": 0.1},
    "Adamax": {},
    "Adafactor": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_part_is_bit_identical_with_each_optimizer(name):
    before = initial_state()
    options = {f"optimizer__{k}": v for k, v in OPTIMIZERS[name].items()}
    freeze = Freeze(["block1", "block2"])
    net = make_net(freeze, optimizer=getattr(torch.optim, name), **options)
    assert changed(before, fit(net).module_.state_dict()) == ["block3", "head"]


@pytest.mark.parametrize("freeze", FREEZES.values(), ids=FREEZES, indirect=True)
def test_frozen_part_is_bit_identical_on_each_device(freeze, device):
    net = make_net(freeze, device=device, optimizer=torch.optim.AdamW)
    net.initialize()
    before = state_of(net)
    net.partial_fit(X, Y)
    assert changed(before, net.module_.state_dict()) == ["block3", "head"]


@pytest.mark.parametrize("name", first_and_slow(["AdamW", "SGD", "Adam", "LBFGS"]))
@pytest.mark.parametrize("kind", ["by name", "up to"])
def test_trained_part_equals_a_loop_written_by_hand(name, kind):
    options = OPTIMIZERS.get(name, {"max_iter": 3})
    by_hand = ByHand(getattr(torch.optim, name), **options)
    by_hand.freeze("block1", "block2")
    by_hand.start()
    for _ in range(3):
        by_hand.epoch()
    net = make_net(
        clone(FREEZES[kind]),
        optimizer=getattr(torch.optim, name),
        **{f"optimizer__{k}": v for k, v in options.items()},
    )
    assert is_same(fit(net).module_.state_dict(), by_hand.module.state_dict())


def test_frozen_convolutions_with_batch_norms_keep_their_statistics(tiny_network):
    before = copy.deepcopy(tiny_network.state_dict())
    net = make_net(FreezeUpTo("relu2"), module=tiny_network)
    net.fit(torch.rand(12, 3, 16, 16), torch.arange(12) % 3)
    assert changed(before, net.module_.state_dict()) == ["head"]


def test_frozen_part_runs_in_eval_mode_at_every_step(freeze):
    def look(net):
        return {name: m.training for name, m in net.module_.named_children()}

    expected = {"block1": False, "block2": False, "block3": True, "head": True}
    assert seen_in_steps(look, freeze) == [expected] * 12


def test_frozen_part_runs_in_eval_mode_in_steps_that_set_no_mode(freeze):
    class OwnStep(NeuralNetClassifier):
        def _set_training(self, training=True):
            pass

    before = initial_state()
    net = fit(make_net(freeze, cls=OwnStep))
    assert changed(before, net.module_.state_dict()) == ["block3", "head"]


def test_gradients_of_frozen_part_are_never_computed(freeze):
    """Neither for parameters nor for what flows between them."""

    class Net(NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            loss = super().get_loss(y_pred, y_true, X=X, training=training)
            if training:
                self.leaves_ = leaves_of(loss.grad_fn)
            return loss

    net = fit(make_net(freeze, cls=Net))
    name_of = {p: name for name, p in net.module_.named_parameters()}
    assert {name_of[p].split(".")[0] for p in net.leaves_} == {"block3", "head"}
    has_grad = [n for n, p in net.module_.named_parameters() if p.grad is not None]
    assert has_grad == [n for n in name_of.values() if n.startswith(("block3", "head"))]


def leaves_of(node):
    """The parameters that an autograd graph leads to."""
    if node is None:
        return set()
    own = {node.variable} if hasattr(node, "variable") else set()
    return own.union(*(leaves_of(child) for child, _ in node.next_functions))


def test_optimizer_does_not_hold_the_frozen_part_in_a_step(freeze):
    names = [name for name, _ in Small().named_parameters()]
    trained = [name for name in names if name.startswith(("block3", "head"))]
    assert seen_in_steps(names_in_optimizer, freeze) == [[trained]] * 12


def test_lbfgs_does_not_see_the_frozen_part():
    """It keeps the list of its parameters, besides the groups."""

    def look(net):
        return len(net.optimizer_._params)

    seen = seen_in_steps(look, Freeze("block?"), optimizer=torch.optim.LBFGS)
    assert set(seen) == {2}


def test_optimizer_has_no_state_for_the_frozen_part(freeze):
    net = fit(make_net(freeze, optimizer=torch.optim.Adam))
    name_of = {p: name for name, p in net.module_.named_parameters()}
    kept = {name_of[p].split(".")[0] for p in net.optimizer_.state}
    assert kept == {"block3", "head"}


def test_several_parameter_groups_are_each_without_the_frozen_part(freeze):
    """A group of which all is frozen is empty."""
    groups = [("block1*", {"lr": 1.0}), ("*.bias", {"weight_decay": 0.5})]
    params = {"optimizer__param_groups": groups}
    for first, *others in seen_in_steps(names_in_optimizer, freeze, **params):
        assert first == []
        assert [len(group) for group in others] == [3, 3]
        assert all(n.startswith(("block3", "head")) for group in others for n in group)


def test_several_parameter_groups_are_whole_after_training(freeze):
    groups = [("block1*", {"lr": 1.0}), ("*.bias", {"weight_decay": 0.5})]
    net = fit(make_net(freeze, optimizer__param_groups=groups))
    plain = make_net(optimizer__param_groups=groups).initialize()
    assert names_in_optimizer(net) == names_in_optimizer(plain)
    assert [group["lr"] for group in net.optimizer_.param_groups] == [1.0, 0.05, 0.05]


def test_each_of_several_optimizers_leaves_out_what_is_frozen():
    class TwoOptimizers(NeuralNetClassifier):
        def initialize_optimizer(self):
            first, second = self.module_.block1, self.module_
            self.optimizer_ = torch.optim.SGD(first.parameters(), 0.1, weight_decay=0.1)
            rest = [p for n, p in second.named_parameters() if "block1" not in n]
            self.optimizer2_ = torch.optim.Adam(rest, weight_decay=0.1)
            return self

    before = initial_state()
    net = fit(make_net(Freeze(["block1", "block2"]), cls=TwoOptimizers))
    assert changed(before, net.module_.state_dict()) == ["block3", "head"]


def test_tied_parameter_is_frozen_wherever_it_is_used():
    class Tied(Small):
        def __init__(self):
            super().__init__()
            self.block3[0].weight = self.block1[0].weight = self.block2[0].weight

        def forward(self, x):
            return super().forward(nn.functional.pad(x, (0, 2)))

    before = initial_state(Tied)["block2.0.weight"]
    net = fit(make_net(Freeze("block2"), module=Tied))
    assert torch.equal(net.module_.block3[0].weight, before)
    assert net.module_.block3[0].bias.grad is not None


# --- what the names mean --------------------------------------------------------------


def test_glob_of_batch_norms_freezes_these_alone():
    before = initial_state()
    after = fit(make_net(Freeze("block?.1"))).module_.state_dict()
    kept = [name for name in before if torch.equal(before[name], after[name])]
    assert kept == [name for name in before if name.split(".")[1] == "1"]


def test_partly_frozen_module_is_in_train_mode():
    """Its dropout may belong to what is trained."""
    before = initial_state()
    net = fit(make_net(Freeze("block2.1.weight")))
    assert torch.equal(net.module_.block2[1].weight, before["block2.1.weight"])
    assert net.module_.block2[1].num_batches_tracked == 12


def dropout_is_on(net):
    return net.module_.block1[3].training


def test_frozen_dropout_without_parameters_is_off():
    assert seen_in_steps(dropout_is_on, Freeze("block?.3")) == [False] * 12


@pytest.mark.parametrize(
    ("layer", "n_frozen"),
    [
        ("block1", 4),
        ("block1.0.weight", 1),
        ("block1.1", 4),
        ("block2.3", 8),
        ("block*", 12),
        ("*.0", 10),
        ("head.weight", 13),
    ],
)
def test_up_to_goes_by_the_order_of_named_parameters(layer, n_frozen):
    names = [name for name, _ in Small().named_parameters()]
    seen = seen_in_steps(names_in_optimizer, FreezeUpTo(layer))
    assert seen == [[names[n_frozen:]]] * 12


def test_a_modules_own_parameters_come_before_its_submodules():
    class Scaled(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return super().forward(x * self.scale)

    before = initial_state(Scaled)
    after = fit(make_net(FreezeUpTo("block1"), module=Scaled)).module_.state_dict()
    assert changed(before, after) == ["block2", "block3", "head"]


def test_head_assigned_first_is_trained_when_freezing_by_name():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.backbone = block(6, 8)

        def forward(self, x):
            return self.head(self.backbone(x))

    before = initial_state(HeadFirst)
    net = make_net(Freeze("backbone"), module=HeadFirst)
    assert changed(before, fit(net).module_.state_dict()) == ["head"]
    with pytest.raises(ValueError, match="every parameter.*Freeze less"):
        fit(make_net(FreezeUpTo("backbone"), module=HeadFirst))


# --- wrong arguments ------------------------------------------------------------------

WRONG = [
    (Freeze("blok1"), "patterns='blok1' is not .* Closest: 'block1'"),
    (Freeze(["block1", "nothing*"]), "patterns='nothing.'"),
    (FreezeUpTo("block2.fc"), "layer='block2.fc' .* 'block2"),
    (FreezeUpTo(2), "layer=2"),
    (FreezeUpTo(""), "layer=''"),
    (GradualUnfreeze(["block1", "haed"]), "stages='haed' .* 'head'"),
    (GradualUnfreeze({"a": ["block1", "blok2"], "b": "head"}), "stages='blok2'"),
    (GradualUnfreeze("block1"), "must be a list"),
    (GradualUnfreeze([]), "must be a list"),
    (GradualUnfreeze(["head"], epochs_per_stage=0), "epochs_per_stage=0"),
    (GradualUnfreeze(["head"], epochs_per_stage=1.5), "epochs_per_stage=1.5"),
    (GradualUnfreeze(["head"], layer_decay=0), "layer_decay=0"),
    (Freeze("*"), "nothing is left to train"),
    (FreezeUpTo("head"), "nothing is left to train"),
]


@pytest.mark.parametrize(("callback", "message"), WRONG)
def test_wrong_argument_is_refused_before_the_first_epoch(callback, message):
    net = make_net(clone(callback))
    with pytest.raises(ValueError, match=message):
        fit(net)
    assert len(net.history) == 0


def test_unknown_name_survives_pickling():
    error = UnknownSubmoduleError("layer", "x", ["a", "b"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_gradual_unfreezing_refuses_lbfgs():
    net = make_net(GradualUnfreeze(STAGES), optimizer=torch.optim.LBFGS)
    with pytest.raises(ValueError, match="LBFGS.*another optimizer"):
        fit(net)
    net = make_net(GradualUnfreeze(["head"]), optimizer=torch.optim.LBFGS)
    assert changed(initial_state(), fit(net).module_.state_dict()) == [*STAGES, "head"]


# --- between steps, nothing is left of a freeze ---------------------------------------


def assert_as_without_callback(net):
    plain = make_net(optimizer=net.optimizer).initialize()
    assert all(p.requires_grad for p in net.module_.parameters())
    assert not any("train" in vars(module) for module in net.module_.modules())
    assert names_in_optimizer(net) == names_in_optimizer(plain)
    assert [g.keys() for g in net.optimizer_.param_groups] == [
        g.keys() for g in plain.optimizer_.param_groups
    ]
    assert not net.optimizer_._optimizer_step_pre_hooks
    assert not net.optimizer_._optimizer_step_post_hooks


class BetweenSteps(Callback):
    """Checks when other callbacks may save, score or schedule."""

    def on_batch_begin(self, net, training=None, **kwargs):
        if not training:
            assert_as_without_callback(net)

    def on_epoch_end(self, net, **kwargs):
        assert_as_without_callback(net)

    def on_train_end(self, net, **kwargs):
        assert_as_without_callback(net)


def test_nothing_is_left_between_steps_and_after_training(freeze):
    net = fit(make_net(freeze, BetweenSteps(), train_split=ValidSplit(4)))
    assert_as_without_callback(net)
    assert net.module_.train().block1.training


class Stumble(Callback):
    """Ends training within a step, once."""

    def __init__(self, errors):
        self.errors = errors

    def on_grad_computed(self, net, **kwargs):
        if len(net.history) == 2 and self.errors:
            raise self.errors.pop()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_training_goes_on_after_a_step_that_raised(freeze, method):
    """A module that was passed as an instance is used again."""
    module = Small()
    net = make_net(freeze, Stumble([OSError("disk")]), module=module)
    with pytest.raises(OSError, match="disk"):
        fit(net)
    before = copy.deepcopy(module.state_dict())
    fit(net, method)
    assert_as_without_callback(net)
    assert changed(before, module.state_dict()) == ["block3", "head"]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_copy_made_after_a_step_that_raised_trains_what_it_says(copied):
    gradual = GradualUnfreeze([*STAGES, "head"])
    net = make_net(gradual, Stumble([OSError("disk")]))
    with pytest.raises(OSError, match="disk"):
        fit(net)
    net = copied(net).set_params(max_epochs=4)
    before = state_of(net)
    net.partial_fit(X, Y)
    assert changed(before, net.module_.state_dict()) == [*STAGES, "head"]
    assert_as_without_callback(net)


def test_copy_of_a_failed_step_thaws_layers_that_nobody_trained():
    module = Small()
    module.block1.requires_grad_(False)
    stumble = Stumble([OSError("disk")])
    net = make_net(("freeze", Freeze("block1")), stumble, module=module)
    with pytest.raises(OSError, match="disk"):
        fit(net)
    net = copy.deepcopy(net).set_params(callbacks__freeze__patterns="block2")
    before = state_of(net)
    net.partial_fit(X, Y)
    after = net.module_.state_dict()
    assert not torch.equal(
        before["block1.1.running_mean"], after["block1.1.running_mean"]
    )


class NormThatStays(Small):
    """A common idiom: a batch norm that nobody puts in training mode."""

    def __init__(self):
        super().__init__()
        norm = self.block3[1].eval()
        norm.train = lambda mode=True: norm


def test_own_train_of_a_module_is_put_back():
    net = make_net(("freeze", Freeze(["block1", "block3"])), module=NormThatStays)
    fit(net)
    before = state_of(net)
    net.set_params(callbacks__freeze__patterns=["block1"]).partial_fit(X, Y)
    after = net.module_.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(before[f"block3.1.{name}"], after[f"block3.1.{name}"])
    assert not torch.equal(before["block3.0.weight"], after["block3.0.weight"])


class TwoNames(Small):
    """Its blocks are attributes and items of a list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([self.block1, self.block2])


@pytest.mark.parametrize(
    "freeze", [Freeze("blocks"), Freeze(["blocks.0", "block2"]), FreezeUpTo("block2")]
)
def test_module_with_two_names_is_frozen_by_either(freeze):
    net = make_net(freeze, module=TwoNames).initialize()
    before = state_of(net)
    net.partial_fit(X, Y)
    parts = changed(before, net.module_.state_dict())
    assert set(parts) == {"block3", "head"}


def test_lazy_layer_to_freeze_is_refused_with_what_to_do():
    module = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'0.weight', which has no shape.*on a batch"):
        fit(make_net(Freeze("0"), module=module))


def test_nothing_is_left_after_initialize_when_a_step_raised(freeze):
    net = make_net(freeze, Stumble([OSError("disk")]), module=Small())
    with pytest.raises(OSError, match="disk"):
        fit(net)
    assert_as_without_callback(net.initialize())


def test_nothing_is_left_after_ctrl_c_in_a_step(freeze):
    """skorch ends training without an error."""
    net = fit(make_net(freeze, Stumble([KeyboardInterrupt()])))
    assert len(net.history) == 2
    assert_as_without_callback(net)


def test_requires_grad_that_was_off_before_stays_off():
    module = Small()
    module.block1.requires_grad_(False)
    fit(make_net(FreezeUpTo("block2"), module=module))
    is_on = {n: p.requires_grad for n, p in module.named_parameters()}
    assert is_on == {n: not n.startswith("block1") for n in is_on}


def test_two_freezing_callbacks_add_up():
    before = initial_state()
    net = make_net(("a", Freeze(["block1", "block2"])), ("b", Freeze("block[23]")))
    assert changed(before, fit(net).module_.state_dict()) == ["head"]
    assert_as_without_callback(net)


# --- scikit-learn's side --------------------------------------------------------------


def test_arguments_are_stored_unchanged_by_fit():
    patterns, stages = ["block1"], {"a": ["block1", "block2"], "b": "head"}
    first, second = Freeze(patterns), GradualUnfreeze(stages, layer_decay=0.5)
    fit(make_net(first, second))
    assert first.get_params() == {"patterns": ["block1"]}
    assert first.patterns is patterns
    assert second.stages is stages
    assert stages == {"a": ["block1", "block2"], "b": "head"}


def test_fitting_twice_equals_fitting_a_fresh_net(freeze):
    net = make_net(freeze, optimizer=torch.optim.Adam)
    twice = fit(fit(net)).module_.state_dict()
    once = fit(make_net(clone(freeze), optimizer=torch.optim.Adam))
    assert is_same(twice, once.module_.state_dict())


@pytest.mark.parametrize("as_instance", [False, True])
@pytest.mark.parametrize("is_cloned", [False, True])
def test_other_layer_is_honoured_after_fit(as_instance, is_cloned):
    """Also by a clone, which copies a module that was passed as an instance."""
    module = Small() if as_instance else Small
    net = fit(make_net(("freeze", FreezeUpTo("block2")), module=module))
    if is_cloned:
        net = clone(net)
    net.set_params(callbacks__freeze__layer="block1", max_epochs=0)
    before = state_of(fit(net))
    after = fit(net.set_params(max_epochs=1)).module_.state_dict()
    assert changed(before, after) == ["block2", "block3", "head"]


class Seeded(NeuralNetClassifier):
    """Begins each fit with the same random numbers."""

    def fit(self, X, y=None, **fit_params):
        torch.manual_seed(1)
        return super().fit(X, y, **fit_params)


def test_grid_search_over_the_layer_scores_what_single_fits_score():
    layers = ["block1", "block2", "block3"]
    options = {"cls": Seeded, "lr": 0.5, "max_epochs": 5}
    net = make_net(("freeze", FreezeUpTo("block1")), **options)
    folds = [(np.arange(16), np.arange(16, 24))]
    grid = {"callbacks__freeze__layer": layers}
    search = GridSearchCV(net, grid, cv=folds, scoring="neg_log_loss", refit=False)
    search.fit(X, Y)
    single = [
        make_net(FreezeUpTo(layer), **options).fit(X[:16], Y[:16]).predict_proba(X[16:])
        for layer in layers
    ]
    losses = [log_loss(Y[16:], probabilities) for probabilities in single]
    np.testing.assert_allclose(-search.cv_results_["mean_test_score"], losses, 1e-6)
    assert len(set(losses)) == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_pickled_net_keeps_the_contract(freeze, when):
    net = make_net(freeze)
    if when == "after":
        fit(net)
    loaded = pickle.loads(pickle.dumps(net))
    before = state_of(fit(loaded.set_params(max_epochs=0)))
    fit(loaded.set_params(max_epochs=1))
    assert changed(before, loaded.module_.state_dict()) == ["block3", "head"]


def test_pickle_of_a_net_holds_no_tensor_twice(freeze):
    """Callbacks drop what they found in the module."""
    plain = fit(make_net(module__width=200))
    net = fit(make_net(freeze, module__width=200))
    assert len(pickle.dumps(net)) < len(pickle.dumps(plain)) + 2000


# --- beside other callbacks -----------------------------------------------------------


def test_pickle_made_during_training_goes_on_under_the_contract(freeze, tmp_path):
    saved = Checkpoint(monitor=None, f_pickle="net.pkl", dirname=str(tmp_path))
    fit(make_net(saved, freeze))
    net = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert_as_without_callback(net)
    before = state_of(net)
    net.partial_fit(X, Y)
    assert changed(before, net.module_.state_dict()) == ["block3", "head"]


@pytest.mark.parametrize("is_first", first_and_slow([True, False]))
def test_checkpoint_loads_the_best_epoch_and_its_optimizer(freeze, is_first, tmp_path):
    saved = Checkpoint(monitor="train_loss_best", load_best=True, dirname=str(tmp_path))
    callbacks = [freeze, saved] if is_first else [saved, freeze]
    net = fit(make_net(*callbacks, optimizer=torch.optim.Adam))
    fresh = make_net(optimizer=torch.optim.Adam).initialize()
    fresh.load_params(checkpoint=saved)
    assert is_same(fresh.module_.state_dict(), net.module_.state_dict())
    assert names_in_optimizer(fresh) == names_in_optimizer(net)


@pytest.mark.parametrize("is_first", first_and_slow([True, False]))
def test_training_resumed_from_a_checkpoint_equals_one_training(
    freeze, is_first, tmp_path
):
    def callbacks():
        saved = TrainEndCheckpoint(dirname=str(tmp_path))
        others = [saved, LoadInitState(saved)]
        return [clone(freeze), *others] if is_first else [*others, clone(freeze)]

    fit(make_net(*callbacks(), optimizer=torch.optim.Adam, max_epochs=2))
    state = torch.get_rng_state()
    net = make_net(*callbacks(), optimizer=torch.optim.Adam, max_epochs=2).initialize()
    torch.set_rng_state(state)
    net.partial_fit(X, Y)
    whole = fit(make_net(freeze, optimizer=torch.optim.Adam, max_epochs=4))
    assert is_same(net.module_.state_dict(), whole.module_.state_dict())
    assert len(net.history) == 4


def test_early_stopping_restores_the_best_epoch(freeze):
    before = initial_state()
    stop = EarlyStopping(monitor="train_loss", patience=2, load_best=True)
    net = fit(make_net(freeze, stop, lr=5.0, max_epochs=30))
    assert len(net.history) < 30
    assert changed(before, net.module_.state_dict()) == ["block3", "head"]


def test_gradient_clipping_does_not_count_gradients_from_before_the_freeze():
    net = fit(make_net(("freeze", Freeze([])), optimizer=torch.optim.Adam))
    assert net.module_.block1[0].weight.grad is not None
    net.set_params(callbacks__freeze__patterns=["block1"])
    net.partial_fit(X, Y)
    name_of = {p: name for name, p in net.module_.named_parameters()}
    of_block1 = {p for p, name in name_of.items() if name.startswith("block1")}
    assert all(p.grad is None for p in of_block1)
    assert of_block1.isdisjoint(net.optimizer_.state)
    net.set_params(callbacks__freeze__patterns=[])
    before = state_of(net)
    net.partial_fit(X, Y)
    assert "block1" in changed(before, net.module_.state_dict())


def test_gradient_clipping_equals_clipping_what_is_trained():
    by_hand = ByHand(torch.optim.SGD)
    by_hand.freeze("block1", "block2")
    by_hand.start()
    step = by_hand.step

    def clipped_step(x, y):
        loss = step(x, y)
        nn.utils.clip_grad_norm_(by_hand.module.parameters(), 0.1)
        return loss

    by_hand.step = clipped_step
    for _ in range(3):
        by_hand.epoch()
    net = fit(make_net(FreezeUpTo("block2"), GradientNormClipping(0.1)))
    assert is_same(net.module_.state_dict(), by_hand.module.state_dict())


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_training_in_two_goes_equals_one(freeze, method):
    options = {"warm_start": True, "optimizer": torch.optim.Adam}
    net = fit(make_net(freeze, max_epochs=2, **options))
    getattr(net, method)(X, Y)
    whole = fit(make_net(clone(freeze), max_epochs=4, **options))
    assert is_same(net.module_.state_dict(), whole.module_.state_dict())


# --- gradual unfreezing ---------------------------------------------------------------


def gradually_by_hand(optimizer, layer_decay, scheduler=None, **options):
    """With a parameter group per stage from the beginning, as few would write it."""
    by_hand = ByHand(optimizer, **options)
    lr = by_hand.options["lr"]
    *blocks, head = by_hand.blocks(*STAGES, "head")
    groups = [{"params": [*blocks[2].parameters(), *head.parameters()]}] + [
        {"params": [*blocks[i].parameters()], "lr": lr * layer_decay ** (2 - i)}
        for i in (1, 0)
    ]
    by_hand.optimizer = optimizer(groups, **by_hand.options)
    schedule = scheduler(by_hand.optimizer) if scheduler else None
    for epoch in range(4):
        by_hand.freeze(*STAGES[: max(0, 2 - epoch)])
        by_hand.epoch()
        if schedule:
            schedule.step()
    return by_hand.module.state_dict()


@pytest.mark.parametrize("layer_decay", [1.0, 0.4])
@pytest.mark.parametrize("name", first_and_slow(["AdamW", "SGD", "Adam"]))
def test_gradual_unfreezing_equals_a_loop_written_by_hand(name, layer_decay):
    optimizer, options = getattr(torch.optim, name), OPTIMIZERS[name]
    net = make_net(
        GradualUnfreeze(STAGES, layer_decay=layer_decay),
        optimizer=optimizer,
        max_epochs=4,
        **{f"optimizer__{k}": v for k, v in options.items()},
    )
    by_hand = gradually_by_hand(optimizer, layer_decay, **options)
    assert is_same(fit(net).module_.state_dict(), by_hand)


SCHEDULES = {
    "StepLR": functools.partial(StepLR, step_size=1, gamma=0.5),
    "ExponentialLR": functools.partial(ExponentialLR, gamma=0.7),
    "CosineAnnealingLR": functools.partial(CosineAnnealingLR, T_max=4),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate_schedules_hold_for_all_stages(name, is_first):
    """Only close: by hand, a rate is scheduled for each group and rounded there."""
    schedule = LRScheduler(SCHEDULES[name].func, **SCHEDULES[name].keywords)
    gradual = GradualUnfreeze(STAGES, layer_decay=0.4)
    callbacks = [gradual, schedule] if is_first else [schedule, gradual]
    net = fit(make_net(*callbacks, max_epochs=4))
    by_hand = gradually_by_hand(torch.optim.SGD, 0.4, SCHEDULES[name])
    for name, tensor in net.module_.state_dict().items():
        torch.testing.assert_close(tensor, by_hand[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_first", [True, False])
def test_schedule_that_steps_every_batch_keeps_the_ratios(is_first):
    """OneCycleLR gives all groups one rate; the stages have their share of it."""
    schedule = LRScheduler(OneCycleLR, max_lr=0.1, total_steps=16, step_every="batch")
    gradual = GradualUnfreeze(STAGES, layer_decay=0.5)
    callbacks = [gradual, schedule] if is_first else [schedule, gradual]
    seen = seen_in_steps(rates, *callbacks, max_epochs=4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    expected = OneCycleLR(optimizer, max_lr=0.1, total_steps=16)
    for i, rate_of in enumerate(seen):
        (top,) = expected.get_last_lr()
        assert rate_of["head.weight"] == rate_of["block3.0.weight"] == top
        assert ("block2.0.weight" in rate_of, "block1.0.weight" in rate_of) == (
            i >= 4,
            i >= 8,
        )
        assert rate_of.get("block2.0.weight", top * 0.5) == top * 0.5
        assert rate_of.get("block1.0.weight", top * 0.25) == top * 0.25
        if i < 15:
            optimizer.step()
            expected.step()


def test_schedule_that_steps_every_batch_finds_the_groups_it_began_with():
    """LambdaLR has one function a group; it may step before our `on_batch_end`."""
    schedule = LRScheduler(LambdaLR, lr_lambda=half_as_fast, step_every="batch")
    gradual = GradualUnfreeze(STAGES, layer_decay=0.5)
    seen = seen_in_steps(rates, schedule, gradual)
    assert [rate_of["head.weight"] for rate_of in seen] == [
        0.05 * half_as_fast(i) for i in range(12)
    ]


def half_as_fast(step):
    return 0.5**step


def test_rates_of_stages_are_shares_of_their_groups_rates():
    groups = [("*.bias", {"lr": 1.0, "weight_decay": 0.5})]
    gradual = GradualUnfreeze(["block1", "head"], layer_decay=0.1)
    seen = seen_in_steps(rates, gradual, optimizer__param_groups=groups)[-1]
    assert seen["block1.0.bias"] == 0.1
    assert seen["block1.0.weight"] == 0.05 * 0.1
    assert (seen["head.bias"], seen["head.weight"]) == (1.0, 0.05)


def test_phase_is_recorded_each_epoch():
    stages = {"stem": ["block1.0", "block1.1"], "body": "block[23]", "new": "head"}
    net = make_net(GradualUnfreeze(stages, epochs_per_stage=2), max_epochs=7)
    expected = ["new", "new", "body", "body", "stem", "stem", "stem"]
    assert fit(net).history[:, "phase"] == [f"unfreeze {name}" for name in expected]


@pytest.mark.parametrize(
    ("n_epochs", "expected"), [(2, "32"), (3, "321"), (5, "32111"), (7, "3322111")]
)
def test_stages_share_the_epochs_equally_where_their_number_is_left_open(
    n_epochs, expected
):
    names = {"1": "block1", "2": "block2", "3": ["block3", "head"]}
    net = make_net(GradualUnfreeze(names, epochs_per_stage=None), max_epochs=n_epochs)
    assert "".join(p[-1] for p in fit(net).history[:, "phase"]) == expected


@pytest.mark.parametrize(
    "changed", [lambda net: net, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_what_was_unfrozen_stays_so_where_training_goes_on_for_longer(changed):
    stages = ["block1", "block2", "block3"]
    net = fit(make_net(GradualUnfreeze(stages, epochs_per_stage=None), max_epochs=3))
    net = changed(net).set_params(max_epochs=9).partial_fit(X, Y)
    assert net.history[2:, "phase"] == ["unfreeze block1"] * 10


def test_what_several_stages_match_belongs_to_the_first():
    stages = {"norms": "*.1", "blocks": "block*", "head": "head"}
    second = seen_in_steps(rates, GradualUnfreeze(stages), max_epochs=2)[-1]
    assert {name for name in second if name.startswith("block1")} == {
        "block1.0.weight",
        "block1.0.bias",
    }


def test_stages_may_change_between_calls_of_partial_fit():
    gradual = GradualUnfreeze(STAGES, epochs_per_stage=9)
    net = fit(make_net(("gradual", gradual), optimizer=torch.optim.Adam))
    net.set_params(callbacks__gradual__stages=["block1", "head"])
    before = state_of(net)
    net.partial_fit(X, Y)
    after = net.module_.state_dict()
    assert changed(before, after) == ["block2", "block3", "head"]


# --- why not skorch's Freezer: what README.md says of it ------------------------------


def test_skorch_freezer_lets_batch_norm_statistics_drift():
    before = initial_state()
    after = fit(make_net(Freezer("block1.*"))).module_.state_dict()
    drifted = {name for name in before if not torch.equal(before[name], after[name])}
    of_block1 = {name for name in drifted if name.startswith("block1")}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert of_block1 == {f"block1.1.{name}" for name in statistics}
