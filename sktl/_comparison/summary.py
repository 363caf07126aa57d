"""What came of all trials: scores, curves and predictions by contender."""

import numpy as np

from sktl._utils.printable import describe


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


def collect_predictions(trials, splits, y, target):
    """Join what was predicted on the splits of the largest size.

    Parameters
    ----------
    trials, splits
        As in `summarize`.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    target : Labels, Indicators or Numbers
        What `y` is.

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
                part |= {"y": y[split.test]} | trial.predictions
                known = part.pop("known")
                if "predict_proba" in part and known is not None:
                    part["predict_proba"] = target.align(part["predict_proba"], known)
                elif "predict_proba" in part:
                    del part["predict_proba"]  # of unknown classes
                parts.append(part)
        if parts:
            keys = [key for key in parts[0] if all(key in part for part in parts)]
            joined = {k: np.concatenate([part[k] for part in parts]) for k in keys}
            order = np.lexsort((joined["split"], joined["row"]))
            predictions[name] = {key: values[order] for key, values in joined.items()}
    return predictions


def say_what_is_not_scored(trials):
    """One sentence for each additional score that some contenders lack, and reason.

    Parameters
    ----------
    trials : dict of str to list of list of Trial
        By contender, size and split.

    Returns
    -------
    sentences : list of str
    """
    lacking = {}
    for name, of_sizes in trials.items():
        reasons = {}  # the first of each score
        for trial in (trial for of_size in of_sizes for trial in of_size):
            reasons = (trial.unscored or {}) | reasons
        for score_and_reason in reasons.items():
            lacking.setdefault(score_and_reason, []).append(repr(name))
    return [
        f"{score!r} could not be computed for {', '.join(names)}: {reason}"
        for (score, reason), names in lacking.items()
    ]


def _results(trials, splits):
    """One entry per contender and size in each array."""
    rows = [of_size for of_sizes in trials.values() for of_size in of_sizes]
    scores = np.array([[trial.score for trial in row] for row in rows])
    n_splits = scores.shape[1]
    results = {
        "contender": np.repeat(np.array(list(trials), dtype=object), len(splits)),
    }
    for name in ("train", "test"):
        sizes = [
            max(len(getattr(split, name)) for split in of_size) for of_size in splits
        ]
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
    # The same for all splits that did not fail.
    shares = [[t.trained_share for t in row if t.error is None][:1] for row in rows]
    results["trained_share"] = np.array([s[0] if s else np.nan for s in shares])
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


def _raise_if_all_failed(trials):
    errors = [
        (name, trial.error)
        for name, of_sizes in trials.items()
        for of_size in of_sizes
        for trial in of_size
    ]
    if all(error is not None for _, error in errors):
        name, error = errors[0]
        error.add_note(f"Raised by contender {name!r}.")
        raise error
