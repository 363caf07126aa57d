"""Names to networks: plain torchvision is the oracle."""

import hashlib
import http.server
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torchvision.models import get_model, get_model_weights

import sktl
from sktl import PretrainedFeatureExtractor
from sktl._networks.backbones import load_backbone
from sktl._networks.kept import free_networks
from sktl._networks.names import named_architecture
from sktl._networks.weight_files import WeightsFile, local_file, read_file
from sktl.exceptions import (
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotAvailableError,
)
from tests.helpers import first_and_slow

# The layer that makes class scores, as torchvision's source has it.
HEADS = {
    "resnet18": "fc",
    "alexnet": "classifier.6",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "squeezenet1_1": "classifier.1",
    "efficientnet_b0": "classifier.1",
    "densenet121": "classifier",
    "shufflenet_v2_x0_5": "fc",
    "convnext_tiny": "classifier.2",
    "regnet_y_400mf": "fc",
    "googlenet": "fc",
}


@pytest.fixture(scope="module")
def images():
    """Three images of different sizes."""
    rng = np.random.default_rng(0)
    shapes = [(224, 224, 3), (250, 300, 3), (240, 230, 3)]
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


@pytest.fixture
def resnet_file(tmp_path):
    """A state dict of resnet18 with random weights that are not those of seed 0."""
    torch.manual_seed(7)
    path = tmp_path / "mine.pth"
    torch.save(get_model("resnet18", weights=None).state_dict(), path)
    return path


def plain_network(name):
    """As a torchvision user builds it; trained, so that norms are not the identity."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def plain_features(network, name, images):
    """What the head reads, caught by a hook, one image at a time."""
    preset = get_model_weights(name).DEFAULT.transforms()
    caught = []
    head = network.get_submodule(HEADS[name])
    head.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        for image in images:
            network(preset(Image.fromarray(image)).unsqueeze(0))
    rows = [x.mean((2, 3)) if x.ndim == 4 else x for x in caught]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("name", first_and_slow(HEADS))
def test_features_equal_plain_torchvision(name, images, tmp_path):
    network = plain_network(name)
    expected = plain_features(network, name, images)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_model(network, path)
    extractor = PretrainedFeatureExtractor(
        name, weights=path, batch_size=3, precision="float32", cache=None
    )
    features = extractor.fit_transform(images)
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.slow
def test_published_googlenet_undoes_its_other_normalisation(
    images, tmp_path, monkeypatch
):
    """torchvision sets `transform_input` when it loads the published weights."""
    network = plain_network("googlenet")
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_model(network, path)
    network.transform_input = True
    expected = plain_features(network, "googlenet", images[:1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = WeightsFile(Path("googlenet.pth"), digest[:8], "http://127.0.0.1/none")
    files = named_architecture("googlenet").files
    monkeypatch.setitem(files, "IMAGENET1K_V1", file)
    extractor = PretrainedFeatureExtractor(
        "googlenet", weights=path, batch_size=1, precision="float32", cache=None
    )
    features = extractor.fit_transform(images[:1])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_weights_none_are_those_of_seed_zero(images):
    """Random weights too are a matter of parameters, not of what ran before."""
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None).eval()
    torch.manual_seed(99)
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=None, batch_size=1, precision="float32"
    )
    features = extractor.fit_transform(images[:1])
    expected = plain_features(network, "resnet18", images[:1])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load_backbone("shufflenet_v2_x0_5", None, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_image_size_leaves_square_images_of_that_size_as_they_are():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=None, image_size=64, batch_size=1, precision="float32"
    )
    features = extractor.fit_transform(image[None])
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None).eval()
    network.fc = torch.nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)
    with torch.no_grad():
        expected = network(image[None]).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_weights_from_pth_and_safetensors_are_the_same(resnet_file, tmp_path):
    state = torch.load(resnet_file, weights_only=True)
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(state, path)
    assert (
        load_backbone("resnet18", resnet_file).digest
        == load_backbone("resnet18", str(path)).digest
        != load_backbone("resnet18", None).digest
    )


def test_edited_weights_file_is_a_new_network(resnet_file):
    """Fault 17."""
    before = load_backbone("resnet18", resnet_file).digest
    state = torch.load(resnet_file, weights_only=True)
    state["conv1.weight"][0, 0, 0, 0] += 1
    torch.save(state, resnet_file)
    assert load_backbone("resnet18", resnet_file).digest != before


def test_weights_of_another_number_of_classes_lose_their_head(tmp_path):
    """The usual file of a fine-tuned network: a fine backbone, another head."""
    path = tmp_path / "ten.pth"
    torch.save(get_model("resnet18", weights=None, num_classes=10).state_dict(), path)
    assert load_backbone("resnet18", path).network.cuts[-1] == "flatten"


@pytest.mark.slow
def test_weights_of_another_architecture_are_refused_in_words(resnet_file):
    with pytest.raises(WeightsMismatchError) as caught:
        load_backbone("resnet34", resnet_file)
    message = str(caught.value)
    assert "missing tensors" in message
    assert "layer1.2" in message
    path = resnet_file.with_name("other.pth")
    torch.save(get_model("resnet50", weights=None).state_dict(), path)
    expected = r"layer1\.0\.bn1\.bias is \(64,\) in the file, \(128,\) here"
    with pytest.raises(WeightsMismatchError, match=expected):
        load_backbone("wide_resnet50_2", path)


def test_code_in_a_weights_file_does_not_run(tmp_path):
    """Fault 18."""

    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "planted.pth"
    torch.save({"conv1.weight": Planted()}, path)
    with pytest.raises(WeightsMismatchError, match="not a readable state dict"):
        load_backbone("resnet18", path)
    assert not (tmp_path / "ran").exists()


def test_list_backbones_is_what_ships_and_what_torchvision_has():
    names = sktl.list_backbones()
    assert names[:2] == ["sktl_mini", "sktl_photo"]
    assert set(HEADS) < set(names)
    assert len(names) == len(set(names))


def test_long_name_of_a_network_gives_a_short_message():
    with pytest.raises(
        UnknownBackboneError, match="backbone='xxx.*xxx' is not"
    ) as error:
        load_backbone("x" * 10_000)
    assert len(str(error.value)) < 1000


def test_layer_names_of_a_given_network(tiny_network):
    names = sktl.layer_names(tiny_network)
    assert names == [name for name, _ in tiny_network.named_children()]


def test_threads_get_the_network_of_their_seed():
    """Random weights come from one generator per process."""
    expected = load_backbone("sktl_mini", None, seed=11).digest
    free_networks()
    with ThreadPoolExecutor(4) as threads:
        noise = threads.submit(
            lambda: [load_backbone("sktl_mini", None, seed=i) for i in range(12, 18)]
        )
        found = list(
            threads.map(
                lambda _: load_backbone("sktl_mini", None, seed=11).digest, range(6)
            )
        )
        noise.result()
    assert set(found) == {expected}


# ---- downloads, from a server on this machine


@pytest.fixture
def server(tmp_path):
    """Serve a folder on 127.0.0.1; gives the folder and the server's address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=folder, **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def hub(tmp_path):
    """A hub directory of this test's own."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def served_file(server, content, sha256):
    folder, address = server
    (folder / "net.pth").write_bytes(content)
    return WeightsFile(Path("net.pth"), sha256, f"{address}/net.pth")


def test_download_goes_to_the_hub_directory_once(server, hub):
    content = b"weights"
    sha256 = hashlib.sha256(content).hexdigest()[:8]
    file = served_file(server, content, sha256)
    local = local_file(file)
    (server[0] / "net.pth").unlink()
    assert local.path == hub / "net.pth"
    assert local_file(file).path.read_bytes() == content
    assert read_file(local)[0].startswith(sha256)
    assert [p.name for p in hub.iterdir()] == ["net.pth"]


def test_download_with_a_wrong_digest_leaves_no_file(server, hub):
    file = served_file(server, b"tampered", "00000000")
    with pytest.raises(WeightsNotAvailableError, match="put that file into"):
        local_file(file)
    assert list(hub.iterdir()) == []


def test_truncated_download_is_refused_and_leaves_no_file(hub):
    """Fault 34."""
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()[:8]

    class Truncating(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:1000])

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Truncating) as running:
        threading.Thread(target=running.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/net.pth"
        with pytest.raises(WeightsNotAvailableError, match=r"net\.pth could not be"):
            local_file(WeightsFile(Path("net.pth"), digest, url))
    assert list(hub.iterdir()) == []


def test_download_without_server_names_file_url_and_directory(hub):
    """Fault 34."""
    file = WeightsFile(Path("net.pth"), "00000000", "http://127.0.0.1:9/net.pth")
    with pytest.raises(WeightsNotAvailableError) as caught:
        local_file(file)
    for part in ("net.pth", file.url, str(hub)):
        assert part in str(caught.value)


def test_shipped_file_that_is_damaged_is_not_said_to_be_downloaded(tmp_path):
    (tmp_path / "sktl_mini.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsNotAvailableError, match="install sktl again"):
        read_file(WeightsFile(tmp_path / "sktl_mini.safetensors", "0" * 64))


def test_stock_file_damaged_after_download_is_refused_at_load(hub):
    """Fault 16."""
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(b"damaged")
    with pytest.raises(WeightsNotAvailableError, match="expected 00000000"):
        read_file(WeightsFile(hub / "net.pth", "00000000"))
