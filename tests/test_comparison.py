"""`compare_transfer`: plain scikit-learn gives the same numbers, one by one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

import sktl
from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    compare_transfer,
)
from sktl._contenders import RawPixels

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:120], y[:120]


@pytest.fixture(scope="module")
def contenders():
    return {
        "pixels": LogisticRegression(max_iter=500),
        "features": make_pipeline(
            PretrainedFeatureExtractor(), LogisticRegression(max_iter=500)
        ),
    }


@pytest.fixture(scope="module")
def report(digits, contenders):
    return compare_transfer(*digits, contenders, cv=3, random_state=0)


def test_scores_are_those_of_cross_val_score(digits, contenders, report):
    for i, (name, contender) in enumerate(contenders.items()):
        scores = cross_val_score(contender, *digits, cv=3)
        row = [report.results_[f"split{fold}_test_score"][i] for fold in range(3)]
        assert report.results_["contender"][i] == name
        assert row == scores.tolist()
        assert report.results_["mean_test_score"][i] == pytest.approx(scores.mean())
        error = scores.std(ddof=1) / np.sqrt(3)
        assert report.results_["se_test_score"][i] == pytest.approx(error)


def test_all_contenders_together_pass_each_image_once(digits):
    sktl.clear_cache()
    X, y = digits
    frozen = PretrainedFeatureExtractor()
    compare_transfer(
        X,
        y,
        {
            "linear": make_pipeline(frozen, LogisticRegression(max_iter=500)),
            "dummy": make_pipeline(frozen, DummyClassifier()),
            "probe": FineTunedCNNClassifier(strategy="linear_probe"),
        },
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    assert sktl.cache_info().computed == len(np.unique(X, axis=0))


def test_random_state_is_given_to_whatever_left_it_open(digits):
    X, y = digits
    contender = {"scratch": FineTunedCNNClassifier(strategy="scratch", max_epochs=1)}
    runs = [
        compare_transfer(X[:40], y[:40], contender, cv=2, random_state=seed)
        for seed in (3, 3, 4)
    ]
    first, same, other = (run.results_["split0_test_score"][0] for run in runs)
    assert first == same
    assert contender["scratch"].random_state is None
    assert not hasattr(contender["scratch"], "classes_inferred_")
    assert isinstance(other, float)


def test_print_is_an_aligned_table(report):
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["contender", "accuracy", "se", "fit", "seconds"]
    assert repr(report) == str(report)


def test_frame_has_a_row_per_contender(report):
    frame = report.to_frame()
    assert list(frame.index) == ["pixels", "features"]
    assert frame.loc["pixels", "mean_test_score"] == pytest.approx(
        report.results_["mean_test_score"][0]
    )


def test_plot_shows_every_contender_with_its_error(report, pyplot):
    display = report.plot()
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == [
        "pixels",
        "features",
    ]
    widths = [bar.get_width() for bar in display.ax_.patches]
    assert widths == pytest.approx(report.results_["mean_test_score"])
    _, axes = pyplot.subplots(1, 2, sharey=True)
    for ax in axes:
        assert report.plot(ax=ax).figure_ is ax.figure
        bottom, top = ax.get_ylim()
        assert bottom > top, "the first contender is on top"


@pytest.mark.slow
def test_default_contenders_run_and_transfer_helps(digits):
    report = compare_transfer(*digits, cv=2, random_state=0)
    scores = dict(
        zip(
            report.results_["contender"],
            report.results_["mean_test_score"],
            strict=True,
        )
    )
    assert len(scores) == 8
    frozen = scores["frozen features + logistic regression"]
    assert frozen > scores["untrained network + logistic regression"]
    assert frozen > scores["most frequent class"] + 0.5


def test_raw_pixels_are_left_as_they_are_where_they_fit(digits):
    X, _ = digits
    assert np.abs(RawPixels().fit_transform(X) - X / 16).max() <= 0.5 / 255


def test_raw_pixels_of_large_colour_pictures_are_squeezed():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, 60, 3), dtype=np.uint8) for h in (40, 50, 60)]
    rows = RawPixels(side=8).fit_transform(pictures)
    assert rows.shape == (3, 8 * 8 * 3)
    assert rows.min() >= 0
    assert rows.max() <= 1


@pytest.mark.parametrize("contenders", [{}, [LogisticRegression()], "all"])
def test_contenders_of_another_kind_are_refused(digits, contenders):
    with pytest.raises(ValueError, match="must be 'default' or a dict of name"):
        compare_transfer(*digits, contenders)


@pytest.mark.parametrize("contender", [LogisticRegression, 3])
def test_contender_that_is_no_estimator_is_named(digits, contender):
    with pytest.raises(ValueError, match=r"contenders\['mine'\]=.* must be a"):
        compare_transfer(*digits, {"mine": contender})


def test_folder_as_x_is_refused(digits):
    with pytest.raises(TypeError, match="X='photos' is one name"):
        compare_transfer("photos", digits[1])


def test_failing_contender_raises(digits):
    X, y = digits
    with pytest.raises(ValueError, match="pooling") as caught:
        compare_transfer(
            X,
            y,
            {
                "broken": make_pipeline(
                    PretrainedFeatureExtractor(pooling="none"), LogisticRegression()
                )
            },
            cv=2,
        )
    assert caught.value.__notes__ == ["It was contender 'broken' that failed."]


def test_single_split_is_refused(digits, contenders):
    with pytest.raises(ValueError, match="gives 1 split"):
        compare_transfer(*digits, contenders, cv=[(np.arange(60), np.arange(60, 99))])


def test_table_of_the_digits_example_is_aligned(report):
    """The example itself runs in CI; here, what it prints from two reports."""
    spec = importlib.util.spec_from_file_location(
        "compare_digits", EXAMPLES / "compare_digits.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    lines = example.table({5: report, 20: report}).splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
