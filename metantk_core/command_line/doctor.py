"""Command that says whether everything is there that a run needs: doctor."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metantk_core.command_line.cluster import ClusterProfile, cluster_profile
from metantk_core.command_line.kubeflow import Authority, Host, Namespace, TokenFile
from metantk_core.command_line.options import (
    AsJson,
    Commands,
    Overrides,
    Seed,
    Store,
    TrackingUri,
    WorkspaceRoot,
    configuration,
    print_json,
)

if TYPE_CHECKING:
    from typer import Context

    from pipelines.profile import Profile
else:
    # typer gives out but a subclass of what commands get, and types are checked in tests.
    Context = typer.Context.__base__

commands = typer.Typer(cls=Commands)
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@commands.command(
    epilog="Examples: metantk doctor  ·  metantk doctor glyphs --store s3://bucket/prefix  ·  "
    "metantk doctor --host https://kubeflow.example.org/pipeline --profile cluster.yaml"
)
def doctor(
    context: Context,
    recipe: Annotated[
        str, typer.Argument(help="A recipe or a file whose images are looked for; left out, none are.")
    ] = "",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    authority: Authority = None,
    profile: ClusterProfile = None,
    as_json: AsJson = False,
) -> None:
    """Check software, disk, store, MLflow, GPU, and if named Kubeflow, image and data, within ten seconds.

    With a profile, its store and its MLflow are looked at unless --store or --tracking-uri name others.

    Exit code 2 if something failed; warnings are none.
    """
    config = configuration(recipe, overrides, seed) if recipe else None
    placed = cluster_profile(profile) if profile else None

    from metantk_core.doctor import Asked, examine
    from metantk_core.workspace import Workspace

    seen_by_pods: list[str] = []
    if placed is not None:
        # A variable says what commands on this machine use, which pods don't see: the profile goes before it.
        if placed.addresses.store and not _typed(context, "store"):
            store, seen_by_pods = placed.addresses.store, ["store"]
            _take_endpoint(placed)
        if placed.addresses.tracking_uri and not _typed(context, "tracking_uri"):
            tracking_uri, seen_by_pods = placed.addresses.tracking_uri, [*seen_by_pods, "MLflow"]
    asked = Asked(
        Workspace(workspace, tracking_uri, shared=store),
        host,
        namespace,
        token_file,
        authority,
        images=placed.images() if placed else {},
        data=config.data.path if config else None,
        seen_by_pods=seen_by_pods,
    )
    output = sys.stdout  # KFP's client is kept quiet by another one, and may still be waiting
    found = examine(asked)
    if as_json:
        values = {"ok": all(one.status != "failed" for one in found), "findings": [asdict(one) for one in found]}
        print_json(values, output)
    else:
        for one in found:
            advice = f"; {one.advice}" if one.advice else ""
            typer.secho(f"{one.status:<8}", fg=_COLOURS[one.status], nl=False, file=output)
            typer.echo(f"{one.part:<10}{one.said}{advice}", file=output)
    if any(one.status == "failed" for one in found):
        raise typer.Exit(2)


def _typed(context: Context, option: str) -> bool:
    """Return whether an option was given behind the command, and not by a variable."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _take_endpoint(profile: "Profile") -> None:
    """Look for the profile's bucket where its pods do, unless this machine has a way of its own."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if not any(map(os.environ.get, names)):
        of_pods = profile.placement("search").environment or {}
        os.environ.update({name: value for name in names if (value := of_pods.get(name))})
