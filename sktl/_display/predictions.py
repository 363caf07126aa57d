"""Numbers that were predicted, against the true ones. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import KIND_LOOKS, PLAIN, broken, load_pyplot
from sktl._display.table import score_form
from sktl._targets.kinds import TARGETS

MOST_PANELS, PANELS_PER_ROW = 6, 3
PANEL = 2.4  # inches
INK = 150  # points that are drawn in full; more of them are translucent


class PredictionsDisplay:
    """Truth against prediction: a panel for each contender, or for each of its outputs.

    Use `from_results` to create one.

    Parameters
    ----------
    truths, predictions : dict of str to ndarray of shape (n,) or (n, n_outputs)
        By contender; only the first few are drawn.
    titles : dict of str to str or None, default=None
        What to write above the panels of a contender, below its name.
    kinds : dict of str to str or None, default=None
        Kind of each contender, as in `TransferComparison.results_`; determines the
        colour.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    See Also
    --------
    sklearn.metrics.PredictionErrorDisplay : Draws this for one estimator, such as a
        fitted `FineTunedCNNRegressor`, by `kind="actual_vs_predicted"`.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import PredictionsDisplay
    >>> display = PredictionsDisplay(
    ...     {"ridge": np.array([1.0, 2.0])}, {"ridge": np.array([1.1, 1.8])})
    >>> display.predictions["ridge"]
    array([1.1, 1.8])
    """

    def __init__(self, truths, predictions, titles=None, kinds=None):
        self.truths = truths
        self.predictions = predictions
        self.titles = titles or {}
        self.kinds = kinds or {}

    @classmethod
    def from_results(cls, comparison):
        """Create a display from a comparison of numbers, the best contenders first.

        Parameters
        ----------
        comparison : TransferComparison

        Returns
        -------
        display : PredictionsDisplay

        Raises
        ------
        ValueError
            If the comparison was not of numbers, or every contender failed.
        """
        if not TARGETS[comparison.target_].has_scale:
            raise ValueError(
                f"PredictionsDisplay is for numbers, but this comparison predicts "
                f"{comparison.target_}. For labels, use "
                "sklearn.metrics.ConfusionMatrixDisplay.from_predictions with 'y' and "
                "'predict' of report.predictions_[name]."
            )
        if not comparison.predictions_:
            raise ValueError(
                "This comparison holds no predictions. Create it with "
                "compare_transfer, and at least one contender that does not fail."
            )
        results, found = comparison.results_, comparison.predictions_
        columns = results["contender"], results["mean_test_score"], results["kind"]
        # Predictions are those of the last training size.
        known = {
            name: values
            for name, *values in zip(*columns, strict=True)
            if name in found
        }
        names = sorted(
            known, key=lambda name: -np.nan_to_num(known[name][0], nan=-np.inf)
        )
        form = score_form([mean for mean, _ in known.values()])
        return cls(
            {name: found[name]["y"] for name in names},
            {name: found[name]["predict"] for name in names},
            {name: f"{comparison.scoring_} {known[name][0]:{form}}" for name in names},
            {name: known[name][1] for name in names},
        )

    def plot(self):
        """Draw the panels in a new figure; panels of the same output share their axes.

        The axes extend beyond the range of the truth by half that range on each side;
        predictions further off are drawn at the edge.

        Returns
        -------
        self : PredictionsDisplay
        """
        names = list(self.predictions)
        n_outputs = min(MOST_PANELS, len(np.atleast_2d(self.truths[names[0]].T)))
        names = names[: MOST_PANELS // n_outputs]
        panels = [(name, output) for name in names for output in range(n_outputs)]
        n_columns = n_outputs if n_outputs > 1 else min(PANELS_PER_ROW, len(names))
        shared = "col" if n_outputs > 1 else True
        n_rows = -(-len(panels) // n_columns)
        self.figure_, self.axes_ = load_pyplot().subplots(
            n_rows,
            n_columns,
            figsize=(PANEL * n_columns, (PANEL + 0.4) * n_rows),
            layout="constrained",
            squeeze=False,
            sharex=shared,
            sharey=shared,
        )
        for ax in self.axes_.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (name, output) in zip(self.axes_.flat, panels, strict=False):
            self._draw(ax, name, output, n_outputs)
        for ax in self.axes_[:, 0]:
            ax.set_ylabel("truth", **PLAIN)
        for ax in self.axes_[-1]:
            ax.set_xlabel("prediction", **PLAIN)
            ax.locator_params(axis="x", nbins=3)  # labels may be "-100000"
        return self

    def _draw(self, ax, name, output, n_outputs):
        truth = np.atleast_2d(self.truths[name].T)[output]
        predicted = np.atleast_2d(self.predictions[name].T)[output]
        color = KIND_LOOKS.get(self.kinds.get(name), {"color": "#000000"})["color"]
        ends = np.array([truth.min(), truth.max()])
        far = ends + np.array([-0.5, 0.5]) * (np.ptp(ends) or 1)
        ax.plot(ends, ends, color="0.6", linestyle=":", zorder=0)
        alpha = min(0.8, max(0.1, INK / len(truth)))
        ax.scatter(
            np.clip(predicted, *far),
            truth,
            s=12,
            color=color,
            alpha=alpha,
            linewidths=0,
        )
        # Titles of panels beside each other must not meet.
        words = self.titles.get(name, "").split(" ", 1)
        title = "\n".join(map(broken, words))
        if n_outputs > 1:
            title = f"output {output}, mean\n{title}"
        ax.set_title(f"{broken(name)}\n{title}".strip(), fontsize="x-small", **PLAIN)
