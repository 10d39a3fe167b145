"""What a run's numbers allow to say, and what not: a leaderboard and evaluations enter, sentences leave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from metantk_core.meta_training import Evaluation
from metantk_core.ranking import Leaderboard, Standing
from metantk_core.report.formatting import fixed, points

_COUNTED = {"params": "the number of parameters", "flops": "the number of multiply-accumulates (MACs)"}


@dataclass(frozen=True)
class Difference:
    """The paired difference of two networks' accuracies on the same test episodes.

    Attributes:
        mean: Mean of the first minus the second, as a share.
        half_width: Half width of the 95 % interval (Student's t over episodes).
        p_value: Two-sided p-value of the paired t-test.
    """

    mean: float
    half_width: float
    p_value: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Association:
    """Spearman's rank correlation of being ranked better with a count, and its 95 % interval."""

    rho: float
    low: float
    high: float


def paired_difference(first: Evaluation, second: Evaluation) -> Difference | None:
    """Return how much better the first network is, or None if the two did not see the same test episodes.

    Equal protocols and an equal seed mean equal episodes, one by one. The interval covers the choice of episodes, not
    of the training's seed.
    """
    if _episodes(first) != _episodes(second) or len(first.per_episode) < 2:
        return None
    differences = np.array(first.per_episode, dtype=np.float64) - np.array(second.per_episode, dtype=np.float64)
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0)
    half_width = float(stats.t.ppf(0.975, count - 1)) * error
    return Difference(mean, half_width, float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def rank_association(leaderboard: Leaderboard, count: str) -> Association | None:
    """Return how strongly being ranked better goes with a larger count, or None below four candidates or if undefined.

    The interval is Fisher's with the variance of Bonett and Wright (2000, Psychometrika 65, 23-28).

    Args:
        leaderboard: The ranking, which brings the correlation.
        count: Name of the count among the other scores, such as ``"params"``.
    """
    rho = dict(leaderboard.spearman).get(count)
    number = sum(dict(standing.others).get(count) is not None for standing in scored(leaderboard))
    if rho is None or number < 4:
        return None
    if abs(rho) >= 1 - 1e-12:
        return Association(rho, rho, rho)
    spread = float(stats.norm.ppf(0.975)) * math.sqrt((1 + rho**2 / 2) / (number - 3))
    return Association(rho, math.tanh(math.atanh(rho) - spread), math.tanh(math.atanh(rho) + spread))


def scored(leaderboard: Leaderboard) -> tuple[Standing, ...]:
    """Return the standings that have a score, best first."""
    return tuple(standing for standing in leaderboard.standings if standing.mean is not None)


def failed(leaderboard: Leaderboard) -> tuple[Standing, ...]:
    """Return the standings without a score."""
    return tuple(standing for standing in leaderboard.standings if standing.mean is None)


def indistinguishable(leaderboard: Leaderboard) -> int | None:
    """Return how many candidates' scores differ from the leader's by less than Welch's 95 % interval of the difference.

    Draws share initialisations and episodes, so that differences are known better than Welch's interval says: the
    number leans to the cautious side. None if there is no standard error to judge by.
    """
    leader, *others = scored(leaderboard) or (None,)
    if leader is None or not others or leader.standard_error is None or leader.mean is None:
        return None
    close = 0
    for other in others:
        if other.mean is None or other.standard_error is None:
            return None
        variance = leader.standard_error**2 + other.standard_error**2
        if variance == 0:
            close += other.mean == leader.mean
            continue
        freedom = variance**2 / sum(
            s.standard_error**4 / max(s.draws - 1, 1) for s in (leader, other) if s.standard_error is not None
        )
        close += abs(other.mean - leader.mean) <= float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    return close


def comparison_sentence(winner: str, other: str, difference: Difference) -> str:
    """Return one sentence that says whether two networks' accuracies can be told apart."""
    low, high = points(difference.mean - difference.half_width), points(difference.mean + difference.half_width)
    interval = f"{points(difference.mean)} points (95 % interval {low} to {high}, same test episodes)"
    if not difference.clear:
        return f"The {winner} and the {other} candidate can't be told apart by accuracy: the difference is {interval}."
    word = "more" if difference.mean > 0 else "less"
    return f"The {winner} candidate is {word} accurate than the {other} one: {interval}."


def trust_sentences(leaderboard: Leaderboard) -> tuple[str, ...]:
    """Return plain sentences on how far the ranking can be trusted, the most important first."""
    sentences: list[str] = []
    candidates, close = scored(leaderboard), indistinguishable(leaderboard)
    if len(candidates) < 2:
        return ("Fewer than two candidates have a score: there is no ranking to trust or distrust.",)
    if close is not None and close > 0:
        others = "other candidate" if close == 1 else "other candidates"
        sentences.append(
            f"By score, the winner is not distinguishable from {close} {others} of {len(candidates) - 1}: "
            f"{'its' if close == 1 else 'their'} difference to the winner is within the noise of the draws."
        )
    elif close == 0:
        sentences.append(
            f"The winner's score differs from that of each of the {len(candidates) - 1} others by more than the noise "
            "of the draws."
        )
    reliability = leaderboard.reliability
    if reliability is None:
        sentences.append("Each candidate was drawn once: nothing can be said about how reliable this ranking is.")
    else:
        sentences.append(
            f"Reliability of the scores: {fixed(reliability.icc, 2)} (95 % interval {fixed(reliability.low, 2)} to "
            f"{fixed(reliability.high, 2)}), which is {_grade(reliability.low, reliability.high)}. It is the share "
            "of the variation between mean scores that belongs to the architectures and would come back with new draws."
        )
    if leaderboard.leader_stability is not None:
        share = leaderboard.leader_stability
        sentences.append(f"The winner stays first in {fixed(100 * share, 0)} % of resamplings of the draws.")
    return (*sentences, *_association_sentences(leaderboard))


def _association_sentences(leaderboard: Leaderboard) -> tuple[str, ...]:
    """Return a sentence on whether counting would have ranked the candidates alike."""
    found = [(words, found) for name, words in _COUNTED.items() if (found := rank_association(leaderboard, name))]
    if not found:
        return ()
    listed = " and ".join(
        f"{fixed(a.rho, 2)} (95 % interval {fixed(a.low, 2)} to {fixed(a.high, 2)}) with {words}" for words, a in found
    )
    # Only what the interval sets apart from zero is called a preference.
    strongest = max((a.rho for _, a in found if a.low > 0 or a.high < 0), key=abs, default=0.0)
    direction = "larger" if strongest > 0 else "smaller"
    if abs(strongest) >= 0.7:
        verdict = f"Much of this ranking could be had by counting: it mostly prefers {direction} networks."
    elif strongest:
        verdict = f"In part it prefers {direction} networks, which counting alone would tell."
    else:
        verdict = "Among these candidates it has no clear relation to size."
    return (f"Rank correlation (Spearman) of being ranked better: {listed}. {verdict}",)


def _grade(low: float, high: float) -> str:
    """Return the words of Koo and Li (2016, J. Chiropr. Med. 15, 155-163) for the ends of the interval."""
    words = [
        "poor" if value < 0.5 else "moderate" if value < 0.75 else "good" if value < 0.9 else "excellent"
        for value in (low, high)
    ]
    return words[0] if words[0] == words[1] else f"{words[0]} to {words[1]}"


def _episodes(evaluation: Evaluation) -> tuple[object, ...]:
    return (
        evaluation.dataset,
        evaluation.split,
        evaluation.seed,
        evaluation.ways,
        evaluation.shots,
        evaluation.queries,
        evaluation.episodes,
        len(evaluation.per_episode),
    )


def chance(evaluations: Sequence[Evaluation]) -> float | None:
    """Return the accuracy of guessing, or None if there are no evaluations or they differ in their number of ways."""
    ways = {evaluation.ways for evaluation in evaluations}
    return 1 / ways.pop() if len(ways) == 1 else None
