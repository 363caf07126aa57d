"""`rank_backbones`: scores as by slower and plainer ways, and the order they give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    LeaveOneOut,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from torchvision.models import MobileNet_V3_Small_Weights, get_model

import sktl
from sktl import GlobalScaler, Preprocessing, PretrainedFeatureExtractor
from sktl._networks import backbones
from sktl._networks.kept import free_networks
from sktl._selection.ranking import METHODS, BackboneRanking, rank_backbones
from sktl._selection.transferability import (
    log_maximum_evidence,
    neighbours_accuracy,
    shrunk_h_score,
)
from sktl.exceptions import UnknownBackboneError, WeightsNotAvailableError
from tests.helpers import encode, first_and_slow

CLOSED_FORMS = [log_maximum_evidence, shrunk_h_score]
SHAPES = [(40, 6), (25, 25), (20, 60), (12, 1), (150, 30)]  # images, features
WEIGHTS = {
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
}


# --- the scores, on matrices ----------------------------------------------------------


def made_up(n, d, n_classes=3, signal=1.0, seed=0):
    """Features with class means of size `signal`, and labels as columns of 0 and 1."""
    rng = np.random.default_rng(seed)
    membership = np.eye(n_classes)[rng.permutation(np.arange(n) % n_classes)]
    means = signal * rng.normal(size=(n_classes, d))
    return rng.normal(size=(n, d)) + membership @ means + 0.5, membership


def brute_force_evidence(features, target):
    """Maximum of the density of `target` over both variances, from many starts."""
    n = len(features)
    gram = features @ features.T

    def cost(logs):
        noise, prior = np.exp(np.clip(logs, -30, 30))
        covariance = noise * np.eye(n) + prior * gram
        return -multivariate_normal(cov=covariance, allow_singular=False).logpdf(target)

    starts = [(noise, prior) for noise in (-4, 2) for prior in (-8, 0)]
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 500}
    fits = [minimize(cost, s, method="Nelder-Mead", options=options) for s in starts]
    return -min(fit.fun for fit in fits)


@pytest.mark.parametrize("signal", first_and_slow([1.0, 0.0]))
@pytest.mark.parametrize(("n", "d"), first_and_slow(sorted(SHAPES[:4])))
def test_logme_is_the_maximum_that_a_search_over_both_variances_finds(n, d, signal):
    features, membership = made_up(n, d, signal=signal)
    expected = [brute_force_evidence(features, column) / n for column in membership.T]
    found = log_maximum_evidence(features, membership)
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_logme_of_useless_features_is_that_of_noise_alone():
    """Without weights a column y is normal around 0, and y'y / n its variance."""
    _, membership = made_up(30, 1)
    variances = (membership**2).mean(axis=0)
    expected = np.mean(-(np.log(2 * np.pi * variances) + 1) / 2)
    nought = np.zeros((30, 4))
    assert log_maximum_evidence(nought, membership) == pytest.approx(expected)


def explicit_h_score(features, membership):
    """By covariance matrices, with scikit-learn's shrinkage."""
    fit = LedoitWolf().fit(features)
    n, (sizes, sums) = len(features), (membership.sum(axis=0), membership.T @ features)
    conditional = membership @ (sums / sizes[:, None])  # E[f | y], a row per image
    between = np.cov(conditional.T, bias=True).reshape(fit.covariance_.shape)
    assert len(conditional) == n
    return np.trace(np.linalg.pinv(fit.covariance_) @ between) * (1 - fit.shrinkage_)


@pytest.mark.parametrize("signal", first_and_slow([1.0, 0.0]))
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_h_score_is_that_of_explicit_covariances(n, d, signal):
    features, membership = made_up(n, d, signal=signal)
    expected = explicit_h_score(features, membership)
    found = shrunk_h_score(features, membership)
    assert found == pytest.approx(expected, rel=1e-8)


def test_h_score_of_many_images_is_the_plain_one():
    """Bao et al.: the trace of inv(cov f) cov(E[f | y]), without shrinkage."""
    features, membership = made_up(20_000, 4)
    means = membership.T @ features / membership.sum(axis=0)[:, None]
    plain = np.trace(
        np.linalg.inv(np.cov(features.T, bias=True))
        @ np.cov((membership @ means).T, bias=True)
    )
    assert shrunk_h_score(features, membership) == pytest.approx(plain, rel=0.01)


def test_plain_h_score_would_tell_nothing_with_fewer_images_than_features():
    """Why the covariance is shrunk: noise and signal would score the same."""
    noise, membership = made_up(30, 90, signal=0.0)
    signal, _ = made_up(30, 90, signal=1.0)
    plain = []
    for features in (noise, signal):
        means = membership.T @ features / membership.sum(axis=0)[:, None]
        inverse = np.linalg.pinv(np.cov(features.T, bias=True))
        plain.append(
            np.trace(inverse @ np.cov((membership @ means).T, bias=True)).round(6)
        )
    assert plain == [2.0, 2.0]
    assert shrunk_h_score(signal, membership) > shrunk_h_score(noise, membership) + 0.1


@pytest.mark.parametrize("score", CLOSED_FORMS)
@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 60)])
@pytest.mark.parametrize("change", ["rotate", "shuffle", "rename", "scale", "zeros"])
def test_score_does_not_depend_on_what_carries_no_information(score, n, d, change):
    features, membership = made_up(n, d)
    before = score(features, membership)
    order = np.random.default_rng(1).permutation(n)
    after = {
        "rotate": lambda: score(
            features @ ortho_group.rvs(d, random_state=0), membership
        ),
        "shuffle": lambda: score(features[order], membership[order]),
        "rename": lambda: score(features, membership[:, [2, 0, 1]]),
        "scale": lambda: score(1e-4 * features, membership),
        "zeros": lambda: score(np.hstack([features, np.zeros((n, 5))]), membership),
    }[change]()
    assert after == pytest.approx(before, rel=1e-7)


def test_h_score_leaves_constant_columns_out():
    features, membership = made_up(40, 6)
    wider = np.hstack([features, np.full((40, 3), 7.5)])
    expected = shrunk_h_score(features, membership)
    assert shrunk_h_score(wider, membership) == pytest.approx(expected)


@pytest.mark.parametrize("score", CLOSED_FORMS)
@pytest.mark.parametrize("width", [1, 8, 100])
@pytest.mark.parametrize("value", [0.0, 3.25])
def test_features_that_never_vary_get_the_lowest_score(score, width, value):
    """A network with dead outputs is ranked last, and breaks nothing."""
    features, membership = made_up(30, width)
    dead = score(np.full((30, width), value), membership)
    assert np.isfinite(dead)
    assert dead < score(features + 3 * membership[:, :1], membership)


@pytest.mark.parametrize("score", CLOSED_FORMS)
def test_perfect_features_give_a_finite_score_above_all_others(score):
    features, membership = made_up(30, 10)
    perfect = score(membership, membership)
    assert np.isfinite(perfect)
    assert perfect > score(features, membership)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 30),
    d=st.integers(1, 40),
    n_equal=st.integers(0, 10),
    exponent=st.integers(-8, 8),
    seed=st.integers(0, 1000),
)
def test_scores_are_finite_and_bounded_whatever_the_shape(
    n, d, n_equal, exponent, seed
):
    """Duplicate columns and rows and extreme scales; an H-score never exceeds C - 1."""
    features, membership = made_up(n, d, n_classes=2, seed=seed)
    features = np.hstack([features, features[:, :1].repeat(n_equal, axis=1)])
    features[: n // 2] = features[0]
    features *= 10.0**exponent
    assert np.isfinite(log_maximum_evidence(features, membership))
    assert 0 <= shrunk_h_score(features, membership) <= 1 + 1e-9


# --- the ranking, on images -----------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:150], y[:150]


@pytest.fixture(scope="module")
def candidates():
    return {
        "untrained": PretrainedFeatureExtractor("sktl_mini", weights=None),
        "shipped": "sktl_mini",
        "early layer": PretrainedFeatureExtractor(
            "sktl_mini", layers=sktl.layer_names("sktl_mini")[2]
        ),
    }


@pytest.fixture(scope="module", params=METHODS)
def ranking(request, digits, candidates):
    return rank_backbones(*digits, candidates, method=request.param)


def by_label(ranking, name="score"):
    return dict(
        zip(ranking.results_["backbone"], ranking.results_[name].tolist(), strict=True)
    )


def as_extractor(candidate):
    is_name = isinstance(candidate, str)
    return PretrainedFeatureExtractor(candidate) if is_name else candidate


def test_scores_are_those_of_the_features(digits, candidates, ranking):
    X, y = digits
    membership = (y[:, None] == np.unique(y)).astype(float)
    probe = make_pipeline(GlobalScaler(), LogisticRegression(max_iter=1000))
    for label, score in by_label(ranking).items():
        features = as_extractor(candidates[label]).fit_transform(X)
        expected = {
            "logme": lambda f: log_maximum_evidence(f.astype(float), membership),
            "hscore": lambda f: shrunk_h_score(f.astype(float), membership),
            "knn": lambda f: neighbours_accuracy(f.astype(float), membership),
            "probe": lambda f: cross_val_score(probe, f, y, cv=5).mean(),
        }[ranking.method_](features)
        assert score == pytest.approx(expected, rel=1e-12)
        assert by_label(ranking, "n_features")[label] == features.shape[1]


def test_knn_is_the_accuracy_of_leaving_each_row_out():
    """Of two classes there are no ties among five."""
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(40, 6)), np.arange(40) % 2
    features[y == 1, 0] += 1.5
    model = KNeighborsClassifier(5, metric="cosine")
    expected = cross_val_score(model, features, y, cv=LeaveOneOut()).mean()

    assert 0.5 < expected < 1
    assert neighbours_accuracy(features, np.eye(2)[y]) == pytest.approx(expected)


def test_knn_of_a_tie_is_the_class_of_the_nearest():
    degrees = np.radians([0, 1, 3, 40, 44])
    features = np.c_[np.cos(degrees), np.sin(degrees)]
    y = np.array([0, 1, 1, 0, 1])
    # The four others vote 3 to 1, 2 to 2, 2 to 2, 3 to 1, 2 to 2; the nearest are of
    # classes 1, 0, 1, 1, 0.
    votes = np.array([1, 0, 1, 1, 0])

    assert neighbours_accuracy(features, np.eye(2)[y]) == (votes == y).mean()


def test_several_methods_stand_beside_each_other(digits, candidates):
    methods = ["knn", "logme"]
    both = rank_backbones(*digits, candidates, method=methods)
    for name, key in (("knn", "score"), ("logme", "logme")):
        alone = rank_backbones(*digits, candidates, method=name)
        assert by_label(both, key) == by_label(alone)
    assert both.method_ == "knn"
    assert str(both).split()[:4] == ["rank", "backbone", "knn", "logme"]


def test_methods_that_disagree_on_the_best_are_said():
    results = results_of([0.5, 0.7, 0.6]) | {
        "knn": np.array([0.9, 0.1, 0.2]),
        "imagenet_accuracy": np.array([np.nan, 0.3, 0.8]),
    }
    ranking = BackboneRanking(results, ["logme", "knn"])
    said = "(logme: net1, knn: net0, ImageNet accuracy: net2)"
    assert said in ranking.disagreement_
    assert str(ranking).endswith(ranking.disagreement_)
    assert str(ranking).split()[4] == "ImageNet"
    alike = results | {"knn": results["score"], "imagenet_accuracy": np.full(3, np.nan)}
    assert BackboneRanking(alike, ["logme", "knn"]).disagreement_ == ""
    # The best has no published accuracy to compare with.
    alike |= {"imagenet_accuracy": np.array([0.9, np.nan, 0.8])}
    assert BackboneRanking(alike, ["logme", "knn"]).disagreement_ == ""


def test_published_accuracy_is_that_of_the_weights(digits, monkeypatch):
    """A file that has the digest of the published one is the published one."""
    torch.manual_seed(0)
    state = get_model("mobilenet_v3_small", weights=None).state_dict()
    digest = MobileNet_V3_Small_Weights.DEFAULT.url.rpartition("-")[2][:8]
    read = lambda file: (digest, lambda: state, "weights", None)  # noqa: E731
    monkeypatch.setattr(backbones, "_read_file", read)
    X, y = digits
    small = PretrainedFeatureExtractor("mobilenet_v3_small", preprocessing=TINY)

    untrained = clone(small).set_params(weights=None)

    ranking = rank_backbones(X[:20], y[:20], {"small": small, "untrained": untrained})

    free_networks()
    assert by_label(ranking, "imagenet_accuracy")["small"] == pytest.approx(0.67668)
    assert np.isnan(by_label(ranking, "imagenet_accuracy")["untrained"])
    assert small.fit(X[:20]).weights_source_.startswith("https://download.pytorch")


def test_shipped_network_beats_its_untrained_twin_on_digits(ranking):
    if ranking.method_ == "hscore":
        pytest.skip("150 images of 512 features: H-scores are all near their maximum")
    scores = by_label(ranking)
    assert scores["shipped"] > scores["untrained"]


def test_best_comes_first(ranking):
    results = ranking.results_
    assert (np.diff(results["score"]) <= 0).all()
    assert results["rank"].tolist() == [1, 2, 3]
    assert (results["extraction_time"] >= 0).all()
    assert {len(values) for values in results.values()} == {3}


class Planted(PretrainedFeatureExtractor):
    """Noise with the label, scaled by `image_size`, in one of its 20 columns."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        rows = np.random.default_rng(0).normal(size=(len(X), 20)).astype(np.float32)
        rows[:, 7] += self.image_size / 10 * X[:, 0]
        return rows


@pytest.mark.parametrize("method", METHODS)
def test_the_more_informative_features_win(method):
    """Everything else about the candidates is the same, noise included."""
    y = np.arange(100) % 2
    sizes = {"strong": 40, "none": 0, "weak": 15}
    planted = {label: Planted(image_size=size) for label, size in sizes.items()}
    ranking = rank_backbones(y[:, None], y, planted, method=method)
    assert ranking.results_["backbone"].tolist() == ["strong", "weak", "none"]


@pytest.mark.parametrize("method", first_and_slow(reversed(METHODS)))
def test_kind_of_labels_does_not_matter(digits, method):
    X, y = digits
    labels = np.array([f"digit {label}" for label in y], dtype=object)
    kinds = [y, labels, labels.tolist(), y - 5, y.astype(float), y[:, None]]
    scores = [
        rank_backbones(X, kind, ["sktl_mini"], method=method).results_["score"][0]
        for kind in kinds
    ]
    assert scores == pytest.approx([scores[0]] * len(kinds), rel=1e-9)


def test_cv_and_scoring_are_those_of_the_probe(digits):
    X, y = digits
    folds = StratifiedKFold(3, shuffle=True, random_state=1)
    asked = {"method": "probe", "cv": folds, "scoring": "neg_log_loss"}
    ranking = rank_backbones(X, y, ["sktl_mini"], **asked)
    probe = make_pipeline(
        PretrainedFeatureExtractor("sktl_mini"),
        GlobalScaler(),
        LogisticRegression(max_iter=1000),
    )
    expected = cross_val_score(probe, X, y, cv=folds, scoring="neg_log_loss").mean()
    assert ranking.results_["score"][0] == pytest.approx(expected)


def test_every_image_passes_each_network_once(digits, candidates):
    X, y = digits
    sktl.clear_cache()
    for method in METHODS:
        rank_backbones(X, y, candidates, method=method)
    n_images = len(np.unique(X, axis=0))
    assert sktl.cache_info().computed == len(candidates) * n_images


@pytest.mark.slow
def test_default_ranks_what_ships_beside_its_untrained_twin(digits):
    X, y = digits
    ranking = rank_backbones(X[:40], y[:40])
    assert ranking.method_ == "logme"
    assert sorted(ranking.results_["backbone"]) == [
        "sktl_mini",
        "sktl_photo",
        "sktl_photo, untrained",
    ]


def test_network_of_the_user_is_a_candidate(digits, tiny_network):
    X, y = digits
    ranking = rank_backbones(X[:30], y[:30], {"mine": tiny_network})
    assert ranking.results_["n_features"].tolist() == [8]


def test_extractors_are_left_as_they_were(digits, candidates):
    before = {label: repr(c) for label, c in candidates.items()}
    given = PretrainedFeatureExtractor("sktl_mini", weights=None)
    rank_backbones(*digits, candidates | {"given": given})
    assert {label: repr(c) for label, c in candidates.items()} == before
    assert not hasattr(given, "layers_")


def test_progress_bar_is_shown_when_asked_for(digits, capsys):
    rank_backbones(*digits, ["sktl_mini"])
    assert capsys.readouterr() == ("", "")
    rank_backbones(*digits, ["sktl_mini"], verbose=1)
    assert "sktl_mini" in capsys.readouterr().err


# --- the result -----------------------------------------------------------------------


TINY = Preprocessing(crop=32)


def results_of(scores):
    return {
        "backbone": np.array([f"net{i}" for i in range(len(scores))], dtype=object),
        "score": np.array(scores),
        "n_features": np.arange(len(scores)) + 64,
        "extraction_time": np.ones(len(scores)),
    }


def test_equal_scores_share_a_rank_and_keep_their_order():
    ranking = BackboneRanking(results_of([0.5, 0.7, 0.5, 0.1]), "probe")
    names = ranking.results_["backbone"].tolist()
    assert names == ["net1", "net0", "net2", "net3"]
    assert ranking.results_["rank"].tolist() == [1, 2, 2, 4]


def test_print_is_an_aligned_table(ranking):
    lines = str(ranking).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    title = ["rank", "backbone", ranking.method_, "features", "seconds"]
    assert lines[0].split() == title
    assert repr(ranking) == str(ranking)


def test_frame_has_a_row_per_network(ranking):
    frame = ranking.to_frame()
    assert list(frame.index) == list(ranking.results_["backbone"])
    assert frame["rank"].tolist() == [1, 2, 3]
    assert frame["score"].to_dict() == pytest.approx(by_label(ranking))


# --- wrong use ------------------------------------------------------------------------

EXTRACTOR = PretrainedFeatureExtractor("sktl_mini")
WRONG = [
    ({"method": ["knn", "knn"]}, r"each once"),
    ({"method": []}, r"method=\[\] is not known"),
    ({"method": "leep"}, r"method='leep' is not known. Accepted: 'logme', 'hscore'"),
    ({"method": None}, r"method=None is not known"),
    ({"backbones": []}, r"backbones=\[\] must be .* at least one entry"),
    ({"backbones": {}}, r"backbones=\{\} must be .* at least one entry"),
    ({"backbones": "sktl_mini"}, r"backbones='sktl_mini' must be 'default', a list"),
    ({"backbones": 3}, r"backbones=3 must be"),
    ({"backbones": ["sktl_mini", EXTRACTOR]}, r"backbones\[1\] is a PretrainedF.*dict"),
    ({"backbones": ["sktl_mini"] * 2}, r"backbones\[1\]='sktl_mini' is listed twice"),
    ({"backbones": {"a": 5}}, r"backbones\['a'\] is a int. Accepted: a name"),
    ({"y": [1] * 20}, r"y holds only 1 class, \[1\]; at least 2"),
    ({"y": np.linspace(0, 1, 20), "target": "labels"}, r"Unknown label type: continu"),
    (
        {"y": np.linspace(0, 1, 20), "method": ["logme", "knn"]},
        r"method='knn' compares classes, but y holds numbers. Use method='logme'",
    ),
    (
        {"y": np.linspace(0, 1, 20), "method": "hscore"},
        r"method='hscore' compares classes, but y holds numbers. Use method='logme'",
    ),
    (
        {"y": np.linspace(0, 1, 20), "method": "probe", "scoring": "f1"},
        r"scoring='f1' does not suit y, which holds numbers: .*such as 'r2'",
    ),
    (
        {"y": ["a", None] * 10},
        r"no label \(None or NaN\) in 10 row\(s\), first in row 1",
    ),
    ({"y": [0.0, np.nan] * 10}, r"no label \(None or NaN\) in 10 row"),
    ({"y": np.eye(20)[:, :4] * np.zeros(4)}, r"y holds no 1 in column\(s\) \[0, 1, 2"),
    ({"y": np.eye(20), "target": "labels"}, r"1d"),
    ({"y": np.arange(20) % 2, "target": "indicators"}, r"y has shape \(20,\)"),
    ({"y": [0, 1]}, r"X has \d+ .* y has 2: inconsistent numbers of samples"),
    ({"method": "probe", "cv": 11}, r"cv=11 folds need a class of at least 11 rows"),
    ({"method": "probe", "scoring": "beauty"}, r"beauty"),
    ({"method": "probe", "scoring": ["f1", "accuracy"]}, r"must be one score"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_use_is_named(change, message):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    good = {"X": images, "y": np.arange(20) % 2, "backbones": ["sktl_mini"]}
    with pytest.raises(ValueError, match=message):
        rank_backbones(**good | change)


def test_unknown_name_shows_before_any_image_has_passed(digits):
    sktl.clear_cache()
    with pytest.raises(UnknownBackboneError, match="resnet18"):
        rank_backbones(*digits, ["sktl_mini", "resnet_18"])
    assert sktl.cache_info().computed == 0


def test_missing_weights_show_before_any_image_has_passed(digits, tmp_path):
    sktl.clear_cache()
    missing = PretrainedFeatureExtractor(
        "sktl_mini", weights=tmp_path / "none.safetensors"
    )
    with pytest.raises(WeightsNotAvailableError, match="none.safetensors"):
        rank_backbones(*digits, {"here": "sktl_mini", "not here": missing})
    assert sktl.cache_info().computed == 0


@pytest.mark.filterwarnings("ignore:.*could not be read")
def test_rows_of_unreadable_images_are_named():
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(6)]
    X = [encode(image) for image in X]
    X[3] = b"no image"
    lenient = {"lenient": PretrainedFeatureExtractor("sktl_mini", on_error="nan")}
    with pytest.raises(ValueError, match=r"'lenient' are not finite in 1 row.*\[3\]"):
        rank_backbones(X, [0, 1] * 3, lenient)


# --- real weights, real photographs ---------------------------------------------------


@pytest.fixture(scope="module")
def real_candidates(shared):
    """Two networks trained on ImageNet, the one that ships, and untrained twins."""
    files = {name: shared / "weights" / file for name, file in WEIGHTS.items()}
    files["sktl_mini"] = "DEFAULT"
    return {
        f"{name}{twin}": PretrainedFeatureExtractor(
            name, weights=None if twin else file, n_jobs=2
        )
        for name, file in files.items()
        for twin in ("", ", untrained")
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sktl.exceptions.ImageSizeWarning")
def test_every_method_ranks_pretrained_above_untrained(shared, real_candidates):
    """Those trained on ImageNet stand before all untrained ones.

    And the winner of each closed form is within 10 points of the best probe; the
    standard error of one is about 4.
    `sktl_mini` is made for small images: on photographs it need not beat anything.
    """
    paths = sorted((shared / "data" / "hymenoptera" / "train").glob("*/*.*"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, 120).astype(int)]
    labels = [path.parent.name for path in paths]
    scores = {}
    for method in METHODS:
        ranking = rank_backbones(paths, labels, real_candidates, method=method)
        print(ranking)
        order = ranking.results_["backbone"].tolist()
        first_untrained = min(i for i, name in enumerate(order) if "untrained" in name)
        large = [name for name in WEIGHTS if name in order[:first_untrained]]
        assert set(large) == set(WEIGHTS)
        scores[method] = by_label(ranking)
    probe = scores["probe"]
    for method in ("logme", "hscore"):
        winner = max(scores[method], key=scores[method].get)
        assert probe[winner] > max(probe.values()) - 0.1


def test_probe_scores_all_networks_on_the_same_folds():
    X, y = load_digits(return_X_y=True)
    names = {"a": "sktl_mini", "the same": "sktl_mini"}
    cv = StratifiedShuffleSplit(3, test_size=0.5)  # other splits at each call
    scores = rank_backbones(X[:60], y[:60], names, method="probe", cv=cv).results_
    assert scores["score"][0] == scores["score"][1]


def test_probe_takes_splits_from_a_generator():
    X, y = load_digits(return_X_y=True)
    X, y = X[:60], y[:60]
    splits = list(StratifiedKFold(3).split(X, y))
    names = {"a": "sktl_mini", "b": "sktl_mini"}
    scores = [
        rank_backbones(X, y, names, method="probe", cv=cv).results_["score"].tolist()
        for cv in (splits, iter(splits))
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("constant", [True, [False, True]])
def test_numbers_that_are_all_the_same_are_refused(constant):
    X, y = load_digits(return_X_y=True)
    y = np.where(constant, 3.0, np.c_[y[:40], y[:40]] + 0.5)
    with pytest.raises(ValueError, match="same number in all 40 rows"):
        rank_backbones(X[:40], y, ["sktl_mini"])


def test_probe_score_that_is_not_a_number_is_refused():
    X, y = load_digits(return_X_y=True)
    params = {"method": "probe", "cv": LeaveOneOut()}

    def r2_of_the_user(model, X, y):
        return r2_score(y, model.predict(X))

    with pytest.raises(ValueError, match=r"NaN on split 0; .* its 1 test row"):
        rank_backbones(
            X[:9], y[:9] + 0.5, ["sktl_mini"], **params, scoring=r2_of_the_user
        )
