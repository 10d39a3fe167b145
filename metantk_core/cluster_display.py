"""What people see of a cluster: runs, steps and schedules enter; tables, a live view and plain words leave."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metantk_core.adapters.kubeflow.cron import next_times, parse, zone_for_people
from metantk_core.adapters.progress import duration
from metantk_core.errors import InputError
from metantk_core.files import shown
from metantk_core.ports import ENDED, ClusterRun, Schedule, StepState
from metantk_core.scheduling import Arranged

_STATES = {
    "PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded", "SKIPPED": "skipped", "FAILED": "failed",
    "CANCELING": "stopping", "CANCELED": "stopped", "PAUSED": "paused",
}  # fmt: skip
_COLOURS = {"RUNNING": "cyan", "SUCCEEDED": "green", "FAILED": "red", "CANCELED": "yellow", "CANCELING": "yellow"}
_UNREADABLE = "by an interval, or by rules that can't be read here"


def print_lines(lines: Mapping[str, str]) -> None:
    """Print what is known of one thing, a line each; empty ones are left out."""
    console = Console()
    for word, value in lines.items():
        if value:
            console.print(f"{word:<11}{shown(value)}", soft_wrap=True, highlight=False, markup=False)


def print_runs(runs: Sequence[ClusterRun]) -> None:
    """Print runs, a line each."""
    if not runs:
        Console().print("No runs.", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("submitted (UTC)", "took", "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("name, and run for `metantk runs show`", overflow="fold")  # two lines, for 80 columns
    for run in runs:
        about = Text.assemble(shown(run.name), "\n", (run.run, "dim"))
        table.add_row(_shown(run.created), _took(run.created, run.ended), _state(run.state), about)
    Console().print(table)


def print_run(run: ClusterRun) -> None:
    """Print a run with its steps, why it failed, and where to look further."""
    print_lines(
        {
            "Run": run.run,
            "Name": run.name,
            "State": f"{_word(run.state)}{f' after {_took(run.created, run.ended)}' if run.ended else ''}",
            "Submitted": f"{_shown(run.created)} UTC" if run.created else "",
            "Why": run.why,
            "Page": run.link,
        }
    )
    if run.steps:
        Console().print(_steps(run.steps))


def print_schedules(schedules: Sequence[Schedule], versions: Mapping[str, str]) -> None:
    """Print schedules, a line each, and say where two have one name.

    Args:
        schedules: The schedules.
        versions: Names of the versions that they run, by identifier.
    """
    if not schedules:
        Console().print("No schedules.", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("schedule", "state", "when", "next (UTC)", "version"):
        table.add_column(heading, no_wrap=heading in ("state", "next (UTC)"), overflow="fold")
    for schedule in schedules:
        settings = schedule.settings
        following = firings(schedule, datetime.now(UTC), 1)
        table.add_row(
            Text(shown(settings.name)),
            "enabled" if schedule.enabled else "paused",
            words(settings.cron),
            _shown(following[0]) if following else "-",
            versions.get(settings.version_id, settings.version_id),
        )
    Console().print(table)
    names = [schedule.settings.name for schedule in schedules]
    for name in sorted({name for name in names if names.count(name) > 1}):
        Console().print(
            f"{names.count(name)} schedules are named {shown(name)}: a 'metantk schedule create' was broken off; the "
            "same command again leaves one.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def print_schedule(schedule: Schedule, version: str, now: datetime) -> None:
    """Print a schedule: when it fires, in words and as times, and what.

    Args:
        schedule: The schedule.
        version: Name of the version that it runs.
        now: The present, in the time zone in which times are shown.
    """
    settings = schedule.settings
    following = firings(schedule, now, 3)
    print_lines(
        {
            "Schedule": settings.name,
            "State": "enabled" if schedule.enabled else "paused",
            "When": f"{words(settings.cron)}   ({settings.cron})" if settings.cron else _UNREADABLE,
            "Next": ", ".join(f"{time:%a %Y-%m-%d %H:%M:%S}" for time in following),
            "": f"({zone_for_people(now.tzinfo)})" if following else "",
            "Version": version or f"{settings.version_id} (not there any more)",
            "Parameters": ", ".join(settings.parameters),
            "At most": f"{settings.concurrency} at a time; missed firings are "
            f"{'made up for one by one' if settings.catch_up else 'not made up for'}",
            "Account": settings.service_account,
            "Why": schedule.why,
            "Page": schedule.link,
        }
    )


def arranged_words(arranged: Arranged) -> str:
    """Return what became of a schedule that was created, perhaps once more."""
    if not arranged.made and not arranged.removed:
        return "enabled again" if arranged.was_paused else "unchanged"
    if arranged.removed:
        return "replaced" if arranged.made else "repaired"
    return "created"


def words(cron: str) -> str:
    """Return when an expression fires, in words."""
    try:
        return parse(cron).words()
    except InputError:
        return _UNREADABLE


def firings(schedule: Schedule, now: datetime, number: int) -> list[datetime]:
    """Return when a schedule fires next; nothing if it is paused or can't be read."""
    if not schedule.enabled:
        return []
    try:
        return next_times(parse(schedule.settings.cron), now, number, created=schedule.created)
    except InputError:
        return []


class RunDisplay:
    """The steps of a run on a cluster: redrawn on a terminal, a line for each change elsewhere; on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._said: dict[str, str] = {}

    def __enter__(self) -> "RunDisplay":
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, sentence: str) -> None:
        """Say something once, above what is redrawn."""
        self._console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    def show(self, run: ClusterRun) -> None:
        """Show how it stands with a run."""
        if self._live is not None:
            below = f"{_word(run.state)}, {_took(run.created, run.ended)} since it was submitted"
            self._live.update(Group(_steps(run.steps), Text(below, style="dim")), refresh=True)
            return
        for name, states in _by_name(run.steps).items():
            line = _counts(states)
            if self._said.get(name) != line:
                self._console.print(f"  {shown(name):<24} {line}", highlight=False, markup=False)
            self._said[name] = line


def _steps(steps: Iterable[StepState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "state", "took"):
        table.add_column(heading, overflow="fold")
    for name, same in _by_name(steps).items():
        started = min((step.started for step in same if step.started and step.state != "PENDING"), default=None)
        over = all(step.state in ENDED for step in same)
        ended = max((step.ended for step in same if step.ended), default=None) if over else None
        state = next((one for one in ("FAILED", "RUNNING", "CANCELED") if any(step.state == one for step in same)), "")
        table.add_row(Text(shown(name)), Text(_counts(same), style=_COLOURS.get(state, "")), _took(started, ended))
        for why in dict.fromkeys(step.why for step in same if step.why):
            table.add_row("", Text(shown(why), style="red"), "")
    return table


def _by_name(steps: Iterable[StepState]) -> dict[str, list[StepState]]:
    found: dict[str, list[StepState]] = {}
    for step in steps:
        found.setdefault(step.name, []).append(step)
    return found


def _counts(steps: Sequence[StepState]) -> str:
    """Return how many of some steps of one name are in which state; of a single one the state alone."""
    if len(steps) == 1:
        return _word(steps[0].state)
    states = [step.state for step in steps]
    order = [*_STATES, *sorted(set(states) - set(_STATES))]
    parts = [f"{states.count(state)} {_word(state)}" for state in order if state in states]
    return f"{', '.join(parts)} of {len(states)}"


def _state(state: str) -> Text:
    return Text(_word(state), style=_COLOURS.get(state, ""))


def _word(state: str) -> str:
    return _STATES.get(state, state.lower())  # a newer Kubeflow may have more


def _shown(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else "-"


def _took(start: datetime | None, end: datetime | None) -> str:
    if start is None:
        return "-"
    return duration(max(0.0, ((end or datetime.now(UTC)) - start).total_seconds()))
