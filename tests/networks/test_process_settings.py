"""What a user sets for the whole process changes no number, and is left as it was."""

import multiprocessing
import threading

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor
from sktl._networks.kept import free_networks
from sktl._utils.torch_state import plain_torch, seeded


class _DefaultDtype:
    def __init__(self, dtype):
        self.dtype = dtype

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error):
        torch.set_default_dtype(self.before)


class _DefaultDevice:
    def __enter__(self):
        torch.set_default_device("meta")

    def __exit__(self, *error):
        torch.set_default_device(None)


SETTINGS = {
    "float64": lambda: _DefaultDtype(torch.float64),
    "bfloat16": lambda: _DefaultDtype(torch.bfloat16),
    "default device meta": _DefaultDevice,
    "context of the device meta": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def extract(images, backbone):
    """Features by a network that is built, traced, fused and placed on this call."""
    free_networks()
    extractor = PretrainedFeatureExtractor(
        backbone, weights=None, image_size=32, precision="float32", cache=None
    )
    return extractor.fit_transform(images)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("backbone", ["sktl_mini", "shufflenet_v2_x0_5"])
def test_features_are_the_same_under_a_setting_of_the_process(
    images, setting, backbone
):
    expected = extract(images, backbone)
    with setting():
        before = torch.get_default_dtype(), torch.get_default_device()
        found = extract(images, backbone)
        after = torch.get_default_dtype(), torch.get_default_device()
    assert np.array_equal(found, expected)
    assert after == before


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_networks_made_under_a_setting_serve_after_it(images, setting):
    """They are kept for the process, and a classifier trains copies of them."""
    free_networks()
    classifier = FineTunedCNNClassifier(
        "sktl_mini",
        strategy="full",
        max_epochs=1,
        batch_size=8,
        device="cpu",
        precision="float32",
        random_state=0,
        cache=None,
    )
    y = [0, 1] * 4
    expected = classifier.fit(images, y).predict_proba(images)
    free_networks()
    extractor = PretrainedFeatureExtractor(precision="float32", cache=None)
    plain = extractor.fit_transform(images)
    free_networks()
    with setting():
        extractor.fit_transform(images)
    assert np.array_equal(extractor.transform(images), plain)
    assert np.array_equal(classifier.fit(images, y).predict_proba(images), expected)


class _Precision(Callback):
    """Notes how the products of gradients are computed."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.seen = torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "ieee"), ("bfloat16", "tf32")]
)
def test_gradients_in_float32_are_computed_without_tf32(
    make, images, precision, expected
):
    """Fault 32."""
    callback = _Precision()
    classifier = make("full", precision=precision, callbacks=[("precision", callback)])
    classifier.fit(images, [0, 1] * 4)
    seen = dict(classifier.callbacks_)["precision"].seen
    assert (seen, torch.backends.cudnn.conv.fp32_precision) == (expected, "tf32")


@pytest.fixture
def two_cards(monkeypatch):
    """The generators of two cards that seem to be there, the second the current one."""
    generators = [torch.Generator().manual_seed(n) for n in (1, 2)]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda d: generators[d.index].get_state()
    )
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda s, d: generators[d.index].set_state(s)
    )
    return generators


@pytest.mark.parametrize("index", [0, 1])
def test_generator_of_the_card_in_use_is_seeded_and_put_back(two_cards, index):
    before = [generator.get_state() for generator in two_cards]
    with seeded(7, torch.device("cuda", index)):
        assert two_cards[index].initial_seed() == 7
        assert torch.equal(two_cards[1 - index].get_state(), before[1 - index])
        torch.rand(1, generator=two_cards[index])
    for generator, state in zip(two_cards, before, strict=True):
        assert torch.equal(generator.get_state(), state)


def test_generator_of_mps_is_seeded_and_put_back(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "state")
    monkeypatch.setattr(torch.mps, "set_rng_state", calls.append)
    monkeypatch.setattr(torch.mps, "manual_seed", calls.append)
    with seeded(7, torch.device("mps")):
        assert calls == [7]
    assert calls == [7, "state"]


def _transform(images, backbone, queue):
    queue.put(extract(images, backbone))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_computes_after_its_parent_has(images):
    """Neither OpenMP's threads nor those that hold a lock are there in a child.

    Fault 24.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    held, over = threading.Event(), threading.Event()

    def hold():
        with plain_torch():
            held.set()
            over.wait()

    try:
        expected = extract(images, "sktl_mini")
        other = threading.Thread(target=hold)
        other.start()
        held.wait()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_transform, args=(images, "sktl_mini", queue))
        child.start()
        found = queue.get(timeout=60)
        child.join()
    finally:
        over.set()
        other.join()
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
