"""Collections of Dask and Ray: an estimator's methods by partition, when they ask.

The engines schedule, retry and write to disk. What is said here is how a method of a
fitted estimator becomes a function of one partition, and what the collection that comes
out looks like: as the method's result for no rows. An engine is never imported here
unless `X` is one of its collections, and then it has been imported already.
"""

import copy
import functools
import sys
from abc import ABC, abstractmethod
from contextvars import ContextVar

import numpy as np

# The partition that this thread computes, its number or a name; None outside of one.
# Messages name it, and its rows are padded to batches, however few they are.
partition_name = ContextVar("partition_name", default=None)
# The rows of a Ray Dataset that stand for the first partition.
FIRST_ROWS = 256
# Ray wants a number of rows for each task that gets a GPU.
ROWS_PER_GPU_TASK = 1024


def takes_collections(*methods):
    """Decorate a class, so that these methods map collections lazily.

    From outside, after scikit-learn has wrapped `transform`: `set_output` would compute
    what is lazy.
    """

    def decorate(cls):
        for method in methods:
            setattr(cls, method, _with_collections(getattr(cls, method)))
        return cls

    return decorate


def _with_collections(method):
    @functools.wraps(method)
    def call(self, X, *args, **kwargs):
        collection = _collection_of(X)
        if collection is None:
            return method(self, X, *args, **kwargs)
        if method.__name__ == "fit_transform":
            return self.fit(X).transform(X)
        return collection.map(self, method.__name__)

    return call


def first_partition(X):
    """Give the first partition of a collection, and any other `X` as it is."""
    collection = _collection_of(X)
    if collection is None:
        return X
    first = collection.first()
    if not len(first):
        raise ValueError(
            "The first partition of X has no rows, and fit looks at no other. Call "
            "fit with some images, as a list or an array; then transform X."
        )
    return first


def refuse_collection(X):
    """Raise TypeError if `X` is a collection: it would all be computed here."""
    if _collection_of(X) is not None:
        raise TypeError(
            f"X is a {type(X).__module__}.{type(X).__name__}, which is computed lazily "
            "and in parts. Only transform, predict and similar methods of a fitted "
            "estimator accept it, and fit of PretrainedFeatureExtractor. Here, pass "
            "data that fit into memory: for instance X.compute() for Dask, or "
            "[row['path'] for row in X.take_all()] for Ray."
        )


class _OnePartition:
    """A method of a fitted estimator, as it is now, as a function of one partition."""

    def __init__(self, estimator, method):
        self._estimator, self._method = copy.deepcopy(estimator), method
        self._version = _version()

    def __call__(self, images, name):
        if _version() != self._version:
            raise RuntimeError(
                f"A worker has sktl {_version()}, but needs {self._version}. Install "
                "that version on all workers."
            )
        token = partition_name.set(name)
        try:
            return np.asarray(getattr(self._estimator, self._method)(images))
        finally:
            partition_name.reset(token)

    def names(self, rows):
        """Name the columns of what it gives; a single column by the method."""
        if self._method == "transform":
            return list(self._estimator.get_feature_names_out())
        if rows.ndim == 1:
            return self._method
        labels = getattr(self._estimator, "classes_", range(rows.shape[1]))
        return [f"{self._method}_{label}" for label in labels]


class _Collection(ABC):
    """One kind of collection; `types` are its classes, by module and name."""

    def __init__(self, X):
        self.X = X

    @abstractmethod
    def first(self):
        """Compute the first partition."""

    @abstractmethod
    def map(self, estimator, method):
        """Make the collection of what a method gives for each partition."""


class _DaskCollection(_Collection):
    def map(self, estimator, method):
        from dask import delayed

        _refuse_other_versions(_versions_of_dask_workers())
        compute = _OnePartition(estimator, method)
        empty = compute(self.no_rows(), "no partition")
        # Weights come to each worker once, not with each task.
        return self.map_by(delayed(compute), empty, compute.names(empty))

    @abstractmethod
    def no_rows(self):
        """Give a partition that has none."""

    @abstractmethod
    def map_by(self, compute, empty, names):
        """Make the collection, by a delayed function of one partition."""


class _DaskFrame(_DaskCollection):
    types = [("dask.dataframe", "DataFrame"), ("dask.dataframe", "Series")]

    def first(self):
        return self.X.partitions[0].compute()

    def no_rows(self):
        return self.X._meta

    def map_by(self, compute, empty, names):
        return self.X.map_partitions(
            _map_frame,
            compute=compute,
            names=names,
            meta=_as_frame(empty, names, self.X._meta.index),
        )


class _DaskBag(_DaskCollection):
    types = [("dask.bag", "Bag")]

    def first(self):
        return list(self.X.to_delayed()[0].compute())

    def no_rows(self):
        return []

    def map_by(self, compute, empty, names):
        from dask import delayed
        from dask.dataframe import from_delayed

        map_one = delayed(_map_bag)
        frames = [
            map_one(partition, compute, names, number)
            for number, partition in enumerate(self.X.to_delayed())
        ]
        return from_delayed(frames, meta=_as_frame(empty, names), verify_meta=False)


class _DaskArray(_DaskCollection):
    types = [("dask.array", "Array")]

    def __init__(self, X):
        whole_rows = dict.fromkeys(range(1, X.ndim), -1)
        super().__init__(X.rechunk(whole_rows))

    def first(self):
        return self.X.blocks[0].compute()

    def no_rows(self):
        return np.empty((0, *self.X.shape[1:]), self.X.dtype)

    def map_by(self, compute, empty, names):
        return self.X.map_blocks(
            _map_block,
            compute=compute,
            drop_axis=[*range(1, self.X.ndim)],
            new_axis=[*range(1, empty.ndim)],
            chunks=(self.X.chunks[0], *empty.shape[1:]),
            dtype=empty.dtype,
            meta=empty,
        )


class _RayDataset(_Collection):
    types = [("ray.data", "Dataset")]

    def first(self):
        return _only_column(self.X.take_batch(FIRST_ROWS, batch_format="numpy"))

    def map(self, estimator, method):
        import ray

        _refuse_other_versions(_versions_of_ray_nodes())
        compute = _OnePartition(estimator, method)
        names = compute.names(compute([], "no block"))
        asked = {"batch_size": None}  # a block, whatever it holds
        on_cpu = str(estimator.get_params()["device"]) == "cpu"
        if "GPU" in ray.cluster_resources() and not on_cpu:
            asked = {"batch_size": ROWS_PER_GPU_TASK, "num_gpus": 1}

        def map_block(block):
            rows = compute(_only_column(block), "a block")  # they have no numbers
            if rows.ndim == 1:
                return {names: rows}
            return dict(zip(names, rows.T, strict=True))

        rows = self.X.map_batches(map_block, batch_format="numpy", **asked)
        # Rows are identified by their order alone. (X shares this context, so from now
        # on it keeps its order too.)
        rows.context.execution_options.preserve_order = True
        return rows


_KINDS = {
    kind: collection
    for collection in (_DaskFrame, _DaskBag, _DaskArray, _RayDataset)
    for kind in collection.types
}


def _collection_of(X):
    for (module, name), collection in _KINDS.items():
        kind = getattr(sys.modules.get(module), name, ())
        if isinstance(X, kind):
            return collection(X)
    return None


# Functions of one partition, which are sent to workers by name


def _map_frame(partition, compute, names):
    # Dask's own numbers would mislead: it fuses partitions, and leaves some out.
    index = partition.index
    name = f"the partition with index {index[0]} to {index[-1]}" if len(index) else ""
    return _as_frame(compute(partition, name), names, index)


def _map_bag(partition, compute, names, number):
    return _as_frame(compute(list(partition), number), names)


def _map_block(block, compute, block_id=None):
    return compute(block, block_id and block_id[0])


def _as_frame(rows, names, index=None):
    import pandas as pd  # Dask has it

    if rows.ndim == 1:
        return pd.Series(rows, index, name=names)
    return pd.DataFrame(rows, index, names)


def _only_column(block):
    """Give the images of a Ray block: a dict of arrays by column."""
    if len(block) != 1:
        raise ValueError(
            f"The Ray Dataset has the columns {sorted(block)}. Pass a single one, of "
            "images or paths: X.select_columns(['image'])."
        )
    (images,) = block.values()
    return images


# Whether the workers can do it


def _version():
    return sys.modules["sktl"].__version__


def _find_version():
    """Make a function that is sent as it is, because a worker may have no sktl."""

    def find_version():
        from importlib import import_module  # nothing of this module goes along

        try:
            return import_module("sktl").__version__
        except Exception as error:
            return repr(error)

    return find_version


def _versions_of_dask_workers():
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return {}
    try:
        client = distributed.get_client()
    except ValueError:  # there is none: a scheduler of this process
        return {}
    return {} if client.asynchronous else client.run(_find_version())


def _versions_of_ray_nodes():
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    find_version = ray.remote(num_cpus=0)(_find_version())
    nodes = [n for n in ray.nodes() if n["Alive"] and "CPU" in n["Resources"]]
    found = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        found.append(find_version.options(scheduling_strategy=there).remote())
    names = [f"node {n['NodeID']} at {n['NodeManagerAddress']}" for n in nodes]
    return dict(zip(names, ray.get(found), strict=True))


def _refuse_other_versions(found):
    """Refuse a cluster of which some workers have no sktl, or another version."""
    wrong = {worker: v for worker, v in found.items() if v != _version()}
    if wrong:
        names = "\n".join(f"  {worker}: {v}" for worker, v in wrong.items())
        raise RuntimeError(
            f"{len(wrong)} of {len(found)} workers cannot compute this:\n{names}\n"
            f"They need sktl {_version()}; install it there."
        )
