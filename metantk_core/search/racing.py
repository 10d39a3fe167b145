"""Racing: all candidates get a few draws, then only those that may still be the best get more.

A candidate is dropped when the interval of its paired difference to the leader lies on the wrong side of zero. Draws
are shared by all candidates, so the differences do not contain what a draw does to all of them alike.
"""

from dataclasses import replace

import numpy as np

from metantk_core.ranking import losses, separated
from metantk_core.search.history import SearchHistory
from metantk_core.search.rounds import compared_round
from metantk_core.search.sampling import candidates
from metantk_core.search.state import Found, Job, SearchState, Setting


def start(setting: Setting) -> SearchState:
    """Return the state before the first round, in which all candidates run."""
    draws = _stages(setting)[0]
    runners = candidates(setting.config, setting.seed, setting.allowed)
    history = SearchHistory("race", setting.config.space, None, ())
    return SearchState(history, tuple(Job(genotype, draws) for genotype in runners))


def most_rounds(setting: Setting) -> int:
    """Return the number of rounds if more than one candidate stays to the end."""
    return len(_stages(setting))


def advance(setting: Setting, state: SearchState, found: Found) -> SearchState:
    """Return the state after the planned round: the dropped candidates keep the draws that they have."""
    stages = _stages(setting)
    config = setting.config.race
    number = len(state.rounds)
    records = [record for job in state.plan for record in found(job)]
    compared = losses(records, setting.criterion)
    means = compared.values.mean(axis=1)
    last = number + 1 == len(stages)
    out = np.zeros(len(means), bool)
    if not last:
        # The confidence is that of the whole race: of all who started, and of all looks at them.
        runners, looks = len(state.board) + len(state.plan), len(stages) - 1
        out = separated(compared.values, 1, config.confidence, looks=looks, started=runners)
    dropped = {genotype for genotype, is_out in zip(compared.genotypes, out, strict=True) if is_out}
    dropped |= {genotype for genotype, *_ in compared.failed}
    running = {str(job.genotype): job for job in state.plan}
    stay = [job for text, job in running.items() if text not in dropped]
    leave = tuple(job for text, job in running.items() if text in dropped)

    ends = last or len(stay) <= 1
    before = sum(job.draws for job in state.board)
    spent = before + sum(job.draws for job in state.plan)
    everyone = (len(state.board) + len(state.plan)) * stages[-1]
    measures = [("still running", float(len(stay))), ("draws spent", float(spent))]
    if ends:
        measures.append(("draws saved", float(everyone - spent)))
    closed = compared_round(setting, state, found, state.plan, f"race, {stages[number]} draws", measures=measures)
    history = replace(state.history, rounds=(*state.rounds, closed))
    if ends:
        first = running[compared.genotypes[int(means.argmin())]] if len(means) else state.plan[0]
        history = replace(history, winner=first.genotype)
        return replace(state, history=history, board=(*state.board, *state.plan), plan=())
    return replace(
        state,
        history=history,
        board=(*state.board, *leave),
        plan=tuple(replace(job, draws=stages[number + 1]) for job in stay),
    )


def _stages(setting: Setting) -> list[int]:
    """Return the draws that a candidate has after each round that it takes part in."""
    most = setting.num_inits
    stages = [min(setting.config.race.first, most)]
    while stages[-1] < most:
        stages.append(min(most, max(stages[-1] + 1, int(stages[-1] * setting.config.race.growth))))
    return stages
