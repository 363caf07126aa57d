"""Does transfer help when labels are few?
=======================================

The images are scikit-learn's handwritten digits (1,797 grey images of 8 x 8 pixels).
Models are trained on 5 or 20 labels per class and tested on 200 other images, in three
random splits. Six models are compared on the same splits: classical models on raw
pixels, the same models on the features of a frozen network, that network fine-tuned,
and the same network trained from scratch. The network, `sktl_mini`, comes with the
package; it was trained on photographs and drawn letters, not on digits. Needs no
download; about a minute on two cores.
"""

# %%
import time
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from skorch.callbacks import LRScheduler

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, compare_transfer

TRAIN_SIZES = (50, 200)  # 5 and 20 of each class
N_TEST = 200
N_DRAWS = 3
PLOT = Path("compare_digits.png")

# %% [markdown]
# 1. The contenders
# -----------------
#
# The models that are compared are called contenders. They are plain scikit-learn
# estimators.


# %%
def logistic_regression(*steps):
    return make_pipeline(*steps, LogisticRegression(max_iter=1000))


def svm(*steps):
    return make_pipeline(*steps, SVC(C=10))


CONTENDERS = {
    "raw pixels + logistic regression": logistic_regression(),
    "raw pixels + SVM": svm(),
    "frozen features + logistic regression": logistic_regression(
        PretrainedFeatureExtractor("sktl_mini")
    ),
    "frozen features + SVM": svm(PretrainedFeatureExtractor("sktl_mini")),
    # The last stage alone: digits need no more, and its input is computed once.
    "fine-tuned CNN": FineTunedCNNClassifier(
        "sktl_mini", unfreeze_from="last", batch_size=32, max_epochs=5
    ),
    # Random weights need many steps, at a rate that is high at first and falls to zero.
    # At 32 pixels instead of 64, training is cheaper, and more accurate.
    "same CNN from scratch": FineTunedCNNClassifier(
        "sktl_mini",
        strategy="scratch",
        image_size=32,
        batch_size=16,
        lr=2e-3,
        augment=None,
        max_epochs=8,
        callbacks=[("schedule", LRScheduler("CosineAnnealingLR", T_max=8))],
    ),
}

# %% [markdown]
# 2. The comparison
# -----------------
#
# Both training sets come from the same draws, the smaller as a subset of the larger.
# The plot shows a learning curve per contender.


# %%
def main():
    start = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    draws = StratifiedShuffleSplit(
        N_DRAWS, train_size=TRAIN_SIZES[-1], test_size=N_TEST, random_state=0
    )
    report = compare_transfer(
        X,
        y,
        CONTENDERS,
        cv=draws,
        train_sizes=TRAIN_SIZES,
        n_jobs=2,  # processes; each trains with its share of the cores
        random_state=0,
        verbose=1,
    )
    print(report)
    report.plot().figure_.savefig(PLOT, dpi=120)
    print(f"\nPlot: {PLOT.resolve()}")
    print(f"Took {time.perf_counter() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
