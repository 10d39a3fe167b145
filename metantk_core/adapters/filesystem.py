"""Artifact store in a folder: keys are paths below it, every file appears as a whole."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from metantk_core.errors import InputError
from metantk_core.files import (
    UNFINISHED,
    create_atomically,
    link_or_copy,
    remove_abandoned,
    unfinished_in,
    write_atomically,
)
from metantk_core.ports import Leftovers, Stored, admit_key


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
        with self._writing(key) as path:
            write_atomically(path, data, durable=durable)

    def create(self, key: str, data: bytes) -> bytes:
        """Store bytes under a key unless something is there, and return what is there then.

        Raises:
            InputError: The folder can't be written or read.
        """
        with self._writing(key) as path:
            if create_atomically(path, data):
                return data
        return self.read(key) or b""

    def read_into(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> bool:
        """Give the file of a key another name, or copy it, and return whether there is one.

        Raises:
            InputError: It can't be read, or not be written there.
        """
        source = self._path(key)
        if not source.is_file():
            return False
        try:
            link_or_copy(source, path)
            heard(path.stat().st_size)
        except FileNotFoundError:
            return False  # removed just now
        except OSError as error:
            raise InputError(
                f"Can't put {source} into {path.parent}: {error.strerror}; both must be there, with space left."
            ) from error
        return True

    def write_file(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> None:
        """Store a file, which nobody changes in its place, under a key: as a second name of it, or a copy.

        Raises:
            InputError: The folder can't be written.
        """
        with self._writing(key) as target:
            link_or_copy(path, target)
            heard(path.stat().st_size)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove what is stored under some keys, as far as it is there.

        Raises:
            InputError: A file can't be removed.
        """
        for path in map(self._path, keys):
            try:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
            except OSError as error:
                raise InputError(f"Can't remove {path}: {error.strerror}; check who may write there.") from error

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        return self._path(key).is_file()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with a prefix, sorted; files that a crash left unfinished are no keys."""
        yield from sorted(key for key, _ in self._files(prefix))

    def listing(self, prefix: str = "") -> Iterator[Stored]:
        """Give what is stored under the keys that start with a prefix, sorted."""
        now = time.time()
        for key, path in sorted(self._files(prefix)):
            with suppress(OSError):  # removed just now
                status = path.stat()
                yield Stored(key, status.st_size, now - status.st_mtime)

    def clear_unfinished(self, seconds: float, *, really: bool = True) -> Leftovers:
        """Remove what killed writers left, but nothing that a living one has open, however old it is."""
        del seconds
        sizes = [remove_abandoned(path, really=really) for path in unfinished_in(self.root)]
        found = [size for size in sizes if size >= 0]
        return Leftovers(len(found), sum(found))

    def place(self, key: str) -> str:
        """Return the path of a key's file."""
        return str(self._path(key))

    def _files(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Give the keys that start with a prefix, and their files."""
        # Only the folder that holds all keys of the prefix is read: a store is shared by many runs.
        top = self.root / prefix.rpartition("/")[0] if prefix else self.root
        for path in top.rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(UNFINISHED) and path.is_file():
                yield key, path

    @contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except OSError as error:
            raise InputError(
                f"Can't write to {path.parent}: {error.strerror}; give a folder that you may write to, with space left."
            ) from error

    def _path(self, key: str) -> Path:
        return self.root / PurePosixPath(admit_key(key))
