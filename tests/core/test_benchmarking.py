"""Benchmarks run again for real: the same is fine, what was planted is noticed, and a killed one goes on."""

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from forked_commands import begun, ended, metantk
from typer.testing import CliRunner

from metantk_core import benchmarking, wiring, workflow
from metantk_core.command_line import app
from metantk_core.command_line.benchmark import gravest
from metantk_core.config import load_config
from metantk_core.networks import cost_table
from metantk_core.recipes import RECIPES
from metantk_core.reruns import Rerun, compare
from metantk_core.scores import Outcome, Score, Scorer, ScoreRecord
from metantk_core.search import Job
from metantk_core.workflow import rerunning
from metantk_core.workspace import Workspace

pytestmark = pytest.mark.slow

SMALL = (
    "data.images_per_class=6",
    "scoring.scores=[metantk_cond, params]",
    "training.iterations=2",
    "training.validate_every=2",
    "evaluation.episodes=8",
)
CONFIG = load_config("smoke", RECIPES, SMALL)
COMMAND = ("benchmark", "run", "smoke", *(part for setting in SMALL for part in ("--set", setting)))


@dataclass(frozen=True)
class Accepted:
    """A workspace with a baseline, in which the same was searched by `metantk search` before."""

    place: Workspace
    baseline: benchmarking.Outcome


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Accepted:
    place = Workspace(tmp_path_factory.mktemp("benchmark"), device="cpu")
    first = benchmarking.run(CONFIG, place)
    benchmarking.accept(first.run, place)
    return Accepted(place, first)


Change = Callable[[ScoreRecord], ScoreRecord]


def plant(monkeypatch: pytest.MonkeyPatch, change: Change, *, seconds: float = 0.0) -> None:
    """Let the scorer give other records from now on, or compute for longer."""
    score = Scorer.score

    def planted(self: Scorer, *args: object, **kwargs: object) -> Sequence[ScoreRecord]:
        records = score(self, *args, **kwargs)  # type: ignore[arg-type]
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return tuple(replace(change(record), seconds=record.seconds + seconds / len(records)) for record in records)

    monkeypatch.setattr(Scorer, "score", planted)


def worse(outcome: benchmarking.Outcome) -> set[str]:
    return {verdict.figure for verdict in outcome.comparison.verdicts if verdict.status == "worse"}


def test_the_first_rerun_says_that_there_is_no_baseline_and_leaves_its_figures_alone(workspace: Accepted):
    first = workspace.baseline
    assert first.comparison.verdict == "no baseline"
    assert "There is no accepted baseline of smoke yet" in first.baseline.why
    assert f"metantk benchmark accept {first.run}" in first.page.read_text()
    folder = first.page.parent
    assert sorted(path.name for path in folder.iterdir()) == ["begun.json", "benchmark.html", "rerun.json"]
    assert not (workspace.place.root / "scores").exists()
    now = first.comparison.now
    assert now.evaluation is not None
    assert len(now.timings) == 6
    assert (now.peak_memory or 0) > 10**8
    assert now.leaderboard is not None
    assert now.leaderboard.winner


def test_a_rerun_computes_anew_and_is_fine_if_nothing_changed(workspace: Accepted, monkeypatch: pytest.MonkeyPatch):
    computed: list[str] = []
    plant(monkeypatch, lambda record: computed.append(record.genotype) or record)
    again = benchmarking.run(CONFIG, workspace.place)
    assert again.run != workspace.baseline.run
    assert len(set(computed)) == 6
    assert worse(again) <= {"time by the clock"}  # the machine of the tests may be busy
    statuses = {verdict.figure: str(verdict.status) for verdict in again.comparison.verdicts}
    assert statuses["leaderboard"] == statuses["accuracy of the winner"] == "within tolerance"
    tracker = wiring.tracker(workspace.place.tracking_uri, wiring.BENCHMARKS)
    known = tracker.read_run(again.run)
    assert known is not None
    assert known.status == "finished"
    assert known.tags["metantk.benchmark.verdict"] in ("fine", "better", "incomplete", "regression")
    assert known.tags["metantk.benchmark.baseline"] == workspace.baseline.run
    assert known.metrics["benchmark/reliability"] == again.comparison.now.leaderboard.reliability.icc  # type: ignore[union-attr]
    assert {"benchmark.html", "figures.json", "rerun.json", "leaderboard.json"} <= {
        file for file in ("benchmark.html", "figures.json", "rerun.json", "leaderboard.json")
        if tracker.read_file(again.run, file)
    }  # fmt: skip
    assert workspace.baseline.run in again.page.read_text()


def test_another_score_and_more_work_are_noticed_although_all_was_scored_before(
    workspace: Accepted, monkeypatch: pytest.MonkeyPatch
):
    def nudged(record: ScoreRecord) -> ScoreRecord:
        if record.score != "metantk_cond":
            return record
        return replace(record, draws=tuple(replace(draw, value=draw.value * (1 + 1e-12)) for draw in record.draws))  # type: ignore[operator]

    plant(monkeypatch, nudged, seconds=0.5)
    outcome = benchmarking.run(CONFIG, workspace.place)
    assert {"leaderboard", "processor time"} <= worse(outcome)
    assert "candidates have another score" in outcome.comparison.sentence
    assert "times as much processor time" in outcome.comparison.sentence
    assert "smoke got worse" in outcome.page.read_text()
    known = wiring.tracker(workspace.place.tracking_uri, wiring.BENCHMARKS).read_run(outcome.run)
    assert known is not None
    assert known.tags["metantk.benchmark.verdict"] == "regression"
    assert known.tags["metantk.benchmark.sentence"] == outcome.comparison.sentence


def test_a_search_that_comes_to_nothing_is_a_regression_and_no_bad_input(
    workspace: Accepted, monkeypatch: pytest.MonkeyPatch
):
    def broken(
        self: Scorer, genotype: object, draws: range, stream: str, weights: str, names: Sequence[str]
    ) -> tuple[ScoreRecord, ...]:
        failed = tuple(Score(None, Outcome.NON_FINITE, "planted") for _ in draws) or (Score(1.0),)
        return tuple(
            ScoreRecord("nasbench201", str(genotype), name, failed, 0, 0.1, device="cpu" if draws else "")
            for name in names
        )

    monkeypatch.setattr(Scorer, "score", broken)
    outcome = benchmarking.run(CONFIG, workspace.place)
    assert {"candidates scored", "accuracy of the winner"} <= worse(outcome)
    assert "Expected at least 3 candidates with a score" in outcome.comparison.sentence
    tracker = wiring.tracker(workspace.place.tracking_uri, wiring.BENCHMARKS)
    known = tracker.read_run(outcome.run)
    assert known is not None
    assert (known.status, known.tags["metantk.benchmark.verdict"]) == ("finished", "regression")


def test_a_named_rerun_that_ended_is_not_computed_again(workspace: Accepted, monkeypatch: pytest.MonkeyPatch):
    done = workspace.baseline.comparison.now

    def never(*args: object, **kwargs: object) -> Rerun:
        raise AssertionError("computed again")

    monkeypatch.setattr(workflow, "rerun", never)
    again = benchmarking.run(CONFIG, workspace.place, name=done.name)
    assert again.run == workspace.baseline.run
    assert again.comparison.now == done
    assert again.comparison.verdict == "fine"


class Killed(BaseException):
    """The end of a process, as far as it can be had in one that goes on."""


@pytest.mark.parametrize("candidates", [3, pytest.param(6, marks=pytest.mark.minutes)])
def test_a_rerun_that_goes_on_times_each_candidate_once_and_none_that_it_only_counts_again(
    workspace: Accepted, monkeypatch: pytest.MonkeyPatch, candidates: int
):
    told: list[object] = []
    scored = rerunning._Stopwatch.scored
    monkeypatch.setattr(rerunning, "_BLOCK", 2)  # files of what was measured are several

    def dies(self: rerunning._Stopwatch, job: Job, records: Sequence[ScoreRecord]) -> None:
        scored(self, job, records)
        told.append(job)
        if len(told) == candidates:
            raise Killed

    name = f"killed-after-{candidates}"
    with monkeypatch.context() as until:
        until.setattr(rerunning._Stopwatch, "scored", dies)
        with pytest.raises(Killed):
            benchmarking.run(CONFIG, workspace.place, name=name)
    cost_table.cache_clear()  # another process counts anew
    outcome = benchmarking.run(CONFIG, workspace.place, name=name)
    now, before = outcome.comparison.now, workspace.baseline.comparison.now
    assert [timing.scored for timing in now.timings] == [timing.scored for timing in before.timings]
    assert (now.reference_seconds or 0) > 0
    sizes = [[timing.seconds for timing in of.timings] for of in (now, before)]
    assert min(sizes[0]) > 0.05 * min(sizes[1])
    assert min(timing.processor or 0 for timing in now.timings) > 0.05 * min(
        timing.processor or 0 for timing in before.timings
    )


def test_costs_are_counted_before_any_time_is_taken_and_times_that_most_candidates_lack_are_missing(
    workspace: Accepted, monkeypatch: pytest.MonkeyPatch
):
    begin, scored = rerunning._Stopwatch.__init__, rerunning._Stopwatch.scored
    told: list[object] = []
    counted: list[int] = []

    def begins(self: rerunning._Stopwatch, ports: workflow.Ports) -> None:
        counted.append(cost_table.cache_info().misses)
        begin(self, ports)

    def forgets(self: rerunning._Stopwatch, job: Job, records: Sequence[ScoreRecord]) -> None:
        told.append(job)
        if len(told) <= 2:
            scored(self, job, records)

    monkeypatch.setattr(rerunning._Stopwatch, "__init__", begins)
    monkeypatch.setattr(rerunning._Stopwatch, "scored", forgets)
    cost_table.cache_clear()
    outcome = benchmarking.run(CONFIG, workspace.place, name="forgetful")
    assert counted == [cost_table.cache_info().misses] == [1]  # the scorer asked for the same table
    assert {"processor time", "time by the clock"} <= worse(outcome)
    assert "2 of 6 candidates have a time" in outcome.comparison.sentence


@pytest.mark.minutes
def test_a_killed_rerun_goes_on_to_the_same_numbers_and_is_one_run(workspace: Accepted, tmp_path: Path):
    root = str(workspace.place.root)
    before = benchmarking.reruns(workspace.place)
    killed = 0
    for seconds in (1.0, 2.5, 4.0):
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("a") as err:
            process = begun(
                *COMMAND,
                "--workspace",
                root,
                cwd=tmp_path,
                stdout=out.fileno(),
                stderr=err.fileno(),
                METANTK_DEVICE="cpu",
            )
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
            killed += ended(process) == -signal.SIGKILL
    assert killed >= 2
    done = metantk(*COMMAND, "--workspace", root, cwd=tmp_path, METANTK_DEVICE="cpu")
    assert done.returncode in (0, 3, 4), done.stderr
    assert "within tolerance" in re.search(r"leaderboard .*", done.stdout)[0]  # type: ignore[index]
    after = benchmarking.reruns(workspace.place)
    assert len(after) <= len(before) + 2  # one may have ended before it was killed
    assert all(past.verdict for past in after)


def test_the_commands_say_what_became_of_a_rerun_and_end_with_its_exit_code(workspace: Accepted, tmp_path: Path):
    root = str(workspace.place.root)
    name = workspace.baseline.comparison.now.name
    done = metantk(*COMMAND, "--rerun", name, "--workspace", root, cwd=tmp_path, METANTK_DEVICE="cpu")
    assert done.returncode == 0, done.stderr
    assert "smoke is as good as its baseline" in done.stdout
    now = workspace.baseline.comparison.now
    better = replace(now, peak_memory=10**8)
    (tmp_path / workflow.RERUN_FILE).write_text(better.to_json())
    tracker = wiring.tracker(workspace.place.tracking_uri, wiring.BENCHMARKS)
    tracker.log_file(workspace.baseline.run, tmp_path / workflow.RERUN_FILE)  # what the baseline will have measured
    done = metantk(*COMMAND, "--rerun", name, "--workspace", root, cwd=tmp_path, METANTK_DEVICE="cpu")
    assert done.returncode == 3, done.stderr
    assert "smoke got worse: the peak memory is" in " ".join(done.stdout.split())
    assert f"if that is meant to be so: metantk benchmark accept {workspace.baseline.run}" in done.stdout
    listed = metantk("benchmark", "list", "--workspace", root, cwd=tmp_path)
    assert "regression: peak memory (the baseline)" in " ".join(listed.stdout.split())


def test_what_could_not_be_measured_is_neither_fine_nor_a_regression_for_a_scheduler(
    workspace: Accepted, monkeypatch: pytest.MonkeyPatch
):
    now = workspace.baseline.comparison.now
    alone = replace(now, timings=now.timings[:1])  # of one candidate no spread is known
    outcome = replace(workspace.baseline, comparison=compare(alone, alone, CONFIG.benchmark))
    monkeypatch.setattr(benchmarking, "run", lambda *_, **__: outcome)
    arguments = ["benchmark", "run", "smoke", "--workspace", str(workspace.place.root)]
    done = CliRunner().invoke(app, arguments)
    assert "smoke is as far as was measured, as good as its baseline" in " ".join(done.stdout.split())
    assert done.exit_code == 4
    assert CliRunner().invoke(app, [*arguments, "--json"]).exit_code == 4


@pytest.mark.parametrize(
    ("codes", "gravest_of_them"),
    [([0, 0], 0), ([0, 4], 4), ([4, 3, 0], 3), ([3, 1, 2], 1), ([4, 2], 2)],
)
def test_of_several_recipes_a_failure_comes_before_a_regression_and_that_before_what_is_unknown(codes, gravest_of_them):
    assert gravest(codes) == gravest_of_them


def test_bad_input_is_one_sentence_and_changes_nothing(tmp_path: Path):
    for arguments, words in (
        (("run", "no-such-recipe"), "recipes are"),
        (("run", "smoke", "smoke"), "two of them are the same experiment"),
        (("run", "smoke", "--rerun", "../up"), "as the name of a rerun"),
        (("run", "smoke", "--set", "benchmark.slowdown=0"), "benchmark.slowdown"),
        (("accept", "0" * 32), "it has no mlflow.db"),
        (("compile", "smoke", "-o", "b.txt"), ".yaml"),
        (("compile", "smoke", "--tracking-uri", "sqlite:///x.db"), "as pods see it"),
    ):
        done = metantk("benchmark", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
