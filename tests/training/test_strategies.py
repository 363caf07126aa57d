"""Which layers each strategy trains, when, at what rates, and from which weights."""

import copy
import functools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch import nn

from sktl import FineTunedCNNClassifier, GlobalScaler
from sktl.callbacks import GradualUnfreeze
from sktl.exceptions import UnknownStageError
from tests.helpers import each_once

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STAGES = ["stem", "block1", "block2"]
EVERYTHING = [*STAGES, "head"]
Y = np.arange(24) % 3
X = np.random.default_rng(0).integers(0, 200, (24, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn
# What a network given as a module is fed: pixels normalised as for ImageNet.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
IMAGES = (torch.tensor(X).permute(0, 3, 1, 2) / 255 - MEAN) / STD


class Staged(nn.Module):
    """Three stages of all that could drift, and a head that is thrown away."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.stem = stage(3, 4, 1, dropout)
        self.block1 = stage(4, 6, 2, dropout)
        self.block2 = stage(6, 8, 2, dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(8, 3)

    def features(self, x):
        return self.flatten(self.pool(self.block2(self.block1(self.stem(x)))))

    def forward(self, x):
        return self.fc(self.features(x))


def stage(n_in, n_out, stride, dropout):
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


@functools.cache
def pretrained(dropout=0.1):
    """A network whose batch norms have seen data."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = Staged(dropout)
        network(torch.rand(16, 3, 8, 8))
    return network.eval()


def make(strategy, **params):
    defaults = {
        "strategy": strategy,
        "unfreeze_from": "last" if strategy == "lp_ft" else "first",
        "lr_schedule": "constant",
        "augment": None,
        "backbone": pretrained(),
        "image_size": 8,
        "batch_size": 12,
        "max_epochs": 4,
        "lr": 0.01,
        "random_state": 0,
    }
    return FineTunedCNNClassifier(**defaults | params)


def fit(strategy, **params):
    return make(strategy, **params).fit(X, Y)


def state_of(net):
    """Every tensor by the name that the backbone gives it; the head's by `head.`."""
    state = {n: t for n, t in net.module_.state_dict().items() if n.startswith("head.")}
    state = net.module_.backbone_state() | state
    return {name: tensor.cpu().clone() for name, tensor in state.items()}


def changed(before, after):
    """The stages of which any tensor is another, statistics and counters included."""
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.split(".")[0] for name in names}


class Watch(Callback):
    """Records what changes in each epoch, and what each step finds frozen."""

    def initialize(self):
        self.changes, self.steps = [], []
        return self

    def on_epoch_begin(self, net, **kwargs):
        self.before = state_of(net)

    def on_epoch_end(self, net, **kwargs):
        self.changes.append(changed(self.before, state_of(net)))

    def on_grad_computed(self, net, **kwargs):
        """Per stage: every sign of being trained that any part of it shows."""
        optimised = {p for g in net.optimizer_.param_groups for p in g["params"]}
        signs = {name: set() for name in EVERYTHING}
        for name, parameter in net.module_.named_parameters():
            found = signs[stage_of(name)]
            found |= {"requires_grad"} if parameter.requires_grad else set()
            found |= {"grad"} if parameter.grad is not None else set()
            found |= {"optimised"} if parameter in optimised else set()
        for name, module in net.module_.named_modules():
            if isinstance(module, nn.Dropout) and module.training:
                signs[stage_of(name)].add("training")
        self.steps.append(signs)


def stage_of(name):
    return name.removeprefix("prefix.").removeprefix("tail.").split(".")[0]


def rates_in_steps(strategy, **params):
    """The learning rate of each stage at each step."""
    rates = []

    class Rates(Callback):
        def on_grad_computed(self, net, **kwargs):
            names = {p: stage_of(n) for n, p in net.module_.named_parameters()}
            groups = net.optimizer_.param_groups
            rates.append({names[p]: g["lr"] for g in groups for p in g["params"]})

    fit(strategy, batch_size=24, callbacks=[Rates()], **params)
    return rates


# ---- what is frozen


HEAD = {"head"}
TWO = {"block2", "head"}
THREE = {"block1", "block2", "head"}
ALL = {"stem", "block1", "block2", "head"}


@pytest.mark.parametrize(
    ("strategy", "params", "trained"),
    [
        ("linear_probe", {"hidden_units": (5,)}, [HEAD] * 4),
        ("lp_ft", {}, [TWO] * 4),
        ("lp_ft", {"unfreeze_from": 2}, [THREE] * 4),
        ("lp_ft", {"unfreeze_from": "first"}, [ALL] * 4),
        ("lp_ft", {"hidden_units": (5,)}, [HEAD, HEAD, TWO, TWO]),
        ("gradual", {}, [TWO, THREE, ALL, ALL]),
        ("gradual", {"hidden_units": [5, 4]}, [HEAD, TWO, THREE, ALL]),
        ("gradual", {"unfreeze_from": "block1"}, [TWO, TWO, THREE, THREE]),
        ("gradual", {"max_epochs": 1}, [TWO]),
        ("gradual", {"max_epochs": 2}, [TWO, ALL]),
        ("gradual", {"max_epochs": 5}, [TWO, THREE, THREE, ALL, ALL]),
        ("full", {}, [ALL] * 4),
        ("full", {"hidden_units": (5,)}, [ALL] * 4),
        ("scratch", {}, [ALL] * 4),
        ("scratch", {"hidden_units": (5,)}, [ALL] * 4),
    ],
)
def test_each_epoch_trains_what_the_strategy_says_and_nothing_else(
    strategy, params, trained
):
    clf = fit(strategy, callbacks=[("watch", Watch())], **params)
    watch = dict(clf.callbacks_)["watch"]
    assert watch.changes == trained
    steps = [{name for name in signs if signs[name]} for signs in watch.steps]
    assert steps == [stages for stages in trained for _ in range(2)]
    everything = {"requires_grad", "grad", "optimised", "training"}
    for signs in watch.steps:
        assert all(signs[n] == everything for n in STAGES if signs[n])


def test_gradual_goes_stage_by_stage_where_nobody_knows_how_many_epochs_follow():
    clf = make("gradual", max_epochs=1)
    for _ in range(4):
        clf.partial_fit(X, Y)
    assert clf.history[:, "phase"] == [
        f"unfreeze {stage}" for stage in ("block2", "block1", "stem", "stem")
    ]


def test_more_epochs_do_not_freeze_again_what_was_trained():
    clf = fit("gradual", max_epochs=3).set_params(max_epochs=12, n_iter_no_change=7)
    phases = clf.partial_fit(X, Y).history[3:, "phase"]
    assert phases == ["unfreeze stem"] * 12


@pytest.mark.parametrize(
    ("strategy", "params"),
    each_once(["lp_ft", "full", "gradual"], [{}, {"hidden_units": (5,)}]),
)
def test_statistics_of_pretrained_norms_stay_also_where_weights_are_trained(
    strategy, params
):
    clf = fit(strategy, **params)
    buffers = dict(pretrained().named_buffers())
    state = state_of(clf)
    assert len(buffers) == 9
    assert all(torch.equal(state[name], buffers[name]) for name in buffers)


def test_statistics_of_new_norms_are_learnt():
    state = state_of(fit("scratch"))
    assert [state[f"{name}.1.num_batches_tracked"].item() for name in STAGES] == [8] * 3


def test_gradual_says_in_the_history_what_was_unfrozen():
    expected = ["unfreeze head", *(f"unfreeze {s}" for s in ("block2", "block1"))]
    clf = fit("gradual", hidden_units=(5,), max_epochs=8)
    assert clf.history[:, "phase"] == [
        name for name in [*expected, "unfreeze stem"] for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("unfreeze_from", "trained"),
    [("first", "stem to block2"), ("block1", "block1 to block2"), ("block2", "block2")],
)
def test_history_names_all_that_is_trained_at_once(unfreeze_from, trained):
    clf = fit("lp_ft", unfreeze_from=unfreeze_from, max_epochs=1)
    assert clf.history[:, "phase"] == [f"unfreeze {trained}"]


def test_epochs_per_stage_are_the_users_where_given():
    clf = make("gradual", callbacks__unfreeze__epochs_per_stage=3)
    phases = ["unfreeze block2"] * 3 + ["unfreeze block1"]
    assert clf.fit(X, Y).history[:, "phase"] == phases
    assert clf.fit(X, Y).history[:, "phase"] == phases


def test_schedule_of_stages_is_the_users_where_given():
    mine = GradualUnfreeze({"mine": "tail.stem", "all": "tail.block?"}, 2)
    clf = fit("gradual", callbacks__unfreeze=mine)
    assert clf.history[:, "phase"] == ["unfreeze all"] * 2 + ["unfreeze mine"] * 2


def test_search_over_epochs_per_stage_searches():
    grid = {"callbacks__unfreeze__epochs_per_stage": [1, 4]}
    clf = make("gradual", lr=0.1, random_state=3)
    search = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss", error_score="raise")
    one, four = search.fit(X, Y).cv_results_["mean_test_score"]
    assert one != four


@pytest.mark.parametrize("strategy", ["lp_ft", "gradual"])
def test_training_goes_on_after_a_callback_got_another_parameter(strategy):
    """skorch then makes all callbacks anew, and they have to learn the stages again."""
    clf = fit(strategy)
    clf.set_params(callbacks__unfreeze__layer_decay=0.5).partial_fit(X, Y)
    assert len(clf.history) == 8
    phases = clf.history[:, "phase"]
    assert phases[4:] == phases[3:4] * 4


# Each stands for others: chains with and without norms, branches, dense connections,
# a side head, a head that is a convolution, squeezed channels, paths that are dropped,
# norms over channels, windows, and tokens.
BACKBONES = """
    alexnet resnet18 densenet121 googlenet squeezenet1_1 shufflenet_v2_x0_5
    efficientnet_b0 convnext_tiny swin_t vit_b_32
""".split()
# These need maps of a certain size.
SIDES = {"alexnet": 64, "swin_t": 64, "vit_b_32": 224}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_frozen_stays_in_networks_of_torchvision(backbone):
    params = {
        "backbone": backbone,
        "weights": None,
        "image_size": SIDES.get(backbone, 32),
        "batch_size": 3,
        "max_epochs": 1,
    }
    for strategy in ("lp_ft", "gradual"):
        clf = make(strategy, **params).fit(X[:6], Y[:6])
        before = dict(clf.backbone_.network.module.state_dict())
        tensors = clf.backbone_.network.stage_tensors()
        last = {n for n in list(tensors.values())[-1] if n in before}
        after = clf.module_.backbone_state()
        moved = {n for n in after if not torch.equal(before[n], after[n])}
        weights = dict(clf.backbone_.network.module.named_parameters())
        assert moved, strategy
        assert moved <= last & weights.keys(), strategy


# ---- rates


@pytest.mark.parametrize(
    ("strategy", "params", "expected"),
    [
        ("lp_ft", {}, {"block2": 0.02, "head": 0.02}),  # solved
        ("lp_ft", {"hidden_units": (5,)}, {"block2": 0.02, "head": 0.1}),
        (
            "lp_ft",
            {"unfreeze_from": "stem", "layer_decay": 0.5},
            {"stem": 0.005, "block1": 0.01, "block2": 0.02, "head": 0.02},
        ),
        (
            "full",
            {"layer_decay": 0.5, "hidden_units": (5,)},
            {"stem": 0.005, "block1": 0.01, "block2": 0.02, "head": 0.1},
        ),
        (
            "gradual",
            {"layer_decay": 0.1},
            {"stem": 0.0002, "block1": 0.002, "block2": 0.02, "head": 0.02},
        ),
        (
            "full",
            {"layer_decay": 0.5, "reinit_from": "block1"},
            {"stem": 0.005, "block1": 0.1, "block2": 0.1, "head": 0.1},
        ),
        ("lp_ft", {"reinit_from": "last"}, {"block2": 0.1, "head": 0.1}),
        ("scratch", {"layer_decay": 0.5}, dict.fromkeys(EVERYTHING, 0.1)),
        ("linear_probe", {"hidden_units": (5,)}, {"head": 0.1}),
    ],
)
def test_each_stage_learns_at_its_rate(strategy, params, expected):
    rates = rates_in_steps(strategy, lr=0.1, backbone_lr_ratio=0.2, **params)
    assert rates[-1] == pytest.approx(expected, rel=1e-12)
    for step in rates:
        assert step == pytest.approx({name: expected[name] for name in step})


def test_parameter_groups_of_the_user_win():
    groups = [("head.*", {"lr": 0.7}), ("*stem*", {"lr": 0.3})]
    params = {"optimizer__param_groups": groups, "layer_decay": 0.5, "lr": 0.1}
    rates = rates_in_steps("full", **params)
    assert rates[0] == {"head": 0.7, "stem": 0.3, "block1": 0.1, "block2": 0.1}


# ---- random weights


def test_reinit_from_gives_random_weights_from_there_on():
    clf = fit("full", reinit_from="block1", lr=1e-12)
    before, after = pretrained().state_dict(), state_of(clf)
    weights = {n for n, _ in pretrained().named_parameters() if n.endswith("0.weight")}
    far = {n for n in weights if not torch.allclose(before[n], after[n], atol=1e-4)}
    assert far == {"block1.0.weight", "block2.0.weight"}
    assert torch.equal(after["block1.1.running_mean"], torch.zeros(6))
    assert torch.equal(after["stem.1.running_mean"], before["stem.1.running_mean"])


def test_reinit_from_is_decided_by_random_state():
    first, same, other = (
        state_of(fit("lp_ft", reinit_from="last", random_state=seed))
        for seed in (0, 0, 1)
    )
    assert changed(first, same) == set()
    assert changed(first, other) == {"block2", "head"}


@pytest.mark.parametrize(
    ("strategy", "params"),
    [
        ("linear_probe", {}),
        ("lp_ft", {}),
        ("gradual", {"unfreeze_from": 1}),
    ],
)
def test_random_weights_that_nothing_trains_are_refused(strategy, params):
    with pytest.raises(ValueError, match=r"reinit_from='block1' begins before what"):
        fit(strategy, reinit_from="block1", **params)


def test_reinit_from_a_stage_that_is_not_there_is_refused():
    with pytest.raises(UnknownStageError, match=r"reinit_from='block9' is not one"):
        fit("full", reinit_from="block9")


def test_scratch_uses_no_pretrained_weight():
    before, after = pretrained().state_dict(), state_of(fit("scratch", lr=1e-12))
    for name in ("stem.0.weight", "block1.0.weight", "block2.0.weight"):
        assert not torch.allclose(before[name], after[name], atol=1e-3)


# ---- loops written by hand


def by_hand(network, head, stages, head_lr=0.01, decay=1.0, one_cycle=False):
    """Train as one would in plain torch: norms in eval mode, groups of parameters."""
    network, head = copy.deepcopy(network).eval(), copy.deepcopy(head)
    network.requires_grad_(False)
    groups = [{"params": list(head.parameters()), "lr": head_lr}]
    for depth, name in enumerate(reversed(stages)):
        block = network.get_submodule(name).requires_grad_(True)
        groups += [{"params": list(block.parameters()), "lr": 0.003 * decay**depth}]
    optimizer = torch.optim.AdamW(groups)
    # A quarter of the six steps up, then down along half a cosine.
    ups = [1 / 2.5, 2 / 2.5]
    factors = ups + [(1 + np.cos(np.pi * (n - 1.5) / 4.5)) / 2 for n in range(2, 7)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factors[step] if one_cycle else 1
    )
    for _ in range(3):
        for x, y in zip(IMAGES.split(12), torch.tensor(Y).split(12), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(network.features(x)), y).backward()
            optimizer.step()
            schedule.step()
    return network.state_dict(), head.state_dict()


def assert_trained_as(clf, network, head):
    for name, tensor in clf.module_.backbone_state().items():
        torch.testing.assert_close(tensor.cpu(), network[name], rtol=1e-3, atol=1e-5)
    for name, tensor in clf.module_.head.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), head[name], rtol=1e-3, atol=1e-5)


def probed_head(network):
    """Logistic regression on features of mean variance 1, folded into one layer."""
    with torch.no_grad():
        features = network.features(IMAGES).double().numpy()
    model = make_pipeline(GlobalScaler(), LogisticRegression(tol=1e-12, max_iter=999))
    scaler, probe = (step for _, step in model.fit(features, Y).steps)
    coef = probe.coef_ / scaler.scale_
    head = nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(coef))
        head.bias.copy_(torch.tensor(probe.intercept_ - coef @ scaler.mean_))
    return head


def make_plain(strategy, **params):
    """The same order of rows in each epoch, and nothing else left to chance."""
    defaults = {"backbone": pretrained(0.0), "precision": "float32", "max_epochs": 3}
    defaults |= {"C": 1.0, "backbone_lr_ratio": 0.3}
    return make(strategy, iterator_train__shuffle=False, **defaults | params)


@pytest.mark.parametrize(
    ("first", "schedule"), each_once(STAGES, ["constant", "one_cycle"])
)
def test_lp_ft_equals_a_loop_written_by_hand(first, schedule):
    network = pretrained(0.0)
    clf = make_plain(
        "lp_ft", unfreeze_from=first, lr_schedule=schedule, initial_share=0.25
    ).fit(X, Y)
    begun = network.state_dict(), probed_head(network).state_dict()
    stages, cycle = STAGES[STAGES.index(first) :], schedule == "one_cycle"
    trained = by_hand(
        network, probed_head(network), stages, head_lr=0.003, one_cycle=cycle
    )
    averages = [
        {name: (b[name] + 0.75 * (t[name] - b[name])).to(b[name]) for name in b}
        for b, t in zip(begun, trained, strict=True)
    ]
    assert_trained_as(clf, *averages)


@pytest.mark.parametrize(
    ("layer_decay", "hidden_units"), each_once([1.0, 0.3], [(), (5,)])
)
def test_full_equals_a_loop_written_by_hand(layer_decay, hidden_units):
    class KeepHead(Callback):
        def on_train_begin(self, net, **kwargs):
            heads.append(copy.deepcopy(net.module_.head).cpu())

    heads = []
    params = {"layer_decay": layer_decay, "hidden_units": hidden_units}
    clf = make_plain("full", callbacks=[KeepHead()], **params).fit(X, Y)
    layers = [type(m) for m in heads[0].modules() if not isinstance(m, nn.Sequential)]
    plain = [nn.Linear, nn.ReLU, nn.Linear] if hidden_units else [nn.Linear]
    assert layers == plain
    expected = by_hand(pretrained(0.0), heads[0], STAGES, decay=layer_decay)
    assert_trained_as(clf, *expected)


def test_frozen_part_gives_the_same_weights_from_the_store_and_in_each_epoch():
    """Without a change of images, `augment` costs time only."""
    options = {"optimizer": torch.optim.SGD, "unfreeze_from": 2}
    stored = make_plain("lp_ft", **options).fit(X, Y)
    each_epoch = make_plain("lp_ft", augment=unchanged, **options).fit(X, Y)
    for name, tensor in stored.module_.state_dict().items():
        other = each_epoch.module_.state_dict()[name]
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-5)


def unchanged(image):
    return image


class Tied(torch.nn.Module):
    """Two layers that share their weights."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.b.weight = self.a.weight
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


def test_tied_weights_are_not_frozen_in_one_layer_and_trained_in_the_other():
    with pytest.raises(ValueError, match=r"'a.weight' both .* \(there as 'b.weight'\)"):
        fit("lp_ft", backbone=Tied(), unfreeze_from="last")
    state = fit("full", backbone=Tied()).module_.state_dict()
    assert torch.equal(state["tail.a.weight"], state["tail.b.weight"])
