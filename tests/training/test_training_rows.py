"""Which rows train, how much each counts, and when training ends."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    StratifiedGroupKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import nn

from sktl import GlobalScaler, PretrainedFeatureExtractor
from tests.helpers import each_once, first_and_slow

pytestmark = pytest.mark.usefixtures("device")  # on a GPU too

STRATEGIES = ["linear_probe", "lp_ft", "full", "gradual", "scratch"]
BY_EPOCHS = STRATEGIES[1:]
Y = np.arange(36) % 3
X = np.random.default_rng(0).integers(0, 200, (36, 8, 8, 3)).astype(np.uint8)
X[..., 0] += (20 * Y).astype(np.uint8)[:, None, None]  # something to learn
NAMES = np.array(["a", "b", "c"])


def state_of(clf):
    return {n: t.clone() for n, t in clf.module_.state_dict().items()}


def is_same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- other images in each epoch


class Spy:
    """Records the images it is given; makes them brighter by a random amount."""

    def __init__(self):
        self.seen, self.made = [], []

    def __deepcopy__(self, memo):
        return self  # clones record in one place

    def __call__(self, image):
        self.seen.append(image.numpy().copy())
        self.made.append(image // 2 + torch.randint(100, (1,), dtype=torch.uint8))
        return self.made[-1]


def shown(images):
    """Images as a set: of pixels `(3, 8, 8)`."""
    return {np.ascontiguousarray(image).tobytes() for image in images}


def rows_of(X):
    return shown(X.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("strategy", BY_EPOCHS)
def test_augment_changes_training_rows_only_and_anew_in_each_epoch(make, strategy):
    spy = Spy()
    split = ValidSplit(3, stratified=True)
    clf = make(strategy, augment=spy, train_split=split, max_epochs=3).fit(X, Y)
    train, valid = split(np.arange(36), Y)
    assert shown(spy.seen) == rows_of(X[train.indices])
    assert len(spy.seen) == 3 * len(train)
    assert shown(spy.seen).isdisjoint(rows_of(X[valid.indices]))
    assert len(shown(p.numpy() for p in spy.made)) == 3 * len(train)
    clf.predict(X), clf.score(X, Y)
    assert len(spy.seen) == 3 * len(train)


@pytest.mark.parametrize("warm_start", [False, True])
def test_training_that_goes_on_augments_anew_and_as_the_seed_says(make, warm_start):
    def copies():
        spy = Spy()
        clf = make("full", augment=spy, max_epochs=1, warm_start=warm_start)
        for _ in range(3):
            (clf.fit if warm_start else clf.partial_fit)(X, Y)
        return shown(image.numpy() for image in spy.made)

    assert len(copies()) > 2 * 36 + 18  # a few are drawn twice
    assert copies() == copies()


def test_training_that_goes_on_holds_out_the_same_rows(make):
    """Or it would be judged by rows that it was trained on."""
    spy = Spy()
    stop = {"early_stopping": True, "validation_fraction": 1 / 3}
    clf = make("full", augment=spy, max_epochs=1, **stop)
    for _ in range(3):
        clf.partial_fit(X, Y)
    assert len(shown(spy.seen)) == 24


@pytest.mark.parametrize("sample_weight", [None, np.arange(36) % 4 + 1.0])
def test_probe_is_solved_on_changed_copies_of_each_image(make, sample_weight):
    spy = Spy()
    probe = make("linear_probe", C=1.0, augment=spy, max_epochs=3)
    probe.fit(X, Y, sample_weight=sample_weight)
    assert len(spy.made) == 3 * 36 > 36 == len(shown(spy.seen)) < len(shown(spy.made))
    extractor = PretrainedFeatureExtractor(
        make().backbone, image_size=8, precision="float32"
    ).fit(X)
    copies = torch.stack(spy.made).permute(0, 2, 3, 1).numpy()
    weights = np.tile(np.ones(36) if sample_weight is None else sample_weight, 3) / 3
    regression = LogisticRegression(tol=1e-10, max_iter=9999)
    model = make_pipeline(GlobalScaler(), regression)
    model.fit(
        extractor.transform(copies).astype(float),
        np.tile(Y, 3),
        globalscaler__sample_weight=weights,
        logisticregression__sample_weight=weights,
    )
    expected = model.predict_proba(extractor.transform(X))
    np.testing.assert_allclose(probe.predict_proba(X), expected, atol=1e-5)


def test_copies_that_are_not_changed_weigh_as_one(make):
    copies = make("linear_probe", augment=unchanged, max_epochs=3).fit(X, Y)
    plain = make("linear_probe").fit(X, Y)
    np.testing.assert_allclose(copies.predict_proba(X), plain.predict_proba(X), 1e-4)


def unchanged(image):
    return image


def test_each_fold_augments_its_own_training_rows(make):
    for train, test in [(X[:18], X[18:]), (X[18:], X[:18])]:
        spy, rows = Spy(), np.concatenate([train, test])
        folds = [(np.arange(18), np.arange(18, 36))]
        cross_validate(make(augment=spy), rows, Y, cv=folds, error_score="raise")
        assert shown(spy.seen) == rows_of(train)


def test_frozen_part_builds_no_graph_for_changed_images(make):
    class Graph(Callback):
        def on_train_begin(self, net, **kwargs):
            self.seen = []
            net.module_.prefix.register_forward_hook(self.note)

        def note(self, module, inputs, outputs):
            self.seen.append(outputs[0].requires_grad)

    clf = make(augment="flip", callbacks=[("graph", Graph())]).fit(X, Y)
    assert set(dict(clf.callbacks_)["graph"].seen) == {False}


# ---- weights of rows


def scores(clf):
    return clf.decision_function(X)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weight_of_a_fitted_head_is_a_number_of_copies(make, n_classes):
    rows = np.flatnonzero(n_classes > Y)
    copies = np.random.default_rng(1).integers(0, 4, len(rows))
    repeated = np.repeat(rows, copies)
    weighted = make("linear_probe").fit(X[rows], Y[rows], sample_weight=copies)
    plain = make("linear_probe").fit(X[repeated], Y[repeated])
    np.testing.assert_allclose(scores(weighted), scores(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 1 / 36, 2.0, 100.0])
def test_one_weight_for_all_rows_leaves_the_probe_as_it_is(make, weight):
    weighted = make("linear_probe").fit(X, Y, sample_weight=np.full(36, weight))
    plain = make("linear_probe").fit(X, Y)
    np.testing.assert_allclose(scores(weighted), scores(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", ["linear_probe", "scratch"])
@pytest.mark.parametrize("weight", [-1, np.inf, np.nan, {0: 0, 1: 0, 2: 0}])
def test_class_weight_that_cannot_be_is_refused(make, strategy, weight):
    weights = weight if isinstance(weight, dict) else {0: weight}
    with pytest.raises(ValueError, match=r"class_weight=\{.* a finite weight of 0 or"):
        make(strategy, class_weight=weights).fit(X, Y)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 5.0, 2: 0.5}])
def test_class_weight_is_that_of_logistic_regression(make, class_weight):
    rows = np.flatnonzero((Y != 1) | (np.arange(36) > 20))
    extractor = PretrainedFeatureExtractor(
        make().backbone, image_size=8, precision="float32"
    )
    features = extractor.fit_transform(X).astype(float)
    clf = make("linear_probe", C=1.0, class_weight=class_weight).fit(X[rows], Y[rows])
    scaler = GlobalScaler().fit(features[rows])
    model = LogisticRegression(class_weight=class_weight, tol=1e-10, max_iter=9999)
    model.fit(scaler.transform(features[rows]), Y[rows])
    expected = model.predict_proba(scaler.transform(features))
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-4)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_class_of_weight_zero_has_no_part_in_the_choice_of_the_penalty(make):
    """Its rows could be others: the rest are predicted alike."""
    weight, rows = {0: 0.0}, np.flatnonzero(Y)
    clf = make("linear_probe", class_weight=weight).fit(X, Y)
    changed = np.where((Y == 0)[:, None, None, None], X[::-1], X)
    again = make("linear_probe", class_weight=weight).fit(changed, Y)
    p, q = clf.predict_proba(X[rows]), again.predict_proba(X[rows])
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("strategy", ["lp_ft", "full", "gradual"])
def test_loss_of_an_epoch_is_the_weighted_one(make, strategy):
    """Weights of class and row are multiplied, and their mean is made one."""
    weights = np.linspace(0.5, 3, 36)
    clf = make(strategy, lr=1e-12, max_epochs=1, class_weight={0: 4.0})
    clf.fit(X, Y, sample_weight=weights)
    losses = -clf.predict_log_proba(X)[np.arange(36), Y]
    expected = np.average(losses, weights=weights * np.array([4.0, 1, 1])[Y])
    assert clf.history[0, "train_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_of_weight_zero_are_as_if_left_out(make, strategy):
    weights = (np.arange(36) < 24).astype(float)
    weighted = make(strategy).fit(X, Y, sample_weight=weights * 2)
    plain = make(strategy).fit(X[:24], Y[:24], sample_weight=np.full(24, 2))
    assert is_same(state_of(weighted), state_of(plain))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_groups_of_rows_of_weight_zero_are_left_out_with_them(make, method):
    groups, weights = np.arange(len(X)) // 6, np.ones(len(X))
    weights[3:9] = 0
    kept = np.flatnonzero(weights)
    split = {"train_split": ValidSplit(GroupKFold(3)), "random_state": 0}
    nets = [make(**split), make(**split)]
    getattr(nets[0], method)(X, Y, sample_weight=weights, groups=groups)
    getattr(nets[1], method)(X[kept], Y[kept], groups=groups[kept])
    one, other = (net.history[:, "valid_loss"] for net in nets)
    assert one == other


@pytest.mark.parametrize("as_list", [True, False])
def test_split_by_numbers_of_rows_is_refused_if_some_have_weight_zero(make, as_list):
    """Behind these, it would hold out other rows than it names."""
    split = np.arange(20, len(X)), np.arange(20)
    held_out = np.arange(len(X)) < 20
    cv = [split] if as_list else PredefinedSplit(np.where(held_out, 0, -1))
    net = make(train_split=ValidSplit(cv))
    weights = np.r_[np.zeros(5), np.ones(len(X) - 5)]
    with pytest.raises(ValueError, match=r"zero in 5 row\(s\).*names rows by their"):
        net.fit(X, Y, sample_weight=weights)
    net.fit(X, Y)


@pytest.mark.parametrize(
    ("strategy", "loss"),
    each_once(
        ["full", "scratch"],
        [
            {},
            {"criterion__reduction": "sum"},
            {"criterion__weight": torch.tensor([100.0, 1.0, 20.0])},
            {"criterion__ignore_index": 0, "criterion__label_smoothing": 0.1},
            {"criterion": nn.NLLLoss, "criterion__weight": torch.tensor([1.0, 0, 9])},
            {"criterion": nn.MultiMarginLoss, "criterion__weight": torch.ones(3) * 9},
        ],
    ),
    ids=str,
)
def test_equal_weights_are_no_weights(make, strategy, loss):
    """Nor are weights that hardly differ: torch's own loss is the oracle."""
    plain = make(strategy, lr=1e-4, **loss).fit(X, Y)
    for weights, tolerance in ((7.0, 0), (7 + 1e-6 * np.arange(36), 1e-4)):
        weights = np.broadcast_to(weights, 36)
        weighted = make(strategy, lr=1e-4, **loss).fit(X, Y, sample_weight=weights)
        losses = weighted.history[:, "train_loss"], plain.history[:, "train_loss"]
        np.testing.assert_allclose(*losses, rtol=tolerance)
        close = {"rtol": 10 * tolerance, "atol": tolerance}
        np.testing.assert_allclose(scores(weighted), scores(plain), **close)


def test_labels_that_only_weigh_nothing_are_no_classes(make):
    clf = make().fit(X, NAMES[Y], sample_weight=Y != 1)
    assert clf.classes_.tolist() == ["a", "c"]
    assert clf.predict_proba(X).shape == (36, 2)


def test_partial_fit_takes_weights(make):
    clf = make("full").partial_fit(X, Y, sample_weight=np.ones(36))
    clf.partial_fit(X, Y, sample_weight=(Y == 0) * 1.0)
    assert clf.classes_.tolist() == [0, 1, 2]
    assert len(clf.history) == 4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(35), r"sample_weight.shape == \(35,\), expected \(36,\)"),
        (np.where(Y == 0, -1.0, 1.0), "Negative values in data passed"),
        (np.zeros(36), "nothing to fit|at least one non-zero"),
        (np.where(Y == 0, np.nan, 1.0), "NaN"),
        (np.ones((36, 2)), "Sample weights must be 1D"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_impossible_weights_are_refused(make, method, weights, message):
    with pytest.raises(ValueError, match=message):
        getattr(make("full"), method)(X, Y, sample_weight=weights)


class NoReduction(nn.Module):
    def forward(self, logits, codes):
        return nn.functional.cross_entropy(logits, codes)


def test_loss_that_cannot_be_weighted_is_refused(make):
    clf = make("full", criterion=NoReduction).fit(X, Y)
    with pytest.raises(TypeError, match="NoReduction gives a loss of shape"):
        clf.fit(X, Y, sample_weight=np.arange(36))


# ---- early stopping

NOISE = np.random.default_rng(3).permutation(Y)  # labels that cannot be learnt


def stopping(make, strategy="full", **params):
    defaults = {
        "early_stopping": True,
        "validation_fraction": 1 / 3,
        "n_iter_no_change": 3,
        "max_epochs": 60,
        "lr": 0.05,
    }
    return make(strategy, **defaults | params)


class Keep(Callback):
    """Keeps the rows that were set aside, and the loss on them before training."""

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        if len(net.history) == 1:
            self.valid = dataset_valid
            self.before = self.loss(net) if dataset_valid is not None else None

    def loss(self, net):
        codes = [int(y) for _, y in self.valid]
        return log_loss(codes, net.predict_proba(self.valid), labels=[0, 1, 2])


@pytest.mark.parametrize("strategy", first_and_slow(BY_EPOCHS))
def test_training_stops_and_the_best_weights_are_kept(make, strategy):
    clf = stopping(make, strategy, callbacks=[("keep", Keep())]).fit(X, NOISE)
    keep = dict(clf.callbacks_)["keep"]
    probed = strategy in ("lp_ft", "gradual")
    losses = [keep.before if probed else np.inf, *clf.history[:, "valid_loss"]]
    assert clf.n_epochs_ == np.argmin(losses)
    assert len(clf.history) == clf.n_epochs_ + 3 < 60
    assert keep.loss(clf) == pytest.approx(min(losses), rel=1e-5)


def test_loss_before_training_is_the_mean_over_rows_not_over_batches(make):
    """Twelve rows are held out, in batches of eight and four."""
    # With such a C, the losses differ from row to row.
    params = {"C": 1.0, "batch_size": 8, "max_epochs": 1}
    clf = stopping(make, "lp_ft", callbacks=[("keep", Keep())], **params).fit(X, NOISE)
    before = dict(clf.callbacks_)["keep"].before
    assert clf.history[0, "valid_loss_before"] == pytest.approx(before, rel=1e-4)


def test_fitted_head_is_kept_if_epochs_only_spoil_it(make):
    clf = stopping(make, "lp_ft", lr=10.0).fit(X, Y)
    assert len(clf.history) == 3
    assert clf.n_epochs_ == 0
    keep = stopping(make, "lp_ft", lr=1e-12, max_epochs=1).fit(X, Y)
    assert is_same(state_of(clf), state_of(keep))


def test_rows_set_aside_are_a_share_of_each_class(make):
    labels = np.array([0] * 18 + [1] * 12 + [2] * 6)
    clf = stopping(make, callbacks=[("keep", Keep())], max_epochs=1).fit(X, labels)
    valid = dict(clf.callbacks_)["keep"].valid
    assert np.bincount([int(y) for _, y in valid]).tolist() == [6, 4, 2]


@pytest.mark.parametrize(
    "train_split",
    first_and_slow(
        [
            None,
            ValidSplit(3, stratified=True),
            predefined_split(Dataset(X[::5], Y[::5])),
        ]
    ),
    ids=["own", "of_skorch", "other_rows"],
)
def test_refit_trains_on_all_rows_for_the_best_number_of_epochs(make, train_split):
    stopping_so = partial(stopping, make, train_split=train_split, max_epochs=9)
    clf = stopping_so(refit=True, callbacks=[("keep", Keep())]).fit(X, NOISE)
    n_epochs = stopping_so().fit(X, NOISE).n_epochs_
    assert len(clf.history) == clf.n_epochs_ == n_epochs
    assert dict(clf.callbacks_)["keep"].valid is None
    plain = make("full", max_epochs=n_epochs, lr=0.05).fit(X, NOISE)
    assert is_same(state_of(clf), state_of(plain))


@pytest.mark.parametrize("refit", [False, True])
def test_fitted_head_has_no_use_for_rows_set_aside(make, refit):
    stopped = stopping(make, "linear_probe", refit=refit).fit(X, Y)
    plain = make("linear_probe").fit(X, Y)
    assert is_same(state_of(stopped), state_of(plain))
    assert stopped.n_epochs_ == 0


@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_are_set_aside_of_each_class_its_share(make, seed):
    patients = np.random.default_rng(seed).permutation(np.repeat(np.arange(12), 3))
    labels = np.where(patients < 6, 0, np.where(patients < 9, 1, 2))
    names = np.array([f"patient {number}" for number in patients])
    held_out, others = rows_set_aside(make, labels, groups=names, random_state=seed)
    assert not np.intersect1d(patients[held_out], patients[others]).size
    assert np.bincount(labels[held_out]).tolist() == [6, 3, 3]


def test_class_of_a_single_group_is_trained_on(make):
    patients = np.arange(36) // 3
    labels = np.where(patients == 0, 2, patients % 2)
    for seed in range(5):
        held_out, _ = rows_set_aside(make, labels, groups=patients, random_state=seed)
        assert len(held_out) == 12
        assert 2 not in labels[held_out]


def test_class_of_many_rows_in_a_single_group_is_trained_on(make):
    patients = np.repeat(np.arange(6), 6)
    labels = np.where(patients == 5, 1, 0)
    labels[[6, 35]] = 2  # fewer rows, but in two groups
    for seed in range(8):
        _, others = rows_set_aside(make, labels, groups=patients, random_state=seed)
        assert 1 in labels[others]


def test_rare_tags_are_among_the_rows_set_aside_and_among_the_others(make):
    tags = np.zeros((36, 3), dtype=int)
    tags[:3, 0] = tags[3:9, 1] = tags[::2, 2] = 1
    for seed in range(8):
        held_out, others = rows_set_aside(make, tags, random_state=seed)
        assert len(held_out) == 12
        assert tags[held_out].any(axis=0).all()
        assert tags[others].any(axis=0).all()


def rows_set_aside(make, y, groups=None, **params):
    """Numbers of the rows that are held out, and of the others."""
    numbers = []

    class Note(Callback):
        def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
            numbers[:] = dataset_valid.indices, dataset_train.indices

    stopping(make, callbacks=[Note()], max_epochs=1, **params).fit(X, y, groups=groups)
    assert np.sort(np.concatenate(numbers)).tolist() == list(range(36))
    return numbers


@pytest.mark.parametrize(
    ("params", "groups", "message"),
    [
        ({}, np.zeros(36), r"of 36 rows in 1 group\(s\): nothing would be left"),
        ({"strategy": "linear_probe"}, np.zeros(36), "all rows to train on are of one"),
        (
            {"strategy": "lp_ft"},
            np.arange(36) < 18,
            r"all rows to train on are of one group \(early_stopping, train_split",
        ),
        ({}, np.zeros(35), r"groups has shape \(35,\), but y has 36 rows"),
        ({}, [None] + ["a"] * 35, r"groups is missing .* for 1 row\(s\)"),
    ],
)
def test_groups_that_cannot_be_left_out_are_refused(make, params, groups, message):
    with pytest.raises(ValueError, match=message):
        stopping(make, **params).fit(X, Y, groups=groups)


def test_given_penalty_needs_no_second_group(make):
    clf = make("linear_probe", C=1.0).fit(X, Y, groups=np.zeros(36))
    assert is_same(state_of(clf), state_of(make("linear_probe", C=1.0).fit(X, Y)))


def test_refit_leaves_out_the_groups_of_all_rows(make):
    groups = np.random.default_rng(4).permutation(36) // 6
    clf = stopping(make, "lp_ft", refit=True, lr=50.0).fit(X, NOISE, groups=groups)
    assert clf.n_epochs_ == 0
    head = make("linear_probe").fit(X, NOISE, groups=groups)
    probabilities = clf.predict_proba(X)
    np.testing.assert_allclose(probabilities, head.predict_proba(X), atol=1e-5)
    single = head.fit(X, NOISE).predict_proba(X)
    assert np.abs(single - probabilities).max() > 0.01


@pytest.mark.parametrize(
    "folds", [StratifiedGroupKFold(3), RepeatedStratifiedKFold(random_state=0)]
)
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_splitter_of_any_class_gets_the_class_numbers(make, folds, stratified):
    split = ValidSplit(folds, stratified=stratified)
    groups = np.arange(36) // 3
    clf = stopping(make, train_split=split, callbacks=[("keep", Keep())], max_epochs=1)
    clf.fit(X, NAMES[Y], groups=groups)
    _, expected = next(folds.split(X, Y, groups))
    valid = dict(clf.callbacks_)["keep"].valid
    assert valid.indices.tolist() == expected.tolist()


@pytest.mark.parametrize("folds", [KFold(3), GroupKFold(3)])
def test_splitter_that_cannot_stratify_as_asked_is_refused(make, folds):
    split = ValidSplit(folds, stratified=True)
    said = f"{type(folds).__name__} does not stratify; use StratifiedKFold"
    with pytest.raises(ValueError, match=said):
        make("full", train_split=split).fit(X, Y, groups=np.arange(36) // 3)


def test_fraction_that_leaves_a_class_out_is_refused(make):
    with pytest.raises(ValueError, match=r"validation_fraction=0\.01 of 36 rows"):
        stopping(make, validation_fraction=0.01).fit(X, Y)


def test_class_of_one_group_among_others_is_trained_on(make):
    groups = np.where(Y == 0, 0, 1 + np.arange(36) % 5)  # class 0 is in one group
    for seed in range(5):
        keep = [("keep", Keep())]
        clf = stopping(make, callbacks=keep, max_epochs=1, random_state=seed)
        clf.fit(X, Y, groups=groups)
        held_out = dict(clf.callbacks_)["keep"].valid.indices
        assert set(Y) == set(np.delete(Y, held_out))


def test_groups_of_which_none_can_be_held_out_are_refused(make):
    lack = r"in 3 group\(s\): no row of \['\w+'.* is left to train on"
    with pytest.raises(ValueError, match=lack):
        stopping(make).fit(X, NAMES[Y], groups=Y)


def test_split_of_the_user_is_what_early_stopping_judges_by(make):
    split = ValidSplit(4, stratified=True)
    clf = stopping(make, train_split=split, callbacks=[("keep", Keep())])
    clf.fit(X, NOISE)
    valid = dict(clf.callbacks_)["keep"].valid
    assert valid.indices.tolist() == split(np.arange(36), NOISE)[1].indices.tolist()
    assert len(clf.history) == clf.n_epochs_ + 3
