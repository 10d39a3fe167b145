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
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from metantk_core.search import SearchState
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
        state = workflow.start_search(config, ports)
        while not state.finished:
            for index in order.sample(range(shards), shards):
                workflow.score_shard(config, state, index, shards, dataset, ports)
            state = SearchState.from_json(workflow.close_round(config, state, dataset, ports).to_json())
        workflow.finish_search(config, state, dataset, ports)
    folder = root / config.run_id
    return {name: (folder / name).read_bytes() for name in ("leaderboard.json", "search.json")}


def records(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("scores/*/*.jsonl")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.minutes if name == "prune" else ()) for name in SETTINGS]
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


def test_more_draws_are_added_to_those_that_are_there(tmp_path):
    few, many = (configured("race", "search.strategy=sample", f"scoring.num_inits={draws}") for draws in (2, 3))
    searched_in(1, few, tmp_path)
    stored = {path: path.read_text() for path in tmp_path.glob("scores/*/*.jsonl")}
    grown = searched_in(1, many, tmp_path)
    assert set(tmp_path.glob("scores/*/*.jsonl")) == set(stored)
    for path, text in stored.items():
        for old, new in zip(workflow.read_records(text), workflow.read_records(path.read_text()), strict=True):
            assert new.draws[: len(old.draws)] == old.draws
            assert len(new.draws) == (1 if new.score == "params" else 3)
    # Fewer draws again: the first ones, computed no more.
    before = records(tmp_path)
    assert searched_in(1, few, tmp_path) != grown
    assert records(tmp_path) == before
    assert grown == searched_in(1, many, tmp_path / "fresh")


def test_records_that_a_power_failure_cut_are_scored_again(tmp_path):
    config = configured("race", "search.strategy=sample", "search.num_candidates=5")
    whole = searched_in(1, config, tmp_path)
    lost, cut, blank, short, kept = sorted(records(tmp_path))
    texts = {path: path.read_bytes() for path in (lost, cut, blank, short, kept)}
    lost.write_bytes(b"")
    cut.write_bytes(texts[cut][:-30])
    blank.write_bytes(bytes(len(texts[blank])))
    short.write_bytes(texts[short].splitlines(keepends=True)[0])  # whole lines, but not all scores
    before = records(tmp_path)
    assert searched_in(1, config, tmp_path) == whole
    assert {path for path, time in records(tmp_path).items() if time != before[path]} == {lost, cut, blank, short}
    for path, text in texts.items():
        old, new = workflow.read_records(text.decode()), workflow.read_records(path.read_text())
        assert [record.draws for record in new] == [record.draws for record in old]


def test_round_is_not_closed_before_all_of_it_is_scored(tmp_path):
    config = configured("race")
    with open_run(config, Workspace(tmp_path)) as (dataset, ports):
        state = workflow.start_search(config, ports)
        workflow.score_shard(config, state, 0, 2, dataset, ports)
        with pytest.raises(InputError, match="score all shards"):
            workflow.close_round(config, state, dataset, ports)
        with pytest.raises(InputError, match="run all rounds"):
            workflow.finish_search(config, state, dataset, ports)


def test_latency_is_measured_once_a_run_and_decides_the_same_in_every_step(tmp_path):
    config = configured("race", "search.strategy=sample", "search.num_candidates=4", "search.constraints.max_latency=9")
    searched_in(2, config, tmp_path)
    (table,) = tmp_path.glob(f"{config.run_id}/latency.json")
    before = table.read_bytes()
    searched_in(1, config, tmp_path)
    assert table.read_bytes() == before
    impossible = configured("race", "search.constraints.max_latency=1e-9")
    with pytest.raises(InputError, match=r"within search\.constraints"):
        searched_in(1, impossible, tmp_path)
