"""The way to MLflow: an address enters; a client that gets answers leaves, or one sentence why there is none."""

import logging
import os
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy
import sqlalchemy.exc
from alembic.util import CommandError
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests.exceptions import RequestException, SSLError

from metantk_core.adapters import locks, mlflow_database
from metantk_core.adapters.addresses import (
    admit_tracking,
    credentials,
    scheme,
    shown,
    sqlite_path,
    sqlite_uri,
)
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.mlflow_client import translating
from metantk_core.adapters.patience import Patience, patience_seconds
from metantk_core.errors import InputError
from metantk_core.ports import AwayError
from metantk_core.secrecy import redacted
from metantk_core.seeding import digest

LONGEST_DIGEST = 36
"""Characters that MLflow keeps of the digest of a dataset."""
_SECONDS_TO_FIRST_ANSWER = 5
# MLflow's own limits keep a client waiting for four minutes after a server has died, without a word, and it repeats
# calls that create something. Ours is the only patience. And what it prints would stand in the middle of our JSON.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CERTIFICATES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH")


@dataclass(frozen=True)
class Connection:
    """An MLflow that answers.

    Attributes:
        uri: Its address, without credentials where it is a server.
        client: Speaks to it, tracking and registry alike.
        artifact_root: Where files of new experiments go, as a URI; none where the server decides.
        patience: That of the client with a server.
    """

    uri: str
    client: MlflowClient
    artifact_root: str | None
    patience: Patience = field(default_factory=lambda: Patience(0.0, "MLflow"))

    @property
    def is_server(self) -> bool:
        """Whether there is a server, with pages to look at."""
        return scheme(self.uri) in ("http", "https")


def connect(uri: str, *, patient: bool = False) -> Connection:
    """Return a connection to the MLflow at an address; a database is created or brought up to date first.

    Args:
        uri: ``sqlite:///`` and a path, ``http(s)://`` of a server, or ``postgresql://`` of a database.
        patient: Whether a server that does not answer is waited for: one that is known to be there as a rule.

    Raises:
        AwayError: No server answers, within seconds or as long as patience lasts.
        InputError: The scheme is unknown, a database can't be used, or access is refused. Never names a password.
    """
    openers = {"postgresql": _connect_database, "sqlite": _connect_sqlite}
    kind = admit_tracking(uri)
    return openers[kind](uri) if kind in openers else _connect_server(uri, patient)


def _connect_server(uri: str, patient: bool) -> Connection:
    seconds = patience_seconds()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _CERTIFICATES:
        if (path := os.environ.get(name)) and not os.path.exists(path):
            raise InputError(f"{name} names {path}, which is not there; name the file, or unset the variable.")
    login = credentials(uri)
    address = shown(uri).rstrip("/")
    if login:
        # As MLflow's own variables they reach every request and every child process, and stay out of its error texts.
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = login
    patience = Patience(seconds, f"MLflow at {address}")
    if patient:
        patience.insist(lambda: _check_server(address))
    else:
        _check_server(address)
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    return Connection(address, translating(client, address, patience=patience), artifact_root=None, patience=patience)


def _check_server(address: str) -> None:
    def ask() -> Any:
        return http_request(
            get_default_host_creds(address),
            "/api/2.0/mlflow/experiments/search",
            "GET",
            params={"max_results": 1},
            max_retries=0,
            timeout=_SECONDS_TO_FIRST_ANSWER,
            retry_codes=frozenset(),
            raise_on_status=False,
        )

    try:
        answer = within(_SECONDS_TO_FIRST_ANSWER + 0.5, ask)  # the request's own limit says more, where it works
    except (MlflowException, RequestException, OverdueError) as error:
        if isinstance(error.__context__, SSLError):
            raise InputError(
                f"The certificate of the server at {address} can't be trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH to "
                "the file of the authority that signed it, or correct the address."
            ) from error
        if isinstance(error, MlflowException) and not isinstance(error.__context__, RequestException | OSError):
            raise InputError(
                f"The MLflow server at {address} can't be asked ({redacted(_reason(error))}); correct the variables "
                "MLFLOW_TRACKING_…."
            ) from error
        raise AwayError(
            f"No MLflow server answers at {address} within {_SECONDS_TO_FIRST_ANSWER} seconds; start it, correct the "
            "address, or leave MLFLOW_TRACKING_URI unset to log to a local database."
        ) from error
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
        raise AwayError(f"The MLflow server at {address} answers with error {answer.status_code}; look at its log.")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code != 200 or not isinstance(content, dict) or (content and "experiments" not in content):
        raise InputError(
            f"What answers at {address} is no MLflow server (status {answer.status_code}); check host, port and path."
        )


def _connect_sqlite(uri: str) -> Connection:
    path = sqlite_path(uri)
    assert path is not None  # it was admitted
    database = path.absolute()
    artifacts = database.parent / mlflow_database.ARTIFACTS
    _check_writable(database, artifacts)
    absolute = sqlite_uri(database)
    with locks.waiting(database.with_name(f"{database.name}.lock"), f"the MLflow database {database}"):
        client = _prepared(absolute, database)
    return Connection(absolute, translating(client, str(database), patience=None), artifact_root=artifacts.as_uri())


def _check_writable(database: Path, artifacts: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if database.exists():
            with database.open("ab"):
                pass
        with tempfile.TemporaryFile(dir=database.parent):
            pass  # SQLite keeps its journal beside the file
    except OSError as error:
        raise InputError(
            f"Can't write the MLflow database {database}: {error.strerror}; choose a folder that you may write to."
        ) from error
    try:
        if artifacts.exists():
            with tempfile.TemporaryFile(dir=artifacts):
                pass
    except OSError as error:
        raise InputError(
            f"Can't write files of tracked runs to {artifacts}: {error.strerror}; make it a folder that you may write "
            "to, or remove it."
        ) from error


def _connect_database(uri: str) -> Connection:
    lock = Path(tempfile.gettempdir()) / f"metantk-mlflow-{os.getuid()}-{digest(uri)}.lock"
    with locks.waiting(lock, f"the MLflow database {shown(uri)}"):
        client = _prepared(uri)
    return Connection(
        uri,
        translating(client, shown(uri), patience=None),
        artifact_root=os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"),
    )


def _prepared(uri: str, file: Path | None = None) -> MlflowClient:
    """Return a client of a database whose tables are those of this MLflow; the caller holds the database's lock.

    Args:
        uri: Address of the database.
        file: Where it lies, if it is a file.
    """
    # Of processes that create the tables at once all but one fail, and some leave a broken file behind.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Prints tracebacks of what it raises again anyway.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        if file is not None:
            mlflow_database.bring_up_to_date(file)
            mlflow_database.follow(file)
        else:
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
    except (MlflowException, CommandError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise InputError(
            f"The MLflow database {shown(uri)} can't be used ({_reason(error)}); check that it is one of "
            f"MLflow {mlflow.__version__} or older, that it is reachable, and that this account may change it."
        ) from error
    return client


def _check_database(uri: str) -> None:
    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": _SECONDS_TO_FIRST_ANSWER})
    with engine.connect():
        pass
    engine.dispose()


def _reason(error: Exception) -> str:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return str(error.orig).splitlines()[0]
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, MlflowException | CommandError | sqlite3.Error):
        return str(error).strip().splitlines()[0].rstrip(". ")[:200]
    return type(error).__name__
