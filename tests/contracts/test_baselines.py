"""Which rerun is the baseline, asked of MLflow on a SQLite file and of a server that others use, too."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from made_reruns import HERE, rerun
from mlflow.tracking import MlflowClient

from metantk_core import wiring, workflow
from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError
from metantk_core.ports import Tracker
from metantk_core.recipes import RECIPES
from metantk_core.reruns import Rerun, compare
from metantk_core.reruns.history import ACCEPTED, EXPERIMENT, tags_of


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('baselines')}/mlflow.db"


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(getattr(request, "param", "sqlite_uri"))


EVERYWHERE = pytest.mark.parametrize(
    "uri", ["sqlite_uri", pytest.param("mlflow_server", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def tracker(uri: str) -> Tracker:
    return wiring.tracker(uri, wiring.BENCHMARKS)


@pytest.fixture
def config() -> RunConfig:
    """Return an experiment that no other test knows: they share the server."""
    seed = uuid.uuid4().int % 2**40
    return load_config("smoke", RECIPES, [f"name=smoke-{seed}"], seed=seed)


def remember(config: RunConfig, tracker: Tracker, tmp_path: Path, name: str, **changes: object) -> str:
    """Put a rerun into the tracker as a real one would be, and return its run."""
    made = rerun(recipe=config.name, experiment=config.digest, name=name, **changes)
    run = workflow.open_rerun(config, tracker, HERE, name=name, date=made.date)
    file = tmp_path / workflow.RERUN_FILE
    file.write_text(made.to_json())
    tracker.log_file(run, file)
    tracker.tag_run(run, tags_of(compare(made, None, config.benchmark), ""))
    tracker.close_run(run, "finished")
    return run


def accepted(tracker: Tracker, config: RunConfig) -> list[str]:
    return [run.identifier for run in tracker.find_runs({EXPERIMENT: config.digest}) if ACCEPTED in run.tags]


@EVERYWHERE
def test_the_accepted_rerun_is_found_with_what_it_measured_and_all_are_its_history(tracker, config, tmp_path):
    assert "There is no accepted baseline" in workflow.find_baseline(config, tracker).why
    first, second = (remember(config, tracker, tmp_path, name) for name in ("one", "two"))
    past, before = workflow.accept(first, tracker)
    assert (past.run, before) == (first, None)
    found = workflow.find_baseline(config, tracker)
    assert found.run == first
    assert found.rerun == rerun(recipe=config.name, experiment=config.digest)
    assert [past.run for past in workflow.earlier_reruns(config, tracker)] == [first, second]
    _, before = workflow.accept(second, tracker)
    assert before is not None
    assert before.run == first
    assert workflow.find_baseline(config, tracker).run == second
    assert accepted(tracker, config) == [second]


def test_a_rerun_may_be_accepted_again_after_another_one(tracker, config, tmp_path):
    first, second = (remember(config, tracker, tmp_path, name) for name in ("one", "two"))
    for run in (first, second, first, first):
        workflow.accept(run, tracker)
        assert workflow.find_baseline(config, tracker).run == run
        assert accepted(tracker, config) == [run]


@EVERYWHERE
def test_of_reruns_that_are_accepted_at_once_exactly_one_is_the_baseline(uri, tracker, config, tmp_path):
    runs = [remember(config, tracker, tmp_path, str(number)) for number in range(4)]

    def accept(run: str) -> None:
        workflow.accept(run, wiring.tracker(uri, wiring.BENCHMARKS))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(accept, runs))
    assert len(accepted(tracker, config)) == 1
    assert accepted(tracker, config) == [workflow.find_baseline(config, tracker).run]
    workflow.accept(runs[2], tracker)  # whoever comes later wins
    assert accepted(tracker, config) == [runs[2]]


def test_an_acceptance_that_was_killed_halfway_leaves_one_baseline_and_is_tidied_up(tracker, config, tmp_path):
    first, second = (remember(config, tracker, tmp_path, name) for name in ("one", "two"))
    workflow.accept(first, tracker)
    tracker.tag_run(second, {ACCEPTED: "2999-01-01T00:00:00.000000+00:00"})  # by a clock that is ahead; then it died
    assert workflow.find_baseline(config, tracker).run == second
    workflow.accept(first, tracker)
    assert workflow.find_baseline(config, tracker).run == first
    assert accepted(tracker, config) == [first]


@EVERYWHERE
def test_a_baseline_that_somebody_deleted_is_named_with_the_way_to_restore_it(uri, tracker, config, tmp_path):
    run = remember(config, tracker, tmp_path, "one")
    workflow.accept(run, tracker)
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(run)
    found = workflow.find_baseline(config, tracker)
    assert (found.run, found.rerun) == ("", None)
    assert f"the run {run} of 2026-11-02, was deleted in MLflow" in found.why
    assert f"mlflow runs restore --run-id {run}" in found.why
    with pytest.raises(InputError, match="it was deleted"):
        workflow.accept(run, tracker)
    client.restore_run(run)
    assert workflow.find_baseline(config, tracker).run == run


def test_other_settings_are_another_experiment_and_that_is_said(tracker, config, tmp_path):
    workflow.accept(remember(config, tracker, tmp_path, "one"), tracker)
    changed = load_config("smoke", RECIPES, [f"name={config.name}", "scoring.num_inits=3"], seed=config.seed)
    found = workflow.find_baseline(changed, tracker)
    assert found.rerun is None
    assert f"{config.digest} → {changed.digest}" in found.why
    assert workflow.earlier_reruns(changed, tracker) == ()


@EVERYWHERE
def test_runs_of_others_are_no_reruns(uri, tracker, config, tmp_path):
    mine = remember(config, tracker, tmp_path, "one")
    ordinary = workflow.open_run(config, wiring.tracker(uri))
    stranger = tracker.open_run(f"stranger-{config.seed}", config.name, tags={ACCEPTED: "2999-01-01"})
    child = tracker.open_run("child", "child", parent=mine, tags={EXPERIMENT: config.digest, ACCEPTED: "2999-01-01"})
    assert workflow.find_baseline(config, tracker).rerun is None
    for run in (ordinary, stranger):
        with pytest.raises(InputError, match="Expected the identifier of a benchmark rerun"):
            workflow.accept(run, tracker)
    workflow.accept(mine, tracker)
    assert workflow.find_baseline(config, tracker).run == mine
    assert {ordinary, stranger, child}.isdisjoint(past.run for past in workflow.all_reruns(tracker, config.name))


@pytest.mark.parametrize("run", ["0" * 32, "no such run", "x" * 500])
def test_what_is_no_run_is_refused(tracker, run: str):
    with pytest.raises(InputError, match="there is no such run; `metantk benchmark list` shows them"):
        workflow.accept(run, tracker)


def test_a_rerun_without_figures_or_without_an_end_is_no_baseline(tracker, config, tmp_path):
    broken = remember(config, tracker, tmp_path, "one", leaderboard=None, evaluation=None, problem="NaN everywhere")
    with pytest.raises(InputError, match="can't be a baseline: NaN everywhere"):
        workflow.accept(broken, tracker)
    begun = workflow.open_rerun(config, tracker, HERE, name="two", date="2026-11-02T06:00:00+00:00")
    tracker.close_run(begun, "killed")
    with pytest.raises(InputError, match=r"did not go through \(killed\)"):
        workflow.accept(begun, tracker)
    assert accepted(tracker, config) == []


def test_a_damaged_baseline_is_named_and_never_passed_over(tracker, config, tmp_path):
    run = remember(config, tracker, tmp_path, "one")
    workflow.accept(run, tracker)
    broken = tmp_path / workflow.RERUN_FILE
    broken.write_text("{}")
    tracker.log_file(run, broken)
    with pytest.raises(InputError, match=f"of the benchmark rerun {run} in MLflow is damaged"):
        workflow.find_baseline(config, tracker)


def test_reruns_of_a_pipeline_that_died_are_closed_and_those_of_others_are_not(tracker, config, tmp_path):
    pipeline = uuid.uuid4().hex
    date = "2026-11-02T06:00:00+00:00"
    died = workflow.open_rerun(config, tracker, HERE, name=pipeline, date=date, pipeline=pipeline)
    other = workflow.open_rerun(config, tracker, HERE, name="other", date=date, pipeline="another")
    assert workflow.close_reruns(tracker, pipeline) == 1
    assert workflow.close_reruns(tracker, pipeline) == 0
    statuses = {run.identifier: run.status for run in tracker.find_runs({EXPERIMENT: config.digest})}
    assert statuses == {died: "failed", other: "running"}


def test_a_rerun_that_went_through_is_found_by_its_name(tracker, config, tmp_path):
    assert workflow.finished_rerun(config, tracker, "one") is None
    remember(config, tracker, tmp_path, "one")
    found = workflow.finished_rerun(config, tracker, "one")
    assert isinstance(found, Rerun)
    assert found == replace(rerun(), recipe=config.name, experiment=config.digest)
