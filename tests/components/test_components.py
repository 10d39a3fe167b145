"""Every step is shipped as the source of one function: it must stand alone, compile and describe itself."""

import builtins
import dis
import importlib
import inspect
import pkgutil
from types import CodeType

import pytest
from kfp import compiler

import components

STEPS = [
    getattr(importlib.import_module(f"components.{module.name}"), module.name)
    for module in pkgutil.iter_modules(components.__path__)
    if module.name != "step"
]


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


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_parameter_is_described(step):
    described = inspect.getdoc(step.python_func) or ""
    for name in inspect.signature(step.python_func).parameters:
        assert f"    {name}: " in described, name


def test_module_level_of_a_step_imports_only_kfp_and_the_step_decorator():
    for module in pkgutil.iter_modules(components.__path__):
        source = inspect.getsource(importlib.import_module(f"components.{module.name}"))
        imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
        assert set(imports) <= {
            "from kfp import dsl",
            "from components.step import step",
            "from functools import partial",
            "from typing import Any",
        }, module.name


def test_globals_read_finds_a_module_level_name():
    # The guard itself can fail: a function that reads this module's STEPS is caught.
    assert globals_read((lambda: STEPS).__code__) == {"STEPS"}
