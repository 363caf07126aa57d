"""The networks that ship are small, whole, and good on digits, which they never saw."""

import hashlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    PretrainedFeatureExtractor,
    compare_transfer,
    layer_names,
    probe_layers,
)
from sktl._networks.backbones import load_backbone
from sktl._networks.names import SHIPPED
from tests.helpers import first_and_slow

each_shipped = pytest.mark.parametrize("name", SHIPPED)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X, PretrainedFeatureExtractor("sktl_mini").fit_transform(X), y


def best_of(rows, y, n_labels):
    """The better of two classical models; its mean accuracy over four draws."""
    draws = StratifiedShuffleSplit(4, train_size=10 * n_labels, random_state=0)
    models = LogisticRegression(max_iter=2000), SVC(C=10)
    return max(
        cross_val_score(make_pipeline(StandardScaler(), m), rows, y, cv=draws).mean()
        for m in models
    )


@pytest.mark.parametrize(("n_labels", "goal"), first_and_slow([(5, 0.92), (10, 0.955)]))
def test_frozen_features_lift_digits_with_few_labels(digits, n_labels, goal):
    X, features, y = digits
    accuracy = best_of(features, y, n_labels)
    assert accuracy >= goal
    assert accuracy > best_of(X, y, n_labels) + 0.02


@pytest.mark.slow
def test_features_of_the_default_network_lift_digits_too(digits):
    X, _, y = digits
    assert best_of(PretrainedFeatureExtractor().fit_transform(X), y, 5) >= 0.93


def test_default_network_ships_and_is_the_same_everywhere():
    estimators = (
        PretrainedFeatureExtractor,
        FineTunedCNNClassifier,
        FineTunedCNNRegressor,
    )
    defaults = {
        inspect.signature(takes_one).parameters["backbone"].default
        for takes_one in (*estimators, compare_transfer, probe_layers, layer_names)
    }
    assert defaults == {"sktl_photo"}
    assert defaults <= SHIPPED.keys()


@each_shipped
def test_weights_are_small_and_the_ones_that_were_published(name):
    file = SHIPPED[name].files["DEFAULT"]
    content = file.path.read_bytes()
    assert len(content) <= 6_000_000
    assert hashlib.sha256(content).hexdigest() == file.sha256


@each_shipped
def test_weights_say_what_they_are(name):
    path = SHIPPED[name].files["DEFAULT"].path
    with safe_open(path, framework="np") as file:
        assert file.metadata()["backbone"] == name
    assert path.with_suffix(".md").read_text("utf-8").startswith(f"# {name}\n")


@each_shipped
def test_stages_have_the_names_of_the_docstring(name):
    network = load_backbone(name).network
    names = [stage.name for stage in network.stages]
    assert names == ["stem", "layer1", "layer2", "layer3"]
    assert network.penultimate == "flatten"


@each_shipped
def test_number_of_parameters_is_what_the_docstring_says(name):
    network = SHIPPED[name].build()
    count = sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not name.startswith("fc.")
    )
    assert f"{count:,}" in type(network).__doc__


@each_shipped
@pytest.mark.parametrize("image_size", [16, 32, 64, 112])
@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageSizeWarning")  # sktl_photo
def test_other_sizes_than_its_own_are_accepted(name, image_size):
    images = np.zeros((2, 20, 20), np.uint8)
    extractor = PretrainedFeatureExtractor(name, image_size=image_size)
    assert extractor.fit_transform(images).shape == (2, 512)


def test_filters_of_single_channels_are_initialised_as_timm_does():
    """Their spread counts groups, which `kaiming_normal_` overlooks."""
    timm = pytest.importorskip("timm.models._efficientnet_builder")
    torch.manual_seed(0)
    for name, module in SHIPPED["sktl_photo"].build().named_modules():
        if isinstance(module, nn.Conv2d):
            spread = module.weight.std().item()
            timm._init_weight_goog(module, name)
            assert spread == pytest.approx(module.weight.std().item(), rel=0.2)


@torch.no_grad()
def test_residual_blocks_begin_as_the_identity():
    network = SHIPPED["sktl_photo"].build()
    x = torch.rand(2, 24, 8, 8)
    assert torch.equal(network.stem[3](x), x)
    x = torch.rand(2, 192, 4, 4)
    assert torch.equal(network.layer3[1](x), x)


@each_shipped
def test_images_are_prepared_as_the_card_says(name):
    side, mean, std = {
        "sktl_mini": (64, 0.5, 0.25),
        "sktl_photo": (112, 127 / 255, 128 / 255),
    }[name]
    images = [Image.fromarray(image[:50]) for image in drawn_images()]
    resized = [np.array(image.resize((side, side), Image.BILINEAR)) for image in images]
    x = (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255 - mean) / std
    network = SHIPPED[name].build().eval()
    network.load_state_dict(
        load_file(SHIPPED[name].files["DEFAULT"].path), strict=False
    )
    network.fc = nn.Identity()
    with torch.no_grad():
        expected = network(x).numpy()
    extractor = PretrainedFeatureExtractor(name, precision="float32", cache=None)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-4)


def drawn_images():
    """Four images (4, 80, 80, 3): slope of grey, disc, stripes, coloured squares."""
    y, x = np.mgrid[:80, :80]
    disc = ((x - 30) ** 2 + (y - 45) ** 2 < 400) * 200
    stripes = ((x + y) // 8 % 2) * 255
    squares = np.stack([x // 20 * 60, y // 20 * 60, (x + y) // 40 * 60], axis=-1)
    grey = np.stack([x + y, disc, stripes])[..., None].repeat(3, axis=-1)
    return np.concatenate([grey, squares[None]]).astype(np.uint8)


def reference(name):
    return Path(__file__).parents[1] / "data" / f"{name}_features.npy"


@each_shipped
def test_features_of_drawn_images_are_the_stored_ones(name):
    """No change of weights, network, scaling or engine goes unseen.

    After an intended one, write `features` to `reference(name)`, as float16. That
    rounds them by up to 5e-4 of their size; processors differ by about 1e-5.
    """
    extractor = PretrainedFeatureExtractor(name, precision="float32", cache=None)
    features = extractor.fit_transform(drawn_images())
    expected = np.load(reference(name))
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)
