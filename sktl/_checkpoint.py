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

from sktl._archive import read_archive, write_archive
from sktl._plain_data import encode, to_json

KIND = "training"
FIELDS = {
    "run": str,
    "module": dict,
    "optimizer": dict,
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
    LRScheduler: ("lr_scheduler_",),
    PassthroughScoring: ("best_score_",),
}


# What may differ between a run and its continuation.
IRRELEVANT = ("cache", "checkpoint", "n_jobs", "verbose")


class Checkpoint:
    """The file of one run of training; of several runs, the last one's is kept.

    A run is told from others by its parameters, rows, labels and first weights;
    callbacks and functions among the parameters count by their class only.

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
        content = read_archive(self.path, KIND, FIELDS)
        if content["run"] != self.run:  # another run's: it will be replaced
            return 0
        net = self.net
        n_before = len(net.history)
        net.module_.load_state_dict(content["module"])
        net.optimizer_.load_state_dict(content["optimizer"])
        net.history_ = History(content["history"])
        for name, callback in net.callbacks_:
            _remember(callback, content["callbacks"].get(name, {}))
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
            "generators": _generators(net.device),
            "history": [dict(row) for row in net.history],
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
    digest = hashlib.sha256(to_json([epochs, len(net.history), settings]).encode())
    X = dataset.X if isinstance(dataset.X, dict) else {"": dataset.X}
    weights = {n: t.cpu().numpy() for n, t in net.module_.state_dict().items()}
    for name, array in [*X.items(), ("y", dataset.y), *weights.items()]:
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _plain(value):
    try:
        return encode(value)[0]
    except TypeError:
        return type(value).__qualname__


def _generators(device):
    states = [torch.default_generator.get_state()]
    return (
        [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
    )


def _remembered(callback):
    kinds = [kind for kind in REMEMBERED if isinstance(callback, kind)]
    names = [name for kind in kinds for name in REMEMBERED[kind]]
    values = {name: getattr(callback, name) for name in names}
    return {
        name: value.state_dict() if hasattr(value, "load_state_dict") else value
        for name, value in values.items()
    }


def _remember(callback, values):
    for name, value in values.items():
        own = getattr(callback, name)
        if hasattr(own, "load_state_dict"):
            own.load_state_dict(value)
        else:
            setattr(callback, name, value)
