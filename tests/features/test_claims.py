"""Claims: who computes what, who waits, and when a claim is void."""

import hashlib
import sqlite3
import threading
import time

import pytest

import sktl._features.claims
import sktl._features.sqlite
from sktl._features.cache import Memory, Store, open_store
from sktl._features.claims import Claims

LOOKS = 20


def keys(*numbers):
    return {hashlib.sha256(str(number).encode()).digest() for number in numbers}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(sktl._features.claims, "_SECONDS_PER_BEAT", 0.02)
    monkeypatch.setattr(sktl._features.claims, "_SECONDS_PER_LOOK", 0.01)
    monkeypatch.setattr(sktl._features.claims, "_LOOKS_UNTIL_VOID", LOOKS)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "cache")


@pytest.fixture
def elsewhere(store):
    """Claims as another process would make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sktl._features.claims, "_TOKEN", b"elsewhere")
        return Claims(store)


@pytest.fixture
def file(store, tmp_path):
    """The table of claims, as anybody may write it."""
    store.claim(keys(0), b"to make the file")
    store.disclaim(keys(0), b"to make the file")
    connection = sqlite3.connect(tmp_path / "cache" / "features.sqlite")
    yield connection
    connection.close()


def test_keys_are_shared_out(store, elsewhere):
    with Claims(store) as here, elsewhere:
        assert here.take(keys(1, 2)) == keys(1, 2)
        assert elsewhere.take(keys(2, 3)) == keys(3)
        assert here.take(keys(1, 2, 3, 4)) == keys(1, 2, 4)


def test_dropped_keys_are_free(store, elsewhere):
    with Claims(store) as here, elsewhere:
        here.take(keys(1, 2))
        here.drop(keys(2, 3))
        assert elsewhere.take(keys(1, 2)) == keys(2)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_all_is_given_up_in_the_end(store, elsewhere, error):
    threads = threading.enumerate()

    def take_and_fail():
        with Claims(store) as here:
            here.take(keys(1, 2))
            raise error

    with pytest.raises(error):
        take_and_fail()
    with elsewhere:
        assert elsewhere.take(keys(1, 2)) == keys(1, 2)
    assert threading.enumerate() == threads


def test_threads_of_a_process_never_wait_for_each_other(store):
    with Claims(store) as one, Claims(store) as other:
        assert one.take(keys(1)) == other.take(keys(1)) == keys(1)


def test_a_store_of_one_process_needs_no_claims():
    threads = threading.enumerate()
    with Claims(Store("memory", Memory(100))) as here:
        assert here.take(keys(1)) == keys(1)
        assert threading.enumerate() == threads


def test_nobody_waits_with_a_claim(store, elsewhere):
    """Two that hold what the other asks for: the first to wait gives up its own."""
    with Claims(store) as here, elsewhere:
        here.take(keys(1))
        elsewhere.take(keys(2))
        waiting = threading.Thread(target=here.wait, args=[keys(2)])
        waiting.start()
        assert elsewhere.wait(keys(1)) == keys(1)
        waiting.join(5)
        assert not waiting.is_alive()


def test_who_is_alive_is_waited_for(store, elsewhere):
    with Claims(store) as here, elsewhere:
        elsewhere.take(keys(1))
        timer = threading.Timer(5 * LOOKS * 0.01, elsewhere.drop)
        timer.start()
        assert here.wait(iter(keys(1))) == keys(1)
        assert timer.finished.is_set()


def test_claim_of_the_dead_is_void(store):
    store.claim(keys(1, 2), b"dead")
    with Claims(store) as here:
        assert here.take(keys(1, 3)) == keys(3)
        assert here.wait(keys(1)) == keys(1)
        assert here.take(keys(2)) == keys(2)


def test_claim_of_one_who_hangs_is_void(store, elsewhere, monkeypatch):
    monkeypatch.setattr(sktl._features.claims, "_MAX_BEATS", 3)
    with Claims(store) as here, elsewhere:
        elsewhere.take(keys(1))
        assert here.wait(keys(1)) == keys(1)


@pytest.mark.parametrize("owner", ["'text'", "NULL", "3", "1.5", "zeroblob(16)"])
@pytest.mark.parametrize("beat", ["'text'", "NULL", "x'ff'", "0"])
def test_planted_claim_delays_only(store, file, owner, beat, monkeypatch):
    monkeypatch.setattr(sktl._features.claims, "_LOOKS_UNTIL_VOID", 3)
    (key,) = keys(1)
    prefix = int.from_bytes(key[:8], "big", signed=True)
    file.execute(f"INSERT INTO claims VALUES ({prefix}, {owner}, {beat})")
    file.commit()
    with Claims(store) as here:
        assert here.wait({key}) == {key}


def test_all_is_free_where_no_claim_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    with Claims(open_store(tmp_path / "file" / "cache")) as here:
        assert here.take(keys(1)) == keys(1)
        assert here.wait(keys(1)) == keys(1)


def test_a_lock_that_is_never_freed_costs_one_wait(store, file, monkeypatch):
    monkeypatch.setattr(sktl._features.sqlite, "_BUSY_SECONDS", 0.3)
    store.release()
    file.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with Claims(store) as here:
        for number in range(10):
            assert here.take(keys(number)) == keys(number)
    assert time.monotonic() - started < 2
