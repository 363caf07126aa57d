"""A new head that is one linear layer: solved instead of trained."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sktl._global_scaler import GlobalScaler
from sktl._utils.warning import silenced

# Largest slope at which the head counts as solved; scikit-learn's 1e-4 is seen in the
# third digit of logits.
SLOPE = 1e-8
# How far the logit of a class without examples lies below the others.
ABSENT = 5.0


@dataclass(frozen=True, eq=False)
class HeadRows:
    """What a linear head is fitted on.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    codes : ndarray of shape (n,) or (n, n_outputs)
        Class numbers, indicators or numbers.
    weights : ndarray of shape (n,) or (n, n_outputs)
        Of row and class together. A weight of k is the same as k equal rows.
    class_factors : ndarray of the same shape, or None
        What of these comes from the class: it has no part in the scaling, which would
        follow the heaviest class, nor in the choice of the penalty.
    images : ndarray of shape (n,)
        The number of the image that each row was computed from.
    groups : ndarray of shape (n,)
        The number of the group that its image is of, such as a patient; where there are
        no groups, of the image.
    """

    features: np.ndarray
    codes: np.ndarray
    weights: np.ndarray
    class_factors: np.ndarray | None
    images: np.ndarray
    groups: np.ndarray

    def weighted(self, factors):
        """With further weights for the class of each row."""
        before = 1 if self.class_factors is None else self.class_factors
        return replace(
            self, weights=self.weights * factors, class_factors=before * factors
        )

    def merged(self):
        """Make equal rows one, whose weight is their sum, and sort them.

        So no bit depends on the order of rows, or on whether they are copied or
        weighted.
        """
        rows = np.column_stack([self.codes, self.features])
        _, first, number = np.unique(
            rows, axis=0, return_index=True, return_inverse=True
        )
        sums = np.zeros((len(first), *self.weights.shape[1:]))
        np.add.at(sums, number.ravel(), self.weights)  # a column in NumPy 2.0
        factors = self.class_factors
        return HeadRows(
            self.features[first],
            self.codes[first],
            sums,
            None if factors is None else factors[first],
            self.images[first],
            self.groups[first],
        )

    def sample_weights(self):
        """The weights of rows, without those of their classes or tags."""
        weights = self.weights
        if self.class_factors is not None:
            known = self.class_factors > 0
            zero = np.zeros(weights.shape)
            weights = np.divide(weights, self.class_factors, zero, where=known)
        return weights.max(axis=1) if weights.ndim > 1 else weights  # same for each tag


def solve_by_logistic_regression(layer, rows, C):
    """Set `layer` to the logistic regression of class numbers on features.

    The problem is convex, so this is where training a linear head ends, reached at
    once. Features are scaled first, and the scaling folded into the weights.

    Parameters
    ----------
    layer : torch.nn.Linear
    rows : HeadRows
    C : float or "auto"
        Of `LogisticRegression`, or `"auto"`: by leave-one-out.
    """
    rows = rows.merged()
    present, numbers = np.unique(rows.codes, return_inverse=True)
    if len(present) < 2:  # nothing to tell apart yet: the first batch of a stream
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(-ABSENT)
            layer.bias[present] = 0
        return
    row_weights = rows.sample_weights()
    scaler, scaled = _scaled(rows.features, row_weights)
    if C == "auto":
        indicators = np.eye(len(present))[numbers]
        errors, unit, *_ = _leave_one_out(scaled, indicators, rows)
        C = _best_C(errors.sum(axis=1), unit)
    classes, coef, intercept = _logistic_regression(
        scaler, scaled, rows.codes, rows.weights, C
    )
    if len(coef) == 1:  # two classes have one logit: half for each
        coef, intercept = coef / 2 * [[-1], [1]], intercept / 2 * [-1, 1]
    with torch.no_grad():
        # Classes that are not there get no weight and an unlikely logit.
        layer.weight.zero_()
        layer.bias.fill_(intercept.min() - ABSENT)
        layer.weight[classes] = torch.tensor(coef).to(layer.weight)
        layer.bias[classes] = torch.tensor(intercept).to(layer.bias)


def solve_each_by_logistic_regression(layer, rows, C):
    """Set each row of `layer` to the logistic regression of a column of indicators.

    As `solve_by_logistic_regression`, for columns that know nothing of each other.
    Where a column is always on or always off, the other gets an unlikely logit.

    Parameters
    ----------
    layer : torch.nn.Linear
    rows : HeadRows
    C : float or "auto"
        The same for all columns, or that of each, by leave-one-out.
    """
    rows = rows.merged()
    codes, row_weights = rows.codes, rows.sample_weights()
    scaler, scaled = _scaled(rows.features, row_weights)
    if C == "auto":
        errors, unit, *_ = _leave_one_out(scaled, codes, rows)
        C = _best_C(errors, unit)
    C = np.broadcast_to(C, codes.shape[1])
    weights = np.broadcast_to(rows.weights.reshape(len(codes), -1), codes.shape)
    for output, (column, of_rows) in enumerate(zip(codes.T, weights.T, strict=True)):
        coef, intercept = np.zeros(layer.in_features), np.sign(column[0] - 0.5) * ABSENT
        if len(np.unique(column)) == 2:
            _, (coef,), (intercept,) = _logistic_regression(
                scaler, scaled, column, of_rows, C[output]
            )
        with torch.no_grad():
            layer.weight[output] = torch.tensor(coef).to(layer.weight)
            layer.bias[output] = float(intercept)


def solve_by_ridge(layer, rows):
    """Set `layer` to the ridge regression of numbers on features.

    Each column has the penalty that predicts best what is left out, one group at a
    time.

    Parameters
    ----------
    layer : torch.nn.Linear
    rows : HeadRows
        Without class weights.
    """
    features, values = (a.astype(np.float64) for a in (rows.features, rows.codes))
    rows = replace(rows, features=features, codes=values).merged()
    scaler, scaled = _scaled(rows.features, rows.weights)
    errors, unit, s, vt, along = _leave_one_out(scaled, rows.codes, rows)
    s, penalty = s[:, None], PENALTIES[errors.argmin(axis=0)] * unit
    coef = (vt.T @ (s / (s**2 + penalty) * along)).T
    mean = np.average(rows.codes, axis=0, weights=rows.weights)
    coef, intercept = _unscaled(scaler, coef, mean)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(coef))
        layer.bias.copy_(torch.tensor(intercept))


def _scaled(features, weights):
    """Features in one scale, and what scaled them."""
    # An array comes out whatever scikit-learn's `transform_output` says.
    scaler = GlobalScaler().set_output(transform="default")
    scaler.fit(features, sample_weight=weights)
    return scaler, scaler.transform(features)


def _unscaled(scaler, coef, intercept):
    """Coefficients and intercepts for features as they were."""
    coef = coef / scaler.scale_
    return coef, intercept - coef @ scaler.mean_


def _logistic_regression(scaler, scaled, codes, weights, C):
    """Classes, coefficients and intercepts, for features as they were."""
    model = LogisticRegression(C=C, tol=SLOPE, max_iter=10_000)
    # Where it may be so, whoever learnt the classes has said it.
    with silenced("The number of unique classes"):
        model.fit(scaled, codes, weights)
    return model.classes_, *_unscaled(scaler, model.coef_, model.intercept_)


# Penalties to choose from, where features have a mean variance of one and rows a mean
# weight of one: from none to almost no slope.
PENALTIES = np.logspace(-2, 6, 33)
# What `C` of the logistic regression times the best penalty of ridge regression is.
# Found on three sets of photographs: from 3 to 10 accuracies are the same within 0.001,
# and the log loss is best with 10.
RATIO = 10.0


def _best_C(errors, unit):
    """Turn the best penalty of ridge regression into `C`, at most the usual 1."""
    return np.minimum(RATIO / PENALTIES[errors.argmin(axis=0)], 1.0) / unit


def _leave_one_out(scaled, values, rows):
    """Errors of ridge regression on what is left out, one group at a time.

    In closed form, from one singular value decomposition, O(n d min(n, d)). An image is
    left out with all its weight, and with all its copies and the rest of its group, or
    these would tell what it is. Penalties are in units of the mean weight of an image,
    so that weights of 2 or 0.1 for all choose what no weights do.

    Golub, Heath & Wahba, Technometrics 1979; for several rows at a time, Cook &
    Weisberg, Residuals and Influence in Regression, 1982.

    Parameters
    ----------
    scaled : ndarray of shape (n, d)
        Centred, by weight.
    values : ndarray of shape (n, n_outputs)
    rows : HeadRows
        Merged.

    Returns
    -------
    errors : ndarray of shape (n_penalties, n_outputs)
        Sums of squares, by weight.
    unit : float
        The mean weight of an image.
    s, vt : ndarray of shape (r,) and (r, d)
        Singular values and vectors.
    along : ndarray of shape (r, n_outputs)
        How far the values extend along these.
    """
    weights = rows.sample_weights()
    counted = weights > 0  # a class may have weight 0
    scaled, values, weights = scaled[counted], values[counted], weights[counted]
    n_images, n_groups = (
        len(np.unique(of_rows[counted])) for of_rows in (rows.images, rows.groups)
    )
    if n_groups < 2 <= n_images:
        raise ValueError(
            "The penalty on the head is chosen by leaving out one group at a time, but "
            "all rows to train on are of one group (early_stopping, train_split and "
            "weights of zero take rows away). Pass more groups, a fixed C "
            "(classifier), or no groups."
        )
    values = values - np.average(values, axis=0, weights=weights)
    root = np.sqrt(weights)[:, None]
    # Weighted and centred, so that the intercept is the mean.
    u, s, vt = np.linalg.svd(root * scaled, full_matrices=False)
    values, along = root * values, u.T @ (root * values)
    # With the direction of the intercept, which has no penalty.
    directions = np.column_stack([u, root / np.sqrt(weights.sum())])
    groups = [(own, directions[own]) for own in _rows_of_each(rows.groups[counted])]
    unit = weights.sum() / n_images
    errors = []
    for penalty in PENALTIES * unit:
        kept = np.append(s**2 / (s**2 + penalty), 1.0)
        residuals, error = values - u @ (kept[:-1, None] * along), 0.0
        for own, of_rows in groups:
            left_out = _left_out(residuals[own], of_rows, kept)
            error += np.sum(left_out**2, axis=(0, 1))
        errors.append(error)
    return np.array(errors), unit, s, vt, along


def _left_out(residuals, directions, kept):
    """Residuals of the rows of each group, had the group been left out.

    Parameters
    ----------
    residuals : ndarray of shape (n_groups, n_rows, n_outputs)
    directions : ndarray of shape (n_groups, n_rows, r)
    kept : ndarray of shape (r,)
        The share of each direction that the penalty leaves.
    """
    _, n_rows, r = directions.shape
    if n_rows <= r:
        others = (1 + 1e-9) * np.eye(n_rows) - _own_share(directions, kept)
        return np.linalg.solve(others, residuals)
    # The same by Woodbury's identity: a group may hold a third of all rows.
    along = directions * np.sqrt(kept)
    others = (1 + 1e-9) * np.eye(r) - along.mT @ along
    inner = np.linalg.solve(others, along.mT @ residuals)
    return (residuals + along @ inner) / (1 + 1e-9)


def _own_share(directions, kept):
    """How much the rows of each group are in their own predictions."""
    if directions.shape[1] == 1:  # the same, faster
        return (np.square(directions[:, 0]) @ kept)[:, None, None]
    return (directions * kept) @ directions.mT


def _rows_of_each(groups):
    """Rows of each group: an array of (n_groups, n_rows) for each number of rows."""
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    rows = np.split(order, np.cumsum(sizes)[:-1])
    return [
        np.array([group for group in rows if len(group) == size])
        for size in np.unique(sizes)
    ]
