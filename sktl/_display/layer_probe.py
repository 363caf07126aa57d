"""Drawing of what a probe of the layers found. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import COLORS, load_pyplot

# Longer names than this would run into each other if they stood side by side.
LONGEST_LEVEL_NAME = 8


class LayerProbeDisplay:
    """Scores over the layers of a network, with what is advised to use and to train.

    Use `from_results` or `LayerProbe.plot` to make one.

    Parameters
    ----------
    stages, layers : sequence of str
        The stages of the network, and the layer at which each ends.
    means, errors : ndarray of shape (n_stages,)
        Mean score and its standard error.
    scoring : str
        What the scores are.
    recommendation : dict
        As `LayerProbe.recommendation_`; `strategy`, `unfreeze_from` and `layers` of it
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
        """Take the numbers and the advice of a probe.

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
        """Draw the curve, a ring around the best layer, and grey behind what to train.

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
            size = max(6, 1.5 + 0.4 * n_layers), 3.5 + 0.06 * longest
            _, ax = load_pyplot().subplots(figsize=size, layout="constrained")
        x = np.arange(n_layers)
        ax.errorbar(
            x,
            self.means,
            self.errors,
            color=COLORS[0],
            marker="o",
            capsize=3,
            label="mean over folds, bar: standard error",
        )
        self._mark_advice(ax)
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(x, self.layers, **(slant if longest > LONGEST_LEVEL_NAME else {}))
        ax.set_xlim(-0.5, n_layers - 0.25)  # the rest is the head
        ax.set_xlabel("linear probe on the output of")
        ax.set_ylabel(self.scoring)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _mark_advice(self, ax):
        advice = self.recommendation
        best = self.layers.index(advice["layers"])
        ax.plot(
            best,
            self.means[best],
            linestyle="none",
            marker="o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor="black",
            label=f"best layer: {self.layers[best]}",
        )
        first = self._first_trained()
        what = "nothing but a linear model"
        if first < len(self.stages):
            what = f"{advice['strategy']}, from {self.stages[first]}"
        ax.axvspan(first - 0.5, len(self.stages), color="0.88", zorder=0)
        ax.axvline(first - 0.5, color="0.3", linestyle="--", label=f"trained: {what}")
        # Above the axes, where no curve can be.
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)

    def _first_trained(self):
        if self.recommendation["strategy"] == "linear_probe":
            return len(self.stages)
        return self.stages.index(self.recommendation["unfreeze_from"])
