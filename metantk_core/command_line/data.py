"""Commands about images as people have them: check, import, split."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from metantk_core.command_line.options import AsJson, Commands, print_json
from metantk_core.errors import InputError
from metantk_core.files import shown

commands = typer.Typer(
    name="data",
    cls=Commands,
    help="Look at images as you have them, convert them once, make splits of classes where there are none.",
    epilog="Examples: metantk data check /data/mini-imagenet  ·  metantk data import /data/mini-imagenet /data/mini-84",
    no_args_is_help=True,
)

_LONGEST_NUMBER = 10  # digits; what has more is a name that is nothing but digits

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="What holds the images: a folder, or s3://bucket/prefix.")
]
Channels = Annotated[
    str | None,
    typer.Option(metavar="1|3", help="1 stores grey images, 3 stores RGB; without it, what the images are."),
]


Name = Annotated[str | None, typer.Option(help="What the data set is called, where files can't tell, as in data.name.")]
ColourOrder = Annotated[
    str | None,
    typer.Option(metavar="rgb|bgr", help="Order of the colours in this copy, as in data.colour_order."),
]
Rotations = Annotated[
    str | None,
    typer.Option(metavar="none|train|all", help="Splits in which turned images are further classes."),
]
ValClasses = Annotated[
    str | None,
    typer.Option(metavar="N|A,B,…", help="Classes for val where there are no splits: how many, or their names."),
]
TestClasses = Annotated[
    str | None,
    typer.Option(metavar="N|A,B,…", help="Classes for test where there are no splits: how many, or their names."),
]


@commands.command(
    epilog="Examples: metantk data check /data/mini-imagenet --sheet mini.png  ·  metantk data check s3://bucket/cifar-fs",
)
def check(
    source: Source,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw a contact sheet: some images of some classes.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at some images of each split; equal ones are not found then.")
    ] = False,
    name: Name = None,
    colour_order: ColourOrder = None,
    rotations: Rotations = None,
    val_classes: ValClasses = None,
    test_classes: TestClasses = None,
    as_json: AsJson = False,
) -> None:
    """Say what lies there and all that is wrong with it; exit code 2 if a run can't use it.

    Nothing is written but the contact sheet.
    """
    from metantk_core import data_display, wiring
    from metantk_core.datasets import inspection
    from metantk_core.workspace import told

    found = inspection.inspect(
        source,
        wiring.images(source),
        choices=_choices(name, colour_order, rotations, val_classes, test_classes),
        fast=fast,
        sheet=sheet,
        progress=told("check"),
    )
    if as_json:
        print_json({**asdict(found), "looked_at": found.looked_at, "usable": found.usable})
    else:
        data_display.print_inspection(found, sheet)
    if not found.usable:
        raise typer.Exit(2)


@commands.command(
    name="import",
    epilog="Examples: metantk data import /data/mini-imagenet /data/mini-84 --image-size 84  ·  "
    "metantk data import /data/cifar-fs s3://bucket/cifar-fs",
)
def import_(
    source: Source,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION", help="A folder, not there yet or empty; or s3://bucket/prefix, with nothing there."
        ),
    ],
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8, max=512, metavar="PIXELS", help="Height and width of stored images; without it, those of the images."
        ),
    ] = None,
    channels: Channels = None,
    name: Name = None,
    colour_order: ColourOrder = None,
    rotations: Rotations = None,
    val_classes: ValClasses = None,
    test_classes: TestClasses = None,
    as_json: AsJson = False,
) -> None:
    """Convert images once to what runs read: data.path may then name the destination.

    A command that was killed goes on where it was. The source stays as it is.
    """
    import time

    given = _channels(channels)
    from metantk_core import data_display, wiring, workflow
    from metantk_core.datasets import importing
    from metantk_core.workspace import told

    choices = _choices(name, colour_order, rotations, val_classes, test_classes)
    place = wiring.images(destination)
    if place is None and "://" in destination:
        raise InputError(
            "Expected a folder on this machine as the destination, or s3://bucket/prefix; give one of these."
        )
    plan = importing.planned(source, image_size, given, wiring.images(source), choices)
    started = time.monotonic()
    if place is None:
        made = importing.import_images(plan, Path(destination).expanduser(), told("import"))
    else:
        store = wiring.artifact_store(destination)
        made = workflow.import_into(plan, store, place, wiring.waiting_room(destination), told)
    seconds = time.monotonic() - started
    if as_json:
        print_json({"destination": destination, "layout": plan.layout, **asdict(made), "seconds": round(seconds, 3)})
    else:
        data_display.print_import(made, plan.layout, destination, seconds)


@commands.command(
    epilog="Examples: metantk data split /data/birds /data/birds-split  ·  metantk data split /data/birds "
    "/data/birds-split --train 0.5 --val 0.25 --test 0.25 --seed 1 --by copy",
)
def split(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder with a folder of images for each class.")],
    destination: Annotated[Path, typer.Argument(metavar="DESTINATION", help="A folder, not there yet or empty.")],
    train: Annotated[float, typer.Option(help="Share of the classes to train on.")] = 0.64,
    val: Annotated[float, typer.Option(help="Share of the classes to choose models on.")] = 0.16,
    test: Annotated[float, typer.Option(help="Share of the classes to report accuracy on.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice, which depends on it and the names alone.")] = 0,
    by: Annotated[
        str, typer.Option(metavar="link|copy", help="Second names of the same files, which take no space, or copies.")
    ] = "link",
    as_json: AsJson = False,
) -> None:
    """Divide the classes of a folder into train, val and test, each class in one of them. The source stays as it is."""
    if by not in ("link", "copy"):
        raise typer.BadParameter("link gives second names to the same files, copy copies them", param_hint="--by")
    for given in (source, destination):
        if ":/" in str(given):  # a path has lost one of its slashes
            raise InputError(
                "Expected two folders on this machine, but got an address. Copy the images here, divide them, and copy "
                "the splits there, or import them there."
            )
    from metantk_core import data_display
    from metantk_core.datasets import splitting
    from metantk_core.workspace import told

    divided = splitting.divide(
        source.expanduser(),
        destination.expanduser(),
        shares={"train": train, "val": val, "test": test},
        seed=seed,
        by="link" if by == "link" else "copy",
        progress=told("split"),
    )
    if as_json:
        print_json({"destination": str(destination), "seed": seed, **asdict(divided)})
    else:
        data_display.print_divided(divided, destination)


def _channels(text: str | None) -> Literal[1, 3] | None:
    if text is None:
        return None
    if text not in ("1", "3"):
        raise typer.BadParameter("1 is grey, 3 is RGB", param_hint="--channels")
    return 1 if text == "1" else 3


def _choices(
    name: str | None,
    colour_order: str | None,
    rotations: str | None,
    val_classes: str | None,
    test_classes: str | None,
) -> dict[str, object]:
    """Return what a person says of files that can't, as settings of the data."""
    given = {
        "name": name,
        "colour_order": colour_order,
        "rotations": rotations,
        "val_classes": _held_out(val_classes),
        "test_classes": _held_out(test_classes),
    }
    return {key: value for key, value in given.items() if value is not None}


def _held_out(text: str | None) -> int | list[str] | None:
    """Return a number of classes, or their names."""
    if text is None:
        return None
    if text.isdecimal() and len(text) < _LONGEST_NUMBER:
        return int(text)
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise typer.BadParameter(
            f"expected how many classes, or their names with commas between, but got {shown(repr(text))}",
            param_hint="--val-classes and --test-classes",
        )
    return names
