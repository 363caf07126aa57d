"""The same image gives the same bits, whatever stands beside it in `X`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sktl import PretrainedFeatureExtractor, cache_info, clear_cache
from tests.helpers import each_once, encode, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

# Name to the side, in pixels, of the square it sees.
BACKBONES = {
    "sktl_mini": None,
    "squeezenet1_1": 64,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "mnasnet0_5": 64,
    "resnet18": 32,
}
N_IMAGES = 11


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (N_IMAGES, 24, 24, 3), dtype=np.uint8)


def make_extractor(backbone, **params):
    """A batch size of 4 lets few images be cut in many ways."""
    size = BACKBONES[backbone]
    weights = "DEFAULT" if backbone == "sktl_mini" else None
    settings = {"weights": weights, "image_size": size, "batch_size": 4, "cache": None}
    return PretrainedFeatureExtractor(backbone, **settings | params)


FORMS = {
    "array": lambda pixels: pixels,
    "channels first": lambda pixels: np.moveaxis(pixels, -1, 1),
    "list": list,
    "pil": lambda pixels: list(map(Image.fromarray, pixels)),
    "png": lambda pixels: list(map(encode, pixels)),
    "uint16": lambda pixels: pixels.astype(np.uint16) * 257,
}

# Which images, in which order, how often: one list for each call of `transform`.
groups = st.lists(
    st.tuples(
        st.lists(st.integers(0, N_IMAGES - 1), min_size=4, max_size=14),
        st.sampled_from(sorted(FORMS)),
    ),
    min_size=1,
    max_size=3,
)


def check_groups(images, extractor):
    """Whatever groups `transform` gets, each row has the bits it has alone."""
    extractor.fit(images)
    # Four times the same: from four rows on the promise holds.
    alone = np.vstack([extractor.transform([image] * 4)[:1] for image in images])
    assert len(np.unique(alone, axis=0)) == N_IMAGES

    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(groups)
    def run(calls):
        for indices, form in calls:
            features = extractor.transform(FORMS[form](images[indices]))
            assert features.tobytes() == alone[indices].tobytes()

    run()


# ---- groups, orders, repetitions


@pytest.mark.parametrize("backbone", first_and_slow(BACKBONES))
def test_bits_do_not_depend_on_groups_order_or_repetition(backbone, images):
    check_groups(images, make_extractor(backbone))


@pytest.mark.parametrize("cache", first_and_slow(["memory", "directory"]))
def test_bits_do_not_depend_on_what_the_cache_holds_already(cache, images, tmp_path):
    """Groups of a filling cache mix rows looked up with rows computed."""
    clear_cache()
    cache = tmp_path if cache == "directory" else cache
    extractor = make_extractor("resnet18", cache=cache)
    expected = make_extractor("resnet18").fit_transform(images)
    order = np.random.default_rng(2).permutation(N_IMAGES)
    extractor.fit(images)
    for n_seen in (4, 6, N_IMAGES):
        features = extractor.transform(images[order[:n_seen]])
        assert features.tobytes() == expected[order[:n_seen]].tobytes()


def test_bits_do_not_depend_on_the_cache_in_any_group(images):
    clear_cache()
    check_groups(images, make_extractor("sktl_mini", cache="memory"))


def test_layers_computed_together_have_the_bits_they_have_alone(images):
    layers = ["stem.1.relu", "layer2.1.relu_1", "penultimate"]
    together = make_extractor("sktl_mini", layers=layers).fit_transform(images)
    alone = [
        make_extractor("sktl_mini", layers=n).fit_transform(images) for n in layers
    ]
    assert np.array_equal(together, np.hstack(alone))


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_bits_do_not_depend_on_threads_that_decode(n_jobs, images):
    encoded = FORMS["png"](images)
    expected = make_extractor("sktl_mini").fit_transform(encoded)
    threaded = make_extractor("sktl_mini", n_jobs=n_jobs).fit_transform(encoded)
    assert np.array_equal(threaded, expected)


# ---- one to three rows


@pytest.mark.parametrize(
    ("backbone", "n"), each_once(["sktl_mini", "squeezenet1_1", "resnet18"], [1, 2, 3])
)
def test_few_rows_differ_by_rounding_at_most(backbone, n, images):
    extractor = make_extractor(backbone)
    expected = extractor.fit_transform(images)
    few = extractor.transform(images[:n])
    np.testing.assert_allclose(few, expected[:n], rtol=1e-4, atol=1e-5)


def test_few_rows_pass_with_no_others(images):
    """As a service asks for them; a usual batch takes many times as long."""
    sizes = []
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
    )
    network[0].register_forward_hook(lambda layer, x, y: sizes.append(len(y)))
    extractor = PretrainedFeatureExtractor(network, image_size=24, cache=None)
    extractor.fit(images)
    sizes.clear()
    for n in (1, 2, 3, 4):
        extractor.transform(images[:n])
    extractor.transform([images[0]] * 3)
    assert sizes == [1, 2, 3, 32, 1]


@pytest.mark.parametrize("cache", first_and_slow(["directory", "memory"]))
def test_few_rows_are_found_in_the_cache_and_never_kept(cache, images, tmp_path):
    clear_cache()
    cache = tmp_path if cache == "directory" else cache
    extractor = make_extractor("sktl_mini", cache=cache).fit(images)
    extractor.transform(images[:3])
    assert cache_info(cache)[:4] == (0, 3, 0, 0)
    expected = extractor.transform(images)
    assert np.array_equal(extractor.transform(images[2:3]), expected[2:3])
    assert cache_info(cache)[:4] == (1, 3 + N_IMAGES, N_IMAGES, N_IMAGES)


# ---- which numbers are black and white


@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageRangeWarning")
@pytest.mark.parametrize(
    ("make", "as_uint8"),
    [
        (lambda p: p, lambda p: p),
        (lambda p: p.astype(np.uint16) * 257, lambda p: p),
        (lambda p: p > 127, lambda p: np.where(p > 127, 255, 0).astype(np.uint8)),
    ],
    ids=["uint8", "uint16", "bool"],
)
@pytest.mark.parametrize("darkest", first_and_slow([16, 255, 1]))
def test_dtype_decides_scaling_not_the_largest_value(images, make, as_uint8, darkest):
    """A dark uint8 image stays dark, whatever range floats taught in fit."""
    dark = np.minimum(images, darkest)
    extractor = make_extractor("sktl_mini").fit(np.linspace(0, 1, 64).reshape(1, 8, 8))
    assert extractor.value_range_ == (0, 1)
    expected = make_extractor("sktl_mini").fit_transform(as_uint8(dark))
    assert np.array_equal(extractor.transform(make(dark)), expected)


@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageRangeWarning")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_dtype_that_says_its_range_teaches_none(images, dtype):
    extractor = make_extractor("sktl_mini").fit(images.astype(dtype))
    assert extractor.value_range_ is None


@pytest.mark.parametrize(
    ("lo", "hi", "learnt"),
    [
        (0, 1, (0, 1)),
        (0, 0.3, (0, 1)),
        (0, 16, (0, 16)),
        (0, 17, (0, 255)),
        (0, 255, (0, 255)),
        (0, 256, (0, 255)),
        (0, 300, (0, 65535)),
        (-1, 1, (-1, 1)),
        (5, 70000, (5, 70000)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_fit_learns_the_smallest_common_range_that_holds(lo, hi, learnt, dtype):
    X = np.linspace(lo, hi, 2 * 64).reshape(2, 8, 8).astype(dtype)
    assert make_extractor("sktl_mini").fit(X).value_range_ == learnt


@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageRangeWarning")
@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(st.lists(st.integers(0, N_IMAGES - 1), min_size=1, max_size=6), st.booleans())
def test_transform_batch_never_changes_the_range_learnt_in_fit(indices, as_list):
    """Also where the batch alone would have suggested another one."""
    rng = np.random.default_rng(3)
    X = rng.random((N_IMAGES, 8, 8)) * np.geomspace(0.01, 100, N_IMAGES)[:, None, None]
    extractor = make_extractor("sktl_mini").fit(X)
    assert extractor.value_range_ == (0, 255)
    pixels = np.rint(np.clip(X, 0, 255)).astype(np.uint8)
    batch = list(X[indices]) if as_list else X[indices]
    features = extractor.transform(batch)
    assert extractor.value_range_ == (0, 255)
    assert np.array_equal(features, extractor.transform(pixels[indices]))


@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageRangeWarning")
def test_values_beyond_the_range_learnt_in_fit_are_clipped(images):
    extractor = make_extractor("sktl_mini").fit(images / 255)
    expected = extractor.transform(np.clip(images / 255 * 2 - 0.5, 0, 1))
    assert np.array_equal(extractor.transform(images / 255 * 2 - 0.5), expected)


def test_given_range_is_not_learnt_over(images):
    extractor = make_extractor("sktl_mini", value_range=(0, 2)).fit(images / 255)
    assert extractor.value_range_ == (0, 2)
    half = np.rint(images / 255 / 2 * 255).astype(np.uint8)
    expected = make_extractor("sktl_mini").fit_transform(half)
    assert np.array_equal(extractor.transform(images / 255), expected)


@pytest.mark.parametrize(
    ("backbone", "layer"),
    first_and_slow(
        [
            ("squeezenet1_1", "features.0"),
            ("resnet18", "bn1"),
            ("resnet18", "layer4.1.add"),
        ]
    ),
)
def test_layer_before_one_that_computes_in_place_keeps_its_bits(
    backbone, layer, images
):
    """Torchvision's ReLUs overwrite what they read."""
    small = {"image_size": 64, "cache": None}
    alone = make_extractor(backbone, layers=layer, **small).fit_transform(images)
    layers = [layer, "penultimate"]
    together = make_extractor(backbone, layers=layers, **small).fit_transform(images)
    assert alone.min() < 0
    assert np.array_equal(together[:, : alone.shape[1]], alone)
