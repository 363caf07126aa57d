"""The page of a comparison: it says what was found, runs nothing, and can be read."""

import base64
import os
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import PretrainedFeatureExtractor, compare_transfer

pytestmark = pytest.mark.usefixtures("pyplot")

WHOLE_WIDTH = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
NASTY = '<script>alert("1")</script>&amp;'
NAMES = ["raw pixels", "frozen features", "fine-tuned network", "network from scratch"]
SIZES = [50, 800]
TWINS = "Each pretrained contender and its twin, the same without transfer"


def scores_of(names, sizes=SIZES):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.2, 0.9, (len(sizes), 3)) for name in names}


@pytest.fixture(scope="module")
def comparison(make_comparison):
    """One of each: a failure, help, harm, no difference, and a name that is markup."""
    scores = scores_of([*NAMES, NASTY])
    scores["raw pixels"][1, 0] = np.nan
    scratch = "network from scratch"
    epochs = np.arange(5)
    split = {"epoch": epochs, "seconds": epochs * 0.5, "score": epochs / 5}
    return make_comparison(
        scores,
        SIZES,
        effects=[
            ("frozen features", NASTY, "untrained", 0.1, 0.05, 0.15, 0.0001, "better"),
            ("raw pixels", NASTY, "untrained", *[np.nan] * 4, ""),
            (
                "fine-tuned network",
                scratch,
                "from scratch",
                -0.2,
                -0.3,
                -0.1,
                0.01,
                "worse",
            ),
            (NASTY, scratch, "from scratch", 0.01, -0.1, 0.12, 0.8, "inconclusive"),
        ],
        indicators=[
            ("score of frozen features", NASTY, "", 0.51, 0.4, 0.6),
            ("seconds to the score from scratch", NASTY, scratch, 1234.5, 20, np.nan),
        ],
        curves={"fine-tuned network": [split] * 3, scratch: [split] * 3},
        findings=[f"Negative transfer: {NASTY}.", "Another finding."],
        parameters={"cv": "3", NASTY: NASTY + "x" * 500},
        versions={"sktl": "0.1.0"},
    )


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("page") / "page.html"
    comparison.save_html(path)
    return path.read_text("utf-8")


class Page(HTMLParser):
    """Tags, attributes, words and tables of a page; faults where tags do not match."""

    VOID = {"meta", "img"}

    def __init__(self, source):
        super().__init__()
        self.open, self.faults, self.tags, self.words = [], [], [], []
        self.tables = {}
        self.feed(source)
        self.close()
        self.faults += [f"{tag} is not closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.row = []
        elif tag in ("th", "td"):
            self.row.append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} at {self.getpos()} closes nothing")
        if tag == "tr":
            self.tables[self.caption].append(self.row)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "caption":
            self.caption = data
            self.tables[data] = []
        elif inside in ("th", "td"):
            self.row[-1] += data
        if inside != "style":
            self.words.append(data)

    def values_of(self, attribute):
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]


def with_heads(rows):
    """Rows of cells without their head, each with the row header that spans it."""
    width = len(rows[0])
    filled = []
    for row in rows[1:]:
        filled.append(row if len(row) == width else [filled[-1][0], *row])
    return filled


# --- the page as text -----------------------------------------------------------------


def test_tags_are_balanced_and_name_what_they_hold(page):
    parsed = Page(page)
    assert parsed.faults == []
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    assert ("html", {"lang": "en"}) in parsed.tags
    assert all(attrs["scope"] for tag, attrs in parsed.tags if tag == "th")
    assert len(parsed.tables) == tags.count("table") == 4
    images = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(images) == 3
    assert all(image["alt"] for image in images)
    assert len(set(parsed.values_of("id"))) == len(parsed.values_of("id"))


def test_page_asks_for_nothing_outside_of_itself(page):
    parsed = Page(page)
    for link in parsed.values_of("src") + parsed.values_of("href"):
        assert link.startswith("data:image/svg+xml;base64,")
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}


def test_text_has_contrast_in_light_and_in_dark(page):
    """At least 4.5, as WCAG 2.2 asks of text; plots have white paper in both."""
    style = page.partition("<style>")[2].partition("</style>")[0]
    schemes = [dict(re.findall(r"--(\w+): #(\w+);", part)) for part in style.split("@")]
    light, dark = (colours for colours in schemes if colours)
    assert "@media (prefers-color-scheme: dark)" in style
    for colours in (light, dark):
        paper = luminance(colours["paper"])
        for name in ("text", "soft", "alarm"):
            low, high = sorted([paper, luminance(colours[name])])
            assert (high + 0.05) / (low + 0.05) >= 4.5
    assert luminance(light["paper"]) > 0.9 > 0.1 > luminance(dark["paper"])
    assert re.search(r"img \{[^}]*background: #fff", style)


def luminance(colour):
    """Relative luminance of WCAG 2.2, of a colour such as fff or 16181b."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    channels = np.array(list(bytes.fromhex(digits))) / 255
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_tables_can_be_scrolled_by_keys_and_are_named(page):
    parsed = Page(page)
    assert ("meta", WHOLE_WIDTH) in parsed.tags
    regions = [attrs for _, attrs in parsed.tags if attrs.get("class") == "scroll"]
    assert [attrs["aria-label"] for attrs in regions] == list(parsed.tables)
    assert all(attrs["tabindex"] == "0" for attrs in regions)


def test_images_hold_no_fonts_and_no_links(page):
    for data in Page(page).values_of("src"):
        svg = base64.b64decode(data.partition(",")[2]).decode()
        assert "<text" not in svg
        assert not re.findall(r'(?:href|src)="(?!#)', svg)
        assert NASTY not in svg


def test_every_name_is_escaped(page):
    assert "<script" not in page
    assert Page(page).words.count(NASTY) >= 6


def test_page_opens_with_the_answer_then_plot_table_and_findings(page):
    parsed = Page(page)
    words = [word.strip() for word in parsed.words if word.strip()]
    answer = f"Negative transfer: {NASTY}."
    assert words[words.index("Results") - 1] == answer
    places = [words.index(w) for w in (answer, "Mean over splits", "Another finding.")]
    assert places == sorted(places)
    assert ("p", {"class": "answer alarm"}) in parsed.tags
    order = [tag for tag, _ in parsed.tags if tag in ("img", "table", "li")]
    assert order[:3] == ["img", "table", "li"]


def test_page_opens_with_the_clearest_finding(make_comparison, tmp_path):
    effect = ("a", "b", "untrained", 0.1, 0.0, 0.2, 0.04, "better")
    findings = ["Inconclusive: x.", "Transfer helps: y.", "Equivalent: z."]
    scores = {"a": [[0.5, 0.6]], "b": [[0.8, 0.9]]}
    report = make_comparison(scores, [80], effects=[effect], findings=findings)
    report.save_html(tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text("utf-8"))
    words = [word.strip() for word in parsed.words if word.strip()]
    assert words[words.index("Results") - 1] == "Transfer helps: y."
    start = words.index("Findings") + 1
    assert words[start : start + 2] == ["Inconclusive: x.", "Equivalent: z."]


def test_page_without_pairs_opens_with_the_best_contender(make_comparison, tmp_path):
    scores = {"a": [[0.5, 0.6]], "b": [[0.8, 0.9]]}
    make_comparison(scores, [80]).save_html(tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text("utf-8")).words
    assert any(w.startswith("'b' has the highest mean accuracy, 0.850") for w in words)


def test_page_without_pairs_opens_with_the_best_of_the_largest_size(
    make_comparison, tmp_path
):
    """As `rank` and `gain`, though another was better with fewer rows."""
    scores = {"a": [[0.9, 0.9], [0.5, 0.6]], "b": [[0.7, 0.7], [0.8, 0.9]]}
    make_comparison(scores, [40, 80]).save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    (answer,) = [w for w in Page(page).words if "has the highest mean" in w]
    assert answer.startswith("'b' has the highest mean accuracy, 0.850")
    assert answer.endswith("with 80 training rows.")


def test_numbers_of_the_tables_are_those_of_the_comparison(page, comparison):
    results = comparison.results_
    printed = [re.split(" {2,}", line) for line in str(comparison).splitlines()]
    titles, *rows = Page(page).tables["Mean over splits"]
    assert titles == printed[0]
    assert with_heads([titles, *rows]) == printed[1 : 1 + len(rows)]
    splits = with_heads(Page(page).tables["accuracy per split"])
    for i, (name, size, *scores) in enumerate(splits):
        assert [name, size] == [results["contender"][i], str(results["train_size"][i])]
        row = [results[f"split{split}_test_score"][i] for split in range(3)]
        assert scores == ["-" if np.isnan(score) else f"{score:.3f}" for score in row]


def test_effects_say_whether_transfer_helps(page):
    rows = with_heads(Page(page).tables[TWINS])
    assert [row[:2] for row in rows] == [
        ["frozen features", "helps"],
        ["raw pixels", "failed"],
        ["fine-tuned network", "hurts"],
        [NASTY, "inconclusive"],
    ]
    scratch = ["network from scratch", "from scratch"]
    assert rows[1][3:] == ["untrained", "-", "-", "-"]
    assert rows[2][2:] == [*scratch, "-0.200", "-0.300 to -0.100", "0.010"]
    assert rows[0][-1] == "< 0.001"


def test_indicators_parameters_versions_and_failures_are_shown(page, comparison):
    parsed = Page(page)
    assert with_heads(parsed.tables["Three indicators of transfer"]) == [
        ["score of frozen features", NASTY, "", "0.510", "0.400 to 0.600"],
        [
            "seconds to the score from scratch",
            NASTY,
            "network from scratch",
            "1234.500",
            "-",
        ],
    ]
    words = "\n".join(parsed.words)
    assert "raw pixels, 800 training rows: split 0: ValueError" in words
    for pairs in (comparison.parameters_, comparison.versions_):
        assert all(f"{name}\n{value}" in words for name, value in pairs.items())


@pytest.mark.slow
def test_harm_in_a_real_comparison_is_marked(tiny_network, tmp_path):
    """Of a pretrained network that is dead: random weights are better."""
    with torch.no_grad():
        tiny_network.conv2.weight.zero_()
    X, y = load_digits(return_X_y=True)
    contenders = {
        name: make_pipeline(
            PretrainedFeatureExtractor(tiny_network, weights=weights, image_size=8),
            LogisticRegression(max_iter=500),
        )
        for name, weights in [("dead", "DEFAULT"), ("untrained", None)]
    }
    report = compare_transfer(X[:200], y[:200], contenders)
    report.save_html(tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text("utf-8"))
    assert ("p", {"class": "answer alarm"}) in parsed.tags
    (effect,) = with_heads(parsed.tables[TWINS])
    difference = report.effects_["difference"][0]
    assert difference < -0.2
    assert effect[:4] == ["dead", "hurts", "untrained", "untrained"]
    assert effect[4] == f"{difference:+.3f}"


def test_sections_without_content_are_left_out(make_comparison, tmp_path):
    """One size, nothing pretrained, nothing trained by epochs, no failure."""
    make_comparison(scores_of("ab", [80]), [80]).save_html(tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text("utf-8"))
    assert parsed.faults == []
    assert set(parsed.tables) == {"Mean over splits", "accuracy per split"}
    for heading in ("Findings", "Failures", "Time to learn", "Indicators"):
        assert heading not in parsed.words
    assert len(parsed.values_of("src")) == 1


# --- the file -------------------------------------------------------------------------


def test_same_numbers_give_the_same_bytes(comparison, tmp_path, pyplot):
    pyplot.figure()
    before = pyplot.get_fignums()
    for name in ("a.html", "b.html"):
        comparison.save_html(tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert pyplot.get_fignums() == before


def test_page_in_a_folder_that_does_not_exist_is_refused(comparison, tmp_path):
    with pytest.raises(OSError, match="Pass a path in a folder that exists"):
        comparison.save_html(tmp_path / "missing" / "page.html")


def test_page_that_is_there_stays_when_the_new_one_fails(
    comparison, tmp_path, monkeypatch
):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        comparison.save_html(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_plot_that_cannot_be_drawn_is_a_sentence_on_the_page(
    comparison, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    comparison.save_html(tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text("utf-8"))
    reasons = [w for w in parsed.words if "could not be drawn" in w]
    assert len(reasons) == 3
    assert all("pip install matplotlib" in reason for reason in reasons)
    assert parsed.faults == []
    assert "Mean over splits" in parsed.tables


# --- the page in a browser ------------------------------------------------------------

# A window may not get as narrow as a phone, but a frame does. With `srcdoc` the frame
# is of the same origin, so that this page can look into it.
MEASURE = """<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>
<iframe srcdoc="{page}" style="width:{width}px;height:800px;border:0"></iframe>
<script>
onload = () => {{
  const frame = document.querySelector("iframe").contentWindow
  const page = frame.document, root = page.documentElement
  page.querySelectorAll("details").forEach(element => element.open = true)
  const seen = {{
    width: root.clientWidth, scroll: root.scrollWidth, body: page.body.scrollWidth,
    fetched: frame.performance.getEntriesByType("resource").length,
    images: [...page.images].filter(image => image.naturalWidth > 0).length,
    titles: page.querySelectorAll("h1").length,
    font: Math.min(...[...page.querySelectorAll("p, li, td, th, dd, summary")]
      .map(element => parseFloat(frame.getComputedStyle(element).fontSize))),
  }}
  document.body.textContent = Object.entries(seen)
    .map(([name, value]) => name + "=" + value).join(" ")
}}
</script></body></html>"""


@pytest.fixture(scope="module")
def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    pytest.skip("needs chromium, chromium-browser or google-chrome on the PATH")


def opened(chromium, path, tmp_path):
    """Open a file in a headless browser; return its final HTML and what it logs."""
    options = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
        "--disable-background-networking --disable-component-update "
        "--enable-logging=stderr --virtual-time-budget=10000 --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    run = subprocess.run(
        [chromium, *options.split(), profile, path.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    console = [line for line in run.stderr.decode().splitlines() if "CONSOLE" in line]
    return run.stdout.decode(), console


def measured(chromium, page, width, tmp_path):
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(MEASURE.format(page=escape(page), width=width), "utf-8")
    dom, console = opened(chromium, wrapper, tmp_path)
    pairs = re.findall(r"(\w+)=([\d.]+)", dom.partition("<body>")[2])
    return {name: float(value) for name, value in pairs}, console


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_page_is_as_wide_as_its_window_and_fetches_nothing(
    chromium, page, width, tmp_path
):
    seen, console = measured(chromium, page, width, tmp_path)
    assert console == []
    assert seen["width"] <= width
    assert seen["scroll"] == seen["body"] == seen["width"]
    assert seen["fetched"] == 0
    assert seen["images"] == 3
    assert seen["titles"] == 1
    assert seen["font"] >= 12


@pytest.mark.slow
def test_browser_notices_what_it_is_asked_about(chromium, page, tmp_path):
    """The same of a page with a script, a wide line and an image from elsewhere."""
    faulty = page.replace(
        "</main>",
        '<pre style="width:900px">wide</pre><img src="http://localhost:9/far.png">'
        "<script>1</script></main>",
    )
    seen, console = measured(chromium, faulty, 360, tmp_path)
    assert seen["scroll"] > 360
    assert len(console) == 2
    assert all("Content Security Policy" in line for line in console)
    seen, _ = measured(chromium, faulty.replace("default-src", "x"), 360, tmp_path)
    assert seen["fetched"] == 1


@pytest.mark.slow
def test_page_opens_from_the_disk(chromium, page, tmp_path):
    (tmp_path / "page.html").write_text(page, "utf-8")
    dom, console = opened(chromium, tmp_path / "page.html", tmp_path)
    assert console == []
    assert Page(dom).words.count(NASTY) == Page(page).words.count(NASTY)
