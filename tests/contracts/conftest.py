"""Real servers for the suites of the ports, MLflow and object stores: processes of their own, spoken to over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from object_servers import Moto, SeaweedFS, seaweedfs_program
from postgresql import PostgreSQL, postgresql_programs


class MlflowServer:
    """A server that can be killed and started again, at the same address with the same database.

    Args:
        root: Folder of its own.
        database: Address of its database; by default a SQLite file in the folder.
        files: Where it keeps the files of runs; by default a folder in the folder.
        options: More of ``mlflow server``.
        environment: What it gets beside this process's environment.
    """

    def __init__(
        self,
        root: Path,
        *,
        database: str = "",
        files: str = "",
        options: Sequence[str] = (),
        environment: Mapping[str, str] = {},
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._root = root
        self._options = ["--backend-store-uri", database or f"sqlite:///{root}/mlflow.db"]
        self._options += ["--artifacts-destination", files or str(root / "files"), "--workers", "1", *options]
        self._environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        surroundings = {**os.environ, **self._environment}
        with (self._root / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                cwd=self._root,
                env=surroundings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + 120
        while time.monotonic() < until and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"The MLflow server did not start:\n{(self._root / 'server.log').read_text()}")

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it, if it runs: without a word, unless told otherwise."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"))
    try:
        server.start()
        yield server.address
    finally:
        server.end(signal.SIGTERM)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    server = Moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), seaweedfs_program())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    server = PostgreSQL(postgresql_programs())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a pipeline that is quick to read: a step, a loop, a parameter with a default and one without."""
    from kfp import compiler, dsl

    @dsl.component(base_image="hello-python", install_kfp_package=False)
    def greet(name: str) -> str:
        return f"Hello {name}"

    @dsl.pipeline(name="hello")
    def hello(times: int, name: str = "World") -> None:
        del times
        greet(name=name)
        with dsl.ParallelFor(["a", "b"]) as item:
            each: Any = item  # a placeholder for the graph
            greet(name=each)

    path = tmp_path_factory.mktemp("package") / "hello.yaml"
    pipeline: Any = hello
    compiler.Compiler().compile(pipeline, str(path))
    return path
