"""The state of training after an epoch, kept in a file to go on from after a crash."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import (
    EarlyStopping,
    EpochScoring,
    LRScheduler,
    PassthroughScoring,
)
from skorch.history import History

from sktl._saving.archive import read_archive, write_archive
from sktl._saving.plain_data import encode, to_json
from sktl.exceptions import ModelFileError

KIND = "training"
FIELDS = {
    "run": str,
    "module": dict,
    "optimizer": dict,
    "scaler": dict,
    "generators": list,
    "history": list,
    "callbacks": dict,
}
# What skorch's callbacks remember from epoch to epoch (skorch 1.4).
REMEMBERED = {
    EarlyStopping: (
        "misses_",
        "dynamic_threshold_",
        "best_epoch_",
        "best_model_weights_",
    ),
    EpochScoring: ("best_score_",),
    LRScheduler: ("lr_scheduler_", "batch_idx_"),
    PassthroughScoring: ("best_score_",),
}
# What may differ between a run and its continuation.
IRRELEVANT = ("cache", "checkpoint", "n_jobs", "verbose")
# How far objects in objects are described; some hold one another.
MOST_LEVELS = 4


class Checkpoint:
    """The file of one run of training; of several runs, the last one's is kept.

    A run is told from others by its parameters, rows, labels, device, first weights
    and the optimizer's first state. Of functions among the parameters, the name counts;
    of callbacks and other objects, the class and the public attributes.

    Parameters
    ----------
    path : path-like or None
        None keeps nothing.
    net : FrozenPrefixNet
        As it is before the first epoch of the run.
    dataset : skorch.dataset.Dataset
        Of arrays, or of dicts of arrays.
    epochs : int
        How many the run has.
    """

    def __init__(self, path, net, dataset, epochs):
        self.path, self.net = path, net
        if path is not None:
            self.run = _digest(net, dataset, epochs)

    def n_epochs_done(self):
        """Put the net in the state that was kept, and count the epochs up to there.

        Raises
        ------
        ModelFileError
            If the file is no checkpoint, or was damaged.
        """
        if self.path is None or not Path(self.path).exists():
            return 0
        try:
            content = read_archive(self.path, KIND, FIELDS)
        except ModelFileError as error:
            raise ModelFileError(
                f"checkpoint={str(self.path)!r} is there, but no training can go on "
                f"from it: {error} Delete it to begin anew, or pass another path."
            ) from error
        if content["run"] != self.run:  # another run's: it will be replaced
            return 0
        net = self.net
        n_before = len(net.history)
        net.module_.load_state_dict(content["module"])
        net.optimizer_.load_state_dict(content["optimizer"])
        net.scaler_.load_state_dict(content["scaler"])
        net.history_ = History(content["history"])
        for name, callback in net.callbacks_:
            _remember(callback, content["callbacks"][name])
        cpu, *cuda = content["generators"]
        torch.default_generator.set_state(cpu)
        for state in cuda:
            torch.cuda.set_rng_state(state, net.device)
        return len(net.history) - n_before

    def write(self):
        """Keep the state after an epoch; atomic, as `write_archive` is."""
        if self.path is None:
            return
        net = self.net
        content = {
            "run": self.run,
            "module": dict(net.module_.state_dict()),
            "optimizer": net.optimizer_.state_dict(),
            "scaler": net.scaler_.state_dict(),
            "generators": _generators(net.device),
            # Losses of single batches would soon take more than all the weights.
            "history": [dict(row) | {"batches": []} for row in net.history],
            "callbacks": {name: _remembered(cb) for name, cb in net.callbacks_},
        }
        write_archive(self.path, KIND, content)


def _digest(net, dataset, epochs):
    """Digest what decides the course of a run."""
    parameters = net.get_params(deep=False)
    settings = {
        name: _plain(value)
        for name, value in sorted(parameters.items())
        if name not in IRRELEVANT
    }
    state, tensors = encode([net.module_.state_dict(), net.optimizer_.state_dict()])
    plain = [epochs, len(net.history), net.device.type, settings, state]
    digest = hashlib.sha256(to_json(plain).encode())
    X = dataset.X if isinstance(dataset.X, dict) else {"": dataset.X}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    for name, array in [*X.items(), ("y", dataset.y), *arrays.items()]:
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _plain(value, depth=0):
    """Plain data that differ where values do; what has no form is described."""
    try:
        return encode(value)[0]
    except TypeError:
        pass
    if isinstance(value, list | tuple):
        return [_plain(item, depth) for item in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # Private attributes, and those that training sets, differ from run to run.
    own = sorted(getattr(value, "__dict__", {}).items()) if depth < MOST_LEVELS else []
    public = [pair for pair in own if pair[0][0] != "_" and pair[0][-1] != "_"]
    return [_plain(type(value)), [[name, _plain(v, depth + 1)] for name, v in public]]


def _generators(device):
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.default_generator.get_state(), *cuda]


def _names(callback):
    kinds = [kind for kind in REMEMBERED if isinstance(callback, kind)]
    return [name for kind in kinds for name in REMEMBERED[kind]]


def _remembered(callback):
    values = {name: getattr(callback, name) for name in _names(callback)}
    return {
        name: value.state_dict() if hasattr(value, "load_state_dict") else value
        for name, value in values.items()
    }


def _remember(callback, values):
    for name in _names(callback):
        own, value = getattr(callback, name), values[name]
        if hasattr(own, "load_state_dict"):
            own.load_state_dict(value)
        else:
            setattr(callback, name, value)
