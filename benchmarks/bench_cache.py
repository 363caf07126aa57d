"""What is in the cache comes back fast, and keeping it costs little.

Claims:

* warm: `transform` of arrays whose features are kept, in memory or in a directory,
  gives at least 20 times the rows per second that `sktl_mini`, the smallest network
  there is here, computes;
* near linear: a row from a directory of a million rows takes at most 1.3 times as long
  as from one of ten thousand, whether rows are read in the order in which they were
  written or at random (256 float32 a row);
* cold: a first run with a cache takes at most 3 % longer than one with `cache=None`,
  for `sktl_mini` and for `resnet18` at 224 pixels.

The files of a directory are in the page cache; no disk is measured.

Usage: python benchmarks/bench_cache.py [--quick]. Exits with 1 when a claim fails.
About six minutes on two cores, 2 GB of memory and of disk; `--quick`, with a tenth of
the images, one.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _timing import interleaved, ratio, verdict
from torch import nn

from sktl import PretrainedFeatureExtractor, clear_cache

CACHES = ("memory", "directory")
CLAIMED_SPEEDUP = 20
CLAIMED_SLOWDOWN = 1.3
CLAIMED_COST = 1.03
# Images of each network: some seconds on two cores.
NETWORKS = {"sktl_mini": (4096, 32), "resnet18": (128, 224)}
N_WARM_REPEATS = 9
N_COLD_REPEATS = 7
SIZES = (10_000, 100_000, 1_000_000)
N_READ_REPEATS = 9
N_ROWS_READ = 10_000
WIDTH = 256


def arrays(n, side):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def extractors(name, folder):
    """One extractor without a cache, and one for each kind of cache."""
    weights = "DEFAULT" if name == "sktl_mini" else None
    caches = {"none": None, "memory": "memory", "directory": folder}
    return {
        where: PretrainedFeatureExtractor(name, weights=weights, cache=cache)
        for where, cache in caches.items()
    }


def warm(folder):
    """How many times as fast as computing features it is to find them in the cache."""
    images = arrays(*NETWORKS["sktl_mini"])
    found = extractors("sktl_mini", folder)
    for extractor in found.values():
        extractor.fit_transform(images)
    sides = {name: partial(x.transform, images) for name, x in found.items()}
    seconds = interleaved(sides, N_WARM_REPEATS)
    speedups = {name: ratio(seconds, "none", name) for name in CACHES}
    for name, speedup in speedups.items():
        print(f"warm, {name}: {speedup} times the rows per second", flush=True)
    return min(speedup.median for speedup in speedups.values())


def cold(network, folder):
    """How many times as long a run takes that fills a cache, too."""

    def empty_caches():
        clear_cache("memory")
        clear_cache(folder)

    images = arrays(*NETWORKS[network])
    found = extractors(network, folder)
    found["none"].fit_transform(images)  # loads the network
    for extractor in found.values():
        extractor.fit(images)
    sides = {name: partial(x.transform, images) for name, x in found.items()}
    seconds = interleaved(sides, N_COLD_REPEATS, before=empty_caches)
    costs = {name: ratio(seconds, name, "none") for name in CACHES}
    for name, cost in costs.items():
        print(f"cold, {network}, {name}: {cost} times as long", flush=True)
    return max(cost.median for cost in costs.values())


class Reader:
    """Looks up rows of a directory."""

    def __init__(self, extractor, images):
        self.extractor, self.images = extractor, images
        self.mixed = np.random.default_rng(1).permutation(len(images))[:N_ROWS_READ]
        self.start = 0

    def in_order(self):
        """Read rows that were written one after the other, others each time."""
        rows = slice(self.start, self.start + N_ROWS_READ)
        self.start = (self.start + N_ROWS_READ) % len(self.images)
        return self.extractor.transform(self.images[rows])

    def at_random(self):
        """Read rows from all over the directory, the same each time."""
        return self.extractor.transform(self.images[self.mixed])


def linear(folder, sizes):
    """How many times as long a row takes from the largest directory as the smallest."""
    # Next to nothing to compute, from images of next to nothing.
    network = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    )
    images = np.random.default_rng(0).integers(0, 256, (sizes[-1], 6, 6, 3), np.uint8)
    readers = {}
    for n in sizes:
        extractor = PretrainedFeatureExtractor(
            network, image_size=6, batch_size=1024, cache=f"{folder}-{n}"
        )
        extractor.fit_transform(images[:n])
        readers[n] = Reader(extractor, images[:n])
    slowdowns = {}
    for order in ("in_order", "at_random"):
        sides = {n: getattr(reader, order) for n, reader in readers.items()}
        interleaved(sides, 1)  # what SQLite keeps of the index
        seconds = interleaved(sides, N_READ_REPEATS)
        found = {n: ratio(seconds, n, sizes[0]) for n in sizes[1:]}
        for n, slowdown in found.items():
            times = f"{slowdown} times that of {sizes[0]:,}"
            print(f"a row of {n:,}, {order}: {times}", flush=True)
        slowdowns[order] = found[sizes[-1]].median
    return slowdowns


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    sizes = SIZES
    if parser.parse_args().quick:
        sizes = [n // 10 for n in SIZES]
        NETWORKS.update(sktl_mini=(2048, 32), resnet18=(16, 224))
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "features"))
        speedup = warm(folder)
        costs = {network: cold(network, folder) for network in NETWORKS}
        slowdowns = linear(folder, sizes)
    claims = {
        f"warm, at least {CLAIMED_SPEEDUP} times as fast": speedup >= CLAIMED_SPEEDUP,
    }
    for order, slowdown in slowdowns.items():
        claim = f"a row of {sizes[-1]:,}, {order}, at most {CLAIMED_SLOWDOWN} times"
        claims[claim] = slowdown <= CLAIMED_SLOWDOWN
    for network, cost in costs.items():
        claims[f"cold, {network}, at most {CLAIMED_COST} times as long"] = (
            cost <= CLAIMED_COST
        )
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
