"""Draw the README's figure: six models on handwritten digits, with few and more labels.

    python examples/tools/draw_main_job.py

It draws the table of the main job (`examples/compare_digits.py`) in the guide's page
`getting_started.md`, so that figure and table have the same numbers. A few seconds.
"""

# %%
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sktl import TransferComparisonDisplay

GUIDE = Path(__file__).resolve().parents[1] / "guide"
TABLE, FIGURE = GUIDE / "getting_started.md", GUIDE / "main_job.svg"
ROWS = (50, 200)  # 5 and 20 labels of each of ten digits
N_DRAWS, CHANCE = 3, 0.1
KINDS = {
    "raw": "classical",
    "frozen": "frozen features",
    "fine-tuned": "fine-tuned",
    "same": "random weights",
}
CELL = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")


# %%
def read_table(text):
    """Names of the models, and an array (models, sizes, 3): mean and interval."""
    section = text.partition("## A full comparison")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if CELL.search(line)]
    names = [name.strip() for name, *_ in rows]
    cells = [[CELL.search(cell).groups() for cell in row] for _, *row in rows]
    return names, np.array(cells, dtype=float)


def make_display(names, cells):
    mean, low, high = cells.reshape(-1, 3).T
    names = np.repeat(names, len(ROWS))
    return TransferComparisonDisplay(
        names,
        mean,
        [mean - low, high - mean],
        "accuracy",
        np.tile(ROWS, len(cells)),
        kinds=[KINDS[name.split()[0]] for name in names],
        chance=CHANCE,
        n_splits=N_DRAWS,
    )


# %%
def main():
    names, cells = read_table(TABLE.read_text("utf-8"))
    with plt.rc_context({"svg.hashsalt": "sktl", "svg.fonttype": "path"}):
        figure = make_display(names, cells).plot().figure_
        figure.savefig(FIGURE, metadata={"Date": None, "Creator": None})
    print(f"Figure: {FIGURE}")


if __name__ == "__main__":
    main()
