"""What a run will take is said before it starts: counts are exact, hours are measured, and nothing is written."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quiet import noise, quiet_ports, searched, tiny
from typer.testing import CliRunner

from metantk_core import datasets
from metantk_core.architectures import Architecture
from metantk_core.candidates import parse_genotype
from metantk_core.command_line import app
from metantk_core.config import RunConfig
from metantk_core.datasets.glyphs import glyphs as glyphs_of
from metantk_core.episodes import EpisodeSource
from metantk_core.meta_training import evaluate, untrained_model
from metantk_core.networks.build import FewShotNetwork
from metantk_core.recipes import RECIPES
from metantk_core.scores import Scorer
from metantk_core.workflow import estimate, estimating
from metantk_core.workflow.estimating import _pace, _planned, _steps
from metantk_core.workspace import Workspace


@pytest.mark.parametrize("strategy", ["sample", "race", "evolve"])
def test_candidates_and_draws_are_those_that_a_search_scores(strategy, tmp_path, monkeypatch):
    config = tiny(
        f"search.strategy={strategy}",
        "search.evolve={population: 3, tournament: 2, children: 2}",
        "scoring.scores=[metantk_cond, params]",
        "scoring.num_inits=2",
    )
    usual, scored = Scorer.score, Counter[Architecture]()

    def counted(scorer, architecture, repeats, *more):
        scored[architecture] += len(repeats)
        return usual(scorer, architecture, repeats, *more)

    monkeypatch.setattr(Scorer, "score", counted)
    searched(config, noise(), quiet_ports(tmp_path))
    told = _planned(config)[0]
    if strategy == "sample":
        assert told == scored
    else:  # who goes on depends on scores, which are made up
        assert sum(told.values()) == pytest.approx(scored.total(), rel=0.5)


def test_estimate_grows_with_the_work_that_it_is_of():
    small, more = (
        estimate(tiny("scoring.scores=[metantk_cond, params]", f"training.iterations={number}"))
        for number in (10, 1000)
    )
    assert more.training_hours > 20 * small.training_hours
    assert (small.candidates, small.kernels) == (4, 12)
    assert small.least < small.hours < small.most
    assert small.memory > 50e6


def test_dry_run_says_what_a_run_will_take_and_starts_nothing(tmp_path: Path):
    arguments = ["run", "smoke", "--dry-run", "--workspace", str(tmp_path / "runs")]
    for setting in ("search.num_candidates=3", "scoring.image_size=8", "scoring.scores=[metantk_cond, params]"):
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["candidates"] == 3
    assert told["hours"] > 0
    assert "3 candidates" in CliRunner().invoke(app, arguments).stdout
    assert not (tmp_path / "runs").exists()


def test_an_episode_that_takes_long_is_measured_once_and_each_part_is_announced(monkeypatch: pytest.MonkeyPatch):
    config, told = tiny("scoring.scores=[metantk_cond, params]"), []
    usual = estimate(config, say=told.append)
    assert told[0] == "planning the search on made-up scores"
    assert told[-1] == "training of a candidate"
    monkeypatch.setattr(estimating, "_LONG", 0.0)
    monkeypatch.setattr(estimating.meta_training, "meta_train", None)  # which a step would take
    once = estimate(config)
    assert once.candidates == usual.candidates
    assert 0.05 * usual.training_hours < once.training_hours < 20 * usual.training_hours


def test_each_network_is_measured_once_by_its_own_settings_and_counts_as_often_as_it_is_trained():
    config, told = (
        tiny(
            "data.image_size=16",
            "scoring.scores=[metantk_cond, params]",
            "yardsticks=[conv4-32, conv4-64]",
            "yardstick_training={conv4-32: {iterations: 5000}}",
            "training_seeds=2",
        ),
        [],
    )
    found = estimate(config, say=told.append)
    assert [part for part in told if part.startswith("training")] == [
        "training of a candidate",
        "training of conv4-32",
        "training of conv4-64",
    ]
    networks = found.networks
    assert tuple(networks) == config.networks
    assert networks["best"] == networks["worst"] == networks["random"]
    assert networks["conv4-32"].training_hours > 50 * networks["conv4-64"].training_hours
    assert networks["conv4-32"].evaluation_hours < 50 * networks["conv4-64"].evaluation_hours
    assert found.training_hours == pytest.approx(2 * sum(one.training_hours for one in networks.values()))
    assert found.evaluation_hours == pytest.approx(2 * sum(one.evaluation_hours for one in networks.values()))
    longest = networks["conv4-32"].training_hours + networks["conv4-32"].evaluation_hours
    assert found.hours == pytest.approx(found.search_hours / config.search.shards + longest)
    assert found.as_values()["networks"]["best"] == {
        "training_hours": networks["best"].training_hours,
        "evaluation_hours": networks["best"].evaluation_hours,
    }


def rfs(*changes: str) -> RunConfig:
    """Return a tiny search whose networks are trained by telling classes apart."""
    return tiny(
        "training.algorithm=rfs",
        "training.norm=batch_running",
        "training.epochs=4",
        "training.decay_epochs=[2]",
        "training.validate_every=2",
        "training.validation_episodes=2",
        "training.augmentation.padding=2",
        "evaluation={episode: {ways: 3, shots: 1, queries: 5}, episodes: 40, further_shots: [3]}",
        *changes,
    )


@pytest.mark.parametrize(("each", "looked_up"), [(20, True), (200, False)])
@pytest.mark.parametrize("changes", [(), ("evaluation.augmented_copies=0", "evaluation.further_shots=[]")])
def test_of_large_networks_as_many_images_are_counted_as_pass_through_them(each, looked_up, changes, monkeypatch):
    config = rfs(*changes)
    genotype = parse_genotype("nasbench201", "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|none~2|")
    monkeypatch.setattr(estimating, "_LONG", 0.0)
    monkeypatch.setattr(estimating, "_image_seconds", lambda *_: (1.0, 8))  # a second an image
    told = _pace(config, genotype, 15 * each, "cpu")
    assert told.looked_up is looked_up
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (15 * each, 1, 8, 8), dtype=np.uint8)
    labels = np.repeat(np.arange(15), each).astype(np.int64)
    images = datasets.LabelledImages(pixels, labels, tuple(map(str, range(15))), "test", "noise")
    source = EpisodeSource(images, config.evaluation.episode, (0.5,), (0.3,))
    model = untrained_model(genotype, source, config.training, 0)
    passed, usual = [], FewShotNetwork.features

    def counted(network: FewShotNetwork, x: Any) -> Any:
        passed.append(len(x))
        return usual(network, x)

    monkeypatch.setattr(FewShotNetwork, "features", counted)
    evaluate(model, source, config.evaluation, 0)
    assert told.evaluation == sum(passed)
    passed.clear()
    plain = {"beside": (), "augmented_copies": 0, "further_shots": (), "episodes": 2}
    episode = config.training.validated_on
    validated = config.evaluation.model_copy(update={**plain, "episode": episode})
    evaluate(model, replace(source, config=episode), validated, 0)
    assert 2 * told.validation == sum(passed)


def test_epochs_have_as_many_steps_as_there_are_batches_of_the_images():
    config = rfs("training.batch_size=64")
    assert _steps(config, 6400) == (400, 3)
    assert _steps(config, 6463) == (400, 3)
    assert _steps(config, 10) == (4, 3)
    few, many = (
        estimate(config, images={"train": number, "val": 100, "test": 100}).training_hours for number in (640, 64_000)
    )
    assert many > 20 * few


def test_images_that_nobody_has_looked_at_are_said_to_be_assumed_where_their_number_matters():
    glyphs = RunConfig.from_values({"data": {"images_per_class": 3}}, "test")
    source = glyphs_of(16, 1, 0, 3)
    assert estimating._numbers_of_images(glyphs, None) == (
        {split: len(part.labels) for split, part in source.splits().items()},
        "",
    )
    for recipe, title, number in (
        ("mini-rfs-5", "miniImageNet", 38_400),
        ("tiered-rfs-8", "tieredImageNet", 448_695),
        ("cifarfs-rfs", "CIFAR-FS", 38_400),
        ("fc100-rfs", "FC100", 36_000),
        ("omniglot-maml-conv4", "Omniglot", 88_000),
    ):
        counts, origin = estimating._numbers_of_images(RECIPES[recipe], None)
        assert (counts["train"], origin) == (number, title)
    known: dict[datasets.Split, int] = {"train": 7, "val": 8, "test": 9}
    assert estimating._numbers_of_images(RECIPES["mini-rfs-5"], known) == (known, "")
    own = {"data.path=photos", "data.source=folder"}
    said = estimate(rfs(*own)).assumed
    assert said == ("assumed 38,400 training images, as miniImageNet has them: photos is not prepared here")
    assert estimate(rfs(*own), images=known).assumed == ""
    assert estimate(tiny("scoring.scores=[metantk_cond, params]", *own)).assumed == ""  # episodes are episodes


def test_a_dataset_that_is_prepared_in_the_workspace_is_counted_and_looked_at_only(tmp_path):
    config = tiny("data.images_per_class=2")
    place = Workspace(tmp_path)
    assert place.prepared_images(config) is None
    assert not list(tmp_path.iterdir())
    dataset = place.dataset(config)
    assert place.prepared_images(config) == {split: len(dataset.split(split)) for split in datasets.SPLITS}
