"""Which network suits the task?
=============================

Which of four networks suits handwritten digits from 5 to 9? `sktl_mini` comes with the
package and has never seen a digit. Two small networks are trained here on the digits
from 0 to 4: one to tell them apart, one to tell whether an image is mirrored. The
fourth is untrained. Ranking trains no network and takes seconds; the comparison after
it fits whole models on the same folds, including networks trained from scratch. The
images are scikit-learn's (8 x 8 grey pixels). Needs no download; about two minutes on
two cores.
"""

# %%
import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    compare_transfer,
    rank_backbones,
)

IMAGE_SIZE = 32  # instead of the 64 of sktl_mini: enough for digits, and quicker
N_COMPARED = 2
PLOT = Path("choose_network.png")

# %% [markdown]
# 1. Four networks
# ----------------
#
# Two source networks are trained. `save_backbone` saves a network without its head (the
# last layer, which is new in each task), and `weights` loads the file.


# %%
def train_source(images, labels, path):
    network = FineTunedCNNClassifier(
        "sktl_mini",
        strategy="scratch",
        augment=None,
        image_size=IMAGE_SIZE,
        random_state=0,
    )
    network.fit(images.reshape(len(images), -1), labels).save_backbone(path)
    return extractor(path)


def extractor(weights):
    return PretrainedFeatureExtractor(
        "sktl_mini", weights=weights, image_size=IMAGE_SIZE
    )


def candidates(images, labels, folder):
    mirrored = np.arange(len(images)) % 2 == 1
    turned = np.where(mirrored[:, None, None], images[:, :, ::-1], images)
    return {
        "sktl_mini": extractor("DEFAULT"),
        "digits 0 to 4": train_source(images, labels, folder / "digits.safetensors"),
        "mirrored or not": train_source(
            turned, mirrored, folder / "mirrored.safetensors"
        ),
        "untrained": extractor(None),
    }


# %% [markdown]
# 2. The ranking, then the comparison
# -----------------------------------
#
# LogME measures how well a linear model on the features explains the labels. It says
# nothing about fine-tuning, or about how far apart two networks are in accuracy; for
# that, `best` passes the best networks on to a comparison.


# %%
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source-images", type=int, default=200)
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    n_source = options.source_images
    digits = load_digits()
    is_source = digits.target < 5
    images, labels = digits.images[is_source], digits.target[is_source]
    chosen = np.flatnonzero(~is_source)[: options.images]
    X, y = digits.data[chosen], digits.target[chosen]
    with tempfile.TemporaryDirectory() as folder:
        networks = candidates(images[:n_source], labels[:n_source], Path(folder))
        ranking = rank_backbones(X, y, networks, method="logme")
        print(ranking, "\n")
        report = compare_transfer(
            X,
            y,
            backbone=ranking.best(N_COMPARED),
            cv=options.folds,
            random_state=0,
            verbose=1,
        )
    print(report)
    report.plot().figure_.savefig(PLOT, dpi=120)
    print(f"\nPlot: {PLOT.resolve()}")


if __name__ == "__main__":
    main()
