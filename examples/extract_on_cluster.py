"""How are features of many images extracted on a cluster?
=======================================================

Two worker processes on this machine stand in for a cluster. Dask divides a table of
paths among them; `transform` returns a Dask DataFrame that is not computed yet, and
`to_parquet` computes and writes it, one partition at a time. So neither the images nor
the features need to fit into memory, only the rows of a partition: 500 here.

The images are scikit-learn's handwritten digits (8 x 8 grey pixels), each moved by a
few pixels in several ways. At the end, logistic regression on what the cluster wrote is
compared with the same model on features that one process computed: they are the same.
Needs Dask (`pip install ".[dask]"`) but no download; a few minutes on two cores, or
half a minute with `--images 1000`.
"""

# %%
import argparse
import tempfile
import time
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import torch
from dask.distributed import Client, LocalCluster
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sktl import PretrainedFeatureExtractor

ROWS = 500  # of a partition
# Workers of Dask keep the memory of a batch for the next one, up to so many bytes.
MALLOC = "distributed.nanny.pre-spawn-environ.MALLOC_"
KEEP_MEMORY = {f"{MALLOC}TRIM_THRESHOLD_": 2**27, f"{MALLOC}MMAP_THRESHOLD_": 2**25}

# %% [markdown]
# 1. The table
# ------------
#
# A path and a label per image.


# %%
def write_images(folder, n_images):
    """Write digits on a larger, black canvas; return the table."""
    digits, rng = load_digits(), np.random.default_rng(0)
    rows = np.arange(n_images) % len(digits.target)
    corners = rng.integers(0, 5, (n_images, 2))
    paths = [str(Path(folder, f"{number:06}.png")) for number in range(n_images)]
    for path, row, (top, left) in zip(paths, rows, corners, strict=True):
        canvas = np.zeros((12, 12), np.uint8)
        canvas[top : top + 8, left : left + 8] = digits.images[row] * 15
        Image.fromarray(canvas).save(path)
    return pd.DataFrame({"path": paths, "label": digits.target[rows]})


# %% [markdown]
# 2. Features, on the cluster
# ---------------------------
#
# Features have the index of the table they were computed from, so labels can be added
# as a column. Dask gives each worker one thread. No cache is needed, as each image is
# seen once.


# %%
def extract_on_cluster(table, extractor, folder):
    frame = dd.from_pandas(table, chunksize=ROWS)
    extractor.fit(frame[["path"]])  # looks at the first partition
    features = extractor.transform(frame[["path"]])
    features["label"] = frame["label"]
    features.to_parquet(folder)


def accuracy(features, labels, n_train):
    model = LogisticRegression(max_iter=1000)
    model.fit(features[:n_train], labels[:n_train])
    return model.score(features[n_train:], labels[n_train:])


# %% [markdown]
# 3. The same in one process
# --------------------------


# %%
def main(n_images):
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=None)
    with tempfile.TemporaryDirectory() as folder:
        table = write_images(folder, n_images)
        parquet = Path(folder, "features")
        start = time.perf_counter()
        with (
            dask.config.set(KEEP_MEMORY),
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=":0"
            ) as c,
            Client(c),
        ):
            print(f"{time.perf_counter() - start:.0f} s until the cluster is up")
            start = time.perf_counter()
            extract_on_cluster(table, extractor, parquet)
            print(f"{time.perf_counter() - start:.0f} s on two workers")
        # Files are read by name, part.10 before part.2.
        written = pd.read_parquet(parquet).loc[table.index]
        torch.set_num_threads(1)  # as a worker has it: the last bits are the same then
        start = time.perf_counter()
        features = extractor.transform(table[["path"]])
        print(f"{time.perf_counter() - start:.0f} s in one process")
    labels = written.pop("label").to_numpy()
    n_train = n_images // 2
    print(f"Accuracy from Parquet: {accuracy(written.to_numpy(), labels, n_train):.4f}")
    serial = accuracy(features, table["label"].to_numpy(), n_train)
    print(f"Accuracy from one process: {serial:.4f}")
    print(f"The same features, bit for bit: {np.array_equal(written, features)}")


if __name__ == "__main__":  # workers import this file
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    main(parser.parse_args().images)
