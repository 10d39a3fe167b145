"""`metantk doctor` says of each part whether it works, in bounded time whatever is dead, and no secret."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metantk_core import __version__, wiring
from metantk_core.command_line import app
from metantk_core.doctor import Asked, Finding, examine
from metantk_core.errors import InputError
from metantk_core.workspace import Workspace

SECRET = "hunter2-of-the-tests"


@contextmanager
def server(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """Serve answers by path; everything else is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path, (404, b""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def found(part: str, asked: Asked, seconds: float = 7.0) -> Finding:
    return next(finding for finding in examine(asked, seconds=seconds) if finding.part == part)


def command(*arguments: str) -> dict[str, dict[str, str]]:
    """Return what the command finds, by part."""
    done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    told = json.loads(done.stdout)
    assert done.exit_code == (0 if told["ok"] else 2)
    return {finding["part"]: finding for finding in told["findings"]}


def test_everything_of_a_fresh_folder_is_fine_and_stays_untouched(tmp_path: Path):
    findings = examine(Asked(Workspace(tmp_path / "runs")))
    assert [finding.part for finding in findings] == ["software", "disk", "store", "MLflow", "GPU"]
    assert not [finding for finding in findings if finding.status == "failed"]
    assert not list(tmp_path.iterdir())


def test_store_is_written_read_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "a").write_text("mine")
    assert "written, read and deleted" in found("store", Asked(Workspace(tmp_path))).said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


def test_server_that_never_answers_costs_no_more_than_the_time_that_there_is(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        findings = examine(Asked(Workspace(tmp_path, address), host=address), seconds=1.5)
        assert time.monotonic() - begun < 4
    late = {finding.part for finding in findings if "did not answer within" in finding.said}
    assert late == {"MLflow", "Kubeflow"}
    assert {finding.status for finding in findings if finding.part in late} == {"failed"}


def test_mlflow_of_another_version_is_a_warning_and_none_a_failure(tmp_path: Path):
    search = "/api/2.0/mlflow/experiments/search"
    for version, status in ((metadata.version("mlflow"), "ok"), ("2.9.0", "warning")):
        with server({search: (200, b"{}"), "/version": (200, version.encode())}) as address:
            assert found("MLflow", Asked(Workspace(tmp_path, address))).status == status
    with server({search: (401, b"")}) as address:
        assert "MLFLOW_TRACKING_USERNAME" in found("MLflow", Asked(Workspace(tmp_path, address))).advice
    assert found("MLflow", Asked(Workspace(tmp_path, address))).status == "failed"


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (f"registry.example.org:5000/metantk-python:{__version__}-0a1b2c", "ok"),
        (f"metantk-python:{__version__}@sha256:{'0' * 64}", "ok"),
        (f"metantk-python:{__version__}1", "failed"),
        (f"metantk-python:{__version__}.1", "failed"),
        ("registry.example.org/metantk-python:0.0.1", "failed"),
        ("metantk-python:latest", "warning"),
        ("registry.example.org:5000/metantk-python", "warning"),
    ],
)
def test_image_of_another_release_fails(tmp_path: Path, image: str, status: str):
    assert found("image", Asked(Workspace(tmp_path), images={image: ["search"]})).status == status


def test_images_of_all_steps_are_looked_at_and_the_wrong_ones_named(tmp_path: Path):
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        f"defaults: {{image: 'metantk:{__version__}'}}\n"
        "computes: {image: 'metantk-cuda:0.0.1'}\n"
        "steps: {evaluate: {image: 'metantk-other:0.0.2'}}\n"
    )
    image = command("--workspace", str(tmp_path), "--profile", str(profile))["image"]
    assert image["status"] == "failed"
    assert "metantk-cuda:0.0.1 (start_search, score_shard, search_shard and 3 more)" in image["said"]
    assert "metantk-other:0.0.2 (evaluate)" in image["said"]
    assert f"metantk:{__version__}" not in image["said"]


def test_password_in_the_name_of_an_image_is_refused_and_not_shown(tmp_path: Path):
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"defaults: {{image: 'joe:{SECRET}@registry.example.org/metantk:{__version__}'}}\n")
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(app, ["doctor", "--profile", str(profile)], catch_exceptions=False)
    assert SECRET not in str(refused.value)


def test_addresses_of_a_profile_are_looked_at_unless_others_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):  # set first: what the command sets is taken away then
        monkeypatch.setenv(name, "")
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": SECRET, "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        f"addresses: {{store: 's3://bucket/prefix', tracking_uri: '{dead}'}}\n"
        f"defaults: {{environment: {{AWS_ENDPOINT_URL: '{dead}'}}}}\n"
    )
    here = ("--workspace", str(tmp_path), "--profile", str(profile))
    dead_ones = command(*here)
    assert [dead_ones[part]["status"] for part in ("store", "MLflow")] == ["failed", "failed"]
    assert "s3://bucket/prefix" in dead_ones["store"]["said"]
    assert dead in dead_ones["MLflow"]["said"]
    typed = command(*here, "--store", str(tmp_path / "store"), "--tracking-uri", f"sqlite:///{tmp_path}/other.db")
    assert [typed[part]["status"] for part in ("store", "MLflow")] == ["ok", "ok"]


def test_what_only_pods_can_know_is_a_warning(tmp_path: Path):
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        f"addresses: {{store: {tmp_path}/mounted, tracking_uri: 'http://mlflow.metantk.invalid:5000'}}\n"
    )
    findings = command("--workspace", str(tmp_path), "--profile", str(profile))
    for part in ("store", "MLflow"):
        assert findings[part]["status"] == "warning"
        assert findings[part]["said"].endswith("as seen from this machine")
        assert findings[part]["advice"] == "pods may see it otherwise"


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/runs", "/proc/metantk/runs"])
def test_places_where_nothing_can_be_made_fail(tmp_path: Path, place: str):
    findings = {finding.part: finding for finding in examine(Asked(Workspace(Path(place))))}
    assert [findings[part].status for part in ("disk", "store", "MLflow")] == ["failed"] * 3
    assert found("store", Asked(Workspace(tmp_path, shared=place))).status == "failed"
    assert found("store", Asked(Workspace(tmp_path, shared=f"file://{place}"))).status == "failed"


def test_link_to_nowhere_is_no_place(tmp_path: Path):
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    assert found("store", Asked(Workspace(tmp_path / "runs"))).status == "failed"


@pytest.mark.parametrize("port", ["abc", "99999"])
def test_port_that_is_none_is_named(tmp_path: Path, port: str):
    database = found("MLflow", Asked(Workspace(tmp_path, f"postgresql://h:{port}/db")))
    assert database.status == "failed"
    assert "port of digits" in database.advice


def test_token_of_two_lines_is_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{SECRET}\n{SECRET}")
    finding = found("MLflow", Asked(Workspace(tmp_path, "http://127.0.0.1:9")))
    assert finding.said == "MLFLOW_TRACKING_TOKEN is no token of one line (not shown)"


def test_gpu_that_was_asked_for_and_is_not_there_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.path.exists", lambda path: False)
    monkeypatch.setenv(wiring.ACCELERATOR, "nvidia.com/gpu")
    assert found("GPU", Asked(Workspace(tmp_path))).status == "failed"


def test_command_ends_with_2_if_something_failed_and_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"defaults: {{image: 'metantk-python:{__version__}'}}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("METANTK_KUBEFLOW_TOKEN", SECRET)
    with server({}) as address:
        arguments = ["doctor", "smoke", "--set", f"data.path={tmp_path / 'none'}", "--set", "data.source=folder"]
        arguments += ["--workspace", str(tmp_path), "--host", f"{address}/pipeline", "--profile", str(profile)]
        arguments += ["--tracking-uri", f"http://bob:{SECRET}@127.0.0.1:{address.rpartition(':')[2]}"]
        plain, as_json = (CliRunner().invoke(app, [*arguments, *more]) for more in ((), ("--json",)))
    assert (plain.exit_code, as_json.exit_code) == (2, 2), plain.output
    findings = {finding["part"]: finding["status"] for finding in json.loads(as_json.stdout)["findings"]}
    assert (findings["image"], findings["data"], findings["Kubeflow"]) == ("ok", "failed", "failed")
    assert SECRET not in plain.output + as_json.output
    assert len(plain.stdout.splitlines()) == len(findings)
