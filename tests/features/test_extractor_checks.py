"""`PretrainedFeatureExtractor` under scikit-learn's checks and inside its tools."""

import functools
import pickle
import pickletools
import sys
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    HalvingGridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import check_estimator

from sktl import PretrainedFeatureExtractor, RawPixels
from tests.helpers import encode, first_and_slow, run_python

# Any row is an image of height one, so two-dimensional input is really on.
DEFAULT = functools.partial(PretrainedFeatureExtractor, image_shape=(1, -1))
MINI = functools.partial(DEFAULT, "sktl_mini")
SQUEEZENET = functools.partial(
    DEFAULT, "squeezenet1_1", weights=None, image_size=32, batch_size=8
)

RAW_PIXELS = functools.partial(RawPixels, 4, image_shape=(1, -1))

# In the order of sklearn/tests/test_common.py, which runs them on its transformers
# besides `check_estimator`; the eleventh is below.
EXTRA_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_set_output_transform_polars",
]


@pytest.fixture(scope="module")
def y():
    return np.array(["dark", "light"] * 12)


@pytest.fixture(scope="module")
def images(y):
    """Noise whose brightness is its class."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 156, (len(y), 12, 12, 3), dtype=np.uint8)
    pixels[y == "light"] += 100
    return pixels


@pytest.fixture(scope="module")
def rows(images):
    return images.reshape(len(images), -1)


@pytest.fixture(scope="module")
def paths(images, tmp_path_factory):
    """The same images as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    names = [str(folder / f"{i:02}.png") for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(name)
    return names


@pytest.fixture(scope="module")
def features(images):
    return PretrainedFeatureExtractor("sktl_mini").fit_transform(images)


@pytest.fixture(scope="module")
def table(paths, y):
    """A column of images that tell the class beside two columns that do not."""
    rng = np.random.default_rng(1)
    sites = rng.choice(["north", "south"], len(y))
    ages = rng.normal(50, 10, len(y))
    return pd.DataFrame({"image": paths, "age": ages, "site": sites})


def classifier():
    return make_pipeline(PretrainedFeatureExtractor("sktl_mini"), LogisticRegression())


# ---- scikit-learn's checks


@pytest.mark.parametrize(
    ("make", "cache"),
    first_and_slow(
        [
            (MINI, "memory"),
            (MINI, None),
            (MINI, "directory"),
            (SQUEEZENET, "memory"),
            (SQUEEZENET, None),
            (SQUEEZENET, "directory"),
            # Without a cache, rows that pass alone may be 2e-7 off, and one check
            # allows 1e-7.
            (DEFAULT, "memory"),
            (DEFAULT, "directory"),
        ]
    ),
)
def test_all_estimator_checks_pass(make, cache, tmp_path):
    """None fails, none is skipped, none is expected to fail."""
    extractor = make(cache=tmp_path if cache == "directory" else cache)
    tags = get_tags(extractor)
    assert tags.input_tags.two_d_array
    assert not tags.no_validation
    results = check_estimator(extractor, on_fail=None, on_skip=None)
    assert Counter(result["status"] for result in results) == {"passed": 47}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(MINI, id="sktl_mini"),
        pytest.param(SQUEEZENET, id="squeezenet1_1", marks=pytest.mark.slow),
        pytest.param(RAW_PIXELS, id="raw pixels"),
    ],
)
@pytest.mark.parametrize("check", EXTRA_CHECKS)
def test_extra_transformer_check_passes(make, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that these checks leave out
        getattr(estimator_checks, check)(type(make()).__name__, make())


@pytest.mark.parametrize("make", [MINI, RAW_PIXELS], ids=["sktl_mini", "raw pixels"])
def test_frames_are_taken_without_a_warning_of_names(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator_checks.check_dataframe_column_names_consistency(
            type(make()).__name__, make()
        )


def test_columns_missing_since_fit_are_named_before_their_content_is_judged():
    """What pandas puts where a column is missing is NaN, but that is not the fault."""
    fitted = pd.DataFrame(np.ones((3, 4)), columns=list("abcd"))
    extractor = MINI().fit(fitted)
    with pytest.raises(ValueError, match="yet now missing:\n- d"):
        extractor.transform(fitted[["a", "b", "c"]])
    with pytest.raises(ValueError, match="unseen at fit time:\n- e"):
        extractor.transform(fitted.reindex(columns=list("abce")))


def test_eleventh_extra_check_passes_though_nothing_works_in_place():
    """scikit-learn runs it on what has a parameter `copy`; it is a rule for all."""
    estimator_checks.check_inplace_ensure_writeable(
        "PretrainedFeatureExtractor", MINI()
    )


# ---- copies


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_dump_and_load_give_the_same_features(images, tmp_path, compress):
    extractor = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(images)
    joblib.dump(extractor, tmp_path / "extractor.joblib", compress=compress)
    again = joblib.load(tmp_path / "extractor.joblib")
    assert np.array_equal(again.transform(images), extractor.transform(images))


def test_joblib_memory_map_of_a_fitted_pipeline_predicts(images, y, tmp_path):
    model = classifier().fit(images, y)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert np.array_equal(again.predict_proba(images), model.predict_proba(images))


def test_clone_of_a_fitted_extractor_is_unfitted_and_equal(images):
    extractor = PretrainedFeatureExtractor("sktl_mini", pooling="max").fit(images)
    again = clone(extractor)
    assert again.get_params() == extractor.get_params()
    assert vars(again).keys() == again.get_params().keys()


def test_pickle_of_a_fitted_extractor_holds_nothing_of_torch(images):
    """So there is no tensor that has to be put on a device, whichever it was."""
    content = pickle.dumps(PretrainedFeatureExtractor("sktl_mini").fit(images))
    words = {str(arg).split(".")[0] for _, arg, _ in pickletools.genops(content)}
    assert words.isdisjoint({"torch", "torchvision"})


def test_device_auto_is_looked_for_again_where_it_is_unpickled(images, monkeypatch):
    """The device that "auto" meant in fit may be absent here."""
    elsewhere = torch.device("cpu:0")  # stands for the GPU of another machine
    with monkeypatch.context() as patch:
        patch.setattr("sktl._features.engine.resolve_device", lambda device: elsewhere)
        extractor = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(images)
        content, expected = pickle.dumps(extractor), extractor.transform(images)
    asked = []
    resolve = sys.modules["sktl._features.engine"].resolve_device
    monkeypatch.setattr(
        "sktl._features.engine.resolve_device",
        lambda name: asked.append(name) or resolve(name),
    )
    again = pickle.loads(content)
    assert np.array_equal(again.transform(images), expected)
    assert asked == ["auto"]


def test_named_device_that_is_absent_is_refused_and_can_be_changed(images):
    """Nothing is moved silently to a device that was not asked for."""
    fitted = PretrainedFeatureExtractor("sktl_mini", cache=None).fit(images)
    content = pickle.dumps(fitted.set_params(device="cuda:99"))
    again = pickle.loads(content)
    with pytest.raises(ValueError, match="device='cuda:99' cannot be used.*\"auto\""):
        again.transform(images)
    expected = fitted.set_params(device="cpu").transform(images)
    assert np.array_equal(again.set_params(device="cpu").transform(images), expected)


@pytest.mark.gpu
def test_what_a_gpu_fitted_goes_on_in_a_process_without_one(images, tmp_path):
    """Fault 33."""
    extractor = PretrainedFeatureExtractor(
        "sktl_mini", device="auto", precision="float32"
    )
    expected = extractor.fit_transform(images)
    joblib.dump((extractor, images, expected), tmp_path / "fitted.joblib")
    code = (
        "import joblib, numpy as np, sys\n"
        "extractor, images, expected = joblib.load(sys.argv[1])\n"
        "features = extractor.transform(images)\n"
        "np.testing.assert_allclose(features, expected, rtol=1e-2, atol=1e-2)\n"
    )
    run_python(code, tmp_path / "fitted.joblib", CUDA_VISIBLE_DEVICES="")


# ---- scikit-learn's tools


@pytest.mark.parametrize("kind", ["rows", "images", "paths", "encoded", "frame"])
def test_feature_union_puts_layers_side_by_side(kind, images, rows, paths, features):
    X = {
        "rows": rows,
        "images": images,
        "paths": paths,
        "encoded": [encode(image) for image in images],
        "frame": pd.DataFrame({"image": paths}),
    }[kind]
    union = FeatureUnion(
        [
            ("mean", PretrainedFeatureExtractor("sktl_mini")),
            (
                "maximum",
                PretrainedFeatureExtractor(
                    "sktl_mini", layers="stem.1.relu", pooling="max"
                ),
            ),
        ]
    )
    together = union.fit_transform(X)
    assert np.array_equal(together[:, : features.shape[1]], features)
    assert together.shape == (len(X), len(union.get_feature_names_out()))


@pytest.mark.parametrize("kind", ["images", "paths"])
def test_stacking_stacks_what_cross_validation_predicts(
    kind, images, paths, features, y
):
    X = {"images": images, "paths": paths}[kind]
    folds = StratifiedKFold(3)
    stack = StackingClassifier(
        [("logistic", classifier())], GaussianNB(), cv=folds, stack_method="auto"
    ).fit(X, y)
    out_of_fold = cross_val_predict(
        LogisticRegression(), features, y, cv=folds, method="predict_proba"
    )
    expected = GaussianNB().fit(out_of_fold[:, 1:], y)
    final = LogisticRegression().fit(features, y).predict_proba(features)
    assert np.array_equal(stack.predict(X), expected.predict(final[:, 1:]))


@pytest.mark.parametrize("kind", ["rows", "images", "paths"])
def test_voting_averages_what_its_members_say(kind, images, rows, paths, features, y):
    X = {"rows": rows, "images": images, "paths": paths}[kind]
    bayes = make_pipeline(PretrainedFeatureExtractor("sktl_mini"), GaussianNB())
    vote = VotingClassifier([("a", classifier()), ("b", bayes)], voting="soft")
    members = [LogisticRegression().fit(features, y), GaussianNB().fit(features, y)]
    expected = np.mean([m.predict_proba(features) for m in members], axis=0)
    np.testing.assert_allclose(vote.fit(X, y).predict_proba(X), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["rows", "frame"])
def test_bagging_takes_rows_and_frames_of_paths(kind, rows, paths, features, y):
    X = {"rows": rows, "frame": pd.DataFrame({"image": paths})}[kind]
    bags = BaggingClassifier(classifier(), 3, random_state=0).fit(X, y)
    # A pipeline, as the bags of one are drawn and not weighted.
    plain = make_pipeline("passthrough", LogisticRegression())
    of_features = BaggingClassifier(plain, 3, random_state=0)
    expected = of_features.fit(features, y).predict_proba(features)
    np.testing.assert_allclose(bags.predict_proba(X), expected, atol=1e-5)


@pytest.mark.parametrize("kind", first_and_slow(["images", "rows", "paths", "frame"]))
def test_calibrated_classifier_calibrates_the_pipeline(
    kind, images, rows, paths, features, y
):
    X = {
        "rows": rows,
        "images": images,
        "paths": paths,
        "frame": pd.DataFrame({"image": paths}),
    }[kind]
    calibrated = CalibratedClassifierCV(classifier(), cv=3).fit(X, y)
    expected = CalibratedClassifierCV(LogisticRegression(), cv=3).fit(features, y)
    np.testing.assert_allclose(
        calibrated.predict_proba(X), expected.predict_proba(features), atol=1e-12
    )


@pytest.mark.parametrize("kind", ["images", "paths"])
def test_one_vs_rest_fits_one_pipeline_per_class(kind, images, paths, features):
    X = {"images": images, "paths": paths}[kind]
    y = np.arange(len(X)) % 3
    each = OneVsRestClassifier(classifier()).fit(X, y)
    expected = OneVsRestClassifier(LogisticRegression()).fit(features, y)
    assert len(each.estimators_) == 3
    assert np.array_equal(each.predict(X), expected.predict(features))


def test_self_training_labels_rows_that_had_none(rows, features, y):
    codes = (y == "light").astype(int)
    codes[8:] = -1
    trained = SelfTrainingClassifier(classifier(), max_iter=3).fit(rows, codes)
    expected = SelfTrainingClassifier(LogisticRegression(), max_iter=3)
    expected.fit(features, codes)
    assert np.array_equal(trained.transduction_, expected.transduction_)
    assert np.array_equal(trained.predict(rows), expected.predict(features))


@pytest.mark.parametrize("kind", first_and_slow(["images", "paths"]))
def test_halving_grid_search_searches_over_layers(kind, images, paths, y):
    X = {"images": images, "paths": paths}[kind]
    search = HalvingGridSearchCV(
        classifier(),
        {
            "pretrainedfeatureextractor__pooling": ["avg", "max"],
            "logisticregression__C": [0.1, 1.0],
        },
        cv=2,
        min_resources=8,
        random_state=0,
        error_score="raise",
    ).fit(X, y)
    assert search.n_candidates_[0] == 4
    assert search.n_resources_[-1] > search.n_resources_[0]
    assert search.score(X, y) > 0.5


@pytest.mark.parametrize("kind", first_and_slow(["rows", "images", "paths"]))
def test_learning_curve_is_that_of_the_features(kind, images, rows, paths, features, y):
    X = {"rows": rows, "images": images, "paths": paths}[kind]
    asked = {"cv": 3, "train_sizes": [6, 12], "error_score": "raise"}
    _, train, test = learning_curve(classifier(), X, y, **asked)
    _, *expected = learning_curve(LogisticRegression(), features, y, **asked)
    assert np.array_equal([train, test], expected)


@pytest.mark.parametrize("column", ["image", ["image"]], ids=["string", "list"])
@pytest.mark.parametrize("kind", ["str", "object", "Path", "pil", "bytes"])
def test_column_of_images_stands_beside_numbers_and_categories(
    kind, column, table, images, features
):
    make = {
        "str": lambda: table["image"],
        "object": lambda: table["image"].astype(object),
        "Path": lambda: list(map(Path, table["image"])),
        "pil": lambda: list(map(Image.fromarray, images)),
        "bytes": lambda: [encode(image) for image in images],
    }[kind]
    frame = table.assign(image=make())
    branches = beside_tabular_columns(column)
    rows = branches.fit_transform(frame)
    assert np.array_equal(rows[:, : features.shape[1]], features)
    assert rows.shape[1] == features.shape[1] + 1 + 2
    assert list(branches.get_feature_names_out())[-3:] == [
        "number__age",
        "category__site_north",
        "category__site_south",
    ]


@pytest.mark.parametrize("column", ["image", ["image"]], ids=["string", "list"])
def test_permutation_importance_finds_the_image_column(column, table, y):
    """Shuffling paths costs accuracy; shuffling the columns of noise does not."""
    model = make_pipeline(
        beside_tabular_columns(column), StandardScaler(), LogisticRegression()
    ).fit(table, y)
    found = permutation_importance(model, table, y, n_repeats=3, random_state=0)
    importances = dict(zip(table.columns, found.importances_mean, strict=True))
    assert importances["image"] > 0.2
    assert importances["image"] > importances["age"]
    assert importances["image"] > importances["site"]


def beside_tabular_columns(column):
    return ColumnTransformer(
        [
            ("image", PretrainedFeatureExtractor("sktl_mini"), column),
            ("number", StandardScaler(), ["age"]),
            ("category", OneHotEncoder(), ["site"]),
        ],
        sparse_threshold=0,
    )
