"""A network cut in two computes what the whole computes."""

import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import get_graph_node_names

from sktl._networks.fusion import fuse_batch_norms
from sktl._networks.stages import StagedNetwork
from sktl.exceptions import UnknownLayerError, UnknownStageError
from tests.helpers import first_and_slow


@pytest.fixture(scope="module")
def resnet():
    return StagedNetwork(get_model("resnet18", weights=None))


class Branches(nn.Module):
    """Two paths that meet: only what lies before and after them is a cut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.left(x) + self.right(x)).mean((2, 3)))


def test_cuts_exclude_nodes_beside_which_another_value_is_alive():
    assert StagedNetwork(Branches()).cuts == ["stem", "add", "mean", "head"]


@pytest.mark.parametrize(
    "name", first_and_slow(["resnet18", "densenet121", "shufflenet_v2_x0_5"])
)
def test_prefix_and_tail_give_what_the_head_reads(name):
    module = get_model(name, weights=None).eval()
    network = StagedNetwork(module)
    images = torch.rand(2, 3, 64, 64)
    seen = []
    head = module.get_submodule(network.heads[0])
    head.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(images)
        last = network.cuts.index(network.penultimate)
        for cut in ["", *network.cuts[:last:3], network.penultimate]:
            activation = network.prefix(cut)(images)[0]
            assert torch.equal(network.tail(cut)(activation), seen[0]), cut


def test_cuts_are_named_as_torchvision_names_nodes(resnet):
    _, names = get_graph_node_names(resnet.module)
    assert resnet.cuts == [name for name in names if name in resnet.cuts]


def test_prefix_of_several_cuts_gives_each_of_them(resnet):
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        early, late = resnet.prefix("layer1.1.relu_1", "flatten")(images)
        assert torch.equal(early, resnet.prefix("layer1.1.relu_1")(images)[0])
    assert early.shape == (1, 64, 16, 16)
    assert late.shape == (1, 512)


def test_prefix_holds_nothing_after_its_last_cut(resnet):
    state = resnet.prefix("layer1.1.relu_1").state_dict()
    assert {name.split(".")[0] for name in state} == {"conv1", "bn1", "layer1"}


@pytest.mark.parametrize(
    ("name", "penultimate", "n_features", "stages"),
    [
        ("resnet18", "flatten", 512, ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_1", "classifier.0", 512, ["features.0", "features.12"]),
        ("mobilenet_v3_small", "classifier.2", 1024, ["features.0", "classifier.0"]),
        pytest.param(
            *("densenet121", "flatten", 1024),
            ["features.conv0", "features.denseblock4"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("googlenet", "dropout", 1024),
            ["conv1", "inception5b"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_stages_and_penultimate_of_known_networks(
    name, penultimate, n_features, stages
):
    network = StagedNetwork(get_model(name, weights=None))
    names = [stage.name for stage in network.stages]
    assert (network.penultimate, network.n_features(224)) == (penultimate, n_features)
    assert [stage for stage in names if stage in stages] == stages
    assert [names[0], names[-1]] == [stages[0], stages[-1]]


def test_stages_partition_the_weights_before_the_head(resnet):
    starts = [stage.start for stage in resnet.stages]
    order = ["", *resnet.cuts]
    assert starts[0] == ""
    assert [order.index(start) for start in starts] == sorted(map(order.index, starts))


@pytest.mark.parametrize(
    ("unfreeze_from", "cut"),
    [
        ("last", "layer3.1.relu_1"),
        (1, "layer3.1.relu_1"),
        (2, "layer2.1.relu_1"),
        (5, ""),
        ("layer4", "layer3.1.relu_1"),
        ("layer4.1", "layer4.0.relu_1"),
        ("layer[34]", "layer2.1.relu_1"),
        ("layer*", "maxpool"),
        ("layer4.*", "layer3.1.relu_1"),
        ("layer?.1", "layer1.0.relu_1"),
    ],
)
def test_unfreeze_from_means_the_cut_before_it(resnet, unfreeze_from, cut):
    assert resnet.resolve_stage(unfreeze_from) == cut


@pytest.mark.parametrize(
    "unfreeze_from", ["layer5", "fully*", "x", "flatten", "fc", True]
)
def test_unfreeze_from_without_match_names_the_nearest(resnet, unfreeze_from):
    with pytest.raises(UnknownStageError, match=r"unfreeze_from=.*'layer4'; the path"):
        resnet.resolve_stage(unfreeze_from)


@pytest.mark.parametrize(
    ("layer", "stage"),
    [("maxpool", "conv1"), ("layer1.1.relu_1", "layer1"), ("flatten", "layer4")],
)
def test_layer_in_place_of_a_stage_is_told_its_stage(resnet, layer, stage):
    said = f"{layer!r} is a layer of the stage {stage!r}. The stages are"
    with pytest.raises(UnknownStageError, match=re.escape(said)) as caught:
        resnet.resolve_stage(layer)
    assert said in str(pickle.loads(pickle.dumps(caught.value)))  # from a worker


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("layer4", "'layer4' is a stage; its last layer is 'flatten'. "),
        ("layer4.1", "'layer4.1' is a block; that is its last layer. "),
    ],
)
def test_stage_in_place_of_a_layer_is_told_its_last_layer(resnet, name, note):
    said = f"Closest: 'layer4.1.relu_1'. {note}"
    with pytest.raises(UnknownLayerError, match=re.escape(said)):
        resnet.check_cut(name)


class Skipping(nn.Module):
    """The image is used to the end, so that nothing before that is a cut."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.third = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.third(x + self.second(self.first(x))).mean((2, 3)))


def test_unfreezing_everything_unasked_is_said():
    network = StagedNetwork(Skipping())
    assert [stage.name for stage in network.stages] == ["first", "third"]
    with pytest.warns(UserWarning, match=r"everything is trained too.*\['add'"):
        assert network.resolve_stage("second") == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert network.resolve_stage("first") == network.resolve_stage(2) == ""
        assert network.resolve_stage("third") == "add"


def test_unfreezing_more_than_asked_is_said(resnet):
    with pytest.warns(UserWarning, match=r"so \['layer4.1.conv1'\] is trained too"):
        assert resnet.resolve_stage("layer4.1.conv2") == "layer4.0.relu_1"


def test_unfreezing_the_last_of_one_stage_is_said():
    network = StagedNetwork(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    )
    with pytest.warns(UserWarning, match="so everything is trained too"):
        assert network.resolve_stage("last") == ""


class Positioned(nn.Module):
    """Blocks that all read the same positions, as those of DINOv3."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        x = self.stem(x)
        position = x.mean(1, keepdim=True)
        x = self.first(x) + position
        return self.head((self.second(x) + position).mean((2, 3)))


def test_unfreezing_almost_everything_as_the_last_stage_is_said():
    network = StagedNetwork(Positioned())
    with pytest.warns(UserWarning, match=r"'last'.*\['first'\] is trained too"):
        assert network.resolve_stage("last") == "stem"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert network.resolve_stage("f?rst") == network.resolve_stage(1) == "stem"
        assert network.resolve_stage("first") == ""


@pytest.mark.parametrize("n_stages", [0, 6, -1])
def test_unfreeze_from_beyond_the_stages_is_refused(resnet, n_stages):
    with pytest.raises(ValueError, match="must be between 1 and 5"):
        resnet.resolve_stage(n_stages)


def test_headless_network_has_no_cut_behind_penultimate():
    network = StagedNetwork(get_model("resnet18", weights=None))
    state = network.module.state_dict()
    network.load({k: v for k, v in state.items() if k != "fc.weight"})
    assert network.cuts[-1] == "flatten"
    with pytest.raises(UnknownLayerError):
        network.check_cut("fc")


@pytest.mark.parametrize(
    "name", first_and_slow(["shufflenet_v2_x0_5", "convnext_tiny"])
)
def test_every_cut_gives_one_tensor(name):
    network = StagedNetwork(get_model(name, weights=None))
    with torch.no_grad():
        outputs = network.prefix(*network.cuts)(torch.rand(1, 3, 64, 64))
    assert all(isinstance(output, torch.Tensor) for output in outputs)


def test_channels_are_found_where_the_network_puts_them_last():
    """ConvNeXt and its like permute their maps; the widths are 96 at first."""
    network = StagedNetwork(get_model("convnext_tiny", weights=None))
    cuts = ["features.0.1.permute", "features.0.1.layer_norm", "features.0.1.permute_1"]
    with torch.no_grad():
        maps = network.prefix(*cuts)(torch.rand(1, 3, 64, 96))
    axes = [-1 if network.is_channels_last(cut) else 1 for cut in cuts]
    assert axes == [-1, -1, 1]
    assert [m.shape[axis] for m, axis in zip(maps, axes, strict=True)] == [96] * 3


def test_norm_with_the_statistics_of_its_batch_is_refused():
    """Or a row of features would depend on the rows beside it."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 2, 1),
    )
    with pytest.raises(ValueError, match="norm '1' has no running statistics"):
        StagedNetwork(network)


class TiedWeights(nn.Module):
    """The convolution's weight is used a second time, outside its layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        x = self.norm(self.conv(x)) * self.conv.weight.sum()
        return self.head(self.last(x))


def test_norm_is_not_folded_where_it_would_change_another_use():
    module = TiedWeights()
    nn.init.constant_(module.norm.running_var, 4.0)
    network = StagedNetwork(module)
    prefix = network.prefix("last")
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(fuse_batch_norms(prefix)(images)[0], prefix(images)[0])


def test_norm_is_not_folded_into_a_convolution_with_a_hook():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    nn.init.constant_(module[1].running_mean, 1.0)
    module[0].register_forward_hook(lambda layer, inputs, output: output.clamp(0))
    network = StagedNetwork(module)
    prefix = network.prefix("1")
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(fuse_batch_norms(prefix)(images)[0], prefix(images)[0])


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Conv2d(3, 2, 1)])
def test_network_without_penultimate_layer_is_refused(layer):
    with pytest.raises(ValueError, match="has no penultimate layer"):
        StagedNetwork(nn.Sequential(layer))


@pytest.mark.parametrize(
    "name", first_and_slow(["mobilenet_v3_small", "resnet18", "densenet121"])
)
def test_fused_batch_norms_change_rounding_only(name):
    module = get_model(name, weights=None)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    network = StagedNetwork(module)
    prefix = network.prefix(network.penultimate)
    state = {k: v.clone() for k, v in prefix.state_dict().items()}
    fused = fuse_batch_norms(prefix)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = prefix(images)[0]
        torch.testing.assert_close(fused(images)[0], expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, state[k]) for k, v in prefix.state_dict().items())


def test_fusing_removes_the_norms_behind_convolutions(resnet):
    fused = fuse_batch_norms(resnet.prefix("flatten"))
    kinds = [
        type(fused.get_submodule(n.target))
        for n in fused.graph.nodes
        if n.op == "call_module"
    ]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.Conv2d) == 20


def test_norm_behind_a_requested_convolution_is_not_folded_into_it(resnet):
    """Who asks for the convolution's output gets it, not the norm's."""
    images = torch.rand(1, 3, 64, 64)
    prefix = resnet.prefix("conv1", "maxpool")
    with torch.no_grad():
        assert torch.equal(fuse_batch_norms(prefix)(images)[0], prefix(images)[0])


def test_description_differs_when_a_setting_does():
    """What has equal weights need not compute the same."""

    def network(stride):
        layers = nn.Conv2d(3, 2, 1, stride=stride), nn.Conv2d(2, 2, 1)
        return StagedNetwork(nn.Sequential(*layers))

    assert network(1).describe() == network(1).describe() != network(2).describe()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "maxvit_t", "vit_b_16", "inception_v3"])
def test_networks_of_other_kinds_are_chains_too(name):
    network = StagedNetwork(get_model(name, weights=None))
    assert len(network.cuts) >= 22
    assert len(network.stages) >= 3


# ---- what is traced


class Scaled(nn.Linear):
    """A user's kind of Linear, with a forward that does not trace."""

    def forward(self, x):
        assert len(x) > 0  # a Proxy has no length
        return super().forward(x) * 2


class WithOptions(nn.Module):
    """As timm's transformers have them: a mask that nobody passes."""

    def __init__(self, last=nn.Linear):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), last(4, 2)

    def forward(self, x, mask=None, *, scale: float = 2.0):
        x = self.conv(x).relu()
        x = x * scale if mask is None else x * mask
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("last", [nn.Linear, Scaled])
def test_optional_arguments_keep_their_defaults_and_kinds_of_linear_are_layers(last):
    torch.manual_seed(0)
    module = WithOptions(last).eval()
    network = StagedNetwork(module)
    assert network.cuts == ["conv", "relu", "mul", "mean", "head"]
    assert (network.heads, network.n_features(8)) == (["head"], 4)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network.prefix("head")(images)[0], module(images))


def test_description_differs_when_the_code_of_a_kind_of_linear_does():
    """Tracing does not see it, and features are kept by what describes the network."""

    class Other(Scaled):
        def forward(self, x):
            return super().forward(x) * 3

    descriptions = set()
    for last in (nn.Linear, Scaled, Other):
        Other.__qualname__ = Other.__name__ = "Scaled"
        descriptions.add(StagedNetwork(WithOptions(last)).structure)
    assert len(descriptions) == 3


def test_network_of_transformers_is_refused_with_the_name_of_timm():
    class Branching(nn.Module):
        __module__ = "transformers.models.vit.modeling_vit"

        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"timm\.create_model"):
        StagedNetwork(Branching())
