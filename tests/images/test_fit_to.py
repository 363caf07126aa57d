"""Pixels to a network's square, against torchvision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sktl._images import geometry as module
from sktl._images.geometry import Geometry, fit_to
from sktl._networks.preprocessing import from_timm


def by_torchvision(pixels, geometry):
    image = Image.fromarray(pixels)
    mode = InterpolationMode(geometry.interpolation)
    resized = tv.resize(image, geometry.resize, mode)
    return np.asarray(tv.center_crop(resized, geometry.crop))


SIZES = [(64, 64), (37, 91), (91, 37), (20, 20), (7, 200), (200, 7), (1, 1), (256, 300)]


@settings(max_examples=200, deadline=None)
@given(
    *[st.integers(1, 300)] * 2,
    *[st.integers(1, 70)] * 2,
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
def test_fit_to_equals_torchvision(height, width, resize, crop, interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    geometry = Geometry(resize, crop, interpolation)

    fitted = fit_to(pixels, geometry)

    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    np.testing.assert_array_equal(fitted, by_torchvision(pixels, geometry))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_fit_to_stretches_as_pil_resizes(size, interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize((24, 24), method))

    fitted = fit_to(pixels, Geometry(24, 24, interpolation, "stretch"))

    np.testing.assert_array_equal(fitted, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 1.3])
def test_fit_to_equals_the_evaluation_transforms_of_timm(size, crop_mode, crop_pct):
    factory = pytest.importorskip("timm.data.transforms_factory")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    config = {"interpolation": "bicubic", "crop_mode": crop_mode, "crop_pct": crop_pct}
    config["mean"] = (0.5, 0.1, 0.9)
    transform = factory.transforms_imagenet_eval(28, normalize=False, **config)
    preprocessing = from_timm({"input_size": (3, 28, 28), **config})

    fitted = fit_to(pixels, preprocessing.geometry)

    np.testing.assert_array_equal(
        fitted, transform(Image.fromarray(pixels)).permute(1, 2, 0)
    )


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (2, 3)])
def test_fit_to_pads_what_is_thinner_than_a_pixel(size):
    pixels = np.full((*size, 3), 200, np.uint8)

    fitted = fit_to(pixels, Geometry(24, 24, fit="pad", fill=(1, 2, 3)))

    assert fitted.shape == (24, 24, 3)
    assert (fitted == 200).all(-1).sum() >= 24
    assert tuple(fitted[0, 0]) == (1, 2, 3)


def test_fit_to_returns_what_already_fits_unchanged():
    pixels = np.zeros((9, 9, 3), np.uint8)

    assert fit_to(pixels, Geometry(9, 9)) is pixels
    assert fit_to(pixels, Geometry(9, 9, fit="stretch")) is pixels


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (1, 90), (90, 1)])
@pytest.mark.parametrize("crop", [20, 32, 50])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fit_to_of_extreme_shapes_equals_torchvision_closely(
    size, crop, interpolation, monkeypatch
):
    """Of a smooth image: PIL may round its two passes in the other order."""
    height, width = np.indices(size)
    waves = [np.sin(width / 5), np.cos(height / 5), np.sin((width + height) / 9)]
    pixels = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    geometry = Geometry(32, crop, interpolation)
    monkeypatch.setattr(module, "MAX_RESIZED_PIXELS", 64)

    difference = fit_to(pixels, geometry).astype(int) - by_torchvision(pixels, geometry)

    assert np.abs(difference).max() <= 2


def test_fit_to_of_extreme_shapes_never_makes_a_giant(monkeypatch):
    """A whole 1 x 3000 would become 256 x 768000: 786 MB in PIL."""
    largest = []
    resize = Image.Image.resize

    def record(image, size, *args, **kwargs):
        largest.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)
    row = np.random.default_rng(0).integers(0, 256, (1, 3000, 3), np.uint8)

    fitted = fit_to(row, Geometry(256, 224))
    turned = fit_to(row.swapaxes(0, 1), Geometry(256, 224))

    assert fitted.shape == (224, 224, 3)
    np.testing.assert_array_equal(turned, fitted.swapaxes(0, 1))
    assert max(largest) == 256 * 224
