"""Files: the one way in which they are written, and places that they are read from, on disk or in a bucket.

A path enters, bytes or a listing leave. What reads images knows a `Place` and nothing of disks and buckets; `Folder` is
the one on disk, that in a bucket is an adapter.
"""

import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from metantk_core.errors import InputError

UNFINISHED = ".unfinished-"
"""Beginning of the name of a file that is still being written."""
FILE, FOLDER = "a file", "a folder"
_SECONDS_TO_MARK = 5.0
_LONGEST_SHOWN = 300


@dataclass(frozen=True)
class Entry:
    """What lies under one name in a folder.

    Attributes:
        name: The name.
        kind: `FILE`, `FOLDER`, or in words what else it is.
        size: Bytes of a file.
        version: Changes whenever the content may have changed: times on a disk, the checksum that a bucket gives.
    """

    name: str
    kind: str
    size: int = 0
    version: tuple[int | str, ...] = ()


@runtime_checkable
class Place(Protocol):
    """A folder of files that may be read; paths in it are relative, with ``/``, and ``""`` is the folder itself.

    What can't be read is an ``OSError`` with the system's words, or an ``InputError`` that is a whole sentence.
    """

    @property
    def name(self) -> str:
        """Its name for people, without what it lies in."""
        ...

    def where(self, path: str = "") -> str:
        """Return the whole path or address of something in it, for people."""
        ...

    def holds_folder(self, path: str = "") -> bool:
        """Return whether a folder lies under a path."""
        ...

    def entries(self, path: str = "", wanted: Callable[[str], bool] = bool) -> Iterator[Entry]:
        """Give what is in a folder, hidden entries left out, in the order of names.

        Args:
            path: The folder.
            wanted: Says by the name what is asked for; nothing else is looked at.
        """
        ...

    def entry(self, path: str) -> Entry | None:
        """Return what lies under a path, or none."""
        ...

    def open(self, path: str) -> BufferedIOBase:
        """Open a file to read from any place in it; parts that nobody reads are not fetched."""
        ...

    def opened(self, paths: Iterable[str]) -> Iterator[BufferedIOBase]:
        """Open many files that are read one after the other, each before the last one is closed.

        Args:
            paths: In the order in which they are read. Files far away are fetched ahead, some at a time.
        """
        ...

    def forget(self, path: str) -> None:
        """Drop copies of a file that turned out damaged, so that it is fetched anew next time."""
        ...


@dataclass(frozen=True)
class Folder:
    """A `Place` on disk. Links are followed.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def name(self) -> str:
        """Its name for people, without what it lies in."""
        try:
            return shown(self.root.resolve().name or self.root.anchor)
        except (OSError, RuntimeError, ValueError):  # a loop of links, or no path at all
            return shown(self.root.name)

    def where(self, path: str = "") -> str:
        """Return the path of something in it."""
        return str(self.root / path)

    def holds_folder(self, path: str = "") -> bool:
        """Return whether a folder lies under a path.

        Raises:
            OSError: That can't be found out.
            ValueError: No path is like that.
        """
        try:
            return stat.S_ISDIR(os.stat(self.root / path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def entries(self, path: str = "", wanted: Callable[[str], bool] = bool) -> Iterator[Entry]:
        """Give what is in a folder, hidden entries left out, in the order of names.

        Raises:
            InputError: The folder or an entry can't be read.
        """
        place = self.root / path
        try:
            names = sorted(name for name in os.listdir(place) if not name.startswith(".") and wanted(name))
        except FileNotFoundError as error:
            raise InputError(f"There is no folder '{shown(place)}'; correct its path.") from error
        except OSError as error:
            raise InputError(
                f"Can't read the folder '{shown(place)}' ({reason(error)}). Check who may read it, or remove it."
            ) from error
        for name in names:
            try:
                yield _entry(name, os.stat(place / name))
            except OSError as error:
                what = "is a link that leads nowhere" if os.path.islink(place / name) else "can't be read"
                raise InputError(f"'{shown(place / name)}' {what} ({reason(error)}). Repair or remove it.") from error

    def entry(self, path: str) -> Entry | None:
        """Return what lies under a path, or none.

        Raises:
            OSError: That can't be found out.
            ValueError: No path is like that.
        """
        try:
            return _entry(Path(path).name, os.stat(self.root / path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> BufferedIOBase:
        """Open a file to read from any place in it; see `open_regular`."""
        return open_regular(self.root / path)

    def opened(self, paths: Iterable[str]) -> Iterator[BufferedIOBase]:
        """Open many files, each when it is asked for."""
        return map(self.open, paths)

    def forget(self, path: str) -> None:
        """Do nothing: there are no copies."""


@dataclass(frozen=True)
class Below:
    """A folder in another `Place`, which keeps the name of that.

    Attributes:
        place: The place.
        path: The folder's path there.
    """

    place: Place
    path: str

    @property
    def name(self) -> str:
        """The name of the place."""
        return self.place.name

    def where(self, path: str = "") -> str:
        """Return the whole path or address of something in it."""
        return self.place.where(self._there(path))

    def holds_folder(self, path: str = "") -> bool:
        """Return whether a folder lies under a path."""
        return self.place.holds_folder(self._there(path))

    def entries(self, path: str = "", wanted: Callable[[str], bool] = bool) -> Iterator[Entry]:
        """Give what is in a folder."""
        return self.place.entries(self._there(path), wanted)

    def entry(self, path: str) -> Entry | None:
        """Return what lies under a path, or none."""
        return self.place.entry(self._there(path))

    def open(self, path: str) -> BufferedIOBase:
        """Open a file to read from any place in it."""
        return self.place.open(self._there(path))

    def opened(self, paths: Iterable[str]) -> Iterator[BufferedIOBase]:
        """Open many files that are read one after the other."""
        return self.place.opened(map(self._there, paths))

    def forget(self, path: str) -> None:
        """Drop copies of a file that turned out damaged."""
        self.place.forget(self._there(path))

    def _there(self, path: str) -> str:
        return f"{self.path}/{path}" if path else self.path


def _entry(name: str, status: os.stat_result) -> Entry:
    # The time of change of the entry itself, too: contents may be replaced with size and time of writing kept.
    return Entry(name, kind(status.st_mode), status.st_size, (status.st_mtime_ns, status.st_ctime_ns))


def folder_at(path: str) -> Folder:
    """Return the place of a path on this machine, with ``~`` for a person's home."""
    with suppress(RuntimeError):  # no such user: then ~name is a name
        return Folder(Path(path).expanduser())
    return Folder(Path(path))


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read from it; anything that may never answer, such as a FIFO or a device, is refused.

    Raises:
        OSError: It can't be opened, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"it is {kind(os.stat(path).st_mode)}, not a file")
    return os.fdopen(handle, "rb")


def kind(mode: int) -> str:
    """Return in words what a place on disk is, from its mode."""
    names = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: FOLDER, stat.S_IFREG: FILE}
    return names.get(stat.S_IFMT(mode), "a device")


def shown(text: object) -> str:
    """Return a path, a name or another program's message as it can stand in a sentence: printable and not too long."""
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    half = _LONGEST_SHOWN // 2
    return printable if len(printable) <= _LONGEST_SHOWN else f"{printable[:half]}…{printable[-half:]}"


def reason(error: BaseException) -> str:
    """Return why something failed, in a few words of the system or the library that failed."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(words).rstrip(".") or type(error).__name__


def amount(size: int) -> str:
    """Return a number of bytes for people, such as "1.2 GB"."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next((f"{size / unit:,.1f} {name}" for unit, name in units if size >= unit), f"{size:,} bytes")


@contextmanager
def written_atomically(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write into that appears under its name as a whole, or, after an exception, not at all.

    Args:
        path: The file; its folder is made.
        durable: Whether it must outlive a power failure; costs a disk flush.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as unfinished:
        with unfinished.open("xb") as file:
            _mark_as_ours(file)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(unfinished, path)


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, whatever happens in between.

    Args:
        path: The file; its folder is made.
        data: Its new content.
        durable: Whether it must outlive a power failure; costs a disk flush.
    """
    with written_atomically(path, durable=durable) as file:
        file.write(data)


def create_atomically(path: Path, data: bytes) -> bool:
    """Write a file as a whole unless there is one, and return whether that was done.

    Args:
        path: The file; its folder is made.
        data: Its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as unfinished, unfinished.open("xb") as file:
        _mark_as_ours(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: the later one of two at once wins
            if path.exists():
                return False
            os.replace(unfinished, path)
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or, where the file system can't, copy it; what was under that name is replaced.

    Args:
        source: The file, which nobody changes in its place.
        target: The other name; its folder is made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(3):
        with _beside(target) as unfinished:
            try:
                os.link(source, unfinished)
                os.replace(unfinished, target)  # leaves both names where they are names of one file already
                return
            except FileNotFoundError:
                # The new name is as old as the file, and who sweeps the folder may take it for abandoned.
                if attempt == 2 or not source.exists():
                    raise
            except OSError:
                break
    with source.open("rb") as file, written_atomically(target) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give the name of an unfinished file beside another one, which is removed at the end if it is there."""
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        yield unfinished
    finally:
        with suppress(OSError):
            unfinished.unlink()


def sweep(folder: Path) -> None:
    """Remove from a folder, and those below it, the files that killed processes left unfinished.

    What another process is writing at the moment stays: it holds a lock on its file.
    """
    for path in unfinished_in(folder):
        remove_abandoned(path)


def unfinished_in(folder: Path) -> Iterator[Path]:
    """Give the files of a folder, and those below it, that are being written, or were when their process was killed."""
    for top, _, names in os.walk(folder):
        yield from (Path(top, name) for name in names if name.startswith(UNFINISHED))


def remove_abandoned(path: Path, *, really: bool = True) -> int:
    """Remove an unfinished file unless somebody is writing it, and return its size; none of it is counted then.

    Args:
        path: The file.
        really: Whether it is removed; otherwise it is only found out whether it would be.
    """
    with suppress(OSError):
        size, written = path.stat().st_size, path.stat().st_mtime
        if time.time() - written < _SECONDS_TO_MARK:
            return -1  # its process may be about to lock it
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if really:
                path.unlink()
        return size
    return -1


def _mark_as_ours(file: BinaryIO) -> None:
    with suppress(OSError):  # a file system without locks: then nothing is swept, for sweeping needs one
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
