"""The square that a network sees of an image: resized, and cropped or padded."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

# An image of 1 x 2000 resized to a short side of 256 would be 512000 x 256. Up to this
# many pixels (67 MB in PIL) the whole is resized, above it only what the crop keeps.
MAX_RESIZED_PIXELS = 2**24


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the square that a network sees.

    Parameters
    ----------
    resize : int
        Length that the short side gets, in pixels.
    crop : int
        Side of the square cut from the centre, in pixels. What is smaller than that is
        padded with black.
    interpolation : str
        "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
    stretch : bool
        True squashes the whole image to `crop` x `crop`; `resize` is not used then.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    stretch: bool = False

    def __post_init__(self):
        for name in ("resize", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be 1 or more")
        known = [member.name.lower() for member in Image.Resampling]
        if self.interpolation not in known:
            raise ValueError(
                f"interpolation={self.interpolation!r} must be one of {known}"
            )


def fit_to(pixels, geometry):
    """Resize and crop uint8 (h, w, 3) to uint8 (crop, crop, 3).

    Bit for bit what torchvision's `resize` and `center_crop` make of a PIL image.
    Pixels that already fit come back as they are.
    """
    if geometry.stretch:
        return _resize(pixels, (geometry.crop, geometry.crop), geometry)
    size = _short_side_to(geometry.resize, pixels.shape)
    if size[0] * size[1] > max(MAX_RESIZED_PIXELS, pixels.shape[0] * pixels.shape[1]):
        return _centre_crop(_resize_kept_part(pixels, size, geometry), geometry.crop)
    return _centre_crop(_resize(pixels, size, geometry), geometry.crop)


def _short_side_to(length, shape):
    height, width = shape[:2]
    if width <= height:
        return int(length * height / width), length
    return length, int(length * width / height)


def _resize(pixels, size, geometry, box=None):
    if box is None and pixels.shape[:2] == size:
        return pixels
    method = Image.Resampling[geometry.interpolation.upper()]
    resized = Image.fromarray(pixels).resize((size[1], size[0]), method, box=box)
    return np.array(resized)


def _resize_kept_part(pixels, size, geometry):
    """Resize only the part along the long side that the centre crop will keep."""
    axis = int(size[1] > size[0])
    kept = list(size)
    kept[axis] = min(geometry.crop, size[axis])
    start = round((size[axis] - kept[axis]) / 2)
    scale = pixels.shape[axis] / size[axis]
    box = [0, 0, pixels.shape[1], pixels.shape[0]]  # left, upper, right, lower
    box[1 - axis] = start * scale
    box[3 - axis] = (start + kept[axis]) * scale
    return _resize(pixels, tuple(kept), geometry, box)


def _centre_crop(pixels, crop):
    height, width = pixels.shape[:2]
    if (height, width) == (crop, crop):
        return pixels
    if min(height, width) < crop:
        pixels = _pad(pixels, crop)
        height, width = pixels.shape[:2]
    # Python's rounding to even, as in torchvision.
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


def _pad(pixels, crop):
    lacking = [max(0, crop - length) for length in pixels.shape[:2]]
    widths = [(lack // 2, (lack + 1) // 2) for lack in lacking]
    return np.pad(pixels, [*widths, (0, 0)])
