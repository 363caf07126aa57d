"""Networks of timm by name, with weights from a server that stands for the hub."""

import hashlib
import os
import re
import subprocess
import sys
import textwrap
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

timm = pytest.importorskip("timm")
hub = pytest.importorskip("huggingface_hub")
from safetensors.torch import save, save_file  # noqa: E402

from sktl import (  # noqa: E402
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    list_backbones,
)
from sktl._networks.kept import free_networks  # noqa: E402
from sktl.exceptions import (  # noqa: E402
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotAvailableError,
)
from tests.helpers import first_and_slow, timm_features  # noqa: E402

NAME = "test_resnet.r160_in1k"  # 0.5 million parameters
SMALL = {"precision": "float32", "cache": None, "batch_size": 2}


@pytest.fixture
def network():
    torch.manual_seed(7)
    return timm.create_model(NAME).eval()


class FakeHub(ThreadingHTTPServer):
    """Answers as huggingface.co does for files, and counts the questions."""

    def __init__(self, files, sha256=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.sha256, self.questions = files, sha256, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_content=False)

    def do_GET(self):
        self.answer(with_content=True)

    def answer(self, with_content):
        self.server.questions.append((self.command, self.path))
        content = self.server.files.get(self.path.rpartition("/")[2])
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        content = content or b""
        digest = self.server.sha256 or hashlib.sha256(content).hexdigest()
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", "0123456789abcdef" * 2 + "01234567")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def start_hub(monkeypatch, tmp_path):
    """Start a hub with these files; its cache is empty, and so is the process's."""
    servers = []

    def start(files, **settings):
        server = FakeHub(files, **settings)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return server

    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # Else it asks huggingface.co what to call itself (huggingface_hub 2.4).
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    free_networks()
    yield start
    free_networks()
    for server in servers:
        server.shutdown()
        server.server_close()


def images(n=3, side=160):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


@pytest.mark.parametrize(
    "file", first_and_slow(["model.safetensors", "pytorch_model.bin"])
)
def test_named_weights_come_from_the_hub_once(
    file, network, start_hub, tmp_path, capsys
):
    torch.save(network.state_dict(), tmp_path / "saved")
    as_pickle = (tmp_path / "saved").read_bytes()
    content = save(network.state_dict()) if "safe" in file else as_pickle
    server = start_hub({file: content})
    extractor = PretrainedFeatureExtractor(f"timm/{NAME}", **SMALL)

    features = extractor.fit_transform(images())

    np.testing.assert_allclose(features, timm_features(network, images()), atol=1e-4)
    assert extractor.weights_license_ == "apache-2.0"
    assert extractor.weights_source_ == f"https://huggingface.co/timm/{NAME}"
    assert extractor.preprocessing_.crop == 160
    assert ("GET", f"/timm/{NAME}/resolve/main/{file}") in server.questions
    free_networks()
    n_questions = len(server.questions)
    again = PretrainedFeatureExtractor(f"timm/{NAME}", **SMALL).fit(images())
    assert again.network_digest_ == extractor.network_digest_
    assert len(server.questions) == n_questions, "what lies in the cache is used"


@pytest.mark.slow
def test_endpoint_of_the_environment_is_asked_and_the_licence_printed_once(
    network, start_hub, tmp_path
):
    server = start_hub({"model.safetensors": save(network.state_dict())})
    code = f"""
        import numpy as np
        from sktl import PretrainedFeatureExtractor
        for _ in range(2):
            PretrainedFeatureExtractor("timm/{NAME}").fit(np.zeros((4, 32, 32, 3)))
    """
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    settings["HF_HUB_DISABLE_TELEMETRY"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    told = f"Weights of timm/{NAME}: licence apache-2.0, from https://huggingface.co"
    assert done.stderr.count(told) == 1
    assert done.stdout == ""


def test_hub_that_is_not_there_is_named_like_any_other_server(start_hub, monkeypatch):
    # It asks five times, and waits longer each time (huggingface_hub/utils/_http.py).
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server = start_hub({})
    server.shutdown()
    server.server_close()
    with pytest.raises(
        WeightsNotAvailableError,
        match=f"huggingface.co/timm/{NAME}.*offline.*'sktl_mini' or 'sktl_photo'",
    ):
        PretrainedFeatureExtractor(f"timm/{NAME}").fit(images())


def test_file_that_is_not_on_the_hub_is_a_named_error(start_hub):
    start_hub({})
    with pytest.raises(WeightsNotAvailableError, match=r"model\.safetensors could not"):
        PretrainedFeatureExtractor(f"timm/{NAME}").fit(images())


def test_file_that_is_not_what_the_hub_says_is_refused(network, start_hub):
    content = save(network.state_dict())
    start_hub({"model.safetensors": content}, sha256="0" * 64)
    with pytest.raises(WeightsNotAvailableError, match="not as published"):
        PretrainedFeatureExtractor(f"timm/{NAME}").fit(images())


def test_damaged_file_of_the_hub_is_downloaded_again_once_deleted(network, start_hub):
    """The file that the message names, to which the hub's own cache only links."""
    start_hub({"model.safetensors": save(network.state_dict())})
    extractor = PretrainedFeatureExtractor(f"timm/{NAME}", **SMALL).fit(images())
    digest = extractor.network_digest_
    (link,) = Path(hub.constants.HF_HUB_CACHE).glob("**/model.safetensors")
    link.resolve().write_bytes(b"damaged")
    free_networks()
    with pytest.raises(WeightsNotAvailableError, match="delete it, and it") as caught:
        extractor.fit(images())
    Path(re.search(r"The weights in (\S+) are", str(caught.value))[1]).unlink()
    assert extractor.fit(images()).network_digest_ == digest


def test_published_tensors_are_brought_into_the_form_of_the_network(start_hub):
    """timm's own filters do that: here from the names that OpenCLIP gives them."""
    name = "test_vit.r160_in1k"
    torch.manual_seed(7)
    vit = timm.create_model(name).eval()
    published = {f"visual.trunk.{k}": v for k, v in vit.state_dict().items()}
    start_hub({"model.safetensors": save(published)})
    extractor = PretrainedFeatureExtractor(f"timm/{name}", **SMALL)

    features = extractor.fit_transform(images())

    np.testing.assert_allclose(features, timm_features(vit, images()), atol=1e-4)


def test_local_file_and_random_weights_need_no_hub(network, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), path)

    mine = PretrainedFeatureExtractor(f"timm/{NAME}", weights=path, **SMALL)
    random = PretrainedFeatureExtractor(f"timm/{NAME}", weights=None, **SMALL)

    with pytest.warns(UserWarning, match="not published weights"):
        features = mine.fit_transform(images())
    np.testing.assert_allclose(features, timm_features(network, images()), atol=1e-4)
    assert mine.weights_license_ is None
    torch.manual_seed(0)
    untrained = timm.create_model(NAME).eval()
    np.testing.assert_allclose(
        random.fit_transform(images()), timm_features(untrained, images()), atol=1e-4
    )


def test_classifier_of_a_timm_network_is_saved_with_its_licence(
    network, start_hub, tmp_path
):
    start_hub({"model.safetensors": save(network.state_dict())})
    X, y = images(6), [0, 1, 0, 1, 0, 1]
    clf = FineTunedCNNClassifier(
        f"timm/{NAME}", strategy="linear_probe", image_size=64, random_state=0
    )
    clf.fit(X, y).save(tmp_path / "model")

    start_hub({})
    loaded = FineTunedCNNClassifier.load(tmp_path / "model")

    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.weights_license_ == clf.weights_license_ == "apache-2.0"
    assert loaded.weights_source_ == f"https://huggingface.co/timm/{NAME}"


def test_list_backbones_lists_the_networks_and_weights_of_timm():
    names = list_backbones("timm")
    assert names == [f"timm/{n}" for n in timm.list_models()]
    weights = list_backbones("timm", pretrained=True, filter="convnext_atto*")
    assert "timm/convnext_atto.d2_in1k" in weights
    assert weights == list_backbones(
        "timm", pretrained=True, filter="timm/convnext_atto*"
    )
    assert not {n for n in list_backbones() if n.startswith("timm/")}
    assert list_backbones("torchvision", filter="alex*") == ["alexnet"]
    with pytest.raises(ValueError, match=r"module='keras'.*'torchvision', 'timm'"):
        list_backbones("keras")


def test_unknown_timm_name_suggests_others():
    with pytest.raises(UnknownBackboneError, match=r"timm/resnet50\.a1_in1k"):
        PretrainedFeatureExtractor("timm/resnet50.a1_ink").fit(images())
    with pytest.raises(WeightsMismatchError, match=r"weights='V9' is not known"):
        PretrainedFeatureExtractor(f"timm/{NAME}", weights="V9").fit(images())


def test_missing_timm_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install timm"):
        list_backbones("timm")
