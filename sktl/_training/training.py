"""Which layers are trained, in which order and at what rates, on which rows.

The strategies of `FineTunedCNNClassifier` as hooks of its skorch net: the network is
split at a cut, what is frozen is computed once, and the rest is trained on that.
"""

import copy
import os
from itertools import chain

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metadata_routing import _routing_enabled, process_routing
from sklearn.utils.validation import _check_sample_weight, check_consistent_length
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit, unpack_data
from skorch.utils import is_dataset, to_tensor

from sktl._features.engine import make_engine
from sktl._features.prefix import normalize
from sktl._images.forms import Images
from sktl._training.augmentation import make_augment
from sktl._training.checkpoint import Checkpoint
from sktl._training.labels import check_labels, encode, list_classes
from sktl._training.net import ROWS, WEIGHT, CuredNet
from sktl._training.network import FineTunedNetwork, linear_layer, solve_head
from sktl._utils.fit_tasks import FitTask
from sktl.callbacks import GradualUnfreeze

# Whatever training's is, so that activations are those of the extractor's default.
PREFIX_BATCH_SIZE = 32
NOT_FUSED = {"differentiable", "foreach"}  # choices of the user that exclude `fused`
# These begin with the best head on frozen features.
PROBE_FIRST = ("linear_probe", "lp_ft", "gradual")


def has_epochs(net):
    """Whether training is by epochs, to which others can be added."""
    if net.strategy == "linear_probe" and not net.hidden_units:
        raise AttributeError(
            "strategy='linear_probe' is solved on all rows at once and cannot go "
            "on from where it was. Use fit, or strategy='lp_ft'."
        )
    return True


class KeepBest(EarlyStopping):
    """skorch's `EarlyStopping`, for which the solved head is a state like any other."""

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        """Before the first epoch, note how good the network is already."""
        probed = len(net.history) == 1 and net.strategy in PROBE_FIRST
        if probed and dataset_valid is not None:
            self.dynamic_threshold_ = net._mean_loss(dataset_valid)
            self.best_model_weights_ = copy.deepcopy(net.module_.state_dict())

    def on_epoch_end(self, net, **kwargs):
        """Judge the epoch, unless no row was set aside to judge by."""
        if "valid_loss" in net.history[-1]:
            super().on_epoch_end(net, **kwargs)

    def on_train_end(self, net, **kwargs):
        """Go back to the best weights, if there were epochs to compare."""
        if self.best_model_weights_ is not None:
            super().on_train_end(net, **kwargs)


class FrozenPrefixNet(CuredNet):
    """A skorch net whose module is a `FineTunedNetwork`.

    Its data sets hold what the frozen prefix gives for each image; or 8-bit images,
    where nothing is frozen or each epoch sees other images (`augment`).
    """

    @property
    def _default_callbacks(self):
        callbacks = super()._default_callbacks
        # Parameters may be anything until `fit` has checked them, arrays for instance.
        if str(self.strategy) in ("lp_ft", "gradual"):
            # Which stages there are is known when there is a network.
            callbacks += [("unfreeze", GradualUnfreeze(stages={}))]
        if str(self.early_stopping) == "True":
            stop = KeepBest(patience=self.n_iter_no_change, load_best=True)
            callbacks += [("early_stopping", stop)]
        return callbacks

    # ---- the network

    def initialize_module(self):
        """Build the network from the parameters, with a new head."""
        scratch = self.strategy == "scratch"
        seed = torch.randint(2**31, ()).item()
        asked = {"weights": None, "seed": seed} if scratch else {}
        restored = vars(self).pop("_restored", None)
        self._backbone = restored or self._load_backbone(**asked)
        network = self._backbone.network
        self.frozen_up_to_ = self._cut(network)
        self.module_ = FineTunedNetwork(
            network,
            self.frozen_up_to_,
            len(self.classes_),
            hidden_units=self.hidden_units,
            dropout=self.dropout,
            keep_statistics=not scratch,
        )
        if self.reinit_from is not None and not scratch:
            self._reinitialize(seed)
        return self

    def _cut(self, network):
        """The cut up to which the strategy freezes."""
        if self.strategy == "linear_probe":
            return network.penultimate
        if self.strategy == "lp_ft":
            return network.resolve_stage(self.unfreeze_from)
        if self.strategy == "gradual" and self.unfreeze_from != "last":
            return network.resolve_stage(self.unfreeze_from)
        return ""

    def _reinitialize(self, seed):
        """Give everything from the stage `reinit_from` on random weights."""
        names = self._reinitialized()
        if not names <= set(self.module_.tail.state_dict()):
            raise ValueError(
                f"reinit_from={self.reinit_from!r} begins before what "
                f"strategy={self.strategy!r} trains (after {self.frozen_up_to_!r}), so "
                "random weights would stay random. Begin later, or unfreeze more."
            )
        random = self._load_backbone(weights=None, seed=seed).network.tensors()
        self.module_.tail.load_state_dict({n: random[n] for n in names}, strict=False)

    def _reinitialized(self):
        """Names of the backbone's tensors that begin with random weights."""
        if self.reinit_from is None:
            return set()
        network = self._backbone.network
        cut = network.resolve_stage(self.reinit_from, "reinit_from")
        stages = network.stage_tensors(cut)
        saved = self.module_.saved_names
        return {name for names in stages.values() for name in names if name in saved}

    def _stages_in_turn(self):
        """Names of parameters and layers by stage; the last stage is trained first."""
        module = self.module_
        known = {*dict(module.named_parameters()), *dict(module.named_modules())}
        stages = {}
        network = self._backbone.network
        for stage, names in network.stage_tensors(self.frozen_up_to_).items():
            names = [f"tail.{name}" for name in names if f"tail.{name}" in known]
            stages |= {stage: names} if names else {}
        if self.strategy == "lp_ft":
            names = [name for names in stages.values() for name in names]
            stages = {next(iter(stages)): names}
        if linear_layer(self.module_.head) is None:
            stages["head"] = ["head"]  # cannot be solved: trained alone first
        return stages

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Leave frozen tensors out, and give pretrained ones their lower rates."""
        trainable = [(n, p) for n, p in named_parameters if p.requires_grad]
        (groups,), kwargs = super().get_params_for_optimizer(prefix, trainable)
        if self.optimizer is torch.optim.AdamW and NOT_FUSED.isdisjoint(kwargs):
            # One kernel for all tensors, not ten each: small steps take half as long.
            kwargs.setdefault("fused", True)
        if self.strategy == "scratch" or "optimizer__param_groups" in vars(self):
            return (groups,), kwargs
        rates = self._rates(kwargs["lr"])
        groups = {}
        for name, parameter in trainable:
            lr = rates.get(name, kwargs["lr"])
            groups.setdefault(lr, {"params": [], "lr": lr})["params"].append(parameter)
        return (list(groups.values()),), kwargs

    def _rates(self, lr):
        """Learning rates of parameters that begin with good values, by name."""
        stages = self._backbone.network.stage_tensors(self.frozen_up_to_)
        random = self._reinitialized()
        lr = lr * self.backbone_lr_ratio
        rates = {
            f"tail.{name}": lr * self.layer_decay**depth
            for depth, names in enumerate(reversed(stages.values()))
            for name in names
            if name not in random
        }
        # A solved head is where training would bring it: larger steps lead away.
        solved = self.strategy in PROBE_FIRST and linear_layer(self.module_.head)
        if solved and self.reinit_from is None:
            names = (name for name, _ in self.module_.named_parameters())
            rates |= {name: lr for name in names if name.startswith("head.")}
        return rates

    # ---- the rows

    def _label(self, images, y, sample_weight, *, reset):
        """Put class numbers and weights to images; `reset` learns the classes.

        Returns
        -------
        images : Images
            Without those of weight zero.
        codes : ndarray of shape (n,)
        weights : ndarray of shape (n,) or None
            What `class_weight` and `sample_weight` make together.
        """
        labels = check_labels(y)
        check_consistent_length(images, labels)
        if self.classes is not None:
            raise ValueError(
                f"classes={self.classes!r} is skorch's parameter and has no use here: "
                "the labels are learnt from y. Leave it out; partial_fit takes classes."
            )
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight, labels, dtype=np.float64, ensure_non_negative=True
            )
            kept = np.flatnonzero(weights)
            if not len(kept):
                raise ValueError("sample_weight is zero in every row: nothing to fit.")
            images, labels, weights = images.take(kept), labels[kept], weights[kept]
        if reset:
            self.classes_inferred_ = list_classes(labels)
        codes = encode(labels, self.classes_)
        self._per_class = None
        if self.class_weight is not None:
            self._per_class = self._class_weights(labels, weights)
            weights = self._per_class[codes] * (1 if weights is None else weights)
        return images, codes, weights

    def _class_weights(self, labels, sample_weight):
        present = np.unique(labels)
        weights = np.ones(len(self.classes_))
        weights[encode(present, self.classes_)] = compute_class_weight(
            self.class_weight, classes=present, y=labels, sample_weight=sample_weight
        )
        return weights

    def get_dataset(self, X, y=None):
        """Turn images into a data set of what the network reads for them.

        Parameters
        ----------
        X : Images, data set, or anything that becomes images
        y : ndarray of shape (n,) or None
            Class numbers.
        """
        if is_dataset(X):
            return X
        images = X if isinstance(X, Images) else self._open_images(X)
        rows = self._activations(images, self.frozen_up_to_)
        return super().get_dataset(rows, y)

    def _training_set(self, images, codes, weights):
        """A data set for `fit_loop`; the mean of its weights is one."""
        # Images that differ from epoch to epoch pass the frozen part each time.
        cut = self.frozen_up_to_ if self.augment is None else ""
        rows = self._activations(images, cut)
        self._mean_weight = 1.0 if weights is None else weights.mean()
        if weights is not None:
            # With a mean of one they leave the learning rate its meaning.
            rows = {ROWS: rows, WEIGHT: weights / self._mean_weight}
        return super().get_dataset(rows, codes)

    def _activations(self, images, cut):
        outputs = [(cut, _pooling(self._backbone.network, cut))]
        (activations,) = self._make_prefix(self._backbone, outputs)(images)
        return activations

    def _frozen_outputs(self, network):
        """The pair of cut and pooling; none where nothing is computed once."""
        cut = self._cut(network) if self.augment is None else ""
        return [(cut, _pooling(network, cut))] if cut else []

    def get_split_datasets(self, X, y=None, **fit_params):
        """As skorch's; `early_stopping` sets a share of each class aside."""
        stops = self.early_stopping and self._n_epochs_planned() != 0
        if self.train_split is not None or not stops:
            return super().get_split_datasets(X, y, **fit_params)
        split = ValidSplit(
            self.validation_fraction,
            stratified=True,
            random_state=torch.randint(2**31, ()).item(),
        )
        try:
            return split(X, y)
        except ValueError as error:
            raise ValueError(
                "early_stopping sets rows aside by "
                f"validation_fraction={self.validation_fraction!r}, and of {len(y)} "
                f"rows that cannot be: {error} Pass another fraction, or more rows."
            ) from error

    # ---- the epochs

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Tell the callback that unfreezes of the stages there are.

        Not earlier, as skorch makes new callbacks whenever one of their parameters is
        set; and what the user sets stays.
        """
        super().on_train_begin(net, X, y, **kwargs)
        unfreeze = dict(self.callbacks_).get("unfreeze")
        if unfreeze is None or unfreeze.stages:
            return
        stages = self._stages_in_turn()
        epochs = max(1, self.max_epochs // len(stages))
        asked = self.get_params_for("callbacks__unfreeze")
        unfreeze.set_params(**{"stages": stages, "epochs_per_stage": epochs} | asked)

    def _fit(self, images, codes, weights, goes_on, task, fit_params, epochs=None):
        """Train; for a given number of epochs on all rows."""
        with self._seeded():
            if not goes_on:
                self.initialize()
            rows = self._training_set(images, codes, weights)
            self._train(rows, codes, task=task, epochs=epochs, **fit_params)
        self.n_epochs_ = self._n_epochs_kept()

    def _n_epochs_planned(self):
        """Epochs that `fit` may run; None where that shows on the way only."""
        if self.strategy == "linear_probe" and not self.hidden_units:
            return 0
        return None if self.refit else self.max_epochs

    def fit_loop(self, X, y=None, epochs=None, task=None, **fit_params):
        """Solve the head where the strategy begins with that, and run the epochs.

        With `epochs`, no row is set aside to stop earlier. A `task` is told of each.
        """
        self.check_training_readiness()
        dataset = train = self.get_dataset(X, y)
        valid, checkpoint = None, self.checkpoint
        if epochs is None:
            asked = self._split_params(fit_params)
            train, valid = self.get_split_datasets(dataset, y, **asked)
            epochs = self.max_epochs
        elif checkpoint is not None:
            checkpoint = f"{os.fspath(checkpoint)}.refit"  # beside that of the search
        solved = self.strategy == "linear_probe" and linear_layer(self.module_.head)
        # Before the head is solved: its last bits do not make another run.
        path = None if solved else checkpoint
        checkpoint = Checkpoint(path, self, dataset, epochs)
        if self.strategy in PROBE_FIRST and not self.history:
            self._solve_head(train)
        if solved:
            return self
        task = task or FitTask(self, None)
        for _ in range(checkpoint.n_epochs_done(), epochs):
            epoch = task.subtask("epoch")
            self._run_epoch(train, valid)
            checkpoint.write()
            if epoch.end():
                break
        return self

    def _split_params(self, fit_params):
        """What `train_split` gets: nothing else reads what `fit` has no name for."""
        if fit_params and self.train_split is None:
            raise TypeError(
                f"fit() got an unexpected keyword argument {next(iter(fit_params))!r}. "
                "It would go to train_split, and there is none."
            )
        if not fit_params or not _routing_enabled():
            return fit_params
        # Requests for `fit` and `partial_fit` are the same (skorch/net.py, 1.4).
        return process_routing(self, "fit", **fit_params)["splitter"]["split"]

    def _run_epoch(self, train, valid):
        """As skorch's `fit_loop` does (skorch/net.py, 1.4)."""
        sets = {"dataset_train": train, "dataset_valid": valid}
        batches = self.get_iterator(train, training=True)
        held_out = None if valid is None else self.get_iterator(valid)
        self.notify("on_epoch_begin", **sets)
        self.run_single_epoch(batches, True, "train", self.train_step)
        self.run_single_epoch(held_out, False, "valid", self.validation_step)
        self.notify("on_epoch_end", **sets)

    def _n_epochs_kept(self):
        """Epochs that led to the present weights."""
        stop = dict(self.callbacks_).get("early_stopping")
        if stop is None or stop.best_model_weights_ is None:
            return len(self.history)
        return stop.best_epoch_

    def train_step(self, batch, **fit_params):
        """As skorch's, on images changed at random."""
        return super().train_step(self._changed(batch), **fit_params)

    def _changed(self, batch):
        x, y = unpack_data(batch)
        change = make_augment(self.augment)
        return (x | {ROWS: change(x[ROWS])} if isinstance(x, dict) else change(x)), y

    def infer(self, x, **fit_params):
        """Map what a data set holds to logits."""
        return self._run(self.module_.classify, x, **fit_params)

    def _mean_loss(self, dataset):
        """Mean loss over a data set, without training on it."""
        total = 0.0
        for batch in self.get_iterator(dataset):
            total += self.validation_step(batch)["loss"].item() * len(batch[1])
        return total / len(dataset)

    def _run(self, part, x, **kwargs):
        """Pass a batch through a part of the module that reads activations."""
        x = to_tensor(x[ROWS] if isinstance(x, dict) else x, device=self.device)
        with self._engine().autocast():
            if x.dtype == torch.uint8:
                preprocessing = self._backbone.preprocessing
                x = normalize(x, preprocessing.mean, preprocessing.std)
                (x,) = self.module_.prefix(_channels_last(x))
            return part(_channels_last(x), **kwargs).float()

    def _solve_head(self, dataset):
        """Set the linear layer of a head that has one only to where training ends."""
        layer = linear_layer(self.module_.head)
        if layer is None:
            return
        n_views = self._n_views()
        features, codes, weights = [], [], []
        self._set_training(False)
        for batch in chain(*(self.get_iterator(dataset) for _ in range(n_views or 1))):
            x, y = self._changed(batch) if n_views else batch
            with torch.inference_mode():
                features.append(self._run(self.module_.features, x).cpu().numpy())
            codes.append(y.numpy())
            ones = np.ones(len(y))
            weights.append(x[WEIGHT].numpy() if isinstance(x, dict) else ones)
        codes = np.concatenate(codes)
        # As they were given: the penalty on the weights of the head does not scale.
        weights = np.concatenate(weights) * self._mean_weight / (n_views or 1)
        per_class = None if self._per_class is None else self._per_class[codes]
        solve_head(layer, np.concatenate(features), codes, weights, per_class)

    def _n_views(self):
        """Changed copies of each image to solve the head on; 0 for it as it is."""
        changes = self.strategy == "linear_probe" and self.augment is not None
        return self.max_epochs if changes else 0  # epochs that follow change them

    def _engine(self):
        return make_engine(self.device, self.precision, self.batch_size)


def _pooling(network, cut):
    """Of the features that the head reads, the mean is enough."""
    return "avg" if cut == network.penultimate else None


def _channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
