"""Artifact store in a folder: keys are paths below it, every file appears as a whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from metantk_core.errors import InputError

_UNFINISHED = ".unfinished-"


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
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):  # what went wrong above is what the caller must hear
            unfinished.unlink()
        raise


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
        parts = key.split("/")
        if not key or "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"A key is a relative path of plain names such as 'run/scores.jsonl', not {key!r}.")
        return self.root / PurePosixPath(key)
