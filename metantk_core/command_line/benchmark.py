"""Commands for benchmark reruns: run, accept, list, compile."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metantk_core.command_line.cluster import ClusterProfile, cluster_profile
from metantk_core.command_line.options import (
    AsJson,
    Commands,
    Device,
    Overrides,
    Seed,
    Store,
    TrackingUri,
    WorkspaceRoot,
    configuration,
    print_json,
)
from metantk_core.errors import InputError, quoted

if TYPE_CHECKING:
    from metantk_core.config import RunConfig

REGRESSION = 3
"""Exit code of a benchmark in which something got worse; 1 is an error of ours, 2 input that can't be used."""
UNKNOWN = 4
"""Exit code of a benchmark in which nothing is known to be worse, and something was measured too badly to know."""

commands = typer.Typer(
    name="benchmark",
    cls=Commands,
    help="Run recipes again on what is installed now, and say what got worse since the accepted baseline.",
    epilog="Examples: metantk benchmark run --quick  ·  metantk benchmark list  ·  "
    "metantk benchmark accept 0123456789abcdef0123456789abcdef",
    no_args_is_help=True,
)

Recipes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE]...", help="Recipes (see `metantk recipes`) or files; default: glyphs."),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="In minutes: at most 12 candidates, 4 draws, 40 iterations and 100 episodes; a benchmark of its own.",
    ),
]


@commands.command(
    epilog="Examples: metantk benchmark run --quick  ·  metantk benchmark run glyphs glyphs-darts  ·  "
    "metantk benchmark run glyphs --set benchmark.slowdown=1.5"
)
def run(
    recipes: Recipes = None,
    quick: Quick = False,
    overrides: Overrides = None,
    seed: Seed = None,
    rerun: Annotated[
        str,
        typer.Option(metavar="NAME", help="Name of this rerun, such as that of a CI job: asked again, it goes on."),
    ] = "",
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compute recipes anew, compare with their baselines, and write a page each.

    Exit code 3 if something got worse, 4 if nothing is known to be and something could not be measured well enough.

    Nothing that was scored or trained before is used. A rerun that was killed goes on when the command is repeated.
    """
    configs = _configurations(recipes, overrides, seed, quick=quick)
    _check_name(rerun)

    from metantk_core import benchmarking, stopping
    from metantk_core import workspace as spaces

    if parent := os.environ.get(stopping.PARENT):
        stopping.end_with(int(parent))
    place = spaces.Workspace(workspace, tracking_uri, device, store)
    if len(configs) > 1:
        # Each in a process of its own: in one, the memory of the first would count for the second.
        apart = [benchmarking.run_apart(config, place, name=rerun, as_json=as_json) for config in configs]
        if as_json:
            print_json([json.loads(said) if said else None for _, said in apart])
        raise typer.Exit(gravest([code for code, _ in apart]))
    outcome = benchmarking.run(configs[0], place, name=rerun)
    if as_json:
        print_json(outcome.as_values())
    else:
        from metantk_core import terminal

        terminal.print_rerun(outcome, place)
    if outcome.comparison.is_regression:
        raise typer.Exit(REGRESSION)
    if outcome.comparison.is_incomplete:
        raise typer.Exit(UNKNOWN)


@commands.command(epilog="Examples: metantk benchmark accept 0123456789abcdef0123456789abcdef")
def accept(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Identifier of a rerun in MLflow, see `metantk benchmark list`.")
    ],
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Make a rerun the baseline that later ones of the same experiment are compared with, in the place of the last."""
    from metantk_core import benchmarking
    from metantk_core import workspace as spaces

    accepted, before = benchmarking.accept(run, spaces.Workspace(workspace, tracking_uri))
    if as_json:
        print_json({"accepted": accepted.run, "recipe": accepted.recipe, "before": before.run if before else None})
        return
    place = f", in the place of {before.run} of {before.date[:10]}" if before else ""
    typer.echo(f"The rerun {accepted.run} of {accepted.date[:10]} is the baseline of {accepted.recipe} now{place}.")
    if accepted.verdict == "regression":
        typer.echo(f"It was a regression to the one before: {accepted.sentence}")


@commands.command(name="list", epilog="Examples: metantk benchmark list  ·  metantk benchmark list glyphs --json")
def list_reruns(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; default: all.")] = "",
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """List reruns with their verdicts, the latest last, and which of them is the baseline."""
    from metantk_core import benchmarking, terminal
    from metantk_core import workspace as spaces

    found = benchmarking.reruns(spaces.Workspace(workspace, tracking_uri), recipe)
    if as_json:
        print_json(
            [{**vars(past), "figures": {name: vars(one) for name, one in past.figures.items()}} for past in found]
        )
    else:
        terminal.print_reruns(found)


@commands.command(
    name="compile",
    epilog="Examples: metantk benchmark compile glyphs glyphs-darts -o benchmark.yaml  ·  "
    "metantk benchmark compile glyphs --quick --profile gke-spot --tracking-uri http://mlflow.mlflow:5000",
)
def compile_benchmark(
    recipes: Recipes = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The pipeline package.")] = Path("benchmark.yaml"),
    quick: Quick = False,
    profile: ClusterProfile = None,
    image: Annotated[
        str | None,
        typer.Option(help="Image that holds metantk_core; default: the profile's, or the one of this release."),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            help="What keeps finished work between attempts: a folder that all pods mount, or s3://bucket/prefix."
        ),
    ] = "",
    tracking_uri: Annotated[
        str,
        typer.Option(
            "--tracking-uri", help="MLflow as the cluster sees it: http(s):// or postgresql://, without password."
        ),
    ] = "",
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Compile the pipeline that a schedule runs: a step a recipe, none of it cached; what got worse fails its step."""
    configs = _configurations(recipes, overrides, seed, quick=quick)
    placed = cluster_profile(profile, everywhere={"image": image})

    from pipelines import benchmark

    size = benchmark.write(configs, output, placed, store=store, tracking_uri=tracking_uri)
    if as_json:
        print_json({"pipeline": str(output), **size._asdict()})
    else:
        typer.echo(f"Wrote {output}: each run of it is a rerun of {', '.join(config.name for config in configs)}.")
        typer.echo(size.sentence())


def gravest(codes: Sequence[int]) -> int:
    """Return the exit code of several benchmarks: the first that is no verdict, else that of the worst verdict."""
    verdicts = (REGRESSION, UNKNOWN, 0)
    failed = [code for code in codes if code not in verdicts]
    return failed[0] if failed else min(codes, key=verdicts.index)


def _configurations(
    recipes: list[str] | None, overrides: list[str] | None, seed: int | None, *, quick: bool
) -> "list[RunConfig]":
    from metantk_core.recipes import quickened

    configs = [configuration(recipe, overrides, seed) for recipe in recipes or ["glyphs"]]
    configs = [quickened(config) for config in configs] if quick else configs
    if len({config.run_id for config in configs}) < len(configs):
        raise InputError("Expected each recipe once, but two of them are the same experiment; leave one out.")
    return configs


def _check_name(rerun: str) -> None:
    if rerun and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", rerun):
        raise InputError(
            f"Expected letters, digits, '-', '_' and '.' as the name of a rerun, got {quoted(rerun)}; choose another."
        )
