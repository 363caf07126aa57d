"""What a network scores on held-out images before the first epoch and after each."""

import time

import numpy as np
from skorch.callbacks import Callback

from sktl._training.scoring import NetInTraining
from sktl._utils.parts import reading


class ScoreCurve(Callback):
    """Note a net's score on other rows as it is trained; training does not change.

    Parameters
    ----------
    scorer : callable
        As scikit-learn's: of estimator, X and y.
    X, y : rows and targets to score
    rows : sequence of int
        Which rows of the user's `X` they are.

    Attributes
    ----------
    seconds_outside_ : float
        What the scoring took.
    """

    seconds_outside_ = 0.0
    scores_ = ()

    def __init__(self, scorer, X, y, rows):
        self.scorer = scorer
        self.X = X
        self.y = y
        self.rows = rows

    def initialize(self):
        """Start the clock: a fit begins. A `refit` in it goes on with the same."""
        if not hasattr(self, "start_"):
            self.start_ = time.perf_counter()
        return self

    def on_train_begin(self, net, **kwargs):
        """Forget an earlier training of the same fit."""
        self.seconds_, self.scores_ = [], []

    def on_epoch_begin(self, net, **kwargs):
        """Note the network as it begins; where the head is fitted, that is done."""
        if not self.scores_:
            self._note(net)

    def on_epoch_end(self, net, **kwargs):
        """Note the network after an epoch."""
        self._note(net)

    def points(self, final):
        """Return the curve.

        Parameters
        ----------
        final : float
            The score of the network that predicts, at which the curve ends: it may be
            an average, or that of an earlier epoch.

        Returns
        -------
        curve : dict of str to ndarray or None
            `epoch` (0 is before the first), `seconds` (of the fit up to there, without
            the scoring) and `score`; None where nothing was trained by epochs.
        """
        if not self.scores_:
            return None
        return {
            "epoch": np.arange(len(self.scores_)),
            "seconds": np.array(self.seconds_),
            "score": np.array([*self.scores_[:-1], final]),
        }

    def _note(self, net):
        now = time.perf_counter()
        self.seconds_.append(now - self.start_ - self.seconds_outside_)
        if not self.scores_:
            with reading("test part", self.rows):
                self.data_ = net.get_dataset(self.X)  # passes the frozen part once
        so_far = NetInTraining(net, (self.X, self.data_))
        self.scores_.append(self.scorer(so_far, self.X, self.y))
        self.seconds_outside_ += time.perf_counter() - now
