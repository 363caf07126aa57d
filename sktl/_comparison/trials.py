"""One contender on one split: the rows it gets, and what it scores on the others."""

import contextlib
import time
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, check_cv, cross_validate
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from sktl._classifier import FineTunedCNNClassifier
from sktl._comparison.contenders import readers_by_network
from sktl._comparison.score_curve import ScoreCurve
from sktl._features.image_input import pass_once


class Split(NamedTuple):
    """Row numbers of the two parts of a split."""

    train: np.ndarray
    test: np.ndarray


class Trial(NamedTuple):
    """What came of one contender on one split; times are in seconds."""

    score: float
    fit_time: float
    score_time: float
    error: Exception | None = None
    curve: dict | None = None


# ---- which rows


def make_splits(X, y, cv, groups):
    """Split the rows, or say why these labels cannot be split so.

    Parameters
    ----------
    X : sequence of images
    y : ndarray of shape (n_samples,)
    cv : int, None, splitter or iterable of splits
    groups : array-like of shape (n_samples,) or None
        An int as `cv` then keeps the rows of a group together.

    Returns
    -------
    splits : list of Split
    """
    _check_enough(y, 5 if cv is None else cv)
    if groups is not None and (cv is None or isinstance(cv, Integral)):
        cv = StratifiedGroupKFold(5 if cv is None else cv)
    splitter = check_cv(cv, y, classifier=True)
    splits = [
        Split(*map(_row_numbers, split)) for split in splitter.split(X, y, groups)
    ]
    if len(splits) < 2:
        raise ValueError(
            f"cv={cv!r} gives {len(splits)} split; a standard error needs at least 2."
        )
    for i, (train, test) in enumerate(splits):
        if len(np.unique(y[train])) < 2 or not len(test):
            raise ValueError(
                f"Split {i} of cv={cv!r} trains on {len(train)} rows of the classes "
                f"{np.unique(y[train]).tolist()} and tests on {len(test)} rows; at "
                "least 2 classes and 1 row are needed. Shuffle the rows, or pass "
                "another splitter."
            )
    return splits


def _check_enough(y, n_folds):
    """Refuse folds for which there are too few rows of every class."""
    if not isinstance(n_folds, Integral):
        return
    labels, counts = np.unique(y, return_counts=True)
    most = counts.max()
    if most < n_folds:
        raise ValueError(
            f"cv={n_folds} folds need as many rows of a class, and y has at most "
            f"{most} (of {labels[counts.argmax()]!r}) in {len(y)} rows. Pass a smaller "
            "cv, a splitter such as StratifiedShuffleSplit, or more rows."
        )


def _row_numbers(rows):
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def shrink(splits, y, train_sizes, rng):
    """Shrink the training parts to some sizes; larger ones contain smaller ones.

    Parameters
    ----------
    splits : list of Split
    y : ndarray of shape (n_samples,)
    train_sizes : sequence of int or float, or None
        As in `compare_transfer`; None leaves the splits as they are.
    rng : numpy.random.RandomState
        Chooses the rows.

    Returns
    -------
    splits : list of list of Split
        By size, then as before. Rows keep their order.
    """
    if train_sizes is None:
        return [splits]
    n_rows = min(len(split.train) for split in splits)
    sizes = check_train_sizes(train_sizes, n_rows, len(np.unique(y)))
    orders = [nested_order(y[train], rng) for train, _ in splits]
    return [
        [
            Split(train[np.sort(order[:size])], test)
            for order, (train, test) in zip(orders, splits, strict=True)
        ]
        for size in sizes
    ]


def check_train_sizes(train_sizes, n_rows, n_classes):
    """Return training sizes in rows.

    Parameters
    ----------
    train_sizes : sequence of int (rows) or float (shares of `n_rows`)
    n_rows : int
        Rows of the smallest training part.
    n_classes : int
        The smallest size that there can be.
    """
    if isinstance(train_sizes, Real | str) or not len(train_sizes):
        raise ValueError(
            f"train_sizes={train_sizes!r} must be a list: whole numbers are rows, and "
            "floats are shares of the smallest training part, which has "
            f"{n_rows} rows."
        )
    rows = []
    for i, size in enumerate(train_sizes):
        n = _in_rows(size, n_rows)
        if n is None or not n_classes <= n <= n_rows:
            raise ValueError(
                f"train_sizes[{i}]={size!r} is {'no size' if n is None else n}. "
                f"Accepted: {n_classes} (a row of each class) to {n_rows} rows (the "
                "smallest training part), or a share of the latter as a float."
            )
        if rows and n <= rows[-1]:
            raise ValueError(
                f"train_sizes[{i}]={size!r} is {n} rows, not more than the {rows[-1]} "
                "before it. Pass increasing sizes, each once."
            )
        rows.append(n)
    return rows


def _in_rows(size, n_rows):
    """A size as a number of rows; None for what is neither rows nor a share."""
    if isinstance(size, bool) or not isinstance(size, Real):
        return None
    if isinstance(size, Integral):
        return int(size)
    return round(size * n_rows) if 0 < size <= 1 else None


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


# ---- who does how well on them


def share_passes(contenders, X, splits, n_jobs):
    """Let the images pass each network once, for all contenders and splits.

    Parameters
    ----------
    contenders : dict of str to estimator
    X : sequence of images
    splits : list of list of Split
    n_jobs : int or None

    Returns
    -------
    seconds : float
    """
    start = time.perf_counter()
    rows = np.unique(np.concatenate([part for split in splits[-1] for part in split]))
    images = X if len(rows) == _num_samples(X) else _safe_indexing(X, rows)
    for group in readers_by_network(contenders):
        # Processes do not share their memory.
        if group[0].cache != "memory" or effective_n_jobs(n_jobs) == 1:
            with contextlib.suppress(Exception):  # it is told in the rows of the group
                pass_once(group, images)
    return time.perf_counter() - start


def run_trials(contender, X, y, splits, seeds, scorer, n_jobs):
    """Fit and score a contender on splits of several sizes.

    Parameters
    ----------
    contender : estimator
    X : sequence of images
    y : ndarray of shape (n_samples,)
    splits : list of list of Split
        By size; in the last size, networks are watched as they are trained.
    seeds : list of int or None
        By split.
    scorer : callable
        As scikit-learn's.
    n_jobs : int or None
        Processes.

    Returns
    -------
    trials : list of list of Trial
        As `splits`.
    """
    jobs = [
        delayed(run_trial)(contender, X, y, split, seed, scorer, of_size is splits[-1])
        for of_size in splits
        for split, seed in zip(of_size, seeds, strict=True)
    ]
    trials = Parallel(n_jobs=n_jobs)(jobs)
    n = len(seeds)
    return [trials[start : start + n] for start in range(0, len(trials), n)]


def run_trial(contender, X, y, split, seed, scorer, watch):
    """Fit a contender on one part of a split and score it on the other."""
    try:
        contender = _seeded(contender, seed)
        if watch:
            _watch(contender, _safe_indexing(X, split.test), y[split.test], scorer)
        found = cross_validate(
            contender,
            X,
            y,
            cv=[split],
            scoring=scorer,
            error_score="raise",
            return_estimator=True,
        )
    except Exception as error:  # whatever it is, the others go on
        return Trial(np.nan, np.nan, np.nan, error)
    numbers = (found[name][0] for name in ("test_score", "fit_time", "score_time"))
    trial = Trial(*map(float, numbers))
    for _, callback in getattr(found["estimator"][0], "callbacks_", ()):
        if isinstance(callback, ScoreCurve) and callback.scores_:
            fit_time = trial.fit_time - callback.seconds_outside_
            trial = trial._replace(fit_time=fit_time, curve=callback.points())
    return trial


def _seeded(contender, seed):
    """A clone in which every `random_state` that was left open is `seed`."""
    contender = clone(contender)
    open_ = [
        name
        for name, value in contender.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    return contender.set_params(**dict.fromkeys(open_, seed))


def _watch(contender, X, y, scorer):
    """Have a network note its scores on some rows as it is trained by epochs."""
    if not isinstance(contender, FineTunedCNNClassifier):
        return
    if not isinstance(contender.callbacks, str):  # "disable"
        curve = ScoreCurve(scorer, X, y)
        own = contender.callbacks or []
        contender.set_params(callbacks=[*own, ("score_curve", curve)])


def scoring_name(scoring):
    """Say in a word what a `scoring` measures."""
    if scoring is None:
        return "accuracy"
    return getattr(scoring, "__name__", "score") if callable(scoring) else scoring


# ---- what came of it


def summarize(trials, splits):
    """Put the trials of all contenders into arrays.

    Parameters
    ----------
    trials : dict of str to list of list of Trial
        By contender, size and split.
    splits : list of list of Split

    Returns
    -------
    results : dict of str to ndarray
        As `TransferComparison.results_`.
    curves : dict of str to list of dict
        As `TransferComparison.curves_`.

    Raises
    ------
    Exception
        The first failure, if there is no trial without.
    """
    _raise_if_all_failed(trials)
    curves = {
        name: [trial.curve or {} for trial in of_sizes[-1]]
        for name, of_sizes in trials.items()
        if any(trial.curve for trial in of_sizes[-1])
    }
    return _results(trials, splits), curves


def _results(trials, splits):
    """One entry per contender and size in each array."""
    rows = [of_size for of_sizes in trials.values() for of_size in of_sizes]
    scores = np.array([[trial.score for trial in row] for row in rows])
    n_splits = scores.shape[1]
    results = {
        "contender": np.repeat(np.array(list(trials), dtype=object), len(splits)),
    }
    for name in ("train", "test"):
        sizes = [max(len(getattr(split, name)) for split in of) for of in splits]
        results[f"{name}_size"] = np.tile(sizes, len(trials))
    for i in range(n_splits):
        results[f"split{i}_test_score"] = scores[:, i]
    results["mean_test_score"] = scores.mean(axis=1)
    results["se_test_score"] = scores.std(axis=1, ddof=1) / np.sqrt(n_splits)
    for name in ("fit_time", "score_time"):
        times = [np.mean([getattr(trial, name) for trial in row]) for row in rows]
        results[f"mean_{name}"] = np.array(times)
    results["error"] = np.array([_describe_errors(row) for row in rows], dtype=object)
    return results


def _describe_errors(row):
    """The first failure on a row of splits, and how many there are; "" without any."""
    errors = {i: trial.error for i, trial in enumerate(row) if trial.error is not None}
    if not errors:
        return ""
    i, error = next(iter(errors.items()))
    first = f"split {i}: {type(error).__name__}: {error}"
    return f"{first} (failed on {len(errors)} of {len(row)} splits)"


def _raise_if_all_failed(trials):
    errors = [
        (name, trial.error)
        for name, of_sizes in trials.items()
        for of_size in of_sizes
        for trial in of_size
    ]
    if all(error is not None for _, error in errors):
        name, error = errors[0]
        error.add_note(f"It was contender {name!r} that failed.")
        raise error
