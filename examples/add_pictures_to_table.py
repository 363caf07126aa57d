"""Measure what pictures add to a table of numbers.

400 parcels are to be put into one of five classes of postage. The table has their
weight and length, and the path of a picture: the number of the zone, as somebody wrote
it on the parcel. The pictures are real, from scikit-learn's handwritten digits (8 x 8
grey pixels). Weights and lengths are drawn at random, and the postage follows from a
tariff that is made up here: points for the zone and points for the weight. So we know
that neither the numbers nor the picture can do it alone, and that the length is of no
use. Needs no download; less than half a minute on two cores.
"""

# %%
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into a file, on machines without a screen too

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import PretrainedFeatureExtractor, compare_transfer

N_PARCELS, N_FOLDS = 400, 10
NEAR, FAR = 3, 7  # first zones that cost one point and two
LIGHT, HEAVY = 1.0, 5.0  # kg, from which on a parcel costs one point and two
PICTURE = Path("add_pictures_to_table.png")

# %% [markdown]
# The table: a row per parcel, with a column of paths. The zone itself is in the
# picture only.


# %%
def parcels(folder):
    """Write the pictures into a folder; return the table and the postage."""
    digits = load_digits()
    zones, scans = digits.target[:N_PARCELS], digits.images[:N_PARCELS]
    paths = [Path(folder, f"{i}.png") for i in range(N_PARCELS)]
    for path, scan in zip(paths, scans, strict=True):
        Image.fromarray((scan / 16 * 255).astype(np.uint8)).save(path)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "photo": list(map(str, paths)),
            "weight": rng.lognormal(mean=0.8, sigma=1.0, size=N_PARCELS).round(2),
            "length": rng.normal(loc=40, scale=10, size=N_PARCELS).round(),
        }
    )
    postage = np.digitize(zones, [NEAR, FAR]) + np.digitize(
        table["weight"], [LIGHT, HEAVY]
    )
    return table, postage


# %% [markdown]
# The same model on some of the columns or on all. `ColumnTransformer` drops columns
# that no branch names.

# %%
NUMBERS = ("numbers", StandardScaler(), ["weight", "length"])


def photo(weights="DEFAULT"):
    features = PretrainedFeatureExtractor(weights=weights)
    return "photo", make_pipeline(features, StandardScaler()), "photo"


def model(*branches):
    return make_pipeline(
        ColumnTransformer(list(branches)), LogisticRegression(max_iter=1000)
    )


CONTENDERS = {
    "numbers only": model(NUMBERS),
    "picture only": model(photo()),
    "both": model(NUMBERS, photo()),
    "both, untrained network": model(NUMBERS, photo(weights=None)),
}


# %%
def compare():
    with tempfile.TemporaryDirectory() as folder:
        table, postage = parcels(folder)
        return compare_transfer(
            table, postage, CONTENDERS, cv=N_FOLDS, random_state=0, verbose=1
        )


def gain(report, name, other):
    """How far a contender is ahead of another on the same folds: mean and error."""
    scores = report.to_frame().filter(regex=r"^split\d+_test_score$")
    gains = scores.loc[name] - scores.loc[other]
    # Folds share training rows: the corrected variance of Nadeau & Bengio (2003).
    variance = (1 / N_FOLDS + 1 / (N_FOLDS - 1)) * gains.var()
    return gains.mean(), variance**0.5


# %%
def main():
    report = compare()
    print(report)
    for other, what in (("numbers only", "picture"), ("picture only", "numbers")):
        mean, error = gain(report, "both", other)
        print(f"The {what} adds {mean:.3f} +- {error:.3f} to the accuracy.")
    report.plot().figure_.savefig(PICTURE, dpi=120)
    print(f"Picture: {PICTURE.resolve()}")


if __name__ == "__main__":
    main()
