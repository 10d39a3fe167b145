"""What every tracker promises, asked of MLflow on a SQLite file and of an MLflow server over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from metantk_core import wiring
from metantk_core.errors import InputError
from metantk_core.ports import DatasetSummary, MetricPoint, Tracker, run_scope


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tracking with a space')}/mlflow.db"


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("sqlite_uri" if request.param == "sqlite" else "mlflow_server")


@pytest.fixture(autouse=True)
def _no_run_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)  # nothing may depend on, or appear in, the current folder


@pytest.fixture
def tracker(uri: str) -> Tracker:
    return wiring.tracker(uri, "suite")


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def test_a_repeated_step_finds_its_run_running_again_with_its_words(
    tracker: Tracker, client: MlflowClient, uri: str, key: str
):
    first = tracker.open_run(key, "search", description="**Search**", tags={"metantk.space": "nasbench201"})
    tracker.close_run(first, "failed")
    again = wiring.tracker(uri, "suite").open_run(key, "search", description="**Search** again")
    run = client.get_run(again)
    assert again == first
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "search"
    assert run.data.tags["mlflow.note.content"] == "**Search** again"
    assert run.data.tags["metantk.space"] == "nasbench201"


def test_children_are_found_below_their_own_parent_only(tracker: Tracker, client: MlflowClient, key: str):
    parents = [tracker.open_run(f"{key}-{number}", "parent") for number in range(2)]
    children = [tracker.open_run(f"{key}/shard-0", "shard-0", parent=parent) for parent in parents]
    assert len({*parents, *children}) == 4
    assert children == [tracker.open_run(f"{key}/shard-0", "shard-0", parent=parent) for parent in parents]
    assert [client.get_run(child).data.tags["mlflow.parentRunId"] for child in children] == parents


@pytest.mark.parametrize(("status", "shown"), [("finished", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED")])
def test_a_closed_run_says_how_it_ended(tracker: Tracker, client: MlflowClient, key: str, status, shown: str):
    run = tracker.open_run(key, "run")
    tracker.close_run(run, status)
    info = client.get_run(run).info
    assert info.status == shown
    assert info.end_time is not None


def test_parameters_may_be_repeated_but_not_changed(tracker: Tracker, client: MlflowClient, key: str):
    run = tracker.open_run(key, "run")
    parameters = {f"group.p{number}": number for number in range(150)}
    tracker.log_parameters(run, {**parameters, "long": "x" * 10_000, "flag": True, "rate": 0.1})
    tracker.log_parameters(run, {"long": "x" * 10_000, "flag": True, "rate": 0.1, "more": "words"})
    there = client.get_run(run).data.params
    assert len(there) == 154
    assert there["flag"] == "True"
    assert there["rate"] == "0.1"
    with pytest.raises(InputError, match=r"rate.*'0\.1' already.*'0\.2'"):
        tracker.log_parameters(run, {"rate": 0.2, "never": 1})
    assert "never" not in client.get_run(run).data.params


def test_a_repeated_step_adds_no_point_twice(tracker: Tracker, client: MlflowClient, uri: str, key: str):
    run = tracker.open_run(key, "run")
    curve = [MetricPoint("train/loss", 1.0 / (step + 1), step) for step in range(2500)]
    tracker.log_metrics(run, curve[:1200])
    wiring.tracker(uri, "suite").log_metrics(run, [*curve, curve[-1]])  # a new process, after a crash
    tracker.log_metrics(run, [MetricPoint("train/loss", 5.0, 3), MetricPoint("eval/accuracy", 0.5)])
    history = client.get_metric_history(run, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(point.step, point.value) for point in curve]
    assert client.get_run(run).data.metrics["eval/accuracy"] == 0.5


def test_a_value_that_is_not_finite_becomes_a_tag_and_the_rest_is_drawn(
    tracker: Tracker, client: MlflowClient, key: str
):
    run = tracker.open_run(key, "run")
    tracker.log_metrics(run, [MetricPoint("train/loss", value, step) for step, value in enumerate([2.0, float("nan")])])
    tracker.log_metrics(run, [MetricPoint("train/loss", float("inf"), 2), MetricPoint("train/loss", 1.0, 3)])
    assert [(point.step, point.value) for point in client.get_metric_history(run, "train/loss")] == [(0, 2.0), (3, 1.0)]
    assert client.get_run(run).data.tags["metantk.non_finite.train/loss"] == "nan at step 1"


def test_a_table_is_readable_by_mlflow_and_replaced_when_repeated(
    tracker: Tracker, client: MlflowClient, key: str, monkeypatch: pytest.MonkeyPatch, uri: str
):
    run = tracker.open_run(key, "run")
    tracker.log_table(run, {"rank": [1], "genotype": ["old"]}, "leaderboard.json")
    columns = {"rank": [1, 2], "genotype": ["|a~0|+", "|b~0|+"], "mean": [3.5, float("nan")]}
    tracker.log_table(run, columns, "leaderboard.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    table = client.load_table(client.get_run(run).info.experiment_id, "leaderboard.json", run_ids=[run])
    assert list(table.columns) == ["rank", "genotype", "mean"]
    assert table["genotype"].tolist() == ["|a~0|+", "|b~0|+"]
    assert table["mean"].isna().tolist() == [False, True]
    assert json.loads(client.get_run(run).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "leaderboard.json", "type": "table"}
    ]


def test_a_file_is_kept_with_the_run(tracker: Tracker, client: MlflowClient, key: str, tmp_path: Path):
    run = tracker.open_run(key, "run")
    report = tmp_path / "report.html"
    for text in ("old", "new"):
        report.write_text(text)
        tracker.log_file(run, report, "reports/final")
    kept = client.download_artifacts(run, "reports/final/report.html", str(tmp_path))
    assert Path(kept).read_text() == "new"


def test_datasets_are_inputs_of_the_run_once_each(tracker: Tracker, client: MlflowClient, key: str):
    run = tracker.open_run(key, "run")
    for _ in range(2):
        for split in ("train", "test"):
            summary = DatasetSummary(f"glyphs-{split}", "0123456789abcdef" * 4, "glyphs", 2000, 100, (1, 28, 28))
            tracker.log_dataset(run, summary, split)
            tracker.log_dataset(run, replace(summary, name=f"moved-{split}", source="elsewhere"), split)
    logged = client.get_run(run).inputs
    assert logged is not None
    inputs = logged.dataset_inputs
    assert sorted(one.dataset.name for one in inputs) == ["glyphs-test", "glyphs-train"]
    train = next(one for one in inputs if one.dataset.name == "glyphs-train")
    assert {tag.key: tag.value for tag in train.tags} == {"mlflow.data.context": "train"}
    assert json.loads(train.dataset.profile or "")["images"] == 2000
    assert "[-1, 1, 28, 28]" in json.loads(train.dataset.schema or "")["mlflow_tensorspec"]["features"]


def test_a_run_without_parent_is_the_run_that_the_environment_names(
    tracker: Tracker, client: MlflowClient, uri: str, key: str, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = client.create_experiment(key)
    given = client.create_run(elsewhere, run_name="entry-point").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    joining = wiring.tracker(uri, f"never-{key}")
    assert joining.open_run(key, "search", description="words", tags={"a": "b"}) == given
    child = joining.open_run(f"{key}/shard-0", "shard-0", parent=given)
    run = client.get_run(given)
    assert run.info.run_name == "search"
    assert run.data.tags["mlflow.note.content"] == "words"
    assert run.data.tags["a"] == "b"
    assert client.get_run(child).info.experiment_id == elsewhere
    assert child != given
    assert client.get_experiment_by_name(f"never-{key}") is None
    assert os.environ["MLFLOW_RUN_ID"] == given


def test_a_run_named_by_the_environment_must_be_there(tracker: Tracker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(InputError, match="MLFLOW_RUN_ID names the run 0000"):
        tracker.open_run("key", "run")


def test_a_deleted_experiment_is_refused_with_the_way_to_restore_it(uri: str, client: MlflowClient, key: str):
    client.delete_experiment(client.create_experiment(key))
    with pytest.raises(InputError, match="deleted; restore it"):
        wiring.tracker(uri, key).open_run("key", "run")


def test_only_a_server_has_pages(tracker: Tracker, uri: str, key: str):
    run = tracker.open_run(key, "run")
    link = tracker.link(run)
    if uri.startswith("http"):
        assert link is not None
        assert link.startswith(f"{uri}/#/experiments/")
        assert link.endswith(f"/runs/{run}?workflowType=machine_learning")
    else:
        assert link is None


def test_the_interface_opens_on_training_runs_unless_a_person_chose_otherwise(client: MlflowClient, uri: str, key: str):
    for name, kind in ((key, None), (f"{key} before", ""), (f"{key} chosen", "genai_development")):
        if kind is not None:  # made by somebody else
            client.create_experiment(name, tags={"mlflow.experimentKind": kind} if kind else None)
        wiring.tracker(uri, name).open_run(key, "search")
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        assert experiment.tags["mlflow.experimentKind"] == (kind or "custom_model_development")


def test_a_description_links_to_files_on_the_runs_own_page(tracker: Tracker, client: MlflowClient, key: str):
    run = tracker.open_run(key, "search", description="Words.", files={"Report": "report.html"})
    experiment = client.get_run(run).info.experiment_id
    assert client.get_run(run).data.tags["mlflow.note.content"] == (
        f"Words.\n\n[Report](#/experiments/{experiment}/runs/{run}/artifactPath/report.html?workflowType=machine_learning)"
    )


def test_what_the_machine_does_is_noted_in_silence_while_work_goes_on(
    tracker: Tracker,
    client: MlflowClient,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run = tracker.open_run(key, "train")
    for expected in (1, 2):  # a repeated step adds to the curve
        with tracker.watched(run, "shard 3"):
            name = "system/shard 3/system_memory_usage_megabytes"
            deadline = time.monotonic() + 60
            while len(client.get_metric_history(run, name)) < expected:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    steps = [point.step for point in client.get_metric_history(run, name)]
    assert steps == list(range(len(steps)))
    assert "system_metrics_monitor" not in capsys.readouterr().err


def test_the_machine_is_not_watched_where_mlflow_is_told_not_to(
    tracker: Tracker, client: MlflowClient, key: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    run = tracker.open_run(key, "train")
    with tracker.watched(run):
        time.sleep(0.3)
    assert client.get_run(run).data.metrics == {}


def test_nothing_appears_in_the_current_folder(tracker: Tracker, key: str, tmp_path: Path):
    run = tracker.open_run(key, "run")
    tracker.log_table(run, {"a": [1]}, "table.json")
    assert list(tmp_path.iterdir()) == []


def test_the_run_says_how_its_scope_was_left(tracker: Tracker, client: MlflowClient, key: str):
    before = signal.getsignal(signal.SIGTERM)
    for number, (error, status) in enumerate(
        [(None, "FINISHED"), (RuntimeError("no"), "FAILED"), (SystemExit(1), "FAILED"), (KeyboardInterrupt(), "KILLED")]
    ):
        run = tracker.open_run(f"{key}-{number}", "run")
        caught = None
        try:
            with run_scope(tracker, run):
                if error is not None:
                    raise error
        except BaseException as raised:
            caught = raised
        assert caught is error
        assert client.get_run(run).info.status == status
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminated_process_marks_all_its_open_runs_failed(client: MlflowClient, uri: str, key: str):
    body = """
import sys, time
from metantk_core import wiring
from metantk_core.ports import run_scope
tracker = wiring.tracker(sys.argv[1], "suite")
parent = tracker.open_run(sys.argv[2], "parent")
with run_scope(tracker, parent):
    child = tracker.open_run(sys.argv[2] + "/step", "step", parent=parent)
    with run_scope(tracker, child):
        print(parent, child, flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", body, uri, key], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    runs = process.stdout.readline().split()
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert [client.get_run(run).info.status for run in runs] == ["FAILED", "FAILED"]


def test_runs_are_found_by_all_their_tags_the_oldest_first_and_nobody_elses(
    tracker: Tracker, client: MlflowClient, uri: str, key: str
):
    mine = []
    for number in range(3):
        mine.append(tracker.open_run(f"{key}-{number}", f"run {number}", tags={"team": key, "kind": "rerun"}))
        tracker.log_metrics(mine[-1], [MetricPoint("figure", float(number))])
    tracker.open_run(f"{key}-other", "other", tags={"team": key, "kind": "search"})
    tracker.open_run(f"{key}-child", "child", parent=mine[0], tags={"team": key, "kind": "rerun"})
    wiring.tracker(uri, f"suite of others {key}").open_run(key, "elsewhere", tags={"team": key, "kind": "rerun"})
    tracker.close_run(mine[0], "finished")
    tracker.close_run(mine[1], "failed")
    found = wiring.tracker(uri, "suite").find_runs({"team": key, "kind": "rerun"})
    assert [run.identifier for run in found] == mine
    assert [run.status for run in found] == ["finished", "failed", "running"]
    assert [run.metrics["figure"] for run in found] == [0.0, 1.0, 2.0]
    assert found[1].name == "run 1"
    assert found[1].tags["kind"] == "rerun"
    client.delete_run(mine[1])
    assert [run.identifier for run in tracker.find_runs({"team": key, "kind": "rerun"})] == [mine[0], mine[2]]
    (gone,) = tracker.find_runs({"team": key, "kind": "rerun"}, deleted=True)
    assert (gone.identifier, gone.deleted) == (mine[1], True)
    assert wiring.tracker(uri, f"never-{key}").find_runs({}) == ()
    with pytest.raises(ValueError, match="quotes"):
        tracker.find_runs({"team": "o'clock"})


def test_more_runs_are_found_than_fit_into_one_answer(tracker: Tracker, key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("metantk_core.adapters.mlflow_tracking._RUNS_PER_CALL", 2)
    mine = [tracker.open_run(f"{key}-{number}", "run", tags={"team": key}) for number in range(5)]
    assert [run.identifier for run in tracker.find_runs({"team": key})] == mine


def test_a_run_is_read_by_its_identifier_and_its_files_by_their_names(tracker: Tracker, key: str, tmp_path: Path):
    run = tracker.open_run(key, "run", tags={"a": "b"})
    file = tmp_path / "rerun.json"
    file.write_text('{"x": 1}')
    tracker.log_file(run, file)
    tracker.log_file(run, file, "below")
    known = tracker.read_run(run)
    assert known is not None
    assert known.tags["a"] == "b"
    assert tracker.read_file(run, "rerun.json") == b'{"x": 1}'
    assert tracker.read_file(run, "below/rerun.json") == b'{"x": 1}'
    assert tracker.read_file(run, "other.json") is None
    assert tracker.read_file(run, "nowhere/rerun.json") is None
    assert tracker.read_run("0" * 32) is None
    assert tracker.read_run("no identifier / at all") is None


def test_words_are_taken_away_from_a_run_and_those_that_it_lacks_passed_over(tracker: Tracker, key: str):
    run = tracker.open_run(key, "run", tags={"a": "b", "c": "d"})
    for _ in range(2):
        tracker.untag_run(run, ["a", "never"])
    known = tracker.read_run(run)
    assert known is not None
    assert "a" not in known.tags
    assert known.tags["c"] == "d"
