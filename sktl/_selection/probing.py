"""`probe_layers`: what each layer knows of labels, tags or numbers, and what to train.

Numbers first: one linear probe per stage, on the same folds. `advise` turns them into
a recommendation; its thresholds stand at the top.
"""

import textwrap

import numpy as np
from tqdm import tqdm

from sktl._display.layer_probe import LayerProbeDisplay
from sktl._display.table import TableMixin, numbers, score_form, words
from sktl._extractor import as_extractor
from sktl._selection.ranking import check_finite, probe_scores
from sktl._training.rows import check_rows
from sktl._training.targets import TARGETS
from sktl._utils.scoring import get_one_scorer
from sktl._utils.splits import make_splits

# A set with at least this many labels per class is large. With 17 to 42, training every
# layer did better than a linear model on the best one on some sets and as much worse on
# others; with 100, better on two of three (benchmarks/bench_advice.py).
MANY_LABELS = 100
# Standard errors by which the last stage has to beat the middle one for the source task
# to count as similar. With 1, 13 of 15 large draws from the five sets of the benchmark
# (other draws than it uses) come out as they do on many more images.
CLEAR_GAIN = 1.0
# Standard errors by which a later layer may be below the best one and still be taken:
# the rule of Breiman et al. (Classification and Regression Trees, 1984). With 5 labels
# a class, where the best mean is often luck, it found better features (accuracy 0.618
# on new images, mean over 40 draws) than the best mean (0.613) and the last (0.593).
LAYER_SLACK = 1.0


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
    scoring : str
        Name of the score; larger is better.
    labels_per_class : float
        Number of rows divided by number of classes; half the rows for tags and numbers.
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
        The advice: `strategy` and `unfreeze_from` for `FineTunedCNNClassifier` or
        `FineTunedCNNRegressor`, and `layers` (the last layer that is not clearly worse
        than the best) for `PretrainedFeatureExtractor`. The reasons: `case` (such as
        "small, similar"), `last_minus_middle` (the last stage's score minus that of the
        middle stage, mean over folds; if the number of stages is even, the earlier of
        the two in the middle), the `standard_error` of that difference, and
        `labels_per_class`. `text` says all this in words.

    See Also
    --------
    probe_layers : Probes a network.
    LayerProbeDisplay : Plots the scores.

    Examples
    --------
    >>> from sktl import LayerProbe
    >>> probe = LayerProbe(
    ...     stages=["conv1", "layer1", "layer2"],
    ...     layers=["maxpool", "layer1.1.relu_1", "flatten"],
    ...     n_features=[64, 64, 128],
    ...     scores=[[0.5, 0.54], [0.7, 0.74], [0.9, 0.9]],
    ...     scoring="accuracy",
    ...     labels_per_class=5.0,
    ... )
    >>> print(probe)
    stage   layer            features  accuracy     se
    conv1   maxpool                64     0.520  0.020
    layer1  layer1.1.relu_1        64     0.720  0.020
    layer2  flatten               128     0.900  0.000
    <BLANKLINE>
    ...
    >>> probe.recommendation_["case"]
    'small, similar'
    """

    def __init__(
        self,
        stages,
        layers,
        n_features,
        scores,
        scoring,
        labels_per_class,
        target="labels",
    ):
        scores = np.asarray(scores, dtype=float)
        n_folds = scores.shape[1]
        self.results_ = {
            "stage": np.array(stages, dtype=object),
            "layer": np.array(layers, dtype=object),
            "n_features": np.array(n_features),
            **{f"split{i}_test_score": scores[:, i] for i in range(n_folds)},
            "mean_test_score": scores.mean(axis=1),
            "se_test_score": scores.std(axis=1, ddof=1) / np.sqrt(n_folds),
        }
        self.scoring_ = scoring
        self.recommendation_ = advise(
            stages, layers, scores, scoring, labels_per_class, TARGETS[target]
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
        return textwrap.wrap(self.recommendation_["text"], break_on_hyphens=False)


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
    """Find the layers whose features suit the task, and advise what to fine-tune.

    A network is a chain of stages (such as `layer1` to `layer4` of a ResNet). Each
    image passes through it once. Then a linear model on the output of each stage is
    cross-validated, on the same folds for all stages: for labels and for each tag,
    logistic regression; for numbers, ridge regression with a penalty chosen by
    leave-one-out. The output of a stage is not scaled.

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
        labels.
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
        are folds, there are fewer than two splits, `scoring` does not suit `y`, or
        features are not finite.
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
    FineTunedCNNClassifier, FineTunedCNNRegressor : Have `strategy` and `unfreeze_from`.

    Notes
    -----
    The advice follows the four textbook cases. A data set counts as large or small by
    its number of labels per class; if `y` holds tags or numbers, by half the number of
    rows. The task counts as similar to the one that the network was trained for if
    features of the last stage beat those of the middle stage by a standard error (of
    the difference, paired over folds); if they do not, late features are too specific
    to the original task.

    ======  =========  ============================================================
    set     task       advice
    ======  =========  ============================================================
    small   similar    a linear model on frozen features
    small   different  the same, often with features of an earlier layer
    large   similar    `strategy="lp_ft"`, from the last stage on
    large   different  `strategy="full"`
    ======  =========  ============================================================

    The advised layer is the last one whose score is not below the highest mean by more
    than a standard error. Folds share training rows, so these standard errors are only
    a rough guide. Thresholds were set on five sets of labelled images with one network.
    On these, the advised choice was within 2 points, or a standard error, of the best
    in 4 of 13 cases, and the default, `FineTunedCNNClassifier()`, which trains all
    stages, in 12 (`benchmarks/bench_advice.py`); for tags and numbers it has not been
    measured. So prefer the default where its time allows, and use the advised layer for
    a linear model. If it matters, let `compare_transfer` decide.

    Time: one pass of each image through the network, and `cv` small fits for each
    stage. Memory: 4 bytes for each feature of each image, for all stages together.
    Results are deterministic, unless `cv` shuffles.

    References
    ----------
    Yosinski, Clune, Bengio & Lipson. How transferable are features in deep neural
    networks? NeurIPS 2014.

    Karpathy. Transfer Learning and Fine-tuning Convolutional Neural Networks. Notes
    of the course CS231n, Stanford: the four cases.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import probe_layers
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = probe_layers(X[:200], y[:200], "sktl_mini", cv=3)
    >>> first, *_, last = probe.results_["mean_test_score"]
    >>> bool(last > first)
    True
    >>> probe.recommendation_["labels_per_class"]
    20.0
    """
    extractor = as_extractor(backbone)
    y, target = check_rows(X, y, target)
    folds = make_splits(np.zeros(len(y)), y, cv, None, target)
    what, scorer = get_one_scorer(scoring, target, y)
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
        scores = [probe_scores(part, y, target, folds, scorer, n_jobs) for part in bar]
    return LayerProbe(
        list(ends),
        list(ends.values()),
        widths,
        scores,
        what,
        len(y) / target.n_groups,
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


def advise(stages, layers, scores, scoring, labels_per_class, target):
    """Turn scores into a recommendation, as `LayerProbe.recommendation_`.

    Parameters
    ----------
    stages, layers : sequence of str
        Of shape (n_stages,), from the image to the head.
    scores : ndarray of shape (n_stages, n_folds)
    scoring : str
    labels_per_class : float
    target : type
        Labels, Indicators or Numbers.

    Returns
    -------
    recommendation : dict
    """
    middle = (len(stages) - 1) // 2
    gain, error = _mean_and_error(scores[-1] - scores[middle])
    similar = gain >= CLEAR_GAIN * error
    large = labels_per_class >= MANY_LABELS
    best = _best_layer(scores)
    strategy, unfreeze_from = _choose(large, similar, stages)
    advice = {
        "strategy": strategy,
        "unfreeze_from": unfreeze_from,
        "layers": layers[best],
        "case": f"{'large' if large else 'small'}, "
        f"{'similar' if similar else 'different'}",
        "last_minus_middle": float(gain),
        "standard_error": float(error),
        "labels_per_class": float(labels_per_class),
    }
    what = _say(advice, best == len(layers) - 1, target)
    means = scores.mean(axis=1)
    form, highest = score_form(means), means.argmax()
    why = _explain(advice, stages[-1], stages[middle], scoring, target, form)
    text = f"Advice: {what} {why}"
    if means[best] < means[highest]:
        text += (
            f" The best mean is that of {layers[highest]!r} ({means[highest]:{form}}); "
            f"{layers[best]!r} ({means[best]:{form}}) is the last layer that is not "
            "clearly worse."
        )
    return advice | {"text": text}


def _choose(large, similar, stages):
    """Strategy and stage of each case; a linear probe trains no stage."""
    if not large:
        return "linear_probe", "last"
    return ("lp_ft", stages[-1]) if similar else ("full", stages[0])


def _mean_and_error(differences):
    """Mean over folds and its standard error."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return differences.mean(), error


def _best_layer(scores):
    """The last layer that is not clearly worse than the one with the best mean."""
    best = scores.mean(axis=1).argmax()
    for layer in reversed(range(len(scores))):
        loss, error = _mean_and_error(scores[best] - scores[layer])
        if loss <= LAYER_SLACK * error:
            return layer


def _say(advice, is_last, target):
    """Say what to do; `is_last` is whether the best layer is the last."""
    net, linear = target.estimator, [type(s).__name__ for s in target.linear()]
    strategy, layer = advice["strategy"], advice["layers"]
    stage = advice["unfreeze_from"]
    if strategy == "full":
        what = f"train the whole network: {net}(strategy='full')."
    elif strategy == "lp_ft":
        what = (
            f"train the stages from {stage!r} on, after a linear probe: "
            f"{net}(strategy='lp_ft', unfreeze_from={stage!r})."
        )
    else:
        way = (
            f"{net}(strategy='linear_probe')."
            if is_last
            else f"PretrainedFeatureExtractor(layers={layer!r}) before "
            f"{' and '.join(linear)}."
        )
        what = f"train only a linear model on the output of {layer!r}: {way}"
    return f"{what} If training may take longer, compare the default, {net}()."


def _explain(advice, last, middle, scoring, target, form):
    """Say which of the four cases it is, with the numbers that make it so."""
    size, domain = advice["case"].split(", ")
    gain, error = advice["last_minus_middle"], advice["standard_error"]
    side = "lower" if gain < 0 else "higher"
    kind = "as similar to" if domain == "similar" else "as different from"
    return (
        f"The set is {size}: "
        f"{target.size_in_words(advice['labels_per_class'], MANY_LABELS)}. The task "
        f"counts {kind} the one that the network was trained for: {scoring} is "
        f"{abs(gain):{form}} {side} with features of the last stage, {last}, than with "
        f"those of the middle stage, {middle}, with a standard error of {error:{form}} "
        f"(similar: higher by at least {CLEAR_GAIN:.3g} standard error)."
    )
