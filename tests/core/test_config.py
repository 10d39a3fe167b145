"""A configuration refuses what it can't mean, reads back what it wrote, and names a run by what decides numbers."""

import json
import math

import pytest
import yaml

from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip_gives_an_equal_configuration(name):
    config = RECIPES[name]
    assert RunConfig.from_json(config.to_json()) == config


def test_infinite_inner_time_survives_json_and_stays_strict_json():
    config = load_config("smoke", RECIPES, ["scoring.time=.inf"])
    text = config.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert math.isinf(RunConfig.from_json(text).scoring.time)


def test_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(InputError, match=r"search\.num_candidate'.*did you mean 'num_candidates'"):
        load_config("smoke", RECIPES, ["search.num_candidate=3"])


def test_unknown_section_is_refused():
    with pytest.raises(InputError, match=r"'serch'.*did you mean 'search'"):
        load_config("smoke", RECIPES, ["serch.num_candidates=3"])


def test_wrong_value_is_named_with_its_place():
    with pytest.raises(InputError, match=r"search\.num_candidates: .*'many'"):
        load_config("smoke", RECIPES, ["search.num_candidates=many"])


def test_an_address_that_is_none_of_images_is_told_how_one_looks_and_not_shown():
    with pytest.raises(InputError, match=r"s3://bucket/prefix with plain names") as caught:
        load_config("smoke", RECIPES, ["data={source: folder, image_size: 16, path: 's3://bucket/a?token=hidden'}"])
    assert "hidden" not in str(caught.value)


def test_all_wrong_values_come_in_one_message():
    with pytest.raises(InputError, match=r"(?s)num_candidates.*iterations"):
        load_config("smoke", RECIPES, ["search.num_candidates=0", "training.iterations=-1"])


def test_unknown_recipe_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'glyphs'"):
        load_config("glyph", RECIPES)


def test_override_without_a_value_is_refused():
    with pytest.raises(InputError, match="key=value"):
        load_config("smoke", RECIPES, ["search.num_candidates"])


def test_override_below_a_single_value_is_refused():
    with pytest.raises(InputError, match="single value"):
        load_config("smoke", RECIPES, ["seed.x=1"])


def test_file_changes_the_recipe_that_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"recipe": "smoke", "name": "mine", "search": {"num_candidates": 9}}))
    config = load_config(str(path), RECIPES, ["search.shards=3"], seed=7)
    assert (config.name, config.search.num_candidates, config.search.shards, config.seed) == ("mine", 9, 3, 7)
    assert config.scoring == RECIPES["smoke"].scoring


@pytest.mark.parametrize(
    ("content", "complaint"), [("a: [", "YAML"), ("- 1", "keys and values"), ("recipe: nope", "'nope'")]
)
def test_unusable_file_is_refused_in_one_sentence(tmp_path, content, complaint):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        load_config(str(path), RECIPES)


def test_missing_file_is_refused():
    with pytest.raises(InputError, match="No such file"):
        load_config("nowhere.yaml", RECIPES)


def test_digest_depends_on_what_decides_numbers_and_on_nothing_else():
    base = RECIPES["smoke"]
    same = load_config("smoke", RECIPES, ["search.shards=5", "name=other", "registered_model=x"])
    assert same.digest == base.digest
    for override in ("seed=1", "scoring.ridge=0.01", "search.num_candidates=7", "training.iterations=9", "data.seed=1"):
        assert load_config("smoke", RECIPES, [override]).digest != base.digest, override


def test_ranking_by_a_score_that_is_not_computed_is_refused():
    with pytest.raises(InputError, match="rank_by"):
        load_config("smoke", RECIPES, ["scoring.scores=[params]"])


def test_head_trained_for_other_ways_than_evaluated_is_refused():
    with pytest.raises(InputError, match="ways"):
        load_config("smoke", RECIPES, ["evaluation.episode.ways=3"])
