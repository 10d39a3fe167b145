"""A compiled pipeline stays below what Argo keeps as one object, whatever the number of rounds."""

import json
from pathlib import Path

import pytest
import yaml

from metantk_core.config import load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from pipelines.graph_size import _ROUND, LARGEST_WORKFLOW, GraphSize, Growth
from pipelines.package import shared
from pipelines.profile import Profile, load_profile
from pipelines.search_and_meta_train import write

EVOLUTION = ["search.strategy=evolve", "search.evolve.population=4", "search.evolve.children=1"]


def written(tmp_path: Path, recipe: str, changes: list[str], profile: Profile | None = None) -> tuple[GraphSize, dict]:
    path = tmp_path / "pipeline.yaml"
    size = write(load_config(recipe, RECIPES, changes), path, profile)
    return size, next(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("profile", [pytest.param("bare", marks=pytest.mark.minutes), "gke-spot"])
def test_the_largest_recipe_in_64_shards_stays_below_argos_limit(profile, tmp_path):
    size, _ = written(tmp_path, "paper-mini-5", ["search.shards=64"], load_profile(profile))
    assert size.workflow_bytes < LARGEST_WORKFLOW * 7 / 8
    assert size.argument_bytes < 2**17
    assert size.shards == (64 if profile == "bare" else 8)  # more than there are places for would wait


def test_with_a_store_a_search_of_many_rounds_is_no_larger_than_one_of_few(tmp_path):
    sizes = {}
    for rounds in (2, 100):
        changes = [*EVOLUTION, f"search.num_candidates={3 + rounds}", "search.shards=4"]
        sizes[rounds], document = written(tmp_path, "smoke", changes, load_profile("bare"))
        assert "comp-search-round" not in document["components"]
    assert sizes[2]._replace(package_bytes=0, workflow_bytes=0) == sizes[100]._replace(
        package_bytes=0, workflow_bytes=0
    )
    assert abs(sizes[2].workflow_bytes - sizes[100].workflow_bytes) < 2000


def test_without_a_store_rounds_have_as_many_shards_as_fit(tmp_path):
    size, document = written(tmp_path, "paper-mini-5", ["search.shards=64"])
    most = document["root"]["inputDefinitions"]["parameters"]["most_shards"]["defaultValue"]
    assert size.shards == most < 64
    # The next round number would not leave the eighth that repetitions may take.
    growth = Growth(list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())))
    following = _ROUND[_ROUND.index(most) + 1]
    assert size.workflow_bytes <= LARGEST_WORKFLOW * 7 / 8 < growth.size(following).workflow_bytes


def test_more_rounds_than_fit_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(InputError, match=r"Argo keeps at most 1,048,576 bytes.*set search\.shards to 1"):
        written(tmp_path, "smoke", [*EVOLUTION, "search.num_candidates=60", "search.shards=2"])
    assert not list(tmp_path.iterdir())


def test_steps_pods_and_nodes_are_those_of_the_graph(tmp_path):
    # close_run, prepare_dataset, start_search, score_shard x 2, close_round, rank_candidates, meta_train and evaluate
    # x 3, write_report, register_model.
    size, _ = written(tmp_path, "smoke", [])
    assert size.steps == 15
    # Each step has a driver; so have the root, the exit handler, the round, two loops, and their five iterations.
    assert size.pods == 2 * 15 + 1 + 1 + 1 + 2 + 5
    more, _ = written(tmp_path, "smoke", ["search.shards=6"])
    assert (more.steps, more.pods) == (size.steps + 4, size.pods + 12)
    assert more.nodes - size.nodes == 4 * 12


def test_equal_parts_are_written_once_and_tasks_find_them(tmp_path):
    _, few = written(tmp_path, "smoke", ["search.strategy=prune"])
    _, one = written(tmp_path, "smoke", [])
    assert set(few["components"]) == set(one["components"])
    assert set(few["deploymentSpec"]["executors"]) == set(one["deploymentSpec"]["executors"])
    used = {
        task["componentRef"]["name"]
        for component in (few["root"], *few["components"].values())
        for task in component.get("dag", {}).get("tasks", {}).values()
    }
    assert used == set(few["components"])


def test_what_differs_stays_apart():
    def component(label: str) -> dict:
        return {"executorLabel": label}

    spec = {
        "root": {"dag": {"tasks": {name: {"componentRef": {"name": f"comp-{name}"}} for name in ("a", "a-2", "a-3")}}},
        "components": {f"comp-{name}": component(f"exec-{name}") for name in ("a", "a-2", "a-3")},
        "deploymentSpec": {
            "executors": {f"exec-{name}": {"container": {"image": "i"}} for name in ("a", "a-2", "a-3")}
        },
    }
    # The third one's container is that of the others, but it asks for another node.
    platform = {
        "platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec-a-3": {"nodeSelector": {"x": "y"}}}}}}
    }
    before = json.dumps([spec, platform])
    found, asked = shared([spec, platform])
    assert json.dumps([spec, platform]) == before
    assert set(found["components"]) == {"comp-a", "comp-a-3"}
    references = {name: task["componentRef"]["name"] for name, task in found["root"]["dag"]["tasks"].items()}
    assert references == {"a": "comp-a", "a-2": "comp-a", "a-3": "comp-a-3"}
    assert asked == platform
