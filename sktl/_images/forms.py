"""Every accepted form of `X` as one sequence of images: uint8 (h, w, 3) each.

What one image may be is an object each, a path, bytes, an open file, a PIL image, an
array; and so is what an `X` may be, numbers or a sequence of such items. All of them
are recognised here and nowhere else: another form is one more object. Nothing is
decoded before it is asked for.
"""

import hashlib
import io
import numbers
import operator
import os
import re
import reprlib
import stat
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from joblib import Parallel, delayed

from sktl._images.decoding import assumed_bits, decode, is_edited, is_pil, pil_pixels
from sktl._images.geometry import fit_to, size_of
from sktl._images.layout import Layout, check_numbers
from sktl._images.pixels import array_pixels
from sktl._images.value_range import (
    ValueRange,
    check_value_range,
    extent,
    joint_extent,
    learn_range,
    require_no_range,
)
from sktl._utils.file_state import file_state, is_settled
from sktl._utils.missing import is_missing
from sktl._utils.partitions import refuse_collection
from sktl._utils.warning import warn_caller
from sktl.exceptions import ImageLayoutError, ImageOrientationWarning, ImageReadError

# No operating system in use accepts a longer path.
LONGEST_PATH = 4096
# How many files' digests are remembered.
MOST_DIGESTS = 2**16

_digests = {}


def open_images(
    X,
    *,
    image_shape=None,
    channels="auto",
    value_range="auto",
    fitted=False,
    learnt_range=None,
    only_images=False,
    counted=None,
):
    """Validate `X` and open it as a sequence of images.

    Parameters
    ----------
    X : array-like or sequence of images
        Numbers of shape (n, h, w), (n, h, w, c), (n, c, h, w) or, flattened, (n, p); or
        a sequence, array, Series or one-column frame of paths, `bytes`, open files, PIL
        images or arrays.
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
        max). Values may lie outside by a hundredth of its width; they are clipped.
        True, as in `transform` and `predict`: it is `learnt_range`, so that no batch
        decides for itself. Then `X` may be empty.
    learnt_range : (lo, hi) or None
        `value_range` of the `Images` seen in `fit`.
    only_images : bool
        Whether a one-dimensional or one-column `X` holds images whatever is in it, as
        where `fit` saw images; what is none is an unreadable row then.

    counted : ndarray of int or None
        The rows from which the range is learnt, and which are compared with it.
        None: all.

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

    Warns
    -----
    ImageRangeWarning
        The numbers of `X` are on another scale than the range they are read by.
    """
    layout = Layout(image_shape, channels)
    given = check_value_range(value_range)
    source = _open_source(X, layout, only_images, may_be_empty=fitted or only_images)
    rows = np.arange(len(source))
    if counted is not None:
        rows = np.intersect1d(rows, counted)
    if given is None and not fitted:
        learnt_range = learn_range(source.extent(rows))
    elif given is None and learnt_range is None:
        require_no_range(source.extent(rows))
    ranges = ValueRange(given, learnt_range)
    ranges.warn_of_scale(rows, source.numbers)
    return Images(source, ranges)


def check_images(
    X, *, image_shape=None, channels="auto", value_range="auto", n_jobs=None
):
    """Find the images of `X` that cannot be read, before a long computation starts.

    Every image is read and decoded once; none is kept in memory.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes.
    image_shape : tuple of (h, w) or (h, w, c), default=None
        As in `PretrainedFeatureExtractor`, like the next two parameters.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channels of arrays are.
    value_range : "auto" or (lo, hi), default="auto"
        The numbers that mean black and white.
    n_jobs : int or None, default=None
        Number of threads that read and decode images. None means one.

    Returns
    -------
    unreadable : list of (int, str or None, str)
        Row, path (None if the image was not given as a path) and reason for each image
        that cannot be read, in the order of `X`. Empty if all can be read.
    """
    images = open_images(
        X,
        image_shape=image_shape,
        channels=channels,
        value_range=value_range,
        only_images=True,
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
    is_array : bool
        Whether all of them are one array.
    """

    def __init__(self, source, ranges, rows=None):
        self.is_array = isinstance(source, ArraySource)
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
        """Choose some rows; errors name them by their numbers in `X`."""
        return Images(self._source, self._ranges, [self._rows[row] for row in rows])


# One image of X, opened


class LazyImage(ABC):
    """One image of `X`, not necessarily decoded yet.

    Attributes
    ----------
    path : str or None
        Where it was read from.
    n_bytes : int
        What it holds in memory.
    """

    path = None
    n_bytes: int

    @abstractmethod
    def digest(self):
        """Give the SHA-256 of the content: equal digests, equal pixels."""

    @abstractmethod
    def pixels(self):
        """Give the upright image, uint8 (h, w, 3), C-contiguous."""

    @abstractmethod
    def fit_to(self, geometry):
        """Give what a network sees, uint8 (crop, crop, 3), and what it is made from.

        Returns
        -------
        pixels : ndarray
        size : (h, w)
            Of the image.
        bits : 8, 16 or None
            Of a format whose black and white are assumed, whatever the numbers are.
        """


class EncodedImage(LazyImage):
    """A file's bytes: what is hashed is what is decoded."""

    def __init__(self, row, path, data, value_range):
        self.path = path
        self._row, self._data, self._value_range = row, data, value_range
        self.n_bytes = len(data)

    def digest(self):
        digest = hashlib.sha256(b"sktl encoded image\0")
        if self._value_range is not None:
            digest = hashlib.sha256(b"sktl encoded image in range\0")
            digest.update(struct.pack("<2d", *self._value_range))
        digest.update(self._data)
        return digest.digest()

    def pixels(self):
        return np.asarray(self._decode()[0])

    def fit_to(self, geometry):
        image, bits = self._decode()
        return fit_to(image, geometry), size_of(image), bits

    def _decode(self):
        data = self._data
        try:
            return decode(data, self._value_range)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise _unreadable(self._row, self.path, error) from error


class ImageFile(EncodedImage):
    """A file that is read when its bytes are needed.

    Its digest is remembered until the state of the file changes: features that are in
    the cache are found again without reading it.
    """

    def __init__(self, row, path, file, value_range):
        self.path = path
        self._row, self._file, self._value_range = row, file, value_range
        self._state = file_state(found := _stat(file))
        self.n_bytes = found.st_size
        self._known = _digests.get((file, self._state, value_range))

    @cached_property
    def _data(self):
        try:
            return _read_file(self._file)
        except Exception as error:
            raise _unreadable(self._row, self.path, error) from error

    def digest(self):
        if self._known is not None:
            return self._known
        digest = super().digest()
        if is_settled(self._state) and self._is_unchanged():
            if len(_digests) >= MOST_DIGESTS:
                _digests.clear()
            _digests[self._file, self._state, self._value_range] = digest
        return digest

    def _is_unchanged(self):
        try:
            return file_state(_stat(self._file)) == self._state
        except (OSError, ValueError):
            return False

    def _decode(self):
        if self._known is not None and super().digest() != self._known:
            error = OSError("changed while it was read; call again")
            raise _unreadable(self._row, self.path, error)
        return super()._decode()


class PixelImage(LazyImage):
    """Pixels already at hand; the same for an array, a tensor and a PIL image."""

    def __init__(self, pixels, bits=None):
        self._pixels, self._bits = pixels, bits
        self.n_bytes = pixels.nbytes

    def digest(self):
        digest = hashlib.sha256(b"sktl pixels\0")
        digest.update(struct.pack("<2q", *self._pixels.shape[:2]))
        digest.update(self._pixels)
        return digest.digest()

    def pixels(self):
        return self._pixels

    def fit_to(self, geometry):
        return fit_to(self._pixels, geometry), size_of(self._pixels), self._bits


def _unreadable(row, path, error):
    """Name the row that an error belongs to."""
    return ImageReadError([(row, path, _reason_of(error))])


def _reason_of(error):
    """Say in one line why reading failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, (OSError, ValueError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# What one image is read from


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
        array = check_numbers(_tensors_to_numpy(self.item), single=True)
        name = f"an array has shape {array.shape}"
        image = layout.arrange(array[None], name)[0]
        return PixelImage(array_pixels(image, ranges.of(array.dtype)))

    def numbers(self):
        return np.asarray(_tensors_to_numpy(self.item))


class NoForm(Form):
    """What is no image, a missing value above all."""

    @staticmethod
    def recognises(item):
        return True

    def open(self, row, ranges, layout):
        raise ValueError(_no_image(self.item))


FORMS = (PathForm, BytesForm, PilForm, ArrayForm, FileForm)


def _form_of(item):
    return next(form(item) for form in (*FORMS, NoForm) if form.recognises(item))


def _is_image(item):
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


def _stat(path):
    """Stat what has to be a regular file."""
    if not path:
        raise ValueError("the path is an empty string")
    try:
        found = os.stat(os.path.expanduser(path))
    except (OSError, ValueError) as error:
        raise OSError(_why_not_found(path, error)) from error
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is a device, pipe or socket, not a file")
    return found


def _read_file(path):
    # Without a buffer, in half the time of Path.read_bytes.
    with open(os.path.expanduser(path), "rb", buffering=0) as opened:
        return opened.read()


# What PNG, JPEG, GIF, WebP, TIFF and BMP files begin with.
_BASE64 = r"data:image/|(iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkq|TU0A|Qk0)[\w+/=\s-]{100}"


def _why_not_found(path, error):
    if re.match(_BASE64, path):
        return (
            f"{reprlib.repr(path)} of {len(path)} characters looks like base64, not "
            "like a path; pass the bytes, base64.b64decode(text)"
        )
    if re.match(r"[\w+.-]+://", path):
        return (
            "no such file; it is a URL, which is not fetched: download it, or pass its "
            "bytes (of file://, the path alone)"
        )
    if len(path) > LONGEST_PATH:
        return f"{reprlib.repr(path)} of {len(path)} characters is too long for a path"
    if not isinstance(error, FileNotFoundError):
        return _reason_of(error)
    if path != path.strip():
        return "no such file; the path has white space at its ends, strip() it"
    seen_from = "" if os.path.isabs(path) else f" (seen from {os.getcwd()})"
    return f"no such file{seen_from}"


# What X is


def _open_source(X, layout, only_images, may_be_empty):
    refuse_collection(X)
    X = _tensors_to_numpy(X)
    refuse_single_image(X)
    items, n_columns = _items_of(X, only_images)
    if items is None:
        _refuse_table(X)
        rows = _rows_in_cells(X)
        source = ArraySource(X if rows is None else rows, layout, may_be_empty)
        if rows is not None:  # these are no columns of X
            source.n_columns = n_columns
        return source
    if not items and not may_be_empty:
        raise ValueError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is "
            "required."
        )
    return ItemSource(items, layout, n_columns)


def refuse_single_image(X):
    """Raise TypeError if `X` is one path, or one image that is no array."""
    if not _is_image(X) or ArrayForm.recognises(X):
        return
    message = f"X is one image ({reprlib.repr(X)}); pass a list of images, [X]"
    if PathForm.recognises(X) and os.path.isdir(os.path.expanduser(X)):
        message += (
            ". This one is a folder: sorted(pathlib.Path(X).glob('**/*.jpg')) lists "
            "the files in it that end in .jpg"
        )
    raise TypeError(message)


def _items_of(X, only_images):
    """List the images of X, None for numbers; and its number of columns."""
    shape, n_columns = getattr(X, "shape", None), None
    if shape is None and not isinstance(X, Sequence):
        return None, None
    if shape is not None and _is_numeric(X) and not only_images:
        return None, None
    if _has_one_column(X):
        X, n_columns = _only_column(X), 1
    elif shape is not None and len(shape) != 1:
        return None, None
    items = list(X)
    if any(map(_is_image, items)):
        return items, n_columns
    if any(_is_row(x) or (_is_number(x) and not only_images) for x in items):
        return None, n_columns
    return items, n_columns


def _has_one_column(X):
    shape = getattr(X, "shape", ())
    return len(shape) == 2 and shape[1] == 1


def _only_column(X):
    return X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]


def _rows_in_cells(X):
    """The rows of numbers that the cells of a column hold; None if it has others."""
    is_column = _has_one_column(X) or len(getattr(X, "shape", ())) == 1
    if not is_column or _is_numeric(X):
        return None
    rows = list(_only_column(X) if _has_one_column(X) else X)
    others = [i for i, row in enumerate(rows) if not _is_row(row)]
    if len(others) == len(rows):
        return None
    if others:
        raise ImageLayoutError(
            f"X holds rows of numbers, but {reprlib.repr(rows[others[0]])} in row "
            f"{others[0]}. Leave such rows out, or pass arrays of shape (h, w), of "
            "which single ones may be missing."
        )
    return [np.asarray(row) for row in rows]


def _is_row(item):
    return isinstance(item, Sequence) or len(getattr(item, "shape", ())) == 1


def _is_number(item):
    return isinstance(item, numbers.Number) and item == item  # NaN is a missing value


def _is_numeric(X):
    return getattr(getattr(X, "dtype", None), "kind", "O") in "biufc"


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


def _tensors_to_numpy(X):
    """Bring torch tensors, also those in a list, to NumPy; torch is not imported."""
    if isinstance(X, (list, tuple)):
        return [_tensors_to_numpy(x) if _is_tensor(x) else x for x in X]
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


class ArraySource:
    """All images in one array, which is shared and converted image by image."""

    def __init__(self, X, layout, may_be_empty):
        array = check_numbers(X, may_be_empty=may_be_empty)
        self.n_columns = array.shape[1] if array.ndim == 2 else None
        self._images = layout.arrange(array)

    def __len__(self):
        return len(self._images)

    def extent(self, rows):
        """Smallest and largest value of the numbers in some rows."""
        is_all = len(rows) == len(self)
        return extent(self._images if is_all else self._images[rows])

    def numbers(self, row):
        return self._images[row]

    def image(self, row, ranges):
        array = self._images[row]
        return PixelImage(array_pixels(array, ranges.of(array.dtype)))


class ItemSource:
    """One object per image, of any form."""

    def __init__(self, items, layout, n_columns):
        self.n_columns = n_columns
        self._items, self._layout = items, layout
        self._warn_of_turns()

    def __len__(self):
        return len(self._items)

    def extent(self, rows):
        """Smallest and largest value of the arrays among some rows.

        What is not finite is left out here; reading it names the row.
        """
        arrays = map(self.numbers, rows)
        return joint_extent(extent(array) for array in arrays if array is not None)

    def numbers(self, row):
        return _form_of(self._items[row]).numbers()

    def image(self, row, ranges):
        form = _form_of(self._items[row])
        try:
            image = form.open(row, ranges, self._layout)
            if self._layout.image_shape is not None:
                self._layout.check_size(image.pixels())
        except ImageReadError:
            raise
        except Exception as error:  # whatever it is, it is this row's
            raise _unreadable(row, form.path, error) from error
        return image

    def _warn_of_turns(self):
        edited = [n for n, x in enumerate(self._items) if is_pil(x) and is_edited(x)]
        if edited:
            warn_caller(
                f"{len(edited)} PIL images, the first in row {edited[0]}, were "
                "processed after PIL read them and still have an EXIF orientation, by "
                "which sktl rotates them. If you had already rotated them upright, "
                "they are now rotated twice: use PIL.ImageOps.exif_transpose(image), "
                "which removes the orientation.",
                ImageOrientationWarning,
            )
