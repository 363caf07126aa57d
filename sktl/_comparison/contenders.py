"""Who takes part in a comparison, and which of them differ in the transfer alone."""

from enum import Enum
from numbers import Number
from os import PathLike
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from sktl._classifier import FineTunedCNNClassifier
from sktl._extractor import PretrainedFeatureExtractor, as_extractor
from sktl._features.image_input import ImageInputMixin
from sktl._images.forms import Geometry, fit_to, open_images
from sktl._networks.backbones import load_backbone

# What an extractor says of the images, and what of the network besides.
OF_IMAGES = ("image_shape", "channels", "value_range", "n_jobs")
OF_NETWORK = ("backbone", "weights", "image_size", "device", "precision", "cache")
# Values that are the same where they are equal; all others where they are one object.
PLAIN = (Number, str, bytes, type(None), PathLike, Enum, type)

UNTRAINED, SCRATCH = "untrained", "from scratch"


# ---- who takes part


def check_contenders(contenders, backbone):
    """Return the contenders by name."""
    if isinstance(contenders, str) and contenders == "default":
        contenders = default_contenders(backbone)
        for name in feature_contenders(contenders):
            # A network that cannot be had is not the failure of some contenders only.
            extractor = contenders[name].steps[0][1]
            asked = {"weights": extractor.weights, "image_size": extractor.image_size}
            load_backbone(extractor.backbone, **asked)
        return contenders
    if not isinstance(contenders, dict) or not contenders:
        raise ValueError(
            f"contenders={contenders!r} must be 'default' or a dict of name to "
            "scikit-learn estimator with at least one entry."
        )
    for name, contender in contenders.items():
        if not isinstance(name, str):
            raise ValueError(f"contenders has the name {name!r}; names must be text.")
        if isinstance(contender, type) or not hasattr(contender, "fit"):
            raise ValueError(
                f"contenders[{name!r}]={contender!r} must be a scikit-learn estimator, "
                "an instance with a fit method."
            )
    return contenders


def default_contenders(backbone="sktl_mini"):
    """Build the contenders of `compare_transfer`, by name.

    Parameters
    ----------
    backbone : str, torch.nn.Module, PretrainedFeatureExtractor, or dict of str to these
        The names of a dict's contenders end in its labels.
    """
    if isinstance(backbone, dict):
        extractors = {
            f", {label}": as_extractor(b, f"backbone[{label!r}]")
            for label, b in backbone.items()
        }
    else:
        extractors = {"": as_extractor(backbone)}
    if not extractors:
        raise ValueError(
            "backbone={} holds no network. Pass a dict of label to network with at "
            "least one entry, such as BackboneRanking.best gives."
        )
    first = next(iter(extractors.values()))
    pixels = RawPixels(**{name: getattr(first, name) for name in OF_IMAGES})
    contenders = {
        "most frequent class": DummyClassifier(),
        "raw pixels + logistic regression": _linear(pixels),
    }
    for ending, extractor in extractors.items():
        own = _contenders_of(extractor)
        contenders |= {f"{name}{ending}": one for name, one in own.items()}
    return contenders


def _contenders_of(extractor):
    # One network for all: a clone's is a copy, and twins have the same.
    untrained = clone(extractor).set_params(weights=None, backbone=extractor.backbone)
    shared = {name: getattr(extractor, name) for name in (*OF_IMAGES, *OF_NETWORK)}
    return {
        "untrained network + logistic regression": _linear(untrained),
        "frozen features + logistic regression": _linear(extractor),
        "frozen features + SVM": make_pipeline(extractor, StandardScaler(), SVC()),
        # Few rows, many columns: there histograms do not pay, and are less accurate.
        "frozen features + gradient boosting": make_pipeline(
            extractor, GradientBoostingClassifier(max_features="sqrt")
        ),
        "fine-tuned network": FineTunedCNNClassifier(**shared),
        # Random weights need more epochs than pretrained ones.
        "network from scratch": FineTunedCNNClassifier(
            **shared, strategy="scratch", max_epochs=40
        ),
    }


def _linear(features):
    return make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=1000))


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
    return fit_to(pixels, Geometry(resize=side, crop=side, stretch=True))


# ---- who differs in the transfer alone


class Pair(NamedTuple):
    """Names of a pretrained contender and of its twin, and what kind of twin it is."""

    contender: str
    twin: str
    kind: str  # UNTRAINED or SCRATCH


def find_pairs(contenders):
    """Pair pretrained contenders with those that differ in the transfer alone.

    An untrained twin of features has `weights=None` in their extractors and all else
    equal. A from-scratch twin of a fine-tuned network is a classifier on the same
    backbone that begins with random weights; of several, the one in which fewest other
    parameters differ.

    Parameters
    ----------
    contenders : dict of str to estimator

    Returns
    -------
    pairs : list of Pair
    """
    pairs = []
    for name, contender in contenders.items():
        twin = _untrained_twin(contender, contenders)
        pairs += [Pair(name, twin, UNTRAINED)] if twin is not None else []
        twin = _scratch_twin(contender, contenders)
        pairs += [Pair(name, twin, SCRATCH)] if twin is not None else []
    return pairs


def feature_contenders(contenders):
    """Names of contenders that read frozen pretrained features, one per network."""
    names, networks = [], []
    for name, contender in contenders.items():
        for extractor in _parts(contender, PretrainedFeatureExtractor):
            network = _form(extractor.backbone), _form(extractor.weights)
            if extractor.weights is not None and network not in networks:
                names.append(name)
                networks.append(network)
    return names


def readers_by_network(contenders):
    """Group what reads the images themselves by the network that is read.

    Parameters
    ----------
    contenders : dict of str to estimator

    Returns
    -------
    groups : list of list of estimator
        Bare contenders, or first steps of pipelines, that keep what they compute.
    """
    groups = []
    for contender in contenders.values():
        first = contender.steps[0][1] if isinstance(contender, Pipeline) else contender
        if not isinstance(first, ImageInputMixin) or first.cache is None:
            continue
        params = first.get_params(deep=False)  # `device` as it was set
        network = [_form(params[name]) for name in (*OF_IMAGES, *OF_NETWORK)]
        network.append(first._images_per_batch())
        group = next((group for other, group in groups if other == network), None)
        if group is None:
            groups.append((network, group := []))
        group.append(first)
    return [group for _, group in groups]


def _untrained_twin(contender, contenders):
    extractors = _parts(contender, PretrainedFeatureExtractor)
    if all(extractor.weights is None for extractor in extractors):
        return None
    wanted = _form(contender, untrained=True)
    return next((n for n, other in contenders.items() if _form(other) == wanted), None)


def _scratch_twin(contender, contenders):
    networks = _parts(contender, FineTunedCNNClassifier)
    if len(networks) != 1 or _is_from_scratch(networks[0]):
        return None
    differences = {}
    for name, other in contenders.items():
        others = _parts(other, FineTunedCNNClassifier)
        if len(others) == 1 and _is_from_scratch(others[0]):
            own, its = _form(networks[0])[1], _form(others[0])[1]
            if own["backbone"] == its["backbone"]:
                differences[name] = sum(own[key] != its[key] for key in own)
    return min(differences, key=differences.get, default=None)


def _is_from_scratch(classifier):
    return classifier.strategy == "scratch" or classifier.weights is None


def _parts(contender, kind):
    """The estimators of a kind inside a contender, itself among them."""
    if isinstance(contender, kind):
        return [contender]
    if not hasattr(contender, "get_params"):
        return []
    parts = contender.get_params(deep=True).values()
    return list({id(part): part for part in parts if isinstance(part, kind)}.values())


def _form(value, untrained=False):
    """What two values have in common when they are the same, parameter by parameter."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        if untrained and isinstance(value, PretrainedFeatureExtractor):
            params["weights"] = None
        return type(value), {n: _form(v, untrained) for n, v in params.items()}
    if isinstance(value, list | tuple):
        return type(value), [_form(item, untrained) for item in value]
    if isinstance(value, dict):
        return dict, [(_form(k), _form(v, untrained)) for k, v in value.items()]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.dtype.str, value.shape, value.tobytes()
    return value if isinstance(value, PLAIN) or callable(value) else id(value)
