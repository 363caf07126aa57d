"""When does training from scratch catch up?
=========================================

With few labels a pretrained network is ahead; with enough of them it need not be. Where
is the crossover? Models are trained on four nested subsets of scikit-learn's
handwritten digits (grey scans of 8 x 8 pixels) and tested on the same 200 other digits.
The pretrained networks, fine-tuned and frozen, and the network from scratch have the
same architecture, `sktl_mini`, which comes with the package and has never seen a digit.
Needs no download; about ten minutes on two cores.
"""

# %%
import argparse
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.svm import SVC

from sktl import FineTunedCNNClassifier, compare_transfer

IMAGE_SIZE = 32  # half of what sktl_mini was made for: enough for digits, and quicker
PLOT = Path("find_crossover.png")

# %% [markdown]
# 1. The contenders
# -----------------
#
# `"linear_probe"` is a linear model on frozen features. As it is a
# `FineTunedCNNClassifier` too, the comparison pairs it with the network from scratch,
# its counterpart without transfer (its twin).


# %%
def network(**settings):
    return FineTunedCNNClassifier("sktl_mini", image_size=IMAGE_SIZE, **settings)


CONTENDERS = {
    "raw pixels + SVM": SVC(C=10),
    "frozen": network(strategy="linear_probe"),
    "fine-tuned": network(unfreeze_from="last"),
    "from scratch": network(
        strategy="scratch", batch_size=16, max_epochs=15, augment=None
    ),
}

# %% [markdown]
# 2. The comparison
# -----------------


# %%
def compare(sizes, n_draws, n_test):
    """Score every contender on each size of the training part."""
    X, y = load_digits(return_X_y=True)
    draws = StratifiedShuffleSplit(
        n_draws, train_size=sizes[-1], test_size=n_test, random_state=0
    )
    return compare_transfer(
        X, y, CONTENDERS, cv=draws, train_sizes=sizes, random_state=0, verbose=1
    )


# %% [markdown]
# 3. The crossover
# ----------------
#
# The findings name two sizes between which the network from scratch catches up, if it
# does: the last one at which the difference is clear, and the first at which it is
# shown to be equivalent or better. If intervals are too wide to tell, they say so.


# %%
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60, 200, 600])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--test-images", type=int, default=200)
    options = parser.parse_args()
    report = compare(options.sizes, options.draws, options.test_images)
    print(report)
    report.plot().figure_.savefig(PLOT, dpi=120)
    print(f"\nPlot: {PLOT.resolve()}")


if __name__ == "__main__":
    main()
