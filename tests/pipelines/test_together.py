"""Shards that meet in the store end with the leaderboard of a search by one process, whoever of them stays away."""

import importlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quiet import noise, quiet_ports, searched, tiny

from metantk_core.errors import InputError
from metantk_core.scores import ScoreRecord
from metantk_core.search import SearchState
from metantk_core.workflow import (
    Records,
    finish_search,
    join_shards,
    search_together,
    shard_names,
    shard_number,
    start_search,
)

module = importlib.import_module("metantk_core.workflow.together")
DATASET = noise()
EVOLVING = tiny(
    "search.strategy=evolve",
    "search.num_candidates=8",
    "search.evolve.population=4",
    "search.evolve.children=2",
    "scoring.scores=[metantk_cond, params]",
    "scoring.num_inits=2",
)


def together(root: Path, numbers: list[int], total: int) -> list[tuple[SearchState, Records]]:
    """Return what the processes with some numbers end with; those with the others never come."""

    def search(number: int) -> tuple[SearchState, Records]:
        ports = quiet_ports(root)
        state = start_search(EVOLVING, ports)
        return search_together(EVOLVING, state, number, total, DATASET, ports, patience=0.2)

    with ThreadPoolExecutor(len(numbers)) as threads:
        return list(threads.map(search, numbers))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return searched(EVOLVING, DATASET, quiet_ports(tmp_path_factory.mktemp("alone"))).leaderboard.to_json()


@pytest.mark.parametrize(("numbers", "total"), [([1, 2, 3], 3), ([2], 3), ([9], 40), ([1, 4], 5)])
def test_all_that_come_end_with_the_leaderboard_of_one_process(numbers, total, alone, tmp_path):
    ended = together(tmp_path, numbers, total)
    state = join_shards(EVOLVING, [state for state, _ in ended], quiet_ports(tmp_path))
    for _, records in ended:
        found = finish_search(EVOLVING, state, records, quiet_ports(tmp_path))
        assert found.leaderboard.to_json() == alone


def test_who_comes_late_or_again_scores_nothing(tmp_path, monkeypatch):
    first = together(tmp_path, [1], 2)[0]
    monkeypatch.setattr("metantk_core.workflow.together.score_shard", lambda *_: pytest.fail("scored again"))
    again, late = together(tmp_path, [1, 2], 2)
    assert first[0] == again[0] == late[0]
    assert sorted(map(str, first[1])) == sorted(map(str, late[1]))


def test_the_first_records_of_a_part_are_everybodys(tmp_path, monkeypatch):
    """Who has scored a part that another one put there meanwhile goes on with that one's."""
    (first,) = together(tmp_path, [1], 1)
    scored, seen = module.score_shard, module.read_sealed
    looks: list[str] = []

    def slowly(*arguments: Any) -> tuple[ScoreRecord, ...]:
        return tuple(replace(record, seconds=1e6) for record in scored(*arguments))

    def too_early(store: Any, key: str) -> bytes | None:
        looks.append(key)
        return None if looks.count(key) == 1 else seen(store, key)

    monkeypatch.setattr(module, "score_shard", slowly)
    monkeypatch.setattr(module, "read_sealed", too_early)
    (second,) = together(tmp_path, [1], 1)
    assert looks
    assert [record.to_json() for record in second[1]] == [record.to_json() for record in first[1]]


def test_parts_in_the_store_are_results_of_the_run(tmp_path):
    from metantk_core.upkeep import contents

    ports = quiet_ports(tmp_path)
    together(tmp_path, [1], 1)
    assert list(ports.store.keys(f"{EVOLVING.run_id}/rounds/"))
    assert contents(ports.store)["other"].count == 0


def test_shards_that_disagree_are_refused(tmp_path):
    state = start_search(EVOLVING, quiet_ports(tmp_path))
    ended = together(tmp_path, [1], 1)[0][0]
    with pytest.raises(InputError, match="the same store, image and kind of device"):
        join_shards(EVOLVING, [ended, state], quiet_ports(tmp_path))


def test_there_are_no_more_shards_than_there_is_to_score(tmp_path):
    state = start_search(EVOLVING, quiet_ports(tmp_path))
    assert shard_names(EVOLVING, state) == ["1/2", "2/2"]
    assert len(shard_names(EVOLVING, state, 64)) == len(state.plan) == 4
    assert shard_names(EVOLVING, state, 64, 3) == ["1/3", "2/3", "3/3"]
    ended = together(tmp_path, [1], 1)[0][0]
    assert shard_names(EVOLVING, ended, 64) == ["1/1"]
    for shards, most in ((257, 256), (-1, 256), (2, 0), (2, 257)):
        with pytest.raises(InputError, match="Expected shards from 1 to 256"):
            shard_names(EVOLVING, state, shards, most)


@pytest.mark.parametrize("name", ["", "1", "0/2", "3/2", "a/b", "1/", "/2", "-1/2", "1/2/3"])
def test_what_names_no_shard_is_refused(name):
    assert shard_number("2/64") == (2, 64)
    with pytest.raises(InputError, match="Expected a shard such as 1/8"):
        shard_number(name)
