"""The local stack: its file is one, asks for what it needs, starts in order, and lets nobody in from elsewhere."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def stack(**variables: str) -> dict[str, Any]:
    """Return the local stack, read as Compose reads it, with these variables; one without a value ends it."""

    def value(found: re.Match[str]) -> str:
        name, otherwise, complaint = found["name"], found["otherwise"], found["complaint"]
        given = variables.get(name) or otherwise
        if given is None:
            raise KeyError(f"{name}: {complaint}")
        return given

    text = (DOCKER / "compose.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    variable = r"\$\{(?P<name>\w+)(:-(?P<otherwise>[^}]*)|:\?(?P<complaint>[^}]*))?\}"
    return yaml.safe_load(re.sub(variable, value, "\n".join(lines)))


EXAMPLE = dict(
    line.split("=") for line in (DOCKER / "compose.env.example").read_text().splitlines() if not line.startswith("#")
)
FILLED = {name: value or "filled-in" for name, value in EXAMPLE.items()}


@pytest.mark.parametrize("name", FILLED)
def test_the_stack_starts_only_with_all_that_the_example_of_variables_names(name: str):
    assert stack(**FILLED)["services"]
    with pytest.raises(KeyError, match=name):
        stack(**FILLED | {name: ""})


def test_no_secret_stands_in_the_stack_or_its_example():
    secrets = [name for name in EXAMPLE if "PASSWORD" in name or "SECRET" in name]
    assert len(secrets) == 2
    assert [EXAMPLE[name] for name in secrets] == ["", ""]
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_server_of_the_stack_has_a_check_that_the_next_one_waits_for():
    services = stack(**FILLED)["services"]
    servers = {name: service for name, service in services.items() if "profiles" not in service}
    assert set(servers) == {"database", "bucket", "mlflow"}
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in servers.values())
    for name, waiting in {"mlflow": {"database", "bucket"}, "metantk": {"mlflow"}}.items():
        assert services[name]["depends_on"] == {other: {"condition": "service_healthy"} for other in waiting}


def test_what_runs_our_image_in_the_stack_is_locked_and_reached_from_this_machine_alone():
    services = stack(**FILLED)["services"]
    for name in ("mlflow", "metantk"):
        service = services[name]
        assert service["image"] == FILLED["METANTK_IMAGE"]
        assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5000:5000"]


def test_compose_reads_the_stack(tmp_path: Path):
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed; the file is read above as Compose reads it")
    variables = tmp_path / "env"
    variables.write_text("\n".join(f"{name}={value}" for name, value in FILLED.items()))
    command = ["docker", "compose", "--env-file", variables, "-f", DOCKER / "compose.yaml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
