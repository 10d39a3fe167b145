"""Networks of one's own choice: trained beside a search's candidates or alone, and what is said of them."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from test_report import evaluation, leaderboard, trained
from typer.testing import CliRunner

from metantk_core import workflow
from metantk_core.candidates import Costs, NamedNetwork, parse_genotype
from metantk_core.command_line import app
from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError
from metantk_core.meta_training import MamlTraining
from metantk_core.recipes import RECIPES
from metantk_core.report import ReportData, findings, page
from metantk_core.terminal import print_evaluations
from pipelines.search_and_meta_train import write

QUICK = (
    "training.iterations=1",
    "training.validation_episodes=2",
    "evaluation.episodes=3",
    "data.images_per_class=8",
)
OWN = """
from torch import nn

def small(in_channels, ways):
    body = nn.Conv2d(in_channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(16, ways))

def failing(in_channels, ways):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small(in_channels, ways)

        def forward(self, x):
            if len(x) > 4:
                raise ValueError("too many")
            return self.inner(x)

    return Failing()
"""


def command(root: Path, *arguments: str, recipe: str = "smoke"):
    changes = [part for change in QUICK for part in ("--set", change)]
    place = ["--workspace", str(root), "--tracking-uri", f"sqlite:///{root}/mlflow.db"]
    return CliRunner().invoke(app, ["train", recipe, *arguments, *changes, *place])


def test_yardsticks_are_networks_that_can_be_trained_beside_candidates_of_the_space():
    config = RunConfig.from_values({"yardsticks": ["conv4-64", "resnet12"]}, "test")
    assert config.trained == ("best", "worst", "random", "conv4-64", "resnet12")
    darts = {"space": "darts_fewshot"}
    assert RunConfig.from_values({"search": darts, "yardsticks": ["paper-mini-5-a"]}, "test").yardsticks


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["conv4-46"], "did you mean conv4-"),
        (["conv4-64", "conv4-64"], "each network once"),
        (["paper-mini-5-a"], "a candidate of darts_fewshot, but nasbench201 is searched"),
    ],
)
def test_yardsticks_that_cannot_be_trained_are_refused(names, words):
    with pytest.raises(InputError, match=words):
        RunConfig.from_values({"yardsticks": names}, "test")


def test_pipeline_trains_yardsticks_beside_the_roles_and_is_hardly_larger(tmp_path):
    values = json.loads(RunConfig.from_values({"search": {"shards": 2}}, "test").to_json())
    sizes = [
        write(RunConfig.from_values({**values, "yardsticks": names}, "test"), tmp_path / f"{len(names)}.yaml")
        for names in ([], ["conv4-32", "resnet12"])
    ]
    assert '["best","worst","random","conv4-32","resnet12"]' in (tmp_path / "2.yaml").read_text().replace(
        " ", ""
    ).replace("\\", "")
    assert len((tmp_path / "2.yaml").read_bytes()) - len((tmp_path / "0.yaml").read_bytes()) < 500
    assert sizes[0] is not None


def test_a_yardstick_is_what_it_is_whatever_the_leaderboard_says():
    config = RunConfig.from_values({"yardsticks": ["conv4-32"], "data": {"image_size": 16}}, "test")
    found = workflow.architecture_of(config, "conv4-32", leaderboard())
    assert found == NamedNetwork("conv4-32")
    # One channel, maps of one pixel, 5 ways.
    assert workflow.training_costs(config, "conv4-32", found).params == 32_901 - 2 * 9 * 32 - 24 * 32 * 5


def test_a_yardstick_is_trained_by_settings_of_its_own_and_all_others_by_the_runs():
    own = {"conv4-32": {"iterations": 7, "network": {"cells": 2}}}
    config = RunConfig.from_values(
        {"yardsticks": ["conv4-32"], "training": {"inner_steps": 3}, "yardstick_training": own}, "test"
    )
    theirs = config.for_network("conv4-32 seed 2").training
    assert isinstance(theirs, MamlTraining)
    assert (theirs.iterations, theirs.inner_steps, theirs.network.cells, theirs.network.channels) == (7, 3, 2, 16)
    assert config.for_network("best").training == config.training
    assert RunConfig.from_json(config.to_json()) == config


def test_settings_of_yardsticks_are_part_of_the_experiment_where_these_are_trained():
    plain = RunConfig.from_values({"yardsticks": ["conv4-32"]}, "test")
    own = {"yardsticks": ["conv4-32"], "yardstick_training": {"conv4-32": {"iterations": 7}}}
    assert RunConfig.from_values(own, "test").digest != plain.digest
    other = {"yardsticks": ["conv4-32"], "yardstick_training": {"conv4-64": {"iterations": 7}}}
    assert RunConfig.from_values(other, "test").digest == plain.digest


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"conv4-23": {}}, "in yardstick_training, got 'conv4-23'; did you mean conv4-"),
        (
            {"conv4-32": {"iteration": 7}},
            r"yardstick_training\.conv4-32: there is no setting 'iteration' \(did you mean",
        ),
        ({"conv4-32": {"iterations": 0}}, r"yardstick_training\.conv4-32: iterations: .* not 0"),
        ({"conv4-32": {"algorithm": "protonet"}}, r"yardstick_training\.conv4-32: algorithm"),
        ({"conv4-32": {"episode": {"ways": 3, "shots": 1, "queries": 5}}}, "training.episode.ways is 3"),
        ({"conv4-32": 7}, r"yardstick_training\.conv4-32: expected keys and values"),
    ],
)
def test_settings_of_a_yardstick_that_cannot_be_are_refused(own, words):
    with pytest.raises(InputError, match=words):
        RunConfig.from_values({"yardsticks": ["conv4-32"], "yardstick_training": own}, "test")


def test_another_learner_than_the_recipes_leaves_its_settings_for_yardsticks_behind():
    said = ["training.algorithm=protonet"]
    assert load_config("glyphs", RECIPES, said).yardstick_training == {}
    mine = load_config("glyphs", RECIPES, [*said, "yardstick_training={conv4-32: {halve_every: 5}}"])
    assert mine.for_network("conv4-32").training == mine.training.model_copy(update={"halve_every": 5})
    changed = load_config("glyphs", RECIPES, ["yardstick_training.conv4-32.iterations=5", "yardsticks=[conv4-64]"])
    assert changed.for_network("conv4-32").training.model_dump()["iterations"] == 5


def test_a_yardsticks_own_training_is_the_one_that_is_kept_and_named(tmp_path):
    own = ["--set", "yardsticks=[conv4-32]", "--set", "yardstick_training={conv4-32: {iterations: 2}}"]
    found = command(tmp_path, "--genotype", "conv4-32", *own, "--json")
    assert found.exit_code == 0, found.output
    assert [point["iteration"] for point in json.loads(found.stdout)["history"]] == [0, 2]


def test_a_choice_that_does_not_beat_a_yardstick_is_called_so():
    found = {"best": evaluation(0.6, 1), "conv4-32": evaluation(0.6, 1), "conv4-64": evaluation(0.4, 1)}
    costs = {"best": Costs(100_000, 10**7), "conv4-32": Costs(32_901, 3 * 10**6), "conv4-64": Costs(121_093, 10**7)}
    first, second = findings.yardstick_sentences(found, costs, ["conv4-32", "conv4-64"])
    assert first.startswith("The search's choice does not beat conv4-32: 0.0 ± 0.0 points on the same episodes")
    assert "(100 k against 32.9 k parameters, 10.0 M against 3.00 M MACs)" in first
    assert second.startswith("The search's choice beats conv4-64: +20")
    assert second.endswith("both trained by the same settings.")
    (own,) = findings.yardstick_sentences(found, costs, ["conv4-32"], own_settings=["conv4-32"])
    assert own.endswith(", conv4-32 trained by settings of its own.")


def test_report_shows_yardsticks_with_their_costs_and_what_the_choice_is_worth_beside_them():
    best = parse_genotype("nasbench201", leaderboard().winner)
    shown = (trained("best", best, 0.6), trained("conv4-32", NamedNetwork("conv4-32"), 0.6))
    html = page.render(
        ReportData("run", "today", 0, "0" * 16, "{}", (), "glyphs", leaderboard(), trained=shown),
    )
    assert "does not beat conv4-32" in html
    assert '<span class="badge conv4-32">conv4-32</span>' in html


def test_terminal_shows_accuracy_beside_costs(capsys):
    print_evaluations({"conv4-32": evaluation(0.5)}, {"conv4-32": Costs(32_901, 3_400_000)})
    said = capsys.readouterr().out
    assert "32.9 k" in said
    assert "3.4 M" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--genotype", "conv4-32", "--role", "worst"], "one of --role, --genotype and --model"),
        (["--space", "darts"], "Expected --genotype or --model with --space"),
        (["--model", "a:b", "--space", "darts"], "--space with --genotype"),
        (["--genotype", "conv4-23"], "did you mean conv4-"),
        (["--genotype", "|none,skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"], "got a supernet"),
        (["--genotype", "paper-mini-5-a"], "a candidate of darts_fewshot"),
        (["--model", "no_such_module_here:net"], "importable module"),
        (["--genotype", "conv4-32", "--set", "data.image_size=8", "--set", "scoring.image_size=8"], "at least 16 x 16"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(arguments, words, tmp_path):
    found = command(tmp_path, *arguments)
    assert isinstance(found.exception, InputError)
    assert words in str(found.exception)


@pytest.mark.minutes
def test_networks_of_ones_own_choice_are_trained_evaluated_registered_and_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path(tmp_path, "own_choice.py").write_text(OWN)
    first = json.loads(command(tmp_path, "--genotype", "conv4-32", "--register", "mine", "--json").stdout)
    assert (first["network"], first["space"], first["genotype"]) == ("conv4-32", "named", "conv4-32")
    assert first["model"] == "models:/mine/1"
    assert first["evaluation"]["episodes"] == 3
    again = json.loads(command(tmp_path, "--genotype", "conv4-32", "--json").stdout)
    assert (again["evaluation"], again["history"]) == (first["evaluation"], first["history"])
    own = json.loads(command(tmp_path, "--model", "own_choice:small", "--register", "own", "--json").stdout)
    assert own["network"].startswith("own_choice.small-")
    assert own["genotype"] == "own_choice:small"
    Path(tmp_path, "own_choice.py").write_text(f"{OWN}\n# changed")
    changed = command(tmp_path, "--model", "own_choice:small", "--json")
    assert changed.exit_code == 0, changed.exception
    assert json.loads(changed.stdout)["network"] not in (own["network"], "own_choice.small")
    failed = command(tmp_path, "--model", "own_choice:failing")
    assert isinstance(failed.exception, InputError)
    assert "own_choice:failing fails while it is trained: ValueError: too many" in str(failed.exception)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name != "Default")
    names = {str(run.info.run_name): run.info.status for run in client.search_runs([experiment])}
    assert names[f"meta-train {own['network']}"] == names["evaluate conv4-32"] == "FINISHED"
    card = client.get_model_version("mine", "1").description
    assert card is not None
    assert "named by hand" in card
