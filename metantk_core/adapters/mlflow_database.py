"""MLflow's SQLite database as a file: a path enters; a database with this MLflow's tables stands there afterwards.

Whatever changes tables works on a file beside the database, which takes its place when it is whole: a process that is
killed at any moment leaves the old database or the new one. The caller holds the database's lock.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import sqlalchemy
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db.utils import (
    _all_tables_exist,
    _get_alembic_config,
    _initialize_tables,
    _upgrade_db,
    create_sqlalchemy_engine,
)
from sqlalchemy import event

from metantk_core.adapters.addresses import sqlite_uri
from metantk_core.errors import InputError

ARTIFACTS = "mlartifacts"
"""Folder beside the database that holds the files of its runs."""
_UNFINISHED = ".unfinished-"
_JOURNALS = ("-journal", "-wal", "-shm")
_BATCH = "_alembic_tmp_"  # tables that a migration of SQLite copies into, and renames when they are full
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def bring_up_to_date(database: Path) -> None:
    """Make a database that is not there, and give an older one, or one left half-made, the tables of this MLflow.

    Raises:
        InputError: It is one of a newer MLflow.
        sqlite3.Error: The file is no database, or broken.
        sqlalchemy.exc.SQLAlchemyError: It could not be changed; the file is as it was.
    """
    for left in database.parent.glob(f"{_UNFINISHED}{database.name}*"):
        left.unlink(missing_ok=True)  # of a process that was killed: whoever holds the lock is alone
    if not database.exists() or database.stat().st_size == 0:
        for suffix in _JOURNALS:
            # Of a process that was killed before it had written anything else: it would be played back into our file.
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        with _made_beside(database, copied=False) as made:
            os.replace(made, database)
        return
    with closing(sqlite3.connect(database)) as connection:
        tables = _tables(connection)
        revision = _revision(connection, tables)
        if revision == _newest() and not any(table.startswith(_BATCH) for table in tables):
            return
        if revision is not None and not _is_known(revision):
            raise InputError(
                f"The MLflow database {database} is of a newer MLflow than {mlflow.__version__}, which is installed "
                f"here: its tables have the revision {revision}; install that MLflow, or choose another folder."
            )
        keep = _holds_anything(connection, tables)
    with (
        _made_beside(database, copied=keep) as made,
        closing(sqlite3.connect(made)) as source,
        closing(sqlite3.connect(database, timeout=20.0)) as target,
    ):
        # One transaction. A file of another identity would leave those behind who have this one open.
        source.backup(target)


def follow(database: Path) -> None:
    """Let the addresses of files in a database follow it to where it lies now, after its folder was moved or copied.

    Only addresses below a folder ``mlartifacts`` that lay beside the database are ours to change; others stay.
    """
    here = (database.parent / ARTIFACTS).absolute()
    with closing(sqlite3.connect(database, timeout=20.0)) as connection:
        locations = [row[0] or "" for row in connection.execute("SELECT DISTINCT artifact_location FROM experiments")]
        old = [uri for uri in locations if _is_elsewhere(uri, here)]
        if not old:
            return
        there = set(_tables(connection))
        with connection:
            for uri in old:
                for table, column in _ADDRESSES:
                    if table not in there:
                        continue
                    # The names are those above.
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here.as_uri(), len(uri) + 1, uri, len(uri) + 1, f"{uri}/"),
                    )
    for uri in old:
        sys.stderr.write(
            f"The workspace was moved or copied from {_path(uri).parent} to {here.parent}: "
            "the files of its tracked runs are looked for, and kept, here from now on.\n"
        )


@contextmanager
def _made_beside(database: Path, *, copied: bool) -> Iterator[Path]:
    """Give a whole database in a file beside one, made of a copy of it or from nothing; removed afterwards."""
    made = database.with_name(f"{_UNFINISHED}{database.name}")
    try:
        if copied:
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(made)) as copy:
                source.backup(copy)
                with copy:
                    _mend(copy)
        with _engine(made) as engine:
            if sqlalchemy.inspect(engine).has_table("alembic_version"):
                _upgrade_db(engine)
            if not _all_tables_exist(engine):
                _initialize_tables(engine)
        descriptor = os.open(made, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield made
    finally:
        for suffix in ("", *_JOURNALS):
            with suppress(OSError):
                made.with_name(made.name + suffix).unlink(missing_ok=True)


@contextmanager
def _engine(path: Path) -> Iterator[sqlalchemy.Engine]:
    """Give an engine for a file that is thrown away if anything happens, and so needs no flush at each step."""
    engine = create_sqlalchemy_engine(sqlite_uri(path))

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    try:
        yield engine
    finally:
        engine.dispose()


def _mend(connection: sqlite3.Connection) -> None:
    """Undo the migration that a killed process had begun on one table, or finish it if the old table is gone."""
    tables = _tables(connection)
    for table in tables:
        if table.startswith(_BATCH):
            name = table.removeprefix(_BATCH)
            connection.execute(
                f'DROP TABLE "{table}"' if name in tables else f'ALTER TABLE "{table}" RENAME TO "{name}"'
            )


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [row[0] for row in rows]


def _revision(connection: sqlite3.Connection, tables: list[str]) -> str | None:
    if "alembic_version" not in tables:
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return found[0] if found else None


def _holds_anything(connection: sqlite3.Connection, tables: list[str]) -> bool:
    """Return whether a database holds more than what MLflow puts into an empty one."""
    own = {"alembic_version": "0", "workspaces": "0", "experiments": "experiment_id <> 0"}
    return any(
        connection.execute(f'SELECT 1 FROM "{table}" WHERE {own.get(table, "1")} LIMIT 1').fetchone()  # noqa: S608
        for table in tables
        if not table.startswith(_BATCH) or table.removeprefix(_BATCH) not in own
    )


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_get_alembic_config(""))


@cache
def _newest() -> str | None:
    return _scripts().get_current_head()


def _is_known(revision: str) -> bool:
    try:
        return _scripts().get_revision(revision) is not None
    except CommandError:
        return False


def _is_elsewhere(uri: str, here: Path) -> bool:
    if urlsplit(uri).scheme != "file" or not uri.endswith(f"/{ARTIFACTS}"):
        return False
    path = _path(uri)
    return path != here and path.resolve() != here.resolve()


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
