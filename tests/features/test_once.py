"""Each image passes the network once in a grid search, counted at the network itself.

A hook on the first layer writes down every image that comes in, in whatever process;
the counters of the cache take no part.
"""

import hashlib
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from joblib import Parallel, delayed
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktl import PretrainedFeatureExtractor, clear_cache
from sktl._utils.torch_state import plain_torch
from tests.helpers import encode, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

N_IMAGES = 90
CLASSES = np.arange(N_IMAGES) % 3


class Recorder:
    """Forward hook: a line in a file for each image in a batch, and a rest."""

    def __init__(self, path, seconds=0):
        self.path = path
        self.seconds = seconds

    def __call__(self, layer, inputs, output):
        (images,) = inputs  # (n, 3, h, w)
        # Padding, and the blank with which shapes are found, are of one colour.
        shown = images.flatten(2).std(dim=2).amax(dim=1) > 0
        digests = [
            hashlib.sha256(image.numpy().tobytes()).hexdigest()
            for image in images[shown].contiguous().cpu()
        ]
        with open(self.path, "a") as file:
            file.writelines(f"{digest}\n" for digest in digests)
        time.sleep(self.seconds)

    def counts(self):
        return Counter(Path(self.path).read_text().split())


@pytest.fixture
def recorder(tiny_network, tmp_path):
    recorder = Recorder(tmp_path / "passed.txt")
    tiny_network.conv1.register_forward_hook(recorder)
    return recorder


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (N_IMAGES, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def in_processes():
    """Let other processes, which cannot import this file, have its classes."""
    cloudpickle = pytest.importorskip("cloudpickle")  # joblib before 1.6 hides its own
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def search(network, cache, n_jobs=None, **grid):
    """Five folds, three grid points; blocks of 64 images, so that there are several."""
    features = PretrainedFeatureExtractor(
        network, image_size=16, batch_size=8, cache=cache
    )
    steps = [("features", features), ("classifier", LogisticRegression(max_iter=500))]
    grid = {"classifier__C": [0.1, 1.0, 10.0]} | grid
    return GridSearchCV(Pipeline(steps), grid, cv=5, n_jobs=n_jobs, error_score="raise")


def test_blocks_of_a_directory_are_whole_batches(tiny_network, monkeypatch, tmp_path):
    """Images of one lock stay together, which must not make batches with gaps."""
    images = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 3), np.uint8)
    forward, n_rows = torch.nn.Conv2d.forward, []

    def counted(self, x):
        n_rows.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    n_computed = {}
    for cache in (None, tmp_path):
        settings = {"image_size": 8, "batch_size": 4, "cache": cache}
        extractor = PretrainedFeatureExtractor(tiny_network, **settings).fit(images)
        n_rows.clear()
        extractor.transform(images)
        n_computed[cache] = sum(n_rows)
    assert n_computed[tmp_path] == n_computed[None]


@pytest.mark.parametrize("cache", first_and_slow(["memory", "directory"]))
def test_grid_search_passes_each_image_once(
    cache, images, tiny_network, recorder, tmp_path
):
    clear_cache()
    cache = cache if cache == "memory" else tmp_path / "features"
    search(tiny_network, cache).fit(images, CLASSES)
    assert list(recorder.counts().values()) == [1] * N_IMAGES


@pytest.mark.slow
def test_setting_that_changes_no_number_passes_no_image_again(
    images, tiny_network, recorder
):
    """Worker processes, for instance, do not have it. As PyTorch Lightning advises."""
    clear_cache()
    before = torch.backends.mkldnn.matmul.fp32_precision
    search(tiny_network, "memory").fit(images, CLASSES)
    try:
        torch.set_float32_matmul_precision("highest")
        search(tiny_network, "memory").fit(images, CLASSES)
        torch.set_float32_matmul_precision("high")
        search(tiny_network, "memory").fit(images, CLASSES)
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert list(recorder.counts().values()) == [1] * N_IMAGES


def test_recorder_sees_every_fold_without_a_cache(images, tiny_network, recorder):
    """Three grid points and five folds, each through fit and score; then the refit."""
    search(tiny_network, None).fit(images, CLASSES)
    assert list(recorder.counts().values()) == [3 * 5 + 1] * N_IMAGES


def test_equal_images_in_other_forms_pass_once(
    images, tiny_network, recorder, tmp_path
):
    clear_cache()
    pixels = [*images, *map(Image.fromarray, images), *map(torch.tensor, images)]
    search(tiny_network, "memory").fit(pixels, np.tile(CLASSES, 3))
    assert list(recorder.counts().values()) == [1] * N_IMAGES


@pytest.mark.slow
def test_other_extractor_parameters_pass_each_image_once_each(
    images, tiny_network, recorder
):
    clear_cache()
    pooling = {"features__pooling": ["avg", "max"]}
    search(tiny_network, "memory", **pooling).fit(images, CLASSES)
    assert list(recorder.counts().values()) == [2] * N_IMAGES


@pytest.mark.parametrize("cache", ["memory", "directory"])
def test_threads_that_meet_pass_each_image_once(
    cache, images, tiny_network, recorder, tmp_path
):
    clear_cache()
    recorder.seconds = 0.01
    cache = cache if cache == "memory" else tmp_path / "features"
    features = PretrainedFeatureExtractor(tiny_network, image_size=16, cache=cache)
    features.fit(images[:1])
    threads = [
        threading.Thread(target=features.transform, args=[part])
        for part in (images, images[::-1], images[20:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(recorder.counts().values()) == [1] * N_IMAGES


@pytest.mark.slow
def test_processes_that_begin_together_pass_each_image_once(
    images, tiny_network, recorder, in_processes, tmp_path
):
    expected = search(tiny_network, None).fit(images, CLASSES).cv_results_
    together = search(tiny_network, tmp_path / "first", n_jobs=2)
    together.fit(images[:15], CLASSES[:15])  # starts the processes
    Path(recorder.path).unlink()
    recorder.seconds = 0.05
    together.set_params(estimator__features__cache=tmp_path / "features")
    found = together.fit(images, CLASSES).cv_results_
    assert list(recorder.counts().values()) == [1] * N_IMAGES
    np.testing.assert_array_equal(found["mean_test_score"], expected["mean_test_score"])


def lock_files(directory):
    return [
        FileLock(directory / "sktl-locks" / f"{n:02}", timeout=0) for n in range(64)
    ]


@pytest.fixture
def features(tiny_network, recorder, images, tmp_path):
    """Fitted, and blocks of 32 images."""
    features = PretrainedFeatureExtractor(
        tiny_network, image_size=16, batch_size=8, cache=tmp_path / "features"
    )
    features.fit(images)
    (tmp_path / "features" / "sktl-locks").mkdir(parents=True)
    return features


def test_locks_of_others_are_come_back_to(
    images, features, recorder, monkeypatch, tmp_path
):
    """What others are computing comes last, once they are done with it."""
    locks = lock_files(tmp_path / "features")
    for lock in locks[::16]:
        lock.acquire()
    thread = threading.Thread(target=features.transform, args=[images], daemon=True)
    thread.start()
    for _ in range(200):
        time.sleep(0.05)
        if recorder.counts().total():
            break
    assert 0 < recorder.counts().total() < N_IMAGES
    assert thread.is_alive()
    for lock in locks[::16]:
        lock.release()
    thread.join(20)
    assert list(recorder.counts().values()) == [1] * N_IMAGES


def test_unreadable_image_of_a_block_that_came_back_is_named(
    images, features, tmp_path
):
    X, found = [encode(image) for image in images], []
    X[7] = X[7][:-30]
    features.set_params(on_error="nan").fit(X[:4])
    locks = lock_files(tmp_path / "features")
    for lock in locks:
        lock.acquire()
    thread = threading.Thread(
        target=lambda: found.append(features.transform(X)), daemon=True
    )
    with pytest.warns(UserWarning, match="row 7"):  # noqa: PT031
        thread.start()
        time.sleep(1)
        for lock in locks:
            lock.release()
        thread.join(20)
    assert np.flatnonzero(np.isnan(found[0]).any(axis=1)).tolist() == [7]


def test_lock_that_is_never_freed_costs_one_wait(
    images, features, monkeypatch, tmp_path
):
    expected = clone(features).set_params(cache=None).fit_transform(images)
    monkeypatch.setattr("sktl._features.blocks.LOCK_SECONDS", 0.5)
    for lock in (locks := lock_files(tmp_path / "features")):
        lock.acquire()
    started = time.monotonic()
    assert np.array_equal(features.transform(images), expected)
    assert time.monotonic() - started < 10
    for lock in locks:
        lock.release()


def test_where_nothing_can_be_locked_images_are_computed_and_kept(
    images, features, recorder, tmp_path
):
    (tmp_path / "features" / "sktl-locks").rmdir()
    (tmp_path / "features" / "sktl-locks").write_text("in the way")
    features.transform(images)
    features.transform(images)
    assert list(recorder.counts().values()) == [1] * N_IMAGES
    assert (tmp_path / "features" / "sktl-locks").read_text() == "in the way"


def test_nothing_is_locked_while_another_thread_trains(images, features, tmp_path):
    """Or two processes, each with such threads, could wait for each other for ever."""
    with plain_torch():  # as while training
        thread = threading.Thread(target=features.transform, args=[images], daemon=True)
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        for lock in lock_files(tmp_path / "features"):
            with lock:
                pass
    thread.join(20)
    assert not thread.is_alive()


FIT_AND_TRANSFORM = """
import pickle, sys, threading
from sktl import FineTunedCNNClassifier
features, images = pickle.load(open(sys.argv[1], "rb"))
y = [0, 1, 2] * (len(images) // 3)
fits = FineTunedCNNClassifier(
    features.backbone, image_size=16, cache=features.cache, max_epochs=1
)
for n in range(3):
    part = images if n else images[::-1]
    thread = threading.Thread(target=fits.fit, args=[part + n, y])
    thread.start()
    rows = features.fit_transform(part + n)
    thread.join()
print(rows.shape)
"""


@pytest.mark.slow
def test_processes_that_fit_and_transform_at_once_do_not_wait_for_each_other(
    images, tiny_network, recorder, in_processes, tmp_path
):
    cloudpickle = pytest.importorskip("cloudpickle")
    recorder.seconds = 0.02
    features = PretrainedFeatureExtractor(
        tiny_network, image_size=16, batch_size=8, cache=tmp_path / "features"
    )
    task = tmp_path / "task.pkl"
    task.write_bytes(cloudpickle.dumps((features, images)))
    command = [sys.executable, "-c", FIT_AND_TRANSFORM, task]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        shown = [process.communicate(timeout=120)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert shown == [b"(90, 8)\n"] * 2


TRANSFORM = """
import pickle, sys
features, images = pickle.load(open(sys.argv[1], "rb"))
features.fit_transform(images)
"""


@pytest.mark.slow
def test_what_a_killed_process_had_begun_is_computed_by_the_next(
    images, tiny_network, recorder, in_processes, tmp_path
):
    """Two batches of eight had begun; the first may have been kept. Fault 29."""
    cloudpickle = pytest.importorskip("cloudpickle")
    params = {"image_size": 16, "batch_size": 8}
    features = PretrainedFeatureExtractor(tiny_network, **params, cache=None)
    expected = features.fit_transform(images)
    Path(recorder.path).write_text("")
    recorder.seconds = 2
    features.set_params(cache=tmp_path / "features")
    task = tmp_path / "task.pkl"
    task.write_bytes(cloudpickle.dumps((features, images)))
    killed = subprocess.Popen([sys.executable, "-c", TRANSFORM, task])
    while recorder.counts().total() < 16:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    recorder.seconds = 0
    found = features.fit_transform(images)
    assert found.tobytes() == expected.tobytes()
    counts = Counter(recorder.counts().values())
    assert counts in ({1: N_IMAGES - 8, 2: 8}, {1: N_IMAGES - 16, 2: 16})


@pytest.mark.slow
def test_recorder_sees_other_processes(
    images, tiny_network, recorder, in_processes, tmp_path
):
    search(tiny_network, None, n_jobs=2).fit(images, CLASSES)
    assert list(recorder.counts().values()) == [3 * 5 + 1] * N_IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu"], indirect=True)  # a fork cannot use CUDA
@pytest.mark.parametrize("cache", [None, "directory"])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_joblib_compute_what_one_process_does(
    backend, cache, images, tmp_path
):
    """Also in forks of a process that has computed with several threads. Fault 25."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    features = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(images)
    expected = features.transform(images)
    torch.set_num_threads(2)
    features.transform(images)
    features.set_params(cache=cache and tmp_path / "features")
    try:
        parts = Parallel(n_jobs=2, backend=backend, timeout=120)(
            delayed(features.transform)(part) for part in (images, images[::-1])
        )
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(parts[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts[1], expected[::-1], rtol=1e-5, atol=1e-6)
