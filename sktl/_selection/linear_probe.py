"""A linear model on frozen features, scored by cross-validation."""

import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sktl._targets.scoring import get_one_scorer
from sktl._targets.splits import make_splits
from sktl._utils.warning import silenced


class LinearProbe:
    """Scores of a linear model of one target, on the same folds for all features.

    Parameters
    ----------
    y : ndarray
        As `check_rows` gives it.
    target : Target
    cv : int, cross-validation generator or iterable
    scoring : str, callable or None

    Attributes
    ----------
    scoring : str
        Name of the score.

    Raises
    ------
    ValueError
        If the folds or the score do not suit `y`.
    """

    def __init__(self, y, target, cv, scoring):
        self.y = y
        self.folds = make_splits(np.zeros(len(y)), y, cv, None, target)
        self.scorer = get_one_scorer(scoring, target, y)
        self.scorer.check_defined(y, self.folds, target, cv)
        self.scoring = self.scorer.name
        self.model = make_pipeline(*target.linear())

    def scores(self, features, n_jobs=None):
        """Score the model on each fold.

        Parameters
        ----------
        features : ndarray of shape (n, d)
        n_jobs : int or None, default=None
            Folds at once.

        Returns
        -------
        scores : ndarray of shape (n_folds,)

        Raises
        ------
        ValueError
            If a score is NaN.
        """
        with silenced("The number of unique classes"):  # the check of `y` has warned
            scores = cross_val_score(
                self.model,
                features,
                self.y,
                cv=self.folds,
                scoring=self.scorer,
                n_jobs=n_jobs,
                error_score="raise",
            )
        if np.isnan(scores).any():
            split = np.flatnonzero(np.isnan(scores))[0]
            raise ValueError(
                f"The score of a linear model is NaN on split {split}; it may not be "
                f"defined for its {len(self.folds[split].test)} test row(s). Pass "
                "another scoring, or a cv with larger test parts."
            )
        return scores


def check_finite(features, label):
    """Refuse features that no model can be fitted to, and name their rows."""
    (bad,) = np.nonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(
            f"The features of {label!r} are not finite in {len(bad)} row(s), first in "
            f"{bad[:5].tolist()}. sktl.check_images(X) lists unreadable images: leave "
            "these rows out of X and y. If all are readable, set precision='float32'."
        )
