"""The rows that a fit trains on."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from sktl._images.forms import Images
from sktl._targets.kinds import check_lengths
from sktl._targets.splits import check_groups


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Images, what is to be predicted for them, and how much each counts.

    Parameters
    ----------
    images : Images
        Without those of weight zero.
    numbers : ndarray of shape (n,)
        Their rows in what `fit` was given.
    codes : ndarray of shape (n,) or (n, n_outputs)
        What the loss reads; of labels the class numbers.
    target : Labels, Indicators or Numbers
        What the codes mean.
    weights : ndarray of shape (n,), of tags (n, n_tags), or None
        What `class_weight` and `sample_weight` make together.
    class_weights : ndarray of shape (n_classes,), of tags (2, n_tags), or None
        The part of these that comes from the class.
    groups : ndarray of shape (n,), dtype int64, or None
        The number of each image's group.
    """

    images: Images
    numbers: np.ndarray
    codes: np.ndarray
    target: object
    weights: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def mean_weight(self):
        """What weights are divided by in training, so that `lr` keeps its meaning."""
        return 1.0 if self.weights is None else self.weights.mean()


def make_rows(
    images, y, kind, target=None, sample_weight=None, class_weight=None, groups=None
):
    """Give images their codes and weights.

    Parameters
    ----------
    images : Images
    y : array-like of shape (n,) or (n, n_outputs)
    kind : type
        Labels, Indicators or Numbers.
    target : object of that kind, or None
        What an earlier call has learnt; None: learn from this `y`.
    sample_weight : array-like of shape (n,) or None
    class_weight : dict, "balanced" or None
    groups : array-like of shape (n,) or None

    Returns
    -------
    rows : TrainingRows
    """
    y = kind.check(y)
    check_lengths(images, y)
    if not len(images):
        raise ValueError("X and y have no rows, so there is nothing to train on.")
    if groups is not None:
        _, groups = np.unique(check_groups(groups, y), return_inverse=True)
    weights, kept = None, np.arange(len(y))
    if sample_weight is not None:
        weights = _check_sample_weight(
            sample_weight, y, dtype=np.float64, ensure_non_negative=True
        )
        kept = np.flatnonzero(weights)
        if not len(kept):
            raise ValueError(
                "sample_weight is zero in every row, so there is nothing to fit."
            )
        images, y, weights = images.take(kept), y[kept], weights[kept]
        groups = None if groups is None else groups[kept]
    target = target or kind.learn(y, weights)
    codes = target.encode(y)
    class_weights = target.class_weights(y, class_weight, weights)
    if class_weights is not None:
        factors = target.weights_by_row(codes, class_weights)
        weights = factors if weights is None else (factors.T * weights).T
    return TrainingRows(images, kept, codes, target, weights, class_weights, groups)
