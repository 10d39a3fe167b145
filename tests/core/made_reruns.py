"""Reruns made of real rankings of made-up scores: what they should have measured enters, a ``Rerun`` leaves at once."""

from dataclasses import replace
from functools import cache

import made_searches

from metantk_core.meta_training import Evaluation
from metantk_core.ranking import Leaderboard
from metantk_core.reruns import Rerun, Surroundings, Timing
from metantk_core.seeding import numpy_generator

HERE = Surroundings((("python", "3.11.7"), ("torch", "2.13.0")), "Model T (AVX2)", "", 2, "cpu")
ELSEWHERE = replace(HERE, processor="Model A (AVX512)")
NEWER = replace(HERE, versions=(("python", "3.11.7"), ("torch", "2.14.0")))


@cache
def leaderboard(noise: float = 0.1, candidates: int = 12, draws: int = 4) -> Leaderboard:
    board, _ = made_searches.search(
        space="nasbench201", strategy="sample", num_candidates=candidates, num_inits=draws, noise=noise
    )
    return board


def evaluation(accuracy: float = 0.5, episodes: int = 100, seed: int = 0, shift: float = 0.0) -> Evaluation:
    """Return an evaluation whose episodes scatter around an accuracy, each of them moved by a shift."""
    drawn = numpy_generator(1, "episodes").normal(accuracy, 0.1, episodes) + shift
    per_episode = tuple(float(value) for value in drawn)
    mean = sum(per_episode) / episodes
    return Evaluation(
        mean, 0.02, "95 %", episodes, 5, 1, 15, "maml", 5, 0.1, "batch_support", False, "glyphs", "test", seed, "m", 1,
        per_episode, "cpu",
    )  # fmt: skip


def timings(factor: float = 1.0, count: int = 12, spread: float = 0.03, seed: int = 0) -> tuple[Timing, ...]:
    """Return times of candidates of different sizes, measured with some noise."""
    noise = numpy_generator(seed, "times").normal(0, spread, count)
    return tuple(
        Timing(f"candidate {number}", 1.0, factor * (1 + number) * (1 + noise[number]), factor * (1 + number))
        for number in range(count)
    )


def rerun(**changes: object) -> Rerun:
    whole = Rerun(
        recipe="smoke",
        experiment="0123456789abcdef",
        name="one",
        date="2026-11-02T06:00:00+00:00",
        surroundings=HERE,
        images="images",
        leaderboard=leaderboard(),
        evaluation=evaluation(),
        timings=timings(),
        reference="a product",
        reference_seconds=0.01,
        peak_memory=1_000_000_000,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]
