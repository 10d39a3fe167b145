"""Every request that is sent to Kubeflow keeps to KFP's own description of its API, and so do the answers understood.

The description is the file swagger/kfp_api_single_file.swagger.json of kubeflow/pipelines, which is not ours to copy:
the variable KFP_API_DESCRIPTION says where it is. Stoplight's prism answers by it and refuses what it doesn't allow.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metantk_core.adapters.kubeflow.access import access
from metantk_core.adapters.kubeflow.client import KubeflowCluster, connect
from metantk_core.ports import ScheduleSettings

_DESCRIPTION = os.environ.get("KFP_API_DESCRIPTION", "")  # before tests lose the variables of KFP
_PRISM = shutil.which("prism")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _DESCRIPTION, reason="KFP_API_DESCRIPTION does not name KFP's description of its API"),
    pytest.mark.skipif(not _PRISM, reason="prism is not in PATH: npm install --global @stoplight/prism-cli"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prism")
    described = folder / "kfp.json"
    described.write_text(json.dumps(_as_it_is(json.loads(Path(_DESCRIPTION).read_text()))))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert _PRISM is not None
    command = [_PRISM, "mock", "--errors", "--host", "127.0.0.1", "--port", str(port), str(described)]
    with (folder / "prism.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/apis/v2beta1/healthz", folder / "prism.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture
def cluster(address: str) -> KubeflowCluster:
    return connect(access(address, "team-a", environment={"METANTK_KUBEFLOW_TOKEN": "a-token"}))


SETTINGS = ScheduleSettings("nightly", "0 0 3 * * 1", "pipeline", "version", "experiment", {"times": 1}, 2)
CALLS: dict[str, Callable[[KubeflowCluster, Path], Any]] = {
    "experiment": lambda cluster, _: cluster.experiment("metantk"),
    "register": lambda cluster, package: cluster.register("hello", "0.1.0-abc", package),
    "version_name": lambda cluster, _: cluster.version_name("pipeline", "version"),
    "start a package": lambda cluster, package: cluster.start("x", package, experiment_id="y", parameters={"times": 1}),
    "start a version": lambda cluster, _: cluster.start("x", SETTINGS, experiment_id="y", service_account="me"),
    "run": lambda cluster, _: cluster.run("x"),
    "runs": lambda cluster, _: cluster.runs(20),
    "stop": lambda cluster, _: cluster.stop("x"),
    "schedules": lambda cluster, _: cluster.schedules(),
    "schedules of a name": lambda cluster, _: cluster.schedules("nightly"),
    "create_schedule": lambda cluster, _: cluster.create_schedule(SETTINGS, enabled=False),
    "enable_schedule": lambda cluster, _: cluster.enable_schedule("x", enabled=True),
    "disable_schedule": lambda cluster, _: cluster.enable_schedule("x", enabled=False),
    "delete_schedule": lambda cluster, _: cluster.delete_schedule("x"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_request_and_its_answer_keep_to_the_description(
    cluster: KubeflowCluster, package: Path, call: Callable[[KubeflowCluster, Path], Any]
):
    call(cluster, package)


@pytest.mark.parametrize(
    "body",
    [
        {"display_name": 3},
        {"trigger": {"cron_schedule": {"cron": ["0 0 3 * * 1"]}}},
        {"mode": "ENABLED"},
        {"no_catchup": "true"},
        {"runtime_config": []},
    ],
)
def test_what_the_description_does_not_allow_is_refused(address: str, body: dict[str, Any]):
    """Or the other tests could not fail."""
    head = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/apis/v2beta1/recurringruns", json.dumps(body).encode(), head)
    with pytest.raises(urllib.error.HTTPError, match="422"):
        urllib.request.urlopen(request, timeout=10)


def _as_it_is(described: Any) -> Any:
    """Return the description where it differs from what KFP's server and client really exchange.

    Whole numbers of 64 bits are strings there, and KFP's own client sends numbers; what is in ``Any`` and in an error's
    details is described in a way by which nothing can be made up.
    """
    for name in ("protobufAny", "googleRpcStatus"):
        for member in ("value", "details"):
            described["definitions"].get(name, {}).get("properties", {}).pop(member, None)
    waiting = [described]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and part.get("format") == "int64" and part.get("type") == "string":
            del part["type"]
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return described


def _wait_for(address: str, log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(urllib.request.Request(address, headers={"Authorization": "Bearer x"}), timeout=5)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text())
