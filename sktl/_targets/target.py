"""What a target is, whatever its kind."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.dummy import DummyClassifier
from sklearn.utils.class_weight import compute_class_weight

from sktl._utils.printable import shown
from sktl._utils.warning import warn_caller

# With few rows and many columns, histograms are no faster and less accurate.
BOOSTING = {"max_features": "sqrt"}
# Losses of torch by what their targets are. With other targets, some compute something
# else in silence: with class numbers, if a batch has as many rows as there are classes;
# with numbers, zero.
OF_NUMBERS = (
    torch.nn.HuberLoss,
    torch.nn.L1Loss,
    torch.nn.MSELoss,
    torch.nn.PoissonNLLLoss,
    torch.nn.SmoothL1Loss,
)
OF_PROBABILITIES = (
    torch.nn.BCELoss,
    torch.nn.BCEWithLogitsLoss,
    torch.nn.CrossEntropyLoss,
    torch.nn.KLDivLoss,
    torch.nn.MultiLabelSoftMarginLoss,
    torch.nn.NLLLoss,
)
OF_SIGNS = (torch.nn.HingeEmbeddingLoss, torch.nn.SoftMarginLoss)  # -1 and 1


class Target(ABC):
    """What `y` means: asked by all that train, compare, select or show.

    A kind of target is a subclass, and what `fit` has seen is an object of it. Kinds
    that are classes have `classes`, an array, and besides what is here: `from_classes`,
    which learns from a list of all classes before there are rows; `weights_by_row`, the
    class weight of each row; and, for a network's outputs, `probabilities`,
    `log_probabilities` and `choose`.

    Attributes
    ----------
    name, outputs : str
        What the kind and its values are called: "labels", "classes".
    baseline_name, linear_name : str
        What the models of `baseline` and `linear` are called.
    estimator, estimator_type : str
        The class of ours that predicts it, and scikit-learn's word for what does.
    scoring : str
        The score by default.
    codes_in_words, suggested_losses : str
        What a loss gets, and which losses do, for messages.
    refused_losses : tuple of type
        Losses of torch that would compute something else in silence.
    complete : str
        What test parts have to hold, for messages.
    has_scale : bool
        Whether a prediction can be near the truth.
    stratified : bool
        Whether each row is of one class, whose shares splits keep.
    """

    has_scale = stratified = False

    # ---- what `y` may be, and what it holds

    @staticmethod
    @abstractmethod
    def check(y):
        """Return `y` as an array, or say in which row something is wrong."""

    @classmethod
    @abstractmethod
    def learn(cls, y, sample_weight=None):
        """Learn from a checked `y`, or say why nothing can be learnt from it."""

    @abstractmethod
    def lack(self, y):
        """Say what some rows lack to be scored; "" if nothing."""

    def strata(self, y):
        """Number the rows by stratum: small subsets keep the shares of the strata."""
        return np.zeros(len(y), dtype=int)

    # ---- how a network learns it

    @property
    def n_outputs(self):
        """Width of the head."""
        return len(self.classes)

    @abstractmethod
    def encode(self, y):
        """Return what the loss reads."""

    @abstractmethod
    def decode(self, codes):
        """Return what `y` was."""

    def loss(self, criterion):
        """Return the loss that a `criterion` stands for."""
        return criterion

    def as_read_by(self, criterion, outputs):
        """Turn a network's outputs into what a loss reads."""
        return outputs

    def class_weights(self, y, class_weight, sample_weight=None):
        """Return the weight of each class; None where all are equal.

        Parameters
        ----------
        y : ndarray of shape (n,) or (n, n_tags)
            Checked.
        class_weight : dict, "balanced" or None
        sample_weight : ndarray of shape (n,) or None

        Returns
        -------
        weights : ndarray of shape (n_classes,), of tags (2, n_tags), or None
        """
        return None

    @abstractmethod
    def solve(self, layer, rows, criterion, C):
        """Set the head's layer to where training would end.

        Parameters
        ----------
        layer : torch.nn.Linear
        rows : HeadRows
        criterion : torch.nn.Module
            The loss.
        C : float or "auto"
            Inverse of the penalty; of numbers it is always chosen.

        Warns
        -----
        UserWarning
            If the loss is another one than is minimised here.
        """

    # ---- what outputs mean

    @abstractmethod
    def agreement(self, outputs, others):
        """How far two sets of outputs say the same: at most 1."""

    def margins(self, logits):
        """Return logits as scikit-learn shapes them."""
        return logits

    def align(self, probabilities, known):
        """Give classes that a training part did not hold a probability of zero.

        Parameters
        ----------
        probabilities : ndarray of shape (n, n_known)
        known : ndarray of shape (n_known,)
            The classes that the columns are of.

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes)
        """
        return probabilities

    # ---- models without a network

    @abstractmethod
    def columns(self, y):
        """Return what a linear model would predict, in one column or several."""

    def baseline(self):
        """Build a model that knows `y` alone."""
        return DummyClassifier()

    @staticmethod
    @abstractmethod
    def linear():
        """Build the steps of a linear model, for features of any scale."""

    @abstractmethod
    def svm(self):
        """Build a support vector machine, which scales all columns alike."""

    @abstractmethod
    def boosting(self):
        """Build boosted trees."""


def weights_of_present(class_weight, classes, y, sample_weight):
    """The weights of the classes that are in `y`, or why they cannot be."""
    weights = compute_class_weight(
        class_weight, classes=classes, y=y, sample_weight=sample_weight
    )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            f"class_weight={shown(class_weight)} must give each class a finite weight "
            "of 0 or more, and at least one class a weight above 0."
        )
    return weights


def warn_of_loss(criterion, solver, *arguments, instead=""):
    """Warn that a fitted head does not follow this loss, or these arguments of it."""
    values = [f"{name}={shown(getattr(criterion, name))}" for name in arguments]
    with_ = f" with {' and '.join(values)}" if values else ""
    warn_caller(
        f"The head is fitted by {solver}, which does not use "
        f"criterion={criterion!r}{with_}; only training by epochs does. To use this "
        f"loss from the start, set strategy='full' or hidden_units.{instead}",
        UserWarning,
    )


def n_columns(y):
    """How many columns `y` has; 0 where it is no array of any shape."""
    if issparse(y):
        return y.shape[1]
    try:
        shape = np.asarray(y).shape
    except ValueError:  # rows of several lengths
        return 0
    return int(np.prod(shape[1:])) if shape else 0
