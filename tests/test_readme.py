"""README.md and the guide are true: their Python runs, their links lead somewhere.

The README's commands are the ones CI runs. A block that cannot run says so, with the
reason, on the line before its fence: `<!-- test: skip (needs a camera) -->`. One that
needs a package which the tests do not install is marked `<!-- test: needs optuna -->`.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
GUIDE = sorted((REPOSITORY / "examples" / "guide").glob("*.md"))
BENCHMARKS = REPOSITORY / "benchmarks" / "README.md"
CARDS = sorted((REPOSITORY / "sktl" / "_networks" / "weights").glob("*.md"))


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown text."""

    language: str
    code: str
    line: int  # of its first line of code, counted from 1
    mark: str  # what `<!-- test: ... -->` on the line before it says, else ""

    @property
    def is_skipped(self):
        return self.mark.startswith("skip")


def blocks_of(text):
    pattern = re.compile(
        r"(?:^<!-- test: (?P<mark>.+?) -->\n)?"
        r"^```(?P<language>\w+)\n(?P<code>.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            language=found["language"],
            code=found["code"],
            line=text.count("\n", 0, found.start("code")) + 1,
            mark=check_mark(found["mark"] or ""),
        )
        for found in pattern.finditer(text)
    ]


def check_mark(mark):
    """Return a mark that is `needs package` or `skip (reason)`; refuse any other."""
    if mark and not re.fullmatch(r"needs \w+|skip \(.+\)", mark):
        raise ValueError(f"<!-- test: {mark} --> is neither `needs package` nor `skip`")
    return mark


def commands_of(text):
    """The commands of a shell text, one line each, with single spaces."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [" ".join(line.split()) for line in lines]
    return [command for command in commands if command and command[0] != "#"]


@pytest.fixture
def readme_blocks():
    if not README.exists():
        pytest.skip("there is no README.md yet")
    return blocks_of(README.read_text("utf-8"))


@pytest.mark.usefixtures("pyplot")
@pytest.mark.parametrize(
    "path",
    [pytest.param(page, marks=pytest.mark.slow) for page in [README, *GUIDE]],
    ids=lambda path: path.stem,
)
def test_python_blocks_of_page_run(path, tmp_path, monkeypatch):
    """One after the other in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(path.read_text("utf-8"))
    missing = set()
    namespace = {"__name__": "__main__"}
    for block in blocks:
        needed = block.mark.removeprefix("needs ")
        if block.language != "python" or block.is_skipped:
            continue
        if needed and find_spec(needed) is None:
            missing.add(needed)
        else:
            run_block(block, namespace, path)
    if missing:
        pytest.skip(f"all ran but those that need {', '.join(sorted(missing))}")


def run_block(block, namespace, path=README):
    padding = "\n" * (block.line - 1)  # so that a traceback names the page's line
    exec(compile(padding + block.code, str(path), "exec"), namespace)


@pytest.mark.parametrize("path", [README, *GUIDE], ids=lambda path: path.stem)
def test_links_of_page_lead_to_files_and_headings(path):
    text = path.read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    for link in links:
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def anchors_of(page):
    """The anchors of a page's headings, as GitHub and the guide name them."""
    text = page.read_text("utf-8")
    included = re.search(r"^```\{include\} (.+)$", text, re.MULTILINE)
    if included:
        return anchors_of((page.parent / included[1]).resolve())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_commands_of_readme_are_what_ci_runs(readme_blocks):
    in_ci = commands_of((REPOSITORY / ".ci" / "run").read_text("utf-8"))
    in_readme = [
        command
        for block in readme_blocks
        if block.language == "bash" and not block.is_skipped
        for command in commands_of(block.code)
    ]
    assert len(in_readme) >= 2, "README.md starts with two commands"
    assert [command for command in in_readme if command not in in_ci] == []


MARKDOWN = """\
# Title

```python
x = 1
```

<!-- test: skip (needs a camera) -->
```python
x = 1 / 0
```

```bash
# A comment.
python -m \\
    this
```
"""


def test_blocks_are_found_with_language_line_and_mark():
    first, second, third = blocks_of(MARKDOWN)
    assert first == Block("python", "x = 1\n", 4, "")
    assert second == Block("python", "x = 1 / 0\n", 9, "skip (needs a camera)")
    assert commands_of(third.code) == ["python -m this"]


def test_unknown_mark_is_refused():
    """A mark with a slip of the pen would otherwise leave its block unmarked."""
    with pytest.raises(ValueError, match="neither `needs package` nor `skip`"):
        blocks_of("<!-- test: skp -->\n```python\n```\n")


def test_block_runs_in_the_namespace_of_those_before():
    namespace = {}
    for block in blocks_of("```python\nx = 1\n```\n\n```python\ny = x + 1\n```\n"):
        run_block(block, namespace)
    assert namespace["y"] == 2


@pytest.mark.parametrize(
    "page", [README, *GUIDE, BENCHMARKS, *CARDS], ids=lambda path: path.stem
)
def test_page_holds_no_placeholder(page):
    assert re.findall(r"@\w+@|XXX", page.read_text("utf-8")) == []
