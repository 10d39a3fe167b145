"""One rule says where networks run, for all commands and steps, and results say where they did."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from metantk_core import wiring
from metantk_core.candidates import parse_genotype
from metantk_core.command_line import app
from metantk_core.datasets import ImageDataset
from metantk_core.datasets.images import LabelledImages
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from metantk_core.workflow.identity import training_key
from metantk_core.workflow.runs import Ports, step_run
from pipelines import local

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"


@pytest.fixture
def machine(monkeypatch):
    """A machine on which torch sees a number of GPUs."""
    monkeypatch.delenv(wiring.DEVICE, raising=False)

    def with_gpus(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return with_gpus


@pytest.mark.parametrize(
    ("gpus", "asked", "environment", "device"),
    [
        (0, "", None, "cpu"),
        (0, "auto", None, "cpu"),
        (2, "", None, "cuda"),
        (2, "auto", "cpu", "cuda"),
        (2, "", "cpu", "cpu"),
        (2, "", "", "cuda"),
        (2, "cpu", "cuda", "cpu"),
        (2, "cuda:1", None, "cuda:1"),
        (2, "", "cuda:01", "cuda:1"),
    ],
)
def test_device_is_what_is_asked_for_else_what_the_environment_says_else_what_there_is(
    machine, monkeypatch, gpus, asked, environment, device
):
    machine(gpus)
    if environment is not None:
        monkeypatch.setenv(wiring.DEVICE, environment)
    assert wiring.device(asked, probe=False) == device
    torch.device(device)  # as torch spells it


@pytest.mark.parametrize(
    ("gpus", "asked", "words"),
    [
        (0, "cuda", ("'cuda'", "no GPU", "--device auto")),
        (2, "cuda:2", ("'cuda:2'", "cuda:0, cuda:1")),
        (2, "gpu", ("auto, cpu, cuda or cuda:1", "'gpu'")),
        (0, "cuda:-1", ("'cuda:-1'",)),
        (0, "mps", ("MPS has no float64",)),
        (0, "mps:0", ("MPS has no float64",)),
        (0, "CPU\n", ("--device",)),
    ],
)
def test_device_that_can_not_be_used_is_refused_with_what_is_there(machine, gpus, asked, words):
    machine(gpus)
    with pytest.raises(InputError) as refused:
        wiring.device(asked)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes a GPU that does not work")
def test_device_that_fails_when_it_is_tried_is_refused_with_the_reason(machine):
    machine(1)
    with pytest.raises(InputError, match=r"cuda does not work .*--device cpu"):
        wiring.device("auto")


@pytest.mark.parametrize("command", ["score", "search", "train", "evaluate", "run"])
def test_every_command_that_computes_takes_a_device_and_refuses_a_wrong_one_before_any_work(command, tmp_path):
    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    options = {name for option in parameters for name in option.opts}  # type: ignore[attr-defined]
    assert "--device" in options
    arguments = [command, *([CELL] if command == "score" else []), "smoke", "--workspace", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, [*arguments, "--device", "mps"])
    assert isinstance(done.exception, InputError)
    assert "MPS" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_local_run_passes_its_device_on_to_its_steps(tmp_path, monkeypatch):
    monkeypatch.setenv(wiring.DEVICE, "cpu")
    seen = {}

    def start(command, *, env, **options):
        seen.update(env)
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", start)
    place = local.LocalRun(tmp_path, "store", "sqlite:///x.db", tmp_path, "cuda:1")
    with pytest.raises(FileNotFoundError):
        local.run_locally(RECIPES["smoke"], place, lambda: None)
    assert seen[wiring.DEVICE] == "cuda:1"


@pytest.mark.slow
def test_steps_on_different_kinds_of_device_are_different_runs_that_say_which(tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker, registry = wiring.tracker(uri), wiring.model_registry(uri)
    parent, store, kinds = tracker.open_run("run", "run"), wiring.artifact_store(str(tmp_path)), {}
    for device in ("cpu", "cuda:1", "cuda"):
        with step_run(Ports(store, tracker, registry, parent, device=device), "evaluate best", "", {}) as run:
            kinds[run] = MlflowClient(uri).get_run(run).data.tags["metantk.device"]
    assert sorted(kinds.values()) == ["cpu", "cuda"]


def test_training_on_another_kind_of_device_is_other_work():
    pixels, labels = np.zeros((2, 1, 2, 2), np.uint8), np.arange(2, dtype=np.int64)
    train, val, test = (
        LabelledImages(pixels, labels, (f"{split} a", f"{split} b"), split, "noise")
        for split in ("train", "val", "test")
    )
    dataset = ImageDataset(train, val, test, "noise", (0.5,), (0.5,), "0" * 16)
    genotype = parse_genotype("nasbench201", CELL)
    keys = {training_key(RECIPES["smoke"], genotype, dataset, kind) for kind in ("cpu", "cuda")}
    assert len(keys) == 2


def test_documentation_says_the_rule():
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert "--device" in text
    assert wiring.DEVICE in text


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "words"),
    [
        (0, "nvidia.com/gpu", None, ("nvidia.com/gpu", "CPU")),
        (1, "nvidia.com/gpu", None, ()),
        (0, "", None, ()),
        (0, "nvidia.com/gpu", "cpu", ()),  # by the person's own choice
    ],
)
def test_step_that_asked_for_a_gpu_and_got_none_says_so(machine, monkeypatch, gpus, asked, device, words):
    machine(gpus)
    monkeypatch.setenv(wiring.ACCELERATOR, asked)
    if device:
        monkeypatch.setenv(wiring.DEVICE, device)
    said = wiring.no_accelerator(wiring.device(probe=False))
    assert bool(said) == bool(words)
    assert all(word in said for word in words)


@pytest.mark.slow
def test_missing_gpu_stands_in_log_mlflow_and_report_until_a_retry_has_one(machine, monkeypatch, tmp_path, capsys):
    from mlflow.tracking import MlflowClient

    from metantk_core import steps
    from metantk_core.workflow import open_run
    from metantk_core.workflow.runs import remarks

    machine(0)
    monkeypatch.setenv(wiring.ACCELERATOR, "nvidia.com/gpu")
    config, uri, run = RECIPES["smoke"], f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "run.json"
    run.write_text(config.to_json())
    store, where = str(tmp_path / "store"), open_run(config, wiring.tracker(uri))
    with steps.open_step("score shard 1 of 2", run, store=store, tracking_uri=uri) as (_, ports):
        assert ports.device == "cpu"
    tags = MlflowClient(uri).get_run(where).data.tags
    assert "asked for nvidia.com/gpu" in tags["metantk.no_accelerator.score shard 1 of 2"]
    assert "asked for nvidia.com/gpu" in capsys.readouterr().err
    (remark,) = remarks(wiring.artifact_store(store), config.run_id)
    assert remark.startswith("score shard 1 of 2: This step asked")

    monkeypatch.setenv(wiring.DEVICE, "cpu")  # nothing is missing any more
    with steps.open_step("score shard 1 of 2", run, store=store, tracking_uri=uri):
        pass
    assert remarks(wiring.artifact_store(store), config.run_id) == ()
