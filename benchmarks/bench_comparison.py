"""A comparison of all default contenders costs one pass and the fits.

Claim: `compare_transfer` with its default contenders on photographs takes at most 1.2
times as long as the cheapest honest way to the same numbers: extract the features of
the pretrained and of the untrained network once, shrink the images once, and
cross-validate each classifier on these arrays and both networks on the images,
without scoring them after each epoch. Every repeat begins with an empty cache, and both
ways give the same scores, but for raw pixels, which are shrunk by Pillow here.

SqueezeNet 1.1 with real weights at 64 pixels, five folds.

Usage: python benchmarks/bench_comparison.py [--shared PATH] [--images N] [--repeats
N]. Exits with 1 when the claim fails. Ten to twenty minutes on two cores.
"""

import sys
from functools import partial

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import interleaved, ratio, verdict
from PIL import Image
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    clear_cache,
    compare_transfer,
)

TREE = "hymenoptera"
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
SEED = 0
FOLDS = StratifiedKFold(5)
CLAIMED_RATIO = 1.2
COMPARISON, BY_HAND = "comparison", "passes and fits"
RAW_PIXELS = 1  # its place among the default contenders


def arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def shrunk(path):
    """An image as a row of 32 x 32 pixels in colour."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        return np.asarray(small).ravel() / 255


def compare(extractor, X, y):
    report = compare_transfer(X, y, backbone=extractor, cv=FOLDS, random_state=SEED)
    return report.results_["mean_test_score"]


def by_hand(extractor, X, y):
    """Mean scores in the order of the default contenders."""
    pixels = np.stack([shrunk(path) for path in X])
    frozen = extractor.fit_transform(X)
    untrained = clone(extractor).set_params(weights=None).fit_transform(X)
    linear = make_pipeline(GlobalScaler(), LogisticRegression(max_iter=1000))
    network = FineTunedCNNClassifier(
        extractor.backbone,
        weights=extractor.weights,
        image_size=extractor.image_size,
    )
    scratch = clone(network).set_params(strategy="scratch", max_epochs=40)
    boosting = GradientBoostingClassifier(max_features="sqrt")
    fits = [
        (DummyClassifier(), frozen),
        (linear, pixels),
        (linear, untrained),
        (linear, frozen),
        (SVC(), frozen),
        (boosting, frozen),
        (network, X),
        (scratch, X),
    ]
    return [mean_score(model, rows, np.array(y)) for model, rows in fits]


def mean_score(model, rows, y):
    """Mean over the folds, with a seed per fold as `compare_transfer` draws them."""
    rows = np.array(rows)
    splits = list(FOLDS.split(rows, y))
    seeds = np.random.RandomState(SEED).randint(2**31, size=len(splits))
    scores = []
    for seed, (train, test) in zip(seeds.tolist(), splits, strict=True):
        fitted = clone(model)
        if "random_state" in fitted.get_params():
            fitted.set_params(random_state=seed)
        scores.append(fitted.fit(rows[train], y[train]).score(rows[test], y[test]))
    return np.mean(scores)


def main():
    args = arguments()
    X, y = images_and_labels(args.shared / "data" / TREE, n=args.images)
    weights = args.shared / "weights" / WEIGHTS
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=weights, image_size=64
    )
    scores = {}

    def run(name, way):
        scores[name] = way(extractor, X, y)

    sides = {COMPARISON: partial(run, COMPARISON, compare)}
    sides[BY_HAND] = partial(run, BY_HAND, by_hand)
    extractor.fit(X)  # loads the network
    seconds = interleaved(sides, args.repeats, before=clear_cache)
    found = ratio(seconds, COMPARISON, BY_HAND)
    for name, times in seconds.items():
        print(f"{name}: {', '.join(f'{s:.1f}' for s in times)} s")
    print(f"{len(X)} images of {TREE}: {COMPARISON} / {BY_HAND} {found}")
    kept = np.arange(len(scores[BY_HAND])) != RAW_PIXELS
    same = np.array_equal(scores[COMPARISON][kept], np.array(scores[BY_HAND])[kept])
    return verdict(
        {
            "both ways give the same scores": same,
            f"at most {CLAIMED_RATIO}": found.median <= CLAIMED_RATIO,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
