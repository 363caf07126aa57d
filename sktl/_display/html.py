"""A comparison as one HTML page that needs nothing but a browser."""

import base64
import io
from typing import NamedTuple

import numpy as np

from sktl._display.comparison import TransferComparisonDisplay
from sktl._display.drawing import load_pyplot
from sktl._display.predictions import PredictionsDisplay
from sktl._display.table import (
    Column,
    numbers,
    p_form,
    ranges,
    score_form,
    templates,
    words,
)
from sktl._display.time_to_score import TimeToScoreDisplay
from sktl._targets.kinds import TARGETS
from sktl._utils.atomic import replacing
from sktl._utils.printable import printable

VERDICTS = {
    "better": "helps",
    "worse": "hurts",
    "equivalent": "makes no relevant difference",
    "inconclusive": "inconclusive",
    "": "failed",
}
# How findings begin, in the order in which one of them is the page's answer.
CLEAREST = ("Negative transfer", "Transfer helps", "Equivalent")


class Drawing(NamedTuple):
    """An SVG in base64 and what it shows; or none, and why there is none."""

    caption: str
    svg: str | None = None


def write_html(comparison, path):
    """Write a comparison as one self-contained HTML page.

    The same numbers give the same bytes. The page holds no scripts and opens without a
    network. A plot that cannot be drawn is a sentence that says why.

    Parameters
    ----------
    comparison : TransferComparison
    path : path-like
        Where the page goes; a file that is there is replaced at once.

    Raises
    ------
    OSError
        If the file cannot be written, such as in a folder that does not exist.
    """
    page = templates().get_template("report.html.jinja").render(_contents(comparison))
    with replacing(path) as file:
        file.write(page.encode())


def _contents(comparison):
    """What the template puts in its places, in the order of the page."""
    results, scoring = comparison.results_, comparison.scoring_
    form = score_form(results["mean_test_score"])
    n_contenders = len(dict.fromkeys(results["contender"]))
    answer, findings = _answer(comparison)
    return {
        "title": "Transfer comparison",
        "subtitle": (
            f"{scoring} of {n_contenders} contenders on the same "
            f"{comparison.n_splits_} splits, up to {results['train_size'].max()} "
            "training rows"
        ),
        "answer": _lines(answer),
        "findings": [_lines(finding) for finding in findings],
        "scoring": scoring,
        "plot": _draw(
            lambda: TransferComparisonDisplay.from_results(comparison),
            f"Mean {scoring} and 95 % interval of each contender, as in the table.",
        ),
        "means": comparison._columns(),  # as they are printed
        "predictions": _predictions(comparison),
        "failures": _failures(results),
        "splits": [
            *_rows(results),
            *_trained(results),
            *_splits(results, comparison.n_splits_, form),
        ],
        "curves": _curves(comparison) if comparison.curves_ else [],
        "effects": _effects(comparison.effects_, form),
        "indicators": _indicators(comparison.indicators_, form),
        "parameters": _pairs(comparison.parameters_),
        "versions": _pairs(comparison.versions_),
    }


def _answer(comparison):
    """The sentence that the page opens with, and the findings besides."""
    findings = comparison.findings_
    if len(comparison.effects_.get("contender", ())) and findings:
        clearest = (f for start in CLEAREST for f in findings if f.startswith(start))
        answer = next(clearest, findings[0])
        return answer, [finding for finding in findings if finding is not answer]
    results = comparison.results_
    means, sizes = results["mean_test_score"], results["train_size"]
    of_largest = np.where(sizes == sizes.max(), means, np.nan)
    where = f" with {sizes.max()} training rows" if np.ptp(sizes) else ""
    if np.isnan(of_largest).all():
        return f"Every contender failed{where}.", findings
    best, form = np.nanargmax(of_largest), score_form(means)
    name, low, high = (
        results[key][best] for key in ("contender", "low_test_score", "high_test_score")
    )
    return (
        f"{name!r} has the highest mean {comparison.scoring_}, {means[best]:{form}} "
        f"(95 % interval {low:{form}} to {high:{form}}){where}.",
        findings,
    )


def _rows(results):
    return [
        words("contender", results["contender"]),
        numbers("training rows", results["train_size"], ".0f"),
    ]


def _trained(results):
    """How much of a network was trained; empty for what is no network."""
    shares = results.get("trained_share", np.array([np.nan]))
    if np.isnan(shares).all():
        return []
    return [numbers("share of weights trained", shares, ".1%")]


def _splits(results, n_splits, form):
    return [
        numbers(f"split {i}", results[f"split{i}_test_score"], form)
        for i in range(n_splits)
    ]


def _failures(results):
    columns = (results[name] for name in ("contender", "train_size", "error"))
    return [
        _lines(f"{contender}, {size} training rows: {error}")
        for contender, size, error in zip(*columns, strict=True)
        if error
    ]


def _predictions(comparison):
    """Truth against prediction, where these are numbers."""
    if not TARGETS[comparison.target_].has_scale or not comparison.predictions_:
        return None
    return _draw(
        lambda: PredictionsDisplay.from_results(comparison),
        "What the best contenders predict for rows they were not fitted on, against "
        "the truth. On the dotted line both are the same.",
    )


def _curves(comparison):
    drawings = []
    for over, axis in (("epoch", "epochs"), ("seconds", "seconds of training")):
        caption = (
            f"Mean {comparison.scoring_} and 95 % interval over {axis}. The intervals "
            "are computed from the splits alone, so they differ from the table's."
        )
        drawings.append(
            _draw(
                lambda over=over: TimeToScoreDisplay.from_results(comparison, over),
                caption,
            )
        )
    return drawings


def _effects(effects, form):
    if not len(effects.get("contender", ())):
        return []
    return [
        words("contender", effects["contender"]),
        words("transfer", [VERDICTS[verdict] for verdict in effects["verdict"]]),
        words("twin", effects["twin"]),
        words("kind of twin", effects["kind"]),
        numbers("difference", effects["difference"], f"+{form}"),
        ranges("95 % interval", effects["low"], effects["high"], f"+{form}"),
        Column("p", [_p_value(p) for p in effects["p_value"]], is_number=True),
    ]


def _indicators(indicators, form):
    if not len(indicators.get("indicator", ())):
        return []
    return [
        words("indicator", indicators["indicator"]),
        words("contender", indicators["contender"]),
        words("compared with", indicators["reference"]),
        numbers("value", indicators["value"], form),
        ranges("95 % interval", indicators["low"], indicators["high"], form),
    ]


def _draw(make_display, caption):
    """Draw a display as an image within the page, or say why there is none."""
    try:
        plt = load_pyplot()
        # Glyphs as paths: the page needs no fonts. The salt makes the same ids always.
        settings = {"svg.fonttype": "path", "svg.hashsalt": "sktl"}
        settings["text.usetex"] = False
        svg = io.BytesIO()
        with plt.ioff(), plt.rc_context(settings):
            figure = make_display().plot().figure_
            try:
                figure.savefig(
                    svg, format="svg", metadata={"Date": None, "Creator": None}
                )
            finally:
                plt.close(figure)
    except Exception as error:  # a page without a plot is better than no page
        return Drawing(_lines(f"This plot could not be drawn: {error}"))
    return Drawing(caption, base64.b64encode(svg.getvalue()).decode())


def _pairs(values):
    return {printable(name): _lines(value) for name, value in values.items()}


def _lines(text):
    return printable(text, keep="\n")


def _p_value(p):
    if np.isnan(p):
        return "-"
    text = "< 0.001" if p < 0.001 else f"{p:.3f}"
    return p_form(p).removeprefix("= ") if text == "0.050" else text
