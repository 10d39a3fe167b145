"""A configuration refuses what it can't mean, reads back what it wrote, and names a run by what decides numbers."""

import json
import math

import pytest
import yaml

from metantk_core.config import RunConfig, explained, load_config
from metantk_core.errors import InputError
from metantk_core.meta_training import MamlTraining, ProtoNetTraining, RfsTraining
from metantk_core.recipes import RECIPES
from metantk_core.settings_text import parse_yaml


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


def test_another_learner_starts_from_its_own_settings_and_keeps_the_network_whatever_the_order_of_overrides():
    overrides = ["training.iterations=30", "training.algorithm=protonet"]
    for given in (overrides, overrides[::-1]):
        training = load_config("glyphs", RECIPES, given).training
        assert isinstance(training, ProtoNetTraining)
        assert (training.iterations, training.network) == (30, RECIPES["glyphs"].training.network)
        assert training.episode == ProtoNetTraining().episode  # not that of MAML, which the recipe has
    anil = load_config("glyphs", RECIPES, ["training.algorithm=anil"]).training
    assert isinstance(anil, MamlTraining)
    assert anil.inner_learning_rate == 0.4


def test_learner_of_a_file_that_changes_a_recipe_needs_no_setting_of_the_recipes_learner(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("recipe: glyphs\ntraining:\n  algorithm: rfs\n  epochs: 3\n  decay_epochs: [2]\n")
    training = load_config(str(path), RECIPES).training
    assert isinstance(training, RfsTraining)
    assert (training.epochs, training.decay_epochs, training.learning_rate) == (3, (2,), 0.02)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["training.algorithm=foo"], "training.algorithm: expected one of maml, anil, protonet, rfs, not 'foo'"),
        (["training.epochs=3"], r"no setting 'training.epochs' \(it is one of rfs, which training.algorithm would"),
        (["training.algorithm=rfs", "training.inner_steps=3"], r"'training.inner_steps' \(it is one of maml and anil,"),
        (["training.algorithm=rfs", "training.iterations=3"], r"'training.iterations' \(it is one of maml, anil and p"),
        (["training.algorithm=rfs", "training.epoch=3"], r"'training.epoch' \(did you mean 'epochs'\?\)"),
        (
            ["training.algorithm=rfs", "training.epochs=no"],
            "training.epochs: input should be a valid integer",
        ),
        (["training.algorithm=rfs", "training.epochs=9"], r"training: decay_epochs are \[60, 80\] of 9 epochs"),
        (
            ["training.algorithm=rfs", "training.norm=batch_support"],
            "training.norm: input should be 'batch_running'",
        ),
        (["training.algorithm=rfs", "evaluation.classifier=gradient_steps"], "rfs learns no weights that adapt"),
        (["training.norm=batch_running"], "training.norm: input should be 'batch_support'"),
        (["trained_top=4", "search.num_candidates=4"], "the first ranks and the worst need one more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_do_not_fit_the_learner_are_refused_with_a_sentence(overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config("glyphs", RECIPES, overrides)


def test_metric_learners_may_be_evaluated_with_other_ways_than_they_learn_from():
    for algorithm in ("protonet", "rfs"):
        config = load_config("glyphs", RECIPES, [f"training.algorithm={algorithm}", "evaluation.episode.ways=7"])
        assert config.evaluation.episode.ways == 7


def test_configuration_of_before_there_were_several_learners_is_read_and_names_the_same_run():
    config = RECIPES["glyphs"]
    values = json.loads(config.to_json())
    for name in ("classifier", "beside", "augmented_copies", "further_shots"):
        del values["evaluation"][name]
    del values["training"]["algorithm"]
    old = RunConfig.from_values(values, "an old configuration")
    assert old == config
    assert "classifier" not in config.experiment["evaluation"]
    asked = load_config("glyphs", RECIPES, ["evaluation.augmented_copies=0"])
    assert asked.digest != config.digest


@pytest.mark.parametrize("name", ["glyphs", "glyphs-protonet", "glyphs-rfs"])
def test_explained_settings_of_each_learner_read_back_to_an_equal_configuration(name):
    text = explained(RECIPES[name])
    assert RunConfig.from_values(parse_yaml(text), "the explained settings") == RECIPES[name]
    assert ("epochs:" in text) == (name == "glyphs-rfs")
