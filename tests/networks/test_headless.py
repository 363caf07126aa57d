"""Networks without a layer that makes scores: their output is the penultimate layer."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from sktl import PretrainedFeatureExtractor, layer_names
from sktl._networks.backbones import load_backbone
from sktl._networks.stages import StagedNetwork
from tests.helpers import first_and_slow


def without_head(network, form, head="fc", penultimate="flatten"):
    """The network as people cut it; it is used up."""
    if form == "children":
        return nn.Sequential(*list(network.children())[:-1])
    if form == "features":
        return network.features
    if form == "extractor":
        return create_feature_extractor(network, {penultimate: "features"})
    parent, _, name = head.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def plain_output(network, images):
    """What plain torch gives for these images, averaged over positions."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        output = network.eval()(x)
    if isinstance(output, dict):
        (output,) = output.values()
    return (output.mean((2, 3)) if output.ndim == 4 else output).numpy()


@pytest.mark.parametrize(
    ("name", "form", "head", "penultimate"),
    first_and_slow(
        [
            ("resnet18", "identity", "fc", "flatten"),
            ("resnet18", "children", "fc", "flatten"),
            ("resnet18", "extractor", "fc", "flatten"),
            ("mobilenet_v2", "identity", "classifier.1", "flatten"),
            ("mobilenet_v2", "features", "classifier.1", "flatten"),
            ("mobilenet_v3_small", "identity", "classifier.3", "flatten"),
            ("squeezenet1_1", "features", "classifier.1", "flatten"),
            ("shufflenet_v2_x0_5", "children", "fc", "mean"),
            ("mnasnet0_5", "extractor", "classifier.1", "mean"),
        ]
    ),
)
def test_features_of_a_network_without_head_are_its_output(
    images, name, form, head, penultimate
):
    torch.manual_seed(1)
    network = without_head(get_model(name, weights=None), form, head, penultimate)
    extractor = PretrainedFeatureExtractor(
        network, image_size=64, batch_size=2, precision="float32", cache=None
    )
    expected = plain_output(network, images)
    features = extractor.fit_transform(images)
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert layer_names(network)[-1] == extractor.layers_[0]


def test_classifier_puts_its_head_on_the_output(make, tiny_network):
    """It is the same one as on the network that has a head."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    y = ["a", "b", "c"] * 4
    whole, cut = (
        make("lp_ft", backbone=network).fit(images, y).predict_proba(images)
        for network in (tiny_network, without_head(tiny_network, "children"))
    )
    np.testing.assert_allclose(cut, whole, rtol=1e-4)


# Each stands for others: a head of several layers, one layer, a convolution; before it
# maps that are flattened, averaged, or put through a norm; side heads, and tokens.
WHOLE = """
    alexnet resnet18 densenet121 googlenet squeezenet1_1 mobilenet_v2 shufflenet_v2_x0_5
    mnasnet0_5 convnext_tiny swin_t vit_b_16
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_network_of_torchvision_is_told_from_its_headless_forms(name):
    """By its shapes: on the device "meta" nothing is computed."""
    with torch.device("meta"):
        module = get_model(name, weights=None)
    whole = StagedNetwork(module)
    assert len(whole.heads) == 1
    assert not whole.doubt
    image = torch.zeros(1, 3, 224, 224, device="meta")
    forms = ["identity", "extractor", "children"]
    forms += ["features"] * hasattr(module, "features")
    for form in forms:
        cut = copy.deepcopy(module)
        cut = without_head(cut, form, whole.heads[0], whole.penultimate).eval()
        try:
            output = cut(image)
        except (RuntimeError, AssertionError):
            assert form == "children", form  # not each is a chain of them
            continue
        output = output["features"] if form == "extractor" else output
        network = StagedNetwork(cut)
        assert not network.heads, form
        assert not network.doubt, form
        (found,) = network.prefix(network.penultimate)(image)
        assert found.shape == output.shape, form
        assert network.n_features(224) in found.shape[1:], form


# ---- in doubt, it says so


def squeezed(*before):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), *before, nn.Conv2d(8, 4, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def test_head_like_that_of_squeezenet_is_in_doubt_without_a_dropout():
    with pytest.warns(UserWarning, match=r"ends in a convolution.*features are tak"):
        assert load_backbone(squeezed()).network.penultimate == "1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_backbone(squeezed(nn.Dropout())).network.penultimate == "2"


def test_convolution_at_the_end_is_in_doubt_without_an_average():
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    with pytest.warns(UserWarning, match="without an average"):
        load_backbone(nn.Sequential(*layers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)))
        load_backbone(nn.Sequential(*layers, nn.BatchNorm2d(4)))


def test_deepest_of_several_outputs_is_taken_and_said():
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)

        def forward(self, x):
            x = self.first(x).relu()
            return [x, self.second(x).relu()]

    with pytest.warns(UserWarning, match="has 2 outputs, and the deepest is used"):
        network = load_backbone(Maps()).network
    assert network.cuts == ["first", "relu", "second", "relu_1"]
    assert network.n_features(8) == 8


class Distilled(nn.Module):
    """Two heads, of which the mean is taken, as DeiT, LeViT and RepViT have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.head, self.head_dist = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        return (self.head(self.norm(x)) + self.head_dist(x)) / 2


def test_two_heads_read_the_last_layer_before_both():
    network = StagedNetwork(Distilled())
    assert network.heads == ["head", "head_dist"]
    assert (network.penultimate, network.n_features(8)) == ("mean", 6)


@pytest.mark.parametrize("strategy", ["linear_probe", "full"])
def test_classifier_replaces_both_heads(make, strategy):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    classifier = make(strategy, backbone=Distilled()).fit(images, [0, 1, 2] * 4)
    assert classifier.module_.head.in_features == 6
    assert classifier.predict_proba(images).shape == (12, 3)


def test_width_of_features_is_that_of_the_images_in_every_fit(make):
    """Without a head, it may depend on how large they are; with random weights, too."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
    for strategy, side in [("full", 8), ("full", 6), ("scratch", 8)]:
        classifier = make(strategy, backbone=network, image_size=side, max_epochs=1)
        head = classifier.fit(images, [0, 1, 2] * 4).module_.head
        assert head.in_features == 4 * side**2


def test_heads_that_read_different_layers_are_refused():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)
            self.heads = nn.ModuleList([nn.Linear(4, 5), nn.Linear(8, 5)])
            self.shares = nn.Parameter(torch.ones(2))

        def forward(self, x):
            read = [x := self.first(x), self.second(x)]
            shares = self.shares.softmax(0)
            scores = [
                shares[i] * head(y.mean((2, 3)))
                for i, (head, y) in enumerate(zip(self.heads, read, strict=True))
            ]
            return torch.stack(scores).sum(0)

    with pytest.raises(
        ValueError, match=r"\['heads.0', 'heads.1'\] read.*num_classes=0"
    ):
        StagedNetwork(Stages())


def test_residual_sum_is_no_pair_of_heads():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.first(x.mean((2, 3)))
            return x + self.second(x)

    network = StagedNetwork(Residual())
    assert (network.heads, network.penultimate) == ([], "add")
