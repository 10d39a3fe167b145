"""Steps of a local run as forks of one process: the runner's command lines enter, exit codes leave.

Each step needs torch, MLflow and learn2learn, which take seconds to import. Kubeflow's local runner starts a new Python
for every step; here they are imported once, by a server that each step is a fork of. A step still has a process and an
ending of its own.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_SCRIPT = "ephemeral_component.py"  # what the runner's shell command calls the step's source
# multiprocessing looks after all children of a process whenever it starts one, which two threads must not do at once.
_lock = threading.Lock()


def start_server() -> None:
    """Begin to import what steps import, in a process of its own; return at once."""
    # Arrow's allocator would run a thread, which forks lose.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    _CONTEXT.set_forkserver_preload(["pipelines.step_imports"])
    forkserver.ensure_running()


def fork_steps() -> None:
    """Let Kubeflow's local runner start the steps of this process by forking the server."""
    from kfp.local import subprocess_task_handler

    # Of all that the runner does, this function alone starts processes (kfp is pinned; a test says if it moves).
    subprocess_task_handler.run_local_subprocess = run_forked


def run_forked(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
    """Run a step in a fork of the server and return its exit code; what it prints goes where the server's output goes.

    Args:
        full_command: ``sh -ec <script> <source of the step> <arguments>``, as Kubeflow compiles it.
        env_vars: More environment variables for the step.
    """
    script = next(i for i, part in enumerate(full_command) if _SCRIPT in part)
    source, arguments = full_command[script + 1], list(full_command[script + 2 :])
    process = _CONTEXT.Process(target=_step, args=(source, arguments, dict(env_vars or {})))
    with _lock:
        process.start()
    connection.wait([process.sentinel])
    with _lock:
        process.join()
    return process.exitcode or 0


def _step(source: str, arguments: list[str], environment: dict[str, str]) -> None:
    from kfp.dsl import executor_main

    os.environ |= {"_KFP_RUNTIME": "true", **environment}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, _SCRIPT)
        script.write_text(source, encoding="utf-8")
        sys.argv = ["executor_main", "--component_module_path", str(script), *arguments]
        executor_main.executor_main()
