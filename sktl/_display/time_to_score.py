"""Scores over the epochs or seconds of a training. Matplotlib only inside `plot`."""

import numpy as np

from sktl._display.drawing import PLAIN, Curve, draw_curves, legend_above
from sktl._utils.printable import shown


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
    kinds : dict of str to str or None, default=None
        What each contender takes from a network, as in `TransferComparison.results_`;
        it gives the colour.

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
            raise ValueError(f"over={shown(over)} must be 'epoch' or 'seconds'.")
        if not comparison.curves_:
            raise ValueError(
                "No contender of this comparison was trained by epochs: there are no "
                "curves to draw. Add one, such as a FineTunedCNNClassifier."
            )
        results, effects = comparison.results_, comparison.effects_
        pairs = zip(effects.get("twin", ()), effects.get("kind", ()), strict=True)
        references = {twin for twin, kind in pairs if kind == "from scratch"}
        curves = {n: _mean_curve(s, over) for n, s in comparison.curves_.items()}
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
            The names of curves stand to the right of it, and what colours mean above
            it: a figure with `layout="constrained"` makes room for them. None makes a
            new figure.

        Returns
        -------
        self : TimeToScoreDisplay
        """
        curves = {}
        for name, (x, means, errors) in self.curves.items():
            x, means, errors = map(np.asarray, (x, means, errors))
            label = f"{name} (failed)" if np.isnan(means).all() else name
            look, kind = self.contenders.index(name), self.kinds.get(name)
            curves[label] = Curve(x, means, means - errors, means + errors, look, kind)
        ax = draw_curves(ax, curves)
        look = {"color": "0.4", "linestyle": ":", "zorder": 0}
        look["label"] = "final score from scratch"
        ends = [self.curves[name][1][-1] for name in self.references]
        finals = [ax.axhline(end, **look) for end in ends]
        legend_above(ax, map(self.kinds.get, self.curves), *finals[:1], marker="")
        ax.set_xlabel(
            {"epoch": "epochs", "seconds": "seconds of training"}[self.over], **PLAIN
        )
        ax.set_ylabel(f"{self.scoring}, mean and standard error", **PLAIN)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


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
