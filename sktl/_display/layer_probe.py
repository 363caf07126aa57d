"""Drawing of what a probe of the layers found. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import COLORS, PLAIN, new_axes, plain_legend
from sktl._utils.printable import printable

# Longer names than this would run into each other if they stood side by side.
LONGEST_LEVEL_NAME = 8


class LayerProbeDisplay:
    """Scores of the layers of a network, with the layers to use together.

    Use `from_results` or `LayerProbe.plot` to create one.

    Parameters
    ----------
    stages, layers : sequence of str
        The stages of the network, and the layer at which each ends.
    means, errors : ndarray of shape (n_stages,)
        Mean score and its standard error.
    scoring : str
        Name of the score.
    recommendation : dict
        As `LayerProbe.recommendation_`; its `layers`, `reason`, `mean_test_score` and
        `se_test_score` are drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    Examples
    --------
    >>> from sktl import LayerProbeDisplay
    >>> display = LayerProbeDisplay(
    ...     ["conv1", "layer1"], ["maxpool", "flatten"], [0.6, 0.9], [0.02, 0.01],
    ...     scoring="accuracy",
    ...     recommendation={"layers": ["flatten"], "reason": "last third",
    ...                     "mean_test_score": 0.9, "se_test_score": 0.01})
    >>> display.means
    array([0.6, 0.9])
    """

    def __init__(self, stages, layers, means, errors, scoring, recommendation):
        self.stages = list(stages)
        self.layers = list(layers)
        self.means = np.asarray(means)
        self.errors = np.asarray(errors)
        self.scoring = scoring
        self.recommendation = recommendation

    @classmethod
    def from_results(cls, probe):
        """Create a display from the results of a probe.

        Parameters
        ----------
        probe : LayerProbe

        Returns
        -------
        display : LayerProbeDisplay
        """
        results = probe.results_
        return cls(
            results["stage"],
            results["layer"],
            results["mean_test_score"],
            results["se_test_score"],
            probe.scoring_,
            probe.recommendation_,
        )

    def plot(self, ax=None):
        """Draw the score of each layer, and that of the advised layers together.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            None makes a new figure.

        Returns
        -------
        self : LayerProbeDisplay
        """
        n_layers, longest = len(self.layers), max(map(len, self.layers))
        if ax is None:
            # A slanted letter of the names takes 0.06 inches of the height.
            ax = new_axes(max(6, 1.5 + 0.4 * n_layers), 3.7 + 0.06 * longest)
        x = np.arange(n_layers)
        label = "each layer (mean over folds \N{PLUS-MINUS SIGN} standard error)"
        look = {"marker": "o", "capsize": 3, "label": label, "color": COLORS[0]}
        ax.errorbar(x, self.means, self.errors, **look)
        self._draw_advice(ax)
        # Above the axes, where no curve can be.
        plain_legend(ax, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        look = slant if longest > LONGEST_LEVEL_NAME else {}
        ax.set_xticks(x, list(map(printable, self.layers)), **look, **PLAIN)
        ax.set_xlim(-0.5, n_layers - 0.5)
        ax.set_xlabel("layer whose output is probed", **PLAIN)
        ax.set_ylabel(self.scoring, **PLAIN)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _draw_advice(self, ax):
        """A line at the score of the advised layers, over all of them."""
        advice, last = self.recommendation, len(self.layers) - 1
        first, *others = advice["layers"]
        place = self.layers.index(first)
        span = (place - 0.3, (last if others else place) + 0.3)
        mean, error = advice["mean_test_score"], advice["se_test_score"]
        where = "from {} on, together" if others else "{}"
        label = f"advised: {where.format(printable(first))}\n({advice['reason']})"
        ax.plot(span, (mean, mean), color=COLORS[1], linestyle="--", label=label)
        ax.fill_between(
            span, mean - error, mean + error, color=COLORS[1], alpha=0.2, linewidth=0
        )
