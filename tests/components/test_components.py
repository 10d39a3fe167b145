"""Every step is shipped as the source of one function: it must stand alone, compile and describe itself."""

import ast
import builtins
import dis
import importlib
import inspect
import linecache
from datetime import datetime
from glob import glob
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from kfp import compiler

import components
from components.documentation import components as documented
from components.documentation import metadata, readme
from components.step import IMAGE

FOLDERS = [Path(path).parent for path in glob(f"{components.__path__[0]}/*/component.py")]
STEPS = [getattr(importlib.import_module(f"components.{folder.name}"), folder.name) for folder in FOLDERS]


def globals_read(code: CodeType) -> set[str]:
    """Return the names that a code object, or one inside it, looks up in its module."""
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not hasattr(builtins, instruction.argval)
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= globals_read(constant)
    return names


def test_all_steps_of_the_design_are_here():
    assert {step.python_func.__name__ for step in STEPS} >= {
        "prepare_dataset",
        "start_search",
        "score_shard",
        "close_round",
        "search",
        "rank_candidates",
        "meta_train",
        "evaluate",
        "write_report",
        "register_model",
    }


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_body_carries_nothing_from_its_module(step):
    # Kubeflow ships the source of the function alone: a global is a NameError there.
    assert not globals_read(step.python_func.__code__)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_step_compiles_and_installs_nothing_at_run_time(step, tmp_path):
    path = tmp_path / "step.yaml"
    compiler.Compiler().compile(step, str(path))
    assert "pip install" not in path.read_text()


def test_kubeflow_shows_leaderboard_report_link_and_numbers():
    shown = {
        (step.python_func.__name__, name, kind.schema_title)
        for step in STEPS
        for name, kind in (
            (name, artifact.artifact_type)
            for name, artifact in step.component_spec.to_pipeline_spec().root.output_definitions.artifacts.items()
        )
        if kind.schema_title in ("system.Markdown", "system.HTML", "system.Metrics")
    }
    assert shown >= {
        ("prepare_dataset", "page", "system.Markdown"),
        ("rank_candidates", "table", "system.Markdown"),
        ("search", "table", "system.Markdown"),
        ("write_report", "report", "system.HTML"),
    }
    with_numbers = {name for name, _, kind in shown if kind == "system.Metrics"}
    assert with_numbers >= {"score_shard", "search", "rank_candidates", "meta_train", "evaluate"}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_parameter_is_described(step):
    described = inspect.getdoc(step.python_func) or ""
    for name in inspect.signature(step.python_func).parameters:
        assert f"    {name}: " in described, name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_component_stands_alone(folder):
    """Copied somewhere else, it compiles: at module level it imports Kubeflow alone, and names its image itself."""
    source = (folder / "component.py").read_text(encoding="utf-8")
    imported = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["from kfp import dsl"]
    made: dict[str, Any] = {}
    # As Kubeflow does with what it ships, from a file that is elsewhere.
    linecache.cache["elsewhere.py"] = (len(source), None, source.splitlines(keepends=True), "elsewhere.py")
    exec(compile(source, "elsewhere.py", "exec"), made)
    here = next(step for step in STEPS if step.python_func.__name__ == folder.name)
    there = made[folder.name]
    assert there.component_spec.implementation == here.component_spec.implementation
    assert there.component_spec.implementation.container.image == IMAGE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_components_folder_has_the_official_form(folder):
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *("__init__.py", "component.py", "metadata.yaml", "README.md")
    }
    about = metadata(folder.name)
    assert set(about) == {"name", "stability", "dependencies", "tags", "lastVerified"}
    assert about["name"] == folder.name
    assert about["stability"] in ("experimental", "alpha", "beta", "stable")
    assert {service["name"] for service in about["dependencies"]["kubeflow"]} == {"Pipelines"}
    assert all(tag.replace("_", "").isalpha() and tag.islower() for tag in about["tags"])
    assert isinstance(about["lastVerified"], datetime)


@pytest.mark.parametrize(
    ("name", "component"), documented().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_readme_is_that_of_the_docstring(name, component):
    written = (Path(components.__path__[0]) / name / "README.md").read_text(encoding="utf-8")
    assert written == readme(name, component), "python -m components.documentation"


def test_every_component_is_documented():
    assert set(documented()) == {folder.name for folder in FOLDERS}


def test_globals_read_finds_a_module_level_name():
    # The guard itself can fail: a function that reads this module's STEPS is caught.
    assert globals_read((lambda: STEPS).__code__) == {"STEPS"}
