"""The way to MLflow: an address enters; a client that gets answers leaves, or one sentence why there is none."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import sqlalchemy
import sqlalchemy.exc
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from metantk_core.adapters.addresses import credentials, refuse_misplaced_secrets, scheme, shown
from metantk_core.errors import InputError
from metantk_core.seeding import digest

_SECONDS_TO_FIRST_ANSWER = 5
# MLflow's own limits keep a client waiting for four minutes after a server has died. With these it gives up after about
# one, enough for a server that restarts.
_REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@dataclass(frozen=True)
class Connection:
    """An MLflow that answers.

    Attributes:
        uri: Its address, without credentials where it is a server.
        client: Speaks to it, tracking and registry alike.
        artifact_root: Where files of new experiments go, as a URI; none where the server decides.
    """

    uri: str
    client: MlflowClient
    artifact_root: str | None

    @property
    def is_server(self) -> bool:
        """Whether there is a server, with pages to look at."""
        return scheme(self.uri) in ("http", "https")


def connect(uri: str) -> Connection:
    """Return a connection to the MLflow at an address; a database is created or brought up to date first.

    Args:
        uri: ``sqlite:///`` and a path, ``http(s)://`` of a server, or ``postgresql://`` of a database.

    Raises:
        InputError: The scheme is unknown, nobody answers within seconds, or access is refused. Never names a password.
    """
    refuse_misplaced_secrets(uri)
    kind = scheme(uri).partition("+")[0]
    openers = {
        "http": _connect_server,
        "https": _connect_server,
        "postgresql": _connect_database,
        "sqlite": _connect_sqlite,
    }
    if kind not in openers:
        raise InputError(
            f"MLflow can't be reached at {shown(uri)!r}; give an address that starts with one of "
            f"{', '.join(f'{known}://' for known in sorted(openers))}, such as sqlite:///runs/mlflow.db."
        )
    return openers[kind](uri)


def _connect_server(uri: str) -> Connection:
    for name, value in _REQUEST_LIMITS.items():
        os.environ.setdefault(name, value)
    login = credentials(uri)
    address = shown(uri).rstrip("/")
    if login:
        # As MLflow's own variables they reach every request and every child process, and stay out of its error texts.
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = login
    _check_server(address)
    return Connection(address, MlflowClient(tracking_uri=address, registry_uri=address), artifact_root=None)


def _check_server(address: str) -> None:
    try:
        answer = http_request(
            get_default_host_creds(address),
            "/api/2.0/mlflow/experiments/search",
            "GET",
            params={"max_results": 1},
            max_retries=0,
            timeout=_SECONDS_TO_FIRST_ANSWER,
            retry_codes=frozenset(),
            raise_on_status=False,
        )
    except MlflowException as error:
        raise InputError(
            f"No MLflow server answers at {address} within {_SECONDS_TO_FIRST_ANSWER} seconds; start it, correct the "
            "address, or leave MLFLOW_TRACKING_URI unset to log to a local database."
        ) from error
    assert answer is not None
    if answer.status_code == 401:
        raise InputError(
            f"The MLflow server at {address} asks who you are (401); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code == 403:
        raise InputError(
            f"The MLflow server at {address} refuses access (403); check the rights of this account, and that the "
            "server was started with --allowed-hosts for this host name."
        )
    if answer.status_code >= 500:
        raise InputError(f"The MLflow server at {address} answers with error {answer.status_code}; look at its log.")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code != 200 or not isinstance(content, dict) or (content and "experiments" not in content):
        raise InputError(
            f"What answers at {address} is no MLflow server (status {answer.status_code}); check host, port and path."
        )


def _connect_sqlite(uri: str) -> Connection:
    path = uri.split("?", 1)[0].partition(":///")[2]
    if not path or ":memory:" in path:
        raise InputError(
            f"A SQLite address names a file, as in sqlite:///runs/mlflow.db, which {shown(uri)!r} does not."
        )
    database = Path(path).absolute()
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.open("ab"), tempfile.TemporaryFile(dir=database.parent):
            pass  # SQLite writes to the file and keeps its journal beside it
    except OSError as error:
        raise InputError(
            f"Can't write the MLflow database {database}: {error.strerror}; choose a folder that you may write to."
        ) from error
    absolute = f"sqlite:///{database}"
    with _lock(database.with_name(f"{database.name}.lock")):
        client = _prepared(absolute)
    return Connection(absolute, client, artifact_root=(database.parent / "mlartifacts").as_uri())


def _connect_database(uri: str) -> Connection:
    lock = Path(tempfile.gettempdir()) / f"metantk-mlflow-{os.getuid()}-{digest(uri)}.lock"
    with _lock(lock):
        client = _prepared(uri)
    return Connection(uri, client, artifact_root=os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"))


def _prepared(uri: str) -> MlflowClient:
    """Return a client of a database whose tables are those of this MLflow; the caller holds the database's lock."""
    # Of processes that create the tables at once all but one fail, and some leave a broken file behind.
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if scheme(uri) != "sqlite":
            _check_database(uri)
        engine = create_sqlalchemy_engine(uri)
        if sqlalchemy.inspect(engine).has_table("alembic_version"):
            _upgrade_db(engine)
        engine.dispose()
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(view_type=ViewType.ALL, max_results=1)
        client.search_registered_models(max_results=1)
    except ImportError as error:
        raise InputError(
            f"The driver for {shown(uri)} is not installed ({error.name}); pip install psycopg2-binary and write "
            "postgresql+psycopg2://, or use an MLflow server."
        ) from error
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error.orig) if isinstance(error, sqlalchemy.exc.DBAPIError) else type(error).__name__
        raise InputError(
            f"The MLflow database {shown(uri)} can't be used ({reason.splitlines()[0]}); check that it is one of "
            f"MLflow {mlflow.__version__} or older, that it is reachable, and that this account may change it."
        ) from error
    return client


def _check_database(uri: str) -> None:
    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": _SECONDS_TO_FIRST_ANSWER})
    with engine.connect():
        pass
    engine.dispose()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
