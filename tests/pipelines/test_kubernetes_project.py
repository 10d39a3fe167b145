"""The MLflow project for a Kubernetes cluster gives a Job that Kubernetes takes and a command that ours is."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from typer.testing import CliRunner

from metantk_core.command_line import app

PROJECT = Path(__file__).parents[2] / "mlflow_projects/kubernetes"


def job(monkeypatch: pytest.MonkeyPatch, entry_point: str, **parameters: str) -> dict[str, Any]:
    """Return the Job that MLflow's own code makes of the example."""
    from mlflow import projects
    from mlflow.projects import _project_spec, kubernetes, utils

    monkeypatch.chdir(PROJECT.parents[1])  # where its commands are typed
    configuration = projects._parse_kubernetes_config(json.loads((PROJECT / "backend.json").read_text()))
    project = _project_spec.load_project(str(PROJECT))
    command = utils.get_entry_point_command(project, entry_point, parameters, None)
    image = configuration["repository-uri"], f"sha256:{'0' * 64}"
    variables = {"MLFLOW_RUN_ID": "x"}
    return kubernetes._get_kubernetes_job_definition(
        project.name, *image, kubernetes._get_run_command(command), variables, configuration["kube-job-template"]
    )


@pytest.mark.parametrize("entry_point", ["main", "search"])
def test_kubernetes_takes_the_job_and_our_command_line_its_command(monkeypatch: pytest.MonkeyPatch, entry_point: str):
    made = job(monkeypatch, entry_point, recipe="smoke", seed="3", store="s3://bucket/prefix")
    kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", "metantk_core"]
    assert not any("'" in word for word in container["command"])
    arguments = container["command"][3:]
    assert {"smoke", "3", "s3://bucket/prefix"} <= set(arguments)
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0  # unknown options are told first
    assert CliRunner().invoke(app, [*arguments, "--no-such-option", "--help"]).exit_code == 2
    assert {"name": "MLFLOW_RUN_ID", "value": "x"} in container["env"]


def test_the_jobs_pod_has_the_rights_of_nobody(monkeypatch: pytest.MonkeyPatch):
    pod = job(monkeypatch, "main", recipe="smoke")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_job_with_a_misspelt_key_would_be_refused(monkeypatch: pytest.MonkeyPatch):
    made = job(monkeypatch, "main", recipe="smoke")
    made["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
