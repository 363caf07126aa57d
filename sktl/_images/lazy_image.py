"""One image, opened: what is hashed, what is decoded, what a network sees of it."""

import hashlib
import os
import re
import reprlib
import stat
import struct
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from sktl._images.decoding import decode
from sktl._images.geometry import fit_to, size_of
from sktl._utils.file_state import file_state, is_settled, seen_from
from sktl.exceptions import ImageReadError

# No operating system in use accepts a longer path.
LONGEST_PATH = 4096
# How many files' digests are remembered.
MOST_DIGESTS = 2**16

_digests = {}


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
    def decode(self):
        """Give the upright image, as `decoding.decode` does, and its assumed bits.

        Returns
        -------
        image : PIL image of mode RGB, or ndarray of shape (h, w, 3), dtype uint8
        bits : 8, 16 or None
            Of a format whose black and white are assumed, whatever the numbers are.
        """

    def pixels(self):
        """Give the upright image, uint8 (h, w, 3), C-contiguous."""
        return np.asarray(self.decode()[0])

    def fit_to(self, geometry):
        """Give what a network sees, uint8 (crop, crop, 3), and what it is made from.

        Returns
        -------
        pixels : ndarray
        size : (h, w)
            Of the image.
        bits : 8, 16 or None
            As `decode` gives them.
        """
        image, bits = self.decode()
        return fit_to(image, geometry), size_of(image), bits


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

    def decode(self):
        data = self._data
        try:
            return decode(data, self._value_range)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise unreadable(self._row, self.path, error) from error


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
            raise unreadable(self._row, self.path, error) from error

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

    def decode(self):
        if self._known is not None and super().digest() != self._known:
            error = OSError("changed while it was read; call again")
            raise unreadable(self._row, self.path, error)
        return super().decode()


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

    def decode(self):
        return self._pixels, self._bits


def unreadable(row, path, error):
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
    return f"no such file{seen_from(path)}"
