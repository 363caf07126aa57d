"""One contender on one split: what it is given, and what comes of its failure."""

import os
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    RawPixels,
    compare_transfer,
)
from tests.helpers import FailsWithout, encode, first_and_slow, splits_of


def test_random_state_is_given_to_whatever_left_it_open(digits, make):
    X, y = digits[0][:40], digits[1][:40]
    contender = {"scratch": make("scratch", max_epochs=1, random_state=None)}
    options = {"cv": 2, "scoring": "neg_log_loss"}
    first, same, other = (
        splits_of(compare_transfer(X, y, contender, **options, random_state=seed))
        for seed in (3, 3, 4)
    )
    assert (first == same).all()
    assert (first != other).all()
    assert contender["scratch"].random_state is None
    assert not hasattr(contender["scratch"], "target_")


def test_seed_differs_from_split_to_split_but_not_between_contenders(digits):
    """What luck a seed has is then not common to all splits."""
    X, y = digits
    seeds = []

    class Witness(DummyClassifier):
        def fit(self, X, y):
            seeds.append(self.random_state)
            return super().fit(X, y)

    both = {"one": Witness(), "two": make_pipeline(Witness())}
    compare_transfer(X, y, both, cv=3, random_state=0)
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3


def test_failing_contender_raises(digits):
    X, y = digits
    with pytest.raises(ValueError, match="pooling") as caught:
        compare_transfer(
            X,
            y,
            {
                "broken": make_pipeline(
                    PretrainedFeatureExtractor("sktl_mini", pooling="none"),
                    LogisticRegression(),
                )
            },
            cv=2,
        )
    assert caught.value.__notes__ == ["Raised by contender 'broken'."]


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_groups_reach_the_search_of_a_contender_if_metadata_is_routed(digits, n_jobs):
    X, y = digits
    groups = pd.Series(np.arange(120) // 4, index=np.arange(120)[::-1])
    grid = {"C": [0.01, 1]}
    search = GridSearchCV(SVC(), grid, cv=GroupKFold(3))
    contenders = {"search": search, "plain": SVC()}
    contenders["knows no routing"] = AdaBoostClassifier(n_estimators=2)
    params = {"groups": groups, "cv": 3, "n_jobs": n_jobs}
    with config_context(enable_metadata_routing=True):
        report = compare_transfer(X, y, contenders, **params)
        smaller = compare_transfer(X, y, contenders, train_sizes=[40, 60], **params)
        expected = cross_val_score(
            search, X, y, params={"groups": groups}, cv=StratifiedGroupKFold(3)
        )
    assert splits_of(report).tolist() == expected.tolist()
    assert (report.results_["error"] == "").all()
    assert (smaller.results_["error"] == "").all()


def test_groups_reach_a_fine_tuned_contender_unless_it_declines(digits):
    X, y = digits
    groups = np.arange(120) // 12
    noise = np.random.default_rng(0).permutation(y)
    clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe", random_state=0)
    params = {"groups": groups, "cv": 2, "scoring": "neg_log_loss"}
    with config_context(enable_metadata_routing=True):
        declines = clone(clf).set_fit_request(groups=False)
        contenders = {"gets them": clf, "declines": declines}
        report = compare_transfer(X, noise, contenders, **params)
    expected = [
        get_scorer("neg_log_loss")(
            clone(clf).fit(X[train], noise[train], groups=whose), X[test], noise[test]
        )
        for train, test in StratifiedGroupKFold(2).split(X, noise, groups)
        for whose in (groups[train], None)
    ]
    np.testing.assert_allclose(splits_of(report, 0), expected[::2])
    np.testing.assert_allclose(splits_of(report, 1), expected[1::2])
    assert expected[::2] != expected[1::2]


def test_search_by_groups_is_told_how_it_gets_them(digits):
    groups = np.arange(120) // 4
    search = GridSearchCV(LogisticRegression(), {"C": [1]}, cv=GroupKFold(3))
    contenders = {"search": search, "any": DummyClassifier()}
    report = compare_transfer(*digits, contenders, cv=3, groups=groups)
    error, none = report.results_["error"]
    assert none == ""
    assert "set_config(enable_metadata_routing=True)" in error
    report = compare_transfer(*digits, contenders, cv=3)
    assert "set_config" not in report.results_["error"][0]


def test_contender_that_fails_on_a_split_has_a_row_that_says_so(digits, contenders):
    X, y = digits
    (fails,) = [
        i for i, (_, test) in enumerate(StratifiedKFold(3).split(X, y)) if 0 in test
    ]
    both = {"fails": FailsWithout(row=X[0]), "pixels": contenders["pixels"]}
    report = compare_transfer(X, y, both, cv=3)
    assert np.isnan(splits_of(report, 0)).tolist() == [i == fails for i in range(3)]
    for name in ("mean_test_score", "high_test_score", "mean_fit_time"):
        assert np.isnan(report.results_[name]).tolist() == [True, False]
    error, none = report.results_["error"]
    assert none == ""
    assert error == (
        f"split {fails}: RuntimeError: the row is not here (failed on 1 of 3 splits)"
    )
    assert (splits_of(report, 1) == cross_val_score(both["pixels"], X, y, cv=3)).all()
    assert report.findings_ == [f"'fails' failed: {error}"]
    assert "\nfails        failed          failed       failed\n" in str(report)


def test_contender_without_what_a_score_needs_fails_alone(digits):
    X, y = digits
    both = {"svm": SVC(), "logistic": LogisticRegression(max_iter=500)}
    report = compare_transfer(X, y, both, cv=2, scoring="neg_log_loss")
    assert np.isnan(report.results_["mean_test_score"]).tolist() == [True, False]
    assert "SVC has none" in report.results_["error"][0]
    assert "predict_proba" in report.results_["error"][0]


def test_contender_predicts_a_test_part_once_by_each_method(digits):
    """However many scores read that; one of the user's gets the contender itself."""
    calls = Counter()

    class Counting(LogisticRegression):
        def predict(self, X):
            calls["predict"] += 1
            return super().predict(X)

        def predict_proba(self, X):
            calls["predict_proba"] += 1
            return super().predict_proba(X)

    def n_epochs(model, X, y):
        assert isinstance(model, Counting)
        return model.n_iter_[0]

    scoring = [make_scorer(accuracy_score), "neg_log_loss", "roc_auc_ovr"]
    report = compare_transfer(
        *digits, {"one": Counting(max_iter=300)}, cv=2, scoring=[*scoring, n_epochs]
    )
    assert calls == {"predict": 2, "predict_proba": 2}
    assert report.results_["mean_test_n_epochs"] > 1


class Answers(SVC):
    """Answers what a function makes of the right number of answers; counts passes."""

    def __init__(self, change=None):
        super().__init__()
        self.change = change

    def predict(self, X):
        PASSES["predict"] += 1
        return self.change(super().predict(X))


PASSES = Counter()


def too_many(answers):
    return np.append(answers, answers[:3])


def out_of_memory(answers):
    raise MemoryError("the pass is too large")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (too_many, "ValueError: Found input variables with inconsistent numbers"),
        (out_of_memory, "MemoryError: the pass is too large"),
    ],
)
def test_answers_that_cannot_be_scored_are_an_error(digits, change, words):
    PASSES.clear()
    report = compare_transfer(
        *digits, {"bad": Answers(change), "good": DummyClassifier()}, cv=2
    )
    assert words in str(report)
    assert PASSES["predict"] == (2 if change is out_of_memory else 4)


def test_answers_in_a_list_are_those_in_an_array(digits):
    PASSES.clear()
    report = compare_transfer(*digits, {"list": Answers(list)}, cv=2)
    assert PASSES["predict"] == 2
    assert "is not known" not in str(report)
    same = compare_transfer(*digits, {"list": Answers(np.asarray)}, cv=2)
    for name in ("mean_test_score", "low_test_score"):
        assert report.results_[name] == same.results_[name] > 0


def test_error_of_a_score_is_shown_after_one_pass(digits):
    PASSES.clear()

    def broken(y, answers):
        raise RuntimeError("no such score")

    scoring = make_scorer(broken)
    contenders = {"a": Answers(np.asarray), "b": DummyClassifier()}
    with pytest.raises(Exception, match="no such score"):
        compare_transfer(*digits, contenders, cv=2, scoring=scoring)
    assert PASSES["predict"] == 2


def test_scorer_class_of_the_users_gets_images(digits):
    class OfShape(type(get_scorer("accuracy"))):
        def __call__(self, estimator, X, y, **kwargs):
            return float(np.ndim(X) > 1)

    scorer = OfShape(accuracy_score, 1, {}, "predict")
    report = compare_transfer(*digits, {"one": DummyClassifier()}, cv=2, scoring=scorer)
    assert report.results_["mean_test_score"] == 1


def test_callable_with_the_name_of_a_score_is_called(digits):
    def neg_expected_calibration_error(estimator, X, y):
        return 7.0

    report = compare_transfer(
        *digits,
        {"one": DummyClassifier()},
        cv=2,
        scoring=neg_expected_calibration_error,
    )
    assert report.results_["mean_test_score"] == 7


@pytest.mark.slow
def test_process_that_dies_is_the_failure_of_its_contender(digits, contenders):
    class Dies(DummyClassifier):
        def fit(self, X, y):
            os._exit(1)

    both = {"pixels": contenders["pixels"], "dies": Dies()}
    report = compare_transfer(*digits, both, cv=2, n_jobs=2)
    assert np.isnan(report.results_["mean_test_score"]).tolist() == [False, True]
    assert "TerminatedWorkerError" in report.results_["error"][1]


@pytest.mark.parametrize("bad", first_and_slow([119, 0, 59, 60]))
def test_unreadable_image_is_named_by_its_row_in_x(digits, make, bad):
    """In whichever part it is: of what is trained on, or of what is scored."""
    X, y = digits
    images = [encode(np.uint8(x.reshape(8, 8) * 15)) for x in X]
    images[bad] = b"no image"
    contenders = {
        "any": DummyClassifier(),
        "network": make(),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), DummyClassifier()
        ),
    }
    report = compare_transfer(images, y > 4, contenders, cv=KFold(2))
    ok, *errors = report.results_["error"]
    assert ok == ""
    for error in errors:
        assert "1 image(s) of X could not be read" in error
        assert f"\n  row {bad}: " in error
        assert "failed on 2 of 2 splits" in error


def test_row_that_is_no_image_of_numbers_is_named_by_its_row_in_x(digits, make):
    X, y = digits[0].copy(), digits[1] > 4
    X[[70, 110], 3] = np.nan
    report = compare_transfer(
        X, y, {"any": DummyClassifier(), "net": make()}, cv=KFold(2)
    )
    ok, error = report.results_["error"]
    assert ok == ""
    assert "Row 10 of the training part is row 70 of X." in error


def test_error_of_an_inner_fold_or_of_others_is_not_taken_for_a_row_of_x(digits):
    """Only the rows of the whole part are known."""

    class Configured(DummyClassifier):
        def fit(self, X, y):
            raise ValueError("config table: row 3 has no value")

    images = [encode(np.uint8(x.reshape(8, 8) * 15)) for x in digits[0]]
    images[100] = b"no image"
    model = make_pipeline(RawPixels(), DummyClassifier())
    search = GridSearchCV(
        model, {"dummyclassifier__strategy": ["prior"]}, cv=2, error_score="raise"
    )
    contenders = {"any": DummyClassifier(), "search": search, "other": Configured()}
    report = compare_transfer(images, np.arange(120) % 2, contenders, cv=KFold(2))
    ok, search, other = report.results_["error"]
    assert ok == ""
    assert "\n  row 10: " in search  # of the second half of the training part
    assert other == (
        "split 0: ValueError: config table: row 3 has no value (failed on 2 of 2 "
        "splits)"
    )


def test_failure_on_a_file_of_any_name_is_printed_and_saved(
    digits, tmp_path, monkeypatch, pyplot
):
    """Bytes that are no UTF-8 and a line end in it; `~` is the home of the user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    broken = os.fsdecode(os.fsencode(tmp_path) + b"/broken-\xff.png\n")
    try:
        Path(broken).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system has no such names")
    paths = [broken]
    for i, row in enumerate(digits[0][1:40]):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(encode(np.uint8(row.reshape(8, 8) * 15)))
    contenders = {
        "any": DummyClassifier(),
        "features": make_pipeline(
            PretrainedFeatureExtractor("sktl_mini"), DummyClassifier()
        ),
    }
    report = compare_transfer(paths, np.arange(40) % 2, contenders, cv=2)
    report.save_html("~/report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in (str(report), report._repr_html_(), *report.findings_, page):
        assert r"broken-\udcff.png\n" in unescape(text)
        text.encode()


def test_interrupt_is_no_failure_of_a_contender(digits):
    class Interrupted(DummyClassifier):
        def fit(self, X, y):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_transfer(*digits, {"one": DummyClassifier(), "two": Interrupted()})


def test_warning_of_a_fit_passes_through(digits):
    contender = {"one": LogisticRegression(max_iter=1)}
    with pytest.warns(ConvergenceWarning):
        compare_transfer(*digits, contender, cv=2)


@pytest.mark.parametrize("value", first_and_slow([-np.inf, np.inf]))
def test_infinite_score_is_a_failure_that_costs_the_others_nothing(digits, value):
    def score(model, X, y):
        return value if isinstance(model, DummyClassifier) else model.score(X, y)

    models = {"dummy": DummyClassifier(), "one": LogisticRegression(max_iter=300)}
    models["two"] = LogisticRegression(C=0.1, max_iter=300)
    report = compare_transfer(*digits, models, cv=3, scoring=score)
    assert f"part is {value}; it may" in report.results_["error"][0]
    assert np.isfinite(report.gain("one", over="two").mean)
    assert np.isnan(report.gain("one", over="dummy")).all()
    assert sum(report.rank().values()) == pytest.approx(1)


def test_score_that_is_not_a_number_is_a_failure_with_a_reason():
    X, y = load_digits(return_X_y=True)

    def r2_of_the_user(model, X, y):
        return r2_score(y, model.predict(X))

    cv, models = LeaveOneOut(), {"a": DummyRegressor()}
    with pytest.raises(ValueError, match=r"1 row\(s\) of the test part is nan"):
        compare_transfer(X[:12], y[:12] + 0.5, models, cv=cv, scoring=r2_of_the_user)
