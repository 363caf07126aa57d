"""Losses of every kind, and what scores say of them in training."""

import functools

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, make_scorer
from sklearn.pipeline import make_pipeline
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
)
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import nn

from sktl import (
    FineTunedCNNClassifier,
    FineTunedCNNRegressor,
    GlobalScaler,
    PretrainedFeatureExtractor,
)
from tests.helpers import each_once, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
Y = np.arange(36) % 3
X = np.random.default_rng(0).integers(0, 200, (36, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn


class Focal(nn.Module):
    """A loss that is no subclass of one of torch's."""

    def forward(self, logits, target):
        chosen = logits.log_softmax(1).gather(1, target[:, None])
        return (-((1 - chosen.exp()) ** 2) * chosen).mean()


class ScalarOnly(nn.Module):
    """Has a reduction, and does not obey it."""

    reduction = "mean"

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target)


# ---- probabilities


@pytest.mark.filterwarnings("ignore:The head is fitted:UserWarning")
@pytest.mark.parametrize(
    ("strategy", "criterion"),
    each_once(STRATEGIES, [nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, Focal]),
)
def test_probabilities_are_softmax_of_logits_for_any_loss(make, strategy, criterion):
    clf = make(strategy, criterion=criterion).fit(X, Y)
    expected = softmax(clf.decision_function(X), axis=1)
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
    np.testing.assert_allclose(
        clf.predict_log_proba(X), np.log(expected), atol=1e-5, rtol=1e-5
    )


def test_probabilities_are_what_predict_nonlinearity_says(make):
    clf = make("full", predict_nonlinearity=torch.sigmoid).fit(X, Y)
    expected = 1 / (1 + np.exp(-clf.decision_function(X)))
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
    clf.set_params(predict_nonlinearity=None)
    assert np.array_equal(clf.predict_proba(X), clf.decision_function(X))


@pytest.mark.parametrize("strategy", ["lp_ft", "full"])
def test_nll_loss_trains_as_cross_entropy(make, strategy):
    """Each reads what it is made for: log-probabilities, and logits."""
    nll, cross = (
        make(strategy, criterion=loss, lr=0.05).fit(X, Y)
        for loss in (nn.NLLLoss, nn.CrossEntropyLoss)
    )
    np.testing.assert_allclose(nll.predict_proba(X), cross.predict_proba(X), atol=1e-5)


# ---- losses and weights


@pytest.mark.filterwarnings("ignore:The head is fitted:UserWarning")
@pytest.mark.parametrize("strategy", ["lp_ft", "full", "scratch"])
@pytest.mark.parametrize("weights", [({0: 9.0}, None), (None, Y + 1.0)])
def test_loss_of_one_number_cannot_be_weighted(make, strategy, weights):
    class_weight, sample_weight = weights
    clf = make(strategy, criterion=ScalarOnly, class_weight=class_weight)
    with pytest.raises(TypeError, match=r"ScalarOnly gives a loss of shape \(\) for"):
        clf.fit(X, Y, sample_weight=sample_weight)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_of_the_loss_reach_the_fitted_head(make, criterion):
    """As logistic regression with `class_weight` on the same features."""
    weight = [5.0, 1.0, 0.5]
    clf = make(
        "linear_probe",
        C=1.0,
        criterion=criterion,
        criterion__weight=torch.tensor(weight),
    ).fit(X, Y)
    extractor = PretrainedFeatureExtractor(
        make().backbone, image_size=8, precision="float32"
    )
    features = extractor.fit_transform(X).astype(float)
    model = make_pipeline(
        GlobalScaler(),
        LogisticRegression(
            class_weight=dict(enumerate(weight)), tol=1e-10, max_iter=9999
        ),
    ).fit(features, Y)
    expected = model.predict_proba(features)
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"criterion__label_smoothing": 0.1}, r" with label_smoothing=0\.1;"),
        ({"criterion__ignore_index": 2}, r" with ignore_index=2;"),
        ({"criterion": nn.NLLLoss, "criterion__ignore_index": 2}, " with ignore_index"),
        ({"criterion": nn.MultiMarginLoss}, r"MultiMarginLoss\(\);"),
    ],
    ids=str,
)
@pytest.mark.parametrize("strategy", ["linear_probe", "lp_ft"])
def test_loss_that_a_fitted_head_does_not_follow_is_told_of(
    make, strategy, loss, words
):
    with pytest.warns(UserWarning, match=f"does not use criterion=.*{words}"):
        make(strategy, **loss).fit(X, Y)


def test_weights_of_tags_that_a_fitted_head_does_not_follow_have_a_counterpart(make):
    clf = make(
        "linear_probe",
        criterion=nn.BCEWithLogitsLoss,
        criterion__pos_weight=torch.tensor([5.0, 5.0]),
    )
    with pytest.warns(UserWarning, match=r"with pos_weight=.* class_weight, such as"):
        clf.fit(X, TAGS)


class Unreduced(nn.Module):
    """As many write a loss: one per row, and no reduction to set."""

    def forward(self, logits, codes):
        return nn.functional.cross_entropy(logits, codes, reduction="none")


def test_loss_of_rows_without_a_reduction_is_told_what_to_return(make):
    with pytest.raises(ValueError, match=r"Let its forward return the mean"):
        make("full", criterion=Unreduced).fit(X, Y)


TAGS = np.c_[Y == 0, Y < 2].astype(int)
NUMBERS = Y + 0.5


@pytest.mark.parametrize(
    "weight", first_and_slow([None, np.arange(36)]), ids=["plain", "weighted"]
)
@pytest.mark.parametrize(
    ("y", "criterion", "words"),
    [
        (Y, nn.MSELoss, "labels. It is called with.*class numbers of shape"),
        (Y, nn.BCEWithLogitsLoss, "labels.* fails with ValueError: Target size"),
        (Y, nn.GaussianNLLLoss, "labels.* fails with TypeError.*CrossEntropyLoss"),
        (TAGS, nn.NLLLoss, "indicators.* fails with Runtime.*BCEWithLogitsLoss"),
        (TAGS, nn.MultiMarginLoss, "indicators.* fails with RuntimeError"),
        (TAGS, nn.SoftMarginLoss, "indicators. It is called with.*zeros and ones"),
        (NUMBERS, nn.CrossEntropyLoss, "numbers. It is called with.*MSELoss, L1Loss"),
        (NUMBERS, nn.MultiMarginLoss, "numbers.* fails with RuntimeError"),
    ],
)
def test_loss_that_does_not_suit_y_is_refused(make, y, criterion, words, weight):
    """Also one that torch computes: of labels, in batches as large as the classes."""
    model = make("full", batch_size=3, criterion=criterion)
    if y is NUMBERS:
        params = model.get_params(deep=False)
        names = FineTunedCNNRegressor().get_params(deep=False).keys() & params
        model = FineTunedCNNRegressor(**{name: params[name] for name in names})
    with pytest.raises(ValueError, match=f"(?s){criterion.__name__}.* suit {words}"):
        model.fit(X, y, sample_weight=weight)


@pytest.mark.parametrize("y", [Y, TAGS], ids=["labels", "tags"])
def test_loss_that_is_not_one_number_is_refused(make, y):
    clf = make("full", criterion__reduction="none")
    with pytest.raises(ValueError, match="must be one number. Set criterion__reduc"):
        clf.fit(X, y)


# ---- skorch's scoring callbacks


class Truth(Callback):
    """Scores of the epoch, from the network itself: plain torch and NumPy."""

    def on_epoch_end(self, net, dataset_train, dataset_valid, **kwargs):
        rows, codes = zip(*dataset_valid, strict=True)
        pixels = torch.tensor(np.stack([row["rows"] for row in rows]))
        with torch.no_grad():
            pixels = pixels.to(next(net.module_.parameters()).device)
            logits = net.module_.eval().classify(pixels)
        self.accuracy = float(
            (logits.argmax(1).cpu().numpy() == np.array(codes)).mean()
        )


@pytest.mark.parametrize(
    ("weight", "names"), each_once([None, np.ones(36)], [[5, 9, 7], ["a", "b", "c"]])
)
@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("kind", [BatchScoring, EpochScoring])
def test_scoring_callbacks_score_what_was_predicted(
    make, kind, use_caching, weight, names
):
    score = kind(
        "accuracy", name="score", lower_is_better=False, use_caching=use_caching
    )
    clf = make(
        lr=1e-3,
        train_split=ValidSplit(3, stratified=True),
        callbacks=[("score", score), ("truth", Truth())],
    ).fit(X, np.array(names)[Y], sample_weight=weight)
    assert clf.history[-1, "score"] == dict(clf.callbacks_)["truth"].accuracy > 0.4


@pytest.mark.parametrize("kind", [BatchScoring, EpochScoring])
def test_scores_of_training_rows_are_in_the_history(make, kind):
    score = kind("neg_log_loss", name="score", on_train=True, lower_is_better=False)
    clf = make("full", callbacks=[("score", score)], max_epochs=1, lr=1e-9)
    clf.fit(X, np.array(["a", "b", "c"])[Y])
    expected = np.log(clf.predict_proba(X))[np.arange(36), Y].mean()
    assert clf.history[0, "score"] == pytest.approx(expected, rel=0.05)


def label_scores(net, X, y):
    """A scorer of the user's, which may look at the net too."""
    assert len(net.history) == 1
    assert np.array_equal(net.classes_, ["a", "b"])
    return f1_score(y, net.predict(X), pos_label="a")


@pytest.mark.parametrize(
    ("kind", "use_caching"), each_once([BatchScoring, EpochScoring], [True, False])
)
@pytest.mark.parametrize(
    ("names", "scoring", "positive"),
    [
        ([1, 2], "f1", 1),
        (["a", "b"], make_scorer(f1_score, pos_label="a"), "a"),
        (["a", "b"], label_scores, "a"),
    ],
    ids=["f1", "scorer", "function"],
)
def test_scoring_callbacks_see_the_labels(
    make, kind, use_caching, names, scoring, positive
):
    """The first of two classes is the positive one; its number is 0."""
    y = np.array(names)[np.random.default_rng(3).permutation(36) % 2]
    score = kind(scoring, name="score", lower_is_better=False, use_caching=use_caching)
    split = ValidSplit(3, stratified=True)
    options = {"max_epochs": 1, "iterator_valid__batch_size": 36}
    clf = make(train_split=split, callbacks=[score], **options).fit(X, y)
    rows = split(np.arange(36), y)[1].indices
    expected = f1_score(y[rows], clf.predict(X[rows]), pos_label=positive)
    other = f1_score(y[rows], clf.predict(X[rows]), pos_label=names[1])
    assert clf.history[-1, "score"] == pytest.approx(expected)
    assert expected != pytest.approx(other)


def test_scoring_callback_scores_as_the_net_does_by_default(make):
    y = np.array(["a", "b", "c"])[Y]
    score = EpochScoring(None, lower_is_better=False, on_train=True)
    clf = make("full", callbacks=[score], max_epochs=1, lr=1e-12).fit(X, y)
    assert clf.history[-1, "score"] == clf.score(X, y)


def test_scoring_callback_scores_as_a_subclass_that_scores_otherwise(tiny_network):
    class Costs(FineTunedCNNClassifier):
        def score(self, X, y, sample_weight=None):
            return -super().score(X, y, sample_weight)

    y = np.array(["a", "b", "c"])[Y]
    own = EpochScoring(None, name="own", on_train=True)
    called = EpochScoring(lambda net, *rows: net.score(*rows), name="by", on_train=True)
    clf = Costs(
        tiny_network,
        image_size=8,
        strategy="full",
        max_epochs=1,
        lr=1e-12,
        random_state=0,
        callbacks=[own, called],
    ).fit(X, y)
    assert clf.history[-1, "own"] == clf.history[-1, "by"] == clf.score(X, y) < 0


# ---- early stopping by a score


@pytest.mark.parametrize(
    "monitor",
    first_and_slow(
        [
            "f1_macro",
            "neg_log_loss",
            "roc_auc_ovr",
            make_scorer(f1_score, labels=["b"], average="macro", pos_label=None),
        ]
    ),
    ids=str,
)
def test_early_stopping_keeps_the_weights_of_the_best_score(make, monitor):
    noise = np.array(["a", "b", "c"])[np.random.default_rng(3).permutation(Y)]
    clf = make(
        "full",
        early_stopping=True,
        monitor=monitor,
        validation_fraction=1 / 3,
        n_iter_no_change=4,
        max_epochs=40,
        lr=0.02,
    ).fit(X, noise)
    scores = clf.history[:, "valid_score"]
    assert clf.n_epochs_ == np.argmax(scores) + 1
    assert len(scores) == min(40, clf.n_epochs_ + 4)


RESTORING = {
    "stopping": functools.partial(EarlyStopping, patience=3),
    "checkpoint": Checkpoint,
    "without_history": functools.partial(Checkpoint, f_history=None),
    "without_event": functools.partial(Checkpoint, f_history=None, event_name=None),
}


@pytest.mark.parametrize("kind", first_and_slow(RESTORING))
def test_n_epochs_are_those_of_the_weights_that_a_callback_restores(
    make, kind, tmp_path, monkeypatch
):
    """As many epochs without the callback end with these weights."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(3).permutation(Y)
    options = {"train_split": ValidSplit(3, stratified=True), "lr": 0.02}
    callback = RESTORING[kind](load_best=True)
    clf = make("full", max_epochs=9, callbacks=[callback], **options).fit(X, noise)
    assert clf.n_epochs_ < 9
    same = make("full", max_epochs=clf.n_epochs_, **options).fit(X, noise)
    np.testing.assert_allclose(clf.predict_proba(X), same.predict_proba(X), rtol=1e-5)


def test_score_of_the_fitted_head_counts(make):
    """Steps that lead nowhere but away: epoch 0 stays the best."""
    clf = make("lp_ft", early_stopping=True, monitor="accuracy", lr=50.0)
    clf.set_params(validation_fraction=1 / 3, n_iter_no_change=2, max_epochs=9)
    assert clf.fit(X, Y).n_epochs_ == 0


@pytest.mark.parametrize("monitor", ["neg_log_loss", "accuracy", "loss"])
def test_early_stopping_waits_for_a_better_epoch_whatever_the_sign(make, monitor):
    """Steps too small to be seen: none is better than the fitted head."""
    clf = make("lp_ft", early_stopping=True, monitor=monitor, lr=1e-30)
    clf.set_params(validation_fraction=1 / 3, n_iter_no_change=2, max_epochs=9)
    clf.fit(X, Y)
    assert (clf.n_epochs_, len(clf.history)) == (0, 2)


@pytest.mark.parametrize("monitor", ["nonsense", 3])
def test_monitor_that_is_no_scorer_is_refused(make, monitor):
    with pytest.raises(ValueError, match="not a valid scoring value|'monitor' param"):
        make(early_stopping=True, monitor=monitor).fit(X, Y)


def test_weights_of_a_loss_that_are_not_one_per_class_are_refused(make):
    for n_weights in (2, 5):
        clf = make("linear_probe", criterion__weight=torch.ones(n_weights))
        with pytest.raises(ValueError, match=r"criterion__weight .* y has 3 classes"):
            clf.fit(X, Y)


@pytest.mark.parametrize("strategy", ["lp_ft", "full"])
def test_validation_set_of_the_user_is_scored_as_by_predict(make, strategy):
    held_out = Dataset(X[:10], Y[:10])
    clf = make(strategy, train_split=predefined_split(held_out))
    clf.fit(X[10:], Y[10:])
    assert clf.history[-1, "valid_acc"] == clf.score(X[:10], Y[:10])
    loss = log_loss(Y[:10], clf.predict_proba(X[:10]))
    assert clf.history[-1, "valid_loss"] == pytest.approx(loss, rel=1e-4)


def test_validation_set_that_hides_its_images_is_refused_in_words(make):
    pairs = list(zip(X[:5], Y[:5], strict=True))
    clf = make(train_split=lambda dataset, y: (dataset, pairs))
    with pytest.raises(TypeError, match="train_split gives a list"):
        clf.fit(X, Y)


def test_monitor_that_is_not_a_number_is_an_error(make):
    clf = make(early_stopping=True, monitor=lambda *args: np.nan)
    with pytest.raises(ValueError, match=r"is NaN on the \d+ row\(s\) held out"):
        clf.fit(X, Y)


def test_monitor_that_needs_a_class_which_is_not_held_out_is_an_error(make):
    """Of two rows, a fifth is none."""
    clf = make(early_stopping=True, monitor="neg_log_loss", validation_fraction=0.2)
    rare = np.r_[np.zeros(17, int), np.ones(17, int), 2, 2]
    with pytest.raises(
        ValueError, match=r"neg_log_loss' fails \(.* 8 row\(s\) held out"
    ):
        clf.fit(X, rare)


@pytest.mark.parametrize(
    "monitor", first_and_slow(["f1", "recall", "average_precision", "roc_auc"])
)
def test_monitor_of_a_class_that_is_not_held_out_is_an_error(make, monitor):
    """Else all epochs would have a score of zero, and the first would be kept."""
    rare = np.r_[np.zeros(len(X) - 2, int), 1, 1]
    clf = make(early_stopping=True, monitor=monitor)
    with pytest.raises(ValueError, match=f"{monitor}.* is (not|NaN) .*held out"):
        clf.fit(X, rare)
    assert make(early_stopping=True, monitor="accuracy").fit(X, rare).n_epochs_ >= 0


def test_monitor_that_one_class_can_have_is_watched_where_a_batch_has_one(make):
    clf = make(early_stopping=True, monitor="accuracy")
    clf.partial_fit(X[:20], np.zeros(20, int), classes=[0, 1])
    assert clf.history[-1, "valid_score"] == 1
