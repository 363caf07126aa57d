"""`TransferComparison`, the result: scores of all contenders, and what they say."""

import numpy as np

from sktl._comparison.evidence import LARGEST, evidence_of_sizes, split_scores
from sktl._comparison.statistics import chances_of_being_best
from sktl._display.comparison import TransferComparisonDisplay
from sktl._display.html import write_html
from sktl._display.table import TableMixin, numbers, ranges, score_form, words
from sktl._targets.scoring import bounds_of
from sktl._utils.printable import shown


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
