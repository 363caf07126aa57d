"""Real ImageNet weights on real photographs: transfer has to help, and does."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import PretrainedFeatureExtractor, compare_transfer

SQUEEZENET = "squeezenet1_1-torchvision.fp16.safetensors"


@pytest.fixture(scope="module")
def ants_and_bees(shared):
    """Paths and labels of all 397 photographs."""
    paths = sorted((shared / "data" / "hymenoptera").glob("*/*/*.*"))
    return paths, [path.parent.name for path in paths]


def on_features(backbone, weights="DEFAULT"):
    return make_pipeline(
        PretrainedFeatureExtractor(backbone, weights=weights, n_jobs=2),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )


FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


@pytest.mark.slow
def test_pretrained_features_beat_those_of_the_untrained_network(shared, ants_and_bees):
    paths, labels = ants_and_bees
    assert len(paths) == 397
    report = compare_transfer(
        paths,
        labels,
        {
            "ImageNet": on_features("squeezenet1_1", shared / "weights" / SQUEEZENET),
            "untrained": on_features("squeezenet1_1", None),
        },
        cv=FOLDS,
    )
    print(report)
    pretrained, untrained = report.results_["mean_test_score"]
    errors = report.results_["se_test_score"]
    assert pretrained > 0.9
    assert pretrained - untrained > 0.2
    assert pretrained - untrained > 5 * np.hypot(*errors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageSizeWarning")
def test_shipped_network_for_photographs_beats_the_default_one(ants_and_bees):
    contenders = {name: on_features(name) for name in ("sktl_mini", "sktl_photo")}
    report = compare_transfer(*ants_and_bees, contenders, cv=FOLDS)
    print(report)
    default, photo = report.results_["mean_test_score"]
    assert photo > 0.75
    assert photo - default > 0.05
