"""What scoring leaves behind: draws of one score of one candidate enter, one JSON line leaves; and back."""

import json
import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metantk_core.errors import InputError, first_complaint
from metantk_core.kernels import Precision


def device_kind(device: str) -> str:
    """Return the kind of a device as torch spells it, without its number: ``"cuda"`` of ``"cuda:1"``."""
    return device.partition(":")[0]


class Outcome(StrEnum):
    """How scoring ended; only ``OK`` carries a value."""

    OK = "ok"
    DEGENERATE = "degenerate"
    NON_FINITE = "non-finite"
    OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Score:
    """One draw of a score: a finite number, or none and why.

    Attributes:
        value: The number, if the outcome is ``OK``.
        outcome: How scoring ended.
        reason: For people: what went wrong, empty if nothing did.
        precision: What the gradients behind it were computed in: ``float64`` where ``float32`` would not have been
            enough to know the value, or that there is none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    value: float | None
    outcome: Outcome = Outcome.OK
    reason: str = ""
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.outcome is Outcome.OK and (self.value is None or not math.isfinite(self.value) or self.reason):
            raise ValueError(
                f"a score that is ok has a finite value and no reason, got {self.value} and {self.reason!r}"
            )
        if self.outcome is not Outcome.OK and (self.value is not None or not self.reason):
            raise ValueError(f"a score that is {self.outcome} has a reason and no value, got {self.value}")


@dataclass(frozen=True)
class ScoreRecord:
    """All draws of one score of one candidate.

    Except for ``seconds`` it is a pure function of the configuration, the candidate and the seed.

    Attributes:
        space: Name of the search space.
        genotype: Text form of the candidate.
        score: Name of the score, a key of ``SCORES``.
        draws: One score per initialisation; a single one if the score does not depend on the initialisation.
        seed: Seed of the run.
        stream: Name of the random numbers that the draws are from; empty for the usual ones.
        weights: Name that sets the weights apart from others of the stream; empty for those shared by all.
        seconds: Wall time that this score took. Scores that share a pass share its time, so that sums over records are
            the time spent.
        device: Kind of device that the networks ran on, such as ``"cpu"`` or ``"cuda"``: kinds round differently. Empty
            for what is counted, not computed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    space: str
    genotype: str
    score: str
    draws: tuple[Score, ...]
    seed: int
    seconds: float
    stream: str = ""
    weights: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        if not self.draws:
            raise ValueError("a record holds at least one draw")
        if not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise ValueError(f"seconds are at least 0 and finite, got {self.seconds}")

    @property
    def failure(self) -> str:
        """Why the score has no value, from the first draw that has none; empty if all have one."""
        return next((f"{draw.outcome}: {draw.reason}" for draw in self.draws if draw.value is None), "")

    @property
    def lasting(self) -> bool:
        """Whether the record says something of the candidate alone: with more memory, there would be a score."""
        return all(draw.outcome is not Outcome.OUT_OF_MEMORY for draw in self.draws)

    def first(self, draws: int) -> "ScoreRecord":
        """Return the record of the first draws alone; one that has no more stays as it is."""
        return self if len(self.draws) <= draws else replace(self, draws=self.draws[:draws])

    def without_first(self, draws: int) -> "ScoreRecord":
        """Return the record of the draws after the first ones, of which it has more."""
        return replace(self, draws=self.draws[draws:]) if draws else self

    def followed_by(self, more: "ScoreRecord") -> "ScoreRecord":
        """Return the record of these draws and later ones of the same score.

        Raises:
            ValueError: The other record is of another candidate, score, seed, stream or kind of device.
        """
        mine, others = (
            (record.space, record.genotype, record.score, record.seed, record.stream, record.weights, record.device)
            for record in (self, more)
        )
        if mine != others:
            raise ValueError(f"records of different things can't be joined: {mine} and {others}")
        return replace(self, draws=self.draws + more.draws, seconds=self.seconds + more.seconds)

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line break; every float comes back exactly."""
        # As ``dataclasses.asdict``, but several times as fast.
        return json.dumps(_RECORD.dump_python(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "ScoreRecord":
        """Return the record that a line holds.

        Raises:
            InputError: The line is broken or is not a score record.
        """
        try:
            return _RECORD.validate_json(line, strict=True)
        except ValidationError as error:
            shown = line if len(line) <= 80 else f"{line[:77]}..."
            raise InputError(
                f"Expected a score record, one JSON object a line, but got {shown!r} "
                f"({first_complaint(error)}); score this shard again."
            ) from error


_RECORD = TypeAdapter(ScoreRecord)
