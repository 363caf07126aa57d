"""Scores of contenders on the same splits. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import broken, draw_bands, legend_beside, new_axes

# Largest over smallest training size from which on the axis is logarithmic.
LOG_FROM = 8
TICK_DISTANCE = 0.08  # of the axis: four digits and a gap


class TransferComparisonDisplay:
    """Mean scores of contenders with their standard errors.

    With one training size, a bar per contender; with several, a learning curve each.
    Use `from_results` or `TransferComparison.plot` to make one.

    Parameters
    ----------
    contenders : sequence of str
        One entry per contender and training size, as in the arrays below.
    means, errors : array-like of shape (n_entries,)
        Mean score and its standard error. NaN where a contender failed.
    scoring : str
        What the scores are.
    train_sizes : array-like of shape (n_entries,) or None, default=None
        Rows that the contender was trained on. None means the same for all.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    See Also
    --------
    TimeToScoreDisplay : Draws the scores of one training, epoch by epoch.

    Examples
    --------
    >>> from sktl import TransferComparisonDisplay
    >>> display = TransferComparisonDisplay(
    ...     ["raw pixels", "frozen features"], [0.8, 0.9], [0.02, 0.01], "accuracy")
    >>> display.means
    array([0.8, 0.9])
    """

    def __init__(self, contenders, means, errors, scoring, train_sizes=None):
        self.contenders = list(contenders)
        self.means = np.asarray(means)
        self.errors = np.asarray(errors)
        self.scoring = scoring
        self.train_sizes = train_sizes if train_sizes is None else np.array(train_sizes)

    @classmethod
    def from_results(cls, comparison):
        """Take the numbers of a comparison.

        Parameters
        ----------
        comparison : TransferComparison

        Returns
        -------
        display : TransferComparisonDisplay
        """
        results = comparison.results_
        return cls(
            results["contender"],
            results["mean_test_score"],
            results["se_test_score"],
            comparison.scoring_,
            results["train_size"],
        )

    def plot(self, ax=None):
        """Draw a bar per contender, the first on top, or a curve per contender.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            The legend of curves stands to the right of it: a figure with
            `layout="constrained"` makes room for it. None makes a new figure.

        Returns
        -------
        self : TransferComparisonDisplay
        """
        several = self.train_sizes is not None and len(np.unique(self.train_sizes)) > 1
        ax = self._draw_curves(ax) if several else self._draw_bars(ax)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _draw_bars(self, ax):
        labels = [broken(name) for name in self.contenders]
        if ax is None:
            n_lines = 1 + max(label.count("\n") for label in labels)
            ax = new_axes(7, 1 + (0.22 + 0.18 * n_lines) * len(labels))
        rows = np.arange(len(labels))
        ax.barh(rows, self.means, xerr=self.errors, color="0.75", ecolor="black")
        for row, mean, error in zip(rows, self.means, self.errors, strict=True):
            side = "right" if mean < 0 else "left"
            if np.isnan(mean):
                end, text = 0, " failed"
            else:
                end = mean + np.copysign(np.nan_to_num(error), mean)
                text = f" {mean:.3f} "
            ax.text(end, row, text, va="center", ha=side, fontsize="small")
        ax.set_yticks(rows, labels, parse_math=False)
        # Not invert_yaxis, which on shared axes would turn every second panel back.
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel(f"{self.scoring} (bar: standard error)")
        ax.margins(x=0.2)
        return ax

    def _draw_curves(self, ax):
        curves = {}
        for look, name in enumerate(dict.fromkeys(self.contenders)):
            rows = np.array([other == name for other in self.contenders])
            columns = self.train_sizes, self.means, self.errors
            sizes, means, errors = (column[rows] for column in columns)
            failed = ", ".join(map(str, sizes[np.isnan(means)]))
            label = f"{name} (failed with {failed} rows)" if failed else name
            curves[label] = look, sizes, means, errors
        ax, lines = draw_bands(ax, curves)
        legend_beside(ax, lines)
        _show_sizes(ax, np.unique(self.train_sizes))
        ax.set_xlabel("training rows")
        ax.set_ylabel(f"{self.scoring} (band: standard error)")
        return ax


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
