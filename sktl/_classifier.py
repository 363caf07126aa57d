"""`FineTunedCNNClassifier`: a pretrained network whose later part is trained."""

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from skorch import NeuralNetClassifier

from sktl._saving import model_file
from sktl._training.early_stopping import HeldOutClassifier
from sktl._training.fine_tuning import FineTunedNet, has_epochs
from sktl._training.net import holds_rows
from sktl._training.targets import Labels
from sktl._utils.fit_tasks import with_callbacks


class FineTunedCNNClassifier(FineTunedNet, NeuralNetClassifier):
    """Classify images by a pretrained network whose later part is trained on them.

    The network's classifier is replaced by a new linear head. Which of the other
    layers are trained besides, and in which order, is the `strategy`. The frozen part
    sees each image once, whatever the number of epochs: its output is what training
    reads.

    This is a skorch net: `history`, `callbacks`, `optimizer__*`, `iterator_train__*`
    and the rest work as in any other. With scikit-learn 1.9 or later, `set_callbacks`
    takes its callbacks; each epoch is a task of theirs.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_mini"
        A name of `list_backbones()`, or a network that `torch.fx` can trace, with or
        without a layer that makes scores, as in `PretrainedFeatureExtractor`.
    weights : str, path-like, torchvision weights, dict or None, default="DEFAULT"
        As in `PretrainedFeatureExtractor`. Not used by `strategy="scratch"`.
    strategy : {"lp_ft", "linear_probe", "full", "gradual", "scratch"}, default="lp_ft"
        `"linear_probe"` trains the head alone, by logistic regression on the frozen
        features. `"lp_ft"` does that first and then trains the stages from
        `unfreeze_from` on together with the head. `"gradual"` does that first too, and
        then trains the last stage, the last two, and so on, each for an equal share of
        the epochs. `"full"` trains everything from the pretrained weights on.
        `"scratch"` trains everything from random weights.
    unfreeze_from : str or int, default="last"
        The first stage that `"lp_ft"` trains, and the one `"gradual"` arrives at. A
        stage name, the path of a block in one, a glob, `"last"`, or a number of stages
        counted from the head. With `"last"`, `"gradual"` goes through all stages.
    reinit_from : str, int or None, default=None
        Stages from this one on begin with random weights, as late features may be too
        special to the source task. Not used by `"scratch"`.
    hidden_units : tuple of int, default=()
        Widths of ReLU layers in the new head. With any, the head is not solved but
        trained by epochs: `"linear_probe"` uses them all for that, `"lp_ft"` half.
    dropout : float, default=0.0
        Share of what each layer of the head reads that epochs leave out.
    lr : float, default=1e-3
        Learning rate of layers that begin with random weights.
    backbone_lr_ratio : float, default=0.1
        Learning rate of pretrained layers and of a solved head as a share of `lr`.
    layer_decay : float, default=1.0
        Learning rate of each pretrained stage as a share of that of the next.
    max_epochs : int, default=20
        Passes over the training rows. A `"linear_probe"` that is solved has none.
    batch_size : int, default=32
        Training rows per step.
    augment : str, tuple of str, callable or None, default=None
        Random changes of the training images, new in each epoch: any of `"flip"`,
        `"crop"` and `"color"`, or a function of a uint8 tensor `(3, h, w)`, such as a
        transform of `torchvision.transforms.v2`. The frozen part runs in each epoch. A
        `"linear_probe"` is solved on `max_epochs` changed copies of each image, other
        heads are solved on the images as they are.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn.
    early_stopping : bool, default=False
        Whether to set rows aside, stop when they have not been predicted better for
        `n_iter_no_change` epochs, and keep the weights that were best on them.
    monitor : str or callable, default="loss"
        What `early_stopping` calls better: a lower loss, or a higher score, by the name
        of any scikit-learn scorer (`"f1_macro"`) or a scorer of your own. Scores are
        in `history` as `valid_score`.
    validation_fraction : float, default=0.1
        Share of each class that `early_stopping` sets aside, if there are epochs.
    n_iter_no_change : int, default=5
        Epochs that `early_stopping` waits.
    refit : bool, default=False
        Whether, after `early_stopping`, to train again on all rows for the number of
        epochs that was best.
    checkpoint : path-like or None, default=None
        File that keeps the state of training after each epoch. After a crash, the same
        `fit` goes on from there to the same weights; any other begins anew. Needs an
        int as `random_state`. Callbacks that are not skorch's begin anew. A function
        is compared by its code and what it reads around itself; where a parameter
        cannot be compared, a `CheckpointWarning` says so, and nothing is kept. A
        `refit` has a file of its own, ending in `.refit`.
    random_state : int, RandomState instance or None, default=None
        Decides random weights, the order of rows and dropout. None differs from call
        to call. Global generators are left as they were.
    image_shape : tuple of int or None, default=None
        How a row of a 2-D `X` becomes an image: `(h, w)` or `(h, w, c)`; one of them
        may be -1. None takes a square grey image, else a square RGB image.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channel axis of a 4-D array is. `"auto"` refuses ambiguous shapes.
    value_range : "auto" or tuple of (float, float), default="auto"
        The numbers that mean black and white, as in `PretrainedFeatureExtractor`.
    image_size : int or None, default=None
        Side, in pixels, of the square the network sees. None is what the weights were
        trained for.
    device : str or torch.device, default="auto"
        `"auto"` is the current GPU where there is one that computes, else the CPU. The
        worker processes of a pool take the GPUs that they see in turn.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        What the network computes in; weights and logits are float32.
    cache : "memory", path-like or None, default="memory"
        Where the frozen part's output is kept between fits.
    n_jobs : int or None, default=None
        Threads that read and decode images. None is one.
    verbose : int, default=0
        Positive values show progress: images, then epochs.
    optimizer : type, default=torch.optim.AdamW
        A class of `torch.optim`.
    criterion : type, default=torch.nn.CrossEntropyLoss
        The loss of logits and class numbers; `torch.nn.NLLLoss` gets the logarithms of
        probabilities. A solved head follows the class weights of these two, and no
        other loss, of which a warning tells.
    train_split : callable or None, default=None
        skorch's internal validation split. None trains on all rows, or is that of
        `early_stopping`.
    callbacks : list of skorch callbacks or None, default=None
        Called besides skorch's default ones.
    iterator_train__shuffle : bool, default=True
        Whether rows come in a new random order in each epoch.
    **kwargs : dict
        Any other parameter of `skorch.NeuralNetClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; `predict` returns these.
    module_ : torch.nn.Module
        The whole network, from preprocessed images `(n, 3, h, w)` to logits.
    frozen_up_to_ : str
        The last frozen layer; `""` where everything is trained.
    history : skorch.history.History
        Losses, times and phases per epoch; empty where the head was solved only.
    n_epochs_ : int
        Epochs that led to the weights kept; 0 are those of the solved head.
    value_range_ : tuple of (float, float) or None
        The range learnt from the data of `fit`; None where the dtype decides.
    n_features_in_ : int
        Number of columns of `X`; only for 2-D `X`.

    See Also
    --------
    PretrainedFeatureExtractor : The frozen part alone, as a transformer.
    compare_transfer : Says whether fine-tuning helps.

    Notes
    -----
    Memory: the frozen part's output for all training rows, which for maps is large
    (100 kB and more an image at 224 pixels), besides the network and one batch.

    Training uses the network as traced for evaluation: dropout and norms that are
    modules behave as in training, those called as functions do not. In float16, the
    loss is scaled by `torch.amp.GradScaler`: not for optimizers that need a closure.

    Linear probing before fine-tuning keeps the pretrained features from being
    distorted by a random head: Kumar et al., ICLR 2022. Lower learning rates for
    pretrained layers: Howard & Ruder, ACL 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import FineTunedCNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTunedCNNClassifier(strategy="linear_probe", random_state=0)
    >>> clf.fit(X[:100], y[:100]).score(X[100:200], y[100:200]) > 0.8
    True
    """

    _parameter_constraints = {
        **FineTunedNet._parameter_constraints,
        "classes": "no_validation",  # refused in words of its own
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _kind, _seen_by_scorers = Labels, HeldOutClassifier

    def __init__(
        self,
        backbone="sktl_mini",
        *,
        weights="DEFAULT",
        strategy="lp_ft",
        unfreeze_from="last",
        reinit_from=None,
        hidden_units=(),
        dropout=0.0,
        lr=1e-3,
        backbone_lr_ratio=0.1,
        layer_decay=1.0,
        max_epochs=20,
        batch_size=32,
        augment=None,
        class_weight=None,
        early_stopping=False,
        monitor="loss",
        validation_fraction=0.1,
        n_iter_no_change=5,
        refit=False,
        checkpoint=None,
        random_state=None,
        image_shape=None,
        channels="auto",
        value_range="auto",
        image_size=None,
        device="auto",
        precision="auto",
        cache="memory",
        n_jobs=None,
        verbose=0,
        optimizer=torch.optim.AdamW,
        criterion=torch.nn.CrossEntropyLoss,
        train_split=None,
        callbacks=None,
        iterator_train__shuffle=True,
        **kwargs,
    ):
        self.class_weight = class_weight
        super().__init__(
            backbone,
            weights=weights,
            strategy=strategy,
            unfreeze_from=unfreeze_from,
            reinit_from=reinit_from,
            hidden_units=hidden_units,
            dropout=dropout,
            lr=lr,
            backbone_lr_ratio=backbone_lr_ratio,
            layer_decay=layer_decay,
            max_epochs=max_epochs,
            batch_size=batch_size,
            augment=augment,
            early_stopping=early_stopping,
            monitor=monitor,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            refit=refit,
            checkpoint=checkpoint,
            random_state=random_state,
            image_shape=image_shape,
            channels=channels,
            value_range=value_range,
            image_size=image_size,
            device=device,
            precision=precision,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            optimizer=optimizer,
            criterion=criterion,
            train_split=train_split,
            callbacks=callbacks,
            iterator_train__shuffle=iterator_train__shuffle,
            **kwargs,
        )

    @property
    def classes_(self):
        """The labels that `fit` learnt."""
        if "classes_inferred_" not in vars(self):
            raise NotFittedError(
                "The labels are not known yet, nor how wide the head is: call fit, or "
                "partial_fit with classes=. initialize() is done by these."
            )
        return self.classes_inferred_

    @property
    def target(self):
        """What is predicted, as `fit` learnt it."""
        return Labels(self.classes_)

    @with_callbacks
    def fit(self, X, y, sample_weight=None, **fit_params):
        """Train the network on labelled images.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes.
        y : array-like of shape (n_samples,)
            Labels of any kind: strings, numbers, bools.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each row's loss; rows of weight 0 are left out. A head that is
            solved takes a weight of k for k equal rows, training by epochs does so on
            average only.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNClassifier

        Raises
        ------
        TrainingDivergedError
            If the loss is no longer finite.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        return self._fit(X, y, sample_weight, fit_params)

    @available_if(has_epochs)
    def partial_fit(self, X, y, classes=None, sample_weight=None, **fit_params):
        """Go on training from the present weights, for `max_epochs` more epochs.

        Not there where the head is solved, which has no epochs to add.

        Parameters
        ----------
        X : array-like or sequence of images
        y : array-like of shape (n_samples,)
        classes : array-like or None, default=None
            All labels that will ever come; needed in the first call unless `y` holds
            them all.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `fit`.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNClassifier

        Raises
        ------
        ValueError
            If `y` holds labels that were not there at first.
        """
        return self._fit_more(X, y, classes, sample_weight, fit_params)

    def predict(self, X):
        """Predict the label of each image.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Of the kind that `y` was. For the data sets and batches of `fit`, which
            callbacks see and whose targets are class numbers, class numbers.
        """
        codes = self.predict_proba(X).argmax(axis=1)
        return codes if holds_rows(X) else self.target.decode(codes)

    def predict_proba(self, X):
        """Estimate the probability of each class.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of `classes_`. The softmax of the logits, whatever
            the loss is, unless `predict_nonlinearity` says otherwise.
        """
        self.check_is_fitted()
        return super().predict_proba(X)

    def predict_log_proba(self, X):
        """Estimate the logarithm of each class's probability.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of `classes_`. Finite also where the probability is
            too small for a float, unless `predict_nonlinearity` is another.
        """
        self.check_is_fitted()
        if self._gives_probabilities():
            return self.forward(X).detach().log_softmax(dim=1).numpy()
        return np.log(self.predict_proba(X))

    def decision_function(self, X):
        """Compute the logits.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        logits : ndarray of shape (n_samples, n_classes), dtype float64
            For two classes, of shape (n_samples,): how much the second's is larger.
        """
        self.check_is_fitted()
        logits = self.forward(X).detach().numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def save(self, path):
        """Write the fitted classifier to one file, from which `load` makes it again.

        Unlike a pickle, the file holds numbers and plain settings only: nothing in it
        can run. It is written whole or not at all, and `load` notices any change. The
        state of the optimiser is not in it; `partial_fit` begins with a new one. Nor
        are `cache` and `checkpoint`, which are places on this machine.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced.

        Raises
        ------
        NotFittedError
            If there is nothing to save yet, or `fit` came to no end.
        TypeError
            If a parameter has no form in such a file: a callback, a network or a
            function. With these, use pickle or joblib, for readers who trust you.
        OSError
            If the file cannot be written.
        """
        model_file.save_model(self, path)

    @classmethod
    def load(cls, path, **parameters):
        """Make a classifier from what `save` wrote; nothing in the file can run.

        Needs no other file and no network: all weights are in it.

        Parameters
        ----------
        path : path-like
        **parameters : dict
            Parameters to change, such as `device="cpu"` or `cache=None`.

        Returns
        -------
        classifier : FineTunedCNNClassifier
            Predicts what the saved one did. Its `cache` is "memory", whatever the
            saved one's was.

        Raises
        ------
        ModelFileError
            If the file is not one of `save`'s, or was changed since; or if the
            installed torchvision has another network under this name.
        ValueError
            If there is no such parameter, or it cannot have this value.
        """
        return model_file.load_model(cls, path, **parameters)

    def save_backbone(self, path, precision="float32"):
        """Write the network without its head, to be used as `weights=path`.

        Parameters
        ----------
        path : path-like
            Ends in `.safetensors`.
        precision : {"float32", "float16"}, default="float32"
            float16 halves the file and changes weights by up to 5e-4 of their size.
        """
        model_file.save_backbone(self, path, precision)

    def _check_params(self):
        super()._check_params()
        if self.classes is not None:
            raise ValueError(
                f"classes={self.classes!r} is skorch's parameter and has no use here: "
                "the labels are learnt from y. Leave it out; partial_fit takes classes."
            )

    def _learn(self, target):
        self.classes_inferred_ = target.classes

    def _get_predict_nonlinearity(self):
        # skorch knows what to do for three losses, and gives logits for all others.
        if self._gives_probabilities():
            return self.target.probabilities
        return super()._get_predict_nonlinearity()

    def _gives_probabilities(self):
        asked = self.predict_nonlinearity
        return isinstance(asked, str) and asked == "auto"
