"""What the layers that `probe_layers` advises are worth for a linear model.

Question: is logistic regression on the advised layers better than on the last one, and
what does fine-tuning add? Asked on the five labelled sets of `shared/data` with
SqueezeNet 1.1 and MobileNetV2 at 112 pixels, for 5, 30 and 100 labels a class (17
instead of 30 for the many classes of flowers17; 100 where there are as many), and
judged on up to 400 images of the part `val`. Columns: logistic regression behind
`GlobalScaler` on the last features, on the layer with the best score of the probe, and
on the advised layers together; and `FineTunedCNNClassifier` with default parameters.

Claims, about the mean over all cases, with a standard error over the cases:

- layers: the advised layers are more accurate than the last one, by more than two
  standard errors;
- default: the fine-tuned network is more accurate than logistic regression on the
  advised layers, by more than two standard errors.

The rule was chosen among a dozen on draws 1 to 6; of draws 7 to 9, five cases were
looked at with another rule. Judged are draws 10 to 12, of the same sets.

Usage: python benchmarks/bench_advice.py [--shared PATH] [--networks NAME ...]
[--labels N ...]. Exits with 1 when a claim fails. An hour on one core.
"""

import itertools
import sys

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import verdict
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    probe_layers,
)

SETS = ("hymenoptera", "flowers17", "rsscn7", "sign_digits", "cifar10")
WEIGHTS = {
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
}
# Labels of a class: draws, as few rows differ much from one draw to the next.
SIZES = {5: 3, 30: 1, 100: 1}
N_JUDGED = 400
FIRST_DRAW = 10  # earlier ones chose the rule
COLUMNS = ("last layer", "best layer", "advised", "default")


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


def models(network, probe):
    """A model for each column."""
    names, scores = probe.results_["layer"], probe.results_["mean_test_score"]
    choices = (names[-1], names[scores.argmax()], probe.recommendation_["layers"])
    linear = [
        make_pipeline(
            PretrainedFeatureExtractor(**network, layers=layers),
            GlobalScaler(),
            LogisticRegression(max_iter=1000),
        )
        for layers in choices
    ]
    return [*linear, FineTunedCNNClassifier(**network, random_state=0)]


def accuracies(network, training, judged):
    """Accuracy of each column."""
    X, y = training
    probe = probe_layers(X, y, PretrainedFeatureExtractor(**network))
    return [model.fit(X, y).score(*judged) for model in models(network, probe)]


def is_clear(scores, better, worse):
    """Print how much better a column is; return whether that is clear."""
    columns = [COLUMNS.index(column) for column in (better, worse)]
    gains = np.subtract(*np.array(scores)[:, columns].T)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    print(
        f"{better} - {worse}: {gains.mean():.3f} (standard error over cases "
        f"{error:.3f}), higher in {(gains > 0).sum()} of {len(gains)} cases, "
        f"lowest {gains.min():.3f}"
    )
    return gains.mean() > 2 * error


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--networks", nargs="+", default=WEIGHTS, choices=WEIGHTS)
    asked = parser.parse_args()
    titles = "  ".join(f"{column:>10}" for column in COLUMNS)
    print(f"{'network':13}  {'set':11}  labels  {titles}")
    scores = []
    for backbone, n, name in itertools.product(asked.networks, asked.labels, SETS):
        images, labels = load(asked.shared / "data", name, "train")
        classes, counts = np.unique(labels, return_counts=True)
        if n > counts.min():
            continue
        n_drawn = 17 if (name, n) == ("flowers17", 30) else n
        network = {"backbone": backbone, "image_size": 112}
        network["weights"] = asked.shared / "weights" / WEIGHTS[backbone]
        judged = load(asked.shared / "data", name, "val")
        judged = draw(*judged, N_JUDGED // len(classes), seed=100)
        draws = [
            accuracies(network, draw(images, labels, n_drawn, seed), judged)
            for seed in range(FIRST_DRAW, FIRST_DRAW + SIZES[n])
        ]
        scores.append(np.mean(draws, axis=0))
        shown = "  ".join(f"{score:10.3f}" for score in scores[-1])
        print(f"{backbone:13}  {name:11}  {n_drawn:6}  {shown}", flush=True)
    shown = "  ".join(f"{score:10.3f}" for score in np.mean(scores, axis=0))
    print(f"{'mean':34}  {shown}")
    return verdict(
        {
            "layers": is_clear(scores, "advised", "last layer"),
            "default": is_clear(scores, "default", "advised"),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
