"""Artifact store in a folder: keys are paths below it, every file appears as a whole."""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from metantk_core.errors import InputError
from metantk_core.ports import admit_key

_UNFINISHED = ".unfinished-"
_SECONDS_TO_MARK = 5.0


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, whatever happens in between.

    Args:
        path: The file; its folder is made.
        data: Its new content.
        durable: Whether it must outlive a power failure; costs a disk flush.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            _mark_as_ours(file)
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):  # what went wrong above is what the caller must hear
            unfinished.unlink()
        raise


def sweep(folder: Path) -> None:
    """Remove from a folder, and those below it, the files that killed processes left unfinished.

    What another process is writing at the moment stays: it holds a lock on its file.
    """
    for top, _, names in os.walk(folder):
        for name in names:
            if name.startswith(_UNFINISHED):
                with suppress(OSError):
                    _remove_if_abandoned(Path(top, name))


def _remove_if_abandoned(path: Path) -> None:
    if time.time() - path.stat().st_mtime < _SECONDS_TO_MARK:
        return  # its process may be about to lock it
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _mark_as_ours(file: BinaryIO) -> None:
    with suppress(OSError):  # a file system without locks: then nothing is swept, for sweeping needs one
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass(frozen=True)
class FilesystemStore:
    """An ``ArtifactStore`` in a folder.

    Attributes:
        root: The folder; made when first needed.
    """

    root: Path

    def read(self, key: str) -> bytes | None:
        """Return what is stored under a key, or none.

        Raises:
            InputError: The file is there but can't be read.
        """
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise InputError(
                f"Can't read {self._path(key)}: {error.strerror}; check who may read that folder."
            ) from error

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Store bytes under a key, as a whole and, unless told otherwise, flushed to disk, which takes milliseconds.

        Raises:
            InputError: The folder can't be written, or a key stands where a folder is needed.
        """
        path = self._path(key)
        try:
            write_atomically(path, data, durable=durable)
        except OSError as error:
            raise InputError(
                f"Can't write to {path.parent}: {error.strerror}; give a folder that you may write to, with space left."
            ) from error

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        return self._path(key).is_file()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with a prefix, sorted; files that a crash left unfinished are no keys."""
        # Only the folder that holds all keys of the prefix is read: a store is shared by many runs.
        top = self.root / prefix.rpartition("/")[0] if prefix else self.root
        found = (
            path.relative_to(self.root).as_posix()
            for path in top.rglob("*")
            if not path.name.startswith(_UNFINISHED) and path.is_file()
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def place(self, key: str) -> str:
        """Return the path of a key's file."""
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return self.root / PurePosixPath(admit_key(key))
