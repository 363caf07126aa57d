"""What a network has to beat: the pixels themselves, as a table."""

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sktl._features.image_input import OF_IMAGES
from sktl._images.forms import open_images
from sktl._images.geometry import Geometry, fit_to


class RawPixels(TransformerMixin, BaseEstimator):
    """Images as rows of their own pixels, at most `side` pixels a side.

    Square images of one size that fits are left as they are; others are squeezed into
    a square. Images without colour give one number per pixel. `n_jobs` is the number
    of threads that decode.
    """

    def __init__(
        self,
        side=32,
        image_shape=None,
        channels="auto",
        value_range="auto",
        n_jobs=None,
    ):
        self.side = side
        self.image_shape = image_shape
        self.channels = channels
        self.value_range = value_range
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        """Learn the range of values, the size, and whether there is colour."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X, y=None):
        """As `fit` and `transform`, but each image is decoded once."""
        images = self._open(X)
        self.value_range_ = images.value_range
        images = self._decode(images)
        shapes = {image.shape[:2] for image in images}
        ((height, width), *others) = shapes
        self.side_ = height if not others and height == width else self.side
        self.is_grey_ = all((p == p[..., :1]).all() for p in images)
        return self._rows(images)

    def transform(self, X):
        """Return floats between 0 and 1, one row per image."""
        check_is_fitted(self)
        images = self._open(X, learnt_range=self.value_range_, fitted=True)
        return self._rows(self._decode(images))

    def _open(self, X, **learnt):
        given = {name: getattr(self, name) for name in OF_IMAGES if name != "n_jobs"}
        return open_images(X, **given, **learnt)

    def _decode(self, images):
        """All images, the large ones squeezed at once: no two are held together."""
        threads = Parallel(n_jobs=self.n_jobs, require="sharedmem")
        return threads(delayed(self._image)(images, i) for i in range(len(images)))

    def _image(self, images, index):
        pixels = images[index].pixels()
        is_large = max(pixels.shape[:2]) > self.side
        return _squeeze(pixels, self.side) if is_large else pixels

    def _rows(self, images):
        square = np.stack([_squeeze(image, self.side_) for image in images])
        channels = square[..., :1] if self.is_grey_ else square
        return channels.reshape(len(images), -1) / 255


def _squeeze(pixels, side):
    if pixels.shape[:2] == (side, side):
        return pixels
    return fit_to(pixels, Geometry(resize=side, crop=side, fit="stretch"))
