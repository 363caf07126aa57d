"""`rank_backbones`: which network's features suit this `y`, without training one."""

import time
from numbers import Integral

import numpy as np
from sklearn.base import clone
from tqdm import tqdm

from sktl._display.table import TableMixin, numbers, score_form, words
from sktl._extractor import PretrainedFeatureExtractor, as_extractor
from sktl._selection.linear_probe import LinearProbe, check_finite
from sktl._selection.transferability import (
    log_maximum_evidence,
    neighbours_accuracy,
    shrunk_h_score,
)
from sktl._targets.kinds import check_rows
from sktl._utils.printable import shown

METHODS = ("logme", "hscore", "knn", "probe")


class BackboneRanking(TableMixin):
    """Networks ranked by how well their features suit the labels.

    Returned by `rank_backbones`. `print` shows it as a table.

    Parameters
    ----------
    results : dict of str to ndarray
        As `results_`, in any order and without `rank`.
    method : str or list of str
        Name of the score. If there are several, the first ranks the networks.
    backbones : dict of str to PretrainedFeatureExtractor or None, default=None
        The networks by label, from which `best` chooses.

    Attributes
    ----------
    results_ : dict of str to ndarray
        One entry per network in each array, the best first: `rank` (1 is the best;
        equal scores share a rank), `backbone` (its name or label), `score` (larger is
        better), `n_features`, `extraction_time` (seconds for all images; close to zero
        if the features were in the cache), `imagenet_accuracy` (as published with the
        weights, from 0 to 1; NaN if none was published), and for each further method
        its scores under its name.
    method_ : str
        Name of the score.
    disagreement_ : str
        Which network each method, and the published accuracy, puts first, if they
        disagree; else "".

    See Also
    --------
    rank_backbones : Ranks networks.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import BackboneRanking
    >>> ranking = BackboneRanking(
    ...     {"backbone": np.array(["resnet18", "vgg16"], dtype=object),
    ...      "score": np.array([0.25, 0.5]),
    ...      "n_features": np.array([512, 4096]),
    ...      "extraction_time": np.array([1.5, 9.0])},
    ...     method="logme")
    >>> print(ranking)
    rank  backbone   logme  features  seconds
       1  vgg16     0.5000      4096     9.00
       2  resnet18  0.2500       512     1.50
    """

    def __init__(self, results, method, backbones=None):
        order = np.argsort(-results["score"], kind="stable")
        ranked = {name: values[order] for name, values in results.items()}
        # Equal scores share a rank.
        n_better = np.searchsorted(-ranked["score"], -ranked["score"], side="left")
        self.results_ = {"rank": n_better + 1} | ranked
        self.method_, *self._others = [method] if isinstance(method, str) else method
        self.disagreement_ = self._find_disagreement()
        self._backbones = backbones or {}

    def _find_disagreement(self):
        results, accuracy = self.results_, self._accuracy()
        scores = {self.method_: results["score"]}
        scores |= {name: results[name] for name in self._others}
        is_first = results["score"] == np.nanmax(results["score"], initial=-np.inf)
        # Of networks without a published accuracy, it says nothing.
        if accuracy is not None and not np.isnan(accuracy[is_first]).any():
            scores["ImageNet accuracy"] = accuracy
        best = {
            name: results["backbone"][np.nanargmax(values)]
            for name, values in scores.items()
            if not np.isnan(values).all()
        }
        if len(set(best.values())) < 2:
            return ""
        named = ", ".join(f"{name}: {label}" for name, label in best.items())
        return f"Which network is best depends on the method ({named})."

    def _accuracy(self):
        """The published accuracies, if there are any."""
        accuracy = self.results_.get("imagenet_accuracy")
        return None if accuracy is None or np.isnan(accuracy).all() else accuracy

    def best(self, k):
        """Return the best networks, ready for `compare_transfer`.

        Parameters
        ----------
        k : int
            How many.

        Returns
        -------
        backbones : dict of str to PretrainedFeatureExtractor
            By label, the best first. Pass it to `compare_transfer` as `backbone`.
        """
        labels = [
            label for label in self.results_["backbone"] if label in self._backbones
        ]
        if not isinstance(k, Integral) or not 1 <= k <= len(labels):
            raise ValueError(
                f"k={k!r} must be a whole number from 1 to {len(labels)}, the number "
                "of networks that rank_backbones ranked."
            )
        return {label: clone(self._backbones[label]) for label in labels[:k]}

    def _index(self):
        return "backbone"

    def _remarks(self):
        return [self.disagreement_] if self.disagreement_ else []

    def _columns(self):
        results, accuracy = self.results_, self._accuracy()
        scores = {self.method_: results["score"]}
        scores |= {name: results[name] for name in self._others}
        return [
            numbers("rank", results["rank"], ".0f"),
            words("backbone", results["backbone"]),
            *(
                numbers(name, values, score_form(values, least=4))
                for name, values in scores.items()
            ),
            *([] if accuracy is None else [numbers("ImageNet", accuracy, ".3f")]),
            numbers("features", results["n_features"], ".0f"),
            numbers("seconds", results["extraction_time"], ".2f"),
        ]


def rank_backbones(
    X,
    y,
    backbones="default",
    *,
    method="logme",
    cv=5,
    scoring=None,
    verbose=0,
    target="auto",
):
    """Rank networks by how well their frozen features suit labels, tags or numbers.

    No network is trained: each image passes through each network once, and the features
    are scored. Pass the best few networks on to `compare_transfer`.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels of at least two classes; or, if an image can have several tags,
        indicators, with a column of 0 and 1 for each tag; or numbers. See `target`.
    backbones : "default", list of str or dict, default="default"
        The networks to rank. A list holds names from `list_backbones()`, each used with
        its default weights (downloaded once if they are not on this machine). A dict
        has labels of your choice as keys; its values are such names, networks (a
        `torch.nn.Module`) or instances of `PretrainedFeatureExtractor`, which are used
        with their own `weights`, `layers`, `image_size`, `cache` and so on. `"default"`
        needs no download: it ranks `"sktl_photo"` and `"sktl_mini"`, which ship with
        the package, and `"sktl_photo"` untrained.
    method : {"logme", "hscore", "knn", "probe"} or list of these, default="logme"
        The score. If you pass a list, networks are ranked by the first, and the others
        are shown as further columns. `"logme"`: how well a linear model explains `y`,
        as its maximum log evidence per image (mean over classes, tags or columns).
        `"hscore"`: how much of the spread of the features lies between the classes, at
        most the number of classes minus one; for labels only. `"knn"`: accuracy of a
        vote of the five most similar other images, by the cosine of their features (in
        a tie, the class of the most similar image wins); for labels only. `"probe"`:
        cross-validated score of a linear model (logistic regression; for numbers, ridge
        regression) behind `GlobalScaler`. It is the slowest.
    cv : int, splitter or iterable of splits, default=5
        Folds of `"probe"`; an int means folds without shuffling, stratified for labels
        and indicators, as in `compare_transfer`. The other methods do not split.
    scoring : str, callable or None, default=None
        Score of `"probe"`; None means accuracy for labels, average precision for
        indicators, and R2 for numbers. The other methods do not use it.
    verbose : int, default=0
        Positive values show a progress bar.
    target : {"auto", "labels", "indicators", "numbers"}, default="auto"
        What `y` holds, as in `compare_transfer`.

    Returns
    -------
    ranking : BackboneRanking

    Raises
    ------
    ValueError
        If `method` is unknown or does not suit `y`, `backbones` is empty or holds
        something else, `y` has fewer than two classes or is not what `target` says,
        `scoring` does not suit `y` or the test part of a split, or features are not
        finite.
    UnknownBackboneError
        If a name is not known; the message suggests similar ones.
    WeightsNotAvailableError
        If named weights are not on this machine and cannot be downloaded.

    See Also
    --------
    compare_transfer : Compares whole models on the same folds.
    PretrainedFeatureExtractor : Computes the features.

    Notes
    -----
    Results are deterministic, unless `cv` shuffles. All networks are loaded before the
    first image is processed, so a wrong name or missing weights are found at once.

    LogME models each class's or tag's column of zeros and ones, or each standardised
    column of numbers, by a linear model with a normal prior on the weights and normal
    noise. It chooses the two variances that make the column most probable, and does not
    depend on the scale of the features or numbers. The paper finds the variances by
    iterating two equations; here the noise is eliminated exactly, and the remaining
    ratio is searched over its whole range. As in the paper, there is no intercept.

    The H-score is the trace of the covariance of the class means after whitening with
    the covariance of all features. With fewer images than features, the plain score is
    the same for almost all networks, as the whole spread can be explained. So this
    covariance is always shrunk, as Ibrahim et al. propose, with the intensity of Ledoit
    and Wolf, which vanishes as the number of images grows. The covariance of the class
    means is multiplied by one minus that intensity. Constant columns are left out.

    Both scores are computed on the images that the model was fitted on, and say nothing
    about what fine-tuning would add. With fewer images than features, the H-score still
    favours networks with many features; LogME penalises them.

    References
    ----------
    You, Liu, Wang & Long. LogME: Practical Assessment of Pre-trained Models for
    Transfer Learning. ICML 2021.

    Bao, Li, Huang, Zhang, Zheng, Zamir & Guibas. An Information-Theoretic Approach to
    Transferability in Task Transfer Learning. ICIP 2019.

    k-nearest neighbours as an estimator of transferability: arXiv 2503.18528, 2025.

    Ibrahim, Ponomareva & Mazumder. Newer is not always better: Rethinking
    transferability metrics, their peculiarities, stability and performance. ECML PKDD
    2022.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import PretrainedFeatureExtractor, rank_backbones
    >>> X, y = load_digits(return_X_y=True)
    >>> ranking = rank_backbones(X[:200], y[:200], {
    ...     "as shipped": "sktl_mini",
    ...     "untrained": PretrainedFeatureExtractor("sktl_mini", weights=None),
    ... })
    >>> ranking.results_["backbone"]
    array(['as shipped', 'untrained'], dtype=object)
    """
    methods = _check_methods(method)
    extractors = _check_backbones(backbones)
    y, target = check_rows(X, y, target)
    score_by = {name: _make_score(name, cv, scoring, target, y) for name in methods}
    fitted = {label: extractor.fit(X) for label, extractor in extractors.items()}
    rows = []
    with tqdm(fitted.items(), disable=not verbose, unit="backbone") as bar:
        for label, extractor in bar:
            bar.set_description(label)
            start = time.perf_counter()
            features = np.asarray(extractor.transform(X))  # they may come as a frame
            seconds = time.perf_counter() - start
            check_finite(features, label)
            score, *others = (score(features) for score in score_by.values())
            published = getattr(extractor, "weights_accuracy_", None)
            accuracy = np.nan if published is None else published
            sizes = features.shape[1], seconds, accuracy
            rows.append((label, score, *sizes, *others))
    names = ("backbone", "score", "n_features", "extraction_time", "imagenet_accuracy")
    names = (*names, *methods[1:])
    columns = (np.array(values) for values in zip(*rows, strict=True))
    results = dict(zip(names, columns, strict=True))
    results["backbone"] = results["backbone"].astype(object)
    return BackboneRanking(results, methods, extractors)


# ---- what is asked for


def _check_methods(method):
    methods = list(method) if isinstance(method, list | tuple) else [method]
    known = [name for name in methods if isinstance(name, str) and name in METHODS]
    if not methods or len(set(known)) < len(methods):
        accepted = ", ".join(map(repr, METHODS))
        raise ValueError(
            f"method={shown(method)} is not known. Accepted: {accepted}, or a list of "
            "these, each once."
        )
    return methods


def _check_backbones(backbones):
    """Return unfitted extractors by label."""
    if isinstance(backbones, str) and backbones == "default":
        untrained = PretrainedFeatureExtractor(weights=None)
        backbones = {
            "sktl_photo": "sktl_photo",
            "sktl_mini": "sktl_mini",
            "sktl_photo, untrained": untrained,
        }
    if isinstance(backbones, list | tuple) and backbones:
        backbones = _label_by_name(backbones)
    if not isinstance(backbones, dict) or not backbones:
        raise ValueError(
            f"backbones={shown(backbones)} must be 'default', a list of names of "
            "sktl.list_backbones(), or a dict of label to name, torch.nn.Module or "
            "PretrainedFeatureExtractor, with at least one entry."
        )
    return {
        str(label): as_extractor(backbone, f"backbones[{label!r}]")
        for label, backbone in backbones.items()
    }


def _label_by_name(backbones):
    for i, backbone in enumerate(backbones):
        if not isinstance(backbone, str):
            raise ValueError(
                f"backbones[{i}] is a {type(backbone).__name__}, but a list may hold "
                "names only. Pass a dict, which gives each network a label: "
                "backbones={'my network': ...}."
            )
        if backbone in backbones[:i]:
            raise ValueError(
                f"backbones[{i}]={backbone!r} is listed twice. Remove one; or, to rank "
                "it with different settings, pass a dict of label to "
                "PretrainedFeatureExtractor."
            )
    return {backbone: backbone for backbone in backbones}


# ---- scores


def _make_score(method, cv, scoring, target, y):
    """Make a function of features; refuse a method that does not suit `y`."""
    if method == "probe":
        probe = LinearProbe(y, target, cv, scoring)
        return lambda features: probe.scores(features).mean()
    if method in ("hscore", "knn") and not target.stratified:
        raise ValueError(
            f"method={method!r} compares classes, but y holds {target.name}. Use "
            "method='logme' or 'probe'; or, if y does hold labels, target='labels'."
        )
    scores = {
        "logme": log_maximum_evidence,
        "hscore": shrunk_h_score,
        "knn": neighbours_accuracy,
    }
    score, columns = scores[method], target.columns(y)
    return lambda features: score(features.astype(np.float64), columns)
