"""`FineTunedCNNClassifier`: a pretrained network whose later part is trained."""

import json
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length
from skorch.utils import is_dataset

from sktl._finetuning import FineTunedNetwork, solve_head
from sktl._image_input import IMAGE_CONSTRAINTS, ImageInputMixin
from sktl._images import Images
from sktl._labels import check_labels, encode, list_classes
from sktl._net import FrozenPrefixNet

# The prefix runs in batches of this size whatever the size of training batches, so
# that its activations are those the extractor computes by default.
PREFIX_BATCH_SIZE = 32

EPOCHS = Interval(Integral, 1, None, closed="left")
RATE = Interval(Real, 0, None, closed="neither")


class FineTunedCNNClassifier(ImageInputMixin, FrozenPrefixNet):
    """Classify images by a pretrained network whose later part is trained on them.

    The network's classifier is replaced by a new linear head. Which of the other
    layers are trained besides, and in which order, is the `strategy`. The frozen part
    sees each image once, whatever the number of epochs: its output is what training
    reads.

    This is a skorch net: `history`, `callbacks`, `optimizer__*`, `iterator_train__*`
    and the rest work as in any other.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_mini"
        A name of `list_backbones()`, or a network from normalised images
        `(n, 3, h, w)` to class scores that `torch.fx` can trace.
    weights : str, path-like, torchvision weights or None, default="DEFAULT"
        As in `PretrainedFeatureExtractor`. Not used by `strategy="scratch"`.
    strategy : {"lp_ft", "linear_probe", "full", "scratch"}, default="lp_ft"
        `"linear_probe"` trains the head alone, by logistic regression on the frozen
        features. `"lp_ft"` does that first and then trains the stages from
        `unfreeze_from` on together with the head. `"full"` trains everything from the
        pretrained weights on. `"scratch"` trains everything from random weights.
    unfreeze_from : str or int, default="last"
        For `"lp_ft"`: the first stage that is trained. A stage name, the path of a
        block in one, a glob, `"last"`, or a number of stages counted from the head.
    lr : float, default=1e-3
        Learning rate of the head, and of everything in `"scratch"`.
    backbone_lr_ratio : float, default=0.1
        Learning rate of pretrained layers as a share of `lr`.
    max_epochs : int, default=20
        Passes over the training rows. `"linear_probe"` is solved without epochs.
    batch_size : int, default=32
        Training rows per step.
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
        `"auto"` is the first GPU where there is one, else the CPU.
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
        The loss of logits and class numbers.
    train_split : callable or None, default=None
        skorch's internal validation split. None trains on all rows.
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
        Losses and times per epoch; empty after `"linear_probe"`.
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
    modules behave as in training, those called as functions do not. float16 is meant
    for prediction: gradients are not rescaled.

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

    _parameter_constraints = IMAGE_CONSTRAINTS | {
        "strategy": [StrOptions({"linear_probe", "lp_ft", "full", "scratch"})],
        "unfreeze_from": [str, Integral],
        "lr": [RATE],
        "backbone_lr_ratio": [RATE],
        "max_epochs": [EPOCHS],
        "random_state": ["random_state"],
        "optimizer": [callable],
        "criterion": [callable],
    }

    def __init__(
        self,
        backbone="sktl_mini",
        *,
        weights="DEFAULT",
        strategy="lp_ft",
        unfreeze_from="last",
        lr=1e-3,
        backbone_lr_ratio=0.1,
        max_epochs=20,
        batch_size=32,
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
        super().__init__(
            FineTunedNetwork,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            device=device,
            verbose=verbose,
            optimizer=optimizer,
            criterion=criterion,
            train_split=train_split,
            callbacks=callbacks,
            iterator_train__shuffle=iterator_train__shuffle,
            **kwargs,
        )
        self.backbone = backbone
        self.weights = weights
        self.strategy = strategy
        self.unfreeze_from = unfreeze_from
        self.backbone_lr_ratio = backbone_lr_ratio
        self.random_state = random_state
        self.image_shape = image_shape
        self.channels = channels
        self.value_range = value_range
        self.image_size = image_size
        self.precision = precision
        self.cache = cache
        self.n_jobs = n_jobs

    def fit(self, X, y, **fit_params):
        """Train the network on labelled images.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `PretrainedFeatureExtractor.transform` takes.
        y : array-like of shape (n_samples,)
            Labels of any kind: strings, numbers, bools.
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
        self._check_params()
        images = self._open_images(X, reset=True)
        goes_on = self.warm_start and self.initialized_
        codes = self._encode(images, y, reset=not goes_on)
        with self._seeded():
            if not goes_on:
                self.initialize()
            self._train(images, codes, **fit_params)
        return self

    def partial_fit(self, X, y, classes=None, **fit_params):
        """Go on training from the present weights, for `max_epochs` more epochs.

        Parameters
        ----------
        X : array-like or sequence of images
        y : array-like of shape (n_samples,)
        classes : array-like or None, default=None
            All labels that will ever come; needed in the first call unless `y` holds
            them all.
        **fit_params : dict
            Passed on to `train_split`.

        Returns
        -------
        self : FineTunedCNNClassifier

        Raises
        ------
        ValueError
            If `y` holds labels that were not there at first, or the strategy is
            `"linear_probe"`, which has no epochs to add.
        """
        first = not self.initialized_
        if first:
            self._check_params()
        if self.strategy == "linear_probe":
            raise ValueError(
                "strategy='linear_probe' is solved on all rows at once and cannot go "
                "on from where it was. Use fit, or strategy='lp_ft'."
            )
        images = self._open_images(X, reset=first)
        if first and classes is not None:
            self._encode(range(len(classes)), classes, reset=True)
        codes = self._encode(images, y, reset=first and classes is None)
        with self._seeded():
            if first:
                self.initialize()
            self._train(images, codes, **fit_params)
        return self

    def predict(self, X):
        """Predict the label of each image.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Of the kind that `y` was. For a skorch data set, whose targets are class
            numbers, class numbers.
        """
        codes = self.predict_proba(X).argmax(axis=1)
        return codes if is_dataset(X) else self.classes_[codes]

    def predict_proba(self, X):
        """Estimate the probability of each class.

        Parameters
        ----------
        X : array-like or sequence of images

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of `classes_`.
        """
        self.check_is_fitted()
        return super().predict_proba(X)

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
        logits = self.forward(X).numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def save_backbone(self, path, precision="float32"):
        """Write the network without its head, to be used as `weights=path`.

        Parameters
        ----------
        path : path-like
            Ends in `.safetensors`.
        precision : {"float32", "float16"}, default="float32"
            float16 halves the file and changes weights by up to 5e-4 of their size.
        """
        self.check_is_fitted()
        dtypes = {"float32": torch.float32, "float16": torch.float16}
        if precision not in dtypes or Path(path).suffix != ".safetensors":
            raise ValueError(
                f"save_backbone({str(path)!r}, {precision!r}): the path must end in "
                "'.safetensors', and precision be 'float32' or 'float16'."
            )
        dtype = dtypes[precision]
        state = {
            name: (t.to(dtype) if t.is_floating_point() else t).cpu().contiguous()
            for name, t in self.module_.backbone_state().items()
        }
        metadata = {
            "backbone": self._backbone.name,
            "sktl": version("sktl"),
            "classes": json.dumps(self.classes_.tolist(), default=str),
        }
        # safetensors' own save_file makes files that only their owner can read.
        Path(path).write_bytes(safetensors.torch.save(state, metadata))

    # ---- skorch's hooks

    def initialize_module(self):
        """Build the network from the parameters, with a new head."""
        scratch = self.strategy == "scratch"
        seed = torch.randint(2**31, ()).item()
        asked = {"weights": None, "seed": seed} if scratch else {}
        self._backbone = self._load_backbone(**asked)
        self.frozen_up_to_ = self._cut(self._backbone.network)
        self.module_ = FineTunedNetwork(
            self._backbone.network,
            self.frozen_up_to_,
            len(self.classes_),
            keep_statistics=not scratch,
        )
        return self

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Run the epochs, except for a head that is solved without any."""
        dataset = self.get_dataset(X, y)
        if self.strategy == "linear_probe":
            train, _ = self.get_split_datasets(dataset, y, **fit_params)
            self._solve_head(train)
            return self
        return super().fit_loop(dataset, y, epochs, **fit_params)

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Before the very first epoch, solve the head on the training rows."""
        super().on_epoch_begin(net, dataset_train=dataset_train, **kwargs)
        if self.strategy == "lp_ft" and len(self.history) == 1:
            self._solve_head(dataset_train)

    def get_dataset(self, X, y=None):
        """Turn images into a data set of what the frozen part gives for them."""
        if is_dataset(X):
            return X
        images = X if isinstance(X, Images) else self._open_images(X)
        return super().get_dataset(self._activations(images), y)

    # ---- steps of our own

    def _cut(self, network):
        """The cut up to which the strategy freezes."""
        if self.strategy == "linear_probe":
            return network.penultimate
        if self.strategy == "lp_ft":
            return network.resolve_stage(self.unfreeze_from)
        return ""

    def _activations(self, images):
        penultimate = self._backbone.network.penultimate
        pooling = "avg" if self.frozen_up_to_ == penultimate else None
        prefix = self._make_prefix(
            self._backbone, [self.frozen_up_to_], pooling, batch_size=PREFIX_BATCH_SIZE
        )
        (activations,) = prefix(images)
        return activations

    def _solve_head(self, dataset):
        features, codes = [], []
        self._set_training(False)
        for x, y in self.get_iterator(dataset, training=False):
            with torch.inference_mode():
                rows = self._run(self.module_.features, x)
            features.append(rows.cpu().numpy())
            codes.append(y.numpy())
        solve_head(self.module_.head, np.concatenate(features), np.concatenate(codes))

    def _encode(self, images, y, *, reset):
        """Turn labels into class numbers; `reset` learns the classes."""
        labels = check_labels(y)
        check_consistent_length(images, labels)
        if self.classes is not None:
            raise ValueError(
                f"classes={self.classes!r} is skorch's parameter and has no use here: "
                "the labels are learnt from y. Leave it out; partial_fit takes classes."
            )
        if reset:
            self.classes_inferred_ = list_classes(labels)
        return encode(labels, self.classes_)
