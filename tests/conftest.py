"""What every test stands on: fixed seeds, no network, our warnings as errors."""

import ast
import builtins
import os
from pathlib import Path

# scipy, matplotlib and OpenMP read these once, when they are first imported.
if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SCIPY_ARRAY_API"] = "1"  # without it scikit-learn skips a check
os.environ["MPLBACKEND"] = "Agg"
# Ray's processes send nothing home, and write no token into the home directory.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # 2.51 has a FutureWarning else

import gc
import random
import re
import signal
import socket
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.helpers import make_tiny_network

REPOSITORY = Path(__file__).parents[1]
THIS_MACHINE = {None, "", "localhost", "127.0.0.1", b"localhost", b"127.0.0.1"}
THIS_MACHINE |= {socket.gethostname()}
PRINT = print


def pytest_configure(config):
    """Make each warning class of sktl an error; hide GPUs from all but `-m gpu`."""
    tree = ast.parse((REPOSITORY / "sktl" / "exceptions.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Warning"):
            config.addinivalue_line(
                "filterwarnings", f"error::sktl.exceptions.{node.name}"
            )
    # Before CUDA starts; other processes that tests start inherit it.
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish(session):
    """Spare the garbage collector what is loaded by now: a twentieth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_print():
    """Put back what Ray's progress bars replace: pickle finds `print` by its name."""
    yield
    builtins.print = PRINT


@pytest.fixture(autouse=True)
def _network_blocked(request, monkeypatch):
    """Fail a test at its first attempt to leave this machine.

    `pytest.fail` raises a BaseException, so no `except Exception` on the way up
    turns the attempt into something a test might be content with. Worker processes
    are not covered.
    """
    if request.node.get_closest_marker("network"):
        return

    def guarded(call):
        def connect(self, address):
            is_internet = self.family in (socket.AF_INET, socket.AF_INET6)
            # A datagram socket that connects sends nothing. Dask and Ray ask so for
            # the address of this machine.
            if is_internet and self.type != socket.SOCK_DGRAM:
                fail_unless_here(address[0])
            return call(self, address)

        return connect

    def getaddrinfo(host, *args, **kwargs):
        fail_unless_here(host)
        return resolve(host, *args, **kwargs)

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


def fail_unless_here(host):
    if host not in THIS_MACHINE:
        pytest.fail(f"tried to reach {host!r}; a test that may is marked `network`")


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights that lies beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ beside the repository")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """What `device="auto"` is: the CPU, or CUDA in runs that select `gpu`."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if request.param == "cpu" and torch.cuda.is_available():
        pytest.skip("a run that sees a GPU is for tests of it: -m gpu")
    return request.param


@pytest.fixture
def interrupt_after():
    """A context in which Ctrl-C comes, by a real signal, after so many seconds."""

    def interrupt(*args):
        raise KeyboardInterrupt

    @contextmanager
    def interrupt_after(seconds):
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return interrupt_after


@pytest.fixture
def pyplot():
    """matplotlib's pyplot without a window; no figure survives the test."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")
    yield plt
    plt.close("all")


@pytest.fixture
def tiny_network():
    """Two convolutions with batch norms that have seen data; (n, 3, h, w) -> (n, 3)."""
    return make_tiny_network()


@pytest.fixture(scope="session")
def kept_network():
    """The tiny network, traced once for all tests; they leave it as it is."""
    network, fresh = make_tiny_network(), make_tiny_network()
    yield network
    assert not network.training
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.fixture
def make(kept_network):
    """Make a classifier that is trained in a moment."""

    from sktl import FineTunedCNNClassifier

    def make(strategy="lp_ft", **params):
        defaults = {
            "strategy": strategy,
            "unfreeze_from": "last" if strategy == "lp_ft" else "first",
            "backbone_lr_ratio": 0.1,
            "lr_schedule": "constant",
            "initial_share": 0.0,
            "augment": None,
            "backbone": kept_network,
            "image_size": 8,
            "batch_size": 12,
            "max_epochs": 2,
            "precision": "float32",
            "random_state": 0,
        }
        return FineTunedCNNClassifier(**defaults | params)

    return make


@pytest.fixture(scope="session")
def make_comparison():
    """Make what an image or a page reads of a comparison.

    `scores` is {contender: scores of shape (n_sizes, n_folds)}, NaN where it failed.
    """

    from sktl import TransferComparison

    def make(scores, sizes, scoring="accuracy", *, effects=(), indicators=(), **others):
        table = np.concatenate([np.atleast_2d(rows) for rows in scores.values()])
        n_rows, n_folds = table.shape
        results = {
            "contender": np.repeat(np.array([*scores], dtype=object), len(sizes)),
            "train_size": np.tile(sizes, len(scores)),
            **{f"split{i}_test_score": table[:, i] for i in range(n_folds)},
            "mean_test_score": table.mean(1),
            "se_test_score": table.std(1, ddof=1) / np.sqrt(n_folds),
            "test_size": np.full(n_rows, 20),
            "mean_fit_time": np.linspace(0.5, 90, n_rows) + 0 * table.mean(1),
            "mean_score_time": np.full(n_rows, 0.01),
            "error": np.where(np.isnan(table.mean(1)), "split 0: ValueError", ""),
        }
        return TransferComparison(
            results,
            scoring,
            effects=columns(
                "contender twin kind difference low high p_value verdict", effects
            ),
            indicators=columns(
                "indicator contender reference value low high", indicators
            ),
            **others,
        )

    def columns(names, rows):
        return {
            name: np.array([r[i] for r in rows]) for i, name in enumerate(names.split())
        }

    return make
