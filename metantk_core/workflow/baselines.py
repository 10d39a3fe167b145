"""Which rerun is the baseline, and which were there before: a tracker enters, reruns leave; accepting one marks it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from metantk_core.config import RunConfig
from metantk_core.errors import InputError
from metantk_core.ports import PIPELINE, Tracker
from metantk_core.reruns import Past, Rerun
from metantk_core.reruns.history import ACCEPTED, EXPERIMENT, RECIPE

RERUN_FILE = "rerun.json"
"""Name of the file with what a rerun measured."""


@dataclass(frozen=True)
class Baseline:
    """The rerun that others are compared with, or why there is none.

    Attributes:
        run: Identifier of its run; empty if there is none.
        rerun: What it measured; none if there is none.
        why: Why there is none, as a sentence; empty if there is one.
    """

    run: str = ""
    rerun: Rerun | None = None
    why: str = ""


def earlier_reruns(config: RunConfig, tracker: Tracker) -> tuple[Past, ...]:
    """Return the reruns of the same experiment that went through, the oldest first."""
    found = (Past.of(run) for run in tracker.find_runs({EXPERIMENT: config.digest}))
    return tuple(past for past in found if past.verdict)


def all_reruns(tracker: Tracker, recipe: str = "") -> tuple[Past, ...]:
    """Return all reruns that the tracker remembers, those that did not end included, the oldest first.

    Args:
        tracker: Where they are.
        recipe: Name of a recipe; empty for all.
    """
    found = tracker.find_runs({RECIPE: recipe} if recipe else {})
    return tuple(Past.of(run) for run in found if EXPERIMENT in run.tags)


def find_baseline(config: RunConfig, tracker: Tracker) -> Baseline:
    """Return the accepted baseline of an experiment, or why there is none.

    Raises:
        InputError: What the tracker holds of it is damaged or gone.
    """
    accepted = latest_accepted(Past.of(run) for run in tracker.find_runs({EXPERIMENT: config.digest}))
    if accepted is not None:
        return Baseline(accepted.run, read_rerun(tracker, accepted.run))
    lost = latest_accepted(Past.of(run) for run in tracker.find_runs({EXPERIMENT: config.digest}, deleted=True))
    if lost is not None:
        return Baseline(
            why=f"The accepted baseline of {config.name}, the run {lost.run} of {lost.date[:10]}, was deleted in "
            f"MLflow; restore it with `mlflow runs restore --run-id {lost.run}`, or accept another rerun."
        )
    other = latest_accepted(Past.of(run) for run in tracker.find_runs({RECIPE: config.name}))
    if other is not None:
        return Baseline(
            why=f"{config.name} is another experiment than its accepted baseline, the run {other.run} of "
            f"{other.date[:10]}: settings that decide numbers have changed ({other.experiment} → {config.digest}), so "
            "that nothing is compared."
        )
    return Baseline(why=f"There is no accepted baseline of {config.name} yet.")


def read_rerun(tracker: Tracker, run: str) -> Rerun:
    """Return what a rerun measured, from the file that is attached to its run.

    Raises:
        InputError: It is gone or damaged.
    """
    kept = tracker.read_file(run, RERUN_FILE)
    if kept is None:
        raise InputError(
            f"Expected {RERUN_FILE} with the benchmark rerun {run} in MLflow, but it is gone; accept another rerun as "
            "the baseline."
        )
    try:
        return Rerun.from_json(kept)
    except InputError as error:
        raise InputError(
            f"{RERUN_FILE} of the benchmark rerun {run} in MLflow is damaged, or of another version of metantk; accept "
            "another rerun as the baseline."
        ) from error


def latest_accepted(reruns: Iterable[Past]) -> Past | None:
    """Return the baseline among reruns: the one that was accepted last."""
    accepted = [past for past in reruns if past.accepted]
    return max(accepted, key=lambda past: (past.accepted, past.run), default=None)


def accept(run: str, tracker: Tracker) -> tuple[Past, Past | None]:
    """Make a rerun the baseline of its experiment; of two that are accepted at once, the later one is it.

    Each notes its time first, later than any that is there, and then takes the note from all but the latest: however
    two calls interleave, and wherever one is killed, exactly one baseline is found.

    Args:
        run: Identifier of the rerun's run.
        tracker: Where it is.

    Returns:
        The rerun, and the baseline before it, if there was one.

    Raises:
        InputError: It is no rerun, or one without a leaderboard or an accuracy to compare with.
    """
    found = tracker.read_run(run)
    if found is None or found.deleted or EXPERIMENT not in found.tags:
        what = "there is no such run" if found is None else "it was deleted" if found.deleted else "it is none"
        raise InputError(
            f"Expected the identifier of a benchmark rerun in MLflow, got {run[:40]!r}, but {what}; "
            "`metantk benchmark list` shows them."
        )
    past = Past.of(found)
    if not past.verdict:
        raise InputError(
            f"The benchmark rerun {run} did not go through ({past.status}); run it again, or accept another one."
        )
    measured = read_rerun(tracker, run)
    if measured.leaderboard is None or measured.evaluation is None:
        raise InputError(
            f"The benchmark rerun {run} can't be a baseline: {measured.problem or 'its figures are missing'}; accept "
            "one that has a leaderboard and an accuracy."
        )
    same = {EXPERIMENT: past.experiment}
    before = latest_accepted([Past.of(one) for one in tracker.find_runs(same)])
    tracker.tag_run(run, {ACCEPTED: _later_than(before.accepted if before else "")})
    reruns = [Past.of(one) for one in tracker.find_runs(same)]
    latest = latest_accepted(reruns)
    for one in reruns:
        if one.accepted and latest is not None and one.run != latest.run:
            tracker.untag_run(one.run, [ACCEPTED])
    return past, before if before is not None and before.run != run else None


def _later_than(moment: str) -> str:
    """Return the time in UTC, to the microsecond; a little later than another one even if that clock is ahead."""
    now = datetime.now(UTC)
    if moment:
        now = max(now, datetime.fromisoformat(moment) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds")


def close_reruns(tracker: Tracker, pipeline: str) -> int:
    """Close the reruns of a pipeline run that still look as if they went on, as failed; return how many there were."""
    left = [run for run in tracker.find_runs({PIPELINE: pipeline}) if run.status == "running"]
    for run in left:
        tracker.close_run(run.identifier, "failed")
    return len(left)
