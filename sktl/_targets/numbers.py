"""Numbers: one or several per image, to be predicted."""

from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.validation import check_array

from sktl._global_scaler import GlobalScaler
from sktl._targets.linear_head import solve_by_ridge
from sktl._targets.target import (
    BOOSTING,
    OF_PROBABILITIES,
    OF_SIGNS,
    Target,
    n_columns,
    warn_of_loss,
)
from sktl._utils.missing import is_missing
from sktl._utils.printable import shown


@dataclass(frozen=True, eq=False)
class Numbers(Target):
    """One number per image, or several, each predicted in standard deviations.

    Parameters
    ----------
    mean, scale : ndarray of shape () or (n_outputs,)
        Of what `fit` saw; no axis where `y` has none.
    """

    mean: np.ndarray
    scale: np.ndarray

    name, outputs, estimator = "numbers", "outputs", "FineTunedCNNRegressor"
    baseline_name, linear_name = "mean of y", "ridge regression"
    estimator_type, scoring = "regressor", "r2"
    codes_in_words = "standard deviations from the mean"
    suggested_losses = "torch.nn.MSELoss, L1Loss or HuberLoss"
    refused_losses = (*OF_PROBABILITIES, *OF_SIGNS, torch.nn.PoissonNLLLoss)
    has_scale = True
    complete = "different numbers"

    def __post_init__(self):
        both = np.array([self.mean, self.scale])  # fails if their shapes differ
        if both.ndim > 2 or not np.isfinite(both).all() or np.any(both[1] <= 0):
            raise ValueError("its mean and scale are not means and deviations")

    @staticmethod
    def recognises(y):
        """Whether `y` can be nothing but numbers: fractions, or columns of others."""
        n = n_columns(y)
        if issparse(y) or not n:
            return False
        values = np.asarray(y)
        if values.dtype.kind == "O" and all(isinstance(v, Real) for v in values.flat):
            values = values.astype(float)
        if values.dtype.kind not in "biuf":
            return False
        if n > 1:
            return not np.isin(values, (0, 1)).all()
        finite = values[np.isfinite(values)]
        return bool(np.any(finite != np.floor(finite)))

    @staticmethod
    def check(y):
        """Return `y` as an array of finite numbers, or say in which row there is none.

        Returns
        -------
        y : ndarray of shape (n,) or (n, n_outputs), dtype float64
        """
        if y is None:
            raise ValueError(
                "This estimator requires y to be passed, but the target y is None. "
                "Pass one number per image."
            )
        y = check_array(
            _as_numbers(y),
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite=False,
            input_name="y",
        )
        wrong = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"y holds NaN or infinity in {len(wrong)} row(s), first in row "
                f"{wrong[0]}. Fill them in, or leave these rows out."
            )
        return y

    @classmethod
    def learn(cls, y, sample_weight=None):
        """Learn mean and scale from checked numbers."""
        if not len(y):
            raise ValueError("y holds no numbers; at least 1 is needed.")
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.average(y, axis=0, weights=sample_weight)
            deviations = y - mean
            # In units of the largest, as squares of tiny numbers would be zero.
            unit = np.abs(deviations).max(axis=0)
            unit = np.where(unit == 0, 1.0, unit)
            squares = (deviations / unit) ** 2
            scale = unit * np.sqrt(np.average(squares, axis=0, weights=sample_weight))
            # What does not vary deviates by rounding errors.
            constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
            scale = np.where(constant & np.isfinite(mean), 1.0, scale)
            variance = scale**2
        if not np.isfinite(variance).all():
            raise ValueError(
                f"y holds numbers up to {np.abs(y).max():.3g}, whose variance is "
                "beyond float64. Pass them in a larger unit."
            )
        return cls(np.asarray(mean), np.asarray(scale))

    @property
    def n_outputs(self):
        """Width of the head."""
        return self.mean.size

    def lack(self, y):
        """Say that numbers do not vary; "" if they do."""
        is_constant = np.ptp(y, axis=0) == 0
        if not is_constant.any():
            return ""
        where = ""
        if y.ndim > 1:
            where = f" in column(s) {np.flatnonzero(is_constant)[:5].tolist()} of y"
        return f"hold a single number{where}"

    def columns(self, y):
        """Return what a linear model would predict: `y` in standard deviations."""
        return self.encode(y).astype(float)

    def encode(self, y):
        """Return what the loss reads: `(n, n_outputs)` in standard deviations."""
        if y.shape[1:] != self.mean.shape:
            n_before = self.mean.size if self.mean.ndim else "no"
            raise ValueError(
                f"y has shape {y.shape}; in the first call it had {n_before} columns. "
                "Pass the same outputs in each call."
            )
        scaled = (y - self.mean) / self.scale
        return scaled.reshape(len(y), self.n_outputs).astype(np.float32)

    def decode(self, outputs):
        """Return the numbers of what the network gives."""
        return outputs.reshape(-1, *self.mean.shape) * self.scale + self.mean

    def solve(self, layer, rows, criterion, C):
        """By ridge regression, which is for squared errors."""
        if type(criterion) is not torch.nn.MSELoss:
            warn_of_loss(criterion, "ridge regression")
        solve_by_ridge(layer, rows)

    def agreement(self, outputs, others):
        """R2 of other outputs; if these do not vary, whether both are equal."""
        error = np.sum((outputs - others) ** 2)
        variation = np.sum((outputs - outputs.mean(axis=0)) ** 2)
        return 1 - error / variation if variation else float(error == 0)

    def baseline(self):
        return DummyRegressor()

    @staticmethod
    def linear():
        return [GlobalScaler(), RidgeCV(np.logspace(-6, 8, 57), alpha_per_target=True)]

    def svm(self):
        """In standard deviations, as its margin has no unit."""
        # An array comes out whatever scikit-learn's `transform_output` says.
        scaler = StandardScaler().set_output(transform="default")
        return TransformedTargetRegressor(self._per_output(SVR()), transformer=scaler)

    def boosting(self):
        return self._per_output(GradientBoostingRegressor(**BOOSTING))

    def _per_output(self, regressor):
        return regressor if self.n_outputs == 1 else MultiOutputRegressor(regressor)


def _as_numbers(y):
    """Turn objects and texts into numbers, NaN where there is none."""
    try:
        values = np.asarray(y)
    except ValueError as error:
        raise ValueError(
            "y has rows of different lengths. Pass one number per image, or the same "
            "number of them for each image."
        ) from error
    if values.dtype.kind in "mM":
        raise ValueError(
            f"y holds times ({values.dtype}), whose unit is not clear. Convert them "
            "to numbers, such as days."
        )
    if values.dtype.kind not in "OUS" or values.ndim == 0:
        return y
    numbers = np.empty(values.shape)
    for place, value in np.ndenumerate(values.astype(object)):
        try:
            numbers[place] = np.nan if is_missing(value) else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"y holds {shown(value)} in row {place[0]}, which is not a number. For "
                "labels and tags, use FineTunedCNNClassifier."
            ) from error
    return numbers
