"""How large an image may be, decided by its header."""

import io
import struct
import zlib
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from sktl import PretrainedFeatureExtractor, check_images
from sktl._images import pixels as module
from sktl.exceptions import ImageReadError
from tests.helpers import encode
from tests.images.samples import NOISE

KINDS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO"]
N_PIXELS = NOISE.shape[0] * NOISE.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_limit_of_pixels_is_a_setting(kind, monkeypatch):
    data = encode(NOISE, kind)
    with Image.open(io.BytesIO(data)) as image:
        n_pixels = image.width * image.height
    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", str(n_pixels))
    assert check_images([data]) == []

    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", str(n_pixels - 1))
    with pytest.raises(ImageReadError, match="pixels.*SKTL_MAX_IMAGE_PIXELS"):
        PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform([data])


# These readers of PIL ask its global limit themselves, as that of bitmap icons does.
ASKING = ["TIFF", *(["WEBP"] if version("pillow") >= "13" else [])]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASKING])
def test_limit_of_pil_is_not_asked(kind, limit, monkeypatch):
    data = encode(NOISE, kind)
    expected = PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform([data])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    features = PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform([data])

    np.testing.assert_array_equal(features, expected)


@pytest.mark.parametrize("kind", ASKING)
def test_limit_of_pil_is_named_where_pils_reader_asks_it(kind, monkeypatch):
    data = encode(NOISE, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    with pytest.raises(ImageReadError, match="PIL.Image.MAX_IMAGE_PIXELS"):
        PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform([data])


def test_limit_holds_for_images_that_pil_has_not_loaded(monkeypatch):
    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", "100")
    image = Image.open(io.BytesIO(encode(NOISE)))

    [(_, _, reason)] = check_images([image])
    assert "SKTL_MAX_IMAGE_PIXELS" in reason


@pytest.mark.parametrize("text", ["", "1e6", "-1", "many", "1_000"])
def test_limit_that_is_no_number_is_named(text, monkeypatch):
    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", text)
    with pytest.raises(ImageReadError, match="PIXELS=.*number of pixels"):
        PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform(
            [encode(NOISE)]
        )


@pytest.mark.parametrize("payload", ["png", "bmp"])
def test_icon_that_holds_a_giant_is_refused_from_its_header(payload):
    """PIL decodes icons while it opens them; 20,000 x 20,000 would take 1.6 GB."""
    options = {"sizes": [(32, 32)], "bitmap_format": payload}
    icon = bytearray(encode(NOISE[:32, :32], "ICO", **options))
    [start] = struct.unpack_from("<I", icon, 6 + 12)
    if payload == "png":
        icon[start + 16 : start + 24] = struct.pack(">2I", 20_000, 20_000)
        chunk = icon[start + 12 : start + 29]
        icon[start + 29 : start + 33] = struct.pack(">I", zlib.crc32(chunk))
    else:
        icon[start + 4 : start + 12] = struct.pack("<2I", 20_000, 40_000)

    [(_, _, reason)] = check_images([bytes(icon)])
    assert reason.startswith("declares 20000 x 20000 pixels")


def with_scans(n_scans):
    """A progressive JPEG whose last scan is there again and again."""
    data = encode(NOISE, "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    n_more = n_scans - data.count(b"\xff\xda")
    return data[:end] + data[last:end] * n_more + data[end:]


def test_many_scans_of_a_large_jpeg_are_refused(monkeypatch):
    """By the work they make: as many are let pass in a small one."""
    assert check_images([with_scans(60)]) == []

    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", str(N_PIXELS))
    assert check_images([with_scans(20)]) == []
    [(_, _, reason)] = check_images([with_scans(21)])
    assert reason.startswith("has 21 scans of 40 x 60 pixels")


def test_bytes_behind_or_before_a_jpegs_scans_are_no_scans(monkeypatch):
    monkeypatch.setenv("SKTL_MAX_IMAGE_PIXELS", str(N_PIXELS))
    many = b"\xff\xda" * 99
    data = encode(NOISE, "JPEG", comment=many) + many

    assert check_images([data]) == []


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_images_of_many_bands_are_those_of_one(mode, orientation, monkeypatch):
    """Large images are converted by bands of rows."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(NOISE)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(NOISE[..., 0]))
    elif mode == "P":
        image = image.quantize(50)
    elif mode == "I;16":
        image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200)
    data = encode(image, exif=exif.tobytes())
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=None)
    whole = extractor.fit_transform([data])

    monkeypatch.setattr(module, "PIXELS_PER_BAND", 7 * 40)

    np.testing.assert_array_equal(extractor.fit_transform([data]), whole)
