"""Whether a file is still the one that was read, and where one was looked for."""

import os
import time

# A file changed so soon after it was read may have the same time: FAT, as on memory
# cards, counts in steps of two seconds.
CLOCK_TICK = 2_000_000_000  # nanoseconds


def file_state(found):
    """Everything in what `os.stat` found that changes when a file does."""
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def seen_from(path):
    """What the error of a file that is missing says of where a relative path begins."""
    is_whole = os.path.isabs(os.path.expanduser(path))
    return "" if is_whole else f" (seen from {os.getcwd()})"


def is_settled(state):
    """Whether a later change is sure to show in the state of the file."""
    return abs(time.time_ns() - max(state[-2:])) > CLOCK_TICK
