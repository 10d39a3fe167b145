"""Stored work that says whether it is whole and whose it is: a key and bytes enter, the same bytes or none leave.

The first line of a sealed file holds a SHA-256 of the key and the bytes. So a file that was cut, changed or put in the
place of another one is noticed, and what it held is computed again: never served, and never in the way.
"""

import hashlib
import logging

from metantk_core.ports import ArtifactStore, DamageError

FORMAT = 2
"""Number of the store's layout, a part of every sealed key: what another layout left is neither read nor touched."""

_LOG = logging.getLogger(__name__)


def write_sealed(store: ArtifactStore, key: str, data: bytes, *, durable: bool = True) -> None:
    """Store bytes under a key so that :func:`read_sealed` gives them back.

    Args:
        store: Where.
        key: The key.
        data: The bytes.
        durable: Whether they must outlive a power failure.
    """
    store.write(key, sealed(key, data), durable=durable)


def read_sealed(store: ArtifactStore, key: str) -> bytes | None:
    """Return what was stored under a key; none, after a warning that names the file, if anything else is there.

    Args:
        store: Where.
        key: The key.
    """
    found = read_if_whole(store, key)
    if found is None:
        return None
    data = unsealed(key, found)
    if data is None:
        warn_of_damage(store, key)
    return data


def read_if_whole(store: ArtifactStore, key: str) -> bytes | None:
    """Return what is stored under a key, or none; nothing, which no seal fits, for what the store itself finds damaged.

    Args:
        store: Where.
        key: The key.
    """
    try:
        return store.read(key)
    except DamageError:
        return b""


def sealed(key: str, data: bytes) -> bytes:
    """Return bytes as they are stored under a key."""
    return _seal(key, data) + data


def unsealed(key: str, found: bytes) -> bytes | None:
    """Return what was sealed under a key; none if that is not what was found there."""
    line, _, data = found.partition(b"\n")
    return data if line + b"\n" == _seal(key, data) else None


def warn_of_damage(store: ArtifactStore, key: str) -> None:
    """Say that a file can't be used."""
    _LOG.warning("%s is damaged or in the wrong place; what it held is computed again.", store.place(key))


def _seal(key: str, data: bytes) -> bytes:
    return b"metantk %d sha256 %s\n" % (FORMAT, hashlib.sha256(b"%s\0%s" % (key.encode(), data)).hexdigest().encode())
