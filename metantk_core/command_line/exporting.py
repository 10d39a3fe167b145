"""The command that writes a run into one folder for others: export."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.options import AsJson, Commands, Store, TrackingUri, WorkspaceRoot, print_json
from metantk_core.extras import TRACKING, admit_installed

commands = typer.Typer(cls=Commands)


@commands.command(
    epilog="Examples: metantk export smoke-8b61b5cf smoke  ·  "
    "metantk export mini-rfs-5-0a1b2c3d row-3 --workspace /shared/runs --json"
)
def export(
    run: Annotated[str, typer.Argument(help="A run that has finished, as `metantk run` names it.")],
    directory: Annotated[
        Path, typer.Argument(help="The folder to write; it is not there yet, or empty.", show_default=False)
    ],
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Write one folder from which a run can be repeated: configuration, versions, leaderboard, network, accuracies."""
    admit_installed("metantk export", *TRACKING)

    from metantk_core import meta_training, terminal, workflow
    from metantk_core import workspace as spaces

    place = spaces.Workspace(workspace, tracking_uri, shared=store)
    kept = place.existing_store()
    config = workflow.run_config(kept, run)
    workflow.admit_folder(directory)
    with tempfile.TemporaryDirectory() as scratch:
        model = meta_training.load_model(place.network("", run, Path(scratch)))
        found = workflow.export(config, kept, model, directory)
    if as_json:
        print_json(
            {
                "run": found.run,
                "directory": str(found.directory.absolute()),
                "digest": found.digest,
                "model": model.digest,
                "files": found.files,
            }
        )
    else:
        terminal.print_exported(found)
