"""Find out whether transfer hurts.

A pretrained network helps if its task is like yours. Here one is not: it learns to say
how strongly a digit is inked, on scikit-learn's handwritten digits (grey scans of 8 x 8
pixels) of which we fade some. For that, the shape of a digit is of no use. Then it is
to read the digits, from 150 others, beside `sktl_mini`, which comes with the package,
and beside the same network trained from scratch. `compare_transfer` pairs each
pretrained contender with its untrained or from-scratch twin, and says where the twin
wins. Needs no download; about one minute on two cores.
"""

# %%
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, compare_transfer

N_SOURCE, N_TARGET, N_FOLDS = 400, 200, 4
N_INKS = 4  # classes of the wrong task, from faint to black
PICTURE = Path("find_negative_transfer.png")

# %% [markdown]
# The wrong task: each digit is faded by a random factor, and the factor is the label.


# %%
def misled_weights(X, path):
    """Train a network to grade ink; save all of it but its head."""
    strength = np.random.default_rng(0).uniform(0, 1, len(X))
    grade = (strength * N_INKS).astype(int)
    grader = FineTunedCNNClassifier(strategy="scratch", max_epochs=15, random_state=0)
    grader.fit(X * strength[:, np.newaxis], grade)
    grader.save_backbone(path)
    return path


# %% [markdown]
# The right task, on pictures that the grader never saw. Twins need no mention: they
# are the contenders that differ in the weights alone, or begin with random ones.


# %%
def on_features(weights):
    return make_pipeline(
        PretrainedFeatureExtractor(weights=weights),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )


def contenders(misled):
    return {
        "features of sktl_mini": on_features("DEFAULT"),
        "features of the ink grader": on_features(misled),
        "features of the untrained network": on_features(None),
        "sktl_mini, fine-tuned": FineTunedCNNClassifier(),
        "ink grader, fine-tuned": FineTunedCNNClassifier(weights=misled),
        "from scratch": FineTunedCNNClassifier(strategy="scratch"),
    }


def compare():
    X, y = load_digits(return_X_y=True)
    target, source = slice(0, N_TARGET), slice(N_TARGET, N_TARGET + N_SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        misled = misled_weights(X[source], Path(folder, "ink.safetensors"))
        return compare_transfer(
            X[target],
            y[target],
            contenders(misled),
            cv=N_FOLDS,
            random_state=0,
            verbose=1,
        )


# %% [markdown]
# What hurts comes first below the table. `effects_` has the numbers: a negative
# difference with a small p-value. Transfer of the same network may hurt when it is
# fine-tuned, where early layers stay as they are, and not as features.


# %%
def main():
    report = compare()
    print(report)
    effects = report.effects_
    hurts = (effects["difference"] < 0) & (effects["p_value"] < 0.05)
    print(f"\nHurts: {', '.join(effects['contender'][hurts]) or 'none'}")
    report.plot().figure_.savefig(PICTURE, dpi=120)
    print(f"Picture: {PICTURE.resolve()}")


if __name__ == "__main__":
    main()
