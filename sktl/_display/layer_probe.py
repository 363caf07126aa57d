"""Drawing of what a probe of the layers found. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import COLORS, PLAIN, new_axes, plain_legend
from sktl._utils.printable import printable

# Longer names than this would run into each other if they stood side by side.
LONGEST_LEVEL_NAME = 8


class LayerProbeDisplay:
    """Scores of the layers of a network, with the advice on what to use and train.

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
        As `LayerProbe.recommendation_`; its `strategy`, `unfreeze_from` and `layers`
        are drawn.

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
    ...     recommendation={"strategy": "lp_ft", "unfreeze_from": "layer1",
    ...                     "layers": "flatten"})
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
        """Draw the scores, with a ring around the advised layer, and what to train.

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
        ax.errorbar(
            x,
            self.means,
            self.errors,
            color=COLORS[0],
            marker="o",
            capsize=3,
            label="mean over folds \N{PLUS-MINUS SIGN} standard error",
        )
        self._mark_layers(ax)
        self._mark_training(ax)
        # Above the axes, where no curve can be.
        plain_legend(ax, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        look = slant if longest > LONGEST_LEVEL_NAME else {}
        ax.set_xticks(x, list(map(printable, self.layers)), **look, **PLAIN)
        ax.set_xlim(-0.5, n_layers - 0.25)  # the rest is the head
        ax.set_xlabel("layer whose output is probed", **PLAIN)
        ax.set_ylabel(self.scoring, **PLAIN)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _mark_layers(self, ax):
        """A ring around the advised layer, and a square around a better mean."""
        chosen, best = self.layers.index(self.recommendation["layers"]), self._best()
        ring = {"linestyle": "none", "marker": "o", "markerfacecolor": "none"}
        ring |= {"markersize": 14, "markeredgecolor": "black"}
        why = "best mean"
        if chosen != best:
            why = "last layer not clearly worse than the best"
            label = f"best mean: {printable(self.layers[best])}"
            dots = {"marker": "s", "markersize": 13, "markeredgecolor": COLORS[4]}
            ax.plot(best, self.means[best], label=label, **ring | dots)
        label = f"advised: {printable(self.layers[chosen])} ({why})"
        ax.plot(chosen, self.means[chosen], label=label, **ring)

    def _best(self):
        """The layer with the best mean; if several are equal, the advised one."""
        chosen = self.layers.index(self.recommendation["layers"])
        best = int(np.argmax(self.means))
        return chosen if self.means[chosen] == self.means[best] else best

    def _mark_training(self, ax):
        first = self._first_trained()
        what = "only a linear model"
        if first < len(self.stages):
            stage = printable(self.stages[first])
            what = f"{self.recommendation['strategy']}, from {stage}"
        ax.axvspan(first - 0.5, len(self.stages), color="0.88", zorder=0)
        ax.axvline(first - 0.5, color="0.3", linestyle="--", label=f"train: {what}")

    def _first_trained(self):
        if self.recommendation["strategy"] == "linear_probe":
            return len(self.stages)
        return self.stages.index(self.recommendation["unfreeze_from"])
