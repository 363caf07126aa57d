"""A fitted network as a file that runs nothing when it is loaded."""

import contextlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from skorch.history import History

from sktl._networks.backbones import rebuild_backbone
from sktl._networks.preprocessing import from_plain
from sktl._saving.archive import read_archive, to_bytes, write_archive
from sktl._saving.plain_data import decode, decode_array, encode, encode_array
from sktl._targets.kinds import TARGETS
from sktl._training.strategy import BUILDS
from sktl._utils.atomic import replacing
from sktl._utils.environment import versions
from sktl._utils.printable import shown
from sktl.exceptions import ModelFileError

FIELDS = ("parameters", "fitted", "backbone", "history", "versions")
# Parameters that are the writer's own: where its machine keeps things, what it shows.
OF_THE_WRITER = {"cache", "checkpoint", "verbose"}
# Parameters of which a saved network has only one value.
OF_THE_NETWORK = (*BUILDS, "backbone", "dropout")
# What each `fit` learns besides tensors, and what only some fits learn.
FITTED = {
    "target_": tuple(TARGETS.values()),
    "value_range_": tuple | None,
    "n_epochs_": int,
}
OPTIONAL = {
    "augment_": str | tuple | list | None,
    "initial_share_": float,
    "n_features_in_": int,
    "feature_names_in_": np.ndarray,
}
LINEAR_LAYER = r"head\.(?:(\d+)\.)?weight"


class SavedMixin:
    """What can be saved: a `FineTunedNet` with `_saved_as`, the name of its face."""

    def save(self, path):
        """Save the fitted estimator to a single file, which `load` reads.

        Unlike a pickle, the file holds only numbers and plain settings, and no code. It
        is written completely or not at all, and `load` rejects a file that has been
        changed. It does not hold the state of the optimiser (`partial_fit` starts with
        a new one), nor `cache` and `checkpoint`, which are paths on this machine, nor
        `verbose`.

        Parameters
        ----------
        path : path-like
            An existing file is replaced.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted, or `fit` did not finish.
        TypeError
            If a parameter cannot be stored in such a file, as a callback, a network or
            a function. Use pickle or joblib for these, if whoever loads the file trusts
            you.
        ValueError
            If parameters that decide what the network looks like (`backbone`,
            `strategy`, `hidden_units` and the like) were changed after `fit`, or others
            to what `fit` would refuse; or after `trim_for_prediction`.
        OSError
            If the file cannot be written.
        """
        self.check_is_fitted(["module_", *FITTED])
        self._refuse_another_network(
            "Before you save it, call fit again, or set it back"
        )
        defaults = type(self)().get_params(deep=False)
        given = self.get_params(deep=False)
        if given["criterion"] is None:
            raise ValueError(
                "trim_for_prediction has removed parameters of this estimator, which "
                "cannot be restored. Save it before: the file holds no optimiser."
            )
        parameters = {
            name: encode(value, f"parameters.{name}")
            for name, value in given.items()
            if name not in OF_THE_WRITER
            and not (name in defaults and _is_same(value, defaults[name]))
        }
        type(self)(**given)._check_params()  # as load will
        names = [*FITTED, *(name for name in OPTIONAL if hasattr(self, name))]
        backbone = self.backbone_
        manifest = {
            "parameters": parameters,
            "fitted": {name: _encode_fitted(getattr(self, name)) for name in names},
            "backbone": {
                "name": backbone.name,
                "structure": backbone.network.structure,
                "preprocessing": asdict(backbone.preprocessing),
                "license": backbone.license,
                "source": backbone.source,
            },
            "history": [
                encode(dict(row) | {"batches": []}, "history") for row in self.history
            ],
            "versions": versions(),
        }
        write_archive(path, self._saved_as, manifest, self.module_.state_dict())

    @classmethod
    def load(cls, path, **parameters):
        """Load an estimator from a file written by `save`, without running code.

        No other file and no internet access is needed: the file holds all weights.

        Parameters
        ----------
        path : path-like
        **parameters : dict
            Parameters to change, such as `device="cpu"` or `cache=None`.

        Returns
        -------
        estimator : object of this class
            Makes the same predictions as the saved one. Its `cache` is "memory" and its
            `verbose` 0, whatever they were when saved.

        Raises
        ------
        ModelFileError
            If there is no such file; if it was not written by `save` of such an
            estimator, or has been changed since; or if the installed torchvision has a
            different network under this name.
        ValueError
            If a parameter does not exist, cannot have this value, or asks for another
            network than the saved one.
        """
        manifest, tensors = read_archive(path, cls._saved_as, FIELDS)
        with _errors_of(path, manifest):
            saved = _decode_parameters(manifest, cls)
            fitted = _decode_fitted(manifest, cls)
            history = [decode(row) for row in manifest["history"]]
            _check_fitted(fitted, history, tensors, saved)
            estimator = cls(**saved)
            estimator._check_params()
        built = {name: getattr(estimator, name) for name in OF_THE_NETWORK}
        estimator.set_params(**parameters)._check_params()
        for name, value in built.items():
            if getattr(estimator, name) != value:
                raise ValueError(
                    f"load({name}={shown(getattr(estimator, name))}) asks for another "
                    f"network than the saved one, which has {name}={shown(value)}. "
                    f"Leave {name} out; to train such a network, set it after loading "
                    "and call fit."
                )
        with _errors_of(path, manifest):
            network = manifest["backbone"]
            if estimator.backbone != network["name"]:
                raise ValueError(f"its network is {shown(network['name'])}")
            vars(estimator).update(fitted)
            backbone = rebuild_backbone(
                network["name"],
                network["structure"],
                from_plain(network["preprocessing"]),
                {n.removeprefix("prefix."): t for n, t in tensors.items()},
            )
            origin = {name: network[name] for name in ("license", "source")}
            if not all(isinstance(text, str | None) for text in origin.values()):
                raise ValueError(f"the origin of its weights is {shown(origin)}")
            with estimator._seeded():
                estimator.initialize(replace(backbone, **origin))
            _check_tensors(tensors, estimator.module_.state_dict())
            estimator.module_.load_state_dict(tensors)
            estimator.history_ = History(history)
        return estimator

    def save_backbone(self, path, precision="float32"):
        """Save the network without its head, to be used as `weights=path`.

        The file also records how images were prepared. An estimator with these
        `weights` prepares them in the same way by default.

        Parameters
        ----------
        path : path-like
            Must end in `.safetensors`.
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
            name: t.to(dtype) if t.is_floating_point() else t
            for name, t in self.module_.backbone_state().items()
        }
        metadata = {
            "backbone": self.backbone_.name,
            "sktl": versions()["sktl"],
            "preprocessing": json.dumps(asdict(self.backbone_.preprocessing)),
            **{
                field: json.dumps(values.tolist(), default=str)
                for field, values in vars(self.target).items()
            },
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
    """Blame the file for what goes wrong."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ModelFileError(
            f"{str(path)!r} does not describe a model that this version of sktl "
            f"can build: {str(error)[:300]}. It was written with "
            f"{shown(manifest['versions'])}."
        ) from error


def _decode_parameters(manifest, cls):
    """The parameters; unknown ones are refused, as skorch would set them."""
    known = cls().get_params(deep=False).keys() - OF_THE_WRITER
    given = dict(manifest["parameters"])
    given.pop("verbose", None)  # which version 0.1.0 wrote at first
    for name in given:
        if name.split("__")[0] not in known or name.endswith("_"):
            raise ValueError(f"there is no parameter {shown(name)}")
    return {name: decode(plain) for name, plain in given.items()}


def _encode_fitted(value):
    if type(value) in TARGETS.values():
        arrays = {name: encode_array(array) for name, array in vars(value).items()}
        return {value.name: arrays}
    return encode_array(value) if isinstance(value, np.ndarray) else encode(value)


def _decode_fitted(manifest, cls):
    """What `fit` learns, each of its type."""
    fitted, kinds = {}, FITTED | OPTIONAL
    for name in [*FITTED, *manifest["fitted"]]:
        kind, plain = kinds.get(name), manifest["fitted"].get(name, "missing")
        if name == "target_":
            fitted[name] = _decode_target(plain, cls._kinds)
            continue
        fitted[name] = decode_array(plain) if kind is np.ndarray else decode(plain)
        if kind is None or not isinstance(fitted[name], kind):
            raise ValueError(f"its {shown(name)} is {shown(plain)}")
    return fitted


def _decode_target(plain, kinds):
    ((name, arrays),) = plain.items()
    kind = {kind.name: kind for kind in kinds}[name]
    return kind(**{field: decode_array(array) for field, array in arrays.items()})


def _check_fitted(fitted, history, tensors, parameters):
    """Raise unless this is what `fit` learns, and fits the widths of the head."""
    low, high = map(float, fitted["value_range_"] or (0, 1))
    if not low < high:
        raise ValueError(f"its range is {low} to {high}")
    if not all(isinstance(row, dict) for row in history):
        raise ValueError("its history does not consist of rows")
    if fitted["n_epochs_"] < 0:  # the history may have been cut
        raise ValueError(f"its n_epochs_ is {fitted['n_epochs_']}")
    layers = [(re.fullmatch(LINEAR_LAYER, name), t) for name, t in tensors.items()]
    layers = {int(match[1] or 0): len(t) for match, t in layers if match}
    widths = [layers[i] for i in sorted(layers)]
    if widths != [*parameters.get("hidden_units", ()), fitted["target_"].n_outputs]:
        raise ValueError(f"its head has layers of {widths} units")


def _check_tensors(tensors, expected):
    """Raise unless tensors can be put in the place of others, and hold no NaN."""
    faults = [
        f"{name!r} {fault}"
        for name in sorted(tensors.keys() | expected.keys())
        if (fault := _fault(tensors.get(name), expected.get(name)))
    ]
    if faults:
        raise ValueError(
            f"{len(faults)} of its tensors do not fit the model that its parameters "
            f"describe: {'; '.join(faults[:3])}; it was not written by save, or "
            "torchvision has changed this network since"
        )


def _fault(found, expected):
    if found is None or expected is None:
        return "is missing" if found is None else "is not known"
    if _describe(found) != _describe(expected):
        return f"is {_describe(found)}, not {_describe(expected)}"
    return "holds NaN" if found.isnan().any() else None


def _describe(tensor):
    return f"{tensor.dtype} {tuple(tensor.shape)}"
