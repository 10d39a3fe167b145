"""Rankings: score records enter in any order, a leaderboard that says how far to trust itself leaves.

Axes: n candidates without failures · k draws, the same for these candidates.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float64

from metantk_core.candidates import SPACES, parse_genotype
from metantk_core.errors import InputError
from metantk_core.ranking.consistency import reliability
from metantk_core.ranking.criterion import Criterion, failures, loss_matrix, number_of_draws
from metantk_core.ranking.leaderboard import Leaderboard, Standing
from metantk_core.ranking.records import RecordTable, check_devices, means, tabulate
from metantk_core.ranking.resampling import stability
from metantk_core.scores.definitions import SCORES, Direction
from metantk_core.scores.record import Outcome, ScoreRecord
from metantk_core.seeding import digest
from metantk_core.statistics import ranks


def rank(
    records: Iterable[ScoreRecord],
    *,
    by: str | Mapping[str, float] | Criterion,
    winner: str | None = None,
    mix_devices: bool = False,
) -> Leaderboard:
    """Return the leaderboard of all candidates that the records are about.

    A candidate with a failed draw has failed. A record that comes twice counts once (seconds may differ). Candidates
    with more draws are placed before those with fewer, as a race leaves them.

    Args:
        records: Records of one run in any order; each candidate has one of each score in ``by``.
        by: What ranks: the name of a score, or weights of several by name, whose ranks are combined.
        winner: Text form of the candidate that the search chose; None for the first.
        mix_devices: Whether the records may be from different kinds of device.

    Raises:
        InputError: There is no such score, a candidate has no record of it, two records contradict each other, records
            are not comparable (different search spaces, seeds or kinds of device), or the winner is none of the
            candidates.
    """
    criterion = Criterion.of(by)
    records = tuple(records)
    if not mix_devices:
        check_devices(records)
    table = tabulate(records, criterion.names)
    first = table[criterion.names[0]]
    if winner is not None and winner not in first:
        raise InputError(
            f"Expected the winner among the {len(first)} candidates, but {winner} has no record; score it too."
        )

    # Everything below walks through candidates in the order of their texts: no sum depends on the order of the records.
    genotypes = sorted(first)
    failed = failures(table, criterion)
    draws = {genotype: number_of_draws(table, criterion, genotype) for genotype in genotypes}
    good = [genotype for genotype in genotypes if genotype not in failed]
    levels = _levels(table, criterion, good, draws)
    found = _means(levels, draws)
    # The sign of a loss is turned back for people; adding zero makes -0 a plain 0.
    sign = 1.0 if criterion.direction == "lower" else -1.0

    def place(genotype: str) -> tuple[int, float]:
        return -draws[genotype], found[genotype][0]

    others = {name: means(name, table[name]) for name in sorted(table) if (name,) != criterion.names}

    def standing(number: int, genotype: str) -> Standing:
        outcome, reason = failed.get(genotype, (Outcome.OK, ""))
        mean, error = found.get(genotype, (None, None))
        return Standing(
            rank=number,
            genotype=genotype,
            key=_key(first[genotype].space, genotype),
            mean=None if mean is None else sign * mean + 0.0,
            standard_error=error,
            draws=draws[genotype],
            outcome=outcome,
            reason=reason,
            others=tuple((name, group[genotype]) for name, group in others.items() if genotype in group),
        )

    standings: list[Standing] = []
    numbers: dict[str, int] = {}
    for _, tied in groupby(sorted(good, key=lambda genotype: (*place(genotype), genotype)), key=place):
        number = len(standings) + 1
        for genotype in tied:
            numbers[genotype] = number
            standings.append(standing(number, genotype))
    last = len(standings) + 1
    standings.extend(standing(last, genotype) for genotype in sorted(failed))

    seed = next(iter(first.values())).seed
    trust, leader_stability, top_stability = None, None, ()
    if levels:
        trust = reliability(levels[0].losses)
        finalists = levels[-1].genotypes
        order = np.array(sorted(range(len(finalists)), key=lambda row: (*place(finalists[row]), row)), dtype=np.int64)
        leader_stability, top_stability = stability(levels[-1].losses, order, seed)
    return Leaderboard(
        score=str(criterion),
        direction=criterion.direction,
        scale=criterion.scale,
        space=next(iter(first.values())).space,
        seed=seed,
        standings=tuple(standings),
        reliability=trust,
        leader_stability=leader_stability,
        spearman=_agreement(criterion.direction, numbers, others),
        top_stability=top_stability,
        winner=winner or standings[0].genotype,
        devices=tuple(sorted({record.device for record in records} - {""})),
    )


@dataclass(frozen=True)
class _Level:
    """The candidates that have a number of draws at least, and their losses in these draws, to be divided by a unit."""

    genotypes: list[str]
    losses: Float64[np.ndarray, "n k"]
    unit: int


def _key(space: str, text: str) -> str:
    """Return what identifies a candidate; a named network, or one of a person's own, has no canonical form."""
    return parse_genotype(space, text).key if space in SPACES else digest(text)


def _levels(table: RecordTable, criterion: Criterion, good: list[str], draws: Mapping[str, int]) -> list[_Level]:
    """Return a level for each number of draws that a candidate ended with, from all candidates to those with most."""
    levels: list[_Level] = []
    for number in sorted({draws[genotype] for genotype in good}):
        genotypes = [genotype for genotype in good if draws[genotype] >= number]
        levels.append(_Level(genotypes, *loss_matrix(table, criterion, genotypes, number)))
    return levels


def _means(levels: Iterable[_Level], draws: Mapping[str, int]) -> dict[str, tuple[float, float | None]]:
    """Return mean loss and standard error of every candidate, from all draws that it has.

    The ranks that a combination is made of are those among the candidates that have as many draws at least.
    """
    found: dict[str, tuple[float, float | None]] = {}
    for level in levels:
        number = level.losses.shape[1]
        errors = level.losses.std(axis=1, ddof=1) / math.sqrt(number) / level.unit if number > 1 else None
        for row, genotype in enumerate(level.genotypes):
            if draws[genotype] == number:
                mean = math.fsum(level.losses[row].tolist()) / (number * level.unit)
                found[genotype] = mean, None if errors is None else float(errors[row])
    return found


def _agreement(
    direction: Direction, numbers: Mapping[str, int], others: Mapping[str, Mapping[str, float | None]]
) -> tuple[tuple[str, float], ...]:
    """Return Spearman's correlation with each other score, over candidates that have both, better with better."""
    correlations: list[tuple[str, float]] = []
    upwards = 1 if direction == "lower" else -1
    for name, group in others.items():
        pairs = [
            (upwards * number, other)
            for genotype, number in sorted(numbers.items())
            if (other := group.get(genotype)) is not None
        ]
        ours, theirs = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        if len(pairs) < 3 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            continue
        sign = 1.0 if name in SCORES and SCORES[name].direction == direction else -1.0
        correlation = np.corrcoef(ranks(ours), ranks(theirs))[0, 1]
        correlations.append((name, sign * float(correlation)))
    return tuple(correlations)
