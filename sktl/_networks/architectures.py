"""What is known of a network before it is built: how to build and feed it, weights."""

import fnmatch
import functools
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike
from pathlib import Path

import torch
import torchvision
from torchvision.models import get_model_builder, get_model_weights, list_models

from sktl._networks import mini, photo
from sktl._networks.given import reset_copy
from sktl._networks.preprocessing import (
    IMAGENET,
    Preprocessing,
    from_timm,
    from_torchvision,
)
from sktl._networks.weight_files import WeightsFile, torchvision_file
from sktl._utils.printable import shown
from sktl.exceptions import UnknownBackboneError, WeightsMismatchError


@dataclass(frozen=True, eq=False)
class Architecture:
    """A way to build a network, and where its weights are."""

    name: str
    build: Callable[[], torch.nn.Module]  # draws random weights from torch's generator
    preprocessing: Preprocessing
    files: dict[str, WeightsFile] = field(default_factory=dict)
    preprocessings: dict[str, Preprocessing] = field(default_factory=dict)
    is_named: bool = True  # else it is a user's module, which may change
    is_preset_known: bool = True  # else `preprocessing` is a guess
    enum: str = ""  # the class of which torchvision's weights are members
    # From the tensors of a published file to those of the network.
    convert: Callable[[dict], dict] | None = None

    def find_weights(self, weights):
        """The file or state dict that the user's `weights` mean."""
        if isinstance(weights, Mapping):
            return weights
        # torchvision's weights are enum members; a Path has a `name` too.
        name = weights.name if isinstance(weights, Enum) else weights
        if isinstance(name, str):
            name = name.removeprefix(f"{self.enum}.")
            known = self.files.get(name)
            if known and getattr(weights, "url", known.url) == known.url:
                return known
        is_path = isinstance(weights, str | PathLike) and Path(weights).suffix
        if not is_path or re.fullmatch(r"\w+_Weights\.[A-Z0-9_]+", str(weights)):
            accepted = ", ".join(map(repr, self.files)) or "none by name"
            raise WeightsMismatchError(
                f"weights={reprlib.repr(weights)} is not known for "
                f"backbone={self.name!r}. Accepted: {accepted}; None for random "
                "weights; a state dict; or the path of a .safetensors or .pth file "
                "that holds one."
            )
        return WeightsFile(_expanded(weights), sha256="")

    def published_name(self, file, digest):
        """The name of the published weights that these are, else None."""
        for name in self.preprocessings:
            known = self.files[name]
            if file == known or (known.sha256 and digest.startswith(known.sha256)):
                return name
        return None


def _expanded(path):
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user: then "~" is part of the name
        return Path(path)


def list_backbones(module=None, *, pretrained=False, filter="*"):
    """List the names that `backbone` accepts.

    Parameters
    ----------
    module : {"torchvision", "timm"} or None, default=None
        Whose networks to list. None lists the two that ship with sktl, and those of
        torchvision. The networks of timm, over 1,300, need the package timm.
    pretrained : bool, default=False
        Whether to list names that include the weights (such as
        `"timm/resnet50.a1_in1k"`) instead of names of networks; for timm only.
    filter : str, default="*"
        List only names that match this glob, such as `"convnext*"`.

    Returns
    -------
    names : list of str
        `"sktl_mini"` and `"sktl_photo"`, then every classification network of the
        installed torchvision, in alphabetical order.

    Examples
    --------
    >>> from sktl import list_backbones
    >>> names = list_backbones()
    >>> names[:2], "resnet18" in names
    (['sktl_mini', 'sktl_photo'], True)
    >>> list_backbones(filter="resnet1*")
    ['resnet101', 'resnet152', 'resnet18']
    """
    if module == "timm":
        from sktl._networks.timm_networks import list_timm

        return list_timm(pretrained, filter)
    if module not in (None, "torchvision"):
        raise ValueError(
            f"module={shown(module)} is not known. Accepted: 'torchvision', 'timm', "
            "None for torchvision's and those that ship with sktl."
        )
    shipped = SHIPPED if module is None else ()
    names = [*shipped, *sorted(list_models(module=torchvision.models))]
    return fnmatch.filter(names, filter)


@functools.lru_cache
def named_architecture(name, published=False):
    """The architecture of that name, as it is for published weights if they differ."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name.startswith("timm/"):
        from sktl._networks.timm_networks import timm_architecture

        return timm_architecture(name)
    if name not in list_backbones():
        raise UnknownBackboneError("backbone", name, list_backbones())
    weights = get_model_weights(name)
    files = {w.name: torchvision_file(w) for w in weights}
    preprocessings = {w.name: from_torchvision(w.transforms()) for w in weights}
    return Architecture(
        name,
        functools.partial(get_model_builder(name), **_settings(name, published)),
        preprocessings[weights.DEFAULT.name],
        files | {"DEFAULT": files[weights.DEFAULT.name]},
        preprocessings,
        enum=weights.__name__,
    )


def _shipped(name, build, module):
    """A network whose weights are in the package; its module says how to feed it."""
    preprocessing = Preprocessing(
        resize=module.SIZE,
        crop=module.SIZE,
        interpolation="bilinear",
        mean=module.MEAN,
        std=module.STD,
        fit="stretch",
    )
    path = Path(__file__).parent / "weights" / f"{name}.safetensors"
    files = {"DEFAULT": WeightsFile(path, module.WEIGHTS_SHA256)}
    return Architecture(name, build, preprocessing, files)


SHIPPED = {
    "sktl_mini": _shipped("sktl_mini", mini.SktlMini, mini),
    "sktl_photo": _shipped("sktl_photo", photo.SktlPhoto, photo),
}


def module_architecture(module):
    """A user's network; timm's say how their images are to be prepared."""
    configs = [
        getattr(module, f"{kind}_cfg", None) for kind in ("pretrained", "default")
    ]
    known = [c for c in configs if isinstance(c, Mapping) and "input_size" in c]
    return Architecture(
        type(module).__name__,
        functools.partial(reset_copy, module),
        from_timm(known[0]) if known else IMAGENET,
        is_named=False,
        is_preset_known=bool(known),
    )


def _settings(name, published):
    """Arguments for torchvision's builder.

    The weights of GoogLeNet and Inception were trained with another normalisation,
    which `transform_input` undoes; torchvision sets it when it loads them
    (torchvision/models/googlenet.py). Without `init_weights` both warn.
    """
    if name not in ("googlenet", "inception_v3"):
        return {"weights": None}
    return {"weights": None, "init_weights": True, "transform_input": published}
