"""Resamples of the draws: all of them by hand in fractions, and what depends on them.

Axes: n candidates · k draws.
"""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.ranking import agreement, certainty, rank, render_markdown, resamples
from metantk_core.scores import Score, ScoreRecord


def sequences(k: int) -> Counter[tuple[int, ...]]:
    """Every way to draw k of k with replacement, one after the other, counted by how often each draw came."""
    return Counter(tuple(sequence.count(draw) for draw in range(k)) for sequence in product(range(k), repeat=k))


@pytest.mark.parametrize("draws", [1, 2, 3, 4, 5, 6])
def test_few_draws_have_all_their_resamples_with_their_probabilities(draws):
    counts, times = resamples(draws, 0)
    found = {tuple(count): time for count, time in zip(counts.tolist(), times.tolist(), strict=True)}
    assert len(found) == len(counts)
    assert found == sequences(draws)


def test_seven_draws_still_have_all_resamples():
    counts, times = resamples(7, 0)
    assert len({*map(tuple, counts.tolist())}) == len(counts) == math.comb(13, 7)
    assert times.sum() == 7**7
    assert (counts.sum(axis=1) == 7).all()


@pytest.mark.parametrize("draws", [8, 30])
def test_many_draws_have_seeded_random_resamples(draws):
    counts, times = resamples(draws, 3)
    assert times.sum() == 2000
    assert (counts.sum(axis=1) == draws).all()
    assert len({*map(tuple, counts.tolist())}) == len(counts)
    again, other = resamples(draws, 3)[0], resamples(draws, 4)[0]
    assert np.array_equal(counts, again)
    assert not np.array_equal(counts[:5], other[:5])
    # Each draw is left out of a resample with probability (1 - 1/k)^k.
    left_out = (times[:, None] * (counts == 0)).sum(axis=0) / 2000
    assert left_out == pytest.approx([(1 - 1 / draws) ** draws] * draws, abs=0.05)


def test_nothing_can_be_resampled_from_no_draws():
    with pytest.raises(ValueError, match="from 1 draw on"):
        resamples(0, 0)


def matrix(seed: int, n: int, k: int) -> list[list[int]]:
    """Whole numbers with many ties."""
    return np.random.default_rng(seed).integers(0, 6, size=(n, k)).tolist()


def resampled_means(values: list[list[int]]) -> list[tuple[list[Fraction], int]]:
    k = len(values[0])
    return [
        ([Fraction(sum(v * c for v, c in zip(row, count, strict=True)), k) for row in values], times)
        for count, times in sequences(k).items()
    ]


def top_share(values: list[list[int]], texts: list[str], size: int) -> Fraction:
    """The share of resamples in which no other candidate is better than any of the best, by the definition."""
    sums = [sum(row) for row in values]
    best = sorted(range(len(values)), key=lambda i: (sums[i], texts[i]))[:size]
    rest = [i for i in range(len(values)) if i not in best]
    stays = sum(
        times for means, times in resampled_means(values) if not any(means[r] < means[b] for r in rest for b in best)
    )
    return Fraction(stays, len(values[0]) ** len(values[0]))


@pytest.mark.parametrize(("seed", "n", "k"), [(0, 4, 3), (1, 7, 3), (2, 12, 4), (3, 12, 2), (4, 6, 5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_top_sets_stay_as_often_as_in_all_sequences_of_draws(seed, n, k, sign):
    values = matrix(seed, n, k)
    texts = [str(NASBENCH201.genotype(i)) for i in range(n)]
    name = "synflow" if sign == -1 else "linear_regions"
    # Both scores are better higher: losses are their negatives, so the oracle gets these.
    records = [
        ScoreRecord("nasbench201", text, name, tuple(Score(float(-sign * v)) for v in row), 0, 1.0)
        for text, row in zip(texts, values, strict=True)
    ]
    board = rank(records, by=name)
    losses = [[sign * v for v in row] for row in values]
    sizes = [size for size in (1, 5, 10) if size < n]
    assert [size for size, _ in board.top_stability] == sizes
    for size, share in board.top_stability:
        assert share == pytest.approx(float(top_share(losses, texts, size)), rel=1e-12)
    assert board.leader_stability == dict(board.top_stability)[1]


def test_markdown_says_how_often_the_best_stay_the_same():
    rows = np.random.default_rng(0).normal(size=(12, 3)) + np.arange(12)[:, None]
    records = [
        ScoreRecord("nasbench201", str(NASBENCH201.genotype(i)), "naswot", tuple(Score(float(v)) for v in row), 0, 1.0)
        for i, row in enumerate(rows)
    ]
    board = rank(records, by="naswot")
    shares = dict(board.top_stability)
    assert f"the best 5 in {shares[5]:.0%}, the best 10 in {shares[10]:.0%}." in render_markdown(board)


def lowest(means: np.ndarray) -> int:
    return int(np.argmin(means))


@pytest.mark.parametrize("seed", range(6))
def test_certainty_is_the_share_of_all_sequences_of_draws_that_decide_alike(seed):
    values = matrix(seed, 5, 3)
    decided = min(range(5), key=lambda i: (sum(values[i]), i))
    alike = sum(
        times for means, times in resampled_means(values) if min(range(5), key=lambda i: (means[i], i)) == decided
    )
    assert certainty(np.array(values, dtype=float), lowest, 0) == pytest.approx(alike / 27, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ties_stay_ties_where_means_are_rounded(seed):
    # Tenths and sevenths have no exact form: sums in another order differ in the last bit. The first of equals counts.
    values = matrix(seed, 6, 4)
    exact = certainty(np.array(values, dtype=float), lowest, 0)
    assert certainty(np.array(values) / 7, lowest, 0) == exact
    assert certainty(np.array(values) * 0.1, lowest, 0) == exact
    assert certainty(np.array(values) * 1e-9 + 0.0, lowest, 0) == exact


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_certainty_is_whole_without_a_choice_and_where_every_draw_decides_alike(seed, k):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, k))
    assert certainty(values, lambda means: "always", seed) == 1.0
    clear = values + np.array([[0.0], [50.0], [60.0], [70.0]])
    assert certainty(clear, lowest, seed) == 1.0
    assert certainty(clear, lambda means: tuple(np.argsort(means)[:1].tolist()), seed) == 1.0


def test_decision_sees_the_means_of_all_draws_and_of_resamples():
    seen: list[tuple[float, ...]] = []

    def decide(means: np.ndarray) -> float:
        seen.append(tuple(means.tolist()))
        return float(means[0])

    # Means of 1 and 3: 1, 2 (twice as often as the others), 3. The mean of all draws is 2.
    assert certainty(np.array([[1.0, 3.0]]), decide, 0) == 0.5
    assert {*seen} == {(1.0,), (2.0,), (3.0,)}
    assert seen[0] == (2.0,)


def test_certainty_of_many_draws_approaches_the_normal_probability():
    # The difference of the two means is resampled with its standard error around what it is.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    noise = (noise - noise.mean()) / noise.std()
    values = np.vstack([np.zeros(40), noise + 1 / math.sqrt(40)])
    assert certainty(values, lowest, 0) == pytest.approx(0.841, abs=0.03)


def test_values_that_are_all_zero_decide_alike():
    assert certainty(np.zeros((3, 4)), lowest, 0) == 1.0


@pytest.mark.parametrize(("seed", "k"), [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)])
def test_agreement_is_the_share_of_splits_whose_halves_decide_alike(seed, k):
    values = matrix(seed, 3, k)

    def chosen(draws: set[int]) -> int:
        return min(range(3), key=lambda i: (Fraction(sum(values[i][draw] for draw in draws), len(draws)), i))

    everything = set(range(k))
    splits = [set(half) for half in combinations(range(k), k // 2)]
    alike = [chosen(half) == chosen(everything - half) for half in splits]
    expected = Fraction(sum(alike), len(alike))
    assert agreement(np.array(values) / 7, lowest, 0) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("k", [3, 6])
def test_agreement_on_noise_is_that_of_coins_and_certainty_is_far_above(k):
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(5, k)) for _ in range(400)]
    agreements = [share for values in tables if (share := agreement(values, lowest, 0)) is not None]
    # The splits of one table depend on each other: at worst each table counts once, with a spread of 0.02.
    assert np.mean(agreements) == pytest.approx(1 / 5, abs=0.06)
    assert np.mean([certainty(values, lowest, 0) for values in tables[:40]]) > 0.45


def test_agreement_of_many_draws_is_estimated_from_random_splits():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 20)) + np.array([[0.0], [0.3]])
    found = agreement(values, lowest, 0)
    assert found == agreement(values, lowest, 0)
    d = values[1] - values[0]
    halves = np.array([rng.permutation(20)[:10] for _ in range(4000)])
    alike = np.mean([(d[half].sum() > 0) == ((d.sum() - d[half].sum()) > 0) for half in halves])
    assert found == pytest.approx(alike, abs=0.05)


def test_agreement_needs_two_draws():
    assert agreement(np.array([[1.0], [2.0]]), lowest, 0) is None
    assert agreement(np.array([[1.0, 2.0], [3.0, 4.0]]), lowest, 0) == 1.0
