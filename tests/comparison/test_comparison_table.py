"""`compare_transfer` on a table: what a column of images adds to columns of numbers.

The label has two halves. One is in the image only, whether its digit is 5 or more;
the other in a number only. Either alone gets about half of the rows right.
"""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sktl
from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, compare_transfer

N_ROWS, N_FOLDS = 240, 4
FOLDS = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
NUMBERS = ("numbers", StandardScaler(), ["weight", "length"])


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """The columns, and labels from 0 to 3."""
    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    paths = [str(folder / f"{i}.png") for i in range(N_ROWS)]
    for path, scan in zip(paths, digits.images, strict=False):
        Image.fromarray((scan * 15).astype(np.uint8)).save(path)
    rng = np.random.default_rng(0)
    weight, length = rng.uniform(0, 4, N_ROWS), rng.normal(40, 10, N_ROWS)
    labels = 2 * (digits.target[:N_ROWS] >= 5) + (weight >= 2)
    return {"photo": paths, "weight": weight, "length": length}, labels


def photo(weights="DEFAULT", column="photo"):
    features = PretrainedFeatureExtractor("sktl_mini", weights=weights)
    return "photo", make_pipeline(features, StandardScaler()), column


def model(*branches):
    return make_pipeline(
        ColumnTransformer(list(branches)), LogisticRegression(max_iter=1000)
    )


CONTENDERS = {
    "numbers only": model(NUMBERS),
    "image only": model(photo(column=["photo"])),
    "both": model(NUMBERS, photo()),
    "both, untrained": model(NUMBERS, photo(weights=None)),
}


def scores_of(report):
    frame = report.to_frame()
    return frame[[f"split{i}_test_score" for i in range(N_FOLDS)]]


@pytest.fixture(scope="module")
def report(columns):
    table, labels = columns
    return compare_transfer(pd.DataFrame(table), labels, CONTENDERS, cv=FOLDS)


@pytest.mark.slow
@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_scores_on_a_table_are_those_of_cross_val_score(columns, frame):
    """The oracle reads the images anew, into features that no store has kept."""
    table, labels = columns
    contenders = {name: CONTENDERS[name] for name in ("both", "numbers only")}
    report = compare_transfer(frame(table), labels, contenders, cv=FOLDS)
    for name, contender in contenders.items():
        alone = contender
        if name == "both":
            alone = model(NUMBERS, photo())
            alone.set_params(
                columntransformer__photo__pretrainedfeatureextractor__cache=None
            )
        scores = cross_val_score(alone, pd.DataFrame(table), labels, cv=FOLDS)
        assert scores_of(report).loc[name].tolist() == scores.tolist()


def test_each_image_of_a_table_passes_once_for_all_contenders(columns):
    table, labels = columns
    contenders = {name: CONTENDERS[name] for name in ("image only", "both")}
    sktl.clear_cache()
    compare_transfer(pd.DataFrame(table), labels, contenders, cv=FOLDS)
    assert sktl.cache_info().computed == N_ROWS


@pytest.mark.slow
def test_image_adds_to_numbers_on_every_fold(report):
    scores = scores_of(report)
    for alone in ("numbers only", "image only"):
        assert (scores.loc["both"] - scores.loc[alone]).min() > 0.1


def test_image_of_another_row_adds_nothing(columns):
    table, labels = columns
    others = np.random.default_rng(0).permutation(table["photo"])
    mixed = pd.DataFrame(table | {"photo": others})
    contenders = {name: CONTENDERS[name] for name in ("numbers only", "both")}
    scores = scores_of(compare_transfer(mixed, labels, contenders, cv=FOLDS))
    assert (scores.loc["both"] - scores.loc["numbers only"]).mean() < 0.05


def test_twin_of_a_contender_with_columns_is_found(report):
    effects = report.effects_
    assert effects["contender"].tolist() == ["both"]
    assert effects["twin"].tolist() == ["both, untrained"]
    means = scores_of(report).mean(axis=1)
    gain = means["both"] - means["both, untrained"]
    assert effects["difference"].tolist() == pytest.approx([gain])


def test_contender_that_takes_the_table_for_images_stays_a_row(columns):
    """A network that stands alone reads one column; the others go on."""
    table, labels = columns
    contenders = {
        "numbers only": CONTENDERS["numbers only"],
        "network": FineTunedCNNClassifier("sktl_mini", strategy="linear_probe"),
    }
    report = compare_transfer(pd.DataFrame(table), labels, contenders, cv=FOLDS)
    fine, failed = report.results_["error"]
    assert fine == ""
    assert "columns" in failed
    assert np.isnan(report.results_["mean_test_score"]).tolist() == [False, True]
