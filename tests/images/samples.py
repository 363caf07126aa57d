"""Images, and files of them, that the tests of this folder share."""

import numpy as np

from sktl._images.forms import open_images

N, SIDE = 5, 9


def make_rgb():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    rgb[0, 0, 0] = 0, 128, 255
    return rgb


RGB = make_rgb()
GREY = RGB[..., 0]
NCHW = RGB.transpose(0, 3, 1, 2)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)


def all_pixels(X, **options):
    return [image.pixels() for image in open_images(X, **options)]


def read(item, **options):
    return open_images([item], **options)[0].pixels()
