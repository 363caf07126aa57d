"""Files that are written whole or not at all, through crashes and power failures.

The new content goes to a temporary file in the same folder, to the disk, and only then
to its name: renaming is atomic. ALICE (Pillai et al., OSDI 2014) shows why each of the
steps is needed.
"""

import contextlib
import os
import secrets
import time
from pathlib import Path

# Half-written files of killed processes; a writer touches its own every few seconds.
STALE_AFTER = 3600  # seconds


@contextlib.contextmanager
def replacing(path):
    """Open a file that takes the place of `path` once all of it is on the disk.

    Whatever happens, `path` holds what it held before or all that was written. The
    new file has the permissions of any file that its writer makes.

    Parameters
    ----------
    path : path-like
        `~` is expanded.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    # A link stays one; its target is replaced.
    path = Path(os.path.realpath(os.path.expanduser(path)))
    if path.exists() and not path.is_file():
        raise FileExistsError(
            f"{str(path)!r} is a folder or a device; pass the path of a file."
        )
    temporary = path.with_name(f".sktl-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}. Nothing was saved, and an existing file is unchanged. "
            "Pass a path in a folder that exists, can be written to and has room",
            str(path),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)
    _remove_stale(path.parent)


def _sync_folder(folder):
    """Have the new name survive a power failure too, where the system can do that."""
    # The file itself is synced. Windows opens no folders, and some network file
    # systems do not sync them; SQLite passes over that too (os_unix.c, unixSync).
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_stale(folder):
    """Remove what killed writers left."""
    with contextlib.suppress(OSError):
        for file in folder.glob(".sktl-*.tmp"):
            if time.time() - file.stat().st_mtime > STALE_AFTER:
                file.unlink()
