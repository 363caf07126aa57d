"""Every accepted form of `X` as one sequence of images: uint8 (h, w, 3) each.

Decides what `X` is (one block of numbers, or a sequence of images), how its numbers
form images, and which numbers are black and white. What one image's pixels are is
decided in `sktl._images.decoding`; nothing is decoded before it is asked for.
"""

import math
import operator
import os
import reprlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed

from sktl._images.decoding import (
    EncodedImage,
    Geometry,
    LazyImage,
    PixelImage,
    array_pixels,
    decoding_stack,
    fit_to,
    is_pil,
    pil_pixels,
    unreadable,
)
from sktl._images.layout import Layout, check_numbers
from sktl.exceptions import ImageLayoutError, ImageReadError

__all__ = [
    "Geometry",
    "Images",
    "LazyImage",
    "check_images",
    "decoding_stack",
    "fit_to",
    "open_images",
]

COMMON_RANGES = ((0.0, 1.0), (0.0, 16.0), (0.0, 255.0), (0.0, 65535.0))


def open_images(
    X,
    *,
    image_shape=None,
    channels="auto",
    value_range="auto",
    fitted=False,
    learnt_range=None,
):
    """Validate `X` and open it as a sequence of images.

    Parameters
    ----------
    X : array-like or sequence of images
        Numbers of shape (n, h, w), (n, h, w, c), (n, c, h, w) or, flattened, (n, p); or
        a list, array, Series or one-column frame of paths, `bytes`, PIL images or
        arrays.
    image_shape : tuple of (h, w) or (h, w, c), or None
        How a row of a two-dimensional `X` becomes an image; one of them may be -1.
        None: a square grey image, else a square RGB one. Images that bring a shape
        of their own must have this one.
    channels : "auto", "last" or "first"
        Where the channels of arrays are. Flattened rows are channels-last unless
        "first" is given.
    value_range : "auto" or (lo, hi)
        The numbers that mean black and white. A given range holds for all numeric
        arrays and for image files deeper than 8 bits; 8-bit images and booleans
        have only one reading. "auto": uint8 is 0..255, uint16 0..65535, and all other
        numbers share one range.
    fitted : bool
        False, as in `fit`: that range is learnt from this `X`, as the smallest of
        (0, 1), (0, 16), (0, 255), (0, 65535) that holds all its values, else (min,
        max). True, as in `transform` and `predict`: it is `learnt_range`, so that no
        batch decides for itself.
    learnt_range : (lo, hi) or None
        `value_range` of the `Images` seen in `fit`.

    Returns
    -------
    images : Images

    Raises
    ------
    ImageLayoutError
        The shape of `X` does not say how its numbers form images.
    ValueError
        `X` is empty, complex, or holds NaN or infinity; or its numbers need a range and
        `fit` learnt none.
    TypeError
        `X` is a single image, or sparse.
    """
    layout = Layout(image_shape, channels)
    source = _open_source(X, layout)
    ranges = _Ranges(_check_value_range(value_range), learnt_range)
    if ranges.given is None and not fitted:
        ranges = _Ranges(None, _learn_range(source.extent()))
    elif ranges.given is None and learnt_range is None:
        _require_no_range(source.extent())
    return Images(source, ranges)


def check_images(
    X, *, image_shape=None, channels="auto", value_range="auto", n_jobs=None
):
    """Find the images of `X` that cannot be read, before a long search meets them.

    Reads and decodes every image once and keeps none.

    Parameters
    ----------
    X : array-like or sequence of images
        As the estimators of sktl take it.
    image_shape : tuple of (h, w) or (h, w, c), default=None
        As in the estimators of sktl, like the two that follow.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channels of arrays are.
    value_range : "auto" or (lo, hi), default="auto"
        The numbers that mean black and white.
    n_jobs : int or None, default=None
        Number of threads that decode.

    Returns
    -------
    unreadable : list of (int, str or None, str)
        Row, path (None for what is not a path) and reason of each image that cannot be
        read, in the order of `X`. Empty when all is well.
    """
    images = open_images(
        X, image_shape=image_shape, channels=channels, value_range=value_range
    )
    found = Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(_failures)(images, index) for index in range(len(images))
    )
    return [failure for failures in found for failure in failures]


def _failures(images, index):
    try:
        images[index].pixels()
    except ImageReadError as error:
        return error.failures
    return []


class Images(Sequence):
    """The images of one `X`; safe to read from several threads.

    Attributes
    ----------
    n_columns : int or None
        Width of a two-dimensional `X` or a frame.
    value_range : (float, float) or None
        The range given or learnt; None where the dtype or the file format decides.
    """

    def __init__(self, source, ranges, rows=None):
        self._source, self._ranges = source, ranges
        self._rows = range(len(source)) if rows is None else rows
        self.n_columns = source.n_columns
        self.value_range = ranges.given or ranges.learnt

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        """Open one image: reads a file's bytes, once; raises ImageReadError."""
        row = self._rows[operator.index(index)]
        return self._source.image(row, self._ranges)

    def take(self, rows):
        """Choose some rows; what is wrong with one is told by its number in `X`."""
        return Images(self._source, self._ranges, [self._rows[row] for row in rows])


# What X is


def _open_source(X, layout):
    if _is_path(X) or isinstance(X, (bytes, bytearray)) or is_pil(X):
        raise TypeError(
            f"X is one image ({reprlib.repr(X)}); pass a list of images, [X]"
        )
    X = _tensors_to_numpy(X)
    items, n_columns = _items_of(X)
    if items is None:
        _refuse_table(X)
        return _Block(X, layout)
    if not items:
        raise ValueError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is "
            "required."
        )
    return _Items(items, layout, n_columns)


def _items_of(X):
    """List the images of X with its number of columns; (None, None) for numbers."""
    shape = getattr(X, "shape", None)
    if isinstance(X, (list, tuple)):
        items, n_columns = list(X), None
    elif shape is None or _is_numeric(X):
        return None, None
    elif len(shape) == 1:
        items, n_columns = list(X), None
    elif len(shape) == 2 and shape[1] == 1:
        column = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
        items, n_columns = _items_of(column)[0], 1
    else:
        return None, None
    if items is None or (items and not any(map(_is_image, items))):
        return None, None
    return items, n_columns


def _refuse_table(X):
    """Refuse a table with a column of images beside others, naming the column."""
    shape = getattr(X, "shape", ())
    nested = isinstance(X, list) and X and isinstance(X[0], (list, tuple)) and X[0]
    if nested and _is_image(X[0][0]):
        raise ImageLayoutError(
            f"X is a list of lists; X[0] is {reprlib.repr(X[0])}. Pass one flat list, "
            "with one image or path per row."
        )
    if len(shape) != 2 or 0 in shape or _is_numeric(X):
        return
    names = list(getattr(X, "columns", range(shape[1])))
    row = X.iloc[0] if hasattr(X, "iloc") else X.row(0) if hasattr(X, "row") else X[0]
    for name, cell in zip(names, row, strict=True):
        if _is_image(cell):
            raise ImageLayoutError(
                f"X has {shape[1]} columns, and column {name!r} holds "
                f"{reprlib.repr(cell)}. Pass a column of images or paths alone, for "
                "instance by ColumnTransformer([('image', extractor, "
                f"[{name!r}])], remainder=...)."
            )


def _is_numeric(X):
    return getattr(getattr(X, "dtype", None), "kind", "O") in "biufc"


def _is_path(item):
    return isinstance(item, (str, os.PathLike))


def _is_image(item):
    """Whether an item is an image by itself, not a row of numbers or a cell."""
    if _is_path(item) or isinstance(item, (bytes, bytearray)) or is_pil(item):
        return True
    return _is_array(item)


def _is_array(item):
    return getattr(item, "ndim", 0) >= 2


def _tensors_to_numpy(X):
    """Bring torch tensors, also those in a list, to NumPy; torch is not imported."""
    if isinstance(X, (list, tuple)):
        return [_tensors_to_numpy(x) if _is_tensor(x) else x for x in X]
    if not _is_tensor(X):
        return X
    tensor = X.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()  # NumPy has no bfloat16 and no 8-bit floats


def _is_tensor(X):
    return hasattr(X, "detach") and hasattr(X, "cpu")


class _Block:
    """All images in one array, whose memory is shared and converted by image."""

    def __init__(self, X, layout):
        array = check_numbers(X)
        self.n_columns = array.shape[1] if array.ndim == 2 else None
        self._images = layout.arrange(array)

    def __len__(self):
        return len(self._images)

    def extent(self):
        return _extent(self._images)

    def image(self, index, ranges):
        array = self._images[index]
        return PixelImage(array_pixels(array, ranges.of(array.dtype)))


class _Items:
    """One object per image: paths, encoded bytes, PIL images, arrays."""

    def __init__(self, items, layout, n_columns):
        self.n_columns = n_columns
        self._items, self._layout = items, layout

    def __len__(self):
        return len(self._items)

    def extent(self):
        """Smallest and largest value of the arrays among the items.

        What is not finite is left out here; reading it names the row.
        """
        arrays = (_tensors_to_numpy(x) for x in self._items if _is_array(x))
        extents = [_extent(np.asarray(array)) for array in arrays]
        finite = [e for e in extents if e is not None and math.isfinite(sum(e))]
        if not finite:
            return None
        return min(lo for lo, _ in finite), max(hi for _, hi in finite)

    def image(self, index, ranges):
        item = self._items[index]
        path = os.fsdecode(item) if _is_path(item) else None
        try:
            image = self._open(index, path, item, ranges)
            if self._layout.image_shape is not None:
                self._layout.check_size(image.pixels())
        except ImageReadError:
            raise
        except Exception as error:  # whatever it is, it is this row's
            raise unreadable(index, path, error) from error
        return image

    def _open(self, index, path, item, ranges):
        if path is not None:
            return EncodedImage(index, path, _read_file(path), ranges.given)
        if isinstance(item, (bytes, bytearray)):
            return EncodedImage(index, None, bytes(item), ranges.given)
        if is_pil(item):
            return PixelImage(pil_pixels(item, ranges.given))
        if not _is_array(item) or item.ndim > 3:
            raise ValueError(_no_image(item))
        array = check_numbers(_tensors_to_numpy(item), single=True)
        name = f"an array has shape {array.shape}"
        image = self._layout.arrange(array[None], name)[0]
        return PixelImage(array_pixels(image, ranges.of(array.dtype)))


def _no_image(item):
    kind = type(item).__name__
    missing = isinstance(item, float) and math.isnan(item)
    if missing or kind in ("NoneType", "NAType", "NaTType"):
        kind = "missing value"
    shape = getattr(item, "shape", None)
    seen = reprlib.repr(item) if shape is None else f"shape {tuple(shape)}"
    return (
        f"{kind} ({seen}) where a path, bytes, a PIL image or an array "
        "of shape (h, w) or (h, w, c) is needed"
    )


def _read_file(path):
    if not path:
        raise ValueError("the path is an empty string")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        start = "" if os.path.isabs(path) else f" (seen from {os.getcwd()})"
        raise FileNotFoundError(f"no such file{start}") from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ValueError(f"is {kind}, not a file")
    with open(path, "rb", buffering=0) as file:  # half the time of Path.read_bytes
        return file.read()


# Which numbers are black and white


@dataclass(frozen=True)
class _Ranges:
    """The range the user gave, and the one learnt for numbers that do not say."""

    given: tuple | None
    learnt: tuple | None

    def of(self, dtype):
        """Range for an array's dtype; None where the dtype decides."""
        if dtype.kind == "b":
            return None
        if self.given is not None:
            return self.given
        return None if _says_its_range(dtype) else self.learnt


def _says_its_range(dtype):
    return dtype.kind == "b" or (dtype.kind == "u" and dtype.itemsize <= 2)


def _extent(array):
    """Smallest and largest value; None where no range has to be learnt from it."""
    unclear = array.dtype.kind in "iuf" and not _says_its_range(array.dtype)
    if not unclear or array.size == 0:
        return None
    return float(array.min()), float(array.max())


def _learn_range(extent):
    if extent is None:
        return None
    smallest, largest = extent
    for lo, hi in COMMON_RANGES:
        if lo <= smallest and largest <= hi:
            return lo, hi
    if not math.isfinite(largest - smallest):
        raise ValueError(
            f"X holds numbers from {smallest} to {largest}, too far apart for a range; "
            "pass value_range=(lo, hi)"
        )
    return extent


def _require_no_range(extent):
    if extent is not None:
        raise ValueError(
            f"X holds numbers from {extent[0]} to {extent[1]} whose dtype does not say "
            "what black and white are, and fit saw none such to learn it from. Pass "
            "value_range=(lo, hi) to the estimator, for instance (0, 1) or (0, 255), "
            "or give X as uint8."
        )


def _check_value_range(value_range):
    """Give (lo, hi) as floats, or None for "auto"."""
    if isinstance(value_range, str) and value_range == "auto":
        return None
    try:
        lo, hi = map(float, value_range)
    except (TypeError, ValueError):
        lo = hi = math.nan
    if isinstance(value_range, str) or not (lo < hi and math.isfinite(hi - lo)):
        raise ValueError(
            f"value_range={value_range!r} must be 'auto' or two finite numbers "
            "(lo, hi) with lo < hi, which become black and white"
        )
    return lo, hi
