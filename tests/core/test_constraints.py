import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metantk_core.candidates import Costs
from metantk_core.errors import InputError
from metantk_core.search.constraints import ConstraintsConfig, admits, pareto_front, violation

limits = st.builds(
    ConstraintsConfig,
    max_params=st.none() | st.integers(1, 30),
    max_macs=st.none() | st.integers(1, 30),
    max_latency=st.none() | st.floats(0.5, 30),
)
costs = st.builds(Costs, params=st.integers(0, 40), macs=st.integers(0, 40), latency=st.floats(0, 40))
# Few different values, so that ties and equal points are common.
coordinates = st.integers(0, 6).map(float) | st.sampled_from([-0.0, math.inf, -math.inf, 1e300])


@given(costs=costs, constraints=limits)
def test_costs_are_admitted_if_and_only_if_each_is_at_most_its_limit(costs, constraints):
    pairs = [
        (costs.params, constraints.max_params),
        (costs.macs, constraints.max_macs),
        (costs.latency, constraints.max_latency),
    ]
    expected = all(limit is None or value <= limit for value, limit in pairs)
    assert admits(costs, constraints) == expected
    assert (violation(costs, constraints) == "") == expected


def test_no_limits_admit_everything():
    assert not ConstraintsConfig().limited
    assert admits(Costs(10**12, 10**15), ConstraintsConfig())
    assert ConstraintsConfig(max_latency=1).limited


def test_violation_names_everything_that_is_too_much():
    constraints = ConstraintsConfig(max_params=1_000_000, max_macs=2_000_000, max_latency=0.01)
    assert violation(Costs(1_531_546, 2_000_001, 0.0214), constraints) == (
        "1,531,546 parameters (at most 1,000,000), 2,000,001 multiply-accumulates (at most 2,000,000), "
        "0.0214 s for an image (at most 0.01 s)"
    )
    assert violation(Costs(1_000_000, 2_000_001, 0.01), constraints) == (
        "2,000,001 multiply-accumulates (at most 2,000,000)"
    )


def test_limited_latency_that_nobody_measured_is_refused():
    with pytest.raises(InputError, match=r"max_latency is 0.01 s, but no latency was measured: give a latency table"):
        admits(Costs(1, 1), ConstraintsConfig(max_latency=0.01))
    assert admits(Costs(1, 1), ConstraintsConfig(max_params=1))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_params": 0},
        {"max_macs": -1},
        {"max_latency": 0.0},
        {"max_latency": math.inf},
        {"max_latency": math.nan},
        {"max_parameters": 5},
    ],
)
def test_impossible_limits_are_refused(settings):
    with pytest.raises(ValidationError):
        ConstraintsConfig(**settings)


@given(points=st.lists(st.tuples(coordinates, coordinates), max_size=30))
def test_front_holds_exactly_the_points_that_no_other_dominates(points):
    def dominates(one, other):
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    expected = {index for index, point in enumerate(points) if not any(dominates(other, point) for other in points)}
    found = pareto_front(points)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert list(found) == sorted(found, key=lambda index: (points[index][0], index))


def test_point_without_a_number_has_no_place_in_a_front():
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(0.0, 1.0), (math.nan, 0.0)])


def test_front_of_nothing_is_empty():
    assert pareto_front([]) == ()
