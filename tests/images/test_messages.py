"""Messages are short, can be printed, and say what to do next."""

import base64
import io
import os
import re
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from sktl import PretrainedFeatureExtractor, check_images
from sktl.exceptions import (
    ImageLayoutError,
    ImageOrientationWarning,
    ImageReadError,
)
from tests.helpers import encode, write
from tests.images.samples import NOISE, RGB, read

LONG = base64.b64encode(encode(NOISE) * 1000).decode()  # 10 MB


def fit_transform(X, **params):
    return PretrainedFeatureExtractor("sktl_mini", cache=None, **params).fit_transform(
        X
    )


@pytest.mark.parametrize(
    "X",
    [
        [LONG] * 30,
        LONG,
        np.array([LONG[:100_000]] * 3),
        pd.Series([LONG] * 3),
        pd.DataFrame({"a": [LONG] * 3}),
        pd.DataFrame({"a": [LONG], "b": [LONG]}),
        [[LONG]],
        ["nowhere/" * 100_000] * 30,
        [("x" * 250 + "/") * 15 + "x.png"] * 30,
    ],
)
def test_messages_are_short_whatever_came_in(X):
    with pytest.raises((TypeError, ValueError)) as error:
        fit_transform(X)
    assert len(str(error.value)) < 12_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("prefix", ["", "data:image/x;base64,"])
def test_base64_is_recognised(kind, prefix):
    text = prefix + base64.b64encode(encode(RGB[0], kind)).decode()
    [(_, _, reason)] = check_images([text])
    assert "looks like base64" in reason
    assert "base64.b64decode" in reason
    [(_, _, reason)] = check_images([text.encode()])
    assert "looks like base64" in reason


def test_path_that_only_begins_like_base64_is_a_path():
    [(_, path, reason)] = check_images(["/9j/nowhere.jpg"])
    assert path == "/9j/nowhere.jpg"
    assert reason == "no such file"


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"line\nbreak.png", b"\x1b[31m.png"])
def test_odd_file_names_are_shown_so_that_they_can_be_printed(name, tmp_path):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with open(path, "wb") as file:
        file.write(b"broken")

    with pytest.raises(ImageReadError) as error:
        fit_transform([path])
    message = str(error.value)
    assert message.encode("utf-8")
    assert len(message.splitlines()) == 3
    assert "\x1b" not in message
    assert error.value.path == path
    with open(path, "wb") as file:
        file.write(encode(RGB[0]))
    assert check_images([path]) == []


def test_path_with_a_line_break_at_its_end_is_told_to_be_stripped(tmp_path):
    path = str(write(tmp_path, RGB[:1])[0])
    [(_, _, reason)] = check_images([path + "\n"])
    assert "strip()" in reason


def test_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    name = write(tmp_path, RGB[:1])[0].name

    assert check_images([f"~/{name}"]) == []
    [(_, path, reason)] = check_images(["~/nowhere.png"])
    assert path == "~/nowhere.png"
    assert "no such file" in reason


def test_folder_is_answered_by_how_to_list_it(tmp_path):
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(TypeError, match=r"a folder: .*glob.* lists"):
            fit_transform(folder)
        assert check_images([folder])[0][2] == "is a directory, not a file"


@pytest.mark.parametrize(
    "X",
    [
        [[1, 2, 3, 4], [1, 2, 3]],
        [np.zeros(4), np.zeros(9)],
        [[[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]],
        [[[1, 2], [3]], [[1, 2], [3, 4]]],
    ],
)
def test_ragged_lists_are_answered_by_arrays(X):
    with pytest.raises(ImageLayoutError, match=r"X is a list of 2 rows.*numpy.asarray"):
        fit_transform(X)


def test_lengths_of_ragged_lists_are_named():
    with pytest.raises(ImageLayoutError, match=r"differ \(\[1, 2, 4\]\)"):
        fit_transform([[1, 2, 3, 4], 5, [1, 2]])


def test_single_grey_image_is_answered_by_how_to_wrap_it():
    fitted = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(RGB)
    with pytest.raises(ImageLayoutError, match=r"pass X\[None\]"):
        fitted.transform(np.zeros((300, 469), np.uint8))


# Images that were turned before


def opened(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.open(io.BytesIO(encode(NOISE, "JPEG", exif=exif.tobytes())))


def test_images_turned_by_hand_are_warned_of():
    turned = opened(6).rotate(-90, expand=True)
    with pytest.warns(ImageOrientationWarning, match="row 1.*exif_transpose"):
        fit_transform([opened(6), turned])


@pytest.mark.parametrize(
    "image",
    [
        opened(6),
        ImageOps.exif_transpose(opened(6)),
        opened(1).rotate(90),
        Image.fromarray(NOISE),
    ],
)
def test_images_of_which_the_turn_is_known_are_not_warned_of(image, recwarn):
    fit_transform([image])
    assert not recwarn


# Formats


@pytest.mark.parametrize("kind", ["PCX", "SGI", "DDS", "QOI"])
def test_rarer_formats_are_read(kind):
    np.testing.assert_array_equal(
        fit_transform([encode(NOISE, kind)]), fit_transform([NOISE], channels="last")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".*(pillow-heif|broken HEIF)"),
        (encode(NOISE, "TGA"), "is a TGA.*save it as PNG"),
        (encode(NOISE, "PDF"), "is a PDF"),
        (b"\xff\x0a" + bytes(99), "is a JPEG XL"),
        (bytes(128) + b"DICM", "is a DICOM"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "is a hidden file of macOS"),
        (b"photos/of mine/1.JPG", r"looks like a path.*os\.fsdecode"),
        (b"\x93NUMPY\1\0v\0{'descr'", r"is a NumPy file.*numpy\.load"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
        (b"\n<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GIF", "is not in an image format.* begins with b'GIF'"),
    ],
    # A PDF holds the second in which it was made; workers collect in different ones.
    ids="HEIC TGA PDF JPEG-XL DICOM macOS path NumPy SVG HTML LFS cut-off".split(),
)
def test_formats_that_are_not_read_say_why(data, message):
    ((_, _, reason),) = check_images([data])
    assert re.match(message, reason)


@pytest.mark.parametrize("wrap", [lambda data: data, torch.utils.data.DataLoader])
def test_data_set_of_torch_is_refused_with_its_cure(wrap):
    images = torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8))
    with pytest.raises(TypeError, match=r"X is a torch data set .*folder\.samples"):
        fit_transform(wrap(images))


def test_tables_of_pyarrow_and_lazy_frames_name_their_cure():
    pa = pytest.importorskip("pyarrow")
    for X in (pa.table({"path": ["a.png"]}), pa.array(["a.png"])):
        with pytest.raises(TypeError, match=r"of pyarrow\. Pass X\.to_pandas\(\)"):
            fit_transform(X)
    frame = pytest.importorskip("polars").DataFrame({"path": ["a.png"]})
    with pytest.raises(TypeError, match=r"X is a LazyFrame.*X\.collect\(\)"):
        fit_transform(frame.lazy())


def test_record_of_bytes_and_path_names_its_cure():
    """A column of a Parquet file of Hugging Face, read by pandas."""
    [(_, _, reason)] = check_images(pd.Series([{"bytes": b"x", "path": None}]))
    assert reason.endswith("pass the bytes in it, item['bytes']")


def test_pil_image_without_pixels_is_unreadable():
    empty = Image.new("RGB", (9, 9)).crop((3, 3, 3, 8))
    [(row, _, reason)] = check_images([NOISE, empty])
    assert (row, reason) == (1, "has no pixels, its size is (0, 5)")


def test_heic_is_read_with_pillow_heif():
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(NOISE)).save(buffer, quality=-1, chroma=444)
    assert check_images([buffer.getvalue()]) == []


def pfm():
    grey = np.linspace(0, 1, 12, dtype="<f4")
    return b"Pf\n4 3\n-1.0\n" + grey.tobytes(), grey.reshape(3, 4)[::-1]


def test_portable_float_maps_ask_for_a_range():
    data, grey = pfm()
    with pytest.raises(ImageReadError, match=r"float numbers.*value_range=\(lo, hi\)"):
        fit_transform([data])
    np.testing.assert_array_equal(
        fit_transform([data], value_range=(0, 1)), fit_transform([grey])
    )


def twelve_bit_tiff(values):
    """A grey TIFF of 12 bits, two values in three bytes, by hand."""
    height, width = values.shape
    flat = values.reshape(-1, 2).astype(np.uint32)
    packed = np.stack(
        [flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255],
        axis=-1,
    )
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1)]
    tags += [(273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, packed.size)]
    parts = [b"II*\0\x08\0\0\0", len(tags).to_bytes(2, "little")]
    for tag, value in tags:
        parts.append(np.array([tag, 4], "<u2").tobytes())
        parts.append(np.array([1, value], "<u4").tobytes())
    return b"".join([*parts, bytes(4), packed.astype(np.uint8).tobytes()])


def test_grey_of_12_bits_is_read_by_its_own_white():
    values = (np.arange(64, dtype=np.uint16) * 65).reshape(8, 8)  # up to 4095
    data = twelve_bit_tiff(values)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), values)

    np.testing.assert_array_equal(
        fit_transform([data]), fit_transform([values], value_range=(0, 4095))
    )


def tiff(values, white_is_zero=False):
    """A grey TIFF file, whose numbers are unsigned or floats."""
    height, width = values.shape
    is_float = values.dtype.kind == "f"
    tags = {
        256: width,
        257: height,
        258: 8 * values.itemsize,
        262: 0 if white_is_zero else 1,
        273: 8,
        278: height,
        279: values.nbytes,
        339: 3 if is_float else 1,
    }
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    start = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes)
    count = struct.pack("<H", len(tags))
    return b"".join([start, values.tobytes(), count, *entries, bytes(4)])


LEVELS = np.arange(0, 250, 5, dtype=np.uint8).reshape(5, 10)


@pytest.mark.parametrize(
    ("values", "value_range", "white_is_zero"),
    [
        (LEVELS.astype("<u2") * 257, "auto", False),
        (LEVELS.astype("<u2") * 257, "auto", True),
        (LEVELS.astype("<u2") * 257, (0, 65535), True),
        (LEVELS.astype("<f4") / 255, (0, 1), True),
        (LEVELS.astype("<u4") * 16843009, (0, 2**32 - 1), False),
    ],
)
def test_deep_tiff_is_read_by_its_tags(values, value_range, white_is_zero):
    data = tiff(values, white_is_zero)
    expected = 255 - LEVELS if white_is_zero else LEVELS
    for item in (data, Image.open(io.BytesIO(data))):
        pixels = read(item, value_range=value_range)
        np.testing.assert_array_equal(pixels[..., 1], expected)


@pytest.mark.parametrize(
    "url", ["https://x.org/a.png", "s3://b/a.png", "file:///a.png"]
)
def test_url_in_place_of_a_path_is_named(url):
    with pytest.raises(ImageReadError, match="no such file; it is a URL.*download it"):
        fit_transform([url])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_sparse(), r"layout torch\.sparse_coo.*X\.to_dense\(\)"),
        (lambda x: x.to("meta"), "on the device 'meta'.*that has numbers"),
        (lambda x: torch.nested.as_nested_tensor([*x]), r"nested.*X\.unbind\(\)"),
    ],
    ids=["sparse", "meta", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensor_that_numpy_cannot_take_is_refused_with_the_cure(change, message):
    X = change(torch.rand(4, 3, 8, 8))
    with pytest.raises(TypeError, match=message):
        fit_transform(X)


def test_tensor_that_is_a_negative_view_is_read():
    X = torch.rand(4, 3, 8, 8)
    np.testing.assert_array_equal(fit_transform(torch._neg_view(-X)), fit_transform(X))
