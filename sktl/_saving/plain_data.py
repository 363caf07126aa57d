"""Parameters as JSON and back: which of Python's values a model file can hold.

What JSON has stands for itself. Any other value is a dict with one entry, from the name
of its form to plain data: `{"tuple": [3, 4]}`. Names of classes are looked up in a
fixed table: nothing is imported, called or unpickled because a file says so.
"""

import functools
import json
import re
from dataclasses import asdict
from pathlib import Path, PurePath

import numpy as np
import torch
from torchvision.models import WeightsEnum, get_weight

from sktl._networks.preprocessing import Preprocessing

# Bytes: "<U1000000000" makes a large array of one short label.
LARGEST_ARRAY = 2**26
# Numbers: weights of classes, not of networks, which JSON would take minutes for.
LARGEST_TENSOR = 2**16

DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
CLASSES = {
    f"{module.__name__}.{name}": value
    for module, base, ending in [
        (torch.optim, torch.optim.Optimizer, ""),
        (torch.nn, torch.nn.Module, "Loss"),
        (torch.utils.data, torch.utils.data.DataLoader, ""),
    ]
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, base) and name.endswith(ending)
}
CLASS_NAMES = {value: name for name, value in CLASSES.items()}


def encode(value, where=""):
    """Turn a value into plain data.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, a path, a dtype or device of torch, a weights
        entry of torchvision, a `Preprocessing`, an optimizer or loss class of torch, a
        NumPy scalar, a small tensor; or a list, tuple or dict of all.
    where : str
        The name of the value, for the message of the error.

    Raises
    ------
    TypeError
        If there is something else in it; the message says where.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        items = [encode(item, f"{where}.{i}") for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict:
        pairs = value.items()
        return {
            "dict": [[encode(k, where), encode(v, f"{where}.{k}")] for k, v in pairs]
        }
    try:
        for form, (base, to_plain, _) in FORMS.items():
            if isinstance(value, base):
                return {form: to_plain(value)}
    except (KeyError, ValueError, RuntimeError) as error:
        raise TypeError(_refusal(value, where)) from error
    raise TypeError(_refusal(value, where))


def decode(plain):
    """Turn what `encode` gave into the value it was given.

    Raises
    ------
    ValueError
        If this is not what `encode` gives for any value.
    """
    return _taken_back(plain, _decode, encode)


def _taken_back(plain, decode, encode):
    try:
        value = decode(plain)
        # A value is written in one way only. That settles all other questions: a
        # number that was rounded, a key there twice, a class by another name.
        same = json.dumps(encode(value)) == json.dumps(plain)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not same:
        raise ValueError("its values are not written in the way sktl writes them")
    return value


def _decode(plain):
    if isinstance(plain, list):
        return [_decode(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((form, payload),) = plain.items()
    if form == "tuple":
        return tuple(_decode(payload))
    if form == "dict":
        return dict(_decode(payload))
    return FORMS[form][2](payload)


def encode_array(array):
    """Turn an array, of labels for instance, into plain data."""
    dtype = _dtype_of(array.dtype.str)
    items = array.view(f"{dtype.str[0]}i8") if dtype.kind in "Mm" else array
    plain = [encode(item) for item in items.ravel().tolist()]
    return [dtype.str, list(array.shape), plain]


def decode_array(plain):
    """Turn what `encode_array` gave into the array it was given; errors as `decode`."""
    return _taken_back(plain, _decode_array, encode_array)


def _decode_array(plain):
    text, shape, items = plain
    dtype = _dtype_of(text)
    if dtype.itemsize * len(items) > LARGEST_ARRAY:
        raise ValueError(f"an array of {len(items)} items of dtype {text!r}")
    items = [_decode(item) for item in items]
    if dtype.kind in "Mm":
        array = np.fromiter(items, f"{text[0]}i8", len(items)).view(dtype)
    else:
        array = np.fromiter(items, dtype, len(items))
    return array.reshape(shape)


def _dtype_of(text):
    # Not longdouble, whose numbers JSON lacks, and nothing made of fields.
    if not re.fullmatch(r"[<>|]([bO]|[biu][1248]|f[248]|U\d+|[Mm]8(\[\w+\])?)", text):
        raise ValueError(f"arrays of dtype {text!r} are not kept")
    return np.dtype(text)


def _scalar_to_plain(scalar):
    dtype = _dtype_of(scalar.dtype.str)
    return [dtype.str, (scalar.view("i8") if dtype.kind in "Mm" else scalar).item()]


def _plain_to_scalar(plain):
    dtype, item = _dtype_of(plain[0]), plain[1]
    return np.int64(item).view(dtype) if dtype.kind in "Mm" else dtype.type(item)


def _tensor_to_plain(tensor):
    if tensor.is_complex() or tensor.layout != torch.strided:
        raise ValueError("JSON has no such numbers")
    if tensor.numel() > LARGEST_TENSOR:
        raise ValueError(f"{tensor.numel()} numbers")
    return [str(tensor.dtype).removeprefix("torch."), tensor.tolist()]


@functools.cache
def _weights_of(name):
    weights = get_weight(name)
    if not isinstance(weights, WeightsEnum):
        raise ValueError(f"{name!r} names no weights of torchvision")
    return weights


# Name: (type, from the value to plain data, and back).
FORMS = {
    "path": (PurePath, str, Path),
    "dtype": (
        torch.dtype,
        lambda dtype: str(dtype).removeprefix("torch."),
        DTYPES.__getitem__,
    ),
    "device": (torch.device, str, torch.device),
    "class": (type, CLASS_NAMES.__getitem__, CLASSES.__getitem__),
    "weights": (WeightsEnum, str, _weights_of),
    "preprocessing": (Preprocessing, asdict, lambda plain: Preprocessing(**plain)),
    "scalar": (np.generic, _scalar_to_plain, _plain_to_scalar),
    "tensor": (
        torch.Tensor,
        _tensor_to_plain,
        lambda plain: torch.tensor(plain[1], dtype=DTYPES[plain[0]]),
    ),
}


def _refusal(value, where):
    named = getattr(value, "__name__", f"a {type(value).__name__}")
    return (
        f"{where or 'This'} is {named}, which a model file cannot hold. It holds None, "
        "bools, numbers, strings, paths, lists, tuples, dicts, small tensors, dtypes, "
        "devices, torchvision's weights, Preprocessing, and torch's optimizer and loss "
        "classes. Set it to one of these before saving, or save the estimator with "
        "joblib.dump, for use only where that file is trusted. save_backbone saves the "
        "weights of any network."
    )
