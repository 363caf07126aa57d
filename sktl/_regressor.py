"""`FineTunedCNNRegressor`: numbers by a network whose later part is trained."""

from sklearn.exceptions import NotFittedError
from sklearn.utils.metaestimators import available_if
from skorch import NeuralNetRegressor

from sktl._training.early_stopping import HeldOutRegressor
from sktl._training.fine_tuning import FineTunedNet, has_epochs
from sktl._training.net import holds_rows
from sktl._training.targets import Numbers
from sktl._utils.fit_tasks import with_callbacks


class FineTunedCNNRegressor(FineTunedNet, NeuralNetRegressor):
    """Predict numbers for images by a pretrained network trained on them in part.

    As `FineTunedCNNClassifier`, with the same parameters but for `class_weight`. The
    head is solved by ridge regression, with the penalty that predicts best what is left
    out, one row at a time. Inside, each column of `y` has mean 0 and deviation 1, so
    that `lr` and losses mean the same for any unit.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_mini"
        A name of `list_backbones()`, or a network that `torch.fx` can trace.
    weights, strategy, unfreeze_from, reinit_from, hidden_units, dropout : object
        Which network, and what of it is trained: as in `FineTunedCNNClassifier`, like
        all that follow without a text of their own.
    lr, backbone_lr_ratio, layer_decay, max_epochs, batch_size, augment : object
        How it is trained.
    early_stopping : bool, default=False
        Whether to set rows aside and stop when they are predicted no better.
    monitor : str or callable, default="loss"
        What `early_stopping` calls better: a lower loss, or a higher score by any
        scikit-learn scorer of numbers (`"r2"`).
    validation_fraction, n_iter_no_change, refit, checkpoint, random_state : object
        Rows set aside, patience, training again, a file to go on from, the seed.
    image_shape, channels, value_range, image_size : object
        What `X` is, and how large the network sees it.
    device, precision, cache, n_jobs, verbose : object
        Where and how it is computed.
    optimizer, train_split, callbacks, iterator_train__shuffle : object
        skorch's.
    **kwargs : dict
        Any other parameter of `skorch.NeuralNetRegressor`. `criterion`, by default
        `torch.nn.MSELoss`, is the loss of predictions and targets, both
        `(n, n_outputs)` in standard deviations. A head that is solved follows squared
        errors only; a warning says so for any other loss.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape () or (n_outputs,)
        Mean and standard deviation of the `y` of `fit`.
    module_ : torch.nn.Module
        The whole network, from preprocessed images `(n, 3, h, w)` to outputs
        `(n, n_outputs)` in standard deviations.
    frozen_up_to_, history, n_epochs_, value_range_, n_features_in_ : object
        As in `FineTunedCNNClassifier`.

    See Also
    --------
    FineTunedCNNClassifier : For labels; says more about all parameters.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import FineTunedCNNRegressor
    >>> X, number = load_digits(return_X_y=True)
    >>> reg = FineTunedCNNRegressor(strategy="linear_probe", random_state=0)
    >>> reg.fit(X[:100], number[:100]).score(X[100:200], number[100:200]) > 0.7
    True
    """

    _kind, _seen_by_scorers = Numbers, HeldOutRegressor

    @property
    def target(self):
        """What is predicted, as `fit` learnt it."""
        if "target_mean_" not in vars(self):
            raise NotFittedError(
                "How many numbers are to be predicted is not known yet: call fit or "
                "partial_fit. initialize() is done by these."
            )
        return Numbers(self.target_mean_, self.target_scale_)

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
    def partial_fit(self, X, y, sample_weight=None, **fit_params):
        """Go on training from the present weights, for `max_epochs` more epochs.

        Not there where the head is solved, which has no epochs to add.

        Parameters
        ----------
        X : array-like or sequence of images
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Standardised as that of the first call.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `fit`.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNRegressor
        """
        return self._fit_more(X, y, None, sample_weight, fit_params)

    def predict(self, X):
        """Predict the numbers of each image.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        numbers : ndarray of shape (n_samples,) or (n_samples, n_outputs), dtype float64
            In the unit and shape of `y`. For the data sets and batches of `fit`, which
            callbacks see, in standard deviations.
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

    def _learn(self, target):
        self.target_mean_, self.target_scale_ = target.mean, target.scale
