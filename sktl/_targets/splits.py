"""Splits of rows into a part to fit on and a part to score on."""

import math
import warnings
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)

from sktl._utils.missing import is_missing
from sktl._utils.printable import shown
from sktl._utils.warning import silenced, warn_caller

# An R2 of the mean, of ranks, that chance does not explain with so many rows in each
# test part.
IN_ORDER, FEW_TEST_ROWS = -0.5, 10


class Split(NamedTuple):
    """Row numbers of the two parts of a split."""

    train: np.ndarray
    test: np.ndarray


def make_splits(X, y, cv, groups, target):
    """Split the rows, or say why this `y` cannot be split so.

    Parameters
    ----------
    X : sequence of images
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    cv : int, None, splitter or iterable of splits
        An int means folds that keep the shares of the target's strata.
    groups : array-like of shape (n_samples,) or None
        An int as `cv` then keeps the rows of a group together.
    target : Labels, Indicators or Numbers
        What `y` is.

    Returns
    -------
    splits : list of Split
    """
    if groups is not None:
        check_groups(groups, y)
    n_folds = 5 if cv is None else cv
    if target.stratified:
        _check_enough(y, n_folds)
    balanced = y
    if isinstance(n_folds, Integral):
        balanced = target.strata(y)
        splitter = _make_folds(n_folds, balanced, groups)
    else:
        splitter = check_cv(cv)
    try:
        with warnings.catch_warnings():
            if not target.stratified:  # some tags have fewer rows than there are folds
                rare = "The least populated class in y"
                warnings.filterwarnings("ignore", rare, UserWarning)
            splits = [
                Split(*map(_row_numbers, split))
                for split in splitter.split(X, balanced, groups)
            ]
    except ValueError as error:
        if groups is not None or "'groups' parameter" not in str(error):
            raise
        raise ValueError(
            f"cv={shown(cv)} needs groups. Pass its splits, as in "
            "cv=[*GroupKFold(5).split(X, y, groups)]; or groups, where there is such a "
            "parameter (compare_transfer)."
        ) from error
    if len(splits) < 2:
        raise ValueError(
            f"cv={shown(cv)} gives {len(splits)} split, and at least 2 are needed. "
            "Pass an int of 2 or more, or another splitter. To score on one given test "
            "part, train on several draws of the other rows: cv=[(train[rows], test) "
            "for rows, _ in ShuffleSplit(5, train_size=0.8).split(train)]."
        )
    for i, (train, test) in enumerate(splits):
        highest = max((rows.max() for rows in (train, test) if len(rows)), default=0)
        if highest >= len(y):
            raise ValueError(
                f"Split {i} of cv={shown(cv)} names row {highest}, but X has {len(y)} "
                "rows, numbered from 0. Make the splits from the same rows."
            )
        if not len(test):
            raise ValueError(
                f"Split {i} of cv={shown(cv)} has no test rows. Pass another splitter."
            )
        try:
            with silenced("y holds .* different numbers"):  # said of all rows
                target.learn(y[train])
        except ValueError as error:
            raise ValueError(
                f"Split {i} of cv={shown(cv)} trains on {len(train)} rows that are not "
                f"enough: {error} {_advice(groups)}"
            ) from error
    if target.stratified:
        _warn_of_untrained(y, splits, groups)
    if isinstance(n_folds, Integral) and groups is None and target.has_scale:
        _warn_of_order(y, splits)
    return splits


def _advice(groups):
    """What to do about classes that a training part lacks."""
    if groups is None:
        return "Shuffle the rows, or pass another splitter."
    return "Rows of a group stay together: each class needs rows in several groups."


def _warn_of_untrained(y, splits, groups):
    """Warn of classes that a split tests on without having trained on them."""
    missing = [np.setdiff1d(y[test], y[train]) for train, test in splits]
    numbers = [i for i, classes in enumerate(missing) if len(classes)]
    if not numbers:
        return
    classes, counts = np.unique(y, return_counts=True)
    concerned = np.isin(classes, np.concatenate(missing))
    advice = _advice(groups)
    if counts[concerned].max() == 1:
        advice = "Label more rows of these, or leave them out."
    warn_caller(
        f"Class(es) {shown(classes[concerned][:5].tolist())} of y are tested on but "
        f"not trained on in {len(numbers)} of {len(splits)} splits (first in split "
        f"{numbers[0]}), so every model is wrong there. {advice}",
        UserWarning,
    )


def _warn_of_order(y, splits):
    """Warn if folds that were not shuffled test on other numbers than they train on."""
    if min(len(split.test) for split in splits) < FEW_TEST_ROWS:
        return
    ranks = rankdata(y, axis=0)  # a few large numbers alone say nothing of order
    error = deviation = 0.0
    for train, test in splits:
        error += np.sum((ranks[test] - ranks[train].mean(axis=0)) ** 2)
        deviation += np.sum((ranks[test] - ranks[test].mean(axis=0)) ** 2)
    score = 1 - error / deviation if deviation else -np.inf
    if score < IN_ORDER:
        warn_caller(
            f"The mean of the training rows scores {score:.2f} on the test rows (R2 of "
            "ranks): the rows seem to be in some order, and each fold tests on rows "
            "unlike those it trains on. Shuffle them, or pass cv=KFold(5, "
            "shuffle=True, random_state=0). If rows belong together, keep each group "
            "in one fold: pass groups to compare_transfer, or "
            "cv=list(GroupKFold().split(X, y, groups)).",
            UserWarning,
        )


def _make_folds(n_folds, strata, groups):
    """Folds without shuffling that keep the shares of strata, where there are any."""
    counts = np.bincount(strata)
    is_stratified = counts.max() < len(strata) and counts.max() >= n_folds
    if groups is None:
        return (StratifiedKFold if is_stratified else KFold)(n_folds)
    return (StratifiedGroupKFold if is_stratified else GroupKFold)(n_folds)


def check_groups(groups, y):
    """Return groups as an array, or say why they are not one for each row."""
    groups = np.asarray(groups)
    if groups.shape != y.shape[:1]:
        raise ValueError(
            f"groups has shape {groups.shape}, but y has {len(y)} rows. Pass one group "
            "for each row."
        )
    missing = [row for row, group in enumerate(groups) if is_missing(group)]
    if missing:
        raise ValueError(
            f"groups is missing (None or NaN) for {len(missing)} row(s), first for row "
            f"{missing[0]}. Give each row a group; a row that belongs to no other gets "
            "one of its own."
        )
    return groups


def _check_enough(y, n_folds):
    """Refuse more folds than the largest class has rows."""
    if not isinstance(n_folds, Integral):
        return
    labels, counts = np.unique(y, return_counts=True)
    most, largest = counts.max(), labels.tolist()[counts.argmax()]
    if most < n_folds:
        raise ValueError(
            f"cv={n_folds} folds need a class of at least {n_folds} rows; the largest "
            f"in y, {largest!r}, has {most} of {len(y)} rows. Pass a smaller cv, a "
            "splitter such as StratifiedShuffleSplit, or more rows."
            f"{_hint_at_numbers(y)}"
        )


def _hint_at_numbers(y):
    """A sentence for numeric labels that are too rare; "" for texts."""
    if y.dtype.kind not in "iuf":
        return ""
    return " If y holds numbers to predict, pass target='numbers'."


def _row_numbers(rows):
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def nested_order(labels, rng):
    """Order rows so that the first k of them are nearly stratified, for every k.

    Each class is shuffled, and its rows are laid at equal distances from 0 to 1, with a
    random start; rows in the order of these places then follow the shares of the
    classes. One row of each class comes before all others.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    rng : numpy.random.RandomState

    Returns
    -------
    order : ndarray of shape (n,)
        Positions in `labels`.
    """
    places = np.empty(len(labels))
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        ranks = rng.permutation(len(rows))
        places[rows] = (ranks + rng.uniform()) / len(rows)
        places[rows[ranks == 0]] -= 1
    return np.argsort(places, kind="stable")


def split_groups(strata, groups, fraction, seed):
    """Set a share of the groups aside, at random and nearly stratified.

    Parameters
    ----------
    strata : ndarray of shape (n,)
        The number of each row's stratum. A group counts to that of its strata which is
        in the fewest groups.
    groups : ndarray of shape (n,)
    fraction : float
        The share of the groups, rounded up.
    seed : int
        Determines which.

    Returns
    -------
    split : Split
        The first part has a group of each stratum to which one counts, if it has as
        many groups.
    """
    _, group_of_row = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.column_stack([group_of_row, strata]), axis=0)
    n_groups = np.bincount(pairs[:, 1])
    by_rarity = np.lexsort([n_groups[strata], group_of_row])
    _, first = np.unique(group_of_row[by_rarity], return_index=True)
    stratum = strata[by_rarity[first]]  # of each group
    order = nested_order(stratum, np.random.RandomState(seed))
    # One group of each stratum comes first; of these, what no other group has.
    n_strata = len(np.unique(stratum))
    ahead = order[:n_strata]
    order[:n_strata] = ahead[np.argsort(n_groups[stratum[ahead]], kind="stable")]
    n_kept = len(order) - math.ceil(fraction * len(order))
    if not n_kept:
        raise ValueError("nothing would be left to train on")
    is_kept = np.isin(group_of_row, order[:n_kept])
    return Split(np.flatnonzero(is_kept), np.flatnonzero(~is_kept))
