"""What do images add to a table of numbers?
=========================================

The task is to predict the postage of a parcel. The table has its weight and length, and
the path of an image that shows the number of its zone, written by hand. The images are
real, from scikit-learn's handwritten digits (8 x 8 grey pixels). Weights and lengths
are drawn at random, and a made-up tariff gives the label, one of four prices: near or
far, and light or heavy. So we know the right answer: numbers alone and the image alone
get half of the parcels right, and the length is useless. Needs no download; less than
half a minute on two cores.
"""

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import GlobalScaler, PretrainedFeatureExtractor, compare_transfer

N_PARCELS, N_FOLDS = 400, 10
FAR = 5  # the first zone that is far
HEAVY = 2.0  # kg
PRICES = {(False, False): 3, (False, True): 5, (True, False): 6, (True, True): 9}
PLOT = Path("add_images_to_table.png")

# %% [markdown]
# 1. The table
# ------------
#
# The table: a row per parcel, with a column of paths. The zone itself is in the image
# only.


# %%
def parcels(folder):
    """Write the images into a folder; return the table and the postage."""
    digits = load_digits()
    zones, scans = digits.target[:N_PARCELS], digits.images[:N_PARCELS]  # 0 to 16
    paths = [Path(folder, f"{i}.png") for i in range(N_PARCELS)]
    for path, scan in zip(paths, scans, strict=True):
        Image.fromarray((scan * 15).astype(np.uint8)).save(path)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "photo": list(map(str, paths)),
            "weight": rng.uniform(0, 2 * HEAVY, N_PARCELS).round(2),
            "length": rng.normal(40, 10, N_PARCELS).round(),
        }
    )
    kinds = zip(zones >= FAR, table["weight"] >= HEAVY, strict=True)
    postage = np.array([PRICES[kind] for kind in kinds])
    return table, postage


# %% [markdown]
# 2. The contenders
# -----------------
#
# The same model on some of the columns or on all. `ColumnTransformer` drops columns
# that no transformer names.


# %%
NUMBERS = ("numbers", StandardScaler(), ["weight", "length"])


def photo(weights="DEFAULT"):
    features = PretrainedFeatureExtractor("sktl_mini", weights=weights)
    return "photo", make_pipeline(features, GlobalScaler()), "photo"


def model(*branches):
    columns = ColumnTransformer(list(branches))
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


CONTENDERS = {
    "numbers only": model(NUMBERS),
    "image only": model(photo()),
    "both": model(NUMBERS, photo()),
    "both, untrained network": model(NUMBERS, photo(weights=None)),
}

# %% [markdown]
# 3. The comparison
# -----------------
#
# The findings below the table are about transfer: how pretrained weights compare with
# random ones. What a column adds is the difference between the contenders with and
# without it.


# %%
def compare():
    with tempfile.TemporaryDirectory() as folder:
        table, postage = parcels(folder)
        return compare_transfer(
            table, postage, CONTENDERS, cv=N_FOLDS, random_state=0, verbose=1
        )


# %% [markdown]
# 4. What each column adds
# ------------------------
#
# `gain` compares two contenders on the same folds.


# %%
def main():
    report = compare()
    print(report)
    for other, what in (("numbers only", "image"), ("image only", "two numbers")):
        mean, low, high, _ = report.gain("both", over=other)
        print(f"Gain by the {what}: {mean:.3f} (95 % interval {low:.3f} to {high:.3f})")
    report.plot().figure_.savefig(PLOT, dpi=120)
    print(f"Plot: {PLOT.resolve()}")
    return report


if __name__ == "__main__":
    main()
