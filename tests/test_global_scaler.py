"""One scale for all features."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.utils.estimator_checks import check_estimator

from sktl import GlobalScaler


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 5)) * [1e-3, 1, 2, 3, 0] + np.arange(5)


def test_all_estimator_checks_pass():
    results = check_estimator(GlobalScaler(), on_fail=None, on_skip=None)
    assert {result["status"] for result in results} == {"passed"}
    assert len(results) >= 53


def test_features_have_mean_zero_and_mean_variance_one_and_keep_their_proportions(X):
    scaled = GlobalScaler().fit_transform(X)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    assert scaled.var(axis=0).mean() == pytest.approx(1)
    ratio = pairwise_distances(X)[0, 1:] / pairwise_distances(scaled)[0, 1:]
    np.testing.assert_allclose(ratio, ratio[0])


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_unit_of_the_features_makes_no_difference(X, scale):
    expected = GlobalScaler().fit_transform(X)
    found = GlobalScaler().fit_transform(X * scale)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_weight_of_k_is_k_rows(X):
    weights = np.arange(30) % 3
    weighted = GlobalScaler().fit(X, sample_weight=weights)
    repeated = GlobalScaler().fit(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(weighted.transform(X), repeated.transform(X))


def test_inverse_gives_features_as_they_were(X):
    scaler = GlobalScaler().fit(X)
    np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X)


def test_features_that_do_not_vary_become_zero():
    assert not GlobalScaler().fit_transform(np.full((3, 2), 7.0)).any()


def test_rows_with_missing_values_are_left_out_and_stay(X):
    holes = X.copy()
    holes[[3, 8]] = np.nan
    expected = GlobalScaler().fit(np.delete(X, [3, 8], axis=0)).transform(holes)
    found = GlobalScaler().fit_transform(holes)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[[3, 8]]).all()
    with pytest.raises(ValueError, match=r"Each of the 30 row\(s\) .* missing values"):
        GlobalScaler().fit(np.full_like(X, np.nan))
