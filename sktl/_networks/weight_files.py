"""Files of weights: where they lie, whether they are genuine, what is in them.

Nothing in such a file can run code, and none is used before its digest was compared.
"""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from sktl.exceptions import WeightsMismatchError, WeightsNotAvailableError


@dataclass(frozen=True)
class WeightsFile:
    """Where named weights lie, and the (beginning of the) SHA-256 they must have."""

    path: Path
    sha256: str
    url: str | None = None


def torchvision_file(weights):
    """torchvision puts the first 8 hex digits of the SHA-256 into its file names."""
    name = weights.url.rsplit("/", 1)[-1]
    sha256 = re.search(r"-([0-9a-f]{8,})\.", name).group(1)
    return WeightsFile(Path(name), sha256, weights.url)


def local_file(file):
    """Return the file as it lies on this machine; fetch it where it does not."""
    if file.url is None:
        return file
    path = Path(torch.hub.get_dir()) / "checkpoints" / file.path
    if not path.exists():
        _download(file, path)
    return WeightsFile(path, file.sha256, file.url)


def _download(file, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Writes to a temporary name, checks the hash, then renames.
        torch.hub.download_url_to_file(file.url, str(path), file.sha256)
    except (OSError, RuntimeError) as error:
        raise WeightsNotAvailableError(
            f"The weights {path.name} could not be fetched from {file.url} ({error}). "
            f"Without network, put that file into {path.parent}, or pass "
            "weights=<path of a state dict>, or backbone='sktl_mini', which needs no "
            "download."
        ) from error


def check_digest(file):
    """Return the SHA-256 of a weights file; raise if it is not the one it must have.

    torchvision compares hashes only after a download; a damaged or planted file in
    the cache directory would be loaded. Here every load compares.
    """
    try:
        digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsNotAvailableError(
            f"weights={str(file.path)!r} could not be read ({error}). Pass the path "
            "of a .safetensors or .pth state dict."
        ) from error
    if not digest.startswith(file.sha256):
        raise WeightsNotAvailableError(
            f"The weights in {file.path} are not what they should be: their SHA-256 "
            f"begins with {digest[:16]}, expected {file.sha256[:16]}. The file is "
            "damaged or was replaced; delete it and it is fetched again."
        )
    return digest


def read_state(path, digest):
    """Read tensors; nothing in the file can run code."""
    buffer = path.read_bytes()
    if hashlib.sha256(buffer).hexdigest() != digest:
        raise WeightsMismatchError(
            f"weights={str(path)!r} changed while they were read. Try again."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(buffer)
        state = torch.load(io.BytesIO(buffer), map_location="cpu", weights_only=True)
        return _modern_names(state)
    except Exception as error:
        # Not torch's whole message: it advises to let the file run code.
        reason = str(error).partition(". ")[0]
        raise WeightsMismatchError(
            f"weights={str(path)!r} is not a readable state dict ({reason}). Pass a "
            ".safetensors file, or a .pth file that holds tensors by name and nothing "
            "else: torch.save(network.state_dict(), path)."
        ) from error


def _modern_names(state):
    """Rename as torchvision does for its DenseNet files, which predate module names.

    torchvision/models/densenet.py, `_load_state_dict`.
    """
    old = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def check_fits(network, state, path):
    """Raise unless `state` has what `network` needs, and nothing it does not know.

    The head may be missing or have another number of classes. Counters of batches
    seen by batch norm are not needed: files older than torch 0.4.1 lack them.
    """
    own = network.module.state_dict()
    needed = network.prefix(network.penultimate).state_dict()
    missing = [
        name
        for name in needed
        if name in own and name not in state and "num_batches_tracked" not in name
    ]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} here"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape and not k.startswith(f"{network.head}.")
    ]
    faults = [
        f"{title} ({len(names)}): {'; '.join(sorted(names)[:3])}"
        for title, names in [
            ("missing tensors", missing),
            ("tensors the network does not have", unexpected),
            ("shapes that differ", shapes),
        ]
        if names
    ]
    if faults:
        raise WeightsMismatchError(
            f"weights={str(path)!r} do not fit this backbone. {'. '.join(faults)}. "
            "Pass the backbone these weights were trained with."
        )
