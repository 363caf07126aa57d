"""One pass of the images through each network, for all contenders that read it.

Contenders find in the cache what was computed here, so that none of them pays for the
pass, and fit times compare.
"""

import time

import numpy as np
from joblib import effective_n_jobs
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from sktl._comparison.twins import comparable
from sktl._features.image_input import (
    OF_IMAGES,
    OF_NETWORK,
    NetworkInputMixin,
    pass_once,
)


def share_passes(contenders, X, splits, n_jobs):
    """Pass the images through each network once, for all contenders and splits.

    Parameters
    ----------
    contenders : dict of str to estimator
    X : sequence of images
    splits : list of list of Split
        By size; the rows of the largest, the last, are those that pass.
    n_jobs : int or None
        Processes that fit the contenders later. They find what is in a directory, not
        what is in the memory of this one.

    Returns
    -------
    seconds : float
        NaN if none passed here, so that fits contain it.
    """
    n_passes = 0
    start = time.perf_counter()
    rows = np.unique(np.concatenate([part for split in splits[-1] for part in split]))
    images = X if len(rows) == _num_samples(X) else _safe_indexing(X, rows)
    in_processes = effective_n_jobs(n_jobs) > 1
    for readers in readers_by_network(contenders):
        if in_processes and readers[0].cache == "memory":
            continue
        try:
            pass_once(readers, images)
            n_passes += 1
        except Warning:  # a filter made it an error, and the images are in the cache
            raise
        except Exception:  # contenders will report images that they cannot read
            pass
    return time.perf_counter() - start if n_passes else np.nan


def readers_by_network(contenders):
    """Group the estimators that read the images by the network they use.

    Parameters
    ----------
    contenders : dict of str to estimator

    Returns
    -------
    groups : list of list of estimator
        Bare contenders, or first steps of pipelines, that keep what they compute.
    """
    networks, groups = [], []
    for contender in contenders.values():
        reader = contender.steps[0][1] if isinstance(contender, Pipeline) else contender
        if not isinstance(reader, NetworkInputMixin) or reader.cache is None:
            continue
        params = reader.get_params(deep=False)  # `device` as it was set
        network = [comparable(params[name]) for name in (*OF_IMAGES, *OF_NETWORK)]
        network.append(reader._images_per_batch())
        if network not in networks:
            networks.append(network)
            groups.append([])
        groups[networks.index(network)].append(reader)
    return groups
