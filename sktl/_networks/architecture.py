"""What is known of a network before it is built: how to build and feed it, weights."""

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike
from pathlib import Path

import torch

from sktl._networks.preprocessing import Preprocessing
from sktl._networks.weight_files import WeightsFile, refuse_url
from sktl.exceptions import WeightsMismatchError


@dataclass(frozen=True, eq=False)
class Architecture:
    """A way to build a network, and where its weights are."""

    name: str
    build: Callable[[], torch.nn.Module]  # draws random weights from torch's generator
    preprocessing: Preprocessing
    files: dict[str, WeightsFile] = field(default_factory=dict)
    preprocessings: dict[str, Preprocessing] = field(default_factory=dict)
    is_named: bool = True  # else it is a user's module, which may change
    doubt: str = ""  # why `preprocessing` is a guess, where it is one
    least_size: int = 0  # pixels from which on published weights are of use
    # As `build`, where all weights will be overwritten: a user's module may not know
    # how to draw random ones.
    build_blank: Callable[[], torch.nn.Module] | None = None
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
        if isinstance(weights, str | PathLike):
            refuse_url(weights)
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
