"""Scores over the epochs or seconds of a training. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import PLAIN, Curve, draw_curves, legend_above


class TimeToScoreDisplay:
    """Scores during training, by epochs or seconds, with their 95 % intervals.

    The intervals are computed from the splits alone. Those in the table of the
    comparison also use how much each row moves the score, and are often narrower.

    Shows how soon one network reaches the final score of another, which is drawn as a
    dotted line: one of the classic measures of transfer (Taylor & Stone, JMLR 2009,
    "time to threshold"). Use `from_results` to create one.

    Parameters
    ----------
    curves : dict of str to tuple of (x, means, errors)
        For each contender: epochs or seconds, of shape (n_points,); the mean score over
        splits, of the same shape; and how far its interval reaches to both sides or, of
        shape (2, n_points), below and above.
    contenders : sequence of str
        All contenders of the comparison. Each then looks the same in all its plots.
    references : sequence of str
        Contenders whose final score is drawn as a line.
    scoring : str
        Name of the score.
    over : {"epoch", "seconds"}
        What `x` is.
    kinds : dict of str to str or None, default=None
        Kind of each contender, as in `TransferComparison.results_`; determines the
        colour.

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

    def __init__(self, curves, contenders, references, scoring, over, *, kinds=None):
        self.curves = curves
        self.contenders = list(contenders)
        self.references = list(references)
        self.scoring = scoring
        self.over = over
        self.kinds = kinds or {}

    @classmethod
    def from_results(cls, comparison, over="epoch"):
        """Create a display from a comparison, at its largest training size.

        Parameters
        ----------
        comparison : TransferComparison
        over : {"epoch", "seconds"}, default="epoch"
            What is on the x axis. Epochs of one network may take longer than those of
            another.

        Returns
        -------
        display : TimeToScoreDisplay

        Raises
        ------
        ValueError
            If no contender was trained by epochs, or `over` is invalid.

        Notes
        -----
        The curves are those of `TransferComparison.mean_curves`. If a split failed,
        there is no mean to draw.
        """
        curves = comparison.mean_curves(over)  # refuses another `over`
        if not comparison.curves_:
            raise ValueError(
                "No contender of this comparison was trained by epochs, so there are "
                "no curves to draw. Add one, such as a FineTunedCNNClassifier."
            )
        results, effects = comparison.results_, comparison.effects_
        pairs = zip(effects.get("twin", ()), effects.get("kind", ()), strict=True)
        references = {twin for twin, kind in pairs if kind == "from scratch"}
        kinds = zip(results["contender"], results.get("kind", ()), strict=False)
        return cls(
            curves,
            dict.fromkeys(results["contender"]),
            [n for n in curves if n in references and np.isfinite(curves[n][1][-1])],
            comparison.scoring_,
            over,
            kinds=dict(kinds),
        )

    def plot(self, ax=None):
        """Draw a curve per contender.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Curves are labelled to its right, and the legend is above it: create its
            figure with `layout="constrained"` to make room for both. None makes a new
            figure.

        Returns
        -------
        self : TimeToScoreDisplay
        """
        curves = {}
        for name, (x, means, errors) in self.curves.items():
            x, means = np.asarray(x), np.asarray(means)
            below, above = np.broadcast_to(errors, (2, len(x)))
            label = f"{name} (failed)" if np.isnan(means).all() else name
            look, kind = self.contenders.index(name), self.kinds.get(name)
            curves[label] = Curve(x, means, means - below, means + above, look, kind)
        ax = draw_curves(ax, curves)
        look = {"color": "0.4", "linestyle": ":", "zorder": 0}
        look["label"] = "final score from scratch"
        ends = [self.curves[name][1][-1] for name in self.references]
        finals = [ax.axhline(end, **look) for end in ends]
        legend_above(ax, map(self.kinds.get, self.curves), *finals[:1], marker="")
        if self.over == "epoch":
            ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        ax.set_xlabel(
            {"epoch": "epochs", "seconds": "seconds of training"}[self.over], **PLAIN
        )
        ax.set_ylabel(f"{self.scoring}, mean and 95 % interval", **PLAIN)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self
