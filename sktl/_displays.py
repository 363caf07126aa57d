"""Drawing of results, by scikit-learn's convention. Matplotlib only inside `plot`."""

import numpy as np

# From Wong's palette for all eyes (Nature Methods 8, 441, 2011), so ordered that
# neighbours differ in grey too. With 4 styles, 20 curves before a pair comes again.
COLORS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#D55E00")
STYLES = ("-", "--", "-.", ":")


class TransferComparisonDisplay:
    """Mean scores of contenders with their standard errors.

    Use `from_results` or `TransferComparison.plot` to make one.

    Parameters
    ----------
    contenders : sequence of str
    means, errors : ndarray of shape (n_contenders,)
        Mean score and its standard error.
    scoring : str
        What the scores are.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    Examples
    --------
    >>> from sktl import TransferComparisonDisplay
    >>> display = TransferComparisonDisplay(
    ...     ["raw pixels", "frozen features"], [0.8, 0.9], [0.02, 0.01], "accuracy")
    >>> display.means
    array([0.8, 0.9])
    """

    def __init__(self, contenders, means, errors, scoring):
        self.contenders = list(contenders)
        self.means = np.asarray(means)
        self.errors = np.asarray(errors)
        self.scoring = scoring

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
        )

    def plot(self, ax=None):
        """Draw one line per contender, the first on top.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            None makes a new figure.

        Returns
        -------
        self : TransferComparisonDisplay
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(
                figsize=(7, 1 + 0.4 * len(self.contenders)), layout="constrained"
            )
        rows = np.arange(len(self.contenders))
        ax.barh(rows, self.means, xerr=self.errors, color="0.75", ecolor="black")
        for row, mean, error in zip(rows, self.means, self.errors, strict=True):
            ax.text(mean + error, row, f" {mean:.3f}", va="center", fontsize="small")
        ax.set_yticks(rows, self.contenders)
        # Not invert_yaxis, which on shared axes would turn every second panel back.
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel(f"{self.scoring} (mean over folds, bar: standard error)")
        ax.margins(x=0.15)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self
