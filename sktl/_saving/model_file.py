"""A fitted classifier as a file that runs nothing when it is loaded."""

import contextlib
import json
import re
import reprlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from skorch.history import History

from sktl._images.geometry import Geometry
from sktl._networks.backbones import Preprocessing, rebuild_backbone
from sktl._saving.archive import read_archive, to_bytes, write_archive
from sktl._saving.plain_data import decode, decode_array, encode, encode_array
from sktl._training.labels import list_classes
from sktl._utils.atomic import replacing
from sktl.exceptions import ModelFileError

KIND = "FineTunedCNNClassifier"
FIELDS = ("parameters", "fitted", "backbone", "history", "versions")
# Parameters that say where the writer's machine keeps things; the reader's is another.
OF_THE_MACHINE = {"cache", "checkpoint"}
# What `fit` learns besides tensors; of columns only where there are some.
FITTED = {
    "classes_inferred_": np.ndarray,
    "value_range_": tuple | None,
    "n_epochs_": int,
}
OPTIONAL = {"n_features_in_": int, "feature_names_in_": np.ndarray}
LINEAR_LAYER = r"head\.(?:(\d+)\.)?weight"
PACKAGES = ("sktl", "torch", "torchvision", "skorch", "scikit-learn", "numpy")


def save_model(estimator, path):
    """Write a fitted classifier to a file, as `FineTunedCNNClassifier.save` says."""
    estimator.check_is_fitted(["module_", *FITTED])
    defaults = type(estimator)().get_params(deep=False)
    parameters = {
        name: encode(value, f"parameters.{name}")
        for name, value in estimator.get_params(deep=False).items()
        if name not in OF_THE_MACHINE
        and not (name in defaults and _is_same(value, defaults[name]))
    }
    names = [*FITTED, *(name for name in OPTIONAL if hasattr(estimator, name))]
    backbone = estimator.backbone_
    manifest = {
        "parameters": parameters,
        "fitted": {name: _encode_fitted(getattr(estimator, name)) for name in names},
        "backbone": {
            "name": backbone.name,
            "structure": backbone.network.structure,
            "preprocessing": asdict(backbone.preprocessing),
        },
        "history": [
            encode(dict(row) | {"batches": []}, "history") for row in estimator.history
        ],
        "versions": {name: version(name) for name in PACKAGES},
    }
    write_archive(path, KIND, manifest, estimator.module_.state_dict())


def load_model(cls, path, **parameters):
    """Make a `cls` of a file, as `FineTunedCNNClassifier.load` says."""
    manifest, tensors = read_archive(path, KIND, FIELDS)
    with _errors_of(path, manifest):
        saved, fitted = _decode_parameters(manifest, cls), _decode_fitted(manifest)
        history = [decode(row) for row in manifest["history"]]
        _check_fitted(fitted, history, tensors, saved)
        classifier = cls(**saved)
        classifier._check_params()
    classifier.set_params(**parameters)._check_params()
    with _errors_of(path, manifest):
        network = manifest["backbone"]
        if classifier.backbone != network["name"]:
            raise ValueError(f"its network is {reprlib.repr(network['name'])}")
        vars(classifier).update(fitted)
        backbone = rebuild_backbone(
            network["name"],
            network["structure"],
            _preprocessing(network["preprocessing"]),
            {n.removeprefix("prefix."): t for n, t in tensors.items()},
        )
        with classifier._seeded():
            classifier.initialize(backbone)
        _check_tensors(tensors, classifier.module_.state_dict())
        classifier.module_.load_state_dict(tensors)
        classifier.history_ = History(history)
    return classifier


def save_backbone(estimator, path, precision="float32"):
    """Write the network without its head, as the method of that name says."""
    estimator.check_is_fitted()
    dtypes = {"float32": torch.float32, "float16": torch.float16}
    if precision not in dtypes or Path(path).suffix != ".safetensors":
        raise ValueError(
            f"save_backbone({str(path)!r}, {precision!r}): the path must end in "
            "'.safetensors', and precision be 'float32' or 'float16'."
        )
    dtype = dtypes[precision]
    state = {
        name: t.to(dtype) if t.is_floating_point() else t
        for name, t in estimator.module_.backbone_state().items()
    }
    metadata = {
        "backbone": estimator.backbone_.name,
        "sktl": version("sktl"),
        "classes": json.dumps(estimator.classes_.tolist(), default=str),
    }
    with replacing(path) as file:
        file.write(to_bytes(state, metadata))


def _is_same(value, default):
    return value is default or (
        type(value) is type(default)
        and not isinstance(value, np.ndarray)
        and value == default
    )


@contextlib.contextmanager
def _errors_of(path, manifest):
    """Say of what goes wrong that it lies in the file."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ModelFileError(
            f"{str(path)!r} does not describe a classifier that this version of sktl "
            f"can build: {str(error)[:300]}. It was written with "
            f"{reprlib.repr(manifest['versions'])}."
        ) from error


def _decode_parameters(manifest, cls):
    """The parameters; skorch sets others as they come."""
    known = cls().get_params(deep=False).keys() - OF_THE_MACHINE
    for name in manifest["parameters"]:
        if name.split("__")[0] not in known or name.endswith("_"):
            raise ValueError(f"there is no parameter {reprlib.repr(name)}")
    return {name: decode(plain) for name, plain in manifest["parameters"].items()}


def _encode_fitted(value):
    return encode_array(value) if isinstance(value, np.ndarray) else encode(value)


def _decode_fitted(manifest):
    """What `fit` learns, each of its kind."""
    fitted, kinds = {}, FITTED | OPTIONAL
    for name in [*FITTED, *manifest["fitted"]]:
        kind, plain = kinds.get(name), manifest["fitted"].get(name, "missing")
        fitted[name] = decode_array(plain) if kind is np.ndarray else decode(plain)
        if kind is None or not isinstance(fitted[name], kind):
            raise ValueError(f"its {reprlib.repr(name)} is {reprlib.repr(plain)}")
    return fitted


def _check_fitted(fitted, history, tensors, parameters):
    """Raise unless this is what `fit` learns, and the head's widths go with it."""
    classes = fitted["classes_inferred_"]
    if not np.array_equal(classes, list_classes(classes)):
        raise ValueError("its classes are not in order, or one is there twice")
    low, high = map(float, fitted["value_range_"] or (0, 1))
    if not low < high:
        raise ValueError(f"its range is {low} to {high}")
    if not all(isinstance(row, dict) for row in history):
        raise ValueError("its history does not consist of rows")
    if fitted["n_epochs_"] not in range(len(history) + 1):
        raise ValueError(f"its n_epochs_ is {fitted['n_epochs_']}")
    layers = [(re.fullmatch(LINEAR_LAYER, name), t) for name, t in tensors.items()]
    layers = {int(match[1] or 0): len(t) for match, t in layers if match}
    widths = [layers[i] for i in sorted(layers)]
    if widths != [*parameters.get("hidden_units", ()), len(classes)]:
        raise ValueError(f"its head has layers of {widths} units")


def _preprocessing(saved):
    geometry = Geometry(**saved["geometry"])
    whole = isinstance(geometry.resize, int) and isinstance(geometry.crop, int)
    numbers = np.array([saved["mean"], saved["std"]])
    if not whole or numbers.shape != (2, 3) or not np.isfinite(numbers).all():
        raise ValueError("its images are not prepared by three means and deviations")
    mean, std = tuple(saved["mean"]), tuple(saved["std"])
    return Preprocessing(**saved | {"geometry": geometry, "mean": mean, "std": std})


def _check_tensors(tensors, expected):
    """Raise unless tensors can be put in the place of others, and hold no NaN."""
    faults = [
        f"{name!r} {fault}"
        for name in sorted(tensors.keys() | expected.keys())
        if (fault := _fault(tensors.get(name), expected.get(name)))
    ]
    if faults:
        raise ValueError(
            f"its tensors do not fit the model that its parameters describe, in "
            f"{len(faults)} of them: {'; '.join(faults[:3])}; it was not written by "
            "save, or torchvision has changed this network since"
        )


def _fault(found, expected):
    if found is None or expected is None:
        return "is missing" if found is None else "is not known"
    if _describe(found) != _describe(expected):
        return f"is {_describe(found)}, not {_describe(expected)}"
    return "holds NaN" if found.isnan().any() else None


def _describe(tensor):
    return f"{tensor.dtype} {tuple(tensor.shape)}"
