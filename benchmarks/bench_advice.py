"""How often the advice of `probe_layers` is right.

Question: does what it advises from the training rows alone come near the best of what
fine-tuning each depth really gives? Asked on the five labelled sets of `shared/data`
with SqueezeNet 1.1 at 112 pixels, for 5, 30 and 100 labels a class (17 instead of 30
for the many classes of flowers17; 100 where there are as many), and judged on up to
400 images of the part `val`. The depths: a linear model on the last features
(`linear_probe`), one on the features of the layer that the probe calls best, `lp_ft`
from the last stage, `lp_ft` from the first stage (the default), and `full`; all with
default parameters otherwise.

Claim: in at least 9 of these 13 cases the advised depth is within 2 points, or one
standard error if that is more, of the best one (as mean over draws; the standard error
is that of their difference over the images). The same count is printed for choices
that are always the same, about which nothing is claimed.

The tolerance was set before the first run, and that run (draws 1 and 2, other
thresholds, 7 of 10 claimed, 6 found) failed. By it and the draws before it the
thresholds of the advice were chosen; then the 9 were set, before draws 4 to 6 were
looked at. Those were judged with settings of their own until 2026-11-27, and with the
defaults since then. They are of the same sets, and a dozen cases of five sets are too
few to settle thresholds: other sets may want others.

Usage: python benchmarks/bench_advice.py [--shared PATH] [--labels N [N ...]]. Exits
with 1 when the claim fails. About half an hour on two quiet cores.
"""

import itertools
import sys

import numpy as np
from _shared import argument_parser, images_and_labels
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    probe_layers,
)

SETS = ("hymenoptera", "flowers17", "rsscn7", "sign_digits", "cifar10")
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
# Labels of a class: draws, as few rows differ much from one draw to the next.
SIZES = {5: 3, 30: 1, 100: 1}
N_JUDGED = 400
FIRST_DRAW = 4  # earlier ones chose the thresholds, or were looked at
DEPTHS = ("linear_probe", "best layer", "lp_ft last", "lp_ft first", "full")
TOLERANCE, CLAIMED = 0.02, 9


# ---- images


def load(folder, name, part):
    """Images as paths or bytes, and labels."""
    if name == "cifar10":
        return load_cifar(folder / name / "cifar10_jpeg.npz", part)
    paths, labels = images_and_labels(folder / name, part)
    return np.array(paths), np.array(labels)


def load_cifar(path, part):
    prefix = "train" if part == "train" else "test"
    with np.load(path) as file:
        jpeg, offsets = file[f"{prefix}_jpeg"], file[f"{prefix}_offsets"]
        rows = np.linspace(0, len(offsets) - 2, 2000).astype(int)
        images = [jpeg[offsets[i] : offsets[i + 1]].tobytes() for i in rows]
        return np.array(images, dtype=object), file[f"{prefix}_labels"][rows]


def draw(images, labels, n_per_class, seed):
    """As many of each class, in random order."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    rows = [rng.permutation(np.flatnonzero(labels == c))[:n_per_class] for c in classes]
    rows = rng.permutation(np.concatenate(rows))
    return list(images[rows]), labels[rows]


# ---- what is compared


def models(network, best_layer):
    """A model for each depth, with default parameters otherwise."""
    ways = [
        {"strategy": "linear_probe"},
        {"unfreeze_from": "last"},
        {"unfreeze_from": "first"},
        {"strategy": "full"},
    ]
    head, last, first, full = (
        FineTunedCNNClassifier(**network, **way, random_state=0) for way in ways
    )
    features = PretrainedFeatureExtractor(**network, layers=best_layer)
    model = LogisticRegression(max_iter=1000)
    layer = make_pipeline(features, GlobalScaler(), model)
    return dict(zip(DEPTHS, (head, layer, last, first, full), strict=True))


def advised(probe):
    """The depth that the advice stands for."""
    advice = probe.recommendation_
    if advice["strategy"] == "linear_probe":
        is_last = advice["layers"] == probe.results_["layer"][-1]
        return "linear_probe" if is_last else "best layer"
    return "full" if advice["strategy"] == "full" else "lp_ft last"


def measure(network, training, judged):
    """Which images each depth gets right, and which depth is advised."""
    X, y = training
    probe = probe_layers(X, y, PretrainedFeatureExtractor(**network))
    layer = probe.recommendation_["layers"]
    hits = [
        model.fit(X, y).predict(judged[0]) == judged[1]
        for model in models(network, layer).values()
    ]
    return np.array(hits, dtype=float), advised(probe), probe.recommendation_["case"]


# ---- what is shown


def shortfall(hits, chosen):
    """How far a choice per draw is below the best depth, and how far it may be.

    `hits` has the shape (n_draws, n_depths, n_images).
    """
    mean = hits.mean(axis=0)
    best = mean[mean.mean(axis=1).argmax()]
    got = hits[np.arange(len(hits)), [DEPTHS.index(depth) for depth in chosen]]
    missed = best - got.mean(axis=0)
    error = missed.std(ddof=1) / np.sqrt(len(missed))
    return missed.mean(), max(TOLERANCE, error)


def show(name, n_labels, hits, chosen, cases):
    scores = "  ".join(f"{s:12.3f}" for s in hits.mean(axis=(0, 2)))
    missed, allowed = shortfall(hits, chosen)
    verdict = "right" if missed <= allowed else "WRONG"
    print(
        f"{name:11}  {n_labels:6}  {scores}  {missed:6.3f}  {allowed:6.3f}  {verdict}"
    )
    for depth, case in zip(chosen, cases, strict=True):
        print(f"{'':21}advice: {depth} ({case})", flush=True)


def show_policies(measured):
    """How often each way to choose a depth is right; return that of the advice."""
    print(f"\n{'choice':19}  right  mean shortfall")
    counts = []
    for choice in ("as advised", *(f"always {depth}" for depth in DEPTHS)):
        fixed = choice.removeprefix("always ")
        found = [
            shortfall(hits, chosen if choice == "as advised" else [fixed] * len(hits))
            for hits, chosen in measured
        ]
        counts.append(sum(missed <= allowed for missed, allowed in found))
        mean = np.mean([missed for missed, _ in found])
        print(f"{choice:19}  {counts[-1]:5}  {mean:14.3f}")
    return counts[0]


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=SIZES, choices=SIZES)
    asked = parser.parse_args()
    network = {"backbone": "squeezenet1_1", "image_size": 112}
    network["weights"] = asked.shared / "weights" / WEIGHTS
    titles = "  ".join(f"{depth:>12}" for depth in DEPTHS)
    print(f"{'set':11}  labels  {titles}  missed  allowed")
    measured = []
    for n_labels, name in itertools.product(asked.labels, SETS):
        images, labels = load(asked.shared / "data", name, "train")
        counts = np.unique(labels, return_counts=True)[1]
        if n_labels > counts.min():
            continue
        n_drawn = 17 if (name, n_labels) == ("flowers17", 30) else n_labels
        judged = load(asked.shared / "data", name, "val")
        judged = draw(*judged, N_JUDGED // len(counts), seed=100)
        parts = [
            measure(network, draw(images, labels, n_drawn, FIRST_DRAW + i), judged)
            for i in range(SIZES[n_labels])
        ]
        hits, chosen, cases = zip(*parts, strict=True)
        measured.append((np.array(hits), chosen))
        show(name, n_drawn, *measured[-1], cases)
    right = show_policies(measured)
    holds = right >= CLAIMED
    verdict = "holds" if holds else "FAILS"
    print(f"claim (right in at least {CLAIMED} of {len(measured)} cases): {verdict}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
