"""How often the verdict of a comparison is right.

Question: do the 95 % intervals of `TransferComparison.gain` hold the true difference as
often as they say, on the ways in which people split their rows, and do they find a
difference that is there? Asked of the digits that come with scikit-learn, as raw pixels
and as features of `sktl_mini`, and of four pairs of cheap classifiers: equal ones (the
same random projection with two kinds of luck), close, middling and far apart. The truth
is the mean over 400 independent draws with training parts of the same size, tested on
500 other rows. The method was chosen on these digits and on CIFAR-10; `--data
sign_digits` asks the same of 2,062 hand signs that had no part in it, as 8 x 8 grey
pixels and as features. Beside our intervals: the corrected resampled t-test, the plain
paired t-test, and the Bayesian comparison of scikit-learn's guide ("Statistical
comparison of models using grid search"), whose 95 % interval is that of the corrected
test and whose verdicts need a probability of 95 %, with a region of practical
equivalence of 0.01.

For each case and pair: how often the interval holds the truth; how often p < 0.05 (for
equal contenders, by mistake); how often a difference of four standard errors of the
mean is found; how often the verdict is false (better or worse where it is not so,
equivalent where the difference is larger).

Claim, over the pairs of a case: intervals hold the truth in at least 93 %, equal
contenders get p < 0.05 in at most 7.5 %, verdicts on others are false in at most 5 %,
and four standard errors are found in 95 % with eight splits or more, in 90 % with five;
of two and three splits, nothing is claimed on that. Each within two errors of the
simulation.

Usage: python benchmarks/bench_verdict.py [--repetitions 500] [--cases NAME ...] [--data
sign_digits] [--shared FOLDER]. Exits with 1 when the claim fails. An hour on two quiet
cores.
"""

import sys
import warnings
from typing import NamedTuple

import numpy as np
from _shared import argument_parser
from PIL import Image
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    RepeatedStratifiedKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from sktl import PretrainedFeatureExtractor, compare_transfer

MARGIN = 0.01
N_TRUTH, N_JUDGED = 400, 500
N_PIXELS, N_FEATURES = 64, 48
METHODS = ("sktl", "corrected", "plain", "Bayes")


class Case(NamedTuple):
    """Rows that are drawn from all, and how they are split by a seed; the score.

    `rows` None means all rows, of which the splits then draw.
    """

    rows: int | None
    cv: object
    scoring: str = "accuracy"
    size: int | None = None  # training rows, where fewer than there are
    copies: int = 1  # noisy ones of each row, which make a group
    is_binary: bool = False


def folds(n_folds):
    return lambda seed: StratifiedKFold(n_folds, shuffle=True, random_state=seed)


def repeated_folds(n_folds, n_repeats):
    return lambda seed: RepeatedStratifiedKFold(
        n_splits=n_folds, n_repeats=n_repeats, random_state=seed
    )


def draws(n_draws, n_train, n_test):
    return lambda seed: StratifiedShuffleSplit(
        n_draws, train_size=n_train, test_size=n_test, random_state=seed
    )


CASES = {
    "2 folds of 90": Case(90, folds(2)),
    "3 folds of 100": Case(100, folds(3)),
    "5 folds of 200": Case(200, folds(5)),
    "10 folds of 200": Case(200, folds(10)),
    "3 x 5 folds of 150": Case(150, repeated_folds(5, 3)),
    "5 folds of 200, 40 to train": Case(200, folds(5), size=40),
    "8 draws of 50 + 200": Case(None, draws(8, 50, 200)),
    "8 draws of 200 + 40": Case(None, draws(8, 200, 40)),
    "10 draws of 100 + 60 of 300": Case(300, draws(10, 100, 60)),
    "5 folds of 50 groups": Case(50, lambda seed: 5, copies=4),
    "5 folds of 200, F1": Case(200, folds(5), "f1_macro"),
    "5 folds of 200, AUC": Case(200, folds(5), "roc_auc", is_binary=True),
    "5 folds of 200, log loss": Case(200, folds(5), "neg_log_loss"),
}


def take(X, columns):
    return X[:, columns]


def contender(columns, *steps):
    choose = FunctionTransformer(take, kw_args={"columns": columns})
    return make_pipeline(choose, StandardScaler(), *steps)


def discriminant():
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


PIXELS = slice(N_PIXELS)
REVERSED = slice(N_PIXELS - 1, None, -1)  # the same to a random projection
FEATURES = slice(N_PIXELS, None)
CONTENDERS = {
    "projection": contender(PIXELS, GaussianRandomProjection(16), discriminant()),
    "its equal": contender(REVERSED, GaussianRandomProjection(16), discriminant()),
    "features": contender(FEATURES, discriminant()),
    "logistic": contender(FEATURES, LogisticRegression(C=0.1, max_iter=50, tol=0.01)),
    "pixels": contender(PIXELS, discriminant()),
}
PAIRS = {
    "equal": ("projection", "its equal"),
    "close": ("features", "logistic"),
    "middling": ("features", "pixels"),
    "far": ("features", "projection"),
}


# ---- rows


def load(data, shared):
    """Pixels and features side by side, and labels."""
    if data == "digits":
        X, y = load_digits(return_X_y=True)
        images = X
    else:
        folder = shared / "data" / data
        images = sorted(folder.glob("*/*/*.*"))
        X = np.array([thumbnail(path) for path in images])
        y = np.array([int(path.parent.name) for path in images])
    extractor = PretrainedFeatureExtractor("sktl_mini")
    features = extractor.fit_transform(images).astype(float)
    features -= features.mean(axis=0)
    directions = np.linalg.svd(features, full_matrices=False)[2][:N_FEATURES]
    return np.hstack([X, features @ directions.T]), y


def thumbnail(path):
    """Grey, 8 x 8 pixels, as a row."""
    image = Image.open(path).convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(image, dtype=float).ravel()


def sample(X, y, case, seed):
    """The rows of one comparison, their labels, and the group of each."""
    rows = np.arange(len(y))
    if case.rows is not None:
        draw = StratifiedShuffleSplit(1, train_size=case.rows, random_state=seed)
        rows, _ = next(draw.split(y, y))
    groups = np.repeat(rows, case.copies)
    return with_noise(X[groups], case, seed), y[groups], groups


def with_noise(X, case, seed):
    if case.copies == 1:
        return X
    noise = np.random.default_rng(seed).normal(size=X.shape)
    return X + 0.3 * X.std(axis=0) * noise


# ---- the truth


def find_truth(X, y, case, n_train):
    """Mean score of each contender over independent draws."""
    scorer, scores = get_scorer(case.scoring), []
    n_train //= case.copies
    for draw in range(N_TRUTH):
        seed = 10**6 + draw
        split = StratifiedShuffleSplit(
            1, train_size=n_train, test_size=N_JUDGED, random_state=seed
        )
        train, test = (np.repeat(part, case.copies) for part in next(split.split(y, y)))
        X_train, X_test = (with_noise(X[part], case, seed) for part in (train, test))
        scores.append([])
        for one in map(clone, CONTENDERS.values()):
            if "gaussianrandomprojection" in one.named_steps:
                one.set_params(gaussianrandomprojection__random_state=seed)
            one.fit(X_train, y[train])
            scores[-1].append(scorer(one, X_test, y[test]))
    return dict(zip(CONTENDERS, np.mean(scores, axis=0), strict=True))


# ---- the methods


def judge(report, pair):
    """Mean, half an interval, and verdict of each method."""
    names = report.results_["contender"].tolist()
    scores = [
        np.array(
            [
                report.results_[f"split{i}_test_score"][names.index(name)]
                for i in range(report.n_splits_)
            ]
        )
        for name in pair
    ]
    differences = scores[0] - scores[1]
    n = len(differences)
    mean, spread = differences.mean(), differences.std(ddof=1)
    n_train, n_test = (report.results_[f"{part}_size"][0] for part in ("train", "test"))
    quantile = stats.t.ppf(0.975, n - 1)
    gain = report.gain(pair[0], over=pair[1])
    corrected = spread * np.sqrt(1 / n + n_test / n_train)
    halves = {
        "sktl": (gain.high - gain.low) / 2,
        "corrected": quantile * corrected,
        "plain": quantile * spread / np.sqrt(n),
        "Bayes": quantile * corrected,
    }
    verdicts = {name: by_interval(mean, half) for name, half in halves.items()}
    posterior = stats.t(n - 1, mean, max(corrected, 1e-12))
    worse, better = posterior.cdf(-MARGIN), posterior.sf(MARGIN)
    chances = {"worse": worse, "equivalent": 1 - worse - better, "better": better}
    likeliest = max(chances, key=chances.get)
    verdicts["Bayes"] = likeliest if chances[likeliest] > 0.95 else ""
    return mean, halves, verdicts


def by_interval(mean, half):
    if abs(mean) + half <= MARGIN:
        return "equivalent"
    if abs(mean) <= half:
        return ""
    return "better" if mean > 0 else "worse"


def is_false(verdict, truth):
    wrong = {"better": truth <= 0, "worse": truth >= 0}
    return wrong.get(verdict, verdict == "equivalent" and abs(truth) > MARGIN)


# ---- all


def run(name, case, n_repetitions, X, y):
    """Print a line per pair and method; return what the claim does not hold for."""
    if case.is_binary:
        y = (y > 4).astype(int)
    found = {pair: [] for pair in PAIRS}
    for seed in range(n_repetitions):
        rows, labels, groups = sample(X, y, case, seed)
        report = compare_transfer(
            rows,
            labels,
            CONTENDERS,
            cv=case.cv(seed),
            scoring=case.scoring,
            train_sizes=None if case.size is None else [case.size],
            groups=groups if case.copies > 1 else None,
            random_state=seed,
            margin=MARGIN,
        )
        for pair, names in PAIRS.items():
            found[pair].append(judge(report, names))
    n_train = int(report.results_["train_size"][0])
    scores = find_truth(X, y, case, n_train)
    failures = []
    for pair, (one, other) in PAIRS.items():
        truth = 0.0 if pair == "equal" else scores[one] - scores[other]
        means = np.array([mean for mean, _, _ in found[pair]])
        shift = 4 * means.std(ddof=1)
        print(f"{name}, {pair}: {truth:+.3f} (mean of estimates {means.mean():+.3f})")
        for method in METHODS:
            half = np.array([halves[method] for _, halves, _ in found[pair]])
            shares = {
                "covers": np.mean(abs(means - truth) <= half),
                "p < 0.05": np.mean(abs(means) > half),
                "finds": np.mean(abs(means - truth + shift) > half),
                "false": np.mean([is_false(v[method], truth) for *_, v in found[pair]]),
            }
            cells = "  ".join(f"{k} {100 * v:5.1f} %" for k, v in shares.items())
            print(f"    {method:9}  {cells}", flush=True)
            if method == "sktl":
                failures += check(pair, shares, report.n_splits_, n_repetitions)
    return failures


def check(pair, shares, n_splits, n_repetitions):
    """What a pair fails in."""

    def error(share):
        return 2 * np.sqrt(share * (1 - share) / n_repetitions)

    failures = []
    if shares["covers"] < 0.93 - error(0.93):
        failures.append(f"{pair}: covers")
    if pair == "equal" and shares["p < 0.05"] > 0.075 + error(0.075):
        failures.append(f"{pair}: p < 0.05")
    if pair != "equal" and shares["false"] > 0.05 + error(0.05):
        failures.append(f"{pair}: false")
    wanted = 0.95 if n_splits >= 8 else 0.90 if n_splits >= 5 else 0.0
    if shares["finds"] < wanted - error(wanted):
        failures.append(f"{pair}: finds")
    return failures


def main(arguments=None):
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", choices=["digits", "sign_digits"], default="digits")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # of few rows, from the classifiers
    X, y = load(options.data, options.shared)
    has_failed = False
    for name in options.cases:
        failures = run(name, CASES[name], options.repetitions, X, y)
        outcome = f"FAILS: {', '.join(failures)}" if failures else "holds"
        print(f"claim ({name}): {outcome}", flush=True)
        has_failed |= bool(failures)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
