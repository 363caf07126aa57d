"""Scores over the epochs: means of the splits, at one scale, with the final score."""

import numpy as np
import pytest
from scipy import stats

from sktl import TimeToScoreDisplay

pytestmark = pytest.mark.usefixtures("pyplot")

EPOCHS = np.arange(4)


def one_split(score, seconds_per_epoch=1.0):
    epochs = np.arange(len(score))
    return {
        "epoch": epochs,
        "seconds": epochs * seconds_per_epoch,
        "score": np.array(score),
    }


@pytest.fixture
def trained(make_comparison):
    """Two contenders trained by epochs, the second a twin of the first."""
    curves = {
        "tuned": [one_split([0.1, 0.7, 0.8, 0.9]), one_split([0.2, 0.6, 0.9, 0.8])],
        "scratch": [one_split([0.1, 0.2, 0.3, 0.5]), one_split([0.1, 0.3, 0.4, 0.6])],
    }
    effects = [("tuned", "scratch", "from scratch", 0.3, 0.1, 0.5, 0.01, "better")]
    rng = np.random.default_rng(0)
    names = ["pixels", "tuned", "scratch"]
    scores = {name: rng.uniform(0.2, 0.9, (2, 2)) for name in names}
    return make_comparison(scores, [40, 80], effects=effects, curves=curves)


@pytest.mark.parametrize("over", ["epoch", "seconds"])
def test_time_curves_and_bands_are_means_and_intervals(trained, over):
    display = TimeToScoreDisplay.from_results(trained, over=over).plot()
    assert [text.get_text() for text in display.ax_.texts] == ["tuned", "scratch"]
    *lines, final = display.ax_.lines
    bands = display.ax_.collections
    for line, band, splits in zip(lines, bands, trained.curves_.values(), strict=True):
        scores = np.array([split["score"] for split in splits])
        # The corrected t-test: 20 rows to test on, 80 to train on, two splits.
        half = stats.t.ppf(0.975, 1) * scores.std(0, ddof=1) * (1 / 2 + 20 / 80) ** 0.5
        assert line.get_xdata().tolist() == EPOCHS.tolist()
        assert line.get_ydata() == pytest.approx(scores.mean(0))
        (path,) = band.get_paths()
        x, y = path.vertices.T
        ends = [(y[x == epoch].min(), y[x == epoch].max()) for epoch in EPOCHS]
        expected = np.clip([scores.mean(0) - half, scores.mean(0) + half], 0, 1).T
        np.testing.assert_allclose(ends, expected)
    assert final.get_ydata() == pytest.approx([0.55, 0.55])
    assert final.get_label() == "final score from scratch"


def test_split_that_stopped_early_keeps_its_last_score(trained):
    trained.curves_["tuned"][0] = one_split([0.1, 0.7])
    display = TimeToScoreDisplay.from_results(trained)
    epochs, means, _ = display.curves["tuned"]
    assert epochs.tolist() == [0, 1, 2, 3]
    assert means == pytest.approx([0.15, 0.65, 0.8, 0.75])


def test_splits_of_unlike_speed_are_averaged_at_the_same_seconds(trained):
    trained.curves_["tuned"] = [one_split([0.0, 0.8], 1.0), one_split([0.0, 0.8], 2.0)]
    display = TimeToScoreDisplay.from_results(trained, over="seconds")
    seconds, means, _ = display.curves["tuned"]
    assert seconds.tolist() == [0, 2]
    assert means == pytest.approx([0, 0.8])
    trained.curves_["tuned"][1] = one_split([0.0, 0.4, 0.8], 1.0)
    _, means, _ = TimeToScoreDisplay.from_results(trained, over="seconds").curves[
        "tuned"
    ]
    assert means == pytest.approx([0, 0.6, 0.8])


def test_contender_that_failed_on_a_split_has_a_name_and_no_curve(trained):
    """As in the table: a mean over the other splits would not compare."""
    trained.curves_["scratch"][1] = {}
    display = TimeToScoreDisplay.from_results(trained).plot()
    display.figure_.canvas.draw()
    names = [text.get_text() for text in display.ax_.texts]
    assert names == ["tuned", "scratch (failed)"]
    tuned, scratch = display.ax_.lines
    assert np.isfinite(tuned.get_ydata()).all()
    assert np.isnan(scratch.get_ydata()).all()


def test_contender_looks_the_same_in_both_drawings(trained):
    trained.results_["kind"] = np.repeat(["classical", "fine-tuned", "random"], 2)
    _, *curves = trained.plot().ax_.lines
    *times, _ = TimeToScoreDisplay.from_results(trained).plot().ax_.lines
    for curve, time in zip(curves, times, strict=True):
        for look in ("color", "linestyle", "marker"):
            assert getattr(curve, f"get_{look}")() == getattr(time, f"get_{look}")()


def test_comparison_without_epochs_has_no_time_to_draw(make_comparison):
    comparison = make_comparison({"a": [[0.5, 0.6]]}, [80])
    with pytest.raises(ValueError, match="was trained by epochs, so there are no"):
        TimeToScoreDisplay.from_results(comparison)


def test_unknown_axis_is_refused(trained):
    with pytest.raises(ValueError, match="over='batch' must be 'epoch' or 'seconds'"):
        TimeToScoreDisplay.from_results(trained, over="batch")
    with pytest.raises(ValueError, match="over='batch' must be 'epoch' or 'seconds'"):
        trained.mean_curves(over="batch")
