"""The cache: arrays kept under 16-byte keys, in memory or in a directory.

It knows nothing of images or networks. The rules:

* An entry never changes; the first value kept under a key wins.
* A reader gets a whole, checked entry or a miss. Arrays come back read-only, over
  immutable bytes, so nothing that is done to them can reach the cache.
* Trouble with a directory (full disk, damaged file, no permission) costs time, never
  a number: `get` misses, `put` warns once for a call site, and both go on. So does a
  lock that cannot be had: what it guards is computed twice.
* Nothing in it can run: numbers as raw bytes, never pickle.
"""

import atexit
import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from sktl._features.sqlite import Database
from sktl._utils.environment import number_from_environment

# Enough for the processes of one machine, and few enough to take all of them.
N_LOCKS = 64
_LOCK_FOLDER = "sktl-locks"

# Half a million rows of 512 float32, and little compared to torch and a network.
_DEFAULT_MEMORY_BYTES = 2**30
# What Python keeps beside the numbers of an entry: two objects, the key, two slots.
_BYTES_PER_ENTRY = 320


class CacheInfo(NamedTuple):
    """What a cache did in this process, and what it holds.

    Attributes
    ----------
    hits, misses : int
        Keys this process asked for that were found, and that were not.
    computed : int
        Values this process computed and handed to the cache.
    entries : int
        Values held now.
    bytes : int
        Their size: memory including bookkeeping (about 320 bytes per entry), or the
        size of the files.
    max_bytes : int or None
        Limit of `bytes`; None if there is none, as for a directory.
    """

    hits: int
    misses: int
    computed: int
    entries: int
    bytes: int
    max_bytes: int | None


class Cache:
    """One per name and process: counts and locks; `rows` stores the arrays.

    Parameters
    ----------
    rows : Memory or Database
    """

    def __init__(self, rows):
        self._rows = rows
        self.is_shared = isinstance(rows, Database)  # by other processes
        self._in_vain = set()  # locks that did not come free
        self.reset()

    def reset(self):
        """Count from zero."""
        self._hits = self._misses = self._computed = 0

    def get(self, keys, again=False):
        """Look `keys` up: a dict of read-only arrays, from which misses are absent.

        Keys that were missed and are asked for `again` are not counted twice.
        """
        with _lock:
            found = self._rows.read(keys)
            n_hits = sum(key in found for key in keys)
            self._hits += n_hits
            self._misses -= n_hits if again else n_hits - len(keys)
        return found

    def put(self, items):
        """Keep the arrays of the dict `items`, each unless its key has one already."""
        for value in items.values():
            if not (isinstance(value, np.ndarray) and value.dtype.kind in "biufc"):
                raise TypeError(f"The cache keeps numeric arrays, not {value!r}.")
        with _lock:
            self._computed += len(items)
            self._rows.write(items)

    @contextlib.contextmanager
    def locked(self, numbers, timeout):
        """Keep other processes from computing what these locks stand for.

        Parameters
        ----------
        numbers : set of int
            From 0 to `N_LOCKS` - 1. Whoever waits for some takes them in this order,
            so that no two processes wait for each other.
        timeout : float
            Seconds to wait for them, 0 for not at all.

        Yields
        ------
        is_ours : bool
            False if another process has one of them.
        """
        deadline = time.monotonic() + timeout
        is_ours = True
        with contextlib.ExitStack() as held:
            for number in sorted(numbers - self._in_vain if self.is_shared else ()):
                seconds = max(0.0, deadline - time.monotonic())
                try:
                    lock = _file_lock(self._rows.directory, number, seconds)
                    held.enter_context(lock)
                except Timeout:
                    if timeout:
                        self._in_vain.add(number)  # once is enough
                    held.close()
                    is_ours = False
                    break
                except (OSError, NotImplementedError):
                    break  # nothing can be locked here
            yield is_ours

    def info(self):
        with _lock:
            counts = self._hits, self._misses, self._computed
            return CacheInfo(*counts, *self._rows.size(), self._rows.max_bytes)

    def clear(self):
        with _lock:
            self._rows.clear()
            self.reset()

    def prune(self, max_bytes, older_than):
        with _lock:
            return self._rows.prune(max_bytes, older_than)

    def release(self):
        """Close what can be opened again."""
        with _lock:
            self._rows.close()


class Memory:
    """Arrays under keys, bounded in bytes; what was used least recently goes first.

    A value larger than the bound is not kept, so a bound of 0 keeps nothing.
    """

    def __init__(self, max_bytes):
        self.max_bytes = max_bytes
        self.clear()

    def clear(self):
        self._entries = OrderedDict()
        self._bytes = 0

    def read(self, keys):
        found = {}
        for key in keys:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
                found[key] = value.view()
        return found

    def write(self, items):
        for key, value in items.items():
            cost = value.nbytes + _BYTES_PER_ENTRY
            if key in self._entries or cost > self.max_bytes:
                continue
            self._entries[key] = np.ndarray(value.shape, value.dtype, value.tobytes())
            self._bytes += cost
            while self._bytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.nbytes + _BYTES_PER_ENTRY

    def size(self):
        return len(self._entries), self._bytes

    def prune(self, max_bytes, older_than):
        raise ValueError(
            "prune_cache is for directories. The cache in memory is limited by the "
            "environment variable SKTL_CACHE_BYTES; clear_cache empties it."
        )

    def close(self):
        pass


_caches = {}
# One for all caches: forking takes it too, because a child inherits what threads hold
# at that moment, SQLite's own locks included, and nobody is there to free them.
_lock = threading.RLock()


def open_cache(cache):
    """Return the cache of that name, always the same one in a process.

    Parameters
    ----------
    cache : "memory", path-like of a directory, or None
        `"memory"`: one per process, bounded. A directory: made when first needed,
        shared by processes, not bounded (see `prune_cache`). None: nothing is kept,
        only counted.
    """
    name = resolve_cache(cache)
    with _lock:
        if name not in _caches:
            # A process that goes through many directories must not run out of files.
            _release_all()
            _caches[name] = Cache(_make_rows(name))
        return _caches[name]


def resolve_cache(cache):
    """Return "memory", None, or the absolute path of a directory."""
    if cache is None or (isinstance(cache, str) and cache == "memory"):
        return cache
    path = os.fspath(cache) if isinstance(cache, os.PathLike) else cache
    if not isinstance(path, str) or not path:
        raise TypeError(
            f"cache={cache!r} is not accepted. Pass 'memory', the path of a "
            "directory (a str, or path-like of one), or None for no caching."
        )
    if isinstance(cache, str) and cache.lower() in ("none", "null", "no", "off"):
        raise ValueError(
            f"cache={cache!r} would be a directory of that name. Pass None, without "
            f"quotes, for no caching, or './{cache}' for the directory."
        )
    if re.match(r"[a-zA-Z][\w+.-]+:/", path):  # a Path has one slash of the two
        raise ValueError(
            f"cache={path!r} is a URL. Pass a directory of this machine (of file://, "
            "the path alone); each machine has its own."
        )
    return os.path.realpath(os.path.expanduser(path))


def _make_rows(name):
    if name is None:
        return Memory(0)
    if name != "memory":
        return Database(name)
    return Memory(
        number_from_environment("SKTL_CACHE_BYTES", _DEFAULT_MEMORY_BYTES, "bytes")
    )


def _release_all():
    for cache in _caches.values():
        cache.release()


def _file_lock(directory, number, seconds):
    folder = Path(directory, _LOCK_FOLDER)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileLock(folder / f"{number:02}", timeout=seconds)


def _after_fork_in_child():
    for cache in _caches.values():
        cache.reset()
    _lock.release()


atexit.register(_release_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_after_fork_in_child,
    )


def cache_info(cache="memory"):
    """Report what a cache holds, and its hits and misses in this process.

    Parameters
    ----------
    cache : "memory", path-like of a directory, or None, default="memory"
        As passed to the estimators. A directory that does not exist is not created.

    Returns
    -------
    info : CacheInfo
        Named tuple of `hits`, `misses` and `computed` (in this process), `entries`,
        `bytes` and `max_bytes`. An `X` of one to three rows, whose features are looked
        up but not cached, counts as hits and misses and not as computed.
    """
    return open_cache(cache).info()


def clear_cache(cache="memory"):
    """Empty a cache and set its counters to zero.

    In a directory, only sktl's own files are touched; damaged ones are removed. Other
    processes that use the directory continue with an empty cache. `"memory"` also frees
    the networks that this process holds in memory, at most 2 GiB; the next call loads
    its network again.

    Parameters
    ----------
    cache : "memory", path-like of a directory, or None, default="memory"
        As passed to the estimators.
    """
    open_cache(cache).clear()
    if cache == "memory":
        from sktl._networks.kept import free_networks  # the rest needs no torch

        free_networks()


def prune_cache(cache, *, max_bytes=None, older_than=None):
    """Remove the least recently used features from a directory, and damaged files.

    A cache directory grows without limit unless you call this function. (The cache in
    memory is limited to 1 GiB, or to the number of bytes in the environment variable
    `SKTL_CACHE_BYTES` at its first use.)

    Parameters
    ----------
    cache : path-like of a directory
        As passed to the estimators.
    max_bytes : int, default=None
        Remove entries until the cache file has at most this many bytes; an empty one
        takes about 65 kB.
    older_than : int, default=None
        Remove entries that were last used more than this many days ago.

    Returns
    -------
    n_removed : int
        Number of entries removed.
    """
    for name, bound in [("max_bytes", max_bytes), ("older_than", older_than)]:
        if bound is not None and (type(bound) is not int or bound < 0):
            raise ValueError(f"{name}={bound!r} must be a whole number, 0 or more.")
    if max_bytes is None and older_than is None:
        raise ValueError("Pass max_bytes (of the file) or older_than (days), or both.")
    return open_cache(cache).prune(max_bytes, older_than)


def make_key(content, fingerprint):
    """Join the digest of an image and that of what is computed from it to one key."""
    length = len(content).to_bytes(8, "big")
    whole = hashlib.sha256(b"sktl key 1\0" + length + content + fingerprint).digest()
    # Half of it tells images apart as well (two of 1e12 keys are the same with a
    # probability of 1e-15), and halves the index of a directory.
    return whole[:16]


def fingerprint(fields):
    """Digest `fields`, a dict of everything that decides a number.

    By canonical JSON, so that equal fields give equal digests in every process.
    What is not plain data is refused.
    """
    text = json.dumps(fields, sort_keys=True, allow_nan=False)
    return hashlib.sha256(b"sktl fingerprint 1\0" + text.encode()).digest()
