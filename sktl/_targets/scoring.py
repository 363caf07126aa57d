"""What a `scoring` asks for: scorers by name, the calibration among them."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import check_scoring
from sklearn.pipeline import make_pipeline

from sktl._utils.printable import shown

N_BINS = 15  # as Guo et al. (ICML 2017)
NO_POSITIVE = "No positive class found"  # of average precision, which is then 0


def get_scorers(scoring, target, y, parameter="scoring"):
    """Return scorers by name, the one that contenders are compared by first.

    Parameters
    ----------
    scoring : str, callable, None, or list of these
        As in `compare_transfer`.
    target : Labels, Indicators or Numbers
        Has a score of its own for None.
    y : ndarray
        A named score has to be one for this.
    parameter : str
        What the user knows it by.

    Returns
    -------
    scorers : dict of str to callable
        Of estimator, X and y; more is better.
    """
    several = scoring if isinstance(scoring, list | tuple) else [scoring]
    if not several:
        raise ValueError(f"scoring={shown(scoring)} is empty. Pass one score or more.")
    scorers = {}
    for one in several:
        _check_kind(one, scoring, parameter)
        name = target.scoring if one is None else scoring_name(one)
        if name in scorers or (scorers and name == "score"):
            raise ValueError(
                f"scoring={shown(scoring)} holds {name!r} twice, or a callable without "
                "a __name__ after the first score. Pass each score once; to name a "
                "scorer of make_scorer, set scorer.__name__."
            )
        own = name == neg_expected_calibration_error.__name__
        # Unlike get_scorer, it refuses a metric, such as accuracy_score.
        known = check_scoring(
            scoring=neg_expected_calibration_error if own else one or name
        )
        if not callable(one):
            _check_scores(known, target, y, f"{parameter}={name!r}")
        scorers[name] = known
    return scorers


def _check_kind(one, scoring, parameter):
    if not (one is None or isinstance(one, str) or callable(one)):
        how = ""
        if isinstance(one, dict) and one:
            name = shown(next(iter(one)))
            how = f" To name a scorer, set scorer.__name__ = {name}, and pass [scorer]."
        raise ValueError(
            f"{parameter}={shown(scoring)} must be a name of "
            "sklearn.metrics.get_scorer_names(), a scorer of your own, None, or a list "
            f"of these.{how}"
        )


def get_one_scorer(scoring, target, y):
    """As `get_scorers`, for what takes one score: its name, and the scorer."""
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            f"scoring={shown(scoring)} must be one score: a name, a callable or None, "
            f"which is {target.scoring}."
        )
    (named,) = get_scorers(scoring, target, y).items()
    return named


def check_defined(scoring, scorer, y, splits, target, cv):
    """Refuse a score that the rows of some test part cannot have, before any fit.

    A constant guess is scored. On all rows that succeeded (`get_scorers`), so what is
    missing is what the test part lacks. A scorer of the user's may need more of a model
    than a guess has; it is not tried.

    Parameters
    ----------
    scoring : str, callable or None
        As the user passed it.
    scorer : callable
        What it stands for.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    splits : list of Split
    target : Labels, Indicators or Numbers
        What `y` is.
    cv : int, splitter or iterable of splits
        What made the splits, for the message.
    """
    if callable(scoring):
        return
    known = set()  # what many small test parts have in common is tried once
    for i, (train, test) in enumerate(splits):
        lack = target.lack(y[test])
        if not lack or (len(test), lack) in known:
            continue
        known.add((len(test), lack))
        if not is_defined(scorer, target, y[train], y[test]):
            raise ValueError(
                f"scoring={scoring or target.scoring!r} is not defined on split {i} of "
                f"cv={shown(cv)}, whose {len(test)} test row(s) {lack}. Pass fewer "
                f"folds, a cv whose test parts hold {target.complete}, or another "
                "score."
            )


def is_defined(scorer, target, y_train, y_test):
    """Whether some rows can be scored: a constant guess, and the truth itself.

    scikit-learn gives an F1 of 0 to the truth where there is no positive row.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            score = _score_guess(scorer, target, y_train, y_test)
        except Exception:  # scorers raise many kinds
            return False
    if not np.isfinite(score):
        return False
    is_made_up = any(NO_POSITIVE in str(warning.message) for warning in caught)
    y = np.concatenate([y_train, y_test])
    lacks = _is_undefined_of_truth(scorer, y_test, y)
    return not (is_made_up or (lacks and not _is_undefined_of_truth(scorer, y, y)))


class _Truth(ClassifierMixin, BaseEstimator):
    """Predicts what it is given."""

    def __init__(self, classes_):
        self.classes_ = classes_

    def predict(self, y):
        return y


def _is_undefined_of_truth(scorer, y, of_all):
    """Whether even right labels have no score; False where it is not of labels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            scorer(_Truth(np.unique(of_all)), y, y)
        except Exception:  # it is of probabilities, or of numbers
            return False
    return any(issubclass(w.category, UndefinedMetricWarning) for w in caught)


def _score_guess(scorer, target, y_train, y_test):
    """Score a linear model that sees `y` alone."""
    guess = make_pipeline(*target.linear()).fit(np.zeros((len(y_train), 1)), y_train)
    return scorer(guess, np.zeros((len(y_test), 1)), y_test)


def _check_scores(scorer, target, y, asked):
    """Refuse a score that fails even for a constant guess at this `y`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _score_guess(scorer, target, y, y)
    except Exception as error:
        reason = str(error).rstrip(".")
        own = ""
        if "pos_label" in reason:
            own = ", or your own: make_scorer(metric, pos_label=...)"
        raise ValueError(
            f"{asked} does not suit y, which holds {target.name}: {reason}. Pass "
            f"another score, such as {target.scoring!r}{own}."
        ) from error


def scoring_name(scoring):
    """Say in a word what a `scoring` measures."""
    return getattr(scoring, "__name__", "score") if callable(scoring) else scoring


def neg_expected_calibration_error(estimator, X, y):
    """Score how far probabilities are from the shares of rows predicted right.

    Rows are grouped by the probability of the predicted label. If it is calibrated, its
    mean over a group is the share of rows predicted right (Naeini et al., AAAI 2015):
    the score is the mean gap, weighted by rows, with a minus.
    """
    probabilities = estimator.predict_proba(X)
    if y.ndim > 1:
        raise ValueError("it is for one label per row")
    sure = probabilities.max(axis=1)
    right = estimator.classes_[probabilities.argmax(axis=1)] == y
    groups = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    return -np.abs(np.bincount(groups, right - sure)).sum() / len(y)
