"""`sktl_mini` is worth having: small, whole, and good on digits it has never seen."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sktl import PretrainedFeatureExtractor
from sktl._networks.architectures import MINI_WEIGHTS
from sktl._networks.backbones import load_backbone
from sktl._networks.mini import WEIGHTS_SHA256, SktlMini
from tests.helpers import first_and_slow

REFERENCE = Path(__file__).parents[1] / "data" / "sktl_mini_features.npy"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X, PretrainedFeatureExtractor().fit_transform(X), y


def best_of(rows, y, n_labels):
    """The better of two classical models; its mean accuracy over ten draws."""
    draws = StratifiedShuffleSplit(10, train_size=10 * n_labels, random_state=0)
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


def test_weights_are_small_and_the_ones_that_were_published():
    content = MINI_WEIGHTS.read_bytes()
    assert len(content) <= 4_000_000
    assert hashlib.sha256(content).hexdigest() == WEIGHTS_SHA256


def test_weights_say_what_they_are():
    with safe_open(MINI_WEIGHTS, framework="np") as file:
        assert file.metadata()["backbone"] == "sktl_mini"
    assert MINI_WEIGHTS.with_suffix(".md").read_text("utf-8").startswith("# sktl_mini")


def test_stages_have_the_names_of_the_card():
    network = load_backbone("sktl_mini").network
    names = [stage.name for stage in network.stages]
    assert names == ["stem", "layer1", "layer2", "layer3"]
    assert network.penultimate == "flatten"


def test_number_of_parameters_is_what_the_docstring_says():
    count = sum(
        parameter.numel()
        for name, parameter in SktlMini().named_parameters()
        if not name.startswith("fc.")
    )
    assert f"{count:,}" in SktlMini.__doc__


@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_other_sizes_than_its_own_are_accepted(image_size):
    images = np.zeros((2, 20, 20), np.uint8)
    features = PretrainedFeatureExtractor(image_size=image_size).fit_transform(images)
    assert features.shape == (2, 512)


def drawn_images():
    """Four images (4, 80, 80, 3): slope of grey, disc, stripes, coloured squares."""
    y, x = np.mgrid[:80, :80]
    disc = ((x - 30) ** 2 + (y - 45) ** 2 < 400) * 200
    stripes = ((x + y) // 8 % 2) * 255
    squares = np.stack([x // 20 * 60, y // 20 * 60, (x + y) // 40 * 60], axis=-1)
    grey = np.stack([x + y, disc, stripes])[..., None].repeat(3, axis=-1)
    return np.concatenate([grey, squares[None]]).astype(np.uint8)


def test_features_of_drawn_images_are_the_stored_ones():
    """No change of weights, network, scaling or engine goes unseen.

    After an intended one, write `features` to REFERENCE, as float16. That rounds them
    by up to 5e-4 of their size; processors differ by about 1e-5.
    """
    features = PretrainedFeatureExtractor(
        precision="float32", cache=None
    ).fit_transform(drawn_images())
    expected = np.load(REFERENCE)
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)
