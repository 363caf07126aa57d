"""`compare_transfer`: every contender on the same folds, in one table. Numbers only."""

import platform
import warnings
from importlib.metadata import version
from os import PathLike

import numpy as np
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length
from tqdm import tqdm

from sktl._comparison.contenders import check_contenders
from sktl._comparison.evidence import (
    check_margin,
    collect_evidence,
    evidence_of_sizes,
)
from sktl._comparison.findings import (
    Findings,
    bounds_of_difference,
    clip,
    gain,
    intervals,
    mean_curve,
)
from sktl._comparison.influence import make_units
from sktl._comparison.shared_pass import share_passes
from sktl._comparison.statistics import chances_of_being_best
from sktl._comparison.summary import collect_predictions, describe, summarize
from sktl._comparison.train_sizes import shrink
from sktl._comparison.trials import run_trials
from sktl._comparison.twins import kind_of
from sktl._display.comparison import TransferComparisonDisplay
from sktl._display.html import write_html
from sktl._display.table import TableMixin, numbers, ranges, words
from sktl._training.labels import check_labels, list_classes
from sktl._utils.printable import shown
from sktl._utils.scoring import get_scorers
from sktl._utils.splits import make_splits

# What the numbers may depend on.
PACKAGES = ("sktl", "scikit-learn", "skorch", "torch", "torchvision", "numpy")


class TransferComparison(TableMixin):
    """Scores of several contenders on the same splits, and what they say of transfer.

    Made by `compare_transfer`; `print` shows it as a table with the findings below.

    Parameters
    ----------
    results : dict of str to ndarray
        As `results_`.
    scoring : str
        What the scores are.
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
        What `compare_transfer` keeps for the intervals: what each row moves the scores,
        and which rows splits have in common. None: nothing but the scores is known.

    Attributes
    ----------
    results_ : dict of str to ndarray
        One entry per contender and training size in each array, sizes in increasing
        order: `contender`, `kind` (what it takes from a network: "classical" is
        nothing, "frozen features", "fine-tuned", or "random weights"), `train_size`
        and `test_size` (rows; where splits differ, the most), `split<i>_test_score` for
        each split, `mean_test_score`, `low_test_score` and `high_test_score` (95 %
        interval of the mean, see Notes), `se_test_score` (standard error of the mean as
        if splits were independent, which they are not), `mean_test_<name>` and
        `se_test_<name>` of other scores (NaN where a contender has none),
        `mean_fit_time` and `mean_score_time` (seconds per split), `error` (the first
        failure, or ""). Where a split failed its score is NaN, and so are mean and
        interval: a mean over fewer splits would not compare.
    scoring_ : str
        What the scores are; more is better.
    n_splits_ : int
        Number of splits.
    effects_ : dict of str to ndarray
        What transfer does: one entry per pretrained contender that has a twin, at the
        largest training size. `contender`, `twin`, `kind` ("untrained": the same on
        features of random weights; "from scratch": the same network trained from
        random weights), `difference` (mean over splits, positive where transfer
        helps), `low` and `high` (95 % interval), `p_value` (adjusted to the number of
        entries), `verdict` ("better", "worse", "equivalent" or "cannot be told"; "" if
        one of both failed).
    indicators_ : dict of str to ndarray
        The three classic indicators of a transfer, at the largest training size, each
        with a 95 % interval: `indicator`, `contender`, `reference`, `value`, `low`,
        `high`. "score of frozen features" is what the transferred knowledge alone is
        worth; "epochs to ..." and "seconds to the score from scratch" how soon a
        network is as good as the reference is in the end on the same split (a row for
        the reference itself is there to compare). Where it never is, the time at which
        training ended stands for it: `value` and `low` are then less than the truth,
        and `high` is infinite. "gain over from scratch" is the difference of the final
        scores.
    curves_ : dict of str to list of dict of str to ndarray
        For each network that is trained by epochs, at the largest training size, and
        each split: `epoch` (0 is before the first), `seconds` of the fit up to there,
        and the `score` on the test part. Empty where the split failed.
    predictions_ : dict of str to dict of str to ndarray
        What each contender predicts of rows it was not fitted on, at the largest
        training size, ordered by row: `row` (of `X`), `split`, `predict`, and
        `predict_proba` of shape (n, n_classes) if it has probabilities. A row that is
        in the test part of several splits is there several times. Splits that failed
        are left out.
    classes_ : ndarray of shape (n_classes,) or None
        The labels, in the order of the columns of `predict_proba`.
    chance_ : float
        Mean score, at the largest training size, of what looks at labels only:
        predicting the most frequent class, with the shares of the classes for
        probabilities. NaN where that has no score.
    findings_ : list of str
        Short sentences: where transfer hurts, where it helps, where it makes no
        difference that matters, where that cannot be told and what would tell, from
        which size on the twin without transfer is as good, who failed.
    parameters_ : dict of str to str
        What was compared, and how.
    versions_ : dict of str to str
        Of the packages that the numbers may depend on.

    See Also
    --------
    compare_transfer : Makes one.
    TransferComparisonDisplay : Draws one.

    Notes
    -----
    A mean over splits would come out otherwise with other test rows, and with other
    training parts and seeds. The 95 % intervals allow for both: for the first by what
    each row moves the score (the jackknife), for the second by what the scores of the
    splits vary beyond that, with Satterthwaite's degrees of freedom. A row that several
    splits test on counts once, and so does a group. Assumed is that rows (or groups)
    are independent, and that seeds differ between splits: a number as a contender's own
    `random_state` is held on all splits, and its luck is taken for a difference. Not
    seen is what training parts that overlap have in common. Measured on digits and
    photographs, with pairs of classifiers that are equal, close and far apart: the
    interval held the true difference in 92 to 98 % (folds, repeated folds, draws,
    groups, learning curves), equal contenders got p < 0.05 in 3 to 8 %, and a
    difference of four standard errors was found in 91 to 99 % with five splits or more,
    in 86 to 94 % with three and in about 80 % with two (`benchmarks/README.md`). For
    the log loss of 200 rows the interval held it in 88 to 93 %. Where splits vary far
    more than their rows explain, it does so in about 91 % with five splits, in 84 %
    with two.

    Scores that do not come from predictions alone, or are not defined without some row,
    have the interval of the corrected resampled t-test (Nadeau & Bengio, Machine
    Learning 52, 2003) with the rows that splits really share.

    A difference is "better" or "worse" where its p-value is below 5 %, adjusted to how
    many twins there are (Holm); "equivalent" where the interval lies within the margin,
    adjusted likewise; and else it cannot be told. The intervals themselves are not
    adjusted. `gain` is not either: among many, some are clear by chance.

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
    ):
        self._evidence = evidence or evidence_of_sizes(results, scoring)
        low, high = intervals(results, self._evidence)
        self.results_ = results | {"low_test_score": low, "high_test_score": high}
        self.scoring_ = scoring
        self.n_splits_ = sum(name.startswith("split") for name in results)
        self.effects_ = effects or {}
        self.indicators_ = indicators or {}
        self.curves_ = curves or {}
        self.predictions_ = predictions or {}
        self.classes_ = classes
        self.chance_ = chance
        self.findings_ = list(findings)
        self.parameters_ = parameters or {}
        self.versions_ = versions or {}

    def gain(self, contender, over):
        """Estimate how far a contender is ahead of another on the same splits.

        Parameters
        ----------
        contender, over : str
            Two names of contenders.

        Returns
        -------
        gain : Estimate
            A tuple of `mean`, `low` and `high` (95 % interval) and `p_value` of the
            difference at the largest training size; of this difference alone, not
            adjusted to how many are looked at.

        Raises
        ------
        ValueError
            If there is no contender of that name.
        """
        names = self._names()
        for name in (contender, over):
            if name not in names:
                raise ValueError(
                    f"{name!r} is no contender. These are: "
                    f"{', '.join(map(repr, names))}."
                )
        mean = gain(self.results_, self._evidence, contender, over)
        return clip(mean, bounds_of_difference(self._evidence.bounds))

    def rank(self):
        """Say how probable it is that each contender is the best.

        Returns
        -------
        chances : dict of str to float
            Contender to the share of 10,000 resampled comparisons that it wins, at the
            largest training size; the most probable first. The sum is 1. Contenders
            that failed have no chance.
        """
        scores = {
            name: self._evidence.scores(self.results_, name, -1)
            for name in self._names()
        }
        failed = [n for n, of in scores.items() if np.isnan(of.of_splits).any()]
        running = {name: of for name, of in scores.items() if name not in failed}
        chances = dict.fromkeys(failed, 0.0)
        if running:
            found = chances_of_being_best(list(running.values())).tolist()
            chances |= dict(zip(running, found, strict=True))
        return dict(sorted(chances.items(), key=lambda item: -item[1]))

    def mean_curves(self, over="epoch"):
        """Mean score over splits of each network as it is trained.

        Between two epochs of a split the score is interpolated. A split that stopped
        early keeps its last score.

        Parameters
        ----------
        over : {"epoch", "seconds"}, default="epoch"

        Returns
        -------
        curves : dict of str to tuple of (x, means, errors)
            Contender to epochs or seconds, of shape (n_points,); the mean score, NaN
            where a split failed; and how far the 95 % interval reaches below and above
            it, of shape (2, n_points), from the splits alone.
        """
        return {
            name: mean_curve(splits, over, self._evidence)
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
        """Save one self-contained page: findings, tables, plots, and what was compared.

        It opens from disk, without a network. Where matplotlib is missing, or a plot
        fails, a sentence stands in its place.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced; `~` is expanded.
        """
        write_html(self, path)

    def _index(self):
        return ["contender", "train_size"] if self._has_sizes() else "contender"

    def _columns(self):
        results = self.results_
        sizes = [numbers("rows", results["train_size"], ".0f")]
        ends = results["low_test_score"], results["high_test_score"]
        return [
            words("contender", results["contender"]),
            *(sizes if self._has_sizes() else []),
            numbers(self.scoring_, results["mean_test_score"], missing="failed"),
            ranges("95 % interval", *ends, missing="failed"),
            *(
                numbers(name, results[f"mean_test_{name}"])
                for name in self._other_scores()
            ),
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


def compare_transfer(
    X,
    y,
    contenders="default",
    *,
    backbone="sktl_mini",
    cv=5,
    scoring=None,
    train_sizes=None,
    groups=None,
    n_jobs=None,
    random_state=None,
    verbose=0,
    margin=None,
):
    """Compare transfer with training from scratch and with classical models.

    Every contender is fitted and scored on the same splits. The images pass the frozen
    network once for all of them. Where a contender fails on a split, its row says so,
    and the others go on.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes; or a table, for
        contenders that choose its columns.
    y : array-like of shape (n_samples,)
        Labels.
    contenders : "default" or dict of str to estimator, default="default"
        What is compared. `"default"`: the most frequent class; logistic regression on
        raw pixels; logistic regression on features of the untrained network; logistic
        regression, SVM and gradient boosting on frozen features; the fine-tuned
        network; the same network from scratch.
    backbone : str, torch.nn.Module, extractor or dict, default="sktl_mini"
        The network of the default contenders. A `PretrainedFeatureExtractor` brings
        its own `weights`, `image_size`, `image_shape`, `cache` and so on, which all
        contenders take over. A dict of label to one of these puts several networks
        side by side; `BackboneRanking.best` gives such a dict.
    cv : int, splitter or iterable of splits, default=5
        An int means stratified folds in the order of `X`; with `groups`, folds that
        keep groups together. Two splits or more.
    scoring : str, callable, None, or list of these, default=None
        Scores, where more is better; None is accuracy. Of several, contenders are
        compared by the first, and the others are columns of the table. Beside the
        names that scikit-learn knows, "neg_expected_calibration_error" says how far
        probabilities are from the shares of rows that come out so.
    train_sizes : sequence of int or float, or None, default=None
        Learning curves: every contender is fitted on so many rows of each training
        part, or, for floats, on such shares of the smallest; in rising order. Larger
        subsets contain smaller ones, and each holds the classes in their shares. None
        is one size, all rows.
    groups : array-like of shape (n_samples,) or None, default=None
        Given to the splitter: rows of one group stay together.
    n_jobs : int or None, default=None
        Splits run at the same time. More processes need `cache=<directory>` to share
        features.
    random_state : int, RandomState instance or None, default=None
        Decides the subsets of `train_sizes`, and what every part of a contender gets
        that has a `random_state` of None: a number per split, the same for all
        contenders. So no seed's luck is common to all splits, which no interval would
        allow for.
    verbose : int, default=0
        Positive values show a progress bar.
    margin : float or None, default=None
        The largest difference of two scores that does not matter: contenders whose
        difference is surely smaller are called equivalent. In the unit of the score.
        None is 0.01 for scores that are at best 1 (accuracy, R2, area under a curve);
        for others, nothing is called equivalent.

    Returns
    -------
    comparison : TransferComparison

    Raises
    ------
    TypeError
        If `X` is one name.
    ValueError
        Before anything is fitted: if `contenders` is neither "default" nor a dict of
        estimators with names; `y` holds one class, or no class with as many rows as
        there are folds; there are fewer than two splits; `train_sizes` do not increase,
        or do not fit; a `scoring` is not known or there twice; `margin` is not above 0.
    UnknownBackboneError, WeightsNotAvailableError
        If there is no such `backbone`, or its weights cannot be had.
    Exception
        If every contender fails on every split: the first failure, with a note that
        names the contender.

    Notes
    -----
    Time: one pass of all images through each network, and the fits. The pass comes
    first, so that all contenders find what they need in the store; fit seconds are
    without it, and `parameters_` has its own. That holds for contenders that read `X`
    themselves or by the first step of a pipeline, and keep what they compute (`cache`,
    which has to be a directory where `n_jobs` starts processes). Networks that are
    trained by epochs are scored after each epoch; their fit seconds are without that
    too. Only classifiers that stand alone are watched so, not those at the end of a
    pipeline.

    Twins are found by comparing parameters. A contender that reads frozen features is
    paired with the one in which only the extractor's `weights=None` differs; a
    fine-tuned `FineTunedCNNClassifier` with one on the same `backbone` that begins with
    random weights. Contenders without a twin have no row in `effects_`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import PretrainedFeatureExtractor, compare_transfer
    >>> X, y = load_digits(return_X_y=True)
    >>> def classify(features):
    ...     return make_pipeline(features, LogisticRegression(max_iter=1000))
    >>> report = compare_transfer(X[:200], y[:200], {
    ...     "frozen features": classify(PretrainedFeatureExtractor()),
    ...     "untrained network": classify(PretrainedFeatureExtractor(weights=None)),
    ... })
    >>> report.results_["mean_test_score"].shape
    (2,)
    >>> report.effects_["difference"] > 0
    array([ True])
    """
    if isinstance(X, str | bytes | PathLike):
        raise TypeError(
            f"X={shown(X)} is one name; pass a list of images, one per label."
        )
    check_consistent_length(X, y)
    check_margin(margin)
    y = check_labels(y)
    classes = list_classes(y)
    contenders = check_contenders(contenders, backbone)
    (what, scorer), *others = get_scorers(scoring).items()
    others = dict(others)
    given = np.random.RandomState() if random_state is None else random_state
    rng = check_random_state(given)
    splits = make_splits(X, y, cv, groups)
    seeds = [None] * len(splits)
    if random_state is not None:
        seeds = rng.randint(2**31, size=len(seeds)).tolist()
    splits = shrink(splits, y, train_sizes, rng)
    # Whatever may be wrong with them shows before the first is fitted: what is no
    # estimator, what cannot say its parameters.
    clones = {name: clone(contender) for name, contender in contenders.items()}
    described = {name: repr(contender) for name, contender in contenders.items()}
    parameters = {
        "rows": str(len(y)),
        "classes": str(len(classes)),
        "cv": shown(cv),
        "scoring": ", ".join([what, *others]),
        "train_sizes": shown(train_sizes),
        "random_state": repr(random_state),
    }
    versions = _versions()
    chance = _score_of_labels_alone(X, y, splits[-1], scorer)
    kinds = [kind_of(contender) for contender in contenders.values()]
    seconds = share_passes(contenders, X, splits, n_jobs)
    whose = np.arange(len(y)) if groups is None else np.asarray(groups)
    units = make_units(whose)
    trials = {}
    with tqdm(clones.items(), disable=not verbose, unit="contender") as bar:
        for name, contender in bar:
            bar.set_description(name)
            trials[name] = run_trials(
                contender, X, y, splits, seeds, scorer, n_jobs, others, units
            )
    results, curves = summarize(trials, splits)
    results["kind"] = np.repeat(np.array(kinds, dtype=object), len(splits))
    problems = []
    evidence = _attempt(
        problems,
        "what each row contributes",
        collect_evidence,
        *(trials, splits, whose, what, margin),
    )
    said = _attempt(
        problems,
        "what they say of the transfer",
        _find,
        *(results, curves, contenders, evidence),
    )
    predictions = _attempt(
        problems, "the predictions", collect_predictions, trials, splits, classes
    )
    effects, indicators, findings = said or (None, None, [])
    return TransferComparison(
        results,
        what,
        effects=effects,
        indicators=indicators,
        curves=curves,
        predictions=predictions,
        classes=classes,
        chance=chance,
        findings=[*findings, *problems],
        parameters=parameters | {"seconds of the passes": f"{seconds:.2f}"} | described,
        versions=versions,
        evidence=evidence,
    )


def _find(results, curves, contenders, evidence):
    """Effects, indicators and sentences."""
    findings = Findings(results, curves, contenders, evidence)
    return findings.effects(), findings.indicators(), findings.sentences()


def _attempt(problems, what, work_out, *args):
    """Work something out after the fits; a failure is a sentence, not their loss."""
    try:
        return work_out(*args)
    except Exception as error:
        problems.append(
            f"The scores are complete, but {what} could not be worked out: "
            f"{describe(error)}"
        )


def _score_of_labels_alone(X, y, splits, scorer):
    """Mean score of the most frequent class; NaN where it has none."""
    seeds = [None] * len(splits)
    with warnings.catch_warnings():  # such as of a precision of nothing
        warnings.simplefilter("ignore")
        (trials,) = run_trials(DummyClassifier(), X, y, [splits], seeds, scorer, 1, {})
    return float(np.mean([trial.score for trial in trials]))


def _versions():
    versions = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | versions
