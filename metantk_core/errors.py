"""The one exception that a person's input can cause; the command line turns it into one sentence and exit code 2."""

from pydantic import ValidationError


class InputError(ValueError):
    """What a person gave can't be used: a path, a file, a configuration, an address.

    The message is one sentence (two at most) that says what was expected, what came instead, and what to do. It never
    holds a secret: addresses are shown without their credentials.
    """


def first_complaint(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong with a value, after its place in the value if it has one."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"


class StepError(RuntimeError):
    """A step of a local pipeline run ended by an error of ours; the message says so and names the log."""
