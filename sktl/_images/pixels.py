"""Numbers to pixels: 8-bit RGB, with transparency laid over white."""

import numpy as np

# Large images are converted by bands of rows of about this many pixels: what that takes
# besides the result is then a few bytes for each of these alone.
PIXELS_PER_BAND = 2**21


def array_pixels(values, value_range):
    """Make uint8 (h, w, 3) of numbers (h, w) or (h, w, c), c in 1, 2, 3, 4.

    `value_range` None: the dtype decides (uint8, uint16, bool). Always a fresh,
    C-contiguous array, so that nobody else can change it.
    """
    pixels = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in bands(values.shape):
        pixels[rows] = _rgb(values[rows], value_range)
    return pixels


def bands(shape):
    """Slices of rows that together make up an image of `shape` (h, w, ...)."""
    height, width = shape[:2]
    step = max(1, PIXELS_PER_BAND // width)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def _rgb(values, value_range):
    levels = _to_bytes(values, value_range)
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.shape[-1] in (2, 4):
        levels = _over_white(levels[..., :-1], levels[..., -1:])
    return levels


def _to_bytes(values, value_range):
    if value_range is not None:
        return _scale(values, *value_range)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values


def _scale(values, lo, hi):
    # In float64, so that float32 and float64 forms of an image give the same bytes.
    levels = values.astype(np.float64)
    np.clip(levels, lo, hi, out=levels)
    levels -= lo
    levels /= (hi - lo) or 1.0
    levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)


def _over_white(colour, alpha):
    # Exact, rounded; the largest intermediate is 255 * 255 + 127, within uint16.
    shown = colour.astype(np.uint16)
    shown *= alpha
    shown += (255 - alpha).astype(np.uint16) * 255 + 127
    shown //= 255
    return shown.astype(np.uint8)
