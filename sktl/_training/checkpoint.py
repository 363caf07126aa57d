"""The state of training after an epoch, kept in a file to go on from after a crash.

The file is what `torch.save` writes, behind three lines: what it is, which run it is
of, and the SHA-256 of the rest, as torch does not check its own checksums. It is read
with `weights_only=True`, which runs no code.
"""

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import (
    BatchScoring,
    EarlyStopping,
    EpochScoring,
    LRScheduler,
    PassthroughScoring,
)
from skorch.history import History

from sktl._features.engine import resolve_precision
from sktl._training.averaging import AverageWithStart
from sktl._utils.atomic import replacing
from sktl._utils.digests import digest_of
from sktl._utils.printable import shown
from sktl._utils.warning import warn_caller
from sktl.exceptions import CheckpointWarning, ModelFileError

TITLE = b"sktl checkpoint, form 3"
# What callbacks, ours and skorch's, remember from epoch to epoch (skorch 1.4).
REMEMBERED = {
    AverageWithStart: ("start_",),
    BatchScoring: ("best_score_",),
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
IRRELEVANT = ("cache", "checkpoint", "device", "n_jobs", "precision", "verbose")


class Checkpoint:
    """The file of one run of training, which the next run replaces.

    A run is told from others by its parameters, images, targets, groups, rows that are
    held out, kind of device, precision, first weights and the optimizer's first state;
    not by activations, whose last bits another machine may compute otherwise. Where a
    parameter cannot be compared, there is a warning, training begins anew, and nothing
    is kept.

    Parameters
    ----------
    path : path-like or None
        None keeps nothing.
    net : FineTunedNet
        As it is before the first epoch of the run, and before its head is fitted: the
        last bits of a fitted head may differ between two fits of one run.
    rows : TrainingRows
    numbers : list of two arrays or None
        Of the rows that are trained on and held out, where these were chosen.
    epochs : int
        How many the run has.
    """

    def __init__(self, path, net, rows, numbers, epochs):
        self.net = net
        self.digest = None if path is None else _digest(net, rows, numbers, epochs)
        self.path = self.digest and Path(os.path.expanduser(path))

    def n_epochs_done(self):
        """Put the net in the state that was kept, and count the epochs up to there.

        Raises
        ------
        ModelFileError
            If the file is no checkpoint, or was damaged.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            content = _read(self.path, self.digest)
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise ModelFileError(
                f"checkpoint={str(self.path)!r} exists, but training cannot resume "
                f"from it: {error}. Delete it to start over, or pass another path."
            ) from error
        if content is None:  # another run's: it will be replaced
            return 0
        net = self.net
        n_before = len(net.history)
        net.module_.load_state_dict(content["module"])
        net.criterion_.load_state_dict(content["criterion"])
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
        """Save the state after an epoch, whole or not at all.

        Raises
        ------
        TypeError
            If there is something in the state that could not be read back.
        """
        if self.path is None:
            return
        net = self.net
        content = {
            "module": net.module_.state_dict(),
            "criterion": net.criterion_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "scaler": net.scaler_.state_dict(),
            "generators": _generators(net.device),
            # Losses of single batches would soon take more than all the weights.
            "history": [dict(row) | {"batches": []} for row in net.history],
            "callbacks": {name: _remembered(cb) for name, cb in net.callbacks_},
        }
        body = _saved(_without_numpy(content))
        sha256 = hashlib.sha256(self.digest + body).hexdigest().encode()
        with replacing(self.path) as file:
            file.write(b"\n".join([TITLE, self.digest, sha256, body]))


# ---- the file


def _read(path, digest):
    """The saved state; None if it is that of a run with another digest."""
    if not path.is_file():
        raise ValueError("it is a folder or a device")
    with open(path, "rb") as file:
        if file.readline(100) != TITLE + b"\n":
            raise ValueError(
                "it is not a checkpoint, or was written by another version of sktl"
            )
        found, sha256 = file.readline(100)[:-1], file.readline(100)[:-1]
        body = file.read()
    if hashlib.sha256(found + body).hexdigest().encode() != sha256:
        raise ValueError("its SHA-256 differs from when it was written")
    if found != digest:
        return None
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def _saved(content):
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
        buffer.seek(0)
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        refused = [error]
    if refused:
        raise TypeError(
            f"checkpoint cannot save what callbacks or the history hold: {refused[0]}. "
            "Leave checkpoint out, or store only numbers, strings and tensors in them."
        )
    return buffer.getvalue()


def _without_numpy(value):
    """Replace NumPy's scalars, which `torch.load(weights_only=True)` refuses."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {name: _without_numpy(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_without_numpy, value))
    return value


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


# ---- which run it is of


def _digest(net, rows, numbers, epochs):
    """Digest what decides the course of a run; None if that cannot be told."""
    parts = net.module_, net.criterion_, net.optimizer_
    state = [part.state_dict() for part in parts]
    precision = str(resolve_precision(net.precision, net.device))
    where = [epochs, len(net.history), net.device.type, precision]
    images = [image.digest() for image in rows.images]
    about = rows.codes, rows.weights, rows.groups
    digests = [digest_of([where, state, images, *about, numbers])]
    for name, value in sorted(net.get_params(deep=False).items()):
        if name in IRRELEVANT:
            continue
        try:
            digests.append(digest_of([name, value]))
        except Exception as error:  # of anyone's __reduce__
            warn_caller(
                f"{name}={shown(value)} cannot be compared with that of another "
                f"run ({type(error).__name__}: {error}). So training starts over, and "
                f"no checkpoint is saved. Pass a {name} that can be pickled.",
                CheckpointWarning,
            )
            return None
    return hashlib.sha256(repr(digests).encode()).hexdigest().encode()
