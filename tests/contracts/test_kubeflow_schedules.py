"""A schedule is there once and does what was asked for last, whatever was there before and whoever was killed."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubeflow_server import Answer, KubeflowServer, Request
from test_kubeflow import metantk

from metantk_core import scheduling
from metantk_core.adapters.kubeflow.cron import parse
from metantk_core.errors import InputError
from metantk_core.ports import Schedule, ScheduleSettings

MONDAYS = "0 0 3 * * 1"


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with KubeflowServer() as running:
        yield running


def created(package: Path, *more: str, cron: str = MONDAYS) -> tuple[str, ...]:
    return ("schedule", "create", str(package), "--name", "nightly", "-p", "times=1", "--cron", cron, *more)


@pytest.fixture
def newer(package: Path, tmp_path: Path) -> Path:
    """The same pipeline with another content."""
    path = tmp_path / "newer.yaml"
    path.write_text(package.read_text().replace("Hello", "Welcome"))
    return path


def test_a_schedule_created_twice_is_listed_once_and_nothing_is_changed(server: KubeflowServer, package: Path):
    assert "created" in metantk(server, *created(package)).out
    (before,) = server.schedules
    asked = len(server.seen)
    again = metantk(server, *created(package))
    assert "unchanged" in again.out
    assert list(server.schedules) == [before]
    assert not any(request.changes for request in server.seen[asked:])
    listed = metantk(server, "schedule", "list", "--json").values
    assert [one["name"] for one in listed] == ["nightly"]


def test_a_schedule_has_no_cache_no_catch_up_and_the_concurrency_that_was_asked_for(
    server: KubeflowServer, package: Path
):
    done = metantk(server, *created(package, "--concurrency", "3", "--service-account", "me", "--json"))
    (schedule,) = server.schedules.values()
    assert schedule.no_catchup is True
    assert (schedule.max_concurrency, schedule.service_account) == ("3", "me")
    assert schedule.runtime_config["parameters"] == {"times": 1}
    (content,) = server.packages.values()
    assert b"enableCache: true" in package.read_bytes()
    assert b"enableCache: true" not in content
    assert done.values["when"] == "at 03:00:00 on Mondays"
    assert len(done.values["next"]) == 3
    assert metantk(server, *created(package, "--concurrency", "11")).code == 2


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 0 4 * * 1"},
        {"more": ("--concurrency", "2")},
        {"more": ("-p", "name=x")},
        {"more": ("--experiment", "x")},
        {"more": ("--service-account", "other")},
    ],
)
def test_another_time_parameter_or_account_takes_the_old_ones_place(
    server: KubeflowServer, package: Path, change: dict[str, Any]
):
    metantk(server, *created(package))
    (before,) = server.schedules
    done = metantk(server, *created(package, *change.get("more", ()), cron=change.get("cron", MONDAYS)))
    assert "replaced" in done.out
    (after,) = server.schedules
    assert after != before
    assert len(server.firing("nightly")) == 1


def test_a_newer_version_takes_the_old_ones_place_and_never_do_two_fire(
    server: KubeflowServer, package: Path, newer: Path
):
    metantk(server, *created(package))
    asked = len(server.seen)
    fired: list[int] = []
    server.afterwards = lambda request: fired.append(len(server.firing("nightly")))
    assert "replaced" in metantk(server, *created(newer)).out
    changes = [
        (one.method, one.path.rpartition("/")[2].partition(":")[2]) for one in server.seen[asked:] if one.changes
    ]
    assert changes == [("POST", ""), ("POST", ""), ("DELETE", ""), ("POST", "enable")]  # the first one is the upload
    assert set(fired) == {0, 1}
    assert fired.count(0) == 1  # until the next request


def newest(server: KubeflowServer) -> str:
    return max(server.versions.values(), key=lambda version: version.created_at).pipeline_version_id


def killed_at(server: KubeflowServer, number: int, *, done: bool, arguments: tuple[str, ...]) -> bool:
    """Run a command in a process that is killed at one of its requests; return whether it was.

    Args:
        server: Whom it asks.
        number: Which request, from 0.
        done: Whether the server does what that one asks before the process dies.
        arguments: The command.
    """
    count = 0
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            signal.pause() if os.getppid() == 1 else metantk(server, *arguments)
        os._exit(0)

    def kill(request: Request) -> None:
        nonlocal count
        count += 1
        if count == number + 1:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise Answer(500)

    setattr(server, "afterwards" if done else "interfere", kill)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    server.afterwards = server.interfere = lambda request: None
    return count > number


@pytest.mark.slow
@pytest.mark.parametrize("before", [pytest.param("nothing", marks=pytest.mark.minutes), "an old one"])
@pytest.mark.parametrize(
    "done",
    [
        pytest.param(False, marks=pytest.mark.minutes, id="before the server hears"),
        pytest.param(True, id="before the answer comes"),
    ],
)
def test_a_kill_at_any_request_is_repaired_by_the_next_call(
    server: KubeflowServer, package: Path, newer: Path, done: bool, before: str
):
    number, killed, requests = 0, True, 0
    while killed:
        for kept in (server.schedules, server.versions, server.pipelines, server.packages, server.experiments):
            kept.clear()
        if before == "an old one":
            metantk(server, *created(package))
        asked = len(server.seen)
        killed = killed_at(server, number, done=done, arguments=created(newer))
        requests = len(server.seen) - asked
        assert len(server.firing("nightly")) <= 1
        again = metantk(server, *created(newer))
        assert again.code == 0, again.err
        (schedule,) = server.schedules.values()
        assert schedule.status == "ENABLED"
        assert schedule.pipeline_version_reference["pipeline_version_id"] == newest(server)
        assert len(server.versions) == (2 if before == "an old one" else 1)
        assert "unchanged" in metantk(server, *created(newer)).out
        number += 1
    assert number - 1 == requests  # of a call that nobody kills
    assert requests >= 9


@pytest.mark.minutes
def test_two_kills_in_a_row_are_repaired_too(server: KubeflowServer, package: Path, newer: Path):
    metantk(server, *created(package))
    requests = len(server.seen)
    metantk(server, *created(package))
    requests = len(server.seen) - requests  # of a call that changes nothing: the look at what is there is its last one
    for first in range(requests, requests + 3):
        for second in range(requests, requests + 3):
            server.schedules.clear()
            metantk(server, *created(package))
            for number in (first, second):
                killed_at(server, number, done=True, arguments=created(newer))
                assert len(server.firing("nightly")) <= 1
            metantk(server, *created(newer))
            (schedule,) = server.schedules.values()
            assert schedule.status == "ENABLED"
            assert schedule.pipeline_version_reference["pipeline_version_id"] == newest(server)


def test_two_people_who_create_the_same_at_once_make_one(server: KubeflowServer, package: Path):
    def the_other(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/recurringruns"):
            server.interfere = lambda request: None
            server.answer(request)

    server.interfere = the_other
    assert metantk(server, *created(package)).code == 0
    assert len(server.firing("nightly")) == len(server.schedules) == 1


def test_a_schedule_of_that_name_of_another_pipeline_is_left_alone(
    server: KubeflowServer, package: Path, tmp_path: Path
):
    other = tmp_path / "other.yaml"
    other.write_text(package.read_text().replace("name: hello", "name: other"))
    metantk(server, *created(package))
    before = dict(server.schedules)
    done = metantk(server, *created(other))
    assert done.code == 2
    assert "give another --name" in done.err
    assert server.schedules == before


def test_a_paused_one_that_is_created_again_is_enabled_and_that_is_said(server: KubeflowServer, package: Path):
    metantk(server, *created(package))
    assert "paused" in metantk(server, "schedule", "pause", "nightly").out
    assert not server.firing("nightly")
    assert "enabled again" in metantk(server, *created(package)).out
    assert len(server.firing("nightly")) == 1


def test_schedules_are_listed_shown_paused_resumed_run_now_and_deleted(server: KubeflowServer, package: Path):
    metantk(server, *created(package))
    listed = metantk(server, "schedule", "list").out
    for words in ("nightly", "enabled", "at 03:00:00 on Mondays", "0.1.0-"):
        assert words in listed
    shown = metantk(server, "schedule", "show", "nightly", "--timezone", "Europe/Berlin").out
    assert "in Europe/Berlin; Kubeflow fires in the time zone of its cluster" in shown
    assert shown.count(" 03:00:00") == 4  # in words, and three times

    assert "is paused" in metantk(server, "schedule", "pause", "nightly").out
    assert "paused" in metantk(server, "schedule", "list").out
    assert "starts the last one now" in metantk(server, "schedule", "resume", "nightly").out
    assert "was not paused" in metantk(server, "schedule", "resume", "nightly").out
    assert len(server.firing("nightly")) == 1

    run = server.runs[metantk(server, "schedule", "run-now", "nightly", "--json").values["run"]]
    assert run.runtime_config["parameters"] == {"times": 1}
    assert run.pipeline_version_reference["pipeline_version_id"] == newest(server)
    assert run.display_name.startswith("nightly now")

    assert "is removed" in metantk(server, "schedule", "delete", "nightly").out
    assert not server.schedules
    for command in ("show", "pause", "resume", "run-now", "delete"):
        done = metantk(server, "schedule", command, "nightly")
        assert done.code == 2
        assert "metantk schedule list" in done.err


def test_what_a_broken_off_call_left_is_shown_and_not_resumed_but_paused_and_deleted_together(
    server: KubeflowServer, package: Path, newer: Path
):
    metantk(server, *created(package))
    known = len(server.seen)
    metantk(server, *created(package))
    killed_at(server, len(server.seen) - known + 1, done=True, arguments=created(newer))  # when the new one was made
    assert len(server.schedules) == 2
    assert "2 schedules are named nightly" in metantk(server, "schedule", "list").out
    assert "broken off" in metantk(server, "schedule", "show", "nightly").out
    metantk(server, "schedule", "pause", "nightly")
    assert not server.firing("nightly")
    assert "leaves one" in metantk(server, "schedule", "resume", "nightly").err
    assert metantk(server, "schedule", "delete", "nightly").code == 0
    assert not server.schedules


@pytest.mark.parametrize(
    ("cron", "words"),
    [("0 5 * * *", "six fields"), ("0 0 0 30 2 *", "never"), ("0 0 3 * * 7", "weekday goes from 0 to 6")],
)
def test_a_time_that_is_most_likely_not_meant_is_refused_before_anybody_is_asked(
    server: KubeflowServer, package: Path, cron: str, words: str
):
    done = metantk(server, *created(package, cron=cron))
    assert done.code == 2
    assert words in done.err
    assert not server.seen
    zone = metantk(server, *created(package, "--timezone", "Europe/Atlantis"))
    assert "Expected a time zone" in zone.err


def test_schedules_that_others_have_made_are_shown_as_far_as_they_can_be_read(server: KubeflowServer, package: Path):
    metantk(server, *created(package))
    (ours,) = server.schedules.values()
    ours.trigger = {"periodic_schedule": {"interval_second": "60"}}
    assert "by an interval" in metantk(server, "schedule", "list").out
    ours.trigger = {"cron_schedule": {"cron": "0 5 * * *"}}
    assert "at the minute 5 of every hour" in metantk(server, "schedule", "show", "nightly").out
    server.versions.clear()
    assert "not there any more" in metantk(server, "schedule", "show", "nightly").out


@dataclass
class Clockwork:
    """A cluster with a clock, whose enabled schedules fire as Kubeflow's do: the last firing missed, too, but no more.

    Attributes:
        now: Its time.
        delays: Seconds that requests take, in turn.
        lives: Requests after which the process that asks is killed, in turn.
        kept: The schedules.
        fired: Times at which runs were due that were started.
        born: When the first schedule was made.
    """

    now: datetime
    delays: list[float]
    lives: int = 1_000_000
    kept: dict[str, Schedule] = field(default_factory=dict)
    seen_until: dict[str, datetime] = field(default_factory=dict)
    fired: list[datetime] = field(default_factory=list)
    born: datetime | None = None

    def pass_by(self, seconds: float) -> None:
        before, self.now = self.now, self.now + timedelta(seconds=seconds)
        for schedule in self.kept.values():
            when, seen = parse(schedule.settings.cron), self.seen_until[schedule.schedule]
            if not schedule.enabled:
                continue
            due = []
            while (following := when.after(seen)) is not None and following <= self.now:
                due.append(seen := following)
            self.fired += [time for time in due if time <= before][-1:] + [time for time in due if time > before]
            self.seen_until[schedule.schedule] = seen

    def _unused(self, *arguments: object) -> Any:
        raise AssertionError("It is asked for schedules alone.")

    experiment = register = version_name = start = run = runs = stop = _unused

    def _asked(self) -> None:
        self.pass_by(self.delays[0])
        self.delays = [*self.delays[1:], self.delays[0]]
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt

    def schedules(self, name: str = "") -> list[Schedule]:
        self._asked()
        return list(self.kept.values())

    def create_schedule(self, wanted: ScheduleSettings, *, enabled: bool) -> Schedule:
        self._asked()
        made = Schedule(f"{len(self.seen_until)}", wanted, enabled)
        self.kept[made.schedule] = made
        self.seen_until[made.schedule] = self.now
        self.born = self.born or self.now
        return made

    def enable_schedule(self, schedule: str, *, enabled: bool) -> bool:
        self._asked()
        self.kept[schedule] = replace(self.kept[schedule], enabled=enabled)
        return True

    def delete_schedule(self, schedule: str) -> None:
        self._asked()
        del self.kept[schedule]


@settings(max_examples=300)
@given(
    st.sampled_from(["0 * * * * *", "30 */2 * * * *", "0 7/5 * * * *"]),
    st.integers(0, 600),
    st.lists(st.floats(0.1, 2.5), min_size=5, max_size=5),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400)), max_size=3),
)
def test_no_firing_is_answered_twice_and_none_is_missed_whenever_a_version_is_exchanged_and_whoever_is_killed(
    cron: str, start: int, delays: list[float], kills: list[tuple[int, int]]
):
    cluster: Any = Clockwork(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=start), delays)
    when = parse(cron)
    old = ScheduleSettings("nightly", cron, "pipeline", "old", "experiment")

    def arrange(wanted: ScheduleSettings) -> None:
        scheduling.arrange(cluster, wanted, when, sleep=cluster.pass_by, now=lambda: cluster.now)

    arrange(old)
    for lives, pause in kills:
        cluster.lives = lives
        with contextlib.suppress(KeyboardInterrupt):
            arrange(replace(old, version_id="new"))
        cluster.lives = 1_000_000
        cluster.pass_by(pause)
    arrange(replace(old, version_id="new"))
    (kept,) = cluster.kept.values()
    assert kept.enabled
    assert kept.settings.version_id == "new"
    cluster.pass_by(1000)
    assert len(cluster.fired) == len(set(cluster.fired))
    due = [cluster.born]
    while (following := when.after(due[-1])) is not None and following <= cluster.now:
        due.append(following)
    if not kills:
        assert cluster.fired == due[1:]
    assert cluster.fired[-1] == due[-1]


def test_a_firing_that_is_close_is_let_pass_first_but_not_for_ever():
    waited: list[float] = []
    told: list[int] = []
    wanted = ScheduleSettings("x", "* * * * * *", "pipeline", "new", "experiment")
    cluster: Any = Clockwork(datetime(2026, 1, 1, tzinfo=UTC), [0.0])
    cluster.create_schedule(replace(wanted, version_id="old"), enabled=True)
    scheduling.arrange(
        cluster, wanted, parse("* * * * * *"), waiting=told.append, sleep=waited.append, now=lambda: cluster.now
    )
    assert told == [15]
    assert sum(waited) == 60


def test_somebody_who_changes_it_all_the_time_is_told_of():
    wanted = ScheduleSettings("x", MONDAYS, "pipeline", "new", "experiment")

    class Restless(Clockwork):
        def enable_schedule(self, schedule: str, *, enabled: bool) -> bool:
            return False

    cluster: Any = Restless(datetime(2026, 1, 1, tzinfo=UTC), [0.0])
    cluster.create_schedule(wanted, enabled=False)
    with pytest.raises(InputError, match="changed by somebody else"):
        scheduling.arrange(cluster, wanted, parse(MONDAYS))
