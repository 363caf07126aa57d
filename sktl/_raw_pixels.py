"""`RawPixels`: images in, their pixels out, which is what a network has to beat."""

from functools import partial

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from sktl._features.image_input import IMAGE_CONSTRAINTS, OF_IMAGES, ImageInputMixin
from sktl._images.forms import report_unreadable
from sktl._images.geometry import Geometry, fit_to

LARGEST_SIZE = 32  # where the user names none
COLOURS = ("red", "green", "blue")
LUMA = np.array([19595, 38470, 7471])  # of these three, in 1 / 2**16 (ITU-R 601)


class RawPixels(ImageInputMixin, TransformerMixin, BaseEstimator):
    """Turn images into rows of their own pixels, without a network.

    A simple model on these rows shows whether a network is worth having at all. Images
    can be passed in any form that `PretrainedFeatureExtractor` takes, except
    collections of Dask and Ray, so both can be compared on the same files. The default
    contenders of `compare_transfer` include logistic regression on raw pixels.

    Parameters
    ----------
    image_size : int or None, default=None
        Side, in pixels, of the square to which each image is stretched. None means 32;
        but if all images seen in `fit` are squares of one smaller size, they stay as
        they are.
    image_shape : tuple of int or None, default=None
        As in `PretrainedFeatureExtractor`, like the next three parameters: how a row of
        a 2-D `X` becomes an image, `(h, w)` or `(h, w, c)`.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channel axis of a 4-D array is.
    value_range : "auto" or tuple of (float, float), default="auto"
        The numbers that mean black and white.
    on_error : {"raise", "nan"}, default="raise"
        What to do if images cannot be read: raise one error that lists all of them, or
        return rows of NaN with one warning that lists them.
    n_jobs : int or None, default=None
        Threads that read and decode images. None means one.

    Attributes
    ----------
    image_size_ : int
        Side of the squares, in pixels.
    n_channels_ : int
        1 if no image seen in `fit` has colour, else 3. If it is 1, images that have
        colour are converted to grey in `transform`.
    value_range_ : tuple of (float, float) or None
        `value_range`, or the range inferred in `fit`; None if the dtype determines it.
    n_features_in_ : int
        Number of columns of `X`; only for 2-D `X`.
    feature_names_in_ : ndarray of str
        Column names of `X`; only for data frames.

    See Also
    --------
    PretrainedFeatureExtractor : Features of a pretrained network.
    compare_transfer : Measures whether transfer helps.

    Notes
    -----
    Nothing is cached: every `fit` and every `transform` decodes each of its images
    once, so cross-validation does that once per fold. A row takes 8 bytes per number,
    24 KiB for a colour image at 32 pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import RawPixels
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)
    >>> pixels = RawPixels(image_size=16)
    >>> rows = pixels.fit_transform(images)
    >>> rows.shape
    (5, 768)
    >>> squares = rows.reshape(-1, 16, 16, pixels.n_channels_)

    Before a model, as a contender of `compare_transfer`:

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(RawPixels(), LogisticRegression(max_iter=1000))
    """

    _parameter_constraints = {
        **{name: IMAGE_CONSTRAINTS[name] for name in (*OF_IMAGES, "image_size")},
        "on_error": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        image_size=None,
        *,
        image_shape=None,
        channels="auto",
        value_range="auto",
        on_error="raise",
        n_jobs=None,
    ):
        self.image_size = image_size
        self.image_shape = image_shape
        self.channels = channels
        self.value_range = value_range
        self.on_error = on_error
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        """Learn the range of values, the size, and whether there is colour.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `transform` takes.
        y : None
            Ignored.

        Returns
        -------
        self : RawPixels

        Raises
        ------
        ImageLayoutError
            If the shape of `X` does not determine how its numbers form images.
        ImageReadError
            If images cannot be read and `on_error="raise"`, or if none can be read.
        """
        self._fit(X)
        return self

    def fit_transform(self, X, y=None):
        """Fit to `X` and return its rows; each image is decoded only once.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `transform` takes.
        y : None
            Ignored.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features), dtype float64
            As from `fit(X).transform(X)`.

        Raises
        ------
        ImageReadError
            As in `fit`, like the other errors.
        """
        return self._fit(X)

    def transform(self, X):
        """Put the pixels of each image in a row.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes, except
            collections. Sizes may differ from those seen in `fit`.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features), dtype float64
            Numbers from 0 (black) to 1 (white), pixel by pixel from the upper left,
            line by line, with the channels of a pixel side by side. Empty if `X` is
            empty.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read and `on_error="raise"`. It lists all of them.
        TypeError
            If `X` is a collection of Dask or Ray.
        ValueError
            If `X` is not in the same form as in `fit`.
        """
        check_is_fitted(self)
        images = self._open_images(X)
        return self._rows(*self._read(images, self.image_size_))

    def get_feature_names_out(self, input_features=None):
        """Name the columns by line, column and colour of the pixel.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Must equal `feature_names_in_` if that is defined; otherwise ignored.

        Returns
        -------
        names : ndarray of str
            Such as `"pixel_07_31_red"`, or `"pixel_07_31"` if there is no colour.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        digits = len(str(self.image_size_ - 1))
        numbers = [f"{i:0{digits}}" for i in range(self.image_size_)]
        endings = [""] if self.n_channels_ == 1 else [f"_{name}" for name in COLOURS]
        names = [
            f"pixel_{line}_{column}{ending}"
            for line in numbers
            for column in numbers
            for ending in endings
        ]
        return np.asarray(names, dtype=object)

    def _fit(self, X):
        with self._forgetting():
            self._check_params()
            images = self._open_images(X, reset=True)
            size = self.image_size or LARGEST_SIZE
            pixels, errors = self._read(images, size)
            if len(errors) == len(images):
                report_unreadable(errors, "raise")
            sides = {side for image in pixels.values() for side in image.shape[:2]}
            if self.image_size is None and len(sides) == 1:
                (size,) = sides
            has_colour = any((p != p[..., :1]).any() for p in pixels.values())
            self.image_size_, self.n_channels_ = size, 3 if has_colour else 1
            return self._rows(pixels, errors)

    def _read(self, images, size):
        # At once, so that no two large images are held together.
        return images.map(partial(_shrink, size=size), self.n_jobs)

    def _rows(self, pixels, errors):
        report_unreadable(errors, self.on_error)
        n_images = len(pixels) + len(errors)
        rows = np.full((n_images, self.image_size_**2 * self.n_channels_), np.nan)
        for row, image in pixels.items():
            square = _stretch(image, self.image_size_)
            rows[row] = (_grey(square) if self.n_channels_ == 1 else square).ravel()
        rows /= 255
        return rows


def _shrink(pixels, size):
    return _stretch(pixels, size) if max(pixels.shape[:2]) > size else pixels


def _stretch(pixels, size):
    return fit_to(pixels, Geometry(resize=size, crop=size, fit="stretch"))


def _grey(pixels):
    """Take the luma of each pixel, as PIL does; grey ones stay as they are."""
    return (pixels @ LUMA + 2**15) >> 16
