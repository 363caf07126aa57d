"""Saved classifiers: all comes back in any process, and nothing that was forged does.

What is refused as a file is in test_archive.py; here each file has its right digest.
"""

import functools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit
from torch import nn

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._networks import backbones
from sktl._saving.archive import read_archive, write_archive
from sktl._saving.model_file import FIELDS, KIND
from sktl.exceptions import ModelFileError

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
NAMES = np.array(["one", "two", "zero"])


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:30], NAMES[y[:30] - 1]


def make_classifier(**parameters):
    small = {"image_size": 16, "max_epochs": 1, "random_state": 0, "device": "cpu"}
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
    "resnet18": {"backbone": "resnet18", "weights": None, "image_size": 32},
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


@pytest.mark.parametrize("parameters", MODELS.values(), ids=MODELS.keys())
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
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
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


def test_another_process_predicts_the_same(tmp_path, data):
    X, y = data
    np.save(tmp_path / "X.npy", X)
    models = {name: make_classifier(**MODELS[name]).fit(X, y) for name in STRATEGIES}
    models["hidden"] = make_classifier(**MODELS["hidden"]).fit(X, y)
    for name, clf in models.items():
        clf.save(tmp_path / name)
    paths = [tmp_path / "X.npy", *(tmp_path / name for name in models)]
    subprocess.run([sys.executable, "-c", LOADER, *paths], check=True, timeout=600)
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
    builder = backbones._named_architecture(name, True).build
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
        monkeypatch.setattr(backbones, "_published_name", lambda *args: "IMAGENET1K_V1")
    clf = make_classifier(weights=weights, **parameters).fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")
    assert_same_classifier(loaded, clf, X)


def test_parameters_can_be_changed_when_loading(tmp_path, data):
    X, y = data
    clf = make_classifier(cache=tmp_path / "store").fit(X, y)
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model", cache=None, batch_size=7)
    assert (loaded.cache, loaded.batch_size) == (None, 7)
    np.testing.assert_allclose(
        loaded.predict_proba(X), clf.predict_proba(X), rtol=0, atol=1e-5
    )
    loaded = FineTunedCNNClassifier.load(tmp_path / "model", device="cpu", cache=None)
    assert np.array_equal(loaded.predict_proba(X), clf.predict_proba(X))


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
    clf = make_classifier(strategy="linear_probe").fit(X, y)
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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loaded_classifier_can_be_fitted_again(tmp_path, data, strategy):
    X, y = data
    clf = make_classifier(strategy=strategy).fit(X[:20], y[:20])
    clf.save(tmp_path / "model")
    loaded = FineTunedCNNClassifier.load(tmp_path / "model").fit(X, y)
    fresh = make_classifier(strategy=strategy).fit(X, y)
    assert np.array_equal(loaded.predict_proba(X), fresh.predict_proba(X))


@pytest.mark.parametrize("strategy", ["lp_ft", "full", "gradual", "scratch"])
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


def test_classifier_that_is_not_fitted_is_not_saved(tmp_path, data):
    X, y = data
    with pytest.raises(NotFittedError):
        make_classifier().save(tmp_path / "model")

    class Interrupted(FineTunedCNNClassifier):
        def train_step(self, batch, **kwargs):
            raise KeyboardInterrupt

    clf = Interrupted(image_size=16, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


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


# ---- the network alone


@pytest.mark.parametrize(
    ("precision", "atol"), [("float32", 1e-5), ("float16", 0.05)], ids=str
)
def test_saved_backbone_gives_the_features_of_the_classifier(
    tmp_path, data, precision, atol
):
    X, y = data
    clf = make_classifier(strategy="full", lr=0.01).fit(X, y)
    path = tmp_path / "tuned.safetensors"
    clf.save_backbone(path, precision)
    extractor = PretrainedFeatureExtractor(
        weights=path, image_size=16, device="cpu", cache=None
    )
    features = torch.from_numpy(extractor.fit_transform(X))
    logits = clf.module_.head(features).detach()
    np.testing.assert_allclose(logits, clf.decision_function(X), rtol=0, atol=atol)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        kinds = {file.get_tensor(name).dtype for name in file.keys()}
    assert metadata["backbone"] == "sktl_mini"
    assert json.loads(metadata["classes"]) == NAMES.tolist()
    assert kinds == {getattr(torch, precision), torch.int64}


@pytest.mark.parametrize(
    ("name", "precision"), [("a.pth", "float32"), ("a.safetensors", "int8")]
)
def test_backbone_in_another_form_is_refused(tmp_path, data, name, precision):
    clf = make_classifier(strategy="linear_probe").fit(*data)
    with pytest.raises(ValueError, match=r"end in '.safetensors'.*'float32' or 'flo"):
        clf.save_backbone(tmp_path / name, precision)
    assert list(tmp_path.iterdir()) == []


# ---- forged files, whose digest is right


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory, data):
    X, y = data
    path = tmp_path_factory.mktemp("saved") / "model"
    make_classifier(hidden_units=(8, 5), max_epochs=2).fit(X, y).save(path)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path, saved_bytes):
    path = tmp_path / "model"
    path.write_bytes(saved_bytes)
    return path


def forge(path, change):
    content = read_archive(path, KIND, FIELDS)
    content = change(content) or content
    write_archive(path, KIND, content)


@pytest.fixture
def nothing_is_unpickled(monkeypatch):
    for module, name in [(torch, "load"), (pickle, "load"), (pickle, "loads")]:
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(pickle, "Unpickler", fail)


def fail(*args, **kwargs):
    pytest.fail("this must not be called")  # a BaseException, which nobody catches


def test_nothing_is_unpickled_from_a_good_file(saved, nothing_is_unpickled):
    FineTunedCNNClassifier.load(saved)


def assert_refused(path, match):
    with pytest.raises(ModelFileError, match=match) as caught:
        FineTunedCNNClassifier.load(path)
    assert repr(str(path)) in str(caught.value)


def put(where, **values):
    """Other entries of one dict in the content."""
    return lambda content: content[where].update(values)


def drop(where, name):
    return lambda content: content[where].__delitem__(name)


def prepared(**values):
    return lambda content: content["backbone"]["preprocessing"].update(values)


def geometry(**values):
    return lambda content: content["backbone"]["preprocessing"]["geometry"].update(
        values
    )


def classes(*labels):
    return put("fitted", classes_inferred_=np.array(labels))


def both_names(name):
    def change(content):
        content["parameters"]["backbone"] = name
        content["backbone"]["name"] = name

    return change


REFUSED_UNBUILT = {
    # parameters
    "method": (put("parameters", predict="x"), "no parameter 'predict'"),
    "learnt_attribute": (put("parameters", module_="x"), "no parameter 'module_'"),
    "state": (put("parameters", initialized_=True), "no parameter 'initialized_'"),
    "history_": (put("parameters", history=[]), "no parameter 'history'"),
    "private": (put("parameters", _restored="x"), "no parameter '_restored'"),
    "dunder": (put("parameters", __class__="x"), "no parameter '__class__'"),
    "of_the_module": (put("parameters", module__x=1), "no parameter 'module__x'"),
    "learnt_by_a_part": (put("parameters", optimizer__x_=1), "no parameter 'optimi"),
    "not_a_name": (lambda c: c["parameters"].update({3: 1}), "build"),
    "strategy": (put("parameters", strategy="magic"), "'strategy' parameter"),
    "lr": (put("parameters", lr=-1.0), "'lr' parameter"),
    "lr_text": (put("parameters", lr="1"), "'lr' parameter"),
    "max_epochs": (put("parameters", max_epochs=0), "'max_epochs' parameter"),
    "batch_size": (put("parameters", batch_size=2.5), "'batch_size' parameter"),
    "dropout": (put("parameters", dropout=2.0), "'dropout' parameter"),
    "precision": (put("parameters", precision="int8"), "'precision' parameter"),
    "device": (put("parameters", device=3), "'device' parameter"),
    "optimizer_text": (put("parameters", optimizer="os.system"), "'optimizer' param"),
    "augment": (put("parameters", augment="explode"), "'explode' is no name"),
    "class_weight": (put("parameters", class_weight="heavy"), "'class_weight' para"),
    "random_state": (put("parameters", random_state=-1), "'random_state' parameter"),
    "checkpoint": (
        put("parameters", checkpoint="/etc/passwd", random_state=None),
        "without a fixed seed",
    ),
    "backbone": (put("parameters", backbone="resnet18"), "its network is 'sktl_mini'"),
    "backbone_unknown": (both_names("os.system"), "is not one of"),
    "backbone_number": (both_names(3), "'backbone' parameter"),
    "hidden_units_huge": (put("parameters", hidden_units=[10**12]), r"of \[8, 5, 3\]"),
    "hidden_units_fewer": (put("parameters", hidden_units=[8]), r"of \[8, 5, 3\]"),
    "hidden_units_text": (put("parameters", hidden_units=["8", "5"]), r"\[8, 5, 3\]"),
    # what fit learnt
    "attribute": (put("fitted", predict="x"), "'predict' is 'x'"),
    "network_attribute": (put("fitted", module_="x"), "'module_' is 'x'"),
    "classes_missing": (drop("fitted", "classes_inferred_"), "classes.* is 'missing'"),
    "range_missing": (drop("fitted", "value_range_"), "value_range_' is 'missing'"),
    "classes_list": (put("fitted", classes_inferred_=["a", "b", "c"]), "is \\['a'"),
    "classes_fewer": (classes("a", "b"), "its head has layers"),
    "classes_more": (classes("a", "b", "c", "d"), "its head has layers"),
    "class_single": (classes("a"), "1 class only"),
    "classes_swapped": (classes("two", "one", "zero"), "not in order"),
    "class_twice": (classes("a", "a", "b"), "not in order"),
    "classes_nan": (classes(0.0, 1.0, np.nan), "not in order"),
    "n_epochs": (put("fitted", n_epochs_=3), "n_epochs_ is 3"),
    "n_epochs_negative": (put("fitted", n_epochs_=-1), "n_epochs_ is -1"),
    "n_epochs_text": (put("fitted", n_epochs_="2"), "n_epochs_' is '2'"),
    "range_backwards": (put("fitted", value_range_=(1.0, 0.0)), "range is 1.0 to 0.0"),
    "range_text": (put("fitted", value_range_=("a", "b")), "convert string"),
    "range_of_three": (put("fitted", value_range_=(1.0, 2.0, 3.0)), "too many"),
    "n_features": (put("fitted", n_features_in_="64"), "n_features_in_' is '64'"),
    "feature_names": (put("fitted", feature_names_in_=["a"]), r"names_in_' is \['a"),
    "history": (lambda c: c | {"history": [1, 2]}, "does not consist of rows"),
    # the network
    "backbone_name_missing": (drop("backbone", "name"), "'name'"),
    "preprocessing_missing": (drop("backbone", "preprocessing"), "'preprocessing'"),
    "preprocessing_more": (prepared(code="x"), "unexpected keyword argument 'code'"),
    "mean_text": (prepared(mean="abc"), "."),
    "mean_of_two": (prepared(mean=(0.5, 0.5)), "."),
    "mean_nan": (prepared(mean=(0.5, 0.5, np.nan)), "three means"),
    "crop_zero": (geometry(crop=0), "crop=0 must be 1 or more"),
    "crop_fraction": (geometry(crop=1.5), "three means"),
    "interpolation": (geometry(interpolation="os.system"), "must be one of"),
    "geometry_more": (geometry(code="x"), "unexpected keyword argument 'code'"),
    # tensors
    "no_tensors": (lambda c: c | {"tensors": {}}, "its head has layers"),
    "numbers": (lambda c: c | {"tensors": {"head.0.weight": 3}}, "has no len"),
    # all of it
    "entry_more": (lambda c: c | {"code": "x"}, "is not a model file"),
    "entry_missing": (
        lambda c: {n: v for n, v in c.items() if n != "fitted"},
        "is not a model file",
    ),
    "tensors_list": (lambda c: c | {"tensors": []}, "its 'tensors' is a list"),
}


@pytest.mark.parametrize(
    ("change", "match"), REFUSED_UNBUILT.values(), ids=REFUSED_UNBUILT.keys()
)
def test_forged_file_is_refused_before_anything_is_built(
    saved, nothing_is_unpickled, monkeypatch, change, match
):
    forge(saved, change)
    monkeypatch.setattr(nn.Module, "__init__", fail)
    assert_refused(saved, match)


def tensor(name, change):
    def changed(content):
        content["tensors"][name] = change(content["tensors"][name])

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
    "structure": (put("backbone", structure="0" * 64), "build another 'sktl_mini'"),
    "structure_number": (put("backbone", structure=3), "build another 'sktl_mini'"),
    "other_network": (both_names("squeezenet1_1"), "build another 'squeezenet1_1'"),
    "strategy": (put("parameters", strategy="full"), "does not fit the model"),
    "unfreeze_from": (put("parameters", unfreeze_from="layer2"), "does not fit"),
    "unfreeze_from_nowhere": (put("parameters", unfreeze_from="x"), "stages are"),
    "reinit_from_nowhere": (put("parameters", reinit_from="x"), "stages are"),
    "reinit_from_frozen": (put("parameters", reinit_from="stem"), "begins before"),
    "dropout": (put("parameters", dropout=0.5), "does not fit the model"),
    "optimizer": (put("parameters", optimizer=nn.CrossEntropyLoss), "build"),
    "criterion": (put("parameters", criterion=torch.optim.Adam), "build"),
    "optimizer_setting": (put("parameters", optimizer__code="x"), "unexpected keyword"),
    "criterion_setting": (put("parameters", criterion__code="x"), "unexpected keyword"),
    "setting_of_nothing": (put("parameters", lr__code="x"), "unexpected argument"),
    "callbacks": (put("parameters", callbacks=3), "build"),
    "use_caching": (put("parameters", use_caching="x"), "use_caching"),
    "nan": (tensor(BIAS, with_nan), f"'{BIAS}' holds NaN"),
    "nan_in_the_head": (tensor("head.4.bias", with_nan), "'head.4.bias' holds NaN"),
    "shape": (tensor(BIAS, lambda t: t[:-1]), f"'{BIAS}' is torch.float32"),
    "head_shape": (tensor("head.0.weight", lambda t: t[:, 1:]), "'head.0.weight' is"),
    "dtype": (tensor(BIAS, torch.Tensor.double), f"'{BIAS}' is torch.float64"),
    "number": (tensor(BIAS, lambda t: 3), f"'{BIAS}' is a int"),
    "prefix_number": (tensor("prefix.stem.1.bn.bias", lambda t: 3), "build"),
    "renamed": (renamed, f"'tail.evil' is not known; '{BIAS}' is missing"),
    "tensor_missing": (drop("tensors", "tail.layer3.0.bn1.num_batches_tracked"), "mis"),
    "tensor_more": (put("tensors", evil=torch.ones(1)), "'evil' is not known"),
}


@pytest.mark.parametrize(
    ("change", "match"), REFUSED_BUILT.values(), ids=REFUSED_BUILT.keys()
)
def test_forged_file_that_fits_no_network_is_refused(
    saved, nothing_is_unpickled, change, match
):
    forge(saved, change)
    assert_refused(saved, match)


def test_checkpoint_is_not_taken_for_a_classifier(tmp_path, data):
    path = tmp_path / "checkpoint"
    make_classifier(checkpoint=path).fit(*data)
    assert_refused(path, "holds 'training', and 'FineTunedCNNClassifier' was asked")


def test_pickle_is_not_taken_for_a_classifier(tmp_path, data, nothing_is_unpickled):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(make_classifier()))
    assert_refused(path, "is not a model file")
