"""A fitted classifier as a file that runs nothing when it is loaded."""

import contextlib
import json
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from skorch.history import History

from sktl._images.decoding import Geometry
from sktl._networks.backbones import Preprocessing, rebuild_backbone
from sktl._saving.archive import check_tensors, read_archive, write_archive
from sktl._training.labels import list_classes
from sktl._utils.atomic import replacing
from sktl.exceptions import ModelFileError

KIND = "FineTunedCNNClassifier"
FIELDS = {
    "parameters": dict,
    "fitted": dict,
    "backbone": dict,
    "tensors": dict,
    "history": list,
    "versions": dict,
}
# What `fit` learns besides tensors; of columns only where there are some.
FITTED = {
    "classes_inferred_": np.ndarray,
    "value_range_": tuple | None,
    "n_epochs_": int,
}
OPTIONAL = {"n_features_in_": int, "feature_names_in_": np.ndarray}
LINEAR_LAYER = r"head\.(\d+\.)?weight"
PACKAGES = ("sktl", "torch", "torchvision", "skorch", "scikit-learn", "numpy")


class ModelFileMixin:
    """`save`, `load` and `save_backbone`."""

    def save(self, path):
        """Write the fitted classifier to one file, from which `load` makes it again.

        Unlike a pickle, the file holds numbers and plain settings only: nothing in it
        can run. It is written whole or not at all, and `load` notices any change. The
        state of the optimiser is not in it; `partial_fit` begins with a new one.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced.

        Raises
        ------
        NotFittedError
            If there is nothing to save yet, or `fit` came to no end.
        TypeError
            If a parameter has no form in such a file: a callback, a network or a
            function. With these, use pickle or joblib, for readers who trust you.
        OSError
            If the file cannot be written.
        """
        self.check_is_fitted(["module_", *FITTED])
        defaults = type(self)().get_params(deep=False)
        parameters = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in defaults or not _is_same(value, defaults[name])
        }
        backbone = self._backbone
        fitted = [name for name in OPTIONAL if hasattr(self, name)]
        content = {
            "parameters": parameters,
            "fitted": {name: getattr(self, name) for name in [*FITTED, *fitted]},
            "backbone": {
                "name": backbone.name,
                "structure": backbone.network.structure,
                "preprocessing": asdict(backbone.preprocessing),
            },
            "tensors": dict(self.module_.state_dict()),
            "history": [dict(row) | {"batches": []} for row in self.history],
            "versions": {name: version(name) for name in PACKAGES},
        }
        write_archive(path, KIND, content)

    @classmethod
    def load(cls, path, **parameters):
        """Make a classifier from what `save` wrote; nothing in the file can run.

        Needs no other file and no network: all weights are in it.

        Parameters
        ----------
        path : path-like
        **parameters : dict
            Parameters to change, such as `device="cpu"` or `cache=None`.

        Returns
        -------
        classifier : FineTunedCNNClassifier
            Predicts what the saved one did.

        Raises
        ------
        ModelFileError
            If the file is not one of `save`'s, or was changed since; or if the
            installed torchvision has another network under this name.
        ValueError
            If there is no such parameter, or it cannot have this value.
        """
        content = read_archive(path, KIND, FIELDS)
        with _errors_of(path, content):
            _check_names(content["parameters"], cls().get_params(deep=False))
            _check_fitted(content)
            classifier = cls(**content["parameters"])
            classifier._check_params()
        classifier.set_params(**parameters)._check_params()
        with _errors_of(path, content):
            classifier._restore(content, path)
        return classifier

    def _restore(self, content, path):
        """Become the classifier that `content` describes."""
        saved, tensors = content["backbone"], content["tensors"]
        if self.backbone != saved["name"]:
            raise ValueError(f"its network is {saved['name']!r}")
        for name, value in content["fitted"].items():
            setattr(self, name, value)
        self._restored = rebuild_backbone(
            saved["name"],
            saved["structure"],
            _preprocessing(saved["preprocessing"]),
            {n.removeprefix("prefix."): t for n, t in tensors.items()},
        )
        with self._seeded():
            self.initialize()
        check_tensors(tensors, self.module_.state_dict(), path)
        self.module_.load_state_dict(tensors)
        self.history_ = History(content["history"])

    def save_backbone(self, path, precision="float32"):
        """Write the network without its head, to be used as `weights=path`.

        Parameters
        ----------
        path : path-like
            Ends in `.safetensors`.
        precision : {"float32", "float16"}, default="float32"
            float16 halves the file and changes weights by up to 5e-4 of their size.
        """
        self.check_is_fitted()
        dtypes = {"float32": torch.float32, "float16": torch.float16}
        if precision not in dtypes or Path(path).suffix != ".safetensors":
            raise ValueError(
                f"save_backbone({str(path)!r}, {precision!r}): the path must end in "
                "'.safetensors', and precision be 'float32' or 'float16'."
            )
        dtype = dtypes[precision]
        state = {
            name: (t.to(dtype) if t.is_floating_point() else t).cpu().contiguous()
            for name, t in self.module_.backbone_state().items()
        }
        metadata = {
            "backbone": self._backbone.name,
            "sktl": version("sktl"),
            "classes": json.dumps(self.classes_.tolist(), default=str),
        }
        with replacing(path) as file:
            file.write(safetensors.torch.save(state, metadata))


def _is_same(value, default):
    return value is default or (
        type(value) is type(default)
        and not isinstance(value, np.ndarray)
        and value == default
    )


@contextlib.contextmanager
def _errors_of(path, content):
    """Say of what goes wrong that it lies in the file."""
    try:
        yield
    except ModelFileError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ModelFileError(
            f"{str(path)!r} describes no classifier that this version of sktl can "
            f"build: {error}. It was written with {content['versions']}."
        ) from error


def _check_names(parameters, known):
    """Raise unless all are parameters: skorch sets others as they come."""
    for name in parameters:
        if name.split("__")[0] not in known or name.endswith("_"):
            raise ValueError(f"there is no parameter {name!r}")


def _check_fitted(content):
    """Raise unless this is what `fit` learns, and the head's widths go with it."""
    fitted, kinds = content["fitted"], FITTED | OPTIONAL
    for name in fitted.keys() | FITTED.keys():
        if name not in kinds or not isinstance(fitted.get(name, ...), kinds[name]):
            raise ValueError(f"its {name!r} is {fitted.get(name, 'missing')!r}")
    classes = fitted["classes_inferred_"]
    if not np.array_equal(classes, list_classes(classes)):
        raise ValueError("its classes are not in order, or one is there twice")
    low, high = map(float, fitted["value_range_"] or (0, 1))
    if not low < high:
        raise ValueError(f"its range is {low} to {high}")
    if not all(isinstance(row, dict) for row in content["history"]):
        raise ValueError("its history does not consist of rows")
    if fitted["n_epochs_"] not in range(len(content["history"]) + 1):
        raise ValueError(f"its n_epochs_ is {fitted['n_epochs_']}")
    tensors = content["tensors"].items()
    widths = [len(t) for name, t in tensors if re.fullmatch(LINEAR_LAYER, name)]
    if widths != [*content["parameters"].get("hidden_units", ()), len(classes)]:
        raise ValueError(f"its head has layers of {widths} units")


def _preprocessing(saved):
    geometry = Geometry(**saved["geometry"])
    whole = isinstance(geometry.resize, int) and isinstance(geometry.crop, int)
    numbers = np.array([saved["mean"], saved["std"]])
    if not whole or numbers.shape != (2, 3) or not np.isfinite(numbers).all():
        raise ValueError("its images are not prepared by three means and deviations")
    return Preprocessing(**saved | {"geometry": geometry})
