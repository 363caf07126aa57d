"""What intervals rest on besides the scores: rows in common, bounds, a margin."""

from math import inf
from numbers import Real
from typing import NamedTuple

import numpy as np

from sktl._comparison.statistics import Scores, mean_of
from sktl._targets.scoring import UNBOUNDED

DEFAULT_MARGIN = 0.01  # of scores that are at best 1
LARGEST = -1  # position of the training size
# A model that is right on all of n rows may be wrong on 3 in n (Hanley & Lippman-Hand,
# JAMA 249, 1983): an interval of two standard errors, each of 1.5 rows.
RULE_OF_THREE = 1.5**2


class Evidence(NamedTuple):
    """What is known about a comparison besides its scores.

    Attributes
    ----------
    influences : dict of str to list of (ndarray of shape (n_splits, n_units) or None)
        By contender and size, as in `Scores`.
    shared : float
        As in `Scores`.
    n_units, n_tested : int
        Units of the splits, and how many of these are ever tested on.
    unit : {"rows", "groups"}
    unseen : float
        As in `Scores`.
    bounds : tuple of float
        What the score can be.
    margin : float or None
        The largest difference that does not matter.
    cost : float
        As in `Scores`.
    """

    influences: dict
    shared: float
    n_units: int
    n_tested: int
    unit: str = "rows"
    unseen: float = 0.0
    bounds: tuple = UNBOUNDED
    margin: float | None = None
    cost: float = 1.0

    def scores(self, results, contender, size):
        """Scores of a contender.

        Parameters
        ----------
        results : dict of str to ndarray
            As `TransferComparison.results_`.
        contender : str
        size : int
            Position of the training size.

        Returns
        -------
        scores : Scores
        """
        row = np.flatnonzero(results["contender"] == contender)[size]
        influence = self.influences.get(contender)
        return Scores(
            split_scores(results)[:, row],
            None if influence is None else influence[size],
            self.shared,
            self.unseen,
            self.cost,
        )

    @property
    def bounds_of_gain(self):
        """What the difference of two scores can be."""
        spread = self.bounds[1] - self.bounds[0]
        return -spread, spread

    def gain(self, results, contender, other, size=LARGEST):
        """Estimate how far a contender is ahead of another on the same splits.

        Parameters
        ----------
        results : dict of str to ndarray
            As `TransferComparison.results_`.
        contender, other : str
        size : int
            Position of the training size.

        Returns
        -------
        gain : Mean
        """
        scores = self.scores(results, contender, size)
        return mean_of(scores.minus(self.scores(results, other, size)))

    def interval(self, scores):
        """Interval of a mean score; of a difference, `gain` gives it.

        Parameters
        ----------
        scores : Scores

        Returns
        -------
        estimate : Estimate
        """
        seen = scores.of_splits if scores.influence is None else scores.influence
        if np.isclose(np.ptp(seen), 0):
            scores = scores._replace(unseen=RULE_OF_THREE * scores.unseen)
        return mean_of(scores).interval(self.bounds)

    def intervals(self, results):
        """Interval of each mean score.

        Parameters
        ----------
        results : dict of str to ndarray
            As `TransferComparison.results_`.

        Returns
        -------
        low, high : ndarray of shape (n_entries,)
        """
        ends = []
        for row, name in enumerate(results["contender"]):
            size = np.sum(results["contender"][:row] == name)
            estimate = self.interval(self.scores(results, name, size))
            ends.append((estimate.low, estimate.high))
        return np.array(ends).T

    def mean_curve(self, splits, over):
        """Mean score over splits of a network as it is trained.

        Parameters
        ----------
        splits : list of dict
            As in `TransferComparison.curves_`.
        over : {"epoch", "seconds"}

        Returns
        -------
        x, means : ndarray of shape (n_points,)
        errors : ndarray of shape (2, n_points)
            How far the interval reaches below and above; from the splits alone, as
            rows are not followed through the epochs.
        """
        x = max((split[over] for split in splits if split), key=lambda x: x[-1])
        scores = [
            np.interp(x, split[over], split["score"]) if split else x * np.nan
            for split in splits
        ]
        estimates = [
            self.interval(Scores(at_point, None, self.shared, self.unseen, self.cost))
            for at_point in np.transpose(scores)
        ]
        means, low, high, _ = np.transpose(estimates)
        return x, means, np.array([means - low, high - means])


def split_scores(results):
    """Scores on each split, of shape (n_splits, n_entries)."""
    return np.array([v for name, v in results.items() if name.startswith("split")])


def collect_evidence(trials, splits, group_of_row, bounds, margin, cost=np.nan):
    """Gather the evidence of all trials.

    Parameters
    ----------
    trials : dict of str to list of list of Trial
        By contender, size and split.
    splits : list of list of Split
    group_of_row : ndarray of shape (n_samples,)
        The group of each row, or the row itself.
    bounds : tuple of float
        The least and the most that the score can be.
    margin : float or None
        None is the default of the score.
    cost : float, default=nan
        As from `cost_of_an_error`. NaN or 0: not known.

    Returns
    -------
    evidence : Evidence
    """
    influences = {
        name: [_stack([trial.influence for trial in of_size]) for of_size in of_sizes]
        for name, of_sizes in trials.items()
    }
    *_, largest = splits
    rows = np.unique(np.concatenate([part for split in largest for part in split]))
    units = np.unique(group_of_row[rows])
    tests = [np.unique(group_of_row[split.test]) for split in largest]
    n_rows = len(np.unique(np.concatenate([split.test for split in largest])))
    scores = [
        trial.score
        for of_sizes in trials.values()
        for of_size in of_sizes
        for trial in of_size
    ]
    spread = _spread(bounds, scores)
    return Evidence(
        influences,
        shared_units(tests),
        len(units),
        len(np.unique(np.concatenate(tests))),
        "rows" if len(units) == len(rows) else "groups",
        # So do Agresti & Min (Statistics in Medicine 24, 2005): half a row more in each
        # cell of the table of what two classifiers get right.
        (spread / n_rows) ** 2,
        bounds,
        DEFAULT_MARGIN if margin is None and bounds[1] == 1 else margin,
        cost / spread if cost > 0 and spread > 0 else 1.0,
    )


def evidence_of_sizes(results, bounds):
    """Make do with a table, as if its splits were random splits of the same rows.

    Parameters
    ----------
    results : dict of str to ndarray
        As `TransferComparison.results_`.
    bounds : tuple of float
        The least and the most that the score can be.

    Returns
    -------
    evidence : Evidence
    """
    n_train = results["train_size"][-1]
    n_test = results.get("test_size", [0])[-1]
    n_rows = n_train + n_test
    return Evidence({}, n_test / n_rows, n_rows, n_rows, bounds=bounds)


def _spread(bounds, scores):
    """How much lies between the worst score and the best; 0 where that is infinite.

    A score of the user's is taken to be one from 0 to 1 if all its values are.
    """
    if bounds == UNBOUNDED and 0 <= np.nanmin(scores) <= np.nanmax(scores) <= 1:
        return 1.0
    spread = bounds[1] - bounds[0]
    return spread if np.isfinite(spread) else 0.0


def shared_units(tests):
    """The share of its test rows, or groups, that a split has in common with another.

    Parameters
    ----------
    tests : list of ndarray of int

    Returns
    -------
    shared : float
        Mean over all pairs.
    """
    units, column = np.unique(np.concatenate(tests), return_inverse=True)
    is_in = np.zeros((len(tests), len(units)))
    is_in[np.repeat(np.arange(len(tests)), list(map(len, tests))), column] = 1
    size = is_in.sum(axis=1)
    shares = is_in @ is_in.T / np.sqrt(np.outer(size, size))  # 1 if they are the same
    return float((shares.sum() - len(tests)) / (len(tests) * (len(tests) - 1)))


def check_margin(margin, bounds):
    """Refuse a margin that is no positive number, or that no difference can exceed."""
    if margin is None:
        return
    if isinstance(margin, bool) or not isinstance(margin, Real) or not 0 < margin < inf:
        raise ValueError(
            f"margin={margin!r} must be a number above 0, in the unit of the score: "
            "the largest difference that does not matter. None is 0.01 for scores "
            "whose best value is 1."
        )
    low, high = bounds
    if margin >= high - low:
        raise ValueError(
            f"margin={margin!r} is as large as a difference can be, as this score lies "
            f"between {low:g} and {high:g}. Pass the largest difference that does not "
            "matter, such as 0.01 for one in a hundred."
        )


def _stack(influences):
    """Join the influences of all splits; None if one is not known."""
    known = all(influence is not None for influence in influences)
    return np.array(influences) if known else None
