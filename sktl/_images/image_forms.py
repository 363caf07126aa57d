"""What one image may be given as: a path, bytes, an open file, a PIL image, an array.

Each form is a class that recognises such an item and opens it. All of them are here:
another form is one more class.
"""

import io
import os
import reprlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from sktl._images.decoding import assumed_bits, is_pil, pil_pixels
from sktl._images.layout import check_numbers
from sktl._images.lazy_image import LONGEST_PATH, EncodedImage, ImageFile, PixelImage
from sktl._images.pixels import array_pixels
from sktl._utils.missing import is_missing


class Form(ABC):
    """One kind of thing that an image is read from.

    Attributes
    ----------
    path : str or None
        Where it lies, if it says so.
    """

    path = None

    def __init__(self, item):
        self.item = item

    @staticmethod
    @abstractmethod
    def recognises(item):
        """Whether `item` is of this kind."""

    @abstractmethod
    def open(self, row, ranges, layout):
        """Make a LazyImage of it; may raise anything: the caller names the row."""

    def numbers(self):
        """Give the array that it is, or None."""
        return None


class PathForm(Form):
    """A str or path-like; a leading ~ is the home directory."""

    def __init__(self, item):
        self.item = os.fsdecode(item)
        self.path = self.item if len(self.item) <= LONGEST_PATH else None

    @staticmethod
    def recognises(item):
        return isinstance(item, (str, os.PathLike))

    def open(self, row, ranges, layout):
        return ImageFile(row, self.path, self.item, ranges.given)


class BytesForm(Form):
    """An encoded image."""

    @staticmethod
    def recognises(item):
        if isinstance(item, memoryview):
            return item.ndim == 1
        return isinstance(item, (bytes, bytearray))

    def open(self, row, ranges, layout):
        return EncodedImage(row, None, bytes(self.item), ranges.given)


class FileForm(Form):
    """An open binary file, or what reads like one; its position is left alone."""

    _one_at_a_time = threading.Lock()

    @staticmethod
    def recognises(item):
        return hasattr(item, "read") and hasattr(item, "seek")

    def open(self, row, ranges, layout):
        return EncodedImage(row, None, self._read(), ranges.given)

    def _read(self):
        if isinstance(self.item, io.BytesIO):
            return self.item.getvalue()
        with self._one_at_a_time:
            position = self.item.tell()
            self.item.seek(0)
            data = self.item.read()
            self.item.seek(position)
        if isinstance(data, str):
            raise ValueError("is a file opened as text; open it in mode 'rb'")
        return data


class PilForm(Form):
    """A PIL image; it stays as it is."""

    @staticmethod
    def recognises(item):
        return is_pil(item)

    def open(self, row, ranges, layout):
        pixels = pil_pixels(self.item, ranges.given)
        return PixelImage(pixels, assumed_bits(self.item, ranges.given))


class ArrayForm(Form):
    """An array or tensor of two axes, or of three."""

    @staticmethod
    def recognises(item):
        return getattr(item, "ndim", 0) >= 2

    def open(self, row, ranges, layout):
        if self.item.ndim > 3:
            raise ValueError(_no_image(self.item))
        array = check_numbers(tensors_to_numpy(self.item), single=True)
        name = f"an array has shape {array.shape}"
        image = layout.arrange(array[None], name)[0]
        return PixelImage(array_pixels(image, ranges.of(array.dtype)))

    def numbers(self):
        return np.asarray(tensors_to_numpy(self.item))


class NoForm(Form):
    """What is no image, a missing value above all."""

    @staticmethod
    def recognises(item):
        return True

    def open(self, row, ranges, layout):
        raise ValueError(_no_image(self.item))


FORMS = (PathForm, BytesForm, PilForm, ArrayForm, FileForm)


def form_of(item):
    return next(form(item) for form in (*FORMS, NoForm) if form.recognises(item))


def is_image(item):
    """Whether an item is an image by itself, not a row of numbers or a cell."""
    return any(form.recognises(item) for form in FORMS)


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
