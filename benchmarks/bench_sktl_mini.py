"""The default backbone serves photographs as well as digits, in little room and time.

Claims, for logistic regression on the features that the extractor gives by default
(64 pixels), fitted on the training part of a set and judged on the other:

- on photographs (`hymenoptera`, `flowers17`, `rsscn7`, `sign_digits`) at least 20
  points more than the same network untrained on average, and 8 on each set;
- on scikit-learn's digits, with 5 and 10 labels per class, at least 0.92 and 0.955,
  mean of ten draws, by the better of logistic regression and an SVM;
- the weights are at most 4 MB, and at least 300 images of 64 pixels pass per second.

Aimed at, printed and not claimed: at most 10 points less than SqueezeNet 1.1 with
ImageNet weights at 224 pixels. Raw pixels are those of the image at 32 x 32. None of
these sets had a part in the making of `sktl_mini`.

Usage: python benchmarks/bench_sktl_mini.py [--shared PATH]. Exits with 1 when a claim
fails. About three minutes on two cores.
"""

import sys
import time
import warnings
from importlib.resources import files
from statistics import median

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import verdict
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from sktl import PretrainedFeatureExtractor
from sktl.exceptions import ImageSizeWarning

TREES = ("hymenoptera", "flowers17", "rsscn7", "sign_digits")
DIGITS = {"digits, 5": (5, 0.92), "digits, 10": (10, 0.955)}  # labels, claimed accuracy
SQUEEZENET = "squeezenet1_1-torchvision.fp16.safetensors"
MINI, UNTRAINED, REFERENCE = "sktl_mini", "sktl_mini, untrained", "squeezenet1_1"
CLAIMED_LIFT, CLAIMED_LIFT_ON_EACH = 0.20, 0.08
CLAIMED_BYTES, CLAIMED_RATE = 4_000_000, 300


def raw_pixels(paths):
    images = [Image.open(path).convert("RGB").resize((32, 32)) for path in paths]
    return np.stack([np.asarray(image).ravel() / 255 for image in images])


def transformers(shared):
    """Return what turns images into features, by name."""
    weights = shared / "weights" / SQUEEZENET
    return {
        MINI: PretrainedFeatureExtractor(n_jobs=2),
        UNTRAINED: PretrainedFeatureExtractor(weights=None, n_jobs=2),
        "raw pixels": FunctionTransformer(raw_pixels),
        REFERENCE: PretrainedFeatureExtractor(REFERENCE, weights=weights, n_jobs=2),
    }


def accuracy_on(folder, transformer):
    X, y = images_and_labels(folder)
    X_val, y_val = images_and_labels(folder, "val")
    model = LogisticRegression(max_iter=2000)
    return (
        make_pipeline(transformer, StandardScaler(), model)
        .fit(X, y)
        .score(X_val, y_val)
    )


def accuracy_on_digits(features, y, n_labels):
    """Mean over ten draws of `n_labels` per class, of the better of two models."""
    draws = StratifiedShuffleSplit(10, train_size=10 * n_labels, random_state=0)
    models = LogisticRegression(max_iter=2000), SVC(C=10)
    return max(
        cross_val_score(
            make_pipeline(StandardScaler(), m), features, y, cv=draws
        ).mean()
        for m in models
    )


def accuracies(shared, name, transformer):
    """Return the accuracy on each set, and on digits."""
    found = {tree: accuracy_on(shared / "data" / tree, transformer) for tree in TREES}
    X, y = load_digits(return_X_y=True)
    features = X if name == "raw pixels" else transformer.fit_transform(X)
    for title, (n_labels, _) in DIGITS.items():
        found[title] = accuracy_on_digits(features, y, n_labels)
    return found


def rate(n=2048, repeats=5):
    """Images of 64 pixels per second, in memory, at the default precision."""
    X = np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    extractor = PretrainedFeatureExtractor(cache=None).fit(X)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        extractor.transform(X)
        seconds.append(time.perf_counter() - start)
    return n / median(seconds)


def show(found):
    titles = list(found[MINI])
    width = max(map(len, found))
    print(f"{'':{width}}  " + "  ".join(titles))
    for name, row in found.items():
        print(f"{name:{width}}  " + "  ".join(f"{row[t]:{len(t)}.3f}" for t in titles))


def main():
    shared = argument_parser(__doc__).parse_args().shared
    warnings.simplefilter("ignore", ImageSizeWarning)
    found = {
        name: accuracies(shared, name, transformer)
        for name, transformer in transformers(shared).items()
    }
    show(found)
    lifts = [found[MINI][tree] - found[UNTRAINED][tree] for tree in TREES]
    behind = [found[REFERENCE][tree] - found[MINI][tree] for tree in TREES]
    size = (
        (files("sktl") / "_networks" / "weights" / "sktl_mini.safetensors")
        .stat()
        .st_size
    )
    speed = rate()
    print(
        f"above untrained: {np.mean(lifts):.3f} on average, at least {min(lifts):.3f}"
    )
    print(f"behind SqueezeNet 1.1: at most {max(behind):.3f} (aim: 0.100)")
    print(f"{size:,} bytes, {speed:.0f} images per second")
    claims = {
        "20 points above untrained on average": np.mean(lifts) >= CLAIMED_LIFT,
        "8 points on each": min(lifts) >= CLAIMED_LIFT_ON_EACH,
        "at most 4 MB": size <= CLAIMED_BYTES,
        "at least 300 images per second": speed >= CLAIMED_RATE,
    }
    for title, (_, goal) in DIGITS.items():
        claims[f"{title} labels: {goal}"] = found[MINI][title] >= goal
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
