"""Errors that name rows of the user's `X`, not of the part of it that was read."""

import contextlib

from sktl.exceptions import ImageReadError


@contextlib.contextmanager
def rows_named(rows):
    """Rename the rows of unreadable images that are told in here.

    Parameters
    ----------
    rows : sequence of int
        The rows of `X` that the part holds, in its order.
    """
    try:
        yield
    except ImageReadError as error:
        if hasattr(error, "rows_are_named"):  # by the part that was read within this
            raise
        failures = [(int(rows[i]), path, why) for i, path, why in error.failures]
        named = ImageReadError(failures)
        named.rows_are_named = True
        raise named from error
