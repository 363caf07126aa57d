"""What the timing benchmarks share: sides taken in turn, ratios, a verdict.

A machine speeds up and slows down within minutes. Sides that take turns in one process
meet the same machine, so their ratio within a turn says more than either time does.
"""

import gc
import time
from statistics import median
from typing import NamedTuple


class Ratio(NamedTuple):
    """Median and spread of a ratio over the repeats; prints as `1.05 (1.02 to 1.09)`.

    Attributes
    ----------
    median, low, high : float
    """

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def interleaved(sides, repeats, before=None):
    """Time each side once per repeat, all of them in turn.

    Every second repeat goes backwards: drift within a repeat then cancels.

    Parameters
    ----------
    sides : dict of str to callable
        Functions without arguments. One that uses a GPU waits for it itself.
    repeats : int
    before : callable, default=None
        Called before each side, and not timed.

    Returns
    -------
    seconds : dict of str to list of float
        One number per repeat, in the order of the repeats.
    """
    seconds = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            if before is not None:
                before()
            gc.collect()
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, over, of):
    """How many times as long as the side `of` the side `over` takes.

    Parameters
    ----------
    seconds : dict of str to list of float
        As `interleaved` gives it.
    over, of : str
        Two of its keys.

    Returns
    -------
    ratio : Ratio
        Over the ratios within each repeat.
    """
    found = [a / b for a, b in zip(seconds[over], seconds[of], strict=True)]
    return Ratio(median(found), min(found), max(found))


def verdict(claims):
    """Print whether each claim holds.

    Parameters
    ----------
    claims : dict of str to bool

    Returns
    -------
    status : int
        What the script exits with: 0 when all claims hold, else 1.
    """
    for claim, holds in claims.items():
        print(f"claim ({claim}): {'holds' if holds else 'FAILS'}")
    return 0 if all(claims.values()) else 1
