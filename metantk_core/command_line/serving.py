"""Commands that use trained networks: classify."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from metantk_core.command_line.options import AsJson, Commands, Store, TrackingUri, WorkspaceRoot, print_json
from metantk_core.errors import InputError
from metantk_core.extras import TRACKING, admit_installed

commands = typer.Typer(cls=Commands)
_CHAMPION = "models:/metantk-few-shot@champion"


@commands.command(
    epilog="Examples: metantk classify --support shots --query photos  ·  "
    "metantk classify --support shots --query photos --run smoke-8b61b5cf  ·  "
    "metantk classify --support s3://ours/shots --query photos --model models:/few-shot-glyphs/3 --json"
)
def classify(
    support: Annotated[
        str, typer.Option(metavar="FOLDER", help="A folder, here or s3://, with one folder of images for each class.")
    ],
    query: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="A folder of images to classify; with one folder for each class, right answers are counted.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help=f"A registered model, models:/NAME/VERSION or models:/NAME@ALIAS, or a folder with model.json; "
            f"default: {_CHAMPION}",
        ),
    ] = "",
    run: Annotated[str, typer.Option(metavar="RUN", help="Instead of --model: a run, as `metantk run` names it.")] = "",
    workspace: WorkspaceRoot = Path("runs"),
    tracking_uri: TrackingUri = "",
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Classify images by a few examples of each class, with a trained network: no training, no labels but those."""
    if model and run:
        raise InputError("Expected --model or --run, but got both; drop one.")
    admit_installed("metantk classify", *TRACKING)

    from metantk_core import meta_training, terminal, wiring, workflow
    from metantk_core import workspace as spaces
    from metantk_core.files import folder_at

    place = spaces.Workspace(workspace, tracking_uri, shared=store)
    folders = [wiring.images(path) or folder_at(path) for path in (support, query)]
    workflow.admit_images(*folders)
    with tempfile.TemporaryDirectory() as scratch:
        trained = meta_training.load_model(place.network(model or _CHAMPION, run, Path(scratch)))
    found = workflow.classify_folders(meta_training.FewShotClassifier(trained), *folders)
    if as_json:
        print_json(
            {
                "model": trained.digest,
                "classes": dict(zip(found.labels, found.support, strict=True)),
                "answers": [asdict(answer) for answer in found.answers],
                "truth": found.truth,
                "right": found.right,
            }
        )
    else:
        terminal.print_classified(found)
