"""`metantk doctor` asks Kubeflow as `metantk runs` does: who may list runs there is fine, all else is a sentence."""

import socket
import time
from pathlib import Path

import pytest
from kubeflow_server import COOKIE, OTHER_TEAM, TEAM, TOKEN, Answer, KubeflowServer, Request

from metantk_core.doctor import Asked, Finding, examine
from metantk_core.workspace import Workspace

SECRET = "hunter2-of-the-tests"


@pytest.fixture(autouse=True)
def _nobody_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "COOKIE", "TOKEN_FILE", "CA", "NAMESPACE"):
        monkeypatch.delenv(f"METANTK_KUBEFLOW_{name}", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def found(folder: Path, host: str, namespace: str = "", token_file: Path | None = None) -> Finding:
    begun = time.monotonic()
    findings = examine(Asked(Workspace(folder), host, namespace, token_file))
    assert time.monotonic() - begun < 9
    finding = next(finding for finding in findings if finding.part == "Kubeflow")
    assert TOKEN not in finding.said + finding.advice
    assert SECRET not in finding.said + finding.advice
    return finding


def test_kubeflow_that_lists_runs_is_fine(tmp_path: Path):
    with KubeflowServer() as server:
        finding = found(tmp_path, server.address)
        assert (finding.status, finding.said) == ("ok", f"{server.address} lists runs to you")
        assert "--namespace is not used" in found(tmp_path, server.address, TEAM).advice
        assert not [request for request in server.seen if request.changes]


def test_token_cookie_and_file_are_shown_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with KubeflowServer(shared=True, guarded=True) as server:
        by_file = found(tmp_path, server.address, TEAM, tmp_path / "token")
        assert (by_file.status, by_file.said) == ("ok", f"{server.address} lists runs to you in the namespace {TEAM}")
        monkeypatch.setenv("METANTK_KUBEFLOW_COOKIE", COOKIE)
        assert found(tmp_path, server.address, TEAM).status == "ok"


def test_wrong_token_and_foreign_namespace_fail_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with KubeflowServer(shared=True, guarded=True) as server:
        assert "--namespace" in found(tmp_path, server.address).advice
        monkeypatch.setenv("METANTK_KUBEFLOW_TOKEN", SECRET)
        wrong = found(tmp_path, server.address, TEAM)
        monkeypatch.setenv("METANTK_KUBEFLOW_TOKEN", TOKEN)
        foreign = found(tmp_path, server.address, OTHER_TEAM)
    assert wrong.status == foreign.status == "failed"
    assert "does not accept the token of METANTK_KUBEFLOW_TOKEN (401)" in wrong.said
    assert "METANTK_KUBEFLOW_TOKEN_FILE" in wrong.advice
    assert f"list runs in the namespace {OTHER_TEAM} (403)" in foreign.said
    assert "kubeflow-edit" in foreign.advice


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(302, head={"Location": "/dex"}), "a session's cookie"),
        (Answer(200, content=b"<html>Log in</html>"), "often ends in /pipeline"),
        (Answer(404, content=b"404 page not found"), "often ends in /pipeline"),
        (Answer(503, "no"), "log of ml-pipeline"),
    ],
)
def test_what_is_no_kubeflow_or_a_sick_one_says_what_to_do(tmp_path: Path, answer: Answer, words: str):
    def interfere(request: Request) -> None:
        raise answer

    with KubeflowServer() as server:
        server.interfere = interfere
        finding = found(tmp_path, server.address)
    assert finding.status == "failed"
    assert words in finding.advice


def test_dead_and_silent_servers_fail_in_time(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "did not answer within 2.8 seconds" in found(tmp_path, address).said
    assert f"No Kubeflow answers at {address}" in found(tmp_path, address).said


def test_kubeflow_that_is_well_and_lists_nothing_fails_in_time(tmp_path: Path):
    def interfere(request: Request) -> None:
        if request.path.endswith("/runs"):
            raise Answer(200, seconds=12)

    with KubeflowServer() as server:
        server.interfere = interfere
        assert "did not answer within 2.8 seconds when asked to list runs" in found(tmp_path, server.address).said


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("http://", "", "Expected the address of Kubeflow Pipelines"),
        (f"https://joe:{SECRET}@kubeflow.example/pipeline", "", "Expected the address of Kubeflow Pipelines"),
        ("http://127.0.0.1:9", f"{SECRET}\n{SECRET}", "Expected a token of one line in METANTK_KUBEFLOW_TOKEN"),
    ],
)
def test_address_and_token_that_can_be_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, token: str, words: str
):
    monkeypatch.setenv("METANTK_KUBEFLOW_TOKEN", token)
    finding = found(tmp_path, host)
    assert finding.status == "failed"
    assert words in finding.said
    assert "MLFLOW" not in finding.said + finding.advice
