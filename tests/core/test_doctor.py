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


def kubeflow(tmp_path: Path, answer: tuple[int, bytes]) -> Finding:
    with server({"/pipeline/apis/v2beta1/healthz": answer}) as address:
        return found("Kubeflow", Asked(Workspace(tmp_path), host=f"{address}/pipeline"))


def test_everything_of_a_fresh_folder_is_fine_and_stays_untouched(tmp_path: Path):
    findings = examine(Asked(Workspace(tmp_path / "runs")))
    assert [finding.part for finding in findings] == ["software", "disk", "store", "MLflow", "GPU"]
    assert not [finding for finding in findings if finding.status == "failed"]
    assert not (tmp_path / "runs").exists()


def test_store_is_written_read_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "a").write_text("mine")
    assert "written, read and deleted" in found("store", Asked(Workspace(tmp_path))).said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


def test_kubeflow_is_of_the_version_that_pipelines_are_compiled_for_or_another(tmp_path: Path):
    ours = metadata.version("kfp")
    same = kubeflow(tmp_path, (200, json.dumps({"tag_name": ours}).encode()))
    assert (same.status, ours in same.said) == ("ok", True)
    other = kubeflow(tmp_path, (200, b'{"tag_name": "2.4.0"}'))
    assert other.status == "warning"
    assert "2.4.0" in other.said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, b""), "give credentials"),
        ((302, b""), "give credentials"),
        ((404, b""), "path of the address"),
        ((500, b""), "server's own log"),
        ((200, b"<html>Log in</html>"), "page to log in"),
        ((200, b"[]"), "page to log in"),
    ],
)
def test_kubeflow_that_does_not_let_in_says_what_to_do(tmp_path: Path, answer: tuple[int, bytes], words: str):
    finding = kubeflow(tmp_path, answer)
    assert finding.status == "failed"
    assert words in finding.advice


def test_server_that_never_answers_costs_no_more_than_the_time_that_there_is(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        findings = examine(Asked(Workspace(tmp_path, address), host=address), seconds=1.5)
        assert time.monotonic() - begun < 4
    late = {finding.part for finding in findings if "did not answer within" in finding.said}
    assert late == {"MLflow", "Kubeflow"}


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
        ("registry.example.org/metantk-python:0.0.1", "failed"),
        ("metantk-python:latest", "warning"),
        ("metantk-python", "warning"),
    ],
)
def test_image_of_another_release_fails(tmp_path: Path, image: str, status: str):
    assert found("image", Asked(Workspace(tmp_path), image=image)).status == status


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
