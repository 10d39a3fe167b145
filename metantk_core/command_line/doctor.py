"""Command that says whether everything is there that a run needs: doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.cluster import ClusterProfile, cluster_profile
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

commands = typer.Typer(cls=Commands)
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@commands.command(
    epilog="Examples: metantk doctor  ·  metantk doctor glyphs --store s3://bucket/prefix  ·  "
    "metantk doctor --host https://kubeflow.example.org/pipeline --profile cluster.yaml"
)
def doctor(
    recipe: Annotated[
        str, typer.Argument(help="A recipe or a file whose images are looked for; left out, none are.")
    ] = "",
    overrides: Overrides = None,
    seed: Seed = None,
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    host: Annotated[
        str, typer.Option("--host", envvar="METANTK_KUBEFLOW", help="Kubeflow Pipelines, as in https://…/pipeline.")
    ] = "",
    profile: ClusterProfile = None,
    as_json: AsJson = False,
) -> None:
    """Check software, disk, store, MLflow, GPU, and if named Kubeflow, image and data, within ten seconds.

    Exit code 2 if something failed; warnings are none.
    """
    config = configuration(recipe, overrides, seed) if recipe else None
    # The first step's: it refuses to begin in an image of another release.
    image = cluster_profile(profile).placement("prepare_dataset").image or "" if profile else ""

    from metantk_core.doctor import Asked, examine
    from metantk_core.workspace import Workspace

    place = Workspace(workspace, tracking_uri, shared=store)
    found = examine(Asked(place, host, image, config.data.path if config else None))
    if as_json:
        print_json({"ok": all(one.status != "failed" for one in found), "findings": [asdict(one) for one in found]})
    else:
        for one in found:
            advice = f"; {one.advice}" if one.advice else ""
            typer.secho(f"{one.status:<8}", fg=_COLOURS[one.status], nl=False)
            typer.echo(f"{one.part:<10}{one.said}{advice}")
    if any(one.status == "failed" for one in found):
        raise typer.Exit(2)
