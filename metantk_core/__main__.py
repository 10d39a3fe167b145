"""Where the program starts: arguments enter, an exit code leaves. Nothing heavy is imported before signals are answered."""

import sys


def main() -> None:
    """Run the command line; a person's bad input ends with one sentence and exit code 2."""
    from metantk_core.command_line import app
    from metantk_core.errors import InputError

    try:
        app()
    except InputError as error:
        print(f"metantk: {error}", file=sys.stderr)  # noqa: T201 - the person's terminal
        sys.exit(2)


if __name__ == "__main__":
    main()
