"""Drawing of a training, epoch by epoch. Matplotlib only inside `plot`."""

from itertools import pairwise
from numbers import Real

import numpy as np
from sklearn.exceptions import NotFittedError

from sktl._display.drawing import PLAIN, line_look, new_axes, plain_legend
from sktl._utils.printable import printable, shown

LOSSES = ("train_loss", "valid_loss")
# The score of `early_stopping`; skorch's callbacks say which others are scores.
SCORE = "valid_score"


class TrainingHistoryDisplay:
    """Losses, scores and phases of training, epoch by epoch.

    Use `from_estimator` or `from_history` to create one.

    Parameters
    ----------
    losses : dict of str to ndarray of shape (n_epochs,)
        NaN where an epoch recorded none.
    scores : dict of str to ndarray of shape (n_epochs,)
        Drawn on separate axes; may be empty.
    phases : sequence of str or None, of shape (n_epochs,)
        What was trained in each epoch; None if that did not change.
    kept : int or None, default=None
        Number of epochs that led to the final weights; 0 if these are the weights
        before the first epoch. None if that is not known.
    before : dict of str to float or None, default=None
        Losses and scores before the first epoch, drawn at epoch 0.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the losses.
    score_ax_ : matplotlib.axes.Axes or None
        The axes of the scores, below; None without scores.
    figure_ : matplotlib.figure.Figure

    Examples
    --------
    >>> from sktl import TrainingHistoryDisplay
    >>> history = [
    ...     {"train_loss": 0.9, "valid_loss": 0.8, "phase": "probe"},
    ...     {"train_loss": 0.5, "valid_loss": 0.7, "phase": "unfreeze layer4"},
    ... ]
    >>> display = TrainingHistoryDisplay.from_history(history)
    >>> display.losses["valid_loss"]
    array([0.8, 0.7])
    """

    def __init__(self, losses, scores, phases, kept=None, before=None):
        self.losses = losses
        self.scores = scores
        self.phases = list(phases)
        self.kept = kept
        self.before = before

    @classmethod
    def from_estimator(cls, estimator, *, scores=None, ax=None):
        """Draw the training history of a net.

        Parameters
        ----------
        estimator : skorch.NeuralNet
            A fitted net. If it is in a pipeline, pass the last step.
        scores : str, list of str or None, default=None
            As in `from_history`.
        ax : matplotlib.axes.Axes or None, default=None
            As in `plot`.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        NotFittedError
            If the net has not been trained.
        ValueError
            If training had no epochs, as with `strategy="linear_probe"`.
        """
        name = type(estimator).__name__
        if not hasattr(estimator, "history"):
            raise ValueError(
                f"estimator is of type {name}, which has no training history. "
                "Pass a fitted skorch net: the last step of a pipeline, or the "
                "best_estimator_ of a search."
            )
        if estimator.history is None:
            raise NotFittedError(
                f"This {name} instance is not fitted yet. Call 'fit' with appropriate "
                "arguments before drawing its history."
            )
        kept = getattr(estimator, "n_epochs_", None)
        return cls.from_history(estimator.history, scores=scores, kept=kept, ax=ax)

    @classmethod
    def from_history(cls, history, *, scores=None, kept=None, ax=None):
        """Draw a training history.

        Parameters
        ----------
        history : skorch.history.History or list of dict
            One row per epoch; rows may lack any of the columns. The column `phase` says
            what was trained. A column whose name ends in `_before` holds the value of
            another column before the first epoch.
        scores : str, list of str or None, default=None
            Columns of numbers to draw besides the losses. None draws `valid_score`,
            which `early_stopping` records, and the scores of skorch's scoring callbacks
            (columns for which there is another with `_best` at the end of its name).
        kept : int or None, default=None
            Number of epochs that led to the final weights, if known.
        ax : matplotlib.axes.Axes or None, default=None
            As in `plot`.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If no epoch has a loss, or a score is not a column of numbers.
        """
        rows = list(history)
        columns = _number_columns(rows)
        losses = [name for name in LOSSES if name in columns]
        if not losses:
            raise ValueError(
                f"The history has {len(rows)} epochs and no losses, so there is "
                "nothing to draw. strategy='linear_probe' has no epochs; other nets "
                "have a history once they are trained."
            )
        if scores is None:
            names = {name for row in rows for name in row}
            are_scores = {SCORE, *(n for n in columns if f"{n}_best" in names)}
            scores = [n for n in columns if n in are_scores.difference(LOSSES)]
        scores = [scores] if isinstance(scores, str) else scores
        for name in scores:
            if name not in columns:
                raise ValueError(
                    f"scores={shown(scores)}: {name!r} is not a column of numbers in "
                    f"this history, which has {', '.join(map(repr, columns))}."
                )
        before = {
            name: columns[f"{name}_before"][0]
            for name in [*losses, *scores]
            if f"{name}_before" in columns
        }
        display = cls(
            {name: columns[name] for name in losses},
            {name: columns[name] for name in scores},
            [row.get("phase") for row in rows],
            kept,
            before,
        )
        return display.plot(ax=ax)

    def plot(self, ax=None):
        """Draw the losses and, below, the scores, with a band for each phase.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Scores, if any, are drawn in the lower half of its place, and phases are
            named above it: create its figure with `layout="constrained"` to make room
            for the names. None makes a new figure.

        Returns
        -------
        self : TrainingHistoryDisplay
        """
        starts = self._phase_starts()
        if ax is None:
            height = (5 if self.scores else 3) + 0.15 * len(starts)
            ax = new_axes(7, height)
        self.ax_ = ax
        self.score_ax_ = _axes_below(ax) if self.scores else None
        self.figure_ = ax.figure
        self._draw_curves(ax, self.losses, "loss", first_style=0)
        if self.scores:
            ax.tick_params(labelbottom=False)
            label = next(iter(self.scores)) if len(self.scores) == 1 else "score"
            self._draw_curves(self.score_ax_, self.scores, label, len(self.losses))
        lowest = self.score_ax_ or ax
        lowest.set_xlabel("epoch", **PLAIN)
        lowest.locator_params(axis="x", integer=True, min_n_ticks=1)
        first = 0 if self.before or self.kept == 0 else 1
        lowest.set_xlim(first - 0.5, len(self.phases) + 0.5)
        self._mark_phases(starts)
        self._mark_kept()
        return self

    def _draw_curves(self, ax, curves, label, first_style):
        for i, (name, values) in enumerate(curves.items(), start=first_style):
            values = np.append((self.before or {}).get(name, np.nan), values)
            epochs = np.flatnonzero(np.isfinite(values))
            look = {"marker": ".", "label": name, **line_look(i)}
            ax.plot(epochs, values[epochs], **look)
        ax.set_ylabel(label, **PLAIN)
        plain_legend(ax)

    def _phase_starts(self):
        starts = []
        for epoch, phase in enumerate(self.phases, start=1):
            if phase is not None and (not starts or phase != starts[-1][1]):
                starts.append((epoch, phase))
        return starts

    def _mark_phases(self, starts):
        """Draw a band for each phase, every second one grey, with its name like a flag.

        Each flag flies lower than the one before, so that neither names nor poles meet,
        whatever the width of the figure and the length of the phases.
        """
        bands = pairwise([*starts, (len(self.phases) + 1, None)])
        for i, ((start, _), (end, _)) in enumerate(bands):
            for ax in filter(None, (self.ax_, self.score_ax_)):
                color = ("0.93", "1")[i % 2]
                ax.axvspan(start - 0.5, end - 0.5, color=color, zorder=-1, linewidth=0)
        # From the top of the axes to the top of the name, not only to its corner.
        pole = {"arrowstyle": "-", "relpos": (0, 1), "color": "0.6", "linewidth": 0.8}
        pole |= {"patchA": None, "shrinkA": 0, "shrinkB": 0}
        for row, (epoch, phase) in enumerate(reversed(starts)):
            self.ax_.annotate(
                f" {printable(phase)}",
                (epoch - 0.5, 1),
                xycoords=self.ax_.get_xaxis_transform(),
                xytext=(0, 3 + 11 * row),
                textcoords="offset points",
                fontsize=8,  # points; a row has 11
                arrowprops=pole,
                **PLAIN,
            )

    def _mark_kept(self):
        """Draw a line at the epoch whose weights were kept, if later ones were not."""
        if self.kept is None or self.kept == len(self.phases):
            return
        for ax in filter(None, (self.ax_, self.score_ax_)):
            label = f"weights kept: epoch {self.kept}"
            ax.axvline(self.kept, color="0.3", linestyle=":", label=label)
            plain_legend(ax)


def _number_columns(rows):
    """{name: ndarray of shape (n_rows,)} of the columns that hold a finite number."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: np.array([_number(row.get(name)) for row in rows]) for name in names
    }
    return {name: c for name, c in columns.items() if np.isfinite(c).any()}


def _number(value):
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_number else np.nan


def _axes_below(ax):
    """Give the lower half of the place of `ax` to new axes."""
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            "ax is not part of a grid, so its place cannot be divided between losses "
            "and scores. Create it with plt.subplots, or pass scores=[]."
        )
    upper, lower = place.subgridspec(2, 1)
    ax.set_subplotspec(upper)
    return ax.figure.add_subplot(lower, sharex=ax)
