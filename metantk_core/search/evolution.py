"""Regularised evolution: the best of a random few has a child, the oldest dies [Real et al. 2019].

The search stays the same for any number of shards: all children of a generation are made from the population at its
start, each with random numbers of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from metantk_core.candidates import Genotype
from metantk_core.search.history import SearchHistory
from metantk_core.search.rounds import best_first, compared_round
from metantk_core.search.sampling import sample
from metantk_core.search.state import Found, Job, SearchState, Setting
from metantk_core.seeding import numpy_generator

_ATTEMPTS = 200  # to make a child that is new and allowed


def start(setting: Setting) -> SearchState:
    """Return the state before the first round, which scores a random population."""
    size = setting.config.evolve.population
    first = sample(setting.config.space, setting.seed, size, setting.allowed)
    history = SearchHistory("evolve", setting.config.space, None, ())
    return SearchState(history, tuple(Job(genotype, setting.num_inits) for genotype in first))


def most_rounds(setting: Setting) -> int:
    """Return the number of rounds: the first population, then a generation each."""
    config = setting.config
    return 1 + ceil((config.num_candidates - config.evolve.population) / config.evolve.children)


def advance(setting: Setting, state: SearchState, found: Found) -> SearchState:
    """Return the state after the planned generation, whose candidates have all been scored."""
    board = (*state.board, *state.plan)
    generation = len(state.rounds)
    population = board[-setting.config.evolve.population :]
    title = f"generation {generation}" if generation else "first population"
    closed = compared_round(
        setting, state, found, board, title, scored=len(state.plan), measures=[("candidates", float(len(board)))]
    )
    history = replace(state.history, rounds=(*state.rounds, closed))
    wanted = min(setting.config.evolve.children, setting.config.num_candidates - len(board))
    children = _children(setting, board, population, generation + 1, wanted, found) if wanted else ()
    if not children:
        history = replace(history, winner=best_first(setting, board, found)[0])
    plan = tuple(Job(child, setting.num_inits) for child in children)
    return replace(state, history=history, board=board, plan=plan)


def _children(
    setting: Setting,
    board: Sequence[Job],
    population: Sequence[Job],
    generation: int,
    wanted: int,
    found: Found,
) -> tuple[Genotype, ...]:
    """Return new candidates, each a neighbour of the best of a random few; fewer if the space has no more."""
    place = {genotype: number for number, genotype in enumerate(best_first(setting, population, found))}
    space = setting.space
    known = {job.genotype for job in board}
    children: list[Genotype] = []
    for number in range(wanted):
        rng = numpy_generator(setting.seed, "search", "evolve", generation, number)
        for _ in range(_ATTEMPTS):
            drawn = rng.choice(len(population), size=setting.config.evolve.tournament, replace=False)
            parent = min((population[int(index)].genotype for index in drawn), key=place.__getitem__)
            child = space.mutate(parent, rng)
            if child not in known and setting.allowed(child):
                known.add(child)
                children.append(child)
                break
    return tuple(children)
