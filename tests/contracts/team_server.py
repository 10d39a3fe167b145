"""MLflow as teams have it: a server on PostgreSQL with its files in a bucket, which asks everybody who they are."""

import http.client
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from conftest import MlflowServer
from mlflow.server.auth.client import AuthServiceClient
from object_servers import BUCKET, SeaweedFS, environment
from postgresql import PostgreSQL

TEAM, TEAMS_PASSWORD = "team", "planted-password-of-the-team"
READER, READERS_PASSWORD = "reader", "planted-password-of-a-reader"
TOKEN = "planted-token-of-the-team"

_ACCOUNTS = """[mlflow]
default_permission = READ
database_uri = {accounts}
admin_username = team
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 600
"""


class TeamServer:
    """The server, and what stands behind it.

    Clients need no credentials of the bucket: files go through the server.

    Args:
        root: Folder of its own.
        postgres: Holds its database, and another one for accounts.
        objects: Holds the files of runs, below ``mlflow/`` in the bucket of the tests.
    """

    def __init__(self, root: Path, postgres: PostgreSQL, objects: SeaweedFS) -> None:
        self.postgres = postgres
        self.objects = objects
        postgres.create("mlflow", "accounts")
        (root / "accounts.ini").write_text(_ACCOUNTS.format(accounts=postgres.address("accounts")))
        self._mlflow = MlflowServer(
            root,
            database=postgres.address("mlflow"),
            files=f"s3://{BUCKET}/mlflow",
            options=["--app-name", "basic-auth"],
            environment={
                **environment(objects.address),
                "MLFLOW_AUTH_CONFIG_PATH": str(root / "accounts.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": TEAMS_PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
            },
        )
        self.address = self._mlflow.address
        self._mlflow.start()

    @property
    def host(self) -> str:
        """Host and port of the server."""
        return self.address.removeprefix("http://")

    def add_reader(self) -> None:
        """Add an account that may read what there is, and no more; this process speaks for the team."""
        AuthServiceClient(self.address).create_user(READER, READERS_PASSWORD)

    def stop(self) -> None:
        """End the server."""
        self._mlflow.end()


class _Guard(BaseHTTPRequestHandler):
    """Passes on, in the team's name, what shows the token."""

    behind: ClassVar[str] = ""
    password: ClassVar[str] = ""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, [], b"who are you?")
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("authorization", "host")}
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        connection.request(self.command, self.path, body, {**headers, "Authorization": self.password})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        skipped = ("transfer-encoding", "content-length", "connection")
        self._answer(answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in skipped], data)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - what the standard library looks for

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def guarded(host: str, authorization: str, certificate: Path, key: Path) -> Iterator[str]:
    """Give the ``https://`` address of a proxy before a server: it asks for the token and speaks as an account behind.

    Args:
        host: Host and port of the server.
        authorization: What the server asks for.
        certificate: Of ``localhost``, with whoever signed it.
        key: Its key.
    """
    handler = type("Guard", (_Guard,), {"behind": host, "password": authorization})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def authority(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files of an authority's certificate, of one that it signed for ``localhost``, and its key."""
    root, roots_key, leaf, leafs_key = (folder / name for name in ("root.pem", "root.key", "leaf.pem", "leaf.key"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    new = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2"]
    parts = [
        ["-subj", "/CN=authority of the tests", "-keyout", roots_key, "-out", root],
        ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"],
    ]
    parts[1] += ["-CA", root, "-CAkey", roots_key, "-keyout", leafs_key, "-out", leaf]
    for part in parts:
        subprocess.run([*new, *map(str, part)], check=True, capture_output=True)
    return root, leaf, leafs_key
