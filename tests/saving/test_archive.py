"""Model files: what comes back, and what is refused without running any of it."""

import json
import os
import pickle
import re
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from sktl._saving import archive
from sktl._saving.archive import check_tensors, read_archive, write_archive
from sktl.exceptions import ModelFileError

FIELDS = {"params": dict, "classes": np.ndarray, "module": dict}


def make_content():
    return {
        "params": {
            "backbone": "sktl_mini",
            "lr": 0.1,
            "betas": (0.9, 0.99),
            "optimizer": torch.optim.SGD,
        },
        "classes": np.array(["cat", "dog"]),
        "module": {
            "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
            "head.bias": torch.tensor([0.5, -0.5]),
            "head.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            "steps": torch.tensor(7),
        },
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    write_archive(path, "model", make_content())
    return path


def load(path):
    """Everything a class does before it takes what is in a file."""
    content = read_archive(path, "model", FIELDS)
    check_tensors(content["module"], make_content()["module"], path)
    return content


# ---- what comes back


def assert_is_the_content(content):
    expected = make_content()
    assert content["params"] == expected["params"]
    assert content["classes"].dtype == expected["classes"].dtype
    assert content["classes"].tolist() == ["cat", "dog"]
    assert content["module"].keys() == expected["module"].keys()
    for name, tensor in expected["module"].items():
        assert content["module"][name].dtype == tensor.dtype
        assert torch.equal(content["module"][name], tensor)


def test_content_comes_back(path):
    assert_is_the_content(load(path))


def test_file_is_read_by_safetensors_itself(path):
    tensors = safetensors.torch.load_file(path)
    expected = make_content()["module"]
    assert tensors.keys() == {f"module.{name}" for name in expected}
    for name, tensor in expected.items():
        assert torch.equal(tensors[f"module.{name}"], tensor)
    with safetensors.safe_open(path, "pt") as file:
        manifest = json.loads(file.metadata()["sktl"])
    assert (manifest["schema"], manifest["kind"]) == (1, "model")


@pytest.mark.parametrize("dtype", archive.CODES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)], ids=str)
def test_tensor_of_each_dtype_comes_back(tmp_path, dtype, shape):
    """Beside one of an odd size, which must not spoil the others' alignment."""
    content = {
        "odd": torch.ones(3, dtype=torch.int8),
        "x": (torch.rand(shape) * 100).to(dtype),
    }
    write_archive(tmp_path / "m", "model", content)
    back = read_archive(tmp_path / "m", "model", {"odd": torch.Tensor, "x": object})
    oracle = safetensors.torch.load_file(tmp_path / "m")
    assert back["x"].dtype == dtype
    assert torch.equal(back["x"], content["x"])
    assert torch.equal(oracle["x"], content["x"])


def test_special_numbers_come_back_bit_by_bit(tmp_path):
    bits = torch.randint(-(2**31), 2**31, (1000,)).int()
    x = torch.cat([bits, torch.tensor([0x7FC00001, -1, 1, 0])]).int()
    write_archive(tmp_path / "m", "model", {"x": x.view(torch.float32)})
    back = read_archive(tmp_path / "m", "model", {"x": torch.Tensor})["x"]
    assert torch.equal(back.view(torch.int32), x)


def test_views_parameters_and_tied_tensors_come_back(tmp_path):
    """Values are kept, not memory: two names of one tensor become two tensors."""
    parameter = nn.Parameter(torch.rand(4, 3))
    content = {"a": parameter, "b": parameter.t(), "c": parameter[::2]}
    write_archive(tmp_path / "m", "model", content)
    back = read_archive(tmp_path / "m", "model", dict.fromkeys("abc", torch.Tensor))
    for name, tensor in content.items():
        assert torch.equal(back[name], tensor)
        assert not back[name].requires_grad


def test_same_content_gives_the_same_file(tmp_path, path):
    write_archive(tmp_path / "again", "model", make_content())
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2], ids=str)
def test_tensor_of_another_dtype_is_not_written(tmp_path, dtype):
    with pytest.raises(TypeError, match=f"tensor 'x' of dtype {dtype} cannot"):
        write_archive(tmp_path / "m", "model", {"x": torch.ones(1).to(dtype)})
    assert list(tmp_path.iterdir()) == []


def test_name_that_safetensors_reserves_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="tensor '__metadata__'"):
        write_archive(tmp_path / "m", "model", {"__metadata__": torch.ones(1)})


def test_plain_data_that_no_reader_would_take_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="plain data for .* take 167.* as tensors"):
        write_archive(tmp_path / "m", "model", {"x": "a" * 2**24})
    assert list(tmp_path.iterdir()) == []


# ---- training goes on as if nothing had been


class Run:
    """A training run, with an order of rows and dropout drawn at random."""

    def __init__(self, make_optimizer, seed):
        torch.manual_seed(seed)
        self.module = nn.Sequential(
            nn.Conv2d(3, 5, 3, bias=False),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(5 * 4 * 4, 3),
        ).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.module.parameters())
        self.order = torch.Generator().manual_seed(seed)

    def step(self, images, codes):
        rows = torch.randperm(len(images), generator=self.order)[:8]
        loss = nn.functional.cross_entropy(self.module(images[rows]), codes[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self):
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "torch": torch.get_rng_state(),
        }

    def take(self, content, path):
        check_tensors(content["module"], self.module.state_dict(), path)
        self.module.load_state_dict(content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.order.set_state(content["order"])
        torch.set_rng_state(content["torch"])


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "two_groups": lambda p: torch.optim.AdamW(
        [{"params": [next(p)]}, {"params": list(p), "lr": 1e-4}], lr=torch.tensor(1e-2)
    ),
}


@pytest.mark.parametrize(
    "make_optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS.keys())
)
def test_training_goes_on_bit_by_bit(tmp_path, make_optimizer):
    """Weights, statistics, the optimizer's state and both generators."""
    images, codes = torch.rand(20, 3, 6, 6), torch.arange(20) % 3
    path = tmp_path / "checkpoint.safetensors"
    unbroken = Run(make_optimizer, seed=1)
    for _ in range(4):
        unbroken.step(images, codes)
    write_archive(path, "checkpoint", unbroken.state())
    for _ in range(3):
        unbroken.step(images, codes)
    fields = {"module": dict, "optimizer": dict}
    fields |= {"order": torch.Tensor, "torch": torch.Tensor}
    resumed = Run(make_optimizer, seed=2)
    resumed.take(read_archive(path, "checkpoint", fields), path)
    for _ in range(3):
        resumed.step(images, codes)
    write_archive(tmp_path / "a", "end", unbroken.state())
    write_archive(tmp_path / "b", "end", resumed.state())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---- files that are damaged


@pytest.fixture
def nothing_runs():
    """Fail where code is compiled, imported, unpickled or started meanwhile."""
    events = []
    yield recording(events)
    assert events == []


RUNS_CODE = re.compile(
    r"compile|exec|import|marshal\..*|pickle\..*|os\.(system|exec|posix_spawn|fork.*)"
    r"|subprocess\..*|ctypes\..*|socket\..*|urllib\..*"
)
_recorders = []


def _record(event, args):
    for events in _recorders:
        if RUNS_CODE.fullmatch(event):
            events.append(event)


sys.addaudithook(_record)  # there is no way to take it off, hence the list


@contextmanager
def _recorded(events):
    _recorders.append(events)
    try:
        yield
    finally:
        _recorders.remove(events)


def recording(events):
    return lambda: _recorded(events)


def assert_refused(path, nothing_runs, match="."):
    """As a file that is no model, in words that name it."""
    with nothing_runs(), pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert re.search(match, message), message


def test_recorder_notices_a_pickle():
    events = []
    with recording(events)():
        pickle.loads(pickle.dumps(Path))
    assert events == ["pickle.find_class"]


def test_each_flipped_byte_is_noticed(path, nothing_runs):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        assert_refused(path, nothing_runs)


def test_truncation_anywhere_is_noticed(path, nothing_runs):
    whole = path.read_bytes()
    for n in range(0, len(whole), 5):
        path.write_bytes(whole[:n])
        assert_refused(path, nothing_runs)


def length_of(n):
    return lambda whole: n.to_bytes(8, "little") + whole[8:]


def replaced(old, new):
    def change(whole):
        assert whole.count(old) == 1
        return whole.replace(old, new)

    return change


DAMAGED = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "text": lambda whole: b"a model file",
    "json": lambda whole: b'{"schema":1}',
    "one_byte_more": lambda whole: whole + b"\0",
    "twice": lambda whole: whole * 2,
    "length_zero": length_of(0),
    "length_one_less": lambda whole: length_of(whole[0] + 256 * whole[1] - 1)(whole),
    "length_one_more": lambda whole: length_of(whole[0] + 256 * whole[1] + 1)(whole),
    "length_huge": length_of(2**63),
    "length_largest": length_of(2**64 - 1),
    "header_not_utf8": replaced(b"backbone", b"back\xff\xfene"),
    "header_utf16": lambda whole: length_of(8)(whole[:8] + "null".encode("utf-16-le")),
    "header_null": lambda whole: length_of(4)(whole[:8] + b"null"),
    "header_list": lambda whole: length_of(4)(whole[:8] + b"[[]]"),
    "header_number": lambda whole: length_of(4)(whole[:8] + b"1234"),
    "header_deep": lambda whole: length_of(10**5)(whole[:8] + b"[" * 10**5),
    "header_deep_objects": lambda whole: length_of(5 * 10**5)(
        whole[:8] + b'{"":' * (10**5) + b" " * 10**5
    ),
    "changed_parameter": replaced(b'lr\\",0.1', b'lr\\",0.2'),
    "changed_class": replaced(b"cat", b"dog"),
    "changed_name": replaced(b'"module.steps":', b'"module.stepz":'),
    "changed_dtype": replaced(b'"dtype":"I64"', b'"dtype":"F64"'),
    "changed_shape": replaced(b'"shape":[2,3,2,2]', b'"shape":[2,2,3,2]'),
    "tensors_moved": lambda whole: whole[:-8] + whole[:-16:-1],
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_refused(path, nothing_runs, change):
    path.write_bytes(change(path.read_bytes()))
    assert_refused(path, nothing_runs, "is not a model file.*save the model again")


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/sktl-payload-ran",)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../manifest.json", "{}")


def write_sparse(path):
    """64 GiB of nothing, whose header is as long as the file says."""
    with open(path, "wb") as file:
        file.write((2**36 - 8).to_bytes(8, "little"))
        file.truncate(2**36)


OTHER_FILES = {
    "pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
    "torch_save": lambda path: torch.save({"x": Payload()}, path),
    "zip": write_zip,
    "safetensors": lambda p: safetensors.torch.save_file({"x": torch.ones(2)}, p),
    "numpy": lambda path: np.save(path.open("wb"), np.ones(3)),
    "sparse": write_sparse,
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "link_to_nowhere": lambda path: path.symlink_to("nowhere"),
    "link_to_itself": lambda path: path.symlink_to(path),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_other_file_is_refused(tmp_path, nothing_runs, make):
    make(tmp_path / "model")
    assert_refused(tmp_path / "model", nothing_runs, "is not a model file")


def test_path_that_no_file_can_have_is_refused(path, nothing_runs):
    assert_refused(path / "below", nothing_runs, "is not a model file")
    assert_refused(path.with_name("a" * 300), nothing_runs, "is not a model file")


def test_file_without_permission_is_refused(path, nothing_runs):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert_refused(path, nothing_runs, "Permission denied")


def test_file_that_shrinks_while_it_is_read_is_refused(path, monkeypatch, nothing_runs):
    whole = path.read_bytes()
    size = os.stat(path)
    path.write_bytes(whole[:-8])
    monkeypatch.setattr(archive.os, "fstat", lambda descriptor: size)
    assert_refused(path, nothing_runs, "it was cut off while it was read")


# ---- files made to deceive: their digest is right


def seal(manifest, entries, body, alter=lambda header: header):
    """A writer of its own: nothing of sktl is used.

    `alter` changes the text of the header, in which the digest stands.
    """

    def header(digest):
        text = json.dumps(
            manifest | ({"sha256": digest} if "sha256" in manifest else {}),
            separators=(",", ":"),
            sort_keys=True,
        )
        entry = {"__metadata__": {"sktl": text}}
        text = alter(json.dumps(entry | entries, separators=(",", ":"))).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    return header(sha256(header("") + body).hexdigest()) + body


def unseal(whole):
    n = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + n])
    manifest = json.loads(entries.pop("__metadata__")["sktl"])
    return manifest, entries, whole[8 + n :]


def test_writer_of_these_tests_makes_the_same_file(path):
    """So whatever is refused below is not refused for its digest."""
    assert seal(*unseal(path.read_bytes())) == path.read_bytes()


def setting(**entries):
    return lambda m, e, body: seal(m | entries, e, body)


def content_of(change):
    """The same file with other plain data."""

    def changed(m, e, body):
        pairs = m["content"]["dict"]
        change(pairs)
        return seal(m, e, body)

    return changed


def parameter(name, value):
    def change(pairs):
        params = dict(map(tuple, pairs))["params"]["dict"]
        (pair,) = [pair for pair in params if pair[0] == name]
        pair[1] = value

    return content_of(change)


def classes(*plain):
    def change(pairs):
        pairs[1][1] = {"array": list(plain)}

    return content_of(change)


def tensor_entry(name, **values):
    def changed(m, e, body):
        return seal(m, e | {name: e[name] | values}, body)

    return changed


def text_of(old, new):
    """The same file with other text in its header."""

    def alter(text):
        assert text.count(old) == 1, text.count(old)
        return text.replace(old, new)

    return lambda m, e, body: seal(m, e, body, alter)


def renamed(old, new):
    """In both places where a name stands."""

    def changed(m, e, body):
        entries = {new if name == old else name: v for name, v in e.items()}
        content = json.dumps(m["content"]).replace(f'"{old}"', f'"{new}"')
        return seal(m | {"content": json.loads(content)}, entries, body)

    return changed


def swapped(m, e, body):
    """The 2 x 2 matrix begins where a bias and half of it lay."""
    a, b = "module.head.weight", "module.head.bias"
    return seal(m, {{a: b, b: a}.get(name, name): v for name, v in e.items()}, body)


def swapped_in_order(m, e, body):
    """Names whose shapes and order allow it; the module's own names do not."""
    old = make_content()["module"]
    content = make_content() | {"module": dict(zip(old, [*old.values()], strict=True))}
    content["module"]["head.bias"] = content["module"].pop("steps")
    content["module"]["steps"] = old["head.bias"]
    return written(content)


def written(content):
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder) / "m", "model", content)
        return (Path(folder) / "m").read_bytes()


def module_with(**tensors):
    def changed(m, e, body):
        content = make_content()
        content["module"] |= {n.replace("_", "."): t for n, t in tensors.items()}
        return written(content)

    return changed


def without_tensor(m, e, body):
    content = make_content()
    del content["module"]["head.bias"]
    return written(content)


def unused_tensor(m, e, body):
    entries = e | {"z": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    end = len(body)
    entries["z"]["data_offsets"] = [end, end + 1]
    return seal(m, entries, body + b"\0")


def missing_tensor(m, e, body):
    """The last one, so that there is no hole."""
    name = list(e)[-1]
    start, end = e[name]["data_offsets"]
    return seal(m, {n: v for n, v in e.items() if n != name}, body[: start - end])


NO_HEADER = "begin with a header of sktl|not written as sktl writes"

DECEPTIVE = {
    # the manifest
    "schema_newer": (setting(schema=2), "schema 2, and .* reads 1. Update sktl"),
    "schema_much_newer": (setting(schema=10**9), "Update sktl"),
    "schema_older": (setting(schema=0), NO_HEADER),
    "schema_text": (setting(schema="1"), NO_HEADER),
    "schema_bool": (setting(schema=True), NO_HEADER),
    "schema_float": (setting(schema=1.0), NO_HEADER),
    "schema_null": (setting(schema=None), NO_HEADER),
    "kind_other": (setting(kind="checkpoint"), "holds 'checkpoint', and 'model' was"),
    "kind_long": (setting(kind="x" * 10**6), "holds 'x{50}', and"),
    "kind_list": (setting(kind=["model"]), "and 'model' was asked for"),
    "entry_more": (setting(code="os.system"), NO_HEADER),
    "digest_null": (
        text_of('\\"sha256\\":\\"', '\\"sha256\\":null,\\"x\\":\\"'),
        NO_HEADER,
    ),
    "digest_missing": (
        lambda m, e, b: seal({k: v for k, v in m.items() if k != "sha256"}, e, b),
        NO_HEADER,
    ),
    "content_missing": (
        lambda m, e, b: seal({k: v for k, v in m.items() if k != "content"}, e, b),
        NO_HEADER,
    ),
    "manifest_twice": (
        text_of('"__metadata__":{', '"__metadata__":{},"__metadata__":{'),
        NO_HEADER,
    ),
    "metadata_more": (
        text_of('"__metadata__":{', '"__metadata__":{"a":"b",'),
        NO_HEADER,
    ),
    "metadata_list": (
        text_of('"__metadata__":{', '"__metadata__":[],"x":{'),
        NO_HEADER,
    ),
    "manifest_key_twice": (
        text_of('{\\"content', '{\\"kind\\":\\"a\\",\\"content'),
        NO_HEADER,
    ),
    "manifest_with_space": (text_of('\\"lr\\",0.1', '\\"lr\\", 0.1'), NO_HEADER),
    "manifest_deep": (text_of("0.1", "[" * 10**5 + "]" * 10**5), "recursion"),
    # numbers
    "nan": (text_of("0.1", "NaN"), "not a model file"),
    "infinity": (text_of("0.1", "-Infinity"), "not a model file"),
    "too_large_a_float": (text_of("0.1", "1e999"), "not a model file"),
    "longer_float": (text_of("0.1", "0.10"), NO_HEADER),
    "integer_of_5000_digits": (text_of("0.1", "1" * 5000), "not a model file"),
    # values
    "optimizer_of_os": (parameter("optimizer", {"class": "os.system"}), "KeyError"),
    "optimizer_eval": (parameter("optimizer", {"class": "builtins.eval"}), "KeyError"),
    "optimizer_pickle": (parameter("optimizer", {"pickle": "gASV"}), "KeyError"),
    "weights_of_os": (parameter("lr", {"weights": "os.system"}), "couldn't be retr"),
    "classes_of_pickles": (classes("|O", [{"pickle": "gASV"}]), "KeyError: 'pickle'"),
    "classes_of_fields": (classes("i4,i4", [1]), "dtype 'i4,i4' are not kept"),
    "classes_too_wide": (classes("<U99999999", ["a"]), "arrays take 399999996"),
    "classes_cut_off": (classes("<U2", ["cat", "dog"]), "not written in the way"),
    "classes_no_array": (
        content_of(lambda pairs: pairs[1].__setitem__(1, ["cat", "dog"])),
        "its 'classes' is a list",
    ),
    "content_no_dict": (lambda m, e, b: written([1, 2]), r"holds \[\] where"),
    "field_missing": (content_of(lambda pairs: pairs.pop(1)), r"holds \['module', 'p"),
    "field_more": (content_of(lambda pairs: pairs.append(["a", 1])), r"holds \['a', "),
    "content_list": (setting(content=[1]), "not written in the way"),
    # tensors
    "tensor_missing": (missing_tensor, "KeyError"),
    "tensor_unused": (unused_tensor, "not written in the way"),
    "tensor_renamed": (renamed("module.steps", "../../etc/passwd"), "not written in"),
    "tensor_renamed_in_the_header": (
        text_of('"module.steps":{', '"../../etc/passwd":{'),
        "KeyError: 'module.steps'",
    ),
    "tensors_swapped": (swapped, NO_HEADER),
    "tensors_swapped_well": (swapped_in_order, "does not fit.*'head.bias' is torch.i"),
    "tensor_left_out_well": (without_tensor, "'head.bias' is missing"),
    "tensor_added_well": (
        module_with(evil_weight=torch.ones(1)),
        "'evil.weight' is not known",
    ),
    "tensor_of_nan": (
        module_with(head_bias=torch.tensor([0.5, torch.nan])),
        "'head.bias' holds NaN",
    ),
    "number_for_tensor": (module_with(head_bias=0.5), "'head.bias' is a float"),
    "dtype_of_same_size": (
        tensor_entry("module.steps", dtype="F64"),
        r"'steps' is torch.float64 \(\), not torch.int64",
    ),
    "shape_of_same_size": (
        tensor_entry("module.head.weight", shape=[1, 4]),
        r"'head.weight' is torch.float32 \(1, 4\), not torch.float32 \(2, 2\)",
    ),
    "dtype_unknown": (tensor_entry("module.steps", dtype="PICKLE"), NO_HEADER),
    "dtype_list": (tensor_entry("module.steps", dtype=["I64"]), NO_HEADER),
    "shape_negative": (tensor_entry("module.head.weight", shape=[-2, -2]), NO_HEADER),
    "shape_float": (tensor_entry("module.head.weight", shape=[2, 2.0]), NO_HEADER),
    "shape_bool": (tensor_entry("module.steps", shape=[True]), NO_HEADER),
    "shape_text": (tensor_entry("module.head.weight", shape="22"), NO_HEADER),
    "shape_null": (tensor_entry("module.head.weight", shape=None), NO_HEADER),
    "shape_of_much_memory": (
        tensor_entry("module.steps", shape=[2**46], data_offsets=[0, 2**49]),
        NO_HEADER,
    ),
    "shape_of_many_axes": (tensor_entry("module.steps", shape=[1] * 65), NO_HEADER),
    "shape_of_long_axes": (
        tensor_entry("module.steps", shape=[10**400] * 3),
        NO_HEADER,
    ),
    "offsets_overlap": (
        tensor_entry("module.head.weight", data_offsets=[8, 24]),
        NO_HEADER,
    ),
    "offsets_outside": (
        tensor_entry("module.steps", data_offsets=[10**6, 10**6 + 8]),
        NO_HEADER,
    ),
    "offsets_backwards": (tensor_entry("module.steps", data_offsets=[8, 0]), NO_HEADER),
    "entry_with_more": (tensor_entry("module.steps", code="x"), NO_HEADER),
    "entry_null": (lambda m, e, b: seal(m, e | {"z": None}, b), NO_HEADER),
    "entry_twice": (
        text_of('"module.steps":{', '"module.steps":{},"module.steps":{'),
        NO_HEADER,
    ),
    "hole_at_the_end": (lambda m, e, b: seal(m, e, b + bytes(8)), "bytes do not match"),
    "body_cut_off": (lambda m, e, b: seal(m, e, b[:-4]), "bytes do not match"),
    "body_missing": (lambda m, e, b: seal(m, e, b""), "bytes do not match"),
}


@pytest.mark.parametrize(("forge", "match"), DECEPTIVE.values(), ids=DECEPTIVE.keys())
def test_deceptive_file_is_refused(path, nothing_runs, forge, match):
    load(path)  # what is imported at first use is not the forged file's doing
    path.write_bytes(forge(*unseal(path.read_bytes())))
    assert_refused(path, nothing_runs, match)


def test_shape_that_torch_cannot_make_is_refused(tmp_path, nothing_runs):
    """It takes no bytes, so no bound on sizes meets it."""
    path = tmp_path / "m"
    write_archive(path, "model", {"x": torch.ones(0, 3)})
    m, e, body = unseal(path.read_bytes())
    path.write_bytes(seal(m, {"x": e["x"] | {"shape": [0, 2**47, 2**47]}}, body))
    assert_refused(path, nothing_runs, "Stride calculation overflowed")


def test_sparse_file_takes_no_memory(tmp_path, nothing_runs):
    """A header that fits 64 GiB of nothing: refused by its fields, not its size."""
    path = tmp_path / "m"
    write_archive(path, "model", {"x": torch.ones(1)})
    m, e, _ = unseal(path.read_bytes())
    e["x"] |= {"shape": [2**34], "data_offsets": [0, 2**36]}
    path.write_bytes(seal(m, e, b""))
    os.truncate(path, path.stat().st_size + 2**36 - 1)
    assert_refused(path, nothing_runs, "bytes do not match")
