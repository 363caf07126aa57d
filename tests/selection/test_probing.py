"""`probe_layers`: scores as by plain scikit-learn, in one pass; advice and image."""

import itertools

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

import sktl
from sktl import (
    GlobalScaler,
    LayerProbe,
    LayerProbeDisplay,
    PretrainedFeatureExtractor,
    probe_layers,
    rank_backbones,
)
from sktl._features.engine import Engine
from sktl._networks.backbones import load_backbone
from sktl._selection.probing import CLEAR_LOSS
from sktl.exceptions import (
    ImageReadError,
    UnknownBackboneError,
    WeightsNotAvailableError,
)
from tests.helpers import encode, first_and_slow


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:120], y[:120]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def probe(digits):
    return probe_layers(*digits, "sktl_mini", cv=3)


@pytest.fixture(scope="module")
def stages():
    """Names of the shipped network's stages, and the layers at which they end."""
    return load_backbone("sktl_mini").network.stage_ends()


def fold_scores(probe):
    """Shape (n_stages, n_folds)."""
    names = [name for name in probe.results_ if name.startswith("split")]
    return np.array([probe.results_[name] for name in names]).T


# --- the scores -----------------------------------------------------------------------


def test_scores_are_those_of_a_pipeline_per_layer(digits):
    """Other layers of the pass change features by rounding: hence a smooth score."""
    X, y = digits
    probe = probe_layers(X, y, cv=3, scoring="neg_log_loss", backbone="sktl_mini")
    for layer, scores in zip(probe.results_["layer"], fold_scores(probe), strict=True):
        pipeline = make_pipeline(
            PretrainedFeatureExtractor("sktl_mini", layers=layer),
            GlobalScaler(),
            LogisticRegression(max_iter=1000),
        )
        expected = cross_val_score(pipeline, X, y, cv=3, scoring="neg_log_loss")
        np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_features_of_a_layer_are_those_that_torch_computes(tiny_network):
    """A hook on the layer itself, on images that need no scaling."""
    X = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    y = np.arange(12) % 2
    extractor = PretrainedFeatureExtractor(
        tiny_network, image_size=16, precision="float32"
    )
    probe = probe_layers(X, y, extractor, cv=3, scoring="neg_log_loss")
    assert probe.results_["layer"].tolist() == ["relu1", "flatten"]
    preprocessing = load_backbone(tiny_network).preprocessing
    pixels = torch.tensor(X / 255).permute(0, 3, 1, 2).float()
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    seen = {}
    for name in ("relu1", "flatten"):
        tiny_network.get_submodule(name).register_forward_hook(
            lambda layer, inputs, output, name=name: seen.update({name: output})
        )
    with torch.no_grad():
        tiny_network((pixels - mean) / std)
    rows = {"relu1": seen["relu1"].mean((2, 3)), "flatten": seen["flatten"]}
    model = make_pipeline(GlobalScaler(), LogisticRegression(max_iter=1000))
    for (layer, features), scores in zip(rows.items(), fold_scores(probe), strict=True):
        assert layer in probe.results_["layer"]
        expected = cross_val_score(
            model, features.numpy(), y, cv=3, scoring="neg_log_loss"
        )
        np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_mean_and_standard_error_are_those_of_the_folds(probe, stages):
    scores, results = fold_scores(probe), probe.results_
    assert scores.shape == (len(stages), 3)
    np.testing.assert_allclose(results["mean_test_score"], scores.mean(axis=1))
    errors = scores.std(axis=1, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(results["se_test_score"], errors)


@pytest.mark.parametrize("name", ["sktl_mini", "resnet18", "squeezenet1_1"])
def test_layers_are_where_stages_end(name):
    """What a stage ends in is what the next one reads, and the head the last."""
    weights = "DEFAULT" if name == "sktl_mini" else None
    network = load_backbone(name, weights=weights).network
    ends = network.stage_ends()
    assert list(ends) == [stage.name for stage in network.stages]
    for (_, end), stage in zip(ends.items(), network.stages[1:], strict=False):
        assert end == stage.start
    assert list(ends.values())[-1] == network.penultimate


def test_every_image_passes_the_network_once(digits, stages, monkeypatch):
    """For all layers together; the store gets a row for each."""
    X, y = digits
    passes = []
    batches = Engine.batches

    def counted(self, module, pixels):
        if self.batch_size > 1:  # one blank image shows what shapes there are
            passes.append(len(pixels))
        return batches(self, module, pixels)

    monkeypatch.setattr(Engine, "batches", counted)
    sktl.clear_cache()
    probe_layers(X, y, cv=3, backbone="sktl_mini")
    n_images = len(np.unique(X, axis=0))
    assert sum(passes) == n_images
    assert sktl.cache_info().computed == len(stages) * n_images
    probe_layers(X, y, cv=5, backbone="sktl_mini")
    assert sum(passes) == n_images


class CountedFolds(StratifiedKFold):
    n_calls = 0

    def split(self, *args):
        self.n_calls += 1
        return super().split(*args)


def test_folds_are_the_same_for_all_layers(digits):
    """A splitter that shuffles anew each time is asked once."""
    folds = CountedFolds(3, shuffle=True)
    probe = probe_layers(*digits, "sktl_mini", cv=folds)
    assert folds.n_calls == 1
    assert fold_scores(probe).shape[1] == 3


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_class_rarer_than_folds_is_accepted(images):
    """As by `compare_transfer` and `rank_backbones`."""
    y = ["rare"] * 3 + ["often"] * 17
    probe = probe_layers(images, y, "sktl_mini", cv=5)
    ranking = rank_backbones(images, y, ["sktl_mini"], method="probe", cv=5)
    (score,) = ranking.results_["score"]
    assert probe.results_["mean_test_score"][-1] == pytest.approx(score)


def test_folds_and_score_are_those_asked_for(digits):
    X, y = digits
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    splits = list(folds.split(X, y))
    by_splitter = probe_layers(
        X, y, cv=folds, scoring="balanced_accuracy", backbone="sktl_mini"
    )
    by_list = probe_layers(
        X, y, cv=splits, scoring="balanced_accuracy", backbone="sktl_mini"
    )
    np.testing.assert_array_equal(fold_scores(by_splitter), fold_scores(by_list))
    assert by_splitter.scoring_ == "balanced_accuracy"
    assert fold_scores(by_splitter).shape[1] == 4


def test_folds_fitted_at_the_same_time_give_the_same_scores(digits, probe):
    """In threads, which start at once."""
    with parallel_config(backend="threading"):
        two = probe_layers(*digits, "sktl_mini", cv=3, n_jobs=2)
    np.testing.assert_array_equal(fold_scores(two), fold_scores(probe))


def test_extractor_brings_its_parameters_but_not_its_layers(digits, probe):
    given = PretrainedFeatureExtractor(
        "sktl_mini", layers=["penultimate"], pooling="max"
    )
    found = probe_layers(*digits, given, cv=3)
    np.testing.assert_array_equal(fold_scores(found), fold_scores(probe))
    untrained = PretrainedFeatureExtractor("sktl_mini", weights=None)
    found = probe_layers(*digits, untrained, cv=3)
    assert (fold_scores(found)[-1] < fold_scores(probe)[-1]).all()


def test_network_of_the_user_is_probed(digits, tiny_network):
    X, y = digits
    probe = probe_layers(X[:30], y[:30] < 5, tiny_network, cv=3)
    assert probe.results_["stage"].tolist() == ["conv1", "conv2"]
    assert probe.results_["n_features"].tolist() == [4, 8]


def test_extractor_is_left_as_it_was(digits):
    given = PretrainedFeatureExtractor("sktl_mini", weights=None)
    before = repr(given)
    probe_layers(*digits, given, cv=3)
    assert repr(given) == before
    assert not hasattr(given, "layers_")


@pytest.mark.slow
def test_kind_of_labels_does_not_matter(digits, probe):
    X, y = digits
    kinds = [[f"digit {label}" for label in y], y - 5.0]
    for labels in kinds:
        with_labels = probe_layers(X, labels, cv=3, backbone="sktl_mini")
        np.testing.assert_array_equal(fold_scores(with_labels), fold_scores(probe))


def test_progress_is_shown_when_asked_for(digits, capsys):
    probe_layers(*digits, "sktl_mini", cv=3)
    assert capsys.readouterr() == ("", "")
    probe_layers(*digits, "sktl_mini", cv=3, verbose=1)
    shown = capsys.readouterr().err
    assert "images" in shown
    assert "layer" in shown


# --- the result -----------------------------------------------------------------------


def test_print_is_an_aligned_table_with_the_advice_below(probe, stages):
    table, advice = str(probe).split("\n\n")
    lines = table.splitlines()
    assert lines[0].split() == ["stage", "layer", "features", "accuracy", "se"]
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[:2] for line in lines[1:]] == list(map(list, stages.items()))
    assert max(map(len, advice.splitlines())) <= 70
    assert " ".join(advice.split()) == probe.recommendation_["text"]
    assert repr(probe) == str(probe)
    assert probe._repr_html_().count("<p>") == 1


def test_frame_has_a_row_per_stage(probe, stages):
    frame = probe.to_frame()
    assert frame.index.tolist() == list(stages.values())
    assert frame["stage"].tolist() == list(stages)
    assert frame["mean_test_score"].tolist() == list(probe.results_["mean_test_score"])


# --- the advice -----------------------------------------------------------------------

STAGES = ["stem", "layer1", "layer2", "layer3"]
LAYERS = ["stem.relu", "layer1.1.relu_1", "layer2.1.relu_1", "flatten"]
RISING = [0.5, 0.6, 0.7, 0.8]
HILL = [0.5, 0.9, 0.7, 0.6]  # late features are too special
CASES = [(RISING, 2, "last third"), (HILL, 1, "later ones alone are worse")]


def made_up(means, spread=0.02):
    """A probe whose scores vary over the folds, each stage's in its own order."""
    noise = spread * np.array([[-1, 0, 1], [0, 1, -1], [1, -1, 0], [-1, 1, 0]])
    return of_scores(np.array(means)[:, None] + noise)


def of_scores(scores):
    return LayerProbe(
        STAGES, LAYERS, [8] * 4, scores, [0.85, 0.88, 0.85], scoring="accuracy"
    )


@pytest.mark.parametrize(("means", "first", "reason"), CASES)
def test_last_third_is_advised_or_from_an_earlier_best_layer_on(means, first, reason):
    advice = made_up(means).recommendation_
    assert advice["layers"] == LAYERS[first:]
    assert advice["reason"] == reason
    assert advice["mean_test_score"] == pytest.approx(0.86)
    assert advice["se_test_score"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("n_stages", "n_advised"), [(2, 1), (3, 1), (4, 2), (5, 2), (9, 3), (19, 7)]
)
def test_a_third_is_rounded_up(n_stages, n_advised):
    names = [f"layer{i}" for i in range(n_stages)]
    scores = np.linspace(0.4, 0.9, n_stages)[:, None] + [0.0, 0.01]
    probe = LayerProbe(names, names, [8] * n_stages, scores, [0.9, 0.9], "accuracy")
    assert probe.recommendation_["layers"] == names[-n_advised:]


def test_score_together_is_that_of_a_pipeline_on_the_advised_layers(digits):
    X, y = digits
    probe = probe_layers(X, y, cv=3, scoring="neg_log_loss", backbone="sktl_mini")
    advice = probe.recommendation_
    assert len(advice["layers"]) == 2
    pipeline = make_pipeline(
        PretrainedFeatureExtractor("sktl_mini", layers=advice["layers"]),
        GlobalScaler(),
        LogisticRegression(max_iter=1000),
    )
    expected = cross_val_score(pipeline, X, y, cv=3, scoring="neg_log_loss")
    error = expected.std(ddof=1) / np.sqrt(3)
    assert advice["mean_test_score"] == pytest.approx(expected.mean(), rel=1e-3)
    assert advice["se_test_score"] == pytest.approx(error, rel=1e-3)


def test_text_gives_the_numbers_and_the_calls():
    text = made_up(HILL).recommendation_["text"]
    assert "the 3 layers from 'layer1.1.relu_1' on together (later" in text
    assert "accuracy 0.86" in text
    assert "standard error 0.01" in text
    assert "The last layer alone has 0.60" in text
    assert "the best, 'layer1.1.relu_1', 0.90" in text
    assert "PretrainedFeatureExtractor(layers=recommendation_['layers'])" in text
    assert "for GlobalScaler and LogisticRegression" in text
    assert "compare the default, FineTunedCNNClassifier()" in text


@pytest.mark.parametrize(
    ("means", "is_said"),
    [
        ([0.5, 0.6, 0.7, 0.87], True),
        ([0.5, 0.6, 0.87, 0.86], True),
        ([0.5, 0.6, 0.7, 0.86], True),
        (HILL, True),
        (RISING, False),
        ([0.5, 0.99, 0.7, 0.6], False),  # and that one is advised
    ],
)
def test_text_says_why_layers_together_are_advised_where_they_are_no_better(
    means, is_said
):
    text = made_up(means).recommendation_["text"]
    assert ("no better than the best one alone; but on average" in text) == is_said


def test_text_says_nothing_of_layers_together_where_one_is_advised():
    names, scores = ["layer0", "layer1"], [[0.7, 0.8], [0.7, 0.9]]
    probe = LayerProbe(names, names, [8] * 2, scores, scores[1], "accuracy")
    assert "together" not in probe.recommendation_["text"]


@pytest.mark.parametrize(("loss", "first"), [(0.9, 2), (1.1, 1)])
def test_later_layer_counts_as_worse_from_the_stated_standard_error_on(loss, first):
    """Paired over folds: folds differ in how hard they are, which is no doubt."""
    error = 0.02 / np.sqrt(3)  # of differences -0.02, 0 and 0.02
    hard = np.array([0.0, 0.2, 0.4])
    scores = np.full((4, 3), 0.1)
    scores[1] = 0.5
    scores[2] = 0.5 - loss * CLEAR_LOSS * error + np.array([-0.02, 0, 0.02])
    assert of_scores(scores + hard).recommendation_["layers"] == LAYERS[first:]


class RedIsLost(torch.nn.Module):
    """A network of four stages: two hand on red and green, the others green alone."""

    def __init__(self):
        super().__init__()
        widths = itertools.pairwise((3, 2, 2, 1, 1, 2))
        self.first, self.second, self.third, self.fourth, self.head = (
            torch.nn.Conv2d(n, m, 1) for n, m in widths
        )
        with torch.no_grad():
            for layer in (self.first, self.second, self.third, self.fourth):
                layer.bias.zero_()
            self.first.weight[..., 0, 0] = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
            self.second.weight[..., 0, 0] = torch.eye(2)
            self.third.weight[..., 0, 0] = torch.tensor([[0.0, 1.0]])
            self.fourth.weight[..., 0, 0] = 1

    def forward(self, x):
        x = self.fourth(self.third(self.second(self.first(x))))
        return self.head(x).mean((2, 3))


def test_layer_that_still_has_what_matters_is_found():
    """Red tells the classes apart; the last two stages hand on green alone."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = np.zeros((80, 8, 8, 3), np.uint8)
    X[..., 0] = (100 + 60 * y)[:, None, None]
    X[..., 1] = rng.integers(0, 256, 80)[:, None, None]
    network = RedIsLost()
    probe = probe_layers(X, y, PretrainedFeatureExtractor(network, image_size=8))
    assert probe.results_["mean_test_score"][:2].tolist() == [1, 1]
    assert (probe.results_["mean_test_score"][2:] < 0.8).all()
    advice = probe.recommendation_
    assert advice["layers"] == ["second", "third", "fourth"]
    assert advice["mean_test_score"] == 1
    features = PretrainedFeatureExtractor(
        network, image_size=8, layers=advice["layers"]
    )
    assert features.fit_transform(X).shape == (80, 2 + 1 + 1)


# --- the image ----------------------------------------------------------------------


@pytest.mark.usefixtures("pyplot")
class TestDisplay:
    def test_curve_and_bars_are_the_numbers(self, probe):
        display = probe.plot()
        assert isinstance(display, LayerProbeDisplay)
        (container,) = display.ax_.containers
        line, _, (bars,) = container.lines
        assert line.get_ydata().tolist() == list(probe.results_["mean_test_score"])
        low, high = np.array([path[:, 1] for path in bars.get_segments()]).T
        np.testing.assert_allclose(high - low, 2 * probe.results_["se_test_score"])
        labels = [label.get_text() for label in display.ax_.get_xticklabels()]
        assert labels == probe.results_["layer"].tolist()
        assert display.ax_.get_ylabel() == "accuracy"
        assert display.figure_ is display.ax_.figure

    @pytest.mark.parametrize(("means", "first", "reason"), CASES)
    def test_advised_layers_have_a_line_at_their_score(self, means, first, reason):
        display = made_up(means).plot()
        handles, labels = display.ax_.get_legend_handles_labels()
        marks = dict(zip(labels, handles, strict=True))
        line = marks[f"advised: from {LAYERS[first]} on, together\n({reason})"]
        np.testing.assert_allclose(line.get_ydata(), 0.86)
        start, end = line.get_xdata()
        assert first - 1 < start < first
        assert 3 < end < 3.5
        (band,) = display.ax_.collections[-1].get_paths()
        assert band.vertices[:, 1].min() == pytest.approx(0.85)
        assert band.vertices[:, 1].max() == pytest.approx(0.87)

    @pytest.mark.parametrize(
        "name", first_and_slow(["sktl_mini", "mobilenet_v2", "vit_b_16"])
    )
    def test_names_of_layers_are_whole_and_apart(self, name):
        """Slanted names are parallel: they meet where their ends are close."""
        weights = "DEFAULT" if name == "sktl_mini" else None
        ends = load_backbone(name, weights=weights).network.stage_ends()
        scores = np.linspace(0.4, 0.9, len(ends))[:, None] + [0.0, 0.01]
        widths = [8] * len(ends)
        args = list(ends), list(ends.values()), widths, scores, [0.9, 0.9], "accuracy"
        display = LayerProbe(*args).plot()
        display.figure_.canvas.draw()
        figure, axes = display.figure_.bbox, display.ax_.get_window_extent()
        labels = display.ax_.get_xticklabels()
        assert [label.get_text() for label in labels] == list(ends.values())
        for label in labels:
            box = label.get_window_extent()
            assert figure.x0 <= box.x0
            assert figure.y0 <= box.y0
            assert box.y1 <= axes.y0
        pixels = display.figure_.dpi / 72
        apart = axes.width / len(ends) * np.sin(np.pi / 4)
        assert apart > labels[0].get_fontsize() * pixels
        assert axes.height > 0.25 * figure.height

    def test_given_axes_are_drawn_on(self, probe, pyplot):
        figure, (left, right) = pyplot.subplots(1, 2)
        display = LayerProbeDisplay.from_results(probe).plot(ax=right)
        assert display.ax_ is right
        assert display.figure_ is figure
        assert not left.lines
        assert pyplot.get_fignums() == [figure.number]


# --- wrong use ------------------------------------------------------------------------

WRONG = [
    ({"y": [1] * 20}, r"y holds only 1 class, \[1\]; at least 2"),
    ({"y": np.linspace(0, 1, 20), "target": "labels"}, r"Unknown label type: continu"),
    ({"y": np.linspace(0, 1, 20), "scoring": "f1"}, r"scoring='f1' does not suit y"),
    ({"target": "tags"}, r"target='tags' must be 'auto', 'labels', 'indicators' or"),
    ({"y": ["a", None] * 10}, r"no label \(None or NaN\) in 10 row"),
    ({"y": [0, 1]}, r"X has \d+ .* y has 2: inconsistent numbers of samples"),
    ({"cv": 11}, r"cv=11 folds need a class of at least 11 rows; the largest in y, 0"),
    ({"cv": 1}, r"k-fold|n_splits=1"),
    (
        {"cv": [(range(10), range(10, 20))]},
        r"gives 1 split, and at least 2 are needed",
    ),
    ({"scoring": "beauty"}, r"beauty"),
    (
        {"scoring": ["accuracy", "f1"]},
        r"scoring=\['accuracy', 'f1'\] must be one score",
    ),
    ({"backbone": 3}, r"backbone is a int. Accepted: a name of sktl.list_backbones"),
    ({"backbone": None}, r"backbone is a NoneType. Accepted"),
    (
        {"backbone": {"a": "sktl_mini"}},
        r"backbone is a dict. Accepted: a name .* PretrainedFeatureExtractor",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_use_is_named_before_any_image_has_passed(images, change, message):
    good = {"X": images, "y": np.arange(20) % 2, "backbone": "sktl_mini"}
    sktl.clear_cache()
    with pytest.raises(ValueError, match=message):
        probe_layers(**good | change)
    assert sktl.cache_info().computed == 0


def test_unknown_name_and_missing_weights_are_named(images, tmp_path):
    y = np.arange(20) % 2
    with pytest.raises(UnknownBackboneError, match="Closest: 'resnet18'"):
        probe_layers(images, y, "resnet_18")
    missing = PretrainedFeatureExtractor(
        "sktl_mini", weights=tmp_path / "none.safetensors"
    )
    with pytest.raises(WeightsNotAvailableError, match="none.safetensors"):
        probe_layers(images, y, missing)


def test_network_without_two_stages_has_no_layers_to_compare(images):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    extractor = PretrainedFeatureExtractor(network, image_size=8)
    with pytest.raises(ValueError, match=r"has 1 stage\(s\) before its head, so there"):
        probe_layers(images, np.arange(20) % 2, extractor)


def test_unreadable_images_are_listed(images):
    X = [encode(image) for image in images]
    X[3] = X[7] = b"no image"
    y = np.arange(20) % 2
    with pytest.raises(ImageReadError, match=r"2 image\(s\) of X could not be read"):
        probe_layers(X, y, backbone="sktl_mini")


@pytest.mark.filterwarnings("ignore:.*could not be read")
def test_rows_of_unreadable_images_are_named_when_they_are_let_through(images):
    X = [encode(image) for image in images]
    X[3] = b"no image"
    lenient = PretrainedFeatureExtractor("sktl_mini", on_error="nan")
    with pytest.raises(ValueError, match=r"'sktl_mini' are not finite in 1 row.*\[3\]"):
        probe_layers(X, np.arange(20) % 2, lenient)


def test_layer_that_is_clearly_better_alone_is_advised():
    probe = LayerProbe(
        stages=["one", "two", "three"],
        layers=["a", "b", "c"],
        n_features=[4, 4, 4],
        scores=[[0.9, 0.91, 0.9], [0.7, 0.7, 0.71], [0.3, 0.4, 0.3]],
        together=[0.5, 0.5, 0.52],
        scoring="accuracy",
    )
    advice = probe.recommendation_
    assert advice["layers"] == ["a"]
    assert advice["mean_test_score"] == pytest.approx(np.mean([0.9, 0.91, 0.9]))
    assert "use the layer 'a' (clearly better alone): accuracy 0.903" in advice["text"]
    assert "the 3 from 'a' on together, 0.507." in advice["text"]


def test_last_layer_that_is_hardly_better_alone_may_be_so_by_luck():
    probe = LayerProbe(
        stages=["one", "two", "three", "four"],
        layers=["a", "b", "c", "d"],
        n_features=[4, 4, 4, 4],
        scores=[[0.3, 0.3, 0.4], [0.4, 0.4, 0.5], [0.5, 0.6, 0.5], [0.6, 0.7, 0.7]],
        together=[0.6, 0.7, 0.65],
        scoring="accuracy",
    )
    advice = probe.recommendation_
    assert advice["layers"] == ["c", "d"]
    assert "more than any other layer alone (among many layers" in advice["text"]


def test_splitter_that_needs_groups_is_refused_with_what_to_pass(digits):
    with pytest.raises(ValueError, match=r"needs groups. Pass its splits, as in cv=\["):
        probe_layers(*digits, "sktl_mini", cv=GroupKFold(3))


def test_numbers_taken_for_labels_are_warned_of_once():
    """Not by scikit-learn for each fold and layer too."""
    X = np.random.default_rng(0).integers(0, 256, (44, 8, 8), np.uint8)
    ids = np.repeat(np.arange(23), 2)[:44]
    ids[:2] = 30, 31  # 24 classes in 44 rows, most of them in both folds
    with pytest.warns(UserWarning, match="different numbers") as caught:
        probe_layers(X, ids, "sktl_mini", cv=2)
    said = " ".join(str(w.message) for w in caught)
    assert said.count("different numbers") == 1
    assert "unique classes" not in said
