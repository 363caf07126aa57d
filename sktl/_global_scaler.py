"""One scale for all features of a network."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)


class GlobalScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Subtract each feature's mean, and divide all features by one common number.

    Afterwards the mean of their variances is 1. Put it between a network and the model
    that reads its features. One network's features differ from another's in scale, and
    those of random weights can be a billion times smaller. Linear models and trees then
    learn nothing from them: the penalty of `LogisticRegression` or `Ridge` outweighs
    them, and trees ignore differences below 1e-7. With this scaler, a pretrained and an
    untrained network are compared by what their features say. Models that adapt to the
    scale, such as `SVC` or nearest neighbours, do not need it.

    `sklearn.preprocessing.StandardScaler` divides each feature by its own standard
    deviation. With few images, that magnifies features that hardly vary among them. If
    these vary in new images, predictions are far off. With five images of each of two
    classes, it cost logistic regression 3 to 6 points of accuracy. It is the right one
    for numbers of different units, and worth a try with hundreds of images per class.

    Features of several layers keep their proportions, so those of the layer that varies
    most decide on the common number. Rows with missing values (of unreadable images)
    are left out in `fit`; in `transform`, missing values stay missing. `fit` needs one
    pass over the features, and memory for a copy of them in float64.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,), dtype float64
        Mean of each feature.
    scale_ : float
        The common number: the root of the mean variance; 1 if no feature varies.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where `X` has names that are all strings.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import GlobalScaler
    >>> GlobalScaler().fit_transform(np.array([[1e-9, 0.0], [3e-9, 0.0]]))
    array([[-1.41421356,  0.        ],
           [ 1.41421356,  0.        ]])

    Between a network and a linear model:

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import PretrainedFeatureExtractor
    >>> network = PretrainedFeatureExtractor("sktl_mini", weights=None)
    >>> model = make_pipeline(network, GlobalScaler(), LogisticRegression())
    """

    def fit(self, X, y=None, sample_weight=None):
        """Learn the mean of each feature, and the scale of all.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,) or None
            A weight of k is the same as k equal rows.

        Returns
        -------
        self : GlobalScaler
        """
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        weights = _check_sample_weight(sample_weight, X)
        known = ~np.isnan(X).any(axis=1)
        if not known.any():
            raise ValueError(
                f"Each of the {len(X)} row(s) of X holds missing values (NaN). Pass at "
                "least one row without them."
            )
        X, weights = X[known], weights[known]
        self.mean_ = np.average(X, axis=0, weights=weights)
        of_rows = np.mean((X - self.mean_) ** 2, axis=1)
        self.scale_ = float(np.sqrt(np.average(of_rows, weights=weights))) or 1.0
        return self

    def transform(self, X):
        """Subtract the means, and divide.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), dtype float64
        """
        check_is_fitted(self)
        X = validate_data(
            self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
        )
        return (X - self.mean_) / self.scale_

    def inverse_transform(self, X):
        """Undo the scaling.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), dtype float64
        """
        check_is_fitted(self)
        return np.asarray(X, dtype=np.float64) * self.scale_ + self.mean_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
