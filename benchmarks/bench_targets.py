"""Numbers and tags: fine-tuning by default is no worse than a linear model.

Claim, for `sktl_mini` at 32 pixels and the mean over 5 folds and `SEEDS`: with default
arguments `FineTunedCNNRegressor` has at least the R2 of ridge regression on frozen
features, and `FineTunedCNNClassifier` at least the average precision of a logistic
regression per tag, less one standard error of the linear model. Both beat the same
linear model on raw pixels. One network with three tags is at most 0.02 worse than three
networks with one tag each (with the first seed).

The data are made of labelled photographs:

* numbers: `sign_digits`, hands that show 0 to 9; the number shown plus normal noise of
  standard deviation 0.5, which bounds R2 by 0.97;
* tags: `cifar10`; "animal" (bird, cat, deer, dog, frog, horse), "has wheels" (airplane,
  automobile, truck) and "flies" (airplane, bird). Any number of them may be on: a ship
  has none, an airplane two.

Scores, not times: this may run beside other work.

Usage: python benchmarks/bench_targets.py [--shared PATH] [--images N]. Exits with 1
when the claim fails. About five minutes on two cores.
"""

import io
import sys

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import verdict
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    PretrainedFeatureExtractor,
)

SEEDS = (0, 1, 2)
FOLDS = KFold(5, shuffle=True, random_state=0)
NOISE = 0.5
TAGS = {
    "animal": "bird cat deer dog frog horse",
    "has wheels": "airplane automobile truck",
    "flies": "airplane bird",
}
LOST_TOGETHER = 0.02
SIDE = 32  # pixels, of CIFAR-10; of all images, so that this takes minutes
# On features as they are: standardised, those that hardly vary run wild.
RIDGE = RidgeCV(np.logspace(-6, 8, 57))
LOGISTIC = OneVsRestClassifier(LogisticRegression(max_iter=1000))


def arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=300, help="of each set")
    return parser.parse_args()


def shown_numbers(data, n):
    """Hand signs, and the number that each shows plus noise."""
    paths, labels = images_and_labels(data / "sign_digits", n=n)
    noise = np.random.default_rng(0).normal(0, NOISE, len(paths))
    return paths, np.array(labels, dtype=float) + noise


def tagged_photographs(data, n):
    """Photographs of CIFAR-10 at equal distances, and an indicator per tag."""
    with np.load(data / "cifar10" / "cifar10_jpeg.npz") as file:
        files, offsets = file["train_jpeg"], file["train_offsets"]
        rows = np.linspace(0, len(offsets) - 2, n).astype(int)
        names = file["classes"][file["train_labels"][rows]]
    X = [files[offsets[row] : offsets[row + 1]].tobytes() for row in rows]
    return X, np.transpose([np.isin(names, tag.split()) for tag in TAGS.values()])


def pixels_of(X):
    """Images as rows of pixels in colour."""
    opened = (Image.open(io.BytesIO(x) if isinstance(x, bytes) else x) for x in X)
    small = [np.asarray(image.convert("RGB").resize((SIDE, SIDE))) for image in opened]
    return np.reshape(small, (len(small), -1)) / 255


def compare(what, X, y, linear, face, scoring):
    """Print mean scores, and return the claims about them."""

    def scores(model, X, y=y):
        return cross_val_score(
            model, X, y, cv=FOLDS, scoring=scoring, error_score="raise"
        )

    extractor = PretrainedFeatureExtractor("sktl_mini", image_size=SIDE)
    frozen = scores(make_pipeline(extractor, linear), X)
    pixels = scores(linear, pixels_of(X)).mean()
    nets = [face("sktl_mini", image_size=SIDE, random_state=seed) for seed in SEEDS]
    by_seed = np.mean([scores(net, X) for net in nets], axis=1)
    tuned, error = by_seed.mean(), frozen.std(ddof=1) / np.sqrt(len(frozen))
    print(
        f"{what}, {len(X)} images, {scoring}: raw pixels {pixels:.3f}, linear "
        f"{frozen.mean():.3f} (standard error {error:.3f}), fine-tuned {tuned:.3f} "
        f"({by_seed.min():.3f} to {by_seed.max():.3f})",
        flush=True,
    )
    claims = {
        f"{what}: fine-tuned no worse than linear": tuned >= frozen.mean() - error,
        f"{what}: both above raw pixels": min(tuned, frozen.mean()) > pixels,
    }
    if y.ndim > 1:
        alone = np.mean([scores(nets[0], X, tag) for tag in y.T])
        print(
            f"{what}, first seed: {by_seed[0]:.3f} together, {alone:.3f} with a "
            "network for each",
            flush=True,
        )
        together = alone - by_seed[0] <= LOST_TOGETHER
        claims[f"{what}: at most {LOST_TOGETHER} lost together"] = together
    return claims


def main():
    args = arguments()
    data = args.shared / "data"
    numbers, tags = (
        shown_numbers(data, args.images),
        tagged_photographs(data, args.images),
    )
    claims = compare("numbers", *numbers, RIDGE, FineTunedCNNRegressor, "r2")
    claims |= compare(
        "tags", *tags, LOGISTIC, FineTunedCNNClassifier, "average_precision"
    )
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
