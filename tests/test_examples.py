"""Every example reads alike, runs nothing when imported, and is run in CI.

What examples claim of transfer is so: they are imported and their comparisons made.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
HARMLESS = ast.Import | ast.ImportFrom | ast.Assign | ast.FunctionDef | ast.ClassDef


def load(name):
    path = REPOSITORY / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request):
    return request.param


def test_example_is_short_and_in_cells(example):
    lines = example.read_text("utf-8").splitlines()
    assert sum(line.startswith("# %%") for line in lines) >= 4
    assert 60 <= len(lines) <= 120


def test_example_says_what_it_asks_and_how_long_it_takes(example):
    docstring = ast.get_docstring(ast.parse(example.read_text("utf-8")))
    assert docstring.splitlines()[0].endswith(".")
    has_time = re.search(r"\bminutes? on two cores\b", " ".join(docstring.split()))
    assert has_time


def test_example_runs_nothing_when_imported(example):
    _, *body, guard = ast.parse(example.read_text("utf-8")).body
    assert [ast.unparse(n) for n in body if not isinstance(n, HARMLESS)] == []
    assert ast.unparse(guard).startswith("if __name__ == '__main__':\n    ")


def test_ci_runs_every_example():
    """A loop over the folder; what it skips has a step of its own, but for one."""
    ci = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert "for example in examples/*.py; do" in ci
    skipped = re.findall(r"examples/(\w+)\.py\) continue", ci)
    without = [name for name in skipped if f"python examples/{name}.py" not in ci]
    assert without == []


@pytest.mark.slow
def test_misled_network_hurts_and_the_example_says_so():
    report = load("find_negative_transfer").compare()
    print(report)
    hurt = [found for found in report.findings_ if found.startswith("Negative")]
    assert len(hurt) == 2
    assert (
        "'features of the misled network' loses to 'features of the untrained"
        in hurt[0]
    )
    assert "'misled network, fine-tuned' loses to 'from scratch'" in hurt[1]
    names, gains = (report.effects_[name] for name in ("contender", "difference"))
    assert (gains[[name.startswith("sktl_mini") for name in names]] > 0).all()


@pytest.mark.slow
def test_images_and_numbers_of_the_example_add_to_each_other():
    report = load("add_images_to_table").compare()
    print(report)
    for alone in ("numbers only", "image only"):
        assert report.gain("both", over=alone).low > 0.2
