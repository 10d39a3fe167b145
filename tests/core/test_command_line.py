"""The command line says what it does, gives programs JSON, and answers bad input with one sentence and exit code 2."""

import itertools
import json
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from forked_commands import metantk
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from metantk_core.candidates import PUBLISHED, parse_genotype
from metantk_core.command_line import app
from metantk_core.errors import InputError

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("metantk: ")
    for word in words:
        assert word in said, said


def write_images(folder: Path, classes: int, images: int, size: int = 16) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in range(classes):
            place = folder / split / f"{split}-{name}"
            place.mkdir(parents=True)
            for index in range(images):
                pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")


def test_all_commands_of_the_manual_are_here():
    assert {"score", "search", "train", "evaluate", "run", "compile", "ui", "rank"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, tmp_path):
    done = metantk(command, "--help", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0
    assert f"metantk {command}" in done.stdout.split("Examples:")[1]
    if command not in (
        "ui",
        "recipes",
        "sync",
        "store",
        "profiles",
        "runs",
        "schedule",
        "benchmark",
        "classify",
        "data",
        "export",
    ):
        assert "--seed" in done.stdout
        assert "--set" in done.stdout


@pytest.mark.parametrize(
    ("group", "command"),
    [
        *(("runs", command) for command in ("list", "show", "stop")),
        *(("schedule", command) for command in ("create", "list", "show", "pause", "resume", "run-now", "delete")),
    ],
)
def test_every_command_of_a_cluster_explains_itself_with_an_example(group, command):
    said = CliRunner().invoke(app, [group, command, "--help"], env={"COLUMNS": "200"}).stdout
    assert f"metantk {group} {command}" in said.split("Examples:")[1]
    for option in ("--host", "--namespace", "--token-file", "--ca", "--json"):
        assert option in said


@pytest.mark.parametrize("command", ["ls", "verify", "prune"])
def test_every_command_of_a_store_explains_itself_with_an_example(command):
    said = CliRunner().invoke(app, ["store", command, "--help"], env={"COLUMNS": "200"}).stdout
    assert f"metantk store {command}" in said.split("Examples:")[1]
    assert "--store" in said


@pytest.mark.parametrize("command", ["run", "accept", "list", "compile"])
def test_every_command_of_benchmarks_explains_itself_with_an_example(command):
    said = CliRunner().invoke(app, ["benchmark", command, "--help"], env={"COLUMNS": "200"}).stdout
    assert f"metantk benchmark {command}" in said.split("Examples:")[1]
    assert ("--set" in said) == (command in ("run", "compile"))


def test_examples_of_the_help_keep_their_brackets():
    said = " ".join(CliRunner().invoke(app, ["rank", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "--set 'scoring.scores=[ntk_cond, zico, params]'" in said


def test_a_recipe_can_be_printed_changed_and_read_back(tmp_path):
    shown = metantk("recipes", "--show", "smoke", "--set", "search.num_candidates=9", cwd=tmp_path)
    (tmp_path / "mine.json").write_text(shown.stdout)
    again = metantk("recipes", "--show", "mine.json", cwd=tmp_path)
    assert json.loads(again.stdout) == json.loads(shown.stdout)
    assert json.loads(shown.stdout)["search"]["num_candidates"] == 9


@pytest.mark.slow
def test_score_prints_the_same_numbers_to_people_and_to_programs(tmp_path):
    few = ("--set", "data.images_per_class=6")
    as_json = metantk("score", CELL, "smoke", *few, "--json", cwd=tmp_path)
    records = {record["score"]: record for record in json.loads(as_json.stdout)}
    table = metantk("score", CELL, "smoke", *few, cwd=tmp_path, COLUMNS="200").stdout
    assert f"{np.log10(records['metantk_cond']['draws'][0]['value']):.4g}" in table
    assert len(records["metantk_cond"]["draws"]) == 2


def test_config_typo_is_refused(tmp_path):
    assert_refused(metantk("search", "smoke", "--set", "search.num_candidate=2", cwd=tmp_path), "num_candidates")
    assert not list(tmp_path.iterdir())


def test_unknown_operation_is_refused_with_the_known_ones(tmp_path):
    done = metantk("score", CELL.replace("nor_conv_1x1", "conv_7x7"), "smoke", cwd=tmp_path)
    assert_refused(done, "conv_7x7", "nor_conv_1x1")


def test_score_wants_an_architecture_or_a_model(tmp_path):
    assert_refused(metantk("score", cwd=tmp_path), "Expected an architecture", "--model")
    both = metantk("score", CELL, "smoke", "--model", "package.module:factory", cwd=tmp_path)
    assert_refused(both, "not both")


def test_model_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef make(in_channels, ways):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 8, 5, 4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(ways))\n"
    )
    assert_refused(metantk("score", "--model", "mine:absent", "smoke", cwd=tmp_path), "absent", "mine")


def test_own_model_with_batch_normalisation_is_scored_with_what_the_option_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", classes=5, images=2)
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n\n\ndef make(in_channels, ways):\n"
        "    body = nn.Conv2d(in_channels, 4, 5, 4), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(3), nn.Flatten()\n"
        "    return nn.Sequential(*body, nn.Linear(36, ways))\n"
    )
    settings = ("data.source=folder", "data.path=images", "scoring.scores=[ntk_cond]", "rank_by=ntk_cond",
                "scoring.num_inits=1", "scoring.tasks=1", "scoring.episode.queries=1", "scoring.episode.shots=1",
                "scoring.image_size=16")  # fmt: skip
    small = ("smoke", *itertools.chain(*(("--set", setting) for setting in settings)))
    run = CliRunner().invoke(app, ["score", "--model", "normed:make", *small])
    assert isinstance(run.exception, InputError)
    assert "--batch-norm group" in str(run.exception)
    for treatment in ("group", "eval"):
        run = CliRunner().invoke(app, ["score", "--model", "normed:make", "--batch-norm", treatment, *small])
        assert run.exit_code == 0, run.output
        assert "Counted    2 of 6 parameters: 0.weight, 4.weight" in run.output
        assert "Left out   0.bias, 1.weight, 1.bias, 4.bias" in run.output


def test_batch_norm_is_an_option_of_own_models(tmp_path):
    run = CliRunner().invoke(app, ["score", CELL, "smoke", "--batch-norm", "group"])
    assert isinstance(run.exception, InputError)
    assert "--model" in str(run.exception)


def test_a_published_candidate_is_scored_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", classes=5, images=2)
    settings = ("data.source=folder", "data.path=images", "scoring.scores=[params]", "rank_by=params")
    small = ("glyphs-darts", *itertools.chain(*(("--set", setting) for setting in settings)), "--json")
    by_name = CliRunner().invoke(app, ["score", "paper-mini-5-a", *small])
    by_text = CliRunner().invoke(app, ["score", PUBLISHED["paper-mini-5-a"].genotype, *small])
    (named,), (written,) = json.loads(by_name.stdout), json.loads(by_text.stdout)
    assert named["genotype"] == written["genotype"] == str(parse_genotype("darts_fewshot", "paper-mini-5-a"))
    assert named["draws"] == written["draws"]


def test_help_of_score_names_the_published_candidates():
    said = CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).stdout
    for name in PUBLISHED:
        group, letter = name[:-1], name[-1]
        assert group in said
        assert letter in "abc"


def test_folder_with_too_few_images_is_refused_before_anything_is_scored(tmp_path):
    write_images(tmp_path / "images", classes=6, images=4)
    done = metantk("search", "smoke", "--set", "data.source=folder", "--set", "data.path=images", cwd=tmp_path)
    assert_refused(done, "4 images", "need")
    assert not list(tmp_path.glob("runs/scores/*"))


def test_unreadable_image_is_refused_by_name_and_leaves_no_half_dataset(tmp_path):
    write_images(tmp_path / "images", classes=5, images=2)
    broken = tmp_path / "images" / "val" / "val-3" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    done = metantk("search", "smoke", "--set", "data.source=folder", "--set", "data.path=images", cwd=tmp_path)
    assert_refused(done, "1.png")
    assert not list(tmp_path.glob("runs/datasets/*/dataset.json"))


@pytest.mark.slow
def test_tracking_server_that_nobody_runs_is_noticed_before_the_work(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://someone:hunter2@127.0.0.1:{port}"
    done = metantk("run", "smoke", "--tracking-uri", address, cwd=tmp_path)
    assert_refused(done, f"127.0.0.1:{port}")
    assert "hunter2" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("runs/datasets/*"))


def test_workspace_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for command in ("run", "search"):
        assert_refused(
            metantk(command, "smoke", "--workspace", "taken/below", cwd=tmp_path), "taken/below", "--workspace"
        )


def test_ui_without_runs_says_what_to_do(tmp_path):
    assert_refused(metantk("ui", cwd=tmp_path), "mlflow.db", "metantk run")


def test_unknown_role_is_refused(tmp_path):
    done = metantk("train", "smoke", "--role", "median", cwd=tmp_path, COLUMNS="200")
    assert_refused(done, "(best, worst, random)", "--role 'median'")
    assert not list(tmp_path.glob("runs/scores/*"))


@pytest.mark.slow
def test_score_without_any_value_ends_with_exit_code_1(tmp_path):
    cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    done = metantk("score", cell, "smoke", "--set", "data.images_per_class=6", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert {record["score"] for record in json.loads(done.stdout)} >= {"metantk_cond", "params"}
