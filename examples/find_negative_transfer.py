"""Does transfer hurt?
===================

A pretrained network helps if what it learned is useful for your task. Here one network
learned nothing useful: its labels were shuffled, as in a spreadsheet in which only one
column was sorted, and it memorised them. The images are scikit-learn's handwritten
digits (grey scans of 8 x 8 pixels). On 150 other digits, this network is compared with
`sktl_mini`, which comes with the package and is sound, and with the same architecture
trained from scratch. `compare_transfer` pairs each pretrained model with its twin, the
counterpart without transfer: the same model on an untrained network, or a network
trained from scratch. It says where the twin wins. Needs no download; one to two minutes
on two cores.
"""

# %%
import tempfile
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import shuffle

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    compare_transfer,
)

N_SOURCE, N_TARGET, N_FOLDS = 250, 150, 3
IMAGE_SIZE = 32  # half of what sktl_mini was made for: enough for digits, and quicker
PLOT = Path("find_negative_transfer.png")

# %% [markdown]
# 1. A network that learned nothing useful
# ----------------------------------------
#
# With enough epochs the network memorises the label of every image.


# %%
def network(**settings):
    return FineTunedCNNClassifier(
        "sktl_mini",
        image_size=IMAGE_SIZE,
        augment=None,
        batch_size=32,
        max_epochs=8,
        **settings,
    )


def misled_weights(X, y, path):
    """Train a network on shuffled labels; save it without its head."""
    labels = shuffle(y, random_state=0)
    misled = network(strategy="scratch", random_state=0)
    misled.fit(X, labels).save_backbone(path)
    print(f"It memorised {misled.score(X, labels):.0%} of its wrong labels.")
    return path


# %% [markdown]
# 2. The contenders
# -----------------
#
# The models to compare, on images that the network never saw. Pairs need not be
# declared: `compare_transfer` finds contenders that differ only in the weights, or that
# start from random ones.


# %%
def on_features(weights):
    return make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", weights=weights, image_size=IMAGE_SIZE),
        GlobalScaler(),
        LogisticRegression(max_iter=1000),
    )


def contenders(misled):
    return {
        "features of sktl_mini": on_features("DEFAULT"),
        "features of the misled network": on_features(misled),
        "features of the untrained network": on_features(None),
        "sktl_mini, fine-tuned": network(unfreeze_from="last"),
        "misled network, fine-tuned": network(unfreeze_from="last", weights=misled),
        "from scratch": network(strategy="scratch"),
    }


def compare():
    X, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    target, source = slice(0, N_TARGET), slice(N_TARGET, N_TARGET + N_SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        misled = misled_weights(
            X[source], y[source], Path(folder, "misled.safetensors")
        )
        return compare_transfer(
            X[target],
            y[target],
            contenders(misled),
            cv=N_FOLDS,
            random_state=0,
            verbose=1,
        )


# %% [markdown]
# 3. What hurts
# -------------
#
# What hurts comes first below the table. `effects_` has the numbers: a negative
# difference with a small p-value.


# %%
def main():
    report = compare()
    print(report)
    effects = report.effects_
    hurts = (effects["difference"] < 0) & (effects["p_value"] < 0.05)
    print(f"\nHurts: {', '.join(effects['contender'][hurts]) or 'none'}")
    report.plot().figure_.savefig(PLOT, dpi=120)
    print(f"Plot: {PLOT.resolve()}")
    return report


if __name__ == "__main__":
    main()
