"""`FineTunedCNNClassifier` under scikit-learn's checks and inside its tools."""

import functools
import re
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedKFold,
    cross_val_predict,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import check_estimator
from skorch.dataset import ValidSplit
from torch import nn

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    GlobalScaler,
    PretrainedFeatureExtractor,
)
from tests.helpers import first_and_slow

WEIGHTED_STEPS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "minibatches of repeated rows are not those of weighted rows"
    )
}


class SmallNetwork(nn.Sequential):
    """Two convolutions; quick enough to be trained some hundred times."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = OrderedDict(
                conv1=nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
                bn1=nn.BatchNorm2d(8),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
                bn2=nn.BatchNorm2d(16),
                relu2=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(16, 3),
            )
            super().__init__(layers)
            with torch.no_grad():  # what the norms need to have seen
                self.train()(torch.randn(64, 3, 8, 8))
            self.eval()

    def __reduce__(self):
        # A check compares the hashes of a parameter and its copy; torch's tensors have
        # others with every copy.
        return SmallNetwork, ()


# Any row is an image of height one, so two-dimensional input is really on.
PROBE = functools.partial(
    FineTunedCNNClassifier,
    "sktl_mini",
    strategy="linear_probe",
    image_shape=(1, -1),
    random_state=0,
)


def by_epochs(strategy, **params):
    """A classifier that learns two numbers within seconds."""
    quick = {"image_size": 8, "batch_size": 16, "max_epochs": 3, "lr": 0.08}
    return FineTunedCNNClassifier(
        SmallNetwork(), strategy=strategy, image_shape=(1, -1), **quick | params
    )


@pytest.fixture(scope="module")
def y():
    return np.array(["dark", "light"] * 12)


@pytest.fixture(scope="module")
def rows(y):
    """Noise whose brightness is its class, as flat RGB images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 156, (len(y), 12 * 12 * 3), dtype=np.uint8)
    pixels[y == "light"] += 100
    return pixels


@pytest.fixture(scope="module")
def features(rows):
    return (
        PretrainedFeatureExtractor("sktl_mini").fit_transform(rows).astype(np.float64)
    )


def probe(**params):
    params = {"backbone": "sktl_mini", "C": 1.0, "random_state": 0} | params
    return FineTunedCNNClassifier(strategy="linear_probe", **params)


def logistic():
    """What `probe` is on the features, as scikit-learn has it."""
    return make_pipeline(GlobalScaler(), LogisticRegression(tol=1e-9))


# ---- scikit-learn's checks


def assert_checks_pass(classifier, **expected_failures):
    """All checks that a classifier of labels and tags with weights gets."""
    tags = get_tags(classifier)
    assert tags.input_tags.two_d_array
    assert not tags.no_validation
    results = check_estimator(
        classifier,
        on_fail=None,
        on_skip=None,
        expected_failed_checks=expected_failures,
    )
    statuses = Counter(result["status"] for result in results)
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert set(statuses) <= {"passed", "xfail"}
    assert statuses.total() >= 66  # of scikit-learn 1.8; later ones have more
    # An expected failure that passes has been cured and is to be struck off.
    assert failed == expected_failures.keys()


@pytest.mark.slow
def test_all_estimator_checks_pass_where_the_head_is_fitted():
    """None fails, is skipped or expected to fail; a weight of two is two rows."""
    assert_checks_pass(PROBE())


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        "check_sample_weight_equivalence_on_dense_data",
        "check_sample_weights_not_overwritten",
        "check_classifiers_one_label_sample_weights",
        "check_classifiers_one_label",
        "check_classifiers_classes",
        "check_classifiers_train",
        "check_class_weight_classifiers",
    ],
)
def test_estimator_check_passes_where_classes_are_balanced(check):
    """Those that weights or classes make a difference to."""
    balanced = PROBE(class_weight="balanced")
    getattr(estimator_checks, check)("FineTunedCNNClassifier", balanced)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "params"), [("lp_ft", {"backbone_lr_ratio": 0.2}), ("scratch", {})]
)
def test_all_estimator_checks_but_one_pass_where_epochs_train(strategy, params):
    assert_checks_pass(by_epochs(strategy, **params), **WEIGHTED_STEPS)


@pytest.mark.parametrize("strategy", ["full", "lp_ft"])
def test_weight_of_k_is_k_rows_where_one_batch_holds_all(rows, y, strategy):
    """So what the check misses in minibatches is their composition alone.

    From scratch, norms use the batch's own statistics, which know no weights.
    """
    counts = np.random.default_rng(0).integers(0, 4, len(y))
    clf = by_epochs(
        strategy,
        batch_size=counts.sum(),
        optimizer=torch.optim.SGD,
        lr=1.0,
        backbone_lr_ratio=0.1,
        unfreeze_from="last",
        augment=None,
        random_state=0,
    )
    weighted = clone(clf).fit(rows, y, sample_weight=counts)
    repeated = clone(clf).fit(np.repeat(rows, counts, axis=0), np.repeat(y, counts))
    unweighted = clone(clf).fit(rows, y)
    np.testing.assert_allclose(
        weighted.predict_proba(rows), repeated.predict_proba(rows), atol=1e-5
    )
    difference = unweighted.predict_proba(rows) - weighted.predict_proba(rows)
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize(
    "check", ["check_dataframe_column_names_consistency", "check_param_validation"]
)
def test_extra_check_of_scikit_learn_passes(check):
    """Those of sklearn/tests/test_common.py for classifiers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(estimator_checks, check)("FineTunedCNNClassifier", PROBE())


# ---- parameters


def test_parameters_are_the_same_before_and_after_fit(rows, y):
    clf = FineTunedCNNClassifier("sktl_mini", max_epochs=1)
    before = clf.get_params(deep=False)
    after = clf.fit(rows, y).get_params(deep=False)
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())


def test_anything_may_be_set_and_fit_refuses_it(rows, y):
    """A device that is not there, for instance: perhaps it is where `fit` will run."""
    clf = FineTunedCNNClassifier("sktl_mini").set_params(device="cuda:99", callbacks=3)
    assert clf.get_params()["device"] == "cuda:99"
    assert clf.set_params(callbacks=None).get_params()["callbacks"] is None
    with pytest.raises(ValueError, match="device='cuda:99' cannot be used"):
        clf.fit(rows, y)


def test_network_may_be_a_parameter_set_later():
    """skorch refuses modules that are set, as they could be parts of the net."""
    network, loss = SmallNetwork(), nn.CrossEntropyLoss(label_smoothing=0.1)
    clf = FineTunedCNNClassifier("sktl_mini").set_params(
        backbone=network, criterion=loss
    )
    assert clf.backbone is network
    assert clf.criterion is loss


def test_parameter_of_a_callback_can_be_searched_over(rows, y):
    clf = FineTunedCNNClassifier(SmallNetwork(), image_size=8, max_epochs=1)
    grid = {"callbacks__print_log": [None], "lr": [0.01]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(rows, y)
    names = dict(search.best_estimator_.callbacks_)
    assert "valid_loss" in names
    assert "print_log" not in names


class WithMargin(FineTunedCNNClassifier):
    """As a user may write it."""

    def __init__(self, margin, *, lr=0.1, **kwargs):
        self.margin = margin
        super().__init__(lr=lr, **kwargs)


class Renamed(FineTunedCNNRegressor):
    """Without a constructor of its own."""


SHOWN = {
    "FineTunedCNNClassifier()": FineTunedCNNClassifier(),
    "FineTunedCNNClassifier(iterator_train__drop_last=True, strategy='full')": (
        FineTunedCNNClassifier(strategy="full", iterator_train__drop_last=True)
    ),
    "FineTunedCNNClassifier(callbacks__print_log=None, warm_start=True)": (
        FineTunedCNNClassifier(warm_start=True, callbacks__print_log=None)
    ),
    "FineTunedCNNRegressor()": FineTunedCNNRegressor(),
    "FineTunedCNNRegressor(max_epochs=1)": FineTunedCNNRegressor(max_epochs=1),
    "WithMargin(margin=1)": WithMargin(1),
    "WithMargin(lr=0.001, margin=1, use_caching=False)": (
        WithMargin(1, lr=1e-3, use_caching=False)
    ),
    "Renamed()": Renamed(),
    "Renamed(compile=True)": Renamed(compile=True),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_repr_shows_what_differs_from_the_defaults(shown):
    net = SHOWN[shown]
    around = {
        "Pipeline(steps=[('net', {})])": Pipeline([("net", net)]),
        "GridSearchCV(estimator={}, param_grid={{}})": GridSearchCV(net, {}),
        "VotingClassifier(estimators=[('net', {})])": VotingClassifier([("net", net)]),
        "OneVsRestClassifier(estimator={})": OneVsRestClassifier(net),
        "{}": net,
    }
    for text, estimator in around.items():
        # scikit-learn wraps lines.
        assert "".join(repr(estimator).split()) == "".join(text.format(shown).split())


@pytest.mark.parametrize("shown", SHOWN)
def test_table_marks_what_differs_from_the_defaults(shown):
    given = re.findall(r"(\w+)=", shown)
    table = SHOWN[shown]._get_params_html()
    assert sorted(table.non_default) == given
    assert {"warm_start", "lr", "device"} < set(table)
    assert "<table" in SHOWN[shown]._repr_html_()


def test_repr_shows_all_parameters_if_configured():
    with config_context(print_changed_only=False):
        assert "iterator_train__shuffle=True" in repr(FineTunedCNNClassifier())


def test_partial_fit_is_there_where_it_can_work():
    clf = FineTunedCNNClassifier("sktl_mini")
    assert hasattr(clf, "partial_fit")
    assert not hasattr(clf.set_params(strategy="linear_probe"), "partial_fit")
    assert hasattr(clf.set_params(hidden_units=(4,)), "partial_fit")


# ---- what it predicts


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logits_probabilities_and_labels_agree(rows, n_classes):
    y = np.arange(len(rows)) % n_classes
    clf = probe().fit(rows, y)
    logits, p = clf.decision_function(rows), clf.predict_proba(rows)
    if n_classes == 2:
        np.testing.assert_allclose(logits, np.log(p[:, 1] / p[:, 0]), atol=1e-9)
        assert np.array_equal(clf.predict(rows), (logits > 0).astype(int))
    else:
        np.testing.assert_allclose(
            logits - logits[:, :1], np.log(p / p[:, :1]), atol=1e-9
        )
        assert np.array_equal(clf.predict(rows), logits.argmax(axis=1))
    np.testing.assert_allclose(clf.predict_log_proba(rows), np.log(p), atol=1e-12)
    assert {values.dtype for values in (logits, p)} == {np.dtype(np.float64)}


def test_frame_of_pixels_is_checked_by_its_names(rows, y):
    frame = pd.DataFrame(rows, columns=[f"pixel{i}" for i in range(rows.shape[1])])
    clf = probe().fit(frame, y)
    assert clf.feature_names_in_.tolist() == frame.columns.tolist()
    assert clf.n_features_in_ == rows.shape[1]
    expected = probe().fit(rows, y).predict_proba(rows)
    assert np.array_equal(clf.predict_proba(frame), expected)
    with pytest.raises(ValueError, match="must be in the same order"):
        clf.predict(frame[frame.columns[::-1]])


def test_output_configured_as_pandas_changes_no_prediction(rows, y):
    with config_context(transform_output="pandas"):
        assert isinstance(probe().fit(rows, y).predict_proba(rows), np.ndarray)


# ---- scikit-learn's tools; the oracle is logistic regression on the features


@pytest.mark.parametrize("method", first_and_slow(["sigmoid", "temperature"]))
def test_calibrated_classifier_calibrates_as_if_on_the_features(
    method, rows, features, y
):
    noisy = np.where(np.arange(len(y)) % 5 == 0, y[::-1], y)
    asked = {"method": method, "cv": StratifiedKFold(3)}
    clf = CalibratedClassifierCV(probe(), **asked).fit(rows, noisy)
    expected = CalibratedClassifierCV(logistic(), **asked).fit(features, noisy)
    np.testing.assert_allclose(
        clf.predict_proba(rows), expected.predict_proba(features), atol=1e-3
    )


def test_voting_averages_probabilities_of_strategies(rows, features, y):
    trained = FineTunedCNNClassifier("sktl_mini", max_epochs=1, random_state=0)
    vote = VotingClassifier([("a", probe()), ("b", trained)], voting="soft")
    members = [
        logistic().fit(features, y).predict_proba(features),
        clone(trained).fit(rows, y == "light").predict_proba(rows),
    ]
    np.testing.assert_allclose(
        vote.fit(rows, y).predict_proba(rows), np.mean(members, axis=0), atol=1e-4
    )


def test_stacking_stacks_what_cross_validation_predicts(rows, features, y):
    folds = StratifiedKFold(3)
    stack = StackingClassifier([("probe", probe())], GaussianNB(), cv=folds)
    out_of_fold = cross_val_predict(
        logistic(), features, y, cv=folds, method="predict_proba"
    )
    expected = GaussianNB().fit(out_of_fold[:, 1:], y)
    final = logistic().fit(features, y).predict_proba(features)
    predicted = stack.fit(rows, y).predict(rows)
    assert np.array_equal(predicted, expected.predict(final[:, 1:]))


def test_one_vs_rest_fits_one_classifier_per_class(rows, features):
    y = np.arange(len(rows)) % 3
    each = OneVsRestClassifier(probe()).fit(rows, y)
    expected = OneVsRestClassifier(logistic()).fit(features, y)
    np.testing.assert_allclose(
        each.decision_function(rows), expected.decision_function(features), atol=1e-2
    )


def test_bagging_draws_rows_by_weight(rows, features, y):
    bags = BaggingClassifier(probe(), n_estimators=2, random_state=0).fit(rows, y)
    expected = np.mean(
        [
            logistic().fit(features[drawn], y[drawn]).predict_proba(features)
            for drawn in bags.estimators_samples_
        ],
        axis=0,
    )
    np.testing.assert_allclose(bags.predict_proba(rows), expected, atol=1e-4)


def test_learning_curve_is_that_of_the_features(rows, features, y):
    asked = {"cv": 3, "train_sizes": [6, 12], "error_score": "raise"}
    _, train, test = learning_curve(probe(), rows, y, **asked)
    _, *expected = learning_curve(logistic(), features, y, **asked)
    assert np.array_equal([train, test], expected)


def test_learning_curve_goes_on_training_where_asked(rows, y):
    clf = FineTunedCNNClassifier(SmallNetwork(), image_size=8, max_epochs=1)
    _, train, _ = learning_curve(
        clf,
        rows,
        y,
        cv=2,
        train_sizes=[6, 12],
        exploit_incremental_learning=True,
        error_score="raise",
    )
    assert train.shape == (2, 2)
    with pytest.raises(ValueError, match="incremental"):
        learning_curve(probe(), rows, y, exploit_incremental_learning=True)


# ---- metadata routing


@pytest.mark.parametrize(
    "n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["alone", "parallel"]
)
def test_grid_search_routes_weights_to_fit_and_score(n_jobs, rows, features, y):
    weights = np.random.default_rng(0).uniform(0.1, 5, len(y))
    noisy = np.where(np.arange(len(y)) % 3 == 0, y[::-1], y)
    with config_context(enable_metadata_routing=True):
        scores = [
            GridSearchCV(model, {}, cv=3, n_jobs=n_jobs, error_score="raise")
            .fit(X, noisy, sample_weight=weights)
            .cv_results_["mean_test_score"]
            for model, X in [
                (requesting(probe()), rows),
                (requesting(make_weighted_logistic()), features),
            ]
        ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-12)


def make_weighted_logistic():
    scaler = GlobalScaler().set_fit_request(sample_weight=True)
    model = LogisticRegression(tol=1e-9).set_fit_request(sample_weight=True)
    return make_pipeline(scaler, model.set_score_request(sample_weight=True))


def requesting(model):
    if isinstance(model, FineTunedCNNClassifier):
        model.set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
    return model


@pytest.mark.parametrize("routing", [True, False])
def test_groups_reach_the_split_and_nothing_else(routing, rows, y):
    groups = np.arange(len(y)) // 4
    seen = []

    class Recorded(GroupKFold):
        def split(self, X, y=None, groups=None):
            seen.append(groups)
            return super().split(X, y, groups)

    clf = FineTunedCNNClassifier(
        SmallNetwork(),
        image_size=8,
        max_epochs=1,
        train_split=ValidSplit(Recorded(3)),
    )
    with config_context(enable_metadata_routing=routing):
        clf.fit(rows, y, groups=groups)
    assert len(seen) == 1
    assert np.array_equal(seen[0], groups)
    assert "valid_loss" in clf.history[-1]


def test_groups_are_routed_under_another_name(rows, y):
    with config_context(enable_metadata_routing=True):
        folds = GroupKFold(3).set_split_request(groups="sites")
        clf = FineTunedCNNClassifier(
            SmallNetwork(), image_size=8, max_epochs=1, train_split=ValidSplit(folds)
        )
        clf.fit(rows, y, sites=np.arange(len(y)) // 4)
    assert "valid_loss" in clf.history[-1]


def hold_out_nothing(dataset, y=None, groups=None):
    return dataset, None


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize(
    "train_split", first_and_slow([None, ValidSplit(3), hold_out_nothing])
)
def test_groups_are_routed_to_the_classifier(train_split):
    """Of two images each, much like each other."""
    clf = FineTunedCNNClassifier(
        SmallNetwork(), image_size=8, strategy="linear_probe", train_split=train_split
    )
    rng, groups = np.random.default_rng(1), np.arange(24) // 2
    images = rng.integers(0, 250, (12, 432))[groups]
    images = (images + rng.integers(0, 6, images.shape)).astype(np.uint8)
    y = rng.permutation(12)[groups] % 2
    expected = clone(clf).fit(images, y, groups=groups).predict_proba(images)
    single = clone(clf).fit(images, y).predict_proba(images)
    assert np.abs(single - expected).max() > 0.1
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(clf).fit(images, y, groups=groups)
    np.testing.assert_array_equal(pipeline.predict_proba(images), expected)


def test_groups_are_routed_to_an_outer_splitter_and_the_classifier(rows, y):
    clf = FineTunedCNNClassifier(SmallNetwork(), image_size=8, strategy="linear_probe")
    groups = np.arange(len(y)) // 4
    expected = clone(clf).fit(rows, y, groups=groups).predict_proba(rows)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(clf, {"C": ["auto"]}, cv=GroupKFold(3))
        search.fit(rows, y, groups=groups)
    np.testing.assert_array_equal(search.predict_proba(rows), expected)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_argument_of_fit_that_nobody_reads_is_refused(early_stopping, rows, y):
    clf = FineTunedCNNClassifier("sktl_mini", early_stopping=early_stopping)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sites'"):
        clf.fit(rows, y, sites=y)
