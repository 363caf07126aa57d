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

    Like `FineTunedCNNClassifier`, which describes the parameters in full, but without
    `C` and `class_weight`. The head is fitted in closed form, by ridge regression, with
    a penalty chosen by leaving out one image, or one group, at a time. Each column of
    `y` is standardised to mean 0 and standard deviation 1 before training, so that `lr`
    and losses do not depend on the unit of `y`.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_photo"
        A name of `list_backbones()`, such as `"sktl_mini"` for small images; or a
        network that `torch.fx` can trace.
    weights : str, path-like, torchvision weights, dict or None, default="DEFAULT"
        The pretrained weights.
    strategy : {"lp_ft", "linear_probe", "full", "gradual", "scratch"}, default="lp_ft"
        What is trained, and in which order.
    unfreeze_from : str or int, default="first"
        The first stage that is trained; `"last"` is quicker than all.
    reinit_from : str, int or None, default=None
        Stages from this one on start from random weights.
    hidden_units : tuple of int, default=()
        Widths of hidden ReLU layers in the head.
    dropout : float, default=0.0
        Dropout probability before each layer of the head.
    lr : float, default=1e-3
        Learning rate of layers that start from random weights.
    backbone_lr_ratio : float, default=0.15
        Learning rate of pretrained layers, and (without `reinit_from`) of a fitted
        head, as a fraction of `lr`.
    layer_decay : float, default=1.0
        Learning rate of each stage, as a fraction of that of the next.
    lr_schedule : {"one_cycle", "constant"}, default="one_cycle"
        How learning rates change during training.
    initial_share : float in [0, 1) or "auto", default="auto"
        Share of the initial weights in the average at the end.
    max_epochs : int, default=12
        Passes over the training rows.
    batch_size : int, default=8
        Training rows per step.
    augment : "auto", str, tuple of str, callable or None, default="auto"
        Random augmentation of the training images. `"auto"` includes `"flip"` only if
        the fitted head predicts nearly the same numbers for mirror images (R2 of at
        least 0.95).
    early_stopping : bool, default=False
        Whether to hold out some rows, or with `groups` whole groups, and stop when
        predictions on them no longer improve.
    monitor : str or callable, default="loss"
        What `early_stopping` monitors: `"loss"`, or a scikit-learn scorer for
        regression (such as `"r2"`).
    validation_fraction : float, default=0.1
        Share of the rows, or of the groups, that `early_stopping` holds out.
    n_iter_no_change : int, default=5
        Epochs without improvement after which `early_stopping` stops.
    refit : bool, default=False
        Whether to train again on all rows after `early_stopping`.
    checkpoint : path-like or None, default=None
        File from which an interrupted `fit` resumes.
    random_state : int, RandomState instance or None, default=None
        Determines random weights, the order of rows, augmentation and dropout.
    image_shape : tuple of int or None, default=None
        How a row of a 2-D `X` becomes an image: `(h, w)` or `(h, w, c)`.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channel axis of a 4-D array is.
    value_range : "auto" or tuple of (float, float), default="auto"
        The numbers that mean black and white.
    image_size : int or None, default=None
        Side, in pixels, of the square image that the network gets.
    preprocessing : Preprocessing or None, default=None
        How images are resized, cropped and normalised.
    device : str or torch.device, default="auto"
        `"auto"` is the current GPU if a usable one is present, else the CPU.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Number format in which the network computes.
    cache : "memory", path-like or None, default="memory"
        Where the output of the frozen layers is cached between fits.
    n_jobs : int or None, default=None
        Threads that read and decode images. None means one.
    verbose : int, default=0
        Positive values show progress: images, then epochs.
    optimizer : type, default=torch.optim.AdamW
        A class of `torch.optim`.
    criterion : type, default=torch.nn.MSELoss
        The loss, called with predictions and targets, both standardised, of shape
        `(n, n_outputs)`. A head fitted in closed form minimises squared errors whatever
        the loss; a warning says so if you pass another one.
    train_split : callable or None, default=None
        skorch's validation split, in place of that of `early_stopping`.
    callbacks : list of skorch callbacks or None, default=None
        Called in addition to the default ones.
    iterator_train__shuffle : bool, default=True
        Whether rows come in a new random order in each epoch.
    iterator_train, iterator_valid : type, default=torch.utils.data.DataLoader
        Loaders of training rows, and of all others, in batches.
    dataset : type, default=skorch.dataset.Dataset
        The data set that loaders read.
    predict_nonlinearity : callable, "auto" or None, default="auto"
        What turns outputs into predictions, before these get back the unit of `y`.
        `"auto"` leaves them as they are.
    warm_start : bool, default=False
        Whether `fit` continues training from the last weights.
    compile : bool, default=False
        Only False is supported: `torch.compile` would rename the weights.
    use_caching : bool or "auto", default="auto"
        Whether predictions on held-out rows serve all callbacks that score them.
    torch_load_kwargs : dict or None, default=None
        Arguments of `torch.load` in `load_params`.
    **kwargs : dict
        Any other parameter of `skorch.NeuralNetRegressor`, such as
        `optimizer__weight_decay`.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape () or (n_outputs,)
        Mean and standard deviation of the `y` of `fit`.
    module_ : torch.nn.Module
        The whole network, from preprocessed images `(n, 3, h, w)` to outputs
        `(n, n_outputs)`, standardised like `y`.
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
    def fit(self, X, y, sample_weight=None, *, groups=None, **fit_params):
        """Train the network on images and numbers.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite numbers.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `FineTunedCNNClassifier.fit`.
        groups : array-like of shape (n_samples,) or None, default=None
            The group of each row, such as a patient. The penalty is chosen by leaving
            out one group at a time, and `early_stopping` holds out whole groups. Passed
            on to `train_split` too; nothing else uses groups.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNRegressor

        Raises
        ------
        ValueError
            If `groups` are not one for each row, or a head is fitted by ridge
            regression and all rows to train on are of one group.
        TrainingDivergedError
            If the loss is no longer finite.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        return self._fit(X, y, sample_weight, groups, fit_params)

    @available_if(has_epochs)
    def partial_fit(
        self, X, y, sample_weight=None, *, classes=None, groups=None, **fit_params
    ):
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
        groups : array-like of shape (n_samples,) or None, default=None
            As in `fit`.
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
        self._fit_more(X, y, None, sample_weight, groups, fit_params)
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
            In the unit and shape of `y`. (A callback that calls `predict` on a data set
            or batch of `fit` gets standardised numbers, but skorch's `EpochScoring` and
            `BatchScoring` score numbers in the unit of `y`.)

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read; it lists all of them.
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
