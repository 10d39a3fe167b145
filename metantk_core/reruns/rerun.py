"""What a rerun measured, as a value: measurements and surroundings enter, JSON leaves; and back."""

import json
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metantk_core.errors import InputError, first_complaint
from metantk_core.meta_training import Evaluation
from metantk_core.ranking import Leaderboard


@dataclass(frozen=True)
class Surroundings:
    """What numbers may depend on beside the configuration.

    Attributes:
        versions: Names and versions of the software that computes.
        processor: Model of the processor, with the instructions that torch uses of it.
        accelerator: Model of the GPU; empty if networks ran on the processor.
        threads: Threads of one operation on the processor.
        device: Kind of the device that networks ran on, such as ``"cpu"`` or ``"cuda"``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    versions: tuple[tuple[str, str], ...]
    processor: str
    accelerator: str
    threads: int
    device: str

    @property
    def machine(self) -> str:
        """The kind of machine for people: of two with equal words, equal versions give equal numbers."""
        of = f"{self.accelerator}, " if self.accelerator else ""
        return f"{of}{self.processor}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    @property
    def software(self) -> str:
        """The versions for people."""
        return ", ".join(f"{name} {version}" for name, version in self.versions)

    def changes_since(self, before: "Surroundings") -> tuple[str, ...]:
        """Return what is other than it was, as in ``torch 2.12.0 → 2.13.0``; nothing if all is the same."""
        mine, theirs = dict(self.versions), dict(before.versions)
        changed = [
            f"{name} {theirs.get(name, 'none')} → {mine.get(name, 'none')}"
            for name in dict.fromkeys([*theirs, *mine])
            if theirs.get(name) != mine.get(name)
        ]
        if self.machine != before.machine or self.device != before.device:
            changed.append(f"{before.machine} → {self.machine}")
        return tuple(changed)


@dataclass(frozen=True)
class Timing:
    """How long scoring a candidate took.

    Attributes:
        scored: Digest of what was scored, and of which of its draws.
        seconds: Seconds by the clock.
        relative: The same in units of the reference operation, as that was measured before and after.
        processor: Processor time in units of that of the reference operation; none where an accelerator computed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    scored: str
    seconds: float
    relative: float
    processor: float | None


@dataclass(frozen=True)
class Rerun:
    """What one run of an experiment, computed anew from start to end, measured.

    Attributes:
        recipe: Name of the configuration.
        experiment: Digest of all of the configuration that decides numbers.
        name: Name of the rerun among those of the experiment.
        date: When it began, ISO 8601 in UTC.
        surroundings: Software and machine.
        images: Digest of the images.
        leaderboard: The ranking; none if too few candidates had a score for the search to go on.
        evaluation: Accuracy of the winner, if there was one to train.
        timings: How long scoring each candidate took.
        reference: What the reference operation is; times in units of another one can't be compared.
        reference_seconds: Its median duration in seconds; none if nothing was timed.
        peak_memory: The most bytes that were held: of the process, or on the accelerator if there is one; none if this
            machine does not tell.
        problem: Why something is missing; empty if nothing is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    recipe: str
    experiment: str
    name: str
    date: str
    surroundings: Surroundings
    images: str
    leaderboard: Leaderboard | None
    evaluation: Evaluation | None
    timings: tuple[Timing, ...]
    reference: str
    reference_seconds: float | None
    peak_memory: int | None
    problem: str = ""

    def repeats(self, before: "Rerun") -> bool:
        """Return whether every number but times and memory must be the same as in another rerun of the experiment."""
        return self.images == before.images and not self.surroundings.changes_since(before.surroundings)

    def changes_since(self, before: "Rerun") -> tuple[str, ...]:
        """Return what is other than it was around another rerun of the experiment, images included."""
        images = () if self.images == before.images else ("the images",)
        return (*self.surroundings.changes_since(before.surroundings), *images)

    def to_json(self) -> str:
        """Return the rerun as JSON that ``from_json`` reads back to an equal value."""
        return json.dumps(_RERUN.dump_python(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Rerun":
        """Return the rerun that a text holds.

        Raises:
            InputError: The text is broken or is no rerun.
        """
        try:
            return _RERUN.validate_json(text, strict=True)
        except ValidationError as error:
            raise InputError(
                f"Expected a benchmark rerun as JSON, but got something else ({first_complaint(error)}); run the "
                "benchmark again."
            ) from error


_RERUN = TypeAdapter(Rerun)
