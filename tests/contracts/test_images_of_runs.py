"""Commands and pods read images from a bucket, and prepare them once for all."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from object_servers import BUCKET, Moto, environment
from test_images_in_buckets import upload, write_tree
from typer.testing import CliRunner

from metantk_core import steps, upkeep, wiring
from metantk_core.adapters.addresses import sqlite_uri
from metantk_core.command_line import app
from metantk_core.config import load_config
from metantk_core.recipes import RECIPES
from metantk_core.workflow import prepare_dataset

SETTINGS = (
    "search.num_candidates=2",
    "scoring.scores=[params]",
    "rank_by=params",
    "data.source=folder",
    "data.image_size=16",
    "data.channels=3",
    *(f"{part}.episode={{ways: 3, shots: 1, queries: 1}}" for part in ("scoring", "training", "evaluation")),
)


@pytest.fixture
def images(moto: Moto, tmp_path: Path) -> str:
    return upload(write_tree(tmp_path / "images", classes=3, images=2), moto.address)


@pytest.fixture
def proxy(moto: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    with FaultyProxy(moto.address) as proxy:
        for name, value in environment(proxy.address).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("METANTK_CACHE", str(tmp_path / "cache"))
        yield proxy


def said(command: str, images: str, *more: str) -> Any:
    settings = [part for setting in (*SETTINGS, f"data.path={images}") for part in ("--set", setting)]
    first = ["smoke"] if command != "score" else ["|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "smoke"]
    done = CliRunner().invoke(app, [command, *first, *settings, "--device", "cpu", "--json", *more])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


def read(proxy: FaultyProxy) -> int:
    """Return how many images and arrays were read since this was asked last."""
    count = sum(seen.method == "GET" and seen.target.partition("?")[0].endswith(".png") for seen in proxy.seen)
    proxy.seen.clear()
    return count


@pytest.mark.slow
def test_images_and_results_in_buckets_are_read_once_by_all_machines(
    proxy: FaultyProxy, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    first = said("search", images, "--store", store, "--workspace", str(tmp_path / "laptop"))
    assert read(proxy) == 18
    assert upkeep.contents(wiring.artifact_store(store))[upkeep.DATASETS].count == 1
    monkeypatch.setenv("METANTK_CACHE", str(tmp_path / "another machine"))
    second = said("search", images, "--store", store, "--workspace", str(tmp_path / "workstation"))
    assert (second["digest"], second["run"]) == (first["digest"], first["run"])
    assert read(proxy) == 0
    # A pod, with neither workspace nor cache.
    config = load_config("smoke", RECIPES, [*SETTINGS, f"data.path={images}"])
    tracking = sqlite_uri(tmp_path / "laptop" / "mlflow.db")
    pod = tmp_path / "pod"
    with steps.open_pipeline(config.to_json(), store=store, tracking_uri=tracking, images=pod) as (run, ports):
        dataset = prepare_dataset(run, pod, ports)
    assert read(proxy) == 0
    assert run.run_id == first["run"]
    assert dataset.digest == run.dataset_digest


@pytest.mark.slow
def test_score_reads_images_from_a_bucket_into_the_workspace(proxy: FaultyProxy, images: str, tmp_path: Path):
    for count in (18, 0):
        assert said("score", images, "--workspace", str(tmp_path / "runs"))[0]["score"] == "params"
        assert read(proxy) == count
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["datasets"]


def test_mlflow_is_told_that_a_dataset_comes_from_a_bucket(tmp_path: Path):
    from metantk_core.ports import DatasetSummary

    tracker: Any = wiring.tracker(sqlite_uri(tmp_path / "mlflow.db"))
    run = tracker.open_run("a", "a")
    for number, source in enumerate(("s3://bucket/images", "/data/images")):
        tracker.log_dataset(run, DatasetSummary(f"images {number}", str(number) * 16, source, 1, 1, (3, 8, 8)), "train")
    logged = {entry.dataset.name: entry.dataset for entry in tracker._client.get_run(run).inputs.dataset_inputs}
    assert logged["images 0"].source_type == "s3"
    assert json.loads(logged["images 0"].source) == {"uri": "s3://bucket/images"}
    assert logged["images 1"].source_type == "local"
