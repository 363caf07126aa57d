"""What one image may be given as: a path, bytes, an open file, a PIL image, an array.

All forms are here: `is_image` recognises them, and `open_item` opens them.
"""

import io
import os
import reprlib
import threading
from collections.abc import Mapping

import numpy as np

from sktl._images.decoding import assumed_bits, is_pil, pil_pixels
from sktl._images.layout import check_numbers
from sktl._images.lazy_image import LONGEST_PATH, EncodedImage, ImageFile, PixelImage
from sktl._images.pixels import array_pixels
from sktl._utils.missing import is_missing

_reading = threading.Lock()  # one open file at a time


def open_item(item, row, ranges, layout):
    """Make a LazyImage of an item; may raise anything: the caller names the row."""
    if is_path(item):
        return ImageFile(row, path_of(item), os.fsdecode(item), ranges.given)
    if _is_bytes(item):
        return EncodedImage(row, None, bytes(item), ranges.given)
    if is_pil(item):
        pixels = pil_pixels(item, ranges.given)
        return PixelImage(pixels, assumed_bits(item, ranges.given))
    if is_array(item) and item.ndim <= 3:
        array = check_numbers(tensors_to_numpy(item), single=True)
        name = f"an array has shape {array.shape}"
        image = layout.arrange(array[None], name)[0]
        return PixelImage(array_pixels(image, ranges.of(array.dtype)))
    if not is_array(item) and _is_file(item):
        return EncodedImage(row, None, _read(item), ranges.given)
    raise ValueError(_no_image(item))


def is_image(item):
    """Whether an item is an image by itself, not a row of numbers or a cell."""
    kinds = is_path, _is_bytes, is_pil, is_array, _is_file
    return any(is_kind(item) for is_kind in kinds)


def is_path(item):
    """Whether it is a str or path-like."""
    return isinstance(item, str | os.PathLike)


def path_of(item):
    """Where the image lies, if the item says so; None for any other text."""
    text = os.fsdecode(item) if is_path(item) else None
    return text if text is None or len(text) <= LONGEST_PATH else None


def _is_bytes(item):
    if isinstance(item, memoryview):
        return item.ndim == 1
    return isinstance(item, bytes | bytearray)


def is_array(item):
    """Whether it is an array or tensor of two axes or more."""
    return getattr(item, "ndim", 0) >= 2


def numbers_of(item):
    """The array that an item is, or None."""
    is_numbers = is_array(item) and not is_pil(item) and not _is_bytes(item)
    return np.asarray(tensors_to_numpy(item)) if is_numbers else None


def _is_file(item):
    return hasattr(item, "read") and hasattr(item, "seek")


def _read(file):
    """Read an open binary file; its position is left alone."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    with _reading:
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
    if isinstance(data, str):
        raise ValueError("is a file opened as text; open it in mode 'rb'")
    return data


def _no_image(item):
    shape = getattr(item, "shape", None)
    missing = not shape and is_missing(item)  # an array has no truth value
    kind = "missing value" if missing else type(item).__name__
    seen = f"shape {tuple(shape)}" if shape else reprlib.repr(item)
    is_record = isinstance(item, Mapping) and "bytes" in item  # of Hugging Face
    cure = "; pass the bytes in it, item['bytes']" if is_record else ""
    return (
        f"{kind} ({seen}) where a path, bytes, a PIL image or an array "
        f"of shape (h, w) or (h, w, c) is needed{cure}"
    )


def tensors_to_numpy(X):
    """Bring torch tensors, also those in a list, to NumPy; torch is not imported."""
    if isinstance(X, (list, tuple)):
        return [tensors_to_numpy(x) if _is_tensor(x) else x for x in X]
    if not _is_tensor(X):
        return X
    cures = {
        "nested": (X.is_nested, "a list of tensors, X.unbind()"),
        "on the device 'meta'": (X.is_meta, "a tensor that has numbers"),
        "quantized": (X.is_quantized, "X.dequantize()"),
        f"in the layout {X.layout}": (str(X.layout) != "torch.strided", "X.to_dense()"),
    }
    for kind, (is_so, cure) in cures.items():
        if is_so:
            raise TypeError(
                f"X is a torch tensor that is {kind}, so NumPy cannot read it. Pass "
                f"{cure}."
            )
    tensor = X.detach().cpu().resolve_conj().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()  # NumPy has no bfloat16 and no 8-bit floats


def _is_tensor(X):
    return hasattr(X, "detach") and hasattr(X, "cpu")
