"""The images of a comparison show its numbers, and can be read."""

import itertools
import sys

import numpy as np
import pytest

import sktl
from sktl import TimeToScoreDisplay, TransferComparisonDisplay
from sktl._display.drawing import load_pyplot

pytestmark = pytest.mark.usefixtures("pyplot")

SIZES = [50, 100, 200, 400]
EPOCHS = np.arange(4)


def random_scores(names, n_sizes=1, n_splits=3):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.2, 0.9, (n_sizes, n_splits)) for name in names}


def bands(ax):
    """For each band of an image: {x: (lowest, highest y)}."""
    found = []
    for band in ax.collections:
        points = np.concatenate([path.vertices for path in band.get_paths()])
        heights = {x: points[points[:, 0] == x, 1] for x in np.unique(points[:, 0])}
        found.append({x: (y.min(), y.max()) for x, y in heights.items()})
    return found


def legend_of(display):
    """{name: line} by the legend, from top to bottom."""
    legend = display.ax_.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    return dict(zip(names, legend.legend_handles, strict=True))


def drawn(display):
    display.figure_.canvas.draw()
    return display


# --- one training size: bars ----------------------------------------------------------


def test_bars_and_their_errors_are_the_means_and_standard_errors(make_comparison):
    scores = random_scores("abc")
    display = TransferComparisonDisplay.from_results(
        make_comparison(scores, [80])
    ).plot()
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == ["a", "b", "c"]
    widths = [bar.get_width() for bar in display.ax_.patches]
    assert widths == pytest.approx([s.mean() for s in scores.values()])
    (errors,) = (c for c in display.ax_.containers if hasattr(c, "has_xerr"))
    (segments,) = errors.lines[2]
    lengths = [np.ptp(ends[:, 0]) for ends in segments.get_segments()]
    expected = [2 * s.std(ddof=1) / 3**0.5 for s in scores.values()]
    assert lengths == pytest.approx(expected)
    assert display.figure_ is display.ax_.figure


def test_failed_contender_keeps_its_row_and_says_so(make_comparison):
    scores = random_scores("abc")
    scores["b"][0, 1] = np.nan
    comparison = make_comparison(scores, [80])
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    texts = {text.get_position()[1]: text.get_text() for text in display.ax_.texts}
    assert texts[1].strip() == "failed"
    assert texts[0].strip() == f"{scores['a'].mean():.3f}"
    assert len(display.ax_.get_yticklabels()) == 3


@pytest.mark.parametrize("score", [0.7, -0.7])
def test_number_stands_beyond_its_bar_within_the_axes(make_comparison, score):
    """Scores such as neg_log_loss are negative: their bars go to the left."""
    scores = {"a": np.array([[score, score + 0.1, score - 0.1]])}
    comparison = make_comparison(scores, [80])
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    (text,) = display.ax_.texts
    (bar,) = display.ax_.patches
    box, axes = text.get_window_extent(), display.ax_.get_window_extent()
    assert not box.overlaps(bar.get_window_extent())
    assert axes.x0 <= box.x0 < box.x1 <= axes.x1


def test_all_contenders_failed_is_still_a_image(make_comparison):
    comparison = make_comparison({"a": np.full((1, 3), np.nan)}, [80])
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    assert [text.get_text().strip() for text in display.ax_.texts] == ["failed"]


def test_long_names_are_broken_and_do_not_meet(make_comparison):
    names = ["a " * 60, "b" * 90, "short", "c " * 70]
    comparison = make_comparison(random_scores(names), [80])
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert display.ax_.get_window_extent().width > display.figure_.bbox.width / 3
    assert all(display.figure_.bbox.contains(box.x0, box.y0) for box in boxes)


def test_bars_need_no_training_sizes():
    display = TransferComparisonDisplay(["a", "b"], [0.5, 0.6], [0.1, 0.1], "f1").plot()
    assert display.ax_.get_xlabel().startswith("f1")


# --- several training sizes: learning curves ------------------------------------------


def test_curves_and_bands_are_the_means_and_standard_errors(make_comparison):
    scores = random_scores("ab", n_sizes=4)
    comparison = make_comparison(scores, SIZES)
    display = TransferComparisonDisplay.from_results(comparison).plot()
    assert set(legend_of(display)) == {"a", "b"}
    for line, band, rows in zip(
        display.ax_.lines, bands(display.ax_), scores.values(), strict=True
    ):
        means, errors = rows.mean(1), rows.std(1, ddof=1) / 3**0.5
        assert line.get_xdata().tolist() == SIZES
        assert line.get_ydata() == pytest.approx(means)
        low, high = zip(*(band[size] for size in SIZES), strict=True)
        assert low == pytest.approx(means - errors)
        assert high == pytest.approx(means + errors)


def test_legend_has_the_order_in_which_the_curves_end(make_comparison):
    rising, falling = [[0.2] * 2, [0.9] * 2], [[0.8] * 2, [0.3] * 2]
    scores = {"falling": falling, "failed": np.full((2, 2), np.nan), "rising": rising}
    comparison = make_comparison(scores, [10, 20])
    display = TransferComparisonDisplay.from_results(comparison).plot()
    names = ["rising", "falling", "failed (failed with 10, 20 rows)"]
    assert list(legend_of(display)) == names


def test_curve_has_a_gap_where_the_contender_failed(make_comparison):
    scores = random_scores("ab", n_sizes=4)
    scores["a"][1, 2] = np.nan
    comparison = make_comparison(scores, SIZES)
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    assert "a (failed with 100 rows)" in legend_of(display)
    known = np.isfinite(display.ax_.lines[0].get_ydata())
    assert known.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("sizes", "scale"),
    [
        ([50, 100], "linear"),
        ([100, 200, 400, 800], "linear"),
        ([100, 200, 400, 801], "log"),
        ([20, 200, 20000], "log"),
    ],
)
def test_ticks_stand_at_the_sizes(make_comparison, sizes, scale):
    comparison = make_comparison(random_scores("a", n_sizes=len(sizes)), sizes)
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    ax = display.ax_
    assert ax.get_xscale() == scale
    assert ax.get_xticks().tolist() == sizes
    assert [label.get_text() for label in ax.get_xticklabels()] == list(map(str, sizes))
    assert ax.get_xticks(minor=True).tolist() == []


def test_labels_of_many_sizes_do_not_meet(make_comparison):
    sizes = np.arange(1, 31) * 500
    comparison = make_comparison(random_scores("a", n_sizes=30), sizes)
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    boxes = [label.get_window_extent() for label in display.ax_.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert display.ax_.get_xticks()[[0, -1]].tolist() == [500, 15000]


@pytest.mark.parametrize("names", ["a", "abcdefgh", ["long " * 20, *"abcdefghijklmno"]])
def test_legend_covers_no_curve_and_is_within_the_figure(make_comparison, names):
    comparison = make_comparison(random_scores(names, n_sizes=4), SIZES)
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    legend = display.ax_.get_legend().get_window_extent()
    assert not legend.overlaps(display.ax_.get_window_extent())
    figure = display.figure_.bbox
    assert figure.y0 <= legend.y0 < legend.y1 <= figure.y1
    assert legend.x1 <= figure.x1
    assert display.ax_.get_window_extent().width > figure.width / 2


def test_sixteen_curves_differ_without_colour(make_comparison):
    comparison = make_comparison(random_scores("abcdefghijklmnop", n_sizes=4), SIZES)
    display = TransferComparisonDisplay.from_results(comparison).plot()
    looks = [(line.get_linestyle(), line.get_marker()) for line in display.ax_.lines]
    assert len(set(looks)) == 16


def test_curves_on_shared_axes_keep_the_sizes_of_both(make_comparison, pyplot):
    _, axes = pyplot.subplots(1, 2, sharex=True, sharey=True, layout="constrained")
    comparison = make_comparison(random_scores("ab", n_sizes=4), SIZES)
    for ax in axes:
        display = TransferComparisonDisplay.from_results(comparison).plot(ax=ax)
        assert display.ax_ is ax
    assert all(ax.get_xticks().tolist() == SIZES for ax in axes)
    assert len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize("sizes", [[80], [80, 160]])
def test_names_are_no_formulas_and_no_private_labels(make_comparison, sizes):
    r"""`$\frac$` is not TeX, and matplotlib leaves out what starts with "_"."""
    names = [r"costs $\frac$", "_hidden"]
    comparison = make_comparison(random_scores(names, n_sizes=len(sizes)), sizes)
    display = drawn(TransferComparisonDisplay.from_results(comparison).plot())
    shown = (
        [label.get_text() for label in display.ax_.get_yticklabels()]
        if len(sizes) == 1
        else legend_of(display)
    )
    assert set(shown) == set(names)


# --- scores over the epochs -----------------------------------------------------------


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
    effects = [("tuned", "scratch", "from scratch", 0.3, 0.1, 0.5, 0.01)]
    scores = random_scores(["pixels", "tuned", "scratch"], n_sizes=2)
    return make_comparison(scores, [40, 80], effects=effects, curves=curves)


@pytest.mark.parametrize("over", ["epoch", "seconds"])
def test_time_curves_and_bands_are_means_and_standard_errors(trained, over):
    display = TimeToScoreDisplay.from_results(trained, over=over).plot()
    lines = legend_of(display)
    assert list(lines) == ["tuned", "scratch", "final score of scratch"]
    for line, band, splits in zip(
        display.ax_.lines[:2], bands(display.ax_), trained.curves_.values(), strict=True
    ):
        scores = np.array([split["score"] for split in splits])
        error = scores.std(0, ddof=1) / 2**0.5
        assert line.get_xdata().tolist() == EPOCHS.tolist()
        assert line.get_ydata() == pytest.approx(scores.mean(0))
        low, high = zip(*(band[x] for x in EPOCHS), strict=True)
        assert low == pytest.approx(scores.mean(0) - error)
        assert high == pytest.approx(scores.mean(0) + error)
    assert display.ax_.lines[2].get_ydata() == pytest.approx([0.55, 0.55])


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
    display = drawn(TimeToScoreDisplay.from_results(trained).plot())
    assert list(legend_of(display)) == ["tuned", "scratch (failed)"]
    tuned, scratch = display.ax_.lines
    assert np.isfinite(tuned.get_ydata()).all()
    assert np.isnan(scratch.get_ydata()).all()


def test_contender_looks_the_same_in_both_images(trained):
    images = [
        display.from_results(trained).plot()
        for display in (TransferComparisonDisplay, TimeToScoreDisplay)
    ]
    for name in ("tuned", "scratch"):
        curves, time = (legend_of(image)[name] for image in images)
        for look in ("color", "linestyle", "marker"):
            assert getattr(curves, f"get_{look}")() == getattr(time, f"get_{look}")()


def test_comparison_without_epochs_has_no_time_to_draw(make_comparison):
    comparison = make_comparison(random_scores("a"), [80])
    with pytest.raises(ValueError, match="was trained by epochs: there are no curves"):
        TimeToScoreDisplay.from_results(comparison)


def test_unknown_axis_is_refused(trained):
    with pytest.raises(ValueError, match="over='batch' must be 'epoch' or 'seconds'"):
        TimeToScoreDisplay.from_results(trained, over="batch")


# --- matplotlib is an extra -----------------------------------------------------------


def test_missing_matplotlib_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    history = [{"train_loss": 1.0}]
    display = TransferComparisonDisplay(["a"], [0.5], [0.1], "accuracy")
    for draw in (
        load_pyplot,
        display.plot,
        lambda: sktl.TrainingHistoryDisplay.from_history(history),
    ):
        with pytest.raises(ImportError, match=r'missing: pip install "sktl\[plot\]"'):
            draw()
