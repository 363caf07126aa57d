"""scikit-learn's callbacks: each `fit` is a task of theirs, and each epoch of it."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._utils.fit_tasks import CallbackSupportMixin
from tests.helpers import first_and_slow, run_python

needs_callbacks = pytest.mark.skipif(
    not hasattr(CallbackSupportMixin, "set_callbacks"),
    reason="scikit-learn has callbacks from 1.9 on",
)
X = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
Y = np.arange(24) % 2


class Record:
    """Notes what it is told; a meta-estimator hands it down to the ones inside."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events, self.probabilities, self.data = [], [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator, context, *, X, y, metadata, fitted_estimator=None
    ):
        self.events.append(f"end {context.task_name}")
        self.data.append((X, y, metadata))
        if isinstance(fitted_estimator, FineTunedCNNClassifier):
            self.probabilities.append(fitted_estimator.predict_proba(X))
        return self.events.count("end epoch") == self.stop_after

    def teardown(self, estimator, context):
        self.events.append("teardown")


@needs_callbacks
@pytest.mark.parametrize(
    "strategy", first_and_slow(["lp_ft", "full", "gradual", "scratch"])
)
def test_each_epoch_is_a_task_within_fit(make, strategy):
    record = Record()
    clf = make(strategy).set_callbacks(record)
    clf.fit(X, Y)
    epoch = ["begin epoch", "end epoch"]
    expected = ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]
    assert record.events == expected


@needs_callbacks
def test_fitted_head_is_one_task(make):
    record = Record()
    make("linear_probe").set_callbacks(record).fit(X, Y)
    assert record.events == ["setup", "begin fit", "end fit", "teardown"]


@needs_callbacks
def test_refit_has_tasks_for_its_epochs_too(make):
    record = Record()
    clf = make("full", early_stopping=True, refit=True, validation_fraction=0.25)
    clf.set_callbacks(record).fit(X, Y)
    assert record.events.count("end epoch") == 2 + clf.n_epochs_


@needs_callbacks
def test_estimator_of_an_epoch_predicts_like_a_fit_that_ends_there(make):
    record = Record()
    make("full", max_epochs=3).set_callbacks(record).fit(X, Y)
    for n_epochs, found in enumerate(record.probabilities[:3], start=1):
        expected = make("full", max_epochs=n_epochs).fit(X, Y).predict_proba(X)
        np.testing.assert_array_equal(found, expected)


@needs_callbacks
def test_callback_that_asks_to_stop_ends_training(make):
    clf = make("full", max_epochs=5).set_callbacks(Record(stop_after=2)).fit(X, Y)
    shorter = make("full", max_epochs=2).fit(X, Y)
    assert len(clf.history) == clf.n_epochs_ == 2
    np.testing.assert_array_equal(clf.predict_proba(X), shorter.predict_proba(X))


@needs_callbacks
def test_callback_is_given_what_fit_was_given(make):
    record, weights = Record(), np.linspace(1, 2, 24)
    make("full").set_callbacks(record).fit(X, Y, sample_weight=weights)
    for data in record.data:
        assert data[0] is X
        assert data[1] is Y
        assert data[2]["sample_weight"] is weights


@needs_callbacks
def test_callback_is_torn_down_when_fit_fails(make):
    record = Record()
    with pytest.raises(ValueError, match="only 1 class"):
        make().set_callbacks(record).fit(X, np.zeros(24))
    assert record.events[-1] == "teardown"


@needs_callbacks
def test_clone_keeps_callbacks_and_fit_leaves_no_context(make):
    record = Record()
    clf = clone(make().set_callbacks(record)).fit(X, Y)
    assert record.events[0] == "setup"
    assert not [name for name in vars(clf) if "callback" in name and "ctx" in name]


@needs_callbacks
def test_search_hands_callbacks_down_through_a_pipeline_without_a_warning(tiny_network):
    record = Record()
    frozen = PretrainedFeatureExtractor(tiny_network, image_size=8)
    model = make_pipeline(frozen, LogisticRegression())
    search = GridSearchCV(model, {"logisticregression__C": [1, 2]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.set_callbacks(record).fit(X, Y)
    of_the_extractor = [data for data in record.data if data[0] is not None]
    assert len(of_the_extractor) >= 2 * 2 + 1


@needs_callbacks
def test_scoring_monitor_logs_a_score_for_each_epoch_of_a_search(make):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    clf = make("full").set_callbacks(monitor)
    GridSearchCV(clf, {"lr": [0.01, 0.02]}, cv=2).fit(X, Y)
    logs = monitor.get_logs().data
    scores = [row["accuracy"] for row in logs if row["task_name"] == "epoch"]
    assert len(scores) == 2 * (2 * 2 + 1)  # epochs of 2 x 2 fits, and of the last one
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.slow
def test_estimators_work_where_scikit_learn_has_no_callbacks():
    """As scikit-learn 1.8 is; its own imports come first here."""
    code = """
import sys, numpy as np, skorch, sklearn.linear_model, sklearn.pipeline
sys.modules["sklearn.callback"] = None
from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
clf = FineTunedCNNClassifier(max_epochs=1, image_size=16)
assert not hasattr(clf, "set_callbacks")
X = np.random.default_rng(0).random((8, 8, 8))
assert clf.fit(X, np.arange(8) % 2).n_epochs_ == 1
assert len(PretrainedFeatureExtractor(image_size=16).fit_transform(X)) == 8
"""
    run_python(code)
