"""Arrays in a directory: one SQLite file, shared by the processes of a machine.

The only user of SQLite, and the half of the cache that can meet trouble. Correctness
rests on the checksum of each row alone, not on SQLite, its locks or the file system:
any file may be damaged, cut or deleted at any time.

That is against accidents, not against people: who may write to the directory can plant
numbers with the right checksums. Nothing that is read here is ever run.
"""

import contextlib
import functools
import hashlib
import math
import os
import re
import sqlite3
import stat
import time
from pathlib import Path

import numpy as np

from sktl._utils.warning import warn_caller
from sktl.exceptions import CacheWarning

# At bytes 68 and 60 of a SQLite file (sqlite.org/fileformat2.html, 1.3): what made it,
# and in which form.
APPLICATION_ID = b"sktl"
VERSION = 1
# Each version has files of its own names, as several may share a directory: none reads,
# sets aside or deletes those of another.
_NAME = "sktl-features" if VERSION == 1 else f"sktl-features-{VERSION}"
FILE_NAME = f"{_NAME}.sqlite"
DAMAGED = f"{_NAME}-damaged.sqlite"

# SQLite before 3.32 takes 999 variables in a statement.
_KEYS_PER_STATEMENT = 500
# Bounds how long a writer keeps the others waiting, and what a kill can lose.
_ROWS_PER_TRANSACTION = 5000
# SQLite takes 10**9 bytes for a row; a larger value is not kept.
_MAX_ROW_BYTES = 999_000_000
_BUSY_SECONDS = 30
# A lock that somebody holds for ever must not cost `_BUSY_SECONDS` with every batch.
_REST_SECONDS = 60
_DTYPE = re.compile(rb"[<>|][biufc]\d{1,2}")
# Linux lists mounts here, one a line: device, directory, file system, options.
MOUNTS = Path("/proc/mounts")
_NETWORK_DRIVES = {
    *"afs beegfs ceph cifs gfs2 glusterfs gpfs lustre nfs nfs4 smb3 smbfs".split(),
    *(f"fuse.{name}" for name in "gcsfuse glusterfs rclone s3fs sshfs".split()),
}

# Holds the index of a million rows, of which each block reads most pages.
_CACHE_KIB = 49_152
# synchronous=OFF halves the time of a write. A killed process cannot break the file
# then, only a power cut can, and the checksums find that.
_SETTINGS = (
    "PRAGMA synchronous = OFF",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "PRAGMA secure_delete = OFF",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)
# 16 kB pages: rows of 2 kB take 1.16 times their bytes on disk, 2.0 with 4 kB pages.
_NEW_FILE = ("PRAGMA page_size = 16384", "PRAGMA auto_vacuum = INCREMENTAL")
_NEW_TABLE = (
    f"PRAGMA application_id = {int.from_bytes(APPLICATION_ID, 'big')}",
    f"PRAGMA user_version = {VERSION}",
    "CREATE TABLE features (key BLOB PRIMARY KEY, last_day INTEGER, size INTEGER, "
    "dtype BLOB, shape BLOB, payload BLOB, checksum BLOB)",
)
# Python cannot decode damaged text in a file, not even for the message of an error.
_TROUBLE = (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError)
# Result codes that accuse the place; all others accuse the file.
_PLACE_CODES = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in "PERM BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN "
    "PROTOCOL NOLFS AUTH".split()
}

# A disk that is full: to SQLite, also a journal that cannot be made, and a quota.
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}

# Connections of a parent process: never used, and never closed, which would give up
# the locks that the parent has on its file.
_inherited = []


class Database:
    """Arrays under keys in a directory. Not for two threads at once.

    Files are stamped when they are made. A file without a stamp is somebody else's: it
    is renamed, never written to or deleted. Nothing is kept where a link or a folder
    has the file's name.
    """

    max_bytes = None

    def __init__(self, directory):
        self.directory = Path(directory)
        self._path = self.directory / FILE_NAME
        self._connection = self._opened_by = None
        self._rests_until = {}
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
                f"cache={str(self.directory)!r}: features could not be saved ({error})."
                " The results are right, but these features will be computed again "
                "next time. Depending on the cause, free some space, remove what is in "
                "the way, or pass a directory that can be written."
            )

    def size(self):
        files = self._files()
        if not files:
            return 0, 0
        n_entries = self._demand(_count_rows)
        return n_entries, sum(file.stat().st_size for file in self._files())

    def prune(self, max_bytes, older_than):
        if not self._files():
            return 0
        n_removed = self._demand(_delete_rows, _prune_rows, max_bytes, older_than)
        self._remove_damaged()
        return n_removed

    def clear(self):
        self._rests_until.clear()
        self._warned_at.clear()
        if self._files():
            self._demand(_delete_rows, _remove_rows)
            self._remove_damaged()

    def close(self):
        connection, self._connection = self._connection, None
        if connection is not None and self._opened_by != os.getpid():
            _inherited.append(connection)
        elif connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _demand(self, work, *args):
        """Do `work` that a user asked for by name, or say what is in the way."""
        self._rests_until.pop(work, None)
        try:
            return self._attempt(work, *args)
        except OSError as error:
            raise OSError(
                f"cache={str(self.directory)!r}: {FILE_NAME} could not be used "
                f"({error}). Free some space, see that you can write to it and that no "
                "other process locks it, or delete it while no process uses it."
            ) from error

    def _attempt(self, work, *args):
        """Do `work` on a connection: if need be on a new one, then on a new file."""
        if time.monotonic() < self._rests_until.get(work, 0):
            raise OSError("database is locked")
        for n_failed in range(3):
            try:
                return work(self._connected(), *args)
            except _TROUBLE as error:
                # SQLite notices that a file was moved or deleted when it writes to it
                # (SQLITE_READONLY_DBMOVED).
                self.close()
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                    self._rests_until[work] = time.monotonic() + _REST_SECONDS
                    raise OSError(str(error)) from error
                if n_failed == 1 and _accuses_file(error):
                    self._set_aside(f"is damaged ({error})")
                elif n_failed > 0:
                    raise OSError(str(error)) from error

    def _connected(self):
        if self._connection is not None and self._opened_by != os.getpid():
            self.close()
        if self._connection is None:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            self._check_trust()
            self._check_drive()
            self._make_way()
            self._connection = _connect(self._path)
            self._opened_by = os.getpid()
        return self._connection

    def _check_trust(self):
        """Warn where others may plant features: their checksums would be right."""
        if not hasattr(os, "geteuid"):  # Windows
            return
        status = os.stat(self.directory)
        if status.st_uid != os.geteuid():
            whose = "belongs to another user"
        elif status.st_mode & stat.S_IWOTH:
            whose = "may be written to by every user"
        elif status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid():
            whose = "may be written to by another group"
        else:
            return
        self._warn(
            f"cache={str(self.directory)!r} {whose} of this machine. Whoever can write "
            "there can put wrong features into the cache (though no code in it is ever "
            "run). Pass a directory that only you can write to, unless you trust them."
        )

    def _check_drive(self):
        """Warn about drives whose locks may not hold (sqlite.org/useovernet)."""
        kind = file_system(self.directory)
        if kind in _NETWORK_DRIVES:
            self._warn(
                f"cache={str(self.directory)!r} is on a network drive ({kind}). Locks "
                "may not hold there between machines, which can damage it or make "
                "processes wait. (The results are right.) Pass a directory on a local "
                "disk; on a cluster, each machine has its own."
            )

    def _make_way(self):
        """Set aside what has our name and was not made by sktl."""
        # A process that was killed leaves a journal, by which SQLite undoes its work.
        journal = Path(f"{self._path}-journal")
        for path in (self._path, journal):
            if path.is_symlink() or path.is_dir():
                raise OSError(f"{path.name} is a link or a folder")
        if not (_is_free(self._path) or _gets_stamped(self._path)):
            self._set_aside("is damaged or not a file of sktl")

    def _set_aside(self, reason):
        target = self.directory / DAMAGED
        if not (_is_free(target) or _is_stamped(target)):
            raise OSError(f"{FILE_NAME} {reason}, and {DAMAGED} is in the way")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(self._path, target)
        self._warn(
            f"cache={str(self.directory)!r}: {FILE_NAME} {reason}. It was renamed "
            f"{DAMAGED}, and a new file takes its place. The results are right. Remove "
            "the old file if you do not need it."
        )

    def _remove_damaged(self):
        if _is_stamped(self.directory / DAMAGED):
            (self.directory / DAMAGED).unlink(missing_ok=True)

    def _files(self):
        """List the files that are ours."""
        with contextlib.suppress(FileNotFoundError):
            os.listdir(self.directory)  # an error says what is in the way
        files = (self.directory / name for name in (FILE_NAME, DAMAGED))
        return [file for file in files if _is_stamped(file)]

    def _warn(self, message):
        """Warn once for each line of the caller's code."""
        warn_caller(message, CacheWarning, self._warned_at)


def file_system(directory):
    """Name the file system that holds a directory; "" where nothing tells."""
    path, longest, kind = Path(os.path.realpath(directory)), 0, ""
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text("utf-8", "replace").splitlines():
            _, mounted, found, *_ = line.split(" ")
            # Spaces in names are written as \040.
            mounted = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), mounted)
            if path.is_relative_to(mounted) and len(mounted) >= longest:
                longest, kind = len(mounted), found
    return kind


def _is_free(path):
    """Whether a file can be made here without loss: there is none, or it is empty."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _is_stamped(path):
    """Whether sktl made this file, and it is no link."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as file:
            header = file.read(72)
    except OSError:
        return False
    return header.startswith(b"SQLite format 3\0") and header[68:] == APPLICATION_ID


def _gets_stamped(path):
    """Whether sktl made this file; waits if another process is making it."""
    for _ in range(20):
        if _is_stamped(path):
            return True
        with contextlib.suppress(OSError):
            if time.time() - os.lstat(path).st_mtime > 10:
                break
        time.sleep(0.05)
    return False


def _connect(path):
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.text_factory = bytes  # damaged text must not fail to decode
        is_new = os.path.getsize(path) == 0
        for statement in (*_SETTINGS, *(_NEW_FILE if is_new else ())):
            connection.execute(statement)
        if is_new:
            # The stamp and the table come into the file together.
            with _transaction(connection, "IMMEDIATE"):
                if not _pragma(connection, "user_version"):
                    for statement in _NEW_TABLE:
                        connection.execute(statement)
        version = _pragma(connection, "user_version")
        if version != VERSION:
            raise sqlite3.DatabaseError(f"its format {version} is not known here")
    except BaseException:
        connection.close()
        raise
    return connection


def _pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


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
    found, wrong, idle, today = {}, [], [], _today()
    query = (
        "SELECT key, last_day, dtype, shape, payload, checksum FROM features "
        "WHERE key IN"
    )
    asked = sorted(set(keys))  # in the order of the index
    with _transaction(connection):
        for chunk in _chunks(asked, _KEYS_PER_STATEMENT):
            marks = ",".join("?" * len(chunk))
            for key, day, *row in connection.execute(f"{query} ({marks})", chunk):
                value = _decode(key, *row)
                if value is None:
                    wrong.append((key,))
                    continue
                found[key] = value
                if day != today:
                    idle.append((today, key))
    if wrong or idle:
        _mend(connection, wrong, idle)
    return found


def _mend(connection, wrong, idle):
    """Delete rows that failed their check; mark the others as used today."""
    try:
        with _transaction(connection, "IMMEDIATE"):
            mark = "UPDATE features SET last_day = ? WHERE key = ?"
            connection.executemany(mark, idle)
            connection.executemany("DELETE FROM features WHERE key = ?", wrong)
            if wrong:  # it may be the index that is wrong
                connection.execute("REINDEX features")
    except _TROUBLE as error:
        if _accuses_file(error):
            raise


def _write_rows(connection, items):
    today = _today()
    pairs = [pair for pair in items.items() if pair[1].nbytes <= _MAX_ROW_BYTES]
    for chunk in _chunks(pairs, _ROWS_PER_TRANSACTION):
        with _transaction(connection, "IMMEDIATE"):
            connection.executemany(  # the first value of a key wins
                "INSERT OR IGNORE INTO features VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((key, today, v.nbytes, *_encode(key, v)) for key, v in chunk),
            )
    # Otherwise wide rows that nobody asks for fill all of SQLite's page cache.
    connection.execute("PRAGMA shrink_memory")


def _count_rows(connection):
    return connection.execute("SELECT count(*) FROM features").fetchone()[0]


def _delete_rows(connection, work, *args):
    """Do `work` that deletes rows, also where the disk has no room for a journal."""
    try:
        return work(connection, *args)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _FULL_CODES:
            raise
    # Whoever is killed now leaves half of it in the file. That costs rows, or the file,
    # but never a number: the checksums tell. Others wait for the lock, as they always
    # do.
    connection.executescript("PRAGMA journal_mode = MEMORY; PRAGMA temp_store = MEMORY")
    try:
        return work(connection, *args)
    finally:
        connection.executescript(
            "PRAGMA journal_mode = DELETE; PRAGMA temp_store = DEFAULT"
        )


def _remove_rows(connection):
    with _transaction(connection, "IMMEDIATE"):
        connection.execute("DELETE FROM features")
    connection.executescript("PRAGMA incremental_vacuum")


def _prune_rows(connection, max_bytes, older_than):
    n_before = _count_rows(connection)
    with _transaction(connection, "IMMEDIATE"):
        if older_than is not None:
            oldest = _today() - older_than
            connection.execute("DELETE FROM features WHERE last_day < ?", (oldest,))
        while max_bytes is not None and (last := _last_to_drop(connection, max_bytes)):
            drop = "DELETE FROM features WHERE (last_day, rowid) <= (?, ?)"
            connection.execute(drop, last)
        n_removed = n_before - _count_rows(connection)
    # As a script: `execute` takes one step of the vacuum, which frees one page.
    connection.executescript("PRAGMA incremental_vacuum")
    return n_removed


def _last_to_drop(connection, max_bytes):
    """Find the last entry, in order of use, to delete so that the rest may fit."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, page_size = (_pragma(connection, name) for name in names)
    n_bytes = (pages - free) * page_size
    if n_bytes <= max_bytes:
        return None
    # Deleting this share of the numbers should free this share of the pages: the
    # first entry at which their running sum comes to it, or the last of all.
    query = (
        "SELECT last_day, rowid FROM (SELECT last_day, rowid, "
        "sum(size) OVER () AS total, "
        "sum(size) OVER (ORDER BY last_day, rowid) AS upto FROM features) "
        "ORDER BY upto < ?1 * total, abs(upto - ?1 * total), rowid DESC LIMIT 1"
    )
    return connection.execute(query, (1 - max_bytes / n_bytes,)).fetchone()


def _chunks(values, size):
    return (values[i : i + size] for i in range(0, len(values), size))


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
