"""A pipeline carries its own data: without an artifact store it ends with the same leaderboard as with one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from object_servers import BUCKET, Moto, environment

from components.close_round import close_round
from components.prepare_dataset import prepare_dataset
from components.rank_candidates import rank_candidates
from components.score_shard import score_shard
from components.start_search import start_search
from metantk_core import workflow
from metantk_core.config import RunConfig, load_config
from metantk_core.ranking import Leaderboard
from metantk_core.recipes import RECIPES
from metantk_core.scores import SCORES, Scorer
from metantk_core.workflow import Records, limits, read_records, scoring
from metantk_core.workspace import Workspace, open_run

SMALL = [
    "data.source=npz",
    "data.image_size=8",
    "search.num_candidates=5",
    "search.race.first=2",
    "scoring.num_inits=3",
    "scoring.scores=[metantk_cond, params]",
    "scoring.network={channels: 2, cells: 1}",
    "scoring.image_size=8",
    "scoring.tasks=2",
    "scoring.episode={ways: 3, shots: 1, queries: 1}",
    "training.network={channels: 2, cells: 1}",
    "trained_roles=[best]",
]
CASES = {
    "sample": ["search.strategy=sample"],
    "race": ["search.strategy=race"],
    # Between the fastest and the slowest candidates by the table of the fixture.
    "latency": ["search.strategy=race", "search.constraints.max_latency=0.5"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
        names = np.array([f"{split} {number}" for number in range(6)])
        pixels = rng.integers(0, 256, (180, 8, 8, 1)).astype(np.uint8)
        np.savez(folder / f"{split}.npz", images=pixels, labels=np.repeat(names, 30))
    return str(folder)


def configured(images: str, *overrides: str) -> RunConfig:
    return load_config("smoke", RECIPES, [*SMALL, f"data.path={images}", *overrides])


class Graph:
    """Runs the steps of a search as the pipeline connects them, in this process; each artifact is a file of its own."""

    def __init__(self, config: RunConfig, folder: Path, store: str, tracking: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._number, self._config = folder, 0, config
        self._ports = {"store": store, "tracking_uri": tracking}

    def artifact(self) -> Any:
        self._number += 1
        return SimpleNamespace(path=str(self._folder / f"artifact {self._number}"), metadata={})

    def step(self, component: Any, inputs: dict[str, Any], *outputs: str) -> list[Any]:
        made = {name: self.artifact() for name in outputs}
        component.python_func(**self._ports, **inputs, **made, **self._summary(component))
        return list(made.values())

    def prepared(self) -> list[Any]:
        asked = {"config": self._config.to_json(), "pipeline": "", "kubeflow": ""}
        return self.step(prepare_dataset, asked, "dataset", "run", "page")[:2]

    @staticmethod
    def _summary(component: Any) -> dict[str, Any]:
        wanted = "summary" in component.python_func.__annotations__
        return {"summary": SimpleNamespace(log_metric=lambda *_: None)} if wanted else {}

    def leaderboard(self, *, twice: str = "") -> Leaderboard:
        """Return what the search finds; the named step is run twice, and its second outputs go on."""

        def step(component: Any, inputs: dict[str, Any], *outputs: str) -> list[Any]:
            first = self.step(component, inputs, *outputs)
            if component.python_func.__name__ != twice:
                return first
            second = self.step(component, inputs, *outputs)
            for one, two in zip(first, second, strict=True):
                assert self.told(one) == self.told(two)
            return second

        dataset, run = self.prepared()
        state, records = step(start_search, {"run": run, "shards": 0, "most_shards": 256}, "state", "records")
        shards = self._config.search.shards
        for _ in range(limits.num_rounds(self._config)):
            so_far = {"run": run, "state": state, "earlier": records}
            parts = [
                step(score_shard, {**so_far, "dataset": dataset, "shard": f"{number}/{shards}"}, "scores")[0]
                for number in range(1, shards + 1)
            ]
            state, records = step(
                close_round, {**so_far, "scores": parts, "shards": 0, "most_shards": 256}, "following", "records"
            )
        board, *_ = step(
            rank_candidates, {"run": run, "state": state, "records": records}, "leaderboard", "history", "table"
        )
        return Leaderboard.from_json(Path(board.path).read_text())

    @staticmethod
    def told(artifact: Any) -> Any:
        """Return what an artifact says, without the seconds of records."""
        text = Path(artifact.path).read_text()
        if '"draws": [' in text and text.startswith('{"space"'):
            return [(record.genotype, record.score, record.draws) for record in read_records(text)]
        return text


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


_measure_once = cache(limits.measure_latency)  # it takes seconds, and what it finds is replaced


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count measurements of latency, each of which finds other times."""
    found = []

    def differently(space: str, network: Any, **others: Any) -> Any:
        found.append(space)
        table = _measure_once(space, network, **others)
        slow = {"nor_conv_3x3": 1.0 if len(found) % 2 else 0.0, "nor_conv_1x1": 0.0 if len(found) % 2 else 1.0}
        parts = tuple((*part[:-1], slow.get(part[3], 0.001)) for part in table.parts)
        return type(table)(**{**vars(table), "constant": 0.0, "parts": parts})

    monkeypatch.setattr(limits, "measure_latency", differently)
    return found


@pytest.mark.minutes
@pytest.mark.parametrize("case", ["sample", "race", "latency"])
def test_steps_find_the_same_with_and_without_a_store(case, images, tracking, tmp_path, measured):
    config = configured(images, *CASES[case])
    boards = {}
    for store, twice in (("", ""), ("store", ""), ("", "score_shard"), ("", "close_round")):
        folder = tmp_path / (store or "no store") / (twice or "once")
        folder.mkdir(parents=True)
        measured.clear()
        graph = Graph(config, folder, str(folder / store) if store else "", tracking)
        boards[store, twice] = graph.leaderboard(twice=twice)
        assert len(measured) == (case == "latency")
    (digest,) = {board.digest for board in boards.values()}
    assert digest
    if case == "latency":
        assert not any("nor_conv_3x3" in standing.genotype for standing in boards["", ""].standings)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a store on an S3 server of its own."""
    server = Moto(tmp_path)
    for name, value in environment(server.address).items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/shared"
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("begun_by", ["the laptop", pytest.param("the pipeline", marks=pytest.mark.minutes)])
def test_a_search_begun_by_one_is_finished_by_the_other_from_a_bucket(
    begun_by, bucket, images, tracking, tmp_path, monkeypatch
):
    scored: list[str] = []

    class Counted(Scorer):
        def score(self, architecture, repeats, stream="", weights="", names=None):
            scored.extend(str(architecture) for name in names or () if SCORES[name].cost != "none")
            return super().score(architecture, repeats, stream, weights, names)

    monkeypatch.setattr(scoring, "Scorer", Counted)
    asked = configured(images, "search.strategy=sample")
    graph = Graph(asked, tmp_path, bucket, tracking)
    laptop = Workspace(tmp_path / "runs", tracking, "cpu", bucket)
    config = laptop.prepare(asked)

    def begin_on_the_laptop() -> None:
        with open_run(config, laptop) as (dataset, ports):
            workflow.score_shard(config, workflow.start_search(config, ports), 0, 2, dataset, Records(), ports)

    def begin_in_the_pipeline() -> None:
        dataset, run = graph.prepared()
        state, records = graph.step(start_search, {"run": run, "shards": 0, "most_shards": 256}, "state", "records")
        inputs = {"run": run, "state": state, "earlier": records, "dataset": dataset, "shard": "1/2"}
        graph.step(score_shard, inputs, "scores")

    def finish_on_the_laptop() -> Leaderboard:
        with open_run(config, laptop) as (dataset, ports):
            return workflow.search(config, dataset, ports).leaderboard

    if begun_by == "the laptop":
        begin_on_the_laptop()
        begun, board = len(scored), graph.leaderboard()
    else:
        begin_in_the_pipeline()
        begun, board = len(scored), finish_on_the_laptop()
    assert 0 < begun < len(board.standings)
    assert sorted(scored) == sorted(standing.genotype for standing in board.standings)
    assert board.digest == Graph(asked, tmp_path / "alone", "", tracking).leaderboard().digest


PIPELINE = """
import sys
from pathlib import Path
from kfp import dsl, local
from components.prepare_dataset import prepare_dataset
from metantk_core.config import RunConfig
from pipelines.search_and_meta_train import add_search, search_round

config, tracking, root, store = RunConfig.from_json(Path(sys.argv[1]).read_text()), *sys.argv[2:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
place, meet = (lambda task: task), bool(store)
one_round = search_round(place)

@dsl.pipeline
def searched(config_text: str, store: str = "", tracking_uri: str = ""):
    addresses = {"store": store, "tracking_uri": tracking_uri}
    prepared = prepare_dataset(**addresses, config=config_text, pipeline="", kubeflow="")
    ports = {**addresses, "run": prepared.outputs["run"]}
    # Two shards: as many as the local runner has run at a time.
    add_search(config, place, one_round, ports, prepared.outputs["dataset"], shards=2, together=meet)

searched(config_text=config.to_json(), tracking_uri=tracking, store=store)
"""


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.parametrize("store", ["", "store"])
def test_local_runner_reaches_the_same_leaderboard_round_by_round_and_with_shards_that_meet_in_a_store(
    store, images, tracking, tmp_path
):
    config = configured(images, "search.strategy=race", "search.constraints.max_latency=9")
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "graph.py").write_text(PIPELINE)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    command = [
        sys.executable,
        str(tmp_path / "graph.py"),
        str(tmp_path / "config.json"),
        tracking,
        str(tmp_path / "kfp"),
        str(tmp_path / store) if store else "",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = tmp_path.glob("kfp/**/rank-candidates/leaderboard")
    graph = Graph(config, tmp_path, str(tmp_path / "another store"), tracking)
    assert json.loads(found.read_text()) == json.loads(graph.leaderboard().to_json())
