"""Truth against prediction: what is drawn are the predictions of a comparison."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import Ridge

from sktl import PredictionsDisplay, compare_transfer

pytestmark = pytest.mark.usefixtures("pyplot")
X, NUMBER = load_digits(return_X_y=True)
X, PRICE = X[:60], NUMBER[:60] + np.linspace(0, 0.5, 60)


def compare(y):
    contenders = {"mean": DummyRegressor(), "ridge $x^2$": Ridge(1000.0)}
    return compare_transfer(X, y, contenders, cv=3)


def test_each_contender_has_a_panel_the_best_first():
    report = compare(PRICE)
    display = PredictionsDisplay.from_results(report).plot()
    first, second = display.axes_.flat
    assert first.get_title().startswith("ridge $x^2$\nr2\n")
    assert second.get_title().startswith("mean\nr2\n")
    found = report.predictions_["ridge $x^2$"]
    (points,) = first.collections
    assert (points.get_offsets().data == np.c_[found["predict"], found["y"]]).all()
    assert first.get_xlim() == second.get_xlim()
    (line,) = first.lines
    assert line.get_xdata().tolist() == line.get_ydata().tolist()


def test_each_output_has_a_panel():
    both = np.c_[PRICE, -100 * PRICE]
    display = PredictionsDisplay.from_results(compare(both)).plot()
    assert display.axes_.shape == (2, 2)
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert ["output 0" in titles[0], "output 1" in titles[1]] == [True, True]
    (points,) = display.axes_[0, 1].collections
    assert (points.get_offsets()[:, 1] == both[:, 1]).all()


def test_prediction_that_is_far_off_lies_at_the_edge():
    truth = np.array([0.0, 10.0, 5.0])
    wild = np.array([0.0, 1e9, 5.0])
    display = PredictionsDisplay({"one": truth}, {"one": wild}).plot()
    (points,) = display.axes_[0, 0].collections
    assert points.get_offsets()[:, 0].tolist() == [0.0, 15.0, 5.0]


def test_comparison_of_labels_is_refused():
    report = compare_transfer(X, NUMBER[:60] > 4, {"any": DummyClassifier()}, cv=3)
    with pytest.raises(ValueError, match=r"predicts labels.*ConfusionMatrixDisplay"):
        PredictionsDisplay.from_results(report)


def test_comparison_without_predictions_is_refused():
    report = compare(PRICE)
    report.predictions_ = {}
    with pytest.raises(ValueError, match="holds no predictions"):
        PredictionsDisplay.from_results(report)


@pytest.mark.parametrize(("y", "shown"), [(PRICE, True), (NUMBER[:60] > 4, False)])
def test_page_of_numbers_shows_the_panels(tmp_path, y, shown):
    any_model = DummyRegressor() if shown else DummyClassifier()
    compare_transfer(X, y, {"any": any_model}, cv=3).save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert ("<h2>Truth and prediction</h2>" in page) == shown
    assert "could not be drawn" not in page


def test_plot_of_numbers_names_its_baseline():
    display = compare(PRICE).plot()
    assert display.baseline == "mean of y"
    texts = [display.ax_.get_xlabel(), *display.ax_.get_legend_handles_labels()[1]]
    assert any("mean of y" in text for text in texts)


def test_place_without_a_contender_stays_empty():
    truth = np.array([0.0, 10.0, 5.0])
    names = list("abcde")
    both = dict.fromkeys(names, truth), dict.fromkeys(names, truth)
    axes = PredictionsDisplay(*both).plot().axes_.flat
    assert [bool(ax.collections) for ax in axes][: len(names)] == [True] * len(names)
    assert not any(ax.axison for ax in list(axes)[len(names) :])
