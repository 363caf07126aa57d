"""From an 8-bit RGB image to the numbers a network was trained on."""

import math
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from numbers import Integral

import numpy as np

from sktl._images.geometry import FITS, INTERPOLATIONS, Geometry
from sktl._utils.printable import shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are prepared for a network.

    Pass it as `preprocessing` to an estimator. Settings that are None stay as they were
    when the network's weights were trained. `preprocessing_` of a fitted estimator
    shows the settings used; none of them is None.

    Parameters
    ----------
    resize : int or None, default=None
        Length in pixels to which the short side (`fit="crop"`), the long side (`"pad"`)
        or both sides (`"stretch"`) are resized. None means the length used with the
        weights. If you set `crop`, or a `fit` other than theirs, None means the same as
        `crop` instead, so that nothing is cut off along the side that is resized.
    crop : int or None, default=None
        Side in pixels of the square that the network gets, the centre of the resized
        image. A smaller image is padded.
    interpolation : str or None, default=None
        "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos", as in PIL.
    mean, std : tuple of 3 floats or None, default=None
        For red, green and blue: values, scaled to 0-1, are normalised by subtracting
        `mean` and dividing by `std`.
    fit : {"crop", "stretch", "pad"} or None, default=None
        How an image that is not square is made square. `"crop"` cuts off the ends of
        the long side. `"stretch"` keeps the whole image but not its proportions.
        `"pad"` keeps both, and adds bars of the colour `mean` (a letterbox).

    Raises
    ------
    ValueError
        If a value is not accepted.

    See Also
    --------
    PretrainedFeatureExtractor : Its `image_size` is short for `crop`.

    Notes
    -----
    Pixel for pixel, `"crop"` is torchvision's `Resize` and `CenterCrop`; `"stretch"`
    and `"pad"` are timm's `crop_mode="squash"` and `"border"`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import Preprocessing, PretrainedFeatureExtractor
    >>> X, _ = load_digits(return_X_y=True)
    >>> padded = Preprocessing(fit="pad", crop=32)
    >>> extractor = PretrainedFeatureExtractor(preprocessing=padded).fit(X[:10])
    >>> extractor.preprocessing_.fit, extractor.preprocessing_.resize
    ('pad', 32)
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fit: str | None = None

    def __post_init__(self):
        for name in ("resize", "crop"):
            object.__setattr__(self, name, _length(name, getattr(self, name)))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _colour(name, getattr(self, name)))
        for name, accepted in (("interpolation", INTERPOLATIONS), ("fit", FITS)):
            value = getattr(self, name)
            if value is not None and value not in accepted:
                raise ValueError(f"{name}={value!r} must be one of {accepted}.")

    @cached_property
    def geometry(self):
        """The settings that concern the shape of images."""
        fill = [round(255 * share) for share in self.mean]
        return Geometry(
            self.resize,
            self.crop,
            self.interpolation,
            self.fit,
            tuple(np.clip(fill, 0, 255).tolist()) if self.fit == "pad" else (0, 0, 0),
        )


def _length(name, value):
    if value is None:
        return None
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={shown(value)} must be a whole number, at least 1.")
    return int(value)


def _colour(name, values):
    if values is None:
        return None
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name}={shown(values)} must be three numbers, of R, G, B.")
    if name == "std" and not (numbers > 0).all():
        raise ValueError(f"std={shown(values)} must be three numbers above 0.")
    return tuple(numbers.tolist())


@cache
def filled(asked, trained):
    """The settings asked for, with those that are None taken from `trained`."""
    given = {k: v for k, v in asdict(asked).items() if v is not None}
    differs = "crop" in given or asked.fit not in (None, trained.fit)
    if differs and "resize" not in given:
        given["resize"] = given.get("crop", trained.crop)
    return replace(trained, **given)


def from_plain(saved):
    """Rebuild all settings from a dict that `asdict` made and a file held."""
    preprocessing = Preprocessing(**saved)
    if None in vars(preprocessing).values():
        raise ValueError("it does not say how its images are prepared")
    return preprocessing


IMAGENET = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bilinear",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="crop",
)


def from_torchvision(preset):
    """As the transforms of torchvision's weights prepare images."""
    return Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=preset.mean,
        std=preset.std,
        fit="crop",
    )


def from_timm(config):
    """As `timm.data.create_transform` prepares images for evaluation."""
    side = min(config["input_size"][1:])
    fits = {"squash": "stretch", "border": "pad"}
    return Preprocessing(
        resize=math.floor(side / (config.get("crop_pct") or 0.875)),
        crop=side,
        interpolation=config.get("interpolation") or "bicubic",
        mean=config.get("mean", IMAGENET_MEAN),
        std=config.get("std", IMAGENET_STD),
        fit=fits.get(config.get("crop_mode"), "crop"),
    )
