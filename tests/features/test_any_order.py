"""Calls in any order, and interrupted at any moment, against an extractor made anew."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sktl import PretrainedFeatureExtractor, clear_cache
from sktl.exceptions import ImageReadError

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too


def images(seed, n=6):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)


INPUTS = {
    "images": images(0),
    "others": images(1, 5),
    "larger": np.repeat(np.repeat(images(2), 2, axis=1), 2, axis=2),
    "floats": images(0) / 255,
    "list": list(images(0)),
}
BAD = {
    "a file that is not there": ["/nowhere/1.png", *images(0)],
    "NaN": np.full((5, 12, 12, 3), np.nan),
    "one image": images(0)[0, 0, 0],
}
# What decides numbers holds from the next fit on; how they are computed, at once.
OF_FIT = {
    "layers": ["penultimate", "layer2.1.relu_1", ["layer2.1.relu_1", "flatten"]],
    "pooling": ["avg", "max", "avgmax"],
    "image_size": [None, 16, 24],
}
OF_NOW = {
    "n_jobs": [None, 2],
    "cache": ["memory", None, "directory"],
}


class AnyOrder(RuleBasedStateMachine):
    """The model: the parameters at the last fit that succeeded, and its X."""

    def __init__(self):
        super().__init__()
        clear_cache()
        self.extractor = PretrainedFeatureExtractor("sktl_mini", batch_size=4)
        self.fitted = None

    def fresh(self):
        params, name = self.fitted
        fresh = PretrainedFeatureExtractor("sktl_mini", batch_size=4, **params)
        return fresh.set_params(cache=None).fit(INPUTS[name])

    def params(self):
        return {name: getattr(self.extractor, name) for name in OF_FIT}

    @rule(data=st.data(), name=st.sampled_from(sorted(OF_FIT | OF_NOW)))
    def set_params(self, data, name):
        value = data.draw(st.sampled_from((OF_FIT | OF_NOW)[name]))
        value = AnyOrder.root if value == "directory" else value
        self.extractor.set_params(**{name: value})

    @rule(name=st.sampled_from(sorted(INPUTS)))
    def fit(self, name):
        self.extractor.fit(INPUTS[name])
        self.fitted = self.params(), name

    @rule(name=st.sampled_from(sorted(INPUTS)))
    def fit_transform(self, name):
        features = self.extractor.fit_transform(INPUTS[name])
        self.fitted = self.params(), name
        assert np.array_equal(features, self.fresh().transform(INPUTS[name]))

    @rule(bad=st.sampled_from(["NaN", "one image"]))
    def fit_that_fails(self, bad):
        with pytest.raises(ValueError, match="."):
            self.extractor.fit(BAD[bad])
        self.fitted = None

    @precondition(lambda self: self.fitted)
    @rule(name=st.sampled_from(sorted(set(INPUTS) - {"floats"})))
    def transform(self, name):
        fresh = self.fresh()
        features = self.extractor.transform(INPUTS[name])
        assert np.array_equal(features, fresh.transform(INPUTS[name]))
        names = self.extractor.get_feature_names_out()
        assert list(names) == list(fresh.get_feature_names_out())
        assert len(names) == features.shape[1]

    @precondition(lambda self: self.fitted)
    @rule()
    def transform_that_fails(self):
        with pytest.raises(ImageReadError, match="row 0"):
            self.extractor.transform(BAD["a file that is not there"])

    @precondition(lambda self: not self.fitted)
    @rule()
    def transform_unfitted(self):
        with pytest.raises(NotFittedError):
            self.extractor.transform(INPUTS["images"])

    @rule()
    def clone(self):
        self.extractor = clone(self.extractor)
        self.fitted = None

    @rule()
    def pickle(self):
        self.extractor = pickle.loads(pickle.dumps(self.extractor))

    @rule()
    def clear(self):
        clear_cache(self.extractor.cache)


@pytest.mark.slow
def test_calls_in_any_order_are_those_of_a_new_extractor(tmp_path):
    AnyOrder.root = str(tmp_path)
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=8,
            stateful_step_count=15,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


INTERRUPTED = """
import os, pickle, signal, sys, threading
import numpy as np
import torch
from sktl import PretrainedFeatureExtractor

torch.set_num_threads(1)
rng = np.random.default_rng(0)
X = rng.integers(0, 256, (1500, 8, 8, 3), dtype=np.uint8)
expected = PretrainedFeatureExtractor("sktl_mini", cache=None).fit_transform(X)
for cache in ("memory", sys.argv[1]):
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=cache, n_jobs=2)
    n_interrupted = 0
    for n in range(3):
        args = os.getpid(), signal.SIGINT
        timer = threading.Timer(rng.uniform(0, 0.5), os.kill, args)
        try:
            timer.start()
            part = X[: int(rng.integers(4, 1500))]
            found = extractor.fit(part).transform(part)
            timer.join()
        except KeyboardInterrupt:
            n_interrupted += 1
        timer.cancel()
        try:
            timer.join()
        except KeyboardInterrupt:
            pass
    found = extractor.fit(X).transform(X)
    assert np.array_equal(found, expected)
    assert np.array_equal(extractor.transform(X), expected)
    assert n_interrupted > 0
"""


@pytest.mark.slow
def test_interrupts_at_any_moment_leave_the_right_numbers(tmp_path):
    """The same objects in the same process go on."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path / "cache"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
