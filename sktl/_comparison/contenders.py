"""Who takes part in a comparison, where the user names nobody."""

from sklearn.base import clone
from sklearn.ensemble import BaseEnsemble
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.tree import BaseDecisionTree
from sklearn.utils import get_tags

from sktl._classifier import FineTunedCNNClassifier
from sktl._comparison.twins import comparable, feature_contenders
from sktl._extractor import PretrainedFeatureExtractor, as_extractor
from sktl._features.image_input import OF_IMAGES, OF_NETWORK
from sktl._raw_pixels import RawPixels
from sktl._regressor import FineTunedCNNRegressor
from sktl._utils.printable import shown
from sktl._utils.warning import warn_caller

FACES = {
    face.__name__: face for face in (FineTunedCNNClassifier, FineTunedCNNRegressor)
}
# Models that learn nothing from tiny features: penalties and rates outweigh them, and
# trees ignore differences below 1e-7 (sklearn/tree/_partitioner.pyx, 1.8).
DEPENDING_ON_SCALE = (BaseDecisionTree, BaseEnsemble, LinearSVC, LinearSVR)
MODULES_DEPENDING_ON_SCALE = ("sklearn.linear_model", "sklearn.neural_network")


def check_contenders(contenders, backbone, target, X):
    """Return the contenders by name; they have to predict what the target is."""
    if isinstance(contenders, str) and contenders == "default":
        contenders = default_contenders(backbone, target)
        # If X holds no images, or a network is not available, fail now, not in some
        # contenders later.
        for name in feature_contenders(contenders):
            extractor = clone(contenders[name].steps[0][1])
            extractor._open_images(X, reset=True)
            extractor._load_backbone()
        return contenders
    if not isinstance(contenders, dict) or not contenders:
        raise ValueError(
            f"contenders={shown(contenders)} must be 'default' or a dict of name to "
            "scikit-learn estimator with at least one entry."
        )
    for name, contender in contenders.items():
        if not isinstance(name, str):
            raise ValueError(f"contenders has the name {name!r}; names must be str.")
        if isinstance(contender, type) or not hasattr(contender, "fit"):
            raise ValueError(
                f"contenders[{name!r}]={shown(contender)} must be a scikit-learn "
                "estimator, an instance with a fit method."
            )
        if hasattr(contender, "transform") and not hasattr(contender, "predict"):
            raise ValueError(
                f"contenders[{name!r}] is a {type(contender).__name__}, which predicts "
                "nothing. Put a model behind it, as in make_pipeline(extractor, "
                "LogisticRegression()); or pass extractors as backbone."
            )
        kind = _estimator_type(contender)
        if kind in ("classifier", "regressor") and kind != target.estimator_type:
            other = "numbers" if kind == "regressor" else "labels"
            raise ValueError(
                f"contenders[{name!r}] is a {kind}, but y holds {target.name}. Pass a "
                f"{target.estimator_type}, or set target to what y holds, as in "
                f"target={other!r}."
            )
        if _reads_random_features_unscaled(contender):
            warn_caller(
                f"contenders[{name!r}] passes features of random weights to "
                f"{type(contender.steps[-1][1]).__name__} without scaling them. They "
                "can be a billion times smaller than pretrained features, too small to "
                "learn from. Put sktl.GlobalScaler() between the extractor and the "
                "model, here and in the contender with pretrained weights.",
                UserWarning,
            )
    return contenders


def _reads_random_features_unscaled(contender):
    """Whether a model that depends on the scale comes right behind random weights."""
    steps = [step for _, step in getattr(contender, "steps", [])]
    if len(steps) < 2 or not isinstance(steps[-2], PretrainedFeatureExtractor):
        return False
    model = getattr(steps[-1], "estimator", None)  # such as OneVsRestClassifier's
    model = steps[-1] if model is None else model  # an empty ensemble is false
    module = type(model).__module__
    return steps[-2].weights is None and (
        isinstance(model, DEPENDING_ON_SCALE)
        or module.startswith(MODULES_DEPENDING_ON_SCALE)
    )


def _estimator_type(contender):
    try:
        return get_tags(contender).estimator_type
    except Exception:  # it has no tags, or a part of it is no estimator
        return None


def default_contenders(backbone, target):
    """Build the contenders of `compare_transfer`, by name.

    Parameters
    ----------
    backbone : str, torch.nn.Module, PretrainedFeatureExtractor, or dict of str to these
        The names of a dict's contenders end in its labels. Networks that differ only in
        their weights share the contenders with random ones.
    target : Labels, Indicators or Numbers
        What they are to predict.
    """
    if isinstance(backbone, dict):
        extractors = {
            str(label): _with_preprocessing(as_extractor(b, f"backbone[{label!r}]"))
            for label, b in backbone.items()
        }
    else:
        extractors = {"": _with_preprocessing(as_extractor(backbone))}
    if not extractors:
        raise ValueError(
            "backbone={} holds no network. Pass a dict of label to network with at "
            "least one entry, such as BackboneRanking.best returns."
        )
    first = next(iter(extractors.values()))
    pixels = RawPixels(**{name: getattr(first, name) for name in OF_IMAGES})
    contenders = {
        target.baseline_name: target.baseline(),
        f"raw pixels + {target.linear_name}": make_pipeline(pixels, *target.linear()),
    }
    for labels in _labels_of_networks(extractors):
        is_only_network = 1 < len(labels) == len(extractors)
        of_all = "" if is_only_network else " / ".join(labels)
        untrained, scratch = _random_contenders(extractors[labels[0]], target)
        contenders |= _ending_in(of_all, untrained)
        for label in labels:
            own = _pretrained_contenders(extractors[label], target)
            contenders |= _ending_in(label, own)
        contenders |= _ending_in(of_all, scratch)
    return contenders


def _ending_in(label, contenders):
    """Let the names end in a label, where there is one."""
    return {f"{n}, {label}" if label else n: one for n, one in contenders.items()}


def _labels_of_networks(extractors):
    """Group labels whose networks differ in their weights alone.

    They see the same images, so with random weights they are one.
    """
    groups = []
    for label, extractor in extractors.items():
        for group in groups:
            if _are_one_untrained(extractors[group[0]], extractor):
                group.append(label)
                break
        else:
            groups.append([label])
    return groups


def _are_one_untrained(one, other):
    if comparable(one, untrained=True) != comparable(other, untrained=True):
        return False
    return one._load_backbone().preprocessing == other._load_backbone().preprocessing


def _with_preprocessing(extractor):
    """Let the parameters of an extractor say how its weights expect images.

    Its twin with random weights has no other way to know that.
    """
    weights = extractor.weights
    is_default = weights is None or (isinstance(weights, str) and weights == "DEFAULT")
    if not is_default and extractor.image_size is None:
        extractor.set_params(preprocessing=extractor._load_backbone().preprocessing)
    return extractor


def _random_contenders(extractor, target):
    # All share one network, as twins must; a clone would have a copy.
    untrained = clone(extractor).set_params(weights=None, backbone=extractor.backbone)
    # Random weights need more epochs than pretrained ones.
    scratch = _network(extractor, target, strategy="scratch", max_epochs=40)
    features = make_pipeline(untrained, *target.linear())
    return (
        {f"untrained network + {target.linear_name}": features},
        {"network from scratch": scratch},
    )


def _pretrained_contenders(extractor, target):
    return {
        f"frozen features + {target.linear_name}": make_pipeline(
            extractor, *target.linear()
        ),
        "frozen features + SVM": make_pipeline(extractor, target.svm()),
        "frozen features + gradient boosting": make_pipeline(
            extractor, target.boosting()
        ),
        "fine-tuned network": _network(extractor, target),
    }


def _network(extractor, target, **params):
    """The network of an extractor, trained."""
    shared = {name: getattr(extractor, name) for name in (*OF_IMAGES, *OF_NETWORK)}
    return FACES[target.estimator](**shared, **params)
