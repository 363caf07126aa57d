"""Errors and warnings name rows of the user's `X`, not of the part that was read."""

import contextlib
import re

from sktl._images.forms import rows_of_part
from sktl.exceptions import ImageReadError


@contextlib.contextmanager
def rows_named(part, rows):
    """Make what is raised or warned of in this context name rows of `X`.

    An `ImageReadError` says in its failures which rows it means; what others write
    about a row gets a note.

    Parameters
    ----------
    part : str
        Such as "training part".
    rows : sequence of int
        The rows of `X` that it holds, in its order.
    """
    token = rows_of_part.set(rows)
    try:
        yield
    except Exception as error:
        if hasattr(error, "rows_are_named"):  # of a part that was read within this one
            raise
        named = error
        if isinstance(error, ImageReadError):
            named = ImageReadError([(int(rows[i]), *why) for i, *why in error.failures])
        else:
            for row in dict.fromkeys(re.findall(r"\brow (\d+)", str(error))):
                if int(row) < len(rows):
                    of_all = rows[int(row)]
                    named.add_note(f"Row {row} of the {part} is row {of_all} of X.")
        named.rows_are_named = True
        raise named from error.__cause__
    finally:
        rows_of_part.reset(token)
