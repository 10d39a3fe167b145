"""A benchmark rerun: configuration, images and ports enter, what was measured leaves; baselines and earlier reruns.

The store of the ports is the rerun's own, empty when it begins: nothing that was scored or trained before is taken from
it, while a rerun that was killed goes on.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError, UnscoredError
from metantk_core.ports import PIPELINE, Tracker
from metantk_core.reruns import Comparison, HistoryData, Past, Rerun, Surroundings, Timing, write_history
from metantk_core.reruns.history import ACCEPTED, EXPERIMENT, RECIPE, begun_tags, columns_of, metrics_of, tags_of
from metantk_core.scores import ScoreRecord, device_kind
from metantk_core.search import Job
from metantk_core.seeding import digest
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.sealed import read_sealed, write_sealed
from metantk_core.workflow.searching import search
from metantk_core.workflow.surroundings import REFERENCE, forget_peak_memory, peak_memory, reference_seconds
from metantk_core.workflow.tracked import watched_search
from metantk_core.workflow.training import evaluate, meta_train

PAGE, FIGURES_FILE, RERUN_FILE = "benchmark.html", "figures.json", "rerun.json"
_MEASURED = "measured.json"
_SHARE_OF_REFERENCES = 0.1
_LEAST_WORK = 0.2  # seconds before the reference operation is measured again


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


def rerun(
    config: RunConfig, dataset: ImageDataset, ports: Ports, around: Surroundings, *, name: str, date: str
) -> Rerun:
    """Search, meta-train the winner, evaluate it, and return what that measured; a repeated call goes on.

    Args:
        config: The run.
        dataset: Its images.
        ports: Ports of the step, with a store of the rerun's own.
        around: Software and machine.
        name: Name of the rerun.
        date: When it began, ISO 8601 in UTC.
    """
    leaderboard = evaluation = None
    problem = ""
    stopwatch = _Stopwatch(ports)
    try:
        with watched_search(config, ports):
            leaderboard = search(config, dataset, ports, stopwatch.scored).leaderboard
        stopwatch.stop()
        model = meta_train(config, "best", leaderboard, dataset, ports)
        evaluation = evaluate(config, "best", model, dataset, ports)
    except UnscoredError as error:  # on these versions; a benchmark is there to say so
        problem = str(error).partition(";")[0]
    stopwatch.stop()
    return Rerun(
        recipe=config.name,
        experiment=config.digest,
        name=name,
        date=date,
        surroundings=around,
        images=dataset.digest,
        leaderboard=leaderboard,
        evaluation=evaluation,
        timings=stopwatch.timings,
        reference=REFERENCE,
        reference_seconds=statistics.median(stopwatch.references) if stopwatch.references else None,
        peak_memory=stopwatch.peak,
        problem=problem,
    )


class _Stopwatch:
    """Times candidates in units of a reference operation, which is measured between them for a tenth of their time.

    Where candidates take longer than a fifth of a second, each has a unit of its own, so that what another load of the
    machine does to the unit shows in the spread over candidates. What was measured outlives the process in the store;
    the candidates after the last reference before it was killed have no time.
    """

    def __init__(self, ports: Ports) -> None:
        self._store, self._device = ports.store, ports.device
        kept = read_sealed(self._store, _MEASURED)
        there = json.loads(kept) if kept else {}
        self._timings: list[Timing] = [Timing(*timing) for timing in there.get("timings", ())]
        self.references: list[float] = there.get("references", [])
        self.peak: int | None = there.get("peak")
        self._pending: list[tuple[str, float, float]] = []
        forget_peak_memory(self._device)
        self._last = reference_seconds(self._device, _SHARE_OF_REFERENCES * _LEAST_WORK)
        self._began = time.process_time()

    @property
    def timings(self) -> tuple[Timing, ...]:
        """What was timed."""
        return tuple(self._timings)

    def scored(self, job: Job, records: Sequence[ScoreRecord]) -> None:
        """Take the time of a candidate."""
        now = time.process_time()
        draws = sum(len(record.draws) for record in records)
        scored = digest([job.genotype, job.stream, job.weights, job.draws, draws])
        seconds = math.fsum(record.seconds for record in records)
        if seconds > 0:  # what was counted alone took none
            self._pending.append((scored, seconds, now - self._began))
        self._began = now
        if sum(seconds for _, seconds, _ in self._pending) >= _LEAST_WORK:
            self._refer()

    def stop(self) -> None:
        """Take the time of the last candidates, and the peak memory so far."""
        if self._pending:
            self._refer()
        self._keep()

    def _refer(self) -> None:
        work = max(_LEAST_WORK, sum(seconds for _, seconds, _ in self._pending))
        now = reference_seconds(self._device, _SHARE_OF_REFERENCES * work)
        unit, processor_unit = ((before + after) / 2 for before, after in zip(self._last, now, strict=True))
        on_processor = device_kind(self._device) == "cpu"
        for scored, seconds, processor in self._pending:
            relative = processor / processor_unit if on_processor else None
            self._timings.append(Timing(scored, seconds, seconds / unit, relative))
        self.references.append(now[0])
        self._pending, self._last = [], now
        self._keep()
        self._began = time.process_time()

    def _keep(self) -> None:
        peaks = (self.peak, peak_memory(self._device))
        self.peak = max((peak for peak in peaks if peak is not None), default=None)
        measured = {
            "timings": [astuple(timing) for timing in self._timings],
            "references": self.references,
            "peak": self.peak,
        }
        write_sealed(self._store, _MEASURED, json.dumps(measured).encode(), durable=False)


def open_rerun(
    config: RunConfig,
    tracker: Tracker,
    around: Surroundings,
    *,
    name: str,
    date: str,
    pipeline: str = "",
) -> str:
    """Return the tracker's identifier of a rerun's run, opened if it is not there yet.

    Args:
        config: The run.
        tracker: Where it is shown.
        around: Software and machine.
        name: Name of the rerun.
        date: When it began, ISO 8601 in UTC.
        pipeline: Kubeflow's identifier of the pipeline run that asks; empty for none.
    """
    run = tracker.open_run(
        rerun_key(config, name),
        f"{config.name} {date[:16].replace('T', ' ')}",
        description=f"Benchmark rerun of `{config.name}`, computed anew; tags `{EXPERIMENT}.…` say what came of it.",
        tags={
            "metantk.config": config.digest,
            **begun_tags(config.name, config.digest, date, around),
            **({PIPELINE: pipeline} if pipeline else {}),
        },
        files={"Benchmark": PAGE, "Figures": FIGURES_FILE, "Leaderboard": "leaderboard.json"},
    )
    tracker.log_parameters(run, {"recipe": config.name, "experiment": config.digest})
    return run


def rerun_key(config: RunConfig, name: str) -> str:
    """Return the key of a rerun's run in the tracker."""
    return f"benchmark/{config.run_id}/{name}"


def finished_rerun(config: RunConfig, tracker: Tracker, name: str) -> Rerun | None:
    """Return a rerun that has been through with everything, or none: a pod may be asked again for what it did."""
    run = tracker.find_run(rerun_key(config, name))
    kept = tracker.read_file(run, RERUN_FILE) if run else None
    return Rerun.from_json(kept) if kept else None


def log_rerun(
    config: RunConfig, comparison: Comparison, baseline: Baseline, earlier: Sequence[Past], page: Path, ports: Ports
) -> None:
    """Note a rerun and what became of its figures in the tracker, with a page, and write that page.

    Args:
        config: The run.
        comparison: The rerun and what became of it.
        baseline: What it was compared with.
        earlier: Reruns of the same experiment, the oldest first.
        page: Where the page goes.
        ports: Ports of the step.
    """
    tracker, run = ports.tracker, ports.run
    earlier = [past for past in earlier if past.run != run]
    write_history(
        HistoryData(comparison, run, baseline.run, baseline.why, tuple(earlier), config.benchmark, config.to_json()),
        page,
    )
    tracker.log_file(run, page)
    tracker.log_table(run, columns_of(comparison), FIGURES_FILE)
    tracker.log_metrics(run, metrics_of(comparison))
    tracker.tag_run(run, tags_of(comparison, baseline.run))
    with tempfile.TemporaryDirectory() as folder:
        # The last one: who finds it finds a rerun that went through.
        whole = Path(folder, RERUN_FILE)
        whole.write_text(comparison.now.to_json(), encoding="utf-8")
        tracker.log_file(run, whole)


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
