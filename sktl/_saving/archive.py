"""Model files: tensors and JSON in one file that holds nothing to run.

A model file is a `.safetensors` file, which any tool that knows these can look into.
Its metadata have one entry, a manifest in JSON, which begins with the SHA-256 of the
whole file, computed with zeros in the place of the digest. The library of that name
checks where tensors lie, and nothing else.

The format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from sktl._utils.atomic import replacing
from sktl._utils.file_state import seen_from
from sktl.exceptions import ModelFileError

SCHEMA = 4
NO_DIGEST = "0" * 64
CURE_OF_WEIGHTS = (
    "if it holds a network's weights, pass it as weights, or, if save_params wrote it, "
    "use load_params"
)
NOT_LOADED = "{!r} is not a model file that can be loaded"
# How files begin that are taken for model files: not with the length of a header.
OTHER_FILES = {
    b"PK": f"a zip archive, such as torch.save writes; {CURE_OF_WEIGHTS}",
    b"\x80": "a pickle: if you trust it, load it with what wrote it, such as joblib",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"sktl che": "a checkpoint, which fit goes on from: pass it as checkpoint",
}
# Parsed JSON takes up to 30 times its length; 16 MiB are 100 000 labels and more.
LARGEST_HEADER = 2**24


def write_archive(path, kind, manifest, tensors):
    """Write a model file, whole or not at all.

    Whatever happens meanwhile, `path` holds what it held before or the new file.

    Parameters
    ----------
    path : path-like
    kind : str
        What the file is; a reader has to ask for the same.
    manifest : dict
        What JSON can hold.
    tensors : dict of str to tensor

    Raises
    ------
    ValueError
        If the manifest is too long for a file's header.
    OSError
        If the file could not be written. What `path` held before is still there.
    """
    manifest = {"sha256": NO_DIGEST, "schema": SCHEMA, "kind": kind} | manifest
    whole = to_bytes(tensors, {"sktl": json.dumps(manifest)})
    length = 8 + int.from_bytes(whole[:8], "little")
    if length > LARGEST_HEADER:
        raise ValueError(
            f"The parameters, labels and history for {str(path)!r} take {length} "
            f"bytes; a model file can hold at most {LARGEST_HEADER}. Save the "
            "estimator with joblib.dump, for use only where that file is trusted."
        )
    digest = hashlib.sha256(whole).hexdigest()
    with replacing(path) as file:
        file.write(_with_digest(whole[:length], NO_DIGEST, digest))
        file.write(memoryview(whole)[length:])


def to_bytes(tensors, metadata):
    """Write as safetensors; tensors may lie anywhere, and share memory."""
    # The library refuses tensors that share memory: read, they would be separate.
    as_copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(as_copies, metadata)


def read_archive(path, kind, fields):
    """Read a model file; nothing in it can run code.

    Parameters
    ----------
    path : path-like
    kind : str
        As it was given to `write_archive`.
    fields : iterable of str
        The keys that the manifest has to have.

    Returns
    -------
    manifest : dict
    tensors : dict of str to tensor
        On the CPU.

    Raises
    ------
    ModelFileError
        If there is no such file, it was changed since it was written, or it is
        something else.
    """
    try:
        manifest, tensors = _read(Path(os.path.expanduser(path)), kind)
        if manifest.keys() != {*fields}:
            raise ValueError(f"it holds {sorted(manifest)} instead of {[*fields]}")
    except ModelFileError:
        raise
    except OSError as error:  # it could not be opened
        raise ModelFileError(
            f"{NOT_LOADED.format(str(path))}: {str(error)[:300]}."
        ) from error
    # RuntimeError: nested too deeply; a shape that torch cannot make.
    except (
        ValueError,
        RuntimeError,
        MemoryError,
        safetensors.SafetensorError,
    ) as error:
        raise ModelFileError(
            f"{NOT_LOADED.format(str(path))}: {str(error)[:300]}. Files must be "
            "exactly as sktl wrote them: copy this one again from where it was saved, "
            "or save the model again."
        ) from error
    return manifest, tensors


def _read(path, kind):
    if path.is_dir():
        raise OSError("it is a folder")
    if not path.exists():
        raise OSError(f"there is no such file{seen_from(path)}")
    if not path.is_file():
        raise OSError("it is a pipe, or it is a device")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin = file.read(9)
        length = int.from_bytes(begin[:8], "little")
        if length > min(size - 8, LARGEST_HEADER):
            _refuse(path, begin, f"its {size} bytes cannot hold a header of {length}")
        file.seek(8)
        manifest, end = _parse(file.read(length))
        _check_readable(manifest, path, kind)
        # Only now is the whole file read into memory.
        if 8 + length + end != size:
            raise ValueError(f"its tensors and its {size} bytes do not match")
        file.seek(0)
        whole = file.read()
    digest = hashlib.sha256(_with_digest(whole[: 8 + length], manifest["sha256"]))
    digest.update(memoryview(whole)[8 + length :])
    if digest.hexdigest() != manifest["sha256"]:
        raise ValueError("its SHA-256 differs from when it was written")
    for name in ("sha256", "schema", "kind"):
        del manifest[name]
    return manifest, safetensors.torch.load(whole)


def _refuse(path, begin, why):
    """Say what begins like this; `why` is for what is not another kind of file."""
    for start, kind in OTHER_FILES.items():
        if begin.startswith(start):
            raise ModelFileError(f"{NOT_LOADED.format(str(path))}: it is {kind}.")
    if not begin:
        raise ValueError("it is empty")
    what = "cut off" if begin[8:] == b"{" else "not a file of sktl"
    raise ValueError(f"it is {what} ({why})")


def _with_digest(header, old, new=NO_DIGEST):
    # The first match: the digest comes before anything that may look like it.
    return header.replace(old.encode(), new.encode(), 1)


def _parse(header):
    """Return the manifest, and where the last tensor ends."""
    try:
        entries = json.loads(header)
        manifest = json.loads(entries.pop("__metadata__")["sktl"])
        manifest["sha256"].encode(), manifest["kind"], manifest["schema"] + 0
        ends = [entry["data_offsets"][1] + 0 for entry in entries.values()]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = "it does not begin with a header of sktl"
        raise ValueError(f"{what}; {CURE_OF_WEIGHTS}") from error
    return manifest, max(ends, default=0)


def _check_readable(manifest, path, kind):
    schema, found = manifest["schema"], manifest["kind"]
    if schema > SCHEMA:
        raise ModelFileError(
            f"{str(path)!r} was saved by a later version of sktl (schema {schema}; "
            f"this one reads {SCHEMA}). Install that version of sktl."
        )
    if schema < SCHEMA:
        raise ModelFileError(
            f"{str(path)!r} was saved by an earlier version of sktl (schema "
            f"{schema}), which this one cannot read. Fit the model again and save it."
        )
    if found != kind:
        raise ModelFileError(
            f"{str(path)!r} holds a {str(found)[:50]!r}, not a {kind!r}. Load it with "
            "the class that saved it."
        )
