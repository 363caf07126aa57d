"""Device, precision, and batches of one size."""

import numpy as np
import pytest
import torch

from sktl._features.engine import Engine, make_engine, resolve_device, resolve_precision

CPU = torch.device("cpu")


class Recorder:
    """A network of two outputs that notes the shapes it is given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, batch):
        self.shapes.append(tuple(batch.shape))
        return batch * 2, batch.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("n_rows", [1, 4, 5, 8])
def test_every_batch_has_the_same_size(n_rows):
    rows = np.random.default_rng(0).random((n_rows, 3)).astype(np.float32)
    network = Recorder()
    doubled, sums = Engine(CPU, torch.float32, 4).run(network, rows)
    assert set(network.shapes) == {(4, 3)}
    assert np.array_equal(doubled, rows * 2)
    np.testing.assert_allclose(sums, rows.sum(axis=1, keepdims=True), rtol=1e-6)


def test_results_are_float32_whatever_the_precision():
    layer = torch.nn.Linear(3, 2)
    rows = np.ones((5, 3), np.float32)
    exact, coarse = (
        Engine(CPU, dtype, 4).run(lambda x: (layer(x),), rows)[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.dtype == coarse.dtype == np.float32
    assert 0 < np.abs(exact - coarse).max() < 0.02


def test_no_gradients_are_recorded():
    layer = torch.nn.Linear(3, 2)
    seen = []

    def network(batch):
        out = layer(batch)
        seen.append(out.requires_grad)
        return (out,)

    Engine(CPU, torch.float32, 2).run(network, np.ones((2, 3), np.float32))
    assert seen == [False]


def test_auto_device_is_the_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("has_amx", "expected"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_auto_precision_is_fast_where_the_cpu_has_matrix_units(
    monkeypatch, has_amx, expected
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)]
)
def test_auto_precision_on_cuda_follows_its_capability(
    monkeypatch, capability, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda", 0)) == expected


def test_unknown_precision_names_what_is_accepted():
    with pytest.raises(ValueError, match="precision='int8' must be one of 'auto'"):
        make_engine("cpu", "int8", 1)


def test_position_in_a_batch_changes_no_bit():
    """The assumption about torch that fixed-size batches rest on."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, stride=2)
    ).to(memory_format=torch.channels_last)
    image = np.random.default_rng(0).random((1, 3, 20, 20)).astype(np.float32)
    others = np.random.default_rng(1).random((7, 3, 20, 20)).astype(np.float32)
    engine = Engine(CPU, torch.float32, 8)
    outputs = [
        engine.run(lambda x: (network(x),), np.insert(others, place, image, axis=0))
        for place in (0, 3, 7)
    ]
    first, middle, last = (
        output[0][place] for output, place in zip(outputs, (0, 3, 7), strict=True)
    )
    assert np.array_equal(first, middle)
    assert np.array_equal(first, last)
