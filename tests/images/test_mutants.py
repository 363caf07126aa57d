"""Damaged files: the pixels of strict PIL, or an error, soon and in little memory."""

import io
import os
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from sktl import check_images
from sktl.exceptions import ImageReadError
from tests.helpers import encode
from tests.images.samples import NOISE, read

SMOOTH = np.indices((60, 40)).sum(0).astype(np.uint8)
PHOTO = np.stack([SMOOTH, SMOOTH[::-1], NOISE[..., 0] // 8], axis=-1)
ICON = PHOTO[:32, :32]
KINDS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO")
WHOLE = {
    kind: [encode(PHOTO, kind)] for kind in KINDS if kind not in ("JPEG", "TIFF", "ICO")
} | {
    "JPEG": [encode(PHOTO, "JPEG"), encode(PHOTO, "JPEG", progressive=True)],
    "TIFF": [encode(PHOTO, "TIFF"), encode(PHOTO, "TIFF", compression="tiff_lzw")],
    "ICO": [encode(ICON, "ICO"), encode(ICON, "ICO", bitmap_format="bmp")],
}


def make_mutants(n):
    """Files with up to five changed bytes, every third cut off as well."""
    rng = np.random.default_rng(0)
    for number in range(n):
        kind = KINDS[number % len(KINDS)]
        forms = WHOLE[kind]
        data = bytearray(forms[number // len(KINDS) % len(forms)])
        for place in rng.integers(0, len(data), rng.integers(0, 6)):
            data[place] = rng.integers(0, 256)
        end = rng.integers(1, len(data) + 1) if number % 3 == 0 else len(data)
        yield kind, bytes(data[:end])


def by_strict_pil(data):
    """What PIL gives with its flags as they come, or None."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return read(image.copy() if image.format == "ICO" else image)
    except Exception:
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("n", [300, pytest.param(4_000, marks=pytest.mark.slow)])
def test_mutants_give_the_pixels_of_strict_pil_or_an_error(n, lenient, monkeypatch):
    """Faults 21 and 22."""
    n_read = n_refused = 0
    memory = peak_memory()
    for kind, data in make_mutants(n):
        expected = by_strict_pil(data)
        started = time.perf_counter()
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
            try:
                pixels = read(data)
            except ImageReadError:
                pixels = None
        assert time.perf_counter() - started < 5
        if pixels is not None:
            np.testing.assert_array_equal(pixels, expected)
            n_read += 1
        else:
            assert expected is None, kind
            n_refused += 1

    assert min(n_read, n_refused) > n / 10
    assert peak_memory() - memory < 1e9


def peak_memory():
    """Bytes this process has taken at most; 0 on Windows, which does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read_whatever_pil_is_told(kind, monkeypatch):
    expected = [read(data) for data in WHOLE[kind]]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    for data, pixels in zip(WHOLE[kind], expected, strict=True):
        np.testing.assert_array_equal(read(data), pixels)
        np.testing.assert_array_equal(read(Image.open(io.BytesIO(data))), pixels)


@pytest.mark.parametrize("lenient", [False, True])
def test_damage_behind_the_first_frame_of_a_png_is_no_damage(lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    frames = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1])]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])

    pixels = read(data[: data.index(b"fdAT") + 40])

    np.testing.assert_array_equal(pixels, PHOTO)


@pytest.mark.parametrize("lenient", [False, True])
def test_later_frame_of_a_png_is_read(lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    frames = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1])]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    image = Image.open(io.BytesIO(data))
    image.seek(1)

    np.testing.assert_array_equal(read(image), PHOTO[::-1])


@pytest.mark.parametrize("lenient", [False, True])
def test_png_cut_off_behind_its_pixels_is_refused(lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    note = PngInfo()
    note.add(b"noTe", b"a note of somebody's", after_idat=True)
    data = encode(Image.fromarray(PHOTO), "PNG", pnginfo=note)
    np.testing.assert_array_equal(read(data), PHOTO)

    with pytest.raises(ImageReadError, match="Truncated File Read"):
        read(data[: data.index(b"noTe") + 10])


@pytest.mark.parametrize("lenient", [False, True])
def test_png_with_damage_before_its_pixels_is_refused(lenient, monkeypatch):
    """Also where PIL, told to be lenient, does not check what it need not read."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    text = PngInfo()
    text.add_text("title", "a photo")
    data = encode(Image.fromarray(PHOTO), "PNG", pnginfo=text)

    with pytest.raises(ImageReadError, match="checksum in b'tEXt'"):
        read(data.replace(b"a photo", b"a phot0"))


def test_flag_of_pil_is_as_it_was_when_threads_have_read_and_failed(monkeypatch):
    files = [data for forms in WHOLE.values() for data in forms] * 4
    files[::3] = [data[: len(data) // 2] for data in files[::3]]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    failed = [row for row, _, _ in check_images(files, n_jobs=4)]

    assert failed == list(range(0, len(files), 3))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_child_has_pils_flag_as_it_was_while_a_thread_reads(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    reading, over = threading.Event(), threading.Event()

    def slow(image):
        reading.set()
        over.wait()
        return ImageFile.ImageFile.load(image)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", slow)
    thread = threading.Thread(target=check_images, args=[WHOLE["PNG"]])
    thread.start()
    reading.wait()
    if (child := os.fork()) == 0:
        os._exit(0 if ImageFile.LOAD_TRUNCATED_IMAGES else 1)
    over.set()
    _, status = os.waitpid(child, 0)
    thread.join()

    assert os.waitstatus_to_exitcode(status) == 0
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
