"""What people see of their images: what was found, imported or split enters, tables and sentences leave."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metantk_core.adapters.progress import duration
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.importing import Imported
from metantk_core.datasets.inspection import Inspection
from metantk_core.datasets.splitting import Divided
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
        _say(console, f"It is in {destination} already")
    settings = {"path": destination, "image_size": width, "channels": channels}
    words = " ".join(f"--set {shlex.quote(f'data.{key}={value}')}" for key, value in settings.items())
    _say(console, f"Next       metantk run smoke {words}")


def print_inspection(found: Inspection, sheet: Path | None, console: Console | None = None) -> None:
    """Print what a place holds, and what is wrong with it.

    Args:
        found: What was found.
        sheet: Where the contact sheet is.
        console: Where to; the terminal if none is given.
    """
    console = console or Console()
    if found.splits:
        _say(console, f"Layout     {found.layout}: {found.name}, taken for {found.kind}")
        _say(console, f"Stored     {amount(found.size)}")
        _say(console, f"Sizes      {_sizes(found)}")
        _say(console, f"Colours    {found.colour_order}")
        table = Table(box=None, pad_edge=False)
        for heading in ("split", "classes", "images", "a class: least", "median", "most"):
            table.add_column(heading, justify="left" if heading == "split" else "right")
        for split in SPLITS:
            part = found.splits[split]
            counts = (part.classes, part.images, part.smallest, part.median, part.largest)
            table.add_row(split, *(f"{count:,.15g}" for count in counts))
        console.print(table)
        total = sum(part.images for part in found.splits.values())
        if found.looked_at < total:
            _say(console, f"Looked at {found.looked_at:,} of {total:,} images")
    for remark in found.remarks:
        if "Colours are taken" not in remark:  # which is said above
            _say(console, f"• {remark}")
    for problem in found.problems:
        console.print(Text("✗ " if problem.fatal else "! ", style="red" if problem.fatal else "yellow"), end="")
        _say(console, problem.sentence)
    if sheet is not None and found.looked_at:
        _say(console, f"Sheet      {sheet}")
    if not found.usable:
        _say(console, "A run can't use it: see what is marked by ✗")
    elif found.problems:
        _say(console, "Usable, with the reservations above")
    else:
        _say(console, "Nothing is wrong with it")


def _sizes(found: Inspection) -> str:
    if not found.sizes:
        return "unknown: no image could be read"
    (width, height, count), *others = found.sizes
    if not others:
        return f"all {width} x {height} pixels"
    smallest = min(found.sizes, key=lambda size: (size[0] * size[1], size[0]))
    largest = max(found.sizes, key=lambda size: (size[0] * size[1], size[0]))
    return (
        f"{len(found.sizes):,} different, from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels; "
        f"{count / found.looked_at:.0%} are {width} x {height}"
    )


def print_divided(divided: Divided, destination: Path, console: Console | None = None) -> None:
    """Print which splits were made.

    Args:
        divided: What was made.
        destination: Where.
        console: Where to; the terminal if none is given.
    """
    console = console or Console()
    console.print(_counts({split: len(names) for split, names in divided.classes.items()}, divided.images))
    for split in ("val", "test"):
        names = divided.classes[split]
        _say(console, f"{split}: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}")
    if divided.passed_over:
        files = (
            "1 file that is no image by its name"
            if divided.passed_over == 1
            else (f"{divided.passed_over:,} files that are no images by their names")
        )
        _say(console, f"Passed over {files}")
    linked = sum(divided.images.values()) - divided.copied
    how = f"{linked:,} images linked" if linked else ""
    how += f"{', ' if how else ''}{divided.copied:,} copied" if divided.copied else ""
    _say(console, f"Made       {destination}: {how}")
    _say(console, f"Next       metantk data check {shlex.quote(str(destination))}")


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
