"""Every drawing can be read in an image of 600 pixels, and in grey."""

import itertools

import numpy as np
import pytest

from sktl import (
    LayerProbe,
    PredictionsDisplay,
    TimeToScoreDisplay,
    TrainingHistoryDisplay,
    TransferComparisonDisplay,
)

pytestmark = pytest.mark.usefixtures("pyplot")

# The default contenders of `compare_transfer`: long names, and one far below the rest.
KINDS = {
    "most frequent class": "classical",
    "raw pixels + logistic regression": "classical",
    "untrained network + logistic regression": "random weights",
    "frozen features + logistic regression": "frozen features",
    "frozen features + SVM": "frozen features",
    "frozen features + gradient boosting": "frozen features",
    "fine-tuned network": "fine-tuned",
    "network from scratch": "random weights",
}
MEANS = np.array([0.1, 0.83, 0.8, 0.95, 0.94, 0.9, 0.947, 0.79])
NEARER = np.maximum(MEANS, 0.65)
EPOCHS = np.arange(21)


def scores(means, sizes=(80,)):
    contenders = np.repeat(list(KINDS), len(sizes))
    return TransferComparisonDisplay(
        contenders,
        np.repeat(means, len(sizes)) + np.tile(np.arange(len(sizes)) / 100, len(MEANS)),
        np.full(len(contenders), 0.03),
        "accuracy",
        np.tile(sizes, len(MEANS)),
        kinds=[KINDS[name] for name in contenders],
        chance=means[0],
        n_splits=5,
    )


def times():
    curves = {
        name: (EPOCHS, score * (1 - np.exp(-EPOCHS / 5)), np.full(21, 0.03))
        for name, score in zip(KINDS, MEANS, strict=True)
    }
    references = ["network from scratch"]
    return TimeToScoreDisplay(
        curves, KINDS, references, "accuracy", "epoch", kinds=KINDS
    )


def history():
    numbers = {"valid_loss": EPOCHS / 20, "valid_score": 1 - EPOCHS / 20}
    phases = np.repeat([f"unfreeze layer{i}" for i in (4, 3, 2, 1)], 5)
    return TrainingHistoryDisplay(
        {"train_loss": 1 / (1 + EPOCHS[:20]), "valid_loss": numbers["valid_loss"][1:]},
        {"valid_score": numbers["valid_score"][1:]},
        phases,
        kept=7,
        before={name: values[0] for name, values in numbers.items()},
    )


def probe():
    accuracy = [[0.6, 0.64], [0.85, 0.9], [0.97, 1.0], [0.98, 0.98]]
    layers = ["maxpool", "layer1.1.relu_1", "layer2.1.relu_1", "flatten"]
    stages = ["conv1", "layer1", "layer2", "layer3"]
    return LayerProbe(stages, layers, [64] * 4, accuracy, [0.99, 0.98], "accuracy")


DRAWINGS = {
    "points": lambda ax: scores(MEANS).plot(ax),
    "points, chance is near": lambda ax: scores(NEARER).plot(ax),
    "learning curves": lambda ax: scores(MEANS, (50, 100, 200, 400)).plot(ax),
    "time to score": lambda ax: times().plot(ax),
    "history": lambda ax: history().plot(ax),
    "probe": lambda ax: probe().plot(ax),
}


def texts_of(ax):
    """What is written in and around axes."""
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    xs = [t for t in ax.get_xticklabels() if left <= t.get_position()[0] <= right]
    ys = [t for t in ax.get_yticklabels() if bottom <= t.get_position()[1] <= top]
    legend = ax.get_legend()
    texts = [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label, *xs, *ys]
    texts += legend.get_texts() if legend else []
    return [text for text in texts if text.get_text() and text.get_visible()]


@pytest.fixture(params=DRAWINGS)
def narrow(request, pyplot):
    """A drawing on axes of the user's, in a figure of 600 pixels."""
    figure, ax = pyplot.subplots(figsize=(6, 4.5), dpi=100, layout="constrained")
    DRAWINGS[request.param](ax)
    figure.canvas.draw()
    return figure


def box_of(text):
    from matplotlib.text import Text

    return Text.get_window_extent(text)  # an annotation's own holds its arrow, too


def test_no_text_is_cut_off_or_covered_at_600_pixels(narrow):
    texts = [text for ax in narrow.axes for text in texts_of(ax)]
    boxes = {text: box_of(text) for text in texts}
    for text, box in boxes.items():
        assert narrow.bbox.x0 <= box.x0 < box.x1 <= narrow.bbox.x1, text
        assert narrow.bbox.y0 <= box.y0 < box.y1 <= narrow.bbox.y1, text
    for one, other in itertools.combinations(texts, 2):
        is_slanted = one.get_rotation() and other.get_rotation()  # see test_probing
        assert is_slanted % 90 or not boxes[one].overlaps(boxes[other]), (one, other)


@pytest.mark.parametrize("means", [MEANS, NEARER])
def test_numbers_stay_within_the_axes_at_600_pixels(pyplot, means):
    figure, ax = pyplot.subplots(figsize=(6, 4.5), dpi=100, layout="constrained")
    scores(means).plot(ax)
    figure.canvas.draw()
    assert len(ax.texts) == len(MEANS)
    for text in ax.texts:
        assert box_of(text).x1 < ax.get_window_extent().x1


@pytest.mark.parametrize("make", [times, lambda: scores(MEANS, (50, 100, 200, 400))])
def test_curves_of_the_default_contenders_differ_without_colour(make):
    ax = make().plot().ax_
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(lines) == len(KINDS)


def test_marks_of_a_probe_differ_without_colour():
    handles, labels = probe().plot().ax_.get_legend_handles_labels()
    marks = dict(zip(labels, handles, strict=True))
    advised = marks["advised: from layer2.1.relu_1 on, together\n(last third)"]
    (each, *_) = marks[
        "each layer (mean over folds \N{PLUS-MINUS SIGN} standard error)"
    ]
    assert advised.get_linestyle() != each.get_linestyle()


def test_titles_of_six_panels_are_apart_and_within_the_figure():
    truth = np.linspace(0, 1, 9)
    names = list(KINDS)[:6]
    display = PredictionsDisplay(
        dict.fromkeys(names, truth),
        dict.fromkeys(names, truth),
        dict.fromkeys(names, "r2 0.812"),
        KINDS,
    ).plot()
    display.figure_.canvas.draw()
    figure = display.figure_.bbox
    boxes = [box_of(ax.title) for ax in display.axes_.flat]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.x0 <= box.x0 < box.x1 <= figure.x1
        assert box.y1 <= figure.y1
