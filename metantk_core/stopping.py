"""Signals that end a program: SIGINT, SIGTERM or SIGHUP enters, an exception that passes through all tidying leaves.

An exit code of 128 and the signal's number says which one it was, as shells do: 130 after Ctrl-C, 143 after SIGTERM.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PARENT = "METANTK_PARENT"
"""Environment variable that names the process with which the steps of a local run end."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_TO_TIDY = 10.0
_SECONDS_OF_ONE_WISH = 1.0  # signals that follow each other faster are one: a hasty Ctrl-C, a group and its leader
_SECONDS_TO_LEAVE_A_DESTRUCTOR = 0.05
_IMPATIENT = 3  # signals during tidying after which it is given up


def exit_code(number: int) -> int:
    """Return the exit code of a program that a signal ended."""
    return 128 + number


def end_at_once() -> None:
    """Let a signal end this process on the spot, without a word: for times at which nothing is to be tidied.

    While modules are imported an exception wouldn't do: some of them turn it into another one.
    """
    for number in _ours():
        signal.signal(number, _end)


@contextmanager
def raising() -> Iterator[list[int]]:
    """Turn signals into exceptions inside: an interrupt into ``KeyboardInterrupt``, others into ``SystemExit``.

    Gives the list of the signals that came. Handlers that were there before are put back; inside another ``raising``,
    and in another thread than the main one, nothing changes.
    """
    handler = _Raiser()
    previous = {number: signal.getsignal(number) for number in _ours()}
    mine = [number for number, before in previous.items() if not isinstance(before, _Raiser)]
    for number in mine:
        signal.signal(number, handler)
    report = sys.unraisablehook
    if mine:
        sys.unraisablehook = lambda what: handler.again() if handler.lost(what.exc_value) else report(what)
    try:
        yield handler.came
    finally:
        sys.unraisablehook = report
        for number in mine:
            signal.signal(number, previous[number])


@contextmanager
def shielded() -> Iterator[None]:
    """Hold signals back while something is put in order, and answer the first one afterwards.

    The third one ends the process: what is put in order may hang.
    """
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) >= _IMPATIENT:
            os._exit(exit_code(came[0]))

    previous = {number: signal.signal(number, hold) for number in _ours()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def end_with(process: int) -> None:
    """End this process soon after another one has died, however it died: first by SIGTERM, then for good.

    Args:
        process: Identifier of the other one, which started this one, itself or through others.
    """
    threading.Thread(target=_outlive, args=(process,), name="end with the parent", daemon=True).start()


class _Raiser:
    """A handler that raises; noted so that a program ends as interrupted even where a library swallowed it."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._last = float("-inf")
        self._raised: BaseException | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = now - self._last < _SECONDS_OF_ONE_WISH
        self._last = now
        self.came.append(number)
        if again:
            return  # the first one's exception is on its way, and must not be thrown out of a handler of its own
        self._raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(exit_code(number))
        raise self._raised

    def lost(self, error: BaseException | None) -> bool:
        """Return whether an exception that Python can only report is the one that was raised here."""
        return error is not None and error is self._raised

    def again(self) -> None:
        """Let the last signal come once more, soon: Python is in a destructor or the like, and will go on after it."""
        number, self._last = self.came[-1], float("-inf")
        later = threading.Timer(_SECONDS_TO_LEAVE_A_DESTRUCTOR, os.kill, (os.getpid(), number))
        later.daemon = True
        later.start()


def _ours() -> list[signal.Signals]:
    """Return the signals that this thread may answer; one that is ignored (`nohup`, `command &`) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    # None stands for a handler that was not set from Python, which only C code could put back.
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(exit_code(number))


def _outlive(process: int) -> None:
    _wait_for_the_end_of(process)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_TIDY)
    os._exit(exit_code(signal.SIGTERM))


def _wait_for_the_end_of(process: int) -> None:
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            return
        except OSError:
            pass  # an old kernel, or a sandbox that forbids the call
        else:
            select.select([descriptor], [], [])
            os.close(descriptor)
            return
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        time.sleep(1.0)
