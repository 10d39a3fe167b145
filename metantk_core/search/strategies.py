"""The strategies by name: a setting and what was found enter, the next thing to score leaves, until there is a winner.

A search is a sequence of rounds. What a round scores is a pure function of the setting and of what earlier rounds
found, so the result is the same whatever the number of shards, their order, or a restart; every strategy works with
every score and every weighted combination of ranks, for it is given records and knows neither networks nor kernels.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from metantk_core.search import evolution, pruning, racing
from metantk_core.search.config import Strategy
from metantk_core.search.history import SearchHistory, SearchRound
from metantk_core.search.rounds import best_first, compared_round
from metantk_core.search.sampling import candidates
from metantk_core.search.state import Found, Job, SearchState, Setting


class Rules(NamedTuple):
    """What makes a strategy."""

    start: Callable[[Setting], SearchState]
    advance: Callable[[Setting, SearchState, Found], SearchState]
    most_rounds: Callable[[Setting], int]


def start(setting: Setting) -> SearchState:
    """Return the state before the first round.

    Raises:
        InputError: The limits leave too few candidates.
    """
    return STRATEGIES[setting.config.strategy].start(setting)


def advance(setting: Setting, state: SearchState, found: Found) -> SearchState:
    """Return the state after the planned round, or the same state if the search has ended.

    With a target reliability, a round that misses it is planned again with twice the draws, up to the maximum.

    Args:
        setting: The search.
        state: Where it stands.
        found: Gives the records of every job that was ever planned.

    Raises:
        InputError: Nothing that the search could go on with was scored.
    """
    if state.finished:
        return state
    following = STRATEGIES[setting.config.strategy].advance(setting, state, found)
    more = _more_draws(setting, state, following.rounds[-1])
    if more is None:
        return following
    seen = following.rounds[-1]
    drawn_on = replace(seen, title=f"{seen.title}: draw on", after=None, removals=(), choices=())
    history = replace(state.history, rounds=(*state.rounds, drawn_on))
    return replace(state, history=history, plan=tuple(replace(job, draws=more) for job in state.plan))


def most_rounds(setting: Setting) -> int:
    """Return the most rounds that the search can take; a pipeline has so many."""
    rounds = STRATEGIES[setting.config.strategy].most_rounds(setting)
    steps, draws = 1, setting.num_inits
    if setting.config.target_reliability is not None:
        while draws < setting.config.max_inits:
            steps, draws = steps + 1, 2 * draws
    return rounds * steps


def _more_draws(setting: Setting, state: SearchState, closed: SearchRound) -> int | None:
    """Return the number of draws to repeat a round with, or none if it is good enough or the draws are used up."""
    target, draws = setting.config.target_reliability, state.plan[0].draws
    if target is None or draws >= setting.config.max_inits or not closed.reliability:
        return None
    # The last one is that of the whole criterion.
    return None if closed.reliability[-1][1].icc >= target else min(2 * draws, setting.config.max_inits)


def _start_sample(setting: Setting) -> SearchState:
    listed = candidates(setting.config, setting.seed, setting.allowed)
    history = SearchHistory(setting.config.strategy, setting.config.space, None, ())
    return SearchState(history, tuple(Job(genotype, setting.num_inits) for genotype in listed))


def _advance_sample(setting: Setting, state: SearchState, found: Found) -> SearchState:
    closed = compared_round(setting, state, found, state.plan, "score all candidates")
    winner = best_first(setting, state.plan, found)[0]
    history = replace(state.history, winner=winner, rounds=(*state.rounds, closed))
    return replace(state, history=history, board=state.plan, plan=())


_SAMPLE = Rules(_start_sample, _advance_sample, lambda setting: 1)

STRATEGIES: Mapping[Strategy, Rules] = MappingProxyType(
    {
        "sample": _SAMPLE,
        "enumerate": _SAMPLE,
        "prune": Rules(pruning.start, pruning.advance, pruning.most_rounds),
        "evolve": Rules(evolution.start, evolution.advance, evolution.most_rounds),
        "race": Rules(racing.start, racing.advance, racing.most_rounds),
    }
)
