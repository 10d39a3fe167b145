"""Where the program starts: arguments enter, an exit code leaves. Signals are answered before anything is imported."""

import sys

from metantk_core import stopping


def main() -> None:
    """Run the command line.

    Exit codes: 0 for success; 2, with a sentence, for input that can't be used; 1, with a sentence that names the log,
    for an error of ours; 128 and the signal's number (130 for Ctrl-C, 143 for SIGTERM) for a run that was stopped, its
    children ended and its tracked runs closed.
    """
    stopping.end_at_once()
    from metantk_core.command_line import app
    from metantk_core.errors import InputError, full_disk
    from metantk_core.extras import missing_extra

    code: object = 0
    signals: list[int] = []
    try:
        with stopping.raising() as signals:
            app()
    except InputError as error:
        code = 2
        if not signals:
            _say(f"metantk: {error}")
    except KeyboardInterrupt:
        code = 130
    except SystemExit as ending:
        code = ending.code
    except Exception as error:
        known = full_disk(error) or missing_extra(error)
        code = 2 if known else 1
        if not signals:
            _say(f"metantk: {known}" if known else _reported(error))
    sys.exit(stopping.exit_code(signals[0]) if signals else code)


def _reported(error: Exception) -> str:
    """Return what to tell a person about an error of ours, its traceback written to a file."""
    from metantk_core.errors import StepError
    from metantk_core.secrecy import redacted

    if isinstance(error, StepError):
        return f"metantk: {error}"
    what = redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
    return (
        f"metantk: an unexpected error ({what}). This is a fault of metantk, not of your input; please report it, with "
        f"{_traceback_file()}."
    )


def _traceback_file() -> str:
    import platform
    import tempfile
    import traceback

    from metantk_core import __version__
    from metantk_core.secrecy import redacted

    trace = redacted(traceback.format_exc())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="metantk-error-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"metantk {__version__}, Python {platform.python_version()}, {platform.platform()}\n{trace}")
    except OSError as error:
        _say(trace)
        return f"the lines above (they could not be written to a file: {error.strerror})"
    return f"the traceback in {file.name}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the person's terminal


if __name__ == "__main__":
    main()
