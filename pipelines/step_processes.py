"""Steps of a local run as forks of one process: the runner's command lines enter, exit codes leave.

Each step needs torch, MLflow and learn2learn, which take seconds to import. Kubeflow's local runner starts a new Python
for every step; here they are imported once, by a server that each step is a fork of. A step still has a process and an
ending of its own. (A fork server of ``multiprocessing`` has an address in the temporary folder, which a path as long
as a run's doesn't fit into; this one is reached by a pair of sockets without names.)
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_SCRIPT = "ephemeral_component.py"  # what the runner's shell command calls the step's source


class StepServer:
    """A process that imports what steps need, from now on, and is forked for each step.

    It ends with this process; steps under way go on.
    """

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "pipelines.step_processes", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                # Arrow's allocator would run a thread, which forks lose.
                env={"JE_ARROW_MALLOC_CONF": "background_thread:false", **os.environ},
            )

    def serve_kubeflow(self) -> None:
        """Let Kubeflow's local runner start the steps of this process by forking the server."""
        from kfp.local import subprocess_task_handler

        # Of all that the runner does, this function alone starts processes (kfp is pinned; a test says if it moves).
        subprocess_task_handler.run_local_subprocess = self.run

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Run a step in a fork and return its exit code; what it prints goes where the server's output goes.

        Safe to be called by several threads at once.

        Args:
            full_command: ``sh -ec <script> <source of the step> <arguments>``, as Kubeflow compiles it.
            env_vars: More environment variables for the step.

        Returns:
            Minus the number of the signal that ended it, if one did.

        Raises:
            OSError: The server is gone.
        """
        script = next(number for number, part in enumerate(full_command) if _SCRIPT in part)
        wanted = {"source": full_command[script + 1], "arguments": full_command[script + 2 :], "more": env_vars or {}}
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                socket.send_fds(self._line, [b"\0"], [theirs.fileno()])
            mine.sendall(json.dumps(wanted).encode())
            mine.shutdown(socket.SHUT_WR)
            answer = _received(mine)
        if not answer:
            raise OSError("the process that a step was to be a fork of has ended")
        return int(answer)


def _received(line: socket.socket) -> bytes:
    with line.makefile("rb") as file:
        return file.read()


def _serve(line: socket.socket) -> None:
    """Fork for each step that is asked for, until nobody is left who could ask."""
    import pipelines.step_imports  # noqa: F401

    while True:
        _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as answers:
            if os.fork() == 0:
                line.close()
                _supervise(answers)
        while _ended_child():
            pass


def _ended_child() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _supervise(answers: socket.socket) -> NoReturn:
    """Run one step in a process of its own, tell how it ended, and end."""
    try:
        wanted = json.loads(_received(answers))
        step = os.fork()
        if step == 0:
            answers.close()
            _run(**wanted)
        code = os.waitstatus_to_exitcode(os.waitpid(step, 0)[1])
        answers.sendall(str(code).encode())
    finally:
        os._exit(0)


def _run(source: str, arguments: list[str], more: dict[str, str]) -> NoReturn:
    """Be the step: do what Kubeflow's command line would do in a new Python, and end."""

    def work() -> None:
        from kfp.dsl import executor_main

        os.environ |= {"_KFP_RUNTIME": "true", **more}
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, _SCRIPT)
            script.write_text(source, encoding="utf-8")
            sys.argv = ["executor_main", "--component_module_path", str(script), *arguments]
            executor_main.executor_main()

    end_after(work)


def end_after(work: Callable[[], object]) -> NoReturn:
    """Do some work and end this process, which is a fork, as Python would: with its exit code, or after a traceback."""
    code: object = 1
    try:
        work()
        code = 0
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
