"""Kubeflow as KFP's own client speaks to it, over HTTP: nothing is made twice, refusals are sentences, secrets stay."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kfp_server_api
import pytest
import yaml
from kubeflow_server import COOKIE, OTHER_TEAM, TEAM, TOKEN, Answer, KubeflowServer
from typer.testing import CliRunner

from metantk_core.adapters.kubeflow import client as kubeflow
from metantk_core.adapters.kubeflow.access import access
from metantk_core.adapters.kubeflow.client import KubeflowCluster, connect
from metantk_core.adapters.kubeflow.package import read_package
from metantk_core.command_line import app
from metantk_core.errors import InputError
from metantk_core.ports import AwayError, Cluster
from metantk_core.recipes import RECIPES
from pipelines import search_and_meta_train

SECRET = "s3cr3t-of-the-tests"


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def values(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.out)


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with KubeflowServer() as running:
        yield running


@pytest.fixture
def cluster(server: KubeflowServer) -> KubeflowCluster:
    return connect(access(server.address))


def metantk(server: KubeflowServer | str, *arguments: str, **environment: str) -> Said:
    """Run a command in this process, for the server."""
    address = server if isinstance(server, str) else server.address
    done = CliRunner().invoke(app, arguments, env={"METANTK_KUBEFLOW": address, "COLUMNS": "200", **environment})
    if done.exception is not None and not isinstance(done.exception, InputError | SystemExit):
        raise done.exception
    said = f"{done.stderr}metantk: {done.exception}" if isinstance(done.exception, InputError) else done.stderr
    return Said(2 if isinstance(done.exception, InputError) else done.exit_code, done.stdout, said)


def test_it_is_a_cluster(cluster: KubeflowCluster):
    assert isinstance(cluster, Cluster)


def test_a_pipeline_registered_twice_is_one_version_and_another_content_is_another(
    server: KubeflowServer, package: Path, tmp_path: Path
):
    first = metantk(server, "register", str(package), "--json").values
    again = metantk(server, "register", str(package), "--json").values
    assert (first["new"], again["new"]) == (True, False)
    assert {**first, "new": False} == again
    assert len(server.pipelines) == len(server.versions) == 1
    assert server.packages[first["version_id"]] == package.read_bytes()
    assert first["name"] == f"0.1.0-{read_package(package).digest}"

    other = tmp_path / "other.yaml"
    other.write_text(package.read_text().replace("Hello", "Welcome"))
    assert metantk(server, "register", str(other), "--json").values["pipeline_id"] == first["pipeline_id"]
    assert len(server.versions) == 2


def test_what_somebody_else_makes_in_the_same_moment_is_taken(
    server: KubeflowServer, cluster: KubeflowCluster, package: Path
):
    def first(request: Any) -> None:
        if request.changes:  # the other one's request comes through before ours
            server.interfere = lambda request: None
            server.answer(request)

    for made, what in (
        (lambda: cluster.experiment("nightly"), server.experiments),
        (lambda: cluster.register("hello", "1", package).pipeline_id, server.pipelines),
        (lambda: cluster.register("hello", "2", package).version_id, server.versions),
    ):
        server.interfere = first
        identifier = made()
        assert identifier in what
        assert made() == identifier
    assert (len(server.experiments), len(server.pipelines), len(server.versions)) == (1, 1, 2)


def test_lists_are_read_to_their_last_page(server: KubeflowServer, cluster: KubeflowCluster, package: Path):
    experiment = cluster.experiment("metantk")
    for number in range(8):
        cluster.start(f"run {number}", package, experiment_id=experiment)
        cluster.register("hello", f"version {number}", package)
    assert [run.name for run in cluster.runs(100)] == [f"run {number}" for number in reversed(range(8))]
    assert [run.name for run in cluster.runs(4)] == ["run 7", "run 6", "run 5", "run 4"]
    assert len(cluster.runs(100, "metantk")) == 8
    assert cluster.register("hello", "version 0", package).new is False
    with pytest.raises(InputError, match="name of an experiment"):
        cluster.runs(3, "no such")


def test_a_run_gets_the_package_its_parameters_of_their_types_and_an_account(server: KubeflowServer, package: Path):
    done = metantk(
        server, "submit", str(package), "-p", "times=3", "-p", "name=x=y", "--service-account", "me",
        "--experiment", "mine", "--name", "first", "--json",
    )  # fmt: skip
    run = server.runs[done.values["run"]]
    assert run.runtime_config["parameters"] == {"times": 3, "name": "x=y"}
    assert (run.service_account, run.display_name) == ("me", "first")
    assert server.experiments[run.experiment_id].display_name == "mine"
    assert run.pipeline_spec["pipelineInfo"]["name"] == "hello"
    assert done.values["link"] == f"{server.address}/#/runs/details/{run.run_id}"


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("colour=red", "a parameter of the pipeline (name, times)"),
        ("times", "NAME=VALUE"),
        ("times=three", "NUMBER_INTEGER"),
        ("times=true", "NUMBER_INTEGER"),
        ("times=1.5", "NUMBER_INTEGER"),
        (f"name=https://me:{SECRET}@host/x", "everybody who sees the run could read"),
        (f"name=ghp_{SECRET.replace('-', '')}0123456789", "looks like a secret"),
    ],
)
def test_parameters_that_the_pipeline_does_not_take_are_refused_and_nothing_is_started(
    server: KubeflowServer, package: Path, parameter: str, words: str
):
    done = metantk(server, "submit", str(package), "-p", parameter)
    assert done.code == 2
    assert words in done.err
    assert SECRET not in done.err
    assert not server.runs


def test_a_parameter_without_a_default_has_to_be_given(server: KubeflowServer, package: Path):
    done = metantk(server, "submit", str(package))
    assert done.code == 2
    assert "--param times=VALUE" in done.err


def test_a_recipe_is_compiled_with_its_settings_and_without_cache_where_that_is_asked_for(server: KubeflowServer):
    run = server.runs[
        metantk(server, "submit", "smoke", "--set", "seed=7", "--store", "/mnt/x", "--no-caching", "--json").values[
            "run"
        ]
    ]
    parameters = run.pipeline_spec["root"]["inputDefinitions"]["parameters"]
    assert json.loads(parameters["config"]["defaultValue"])["seed"] == 7
    assert parameters["store"]["defaultValue"] == "/mnt/x"
    assert "enableCache" not in json.dumps(run.pipeline_spec)


def test_a_recipe_is_compiled_for_a_profile(server: KubeflowServer):
    arguments = ("submit", "smoke", "--profile", "gke-spot", "--image", "registry.example/mine-python:1")
    run = server.runs[metantk(server, *arguments, "--json").values["run"]]
    assert "gke-accelerator" in json.dumps(run.pipeline_spec["platform_spec"])
    images = {
        one["container"]["image"] for one in run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values()
    }
    assert images == {"registry.example/mine-python:1"}
    unknown = metantk(server, "submit", "smoke", "--profile", "no-such")
    assert unknown.code == 2
    assert "gke-spot" in unknown.err


@pytest.mark.parametrize(
    "option",
    [("--set", "seed=1"), ("--seed", "1"), ("--profile", "bare"), ("--image", "a/b:c"), ("--store", "/mnt")],
)
def test_what_is_settled_when_a_pipeline_is_compiled_is_refused_for_a_compiled_one(
    server: KubeflowServer, package: Path, option: tuple[str, str]
):
    done = metantk(server, "submit", str(package), *option)
    assert done.code == 2
    assert option[0] in done.err
    assert not server.seen


@pytest.mark.parametrize(
    "content",
    [
        "# PIPELINE DEFINITION\n",
        "pipelineInfo: 3\n",
        "pipelineInfo: {name: x}\nnonsense: 1\n",
        "\npipelineInfo: [",
        "a: &a [*a]\npipelineInfo: 1",
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(server: KubeflowServer, tmp_path: Path, content: str):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    done = metantk(server, "register", str(path))
    assert done.code == 2
    assert "KFP 2 has compiled" in done.err
    assert not server.versions


def test_a_run_is_waited_for_with_its_steps_and_its_end_is_the_exit_code(
    server: KubeflowServer, package: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("metantk_core.submission._FIRST_PAUSE", 0.02)
    for state, code in (("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)):
        looks = iter([
            lambda run: server.finish(run, "RUNNING", greet="RUNNING PENDING"),
            lambda run: (_ for _ in ()).throw(Answer(503, "upstream is away")),
            lambda run: server.finish(run, "RUNNING", greet="SUCCEEDED RUNNING"),
            lambda run, state=state: server.finish(run, state, greet=f"SUCCEEDED {state}"),
        ])  # fmt: skip

        def look(request: Any, looks: Any = looks) -> None:
            if request.method == "GET" and "/runs/" in request.path:
                next(looks)(request.path.rpartition("/")[2])

        server.interfere = look
        done = metantk(server, "submit", str(package), "-p", "times=1", "--wait")
        assert done.code == code
        assert "greet                    1 waiting, 1 running of 2" in done.err
        assert "1 running, 1 succeeded of 2" in done.err
        assert done.err.count("503") == 1
        assert "Waiting for it." in done.err
        assert ("its pod was killed" in done.out) == (state == "FAILED")
        assert "greet-driver" not in done.out


def test_parameters_that_a_step_of_ours_would_refuse_start_no_run(server: KubeflowServer, tmp_path: Path):
    path = tmp_path / "pipeline.yaml"
    search_and_meta_train.write(RECIPES["smoke"], path)
    for parameter, said in (
        ("shards=-3", "from 0 to 256, got -3"),
        ("most_shards=0", "from 1 to 256, got 0"),
        ("store=relative", "an absolute folder"),
        ("tracking_uri=sqlite:///mine.db", "http://"),
        ('config={"unknown": 1}', "unknown"),
    ):
        for command in (("submit", str(path)), ("schedule", "create", str(path), "--cron", "@daily")):
            done = metantk(server, *command, "-p", parameter)
            assert done.code == 2, parameter
            assert said in done.err
    assert not server.runs
    assert not server.schedules


def test_runs_are_readable_on_eighty_columns(server: KubeflowServer, package: Path):
    name = "a name that is as long as people make them, with the date 2026-11-27"
    run = metantk(server, "submit", str(package), "-p", "times=1", "--name", name, "--json").values["run"]
    lines = metantk(server, "runs", "list", COLUMNS="80").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "waiting" in lines[1]
    assert any(run in line for line in lines)
    assert "".join(name.split()) in "".join("".join(lines[1:]).split())


def test_ctrl_c_leaves_the_run_running_and_says_how_to_look_at_it(server: KubeflowServer, package: Path):
    looked = threading.Event()
    server.interfere = lambda request: looked.set() if "/runs/" in request.path else None
    command = [sys.executable, "-m", "metantk_core", "submit", str(package), "-p", "times=1", "--wait"]
    with subprocess.Popen(
        command, env={**os.environ, "METANTK_KUBEFLOW": server.address}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert looked.wait(60)
        time.sleep(0.2)
        process.send_signal(2)
        _, said = process.communicate(timeout=60)
    (run,) = server.runs
    assert process.returncode == 130
    assert f"metantk runs show {run}" in said
    assert "Traceback" not in said
    assert server.runs[run].state == "PENDING"


def test_runs_are_listed_shown_and_stopped(server: KubeflowServer, package: Path):
    run = metantk(server, "submit", str(package), "-p", "times=1", "--name", "mine", "--json").values["run"]
    server.finish(run, "FAILED", greet="FAILED")
    shown = metantk(server, "runs", "show", run)
    assert "failed" in shown.out
    assert "its pod was killed" in shown.out
    assert f"{server.address}/#/runs/details/{run}" in shown.out
    assert metantk(server, "runs", "stop", run).out == f"{run} had ended already.\n"
    listed = metantk(server, "runs", "list")
    assert run in listed.out
    assert "mine" in listed.out
    assert metantk(server, "runs", "show", run, "--wait").code == 1

    other = metantk(server, "submit", str(package), "-p", "times=1", "--json").values["run"]
    assert metantk(server, "runs", "stop", other, "--json").values["stopped"] is True
    assert server.runs[other].state == "CANCELING"
    for name in ("no-such-run", "", "../experiments", "a/b?c#d"):
        unknown = metantk(server, "runs", "show", name)
        assert unknown.code == 2
        assert "metantk runs list" in unknown.err
    assert "name of an experiment" in metantk(server, "submit", "smoke", "--experiment", " ").err


def test_a_state_that_only_a_newer_kubeflow_has_is_shown_as_it_is(server: KubeflowServer):
    runs = {"runs": [{"run_id": "a", "state": "HIBERNATING"}, {"run_id": "b", "state": "RUNTIME_STATE_UNSPECIFIED"}]}

    def tell(request: Any) -> None:
        if request.path.endswith("/runs"):
            raise Answer(200, content=json.dumps(runs).encode())

    server.interfere = tell
    lines = metantk(server, "runs", "list").out.splitlines()
    assert [line.split() for line in lines[1:]] == [["-", "-", "hibernating"], ["a"], ["-", "-", "waiting"], ["b"]]


def test_names_and_reasons_of_other_people_move_no_cursor_and_mark_nothing_up(server: KubeflowServer, package: Path):
    run = metantk(server, "submit", str(package), "-p", "times=1", "--name", "\x1b[2J[red]x[/red]", "--json").values[
        "run"
    ]
    server.finish(run, "RUNNING", **{"\x1b]0;step": "RUNNING"})
    for command in (("runs", "list"), ("runs", "show", run)):
        said = metantk(server, *command).out
        assert "\x1b" not in said
        assert "\\x1b[2J[red]x[/red]" in said


def test_in_a_pod_the_token_of_its_service_account_is_used_where_nothing_else_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("metantk_core.adapters.kubeflow.access._POD_TOKEN", tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN)
    with KubeflowServer(guarded=True) as server:
        assert metantk(server, "runs", "list").code == 0
        assert (
            "the token of METANTK_KUBEFLOW_TOKEN" in metantk(server, "runs", "list", METANTK_KUBEFLOW_TOKEN="x" * 9).err
        )


def test_a_lost_answer_to_a_start_says_that_it_is_not_known_whether_it_was_started(
    server: KubeflowServer, package: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubeflow, "_SECONDS_TO_UPLOAD", 0.5)

    def lose(request: Any) -> None:
        if request.method == "POST" and request.path.endswith("/runs"):
            raise Answer(200, seconds=2.0)

    server.afterwards = lose
    done = metantk(server, "submit", str(package), "-p", "times=1")
    assert done.code == 2
    assert "did not answer within 0.5 seconds when asked to start a run" in done.err
    assert "Whether the run was started is not known; see 'metantk runs list'" in done.err


FAULTS: list[tuple[Answer, list[str]]] = [
    (Answer(400, "Invalid input error: no such field"), ["refuses to list runs (400): Invalid input error: no such"]),
    (Answer(401, "no identity"), ["(401)", "METANTK_KUBEFLOW_TOKEN"]),
    (Answer(403, "not authorized"), ["does not let this account list runs", "(403)", "kubeflow-edit"]),
    (Answer(404, "not found"), ["(404)"]),
    (Answer(409, "exists"), ["is there already (409): exists"]),
    (Answer(413, "large"), ["too large (413)"]),
    (Answer(429, "slow down"), ["(429)", "try again"]),
    (Answer(500, "InternalServerError: the database"), ["(500): InternalServerError: the database", "ml-pipeline"]),
    (Answer(502, content=b"<html>Bad Gateway</html>"), ["(502)", "ml-pipeline"]),
    (Answer(503, "upstream"), ["(503)", "try again"]),
    (Answer(302, head={"Location": "https://login.example/"}, content=b""), ["wants a sign-in", "TANTK_KUBEFLOW_COO"]),
    (Answer(200, content=b"<html>Sign in</html>", head={"Content-Type": "text/html"}), ["is no Kubeflow Pipelines"]),
    (Answer(200, content=b"\xff\xfe", head={"Content-Type": "text/html"}), ["is no Kubeflow Pipelines"]),
    (Answer(200, content=b'{"runs": 3}'), ["is no Kubeflow Pipelines"]),
    (Answer(200, content=b'[1]'), ["is no Kubeflow Pipelines"]),
    (Answer(500, content=b"\xff\xfe"), ["is no Kubeflow Pipelines"]),
    (Answer(200, seconds=2.0), ["did not answer within 0.4 seconds when asked to list runs"]),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda value: str(getattr(value, "status", "")))
def test_every_refusal_is_a_sentence_of_its_own(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, fault: Answer, words: list[str]
):
    monkeypatch.setattr(kubeflow, "SECONDS_TO_AN_ANSWER", 0.4)

    def refuse(request: Any) -> None:
        if not request.path.endswith("/healthz"):
            raise fault

    server.interfere = refuse
    done = metantk(server, "runs", "list")
    assert done.code == 2
    for word in words:
        assert word in done.err
    assert done.err.count(". ") + done.err.count("; ") <= 3


@pytest.mark.parametrize(("fault", "words"), [
    (Answer(404, content=b"<html>nginx</html>"), "often ends in /pipeline"),
    (Answer(404, content=b"404 page not found"), "often ends in /pipeline"),
    (Answer(200, content=b"<html>Sign in</html>", head={"Content-Type": "text/html"}), "a page to sign in"),
    (Answer(200, content=b'{"healthy": true}'), "is no Kubeflow Pipelines"),
    (Answer(302, head={"Location": "/dex/auth"}, content=b""), "wants a sign-in first"),
])  # fmt: skip
def test_what_answers_but_is_no_kubeflow_is_told_by_the_first_answer(server: KubeflowServer, fault: Answer, words: str):
    def refuse(request: Any) -> None:
        raise fault

    server.interfere = refuse
    done = metantk(server, "schedule", "list")
    assert done.code == 2
    assert words in done.err
    assert len(server.seen) == 1


def _silent() -> Iterator[str]:
    """An address where connections are accepted, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def _closed() -> Iterator[str]:
    """An address where nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


def _nowhere() -> Iterator[str]:
    """An address to which no packet finds a way, or from which none comes back."""
    yield "http://192.0.2.1:8080"


def _unknown() -> Iterator[str]:
    yield "http://no-such-host.invalid"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (_silent, "did not answer within 3.5 seconds when asked to say how it is"),
        (_closed, "No Kubeflow answers at http://127.0.0.1"),
        (_nowhere, r"No Kubeflow answers at http://192\.0\.2\.1:8080"),
        # Where no server of names answers either, that is all that can be said.
        (_unknown, "The host of http://no-such-host.invalid is not known here|did not answer within 3.5 seconds"),
    ],
)
def test_a_dead_host_is_a_sentence_in_less_than_five_seconds(host: Callable[[], Iterator[str]], words: str):
    for address in host():
        metantk("", "submit", "smoke")  # what is imported on the way is not what is measured
        started = time.monotonic()
        done = metantk(address, "submit", "smoke")
        assert time.monotonic() - started < 5
        assert done.code == 2
        assert re.search(words, done.err)


def test_an_account_that_is_not_known_is_told_what_it_showed(tmp_path: Path):
    with KubeflowServer(guarded=True) as server:
        assert "asks who you are (401)" in metantk(server, "runs", "list").err
        wrong = metantk(server, "runs", "list", METANTK_KUBEFLOW_TOKEN=SECRET)
        assert "does not accept the token of METANTK_KUBEFLOW_TOKEN (401)" in wrong.err
        cookie = metantk(server, "runs", "list", METANTK_KUBEFLOW_COOKIE=f"session={SECRET}")
        assert "does not accept the cookie of METANTK_KUBEFLOW_COOKIE (401)" in cookie.err
        (tmp_path / "token").write_text(SECRET)
        file = metantk(server, "runs", "list", "--token-file", str(tmp_path / "token"))
        assert f"does not accept the token of the file {tmp_path / 'token'} (401)" in file.err

        assert metantk(server, "runs", "list", METANTK_KUBEFLOW_TOKEN=TOKEN).code == 0
        assert metantk(server, "runs", "list", METANTK_KUBEFLOW_COOKIE=COOKIE).code == 0
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert metantk(server, "runs", "list", METANTK_KUBEFLOW_TOKEN_FILE=str(tmp_path / "token")).code == 0


def test_a_token_that_is_renewed_in_its_file_is_read_again(tmp_path: Path):
    with KubeflowServer(guarded=True) as server:
        (tmp_path / "token").write_text(TOKEN)
        known = connect(access(server.address, token_file=tmp_path / "token"))
        assert known.runs(1) == []
        (tmp_path / "token").write_text("expired")
        with pytest.raises(InputError, match="401"):
            known.runs(1)
        (tmp_path / "token").write_text(TOKEN)
        assert known.runs(1) == []


def test_a_kubeflow_that_teams_share_wants_a_namespace_and_keeps_to_it(package: Path):
    with KubeflowServer(shared=True) as server:
        missing = metantk(server, "runs", "list")
        assert missing.code == 2
        assert "shared by several teams" in missing.err
        assert "--namespace" in missing.err
        other = metantk(server, "runs", "list", "-n", OTHER_TEAM)
        assert f"does not let this account list runs in the namespace {OTHER_TEAM} (403)" in other.err
        assert "of a namespace that does not exist it says the same" in other.err

        assert metantk(server, "submit", str(package), "-p", "times=1", "-n", TEAM).code == 0
        create = ("schedule", "create", str(package), "-p", "times=1", "--cron", "0 0 3 * * 1", "-n", TEAM)
        assert [metantk(server, *create, "--json").values["became"] for _ in range(2)] == ["created", "unchanged"]
        kept = (*server.experiments.values(), *server.pipelines.values(), *server.schedules.values())
        assert {one.namespace for one in kept} == {TEAM}


def test_a_namespace_for_a_kubeflow_that_has_none_is_not_used_and_that_is_said(server: KubeflowServer):
    done = metantk(server, "runs", "list", "--namespace", TEAM)
    assert done.code == 0
    assert "--namespace is not used" in done.err
    assert server.seen[-1].query.get("namespace", "") == ""


def test_certificates_are_checked_against_the_authority_that_is_named(certificates: "Certificates", package: Path):
    with KubeflowServer(certificate=certificates.server) as server:
        wrong = metantk(server, "runs", "list")
        assert wrong.code == 2
        assert "can't be trusted; name the file with the certificate of its authority in --ca" in wrong.err
        assert "can't be trusted" in metantk(server, "runs", "list", "--ca", str(certificates.stranger)).err
        assert metantk(server, "runs", "list", "--ca", str(certificates.authority)).code == 0
        assert metantk(server, "runs", "list", METANTK_KUBEFLOW_CA=str(certificates.authority)).code == 0
        by_name = server.address.replace("127.0.0.1", "localhost")
        assert "is for another host name" in metantk(by_name, "runs", "list", "--ca", str(certificates.authority)).err
        plain = metantk(server.address.replace("https", "http"), "runs", "list")
        assert plain.code == 2
    with KubeflowServer() as server:
        no_tls = metantk(server.address.replace("http", "https"), "runs", "list")
        assert "No TLS connection" in no_tls.err


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"METANTK_KUBEFLOW": ""}, "give it with --host or in METANTK_KUBEFLOW"),
        ({"METANTK_KUBEFLOW": "kubeflow.example"}, "http(s)://host:port/path"),
        ({"METANTK_KUBEFLOW": "ftp://kubeflow.example"}, "http(s)://host:port/path"),
        ({"METANTK_KUBEFLOW": "http://"}, "http(s)://host:port/path"),
        ({"METANTK_KUBEFLOW": f"http://me:{SECRET}@host/pipeline"}, "a token belongs in METANTK_KUBEFLOW_TOKEN"),
        ({"METANTK_KUBEFLOW": f"http://host/pipeline/?token={SECRET}"}, "a token belongs in METANTK_KUBEFLOW_TOKEN"),
        ({"METANTK_KUBEFLOW": "http://host/pipeline/#/runs"}, "without '#'"),
        ({"METANTK_KUBEFLOW_NAMESPACE": "Team A"}, "Expected a namespace"),
        ({"METANTK_KUBEFLOW_TOKEN": f"{SECRET}\nX-Other: 1"}, "Expected a token of one line"),
        ({"METANTK_KUBEFLOW_TOKEN": f"Bearer {SECRET}"}, "Expected a token of one line"),
        ({"METANTK_KUBEFLOW_TOKEN": f"{SECRET}é"}, "Expected a token of one line"),
        ({"METANTK_KUBEFLOW_TOKEN": SECRET, "METANTK_KUBEFLOW_COOKIE": f"a={SECRET}"}, "got both"),
        ({"METANTK_KUBEFLOW_COOKIE": f"a={SECRET}\r\nb: c"}, "Expected a cookie of one line"),
        ({"METANTK_KUBEFLOW_TOKEN_FILE": "/no/such/file"}, "Can't read the token from /no/such/file"),
        ({"METANTK_KUBEFLOW_TOKEN_FILE": "/dev/null"}, "Can't read the token"),
        ({"METANTK_KUBEFLOW_CA": "/no/such/file"}, "Can't read certificates from /no/such/file"),
        ({"METANTK_KUBEFLOW_CA": __file__}, "Expected certificates (PEM)"),
    ],
)
def test_access_that_can_not_be_used_is_refused_before_anybody_is_asked(
    server: KubeflowServer, environment: dict[str, str], words: str
):
    done = metantk(server, "runs", "list", **environment)
    assert done.code == 2
    assert words in done.err
    assert SECRET not in done.err
    assert not server.seen


def test_neither_a_context_file_of_kfp_nor_its_variables_nor_kubeconfig_change_what_is_done(
    server: KubeflowServer, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    context = home / ".config/kfp/context.json"
    context.parent.mkdir(parents=True)
    planted = {
        "namespace": "planted",
        "client_authentication_cookie": f"a={SECRET}",
        "client_authentication_header_name": "X-Planted",
        "client_authentication_header_value": SECRET,
    }
    context.write_text(json.dumps(planted))
    (home / ".kube").mkdir()
    (home / ".kube/config").write_text(f"users: [{{name: me, user: {{token: {SECRET}}}}}]")
    for name, value in {
        "HOME": str(home), "KUBECONFIG": str(home / ".kube/config"), "KF_PIPELINES_ENDPOINT": "http://planted.invalid",
        "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID": "planted", "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME": "planted",
        "KF_PIPELINES_UI_ENDPOINT": "http://planted.invalid",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(context))
    done = metantk(server, "submit", str(package), "-p", "times=1", "--json")
    assert done.code == 0
    assert "planted" not in done.out
    assert [one.display_name for one in server.experiments.values()] == ["metantk"]
    for request in server.seen:
        said = f"{request.head}{request.query}{request.body}"
        assert "planted" not in said.lower()
        assert SECRET not in said
    assert json.loads(context.read_text()) == planted


@pytest.mark.parametrize("echo", [500, 400, 403])
def test_secrets_that_the_server_sends_back_are_told_to_nobody(
    server: KubeflowServer, package: Path, tmp_path: Path, echo: int
):
    def tell(request: Any) -> None:
        if not request.path.endswith("/healthz"):
            shown = f"{request.head.get('Authorization')} {request.head.get('Cookie')} {SECRET}".replace(" ", "|")
            raise Answer(echo, f"failed for {shown} at http://me:{SECRET}@database/x", head={"X-Echo": SECRET})

    server.interfere = tell
    (tmp_path / "token").write_text(SECRET)
    for environment in (
        {"METANTK_KUBEFLOW_TOKEN": SECRET},
        {"METANTK_KUBEFLOW_COOKIE": f"session={SECRET}; other=1"},
        {"METANTK_KUBEFLOW_TOKEN_FILE": str(tmp_path / "token")},
    ):
        for command in (("runs", "list"), ("submit", str(package), "-p", "times=1"), ("schedule", "list")):
            done = metantk(server, *command, **environment)
            assert done.code == 2
            assert SECRET not in done.out + done.err
    assert any(SECRET in str(request.head) for request in server.seen)  # it was shown to the server


def test_secrets_of_this_process_are_in_nothing_that_is_sent_or_printed(
    server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{SECRET}@mlflow/")
    printed = ""
    for command in (
        ("submit", "smoke"), ("register", "smoke"), ("schedule", "create", "smoke", "--cron", "0 0 3 * * 1"),
        ("schedule", "list", "--json"), ("schedule", "show", "smoke"), ("runs", "list"),
    ):  # fmt: skip
        done = metantk(server, *command, METANTK_KUBEFLOW_TOKEN=SECRET)
        assert done.code == 0
        printed += done.out + done.err
    assert SECRET not in printed
    assert all(SECRET not in f"{request.query}{request.body}" for request in server.seen)
    assert all(SECRET.encode() not in package for package in server.packages.values())


def test_an_unexpected_error_is_reported_without_the_cookie(server: KubeflowServer, tmp_path: Path, package: Path):
    planted = tmp_path / "sitecustomize.py"
    planted.write_text(
        "import os\n"
        "from metantk_core import submission\n"
        "def broken(package):\n"
        "    raise RuntimeError('Cookie: ' + os.environ['METANTK_KUBEFLOW_COOKIE'])\n"
        "submission.version_name = broken\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "metantk_core", "register", str(package)],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}",
            "METANTK_KUBEFLOW": server.address,
            "METANTK_KUBEFLOW_COOKIE": f"session={SECRET}",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (log,) = tmp_path.glob("metantk-error-*.log")
    assert "RuntimeError" in log.read_text()
    assert SECRET not in log.read_text() + done.stdout + done.stderr


def test_the_server_of_the_tests_answers_with_models_that_kfps_client_reads_back(server: KubeflowServer):
    """Or these tests would prove something about another Kubeflow."""
    api = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=server.address))
    health = kfp_server_api.HealthzServiceApi(api).healthz_service_get_healthz()
    assert health == kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)
    made: Any = kfp_server_api.ExperimentServiceApi(api).experiment_service_create_experiment(
        experiment=kfp_server_api.V2beta1Experiment(display_name="x")
    )
    assert made == server.experiments[made.experiment_id]


@dataclass(frozen=True)
class Certificates:
    """Files of a server's certificate and key, of the authority that vouches for it, and of one that doesn't."""

    server: tuple[Path, Path]
    authority: Path
    stranger: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("certificates")
    start = datetime.now(UTC) - timedelta(days=1)

    def write(name: str, *, signed_by: Any = None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signing = signed_by or (subject, key)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
            .add_extension(address, critical=False)
            .sign(signing, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return subject, key

    authority = write("authority")
    write("stranger")
    write("server", signed_by=authority)
    return Certificates(
        (folder / "server.pem", folder / "server.key"), folder / "authority.pem", folder / "stranger.pem"
    )


def test_without_cache_no_step_of_any_graph_may_take_an_earlier_result(package: Path):
    def cached(content: bytes) -> int:
        return content.decode().count("enableCache: true")

    known = read_package(package)
    assert cached(known.content) == 2  # one below a loop
    bare = known.without_cache()
    assert cached(bare.content) == 0
    assert bare.without_cache() == bare
    assert bare.digest == known.without_cache().digest != known.digest
    first, second = (list(yaml.safe_load_all(one.content)) for one in (known, bare))
    for document in first:
        for graph in (document["root"], *document["components"].values()):
            for task in graph.get("dag", {}).get("tasks", {}).values():
                task.get("cachingOptions", {}).pop("enableCache", None)
    assert first == second


def test_a_server_that_stays_away_is_given_up_at_last(cluster: KubeflowCluster, server: KubeflowServer):
    from metantk_core import submission

    def away(request: Any) -> None:
        raise Answer(503, "away")

    server.interfere = away
    clock = iter(range(0, 100_000, 60))
    told: list[AwayError] = []
    with pytest.raises(AwayError):
        list(submission.follow(cluster, "x", away=told.append, sleep=lambda _: None, clock=lambda: float(next(clock))))
    assert len(told) == 1
