"""What a search did, round by round, as values: rounds enter, one JSON text leaves; and back."""

import json
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metantk_core import seeding
from metantk_core.errors import InputError, first_complaint
from metantk_core.ranking import Reliability
from metantk_core.search.written import Space, WrittenIfAny


@dataclass(frozen=True)
class Removal:
    """One candidate of a pruning round: what is taken away, and what that changes.

    Attributes:
        cell: Cell type of the edge.
        source: Node that the edge leaves.
        target: Node that it enters.
        operation: The operation that is taken away; the edge's last one in the phase that removes edges.
        changes: By score: mean change over draws, relative to the supernet; none if a draw failed.
        standard_errors: By score: standard error of that mean; none with a single draw or a failed one.
        ranks: By score: rank of the change among all candidates of the round, 1 for the best.
        total: Weighted sum of the ranks; the lowest is removed.
        removed: Whether it was.
        reason: Why it could not be scored, for people; empty if it was.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    cell: str
    source: int
    target: int
    operation: str
    changes: tuple[tuple[str, float | None], ...]
    standard_errors: tuple[tuple[str, float | None], ...]
    ranks: tuple[tuple[str, float], ...]
    total: float
    removed: bool
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """One decision of a pruning round: which operation of an edge goes, or which edges into a node.

    Attributes:
        cell: Cell type.
        source: Node that the edge leaves; none for a decision about all edges into ``target``.
        target: Node that it enters.
        removed: The operation, or the edges as ``"0-4"``.
        options: Number of possible decisions.
        certainty: Share of bootstrap resamples of the draws that decide the same; none with a single draw. Resamples
            know the draws that decided, so that noise alone gives far more than ``chance``.
        agreement: Share of the splits of the draws into two halves that decide alike; noise alone gives ``chance``.
        chance: Share of all decisions that each one is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    cell: str
    source: int | None
    target: int
    removed: tuple[str, ...]
    options: int
    certainty: float | None
    agreement: float | None
    chance: float


@dataclass(frozen=True)
class SearchRound:
    """What happened between two decisions of a search.

    Attributes:
        number: From 1.
        title: For people, as in ``"prune operations, 1 of 6"``.
        scored: Candidates scored in this round.
        draws: Draws of each.
        failed: Candidates with a failed draw.
        measures: Numbers about the round by name, which are drawn as curves over rounds.
        reliability: By score (and for the whole criterion): how far this round's differences can be trusted; left out
            where undefined.
        distinct: By score: number of different means.
        before: The supernet that a pruning round starts from; none in other rounds.
        after: What it leaves.
        removals: The candidates of a pruning round.
        choices: Its decisions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    number: int
    title: str
    scored: int
    draws: int
    failed: int
    measures: tuple[tuple[str, float], ...]
    reliability: tuple[tuple[str, Reliability], ...] = ()
    distinct: tuple[tuple[str, int], ...] = ()
    before: WrittenIfAny = None
    after: WrittenIfAny = None
    removals: tuple[Removal, ...] = ()
    choices: tuple[Choice, ...] = ()


def tied(closed: SearchRound, choice: Choice) -> bool:
    """Return whether the order of names made a choice: something that stayed was exactly as good as what went.

    Args:
        closed: A pruning round.
        choice: One of its choices.
    """
    group = [
        removal
        for removal in closed.removals
        if (removal.cell, removal.target) == (choice.cell, choice.target) and choice.source in (None, removal.source)
    ]
    gone = {_merit(removal) for removal in group if removal.removed}
    return any(_merit(removal) in gone for removal in group if not removal.removed)


def _merit(removal: Removal) -> tuple[float, float | None]:
    return removal.total, removal.changes[0][1] if removal.changes else None


@dataclass(frozen=True)
class SearchHistory:
    """A whole search.

    Attributes:
        strategy: Name of the strategy.
        space: Name of the search space.
        winner: What was found; none while the search goes on.
        rounds: In order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    strategy: str
    space: Space
    winner: WrittenIfAny
    rounds: tuple[SearchRound, ...]

    @property
    def digest(self) -> str:
        """The digest of the whole history."""
        return seeding.digest(_HISTORY.dump_python(self))

    def to_json(self) -> str:
        """Return the history as JSON."""
        return json.dumps(_HISTORY.dump_python(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "SearchHistory":
        """Return the history that a text holds.

        Raises:
            InputError: The text is broken or is no history.
        """
        try:
            return _HISTORY.validate_json(text, strict=True, context={})
        except ValidationError as error:
            raise InputError(
                "Expected the history of a search as JSON, but got something else "
                f"({first_complaint(error)}); search again."
            ) from error


_HISTORY = TypeAdapter(SearchHistory)
