"""How often a report says what is not so, where the truth is known."""

import functools
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.random_projection import GaussianRandomProjection

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._comparison.evidence import collect_evidence
from sktl._comparison.findings import Findings
from sktl._comparison.influence import make_units
from sktl._comparison.summary import summarize
from sktl._comparison.train_sizes import shrink
from sktl._comparison.trials import Setting, run_trials
from sktl._targets.kinds import Labels
from sktl._targets.scoring import get_one_scorer
from sktl._targets.splits import Split, make_splits

SIZES = [20, 40, 80]
MARGIN = 0.01
# Who is paired with whom; what they score comes from others.
ROLES = {
    "tuned": FineTunedCNNClassifier("sktl_mini"),
    "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
    "frozen": make_pipeline(PretrainedFeatureExtractor("sktl_mini"), RidgeClassifier()),
    "untrained": make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", weights=None), RidgeClassifier()
    ),
}


def load_pixels():
    X, y = load_digits(return_X_y=True)
    return X / 16.0, y


def reverse(X):
    return X[:, ::-1]


def projection(*steps):
    return make_pipeline(*steps, GaussianRandomProjection(16), RidgeClassifier())


EQUAL = (projection(), projection(FunctionTransformer(reverse)))  # but for their luck
CLOSE = (
    RidgeClassifier(alpha=10.0),
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5),
)
FAR = (CLOSE[0], EQUAL[0])
ACTORS = {
    "nothing to be found": dict(zip(ROLES, [*EQUAL, *EQUAL[::-1]], strict=True)),
    "close, and far": dict(zip(ROLES, [*CLOSE, *FAR], strict=True)),
    "worse, and equal": dict(zip(ROLES, [*FAR[::-1], *EQUAL], strict=True)),
}
SPLITS = {
    "folds": lambda seed: StratifiedKFold(5, shuffle=True, random_state=seed),
    "draws": lambda seed: StratifiedShuffleSplit(
        8, train_size=80, test_size=50, random_state=seed
    ),
}


def report(X, y, actors, cv, seed):
    """The sentences of a comparison in which others act for the contenders."""
    rng = np.random.RandomState(seed)
    labels = Labels.learn(y)
    splits = shrink(make_splits(X, y, cv, None, labels), y, labels, SIZES, rng)
    seeds = rng.randint(2**31, size=len(splits[0])).tolist()
    whose = np.arange(len(y))
    units = make_units(whose, np.concatenate([split.test for split in splits[-1]]))
    setting = Setting(X, y, get_one_scorer("accuracy", labels, y), units=units)
    trials = {
        name: run_trials(actor, setting, splits, seeds)
        for name, actor in actors.items()
    }
    results, _ = summarize(trials, splits)
    evidence = collect_evidence(trials, splits, whose, (0.0, 1.0), MARGIN)
    return Findings(results, {}, ROLES, evidence).sentences()


@functools.cache
def true_scores(actor):
    """Mean score of an actor at each size, over many independent draws."""
    X, y = load_pixels()
    scores = np.empty((60, len(SIZES)))
    for draw in range(len(scores)):
        split = StratifiedShuffleSplit(
            1, train_size=SIZES[-1], test_size=600, random_state=10**6 + draw
        )
        (part,) = split.split(X, y)
        rng = np.random.RandomState(draw)
        for i, of_size in enumerate(
            shrink([Split(*part)], y, Labels.learn(y), SIZES, rng)
        ):
            ((train, test),) = of_size
            fitted = clone(actor)
            if "gaussianrandomprojection" in getattr(fitted, "named_steps", ()):
                fitted.set_params(gaussianrandomprojection__random_state=draw)
            fitted.fit(X[train], y[train])
            scores[draw, i] = np.mean(fitted.predict(X[test]) == y[test])
    return scores.mean(axis=0)


def true_gains(actors):
    """Difference of each pair at each size."""
    tuned, scratch, frozen, untrained = map(true_scores, actors.values())
    gains = {"tuned": tuned - scratch, "frozen": frozen - untrained}
    for (name, of_sizes), pair in zip(
        gains.items(), (("tuned", "scratch"), ("frozen", "untrained")), strict=True
    ):
        if {id(actors[one]) for one in pair} == set(map(id, EQUAL)):
            gains[name] = 0 * of_sizes
    return gains


def is_false(sentence, gains):
    """Whether a sentence contradicts the true gains."""
    name = re.search("'(tuned|frozen)'", sentence)
    if name is None or sentence.startswith(("Whether", "Inconclusive")):
        return False
    of_sizes = dict(zip(SIZES, gains[name[1]], strict=True))
    largest = of_sizes[SIZES[-1]]
    if sentence.startswith("Transfer helps") or "does not catch up" in sentence:
        return largest <= 0
    if sentence.startswith("Negative transfer"):
        return largest >= 0
    if sentence.startswith("Equivalent"):
        return abs(largest) > MARGIN
    if "is not ahead" in sentence:
        return max(of_sizes.values()) > MARGIN
    before, after = re.search(
        r"catches up with '\w+' (?:between (\d+) and|by) (\d+) training", sentence
    ).groups()
    if before and of_sizes[int(before)] <= 0:
        return True
    return any(of_sizes[size] > MARGIN for size in SIZES if size >= int(after))


@pytest.mark.slow
def test_reports_say_what_is_false_in_at_most_5_percent():
    """A report counts once, however many of its sentences are false."""
    X, y = load_pixels()
    n_each, n_false, said = 10, 0, []
    for actors in ACTORS.values():
        gains = true_gains(actors)
        for name, make_cv in SPLITS.items():
            for seed in range(n_each):
                rows = np.arange(len(y))
                if name == "folds":
                    draw = StratifiedShuffleSplit(1, train_size=110, random_state=seed)
                    rows, _ = next(draw.split(X, y))
                found = report(X[rows], y[rows], actors, make_cv(seed), seed)
                n_false += any(is_false(sentence, gains) for sentence in found)
                said += found
    n_reports = n_each * len(ACTORS) * len(SPLITS)
    assert n_false / n_reports <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_reports)
    for words in ("Transfer helps", "Negative transfer", "Inconclusive"):
        assert sum(sentence.startswith(words) for sentence in said) > n_each / 2
