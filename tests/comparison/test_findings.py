"""What a report says of known scores, and how often that is not so."""

import functools
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.random_projection import GaussianRandomProjection

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, compare_transfer
from sktl._comparison.evidence import Evidence, collect_evidence
from sktl._comparison.findings import Findings
from sktl._comparison.influence import make_units
from sktl._comparison.summary import summarize
from sktl._comparison.train_sizes import shrink
from sktl._comparison.trials import Setting, run_trials
from sktl._targets.kinds import Labels
from sktl._targets.scoring import get_one_scorer
from sktl._targets.splits import Split, make_splits
from tests.helpers import splits_of

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


def test_twin_that_fails_leaves_no_effect(digits):
    X, y = digits
    broken = PretrainedFeatureExtractor("sktl_mini", weights=None, pooling="none")
    both = {
        "untrained": make_pipeline(broken, DummyClassifier()),
        "trained": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini", pooling="none"), DummyClassifier()
        ),
        "other": DummyClassifier(),
    }
    report = compare_transfer(X, y, both, cv=2)
    assert np.isnan(report.effects_["difference"]).all()
    assert report.findings_[0] == (
        "'trained' and 'untrained' cannot be compared, as one of them failed."
    )


@pytest.mark.parametrize("failing", ["scratch", "tuned"])
def test_network_that_fails_on_a_split_loses_nothing_but_its_indicators(failing):
    """Its curve of that split is empty, and so is the score of the reference."""
    scores = {"scratch": [0.5, 0.5], "tuned": [0.6, 0.6]}
    scores[failing] = [np.nan, 0.6]
    curve = {name: np.array([0.0, 1.0]) for name in ("epoch", "seconds", "score")}
    curves = {"scratch": [curve, curve], "tuned": [curve, curve]}
    curves[failing] = [{}, curve]
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
    }
    evidence = Evidence({}, 0.2, 100, 100)
    findings = Findings(fake_scores(scores, (80,)), curves, contenders, evidence)
    assert findings.sentences() == [
        "'tuned' and 'scratch' cannot be compared, as one of them failed."
    ]
    rows = findings.indicators()
    timed = rows["contender"][rows["indicator"] == "epochs to the score from scratch"]
    assert timed.tolist() == (["scratch"] if failing == "tuned" else [])
    assert np.isnan(rows["value"][rows["indicator"] == "gain over from scratch"]).all()


def fake_scores(scores, sizes):
    """Results as of contenders with these scores: {name: rows of sizes x splits}."""
    rows = [np.atleast_2d(values) for values in scores.values()]
    n_sizes, n_splits = rows[0].shape
    results = {"contender": np.repeat(np.array(list(scores), dtype=object), n_sizes)}
    for i in range(n_splits):
        results[f"split{i}_test_score"] = np.concatenate([row[:, i] for row in rows])
    n_rows = len(results["contender"])
    rows = {"train_size": np.tile(sizes, len(scores)), "test_size": np.full(n_rows, 20)}
    return results | rows | {"error": [""] * n_rows}


def findings_on(scratch, tuned, curves=None, sizes=(80,), **known):
    """What is found of two networks with these scores per size and split."""
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
    }
    results = fake_scores({"scratch": scratch, "tuned": tuned}, sizes)
    known = {"shared": 0.2, "n_units": 100, "n_tested": 100} | known
    evidence = Evidence({}, **known, bounds=(0.0, 1.0), margin=0.01)
    return Findings(results, curves or {}, contenders, evidence)


def sentences_on(*args, **kwargs):
    return findings_on(*args, **kwargs).sentences()


@pytest.mark.parametrize(
    ("tuned", "verdict", "sentence"),
    [
        (
            [0.70, 0.71, 0.70, 0.69, 0.70],
            "worse",
            "Negative transfer: 'tuned' loses to 'scratch' by 0.100 "
            "(95 % interval 0.087 to 0.113, p < 0.001).",
        ),
        (
            [0.90, 0.91, 0.90, 0.89, 0.90],
            "better",
            "Transfer helps: 'tuned' is ahead of 'scratch' by 0.100 "
            "(95 % interval 0.087 to 0.113, p < 0.001).",
        ),
        (
            [0.90, 0.71, 0.80, 0.79, 0.75],
            "inconclusive",
            "Inconclusive: 'tuned' is behind 'scratch' by 0.010 (95 % interval "
            "-0.122 to 0.142, p = 0.84). Here, only a difference of more than 0.13 "
            "could be detected; a clear answer would take more than 100 times as many "
            "rows.",
        ),
        (
            [0.80, 0.80, 0.80, 0.80, 0.80],
            "equivalent",
            "Equivalent within 0.01: 'tuned' is level with 'scratch' "
            "(95 % interval 0.000 to 0.000, p = 1).",
        ),
    ],
)
def test_finding_says_whether_transfer_helps_or_hurts(tuned, verdict, sentence):
    found = findings_on([0.8] * 5, tuned)
    assert found.sentences() == [sentence]
    assert found.effects()["verdict"].tolist() == [verdict]


def test_finding_says_that_so_few_splits_could_show_nothing():
    [sentence] = sentences_on([0.8, 0.8], [0.9, 0.5])
    assert "Here, no difference could be detected, however large; a clear" in sentence


@pytest.mark.parametrize(
    ("known", "unlike", "what"),
    [
        ({"n_tested": 80}, 0.11, "splits instead of 5"),
        # What the same rows contribute stays, however often they are drawn.
        ({"n_tested": 80}, 0.03, "rows instead of 100"),
        ({"n_tested": 80, "shared": 0.0}, 0.05, "rows instead of 100"),
        ({"n_tested": 100}, 0.07, "rows instead of 100"),
        ({"unit": "groups"}, 0.07, "groups instead of 100"),
    ],
)
def test_what_would_tell_is_what_the_variance_comes_from(known, unlike, what):
    tuned = 0.8 + unlike + np.array([-0.09, -0.05, 0.0, 0.05, 0.09])
    (sentence,) = sentences_on([0.8] * 5, tuned, **known)
    assert re.search(rf"a clear answer would take about \d+ {what}\.$", sentence)


def test_detectable_difference_is_adjusted_as_the_verdict_is():
    """What is clear alone, but not beside another pair, is not "detectable"."""
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "ahead": FineTunedCNNClassifier("sktl_mini"),
        "equal": FineTunedCNNClassifier("sktl_mini", strategy="gradual"),
    }
    scores = {
        "scratch": [0.80, 0.80, 0.80, 0.80, 0.80],
        "ahead": [0.83, 0.87, 0.84, 0.88, 0.83],
        "equal": [0.84, 0.76, 0.82, 0.78, 0.80],
    }
    results = fake_scores(scores, (80,))
    evidence = Evidence({}, 0.2, 100, 100, bounds=(0.0, 1.0), margin=0.01)
    found = Findings(results, {}, contenders, evidence)
    assert min(gain.interval().p_value for gain in found.gains) < 0.05
    sentence = found.sentences()[0]
    assert sentence.startswith("Inconclusive: 'ahead'")
    difference, detectable = re.findall(r"(?:by|more than) ([\d.]+)", sentence)
    assert float(detectable) > float(difference)


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        (
            [0.1, 0.1, 0.0],
            "'scratch' catches up with 'tuned' between 40 and 80 training rows.",
        ),
        (
            [0.1, -0.1, -0.1],
            "'scratch' catches up with 'tuned' between 20 and 40 training rows, and "
            "overtakes it.",
        ),
        (
            [0.1, 0.1, 0.1],
            "'scratch' does not catch up with 'tuned', which is still ahead at 80 "
            "training rows.",
        ),
        (
            [-0.1, 0.0, 0.0],
            "'tuned' is not ahead of 'scratch' at any size from 20 to 80 training "
            "rows.",
        ),
        (
            [0.1, 0.008, 0.0],
            "'scratch' catches up with 'tuned' by 80 training rows; it is unclear "
            "whether it does so by 40.",
        ),
        (
            [0.1, 0.0, 0.008],
            "It is unclear whether 'scratch' catches up with 'tuned' by 80 "
            "training rows.",
        ),
    ],
)
def test_finding_says_from_which_size_on_scratch_catches_up(gains, sentence):
    """Not being told apart is not catching up: the interval must be in the margin."""
    noise = np.array([0.0, 0.005, -0.005, 0.0])
    scratch = np.full((3, 4), 0.5)
    tuned = 0.5 + np.array(gains)[:, np.newaxis] + noise
    assert sentences_on(scratch, tuned, sizes=(20, 40, 80))[-1] == sentence


def test_indicators_tell_how_soon_the_score_from_scratch_is_reached(duel):
    contenders, X, y = duel
    report = compare_transfer(X, y, contenders, cv=3, random_state=0)
    table = zip(*report.indicators_.values(), strict=True)
    values = {(row[0], row[1]): row[3:] for row in table}
    names = [f"{axis} to the score from scratch" for axis in ("epochs", "seconds")]
    assert list(values) == [
        *[(name, who) for name in names for who in ("tuned", "scratch")],
        ("gain over from scratch", "tuned"),
    ]
    wanted = splits_of(report, 1)
    for axis, name in zip(("epoch", "seconds"), names, strict=True):
        for who in contenders:
            times = []
            for curve, score in zip(report.curves_[who], wanted, strict=True):
                reached = curve[axis][curve["score"] >= score]
                times.append(reached[0] if len(reached) else curve[axis][-1])
            value, low, high = values[name, who]
            assert value == pytest.approx(np.mean(times))
            assert 0 <= low <= value <= high
    effects = [report.effects_[name][0] for name in ("difference", "low", "high")]
    assert list(values["gain over from scratch", "tuned"]) == effects


def test_score_that_is_not_reached_is_told_by_the_splits():
    def curve(*scores):
        n = len(scores)
        return {"epoch": np.arange(n), "seconds": np.ones(n), "score": np.array(scores)}

    curves = {
        "tuned": [curve(0.5, 0.8), curve(0.5, 0.7), curve(0.7, 0.7)],
        "scratch": [curve(0.1, 0.8)] * 3,
    }
    *_, last = sentences_on([0.8] * 3, [0.8, 0.7, 0.7], curves)
    assert last == (
        "'tuned' does not reach the final score of 'scratch' in 2 of 3 splits."
    )
    curves["tuned"] = [curve(0.5, 0.8), curve(0.9, 0.7), curve(0.8, 0.7)]
    *_, last = sentences_on([0.8] * 3, [0.8, 0.7, 0.7], curves)
    assert last == (
        "'tuned' reaches the final score of 'scratch' after 0.3 epochs (1 s); "
        "'scratch' itself takes 1.0 epochs (1 s)."
    )


def test_time_to_a_score_that_is_not_reached_is_longer_than_the_training():
    """The other splits are not lost; nobody knows an upper end."""
    curve = {"epoch": np.arange(3), "seconds": np.arange(3) * 2.0}
    there, not_there = ([0.1, 0.9, 0.9], [0.1, 0.2, 0.3])
    curves = {
        "tuned": [curve | {"score": np.array(s)} for s in (there, not_there, there)],
        "scratch": [curve | {"score": np.array([0.1, 0.5, 0.8])}] * 3,
    }
    rows = findings_on([0.8] * 3, [0.9, 0.3, 0.9], curves).indicators()
    table = zip(*rows.values(), strict=True)
    found = {(indicator, name): ends for indicator, name, _, *ends in table}
    for axis, unit in (("epochs", 1), ("seconds", 2)):
        value, low, high = found[f"{axis} to the score from scratch", "tuned"]
        assert value == pytest.approx(unit * (1 + 2 + 1) / 3)
        assert 0 <= low < value
        assert high == np.inf
        ends = found[f"{axis} to the score from scratch", "scratch"]
        assert ends == [2 * unit] * 3


def test_twins_that_never_differ_cannot_be_told_apart_in_few_words(digits):
    """No number of splits would, and no margin says what would not matter."""
    features = PretrainedFeatureExtractor("sktl_mini", image_size=16)
    contenders = {
        "frozen": make_pipeline(features, DummyClassifier()),
        "untrained": make_pipeline(
            clone(features).set_params(weights=None), DummyClassifier()
        ),
    }
    report = compare_transfer(
        *digits, contenders, cv=2, scoring=lambda estimator, X, y: 3.0
    )
    (sentence,) = (f for f in report.findings_ if f.startswith("Inconclusive"))
    assert "are needed" not in sentence


@pytest.mark.parametrize("is_learnable", [True, False])
def test_contenders_no_better_than_one_that_is_blind_are_told(digits, is_learnable):
    X, y = digits
    y = y if is_learnable else np.random.default_rng(0).permutation(y)
    models = {"prior": DummyClassifier(), "near": KNeighborsClassifier(1)}
    models |= {"bayes": GaussianNB()}
    findings = compare_transfer(X, y, models, cv=3).findings_
    said = "No contender is clearly ahead of 'prior', which does not see the images."
    assert findings == ([] if is_learnable else [said])


def test_reference_reaches_its_score_by_its_last_epoch():
    curve = {name: np.array([0.0, 1.0, 2.0]) for name in ("epoch", "seconds")}
    curves = {
        "scratch": [curve | {"score": np.array(s)} for s in ([0, 0.5, 0.5], [0, 0, 1])],
        "tuned": [curve | {"score": np.array(s)} for s in ([1, 1, 1], [0, 1, 1])],
    }
    found = findings_on([0.5, 1.0], [1.0, 1.0], curves).indicators()
    is_epochs = found["indicator"] == "epochs to the score from scratch"
    assert (found["high"][is_epochs] <= 2).all()


@pytest.mark.parametrize(
    ("in_between", "end"),
    [
        ([0.60, 0.61, 0.60, 0.59, 0.60], "training rows."),
        ([0.9, 0.1, 0.8, 0.2, 0.5], "training rows at which that is clear."),
    ],
)
def test_what_was_never_behind_does_not_catch_up(in_between, end):
    scratch, tuned = [0.80, 0.81, 0.80, 0.79, 0.80], [0.60, 0.61, 0.60, 0.59, 0.60]
    found = sentences_on([scratch] * 3, [tuned, in_between, tuned], sizes=(20, 40, 80))
    said = f"'tuned' is not ahead of 'scratch' at any size from 20 to 80 {end}"
    assert said in found


def test_catching_up_is_judged_among_as_many_comparisons_at_each_size():
    """At 20 rows "ahead" is ahead by a p-value below 5 %, but not as one of two."""
    noise = [0.84, 0.76, 0.82, 0.78, 0.80]
    scores = {
        "scratch": [[0.8] * 5, [0.8] * 5],
        "ahead": [[0.83, 0.87, 0.84, 0.88, 0.83], [0.8] * 5],
        "equal": [noise, noise],
    }
    contenders = {
        "scratch": FineTunedCNNClassifier("sktl_mini", strategy="scratch"),
        "ahead": FineTunedCNNClassifier("sktl_mini"),
        "equal": FineTunedCNNClassifier("sktl_mini", strategy="gradual"),
    }
    evidence = Evidence({}, 0.2, 100, 100, bounds=(0.0, 1.0), margin=0.01)
    found = Findings(fake_scores(scores, (20, 80)), {}, contenders, evidence)
    assert (
        "'scratch' catches up with 'ahead' by 80 training rows; it is unclear whether "
        "it does so by 20." in found.sentences()
    )
