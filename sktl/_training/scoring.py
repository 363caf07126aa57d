"""What scorers see while a net is trained: the `y` that `fit` got, and its classes."""

from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from sktl._training.net import holds_rows


def score_in_training(scoring, net, X, codes):
    """Score what a net predicts for one of its data sets or batches.

    Parameters
    ----------
    scoring : str, callable or None
        As scikit-learn's; None is the net's own score.
    net : FineTunedNet
    X : data set or batch of the net's
    codes : ndarray
        Its targets, as the loss reads them.
    """
    seen = NetInTraining(net)
    return check_scoring(seen, scoring)(seen, X, net.target.decode(codes))


class NetInTraining(BaseEstimator):
    """A net as scorers see it while it is trained: it takes its own data sets for `X`.

    What it predicts is what `y` was; all else is the net's.

    Parameters
    ----------
    net : FineTunedNet
    known : tuple of (X, data set) or None
        Images that became a data set already, and are not opened again.
    """

    def __init__(self, net, known=None):
        self.net, self.known = net, known

    def predict(self, X):
        """Predict what `y` was."""
        X = self._data(X)
        predicted = self.net.predict(X)
        return self.net.target.decode(predicted) if holds_rows(X) else predicted

    @available_if(lambda self: hasattr(self.net, "predict_proba"))
    def predict_proba(self, X):
        """As the net's."""
        return self.net.predict_proba(self._data(X))

    @available_if(lambda self: hasattr(self.net, "decision_function"))
    def decision_function(self, X):
        """As the net's."""
        return self.net.decision_function(self._data(X))

    def score(self, X, y):
        """As the net's, which compares what the loss reads."""
        X = self._data(X)
        return self.net.score(X, self.net.target.encode(y) if holds_rows(X) else y)

    def __getattr__(self, name):
        if name == "net":  # in a copy that is being made
            raise AttributeError(name)
        return getattr(self.net, name)

    def _data(self, X):
        return self.known[1] if self.known and X is self.known[0] else X

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        return get_tags(self.net)
