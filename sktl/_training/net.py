"""A skorch net that is a scikit-learn citizen; it knows nothing of freezing.

What skorch leaves to be cured is cured here: rows that influence one another, seeds,
Ctrl-C, sample weights, a loss that is no number, float16, `device="auto"`, progress.
"""

import contextlib
import copy
from numbers import Integral
from types import MappingProxyType

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset, unpack_data
from skorch.utils import to_tensor
from torch.utils.data import DataLoader, Subset, default_convert
from tqdm import tqdm

from sktl._features.engine import resolve_device, resolve_precision
from sktl._utils.torch_state import seeded
from sktl.exceptions import TrainingDivergedError

# Where a data set with weights keeps its rows, and the weights.
ROWS, WEIGHT = "rows", "sample_weight"


class ProgressBar(Callback):
    """A bar over epochs with losses, validation score and images per second."""

    def on_train_begin(self, net, **kwargs):
        """Open the bar."""
        total = net.max_epochs
        self._bar = tqdm(total=total, unit=" epochs", disable=not net.verbose)

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        """Show the last row of the history."""
        row = net.history[-1]
        shown = ("train_loss", "valid_loss", "valid_acc")
        numbers = {name: f"{row[name]:.3f}" for name in shown if name in row}
        speed = len(dataset_train) / row["dur"]
        phase = {"phase": row["phase"]} if "phase" in row else {}
        self._bar.set_postfix(phase | numbers | {"images/s": f"{speed:.0f}"})
        self._bar.update()

    def on_train_end(self, net, **kwargs):
        """Close the bar."""
        self._bar.close()

    def __getstate__(self):
        return {}  # a bar belongs to this process


class Batches(torch.utils.data.Dataset):
    """A skorch data set, or part of one, whose batches are copied at once.

    torch's DataLoader asks for whole batches where there is `__getitems__`
    (torch/utils/data/_utils/fetch.py, 2.14).
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.rows = np.arange(len(dataset))
        if isinstance(dataset, Subset):
            self.dataset, self.rows = dataset.dataset, np.asarray(dataset.indices)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.dataset[self.rows[index]]

    __getitems__ = __getitem__


class CuredNet(NeuralNetClassifier):
    """A `skorch.NeuralNetClassifier` without what scikit-learn's users trip over."""

    _parameter_constraints = {
        "callbacks": [list, StrOptions({"disable"}), None],
        "classes": "no_validation",  # refused in words of its own
        "compile": ["boolean"],
        "dataset": "no_validation",  # a class or an object
        "iterator_train": [callable],
        "iterator_train__shuffle": ["boolean"],
        "iterator_valid": [callable],
        "predict_nonlinearity": [callable, StrOptions({"auto"}), None],
        "torch_load_kwargs": [dict, None],
        "train_split": [callable, None],
        "use_caching": ["boolean", StrOptions({"auto"})],
        "warm_start": ["boolean"],
    }
    # What `fit` learns, and skorch would set before that.
    history_ = None
    initialized_ = False
    virtual_params_ = MappingProxyType({})

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in ("history_", "initialized_", "virtual_params_"):
            del vars(self)[name]

    @property
    def _default_callbacks(self):
        callbacks = dict(super()._default_callbacks)
        return list((callbacks | {"print_log": ProgressBar()}).items())

    @property
    def device(self):
        """The device in use; `get_params` gives the parameter as it was set."""
        return resolve_device(vars(self)["device"])

    @device.setter
    def device(self, device):
        vars(self)["device"] = device

    def __setattr__(self, name, value):
        # skorch takes any torch.nn.Module that is set for a part of the net, but a
        # parameter may be one.
        if self.init_context_ is None and not name.endswith("_"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def get_params(self, deep=True, **kwargs):
        """Get the parameters as they were set.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of callbacks.
        **kwargs : dict
            Passed on to skorch.

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep=deep, **kwargs)
        return params | {"device": vars(self)["device"]}

    def set_params(self, **params):
        """Set parameters; `fit` checks them.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : CuredNet
        """
        if "callbacks" in params:  # skorch would initialise those there were
            self.callbacks = params.pop("callbacks")
        return super().set_params(**params)

    def _get_param_names(self):
        # The module is ours to build, what is private is nobody's to set, and the
        # device would be that in use, which there may be none of.
        names = set(super()._get_param_names()) - {"module", "device"}
        return sorted(name for name in names if name[0] != "_")

    def __repr__(self, N_CHAR_MAX=700):
        # skorch shows its module, which is no parameter here.
        defaults = type(self)().get_params(deep=False)
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if name not in defaults or repr(value) != repr(defaults[name])
        ]
        return f"{type(self).__name__}({', '.join(changed)})"[:N_CHAR_MAX]

    def get_params_for(self, prefix):
        """As skorch's; a DataLoader takes no NumPy integer as batch size."""
        params = super().get_params_for(prefix)
        if prefix in ("iterator_train", "iterator_valid"):
            params.setdefault("batch_size", int(self.batch_size))
        return params

    def get_iterator(self, dataset, training=False):
        """As skorch's, by whole batches; reading in order draws no random number."""
        whole = self._reads_whole_batches(dataset, training)
        loader = super().get_iterator(Batches(dataset) if whole else dataset, training)
        if whole:
            loader.collate_fn = default_convert  # there is nothing to stack
        if not training:
            # A DataLoader draws a seed for its workers whenever it is iterated.
            loader.generator = torch.Generator()
        return loader

    def _reads_whole_batches(self, dataset, training):
        """Whether the loader and its rows are ours, not the user's."""
        part = "iterator_train" if training else "iterator_valid"
        rows = dataset.dataset if isinstance(dataset, Subset) else dataset
        return (
            type(rows) is Dataset
            and getattr(self, part) is DataLoader
            and "collate_fn" not in self.get_params_for(part)
        )

    def check_data(self, X, y=None):
        """Nothing left to check: `fit` encoded the labels."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """As skorch's; rows that come with a weight count by it."""
        if not isinstance(X, dict):
            return super().get_loss(y_pred, y_true, X=X, training=training)
        if not hasattr(self.criterion_, "reduction"):
            raise TypeError(
                f"criterion={type(self.criterion_).__name__} has no `reduction`, so "
                "its losses cannot be weighted by row. Leave out sample_weight and "
                "class_weight, or use a loss of torch.nn."
            )
        criterion = copy.copy(self.criterion_)
        criterion.reduction = "none"
        losses = criterion(y_pred, to_tensor(y_true, device=self.device))
        weight = X[WEIGHT].to(losses.dtype)  # not every device has float64
        return (losses * to_tensor(weight, device=self.device)).mean()

    def initialize_optimizer(self, *args, **kwargs):
        """As skorch's, with the scaler of the loss, which is at work in float16."""
        super().initialize_optimizer(*args, **kwargs)
        dtype = resolve_precision(self.precision, self.device)
        enabled = dtype == torch.float16
        self.scaler_ = torch.amp.GradScaler(self.device.type, enabled=enabled)
        return self

    def train_step_single(self, batch, **fit_params):
        """As skorch's, with a loss that is scaled up on its way back.

        Most gradients would be zero in float16; in other precisions it is not scaled.
        Micikevicius et al., ICLR 2018; `torch.amp`.
        """
        self._set_training(True)
        X, y = unpack_data(batch)
        y_pred = self.infer(X, **fit_params)
        loss = self.get_loss(y_pred, y, X=X, training=True)
        self.scaler_.scale(loss).backward()
        if self.scaler_.is_enabled():  # callbacks see gradients in their own size
            self.scaler_.unscale_(self.optimizer_)
        return {"loss": loss, "y_pred": y_pred}

    def _step_optimizer(self, step_fn):
        """As skorch's; with a scaled loss, no step is made by infinite gradients."""
        if not self.scaler_.is_enabled():
            super()._step_optimizer(step_fn)
            return
        step_fn()
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()

    def evaluation_step(self, batch, training=False):
        """Compute logits in batches of one size: rows do not influence one another."""
        x, y = unpack_data(batch)
        x = x[ROWS] if isinstance(x, dict) else x
        n_missing = max(0, self.batch_size - len(x))
        padded = torch.cat([x, x.new_zeros(n_missing, *x.shape[1:])])
        return super().evaluation_step((padded, y), training)[: len(x)].double()

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Stop at the first loss that is no number."""
        loss = kwargs["loss"].item()
        if not np.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss} in epoch {len(self.history)}. Try a lower lr "
                f"(now {self.lr}), a lower backbone_lr_ratio (now "
                f"{self.backbone_lr_ratio}), or precision='float32'."
            )

    def _train(self, X, codes, **fit_params):
        """As skorch's `partial_fit`, which swallows Ctrl-C and scores what is left."""
        self.notify("on_train_begin", X=X, y=codes)
        try:
            self.fit_loop(X, codes, **fit_params)
        except KeyboardInterrupt as error:
            if not _is_early_stop(error):
                self.notify("on_train_end", X=X, y=codes)  # closes the bar, and thaws
                raise
        self.notify("on_train_end", X=X, y=codes)

    @contextlib.contextmanager
    def _seeded(self):
        """Draw from a generator of our own; the global ones stay as they were."""
        seed = self.random_state
        if seed is None:
            seed = np.random.SeedSequence().entropy % 2**32
        elif not isinstance(seed, Integral):
            seed = seed.randint(2**32 - 1)
        with seeded(int(seed), self.device):
            yield

    def __setstate__(self, state):
        # skorch maps tensors to the device named here, and "auto" names none.
        available = "cuda" if torch.cuda.is_available() else "cpu"
        super().__setstate__(state | {"device": available})
        vars(self)["device"] = state["device"]


def _is_early_stop(error):
    """Whether skorch's EarlyStopping raised this, which is its way to end training."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return isinstance(trace.tb_frame.f_locals.get("self"), EarlyStopping)
