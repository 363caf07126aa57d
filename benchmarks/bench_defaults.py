"""Fine-tuning with default arguments is no worse than a linear model on the features.

Claim, for three sets of photographs at 112 pixels and SqueezeNet 1.1 with real weights:
the mean accuracy over 5 folds of `FineTunedCNNClassifier()` is at least that of
logistic regression on the frozen features of the same network, less one standard error
of the latter; in float32 and in bfloat16. No training diverges, which would be an
error. Accuracies, not times: this may run beside other work.

Usage: python benchmarks/bench_defaults.py [--shared PATH] [--images N]
[--sets NAME ...]. Exits with 1 when the claim fails. Half an hour on one core,
most of it for bfloat16, which CPUs without matrix units for it emulate.
"""

import sys

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import verdict
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, clear_cache

TREES = ("hymenoptera", "flowers17", "sign_digits")
PRECISIONS = ("float32", "bfloat16")
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=100, help="of each set")
    parser.add_argument("--sets", nargs="+", default=TREES, choices=TREES)
    return parser.parse_args()


def compare(X, y, network):
    """Fold scores of the linear model, and of the classifier with each seed."""
    clear_cache()
    extractor = PretrainedFeatureExtractor(**network)
    linear = make_pipeline(extractor, LogisticRegression(max_iter=1000))
    tuned = FineTunedCNNClassifier(**network, random_state=0)
    return [
        cross_val_score(model, X, y, cv=FOLDS, error_score="raise")
        for model in (linear, tuned)
    ]


def main():
    args = arguments()
    claims = {}
    for tree in args.sets:
        X, y = images_and_labels(args.shared / "data" / tree, n=args.images)
        for precision in PRECISIONS:
            network = {
                "backbone": "squeezenet1_1",
                "weights": args.shared / "weights" / WEIGHTS,
                "image_size": 112,
                "precision": precision,
            }
            linear, tuned = compare(X, y, network)
            error = linear.std(ddof=1) / np.sqrt(len(linear))
            print(
                f"{tree}, {len(y)} images, {precision}: linear {linear.mean():.3f} "
                f"(standard error {error:.3f}), fine-tuned {tuned.mean():.3f}",
                flush=True,
            )
            claims[f"{tree}, {precision}"] = tuned.mean() >= linear.mean() - error
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
