"""The square that a network sees of an image: resized, and cropped or padded."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

# An image of 1 x 2000 resized to a short side of 256 would be 512000 x 256. Up to this
# many pixels (67 MB in PIL) the whole is resized, above it only what the crop keeps.
MAX_RESIZED_PIXELS = 2**24
FITS = ["crop", "stretch", "pad"]
INTERPOLATIONS = [member.name.lower() for member in Image.Resampling]


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the square that a network sees.

    Parameters
    ----------
    resize : int
        Length that the short side gets (`fit="crop"`), the long side ("pad") or both
        ("stretch"), in pixels.
    crop : int
        Side of the square cut from the centre, in pixels. What is smaller than that is
        padded.
    interpolation : str
        "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
    fit : {"crop", "stretch", "pad"}
    fill : tuple of 3 int
        Colour of what is padded.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    fit: str = "crop"
    fill: tuple[int, int, int] = (0, 0, 0)


def fit_to(image, geometry):
    """Resize and crop an image to uint8 (crop, crop, 3).

    Bit for bit what torchvision's `resize` and `center_crop` make of a PIL image; or,
    for "stretch" and "pad", timm's `crop_mode="squash"` and "border". An array that
    already fits comes back as it is.

    Parameters
    ----------
    image : ndarray of shape (h, w, 3), dtype uint8, or PIL image of mode RGB
    geometry : Geometry
    """
    height, width = size_of(image)
    size = _resized(geometry, height, width)
    is_giant = size[0] * size[1] > max(MAX_RESIZED_PIXELS, height * width)
    resize = _resize_kept_part if is_giant else _resize
    return _centre_crop(resize(image, size, geometry), geometry)


def size_of(image):
    """Height and width of an array or a PIL image."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def _resized(geometry, height, width):
    length = geometry.resize
    if geometry.fit == "stretch":
        return length, length
    if geometry.fit == "pad":  # rounded as in timm/data/transforms.py, 1.0
        ratio = max(height / length, width / length)
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    if width <= height:
        return int(length * height / width), length
    return length, int(length * width / height)


def _resize(image, size, geometry, box=None):
    if box is None and size_of(image) == size:
        return np.asarray(image)
    method = Image.Resampling[geometry.interpolation.upper()]
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return np.asarray(image.resize((size[1], size[0]), method, box=box))


def _resize_kept_part(image, size, geometry):
    """Resize only the part along the long side that the centre crop will keep."""
    shape = size_of(image)
    axis = int(size[1] > size[0])
    kept = list(size)
    kept[axis] = min(geometry.crop, size[axis])
    start = round((size[axis] - kept[axis]) / 2)
    scale = shape[axis] / size[axis]
    box = [0, 0, shape[1], shape[0]]  # left, upper, right, lower
    box[1 - axis] = start * scale
    box[3 - axis] = (start + kept[axis]) * scale
    return _resize(image, tuple(kept), geometry, box)


def _centre_crop(pixels, geometry):
    height, width = pixels.shape[:2]
    crop = geometry.crop
    if (height, width) == (crop, crop):
        return pixels
    if min(height, width) < crop:
        pixels = _pad(pixels, geometry)
        height, width = pixels.shape[:2]
    # Python's rounding to even, as in torchvision.
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


def _pad(pixels, geometry):
    height, width = pixels.shape[:2]
    shape = max(height, geometry.crop), max(width, geometry.crop)
    padded = np.full((*shape, 3), geometry.fill, np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    padded[top : top + height, left : left + width] = pixels
    return padded
