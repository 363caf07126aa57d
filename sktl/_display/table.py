"""Results as a table: printed, in a notebook, or as a data frame."""

from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sktl._utils.printable import printable


class Column(NamedTuple):
    """A title and a cell of text for each row; numbers stand to the right."""

    title: str
    cells: list
    is_number: bool


def words(title, values):
    """Make a column of words."""
    return Column(title, list(map(printable, values)), is_number=False)


def numbers(title, values, form=".3f", missing="-"):
    """Make a column of numbers, of which NaN are missing."""
    cells = [missing if np.isnan(x) else format(x, form) for x in values]
    return Column(title, cells, is_number=True)


def ranges(title, low, high, form=".3f", missing="-"):
    """Make a column of intervals, of which NaN are missing."""
    cells = [
        missing if np.isnan(ends).any() else " to ".join(format(x, form) for x in ends)
        for ends in zip(low, high, strict=True)
    ]
    return Column(title, cells, is_number=True)


def score_form(scores, least=3):
    """How scores are written: `least` decimals, and three digits of the best."""
    scores = np.asarray(scores, dtype=float)
    best = abs(scores[np.isfinite(scores)].max(initial=-np.inf))
    decimals = 2 - int(np.floor(np.log10(best))) if 0 < best < 1 else least
    return f".{max(least, decimals)}f"


def p_form(p_value, level=0.05):
    """How a p-value is written: on its own side of the level, if need be with digits.

    Returns
    -------
    text : str
        As "= 0.012", or "< 0.001".
    """
    if p_value < 0.001:
        return "< 0.001"
    texts = (f"{p_value:.{digits}g}" for digits in (2, 3, 4, 5))
    same_side = (t for t in texts if (float(t) < level) == (p_value < level))
    return f"= {next(same_side, f'{p_value:g}')}"


def text_table(columns):
    """Lay out columns as lines of text.

    Parameters
    ----------
    columns : list of Column

    Returns
    -------
    lines : list of str
        The titles, then a line per row; all of one length.
    """
    aligned = []
    for title, cells, is_number in columns:
        width = max(map(len, [title, *cells]))
        align = str.rjust if is_number else str.ljust
        aligned.append([align(cell, width) for cell in (title, *cells)])
    return list(map("  ".join, zip(*aligned, strict=True)))


class TableMixin:
    """What a result shows of itself: a table, and remarks below it.

    A class has `results_`. It says by `_columns()` which columns are shown, by
    `_remarks()` which lines stand below, and by `_index()` which names of `results_`
    tell the rows of a frame apart.
    """

    def _remarks(self):
        return []

    def to_frame(self):
        """Return `results_` as a pandas DataFrame, a row per entry.

        Returns
        -------
        frame : pandas.DataFrame
            Indexed by contender (and training size, if there are several), backbone
            or layer, in the order of the table. Needs pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas, which is missing: pip install pandas."
            ) from error
        return pd.DataFrame(self.results_).set_index(self._index())

    def __str__(self):
        remarks = self._printable_remarks()
        return "\n".join(
            [*text_table(self._columns()), *([""] if remarks else []), *remarks]
        )

    __repr__ = __str__

    def _repr_html_(self):
        """Show the same in a notebook."""
        template = templates().get_template("result.html.jinja")
        remarks = self._printable_remarks()
        return template.render(columns=self._columns(), remarks=remarks)

    def _printable_remarks(self):
        return [printable(remark, keep="\n") for remark in self._remarks()]


@cache
def templates():
    """The templates of this folder; whatever is put into one is escaped."""
    environment = Environment(
        loader=PackageLoader("sktl", "_display"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["rows_by_name"] = _rows_by_name
    return environment


def _rows_by_name(columns):
    """Pairs of a cell of the first column and the rows of the others beside it."""
    rows = zip(*(column.cells for column in columns), strict=True)
    groups = groupby(rows, key=lambda row: row[0])
    return [(name, [row[1:] for row in of_name]) for name, of_name in groups]
