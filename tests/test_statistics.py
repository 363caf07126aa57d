"""The corrected resampled t-test: scipy's own t-test where the two must agree."""

import numpy as np
import pytest
from scipy import stats

from sktl._statistics import estimate_mean

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
