"""Steps of this project work in pipelines of other people."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from kfp import local
from pipelines.examples.network_of_the_week import network_of_the_week
from pipelines.step_processes import StepServer
server = StepServer()  # which imports torch once for all steps
server.serve_kubeflow()
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
network_of_the_week(budget=30, tracking_uri=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.minutes
def test_the_network_of_the_week_is_found_by_somebody_elses_pipeline(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", RUN, str(tmp_path / "kfp"), f"sqlite:///{tmp_path}/mlflow.db"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    (board,) = (tmp_path / "kfp").glob("*/search/leaderboard")
    (note,) = (tmp_path / "kfp").glob("*/choose/note")
    (output,) = (tmp_path / "kfp").glob("*/choose/executor_output.json")
    found = json.loads(board.read_text())
    assert len(found["standings"]) == 3
    assert json.loads(output.read_text())["parameterValues"]["Output"] == found["winner"]
    assert note.read_text().startswith(f"Build `{found['winner']}`: first of 3")
    (page,) = (tmp_path / "kfp").glob("*/prepare-dataset/page")
    assert page.read_text().startswith("# week-")


def test_the_example_compiles_as_it_says(tmp_path):
    path = tmp_path / "week.yaml"
    command = [sys.executable, "-m", "pipelines.examples.network_of_the_week", str(path)]
    subprocess.run(command, check=True, capture_output=True, cwd=os.getcwd())
    assert "network-of-the-week" in path.read_text()
