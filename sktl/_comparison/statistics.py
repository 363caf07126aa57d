"""How sure a mean over splits is, and what may be said of a difference."""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of the intervals

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent"
INCONCLUSIVE = "inconclusive"
N_DRAWS = 10_000  # of resampled comparisons, the same each time
ROUNDING = 1e-12  # relative to the largest number


class Scores(NamedTuple):
    """Scores on several splits: of a contender, or differences between two.

    Attributes
    ----------
    of_splits : ndarray of shape (n_splits,)
    influence : ndarray of shape (n_splits, n_units) or None
        How far each unit of rows (a row, or the rows of a group) moves the score of a
        split, as `influence` tells it; zero where a unit is not tested on. None if
        that is not known of this score.
    shared : float
        The share of its test rows that a split has in common with another, as a mean
        over all pairs of splits.
    unseen : float
        Variance of the mean if one more row moved the score by as much as it can, at
        equal weight of all rows.
    cost : float
        How much more an error can cost, such as one in few positive rows.
    """

    of_splits: np.ndarray
    influence: np.ndarray | None
    shared: float
    unseen: float = 0.0
    cost: float = 1.0

    def minus(self, other):
        """The differences from another contender's on the same splits."""
        known = self.influence is not None and other.influence is not None
        rows = self.influence - other.influence if known else None
        return self._replace(of_splits=self.of_splits - other.of_splits, influence=rows)


class Estimate(NamedTuple):
    """A mean over splits, its 95 % interval, and the p-value of its being zero."""

    mean: float
    low: float
    high: float
    p_value: float


class Mean(NamedTuple):
    """A mean over splits, its standard error, and the degrees of freedom of that.

    More splits that test on the same rows would not lower `row_variance`, the part of
    its variance that comes from these.
    """

    value: float
    error: float
    freedom: float
    row_variance: float = 0.0

    def interval(self, bounds=(-np.inf, np.inf)):
        """The interval, of what the mean can be, and the p-value of a mean of zero."""
        half = self.half_width()
        ends = min(bounds[0], self.value), max(bounds[1], self.value)
        low, high = np.clip([self.value - half, self.value + half], *ends).tolist()
        return Estimate(self.value, low, high, 2 * self._tail(abs(self.value)))

    def half_width(self, n_means=1):
        """Half the width of a 95 % interval that holds for `n_means` at once."""
        return stdtrit(self.freedom, 1 - (1 - LEVEL) / 2 / n_means) * self.error

    def p_outside(self, margin):
        """Below 5 % where the 95 % interval lies between `-margin` and `margin`."""
        return min(1.0, 2 * self._tail(margin - abs(self.value)))

    def _tail(self, distance):
        """How often a mean errs by more than this, to one side."""
        if self.error == 0:
            return 0.5 if distance == 0 else float(distance < 0)
        return float(stdtr(self.freedom, -distance / self.error))


def mean_of(scores):
    """Estimate a mean over splits from what its rows and its splits contribute.

    A mean over splits would come out otherwise with other rows to test on, and with
    other training parts and seeds. How much with other rows is learnt from the rows:
    each moves a difference by so much, there are many of them, and the same one may be
    in several splits. (For folds, Bayle et al., NeurIPS 2020, prove this to be all.)
    How much with other training parts is learnt from the splits: their scores vary by
    more than their rows explain. As in a mixed model of rows and splits

        variance of the mean = rows + max(0, between splits - rows within) / n_splits

    with Satterthwaite's degrees of freedom. So many rows give a sure answer on few
    splits, where a t-test on the splits alone has next to nothing to go by; and where
    splits share few rows, their variation counts in full. Training parts that overlap
    have luck in common which no variation between splits shows; that the second term is
    never negative makes up for it, as far as was measured
    (`benchmarks/bench_verdict.py`).

    Where nothing is known of the rows, it is the corrected resampled t-test of Nadeau &
    Bengio (Machine Learning 52, 2003). Its correlation `n_test / (n_train + n_test)` is
    the share of test rows that two random splits of the same rows have in common; here
    it is the share that the splits really have in common. If they have all test rows in
    common, nothing tells how much these contribute, and the error is infinite.

    Parameters
    ----------
    scores : Scores
        Of two splits or more.

    Returns
    -------
    mean : Mean
        NaN if a score is. Without any variation the error is 0.
    """
    values = np.asarray(scores.of_splits, dtype=float)
    n_splits = len(values)
    if np.isnan(values).any():
        return Mean(np.nan, np.nan, np.nan)
    mean = values.mean()
    if np.ptp(values) == 0:  # rounding must not pass for a difference
        mean = values[0]
    elif abs(mean) < ROUNDING * np.abs(values).max():
        mean = 0.0
    if _says_nothing_of_rows(scores):
        return Mean(float(mean), np.inf, n_splits - 1.0)
    rows, splits = (float(part[0, 0]) for part in _components([scores]))
    if scores.influence is not None or splits == 0:
        rows += _unseen(scores)
    freedom = n_splits - 1.0
    if scores.influence is not None and rows > 0:
        n_units = scores.influence.shape[1]
        parts = rows**2 / (n_units - 1) + splits**2 / (n_splits - 1)
        freedom = (rows + splits) ** 2 / parts
    return Mean(float(mean), float(np.sqrt(rows + splits)), freedom, rows)


def _says_nothing_of_rows(scores):
    """Whether all splits test on the same rows, which contribute nobody knows what."""
    return scores.influence is None and scores.shared == 1


def _unseen(scores):
    """Variance that one more row would give: at most like the one that matters most.

    A row moves the accuracy by as much as it can or not at all, but the area under a
    curve by little. The median is that of a row which does not matter. If none does,
    there may be an error that was not seen, at whatever it can cost.
    """
    seen = 0.0
    if scores.influence is not None:
        moved = scores.influence.sum(axis=0) / len(scores.influence)
        seen = np.abs(moved - np.median(moved)).max()
    if np.isclose(seen, 0):
        return scores.cost**2 * scores.unseen
    return min(scores.unseen, seen**2)


def _components(scores):
    """Covariance of several means over the same splits, in two parts.

    Parameters
    ----------
    scores : list of Scores

    Returns
    -------
    rows, splits : ndarray of shape (n_means, n_means)
        What the rows contribute, and what the splits; nothing less than 0.
    """
    values = np.array([one.of_splits for one in scores], dtype=float)
    values = values - values[:, :1]  # equal values have no variance, nor its rounding
    n_splits = values.shape[1]
    between = np.cov(values).reshape(len(scores), len(scores))
    if any(one.influence is None for one in scores):
        correlation = scores[0].shared
        return correlation / (1 - correlation) * between, between / n_splits
    influence = np.array([one.influence for one in scores])
    within = np.einsum("asu,bsu->ab", influence, influence) / n_splits
    total = influence.sum(axis=1) / n_splits
    rows = total @ total.T
    # Rows that the splits do not share explain a part of the variance between these.
    splits = between - (within - rows) * n_splits / (n_splits - 1)
    sizes, directions = np.linalg.eigh(splits)
    splits = directions * np.maximum(sizes, 0) @ directions.T
    return rows, splits / n_splits


def holm(p_values):
    """Adjust p-values so that among all of them one in twenty errs, not of each.

    Holm (Scandinavian Journal of Statistics 6, 1979).

    Parameters
    ----------
    p_values : sequence of float
        NaN where there is nothing to test.

    Returns
    -------
    adjusted : ndarray of float
    """
    p_values = np.array(p_values, dtype=float)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    factors = np.arange(len(order), 0, -1)
    steps = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    p_values[order] = steps
    return p_values


def verdicts_on(means, margin):
    """Say what may be said of several differences, adjusted for their number.

    Equivalent comes first: what is surely smaller than the margin does not matter, even
    if it is surely not zero.

    Parameters
    ----------
    means : sequence of Mean
    margin : float or None
        The largest difference that does not matter. None: no two are equivalent.

    Returns
    -------
    verdicts : list of str
        Of the first contender of each pair; "" where one failed.
    p_values : ndarray of float
        Of the differences being zero, adjusted by `holm`.
    """
    p_values = holm([mean.interval().p_value for mean in means])
    outside = np.ones(len(means))
    if margin is not None:
        outside = holm([mean.p_outside(margin) for mean in means])
    verdicts = []
    for mean, p_value, p_outside in zip(means, p_values, outside, strict=True):
        if np.isnan(mean.value):
            verdicts.append("")
        elif p_outside < 1 - LEVEL:
            verdicts.append(EQUIVALENT)
        elif p_value < 1 - LEVEL:
            verdicts.append(BETTER if mean.value > 0 else WORSE)
        else:
            verdicts.append(INCONCLUSIVE)
    return verdicts, p_values


def chances_of_being_best(scores):
    """How often each contender comes out best when the comparison is resampled.

    Means are drawn from the t-distribution that `mean_of` takes them to have,
    with what the contenders have in common: the rows and the splits. Its degrees of
    freedom are the fewest of all differences from the contender with the best mean.

    Parameters
    ----------
    scores : list of Scores
        Of each contender, on the same splits.

    Returns
    -------
    chances : ndarray of shape (n_contenders,)
        Their sum is 1. Contenders that are equal in a draw share it.
    """
    if any(map(_says_nothing_of_rows, scores)):
        return np.full(len(scores), 1 / len(scores))
    means = np.array([np.mean(one.of_splits) for one in scores])
    covariance = np.sum(_components(scores), axis=0)
    leader = scores[np.argmax(means)]
    gains = [mean_of(leader.minus(one)) for one in scores]
    freedom = [gain.freedom for gain in gains if gain.error]
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(
        np.zeros(len(means)), covariance, size=N_DRAWS, method="eigh"
    )
    if freedom:
        chi2 = rng.chisquare(min(freedom), size=(N_DRAWS, 1))
        draws *= np.sqrt(min(freedom) / chi2)
    draws += means
    # Equal ones differ by the root of a rounding error, from the decomposition.
    near = 1e-6 * np.sqrt(np.trace(covariance)) + ROUNDING * np.abs(means).max()
    best = np.isclose(draws, draws.max(axis=1, keepdims=True), rtol=0, atol=near)
    return np.mean(best / best.sum(axis=1, keepdims=True), axis=0)
