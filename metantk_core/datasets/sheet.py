"""The contact sheet: a data set enters, one picture that shows a few classes of each split leaves.

Axes: ``n`` images, ``k`` shown ones, ``c`` channels, ``h`` rows, ``w`` columns.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageDraw, ImageFont

from metantk_core.datasets.images import SPLITS, ImageDataset, Split
from metantk_core.files import written_atomically

CLASSES_SHOWN, IMAGES_SHOWN = 8, 12
_PAPER, _INK, _FAINT, _LINE = "#ffffff", "#1c2430", "#6b7686", "#d9dee6"
_ACCENT: dict[Split, str] = {"train": "#2563a8", "val": "#b4690e", "test": "#1f7a4d"}
_ZOOM = 2  # the sheet is drawn for screens with two pixels a point
_TILE, _GAP, _MARGIN = 48, 6, 32
_LABEL, _ROW, _HEAD, _TITLE = 224, 60, 58, 84


@dataclass(frozen=True)
class Part:
    """What a sheet shows of one split.

    Attributes:
        classes: Number of its classes.
        images: Number of its images.
        rows: Names of the classes that are shown, and pictures of each, ``[c h w]`` with 1 or 3 channels.
    """

    classes: int
    images: int
    rows: Sequence[tuple[str, Sequence[np.ndarray]]]


def contact_sheet(dataset: ImageDataset, path: Path) -> None:
    """Write a PNG that shows evenly spaced classes of each split, one a row, with their names.

    Args:
        dataset: What to show.
        path: The PNG; its folder is made if missing.
    """
    parts: dict[Split, Part] = {}
    for split in SPLITS:
        members = dataset.split(split)
        shown = rows_shown(members.labels, len(members.class_names))
        rows = [(members.class_names[label], list(members.take(some))) for label, some in shown.items()]
        parts[split] = Part(len(members.class_names), len(members), rows)
    channels, rows_of_pixels, columns = dataset.train.image_shape
    colours = "grey" if channels == 1 else "RGB"
    draw_sheet(dataset.name, f"{columns} × {rows_of_pixels} pixels, {colours}  ·  digest {dataset.digest}", parts, path)


def rows_shown(labels: Int64[np.ndarray, " n"], classes: int) -> dict[int, Int64[np.ndarray, " k"]]:
    """Return evenly spaced classes, and which of their images are shown.

    Args:
        labels: The class of each image.
        classes: How many classes there are.
    """
    chosen = np.linspace(0, classes - 1, min(CLASSES_SHOWN, classes)).round().astype(int)
    return {int(label): np.flatnonzero(labels == label)[:IMAGES_SHOWN] for label in chosen}


def draw_sheet(name: str, facts: str, parts: Mapping[Split, Part], path: Path) -> None:
    """Write a PNG that shows classes of splits, one a row, with their names.

    Args:
        name: The data set.
        facts: What is said of its images, beside how many they are.
        parts: The splits.
        path: The PNG; its folder is made if missing.
    """
    width = 2 * _MARGIN + _LABEL + IMAGES_SHOWN * (_TILE + _GAP) - _GAP
    height = _TITLE + sum(_HEAD + _ROW * len(part.rows) for part in parts.values()) + _MARGIN
    sheet = Image.new("RGB", (width * _ZOOM, height * _ZOOM), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _text(draw, _MARGIN, 34, name, 24, _INK, bold=True)
    _text(draw, _MARGIN, 64, f"{sum(part.images for part in parts.values()):,} images, {facts}", 12, _FAINT)
    top = _TITLE
    for split, part in parts.items():
        draw.line([_at(_MARGIN, top + 8), _at(width - _MARGIN, top + 8)], fill=_LINE, width=_ZOOM)
        _text(draw, _MARGIN, top + 34, split, 17, _ACCENT[split], bold=True)
        _text(draw, _MARGIN + _LABEL, top + 34, f"{part.classes:,} classes, {part.images:,} images", 12, _FAINT)
        top += _HEAD
        for class_name, pictures in part.rows:
            _class_row(sheet, draw, class_name, pictures, top)
            top += _ROW
    with written_atomically(path, durable=False) as file:
        sheet.save(file, format="PNG", optimize=True)


def _class_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, name: str, pictures: Sequence[np.ndarray], top: int
) -> None:
    middle = top + _TILE / 2
    if len(name) == 1:
        size = 28 if _font(28, bold=False).getlength(name) <= 40 * _ZOOM else 18
        draw.text(_at(_MARGIN + 20, middle), name, fill=_INK, font=_font(size, bold=False), anchor="mm")
        words = unicodedata.name(name, f"U+{ord(name):04X}").replace(" LETTER", "").lower()
        first, second = _two_lines(words[:1].upper() + words[1:], 22)
        if second:
            _text(draw, _MARGIN + 48, middle - 8, first, 11, _FAINT)
            _text(draw, _MARGIN + 48, middle + 8, second, 11, _FAINT)
        else:
            _text(draw, _MARGIN + 48, middle, first, 11, _FAINT)
    else:
        _text(draw, _MARGIN, middle, name if len(name) <= 26 else f"{name[:13]}…{name[-12:]}", 13, _INK)
    for column, pixels in enumerate(pictures[:IMAGES_SHOWN]):
        tile = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        tile = tile.convert("RGB").resize((_TILE * _ZOOM, _TILE * _ZOOM), Image.Resampling.BICUBIC)
        left = _MARGIN + _LABEL + column * (_TILE + _GAP)
        sheet.paste(tile, (left * _ZOOM, top * _ZOOM))


def _two_lines(words: str, length: int) -> tuple[str, str]:
    if len(words) <= length:
        return words, ""
    cut = words.rfind(" ", 0, length + 1)
    cut = cut if cut > 0 else length
    rest = words[cut:].strip()
    return words[:cut], rest if len(rest) <= length else f"{rest[: length - 1]}…"


def _text(
    draw: ImageDraw.ImageDraw, x: int | float, y: int | float, text: str, size: int, fill: str, *, bold: bool = False
) -> None:
    draw.text(_at(x, y), text, fill=fill, font=_font(size, bold=bold), anchor="lm")


def _at(x: int | float, y: int | float) -> tuple[int | float, int | float]:
    return x * _ZOOM, y * _ZOOM


def _font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib  # slow to import, and needed only here

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(file, size * _ZOOM)
