"""What `X` may be, as one sequence of images: uint8 (h, w, 3) each.

It holds numbers, all images in one array; or items, an image each (`image_forms`).
Nothing is decoded before it is asked for.
"""

import numbers
import operator
import os
import reprlib
from collections.abc import Sequence

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils.validation import _num_samples

from sktl._images.decoding import is_edited, is_pil
from sktl._images.image_forms import (
    is_array,
    is_image,
    is_path,
    numbers_of,
    open_item,
    path_of,
    tensors_to_numpy,
)
from sktl._images.layout import Layout, check_numbers
from sktl._images.lazy_image import PixelImage, unreadable
from sktl._images.pixels import array_pixels
from sktl._images.value_range import (
    ValueRange,
    brightest,
    check_value_range,
    extent,
    joint_extent,
    learn_range,
    require_no_range,
    warn_of_darkness,
)
from sktl._utils.partitions import partition_name, refuse_collection
from sktl._utils.parts import note_row, rows_of_X
from sktl._utils.warning import warn_caller
from sktl.exceptions import ImageLayoutError, ImageOrientationWarning, ImageReadError


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

    Warns
    -----
    ImageRangeWarning
        The numbers of `X` do not fit the range they are read by, or all images of 8
        bits, or all of 16, are nearly black.
    """
    images = open_images(
        X,
        image_shape=image_shape,
        channels=channels,
        value_range=value_range,
        only_images=True,
    )
    _, errors = images.map(lambda pixels: None, n_jobs)
    return [failure for error in errors.values() for failure in error.failures]


def report_unreadable(errors, on_error):
    """Raise one error that lists all unreadable images, or warn of them.

    Parameters
    ----------
    errors : dict of int to ImageReadError
        By row of `X`.
    on_error : {"raise", "nan"}
        With `"nan"`, the caller makes their rows NaN.
    """
    failures = [f for row in sorted(errors) for f in errors[row].failures]
    if not failures:
        return
    error = ImageReadError(failures, partition_name.get())
    if on_error == "raise":
        raise error
    warn_caller(f"{error} Their features are NaN.", UserWarning)


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

    def map(self, function, n_jobs=None):
        """Decode all images and apply a function to the pixels of each, by threads.

        Parameters
        ----------
        function : callable
            Of an ndarray of shape (h, w, 3), dtype uint8. No image is kept, unless in
            what this returns.
        n_jobs : int or None

        Returns
        -------
        results : dict of int to object
            By row, in order, for images that can be read.
        errors : dict of int to ImageReadError
            By row, in order, for the others.

        Warns
        -----
        ImageRangeWarning
            All images of 8 bits, or all of 16, are nearly black.
        """

        def apply(row):
            try:
                image, bits = self[row].decode()
            except ImageReadError as error:
                return error
            pixels = np.asarray(image)
            return function(pixels), brightest(pixels, bits)

        threads = Parallel(n_jobs=n_jobs, require="sharedmem")
        found = dict(enumerate(threads(delayed(apply)(i) for i in range(len(self)))))
        errors = {i: e for i, e in found.items() if isinstance(e, ImageReadError)}
        found = {i: pair for i, pair in found.items() if i not in errors}
        warn_of_darkness(len(self), [peak for _, peak in found.values()])
        return {i: result for i, (result, _) in found.items()}, errors

    def take(self, rows):
        """Choose some rows; errors name them by their numbers in `X`."""
        return Images(self._source, self._ranges, [self._rows[row] for row in rows])


def _open_source(X, layout, only_images, may_be_empty):
    refuse_collection(X)
    X = tensors_to_numpy(X)
    refuse_single_image(X)
    items, n_columns = _items_of(X, only_images)
    if items is None:
        _refuse_table(X)
        rows = _rows_in_cells(X)
        source = ArraySource(X if rows is None else rows, layout, may_be_empty)
        if rows is not None:  # these are no columns of X
            source.n_columns = n_columns
        return source
    if not may_be_empty:
        refuse_nothing(items)
    return ItemSource(items, layout, n_columns)


def refuse_nothing(items):
    """Raise ValueError if there are no rows, as from a search for files in vain."""
    if not _num_samples(items):
        raise ValueError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is "
            "required. If X lists files, is their folder right, and the pattern of "
            "their names?"
        )


def refuse_single_image(X):
    """Raise TypeError if `X` is one path, or one image that is no array."""
    if not is_image(X) or is_array(X):
        return
    message = f"X is one image ({reprlib.repr(X)}); pass a list of images, [X]"
    if is_path(X) and os.path.isdir(os.path.expanduser(X)):
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
    if any(map(is_image, items)):
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
        error = ImageLayoutError(
            f"X holds rows of numbers, but {reprlib.repr(rows[others[0]])} in row "
            f"{others[0]}. Leave such rows out, or pass arrays of shape (h, w), of "
            "which single ones may be missing."
        )
        raise note_row(error, others[0], len(rows))
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
    if nested and is_image(X[0][0]):
        raise ImageLayoutError(
            f"X is a list of lists; X[0] is {reprlib.repr(X[0])}. Pass one flat list, "
            "with one image or path per row."
        )
    if len(shape) != 2 or 0 in shape or _is_numeric(X):
        return
    names = list(getattr(X, "columns", range(shape[1])))
    row = X.iloc[0] if hasattr(X, "iloc") else X.row(0) if hasattr(X, "row") else X[0]
    for name, cell in zip(names, row, strict=True):
        if is_image(cell):
            raise ImageLayoutError(
                f"X has {shape[1]} columns, and column {name!r} holds "
                f"{reprlib.repr(cell)}. Pass a column of images or paths alone, for "
                "instance by ColumnTransformer([('image', "
                f"PretrainedFeatureExtractor(), [{name!r}])], remainder=...)."
            )


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
        self._rows_of_X = rows_of_X(len(items))
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
        return numbers_of(self._items[row])

    def image(self, row, ranges):
        item, row = self._items[row], self._rows_of_X[row]
        try:
            image = open_item(item, row, ranges, self._layout)
            if self._layout.image_shape is not None:
                self._layout.check_size(image.pixels())
        except ImageReadError:
            raise
        except Exception as error:  # whatever it is, it is this row's
            raise unreadable(row, path_of(item), error) from error
        return image

    def _warn_of_turns(self):
        edited = [n for n, x in enumerate(self._items) if is_pil(x) and is_edited(x)]
        if edited:
            first = self._rows_of_X[edited[0]]
            warn_caller(
                f"{len(edited)} PIL images, the first in row {first}, were "
                "processed after PIL read them and still have an EXIF orientation, by "
                "which sktl rotates them. If you had already rotated them upright, "
                "they are now rotated twice: use PIL.ImageOps.exif_transpose(image), "
                "which removes the orientation.",
                ImageOrientationWarning,
                about="orientation",
            )
