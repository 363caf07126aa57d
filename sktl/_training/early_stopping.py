"""Stopping when held-out rows say so, the state before the first epoch included."""

import copy

from skorch.callbacks import EarlyStopping


class KeepBest(EarlyStopping):
    """skorch's `EarlyStopping`, for which the solved head is a state like any other."""

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        """Before the first epoch, note how good the network is already."""
        probed = len(net.history) == 1 and net.plan.probes_first
        if probed and dataset_valid is not None:
            self.dynamic_threshold_ = net.mean_loss(dataset_valid)
            self.best_model_weights_ = copy.deepcopy(net.module_.state_dict())

    def on_epoch_end(self, net, **kwargs):
        """Judge the epoch, unless no row was set aside to judge by."""
        if "valid_loss" in net.history[-1]:
            super().on_epoch_end(net, **kwargs)

    def on_train_end(self, net, **kwargs):
        """Go back to the best weights, if there were epochs to compare."""
        if self.best_model_weights_ is not None:
            super().on_train_end(net, **kwargs)

    def n_epochs_kept(self, history):
        """Epochs that led to the present weights."""
        compared = self.best_model_weights_ is not None
        return self.best_epoch_ if compared else len(history)
