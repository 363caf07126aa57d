"""Which kind of target a `y` is."""

import numpy as np
from sklearn.utils.validation import _num_samples

from sktl._images.forms import refuse_nothing, refuse_single_image
from sktl._targets.indicators import Indicators
from sktl._targets.labels import Labels
from sktl._targets.numbers import Numbers
from sktl._utils.printable import shown

# Named as users name them; the first that recognises a `y` has it.
TARGETS = {kind.name: kind for kind in (Numbers, Indicators, Labels)}


def recognise(y, kinds):
    """Find out which kind of target `y` is: the first that recognises it, or the last.

    Parameters
    ----------
    y : array-like, as users pass it
    kinds : sequence of type

    Returns
    -------
    kind : type
    """
    *others, last = kinds
    return next((kind for kind in others if kind.recognises(y)), last)


def check_lengths(X, y):
    """Refuse an `X` and a `y` that do not have the same number of rows."""
    if y is None:  # which another check refuses
        return
    lengths = [_num_samples(X), _num_samples(y)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            "X has {} row(s) and y has {}: inconsistent numbers of samples: {}. Pass "
            "a y with one row for each image of X.".format(*lengths, lengths)
        )


def check_rows(X, y, target="auto"):
    """Check what a tool is given, before any image is read, and learn what `y` means.

    Parameters
    ----------
    X : sequence of images, or a table
    y : array-like, as users pass it
    target : {"auto", "labels", "indicators", "numbers"}

    Returns
    -------
    y : ndarray of shape (n,) or (n, n_outputs)
        Without the second axis where it has length 1.
    target : Labels, Indicators or Numbers
    """
    refuse_single_image(X)
    check_lengths(X, y)
    refuse_nothing(X)
    if not isinstance(target, str) or target not in ("auto", *TARGETS):
        raise ValueError(
            f"target={shown(target)} must be 'auto', 'labels', 'indicators' or "
            "'numbers'."
        )
    kind = TARGETS.get(target) or recognise(y, TARGETS.values())
    y = kind.check(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    target = kind.learn(y)
    if target.has_scale:
        _refuse_constants(y)
    return y, target


def _refuse_constants(y):
    """Refuse numbers that any model predicts."""
    constant = np.flatnonzero(np.ptp(y.reshape(len(y), -1), axis=0) == 0)
    if len(constant):
        where, cure = "y", ""
        if y.ndim > 1:
            where, cure = f"column {constant[0]} of y", ", or leave this column out"
        raise ValueError(
            f"{where} holds the same number in all {len(y)} rows, so there is nothing "
            f"to predict. Pass rows in which it varies{cure}."
        )
