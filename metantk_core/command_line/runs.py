"""Commands about runs on a Kubeflow cluster: list, show, stop."""

from typing import Annotated

import typer

from metantk_core.command_line.kubeflow import Authority, Host, Namespace, TokenFile, cluster
from metantk_core.command_line.options import AsJson, Commands, print_json
from metantk_core.command_line.submission import follow, run_as_values

commands = typer.Typer(
    name="runs",
    cls=Commands,
    help="Look at runs on a Kubeflow cluster, and stop them.",
    epilog="Examples: metantk runs list  ·  metantk runs show RUN  ·  metantk runs stop RUN",
    no_args_is_help=True,
)

Run = Annotated[str, typer.Argument(help="Identifier of the run, which `metantk runs list` shows.")]


@commands.command(
    "list", epilog="Examples: metantk runs list  ·  metantk runs list --experiment metantk --limit 50 --json"
)
def list_runs(
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    experiment: Annotated[str, typer.Option(help="Runs of this experiment alone.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most, the last ones first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest runs."""
    found = cluster(host, namespace, token_file, authority).runs(limit, experiment)

    from metantk_core import cluster_display

    if as_json:
        print_json([run_as_values(run) for run in found])
    else:
        cluster_display.print_runs(found)


@commands.command(epilog="Examples: metantk runs show RUN  ·  metantk runs show RUN --wait")
def show(
    run: Run,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the steps until the run ends; exit code 1 if it fails.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a run, and why it failed."""
    known = cluster(host, namespace, token_file, authority)
    found = known.run(run)

    from metantk_core import cluster_display

    if wait and not found.over:
        found = follow(known, found)
    if as_json:
        print_json(run_as_values(found))
    else:
        cluster_display.print_run(found)
    if wait and found.state != "SUCCEEDED":
        raise typer.Exit(1)


@commands.command(epilog="Examples: metantk runs stop RUN")
def stop(
    run: Run,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run; one that has ended stays as it is."""
    known = cluster(host, namespace, token_file, authority)
    found = known.run(run)
    if not found.over:
        known.stop(run)
    if as_json:
        print_json({"run": run, "was": found.state, "stopped": not found.over})
    else:
        typer.echo(f"{run} had ended already." if found.over else f"Asked Kubeflow to stop {run}.")
