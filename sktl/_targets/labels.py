"""Labels: one class per image."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sktl._global_scaler import GlobalScaler
from sktl._targets.linear_head import solve_by_logistic_regression
from sktl._targets.target import (
    BOOSTING,
    OF_NUMBERS,
    OF_SIGNS,
    Target,
    warn_of_loss,
    weights_of_present,
)
from sktl._utils.missing import is_missing
from sktl._utils.printable import shown
from sktl._utils.warning import silenced, warn_caller


@dataclass(frozen=True, eq=False)
class Labels(Target):
    """One label per image, of any kind that has an order: strings, numbers, bools.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        In order.
    """

    classes: np.ndarray

    name, outputs, estimator = "labels", "classes", "FineTunedCNNClassifier"
    baseline_name, linear_name = "most frequent class", "logistic regression"
    estimator_type, scoring = "classifier", "accuracy"
    codes_in_words = "class numbers"
    suggested_losses = "torch.nn.CrossEntropyLoss, NLLLoss or MultiMarginLoss"
    refused_losses = (*OF_NUMBERS, *OF_SIGNS, torch.nn.MultiLabelSoftMarginLoss)
    stratified = True  # each row is of one class, and splits keep their shares
    complete = "each class"

    def __post_init__(self):
        if not np.array_equal(self.classes, list_classes(self.classes)):
            raise ValueError("its classes are not sorted, or one occurs twice")

    @staticmethod
    def check(y):
        """Return `y` as an array of labels, or say in which row there is none."""
        return check_labels(y)

    @classmethod
    def learn(cls, y, sample_weight=None):
        """Learn the classes from checked labels; there must be two or more."""
        _warn_of_numbers(y)
        return cls(list_classes(y))

    @classmethod
    def from_classes(cls, classes):
        """Learn from a list of all classes, before there are rows."""
        return cls(list_classes(check_labels(classes)))

    def strata(self, y):
        """Number the rows by stratum; small subsets keep the shares of the strata."""
        return np.unique(y, return_inverse=True)[1]

    def lack(self, y):
        """Say which classes some rows lack; "" if none."""
        missing = np.setdiff1d(self.classes, y).tolist()
        if len(missing) == self.n_outputs - 1:
            return f"hold only class {shown(y.tolist()[0])}"
        return f"do not hold class(es) {shown(missing[:5])}" if missing else ""

    def columns(self, y):
        """Return what a linear model would predict: a column of 0 and 1 per class."""
        return np.eye(self.n_outputs)[self.encode(y)]

    def encode(self, y):
        """Return what the loss reads: the number of each label's class."""
        unknown = np.setdiff1d(y, self.classes)
        if len(unknown):
            raise ValueError(
                f"y holds {shown(unknown.tolist())}, which the classes "
                f"{shown(self.classes.tolist())} leave out. Classes are those of the "
                "first y, or of classes= in the first call of partial_fit. Pass all "
                "labels there, or leave these rows out."
            )
        return np.searchsorted(self.classes, y)

    def decode(self, codes):
        """Return the labels of class numbers."""
        return self.classes[codes]

    def class_weights(self, y, class_weight, sample_weight=None):
        if class_weight is None:
            return None
        present = np.unique(y)
        weights = np.ones(self.n_outputs)
        weights[self.encode(present)] = weights_of_present(
            class_weight, present, y, sample_weight
        )
        return weights

    def weights_by_row(self, codes, class_weights):
        """The class weight of each row."""
        return class_weights[codes]

    def solve(self, layer, rows, criterion, C):
        unused = []
        is_log_loss = type(criterion) in (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)
        if is_log_loss and getattr(criterion, "label_smoothing", 0) != 0:
            unused.append("label_smoothing")
        if is_log_loss and criterion.ignore_index in range(self.n_outputs):
            unused.append("ignore_index")
        if unused or not is_log_loss:
            warn_of_loss(criterion, "logistic regression", *unused)
        elif criterion.weight is not None:
            rows = rows.weighted(self._weights_in(criterion)[rows.codes])
        solve_by_logistic_regression(layer, rows, C)

    def _weights_in(self, criterion):
        """The weight of each class that the user gave to the loss."""
        of_loss = criterion.weight.detach().cpu().double().numpy()
        if of_loss.shape != self.classes.shape:
            raise ValueError(
                f"criterion__weight has shape {of_loss.shape}, but y has "
                f"{self.n_outputs} classes. Pass one weight for each, in the order "
                f"of {shown(self.classes.tolist())}."
            )
        return of_loss

    def as_read_by(self, criterion, logits):
        """Turn logits into what a loss reads: `NLLLoss` reads log-probabilities."""
        if isinstance(criterion, torch.nn.NLLLoss):
            return torch.log_softmax(logits, dim=-1)
        return logits

    def probabilities(self, logits):
        """Map logits `(n, n_classes)` to probabilities of the same shape."""
        return torch.softmax(logits, dim=-1)

    def log_probabilities(self, logits):
        """Map logits to the logarithms of probabilities."""
        return torch.log_softmax(logits, dim=-1)

    def agreement(self, outputs, others):
        """Share of the rows for which two sets of outputs say the same."""
        return np.mean(outputs.argmax(axis=1) == others.argmax(axis=1))

    def choose(self, probabilities):
        """Return the most probable class numbers."""
        return probabilities.argmax(axis=1)

    def margins(self, logits):
        """Return logits as scikit-learn shapes them: the difference of two classes."""
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def align(self, probabilities, known):
        of_all = np.zeros((len(probabilities), len(self.classes)))
        of_all[:, np.searchsorted(self.classes, known)] = probabilities
        return of_all

    @staticmethod
    def linear():
        return [GlobalScaler(), LogisticRegression(max_iter=1000)]

    def svm(self):
        return SVC()

    def boosting(self):
        return GradientBoostingClassifier(**BOOSTING)


def check_labels(y):
    """Return the labels as an array, or say in which row there is none.

    Parameters
    ----------
    y : array-like of shape (n,)

    Returns
    -------
    labels : ndarray of shape (n,)
        Of numbers or bools where objects are these.
    """
    if y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None. Pass "
            "one label per image."
        )
    _refuse_lists(y)
    # NumPy would turn what stands beside strings, such as NaN, into strings.
    is_list = isinstance(y, list | tuple)
    y = column_or_1d(np.array(y, dtype=object) if is_list else y, warn=True)
    missing = [i for i, label in enumerate(y) if is_missing(label)]
    if missing:
        raise ValueError(
            f"y holds no label (None or NaN) in {len(missing)} row(s), first in row "
            f"{missing[0]}. Label these rows, or leave them out."
        )
    if y.dtype.kind == "O":
        texts = {_kind_of_text(label) for label in y}
        if len(texts) > 1:
            kinds = sorted({type(label).__name__ for label in y})
            raise ValueError(
                f"y mixes labels of the types {', '.join(kinds)}, which cannot be "
                "sorted. Convert them to one type."
            )
        y = np.array(y.tolist()) if is_list or texts == {None} else y
        if y.dtype.kind == "O" and texts == {None}:
            raise ValueError(
                f"y holds {shown(y[0])} in row 0, a {type(y[0]).__name__}, which is "
                "not a label. Labels are strings, whole numbers or bools."
            )
    if y.dtype.kind == "f" and np.isinf(y).any():
        raise ValueError(
            f"y holds infinity in row {np.flatnonzero(np.isinf(y))[0]}, which is not "
            "a label. Label this row, or leave it out."
        )
    # It says that of names too, and at a line of ours.
    with silenced("The number of unique classes"):
        check_classification_targets(y)
    return y


def _warn_of_numbers(y):
    """Warn of labels that may be numbers to predict, by scikit-learn's rule."""
    n_classes = len(np.unique(y))
    if y.dtype.kind in "iuf" and len(y) > 20 and n_classes > len(y) / 2:
        warn_caller(
            f"y holds {n_classes} different numbers in {len(y)} rows, and each is "
            "taken for a class. If they are numbers to predict, such as prices, use "
            "FineTunedCNNRegressor, or pass target='numbers' to compare_transfer, "
            "probe_layers or rank_backbones.",
            UserWarning,
            about="many classes",
        )


def _kind_of_text(label):
    return next((kind for kind in (str, bytes) if isinstance(label, kind)), None)


def _refuse_lists(y):
    """Refuse a list of labels per row, and say what to pass instead."""
    rows = y.tolist() if getattr(y, "ndim", 0) == 1 and hasattr(y, "tolist") else y
    for row, labels in enumerate(rows if isinstance(rows, list | tuple) else ()):
        is_column = isinstance(labels, list | tuple) and len(labels) == 1
        if isinstance(labels, list | tuple | set | frozenset) and not is_column:
            raise ValueError(
                f"y holds a {type(labels).__name__} of labels in row {row}: "
                f"{shown(labels)}. Turn them into indicators, a column of 0 and 1 per "
                "label: sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
            )


def list_classes(labels):
    """Return the different labels in order; there must be two or more."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(
            f"y holds only 1 class, {classes.tolist()}; at least 2 classes are needed. "
            "Was X sorted and then cut?"
        )
    return classes
