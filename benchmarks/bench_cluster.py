"""Workers of Dask and of Ray extract as fast as plain processes do.

Claim, for image files and nothing cached, on two cores: one worker process of one
thread reaches 0.9 of the rate of one plain process of one thread, two reach 0.9 of that
of two plain processes side by side; and an image of the largest number costs at most
1.1 times one of a twentieth of them. Printed beside it: the rates over that of one
plain process. Two cores of a virtual machine often give less than twice the rate of
one, and no engine can do better.

Features stay on the workers: what it takes to write them is another question. All
workers are started, and have loaded the network, before time is taken. Dask's keep
memory for the next batch, as the guide says.

Usage: python benchmarks/bench_cluster.py [--images N] [--network NAME] [--repeats N]
[--engines dask ray]. Exits with 1 when the claim fails. About ten minutes on two cores.
"""

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import ray
import ray.data
import torch
from _timing import interleaved, ratio, verdict
from dask.distributed import Client, LocalCluster
from PIL import Image

from sktl import PretrainedFeatureExtractor

ROWS = 500  # of a partition
SHARE = 20  # what the largest number of images is of the smallest
N_WORKERS = 1, 2
CLAIMED_RATE, CLAIMED_GROWTH = 0.9, 1.1


def write_images(folder, n, side=64):
    rng = np.random.default_rng(0)
    paths = [str(Path(folder, f"{number:06}.jpg")) for number in range(n)]
    for path in paths:
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(path)
    return paths


class Plain:
    """So many processes with one thread each, which are given equal shares."""

    def __init__(self, n_workers, stack):
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(n_workers, context, torch.set_num_threads, (1,))
        self.n_workers, self.pool = n_workers, stack.enter_context(pool)

    def extract(self, extractor, paths):
        """Compute features; they stay in the processes."""
        shares = [paths[start :: self.n_workers] for start in range(self.n_workers)]
        lengths = self.pool.map(count_rows, [extractor] * len(shares), shares)
        assert sum(lengths) == len(paths)


def count_rows(extractor, paths):
    return len(extractor.transform(paths))


# Bytes; else a worker gives the memory of each batch back (examples/guide/clusters.md).
MALLOC = "distributed.nanny.pre-spawn-environ.MALLOC_"
KEEP_MEMORY = {f"{MALLOC}TRIM_THRESHOLD_": 2**27, f"{MALLOC}MMAP_THRESHOLD_": 2**25}


class OnDask:
    """So many worker processes of Dask, with one thread each."""

    def __init__(self, n_workers, stack):
        with dask.config.set(KEEP_MEMORY):
            cluster = LocalCluster(
                n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
            )
        self.client = stack.enter_context(Client(stack.enter_context(cluster)))

    def extract(self, extractor, paths):
        """Compute features; they stay on the workers."""
        frame = dd.from_pandas(pd.DataFrame({"path": paths}), chunksize=ROWS)
        with self.client.as_current():
            lengths = extractor.transform(frame["path"]).map_partitions(len)
            assert self.client.compute(lengths).result().sum() == len(paths)


class OnRay:
    """So many tasks of Ray at a time, with one thread each."""

    def __init__(self, n_workers, stack):
        self.n_workers = n_workers
        if not ray.is_initialized():
            ray.init(num_cpus=max(N_WORKERS), include_dashboard=False)
            stack.callback(ray.shutdown)

    def extract(self, extractor, paths):
        """Compute features; they stay in Ray's store."""
        rows = [{"path": path} for path in paths]
        n_blocks = max(1, len(paths) // ROWS)
        features = extractor.transform(
            ray.data.from_items(rows, override_num_blocks=n_blocks)
        )
        context = features.context
        limits = ray.data.ExecutionResources(cpu=self.n_workers)
        context.execution_options.resource_limits = limits
        # With it, Ray leaves one of two cores free for what may follow; without it, it
        # does not heed the limits.
        context.op_resource_reservation_enabled = self.n_workers < max(N_WORKERS)
        assert features.materialize().count() == len(paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--network", default="sktl_mini")
    parser.add_argument("--repeats", type=int, default=3)
    engines = {"plain": Plain, "dask": OnDask, "ray": OnRay}
    parser.add_argument(
        "--engines", nargs="+", choices=["dask", "ray"], default=["dask", "ray"]
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    extractor = PretrainedFeatureExtractor(
        args.network, weights="DEFAULT" if args.network == "sktl_mini" else None
    ).set_params(cache=None)
    claims = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        paths = write_images(folder, args.images)
        few = paths[: args.images // SHARE]
        extractor.fit(few)
        sides = {}
        for name in ["plain", *args.engines]:
            for n_workers in N_WORKERS:
                extract = partial(engines[name](n_workers, stack).extract, extractor)
                sides[name, n_workers, "few"] = partial(extract, few)
                sides[name, n_workers, "all"] = partial(extract, paths)
        interleaved({key: run for key, run in sides.items() if "few" in key}, 1)  # warm
        seconds = interleaved(sides, args.repeats)
    rate = len(paths) / np.median(seconds["plain", 1, "all"])
    print(f"one plain process: {rate:.0f} images per second")
    print("rate as a multiple of that of as many plain processes, and of one")
    for name in ["plain", *args.engines]:
        for n_workers in N_WORKERS:
            key = name, n_workers, "all"
            equals = ratio(seconds, ("plain", n_workers, "all"), key)
            one = ratio(seconds, ("plain", 1, "all"), key)
            per_image = {key: seconds[key]}
            few = name, n_workers, "few"
            per_image |= {few: [s * SHARE for s in seconds[few]]}
            growth = ratio(per_image, key, few)
            print(
                f"{name} {n_workers}: {equals}, {one}; an image of all costs {growth}"
            )
            if name != "plain":
                side = f"{name} {n_workers}"
                claims[f"{side}: {CLAIMED_RATE} of the rate"] = (
                    equals.median >= CLAIMED_RATE
                )
                claims[f"{side}: flat"] = growth.median <= CLAIMED_GROWTH
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
