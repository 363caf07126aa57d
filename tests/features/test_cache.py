"""The cache against a plain dict: what it keeps, bounds, counts and refuses.

What it does when files break or processes die is in test_cache_faults.py.
"""

import hashlib
import os
import sqlite3
import stat
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import sktl._features.cache
import sktl._features.sqlite
from sktl import PretrainedFeatureExtractor
from sktl._features.cache import (
    Cache,
    Memory,
    cache_info,
    clear_cache,
    fingerprint,
    make_key,
    open_cache,
    prune_cache,
)
from tests.helpers import run_python

# sktl without its front door: that imports torch, which takes seconds.
BARE_SKTL = (
    "import sys, types; sktl = types.ModuleType('sktl'); "
    f"sktl.__path__ = [{os.path.dirname(sktl.__file__)!r}]; "
    "sys.modules['sktl'] = sktl\n"
)


def key(number):
    return hashlib.sha256(str(number).encode()).digest()


def row(number, size=8):
    return np.arange(size, dtype=np.float32) + number


def rows(numbers, size=8):
    return {key(number): row(number, size) for number in numbers}


def same(left, right):
    """Equal to the last bit, dtype and shape included (NaN equals itself)."""
    return (left.dtype, left.shape, left.tobytes()) == (
        right.dtype,
        right.shape,
        right.tobytes(),
    )


def assert_holds(store, expected):
    found = store.get(list(expected))
    assert found.keys() == expected.keys()
    assert all(same(found[name], expected[name]) for name in expected)


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    if request.param == "memory":
        return Cache(Memory(2**30))
    return open_cache(tmp_path / "cache")


# --- against a dict -------------------------------------------------------------------

NUMERIC = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
)
ARRAYS = hnp.arrays(NUMERIC, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
NUMBERS = st.integers(0, 9)
STATEFUL = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class MemoryAgainstList(RuleBasedStateMachine):
    """The model is a list of (number, array), least recently used first."""

    BOUND = 3000

    def __init__(self):
        super().__init__()
        self.store = Cache(Memory(self.BOUND))
        self.model = []

    def position(self, number):
        return next((i for i, kept in enumerate(self.model) if kept[0] == number), None)

    @rule(items=st.dictionaries(NUMBERS, ARRAYS, max_size=4))
    def put(self, items):
        self.store.put({key(number): array for number, array in items.items()})
        for number, array in items.items():
            if self.position(number) is None and array.nbytes + 320 <= self.BOUND:
                self.model.append((number, array.copy()))
            while sum(kept.nbytes + 320 for _, kept in self.model) > self.BOUND:
                del self.model[0]

    @rule(numbers=st.lists(NUMBERS, max_size=6))
    def get(self, numbers):
        found = self.store.get([key(number) for number in numbers])
        expected = {key(n): kept for n, kept in self.model if n in numbers}
        assert found.keys() == expected.keys()
        assert all(same(found[name], expected[name]) for name in found)
        for number in numbers:
            at = self.position(number)
            if at is not None:
                self.model.append(self.model.pop(at))

    @rule()
    def info(self):
        info = self.store.info()
        assert info.entries == len(self.model)
        assert info.bytes == sum(kept.nbytes + 320 for _, kept in self.model)

    @rule()
    def clear(self):
        self.store.clear()
        self.model = []


class DirectoryAgainstDict(RuleBasedStateMachine):
    """The model is a dict; a row that was tampered with is no longer in it.

    Until it was read once the tampered row stands in the way of a new value; then it
    is gone.
    """

    def __init__(self):
        super().__init__()
        self.directory = DirectoryAgainstDict.root / "cache"
        self.store = open_cache(self.directory)
        self.store.clear()
        self.model, self.tampered = {}, set()

    @rule(items=st.dictionaries(NUMBERS, ARRAYS, max_size=4))
    def put(self, items):
        self.store.put({key(number): array for number, array in items.items()})
        for number, array in items.items():
            if number not in self.tampered:
                self.model.setdefault(number, array.copy())

    @rule(numbers=st.lists(NUMBERS, max_size=6))
    def get(self, numbers):
        found = self.store.get([key(number) for number in numbers])
        expected = {key(n): self.model[n] for n in numbers if n in self.model}
        assert found.keys() == expected.keys()
        assert all(same(found[name], expected[name]) for name in found)
        self.tampered -= set(numbers)

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        change=st.sampled_from(
            [
                "payload = payload || x'00'",
                "payload = substr(payload, 2) || x'ff01'",
                "dtype = x'7c4f'",
                "shape = shape || x'2c31'",
                "checksum = zeroblob(16)",
                "payload = NULL",
                "dtype = 3",
                "dtype = CAST(x'ff' AS TEXT)",
                "shape = 'x'",
            ]
        ),
    )
    def tamper(self, data, change):
        number = data.draw(st.sampled_from(sorted(self.model)))
        (file,) = self.directory.glob("sktl-features*.sqlite")
        with sqlite3.connect(file) as connection:
            connection.execute(
                f"UPDATE features SET {change} WHERE key = ?", (key(number),)
            )
        connection.close()
        del self.model[number]
        self.tampered.add(number)

    @rule()
    def reopen(self):
        self.store.release()

    @rule()
    def info(self):
        assert self.store.info().entries == len(self.model) + len(self.tampered)

    @rule()
    def clear(self):
        self.store.clear()
        self.model, self.tampered = {}, set()


TestMemoryAgainstList = MemoryAgainstList.TestCase
TestMemoryAgainstList.settings = STATEFUL
TestDirectoryAgainstDict = DirectoryAgainstDict.TestCase
TestDirectoryAgainstDict.settings = STATEFUL


@pytest.fixture(autouse=True, scope="module")
def _root(tmp_path_factory):
    DirectoryAgainstDict.root = tmp_path_factory.mktemp("stateful")


# --- values ---------------------------------------------------------------------------


@given(array=ARRAYS)
@settings(deadline=None, database=None, max_examples=100)
def test_array_comes_back_to_the_bit_from_memory(array):
    store = Cache(Memory(2**30))
    store.put({key(0): array})
    assert_holds(store, {key(0): array})


def test_array_of_any_shape_and_dtype_comes_back_to_the_bit(store):
    """Fault 11."""
    rng = np.random.default_rng(0)
    shapes = [(), (0,), (7,), (2, 3, 4), (3, 0, 2), (1,) * 5]
    arrays = {
        key((shape, dtype)): np.asarray(rng.standard_normal(shape) * 50).astype(dtype)
        for shape in shapes
        for dtype in ("?", "i1", "<u2", ">i4", "f2", "<f4", ">f8", "c16")
    }
    store.put(arrays)
    assert_holds(store, arrays)


def test_array_in_any_memory_layout_is_kept_by_its_values(store):
    grid = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    layouts = {key(0): grid.T, key(1): grid[:, ::2], key(2): np.asfortranarray(grid)}
    store.put(layouts)
    assert_holds(store, layouts)


def test_large_map_comes_back_to_the_bit(store):
    array = np.random.default_rng(0).standard_normal((256, 28, 28), dtype=np.float32)
    store.put({key(0): array})
    assert_holds(store, {key(0): array})


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["a"]), np.zeros(2, "V4"), [1.0], 1.0]
)
def test_put_refuses_what_is_no_numeric_array(store, value):
    with pytest.raises(TypeError, match="The cache keeps numeric arrays, not"):
        store.put({key(0): value})
    assert store.get([key(0)]) == {}


def test_change_of_the_array_given_does_not_reach_the_cache(store):
    array = row(1)
    store.put({key(0): array})
    array[:] = -1
    assert_holds(store, {key(0): row(1)})


def test_array_returned_can_never_be_written(store):
    store.put(rows([0]))
    array = store.get([key(0)])[key(0)]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = -1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    assert store.get([key(0)])[key(0)] is not array


def test_first_value_wins(store):
    store.put({key(0): row(1)})
    store.put({key(0): row(2), key(1): row(3)})
    assert_holds(store, {key(0): row(1), key(1): row(3)})


def test_many_rows_in_one_call(store):
    """More than SQLite takes as variables, and than goes into one transaction."""
    expected = rows(range(12_000))
    store.put(expected)
    assert_holds(store, expected)
    some = [key(number) for number in range(11_000, 13_000)]
    assert store.get(some).keys() == set(some[:1000])


def test_get_of_nothing_and_put_of_nothing(store):
    store.put({})
    assert store.get([]) == {}
    assert store.info()[:4] == (0, 0, 0, 0)


# --- bounds ---------------------------------------------------------------------------


def test_memory_lets_the_least_recently_used_go_first():
    store = Cache(Memory(3 * (32 + 320)))
    store.put(rows([0, 1, 2]))
    store.get([key(0)])
    store.put(rows([3]))
    assert store.get([key(n) for n in range(4)]).keys() == {key(0), key(2), key(3)}


def test_memory_does_not_keep_a_value_larger_than_its_bound():
    store = Cache(Memory(1000))
    store.put({key(0): row(0), key(1): row(1, 1000)})
    assert store.get([key(0), key(1)]).keys() == {key(0)}


@pytest.mark.parametrize("size", [16, 100, 1000])
def test_memory_counts_what_python_takes(size):
    """`bytes`, and so the bound, is within 15 % of the memory really taken."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        store = Cache(Memory(2**30))
        for number in range(2000):
            store.put(rows([number], size))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.85 < store.info().bytes / (after - before) < 1.15


def test_memory_bound_comes_from_the_environment():
    script = (
        "from sktl._features.cache import cache_info, clear_cache, open_cache\n"
        "print(cache_info().max_bytes)"
    )
    assert run_python(BARE_SKTL + script, SKTL_CACHE_BYTES="12345") == "12345\n"
    assert run_python(BARE_SKTL + script) == f"{2**30}\n"


@pytest.mark.parametrize("text", ["", "1e9", "-1", "1 GB", "\u0661"])
def test_memory_bound_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv("SKTL_CACHE_BYTES", text)
    monkeypatch.setattr(sktl._features.cache, "_caches", {})
    with pytest.raises(ValueError, match="SKTL_CACHE_BYTES=.* is not a number of"):
        open_cache("memory")


# --- counting, clearing, pruning ------------------------------------------------------


def test_counters_say_what_this_process_did(store):
    store.put(rows([0, 1]))
    store.get([key(0), key(5), key(6)])
    store.put(rows([1, 2]))
    assert store.info()[:4] == (1, 2, 4, 3)


def test_keys_asked_for_again_count_once(store):
    store.clear()
    store.put(rows([1]))
    store.get([key(1), key(2), key(3)])
    store.put(rows([2]))
    store.get([key(2), key(3)], again=True)
    assert store.info()[:2] == (2, 1)


def test_clear_empties_and_resets(store):
    store.put(rows(range(5)))
    store.get([key(0), key(9)])
    store.clear()
    assert store.info()[:4] == (0, 0, 0, 0)
    assert store.get([key(0)]) == {}
    store.put({key(0): row(7)})
    assert_holds(store, {key(0): row(7)})


def test_no_cache_counts_and_keeps_nothing():
    clear_cache(None)
    store = open_cache(None)
    store.put(rows([0, 1]))
    assert store.get([key(0)]) == {}
    assert cache_info(None)[:5] == (0, 1, 2, 0, 0)
    clear_cache(None)
    assert cache_info(None)[:3] == (0, 0, 0)


def test_public_functions_reach_the_cache_of_that_name(tmp_path):
    open_cache(tmp_path).put(rows(range(3), 2000))
    info = cache_info(str(tmp_path))
    assert (info.computed, info.entries, info.max_bytes) == (3, 3, None)
    assert info.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert info.bytes > 3 * 8000
    clear_cache(tmp_path)
    assert cache_info(tmp_path).entries == 0


def test_managing_a_directory_that_is_not_there_does_not_make_it(tmp_path):
    absent = tmp_path / "absent"
    assert cache_info(absent) == (0, 0, 0, 0, 0, None)
    clear_cache(absent)
    assert prune_cache(absent, max_bytes=0) == 0
    assert not absent.exists()


def test_clear_leaves_files_of_others_alone(tmp_path):
    others = [tmp_path / name for name in ("notes.txt", "features.csv", "my.sqlite")]
    for other in others:
        other.write_text("mine")
    open_cache(tmp_path).put(rows([0]))
    clear_cache(tmp_path)
    prune_cache(tmp_path, max_bytes=0)
    assert all(other.read_text() == "mine" for other in others)


@pytest.mark.parametrize("share", [0.7, 0.3])
def test_prune_to_bytes_keeps_the_most_recently_used(tmp_path, monkeypatch, share):
    store = open_cache(tmp_path)
    for day in range(20):
        monkeypatch.setattr(
            sktl._features.sqlite, "_today", lambda day=day: 20_000 + day
        )
        store.put(rows(range(50 * day, 50 * day + 50), 512))
    store.get([key(number) for number in range(50)])  # the oldest, used on day 19
    store.release()
    bound = int(cache_info(tmp_path).bytes * share)
    n_removed = prune_cache(tmp_path, max_bytes=bound)
    assert bound * 0.8 < cache_info(tmp_path).bytes <= bound
    assert n_removed == 1000 - cache_info(tmp_path).entries
    kept = [n for n in range(1000) if store.get([key(n)])]
    in_order_of_use = [*range(50, 950), *range(50), *range(950, 1000)]
    assert set(kept) == set(in_order_of_use[n_removed:])
    assert_holds(store, rows(kept, 512))


def test_prune_by_age_keeps_what_was_used_since(tmp_path, monkeypatch):
    store = open_cache(tmp_path)
    for day in (0, 10, 20):
        monkeypatch.setattr(
            sktl._features.sqlite, "_today", lambda day=day: 20_000 + day
        )
        store.put(rows([day, day + 1]))
        store.get([key(0)])
    assert prune_cache(tmp_path, older_than=20) == 0
    assert prune_cache(tmp_path, older_than=10) == 1
    assert prune_cache(tmp_path, older_than=5) == 2
    assert_holds(store, rows([0, 20, 21]))
    assert cache_info(tmp_path).entries == 3


def test_prune_to_nothing_empties(tmp_path):
    store = open_cache(tmp_path)
    store.put(rows(range(100)))
    assert prune_cache(tmp_path, max_bytes=0) == 100
    assert cache_info(tmp_path).entries == 0
    store.put({key(0): row(5)})
    assert_holds(store, {key(0): row(5)})


def test_prune_refuses_what_has_no_files(tmp_path):
    for cache in ("memory", None):
        with pytest.raises(ValueError, match="prune_cache is for directories"):
            prune_cache(cache, max_bytes=1)
    with pytest.raises(ValueError, match="Pass max_bytes .* or older_than"):
        prune_cache(tmp_path)
    with pytest.raises(ValueError, match="^older_than=-1 must be a whole number"):
        prune_cache(tmp_path, older_than=-1)
    with pytest.raises(ValueError, match="^max_bytes=1.5 must be a whole number"):
        prune_cache(tmp_path, max_bytes=1.5)


# --- names ----------------------------------------------------------------------------


def test_one_cache_for_all_spellings_of_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    spellings = ["real", "./real/", "~/real", "link", tmp_path / "real", Path("real")]
    assert len({id(open_cache(spelling)) for spelling in spellings}) == 1


def test_memory_as_a_path_is_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_cache(Path("memory")).put(rows([0]))
    assert open_cache("memory") is not open_cache(Path("memory"))
    assert (tmp_path / "memory" / "sktl-features.sqlite").is_file()


@pytest.mark.parametrize("url", ["s3://bucket/cache", "file:///home/me/cache"])
def test_url_as_a_cache_is_refused_and_makes_no_folder(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"cache='{url}' is a URL"):
        PretrainedFeatureExtractor("sktl_mini", cache=url).fit([np.zeros((8, 8))])
    assert not list(tmp_path.iterdir())


class PathLike:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def test_path_like_of_any_class_is_a_directory(tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    for cache in (PathLike(str(tmp_path / "cache")), tmp_path / "cache"):
        PretrainedFeatureExtractor("sktl_mini", cache=cache).fit_transform(X)
        info = cache_info(cache)
        assert (info.computed, info.entries) == (5, 5)
    assert prune_cache(PathLike(str(tmp_path / "cache")), max_bytes=0) == 5


def test_path_like_of_bytes_is_refused_by_estimators():
    cache = PathLike(b"cache")
    with pytest.raises(TypeError, match="Pass 'memory', the path of a directory"):
        PretrainedFeatureExtractor("sktl_mini", cache=cache).fit([np.zeros((8, 8))])


@pytest.mark.parametrize(
    "cache",
    [3, True, "", b"x", object(), ["memory"], 1.5, PathLike(b"x"), PathLike("")],
)
def test_name_that_is_no_cache_is_refused(cache):
    with pytest.raises(TypeError, match="Pass 'memory', the path of a directory"):
        open_cache(cache)


def test_directory_is_made_for_its_owner_only(tmp_path):
    made = tmp_path / "deep" / "cache"
    open_cache(made).put(rows([0]))
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert [file.name for file in made.glob("*.sqlite")] == ["sktl-features.sqlite"]


def test_released_directory_holds_one_file(tmp_path):
    store = open_cache(tmp_path)
    store.put(rows([0]))
    store.release()
    assert [file.name for file in tmp_path.iterdir()] == ["sktl-features.sqlite"]
    assert_holds(store, rows([0]))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_many_directories_do_not_use_up_open_files(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        open_cache(tmp_path / str(number)).put(rows([number]))
    assert len(os.listdir("/proc/self/fd")) < before + 10
    for number in range(40):
        assert_holds(open_cache(tmp_path / str(number)), rows([number]))
    open_cache(tmp_path / "last")


def test_threads_share_a_cache(store):
    failures = []

    def work(seed):
        for number in np.random.default_rng(seed).permutation(300):
            store.put(rows([number]))
            found = store.get([key(number)])
            if not same(found[key(number)], row(number)):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.info()[:4] == (1200, 0, 1200, 300)


# --- keys -----------------------------------------------------------------------------

FIELDS = {
    "network": "resnet18",
    "layers": ["avgpool", "layer4.1.relu_1"],
    "mean": (0.485, 0.456, 1e-07),
    "size": 224,
    "stretch": False,
    "pooling": None,
    "geometry": {"crop": 224, "name": "K\u00f6ln"},
}
# Of the text {"geometry": {"crop": 224, "name": "K\u00f6ln"}, "layers": ... in ASCII.
FIELDS_DIGEST = hashlib.sha256(
    b"sktl fingerprint 1\0"
    rb'{"geometry": {"crop": 224, "name": "K\u00f6ln"}, '
    b'"layers": ["avgpool", "layer4.1.relu_1"], "mean": [0.485, 0.456, 1e-07], '
    b'"network": "resnet18", "pooling": null, "size": 224, "stretch": false}'
).hexdigest()


def test_fingerprint_is_the_digest_of_canonical_json():
    assert fingerprint(FIELDS).hex() == FIELDS_DIGEST
    assert fingerprint(dict(reversed(FIELDS.items()))).hex() == FIELDS_DIGEST
    assert fingerprint(FIELDS | {"layers": tuple(FIELDS["layers"])}).hex() == (
        FIELDS_DIGEST
    )


@pytest.mark.parametrize(
    "change",
    [
        {"network": "resnet34"},
        {"layers": ["layer4.1.relu_1", "avgpool"]},
        {"mean": (0.485, 0.456, 1.0000000000000002e-07)},
        {"size": 224.0},
        {"size": "224"},
        {"stretch": 0},
        {"stretch": None},
        {"geometry": {"crop": 224}},
        {"new": None},
    ],
    ids=str,
)
def test_fingerprint_changes_with_each_field(change):
    """Fault 12."""
    assert fingerprint(FIELDS | change) != fingerprint(FIELDS)


def test_fingerprint_and_key_are_equal_in_every_process():
    """Fault 13."""
    script = (
        "from sktl._features.cache import fingerprint, make_key\n"
        f"digest = fingerprint({FIELDS!r})\n"
        "print(digest.hex(), make_key(bytes(32), digest).hex())"
    )
    expected = f"{FIELDS_DIGEST} {make_key(bytes(32), fingerprint(FIELDS)).hex()}\n"
    for seed in ("0", "1", "4242"):
        assert run_python(BARE_SKTL + script, PYTHONHASHSEED=seed) == expected


def test_key_is_the_digest_of_both_parts_in_a_domain_of_its_own():
    expected = hashlib.sha256(
        b"sktl key 1\0" + b"\0\0\0\0\0\0\0\x07" + b"content" + b"print"
    ).digest()[:16]
    assert make_key(b"content", b"print") == expected
    assert make_key(b"contentp", b"rint") != expected
    assert make_key(b"print", b"content") != expected
