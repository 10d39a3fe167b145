"""Help and complaints come at once: what takes seconds to import is imported by commands and steps that compute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from metantk_core.command_line import app

HEAVY = ("torch", "mlflow", "kfp", "scipy", "matplotlib", "pandas", "boto3")
COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]

# Runs the command line several times in one process, and says after each time which heavy modules have been imported.
_PROBE = """
import contextlib, io, json, sys
heavy, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
from metantk_core.__main__ import main
for arguments in calls:
    sys.argv = ["metantk", *arguments]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code or 0
    found = [name for name in heavy if name in sys.modules]
    print(json.dumps({"arguments": arguments, "code": code, "said": said.getvalue(), "imported": found}))
"""


def probe(calls: list[list[str]], folder: Path) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(HEAVY), json.dumps(calls)],
        cwd=folder,
        env={**os.environ, "METANTK_DEVICE": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help_of_no_command_imports_what_computes(tmp_path):
    calls = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    for call in probe(calls, tmp_path):
        assert (call["code"], call["imported"]) == (0, []), call


def test_what_cannot_be_used_is_refused_before_anything_is_imported_or_built(tmp_path):
    Path(tmp_path, "broken.yaml").write_text("search: {strategy: guess}\n", encoding="utf-8")
    calls = [
        ["no-such-command"],
        ["run", "--no-such-option"],
        ["run", "no-such-recipe"],
        ["run", "smoke", "--set", "search.num_candidate=3"],
        ["search", "broken.yaml"],
        ["search", "smoke", "--tracking-uri", "gopher://somewhere"],
        ["search", "smoke", "--device", "tpu"],
        ["train", "glyphs", "--set", "trained_roles=[best]", "--role", "worst"],
        ["evaluate", "glyphs", "--set", "training.iterations=0"],
        ["score", "|none~0|"],
        ["score", "paper-mini-9-a", "glyphs-darts"],
        ["score", "Genotype(normal=[])", "glyphs-darts"],
        ["compile", "glyphs", "--accelerators", "2"],
        ["compile", "glyphs", "--profile", "broken.yaml"],
        ["compile", "glyphs", "--profile", "gke-spto"],
        ["submit", "smoke"],
        ["submit", "no-such-recipe", "--host", "http://127.0.0.1:9"],
        ["submit", "smoke", "--host", "http://me:password@host"],
        ["schedule", "create", "smoke", "--cron", "0 5 * * *"],
        ["runs", "list", "--host", "http://127.0.0.1:9", "--token-file", "absent"],
    ]
    for call in probe(calls, tmp_path):
        assert call["code"] == 2, call
        assert call["imported"] == [], call
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.yaml"]


@pytest.mark.slow
def test_a_step_imports_neither_the_compiler_nor_what_draws(tmp_path):
    step = """
import sys
from pathlib import Path
from metantk_core import datasets, meta_training, steps, workflow
from metantk_core.search import SearchState
from metantk_core.recipes import RECIPES
config = RECIPES["smoke"].to_json()
place = dict(store="", tracking_uri="sqlite:///mlflow.db")
with steps.open_pipeline(config, images=Path("images"), **place):
    Path("run").write_text(config)
with steps.open_step("search", "run", **place) as (run_config, ports):
    workflow.start_search(run_config, ports), workflow.score_shard, meta_training.meta_train
print([name for name in ("kfp", "matplotlib", "scipy.stats", "boto3", "torch._dynamo") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", step], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr[-2000:]
