"""What tests of several files share: image files, a small network, other processes."""

import io
import itertools
import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn


def encode(image, kind="PNG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder, arrays, suffix="png", **options):
    """Save images and give their paths."""
    paths = [folder / f"{i}.{suffix}" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path, **options)
    return paths


def make_tiny_network(seed=0):
    """Two convolutions with batch norms that have seen data; (n, 3, h, w) -> (n, 3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 4, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(4),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
                bn2=nn.BatchNorm2d(8),
                relu2=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(8, 3),
            )
        )
        # Statistics unlike a new layer's 0 and 1, so that resetting them shows.
        with torch.no_grad():
            network.train()(torch.rand(16, 3, 16, 16))
    return network.eval()


def timm_features(network, X):
    """What timm itself makes of images, before the classifier."""
    import timm.data

    X = [x if isinstance(x, Image.Image) else Image.fromarray(x) for x in X]
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(model=network), is_training=False
    )
    batch = torch.stack([transform(image) for image in X])
    with torch.no_grad():
        return network.forward_head(
            network.forward_features(batch), pre_logits=True
        ).numpy()


def run_python(code, *arguments, timeout=600, **environment):
    """Run code in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_and_slow(values):
    """Parameters of a test: the first is tried by default, the others in slow runs."""
    first, *others = values
    as_tuples = (other if isinstance(other, tuple) else (other,) for other in others)
    return [first, *(pytest.param(*one, marks=pytest.mark.slow) for one in as_tuples)]


def each_once(*values):
    """All combinations; by default only as many are tried as show each value."""
    n_shown = max(map(len, values))
    shown = {tuple(n % len(v) for v in values) for n in range(n_shown)}
    return [
        pytest.param(
            *(v[n] for v, n in zip(values, places, strict=True)),
            marks=[] if places in shown else pytest.mark.slow,
        )
        for places in itertools.product(*(range(len(v)) for v in values))
    ]


def scores_of(report):
    """{contender: mean score at its last, largest size}."""
    results = report.results_
    return dict(zip(results["contender"], results["mean_test_score"], strict=True))


def splits_of(report, row=0):
    """Scores of one row, by split."""
    columns = [f"split{i}_test_score" for i in range(report.n_splits_)]
    return np.array([report.results_[column][row] for column in columns])


class FailsWithout(LogisticRegression):
    """Fails where a row is not in the training part."""

    def __init__(self, row=0):
        super().__init__(max_iter=500)
        self.row = row

    def fit(self, X, y):
        if not (X == self.row).all(axis=1).any():
            raise RuntimeError("the row is not here")
        return super().fit(X, y)
