"""What fine-tuning on few rows is worth beside frozen features, and what it costs.

A table of accuracies on held-out images, with a row for each case (a data set, a
network and a number of labels per class): mean over random draws, and its standard
error. Two columns are linear models on frozen features: logistic regression as
scikit-learn has it, and with the penalty that `FineTunedCNNClassifier` chooses. The
others are ways to fine-tune: the default; the same stage after stage; and, for 20
epochs of batches of 32 at a constant rate, the last stage, all stages from a fitted
head, and all stages from a random head with augmented images. Where fastai is
installed, two more columns are `fine_tune(5)` and `fine_tune(12)` of its
`vision_learner`, with its own head, augmentation and rates.

Claims, of the default unless another is named:

- best column: over all cases, its mean is at least that of the best other column;
- near the best: it is short of the best column of a case, as found on the other draws,
  by at most 1.5 points on average;
- probe: in no case is it significantly below logistic regression on frozen features
  (paired t-test over draws, Holm over cases);
- price: it takes at most the CPU seconds of all stages with augmented images;
- gradual: training stage after stage ends in no case more than 5 points below the head
  it begins with (`linear_probe`);
- fastai: in each case it is at least as accurate as each of the two, and over all cases
  it takes at most half their CPU seconds.

Each cell takes from a second to ten minutes. What is finished is kept in a JSON file,
and a run that was interrupted goes on from there. CPU seconds are counted, so it may
run beside other work.

Usage: python benchmarks/bench_finetuning.py [--shared PATH] [--results FILE]
[--sets NAME ...] [--networks NAME ...] [--rows N ...] [--draws N] [--pixels N]
[--columns NAME ...] [--print-only]. Exits with 1 when a claim fails. Five hours with
all sets on one core; `--sets rsscn7 --networks squeezenet1_1 --rows 10 --draws 2` takes
ten minutes.
"""

import json
import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec
from itertools import product
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchvision
from _shared import argument_parser, images_and_labels
from _timing import verdict
from safetensors.torch import load_file
from scipy.stats import ttest_1samp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, clear_cache

CHOOSING = ("cifar10", "flowers17", "rsscn7")  # recipes are chosen on these
SETS = (*CHOOSING, "hymenoptera", "sign_digits", "digits")
WEIGHTS = {
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
}
NETWORKS = (*WEIGHTS, "sktl_photo")  # whose weights and size are its own
RESULTS = Path.home() / ".cache" / "sktl" / "bench_finetuning.json"
N_TEST = 1000
SHORT, FAR, LEVEL = 0.015, 0.05, 0.05
FASTAI = {"fastai, 5": 5, "fastai, 12": 12}
DEFAULT, LINEAR, AUGMENTED = "default", "LR", "full, flip + crop"
GRADUAL, PROBE = "gradual", "linear_probe"
# As most tutorials train.
PLAIN = {
    "max_epochs": 20,
    "batch_size": 32,
    "backbone_lr_ratio": 0.1,
    "lr_schedule": "constant",
    "initial_share": 0.0,
    "augment": None,
}


def linear_model(network):
    extractor = PretrainedFeatureExtractor(**network)
    return make_pipeline(extractor, LogisticRegression(max_iter=1000))


def tuned(**params):
    return lambda network: FineTunedCNNClassifier(**network, random_state=0, **params)


class FastAI:
    """fastai's recipe on the same network, weights, pixels and rows.

    Parameters
    ----------
    epochs : int
        Of all layers, after one of the head.
    backbone : str
    weights : Path or None
    image_size : int
    precision : str
        Only float32.
    """

    def __init__(self, epochs, *, backbone, weights, image_size, precision):
        assert precision == "float32"
        self.epochs = epochs
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size

    def fit(self, X, y):
        """Train on the CPU, in this process."""
        import fastai.vision.all as fastai

        def network(pretrained):
            module = getattr(torchvision.models, self.backbone)()
            state = load_file(self.weights)
            module.load_state_dict({n: t.float() for n, t in state.items()})
            # It looks for the pooling, and puts its own head in the place of the rest.
            pool = torch.nn.AdaptiveAvgPool2d(1)
            return torch.nn.Sequential(module.features, pool, torch.nn.Flatten())

        block = fastai.DataBlock(
            blocks=(fastai.ImageBlock, fastai.CategoryBlock),
            get_x=attrgetter("image"),
            get_y=attrgetter("label"),
            splitter=fastai.IndexSplitter([0]),  # it cannot do without
            item_tfms=fastai.Resize(self.image_size),
            batch_tfms=[
                *fastai.aug_transforms(),
                fastai.Normalize.from_stats(*fastai.imagenet_stats),
            ],
        )
        rows = [
            SimpleNamespace(image=x, label=label) for x, label in zip(X, y, strict=True)
        ]
        fastai.set_seed(0)  # before the loaders, which draw a seed of their own
        loaders = block.dataloaders(
            [rows[0], *rows], bs=min(32, len(rows)), num_workers=0, device="cpu"
        )
        self.learner = fastai.vision_learner(loaders, network)
        with self.learner.no_bar(), self.learner.no_logging():
            self.learner.fine_tune(self.epochs)
        return self

    def score(self, X, y):
        """Accuracy."""
        loader = self.learner.dls.test_dl([SimpleNamespace(image=x) for x in X])
        with self.learner.no_bar():
            probabilities, _ = self.learner.get_preds(dl=loader)
        return np.mean(np.array(self.learner.dls.vocab)[probabilities.argmax(1)] == y)


COLUMNS = {
    LINEAR: linear_model,
    PROBE: tuned(strategy="linear_probe"),
    DEFAULT: tuned(),
    "last stage": tuned(**PLAIN, unfreeze_from="last"),
    "all stages": tuned(**PLAIN),
    AUGMENTED: tuned(**PLAIN | {"strategy": "full", "augment": ("flip", "crop")}),
    GRADUAL: tuned(strategy="gradual"),
} | {
    name: partial(lambda epochs, network: FastAI(epochs, **network), epochs)
    for name, epochs in FASTAI.items()
}


def arguments():
    parser = argument_parser(__doc__)
    known = [c for c in COLUMNS if c not in FASTAI or find_spec("fastai")]
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--networks", nargs="+", default=[*WEIGHTS], choices=NETWORKS)
    parser.add_argument("--rows", nargs="+", type=int, default=[5, 10, 30])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--columns", nargs="+", default=known, choices=known)
    parser.add_argument("--print-only", action="store_true")
    return parser.parse_args()


def load(shared, name):
    """Training and test parts of a data set: images and labels of each."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return (X[:1000], y[:1000]), (X[1000:], y[1000:])
    if name != "cifar10":
        parts = (images_and_labels(shared / "data" / name, p) for p in ("train", "val"))
        return [(np.array(X, dtype=object), np.array(y)) for X, y in parts]
    file = np.load(shared / "data" / name / "cifar10_jpeg.npz")
    parts = []
    for part, n in (("train", 20_000), ("test", N_TEST)):
        ends, jpeg = file[f"{part}_offsets"], file[f"{part}_jpeg"]
        X = np.empty(n, dtype=object)
        rows = np.random.default_rng(0).permutation(len(ends) - 1)[:n]
        for i, row in enumerate(rows):
            X[i] = jpeg[ends[row] : ends[row + 1]].tobytes()
        parts.append((X, file[f"{part}_labels"][rows]))
    return parts


def draw(y, n, seed):
    """Rows of a training set: n of each class, or all there are."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(y == label) for label in np.unique(y)]
    return np.sort(np.concatenate([rng.permutation(rows)[:n] for rows in classes]))


def measure(make, network, train, test, n, seed):
    """Accuracy on the test part, and CPU seconds of fitting with an empty cache."""
    X, y = train
    rows = draw(y, n, seed)
    clear_cache()
    model = make(network)
    start = time.process_time()
    model.fit(X[rows], y[rows])
    seconds = time.process_time() - start
    return float(model.score(*test)), seconds


def fill(args, cells, results):
    """Measure the cells that are missing in the results, and keep each at once."""
    args.results.parent.mkdir(parents=True, exist_ok=True)
    parts, loaded = None, None
    for name, network, n, seed, column in cells:
        key = f"{name} {network} {args.pixels} {n} {seed} {column}"
        if key in results or args.print_only:
            continue
        if loaded != name:
            parts, loaded = load(args.shared, name), name
        params = {}
        if network in WEIGHTS:
            weights = args.shared / "weights" / WEIGHTS[network]
            params = {"weights": weights, "image_size": args.pixels}
        params |= {"backbone": network, "precision": "float32"}
        results[key] = measure(COLUMNS[column], params, *parts, n, seed)
        part = args.results.with_suffix(".part")
        part.write_text(json.dumps(results, indent=0))
        part.replace(args.results)
        print(key, *(f"{value:.3f}" for value in results[key]), flush=True)


def main():
    warnings.simplefilter("ignore")  # of weights that do not say how to prepare images
    np.seterr(all="ignore")  # one draw has no error; fastai is not there for digits
    args = arguments()
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    lines = [
        (name, network, n)
        for name, n in product(args.sets, args.rows)
        for network in (["sktl_mini"] if name == "digits" else args.networks)
    ]
    cells = [
        (*line, seed, column)
        for seed, line, column in product(range(args.draws), lines, args.columns)
        if line[1] in WEIGHTS or column not in FASTAI
    ]
    fill(args, cells, results)
    table = {
        line: np.array(
            [
                [
                    results.get(f"{name} {network} {args.pixels} {n} {seed} {column}")
                    or (np.nan, np.nan)
                    for column in args.columns
                ]
                for seed in range(args.draws)
            ]
        )
        for line in lines
        for name, network, n in [line]
    }
    # Of each line the draws of which every column is there, but for fastai's.
    own = [column not in FASTAI for column in args.columns]
    table = {
        line: cells[np.isfinite(cells[:, own]).all(axis=(1, 2))]
        for line, cells in table.items()
    }
    table = {line: cells for line, cells in table.items() if len(cells)}
    if not table:
        sys.exit("No row of the table is complete yet.")
    show(args.columns, table)
    return verdict(judge(args.columns, table))


def show(columns, table):
    """Print accuracies with standard errors, and mean CPU seconds below."""
    print(f"{'':34}" + "".join(f"{column:>19}" for column in columns))
    for (name, network, n), cells in table.items():
        accuracy = cells[..., 0]
        n_draws = np.isfinite(accuracy).sum(0)
        mean, error = np.nanmean(accuracy, 0), np.nanstd(accuracy, 0)
        figures = zip(mean, error / np.sqrt(n_draws - 1), strict=True)
        texts = "".join(f"{in_words(m, e):>19}" for m, e in figures)
        print(f"{f'{name}, {network}, {n} rows':34}{texts}")
    means = np.nanmean([np.nanmean(cells, 0) for cells in table.values()], axis=0)
    print(f"{'mean':34}" + "".join(f"{m:>19.3f}" for m in means[:, 0]))
    print(f"{'CPU seconds':34}" + "".join(f"{m:>19.1f}" for m in means[:, 1]))


def in_words(mean, error):
    if np.isnan(mean):
        return "-"
    return f"{mean:.3f}" + (f" ± {error:.3f}" if np.isfinite(error) else "")


def judge(columns, table):
    """Which claims hold; only those whose columns are there."""
    if DEFAULT not in columns:
        return {}
    of = columns.index(DEFAULT)
    others = [i for i, c in enumerate(columns) if i != of and c not in FASTAI]
    means = np.array([cells.mean(0) for cells in table.values()])
    claims = {
        "best column": means[:, of, 0].mean() >= means[:, others, 0].mean(0).max()
    }
    short = [_short_of_best(cells[..., 0], of, others) for cells in table.values()]
    ahead = -100 * np.mean(short)
    print(f"ahead of the best other column of each case by {ahead:.1f} points")
    claims["near the best"] = np.mean(short) <= SHORT
    if LINEAR in columns:
        linear = columns.index(LINEAR)
        differences = [
            cells[:, of, 0] - cells[:, linear, 0] for cells in table.values()
        ]
        claims["probe"] = not _below_zero(differences)
    if AUGMENTED in columns:
        full = columns.index(AUGMENTED)
        claims["price"] = means[:, of, 1].sum() <= means[:, full, 1].sum()
    if {GRADUAL, PROBE} <= set(columns):
        after, before = (
            means[:, columns.index(GRADUAL), 0],
            means[:, columns.index(PROBE), 0],
        )
        claims["gradual"] = (after >= before - FAR).all()
    for name in FASTAI:
        if name in columns:
            both = [cells[:, [of, columns.index(name)]] for cells in table.values()]
            both = [of_draws[np.isfinite(of_draws).all((1, 2))] for of_draws in both]
            both = np.array([of_draws.mean(0) for of_draws in both if len(of_draws)])
            ours, theirs = both.transpose(1, 2, 0)
            shown = "  ".join(
                f"{accuracy:.3f} in {seconds:.1f} s"
                for accuracy, seconds in (ours.mean(1), theirs.mean(1))
            )
            print(f"default and {name}, where both are there: {shown}")
            claims[f"{name}: accuracy"] = (ours[0] >= theirs[0]).all()
            claims[f"{name}: half the seconds"] = ours[1].sum() <= theirs[1].sum() / 2
    return claims


def _short_of_best(accuracy, of, others):
    """By how much a column is short of that which is best on the other draws."""
    short = []
    for seed, row in enumerate(accuracy):
        rest = np.delete(accuracy, seed, axis=0) if len(accuracy) > 1 else accuracy
        best = others[rest[:, others].mean(0).argmax()]
        short.append(row[best] - row[of])
    return np.mean(short)


def _below_zero(differences):
    """Whether the mean of any of these is below zero, by Holm's procedure."""
    p = sorted(
        ttest_1samp(d, 0, alternative="less").pvalue
        for d in differences
        if len(d) > 1 and not np.isclose(np.ptp(d), 0)
    )
    return bool(p) and p[0] <= LEVEL / len(p)


if __name__ == "__main__":
    sys.exit(main())
