"""The pipeline on this machine: a configuration enters, the steps run as subprocesses, files and tracked runs leave.

Kubeflow's local runner changes global state (``print``, logging, its own configuration), so it has a process of its
own. Its output goes to a log file, and what the steps report arrives as small files in a folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metantk_core import stopping
from metantk_core.config import RunConfig
from pipelines.step_processes import StepServer


@dataclass(frozen=True)
class LocalRun:
    """Where a local run keeps its things.

    Attributes:
        folder: The run's own folder in the workspace.
        store: Address of the artifact store that steps share.
        tracking_uri: Address of MLflow.
        dataset_cache: Folder of prepared datasets.
        device: Where networks run, as torch spells it; empty for the environment's choice.
    """

    folder: Path
    store: str
    tracking_uri: str
    dataset_cache: Path
    device: str = ""

    @property
    def log(self) -> Path:
        """Everything that the runner and the steps printed."""
        return self.folder / "pipeline.log"

    @property
    def progress(self) -> Path:
        """One small file a step, see ``metantk_core.adapters.progress``."""
        return self.folder / "progress"


def run_locally(config: RunConfig, place: LocalRun, watch: Callable[[], None], *, interval: float = 0.25) -> int:
    """Run the pipeline in a process of its own, calling ``watch`` all the while, and return its exit code.

    The steps run two at a time (the runner's limit), so each gets half of this machine's cores.

    Args:
        config: The run.
        place: Where it keeps its things.
        watch: Called about every ``interval`` seconds; shows progress.
        interval: Seconds.

    Raises:
        KeyboardInterrupt: Passed on after all steps have been ended; what they finished is kept.
    """
    for stale in (place.progress, place.folder / "kfp"):
        shutil.rmtree(stale, ignore_errors=True)
        stale.mkdir(parents=True)
    configuration = place.folder / "config.json"
    configuration.write_text(config.to_json(), encoding="utf-8")
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        # Not as an argument, which everybody can read and the runner logs: it may hold a password.
        "MLFLOW_TRACKING_URI": place.tracking_uri,
        "METANTK_PROGRESS": str(place.progress),
        "METANTK_DATASET_CACHE": str(place.dataset_cache),
        **({"METANTK_DEVICE": place.device} if place.device else {}),
        stopping.PARENT: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [
        sys.executable,
        "-m",
        "pipelines.local",
        str(configuration),
        place.store,
        str(place.folder / "kfp"),
    ]
    with place.log.open("w", encoding="utf-8") as log:
        # A group of its own: an interrupt reaches this process first, which then ends the runner and its steps.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(interval)
        finally:
            with stopping.shielded():
                _end_group(process)
    watch()
    return process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: first politely, so that they mark their runs, then for good."""
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while time.monotonic() < until:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
    process.wait()


def _main(configuration: str, store: str, root: str) -> None:
    stopping.end_with(int(os.environ[stopping.PARENT]))
    # Elsewhere libraries of the system don't survive a fork; there each step is a new Python.
    server = StepServer() if sys.platform == "linux" else None
    from kfp import local

    from pipelines.profile import LOCAL
    from pipelines.search_and_meta_train import build

    config = RunConfig.from_json(Path(configuration).read_text(encoding="utf-8"))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
    if server:
        server.serve_kubeflow()
    build(config, LOCAL)(store=store)


if __name__ == "__main__":
    _main(*sys.argv[1:])
