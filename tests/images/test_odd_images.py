"""What files and PIL images become, against plain PIL, and which are refused."""

import io
import json
import warnings
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, ImageOps, features

from sktl._images import decoding
from sktl._images.decoding import decoding_stack
from sktl._images.forms import check_images
from sktl.exceptions import ImageReadError
from tests.helpers import encode
from tests.images.samples import NOISE, read

# Pillow's and our own odd files


class Refused(Exception):
    """By the rules, no image."""


def by_plain_pil(path):
    """Read a file by the documented rules, written independently."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
            if image.width * image.height > decoding.DEFAULT_MAX_PIXELS:
                raise Refused("too large")
            image.load()
        except Exception as error:
            raise Refused(str(error)) from error
        sixteen_bits = image.mode.startswith("I;16") or image.format == "PPM"
        key = image.info.get("transparency")
        upright = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F", "I;16") and not sixteen_bits:
        raise Refused("no range")
    if image.mode in ("I", "I;16"):
        values = np.array(upright)
        grey = np.rint(values / 257)
        grey[values == key] = 255
        return np.stack([grey] * 3, axis=-1)
    white = Image.new("RGBA", upright.size, "white")
    return np.array(Image.alpha_composite(white, upright.convert("RGBA")))[..., :3]


def odd_files(folder):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return [folder / entry["file"] for entry in manifest["files"]]


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_odd_files_are_read_by_the_rules_or_refused(shared):
    """Blending with white may differ by PIL's rounding, no more."""
    paths = odd_files(shared / "data" / "odd_images")
    assert len(paths) == 64
    refused = []
    for index, path in enumerate(paths):
        try:
            expected = by_plain_pil(path)
        except Refused:
            refused.append(index)
            with pytest.raises(ImageReadError) as error:
                read(path)
            assert error.value.path == str(path)
            assert error.value.reason
            continue
        pixels = read(path)
        assert pixels.shape == expected.shape, path
        assert np.abs(pixels - expected.astype(int)).max() <= 1, path
        from_pil = read(Image.open(path))
        np.testing.assert_array_equal(from_pil, pixels, err_msg=str(path))

    assert [index for index, _, _ in check_images(paths, n_jobs=2)] == refused
    assert 10 < len(refused) < 20


def test_odd_files_give_the_same_under_pil_lenience(shared, monkeypatch):
    """LOAD_TRUNCATED_IMAGES fills what is missing with grey; not here."""
    paths = odd_files(shared / "data" / "odd_images")
    strict = check_images(paths)

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    assert [row for row, _, _ in check_images(paths)] == [row for row, _, _ in strict]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(NOISE, kind, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    for item in (data, Image.open(io.BytesIO(data))):
        pixels = read(item)
        np.testing.assert_array_equal(pixels, np.array(upright))
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_unknown_leaves_the_image_as_it_is(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    np.testing.assert_array_equal(read(encode(NOISE, exif=exif.tobytes())), NOISE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"II*\0\xff\xff\xff\xff", b"no TIFF header"])
def test_orientation_in_a_broken_exif_block_counts_as_absent(block):
    data = encode(NOISE, exif=b"Exif\0\0" + block)

    np.testing.assert_array_equal(read(data), NOISE)


# Modes


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "JPEG"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        pytest.param(
            *("YCbCr", "TIFF"),
            marks=pytest.mark.skipif(
                PIL.__version__ < "13",
                reason="Pillow 12 reads its own YCbCr TIFF as RGBX and calls it short",
            ),
        ),
        ("LAB", "TIFF"),
    ],
)
def test_opaque_modes_are_converted_by_pil(mode, kind):
    source = Image.fromarray(NOISE)
    if mode == "LAB":
        source = Image.merge("LAB", source.split())
    data = encode(source.convert(mode), kind)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))

    np.testing.assert_array_equal(read(data), expected)
    np.testing.assert_array_equal(read(Image.open(io.BytesIO(data))), expected)


def transparent(mode):
    """An image whose upper half is see-through, by the means of each mode."""
    image = Image.fromarray(NOISE)
    if mode == "LA":
        image = image.convert("LA")
    if mode in ("RGBA", "LA"):
        alpha = np.full((60, 40), 255, np.uint8)
        alpha[:30] = 0
        image.putalpha(Image.fromarray(alpha))
        return image, {}
    image = image.quantize(100) if mode == "P" else image.convert(mode)
    image.paste({"P": 7, "L": 7, "RGB": (1, 2, 3), "1": 0}[mode], (0, 0, 40, 30))
    return image, {"transparency": image.getpixel((0, 0))}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_transparent_parts_become_white(mode):
    image, options = transparent(mode)
    opaque = np.array(image.convert("RGB"))

    pixels = read(encode(image, **options))

    assert (pixels[:30] == 255).all()
    clear = (opaque[30:] != opaque[0, 0]).any(axis=-1)
    np.testing.assert_array_equal(pixels[30:][clear], opaque[30:][clear])


def test_transparent_grey_of_16_bits_becomes_white():
    grey = np.arange(2400, dtype=np.uint16).reshape(60, 40) * 27

    pixels = read(encode(grey, transparency=27 * 5))

    expected = np.rint(grey / 257)
    expected[0, 5] = 255
    np.testing.assert_array_equal(pixels[..., 0], expected)


def test_palette_with_alpha_gives_no_warning():
    image = Image.fromarray(NOISE).quantize(16)
    data = encode(image, transparency=bytes(range(0, 256, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(data)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(9, dtype=np.float32).reshape(3, 3) / 8, "TIFF"),
        (np.arange(9, dtype=np.int32).reshape(3, 3), "TIFF"),
    ],
)
def test_deep_images_without_a_known_white_ask_for_a_range(array, kind):
    data = encode(array, kind)
    for item in (data, Image.fromarray(array)):
        asked = r"pass value_range=\(lo, hi\)\nRepair .*, unless the reason says what"
        with pytest.raises(ImageReadError, match=asked):
            read(item)
    assert read(data, value_range=(0, array.max()))[2, 2, 0] == 255


def test_float_image_with_nan_is_refused():
    with pytest.raises(ImageReadError, match="NaN or infinity"):
        read(encode(np.full((3, 3), np.nan, np.float32), "TIFF"), value_range=(0, 1))


@pytest.mark.parametrize("big_endian", [False, True])
def test_16_bits_are_scaled_not_clipped(big_endian):
    grey = np.arange(2400, dtype=np.uint16).reshape(60, 40) * 27
    image = Image.fromarray(grey)
    if big_endian:
        image = Image.frombytes("I;16B", (40, 60), grey.astype(">u2").tobytes())

    for item in (image, encode(image, "TIFF")):
        np.testing.assert_array_equal(read(item)[..., 1], np.rint(grey / 257))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    if kind == "WEBP":
        options["lossless"] = True
    data = encode(frames[0], kind, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3

    np.testing.assert_array_equal(read(data), np.array(frames[0]))


def test_frame_that_a_pil_image_stands_at_counts():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    image = Image.open(io.BytesIO(data))
    image.seek(2)

    np.testing.assert_array_equal(read(image), np.array(frames[2]))
    assert image.tell() == 2


# Strictness


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_truncated_files_are_refused_whatever_pil_is_told(kind, lenient, monkeypatch):
    """Cut in the pixels, so that opening still succeeds. Fault 20."""
    data = encode(NOISE, kind)[: -len(encode(NOISE, kind)) // 3]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)

    with pytest.raises(ImageReadError):
        read(data)
    if kind not in ("TIFF", "WEBP"):  # whose end PIL needs already for opening
        with pytest.raises(ImageReadError):
            read(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_whole_tiff_files_are_read_whatever_pil_is_told(
    compression, lenient, monkeypatch
):
    """PIL has two ways to read them, which differ in files larger than a block."""
    large = np.tile(NOISE, (5, 10, 1)) ^ np.arange(400, dtype=np.uint8)[:, None]
    data = encode(large, "TIFF", compression=compression)
    assert len(data) > 2 * ImageFile.MAXBLOCK
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)

    np.testing.assert_array_equal(read(data), large)


# Bombs


def giant(width, height):
    """A PNG header that declares a size, and nothing to fill it."""
    small = bytearray(encode(Image.new("1", (8, 8))))
    small[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


@pytest.mark.parametrize("limit", [None, 10, Image.MAX_IMAGE_PIXELS])
def test_bombs_are_refused_from_the_header_whatever_pil_is_told(limit, monkeypatch):
    """Nothing is decoded, PIL's own limit is not asked, and no warning is seen.

    Fault 23.
    """
    loads = []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", loads.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in [(10500, 10001), (15000, 15000), (2**31 - 1, 2**31 - 1)]:
            with pytest.raises(ImageReadError, match=r"declares .* pixels, more than"):
                read(giant(*size))
    assert loads == []


def test_formats_that_run_other_programs_are_refused():
    eps = encode(NOISE, "EPS")

    with pytest.raises(ImageReadError, match="PDF or PostScript"):
        read(eps)


def test_decoding_stack_names_the_decoders():
    names = ("libjpeg_turbo", "jpg", "zlib", "libtiff", "webp", "avif", "jpg_2000")
    versions = [f"{name} {features.version(name)}" for name in names]
    for text in [f"pillow {Image.__version__}", *versions]:
        assert text in decoding_stack.__wrapped__().split(", ")


STARTS = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "TIFF": b"II*\0",
    "WEBP": b"RIFF\0\0\0\0WEBP",
    "AVIF": b"\0\0\0\x18ftypavif",
    "JPEG 2000": b"\xff\x4f\xff\x51",
    "QOI": b"qoif",
    "ICO": b"\0\0\x01\0",
    "PCX": b"\n\5\1",
    "SGI": b"\x01\xda\0\x01",
    "DDS": b"DDS ",
}


@pytest.mark.parametrize("kind", STARTS)
def test_file_that_ends_in_its_header_names_its_format(kind):
    with pytest.raises(ImageReadError, match=f"has a broken {kind} header"):
        read(STARTS[kind])
