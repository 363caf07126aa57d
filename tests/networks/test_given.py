"""Networks given as modules: left alone, and traced again when they changed."""

import copy
import functools
import gc
import types
import warnings
import weakref

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune
from torchvision.models.feature_extraction import create_feature_extractor

from sktl import Preprocessing, PretrainedFeatureExtractor, clear_cache
from sktl._networks import given, kept
from sktl._networks.backbones import load_backbone
from sktl._networks.kept import free_networks
from sktl.exceptions import WeightsMismatchError
from tests.helpers import first_and_slow, run_python


@pytest.fixture
def traced(monkeypatch):
    """The modules that were traced, in turn."""
    modules, trace = [], given.StagedNetwork

    def counting(module):
        modules.append(module)
        return trace(module)

    monkeypatch.setattr(given, "StagedNetwork", counting)
    return modules


def test_given_network_is_left_as_it_was(tiny_network):
    tiny_network.train()
    state = {k: v.clone() for k, v in tiny_network.state_dict().items()}
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    PretrainedFeatureExtractor(tiny_network, image_size=16).fit_transform(images)
    assert tiny_network.training
    assert all(p.requires_grad for p in tiny_network.parameters())
    assert all(torch.equal(v, state[k]) for k, v in tiny_network.state_dict().items())


def test_given_network_changed_in_place_is_a_new_network(tiny_network):
    before = load_backbone(tiny_network).digest
    with torch.no_grad():
        tiny_network.conv1.weight.data.mul_(2)
    assert load_backbone(tiny_network).digest != before


class Shifted(torch.nn.Module):
    """A tensor that no state dict shows decides the output."""

    def __init__(self, shift, activation=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.activation = activation or torch.nn.ReLU()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.activation(self.conv(x) + self.shift).mean((2, 3)))


def test_networks_that_differ_outside_their_state_dict_are_told_apart():
    digests = {load_backbone(Shifted(shift)).digest for shift in (1.0, 2.0)}
    assert len(digests) == 2


def test_given_network_with_another_layer_is_a_new_network():
    network = Shifted(0.0)
    before = load_backbone(network).digest
    network.activation = torch.nn.Tanh()
    assert load_backbone(network).digest != before


@pytest.mark.slow
def test_digest_of_a_given_network_is_the_same_in_every_process():
    """Sets of strings are in another order in each."""
    script = """
import torch
from torch import nn
from sktl import Preprocessing, PretrainedFeatureExtractor, clear_cache

class Scaled(nn.Conv2d):
    modes = {"zeros", "reflect", "circular"}

    def forward(self, x):
        x = super().forward(x)
        return x / 2 if self.padding_mode in {"zeros", "reflect", "circular"} else x

network = nn.Sequential(Scaled(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
network[0].register_forward_hook(lambda layer, inputs, output: output * 2)
network[0].options = {"factor": torch.ones(2), "activation": torch.tanh}
network(torch.zeros(1, 3, 8, 8))
for parameter in network.parameters():
    nn.init.ones_(parameter)
extractor = PretrainedFeatureExtractor(network, image_size=8)
print(extractor.fit(torch.zeros(2, 8, 8, 3)).network_digest_)
"""
    digests = {run_python(script, PYTHONHASHSEED=str(seed)) for seed in range(2)}
    assert len(digests) == 1


def test_given_network_unchanged_is_traced_once():
    network = Shifted(0.0)
    assert load_backbone(network).network is load_backbone(network).network


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_quantised_network_is_refused_with_its_cure():
    head = torch.ao.nn.quantized.dynamic.Linear(4, 2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), head)
    with pytest.raises(ValueError, match=r"is quantised.*'2'.*before that, in float32"):
        load_backbone(network)


def test_given_network_in_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"weights in torch\.float16.*network\.float"):
        load_backbone(Shifted(0.0).half())


def test_given_network_with_random_weights_is_redrawn_not_renamed(tiny_network):
    first = load_backbone(tiny_network, None, seed=1).digest
    assert first == load_backbone(tiny_network, None, seed=1).digest
    assert first != load_backbone(tiny_network, None, seed=2).digest
    assert first != load_backbone(tiny_network).digest


def test_given_network_that_cannot_be_redrawn_is_refused():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x.mean((2, 3)) * self.scale)

    with pytest.raises(ValueError, match="has no method reset_parameters"):
        load_backbone(Bare(), None)


# ---- changed or not


def features(network):
    """What plain torch gives for one image, and what sktl gives."""
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    extractor = PretrainedFeatureExtractor(
        network, image_size=16, precision="float32", batch_size=1, cache=None
    )
    found = extractor.fit_transform(image)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(image) / 255 - mean) / std).permute(0, 3, 1, 2)
    caught = []
    *_, (_, head) = network.named_children()
    hook = head.register_forward_pre_hook(lambda layer, inputs: caught.append(inputs))
    was_training = network.training
    with torch.no_grad():
        network.eval()(x)
    network.train(was_training)
    hook.remove()
    return caught[0][0].numpy(), found


FACTOR = 1.0


def scaled(x, factor=1.0):
    return x * factor


class Plain(torch.nn.Module):
    """Everything in it that decides its output can be changed by one line."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.norm.running_var.fill_(4.0)
        self.register_buffer("shift", torch.zeros(1), persistent=False)
        self.constant = 1.0
        self.options = {"factors": [1.0, 2.0]}
        self.activation = torch.relu
        self.partial = functools.partial(scaled, factor=1.0)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        x = self.activation(self.norm(self.conv(x)) + self.shift)
        x = x * self.constant * self.options["factors"][0] * self.scale * FACTOR
        return self.fc(self.partial(self.inner(x)).mean((2, 3)))

    def inner(self, x):
        return x * 1.0


def _global(network, monkeypatch):
    monkeypatch.setitem(globals(), "FACTOR", 2.0)


def _class_attribute(network, monkeypatch):
    monkeypatch.setattr(Plain, "scale", 2.0)


def _method(network, monkeypatch):
    monkeypatch.setattr(Plain, "inner", lambda self, x: x * 2.0)


def _method_of_one(network, monkeypatch):
    network.inner = lambda x: x * 2.0


def _hook(network, monkeypatch):
    network.norm.register_forward_hook(lambda layer, inputs, output: output * 2)


def _layer(network, monkeypatch):
    network.norm = torch.nn.Identity()


def _setting(network, monkeypatch):
    network.conv.stride = (2, 2)
    network.conv.padding = (0, 0)


def _run(line):
    def change(network, monkeypatch):
        with torch.no_grad():
            exec(
                line,
                {
                    "network": network,
                    "torch": torch,
                    "scaled": scaled,
                    "functools": functools,
                },
            )

    return change


CHANGES = {
    "a weight": _run("network.conv.weight.mul_(2)"),
    "a weight behind autograd": _run("network.conv.weight.data.mul_(2)"),
    "a weight through NumPy": _run("network.conv.weight.numpy()[:] *= 2"),
    "another parameter": _run("network.conv.bias = torch.nn.Parameter(torch.ones(4))"),
    "no parameter": _run("network.conv.bias = None"),
    "statistics": _run("network.norm.running_mean.add_(1)"),
    "a buffer that is not saved": _run("network.shift.fill_(1)"),
    "a number": _run("network.constant = 2.0"),
    "a number in a list": _run("network.options['factors'][0] = 2.0"),
    "a function": _run("network.activation = torch.tanh"),
    "a partial function": _run(
        "network.partial = functools.partial(scaled, factor=2.0)"
    ),
    "a number in a partial function": _run("network.partial.keywords['factor'] = 2.0"),
    "a setting of a layer": _setting,
    "a layer": _layer,
    "a hook": _hook,
    "a global": _global,
    "a class attribute": _class_attribute,
    "a method": _method,
    "a method of this network": _method_of_one,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_given_network_is_traced_again_when_it_changed(change, monkeypatch, traced):
    network = Plain().requires_grad_(False)
    before = features(network)[1]
    change(network, monkeypatch)
    expected, found = features(network)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, before, rtol=1e-3)
    assert len(traced) == 2


def test_given_network_that_did_not_change_is_traced_once(traced):
    network = Plain().train()
    first = features(network)[1]
    network.eval().requires_grad_(False)  # neither decides what it computes here
    assert np.array_equal(features(network)[1], first)
    assert len(traced) == 1


@pytest.mark.parametrize("is_extractor", first_and_slow([False, True]))
def test_given_network_of_torchvision_is_traced_once(traced, is_extractor):
    network = torchvision.models.mnasnet0_5(weights=None)
    if is_extractor:
        network = create_feature_extractor(network, {"mean": "features"})
    first = load_backbone(network).network
    assert load_backbone(network).network is first
    assert len(traced) == 1


def test_given_network_with_what_cannot_be_compared_is_traced_each_time(traced):
    network = Plain()
    network.options["unknown"] = weakref.ref(network)
    for _ in range(2):
        features(network)
    assert len(traced) == 2


MODULE = types.ModuleType("mine")


class ReadsModule(Plain):
    def inner(self, x):
        return x * MODULE.factor


def test_given_network_that_reads_a_module_of_the_user_is_traced_each_time(
    traced, monkeypatch
):
    network = ReadsModule()
    for factor in (1.0, 2.0):
        monkeypatch.setattr(MODULE, "factor", factor, raising=False)
        expected, found = features(network)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert len(traced) == 2


def test_copies_of_given_networks_go_with_them():
    network = Plain()
    copied = weakref.ref(load_backbone(network).network.module)
    del network
    gc.collect()
    assert copied() is None


def test_kept_networks_are_freed_with_the_cache_in_memory(tmp_path):
    network = Plain()
    copies = [
        weakref.ref(load_backbone(*args).network.module)
        for args in [(network,), ("sktl_mini",), ("sktl_mini", None)]
    ]
    clear_cache(tmp_path)
    gc.collect()
    assert None not in [copied() for copied in copies]
    clear_cache()
    gc.collect()
    assert [copied() for copied in copies] == [None] * 3


def test_kept_networks_are_bounded_in_bytes(monkeypatch):
    """Six VGGs without weights are 3 GB."""
    free_networks()
    first = load_backbone("sktl_mini", None, seed=0).network
    n_bytes = sum(t.nbytes for t in first.tensors().values())
    monkeypatch.setattr(kept, "MAX_BYTES", int(2.5 * n_bytes))
    networks = [load_backbone("sktl_mini", None, seed=n).network for n in range(5)]
    again = [load_backbone("sktl_mini", None, seed=n).network for n in (4, 3, 0)]
    assert again[0] is networks[4]
    assert again[1] is networks[3]
    assert again[2] is not first


def test_a_network_larger_than_the_bound_is_kept_until_the_next(monkeypatch):
    monkeypatch.setattr(kept, "MAX_BYTES", 1)
    first = load_backbone("sktl_mini", None, seed=1).network
    assert load_backbone("sktl_mini", None, seed=1).network is first


# ---- what its layers hold, which tracing does not enter


class Leaf(nn.Conv2d):
    """A kind of convolution; what its forward reads shows in no graph."""

    table = [1.0]

    def __init__(self):
        super().__init__(4, 4, 1)
        self.mask = torch.ones(4, 1, 1)
        self.options = {"factor": [1.0]}
        self.array = np.ones(4, np.float32)

    @property
    def doubled(self):
        return 2.0

    def forward(self, x):
        x = super().forward(x) * self.mask * self.options["factor"][0] * self.doubled
        return x * float(self.array[0]) * self.table[0] * FACTOR


class Power(nn.Module):
    exponent = 1.0

    def forward(self, x):
        return x**self.exponent


def _leaf(change):
    def make(is_other):
        layer = Leaf()
        if is_other:
            change(layer)
        return layer

    return make


def _parametrized(is_other):
    power = Power()
    power.exponent = 3.0 if is_other else 1.0
    layer = nn.Conv2d(4, 4, 1)
    nn.utils.parametrize.register_parametrization(layer, "weight", power)
    return layer


def _encoder(**options):
    def make(is_other):
        values = {name: pair[is_other] for name, pair in options.items()}
        heads = values.pop("nhead", 2)
        layer = nn.TransformerEncoderLayer(4, heads, 8, batch_first=True, **values)
        return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    return make


LEAVES = {
    "a number of heads": _encoder(nhead=(2, 4)),
    "a function of torch": _encoder(activation=(torch.tanh, torch.sigmoid)),
    "a setting of a parametrization": _parametrized,
    "a tensor": _leaf(lambda layer: layer.mask.mul_(3)),
    "a number in a list in a dict": _leaf(
        lambda layer: layer.options["factor"].append(layer.options["factor"].pop() * 3)
    ),
    "an array": _leaf(lambda layer: layer.array.__imul__(3)),
    "a hook": _leaf(lambda layer: layer.register_forward_hook(lambda *a: a[-1] * 3)),
    "a hook before": _leaf(
        lambda layer: layer.register_forward_pre_hook(lambda layer, x: (x[0] * 3,))
    ),
    "its forward": _leaf(lambda layer: setattr(layer, "forward", lambda x: x * 3)),
}


class Around(nn.Module):
    """A leaf in a network that keeps its weights; the layer sees a map or tokens."""

    def __init__(self, leaf):
        super().__init__()
        self.conv, self.leaf, self.fc = nn.Conv2d(3, 4, 4, 4), leaf, nn.Linear(4, 2)
        self.tokens = not isinstance(leaf, nn.Conv2d)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.5)

    def forward(self, x):
        x = self.conv(x)
        if self.tokens:
            return self.fc(self.leaf(x.flatten(2).transpose(1, 2)).mean(1))
        return self.fc(self.leaf(x).mean((2, 3)))


def extracted(network, images, cache="memory"):
    extractor = PretrainedFeatureExtractor(
        network, image_size=16, precision="float32", batch_size=4, cache=cache
    )
    return extractor.fit_transform(images)


@pytest.mark.parametrize("make", LEAVES.values(), ids=LEAVES)
def test_cache_gives_no_features_of_a_network_whose_layer_differs(make, images):
    first, second, again = Around(make(0)), Around(make(1)), Around(make(0))
    features = extracted(first, images)
    found, expected = extracted(second, images), extracted(second, images, cache=None)
    assert np.array_equal(found, expected)
    assert not np.allclose(found, features, rtol=1e-3)
    assert load_backbone(again).digest == load_backbone(first).digest


LEAF_CODE = {
    "a global that it reads": lambda patch: patch.setitem(globals(), "FACTOR", 3.0),
    "a list of its class": lambda patch: patch.setattr(Leaf, "table", [3.0]),
    "a property": lambda patch: patch.setattr(Leaf, "doubled", property(lambda s: 6.0)),
    "a method": lambda patch: patch.setattr(Leaf, "forward", lambda s, x: x * 3),
}


@pytest.mark.parametrize("change", LEAF_CODE.values(), ids=LEAF_CODE)
def test_layer_of_which_the_code_changed_after_fit_is_an_error(
    change, images, monkeypatch
):
    extractor = PretrainedFeatureExtractor(Around(Leaf()), image_size=16).fit(images)
    extractor.transform(images)
    change(monkeypatch)
    with pytest.raises(WeightsMismatchError, match="not the network that fit saw"):
        extractor.transform(images)


def test_hook_added_after_fit_is_an_error(images, tiny_network):
    extractor = PretrainedFeatureExtractor(tiny_network, image_size=16).fit(images)
    tiny_network.conv2.register_forward_hook(lambda layer, inputs, output: output * 2)
    with pytest.raises(WeightsMismatchError, match="not the network that fit saw"):
        extractor.transform(images)


class Tracker:
    """A hook that cannot be compared: its network holds it."""

    def __init__(self, network):
        self.network = network

    def __call__(self, layer, inputs, output):
        return output * 2


def test_layer_that_cannot_be_digested_is_an_error_that_names_it(images, tiny_network):
    tiny_network.conv2.register_forward_hook(Tracker(tiny_network))
    extractor = PretrainedFeatureExtractor(tiny_network, image_size=16)
    with pytest.raises(ValueError, match=r"'conv2'.*'_forward_hooks'.*handle\.remove"):
        extractor.fit(images)


def test_hook_that_keeps_what_it_sees_changes_no_network(images, tiny_network):
    expected = extracted(tiny_network, images)
    seen = []
    tiny_network.conv2.register_forward_hook(lambda *args: seen.append(args[-1]))
    extractor = PretrainedFeatureExtractor(
        tiny_network, image_size=16, precision="float32", batch_size=4
    ).fit(images)
    np.testing.assert_allclose(extractor.transform(images), expected, rtol=1e-5)
    assert seen


_seen = []


def _keep(output):
    _seen.append(output)


def _warned(output):
    warnings.warn("seen", UserWarning, stacklevel=2)
    return output * 2


def test_hook_that_calls_a_library_is_the_same_made_anew(images, tiny_network):
    other = copy.deepcopy(tiny_network)
    for network in (tiny_network, other):
        network.conv2.register_forward_hook(lambda *args: _warned(args[-1]))
    assert load_backbone(other).digest == load_backbone(tiny_network).digest


def test_hook_that_lets_another_function_keep_it_changes_no_network(
    images, tiny_network
):
    tiny_network.conv2.register_forward_hook(lambda *args: _keep(args[-1]))
    extractor = PretrainedFeatureExtractor(tiny_network, image_size=16).fit(images)
    _seen.clear()
    extractor.transform(images)
    extractor.transform(images[::-1])
    assert _seen


def _times_factor(x):
    return x * FACTOR


def _calls_times_factor(x):
    return _times_factor(x)


@torch.fx.wrap
def _wrapped(x):
    return _calls_times_factor(x)


class Deep(nn.Conv2d):
    """A layer that tracing does not enter; like `_wrapped`, it calls what calls."""

    def __init__(self):
        super().__init__(4, 4, 1)

    def forward(self, x):
        return _calls_times_factor(super().forward(x))


class CallsWrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(_wrapped(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("make", [CallsWrapped, lambda: Around(Deep())])
def test_cache_gives_no_features_of_what_a_function_read_before(
    make, images, monkeypatch
):
    network = make()
    before = extracted(network, images)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    found, expected = extracted(network, images), extracted(network, images, cache=None)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, 3 * before, rtol=1e-4, atol=1e-5)


def test_hooks_that_differ_in_what_is_around_them_are_told_apart(images, tiny_network):
    def features(factor):
        hook = tiny_network.conv2.register_forward_hook(lambda *args: args[-1] * factor)
        found = extracted(tiny_network, images), extracted(tiny_network, images, None)
        hook.remove()
        return found

    for factor in (2, 3):
        found, expected = features(factor)
        assert np.array_equal(found, expected)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


class Scaled(nn.Module):
    """Its forward takes values from a property and a static method."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    @property
    def factor(self):
        return 2.0

    @staticmethod
    def bend(x):
        return x.relu()

    def forward(self, x):
        return self.bend(self.conv(x)) * self.factor


def test_property_of_a_class_that_changed_is_seen(images, monkeypatch):
    """A network is traced again only if it changed; this is a change."""
    torch.manual_seed(0)
    extractor = PretrainedFeatureExtractor(
        Scaled(), image_size=16, precision="float32", cache=None
    )
    before = extractor.fit_transform(images)
    assert np.array_equal(extractor.fit_transform(images), before)
    monkeypatch.setattr(Scaled, "factor", property(lambda self: 6.0))
    np.testing.assert_allclose(extractor.fit_transform(images), 3 * before, rtol=1e-5)
    monkeypatch.setattr(Scaled, "bend", staticmethod(torch.tanh))
    assert not np.allclose(extractor.fit_transform(images), 3 * before)


def test_weights_of_another_number_format_are_seen(images):
    torch.manual_seed(0)
    network = Scaled()
    extractor = PretrainedFeatureExtractor(
        network, image_size=16, precision="float32", cache=None
    )
    before = extractor.fit_transform(images)
    with torch.no_grad():
        network.conv.weight.data = network.conv.weight.data.half().float() * 2
    after = extractor.fit_transform(images)
    network.conv.weight.data = network.conv.weight.data.clone()
    assert np.array_equal(extractor.fit_transform(images), after)
    assert not np.allclose(after, before)


@pytest.mark.parametrize("weights", ["DEFAULT", None])
def test_given_network_in_double_precision_is_refused(tiny_network, weights):
    with pytest.raises(ValueError, match=r"weights in torch\.float64"):
        load_backbone(copy.deepcopy(tiny_network).double(), weights)


@pytest.mark.parametrize("compiled", first_and_slow([torch.jit.script, torch.compile]))
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_compiled_network_is_refused(compiled):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    with pytest.raises(ValueError, match="compiled by .* Pass the network itself"):
        load_backbone(compiled(network))


# ---- what is refused, and by which words


class Applied(nn.Module):
    """A convolution, then whatever is given; features are the mean over positions."""

    def __init__(self, function, inner=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.inner = nn.Conv2d(3, 4, 3), inner or nn.Identity()
        self.function = function

    def forward(self, x):
        return self.function(self.inner(self.conv(x)).relu())


def _mean(x):
    return x.mean((2, 3))


RANDOM = "features are random"
OF_BATCH = "depend on the other images in its batch"
NOT_ROWS = {
    "dropout": (lambda x: _mean(nn.functional.dropout(x)), RANDOM),
    "noise": (lambda x: _mean(x + torch.randn_like(x)), RANDOM),
    "batch norm": (
        lambda x: nn.functional.batch_norm(_mean(x), None, None, training=True),
        OF_BATCH,
    ),
    "a mean of the batch": (lambda x: _mean(x - x.mean(0)), OF_BATCH),
    "the first image": (lambda x: _mean(x - 0.5 * x[:1]), OF_BATCH),
    "a softmax over the batch": (lambda x: _mean(x.softmax(0)), OF_BATCH),
    "no axes": (lambda x: x.mean((1, 2, 3)), r"shape \(5,\), which has no row"),
    "another order": (lambda x: _mean(x).T, r"shape \(4, 5\), which has no row"),
    "whole numbers": (lambda x: x.argmax(1), "gives torch.int64, which cannot be"),
    "no numbers": (lambda x: _mean(x - 9).log(), "are NaN or infinite"),
    "len": (lambda x: x.view(len(x), 4, -1).mean(2), r"x\.shape\[0\] instead of len"),
    "int": (lambda x: x.view(int(x.shape[0]), -1), r"x\.shape\[0\] instead of len"),
    "zeros": (
        lambda x: _mean(x) + torch.zeros(x.shape[0], 1),
        r"x\.new_zeros\(x\.shape\[0\], 1\)",
    ),
}


@pytest.mark.parametrize(("function", "message"), NOT_ROWS.values(), ids=NOT_ROWS)
def test_network_that_gives_no_row_per_image_is_refused(function, message, images):
    with pytest.raises(ValueError, match=message):
        extracted(Applied(function), images, cache=None)


def test_check_of_rows_draws_no_numbers_of_the_user(images):
    torch.manual_seed(3)
    expected = torch.rand(1)
    network = Applied(_mean)
    torch.manual_seed(3)
    extracted(network, images, cache=None)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("n_images", [1, 4])
def test_axes_that_are_squeezed_leave_that_of_the_images(n_images, images):
    network = Applied(lambda x: x.mean((2, 3), keepdim=True).squeeze())
    expected = extracted(Applied(_mean), images[:n_images], cache=None)
    found = extracted(network, images[:n_images], cache=None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def _pruned():
    network = Applied(_mean)
    prune.random_unstructured(network.conv, "weight", 0.5)
    return network


def _normed():
    network = Applied(_mean, nn.Conv2d(4, 4, 1))
    nn.utils.weight_norm(network.inner)
    return network


def _with_root_hook():
    network = Applied(_mean)
    network.register_forward_hook(lambda layer, inputs, output: output * 2)
    return network


def _with_another_forward():
    network = Applied(_mean)
    network.forward = lambda x: _mean(x)
    return network


REFUSED = {
    "pruned": (_pruned, r"'weight' of the layer 'conv' .* prune\.remove"),
    "weight norm": (_normed, r"'weight' of the layer 'inner' .* remove_weight_norm"),
    "meta": (lambda: Applied(_mean).to("meta"), r"'meta'.*to_empty\(device='cpu'\)"),
    "lazy": (
        lambda: Applied(_mean, nn.LazyConv2d(4, 1)),
        r"without a shape, such as 'inner\.weight'.*Call the network",
    ),
    "parallel": (lambda: nn.DataParallel(Applied(_mean)), r"backbone\.module"),
    "no forward": (lambda: nn.ModuleList([nn.ReLU()]), r"no forward.*nn\.Sequential"),
    "hooks": (_with_root_hook, r"has forward hooks.*nn\.Sequential\(network\)"),
    "forward": (_with_another_forward, r"has another forward on the object itself"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_network_that_cannot_be_read_is_refused_with_the_cure(make, message, images):
    with pytest.raises(ValueError, match=message):
        extracted(make(), images, cache=None)


def test_hook_of_a_network_in_a_sequential_is_seen(images):
    found = extracted(nn.Sequential(_with_root_hook()), images)
    np.testing.assert_allclose(found, 2 * extracted(Applied(_mean), images), rtol=1e-5)


class OwnParameter(nn.Module):
    """A parameter of its own, which no method draws at random."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        return self.fc((self.conv(x) * self.scale).relu().mean((2, 3)))


def test_complete_weights_need_no_way_to_draw_random_ones():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    first, other = OwnParameter(), OwnParameter()
    with torch.no_grad():
        other.scale.fill_(3.0)
    params = {"image_size": 16, "cache": None}
    loaded = PretrainedFeatureExtractor(first, weights=other.state_dict(), **params)
    expected = PretrainedFeatureExtractor(other, **params).fit_transform(images)
    np.testing.assert_array_equal(loaded.fit_transform(images), expected)
    assert torch.equal(first.scale, torch.ones(1, 4, 1, 1))
    with pytest.raises(ValueError, match="no method reset_parameters"):
        PretrainedFeatureExtractor(first, weights=None, **params).fit(images)


class Base(nn.Module):
    """Features that a subclass computes of a convolution's maps, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu = nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.features(x))


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), resize=16, crop=16)


def features_of(network, **params):
    defaults = {"preprocessing": PLAIN, "precision": "float32", "cache": None}
    return PretrainedFeatureExtractor(network, **defaults | params).fit_transform(
        IMAGES
    )


def by_torch(network):
    with torch.inference_mode():
        images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
        return network.eval().features(images.contiguous()).numpy()


@pytest.mark.parametrize(
    "statement",
    [
        lambda self, x: self.relu(x),
        lambda self, x: nn.functional.relu(x, inplace=True),
        lambda self, x: nn.functional.relu(x, True),
        lambda self, x: x.relu_(),
        lambda self, x: torch.relu_(x),
    ],
)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_statement_that_changes_features_in_place_is_part_of_them(statement, n_outputs):
    class Network(Base):
        def features(self, x):
            x = self.conv(x).mean((2, 3))
            statement(self, x)
            return x

        def forward(self, x):
            scores = super().forward(x)
            return scores if n_outputs == 1 else (scores, scores.sum(1))

    network = Network()
    expected = by_torch(network)
    np.testing.assert_allclose(features_of(network), expected, atol=1e-6)


class AsksForTypes(Base):
    def features(self, x):
        x = self.conv(x)
        if isinstance(x, torch.Tensor):
            x = x.relu()
        return x.mean((2, 3))


class CatchesErrors(Base):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, padding=1)

    def features(self, x):
        x = self.conv(x)
        try:
            if x.shape[2] > 4:
                x = nn.functional.max_pool2d(x, 2)
        except Exception:
            pass
        return x.mean((2, 3))


class AddsInPlace(Base):
    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(8, 8, 1)

    def features(self, x):
        x = skip = self.conv(x)
        x += 1.0
        return (self.more(x) + skip).relu().mean((2, 3))


@pytest.mark.parametrize("kind", [AsksForTypes, CatchesErrors, AddsInPlace])
def test_network_that_tracing_misses_a_part_of_is_refused(kind):
    with pytest.raises(ValueError, match="computes something else than the network"):
        features_of(kind())


def test_network_that_writes_into_its_images_is_traced_as_it_is():
    class Centred(Base):
        def features(self, x):
            return self.conv(x.sub_(0.5)).relu().mean((2, 3))

    network = Centred()
    expected = by_torch(network)
    np.testing.assert_allclose(features_of(network), expected, atol=1e-6)


class Folded(Base):
    """Quarters of images are images of their own, in between."""

    def features(self, x):
        x = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
        x = self.conv(x.reshape(-1, 3, 8, 8)).relu()
        return x.mean((2, 3)).reshape(-1, 4, 8).mean(1)


class Stacked(Base):
    def features(self, x):
        x = torch.stack([self.conv(x), 2 * self.conv(x)])
        return x.relu().mean(0).mean((2, 3))


@pytest.mark.parametrize(("kind", "layer"), [(Folded, "conv"), (Stacked, "stack")])
def test_layer_without_a_row_for_each_image_is_refused(kind, layer):
    network = kind()
    np.testing.assert_allclose(features_of(network), by_torch(network), atol=1e-6)
    with pytest.raises(ValueError, match=f"Layer '{layer}' gives .* no row for each"):
        features_of(network, layers=layer)


def test_view_of_maps_is_that_of_plain_torch():
    class LeNet(Base):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8 * 7 * 7, 3)

        def features(self, x):
            return self.conv(x).view(-1, 8 * 7 * 7)

    network = LeNet()
    np.testing.assert_allclose(features_of(network), by_torch(network), atol=1e-6)


def test_forward_of_a_layer_object_is_not_folded_away():
    class Normed(Base):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)
            self.norm.running_mean.normal_()

        def features(self, x):
            return self.norm(self.conv(x)).mean((2, 3))

    network = Normed()
    network.norm.forward = lambda x: x
    np.testing.assert_allclose(features_of(network), by_torch(network), atol=1e-6)


class Config:
    scale = 1.0


def test_constant_of_a_class_that_changes_makes_another_network(monkeypatch):
    class Configured(Base):
        def features(self, x):
            return self.conv(x * Config.scale).relu().mean((2, 3))

    network = Configured()
    extractor = PretrainedFeatureExtractor(network, preprocessing=PLAIN).fit(IMAGES)
    monkeypatch.setattr(Config, "scale", 3.0)
    with pytest.raises(WeightsMismatchError, match="not the network that fit saw"):
        extractor.transform(IMAGES)
    np.testing.assert_allclose(features_of(network), by_torch(network), atol=1e-5)


def test_layer_made_in_forward_is_refused_with_what_to_do():
    class Inside(Base):
        def features(self, x):
            return nn.ReLU()(self.conv(x)).mean((2, 3))

    with pytest.raises(ValueError, match="makes all its layers in __init__"):
        features_of(Inside())
