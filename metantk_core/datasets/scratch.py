"""Folders in which something large is made before it is moved into place: one process at a time, nothing left behind.

Beside the place ``x`` stands ``.x.metantk-unfinished`` while someone works on it. It holds the file ``lock``, on which
the worker has a lock of the operating system (it ends with the process, however that ends), and a folder named after
the worker's machine, in which the work lies. Locks may not reach from one machine to another on a shared volume, so
what another machine made is left alone until nothing in it has changed for an hour.

What takes hours, and can go on, is made in ``.x.metantk-resumable`` instead, which stays when its worker dies.
"""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from metantk_core.errors import InputError
from metantk_core.files import reason, shown, write_atomically
from metantk_core.seeding import digest

SUFFIX = ".metantk-unfinished"
RESUMABLE = ".metantk-resumable"
SECONDS_TO_MESSAGE = 2.0
SECONDS_TO_GIVE_UP = 600.0
SECONDS_TO_STALE = 3600.0
_LOCK = "lock"
_IDENTITY = "made-of"
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Give an empty folder in which to make ``target``, on the same disk; removed afterwards.

    While another process makes the same, wait for it: with a message after two seconds, and as long as it writes
    something. What dead processes left beside the target, for this target or another, is removed.

    Args:
        target: The folder to be made.

    Raises:
        InputError: The other process has written nothing for ten minutes.
        OSError: The folder can't be made.
    """
    place = target.with_name(f".{target.name}{SUFFIX}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _held(place) as sure:
        _sweep(place, sure)
        for other in place.parent.glob(f".*{SUFFIX}"):
            if other != place and (other / _LOCK).is_file():
                _sweep_other(other)
        mine = place / f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        mine.mkdir()
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)


@contextlib.contextmanager
def resumable(target: Path, identity: str) -> Iterator[Path]:
    """Give the folder in which ``target`` is made, on the same disk, with what an earlier attempt has left in it.

    It is left there when an exception, or nobody, ends the work; who is done moves it into place. While another process
    makes the same, wait for it, as in `workplace`.

    Args:
        target: The folder to be made.
        identity: What it is made of. What was made of something else is removed, after a warning.

    Raises:
        InputError: The other process has written nothing for ten minutes.
        OSError: The folder can't be made.
    """
    place = target.with_name(f".{target.name}{RESUMABLE}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _held(place):
        made, note = place / "new", place / _IDENTITY
        before = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else None
        if before != identity:
            if before is not None and made.is_dir():
                _logger.warning(
                    "What an earlier attempt left beside '%s' was made of something else, or the source has changed "
                    "since: all is made anew.",
                    target,
                )
            shutil.rmtree(made, ignore_errors=True)
            write_atomically(note, identity.encode())
        made.mkdir(exist_ok=True)
        try:
            yield made
        except BaseException:
            with contextlib.suppress(OSError):
                made.rmdir()  # nothing was made, so nothing is kept
                note.unlink()
            raise
        shutil.rmtree(made, ignore_errors=True)  # unless it was moved
        note.unlink()


def destination(directory: Path, source: str | None) -> Path:
    """Return the folder that a person names for something new, free of links, if it can appear there as a whole.

    Args:
        directory: What they name: not there yet, or an empty folder.
        source: What it is made from, on this machine; none if that lies elsewhere.

    Raises:
        InputError: It lies in the source, is a disk of its own or the folder that the command was called in: neither
            can be replaced.
    """
    try:
        real = directory.resolve()
        if source is not None and real.is_relative_to(Path(source).expanduser().resolve()):
            raise InputError(
                f"'{shown(directory)}' lies in the source, '{shown(source)}', where it would be taken for a part of "
                "it. Choose another destination."
            )
        fixed = "a disk of its own" if os.path.ismount(real) else "the folder that you are in"
        if os.path.ismount(real) or (real.is_dir() and os.path.samefile(real, os.curdir)):
            raise InputError(
                f"'{shown(directory)}' is {fixed}, which can't be replaced by a finished one: name a new folder in it."
            )
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Can't look at '{shown(directory)}' ({reason(error)}). Choose another destination."
        ) from error
    return real


@contextlib.contextmanager
def _held(place: Path) -> Iterator[bool]:
    """Hold the lock of a place; gives whether the file system knows locks at all."""
    started = time.monotonic()
    told = False
    while (lock := _try_lock(place)) is None:
        waited = time.monotonic() - started
        if waited > SECONDS_TO_MESSAGE and not told:
            _logger.warning("Waiting for %s, which prepares the same data set.", _holder(place))
            told = True
        idle = time.time() - _changed(place)
        if waited > SECONDS_TO_MESSAGE and idle > SECONDS_TO_GIVE_UP:
            raise InputError(
                f"Another run prepares the same data set ({_holder(place)}), but has written nothing for "
                f"{idle / 60:.0f} minutes; end it and start again."
            )
        time.sleep(0.1)
    handle, sure = lock
    try:
        yield sure
    finally:
        # Still under the lock: who waits for it finds the file gone, and begins anew.
        with contextlib.suppress(OSError):
            (place / _LOCK).unlink()
            place.rmdir()  # unless another machine's work is in it
        os.close(handle)


def _try_lock(place: Path, *, make: bool = True) -> tuple[int, bool] | None:
    """Return the handle of the lock, now held, and whether it is a real one; none if another process has it."""
    try:
        if make:
            place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / _LOCK, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666)
    except FileNotFoundError:
        return None  # its holder has just finished
    sure = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            os.close(handle)
            raise
        sure = False  # a file system without locks: processes that work at once both end well, the later one in vain
    try:
        same = os.path.samestat(os.fstat(handle), os.stat(place / _LOCK))
    except FileNotFoundError:
        same = False
    if not same:
        os.close(handle)
        return None
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle, sure


def _sweep(place: Path, sure: bool) -> None:
    """Remove what dead processes left; the caller holds the lock."""
    for entry in place.iterdir():
        if entry.name == _LOCK:
            continue
        ours = sure and entry.name.startswith(f"{_machine()}-")
        if ours or time.time() - _changed(entry) > SECONDS_TO_STALE:
            shutil.rmtree(entry, ignore_errors=True)


def _sweep_other(place: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _try_lock(place, make=False)
        if lock is None:
            return
        handle, sure = lock
        try:
            _sweep(place, sure)
            if [entry.name for entry in place.iterdir()] == [_LOCK]:
                (place / _LOCK).unlink()
                place.rmdir()
        finally:
            os.close(handle)


def _holder(place: Path) -> str:
    try:
        return (place / _LOCK).read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"


def _changed(place: Path) -> float:
    """Return when something in a folder was last written, in seconds since 1970; now, if it is gone."""
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = place.stat().st_mtime
        for folder, _, files in os.walk(place):
            for name in (".", *files):
                with contextlib.suppress(OSError):
                    newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime)
    return newest or time.time()


def _machine() -> str:
    return digest(socket.gethostname(), length=8)
