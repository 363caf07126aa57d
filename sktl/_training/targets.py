"""What a target means: one object per kind, asked by whoever trains or predicts.

Another kind of target is another object with the same attributes and methods, and a
second face beside `FineTunedCNNClassifier`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from sktl._training.head import solve_by_logistic_regression
from sktl._training.labels import check_labels, encode, list_classes
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
    def learn(cls, y):
        """Learn the classes from checked labels; there must be two or more."""
        return cls(list_classes(y))

    @property
    def n_outputs(self):
        """Width of the head."""
        return len(self.classes)

    def encode(self, y):
        """Return what the loss reads: the number of each label's class."""
        return encode(y, self.classes)

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
            warn_caller(
                "The head is solved by logistic regression, which does not follow "
                f"criterion={criterion!r}; only epochs do. To begin with the loss, use "
                "strategy='full', or hidden_units.",
                UserWarning,
            )
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
