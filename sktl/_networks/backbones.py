"""Names to networks: which there are, how each is built, fed and given its weights."""

import copy
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike
from pathlib import Path

import torch
import torchvision
from torchvision.models import get_model_builder, get_model_weights, list_models

from sktl._images.forms import Geometry
from sktl._networks import mini
from sktl._networks.stages import StagedNetwork
from sktl._networks.weight_files import (
    WeightsFile,
    check_digest,
    check_fits,
    local_file,
    read_state,
    torchvision_file,
)
from sktl._utils.torch_state import building, seeded
from sktl.exceptions import UnknownBackboneError, WeightsMismatchError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MINI_WEIGHTS = Path(__file__).parent / "weights" / "sktl_mini.safetensors"


@dataclass(frozen=True)
class Preprocessing:
    """From an 8-bit RGB image to the numbers a network was trained on."""

    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def at_size(self, image_size):
        """The same for squares of `image_size` pixels, of which nothing is cut."""
        if image_size is None:
            return self
        geometry = Geometry(
            resize=int(image_size),
            crop=int(image_size),
            interpolation=self.geometry.interpolation,
            stretch=self.geometry.stretch,
        )
        return Preprocessing(geometry, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Architecture:
    """A way to build a network, and where its weights are."""

    name: str
    build: Callable[[], torch.nn.Module]  # draws random weights from torch's generator
    preprocessing: Preprocessing
    files: dict[str, WeightsFile] = field(default_factory=dict)
    preprocessings: dict[str, Preprocessing] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its weights, traced, frozen, and the images it wants."""

    name: str
    network: StagedNetwork
    preprocessing: Preprocessing

    @property
    def digest(self):
        """SHA-256 of everything in the network that decides its output."""
        return self.network.digest


def list_backbones():
    """List the names that `backbone` accepts.

    Returns
    -------
    names : list of str
        `"sktl_mini"` first, then every classification network of the installed
        torchvision, in alphabetical order.

    Examples
    --------
    >>> from sktl import list_backbones
    >>> names = list_backbones()
    >>> names[0], "resnet18" in names
    ('sktl_mini', True)
    """
    return ["sktl_mini", *sorted(list_models(module=torchvision.models))]


def layer_names(backbone="sktl_mini"):
    """List the layers of a network at which it can be cut, from image to scores.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_mini"
        A name of `list_backbones()` or a network that `torch.fx` can trace. A named
        network is built once per process with random weights: nothing is downloaded,
        but the largest need gigabytes of memory for a moment.

    Returns
    -------
    names : list of str
        Each is accepted by the `layers` parameter of `PretrainedFeatureExtractor`. A
        layer inside a residual or parallel branch is not listed: what comes after it
        needs more than its output.

    Raises
    ------
    UnknownBackboneError
        If `backbone` is not a known name.

    Examples
    --------
    >>> from sktl import layer_names
    >>> layer_names("resnet18")[-3:]
    ['avgpool', 'flatten', 'fc']
    """
    return list(load_backbone(backbone, _no_weights(backbone)).network.cuts)


def load_backbone(backbone, weights="DEFAULT", *, image_size=None, seed=0):
    """Build the network `backbone` with `weights`, in eval mode and frozen.

    Networks are shared within the process: do not train them, copy them.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    weights : "DEFAULT", str, path-like, torchvision weights or None
    image_size : int or None
        Side in pixels of the square the network is to see.
    seed : int
        Decides the random weights when `weights` is None: the same as
        `torch.manual_seed(seed)` before the upstream builder.
    """
    with building():
        return _load(backbone, weights, image_size, seed)


def rebuild_backbone(name, expected, preprocessing, state):
    """Build a network once more from what is known of it; reads no weights.

    Parameters
    ----------
    name : str
        As in `list_backbones()`.
    expected : str
        Its `StagedNetwork.structure`.
    preprocessing : Preprocessing
    state : dict of {str: torch.Tensor}
        Tensors by the network's names; others keep random values.
    """
    with building():
        for published in (False, True):
            architecture = _named_architecture(name, published)
            network = _untrained_network(architecture, 0)
            if network.structure == expected:
                return Backbone(name, _with_state(network, state), preprocessing)
    raise WeightsMismatchError(
        f"The installed torch and torchvision build another {name!r} than the one that "
        "was saved. Install the versions that it was saved with."
    )


def _with_state(network, state):
    """A copy of the network with the tensors of `state` that fit, without a head."""
    module = copy.deepcopy(network.module)
    own = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)
    return StagedNetwork(module, headless=f"{network.head}.weight" not in fitting)


def _load(backbone, weights, image_size, seed):
    given = isinstance(backbone, torch.nn.Module)
    if not given and not isinstance(backbone, str):
        raise UnknownBackboneError("backbone", backbone, list_backbones())
    find = _module_architecture if given else _named_architecture
    architecture = find(backbone)
    preprocessing = architecture.preprocessing
    if weights is None:
        network = _untrained_network(architecture, seed)
    elif given and isinstance(weights, str) and weights == "DEFAULT":
        network = _given_network(backbone)
    else:
        file = _find_file(architecture, weights)
        digest = check_digest(file)
        # Published weights are known by their content, under whatever name they lie.
        name = _published_name(architecture, digest)
        preprocessing = architecture.preprocessings.get(name, preprocessing)
        architecture = find(backbone, published=True) if name else architecture
        network = _network_from_file(architecture, file.path, digest)
    return Backbone(architecture.name, network, preprocessing.at_size(image_size))


# ---- architectures


@functools.lru_cache
def _named_architecture(name, published=False):
    """The architecture of that name, as it is for published weights if they differ."""
    if name == "sktl_mini":
        return _mini_architecture()
    if name not in list_backbones():
        raise UnknownBackboneError("backbone", name, list_backbones())
    weights = get_model_weights(name)
    files = {w.name: torchvision_file(w) for w in weights}
    preprocessings = {w.name: _from_torchvision(w.transforms()) for w in weights}
    return Architecture(
        name,
        functools.partial(get_model_builder(name), **_settings(name, published)),
        preprocessings[weights.DEFAULT.name],
        files | {"DEFAULT": files[weights.DEFAULT.name]},
        preprocessings,
    )


def _mini_architecture():
    geometry = Geometry(resize=mini.SIZE, crop=mini.SIZE, stretch=True)
    return Architecture(
        "sktl_mini",
        mini.SktlMini,
        Preprocessing(geometry, mini.MEAN, mini.STD),
        {"DEFAULT": WeightsFile(MINI_WEIGHTS, mini.WEIGHTS_SHA256)},
    )


def _module_architecture(module):
    geometry = Geometry(resize=256, crop=224)
    return Architecture(
        type(module).__name__,
        functools.partial(_reset_copy, module),
        Preprocessing(geometry, IMAGENET_MEAN, IMAGENET_STD),
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


def _from_torchvision(preset):
    geometry = Geometry(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
    )
    return Preprocessing(geometry, tuple(preset.mean), tuple(preset.std))


# ---- weights: from the user's word to a file on this machine


def _no_weights(backbone):
    return "DEFAULT" if isinstance(backbone, torch.nn.Module) else None


def _find_file(architecture, weights):
    """Return the file that the user's `weights` mean."""
    # torchvision's weights are enum members; a Path has a `name` too.
    name = weights.name if isinstance(weights, Enum) else weights
    known = architecture.files.get(name) if isinstance(name, str) else None
    if known and getattr(weights, "url", known.url) == known.url:
        return local_file(known)
    if not isinstance(weights, str | PathLike) or not Path(weights).suffix:
        accepted = ", ".join(map(repr, architecture.files)) or "none by name"
        raise WeightsMismatchError(
            f"weights={weights!r} is not known for backbone={architecture.name!r}. "
            f"Accepted: {accepted}; None for random weights; or the path of a "
            ".safetensors or .pth state dict."
        )
    return WeightsFile(Path(weights).expanduser(), sha256="")


def _published_name(architecture, digest):
    """The name of the published weights that have this digest, else None."""
    for name in architecture.preprocessings:
        if digest.startswith(architecture.files[name].sha256):
            return name
    return None


# ---- networks, shared within the process


@functools.lru_cache(maxsize=4)
def _untrained_network(architecture, seed):
    """Build with random weights; the global generator is left as it was."""
    with seeded(seed):
        return StagedNetwork(architecture.build().requires_grad_(False))


@functools.lru_cache(maxsize=4)
def _network_from_file(architecture, path, digest):
    """`digest` is part of the key: an edited file is a new network."""
    network = _untrained_network(architecture, 0)
    state = read_state(path, digest)
    check_fits(network, state, path)
    return _with_state(network, state)


_given = weakref.WeakKeyDictionary()


def _given_network(module):
    """Trace a copy of the user's network; the same one until theirs has changed."""
    wrong = {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}
    if wrong:
        raise ValueError(
            f"backbone={type(module).__name__} has weights in {', '.join(wrong)}; pass "
            "it in float32 (network.float()), and choose what it computes in by "
            "precision."
        )
    network = StagedNetwork(copy.deepcopy(module).requires_grad_(False))
    known = _given.get(module)
    if known is None or known.digest != network.digest:
        _given[module] = network
    return _given[module]


def _reset_copy(module):
    """A copy of the user's network with fresh random weights."""
    module = copy.deepcopy(module)
    for name, child in module.named_modules():
        if next(child.parameters(recurse=False), None) is None:
            continue
        if not hasattr(child, "reset_parameters"):
            raise ValueError(
                f"weights=None asks for random weights, but layer {name!r} of the "
                f"given network, a {type(child).__name__}, has no reset_parameters() "
                "to draw them with."
            )
        child.reset_parameters()
    return module
