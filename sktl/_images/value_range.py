"""Which numbers are black and white: given, told by a dtype, or learnt in `fit`."""

import math
from dataclasses import dataclass

import numpy as np

from sktl._utils.warning import warn_caller
from sktl.exceptions import ImageRangeWarning

COMMON_RANGES = ((0.0, 1.0), (0.0, 16.0), (0.0, 255.0), (0.0, 65535.0))

# Share of their own width by which numbers may lie outside a range when it is learnt:
# rounding, and counting to 256. They are clipped.
OVERSHOOT = 0.01

# What `ValueRange.warn_of_scale` looks at, and what it takes for another scale.
LOOKED_AT = 256
FAR_OUTSIDE = 0.1
SHARE_OUTSIDE = 0.01
LITTLE_FILLED = 1 / 8
FEW_IMAGES = 4


@dataclass(frozen=True)
class ValueRange:
    """The range the user gave, and the one learnt for numbers that do not say.

    Parameters
    ----------
    given, learnt : (float, float) or None
    """

    given: tuple | None = None
    learnt: tuple | None = None

    def of(self, dtype):
        """Range for an array's dtype; None where the dtype decides."""
        if dtype.kind == "b":
            return None
        if self.given is not None:
            return self.given
        return None if _says_its_range(dtype) else self.learnt

    def warn_of_scale(self, rows, numbers):
        """Warn if the numbers of X are on another scale than this range.

        They are where more than one in a hundred lies outside the range by more than a
        tenth of its width; or where none comes up to an eighth of the range's larger
        end. The latter is asked of four or more images that are not of one colour:
        single images may be dark. Arrays of uint8, of uint16 and of other dtypes are
        judged apart. A range that the user gave is never questioned.

        Parameters
        ----------
        rows : ndarray of int
            Rows of images; at most `LOOKED_AT`, evenly spread, are looked at.
        numbers : callable
            Gives the array of an image by its row, or None for what is no array.
        """
        if self.given is not None:
            return
        if len(rows) > LOOKED_AT:
            rows = rows[np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int)]
        arrays = [array for row in rows if (array := numbers(row)) is not None]
        seen = [_Seen.of(array, self.of(array.dtype)) for array in arrays]
        by_format = {}
        for image in seen:
            if image is not None:
                n_bytes = image.dtype.itemsize if _says_its_range(image.dtype) else None
                by_format.setdefault(n_bytes, []).append(image)
        for alike in by_format.values():
            _warn_of_scale(alike, is_mixed=len(by_format) > 1)


def _warn_of_scale(seen, is_mixed):
    share = sum(s.n_outside for s in seen) / sum(s.n for s in seen)
    n_telling = sum(s.low < s.high for s in seen)
    if share > SHARE_OUTSIDE:
        fault = f"{share:.0%} of them lie far outside and are clipped"
    elif n_telling >= FEW_IMAGES and max(s.reach for s in seen) < LITTLE_FILLED:
        fault = "they fill so little of it that the images have hardly any contrast"
    else:
        return
    if is_mixed:
        cure = (
            "Rescale these arrays to that range; a value_range would hold for those of "
            "other dtypes in X, too."
        )
    else:
        cure = (
            "Rescale X to that range, or pass value_range=(lo, hi), the numbers that "
            "mean black and white, to the estimator."
        )
    lo, hi = seen[0].range
    low, high = min(s.low for s in seen), max(s.high for s in seen)
    warn_caller(
        f"X holds {seen[0].dtype} numbers from {low:.6g} to {high:.6g}, but the "
        f"estimator expects {lo:g} (black) to {hi:g} (white): {fault}. {cure}",
        ImageRangeWarning,
        about=("scale", seen[0].dtype, lo, hi),
    )


@dataclass(frozen=True)
class _Seen:
    """The numbers of one image, and how they lie in the range they are read by."""

    dtype: np.dtype
    range: tuple
    low: float
    high: float
    reach: float  # the largest distance from 0, in units of the range's
    n_outside: int
    n: int

    @classmethod
    def of(cls, array, value_range):
        if array.dtype.kind not in "iuf" or not array.size:
            return None
        low, high = float(array.min()), float(array.max())
        if not math.isfinite(high - low):
            return None
        lo, hi = value_range or (0, np.iinfo(array.dtype).max)
        slack = FAR_OUTSIDE * (float(hi) - float(lo))
        n_outside = 0
        if low < lo - slack or high > hi + slack:
            n_outside = np.count_nonzero((array < lo - slack) | (array > hi + slack))
        reach = max(-low, high) / (max(-lo, hi) or 1.0)
        return cls(array.dtype, (lo, hi), low, high, reach, n_outside, array.size)


def brightest(pixels, bits):
    """What `warn_of_darkness` has to know of an image.

    Parameters
    ----------
    pixels : ndarray, dtype uint8
    bits : 8, 16 or None
        Of its format; None where no range was assumed.

    Returns
    -------
    bits : 8, 16 or None
    peak : int or None
        The largest level, from 0 to 255; None if the image is of one dark colour, or if
        no range was assumed.
    """
    if bits is None:
        return bits, None
    peak = int(pixels.max())
    is_telling = _fills_range(peak) or pixels.min() < peak
    return bits, peak if is_telling else None


def warn_of_darkness(n, peaks):
    """Warn if all images of a format are far from the white that was assumed.

    Nothing is said where less than half of `n` images were decoded: few may be dark.

    Parameters
    ----------
    n : int
    peaks : list of (bits, peak)
        What `brightest` gives for each image that was decoded.
    """
    by_format = {}
    for bits, peak in peaks:
        by_format.setdefault(bits, []).append(peak)
    for bits in sorted(by_format.keys() - {None}):
        n_alike = len(by_format[bits])
        seen = [peak for peak in by_format[bits] if peak is not None]
        n_needed = max(FEW_IMAGES, n_alike / 2)
        if len(peaks) < n / 2 or len(seen) < n_needed or any(map(_fills_range, seen)):
            continue
        which = f"{len(seen)} of {n} images"
        if len(by_format) > 1:
            which = f"{len(seen)} of the {n_alike} images of {bits} bits"
        warn_caller(
            f"{which} are nearly black: no pixel reaches an eighth of the largest "
            "number of its format (255, or 65535 for 16 bits). If they are from a "
            "camera of 10 to 14 bits, pass value_range=(lo, hi), the numbers that mean "
            "black and white, such as (0, 4095). Scale images of 8 bits yourself, such "
            "as masks that hold class numbers, and colour images of 16 bits, which PIL "
            "reads as 8.",
            ImageRangeWarning,
            about=("dark images", bits),
        )


def _fills_range(peak):
    return peak >= 255 * LITTLE_FILLED


def _says_its_range(dtype):
    return dtype.kind == "u" and dtype.itemsize <= 2


def extent(array):
    """Smallest and largest value; None where no range has to be learnt from it."""
    unclear = array.dtype.kind in "iuf" and not _says_its_range(array.dtype)
    if not unclear or array.size == 0:
        return None
    return float(array.min()), float(array.max())


def joint_extent(extents):
    """Smallest and largest value of several; what is not finite is left out."""
    finite = [e for e in extents if e is not None and math.isfinite(sum(e))]
    if not finite:
        return None
    return min(lo for lo, _ in finite), max(hi for _, hi in finite)


def learn_range(extent):
    """Find the smallest usual range that holds an extent, else that extent."""
    if extent is None:
        return None
    smallest, largest = extent
    slack = OVERSHOOT * (largest - smallest)
    if not math.isfinite(slack):
        raise ValueError(
            f"X holds numbers from {smallest} to {largest}, too far apart to be a "
            "range; pass value_range=(lo, hi)"
        )
    for lo, hi in COMMON_RANGES:
        if lo - slack <= smallest and largest <= hi + slack:
            return lo, hi
    return extent


def require_no_range(extent):
    """Refuse numbers that need a range where `fit` learnt none."""
    if extent is not None:
        raise ValueError(
            f"X holds numbers from {extent[0]} to {extent[1]}. Their dtype does not "
            "say which of them mean black and white, and fit saw no such numbers to "
            "infer it from. Pass value_range=(lo, hi) to the estimator, for instance "
            "(0, 1) or (0, 255), or pass X as uint8."
        )


def check_value_range(value_range):
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
