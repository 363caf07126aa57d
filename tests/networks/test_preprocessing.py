"""How images are prepared: as in training, unless the user says otherwise."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torchvision import transforms
from torchvision.models import get_model

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    Preprocessing,
    PretrainedFeatureExtractor,
)

PLAIN = {"precision": "float32", "cache": None, "batch_size": 2}


def photographs(size=(40, 72), n=3):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 5, 9, 3), np.uint8)
    return [Image.fromarray(c).resize(size[::-1], Image.BICUBIC) for c in coarse]


def resnet18():
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None).eval()
    network.fc = torch.nn.Identity()
    return network


def features_by(transform, images):
    with torch.no_grad():
        return resnet18()(torch.stack([transform(i) for i in images])).numpy()


def test_preprocessing_equals_the_same_transforms_of_torchvision():
    images, mean, std = photographs(), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = features_by(
        transforms.Compose(
            [
                transforms.Resize(70, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(64),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        ),
        images,
    )
    asked = Preprocessing(
        resize=70, crop=64, interpolation="bicubic", mean=mean, std=std
    )
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=None, preprocessing=asked, **PLAIN
    )

    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-4)
    assert extractor.preprocessing_.fit == "crop"


@pytest.mark.parametrize(("fit", "mode"), [("stretch", "squash"), ("pad", "border")])
def test_fit_equals_the_crop_mode_of_timm(fit, mode):
    factory = pytest.importorskip("timm.data.transforms_factory")
    images = photographs()
    transform = factory.transforms_imagenet_eval(64, crop_pct=1.0, crop_mode=mode)
    extractor = PretrainedFeatureExtractor(
        "resnet18",
        weights=None,
        preprocessing=Preprocessing(crop=64, fit=fit),
        **PLAIN,
    )

    np.testing.assert_allclose(
        extractor.fit_transform(images), features_by(transform, images), atol=1e-4
    )


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_networks_of_timm_have_their_own_preprocessing(tiny_network, mode):
    data = pytest.importorskip("timm.data")
    tiny_network.pretrained_cfg = config = {
        "input_size": (3, 16, 16),
        "crop_pct": 0.8,
        "crop_mode": mode,
        "interpolation": "bicubic",
        "mean": (0.5, 0.1, 0.9),
        "std": (0.2, 0.3, 0.4),
    }
    images = photographs()
    transform = data.create_transform(**config, is_training=False)
    std, mean = np.array(config["std"]), np.array(config["mean"])
    prepared = [transform(image).permute(1, 2, 0).numpy() for image in images]
    pixels = (255 * (np.stack(prepared) * std + mean)).round().astype(np.uint8)
    own = PretrainedFeatureExtractor(tiny_network, **PLAIN)
    as_they_are = PretrainedFeatureExtractor(tiny_network, image_size=16, **PLAIN)

    np.testing.assert_array_equal(
        own.fit_transform(images), as_they_are.fit_transform(pixels)
    )
    assert own.preprocessing_.mean == config["mean"]


def test_none_in_preprocessing_is_as_in_training():
    X = np.zeros((4, 64, 64, 3), np.uint8)

    def fitted(**given):
        asked = Preprocessing(**given)
        net = PretrainedFeatureExtractor("resnet18", weights=None, preprocessing=asked)
        found = net.fit(X).preprocessing_
        return found.resize, found.crop, found.fit

    assert fitted() == fitted(fit="crop") == (256, 224, "crop")
    assert fitted(resize=240) == (240, 224, "crop")
    assert fitted(crop=96) == (96, 96, "crop")
    assert fitted(resize=110, crop=96) == (110, 96, "crop")
    assert fitted(fit="pad") == (224, 224, "pad")


def test_image_size_is_short_for_crop():
    X = np.random.default_rng(0).integers(0, 256, (4, 40, 60, 3), np.uint8)
    by_size = PretrainedFeatureExtractor("sktl_mini", image_size=32)
    by_crop = PretrainedFeatureExtractor(
        "sktl_mini", preprocessing=Preprocessing(crop=32)
    )

    np.testing.assert_array_equal(by_size.fit_transform(X), by_crop.fit_transform(X))
    assert by_size.preprocessing_ == by_crop.preprocessing_


@pytest.mark.parametrize(
    "estimator",
    [PretrainedFeatureExtractor, FineTunedCNNClassifier, FineTunedCNNRegressor],
)
def test_image_size_beside_preprocessing_is_an_error(estimator):
    both = estimator(image_size=32, preprocessing=Preprocessing(fit="pad"))
    with pytest.raises(ValueError, match=r"image_size=32 is short for .*one of them"):
        both.fit(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1])


@pytest.mark.parametrize(
    "estimator", [FineTunedCNNClassifier, FineTunedCNNRegressor], ids=str
)
def test_nets_see_what_preprocessing_says(estimator, tmp_path):
    """Squares that a letterbox makes of the images beforehand are seen alike."""
    images, y = photographs(n=6), [0, 1, 0, 1, 0, 1]
    side, grey = 32, (128, 128, 128)  # the colour of sktl_mini's mean
    squares = []
    for image in images:
        square = Image.new("RGB", (side, side), grey)
        square.paste(image.resize((32, 18), Image.BILINEAR), (0, 7))
        squares.append(square)
    settings = {
        "backbone": "sktl_mini",
        "strategy": "linear_probe",
        "precision": "float32",
        "random_state": 0,
    }
    asked = Preprocessing(crop=side, fit="pad")

    padded = estimator(preprocessing=asked, **settings).fit(images, y)
    plain = estimator(image_size=side, **settings).fit(squares, y)

    answer = padded.forward(images).numpy()
    np.testing.assert_allclose(answer, plain.forward(squares).numpy(), atol=1e-5)
    assert padded.preprocessing_.fit == "pad"
    if estimator is FineTunedCNNClassifier:
        padded.save(tmp_path / "model")
        loaded = estimator.load(tmp_path / "model")
        assert loaded.preprocessing == asked
        assert loaded.preprocessing_ == padded.preprocessing_
        np.testing.assert_array_equal(loaded.forward(images).numpy(), answer)


def test_preprocessing_is_swept_by_grid_search():
    X = np.zeros((12, 24, 48, 3), np.uint8)  # the classes differ at the far left
    X[::2, :, :8] = 255
    y = np.arange(12) % 2
    asked = [Preprocessing(fit=fit, crop=32) for fit in ("crop", "pad", "stretch")]
    model = make_pipeline(PretrainedFeatureExtractor("sktl_mini"), LogisticRegression())
    grid = {"pretrainedfeatureextractor__preprocessing": asked}

    search = GridSearchCV(model, grid, cv=2).fit(X, y)

    assert search.cv_results_["mean_test_score"].tolist() == [0.5, 1.0, 1.0]
    assert search.best_params_ == {
        "pretrainedfeatureextractor__preprocessing": asked[1]
    }
    assert clone(search.best_estimator_)[0].preprocessing == asked[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": 0}, "crop=0 must be a whole number, at least 1"),
        ({"resize": 2.5}, "resize=2.5 must be a whole number"),
        ({"mean": 0.5}, "mean=0.5 must be three numbers"),
        ({"mean": (0, 1, float("nan"))}, "mean=.*must be three numbers"),
        ({"std": (1, 1, 0)}, "std=.*above 0"),
        ({"fit": "letterbox"}, "fit='letterbox' must be one of.*'pad'"),
        ({"interpolation": "cubic"}, "interpolation='cubic' must be one of"),
    ],
)
def test_preprocessing_malformed_is_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**given)


def messages(estimator):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(np.zeros((4, 8, 8, 3), np.uint8)).transform(
            np.zeros((4, 8, 8, 3), np.uint8)
        )
    return [str(w.message) for w in caught if "prepared" in str(w.message)]


def test_module_that_does_not_say_how_images_were_prepared_is_told_once(tiny_network):
    kind = type("Unheard", (type(tiny_network),), {})
    tiny_network.__class__ = kind
    known = Preprocessing(mean=(0, 0, 0))

    assert not messages(PretrainedFeatureExtractor(tiny_network, preprocessing=known))
    assert not messages(PretrainedFeatureExtractor(tiny_network, weights=None))
    (message,) = messages(PretrainedFeatureExtractor(tiny_network))
    assert "backbone=Unheard does not say" in message
    assert "resize=256, crop=224" in message
    assert not messages(PretrainedFeatureExtractor(tiny_network))


def test_weights_file_that_is_none_of_the_published_ones_is_told_once(tmp_path):
    """mobilenet_v2's default weights want a resize of 232, its older ones 256."""
    path = tmp_path / "mine.pth"
    torch.manual_seed(1)
    torch.save(get_model("mobilenet_v2", weights=None).state_dict(), path)
    extractor = PretrainedFeatureExtractor("mobilenet_v2", weights=path)

    (message,) = messages(extractor)

    assert "not published weights" in message
    assert "resize=232" in message
    assert not messages(extractor)
