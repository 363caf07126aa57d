"""What a `scoring` asks for: scorers with a name, the calibration among them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import check_scoring, get_scorer
from sklearn.pipeline import make_pipeline

from sktl._utils.printable import shown
from sktl._utils.warning import silenced

N_BINS = 15  # as Guo et al. (ICML 2017)
OF_MAKE_SCORER = type(get_scorer("accuracy"))
FROM_ZERO_TO_ONE = (
    *("accuracy", "average_precision", "f1", "jaccard", "precision", "recall"),
    *("roc_auc", "top_k_accuracy", "balanced_accuracy"),
)
UP_TO_ONE = ("r2", "explained_variance", "d2_")
UNBOUNDED = (-inf, inf)


@dataclass(frozen=True)
class Scorer:
    """One score that is asked for. It is called as scikit-learn's scorers are.

    Parameters
    ----------
    name : str
    function : callable
        Of estimator, X and y; more is better.
    is_of_user : bool
        Whether it came as a callable, which may need more of a model than predictions,
        and whose name says nothing.
    """

    name: str
    function: Callable
    is_of_user: bool = False

    def __call__(self, estimator, X, y):
        """Score an estimator."""
        return self.function(estimator, X, y)

    @property
    def bounds(self):
        """The least and the most that it can be."""
        return UNBOUNDED if self.is_of_user else bounds_of(self.name)

    @property
    def reads_predictions_alone(self):
        """Whether all that it asks of an estimator is to predict."""
        return not self.is_of_user or type(self.function) is OF_MAKE_SCORER

    def check_defined(self, y, splits, target, cv):
        """Refuse a score that the rows of some test part cannot have, before any fit.

        Not one of the user's, which is not tried.

        Parameters
        ----------
        y, splits, target, cv
            As of `undefined_on`.

        Raises
        ------
        ValueError
            If it is not defined.
        """
        reason = "" if self.is_of_user else self.undefined_on(y, splits, target, cv)
        if reason:
            raise ValueError(
                f"scoring={self.name!r} {reason}. Pass fewer folds, a cv whose test "
                f"parts hold {target.complete}, or another score."
            )

    def undefined_on(self, y, splits, target, cv):
        """Say where it is not defined, without a fit to images.

        One of the user's is only asked whether it is set to a number.

        Parameters
        ----------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        splits : list of Split
        target : Labels, Indicators or Numbers
            What `y` is.
        cv : int, splitter or iterable of splits
            What made the splits.

        Returns
        -------
        reason : str
            On the first such split; "" if there is none.
        """
        guesses = {}  # by the classes they know
        for i, (train, test) in enumerate(splits):
            lack = target.lack(y[test])
            if not lack:
                continue
            known = np.unique(y[train]).tobytes() if target.stratified else None
            if known not in guesses and not self.is_of_user:
                guesses[known] = constant_guess(target, y[train])
            if is_set(self, y, y[test], target.has_scale) or (
                not self.is_of_user and not _has_score(self, guesses[known], y[test])
            ):
                return (
                    f"is not defined on split {i} of cv={shown(cv)}, whose {len(test)} "
                    f"test row(s) {lack}"
                )
        return ""

    def or_why_not(self, y, splits, target, cv):
        """Return it, or where it is undefined, one that fails with the reason.

        Parameters
        ----------
        y, splits, target, cv
            As of `undefined_on`.

        Returns
        -------
        scorer : Scorer
        """
        reason = self.undefined_on(y, splits, target, cv)
        return replace(self, function=_Undefined(reason)) if reason else self


class _Undefined:
    """Takes the place of a scorer, and gives the reason why there is no score."""

    def __init__(self, reason):
        self.reason = reason

    def __call__(self, estimator, X, y):
        """Score nothing."""
        raise ValueError(f"it {self.reason}.")


def bounds_of(name):
    """The least and the most that a score of scikit-learn can be, by its name."""
    if name.startswith(FROM_ZERO_TO_ONE):
        return 0.0, 1.0
    if name == "matthews_corrcoef":
        return -1.0, 1.0
    if name.startswith(UP_TO_ONE):
        return -inf, 1.0
    return -inf, 0.0 if name.startswith("neg_") else inf


def get_scorers(scoring, target, y, parameter="scoring"):
    """Return what is asked for, the score that contenders are compared by first.

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
    scorers : list of Scorer
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
        own = not callable(one) and name == neg_expected_calibration_error.__name__
        # Unlike get_scorer, it refuses a metric, such as accuracy_score.
        known = check_scoring(
            scoring=neg_expected_calibration_error if own else one or name
        )
        if not callable(one):
            _check_scores(known, target, y, f"{parameter}={name!r}")
        scorers[name] = Scorer(name, known, callable(one))
    return list(scorers.values())


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
    """As `get_scorers`, for what takes one score."""
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            f"scoring={shown(scoring)} must be one score: a name, a callable or None, "
            f"which is {target.scoring}."
        )
    (scorer,) = get_scorers(scoring, target, y)
    return scorer


def _has_score(scorer, guess, y_test):
    """Whether a guess at some rows has a score."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score = scorer(guess, np.zeros((len(y_test), 1)), y_test)
    except Exception:  # scorers raise many kinds
        return False
    return bool(np.isfinite(score))


def is_set(scorer, y, y_test, has_scale):
    """Whether a score is set to some number for want of what it compares.

    So scikit-learn does with the F1 where no row is positive: then it is lower for the
    true labels than with one positive row among as many. And with R2 where all numbers
    are the same: then it is the same for predictions that err by one and by two.

    Parameters
    ----------
    scorer : callable
    y, y_test : ndarray of shape (n, ...) and (n_test, ...)
    has_scale : bool
        Whether they are numbers to predict.

    Returns
    -------
    is_set : bool
        False where they lack nothing, or the score is not of labels, decisions or
        numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if has_scale:
                return _ignores_errors(scorer, y_test)
            truth, complete = _Truth(np.unique(y)), _completed(y_test, y)
            if np.array_equal(complete, y_test):
                return False
            whole, part = (scorer(truth, rows, rows) for rows in (complete, y_test))
    except Exception:  # it is of probabilities
        return False
    return bool(part < whole and not np.isclose(part, whole))


def _completed(y_test, y):
    """Rows with labels or tags that others of `y` have, where they can be spared."""
    complete = y_test.copy()
    if y.ndim > 1:
        for column, of_all in zip(complete.T, y.T, strict=True):
            for tag in np.setdiff1d(of_all, column):
                column[complete.sum(axis=1).argmax()] = tag
        return complete
    for label in np.setdiff1d(y, y_test)[: len(y_test)]:
        _, rows, counts = np.unique(complete, return_index=True, return_counts=True)
        complete[rows[counts.argmax()]] = label
    return complete


def cost_of_an_error(scorer, y, parts, has_scale):
    """How much a model that is right on all rows loses, at most, if it errs on one.

    Parameters
    ----------
    scorer : callable
    y : ndarray of shape (n, ...)
    parts : list of ndarray of int
        The rows of each test part.
    has_scale : bool
        As for `is_set`.

    Returns
    -------
    cost : float
        Times the number of rows, as a mean over parts: 1 for the accuracy, all rows
        over the positive ones for the recall. NaN where the score is not of labels or
        decisions.
    """
    if has_scale:
        return np.nan
    truth = _Truth(np.unique(y))
    kinds, kind = np.unique(y, axis=0 if y.ndim > 1 else None, return_inverse=True)
    others = np.roll(kinds, 1, axis=0)[kind]
    costs = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part in parts:
                scores = [scorer(truth, y[part], y[part])]
                for row in np.unique(kind[part], return_index=True)[1]:
                    answers = y[part]
                    answers[row] = others[part[row]]
                    scores.append(scorer(truth, answers, y[part]))
                costs.append(len(part) * (scores[0] - min(scores)))
    except Exception:  # it is of probabilities
        return np.nan
    return float(np.mean(costs))


def _ignores_errors(scorer, y):
    """Whether a score takes no notice of errors where numbers do not vary."""
    is_constant = np.ptp(y.reshape(len(y), -1), axis=0) == 0
    if not is_constant.any():
        return False
    error = np.resize([1.0, -1.0, 0.5], len(y))[:, None] * is_constant
    error = error.reshape(y.shape)
    once, twice = (scorer(_Numbers(), y + n * error, y) for n in (1, 2))
    return bool(error.any() and np.isclose(once, twice))


class _Truth(ClassifierMixin, BaseEstimator):
    """Predicts the labels or tags that it is given, and is sure of them."""

    def __init__(self, classes_):
        self.classes_ = classes_

    def predict(self, y):
        return y

    def decision_function(self, y):
        return (y == self.classes_[-1]).astype(float)


class _Numbers(RegressorMixin, BaseEstimator):
    """Predicts the numbers that it is given."""

    def predict(self, y):
        return y


def constant_guess(target, y):
    """Fit a linear model that sees `y` alone."""
    with silenced("The number of unique classes"):  # the check of `y` has warned
        return make_pipeline(*target.linear()).fit(np.zeros((len(y), 1)), y)


def _check_scores(scorer, target, y, asked):
    """Refuse a score that fails even for a constant guess at this `y`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scorer(constant_guess(target, y), np.zeros((len(y), 1)), y)
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
