"""Searches by the real strategies on made-up scores: a setting enters, a leaderboard and a history leave at once."""

import numpy as np

from metantk_core.ranking import Criterion, Leaderboard, rank
from metantk_core.scores import SCORES, Score, ScoreRecord
from metantk_core.search import Job, SearchConfig, SearchHistory, Setting, advance, start
from metantk_core.seeding import numpy_generator


def value(genotype: str, name: str, draw: int, noise: float) -> float:
    """Return a positive score that belongs to the genotype, with noise of the draw."""
    own = numpy_generator(0, genotype, name).normal()
    drawn = numpy_generator(1, genotype, name, draw).normal()
    return float(10 ** (1 + 0.3 * own + noise * drawn))


def search(
    criterion: str = "metantk_cond", num_inits: int = 3, noise: float = 0.1, blind_to: str = "", **config: object
) -> tuple[Leaderboard, SearchHistory]:
    """Return what a search finds.

    Args:
        criterion: Text form of the criterion.
        num_inits: Draws of each candidate.
        noise: Standard deviation of a draw relative to the differences between candidates, 0.3.
        blind_to: Cell type that no score depends on.
        config: Values of ``SearchConfig``.
    """
    setting = Setting(SearchConfig.model_validate(config), Criterion.of(criterion), num_inits, 0)

    def found(job: Job) -> tuple[ScoreRecord, ...]:
        seen = str(job.genotype)
        if blind_to:
            seen = repr([edge for edge in job.genotype.edges if edge.cell != blind_to])
        return tuple(
            ScoreRecord(
                setting.space.name,
                str(job.genotype),
                name,
                tuple(Score(value(seen, name, draw, noise)) for draw in range(job.draws)),
                seed=0,
                stream=job.stream,
                seconds=0.0,
            )
            for name in (*setting.criterion.names, "ntk_cond")
            if name in SCORES
        )

    state = start(setting)
    while not state.finished:
        state = advance(setting, state, found)
    records = [record for job in state.board for record in found(job)]
    board = rank(records, by=setting.criterion, winner=str(state.history.winner))
    assert np.isfinite([standing.mean or 0.0 for standing in board.standings]).all()
    return board, state.history
