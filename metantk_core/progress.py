"""How long work tells what it has done: the port, and the reporter that says nothing."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Something that wants to hear how far a piece of work is."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Take note that ``done`` of ``total`` units are finished.

        Args:
            done: Units finished, at least 0; the first call of a resumed piece of work says what it found finished.
            total: Units in all, at least 1.
            detail: A few words for people, such as the latest accuracy.
        """


def silent(done: int, total: int, detail: str = "") -> None:
    """Ignore the news."""
