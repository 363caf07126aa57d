"""All examples run, and what two of them claim of transfer is so.

`.ci/run` itself runs `compare_digits.py`, the README's, and `choose_layers.py`, for the
gallery of the guide.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
# By name, with arguments that make them shorter.
SCRIPTS = {
    "choose_network": "--source-images 30 --images 30 --folds 2",
    "find_crossover": "--sizes 20 40 --draws 2 --test-images 50",
    "search_on_cluster": "--images 40",
    "extract_on_cluster": "--images 1000",
    "compare_photographs": "--images 20 --folds 2 --image-size 64 --sets hymenoptera",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs_as_a_script(name, tmp_path, request):
    arguments = SCRIPTS[name].split()
    if name == "compare_photographs":
        arguments += ["--shared", request.getfixturevalue("shared")]
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    if "PLOT = " in (EXAMPLES / f"{name}.py").read_text("utf-8"):
        plot = re.search("Plot: (.+)", done.stdout)[1]
        assert Path(plot).stat().st_size > 10_000


def load(name):
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_left_out():
    tested = {*SCRIPTS, "find_negative_transfer", "add_images_to_table"}
    tested |= {"compare_digits", "choose_layers"}  # by .ci/run
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.fixture
def run(tmp_path, monkeypatch, pyplot):
    """Run an example in an empty folder."""

    def run(name):
        module = load(name)
        monkeypatch.chdir(tmp_path)
        report = module.main()
        assert (tmp_path / module.PLOT).stat().st_size > 10_000
        return report

    return run


@pytest.mark.slow
def test_misled_network_hurts_and_the_example_says_so(run):
    report = run("find_negative_transfer")
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
def test_images_and_numbers_of_the_example_add_to_each_other(run):
    report = run("add_images_to_table")
    for alone in ("numbers only", "image only"):
        assert report.gain("both", over=alone).low > 0.2


@pytest.mark.usefixtures("pyplot")
def test_figure_of_the_readme_has_the_numbers_of_the_guide():
    script = load("tools/draw_main_job")
    text = script.TABLE.read_text("utf-8").partition("## On photographs")[0]
    names, cells = script.read_table(text)
    ax = script.make_display(names, cells).plot().ax_
    curves = [line.get_ydata() for line in ax.lines[: len(names)]]
    assert len(curves) == len(names) == 6
    for name, curve in zip(names, curves, strict=True):
        row = re.search(rf"^\| {re.escape(name)} \|(.*)$", text, re.MULTILINE)[1]
        assert re.findall(r"(0\.\d+) \(", row) == [f"{mean:.3f}" for mean in curve]
