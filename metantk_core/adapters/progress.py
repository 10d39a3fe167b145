"""Progress of steps across processes: counts enter, small files and lines for people leave."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from metantk_core.files import write_atomically
from metantk_core.progress import Progress
from metantk_core.seeding import digest

_SECONDS_BETWEEN_FILES = 0.3
_SECONDS_BETWEEN_LINES = 5.0
_NOTICES = "notices.log"
WATCHED = "METANTK_PROGRESS"
"""Environment variable that names the folder in which a local run looks for news of its steps."""


def notice(text: str) -> None:
    """Tell people something that isn't progress: on standard error, and to the local run that this is a step of."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a pod's log is its terminal
    if folder := os.environ.get(WATCHED):
        with Path(folder, _NOTICES).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def read_notices(directory: Path) -> tuple[str, ...]:
    """Return what steps told people so far, in the order in which they did."""
    try:
        return tuple(Path(directory, _NOTICES).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()


@dataclass(frozen=True)
class StepProgress:
    """How far a step was when it last said so.

    Attributes:
        step: Name of the step.
        done: Units finished, those of earlier attempts included.
        total: Units in all.
        found: Units that an earlier attempt had finished.
        started_at: When this attempt began, in seconds since 1970.
        updated_at: When it last said so, in seconds since 1970.
        detail: A few words.
    """

    step: str
    done: int
    total: int
    found: int
    started_at: float
    updated_at: float
    detail: str = ""

    @property
    def finished(self) -> bool:
        """Whether all units are done."""
        return self.done >= self.total

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds from the last news to the end, at the pace of this attempt; none before its first unit."""
        if self.finished:
            return 0.0
        fresh = self.done - self.found
        return (self.updated_at - self.started_at) / fresh * (self.total - self.done) if fresh > 0 else None

    def after(self, done: int, total: int, detail: str, now: float) -> "StepProgress":
        """Return the progress after more news; what is counted in other units begins then."""
        if total != self.total:
            return StepProgress(self.step, done, total, done, now, now, detail)
        return StepProgress(self.step, done, total, min(self.found, done), self.started_at, now, detail)


class ProgressFile:
    """A ``Progress`` that keeps one small JSON file up to date, a few times a second at most.

    Args:
        directory: Folder that a display watches; made when needed.
        step: Name of the step; one file a name.
    """

    def __init__(self, directory: Path, step: str) -> None:
        self._path = directory / f"{digest(step)}.json"
        self._step = step
        self._state: StepProgress | None = None
        self._written_at = float("-inf")

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Take note of units done; the first and the last news are always written."""
        now = time.time()
        if self._state is None:
            self._state = StepProgress(self._step, done, total, done, now, now)
        self._state = self._state.after(done, total, detail, now)
        if self._state.finished or time.monotonic() - self._written_at >= _SECONDS_BETWEEN_FILES:
            # Written for a display: not worth a disk flush.
            write_atomically(self._path, json.dumps(vars(self._state)).encode(), durable=False)
            self._written_at = time.monotonic()


def read_progress(directory: Path) -> tuple[StepProgress, ...]:
    """Return the progress of the steps that keep a file in a folder, in the order in which they began."""
    steps = []
    for path in directory.glob("*.json"):
        try:
            steps.append(StepProgress(**json.loads(path.read_bytes())))
        except (FileNotFoundError, TypeError, ValueError):
            continue  # another file, or one that was cleared away meanwhile
    return tuple(sorted(steps, key=lambda step: (step.started_at, step.step)))


@runtime_checkable
class Stream(Protocol):
    """Something that takes text, such as ``sys.stderr``."""

    def write(self, text: str, /) -> object:
        """Take text."""

    def flush(self) -> object:
        """Show it now."""


class ProgressLines:
    """A ``Progress`` that prints a line every few seconds: percentage and time left.

    Args:
        stream: Where lines go.
        step: Name of the step.
        seconds: Least seconds between two lines, five unless said otherwise; the first and the last news are always
            printed.
    """

    def __init__(self, stream: Stream, step: str, *, seconds: float | None = None) -> None:
        self._stream = stream
        self._step = step
        self._seconds = _SECONDS_BETWEEN_LINES if seconds is None else seconds
        self._state: StepProgress | None = None
        self._printed_at = float("-inf")

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Take note of units done."""
        now = time.time()
        if self._state is None:
            self._state = StepProgress(self._step, done, total, done, now, now)
        self._state = self._state.after(done, total, detail, now)
        if self._state.finished or time.monotonic() - self._printed_at >= self._seconds:
            self._stream.write(_line(self._state) + "\n")
            self._stream.flush()
            self._printed_at = time.monotonic()


def progress_for(step: str) -> Progress:
    """Return what hears how far a step is: the local run that it belongs to, or people at standard error."""
    folder = os.environ.get(WATCHED)
    return ProgressFile(Path(folder), step) if folder else ProgressLines(sys.stderr, step)


def _line(state: StepProgress) -> str:
    left = state.seconds_left
    words = [f"{state.step}: {state.done}/{state.total} ({state.done / max(state.total, 1):.0%})"]
    if state.finished:
        words.append(f"done in {duration(state.updated_at - state.started_at)}")
    elif left is not None:
        words.append(f"about {duration(left)} left")
    if state.detail:
        words.append(state.detail)
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Return seconds for people, as in "40 s", "3 min 05 s", "2 h 10 min" or "12 days"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 4 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{round(whole / 86400):,} days"
