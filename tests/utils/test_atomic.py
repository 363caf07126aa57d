"""Files written whole or not at all: what a crash, a full disk and a kill leave."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from sktl._utils import atomic
from sktl._utils.atomic import replacing

OLD, NEW = b"old" * 1000, b"new" * 1001


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def write(path, parts=(NEW,)):
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def assert_untouched(path):
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_file_is_written_and_replaced(tmp_path):
    write(tmp_path / "file", [b"1"])
    write(tmp_path / "file", [b"2"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"2"


def test_file_has_the_mode_that_the_umask_gives(tmp_path):
    """Not an owner's only, as temporary files have."""
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_link_stays_one_and_its_target_is_replaced(path, tmp_path):
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    write(link)
    assert link.is_symlink()
    assert path.read_bytes() == NEW
    assert list(link.parent.iterdir()) == [link]


def test_data_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    path, monkeypatch
):
    """A rename that reaches the disk before the data leaves an empty file. Fault 5."""
    steps = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        mode = os.fstat(descriptor).st_mode
        steps.append("sync folder" if stat.S_ISDIR(mode) else "sync file")
        if stat.S_ISREG(mode):
            assert os.fstat(descriptor).st_size == len(NEW)
        fsync(descriptor)

    def recorded_replace(*args):
        steps.append("replace")
        replace(*args)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write(path)
    assert steps == ["sync file", "replace", "sync folder"]


# ---- failures


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_failing_step_leaves_the_old_file_alone(path, monkeypatch, step, number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="Nothing was saved.*has room.*file") as caught:
        write(path)
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert_untouched(path)


def test_full_disk_in_the_middle_leaves_the_old_file_alone(path):
    """The kernel itself ends the write, at a limit on the size of files."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large. Nothing was saved"):
            write(path, [bytes(10**6)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_untouched(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_failing_writer_leaves_the_old_file_alone(path, error):
    def parts():
        yield NEW
        raise error

    with pytest.raises(error):
        write(path, parts())
    assert_untouched(path)


def test_folder_that_cannot_take_a_file_is_named(path):
    with pytest.raises(FileNotFoundError, match="in a folder that exists.*no/file"):
        write(path.parent / "no" / "file")
    with pytest.raises(NotADirectoryError, match="in a folder that exists.*below"):
        write(path / "below")
    assert_untouched(path)


def test_read_only_folder_is_named(path):
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(PermissionError, match="can be written to"):
        write(path)
    assert_untouched(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_folder_or_device_is_not_replaced(tmp_path, make):
    """`os.replace` would put a file in the place of a pipe, or of /dev/null."""
    make(tmp_path / "x")
    before = os.stat(tmp_path / "x")
    with pytest.raises(FileExistsError, match="is a folder or a device"):
        write(tmp_path / "x")
    assert os.path.samestat(before, os.stat(tmp_path / "x"))
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_cannot_be_synced_is_no_failure(path, monkeypatch):
    fsync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write(path)
    assert path.read_bytes() == NEW


def test_leavings_of_killed_writers_are_removed_after_an_hour(path):
    """Those of writers that may be at work now are not, nor is anyone else's file.

    Fault 2.
    """
    folder = path.parent
    long_ago = time.time() - atomic.STALE_AFTER - 60
    for name in [".sktl-old.tmp", ".sktl-new.tmp", "old.tmp", ".sktl-old"]:
        (folder / name).write_bytes(b"half")
        if "old" in name:
            os.utime(folder / name, (long_ago, long_ago))
    write(path)
    left = {p.name for p in folder.iterdir()} - {"file"}
    assert left == {".sktl-new.tmp", "old.tmp", ".sktl-old"}


# ---- kill -9

# The room alone is loaded, from its file: the package takes seconds.
WRITER = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
path, point = sys.argv[2:]

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def call(*args):
        function(*args)
        die()
    return call

functions = {
    "before_sync": ("fsync", die),
    "after_sync": ("fsync", then_die(os.fsync)),
    "before_replace": ("replace", die),
    "after_replace": ("replace", then_die(os.replace)),
}
if point in functions:
    setattr(os, *functions[point])
print("ready", flush=True)
n = 0
while point == "endless":
    n += 1
    with atomic.replacing(path) as file:
        for _ in range(100):
            file.write(n.to_bytes(8, "little") * 1000)
with atomic.replacing(path) as file:
    file.write(b"new" * 500)
    file.flush()
    if point == "amid_writing":
        die()
    file.write(b"new" * 501)
"""


def start_writer(path, point):
    command = [sys.executable, "-c", WRITER, atomic.__file__, path, point]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("point", "content"),
    [
        ("amid_writing", OLD),
        ("before_sync", OLD),
        ("after_sync", OLD),
        ("before_replace", OLD),
        ("after_replace", NEW),
        ("never", NEW),
    ],
)
def test_killed_writer_leaves_one_whole_file(path, point, content):
    with start_writer(path, point) as writer:
        ended = writer.wait(timeout=60)
    assert ended == (0 if point == "never" else -signal.SIGKILL)
    assert path.read_bytes() == content


@pytest.mark.parametrize("n_kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_file_is_whole_after_kills_at_any_moment(tmp_path, n_kills):
    path, whole = tmp_path / "file", 0
    for i in range(n_kills):
        with start_writer(path, "endless") as writer:
            writer.stdout.readline()
            time.sleep(0.02 + 0.00137 * i)
            writer.kill()
        if path.exists():
            content = path.read_bytes()
            assert content == content[:8] * 100_000
            whole += 1
    assert whole > n_kills // 2
