"""Stopping when held-out rows say so, the state before the first epoch included."""

import copy

import numpy as np
from sklearn.metrics import get_scorer
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from skorch.callbacks import Checkpoint, EarlyStopping
from skorch.utils import data_from_dataset

from sktl._targets.scoring import is_set
from sktl._targets.splits import Split, split_groups
from sktl._training.scoring import score_in_training
from sktl._utils.printable import shown

# What the history says of held-out rows: by the loss, or by a scorer of the user.
LOSS, SCORE = "valid_loss", "valid_score"
CURE = "Hold out more rows (validation_fraction), or monitor another score or the loss."


class KeepBest(EarlyStopping):
    """skorch's `EarlyStopping`, for which the fitted head is a state like any other."""

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        """Before the first epoch, note how good the network is already."""
        probed = len(net.history) == 1 and net.plan.solves_head
        if probed and dataset_valid is not None:
            self.dynamic_threshold_ = held_out_score(net, dataset_valid)
            net.history.record(f"{self.monitor}_before", float(self.dynamic_threshold_))
            self.best_model_weights_ = copy.deepcopy(net.module_.state_dict())

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        """Judge the epoch, unless no row was set aside to judge by."""
        if dataset_valid is None:
            return
        if self.monitor == SCORE:
            net.history.record(SCORE, float(held_out_score(net, dataset_valid)))
        super().on_epoch_end(net, **kwargs)

    def on_train_end(self, net, **kwargs):
        """Go back to the best weights, if there were epochs to compare."""
        if self.best_model_weights_ is not None:
            super().on_train_end(net, **kwargs)


def restores_best(callback):
    """Whether a callback, ours or skorch's, goes back to the best epoch's weights."""
    return bool(getattr(callback, "load_best", False))


def n_epochs_kept(callbacks, history):
    """Epochs that led to the weights at the end of training."""
    for callback in filter(restores_best, reversed(callbacks)):
        if isinstance(callback, EarlyStopping):
            if callback.best_model_weights_ is not None:
                return callback.best_epoch_
        elif isinstance(callback, Checkpoint):
            saved = callback.event_name or callback.monitor
            epochs = [n for n, row in enumerate(history, 1) if row.get(saved)]
            if epochs:
                return epochs[-1]
    return len(history)


def hold_out(codes, target, groups, fraction, seed):
    """Choose the rows to judge by, at random and stratified.

    Labels keep the shares of their classes. Where that is not to be had exactly, as
    with tags and with groups, they are nearly kept.

    Parameters
    ----------
    codes : ndarray of shape (n,) or (n, n_outputs)
        What the loss reads.
    target : Labels, Indicators or Numbers
    groups : array-like of shape (n,) or None
        Whose rows stay together.
    fraction : float
        The share of rows, or of groups.
    seed : int

    Returns
    -------
    split : Split
    """
    strata = target.strata(codes)
    try:
        if groups is None and (target.stratified or not strata.any()):
            kind = StratifiedShuffleSplit if target.stratified else ShuffleSplit
            splitter = kind(1, test_size=fraction, random_state=seed)
            return Split(*next(splitter.split(codes, strata)))
        each = np.arange(len(codes)) if groups is None else groups
        split = split_groups(strata, each, fraction, seed)
        if strata.any():  # there are classes or tags
            seen, trained_on = (
                target.columns(target.decode(codes[rows])).any(axis=0)
                for rows in (slice(None), split.train)
            )
            untrained = target.classes[seen & ~trained_on].tolist()
            if untrained:
                raise ValueError(f"no row of {shown(untrained)} is left to train on")
        return split
    except ValueError as error:
        why, what = f"{error}.", "Pass another fraction, or more rows."
        where = ""
        if groups is not None:
            where = f" in {len(np.unique(groups))} group(s)"
            what = "Pass another fraction, or rows of more groups."
        classes, counts = np.unique(codes, return_counts=True)
        if groups is None and target.stratified and counts.min() < 2:
            rare = target.decode(classes[counts < 2]).tolist()
            why = f"of {shown(rare)} there is only 1 row each."
            what = "Label more of these, or leave them out."
        elif groups is None and target.stratified:
            why = f"each part needs a row of each of the {len(classes)} classes."
        raise ValueError(
            f"early_stopping cannot hold out validation_fraction={fraction!r} of "
            f"{len(codes)} rows{where}: {why} {what}"
        ) from error


def check_monitor(net, train, valid):
    """Refuse a score that held-out rows have whatever is predicted for them."""
    if net.monitor == "loss" or valid is None:
        return
    target = net.target
    y_train, y = (
        target.decode(np.asarray(data_from_dataset(part)[1])) for part in (train, valid)
    )
    lack = target.lack(y)
    # Some tags may be missing: the mean over tags still orders the epochs.
    if not lack or (y.ndim > 1 and np.ptp(y, axis=0).any()):
        return
    of_all = np.concatenate([y_train, y])
    if is_set(get_scorer(net.monitor), of_all, y, target.has_scale):
        raise ValueError(
            f"monitor={shown(net.monitor)} fails (it is not defined for rows that "
            f"{lack}) on the {len(y)} row(s) held out, so it cannot choose an epoch. "
            f"{CURE}"
        )


def held_out_score(net, dataset):
    """Mean loss over a data set, or what `monitor` says of its predictions."""
    if net.monitor == "loss":
        losses = [
            net.validation_step(batch)["loss"].item() * len(batch[1])
            for batch in net.get_iterator(dataset)
        ]
        return sum(losses) / len(dataset)
    codes = np.asarray(data_from_dataset(dataset)[1])
    cause = None
    try:
        score = score_in_training(net.monitor, net, dataset, codes)
    except ValueError as error:  # such as that they lack a class
        score, cause = np.nan, error
    if np.isnan(score):
        why = f"fails ({cause})" if cause else "is NaN"
        raise ValueError(
            f"monitor={shown(net.monitor)} {why} on the {len(codes)} row(s) held out, "
            f"so it cannot choose an epoch. {CURE}"
        ) from cause
    return score
