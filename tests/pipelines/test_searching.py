"""A search gives the same bytes in any number of shards, and goes on after a pod was killed at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metantk_core import workflow
from metantk_core.config import RunConfig, load_config
from metantk_core.recipes import RECIPES
from metantk_core.search import SearchState
from metantk_core.workflow import Records
from metantk_core.workspace import Workspace, open_run

# Small, but with every step of its strategy.
SETTINGS = {
    "prune": ["search.num_candidates=3", "scoring.network.channels=2"],
    "evolve": [
        "search.num_candidates=11",
        "search.evolve={population: 5, tournament: 2, children: 3}",
        "scoring.network.channels=2",
    ],
    "race": ["search.num_candidates=9", "search.race.first=2", "scoring.num_inits=4", "scoring.network.channels=2"],
}
CRITERION = ["scoring.scores=[metantk_cond, linear_regions, params]", "rank_by={metantk_cond: 1, linear_regions: 1}"]
FEWER_IMAGES = [
    "data.images_per_class=6",
    "scoring.linear_regions.images=64",
    "scoring.image_size=8",
    "scoring.tasks=2",
    "scoring.episode={ways: 3, shots: 1, queries: 1}",
]


def configured(strategy: str, *more: str) -> RunConfig:
    overrides = [f"search.strategy={strategy}", *SETTINGS[strategy], *CRITERION, *FEWER_IMAGES, *more]
    return load_config("smoke", RECIPES, overrides)


def searched_in(shards: int, config: RunConfig, root: Path) -> dict[str, bytes]:
    """Search as pods do: shards in any order, the state as JSON in between; return what is left in the store."""
    order = random.Random(shards)
    with open_run(config, Workspace(root)) as (dataset, ports):
        state, found = workflow.start_search(config, ports), Records()
        while not state.finished:
            parts = [
                workflow.score_shard(config, state, index, shards, dataset, found, ports)
                for index in order.sample(range(shards), shards)
            ]
            for part in parts:
                found = found.joined(workflow.read_records(workflow.write_records(part)))
            state = SearchState.from_json(workflow.close_round(config, state, found, ports).to_json())
        workflow.finish_search(config, state, found, ports)
    folder = root / config.run_id
    return {name: (folder / name).read_bytes() for name in ("leaderboard.json", "search.json")}


def records(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("scores/*/*/*.jsonl")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=() if name == "evolve" else pytest.mark.minutes) for name in SETTINGS]
)
def test_one_three_and_eight_shards_find_the_same_byte_for_byte(strategy, tmp_path):
    config = configured(strategy)
    one, three, eight = (searched_in(shards, config, tmp_path / str(shards)) for shards in (1, 3, 8))
    assert one == three == eight


@pytest.mark.slow
@pytest.mark.minutes
def test_killed_search_repeats_no_more_than_the_candidate_in_flight(tmp_path):
    config = configured("prune")
    uninterrupted = searched_in(1, config, tmp_path / "whole")
    path = tmp_path / "run.json"
    path.write_text(config.to_json())
    command = [
        sys.executable,
        "-m",
        "metantk_core",
        "search",
        str(path),
        "--json",
        "--workspace",
        str(tmp_path / "runs"),
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    whole = len(records(tmp_path / "whole"))
    kept: dict[Path, int] = {}
    for share in (0.1, 0.5, 0.9):
        # Killed three times, each time further on: SIGKILL leaves no time to tidy up.
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + 240
        while len(records(tmp_path / "runs")) < share * whole and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not kept:
            kept = records(tmp_path / "runs")
            assert kept
            assert not (tmp_path / "runs" / config.run_id / "leaderboard.json").exists()
    before = records(tmp_path / "runs")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    after = records(tmp_path / "runs")
    assert {name: after[name] for name in kept | before} == kept | before, "a scored candidate was scored again"
    assert len(after) == whole
    folder = tmp_path / "runs" / config.run_id
    assert {name: (folder / name).read_bytes() for name in uninterrupted} == uninterrupted
    # A finished search computes nothing.
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert json.loads(again.stdout)["digest"] == json.loads(done.stdout)["digest"]
    assert records(tmp_path / "runs") == after
