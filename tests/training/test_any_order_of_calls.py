"""Any order of calls, failures in between: as an estimator that was made anew."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import Callback
from torch import nn

from sktl import FineTunedCNNClassifier

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

RNG = np.random.default_rng(0)
NAMES = np.array(["a", "b", "c"])
Y = np.arange(12) % 3
X = RNG.integers(0, 150, (12, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (50 * Y).astype(np.uint8)[:, None, None]
# Two sets of data: other labels, and numbers whose range is learnt.
DATA = [(X, Y), (X[:9] / 255.0, NAMES[Y[:9]])]
PARAMETERS = {
    "strategy": ["linear_probe", "lp_ft", "full", "gradual", "scratch"],
    "lr": [0.001, 0.02],
    "max_epochs": [1, 2],
    "hidden_units": [(), (3,)],
    "reinit_from": [None, "last"],
    "layer_decay": [1.0, 0.5],
    "optimizer": [torch.optim.AdamW, torch.optim.SGD],
    "class_weight": [None, "balanced"],
    "augment": [None, "flip"],
    "callbacks": [None, "fail"],
    "random_state": [0, 1],
}


class Fail(Callback):
    """Ends every training, in the middle of an epoch."""

    def on_batch_end(self, net, **kwargs):
        raise RuntimeError


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = OrderedDict(
            conv1=nn.Conv2d(3, 4, 3, stride=2, bias=False),
            bn1=nn.BatchNorm2d(4),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 6, 2, bias=False),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(6, 3),
        )
        return nn.Sequential(layers).eval()


NETWORK = network()
FAILURES = (ValueError, TypeError, RuntimeError, AttributeError)


class Calls(RuleBasedStateMachine):
    """One classifier through all calls; what was fitted last, from a new one."""

    def __init__(self):
        super().__init__()
        self.clf = FineTunedCNNClassifier(
            NETWORK, image_size=8, batch_size=6, random_state=0
        )
        self.fitted = None  # the data, and what is predicted for them

    @rule(
        change=st.sampled_from(
            [(n, value) for n, values in PARAMETERS.items() for value in values]
        )
    )
    def set_params(self, change):
        name, value = change
        self.clf.set_params(**{name: [Fail()] if value == "fail" else value})

    @rule(data=st.sampled_from(DATA))
    def fit(self, data):
        fresh, self.fitted = clone(self.clf), None
        try:
            fresh.fit(*data)
        except FAILURES as error:
            with pytest.raises(type(error)):
                self.clf.fit(*data)
            return
        assert self.clf.fit(*data) is self.clf
        self.fitted = data[0], fresh.predict_proba(data[0])

    @rule(data=st.sampled_from(DATA), wrong=st.sampled_from(["y", "X", "weights"]))
    def fit_wrongly(self, data, wrong):
        rows, labels = data
        none = np.zeros(len(labels))
        args = {
            "y": (rows, labels[:-1]),
            "X": (["nowhere.png"] * len(labels), labels),
            "weights": (rows, labels, none),
        }
        with pytest.raises((ValueError, TypeError)):
            self.clf.fit(*args[wrong])
        self.fitted = None

    @precondition(lambda self: self.fitted is not None)
    @rule()
    def partial_fit(self):
        """Twice the same from the same state, whatever was called before that."""
        rows = self.fitted[0]
        labels = next(y for x, y in DATA if x is rows)
        again = copy.deepcopy(self.clf)
        try:
            again.partial_fit(rows, labels)
        except FAILURES as error:
            with pytest.raises(type(error)):
                self.clf.partial_fit(rows, labels)
            if hasattr(self.clf, "partial_fit"):  # it came as far as training
                self.fitted = None
            return
        self.clf.partial_fit(rows, labels)
        self.fitted = rows, again.predict_proba(rows)

    @precondition(lambda self: self.fitted is not None)
    @rule()
    def partial_fit_wrongly(self):
        rows = self.fitted[0]
        with pytest.raises((ValueError, AttributeError)):
            self.clf.partial_fit(rows, np.arange(len(rows)) + 100)

    @rule()
    def pickled(self):
        self.clf = pickle.loads(pickle.dumps(self.clf))

    @rule()
    def copied(self):
        self.clf = copy.deepcopy(self.clf)

    @invariant()
    def predicts_what_was_fitted_last_or_nothing(self):
        if self.fitted is None:
            with pytest.raises(NotFittedError):
                self.clf.predict(X)
            return
        rows, expected = self.fitted
        assert np.array_equal(self.clf.predict_proba(rows), expected)
        labels = self.clf.classes_[expected.argmax(axis=1)]
        assert np.array_equal(self.clf.predict(rows), labels)


@pytest.mark.parametrize(
    ("n_runs", "n_calls"), [(4, 10), pytest.param(13, 20, marks=pytest.mark.slow)]
)
def test_calls_in_any_order_are_those_of_a_new_classifier(n_runs, n_calls):
    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=n_runs,
            stateful_step_count=n_calls,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
