"""Saved classifiers: all comes back in any process, and nothing that was forged does.

Damaged files are made from a good one, byte by byte; forged ones by a writer of the
tests' own, so that their digest is right and each is refused for what it holds.
"""

import functools
import hashlib
import json
import math
import os
import pickle
import re
import signal
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit
from torch import nn
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._networks import names
from sktl.exceptions import ModelFileError
from tests.helpers import first_and_slow, run_python

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
NAMES = np.array(["one", "two", "zero"])


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:30], NAMES[y[:30] - 1]


def make_classifier(**parameters):
    small = {
        "backbone": "sktl_mini",
        "image_size": 16,
        "max_epochs": 1,
        "random_state": 0,
    }
    return FineTunedCNNClassifier(**small | parameters)


MODELS = {strategy: {"strategy": strategy} for strategy in STRATEGIES} | {
    "hidden": {"hidden_units": [8, 5], "dropout": 0.2},
    "dropout": {"dropout": 0.2},
    "early_stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "all_stages": {"strategy": "gradual", "unfreeze_from": "layer1", "max_epochs": 3},
    "reinit": {"strategy": "full", "reinit_from": "layer3"},
    "own_size": {"image_size": None},
    "skorch": {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "criterion": nn.MultiMarginLoss,
        "predict_nonlinearity": None,
        "iterator_train__num_workers": 0,
        "callbacks": [],
        "warm_start": True,
    },
    "weights_of_classes": {"class_weight": {"one": 2.0, "two": 1, "zero": 1}},
    "names": {"augment": ("flip", "crop"), "value_range": (0, 16), "max_epochs": 2},
    "torchvision": {"backbone": "squeezenet1_1", "weights": None, "image_size": 32},
}


def assert_same_classifier(loaded, clf, X):
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.classes_.dtype == clf.classes_.dtype
    assert loaded.classes_.tolist() == clf.classes_.tolist()
    assert loaded.predict(X).tolist() == clf.predict(X).tolist()
    assert loaded.get_params(deep=False) == clf.get_params(deep=False)
    assert list(loaded.history) == [dict(row) | {"batches": []} for row in clf.history]
    for name in ("n_epochs_", "value_range_", "n_features_in_", "frozen_up_to_"):
        assert getattr(loaded, name) == getattr(clf, name)
    expected = clf.module_.state_dict()
    for name, tensor in loaded.module_.state_dict().items():
        assert torch.equal(tensor, expected.pop(name)), name
    assert expected == {}


# ---- what comes back


@pytest.mark.parametrize(
    "parameters", first_and_slow(MODELS.values()), ids=MODELS.keys()
)
def test_loaded_classifier_is_the_saved_one(tmp_path, data, parameters):
    path, (X, y) = tmp_path / "model", data
    clf = make_classifier(**parameters).fit(X, y)
    clf.save(path)
    loaded = FineTunedCNNClassifier.load(path)
    assert_same_classifier(loaded, clf, X)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


LABELS = {
    "strings": NAMES,
    "ints": np.array([-3, 5, 300], np.int16),
    "floats": np.array([1.0, 2, 7]),
    "objects": np.array(["b", "a", "c"], object),
    "big_endian": np.array([1, 2, 3], ">u4"),
    "wide_strings": np.array(["a", "b", "c"], "<U40"),
    "days": np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]"),
}


@pytest.mark.parametrize("labels", first_and_slow(LABELS.values()), ids=LABELS)
def test_labels_keep_their_kind(tmp_path, data, labels):
    X, y = data
    y = labels[np.searchsorted(NAMES, y)]
    clf = make_classifier(strategy="linear_probe").fit(X, y)
    clf.save(tmp_path / "model")
    assert_same_classifier(FineTunedCNNClassifier.load(tmp_path / "model"), clf, X)


def test_names_of_columns_come_back(tmp_path, data):
    pandas = pytest.importorskip("pandas")
    X, y = data
    frame = pandas.DataFrame(X, columns=[f"pixel_{i}" for i in range(X.shape[1])])
    clf = make_classifier(strategy="linear_probe").fit(frame, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert loaded.feature_names_in_.dtype == object
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"pixel_0": "a"}))


def test_images_have_no_columns(tmp_path, data):
    X, y = data
    X = np.uint8(X.reshape(-1, 8, 8) * 15)
    clf = make_classifier(strategy="linear_probe").fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.value_range_ is None
    assert not hasattr(loaded, "n_features_in_")


LOADER = """
import sys
import numpy as np
from sktl import FineTunedCNNClassifier
X, *paths = sys.argv[1:]
for path in paths:
    clf = FineTunedCNNClassifier.load(path)
    np.savez(path, clf.predict_proba(np.load(X)), clf.classes_)
"""


@pytest.mark.slow
def test_another_process_predicts_the_same(tmp_path, data):
    X, y = data
    np.save(tmp_path / "X.npy", X)
    models = {name: make_classifier(**MODELS[name]).fit(X, y) for name in STRATEGIES}
    models["hidden"] = make_classifier(**MODELS["hidden"]).fit(X, y)
    for name, clf in models.items():
        clf.save(tmp_path / name)
    paths = [tmp_path / "X.npy", *(tmp_path / name for name in models)]
    run_python(LOADER, *paths)
    for name, clf in models.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert np.array_equal(found["arr_0"], clf.predict_proba(X)), name
            assert found["arr_1"].tolist() == clf.classes_.tolist()


def test_load_needs_no_other_file(tmp_path, data):
    X, y = data
    first = make_classifier(strategy="full").fit(X, y)
    weights = tmp_path / "tuned.safetensors"
    first.save_backbone(weights)
    clf = make_classifier(weights=weights).fit(X, y)
    clf.save(tmp_path / "model")
    weights.unlink()
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert_same_classifier(loaded, clf, X)
    assert loaded.weights == weights


def build(name):
    builder = names.named_architecture(name, True).build
    torch.manual_seed(0)
    return builder()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("published", [False, True])
def test_network_for_published_weights_comes_back(
    tmp_path, data, monkeypatch, name, published
):
    """It undoes a normalisation, which the one without weights does not."""
    X, y = data
    parameters = {"backbone": name, "image_size": 80, "strategy": "linear_probe"}
    weights = None
    if published:
        weights = tmp_path / "published.pth"
        torch.save(build(name).state_dict(), weights)
        monkeypatch.setattr(
            names.Architecture, "published_name", lambda *args: "IMAGENET1K_V1"
        )
    clf = make_classifier(weights=weights, **parameters).fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert_same_classifier(loaded, clf, X)


def test_parameters_can_be_changed_when_loading(tmp_path, data):
    X, y = data
    clf = make_classifier(cache=tmp_path / "cache", precision="float32").fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model", cache=None, batch_size=7)
    assert (loaded.cache, loaded.batch_size) == (None, 7)
    np.testing.assert_allclose(
        loaded.predict_proba(X), clf.predict_proba(X), rtol=0, atol=1e-5
    )
    loaded = FineTunedCNNClassifier.load(tmp_path / "model", device="cpu", cache=None)
    clf.set_params(device="cpu")
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))


def test_parameter_that_only_equals_its_default_keeps_its_type(tmp_path, data):
    X, y = data
    clf = make_classifier(layer_decay=1, dropout=0, early_stopping=np.False_).fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert type(loaded.layer_decay) is type(loaded.dropout) is int
    assert type(loaded.early_stopping) is np.bool_


@pytest.mark.parametrize(
    "parameters", [{"devise": "cpu"}, {"strategy": "magic"}, {"batch_size": 0}], ids=str
)
def test_wrong_parameter_when_loading_is_the_callers_error(saved, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))) as caught:
        FineTunedCNNClassifier.load(saved, **parameters)
    assert not isinstance(caught.value, ModelFileError)


def test_device_of_the_file_can_be_changed(tmp_path, data):
    """A model from a machine with a GPU works on one without."""
    X, y = data
    clf = make_classifier(strategy="linear_probe", device="cpu").fit(X, y)
    clf.save(tmp_path / "model")
    forge(tmp_path / "model", lambda c: c["parameters"].update(device="cuda:7"))
    loaded = FineTunedCNNClassifier.load(tmp_path / "model", device="cpu")
    assert_same_classifier(loaded, clf, X)


# ---- what a loaded classifier can do


def test_loaded_classifier_can_be_cloned_and_pickled(saved, data):
    X, _ = data
    loaded = FineTunedCNNClassifier.load(saved)
    cloned = clone(loaded)
    assert cloned.get_params(deep=False) == loaded.get_params(deep=False)
    unpickled = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(unpickled.predict_proba(X), loaded.predict_proba(X))


@pytest.mark.parametrize("strategy", first_and_slow(STRATEGIES))
def test_loaded_classifier_can_be_fitted_again(tmp_path, data, strategy):
    X, y = data
    clf = make_classifier(strategy=strategy).fit(X[:20], y[:20])
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model").fit(X, y)
    fresh = make_classifier(strategy=strategy).fit(X, y)
    assert np.array_equal(loaded.predict_proba(X), fresh.predict_proba(X))


@pytest.mark.parametrize(
    "strategy", first_and_slow(["lp_ft", "full", "gradual", "scratch"])
)
def test_loaded_classifier_goes_on_training(tmp_path, data, strategy):
    """As without a break, with an optimizer that remembers nothing."""
    X, y = data
    clf = make_classifier(strategy=strategy, optimizer=torch.optim.SGD, max_epochs=2)
    clf.fit(X, y).save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    clf.partial_fit(X[::2], y[::2])
    loaded.partial_fit(X[::2], y[::2])
    assert len(loaded.history) == 4
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.history[:, "train_loss"] == clf.history[:, "train_loss"]


def test_loading_leaves_the_global_generator_alone(saved):
    before = torch.get_rng_state()
    FineTunedCNNClassifier.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_subclass_loads_as_itself(saved, data):
    class Mine(FineTunedCNNClassifier):
        pass

    assert type(Mine.load(saved)) is Mine


# ---- what cannot be saved


UNSAVEABLE = {
    "random_state": np.random.RandomState(0),
    "callbacks": [EpochScoring("accuracy")],
    "train_split": ValidSplit(2),
    "augment": lambda image: image,
    "backbone": nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ),
    "predict_nonlinearity": functools.partial(torch.softmax, dim=1),
}


@pytest.mark.parametrize("name", UNSAVEABLE)
def test_parameter_without_a_form_is_refused_by_name(tmp_path, data, name):
    path, (X, y) = tmp_path / "model", data
    path.write_bytes(b"before")
    clf = make_classifier(**{name: UNSAVEABLE[name]}).fit(X, y)
    with pytest.raises(TypeError, match=rf"parameters\.{name}.*joblib.dump"):
        clf.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert path.read_bytes() == b"before"


def test_history_without_a_form_is_refused_by_name(tmp_path, data):
    X, y = data
    clf = make_classifier().fit(X, y)
    clf.history.record("seen", {1, 2})
    with pytest.raises(TypeError, match=r"^history\.seen is a set"):
        clf.save(tmp_path / "model")


def test_classifier_that_is_not_fitted_is_not_saved(tmp_path, data):
    X, y = data
    with pytest.raises(NotFittedError):
        make_classifier().save(tmp_path / "model")

    class Interrupted(FineTunedCNNClassifier):
        def train_step(self, batch, **kwargs):
            raise KeyboardInterrupt

    clf = Interrupted("sktl_mini", image_size=16, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_failed_save_leaves_the_file_that_was_there(saved, data, monkeypatch):
    X, y = data
    before = saved.read_bytes()
    clf = make_classifier(strategy="full").fit(X, y)

    def fsync(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        clf.save(saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]
    assert np.isfinite(FineTunedCNNClassifier.load(saved).predict_proba(X)).all()


SAVER = """
import os, random, signal, sys, time
from sktl import FineTunedCNNClassifier
path = sys.argv[1]
clf = FineTunedCNNClassifier.load(path)
for _ in range(int(sys.argv[2])):
    child = os.fork()
    while child == 0:
        clf.save(path)
    time.sleep(random.uniform(0.01, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    FineTunedCNNClassifier.load(path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu"], indirect=True)  # a fork cannot use CUDA
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_file_is_whole_after_kills_at_any_moment(saved, data):
    before = FineTunedCNNClassifier.load(saved).predict_proba(data[0])
    run_python(SAVER, saved, 12)
    after = FineTunedCNNClassifier.load(saved).predict_proba(data[0])
    assert np.array_equal(after, before)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
def test_save_goes_on_after_interrupts_at_any_moment(saved, data, interrupt_after):
    clf = FineTunedCNNClassifier.load(saved)
    before, n_interrupts = clf.predict_proba(data[0]), 0
    rng = np.random.default_rng(0)
    for _ in range(12):
        try:
            with interrupt_after(rng.uniform(0, 0.1)):
                for _ in range(50):  # Python drops an interrupt of a destructor
                    clf.save(saved)
        except KeyboardInterrupt:
            n_interrupts += 1
        again = FineTunedCNNClassifier.load(saved)
        assert np.array_equal(again.predict_proba(data[0]), before)
    assert n_interrupts > 6


# ---- the network alone


@pytest.mark.parametrize(
    ("precision", "atol"),
    first_and_slow([("float32", 1e-5), ("float16", 0.05)]),
    ids=str,
)
def test_saved_backbone_gives_the_features_of_the_classifier(
    tmp_path, data, precision, atol
):
    X, y = data
    clf = make_classifier(strategy="full", lr=0.01, device="cpu").fit(X, y)
    path = tmp_path / "tuned.safetensors"
    clf.save_backbone(path, precision)
    extractor = PretrainedFeatureExtractor(
        "sktl_mini", weights=path, device="cpu", cache=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the file says how its images are prepared
        features = torch.from_numpy(extractor.fit_transform(X))
    assert extractor.preprocessing_ == clf.preprocessing_
    logits = clf.module_.head(features).detach()
    np.testing.assert_allclose(logits, clf.decision_function(X), rtol=0, atol=atol)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        kinds = {file.get_tensor(name).dtype for name in file.keys()}
    assert metadata["backbone"] == "sktl_mini"
    assert json.loads(metadata["classes"]) == NAMES.tolist()
    assert kinds == {getattr(torch, precision), torch.int64}


def test_saved_model_is_used_as_weights_as_its_saved_backbone(tmp_path, data):
    X, y = data
    clf = make_classifier(strategy="linear_probe", image_size=16).fit(X, y)
    clf.save(tmp_path / "whole.safetensors")
    clf.save_backbone(tmp_path / "backbone.safetensors")

    def fitted(name):
        return PretrainedFeatureExtractor("sktl_mini", weights=tmp_path / name).fit(X)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the file says how its images are prepared
        whole = fitted("whole.safetensors")
    assert whole.preprocessing_ == clf.preprocessing_
    expected = fitted("backbone.safetensors").transform(X)
    assert np.array_equal(whole.transform(X), expected)


def test_backbone_with_tied_weights_is_saved(tmp_path, data, tiny_network):
    first, last = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
    last.weight = first.weight
    layers = [*tiny_network[:-3], first, nn.ReLU(), last, *tiny_network[-3:]]
    network = nn.Sequential(*layers).eval()
    clf = make_classifier(backbone=network, strategy="linear_probe").fit(*data)
    path = tmp_path / "tied.safetensors"
    clf.save_backbone(path)
    with safetensors.safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("6.weight"), first.weight)
        assert torch.equal(file.get_tensor("8.weight"), first.weight)


@pytest.mark.parametrize(
    ("name", "precision"), [("a.pth", "float32"), ("a.safetensors", "int8")]
)
def test_backbone_in_another_form_is_refused(tmp_path, data, name, precision):
    clf = make_classifier(strategy="linear_probe").fit(*data)
    with pytest.raises(ValueError, match=r"end in '.safetensors'.*'float32' or 'flo"):
        clf.save_backbone(tmp_path / name, precision)
    assert list(tmp_path.iterdir()) == []


# ---- the values that parameters can have

VALUES = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**70],
    "floats": [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, -math.inf],
    "strings": ["", "ä\n\x00", '{"float":"nan"}', "\ud800", "$"],
    "tuple": (1, (2.0, ()), [3, (None,)]),
    "dict": {"b": 1, "a": {"tensor": "x"}, 3: "int key", None: 0, True: 2},
    "path": Path("some where/file.safetensors"),
    "dtype": torch.bfloat16,
    "device": [torch.device("cpu"), torch.device("cuda:1")],
    "classes": [torch.optim.AdamW, nn.BCELoss, torch.utils.data.DataLoader],
    "weights": [ResNet18_Weights.IMAGENET1K_V1, ViT_B_16_Weights.DEFAULT],
    "tensors": [torch.tensor([0.1, -0.0]), torch.tensor(3), torch.ones(2, 1).half()],
    "numpy_scalars": [
        np.float32(0.1),
        np.float64(np.nan),
        np.int8(-1),
        np.bool_(True),
        np.str_("ä"),
        np.datetime64("2020-01-01T00:00", "ms"),
        np.timedelta64(3, "D"),
    ],
}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([np.float32(0.5), np.str_("s"), torch.float16, Path("p")]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(st.none(), st.integers(), st.text()), inner),
    ),
    max_leaves=20,
)


def assert_same(a, b):
    """Equal in type and in every bit, which `==` leaves open for 1, 1.0, True, NaN."""
    assert type(a) is type(b)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, dict):
        assert_same(list(a.items()), list(b.items()))
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)
    elif isinstance(a, float | np.floating) and math.isnan(a):
        assert math.isnan(b)
    elif isinstance(a, np.datetime64 | np.timedelta64):
        assert a.dtype == b.dtype
        assert a.view("i8") == b.view("i8")
    else:
        assert a == b
        assert str(a) == str(b)  # -0.0 is not 0.0


def assert_comes_back(clf, path, value):
    """As an item of `class_weight`, which takes any dict and is read by `fit` only."""
    clf.class_weight = {"x": value}
    clf.save(path)
    assert_same(FineTunedCNNClassifier.load(path).class_weight, {"x": value})


def test_values_come_back_in_type_and_bits(loaded, tmp_path):
    assert_comes_back(loaded, tmp_path / "m", VALUES)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(trees))
def test_any_trees_of_values_come_back(loaded, tmp_path, trees):
    assert_comes_back(loaded, tmp_path / "m", trees)


class OwnOptimizer(torch.optim.SGD):
    pass


NOT_KEPT = {
    "object": object(),
    "generator": torch.Generator(),
    "builtin": eval,
    "own_class": OwnOptimizer,
    "scheduler_class": torch.optim.lr_scheduler.StepLR,
    "module": math,
    "bytes": b"abc",
    "set": {1, 2},
    "complex": 1j,
    "longdouble": np.longdouble(1),
    "array": np.eye(2),
    "sparse_tensor": torch.eye(2).to_sparse(),
    "complex_tensor": torch.ones(1, dtype=torch.complex64),
    "tensor_without_numbers": torch.ones(1, device="meta"),
    "tensor_as_in_a_network": torch.ones(256, 257),
}


@pytest.mark.parametrize("value", NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_value_without_a_form_is_refused_by_its_place(loaded, tmp_path, value):
    loaded.class_weight = {"x": (0, value)}
    with pytest.raises(
        TypeError, match=r"parameters\.class_weight\.x\.1.* is .*joblib"
    ):
        loaded.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_no_reader_would_take_are_not_written(loaded, tmp_path):
    loaded.class_weight = {"x": "a" * 2**24}
    with pytest.raises(ValueError, match="take 167.* bytes; a model .*joblib"):
        loaded.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---- what is the writer's own


def test_cache_and_checkpoint_and_verbose_do_not_travel(tmp_path, data):
    X, y = data
    places = {"cache": tmp_path / "cache", "checkpoint": tmp_path / "checkpoint"}
    clf = make_classifier(**places, verbose=1).fit(X, y)
    clf.save(tmp_path / "model")
    assert str(tmp_path).encode() not in (tmp_path / "model").read_bytes()
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert (loaded.cache, loaded.checkpoint, loaded.verbose) == ("memory", None, 0)
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))


def test_home_folder_is_expanded(tmp_path, monkeypatch, loaded, data):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    loaded.save("~/model")
    loaded.save_backbone("~/tuned.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"model", "tuned.safetensors"}
    again = FineTunedCNNClassifier.load("~/model")
    assert np.array_equal(again.predict_proba(data[0]), loaded.predict_proba(data[0]))


# ---- files that are damaged, or something else


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory, data):
    X, y = data
    path = tmp_path_factory.mktemp("saved") / "model"
    clf = make_classifier(unfreeze_from="last", hidden_units=(8, 5), max_epochs=2)
    clf.fit(X, y).save(path)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path, saved_bytes):
    path = tmp_path / "model"
    path.write_bytes(saved_bytes)
    return path


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory, saved_bytes):
    path = tmp_path_factory.mktemp("loaded") / "model"
    path.write_bytes(saved_bytes)
    return FineTunedCNNClassifier.load(path)


@pytest.fixture
def loaded(loaded_once):
    """Tests may set its `class_weight`, which only `fit` reads."""
    yield loaded_once
    loaded_once.class_weight = None


RUNS_CODE = re.compile(
    r"compile|exec|import|marshal\..*|pickle\..*|os\.(system|exec|posix_spawn|fork.*)"
    r"|subprocess\..*|ctypes\.(?!addressof).*|socket\..*|urllib\..*"
)
_recorders = []


def _record(event, args):
    for events in _recorders:
        if RUNS_CODE.fullmatch(event):
            events.append((event, *map(str, args)))


sys.addaudithook(_record)  # there is no way to take it off, hence the list


@contextmanager
def recorded():
    """The events meanwhile of code compiled, imported, unpickled or started."""
    events = []
    _recorders.append(events)
    try:
        yield events
    finally:
        _recorders.remove(events)


def test_recorder_notices_a_pickle():
    with recorded() as events:
        pickle.loads(pickle.dumps(Path))
    assert [name for name, *_ in events] == ["pickle.find_class"]


def assert_refused(path, match="."):
    """In words that name the file; nothing runs."""
    with recorded() as events, pytest.raises(ModelFileError) as caught:
        FineTunedCNNClassifier.load(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert re.search(match, message), message
    assert len(message) < 1500
    assert events == []


def test_each_flipped_bit_is_noticed(saved, saved_bytes):
    """All over the manifest, and at random places behind it."""
    FineTunedCNNClassifier.load(saved)  # imports what is imported at first use
    rng = np.random.default_rng(0)
    begin = saved_bytes.index(b'"prefix.') + 200
    places = [*range(0, begin, 23), *rng.integers(begin, len(saved_bytes), 20)]
    with open(saved, "r+b", buffering=0) as file:
        for place in places:
            for byte in (saved_bytes[place] ^ (1 << rng.integers(8)), None):
                file.seek(place)
                file.write(bytes([saved_bytes[place] if byte is None else byte]))
                if byte is not None:
                    assert_refused(saved)
    FineTunedCNNClassifier.load(saved)


def test_truncation_anywhere_is_noticed(saved, saved_bytes):
    for n in [*range(0, 4000, 101), *range(4000, len(saved_bytes), 400_001)]:
        saved.write_bytes(saved_bytes[:n])
        assert_refused(saved)
    saved.write_bytes(saved_bytes[:-1])
    assert_refused(saved, "do not match")


def test_header_longer_than_its_file_is_refused_by_its_length(saved, saved_bytes):
    n = len(saved_bytes) - 8
    saved.write_bytes((n + 1).to_bytes(8, "little") + saved_bytes[8:])
    assert_refused(saved, f"its {n + 8} bytes cannot hold a header of {n + 1}")


def test_file_that_ends_in_its_header_is_cut_off(saved, saved_bytes):
    saved.write_bytes(saved_bytes[:1000])
    assert_refused(saved, "it is cut off .*copy this one again")


def test_what_is_known_to_be_another_file_is_not_to_be_copied_again(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "model", "PNG")
    assert_refused(tmp_path / "model", r"loaded: it is an image\.$")


def length_of(n):
    return lambda whole: n.to_bytes(8, "little") + whole[8:]


def replaced(old, new):
    def change(whole):
        assert old in whole
        return whole.replace(old, new, 1)

    return change


DAMAGED = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "text": lambda whole: b"a model file",
    "json": lambda whole: b'{"schema":1}',
    "one_byte_more": lambda whole: whole + b"\0",
    "twice": lambda whole: whole * 2,
    "length_zero": length_of(0),
    "length_one_less": lambda whole: length_of(header_length(whole) - 1)(whole),
    "length_one_more": lambda whole: length_of(header_length(whole) + 1)(whole),
    "length_huge": length_of(2**63),
    "length_largest": length_of(2**64 - 1),
    "header_not_utf8": replaced(b"backbone", b"back\xff\xfene"),
    "header_utf16": lambda whole: length_of(8)(whole[:8] + "null".encode("utf-16-le")),
    "header_null": lambda whole: length_of(4)(whole[:8] + b"null"),
    "header_list": lambda whole: length_of(4)(whole[:8] + b"[[]]"),
    "header_number": lambda whole: length_of(4)(whole[:8] + b"1234"),
    "header_deep": lambda whole: length_of(10**5)(whole[:8] + b"[" * 10**5),
    "header_deep_objects": lambda whole: length_of(5 * 10**5)(
        whole[:8] + b'{"":' * (10**5) + b" " * 10**5
    ),
    "changed_parameter": replaced(b'random_state\\": 0', b'random_state\\": 1'),
    "changed_class": replaced(b"two", b"six"),
    "changed_name": replaced(b'"head.0.bias":', b'"head.0.bios":'),
    "changed_dtype": replaced(b'"dtype":"I64"', b'"dtype":"F64"'),
    "tensors_moved": lambda whole: whole[:-8] + whole[:-16:-1],
}


def header_length(whole):
    return int.from_bytes(whole[:8], "little")


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_refused(saved, saved_bytes, change):
    saved.write_bytes(change(saved_bytes))
    assert_refused(saved, "is not a model file.*save the model again")


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/sktl-payload-ran",)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../manifest.json", "{}")


def write_sparse(path):
    """64 GiB of nothing, whose header is as long as the file says."""
    with open(path, "wb") as file:
        file.write((2**36 - 8).to_bytes(8, "little"))
        file.truncate(2**36)


OTHER_FILES = {
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps(Payload())),
        "it is a pickle",
    ),
    "torch_save": (
        lambda path: torch.save({"x": Payload()}, path),
        "torch.save writes; .* if save_params wrote it, use load_params",
    ),
    "zip": (write_zip, "it is a zip archive"),
    "safetensors": (
        lambda path: safetensors.torch.save_file({"x": torch.ones(2)}, path),
        "a network's weights, pass it as weights",
    ),
    "image": (lambda path: Image.new("L", (2, 2)).save(path, "PNG"), "it is an image"),
    "empty": (lambda path: path.touch(), "it is empty"),
    "numpy": (lambda path: np.save(path.open("wb"), np.ones(3)), "not a file of sktl"),
    "sparse": (write_sparse, "cannot hold a header"),
    "folder": (lambda path: path.mkdir(), "it is a folder"),
    "nothing": (lambda path: None, "there is no such file"),
    "link_to_nowhere": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "link_to_itself": (lambda path: path.symlink_to(path), "."),
    "pipe": (os.mkfifo, "or it is a device"),
}


@pytest.mark.parametrize(("make", "what"), OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_other_file_is_refused_by_what_it_is(tmp_path, make, what):
    make(tmp_path / "model")
    assert_refused(tmp_path / "model", f"is not a model file.*{what}")


def test_model_file_that_is_missing_is_told_where_it_was_looked_for(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError) as caught:
        FineTunedCNNClassifier.load("none.safetensors")
    assert str(caught.value) == (
        "'none.safetensors' is not a model file that can be loaded: there is no such "
        f"file (seen from {tmp_path})."
    )


def test_path_that_no_file_can_have_is_refused(saved):
    assert_refused(saved / "below", "is not a model file")
    assert_refused(saved.with_name("a" * 300), "is not a model file")


def test_file_without_permission_is_refused(saved):
    saved.chmod(0)
    if os.access(saved, os.R_OK):
        pytest.skip("this user may read everything")
    assert_refused(saved, "Permission denied")


def test_checkpoint_is_not_taken_for_a_classifier(tmp_path, data):
    path = tmp_path / "checkpoint"
    make_classifier(checkpoint=path).fit(*data)
    assert_refused(path, "is not a model file.*pass it as checkpoint")


# ---- forged files, whose digest is right


def forge(path, change):
    """Write a file anew with other content."""
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["sktl"])
        content["tensors"] = {name: file.get_tensor(name) for name in file.keys()}
    content = change(content) or content
    tensors = content.pop("tensors")
    content["sha256"] = "0" * 64
    path.write_bytes(
        sealed(safetensors.torch.save(tensors, {"sktl": json.dumps(content)}))
    )


def sealed(whole):
    """Put the right digest in the place of zeros."""
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(b"0" * 64, digest.encode(), 1)


def put(where, **values):
    """Other entries of one dict in the manifest."""
    return lambda content: content[where].update(values)


def top(**values):
    return lambda content: content.update(values)


def drop(where, name):
    return lambda content: content[where].__delitem__(name)


def prepared(**values):
    return lambda content: content["backbone"]["preprocessing"].update(values)


def weight(plain):
    """As an item of a parameter that may hold anything."""
    return put("parameters", class_weight={"dict": [["x", plain]]})


def array(dtype, *items):
    return labels(classes=[dtype, [len(items)], [*items]])


def labels(**arrays):
    return put("fitted", target_={"labels": arrays})


def classes(*labels):
    return array("<U3", *labels)


def both_names(name):
    def change(content):
        put("parameters", backbone=name)(content)
        put("backbone", name=name)(content)

    return change


REFUSED_UNBUILT = {
    # the manifest
    "schema_newer": (top(schema=5), "schema 5; .* reads 4.*Install that version"),
    "schema_older": (top(schema=1), "earlier version of sktl.*Fit the model again"),
    "schema_text": (top(schema="4"), "begin with a header of sktl"),
    "schema_null": (top(schema=None), "begin with a header of sktl"),
    "kind_other": (top(kind="training"), "holds a 'training', not a"),
    "kind_long": (top(kind="x" * 10**6), "holds a 'x{50}', not"),
    "kind_list": (top(kind=["model"]), "not a 'FineTunedCNNClassifier'"),
    "entry_more": (top(code="x"), "is not a model file"),
    "entry_huge": (top(**{"x" * 10**6: 1}), "is not a model file"),
    "entry_missing": (lambda c: c.__delitem__("fitted"), "is not a model file"),
    "parameters_list": (top(parameters=[1]), "build"),
    "fitted_list": (top(fitted=[1]), "build"),
    "backbone_null": (top(backbone=None), "build"),
    "versions_huge": (top(versions=["x" * 10**6], history=[1]), "build"),
    # parameters
    "method": (put("parameters", predict="x"), "no parameter 'predict'"),
    "learnt_attribute": (put("parameters", module_="x"), "no parameter 'module_'"),
    "state": (put("parameters", initialized_=True), "no parameter 'initialized_'"),
    "history_": (put("parameters", history=[]), "no parameter 'history'"),
    "private": (put("parameters", _restored="x"), "no parameter '_restored'"),
    "dunder": (put("parameters", __class__="x"), "no parameter '__class__'"),
    "of_the_module": (put("parameters", module__x=1), "no parameter 'module__x'"),
    "learnt_by_a_part": (put("parameters", optimizer__x_=1), "no parameter 'optimi"),
    "cache": (put("parameters", cache="/tmp/planted"), "no parameter 'cache'"),
    "checkpoint": (put("parameters", checkpoint="/etc/x"), "no parameter 'checkp"),
    "strategy": (put("parameters", strategy="magic"), "'strategy' parameter"),
    "strategy_huge": (put("parameters", strategy="x" * 10**6), "'strategy' parameter"),
    "name_huge": (put("parameters", **{"x" * 10**6: 1}), "no parameter 'xxx"),
    "lr": (put("parameters", lr=-1.0), "'lr' parameter"),
    "lr_nan": (put("parameters", lr=math.nan), "'lr' parameter"),
    "lr_text": (put("parameters", lr="1"), "'lr' parameter"),
    "max_epochs": (put("parameters", max_epochs=0), "'max_epochs' parameter"),
    "batch_size": (put("parameters", batch_size=2.5), "'batch_size' parameter"),
    "dropout": (put("parameters", dropout=2.0), "'dropout' parameter"),
    "precision": (put("parameters", precision="int8"), "'precision' parameter"),
    "device": (put("parameters", device=3), "'device' parameter"),
    "optimizer_text": (put("parameters", optimizer="os.system"), "'optimizer' param"),
    "augment": (put("parameters", augment="explode"), "'explode' is not known"),
    "class_weight": (put("parameters", class_weight="heavy"), "'class_weight' para"),
    "random_state": (put("parameters", random_state=-1), "'random_state' parameter"),
    "backbone": (put("parameters", backbone="resnet18"), "its network is 'sktl_mini'"),
    "backbone_unknown": (both_names("os.system"), "is not one of"),
    "backbone_number": (both_names(3), "'backbone' parameter"),
    "hidden_units_huge": (put("parameters", hidden_units=[10**12]), r"of \[8, 5, 3\]"),
    "hidden_units_fewer": (put("parameters", hidden_units=[8]), r"of \[8, 5, 3\]"),
    "hidden_units_text": (put("parameters", hidden_units=["8", "5"]), r"\[8, 5, 3\]"),
    # values
    "unknown_form": (weight({"call": "os.system"}), "KeyError: 'call'"),
    "pickle": (weight({"pickle": "gASV"}), "KeyError"),
    "two_forms": (weight({"path": "a", "dtype": "float32"}), "unpack"),
    "no_form": (weight({}), "unpack"),
    "deep": (weight(json.loads("[" * 900 + "]" * 900)), "."),
    "class_of_os": (weight({"class": "os.system"}), "KeyError"),
    "class_eval": (weight({"class": "builtins.eval"}), "KeyError"),
    "class_load": (weight({"class": "torch.load"}), "KeyError"),
    "class_by_number": (weight({"class": 3}), "KeyError"),
    "weights_of_nothing": (weight({"weights": "os.system"}), "."),
    "weights_without_dot": (weight({"weights": "ResNet18_Weights"}), "."),
    "weights_base_class": (weight({"weights": "WeightsEnum.url"}), "."),
    "weights_function": (weight({"weights": "get_weight.IMAGENET1K_V1"}), "."),
    "weights_by_alias": (weight({"weights": "ResNet18_Weights.DEFAULT"}), "way sktl"),
    "dtype_that_is_a_function": (weight({"dtype": "load"}), "KeyError"),
    "dtype_by_alias": (weight({"dtype": "double"}), "KeyError"),
    "device_of_nothing": (weight({"device": "toaster"}), "."),
    "path_not_tidy": (weight({"path": "a//b"}), "way sktl writes"),
    "tuple_of_text": (weight({"tuple": "ab"}), "way sktl writes"),
    "key_twice": (weight({"dict": [["a", 1], ["a", 2]]}), "way sktl writes"),
    "list_as_key": (weight({"dict": [[["a"], 1]]}), "unhashable"),
    "scalar_of_fields": (weight({"scalar": ["i4,i4", 1]}), "'i4,i4' are not kept"),
    "scalar_wide": (weight({"scalar": ["<U999999999", "a"]}), "."),
    "scalar_object": (weight({"scalar": ["|O", "a"]}), "."),
    "scalar_rounded": (weight({"scalar": ["<i8", 1.5]}), "way sktl writes"),
    "tensor_of_texts": (weight({"tensor": ["float32", ["a"]]}), "."),
    "tensor_rounded": (weight({"tensor": ["int64", [1.5]]}), "way sktl writes"),
    # what fit learnt
    "attribute": (put("fitted", predict="x"), "'predict' is 'x'"),
    "network_attribute": (put("fitted", module_="x"), "'module_' is 'x'"),
    "target_missing": (drop("fitted", "target_"), "build"),
    "target_of_the_regressor": (put("fitted", target_={"numbers": {}}), "'numbers'"),
    "target_unknown": (put("fitted", target_={"os.system": {}}), "'os.system'"),
    "target_two": (put("fitted", target_={"labels": {}, "indicators": {}}), "unpack"),
    "classes_missing": (labels(), "required positional argument"),
    "classes_more_fields": (labels(classes=[], code=[]), "unpack"),
    "classes_in_rows": (labels(classes=["|i1", [1, 3], [0, 1, 2]]), "not sorted"),
    "classes_shape_wrong": (labels(classes=["|i1", [2], [0, 1, 2]]), "reshape"),
    "classes_shape_open": (labels(classes=["|i1", [-1], [0, 1, 2]]), "way sktl writes"),
    "tags_not_numbered": (
        put("fitted", target_={"indicators": {"classes": ["<i8", [2], [1, 2]]}}),
        "not numbered 0, 1",
    ),
    "range_missing": (drop("fitted", "value_range_"), "value_range_' is 'missing'"),
    "classes_list": (labels(classes=["a", "b"]), "unpack"),
    "classes_fewer": (classes("a", "b"), "its head has layers"),
    "classes_more": (classes("a", "b", "c", "d"), "its head has layers"),
    "class_single": (classes("a"), "only 1 class"),
    "classes_swapped": (classes("two", "one", "zer"), "not sorted"),
    "class_twice": (classes("a", "a", "b"), "not sorted"),
    "classes_nan": (array("<f8", 0.0, 1.0, math.nan), "not sorted"),
    "classes_of_pickles": (array("|O", {"pickle": "gASV"}), "KeyError: 'pickle'"),
    "classes_of_fields": (array("i4,i4", 1, 2, 3), "'i4,i4' are not kept"),
    "classes_of_void": (array("|V8"), "'|V8' are not kept"),
    "classes_too_wide": (array("<U99999999", "a"), "1 items of dtype '<U99999999'"),
    "classes_much_too_wide": (array("<U99999999999999999999", "a"), "."),
    "classes_cut_off": (array("<U2", "cat", "dog", "eel"), "way sktl writes"),
    "classes_rounded": (array("<i8", 1.5, 2.5, 3.5), "way sktl writes"),
    "classes_too_large": (array("|u1", 1, 2, 256), "."),
    "classes_by_alias": (array("int64", 1, 2, 3), "'int64' are not kept"),
    "n_epochs_negative": (put("fitted", n_epochs_=-1), "n_epochs_ is -1"),
    "n_epochs_text": (put("fitted", n_epochs_="2"), "n_epochs_' is '2'"),
    "range_backwards": (
        put("fitted", value_range_={"tuple": [1.0, 0.0]}),
        "range is 1.0 to 0.0",
    ),
    "range_text": (put("fitted", value_range_={"tuple": ["a", "b"]}), "convert string"),
    "range_of_three": (put("fitted", value_range_={"tuple": [1, 2, 3]}), "too many"),
    "n_features": (put("fitted", n_features_in_="64"), "n_features_in_' is '64'"),
    "feature_names": (put("fitted", feature_names_in_=["a"]), "build"),
    "history": (top(history=[1, 2]), "does not consist of rows"),
    # the network
    "backbone_name_missing": (drop("backbone", "name"), "'name'"),
    "preprocessing_missing": (drop("backbone", "preprocessing"), "'preprocessing'"),
    "preprocessing_more": (prepared(code="x"), "unexpected keyword argument 'code'"),
    "mean_text": (prepared(mean="abc"), "."),
    "mean_of_two": (prepared(mean=(0.5, 0.5)), "."),
    "mean_nan": (prepared(mean=(0.5, 0.5, math.nan)), "three numbers"),
    "crop_zero": (prepared(crop=0), "crop=0 must be a whole number"),
    "crop_fraction": (prepared(crop=1.5), "crop=1.5 must be a whole number"),
    "crop_none": (prepared(crop=None), "does not say how its images"),
    "interpolation": (prepared(interpolation="os.system"), "must be one of"),
    "prepared_more": (prepared(code="x"), "unexpected keyword argument 'code'"),
    # tensors
    "no_tensors": (lambda c: c["tensors"].clear(), "its head has layers"),
}


def fail(*args, **kwargs):
    pytest.fail("this must not be called")  # a BaseException, which nobody catches


def test_file_with_verbose_as_once_written_is_read(saved):
    forge(saved, put("parameters", verbose=1))
    assert FineTunedCNNClassifier.load(saved).verbose == 0


@pytest.mark.parametrize(
    ("change", "match"), REFUSED_UNBUILT.values(), ids=REFUSED_UNBUILT.keys()
)
def test_forged_file_is_refused_before_anything_is_built(
    saved, monkeypatch, change, match
):
    """Fault 18."""
    forge(saved, change)
    monkeypatch.setattr(nn.Module, "__init__", fail)
    assert_refused(saved, match)


def text_of(old, new):
    """Other text in the header, before it is sealed."""

    def change(header):
        assert header.count(old) >= 1
        return header.replace(old, new, 1)

    return change


def entry(name, **values):
    def change(header):
        entries = json.loads(header)
        entries[name] |= values
        return json.dumps(entries)

    return change


SEED = '\\"random_state\\": '
HEADERS = {
    "manifest_twice": text_of('"__metadata__":{', '"__metadata__":{},"__metadata__":{'),
    "metadata_list": text_of('"__metadata__":{', '"__metadata__":[],"x":{'),
    "manifest_deep": text_of(SEED + "0", SEED + "[" * 10**5 + "]" * 10**5),
    "integer_of_5000_digits": text_of(SEED + "0", SEED + "1" * 5000),
    "digest_null": text_of('\\"' + "0" * 64 + '\\"', "null"),
    "entry_null": text_of('"head.0.bias":{', '"z":null,"head.0.bias":{'),
    "dtype_unknown": entry("head.0.bias", dtype="PICKLE"),
    "dtype_list": entry("head.0.bias", dtype=["F32"]),
    "shape_negative": entry("head.0.bias", shape=[-8]),
    "shape_float": entry("head.0.bias", shape=[8.0]),
    "shape_text": entry("head.0.bias", shape="8"),
    "shape_null": entry("head.0.bias", shape=None),
    "shape_of_much_memory": entry(
        "head.0.bias", shape=[2**46], data_offsets=[0, 2**48]
    ),
    "shape_torch_cannot_make": entry(
        "head.0.bias", shape=[0, 2**47, 2**47], data_offsets=[0, 0]
    ),
    "shape_of_long_axes": entry("head.0.bias", shape=[10**400] * 3),
    "offsets_overlap": entry("head.0.bias", data_offsets=[0, 32]),
    "offsets_outside": entry("head.0.bias", data_offsets=[10**9, 10**9 + 32]),
    "offsets_backwards": entry("head.0.bias", data_offsets=[32, 0]),
    "offsets_text": entry("head.0.bias", data_offsets="ab"),
    "offsets_one": entry("head.0.bias", data_offsets=[0]),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_forged_header_is_refused(saved, saved_bytes, change):
    n = header_length(saved_bytes)
    digest = json.loads(json.loads(saved_bytes[8 : 8 + n])["__metadata__"]["sktl"])
    header = saved_bytes[8 : 8 + n].decode().replace(digest["sha256"], "0" * 64)
    header = change(header).encode()
    whole = len(header).to_bytes(8, "little") + header + saved_bytes[8 + n :]
    saved.write_bytes(sealed(whole))
    assert_refused(saved, "is not a model file")


def test_writer_of_these_tests_makes_the_same_file(saved, saved_bytes):
    """So whatever is refused here is not refused for its digest."""
    forge(saved, lambda content: None)
    assert saved.read_bytes() == saved_bytes


def tensor(name, change):
    def changed(content):
        content["tensors"][name] = change(content["tensors"][name]).contiguous()

    return changed


def with_nan(t):
    t = t.clone()
    t.view(-1)[0] = torch.nan
    return t


def renamed(content):
    tensors = content["tensors"]
    tensors["tail.evil"] = tensors.pop("tail.layer3.0.bn1.bias")


BIAS = "tail.layer3.0.bn1.bias"
REFUSED_BUILT = {
    # The network of that name has to be there to tell.
    "structure": (
        put("backbone", structure="0" * 64),
        "build a 'sktl_mini' that differs",
    ),
    "structure_number": (
        put("backbone", structure=3),
        "build a 'sktl_mini' that differs",
    ),
    "other_network": (
        both_names("squeezenet1_1"),
        "build a 'squeezenet1_1' that differs",
    ),
    "licence_is_a_number": (put("backbone", license=3), "origin of its weights"),
    "strategy": (put("parameters", strategy="full"), "do not fit the model"),
    "unfreeze_from": (put("parameters", unfreeze_from="layer2"), "do not fit"),
    "unfreeze_from_nowhere": (put("parameters", unfreeze_from="x"), "stages are"),
    "reinit_from_nowhere": (put("parameters", reinit_from="x"), "stages are"),
    "reinit_from_frozen": (put("parameters", reinit_from="stem"), "begins before"),
    "dropout": (put("parameters", dropout=0.5), "do not fit the model"),
    "optimizer": (
        put("parameters", optimizer={"class": "torch.nn.CrossEntropyLoss"}),
        "build",
    ),
    "criterion": (put("parameters", criterion={"class": "torch.optim.Adam"}), "build"),
    "optimizer_setting": (put("parameters", optimizer__code="x"), "unexpected keyword"),
    "criterion_setting": (put("parameters", criterion__code="x"), "unexpected keyword"),
    "setting_of_nothing": (put("parameters", lr__code="x"), "not a parameter"),
    "callbacks": (put("parameters", callbacks=3), "build"),
    "use_caching": (put("parameters", use_caching="x"), "use_caching"),
    "nan": (tensor(BIAS, with_nan), f"'{BIAS}' holds NaN"),
    "nan_in_the_head": (tensor("head.4.bias", with_nan), "'head.4.bias' holds NaN"),
    "shape": (tensor(BIAS, lambda t: t[:-1]), f"'{BIAS}' is torch.float32"),
    "head_shape": (tensor("head.0.weight", lambda t: t[:, 1:]), "'head.0.weight' is"),
    "dtype": (tensor(BIAS, torch.Tensor.double), f"'{BIAS}' is torch.float64"),
    "renamed": (renamed, f"'tail.evil' is not known; '{BIAS}' is missing"),
    "tensor_missing": (drop("tensors", "tail.layer3.0.bn1.num_batches_tracked"), "mis"),
    "tensor_more": (put("tensors", evil=torch.ones(1)), "'evil' is not known"),
}


@pytest.mark.parametrize(
    ("change", "match"), first_and_slow(REFUSED_BUILT.values()), ids=REFUSED_BUILT
)
def test_forged_file_that_fits_no_network_is_refused(saved, change, match):
    """Building traces the network, which compiles code of torch.fx's own making."""
    forge(saved, change)
    with recorded() as events, pytest.raises(ModelFileError, match=match) as caught:
        FineTunedCNNClassifier.load(saved)
    assert repr(str(saved)) in str(caught.value)
    assert not [
        event for event in events if event[0].startswith(("pickle", "os", "su"))
    ]


def test_nothing_is_unpickled_from_a_good_file(saved, monkeypatch):
    for module, name in [(torch, "load"), (pickle, "load"), (pickle, "loads")]:
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(pickle, "Unpickler", fail)
    FineTunedCNNClassifier.load(saved)


@pytest.mark.parametrize(
    "change",
    first_and_slow(
        [
            {"hidden_units": (8,)},
            {"backbone": "sktl_photo"},
            {"strategy": "lp_ft"},
            {"dropout": 0.5},
        ]
    ),
)
def test_save_refuses_parameters_of_another_network_than_was_fitted(
    data, tmp_path, change
):
    clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe").fit(*data)
    before = clf.get_params()
    clf.set_params(**change)
    with pytest.raises(ValueError, match=f"{next(iter(change))} was set to"):
        clf.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    clf.set_params(**{name: before[name] for name in change}, lr=0.5)
    clf.save(tmp_path / "model")
    again = FineTunedCNNClassifier.load(tmp_path / "model")
    assert again.lr == 0.5
    assert np.array_equal(again.predict(data[0]), clf.predict(data[0]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", "sktl_photo"),
        ("strategy", "full"),
        ("hidden_units", (4,)),
        ("dropout", 0.5),
    ],
)
def test_load_names_the_parameter_that_asks_for_another_network(saved, name, value):
    with pytest.raises(
        ValueError, match=rf"load\({name}=.* than the saved one"
    ) as info:
        FineTunedCNNClassifier.load(saved, **{name: value})
    assert not isinstance(info.value, ModelFileError)


def test_net_that_was_trimmed_for_prediction_is_not_saved(tmp_path, saved):
    clf = FineTunedCNNClassifier.load(saved)
    clf.trim_for_prediction()
    with pytest.raises(ValueError, match="trim_for_prediction has removed"):
        clf.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_history_that_was_cut_is_saved(tmp_path, saved):
    clf = FineTunedCNNClassifier.load(saved)
    n_epochs = clf.n_epochs_
    clf.history.clear()
    clf.save(tmp_path / "again")
    assert FineTunedCNNClassifier.load(tmp_path / "again").n_epochs_ == n_epochs > 0


def test_parameter_that_load_would_refuse_is_not_saved(tmp_path, saved):
    clf = FineTunedCNNClassifier.load(saved).set_params(lr=-1)
    with pytest.raises(ValueError, match="'lr' parameter"):
        clf.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()
