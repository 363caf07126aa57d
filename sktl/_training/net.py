"""A skorch net that is a scikit-learn estimator, whatever its module does.

Works around what skorch leaves open: parameters that come back as they were
set, rows that influence one another, sample weights, Ctrl-C, `device="auto"`, progress.
"""

import contextlib
import copy
import difflib
import inspect
import os
from collections.abc import Mapping

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import StrOptions
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset, ValidSplit, unpack_data
from skorch.utils import is_dataset, to_device, to_tensor
from torch.utils.data import DataLoader, Subset, default_convert
from tqdm import tqdm

from sktl._features.engine import is_padded, resolve_device
from sktl._utils.torch_state import plain_torch

# Our data sets and batches are dicts of these; the last two only where there are some.
ROWS, WEIGHT, GROUP = "rows", "sample_weight", "group"
# In a batch that predictions are made for: how many rows there are in all.
N_ROWS = "n_rows"
# Parameters of what is built anew whenever it is used.
OF_READERS = ("iterator_train__", "iterator_valid__", "dataset__")
# What scikit-learn's own estimators call parameters of ours.
OF_SCIKIT_LEARN = {
    "scoring": "monitor",
    "max_iter": "max_epochs",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
}


class ProgressBar(Callback):
    """A bar over epochs with losses, validation score and images per second."""

    def on_train_begin(self, net, **kwargs):
        """Open the bar."""
        total = net.max_epochs
        # Without the underscore, skorch would take it for a parameter.
        self.bar_ = tqdm(total=total, unit=" epochs", disable=not net.verbose)

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        """Show the last row of the history."""
        row = net.history[-1]
        shown = ("train_loss", "valid_loss", "valid_acc")
        numbers = {name: f"{row[name]:.3f}" for name in shown if name in row}
        speed = len(dataset_train) / row["dur"]
        phase = {"phase": row["phase"]} if "phase" in row else {}
        self.bar_.set_postfix(phase | numbers | {"images/s": f"{speed:.0f}"})
        self.bar_.update()

    def on_train_end(self, net, **kwargs):
        """Close the bar."""
        self.bar_.close()

    def __getstate__(self):
        return {}  # a bar belongs to this process


def holds_rows(X):
    """Whether `X` is one of our data sets, a part of one, or a batch from one."""
    while isinstance(X, Subset):
        X = X.dataset
    X = X.X if is_dataset(X) and hasattr(X, "X") else X
    return isinstance(X, Mapping) and ROWS in X


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


class EstimatorNet(NeuralNet):
    """A `skorch.NeuralNet` without what scikit-learn's users trip over.

    A subclass sets its own parameters before it calls this constructor: what is set
    later, skorch takes for parts of the net where it is a `torch.nn.Module`.
    """

    _parameter_constraints = {
        "callbacks": [list, None],
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

    def __init_subclass__(cls, **kwargs):
        """Tell `inspect` what a subclass passes on by `**kwargs`, with its defaults.

        scikit-learn shows those parameters of an estimator that differ from these.
        """
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            own = inspect.signature(cls.__init__)
            inherited = inspect.signature(super(cls, cls).__init__).parameters
            parameters = dict(own.parameters)
            for name, parameter in inherited.items():
                if parameter.default is not parameter.empty and name[-1] != "_":
                    by_name = parameter.replace(kind=parameter.KEYWORD_ONLY)
                    parameters.setdefault(name, by_name)
            by_kind = sorted(parameters.values(), key=lambda p: p.kind)
            cls.__init__.__signature__ = own.replace(parameters=by_kind)

    # skorch sets these in its __init__ (skorch/net.py, 1.4). Named here, they do not
    # look to scikit-learn like something that was learnt without data.
    def __init__(
        self, *args, history_=None, initialized_=False, virtual_params_=None, **kwargs
    ):
        super().__init__(*args, **kwargs)

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
        # skorch would give the defaults of callbacks, whatever was set.
        own = {n: v for n, v in vars(self).items() if n.startswith("callbacks__")}
        off = tuple(f"{name}__" for name, value in own.items() if value is None)
        params = {n: v for n, v in params.items() if not n.startswith(off)}
        return params | own | {"device": vars(self)["device"]}

    def set_params(self, **params):
        """Set parameters; `fit` checks them.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : EstimatorNet
        """
        # skorch would refuse networks, and initialise the callbacks there were.
        for name in self._get_param_names():
            if name in params and "__" not in name and name != "lr":
                vars(self)[name] = params.pop(name)
        if "device" in params:
            self.device = params.pop("device")
        # skorch sets these, and then refuses them if the net is fitted.
        for name in [name for name in params if name.startswith(OF_READERS)]:
            vars(self)[name] = params.pop(name)
            self._params_to_validate.add(name)
        # Nor does it set a callback that is off, or remember one that is switched off.
        callbacks = [name for name in params if name.startswith("callbacks__")]
        whole = [name for name in callbacks if name.count("__") == 1]
        for name in whole:
            vars(self)[name] = params.pop(name)
        if whole:
            self._initialize_callbacks()
        super().set_params(**params)
        # skorch tells the optimiser, and would forget it in the next fit.
        told = (name for name in params if name.startswith("optimizer__"))
        names = (n for n in told if not n.startswith("optimizer__param_groups__"))
        vars(self).update({name: params[name] for name in names})
        return self

    def _get_param_names(self):
        # We build the module, private names are not to be set, and `device` would be
        # the device in use, which may be absent.
        names = set(super()._get_param_names()) - {"module", "device"}
        return sorted(name for name in names if name[0] != "_")

    def _validate_params(self):
        """As skorch's, with the parameters like one that does not exist."""
        own = type(self).__name__
        for name in sorted(self._params_to_validate):
            if not name.startswith(tuple(self.prefixes_)) and not name.endswith("_"):
                known = type(self)().get_params(deep=False)
                close = ", ".join(difflib.get_close_matches(name, known))
                close = OF_SCIKIT_LEARN.get(name, close)
                advice = f"Closest: {close}" if close else f"See help({own})"
                raise ValueError(f"{name!r} is not a parameter of {own}. {advice}.")
        super()._validate_params()

    def _get_params_html(self, deep=False, *args, **kwargs):
        # Parts of callbacks have no defaults, and would look as if the user set them.
        return super()._get_params_html(deep, *args, **kwargs)

    # skorch shows its module, which is no parameter here.
    __repr__ = BaseEstimator.__repr__

    def get_params_for(self, prefix):
        """As skorch's; a DataLoader takes no NumPy integer as batch size."""
        params = super().get_params_for(prefix)
        if prefix in ("iterator_train", "iterator_valid"):
            params.setdefault("batch_size", int(self.batch_size))
        return params

    def get_split_datasets(self, X, y=None, **fit_params):
        """As skorch's; gives `y` to splitters of any class.

        `ValidSplit` gives it to `StratifiedKFold` and `StratifiedShuffleSplit` alone.
        """
        splitter = getattr(self.train_split, "cv", None)
        if type(self.train_split) is not ValidSplit or not hasattr(splitter, "split"):
            return super().get_split_datasets(X, y, **fit_params)
        kinds = [kind.__name__ for kind in type(splitter).__mro__]
        if self.train_split.stratified and "Stratified" not in "".join(kinds):
            raise ValueError(
                f"train_split has stratified=True, but {kinds[0]} does not stratify; "
                "use StratifiedKFold or StratifiedGroupKFold, or leave out stratified."
            )
        dataset = self.get_dataset(X, y)
        parts = next(splitter.split(np.arange(len(dataset)), y, **fit_params))
        return tuple(Subset(dataset, rows) for rows in parts)

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

    def save_params(self, *args, **kwargs):
        """Save parameters, history and optimiser, as skorch's method does.

        Whoever loads these files needs a fitted estimator. The file of `save` needs
        none, as `load` makes one.

        Parameters
        ----------
        *args : tuple
        **kwargs : dict
            As of `skorch.NeuralNet.save_params`.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        self.check_is_fitted()
        # safetensors refuses tensors whose channels lie last in memory.
        hook = self.module_.register_state_dict_post_hook(_lay_out_plainly)
        try:
            return super().save_params(*args, **kwargs)
        finally:
            hook.remove()

    def load_params(self, f_params=None, *args, use_safetensors=False, **kwargs):
        """Load what `save_params` wrote, as skorch's method does.

        Parameters
        ----------
        f_params : path, file or None, default=None
        *args : tuple
        use_safetensors : bool, default=False
        **kwargs : dict
            As of `skorch.NeuralNet.load_params`.
        """
        self.check_is_fitted()
        kwargs["use_safetensors"] = use_safetensors
        device = vars(self)["device"]
        with contextlib.ExitStack() as files:
            # skorch sets the parameter to the device in use.
            files.callback(vars(self).update, device=device)
            if use_safetensors and isinstance(f_params, str | os.PathLike):
                # For a path, skorch passes a torch.device, which safetensors refuses.
                f_params = files.enter_context(open(f_params, "rb"))
            super().load_params(f_params, *args, **kwargs)

    def check_is_fitted(self, attributes=None, msg=None, **kwargs):
        """As skorch's, without its advice to call `initialize`."""
        msg = msg or (
            "This %(name)s instance is not fitted yet, or its last fit failed. Call "
            "'fit' with appropriate arguments before using this estimator."
        )
        super().check_is_fitted(attributes, msg=msg, **kwargs)

    def check_data(self, X, y=None):
        """Nothing left to check: `fit` encoded the target."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """As skorch's, weighted if the rows have weights."""
        y_true = to_tensor(y_true, device=self.device)
        if isinstance(X, Mapping) and WEIGHT in X:
            weight = to_tensor(X[WEIGHT].float(), device=self.device)
            return self._weighted_loss(y_pred, y_true, weight)
        loss = self._compare(self.criterion_, y_pred, y_true)
        if loss.numel() != 1:
            cure = "Let its forward return the mean: loss.mean()."
            if hasattr(self.criterion_, "reduction"):
                cure = "Set criterion__reduction='mean'."
            raise ValueError(
                f"{_named(self.criterion_)} gives a loss of shape {tuple(loss.shape)}, "
                f"which must be one number. {cure}"
            )
        return loss

    def _compare(self, criterion, y_pred, y_true):
        """The loss of predictions: one number, or several with another `reduction`."""
        return criterion(y_pred, y_true)

    def _weighted_loss(self, y_pred, y_true, weight):
        """The loss of weighted rows; with weights of one, it is the plain loss."""
        criterion, n_axes = self.criterion_, weight.ndim
        reduction = getattr(criterion, "reduction", None)
        each = copy.copy(criterion)
        each.reduction = "none"
        losses = self._compare(each, y_pred, y_true)
        if losses.shape[:n_axes] != weight.shape or reduction not in ("mean", "sum"):
            raise TypeError(
                f"{_named(criterion)} gives a loss of shape {tuple(losses.shape)} for "
                f"weights of shape {tuple(weight.shape)} when its `reduction`, now "
                f'{reduction!r}, is "none", so it cannot be weighted. Leave out '
                "sample_weight and class_weight, or use a loss of torch.nn whose "
                '`reduction` is "mean" or "sum". One of your own needs an attribute '
                "`reduction` of that kind, and has to return a loss for each row where "
                'it is "none".'
            )
        total = (losses * weight[(..., *[None] * (losses.ndim - n_axes))]).sum()
        if reduction == "sum":
            return total
        if not isinstance(criterion, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss):
            return total / losses.numel()
        # torch divides these by the class weights of the rows that are not ignored.
        counted = torch.nn.functional.nll_loss(
            -torch.ones_like(y_pred),
            y_true,
            weight=criterion.weight,
            ignore_index=criterion.ignore_index,
            reduction="sum",
        )
        return total / counted

    def forward_iter(self, X, training=False, device="cpu"):
        """As skorch's; few rows are computed without padding."""
        dataset = self.get_dataset(X)
        n_rows = len(dataset)
        # A DataLoader makes tensors on torch's default device.
        with plain_torch():
            batches = self.get_iterator(dataset, training=training)
            if not n_rows:  # no rows make no batch
                batches = [({ROWS: torch.from_numpy(dataset.X[ROWS])}, None)]
            steps = (
                self.evaluation_step((x | {N_ROWS: n_rows}, y), training)
                for x, y in map(unpack_data, batches)
            )
            outputs = [to_device(step, device=device) for step in steps]
        yield from outputs

    def evaluation_step(self, batch, training=False):
        """Compute outputs in batches of one size: rows do not influence one another.

        Few rows are not padded, unless they are features, which costs nothing.
        """
        x, y = unpack_data(batch)
        x, n_rows = x[ROWS], x.get(N_ROWS)
        n_numbers = self.batch_size * x[:1].numel()
        pads = n_rows is None or x.ndim == 2 or is_padded(n_rows, n_numbers)
        n_missing = max(0, self.batch_size - len(x)) if pads else 0
        padded = torch.cat([x, x.new_zeros(n_missing, *x.shape[1:])])
        outputs = super().evaluation_step(({ROWS: padded}, y), training)
        return outputs[: len(x)].cpu().double()  # not every device has float64

    @contextlib.contextmanager
    def _training(self, X, y):
        """Tell callbacks of training; an early stop ends it, and Ctrl-C raises.

        skorch takes both for the same (`partial_fit` of skorch/net.py, 1.4).
        """
        self.notify("on_train_begin", X=X, y=y)
        try:
            yield
        except KeyboardInterrupt:
            if not any(_stops(callback) for _, callback in self.callbacks_):
                self.notify("on_train_end", X=X, y=y)  # closes the bar, and thaws
                raise
        if self.history:
            self.notify("on_train_end", X=X, y=y)
            return
        # Callbacks look at the last epoch; if there was none, they get an empty one.
        self.history.new_epoch()
        self.history.new_batch()
        self.history.record("epoch", 0)
        try:
            self.notify("on_train_end", X=X, y=y)
        finally:
            self.history.clear()

    def _run_epoch(self, train, valid):
        """As skorch's `fit_loop` does (skorch/net.py, 1.4)."""
        sets = {"dataset_train": train, "dataset_valid": valid}
        batches = self.get_iterator(train, training=True)
        held_out = None if valid is None else self.get_iterator(valid)
        self.notify("on_epoch_begin", **sets)
        self.run_single_epoch(batches, True, "train", self.train_step)
        if not self.history[-1, "train_batch_count"]:
            raise ValueError(
                f"{len(train)} training rows do not fill a batch of "
                f"batch_size={self.batch_size}, and iterator_train__drop_last=True "
                "leaves out incomplete batches. Set it to False, or a smaller "
                "batch_size."
            )
        self.run_single_epoch(held_out, False, "valid", self.validation_step)
        self.notify("on_epoch_end", **sets)

    def __setstate__(self, state):
        # skorch maps tensors to the device named here, and "auto" names none.
        try:
            device = resolve_device(state["device"])
        except ValueError:  # it is not on this machine
            device = torch.device("cpu")
        super().__setstate__(state | {"device": str(device)})
        vars(self)["device"] = state["device"]


def _stops(callback):
    """Whether this is an `EarlyStopping` that has lost its patience."""
    return isinstance(callback, EarlyStopping) and callback.misses_ == callback.patience


def _lay_out_plainly(module, state, prefix, metadata):
    state.update({name: tensor.contiguous() for name, tensor in state.items()})


def _named(criterion):
    return f"criterion={type(criterion).__name__}"
