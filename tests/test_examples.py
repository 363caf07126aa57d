"""What the examples claim of transfer is so: their comparisons are made.

That each of them runs to its end, `.ci/run` shows.
"""

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def load(name):
    path = REPOSITORY / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
