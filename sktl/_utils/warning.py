"""Warnings at the line of the user's code that led to them."""

import sys
import warnings


def warn_caller(message, category, warned=None):
    """Warn at the line of the user's code that led here.

    Between that line and ours lie scikit-learn's wrappers and, in a pipeline, its
    steps; their depth varies, so a fixed `stacklevel` would point into them. With a
    set `warned`, which is added to, each line is warned once of each message.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(
        ("sktl.", "sklearn.", "skorch.", "joblib.")
    ):
        frame, level = frame.f_back, level + 1
    site = message, frame.f_code.co_filename, frame.f_lineno
    if warned is not None and site in warned:
        return
    if warned is not None:
        warned.add(site)
    warnings.warn(message, category, stacklevel=level)
