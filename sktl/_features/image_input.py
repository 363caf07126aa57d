"""What the estimators share: how X becomes images, and images activations."""

import os
import sys
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import validate_data
from torch.utils.data import DataLoader, Dataset

from sktl._features.cache import resolve_cache
from sktl._features.engine import make_engine
from sktl._features.prefix import FrozenPrefix
from sktl._images.forms import Images, open_images
from sktl._networks.backbones import UNCHANGED, load_backbone
from sktl._networks.given import check_independence
from sktl._networks.preprocessing import Preprocessing
from sktl._utils.warning import warn_caller

COUNT = Interval(Integral, 1, None, closed="left")

# The parameters that say what the images are, and what the network is.
OF_IMAGES = ("image_shape", "channels", "value_range", "n_jobs")
OF_NETWORK = (
    "backbone",
    "weights",
    "image_size",
    "preprocessing",
    "device",
    "precision",
    "cache",
)
# One table for the parameters that estimators share.
IMAGE_CONSTRAINTS = {
    "backbone": [str, torch.nn.Module],
    # Torchvision's weights are members of enums, one enum per network.
    "weights": "no_validation",
    "image_shape": [tuple, list, None],
    "channels": [StrOptions({"auto", "last", "first"})],
    "value_range": [StrOptions({"auto"}), tuple, list],
    "image_size": [COUNT, None],
    "preprocessing": [Preprocessing, None],
    "batch_size": [COUNT],
    "device": [str, torch.device],
    "precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
    "cache": [str, os.PathLike, None],
    "n_jobs": [
        Interval(Integral, None, -1, closed="right"),
        COUNT,
        None,
    ],
    "verbose": ["verbose"],
}


_told = set()


class ImageInputMixin:
    """Methods on the parameters that say what the images are (`OF_IMAGES`).

    An estimator whose state is not all in names like `mean_` says by `_forget()` how to
    be unfitted.
    """

    def _forget(self):
        """Be unfitted."""
        for name in [n for n in vars(self) if n.endswith("_") and n[0] != "_"]:
            del vars(self)[name]  # by `delattr`, skorch would unregister callbacks too

    @contextmanager
    def _forgetting(self, unless=False):
        """If a fit fails, leave nothing that could predict; or all as it was."""
        try:
            yield
        except BaseException:
            if not unless:
                self._forget()
            raise

    def _check_params(self):
        """Check every parameter by scikit-learn's rules and in its words."""
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )

    def _open_images(self, X, *, reset=False, sample_weight=None):
        """Open `X` as images; `reset` learns what later calls are checked against.

        Images of weight zero have no say in that.
        """
        if isinstance(X, Images):
            return X
        _refuse_containers(X)
        if reset:
            # What an earlier fit learnt of columns; images may have none.
            for name in ("n_features_in_", "feature_names_in_"):
                vars(self).pop(name, None)
        is_frame = hasattr(X, "columns")
        if is_frame:
            # Names come before content: a column that went astray would be "all NaN".
            self._check_columns(X, reset)
        learnt = {}
        if not reset:
            learnt = {
                "fitted": True,
                "learnt_range": self.value_range_,
                # Unless it saw rows of numbers.
                "only_images": getattr(self, "n_features_in_", 1) == 1,
            }
        images = open_images(
            X,
            image_shape=self.image_shape,
            channels=self.channels,
            value_range=self.value_range,
            counted=_rows_that_count(sample_weight),
            **learnt,
        )
        if reset:
            self.value_range_ = images.value_range
        if images.n_columns is not None and not is_frame:
            self._check_columns(X, reset)
        return images

    def _check_columns(self, X, reset):
        """Set or check n_features_in_ and feature_names_in_."""
        validate_data(self, X, reset=reset, skip_check_array=True)


class NetworkInputMixin(ImageInputMixin):
    """Methods on all parameters of `IMAGE_CONSTRAINTS`: also of what the network is.

    An estimator says by `_frozen_outputs(network)` which pairs of cut and pooling it
    asks of each image, once, and by `_images_per_batch()` how many pass together.
    """

    def _images_per_batch(self):
        return self.batch_size

    def _check_params(self):
        super()._check_params()
        resolve_cache(self.cache)
        if self.image_size is not None and self.preprocessing is not None:
            raise ValueError(
                f"image_size={self.image_size!r} is short for "
                f"preprocessing=Preprocessing(crop={self.image_size!r}), and there is "
                f"preprocessing={self.preprocessing!r} too. Pass one of them."
            )

    def _load_backbone(self, **overrides):
        """Load the network that the parameters name."""
        asked = {"weights": self.weights, "preprocessing": asked_preprocessing(self)}
        backbone = load_backbone(self.backbone, **asked | overrides)
        if isinstance(self.backbone, torch.nn.Module):
            check_independence(backbone.network, backbone.preprocessing.geometry.crop)
        if backbone.doubt and self.preprocessing is None:
            _tell_once(
                f"{backbone.doubt} how images were prepared in training. Assumed: "
                f"{backbone.preprocessing}. If that is wrong, pass the right one as "
                "preprocessing; if it is right, pass it to silence this warning."
            )
        if backbone.license is not None:
            _print_once(
                f"Weights of {backbone.name}: licence {backbone.license}, from "
                f"{backbone.source}"
            )
        return backbone

    def _make_prefix(self, backbone, outputs):
        """Build the function from images to what pairs of cut and pooling ask for."""
        engine = make_engine(
            self.device,
            self.precision,
            self._images_per_batch(),
            backbone.preprocessing.geometry.crop,
        )
        cuts, poolings = zip(*outputs, strict=True)
        return FrozenPrefix(
            backbone,
            cuts,
            poolings,
            engine,
            cache=self.cache,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )


def _rows_that_count(sample_weight):
    """Rows whose weight is not zero; None if all count, or weights are no numbers."""
    if sample_weight is None:
        return None
    try:
        return np.flatnonzero(np.asarray(sample_weight, dtype=float))
    except (TypeError, ValueError):
        return None  # refused when they are used


def _refuse_containers(X):
    """Refuse what holds images but is read in a way of its own, with the way out."""
    kind = type(X).__name__
    if isinstance(X, Dataset | DataLoader):
        raise TypeError(
            f"X is a torch data set ({kind}), whose items are not only images. Pass "
            "its images: an array, or a list of paths or PIL images; for an "
            "ImageFolder, [path for path, _ in folder.samples]."
        )
    if hasattr(X, "to_pylist"):
        raise TypeError(f"X is a {kind} of pyarrow. Pass X.to_pandas().")
    if hasattr(X, "collect_schema") and not hasattr(X, "shape"):
        raise TypeError(f"X is a {kind}, not computed yet. Pass X.collect().")


def _tell_once(message):
    if message not in _told:
        _told.add(message)
        warn_caller(message, UserWarning)


def _print_once(text):
    if text not in _told:
        _told.add(text)
        print(text, file=sys.stderr)


def asked_preprocessing(estimator):
    """What the parameters of an estimator say about preprocessing."""
    if estimator.image_size is not None:
        return Preprocessing(crop=estimator.image_size)
    return estimator.preprocessing or UNCHANGED


def pass_once(readers, X):
    """Pass images through a network once for all estimators that read it.

    What each of them will ask for is in the cache then.

    Parameters
    ----------
    readers : sequence of NetworkInputMixin
        Of the same network, device, precision, batch size and cache, and unfitted.
    X : array-like or sequence of images
    """
    reader = clone(readers[0])
    backbone = reader._load_backbone()
    outputs = [pair for r in readers for pair in r._frozen_outputs(backbone.network)]
    if outputs:
        prefix = reader._make_prefix(backbone, dict.fromkeys(outputs))
        prefix(reader._open_images(X, reset=True))
