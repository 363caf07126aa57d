"""How well features suit a target, without fitting a model: LogME, H-score, kNN.

The first two take one singular value decomposition each, and invert no matrix, so that
more features than images, dead channels and duplicate columns need no special care.
"""

import numpy as np
from sklearn.neighbors import NearestNeighbors

N_NEIGHBOURS = 5
# Features are float32: beyond this ratio they cannot tell signal from rounding.
FEATURE_PRECISION = float(np.finfo(np.float32).eps)


def neighbours_accuracy(features, membership):
    """Accuracy of the nearest neighbours' vote for each row, the row left out.

    In a tie, the class of the nearest of these neighbours wins. Time and memory of one
    matrix of rows by rows, which scikit-learn computes in parts.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    membership : ndarray of shape (n, n_classes)
        One 1 per row.

    Returns
    -------
    score : float
    """
    n_neighbours = min(N_NEIGHBOURS, len(features) - 1)
    search = NearestNeighbors(n_neighbors=n_neighbours, metric="cosine")
    # Without an argument, no row is its own neighbour.
    nearest = search.fit(features).kneighbors(return_distance=False)
    weights = 1 + 2.0 ** -np.arange(1, n_neighbours + 1) / n_neighbours
    votes = np.einsum("nkc,k->nc", membership[nearest], weights)
    return float((votes.argmax(axis=1) == membership.argmax(axis=1)).mean())


def log_maximum_evidence(features, targets):
    """Mean over targets of the largest log evidence of a linear model, per row.

    With precision a of the prior of the weights and b of the noise, a target is normal
    with covariance (I + F F' / l) / b, where l = a / b. Along the left singular vectors
    of F that is diagonal: 1 + s^2 / l, and 1 where F does not reach. The best b for a
    given l is n / q, q being the target's squared length after whitening. That leaves
    a function of t = log l alone, which is tabulated and then refined by bisection of
    its slope.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    targets : ndarray of shape (n, k)

    Returns
    -------
    score : float
    """
    n, k = targets.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    power = singular**2
    inside = (targets.T @ left) ** 2  # (k, r)
    lengths = (targets**2).sum(axis=0)
    outside = lengths - inside.sum(axis=1)
    outside[outside < n * np.finfo(float).eps * lengths] = 0  # rounding, not noise
    parts = power, inside, outside, n

    # The ends stand for no prior at all, and for weights of zero.
    span = np.log([FEATURE_PRECISION**2, 1e8]) + np.log(power.max() or 1)
    grid = np.linspace(*span, 200)
    table = np.array([_evidence(np.full(k, t), *parts)[0] for t in grid])
    best = table.argmax(axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, 199)]
    for _ in range(50):
        middle = (low + high) / 2
        rises = _evidence(middle, *parts)[1] > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return float(_evidence(low, *parts)[0].mean() / n)


def _evidence(t, power, inside, outside, n):
    """Log evidence of each target at its own t, and the slope there."""
    ratio = power / np.exp(t)[:, np.newaxis]  # (k, r)
    rest = 1 / (1 + ratio)
    q = (rest * inside).sum(axis=1) + outside
    q_slope = (rest * (1 - rest) * inside).sum(axis=1)
    value = n * (np.log(n / q) - 1 - np.log(2 * np.pi)) - np.log1p(ratio).sum(axis=1)
    slope = (1 - rest).sum(axis=1) - n * q_slope / q
    return value / 2, slope / 2


def shrunk_h_score(features, membership):
    """Trace of the shrunk covariance's inverse times that of the class means.

    The former is diagonal in the right singular vectors of the centred features. No
    more than n of these count, however many columns there are: the class means do not
    leave the space of the rows.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    membership : ndarray of shape (n, n_classes)
        One 1 per row.

    Returns
    -------
    score : float
    """
    n = len(features)
    varying = features[:, np.ptp(features, axis=0) > 0]
    d = varying.shape[1]
    if d == 0:
        return 0.0
    centred = varying - varying.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    # Directions in which nothing varies but rounding.
    reached = singular > singular[0] * max(n, d) * np.finfo(float).eps
    rows = left[:, reached] * singular[reached]
    variances = singular[reached] ** 2 / n
    sizes = membership.sum(axis=0)
    means = membership.T @ rows / sizes[:, np.newaxis]
    between = sizes / n @ means**2
    share = _ledoit_wolf_shrinkage(rows, variances, d)
    shrunk = (1 - share) * variances + share * variances.sum() / d
    return float((1 - share) * (between / shrunk).sum())


def _ledoit_wolf_shrinkage(rows, variances, d):
    """Share of the identity in the covariance of least expected error.

    Ledoit & Wolf, Journal of Multivariate Analysis 88 (2004), from principal
    components: of the `d` variances those not given are zero. (scikit-learn's needs all
    columns: of 12544, it takes three times as long as all else that is done here.)
    """
    total = variances.sum()
    distance = (variances**2).sum() - total**2 / d
    noise = ((rows**2).sum(axis=1) ** 2).mean() - (variances**2).sum()
    noise = max(noise / len(rows), 0)
    return min(noise / distance, 1) if distance > 0 else 0.0
