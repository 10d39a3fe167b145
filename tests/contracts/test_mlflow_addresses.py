"""What a person reads when MLflow can't be reached, and that fresh databases survive a crowd."""

import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from crowd import open_and_log
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from mlflow.tracking import MlflowClient

from metantk_core import wiring
from metantk_core.adapters.addresses import may_hold_secret, refuse_secrets, shown
from metantk_core.errors import InputError


@pytest.fixture(autouse=True)
def _environment_of_a_new_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTP_REQUEST_MAX_RETRIES",
        "HTTP_REQUEST_TIMEOUT",
        "TRACKING_USERNAME",
        "TRACKING_PASSWORD",
        "RUN_ID",
    ):
        monkeypatch.setenv(f"MLFLOW_{name}", "")  # noted, so that what the adapter sets is undone afterwards
        monkeypatch.delenv(f"MLFLOW_{name}")


class _Answers(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b"{}"
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """An HTTP server that gives every request the same answer."""
    status, body = request.param
    handler = type("Handler", (_Answers,), {"status": status, "body": body, "asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _sentence(uri: str) -> str:
    with pytest.raises(InputError) as caught:
        wiring.tracker(uri)
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there_is_named_without_its_password():
    port = _free_port()
    text = _sentence(f"http://me:secret@127.0.0.1:{port}/mlflow?token=secret")
    assert f"No MLflow server answers at http://127.0.0.1:{port}/mlflow within" in text


def test_a_server_that_accepts_and_never_answers_is_given_up_within_seconds():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert "No MLflow server answers" in _sentence(f"http://127.0.0.1:{mute.getsockname()[1]}")


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ((200, b"<html>Sign in</html>"), "no MLflow server"),
        ((200, b'{"pods": []}'), "no MLflow server"),
        ((404, b"not found"), "no MLflow server"),
        ((401, b""), "MLFLOW_TRACKING_USERNAME"),
        ((403, b"Invalid Host header"), "--allowed-hosts"),
        ((503, b"{}"), "error 503"),
    ],
    indirect=["listener"],
)
def test_an_answer_that_is_not_the_one_of_mlflow_is_explained(listener: str, words: str):
    assert words in _sentence(f"http://me:secret@{listener}")


@pytest.mark.parametrize("listener", [(200, b"{}")], indirect=True)
def test_limits_that_a_person_set_are_kept_and_others_are_short(listener: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    wiring.tracker(f"http://me:p%40ss@{listener}")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) <= 5
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss"


@pytest.mark.parametrize("listener", [(200, b"{}")], indirect=True)
def test_a_token_reaches_the_server(listener: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    asked: list[str] = []
    monkeypatch.setattr(_Answers, "do_GET", lambda self: (asked.append(self.headers["Authorization"]), _ok(self)))
    wiring.tracker(f"http://{listener}")
    assert asked == ["Bearer a-token"]


def _ok(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"{}")


def test_a_certificate_is_trusted_by_the_file_that_a_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"https://localhost:{server.server_port}"
    try:
        assert "certificate of the server" in _sentence(address)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        wiring.tracker(address)
    finally:
        server.shutdown()
        server.server_close()


def test_settings_of_tls_that_exclude_each_other_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path))
    text = _sentence("https://localhost:1")
    assert "can't be asked (When 'ignore_tls_verification' is true" in text


@pytest.mark.parametrize("uri", ["", "mlruns", "ftp://me:secret@host/x", "databricks", "file:///tmp/mlruns", "http//x"])
def test_an_address_of_an_unknown_kind_is_answered_with_the_known_ones(uri: str):
    text = _sentence(uri)
    assert "http://, https://, postgresql://, sqlite://" in text


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_sqlite_address_names_a_file(uri: str):
    assert "names a file" in _sentence(uri)


def test_a_database_that_nobody_serves_is_named_without_its_password():
    text = _sentence(f"postgresql://me:secret@127.0.0.1:{_free_port()}/mlflow?sslpassword=secret")
    assert "postgresql://127.0.0.1" in text


def test_a_folder_without_write_permission_is_named():
    # Even the superuser can't make files there.
    assert "Can't write the MLflow database /proc/metantk/mlflow.db" in _sentence("sqlite:////proc/metantk/mlflow.db")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("Not a database, but long enough to be taken for one by its name alone. " * 10)
    before = path.read_bytes()
    assert "file is not a database" in _sentence(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_database_of_an_older_mlflow_is_brought_up_to_date(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    configuration = _get_alembic_config(uri)
    script = ScriptDirectory.from_config(configuration)
    newest = script.get_current_head()
    engine = sqlalchemy.create_engine(uri)
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, f"{newest}-1")

    def version() -> object:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text("select version_num from alembic_version")).scalar()

    assert version() != newest
    run = wiring.tracker(uri).open_run("key", "run")
    assert version() == newest
    assert MlflowClient(tracking_uri=uri).get_run(run).info.status == "RUNNING"
    engine.dispose()


def test_relative_databases_keep_their_files_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    tracker = wiring.tracker("sqlite:///runs/mlflow.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker.log_table(tracker.open_run("key", "run"), {"a": [1]}, "table.json")
    kept = [path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("table.json")]
    assert kept == [("project", "runs", "mlartifacts")]


@pytest.mark.minutes
def test_eight_processes_may_meet_at_a_fresh_database(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "crowd"])
    with context.Pool(8) as crowd:
        parents = set(crowd.starmap(open_and_log, [(uri, number) for number in range(8)], chunksize=1))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("metantk")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == 8
    assert len(runs) == 9
    assert {len(client.get_metric_history(run.info.run_id, "score/mean")) for run in children} == {100}


SECRETS_IN_ODD_PLACES = [
    "https://me:hunter2@host:1/x",
    "https://me:p@hunter2@host:1/x?password=hunter2#hunter2",
    "http://:hunter2@host",
    "http://me:x/hunter2@host",
    "http://me:1/hunter2@host",
    "http://me:hunter2/EC@host",
    "http://me:a?hunter2@host",
    "http://me:a#hunter2@host",
    "http://me:hunter2",
    "http://host/?token=hunter2",
    "http://host?token=hunter2",
    "http://host/#hunter2",
    "http://host/token=hunter2/x",
    "http://host/;hunter2",
    "http://me%3Ahunter2%40host/",
    "http:/me:hunter2@host",
    "http:me:hunter2@host",
    "//me:hunter2@host",
    "me:hunter2@host",
    "me:hunter2@host:9",
    " http://me:hunter2@host",
    "http://[hunter2",
    "postgresql://me:hunter2@host/db?sslpassword=hunter2",
    "/folder?token=hunter2",
    "/folder/token=hunter2",
    "sqlite:///mlflow.db?key=hunter2",
]


@pytest.mark.parametrize("uri", SECRETS_IN_ODD_PLACES)
def test_a_secret_is_never_shown_wherever_it_stands_in_an_address(uri: str):
    assert "hunter2" not in shown(uri)
    assert may_hold_secret(uri)
    with pytest.raises(InputError) as caught:
        refuse_secrets(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://me:x/hunter2@host",
        "http://me:1/hunter2@host",
        "http://me:a?hunter2@host",
        "http://me:hunter2",
    ],
)
def test_an_address_of_a_server_whose_password_can_not_be_told_from_its_path_is_refused_at_once(uri: str):
    text = _sentence(uri)
    assert "hunter2" not in text
    assert "MLFLOW_TRACKING_PASSWORD" in text


@pytest.mark.parametrize(
    "uri",
    ["", "runs", "/a/b", "./me@work", "http://host:5000", "https://host/mlflow/", "http://[::1]:5", "http://",
     "sqlite:///runs/mlflow.db", "sqlite:////home/me@work/mlflow.db", "file:///data", "s3://bucket/key"],
)  # fmt: skip
def test_an_address_without_secrets_is_shown_as_it_is(uri: str):
    assert shown(uri) == uri
    assert not may_hold_secret(uri)
    refuse_secrets(uri)


def test_mlflow_is_imported_only_for_who_asks():
    code = "import sys, metantk_core.wiring as w; w.artifact_store('x'); sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_time_to_give_up_on_a_dead_server_is_seconds():
    # Generous: what is excluded is MLflow's own four minutes.
    began = time.monotonic()
    _sentence(f"http://127.0.0.1:{_free_port()}")
    assert time.monotonic() - began < 60
