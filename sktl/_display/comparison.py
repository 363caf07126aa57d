"""Drawing of results, by scikit-learn's convention. Matplotlib only inside `plot`."""

import textwrap

import numpy as np

# From Wong's palette for all eyes (Nature Methods 8, 441, 2011), so ordered that
# neighbours differ in grey too. With 4 styles, 20 curves before a pair comes again.
COLORS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#D55E00")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LONGEST_LINE = 40  # characters of a name before it is broken
LOG_FROM = (
    8  # largest over smallest training size from which on the axis is logarithmic
)
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
        labels = [_broken(name) for name in self.contenders]
        if ax is None:
            n_lines = 1 + max(label.count("\n") for label in labels)
            ax = _new_axes(7, 1 + (0.22 + 0.18 * n_lines) * len(labels))
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
        ax, lines = _draw_bands(ax, curves)
        _legend_beside(ax, lines)
        _show_sizes(ax, np.unique(self.train_sizes))
        ax.set_xlabel("training rows")
        ax.set_ylabel(f"{self.scoring} (band: standard error)")
        return ax


class TimeToScoreDisplay:
    """Scores over the epochs or seconds of a training, with standard errors.

    Shows how soon one network reaches the final score of another, which is drawn as a
    dotted line: one of the classic measures of a transfer (Taylor & Stone, JMLR 2009,
    "time to threshold"). Use `from_results` to make one.

    Parameters
    ----------
    curves : dict of str to tuple of (x, means, errors)
        Contender to three arrays of shape (n_points,): epochs or seconds, the mean
        score over splits, and its standard error.
    contenders : sequence of str
        All of the comparison, so that each looks the same in all of its images.
    references : sequence of str
        Contenders whose final score is drawn as a line.
    scoring : str
        What the scores are.
    over : {"epoch", "seconds"}
        What `x` is.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    Examples
    --------
    >>> from sktl import TimeToScoreDisplay
    >>> curves = {"from scratch": ([0, 1, 2], [0.1, 0.6, 0.8], [0.0, 0.05, 0.02])}
    >>> display = TimeToScoreDisplay(
    ...     curves, ["pixels", "from scratch"], [], "accuracy", "epoch")
    >>> display.over
    'epoch'
    """

    def __init__(self, curves, contenders, references, scoring, over):
        self.curves = curves
        self.contenders = list(contenders)
        self.references = list(references)
        self.scoring = scoring
        self.over = over

    @classmethod
    def from_results(cls, comparison, over="epoch"):
        """Take the curves of a comparison, at its largest training size.

        Parameters
        ----------
        comparison : TransferComparison
        over : {"epoch", "seconds"}, default="epoch"
            What the scores are drawn over. Epochs of one network may take longer than
            those of another.

        Returns
        -------
        display : TimeToScoreDisplay

        Raises
        ------
        ValueError
            If no contender was trained by epochs, or `over` is something else.

        Notes
        -----
        Between two epochs of a split the score is interpolated. A split that stopped
        early keeps its last score. Where a split failed there is no mean to draw.
        """
        if over not in ("epoch", "seconds"):
            raise ValueError(f"over={over!r} must be 'epoch' or 'seconds'.")
        if not comparison.curves_:
            raise ValueError(
                "No contender of this comparison was trained by epochs: there are no "
                "curves to draw. Add one, such as a FineTunedCNNClassifier."
            )
        effects = comparison.effects_
        pairs = zip(effects.get("twin", ()), effects.get("kind", ()), strict=True)
        references = {twin for twin, kind in pairs if kind == "from scratch"}
        curves = {n: _mean_curve(s, over) for n, s in comparison.curves_.items()}
        return cls(
            curves,
            dict.fromkeys(comparison.results_["contender"]),
            [n for n in curves if n in references and np.isfinite(curves[n][1][-1])],
            comparison.scoring_,
            over,
        )

    def plot(self, ax=None):
        """Draw a curve per contender.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            The legend stands to the right of it: a figure with `layout="constrained"`
            makes room for it. None makes a new figure.

        Returns
        -------
        self : TimeToScoreDisplay
        """
        curves = {}
        for name, curve in self.curves.items():
            label = f"{name} (failed)" if np.isnan(curve[1]).all() else name
            curves[label] = self.contenders.index(name), *curve
        ax, lines = _draw_bands(ax, curves)
        for name in self.references:
            final = self.curves[name][1][-1]
            look = {"color": "0.4", "linestyle": ":", "zorder": 0}
            lines[f"final score of {name}"] = ax.axhline(final, **look)
        _legend_beside(ax, lines)
        ax.set_xlabel({"epoch": "epochs", "seconds": "seconds of training"}[self.over])
        ax.set_ylabel(f"{self.scoring} (band: standard error)")
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def load_pyplot():
    """Import matplotlib, an extra, where something is drawn."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Drawing needs matplotlib, which is missing: pip install "sktl[plot]".'
        ) from error
    return plt


def line_look(i):
    """Colour and dashes of the i-th curve of an image."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]}


def _new_axes(width, height):
    """Axes of a new figure, in inches."""
    _, ax = load_pyplot().subplots(figsize=(width, height), layout="constrained")
    return ax


def _broken(name):
    """A name in lines that leave room for what it names."""
    return textwrap.fill(str(name), LONGEST_LINE)


def _mean_curve(splits, over):
    """Points, mean scores over splits and their standard errors.

    Of a split that failed there are no scores, and so no mean.
    """
    points = max((split[over] for split in splits if split), key=lambda x: x[-1])
    scores = [
        np.interp(points, split[over], split["score"]) if split else points * np.nan
        for split in splits
    ]
    error = np.std(scores, axis=0, ddof=1) / np.sqrt(len(splits))
    return points, np.mean(scores, axis=0), error


def _draw_bands(ax, curves):
    """Draw {name: (look, x, means, errors)}; return the axes and {name: line}."""
    if ax is None:
        n_lines = sum(1 + _broken(name).count("\n") for name in curves)
        ax = _new_axes(9, max(4.5, 0.5 + 0.18 * n_lines))
    lines = {}
    for name, (look, x, *curve) in curves.items():
        means, errors = map(np.asarray, curve)
        style = line_look(look) | {"marker": MARKERS[look % len(MARKERS)]}
        (lines[name],) = ax.plot(x, means, markersize=5, **style)
        below, above = means - errors, means + errors
        ax.fill_between(x, below, above, color=style["color"], alpha=0.2, linewidth=0)
    return ax, lines


def _legend_beside(ax, lines):
    """Name the lines to the right of the axes, in the order in which they end there."""

    def end(name):
        known = [value for value in lines[name].get_ydata() if np.isfinite(value)]
        return known[-1] if known else -np.inf

    names = sorted(lines, key=end, reverse=True)
    legend = ax.legend(
        [lines[name] for name in names],
        [_broken(name) for name in names],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        handlelength=4,  # long enough to tell the dashes apart
        fontsize="small",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


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
