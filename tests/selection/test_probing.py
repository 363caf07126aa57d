"""`probe_layers`: scores as by plain scikit-learn, in one pass; advice and image."""

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
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
from sktl._selection.probing import CLEAR_GAIN, LAYER_SLACK, MANY_LABELS
from sktl.exceptions import (
    ImageReadError,
    UnknownBackboneError,
    WeightsNotAvailableError,
)
from tests.helpers import encode


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


def test_frame_has_a_row_per_stage(probe, stages):
    frame = probe.to_frame()
    assert frame.index.tolist() == list(stages.values())
    assert frame["stage"].tolist() == list(stages)
    assert frame["mean_test_score"].tolist() == list(probe.results_["mean_test_score"])


# --- the advice -----------------------------------------------------------------------

STAGES = ["stem", "layer1", "layer2", "layer3"]
LAYERS = ["stem.relu", "layer1.1.relu_1", "layer2.1.relu_1", "flatten"]
FEW, MANY = MANY_LABELS - 1, MANY_LABELS
RISING = [0.5, 0.6, 0.7, 0.8]  # late features fit best: a similar task
HILL = [0.5, 0.8, 0.9, 0.6]  # late features are too special: a different one


def made_up(means, labels_per_class, spread=0.02):
    """A probe whose scores vary over the folds, each stage's in its own order."""
    noise = spread * np.array([[-1, 0, 1], [0, 1, -1], [1, -1, 0], [-1, 1, 0]])
    scores = np.array(means)[:, None] + noise
    return LayerProbe(STAGES, LAYERS, [8] * 4, scores, "accuracy", labels_per_class)


CASES = [
    (RISING, FEW, "small, similar", "linear_probe", "last", "flatten"),
    (HILL, FEW, "small, different", "linear_probe", "last", "layer2.1.relu_1"),
    (RISING, MANY, "large, similar", "lp_ft", "layer3", "flatten"),
    (HILL, MANY, "large, different", "full", "stem", "layer2.1.relu_1"),
]


@pytest.mark.parametrize(
    ("means", "labels", "case", "strategy", "unfreeze_from", "layers"), CASES
)
def test_each_textbook_case_has_its_advice(
    means, labels, case, strategy, unfreeze_from, layers
):
    advice = made_up(means, labels).recommendation_
    assert advice["case"] == case
    assert advice["strategy"] == strategy
    assert advice["unfreeze_from"] == unfreeze_from
    assert advice["layers"] == layers
    assert advice["labels_per_class"] == labels
    assert advice["last_minus_middle"] == pytest.approx(means[3] - means[1])
    assert {type(value) for value in advice.values()} == {str, float}
    assert "compare the default, FineTunedCNNClassifier()." in advice["text"]


@pytest.mark.parametrize(
    ("means", "labels", "frozen_up_to", "layer"),
    [
        ([0.5, 0.8], FEW, "flatten", "flatten"),
        ([0.8, 0.5], FEW, "flatten", "relu1"),
        ([0.5, 0.8], MANY, "relu1", "flatten"),
        ([0.8, 0.5], MANY, "", "relu1"),
    ],
)
def test_advice_is_accepted_by_the_estimators(
    make, tiny_network, images, means, labels, frozen_up_to, layer
):
    """And does what its words say: nothing before `unfreeze_from` is trained."""
    ends = load_backbone(tiny_network).network.stage_ends()
    scores = np.array(means)[:, None] + [0, 0.01]
    args = list(ends), list(ends.values()), [4, 8], scores, "accuracy", labels
    advice = LayerProbe(*args).recommendation_
    clf = make(advice["strategy"], unfreeze_from=advice["unfreeze_from"])
    assert clf.fit(images, np.arange(20) % 2).frozen_up_to_ == frozen_up_to
    extractor = PretrainedFeatureExtractor(tiny_network, layers=advice["layers"])
    assert extractor.fit(images).layers_ == [layer]


@pytest.mark.parametrize(("means", "labels"), [case[:2] for case in CASES])
def test_text_gives_the_numbers_and_the_call(means, labels):
    advice = made_up(means, labels).recommendation_
    text = advice["text"]
    size, _ = advice["case"].split(", ")
    assert f"The set is {size}: {labels} labels per class" in text
    assert f"{abs(advice['last_minus_middle']):.3f}" in text
    assert f"standard error of {advice['standard_error']:.3f}" in text
    is_last = advice["layers"] == "flatten"
    call = {
        "full": "FineTunedCNNClassifier(strategy='full')",
        "lp_ft": "FineTunedCNNClassifier(strategy='lp_ft', unfreeze_from='layer3')",
        "linear_probe": "FineTunedCNNClassifier(strategy='linear_probe')"
        if is_last
        else "PretrainedFeatureExtractor(layers='layer2.1.relu_1')",
    }[advice["strategy"]]
    assert call in text


def test_text_says_why_the_layer_is_not_that_of_the_best_mean():
    text = made_up([0.5, 0.6, 0.805, 0.8], FEW).recommendation_["text"]
    assert "best mean is that of 'layer2.1.relu_1' (0.805); 'flatten' (0.800)" in text
    assert "best mean" not in made_up(RISING, FEW).recommendation_["text"]


def test_standard_error_is_paired_over_folds():
    """Folds differ in how hard they are; that is no doubt about the difference."""
    hard = np.array([0.0, 0.2, 0.4])
    scores = [hard + mean for mean in (0.2, 0.3, 0.4, 0.5)]
    probe = LayerProbe(STAGES, LAYERS, [8] * 4, scores, "accuracy", 5.0)
    assert probe.results_["se_test_score"] == pytest.approx([0.2 / np.sqrt(3)] * 4)
    assert probe.recommendation_["standard_error"] == pytest.approx(0)
    assert probe.recommendation_["case"] == "small, similar"


@pytest.mark.parametrize(("factor", "domain"), [(0.9, "different"), (1.1, "similar")])
def test_task_is_similar_from_the_stated_standard_error_on(factor, domain):
    error = 0.02 / np.sqrt(3)  # of differences -0.02, 0 and 0.02
    last = 0.6 + factor * CLEAR_GAIN * error
    scores = np.full((4, 3), 0.6)
    scores[3] = last + np.array([-0.02, 0, 0.02])
    advice = LayerProbe(STAGES, LAYERS, [8] * 4, scores, "accuracy", 5).recommendation_
    assert advice["standard_error"] == pytest.approx(error)
    assert advice["case"] == f"small, {domain}"


@pytest.mark.parametrize(("loss", "layer"), [(0.9, "flatten"), (1.1, LAYERS[2])])
def test_later_layer_is_taken_unless_it_is_clearly_worse(loss, layer):
    error = 0.02 / np.sqrt(3)
    scores = np.full((4, 3), 0.5)
    scores[2] = 0.8
    scores[3] = 0.8 - loss * LAYER_SLACK * error + np.array([-0.02, 0, 0.02])
    probe = LayerProbe(STAGES, LAYERS, [8] * 4, scores, "accuracy", 5)
    assert probe.recommendation_["layers"] == layer


def test_where_all_layers_are_perfect_the_last_is_taken():
    """There is nothing to gain from unfreezing more."""
    advice = made_up([1.0] * 4, MANY, spread=0).recommendation_
    assert advice["unfreeze_from"] == "layer3"
    assert advice["layers"] == "flatten"


class RedIsLost(torch.nn.Module):
    """A network of three stages: two hand on red and green, the third green alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = (
            torch.nn.Conv2d(n, m, 1) for n, m in ((3, 2), (2, 2), (2, 1), (1, 2))
        )
        with torch.no_grad():
            for layer in (self.first, self.second, self.third):
                layer.bias.zero_()
            self.first.weight[..., 0, 0] = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
            self.second.weight[..., 0, 0] = torch.eye(2)
            self.third.weight[..., 0, 0] = torch.tensor([[0.0, 1.0]])

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x)))).mean((2, 3))


def test_layer_that_loses_what_matters_is_found():
    """Red tells the classes apart; the last stage hands on green alone."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = np.zeros((80, 8, 8, 3), np.uint8)
    X[..., 0] = (100 + 60 * y)[:, None, None]
    X[..., 1] = rng.integers(0, 256, 80)[:, None, None]
    extractor = PretrainedFeatureExtractor(RedIsLost(), image_size=8)
    probe = probe_layers(X, y, extractor)
    assert probe.results_["mean_test_score"][:2].tolist() == [1, 1]
    assert probe.results_["mean_test_score"][2] < 0.8
    advice = probe.recommendation_
    assert advice["layers"] == "second"
    assert advice["case"] == "small, different"


def test_labels_per_class_are_those_given(digits):
    X, y = digits
    advice = probe_layers(X, y < 3, cv=3, backbone="sktl_mini").recommendation_
    assert advice["labels_per_class"] == 60


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

    @pytest.mark.parametrize(
        ("means", "labels", "edge"),
        [(RISING, MANY, 2.5), (HILL, MANY, -0.5), (RISING, FEW, 3.5)],
    )
    def test_what_is_to_be_trained_is_marked(self, means, labels, edge):
        """A line where it begins, and grey from there on; a ring at the layer."""
        probe = made_up(means, labels)
        display = probe.plot()
        by_label = dict(
            zip(*reversed(display.ax_.get_legend_handles_labels()), strict=True)
        )
        layer = probe.recommendation_["layers"]
        ring = by_label.pop(f"advised: {layer} (best mean)")
        assert ring.get_xdata().tolist() == [LAYERS.index(layer)]
        (line,) = [h for label, h in by_label.items() if label.startswith("train: ")]
        assert line.get_xdata() == [edge, edge]
        (grey,) = display.ax_.patches
        assert grey.get_x() == edge
        assert grey.get_x() + grey.get_width() >= display.ax_.get_xlim()[1] > 3.5

    def test_better_mean_is_marked_beside_the_advised_layer(self):
        """The reason is given: it is the last that is not clearly worse."""
        scores = np.repeat([[0.61], [0.88], [0.987], [0.98]], 3, axis=1)
        scores[2] += [-0.02, 0, 0.02]
        scores[3] += [0.02, 0, -0.02]
        probe = LayerProbe(STAGES, LAYERS, [8] * 4, scores, "accuracy", MANY)
        assert probe.recommendation_["layers"] == "flatten"
        handles, labels = probe.plot().ax_.get_legend_handles_labels()
        marks = dict(zip(labels, handles, strict=True))
        why = "last layer not clearly worse than the best"
        assert marks[f"advised: flatten ({why})"].get_xdata().tolist() == [3]
        assert marks[f"best mean: {LAYERS[2]}"].get_xdata().tolist() == [2]

    @pytest.mark.parametrize("name", ["sktl_mini", "mobilenet_v2", "vit_b_16"])
    def test_names_of_layers_are_whole_and_apart(self, name):
        """Slanted names are parallel: they meet where their ends are close."""
        weights = "DEFAULT" if name == "sktl_mini" else None
        ends = load_backbone(name, weights=weights).network.stage_ends()
        scores = np.linspace(0.4, 0.9, len(ends))[:, None] + [0.0, 0.01]
        widths = [8] * len(ends)
        args = list(ends), list(ends.values()), widths, scores, "accuracy", 30.0
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
    ({"y": [0, 1]}, r"inconsistent numbers of samples"),
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


# --- real weights, real photographs ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [("hymenoptera", "large, similar"), ("rsscn7", "small, different")],
)
def test_insects_are_nearer_to_imagenet_than_aerial_scenes(shared, name, case):
    paths = sorted((shared / "data" / name / "train").glob("*/*.*"))
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1",
        weights=shared / "weights" / "squeezenet1_1-torchvision.fp16.safetensors",
        image_size=112,
        n_jobs=2,
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    probe = probe_layers(
        paths, [path.parent.name for path in paths], extractor, cv=folds
    )
    print(probe)
    assert probe.recommendation_["case"] == case
