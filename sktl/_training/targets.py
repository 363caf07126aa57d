"""What a target means: one object per kind, asked by whoever trains or predicts.

Another kind of target is another object with the same attributes and methods, and
another face beside `FineTunedCNNClassifier` and `FineTunedCNNRegressor`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_array

from sktl._training.head import solve_by_logistic_regression, solve_by_ridge
from sktl._training.labels import check_labels, list_classes
from sktl.exceptions import warn_caller


@dataclass(frozen=True, eq=False)
class Labels:
    """One label per image, of any kind that has an order: strings, numbers, bools.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        In order.
    """

    classes: np.ndarray

    scoring = "accuracy"
    stratified = True  # rows that are set aside are a share of each class

    @classmethod
    def check(cls, y):
        """Return `y` as an array of labels, or say in which row there is none."""
        return check_labels(y)

    @classmethod
    def learn(cls, y, sample_weight=None):
        """Learn the classes from checked labels; there must be two or more."""
        return cls(list_classes(y))

    @property
    def n_outputs(self):
        """Width of the head."""
        return len(self.classes)

    def encode(self, y):
        """Return what the loss reads: the number of each label's class."""
        unknown = np.setdiff1d(y, self.classes)
        if len(unknown):
            raise ValueError(
                "y holds labels that were not in the first call: "
                f"{unknown[:5].tolist()}. Pass all labels as classes= in the first "
                "call of partial_fit."
            )
        return np.searchsorted(self.classes, y)

    def decode(self, codes):
        """Return the labels of class numbers."""
        return self.classes[codes]

    def weigh(self, y, class_weight, sample_weight=None):
        """Return the weight of each class; None where all are equal.

        Parameters
        ----------
        y : ndarray of shape (n,)
            Labels, checked.
        class_weight : dict, "balanced" or None
        sample_weight : ndarray of shape (n,) or None

        Returns
        -------
        weights : ndarray of shape (n_classes,) or None
        """
        if class_weight is None:
            return None
        present = np.unique(y)
        weights = np.ones(self.n_outputs)
        weights[self.encode(present)] = compute_class_weight(
            class_weight, classes=present, y=y, sample_weight=sample_weight
        )
        return weights

    def solve(self, layer, features, codes, weights, class_weights, criterion):
        """Set the head's layer to where training would end.

        Parameters
        ----------
        layer : torch.nn.Linear
        features : ndarray of shape (n, n_features)
        codes : ndarray of shape (n,)
        weights : ndarray of shape (n,)
            Of row and class together.
        class_weights : ndarray of shape (n_classes,) or None
        criterion : torch.nn.Module
            The loss; its `weight` of each class is followed.

        Warns
        -----
        UserWarning
            If it is another loss than that of logistic regression.
        """
        if not self._is_log_loss(criterion):
            _warn_of(criterion, "logistic regression")
        elif criterion.weight is not None:
            of_loss = criterion.weight.detach().cpu().double().numpy()
            weights = weights * of_loss[codes]
            class_weights = of_loss * (1 if class_weights is None else class_weights)
        per_row = None if class_weights is None else class_weights[codes]
        solve_by_logistic_regression(layer, features, codes, weights, per_row)

    def _is_log_loss(self, criterion):
        if type(criterion) is torch.nn.CrossEntropyLoss:
            return criterion.label_smoothing == 0
        return type(criterion) is torch.nn.NLLLoss

    def as_read_by(self, criterion, logits):
        """Turn logits into what a loss reads: `NLLLoss` reads log-probabilities."""
        if isinstance(criterion, torch.nn.NLLLoss):
            return torch.log_softmax(logits, dim=-1)
        return logits

    def probabilities(self, logits):
        """Map logits `(n, n_classes)` to probabilities of the same shape."""
        return torch.softmax(logits, dim=-1)


@dataclass(frozen=True, eq=False)
class Numbers:
    """One number per image, or several, each predicted in standard deviations.

    Parameters
    ----------
    mean, scale : ndarray of shape () or (n_outputs,)
        Of what `fit` saw; no axis where `y` has none.
    """

    mean: np.ndarray
    scale: np.ndarray

    scoring = "r2"
    stratified = False

    @classmethod
    def check(cls, y):
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
            y,
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
        mean = np.average(y, axis=0, weights=sample_weight)
        variance = np.average((y - mean) ** 2, axis=0, weights=sample_weight)
        # What does not vary has rounding errors for a variance.
        constant = variance <= (10 * np.finfo(float).eps * np.abs(mean)) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        return cls(np.asarray(mean), np.asarray(scale))

    @property
    def n_outputs(self):
        """Width of the head."""
        return self.mean.size

    def encode(self, y):
        """Return what the loss reads: `(n, n_outputs)` in standard deviations."""
        if y.shape[1:] != self.mean.shape:
            raise ValueError(
                f"y has shape {y.shape}; in the first call it was (n, "
                f"*{self.mean.shape}). Pass as many outputs as then."
            )
        scaled = (y - self.mean) / self.scale
        return scaled.reshape(len(y), self.n_outputs).astype(np.float32)

    def decode(self, outputs):
        """Return the numbers of what the network gives."""
        return outputs.reshape(-1, *self.mean.shape) * self.scale + self.mean

    def weigh(self, y, class_weight, sample_weight=None):
        """There are no classes to weigh."""

    def solve(self, layer, features, codes, weights, class_weights, criterion):
        """As `Labels.solve`, by ridge regression; for squared errors."""
        if type(criterion) is not torch.nn.MSELoss:
            _warn_of(criterion, "ridge regression")
        solve_by_ridge(layer, features, codes, weights)

    def as_read_by(self, criterion, outputs):
        """Outputs, as they are."""
        return outputs


def _warn_of(criterion, solver):
    warn_caller(
        f"The head is fitted by {solver}, which does not follow "
        f"criterion={criterion!r}; only training by epochs does. To use this loss from "
        "the start, set strategy='full' or hidden_units.",
        UserWarning,
    )
