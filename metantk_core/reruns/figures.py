"""The figures of a benchmark: two reruns enter, what each figure is and how far it moved leaves; one entry a figure.

To add a figure, write what it is of one rerun and how two of them compare, and add it to ``FIGURES``: the tracker, the
terminal, the page and the exit code know no figure by name.

Axes: n candidates of both leaderboards, or scored jobs of both reruns · m those of the other one alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64

from metantk_core.config import BenchmarkTolerances
from metantk_core.files import amount
from metantk_core.ranking import Leaderboard, Reliability, Standing
from metantk_core.report import findings
from metantk_core.report.formatting import count, fixed, percent, points, significant
from metantk_core.reruns.rerun import Rerun
from metantk_core.statistics import (
    log_mean_square_variance,
    normal_quantile,
    paired_difference,
    rank_correlation,
    rank_correlation_interval,
    welch_difference,
)

_LEAST_CANDIDATES = 4
"""Candidates below which a rank correlation has no interval."""
_NO_NOISE = 1e-12
"""Least share of noise: a reliability of 1 would make the smallest change infinitely large."""


class Status(StrEnum):
    """Where a figure stands to the baseline's; only ``WORSE`` is a regression, and ``NOT_MEASURED`` is never fine."""

    WORSE = "worse"
    BETTER = "better"
    WITHIN = "within tolerance"
    NOT_MEASURED = "not measured"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: The number.
        low: Lower end of its interval; none if nothing is known of how far it would move by chance.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Change:
    """How far a figure moved.

    Attributes:
        status: What that means.
        words: What happened, as a part of a sentence that makes sense by itself.
    """

    status: Status
    words: str


Measured = Estimate | str | None
"""A number, or a text such as a digest; none if it could not be measured."""


@dataclass(frozen=True)
class Figure:
    """Something that reruns are compared by.

    Attributes:
        name: Its name for people, in metrics and in tags.
        meaning: What it is, when it is a regression, and by which test: a sentence or two.
        of: What it is of a rerun, compared with a baseline if there is one.
        change: How far it moved from the baseline, where both have it.
        shown: A number of it for people.
        better: Which direction is better; empty where there is none.
        scale: Scale of its axis.
    """

    name: str
    meaning: str
    of: Callable[[Rerun, Rerun | None], Measured]
    change: Callable[[Rerun, Rerun, BenchmarkTolerances], Change]
    shown: Callable[[float], str]
    better: str = ""
    scale: str = "linear"


# -- the leaderboard, to the last bit -------------------------------------------------------------------------------


def _digest(rerun: Rerun, baseline: Rerun | None) -> Measured:
    return rerun.leaderboard.digest if rerun.leaderboard else None


def _digest_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    mine, theirs = _boards(now, before)
    if mine.digest == theirs.digest:
        return Change(Status.WITHIN, "the leaderboard is the same to the last bit")
    different = _different(mine, theirs)
    if now.repeats(before):
        return Change(
            Status.WORSE, f"the leaderboard is another one although versions and machine are the same ({different})"
        )
    return Change(
        Status.NOT_COMPARED,
        f"the leaderboard is another one ({different}), as it may be: {', '.join(now.changes_since(before))}",
    )


def _different(mine: Leaderboard, theirs: Leaderboard) -> str:
    """Return in words how two leaderboards differ."""
    before = {standing.key: standing for standing in theirs.standings}
    common = [(standing, before[standing.key]) for standing in mine.standings if standing.key in before]
    said = []
    if len(common) < max(len(mine.standings), len(theirs.standings)):
        said.append(f"{len(common)} of {len(theirs.standings)} candidates are in both")
    changed = [(new, old) for new, old in common if new.mean != old.mean]
    if changed:
        said.append(f"{len(changed)} of {len(common)} candidates have another score")
    gaps = [abs(new.mean - old.mean) for new, old in changed if new.mean is not None and old.mean is not None]
    if gaps:
        said.append(f"at most {significant(max(gaps), 2)} away in {theirs.label}")
    if not said:
        said.append("scores are the same, other fields of it are not")
    if mine.winner != theirs.winner:
        said.append("the winner is another candidate")
    return ", ".join(said)


# -- the order of the candidates ------------------------------------------------------------------------------------


def _correlation(rerun: Rerun, baseline: Rerun | None) -> Measured:
    if baseline is None or rerun.leaderboard is None or baseline.leaderboard is None:
        return None
    mine, theirs = _common_ranks(rerun.leaderboard, baseline.leaderboard)
    rho = rank_correlation(mine, theirs)
    if rho is None or len(mine) < _LEAST_CANDIDATES:
        return None
    return Estimate(rho, *rank_correlation_interval(rho, len(mine)))


def _correlation_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    r"""Compare with what two rankings of equal truth, by other draws, correlate with.

    By Spearman's attenuation that is :math:`\sqrt{r_1 r_2}` with the reliabilities of both; the least that chance
    leaves of it follows from Fisher's transformation. Rankings by the same draws correlate more.
    """
    mine, theirs = _boards(now, before)
    first, second = _common_ranks(mine, theirs)
    rho, candidates = rank_correlation(first, second), len(first)
    assert rho is not None
    if mine.reliability is None or theirs.reliability is None:
        return Change(
            Status.NOT_COMPARED,
            f"the ranking correlates {fixed(rho, 3)} with the baseline's, and what it may is not known: with one draw "
            "a candidate there is no reliability",
        )
    expected = min(1 - _NO_NOISE, math.sqrt(max(mine.reliability.icc, 0.0) * max(theirs.reliability.icc, 0.0)))
    error = math.sqrt((1 + expected**2 / 2) / (candidates - 3))
    least = math.tanh(math.atanh(expected) - normal_quantile((1 + tolerances.confidence) / 2) * error)
    said = (
        f"the ranking of {candidates} candidates correlates {fixed(rho, 3)} with the baseline's (at least "
        f"{fixed(least, 3)} by its reliability)"
    )
    return Change(Status.WORSE if rho < least else Status.WITHIN, said)


def _common_ranks(
    mine: Leaderboard, theirs: Leaderboard
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return the ranks of the candidates that have a score in both leaderboards."""
    before = {standing.key: standing for standing in findings.scored(theirs)}
    pairs = [(new.rank, before[new.key].rank) for new in findings.scored(mine) if new.key in before]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


# -- candidates that have a score -----------------------------------------------------------------------------------


def _scored(rerun: Rerun, baseline: Rerun | None) -> Measured:
    return Estimate(float(len(findings.scored(rerun.leaderboard)))) if rerun.leaderboard else None


def _scored_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    mine, theirs = _boards(now, before)
    had = {standing.key for standing in findings.scored(theirs)}
    lost = [standing for standing in findings.failed(mine) if standing.key in had]
    fewer = len(findings.scored(theirs)) - len(findings.scored(mine))
    if lost or fewer > 0:
        why = f": {_reason(lost[0])}" if lost else ""
        number = max(len(lost), fewer)
        return Change(
            Status.WORSE, f"{number} candidate{'' if number == 1 else 's'} that had a score {_have(number)} none{why}"
        )
    if fewer < 0:
        return Change(Status.BETTER, f"{-fewer} more candidate{'' if fewer == -1 else 's'} {_have(-fewer)} a score")
    return Change(Status.WITHIN, f"all {len(had)} candidates that had a score have one")


def _reason(standing: Standing) -> str:
    return f"{standing.outcome}{f', {standing.reason}' if standing.reason else ''}".rstrip(".")


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


# -- reliability of the ranking -------------------------------------------------------------------------------------


def _reliability(rerun: Rerun, baseline: Rerun | None) -> Measured:
    found = rerun.leaderboard.reliability if rerun.leaderboard else None
    return Estimate(found.icc, found.low, found.high) if found else None


def _reliability_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    r"""Compare the shares of noise, :math:`1 - ICC(C,k) = MS_E / MS_R`, of two independent tables.

    The logarithm of their ratio W has the variance of the logarithms of four independent mean squares, and is taken as
    normal. Tables with draws in common move together, so that the test is then on the cautious side.

    Source: as Feldt, "A test of the hypothesis that Cronbach's alpha ... is the same for two tests", Psychometrika 34,
    1969, compares two of them; the mean squares are those of McGraw and Wong (1996).
    """
    mine, theirs = (board.reliability for board in _boards(now, before))
    assert mine is not None
    assert theirs is not None
    noise = [max(1 - found.icc, _NO_NOISE) for found in (mine, theirs)]
    spread = math.sqrt(sum(_log_noise_variance(found) for found in (mine, theirs)))
    most = math.exp(normal_quantile((1 + tolerances.confidence) / 2) * spread)
    ratio = noise[0] / noise[1]
    moved = "fell" if mine.icc < theirs.icc else "rose"
    said = (
        f"the reliability of the ranking {moved} from {fixed(theirs.icc, 2)} to {fixed(mine.icc, 2)}, the share of "
        f"noise to {significant(ratio, 2)} times what it was (chance: up to {significant(most, 2)})"
    )
    if mine.icc == theirs.icc:
        said = f"the reliability of the ranking is {fixed(mine.icc, 2)}, as it was"
    if ratio > most:
        return Change(Status.WORSE, said)
    return Change(Status.BETTER if ratio < 1 / most else Status.WITHIN, said)


def _log_noise_variance(found: Reliability) -> float:
    between = found.candidates - 1
    return log_mean_square_variance(between) + log_mean_square_variance(between * (found.draws - 1))


# -- accuracy of the winner -----------------------------------------------------------------------------------------


def _accuracy(rerun: Rerun, baseline: Rerun | None) -> Measured:
    found = rerun.evaluation
    return (
        Estimate(found.accuracy, found.accuracy - found.half_width, found.accuracy + found.half_width)
        if found
        else None
    )


def _accuracy_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    """Compare episode by episode if the episodes are the same, else by the intervals of both."""
    mine, theirs = now.evaluation, before.evaluation
    assert mine is not None
    assert theirs is not None
    accuracies = [np.array(found.per_episode, dtype=np.float64) for found in (mine, theirs)]
    paired = now.images == before.images and findings.same_episodes(mine, theirs)
    compared = paired_difference if paired else welch_difference
    difference, half = compared(accuracies[0], accuracies[1], tolerances.confidence)
    drop = tolerances.accuracy_drop
    said = (
        f"the accuracy of the winner {'fell' if difference < 0 else 'rose'} from {percent(theirs.accuracy)} to "
        f"{percent(mine.accuracy)} ({points(difference)} ± {fixed(100 * half, 1)} points on "
        f"{'the same' if paired else 'other'} episodes; {fixed(100 * drop, 1)} tolerated)"
    )
    if difference == half == 0:
        said = f"the accuracy of the winner is {percent(mine.accuracy)}, as it was"
    if difference + half < -drop:
        return Change(Status.WORSE, said)
    return Change(Status.BETTER if difference - half > drop else Status.WITHIN, said)


# -- time and memory ------------------------------------------------------------------------------------------------


def _processor_time(rerun: Rerun, baseline: Rerun | None) -> Measured:
    return _geometric_mean([timing.processor for timing in rerun.timings if timing.processor])


def _processor_time_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    mine, theirs = (
        {timing.scored: timing.processor for timing in rerun.timings if timing.processor} for rerun in (now, before)
    )
    return _time_change(now, before, mine, theirs, tolerances, tolerances.processor_slowdown, "as much processor time")


def _clock(rerun: Rerun, baseline: Rerun | None) -> Measured:
    return _geometric_mean([timing.relative for timing in rerun.timings])


def _clock_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    mine, theirs = ({timing.scored: timing.relative for timing in rerun.timings} for rerun in (now, before))
    return _time_change(now, before, mine, theirs, tolerances, tolerances.slowdown, "as long by the clock")


def _geometric_mean(values: Sequence[float]) -> Measured:
    return Estimate(math.exp(math.fsum(map(math.log, values)) / len(values))) if values else None


def _time_change(
    now: Rerun,
    before: Rerun,
    mine: Mapping[str, float],
    theirs: Mapping[str, float],
    tolerances: BenchmarkTolerances,
    most: float,
    what: str,
) -> Change:
    """Compare the logarithms of relative times candidate by candidate, or of all, if too few are in both."""
    if now.surroundings.device != before.surroundings.device or now.reference != before.reference:
        why = f"{before.surroundings.device} then, {now.surroundings.device} now"
        if now.reference != before.reference:
            why = "the reference operation is another one"
        return Change(Status.NOT_COMPARED, f"times can't be compared: {why}")
    common = [key for key in mine if key in theirs]
    keys = (common, common) if len(common) > 1 else (list(mine), list(theirs))
    logs = [np.log([times[key] for key in of]) for times, of in zip((mine, theirs), keys, strict=True)]
    if min(map(len, logs)) < 2:
        return Change(Status.NOT_MEASURED, f"too few candidates were timed to say whether scoring takes {what}")
    compared = paired_difference if len(common) > 1 else welch_difference
    difference, half = compared(logs[0], logs[1], tolerances.confidence)
    same = now.surroundings.machine == before.surroundings.machine
    most *= 1 if same else tolerances.elsewhere
    ratio, low, high = (math.exp(log) for log in (difference, difference - half, difference + half))
    digits = _decimals(most, low, high)
    said = (
        f"scoring a candidate takes {fixed(ratio, digits)} ({fixed(low, digits)} to {fixed(high, digits)}) times "
        f"{what}, relative to the reference operation ({fixed(most, digits)} tolerated"
        f"{'' if same else ' on another machine'})"
    )
    if low > most:
        return Change(Status.WORSE, said)
    if high > most and half > math.log(most):  # half of the interval is more than what it should tell from nothing
        return Change(Status.NOT_MEASURED, f"{said}: too wide an interval to show a slow-down of that size")
    return Change(Status.BETTER if high < 1 / most else Status.WITHIN, said)


def _memory(rerun: Rerun, baseline: Rerun | None) -> Measured:
    return Estimate(float(rerun.peak_memory)) if rerun.peak_memory else None


def _memory_change(now: Rerun, before: Rerun, tolerances: BenchmarkTolerances) -> Change:
    """Compare one measurement with one: how far it moves by chance is in the tolerance."""
    around, then = now.surroundings, before.surroundings
    kinds = [(of.device, of.accelerator, of.threads) for of in (around, then)]
    if kinds[0] != kinds[1]:
        return Change(Status.NOT_COMPARED, "memory can't be compared: another device, or another number of threads")
    assert now.peak_memory is not None
    assert before.peak_memory is not None
    ratio, most = now.peak_memory / before.peak_memory, tolerances.memory_growth
    digits = _decimals(most, ratio)
    said = (
        f"the peak memory is {amount(now.peak_memory)}, {fixed(ratio, digits)} times that of the baseline "
        f"({fixed(most, digits)} tolerated)"
    )
    if ratio > most:
        return Change(Status.WORSE, said)
    return Change(Status.BETTER if ratio < 1 / most else Status.WITHIN, said)


def _decimals(limit: float, *values: float) -> int:
    """Return the decimals, at least two, that show a limit as it is and other numbers apart from it."""
    for decimals in range(2, 9):
        known = math.isclose(round(limit, decimals), limit, rel_tol=1e-9)
        if known and all(value == limit or fixed(value, decimals) != fixed(limit, decimals) for value in values):
            return decimals
    return 9


def _boards(now: Rerun, before: Rerun) -> tuple[Leaderboard, Leaderboard]:
    assert now.leaderboard is not None
    assert before.leaderboard is not None
    return now.leaderboard, before.leaderboard


_ALL = (
    Figure(
        "leaderboard",
        "Digest of the whole leaderboard. With the same versions, images and kind of machine it must be equal; "
        "otherwise it is shown, and the rank correlation is judged.",
        _digest,
        _digest_change,
        str,
    ),
    Figure(
        "rank correlation",
        "Spearman's correlation of the ranking with the baseline's. A regression if it is lower than chance lets two "
        "equally true rankings by other draws be, with the reliability of both (attenuation, Fisher's transformation).",
        _correlation,
        _correlation_change,
        lambda value: fixed(value, 3),
        better="higher",
    ),
    Figure(
        "candidates scored",
        "Candidates that have a score. A regression if one that had a score has none.",
        _scored,
        _scored_change,
        count,
        better="higher",
    ),
    Figure(
        "reliability",
        "Reliability of the ranking, ICC(C,k) with its 95 % interval. A regression if its share of noise grew by more "
        "than chance lets the ratio of two such shares be.",
        _reliability,
        _reliability_change,
        lambda value: fixed(value, 3),
        better="higher",
    ),
    Figure(
        "accuracy of the winner",
        "Accuracy of the meta-trained winner on test classes, with its 95 % interval. A regression if the whole "
        "interval of the difference, paired where the episodes are the same, lies below minus benchmark.accuracy_drop.",
        _accuracy,
        _accuracy_change,
        percent,
        better="higher",
    ),
    Figure(
        "processor time",
        "Processor time that scoring a candidate takes, in units of a reference operation measured before and after: "
        "geometric mean over candidates. A regression if the whole interval of the ratio, candidate by candidate, lies "
        "above benchmark.processor_slowdown (times benchmark.elsewhere on another kind of machine); not measured if "
        "the interval is too wide to show that.",
        _processor_time,
        _processor_time_change,
        lambda value: significant(value, 3),
        better="lower",
        scale="log",
    ),
    Figure(
        "time by the clock",
        "The same by the clock, with benchmark.slowdown. It notices waiting and lost parallelism, and is disturbed by "
        "other programs on the machine, each of which slows the reference operation and the candidates unequally.",
        _clock,
        _clock_change,
        lambda value: significant(value, 3),
        better="lower",
        scale="log",
    ),
    Figure(
        "peak memory",
        "The most memory that was held: by the process, or on the accelerator. A regression if it is more than "
        "benchmark.memory_growth times the baseline's.",
        _memory,
        _memory_change,
        lambda value: amount(int(value)),
        better="lower",
    ),
)
FIGURES: Mapping[str, Figure] = MappingProxyType({figure.name: figure for figure in _ALL})
"""All figures by name, in the order in which they are shown."""
