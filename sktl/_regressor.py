"""`FineTunedCNNRegressor`: images in, numbers out, by fine-tuning a network."""

import numpy as np
from sklearn.utils.metaestimators import available_if
from skorch import NeuralNetRegressor

from sktl._saving.model_file import SavedMixin
from sktl._targets.kinds import Numbers
from sktl._training.fine_tuning import FineTunedNet, has_epochs
from sktl._training.net import holds_rows
from sktl._utils.fit_tasks import with_callbacks
from sktl._utils.partitions import takes_collections
from sktl._utils.printable import shown
from sktl._utils.warning import warn_caller


@takes_collections("predict")
class FineTunedCNNRegressor(SavedMixin, FineTunedNet, NeuralNetRegressor):
    """Predict numbers from images by fine-tuning a pretrained network.

    Like `FineTunedCNNClassifier`, with the same parameters except `C` and
    `class_weight`. The head is fitted in closed form, by ridge regression, with a
    penalty chosen by leave-one-out cross-validation. Each column of `y` is standardised
    to mean 0 and standard deviation 1 before training, so that `lr` and losses do not
    depend on the unit of `y`.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_photo"
        A name of `list_backbones()`, such as `"sktl_mini"` for small images; or a
        network that `torch.fx` can trace.
    weights, strategy, unfreeze_from, reinit_from, hidden_units, dropout : object
        Which network, and which part of it is trained: as in `FineTunedCNNClassifier`,
        like all parameters below without a full description.
    lr, backbone_lr_ratio, layer_decay, lr_schedule, initial_share : object
    max_epochs, batch_size, augment : object
        How it is trained. `augment="auto"` includes `"flip"` if predictions for mirror
        images explain 95 % of the variance of those for the images.
    early_stopping : bool, default=False
        Whether to hold out some rows, and stop when predictions on them no longer
        improve.
    monitor : str or callable, default="loss"
        What `early_stopping` monitors: `"loss"`, or a scikit-learn scorer for
        regression (such as `"r2"`).
    validation_fraction, n_iter_no_change, refit, checkpoint, random_state : object
        Share of rows held out, patience, retraining on all rows, file to resume from,
        seed.
    image_shape, channels, value_range, image_size, preprocessing : object
        How `X` is read, and how its images are resized, cropped and normalised.
    device, precision, cache, n_jobs, verbose : object
        Device, number format and cache; number of threads; progress bar.
    optimizer, train_split, callbacks, iterator_train__shuffle : object
        As in skorch.
    **kwargs : dict
        Any other parameter of `skorch.NeuralNetRegressor`. `criterion`, by default
        `torch.nn.MSELoss`, is the loss of predictions and targets, both `(n,
        n_outputs)` in standard deviations. A head fitted in closed form minimises
        squared errors only; with any other loss, a warning says so.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape () or (n_outputs,)
        Mean and standard deviation of the `y` of `fit`.
    module_ : torch.nn.Module
        The whole network, from preprocessed images `(n, 3, h, w)` to outputs
        `(n, n_outputs)` in standard deviations.
    frozen_up_to_, augment_, initial_share_, history, n_epochs_ : object
    preprocessing_, value_range_ : object
        As in `FineTunedCNNClassifier`.
    n_trained_parameters_ : int
        Number of parameters that are trained, including those of the head.
    weights_license_, weights_source_ : str or None
        Licence and URL of published weights, if timm or torchvision states them.
    n_features_in_ : int
        Number of columns of `X`; only for 2-D `X`.

    See Also
    --------
    FineTunedCNNClassifier : Predicts labels or tags; describes all parameters in full.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import FineTunedCNNRegressor
    >>> X, number = load_digits(return_X_y=True)
    >>> reg = FineTunedCNNRegressor("sktl_mini", strategy="linear_probe")
    >>> reg.fit(X[:100], number[:100]).score(X[100:200], number[100:200]) > 0.7
    True
    """

    _kinds, _saved_as = (Numbers,), "FineTunedCNNRegressor"

    @property
    def target_mean_(self):
        """Mean of the `y` of `fit`."""
        return self.target.mean

    @property
    def target_scale_(self):
        """Standard deviation of the `y` of `fit`."""
        return self.target.scale

    @with_callbacks
    def fit(self, X, y, sample_weight=None, **fit_params):
        """Train the network on images and numbers.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite numbers.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `FineTunedCNNClassifier.fit`.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNRegressor

        Raises
        ------
        TrainingDivergedError
            If the loss is no longer finite.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        return self._fit(X, y, sample_weight, fit_params)

    @available_if(has_epochs)
    def partial_fit(self, X, y, sample_weight=None, *, classes=None, **fit_params):
        """Continue training from the current weights, for `max_epochs` more epochs.

        An `X` or `y` that cannot be trained on is an error and changes nothing. If
        training itself fails or is interrupted, the estimator is unfitted, so save
        it before.

        Not available if the strategy has no epochs (`"linear_probe"` without
        `hidden_units`).

        Parameters
        ----------
        X : array-like or sequence of images
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Standardised by the mean and standard deviation of the `y` of the first
            call. If that does not vary, a warning says so: the deviation is taken as 1.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `fit`.
        classes : None
            Numbers have none; the name is there because skorch's nets have it.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNRegressor
        """
        # skorch takes `classes` out of metadata routing, which fails if it is not there
        # (`__metadata_request__partial_fit` of skorch/net.py, 1.4).
        if classes is not None:
            raise TypeError(
                f"classes={shown(classes)}, but numbers have no classes. Leave it out, "
                "or use FineTunedCNNClassifier."
            )
        first = not self.initialized_
        self._fit_more(X, y, None, sample_weight, fit_params)
        if first and not np.ptp(self.target.check(y), axis=0).all():
            warn_caller(
                "The y of the first call of partial_fit does not vary, so its standard "
                "deviation is taken as 1, in all later calls too. Pass a first batch "
                "whose numbers vary as much as those to come.",
                UserWarning,
            )
        return self

    def predict(self, X):
        """Predict the numbers of each image.

        Parameters
        ----------
        X : array-like or sequence of images
            Or a collection of Dask or Ray, as in `FineTunedCNNClassifier.predict`.

        Returns
        -------
        numbers : ndarray of shape (n_samples,) or (n_samples, n_outputs), dtype float64
            In the unit and shape of `y`. (Callbacks that pass on the data sets or
            batches of `fit` get standard deviations.)
        """
        self.check_is_fitted()
        outputs = self.forward(X).detach().numpy()
        return outputs if holds_rows(X) else self.target.decode(outputs)

    @property
    def predict_proba(self):
        """Raise AttributeError: numbers have no probabilities."""
        # skorch has it; scikit-learn's tools take what has it for a classifier.
        raise AttributeError("Numbers have no probabilities. Use predict.")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
