"""Who asks which Kubeflow: options and environment variables enter, an address and a hidden credential leave.

Tokens and cookies come from variables and files alone: what is typed after a command is seen by everybody on a machine.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metantk_core.adapters.addresses import may_hold_secret, scheme, shown
from metantk_core.errors import InputError, quoted
from metantk_core.files import open_regular, reason
from metantk_core.secrecy import redacted

TOKEN = "METANTK_KUBEFLOW_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE = "METANTK_KUBEFLOW_TOKEN_FILE"  # noqa: S105
COOKIE = "METANTK_KUBEFLOW_COOKIE"
AUTHORITY = "METANTK_KUBEFLOW_CA"

_POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where Kubeflow's documentation has pods mount a token of their service account for KFP."""
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MOST_BYTES = 65_536


@dataclass(frozen=True)
class Access:
    """Where Kubeflow is and as whom it is asked.

    Attributes:
        host: Address of Kubeflow Pipelines, such as ``https://kubeflow.example/pipeline``, without a slash at its end.
        namespace: Namespace of a Kubeflow that several teams share; empty for another one.
        authority: File with the certificates that vouch for the server; none for the usual ones.
        token_file: File with a token, which is read again for each request: Kubernetes renews it.
        token: Token of ``METANTK_KUBEFLOW_TOKEN``.
        cookie: Cookie of a session in a browser.
    """

    host: str
    namespace: str = ""
    authority: Path | None = None
    token_file: Path | None = None
    token: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The address for people."""
        return shown(self.host)

    @property
    def credential(self) -> str:
        """What is shown to the server, in words; empty for nothing."""
        if self.token_file is not None:
            return f"the token of the file {self.token_file}"
        if self.token:
            return f"the token of {TOKEN}"
        return f"the cookie of {COOKIE}" if self.cookie else ""

    def current_token(self) -> str:
        """Return the token of now; empty if there is none.

        Raises:
            InputError: Its file can't be read, or what is in there is none.
        """
        if self.token_file is None:
            return self.token
        return _admit_secret(_read(self.token_file, "the token"), f"the file {self.token_file}")

    def hidden(self, text: str) -> str:
        """Return a text of the server without what was shown to it."""
        try:
            secrets = {self.current_token(), self.cookie}
        except InputError:
            secrets = {self.token, self.cookie}
        return redacted(text, also=secrets | {pair.partition("=")[2] for pair in re.split(r";\s*", self.cookie)})


def access(
    host: str,
    namespace: str = "",
    token_file: Path | None = None,
    authority: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """Return where Kubeflow is and as whom it is asked.

    Args:
        host: Address of Kubeflow Pipelines.
        namespace: A namespace; without one that of this pod, if this is one.
        token_file: File with a token; without one, the token or cookie of the environment, or the token that this
            pod's service account has for KFP.
        authority: File with certificates.
        environment: Holds ``METANTK_KUBEFLOW_TOKEN`` or ``METANTK_KUBEFLOW_COOKIE``.

    Raises:
        InputError: One of these can't be used, or may hold a secret where it would be seen.
    """
    if not host:
        raise InputError(
            "Expected the address of Kubeflow Pipelines, got none; give it with --host or in METANTK_KUBEFLOW, such as "
            "https://kubeflow.example/pipeline, or http://localhost:8080 beside kubectl port-forward."
        )
    if scheme(host) not in ("http", "https") or host.endswith("://") or may_hold_secret(host):
        raise InputError(
            "Expected the address of Kubeflow Pipelines as http(s)://host:port/path, without '#', '?' and what "
            f"follows, or a user and password, got {shown(host)}; a token belongs in {TOKEN}, a cookie in {COOKIE}."
        )
    if namespace and not _NAMESPACE.fullmatch(namespace):
        raise InputError(
            f"Expected a namespace of small letters, digits and '-', got {quoted(namespace)}; see kubectl get ns."
        )
    token, cookie = environment.get(TOKEN, ""), environment.get(COOKIE, "")
    if token_file is None and token and cookie:
        raise InputError(f"Expected {TOKEN} or {COOKIE}, got both; unset one.")
    if token_file is None and not token and not cookie and _POD_TOKEN.exists():
        token_file = _POD_TOKEN
    known = Access(
        host.rstrip("/"),
        namespace,
        _admitted_authority(authority),
        token_file,
        _admit_secret(token, TOKEN) if token and token_file is None else "",
        _admit_secret(cookie, COOKIE, spaces=True) if cookie and token_file is None else "",
    )
    known.current_token()
    return known


def _admit_secret(text: str, where: str, *, spaces: bool = False) -> str:
    """Return a token or cookie that can stand in the head of a request."""
    bare = text.strip()
    if not bare or not bare.isascii() or not bare.isprintable() or (" " in bare and not spaces):
        raise InputError(
            f"Expected a {'cookie' if spaces else 'token'} of one line in {where}, got something else (not shown); "
            "copy it again."
        )
    return bare


def _admitted_authority(path: Path | None) -> Path | None:
    if path is None:
        return None
    _read(path, "certificates")
    try:
        ssl.create_default_context(cafile=str(path))
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"Expected certificates (PEM) of an authority in {path}, got something else; name the file that "
            "'curl --cacert' takes."
        ) from error
    return path


def _read(path: Path, what: str) -> str:
    try:
        with open_regular(path) as file:
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read {what} from {path} ({reason(error)}); name a file that is there and that you may read."
        ) from error
