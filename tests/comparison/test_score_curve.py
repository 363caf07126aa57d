"""The curve of a network that is scored as it is trained."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, get_scorer
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, EpochScoring

from sktl import compare_transfer
from sktl._comparison.score_curve import ScoreCurve
from sktl._training.scoring import NetInTraining
from tests.helpers import first_and_slow, splits_of


@pytest.mark.parametrize("scoring", first_and_slow([None, "neg_log_loss", "roc_auc"]))
def test_curve_is_what_shorter_trainings_score(duel, scoring):
    contenders, X, y = duel
    report = compare_transfer(X, y, contenders, cv=2, scoring=scoring, random_state=0)
    scorer = get_scorer(scoring or "accuracy")
    for row, name in enumerate(contenders):
        for i, (train, test) in enumerate(StratifiedKFold(2).split(X, y)):
            curve = report.curves_[name][i]
            n_epochs = contenders[name].max_epochs
            assert curve["epoch"].tolist() == list(range(n_epochs + 1))
            assert (np.diff(curve["seconds"]) > 0).all()
            assert curve["score"][-1] == splits_of(report, row)[i]
            shorter = clone(contenders[name]).set_params(max_epochs=2)
            shorter.fit(X[train], y[train])
            assert curve["score"][2] == scorer(shorter, X[test], y[test])
        if name == "tuned":
            probe = clone(contenders[name]).set_params(strategy="linear_probe")
            probe.fit(X[train], y[train])
            assert curve["score"][0] == pytest.approx(scorer(probe, X[test], y[test]))


def test_curve_scores_each_of_its_points_once_where_nothing_is_averaged(make, duel):
    """With random weights in it, the last epoch's network is the one that predicts."""
    _, X, y = duel
    scored = []

    def scorer(estimator, X, y):
        scored.append(type(estimator))
        return float((estimator.predict(X) == y).mean())

    contender = make(max_epochs=2, reinit_from="last", initial_share=0.25)
    report = compare_transfer(X, y, {"one": contender}, cv=2, scoring=scorer)
    n_points = sum(len(curve["epoch"]) for curve in report.curves_["one"])
    assert scored.count(NetInTraining) == n_points == 2 * 3


def test_curve_of_a_network_that_stops_early_ends_at_the_score_of_the_best_epoch(
    make, duel
):
    """The last epoch is another one, whose network is not the one that predicts."""
    _, X, y = duel
    stopping = {"early_stopping": True, "n_iter_no_change": 1, "random_state": 0}
    contender = make("scratch", lr=0.1, max_epochs=9, **stopping)
    report = compare_transfer(X, y, {"one": contender}, cv=2)
    ends = [curve["score"][-1] for curve in report.curves_["one"]]
    assert max(len(curve["epoch"]) for curve in report.curves_["one"]) < 10
    assert ends == splits_of(report).tolist()


@pytest.mark.parametrize("strategy", first_and_slow(["lp_ft", "gradual", "scratch"]))
def test_network_that_is_watched_is_trained_as_ever(make, duel, strategy):
    _, X, y = duel
    contender = make(strategy, dropout=0.2)
    options = {"cv": 2, "scoring": "neg_log_loss"}
    report = compare_transfer(X, y, {"one": contender}, **options)
    assert len(report.curves_["one"]) == 2
    assert splits_of(report).tolist() == (
        cross_val_score(contender, X, y, **options).tolist()
    )


def test_callbacks_of_a_contender_stay_its_own(make, duel):
    _, X, y = duel
    own = EpochScoring("accuracy", name="own")
    contender = make(callbacks=[own])
    report = compare_transfer(X, y, {"one": contender}, cv=2)
    assert contender.callbacks == [own]
    assert len(report.curves_["one"]) == 2


def test_seconds_of_a_curve_are_without_the_scoring(make, duel, monkeypatch):
    """By a clock that only scores and epochs move on."""
    _, X, y = duel
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("sktl._comparison.score_curve.time", clock)

    def score(estimator, X, y):
        clock.now += 100
        return accuracy_score(y, estimator.predict(X))

    class Epoch(Callback):
        def on_epoch_begin(self, net, **kwargs):
            clock.now += 3

    curve = ScoreCurve(score, X[60:], y[60:], range(60))
    make(callbacks=[curve, Epoch()]).fit(X[:60], y[:60])
    assert curve.points(1.0)["seconds"].tolist() == [0, 3, 6]
    assert curve.seconds_outside_ == 300


def test_fit_seconds_are_without_the_scoring(make, duel, monkeypatch):
    _, X, y = duel
    monkeypatch.setattr(ScoreCurve, "seconds_outside_", -1000.0)
    (seconds,) = compare_transfer(X, y, {"one": make()}, cv=2).results_["mean_fit_time"]
    assert 990 < seconds < 1010 + 60


def test_score_that_reads_the_rows_itself_has_a_curve(make, duel):
    _, X, y = duel

    def score_of_bright_rows(estimator, X, y):
        bright = X.mean(axis=1) > 4.5
        return accuracy_score(y[bright], estimator.predict(X[bright]))

    report = compare_transfer(X, y, {"one": make()}, cv=2, scoring=score_of_bright_rows)
    assert report.scoring_ == "score_of_bright_rows"
    for i, curve in enumerate(report.curves_["one"]):
        assert curve["score"][-1] == splits_of(report)[i]


def test_contenders_without_epochs_have_no_curve(make, duel):
    _, X, y = duel
    contenders = {
        "probe": make("linear_probe"),
        "pipeline": make_pipeline(make()),
    }
    assert compare_transfer(X, y, contenders, cv=2).curves_ == {}
