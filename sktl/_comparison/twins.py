"""Which contenders differ in the transfer alone.

Two contenders are compared by their parameters, those of their parts among them. What
a parameter was not given (skorch's estimators have as many as the user writes, such as
`optimizer__weight_decay`) counts as a value of its own.
"""

from enum import Enum
from numbers import Number
from os import PathLike
from typing import NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktl._extractor import PretrainedFeatureExtractor
from sktl._networks.preprocessing import Preprocessing
from sktl._training.fine_tuning import FineTunedNet

UNTRAINED, SCRATCH = "untrained", "from scratch"
CLASSICAL, FROZEN, TUNED, RANDOM = (
    "classical",
    "frozen features",
    "fine-tuned",
    "random weights",
)
# Values that are compared by equality; all others by identity.
PLAIN = (Number, str, bytes, type(None), PathLike, Enum, type, Preprocessing)


class Pair(NamedTuple):
    """Names of a pretrained contender and of its twin, and what kind of twin it is."""

    contender: str
    twin: str
    kind: str  # UNTRAINED or SCRATCH


def find_pairs(contenders):
    """Pair pretrained contenders with those that differ in the transfer alone.

    An untrained twin of features has `weights=None` in their extractors and all else
    equal. A from-scratch twin of a fine-tuned network is another on the same backbone
    that begins with random weights; of several, the one in which fewest other
    parameters differ. A linear probe of such a network is an untrained twin, of other
    linear probes only.

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
        if twin is not None:
            pairs.append(Pair(name, twin, UNTRAINED))
        twin = _network_twin(contender, contenders)
        if twin is not None:
            (network,) = parts_of(contenders[twin], FineTunedNet)
            kind = UNTRAINED if _is_probe(network) else SCRATCH
            pairs.append(Pair(name, twin, kind))
    return pairs


def feature_contenders(contenders):
    """Names of contenders that read frozen pretrained features, one per network."""
    names, networks = [], []
    for name, contender in contenders.items():
        for extractor in parts_of(contender, PretrainedFeatureExtractor):
            network = comparable(extractor.backbone), comparable(extractor.weights)
            if extractor.weights is not None and network not in networks:
                names.append(name)
                networks.append(network)
    return names


def kind_of(contender):
    """Say what a contender takes from a network: one of the four above."""
    networks = parts_of(contender, FineTunedNet)
    extractors = parts_of(contender, PretrainedFeatureExtractor)
    if any(not begins_random(network) for network in networks):
        return FROZEN if all(map(_is_probe, networks)) else TUNED
    if any(extractor.weights is not None for extractor in extractors):
        return FROZEN
    return RANDOM if networks or extractors else CLASSICAL


def parts_of(contender, kind):
    """The estimators of a kind inside a contender, itself among them."""
    if isinstance(contender, kind):
        return [contender]
    if not hasattr(contender, "get_params"):
        return []
    values = [*contender.get_params(deep=True).values()]
    frozen = [value for value in (contender, *values) if _is_frozen(value)]
    parts = [value for value in values if isinstance(value, kind)]
    for one in frozen:  # whose own parameters are not shown
        parts += parts_of(one.estimator, kind)
    return list({id(part): part for part in parts}.values())


def _is_frozen(value):
    return isinstance(value, FrozenEstimator)


def begins_random(net):
    """Whether a `FineTunedNet` begins with random weights."""
    return net.strategy == "scratch" or net.weights is None


def _is_probe(net):
    """Whether a `FineTunedNet` leaves the network as it is, and trains a head."""
    return net.strategy == "linear_probe"


def comparable(value, untrained=False):
    """Something that is equal for two values that agree in every parameter.

    With `untrained`, as if every extractor had `weights=None`.
    """
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        if untrained and isinstance(value, PretrainedFeatureExtractor):
            params["weights"] = None
        return type(value), {n: comparable(v, untrained) for n, v in params.items()}
    if isinstance(value, list | tuple):
        return type(value), [comparable(item, untrained) for item in value]
    if isinstance(value, dict):
        return dict, [
            (comparable(k), comparable(v, untrained)) for k, v in value.items()
        ]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.dtype.str, value.shape, value.tobytes()
    return value if isinstance(value, PLAIN) or callable(value) else id(value)


def _untrained_twin(contender, contenders):
    extractors = parts_of(contender, PretrainedFeatureExtractor)
    if all(extractor.weights is None for extractor in extractors):
        return None
    wanted = comparable(contender, untrained=True)
    return next((n for n, c in contenders.items() if comparable(c) == wanted), None)


def _network_twin(contender, contenders):
    networks = parts_of(contender, FineTunedNet)
    if len(networks) != 1 or begins_random(networks[0]):
        return None
    _, own = comparable(networks[0])
    n_different = {}
    for name, other in contenders.items():
        others = parts_of(other, FineTunedNet)
        alike = _is_probe(networks[0]) or not any(map(_is_probe, others))
        if len(others) == 1 and begins_random(others[0]) and alike:
            _, its = comparable(others[0])
            if own["backbone"] == its["backbone"]:
                n_different[name] = _count_different(own, its)
    return min(n_different, key=n_different.get, default=None)


def _count_different(own, its):
    """How many parameters differ; one that only one of the two has counts."""
    names = own.keys() | its.keys()
    absent = object()
    return sum(own.get(name, absent) != its.get(name, absent) for name in names)
