"""`TrainingHistoryDisplay` shows what the history holds: the numbers and the phases."""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit
from skorch.history import History

from sktl import FineTunedCNNClassifier, TrainingHistoryDisplay
from tests.helpers import each_once

pytestmark = pytest.mark.usefixtures("pyplot")

FIVE_PHASES = ["probe", "unfreeze layer4", "unfreeze layer3", "unfreeze layer2", "all"]


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x).softmax(-1)


def make_net(**params):
    params = {"max_epochs": 4, "verbose": 0, "iterator_train__batch_size": 20} | params
    return NeuralNetClassifier(Linear, **params)


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(100, 4, random_state=0)
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def net(data):
    scoring = EpochScoring("f1", lower_is_better=False, name="train_f1", on_train=True)
    torch.manual_seed(0)
    return make_net(callbacks=[("f1", scoring)]).fit(*data)


def make_history(phases, **columns):
    return [
        {"batches": [], "epoch": i + 1, "train_loss": 1 / (i + 1)}
        | ({} if phase is None else {"phase": phase})
        | {name: values[i] for name, values in columns.items()}
        for i, phase in enumerate(phases)
    ]


def curves(ax):
    """{label: (epochs, values)} of the lines that the legend names."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.get_legend_handles_labels()[0]
    }


def phase_bands(ax):
    """Where each band begins and ends."""
    return [(band.get_x(), band.get_x() + band.get_width()) for band in ax.patches]


# --- what is drawn --------------------------------------------------------------------


def test_losses_and_scores_of_a_net_are_those_of_its_history(net):
    display = TrainingHistoryDisplay.from_estimator(net)
    epochs = [1, 2, 3, 4]
    assert curves(display.ax_) == {
        name: (epochs, net.history[:, name]) for name in ("train_loss", "valid_loss")
    }
    assert curves(display.score_ax_) == {
        name: (epochs, net.history[:, name]) for name in ("train_f1", "valid_acc")
    }
    assert display.ax_.get_ylabel() == "loss"
    assert display.score_ax_.get_ylabel() == "score"
    assert display.score_ax_.get_xlabel() == "epoch"
    assert display.ax_.get_legend() is not None
    assert phase_bands(display.ax_) == phase_bands(display.score_ax_) == []
    assert len(display.ax_.texts) == 0


def test_regressor_without_validation_has_one_curve_and_one_panel(data):
    X, _ = data
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=4,
        module__out_features=1,
        train_split=None,
        max_epochs=2,
        verbose=0,
    ).fit(X, X[:, :1])
    display = TrainingHistoryDisplay.from_estimator(net)
    assert curves(display.ax_) == {"train_loss": ([1, 2], net.history[:, "train_loss"])}
    assert display.score_ax_ is None
    assert display.figure_.axes == [display.ax_]
    assert display.ax_.get_xlabel() == "epoch"


def test_fine_tuned_classifier_is_drawn():
    X, y = load_digits(return_X_y=True)
    clf = FineTunedCNNClassifier(
        "sktl_mini", max_epochs=2, train_split=ValidSplit(3), random_state=0
    ).fit(X[:60], y[:60])
    display = TrainingHistoryDisplay.from_estimator(clf)
    assert set(curves(display.ax_)) == {"train_loss", "valid_loss"}
    assert curves(display.score_ax_)["valid_acc"][1] == clf.history[:, "valid_acc"]


def test_asked_for_scores_are_drawn_and_no_others(net):
    draw = TrainingHistoryDisplay.from_estimator
    display = draw(net, scores=["dur", "valid_acc"])
    assert list(curves(display.score_ax_)) == ["dur", "valid_acc"]
    display = draw(net, scores="valid_acc")
    assert list(curves(display.score_ax_)) == ["valid_acc"]
    assert display.score_ax_.get_ylabel() == "valid_acc"
    assert draw(net, scores=[]).score_ax_ is None


def test_history_read_back_from_a_file_gives_the_same_image(net, tmp_path):
    net.history.to_file(tmp_path / "history.json")
    read = json.loads((tmp_path / "history.json").read_text("utf-8"))
    for history in (read, History.from_file(tmp_path / "history.json")):
        display = TrainingHistoryDisplay.from_history(history)
        assert curves(display.ax_)["train_loss"][1] == net.history[:, "train_loss"]
        assert curves(display.score_ax_)["valid_acc"][1] == net.history[:, "valid_acc"]


def test_epochs_that_lack_a_column_leave_its_curve_out():
    """A score of every second epoch; losses of NaN and infinity; a broken-off epoch."""
    history = make_history([None] * 5)
    history[0] |= {"valid_acc": 0.5, "valid_acc_best": True}
    history[1] |= {"valid_loss": float("inf")}
    history[2] |= {"valid_acc": np.float32(0.75), "valid_loss": float("nan")}
    history[3] |= {"valid_acc": None, "valid_loss": 0.1}
    del history[4]["train_loss"]
    display = TrainingHistoryDisplay.from_history(history)
    assert curves(display.ax_) == {
        "train_loss": ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4]),
        "valid_loss": ([4], [0.1]),
    }
    assert curves(display.score_ax_) == {"valid_acc": ([1, 3], [0.5, 0.75])}
    assert display.score_ax_.get_xlim() == (0.5, 5.5)


def test_single_epoch_shows_as_a_point_at_the_tick_one():
    display = TrainingHistoryDisplay.from_history(make_history(["probe"]))
    (line,) = display.ax_.get_legend_handles_labels()[0]
    assert line.get_marker() == "."
    low, high = display.ax_.get_xlim()
    assert [x for x in display.ax_.get_xticks() if low <= x <= high] == [1]


def test_curves_differ_without_colour():
    """Neighbours in lightness and style; of nine curves no two look alike."""
    scores = {name: [0.1, 0.2] for name in "abcdefgh"}
    scores |= {f"{name}_best": [True, True] for name in "abcdefgh"}
    display = TrainingHistoryDisplay.from_history(make_history([None] * 2, **scores))
    axes = display.ax_, display.score_ax_
    lines = [line for ax in axes for line in ax.get_legend_handles_labels()[0]]
    looks = [(line.get_color(), line.get_linestyle()) for line in lines]
    assert len(set(looks)) == len(looks) == 9
    for (color, style), (next_color, next_style) in itertools.pairwise(looks):
        assert abs(lightness(color) - lightness(next_color)) > 0.1
        assert style != next_style


def lightness(color):
    """Of a colour such as "#ff0000", by the weights of ITU-R BT.601; 0 to 1."""
    return np.dot([0.299, 0.587, 0.114], list(bytes.fromhex(color[1:]))) / 255


# --- phases ---------------------------------------------------------------------------


def test_phases_are_bands_with_their_names():
    phases = ["probe", "probe", "unfreeze layer4", "all", "all"]
    scores = {"valid_acc": [0.5] * 5, "valid_acc_best": [True] * 5}
    display = TrainingHistoryDisplay.from_history(make_history(phases, **scores))
    bands = [(0.5, 2.5), (2.5, 3.5), (3.5, 5.5)]
    assert phase_bands(display.ax_) == phase_bands(display.score_ax_) == bands
    colors = [band.get_facecolor() for band in display.ax_.patches]
    assert colors[0] == colors[2] != colors[1]
    names = {text.xy[0]: text.get_text().strip() for text in display.ax_.texts}
    assert names == {0.5: "probe", 2.5: "unfreeze layer4", 3.5: "all"}
    assert len(display.score_ax_.texts) == 0


def test_phase_that_comes_back_is_named_again():
    display = TrainingHistoryDisplay.from_history(make_history(["a", "b", "a"]))
    names = {text.xy[0]: text.get_text().strip() for text in display.ax_.texts}
    assert names == {0.5: "a", 1.5: "b", 2.5: "a"}


def test_epochs_without_a_phase_go_on_as_before():
    phases = [None, "probe", None, "probe", "all", None]
    display = TrainingHistoryDisplay.from_history(make_history(phases))
    assert phase_bands(display.ax_) == [(1.5, 4.5), (4.5, 6.5)]


# --- the epoch whose weights were kept ------------------------------------------------


@pytest.mark.parametrize("kept", [0, 2])
def test_epoch_that_was_kept_is_marked_if_others_came_after_it(kept):
    scores = {"valid_acc": [0.5] * 4, "valid_acc_best": [True] * 4}
    history = make_history([None] * 4, **scores)
    display = TrainingHistoryDisplay.from_history(history, kept=kept)
    for ax in (display.ax_, display.score_ax_):
        at, _ = curves(ax)[f"weights kept: epoch {kept}"]
        assert at == [kept, kept]
        assert ax.get_xlim()[0] < kept
    for nothing in (None, 4):
        display = TrainingHistoryDisplay.from_history(history, kept=nothing)
        assert list(curves(display.ax_)) == ["train_loss"]


def test_epoch_kept_is_that_of_the_net(make):
    """Steps this large make the loss worse: early stopping goes back."""
    X, y = load_digits(return_X_y=True)
    clf = make(max_epochs=3, lr=0.5, early_stopping=True, validation_fraction=0.3)
    clf.fit(X[:60], y[:60] > 4)
    assert clf.n_epochs_ < len(clf.history)
    display = TrainingHistoryDisplay.from_estimator(clf)
    assert f"weights kept: epoch {clf.n_epochs_}" in curves(display.ax_)


@pytest.mark.parametrize("monitor", ["loss", "f1_macro"])
def test_what_early_stopping_began_with_is_drawn_at_epoch_0(make, monitor):
    X, y = load_digits(return_X_y=True)
    stop = {"early_stopping": True, "monitor": monitor, "validation_fraction": 0.3}
    clf = make(max_epochs=2, **stop).fit(X[:60], y[:60] > 4)
    display = TrainingHistoryDisplay.from_estimator(clf)
    name = "valid_loss" if monitor == "loss" else "valid_score"
    ax = display.ax_ if monitor == "loss" else display.score_ax_
    before = clf.history[0, f"{name}_before"]
    assert curves(ax)[name] == ([0, 1, 2], [before, *clf.history[:, name]])
    assert curves(display.ax_)["train_loss"][0] == [1, 2]
    assert ax.get_xlim()[0] < 0


@pytest.mark.parametrize(
    ("with_scores", "lengths"),
    each_once([True, False], [[6] * 5, [1] * 5, [1, 1, 1, 1, 96], [40, 1, 1, 1, 1]]),
)
def test_names_of_phases_meet_nothing_that_is_drawn(lengths, with_scores):
    from matplotlib.text import Text

    phases = np.repeat(FIVE_PHASES, lengths).tolist()
    values = {"valid_acc": [0.5] * len(phases), "valid_acc_best": [True] * len(phases)}
    history = make_history(phases, **(values if with_scores else {}))
    display = TrainingHistoryDisplay.from_history(history)
    display.figure_.canvas.draw()
    # An annotation's own extent holds its arrow, which is the pole of the flag.
    names = [Text.get_window_extent(text) for text in display.ax_.texts]
    poles = [text.arrow_patch.get_window_extent() for text in display.ax_.texts]
    assert len(names) == 5
    axes, figure = display.ax_.get_window_extent(), display.figure_.bbox
    for i, (name, pole) in enumerate(zip(names, poles, strict=True)):
        assert name.y0 >= axes.y1
        assert figure.x0 <= name.x0
        assert name.x1 <= figure.x1
        assert name.y1 <= figure.y1
        assert pole.y0 == pytest.approx(axes.y1, abs=2)
        assert pole.y1 > name.y0
        others = [*names[:i], *names[i + 1 :]]
        assert not any(name.overlaps(other) for other in others)
        assert not any(pole.overlaps(other) for other in others)


def test_names_of_phases_take_nothing_from_the_curves():
    heights = []
    for phases in ([None] * 10, list("abcdefghij")):
        display = TrainingHistoryDisplay.from_history(make_history(phases))
        display.figure_.canvas.draw()
        heights.append(display.ax_.get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


# --- axes -----------------------------------------------------------------------------


def test_given_axes_share_their_place_with_the_scores(net, pyplot):
    figure, (left, right) = pyplot.subplots(1, 2)
    place = left.get_position()
    display = TrainingHistoryDisplay.from_estimator(net, ax=left)
    assert display.ax_ is left
    assert display.figure_ is figure
    assert figure.axes == [left, right, display.score_ax_]
    above, below = left.get_position(), display.score_ax_.get_position()
    assert above.y1 == pytest.approx(place.y1)
    assert below.y0 == pytest.approx(place.y0)
    assert above.y0 > below.y1
    assert above.x0 == below.x0 == place.x0
    assert pyplot.get_fignums() == [figure.number]


def test_axes_outside_of_a_grid_can_hold_losses_only(net, pyplot):
    ax = pyplot.figure().add_axes([0.1, 0.1, 0.8, 0.8])
    with pytest.raises(ValueError, match=r"not part of a grid.* pass scores=\[\]"):
        TrainingHistoryDisplay.from_estimator(net, ax=ax)
    assert TrainingHistoryDisplay.from_estimator(net, scores=[], ax=ax).ax_ is ax


def test_display_can_be_drawn_again(net):
    first = TrainingHistoryDisplay.from_estimator(net)
    before = first.ax_
    again = first.plot()
    assert again is first
    assert again.ax_ is not before
    assert curves(again.ax_) == curves(before)


# --- what cannot be drawn -------------------------------------------------------------


def test_net_that_is_not_fitted_is_told_so(net):
    for estimator in (make_net(), FineTunedCNNClassifier("sktl_mini")):
        name = type(estimator).__name__
        with pytest.raises(NotFittedError, match=f"This {name} instance is not fitted"):
            TrainingHistoryDisplay.from_estimator(estimator)


def test_training_without_epochs_is_told_so():
    X, y = load_digits(return_X_y=True)
    clf = FineTunedCNNClassifier("sktl_mini", strategy="linear_probe").fit(
        X[:30], y[:30]
    )
    for history in (clf.history, []):
        with pytest.raises(ValueError, match="has 0 epochs .*'linear_probe' has no"):
            TrainingHistoryDisplay.from_history(history)
    with pytest.raises(ValueError, match="has 0 epochs and no losses"):
        TrainingHistoryDisplay.from_estimator(make_net().initialize())
    with pytest.raises(ValueError, match="has 1 epochs and no losses"):
        TrainingHistoryDisplay.from_history([{"batches": [], "epoch": 1}])


def test_estimator_without_a_history_is_told_so(net):
    for estimator in (LogisticRegression(), make_pipeline("passthrough", net)):
        with pytest.raises(
            ValueError, match=r"of type .*, which has no training history.* last"
        ):
            TrainingHistoryDisplay.from_estimator(estimator)


@pytest.mark.parametrize(
    ("scores", "wrong"),
    [
        (["valid_acc", "recall"], "recall"),
        ("recall", "recall"),
        (["batches"], "batches"),
        (["valid_acc_best"], "valid_acc_best"),
    ],
)
def test_scores_that_are_no_numbers_are_told_with_those_that_are(net, scores, wrong):
    fault = f"scores=.*: '{wrong}' is not a column of numbers .* has .*'valid_acc'"
    with pytest.raises(ValueError, match=fault):
        TrainingHistoryDisplay.from_estimator(net, scores=scores)
