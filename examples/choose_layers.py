"""Which layers suit the task?
===========================

Early layers of a network respond to edges, late ones to what its original task needed.
`probe_layers` passes the images through the network once, fits a linear model to the
output of each stage, and advises which stages to train. Then a comparison on other
images checks the advice against other choices. The images are scikit-learn's
handwritten digits (8 x 8 grey pixels); the network, `sktl_mini`, was trained on none.
Needs no download; less than two minutes on two cores.
"""

# %%
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    compare_transfer,
    probe_layers,
)

N_PROBED, N_COMPARED, N_FOLDS = 150, 150, 3
PLOT = Path("choose_layers.png")

# %% [markdown]
# 1. The contenders
# -----------------
#
# `recommendation_` has the advice as parameter values, and the numbers that led to it:
# how many labels there are per class, and by how much the last stage is better than the
# middle one.


# %%
def on_features(layer):
    return make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", layers=layer),
        LogisticRegression(max_iter=1000),
    )


def advised(advice):
    if advice["strategy"] == "linear_probe":  # not always on the last layer
        return on_features(advice["layers"])
    return FineTunedCNNClassifier(
        "sktl_mini",
        strategy=advice["strategy"],
        unfreeze_from=advice["unfreeze_from"],
        max_epochs=10,
    )


def contenders(probe):
    """The advised model, and others that one might try."""
    return {
        "as advised": advised(probe.recommendation_),
        "features of the second stage": on_features(probe.results_["layer"][1]),
        "last stage trained": FineTunedCNNClassifier("sktl_mini", unfreeze_from="last"),
        "last two stages": FineTunedCNNClassifier("sktl_mini", unfreeze_from=2),
        "everything": FineTunedCNNClassifier("sktl_mini"),
    }


# %% [markdown]
# 2. The probe, then the check
# ----------------------------
#
# The plot shows the scores of the probe, the advised layer, and the stages to train.


# %%
def main():
    X, y = load_digits(return_X_y=True)
    probe = probe_layers(X[:N_PROBED], y[:N_PROBED], "sktl_mini", cv=N_FOLDS)
    print(probe, "\n")
    probe.plot().figure_.savefig(PLOT, dpi=120)
    others = slice(N_PROBED, N_PROBED + N_COMPARED)
    report = compare_transfer(
        X[others],
        y[others],
        contenders(probe),
        cv=N_FOLDS,
        random_state=0,
        verbose=1,
    )
    print(report)
    print(f"\nPlot: {PLOT.resolve()}")


if __name__ == "__main__":
    main()
