"""What a target means: one object per kind, asked by all that train, compare or show.

Another kind of target is another class with the same attributes and methods. Each says

* what it is called: `name`, `outputs`, `baseline_name`, `linear_name`; and which
  estimators predict it: `estimator`, the name of our own, and `estimator_type`,
  scikit-learn's word;
* what is scored, how rows are split, whether a prediction can be near the truth:
  `scoring`, `stratified`, `strata`, `has_scale`;
* what `y` may be, and what it holds: `recognises` (labels are what no other kind
  recognises), `check`, `learn`, `of_classes`; what some rows of it lack, and what they
  would need: `lack`, `complete`;
* how a network learns it: `n_outputs`, `loss`, `encode`, `weigh`, `weights_of`,
  `solve`, `as_read_by`; what a loss gets and which do, `codes_in_words` and `losses`,
  and which of torch's compute something else in silence: `unfit`;
* when two outputs mean the same: `agreement`, at most 1;
* how its outputs become predictions: `decode`, and where there are probabilities
  `probabilities`, `log_probabilities`, `choose`, `margins`, `align`;
* what models without a network learn: `columns`; and which do: `baseline`,
  `linear`, `svm`, `boosting`.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
)

from sktl._images.forms import refuse_single_image
from sktl._targets.head import (
    solve_by_logistic_regression,
    solve_by_ridge,
    solve_each_by_logistic_regression,
)
from sktl._targets.scaling import GlobalScaler
from sktl._utils.missing import is_missing
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


@dataclass(frozen=True, eq=False)
class Labels:
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
    losses = "torch.nn.CrossEntropyLoss, NLLLoss or MultiMarginLoss"
    unfit = (*OF_NUMBERS, *OF_SIGNS, torch.nn.MultiLabelSoftMarginLoss)
    has_scale = False
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
        return cls(list_classes(y))

    @classmethod
    def of_classes(cls, classes):
        """Learn from a list of all classes, before there are rows."""
        return cls.learn(cls.check(classes))

    @property
    def n_outputs(self):
        """Width of the head."""
        return len(self.classes)

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

    def loss(self, criterion):
        """Return the loss that a `criterion` stands for."""
        return criterion

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
        weights[self.encode(present)] = _weigh(class_weight, present, y, sample_weight)
        return weights

    def weights_of(self, codes, class_weights):
        """The class weight of each row."""
        return class_weights[codes]

    def solve(self, layer, rows, criterion, C):
        """Set the head's layer to where training would end.

        Parameters
        ----------
        layer : torch.nn.Linear
        rows : HeadRows
        criterion : torch.nn.Module
            The loss; its `weight` of each class is followed.
        C : float or "auto"
            Inverse of the penalty; of numbers it is always chosen.

        Warns
        -----
        UserWarning
            If it is another loss than that of logistic regression.
        """
        if not self._is_log_loss(criterion):
            _warn_of(criterion, "logistic regression")
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

    def _is_log_loss(self, criterion):
        if type(criterion) not in (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss):
            return False
        is_smooth = getattr(criterion, "label_smoothing", 0) != 0
        return not is_smooth and criterion.ignore_index not in range(self.n_outputs)

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
        of_all = np.zeros((len(probabilities), len(self.classes)))
        of_all[:, np.searchsorted(self.classes, known)] = probabilities
        return of_all

    def baseline(self):
        """Build a model that knows the labels alone."""
        return DummyClassifier()

    @staticmethod
    def linear():
        """Build the steps of a linear model, for features of any scale."""
        return [GlobalScaler(), LogisticRegression(max_iter=1000)]

    def svm(self):
        """Build a support vector machine, which scales all columns alike."""
        return SVC()

    def boosting(self):
        """Build boosted trees."""
        return GradientBoostingClassifier(**BOOSTING)


@dataclass(frozen=True, eq=False)
class Indicators:
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
    losses = "torch.nn.BCEWithLogitsLoss, MultiLabelSoftMarginLoss or MSELoss"
    unfit = OF_SIGNS
    has_scale = stratified = False
    complete = "rows with and without each tag"

    def __post_init__(self):
        if not np.array_equal(self.classes, np.arange(max(2, self.n_outputs))):
            raise ValueError("its tags are not numbered 0, 1 and so on")

    @staticmethod
    def recognises(y):
        """Whether `y` has a column per tag."""
        return _n_columns(y) > 1

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
    def of_classes(cls, classes):
        """Learn from a list of all tags, before there are rows."""
        return cls(np.arange(len(classes)))

    @property
    def n_outputs(self):
        """Width of the head."""
        return len(self.classes)

    def strata(self, y):
        """Number the rows by their rarest tag, so that few of them hold each tag."""
        order = np.argsort(y.sum(axis=0), kind="stable")
        tagged = y[:, order].astype(bool)
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

    def weigh(self, y, class_weight, sample_weight=None):
        """As `Labels.weigh`, by tag: weights of 0 and 1, of shape (2, n_tags)."""
        if class_weight is None:
            return None
        weights = np.ones((2, self.n_outputs))
        for column, tag in enumerate(y.T):
            present = np.unique(tag)
            weights[present, column] = _weigh(class_weight, present, tag, sample_weight)
        return weights

    def weights_of(self, codes, class_weights):
        """The class weight of each row and tag, of shape (n, n_tags)."""
        return np.take_along_axis(class_weights, codes.astype(int), axis=0)

    def solve(self, layer, rows, criterion, C):
        """As `Labels.solve`, by a logistic regression for each tag."""
        plain = type(criterion) in (torch.nn.BCEWithLogitsLoss, torch.nn.BCELoss)
        weighs = getattr(criterion, "pos_weight", None) is not None
        if not plain or weighs or criterion.weight is not None:
            _warn_of(criterion, "logistic regression")
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

    def margins(self, logits):
        """Return logits, one per tag."""
        return logits

    def align(self, probabilities, known):
        """Return probabilities as they are: each training part holds every tag."""
        return probabilities

    def baseline(self):
        """As `Labels.baseline`."""
        return DummyClassifier()

    @staticmethod
    def linear():
        """As `Labels.linear`, one model per tag; so are those below."""
        model = LogisticRegression(max_iter=1000)
        return [GlobalScaler(), OneVsRestClassifier(model)]

    def svm(self):
        """As `Labels.svm`."""
        return OneVsRestClassifier(SVC())

    def boosting(self):
        """As `Labels.boosting`."""
        return OneVsRestClassifier(GradientBoostingClassifier(**BOOSTING))


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

    name, outputs, estimator = "numbers", "outputs", "FineTunedCNNRegressor"
    baseline_name, linear_name = "mean of y", "ridge regression"
    estimator_type, scoring = "regressor", "r2"
    codes_in_words = "standard deviations from the mean"
    losses = "torch.nn.MSELoss, L1Loss or HuberLoss"
    unfit = (*OF_PROBABILITIES, *OF_SIGNS, torch.nn.PoissonNLLLoss)
    has_scale, stratified = True, False
    complete = "different numbers"

    def __post_init__(self):
        both = np.array([self.mean, self.scale])  # fails if their shapes differ
        if both.ndim > 2 or not np.isfinite(both).all() or np.any(both[1] <= 0):
            raise ValueError("its mean and scale are not means and deviations")

    @staticmethod
    def recognises(y):
        """Whether `y` can be nothing but numbers: fractions, or columns of others."""
        n_columns = _n_columns(y)
        if issparse(y) or not n_columns:
            return False
        values = np.asarray(y)
        if values.dtype.kind == "O" and all(isinstance(v, Real) for v in values.flat):
            values = values.astype(float)
        if values.dtype.kind not in "biuf":
            return False
        if n_columns > 1:
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

    def strata(self, y):
        """All rows are of one kind."""
        return np.zeros(len(y), dtype=int)

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

    def loss(self, criterion):
        """Return the loss that a `criterion` stands for."""
        return criterion

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

    def weigh(self, y, class_weight, sample_weight=None):
        """There are no classes to weigh."""

    def solve(self, layer, rows, criterion, C):
        """As `Labels.solve`, by ridge regression; for squared errors."""
        if type(criterion) is not torch.nn.MSELoss:
            _warn_of(criterion, "ridge regression")
        solve_by_ridge(layer, rows)

    def agreement(self, outputs, others):
        """R2 of other outputs; if these do not vary, whether both are equal."""
        error = np.sum((outputs - others) ** 2)
        variation = np.sum((outputs - outputs.mean(axis=0)) ** 2)
        return 1 - error / variation if variation else float(error == 0)

    def as_read_by(self, criterion, outputs):
        """Outputs, as they are."""
        return outputs

    def baseline(self):
        """As `Labels.baseline`."""
        return DummyRegressor()

    @staticmethod
    def linear():
        """As `Labels.linear`."""
        return [GlobalScaler(), RidgeCV(np.logspace(-6, 8, 57), alpha_per_target=True)]

    def svm(self):
        """As `Labels.svm`, in standard deviations, as its margin has no unit."""
        # An array comes out whatever scikit-learn's `transform_output` says.
        scaler = StandardScaler().set_output(transform="default")
        return TransformedTargetRegressor(self._per_output(SVR()), transformer=scaler)

    def boosting(self):
        """As `Labels.boosting`."""
        return self._per_output(GradientBoostingRegressor(**BOOSTING))

    def _per_output(self, regressor):
        return regressor if self.n_outputs == 1 else MultiOutputRegressor(regressor)


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
    check_consistent_length(X, y)
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
    check_classification_targets(y)
    return y


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


def _weigh(class_weight, classes, y, sample_weight):
    """As scikit-learn does, but weights that cannot be are refused."""
    weights = compute_class_weight(
        class_weight, classes=classes, y=y, sample_weight=sample_weight
    )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            f"class_weight={shown(class_weight)} must give each class a finite weight "
            "of 0 or more, and at least one class a weight above 0."
        )
    return weights


def _n_columns(y):
    """How many columns `y` has; 0 where it is no array of any shape."""
    if issparse(y):
        return y.shape[1]
    try:
        shape = np.asarray(y).shape
    except ValueError:  # rows of several lengths
        return 0
    return int(np.prod(shape[1:])) if shape else 0


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


def _warn_of(criterion, solver):
    warn_caller(
        f"The head is fitted by {solver}, which does not use "
        f"criterion={criterion!r}; only training by epochs does. To use this loss from "
        "the start, set strategy='full' or hidden_units.",
        UserWarning,
    )
