"""What the results show of themselves: one table, printed or in a notebook."""

import re
import sys
from html import unescape

import numpy as np
import pytest

from sktl import BackboneRanking, LayerProbe, TransferComparison
from sktl._display.table import p_form

HOSTILE = "<b>bold</b>, a line\nend, no UTF-8 \udcff"
NAMES = np.array([HOSTILE, "plain"], dtype=object)


def comparison(findings=()):
    return TransferComparison(
        {
            "contender": NAMES,
            "train_size": np.array([80, 80]),
            "split0_test_score": np.array([0.7, np.nan]),
            "split1_test_score": np.array([0.8, 0.9]),
            "mean_test_score": np.array([0.75, np.nan]),
            "se_test_score": np.array([0.05, np.nan]),
            "mean_fit_time": np.array([0.1, np.nan]),
            "mean_score_time": np.array([0.0, np.nan]),
            "error": np.array(["", "split 0: ValueError: no"], dtype=object),
        },
        "accuracy",
        findings=findings,
    )


def ranking():
    scores = {"score": np.array([0.5, 0.25]), "n_features": np.array([512, 4096])}
    times = {"extraction_time": np.array([1.5, 9.0])}
    return BackboneRanking({"backbone": NAMES} | scores | times, "logme")


def probe():
    scores = [[0.5, 0.54], [0.7, 0.74]]
    return LayerProbe(NAMES, NAMES, [8, 128], scores, scores[1], "accuracy")


@pytest.mark.parametrize("make_result", [comparison, ranking, probe])
def test_print_and_notebook_show_the_same_cells(make_result):
    result = make_result()
    table, *_ = str(result).split("\n\n")
    assert len({len(line) for line in table.splitlines()}) == 1
    printed = [re.split(" {2,}", line.strip()) for line in table.splitlines()]
    shown = result._repr_html_()
    cells = [unescape(c) for c in re.findall("<t[hd] [^>]*>(.*?)</t", shown)]
    assert cells == [cell for row in printed for cell in row]
    assert repr(result) == str(result)


@pytest.mark.parametrize("make_result", [comparison, ranking, probe])
def test_hostile_name_is_shown_as_plain_text(make_result):
    """No markup, no second line, nothing that a terminal or a file refuses."""
    result = make_result()
    assert r"<b>bold</b>, a line\nend, no UTF-8 \udcff" in str(result)
    assert "<b>" not in result._repr_html_()
    for text in (str(result), result._repr_html_()):
        text.encode()


def test_remarks_stand_below_the_table():
    findings = ["Negative transfer: 1 < 2.", "Failed on a\udcff:\n  row 3: why"]
    result = comparison(findings)
    assert str(result).endswith(
        "\n\nNegative transfer: 1 < 2.\nFailed on a\\udcff:\n  row 3: why"
    )
    shown = result._repr_html_()
    assert shown.index("</table>") < shown.index("1 &lt; 2.")
    result.findings_.clear()
    assert str(result).count("\n") == 2


@pytest.mark.parametrize("make_result", [comparison, ranking, probe])
def test_frame_without_pandas_is_refused_with_what_to_install(make_result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas.* pip install pandas"):
        make_result().to_frame()


@pytest.mark.parametrize(
    ("p_value", "text"),
    [(0.0004, "< 0.001"), (0.0123, "= 0.012"), (0.0497, "= 0.0497"), (0.05, "= 0.05")],
)
def test_p_value_is_written_on_its_side_of_the_level(p_value, text):
    assert p_form(p_value) == text
