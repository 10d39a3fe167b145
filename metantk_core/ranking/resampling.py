"""Would other draws have decided alike: a matrix of draws enters, shares of its bootstrap resamples leave.

Axes: n candidates · k draws, which all candidates share · u distinct resamples of the draws · b resamples of a block.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from itertools import combinations, combinations_with_replacement

import numpy as np
from jaxtyping import Float64, Int64

from metantk_core import seeding

_RESAMPLES = 2000
_COLUMNS = 256  # resamples averaged at a time: 32 MB for the 15,625 candidates of NAS-Bench-201
_TOLERANCE = 1e-12  # of the largest value: what is a tie in exact arithmetic stays one
_TOPS = (1, 5, 10)


def resamples(draws: int, seed: int) -> tuple[Int64[np.ndarray, "u k"], Int64[np.ndarray, " u"]]:
    r"""Return the distinct bootstrap resamples of the draws, and how often each comes.

    A resample takes k of the k draws with replacement, and is told by how often each draw is in it. Up to 7 draws, all
    :math:`\binom{2k-1}{k}` of them are listed, with how many of the :math:`k^k` equally likely sequences of draws they
    stand for; from 8 on (6,435 and more) they are 2,000 random ones.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, Sections 4.4 and 6.2; Fisher & Hall,
    "Bootstrap algorithms for small samples", 1991 (enumeration).

    Args:
        draws: Number k of draws, at least 1.
        seed: Seed of the random resamples.

    Returns:
        How often each draw is in each resample, shape ``[u, k]`` with rows that sum to k, and how often each resample
        comes, shape ``[u]``; shares are relative to the sum of the latter.
    """
    if draws < 1:
        raise ValueError(f"there is something to resample from 1 draw on, got {draws}")
    if math.comb(2 * draws - 1, draws) > _RESAMPLES:
        rng = seeding.numpy_generator(seed, "ranking", "leader stability")
        counts, times = np.unique(
            rng.multinomial(draws, [1 / draws] * draws, size=_RESAMPLES), axis=0, return_counts=True
        )
        return counts, times.astype(np.int64)
    chosen = np.array(list(combinations_with_replacement(range(draws), draws)))
    counts = (chosen[:, :, None] == np.arange(draws)).sum(axis=1, dtype=np.int64)
    factorials = np.array([math.factorial(number) for number in range(draws + 1)], dtype=np.int64)
    return counts, factorials[draws] // factorials[counts].prod(axis=1)


Decide = Callable[[Float64[np.ndarray, " n"]], Hashable]
"""What is decided from the mean of each candidate."""


def certainty(values: Float64[np.ndarray, "n k"], decide: Decide, seed: int) -> float:
    """Return the share of bootstrap resamples of the draws in which means decide as the means of all draws do.

    **This is not the probability that new draws decide alike, and not to be compared with a coin**: resamples are made
    of the draws that led to the decision. Among 7 equal candidates, of which one is chosen, it is 0.65 on average with
    3 draws, 0.56 with 5 and 0.48 with 12, where new draws choose the same one in 0.14. See ``agreement``.

    Means are rounded to a 10^-12 of the largest value, so that what is equal in exact arithmetic is equal for the
    decision too, whose own rule for ties then applies. A single draw gives 1, which says nothing.

    Args:
        values: Draws that all candidates share.
        decide: What is decided from the mean of each candidate.
        seed: Seed of the random resamples, if there are more than can be listed.
    """
    counts, times = resamples(values.shape[1], seed)
    grid = _grid(values)
    decided = _decision(values, np.ones(values.shape[1], dtype=np.int64), grid, decide)
    alike = sum(
        int(time)
        for count, time in zip(counts, times, strict=True)
        if _decision(values, count, grid, decide) == decided
    )
    return alike / int(times.sum())


def agreement(values: Float64[np.ndarray, "n k"], decide: Decide, seed: int) -> float | None:
    r"""Return how often one half of the draws decides as the other half does.

    The share of all ways to split the draws into two halves (of k draws :math:`\lfloor k/2 \rfloor` and the others)
    whose means lead to the same decision. The halves have no draw in common: among equal candidates the expected share
    is that of two coins, 1/m for one out of m. It tells how well half of the draws decide, so that all of them decide
    better; as an estimate from a single table it is coarse, and means more as an average over many decisions.

    Up to 2,000 splits, all of them are taken (13 draws), otherwise 2,000 random ones. Means are rounded as for
    ``certainty``.

    Source: split-half reliability, Brown 1910 and Spearman 1910, British Journal of Psychology 3.

    Args:
        values: Draws that all candidates share.
        decide: What is decided from the mean of each candidate.
        seed: Seed of the random splits, if there are more than can be listed.

    Returns:
        None with fewer than 2 draws.
    """
    k = values.shape[1]
    if k < 2:
        return None
    grid = _grid(values)
    splits = halves(k, seed)
    alike = sum(_decision(values, half, grid, decide) == _decision(values, 1 - half, grid, decide) for half in splits)
    return alike / len(splits)


def stability(
    losses: Float64[np.ndarray, "n k"], order: Int64[np.ndarray, " n"], seed: int
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """Return how often the leader, and the set of the best 1, 5 and 10, stay the same over resamples of the draws.

    A set stays if no candidate outside it has a lower mean loss than one inside: ties are in its favour.

    Args:
        losses: Lower is better.
        order: Row numbers of all candidates, best first.
        seed: Seed of the random resamples, if there are more than can be listed.

    Returns:
        The share of the leader, and (size, share) of each set that is smaller than the number of candidates; None and
        nothing with fewer than 2 draws or candidates.
    """
    n, k = losses.shape
    if n < 2 or k < 2:
        return None, ()
    counts, times = resamples(k, seed)
    sizes = [size for size in _TOPS if size < n]
    tolerance = _TOLERANCE * float(np.abs(losses).max())
    best_first = losses[order]
    stays = dict.fromkeys(sizes, 0)
    for start, means in _mean_blocks(best_first, counts):
        now = times[start : start + means.shape[1]]
        # Lowest mean of all from each size on: from the last segment to the first, so that each row is read once.
        lowest = np.full(means.shape[1], np.inf)
        for size, end in zip(reversed(sizes), [n, *reversed(sizes)], strict=False):
            lowest = np.minimum(lowest, means[size:end].min(axis=0))
            stays[size] += int(now[means[:size].max(axis=0) <= lowest + tolerance].sum())
    whole = int(times.sum())
    shares = tuple((size, stays[size] / whole) for size in sizes)
    return shares[0][1], shares


def _mean_blocks(
    losses: Float64[np.ndarray, "n k"], counts: Int64[np.ndarray, "u k"]
) -> Iterator[tuple[int, Float64[np.ndarray, "n b"]]]:
    """Yield the number of the first resample of a block, and the means of all candidates in its resamples."""
    for start in range(0, len(counts), _COLUMNS):
        yield start, losses @ (counts[start : start + _COLUMNS].T / losses.shape[1])


def halves(draws: int, seed: int) -> Int64[np.ndarray, "u k"]:
    """Return splits of the draws: 1 where a draw is in the smaller half, 0 where it is in the other.

    Args:
        draws: Number of draws, at least 2.
        seed: Seed of the random splits, if there are more than 2,000.
    """
    size = draws // 2
    if math.comb(draws, size) <= _RESAMPLES:
        chosen = np.array(list(combinations(range(draws), size)))
    else:
        rng = seeding.numpy_generator(seed, "ranking", "splits")
        chosen = rng.permuted(np.tile(np.arange(draws), (_RESAMPLES, 1)), axis=1)[:, :size]
    splits = np.zeros((len(chosen), draws), dtype=np.int64)
    np.put_along_axis(splits, chosen, 1, axis=1)
    return splits


def _decision(
    values: Float64[np.ndarray, "n k"], counts: Int64[np.ndarray, " k"], grid: float, decide: Decide
) -> Hashable:
    means = (values * counts).sum(axis=1) / counts.sum()
    return decide(np.round(means / grid) * grid + 0.0)


def _grid(values: Float64[np.ndarray, "n k"]) -> float:
    """Return the unit that means are rounded to.

    A power of 2, so that means which are such fractions themselves lie on the grid instead of between two points.
    """
    largest = float(np.abs(values).max(initial=0.0)) * _TOLERANCE
    return 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 1.0
