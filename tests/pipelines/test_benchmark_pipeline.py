"""The benchmark pipeline compiles with nothing cached, and on this machine fails its step where something got worse."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from made_reruns import HERE, rerun

from metantk_core import benchmarking, wiring, workflow
from metantk_core.config import load_config
from metantk_core.errors import InputError
from metantk_core.ports import PIPELINE
from metantk_core.recipes import RECIPES
from metantk_core.reruns import compare
from metantk_core.reruns.history import EXPERIMENT, tags_of
from metantk_core.workspace import Workspace
from pipelines import benchmark
from pipelines.profile import Profile, load_profile

SMALL = load_config(
    "smoke",
    RECIPES,
    [
        "data.images_per_class=6",
        "scoring.scores=[metantk_cond, params]",
        "training.iterations=2",
        "training.validate_every=2",
        "evaluation.episodes=8",
    ],
)

# Kubeflow's local runner keeps its settings for the whole process, and replaces print.
_LOCALLY = """
import sys
from pathlib import Path
from kfp import local
from metantk_core.config import RunConfig
from pipelines import benchmark
from pipelines.profile import LOCAL
from pipelines.step_processes import StepServer
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
StepServer().serve_kubeflow()
benchmark.build([RunConfig.from_json(sys.argv[2])], LOCAL)(store=sys.argv[3], tracking_uri=sys.argv[4])
"""


def compiled(tmp_path: Path, profile: Profile | None = None) -> dict:
    path = tmp_path / "benchmark.yaml"
    benchmark.write([SMALL, RECIPES["glyphs"]], path, profile)
    return next(iter(yaml.safe_load_all(path.read_text())))


def tasks(document: dict) -> dict:
    (handled,) = [name for name in document["components"] if name.startswith("comp-exit-handler")]
    return document["components"][handled]["dag"]["tasks"]


def test_each_recipe_is_a_step_and_one_that_fails_and_none_is_cached_or_judged_twice(tmp_path):
    document = compiled(tmp_path)
    json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())  # pyright: ignore[reportAttributeAccessIssue]
    inside = tasks(document)
    assert {task["taskInfo"]["name"] for task in inside.values()} == {
        "rerun smoke",
        "judge smoke",
        "rerun glyphs",
        "judge glyphs",
    }
    for task in [*inside.values(), *document["root"]["dag"]["tasks"].values()]:
        assert "enableCache" not in task.get("cachingOptions", {})
    for name, task in inside.items():
        assert ("retryPolicy" in task) == name.startswith("rerun"), name
    assert document["root"]["dag"]["tasks"]["close-benchmarks"]["triggerPolicy"]


def test_reruns_ask_for_what_the_profile_gives_steps_that_compute(tmp_path):
    executors = compiled(tmp_path, load_profile("gke-spot"))["deploymentSpec"]["executors"]
    asking = {
        name for name, executor in executors.items() if "accelerator" in executor["container"].get("resources", {})
    }
    assert asking
    assert all(name.startswith("exec-rerun-benchmark") for name in asking)


def test_a_benchmark_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one recipe"):
        benchmark.build([])


@pytest.mark.minutes
def test_a_regression_fails_its_step_after_page_and_tags_are_where_they_belong(tmp_path):
    place = Workspace(tmp_path / "runs")
    place.prepare(SMALL)
    tracker = wiring.tracker(place.tracking_uri, wiring.BENCHMARKS)
    # A baseline with an accuracy, and an order of candidates, that this experiment does not have.
    made = rerun(recipe="smoke", experiment=SMALL.digest, name="better")
    run = workflow.open_rerun(SMALL, tracker, HERE, name="better", date=made.date)
    (tmp_path / workflow.RERUN_FILE).write_text(made.to_json())
    tracker.log_file(run, tmp_path / workflow.RERUN_FILE)
    tracker.tag_run(run, tags_of(compare(made, None, SMALL.benchmark), ""))
    benchmarking.accept(run, place)
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", _LOCALLY, str(tmp_path / "kfp"), SMALL.to_json(), str(store), place.tracking_uri],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(benchmark.__file__).parents[1],
    )
    assert done.returncode == 1
    assert "judge-benchmark" in done.stderr
    assert "smoke got worse: " in done.stdout
    (known,) = [one for one in tracker.find_runs({EXPERIMENT: SMALL.digest}) if one.identifier != run]
    assert known.tags["metantk.benchmark.verdict"] == "regression"
    assert "accuracy of the winner" in known.tags["metantk.benchmark.worse"]
    assert known.tags[PIPELINE]
    assert known.status == "finished"
    assert b"smoke got worse" in (tracker.read_file(known.identifier, "benchmark.html") or b"")
    assert len(list((tmp_path / "kfp").glob("**/page"))) == 1
    assert not [path for path in store.rglob("*") if path.is_file()]  # its work is no longer needed
