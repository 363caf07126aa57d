"""The cache when disks fill, files break and processes die.

The rule in all of it: never a wrong number, never an exception, a warning at most.
Right numbers follow from a key alone (`row`), so any reader can tell them.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import sktl._features.cache
import sktl._features.sqlite
from sktl._features.cache import cache_info, clear_cache, open_cache, prune_cache
from sktl.exceptions import CacheWarning
from tests.helpers import first_and_slow

N_WIDE = 300

# What every program below starts with. sktl without its front door, which imports
# torch and takes seconds; and the same `key`, `row`, `rows` as in the tests.
PRELUDE = f"""
import hashlib, os, pathlib, signal, sys, threading, types, warnings
import numpy as np
sktl = types.ModuleType("sktl")
sktl.__path__ = [{os.path.dirname(sktl.__file__)!r}]
sys.modules["sktl"] = sktl
import sktl._features.sqlite
from sktl._features.cache import cache_info, clear_cache, open_cache
warnings.simplefilter("error")

def key(number):
    return hashlib.sha256(str(number).encode()).digest()

def row(number):
    return np.arange({N_WIDE}, dtype=np.float32) * number

def rows(numbers):
    return {{key(number): row(number) for number in numbers}}

def n_right(store, numbers):
    numbers = list(numbers)
    found = store.get([key(number) for number in numbers])
    wrong = [n for n in numbers if key(n) in found and (found[key(n)] != row(n)).any()]
    assert not wrong, wrong
    return len(found)
"""


def key(number):
    return hashlib.sha256(str(number).encode()).digest()


def row(number):
    return np.arange(N_WIDE, dtype=np.float32) * number


def rows(numbers):
    return {key(number): row(number) for number in numbers}


def right(store, numbers):
    """The numbers whose rows are found; all that is found must be right."""
    found = store.get([key(number) for number in numbers])
    numbers = [number for number in numbers if key(number) in found]
    assert len(numbers) == len(found)
    for number in numbers:
        np.testing.assert_array_equal(found[key(number)], row(number), strict=True)
    return set(numbers)


def start(script, *arguments, **options):
    return subprocess.Popen(
        [*options.pop("through", ()), sys.executable, "-c", PRELUDE + script]
        + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, timeout=120):
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    return output


@contextlib.contextmanager
def at_most_warnings():
    """Collect warnings, which may be CacheWarnings only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    assert {warning.category for warning in caught} <= {CacheWarning}


def files(directory):
    return sorted(file.name for file in directory.iterdir())


# --- processes that die, meet or fork -------------------------------------------------

WRITER = """
store = open_cache(sys.argv[1])
print("ready", flush=True)
number = int(sys.argv[2])
while True:
    store.put(rows(range(number, number + 20)))
    print(number + 20, flush=True)
    number += 20
"""


@pytest.mark.parametrize(
    "n_rounds", [2, pytest.param(6, marks=pytest.mark.slow)], ids="{} kills".format
)
def test_kill_while_writing_loses_nothing_that_was_written(tmp_path, n_rounds):
    """What `put` had returned from is there, whole; nothing else stays behind.

    Faults 1 and 2.
    """
    rng = random.Random(0)
    written = 0
    for n in range(n_rounds):
        process = start(WRITER, tmp_path, written)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        reported = process.communicate()[0].split("\n")[:-1]
        at_least = int(reported[-1]) if reported else written
        store = open_cache(tmp_path)
        found = right(store, range(at_least + 40))
        assert found >= set(range(at_least))
        written = len(found)
        store.put(rows([-1 - n]))  # SQLite removes a journal with the next write
        store.release()
        assert files(tmp_path) == ["sktl-features.sqlite"]
    assert cache_info(tmp_path).entries == written + n_rounds > n_rounds


RACER = """
me, n_keys = int(sys.argv[2]), int(sys.argv[3])
sys.stdin.readline()
store = open_cache(sys.argv[1])
order = np.random.default_rng(me).permutation(n_keys)
names = [key(number) for number in order]
seen = {}
for start in range(0, n_keys, 25):
    part = names[start : start + 25]
    found = store.get(part)
    store.put({name: np.full(300, me, np.int16) for name in part if name not in found})
    for name, value in store.get(part).items():
        assert (value == value[0]).all()
        seen[name] = value[0]
assert len(seen) == n_keys
assert {name: value[0] for name, value in store.get(names).items()} == seen
print(hashlib.sha256(bytes(seen[key(number)] for number in range(n_keys))).hexdigest())
"""


@pytest.mark.parametrize(("n_writers", "n_keys"), first_and_slow([(3, 500), (8, 2500)]))
def test_writers_of_the_same_keys_agree_on_the_first(tmp_path, n_writers, n_keys):
    """Each wants to store its own value; all read the same one, at all times.

    Faults 7 and 9.
    """
    racers = [
        start(RACER, tmp_path / "new", me, n_keys, stdin=subprocess.PIPE)
        for me in range(n_writers)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    seen = {finish(racer) for racer in racers}
    found = open_cache(tmp_path / "new").get([key(n) for n in range(n_keys)])
    assert seen == {
        hashlib.sha256(bytes(found[key(n)][0] for n in range(n_keys))).hexdigest()
        + "\n"
    }
    open_cache(tmp_path / "new").release()
    assert files(tmp_path / "new") == ["sktl-features.sqlite"]


FORKER = """
def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_forked_child_reads_and_writes(tmp_path):
    """It opens the file for itself, counts from zero, and the parent goes on.

    Fault 10.
    """
    script = """
store, memory = open_cache(sys.argv[1]), open_cache("memory")
store.put(rows(range(50)))
memory.put(rows(range(50)))
parents = store._rows._connection

def work():
    assert cache_info(sys.argv[1])[:3] == cache_info()[:3] == (0, 0, 0)
    assert n_right(store, range(100)) == n_right(memory, range(100)) == 50
    assert store._rows._connection is not parents
    assert parents.total_changes > 0  # which a closed one does not tell
    store.put(rows(range(50, 70)))
    memory.put(rows(range(50, 70)))
    assert cache_info(sys.argv[1])[:3] == cache_info()[:3] == (50, 50, 20)
    clear_cache()

in_child(work)
assert store._rows._connection is parents
assert n_right(store, range(100)) == 70
assert n_right(memory, range(100)) == 50
store.put(rows(range(70, 100)))

child = os.fork()
if not child:
    assert n_right(store, range(100)) == 100
    sys.exit()  # the long way, which closes what is open
assert os.waitpid(child, 0)[1] == 0
store.put(rows([100]))
assert n_right(store, range(101)) == 101
"""
    finish(start(FORKER + script, tmp_path))
    assert right(open_cache(tmp_path), range(100)) == set(range(100))


@pytest.mark.slow
def test_fork_while_another_thread_writes_does_not_hang(tmp_path):
    """That thread may hold the lock of a store; in the child nobody would free it."""
    script = """
stores = open_cache(sys.argv[1]), open_cache("memory")
stop = threading.Event()

def write():
    number = 0
    while not stop.is_set():
        for store in stores:
            store.put(rows(range(number, number + 20)))
        number += 20

def work():
    signal.alarm(60)
    for store in stores:
        n_right(store, range(200))
        other = threading.Thread(target=store.put, args=[rows([-1])])
        other.start()
        other.join()
        assert n_right(store, [-1]) == 1

thread = threading.Thread(target=write)
thread.start()
for _ in range(20):
    in_child(work)
stop.set()
thread.join()
"""
    finish(start(FORKER + script, tmp_path))


# --- places that refuse ---------------------------------------------------------------


def namespace():
    """A command that runs a shell line with file systems of its own, or a skip."""
    command = ["unshare", "-Urm", "sh", "-c"]
    probe = "mount -t tmpfs -o size=64k tmpfs /mnt"
    try:
        subprocess.run([*command, probe], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs user namespaces to mount a file system of its own: {error}")
    return command


FILLER = """
warnings.simplefilter("always")
place = pathlib.Path(sys.argv[1])
before = 200
with warnings.catch_warnings(record=True) as caught:
    store = open_cache(place / "cache")
    store.put(rows(range(before)))
    for number in range(before, 8_000, 100):
        store.put(rows(range(number, number + 100)))
    n_kept = n_right(store, range(8_000))
    assert before <= n_kept < 8_000, n_kept
    assert n_right(store, range(before)) == before
store.release()
assert n_right(store, range(8_000)) >= before
assert len(caught) == 1, [str(warning.message) for warning in caught]
assert "features could not be saved" in str(caught[0].message)
assert caught[0].filename == "<string>"
print(n_kept)
"""


def test_full_disk_keeps_what_it_has_and_warns_once(tmp_path):
    """Fault 6."""
    script = FILLER + (
        "(place / 'filler').unlink()\n"
        "store.put(rows([-1]))\n"
        "assert n_right(store, [-1]) == 1\n"
    )
    setting = (
        f"mount -t tmpfs -o size=6m tmpfs '{tmp_path}' && "
        f"head -c 1000000 /dev/zero > '{tmp_path}/filler' && exec \"$@\""
    )
    through = [*namespace(), setting, "sh"]
    finish(start(script, tmp_path, through=through))


@pytest.mark.parametrize(
    "call", ["clear_cache(cache)", "prune_cache(cache, max_bytes=400_000)"]
)
def test_features_are_removed_from_a_full_disk(tmp_path, call):
    """Which is when they have to be; no byte is free for a journal."""
    script = f"""
from sktl._features.cache import prune_cache
cache = pathlib.Path(sys.argv[1]) / "cache"
store = open_cache(cache)
store.put(rows(range(500)))
before = cache_info(cache)
with open(cache / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
assert os.statvfs(cache).f_bavail == 0
{call}
left = cache_info(cache)
assert left.bytes <= 400_000 < before.bytes
assert n_right(store, range(500)) == left.entries < before.entries
store.put(rows(range(50)))
assert n_right(store, range(50)) == 50
store.release()
assert sorted(os.listdir(cache)) == ["filler", "sktl-features.sqlite"]
"""
    setting = f"mount -t tmpfs -o size=2m tmpfs '{tmp_path}' && exec \"$@\""
    finish(start(script, tmp_path, through=[*namespace(), setting, "sh"]))


def test_file_size_limit_keeps_what_it_has_and_warns_once(tmp_path):
    """As a full disk, for machines where the test before cannot run."""
    limit = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000,) * 2)"
    )
    finish(start(f"{limit}\n{FILLER}", tmp_path))


def test_read_only_place_is_read_and_warns_once(tmp_path):
    script = """
from sktl._features.cache import prune_cache
store = open_cache(pathlib.Path(sys.argv[1]) / "cache")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        assert n_right(store, range(100)) == 50
        store.put(rows(range(50, 100)))
assert len(caught) == 1, caught
assert "features could not be saved" in str(caught[0].message)
assert cache_info(pathlib.Path(sys.argv[1]) / "cache").entries == 50
for remove in (clear_cache, lambda cache: prune_cache(cache, max_bytes=0)):
    try:
        remove(pathlib.Path(sys.argv[1]) / "cache")
    except OSError as error:
        told = str(error)
        assert told.startswith("cache=") and sys.argv[1] in told, told
        assert "readonly" in told and "delete it while no process uses it" in told
    else:
        raise AssertionError
absent = open_cache(pathlib.Path(sys.argv[1]) / "absent")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert n_right(absent, range(5)) == 0
    absent.put(rows(range(5)))
assert len(caught) == 1, caught
"""
    place = tmp_path / "place"
    store = open_cache(place / "cache")
    store.put(rows(range(50)))
    store.release()
    setting = (
        f"mount --bind '{place}' '{place}' && "
        f"mount -o remount,bind,ro '{place}' && exec \"$@\""
    )
    finish(start(script, place, through=[*namespace(), setting, "sh"]))
    assert files(place / "cache") == ["sktl-features.sqlite"]


def a_file(path):
    path.write_text("in the way")
    return path


def below_a_file(path):
    path.write_text("in the way")
    return path / "cache"


@pytest.mark.parametrize("make", [a_file, below_a_file])
def test_place_that_can_hold_no_file_warns_once(tmp_path, make):
    store = open_cache(make(tmp_path / "place"))
    with at_most_warnings() as caught:
        for _ in range(3):
            assert right(store, range(5)) == set()
            store.put(rows(range(5)))
    assert len(caught) == 1
    assert store._computed == 15


def test_warning_comes_once_from_each_call_site(tmp_path):
    """And points at it."""
    store = open_cache(a_file(tmp_path / "file"))
    with at_most_warnings() as caught:
        for _ in range(3):
            store.put(rows([0]))
        store.put(rows([1]))
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert caught[1].lineno == caught[0].lineno + 1
    for warning in caught:
        assert f"cache={str(tmp_path / 'file')!r}: features could not be saved (" in (
            str(warning.message)
        )
        assert "The results are right" in str(warning.message)


def test_warning_comes_again_after_the_cache_was_cleared(tmp_path):
    place = tmp_path / "place"
    store = open_cache(a_file(place))
    with at_most_warnings() as caught:
        for n_warnings in (1, 1, 2):
            if n_warnings == 2:
                place.unlink()
                clear_cache(place)
                a_file(place)
            store.put(rows([0]))
            assert len(caught) == n_warnings


def test_lock_of_others_is_waited_for_once(tmp_path):
    store = open_cache(tmp_path)
    (tmp_path / "sktl-locks").mkdir()
    with FileLock(tmp_path / "sktl-locks" / "03"):
        with store.locked({2, 3, 4}, 0.1) as is_ours:
            assert not is_ours
            for number in ("02", "04"):  # and no other is kept meanwhile
                with FileLock(tmp_path / "sktl-locks" / number, timeout=0):
                    pass
        started = time.monotonic()
        with store.locked({2, 3}, 60) as is_ours:
            assert is_ours
        assert time.monotonic() - started < 30


def test_lock_of_others_costs_nothing_where_no_time_is_given(tmp_path):
    store = open_cache(tmp_path)
    (tmp_path / "sktl-locks").mkdir()
    with FileLock(tmp_path / "sktl-locks" / "03"):
        started = time.monotonic()
        for _ in range(10):
            with store.locked({3}, 0) as is_ours:
                assert not is_ours
        assert time.monotonic() - started < 5
    with store.locked({3}, 0) as is_ours:
        assert is_ours


def test_lock_that_is_never_freed_costs_one_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(sktl._features.sqlite, "_BUSY_SECONDS", 0.3)
    store = open_cache(tmp_path)
    store.put(rows(range(5)))
    other = sqlite3.connect(tmp_path / "sktl-features.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with at_most_warnings() as caught:
        for _ in range(20):
            store.put(rows(range(10)))
            assert right(store, range(10)) == set(range(5))
    assert time.monotonic() - started < 3
    assert len(caught) == 1
    other.close()
    store.clear()
    store.put(rows(range(10)))
    assert right(store, range(10)) == set(range(10))


def test_managing_says_when_it_could_not(tmp_path):
    """Whoever asks for it by name gets an error: nothing else was asked for."""
    with pytest.raises(OSError, match="file"):
        cache_info(a_file(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        clear_cache(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        prune_cache(tmp_path / "file", max_bytes=0)


# --- files that vanish or break -------------------------------------------------------


def test_directory_deleted_meanwhile_is_made_again(tmp_path):
    store = open_cache(tmp_path / "cache")
    for n_rows in (50, 60, 70):
        store.put(rows(range(n_rows)))
        assert right(store, range(n_rows)) == set(range(n_rows))
        shutil.rmtree(tmp_path / "cache")
        right(store, range(n_rows))
        new = range(10 * n_rows, 10 * n_rows + 10)
        store.put(rows(new))
        store.release()
        assert right(store, [*range(n_rows), *new]) == set(new)


@pytest.mark.parametrize("suffix", ["", "-journal"])
@pytest.mark.parametrize("is_open", [True, False])
def test_file_deleted_meanwhile_is_a_miss_at_most(tmp_path, suffix, is_open):
    store = open_cache(tmp_path)
    store.put(rows(range(50)))
    if not is_open:
        copy_files(tmp_path, tmp_path / "copy")
        store = open_cache(tmp_path / "copy")
    (store._rows.directory / f"sktl-features.sqlite{suffix}").unlink(missing_ok=True)
    with at_most_warnings():
        right(store, range(50))
        store.put(rows(range(100)))
        assert right(store, range(100)) == set(range(100))
        store.release()
        right(store, range(100))
        store.put(rows(range(100)))
        assert right(store, range(100)) == set(range(100))


def test_cleared_by_another_process_while_open(tmp_path):
    store = open_cache(tmp_path)
    store.put(rows(range(50)))
    script = "clear_cache(sys.argv[1])\nopen_cache(sys.argv[1]).put(rows(range(5)))"
    finish(start(script, tmp_path))
    assert right(store, range(50)) == set(range(5))
    store.put(rows(range(50)))
    finish(start("assert n_right(open_cache(sys.argv[1]), range(50)) == 50", tmp_path))
    assert files(tmp_path) == ["sktl-features.sqlite"]


def copy_files(source, target):
    """Copy the files of a cache that is open, as a killed process leaves them."""
    target.mkdir()
    for file in source.glob("sktl-features*"):
        shutil.copy(file, target)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """60 rows; and 30 as a process leaves them that was killed adding thousands."""
    root = tmp_path_factory.mktemp("sound")
    store = open_cache(root / "whole")
    store.put(rows(range(30)))
    store.release()
    name = root / "whole" / "sktl-features.sqlite"
    writer = sqlite3.connect(name, isolation_level=None)
    writer.execute("PRAGMA cache_size = 2")  # pages go to the file before the commit
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE features SET last_day = 1")
    add = "INSERT INTO features SELECT randomblob(32), 1, 1200, dtype, shape, payload, "
    for _ in range(4):
        writer.execute(add + "checksum FROM features")
    copy_files(root / "whole", root / "killed")
    writer.execute("ROLLBACK")
    writer.close()
    store.put(rows(range(30, 60)))
    store.release()
    assert files(root / "whole") == ["sktl-features.sqlite"]
    assert files(root / "killed") == [name.name, f"{name.name}-journal"]
    return root


def flip(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def smear(file, rng):
    """Write noise over a stretch, as a bad sector does."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    content[at : at + 512] = rng.randbytes(len(content[at : at + 512]))
    file.write_bytes(content)


def check_survives(store):
    """Read, compute again what misses, and so on until nothing does; return the first.

    It can take up to three times: what was found misses next when the file is set
    aside only while it is written to. And pages that SQLite has in memory hide damage
    until the file is opened anew.
    """
    with at_most_warnings() as caught:
        found = right(store, range(60))
        for _ in range(2):
            for _ in range(3):
                store.put(rows(set(range(60)) - right(store, range(60))))
            assert right(store, range(60)) == set(range(60))
            store.release()
        assert right(store, range(60)) == set(range(60))
        assert cache_info(store._rows.directory).entries >= 60
    assert len(caught) <= 2
    return found


@pytest.mark.parametrize("damage", [flip, cut, smear])
@pytest.mark.parametrize(
    "n_rounds", [10, pytest.param(60, marks=pytest.mark.slow)], ids="{} times".format
)
def test_damaged_file_never_gives_a_wrong_number(tmp_path, sound, damage, n_rounds):
    """And heals: what is put again is found again. Faults 3 and 4."""
    rng = random.Random(damage.__name__)
    n_found = 0
    for number in range(n_rounds):
        directory = tmp_path / str(number)
        shutil.copytree(sound / "whole", directory)
        damage(directory / "sktl-features.sqlite", rng)
        store = open_cache(directory)
        n_found += len(check_survives(store))
        store.release()
        shutil.rmtree(directory)
    # Else the damage would never have been in a row: flips hit one row, cuts many.
    assert n_found < 60 * n_rounds
    if damage is flip:
        assert n_found > 60 * n_rounds * 0.8


def test_sound_journal_undoes_what_a_killed_process_had_begun(tmp_path, sound):
    shutil.copytree(sound / "killed", tmp_path / "cache")
    store = open_cache(tmp_path / "cache")
    assert right(store, range(60)) == set(range(30))
    assert cache_info(tmp_path / "cache").entries == 30


def test_kill_while_removing_from_a_full_disk_never_gives_a_wrong_number(
    tmp_path, sound
):
    """There is no journal then: the file is left with half of the work in it."""
    n_found = []
    for n_removed in range(5, 60, 6):
        whole, killed = tmp_path / f"whole {n_removed}", tmp_path / f"{n_removed}"
        shutil.copytree(sound / "whole", whole)
        writer = sqlite3.connect(whole / "sktl-features.sqlite", isolation_level=None)
        writer.execute("PRAGMA journal_mode = MEMORY")
        writer.execute("PRAGMA cache_size = 2")  # pages go to the file at once
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM features WHERE rowid <= ?", (n_removed,))
        copy_files(whole, killed)
        writer.execute("ROLLBACK")
        writer.close()
        assert files(killed) == ["sktl-features.sqlite"]
        store = open_cache(killed)
        n_found.append(len(check_survives(store)))
        store.release()
    assert min(n_found) < 60  # else nothing had reached the file


@pytest.mark.parametrize("damage", first_and_slow([cut, flip, smear]))
@pytest.mark.parametrize("n_rounds", first_and_slow([8, 25]), ids="{} times".format)
def test_damaged_journal_never_gives_a_wrong_number(tmp_path, sound, damage, n_rounds):
    rng = random.Random(damage.__name__)
    for number in range(n_rounds):
        directory = tmp_path / str(number)
        shutil.copytree(sound / "killed", directory)
        damage(directory / "sktl-features.sqlite-journal", rng)
        store = open_cache(directory)
        check_survives(store)
        store.release()


@pytest.mark.parametrize("damage", first_and_slow([cut, flip, smear]))
@pytest.mark.parametrize("n_rounds", first_and_slow([8, 25]), ids="{} times".format)
def test_file_damaged_while_open_never_gives_a_wrong_number(
    tmp_path, sound, damage, n_rounds
):
    rng = random.Random(damage.__name__)
    for number in range(n_rounds):
        directory = tmp_path / str(number)
        shutil.copytree(sound / "whole", directory)
        store = open_cache(directory)
        assert right(store, range(0, 60, 7)) == set(range(0, 60, 7))
        damage(directory / "sktl-features.sqlite", rng)
        check_survives(store)
        store.release()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
@pytest.mark.parametrize(
    ("mode", "owner", "message"),
    [
        (0o700, None, None),
        (0o755, None, None),
        (0o775, None, None),  # the user's own group
        (0o777, None, "may be written to by every user"),
        (0o755, 4321, "belongs to another user"),
        (0o775, (-1, 4321), "may be written to by another group"),
    ],
)
def test_directory_that_others_may_write_to_is_warned_about(
    tmp_path, mode, owner, message
):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    if owner is not None:
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(cache, *(owner if isinstance(owner, tuple) else (owner, -1)))
    with at_most_warnings() as caught:
        open_cache(cache).put(rows(range(5)))
        assert right(open_cache(cache), range(5)) == set(range(5))
    assert len(caught) == (message is not None)
    told = f"cache={str(cache)!r} {message} of this machine"
    assert message is None or str(caught[0].message).startswith(told)


@pytest.mark.parametrize(
    ("mounted", "kind"),
    [
        ("{0} nfs4", "nfs4"),
        ("/ nfs\n{0} ext4", None),  # the innermost counts
        ("/ ext4\n{0}/with\\040space cifs", "cifs"),
        ("{0}/with fuse.sshfs", None),  # another directory, whose name begins alike
        ("{0} ext4\n{0} fuse.sshfs", "fuse.sshfs"),  # the later one is on top
        (None, None),  # a system without such a list
    ],
)
def test_directory_on_a_network_drive_is_warned_about(
    tmp_path, monkeypatch, mounted, kind
):
    cache, mounts = tmp_path / "with space" / "cache", tmp_path / "mounts"
    if mounted is not None:
        lines = mounted.format(tmp_path).splitlines()
        mounts.write_text("".join(f"host:/x {line} rw 0 0\n" for line in lines))
    monkeypatch.setattr(sktl._features.sqlite, "MOUNTS", mounts)
    with at_most_warnings() as caught:
        open_cache(cache).put(rows(range(5)))
        assert right(open_cache(cache), range(5)) == set(range(5))
    assert len(caught) == (kind is not None)
    told = f"cache={str(cache)!r} is on a network drive ({kind})."
    assert kind is None or str(caught[0].message).startswith(told)


FOREIGN = {
    "text": b"This is no database.\n" * 100,
    "zeros": bytes(50_000),
    "header only": b"SQLite format 3\0" + bytes(84),
    "SQLite of others": "CREATE TABLE features (name TEXT)",
}


def put_foreign(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(content)
        connection.close()
    make_old(path)


def make_old(path):
    """A file without a stamp is waited for while it is new."""
    os.utime(path, (0, 0), follow_symlinks=False)


@pytest.mark.parametrize("name", first_and_slow(FOREIGN))
def test_file_that_sktl_did_not_make_is_renamed_and_kept(tmp_path, name):
    put_foreign(tmp_path / "sktl-features.sqlite", FOREIGN[name])
    content = (tmp_path / "sktl-features.sqlite").read_bytes()
    store = open_cache(tmp_path)
    with pytest.warns(CacheWarning, match="not a file of sktl. It was renamed"):
        store.put(rows(range(5)))
    with at_most_warnings():
        assert right(store, range(5)) == set(range(5))
        store.release()
        assert right(store, range(5)) == set(range(5))
        assert cache_info(tmp_path).entries == 5
        prune_cache(tmp_path, older_than=1)
        clear_cache(tmp_path)
    assert (tmp_path / "sktl-features-damaged.sqlite").read_bytes() == content
    assert cache_info(tmp_path).entries == 0
    store.release()
    put_foreign(tmp_path / "sktl-features.sqlite", b"another")
    with pytest.warns(CacheWarning, match="could not be saved .* is in the way"):
        store.put(rows(range(5)))
    assert (tmp_path / "sktl-features-damaged.sqlite").read_bytes() == content
    assert (tmp_path / "sktl-features.sqlite").read_bytes() == b"another"


def test_nothing_is_kept_where_a_folder_has_our_name(tmp_path):
    (tmp_path / "sktl-features.sqlite").mkdir()
    with pytest.warns(CacheWarning, match="could not be saved .*a link or a folder"):
        open_cache(tmp_path).put(rows(range(5)))
    assert right(open_cache(tmp_path), range(5)) == set()


@pytest.mark.parametrize("name", ["", "-journal"])
def test_link_is_not_followed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"sktl-features.sqlite{name}").symlink_to(victim)
    store = open_cache(cache)
    with pytest.warns(CacheWarning, match="could not be saved .*a link or a folder"):
        store.put(rows(range(5)))
    assert right(store, range(5)) == set()
    clear_cache(cache)
    assert victim.read_bytes() == b""
    assert (cache / f"sktl-features.sqlite{name}").is_symlink()


def test_damaged_file_is_set_aside_and_removed_by_name_only(tmp_path):
    open_cache(tmp_path).put(rows(range(60)))
    open_cache(tmp_path).release()
    file = tmp_path / "sktl-features.sqlite"
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes(len(content) - 100))
    with pytest.warns(CacheWarning, match="is damaged .* a new file takes its place"):
        open_cache(tmp_path).put(rows(range(5)))
    assert files(tmp_path) == ["sktl-features-damaged.sqlite", "sktl-features.sqlite"]
    assert right(open_cache(tmp_path), range(60)) == set(range(5))
    prune_cache(tmp_path, older_than=1)
    assert files(tmp_path) == ["sktl-features.sqlite"]


def test_versions_of_sktl_that_share_a_directory_leave_each_other_alone(tmp_path):
    """A later one, with another format, is made from the text of this one."""
    text = Path(sktl._features.sqlite.__file__).read_text("utf-8")
    assert text.count("\nVERSION = 1\n") == 1
    later = types.ModuleType("later")
    exec(text.replace("\nVERSION = 1\n", "\nVERSION = 2\n"), vars(later))
    ours, theirs = sktl._features.sqlite.Database(tmp_path), later.Database(tmp_path)
    ours.write(rows(range(60)))
    theirs.write(rows(range(30)))
    for one, other in [(ours, theirs), (theirs, ours)]:
        kept = {path: path.read_bytes() for path in other._files()}
        assert len(kept) == 1
        one._path.write_bytes(one._path.read_bytes()[:100] + bytes(50_000))
        with pytest.warns(CacheWarning, match="is damaged .* It was renamed"):
            one.write(rows(range(5)))
        assert len(one.read([key(n) for n in range(60)])) == 5
        one.prune(max_bytes=0, older_than=None)
        one.write(rows(range(5)))
        one.clear()
        assert one.size()[0] == 0
        assert {path: path.read_bytes() for path in other._files()} == kept
    ours.close(), theirs.close()


def test_empty_file_is_an_empty_cache(tmp_path):
    (tmp_path / "sktl-features.sqlite").touch()
    store = open_cache(tmp_path)
    assert right(store, range(5)) == set()
    store.put(rows(range(5)))
    assert right(store, range(5)) == set(range(5))


# --- rows that somebody planted -------------------------------------------------------


def plant(directory, number, dtype, shape, payload):
    """Write a row whose checksum is right, as whoever can write the file may."""
    parts = b"sktl entry 1", key(number), dtype, shape, payload
    try:
        checksum = hashlib.sha256(b"\0".join(parts)).digest()[:16]
    except TypeError:
        checksum = bytes(16)
    with sqlite3.connect(directory / "sktl-features.sqlite") as connection:
        connection.execute(
            "INSERT INTO features VALUES (?, 20000, 1, ?, ?, ?, ?)",
            (key(number), dtype, shape, payload, checksum),
        )
    connection.close()


def test_planted_row_that_is_well_formed_is_read(tmp_path):
    """The control of the tests below: their rows fail for what they say alone."""
    open_cache(tmp_path).put(rows([0]))
    plant(tmp_path, 7, b"<f4", str(N_WIDE).encode(), row(7).tobytes())
    assert right(open_cache(tmp_path), range(10)) == {0, 7}


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def bomb(marker):
    import pickle

    return pickle.dumps(Bomb(marker))


@pytest.mark.parametrize("dtype", [b"|O", b"O", b"|O8", b"object", b"<f4", b"|V1"])
def test_planted_pickle_never_runs(tmp_path, dtype):
    """Fault 15."""
    marker = tmp_path / "it ran"
    payload = bomb(marker)
    store = open_cache(tmp_path / "cache")
    store.put(rows([0]))
    for number, shape in enumerate([b"", b"1", str(len(payload)).encode()], 1):
        plant(tmp_path / "cache", number, dtype, shape, payload)
    assert right(store, range(4)) == {0}
    assert not marker.exists()
    store.put(rows(range(4)))
    assert right(store, range(4)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("dtype", "shape", "payload"),
    [
        (b"<f4", b"3", bytes(8)),
        (b"<f4", b"-1,-2", bytes(8)),
        (b"<f4", b"-2", bytes(8)),
        (b"<f4", b"2,", bytes(8)),
        (b"<f4", b"two", bytes(8)),
        (b"<f4", b"1" * 5000, bytes(8)),
        (b"<f4", b"0,1000000000000000000000000000000", b""),
        (b"<f4", b"1," * 70 + b"2", bytes(8)),
        (b"<f3", b"2", bytes(6)),
        (b"<M8[s]", b"1", bytes(8)),
        (b"i4,i4", b"1", bytes(8)),
        (b"\xff\xfe", b"1", bytes(8)),
        ("<f4", b"2", bytes(8)),
        (b"<f4", "2", bytes(8)),
        (b"<f4", 2, bytes(8)),
        (4.5, b"2", bytes(8)),
        (b"<f4", b"2", None),
        (None, None, None),
    ],
    ids=str,
)
def test_planted_row_that_makes_no_sense_is_a_miss(tmp_path, dtype, shape, payload):
    store = open_cache(tmp_path)
    store.put(rows([0]))
    plant(tmp_path, 1, dtype, shape, payload)
    assert right(store, range(2)) == {0}
    store.put(rows([1]))
    assert right(store, range(2)) == {0, 1}
