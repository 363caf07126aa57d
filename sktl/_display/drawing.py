"""What the drawings share: colours, marks, names that are no formulas."""

import textwrap

import numpy as np

# From Wong's palette for all eyes (Nature Methods 8, 441, 2011), so ordered that
# neighbours differ in grey too. With 4 styles, 20 curves before a pair comes again.
COLORS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#D55E00")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LONGEST_LINE = 40  # characters of a name before it is broken


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


def new_axes(width, height):
    """Axes of a new figure, in inches."""
    _, ax = load_pyplot().subplots(figsize=(width, height), layout="constrained")
    return ax


def broken(name):
    """A name in lines that leave room for what it names."""
    return textwrap.fill(str(name), LONGEST_LINE)


def draw_bands(ax, curves):
    """Draw {name: (look, x, means, errors)}; return the axes and {name: line}."""
    if ax is None:
        n_lines = sum(1 + broken(name).count("\n") for name in curves)
        ax = new_axes(9, max(4.5, 0.5 + 0.18 * n_lines))
    lines = {}
    for name, (look, x, *curve) in curves.items():
        means, errors = map(np.asarray, curve)
        style = line_look(look) | {"marker": MARKERS[look % len(MARKERS)]}
        (lines[name],) = ax.plot(x, means, markersize=5, **style)
        below, above = means - errors, means + errors
        ax.fill_between(x, below, above, color=style["color"], alpha=0.2, linewidth=0)
    return ax, lines


def legend_beside(ax, lines):
    """Name the lines to the right of the axes, in the order in which they end there."""

    def end(name):
        known = [value for value in lines[name].get_ydata() if np.isfinite(value)]
        return known[-1] if known else -np.inf

    names = sorted(lines, key=end, reverse=True)
    legend = ax.legend(
        [lines[name] for name in names],
        [broken(name) for name in names],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        handlelength=4,  # long enough to tell the dashes apart
        fontsize="small",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
