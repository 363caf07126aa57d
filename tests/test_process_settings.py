"""What a user sets for the whole process changes no number, and is left as it was."""

import contextlib
import functools
import multiprocessing
import re
import shutil
import threading
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from safetensors.numpy import load_file
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

import sktl
from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    PretrainedFeatureExtractor,
)
from sktl._networks.kept import free_networks
from sktl._utils.torch_state import plain_torch, seeded
from tests.helpers import first_and_slow, write


@contextlib.contextmanager
def put_back(set_, value, before):
    set_(value)
    try:
        yield
    finally:
        set_(before)


@contextlib.contextmanager
def warnings_as_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def default_dtype(dtype):
    return put_back(torch.set_default_dtype, dtype, torch.get_default_dtype())


TORCH = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "default device meta": lambda: put_back(torch.set_default_device, "meta", None),
    "context of the device meta": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic algorithms": lambda: put_back(
        torch.use_deterministic_algorithms, True, False
    ),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
}

OTHERS = {
    "errstate": lambda: np.errstate(all="raise"),
    "warnings as errors": warnings_as_errors,
    "two threads of joblib": lambda: joblib.parallel_config("threading", n_jobs=2),
} | {
    f"{name} {value}": lambda n=name, v=value: sklearn.config_context(**{n: v})
    for name, value in [
        ("transform_output", "pandas"),
        ("transform_output", "polars"),
        ("array_api_dispatch", True),
        ("assume_finite", True),
        ("enable_metadata_routing", True),
        ("skip_parameter_validation", True),
        ("working_memory", 1),
        ("print_changed_only", False),
    ]
}


SETTINGS = TORCH | OTHERS
APART = ("float16", "transform_output polars")  # exclude float64 and that of pandas


@contextlib.contextmanager
def all_at_once():
    """Every setting that goes with the others: each is of something else."""
    with contextlib.ExitStack() as stack:
        for name in SETTINGS:
            if name not in APART:
                stack.enter_context(SETTINGS[name]())
        yield


LABELS = [0, 1] * 4


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def extract(images, backbone):
    """Features by a network that is built, traced, fused and placed on this call."""
    free_networks()
    extractor = PretrainedFeatureExtractor(
        backbone, weights=None, image_size=32, precision="float32", cache=None
    )
    return extractor.fit_transform(images)


@pytest.mark.parametrize(
    ("backbone", "setting"),
    [
        *first_and_slow([("sktl_mini", setting) for setting in TORCH.values()]),
        pytest.param("shufflenet_v2_x0_5", all_at_once, marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x0_5", TORCH["float16"], marks=pytest.mark.slow),
    ],
    ids=[*TORCH, "all at once", "float16 alone"],
)
def test_features_are_the_same_under_a_setting_of_the_process(
    images, backbone, setting
):
    expected = extract(images, backbone)
    with setting():
        before = torch.get_default_dtype(), torch.get_default_device()
        found = extract(images, backbone)
        after = torch.get_default_dtype(), torch.get_default_device()
    assert np.array_equal(found, expected)
    assert after == before


@pytest.fixture(scope="module")
def served(images):
    """An extractor, a classifier, and what both give where nothing is set."""
    exact = {"precision": "float32", "cache": None}
    extractor = PretrainedFeatureExtractor("sktl_mini", **exact)
    classifier = FineTunedCNNClassifier(
        "sktl_mini",
        strategy="full",
        max_epochs=1,
        batch_size=8,
        device="cpu",
        random_state=0,
        **exact,
    )
    free_networks()
    expected = classifier.fit(images, LABELS).predict_proba(images)
    free_networks()
    return extractor, classifier, extractor.fit_transform(images), expected


@pytest.mark.parametrize("setting", first_and_slow(TORCH.values()), ids=TORCH)
def test_networks_made_under_a_setting_serve_after_it(images, served, setting):
    """They are kept for the process, and a classifier trains copies of them."""
    extractor, classifier, features, expected = served
    free_networks()
    with setting():
        extractor.fit_transform(images)
    assert np.array_equal(extractor.transform(images), features)
    classifier.fit(images, LABELS)
    assert np.array_equal(classifier.predict_proba(images), expected)


class _Precision(Callback):
    """Notes how the products of gradients are computed."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.seen = torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "ieee"), ("bfloat16", "tf32")]
)
def test_gradients_in_float32_are_computed_without_tf32(
    make, images, precision, expected
):
    """Fault 32."""
    callback = _Precision()
    classifier = make("full", precision=precision, callbacks=[("precision", callback)])
    classifier.fit(images, LABELS)
    seen = dict(classifier.callbacks_)["precision"].seen
    assert (seen, torch.backends.cudnn.conv.fp32_precision) == (expected, "tf32")


@pytest.fixture
def two_cards(monkeypatch):
    """The generators of two cards that seem to be there, the second the current one."""
    generators = [torch.Generator().manual_seed(n) for n in (1, 2)]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda d: generators[d.index].get_state()
    )
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda s, d: generators[d.index].set_state(s)
    )
    return generators


@pytest.mark.parametrize("index", [0, 1])
def test_generator_of_the_card_in_use_is_seeded_and_put_back(two_cards, index):
    before = [generator.get_state() for generator in two_cards]
    with seeded(7, torch.device("cuda", index)):
        assert two_cards[index].initial_seed() == 7
        assert torch.equal(two_cards[1 - index].get_state(), before[1 - index])
        torch.rand(1, generator=two_cards[index])
    for generator, state in zip(two_cards, before, strict=True):
        assert torch.equal(generator.get_state(), state)


def test_generator_of_mps_is_seeded_and_put_back(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "state")
    monkeypatch.setattr(torch.mps, "set_rng_state", calls.append)
    monkeypatch.setattr(torch.mps, "manual_seed", calls.append)
    with seeded(7, torch.device("mps")):
        assert calls == [7]
    assert calls == [7, "state"]


def _transform(images, backbone, queue):
    queue.put(extract(images, backbone))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_computes_after_its_parent_has(images):
    """Neither OpenMP's threads nor those that hold a lock are there in a child.

    Fault 24.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    held, over = threading.Event(), threading.Event()

    def hold():
        with plain_torch():
            held.set()
            over.wait()

    try:
        expected = extract(images, "sktl_mini")
        other = threading.Thread(target=hold)
        other.start()
        held.wait()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_transform, args=(images, "sktl_mini", queue))
        child.start()
        found = queue.get(timeout=60)
        child.join()
    finally:
        over.set()
        other.join()
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# --- every public call --------------------------------------------------------------

EXACT = {
    "backbone": "sktl_mini",
    "precision": "float32",
    "device": "cpu",
    "cache": None,
    "image_size": 16,
}
TRAINED = EXACT | {"max_epochs": 2, "batch_size": 6, "random_state": 0}


def extractor(**params):
    return PretrainedFeatureExtractor(**EXACT | params)


def classifier(strategy="lp_ft", **params):
    return FineTunedCNNClassifier(strategy=strategy, **TRAINED | params)


def regressor(strategy="lp_ft", **params):
    return FineTunedCNNRegressor(strategy=strategy, **TRAINED | params)


def compare(w):
    # Of a frame of polars scikit-learn makes float64, which is no matter of ours.
    features = extractor().set_output(transform="default")
    frozen = make_pipeline(features, LogisticRegression())
    contenders = {"frozen": frozen, "full": classifier("full")}
    contenders["scratch"] = classifier("scratch")
    params = {"cv": 2, "random_state": 0, "scoring": "neg_log_loss"}
    return sktl.compare_transfer(w.images, w.labels, contenders, **params)


class World:
    """What the calls are tried on; made once, while nothing is set."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.images = rng.integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)
        self.floats = self.images / 255
        self.labels = np.arange(18) % 2
        self.targets = rng.standard_normal(18)
        self.paths = write(folder, self.images)
        self.extractor = extractor().fit(self.images)
        self.classifier = classifier().fit(self.images, self.labels)
        self.regressor = regressor().fit(self.images, self.targets)
        self.features = rng.standard_normal((18, 5))
        self.pixels = sktl.RawPixels().fit(self.images)
        self.scaler = sktl.GlobalScaler().fit(self.features)
        self.file = folder / "model.safetensors"
        self.classifier.save(self.file)

    @functools.cached_property
    def comparison(self):
        return compare(self)

    @functools.cached_property
    def probe(self):
        return sktl.probe_layers(self.images, self.labels, cv=3, backbone="sktl_mini")

    @functools.cached_property
    def ranking(self):
        return sktl.rank_backbones(self.images, self.labels, ["sktl_mini"])

    def saved(self):
        self.classifier.save(self.folder / "again.safetensors")
        return (self.folder / "again.safetensors").read_bytes()

    def backbone(self):
        self.classifier.save_backbone(self.folder / "backbone.safetensors")
        return load_file(self.folder / "backbone.safetensors")

    def page(self):
        self.comparison.save_html(self.folder / "page.html")
        return (self.folder / "page.html").read_text("utf-8")

    def panels(self):
        contenders = {"mean": DummyRegressor()}
        report = sktl.compare_transfer(self.images, self.targets, contenders, cv=3)
        axes = sktl.PredictionsDisplay.from_results(report).plot().axes_.flat
        return [
            np.asarray(dots.get_offsets()) for ax in axes for dots in ax.collections
        ]

    def in_directory(self):
        """Keep features in a new directory, and ask what is there."""
        cache = self.folder / "cache"
        features = extractor(cache=cache).fit_transform(self.images)
        info = sktl.cache_info(cache)
        removed = sktl.prune_cache(cache, max_bytes=0)
        again = extractor(cache=cache).fit_transform(self.images)
        sktl.clear_cache(cache)
        shutil.rmtree(cache)
        return features, info._replace(bytes=0), removed, again


CALLS = {
    "PretrainedFeatureExtractor.fit": lambda w: extractor().fit(w.floats),
    "PretrainedFeatureExtractor.fit_transform": lambda w: extractor().fit_transform(
        w.floats
    ),
    "PretrainedFeatureExtractor.transform": lambda w: w.extractor.transform(w.paths),
    "PretrainedFeatureExtractor.get_feature_names_out": lambda w: (
        w.extractor.get_feature_names_out()
    ),
    **{
        f"FineTunedCNNClassifier.fit {strategy}": lambda w, s=strategy: classifier(
            s
        ).fit(w.images, w.labels)
        for strategy in ("linear_probe", "lp_ft", "full", "gradual", "scratch")
    },
    "FineTunedCNNClassifier.fit with options": lambda w: classifier(
        augment=("flip", "color"),
        dropout=0.5,
        class_weight="balanced",
        early_stopping=True,
        monitor="f1_macro",
        validation_fraction=0.3,
    ).fit(w.images, w.labels),
    "FineTunedCNNClassifier.partial_fit": lambda w: classifier("full").partial_fit(
        w.images, w.labels
    ),
    "FineTunedCNNClassifier.predict": lambda w: w.classifier.predict(w.paths),
    "FineTunedCNNClassifier.predict_proba": lambda w: w.classifier.predict_proba(
        w.paths
    ),
    "FineTunedCNNClassifier.predict_log_proba": lambda w: (
        w.classifier.predict_log_proba(w.images)
    ),
    "FineTunedCNNClassifier.decision_function": lambda w: (
        w.classifier.decision_function(w.images)
    ),
    "FineTunedCNNClassifier.score": lambda w: w.classifier.score(w.images, w.labels),
    "FineTunedCNNClassifier.save": World.saved,
    "FineTunedCNNClassifier.load": lambda w: FineTunedCNNClassifier.load(w.file),
    "FineTunedCNNClassifier.save_backbone": World.backbone,
    "FineTunedCNNRegressor.fit linear_probe": lambda w: regressor("linear_probe").fit(
        w.images, w.targets
    ),
    "FineTunedCNNRegressor.fit full": lambda w: regressor("full").fit(
        w.images, w.targets
    ),
    "FineTunedCNNRegressor.partial_fit": lambda w: regressor("full").partial_fit(
        w.images, w.targets
    ),
    "FineTunedCNNRegressor.predict": lambda w: w.regressor.predict(w.images),
    "FineTunedCNNRegressor.score": lambda w: w.regressor.score(w.images, w.targets),
    **{
        f"RawPixels.{name}": lambda w, n=name: getattr(w.pixels, n)(w.floats)
        for name in ("fit", "fit_transform", "transform")
    },
    "RawPixels.get_feature_names_out": lambda w: w.pixels.get_feature_names_out(),
    **{
        f"GlobalScaler.{name}": lambda w, n=name: getattr(w.scaler, n)(w.features)
        for name in ("fit", "transform", "inverse_transform")
    },
    "compare_transfer": compare,
    "TransferComparison.gain": lambda w: w.comparison.gain("full", "scratch"),
    "TransferComparison.rank": lambda w: w.comparison.rank(),
    "TransferComparison.mean_curves": lambda w: w.comparison.mean_curves(),
    "TransferComparison.to_frame": lambda w: w.comparison.to_frame(),
    "TransferComparison.plot": lambda w: w.comparison.plot(),
    "TransferComparison.save_html": World.page,
    "probe_layers": lambda w: sktl.probe_layers(
        w.images, w.labels, cv=3, backbone="sktl_mini"
    ),
    "LayerProbe.to_frame": lambda w: w.probe.to_frame(),
    "LayerProbe.plot": lambda w: w.probe.plot(),
    "rank_backbones": lambda w: sktl.rank_backbones(w.images, w.labels, ["sktl_mini"]),
    "rank_backbones hscore": lambda w: sktl.rank_backbones(
        w.images, w.labels, ["sktl_mini"], method="hscore"
    ),
    "BackboneRanking.best": lambda w: w.ranking.best(1),
    "BackboneRanking.to_frame": lambda w: w.ranking.to_frame(),
    "check_images": lambda w: sktl.check_images([*w.paths, "none.png", None]),
    "list_backbones": lambda w: sktl.list_backbones(),
    "layer_names": lambda w: sktl.layer_names("sktl_mini"),
    "cache_info, prune_cache, clear_cache": World.in_directory,
    "LayerProbeDisplay.from_results, plot": lambda w: (
        sktl.LayerProbeDisplay.from_results(w.probe).plot()
    ),
    "PredictionsDisplay.from_results, plot": World.panels,
    "TimeToScoreDisplay.from_results, plot": lambda w: (
        sktl.TimeToScoreDisplay.from_results(w.comparison).plot()
    ),
    "TransferComparisonDisplay.from_results, plot": lambda w: (
        sktl.TransferComparisonDisplay.from_results(w.comparison).plot()
    ),
    "TrainingHistoryDisplay.from_estimator, plot": lambda w: (
        sktl.TrainingHistoryDisplay.from_estimator(w.classifier)
    ),
    "TrainingHistoryDisplay.from_history": lambda w: (
        sktl.TrainingHistoryDisplay.from_history(w.classifier.history).plot()
    ),
}


def plain(value):
    """What a call gave, as what can be compared; without times."""
    if hasattr(value, "module_"):
        return plain([value.module_.state_dict(), value.history])
    if isinstance(value, BaseEstimator):
        return plain({n: v for n, v in vars(value).items() if n.endswith("_")})
    if hasattr(value, "results_"):
        return plain(value.results_)
    if hasattr(value, "ax_"):
        ax = value.ax_
        points = [line.get_xydata() for line in ax.lines]
        points += [np.asarray(marks.get_offsets()) for marks in ax.collections]
        return plain(points + [text.get_text() for text in ax.texts])
    if isinstance(value, dict):
        return {
            name: plain(item)
            for name, item in value.items()
            if not re.search("time|second|dur", str(name))
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "to_numpy"):
        return plain(value.to_numpy())
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return value if isinstance(value, bytes) else repr(value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("images"))


@functools.cache
def without_a_setting(call, world):
    return plain(CALLS[call](world))


def test_every_public_call_is_in_the_table():
    for name in sktl.__all__:
        parts = {name: getattr(sktl, name)}
        if isinstance(parts[name], type):
            cls = parts.pop(name)
            parts = {part: getattr(cls, part) for part in vars(cls)}
        for part, value in parts.items():
            if callable(value) and not part.startswith(("_", "set_")):
                assert any(name in call and part in call for call in CALLS), part


# Of each kind one; the others are tried under all settings at once.
IN_EACH_RUN = (
    "PretrainedFeatureExtractor.fit_transform",
    "FineTunedCNNClassifier.fit lp_ft",
    "FineTunedCNNClassifier.predict_proba",
    "FineTunedCNNRegressor.predict",
    "rank_backbones",
    "cache_info, prune_cache, clear_cache",
)
OF_EACH_KIND = (
    *IN_EACH_RUN,
    "PretrainedFeatureExtractor.transform",
    "FineTunedCNNClassifier.fit linear_probe",
    "FineTunedCNNClassifier.fit scratch",
    "FineTunedCNNRegressor.fit full",
    "compare_transfer",
    "probe_layers",
)


def check_same(call, setting, world):
    expected = without_a_setting(call, world)
    free_networks()
    with setting():
        found = CALLS[call](world)
    assert plain(found) == expected


@pytest.mark.parametrize("call", IN_EACH_RUN)
def test_public_call_gives_the_same_under_all_settings(call, world, pyplot):
    check_same(call, all_at_once, world)


@pytest.mark.slow
@pytest.mark.parametrize("call", [call for call in CALLS if call not in IN_EACH_RUN])
def test_other_public_call_gives_the_same_under_all_settings(call, world, pyplot):
    check_same(call, all_at_once, world)


@pytest.mark.slow
@pytest.mark.parametrize("call", OF_EACH_KIND)
@pytest.mark.parametrize("setting", APART)
def test_public_call_gives_the_same_under_a_setting_apart(call, setting, world, pyplot):
    check_same(call, SETTINGS[setting], world)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        "PretrainedFeatureExtractor.transform",
        "FineTunedCNNClassifier.fit lp_ft",
        "rank_backbones",
    ],
)
@pytest.mark.parametrize("setting", [name for name in TORCH if name not in APART])
def test_public_call_gives_the_same_under_a_setting(call, setting, world, pyplot):
    """So that none is seen only where another is undone."""
    check_same(call, SETTINGS[setting], world)
