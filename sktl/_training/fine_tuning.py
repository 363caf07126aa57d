"""A skorch net that fine-tunes a pretrained network: what all its faces share.

The network is split at a cut, what is frozen is computed once, and the rest is trained
on that. What is trained, when and at which rates, the strategy says.
"""

import contextlib
import copy
import os
from functools import partial
from itertools import chain
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn import get_config
from sklearn.exceptions import NotFittedError
from sklearn.utils import gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import _check_method_params
from skorch.callbacks import BatchScoring, EpochScoring
from skorch.dataset import Dataset, unpack_data
from skorch.utils import data_from_dataset, is_dataset, to_device, to_tensor
from torch.utils.data import BatchSampler, DataLoader, Subset

from sktl._features.engine import FEW_ROWS, make_engine, resolve_precision
from sktl._features.image_input import COUNT, IMAGE_CONSTRAINTS, NetworkInputMixin
from sktl._features.pixel_network import channels_last, normalize
from sktl._networks.backbones import Backbone
from sktl._networks.stages import StagedNetwork
from sktl._targets.kinds import recognise
from sktl._targets.linear_head import HeadRows
from sktl._targets.scoring import get_scorers
from sktl._training.augmentation import make_augment
from sktl._training.averaging import AverageWithStart, share_for
from sktl._training.checkpoint import Checkpoint
from sktl._training.checks import (
    check_names,
    check_no_loading,
    check_not_disabled,
    check_same_network,
    check_split,
    check_values,
    check_watched,
)
from sktl._training.early_stopping import (
    LOSS,
    SCORE,
    KeepBest,
    check_monitor,
    hold_out,
    n_epochs_kept,
    restores_best,
)
from sktl._training.module import FineTunedModule, linear_layer
from sktl._training.net import GROUP, ROWS, WEIGHT, EstimatorNet, holds_rows
from sktl._training.rows import make_rows
from sktl._training.schedule import OneCycle
from sktl._training.scoring import score_in_training
from sktl._training.strategy import BUILDS, STRATEGIES, Strategy
from sktl._training.unfreezing import UnfreezeByStrategy
from sktl._utils.fit_tasks import CallbackSupportMixin, FitTask, start_fit
from sktl._utils.partitions import partition_name
from sktl._utils.printable import shown
from sktl._utils.torch_state import seeded
from sktl.exceptions import ImageReadError, TrainingDivergedError

# The extractor's default, so that both find the same activations in the cache.
PREFIX_BATCH_SIZE = 32
# Whose activations a prediction holds in memory; at 224 pixels, 150 kB each or more.
IMAGES_AT_ONCE = 1024
RATE = Interval(Real, 0, None, closed="neither")
NOT_FUSED = {"differentiable", "foreach"}  # choices of the user that exclude `fused`
STOP = "early_stopping"  # the name of a callback
# Training mirrors images if a fitted head predicts the same for at least this share of
# them when mirrored: for 0.98 and more of photographs, for 0.85 and less of letters.
SAME_WHEN_MIRRORED = 0.95
RATES = {"lr", "optimizer__lr", "backbone_lr_ratio", "layer_decay"}
OF_CALLBACKS = {
    "callbacks",
    "early_stopping",
    "lr_schedule",
    "monitor",
    "n_iter_no_change",
}


def has_epochs(net):
    """Whether training is by epochs, so that it can continue."""
    if not Strategy.of(net).has_epochs:
        raise AttributeError(
            "strategy='linear_probe' fits the head on all rows at once and cannot "
            "continue training. Use fit, or strategy='lp_ft'."
        )
    return True


class FineTunedNet(NetworkInputMixin, CallbackSupportMixin, EstimatorNet):
    """A skorch net whose module is a `FineTunedModule`.

    Its data sets hold what the frozen prefix gives for each image; or 8-bit images,
    where nothing is frozen or each epoch sees other images (`augment`). A face says by
    `_kinds` what may be predicted; `target` is what `fit` saw.
    """

    # As scikit-learn's splitters by groups do: who passes groups means all of them.
    __metadata_request__fit = {"groups": True}
    __metadata_request__partial_fit = {"groups": True}

    _parameter_constraints = {
        **EstimatorNet._parameter_constraints,
        **IMAGE_CONSTRAINTS,
        "strategy": [StrOptions(set(STRATEGIES))],
        "unfreeze_from": [str, Integral],
        "reinit_from": [str, Integral, None],
        "hidden_units": [tuple, list],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "lr": [RATE],
        "backbone_lr_ratio": [RATE],
        "layer_decay": [RATE],
        "lr_schedule": [StrOptions({"one_cycle", "constant"})],
        "initial_share": [
            Interval(Real, 0, 1, closed="left"),
            StrOptions({"auto"}),
        ],
        "max_epochs": [COUNT],
        "augment": "no_validation",
        "early_stopping": ["boolean"],
        "monitor": [str, callable],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [COUNT],
        "refit": ["boolean"],
        "checkpoint": [str, PathLike, None],
        "random_state": ["random_state"],
        "optimizer": [callable],
        "criterion": [callable],
    }

    def __init__(
        self,
        backbone="sktl_photo",
        *,
        weights="DEFAULT",
        strategy="lp_ft",
        unfreeze_from="first",
        reinit_from=None,
        hidden_units=(),
        dropout=0.0,
        lr=1e-3,
        backbone_lr_ratio=0.15,
        layer_decay=1.0,
        lr_schedule="one_cycle",
        initial_share="auto",
        max_epochs=12,
        batch_size=8,
        augment="auto",
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
        criterion=torch.nn.MSELoss,
        train_split=None,
        callbacks=None,
        iterator_train__shuffle=True,
        iterator_train=DataLoader,
        iterator_valid=DataLoader,
        dataset=Dataset,
        predict_nonlinearity="auto",
        warm_start=False,
        compile=False,
        use_caching="auto",
        torch_load_kwargs=None,
        **kwargs,
    ):
        self.backbone = backbone
        self.weights = weights
        self.strategy = strategy
        self.unfreeze_from = unfreeze_from
        self.reinit_from = reinit_from
        self.hidden_units = hidden_units
        self.dropout = dropout
        self.backbone_lr_ratio = backbone_lr_ratio
        self.layer_decay = layer_decay
        self.lr_schedule = lr_schedule
        self.initial_share = initial_share
        self.augment = augment
        self.early_stopping = early_stopping
        self.monitor = monitor
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.refit = refit
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.image_shape = image_shape
        self.channels = channels
        self.value_range = value_range
        self.image_size = image_size
        self.preprocessing = preprocessing
        self.precision = precision
        self.cache = cache
        self.n_jobs = n_jobs
        super().__init__(
            FineTunedModule,
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
            iterator_train=iterator_train,
            iterator_valid=iterator_valid,
            dataset=dataset,
            predict_nonlinearity=predict_nonlinearity,
            warm_start=warm_start,
            compile=compile,
            use_caching=use_caching,
            torch_load_kwargs=torch_load_kwargs,
            **kwargs,
        )

    @property
    def target(self):
        """What is predicted, as seen in `fit`."""
        if "target_" not in vars(self):
            raise NotFittedError(
                f"This {type(self).__name__} has not seen any y yet. Call fit or "
                "partial_fit; there is no need to call initialize(). For one that was "
                f"fitted earlier: {type(self).__name__}.load(path), after save(path)."
            )
        return self.target_

    @property
    def plan(self):
        """The strategy: of the network that was built, else that of the parameters."""
        asked = Strategy.of(self)
        return asked if "plan_" not in vars(self) else asked.on_network_of(self.plan_)

    @property
    def preprocessing_(self):
        """How images are prepared, as seen in `fit`."""
        return self.backbone_.preprocessing

    @property
    def n_trained_parameters_(self):
        """Parameters that are trained; during an epoch, those of its phase."""
        parameters = self.module_.parameters()
        return sum(p.numel() for p in parameters if p.requires_grad)

    @property
    def weights_license_(self):
        """Licence of published weights, if timm or torchvision give them."""
        return self.backbone_.license

    @property
    def weights_source_(self):
        """Where the weights were published; None if they were not."""
        return self.backbone_.source

    @property
    def _default_callbacks(self):
        callbacks = super()._default_callbacks
        # Parameters may be anything until `fit` has checked them, arrays for instance.
        if str(self.strategy) in ("lp_ft", "gradual"):
            callbacks += [("unfreeze", UnfreezeByStrategy())]
        if str(self.early_stopping) == "True":
            by_loss = str(self.monitor) == "loss"
            stop = KeepBest(
                LOSS if by_loss else SCORE,
                patience=self.n_iter_no_change,
                # skorch's is a share of the best score: below 0, worse ones pass it.
                threshold=0,
                lower_is_better=by_loss,
                load_best=True,
            )
            callbacks += [(STOP, stop)]
        if str(self.lr_schedule) == "one_cycle":
            callbacks += [("lr_schedule", OneCycle())]
        callbacks += [("averaging", AverageWithStart())]
        # One of the user's takes the place of ours that has its name.
        given = self.callbacks if isinstance(self.callbacks, list) else ()
        users = [named[0] for named in given if isinstance(named, tuple)]
        return [(name, callback) for name, callback in callbacks if name not in users]

    def initialize_callbacks(self):
        """As skorch's; averages after whoever restores the best weights.

        Scores are those of what the user passed as `y`.
        """
        super().initialize_callbacks()
        callbacks = [callback for _, callback in self.callbacks_]
        for callback in callbacks:
            if isinstance(callback, BatchScoring | EpochScoring):
                callback.scoring_ = partial(score_in_training, callback.scoring_)
        kinds = list(map(type, callbacks))
        restoring = [i for i, cb in enumerate(callbacks) if restores_best(cb)]
        if AverageWithStart in kinds and restoring:
            # Whoever saves the end result comes later still.
            place = kinds.index(AverageWithStart)
            if place < restoring[-1]:
                self.callbacks_.insert(restoring[-1], self.callbacks_.pop(place))
        return self

    def set_params(self, **params):
        """Set parameters; on a fitted net, when they take effect depends on their kind.

        At once, in predictions too: those that say how the network computes (`device`,
        `precision`, `batch_size`, `n_jobs`, `cache`, `verbose`, `iterator_valid__*`,
        `predict_nonlinearity`), and how `X` is read (`image_shape`, `channels`,
        `value_range`).

        In all further training, also if it goes on by `partial_fit` or with
        `warm_start=True`: those of epochs and steps (`max_epochs`, the learning rates
        and `lr_schedule`, `optimizer`, `criterion`, `class_weight`, `augment`,
        `iterator_train__*`, `early_stopping`, `monitor`, `n_iter_no_change`,
        `validation_fraction`, `train_split`, `callbacks`, `checkpoint`,
        `random_state`). Another `criterion` begins with a new state of the optimiser.

        When `fit` starts over: those that say what the network is and what it begins
        with (`backbone`, `weights`, `strategy`, `unfreeze_from`, `reinit_from`,
        `hidden_units`, `dropout`, `image_size`, `preprocessing`, `C`, `initial_share`),
        and `refit`. `partial_fit` ignores them, but `strategy="linear_probe"` without
        `hidden_units` takes it away. `fit` with `warm_start=True` ignores them too, but
        raises an error if they ask for another network (`strategy`, `hidden_units` and
        the like), and with `refit=True`.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : FineTunedNet

        Raises
        ------
        ValueError
            If a parameter does not exist, or is one of skorch's that is not used here.
            Other values are checked by `fit`.
        """
        names = set(params)
        check_names(params)
        super().set_params(**params)
        if not self.initialized_:
            return self
        if "device" in names:
            # If it is not there, predict will say so.
            with contextlib.suppress(ValueError):
                self._move()
        if names & OF_CALLBACKS and isinstance(self.callbacks, list | None):
            self._initialize_callbacks()
        if "criterion" in names:
            self._initialize_criterion()
        if "precision" in names:
            self._make_scaler()
        if not names.isdisjoint({"optimizer", "criterion"}):
            self._initialize_optimizer()
        elif not names.isdisjoint(RATES):
            self._set_rates()
        return self

    def load_params(self, f_params=None, *args, **kwargs):
        """Load what `save_params` wrote, as skorch's method does.

        It needs a fitted estimator, whose tensors are replaced; its labels and how it
        reads images stay as they are, so the file must come from a fit to the same
        ones. `load`, which reads what `save` wrote, needs no fit.

        Parameters
        ----------
        f_params : path, file or None, default=None
        *args : tuple
        **kwargs : dict
            As of `skorch.NeuralNet.load_params`.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        super().load_params(f_params, *args, **kwargs)
        # What is frozen is computed by the backbone.
        known, backbone = self.backbone_.network.tensors(), self.backbone_
        state = {n: t.cpu() for n, t in self.module_.prefix.state_dict().items()}
        if not all(torch.equal(t, known[n]) for n, t in state.items() if n in known):
            network = StagedNetwork(copy.deepcopy(backbone.network.module))
            network.load({n: t.cpu() for n, t in self.module_.backbone_state().items()})
            self.backbone_ = Backbone(backbone.name, network, backbone.preprocessing)

    @property
    def _engine(self):
        return make_engine(self.device, self.precision, self.batch_size)

    @property
    def _cycles(self):
        """Whether our schedule sets the rates."""
        cycles = [cb for _, cb in self.callbacks_ if isinstance(cb, OneCycle)]
        return any(getattr(cycle, "n_epochs_", 0) for cycle in cycles)

    def _move(self):
        """Move what was fitted to another device."""
        device = self.device
        self.module_.to(device)
        self.criterion_ = to_device(self.criterion_, device)
        for state in self.optimizer_.state.values():
            state.update(to_device(dict(state), device))

    def _set_rates(self):
        """Give the optimiser the rates that the parameters ask for now."""
        named = self.get_all_learnable_params()
        (groups,), kwargs = self.get_params_for_optimizer("optimizer", named)
        rates = {p: g.get("lr", kwargs["lr"]) for g in groups for p in g["params"]}
        for group in self.optimizer_.param_groups[:]:
            parts = {}
            for parameter in group["params"]:
                parts.setdefault(rates[parameter], []).append(parameter)
            (group["lr"], group["params"]), *others = parts.items()
            if "initial_lr" in group and self._cycles:  # in the middle of a cycle
                group["initial_lr"] = group["lr"]
            for lr, parameters in others:
                part = group | {"lr": lr, "params": parameters}
                self.optimizer_.param_groups.append(part)

    def _check_params(self):
        check_not_disabled(self.callbacks)
        super()._check_params()
        params = {n: v for n, v in vars(self).items() if n != "module"}
        check_names(params)
        check_values(params)

    def _refuse_another_network(self, remedy):
        """Refuse parameters by which another network would be built."""
        layers = self.module_.head.modules()
        dropouts = [layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)]
        built = {name: getattr(self.plan_, name) for name in BUILDS}
        built["dropout"] = dropouts[0] if dropouts else 0.0
        if isinstance(self.backbone, str):
            built["backbone"] = self.backbone_.name
        asked = {name: getattr(self, name) for name in built}
        check_same_network(asked, built, remedy)

    # ---- the network and its optimiser

    def _forget(self):
        # How far a training that failed had come can still be seen, as in skorch.
        seen = {n: vars(self)[n] for n in ("callbacks_", "history_") if n in vars(self)}
        super()._forget()
        vars(self).update(seen)
        self.initialized_, self.virtual_params_ = False, {}

    def initialize(self, backbone=None):
        """As skorch's, with a given backbone, or one that is loaded."""
        self.backbone_ = backbone
        return super().initialize()

    def initialize_module(self):
        """Build the network from the parameters, with a new head."""
        self.plan_ = plan = Strategy.of(self)
        seed = torch.randint(2**31, ()).item()
        if self.backbone_ is None:
            random = {"weights": None, "seed": seed} if plan.from_scratch else {}
            self.backbone_ = self._load_backbone(**random)
        network = self.backbone_.network
        self.frozen_up_to_ = plan.cut(network)
        self.module_ = FineTunedModule(
            network,
            self.frozen_up_to_,
            self.target.n_outputs,
            self.preprocessing_.geometry.crop,
            hidden_units=self.hidden_units,
            dropout=self.dropout,
            keep_statistics=not plan.from_scratch,
        )
        names = plan.reinitialized(network)
        if names:
            random = self._load_backbone(weights=None, seed=seed).network.tensors()
            state = {name: random[name] for name in names}
            self.module_.tail.load_state_dict(state, strict=False)
        return self

    def initialize_criterion(self):
        """As skorch's, with the loss that `criterion` stands for with this target."""
        loss = self.target.loss(self.criterion)
        params = self.get_params_for("criterion")
        self.criterion_ = self.initialized_instance(loss, params)
        return self

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Leave frozen tensors out, and give pretrained ones their lower rates."""
        trained = [(n, p) for n, p in named_parameters if p.requires_grad]
        (groups,), kwargs = super().get_params_for_optimizer(prefix, trained)
        if self.optimizer is torch.optim.AdamW and NOT_FUSED.isdisjoint(kwargs):
            # One kernel for all tensors, not ten each: small steps take half as long.
            kwargs.setdefault("fused", True)
        if "optimizer__param_groups" not in vars(self):
            groups = self.plan.groups(self.backbone_.network, trained, kwargs["lr"])
        if self.optimizer is torch.optim.LBFGS and len(groups) > 1:
            raise ValueError(
                "optimizer=LBFGS allows only one learning rate, and here there are "
                "several. Set backbone_lr_ratio=1.0 and layer_decay=1.0."
            )
        return (groups,), kwargs

    def initialize_optimizer(self, *args, **kwargs):
        """As skorch's, with a scaler of the loss for float16."""
        if self.optimizer is torch.optim.LBFGS:  # flattens all into one vector
            self.module_.to(memory_format=torch.contiguous_format)
        super().initialize_optimizer(*args, **kwargs)
        self._make_scaler()
        return self

    def _make_scaler(self):
        enabled = resolve_precision(self.precision, self.device) == torch.float16
        if enabled and self.optimizer is torch.optim.LBFGS:
            raise ValueError(
                "optimizer=LBFGS evaluates the loss several times a step, which "
                "precision='float16' does not allow. Use 'float32' or 'bfloat16'."
            )
        self.scaler_ = torch.amp.GradScaler(self.device.type, enabled=enabled)

    # ---- images to what the trained part reads

    def _images_per_batch(self):
        return PREFIX_BATCH_SIZE

    def _frozen_outputs(self, network):
        """The pair of cut and pooling; none where nothing is computed once."""
        cut = "" if self._asks_to_augment() else self.plan.cut(network)
        return [(cut, _pooling(network, cut))] if cut else []

    def _asks_to_augment(self):
        """Whether images are augmented whatever is frozen."""
        return self.augment is not None and self.augment != "auto"

    def _activations(self, images, cut):
        backbone = self.backbone_
        outputs = [(cut, _pooling(backbone.network, cut))]
        (activations,) = self._make_prefix(backbone, outputs)(images)
        return activations

    def get_dataset(self, X, y=None):
        """Turn images into a data set of what the network reads for them.

        Parameters
        ----------
        X : data set or batch of ours, Images, or anything that becomes images
        y : ndarray of shape (n,) or None
            What the loss reads.
        """
        if holds_rows(X):
            return X if is_dataset(X) else super().get_dataset(X, y)
        read = self._activations(self._open_images(X), self.frozen_up_to_)
        return super().get_dataset({ROWS: read}, y)

    def forward_iter(self, X, training=False, device="cpu"):
        """As skorch's, for a part of the images at a time: memory may not hold all."""
        self.check_is_fitted()
        parts = [X]
        if not holds_rows(X):
            parts = _divide(self._open_images(X), self.batch_size)
        failures = []
        for part in parts:
            try:
                if failures:
                    self.get_dataset(part)  # the error is to list all that fail
                else:
                    yield from super().forward_iter(part, training, device)
            except ImageReadError as error:
                failures += error.failures
        if failures:
            raise ImageReadError(failures, partition_name.get())

    def _training_set(self, rows):
        """The data set that training reads; the mean of its weights is one."""
        # Images that differ from epoch to epoch pass the frozen part each time.
        cut = "" if self._asks_to_augment() else self.frozen_up_to_
        read = {ROWS: self._activations(rows.images, cut)}
        # Equal weights say nothing about a row.
        if rows.weights is not None and np.ptp(rows.weights):
            # With a mean of one, the learning rate keeps its meaning.
            read[WEIGHT] = rows.weights / rows.mean_weight
        if rows.groups is not None:
            read[GROUP] = rows.groups
        return super().get_dataset(read, rows.codes)

    def get_iterator(self, dataset, training=False):
        """As skorch's; leaves out a last batch of one row if the network needs two."""
        loader = super().get_iterator(dataset, training)
        batches = loader.batch_sampler
        if training and self.module_.needs_two_rows and type(batches) is BatchSampler:
            n_full, rest = divmod(len(dataset), batches.batch_size)
            batches.drop_last |= rest == 1 and n_full > 0
        return loader

    def get_split_datasets(self, X, y=None, **fit_params):
        """As the net's; `early_stopping` sets a share of each class aside."""
        stops = self.early_stopping and self.plan.n_epochs
        if self.train_split is not None or not stops:
            train, valid = super().get_split_datasets(X, y, **fit_params)
            if not holds_rows(train):
                train = self._set_of(train, "training")
            if valid is not None and not holds_rows(valid):
                valid = self._set_of(valid, "validation")
            return train, valid
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = torch.randint(2**31, ()).item()
        groups = fit_params.get("groups")
        # Training that goes on holds out the same rows.
        parts = hold_out(y, self.target, groups, self.validation_fraction, seed)
        return tuple(Subset(X, rows) for rows in parts)

    def _set_of(self, given, what):
        """Make the data set that is read of what `train_split` gives."""
        try:
            images, y = data_from_dataset(given)
        except AttributeError as error:
            raise TypeError(
                f"train_split gives a {type(given).__name__} as {what} set. Pass "
                "images and targets: skorch.dataset.Dataset(X, y)."
            ) from error
        kind, images = type(self.target), self._open_images(images)
        rows = make_rows(images, np.asarray(y), kind, self.target)
        return self._training_set(rows)

    # ---- training

    def _fit(self, X, y, sample_weight, groups, fit_params):
        goes_on = self.warm_start and self.initialized_
        with self._forgetting(unless=goes_on):
            if not goes_on:
                self._forget()
                vars(self).pop("callbacks_", None)
                self.history_ = None
            self._check_params()
            if goes_on:
                self._refuse_another_network(
                    "warm_start=True continues to train that network. Set it back, or "
                    "set warm_start=False to start over"
                )
            n_epochs = self.plan.n_epochs
            at_most = None if n_epochs and self.refit else n_epochs
            task = start_fit(self, X, y, sample_weight, at_most)
            rows, split_params = self._read(
                X, y, sample_weight, groups, fit_params, goes_on=goes_on
            )
            if self.early_stopping and self.monitor != "loss" and not goes_on:
                known = rows.target.decode(rows.codes)
                get_scorers(self.monitor, rows.target, known, "monitor")
            self._train(
                rows,
                n_epochs,
                self.checkpoint,
                task,
                goes_on=goes_on,
                is_complete=not self.warm_start,
                split_params=split_params,
            )
            if self.early_stopping and self.refit:
                # Beside the checkpoint of the search.
                beside = self.checkpoint and f"{os.fspath(self.checkpoint)}.refit"
                self._train(rows, self.n_epochs_, beside, task, is_complete=True)
            task.end()
        return self

    def _fit_more(self, X, y, classes, sample_weight, groups, fit_params):
        goes_on = self.initialized_
        with self._forgetting(unless=goes_on):
            self._check_params()
            rows, split_params = self._read(
                X,
                y,
                sample_weight,
                groups,
                fit_params,
                goes_on=goes_on,
                classes=classes,
            )
            self._train(
                rows,
                self.plan.n_epochs,
                self.checkpoint,
                FitTask(self, None),
                goes_on=goes_on,
                split_params=split_params,
            )
        return self

    def _read(self, X, y, sample_weight, groups, fit_params, *, goes_on, classes=None):
        """Read what is trained on: the rows, and what the split gets besides.

        Where training goes on, `X` and `y` mean what they meant before.
        """
        images = self._open_images(X, reset=not goes_on, sample_weight=sample_weight)
        kind = type(self.target) if goes_on else recognise(y, self._kinds)
        learnt = self.target if goes_on else None
        if classes is not None:
            of_all = kind.from_classes(classes)
            learnt = learnt or of_all
            if not np.array_equal(of_all.classes, learnt.classes):
                raise ValueError(
                    f"classes={shown(classes)}, but in the first call they were "
                    f"{shown(learnt.classes.tolist())}. Leave them out."
                )
        class_weight = getattr(self, "class_weight", None)
        rows = make_rows(images, y, kind, learnt, sample_weight, class_weight, groups)
        return rows, self._split_params(fit_params, groups, len(images), rows)

    def _train(
        self,
        rows,
        n_epochs,
        checkpoint,
        task,
        *,
        goes_on=False,
        is_complete=False,
        split_params=None,
    ):
        """Solve the head if the strategy begins with that, and run the epochs.

        Parameters
        ----------
        rows : TrainingRows
        n_epochs : int
            At most, as callbacks may end training earlier.
        checkpoint : path-like or None
        task : FitTask
            Is told of each epoch.
        goes_on : bool
            Whether from the present weights.
        is_complete : bool
            Whether these are all epochs there will be; else later calls may add some.
        split_params : dict or None
            What `get_split_datasets` gets besides; None: hold no rows out.
        """
        self.target_ = rows.target
        with self._seeded():
            if not goes_on:
                self.initialize()
            check_no_loading(self.callbacks_)
            dataset = self._training_set(rows)
            train, valid = self._hold_out(
                dataset, rows.codes, split_params, is_complete
            )
            for _, callback in self.callbacks_:
                if isinstance(callback, UnfreezeByStrategy):
                    callback.is_complete_ = is_complete and self.plan.by_turns
            # Callbacks index this as skorch indexes its data sets.
            told = getattr(dataset, "X", dataset), rows.codes
            # What went wrong up to here has not changed the weights.
            with (
                self._forgetting(),
                self._naming_images_it_cannot_take(),
                self._training(*told),
                self._seeded_for_epochs(),
            ):
                self._run_epochs(train, valid, rows, n_epochs, checkpoint, task)
        callbacks = [callback for _, callback in self.callbacks_]
        self.n_epochs_ = n_epochs_kept(callbacks, self.history)

    def _hold_out(self, dataset, codes, split_params, is_complete):
        """Divide rows into those that are trained on and those, if any, that judge."""
        if split_params is None:
            return dataset, None
        train, valid = self.get_split_datasets(dataset, codes, **split_params)
        if not valid:
            check_watched(self.callbacks_)
        if self.early_stopping:
            check_monitor(self, train, valid)
            if is_complete and self.refit:
                check_watched(self.callbacks_, of_refit=True)
        return train, valid

    @contextlib.contextmanager
    def _naming_images_it_cannot_take(self):
        """Let a network of other channels, or of larger images, fail in our words."""
        try:
            yield
        except (RuntimeError, AssertionError) as error:
            whole = [(self.backbone_.network.penultimate, None)]
            self._make_prefix(self.backbone_, whole).refuse_side(error)
            raise

    def _run_epochs(self, train, valid, rows, n_epochs, checkpoint, task):
        self.check_training_readiness()
        # Before the head is fitted, whose last bits may differ between equal runs.
        # What is held out may come from arguments of `fit`, such as `groups`.
        numbers = [getattr(part, "indices", None) for part in (train, valid)]
        path = checkpoint if n_epochs else None
        checkpoint = Checkpoint(path, self, rows, numbers, n_epochs)
        if not self.history:
            self._begin(train, rows)
        for _ in range(checkpoint.n_epochs_done(), n_epochs):
            epoch = task.subtask("epoch")
            self._run_epoch(train, valid)
            checkpoint.write()
            if epoch.end():
                break

    def _begin(self, train, rows):
        """Solve the head, and choose by what it reads what is left to "auto"."""
        plan = self.plan
        augments = self.augment == "auto" and plan.n_epochs and not self.frozen_up_to_
        self.augment_ = "crop" if augments else None
        self.initial_share_ = 0.0
        if not plan.solves_head:
            return
        features = self._solve_head(train, rows)
        if augments and self._is_same_when_mirrored(train, features):
            self.augment_ = ("flip", "crop")
        if plan.starts_good and plan.n_epochs:
            auto = self.initial_share == "auto"
            share = share_for(features) if auto else self.initial_share
            self.initial_share_ = float(share)

    def _split_params(self, fit_params, groups, n, rows):
        """Arguments of `fit` for the split, of the rows that are trained on.

        Nothing else reads any but `groups`. `n` is how many rows there were in all.
        """
        check_split(self.train_split, fit_params, n - len(rows.numbers))
        if groups is not None:
            fit_params = fit_params | {"groups": groups}
        routes = get_config()["enable_metadata_routing"]
        if fit_params and self.train_split is not None and routes:
            # Requests for `fit` and `partial_fit` are the same (skorch/net.py, 1.4).
            routed = process_routing(self, "fit", **fit_params)
            fit_params = routed.get("splitter", {"split": {}})["split"]
        return _check_method_params(np.arange(n), fit_params, rows.numbers)

    def train_step(self, batch, **fit_params):
        """As skorch's, on augmented images."""
        return super().train_step(self._augmented(batch), **fit_params)

    def _augmented(self, batch):
        x, y = unpack_data(batch)
        augment = self.augment_ if self.augment == "auto" else self.augment
        return x | {ROWS: make_augment(augment)(x[ROWS])}, y

    def train_step_single(self, batch, **fit_params):
        """As skorch's, with a loss that is scaled up on its way back.

        Most gradients would be zero in float16; in other precisions it is not scaled.
        Micikevicius et al., ICLR 2018; `torch.amp`.
        """
        self._set_training(True)
        if "trained_parameters" not in self.history[-1]:
            self.history.record("trained_parameters", self.n_trained_parameters_)
        X, y = unpack_data(batch)
        y_pred = self.infer(X, **fit_params)
        loss = self.get_loss(y_pred, y, X=X, training=True)
        self.scaler_.scale(loss).backward()
        if self.scaler_.is_enabled():  # callbacks see the true gradients
            self.scaler_.unscale_(self.optimizer_)
        return {"loss": loss, "y_pred": y_pred}

    def _step_optimizer(self, step_fn):
        """As skorch's; with a scaled loss, infinite gradients make no step."""
        if not self.scaler_.is_enabled():
            super()._step_optimizer(step_fn)
            return
        step_fn()
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Stop at the first loss that is no number."""
        loss = kwargs["loss"].item()
        if not np.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss} in epoch {len(self.history)}. Try a lower lr "
                f"(now {self.lr}), a lower backbone_lr_ratio (now "
                f"{self.backbone_lr_ratio}), or precision='float32'."
            )

    def _compare(self, criterion, y_pred, y_true):
        """As the net's; gives the loss what it reads, or says that it does not suit."""
        target = self.target
        about = (
            f"criterion={type(criterion).__name__} does not suit {target.name}. It is "
            f"called with outputs of shape {tuple(y_pred.shape)} and "
            f"{target.codes_in_words} of shape {tuple(y_true.shape)} ({y_true.dtype})"
        )
        advice = f"Use another loss, such as {target.suggested_losses}."
        if type(criterion) in target.refused_losses:
            raise ValueError(f"{about}. {advice}")
        try:
            read = target.as_read_by(criterion, y_pred)
            return super()._compare(criterion, read, y_true)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{about}, and fails with {type(error).__name__}: {error}. If a "
                f"criterion__* parameter is wrong, change it. {advice}"
            ) from error

    def infer(self, x, **fit_params):
        """Map what a data set holds to logits."""
        return self._pass_through(self.module_.classify, x, **fit_params)

    def _pass_through(self, part, x, **kwargs):
        """Pass a batch through a part of the module that reads activations."""
        x = to_tensor(x[ROWS], device=self.device)
        with self._engine.autocast():
            if x.dtype == torch.uint8:
                preprocessing = self.backbone_.preprocessing
                x = normalize(x, preprocessing.mean, preprocessing.std)
                (x,) = self.module_.prefix(channels_last(x))
            return part(x, **kwargs).float()

    def _solve_head(self, dataset, rows):
        """Set a head of one layer to where training ends; return what it reads."""
        # Without epochs that augment, the head is fitted on as many augmented copies.
        probe = not self.plan.n_epochs and self._asks_to_augment()
        n_views = self.max_epochs if probe else 1
        features, codes, weights, groups = [], [], [], []
        self._set_training(False)
        for batch in chain(*(self.get_iterator(dataset) for _ in range(n_views))):
            x, y = self._augmented(batch) if probe else batch
            with torch.inference_mode():
                read = self._pass_through(self.module_.features, x)
            features.append(read.cpu().numpy())
            codes.append(y.numpy())
            weights.append(x[WEIGHT].numpy() if WEIGHT in x else np.ones(len(y)))
            groups += [x[GROUP].numpy()] if GROUP in x else []
        codes, weights_of_classes = np.concatenate(codes), rows.class_weights
        images = np.tile(np.arange(len(dataset)), n_views)
        read = HeadRows(
            np.concatenate(features),
            codes,
            # As given: the penalty on the head does not scale with the weights.
            np.concatenate(weights) * rows.mean_weight / n_views,
            None
            if weights_of_classes is None
            else rows.target.weights_by_row(codes, weights_of_classes),
            images,
            np.concatenate(groups) if groups else images,
        )
        layer, C = linear_layer(self.module_.head), getattr(self, "C", "auto")
        rows.target.solve(layer, read, self.criterion_, C)
        return read.features

    @torch.inference_mode()
    def _is_same_when_mirrored(self, dataset, features):
        """Whether the fitted head says the same of images and their mirror images."""
        outputs, mirrored = self.module_.head(to_tensor(features, self.device)), []
        for x, _ in self.get_iterator(dataset):
            x = x | {ROWS: x[ROWS].flip(2)}  # (n, h, w, 3)
            mirrored.append(self._pass_through(self.module_.classify, x))
        outputs, mirrored = outputs.cpu().numpy(), torch.cat(mirrored).cpu().numpy()
        return self.target.agreement(outputs, mirrored) >= SAME_WHEN_MIRRORED

    @contextlib.contextmanager
    def _seeded(self):
        """Draw from a generator of our own; the global ones stay as they were."""
        seed = self.random_state
        if seed is None:
            seed = np.random.SeedSequence().entropy % 2**32
        elif not isinstance(seed, Integral):
            seed = seed.randint(2**32 - 1)
        with seeded(int(seed), self.device), self._engine.exact():
            yield

    @contextlib.contextmanager
    def _seeded_for_epochs(self):
        """Where training goes on, do not repeat what the epochs before have drawn."""
        n_before = len(self.history)
        if not n_before:
            yield
            return
        drawn = torch.randint(2**31, ()).item()
        (seed,) = np.random.SeedSequence([drawn, n_before]).generate_state(1)
        with seeded(int(seed), self.device):
            yield


def _divide(images, batch_size):
    """Divide images into parts of whole batches, each of more than `FEW_ROWS`."""
    size = max(1, IMAGES_AT_ONCE // batch_size) * batch_size
    if len(images) <= size:
        return [images]
    parts = gen_batches(len(images), size, min_batch_size=FEW_ROWS + 1)
    return [images.take(range(part.start, part.stop)) for part in parts]


def _pooling(network, cut):
    """The head reads only the mean of the penultimate features."""
    return "avg" if cut == network.penultimate else None
