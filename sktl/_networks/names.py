"""The names of networks, and the architecture that each stands for."""

import fnmatch
import functools
from pathlib import Path

import torchvision
from torchvision.models import get_model_builder, get_model_weights, list_models

from sktl._networks import mini, photo
from sktl._networks.architecture import Architecture
from sktl._networks.preprocessing import Preprocessing, from_torchvision
from sktl._networks.timm_networks import list_timm, timm_architecture
from sktl._networks.weight_files import WeightsFile, torchvision_file
from sktl._utils.printable import shown
from sktl.exceptions import UnknownBackboneError


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
        Networks that classify images. `"sktl_mini"` and `"sktl_photo"` come first, if
        they are listed.

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
    least_size = getattr(module, "LEAST_SIZE", 0)
    return Architecture(name, build, preprocessing, files, least_size=least_size)


SHIPPED = {
    "sktl_mini": _shipped("sktl_mini", mini.SktlMini, mini),
    "sktl_photo": _shipped("sktl_photo", photo.SktlPhoto, photo),
}


def _settings(name, published):
    """Arguments for torchvision's builder.

    The weights of GoogLeNet and Inception were trained with another normalisation,
    which `transform_input` undoes; torchvision sets it when it loads them
    (torchvision/models/googlenet.py). Without `init_weights` both warn.
    """
    if name not in ("googlenet", "inception_v3"):
        return {"weights": None}
    return {"weights": None, "init_weights": True, "transform_input": published}
