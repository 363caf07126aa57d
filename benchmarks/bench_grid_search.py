"""A grid search over a pipeline that begins with the extractor extracts once.

Claim: `GridSearchCV(cv=5)` with 20 grid points over `Pipeline([extractor, classifier])`
takes at most 1.15 times as long as extracting the features once and searching over the
classifier alone, with `cache="memory"`. Every repeat begins with an empty cache, and
both give the same scores.

Printed beside it, and not claimed:

* the same with `n_jobs=2` and a cache directory, through which two processes that meet
  the same images share the work. They compute with one thread each, so the features
  differ by rounding (3e-7), and so may a score;
* the pipeline with `cache=None`, bare and with scikit-learn's `memory=`, which keeps
  what `fit_transform` gives for each fold but not what `transform` gives for the part
  held out. They run once, on fewer images: each image passes the network about a
  hundred times in the first, and 25 times in the second.

Usage: python benchmarks/bench_grid_search.py [--shared PATH]. Exits with 1 when the
claim fails. About six minutes on two cores.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _shared import argument_parser, images_and_labels
from _timing import interleaved, ratio, verdict
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktl import PretrainedFeatureExtractor, clear_cache

TREE = "flowers17"
N_IMAGES = 136
N_REPEATS = 2
OTHER_TREE = "hymenoptera"
N_OTHER_IMAGES = 40
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
GRID = np.logspace(-4, 1, 20)
CLAIMED_RATIO = 1.15
PIPELINE, READY = "pipeline", "features, then search"


def extractor(shared, cache):
    weights = shared / "weights" / WEIGHTS
    return PretrainedFeatureExtractor("squeezenet1_1", weights=weights, cache=cache)


def search_pipeline(features, X, y, n_jobs=None, memory=None):
    """Search over the pipeline; the extractor is one of its steps."""
    steps = [("features", features), ("classifier", LogisticRegression(max_iter=1000))]
    return search(Pipeline(steps, memory=memory), "classifier__C", X, y, n_jobs)


def search_ready(features, X, y, n_jobs=None):
    """Extract, then search over the classifier alone: the least there is to do."""
    ready = features.fit_transform(X)
    return search(LogisticRegression(max_iter=1000), "C", ready, y, n_jobs)


def search(model, name, X, y, n_jobs):
    found = GridSearchCV(model, {name: GRID}, cv=5, n_jobs=n_jobs, error_score="raise")
    return found.fit(X, y).cv_results_["mean_test_score"]


def compare(X, y, shared, cache, n_jobs):
    """Ratio of the pipeline's time to that of the search on ready features."""
    features = extractor(shared, cache)
    searches = {PIPELINE: search_pipeline, READY: search_ready}
    scores = {}

    def run(name):
        scores[name] = searches[name](features, X, y, n_jobs)

    sides = {name: partial(run, name) for name in searches}
    sides[PIPELINE]()  # loads the network and starts the processes
    seconds = interleaved(sides, N_REPEATS, before=partial(clear_cache, cache))
    same = np.array_equal(scores[PIPELINE], scores[READY])
    where = "memory" if cache == "memory" else "directory"
    found = ratio(seconds, PIPELINE, READY)
    print(
        f"n_jobs={n_jobs}, cache in {where}: {PIPELINE} / {READY} {found}", flush=True
    )
    return found, same


def show_others(X, y, shared, folder):
    """Print how long the search takes where features are not kept by image."""
    bare = extractor(shared, None)
    sides = {
        PIPELINE: partial(search_pipeline, extractor(shared, "memory"), X, y),
        "Pipeline": partial(search_pipeline, bare, X, y),
        "Pipeline(memory=...)": partial(search_pipeline, bare, X, y, memory=folder),
    }
    seconds = interleaved(sides, 1, before=clear_cache)
    for name in list(sides)[1:]:
        found = ratio(seconds, name, PIPELINE)
        print(f"{len(X)} images, cache=None: {name} / {PIPELINE} {found.median:.1f}")


def main():
    shared = argument_parser(__doc__).parse_args().shared
    X, y = images_and_labels(shared / "data" / TREE, n=N_IMAGES)
    print(f"{len(X)} images of {TREE}, {len(GRID)} grid points, 5 folds")
    with tempfile.TemporaryDirectory() as folder:
        alone, same = compare(X, y, shared, "memory", None)
        compare(X, y, shared, str(Path(folder, "features")), 2)
        others = images_and_labels(shared / "data" / OTHER_TREE, n=N_OTHER_IMAGES)
        show_others(*others, shared, str(Path(folder, "joblib")))
    return verdict(
        {
            "both ways give the same scores": same,
            f"at most {CLAIMED_RATIO} with cache='memory'": (
                alone.median <= CLAIMED_RATIO
            ),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
