"""The drawings of a comparison show its numbers, and can be read."""

import itertools
import sys

import numpy as np
import pytest

import sktl
from sktl import TransferComparisonDisplay
from tests.helpers import each_once, first_and_slow

pytestmark = pytest.mark.usefixtures("pyplot")

SIZES = [50, 100, 200, 400]


def random_scores(names, n_sizes=1, n_splits=3):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.2, 0.9, (n_sizes, n_splits)) for name in names}


def draw(comparison, **kwargs):
    display = comparison.plot(**kwargs)
    display.figure_.canvas.draw()
    return display


def ends_of(results):
    return results["low_test_score"], results["high_test_score"]


def points(display):
    """{name: (mean, low, high)} as they are drawn, from top to bottom."""
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    found = {}
    for container in display.ax_.containers:
        line, _, (bars,) = container.lines
        ((x, row),) = line.get_xydata()
        (ends,) = bars.get_segments()
        found[names[int(row)]] = (x, *sorted(ends[:, 0]))
    return {name: found[name] for name in names if name in found}


def written(display):
    """{name: what is written in its row}."""
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    rows = {}
    for text in display.ax_.texts:
        _, y = getattr(text, "xy", text.get_position())
        rows[names[int(y)]] = text.get_text()
    return rows


def extents(texts):
    from matplotlib.text import Text

    # That of an annotation holds its arrow, too.
    return [Text.get_window_extent(text) for text in texts]


# --- one training size: points --------------------------------------------------------


def test_points_are_the_means_with_their_intervals_the_best_on_top(make_comparison):
    comparison = make_comparison(random_scores("abcd"), [80])
    display = draw(comparison)
    results = comparison.results_
    order = np.argsort(-results["mean_test_score"])
    drawn = points(display)
    assert list(drawn) == results["contender"][order].tolist()
    low, high = ends_of(results)
    expected = np.array([results["mean_test_score"], low, high]).T[order]
    np.testing.assert_allclose(list(drawn.values()), expected)
    means = [f"{mean:.3f}" for mean in results["mean_test_score"][order]]
    assert list(written(display).values()) == means
    assert display.ax_.get_ylim()[0] > display.ax_.get_ylim()[1]
    assert display.figure_ is display.ax_.figure


def test_rows_splits_and_score_are_named(make_comparison):
    label = draw(make_comparison(random_scores("ab"), [80])).ax_.get_xlabel()
    for words in ("accuracy", "95 % interval", "80 training rows", "3 splits"):
        assert words in label


def test_failed_contender_keeps_its_row_and_says_so(make_comparison):
    scores = random_scores("abc")
    scores["b"][0, 1] = np.nan
    display = draw(make_comparison(scores, [80]))
    assert written(display)["b"] == "failed"
    assert [label.get_text() for label in display.ax_.get_yticklabels()][-1] == "b"
    assert set(points(display)) == {"a", "c"}
    everyone = draw(make_comparison({"a": np.full((1, 3), np.nan)}, [80]))
    assert written(everyone) == {"a": "failed"}


@pytest.mark.parametrize("score", [0.7, -0.7])
def test_number_stands_beside_its_interval_within_the_axes(make_comparison, score):
    scores = {"a": np.array([[score, score + 0.1, score - 0.1]])}
    display = draw(make_comparison(scores, [80]))
    (box,) = extents(display.ax_.texts)
    ((_, _, high),) = points(display).values()
    assert display.ax_.transData.transform((high, 0))[0] < box.x0
    assert box.x1 <= display.ax_.get_window_extent().x1


def test_long_names_are_broken_and_do_not_meet(make_comparison):
    names = ["a " * 60, "b" * 90, "short", "c " * 70]
    display = draw(make_comparison(random_scores(names), [80]))
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert display.ax_.get_window_extent().width > display.figure_.bbox.width / 3
    assert all(display.figure_.bbox.contains(box.x0, box.y0) for box in boxes)


def test_contenders_are_coloured_by_kind_and_told_apart_in_grey():
    kinds = ["classical", "frozen features", "fine-tuned", "random weights"]
    scores = np.linspace(0.6, 0.9, 8)
    display = TransferComparisonDisplay(
        list("abcdefgh"), scores, np.full(8, 0.01), "accuracy", kinds=kinds * 2
    ).plot()
    looks = {}
    for container, kind in zip(display.ax_.containers, kinds[::-1] * 2, strict=True):
        line = container.lines[0]
        looks.setdefault(kind, set()).add((line.get_color(), line.get_marker()))
    assert all(len(look) == 1 for look in looks.values())
    colors, markers = zip(*(look.pop() for look in looks.values()), strict=True)
    assert len(set(markers)) == 4
    greys = sorted(map(lightness, colors))
    assert np.diff(greys).min() > 0.1
    legend = display.ax_.get_legend()
    shown = {
        text.get_text(): (mark.get_color(), mark.get_marker())
        for text, mark in zip(legend.texts, legend.legend_handles, strict=True)
    }
    assert shown == dict(zip(looks, zip(colors, markers, strict=True), strict=True))


def lightness(color):
    """Of a colour such as "#ff0000", by the weights of ITU-R BT.601; 0 to 1."""
    return np.dot([0.299, 0.587, 0.114], list(bytes.fromhex(color[1:]))) / 255


def test_chance_is_a_line_where_the_axis_has_room_for_it():
    near, far = (
        TransferComparisonDisplay(
            ["a", "b"], [0.9, 0.8], [0.02, 0.02], "accuracy", chance=chance
        ).plot()
        for chance in (0.75, 0.1)
    )
    (line,) = (line for line in near.ax_.lines if line.get_linestyle() == ":")
    assert line.get_xdata() == [0.75, 0.75]
    assert [t.get_text() for t in near.ax_.get_legend().texts] == [
        "most frequent class"
    ]
    assert "most frequent class: 0.100" in far.ax_.get_xlabel()
    assert far.ax_.get_xlim()[0] > 0.7, "the axis is where the scores are"


def test_contender_no_better_than_chance_does_not_take_the_axis(make_comparison):
    scores = {"good": [[0.9, 0.91]], "fair": [[0.8, 0.82]], "dummy": [[0.1, 0.1]]}
    display = draw(make_comparison(scores, [80], chance=0.1))
    assert display.ax_.get_xlim()[0] > 0.6
    assert written(display)["dummy"].endswith(" 0.100")
    assert set(points(display)) == {"good", "fair"}
    alone = draw(make_comparison({"dummy": [[0.1, 0.2]]}, [80], chance=0.5))
    assert set(points(alone)) == {"dummy"}


def test_points_need_no_training_sizes():
    display = TransferComparisonDisplay(["a", "b"], [0.5, 0.6], [0.1, 0.1], "f1").plot()
    assert points(display)["a"] == pytest.approx((0.5, 0.4, 0.6))
    assert display.ax_.get_xlabel().startswith("f1")


def test_seconds_stand_beside_the_scores_and_name_the_pass(make_comparison, pyplot):
    comparison = make_comparison(random_scores("abc"), [80], pass_seconds=125.0)
    display = draw(comparison)
    results = comparison.results_
    order = np.argsort(-results["mean_test_score"])
    drawn = [line.get_xydata()[0] for line in display.time_ax_.lines]
    expected = np.c_[results["mean_fit_time"][order], range(3)]
    np.testing.assert_allclose(drawn, expected)
    assert display.time_ax_.get_ylim() == display.ax_.get_ylim()
    assert "network pass: 125 s" in display.time_ax_.get_xlabel()
    label = display.time_ax_.xaxis.label.get_window_extent()
    assert label.x1 <= display.figure_.bbox.x1
    assert draw(comparison, ax=pyplot.subplots()[1]).time_ax_ is None


# --- several training sizes: learning curves ------------------------------------------


def labels_of(display):
    """{label: text} of the names at the ends of lines, from top to bottom."""
    texts = sorted(display.ax_.texts, key=lambda text: -text.xyann[1])
    return {text.get_text(): text for text in texts}


def bands(ax):
    """For each band of a drawing: {x: (lowest, highest y)}."""
    found = []
    for band in ax.collections:
        corners = np.concatenate([path.vertices for path in band.get_paths()])
        heights = {x: corners[corners[:, 0] == x, 1] for x in np.unique(corners[:, 0])}
        found.append({x: (y.min(), y.max()) for x, y in heights.items()})
    return found


def test_curves_and_bands_are_the_means_and_intervals(make_comparison):
    comparison = make_comparison(random_scores("ab", n_sizes=4), SIZES)
    display = draw(comparison)
    means = comparison.results_["mean_test_score"].reshape(2, 4)
    low, high = (ends.reshape(2, 4) for ends in ends_of(comparison.results_))
    for i, (line, band) in enumerate(
        zip(display.ax_.lines, bands(display.ax_), strict=True)
    ):
        assert line.get_xdata().tolist() == SIZES
        assert line.get_ydata() == pytest.approx(means[i])
        ends = np.array([band[size] for size in SIZES]).T
        np.testing.assert_allclose(ends, [low[i], high[i]])
    assert "95 % interval" in display.ax_.get_ylabel()
    assert "3 splits" in display.ax_.get_xlabel()


def test_names_stand_at_the_ends_of_their_lines(make_comparison):
    rising, falling = [[0.2] * 2, [0.9] * 2], [[0.8] * 2, [0.3] * 2]
    scores = {"falling": falling, "failed": np.full((2, 2), np.nan), "rising": rising}
    display = draw(make_comparison(scores, [10, 20]))
    names = ["rising", "falling", "failed (failed with 10, 20 rows)"]
    labels = labels_of(display)
    assert list(labels) == names
    assert labels["rising"].xy == pytest.approx((20, 0.9))
    assert labels["falling"].xy == pytest.approx((20, 0.3))


def test_curve_has_a_gap_where_the_contender_failed(make_comparison):
    scores = random_scores("ab", n_sizes=4)
    scores["a"][1, 2] = np.nan
    display = draw(make_comparison(scores, SIZES))
    assert "a (failed with 100 rows)" in labels_of(display)
    known = np.isfinite(display.ax_.lines[0].get_ydata())
    assert known.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("equal", "names"),
    each_once([True, False], ["a", "abcdefgh", ["long " * 20, *"abcdefghijklmno"]]),
)
def test_names_of_curves_cover_nothing_and_are_within_the_figure(
    make_comparison, names, equal
):
    scores = random_scores(names, n_sizes=4)
    if equal:
        scores = dict.fromkeys(scores, next(iter(scores.values())))
    display = draw(make_comparison(scores, SIZES))
    figure, axes = display.figure_.bbox, display.ax_.get_window_extent()
    boxes = extents(display.ax_.texts)
    assert len(boxes) == len(names)
    for box in boxes:
        assert box.x0 > axes.x1
        assert box.x1 <= figure.x1
        assert figure.y0 <= box.y0 < box.y1 <= figure.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert axes.width > figure.width / 2


def test_curves_that_run_together_can_all_be_seen(make_comparison):
    same = random_scores("a", n_sizes=4)["a"]
    scores = {"one": same, "other": same - 0.1, "two": same, "three": same}
    display = draw(make_comparison(scores, SIZES))
    one, other, two, three = (line.get_linewidth() for line in display.ax_.lines)
    assert one > two > three == other


def test_sixteen_curves_differ_without_colour(make_comparison):
    comparison = make_comparison(random_scores("abcdefghijklmnop", n_sizes=4), SIZES)
    looks = [
        (line.get_linestyle(), line.get_marker()) for line in draw(comparison).ax_.lines
    ]
    assert len(set(looks)) == 16


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
    ax = draw(comparison).ax_
    assert ax.get_xscale() == scale
    assert ax.get_xticks().tolist() == sizes
    assert [label.get_text() for label in ax.get_xticklabels()] == list(map(str, sizes))
    assert ax.get_xticks(minor=True).tolist() == []


def test_labels_of_many_sizes_do_not_meet(make_comparison):
    sizes = np.arange(1, 31) * 500
    display = draw(make_comparison(random_scores("a", n_sizes=30), sizes))
    boxes = [label.get_window_extent() for label in display.ax_.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert display.ax_.get_xticks()[[0, -1]].tolist() == [500, 15000]


@pytest.mark.parametrize("sizes", first_and_slow([[80], SIZES]))
def test_drawings_on_shared_axes_agree(make_comparison, pyplot, sizes):
    """The best is on top in both, and the sizes of both have their ticks."""
    _, axes = pyplot.subplots(1, 2, sharex=True, sharey=True, layout="constrained")
    comparison = make_comparison(random_scores("ab", n_sizes=len(sizes)), sizes)
    for ax in axes:
        assert draw(comparison, ax=ax).ax_ is ax
    for ax in axes:
        bottom, top = ax.get_ylim()
        assert (bottom > top) == (sizes == [80])
        assert sizes == [80] or ax.get_xticks().tolist() == SIZES
    assert len(pyplot.get_fignums()) == 1


def test_shared_rows_belong_to_the_same_contender_in_each_plot(pyplot):
    _, (one, other) = pyplot.subplots(1, 2, sharey=True)
    scores = {"raw": 0.8, "frozen": 0.9, "tuned": 0.95}
    names = [*scores]
    means = np.array([*scores.values()])
    TransferComparisonDisplay(names, means, 0.02, "accuracy").plot(ax=one)
    TransferComparisonDisplay(names[::-1], means, 0.02, "accuracy").plot(ax=other)
    rows = [label.get_text() for label in one.get_yticklabels()]
    assert rows == ["tuned", "frozen", "raw"]
    for ax, expected in ((one, means[::-1]), (other, means)):
        assert [float(text.get_text()) for text in ax.texts] == expected.tolist()
    with pytest.raises(ValueError, match="Make the axes with sharey=False"):
        TransferComparisonDisplay(["a", "b"], [0, 1], 0, "r2").plot(ax=one)


# --- names ----------------------------------------------------------------------------

HOSTILE = {
    r"costs $\frac$": r"costs $\frac$",
    "_hidden": "_hidden",
    r"100 % \input{x}": r"100 % \input{x}",
    "no UTF-8: \udcff": r"no UTF-8: \udcff",
    "ends\n": r"ends\n",
}


@pytest.mark.parametrize(
    ("usetex", "sizes"), each_once([False, True], [[80], [80, 160]])
)
def test_names_are_no_formulas_whatever_matplotlib_is_set_to(
    make_comparison, pyplot, sizes, usetex
):
    r"""`$\frac$` is not TeX, and matplotlib leaves out what starts with "_"."""
    comparison = make_comparison(random_scores(HOSTILE, n_sizes=len(sizes)), sizes)
    with pyplot.rc_context({"text.usetex": usetex}):
        display = comparison.plot()
    ax = display.ax_
    labels = ax.get_yticklabels() if len(sizes) == 1 else ax.texts
    assert {label.get_text() for label in labels} == set(HOSTILE.values())
    labels = [*labels, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    for label in labels:
        if label.get_text():
            assert not label.get_usetex()
            assert not label.get_parse_math()
    if not usetex:  # the ticks are as they are set
        display.figure_.canvas.draw()


def test_missing_matplotlib_is_told_with_what_to_install(make_comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    history = [{"train_loss": 1.0}]
    for plot in (
        make_comparison(random_scores("a"), [80]).plot,
        lambda: sktl.TrainingHistoryDisplay.from_history(history),
    ):
        with pytest.raises(ImportError, match="missing: pip install matplotlib"):
            plot()
