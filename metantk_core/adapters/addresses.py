"""Addresses of stores and servers: a URI enters, what may be shown of it leaves."""

from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from metantk_core.errors import InputError


def shown(uri: str) -> str:
    """Return a URI without what may be secret: user, password, query and fragment."""
    parts = _split(uri)
    if parts is None:
        return "(an address that can't be read)"
    if not parts.netloc:
        return uri.split("?", 1)[0].split("#", 1)[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def scheme(uri: str) -> str:
    """Return the lower-case scheme of a URI, such as ``https``; empty for a path."""
    parts = _split(uri)
    return parts.scheme if parts and "://" in uri else ""


def credentials(uri: str) -> tuple[str, str] | None:
    """Return user and password of a URI, decoded, or none; a user without a password has an empty one."""
    parts = _split(uri)
    if parts is None or parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def refuse_credentials(uri: str) -> None:
    """Do nothing for a URI that holds no user or password.

    Raises:
        InputError: It holds one, and would be written into a file that others read.
    """
    if credentials(uri):
        raise InputError(
            f"The address {shown(uri)} was given with a user or password, which would be readable in the result; "
            "give it without, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the work runs."
        )


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


def _split(uri: str) -> SplitResult | None:
    try:
        return urlsplit(uri)
    except ValueError:
        return None
