"""Means over splits: scipy and closed formulas where they must agree, then coverage."""

import numpy as np
import pytest
from scipy import stats

from sktl._comparison.statistics import (
    Mean,
    Scores,
    chances_of_being_best,
    holm,
    mean_of,
    verdicts_on,
)
from tests.helpers import first_and_slow

DIFFERENCES = [
    [0.1, -0.05, 0.2, 0.0, 0.12],
    [-0.3, -0.1],
    [1e-6, 2e-6, -3e-6, 0.5, 0.25, 7.0],
]


def scores_of(table):
    """Scores that are means of rows: {(split, row): value} as an array with NaN."""
    table = np.asarray(table, dtype=float)
    of_splits = np.nanmean(table, axis=1)
    n = np.sum(~np.isnan(table), axis=1)
    moved = np.nan_to_num(table - of_splits[:, None])
    return Scores(of_splits, moved / np.sqrt(n * (n - 1))[:, None], 0.0)


def folds(rows, n_folds):
    """Rows in folds of equal size, each tested on once."""
    table = np.full((n_folds, len(rows)), np.nan)
    for fold, part in enumerate(np.array_split(np.arange(len(rows)), n_folds)):
        table[fold, part] = rows[part]
    return table


# --- without knowledge of the rows ----------------------------------------------------


@pytest.mark.parametrize("values", DIFFERENCES)
def test_splits_without_common_rows_are_the_plain_t_test(values):
    found = mean_of(Scores(np.array(values), None, 0.0)).interval()
    expected = stats.ttest_1samp(values, 0)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx(list(interval))


@pytest.mark.parametrize("values", DIFFERENCES)
def test_random_splits_of_the_same_rows_are_the_corrected_t_test_as_published(values):
    """Nadeau & Bengio: 1 / J becomes 1 / J + n_test / n_train."""
    n_train, n_test = 80, 20
    scores = Scores(np.array(values), None, n_test / (n_train + n_test))
    found = mean_of(scores).interval()
    error = np.std(values, ddof=1) * np.sqrt(1 / len(values) + n_test / n_train)
    p_value = 2 * stats.t.sf(abs(np.mean(values)) / error, len(values) - 1)
    assert found.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0), (-0.3, 0.0)])
def test_equal_values_have_an_interval_of_length_zero(value, p_value):
    """Also 0.1, of which five have a mean that rounding makes another number."""
    found = mean_of(Scores(np.full(5, value), None, 0.2)).interval()
    assert found == (value, value, value, p_value)


def test_failed_split_leaves_nothing_to_say():
    mean = mean_of(Scores(np.array([0.1, np.nan, 0.2]), None, 0.2))
    assert np.isnan(mean.interval()).all()
    assert verdicts_on([mean], 0.01)[0] == [""]


# --- with it --------------------------------------------------------------------------


def test_folds_that_agree_are_as_sure_as_their_rows():
    """Equal means of all folds: scipy's t-test on rows, but for the fold's own mean."""
    rng = np.random.default_rng(0)
    table = rng.normal(0.1, 1, (5, 400))
    table += 0.1 - table.mean(axis=1, keepdims=True)
    found = mean_of(scores_of(folds(table.ravel(), 5))).interval()
    expected = stats.ttest_1samp(table.ravel(), 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.03)
    interval = expected.confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx(list(interval), rel=0.01)


def test_folds_that_differ_by_far_more_than_rows_do_are_the_plain_t_test():
    of_splits = np.array([0.1, -0.05, 0.2, 0.0, 0.12])
    rows = of_splits[:, None] + 1e-4 * np.random.default_rng(0).normal(size=(5, 200))
    scores = scores_of(folds(rows.ravel(), 5))
    found = mean_of(scores).interval()
    expected = stats.ttest_1samp(scores.of_splits, 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-3)


def test_same_rows_in_every_split_do_not_become_more():
    rows = np.random.default_rng(0).normal(size=100)
    one = np.full((4, 100), np.nan)
    one[:] = rows
    error = mean_of(scores_of(one)).error
    assert error == pytest.approx(stats.sem(rows))


def test_rows_that_were_not_seen_to_differ_may_differ():
    """Agresti & Min add half a row to each of the four cells: one that differs."""
    scores = scores_of(folds(np.zeros(100), 5))._replace(unseen=1 / 100**2)
    found = mean_of(scores).interval()
    assert -found.low == found.high == pytest.approx(1.98 / 100, rel=0.01)


def crossed(rng, n_splits, n_test, pool, rows, splits, cells):
    """Splits that test on random rows of a pool, with normal effects of each kind."""
    of_rows, table = rng.normal(size=pool), np.full((n_splits, pool), np.nan)
    for split in range(n_splits):
        part = rng.choice(pool, n_test, replace=False)
        noise = rng.normal(size=n_test)
        table[split, part] = rows * of_rows[part] + cells * noise
        table[split, part] += splits * rng.normal()
    return table


def random_folds(rng, n_splits, n_test, pool, rows, splits, cells):
    noise = rows * rng.normal(size=pool) + cells * rng.normal(size=pool)
    return folds(noise, n_splits) + splits * rng.normal(size=(n_splits, 1))


CASES = {
    "two folds": (random_folds, 2, 45, 90, 1, 0, 0),
    "five folds": (random_folds, 5, 40, 200, 1, 0, 0),
    "five folds with luck": (random_folds, 5, 40, 200, 1, 0.08, 0),
    "draws": (crossed, 8, 60, 500, 1, 0, 0.5),
    "draws with luck": (crossed, 8, 60, 500, 1, 0.15, 0.5),
    "draws of the same rows": (crossed, 8, 60, 80, 1, 0, 0.5),
    "many draws": (crossed, 30, 20, 200, 1, 0.2, 0.5),
}


@pytest.mark.parametrize("case", first_and_slow(CASES))
def test_interval_covers_the_truth_in_about_95_percent(case):
    """Of normal effects, whose mean is zero. What real data give: the benchmark."""
    make, *sizes = CASES[case]
    rng = np.random.default_rng(0)
    found = [mean_of(scores_of(make(rng, *sizes))).interval() for _ in range(1000)]
    covered = np.mean([low <= 0 <= high for _, low, high, _ in found])
    assert 0.925 < covered < 0.985
    assert np.mean([p < 0.05 for *_, p in found]) == pytest.approx(1 - covered)


# --- verdicts -------------------------------------------------------------------------


def test_row_that_was_not_seen_moves_a_score_by_no_more_than_one_that_was():
    """As that of an area under a curve: the plain standard error, or hardly more."""
    rows = np.random.default_rng(0).normal(0, 1e-3, size=100)
    scores = scores_of(folds(rows, 5))
    plain = mean_of(scores).error
    error = mean_of(scores._replace(unseen=1 / 100**2)).error
    most = np.abs(rows - np.median(rows)).max() / 100
    assert error == pytest.approx(np.hypot(plain, most), rel=0.01)


def test_holm_is_as_published():
    """The smallest times their number, and so on; none falls below one before it."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, np.nan, 0.9]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert holm([]).tolist() == []


@pytest.mark.parametrize(
    ("value", "error", "margin", "verdict"),
    [
        (0.1, 0.03, 0.01, "better"),
        (-0.1, 0.03, 0.01, "worse"),
        (0.1, 0.06, 0.01, "inconclusive"),
        (0.0, 0.06, 0.01, "inconclusive"),
        (0.0, 0.004, 0.01, "equivalent"),
        (
            0.005,
            0.002,
            0.01,
            "equivalent",
        ),  # better, but by nothing that matters
        (0.005, 0.002, None, "better"),
        (0.0, 0.0, 0.01, "equivalent"),
        (0.0, 0.0, None, "inconclusive"),
    ],
)
def test_verdict_needs_the_whole_interval(value, error, margin, verdict):
    mean = Mean(value, error, 100.0)
    assert verdicts_on([mean], margin)[0] == [verdict]
    _, low, high, p_value = mean.interval()
    if margin is not None:
        assert (verdict == "equivalent") == (-margin <= low and high <= margin)
    if verdict in ("better", "worse"):
        assert p_value < 0.05
        assert not low <= 0 <= high


def test_verdicts_are_adjusted_to_their_number():
    """One that is clear alone is not clear as the best of ten."""
    alone = Mean(0.1, 0.04, 100.0)
    nothing = Mean(0.0, 0.04, 100.0)
    assert verdicts_on([alone], 0.01)[0] == ["better"]
    verdicts, p_values = verdicts_on([alone] + [nothing] * 9, 0.01)
    assert verdicts == ["inconclusive"] * 10
    assert p_values[0] == pytest.approx(10 * alone.interval().p_value)
    equal = Mean(0.0, 0.0045, 100.0)
    assert verdicts_on([equal], 0.01)[0] == ["equivalent"]
    assert verdicts_on([equal] * 10, 0.01)[0] == ["inconclusive"] * 10


def test_equal_contenders_share_their_chances():
    one = scores_of(folds(np.random.default_rng(0).normal(size=100), 5))
    worse = scores_of(folds(np.random.default_rng(1).normal(-9, 1, size=100), 5))
    assert chances_of_being_best([one, worse, one]) == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize("n_splits", [2, 3, 10])
def test_chances_of_two_contenders_agree_with_the_p_value_of_their_difference(n_splits):
    rng = np.random.default_rng(n_splits)
    of_rows = rng.normal(0, 0.02, (2, n_splits, 12))
    for rows in (of_rows, [None, None]):
        one, other = (
            Scores(rng.normal(0.8, 0.05, n_splits), part, 0.2) for part in rows
        )
        p_value = mean_of(one.minus(other)).interval().p_value
        best = max(chances_of_being_best([one, other]))
        assert best == pytest.approx(1 - p_value / 2, abs=0.02)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_chances_do_not_depend_on_the_unit_of_the_score(unit):
    rng = np.random.default_rng(0)
    values = rng.normal([[0.0], [1.0], [1.2]], 1, (3, 5))
    scores = [Scores(unit * of_splits, None, 0.0) for of_splits in values]
    plain = [Scores(of_splits, None, 0.0) for of_splits in values]
    assert chances_of_being_best(scores) == pytest.approx(chances_of_being_best(plain))


def test_chances_of_the_best_two_do_not_depend_on_a_third_that_comes_first():
    """How sure the difference of the two is, is what counts."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.01, (3, 200))
    close, other = (
        Scores(rng.normal(mean, 0.05, 3), np.zeros((3, 200)), 0.0)
        for mean in (0.85, 0.8)
    )
    worse = Scores(np.full(3, -9.0), rows, 0.0)
    alone = chances_of_being_best([close, other])
    among_three = chances_of_being_best([worse, close, other])
    assert among_three == pytest.approx([0, *alone], abs=0.02)


def test_mean_that_is_zero_but_for_rounding_is_zero():
    differences = np.array([0.1, -0.3, 0.2])
    assert differences.mean() != 0
    assert mean_of(Scores(differences, None, 0.0)).value == 0
