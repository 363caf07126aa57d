"""What a `fit` tells scikit-learn's callbacks: that it is a task, with subtasks.

scikit-learn has callbacks from 1.9 on (`sklearn.callback`), and calls their interface
experimental. With an older one a `fit` tells nobody.
"""

from dataclasses import dataclass, field

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn 1.8

    class CallbackSupportMixin:
        """Offers no `set_callbacks`, so that callers see there are none."""

    def with_callbacks(method):
        """Decorate nothing."""
        return method


__all__ = ["CallbackSupportMixin", "FitTask", "start_fit", "with_callbacks"]


@dataclass(frozen=True)
class FitTask:
    """A `fit`, or an epoch of one.

    Parameters
    ----------
    estimator : estimator
    context : sklearn.callback.CallbackContext or None
        None where there are no callbacks to tell.
    data : dict
        `X`, `y` and `metadata`, which callbacks may ask for.
    """

    estimator: object
    context: object
    data: dict = field(default_factory=dict)

    def subtask(self, name):
        """Begin a part of this task."""
        context = self.context and self.context.subcontext(task_name=name)
        return FitTask(self.estimator, context, self.data).begin()

    def begin(self):
        """Tell that the task begins."""
        if self.context is not None:
            self.context.call_on_fit_task_begin(estimator=self.estimator, **self.data)
        return self

    def end(self):
        """Tell that the task is at its end.

        Returns
        -------
        stop : bool
            Whether a callback asks not to go on with the next one.
        """
        if self.context is None:
            return False
        # A copy of the estimator as it is can predict: nothing else is needed for it.
        return self.context.call_on_fit_task_end(
            estimator=self.estimator, **self.data, reconstruction_attributes={}
        )


def start_fit(estimator, X, y=None, sample_weight=None, n_subtasks=0):
    """Begin the task that is the estimator's `fit`.

    Parameters
    ----------
    estimator : CallbackSupportMixin
        Its `fit` is decorated by `with_callbacks`.
    X, y, sample_weight : object
        What `fit` was given.
    n_subtasks : int or None
        How many subtasks there are at most; None where that is not known.

    Returns
    -------
    task : FitTask
    """
    if not hasattr(estimator, "set_callbacks"):
        return FitTask(estimator, None)
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    context = estimator._init_callback_context(max_subtasks=n_subtasks)
    return FitTask(estimator, context, {"X": X, "y": y, "metadata": metadata}).begin()
