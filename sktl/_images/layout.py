"""Which numbers are accepted, and how they form images: `image_shape`, `channels`.

What it gives is always channels-last: (n, h, w) or (n, h, w, c).
"""

import math
import numbers
import reprlib
from collections.abc import Sequence

import numpy as np
from sklearn.utils import assert_all_finite, check_array

from sktl._utils.parts import note_row
from sktl.exceptions import ImageLayoutError

# Grey, RGB, RGBA. Two channels (grey and alpha) are read where `channels` is given.
TELLING_CHANNELS = (1, 3, 4)
POSSIBLE_CHANNELS = (1, 2, 3, 4)


def check_numbers(X, single=False, may_be_empty=False):
    """Let scikit-learn refuse what is empty, sparse, complex, NaN or no numbers.

    `single`: X is one image; else an error says which of its rows are at fault.
    """
    if type(X) is np.ndarray and X.dtype.kind in ("b", "u") and X.ndim > 2 and len(X):
        return X  # nothing can be wrong with these numbers
    if not hasattr(X, "shape"):
        _check_container(X)
    array = check_array(
        X,
        allow_nd=True,
        ensure_all_finite=False,
        ensure_min_samples=0 if may_be_empty else 1,
    )
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"X has dtype {array.dtype}; it must hold real numbers")
    try:
        assert_all_finite(array)
    except ValueError as error:
        if single:
            raise ValueError("contains NaN or infinity") from error
        bad = np.unique(np.argwhere(~np.isfinite(array))[:, 0])
        named = ValueError(
            f"X contains NaN or infinity in {len(bad)} of {len(array)} rows, first in "
            f"row {bad[0]}. Leave these rows out or fill them in."
        )
        raise note_row(named, bad[0], len(array)) from error
    return array


def _check_container(X):
    """Refuse what is no array and no list of rows of one length."""
    if not isinstance(X, Sequence) and not hasattr(X, "__array__"):
        raise TypeError(
            f"X is a {type(X).__name__} ({reprlib.repr(X)}). Pass an array of images, "
            "or a list, Series or one-column frame of paths, PIL images, bytes or "
            "arrays."
        )
    try:
        np.asarray(X)
    except ValueError as error:
        lengths = sorted({len(row) if hasattr(row, "__len__") else 1 for row in X})
        raise ImageLayoutError(
            f"X is a list of {len(X)} rows whose lengths, or those within them, differ "
            f"({reprlib.repr(lengths)}). Rows of numbers must have one length; images "
            "of different sizes must be arrays: [numpy.asarray(image) for image in X]."
        ) from error


class Layout:
    """The user's `image_shape` and `channels`, checked."""

    def __init__(self, image_shape=None, channels="auto"):
        if channels not in ("auto", "last", "first"):
            raise ValueError(f"channels={channels!r} must be 'auto', 'last' or 'first'")
        self.image_shape = _check_image_shape(image_shape)
        self.channels = channels

    def arrange(self, array, name=None):
        """View an array of 2 (rows), 3 or 4 axes as images, channels last.

        `name` is what an error says of the array.
        """
        if array.ndim == 2:
            return self._images_of_rows(array)
        if name is None:
            name = f"X has shape {array.shape}"
            self._refuse_single(array.shape, name)
        if array.ndim not in (3, 4) or 0 in array.shape[1:]:
            raise ImageLayoutError(
                f"{name}; accepted are (n, h, w), (n, h, w, c), (n, c, h, w) and "
                "flattened rows (n, n_pixels), none of them empty"
            )
        if array.ndim == 4 and self._channels_come_first(array.shape[1:], name):
            array = np.moveaxis(array, 1, -1)
        height, width, *depth = array.shape[1:]
        if not self._matches((height, width, *(depth or [1]))):
            raise ImageLayoutError(
                f"{name}, which are images of (h, w, c) = "
                f"{(height, width, *(depth or [1]))}, but image_shape="
                f"{self.image_shape}. Pass image_shape=None or their actual shape."
            )
        return array

    def _refuse_single(self, shape, name):
        """Refuse one colour image, which would pass for grey ones 3 pixels wide."""
        narrow = len(shape) == 3 and shape[2] in (3, 4) and shape[1] != shape[2]
        if narrow and self.image_shape is None:
            raise ImageLayoutError(
                f"{name}: one image (h, w, c), or {shape[0]} grey ones of "
                f"{shape[1]} x {shape[2]}? Pass X[None] for the one image, or "
                f"image_shape={shape[1:]} for the grey ones."
            )

    def check_size(self, pixels):
        """Refuse decoded RGB pixels of a size that contradicts `image_shape`.

        A grey file is RGB by then, so only height and width are compared.
        """
        height, width = pixels.shape[:2]
        if not self._matches((height, width)):
            raise ImageLayoutError(
                f"is {height} pixels high and {width} wide, but image_shape="
                f"{self.image_shape}; pass image_shape=None for images of any size"
            )

    def _matches(self, shape):
        # zip stops at the shorter one: image_shape=(h, w) leaves the channels open.
        wanted = self.image_shape or ()
        return all(a in (-1, b) for a, b in zip(wanted, shape, strict=False))

    def _channels_come_first(self, shape, name):
        """Decide on the layout of one image of three axes."""
        if self.channels == "auto":
            return self._infer_channels(shape, name) == "first"
        axis = {"first": 0, "last": -1}[self.channels]
        if shape[axis] not in POSSIBLE_CHANNELS:
            raise ImageLayoutError(
                f"{name}, and with channels={self.channels!r} its images would have "
                f"{shape[axis]} channels; 1 (grey), 2 (grey and alpha), 3 (RGB) and 4 "
                "(RGBA) are accepted"
            )
        return self.channels == "first"

    def _infer_channels(self, shape, name):
        seen = {"last": shape, "first": (*shape[1:], shape[0])}
        fits = [key for key in seen if seen[key][2] in TELLING_CHANNELS]
        if len(fits) == 2 and self.image_shape is not None:
            fits = [key for key in fits if self._matches(seen[key])] or fits
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise ImageLayoutError(
                f"{name}: both the first and the last axis of an image {shape} can "
                "be the channels, so the layout is ambiguous. Pass channels='last' "
                "for (h, w, c) or channels='first' for (c, h, w)."
            )
        raise ImageLayoutError(
            f"{name}: neither the first nor the last axis of an image {shape} has the "
            "length 1 (grey), 3 (RGB) or 4 (RGBA). Select such channels; or, for 2 "
            "(grey and alpha), pass channels='last' or channels='first'."
        )

    def _images_of_rows(self, rows):
        height, width, depth = self._row_shape(rows.shape[1])
        if self.channels == "first":
            planes = rows.reshape(len(rows), depth, height, width)
            return np.moveaxis(planes, 1, -1)
        return rows.reshape(len(rows), height, width, depth)

    def _row_shape(self, n_columns):
        """Find (h, w, c) of a flattened row."""
        if self.image_shape is None:
            return _square_shape(n_columns)
        shape = (*self.image_shape, 1)[:3]
        known = math.prod(length for length in shape if length != -1)
        missing = n_columns // known
        full = tuple(missing if length == -1 else length for length in shape)
        if math.prod(full) != n_columns or full[2] not in POSSIBLE_CHANNELS:
            raise ImageLayoutError(
                f"X has {n_columns} columns, which do not form images of "
                f"image_shape={self.image_shape}: that takes "
                f"{known if -1 not in shape else f'a multiple of {known}'}, with 1 to "
                "4 channels. Pass the (h, w) or (h, w, c) that a row was flattened "
                "from; one of them may be -1."
            )
        return full


def _square_shape(n_columns):
    for depth in (1, 3):
        side = math.isqrt(n_columns // depth)
        if depth * side * side == n_columns:
            return side, side, depth
    raise ImageLayoutError(
        f"X has {n_columns} columns, which form neither a square grey nor a square RGB "
        "image. Pass image_shape=(h, w) or (h, w, c), with h * w * c = "
        f"{n_columns}; one of them may be -1, and (1, -1) takes a row of any width. If "
        "X is one grey image, pass X[None]."
    )


def _check_image_shape(image_shape):
    if image_shape is None:
        return None
    try:
        shape = tuple(image_shape)
        integers = all(isinstance(length, numbers.Integral) for length in shape)
    except TypeError:
        shape, integers = (), False
    if (
        not integers
        or len(shape) not in (2, 3)
        or shape.count(-1) > 1
        or any(length < 1 and length != -1 for length in shape)
        or (len(shape) == 3 and shape[2] not in (-1, *POSSIBLE_CHANNELS))
    ):
        raise ImageLayoutError(
            f"image_shape={image_shape!r} must be (h, w) or (h, w, c) with positive "
            "integers, at most one of them -1, and c from 1 to 4"
        )
    return tuple(int(length) for length in shape)
