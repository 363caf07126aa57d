"""A comparison as one HTML page that needs nothing but a browser."""

import base64
import io
from html import escape
from itertools import groupby
from string import Template

import numpy as np

from sktl._display.comparison import (
    TimeToScoreDisplay,
    TransferComparisonDisplay,
    load_pyplot,
)
from sktl._utils.atomic import replacing

# The policy lets a browser fetch nothing and run nothing, whatever a name might hold.
PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --text: #1b1b1b; --soft: #595959; --paper: #fff; --line: #ccc; --alarm: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e8e8e8; --soft: #a8a8a8; --paper: #16181b; --line: #44484d;
    --alarm: #ff8a80;
  }
}
body {
  margin: 0; background: var(--paper); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
.subtitle, figcaption { color: var(--soft); }
.alarm { color: var(--alarm); font-weight: bold; }
li { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: .4rem 0; }
th, td {
  padding: .3rem .8em .3rem 0; text-align: left; vertical-align: top; min-width: 3em;
}
tbody th { font-weight: normal; min-width: 7em; }
td.text { min-width: 6em; }
thead th {
  border-bottom: 2px solid var(--line); vertical-align: bottom; overflow-wrap: normal;
}
tbody { border-bottom: 1px solid var(--line); }
@media (max-width: 30rem) { table { font-size: .875rem; } }
.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 1rem 0; }
img { background: #fff; border-radius: .3rem; min-width: 38rem; max-width: 100%; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
dt { font-weight: bold; }
dd { margin: 0 0 .6rem 1rem; white-space: pre-wrap; font-family: monospace; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
$body
</main>
</body>
</html>
""")


def write_html(comparison, path):
    """Write a comparison as one self-contained HTML page.

    The same numbers give the same bytes. The page holds no scripts and opens without a
    network.

    Parameters
    ----------
    comparison : TransferComparison
    path : path-like
        Where the page goes; a file that is there is replaced at once.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    OSError
        If the file cannot be written, such as in a folder that does not exist.
    """
    page = _page(comparison)
    with replacing(path) as file:
        file.write(page.encode())


def _page(comparison):
    results = comparison.results_
    n_contenders = len(dict.fromkeys(results["contender"]))
    sections = _findings(comparison), _results(comparison), _time(comparison)
    sections += _effects(comparison), _indicators(comparison), _conditions(comparison)
    return PAGE.substitute(
        title="Transfer comparison",
        subtitle=escape(
            f"{comparison.scoring_} of {n_contenders} contenders on the same "
            f"{comparison.n_splits_} splits, up to {results['train_size'].max()} "
            "training rows"
        ),
        body="\n".join(filter(None, sections)),
    )


# --- sections, in the order of the page -----------------------------------------------


def _findings(comparison):
    items = [
        f"<li{_alarm(finding)}>{escape(finding)}</li>"
        for finding in comparison.findings_
    ]
    return _list("<h2>Findings</h2>", items)


def _alarm(finding):
    return ' class="alarm"' if finding.startswith("Negative transfer") else ""


def _results(comparison):
    results, scoring = comparison.results_, comparison.scoring_
    means, errors = results["mean_test_score"], results["se_test_score"]
    rows = {
        "contender": results["contender"],
        "training rows": results["train_size"],
    }
    table = {
        f"{scoring} (mean ± standard error)": [
            "failed" if np.isnan(mean) else f"{mean:.3f} ± {error:.3f}"
            for mean, error in zip(means, errors, strict=True)
        ],
        "fit seconds": [_number(t, ".2f") for t in results["mean_fit_time"]],
    }
    splits = {
        f"split {i}": [_number(score) for score in results[f"split{i}_test_score"]]
        for i in range(comparison.n_splits_)
    }
    figure = _figure(
        TransferComparisonDisplay.from_results(comparison),
        f"Mean {scoring} and standard error of each contender, as in the table.",
    )
    return "\n".join(
        [
            "<h2>Results</h2>",
            figure,
            _table("Mean over splits", rows | table),
            _failures(results),
            _details("Scores per split", _table(f"{scoring} per split", rows | splits)),
        ]
    )


def _failures(results):
    columns = results["contender"], results["train_size"], results["error"]
    items = [
        f"<li>{escape(contender)}, {size} training rows: {escape(error)}</li>"
        for contender, size, error in zip(*columns, strict=True)
        if error
    ]
    return _details("Failures", _list("", items)) if items else ""


def _time(comparison):
    if not comparison.curves_:
        return ""
    figures = [
        _figure(
            TimeToScoreDisplay.from_results(comparison, over=over),
            f"Mean {comparison.scoring_} and standard error over {words}.",
        )
        for over, words in [("epoch", "epochs"), ("seconds", "seconds of training")]
    ]
    return "\n".join(["<h2>Time to learn</h2>", *figures])


def _effects(comparison):
    effects = comparison.effects_
    if not len(effects.get("contender", ())):
        return ""
    intervals = list(zip(effects["low"], effects["high"], strict=True))
    columns = {
        "contender": effects["contender"],
        "transfer": [_verdict(low, high) for low, high in intervals],
        "compared with": effects["twin"],
        "which is": effects["kind"],
        "difference": [_number(value, "+.3f") for value in effects["difference"]],
        "95 % interval": [_interval(*ends, "+.3f") for ends in intervals],
        "p": [_p_value(p) for p in effects["p_value"]],
    }
    caption = "Against the twin without transfer"
    return f"<h2>Does transfer help?</h2>\n{_table(caption, columns, n_texts=4)}"


def _indicators(comparison):
    indicators = comparison.indicators_
    if not len(indicators.get("indicator", ())):
        return ""
    intervals = zip(indicators["low"], indicators["high"], strict=True)
    columns = {
        "indicator": indicators["indicator"],
        "contender": indicators["contender"],
        "compared with": indicators["reference"],
        "value": [_number(value) for value in indicators["value"]],
        "95 % interval": [_interval(*ends) for ends in intervals],
    }
    table = _table("What the transfer gives", columns, n_texts=3)
    return f"<h2>Indicators</h2>\n{table}"


def _conditions(comparison):
    lists = [
        _details(name, f"<dl>{''.join(map(_pair, pairs.items()))}</dl>")
        for name, pairs in [
            ("Parameters", comparison.parameters_),
            ("Versions", comparison.versions_),
        ]
    ]
    return "\n".join(["<h2>How it was done</h2>", *lists])


# --- elements -------------------------------------------------------------------------


def _table(caption, columns, n_texts=1):
    """Write {head: cells} as a table.

    The first `n_texts` columns hold words, the others numbers. Neighbours in the first
    column that are equal become one cell.
    """
    kinds = ["text"] * n_texts + ["number"] * (len(columns) - n_texts)
    heads = "".join(
        f'<th scope="col" class="{kind}">{escape(head)}</th>'
        for head, kind in zip(columns, kinds, strict=True)
    )
    bodies = []
    for name, group in groupby(zip(*columns.values(), strict=True), key=lambda r: r[0]):
        rows = [
            "".join(
                f'<td class="{kind}">{escape(str(cell))}</td>'
                for cell, kind in zip(row[1:], kinds[1:], strict=True)
            )
            for row in group
        ]
        scope = "row" if len(rows) == 1 else "rowgroup"
        head = f'<th scope="{scope}" rowspan="{len(rows)}">{escape(str(name))}</th>'
        rows[0] = head + rows[0]
        bodies.append("".join(f"<tr>{row}</tr>\n" for row in rows))
    caption = escape(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        f"<table>\n<caption>{caption}</caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n"
        + "".join(f"<tbody>\n{body}</tbody>\n" for body in bodies)
        + "</table></div>"
    )


def _figure(display, caption):
    """Draw a display as an image within the page."""
    plt = load_pyplot()
    # Glyphs as paths: the page needs no fonts. The salt makes the same ids every time.
    settings = {"svg.fonttype": "path", "svg.hashsalt": "sktl"}
    svg = io.BytesIO()
    with plt.ioff(), plt.rc_context(settings):
        figure = display.plot().figure_
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    data = base64.b64encode(svg.getvalue()).decode()
    caption = escape(caption)
    return (
        f'<figure><div class="scroll"><img alt="{caption}" '
        f'src="data:image/svg+xml;base64,{data}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _details(summary, content):
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def _list(heading, items):
    return "\n".join([heading, "<ul>", *items, "</ul>"]) if items else ""


def _pair(item):
    name, value = item
    return f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>\n"


def _number(value, form=".3f"):
    return "-" if np.isnan(value) else f"{value:{form}}"


def _interval(low, high, form=".3f"):
    ends = _number(low, form), _number(high, form)
    return "-" if "-" in ends else " to ".join(ends)


def _p_value(p):
    return "< 0.001" if p < 0.001 else _number(p)


def _verdict(low, high):
    if np.isnan(low):
        return "failed"
    if low > 0:
        return "helps"
    return "hurts" if high < 0 else "no clear difference"
