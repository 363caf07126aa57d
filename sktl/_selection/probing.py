"""`probe_layers`: what each layer knows of labels, tags or numbers, and which to use.

Numbers first: one linear probe per stage, and one on the advised layers together, on
the same folds. `advise` says it in words.
"""

import textwrap

import numpy as np
from tqdm import tqdm

from sktl._display.layer_probe import LayerProbeDisplay
from sktl._display.table import TableMixin, numbers, score_form, words
from sktl._extractor import as_extractor
from sktl._selection.linear_probe import LinearProbe, check_finite
from sktl._targets.kinds import TARGETS, check_rows

# Standard errors by which a layer has to be below the best one to count as worse: the
# rule of Breiman et al. (Classification and Regression Trees, 1984).
CLEAR_LOSS = 1.0
# By how many, of both scores, the best layer alone has to be ahead of the advised ones
# to be advised: surely, as of many layers one is often best by luck.
CLEAR_LEAD = 4.0


class LayerProbe(TableMixin):
    """How well a linear model on each stage of a network predicts `y`.

    Returned by `probe_layers`. `print` shows a table with the advice below it.

    Parameters
    ----------
    stages : sequence of str
        Names of the stages, from the image to the head.
    layers : sequence of str
        The layer at which each stage ends.
    n_features : sequence of int
        Number of features of each stage.
    scores : array-like of shape (n_stages, n_folds)
        Test score of each stage on each fold; folds are the same for all stages.
    together : array-like of shape (n_folds,)
        Test score of the advised layers together, on the same folds.
    scoring : str
        Name of the score; larger is better.
    target : {"labels", "indicators", "numbers"}, default="labels"
        What `y` holds.

    Attributes
    ----------
    results_ : dict of str to ndarray
        One entry per stage in each array, from the image to the head: `stage`, `layer`
        (where it ends; a name that `PretrainedFeatureExtractor(layers=...)` accepts),
        `n_features`, `split<i>_test_score` for each fold, `mean_test_score`,
        `se_test_score` (standard error of the mean over folds).
    scoring_ : str
        Name of the score.
    recommendation_ : dict
        The advice: `layers`, the names of the layers to use together in
        `PretrainedFeatureExtractor(layers=...)`; the `reason`; their `mean_test_score`
        and `se_test_score`; and `text`, which says it in words.

    See Also
    --------
    probe_layers : Probes a network.
    LayerProbeDisplay : Plots the scores.

    Examples
    --------
    >>> from sktl import LayerProbe
    >>> probe = LayerProbe(
    ...     stages=["conv1", "layer1", "layer2", "layer3"],
    ...     layers=["maxpool", "layer1.1.relu_1", "layer2.1.relu_1", "flatten"],
    ...     n_features=[64, 64, 128, 256],
    ...     scores=[[0.5, 0.54], [0.7, 0.74], [0.8, 0.8], [0.9, 0.9]],
    ...     together=[0.9, 0.94],
    ...     scoring="accuracy",
    ... )
    >>> print(probe)
    stage   layer            features  accuracy     se
    conv1   maxpool                64     0.520  0.020
    layer1  layer1.1.relu_1        64     0.720  0.020
    layer2  layer2.1.relu_1       128     0.800  0.000
    layer3  flatten               256     0.900  0.000
    <BLANKLINE>
    ...
    >>> probe.recommendation_["layers"]
    ['layer2.1.relu_1', 'flatten']
    """

    def __init__(
        self,
        stages,
        layers,
        n_features,
        scores,
        together,
        scoring,
        target="labels",
    ):
        scores = np.asarray(scores, dtype=float)
        means, errors = _means_and_errors(scores)
        self.results_ = {
            "stage": np.array(stages, dtype=object),
            "layer": np.array(layers, dtype=object),
            "n_features": np.array(n_features),
            **{f"split{i}_test_score": scores[:, i] for i in range(scores.shape[1])},
            "mean_test_score": means,
            "se_test_score": errors,
        }
        self.scoring_ = scoring
        self.recommendation_ = advise(
            layers, scores, together, scoring, TARGETS[target]
        )

    def plot(self, ax=None):
        """Plot the scores over the layers, with the advice.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            None makes a new figure. Needs matplotlib.

        Returns
        -------
        display : LayerProbeDisplay
        """
        return LayerProbeDisplay.from_results(self).plot(ax=ax)

    def _index(self):
        return "layer"

    def _columns(self):
        results = self.results_
        form = score_form(results["mean_test_score"])
        return [
            words("stage", results["stage"]),
            words("layer", results["layer"]),
            numbers("features", results["n_features"], ".0f"),
            numbers(self.scoring_, results["mean_test_score"], form),
            numbers("se", results["se_test_score"], form),
        ]

    def _remarks(self):
        return [textwrap.fill(self.recommendation_["text"], break_on_hyphens=False)]


def probe_layers(
    X,
    y,
    backbone="sktl_photo",
    *,
    cv=5,
    scoring=None,
    n_jobs=None,
    verbose=0,
    target="auto",
):
    """Find the layers whose features suit the task, and advise which to use together.

    A network is a chain of stages (such as `layer1` to `layer4` of a ResNet). Each
    image passes through it once. Then a linear model on the output of each stage, and
    one on those of the advised layers together, are cross-validated on the same folds.
    The model is logistic regression for labels (one per tag for indicators), and ridge
    regression for numbers, with the penalty chosen by leave-one-out; `GlobalScaler`
    scales the features first.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels of at least two classes; or, if an image can have several tags,
        indicators, with a column of 0 and 1 for each tag; or numbers. See `target`.
    backbone : str, torch.nn.Module or PretrainedFeatureExtractor, default="sktl_photo"
        The network; for small images, `"sktl_mini"` takes a third of the time. An
        extractor is used with its own `weights`, `image_size`, `cache`, `device` and so
        on, but not with its `layers` and `pooling`.
    cv : int, splitter or iterable of splits, default=5
        At least two splits. An int means folds without shuffling, stratified for
        labels and indicators, as in `compare_transfer`.
    scoring : str, callable or None, default=None
        One score; larger is better. None means accuracy for labels, average precision
        for indicators, and R2 for numbers.
    n_jobs : int or None, default=None
        Number of folds fitted in parallel, once the features are computed. (An
        extractor's own `n_jobs` is the number of threads that read images.)
    verbose : int, default=0
        Positive values show progress bars.
    target : {"auto", "labels", "indicators", "numbers"}, default="auto"
        What `y` holds, as in `compare_transfer`.

    Returns
    -------
    probe : LayerProbe

    Raises
    ------
    ValueError
        If `backbone` is not a network or has fewer than two stages, `y` has fewer than
        two classes or is not what `target` says, every class has fewer rows than there
        are folds, there are fewer than two splits, `scoring` does not suit `y` or the
        test part of a split, or features are not finite.
    UnknownBackboneError
        If a name is not known; the message suggests similar ones.
    WeightsNotAvailableError
        If named weights are not on this machine and cannot be downloaded.
    ImageReadError
        If images cannot be read; it lists all of them.

    See Also
    --------
    rank_backbones : Helps to choose a network.
    compare_transfer : Measures how much transfer helps.
    FineTunedCNNClassifier, FineTunedCNNRegressor : Train the network itself.

    Notes
    -----
    Late layers are the most specific to what the network was trained for; a task that
    differs from it often needs something of earlier layers too. A linear model on
    several layers can take from each what it needs (Evci et al.). The advised layers
    are the last third, rounded up. If all of these are clearly below the best layer,
    the advice begins earlier, at the last layer that is not. "Clearly below" means by
    more than one standard error of the difference, paired over folds. (Folds share
    training rows, so this is only a rough guide.) If the best layer alone is ahead of
    all these together by more than four standard errors, it is advised by itself: in
    tasks far from what the network was trained for, an early layer can do better alone
    than with the later ones.

    On five sets of photographs at 112 pixels, with two networks and 5 to 100 labels per
    class, logistic regression on the advised layers was more accurate than on the last
    one in 22 of 26 cases, by 0.024 on average (at worst, it was 0.046 lower). The layer
    with the best score alone gained 0.016; the default of `FineTunedCNNClassifier`,
    which trains all stages, 0.039 more than the advised layers
    (`benchmarks/bench_advice.py`). So prefer the default where its time allows. If it
    matters, let `compare_transfer` decide.

    Time: one pass of each image through the network, and `cv` small fits for each
    stage and for the advised layers together. Memory: 4 bytes for each feature of each
    image, for all stages together.
    Results are deterministic, unless `cv` shuffles.

    References
    ----------
    Yosinski, Clune, Bengio & Lipson. How transferable are features in deep neural
    networks? NeurIPS 2014.

    Evci, Dumoulin, Larochelle & Mozer. Head2Toe: Utilizing Intermediate
    Representations for Better Transfer Learning. ICML 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import probe_layers
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = probe_layers(X[:200], y[:200], "sktl_mini", cv=3)
    >>> first, *_, last = probe.results_["mean_test_score"]
    >>> bool(last > first)
    True
    >>> probe.recommendation_["layers"]
    ['layer2.1.relu_1', 'flatten']
    """
    extractor = as_extractor(backbone)
    y, target = check_rows(X, y, target)
    probe = LinearProbe(y, target, cv, scoring)
    network, name = _load_network(extractor)
    ends = network.stage_ends()
    extractor.set_params(
        layers=list(ends.values()),
        pooling="avg",
        verbose=verbose or extractor.verbose,
    )
    features = np.asarray(extractor.fit_transform(X))  # they may come as a frame
    check_finite(features, name)
    widths = extractor.layer_widths_
    parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
    with tqdm(parts, disable=not verbose, unit="layer") as bar:
        scores = [probe.scores(part, n_jobs) for part in bar]
    late = np.hstack(parts[first_advised(np.array(scores)) :])
    together = probe.scores(late, n_jobs)
    return LayerProbe(
        list(ends),
        list(ends.values()),
        widths,
        scores,
        together,
        probe.scoring,
        target.name,
    )


def _load_network(extractor):
    backbone = extractor._load_backbone()
    network = backbone.network
    if len(network.stages) < 2:
        raise ValueError(
            f"backbone={backbone.name!r} has {len(network.stages)} stage(s) before its "
            "head, so there are no layers to compare. Pass a network with two or more."
        )
    return network, backbone.name


# ---- the advice


def first_advised(scores):
    """Find where the advised layers begin: the last third, or an earlier best layer.

    Parameters
    ----------
    scores : ndarray of shape (n_stages, n_folds)

    Returns
    -------
    stage : int
    """
    best = scores.mean(axis=1).argmax()
    losses, errors = _means_and_errors(scores[best] - scores)
    good = np.flatnonzero(losses <= CLEAR_LOSS * errors)
    return min(2 * len(scores) // 3, good[-1])


def advise(layers, scores, together, scoring, kind):
    """Turn scores into a recommendation, as `LayerProbe.recommendation_`.

    Parameters
    ----------
    layers : sequence of str
        Of shape (n_stages,), from the image to the head.
    scores : ndarray of shape (n_stages, n_folds)
    together : array-like of shape (n_folds,)
        Scores of the advised layers together.
    scoring : str
    kind : type
        Labels, Indicators or Numbers.

    Returns
    -------
    recommendation : dict
    """
    first = first_advised(scores)
    advised, together = list(layers[first:]), np.asarray(together, dtype=float)
    is_third = first == 2 * len(layers) // 3
    reason = "last third" if is_third else "later ones alone are worse"
    mean, error = _means_and_errors(together)
    means = scores.mean(axis=1)
    best = means.argmax()
    form = score_form(np.append(means, mean))
    which = f"the layer {advised[0]!r}"
    if len(advised) > 1:
        which = f"the {len(advised)} layers from {advised[0]!r} on together ({reason})"
    _, error_of_best = _means_and_errors(scores[best])
    lead, doubt = means[best] - mean, np.hypot(error, error_of_best)
    rest = "more than any other layer alone"
    if best < len(layers) - 1:
        rest = f"the best, {layers[best]!r}, {means[best]:{form}}"
    if 0 < lead < 2 * doubt:
        rest += " (among many layers, one is often best by luck)"
    if len(advised) > 1 and lead > CLEAR_LEAD * doubt:
        rest = f"the {len(advised)} from {advised[0]!r} on together, {mean:{form}}"
        advised, reason = [layers[best]], "clearly better alone"
        which = f"the layer {layers[best]!r} ({reason})"
        mean, error = means[best], error_of_best
    why = ""
    if len(advised) > 1 and float(f"{mean:{form}}") <= float(f"{means[best]:{form}}"):
        why = (
            "Here, the layers together are no better than the best one alone; but on "
            "average over five sets of photographs with class labels, they were, by "
            "0.008. "
        )
    models = " and ".join(type(step).__name__ for step in kind.linear())
    text = (
        f"Advice: for a linear model, use {which}: {scoring} {mean:{form}}, standard "
        f"error {error:{form}}. The last layer alone has {means[-1]:{form}}; {rest}. "
        f"{why}PretrainedFeatureExtractor(layers=recommendation_['layers']), with the "
        f"same backbone, computes the features, for {models}. If you can wait longer, "
        f"also compare the default, {kind.estimator}(), which trains the network too."
    )
    return {
        "layers": advised,
        "reason": reason,
        "mean_test_score": float(mean),
        "se_test_score": float(error),
        "text": text,
    }


def _means_and_errors(scores):
    """Mean over folds, the last axis, and its standard error."""
    error = scores.std(axis=-1, ddof=1) / np.sqrt(scores.shape[-1])
    return scores.mean(axis=-1), error
