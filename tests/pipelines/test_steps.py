"""Steps and the run that they belong to in MLflow: one opens it, all find it, the last closes it."""

import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import metantk_core
from components.close_run import close_run
from components.prepare_dataset import prepare_dataset
from metantk_core.adapters.progress import WATCHED
from metantk_core.errors import InputError
from metantk_core.ports import MetricPoint
from metantk_core.recipes import RECIPES
from metantk_core.steps import open_pipeline, open_step, raise_step_failure, run_page
from metantk_core.workflow.runs import step_run


class Pipeline:
    """A pipeline of which each step does what it is told; its number names its run, for all share one database."""

    def __init__(self, tmp_path: Path, address: str, number: str) -> None:
        self.number = number
        self.config = RECIPES["smoke"].model_copy(update={"name": f"run-{number}"})
        self.places = {"store": str(tmp_path / "store"), "tracking_uri": address}
        self.run = tmp_path / f"run of {number}"
        self.images = tmp_path / "images"
        self.client = MlflowClient(address)

    def begin(self, kubeflow: str = "") -> str:
        asked = self.config.to_json()
        with open_pipeline(asked, images=self.images, pipeline=self.number, kubeflow=kubeflow, **self.places) as (
            found,
            ports,
        ):
            self.run.write_text(found.to_json())
            return ports.run

    def step(self, name: str, work: Callable[[Any], object] = lambda ports: None) -> str:
        with open_step(name, self.run, **self.places) as (_, ports):
            work(ports)
            return ports.run

    def close(self, state: str, message: str | None = None) -> str:
        status: Any = SimpleNamespace(state=state, error_message=message)
        return close_run.python_func(self.config.to_json(), **self.places, pipeline=self.number, status=status)

    def seen(self, run: str) -> Run:
        return self.client.get_run(run)

    def below(self, run: str) -> dict[str, str]:
        experiment = self.seen(run).info.experiment_id
        runs = self.client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run}'")
        return {str(child.info.run_name): child.info.status for child in runs}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def pipeline(tmp_path: Path, address: str) -> Pipeline:
    return Pipeline(tmp_path, address, uuid.uuid4().hex[:6])


def fail(error: BaseException) -> Callable[[Any], object]:
    def work(ports: Any) -> None:
        raise error

    return work


def test_all_steps_find_the_run_that_the_first_one_opened(pipeline: Pipeline):
    run = pipeline.begin()
    assert pipeline.step("score shard 1 of 2") == pipeline.step("rank candidates") == run


def test_no_step_but_the_first_makes_a_run(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]):
    pipeline.run.write_text(pipeline.config.to_json())
    with pytest.raises(SystemExit) as ending:
        pipeline.step("rank candidates")
    assert ending.value.code == 2
    assert f"Expected the run {pipeline.config.run_id} in MLflow" in capsys.readouterr().err
    experiments = [experiment.experiment_id for experiment in pipeline.client.search_experiments()]
    assert not pipeline.client.search_runs(experiments, f"tags.metantk.key = '{pipeline.config.run_id}'")


def test_runs_that_kubeflows_plugin_makes_for_each_step_are_left_alone(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    experiment = pipeline.client.create_experiment(f"kubeflow {pipeline.number}")
    parent = pipeline.client.create_run(experiment).info.run_id
    theirs = [pipeline.client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs[0])
    run = pipeline.begin()
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs[1])
    points = [MetricPoint("rank/candidates", 3.0)]
    assert pipeline.step("rank candidates", lambda ports: ports.tracker.log_metrics(ports.run, points)) == run
    assert pipeline.seen(run).data.metrics == {"rank/candidates": 3.0}
    for other in (*theirs, parent):
        assert not pipeline.seen(other).data.metrics
        assert "metantk.key" not in pipeline.seen(other).data.tags


def test_the_first_step_refuses_the_pipeline_of_another_version_before_it_reads_or_opens_anything(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours, output = metantk_core.__version__, SimpleNamespace(path=str(tmp_path / "written"), metadata={})
    asked = '{"setting of a later version": 1}'  # which would be the complaint otherwise
    with pytest.raises(SystemExit) as ending:
        prepare_dataset.python_func(
            asked, **pipeline.places, pipeline="", kubeflow="", dataset=output, run=output, page=output, version="9.9.9"
        )
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"metantk: Expected an image with metantk 9.9.9, which compiled this pipeline, got one with {ours};"
    )
    assert said.count("\n") == 1
    assert not Path(output.path).exists()
    assert not Path(pipeline.places["store"]).exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("Expected images, but got none."), "Expected images, but got none."),
        (InputError("Can't read s3://bucket/key at http://127.0.0.1:8333."), "Can't read s3://bucket/key at http://"),
        (RuntimeError("at http://me:hunter2@there: 500"), "RuntimeError: at "),
        (SystemExit(143), "it was told to end"),
    ],
)
def test_a_tag_says_which_step_failed_until_a_retry_ends_well(pipeline: Pipeline, error: BaseException, reason: str):
    run = pipeline.begin()
    with pytest.raises(SystemExit):
        pipeline.step("score shard 2 of 8", fail(error))
    tags = pipeline.seen(run).data.tags
    assert tags["metantk.failed_step"] == "score shard 2 of 8"
    assert tags["metantk.failed_step.reason"].startswith(reason)
    assert "hunter2" not in str(tags)
    assert pipeline.seen(run).info.status == "RUNNING"  # Kubeflow repeats the step
    assert pipeline.step("score shard 2 of 8") == run
    pipeline.step("register model", lambda ports: ports.tracker.close_run(ports.run, "finished"))
    assert not [tag for tag in pipeline.seen(run).data.tags if tag.startswith("metantk.failed_step")]


def test_the_sentence_of_a_step_is_that_of_the_command(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pipeline.begin()
    monkeypatch.setenv(WATCHED, str(tmp_path))
    with pytest.raises(SystemExit):
        pipeline.step("score shard 2 of 8", fail(InputError("Expected images, but got none.")))
    with pytest.raises(InputError, match=r"^Expected images, but got none\.$"):
        raise_step_failure(tmp_path, tmp_path / "no.log")


@pytest.mark.parametrize(
    ("state", "status", "told"),
    [("FAILED", "FAILED", "failed"), ("CANCELLED", "KILLED", "killed"), ("SUCCEEDED", "FINISHED", "finished")],
)
def test_however_a_pipeline_ends_no_run_goes_on(pipeline: Pipeline, state: str, status: str, told: str):
    run = pipeline.begin()
    name = "meta-train best"  # whose pod is killed, and leaves its run as it was
    pipeline.step(name, lambda ports: ports.tracker.open_run(f"{run}/{name}", name, parent=run))
    assert pipeline.below(run) == {"meta-train best": "RUNNING"}
    assert pipeline.close(state, "the node went away" if state == "FAILED" else None) == told
    assert pipeline.seen(run).info.status == status
    assert pipeline.below(run) == {"meta-train best": "KILLED"}
    assert pipeline.seen(run).data.tags.get("metantk.pipeline.message") == (
        "the node went away" if state == "FAILED" else None
    )
    assert pipeline.begin() == run  # a pipeline that is started again goes on with it
    assert pipeline.seen(run).info.status == "RUNNING"


def test_the_end_of_one_pipeline_leaves_the_run_of_another_alone(pipeline: Pipeline, tmp_path: Path):
    run = pipeline.begin()
    others = Pipeline(tmp_path, pipeline.places["tracking_uri"], "another")
    assert others.close("FAILED") == "failed"  # it died before it opened a run
    assert pipeline.seen(run).info.status == "RUNNING"


def test_a_run_that_ended_well_stays_so(pipeline: Pipeline):
    run = pipeline.begin()
    pipeline.step("register model", lambda ports: ports.tracker.close_run(ports.run, "finished"))
    pipeline.close("FAILED")
    assert pipeline.seen(run).info.status == "FINISHED"


def test_the_run_links_to_its_page_in_kubeflow(pipeline: Pipeline):
    run = pipeline.begin(kubeflow="https://kubeflow.example/pipeline/")
    note = pipeline.seen(run).data.tags["mlflow.note.content"]
    assert f"(https://kubeflow.example/pipeline/#/runs/details/{pipeline.number})" in note
    assert pipeline.seen(run).data.tags["metantk.pipeline.page"].endswith(f"/#/runs/details/{pipeline.number}")


def test_runs_name_the_pods_that_opened_them_and_the_one_that_failed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KFP_POD_NAME", "first-pod")
    run = pipeline.begin()
    monkeypatch.setenv("KFP_POD_NAME", "second-pod")
    opened: list[str] = []

    def work(ports: Any) -> None:
        with step_run(ports, "meta-train best", "", {}) as below:
            opened.append(below)
        raise RuntimeError("the disk went away")

    with pytest.raises(SystemExit):
        pipeline.step("meta-train best", work)
    tags = pipeline.seen(run).data.tags
    assert (tags["metantk.pod"], tags["metantk.failed_step.pod"]) == ("first-pod", "second-pod")
    assert pipeline.seen(opened[0]).data.tags["metantk.pod"] == "second-pod"


def test_without_kubeflow_no_run_names_a_pod(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    run = pipeline.begin()
    assert not [tag for tag in pipeline.seen(run).data.tags if "pod" in tag or tag.endswith(".page")]


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        (
            "http://mlflow:5000/#/experiments/1/runs/2?workflowType=machine_learning",
            "[The run in MLflow](http://mlflow",
        ),
        ("http://me:hunter2@mlflow:5000/#/experiments/1/runs/2", "`metantk ui`"),
        (None, "`metantk ui`"),
    ],
)
def test_kubeflow_is_shown_a_link_to_the_run_in_mlflow(link: str | None, shown: str):
    page = run_page("smoke-1234", link)
    assert page.startswith("# smoke-1234\n")
    assert shown in page
    assert "hunter2" not in page
