"""What is read is a part of the user's `X`: its rows are named by those of `X`."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class _Part(NamedTuple):
    name: str
    rows: list


_part = ContextVar("part", default=None)


@contextmanager
def reading(name, rows):
    """Tell what reads images in this context which rows of `X` they are.

    Parameters
    ----------
    name : str
        Such as "training part".
    rows : sequence of int
        The rows of `X` that it holds, in its order.
    """
    token = _part.set(_Part(name, [int(row) for row in rows]))
    try:
        yield
    finally:
        _part.reset(token)


def rows_of_X(n_rows):
    """Return the row of `X` of each of so many rows; outside of a part, they are `X`.

    Fewer rows than the part has are a choice from it that is not known, such as a fold
    of a search: they keep their own numbers.
    """
    part = _part_of(n_rows)
    return range(n_rows) if part is None else part.rows


def note_row(error, row, n_rows):
    """Add to an error that names one of so many rows which row of `X` this is."""
    part = _part_of(n_rows)
    if part is not None:
        error.add_note(f"Row {row} of the {part.name} is row {part.rows[row]} of X.")
    return error


def _part_of(n_rows):
    part = _part.get()
    return part if part is not None and len(part.rows) == n_rows else None
