"""Locks between processes: a file enters; who holds it goes on, others wait, or read a sentence.

The lock is the kernel's (``flock``) and ends with its process, however that dies: a file that is left over locks
nothing. What the file holds is for people: the process that took the lock last.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from metantk_core.errors import InputError

_SECONDS_OF_SILENCE = 2.0
_LONGEST_NAP = 0.5


@contextmanager
def waiting(path: Path, purpose: str, *, patience: float = 60.0) -> Iterator[None]:
    """Hold a lock inside, after waiting for it; what is waited for is said on standard error after two seconds.

    Args:
        path: The lock's file; made when needed.
        purpose: What the lock guards, as in "the MLflow database runs/mlflow.db".
        patience: Seconds after which to give up.

    Raises:
        InputError: The file can't be written, or another process holds the lock all the while.
    """
    with _opened(path) as file:
        began = time.monotonic()
        told, nap = False, 0.02
        while not _taken(file, path):
            waited = time.monotonic() - began
            if waited >= min(_SECONDS_OF_SILENCE, patience / 2) and not told:
                told = True
                sys.stderr.write(f"Waiting for {purpose}: {_holder(path)} holds {path} ...\n")
                sys.stderr.flush()
            if waited > patience:
                raise InputError(
                    f"Expected to get at {purpose} within {patience:.0f} seconds, but {_holder(path)} holds {path}; "
                    "end it, or wait for it and run the same command again."
                )
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)
        _sign(file)
        yield


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock inside, or refuse at once.

    Args:
        path: The lock's file; made when needed.
        what: What only one process may do at a time, as in "The run smoke-1a2b3c4d".

    Raises:
        InputError: The file can't be written, or another process holds the lock.
    """
    with _opened(path) as file:
        if not _taken(file, path):
            raise InputError(
                f"{what} is already running, {_holder(path)}; wait for it, end it, or choose another folder with "
                "--workspace."
            )
        _sign(file)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise InputError(
            f"Can't write the lock file {path}: {error.strerror}; remove it, or choose a folder that you may write to."
        ) from error
    with file:
        yield file


def _taken(file: IO[bytes], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"Can't lock {path}: {error.strerror}; choose a folder on a file system that has locks."
        ) from error
    return True


def _sign(file: IO[bytes]) -> None:
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
    except OSError:
        pass  # a full disk: the lock holds, only its holder's name is missing


def _holder(path: Path) -> str:
    try:
        return f"process {int(path.read_text(encoding='ascii'))}"
    except (OSError, ValueError):
        return "another process"
