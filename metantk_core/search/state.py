"""Where a search stands: what earlier rounds found enters, what to score next leaves; as JSON between steps."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metantk_core.candidates import Genotype, SearchSpace, space_named
from metantk_core.errors import InputError, first_complaint
from metantk_core.networks import LatencyTable
from metantk_core.ranking import Criterion
from metantk_core.scores import ScoreRecord
from metantk_core.search.config import SearchConfig
from metantk_core.search.history import SearchHistory, SearchRound
from metantk_core.search.written import Written, WrittenIfAny


@dataclass(frozen=True)
class Job:
    """Something to score.

    Attributes:
        genotype: A candidate or a supernet.
        draws: Draws 0 to ``draws - 1`` are wanted.
        stream: Name of other random numbers than those that the whole search shares, for weights and episodes.
        weights: Name that sets the weights apart from those of other jobs of the stream, on the same episodes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    genotype: Written
    draws: int
    stream: str = ""
    weights: str = ""


#: Gives the records of a job that was scored, one a score, each with exactly the job's draws.
Found = Callable[[Job], tuple[ScoreRecord, ...]]
#: Says whether a candidate is within the limits, or a supernet holds a candidate that is.
Allowed = Callable[[Genotype], bool]


def everything(genotype: Genotype) -> bool:
    """Allow any genotype."""
    return True


@dataclass(frozen=True)
class Setting:
    """What stays the same during a search.

    Attributes:
        config: The strategy and its settings.
        criterion: What orders candidates.
        num_inits: Draws of each candidate.
        seed: Seed of the run.
        allowed: Which candidates may be found.
    """

    config: SearchConfig
    criterion: Criterion
    num_inits: int
    seed: int
    allowed: Allowed = everything

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return space_named(self.config.space)


@dataclass(frozen=True)
class SearchState:
    """Where a search stands between two rounds.

    Attributes:
        history: What happened so far; its winner is set when the search has ended.
        plan: What to score now; empty when the search has ended.
        board: The candidates scored so far that belong in the final ranking.
        supernet: Pruning: the present supernet.
        compared: Pruning: the supernet that the candidates' kernels are compared with.
        latency: The times that a limit on latency is judged by, measured before the first round: every later step, on
            whatever machine, admits the same candidates. None without such a limit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    history: SearchHistory
    plan: tuple[Job, ...]
    board: tuple[Job, ...] = ()
    supernet: WrittenIfAny = None
    compared: WrittenIfAny = None
    latency: LatencyTable | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to score."""
        return not self.plan

    @property
    def next_round(self) -> int:
        """Number of the round that is planned, from 1."""
        return len(self.history.rounds) + 1

    @property
    def rounds(self) -> tuple[SearchRound, ...]:
        """The rounds so far."""
        return self.history.rounds

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(_STATE.dump_python(self, mode="json"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "SearchState":
        """Return the state that a text holds.

        Raises:
            InputError: The text is broken or is no state.
        """
        try:
            return _STATE.validate_json(text, strict=True, context={})
        except ValidationError as error:
            raise InputError(
                "Expected the state of a search as JSON, but got something else "
                f"({first_complaint(error)}); start the search again."
            ) from error


_STATE = TypeAdapter(SearchState)
