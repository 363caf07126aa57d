"""Device, precision, and batches of one size."""

import copy
import json
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from sktl._features import engine
from sktl._features.engine import (
    Engine,
    is_of_device,
    is_out_of_memory,
    make_engine,
    resolve_device,
    resolve_precision,
)
from sktl._features.pixel_network import place
from sktl._networks.backbones import load_backbone
from tests.helpers import first_and_slow

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
    monkeypatch.setattr(engine, "_computes", lambda device: True)
    assert resolve_device("auto") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


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
    exact = Engine(CPU, torch.float32, 8)
    outputs = [
        exact.run(lambda x: (network(x),), np.insert(others, place, image, axis=0))
        for place in (0, 3, 7)
    ]
    first, middle, last = (
        output[0][place] for output, place in zip(outputs, (0, 3, 7), strict=True)
    )
    assert np.array_equal(first, middle)
    assert np.array_equal(first, last)


# ---- cards, on a machine that may have none


@pytest.fixture
def cards(monkeypatch):
    """Three cards that seem to be there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(engine, "_computes", lambda device: True)


@pytest.mark.parametrize(
    ("process", "index"),
    [("LokyProcess-1", 0), ("LokyProcess-2", 1), ("ForkPoolWorker-5", 1), ("job", 0)],
)
def test_auto_device_gives_the_workers_of_a_pool_the_cards_in_turn(
    cards, monkeypatch, process, index
):
    monkeypatch.setattr("multiprocessing.parent_process", lambda: "another process")
    monkeypatch.setattr(
        "multiprocessing.current_process", lambda: SimpleNamespace(name=process)
    )
    assert resolve_device("auto") == torch.device("cuda", index)


def test_auto_device_in_the_main_process_is_the_current_card(cards, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 2)


def test_auto_device_that_does_not_compute_is_not_chosen_in_silence(monkeypatch):
    """A card for which this torch has no code is there, and fails at every kernel."""

    def no_kernel(*args, **kwargs):
        raise torch.AcceleratorError("CUDA error: no kernel image is available")

    engine._computes.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.warns(UserWarning, match="no kernel image is available.*the CPU is"):
        assert resolve_device("auto") == CPU
    engine._computes.cache_clear()


def test_a_device_by_name_gets_its_index():
    """Or generators of card 0 are seeded while those of the current one are saved."""
    with FakeTensorMode():
        assert resolve_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (torch.AcceleratorError("CUDA error: no kernel image is available"), False),
        (RuntimeError("f does not have a deterministic implementation"), False),
    ],
)
def test_errors_of_the_device_are_not_taken_for_errors_of_the_images(error, is_memory):
    assert is_out_of_memory(error) == is_memory
    assert is_of_device(error)


def test_error_of_a_shape_is_not_taken_for_one_of_the_device():
    layer = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(RuntimeError) as caught:
        layer(torch.zeros(1, 1, 8, 8))
    assert not is_of_device(caught.value)


def test_outputs_are_fetched_by_batches():
    """Else a block of maps stays on the device, and smaller batches do not help."""
    alive = []

    def network(batch):
        alive.append(weakref.ref(output := batch * 2))
        n_alive = sum(ref() is not None for ref in alive)
        assert n_alive <= 2
        return (output.clone(),)

    rows = np.ones((40, 3), np.float32)
    assert len(Engine(CPU, torch.float32, 4).run(network, rows)[0]) == 40


PRECISIONS = {
    "cudnn": torch.backends.cudnn,
    "convolution": torch.backends.cudnn.conv,
    "product": torch.backends.cuda.matmul,
    "convolution on a CPU": torch.backends.mkldnn.conv,
    "product on a CPU": torch.backends.mkldnn.matmul,
}


@pytest.fixture
def precisions():
    """Settings of float32's products, put back after the test."""
    before = {name: part.fp32_precision for name, part in PRECISIONS.items()}
    yield lambda: {name: part.fp32_precision for name, part in PRECISIONS.items()}
    torch.set_float32_matmul_precision("highest")
    for name, precision in before.items():
        if PRECISIONS[name].fp32_precision != precision:
            PRECISIONS[name].fp32_precision = precision


@pytest.mark.parametrize(
    "setting",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ],
)
def test_float32_computes_without_tf32_and_leaves_the_settings(precisions, setting):
    setting()
    before, during = precisions(), []

    def network(batch):
        during.append(precisions())
        return (batch,)

    Engine(CPU, torch.float32, 2).run(network, np.ones((2, 3), np.float32))
    assert precisions() == before
    parts = [v for name, v in during[0].items() if name != "cudnn"]
    assert set(parts) <= {"ieee", "none"}


def test_products_of_a_user_are_exact_where_torch_rounds_them_on_request(precisions):
    """On CPUs "medium" computes products of float32 in bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 256).requires_grad_(False)
    rows = np.random.default_rng(0).random((64, 256)).astype(np.float32)
    exact = Engine(CPU, torch.float32, 64)
    expected = exact.run(lambda x: (layer(x),), rows)[0]
    torch.set_float32_matmul_precision("medium")
    assert np.array_equal(exact.run(lambda x: (layer(x),), rows)[0], expected)


@pytest.mark.parametrize(
    ("device", "flag"),
    [
        ("cpu", lambda: torch.backends.mkldnn.flags(enabled=False)),
        ("cuda", lambda: torch.backends.cudnn.flags(enabled=False)),
        ("cuda", lambda: torch.backends.cudnn.flags(enabled=True, benchmark=True)),
        ("cuda", lambda: torch.backends.cudnn.flags(enabled=True, deterministic=True)),
    ],
)
def test_numerics_differ_under_each_flag(monkeypatch, device, flag):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    there = Engine(torch.device(device), torch.float32, 4)
    before = there.numerics()
    with flag():
        assert there.numerics() != before
    assert there.numerics() == before == json.loads(json.dumps(before))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_numerics_tell_cards_precisions_and_determinism_apart(monkeypatch):
    there = Engine(torch.device("cuda", 0), torch.bfloat16, 4)
    seen = []
    for name in ("an old card", "a new card"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, n=name: n)
        seen.append(there.numerics())
    seen.append(replace(there, dtype=torch.float16).numerics())
    torch.use_deterministic_algorithms(True)
    try:
        seen.append(there.numerics())
    finally:
        torch.use_deterministic_algorithms(False)
    assert len({json.dumps(fields) for fields in seen}) == 4


class NoRoundTrip(TorchFunctionMode):
    """Refuses whatever makes the host wait for the device, or sends it numbers."""

    refused = (
        torch.Tensor.item,
        torch.Tensor.cpu,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.new_tensor,
        torch.Tensor.__bool__,
        torch.tensor,
    )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in self.refused, function
        return function(*args, **kwargs or {})


def placed(name):
    """The frozen prefix of a network as it runs, and its images."""
    backbone = load_backbone(name, None)
    network, prep = backbone.network, backbone.preprocessing
    cuts = network.cuts[3], network.penultimate
    module = place(
        network, cuts, prep.mean, prep.std, ("avg", "avg"), CPU, torch.float32
    )
    side = prep.geometry.crop
    return module, torch.zeros(2, side, side, 3, dtype=torch.uint8)


@pytest.mark.parametrize("name", first_and_slow(["resnet18", "vit_b_16"]))
def test_placed_network_does_not_wait_for_the_host(name):
    module, pixels = placed(name)
    with torch.inference_mode(), NoRoundTrip():
        assert len(module(pixels)) == 2


@pytest.mark.parametrize("name", first_and_slow(["resnet18", "vit_b_16", "swin_t"]))
def test_placed_network_moves_whole_to_a_card(name):
    """A weight or a constant that stayed behind is an error, on a card that is not."""
    module, pixels = placed(name)
    module = copy.deepcopy(module)
    card = torch.device("cuda", 0)
    with FakeTensorMode() as mode:
        for layer in module.modules():
            for tensors in (layer._parameters, layer._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:  # as Module.to moves them
                        tensors[key] = mode.from_tensor(tensor).to(card)
        outputs = module(mode.from_tensor(pixels).to(card))
    assert {output.device for output in outputs} == {card}
