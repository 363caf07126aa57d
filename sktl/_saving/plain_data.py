"""Python values as plain data and tensors, and back: what a model file can hold.

Plain data are what JSON has: None, bools, ints, finite floats, strings, lists. Any
other value is a dict with one entry, from the name of its form to plain data:
`{"tuple": [3, 4]}`. Names of classes are looked up in a fixed table; nothing is
imported, called or unpickled because a file says so.
"""

import functools
import json
import math
import re
from collections import Counter, OrderedDict
from pathlib import Path, PurePath

import numpy as np
import torch
from torchvision.models import WeightsEnum, get_weight

# Bytes of all arrays together: "<U1000000000" makes a large array of one short label.
LARGEST_ARRAYS = 2**26

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


def to_json(plain):
    """Write plain data in the one way that is accepted back: ASCII, nothing spare."""
    return json.dumps(plain, allow_nan=False, separators=(",", ":"), sort_keys=True)


def encode(content):
    """Turn a value into plain data and the tensors that are in it.

    Parameters
    ----------
    content : object
        None, bool, int, float, str, a path, a dtype or device of torch, a weights
        entry of torchvision, an optimizer or loss class of torch, a NumPy scalar or
        1-D array, a Counter of these, a tensor; or a list, tuple or dict of all.

    Returns
    -------
    plain : object
    tensors : dict of str to tensor
        Named by where they stand in `content`: `"optimizer.state.0.exp_avg"`.

    Raises
    ------
    TypeError
        If there is something else in it; the message says where.
    ValueError
        If the arrays are too large.
    """
    tensors = {}
    plain = _encode(content, "", tensors)
    _check_size(plain)
    return plain, tensors


def decode(plain, tensors):
    """Turn what `encode` gave into the value it was given.

    Dicts keep their order, arrays their dtype, and four-dimensional tensors whether
    they lie in memory as channels_last.

    Raises
    ------
    ValueError
        If this is not what `encode` gives for any value.
    """
    try:
        _check_size(plain)
        unused = dict(tensors)
        content = _decode(plain, unused)
        # A value is written in one way only. That settles all other questions: a
        # string cut off by its dtype, a key there twice, a name of another place.
        plain_again, _ = encode(content)
        same = to_json(plain_again) == to_json(plain)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if unused or not same:
        raise ValueError("its values are not written in the way sktl writes them")
    return content


# ---- single values


def _encode_single(value):
    """What is neither a container nor a tensor; this is what keys and items can be."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    for form, (kind, to_plain, _) in FORMS.items():
        if isinstance(value, kind):
            return {form: to_plain(value)}
    raise TypeError(f"there is no form for a {type(value).__name__}")


def _dtype_of(text):
    # Not longdouble, whose numbers have no form here, and nothing made of fields.
    if not re.fullmatch(r"[<>|]([bO]|[biu][1248]|f[248]|U\d+|[Mm]8(\[\w+\])?)", text):
        raise ValueError(f"arrays of dtype {text!r} are not kept")
    return np.dtype(text)


def _check_size(plain):
    n_bytes = sum(_dtype_of(text).itemsize * len(i) for text, i in _arrays_in(plain))
    if n_bytes > LARGEST_ARRAYS:
        raise ValueError(
            f"The arrays take {n_bytes} bytes; a model file holds {LARGEST_ARRAYS} "
            "besides its tensors. Pass large ones as tensors: torch.from_numpy(array)."
        )


def _arrays_in(plain):
    if isinstance(plain, dict):
        ((form, plain),) = plain.items()
        if form in ("array", "scalar"):
            yield plain
    if isinstance(plain, list):
        for item in plain:
            yield from _arrays_in(item)


def _array_to_plain(array):
    """The dtype and the items, in Python's own types; times as integers."""
    if array.ndim != 1 or isinstance(array, np.ma.MaskedArray):
        raise ValueError(
            f"its shape is {array.shape}; 1-D arrays without mask are kept"
        )
    _dtype_of(array.dtype.str)
    text = array.dtype.str
    items = array.view(f"{text[0]}i8") if array.dtype.kind in "Mm" else array
    return [text, [_encode_single(item) for item in items.tolist()]]


def _plain_to_array(plain):
    text, items = plain
    dtype = _dtype_of(text)
    items = [_decode(item, {}) for item in items]
    if dtype.kind in "Mm":
        return np.fromiter(items, f"{text[0]}i8", len(items)).view(dtype)
    return np.fromiter(items, dtype, len(items))


def _scalar_to_plain(scalar):
    array = np.array([scalar])
    if isinstance(scalar, str) and array[0] != scalar:
        raise ValueError("its last character is NUL, which NumPy's arrays leave out")
    return _array_to_plain(array)


@functools.cache
def _weights_of(name):
    weights = get_weight(name)
    if not isinstance(weights, WeightsEnum):
        raise ValueError(f"{name!r} names no weights of torchvision")
    return weights


# Name: (type, from the value to plain data, and back).
FORMS = {
    "path": (PurePath, str, Path),
    # As torch's MultiStepLR has it: each item as often as it counts.
    "counter": (
        Counter,
        lambda counter: [_encode_single(item) for item in counter.elements()],
        lambda items: Counter(_decode(item, {}) for item in items),
    ),
    "dtype": (
        torch.dtype,
        lambda dtype: str(dtype).removeprefix("torch."),
        DTYPES.__getitem__,
    ),
    "device": (torch.device, str, torch.device),
    "class": (type, CLASS_NAMES.__getitem__, CLASSES.__getitem__),
    "weights": (WeightsEnum, str, _weights_of),
    "array": (np.ndarray, _array_to_plain, _plain_to_array),
    "scalar": (
        np.generic,
        _scalar_to_plain,
        lambda plain: _plain_to_array(plain)[0],
    ),
}


# ---- containers and tensors


def _encode(value, where, tensors):
    kind = type(value)
    if kind in (list, tuple):
        items = [_encode(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]
        return items if kind is list else {"tuple": items}
    try:
        if kind in (dict, OrderedDict):
            keys = [_encode_single(key) for key in value]
        elif isinstance(value, torch.Tensor):
            return _set_apart(value, where[1:], tensors)
        else:
            return _encode_single(value)
    except (KeyError, TypeError, ValueError) as error:
        raise TypeError(_refusal(value, where[1:], error)) from error
    values = [_encode(v, f"{where}.{key}", tensors) for key, v in value.items()]
    return {"dict": [list(pair) for pair in zip(keys, values, strict=True)]}


def _set_apart(tensor, name, tensors):
    if name in tensors:
        raise ValueError(f"another tensor is named {name!r} too")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{tensor.layout}, on {tensor.device}")
    tensors[name] = tensor
    # A fused optimizer step takes for granted that its state lies as its weights do.
    lies_apart = tensor.ndim == 4 and not tensor.is_contiguous()
    if lies_apart and tensor.is_contiguous(memory_format=torch.channels_last):
        return {"channels_last": name}
    return {"tensor": name}


def _decode(plain, tensors):
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((form, payload),) = plain.items()
    if form == "tuple":
        return tuple(_decode(payload, tensors))
    if form == "dict":
        return dict(_decode(payload, tensors))
    if form == "float":
        return float(payload)
    if form == "tensor":
        return tensors.pop(payload)  # each is used once
    if form == "channels_last":
        return tensors.pop(payload).contiguous(memory_format=torch.channels_last)
    return FORMS[form][2](payload)


def _refusal(value, where, reason):
    named = getattr(value, "__name__", f"a {type(value).__name__}")
    return (
        f"{where or 'This'} is {named}, which a model file cannot hold ({reason}). It "
        "holds None, bools, numbers, strings, paths, lists, tuples, dicts, tensors, "
        "1-D arrays, dtypes, devices, torchvision's weights, and torch's optimizer "
        "and loss classes. Set it to one of these before saving, or keep the whole "
        "estimator by joblib.dump, to be loaded only where that file is trusted. "
        "save_backbone writes the weights of any network."
    )
