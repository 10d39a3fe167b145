"""Patience with a server: a call enters, its answer leaves, repeated as long as nobody answers."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from metantk_core.adapters.progress import notice
from metantk_core.errors import InputError
from metantk_core.ports import AwayError

T = TypeVar("T")

PATIENCE = "METANTK_MLFLOW_PATIENCE"
"""Environment variable: seconds for which a server that has answered before is waited for."""
_DEFAULT_SECONDS = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_SECONDS_TO_SAY_SO = 2.0  # what takes less, such as a database that was locked, is nobody's concern


def patience_seconds() -> float:
    """Return for how long a server is waited for, by the environment.

    Raises:
        InputError: The variable holds no number of seconds.
    """
    given = os.environ.get(PATIENCE, "").strip()
    try:
        seconds = float(given) if given else _DEFAULT_SECONDS
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf):
        raise InputError(
            f"Expected a number of seconds, 0 or more, in {PATIENCE}, got {given[:40]!r}; try {_DEFAULT_SECONDS:.0f}."
        )
    return seconds


class Patience:
    """Repeats calls that a server does not answer, at growing intervals, and says so once.

    Args:
        seconds: How long a call is repeated; 0 not at all.
        who: Who is waited for, for people.
    """

    def __init__(self, seconds: float, who: str) -> None:
        self._seconds = seconds
        self._who = who
        self._asked_to_end = False

    def insist(self, call: Callable[[], T]) -> T:
        """Return what a call returns, repeated while it raises ``AwayError`` and patience lasts.

        Raises:
            AwayError: Of the last attempt.
        """
        began, said, pause = None, False, _FIRST_PAUSE
        while True:
            try:
                answer = call()
            except AwayError:
                now = time.monotonic()
                began = now if began is None else began
                left = began + self._seconds - now
                if left <= 0 or self._asked_to_end:
                    raise
                if not said and (now - began >= _SECONDS_TO_SAY_SO or self._seconds <= _SECONDS_TO_SAY_SO):
                    notice(f"{self._who} does not answer; waiting, {self._seconds:.0f} s at most.")
                    said = True
                self._sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if said and began is not None:
                    notice(f"{self._who} answers again, after {time.monotonic() - began:.0f} s.")
                return answer

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Have less patience inside, as is fit for a process that is asked to end."""
        before, self._seconds = self._seconds, min(seconds, self._seconds)
        try:
            yield
        finally:
            self._seconds = before

    def _sleep(self, seconds: float) -> None:
        try:
            time.sleep(seconds)
        except BaseException:
            self._asked_to_end = True  # what this process still has to tell won't be waited for again
            raise
