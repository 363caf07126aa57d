"""Default contenders, and which contenders are each other's twins."""

import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import nn

from sktl import (
    FineTunedCNNClassifier,
    GlobalScaler,
    PretrainedFeatureExtractor,
    RawPixels,
    compare_transfer,
)
from sktl._comparison.contenders import default_contenders
from sktl._comparison.twins import feature_contenders, find_pairs
from sktl._targets.kinds import Indicators, Labels, Numbers
from sktl.exceptions import ImageLayoutError
from tests.helpers import first_and_slow, make_tiny_network

NAMES = [
    "untrained network + logistic regression",
    "frozen features + logistic regression",
    "frozen features + SVM",
    "frozen features + gradient boosting",
    "fine-tuned network",
    "network from scratch",
]
ONCE = ["most frequent class", "raw pixels + logistic regression"]


LABELS = Labels(np.arange(2))


# --- the default ones ---------------------------------------------------------------


def test_table_is_refused_before_anything_is_fitted():
    """Seven of eight would take it for images, each with the same error."""
    table = pd.DataFrame({"path": ["a.png", "b.png"] * 9, "age": range(18)})
    message = r"2 columns, and column 'path' .*PretrainedFeatureExtractor\(\), \['path'"
    with pytest.raises(ImageLayoutError, match=message) as caught:
        compare_transfer(table, [0, 0, 1] * 6, backbone="sktl_mini", cv=2)
    assert not hasattr(caught.value, "__notes__")


def test_default_contenders_of_several_networks_bear_their_labels():
    contenders = default_contenders({"a": "sktl_mini", "b": "resnet18"}, LABELS)
    expected = [f"{name}, {label}" for label in "ab" for name in NAMES]
    assert list(contenders) == ONCE + expected
    assert contenders["fine-tuned network, b"].backbone == "resnet18"


def test_default_contenders_take_over_what_an_extractor_says():
    own = {
        "weights": "mine.safetensors",
        "image_shape": (8, 8),
        "channels": "last",
        "value_range": (0, 16),
        "image_size": 48,
        "precision": "float32",
        "cache": None,
        "n_jobs": 2,
    }
    contenders = default_contenders(
        PretrainedFeatureExtractor("resnet18", **own), LABELS
    )
    assert list(contenders) == ONCE + NAMES
    for name in NAMES:
        part = getattr(contenders[name], "steps", [("", contenders[name])])[0][1]
        expected = own | ({"weights": None} if "untrained" in name else {})
        params = part.get_params(deep=False)
        assert {key: params[key] for key in own} == expected
        assert part.backbone == "resnet18"
    pixels = contenders["raw pixels + logistic regression"][0]
    of_images = ("image_shape", "channels", "value_range", "n_jobs")
    for key in of_images:
        assert getattr(pixels, key) == own[key]


@pytest.fixture
def saved(tmp_path):
    """Weights that know that their images have 16 pixels."""
    X, y = load_digits(n_class=2, return_X_y=True)
    source = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe", image_size=16)
    source.fit(X[:20], y[:20]).save_backbone(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_default_contenders_see_images_as_a_saved_backbone_did(saved):
    extractor = PretrainedFeatureExtractor("sktl_mini", weights=saved)
    contenders = default_contenders(extractor, LABELS)
    expected = extractor.fit(load_digits().images[:2]).preprocessing_
    assert expected.crop == 16
    for name in NAMES:
        part = getattr(contenders[name], "steps", [("", contenders[name])])[0][1]
        assert part.preprocessing == expected
    assert len(find_pairs(contenders)) == 2


@pytest.mark.parametrize(
    ("others", "ending"), [({}, ""), ({"another": "resnet18"}, ", drawn / mine")]
)
def test_networks_that_differ_in_weights_share_the_random_ones(saved, others, ending):
    drawn = PretrainedFeatureExtractor("sktl_mini", image_size=16)
    mine = clone(drawn).set_params(weights=saved)
    contenders = default_contenders({"drawn": drawn, "mine": mine} | others, LABELS)
    of_all = [NAMES[0] + ending, NAMES[5] + ending]
    assert [name for name in contenders if "another" not in name] == [
        *ONCE,
        of_all[0],
        *(f"{name}, {label}" for label in ("drawn", "mine") for name in NAMES[1:5]),
        of_all[1],
    ]
    pairs = [pair for pair in find_pairs(contenders) if "another" not in pair[0]]
    assert [pair.twin for pair in pairs] == 2 * of_all


def test_networks_that_see_images_otherwise_share_nothing(saved):
    mine = PretrainedFeatureExtractor("sktl_mini", weights=saved)
    contenders = default_contenders({"a": "sktl_mini", "b": mine}, LABELS)
    expected = [f"{name}, {label}" for label in "ab" for name in NAMES]
    assert list(contenders) == ONCE + expected


@pytest.mark.parametrize(
    "transformer", [RawPixels(), make_pipeline(RawPixels(), GlobalScaler())]
)
def test_contender_that_predicts_nothing_is_named(transformer):
    X, y = load_digits(return_X_y=True)
    kind = type(transformer).__name__
    expected = rf"contenders\['mine'\] is a {kind}, which predicts nothing"
    with pytest.raises(ValueError, match=expected):
        compare_transfer(X[:20], y[:20] % 2, {"mine": transformer}, cv=2)


@pytest.mark.parametrize("backbone", [3, {"mine": LogisticRegression()}])
def test_backbone_of_another_kind_is_named(backbone):
    with pytest.raises(ValueError, match=r"backbone.* is a .*Accepted: a name of"):
        default_contenders(backbone, LABELS)


def test_backbones_without_entry_are_refused():
    with pytest.raises(ValueError, match="backbone={} holds no network"):
        default_contenders({}, LABELS)


def test_kind_of_each_default_contender_is_in_the_results(make):
    """By what it takes from the network, of which only a pretrained one gives any."""
    pixels = make_pipeline(RawPixels(), LogisticRegression())
    contenders = {
        "pixels": (pixels, "classical"),
        "untrained": (features(DummyClassifier(), weights=None), "random weights"),
        "frozen": (features(DummyClassifier()), "frozen features"),
        "probe": (make("linear_probe"), "frozen features"),
        "tuned": (make(max_epochs=1), "fine-tuned"),
        "scratch": (make("scratch", max_epochs=1), "random weights"),
        "no weights": (make("full", weights=None, max_epochs=1), "random weights"),
    }
    X, y = load_digits(return_X_y=True)
    estimators = {name: contender for name, (contender, _) in contenders.items()}
    report = compare_transfer(X[:40], y[:40] > 4, estimators, cv=2)
    kinds = [kind for _, kind in contenders.values()]
    assert report.results_["kind"].tolist() == kinds


SMALL = 2.0**-40  # a power of two, which leaves all digits as they are


@pytest.mark.parametrize(
    ("target", "of_digits"),
    [
        (Labels(np.arange(10)), np.arange(10)),
        (Indicators(np.arange(10)), np.eye(10, dtype=int)),
        (Numbers(np.array(4.5), np.array(3.0)), np.arange(10.0)),
    ],
    ids=["labels", "tags", "numbers"],
)
def test_default_linear_contenders_do_not_depend_on_the_scale(target, of_digits):
    """Of random weights, features may be 1e-10 of those of pretrained ones."""
    X, y = load_digits(return_X_y=True)
    y = of_digits[y]
    networks = {scale: make_tiny_network() for scale in (1.0, SMALL)}
    with torch.no_grad():
        networks[SMALL].bn2.weight *= SMALL
        networks[SMALL].bn2.bias *= SMALL
    extractors = {
        str(scale): PretrainedFeatureExtractor(network, image_size=8)
        for scale, network in networks.items()
    }
    contenders = default_contenders(extractors, target)
    name = f"frozen features + {target.linear_name}, "
    large, small = (contenders[name + str(scale)] for scale in networks)
    features = [model[0].fit_transform(X[:4]) for model in (large, small)]
    assert np.array_equal(features[0] * SMALL, features[1])
    assert large[0].fit_transform(X[:100]).std() > 0.01
    predicted = [
        model.fit(X[:100], y[:100]).predict(X[100:300]) for model in (large, small)
    ]
    np.testing.assert_allclose(*predicted, rtol=1e-6)
    assert len(np.unique(predicted[0], axis=0)) > 1


UNTRAINED = PretrainedFeatureExtractor("sktl_mini", weights=None, image_size=8)


@pytest.mark.parametrize(
    ("steps", "warns"),
    [
        ([UNTRAINED, LogisticRegression()], True),
        ([UNTRAINED, LinearSVC()], True),
        ([UNTRAINED, OneVsRestClassifier(LogisticRegression())], True),
        ([UNTRAINED, RandomForestClassifier()], True),
        ([UNTRAINED, GradientBoostingClassifier()], True),
        ([UNTRAINED, AdaBoostClassifier()], True),
        ([UNTRAINED, HistGradientBoostingClassifier()], False),
        ([UNTRAINED, OneVsRestClassifier(GradientBoostingClassifier())], True),
        ([UNTRAINED, GlobalScaler(), LogisticRegression()], False),
        ([UNTRAINED, StandardScaler(), LogisticRegression()], False),
        ([UNTRAINED, SVC()], False),
        ([clone(UNTRAINED).set_params(weights="DEFAULT"), LinearSVC()], False),
        ([LogisticRegression()], False),
    ],
)
def test_random_features_are_to_be_scaled_for_models_that_depend_on_it(steps, warns):
    X, y = load_digits(return_X_y=True)
    contenders = {"mine": make_pipeline(*steps)}
    expected = r"contenders\['mine'\] passes .* Put sktl.GlobalScaler\(\) between"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match=expected) if warns else nullcontext():
            compare_transfer(X[:20], y[:20] % 2, contenders, cv=2)


# --- twins --------------------------------------------------------------------------


def features(classifier=None, **params):
    params = {"backbone": "sktl_mini"} | params
    return make_pipeline(
        PretrainedFeatureExtractor(**params), classifier or LogisticRegression(C=0.5)
    )


@pytest.mark.parametrize("network", ["sktl_mini", nn.Conv2d(3, 4, 3)])
def test_default_contenders_that_have_twins(network):
    pairs = find_pairs(default_contenders({"net": network}, LABELS))
    assert pairs == [
        (f"{NAMES[1]}, net", f"{NAMES[0]}, net", "untrained"),
        (f"{NAMES[4]}, net", f"{NAMES[5]}, net", "from scratch"),
    ]


def test_twin_is_of_the_same_network():
    contenders = default_contenders({"a": "sktl_mini", "b": "resnet18"}, LABELS)
    for contender, twin, _ in find_pairs(contenders):
        assert contender[-3:] == twin[-3:]
    assert len(find_pairs(contenders)) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"weights": None, "pooling": "max"},
        {"weights": None, "backbone": "resnet18"},
        {"weights": None, "classifier": LogisticRegression(C=1)},
        {"weights": None, "classifier": SVC()},
        {"weights": "DEFAULT"},
    ],
)
def test_contender_that_differs_in_more_is_no_twin(other):
    assert find_pairs({"one": features(), "other": features(**other)}) == []


def test_twins_inside_a_table_are_found():
    def table(weights):
        columns = [
            (
                "photo",
                PretrainedFeatureExtractor("sktl_mini", weights=weights),
                "photo",
            ),
            ("number", SimpleImputer(missing_values=np.nan), ["price"]),
        ]
        return make_pipeline(ColumnTransformer(columns), LogisticRegression())

    pairs = find_pairs({"untrained": table(None), "trained": table("DEFAULT")})
    assert pairs == [("trained", "untrained", "untrained")]


def test_networks_that_only_look_alike_are_no_twins():
    one, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    contenders = {
        "one": features(backbone=one),
        "other": features(backbone=other, weights=None),
    }
    assert find_pairs(contenders) == []


def test_of_several_networks_from_scratch_the_likest_is_the_twin():
    contenders = {
        "far": FineTunedCNNClassifier(
            "sktl_mini", strategy="scratch", batch_size=4, dropout=0.5
        ),
        "near": FineTunedCNNClassifier("sktl_mini", strategy="scratch", max_epochs=40),
        "random weights": FineTunedCNNClassifier(
            "sktl_mini", weights=None, max_epochs=40, lr=0.1
        ),
        "elsewhere": FineTunedCNNClassifier("resnet18", strategy="scratch"),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
        "in a pipeline": make_pipeline(
            FineTunedCNNClassifier("sktl_mini", strategy="full")
        ),
    }
    assert find_pairs(contenders) == [
        ("tuned", "near", "from scratch"),
        ("in a pipeline", "near", "from scratch"),
    ]


def test_linear_probe_of_random_weights_is_an_untrained_twin_of_probes_only():
    probe = partial(FineTunedCNNClassifier, "sktl_mini", strategy="linear_probe")
    contenders = {
        "probe": probe(),
        "random": probe(weights=None),
        "tuned": FineTunedCNNClassifier("sktl_mini"),
    }
    assert find_pairs(contenders) == [("probe", "random", "untrained")]


@pytest.mark.parametrize("who", first_and_slow(["tuned", "scratch"]))
def test_parameter_that_only_one_of_two_networks_was_given_makes_them_no_less_twins(
    make, who
):
    """A skorch net has as many parameters as its user writes."""
    X, y = load_digits(return_X_y=True)
    more = {"optimizer__weight_decay": 0.1, "iterator_train__num_workers": 0}
    contenders = {
        "tuned": make(**more if who == "tuned" else {}),
        "scratch": make("scratch", **more if who == "scratch" else {}),
    }
    report = compare_transfer(X[:40], y[:40] > 4, contenders, cv=2)
    assert report.effects_["contender"].tolist() == ["tuned"]
    assert report.effects_["twin"].tolist() == ["scratch"]


def test_first_reader_of_each_network_shows_what_features_are_worth():
    contenders = {
        "untrained": features(weights=None),
        "first": features(),
        "second": features(SVC()),
        "other weights": features(weights="mine.safetensors"),
        "other network": features(backbone=nn.Conv2d(3, 4, 3)),
        "alike": features(backbone=nn.Conv2d(3, 4, 3)),
    }
    assert feature_contenders(contenders) == [
        "first",
        "other weights",
        "other network",
        "alike",
    ]
