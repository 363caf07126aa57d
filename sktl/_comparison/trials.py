"""One contender on one split: fitted on one part, scored on the other."""

import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from sktl._comparison.influence import Predicted, influence
from sktl._comparison.score_curve import ScoreCurve
from sktl._targets.scoring import Scorer
from sktl._training.fine_tuning import FineTunedNet
from sktl._utils.parts import reading
from sktl._utils.printable import describe


class Trial(NamedTuple):
    """What came of one contender on one split; times are in seconds."""

    score: float = np.nan
    fit_time: float = np.nan
    score_time: float = np.nan
    error: Exception | None = None
    curve: dict | None = None
    predictions: dict | None = None
    others: dict | None = None
    unscored: dict | None = None  # why an additional score is NaN
    influence: np.ndarray | None = None
    trained_share: float = np.nan  # of a network's parameters


class Setting(NamedTuple):
    """What all trials of a comparison have in common.

    Parameters
    ----------
    X : sequence of images
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    scorer : Scorer
    others : sequence of Scorer
        Additional ones; if one of them fails, its score is NaN.
    units : ndarray of shape (n_samples,) or None
        As from `make_units`; None: do not ask what each moves the score.
    groups : ndarray of shape (n_samples,) or None
        As the user passed them, for contenders that split their training part.
    """

    X: object
    y: np.ndarray
    scorer: Scorer
    others: Sequence[Scorer] = ()
    units: np.ndarray | None = None
    groups: np.ndarray | None = None


def run_trials(contender, setting, splits, seeds, n_jobs=None):
    """Fit and score a contender on splits of several sizes.

    Parameters
    ----------
    contender : estimator
    setting : Setting
    splits : list of list of Split
        By size. In the last, networks are watched as they are trained, and
        predictions are kept.
    seeds : list of int or None
        By split.
    n_jobs : int or None
        Processes.

    Returns
    -------
    trials : list of list of Trial
        As `splits`. What fails is a trial with an error.
    """
    jobs = [
        delayed(run_trial)(contender, setting, split, seed, of_size is splits[-1])
        for of_size in splits
        for split, seed in zip(of_size, seeds, strict=True)
    ]
    try:
        trials = Parallel(n_jobs=n_jobs)(jobs)
    except Exception as error:  # a process that died, or what cannot be sent to one
        trials = [Trial(error=error)] * len(jobs)
    n = len(seeds)
    return [trials[start : start + n] for start in range(0, len(trials), n)]


def run_trial(contender, setting, split, seed, is_largest):
    """Fit a contender on one part of a split and score it on the other."""
    X, y, scorer, others, units, groups = setting
    X_train, X_test = (_safe_indexing(X, rows) for rows in split)
    y_train, y_test = (y[rows] for rows in split)
    try:
        contender = _seeded(contender, seed)
        curve = ScoreCurve(scorer, X_test, y_test, split.test)
        if is_largest:
            _watch(contender, curve)
        params = _groups_for(contender, groups, split.train)
        start = time.perf_counter()
        with reading("training part", split.train):
            contender.fit(X_train, y_train, **params)
        fitted = time.perf_counter()
        predicted = Predicted(contender, X_test)
        with reading("test part", split.test):
            score = predicted.score_by(scorer, y_test)
        scored = time.perf_counter()
        if not np.isfinite(score):
            raise ValueError(
                f"The score of the {len(y_test)} row(s) of the test part is {score}; "
                "it may not be defined for so few, or for what was predicted. Pass "
                "another scoring, or a cv with larger test parts."
            )
    except Exception as error:  # whatever it is, the others go on
        if groups is not None and "'groups' parameter" in str(error) and not _routes():
            error.add_note(
                "compare_transfer passes groups on to a contender only if metadata "
                "routing is enabled: sklearn.set_config(enable_metadata_routing=True)."
            )
        return Trial(error=error)
    predictions = moved = None
    with reading("test part", split.test):
        if is_largest:
            predictions = _all_of(predicted, len(y_test))
        if units is not None:
            here, n_units = units[split.test], units.max() + 1
            with contextlib.suppress(Exception):  # unknown then; the findings say so
                moved = influence(predicted, y_test, here, scorer, score, n_units)
        further, unscored = _score_by_others(predicted, others, y_test)
    return Trial(
        score,
        fitted - start - curve.seconds_outside_,
        scored - fitted,
        curve=curve.points(score),
        predictions=predictions,
        others=further,
        unscored=unscored,
        influence=moved,
        trained_share=_trained_share(contender),
    )


def _score_by_others(predicted, others, y):
    """Scores by name, NaN where the contender has none, and the reasons for that."""
    further, unscored = {}, {}
    for other in others:
        try:
            further[other.name] = predicted.score_by(other, y)
            if np.isnan(further[other.name]):
                unscored[other.name] = "it is not defined for all test parts."
        except Exception as error:  # which not all contenders have
            further[other.name], unscored[other.name] = np.nan, describe(error)
    return further, unscored


def _groups_for(contender, groups, rows):
    """What `fit` takes besides, where it says that it reads groups."""
    if groups is None or not _routes():
        return {}
    try:
        read = get_routing_for_object(contender).consumes("fit", ["groups"])
    except NotImplementedError:  # such as of AdaBoostClassifier
        return {}
    return {"groups": groups[rows]} if read else {}


def _routes():
    return get_config()["enable_metadata_routing"]


def _trained_share(contender):
    if not isinstance(contender, FineTunedNet):
        return np.nan
    n_all = sum(p.numel() for p in contender.module_.parameters())
    return contender.n_trained_parameters_ / n_all


def _all_of(predicted, n_rows):
    """What a contender predicts, and its probabilities where it has any."""
    predictions = {"known": predicted.classes_}
    for method in ("predict", "predict_proba"):
        with contextlib.suppress(Exception):  # the score does not need it
            predictions[method] = getattr(predicted, method)(np.arange(n_rows))
    return predictions


def _seeded(contender, seed):
    """A clone in which every `random_state` that was left open is `seed`."""
    contender = clone(contender)
    open_ = [
        name
        for name, value in contender.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    if open_:
        contender.set_params(**dict.fromkeys(open_, seed))
    return contender


def _watch(contender, curve):
    """Have a network note its scores as it is trained by epochs."""
    if not isinstance(contender, FineTunedNet):
        return
    if not isinstance(contender.callbacks, str):  # which fit refuses
        own = contender.callbacks or []
        contender.set_params(callbacks=[*own, ("score_curve", curve)])
