"""The command line in a process of its own, a fork of this one: what it says and how it ends, not how it imports.

A new Python would spend seconds on importing torch and MLflow, on choosing the letters of the embedded data set and on
learning how to make a database; here that is done once. How a new one starts and ends is tested in test_startup.py,
test_endings.py and where whole runs are.
"""

import io
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

from metantk_core.__main__ import main
from pipelines.step_processes import end_after


def begun(*arguments: str, cwd: Path, stdout: int, stderr: int, **environment: str) -> int:
    """Begin a command and return its process.

    Args:
        arguments: What follows the program's name.
        cwd: The folder that it runs in.
        stdout: Descriptor of the file that it writes to.
        stderr: That of what it says.
        environment: Variables beside those of this process.
    """
    _ready()
    process = os.fork()
    if process == 0:
        _be_the_command(arguments, cwd, stdout, stderr, environment)
    return process


def ended(process: int) -> int:
    """Return the exit code of a command after waiting for its end; minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def metantk(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = ended(begun(*arguments, cwd=cwd, stdout=out.fileno(), stderr=err.fileno(), **environment))
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@cache
def _ready() -> None:
    import torch._dynamo  # noqa: F401

    import metantk_core.adapters.mlflow_models
    import metantk_core.workspace  # noqa: F401
    from metantk_core import wiring
    from metantk_core.datasets import glyphs

    glyphs.letters()
    with tempfile.TemporaryDirectory() as folder:
        wiring.tracker(f"sqlite:///{folder}/mlflow.db")


def _be_the_command(
    arguments: tuple[str, ...], cwd: Path, stdout: int, stderr: int, environment: dict[str, str]
) -> NoReturn:
    def work() -> None:
        os.setsid()
        signal.alarm(300)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", line_buffering=True)
        os.chdir(cwd)
        os.environ.update(environment)
        sys.argv = ["metantk", *arguments]
        main()

    end_after(work)
