"""Addresses of stores and servers: a URI enters; what may be shown of it leaves, and whether it may hold a secret.

A password ends up in the oddest places of an address that was typed in a hurry. So nothing here tries to find it: an
address is shown as far as its parts have the form of a host, a port and a path, and the rest is left out.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from metantk_core.errors import InputError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_KEY_AND_VALUE = re.compile(r"(token|key|secret|passw|pwd|credential|auth|sig)[^/=]*=", re.IGNORECASE)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LONGEST_PREFIX = 500  # bytes, of the 1,024 that an object's name may have
_TRACKING = ("http", "https", "postgresql", "sqlite")
_FILES = ("", "file", "sqlite", "sqlite+pysqlite")
"""Schemes whose path is one on a disk, where a person may have an ``@`` in a folder's name."""


def shown(uri: str) -> str:
    """Return a URI without what may be secret: user, password, query, fragment, and what can't be told from these."""
    start, path = _host_and_path(uri)
    if path is None:
        kind = f"{scheme(uri)}://…" if scheme(uri) else "…"
        return f"{kind} (the rest, which may hold a password, is not shown)"
    return f"{start}{path}"


def scheme(uri: str) -> str:
    """Return the lower-case scheme of a URI, such as ``https``; empty for a path."""
    kind, separator, _ = uri.partition("://")
    return kind.lower() if separator and _SCHEME.fullmatch(kind) else ""


def credentials(uri: str) -> tuple[str, str] | None:
    """Return user and password of a URI, decoded, or none; a user without a password has an empty one."""
    parts = _split(uri)
    if parts is None or parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def may_hold_secret(uri: str) -> bool:
    """Return whether an address has any part besides scheme, host, port and path, or none of these forms."""
    return _host_and_path(uri) != _whole(uri)


def refuse_secrets(uri: str) -> None:
    """Do nothing for an address that can't hold a secret: what is written into a file or a list of arguments.

    Raises:
        InputError: It may hold one.
    """
    if may_hold_secret(uri):
        server = (
            "scheme, host, port and path alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
            "MLFLOW_TRACKING_TOKEN) where the work runs"
        )
        bucket = "s3://bucket/prefix alone, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the work runs"
        raise InputError(
            f"The address {shown(uri)} was given with a user, password, query or fragment, which would be readable in "
            f"the result; give {({'': 'a folder', 's3': bucket}).get(scheme(uri), server)}."
        )


def admit_bucket(uri: str) -> tuple[str, str]:
    """Return bucket and prefix of an address ``s3://bucket/prefix``; the prefix may be empty.

    Raises:
        InputError: It is no such address, or may hold a secret.
    """
    refuse_secrets(uri)
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    if (
        scheme(uri) != "s3"
        or not _BUCKET.fullmatch(bucket)
        or (prefix and any(part in ("", ".", "..") for part in prefix.removesuffix("/").split("/")))
        or "\\" in prefix
        or len(prefix.encode()) > _LONGEST_PREFIX
    ):
        raise InputError(
            "Expected a place in a bucket as s3://bucket/prefix, with a bucket of 3 to 63 lower-case letters, digits, "
            f"'.' and '-' and a prefix of plain names with '/', got {shown(uri)}; the address of a server of your own "
            "belongs in AWS_ENDPOINT_URL."
        )
    return bucket, prefix.removesuffix("/")


def sqlite_uri(path: Path) -> str:
    """Return the address of a SQLite database, whatever characters its path holds."""
    if "?" not in str(path) and "%" not in str(path):
        return f"sqlite:///{path}"
    # With the driver named: from an address without it MLflow takes the path as it stands, and makes that folder too.
    return f"sqlite+pysqlite:///{quote(str(path))}"


def sqlite_path(uri: str) -> Path | None:
    """Return the path of the database that a SQLite address names; none if it names no file."""
    path = unquote(uri.split("?", 1)[0].partition(":///")[2])
    return Path(path) if path and ":memory:" not in path else None


def refuse_misplaced_secrets(uri: str) -> None:
    """Do nothing for an address of a server that has user and password at most where they belong.

    Raises:
        InputError: What is host and path, and what is a password, can't be told apart.
    """
    if scheme(uri) in ("http", "https") and (uri.endswith("://") or _host_and_path(uri)[1] is None):
        raise InputError(
            f"Expected the MLflow server's address as http(s)://host:port/path, got {shown(uri)}; give user and "
            "password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token in MLFLOW_TRACKING_TOKEN."
        )


def admit_tracking(uri: str) -> str:
    """Return the kind of MLflow that an address leads to: its scheme, without the name of a driver.

    Raises:
        InputError: MLflow is reached by no such scheme, it may hold a misplaced password, or it names no file.
    """
    refuse_misplaced_secrets(uri)
    kind = scheme(uri).partition("+")[0]
    if kind not in _TRACKING:
        raise InputError(
            f"MLflow can't be reached at {shown(uri)!r}; give an address that starts with one of "
            f"{', '.join(f'{known}://' for known in _TRACKING)}, such as sqlite:///runs/mlflow.db."
        )
    if kind == "sqlite" and sqlite_path(uri) is None:
        raise InputError(
            f"A SQLite address names a file, as in sqlite:///runs/mlflow.db, which {shown(uri)!r} does not."
        )
    return kind


def _host_and_path(uri: str) -> tuple[str, str | None]:
    """Return what may be shown: everything up to the host and port, and the path; none for a path that can't be told.

    An ``@`` behind the host is not told apart: a password may hold ``/``, ``?`` and ``#`` as well.
    """
    kind = scheme(uri)
    start, rest = (f"{kind}://", uri.partition("://")[2]) if kind else ("", uri)
    if kind and not rest:
        return start, ""
    if kind and kind not in _FILES:
        authority, slash, rest = rest.partition("/")
        if not slash:
            authority, mark, rest = re.match(r"([^?#]*)([?#]?)(.*)", authority, re.DOTALL).groups()  # type: ignore[union-attr]
            rest = mark + rest
        host = authority.rpartition("@")[2]
        if not _HOST.fullmatch(host):
            return "", None
        start, rest = f"{start}{host}", slash + rest
        at_sign = "@" in rest or "%40" in rest
    else:
        local = bool(kind) or re.match(r"\.{0,2}/(?!/)", rest)
        at_sign = re.search(r":.*(@|%40)" if local else r"@|%40", rest) is not None
    path = re.split(r"[?#;]", rest, maxsplit=1)[0]
    if at_sign or _KEY_AND_VALUE.search(path) or not path.isprintable():
        return "", None
    if not kind and re.match(r"[^/.]*:", path):  # host:port or user:password without a scheme, not a path
        return "", None
    return start, path


def _whole(uri: str) -> tuple[str, str]:
    """Return the same two parts of a URI as it is written."""
    kind = scheme(uri)
    if not kind:
        return "", uri
    rest = uri.partition("://")[2]
    if kind in _FILES:
        return f"{kind}://", rest
    authority, slash, path = rest.partition("/")
    return f"{kind}://{authority}", slash + path


def _split(uri: str) -> SplitResult | None:
    try:
        return urlsplit(uri)
    except ValueError:
        return None
