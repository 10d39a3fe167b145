"""The one exception that a person's input can cause; the command line turns it into one sentence and exit code 2."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydantic

_ADDRESS = re.compile(r"\S*(@|%40|://|:/|//|[?;#]\S*=|(?i:token|passw|secret|key)\w*=)\S*")
_EXAMPLE = "s3://bucket/prefix"  # as our own sentences show how addresses look
_HIDDEN = "what may be an address (not shown: it may hold a password)"
_LONGEST = 60
_MOST_COMPLAINTS = 1000
KEPT = "what is finished is kept."
"""How a sentence ends that asks to repeat a command."""
STOPPED = "Stopped. Everything finished so far is kept: the same command resumes."
"""What is said when a person or a cluster has stopped a run."""


class InputError(ValueError):
    """What a person gave can't be used: a path, a file, a configuration, an address.

    The message is one sentence (two at most) that says what was expected, what came instead, and what to do. It never
    holds a secret: addresses are shown without their credentials. After an error in a person's own code, their lines of
    the traceback follow on lines of their own.
    """


class Complaints:
    """Collects what is wrong with several things, so that a person may hear of all of it at once.

    The first complaint is raised; the others are its notes, see `all_of`.
    """

    def __init__(self) -> None:
        self._found: list[str] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the complaint that is raised inside, if there is one, and go on."""
        try:
            yield
        except InputError as complaint:
            self.add(complaint)

    def add(self, complaint: InputError) -> None:
        """Take note of a complaint."""
        for words in all_of(complaint):
            if len(self._found) < _MOST_COMPLAINTS:
                self._found.append(words)

    def raise_any(self) -> None:
        """Raise the first complaint, if there is one.

        Raises:
            InputError: There is one.
        """
        if not self._found:
            return
        first, *others = self._found
        complaint = InputError(first)
        for other in others:
            complaint.add_note(other)
        raise complaint


def all_of(complaint: InputError) -> tuple[str, ...]:
    """Return the sentences of a complaint, and of those that were found together with it."""
    return str(complaint), *getattr(complaint, "__notes__", ())


class UnscoredError(InputError):
    """Too few candidates have a score for a search, or a training, to go on."""


def first_complaint(error: "pydantic.ValidationError") -> str:
    """Return the first thing that pydantic found wrong with a value, after its place in the value if it has one."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"


def full_disk(error: BaseException) -> InputError | None:
    """Return what to tell a person about an error that a full disk caused; none for any other one."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = f" at {error.filename}" if error.filename else ""
    return InputError(f"The disk is full{where} ({error.strerror}); make room, and run the same command again: {KEPT}")


class StepError(RuntimeError):
    """A step of a local pipeline run ended by an error of ours; the message says so and names the log."""


def quoted(value: object) -> str:
    """Return a value that a person gave as it stands in a message: cut, and not what may be an address."""
    if isinstance(value, str) and _ADDRESS.search(value):
        return _HIDDEN
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def without_addresses(text: str) -> str:
    """Return a message without the words that may be addresses with a password."""
    return _ADDRESS.sub(lambda word: word[0] if word[0].strip("(),;.") == _EXAMPLE else _HIDDEN, text)


def without_addresses_of(given: str, text: str) -> str:
    """Return a sentence of ours without the words of what a person gave that may be addresses with a password."""
    theirs = {found for word in _ADDRESS.finditer(given) if not (found := _bare(word[0])).endswith("//")}

    def hide(word: re.Match[str]) -> str:
        bare = _bare(word[0])
        quotes_them = any(found in bare or (bare in found and not bare.endswith("//")) for found in theirs)
        return _HIDDEN if quotes_them else word[0]

    return _ADDRESS.sub(hide, text)


def _bare(word: str) -> str:
    return word.strip("'\"()[]{},;.…")
