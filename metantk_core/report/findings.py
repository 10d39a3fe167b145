"""What a run's numbers allow to say, and what not: a leaderboard and evaluations enter, sentences leave."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metantk_core.candidates import Costs
from metantk_core.meta_training import LEAST_EPISODES, ClassAccuracy, Evaluation, accuracies
from metantk_core.ranking import Leaderboard, Standing, is_role
from metantk_core.report.formatting import (
    count,
    fixed,
    percent,
    percent_with_interval,
    points,
    points_with_interval,
)
from metantk_core.statistics import (
    crossed_half_width,
    crossed_p_value,
    rank_correlation_interval,
    student_p_value,
    student_quantile,
)

_COUNTED = {"params": "the number of parameters", "flops": "the number of multiply-accumulates (MACs)"}


@dataclass(frozen=True)
class Difference:
    """The paired difference of two networks' accuracies on the same test episodes.

    Attributes:
        mean: Mean of the first minus the second, as a share.
        half_width: Half width of the 95 % interval (Student's t over episodes; over trainings and episodes, where both
            were trained several times).
        p_value: Two-sided p-value of the paired t-test; of the same interval's, over trainings.
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

    Equal protocols and an equal seed mean equal episodes, one by one. The interval covers the choice of episodes, and
    of the training's seed where both were trained several times: the difference of a seed is then that of the
    trainings of the same number.
    """
    if not same_episodes(first, second) or len(first.per_episode) < 2:
        return None
    if first.trainings or second.trainings:
        if len(first.trainings) != len(second.trainings):
            return None
        table = accuracies(first) - accuracies(second)
        return Difference(float(table.mean()), crossed_half_width(table), crossed_p_value(table))
    differences = np.array(first.per_episode, dtype=np.float64) - np.array(second.per_episode, dtype=np.float64)
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0)
    half_width = student_quantile(0.975, count - 1) * error
    return Difference(mean, half_width, student_p_value(mean / error, count - 1))


def differences(evaluations: Mapping[str, Evaluation]) -> dict[str, Difference]:
    """Return how much better the search's choice is than each other network, where both saw the same episodes.

    Args:
        evaluations: Accuracies by role or name, the search's choice as ``best``.
    """
    best = evaluations.get("best")
    others = {name: found for name, found in evaluations.items() if name != "best"}
    paired = {name: paired_difference(best, found) for name, found in others.items()} if best is not None else {}
    return {name: difference for name, difference in paired.items() if difference is not None}


def candidate_sentences(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return whether the search's choice can be told from each other candidate by accuracy.

    Args:
        evaluations: Accuracies by role or name, the search's choice as ``best``.
    """
    return [
        comparison_sentence("best", name, difference, len(evaluations[name].trainings))
        for name, difference in differences(evaluations).items()
        if is_role(name)
    ]


def yardstick_sentences(
    evaluations: Mapping[str, Evaluation],
    costs: Mapping[str, Costs],
    yardsticks: Sequence[str],
    own_settings: Container[str] = (),
) -> list[str]:
    """Return whether the search's choice beats each network of the literature, in accuracy and in size.

    Args:
        evaluations: Accuracies by role or name, the search's choice as ``best``.
        costs: Parameters and multiply-accumulates by the same names.
        yardsticks: Names of the networks of the literature.
        own_settings: Which of them were trained by settings of their own.
    """
    best = evaluations.get("best")
    sentences: list[str] = []
    for name in yardsticks:
        found = evaluations.get(name)
        difference = paired_difference(best, found) if best is not None and found is not None else None
        if difference is None:
            continue
        over = f" over {len(found.trainings)} seeds" if found is not None and found.trainings else ""
        by = f"{points_with_interval(difference.mean, difference.half_width)} points on the same episodes{over}"
        sizes = ""
        if "best" in costs and name in costs:
            ours, theirs = costs["best"], costs[name]
            sizes = (
                f" ({count(ours.params)} against {count(theirs.params)} parameters, {count(ours.macs)} against "
                f"{count(theirs.macs)} MACs)"
            )
        beats = "beats" if difference.clear and difference.mean > 0 else "does not beat"
        # Steps and schedules that suit one network may ruin another.
        settings = (
            f"{name} trained by settings of its own" if name in own_settings else "both trained by the same settings"
        )
        sentences.append(f"The search's choice {beats} {name}: {by}{sizes}, {settings}.")
    return sentences


def published_sentences(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return how accuracies compare with published ones, each comparison once.

    Args:
        evaluations: Accuracies by role or name.
    """
    found = {role: evaluation.published for role, evaluation in evaluations.items() if evaluation.published}
    distinct = list(dict.fromkeys(found.values()))
    if len(distinct) == 1:
        return distinct
    return [
        f"{', '.join(role for role, said in found.items() if said == sentence)}: {sentence}" for sentence in distinct
    ]


def class_sentences(evaluation: Evaluation, number: int = 3) -> list[str]:
    """Return how the worst episodes and single test classes fared: a sentence each, of what is known.

    Args:
        evaluation: The accuracy of a network.
        number: How many classes and pairs are named at most.
    """
    answers = evaluation.answers
    worst = f"Worst 10 % of episodes: {percent(evaluation.worst_decile)} on average"
    if answers is None:
        return [f"{worst}."]
    # Once is no habit, however little was expected.
    often = [one for one in answers.in_worst(evaluation.each_training) if one.episodes > 1 and one.held > one.expected][
        :number
    ]
    held = ", ".join(f"{one.name} ({one.held} times, {fixed(one.expected, 1)} expected)" for one in often)
    sentences = [f"{worst}{f'; they held {held}' if often else ''}."]
    classes = sorted(answers.classes(), key=lambda one: (one.accuracy, one.name))
    # The extremes of many would be those that few episodes held.
    often_held = [one for one in classes if one.episodes >= LEAST_EPISODES]
    classes = often_held if len(often_held) > number else classes

    def some(found: Sequence[ClassAccuracy]) -> str:
        return ", ".join(
            f"{one.name} {percent_with_interval(one.accuracy, one.half_width)} ({_episodes_in_words(one.episodes)})"
            for one in found
        )

    if len(classes) > number:
        sentences.append(f"Hardest classes: {some(classes[:number])}; easiest: {some(classes[:-2:-1])}.")
    pairs = [
        f"{pair.name} taken for {pair.taken_for} ({percent(pair.share)} of its queries in "
        f"{_episodes_in_words(pair.episodes)} with both)"
        for pair in answers.confusions()[:number]
    ]
    if pairs:
        sentences.append(f"Most confused: {', '.join(pairs)}.")
    return sentences


def _episodes_in_words(number: int) -> str:
    return f"{number:,} {'episode' if number == 1 else 'episodes'}"


def same_episodes(first: Evaluation, second: Evaluation) -> bool:
    """Return whether two networks were evaluated on the same episodes, if the images were the same."""
    return _episodes(first) == _episodes(second)


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
    return Association(rho, *rank_correlation_interval(rho, number))


def scored(leaderboard: Leaderboard) -> tuple[Standing, ...]:
    """Return the standings that have a score, best first."""
    return tuple(standing for standing in leaderboard.standings if standing.mean is not None)


def failed(leaderboard: Leaderboard) -> tuple[Standing, ...]:
    """Return the standings without a score."""
    return tuple(standing for standing in leaderboard.standings if standing.mean is None)


def comparable(leaderboard: Leaderboard) -> tuple[Standing, ...]:
    """Return the standings with means that can be compared with each other, best first.

    Mean ranks of a combination over different numbers of draws can't, as fewer and fewer candidates have more draws:
    then these are the candidates with the most draws. Means of one score always can.
    """
    standings = scored(leaderboard)
    most = max((standing.draws for standing in standings), default=0)
    return tuple(s for s in standings if leaderboard.criterion.single or s.draws == most)


def different_draws(leaderboard: Leaderboard) -> tuple[int, int] | None:
    """Return the fewest and the most draws of candidates that have a score, or None if all have equally many."""
    draws = [standing.draws for standing in scored(leaderboard)]
    return (min(draws), max(draws)) if draws and min(draws) < max(draws) else None


def indistinguishable(leaderboard: Leaderboard) -> int | None:
    """Return how many candidates' scores differ from the winner's by less than Welch's 95 % interval of the difference.

    Draws share initialisations and episodes, so that differences are known better than Welch's interval says: the
    number leans to the cautious side. Only candidates with comparable means count. None if there is no standard error
    to judge by, or the winner itself has no score.
    """
    winner = leaderboard.best if leaderboard.standings else None
    others = [standing for standing in comparable(leaderboard) if standing is not winner]
    if winner is None or not others or winner.standard_error is None or winner.mean is None:
        return None
    close = 0
    for other in others:
        if other.mean is None or other.standard_error is None:
            return None
        variance = winner.standard_error**2 + other.standard_error**2
        if variance == 0:
            close += other.mean == winner.mean
            continue
        freedom = variance**2 / sum(
            s.standard_error**4 / max(s.draws - 1, 1) for s in (winner, other) if s.standard_error is not None
        )
        close += abs(other.mean - winner.mean) <= student_quantile(0.975, freedom) * math.sqrt(variance)
    return close


def leads(leaderboard: Leaderboard) -> bool:
    """Return whether no candidate is ranked before the one that the search chose."""
    return not leaderboard.standings or leaderboard.best.rank == 1


def place_sentence(leaderboard: Leaderboard) -> str:
    """Return where the candidate that the search chose is in the ranking by the score that it was searched with."""
    best, candidates = leaderboard.best, scored(leaderboard)
    if best.mean is None:
        return "The search's choice could not be scored in all draws, so it has no place in this ranking."
    tied = sum(standing.rank == best.rank for standing in candidates) - 1
    shared = f" (a rank that it shares with {number(tied, 'other')})" if tied else ""
    return (
        f"The search's choice is {ordinal(best.rank)} of {len(candidates)} by the score it was searched with{shared}."
    )


def comparison_sentence(winner: str, other: str, difference: Difference, seeds: int = 1) -> str:
    """Return one sentence that says whether two networks' accuracies can be told apart.

    Args:
        winner: The first network.
        other: The second one.
        difference: How much more accurate the first is.
        seeds: How often both were trained.
    """
    low, high = (
        points(max(-1.0, min(1.0, difference.mean + side * difference.half_width)))  # no difference is beyond
        for side in (-1, 1)
    )
    over = f" and {seeds} training seeds" if seeds > 1 else ""
    interval = f"{points(difference.mean)} points (95 % interval {low} to {high}, same test episodes{over})"
    if not difference.clear:
        return f"The {winner} and the {other} candidate can't be told apart by accuracy: the difference is {interval}."
    word = "more" if difference.mean > 0 else "less"
    return f"The {winner} candidate is {word} accurate than the {other} one: {interval}."


def trust_sentences(leaderboard: Leaderboard) -> tuple[str, ...]:
    """Return plain sentences on how far the ranking can be trusted, the most important first."""
    sentences: list[str] = []
    candidates, close, draws = scored(leaderboard), indistinguishable(leaderboard), different_draws(leaderboard)
    if len(candidates) < 2:
        return ("Fewer than two candidates have a score: there is no ranking to trust or distrust.",)
    chosen = "the winner" if leads(leaderboard) else "the search's choice"
    compared = sum(standing.genotype != leaderboard.winner for standing in comparable(leaderboard))
    with_all = " with as many draws" if draws and not leaderboard.criterion.single else ""
    if not leads(leaderboard):
        sentences.append(place_sentence(leaderboard))
    if close is not None and close > 0:
        others = "other candidate" if close == 1 else "other candidates"
        sentences.append(
            f"By score, {chosen} is not distinguishable from {close} {others} of {compared}{with_all}: "
            f"{'its' if close == 1 else 'their'} difference to {chosen} is within the noise of the draws."
        )
    elif close == 0:
        sentences.append(
            f"The score of {chosen} differs from that of each of the {compared} others{with_all} by more than the "
            "noise of the draws."
        )
    sentences.append(_reliability_sentence(leaderboard, draws))
    stays = _stability_sentence(leaderboard)
    return (*sentences, *([stays] if stays else []), *_association_sentences(leaderboard))


def ordinal(place: int) -> str:
    """Return a place in words for people, such as ``"4th"`` or ``"21st"``."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def number(value: int, noun: str) -> str:
    """Return a number of things, such as ``"1 candidate"`` or ``"3 candidates"``."""
    return f"{value} {noun}{'' if value == 1 else 's'}"


def _reliability_sentence(leaderboard: Leaderboard, draws: tuple[int, int] | None) -> str:
    reliability, candidates = leaderboard.reliability, len(scored(leaderboard))
    if reliability is None and all(standing.draws == 1 for standing in scored(leaderboard)):
        return "Each candidate was drawn once: nothing can be said about how reliable this ranking is."
    if reliability is None:
        return "All mean scores are equal: this ranking tells no candidates apart."
    over = ""
    if draws or reliability.candidates < candidates:
        over = f" over the first {number(reliability.draws, 'draw')}, which all {reliability.candidates} have"
    return (
        f"Reliability of the scores{over}: {_share(reliability.icc)} (95 % interval {_share(reliability.low)} to "
        f"{_share(reliability.high)}), which is {_grade(reliability.low, reliability.high)}. It is the share "
        "of the variation between mean scores that belongs to the architectures and would come back with new draws."
    )


def _share(estimate: float) -> str:
    """Return an estimated share of variation; an estimate below 0 says that nothing of it was seen, not how little."""
    return "below 0" if estimate < 0 else fixed(estimate, 2)


def _stability_sentence(leaderboard: Leaderboard) -> str:
    """Return one sentence on how often resampled draws have the same candidates at the top."""
    who = "the winner" if leads(leaderboard) else "the first in the ranking"
    parts = []
    if leaderboard.leader_stability is not None:
        parts.append(f"{who} stays first in {fixed(100 * leaderboard.leader_stability, 0)} %")
    parts += [
        f"the best {size} stay the best {size} in {fixed(100 * share, 0)} %"
        for size, share in leaderboard.top_stability
        if size > 1
    ]
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed[0].upper()}{listed[1:]} of resamplings of the draws."


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
