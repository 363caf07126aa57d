"""`compare_transfer`: every contender on the same folds, in one table."""

import platform
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from tqdm import tqdm

from sktl._comparison.contenders import check_contenders
from sktl._comparison.evidence import check_margin, collect_evidence, evidence_of_sizes
from sktl._comparison.findings import Findings
from sktl._comparison.influence import make_units
from sktl._comparison.result import TransferComparison
from sktl._comparison.shared_pass import share_passes
from sktl._comparison.summary import (
    collect_predictions,
    say_what_is_not_scored,
    summarize,
)
from sktl._comparison.train_sizes import shrink
from sktl._comparison.trials import Setting, run_trials
from sktl._comparison.twins import kind_of
from sktl._targets.kinds import check_rows
from sktl._targets.scoring import cost_of_an_error, get_scorers
from sktl._targets.splits import make_splits
from sktl._utils.environment import versions
from sktl._utils.printable import describe, shown
from sktl._utils.warning import warning_once


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
    ImageLayoutError
        If `X` has several columns, or rows that are no images, and `contenders` is
        "default".
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
    contenders = check_contenders(contenders, backbone, target, X)
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
