"""What commands share: options and their words, the configuration that they name, results as JSON."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from metantk_core.errors import without_addresses
from metantk_core.networks.config import BatchNormTreatment

if TYPE_CHECKING:
    from metantk_core.config import RunConfig
    from metantk_core.datasets import Split

# What is said of arguments that don't fit; typer has its own copy of click and gives out but the subclass.
_USAGE_ERROR: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """The commands; what they complain about is shown without words that may be addresses with a password."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: D102 - click's own
        with _without_addresses():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: D102 - click's own
        with _without_addresses():
            return super().invoke(ctx)


@contextmanager
def _without_addresses() -> Iterator[None]:
    try:
        yield
    except _USAGE_ERROR as error:
        error.message = without_addresses(error.message)
        raise


Recipe = Annotated[str, typer.Argument(help="A recipe (see `metantk recipes`) or a YAML or JSON file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in search.num_candidates=200; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="Replace the recipe's seed.")]
WorkspaceRoot = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="METANTK_WORKSPACE", help="Folder for results, finished work and MLflow's database."
    ),
]
TrackingUri = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow; default: SQLite in the workspace. An address with a password belongs into the variable.",
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="METANTK_STORE",
        help="Where finished work is kept for others to go on with, also in pods; default: the workspace.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="METANTK_DEVICE",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where networks run; auto is the GPU if torch sees one.",
    ),
]
BatchNorm = Annotated[
    BatchNormTreatment | None,
    typer.Option(
        help="In a network of your own, batch normalisation, which mixes images, is replaced by GroupNorm, or uses its "
        "running statistics; without this option it is refused."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output; progress goes to standard error.")
]


def configuration(recipe: str, overrides: list[str] | None, seed: int | None) -> "RunConfig":
    """Return the configuration that a command's arguments name.

    Raises:
        InputError: There is none of that name, or a setting is wrong.
    """
    from metantk_core.config import load_config
    from metantk_core.recipes import RECIPES

    return load_config(recipe, RECIPES, overrides or (), seed=seed)


def print_json(value: Any, output: IO[str] | None = None) -> None:
    """Print a result for programs, on standard output if no other is given."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False), file=output)


def print_estimate(
    config: "RunConfig",
    *,
    device: str = "cpu",
    images: "Mapping[Split, int] | None" = None,
    as_json: bool,
    only: bool,
) -> None:
    """Print what a run will take, measured on this machine; that takes seconds, of large networks a minute.

    Args:
        config: The run.
        device: Where networks run.
        images: How many images each split has, if they are prepared.
        as_json: Whether the command's result is for programs.
        only: Whether the estimate is that result; else it is said before, and never on a program's standard output.
    """
    from metantk_core import terminal, workflow

    told = workflow.estimate(
        config, device=device, images=images, say=lambda part: typer.echo(f"estimating: {part}", err=True)
    )
    if as_json and only:
        print_json(told.as_values())
    else:
        terminal.print_estimate(told, to_errors=as_json)
