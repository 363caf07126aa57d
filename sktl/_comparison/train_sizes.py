"""Learning curves: nested parts of each training part, stratified where they can be."""

from numbers import Integral, Real

import numpy as np

from sktl._targets.splits import Split, nested_order
from sktl._utils.printable import shown


def shrink(splits, y, target, train_sizes, rng):
    """Shrink the training parts to some sizes; larger ones contain smaller ones.

    Parameters
    ----------
    splits : list of Split
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    target : Labels, Indicators or Numbers
        What `y` is.
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
    strata = target.strata(y)
    n_least = max(2, len(np.unique(strata)))
    sizes = check_train_sizes(train_sizes, n_rows, n_least, target.name)
    orders = [nested_order(strata[train], rng) for train, _ in splits]
    return [
        [
            Split(train[np.sort(order[:size])], test)
            for order, (train, test) in zip(orders, splits, strict=True)
        ]
        for size in sizes
    ]


def check_train_sizes(train_sizes, n_rows, n_least, what):
    """Return training sizes in rows.

    Parameters
    ----------
    train_sizes : sequence of int (rows) or float (shares of `n_rows`)
    n_rows : int
        Rows of the smallest training part.
    n_least : int
        The smallest size that there can be.
    what : str
        What `y` holds, for the messages.
    """
    if isinstance(train_sizes, Real | str) or not len(train_sizes):
        raise ValueError(
            f"train_sizes={shown(train_sizes)} must be a list of whole numbers (of "
            "rows) or floats (fractions of the smallest training part, which has "
            f"{n_rows} rows)."
        )
    rows = []
    for i, size in enumerate(train_sizes):
        n = _in_rows(size, n_rows)
        if n is None or not n_least <= n <= n_rows:
            made = "not a size" if n is None else f"{n} rows"
            raise ValueError(
                f"train_sizes[{i}]={shown(size)} is {made}. Accepted: "
                f"{n_least} (the fewest for these {what}) to {n_rows} rows (the "
                "smallest training part), or a fraction of the latter as a float."
            )
        if rows and n <= rows[-1]:
            raise ValueError(
                f"train_sizes[{i}]={shown(size)} is {n} rows, which is not more than "
                f"the {rows[-1]} before it. Pass sizes in increasing order, each once."
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
