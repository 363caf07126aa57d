"""Files and PIL images to upright pixels of 8-bit RGB.

Everything here may be called from several threads. PIL's global flags and the warnings
filters change no pixel, and are as they were afterwards.

The rules, for files, `bytes`, PIL images and arrays alike:

* Transparent images are laid over white, as on a page.
* The EXIF orientation is applied. An EXIF block that cannot be parsed counts as absent.
* The first frame of an animation or a multi-page file counts; for a PIL image, the
  frame it stands at.
* 8-bit grey is repeated; CMYK, YCbCr, LAB, HSV and palettes are converted by PIL.
* 16-bit grey maps 0..65535 to 0..255 (by v / 257, rounded), grey TIFF files of 12 bits
  0..4095. 16-bit colour files keep their high byte, which is all that PIL reads of
  them.
* 32-bit integer and float images do not say what black and white are: they need an
  explicit range. A TIFF file in which white is the smallest number is inverted.
* What is cut off or fails a decoder's checks is refused, also where
  `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set. Damage that a format cannot notice
  (most of JPEG, BMP, GIF, TIFF) goes unseen here too.

Memory: a decoded image takes 4 bytes per pixel in PIL and 3 as what is made of it. With
104 million pixels, a JPEG or PNG took 720 to 760 MB at most, a progressive JPEG, a TIFF
or 16-bit grey 1.0 GB, CMYK 1.1 GB and a WebP, whose decoder holds it twice, 1.6 GB. A
transparent PNG took 12 bytes per pixel; 16 if EXIF says to turn it, and 16-bit grey 14.
"""

import contextlib
import functools
import io
import os
import re
import struct
import threading
import weakref

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    SgiImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL import __version__ as pillow_version

from sktl._images.pixels import array_pixels
from sktl._utils.environment import number_from_environment

# Above the 102 million pixels of the largest common camera sensors.
DEFAULT_MAX_PIXELS = 105_000_000

# A JPEG's scans are each a pass over the whole image, and take a few bytes. Progressive
# ones have about 10; an image of the largest size is read with up to 20.
MAX_SCANS = 20

_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_PHOTOMETRIC_TAG = 262
_SAMPLE_FORMAT_TAG = 339
_TURNS = {  # from an image as it is stored to one that stands upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def decoding_stack():
    """Versions that decide how a file's bytes become pixels, for cache keys."""
    libraries = ("libjpeg_turbo", "jpg", "zlib", "libtiff", "webp", "avif", "jpg_2000")
    versions = [f"{name} {features.version(name)}" for name in libraries]
    return ", ".join([f"sktl images 3, pillow {pillow_version}", *versions])


def decode(data, value_range=None):
    """Decode an encoded image; `value_range` is for what is deeper than 8 bits.

    Returns
    -------
    image : PIL image of mode RGB, or ndarray of shape (h, w, 3), dtype uint8
        Upright; the former where that is at hand, because it can be resized uncopied.
    bits : 8, 16 or None
        As of `assumed_bits`.
    """
    if not data:
        raise ValueError("is empty (0 bytes)")
    try:
        with _strict(), _open(data) as image:
            _check_size(*image.size)
            if image.format == "JPEG":
                _check_scans(data, image)
            image.load()
            return _upright(image, value_range), assumed_bits(image, value_range)
    except Image.DecompressionBombError as error:
        raise ValueError(
            "is larger than PIL.Image.MAX_IMAGE_PIXELS allows, a limit that PIL's "
            f"reader of this format obeys; raise it too ({error})"
        ) from error


# What is refused from the header


def _check_size(width, height):
    limit = _max_pixels()
    if width * height > limit:
        raise ValueError(
            f"declares {width} x {height} pixels, more than the {limit} that sktl "
            "decodes; scale it down, or raise the environment variable "
            "SKTL_MAX_IMAGE_PIXELS (each pixel takes 7 to 16 bytes of memory)"
        )


def _max_pixels():
    name = "SKTL_MAX_IMAGE_PIXELS"
    return number_from_environment(name, DEFAULT_MAX_PIXELS, "pixels")


def _check_scans(data, image):
    # PIL has read up to the first scan. From there on these two bytes stand for nothing
    # else: within the scans, 255 is followed by 0 or a marker (ITU-T T.81, B.1.1.5).
    start = image.fp.tell()
    n_scans = 1 + data.count(b"\xff\xda", start, data.find(b"\xff\xd9", start))
    if n_scans * image.width * image.height > MAX_SCANS * _max_pixels():
        raise ValueError(
            f"has {n_scans} scans of {image.width} x {image.height} pixels, which "
            "would take very long to decode; save it again with fewer scans"
        )


# Strictness

_flag_lock = threading.Lock()
_n_strict, _flag = 0, False  # threads that decode, and what the flag was before


@contextlib.contextmanager
def _strict():
    """Have PIL refuse what is cut off or damaged, even if a user told it not to.

    Its flag is of the whole process: it is off while any thread is in here.
    """
    global _n_strict, _flag
    with _flag_lock:
        if _n_strict == 0:
            _flag = ImageFile.LOAD_TRUNCATED_IMAGES
        _n_strict += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _flag_lock:
            if _n_strict == 1:
                ImageFile.LOAD_TRUNCATED_IMAGES = _flag
            _n_strict -= 1


def _after_fork_in_child():
    """Undo what threads have begun that do not exist here."""
    global _flag_lock, _n_strict
    _flag_lock = threading.Lock()
    if _n_strict:
        _n_strict, ImageFile.LOAD_TRUNCATED_IMAGES = 0, _flag


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


# Which file is opened by which reader of PIL


def _open_icon(stream):
    """Open an icon's largest image; PIL's own reader would decode it at once."""
    largest = IcoImagePlugin.IcoFile(stream).entry[0]
    stream.seek(largest.offset)
    content = io.BytesIO(stream.read())
    if content.getvalue().startswith(b"\x89PNG"):
        return PngImagePlugin.PngImageFile(content)
    width, height = BmpImagePlugin.DibImageFile(content).size
    _check_size(width, height // 2)  # the lower half is its mask
    stream.seek(0)
    return IcoImagePlugin.IcoImageFile(stream)


def _open_heif(stream):
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ValueError(
            "is a HEIC or HEIF image; to read it, install pillow-heif "
            "(pip install pillow-heif)"
        ) from error
    return HeifImageFile(stream)


# Formats with a signature and a decoder that runs nothing else. The readers are named
# here because `Image.open` asks a global limit on pixels, by which it warns or refuses.
_READERS = {
    rb"\x89PNG\r\n\x1a\n": ("PNG", PngImagePlugin.PngImageFile),
    rb"\xff\xd8\xff": ("JPEG", JpegImagePlugin.JpegImageFile),
    rb"GIF8[79]a": ("GIF", GifImagePlugin.GifImageFile),
    rb"BM": ("BMP", BmpImagePlugin.BmpImageFile),
    rb"MM\0[*+]|II[*+]\0|MM\*\0|II\0\*": ("TIFF", TiffImagePlugin.TiffImageFile),
    rb"RIFF....WEBP": ("WEBP", WebPImagePlugin.WebPImageFile),
    rb"....ftyp(avif|avis)": ("AVIF", AvifImagePlugin.AvifImageFile),
    rb"....ftyp(mif1|msf1).{4,60}avi[fs]": ("AVIF", AvifImagePlugin.AvifImageFile),
    rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)": ("HEIF", _open_heif),
    rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n": (
        "JPEG 2000",
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    ),
    rb"P([1-6f]|0CMYK)\s": ("PPM", PpmImagePlugin.PpmImageFile),
    rb"qoif": ("QOI", QoiImagePlugin.QoiImageFile),
    rb"\0\0\x01\0": ("ICO", _open_icon),
    rb"\n[\0\2\3\5]\x01": ("PCX", PcxImagePlugin.PcxImageFile),
    rb"\x01\xda[\0\x01][\x01\x02]": ("SGI", SgiImagePlugin.SgiImageFile),
    rb"DDS ": ("DDS", DdsImagePlugin.DdsImageFile),
}

# What comes instead of images most often, and what to do about it.
_NO_IMAGES = {
    rb"\xff\x0a|\0\0\0\x0cJXL ": "is a JPEG XL image, which PIL cannot read",
    rb"%PDF|%!PS": "is a PDF or PostScript file; convert its pages to images",
    rb"8BPS": "is a Photoshop file; save the image as PNG",
    rb".{128}DICM": "is a DICOM file; pass its pixel array, or save it as PNG",
    rb"\x93NUMPY": "is a NumPy file; pass the array, numpy.load(path)",
    rb"\0\x05\x16\x07|\0\0\0\x01Bud1": (
        "is a hidden file of macOS, which holds no image; leave it out"
    ),
    rb"(data:image/|iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkq|TU0A|Qk0)[\w+/=\s;,-]{100}": (
        "looks like base64; pass the decoded bytes, base64.b64decode(data)"
    ),
    rb"[^\0\n]{1,500}\.(?i:png|jpe?g|tiff?|gif|webp|bmp)\Z": (
        "looks like a path in bytes; pass it as text, os.fsdecode(path)"
    ),
    rb"\s*<(\?xml|svg)": "is an SVG or XML file; convert it to PNG",
    rb"\s*<(?i:!doctype html|html)": "is a web page, not an image",
    rb"version https://git-lfs": "is a Git LFS pointer; fetch it with 'git lfs pull'",
    rb".*TRUEVISION-XFILE\.\0$": (
        "is a TGA image, which sktl does not read, as such files often have no "
        "signature and a meaningless alpha channel; save it as PNG"
    ),
}


def _open(data):
    name, reader = _reader_of(data)
    try:
        return reader(io.BytesIO(data))
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"has a broken {name} header ({reason})") from error


def _reader_of(data):
    start = bytes(data[:512])
    for signature, reader in _READERS.items():
        if re.match(signature, start, re.DOTALL):
            return reader
    raise ValueError(_what_else(data))


def _what_else(data):
    ends = bytes(data[:512]), bytes(data[-18:])
    for signature, meaning in _NO_IMAGES.items():
        if any(re.match(signature, end, re.DOTALL) for end in ends):
            return meaning
    return f"is not in an image format that sktl reads; it begins with {ends[0][:16]!r}"


# PIL images


def is_pil(item):
    """Whether `item` is a PIL image."""
    return isinstance(item, Image.Image)


def is_edited(image):
    """Whether a PIL image has a turn in its EXIF, but is not as read from a file.

    If it was turned upright by hand, the turn is still there: PIL's operations keep it.
    """
    read = isinstance(image, ImageFile.ImageFile)
    return not read and "exif" in image.info and _orientation(image) in _TURNS


def assumed_bits(image, value_range):
    """Bits of a PIL image whose black and white are those of its format, else None.

    8, to which no range is applied, or 16 for all that has more.
    """
    if not _is_deep(image):
        return 8
    return 16 if value_range is None else None


def _is_deep(image):
    return image.mode == "F" or image.mode.startswith("I")


def pil_pixels(image, value_range=None):
    """Convert a user's PIL image, which stays as it is.

    A lazily opened one is loaded by that, as PIL does at the first use of its pixels.
    """
    # Loading an image is not safe in two threads; X may hold the same image twice.
    with _LOCKS[hash(id(image)) % len(_LOCKS)], _strict():
        _load_once(image)
        return np.asarray(_upright(image, value_range))


_LOCKS = tuple(threading.Lock() for _ in range(61))
_broken = weakref.WeakValueDictionary()  # id -> PIL image whose loading failed


def _load_once(image):
    # To PIL, a failed load is a finished one: asked again, it gives a part.
    if _broken.get(id(image)) is image:
        raise OSError("could not be loaded earlier, and PIL cannot load it again")
    if getattr(image, "tile", None):
        _check_size(*image.size)
    try:
        image.load()
    except Exception:
        _broken[id(image)] = image
        raise


def _upright(image, value_range):
    if 0 in image.size:
        raise ValueError(f"has no pixels, its size is {image.size}")
    turn = _TURNS.get(_orientation(image))
    if _is_deep(image):
        pixels = _deep_pixels(image, value_range)
        return pixels if turn is None else Image.fromarray(pixels).transpose(turn)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    shown = image if image.mode == mode else image.convert(mode)
    shown = shown if turn is None else shown.transpose(turn)
    return shown if mode == "RGB" else array_pixels(np.asarray(shown), None)


def _orientation(image):
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Images with damaged EXIF are common and shown by every viewer, unturned.
        return 1


def _deep_pixels(image, value_range):
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})  # of a TIFF file
    if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT_TAG, (1,))[0] == 1:
        values = values.view(np.uint32)  # PIL reads them as signed
    if value_range is None:
        value_range = _declared_range(image, values, tags)
    elif not np.isfinite(values).all():
        raise ValueError("contains NaN or infinity")
    if value_range is None:  # all 16 bits
        values = values.astype(np.uint16)
    shown = array_pixels(values, value_range)
    if tags.get(_PHOTOMETRIC_TAG) == 0:  # white is the smallest number
        np.subtract(255, shown, out=shown)
    key = image.info.get("transparency")
    if isinstance(key, int):
        shown[np.asarray(image) == key] = 255  # the transparent grey of a PNG
    return shown


def _declared_range(image, values, tags):
    """Range that a file of deep numbers declares; None where it is 0..65535."""
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE_TAG, (16,))[0]
        return None if bits == 16 else (0, 2**bits - 1)
    # PPM is the one format whose 16 bits PIL keeps in its 32-bit mode.
    if image.mode == "I" and image.format == "PPM":
        return None
    raise ValueError(
        f"holds {'float' if image.mode == 'F' else '32-bit integer'} numbers "
        f"(PIL mode {image.mode!r}) from {values.min()} to {values.max()}, "
        "whose black and white are unknown; pass value_range=(lo, hi)"
    )
