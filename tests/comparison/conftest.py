"""What tests of several files here share: rows of digits, and contenders on them."""

import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import PretrainedFeatureExtractor


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:120], y[:120]


@pytest.fixture(scope="module")
def contenders():
    return {
        "pixels": LogisticRegression(max_iter=500),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), LogisticRegression(max_iter=500)
        ),
    }


@pytest.fixture
def duel(make, digits):
    """A small network, fine-tuned and from scratch, that learns within seconds."""
    X, y = digits
    contenders = {
        "tuned": make(max_epochs=3),
        "scratch": make("scratch", max_epochs=4, lr=0.01),
    }
    return contenders, X, (y > 4).astype(str)
