"""How does a search run on a cluster?
===================================

With `joblib.parallel_config("dask")`, `GridSearchCV` sends its fits to Dask; nothing
else changes. Two worker processes on this machine stand in for a cluster. Each uses its
share of the cores for torch. Only the last stage is trained. The workers share a cache
directory, so that the output of the frozen stages is computed once for each image, not
once per worker, fold and setting. A cache directory is for the workers of one machine;
with several machines, pass a path that is on a local disk of each.

On machines with GPUs, use `dask_cuda.LocalCUDACluster()` instead of `LocalCluster`. It
starts one worker for each GPU, which `device="auto"` then finds. (Untested.)

The images are scikit-learn's handwritten digits (8 x 8 grey pixels). Needs Dask (`pip
install ".[dask]"`) but no download; less than half a minute on two cores.
"""

# %%
import argparse
import os
import tempfile

import dask
import joblib
import pandas as pd
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sktl import FineTunedCNNClassifier

N_WORKERS = 2
GRID = {"backbone_lr_ratio": [0.15, 1.0], "max_epochs": [3, 6]}


# %% [markdown]
# 1. The cluster
# --------------


# %%
def make_cluster():
    # By default, Dask sets OMP_NUM_THREADS to 1 in each worker.
    n_threads = max(1, os.cpu_count() // N_WORKERS)
    key = "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS"
    with dask.config.set({key: n_threads}):
        return LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0"
        )


# %% [markdown]
# 2. The search
# -------------


# %%
def main(n_images):
    X, y = load_digits(return_X_y=True)
    with tempfile.TemporaryDirectory() as cache, make_cluster() as c, Client(c):
        network = FineTunedCNNClassifier(
            "sktl_mini", unfreeze_from="last", cache=cache, random_state=0
        )
        search = GridSearchCV(network, GRID, cv=3)
        with joblib.parallel_config("dask"):
            search.fit(X[:n_images], y[:n_images])
        print(f"Accuracy on other images: {search.score(X[-500:], y[-500:]):.3f}")
    columns = [f"param_{name}" for name in GRID]
    columns += ["mean_test_score", "std_test_score", "mean_fit_time"]
    print(pd.DataFrame(search.cv_results_)[columns].round(4).to_string(index=False))


if __name__ == "__main__":  # workers import this file
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    main(parser.parse_args().images)
