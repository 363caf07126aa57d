"""What may be labels, and which classes they are of."""

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d


def check_labels(y):
    """Return the labels as an array, or say in which row there is none.

    Parameters
    ----------
    y : array-like of shape (n,)

    Returns
    -------
    labels : ndarray of shape (n,)
    """
    if y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None. Pass "
            "one label per image."
        )
    y = column_or_1d(y, warn=True)
    missing = [i for i, label in enumerate(y) if label is None or label != label]
    if missing:
        raise ValueError(
            f"y holds no label (None or NaN) in {len(missing)} row(s), first in row "
            f"{missing[0]}. Label these rows, or leave them out."
        )
    check_classification_targets(y)
    return y


def list_classes(labels):
    """Return the different labels in order; there must be two or more."""
    try:
        classes = np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise ValueError(
            f"y mixes labels of the types {', '.join(kinds)}, which cannot be sorted. "
            "Convert them to one type."
        ) from error
    if len(classes) < 2:
        raise ValueError(
            f"y holds only 1 class, {classes.tolist()}; at least 2 classes are needed. "
            "Was X sorted and then cut?"
        )
    return classes
