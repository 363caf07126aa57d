"""Memory does not grow with the number of files, only with the result.

Claim: with ten times as many files, the peak memory of `fit_transform` grows by no more
than the growth of its result plus 5 % of the smaller peak; with `cache=None` and with a
directory, for narrow rows (256 numbers), wide ones (12288), and for files of 8 MB. With
`cache="memory"` it grows by what the cache holds too: printed beside its bound, and not
claimed.

Peaks are those that the system counts for a whole process (`ru_maxrss`), so each run
has a process of its own. The files are made here, no two of them equal: small JPEGs,
and black BMPs that take no room on the disk.

Usage: python benchmarks/bench_memory.py. Exits with 1 when the claim fails. About three
minutes on two cores. Not on Windows, which has no `ru_maxrss`.
"""

import io
import multiprocessing
import os
import resource
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from _timing import verdict
from PIL import Image

from sktl import PretrainedFeatureExtractor
from sktl.exceptions import ImageSizeWarning

# What is computed -> (parameters, number of files of the smaller run, their name).
KINDS = {
    "narrow rows": ({}, 800, "small"),
    "wide rows": ({"layers": "layer1.1.add", "pooling": "flatten"}, 400, "small"),
    "large files": ({}, 48, "large"),
}
LARGE_SIDE = 1672  # pixels; times 3 bytes for each
FACTOR = 10
CLAIMED_SHARE = 0.05
MEMORY_BOUND = 32 * 2**20  # of the cache in memory, for its own line
N_IMAGES = 50
SIZE = 160, 120  # less than four times what `sktl_mini` sees, so that it does not warn
MIB = 2**20


def make_files(folder, n):
    """Write JPEGs: a few images, each file with a number behind its last marker."""
    generator = np.random.default_rng(0)
    images = []
    for i in range(N_IMAGES):
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        path = Path(folder, f"image{i}.jpg")
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(path)
        images.append(path.read_bytes())
    paths = [Path(folder, f"{i:06}.jpg") for i in range(n)]
    for i, path in enumerate(paths):
        path.write_bytes(images[i % N_IMAGES] + i.to_bytes(8, "big"))
    return paths


def make_large_files(folder, n):
    """Write BMPs with a hole for their pixels, and a number behind."""
    header = io.BytesIO()
    Image.new("RGB", (LARGE_SIDE, LARGE_SIDE)).save(header, "BMP")
    paths = [Path(folder, f"large{i:06}.bmp") for i in range(n)]
    for i, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(header.getvalue()[:54])
            file.seek(len(header.getvalue()))
            file.write(i.to_bytes(8, "big"))
    return paths


def measure(paths, cache, parameters):
    """Peak memory of this process and size of the result, in bytes."""
    warnings.simplefilter("ignore", ImageSizeWarning)  # of large files
    os.environ["SKTL_CACHE_BYTES"] = str(MEMORY_BOUND)
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=cache, **parameters)
    result = extractor.fit_transform(paths)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, kilobytes on Linux: getrusage(2) of each.
    return peak * (1 if sys.platform == "darwin" else 1024), result.nbytes


def in_new_process(*args):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *args).result()


def compare(kind, paths, cache, folder):
    """Whether ten times the files take no more memory than claimed."""
    parameters, n, _ = KINDS[kind]
    runs = []
    for m in (n, FACTOR * n):
        place = tempfile.mkdtemp(dir=folder) if cache == "directory" else cache
        runs.append(in_new_process(paths[:m], place, parameters))
    (peak, n_bytes), (peak_of_many, n_bytes_of_many) = runs
    growth, growth_of_result = peak_of_many - peak, n_bytes_of_many - n_bytes
    print(
        f"{kind}, cache={cache}: {n} files {peak / MIB:.0f} MiB, {FACTOR} times as "
        f"many {growth / MIB:+.0f} MiB, of which the result "
        f"{growth_of_result / MIB:.0f} MiB",
        flush=True,
    )
    return growth <= growth_of_result + CLAIMED_SHARE * peak


def main():
    print(f"cache=memory is bounded to {MEMORY_BOUND / MIB:.0f} MiB, and not claimed")
    claims = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "small": make_files(folder, FACTOR * KINDS["narrow rows"][1]),
            "large": make_large_files(folder, FACTOR * KINDS["large files"][1]),
        }
        for kind, (_, _, size) in KINDS.items():
            for cache in (None, "directory"):
                claim = f"{kind}, cache={cache}"
                claims[claim] = compare(kind, paths[size], cache, folder)
            compare(kind, paths[size], "memory", folder)
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
