"""The address of a run's page can be shown without changing what the page says."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from metantk_core import wiring, workflow
from metantk_core.recipes import RECIPES
from metantk_core.workspace import Workspace


@pytest.mark.slow
def test_showing_the_address_of_a_finished_run_leaves_it_finished(mlflow_server: str, tmp_path: Path):
    config = RECIPES["smoke"]
    tracker = wiring.tracker(mlflow_server)
    run = workflow.open_run(config, tracker)
    tracker.close_run(run, "finished")
    link = Workspace(tmp_path, mlflow_server).link(config)
    assert link is not None
    assert run in link
    assert MlflowClient(mlflow_server).get_run(run).info.status == "FINISHED"
