"""One pass over X: blocks that overlap, progress, and memory that runs out."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._features.cache import open_cache
from sktl._features.engine import Engine
from sktl.exceptions import BatchSizeWarning
from tests.helpers import encode, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

N_BLOCK = 1024


def images(n, seed=0, size=8):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _empty_cache():
    open_cache("memory").clear()  # which keeps the networks


@pytest.fixture
def extractor(tiny_network):
    params = {"image_size": 8, "precision": "float32", "cache": None}
    return PretrainedFeatureExtractor(tiny_network, **params)


@pytest.fixture
def rows_computed(monkeypatch):
    """The number of rows of each call of the engine, padding aside."""
    counts = []
    batches = Engine.batches

    def counting(self, module, rows):
        counts.append(len(rows))
        return batches(self, module, rows)

    monkeypatch.setattr(Engine, "batches", counting)
    return counts


class Full:
    """Memory for `n_fit` images in a batch, from the batch number `begin` on."""

    def __init__(self, monkeypatch, n_fit, error, begin=0):
        self.n_fit, self.error, self.n_batches, self.begin = n_fit, error, 0, begin
        self.sizes = []
        batch = Engine._batch

        def bounded(engine, rows):
            self.n_batches += 1
            self.sizes.append(engine.batch_size)
            if self.n_batches > self.begin and engine.batch_size > self.n_fit:
                raise self.error
            return batch(engine, rows)

        monkeypatch.setattr(Engine, "_batch", bounded)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_batch_is_halved_until_it_fits_when_memory_runs_out(
    extractor, monkeypatch, kind
):
    X = images(40)
    expected = extractor.fit_transform(X)
    memory = Full(monkeypatch, n_fit=8, error=OUT_OF_MEMORY[kind])
    with pytest.warns(BatchSizeWarning, match="32 images do not fit.*used 8") as caught:
        found = extractor.transform(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert memory.sizes == [32, 16, 8, 8, 8, 8, 8]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("begin", first_and_slow([8, *range(1, 8), *range(9, 20)]))
def test_numbers_are_those_of_the_smaller_batch_wherever_memory_runs_out(
    extractor, monkeypatch, begin
):
    X = images(40)
    smaller = extractor.set_params(batch_size=1).fit_transform(X)
    extractor.set_params(batch_size=2, cache="memory").fit(X)
    Full(monkeypatch, 1, OUT_OF_MEMORY["cuda"], begin)
    with pytest.warns(BatchSizeWarning):
        found = extractor.transform(X)
    assert np.array_equal(found, smaller)


def test_rows_kept_before_memory_ran_out_do_not_mix_with_later_ones(
    extractor, monkeypatch
):
    """What is kept carries the batch size that it was computed in."""
    X = images(2 * N_BLOCK + 88)
    extractor.set_params(cache="memory").fit(X)
    with monkeypatch.context() as patch:
        Full(patch, 16, OUT_OF_MEMORY["cuda"], begin=2 * N_BLOCK // 32 + 1)
        with pytest.warns(BatchSizeWarning):
            extractor.transform(X)
    memory = Full(monkeypatch, 32, OUT_OF_MEMORY["cuda"])
    extractor.transform(X)
    assert set(memory.sizes) == {32}
    assert len(memory.sizes) == 3  # two blocks had been kept


def test_a_batch_of_one_that_does_not_fit_is_an_error(extractor, monkeypatch):
    extractor.fit(images(3))
    Full(monkeypatch, 0, OUT_OF_MEMORY["cuda"])
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        extractor.transform(images(3))


def test_other_errors_of_the_network_are_not_taken_for_lack_of_memory(
    extractor, monkeypatch
):
    extractor.fit(images(4))
    memory = Full(monkeypatch, 0, RuntimeError("mat1 and mat2 have other shapes"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        extractor.transform(images(4))
    assert memory.sizes == [32]


def test_classifier_goes_on_with_smaller_batches_too(tiny_network, monkeypatch):
    clf = FineTunedCNNClassifier(
        tiny_network, image_size=8, strategy="linear_probe", cache=None
    )
    X, y = images(40), np.arange(40) % 2
    expected = clf.fit(X, y).predict_proba(X)
    Full(monkeypatch, 8, OUT_OF_MEMORY["cuda"])
    # Its own batch_size is that of training.
    with pytest.warns(BatchSizeWarning, match="Extractor with batch_size=8 starts"):
        found = clf.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_equal_images_in_neighbouring_blocks_are_computed_once(
    extractor, rows_computed
):
    X = np.concatenate([images(N_BLOCK), images(N_BLOCK), images(9, seed=1)])
    extractor.set_params(cache="memory").fit(X)
    rows_computed.clear()
    features = extractor.transform(X)
    assert sum(rows_computed) == N_BLOCK + 9
    assert np.array_equal(features[:N_BLOCK], features[N_BLOCK : 2 * N_BLOCK])


def test_unreadable_images_in_neighbouring_blocks_are_all_named(extractor):
    X = [encode(image) for image in images(2 * N_BLOCK)]
    X[3] = X[N_BLOCK + 3] = X[3][:-30]
    extractor.set_params(on_error="nan").fit(X)
    with pytest.warns(UserWarning, match=rf"row 3: .*\n.*row {N_BLOCK + 3}: "):
        features = extractor.transform(X)
    assert np.flatnonzero(np.isnan(features).any(axis=1)).tolist() == [3, N_BLOCK + 3]


def test_progress_shows_images_per_second_and_hits(extractor, capsys):
    X = images(300)
    extractor.set_params(cache="memory", verbose=1).fit(X[:100])
    extractor.transform(X[:100])
    capsys.readouterr()
    extractor.transform(X)
    shown = capsys.readouterr().err.replace("\r", "\n")
    last = shown.strip().splitlines()[-1]
    assert re.search(r"300/300 .* images/s, hits=100\]", last)


def test_nothing_is_shown_by_default(extractor, capfd):
    extractor.fit_transform(images(3))
    assert capfd.readouterr() == ("", "")


def test_cpu_takes_few_large_images_at_once_and_many_small_ones(monkeypatch):
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    memory = Full(monkeypatch, 1000, None)
    for size in (32, 224, 448, 900):
        extractor = PretrainedFeatureExtractor(network, image_size=size, device="cpu")
        extractor.fit_transform(images(4, size=8))
    sizes = [size for size in memory.sizes if size > 1]
    assert list(dict.fromkeys(sizes)) == [32, 8, 2]


def test_images_read_before_they_are_computed_are_bounded_in_bytes(
    tiny_network, monkeypatch, tmp_path
):
    """Or a block of large files would fill the memory."""
    monkeypatch.setattr("sktl._features.blocks.MAX_BYTES_READ", 2000)
    paths = [tmp_path / f"{n}.png" for n in range(200)]
    for path, pixels in zip(paths, images(200), strict=True):
        Image.fromarray(pixels).save(path)
    ahead, n_read, n_computed = [], 0, 0
    open_ = open

    def counting(path, *args, **kwargs):
        nonlocal n_read
        n_read += str(path).endswith(".png")
        return open_(path, *args, **kwargs)

    def look(layer, inputs, output):
        nonlocal n_computed
        ahead.append(n_read - n_computed)
        n_computed += len(output)

    monkeypatch.setattr("builtins.open", counting)

    tiny_network.conv1.register_forward_hook(look)
    extractor = PretrainedFeatureExtractor(
        tiny_network, image_size=8, batch_size=8, cache=None
    )
    extractor.fit(paths[:4])
    n_read = n_computed = 0
    ahead.clear()
    features = extractor.transform(paths)
    assert len(ahead) == 25
    assert 0 < max(ahead) <= 40
    monkeypatch.undo()
    assert np.array_equal(extractor.transform(paths), features)
