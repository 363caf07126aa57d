"""Stopping when held-out rows say so, the state before the first epoch included."""

import copy

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from skorch.callbacks import EarlyStopping

# What the history says of held-out rows: by the loss, or by a scorer of the user.
LOSS, SCORE = "valid_loss", "valid_score"


class KeepBest(EarlyStopping):
    """skorch's `EarlyStopping`, for which the solved head is a state like any other."""

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        """Before the first epoch, note how good the network is already."""
        probed = len(net.history) == 1 and net.plan.probes_first
        if probed and dataset_valid is not None:
            self.dynamic_threshold_ = net.judge(dataset_valid)
            self.best_model_weights_ = copy.deepcopy(net.module_.state_dict())

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        """Judge the epoch, unless no row was set aside to judge by."""
        if dataset_valid is None:
            return
        if self.monitor == SCORE:
            net.history.record(SCORE, float(net.judge(dataset_valid)))
        super().on_epoch_end(net, **kwargs)

    def on_train_end(self, net, **kwargs):
        """Go back to the best weights, if there were epochs to compare."""
        if self.best_model_weights_ is not None:
            super().on_train_end(net, **kwargs)

    def n_epochs_kept(self, history):
        """Epochs that led to the present weights."""
        compared = self.best_model_weights_ is not None
        return self.best_epoch_ if compared else len(history)


class _HeldOut(BaseEstimator):
    """A net as scorers see it: targets of its own data sets.

    Parameters
    ----------
    net : FineTunedNet
    """

    def __init__(self, net):
        self.net = net

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X):
        """Predict what `y` was."""
        return self.net.target.decode(self.net.predict(X))


class HeldOutRegressor(RegressorMixin, _HeldOut):
    """Predicts numbers."""


class HeldOutClassifier(ClassifierMixin, _HeldOut):
    """Predicts labels."""

    @property
    def classes_(self):
        """The labels."""
        return self.net.classes_

    def predict_proba(self, X):
        """As the net's."""
        return self.net.predict_proba(X)

    def decision_function(self, X):
        """As the net's."""
        return self.net.decision_function(X)
