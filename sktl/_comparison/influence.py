"""How far each row that is tested on moves a score."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, is_regressor
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples

from sktl._targets.scoring import is_set

MOST_UNITS = 200  # of rows: more take time, and make the intervals hardly better


def make_units(whose, tested):
    """Deal rows to units: those of one group together, and not too many units.

    Dealt at random, units have the variance of what they are made of.

    Parameters
    ----------
    whose : ndarray of shape (n_samples,)
        The group of each row, or the row itself.
    tested : ndarray of int
        The rows that are dealt, any number of times each.

    Returns
    -------
    units : ndarray of shape (n_samples,)
        Numbers from 0; -1 where a row is never tested on.
    """
    names, positions = np.unique(whose[tested], return_inverse=True)
    n_units = min(len(names), MOST_UNITS)
    units = np.full(len(whose), -1)
    order = np.random.RandomState(0).permutation(len(names))
    units[tested] = (order % n_units)[positions]
    return units


def influence(predicted, y, units, scorer, score, n_units):
    """Leave each unit out of a score in turn: the jackknife.

    Parameters
    ----------
    predicted : Predicted
        What was predicted of the rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
    units : ndarray of shape (n_rows,)
        As from `make_units`.
    scorer : Scorer
    score : float
        What it gave on these rows.
    n_units : int
        Of all rows.

    Returns
    -------
    influence : ndarray of shape (n_units,) or None
        The sum of squares is the jackknife's estimate of the score's variance. Zero
        where a unit is not among the rows. None if the score does not come from the
        predictions alone, or is not defined without some unit.
    """
    present, unit_of_row = np.unique(units, return_inverse=True)
    if len(present) < 2:
        return None
    if scorer.name == "accuracy" and not scorer.is_of_user:
        hits = predicted.predict(np.arange(len(y))) == y
        hits = hits.reshape(len(y), -1).all(axis=1)  # all tags of a row
        without = _accuracy_without(hits, unit_of_row)
    else:
        without = _score_without(predicted, y, unit_of_row, scorer, score)
    if without is None:
        return None
    influence = np.zeros(n_units)
    influence[present] = without.mean() - without
    return np.sqrt((len(present) - 1) / len(present)) * influence


def _accuracy_without(hits, unit_of_row):
    """What `_score_without` would find, at once."""
    n_hits, n_rows = np.bincount(unit_of_row, hits), np.bincount(unit_of_row)
    return (hits.sum() - n_hits) / (len(hits) - n_rows)


def _score_without(predicted, y, unit_of_row, scorer, score):
    """The score without each unit; None where that cannot be had."""
    positions = np.arange(len(y))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first scoring has warned
            if not np.isclose(scorer(predicted, positions, y), score, rtol=1e-6):
                return None
            parts = [positions[unit_of_row != i] for i in range(unit_of_row.max() + 1)]
            without = np.array([scorer(predicted, rows, y[rows]) for rows in parts])
    except Exception:  # it reads more than predictions, or needs all rows
        return None
    of_numbers = is_regressor(predicted)
    for rows in parts:
        # Without the only positive row, say, scikit-learn sets it to 0.
        if is_set(scorer, y, y[rows], of_numbers):
            return None
    return without if np.isfinite(without).all() else None


class _OtherRowsError(Exception):
    """What is predicted is not one answer for each row."""


def _by_rows(answer, n_rows):
    """An answer of `predict`, `predict_proba` or `decision_function` as an array."""
    try:
        if isinstance(answer, list) and all(np.ndim(part) == 2 for part in answer):
            # An array per tag: the last column is of having it.
            answer = np.transpose([of_tag[:, -1] for of_tag in answer])
        answer = np.asarray(answer)
    except ValueError as error:  # it is ragged
        raise _OtherRowsError from error
    if answer.shape[:1] != (n_rows,):
        raise _OtherRowsError
    # As `y` is; CatBoost gives labels in one column.
    return answer[:, 0] if answer.shape[1:] == (1,) else answer


def _recall(method):
    """A method that takes positions of rows and remembers what is predicted of them."""

    def predict(self, positions):
        self.was_asked_ = True
        if method not in self.known_:
            answer = getattr(self.estimator, method)(self.X)
            self.known_[method] = _by_rows(answer, _num_samples(self.X))
        return self.known_[method][positions]

    predict.__name__ = method
    return available_if(lambda self: hasattr(self.estimator, method))(predict)


class Predicted(BaseEstimator):
    """A fitted estimator that predicts some rows once, and takes their positions.

    Parameters
    ----------
    estimator : estimator
    X : sequence of images
        The rows.
    """

    def __init__(self, estimator, X):
        self.estimator, self.X = estimator, X
        self.classes_ = getattr(estimator, "classes_", None)
        self.known_ = {}

    predict = _recall("predict")
    predict_proba = _recall("predict_proba")
    decision_function = _recall("decision_function")

    def score_by(self, scorer, y):
        """Score the estimator on the rows, from what it predicted before if possible.

        Parameters
        ----------
        scorer : Scorer
            One that may read more than predictions gets the estimator itself.
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)

        Returns
        -------
        score : float
        """
        if scorer.reads_predictions_alone:
            self.was_asked_ = False
            try:
                return float(scorer(self, np.arange(len(y)), y))
            except _OtherRowsError:
                pass  # scikit-learn says what is wrong with them
            except Exception:
                # Before any prediction, it is of what the estimator has or is: let the
                # message name its class.
                if self.was_asked_:
                    raise
        return float(scorer(self.estimator, self.X, y))

    def __sklearn_tags__(self):
        return get_tags(self.estimator)
