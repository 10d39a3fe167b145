"""The one exception that a person's input can cause; the command line turns it into one sentence and exit code 2."""


class InputError(ValueError):
    """What a person gave can't be used: a path, a file, a configuration, an address.

    The message is one sentence (two at most) that says what was expected, what came instead, and what to do. It never
    holds a secret: addresses are shown without their credentials.
    """
