"""Collections of Dask and Ray: what is lazy gives the numbers of what is not."""

import os
import pickle
import signal
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import sktl
from sktl import (
    FineTunedCNNRegressor,
    PretrainedFeatureExtractor,
    cache_info,
    check_images,
)
from sktl.exceptions import ImageReadError
from tests.helpers import first_and_slow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
dask = pytest.importorskip("dask")
bag = pytest.importorskip("dask.bag")
array = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
dataframe = pytest.importorskip("dask.dataframe")

X, Y = load_digits(return_X_y=True)
VERSION = sktl.__version__
PIXELS = (X[:13].reshape(-1, 8, 8) * 15).astype(np.uint8)


@pytest.fixture(autouse=True)
def _one_thread_each():
    """As in a worker: in this process no other thread, and torch has one too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return sorted(map(str, folder.iterdir()))


def frame_of(paths):
    index = pd.RangeIndex(100, 100 + len(paths))
    return dataframe.from_pandas(pd.DataFrame({"path": paths}, index), npartitions=5)


def bag_of(paths):
    return bag.from_sequence(paths, npartitions=5)


def extractor(**params):
    return PretrainedFeatureExtractor("sktl_mini", cache=None, **params)


# --- Dask, in this process ------------------------------------------------------------


def test_features_of_dask_frame_are_a_frame_of_the_same_rows(paths):
    """Of partitions of two and three rows too, bit for bit."""
    frame = frame_of(paths)
    fitted = extractor().fit(frame)
    features = fitted.transform(frame)
    assert list(features.columns) == list(fitted.get_feature_names_out())
    assert set(features.dtypes) == {np.dtype("float32")}
    assert features.divisions == frame.divisions
    assert features.known_divisions
    computed = features.compute()
    assert list(computed.index) == list(range(100, 113))
    assert list(computed.columns) == list(features.columns)
    np.testing.assert_array_equal(computed, extractor().fit_transform(paths))


@pytest.mark.parametrize(
    "form", first_and_slow([lambda p: frame_of(p)["path"], bag_of])
)
def test_features_of_dask_series_and_bag_are_a_frame(paths, form):
    fitted = extractor().fit(paths)
    features = fitted.transform(form(paths))
    assert isinstance(features, dataframe.DataFrame)
    assert list(features.columns) == list(fitted.get_feature_names_out())
    assert set(features.dtypes) == {np.dtype("float32")}
    np.testing.assert_array_equal(features.compute(), fitted.transform(paths))


@pytest.mark.parametrize(
    "images",
    first_and_slow([PIXELS, np.stack([PIXELS] * 3, axis=-1), X[:13]]),
    ids=np.ndim,
)
def test_features_of_dask_array_are_an_array(images):
    """Also where a chunk holds a part of an image."""
    lazy = array.from_array(images, chunks=(3, 4, *images.shape[2:]))
    fitted = extractor().fit(lazy)
    features = fitted.transform(lazy)
    assert isinstance(features, array.Array)
    assert (features.shape, features.dtype) == ((13, 512), np.float32)
    np.testing.assert_array_equal(features.compute(), fitted.transform(images))


def test_dask_array_of_unknown_length_with_empty_chunks():
    lazy = array.from_array(X[:13], chunks=(3, 64))
    some = lazy[lazy[:, 20] > 11]
    kept = X[:13][X[:13, 20] > 11]
    fitted = extractor().fit(X[:13])
    features = fitted.transform(some)
    assert np.isnan(features.shape[0])
    assert features.shape[1] == 512
    computed = features.compute()
    assert 0 < len(kept) == len(computed) < 13
    assert min(len(chunk) for chunk in dask.compute(*some.to_delayed().ravel())) == 0
    expected = fitted.transform(X[:13])[X[:13, 20] > 11]
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("form", [frame_of, bag_of])
def test_empty_partitions_have_the_right_columns(paths, form):
    fitted = extractor().fit(form(paths))
    nothing = form([paths[0]] * 13)
    if form is frame_of:
        nothing = nothing[nothing["path"] == "no such path"]
    else:
        nothing = nothing.filter(lambda path: path == "no such path")
    features = fitted.transform(nothing).compute()
    assert features.shape == (0, 512)
    assert set(features.dtypes) == {np.dtype("float32")}


def test_fit_transform_reads_the_first_partition_only(paths):
    @dask.delayed
    def unreachable():
        raise AssertionError("the second partition was computed")

    lazy = bag.from_delayed([dask.delayed(paths[:5]), unreachable()])
    assert extractor().fit_transform(lazy).npartitions == 2
    first = extractor().fit(X[:5]).value_range_
    lazy = array.concatenate([array.from_array(X[:5]), array.from_array(X[:5] * 100)])
    assert extractor().fit(lazy).value_range_ == first


def test_transform_of_dask_collection_opens_no_image(paths):
    """And all unreadable images of a partition are named, each row once."""
    lazy = extractor().fit(paths).transform(bag_of([*paths[:10], "a.png", "b.png"]))
    with pytest.raises(ImageReadError, match="2 image.*partition 3 of X") as caught:
        lazy.partitions[3].compute()
    assert caught.value.partition == 3
    assert [row for row, _, _ in caught.value.failures] == [1, 2]
    assert pickle.loads(pickle.dumps(caught.value)).partition == 3


def array_of(paths):
    return array.from_array(np.array(paths, dtype=object), chunks=3)


FORMS = [
    (frame_of, "the partition with index 111 to 112 of X", 1),
    (bag_of, "partition 4 of X", 0),
    (array_of, "partition 4 of X", 0),
]


@pytest.mark.parametrize(("form", "partition", "row"), FORMS)
def test_error_of_dask_collection_names_partition_and_row(paths, form, partition, row):
    """Those of X, also where only this partition is computed."""
    fitted = extractor().fit(form(paths))
    features = fitted.transform(form([*paths[:12], "a.png"]))
    last = features[12:] if form is array_of else features.partitions[4]
    for asked in (features, last):
        with pytest.raises(ImageReadError, match=f"1 image.*{partition}") as caught:
            asked.compute()
        assert caught.value.index == row


@pytest.mark.parametrize(("form", "partition", "row"), first_and_slow(FORMS))
def test_rows_of_nan_are_named_once_with_their_partition(paths, form, partition, row):
    fitted = extractor(on_error="nan").fit(form(paths))
    features = fitted.transform(form([*paths[:12], "a.png"]))
    with pytest.warns(UserWarning, match=f"1 image.*{partition}.*\n  row {row}: a.png"):
        computed = np.asarray(features.compute())
    np.testing.assert_array_equal(computed[:12], fitted.transform(paths)[:12])
    assert np.isnan(computed[12]).all()


def test_first_partition_without_rows_is_named(paths):
    nothing = bag_of(paths).filter(lambda path: path in paths[3:])
    with pytest.raises(ValueError, match="first partition of X has no rows"):
        extractor().fit(nothing)


def test_set_output_leaves_collections_lazy(paths):
    fitted = extractor().set_output(transform="pandas")
    features = fitted.fit_transform(frame_of([*paths[:6], *["a.png"] * 7]))
    assert isinstance(features, dataframe.DataFrame)
    assert features.partitions[0].compute().shape == (3, 512)


def test_collection_is_of_the_estimator_as_it_was(paths):
    fitted = extractor().fit(paths)
    expected = fitted.transform(paths)
    lazy = fitted.transform(bag_of(paths))
    fitted.set_params(layers="layer1.0.relu_1").fit(paths)
    np.testing.assert_array_equal(lazy.compute(), expected)


@pytest.mark.parametrize(
    "method", first_and_slow(["predict_proba", "predict", "decision_function"])
)
def test_predictions_of_dask_collections_are_those_of_arrays(make, method):
    labels = np.array(["cat", "dog", "emu"])[Y[:13] % 3]
    fitted = make("linear_probe").fit(PIXELS, labels)
    expected = getattr(fitted, method)(PIXELS)
    lazy = getattr(fitted, method)(array.from_array(PIXELS, chunks=(3, 8, 8)))
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(lazy.compute(), expected)
    table = getattr(fitted, method)(bag.from_sequence(list(PIXELS), npartitions=5))
    if method == "predict":
        assert table.name == "predict"
    else:
        columns = [f"{method}_{name}" for name in ("cat", "dog", "emu")]
        assert list(table.columns) == columns
    np.testing.assert_array_equal(table.compute().to_numpy(), expected)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_numbers_of_dask_collections_are_those_of_arrays(tiny_network, n_outputs):
    y = np.arange(13.0 * n_outputs).reshape(13, -1)
    y = y[:, 0] if n_outputs == 1 else y
    fitted = FineTunedCNNRegressor(
        tiny_network, strategy="linear_probe", image_size=8, random_state=0
    ).fit(PIXELS, y)
    lazy = fitted.predict(array.from_array(PIXELS, chunks=(3, 8, 8)))
    assert lazy.shape == y.shape
    np.testing.assert_array_equal(lazy.compute(), fitted.predict(PIXELS))


def test_what_needs_all_images_refuses_collections(make, paths):
    for takes_all in (partial(make().fit, y=Y[:13]), check_images):
        with pytest.raises(TypeError, match=r"computed lazily.*X.compute\(\)"):
            takes_all(frame_of(paths))


def test_wrong_columns_of_dask_frame_are_refused_at_once(paths):
    fitted = extractor().fit(frame_of(paths))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.transform(frame_of(paths).rename(columns={"path": "file"}))


# --- no rows at all -------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["linear_probe", "full"])
def test_predictions_for_no_rows_have_the_width_and_dtype_of_others(make, strategy):
    """An array of one form, a list, and a frame."""
    fitted = make(strategy).fit(PIXELS, Y[:13] % 3)
    for method in "predict predict_proba predict_log_proba decision_function".split():
        call = getattr(fitted, method)
        some = call(PIXELS)
        for nothing in ([], PIXELS[:0], pd.DataFrame({"path": []})):
            none = call(nothing)
            assert none.shape == (0, *some.shape[1:])
            assert none.dtype == some.dtype


def test_numbers_for_no_rows_have_the_shape_of_y(tiny_network):
    reg = FineTunedCNNRegressor(tiny_network, strategy="linear_probe", image_size=8)
    assert reg.fit(PIXELS, np.arange(13.0)).predict([]).shape == (0,)
    assert reg.fit(PIXELS, np.ones((13, 2))).predict([]).shape == (0, 2)


def test_features_of_no_rows_have_the_width_and_dtype_of_others(paths):
    fitted = extractor().fit(paths)
    for nothing in ([], PIXELS[:0], pd.DataFrame({"path": []})):
        assert fitted.transform(nothing).shape == (0, 512)
        assert fitted.transform(nothing).dtype == np.float32
    frame = fitted.set_output(transform="pandas").transform([])
    assert list(frame.columns) == list(fitted.get_feature_names_out())


# --- clusters of this machine ---------------------------------------------------------


def die_once(flag, path):
    """Kill this process at image 7, the first time that any process comes there."""
    if not path.endswith("07.png"):
        return path
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return path
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.fixture(scope="module")
def cluster():
    """A client of two worker processes, which have one thread each."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def on_cluster(cluster):
    with dask.config.set(scheduler=cluster):
        yield cluster


@pytest.mark.slow
def test_dask_cluster_gives_the_serial_numbers(on_cluster, paths, tmp_path):
    fitted = extractor().fit(paths)
    expected = fitted.transform(paths)
    fitted.transform(frame_of(paths)).to_parquet(tmp_path / "features")
    written = pd.read_parquet(tmp_path / "features")
    np.testing.assert_array_equal(written, expected)
    assert list(written.index) == list(range(100, 113))


def transform_without_warning(fitted, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fitted.transform(images)


@pytest.mark.slow
def test_dask_worker_warns_of_nothing(on_cluster, paths):
    """joblib refuses processes in a worker; the threads that read are none."""
    fitted = extractor().fit(paths)
    features = on_cluster.submit(transform_without_warning, fitted, paths).result()
    np.testing.assert_array_equal(features, fitted.transform(paths))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("sktl.__version__ = '0.0.1'", "0.0.1"),
        ("sys.modules['sktl'] = None", "ModuleNotFoundError"),
    ],
)
def test_dask_worker_that_cannot_compute_is_named_at_once(
    on_cluster, paths, spoil, said
):
    fitted = extractor().fit(paths)
    worker = next(iter(on_cluster.run(os.getpid)))
    keep = "import sys, sktl; sys.kept = [sktl, sktl.__version__]; "
    undo = "import sys; sys.modules['sktl'], sys.kept[0].__version__ = sys.kept"
    on_cluster.run(exec, keep + spoil, workers=[worker])
    with pytest.raises(RuntimeError, match=f"1 of . workers.*\n  {worker}.*{said}"):
        fitted.transform(bag_of(paths))
    on_cluster.run(exec, undo, workers=[worker])
    assert fitted.transform(bag_of(paths)).npartitions == 5


@pytest.mark.slow
def test_dask_cluster_survives_a_worker(on_cluster, paths, tmp_path):
    fitted = extractor().fit(paths)
    dying = bag_of(paths).map(partial(die_once, tmp_path / "dead"))
    features = fitted.transform(dying).compute()
    assert (tmp_path / "dead").exists()
    np.testing.assert_array_equal(features, fitted.transform(paths))


@pytest.mark.slow
def test_unreadable_image_costs_no_other_partition(on_cluster, paths, tmp_path):
    """They are the engine's; and in the cache, which workers of a machine share."""
    cache, late = tmp_path / "cache", tmp_path / "late.png"
    fitted = PretrainedFeatureExtractor("sktl_mini", cache=cache).fit(paths)
    images = bag_of([*paths[:12], str(late)])
    kept = fitted.transform(images).persist()
    distributed.wait(kept)
    with pytest.raises(ImageReadError, match="partition 4 of X"):
        kept.compute()
    expected = extractor().fit(paths).transform(paths[:12])
    np.testing.assert_array_equal(kept.partitions[:4].compute(), expected)
    assert cache_info(cache).entries == 12
    Image.fromarray(PIXELS[12]).save(late)
    features = fitted.transform(images).compute()
    np.testing.assert_array_equal(features, extractor().fit(paths).transform(paths))
    assert cache_info(cache).entries == 13


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    ray = pytest.importorskip("ray")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        # A process that waits is not ended: a new one takes seconds to import sktl.
        _system_config={"idle_worker_killing_time_threshold_ms": 600_000},
    )
    import ray.data

    yield ray
    ray.shutdown()


def dataset_of(ray, paths):
    rows = [{"path": path} for path in paths]
    return ray.data.from_items(rows, override_num_blocks=4)


@pytest.mark.slow
def test_ray_gives_the_serial_numbers(ray, paths):
    fitted = extractor().fit(dataset_of(ray, paths))
    expected = fitted.transform(paths)
    features = fitted.transform(dataset_of(ray, paths))
    assert isinstance(features, ray.data.Dataset)
    computed = features.to_pandas()
    assert list(computed.columns) == list(fitted.get_feature_names_out())
    assert computed.iloc[:, 0].to_numpy().dtype == np.float32
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.slow
def test_ray_survives_a_worker(ray, paths, tmp_path):
    def dying(row):
        return {"path": die_once(flag, row["path"])}

    flag = str(tmp_path / "dead")
    fitted = extractor().fit(paths)
    features = fitted.transform(dataset_of(ray, paths).map(dying)).to_pandas()
    assert os.path.exists(flag)
    np.testing.assert_array_equal(features, fitted.transform(paths))


@pytest.mark.slow
def test_ray_names_unreadable_images_and_columns(ray, paths):
    fitted = extractor().fit(paths)
    with pytest.raises(
        Exception, match="2 image.*of a block of X.*\n.*: a.png.*\n.*: b.png"
    ):
        fitted.transform(dataset_of(ray, [*paths[:11], "a.png", "b.png"])).to_pandas()
    two = dataset_of(ray, paths).add_column("label", lambda batch: 1)
    with pytest.raises(Exception, match=r"columns \['label', 'path'\]"):
        fitted.transform(two).to_pandas()


@pytest.mark.slow
def test_ray_node_of_another_version_is_named_at_once(ray, paths, monkeypatch):
    fitted = extractor().fit(paths)
    monkeypatch.setattr(sktl, "__version__", "0.0.1")
    with pytest.raises(RuntimeError, match=f"1 of 1 workers.*\n  node .*: {VERSION}\n"):
        fitted.transform(dataset_of(ray, paths))


@pytest.mark.slow
def test_ray_dataset_without_rows_gives_none(ray, paths):
    """Nor columns: Ray asks for nothing, and forgets those of its own empty tables."""
    fitted = extractor().fit(paths)
    nothing = dataset_of(ray, paths).filter(lambda row: False)
    assert fitted.transform(nothing).to_pandas().shape == (0, 0)


@pytest.mark.slow
def test_predictions_of_ray_are_those_of_arrays(ray, make):
    fitted = make("linear_probe").fit(PIXELS, Y[:13] % 3)
    images = ray.data.from_numpy(PIXELS)
    labels = fitted.predict(images).to_pandas()
    np.testing.assert_array_equal(labels["predict"], fitted.predict(PIXELS))
    table = fitted.predict_proba(images).to_pandas()
    assert list(table.columns) == [f"predict_proba_{label}" for label in range(3)]
    np.testing.assert_array_equal(table, fitted.predict_proba(PIXELS))
