"""Nothing global is changed by a public call, not even by one that raises."""

import contextlib
import os
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFile
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    RawPixels,
    cache_info,
    check_images,
    clear_cache,
    compare_transfer,
    layer_names,
    list_backbones,
)
from tests.helpers import first_and_slow

N_IMAGES = 12


def global_state():
    """All that a library may be tempted to set for the whole process."""
    numpy_state = np.random.get_state()
    return {
        "torch threads": torch.get_num_threads(),
        "torch interop threads": torch.get_num_interop_threads(),
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "torch seed": torch.initial_seed(),
        "numpy generator": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "random generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "anomaly mode": torch.is_anomaly_enabled(),
        "flush denormal": float(torch.tensor(1e-40) * 1) != 0,
        **backend_flags(),
        **pil_flags(),
        "warnings filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "numpy errors": np.geterr(),
        "numpy print options": np.get_printoptions(),
    }


def backend_flags():
    return {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn enabled": torch.backends.cudnn.enabled,
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "cudnn TF32": torch.backends.cudnn.allow_tf32,
        "matmul TF32": torch.backends.cuda.matmul.allow_tf32,
        "matmul precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
    }


def pil_flags():
    return {
        "truncated images": ImageFile.LOAD_TRUNCATED_IMAGES,
        "largest image": Image.MAX_IMAGE_PIXELS,
        "largest block": ImageFile.MAXBLOCK,
    }


@contextlib.contextmanager
def nothing_global_changes():
    """Compare inside the test: pytest gives each phase warning filters of its own."""
    before = global_state()
    try:
        yield
    finally:
        after = global_state()
        assert [name for name in before if before[name] != after[name]] == []


@pytest.fixture(params=first_and_slow(["unusual", "default"]))
def flags(request, monkeypatch):
    """Flags as they come, and unlike that: resetting them to defaults is a change."""
    n_threads = torch.get_num_threads()
    precision = torch.backends.mkldnn.matmul.fp32_precision
    if request.param == "unusual":
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("high")
    yield
    if request.param == "unusual":
        torch.set_num_threads(n_threads)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = precision


class World:
    """What public calls are tried on; made once, before the state is recorded."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.images = rng.integers(0, 256, (N_IMAGES, 12, 12, 3), dtype=np.uint8)
        self.y = np.arange(N_IMAGES) % 2
        self.paths = [str(folder / f"{i}.png") for i in range(N_IMAGES)]
        for path, image in zip(self.paths, self.images, strict=True):
            Image.fromarray(image).save(path)
        self.bad = [*self.paths[:-1], str(folder / "none.png")]
        self.frame = pd.DataFrame({"path": self.paths})
        layers = [torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 3)]
        self.network = torch.nn.Sequential(*layers)
        self.extractor = PretrainedFeatureExtractor("sktl_mini").fit(self.images)
        self.classifier = probe().fit(self.images, self.y)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("images"))


def probe(**params):
    settings = {
        "backbone": "sktl_mini",
        "strategy": "linear_probe",
        "max_epochs": 1,
        "random_state": 0,
    }
    return FineTunedCNNClassifier(**settings | params)


def contenders():
    return {
        "frozen": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), LogisticRegression()
        ),
        "tuned": probe(strategy="lp_ft"),
    }


EXTRACTOR_CALLS = {
    "fit": lambda w: PretrainedFeatureExtractor("sktl_mini").fit(w.images),
    "fit untrained": lambda w: PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32
    ).fit(w.images),
    "fit_transform uncached": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", cache=None
    ).fit_transform(w.images),
    "fit_transform cached in a directory": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", cache=w.folder / "cache"
    ).fit_transform(w.paths),
    "fit_transform in threads": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", cache=None, n_jobs=2
    ).fit_transform(w.paths),
    "fit_transform bfloat16": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", cache=None, precision="bfloat16"
    ).fit_transform(w.images),
    "fit_transform with a bar": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", verbose=1
    ).fit_transform(w.images),
    "transform": lambda w: w.extractor.transform(w.paths),
    "fit_transform a frame": lambda w: PretrainedFeatureExtractor(
        "sktl_mini"
    ).fit_transform(w.frame),
    "get_feature_names_out": lambda w: w.extractor.get_feature_names_out(),
    "repr": lambda w: repr(w.extractor),
}

CLASSIFIER_CALLS = {
    "fit linear_probe": lambda w: probe().fit(w.images, w.y),
    "fit lp_ft": lambda w: probe(strategy="lp_ft").fit(w.images, w.y),
    "fit full": lambda w: probe(strategy="full").fit(w.images, w.y),
    "fit scratch": lambda w: probe(strategy="scratch").fit(w.images, w.y),
    "fit unseeded": lambda w: probe(strategy="lp_ft", random_state=None).fit(
        w.images, w.y
    ),
    "fit seeded by a RandomState": lambda w: probe(
        strategy="scratch", random_state=np.random.RandomState(0)
    ).fit(w.images, w.y),
    "partial_fit": lambda w: probe(strategy="full").partial_fit(w.paths, w.y),
    "predict": lambda w: w.classifier.predict(w.paths),
    "predict_proba": lambda w: w.classifier.predict_proba(w.images),
    "decision_function": lambda w: w.classifier.decision_function(w.images),
    "score": lambda w: w.classifier.score(w.images, w.y),
    "save_backbone": lambda w: w.classifier.save_backbone(
        w.folder / "backbone.safetensors"
    ),
}

OTHER_CALLS = {
    "compare_transfer": lambda w: compare_transfer(
        w.images, w.y, contenders(), cv=2, random_state=0
    ),
    "compare_transfer unseeded": lambda w: compare_transfer(
        w.images, w.y, contenders(), cv=2
    ),
    "RawPixels": lambda w: RawPixels(n_jobs=2).fit(w.images).transform(w.paths),
    "check_images": lambda w: check_images(w.bad),
    "check_images in threads": lambda w: check_images(w.bad, n_jobs=2),
    "layer_names": lambda w: layer_names("mnasnet0_5"),
    "layer_names of a module": lambda w: layer_names(w.network),
    "list_backbones": lambda w: list_backbones(),
    "cache_info": lambda w: cache_info(),
    "cache_info of a directory": lambda w: cache_info(w.folder / "info"),
    "clear_cache": lambda w: clear_cache(),
}


class Interrupt(BaseException):
    """What Ctrl-C raises, as far as `except Exception` is concerned."""


def interrupt(*args, **kwargs):
    raise Interrupt


RAISING_CALLS = {
    "fit, no such backbone": lambda w: PretrainedFeatureExtractor("resnet").fit(
        w.images
    ),
    "fit, no such weights": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", weights="a.pth"
    ).fit(w.images),
    "fit, no such layer": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", layers="x"
    ).fit(w.images),
    "fit, too small a size": lambda w: PretrainedFeatureExtractor(
        "alexnet", weights=None, image_size=8
    ).fit(w.images),
    "fit, no such device": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", device="cuda:99"
    ).fit(w.images),
    "fit_transform, a missing file": lambda w: PretrainedFeatureExtractor(
        "sktl_mini", cache=None, n_jobs=2
    ).fit_transform(w.bad),
    "transform, not fitted": lambda w: PretrainedFeatureExtractor(
        "sktl_mini"
    ).transform(w.images),
    "transform, NaN": lambda w: w.extractor.transform(np.full((2, 8, 8), np.nan)),
    "classifier fit, one class": lambda w: probe().fit(w.images, w.y * 0),
    "classifier fit, a missing file": lambda w: probe().fit(w.bad, w.y),
    "classifier fit, no such stage": lambda w: probe(
        strategy="lp_ft", unfreeze_from="x"
    ).fit(w.images, w.y),
    "classifier fit, diverging": lambda w: probe(
        strategy="full",
        lr=1e30,
        backbone_lr_ratio=1.0,
        optimizer=torch.optim.SGD,
        max_epochs=9,
    ).fit(w.images, w.y),
    "classifier predict, a missing file": lambda w: w.classifier.predict(w.bad),
    "compare_transfer, a missing file": lambda w: compare_transfer(
        w.bad, w.y, contenders(), cv=2
    ),
    "check_images, one image": lambda w: check_images(w.paths[0]),
    "layer_names, no such name": lambda w: layer_names("resnet"),
    "layer_names, not traceable": lambda w: layer_names(torch.nn.ReLU()),
    "cache_info, no store": lambda w: cache_info(3),
    "clear_cache, no store": lambda w: clear_cache(3),
}


@pytest.mark.parametrize("call", EXTRACTOR_CALLS)
def test_extractor_call_changes_nothing_global(call, world, flags):
    with nothing_global_changes():
        EXTRACTOR_CALLS[call](world)


@pytest.mark.parametrize("call", CLASSIFIER_CALLS)
def test_classifier_call_changes_nothing_global(call, world, flags):
    with nothing_global_changes():
        CLASSIFIER_CALLS[call](world)


@pytest.mark.parametrize("call", OTHER_CALLS)
def test_other_call_changes_nothing_global(call, world, flags):
    with nothing_global_changes():
        OTHER_CALLS[call](world)


@pytest.mark.parametrize("call", RAISING_CALLS)
def test_call_that_raises_changes_nothing_global(call, world, flags):
    errors = (ValueError, TypeError, RuntimeError, OSError)
    with nothing_global_changes(), pytest.raises(errors):
        RAISING_CALLS[call](world)


@pytest.mark.parametrize("strategy", ["linear_probe", "lp_ft", "scratch"])
def test_interrupted_fit_changes_nothing_global(strategy, world, flags, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.Conv2d.forward", interrupt)
        with nothing_global_changes(), pytest.raises(Interrupt):
            probe(strategy=strategy, cache=None).fit(world.images, world.y)


def test_interrupted_transform_changes_nothing_global(world, flags, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.Conv2d.forward", interrupt)
        with nothing_global_changes(), pytest.raises(Interrupt):
            PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform(
                world.images
            )


@pytest.mark.parametrize("form", ["images", "paths", "frame"])
def test_data_and_parameters_of_the_caller_stay_as_they_are(form, world):
    X = getattr(world, form)
    copies = {"images": world.images.copy(), "frame": world.frame.copy()}
    copies["paths"] = list(world.paths)
    params = {"layers": ["stem.1.relu", "penultimate"], "value_range": [0, 255]}
    PretrainedFeatureExtractor("sktl_mini", **params).fit(X).transform(X)
    assert params == {"layers": ["stem.1.relu", "penultimate"], "value_range": [0, 255]}
    assert np.array_equal(world.images, copies["images"])
    assert world.paths == copies["paths"]
    pd.testing.assert_frame_equal(world.frame, copies["frame"])


def test_network_given_as_backbone_stays_as_it_is(tiny_network, world):
    """Its mode, its gradients, its tensors and the device they are on."""
    tiny_network.train().requires_grad_(True)
    tiny_network.bn1.eval()
    before = {name: t.clone() for name, t in tiny_network.state_dict().items()}
    modes = [module.training for module in tiny_network.modules()]
    extractor = PretrainedFeatureExtractor(tiny_network, image_size=16)
    extractor.fit_transform(world.images)
    probe(backbone=tiny_network, strategy="full", image_size=16).fit(
        world.images, world.y
    )
    after = tiny_network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in tiny_network.modules()] == modes
    assert all(parameter.requires_grad for parameter in tiny_network.parameters())
    assert all(parameter.grad is None for parameter in tiny_network.parameters())
