"""Model files: plain data and tensors in one file that holds nothing to run.

A model file is a `.safetensors` file, which any tool that knows these can look into.
Its metadata have one entry, a manifest in JSON: schema, kind, content, and a SHA-256
of all the rest of the file. One content is written in one way, byte for byte, so a
reader needs no list of what may be wrong: it writes the header once more from what it
read there, and refuses a file in which one byte differs.

The format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import math
import operator
import os
from pathlib import Path

import torch

from sktl._saving.plain_data import decode, encode, to_json
from sktl._utils.atomic import replacing
from sktl.exceptions import ModelFileError

SCHEMA = 1
METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

# Parsed JSON takes up to 30 times its length; 16 MiB are 100 000 labels and more.
LARGEST_HEADER = 2**24
MOST_AXES, LONGEST_AXIS = 64, 2**48


def write_archive(path, kind, content):
    """Write a model file, whole or not at all.

    Whatever happens meanwhile, `path` holds what it held before or the new file.

    Parameters
    ----------
    path : path-like
    kind : str
        What the file is; a reader has to ask for the same.
    content : dict
        What `sktl._saving.plain_data.encode` takes.

    Raises
    ------
    TypeError
        If there is something in `content` that a model file cannot hold.
    OSError
        If the file could not be written. What `path` held before is still there.
    """
    plain, tensors = encode(content)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    specs = {name: _spec(tensor) for name, tensor in tensors.items()}
    _check_can_be_kept(specs)
    parts = [_bytes_of(tensors[name]) for name in _in_order(specs)]
    digest = _digest(kind, plain, specs, parts)
    header = _header(kind, plain, specs, digest)
    if len(header) - 8 > LARGEST_HEADER:
        raise ValueError(
            f"The plain data for {str(path)!r} take {len(header)} bytes; a model file "
            f"holds {LARGEST_HEADER}. Keep long lists of numbers as tensors."
        )
    with replacing(path) as file:
        for part in [header, *parts]:
            file.write(part)


def read_archive(path, kind, fields):
    """Read a model file; nothing in it can run code.

    Parameters
    ----------
    path : path-like
    kind : str
        As it was given to `write_archive`.
    fields : dict of str to type or tuple of types
        What the content has to have, and nothing else.

    Returns
    -------
    content : dict
        As it was given to `write_archive`; all tensors are on the CPU.

    Raises
    ------
    ModelFileError
        If there is no such file, it was changed since it was written, or it is
        something else.
    """
    try:
        content = decode(*_read(Path(path), kind))
        _check_fields(content, fields)
    except ModelFileError:
        raise
    # RuntimeError: nested too deeply; a shape that torch cannot make.
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(
            f"{str(path)!r} is not a model file that can be loaded: {error}. Files "
            "are accepted exactly as sktl wrote them; copy this one again from where "
            "it was saved, or save the model again."
        ) from error
    return content


def check_tensors(tensors, expected, path):
    """Raise unless tensors can be put in the place of others, and hold no NaN.

    Parameters
    ----------
    tensors, expected : dict of str to tensor
        As `state_dict` gives; the first was read from `path`.
    path : path-like

    Raises
    ------
    ModelFileError
        If names, shapes or dtypes differ, or a number is NaN.
    """
    faults = [
        f"{name!r} {fault}"
        for name in sorted(tensors.keys() | expected.keys(), key=str)
        if (fault := _fault(tensors.get(name), expected.get(name)))
    ]
    if faults:
        raise ModelFileError(
            f"{str(path)!r} does not fit the model that its parameters describe, in "
            f"{len(faults)} tensor(s): {'; '.join(faults[:3])}. It was not written by "
            "save, or torchvision has changed this network since."
        )


def _fault(found, expected):
    if found is None or expected is None:
        return "is missing" if found is None else "is not known"
    if not isinstance(found, torch.Tensor):
        return f"is a {type(found).__name__}"
    if _spec(found) != _spec(expected):
        return f"is {_describe(found)}, not {_describe(expected)}"
    return "holds NaN" if found.isnan().any() else None


def _describe(tensor):
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _check_fields(content, fields):
    """Raise unless `content` is a dict with exactly these entries."""
    names = set(content) if isinstance(content, dict) else set()
    if names != fields.keys():
        raise ValueError(
            f"it holds {sorted(map(str, names))[:20]} where {sorted(fields)} belong"
        )
    for name, kind in fields.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"its {name!r} is a {type(content[name]).__name__}")


# ---- the format


def _in_order(specs):
    """Large items first, so that each lies at a multiple of its size."""
    return sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))


def _header(kind, plain, specs, digest=""):
    """The length in 8 bytes, and the JSON that says what lies where."""
    manifest = {"schema": SCHEMA, "kind": kind, "content": plain, "sha256": digest}
    entries = {METADATA: {"sktl": to_json(manifest)}}
    end = 0
    for name in _in_order(specs):
        dtype, shape = specs[name]
        start, end = end, end + _n_bytes(dtype, shape)
        entries[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _spec(tensor):
    return tensor.dtype, tuple(tensor.shape)


def _check_can_be_kept(specs):
    for name, (dtype, _) in specs.items():
        if dtype not in CODES or name == METADATA:
            raise TypeError(
                f"The tensor {name!r} of dtype {dtype} cannot be kept in a model file. "
                f"Its dtype must be one of {', '.join(map(str, CODES))}."
            )


def _n_bytes(dtype, shape):
    return dtype.itemsize * math.prod(shape)


def _bytes_of(tensor):
    """The memory of a contiguous tensor, not a copy. NumPy has no bfloat16."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _digest(kind, plain, specs, parts):
    """SHA-256 of the file as it would be without a digest."""
    digest = hashlib.sha256(_header(kind, plain, specs))
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read(path, kind):
    """Return the plain data and tensors of a file after everything was checked."""
    if not path.is_file():
        raise ValueError("there is no such file, or it is a folder or a device")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"a header of {length} bytes is announced in {size} bytes")
        header = start + file.read(length)
        plain, specs, digest = _parse(header[8:], path, kind)
        if _header(kind, plain, specs, digest) != header:
            raise ValueError("its header is not written as sktl writes it")
        # Only now is as much memory taken as the header asks for.
        if len(header) + sum(_n_bytes(*spec) for spec in specs.values()) != size:
            raise ValueError(f"its tensors and its {size} bytes do not match")
        tensors = {name: torch.empty(s, dtype=d) for name, (d, s) in specs.items()}
        parts = [_bytes_of(tensors[name]) for name in _in_order(specs)]
        if not all(file.readinto(part) == len(part) for part in parts):
            raise ValueError("it was cut off while it was read")
    if _digest(kind, plain, specs, parts) != digest:
        raise ValueError("its SHA-256 differs from when it was written")
    return plain, tensors


def _parse(text, path, kind):
    """Take a header apart; that each part is in its place is checked by `_read`."""
    try:
        entries = json.loads(text)
        manifest = json.loads(entries.pop(METADATA)["sktl"])
        _check_readable(manifest["schema"], manifest["kind"], path, kind)
        specs = {
            name: (DTYPES[entry["dtype"]], _shape(entry["shape"]))
            for name, entry in entries.items()
        }
        return manifest["content"], specs, manifest["sha256"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ValueError("it does not begin with a header of sktl") from error


def _shape(sizes):
    shape = tuple(map(operator.index, sizes))
    if len(shape) > MOST_AXES or not all(0 <= n < LONGEST_AXIS for n in shape):
        raise ValueError("no tensor has this shape")
    return shape


def _check_readable(schema, found, path, kind):
    if schema > SCHEMA:
        raise ModelFileError(
            f"{str(path)!r} has schema {schema}, and this version of sktl reads "
            f"{SCHEMA}. Update sktl: pip install --upgrade sktl."
        )
    if found != kind:
        raise ModelFileError(
            f"{str(path)!r} holds {str(found)[:50]!r}, and {kind!r} was asked for. "
            "Load it with the class that saved it."
        )
