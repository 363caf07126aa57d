"""One contender on one split: fitted on one part, scored on the other."""

import contextlib
import time
from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed

from sktl._classifier import FineTunedCNNClassifier
from sktl._comparison.influence import Predicted, influence
from sktl._comparison.row_names import rows_named
from sktl._comparison.score_curve import ScoreCurve
from sktl._utils.printable import printable


class Trial(NamedTuple):
    """What came of one contender on one split; times are in seconds."""

    score: float = np.nan
    fit_time: float = np.nan
    score_time: float = np.nan
    error: Exception | None = None
    curve: dict | None = None
    predictions: dict | None = None
    others: dict | None = None
    influence: np.ndarray | None = None


def run_trials(contender, X, y, splits, seeds, scorer, n_jobs, others=None, units=None):
    """Fit and score a contender on splits of several sizes.

    Parameters
    ----------
    contender : estimator
    X : sequence of images
    y : ndarray of shape (n_samples,)
    splits : list of list of Split
        By size. In the last, networks are watched as they are trained, and
        predictions are kept.
    seeds : list of int or None
        By split.
    scorer : callable
        As scikit-learn's.
    n_jobs : int or None
        Processes.
    others : dict of str to callable or None
        Scorers besides; where one of them fails, its score is NaN.
    units : ndarray of shape (n_samples,) or None
        As from `make_units`; None: do not ask what each moves the score.

    Returns
    -------
    trials : list of list of Trial
        As `splits`. What fails is a trial with an error.
    """
    jobs = [
        delayed(run_trial)(
            contender, X, y, split, seed, scorer, of_size is splits[-1], others, units
        )
        for of_size in splits
        for split, seed in zip(of_size, seeds, strict=True)
    ]
    try:
        trials = Parallel(n_jobs=n_jobs)(jobs)
    except Exception as error:  # a process that died, or what cannot be sent to one
        trials = [Trial(error=error)] * len(jobs)
    n = len(seeds)
    return [trials[start : start + n] for start in range(0, len(trials), n)]


def run_trial(contender, X, y, split, seed, scorer, is_largest, others, units):
    """Fit a contender on one part of a split and score it on the other."""
    X_train, X_test = (_safe_indexing(X, rows) for rows in split)
    y_train, y_test = (y[rows] for rows in split)
    try:
        contender = _seeded(contender, seed)
        curve = ScoreCurve(scorer, X_test, y_test, split.test)
        if is_largest:
            _watch(contender, curve)
        start = time.perf_counter()
        with rows_named("training part", split.train):
            contender.fit(X_train, y_train)
        fitted = time.perf_counter()
        with rows_named("test part", split.test):
            score = float(scorer(contender, X_test, y_test))
        scored = time.perf_counter()
    except Exception as error:  # whatever it is, the others go on
        return Trial(error=error)
    predicted = Predicted(contender, X_test)
    predictions = _all_of(predicted, len(y_test)) if is_largest else None
    moved = None
    if units is not None:
        here, n_units = units[split.test], units.max() + 1
        with contextlib.suppress(Exception):  # then it is not known, and so told
            moved = influence(predicted, y_test, here, scorer, score, n_units)
    return Trial(
        score,
        fitted - start - curve.seconds_outside_,
        scored - fitted,
        curve=curve.points(),
        predictions=predictions,
        others={
            name: _score_or_nan(other, contender, X_test, y_test)
            for name, other in (others or {}).items()
        },
        influence=moved,
    )


def _score_or_nan(scorer, contender, X, y):
    """A score besides, which not all contenders have."""
    with contextlib.suppress(Exception):
        return float(scorer(contender, X, y))
    return np.nan


def _all_of(predicted, n_rows):
    """What a contender predicts, and its probabilities where it has any."""
    predictions = {"classes": predicted.classes_}
    for method in ("predict", "predict_proba"):
        with contextlib.suppress(Exception):  # its score is there without
            predictions[method] = getattr(predicted, method)(np.arange(n_rows))
    return predictions


def _seeded(contender, seed):
    """A clone in which every `random_state` that was left open is `seed`."""
    contender = clone(contender)
    open_ = [
        name
        for name, value in contender.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    return contender.set_params(**dict.fromkeys(open_, seed))


def _watch(contender, curve):
    """Have a network note its scores as it is trained by epochs."""
    if not isinstance(contender, FineTunedCNNClassifier):
        return
    if not isinstance(contender.callbacks, str):  # "disable"
        own = contender.callbacks or []
        contender.set_params(callbacks=[*own, ("score_curve", curve)])


# ---- what came of all


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


def collect_predictions(trials, splits, classes):
    """Join what was predicted on the splits of the largest size.

    Parameters
    ----------
    trials, splits
        As in `summarize`.
    classes : ndarray of shape (n_classes,)
        A training part may lack some of them.

    Returns
    -------
    predictions : dict of str to dict of str to ndarray
        As `TransferComparison.predictions_`.
    """
    predictions = {}
    for name, (*_, of_largest) in trials.items():
        parts = []
        for i, (trial, split) in enumerate(zip(of_largest, splits[-1], strict=True)):
            if trial.predictions is not None:
                part = {"row": split.test, "split": np.full(len(split.test), i)}
                parts.append(part | _of_all_classes(trial.predictions, classes))
        if parts:
            keys = [key for key in parts[0] if all(key in part for part in parts)]
            joined = {k: np.concatenate([part[k] for part in parts]) for k in keys}
            order = np.lexsort((joined["split"], joined["row"]))
            predictions[name] = {key: values[order] for key, values in joined.items()}
    return predictions


def _of_all_classes(predictions, classes):
    """Give classes that the training part did not hold a probability of zero."""
    predictions = dict(predictions)
    known = predictions.pop("classes")
    if known is None:
        predictions.pop("predict_proba", None)  # nobody knows of what
    elif "predict_proba" in predictions:
        of_known = predictions["predict_proba"]
        of_all = np.zeros((len(of_known), len(classes)))
        of_all[:, np.searchsorted(classes, known)] = of_known
        predictions["predict_proba"] = of_all
    return predictions


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
    for name in next(t.others for row in rows for t in row if t.error is None):
        others = [[(t.others or {}).get(name, np.nan) for t in row] for row in rows]
        results[f"mean_test_{name}"] = np.mean(others, axis=1)
        results[f"se_test_{name}"] = np.std(others, axis=1, ddof=1) / np.sqrt(n_splits)
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
    first = f"split {i}: {describe(error)}"
    return f"{first} (failed on {len(errors)} of {len(row)} splits)"


def describe(error):
    """An exception in words, its notes among them."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    return printable("\n".join(lines), keep="\n")


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
