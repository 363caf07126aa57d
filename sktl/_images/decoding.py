"""One image, decoded and upright, as 8-bit RGB; and cut to what a network sees.

The only user of PIL. Everything here may be called from several threads; PIL's global
flags and the warnings filters are left alone, and change no pixel.

The rules, for files, `bytes`, PIL images and arrays alike:

* Transparent images are laid over white, as on a page.
* The EXIF orientation is applied. An EXIF block that cannot be parsed counts as absent.
* Of an animation or a multi-page file the first frame counts; of a PIL image the frame
  it stands at.
* 8-bit grey is repeated; CMYK, YCbCr, LAB, HSV and palettes are converted by PIL.
* 16-bit grey maps 0..65535 to 0..255 (by v / 257, rounded). 16-bit colour files keep
  their high byte, which is all that PIL reads of them.
* 32-bit integer and float images do not say what black and white are: they need an
  explicit range.
* What is cut off or fails a decoder's checks is refused, also where
  `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set. Damage that a format cannot notice
  (most of JPEG, BMP, GIF, TIFF) goes unseen here too.
"""

import functools
import hashlib
import io
import struct
import threading
import types
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, features
from PIL import __version__ as pillow_version

from sktl.exceptions import ImageReadError

__all__ = [
    "EncodedImage",
    "Geometry",
    "LazyImage",
    "PixelImage",
    "array_pixels",
    "decoding_stack",
    "fit_to",
    "is_pil",
    "pil_pixels",
    "unreadable",
]

# Read from the header, before a pixel is decoded. Above the 102 million pixels of the
# largest common camera sensors; decoded, such an image takes 315 MB.
MAX_PIXELS = 105_000_000

# Formats with a signature and a decoder that runs nothing else (EPS would start
# Ghostscript; TGA, without signature, would read many broken files as noise). HEIF is
# there once the user has registered a plugin for it.
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF"),
    *("JPEG2000", "PPM", "QOI", "ICO"),
)

# An image of 1 x 2000 resized to a short side of 256 would be 512000 x 256. Up to this
# many pixels (67 MB in PIL) the whole is resized, above it only what the crop keeps.
MAX_RESIZED_PIXELS = 2**24

_ORIENTATION_TAG = 0x0112
_TURN_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class LazyImage(ABC):
    """One image of `X`, not necessarily decoded yet.

    Attributes
    ----------
    path : str or None
        Where it was read from.
    """

    path = None

    @abstractmethod
    def digest(self):
        """Give the SHA-256 of the content: equal digests, equal pixels."""

    @abstractmethod
    def pixels(self):
        """Give the upright image, uint8 (h, w, 3), C-contiguous."""


class EncodedImage(LazyImage):
    """A file's bytes: what is hashed is what is decoded."""

    def __init__(self, index, path, data, value_range):
        self.path = path
        self._index, self._data, self._value_range = index, data, value_range

    def digest(self):
        digest = hashlib.sha256(b"sktl encoded image\0")
        if self._value_range is not None:
            digest = hashlib.sha256(b"sktl encoded image in range\0")
            digest.update(struct.pack("<2d", *self._value_range))
        digest.update(self._data)
        return digest.digest()

    def pixels(self):
        try:
            return _decode(self._data, self._value_range)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise unreadable(self._index, self.path, error) from error


class PixelImage(LazyImage):
    """Pixels already at hand; the same for an array, a tensor and a PIL image."""

    def __init__(self, pixels):
        self._pixels = pixels

    def digest(self):
        digest = hashlib.sha256(b"sktl pixels\0")
        digest.update(struct.pack("<2q", *self._pixels.shape[:2]))
        digest.update(self._pixels)
        return digest.digest()

    def pixels(self):
        return self._pixels


def unreadable(index, path, error):
    """Name the row that an error belongs to."""
    return ImageReadError([(index, path, _reason_of(error))])


def _reason_of(error):
    """Say in one line why reading failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, (OSError, ValueError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@functools.cache
def decoding_stack():
    """Versions that decide how a file's bytes become pixels, for cache keys."""
    libraries = ("libjpeg_turbo", "jpg", "zlib", "libtiff", "webp", "avif", "jpg_2000")
    versions = [f"{name} {features.version(name)}" for name in libraries]
    return ", ".join([f"sktl images 1, pillow {pillow_version}", *versions])


# Numbers to pixels


def array_pixels(values, value_range):
    """Make uint8 (h, w, 3) of numbers (h, w) or (h, w, c), c in 1, 2, 3, 4.

    `value_range` None: the dtype decides (uint8, uint16, bool). Always a fresh,
    C-contiguous array, so that nobody else can change it.
    """
    levels = _to_bytes(values, value_range)
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.shape[-1] in (2, 4):
        levels = _over_white(levels[..., :-1], levels[..., -1:])
    if levels.shape[-1] == 1:
        levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
    return np.array(levels, order="C")


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


# Files and PIL images to pixels


def is_pil(item):
    """Whether `item` is a PIL image."""
    return isinstance(item, Image.Image)


def _decode(data, value_range=None):
    """Decode an encoded image; `value_range` is for what is deeper than 8 bits."""
    if not data:
        raise ValueError("is empty (0 bytes)")
    with _open(data) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"declares {width} x {height} pixels, more than the {MAX_PIXELS} that "
                "sktl decodes; scale it down first"
            )
        _load_strictly(image)
        return _upright_pixels(image, value_range)


def _open(data):
    """Open as `Image.open` does, but without its global limit on pixels.

    That limit warns where this module's own decides, and filters cannot be changed for
    one thread.
    """
    Image.init()
    stream = io.BytesIO(data)
    flaw = "is no image in a format sktl reads"
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory and (accept is None or accept(data[:16]))
        if isinstance(accepted, str):
            raise ValueError(accepted)
        if accepted:
            stream.seek(0)
            try:
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                flaw = f"has a broken {name} header ({_reason_of(error)})"
    raise ValueError(f"{flaw}; it begins with {bytes(data[:16])!r}")


def pil_pixels(image, value_range=None):
    """Convert a user's PIL image, which stays as it is.

    A lazily opened one is loaded by that, as PIL does at the first use of its pixels.
    """
    # Loading an image is not safe in two threads; X may hold the same image twice.
    with _LOCKS[hash(id(image)) % len(_LOCKS)]:
        _load_once(image)
        return _upright_pixels(image, value_range)


_LOCKS = tuple(threading.Lock() for _ in range(61))
_broken = weakref.WeakValueDictionary()  # id -> PIL image whose loading failed


def _load_once(image):
    # PIL takes a failed load for a finished one: asked again, it gives a part.
    if _broken.get(id(image)) is image:
        raise OSError("could not be loaded earlier, and PIL cannot load it again")
    try:
        _load_strictly(image)
    except Exception:
        _broken[id(image)] = image
        raise


def _load_strictly(image):
    """Load an image, refusing a truncated one whatever PIL's global flag says."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES and getattr(image, "tile", None)
    if not lenient or _has_strict_loader(image):
        image.load()
        return
    # PIL's own loader, which reads the flag from its globals, with globals of its own:
    # changing the flag itself would change it for other threads.
    strict = dict(vars(ImageFile), LOAD_TRUNCATED_IMAGES=False)
    types.FunctionType(ImageFile.ImageFile.load.__code__, strict)(image)
    if hasattr(image, "_ended"):  # JPEG's reader, then, feeds an end that was not there
        raise OSError("image file is truncated")


def _has_strict_loader(image):
    own = ("WEBP", "AVIF", "HEIF", "ICO")
    return image.format in own or getattr(image, "use_load_libtiff", False)


def _upright_pixels(image, value_range):
    pixels = _rgb_pixels(image, value_range)
    turn = _TURN_UPRIGHT.get(_orientation(image))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _orientation(image):
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Images with damaged EXIF are common and shown by every viewer, unturned.
        return 1


def _rgb_pixels(image, value_range):
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_pixels(image, value_range)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    shown = image if image.mode == mode else image.convert(mode)
    return array_pixels(np.asarray(shown), None)


def _deep_pixels(image, value_range):
    values = np.asarray(image)
    key = image.info.get("transparency")
    if value_range is None:
        # PPM is the one format whose 16 bits PIL keeps in its 32-bit mode.
        if not (image.mode.startswith("I;16") or image.format == "PPM"):
            raise ValueError(
                f"holds {'float' if image.mode == 'F' else '32-bit integer'} numbers "
                f"(PIL mode {image.mode!r}) from {values.min()} to {values.max()}, "
                "which do not say what black and white are; pass value_range=(lo, hi)"
            )
        levels = values.astype(np.uint16)
    elif not np.isfinite(values).all():
        raise ValueError("contains NaN or infinity")
    else:
        levels = _scale(values, *value_range)
    if not isinstance(key, int):
        return array_pixels(levels, None)
    shown = array_pixels(levels, None)
    shown[values == key] = 255  # the transparent grey of a PNG, over white
    return shown


# Pixels to a network's square


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
