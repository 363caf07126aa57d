"""Indicators: any number of tags per image."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from sktl._global_scaler import GlobalScaler
from sktl._targets.linear_head import solve_each_by_logistic_regression
from sktl._targets.target import (
    BOOSTING,
    OF_SIGNS,
    Target,
    n_columns,
    warn_of_loss,
    weights_of_present,
)
from sktl._utils.missing import is_missing
from sktl._utils.printable import shown
from sktl._utils.warning import warn_caller


@dataclass(frozen=True, eq=False)
class Indicators(Target):
    """Any number of tags per image: a column per tag, 1 where an image has it.

    Parameters
    ----------
    classes : ndarray of shape (n_tags,)
        The numbers of the columns, as scikit-learn's `MLPClassifier` has them.
    """

    classes: np.ndarray

    name, outputs, estimator = "indicators", "tags", "FineTunedCNNClassifier"
    baseline_name, linear_name = "most frequent tags", "logistic regression"
    estimator_type = "classifier"
    scoring = "average_precision"  # mean over tags, as usual for tagged images
    codes_in_words = "zeros and ones"
    suggested_losses = "torch.nn.BCEWithLogitsLoss, MultiLabelSoftMarginLoss or MSELoss"
    refused_losses = OF_SIGNS
    complete = "rows with and without each tag"

    def __post_init__(self):
        if not np.array_equal(self.classes, np.arange(max(2, self.n_outputs))):
            raise ValueError("its tags are not numbered 0, 1 and so on")

    @staticmethod
    def recognises(y):
        """Whether `y` has a column per tag."""
        return n_columns(y) > 1

    @staticmethod
    def check(y):
        """Return `y` as zeros and ones, or say where there is something else.

        Returns
        -------
        y : ndarray of shape (n, n_tags), dtype int64
        """
        y = np.asarray(y.toarray() if issparse(y) else y)
        if y.ndim != 2 or y.shape[1] < 2:
            raise ValueError(
                f"y has shape {y.shape}. Indicators have a row per image and a column "
                "per tag, for at least two tags. For one label per image, pass a 1-D y."
            )
        plain = y
        if y.dtype.kind == "O":  # pandas' NA cannot be compared
            plain = [None if is_missing(value) else value for value in y.flat]
            plain = np.array(plain, dtype=object).reshape(y.shape)
        wrong = np.argwhere(~np.isin(plain, (0, 1)))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(
                f"y holds {shown(y[row].tolist()[column])} in row {row}, column "
                f"{column}. Indicators are 0 or 1, with a column per tag. For numbers, "
                "use FineTunedCNNRegressor; for one label per image, pass a 1-D y; to "
                "turn lists of labels into indicators, use MultiLabelBinarizer."
            )
        if len(y) > y.shape[1] and (y.sum(axis=1) == 1).all():
            warn_caller(
                "y holds exactly one 1 in each row. It is read as indicators, a column "
                "per tag. If you mean one label per image, pass y.argmax(axis=1).",
                UserWarning,
            )
        return y.astype(np.int64)

    @classmethod
    def learn(cls, y, sample_weight=None):
        """Learn how many tags there are; each must be on in some rows, not in all."""
        for value in (1, 0):
            empty = np.flatnonzero(~(y == value).any(axis=0))
            if len(empty):
                raise ValueError(
                    f"y holds no {value} in column(s) {empty[:5].tolist()}, so there "
                    "is nothing to learn about these tags. Leave these columns out, or "
                    "add images with other values in them."
                )
        return cls(np.arange(y.shape[1]))

    @classmethod
    def from_classes(cls, classes):
        """Learn from a list of all tags, before there are rows."""
        return cls(np.arange(len(classes)))

    def strata(self, y):
        """Number the rows by their rarest tag, or tag that is rarely missing."""
        rarer = np.where(2 * y.sum(axis=0) > len(y), 1 - y, y)
        order = np.argsort(rarer.sum(axis=0), kind="stable")
        tagged = rarer[:, order].astype(bool)
        return np.where(tagged.any(axis=1), tagged.argmax(axis=1), y.shape[1])

    def lack(self, y):
        """Say which tags none of some rows, or all of them, have; "" if none."""
        for value in (1, 0):
            empty = np.flatnonzero(~(y == value).any(axis=0)).tolist()
            if empty:
                return f"hold no {value} in column(s) {empty[:5]} of y"
        return ""

    def columns(self, y):
        """Return what a linear model would predict: the indicators."""
        return y.astype(float)

    def loss(self, criterion):
        """Return the loss that a `criterion` stands for: of tags, the binary one."""
        if criterion is torch.nn.CrossEntropyLoss:
            return torch.nn.BCEWithLogitsLoss
        return criterion

    def encode(self, y):
        """Return what the loss reads: the indicators as float32."""
        if y.shape[1] != self.n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} columns, but there are {self.n_outputs} tags: as "
                "many as in the first y, or in classes= in the first call of "
                "partial_fit. Pass a column for each."
            )
        return y.astype(np.float32)

    def decode(self, codes):
        """Return indicators as scikit-learn has them."""
        return codes.astype(np.int64)

    def class_weights(self, y, class_weight, sample_weight=None):
        """By tag: weights of 0 and 1."""
        if class_weight is None:
            return None
        weights = np.ones((2, self.n_outputs))
        for column, tag in enumerate(y.T):
            present = np.unique(tag)
            weights[present, column] = weights_of_present(
                class_weight, present, tag, sample_weight
            )
        return weights

    def weights_by_row(self, codes, class_weights):
        """The class weight of each row and tag, of shape (n, n_tags)."""
        return np.take_along_axis(class_weights, codes.astype(int), axis=0)

    def solve(self, layer, rows, criterion, C):
        """By a logistic regression for each tag."""
        plain = type(criterion) in (torch.nn.BCEWithLogitsLoss, torch.nn.BCELoss)
        weights = ("weight", "pos_weight") if plain else ()
        unused = [n for n in weights if getattr(criterion, n, None) is not None]
        if unused:
            instead = " class_weight, such as {0: 1, 1: 5}, is used by both."
            warn_of_loss(criterion, "logistic regression", *unused, instead=instead)
        elif not plain:
            warn_of_loss(criterion, "logistic regression")
        solve_each_by_logistic_regression(layer, rows, C)

    def as_read_by(self, criterion, logits):
        """Turn logits into what a loss reads: `BCELoss` reads probabilities."""
        if isinstance(criterion, torch.nn.BCELoss):
            return torch.sigmoid(logits)
        return logits

    def probabilities(self, logits):
        """Map logits `(n, n_tags)` to the probability of each tag, which is never 1."""
        below_one = 1 - torch.finfo(logits.dtype).eps / 2
        return torch.sigmoid(logits).clamp(max=below_one)

    def log_probabilities(self, logits):
        """Map logits to the logarithms of probabilities."""
        return torch.nn.functional.logsigmoid(logits)

    def agreement(self, outputs, others):
        """The share of the tags in either of two sets of outputs that are in both."""
        on, others_on = outputs > 0, others > 0
        either = on | others_on
        return np.mean(on[either] == others_on[either]) if either.any() else 1.0

    def choose(self, probabilities):
        """Return indicators of the tags that are more probable than not."""
        return (probabilities > 0.5).astype(np.int64)

    @staticmethod
    def linear():
        """One model per tag; so are those below."""
        model = LogisticRegression(max_iter=1000)
        return [GlobalScaler(), OneVsRestClassifier(model)]

    def svm(self):
        return OneVsRestClassifier(SVC())

    def boosting(self):
        return OneVsRestClassifier(GradientBoostingClassifier(**BOOSTING))
