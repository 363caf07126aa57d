"""Weights: where they lie, whether they are genuine, what is in them, what they fit.

Nothing in a file of weights can run code, and none is used before its digest was
compared.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import safetensors.torch
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from sktl._utils.atomic import replacing
from sktl._utils.file_state import file_state, is_settled, seen_from
from sktl._utils.printable import shown
from sktl.exceptions import WeightsMismatchError, WeightsNotAvailableError

SILENCE = 30  # seconds without a byte, after which a server is given up
# Names under which training scripts keep the state dict beside other things. Where one
# keeps several, the first of these is meant.
WRAPPERS = ("state_dict", "model_state_dict", "model")
MOST_WRAPPERS = 4  # around one another; a file may hold itself


@dataclass(frozen=True)
class WeightsFile:
    """Where named weights lie, and the (beginning of the) SHA-256 they must have.

    `hub` is a repository of the Hugging Face hub, and `license` what it says of them.
    `accuracy` is that on ImageNet-1K, as published.
    """

    path: Path
    sha256: str = ""
    url: str | None = None
    hub: str | None = None
    license: str | None = None
    accuracy: float | None = None

    @property
    def source(self):
        """Where it was published; None where it was not."""
        return f"https://huggingface.co/{self.hub}" if self.hub else self.url


def torchvision_file(weights):
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    accuracy = metrics["acc@1"] / 100 if "acc@1" in metrics else None
    return hashed_file(weights.url, accuracy=accuracy)


def hashed_file(url, **known):
    """A file named by the start of its SHA-256, as torchvision and timm do it."""
    name = url.rsplit("/", 1)[-1]
    found = re.search(r"-([0-9a-f]{8,})\.", name)
    return WeightsFile(Path(name), found[1] if found else "", url, **known)


# ---- from the network


def refuse_url(weights):
    """Refuse a URL in place of a path, before it is written like a path."""
    text = os.fspath(weights)
    # One slash, as pathlib leaves it; two letters, as one is a drive of Windows.
    if re.match(r"[a-zA-Z][\w+.-]+:/", text) and not os.path.exists(text):
        raise WeightsNotAvailableError(
            f"weights={text!r} could not be read (no such file; it is a URL, which is "
            "not fetched: download it). Pass the path of a .safetensors or .pth state "
            "dict (of file://, the path alone)."
        )


def local_file(file):
    """Return the file on this machine; fetch it if it is not there."""
    if file.hub:
        return _hub_file(file)
    if file.url is None:
        return file
    path = Path(torch.hub.get_dir()).expanduser() / "checkpoints" / file.path
    if not os.path.exists(path):
        _download(file, path)
    return WeightsFile(path, file.sha256, file.url)


def _hub_file(file):
    """The file in the hub's cache, with the SHA-256 that the hub gives it."""
    try:
        path = _from_cache(file) or _from_hub(file)
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsNotAvailableError(
            f"The weights {file.path} could not be downloaded from {file.source} "
            f"({type(error).__name__}: {str(error)[:300]}). If you are offline, fetch "
            "that file elsewhere and pass weights=<its path>, or "
            "backbone='sktl_mini' or 'sktl_photo', which need no download."
        ) from error
    # The cache names large files by their SHA-256, and links to them.
    name = os.path.basename(os.path.realpath(path))
    sha256 = name if re.fullmatch("[0-9a-f]{64}", name) else ""
    return WeightsFile(Path(path), sha256, hub=file.hub)


def _from_cache(file):
    """The path in the hub's cache, found without asking the hub; None if missing."""
    import huggingface_hub as hub

    repo, _, revision = file.hub.partition("@")
    for name in _names_on_hub(file):
        path = hub.try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(path, str):
            return path
    return None


def _from_hub(file):
    from huggingface_hub import errors, hf_hub_download

    repo, _, revision = file.hub.partition("@")
    *others, last = _names_on_hub(file)
    for name in others:
        with contextlib.suppress(errors.RemoteEntryNotFoundError):
            return hf_hub_download(repo, name, revision=revision or None)
    return hf_hub_download(repo, last, revision=revision or None)


def _names_on_hub(file):
    """Names to look for: older repositories have their weights in another form."""
    is_usual = file.path == "model.safetensors"
    return [file.path, "pytorch_model.bin"] if is_usual else [file.path]


def _download(file, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = Request(file.url, headers={"User-Agent": "sktl"})
        with urlopen(request, timeout=SILENCE) as answer, replacing(path) as target:
            _copy(answer, target, file)
    # Servers that break off, or speak no HTTP, raise HTTPException; odd URLs and
    # headers ValueError.
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsNotAvailableError(
            f"The weights {path.name} could not be downloaded from {file.url} "
            f"({type(error).__name__}: {error}). If you are offline, put that file "
            f"into {path.parent}, or pass weights=<path of a state dict>, or "
            "backbone='sktl_mini' or 'sktl_photo', which need no download."
        ) from error


def _copy(answer, target, file):
    """Write what a server sends, and compare its digest."""
    digest, n_bytes, name = hashlib.sha256(), 0, file.path.name
    with tqdm(total=answer.length, unit="B", unit_scale=True, desc=name) as bar:
        # read1 returns what has arrived, so that the bar moves with a slow server.
        while chunk := answer.read1(2**20):
            target.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            n_bytes += len(chunk)
    if not digest.hexdigest().startswith(file.sha256):
        raise OSError(
            f"what it sent, {n_bytes} bytes, has the SHA-256 "
            f"{digest.hexdigest()[:16]}..., not {file.sha256}..."
        )


# ---- from the disk


_digests = {}  # path -> (state of the file, digest, metadata)


def read_file(file):
    """Return the SHA-256 of a weights file and, if it was read for that, its bytes.

    A file is read once in a process, and again when it changed: torchvision compares
    hashes only after a download, and a damaged or planted file in the cache directory
    would be loaded. Here none is used whose digest is not the one it must have.

    Returns
    -------
    digest : str
    content : bytes or None
        None where the digest was known.
    metadata : dict of {str: str}
        What a file in the format of safetensors says of its tensors.
    """
    content = None
    try:
        state = _file_state(file.path)
        known, digest, metadata = _digests.get(file.path, (None, None, None))
        if known != state:
            content = file.path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            metadata = _metadata(content) if _is_safetensors(file.path) else {}
            if _file_state(file.path) == state and is_settled(state):
                _digests[file.path] = state, digest, metadata
    except OSError as error:
        raise WeightsNotAvailableError(
            f"weights={str(file.path)!r} could not be read ({error})"
            f"{seen_from(file.path)}. Pass the path of a .safetensors or .pth state "
            "dict."
        ) from error
    except ValueError as error:
        raise WeightsMismatchError(
            f"weights={str(file.path)!r} is not the name of a file ({error}). Pass the "
            "path of a .safetensors or .pth state dict."
        ) from error
    if not digest.startswith(file.sha256):
        # In the hub's cache this is a link, which would come back to the same file.
        path = os.path.realpath(file.path)
        cure = "delete it, and it will be downloaded again"
        if not (file.url or file.hub):
            cure = "it came with sktl: install sktl again"
        raise WeightsNotAvailableError(
            f"The weights in {path} are not as published: their SHA-256 begins with "
            f"{digest[:16]}, expected {file.sha256[:16]}. The file is damaged or was "
            f"replaced; {cure}."
        )
    return digest, content, metadata


def _metadata(content):
    """Read metadata; the library does so from files only, which may have changed."""
    try:
        size = int.from_bytes(content[:8], "little")
        return dict(json.loads(content[8 : 8 + size]).get("__metadata__", {}))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}  # whoever reads the tensors will say what is wrong with the file


def _is_safetensors(path):
    return Path(path).suffix == ".safetensors"


def _file_state(path):
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is a folder, a pipe or a device, not a file")
    return file_state(found)


def parse(path, digest, content=None):
    """Read tensors by name from a file; nothing in it can run code.

    Parameters
    ----------
    path : Path
    digest : str
        The SHA-256 that it was accepted with.
    content : bytes, default=None
        What it holds, where that was just read.
    """
    if content is None:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise WeightsMismatchError(
                f"weights={str(path)!r} changed while they were read. Try again."
            )
    try:
        if _is_safetensors(path):
            state = safetensors.torch.load(content)
        else:
            file = io.BytesIO(content)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Not torch's whole message: it advises to let the file run code.
        reason = str(error).partition(". ")[0] or type(error).__name__
        reason = reason if content else "it is empty, 0 bytes"
        raise WeightsMismatchError(
            f"weights={str(path)!r} is not a readable state dict ({reason}). Pass a "
            ".safetensors file, or a .pth file that holds tensors by name and nothing "
            "else: torch.save(network.state_dict(), path)."
        ) from error
    return plain_state(state, f"weights={str(path)!r}")


# ---- state dicts


def plain_state(state, source):
    """Return the tensors of a state dict by name, taken out of what is around them.

    Parameters
    ----------
    state : object
        As a file or a user gave it.
    source : str
        What to call it in errors.

    Raises
    ------
    WeightsMismatchError
        If it holds anything else than plain tensors of real numbers.
    """
    state = _unwrapped(state, source)
    faults = [] if isinstance(state, Mapping) and state else [reprlib.repr(state)]
    for name, tensor in () if faults else state.items():
        fault = _fault(tensor) if isinstance(name, str) else "a name that is no text"
        faults += [f"{shown(name)} is {fault}"] if fault else []
    if faults:
        raise WeightsMismatchError(
            f"{source} is not a state dict: {'; '.join(faults[:3])}. Pass tensors by "
            "name: network.state_dict(), or the path of a file that holds it."
        )
    return {_modern_name(name): tensor.detach().cpu() for name, tensor in state.items()}


def _unwrapped(state, source):
    """Take a state dict out of what a training script saved around it."""
    for _ in range(MOST_WRAPPERS):
        if not isinstance(state, Mapping):
            break
        known = [k for k in WRAPPERS if isinstance(state.get(k), Mapping)][:1]
        found = known or [k for k, value in state.items() if _is_state(value)]
        if len(found) > 1:
            raise WeightsMismatchError(
                f"{source} holds several state dicts: {shown(found)}. Pass one "
                f"of them, as torch.load(path)[{found[0]!r}]."
            )
        if not found:
            break
        state = state[found[0]]
    return state


def _is_state(value):
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def _fault(tensor):
    """What keeps a value from being a plain tensor of real numbers."""
    if not isinstance(tensor, torch.Tensor):
        return f"{reprlib.repr(tensor)}, which is not a tensor"
    if tensor.is_meta:
        return "a tensor without numbers, on the device 'meta'"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"a tensor in the layout {tensor.layout}; make it dense"
    if tensor.is_quantized or tensor.is_complex():
        return f"a tensor of {tensor.dtype}; make it float32"
    return ""


def _modern_name(name):
    """Rename as torchvision does for its DenseNet files, which predate module names.

    torchvision/models/densenet.py, `_load_state_dict`.
    """
    old = r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)"
    return re.sub(rf"^{old}$", r"\1\2", name)


def state_digest(state):
    """SHA-256 of names and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name!r} {array.dtype} {tuple(array.shape)}".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_state(network, state, source):
    """Give a network the weights of a state dict that has all it needs.

    What a training script put before all names is taken off. The head may be missing
    or have another number of classes: then the network has none. Counters of batches
    seen by batch norm are not needed: files older than torch 0.4.1 lack them.

    Parameters
    ----------
    network : StagedNetwork
        Nobody else's: its weights are overwritten.
    state : dict of {str: torch.Tensor}
    source : str
        What to call it in errors.

    Raises
    ------
    WeightsMismatchError
        If tensors are missing, unknown or of another shape; or hold what is no number,
        or a negative variance.
    """
    own = network.module.state_dict()
    state = _without_prefix(state, own, source)
    needed = network.prefix(network.penultimate).state_dict()
    missing = [
        name
        for name in needed
        if name in own and name not in state and "num_batches_tracked" not in name
    ]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} here"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
        and not any(k.startswith(f"{head}.") for head in network.heads)
    ]
    whole = [
        name
        for name in own.keys() & state.keys()
        if own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    faults = [
        f"{title} ({len(names)}): {'; '.join(sorted(names)[:3])}"
        for title, names in [
            ("missing tensors", missing),
            ("tensors the network does not have", state.keys() - own.keys()),
            ("shapes that differ", shapes),
            ("tensors with impossible values", impossible(network.module, state)),
            ("tensors of whole numbers, as of a quantised network", whole),
        ]
        if names
    ]
    if faults:
        raise WeightsMismatchError(
            f"{source} do not fit this backbone. {'. '.join(faults)}. "
            "Pass the backbone these weights were trained with."
        )
    network.load(state)


def _without_prefix(state, own, source):
    """Take off what is before all names of the network, as `module.` or `model.net.`.

    What has another name belongs to what the network was a part of.
    """
    prefixes = Counter(
        name[: dot.end()]
        for name in state
        for dot in re.finditer(r"^|\.", name)
        if name[dot.end() :] in own
    )
    # Some names of parts ("0.weight") are in any network.
    fitting = [p for p, n in prefixes.most_common() if n > len(own) / 2]
    if "" in fitting:
        return state
    if len(fitting) > 1:
        raise WeightsMismatchError(
            f"{source} hold this network more than once, under {fitting[0]!r} and "
            f"{fitting[1]!r}. Pass one of them: {{name.removeprefix({fitting[0]!r}): "
            f"tensor for name, tensor in state.items() if "
            f"name.startswith({fitting[0]!r})}}."
        )
    for prefix in fitting:
        own_state = {k: v for k, v in state.items() if k.startswith(prefix)}
        state = {k.removeprefix(prefix): v for k, v in own_state.items()}
    return state


def impossible(module, state):
    """Names of tensors with NaN or infinity, and of variances below zero."""
    norms = [n for n, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    variances = {f"{name}.running_var" for name in norms}
    return [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not _is_possible(tensor, name in variances)
    ]


def _is_possible(tensor, is_variance):
    numbers = tensor.float()  # as the network will hold them
    return bool(numbers.isfinite().all() and not (is_variance and numbers.lt(0).any()))
