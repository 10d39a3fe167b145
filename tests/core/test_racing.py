"""Races: the best stay with the probability that was promised, whatever the truth; the rest leaves.

Axes: n candidates · k draws.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from metantk_core.ranking import draws_needed, separated


def student_quantile(tail: float, freedom: int) -> float:
    """The quantile from the density of Student's t, integrated and inverted."""
    constant = special.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * special.gamma(freedom / 2))

    def beyond(x: float) -> float:
        return integrate.quad(lambda t: constant * (1 + t * t / freedom) ** (-(freedom + 1) / 2), x, math.inf)[0]

    return optimize.root_scalar(lambda x: beyond(x) - tail, bracket=(0, 1e4)).root


def out_by_definition(values: np.ndarray, keep: int, quantile: float) -> list[bool]:
    """Pair by pair, in loops."""
    n, k = values.shape
    leaders = sorted(range(n), key=lambda i: (sum(values[i]) / k, i))[:keep]
    out = []
    for i in range(n):
        lower_ends = []
        for leader in leaders:
            d = [float(a - b) for a, b in zip(values[i], values[leader], strict=True)]
            mean = math.fsum(d) / k
            spread = math.sqrt(math.fsum((x - mean) ** 2 for x in d) / (k - 1))
            lower_ends.append(mean - quantile * spread / math.sqrt(k))
        out.append(min(lower_ends) > 1e-9)
    return out


@pytest.mark.parametrize(
    ("keep", "looks", "started", "pairs"),
    # Pairs counted by hand: who belongs to the best `keep`, times who does not come before it.
    [(1, 1, None, 5), (1, 3, None, 15), (2, 1, None, 5 + 4), (3, 2, 10, 2 * (9 + 8 + 7))],
)
def test_out_is_who_is_worse_than_all_leaders_by_its_paired_interval(keep, looks, started, pairs):
    rng = np.random.default_rng(keep + looks)
    quantile = student_quantile(0.1 / pairs, 4)
    # Many tables, so that some candidates come to lie close to the limit on either side.
    for _ in range(300):
        offsets = quantile * rng.uniform(0, 1.5, size=(6, 1))
        values = rng.normal(size=(6, 5)) + 3 * rng.normal(size=(1, 5)) + offsets
        found = separated(values, keep, 0.9, looks=looks, started=started)
        assert found.tolist() == out_by_definition(values, keep, quantile)


def race(rng: np.random.Generator, truth: np.ndarray, keep: int, stages: tuple[int, ...], noise: str) -> np.ndarray:
    """Return who is left after looking at each of the stages, with draws and their noise in common."""
    n, k = len(truth), stages[-1]
    shared = rng.normal(size=(1, k))
    own = rng.normal(size=(n, k)) if noise == "equal" else rng.normal(size=(n, k)) * np.linspace(0.2, 2, n)[:, None]
    values = truth[:, None] + 2 * shared + own
    left = np.arange(n)
    for draws in stages:
        left = left[~separated(values[left, :draws], keep, looks=len(stages), started=n)]
    return left


@pytest.mark.parametrize(
    ("truth", "keep", "noise"),
    [
        (np.zeros(4), 1, "equal"),  # nothing to find: whoever was named in advance must stay
        (np.zeros(2), 1, "equal"),
        (np.zeros(12), 1, "equal"),
        (np.zeros(8), 3, "different"),
        (np.array([0, 0.01, 0.5, 1, 2, 3]), 1, "different"),
        (np.array([0, 0, 0.1, 0.1, 2, 4, 6]), 2, "equal"),
    ],
)
def test_the_best_are_lost_in_no_more_than_one_race_of_twenty(truth, keep, noise):
    rng = np.random.default_rng(5)
    races = 1200
    lost = sum(not {*range(keep)} <= {*race(rng, truth, keep, (3, 6, 12), noise).tolist()} for _ in range(races))
    assert lost <= stats.binom.isf(1e-3, races, 0.05)


def test_error_is_not_far_below_what_is_allowed_where_bonferroni_is_sharp():
    # Two equal candidates, one look: a single t-test at 5 %. So the interval is not just too wide to ever err.
    rng = np.random.default_rng(1)
    lost = sum(0 not in race(rng, np.zeros(2), 1, (5,), "equal") for _ in range(2000))
    assert stats.binom.ppf(1e-3, 2000, 0.05) <= lost <= stats.binom.isf(1e-3, 2000, 0.05)


def test_race_leaves_behind_who_is_clearly_worse_and_only_these():
    rng = np.random.default_rng(0)
    truth = np.array([0.0, 0.02, *[3.0] * 20])
    left = [race(rng, truth, 1, (4, 8, 16), "equal") for _ in range(20)]
    assert all({*found.tolist()} == {0, 1} for found in left)


def test_what_a_draw_does_to_all_alike_hides_nothing():
    rng = np.random.default_rng(2)
    values = np.array([[0.0], [1.0]]) + 0.1 * rng.normal(size=(2, 6))
    assert separated(values, 1).tolist() == [False, True]
    assert separated(values + 100 * rng.normal(size=(1, 6)), 1).tolist() == [False, True]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_leaders_always_stay_and_more_are_out_at_lower_confidence_or_if_fewer_are_kept(seed, keep):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(7, 5)) + np.arange(7)[:, None]
    out = separated(values, keep)
    assert not out[np.argsort(values.mean(axis=1))[:keep]].any()
    assert not (out & ~separated(values, keep, 0.5)).any()
    assert not (separated(values, keep + 1) & ~out).any()
    order = rng.permutation(7)
    assert separated(values[order], keep).tolist() == out[order].tolist()


def test_differences_without_noise_are_told_apart_and_ties_are_not():
    same = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1.1, 1.2, 1.3]])
    assert separated(same, 1).tolist() == [False, False, True]
    rounded = same + np.array([[0.0], [1e-16], [0.0]])
    assert separated(rounded, 1).tolist() == [False, False, True]


@pytest.mark.parametrize(("n", "k", "keep"), [(3, 1, 1), (2, 5, 2), (2, 5, 3), (1, 5, 1)])
def test_nobody_is_out_after_one_draw_or_if_all_are_kept(n, k, keep):
    assert not separated(np.arange(n * k, dtype=float).reshape(n, k) ** 3, keep).any()


@pytest.mark.parametrize(
    "wrong", [{"keep": 0}, {"looks": 0}, {"started": 2}, {"confidence": 1.0}, {"confidence": 0.0}], ids=str
)
def test_race_without_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="a race keeps at least 1"):
        separated(np.zeros((3, 4)), **{"keep": 1, **wrong})


@pytest.mark.parametrize("single", [0.005, 0.1, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("target", [0.05, 0.5, 0.75, 0.9])
def test_draws_needed_is_the_least_number_whose_mean_is_reliable_enough(single, target):
    number = draws_needed(single, target)
    # Reliability of a mean as the share of the variance: candidates have variance r, one draw's noise has 1 - r.
    assert single / (single + (1 - single) / number) >= target - 1e-9
    if number > 1:
        assert single / (single + (1 - single) / (number - 1)) < target - 1e-9


def test_draws_needed_are_those_after_which_simulated_means_are_that_reliable():
    rng = np.random.default_rng(0)
    number = draws_needed(0.2, 0.8)
    truth = rng.normal(size=(20_000, 1)) * math.sqrt(0.2)
    twice = [(truth + math.sqrt(0.8) * rng.normal(size=(20_000, number))).mean(axis=1) for _ in range(2)]
    # Reliability is the correlation between a mean and one of new draws.
    assert np.corrcoef(*twice)[0, 1] == pytest.approx(0.8, abs=0.01)
    assert number == 16


@pytest.mark.parametrize(("single", "target"), [(0.0, 0.5), (-0.2, 0.5), (math.nan, 0.5), (0.5, 1.0), (0.5, 0.0)])
def test_draws_needed_without_an_answer_are_refused(single, target):
    with pytest.raises(ValueError, match="reliability"):
        draws_needed(single, target)


def test_one_draw_is_enough_where_there_is_no_noise():
    assert draws_needed(1.0, 0.99) == 1
