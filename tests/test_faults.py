"""The 34 faults that sktl was tried against, and those that cannot be made here.

A test of a fault says its number in its docstring: "Fault 12."
"""

import ast
import multiprocessing.process
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from sktl import PretrainedFeatureExtractor
from tests.helpers import run_python, write

FAULTS = {
    1: "a process is killed while it writes to the cache",
    2: "a killed process leaves temporary files",
    3: "bits of a cached row flip",
    4: "a cached row is cut off",
    5: "the power fails after a rename and before the data are written",
    6: "the disk is full",
    7: "many processes write the same rows",
    8: "the cache is on a network file system",
    9: "two processes write into one chunk of a file",
    10: "an open cache file is inherited by a fork",
    11: "a row comes back in another dtype or shape",
    12: "other settings get the same key",
    13: "the same settings get another key in another process",
    14: "an image file changes while it is read",
    15: "a cached row holds a pickle",
    16: "downloaded weights are damaged or exchanged",
    17: "two weight files have one name",
    18: "a model file holds code",
    19: "a process is killed while it writes a checkpoint",
    20: "an image file is cut off",
    21: "a damaged image makes a decoder raise anything at all",
    22: "damage to an image that its format cannot notice",
    23: "a small file declares a giant image",
    24: "a process forks after torch has used several threads",
    25: "data loaders start processes within the workers of a pool",
    26: "/dev/shm is too small",
    27: "CUDA was used before a process forks",
    28: "the threads of each worker add up to more than the cores",
    29: "a worker is killed",
    30: "one image of a fold cannot be read",
    31: "a device runs out of memory",
    32: "a GPU gives other numbers in each run",
    33: "an estimator was fitted on a device that is not there",
    34: "weights cannot be downloaded, or not whole",
}

NOT_HERE = {
    5: "No test cuts the power. Tests look at the order of what is written, and cut "
    "and smear files as a power cut does.",
    8: "There is no network file system. What such systems break is locking: tests "
    "take the locks away, and the checksum of each row is tested for itself.",
    22: "Most damage to the pixels of JPEG, BMP, GIF and TIFF files breaks no rule of "
    "these formats, so no reader can notice it. Tests hold that sktl sees what PIL "
    "sees.",
    27: "There is no GPU: torch itself refuses CUDA in such a fork, and names the "
    "cure. A test holds that sktl calls no CUDA when it is imported or on the CPU.",
    32: "There is no GPU. Tests hold that flags and cards have keys of their own, and "
    "that float32 is computed without TF32.",
}


def numbers_in_docstrings():
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for found in re.findall(
                    r"\bFaults? ([\d, and]+)\.", ast.get_docstring(node) or ""
                ):
                    yield from map(int, re.findall(r"\d+", found))


def test_each_fault_has_a_test_or_a_reason():
    assert {*numbers_in_docstrings(), *NOT_HERE} == {*FAULTS} == {*range(1, 35)}


@pytest.fixture
def paths(tmp_path):
    shape = (12, 16, 16, 3)
    rng = np.random.default_rng(0)
    return write(tmp_path, rng.integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("augment", [None, "flip"])
def test_no_process_and_no_shared_memory_is_made(paths, make, augment, monkeypatch):
    """Images are decoded in threads, and batches made in the one. Faults 25 and 26."""

    def refuse(*args, **kwargs):
        pytest.fail("a process or shared memory was made")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr("subprocess.Popen.__init__", refuse)
    monkeypatch.setattr("os.fork", refuse, raising=False)
    monkeypatch.setattr("multiprocessing.shared_memory.SharedMemory.__init__", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", refuse)
    PretrainedFeatureExtractor("sktl_mini", cache=None, n_jobs=2).fit_transform(paths)
    classifier = make("full", augment=augment, n_jobs=2, cache=None)
    classifier.fit(paths, [0, 1] * 6).predict(paths)


@pytest.mark.slow
def test_import_and_computing_on_the_cpu_call_no_cuda(paths):
    """A parent that has used CUDA has children that cannot. Fault 27."""
    code = """
import sys, torch

def refuse(*args):
    raise SystemExit("CUDA was called")

torch.cuda._lazy_init = refuse
import sktl
import sktl.callbacks

paths, y = sys.argv[1:], [0, 1] * 6
extractor = sktl.PretrainedFeatureExtractor(device="cpu", cache=None)
print(extractor.fit_transform(paths).shape)
sktl.FineTunedCNNClassifier(device="cpu", max_epochs=1, cache=None).fit(paths, y)
"""
    assert run_python(code, *paths).startswith("(12, ")


def threads_after(extractor, X):
    extractor.transform(X)
    return torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_of_workers_are_no_more_than_the_cores(paths, backend):
    """Threads as workers share torch's, whose number is the user's. Fault 28."""
    if backend == "multiprocessing" and sys.platform != "linux":
        pytest.skip("its workers are forks on Linux")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        extractor = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(paths)
        counts = Parallel(n_jobs=2, backend=backend, timeout=120)(
            delayed(threads_after)(extractor, paths) for _ in range(2)
        )
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(n_threads)
    assert sum(counts) <= max(2, multiprocessing.cpu_count())
