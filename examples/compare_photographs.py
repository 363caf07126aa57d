"""What are ImageNet weights worth on photographs?
===============================================

The sets are ants and bees, seventeen flowers, seven kinds of landscape from above, and
ten hand signs, with equally many images of each class. The network is SqueezeNet 1.1
with ImageNet weights; without these, pass `--network sktl_photo`, which ships with
sktl. The default contenders are compared on the same folds: classical models on raw
pixels and on frozen features, the fine-tuned network, and the network trained from
scratch. Prints a Markdown table with a row per contender and a column per set, and
writes an HTML page for each set. Needs the images and weights, by default in the folder
`shared` beside this repository; half an hour on two cores.
"""

# %%
import argparse
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

from sktl import PretrainedFeatureExtractor, compare_transfer

SETS = ("hymenoptera", "flowers17", "rsscn7", "sign_digits")
NETWORKS = ("squeezenet1_1", "sktl_photo")
WEIGHTS = Path("weights", "squeezenet1_1-torchvision.fp16.safetensors")
REPOSITORY = Path(__file__).resolve().parents[1]

# %% [markdown]
# 1. Options
# ----------


# %%
def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--images", type=int, default=200, help="of each set")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=112, help="in pixels")
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    return parser.parse_args(arguments)


# %% [markdown]
# 2. The photographs
# ------------------
#
# Each set has the folders `train` and `val`, with one folder per class in each. The
# images of a class are drawn from both.


# %%
def load(folder, n_images):
    """Paths and labels of a set, equally many of each class; at least one."""
    paths = np.array(sorted(folder.glob("*/*/*.*")))
    labels = np.array([path.parent.name for path in paths])
    rng = np.random.default_rng(0)
    classes = np.unique(labels)
    per_class = max(1, n_images // len(classes))
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == label))[:per_class]
            for label in classes
        ]
    )
    return paths[chosen].tolist(), labels[chosen]


# %% [markdown]
# 3. The comparison
# -----------------
#
# If `backbone` is an extractor, all contenders use its weights and image size.


# %%
def compare(name, options):
    X, y = load(options.shared / "data" / name, options.images)
    print(f"{name}: {len(y)} images of {len(set(y))} classes", flush=True)
    is_shipped = options.network == "sktl_photo"
    network = PretrainedFeatureExtractor(
        options.network,
        weights="DEFAULT" if is_shipped else options.shared / WEIGHTS,
        image_size=options.image_size,
        n_jobs=2,
    )
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    start = time.perf_counter()
    report = compare_transfer(X, y, backbone=network, cv=folds, random_state=0)
    report.save_html(f"compare_photographs_{name}.html")
    print(report, f"\n{time.perf_counter() - start:.0f} seconds\n", flush=True)
    return report


# %% [markdown]
# 4. The table
# ------------


# %%
def markdown(reports):
    """A table of contenders by sets: mean over folds and its 95 % interval."""
    lines = ["| | " + " | ".join(reports) + " |", "|---" * (len(reports) + 1) + "|"]
    results = [report.results_ for report in reports.values()]
    for row, contender in enumerate(results[0]["contender"]):
        names = [f"{name}_test_score" for name in ("mean", "low", "high")]
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(*(of_set[name][row] for name in names))
            for of_set in results
        ]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    options = parse()
    needed = Path("data") if options.network == "sktl_photo" else WEIGHTS
    if not (options.shared / needed).exists():
        sys.exit(
            f"{options.shared} has no {needed}. Pass --shared with a folder that has "
            f"it, and images as data/{SETS[0]}/train/<class>/*.jpg. Without the "
            "weights of SqueezeNet, pass --network sktl_photo."
        )
    reports = {name: compare(name, options) for name in options.sets}
    print(markdown(reports))


if __name__ == "__main__":
    main()
