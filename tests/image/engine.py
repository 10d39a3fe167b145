"""A Docker engine, and the base image that ours is built on: those of this machine, or made here where it has none.

An engine of our own needs root and Debian's packages docker.io and debootstrap, but neither a bridge nor rules for the
firewall: containers share this machine's network. A base made here proves the steps of the Dockerfile, not the public
base; how pip reaches its index on this machine is a part of such a base, so that it is none of the Dockerfile.
"""

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"

_OF_PIP = ("cert", "default-timeout", "extra-index-url", "find-links", "index-url", "proxy", "timeout", "trusted-host")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Engine:
    """A Docker engine.

    Attributes:
        address: Where it listens, as ``DOCKER_HOST`` says it; empty for the client's own choice.
    """

    address: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {"DOCKER_HOST": self.address} if self.address else {}

    def docker(self, *arguments: str) -> str:
        """Return what a command of Docker prints; it goes well, or what it says ends the test."""
        done = self.tried(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Return how a command of Docker ended."""
        return subprocess.run(
            ["docker", *arguments], env={**os.environ, **self.environment}, capture_output=True, text=True
        )

    def has(self, image: str) -> bool:
        """Return whether an image is there."""
        return self.tried("image", "inspect", image).returncode == 0


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Give the engine of this machine, or one of our own that ends, with all that it holds, afterwards."""
    if shutil.which("docker") is None:
        pytest.fail("Expected Docker's client, found none; install Docker (Debian: apt-get install docker.io).")
    machines = Engine(os.environ.get("DOCKER_HOST", ""))
    if machines.tried("info").returncode == 0:
        yield machines
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.fail("No Docker engine answers, and to start one takes root and dockerd (apt-get install docker.io).")
    # Not in pytest's folder: a socket's path may not be that long.
    with tempfile.TemporaryDirectory(prefix="metantk-engine-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        engine = Engine(f"unix://{folder}/docker.sock")
        command = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--host", engine.address]
        command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while engine.tried("info").returncode != 0:
                if time.monotonic() > until or process.poll() is not None:
                    pytest.fail(f"The engine did not start:\n{Path(folder, 'log').read_text()[-3000:]}")
                time.sleep(0.5)
            yield engine
        finally:
            process.terminate()
            process.wait(60)
            # What it leaves mounted, the folder could not be removed with.
            subprocess.run(["umount", f"{folder}/exec/netns/default"], capture_output=True)


def with_base(engine: Engine) -> list[str]:
    """See to it that the engine has the Dockerfile's base, and return what the build needs to be told besides."""
    found = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    base = found[1]
    if not engine.has(base) and engine.tried("pull", base).returncode != 0:
        _make_base(engine, base)
    ours = engine.docker("image", "inspect", base, "--format", "{{.Comment}}") == "Imported from -"
    # Where images can't be had, the index of torch's builds can't either: pip as it is configured takes what there is.
    return ["--network", "host", *(["--build-arg", "TORCH_INDEX="] if ours else [])]


def _make_base(engine: Engine, base: str) -> None:
    """Make a stand-in for an image of Python, such as ``python:3.11-slim-bookworm``, of Debian's packages."""
    wanted, suite = re.fullmatch(r"python:([0-9.]+)-slim-(\w+)", base).groups()  # type: ignore[union-attr]
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.fail(f"The engine can't pull {base}, and to make it takes root and debootstrap (apt-get install …).")
    with tempfile.TemporaryDirectory(prefix="metantk-base-") as folder:
        root = Path(folder, "root")
        packages = "--include=python3,python3-venv,python3-dev,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", packages, suite, root], check=True, capture_output=True)
        python = root / "usr" / "bin" / f"python{wanted}"
        assert python.exists(), f"Debian's {suite} has another Python than {wanted}"
        (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        _take_ways_to_packages(root)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as packed:
            command = ["docker", "import", "--change", f"ENV PATH={_PATH}", "-", base]
            subprocess.run(command, stdin=packed.stdout, env={**os.environ, **engine.environment}, check=True)


def _take_ways_to_packages(root: Path) -> None:
    """Let pip reach, in a base, what it reaches on this machine."""
    trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if trusted is not None:
        shutil.copyfile(trusted, root / _CERTIFICATES.removeprefix("/"))
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, text = line.partition("=")
        name, words = name.rpartition(".")[2], str(ast.literal_eval(text)).split()
        # An index in a folder may be large, and holds what the public one has.
        settings[name] = [word for word in words if not word.startswith("file:")]
    settings["cert"] = [_CERTIFICATES]
    for word in settings.get("find-links", []):
        if Path(word).is_dir():
            shutil.copytree(word, root / word.removeprefix("/"))
    chosen = [f"{name} = {' '.join(settings[name])}" for name in _OF_PIP if settings.get(name)]
    (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *chosen, ""]))
