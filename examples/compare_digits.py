"""Measure whether transfer helps when there are few labels.

scikit-learn's handwritten digits (1,797 grey pictures of 8 x 8 pixels), 5 or 20 of each
labelled, the rest to be recognised; ten random draws of the labelled ones. Six
contenders on the same draws: classical models on raw pixels, the same models on the
features of a frozen network, that network fine-tuned, and the same network trained from
scratch. The network, `sktl_mini`, comes with the package and has never seen a digit.
Needs no download; about three minutes on two cores.
"""

# %%
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into a file, on machines without a screen too

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    compare_transfer,
)

LABELS_PER_CLASS = (5, 20)
N_CLASSES = 10
N_REPEATS = 10
PICTURE = Path("compare_digits.png")

# %% [markdown]
# The contenders are plain scikit-learn estimators.


# %%
def logistic_regression(*steps):
    return make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=1000))


def svm(*steps):
    return make_pipeline(*steps, StandardScaler(), SVC(C=10))


CONTENDERS = {
    "raw pixels + logistic regression": logistic_regression(),
    "raw pixels + SVM": svm(),
    "frozen features + logistic regression": logistic_regression(
        PretrainedFeatureExtractor()
    ),
    "frozen features + SVM": svm(PretrainedFeatureExtractor()),
    "fine-tuned CNN": FineTunedCNNClassifier(),
    # Random weights need more epochs than pretrained ones.
    "same CNN from scratch": FineTunedCNNClassifier(strategy="scratch", max_epochs=25),
}


# %%
def compare(X, y, n_labels):
    """Score every contender with `n_labels` labelled pictures of each class."""
    print(f"{n_labels} labels per class, {N_REPEATS} draws:")
    draws = StratifiedShuffleSplit(
        N_REPEATS, train_size=n_labels * N_CLASSES, random_state=0
    )
    return compare_transfer(X, y, CONTENDERS, cv=draws, random_state=0, verbose=1)


def table(reports):
    """One line per contender and number of labels, aligned."""
    titles = ("contender", "labels", "accuracy", "se", "fit seconds")
    head = "{:38} {:>6} {:>8} {:>6} {:>11}".format(*titles)
    lines = [head, "-" * len(head)]
    for n_labels, report in reports.items():
        columns = ("contender", "mean_test_score", "se_test_score", "mean_fit_time")
        rows = zip(*(report.results_[column] for column in columns), strict=True)
        lines += [
            f"{name:38} {n_labels:6} {mean:8.3f} {error:6.3f} {seconds:11.2f}"
            for name, mean, error, seconds in rows
        ]
    return "\n".join(lines)


def draw(reports):
    """Save one picture with a panel per number of labels."""
    figure, axes = plt.subplots(
        1, len(reports), figsize=(13, 4), sharey=True, layout="constrained"
    )
    for ax, (n_labels, report) in zip(axes, reports.items(), strict=True):
        report.plot(ax=ax)
        ax.set_title(f"{n_labels} labels per class")
    figure.savefig(PICTURE, dpi=120)


# %%
def main():
    start = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    reports = {n_labels: compare(X, y, n_labels) for n_labels in LABELS_PER_CLASS}
    draw(reports)
    print()
    print(table(reports))
    print(f"\nPicture: {PICTURE.resolve()}")
    print(f"Took {time.perf_counter() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
