"""Is everything there that a run needs: addresses enter, a finding for each part leaves, within ten seconds.

All checks run at once, each on its own; one that has not answered by then is a finding, too, whatever is dead. What a
finding says holds no secret: addresses are shown without, and what servers answer is not repeated.
"""

import base64
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from metantk_core import __version__, wiring
from metantk_core.adapters.addresses import admit_tracking, refuse_secrets, scheme, shown, sqlite_path
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.errors import InputError
from metantk_core.extras import installed_version
from metantk_core.secrecy import redacted
from metantk_core.workspace import Workspace

Status = Literal["ok", "warning", "failed"]

SECONDS = 7.0
"""Time in which every check has to answer, beside what it takes to start the command."""
_HTTP_SECONDS = 5.0
_NAME_SECONDS = 2.0
_ROOM = 5 * 2**30  # of a disk, below which a finding is a warning
_LEAST_ROOM = 256 * 2**20
_NEEDED: Mapping[str, str] = {
    "torch": "metantk",
    "mlflow": "metantk[tracking]",
    "boto3": "metantk[storage]",
    "kfp": "metantk[pipelines]",
    "learn2learn": "make setup",
}
_GPU_FILES = "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"
_GPU = """
import torch
if not torch.cuda.is_available():
    print(torch.version.cuda or "")
for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    free, total = torch.cuda.mem_get_info(number)
    torch.ones(1, device=f"cuda:{number}").add(1).cpu()
    print(f"cuda:{number}", torch.cuda.get_device_name(number).replace(" ", "_"), free, total)
"""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        part: What was looked at.
        status: ``ok``, ``warning`` or ``failed``.
        said: What was found.
        advice: What to do; empty if nothing.
    """

    part: str
    status: Status
    said: str
    advice: str = ""


@dataclass(frozen=True)
class Asked:
    """What is looked at.

    Attributes:
        place: Folder, store and MLflow of runs.
        host: Address of Kubeflow Pipelines; empty to leave it out.
        namespace: Namespace of a Kubeflow that several teams share.
        token_file: File with a token for it; without one, see ``adapters.kubeflow.access``.
        authority: File with the certificates that vouch for it.
        images: Images that the profile names, each with the steps that run in it.
        data: Where a person's images lie; none if the recipe needs none.
        seen_by_pods: Which of ``store`` and ``MLflow`` have an address that is meant for pods.
    """

    place: Workspace
    host: str = ""
    namespace: str = ""
    token_file: Path | None = None
    authority: Path | None = None
    images: Mapping[str, Collection[str]] = field(default_factory=dict)
    data: str | None = None
    seen_by_pods: Collection[str] = ()


def examine(asked: Asked, *, seconds: float = SECONDS) -> tuple[Finding, ...]:
    """Return what all checks found, in a fixed order.

    Args:
        asked: What to look at.
        seconds: Time until a check that has not answered counts as failed.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "software": _software,
        "disk": lambda: _disk(asked.place.root),
        "store": lambda: _seen(asked, "store", asked.place.store_uri, _store),
        "MLflow": lambda: _seen(asked, "MLflow", asked.place.tracking_uri, _tracking),
        "GPU": lambda: _gpu(seconds),
    }
    if asked.host:
        checks["Kubeflow"] = lambda: _kubeflow(asked, seconds)
    if asked.images:
        checks["image"] = lambda: _images(asked.images)
    if asked.data is not None:
        checks["data"] = lambda: _data(str(asked.data))
    found: dict[str, Finding] = {}
    threads = []
    for part, check in checks.items():
        # Daemons: one that waits for something dead does not keep the command from ending.
        threads.append(threading.Thread(target=_run, args=(part, check, found), daemon=True))
        threads[-1].start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = f"did not answer within {seconds:g} seconds"
    return tuple(
        found.get(part) or Finding(part, "failed", late, "see whether it is overloaded, or its network is cut")
        for part in checks
    )


def _run(part: str, check: Callable[[], Finding], found: dict[str, Finding]) -> None:
    try:
        found[part] = check()
    except InputError as error:
        said, _, advice = redacted(str(error)).rstrip(".").rpartition("; ")
        found[part] = Finding(part, "failed", said or advice, advice if said else "")
    except Exception as error:  # a check that fails is what people want to hear of
        found[part] = Finding(part, "failed", f"{type(error).__name__} while it was looked at", "please report it")


def _software() -> Finding:
    version = f"metantk {__version__}, Python {sys.version.split()[0]}"
    there, lacking = [], []
    for name, source in _NEEDED.items():
        if (found := installed_version(name)) is not None:
            there.append(f"{name} {found}")
        else:
            lacking.append((name, source))
    said = ", ".join([version, *there])
    if not lacking:
        return Finding("software", "ok", said)
    names = " and ".join(name for name, _ in lacking)
    advice = ", ".join(
        dict.fromkeys(source if source.startswith("make") else f"pip install '{source}'" for _, source in lacking)
    )
    return Finding("software", "warning", f"{said}; {names} not installed", f"if you need it: {advice}")


def _seen(asked: Asked, part: str, address: str, look: Callable[[str], Finding]) -> Finding:
    """Return what is found at an address; if it is meant for pods, what this machine can't know is a warning."""
    if part not in asked.seen_by_pods:
        return look(address)
    folder = _folder(address)
    if folder is None and _host_known(address):
        return look(address)
    if folder is None:
        at = f"{shown(address)} at {_server(address)}" if scheme(address) == "s3" else shown(address)
        found = Finding(part, "failed", f"the host of {at} is not known")
    else:
        found = look(address) if folder.is_dir() else Finding(part, "failed", f"there is no folder {folder}")
    if found.status != "failed":
        return found
    return replace(
        found, status="warning", said=f"{found.said}, as seen from this machine", advice="pods may see it otherwise"
    )


def _server(address: str) -> str:
    """Return the server that an address leads to, for people; that of a bucket is named by a variable."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return shown(endpoint if scheme(address) == "s3" else address)


def _host_known(address: str) -> bool:
    """Return whether the name of a host leads anywhere here; true where a proxy looks it up, or there is no name."""
    host = urllib.parse.urlsplit(_server(address)).hostname
    if not host or urllib.request.getproxies().get("http" if "http://" in _server(address) else "https"):
        return True
    try:
        within(_NAME_SECONDS, lambda: socket.getaddrinfo(host, None))
    except (OSError, UnicodeError, OverdueError):
        return False
    return True


def _folder(address: str) -> Path | None:
    """Return the folder that an address of a store is; none for a server."""
    return Path(address.removeprefix("file://")) if scheme(address) in ("", "file") else None


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest one above that is there; a link that leads nowhere is."""
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    return there


def _not_to_be_made(folder: Path) -> str:
    """Return in words why a folder can't be made; empty if it can. Proved by making another one beside it."""
    there = _nearest(folder)
    if not there.is_dir():
        return f"{there} is no folder"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".metantk-doctor-", dir=there))
    except OSError as error:
        return f"{there} takes no new folder ({error.strerror})"
    return ""


def _disk(folder: Path) -> Finding:
    there = _nearest(folder)
    if why := _not_to_be_made(folder):
        return Finding("disk", "failed", why, "choose another folder with --workspace, or get the right to write there")
    free = shutil.disk_usage(there).free
    said = f"{free / 2**30:.1f} GB free in {there}"
    if free < _LEAST_ROOM:
        return Finding("disk", "failed", said, "make room, or choose another folder with --workspace")
    return Finding("disk", "ok", said) if free >= _ROOM else Finding("disk", "warning", said, "make room for results")


def _store(uri: str) -> Finding:
    refuse_secrets(uri)
    advice = "give the account the right to write there, or choose another one with --store"
    folder = _folder(uri)
    if folder is not None and not folder.is_dir():
        if why := _not_to_be_made(folder):
            return Finding("store", "failed", f"{shown(uri)} can't be made: {why}", advice)
        return Finding("store", "ok", f"{shown(uri)} is made by the first run")
    key, made = f"doctor/{uuid.uuid4().hex}", b"written by metantk doctor"
    store = wiring.artifact_store(uri)
    try:
        store.write(key, made)
        read = store.read(key)
    except OSError as error:
        return Finding("store", "failed", f"{shown(uri)} can't be written: {error.strerror}", advice)
    store.delete([key])
    if read != made:
        return Finding("store", "failed", f"{shown(uri)} gives other bytes than were written", "check its server")
    return Finding("store", "ok", f"{shown(uri)}: written, read and deleted")


def _tracking(uri: str) -> Finding:
    kind = admit_tracking(uri)
    if kind == "sqlite":
        path = sqlite_path(uri)
        assert path is not None
        if not os.path.lexists(path):
            if why := _not_to_be_made(path.parent):
                advice = "choose another place with --tracking-uri or --workspace"
                return Finding("MLflow", "failed", f"{path} can't be made: {why}", advice)
            return Finding("MLflow", "ok", f"{path} is made by the first run")
        try:
            with closing(
                sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, timeout=3)
            ) as database:
                runs = database.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.Error as error:
            return Finding("MLflow", "failed", f"{path} can't be read: {error}", "move it away, or name another one")
        return Finding("MLflow", "ok", f"{path}, {runs:,} runs")
    if kind == "postgresql":
        return _listening("MLflow", uri, 5432)
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    headers = {"Content-Type": "application/json"}
    if token and not user and not (token.isascii() and token.isprintable()):
        said = "MLFLOW_TRACKING_TOKEN is no token of one line (not shown)"
        return Finding("MLflow", "failed", said, "copy it again, without the end of the line")
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps({"max_results": 1}).encode()
    answer = _asked(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search", headers, body)
    if isinstance(answer, bytes):
        version = _asked(f"{uri.rstrip('/')}/version", headers)
        theirs = version.decode(errors="replace")[:20] if isinstance(version, bytes) else "of unknown version"
        ours = installed_version("mlflow") or "not installed"
        if theirs != ours:
            return Finding(
                "MLflow", "warning", f"{shown(uri)} is MLflow {theirs}, here is {ours}", "use one version if calls fail"
            )
        return Finding("MLflow", "ok", f"{shown(uri)}, MLflow {theirs}")
    return Finding(
        "MLflow", "failed", f"{shown(uri)} {answer}", _advice(answer, "MLFLOW_TRACKING_USERNAME and _PASSWORD")
    )


def _kubeflow(asked: Asked, seconds: float) -> Finding:
    # Two requests, of which neither may take all the time.
    known = wiring.cluster(asked.host, asked.namespace, asked.token_file, asked.authority, seconds=0.4 * seconds)
    known.runs(1)  # its health, which connecting asks for, is told to everybody
    if known.ignores_namespace:
        said = f"{shown(asked.host)} lists runs to you, and has one namespace for all"
        return Finding("Kubeflow", "ok", said, "--namespace is not used")
    where = f" in the namespace {asked.namespace}" if asked.namespace else ""
    return Finding("Kubeflow", "ok", f"{shown(asked.host)} lists runs to you{where}")


def _images(images: Mapping[str, Collection[str]]) -> Finding:
    """Return a finding about all images; the wrong ones are named with their steps if there are several."""

    def named(status: Status) -> str:
        few = [image for image in images if _image(image) == status]
        return ", ".join(f"{image} ({_few(images[image])})" if len(images) > 1 else image for image in few)

    if wrong := named("failed"):
        advice = "build it anew, or install the other release"
        return Finding("image", "failed", f"not of the installed release, {__version__}: {wrong}", advice)
    if vague := named("warning"):
        advice = f"name the one of metantk {__version__}, as `make image` does"
        return Finding("image", "warning", f"without the name of a release: {vague}", advice)
    return Finding("image", "ok", f"of this release, {__version__}: {', '.join(images)}")


def _few(steps: Collection[str], most: int = 3) -> str:
    more = f" and {len(steps) - most} more" if len(steps) > most else ""
    return ", ".join(list(steps)[:most]) + more


def _image(image: str) -> Status:
    """Return whether an image is of this release: ``failed`` if of another one, ``warning`` if that can't be told."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    if tag == __version__ or tag.startswith(f"{__version__}-"):
        return "ok"
    return "warning" if tag in ("", "latest") else "failed"


def _gpu(seconds: float) -> Finding:
    wanted = os.environ.get(wiring.DEVICE, "").startswith("cuda") or bool(os.environ.get(wiring.ACCELERATOR))
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_FILES)):  # without waiting for torch
        if wanted:
            advice = "see the driver, or that the pod asked for a GPU"
            return Finding("GPU", "failed", "a GPU was asked for, and this machine shows none", advice)
        return Finding("GPU", "ok", "this machine shows none; networks run on the CPU")
    try:
        done = subprocess.run([sys.executable, "-c", _GPU], capture_output=True, text=True, timeout=seconds - 0.5)
    except subprocess.TimeoutExpired:
        return Finding(
            "GPU", "warning", f"torch did not start within {seconds:g} seconds", "try again on an idle machine"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding(
            "GPU",
            "failed",
            f"a GPU is there, but fails: {redacted(last)[:200]}",
            "check its driver, or use --device cpu",
        )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("cuda:")]
    if lines:
        parts = [
            f"{name} {kind.replace('_', ' ')}, {int(free) / 2**30:.1f} of {int(total) / 2**30:.1f} GB free"
            for name, kind, free, total in lines
        ]
        return Finding("GPU", "ok", "; ".join(parts))
    if wanted:
        return Finding(
            "GPU",
            "failed",
            "a GPU was asked for, and torch sees none",
            "check the driver, and that torch is built for CUDA",
        )
    cuda = done.stdout.strip()
    said = f"torch sees none (it is built for CUDA {cuda})" if cuda else "torch is built for the CPU alone"
    return Finding("GPU", "ok", f"{said}; networks run on the CPU")


def _data(path: str) -> Finding:
    refuse_secrets(path)
    if scheme(path) == "s3":
        place = wiring.images(path)
        assert place is not None
        if next(place.entries(), None) is None:
            return Finding("data", "failed", f"{shown(path)} holds nothing", "upload the images, or correct data.path")
        return Finding("data", "ok", f"{shown(path)} can be read")
    there = Path(path).expanduser()
    if not there.is_dir():
        return Finding("data", "failed", f"{shown(path)} is no folder on this machine", "correct data.path")
    try:
        some = next(iter(os.scandir(there)), None)
    except OSError as error:
        return Finding("data", "failed", f"{shown(path)} can't be read: {error.strerror}", "give yourself the right to")
    if some is None:
        return Finding("data", "failed", f"{shown(path)} is empty", "put the images there, or correct data.path")
    return Finding("data", "ok", f"{shown(path)} can be read")


def _listening(part: str, uri: str, usual: int) -> Finding:
    try:
        found = urllib.parse.urlsplit(uri)
        found.port  # noqa: B018 - looked at when it is asked for
    except ValueError:
        kind = scheme(uri)
        said = f"the host and port of {shown(uri)} can't be told"
        return Finding(part, "failed", said, f"give {kind}://host:port/…, with a port of digits up to 65535")
    try:
        socket.create_connection((found.hostname or "localhost", found.port or usual), _HTTP_SECONDS).close()
    except OSError:
        return Finding(part, "failed", f"nobody answers at {shown(uri)}", "see that the server runs, and the address")
    return Finding(part, "ok", f"{shown(uri)} listens (whether it lets you in is seen by the first run)")


def _asked(address: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes | str:
    """Return what a server answers, or in words that it did not."""
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        asked = urllib.request.Request(address, data=body, headers=dict(headers))  # noqa: S310 - http(s), by admission
        with opener.open(asked, timeout=_HTTP_SECONDS) as answer:
            return answer.read(100_000)
    except urllib.error.HTTPError as error:
        return f"answers HTTP {error.code}"
    except (OSError, ValueError, OverflowError) as error:  # the last one: a port of more than 65535
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" in str(reason):
            return "shows a certificate that is not trusted here"
        return "does not answer"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection leads to a page to log in; nothing is sent there."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """Follow none."""


def _advice(answer: str, secret: str) -> str:
    if "certificate" in answer:
        return "name the authority that signed it in SSL_CERT_FILE"
    if any(code in answer for code in ("401", "403", "302", "303")):
        return f"give credentials: {secret}"
    if "404" in answer:
        return "see the path of the address"
    return "see that the server runs, and the address" if "HTTP" not in answer else "see the server's own log"
