"""The corrected resampled t-test: scipy's own t-test where the two must agree."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.random_projection import GaussianRandomProjection
from sklearn.tree import DecisionTreeClassifier

from sktl._comparison.statistics import estimate_mean

DIFFERENCES = [
    [0.1, -0.05, 0.2, 0.0, 0.12],
    [-0.3, -0.1],
    [1e-6, 2e-6, -3e-6, 0.5, 0.25, 7.0],
]


@pytest.mark.parametrize("values", DIFFERENCES)
def test_without_rows_to_test_on_it_is_the_plain_t_test(values):
    """`n_test / n_train` of zero leaves the variance of independent values."""
    found = estimate_mean(values, n_train=100, n_test=0)
    expected = stats.ttest_1samp(values, 0)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx(list(interval))


@pytest.mark.parametrize("values", DIFFERENCES)
def test_correction_makes_the_standard_error_larger_as_published(values):
    """Nadeau & Bengio: 1 / J becomes 1 / J + n_test / n_train."""
    plain = stats.ttest_1samp(values, 0)
    n_splits = len(values)
    factor = np.sqrt((1 / n_splits + 20 / 80) / (1 / n_splits))
    found = estimate_mean(values, n_train=80, n_test=20)
    p_value = 2 * stats.t.sf(abs(plain.statistic) / factor, n_splits - 1)
    assert found.p_value == pytest.approx(p_value)
    interval = plain.confidence_interval(0.95)
    assert found.high - found.low == pytest.approx(
        factor * (interval.high - interval.low)
    )


def test_p_value_is_below_five_percent_where_zero_is_outside_of_the_interval():
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = estimate_mean(rng.normal(0.4, 0.5, size=6), n_train=50, n_test=10)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0), (-0.3, 0.0)])
def test_equal_values_have_an_interval_of_length_zero(value, p_value):
    """Also 0.1, of which five have a mean that rounding makes another number."""
    found = estimate_mean([value] * 5, n_train=80, n_test=20)
    assert found == (value, value, value, p_value)


def test_failed_split_leaves_nothing_to_say():
    assert np.isnan(estimate_mean([0.1, np.nan, 0.2], n_train=80, n_test=20)).all()


# --- calibration: how often nothing looks like something ------------------------------


def normal_differences(rng, n_splits, correlation):
    """Differences with mean 0 and this correlation between any two splits."""
    common = np.sqrt(correlation) * rng.normal()
    return common + np.sqrt(1 - correlation) * rng.normal(size=n_splits)


@pytest.mark.parametrize(("n_splits", "n_train"), [(5, 80), (10, 180), (15, 80)])
def test_differences_as_correlated_as_assumed_are_significant_in_five_percent(
    n_splits, n_train
):
    """The correlation that the correction assumes is the share of rows tested on."""
    rng = np.random.default_rng(0)
    correlation = 20 / (n_train + 20)
    n_found = sum(
        estimate_mean(
            normal_differences(rng, n_splits, correlation), n_train, 20
        ).p_value
        < 0.05
        for _ in range(10_000)
    )
    assert n_found / 10_000 == pytest.approx(0.05, abs=0.007)


def rate_of_a_model_against_itself(model, n_comparisons, *, held):
    """How often two seeds of one model have p < 0.05 on five folds, and why.

    Sampled anew for each comparison: 200 digits, the folds, and the seeds; these for
    each fold, or held over all of them. Also gives the correlation of the differences.
    """
    X, y = load_digits(return_X_y=True)
    rng = np.random.RandomState(0)
    open_ = [n for n in model.get_params() if n.split("__")[-1] == "random_state"]
    n_found, products, squares = 0, 0.0, 0.0
    for _ in range(n_comparisons):
        rows = rng.choice(len(X), 200, replace=False)
        folds = StratifiedKFold(5, shuffle=True, random_state=rng.randint(2**31))
        seeds = rng.randint(2**31, size=(5, 2))
        seeds = np.repeat(seeds[:1], 5, axis=0) if held else seeds
        difference = []
        for pair, (train, test) in zip(
            seeds, folds.split(X[rows], y[rows]), strict=True
        ):
            train, test = rows[train], rows[test]
            one, other = (
                clone(model)
                .set_params(**dict.fromkeys(open_, int(seed)))
                .fit(X[train], y[train])
                .score(X[test], y[test])
                for seed in pair
            )
            difference.append(one - other)
        difference = np.array(difference)
        n_found += estimate_mean(difference, n_train=160, n_test=40).p_value < 0.05
        products += (difference.sum() ** 2 - (difference**2).sum()) / 20
        squares += (difference**2).mean()
    return n_found / n_comparisons, products / squares


@pytest.mark.slow
def test_model_against_itself_with_seeds_anew_on_each_fold_is_rarely_significant():
    """As `compare_transfer` draws them: the differences are independent.

    The correction, made for correlated ones, is then too careful: of normal ones 1.4 %
    are significant. The bound is what 99.9 % of such experiments stay below.
    """
    model = DecisionTreeClassifier(max_features="sqrt")
    rate, correlation = rate_of_a_model_against_itself(model, 600, held=False)
    assert abs(correlation) < 0.05
    assert rate < 0.032


@pytest.mark.slow
def test_model_against_itself_with_seeds_held_is_significant_in_five_percent():
    """Where the luck of a seed is about as much of a score as the luck of the rows."""
    model = make_pipeline(GaussianRandomProjection(16), RidgeClassifier())
    rate, correlation = rate_of_a_model_against_itself(model, 600, held=True)
    assert 0.1 < correlation < 0.3
    assert 0.03 <= rate <= 0.07
