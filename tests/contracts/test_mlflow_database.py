"""The database of a workspace: made whole or not at all, mended, followed when it moves; its troubles are sentences."""

import fcntl
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_alembic_config, _initialize_tables
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service import utils

from metantk_core import wiring
from metantk_core.adapters import locks, mlflow_client, mlflow_database
from metantk_core.adapters.addresses import sqlite_path, sqlite_uri
from metantk_core.errors import InputError
from metantk_core.ports import MetricPoint
from metantk_core.workspace import Workspace


@pytest.fixture(autouse=True)
def _made_by_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_database, "_initialize_tables", _initialize_tables)  # not copied, as for other tests


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    mlflow_database.bring_up_to_date(path)
    return path


@pytest.fixture
def database(whole: Path, tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return Path(shutil.copy(whole, tmp_path / "runs" / "mlflow.db"))


def _change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def _tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


class _KilledError(BaseException):
    pass


def test_a_process_that_is_killed_while_tables_are_made_leaves_no_database(tmp_path: Path, monkeypatch):
    path = tmp_path / "mlflow.db"

    def half(engine) -> None:
        InitialBase.metadata.create_all(engine)
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_database, "_initialize_tables", half)
        with pytest.raises(_KilledError):
            mlflow_database.bring_up_to_date(path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_beside_the_database_is_removed(database: Path):
    left = [database.with_name(f".unfinished-mlflow.db{suffix}") for suffix in ("", "-journal")]
    for path in left:
        path.write_bytes(b"half")
    mlflow_database.bring_up_to_date(database)
    assert not any(path.exists() for path in left)


@pytest.mark.slow
def test_an_empty_database_that_an_earlier_release_left_half_migrated_is_made_anew(tmp_path: Path, whole: Path):
    path = tmp_path / "mlflow.db"
    InitialBase.metadata.create_all(engine := mlflow_database.create_sqlalchemy_engine(f"sqlite:///{path}"))
    engine.dispose()
    _change(path, "CREATE TABLE _alembic_tmp_params (key TEXT)", "DROP TABLE params")
    mlflow_database.bring_up_to_date(path)
    assert _tables(path) == _tables(whole)
    assert wiring.tracker(f"sqlite:///{path}").open_run("key", "run")


@pytest.mark.slow
def test_a_half_migrated_database_keeps_its_runs(tmp_path: Path):
    path = tmp_path / "mlflow.db"
    configuration = _get_alembic_config(f"sqlite:///{path}")
    newest = ScriptDirectory.from_config(configuration).get_current_head()
    engine = mlflow_database.create_sqlalchemy_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, f"{newest}-1")
    engine.dispose()
    _change(
        path,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) "
        "VALUES (7, 'mine', 'active', 'default')",
        "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, user_id, "
        "start_time) VALUES ('r', 'old', 'FINISHED', 'active', 7, 'me', 1)",
        "CREATE TABLE _alembic_tmp_params (key TEXT)",
    )
    tracker = wiring.tracker(f"sqlite:///{path}")
    assert tracker.open_run("key", "run")
    assert MlflowClient(tracking_uri=f"sqlite:///{path}").get_run("r").info.run_name == "old"


def test_a_database_of_a_newer_mlflow_is_refused_and_left_alone(database: Path):
    _change(database, "UPDATE alembic_version SET version_num = 'fedcba987654'")
    before = database.read_bytes()
    with pytest.raises(InputError, match=r"of a newer MLflow than .* install that MLflow"):
        wiring.tracker(f"sqlite:///{database}")
    assert database.read_bytes() == before


@pytest.mark.parametrize("place", [0, 100, 4096, 20_000, 100_000])
def test_flipped_bytes_are_a_sentence_or_harmless(database: Path, place: int):
    data = bytearray(database.read_bytes())
    for offset in range(place, min(place + 3000, len(data))):
        data[offset] ^= 0xFF
    database.write_bytes(data)
    with suppress(InputError):
        assert wiring.tracker(f"sqlite:///{database}").open_run("key", "run")


def test_a_database_that_breaks_while_it_is_used_is_a_sentence(database: Path):
    tracker = wiring.tracker(f"sqlite:///{database}")
    run = tracker.open_run("key", "run")
    _change(database, "DROP TABLE metrics")
    with pytest.raises(InputError, match="no such table: metrics") as caught:
        tracker.log_metrics(run, [MetricPoint("a", 1.0)])
    assert "\n" not in str(caught.value)


def test_a_wrong_argument_of_ours_is_not_blamed_on_mlflow(database: Path):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    with pytest.raises(MlflowException):
        mlflow_client.translating(client, "here", patience=None).search_runs(["0"], filter_string="nonsense ==")


@pytest.mark.parametrize("name", ["a b", "ü", "a#b", "a%b", "a?b", "a%3Fb", "a&b;c='d'"])
def test_the_database_lies_in_its_workspace_whatever_that_is_called(
    name: str, whole: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / name
    root.mkdir()
    shutil.copy(whole, root / "mlflow.db")
    place = Workspace(root)
    assert sqlite_path(place.tracking_uri) == root / "mlflow.db"
    tracker = wiring.tracker(place.tracking_uri)
    tracker.log_table(tracker.open_run("key", "run"), {"a": [1]}, "table.json")
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(root.rglob("table.json"))) == 1


def test_a_copied_workspace_keeps_its_files_to_itself_and_says_so(database: Path, capsys):
    tracker = wiring.tracker(f"sqlite:///{database}")
    run = tracker.open_run("key", "run")
    tracker.log_table(run, {"a": [1]}, "first.json")
    copy = Path(shutil.copytree(database.parent, database.parent.with_name("copy")))
    capsys.readouterr()
    utils._artifact_repos_cache.clear()  # MLflow's memory of the process that a copy is not used by
    tracker = wiring.tracker(f"sqlite:///{copy / 'mlflow.db'}")
    assert f"moved or copied from {database.parent} to {copy}" in capsys.readouterr().err
    assert tracker.open_run("key", "run") == run
    tracker.log_table(run, {"a": [1]}, "second.json")
    other = tracker.open_run("another", "run")
    tracker.log_table(other, {"a": [1]}, "third.json")
    assert sorted(path.name for path in database.parent.rglob("*.json")) == ["first.json"]
    assert sorted(path.name for path in copy.rglob("*.json")) == ["first.json", "second.json", "third.json"]
    wiring.tracker(f"sqlite:///{copy / 'mlflow.db'}")
    assert capsys.readouterr().err == ""


def test_a_folder_of_files_that_can_not_be_written_is_noticed_at_the_start(database: Path):
    (database.parent / "mlartifacts").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match=r"Can't write files of tracked runs to .*mlartifacts"):
        wiring.tracker(f"sqlite:///{database}")


def test_a_file_that_can_not_be_kept_later_is_a_sentence(database: Path):
    tracker = wiring.tracker(f"sqlite:///{database}")
    run = tracker.open_run("key", "run")
    (database.parent / "mlartifacts").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match=r"Can't keep a file of the tracked run in .*mlartifacts"):
        tracker.log_table(run, {"a": [1]}, "table.json")


def test_a_lock_file_that_can_not_be_written_is_a_sentence(database: Path):
    Path(f"{database}.lock").mkdir()
    with pytest.raises(InputError, match=r"Can't write the lock file .*mlflow.db.lock"):
        wiring.tracker(f"sqlite:///{database}")


def test_a_lock_that_another_holds_is_waited_for_aloud_and_given_up(tmp_path: Path, capsys):
    path = tmp_path / "a.lock"
    with path.open("w") as other:
        other.write("4711\n")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        patient = locks.waiting(path, "the thing", patience=0.3)
        with (
            pytest.raises(InputError, match="Expected to get at the thing within 0 seconds, but process 4711"),
            patient,
        ):
            pass
        assert "Waiting for the thing: process 4711 holds" in capsys.readouterr().err
        alone = locks.exclusive(path, "The run x")
        with pytest.raises(InputError, match="The run x is already running, process 4711; wait for it"), alone:
            pass
    with locks.exclusive(path, "The run x"):  # the file is there, its holder is not
        pass


def test_any_path_comes_back_from_its_address():
    for name in ("plain", "a b", "a?b", "a%3Fb", "a%b", "ü", "a#b", "a;b&c=d"):
        assert sqlite_path(sqlite_uri(Path("/x", name, "mlflow.db"))) == Path("/x", name, "mlflow.db")


class _Turning(BaseHTTPRequestHandler):
    """A server that is an MLflow at first, and then answers everything else in another way."""

    answer: tuple[int, bytes] = (500, b"")
    drip = False

    def do_GET(self) -> None:
        if self.drip:
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        self._answer((200, b"{}") if "experiments/search" in self.path else self.answer)

    def do_POST(self) -> None:
        self._answer(self.answer)

    def _answer(self, answer: tuple[int, bytes]) -> None:
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def turning(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (_Turning,), request.param)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "turning",
    [
        {"answer": (500, b"{}")},
        {"answer": (500, b"<html>secret</html>")},
        {"answer": (404, b"nothing here")},
        {"answer": (404, b'{"detail": "nothing here"}')},
        {"answer": (200, b"<html>Sign in, secret</html>")},
        {"answer": (200, b'{"experiment": []}')},
        {"answer": (401, b"who are you")},
    ],
    indirect=True,
)
def test_a_server_that_stops_being_an_mlflow_is_a_sentence(turning: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "0.5")
    tracker = wiring.tracker(turning)
    expected = (
        f"The MLflow server {turning} (failed at|does not answer .status 500.|does not let this account do)|"
        f"What answers at {turning} is no MLflow"
    )
    with pytest.raises(InputError, match=expected) as caught:
        tracker.open_run("key", "run")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("turning", [{"drip": True}], indirect=True)
def test_a_server_that_drips_is_given_up_in_the_time_that_was_said(turning: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("metantk_core.adapters.mlflow_store._SECONDS_TO_FIRST_ANSWER", 1)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"No MLflow server answers at .* within 1 seconds"):
        wiring.tracker(turning)
    assert time.monotonic() - began < 20  # the whole answer would take a minute
