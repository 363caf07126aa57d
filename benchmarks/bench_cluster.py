"""Workers of Dask and of Ray extract as fast as their cores allow.

Claim, for image files and nothing cached: one worker process of one thread reaches 0.9
of the rate of `PretrainedFeatureExtractor.transform` in this process with one thread,
two reach 1.7 (on two cores, which also run the scheduler and this process); and an
image of the largest number costs at most 1.1 times one of a twentieth of them. Features
stay on the workers: what it takes to write them is another question. All workers are
started, and have loaded the network, before time is taken. Dask's keep memory for the
next batch, as the guide says.

Usage: python benchmarks/bench_cluster.py [--images N] [--network NAME] [--repeats N]
[--engines dask ray]. Exits with 1 when the claim fails. About ten minutes on two cores.
"""

import argparse
import contextlib
import sys
import tempfile
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

ROWS = 250  # of a partition
SHARE = 20  # what the largest number of images is of the smallest
CLAIMED = {1: 0.9, 2: 1.7}
FLAT = 1.1


def write_images(folder, n, side=64):
    rng = np.random.default_rng(0)
    paths = [str(Path(folder, f"{number:06}.jpg")) for number in range(n)]
    for path in paths:
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(path)
    return paths


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
            ray.init(num_cpus=max(CLAIMED), include_dashboard=False)
            # Ray would leave one of two cores free for what may follow.
            context = ray.data.DataContext.get_current()
            context.op_resource_reservation_enabled = False
            stack.callback(ray.shutdown)

    def extract(self, extractor, paths):
        """Compute features; they stay in Ray's store."""
        rows = [{"path": path} for path in paths]
        n_blocks = max(1, len(paths) // ROWS)
        features = extractor.transform(
            ray.data.from_items(rows, override_num_blocks=n_blocks)
        )
        options = features.context.execution_options
        options.resource_limits = ray.data.ExecutionResources(cpu=self.n_workers)
        assert features.materialize().count() == len(paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--network", default="sktl_mini")
    parser.add_argument("--repeats", type=int, default=3)
    engines = {"dask": OnDask, "ray": OnRay}
    parser.add_argument("--engines", nargs="+", choices=engines, default=[*engines])
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
        sides = {"here": partial(extractor.transform, few)}
        for name in args.engines:
            for n_workers in CLAIMED:
                engine = engines[name](n_workers, stack)
                extract = partial(engine.extract, extractor)
                sides[f"{name} {n_workers}"] = partial(extract, few)
                sides[f"{name} {n_workers}, all"] = partial(extract, paths)
        smaller = {side: run for side, run in sides.items() if "all" not in side}
        interleaved(smaller, 1)  # warms up
        seconds = interleaved(sides, args.repeats)
    rate = len(few) / np.median(seconds["here"])
    print(f"here, one thread: {rate:.0f} images per second")
    for name in args.engines:
        for n_workers, claimed in CLAIMED.items():
            side = f"{name} {n_workers}"
            # Time of the same images: what is fixed would count for too much in few.
            times = {"here": [s * SHARE for s in seconds["here"]]}
            times |= {side: seconds[f"{side}, all"]}
            speed = ratio(times, "here", side)
            times = {side: [s * SHARE for s in seconds[side]]}
            times |= {"all": seconds[f"{side}, all"]}
            growth = ratio(times, "all", side)
            print(f"{side}: {speed} times that; an image of all costs {growth}")
            claims[f"{side}: {claimed} of the rate"] = speed.median >= claimed
            claims[f"{side}: flat"] = growth.median <= FLAT
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
