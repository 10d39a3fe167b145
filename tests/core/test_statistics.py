"""Quantiles and ranks are those of ``scipy.stats``, to the last bit: no interval, order or digest has moved by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from metantk_core.statistics import fisher_quantile, normal_quantile, ranks, student_p_value, student_quantile

PROBABILITIES = (1e-12, 1e-6, 0.001, 0.025, 0.5, 0.9, 0.95, 0.975, 0.9999)
FREEDOMS = (1, 2, 3.7, 7, 31, 600, 15_624)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_quantiles_are_those_of_scipy_stats(freedom):
    for probability in PROBABILITIES:
        assert student_quantile(probability, freedom) == stats.t.ppf(probability, freedom)
        assert -student_quantile(probability, freedom) == stats.t.isf(probability, freedom)
        assert normal_quantile(probability) == stats.norm.ppf(probability)
        for within in FREEDOMS:
            assert fisher_quantile(probability, freedom, within) == stats.f.ppf(probability, freedom, within)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_p_value_counts_both_tails(freedom):
    for t in (-40.0, -1.5, 0.0, 0.2, 3.0):
        assert student_p_value(t, freedom) == 2 * stats.t.sf(abs(t), freedom)


@given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=2, max_side=6), elements=st.integers(-3, 3)))
def test_ranks_share_the_average_among_equal_values(values):
    assert np.array_equal(ranks(values), stats.rankdata(values, method="average", axis=-1))


def test_infinite_values_have_ranks_and_nothing_has_none():
    assert ranks(np.array([np.inf, 1.0, np.inf, -np.inf])).tolist() == [3.5, 2.0, 3.5, 1.0]
    assert ranks(np.zeros((3, 0))).shape == (3, 0)
