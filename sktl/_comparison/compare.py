"""`compare_transfer`: every contender on the same folds, in one table. Numbers only."""

import platform
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from tqdm import tqdm

from sktl._comparison.contenders import check_contenders
from sktl._comparison.evidence import (
    LARGEST,
    check_margin,
    collect_evidence,
    evidence_of_sizes,
    split_scores,
)
from sktl._comparison.findings import Findings
from sktl._comparison.influence import make_units
from sktl._comparison.shared_pass import share_passes
from sktl._comparison.statistics import chances_of_being_best
from sktl._comparison.summary import (
    collect_predictions,
    describe,
    say_what_is_not_scored,
    summarize,
)
from sktl._comparison.train_sizes import shrink
from sktl._comparison.trials import Setting, run_trials
from sktl._comparison.twins import kind_of
from sktl._display.comparison import TransferComparisonDisplay
from sktl._display.html import write_html
from sktl._display.table import TableMixin, numbers, ranges, score_form, words
from sktl._targets.kinds import check_rows
from sktl._targets.scoring import bounds_of, cost_of_an_error, get_scorers
from sktl._targets.splits import make_splits
from sktl._utils.environment import versions
from sktl._utils.printable import shown
from sktl._utils.warning import warning_once


class TransferComparison(TableMixin):
    """Scores of several models on the same splits, and what they say about transfer.

    Returned by `compare_transfer`, which calls the models *contenders*. `print` shows a
    table with the findings below it.

    Parameters
    ----------
    results : dict of str to ndarray
        As `results_`.
    scoring : str
        Name of the score.
    effects, indicators : dict of str to ndarray or None, default=None
        As the attributes.
    curves : dict of str to list of dict or None, default=None
        As `curves_`.
    predictions : dict of str to dict or None, default=None
        As `predictions_`.
    classes : array-like of shape (n_classes,) or None, default=None
        As `classes_`.
    chance : float, default=nan
        As `chance_`.
    findings : sequence of str, default=()
        As `findings_`.
    parameters, versions : dict of str to str or None, default=None
        As the attributes.
    evidence : Evidence or None, default=None
        What `compare_transfer` records for the intervals: how much each row moves the
        scores, and which rows the splits share. None means that only the scores are
        known.
    target : {"labels", "indicators", "numbers"}, default="labels"
        As `target_`.
    pass_seconds : float, default=nan
        As `pass_seconds_`.

    Attributes
    ----------
    results_ : dict of str to ndarray
        One entry per contender and training size in each array, sizes in increasing
        order: `contender`, `kind` ("classical" for models without a network, "frozen
        features", "fine-tuned" or "random weights"), `train_size` and `test_size`
        (rows; if splits differ, the largest), `split<i>_test_score` for each split,
        `mean_test_score`, `low_test_score` and `high_test_score` (95 % interval of the
        mean, see Notes), `se_test_score` (standard error of the mean as if splits were
        independent, which they are not), `mean_test_<name>` and `se_test_<name>` of
        other scores (NaN if a contender has none), `mean_fit_time` and
        `mean_score_time` (seconds per split), `trained_share` (of the parameters of a
        `FineTunedCNNClassifier` or `FineTunedCNNRegressor`; NaN for others), `error`
        (the first failure, or ""). If a split failed, its score is NaN, and so are mean
        and interval: a mean over fewer splits would not be comparable.
    scoring_ : str
        Name of the score; larger is better.
    n_splits_ : int
        Number of splits.
    effects_ : dict of str to ndarray
        The effect of transfer, at the largest training size. There is one entry per
        pretrained contender that has a counterpart without transfer, its twin:
        `contender`, `twin`, `kind` ("untrained": the same model on features of the
        network with random weights; "from scratch": the same network trained from
        random weights), `difference` (mean over splits, positive where transfer helps),
        `low` and `high` (95 % interval), `p_value` (adjusted for the number of
        entries), `verdict` ("better", "worse", "equivalent" or "inconclusive"; "" if
        either of the two failed).
    indicators_ : dict of str to ndarray
        The three classic indicators of transfer, at the largest training size, each
        with a 95 % interval: `indicator`, `contender`, `reference`, `value`, `low`,
        `high`. "score of frozen features" shows what the pretrained network is worth
        without any training. "epochs to the score from scratch" and "seconds to the
        score from scratch" show how soon a network reaches the reference's final score
        on the same split; the reference itself has an entry for comparison. If a
        network never reaches it, the end of its training is used instead: `value` and
        `low` are then too small, and `high` is infinite. "gain over from scratch" is
        the difference between the final scores.
    curves_ : dict of str to list of dict of str to ndarray
        For each network trained by epochs, at the largest training size, and for each
        split: `epoch` (0 is before the first), `seconds` of the fit until then, and the
        `score` on the test part. Empty if the split failed.
    predictions_ : dict of str to dict of str to ndarray
        Each contender's predictions for rows it was not fitted on, at the largest
        training size, ordered by row: `row` (of `X`), `split`, `y` (the truth),
        `predict`, and `predict_proba` of shape (n, n_classes) or (n, n_tags) if it
        predicts probabilities. A row in the test parts of several splits occurs several
        times. Failed splits are left out.
    classes_ : ndarray of shape (n_classes,) or None
        The labels, in the order of the columns of `predict_proba`; for indicators, the
        column numbers of `y`. None for numbers.
    target_ : str
        What was predicted: "labels", "indicators" or "numbers".
    chance_ : float
        Mean score, at the largest training size, of a model that does not see the
        images: it always predicts the most frequent class, with the class frequencies
        as probabilities; the same for each tag; or the mean of the numbers. NaN if that
        cannot be scored.
    findings_ : list of str
        Short sentences: where transfer hurts, where it helps, where it makes no
        relevant difference, where there are too few data to tell and how many it would
        take, from which training size on the counterpart without transfer is as good,
        that no contender is clearly ahead of one that does not see the images, and what
        failed.
    parameters_ : dict of str to str
        The contenders and the settings of the comparison.
    versions_ : dict of str to str
        Versions of the packages that the numbers may depend on.
    pass_seconds_ : float
        Seconds that the pass of all images through the networks took, which fit times
        do not include. NaN if that is not known.

    See Also
    --------
    compare_transfer : Runs a comparison.
    TransferComparisonDisplay : Plots its scores.

    Notes
    -----
    A mean over splits depends on the test rows that were drawn, on the training sets,
    and on the seeds. The 95 % intervals account for all three: for the test rows by how
    much each row moves the score (the jackknife), for the others by how much the scores
    of the splits vary beyond that, with Satterthwaite's degrees of freedom. A row in
    the test parts of several splits counts once, and so does a group. The intervals
    assume that rows (or groups) are independent, and that seeds differ between splits:
    if you give a contender a number as `random_state`, all its splits use that seed,
    and a lucky seed is mistaken for a difference. They do not account for what
    overlapping training sets have in common.

    This was measured on digits and photographs (`benchmarks/README.md`): with folds,
    repeated folds, draws, groups and learning curves, by accuracy, F1 and area under
    the curve, on pairs of classifiers that are equal, close or far apart. The interval
    contained the true difference in 92 to 98 % of repetitions for most pairs, and in
    89 % for the worst. Equal contenders got p < 0.05 in 0 to 8 % (in up to 10 % with
    repeated folds). A difference of four standard errors was found in 88 to 100 % with
    five splits or more, in 86 to 97 % with three, and in 78 to 90 % with two. With five
    splits, two pairs were worse: 82 % for the area under the curve, with models that
    hardly differ, and 78 % for the log loss. For the log loss of 200 rows, the interval
    contained the true difference in 88 to 98 %. If splits vary far more than their rows
    explain, it contains it in about 91 % with five splits, and in 84 % with two.

    A model that is right on all of n test rows gets an interval down to about 1 - 3 / n
    (Hanley & Lippman-Hand, JAMA 249, 1983). For a perfect recall, n is the number of
    positive rows; for other scores, too, an error counts for what it can cost. This is
    not known of scores of probabilities, such as the area under the curve of several
    classes; there, it counts as with accuracy. The area under a curve near 1 has too
    narrow an interval where few rows are positive: with 20, it contained the true value
    in 81 to 88 %.

    For scores that are not computed from predictions alone, or that are undefined if
    some row is left out, the interval is that of the corrected resampled t-test (Nadeau
    & Bengio, Machine Learning 52, 2003), corrected for the rows that splits actually
    share.

    The verdict is "better" or "worse" if the p-value, adjusted for the number of pairs
    (Holm), is below 5 %; "equivalent" if the interval, adjusted likewise, lies within
    the margin; otherwise "inconclusive". The intervals themselves are not adjusted,
    nor is `gain`: if you look at many differences, some will seem clear by chance.

    The indicators: Torrey & Shavlik, Transfer Learning, Handbook of Research on Machine
    Learning Applications, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import TransferComparison
    >>> print(TransferComparison(
    ...     {"contender": np.array(["raw pixels"], dtype=object),
    ...      "train_size": np.array([80]),
    ...      "test_size": np.array([20]),
    ...      "split0_test_score": np.array([0.7]),
    ...      "split1_test_score": np.array([0.8]),
    ...      "mean_test_score": np.array([0.75]),
    ...      "se_test_score": np.array([0.05]),
    ...      "mean_fit_time": np.array([0.1]),
    ...      "mean_score_time": np.array([0.0]),
    ...      "error": np.array([""], dtype=object)},
    ...     scoring="accuracy"))
    contender   accuracy   95 % interval  fit seconds
    raw pixels     0.750  0.000 to 1.000         0.10
    """

    def __init__(
        self,
        results,
        scoring,
        *,
        effects=None,
        indicators=None,
        curves=None,
        predictions=None,
        classes=None,
        chance=np.nan,
        findings=(),
        parameters=None,
        versions=None,
        evidence=None,
        target="labels",
        pass_seconds=np.nan,
    ):
        self._evidence = evidence or evidence_of_sizes(results, bounds_of(scoring))
        low, high = self._evidence.intervals(results)
        self.results_ = results | {"low_test_score": low, "high_test_score": high}
        self.scoring_ = scoring
        self.n_splits_ = len(split_scores(results))
        self.effects_ = effects or {}
        self.indicators_ = indicators or {}
        self.curves_ = curves or {}
        self.predictions_ = predictions or {}
        self.classes_ = classes
        self.chance_ = chance
        self.findings_ = list(findings)
        self.parameters_ = parameters or {}
        self.versions_ = versions or {}
        self.target_ = target
        self.pass_seconds_ = pass_seconds

    def gain(self, contender, over):
        """Estimate how far a contender is ahead of another on the same splits.

        Parameters
        ----------
        contender, over : str
            Names of two contenders.

        Returns
        -------
        gain : Estimate
            A named tuple of `mean`, `low` and `high` (95 % interval) and `p_value` of
            the difference at the largest training size. They are not adjusted for the
            number of differences you look at. All are NaN if one of the two failed.

        Raises
        ------
        ValueError
            If there is no contender of that name.
        """
        names = self._names()
        for name in (contender, over):
            if name not in names:
                raise ValueError(
                    f"{name!r} is not one of the contenders, which are "
                    f"{', '.join(map(repr, names))}."
                )
        gain = self._evidence.gain(self.results_, contender, over)
        return gain.interval(self._evidence.bounds_of_gain)

    def rank(self):
        """Estimate how probable it is that each contender is the best.

        Returns
        -------
        chances : dict of str to float
            For each contender, the share of 10,000 resampled comparisons that it wins,
            at the largest training size; the most probable first. Shares sum to 1; that
            of a contender that failed is 0.
        """
        scores = {
            name: self._evidence.scores(self.results_, name, LARGEST)
            for name in self._names()
        }
        failed = [name for name in scores if np.isnan(scores[name].of_splits).any()]
        chances = dict.fromkeys(failed, 0.0)
        running = [name for name in scores if name not in failed]
        if running:
            found = chances_of_being_best([scores[name] for name in running])
            chances |= dict(zip(running, found.tolist(), strict=True))
        return dict(sorted(chances.items(), key=lambda item: -item[1]))

    def mean_curves(self, over="epoch"):
        """Compute the learning curve of each network, averaged over splits.

        Scores are interpolated between the epochs of a split. If training stopped early
        in a split, its last score is used from then on.

        Parameters
        ----------
        over : {"epoch", "seconds"}, default="epoch"

        Returns
        -------
        curves : dict of str to tuple of (x, means, errors)
            For each contender: epochs or seconds, of shape (n_points,); the mean
            scores, NaN if a split failed; and how far the 95 % interval, computed from
            the splits alone, reaches below and above them, of shape (2, n_points): as
            far as scores can if all splits test on the same rows.

        Raises
        ------
        ValueError
            If `over` is neither.
        """
        if over not in ("epoch", "seconds"):
            raise ValueError(f"over={shown(over)} must be 'epoch' or 'seconds'.")
        return {
            name: self._evidence.mean_curve(splits, over)
            for name, splits in self.curves_.items()
        }

    def plot(self, ax=None):
        """Draw mean scores with their 95 % intervals.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            None makes a new figure. Needs matplotlib.

        Returns
        -------
        display : TransferComparisonDisplay
        """
        return TransferComparisonDisplay.from_results(self).plot(ax=ax)

    def save_html(self, path):
        """Save the findings, tables and plots as one self-contained HTML page.

        It opens offline. If matplotlib is missing, or a plot fails, the page says so in
        place of the plot.

        Parameters
        ----------
        path : path-like
            An existing file is replaced; `~` is expanded.
        """
        write_html(self, path)

    def _index(self):
        return ["contender", "train_size"] if self._has_sizes() else "contender"

    def _columns(self):
        results = self.results_
        sizes = [numbers("rows", results["train_size"], ".0f")]
        ends = results["low_test_score"], results["high_test_score"]
        means = results["mean_test_score"]
        form = score_form(means)
        others = {name: results[f"mean_test_{name}"] for name in self._other_scores()}
        return [
            words("contender", results["contender"]),
            *(sizes if self._has_sizes() else []),
            numbers(self.scoring_, means, form, missing="failed"),
            ranges("95 % interval", *ends, form, missing="failed"),
            *(numbers(name, of, score_form(of)) for name, of in others.items()),
            numbers("fit seconds", results["mean_fit_time"], ".2f", missing="failed"),
        ]

    def _remarks(self):
        return self.findings_

    def _other_scores(self):
        means = [name for name in self.results_ if name.startswith("mean_test_")]
        means.remove("mean_test_score")
        return [name.removeprefix("mean_test_") for name in means]

    def _names(self):
        return list(dict.fromkeys(self.results_["contender"]))

    def _has_sizes(self):
        names = self.results_["contender"]
        return len(set(names)) < len(names)


@warning_once()
def compare_transfer(
    X,
    y,
    contenders="default",
    *,
    backbone="sktl_photo",
    cv=5,
    scoring=None,
    train_sizes=None,
    groups=None,
    n_jobs=None,
    random_state=None,
    verbose=0,
    margin=None,
    target="auto",
):
    """Compare transfer learning with training from scratch and with classical models.

    The models to compare, called contenders, are fitted and scored on the same splits.
    The images pass through the frozen network only once for all of them. A contender
    that fails on a split is marked as failed; the other results are unaffected.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes; or a table, for
        contenders that select its columns.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels; or, if an image can have several tags, indicators, with a column of 0
        and 1 for each tag; or numbers, in one column or several. See `target`.
    contenders : "default" or dict of str to estimator, default="default"
        The models to compare, by name. `"default"`: the most frequent class; logistic
        regression on raw pixels (`RawPixels`); logistic regression on features of the
        untrained network; logistic regression, SVM and gradient boosting on frozen
        features; the fine-tuned network; the same network from scratch. Linear models
        have `GlobalScaler` before them. For indicators, one such model per tag
        (`OneVsRestClassifier`); for numbers, the corresponding regressors: the mean,
        ridge regression, and so on.
    backbone : str, torch.nn.Module, extractor or dict, default="sktl_photo"
        The network of the default contenders (for small images, `"sktl_mini"` takes a
        third of the time). If it is a `PretrainedFeatureExtractor`, all of them use its
        `weights`, `image_size`, `image_shape`, `cache` and so on. Pass a dict of label
        to any of these to compare several networks; `BackboneRanking.best` returns such
        a dict. Networks that differ only in their weights have one untrained network
        and one from scratch in common.
    cv : int, splitter or iterable of splits, default=5
        An int means folds without shuffling, which are stratified if `y` holds labels
        (or indicators: by each row's rarest tag, or tag that few rows lack); with
        `groups`, folds that keep groups together. Two splits or more.
    scoring : str, callable, None, or list of these, default=None
        One score or several; larger is better. None means accuracy for labels, average
        precision (mean over tags) for indicators, and R2 for numbers. If there are
        several, contenders are compared by the first, and the others are shown as
        columns of the table. Besides scikit-learn's names,
        "neg_expected_calibration_error" is accepted: how far predicted probabilities of
        labels are from observed frequencies, in 15 bins of equal width.
    train_sizes : sequence of int or float, or None, default=None
        Training sizes for learning curves, in increasing order: numbers of rows, or
        floats as fractions of the smallest training part. Every contender is fitted on
        subsets of each size. Larger subsets contain the smaller ones; for labels they
        are stratified (for indicators, as in `cv`). None means one size,
        all rows.
    groups : array-like of shape (n_samples,) or None, default=None
        The group of each row, such as a patient. If `cv` is an int, or a splitter such
        as `GroupKFold`, rows of one group stay together; most other splitters ignore
        groups. The intervals treat groups, not rows, as independent. A contender that
        reads groups, such as a `GridSearchCV` with `GroupKFold` or a
        `FineTunedCNNClassifier`, gets them too if scikit-learn's metadata routing is
        enabled.
    n_jobs : int or None, default=None
        Number of splits that run in parallel. Worker processes share features only if
        contenders have `cache=<directory>`.
    random_state : int, RandomState instance or None, default=None
        Determines the subsets of `train_sizes`. It also sets each `random_state=None`
        in a contender to a seed, which differs between splits and is the same for all
        contenders. So the intervals account for seeds too.
    verbose : int, default=0
        Positive values show a progress bar.
    margin : float or None, default=None
        The largest difference between two scores that does not matter, in the unit of
        the score: two contenders are called equivalent if the interval of their
        difference lies within it. None means 0.01 for scores whose best value is 1
        (accuracy, R2, area under a curve); for other scores, no contenders are then
        called equivalent.
    target : {"auto", "labels", "indicators", "numbers"}, default="auto"
        What `y` holds. With `"auto"`, a `y` with fractions holds numbers; a `y` of
        several columns holds indicators if all are 0 or 1, else numbers; everything
        else is taken for labels, including whole numbers: pass `"numbers"` for a price
        in whole dollars.

    Returns
    -------
    comparison : TransferComparison

    Raises
    ------
    TypeError
        If `X` is a single path or name.
    ValueError
        Before anything is fitted: if `contenders` is neither "default" nor a dict of
        name to estimator, or holds a regressor for labels or a classifier for numbers;
        if `y` holds a single class, a tag or number that is the same in all rows, or
        numbers that are not finite; if every class has fewer rows than there are folds;
        if `groups` are not one for each row; if there are fewer than two splits, or one
        names rows that `X` does not have; if `train_sizes` do not increase, or are out
        of range; if a `scoring` is unknown, does not suit `y`, or is given twice; if
        the first, passed by name, is not defined on some test part, such as an area
        under a curve where there is a single class; if `margin` is not above 0.
    UnknownBackboneError, WeightsNotAvailableError
        If there is no such `backbone`, or its weights cannot be downloaded.
    Exception
        If every contender fails on every split: the first error, with a note that names
        the contender.

    Notes
    -----
    Time: one pass of all images through each network, and the fits. With `sktl_photo`
    and five folds, the default contenders take about nine CPU seconds per image, two
    thirds of them for the network from scratch: on two cores, a quarter of an hour for
    200 photographs. To leave that network out, pass `contenders` of your own.

    The pass comes first, so that all contenders find their features in the cache; fit
    seconds do not include it, and `pass_seconds_` is its own time. This requires that
    contenders read `X` themselves or in the first step of a pipeline, and that they
    cache features (`cache`, which must be a directory if `n_jobs` starts processes).
    Networks that are trained by epochs are scored after each epoch; fit seconds do not
    include that either. Only networks that are contenders themselves are scored in this
    way, not those at the end of a pipeline.

    Pairs with and without transfer (*twins*) are found by comparing parameters. A
    contender on frozen features is paired with the contender that differs only in the
    extractor's `weights=None`; a fine-tuned `FineTunedCNNClassifier` or
    `FineTunedCNNRegressor` is paired with one on the same `backbone` that starts from
    random weights. Contenders without such a twin have no row in `effects_`.

    Features of random weights can be a billion times smaller than those of pretrained
    ones, too small for most models. `GlobalScaler` behind the extractor makes up for
    that; without it, transfer seems to help more than it does.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import GlobalScaler, PretrainedFeatureExtractor, compare_transfer
    >>> X, y = load_digits(return_X_y=True)
    >>> model = make_pipeline(GlobalScaler(), LogisticRegression(max_iter=1000))
    >>> def classify(**params):
    ...     features = PretrainedFeatureExtractor("sktl_mini", **params)
    ...     return make_pipeline(features, model)
    >>> report = compare_transfer(X[:200], y[:200], {
    ...     "frozen features": classify(),
    ...     "untrained network": classify(weights=None),
    ... })
    >>> report.results_["mean_test_score"].shape
    (2,)
    >>> report.effects_["difference"] > 0
    array([ True])
    """
    y, target = check_rows(X, y, target)
    contenders = check_contenders(contenders, backbone, target)
    scorer, *others = get_scorers(scoring, target, y)
    bounds = scorer.bounds
    check_margin(margin, bounds)
    # Without a seed, a new generator, not NumPy's global one.
    own = np.random.RandomState() if random_state is None else random_state
    rng = check_random_state(own)
    splits = make_splits(X, y, cv, groups, target)
    seeds = [None] * len(splits)
    if random_state is not None:
        seeds = rng.randint(2**31, size=len(seeds)).tolist()
    splits = shrink(splits, y, target, train_sizes, rng)
    scorer.check_defined(y, splits[-1], target, cv)
    others = [other.or_why_not(y, splits[-1], target, cv) for other in others]
    # These fail before the first fit if a contender is not a proper estimator.
    clones = {name: clone(contender) for name, contender in contenders.items()}
    described = {name: repr(contender) for name, contender in contenders.items()}
    parameters = {
        "rows": str(len(y)),
        target.outputs: str(target.n_outputs),
        "cv": shown(cv),
        "scoring": ", ".join(one.name for one in (scorer, *others)),
        "train_sizes": shown(train_sizes),
        "random_state": repr(random_state),
    }
    chance = _score_without_images(X, y, splits[-1], scorer, target.baseline())
    kinds = [kind_of(contender) for contender in contenders.values()]
    tests = [split.test for split in splits[-1]]
    cost = cost_of_an_error(scorer, y, tests, target.has_scale)
    seconds = share_passes(contenders, X, splits, n_jobs)
    groups = None if groups is None else np.asarray(groups)
    group_of_row = np.arange(len(y)) if groups is None else groups
    units = make_units(group_of_row, np.concatenate(tests))
    setting = Setting(X, y, scorer, others, units, groups)
    trials = {}
    with tqdm(clones.items(), disable=not verbose, unit="contender") as bar:
        for name, contender in bar:
            bar.set_description(name)
            trials[name] = run_trials(contender, setting, splits, seeds, n_jobs)
    results, curves = summarize(trials, splits)
    results["kind"] = np.repeat(np.array(kinds, dtype=object), len(splits))
    problems = []
    evidence = _attempt(
        problems,
        "what each row contributes",
        lambda: collect_evidence(trials, splits, group_of_row, bounds, margin, cost),
    ) or evidence_of_sizes(results, bounds)
    transfer = _attempt(
        problems,
        "what they say about transfer",
        lambda: _find(results, curves, contenders, evidence),
    )
    predictions = _attempt(
        problems,
        "the predictions",
        lambda: collect_predictions(trials, splits, y, target),
    )
    effects, indicators, findings = transfer or (None, None, [])
    passes = "in the fits" if np.isnan(seconds) else f"{seconds:.2f}"
    return TransferComparison(
        results,
        scorer.name,
        effects=effects,
        indicators=indicators,
        curves=curves,
        predictions=predictions,
        classes=getattr(target, "classes", None),
        chance=chance,
        findings=[*findings, *problems, *say_what_is_not_scored(trials)],
        parameters=parameters | {"seconds of the passes": passes} | described,
        pass_seconds=seconds,
        versions={"python": platform.python_version()} | versions(),
        evidence=evidence,
        target=target.name,
    )


def _find(results, curves, contenders, evidence):
    """Effects, indicators and sentences."""
    findings = Findings(results, curves, contenders, evidence)
    return findings.effects(), findings.indicators(), findings.sentences()


def _attempt(problems, what, work_out):
    """Work something out after the fits; if it fails, say so and keep the fits."""
    try:
        return work_out()
    except Exception as error:
        problems.append(
            f"The scores are complete, but {what} could not be worked out: "
            f"{describe(error)}"
        )


def _score_without_images(X, y, splits, scorer, baseline):
    """Mean score of a model that sees `y` alone; NaN where it has none."""
    seeds = [None] * len(splits)
    with warnings.catch_warnings():  # such as that a precision is undefined
        warnings.simplefilter("ignore")
        (trials,) = run_trials(baseline, Setting(X, y, scorer), [splits], seeds, 1)
    return float(np.mean([trial.score for trial in trials]))
