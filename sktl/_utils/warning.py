"""Warnings at the line of the user's code that led to them."""

import sys
import warnings
from contextlib import contextmanager
from contextvars import ContextVar

_warned_here = ContextVar("warned_here", default=None)


@contextmanager
def silenced(message):
    """Leave out warnings for users that begin like this regular expression."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, UserWarning)
        yield


@contextmanager
def warning_once():
    """Warn each line once of each thing in here, however many fits lead to it.

    Python's own rule would not do: scikit-learn sets the filters anew for each fold,
    whereupon Python forgets what it has warned of.
    """
    token = _warned_here.set(set())
    try:
        yield
    finally:
        _warned_here.reset(token)


def warn_caller(message, category, warned=None, *, about=None):
    """Warn at the line of the user's code that led here.

    Between that line and ours lie scikit-learn's wrappers and, in a pipeline, its
    steps; their depth varies, so a fixed `stacklevel` would point into them. With a
    set `warned`, which is added to, each line is warned once of each message; or of
    what it is `about`, where the message has numbers that differ between folds.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(
        ("sktl.", "sklearn.", "skorch.", "joblib.", "contextlib")
    ):
        frame, level = frame.f_back, level + 1
    warned = _warned_here.get() if warned is None else warned
    site = about or message, frame.f_code.co_filename, frame.f_lineno
    if warned is not None and site in warned:
        return
    warnings.warn(message, category, stacklevel=level)
    if warned is not None:
        warned.add(site)  # now: a filter may have made it an error
