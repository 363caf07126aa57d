"""Fine-tuning with default arguments is no worse than a linear model on the features.

Claim, for three sets of photographs and SqueezeNet 1.1 with real weights: the mean
accuracy over 5 folds of `FineTunedCNNClassifier()` is at least that of logistic
regression on the frozen features of the same network, less one standard error of the
latter; in float32 and in bfloat16. No training diverges, which would be an error.
`random_state` alone moves the mean of a set by 0.02, as much as the standard error, so
the mean is over `SEEDS` too.

Accuracies, not times: this may run beside other work.

Usage: python benchmarks/bench_defaults.py [--shared PATH] [--images N]
[--sets NAME ...]. Exits with 1 when the claim fails. About 25 minutes on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _timing import verdict
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, clear_cache

TREES = ("hymenoptera", "flowers17", "sign_digits")
PRECISIONS = ("float32", "bfloat16")
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
SEEDS = (0, 1, 2)
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=default)
    parser.add_argument("--images", type=int, default=300, help="of each set")
    parser.add_argument("--sets", nargs="+", default=TREES, choices=TREES)
    args = parser.parse_args()
    if not args.shared.is_dir():
        parser.error(f"--shared: there is no folder {args.shared}")
    return args


def images_and_labels(folder, n):
    """Images at equal distances in the order of classes: equal shares of each."""
    paths = sorted(folder.glob("train/*/*.*"))
    chosen = np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int)
    return [paths[i] for i in chosen], [paths[i].parent.name for i in chosen]


def compare(X, y, network):
    """Fold scores of the linear model, and of the classifier with each seed."""
    clear_cache()
    linear = make_pipeline(
        PretrainedFeatureExtractor(**network),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )
    tuned = [FineTunedCNNClassifier(**network, random_state=seed) for seed in SEEDS]
    return [
        cross_val_score(model, X, y, cv=FOLDS, error_score="raise")
        for model in (linear, *tuned)
    ]


def main():
    args = arguments()
    claims = {}
    for tree in args.sets:
        X, y = images_and_labels(args.shared / "data" / tree, args.images)
        for precision in PRECISIONS:
            network = {
                "backbone": "squeezenet1_1",
                "weights": args.shared / "weights" / WEIGHTS,
                "precision": precision,
            }
            linear, *tuned = compare(X, y, network)
            by_seed = np.mean(tuned, axis=1)
            error = linear.std(ddof=1) / np.sqrt(len(linear))
            print(
                f"{tree}, {len(y)} images, {precision}: linear {linear.mean():.3f} "
                f"(standard error {error:.3f}), fine-tuned {by_seed.mean():.3f} "
                f"({by_seed.min():.3f} to {by_seed.max():.3f})",
                flush=True,
            )
            claims[f"{tree}, {precision}"] = by_seed.mean() >= linear.mean() - error
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
