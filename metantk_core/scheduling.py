"""A wanted schedule and a cluster enter; exactly one schedule of its name leaves, enabled, that does what is wanted.

Kubeflow can't change a schedule, so another version of a pipeline takes another schedule in the place of the old one.
Any request may be the last one of a process that is killed. The order (the new one made, but disabled; the old one
deleted; the new one enabled) never lets two of them fire, and doing all of it again repairs whatever a kill has left.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from metantk_core.adapters.kubeflow.cron import Cron, Every
from metantk_core.errors import InputError, quoted
from metantk_core.ports import Cluster, Schedule, ScheduleSettings

SECONDS_TO_SWITCH = 15
"""A firing that is closer is let pass first: while one schedule is exchanged for another, both might answer it."""
_LONGEST_WAIT = 60
_MOST_ROUNDS = 5


@dataclass(frozen=True)
class Arranged:
    """How a schedule came to be as it is wanted.

    Attributes:
        schedule: The one that is there now.
        made: Whether it was not there before.
        removed: How many others of its name were.
        was_paused: Whether those that were there were all disabled.
    """

    schedule: Schedule
    made: bool
    removed: int
    was_paused: bool


def arrange(
    cluster: Cluster,
    wanted: ScheduleSettings,
    when: Cron | Every,
    *,
    waiting: Callable[[int], object] = lambda seconds: None,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Arranged:
    """Bring it about that one schedule of a name is there, enabled, and does what is wanted.

    Args:
        cluster: Where.
        wanted: What it does.
        when: Its expression, read.
        waiting: Told for how many seconds a firing that is close is let pass.
        sleep: Waits.
        now: Gives the present.

    Raises:
        InputError: A schedule of this name belongs to another pipeline, or others change it at the same time.
    """
    made, was_paused, removed = False, False, 0
    for attempt in range(_MOST_ROUNDS):
        found = cluster.schedules(wanted.name)
        _refuse_others(found, wanted)
        right = [schedule for schedule in found if _does(schedule.settings, wanted)]
        firing = [schedule for schedule in found if schedule.enabled]
        if found == firing == right and len(found) == 1:
            return Arranged(found[0], made, removed, was_paused)
        if attempt == 0:
            was_paused = bool(found) and not firing
        if not found:
            cluster.create_schedule(wanted, enabled=True)
            made = True
            continue  # somebody may have done the same in this moment
        # What is enabled fires at once what it missed last. Of several that were left disabled only the newest missed
        # nothing that another one has fired; beside an old one that fires still, not even that.
        kept = next((schedule for schedule in right if schedule.enabled), right[-1] if right and not firing else None)
        if kept is None:
            _let_pass(when, waiting, sleep, now)
            kept = cluster.create_schedule(wanted, enabled=False)
            made = True
        for schedule in found:
            if schedule.schedule != kept.schedule:
                cluster.delete_schedule(schedule.schedule)
                removed += 1
        if not kept.enabled:
            cluster.enable_schedule(kept.schedule, enabled=True)
    raise InputError(
        f"The schedule {quoted(wanted.name)} is being changed by somebody else; look at it with 'metantk schedule "
        "list', and run the same command again."
    )


def _does(settings: ScheduleSettings, wanted: ScheduleSettings) -> bool:
    """Return whether a schedule does what is wanted; where no account is asked for, the cluster names one itself."""
    return settings == replace(wanted, service_account=wanted.service_account or settings.service_account)


def _refuse_others(found: list[Schedule], wanted: ScheduleSettings) -> None:
    if any(schedule.settings.pipeline_id != wanted.pipeline_id for schedule in found):
        raise InputError(
            f"Expected a free name or that of a schedule of the same pipeline, got {quoted(wanted.name)}, which fires "
            "another one; give another --name, or remove it first with 'metantk schedule delete'."
        )


def _let_pass(
    when: Cron | Every,
    waiting: Callable[[int], object],
    sleep: Callable[[float], object],
    now: Callable[[], datetime],
) -> None:
    """Wait until no firing is close; not for ever, for there are schedules that fire all the time."""
    waited = 0
    while waited < _LONGEST_WAIT and when.may_fire(now(), SECONDS_TO_SWITCH):
        if waited == 0:
            waiting(SECONDS_TO_SWITCH)
        sleep(1.0)
        waited += 1
