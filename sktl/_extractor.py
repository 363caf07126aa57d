"""`PretrainedFeatureExtractor`: images in, a feature matrix out."""

import reprlib

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted
from torch.nn import Module

from sktl._features.image_input import IMAGE_CONSTRAINTS, NetworkInputMixin
from sktl._utils.fit_tasks import CallbackSupportMixin, start_fit, with_callbacks
from sktl._utils.partitions import first_partition, takes_collections
from sktl.exceptions import WeightsMismatchError

POOLINGS = {"avg", "max", "avgmax", "cls", "cls+avg", "flatten"}


@takes_collections("transform", "fit_transform")
class PretrainedFeatureExtractor(
    NetworkInputMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator
):
    """Turn images into features computed by a frozen, pretrained network.

    Nothing is trained. `fit` inspects the form of the images and checks the weights;
    `transform` passes every image through the network and caches the result, so that
    cross-validation and grid search over later steps of a pipeline compute it once per
    image, not once per fold.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="sktl_photo"
        A name from `list_backbones()`. Two ship with the package: `"sktl_photo"`, for
        photographs, and `"sktl_mini"`, which takes a third of the time and suits small
        images. For photographs, larger networks are better. Or a name of a timm
        network, such as `"timm/convnext_atto"` (`list_backbones("timm")`); or a network
        of your own that `torch.fx` can trace (see Notes).
    weights : str, path-like, torchvision weights, dict or None, default="DEFAULT"
        `"DEFAULT"` or another torchvision weight name (downloaded once, into torch's
        hub directory); a state dict, or the path of a `.safetensors` or `.pth` file
        that holds one (it may be nested under the key `"state_dict"`, and its names may
        have a prefix such as `"module."`); None for random weights, always the same
        ones (as after `torch.manual_seed(0)`), whose features can be tiny: put
        `GlobalScaler` behind the extractor. A file that has changed is read again. If
        `backbone` is a module, `"DEFAULT"` keeps its weights, and None redraws them by
        each layer's `reset_parameters`.
    layers : str or list of str, default="penultimate"
        Layers whose outputs are the features: names from `layer_names(backbone)`, or
        `"penultimate"`, which is the input of the classification layer (for a network
        without one, its output). Several layers are computed in one pass and
        concatenated. Nothing after the last one is computed.
    pooling : str, default="avg"
        How a feature map becomes one row: by the mean (`"avg"`) or maximum (`"max"`)
        over its positions, by both (`"avgmax"`), or by flattening it (`"flatten"`). For
        the tokens of a vision transformer (see Notes), mean and maximum are over the
        patches only; `"cls"` takes the class token, and `"cls+avg"` the class token and
        the mean.
    image_shape : tuple of int or None, default=None
        How a row of a 2-D `X` becomes an image: `(h, w)` or `(h, w, c)`; one of them
        may be -1. None means a square image, grey if that fits, else RGB.
    channels : {"auto", "last", "first"}, default="auto"
        Where the channel axis of a 4-D array is. `"auto"` refuses ambiguous shapes.
    value_range : "auto" or tuple of (float, float), default="auto"
        The numbers that mean black and white. `"auto"` is 0-255 for uint8 and 0-65535
        for uint16; for other dtypes, it is the smallest of 0-1, 0-16, 0-255 and 0-65535
        that contains the data seen in `fit`, or else their minimum and maximum. Data
        that exceed a range by up to a hundredth of their own spread, such as by
        rounding, still count as contained, and are clipped. An `ImageRangeWarning` is
        raised, in `fit` or later, if `X` seems to be on another scale: more than 1 % of
        its numbers are outside the range by more than a tenth of its width, or all are
        below an eighth of its upper end. (The second check needs four images that are
        not of a single colour.) At most 256 images are checked, evenly spread over `X`.
        If you pass a range, only images of 8 bits are checked. That range holds for
        arrays of numbers, uint8 too, and for files and PIL images deeper than 8 bits.
        Those of 8 bits are always read as 0-255.
    image_size : int or None, default=None
        Side, in pixels, of the square image that the network gets. None means the size
        the weights were trained for.
        Short for `preprocessing=Preprocessing(crop=image_size)`.
    preprocessing : Preprocessing or None, default=None
        How images are resized, cropped and normalised; `Preprocessing(fit="pad")` keeps
        their borders, for instance. None prepares them as in the training of the
        weights, which torchvision's weights and the `pretrained_cfg` of a timm network
        specify. For networks and weight files that do not specify it, the preprocessing
        of the network's default weights is assumed, or else that of most ImageNet
        networks, and a warning shows it.
    batch_size : int, default=32
        Images per batch. The last is padded to this size, so that a row of features
        does not depend on the other rows; an `X` of one to three rows is not padded. On
        a CPU, batches of large images are smaller, which is faster: 8 images at 224
        pixels.
    device : str or torch.device, default="auto"
        `"auto"` is the current GPU if a usable one is present, else the CPU. The worker
        processes of a pool take the visible GPUs in turn.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Number format in which the network computes; features are always float32.
        `"auto"` is bfloat16 if the hardware has matrix units for it (tensor cores, AMX;
        features then differ by about 1e-2 of their size), else float32.
        `"float32"` is full float32: TF32 is switched off during sktl's calls.
    cache : "memory", path-like or None, default="memory"
        Where features are cached: in this process, in a directory shared with other
        processes of this machine and with later sessions, or nowhere. Anyone who can
        write to the directory can put wrong features there (no code in it is ever run),
        so a warning is raised if others can write to it. Another is raised if it is on
        a network drive, where file locks may not work.
    on_error : {"raise", "nan"}, default="raise"
        What to do if images cannot be read: raise one error that lists all of them, or
        return rows of NaN with one warning that lists them. A numeric array that holds
        NaN is an error in any case.
    n_jobs : int or None, default=None
        Threads that read and decode images. None means one.
    verbose : int, default=0
        Positive values show a progress bar.

    Attributes
    ----------
    layers_ : list of str
        The layers computed, in order.
    layer_widths_ : list of int
        Number of columns for each of these layers.
    n_features_out_ : int
        Number of columns.
    network_digest_ : str
        SHA-256 of the network's weights and graph, which determine its output;
        `transform` raises an error if the network has changed.
    preprocessing_ : Preprocessing
        How images are prepared.
    weights_license_, weights_source_ : str or None
        Licence and URL of published weights, if timm or torchvision states them.
    weights_accuracy_ : float or None
        ImageNet-1K accuracy of the weights, from 0 to 1, as published by torchvision.
    value_range_ : tuple of (float, float) or None
        `value_range`, or the range inferred in `fit`; None if the dtype determines it.
    n_features_in_ : int
        Number of columns of `X`; only for 2-D `X`.
    feature_names_in_ : ndarray of str
        Column names of `X`; only for data frames.

    See Also
    --------
    FineTunedCNNClassifier : Fine-tunes such a network.
    RawPixels : The images themselves as rows, to compare with.
    compare_transfer : Measures whether transfer helps.

    Notes
    -----
    Memory: the result takes 4 bytes per number. Images pass in blocks of at most 1,024
    images or 32 MiB (on a GPU, at least six batches); up to two blocks are in memory,
    and up to 256 MiB of files that were read ahead. Each of `n_jobs` threads decodes
    one file at a time, which takes about 7 bytes per pixel for JPEG and PNG, 10 for
    progressive JPEG and TIFF, 12 for a transparent PNG, 16 for WebP (and for what is
    transparent and turned by EXIF). Files of more than 105 million pixels are refused
    before they are decoded; the environment variable `SKTL_MAX_IMAGE_PIXELS` sets
    another limit. The network is shared by all extractors of a process.

    Networks of your own take normalised images `(n, 3, h, w)`. Their output is class
    scores, or features if the classification layer was removed (`fc = Identity()`,
    `.features`, timm's `num_classes=0`). It counts as class scores if only reshaping,
    averaging, dropout, softmax or sigmoid come after the last Linear or convolution; in
    doubtful cases a warning says which layer's output is used.

    Vision transformers: with `pooling="cls"` and `"cls+avg"`, `"penultimate"` means the
    last layer that has a class token. With the others, if the penultimate layer has no
    positions left, there is nothing to pool: its output is what the network's own head
    reads. That is the class token for ViT and DeiT (of torchvision and timm) and
    DINOv2, the mean over patches for BEiT, EVA-02, DINOv3 and Swin, attention pooling
    for SigLIP, and the mean of the tokens of its two heads for distilled DeiT.

    Using the activations of a network trained on another task as features for linear
    models: Donahue et al., DeCAF, ICML 2014; Razavian et al., CVPR Workshops 2014.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import PretrainedFeatureExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> model = make_pipeline(
    ...     PretrainedFeatureExtractor(), LogisticRegression(max_iter=1000)
    ... )
    >>> model.fit(X[:100], y[:100]).score(X[100:200], y[100:200]) > 0.8
    True
    """

    _parameter_constraints = IMAGE_CONSTRAINTS | {
        "layers": [str, list, tuple],
        "pooling": [StrOptions(POOLINGS)],
        "on_error": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        backbone="sktl_photo",
        *,
        weights="DEFAULT",
        layers="penultimate",
        pooling="avg",
        image_shape=None,
        channels="auto",
        value_range="auto",
        image_size=None,
        preprocessing=None,
        batch_size=32,
        device="auto",
        precision="auto",
        cache="memory",
        on_error="raise",
        n_jobs=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.pooling = pooling
        self.image_shape = image_shape
        self.channels = channels
        self.value_range = value_range
        self.image_size = image_size
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X, y=None):
        """Inspect the form of the images and check the weights; nothing is trained.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `transform` accepts. Only the first partition of a Dask
            collection is inspected, and 256 rows of a Ray Dataset.
        y : None
            Ignored.

        Returns
        -------
        self : PretrainedFeatureExtractor

        Raises
        ------
        UnknownBackboneError, UnknownLayerError
            If a name is not known; the message suggests similar ones.
        WeightsNotAvailableError
            If named weights are not on this machine and cannot be downloaded.
        WeightsMismatchError
            If the weights belong to another network.
        ImageLayoutError
            If the shape of `X` does not determine how its numbers form images.
        """
        self._fit(first_partition(X))
        return self

    def fit_transform(self, X, y=None):
        """Fit to `X` and compute its features.

        Parameters
        ----------
        X : array-like or sequence of images
            In any form that `transform` takes.
        y : None
            Ignored.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features), dtype float32
            As from `fit(X).transform(X)`.

        Raises
        ------
        ImageReadError
            If images cannot be read and `on_error="raise"`; it lists all of them. For
            other errors, see `fit` and `transform`.
        """
        return self._features(*self._fit(X))

    def transform(self, X):
        """Pass each image through the frozen network.

        Parameters
        ----------
        X : array-like or sequence of images
            uint8, uint16 or float arrays `(n, h, w)`, `(n, h, w, c)`, `(n, c, h, w)`;
            rows `(n, n_pixels)`; a list, array, Series or one-column frame of paths,
            PIL images, arrays, encoded `bytes` or open binary files; torch tensors.
            Sizes may differ from those seen in `fit`, and between the images of a list.
            Or a collection of any length whose partitions have one of these forms: a
            Dask DataFrame, Series, Bag or Array, or a Ray Dataset of one column.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features), dtype float32
            In the order of `X`; empty if `X` is empty. If `X` has four rows or more,
            each row depends on its image alone, to the last bit (for the same device
            and number of threads). One to three rows are computed without padding to a
            full batch, which is many times as fast; they may differ from rows of a full
            batch by rounding (about 1e-6 of their size in float32). They are looked up
            in the cache but not added to it.

            For a collection, the result is a lazy collection of the same library,
            whatever `set_output` says: a Dask Array for an Array, a Ray Dataset for a
            Dataset, and otherwise a Dask DataFrame with the index and divisions of `X`.
            Its columns are named as by `get_feature_names_out`. Each row depends on its
            image alone, even in a partition of fewer than four rows. (An empty Ray
            Dataset has no columns.)

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ImageReadError
            If images cannot be read and `on_error="raise"`. The error lists all of
            them; for a collection, all those of one partition. (Ray wraps it in an
            error of its own.)
        RuntimeError
            If workers of a cluster lack this version of sktl.
        WeightsMismatchError
            If the network is not the same as in `fit`.
        ValueError
            If `X` is not in the same form as in `fit`, or if activations are too large
            for `precision="float16"`.
        """
        check_is_fitted(self)
        backbone = self._load_backbone(preprocessing=self.preprocessing_)
        if backbone.digest != self.network_digest_:
            raise WeightsMismatchError(
                f"backbone={backbone.name!r} is not the network that fit saw: its "
                f"digest is {backbone.digest[:16]}... and was "
                f"{self.network_digest_[:16]}... in fit. Its weights, layers or hooks, "
                "or the version of torch or torchvision, have changed; restore them, "
                "or fit again."
            )
        return self._features(self._open_images(X), backbone)

    def get_feature_names_out(self, input_features=None):
        """Name the columns by backbone, layer, pooling and index.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Must equal `feature_names_in_` if that is defined; otherwise ignored.

        Returns
        -------
        names : ndarray of str
            Such as `"resnet18_flatten_avg_007"`. Numbers are padded with zeros, so that
            sorted names keep their order. For a `torch.nn.Module`, the name of the
            backbone is that of its class and the beginning of `network_digest_`.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        names = [
            f"{self._backbone_name}_{layer}_{self._pooling}_{i:0{len(str(width - 1))}}"
            for layer, width in zip(self.layers_, self.layer_widths_, strict=True)
            for i in range(width)
        ]
        return np.asarray(names, dtype=object)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_out_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @with_callbacks
    def _fit(self, X):
        self._forget()
        with self._forgetting():
            self._check_params()
            task = start_fit(self, X)
            images = self._open_images(X, reset=True)
            backbone = self._load_backbone()
            outputs = self._frozen_outputs(backbone.network)
            shapes = self._make_prefix(backbone, outputs).output_shapes()
        # Parameters set later take effect at the next fit.
        self._pooling = self.pooling
        is_named = isinstance(self.backbone, str)
        suffix = "" if is_named else f"_{backbone.digest[:8]}"
        self._backbone_name = f"{backbone.name}{suffix}"
        self.preprocessing_ = backbone.preprocessing
        self.weights_license_ = backbone.license
        self.weights_source_ = backbone.source
        self.weights_accuracy_ = backbone.accuracy
        self.layers_ = [layer for layer, _ in outputs]
        self.network_digest_ = backbone.digest
        self.layer_widths_ = [width for (width,) in shapes]
        self.n_features_out_ = sum(self.layer_widths_)
        task.end()
        return images, backbone

    def _frozen_outputs(self, network):
        """Pairs of layer and pooling, in the order of the columns."""
        layers = [self.layers] if isinstance(self.layers, str) else list(self.layers)
        if not layers:
            raise ValueError(
                "layers=[] is empty. Pass names from sktl.layer_names(backbone), or "
                "'penultimate'."
            )
        wants_class = self.pooling.startswith("cls")
        with_class = [cut for cut in network.cuts if network.has_class_token(cut)]
        last = network.penultimate
        if wants_class and with_class:
            last = with_class[-1]
        names = [
            last if name == "penultimate" else network.check_cut(name)
            for name in layers
        ]
        lacking = [name for name in names if wants_class and name not in with_class]
        if lacking:
            which = f"Layers that have one: {reprlib.repr(with_class)}."
            if not with_class:
                which = "Only vision transformers have one."
            raise ValueError(
                f"pooling={self.pooling!r} reads a class token, but layer "
                f"{lacking[0]!r} has none. {which} For others, use pooling='avg'."
            )
        if len(set(names)) < len(names):
            raise ValueError(
                f"layers={self.layers!r} lists a layer twice: they are {names}. Pass "
                "each layer once."
            )
        return [(name, self.pooling) for name in names]

    def _features(self, images, backbone):
        outputs = [(layer, self._pooling) for layer in self.layers_]
        parts = self._make_prefix(backbone, outputs)(images, self.on_error)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def as_extractor(backbone, parameter="backbone"):
    """Make an unfitted extractor of what stands for a network.

    Parameters
    ----------
    backbone : str, torch.nn.Module or PretrainedFeatureExtractor
        The last brings its own weights, image size, cache and so on; it is copied.
    parameter : str
        What the user calls it.
    """
    if isinstance(backbone, PretrainedFeatureExtractor):
        return clone(backbone)
    if isinstance(backbone, str | Module):
        return PretrainedFeatureExtractor(backbone)
    raise ValueError(
        f"{parameter} is a {type(backbone).__name__}. Accepted: a name of "
        "sktl.list_backbones(), a torch.nn.Module, or an instance of "
        "PretrainedFeatureExtractor."
    )
