"""What the drawings share: colours, names that are no formulas, lines with names."""

import textwrap
from typing import NamedTuple

import numpy as np
from sklearn.isotonic import isotonic_regression

from sktl._utils.printable import printable

# From Wong's palette for the colour-blind (Nature Methods 8, 441, 2011), in such an
# order that neighbours differ in grey too. With 4 styles, no pair repeats in 20 curves.
COLORS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#D55E00")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# By kind of contender: colours of the same palette that differ in grey too.
KIND_LOOKS = {
    "classical": {"color": "#000000", "marker": "s"},
    "frozen features": {"color": "#0072B2", "marker": "o"},
    "fine-tuned": {"color": "#D55E00", "marker": "D"},
    "random weights": {"color": "#CC79A7", "marker": "^"},
}

# A name stands as it is: no formula, and nothing that TeX would run.
PLAIN = {"parse_math": False, "usetex": False}
LONGEST_LINE = 32  # characters of a name before it is broken
LINE_HEIGHT = 0.17  # inches, of small text
LEGEND_COLUMNS = 3  # more would not fit into 600 pixels


def load_pyplot():
    """Import matplotlib, an extra, where something is drawn."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib, which is missing: pip install matplotlib."
        ) from error
    return plt


def new_axes(width, height):
    """Axes of a new figure, in inches."""
    _, ax = load_pyplot().subplots(figsize=(width, height), layout="constrained")
    return ax


def broken(name):
    """A name in lines that leave room for what it names."""
    return textwrap.fill(printable(name), LONGEST_LINE)


def n_lines(labels):
    """How many lines of text labels are, together."""
    return sum(1 + label.count("\n") for label in labels)


def line_look(i, kind=None):
    """Colour, by kind if there is one, and dashes of the i-th curve of a drawing."""
    look = {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]}
    return look | {"color": KIND_LOOKS[kind]["color"]} if kind in KIND_LOOKS else look


class Curve(NamedTuple):
    """A line with a band; `look` numbers the contenders, `kind` is that of one."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    look: int
    kind: str | None = None


def draw_curves(ax, curves):
    """Draw curves by label, each with its label where it ends.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        None makes a new figure.
    curves : dict of str to Curve

    Returns
    -------
    ax : matplotlib.axes.Axes
    """
    if ax is None:
        lines = n_lines([broken(label) for label in curves])
        ax = new_axes(7.5, max(4.2, 1.2 + LINE_HEIGHT * lines))
    rest = list(curves.values())
    for curve in curves.values():
        style = line_look(curve.look, curve.kind)
        rest.pop(0)
        # Where curves coincide, later ones are thinner, so that all can be seen.
        n_same = sum(np.array_equal(curve.y, other.y) for other in rest)
        ax.plot(
            curve.x,
            curve.y,
            linewidth=1.8 + 2 * n_same,
            marker=MARKERS[curve.look % len(MARKERS)],
            markersize=5 + 4 * n_same,
            **style,
        )
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        ax.fill_between(curve.x, curve.low, curve.high, **band)
    _label_ends(ax, curves)
    return ax


def _label_ends(ax, curves):
    """Write to the right of the axes which curve ends there."""
    labels = [broken(label) for label in curves]
    ends = [_last_point(curve) for curve in curves.values()]
    low, high = ax.get_ylim()
    height = ax.get_position().height * ax.figure.get_figheight() / LINE_HEIGHT
    places = spread(
        [(y - low) / (high - low) if np.isfinite(y) else 0 for _, y in ends],
        [n_lines([label]) / height for label in labels],
    )
    for label, curve, end, place in zip(
        labels, curves.values(), ends, places, strict=True
    ):
        color = line_look(curve.look, curve.kind)["color"]
        # Too thin to be taken for a curve that goes on.
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0}
        found = np.isfinite(end[1])
        ax.annotate(
            label,
            end if found else (1.06, place),
            xycoords="data" if found else "axes fraction",
            xytext=(1.06, place),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops=leader | {"relpos": (0, 0.5), "shrinkB": 4} if found else None,
            verticalalignment="center",
            fontsize="small",
            **PLAIN,
        )


def _last_point(curve):
    """Where a curve ends, to the right of its last gap; NaN where it is nowhere."""
    (known,) = np.nonzero(np.isfinite(curve.y))
    return (curve.x[known[-1]], curve.y[known[-1]]) if len(known) else (np.nan, np.nan)


def spread(wanted, heights):
    """Move labels apart that would meet, each as little as can be.

    Least squares under the condition that each stands above the one before it by half
    the heights of both: isotonic regression, once these distances are taken off.

    Parameters
    ----------
    wanted : sequence of float
        Where the middle of each label is to be, from 0 to 1.
    heights : sequence of float

    Returns
    -------
    places : ndarray
        Between 0 and 1, if there is room for all.
    """
    wanted, heights = np.asarray(wanted), np.asarray(heights)
    order = np.argsort(wanted, kind="stable")
    below = np.cumsum(heights[order]) - heights[order] / 2
    room = max(0, 1 - heights.sum())
    places = np.empty(len(wanted))
    places[order] = below + isotonic_regression(
        wanted[order] - below, y_min=0, y_max=room
    )
    return places


def legend_above(ax, kinds, *others, side="left", **style):
    """Name above the axes, where nothing is drawn, what colours and lines mean.

    Parameters
    ----------
    kinds : iterable of str or None
        Of the contenders that are drawn; one alone has no need of a name.
    others : matplotlib.artist.Artist
        What else is drawn and has a label.
    side : {"left", "right"}
        The end of the axes where it begins.
    style : dict
        Of the lines that stand for kinds, besides their looks.
    """
    from matplotlib.lines import Line2D

    kinds = [kind for kind in dict.fromkeys(kinds) if kind in KIND_LOOKS]
    marks = [Line2D([], [], label=k, **KIND_LOOKS[k] | style) for k in kinds]
    marks = [*(marks if len(marks) > 1 else []), *others]
    if marks:
        plain_legend(
            ax,
            handles=marks,
            loc=f"lower {side}",
            bbox_to_anchor=(0 if side == "left" else 1, 1),
            ncols=min(len(marks), LEGEND_COLUMNS),
            fontsize="small",
            frameon=False,
            handletextpad=0.5,
            columnspacing=1.2,
            borderaxespad=0.2,
        )


def plain_legend(ax, **kwargs):
    """Make a legend whose names stand as they are."""
    for text in ax.legend(**kwargs).get_texts():
        text.set(**PLAIN)
