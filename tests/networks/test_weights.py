"""Weights: what a file, a state dict or a server may give, and what is refused."""

import contextlib
import hashlib
import os
import pickle
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torchvision.models import get_model

from sktl import PretrainedFeatureExtractor
from sktl._networks import weight_files
from sktl._networks.backbones import load_backbone
from sktl._networks.names import named_architecture
from sktl._networks.weight_files import WeightsFile, local_file
from sktl._utils import file_state
from sktl.exceptions import WeightsMismatchError, WeightsNotAvailableError
from tests.helpers import first_and_slow


@pytest.fixture(scope="module")
def state():
    """The state dict of a small network of torchvision with random weights."""
    torch.manual_seed(7)
    return get_model("shufflenet_v2_x0_5", weights=None).state_dict()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def make(weights, **params):
    """An extractor of small images that keeps nothing."""
    defaults = {"image_size": 32, "precision": "float32", "cache": None}
    return PretrainedFeatureExtractor(
        "shufflenet_v2_x0_5", weights=weights, **defaults | params
    )


# ---- state dicts


def test_state_dict_gives_what_its_file_gives(state, images, tmp_path):
    torch.save(state, tmp_path / "mine.pth")
    expected = make(tmp_path / "mine.pth").fit_transform(images)
    assert np.array_equal(make(state).fit_transform(images), expected)


def test_state_dict_survives_clone_and_pickle(state, images):
    fitted = make(state).fit(images)
    expected = fitted.transform(images)
    copies = clone(fitted).fit(images), pickle.loads(pickle.dumps(fitted))
    for copied in copies:
        assert np.array_equal(copied.transform(images), expected)


@pytest.mark.slow
def test_state_dicts_are_swept_by_a_grid_search(state, images):
    other = {k: v * 1.5 if k == "conv1.0.weight" else v for k, v in state.items()}
    model = make_pipeline(make(state), LogisticRegression())
    name = "pretrainedfeatureextractor__weights"
    search = GridSearchCV(model, {name: [state, other]}, cv=3, error_score="raise")
    search.fit(images, [0, 1, 2] * 3)
    assert len(search.cv_results_["params"]) == 2


def test_state_dict_changed_in_place_is_another_network(state):
    mine = {name: tensor.clone() for name, tensor in state.items()}
    before = load_backbone("shufflenet_v2_x0_5", mine).digest
    mine["conv1.0.weight"].data[0, 0, 0, 0] += 1
    assert load_backbone("shufflenet_v2_x0_5", mine).digest != before


def test_state_dict_of_another_network_is_refused_in_few_words():
    with pytest.raises(WeightsMismatchError, match="missing tensors") as caught:
        make(get_model("resnet18", weights=None).state_dict()).fit(
            np.zeros((4, 32, 32, 3), np.uint8)
        )
    assert len(str(caught.value)) < 1000


def test_weights_that_are_whole_numbers_are_refused(state):
    quantised = {k: v.to(torch.int8) if v.ndim == 4 else v for k, v in state.items()}
    with pytest.raises(WeightsMismatchError, match="whole numbers.*conv1.0.weight"):
        load_backbone("shufflenet_v2_x0_5", quantised)


WRAPPED = {
    "under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "under model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "of torch.compile": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "of DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "of Lightning": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()}
    },
    "of a larger module": lambda state: {
        **{f"module.backbone.{k}": v for k, v in state.items() if "fc" not in k},
        "module.head.weight": torch.zeros(3, 1024),
    },
    "beside a head that is named as the network's own": lambda state: {
        **{f"backbone.{k}": v for k, v in state.items() if "fc" not in k},
        "fc.weight": torch.zeros(3, 1024),
    },
    "of Lightning, under a name of the user's": lambda state: {
        "state_dict": {f"net.cnn.{k}": v for k, v in state.items()},
        "hyper_parameters": {"lr": 0.1},
    },
    "under a name of the user's": lambda state: {
        "net": state,
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{}]},
        "accuracy": 0.9,
    },
    "wrapped twice": lambda state: {"model": {"weights": state}},
}


@pytest.mark.parametrize("wrap", first_and_slow(WRAPPED.values()), ids=WRAPPED)
@pytest.mark.parametrize("as_file", [True, False])
def test_state_dict_is_found_in_what_is_around_it(
    state, images, tmp_path, wrap, as_file
):
    weights = wrap(state)
    if as_file:
        torch.save(weights, tmp_path / "wrapped.pth")
        weights = tmp_path / "wrapped.pth"
    expected = make(state).fit_transform(images)
    assert np.array_equal(make(weights).fit_transform(images), expected)


def test_one_of_several_state_dicts_has_to_be_chosen(state):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    twice = {f"{name}.{k}": v for name in ("query", "key") for k, v in state.items()}
    with pytest.raises(WeightsMismatchError, match=r"under 'query\.' and 'key\.'"):
        make(twice).fit(images)
    with pytest.raises(WeightsMismatchError, match=r"torch\.load\(path\)\['student'\]"):
        make({"student": state, "teacher": state, "epoch": 3}).fit(images)


def test_state_dict_that_holds_itself_is_refused():
    state = {}
    state["model"] = state
    with pytest.raises(WeightsMismatchError, match="is not a state dict"):
        make(state).fit(np.zeros((4, 32, 32, 3), np.uint8))


def test_weights_are_known_by_the_full_name_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weight_files, "urlopen", _no_server)
    with pytest.raises(WeightsNotAvailableError, match="resnet18-f37072fd"):
        load_backbone("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    with pytest.raises(WeightsMismatchError, match="Accepted: 'IMAGENET1K_V1'"):
        load_backbone("resnet18", "ResNet50_Weights.IMAGENET1K_V1")


def _no_server(*args, **kwargs):
    raise ConnectionRefusedError("no server")


# ---- numbers and tensors that no network can have


def with_tensor(state, change, name="conv1.0.weight"):
    return state | {name: change(state[name].clone())}


IMPOSSIBLE = {
    "NaN": lambda state: with_tensor(state, lambda t: t.fill_(torch.nan)),
    "one NaN": lambda state: with_tensor(
        state, lambda t: t.index_fill_(0, torch.tensor(3), torch.nan)
    ),
    "infinity": lambda state: with_tensor(state, lambda t: t.fill_(torch.inf)),
    "infinity in float32": lambda state: with_tensor(
        state, lambda t: t.double() + 1e300
    ),
    "a negative variance": lambda state: with_tensor(
        state, lambda t: t.sub_(2), "conv1.1.running_var"
    ),
    "no tensors": lambda state: state | {"conv1.0.weight": "numbers"},
    "an array": lambda state: state | {"conv1.0.weight": np.zeros(3)},
    "None": lambda state: state | {"conv1.0.weight": None},
    "a sparse tensor": lambda state: with_tensor(state, torch.Tensor.to_sparse),
    "a tensor without numbers": lambda state: with_tensor(
        state, lambda t: t.to("meta")
    ),
    "a quantised tensor": lambda state: with_tensor(
        state, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)
    ),
    "complex numbers": lambda state: with_tensor(
        state, lambda t: t.to(torch.complex64)
    ),
    "a list": lambda state: list(state.items()),
    "a tensor": lambda state: state["conv1.0.weight"],
    "nothing": lambda state: {},
    "names that are no text": lambda state: dict(enumerate(state.values())),
    "a name with NUL": lambda state: state | {"conv1\0": torch.zeros(2)},
}


@pytest.mark.parametrize("change", first_and_slow(IMPOSSIBLE.values()), ids=IMPOSSIBLE)
@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_weights_that_cannot_be_are_refused_by_name(state, tmp_path, change):
    weights = change(state)
    torch.save(weights, tmp_path / "odd.pth")
    for given in (weights, tmp_path / "odd.pth"):
        with pytest.raises(WeightsMismatchError) as caught:
            load_backbone("shufflenet_v2_x0_5", given)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [torch.nan, -2.0])
def test_given_network_with_numbers_that_cannot_be_is_refused(tiny_network, value):
    tiny_network.bn1.running_var.fill_(value)
    with pytest.raises(WeightsMismatchError, match=r"bn1\.running_var"):
        load_backbone(tiny_network)


def test_long_value_as_weights_gives_a_short_message():
    for weights in (["x" * 200_000], "x" * 200_000, np.zeros((300, 300))):
        with pytest.raises(WeightsMismatchError) as caught:
            load_backbone("resnet18", weights)
        assert len(str(caught.value)) < 500


# ---- files


@pytest.mark.parametrize(
    "said",
    first_and_slow(["no JSON", "null", '{"crop": 32}', '{"crop": -1}', "[" * 100_000]),
)
def test_file_that_garbles_how_images_are_prepared_is_refused(state, tmp_path, said):
    path = tmp_path / "mine.safetensors"
    of_others = {"preprocessing": said}
    safetensors.torch.save_file(state, path, of_others)
    make(path).fit(np.zeros((4, 8, 8, 3)))
    for by_sktl in ("0.1.0", "{}"):  # of save_backbone and of save
        safetensors.torch.save_file(state, path, of_others | {"sktl": by_sktl})
        with pytest.raises(WeightsMismatchError, match="describe how images are prep"):
            make(path).fit(np.zeros((4, 8, 8, 3)))


def test_home_directory_is_expanded(state, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    home = load_backbone("shufflenet_v2_x0_5", "~/mine.safetensors")
    assert home.digest == load_backbone("shufflenet_v2_x0_5", state).digest


def test_weights_that_are_missing_are_told_where_they_were_looked_for(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    said = re.escape(f"(seen from {tmp_path}). Pass the path")
    with pytest.raises(WeightsNotAvailableError, match=said):
        load_backbone("resnet18", "none.safetensors")


def test_path_that_is_no_name_of_a_file_is_refused():
    with pytest.raises(WeightsMismatchError, match="not the name of a file"):
        load_backbone("resnet18", "weights\0.pth")


@pytest.mark.parametrize("path", ["folder.pth", "~nobody-of-this-name/weights.pth"])
def test_path_without_a_file_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("folder.pth").mkdir()
    with pytest.raises(WeightsNotAvailableError, match="could not be read"):
        load_backbone("resnet18", path)


@pytest.mark.parametrize(
    "url",
    [
        "https://x.org/a.pth",
        "https://x.org/a.pth?download=true",
        "file:///home/me/a.safetensors",
        "hf://owner/name",
        Path("https://x.org/a.pth"),
    ],
)
def test_url_in_place_of_a_path_is_named(url):
    message = re.escape(f"weights={str(url)!r} ") + ".*it is a URL.*download it"
    with pytest.raises(WeightsNotAvailableError, match=message):
        load_backbone("resnet18", url)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_as_weights_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsNotAvailableError, match="not a file"):
        load_backbone("resnet18", tmp_path / "pipe.pth")


@pytest.fixture
def hashed(monkeypatch):
    """The lengths of what is hashed, in turn."""
    lengths, sha256 = [], hashlib.sha256

    def counting(content=b"", **kwargs):
        lengths.append(len(content))
        return sha256(content, **kwargs)

    monkeypatch.setattr(weight_files.hashlib, "sha256", counting)
    return lengths


def test_weights_file_is_read_once_until_it_changes(
    state, images, tmp_path, hashed, monkeypatch
):
    monkeypatch.setattr(file_state, "CLOCK_TICK", 1e8)  # ns; spares the test 2 s
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(state, path)
    os.utime(path, ns=(10**18, 10**18))
    size = path.stat().st_size
    time.sleep(0.2)  # what was changed just now is read again
    extractor = make(path).fit(images)
    first = extractor.transform(images)
    extractor.transform(images)
    assert hashed.count(size) == 1
    changed = {k: v + 1 if k == "conv5.0.weight" else v for k, v in state.items()}
    safetensors.torch.save_file(changed, path)
    os.utime(path, ns=(10**18, 10**18))  # as old and as long as the one before
    assert not np.array_equal(make(path).fit_transform(images), first)
    assert hashed.count(size) > 1


# ---- servers


def answer(status="HTTP/1.1 200 OK", headers=(), body=b""):
    lines = [status, *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


CONTENT = b"weights" * 100
LENGTH = f"Content-Length: {len(CONTENT)}"
CHUNKED = "Transfer-Encoding: chunked"

ODD_SERVERS = {
    "hangs up": b"",
    "speaks no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "sends zeros": bytes(10_000),
    "has an odd status": answer("HTTP/1.1 abc OK"),
    "has no status": answer("HTTP/1.1"),
    "says not found": answer("HTTP/1.1 404 Not Found", ["Content-Length: 0"]),
    "says it has failed": answer("HTTP/1.1 500 Failed", ["Content-Length: 0"]),
    "sends a long line": answer(headers=["X-Long: " + "x" * 70_000]),
    "sends many headers": answer(headers=[f"X-{i}: 1" for i in range(200)]),
    "has a length that is no number": answer(
        headers=["Content-Length: many"], body=b"tampered"
    ),
    "has a length below zero": answer(headers=["Content-Length: -5"], body=b"tampered"),
    "breaks off": answer(headers=[LENGTH], body=CONTENT[:100]),
    "breaks off in a chunk": answer(headers=[CHUNKED], body=b"ff\r\nweig"),
    "has a chunk of odd length": answer(headers=[CHUNKED], body=b"xyz\r\nweights\r\n"),
    "sends something else": answer(headers=[LENGTH], body=CONTENT[::-1]),
    "sends a login page": answer(headers=["Content-Length: 13"], body=b"<html></html>"),
    "redirects to itself": answer("HTTP/1.1 302 Found", ["Location: /net.pth"]),
    "redirects to a file": answer(
        "HTTP/1.1 302 Found", ["Location: file:///etc/hostname"]
    ),
    "redirects nowhere": answer("HTTP/1.1 302 Found", ["Location: http://[::bad/"]),
}


@pytest.fixture
def serve():
    """Start a server that sends these bytes to whoever asks; gives its file's URL."""
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def start(content, go_on=None):
            def run():
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with connection, contextlib.suppress(OSError):
                        connection.recv(10_000)
                        connection.sendall(content)
                        while go_on and not is_over.is_set():
                            go_on(connection)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/net.pth"

        yield start
        is_over.set()  # no thread may go on: it would slow all tests that follow
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Fetch the file of a URL into an empty hub directory."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    monkeypatch.setattr(weight_files, "SILENCE", 0.5)
    sha256 = hashlib.sha256(CONTENT).hexdigest()

    def fetch(url):
        return local_file(WeightsFile(Path("net.pth"), sha256, url)).path

    yield fetch
    torch.hub.set_dir(before)


@pytest.mark.parametrize("content", ODD_SERVERS.values(), ids=ODD_SERVERS)
def test_server_that_misbehaves_gives_one_named_error(serve, fetch, content, tmp_path):
    url = serve(content)
    with pytest.raises(WeightsNotAvailableError, match="put that file into") as caught:
        fetch(url)
    assert url in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("content", [b"", answer(headers=[LENGTH])], ids=len)
def test_server_that_falls_silent_is_given_up(serve, fetch, content, tmp_path):
    start = time.monotonic()
    with pytest.raises(WeightsNotAvailableError):
        fetch(serve(content, lambda connection: time.sleep(0.1)))
    assert time.monotonic() - start < 10
    assert not list(tmp_path.rglob("*.*"))


def test_chunked_answer_is_read_whole(serve, fetch):
    half = len(CONTENT) // 2
    chunks = [CONTENT[:half], CONTENT[half:], b""]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    path = fetch(serve(answer(headers=[CHUNKED], body=body)))
    assert path.read_bytes() == CONTENT


def test_hub_directory_that_cannot_be_made_is_named(serve, fetch, tmp_path):
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(WeightsNotAvailableError, match="hub"):
        fetch(serve(answer(headers=[LENGTH], body=CONTENT)))


def test_other_threads_compute_while_one_waits_for_a_server(
    serve, fetch, monkeypatch, images
):
    """A download is no reason to hold the lock of the process."""
    monkeypatch.setattr(weight_files, "SILENCE", 60)
    over = threading.Event()
    url = serve(b"", lambda connection: over.wait() and connection.close())
    file = WeightsFile(Path("net.pth"), "00000000", url)
    monkeypatch.setitem(named_architecture("resnet18").files, "DEFAULT", file)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(load_backbone, "resnet18")
        try:
            make(None).fit_transform(images)
            assert waiting.running()
        finally:
            over.set()
        assert isinstance(waiting.exception(), WeightsNotAvailableError)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_empty_file_is_named_as_that(suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    path.touch()
    with pytest.raises(WeightsMismatchError, match="it is empty, 0 bytes"):
        load_backbone("shufflenet_v2_x0_5", path)
