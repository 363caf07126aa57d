"""Scores of contenders on the same splits. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import (
    KIND_LOOKS,
    LINE_HEIGHT,
    PLAIN,
    Curve,
    broken,
    draw_curves,
    legend_above,
    n_lines,
    new_axes,
)
from sktl._display.table import score_form
from sktl._targets.kinds import TARGETS

# Largest over smallest training size, and time, from which on the axis is logarithmic.
LOG_FROM, LOG_TIMES_FROM = 8, 100
TICK_DISTANCE = 0.08  # of the axis: four digits and a gap
# The score of a model that sees no images is drawn unless it would take more than this
# part of the axis for itself.
LARGEST_GAP = 0.4


class TransferComparisonDisplay:
    """Mean scores of contenders with their 95 % intervals.

    With one training size, each contender is a point, the best at the top, with its fit
    time beside it; with several training sizes, each contender is a learning curve. Use
    `from_results` or `TransferComparison.plot` to create one.

    Parameters
    ----------
    contenders : sequence of str
        One entry per contender and training size, as in the arrays below.
    means : array-like of shape (n_entries,)
        Mean score. NaN where a contender failed.
    errors : array-like of shape (n_entries,) or (2, n_entries)
        How far the 95 % interval reaches below and above the mean.
    scoring : str
        Name of the score.
    train_sizes : array-like of shape (n_entries,) or None, default=None
        Number of training rows of each entry. None means the same for all.
    kinds : sequence of str or None, default=None
        Kind of each entry, as in `TransferComparison.results_`; determines the colour.
    chance : float, default=nan
        Score of a model that does not see the images, drawn as a dotted line.
    n_splits : int or None, default=None
        Number of splits that were averaged.
    baseline : str, default="most frequent class"
        What that model predicts, for the legend.
    fit_times : array-like of shape (n_entries,) or None, default=None
        Seconds per fit. With None, no times are drawn.
    pass_seconds : float, default=nan
        Seconds that the pass of all images through the networks took; contenders share
        it, and `fit_times` do not include it.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the scores.
    time_ax_ : matplotlib.axes.Axes or None
        The axes of the times, to the right; None if no times are given, with several
        training sizes, or if `plot` was called with `ax`.
    figure_ : matplotlib.figure.Figure

    See Also
    --------
    TimeToScoreDisplay : Draws scores during training, epoch by epoch.

    Examples
    --------
    >>> from sktl import TransferComparisonDisplay
    >>> display = TransferComparisonDisplay(
    ...     ["raw pixels", "frozen features"], [0.8, 0.9], [0.02, 0.01], "accuracy")
    >>> display.means
    array([0.8, 0.9])
    """

    def __init__(
        self,
        contenders,
        means,
        errors,
        scoring,
        train_sizes=None,
        *,
        kinds=None,
        chance=np.nan,
        n_splits=None,
        baseline="most frequent class",
        fit_times=None,
        pass_seconds=np.nan,
    ):
        self.contenders = list(contenders)
        self.means = np.asarray(means)
        self.errors = np.broadcast_to(errors, (2, len(self.means)))
        self.scoring = scoring
        self.train_sizes = train_sizes if train_sizes is None else np.array(train_sizes)
        self.kinds = [None] * len(self.contenders) if kinds is None else list(kinds)
        self.chance = chance
        self.n_splits = n_splits
        self.baseline = baseline
        self.fit_times = fit_times if fit_times is None else np.asarray(fit_times)
        self.pass_seconds = pass_seconds

    @classmethod
    def from_results(cls, comparison):
        """Create a display from the results of a comparison.

        Parameters
        ----------
        comparison : TransferComparison

        Returns
        -------
        display : TransferComparisonDisplay
        """
        results = comparison.results_
        means = results["mean_test_score"]
        low, high = results["low_test_score"], results["high_test_score"]
        return cls(
            results["contender"],
            means,
            [means - low, high - means],
            comparison.scoring_,
            results["train_size"],
            kinds=results.get("kind"),
            chance=comparison.chance_,
            n_splits=comparison.n_splits_,
            baseline=TARGETS[comparison.target_].baseline_name,
            fit_times=results["mean_fit_time"],
            pass_seconds=comparison.pass_seconds_,
        )

    def plot(self, ax=None):
        """Draw a point per contender, the best at the top, or a curve per contender.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Curves are labelled to its right, and the legend is above it: create its
            figure with `layout="constrained"` to make room for both. None makes a new
            figure, with times.

        Returns
        -------
        self : TransferComparisonDisplay
        """
        self.time_ax_ = None
        several = self.train_sizes is not None and len(np.unique(self.train_sizes)) > 1
        self.ax_ = self._draw_curves(ax) if several else self._draw_points(ax)
        self.figure_ = self.ax_.figure
        return self

    def _draw_points(self, ax):
        # What failed has no score, and stands at the bottom.
        order = np.argsort(-self.means, kind="stable")
        order = _order_on_shared(ax, self.contenders, order)
        labels = [broken(self.contenders[i]) for i in order]
        if ax is None:
            height = 1.3 + 0.16 * len(labels) + LINE_HEIGHT * n_lines(labels)
            ax = new_axes(7 if self.fit_times is None else 8, height)
            if self.fit_times is not None:
                self._draw_times(ax, order)
        far_off = self._far_below()
        for row, i in enumerate(order):
            mean = self.means[i]
            if np.isnan(mean) or far_off[i]:
                score = f"{mean:{score_form(self.means)}}"
                text = "failed" if np.isnan(mean) else f"\N{LEFTWARDS ARROW} {score}"
                place = {"x": 0.01, "y": row, "transform": ax.get_yaxis_transform()}
                ax.text(s=text, va="center", fontsize="small", **place, **PLAIN)
            else:
                self._draw_point(ax, row, i)
        ax.set_yticks(range(len(labels)), labels, **PLAIN)
        # Not invert_yaxis, which on shared axes would turn every second panel back.
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.margins(x=0.16)  # room for the number to the right of an interval
        ax.grid(axis="x", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        lines, notes = self._draw_chance(ax.axvline, ax.get_xlim())
        legend_above(ax, self.kinds, *lines, side="right", linestyle="")
        if self.train_sizes is not None:
            notes.insert(0, f"{self.train_sizes[0]} training rows")
        ax.set_xlabel(f"{self._axis_label()}\n{', '.join(notes)}".strip(), **PLAIN)
        return ax

    def _far_below(self):
        """Whether entries are no better than chance, and the others far above it."""
        beaten = self.means <= self.chance
        low, high = (ends[~beaten & np.isfinite(self.means)] for ends in self._ends())
        if not len(low):
            return np.zeros_like(beaten)
        return beaten & self._is_chance_far_off(low.min(), high.max())

    def _draw_point(self, ax, row, i):
        mean, high = self.means[i], self._ends()[1][i]
        look = {"markersize": 6, "capsize": 3, **self._look(i)}
        ax.errorbar(mean, row, xerr=self.errors[:, [i]], **look)
        ax.annotate(
            f"{mean:{score_form(self.means)}}",
            (high if np.isfinite(high) else mean, row),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize="small",
            **PLAIN,
        )

    def _draw_times(self, ax, order):
        """Draw the seconds of a fit to the right of the scores, in the same rows."""
        scores, times = ax.get_subplotspec().subgridspec(1, 2, width_ratios=[3, 1])
        ax.set_subplotspec(scores)
        self.time_ax_ = time_ax = ax.figure.add_subplot(times)
        for row, i in enumerate(order):
            look = {"linestyle": "", "markersize": 6, **self._look(i)}
            time_ax.plot(self.fit_times[i], row, **look)
        known = self.fit_times[self.fit_times > 0]
        if len(known) and known.max() > LOG_TIMES_FROM * known.min():
            time_ax.set_xscale("log")
            time_ax.minorticks_off()
            low, high = np.log10([known.min(), known.max()])
            decades = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
            # There is room for two labels such as "0.0001".
            names = [f"{decades[0]:g}", *[""] * (len(decades) - 2), f"{decades[-1]:g}"]
            time_ax.set_xticks(decades, names)
        else:
            time_ax.xaxis.set_major_formatter("{x:g}")
        time_ax.set_yticks([])
        time_ax.set_ylim(len(order) - 0.5, -0.5)
        time_ax.margins(x=0.15)
        time_ax.grid(axis="x", color="0.9", linewidth=0.8)
        time_ax.set_axisbelow(True)
        label = "seconds per fit"
        if self.pass_seconds > 0:
            label += f"\nnetwork pass: {self.pass_seconds:.3g} s"
        time_ax.set_xlabel(label, **PLAIN)

    def _look(self, i):
        return KIND_LOOKS.get(self.kinds[i], {"color": "#000000", "marker": "o"})

    def _draw_curves(self, ax):
        low, high = self._ends()
        curves = {}
        for look, name in enumerate(dict.fromkeys(self.contenders)):
            rows = np.array([other == name for other in self.contenders])
            sizes, means = self.train_sizes[rows], self.means[rows]
            failed = ", ".join(map(str, sizes[np.isnan(means)]))
            label = f"{name} (failed with {failed} rows)" if failed else name
            kind = self.kinds[np.argmax(rows)]
            curves[label] = Curve(sizes, means, low[rows], high[rows], look, kind)
        ax = draw_curves(ax, curves)
        lines, notes = self._draw_chance(ax.axhline, ax.get_ylim())
        legend_above(ax, self.kinds, *lines, marker="")
        _show_sizes(ax, np.unique(self.train_sizes))
        ax.set_xlabel(f"training rows\n{', '.join(notes)}".strip(), **PLAIN)
        ax.set_ylabel(self._axis_label(), **PLAIN)
        return ax

    def _draw_chance(self, draw_line, limits):
        """Draw the score of the baseline, if the axis would not suffer.

        Returns
        -------
        lines : list of matplotlib.lines.Line2D
            None or one.
        notes : list of str
            What to write below the axis: the splits, and the score if it is not drawn.
        """
        notes = [] if self.n_splits is None else [f"{self.n_splits} splits"]
        if not self._is_chance_far_off(*limits):
            look = {"color": "0.4", "linestyle": ":", "zorder": 0}
            return [draw_line(self.chance, label=self.baseline, **look)], notes
        if np.isfinite(self.chance):
            chance = f"{self.chance:{score_form(self.means)}}"
            notes.append(f"{self.baseline}: {chance}")
        return [], notes

    def _is_chance_far_off(self, low, high):
        """Whether its line would take too much of an axis; also where there is none."""
        gap = max(low - self.chance, self.chance - high, 0)
        return not gap <= LARGEST_GAP * (high - low)

    def _ends(self):
        """Lower and upper ends of the intervals."""
        below, above = self.errors
        return self.means - below, self.means + above

    def _axis_label(self):
        return f"{self.scoring}, mean and 95 % interval"


def _order_on_shared(ax, contenders, order):
    """The rows' order: that of a plot with which `ax` shares its rows, if there is one.

    What belongs to a row is written once, for all.
    """
    others = [] if ax is None else ax.get_shared_y_axes().get_siblings(ax)
    drawn = [other for other in others if other is not ax and other.has_data()]
    if not drawn:
        return order
    own = [broken(name) for name in contenders]
    names = [ax.yaxis.get_major_formatter()(row) for row in range(len(own))]
    if sorted(names) != sorted(own):
        raise ValueError(
            f"ax shares its y axis with a plot of {names}, but here the contenders are "
            f"{own}. Make the axes with sharey=False."
        )
    return np.array([own.index(name) for name in names])


def _show_sizes(ax, sizes):
    """Scale and ticks of an axis of training sizes, given in increasing order."""
    is_log = sizes[-1] > LOG_FROM * sizes[0]
    places = np.log(sizes) if is_log else sizes
    distance = TICK_DISTANCE * (places[-1] - places[0])
    ticks, last = [], np.inf  # from the right: the largest size always has its tick
    for size, place in zip(sizes[::-1], places[::-1], strict=True):
        if last - place >= distance:
            ticks.insert(0, size)
            last = place
    ax.set_xscale("log" if is_log else "linear")
    ax.minorticks_off()
    ax.set_xticks(ticks, [str(size) for size in ticks])
