"""`FineTunedCNNClassifier`: images in, labels or tags out, by fine-tuning a network."""

from numbers import Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from skorch import NeuralNetClassifier

from sktl._saving.model_file import SavedMixin
from sktl._targets.kinds import Indicators, Labels
from sktl._training.fine_tuning import FineTunedNet, has_epochs
from sktl._training.net import holds_rows
from sktl._utils.fit_tasks import with_callbacks
from sktl._utils.partitions import takes_collections


@takes_collections("predict", "predict_proba", "predict_log_proba", "decision_function")
class FineTunedCNNClassifier(SavedMixin, FineTunedNet, NeuralNetClassifier):
    """Classify images with a pretrained network that is fine-tuned on them.

    The network's classification layer is replaced by a new one, the head. By default
    the head is fitted first, by logistic regression on the features of the frozen
    network; then the whole network is trained for a few epochs at low learning rates,
    on augmented images, and its weights are averaged with those it had before.

    `strategy` and `unfreeze_from` say which layers are trained, and in which order.
    Layers that are never trained are frozen. Each image passes through them once,
    whatever the number of epochs, unless `augment` asks for other images in each.

    `y` holds one label per image or, if an image can have any number of tags
    (multilabel), indicators: a column of 0 and 1 for each tag. Each tag then has an
    output of its own, trained by binary cross-entropy.

    This is a skorch net: `history`, `callbacks`, `optimizer__*`, `iterator_train__*`
    and the rest work as in any other. With scikit-learn 1.9 or later, `set_callbacks`
    takes scikit-learn's callbacks, which see each epoch as a task.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_photo"
        A name of `list_backbones()`, such as `"sktl_mini"` for small images; or a
        network that `torch.fx` can trace, with or without its classification layer, as
        in `PretrainedFeatureExtractor`.
    weights : str, path-like, torchvision weights, dict or None, default="DEFAULT"
        As in `PretrainedFeatureExtractor`. Not used by `strategy="scratch"`.
    strategy : {"lp_ft", "linear_probe", "full", "gradual", "scratch"}, default="lp_ft"
        What is trained. The head is a new last layer (see `hidden_units`); the stages
        are the groups of layers before it, such as `layer1` to `layer4` of a
        ResNet. `"linear_probe"` fits the head alone, by logistic regression on the
        frozen features. `"lp_ft"` does that first and then trains the stages from
        `unfreeze_from` on together with the head. `"gradual"` also does that first, and
        then trains the last stage, the last two, and so on, each for an equal share of
        the epochs (with fewer epochs than stages, several are added at once; a single
        epoch trains the last stage alone). `"full"` trains everything, starting from
        the pretrained weights. `"scratch"` trains everything, starting from random
        weights.
    unfreeze_from : str or int, default="first"
        The first stage that `"lp_ft"` trains, and the earliest that `"gradual"`
        unfreezes: `"first"` (all stages), `"last"`, a stage name, the path of a block
        inside a stage, a glob, or a number of stages counted from the head. Training
        the last stage alone takes a fraction of the time, and gains less.
    reinit_from : str, int or None, default=None
        Stages from this one on start from random weights, because late features may be
        too specific to the task that the network was trained on. They must be among
        the stages that the strategy trains. Not used by `"scratch"`.
    hidden_units : tuple of int, default=()
        Widths of hidden ReLU layers in the head. A head with hidden layers is trained
        by epochs instead of fitted by logistic regression: `"linear_probe"` spends all
        epochs on it, `"lp_ft"` half of them.
    C : float or "auto", default="auto"
        Inverse of the penalty on the weights of a head fitted by logistic regression,
        as in `sklearn.linear_model.LogisticRegression`, for features that are centred
        and divided by one number, so that their mean variance is 1.
        `"auto"` tries 33 penalties of ridge regression, leaving out one image at a time
        (with all its augmented copies), and derives `C` from the best; for rows without
        weights, it is at most 1. With indicators, each tag has its own. With several
        images per patient, or the like, pass `groups` to `fit`, and one group is left
        out at a time: leaving out a single image says little where similar ones stay.
    dropout : float, default=0.0
        Dropout probability before each layer of the head.
    lr : float, default=1e-3
        Learning rate of layers that start from random weights, and of the head behind
        them. By default there are none, and all layers have `lr * backbone_lr_ratio`.
    backbone_lr_ratio : float, default=0.15
        Learning rate of pretrained layers, and (without `reinit_from`) of a head
        already fitted by logistic regression, as a fraction of `lr`.
    layer_decay : float, default=1.0
        Learning rate of each pretrained stage, as a fraction of that of the next stage.
    lr_schedule : {"one_cycle", "constant"}, default="one_cycle"
        `"one_cycle"` raises the learning rates from zero in the first quarter of the
        steps, and then lowers them along half a cosine. An `LRScheduler` of skorch's
        among `callbacks` takes its place.
    initial_share : float in [0, 1) or "auto", default="auto"
        After training, the weights become `initial_share * initial + (1 -
        initial_share) * trained`. Used only by `"lp_ft"` and `"gradual"`, without
        `hidden_units` and `reinit_from`. 0 keeps the trained weights. `"auto"` is `1 -
        0.6 * n / (n + 10)` for n different images in `fit`: 0.7 for 10 images, 0.5 for
        50, and close to 0.4 for many.
    max_epochs : int, default=12
        Passes over the training rows. `"linear_probe"` without `hidden_units` makes
        none, as its head is fitted by logistic regression.
    batch_size : int, default=8
        Training rows per step. With few rows, small batches are needed to make enough
        steps; for thousands of rows, 32 is faster. With batch norm, `"scratch"` skips a
        last batch of a single row, which cannot be normalised; rows are shuffled, so
        each epoch skips another.
    augment : "auto", str, tuple of str, callable or None, default="auto"
        Random augmentation of the training images, new in each epoch: any of `"flip"`,
        `"crop"` and `"color"`, or a function of a uint8 tensor `(3, h, w)`, such as a
        transform of `torchvision.transforms.v2`, that draws random numbers from torch
        alone. The frozen layers then run in each epoch. The head of `"linear_probe"` is
        fitted on `max_epochs` augmented copies of each image; other strategies fit it
        on the original images.

        `"auto"` augments where no layer is frozen: by `"crop"`, and by `"flip"` too if
        the fitted head classifies at least 95 % of the training images as it classifies
        their mirror images. That is so for photographs, but not for letters. `"full"`
        and `"scratch"`, which fit no head first, never flip by default.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn; for indicators, the weights of 0 and
        1 in each tag.
    early_stopping : bool, default=False
        Whether to hold out some rows, stop when predictions on them have not improved
        for `n_iter_no_change` epochs, and keep the weights that predicted them best. If
        you pass `groups` to `fit`, whole groups are held out.
    monitor : str or callable, default="loss"
        What `early_stopping` monitors: `"loss"`, the name of a scikit-learn scorer
        (such as `"f1_macro"`), or a scorer of your own. Scores are in `history` as
        `valid_score`.
    validation_fraction : float, default=0.1
        Share of each class that `early_stopping` holds out; with `groups`, a share of
        the groups. With indicators or groups, shares are kept only nearly: a row counts
        to its rarest tag, and a group to that of its classes or tags which is in the
        fewest groups. A tag of a single row, or a class or tag of a single group, is
        never held out. Not used if there are no epochs.
    n_iter_no_change : int, default=5
        Epochs without improvement after which `early_stopping` stops.
    refit : bool, default=False
        Whether to train again on all rows of `X` after `early_stopping`, for the best
        number of epochs.
    checkpoint : path-like or None, default=None
        File to which the state of training is saved after each epoch. After a crash,
        the same `fit` (same parameters and data) resumes from it and ends with the same
        weights; a different `fit` starts over. Needs an int as `random_state`. The
        state of callbacks other than skorch's is not saved. Functions are compared by
        their code and the values they use from outside; if a parameter cannot be
        compared, a `CheckpointWarning` is raised and no checkpoint is written. A
        `refit` has a file of its own, ending in `.refit`.
    random_state : int, RandomState instance or None, default=None
        Determines random weights, which rows are held out, the order of rows,
        augmentation and dropout. When `partial_fit` or `warm_start` continues training,
        the last three are drawn anew. With None, results differ between calls. Global
        random generators are not changed.
    image_shape : tuple of int or None, default=None
        How a row of a 2-D `X` becomes an image: `(h, w)` or `(h, w, c)`; one of them
        may be -1. None means a square image, grey if that fits, else RGB.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channel axis of a 4-D array is. `"auto"` refuses ambiguous shapes.
    value_range : "auto" or tuple of (float, float), default="auto"
        The numbers that mean black and white, as in `PretrainedFeatureExtractor`.
    image_size : int or None, default=None
        Side, in pixels, of the square image that the network gets. None means the size
        the weights were trained for.
    preprocessing : Preprocessing or None, default=None
        How images are resized, cropped and normalised, as in
        `PretrainedFeatureExtractor`.
    device : str or torch.device, default="auto"
        `"auto"` is the current GPU if a usable one is present, else the CPU. The worker
        processes of a pool take the visible GPUs in turn.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Number format in which the network computes; weights and logits are float32.
    cache : "memory", path-like or None, default="memory"
        Where the output of the frozen layers is cached between fits.
    n_jobs : int or None, default=None
        Threads that read and decode images. None means one.
    verbose : int, default=0
        Positive values show progress: images, then epochs.
    optimizer : type, default=torch.optim.AdamW
        A class of `torch.optim`.
    criterion : type, default=torch.nn.CrossEntropyLoss
        The loss, called with logits and class numbers; `torch.nn.NLLLoss` gets log
        probabilities instead of logits. For indicators, the default is replaced by
        `torch.nn.BCEWithLogitsLoss`. A loss then gets logits and indicators, both of
        shape `(n, n_tags)`; `torch.nn.BCELoss` gets probabilities instead of logits. A
        head fitted by logistic regression uses the class weights of a cross-entropy
        loss. It does not use any other loss, and a warning says so.
    train_split : callable or None, default=None
        skorch's internal validation split, in place of that of `early_stopping`, such
        as `ValidSplit(StratifiedGroupKFold(5))` with skorch's `ValidSplit`, whose
        splitter gets class numbers (or indicators) as `y`. None trains on all rows,
        except those that `early_stopping` holds out.
    callbacks : list of skorch callbacks or None, default=None
        Called in addition to the default ones. To switch one of these off, set it to
        None, as in `callbacks__print_log=None`. `EpochScoring` and `BatchScoring` score
        labels, as `monitor` does; other callbacks see class numbers, as the loss does.
    iterator_train__shuffle : bool, default=True
        Whether rows come in a new random order in each epoch.
    classes : None
        Not used: `fit` finds the classes in `y`, and `partial_fit` is given them.
    iterator_train, iterator_valid : type, default=torch.utils.data.DataLoader
        Loaders of training rows, and of all others, in batches.
    dataset : type, default=skorch.dataset.Dataset
        The data set that loaders read.
    predict_nonlinearity : callable, "auto" or None, default="auto"
        What turns logits into probabilities. `"auto"` is the softmax, for indicators
        the sigmoid.
    warm_start : bool, default=False
        Whether `fit` continues training from the last weights.
    compile : bool, default=False
        Only False is supported: `torch.compile` would rename the weights.
    use_caching : bool or "auto", default="auto"
        Whether predictions on held-out rows serve all callbacks that score them.
    torch_load_kwargs : dict or None, default=None
        Arguments of `torch.load` in `load_params`.
    **kwargs : dict
        Any other parameter of `skorch.NeuralNetClassifier`, such as
        `optimizer__weight_decay`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels that `predict` returns. For indicators, the column numbers of `y`.
    module_ : torch.nn.Module
        The whole network, from preprocessed images `(n, 3, h, w)` to logits.
    frozen_up_to_ : str
        The last frozen layer; `""` if everything is trained.
    augment_ : str, tuple of str or None
        What `augment="auto"` chose; None if you passed something else.
    initial_share_ : float
        What `initial_share` is for these images; 0 if weights are not averaged.
    history : skorch.history.History
        Losses, times and phases per epoch; empty if there were no epochs. If a head was
        fitted before the first epoch, `early_stopping` also records its loss or score,
        in the first epoch, as `valid_loss_before` or `valid_score_before`.
    n_epochs_ : int
        Number of epochs that led to the final weights; 0 if these are the weights
        before the first epoch.
    n_trained_parameters_ : int
        Number of parameters that are trained, including those of the head.
    preprocessing_ : Preprocessing
        How images are prepared.
    weights_license_, weights_source_ : str or None
        Licence and URL of published weights, if timm or torchvision states them.
    value_range_ : tuple of (float, float) or None
        `value_range`, or the range inferred in `fit`; None if the dtype determines it.
    n_features_in_ : int
        Number of columns of `X`; only for 2-D `X`.

    See Also
    --------
    PretrainedFeatureExtractor : The frozen layers alone, as a transformer.
    FineTunedCNNRegressor : Predicts numbers instead of labels.
    compare_transfer : Measures whether fine-tuning helps.

    Notes
    -----
    Memory: the network, one batch, and the output of the frozen layers for all training
    rows; in predictions, for about 1,024 rows at a time. For feature maps and images
    that is 100 kB per image or more at 224 pixels.

    Dropout layers switch to training mode as usual. Batch norms keep normalising by the
    statistics of the pretraining, also in layers that are trained (those redrawn by
    `reinit_from`, by mean 0 and variance 1); only `"scratch"` learns new ones. Dropout
    and normalisation called as functions stay as in evaluation.

    In float16, the loss is scaled by `torch.amp.GradScaler`, which rules out optimizers
    that need a closure.

    Cost: where everything is trained, an epoch takes as long as about three passes of
    the images through the network. The default takes 24 to 35 times as long as
    `"linear_probe"`.

    Linear probing before fine-tuning keeps the pretrained features from being
    distorted by a random head: Kumar et al., ICLR 2022. Lower learning rates for
    pretrained layers: Howard & Ruder, ACL 2018. The average with the initial weights:
    Wortsman et al., CVPR 2022. One cycle of learning rates: Smith & Topin, 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import FineTunedCNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe")
    >>> clf.fit(X[:100], y[:100]).score(X[100:200], y[100:200]) > 0.8
    True

    Several tags at once:

    >>> import numpy as np
    >>> tags = np.c_[y % 2 == 0, np.isin(y, [0, 6, 8, 9])]  # even, has a loop
    >>> clf.fit(X[:100], tags[:100]).predict(X[100:102]).shape
    (2, 2)
    """

    _parameter_constraints = {
        **FineTunedNet._parameter_constraints,
        "classes": "no_validation",  # refused in words of its own
        "C": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _kinds, _saved_as = (Indicators, Labels), "FineTunedCNNClassifier"

    def __init__(
        self,
        backbone="sktl_photo",
        *,
        weights="DEFAULT",
        strategy="lp_ft",
        unfreeze_from="first",
        reinit_from=None,
        hidden_units=(),
        C="auto",
        dropout=0.0,
        lr=1e-3,
        backbone_lr_ratio=0.15,
        layer_decay=1.0,
        lr_schedule="one_cycle",
        initial_share="auto",
        max_epochs=12,
        batch_size=8,
        augment="auto",
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
        preprocessing=None,
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
        classes=None,
        **kwargs,
    ):
        self.C = C
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
            lr_schedule=lr_schedule,
            initial_share=initial_share,
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
            preprocessing=preprocessing,
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
            classes=classes,
            **kwargs,
        )

    @property
    def classes_(self):
        """The labels seen in `fit`; for indicators, the column numbers."""
        return self.target.classes

    @with_callbacks
    def fit(self, X, y, sample_weight=None, *, groups=None, **fit_params):
        """Train the network on labelled images.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes.
        y : array-like of shape (n_samples,) or (n_samples, n_tags)
            Labels of any kind: strings, numbers, bools. Or indicators, 0 and 1, as an
            array or sparse matrix; each tag must be present in some rows and absent in
            others.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each row's loss; rows of weight 0 are left out. For a head fitted
            by logistic regression, a weight of k is the same as k copies of the row; in
            training by epochs, only on average.
        groups : array-like of shape (n_samples,) or None, default=None
            The group of each row, such as a patient. `C="auto"` leaves out one group at
            a time, and `early_stopping` holds out whole groups. Passed on to
            `train_split` too; nothing else uses groups.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNClassifier

        Raises
        ------
        ValueError
            If `groups` are not one for each row, or a head is fitted with `C="auto"`
            and all rows to train on are of one group.
        TrainingDivergedError
            If the loss is no longer finite.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        return self._fit(X, y, sample_weight, groups, fit_params)

    @available_if(has_epochs)
    def partial_fit(
        self, X, y, classes=None, sample_weight=None, *, groups=None, **fit_params
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
        y : array-like of shape (n_samples,) or (n_samples, n_tags)
        classes : array-like or None, default=None
            All labels that can occur; needed in the first call unless `y` contains them
            all. For indicators, a sequence with one entry per tag, needed if a tag is
            the same in all rows.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in `fit`.
        groups : array-like of shape (n_samples,) or None, default=None
            As in `fit`; `C` is chosen in the first call.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNClassifier

        Raises
        ------
        ValueError
            If `y` contains labels that are neither in `classes` nor in the first `y`,
            or has another number of tags.
        """
        return self._fit_more(X, y, classes, sample_weight, groups, fit_params)

    def predict(self, X):
        """Predict the label or the tags of each image.

        Parameters
        ----------
        X : array-like or sequence of images
            Or a collection of Dask or Ray, as in
            `PretrainedFeatureExtractor.transform`; `predict_proba`, `predict_log_proba`
            and `decision_function` accept these too.

        Returns
        -------
        labels : ndarray of shape (n_samples,) or (n_samples, n_tags)
            Of the same type as `y`, but float64 for pandas' nullable numbers and
            booleans (Int64, boolean), as in scikit-learn; indicators are int64, 1 if
            the probability is above one half. For a collection, the result is a lazy
            collection of the same library; its columns are named by the method and, if
            there are several, by the label: `"predict"`, `"predict_proba_cat"`.
            (A callback that calls `predict` on a data set or batch of `fit` gets class
            numbers, as its targets are class numbers too. skorch's `EpochScoring` and
            `BatchScoring` score labels.)

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        probabilities = self.predict_proba(X)
        codes = self.target.choose(probabilities)
        return codes if holds_rows(X) else self.target.decode(codes)

    def predict_proba(self, X):
        """Estimate the probability of each class, or of each tag.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of `classes_`. The softmax of the logits, whatever the
            loss, unless `predict_nonlinearity` says otherwise. For indicators, the
            sigmoid of the logits, `(n_samples, n_tags)`, as in
            `sklearn.neural_network.MLPClassifier`.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        self.check_is_fitted()
        return super().predict_proba(X)

    def predict_log_proba(self, X):
        """Estimate the logarithm of the probability of each class or tag.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of `classes_`. Finite even if the probability is too
            small for a float, unless `predict_nonlinearity` was changed.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        self.check_is_fitted()
        if self._gives_probabilities():
            return self.target.log_probabilities(self.forward(X).detach()).numpy()
        return np.log(self.predict_proba(X))

    def decision_function(self, X):
        """Compute the logits.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        logits : ndarray of shape (n_samples, n_classes), dtype float64
            For two classes, of shape (n_samples,): the second logit less the first. For
            indicators, `(n_samples, n_tags)`.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read; it lists all of them.
        """
        self.check_is_fitted()
        return self.target.margins(self.forward(X).detach().numpy())

    def _check_params(self):
        super()._check_params()
        if self.classes is not None:
            raise ValueError(
                f"classes={self.classes!r} is a parameter of skorch and not used here: "
                "labels are taken from y. Leave it out, or pass it to partial_fit."
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _get_predict_nonlinearity(self):
        # skorch knows what to do for three losses, and gives logits for all others.
        if self._gives_probabilities():
            return self.target.probabilities
        return super()._get_predict_nonlinearity()

    def _gives_probabilities(self):
        asked = self.predict_nonlinearity
        return isinstance(asked, str) and asked == "auto"
