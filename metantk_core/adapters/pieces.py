"""A cache on disk for pieces of objects in buckets: bytes by name, not more than a limit, each checked when it is read.

Many processes may use one folder at once. The piece that was used longest ago goes first. What is in it may be removed
at any time; a disk that is full costs the cache and nothing else.

The layout: ``<2 digits>/<digest of the name>`` holds the SHA-256 of a piece and the piece; ``used`` holds the bytes
that are taken, and is locked while one is written.
"""

import fcntl
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metantk_core.errors import InputError
from metantk_core.files import UNFINISHED, sweep, write_atomically

FOLDER = "METANTK_CACHE"
"""Environment variable that names the folder of the cache."""
SIZE = "METANTK_CACHE_SIZE"
"""Environment variable that says how large it may be; 0 for none."""
_USUAL_SIZE = 10 * 10**9
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([KMGT]?I?B|)", re.IGNORECASE)
_ROOM = 0.9  # of the limit is left when room is made
_BLOCK = 4096  # bytes in which disks count
_CHECKSUM = 32

_LOG = logging.getLogger(__name__)


class Pieces:
    """A cache in a folder.

    Args:
        folder: The folder; made when needed.
        limit: Bytes on disk that it takes at most.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._told = threading.Event()

    def holds(self, name: str) -> bool:
        """Return whether a piece is there."""
        return self._path(name).exists()

    def read(self, name: str) -> bytes | None:
        """Return a piece, or none if it is not there or no longer what it was."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        checksum, piece = data[:_CHECKSUM], data[_CHECKSUM:]
        if hashlib.sha256(piece).digest() == checksum:
            return piece
        _LOG.warning("%s is damaged and is fetched again.", path)
        self.drop(name)
        return None

    def write(self, name: str, piece: bytes) -> None:
        """Keep a piece if it can be kept."""
        size = _on_disk(_CHECKSUM + len(piece))
        if size > self._limit:
            return
        try:
            with self._room_for(size) as there_is:
                if there_is:
                    write_atomically(self._path(name), hashlib.sha256(piece).digest() + piece, durable=False)
        except OSError as error:
            if not self._told.is_set():
                self._told.set()
                _LOG.warning(
                    "Can't keep copies in %s (%s); what is read is read from the bucket.", self._folder, error.strerror
                )

    def drop(self, name: str) -> None:
        """Remove a piece."""
        with suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / digest[:2] / digest

    @contextmanager
    def _room_for(self, size: int) -> Iterator[bool]:
        """Make room for so many bytes, if there is none, and let nobody else write meanwhile; give whether there is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # a file system without locks: then the limit is one for each process
                fcntl.flock(handle, fcntl.LOCK_EX)
            text = os.pread(handle, 40, 0).strip()
            used = int(text) if text.isdigit() else None
            if used is None or used + size > self._limit:
                used = self._make_room(size)
            there_is = used + size <= self._limit
            # Noted before it is written: who dies in between leaves too high a number, which is counted anew.
            os.pwrite(handle, f"{used + size if there_is else used:<20}".encode(), 0)
            yield there_is
        finally:
            os.close(handle)

    def _make_room(self, size: int) -> int:
        """Remove what was used longest ago, if there is too little room, and return what is used then."""
        sweep(self._folder)
        found: list[tuple[float, int, str]] = []
        for entry in self._entries():
            with suppress(OSError):
                status = entry.stat()
                found.append((status.st_mtime, _on_disk(status.st_size), entry.path))
        used = sum(taken for _, taken, _ in found)
        if used + size <= self._limit:
            return used
        for _, taken, path in sorted(found):
            if used + size <= _ROOM * self._limit:
                break
            with suppress(OSError):
                os.unlink(path)
                used -= taken
        return used

    def _entries(self) -> Iterator["os.DirEntry[str]"]:
        for folder in os.scandir(self._folder):
            if folder.is_dir():
                yield from (entry for entry in os.scandir(folder.path) if not entry.name.startswith(UNFINISHED))


def pieces() -> Pieces | None:
    """Return the cache that the environment asks for, or none.

    Raises:
        InputError: The size is none.
    """
    text = os.environ.get(SIZE, "").strip()
    found = _SIZE.fullmatch(text)
    if text and not found:
        raise InputError(f"Expected a size such as 10GB, 500MB or 0 in {SIZE}, got something else; correct it.")
    limit = int(float(found[1]) * _UNITS[found[2].upper()]) if found and text else _USUAL_SIZE
    if not limit:
        return None
    folder = cache_folder()
    return None if folder is None else Pieces(folder / "pieces", limit)


def cache_folder() -> Path | None:
    """Return the folder that the environment names for what may be removed at any time; none without a home."""
    named = os.environ.get(FOLDER)
    try:
        if named:
            return Path(named).expanduser()
        above = os.environ.get("XDG_CACHE_HOME")
        return (Path(above) if above else Path.home() / ".cache") / "metantk"
    except RuntimeError:  # an account without a home
        return None


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
