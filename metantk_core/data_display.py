"""What people see of their images: what was found, imported or split enters, tables and sentences leave."""

import shlex
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from metantk_core.adapters.progress import duration
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.importing import Imported
from metantk_core.files import amount


def print_import(made: Imported, layout: str, destination: str, seconds: float, console: Console | None = None) -> None:
    """Print what an import made, and how it is used.

    Args:
        made: What it made.
        layout: How the images were kept.
        destination: Where they are now.
        seconds: How long it took.
        console: Where to; the terminal if none is given.
    """
    console = console or Console()
    channels, height, width = made.image_shape
    _say(console, f"{made.name}: {layout}")
    console.print(_counts(made.classes, made.images))
    total = sum(made.images.values())
    colours = "grey" if channels == 1 else "RGB"
    _say(console, f"{width} x {height} pixels, {colours}, {amount(made.size)}, digest {made.digest}")
    for remark in made.remarks:
        _say(console, f"• {remark}")
    if made.made:
        pace = f", {total / seconds:,.0f} images a second" if seconds >= 1 else ""
        _say(console, f"Imported into {destination} in {duration(seconds)}{pace}")
    else:
        _say(console, f"It is in {destination} already, and whole")
    settings = {"path": destination, "image_size": width, "channels": channels}
    words = " ".join(f"--set {shlex.quote(f'data.{key}={value}')}" for key, value in settings.items())
    _say(console, f"Next       metantk run smoke {words}")


def _counts(classes: Mapping[Split, int], images: Mapping[Split, int]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    table.add_column("classes", justify="right")
    table.add_column("images", justify="right")
    for split in SPLITS:
        table.add_row(split, f"{classes[split]:,}", f"{images[split]:,}")
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
