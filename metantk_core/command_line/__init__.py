"""The command line: arguments enter, a sentence or JSON on the terminal leaves; what is computed is in ``workflow``.

Each command imports what it needs when it is called, and refuses wrong settings before it imports what computes: help
and complaints come at once, while torch and MLflow take seconds.
"""

from typing import Annotated

import typer

from metantk_core import __version__
from metantk_core.command_line import (
    architectures,
    benchmark,
    cluster,
    data,
    doctor,
    experiments,
    exporting,
    runs,
    schedule,
    serving,
    store,
    submission,
)
from metantk_core.command_line.options import Commands

app = typer.Typer(
    name="metantk",
    cls=Commands,
    help="Training-free architecture search for few-shot learning: rank architectures at initialisation, "
    "meta-train the best, say how far to trust it.",
    epilog="Start with: metantk run smoke",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
# In the order in which help lists them, under headings.
for _heading, _topics in {
    "Architectures": (architectures,),
    "Experiments": (experiments, benchmark),
    "Trained networks": (serving, exporting),
    "Images": (data,),
    "Kubeflow": (cluster, submission, runs, schedule),
    "Upkeep": (doctor, store),
}.items():
    for _topic in _topics:
        if not _topic.commands.info.name:  # its commands are those of the program itself
            for _command in _topic.commands.registered_commands:
                _command.rich_help_panel = _heading
        app.add_typer(_topic.commands, rich_help_panel=_heading)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"metantk {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
