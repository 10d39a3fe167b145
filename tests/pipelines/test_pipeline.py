"""The pipeline compiles to the same bytes, asks for what it is told, and runs on this machine to the same numbers."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from forked_commands import metantk
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from PIL import Image

import metantk_core
from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from pipelines.profile import Placement, Profile
from pipelines.search_and_meta_train import write

SMOKE = RECIPES["smoke"]
# The smallest recipe with fewer images, drawn in a fifth of the time.
FEW = load_config("smoke", RECIPES, ["data.images_per_class=8"])
RUN = ("smoke", "--set", "data.images_per_class=8", "--json")
COMPUTING = {"exec-score-shard", "exec-meta-train", "exec-evaluate"}


def compiled(tmp_path: Path, profile: Profile | None = None, config: RunConfig = SMOKE, **addresses: Any) -> dict:
    path = tmp_path / "pipeline.yaml"
    write(config, path, profile, **addresses)
    return next(yaml.safe_load_all(path.read_text()))


def within(document: dict) -> dict:
    """Return the tasks of a compiled pipeline that the last step waits for."""
    (handled,) = [name for name in document["components"] if name.startswith("comp-exit-handler")]
    return document["components"][handled]["dag"]["tasks"]


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    write(SMOKE, tmp_path / "a.yaml")
    write(SMOKE, tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_compiled_pipeline_is_a_valid_pipeline_spec(tmp_path):
    document = compiled(tmp_path, Profile(computes=Placement(gpus=1)))
    json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())  # pyright: ignore[reportAttributeAccessIssue]


def test_only_the_computing_steps_ask_for_the_accelerator(tmp_path):
    profile = Profile(computes=Placement(gpus=2, cpu="4", memory="16G"))
    executors = compiled(tmp_path, profile)["deploymentSpec"]["executors"]
    asking = {name: executor["container"].get("resources") for name, executor in executors.items()}
    assert {name for name, resources in asking.items() if resources} == COMPUTING
    for name in COMPUTING:
        assert asking[name]["accelerator"] == {
            "count": "2",
            "resourceCount": "2",
            "resourceType": "nvidia.com/gpu",
            "type": "nvidia.com/gpu",
        }
        assert asking[name]["resourceCpuRequest"] == "4"


def test_latency_is_measured_where_the_computing_steps_are(tmp_path):
    limited = load_config("smoke", RECIPES, ["search.constraints.max_latency=1"])
    gpu = Profile(computes=Placement(gpus=1))
    executors = compiled(tmp_path, gpu, config=limited)["deploymentSpec"]["executors"]
    asking = {name for name, executor in executors.items() if "resources" in executor["container"]}
    assert asking == COMPUTING | {"exec-start-search"}


def test_every_step_runs_in_the_image_that_was_asked_for(tmp_path):
    profile = Profile(defaults=Placement(image="registry.example/metantk-python:abc"))
    executors = compiled(tmp_path, profile)["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {
        "registry.example/metantk-python:abc"
    }


def test_configuration_travels_as_the_default_of_a_parameter(tmp_path):
    parameters = compiled(tmp_path, store="/mnt/store")["root"]["inputDefinitions"]["parameters"]
    assert json.loads(parameters["config"]["defaultValue"]) == json.loads(SMOKE.to_json())
    assert parameters["store"]["defaultValue"] == "/mnt/store"


def test_a_pipeline_tells_its_first_step_the_version_that_compiled_it(tmp_path):
    given = within(compiled(tmp_path))["prepare-dataset"]["inputs"]["parameters"]
    assert given["version"] == {"runtimeValue": {"constant": metantk_core.__version__}}


def test_every_round_is_fanned_out_over_shards_collected_and_closed_before_the_next(tmp_path):
    overrides = ["search.strategy=prune", "search.shards=3"]
    document = compiled(tmp_path, config=load_config("smoke", RECIPES, overrides))
    # NAS-Bench-201 loses one of its 5 operations an edge in each of 4 rounds; then the winner is compared.
    rounds = [task for name, task in within(document).items() if name.startswith("search-round")]
    assert len(rounds) == 5
    assert {task["componentRef"]["name"] for task in rounds} == {"comp-search-round"}
    states = [task["inputs"]["artifacts"]["state"]["taskOutputArtifact"]["producerTask"] for task in rounds]
    assert sorted(states) == ["search-round", "search-round-2", "search-round-3", "search-round-4", "start-search"]
    parts = document["components"]["comp-search-round"]["dag"]["tasks"]
    (loop,) = [name for name, task in parts.items() if "parameterIterator" in task]
    # The shards are what the step before said at run time.
    assert parts[loop]["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--shards"}
    assert parts["close-round"]["inputs"]["artifacts"]["scores"]["taskOutputArtifact"]["producerTask"] == loop


def test_search_in_one_shard_is_one_step(tmp_path):
    config = load_config("smoke", RECIPES, ["search.strategy=prune", "search.shards=1"])
    root = within(compiled(tmp_path, config=config))
    assert "search" in root
    assert not any(name.startswith(("score-shard", "close-round", "start-search")) for name in root)


def test_the_last_step_runs_however_the_others_end(tmp_path):
    document = compiled(tmp_path)
    tasks = document["root"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if "triggerPolicy" in task} == {"close-run"}
    assert tasks["close-run"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert len(tasks) == 2  # it, and the group of all others
    assert {"prepare-dataset", "write-report", "register-model"} <= set(within(document))


def test_pipeline_is_not_written_to_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="folder that exists"):
        write(SMOKE, tmp_path / "nowhere" / "p.yaml")


@pytest.mark.parametrize("option", ["--tracking-uri", "--store", "--kubeflow"])
def test_credentials_never_reach_a_compiled_pipeline(tmp_path, option):
    done = metantk("compile", "smoke", option, "https://me:hunter2@example.org", cwd=tmp_path)
    assert done.returncode == 2
    assert "hunter2" not in done.stderr + done.stdout
    assert not (tmp_path / "pipeline.yaml").exists()


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("two")
    done = metantk("run", *RUN, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
def test_whole_pipeline_runs_on_this_machine_and_leaves_report_model_and_leaderboard(two_shards):
    folder, result = two_shards
    run = folder / "runs" / FEW.run_id
    assert set(result["evaluations"]) == {"best", "worst", "random"}
    assert (run / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert json.loads((run / "leaderboard.json").read_text()) == result["leaderboard"]
    assert result["model"].startswith("models:/metantk-few-shot")


@pytest.fixture(scope="module")
def exported(two_shards) -> tuple[Path, dict]:
    folder, _ = two_shards
    done = metantk("export", FEW.run_id, "row", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "row", json.loads(done.stdout)


@pytest.mark.slow
def test_exported_run_holds_all_that_repeats_it_with_checksums(two_shards, exported):
    _, result = two_shards
    row, said = exported
    assert load_config(str(row / "config.json"), RECIPES) == FEW
    assert said["digest"] == result["digest"]
    lines = (row / "SHA256SUMS").read_text().splitlines()
    sums = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    there = {path.relative_to(row).as_posix() for path in row.rglob("*") if path.is_file()}
    assert sums == said["files"]
    assert there == {"SHA256SUMS", *sums}
    assert all(hashlib.sha256((row / name).read_bytes()).hexdigest() == checksum for name, checksum in sums.items())
    assert json.loads((row / "leaderboard.json").read_text()) == result["leaderboard"]
    rows = list(csv.DictReader((row / "accuracies.csv").open()))
    assert {line["network"]: float(line["accuracy"]) for line in rows} == {
        role: found["accuracy"] for role, found in result["evaluations"].items()
    }
    names: dict[str, object] = {}
    exec((row / "genotype.py").read_text(), names)
    assert names["genotype"] == rows[0]["genotype"]
    pins = (row / "requirements.txt").read_text().splitlines()
    assert f"numpy=={metadata.version('numpy')}" in pins
    assert "{wang2022global," in (row / "citation.bib").read_text()
    assert "{finn2017model," in (row / "citation.bib").read_text()
    assert said["digest"] in (row / "README.md").read_text()
    assert not [path for path in row.parent.iterdir() if path.name.startswith(".unfinished")]


@pytest.mark.slow
def test_network_of_an_exported_run_classifies_image_files(exported, tmp_path):
    row, _ = exported
    generator = np.random.default_rng(0)
    for label in range(FEW.evaluation.episode.ways):
        (tmp_path / "shots" / f"class{label}").mkdir(parents=True)
        image = Image.fromarray(generator.integers(256, size=(20, 20), dtype=np.uint8))
        image.save(tmp_path / "shots" / f"class{label}" / "one.png")
    done = metantk(
        "classify", "--model", str(row / "model"), "--support", "shots", "--query", "shots", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["answers"]) == FEW.evaluation.episode.ways


@pytest.mark.slow
def test_export_refuses_what_it_can_not_write_and_leaves_nothing(two_shards, exported):
    folder, _ = two_shards
    before = sorted(folder.iterdir())
    for arguments, words in (
        ((FEW.run_id, "row"), "holds something"),
        (("smoke-00000000", "other"), "Expected a run that has finished"),
        (("../runs", "other"), "Expected a run that has finished"),
        ((FEW.run_id, "row/README.md/inside"), "choose another"),
    ):
        done = metantk("export", *arguments, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
@pytest.mark.minutes
def test_exported_configuration_runs_elsewhere_to_the_same_leaderboard_and_accuracies(two_shards, exported, tmp_path):
    _, result = two_shards
    row, said = exported
    done = metantk("run", str(row / "config.json"), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["digest"] == said["digest"]
    assert again["evaluations"] == result["evaluations"]


@pytest.mark.slow
def test_seven_shards_give_the_same_leaderboard_byte_for_byte(two_shards, tmp_path):
    folder, _ = two_shards
    done = metantk("search", *RUN, "--set", "search.shards=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path("runs", FEW.run_id, "leaderboard.json")
    assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()


@pytest.mark.slow
@pytest.mark.minutes
def test_interrupted_run_leaves_no_process_and_resumes_to_the_same_numbers(two_shards, tmp_path):
    _, uninterrupted = two_shards
    command = [sys.executable, "-m", "metantk_core", "run", *RUN]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/scores/*/*/*.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "resumes" in said
    alive = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split()
    assert not alive
    scored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/scores/*/*/*.jsonl")}
    done = metantk("run", *RUN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = json.loads(done.stdout)
    assert resumed["digest"] == uninterrupted["digest"]
    assert resumed["evaluations"] == uninterrupted["evaluations"]
    assert all(path.stat().st_mtime_ns == written for path, written in scored.items()), (
        "a scored candidate was scored again"
    )


@pytest.mark.slow
def test_bad_input_met_by_a_step_ends_the_run_with_its_sentence(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    done = metantk(
        "run", "smoke", "--set", "data.source=folder", "--set", f"data.path={tmp_path / 'images'}", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "images" in done.stderr


def test_shards_do_not_name_the_run():
    assert load_config("smoke", RECIPES, ["search.shards=7"]).run_id == SMOKE.run_id
