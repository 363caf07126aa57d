"""What is in the feature store comes back fast, and keeping it costs little.

Claims, for the store in memory and for a directory:

* warm: `transform` of arrays whose features are kept gives at least 20 times the rows
  per second that `sktl_mini`, the smallest network there is here, computes;
* near linear: a row from a store of a million rows takes at most twice as long
  as from one of ten thousand (256 float32 a row, 256 keys at a time, as `transform`
  asks for them);
* cold: a first run with a store takes at most 3 % longer than one with `cache=None`,
  for `sktl_mini` and for `resnet18` at 224 pixels.

The files of a directory are in the page cache; no disk is measured.

Usage: python benchmarks/bench_store.py. Exits with 1 when a claim fails. About five
minutes on two cores, 3 GB of memory and 2 GB of disk.
"""

import hashlib
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _timing import interleaved, ratio, verdict

from sktl import PretrainedFeatureExtractor, clear_cache
from sktl._features.cache import Memory, Store
from sktl._features.sqlite import Database

STORES = ("memory", "directory")
CLAIMED_SPEEDUP = 20
CLAIMED_SLOWDOWN = 2
CLAIMED_COST = 1.03
# Images of each network: some seconds on two cores.
NETWORKS = {"sktl_mini": (4096, 32), "resnet18": (128, 224)}
N_WARM_REPEATS = 9
N_COLD_REPEATS = 7
SIZES = (10_000, 100_000, 1_000_000)
N_READ_REPEATS = 5
MIN_ROWS_READ = 200_000
WIDTH = 256
KEYS_PER_BLOCK = 256
# Holds the largest size in memory: 1024 bytes and about 320 of bookkeeping a row.
MEMORY_BYTES = 2 * 2**30


def arrays(n, side):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def extractors(name, folder):
    """One extractor without a store, and one for each kind of store."""
    weights = "DEFAULT" if name == "sktl_mini" else None
    caches = {"none": None, "memory": "memory", "directory": folder}
    return {
        where: PretrainedFeatureExtractor(name, weights=weights, cache=cache)
        for where, cache in caches.items()
    }


def warm(folder):
    """How many times as fast as computing features it is to find them in the store."""
    images = arrays(*NETWORKS["sktl_mini"])
    found = extractors("sktl_mini", folder)
    for extractor in found.values():
        extractor.fit_transform(images)
    sides = {name: partial(x.transform, images) for name, x in found.items()}
    seconds = interleaved(sides, N_WARM_REPEATS)
    speedups = {name: ratio(seconds, "none", name) for name in STORES}
    for name, speedup in speedups.items():
        print(f"warm, {name}: {speedup} times the rows per second", flush=True)
    return min(speedup.median for speedup in speedups.values())


def cold(network, folder):
    """How many times as long a run takes that fills a store, too."""

    def empty_stores():
        clear_cache("memory")
        clear_cache(folder)

    images = arrays(*NETWORKS[network])
    found = extractors(network, folder)
    found["none"].fit_transform(images)  # loads the network
    for extractor in found.values():
        extractor.fit(images)
    sides = {name: partial(x.transform, images) for name, x in found.items()}
    seconds = interleaved(sides, N_COLD_REPEATS, before=empty_stores)
    costs = {name: ratio(seconds, name, "none") for name in STORES}
    for name, cost in costs.items():
        print(f"cold, {network}, {name}: {cost} times as long", flush=True)
    return max(cost.median for cost in costs.values())


def linear(shelves):
    """How many times as long a row takes in the largest store as in the smallest."""
    stores = {n: Store(None, shelf) for n, shelf in shelves.items()}
    sides = {}
    for n, store in stores.items():
        blocks = blocks_of_keys(n)
        fill(store, blocks)
        sides[n] = partial(read, store, blocks, n_passes(n))
    seconds = interleaved(sides, N_READ_REPEATS)
    per_row = {n: [s / (n * n_passes(n)) for s in seconds[n]] for n in SIZES}
    for store in stores.values():
        store.clear()
    return {n: ratio(per_row, n, SIZES[0]) for n in SIZES[1:]}


def n_passes(n):
    """How often a store is read in one repeat: small ones take milliseconds."""
    return max(1, MIN_ROWS_READ // n)


def blocks_of_keys(n):
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(n)]
    return [keys[i : i + KEYS_PER_BLOCK] for i in range(0, n, KEYS_PER_BLOCK)]


def fill(store, blocks):
    generator = np.random.default_rng(0)
    for keys in blocks:
        rows = generator.random((len(keys), WIDTH), np.float32)
        store.put(dict(zip(keys, rows, strict=True)))


def read(store, blocks, n_passes):
    """Copy every row out of the store, as `transform` does."""
    rows = np.empty((KEYS_PER_BLOCK, WIDTH), np.float32)
    for keys in blocks * n_passes:
        found = store.get(keys)
        for i, key in enumerate(keys):
            rows[i] = found[key]  # a miss is an error here


def linear_in_both(folder):
    shelves = {
        "memory": {n: Memory(MEMORY_BYTES) for n in SIZES},
        "directory": {n: Database(f"{folder}-{n}") for n in SIZES},
    }
    slowdowns = []
    for name in STORES:
        for n, slowdown in linear(shelves[name]).items():
            print(f"a row of {n:,}, {name}: {slowdown} times that of {SIZES[0]:,}")
        slowdowns.append(slowdown.median)
    return max(slowdowns)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "features"))
        speedup = warm(folder)
        costs = {network: cold(network, folder) for network in NETWORKS}
        slowdown = linear_in_both(folder)
        clear_cache(folder)
    claims = {
        f"warm, at least {CLAIMED_SPEEDUP} times as fast": speedup >= CLAIMED_SPEEDUP,
        f"a row of {SIZES[-1]:,} at most {CLAIMED_SLOWDOWN} times as long": (
            slowdown <= CLAIMED_SLOWDOWN
        ),
    }
    for network, cost in costs.items():
        claims[f"cold, {network}, at most {CLAIMED_COST} times as long"] = (
            cost <= CLAIMED_COST
        )
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
