"""A benchmark rerun: configuration, images and ports enter, what was measured leaves, and is logged with its page.

The store of the ports is the rerun's own, empty when it begins: nothing that was scored or trained before is taken from
it, while a rerun that was killed goes on.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import UnscoredError
from metantk_core.networks import cost_table
from metantk_core.ports import PIPELINE, Tracker
from metantk_core.reruns import Comparison, Past, Rerun, Surroundings, Timing
from metantk_core.reruns.history import EXPERIMENT, begun_tags, columns_of, metrics_of, tags_of
from metantk_core.scores import SCORES, ScoreRecord, device_kind
from metantk_core.search import Job
from metantk_core.seeding import digest
from metantk_core.workflow.baselines import RERUN_FILE, Baseline
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.sealed import read_sealed, write_sealed
from metantk_core.workflow.searching import search
from metantk_core.workflow.surroundings import REFERENCE, forget_peak_memory, peak_memory, reference_seconds
from metantk_core.workflow.tracked import watched_search
from metantk_core.workflow.training import evaluate, meta_train

PAGE, FIGURES_FILE = "benchmark.html", "figures.json"
_MEASURED = "measured"
_BLOCK = 256  # candidates in one file of what was measured: for each candidate the last one is written again
_SHARE_OF_REFERENCES = 0.1
_LEAST_WORK = 0.2  # seconds before the reference operation is measured again
_LEAST_TIMED = 0.5  # share of the scored candidates below which their times say nothing of the others


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
    problem, scored = "", 0
    _count_costs(config, dataset)
    stopwatch = _Stopwatch(ports)
    try:
        with watched_search(config, ports):
            found = search(config, dataset, ports, stopwatch.scored)
        leaderboard, scored = found.leaderboard, sum(past.scored for past in found.history.rounds)
        stopwatch.stop()
        model = meta_train(config, "best", leaderboard, dataset, ports)
        evaluation = evaluate(config, "best", model, dataset, ports)
    except UnscoredError as error:  # on these versions; a benchmark is there to say so
        problem = str(error).partition(";")[0]
    stopwatch.stop()
    timings = stopwatch.timings
    if timings and len(timings) < _LEAST_TIMED * scored:
        problem = problem or f"the rerun was killed, and {len(timings)} of {scored} candidates have a time"
        timings = ()
    return Rerun(
        recipe=config.name,
        experiment=config.digest,
        name=name,
        date=date,
        surroundings=around,
        images=dataset.digest,
        leaderboard=leaderboard,
        evaluation=evaluation,
        timings=timings,
        reference=REFERENCE,
        reference_seconds=statistics.median(stopwatch.references) if stopwatch.references else None,
        peak_memory=stopwatch.peak,
        problem=problem,
    )


def _count_costs(config: RunConfig, dataset: ImageDataset) -> None:
    """Count what the operations of the space cost, which a process does once: the first candidate shall not pay it."""
    if any(SCORES[name].cost == "none" for name in config.scoring.scores):
        cost_table(
            config.search.space,
            config.training.network,
            image_shape=dataset.train.image_shape,
            ways=config.scoring.episode.ways,
        )


class _Stopwatch:
    """Times candidates in units of a reference operation, which is measured between them for a tenth of their time.

    Where candidates take longer than a fifth of a second, each has a unit of its own, so that what another load of the
    machine does to the unit shows in the spread over candidates. What was measured outlives the process in the store:
    candidates after the last reference before it was killed are timed in units of that one alone, and only one that
    was stored in the moment of the kill has no time.
    """

    def __init__(self, ports: Ports) -> None:
        self._store, self._device = ports.store, ports.device
        self._timings: list[Timing] = []
        self.references: list[float] = []
        self.peak: int | None = None
        self._pending: list[tuple[str, float, float]] = []
        there: dict[str, Any] = {}
        self._number = 0
        while kept := read_sealed(self._store, self._block):
            there = json.loads(kept)
            self._timings += [Timing(*timing) for timing in there["timings"]]
            self.references += there["references"]
            self._number += 1
        self._kept = len(self._timings), len(self.references)
        if there:
            self.peak, self._pending = there["peak"], [tuple(pending) for pending in there["pending"]]
        self._known = {timing.scored for timing in self._timings} | {scored for scored, _, _ in self._pending}
        if self._pending:
            self._time_pending(*there["last"])
            self.references.append(there["last"][0])
        forget_peak_memory(self._device)
        self._last = reference_seconds(self._device, _SHARE_OF_REFERENCES * _LEAST_WORK)
        self._began = time.process_time()

    @property
    def _block(self) -> str:
        return f"{_MEASURED}/{self._number}.json"

    @property
    def timings(self) -> tuple[Timing, ...]:
        """What was timed."""
        return tuple(self._timings)

    def scored(self, job: Job, records: Sequence[ScoreRecord]) -> None:
        """Take the time of a candidate, once.

        What is counted is no part of it: no store keeps that, and whoever goes on counts it again.
        """
        now = time.process_time()
        drawn = [record for record in records if SCORES[record.score].cost != "none"]
        draws = sum(len(record.draws) for record in drawn)
        scored = digest([str(job.genotype), job.stream, job.weights, job.draws, draws])
        if drawn and scored not in self._known:
            self._known.add(scored)
            self._pending.append((scored, math.fsum(record.seconds for record in drawn), now - self._began))
            if sum(seconds for _, seconds, _ in self._pending) >= _LEAST_WORK:
                self._refer()
            self._keep()
        self._began = time.process_time()

    def stop(self) -> None:
        """Take the time of the last candidates, and the peak memory so far."""
        if self._pending:
            self._refer()
        self._keep()

    def _refer(self) -> None:
        work = max(_LEAST_WORK, sum(seconds for _, seconds, _ in self._pending))
        now = reference_seconds(self._device, _SHARE_OF_REFERENCES * work)
        self._time_pending(*((before + after) / 2 for before, after in zip(self._last, now, strict=True)))
        self.references.append(now[0])
        self._last = now

    def _time_pending(self, unit: float, processor_unit: float) -> None:
        on_processor = device_kind(self._device) == "cpu"
        for scored, seconds, processor in self._pending:
            relative = processor / processor_unit if on_processor else None
            self._timings.append(Timing(scored, seconds, seconds / unit, relative))
        self._pending = []

    def _keep(self) -> None:
        peaks = (self.peak, peak_memory(self._device))
        self.peak = max((peak for peak in peaks if peak is not None), default=None)
        timings, references = self._kept
        measured = {
            "timings": [astuple(timing) for timing in self._timings[timings:]],
            "pending": self._pending,
            "last": self._last,
            "references": self.references[references:],
            "peak": self.peak,
        }
        write_sealed(self._store, self._block, json.dumps(measured).encode(), durable=False)
        if len(self._timings) - timings >= _BLOCK:
            self._number += 1
            self._kept = len(self._timings), len(self.references)


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
    from metantk_core.reruns import HistoryData, write_history  # matplotlib: nothing else of it needs that

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
