"""Names to networks: built, given their weights, traced and frozen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sktl._networks.given import check_given, given_network, module_architecture
from sktl._networks.kept import keep
from sktl._networks.names import list_backbones, named_architecture
from sktl._networks.preprocessing import Preprocessing, filled, from_plain
from sktl._networks.stages import StagedNetwork
from sktl._networks.weight_files import (
    load_state,
    local_file,
    parse,
    plain_state,
    read_file,
    state_digest,
)
from sktl._utils.torch_state import building, seeded
from sktl.exceptions import UnknownBackboneError, WeightsMismatchError

UNCHANGED = Preprocessing()


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its weights, traced, frozen, and the images it wants.

    `doubt` says why its images may have been prepared otherwise in training; "" where
    that is known. `license`, `source`, `accuracy` (on ImageNet) and `least_size` (in
    pixels, from which on they are of use) are of published weights.
    """

    name: str
    network: StagedNetwork
    preprocessing: Preprocessing
    doubt: str = ""
    license: str | None = None
    source: str | None = None
    accuracy: float | None = None
    least_size: int = 0

    @property
    def digest(self):
        """SHA-256 of everything in the network that decides its output."""
        return self.network.digest


def layer_names(backbone="sktl_photo"):
    """List the layers of a network whose output can be used as features, in order.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_photo"
        A name from `list_backbones()` or a network that `torch.fx` can trace. A named
        network is built with random weights: nothing is downloaded, but the largest
        networks need gigabytes of memory for a moment.

    Returns
    -------
    names : list of str
        Each is accepted by the `layers` parameter of `PretrainedFeatureExtractor`.
        Layers inside a residual or parallel branch are not listed, as later layers need
        more than their output.

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
    weights = "DEFAULT" if isinstance(backbone, torch.nn.Module) else None
    return list(load_backbone(backbone, weights).network.cuts)


def load_backbone(backbone, weights="DEFAULT", *, preprocessing=UNCHANGED, seed=0):
    """Build the network `backbone` with `weights`, in eval mode and frozen.

    Networks are shared within the process: do not train them, copy them.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    weights : "DEFAULT", str, path-like, torchvision weights, state dict or None
    preprocessing : Preprocessing
        What is None in it is as the weights were trained with.
    seed : int
        Decides the random weights when `weights` is None: the same as
        `torch.manual_seed(seed)` before the upstream builder.
    """
    is_given = isinstance(backbone, torch.nn.Module)
    if not is_given and not isinstance(backbone, str):
        raise UnknownBackboneError("backbone", backbone, list_backbones())
    if is_given:
        check_given(backbone)
        architecture = module_architecture(backbone)
    else:
        architecture = named_architecture(backbone)
    prepared = filled(preprocessing, architecture.preprocessing)
    if weights is None:
        build = architecture.build
        network = _kept(architecture, seed, lambda: _untrained(build, seed))
        return Backbone(architecture.name, network, prepared)
    if is_given and isinstance(weights, str) and weights == "DEFAULT":
        with building():
            network = given_network(backbone)
        return Backbone(architecture.name, network, prepared, architecture.doubt)
    return _load_trained(architecture, weights, preprocessing)


def _load_trained(architecture, weights, preprocessing):
    """Build a network with weights of a file or a state dict."""
    found = architecture.find_weights(weights)
    read = _read_dict if isinstance(found, Mapping) else _read_file
    # Without the lock, so that other threads can compute during a download.
    digest, make_state, source, stated = read(found)
    # Published weights are known by their content, under whatever name they lie.
    name = architecture.published_name(found, digest)
    published = architecture.files.get(name)
    preset = architecture.preprocessings.get(name, architecture.preprocessing)
    is_known = published or found in architecture.files.values()
    if stated:
        doubt = ""
    elif architecture.is_named and not is_known:
        doubt = f"{source} are not published weights and do not say"
    else:
        doubt = architecture.doubt
    if published:
        architecture = named_architecture(architecture.name, True)

    def trained():
        build = architecture.build_blank or architecture.build
        network, state = _untrained(build, 0), make_state()
        if published and architecture.convert:
            with seeded(0):
                state = architecture.convert(state)
        load_state(network, state, source)
        return network

    return Backbone(
        architecture.name,
        _kept(architecture, digest, trained),
        filled(preprocessing, stated or preset),
        doubt,
        published and published.license,
        published and published.source,
        published and published.accuracy,
        architecture.least_size if is_known else 0,
    )


def _read_file(file):
    """The digest of a weights file, how to get the tensors in it, and what it says."""
    file = local_file(file)
    digest, content, metadata = read_file(file)
    source = f"weights={str(file.path)!r}"
    stated = _stated_preprocessing(metadata, source)
    return digest, lambda: parse(file.path, digest, content), source, stated


def _read_dict(state):
    source = "weights, a state dict,"
    state = plain_state(state, source)
    return state_digest(state), lambda: state, source, None


def _stated_preprocessing(metadata, source):
    """How images were prepared in training, as sktl wrote it; else None.

    `save` writes it into its manifest, `save_backbone` beside the version of sktl.
    """
    by_sktl = str(metadata.get("sktl", ""))
    try:
        if by_sktl.startswith("{"):
            return from_plain(json.loads(by_sktl)["backbone"]["preprocessing"])
        if by_sktl and "preprocessing" in metadata:
            return from_plain(json.loads(metadata["preprocessing"]))
        return None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsMismatchError(
            f"{source} describe how images are prepared in a way that this version of "
            f"sktl cannot read ({str(error)[:200]}). Save them again with "
            "save_backbone."
        ) from error


def _kept(architecture, what, make):
    # A user's module may have changed by the next call.
    if architecture.is_named:
        return keep((architecture, what), make)
    with building():
        return make()


def _untrained(build, seed):
    """The network as built, often at random; the global generator stays as it was."""
    with seeded(seed):
        return StagedNetwork(build().requires_grad_(False))


def rebuild_backbone(name, expected, preprocessing, state):
    """Rebuild a network from what was saved about it, without its weight files.

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
    for published in (False, True):
        network = _untrained(named_architecture(name, published).build, 0)
        if network.structure == expected:
            network.load(state)
            return Backbone(name, network, preprocessing)
    raise WeightsMismatchError(
        f"The installed torch, torchvision or timm build a {name!r} that differs from "
        "the saved one. Install the versions that it was saved with."
    )
