"""`PretrainedFeatureExtractor` as a scikit-learn citizen."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    cache_info,
    layer_names,
)
from sktl._features.cache import open_cache
from sktl.exceptions import (
    ImageReadError,
    ImageSizeWarning,
    WeightsMismatchError,
)
from tests.helpers import first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too


@pytest.fixture(autouse=True)
def _empty_cache():
    open_cache("memory").clear()  # which keeps the networks


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:150], y[:150]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def paths(images, tmp_path):
    """The same images as PNG files."""
    names = [str(tmp_path / f"{i:02}.png") for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(name)
    return names


def test_features_are_float32_rows(images):
    features = PretrainedFeatureExtractor("sktl_mini").fit_transform(images)
    assert features.shape == (20, 512)
    assert features.dtype == np.float32


@pytest.mark.parametrize("cache", first_and_slow(["memory", None]))
def test_no_bit_depends_on_order_split_or_cache(images, cache):
    extractor = PretrainedFeatureExtractor("sktl_mini", batch_size=8, cache=cache).fit(
        images
    )
    features = extractor.transform(images)
    order = np.random.default_rng(1).permutation(len(images))
    again = clone(extractor).set_params(cache=None).fit(images)
    assert np.array_equal(again.transform(images[order]), features[order])
    by_four = [again.transform(images[i : i + 4]) for i in range(0, 20, 4)]
    assert np.array_equal(np.vstack(by_four), features)


def test_paths_give_the_features_of_their_pixels(images, paths):
    extractor = PretrainedFeatureExtractor("sktl_mini").fit(images)
    assert np.array_equal(extractor.transform(paths), extractor.transform(images))


def test_flattened_rows_give_the_features_of_their_images(digits):
    rows, _ = digits
    of_rows = PretrainedFeatureExtractor("sktl_mini").fit_transform(rows)
    of_images = PretrainedFeatureExtractor("sktl_mini").fit_transform(
        rows.reshape(-1, 8, 8)
    )
    assert np.array_equal(of_rows, of_images)


def test_several_layers_are_concatenated_and_named(images):
    early, late = "layer2.1.relu_1", "flatten"
    both = PretrainedFeatureExtractor("sktl_mini", layers=[early, late]).fit(images)
    single = [
        PretrainedFeatureExtractor("sktl_mini", layers=layer).fit_transform(images)
        for layer in (early, late)
    ]
    assert np.array_equal(both.transform(images), np.hstack(single))
    names = both.get_feature_names_out()
    assert names[0] == "sktl_mini_layer2.1.relu_1_avg_000"
    assert names[-1] == f"sktl_mini_flatten_avg_{single[1].shape[1] - 1}"


def test_every_listed_layer_is_accepted(images):
    names = layer_names("sktl_mini")[:-1]  # weights are published without scores
    extractor = PretrainedFeatureExtractor("sktl_mini", layers=names, cache=None)
    features = extractor.fit(images[:1]).transform(images[:1])
    assert features.shape[1] == extractor.n_features_out_
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("avg", lambda m: m.mean((2, 3))),
        ("max", lambda m: m.max((2, 3))),
        ("avgmax", lambda m: np.hstack([m.mean((2, 3)), m.max((2, 3))])),
        ("flatten", lambda m: m.reshape(len(m), -1)),
    ],
)
def test_pooling_is_what_numpy_makes_of_the_map(
    tiny_network, images, pooling, expected
):
    with torch.no_grad():
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        normal = (images / 255 - mean) / std
        batch = torch.tensor(normal, dtype=torch.float32).permute(0, 3, 1, 2)
        feature_map = tiny_network[:6](batch).numpy()
    features = PretrainedFeatureExtractor(
        tiny_network,
        layers="relu2",
        pooling=pooling,
        image_size=32,
        precision="float32",
    ).fit_transform(images)
    np.testing.assert_allclose(features, expected(feature_map), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output_gives_named_frames(images, container):
    extractor = PretrainedFeatureExtractor("sktl_mini").set_output(transform=container)
    frame = extractor.fit_transform(images)
    assert list(frame.columns) == list(extractor.get_feature_names_out())
    assert frame.shape == (20, 512)


# ---- scikit-learn's tools


def test_grid_search_over_backbones_compares_different_networks(digits):
    X, y = digits
    search = GridSearchCV(
        make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), LogisticRegression(max_iter=500)
        ),
        {
            "pretrainedfeatureextractor__backbone": ["sktl_mini", "squeezenet1_1"],
            "pretrainedfeatureextractor__weights": [None],
            "pretrainedfeatureextractor__image_size": [32],
        },
        cv=2,
    )
    scores = search.fit(X[:60], y[:60]).cv_results_["mean_test_score"]
    assert scores[0] != scores[1]


def test_set_params_takes_effect_on_a_fitted_extractor(images):
    extractor = PretrainedFeatureExtractor("sktl_mini", pooling="avg").fit(images)
    features = extractor.set_params(backbone="squeezenet1_1", weights=None)
    assert features.fit_transform(images[:2]).shape == (2, 512)


def test_fitted_extractor_pickles_small_and_goes_on(images):
    extractor = PretrainedFeatureExtractor("sktl_mini").fit(images)
    content = pickle.dumps(extractor)
    assert len(content) < 100_000
    again = pickle.loads(content)
    assert np.array_equal(again.transform(images), extractor.transform(images))


def test_weights_that_changed_since_fit_are_refused(images, tmp_path):
    from torchvision.models import get_model

    path = tmp_path / "weights.pth"
    extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=path, image_size=32)
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(get_model("squeezenet1_1", weights=None).state_dict(), path)
        if seed == 1:
            extractor.fit(images)
    with pytest.raises(WeightsMismatchError, match="not the network that fit saw"):
        extractor.transform(images)


# ---- what goes wrong


def test_unreadable_files_are_all_listed_with_row_and_path(paths):
    with open(paths[3], "wb") as file:
        file.write(b"no image")
    bad = [*paths[:10], "/nowhere/12.png", *paths[10:]]
    with pytest.raises(ImageReadError) as caught:
        PretrainedFeatureExtractor("sktl_mini").fit_transform(bad)
    assert [(row, path) for row, path, _ in caught.value.failures] == [
        (3, paths[3]),
        (10, "/nowhere/12.png"),
    ]
    assert "row 3" in str(caught.value)
    assert paths[3] in str(caught.value)


def test_good_images_of_a_failed_pass_are_kept(paths, images):
    bad = [*paths, "/nowhere/12.png"]
    with pytest.raises(ImageReadError):
        PretrainedFeatureExtractor("sktl_mini").fit_transform(bad)
    PretrainedFeatureExtractor("sktl_mini").fit_transform(paths)
    assert cache_info().computed == len(paths)


def test_on_error_nan_marks_rows_and_warns_once(paths):
    extractor = PretrainedFeatureExtractor("sktl_mini", on_error="nan").fit(paths)
    with pytest.warns(UserWarning, match="row 1: /nowhere/12.png") as caught:
        features = extractor.transform([paths[0], "/nowhere/12.png", paths[1]])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]


def test_equal_unreadable_images_are_all_reported(images):
    """Equal content is decoded once, but every row needs its verdict."""
    good, bad = Image.fromarray(images[0]), b"no image"
    extractor = PretrainedFeatureExtractor("sktl_mini", on_error="nan", cache=None).fit(
        [good]
    )
    with pytest.warns(UserWarning, match="2 image") as caught:
        features = extractor.transform([good, bad, bad, good])
    assert "row 1" in str(caught[0].message)
    assert "row 2" in str(caught[0].message)
    assert np.isnan(features).all(axis=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("backbone", "remedy"),
    [
        ("sktl_mini", "Use 'sktl_photo', which needs no download, or a.*'resnet18'"),
        ("sktl_photo", "Use a network that sees 224 pixels, such as.*'resnet18'"),
    ],
)
def test_images_much_larger_than_the_network_sees_warn_once(backbone, remedy):
    large = [np.zeros((500, 600, 3), np.uint8), np.ones((500, 500, 3), np.uint8)]
    extractor = PretrainedFeatureExtractor(backbone).fit(large)
    with pytest.warns(ImageSizeWarning, match=remedy) as caught:
        extractor.transform(large)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_size_at_which_most_features_are_zero_warns():
    """One pixel less costs nearly all features."""
    X, _ = load_digits(return_X_y=True)
    extractor = PretrainedFeatureExtractor(image_size=32)
    with pytest.warns(ImageSizeWarning, match="32 pixels.* need at least 33") as caught:
        few = extractor.fit_transform(X[:20])
    assert caught[0].filename == __file__
    many = clone(extractor).set_params(image_size=33).fit_transform(X[:20])
    assert np.mean(few > 0) < 0.1 < np.mean(many > 0)
    clone(extractor).set_params(weights=None).fit_transform(X[:20])  # does not warn
    probe = FineTunedCNNClassifier(strategy="linear_probe", image_size=32)
    with pytest.warns(ImageSizeWarning, match="32 pixels"):
        probe.fit(X[:20], np.arange(20) % 2)


# ---- fits that fail, parameters set after a fit

OTHER_RANGE = np.linspace(0, 200, 5 * 64).reshape(5, 64)


@pytest.mark.parametrize(
    ("params", "X"),
    [
        ({}, np.full((5, 64), np.nan)),
        ({}, np.zeros((5, 60))),
        ({"layers": "layer9"}, OTHER_RANGE),
        ({"backbone": "resnet81"}, OTHER_RANGE),
        ({"weights": "/nowhere.pth"}, OTHER_RANGE),
        ({"pooling": "mean"}, OTHER_RANGE),
    ],
    ids=["NaN", "layout", "layer", "backbone", "weights", "pooling"],
)
def test_failed_fit_leaves_an_extractor_unfitted(params, X, digits):
    digits = digits[0][:10]
    extractor = PretrainedFeatureExtractor("sktl_mini").fit(digits)
    good = extractor.get_params()
    with pytest.raises((ValueError, OSError)):
        extractor.set_params(**params).fit(X)
    assert [name for name in vars(extractor) if name.endswith("_")] == []
    with pytest.raises(NotFittedError):
        extractor.set_params(**good).transform(digits)
    expected = PretrainedFeatureExtractor("sktl_mini").fit_transform(digits)
    assert np.array_equal(extractor.fit_transform(digits), expected)


@pytest.mark.parametrize(
    "later",
    first_and_slow(
        [{"image_size": 48}, {"pooling": "avgmax"}, {"layers": "layer2.1.relu_1"}]
    ),
    ids=str,
)
def test_parameter_set_after_fit_holds_from_the_next_fit_on(later, images):
    extractor = PretrainedFeatureExtractor("sktl_mini", pooling="max").fit(images)
    expected = extractor.transform(images)
    extractor.set_params(**later)
    assert np.array_equal(extractor.transform(images), expected)
    assert len(extractor.get_feature_names_out()) == expected.shape[1]
    again = PretrainedFeatureExtractor("sktl_mini", **{"pooling": "max"} | later)
    found = extractor.fit(images).transform(images)
    assert np.array_equal(found, again.fit_transform(images))
    assert len(extractor.get_feature_names_out()) == found.shape[1]


# ---- cache


@pytest.mark.parametrize("cache", ["none", "None", "off"])
def test_word_for_no_cache_is_not_taken_for_a_directory(
    cache, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=cache)
    for call in (extractor.fit, extractor.fit_transform):
        with pytest.raises(ValueError, match="Pass None, without quotes"):
            call(images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cache", first_and_slow(["memory", "directory"]))
def test_counts_are_right_where_one_of_two_layers_is_known(cache, images, tmp_path):
    cache = cache if cache == "memory" else tmp_path
    layers = ["layer2.1.relu_1", "flatten"]
    one = PretrainedFeatureExtractor("sktl_mini", layers=layers[0], cache=cache)
    one.fit_transform(images)
    assert cache_info(cache)[:4] == (0, 20, 20, 20)
    both = PretrainedFeatureExtractor("sktl_mini", layers=layers, cache=cache)
    features = both.fit_transform(images)
    assert cache_info(cache)[:4] == (20, 40, 40, 40)
    both.set_params(cache=None)
    assert np.array_equal(both.fit_transform(images), features)


def test_half_precision_that_overflows_is_an_error_and_not_kept(tiny_network, images):
    with torch.no_grad():
        tiny_network.conv2.weight *= 1e6
    extractor = PretrainedFeatureExtractor(
        tiny_network, image_size=8, precision="float16", device="cpu"
    )
    with pytest.raises(ValueError, match="precision='bfloat16'"):
        extractor.fit_transform(images)
    assert cache_info().entries == 0
    features = extractor.set_params(precision="bfloat16").fit_transform(images)
    assert np.isfinite(features).all()
