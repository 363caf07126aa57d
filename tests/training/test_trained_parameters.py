"""How much of a network is trained is said in numbers."""

import numpy as np
import pytest

from sktl import FineTunedCNNClassifier, compare_transfer

SMALL = {"image_size": 8, "random_state": 0}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 8, 8, 3), np.uint8), np.arange(24) % 2


def n_parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("strategy", ["linear_probe", "lp_ft", "full", "scratch"])
def test_trained_parameters_are_those_of_tail_and_head(tiny_network, strategy, data):
    clf = FineTunedCNNClassifier(
        tiny_network, strategy=strategy, max_epochs=2, **SMALL
    ).fit(*data)
    expected = n_parameters(clf.module_.tail, clf.module_.head)
    assert clf.n_trained_parameters_ == expected
    recorded = [row["trained_parameters"] for row in clf.history]
    assert recorded == ([] if strategy == "linear_probe" else [expected] * 2)


def test_trained_parameters_of_gradual_grow_from_stage_to_stage(tiny_network, data):
    clf = FineTunedCNNClassifier(
        tiny_network, strategy="gradual", max_epochs=4, **SMALL
    ).fit(*data)
    counts = clf.history[:, "trained_parameters"]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == clf.n_trained_parameters_


def test_comparison_says_which_share_is_trained(tiny_network, data, tmp_path):
    contenders = {
        strategy: FineTunedCNNClassifier(
            tiny_network, strategy=strategy, max_epochs=1, **SMALL
        )
        for strategy in ("linear_probe", "full")
    }
    comparison = compare_transfer(*data, contenders=contenders, cv=2)
    results = comparison.results_
    shares = dict(zip(results["contender"], results["trained_share"], strict=True))
    fitted = contenders["linear_probe"].fit(*data).module_
    assert shares["full"] == 1
    assert shares["linear_probe"] == n_parameters(fitted.head) / n_parameters(fitted)
    comparison.save_html(tmp_path / "page.html")
    assert "100.0%" in (tmp_path / "page.html").read_text("utf-8")
