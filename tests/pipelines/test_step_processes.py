"""Steps of a local run are forks of one process, and each still has an ending of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
import sys
from pathlib import Path

from kfp import dsl, local

from pipelines.step_processes import StepServer


@dsl.component(base_image="python", install_kfp_package=False)
def noted(folder: str, number: int, code: int):
    import json, os, sys
    from pathlib import Path

    server = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]  # the parent's parent
    seen = {"server": server, "process": os.getpid(), "warm": "torch" in sys.modules and "mlflow" in sys.modules}
    Path(folder, f"{number}.json").write_text(json.dumps(seen))
    print("what the step says", flush=True)
    if code:
        raise SystemExit(code)


@dsl.pipeline
def steps(folder: str):
    for number in range(3):
        noted(folder=folder, number=number, code=0)


@dsl.pipeline
def refusal(folder: str):
    noted(folder=folder, number=3, code=2)


if __name__ == "__main__":
    server = StepServer()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
    server.serve_kubeflow()
    steps(folder=sys.argv[2])
    print("all steps are done", flush=True)
    refusal(folder=sys.argv[2])
"""

ENDINGS = """
import os, signal
from concurrent.futures import ThreadPoolExecutor

from pipelines.step_processes import StepServer


def command(number):
    source = f"def ending(): __import__('os')._exit({number})" if number < 200 else KILLED
    arguments = ["--executor_input", EMPTY, "--function_to_execute", "ending"]
    return ["sh", "-ec", "... ephemeral_component.py ...", source, *arguments]


KILLED = "def ending(): __import__('os').kill(__import__('os').getpid(), 9)"
EMPTY = '{"inputs": {}, "outputs": {"outputFile": "/dev/null"}}'
if __name__ == "__main__":
    server = StepServer()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(server.run, map(command, [*range(40), 200])))
    print(codes)
"""

SERVER = """
import os, sys
import torch
asked = []
torch.cuda.is_available = lambda: asked.append("is_available") or False
torch.cuda.device_count = lambda: asked.append("device_count") or 0
import pipelines.step_imports
print([len(os.listdir("/proc/self/task")), asked, torch.cuda.is_initialized(), "learn2learn" in sys.modules])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks serve steps on Linux alone")


def run(folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(code)
    python_path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_steps_are_forks_of_one_process_that_has_imported_everything(tmp_path):
    deep = tmp_path / ("x" * 120)  # longer than an address of a socket may be
    deep.mkdir()
    done = run(tmp_path, PIPELINE, str(tmp_path / "kfp"), str(tmp_path), TMPDIR=str(deep))
    seen = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(4)]
    assert len({step["server"] for step in seen}) == 1
    assert len({step["process"] for step in seen}) == 4
    assert all(step["warm"] for step in seen)
    assert done.stdout.count("what the step says") == 4
    assert not list(deep.glob("tmp*"))
    # The last one refused its input, and the pipeline failed with it.
    assert "all steps are done" in done.stdout
    assert "FAILURE" in done.stdout
    assert done.returncode == 1


@pytest.mark.minutes
def test_each_of_many_steps_at_once_gets_its_own_exit_code(tmp_path):
    done = run(tmp_path, ENDINGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str([*range(40), -9])


@pytest.mark.minutes
def test_the_server_has_one_thread_and_touches_no_gpu_so_that_its_forks_can(tmp_path):
    done = run(tmp_path, SERVER, JE_ARROW_MALLOC_CONF="background_thread:false")
    assert done.stdout.splitlines()[-1] == "[1, [], False, True]", done.stderr
