"""`compare_transfer`: every contender on the same folds, in one table. Numbers only."""

from os import PathLike

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from tqdm import tqdm

from sktl._classifier import FineTunedCNNClassifier
from sktl._displays import TransferComparisonDisplay
from sktl._extractor import PretrainedFeatureExtractor
from sktl._images import Geometry, fit_to, open_images


class TransferComparison:
    """Scores of several contenders on the same folds.

    Made by `compare_transfer`; `print` shows it as a table.

    Parameters
    ----------
    results : dict of str to ndarray
        As `results_`.
    scoring : str
        What the scores are.

    Attributes
    ----------
    results_ : dict of str to ndarray
        One entry per contender in each array: `contender`, `split<i>_test_score` for
        each fold, `mean_test_score`, `se_test_score` (standard error of the mean over
        folds), `mean_fit_time` and `mean_score_time` (seconds per fold).
    scoring_ : str
        What the scores are.

    See Also
    --------
    compare_transfer : Makes one.
    TransferComparisonDisplay : Draws one.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import TransferComparison
    >>> print(TransferComparison.from_folds(
    ...     {"raw pixels": {"test_score": np.array([0.7, 0.8]),
    ...                     "fit_time": np.array([0.1, 0.1]),
    ...                     "score_time": np.array([0.0, 0.0])}},
    ...     scoring="accuracy"))
    contender   accuracy     se  fit seconds
    raw pixels     0.750  0.050         0.10
    """

    def __init__(self, results, scoring):
        self.results_ = results
        self.scoring_ = scoring

    @classmethod
    def from_folds(cls, folds, scoring):
        """Summarise what `sklearn.model_selection.cross_validate` gives.

        Parameters
        ----------
        folds : dict of str to dict
            Contender to the dict that `cross_validate` returns.
        scoring : str
            What the scores are.

        Returns
        -------
        comparison : TransferComparison
        """
        scores = np.array([fold["test_score"] for fold in folds.values()])
        n_folds = scores.shape[1]
        results = {"contender": np.array(list(folds), dtype=object)}
        for i in range(n_folds):
            results[f"split{i}_test_score"] = scores[:, i]
        results["mean_test_score"] = scores.mean(axis=1)
        results["se_test_score"] = scores.std(axis=1, ddof=1) / np.sqrt(n_folds)
        for name in ("fit_time", "score_time"):
            results[f"mean_{name}"] = np.array([f[name].mean() for f in folds.values()])
        return cls(results, scoring)

    def to_frame(self):
        """Return `results_` as a pandas DataFrame, one row per contender.

        Returns
        -------
        frame : pandas.DataFrame
            Indexed by contender. Needs pandas.
        """
        import pandas as pd

        return pd.DataFrame(self.results_).set_index("contender")

    def plot(self, ax=None):
        """Draw mean scores with their standard errors.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            None makes a new figure. Needs matplotlib.

        Returns
        -------
        display : TransferComparisonDisplay
        """
        return TransferComparisonDisplay.from_results(self).plot(ax=ax)

    def __str__(self):
        names = [str(name) for name in self.results_["contender"]]
        width = max(map(len, [*names, "contender"]))
        head = max(len(self.scoring_), 8)
        lines = [f"{'contender':{width}}  {self.scoring_:>{head}}     se  fit seconds"]
        rows = zip(
            names,
            self.results_["mean_test_score"],
            self.results_["se_test_score"],
            self.results_["mean_fit_time"],
            strict=True,
        )
        lines += [
            f"{name:{width}}  {mean:{head}.3f}  {error:5.3f}  {seconds:11.2f}"
            for name, mean, error, seconds in rows
        ]
        return "\n".join(lines)

    __repr__ = __str__


def compare_transfer(
    X,
    y,
    contenders="default",
    *,
    backbone="sktl_mini",
    cv=5,
    scoring=None,
    groups=None,
    n_jobs=None,
    random_state=None,
    verbose=0,
):
    """Compare transfer with training from scratch and with classical models.

    Every contender is fitted and scored on the same folds. The images pass the frozen
    network once for all of them.

    Parameters
    ----------
    X : array-like or sequence of images
        In any form that `PretrainedFeatureExtractor.transform` takes.
    y : array-like of shape (n_samples,)
        Labels.
    contenders : "default" or dict of str to estimator, default="default"
        What is compared. `"default"`: the most frequent class; logistic regression
        and SVM on raw pixels; logistic regression on features of the untrained
        network; logistic regression and SVM on frozen features; the fine-tuned
        network; the same network from scratch.
    backbone : str or torch.nn.Module, default="sktl_mini"
        The network of the default contenders.
    cv : int, splitter or iterable of splits, default=5
        An int means stratified folds in the order of `X`.
    scoring : str, callable or None, default=None
        One score; None is accuracy.
    groups : array-like of shape (n_samples,) or None, default=None
        Given to the splitter: rows of one group stay together.
    n_jobs : int or None, default=None
        Folds run at the same time. More processes need `cache=<directory>` to share
        features.
    random_state : int, RandomState instance or None, default=None
        Given to every part of a contender that has a `random_state` of None.
    verbose : int, default=0
        Positive values show a progress bar.

    Returns
    -------
    comparison : TransferComparison

    Raises
    ------
    ValueError
        If `contenders` is neither "default" nor a dict of estimators with names, or
        there are fewer than two splits.
    Exception
        Whatever a contender raises on a fold, with a note that names the contender.

    Notes
    -----
    Time: one pass of all images through the network, and the fits. The first contender
    that uses a network pays for that pass in its fit seconds; the others find the
    features in the store. `X` is opened by the contenders: for rows that are no square
    picture pass contenders with `image_shape`.

    Differences between contenders on the same folds are paired; standard errors of
    means over overlapping training sets are too small (Nadeau & Bengio, Machine
    Learning 2003).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import PretrainedFeatureExtractor, compare_transfer
    >>> X, y = load_digits(return_X_y=True)
    >>> report = compare_transfer(X[:200], y[:200], {
    ...     "raw pixels": LogisticRegression(max_iter=1000),
    ...     "frozen features": make_pipeline(
    ...         PretrainedFeatureExtractor(), LogisticRegression(max_iter=1000)),
    ... })
    >>> report.results_["mean_test_score"].shape
    (2,)
    """
    if isinstance(X, str | bytes | PathLike):
        raise TypeError(f"X={X!r} is one name; pass a list of pictures, one per label.")
    check_consistent_length(X, y)
    contenders = _check_contenders(contenders, backbone)
    rng = check_random_state(random_state)
    seed = None if random_state is None else int(rng.randint(2**31))
    splits = list(check_cv(cv, y, classifier=True).split(X, y, groups))
    if len(splits) < 2:
        raise ValueError(
            f"cv={cv!r} gives {len(splits)} split; a standard error needs at least 2."
        )
    folds = {}
    with tqdm(contenders.items(), disable=not verbose, unit="contender") as bar:
        for name, contender in bar:
            bar.set_description(str(name))
            try:
                folds[name] = cross_validate(
                    _seed(contender, seed),
                    X,
                    y,
                    cv=splits,
                    scoring=scoring,
                    n_jobs=n_jobs,
                    error_score="raise",
                )
            except Exception as error:
                error.add_note(f"It was contender {name!r} that failed.")
                raise
    return TransferComparison.from_folds(folds, _scoring_name(scoring))


def _check_contenders(contenders, backbone):
    """Return the contenders by name."""
    if isinstance(contenders, str) and contenders == "default":
        return default_contenders(backbone)
    if not isinstance(contenders, dict) or not contenders:
        raise ValueError(
            f"contenders={contenders!r} must be 'default' or a dict of name to "
            "scikit-learn estimator with at least one entry."
        )
    for name, contender in contenders.items():
        if isinstance(contender, type) or not hasattr(contender, "fit"):
            raise ValueError(
                f"contenders[{name!r}]={contender!r} must be a scikit-learn estimator, "
                "an instance with a fit method."
            )
    return contenders


def default_contenders(backbone="sktl_mini"):
    """Build the contenders of `compare_transfer`, by name."""
    frozen = PretrainedFeatureExtractor(backbone)
    untrained = PretrainedFeatureExtractor(backbone, weights=None)
    return {
        "most frequent class": DummyClassifier(),
        "raw pixels + logistic regression": _linear(RawPixels()),
        "raw pixels + SVM": _svm(RawPixels()),
        "untrained network + logistic regression": _linear(untrained),
        "frozen features + logistic regression": _linear(frozen),
        "frozen features + SVM": _svm(frozen),
        "fine-tuned network": FineTunedCNNClassifier(backbone),
        # Random weights need more epochs than pretrained ones.
        "network from scratch": FineTunedCNNClassifier(
            backbone, strategy="scratch", max_epochs=40
        ),
    }


class RawPixels(TransformerMixin, BaseEstimator):
    """Images as rows of their own pixels, at most `side` pixels a side.

    Pictures of one size that fits are left as they are; others are squeezed into a
    square. Pictures without colour give one number per pixel.
    """

    def __init__(self, side=32):
        self.side = side

    def fit(self, X, y=None):
        """Learn the range of values, the size, and whether there is colour."""
        images = open_images(X)
        self.value_range_ = images.value_range
        pictures = [picture.pixels() for picture in images]
        shapes = {picture.shape for picture in pictures}
        fits = len(shapes) == 1 and max(min(shapes)[:2]) <= self.side
        self.shape_ = min(shapes) if fits else None
        self.is_grey_ = all((p == p[..., :1]).all() for p in pictures)
        return self

    def transform(self, X):
        """Return floats between 0 and 1, one row per image."""
        check_is_fitted(self)
        images = open_images(X, learnt_range=self.value_range_, fitted=True)
        return np.stack([self._row(picture.pixels()) for picture in images])

    def _row(self, pixels):
        if pixels.shape != self.shape_:
            geometry = Geometry(resize=self.side, crop=self.side, stretch=True)
            pixels = fit_to(pixels, geometry)
        channels = pixels[..., :1] if self.is_grey_ else pixels
        return channels.reshape(-1) / 255


def _linear(features):
    return make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=1000))


def _svm(features):
    return make_pipeline(features, StandardScaler(), SVC())


def _seed(estimator, seed):
    """A clone in which every `random_state` that was left open is `seed`."""
    estimator = clone(estimator)
    open_ = [
        name
        for name, value in estimator.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    return estimator.set_params(**dict.fromkeys(open_, seed))


def _scoring_name(scoring):
    if scoring is None:
        return "accuracy"
    return getattr(scoring, "__name__", "score") if callable(scoring) else scoring
