"""Calls that must not wait for ever: a call and seconds enter, its answer or an error leaves in time."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class OverdueError(Exception):
    """A call has not returned in its time."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises, if it does so in time.

    A limit on each read from a socket does not bound a server that drips. The call that is given up goes on in a thread
    that ends with the process.

    Raises:
        OverdueError: It did not return in time.
    """
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=ask, name="request with a deadline", daemon=True).start()
    try:
        done, answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise OverdueError from None
    if not done:
        raise answer
    return answer
