"""Arrays in a directory: one SQLite file, shared by the processes of a machine.

The only user of SQLite, and the half of the feature store that can meet trouble.
Correctness rests on the checksum of each row alone, not on SQLite, its locks or the
file system: any file may be damaged, cut or deleted at any time.
"""

import contextlib
import functools
import hashlib
import math
import os
import re
import sqlite3
import time
from pathlib import Path

import numpy as np

from sktl.exceptions import CacheWarning, warn_caller

# SQLite before 3.32 takes 999 variables in a statement.
_KEYS_PER_STATEMENT = 500
# Bounds how long a writer keeps the others waiting, and what a kill can lose.
_ROWS_PER_TRANSACTION = 5000
_BUSY_SECONDS = 30
# What failed is left alone this long: a lock that somebody holds for ever must not
# cost `_BUSY_SECONDS` with every batch.
_REST_SECONDS = 60
_FILE_NAME = re.compile(r"features(?:\.(\d{1,9}))?\.sqlite(?:-wal|-shm|-journal)?")
_DTYPE = re.compile(rb"[<>|][biufc]\d{1,2}")

# 16 kB pages: rows of 2 kB take 1.16 times their bytes on disk, 2.0 with 4 kB pages.
# synchronous=OFF halves the time of a write. A killed process cannot break the file
# then, only a power cut can, and the checksums find that.
# Two tables: looking up, counting and marking as used must not touch the numbers.
# The first 8 bytes of a key find its row, the checksum proves all 32: an index of
# whole keys is twice as large, and small transactions rewrite most of it.
_SETUP = (
    "PRAGMA synchronous = OFF",  # first: the others already write
    "PRAGMA page_size = 16384",
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA cache_size = -16384",
    "PRAGMA secure_delete = OFF",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "CREATE TABLE IF NOT EXISTS entries "
    "(prefix INTEGER PRIMARY KEY, id INTEGER, last_day INTEGER, size INTEGER)",
    "CREATE TABLE IF NOT EXISTS numbers "
    "(id INTEGER PRIMARY KEY, dtype BLOB, shape BLOB, payload BLOB, checksum BLOB)",
    "CREATE TABLE IF NOT EXISTS claims "
    "(prefix INTEGER PRIMARY KEY, owner BLOB, beat INTEGER)",
)
_TROUBLE = (sqlite3.Error, OSError, OverflowError)
# Result codes that accuse the place; all others accuse the file.
_PLACE_CODES = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in "PERM BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN "
    "PROTOCOL NOLFS AUTH".split()
}

# Connections of a parent process: never used, and never closed, which would touch
# files that the parent is using.
_inherited = []


class Database:
    """Shelf in a directory. Not for two threads at once.

    Its file is `features.sqlite`; after that was cleared, or found damaged and set
    aside, `features.1.sqlite` and so on: the highest number counts. No name is used
    twice, because SQLite deletes the write-ahead log by its name on closing, and
    another process may still have the old file open.
    """

    max_bytes = None

    def __init__(self, directory):
        self._directory = directory
        self._generation = 0
        self._connection = self._opened_as = None
        self._failed = {}  # what failed -> (time to try again, why)
        self._warned_at = set()

    def read(self, keys):
        try:
            return self._attempt(_read_rows, keys)
        except OSError:
            return {}

    def write(self, items):
        try:
            self._attempt(_write_rows, items)
        except OSError as error:
            self._warn(
                f"cache={self._directory!r}: features could not be stored ({error}). "
                "The results are right; what is not stored is computed again next "
                "time. Make room, or pass a directory that can be written."
            )

    def claim(self, keys, owner, void):
        return self._try_on_claims(_claim_rows, keys, owner, void) or {}

    def refresh(self, owner):
        self._try_on_claims(_refresh_rows, owner)

    def disclaim(self, keys, owner):
        self._try_on_claims(_disclaim_rows, keys, owner)

    def _try_on_claims(self, work, *args):
        # Where nothing can be written, one wait for a lock is enough.
        with contextlib.suppress(OSError):
            return self._attempt(work, *args, fails_with=_write_rows)

    def size(self):
        if not self._files():
            return 0, 0
        n_entries, n_bytes = self._attempt(_count_rows), 0
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):
                n_bytes += os.path.getsize(file)
        return n_entries, n_bytes

    def prune(self, max_bytes, older_than):
        files = self._files()
        if not files:
            return 0
        _unlink(files, below=max(files.values()))
        return self._attempt(_prune_rows, max_bytes, older_than)

    def clear(self):
        self._failed.clear()
        self._warned_at.clear()
        files = self._files()
        if files:
            self.close()
            self._generation = max(files.values()) + 1
            self._path().touch()
            _unlink(files, below=self._generation)

    def close(self):
        connection, self._connection = self._connection, None
        if connection is not None and self._opened_as[0] != os.getpid():
            _inherited.append(connection)
        elif connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _attempt(self, work, *args, fails_with=None):
        """Do `work` on a live connection, setting a damaged file aside if need be."""
        name = fails_with or work
        until, reason = self._failed.get(name, (0, ""))
        if time.monotonic() < until:
            raise OSError(reason)
        for is_retry in (False, True):
            try:
                return work(self._connected(), *args)
            except _TROUBLE as error:
                if is_retry or not _accuses_file(error):
                    self._failed[name] = time.monotonic() + _REST_SECONDS, str(error)
                    raise OSError(str(error)) from error
                self._set_aside(error)

    def _set_aside(self, error):
        damaged = self._path()
        self.close()
        self._generation += 1
        self._warn(
            f"cache={self._directory!r}: {damaged.name} is damaged ({error}). The "
            "results are right, and a new file takes its place. sktl.prune_cache and "
            "sktl.clear_cache remove the damaged one."
        )

    def _connected(self):
        if self._connection is not None and self._opened_as != self._identity():
            self.close()
        if self._connection is None:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._generation = max(self._generation, *self._files().values(), 0)
            self._connection = _connect(self._path())
            self._opened_as = self._identity()
        return self._connection

    def _identity(self):
        """Tell this process and this file: neither may change under a connection."""
        try:
            status = os.stat(self._path())
        except OSError:
            return os.getpid(), None
        return os.getpid(), (status.st_dev, status.st_ino)

    def _path(self):
        number = f".{self._generation}" if self._generation else ""
        return Path(self._directory, f"features{number}.sqlite")

    def _files(self):
        """Map the files that are there to their generations."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return {}
        matches = filter(None, map(_FILE_NAME.fullmatch, names))
        return {Path(self._directory, m[0]): int(m[1] or 0) for m in matches}

    def _warn(self, message):
        """Warn, once for each place outside this package that it comes from."""
        warn_caller(message, CacheWarning, self._warned_at)


def _unlink(files, below):
    for file, generation in files.items():
        if generation < below:
            file.unlink(missing_ok=True)


def _connect(path):
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return _set_up(path)
        except sqlite3.OperationalError as error:
            # The switch to WAL does not wait for others that do the same.
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _set_up(path):
    # Where this process cannot write, the file is taken as it is: with that promise
    # SQLite needs no files beside it. If another process breaks it, checksums tell.
    can_write = os.access(path.parent, os.W_OK)
    connection = sqlite3.connect(
        path if can_write else f"{path.as_uri()}?mode=ro&immutable=1",
        uri=not can_write,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = bytes  # damaged text must not fail to decode
        for statement in _SETUP if can_write else ():
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _accuses_file(error):
    """Tell a broken file from a place that is full, locked or not allowed."""
    if isinstance(error, OSError):
        return False
    return getattr(error, "sqlite_errorcode", -1) & 0xFF not in _PLACE_CODES


@contextlib.contextmanager
def _transaction(connection, kind="DEFERRED"):
    try:
        connection.execute(f"BEGIN {kind}")
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _read_rows(connection, keys):
    asked = {_prefix(key): key for key in keys}
    found, ids, idle, today = {}, {}, [], _today()
    # Both look-ups in the order of their table, or large tables are read many times.
    with _transaction(connection):
        entries = "SELECT prefix, id, last_day FROM entries WHERE prefix IN"
        for prefix, id_, last_day in _select(connection, entries, sorted(asked)):
            ids[prefix] = id_
            if last_day != today:
                idle.append((today, prefix))
        keys_of = {i: asked[prefix] for prefix, i in ids.items() if type(i) is int}
        numbers = "SELECT id, dtype, shape, payload, checksum FROM numbers WHERE id IN"
        for id_, *row in _select(connection, numbers, sorted(keys_of)):
            value = _decode(keys_of[id_], *row)
            if value is not None:
                found[keys_of[id_]] = value
    if idle or len(found) < len(ids):
        wrong = [pair for pair in ids.items() if asked[pair[0]] not in found]
        _mend(connection, wrong, idle)
    return found


def _mend(connection, wrong, idle):
    """Delete rows that failed their check; mark the others as used today."""
    # Damage may have made a text of an id, which was read as bytes.
    same_id = "CAST(id AS BLOB) IS CAST(? AS BLOB)"
    try:
        with _transaction(connection, "IMMEDIATE"):
            mark = "UPDATE entries SET last_day = ? WHERE prefix = ?"
            connection.executemany(mark, idle)
            drop = f"DELETE FROM entries WHERE prefix = ? AND {same_id}"
            connection.executemany(drop, wrong)
            drop = "DELETE FROM numbers WHERE id IS ?"
            connection.executemany(drop, [(id_,) for _, id_ in wrong])
    except _TROUBLE as error:
        if _accuses_file(error):
            raise


def _write_rows(connection, items):
    today = _today()
    # What SQLite takes for one row, 10**9 bytes; a larger value is not kept.
    limit = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - 1000
    pairs = [pair for pair in items.items() if pair[1].nbytes <= limit]
    for chunk in _chunks(pairs, _ROWS_PER_TRANSACTION):
        with _transaction(connection, "IMMEDIATE"):
            last = connection.execute("SELECT coalesce(max(id), 0) FROM numbers")
            numbered = list(enumerate(chunk, last.fetchone()[0] + 1))
            connection.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)",
                sorted((_prefix(k), id_, today, v.nbytes) for id_, (k, v) in numbered),
            )
            # Only where the entry is the one just made: the first value wins.
            connection.executemany(
                "INSERT INTO numbers SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS "
                "(SELECT 1 FROM entries WHERE prefix = ?6 AND id = ?1)",
                ((id_, *_encode(k, v), _prefix(k)) for id_, (k, v) in numbered),
            )


def _claim_rows(connection, keys, owner, void):
    asked = {_prefix(key): key for key in keys}
    with _transaction(connection, "IMMEDIATE"):
        drop = "DELETE FROM claims WHERE owner IS ?"
        connection.executemany(drop, [(other,) for other in void])
        add = "INSERT OR IGNORE INTO claims VALUES (?, ?, 0)"
        pairs = [(prefix, owner) for prefix in sorted(asked)]
        if connection.executemany(add, pairs).rowcount == len(asked):
            return {}
        held = "SELECT prefix, owner, beat FROM claims WHERE prefix IN"
        rows = list(_select(connection, held, sorted(asked)))
    return {asked[prefix]: (who, beat) for prefix, who, beat in rows if who != owner}


def _refresh_rows(connection, owner):
    connection.execute("UPDATE claims SET beat = beat + 1 WHERE owner = ?", (owner,))


def _disclaim_rows(connection, keys, owner):
    drop = "DELETE FROM claims WHERE prefix = ? AND owner = ?"
    with _transaction(connection, "IMMEDIATE"):
        connection.executemany(drop, [(_prefix(key), owner) for key in keys])


def _count_rows(connection):
    return connection.execute("SELECT count(*) FROM entries").fetchone()[0]


def _prune_rows(connection, max_bytes, older_than):
    n_before = _count_rows(connection)
    with _transaction(connection, "IMMEDIATE"):
        if older_than is not None:
            _drop(connection, "last_day < ?", (_today() - older_than,))
        while max_bytes is not None and (last := _last_to_drop(connection, max_bytes)):
            _drop(connection, "(last_day, id) <= (?, ?)", last)
        n_removed = n_before - _count_rows(connection)
    # As a script: `execute` takes one step of the vacuum, which frees one page.
    connection.executescript(
        "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)"
    )
    return n_removed


def _drop(connection, condition, values):
    ids = f"SELECT id FROM entries WHERE {condition}"
    connection.execute(f"DELETE FROM numbers WHERE id IN ({ids})", values)
    connection.execute(f"DELETE FROM entries WHERE {condition}", values)


def _last_to_drop(connection, max_bytes):
    """Find the last entry, in order of use, to delete so that the rest may fit."""
    pages, free, page_size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    n_bytes = (pages - free) * page_size
    if n_bytes <= max_bytes:
        return None
    # Deleting this share of the numbers should free this share of the pages: the
    # first entry at which their running sum comes to it, or the last of all.
    query = (
        "SELECT last_day, id FROM (SELECT last_day, id, sum(size) OVER () AS total, "
        "sum(size) OVER (ORDER BY last_day, id) AS upto FROM entries) "
        "ORDER BY upto < ?1 * total, abs(upto - ?1 * total), id DESC LIMIT 1"
    )
    return connection.execute(query, (1 - max_bytes / n_bytes,)).fetchone()


def _select(connection, query, values):
    for chunk in _chunks(values, _KEYS_PER_STATEMENT):
        yield from connection.execute(f"{query} ({','.join('?' * len(chunk))})", chunk)


def _chunks(values, size):
    return (values[i : i + size] for i in range(0, len(values), size))


def _prefix(key):
    return int.from_bytes(key[:8], "big", signed=True)


def _today():
    return int(time.time()) // 86_400


@functools.lru_cache(maxsize=256)
def _header(dtype, shape):
    return dtype.str.encode(), ",".join(map(str, shape)).encode()


@functools.lru_cache(maxsize=256)
def _layout(dtype, shape):
    """Undo `_header`, and count the bytes of such an array."""
    if not _DTYPE.fullmatch(dtype):
        raise ValueError(f"not a numeric dtype: {dtype!r}")
    dtype = np.dtype(dtype.decode())
    shape = tuple(map(int, shape.split(b","))) if shape else ()
    return dtype, shape, dtype.itemsize * math.prod(shape)


def _checksum(key, dtype, shape, payload):
    row = b"\0".join((b"sktl entry 1", key, dtype, shape, payload))
    return hashlib.sha256(row).digest()[:16]


def _encode(key, value):
    row = *_header(value.dtype, value.shape), value.tobytes()
    return *row, _checksum(key, *row)


def _decode(key, dtype, shape, payload, checksum):
    """Rebuild an array; None where any part of its row is not as it was written."""
    try:
        if checksum != _checksum(key, dtype, shape, payload):
            return None
        dtype, shape, n_bytes = _layout(dtype, shape)
        return np.ndarray(shape, dtype, payload) if len(payload) == n_bytes else None
    except (TypeError, ValueError, OverflowError):
        return None
