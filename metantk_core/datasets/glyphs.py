"""The embedded data set: a seed enters, images of several hundred letters of twelve scripts leave.

Every class is a Unicode letter, every image that letter in one of the typefaces that come with matplotlib, white ink on
black, turned, sheared, scaled and shifted a little. Three rules keep the classes of the splits really different:

1. Splits are made by script (`SCRIPTS`): no script is in two of them.
2. Only letters that Unicode does not decompose (NFKD) are candidates: no accented, ligated or stylistic variants.
3. Candidates are taken in the order of `SCRIPTS`, then of their code points, and one is left out if in any reference
   typeface it looks like a letter taken before (`similarity` above `LOOK_ALIKE`), or if a chain of near copies
   (`NEAR_COPY`), as V, v, Greek nu, leads from it to one. Letters that are scaled copies of each other are the same
   for this comparison, so Latin A stands for Greek Alpha and Cyrillic A, and O for o.

At least `MIN_TYPEFACES` typefaces hold each letter. Scripts that only the four styles of DejaVu Sans hold (Hebrew,
Lisu, Coptic, Old Italic, Canadian syllabics) vary in weight and slant; Armenian and Georgian come in 8 or 12 sans,
serif and monospaced typefaces; Latin in up to 22.

Axes: ``n`` letters, ``c`` channels, ``h`` rows, ``w`` columns, ``p`` pixels.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features
from scipy.sparse.csgraph import connected_components

from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.sources import Source, SplitSource, of_kind
from metantk_core.seeding import digest, numpy_generator

# The first words of the Unicode names of a script's letters, in the order in which look-alikes are resolved: the
# letters that most people know, then the scripts of the small splits.
SCRIPTS: dict[str, Split] = {
    "LATIN": "train",
    "ARMENIAN": "test",
    "GEORGIAN": "test",
    "HEBREW": "val",
    "ARABIC": "val",
    "LAO": "val",
    "GREEK": "train",
    "CYRILLIC": "train",
    "COPTIC": "train",
    "OLD ITALIC": "train",
    "LISU": "train",
    "CANADIAN SYLLABICS": "train",
}

# Ordered so that a prefix is as varied as possible: a data set of few images a class takes the first ones.
TYPEFACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "STIXGeneral",
    "DejaVuSansMono-Bold",
    "STIXGeneralItalic",
    "cmr10",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-Italic",
    "cmss10",
    "STIXGeneralBol",
    "DejaVuSansMono",
    "cmtt10",
    "DejaVuSerif-Bold",
    "DejaVuSans-Oblique",
    "cmti10",
    "STIXGeneralBolIta",
    "DejaVuSans-Bold",
    "cmb10",
    "DejaVuSerif-BoldItalic",
    "cmmi10",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
)
MIN_TYPEFACES = 4

# Every design at regular weight. The first holds every candidate; the others add what letters share only in a seriffed,
# cursive or monospaced design (т and m, ħ and ћ).
REFERENCE_TYPEFACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
)
LOOK_ALIKE = 0.80
NEAR_COPY = 0.90
SMALLEST = 0.5  # of a capital's height: smaller letters are specks that a few pixels can't tell apart

RECIPE = 1  # counts changes of the pictures, so that stored ones are known to be out of date
_SUPERSAMPLING = 4
_CAPITAL_HEIGHT = 0.60  # of the image's height
_LARGEST = 0.84  # of the image's side; a wider or higher letter is scaled down to this
_ROTATION, _SHEAR, _SCALE, _SHIFT = 8.0, 0.10, (0.85, 1.05), 0.05  # degrees, slope, factor, part of the side


@dataclass(frozen=True)
class Letter:
    """One class.

    Attributes:
        character: The letter.
        script: A key of `SCRIPTS`.
        typefaces: The typefaces that hold it, in the order of `TYPEFACES`.
    """

    character: str
    script: str
    typefaces: tuple[str, ...]


def glyphs(image_size: int, channels: Literal[1, 3], seed: int, images_per_class: int) -> Source:
    """Return the letters as a source of images.

    Image i of a letter is set in its i-th typeface, beginning anew after the last. An image depends on nothing but
    the arguments, its letter and i.

    Args:
        image_size: Height and width in pixels.
        channels: 1 for grey; 3 repeats the same ink.
        seed: Seed of the jitter.
        images_per_class: Number of images of each letter.
    """

    def stream(members: tuple[Letter, ...]) -> Iterator[UInt8[np.ndarray, "c h w"]]:
        for letter in members:
            drawn = [_draw(letter.character, face, image_size) for face in letter.typefaces[:images_per_class]]
            for index in range(images_per_class):
                rng = numpy_generator(seed, "glyphs", letter.character, index)
                image = _jitter(drawn[index % len(drawn)], image_size, rng)
                yield np.repeat(image[None], channels, axis=0)

    def splits() -> dict[Split, SplitSource]:
        result: dict[Split, SplitSource] = {}
        for split in SPLITS:
            members = tuple(letter for letter in letters() if SCRIPTS[letter.script] == split)
            result[split] = SplitSource(
                class_names=tuple(letter.character for letter in members),
                labels=np.repeat(np.arange(len(members), dtype=np.int64), images_per_class),
                images=lambda start=0, members=members: islice(stream(members), start, None),
            )
        return result

    return Source("glyphs", digest([RECIPE, _versions()]), splits, "embedded letters", of_kind("glyphs"))


@cache
def letters() -> tuple[Letter, ...]:
    """Return all classes, in the order of `SCRIPTS` and then of their code points; no two look alike."""
    members = candidates()
    likeness = similarity(members)
    _, families = connected_components(likeness > NEAR_COPY, directed=False)
    taken: list[int] = []
    for index in range(len(members)):
        if families[index] not in families[taken] and not (likeness[index, taken] > LOOK_ALIKE).any():
            taken.append(index)
    return tuple(members[index] for index in taken)


@cache
def candidates() -> tuple[Letter, ...]:
    """Return the letters of `SCRIPTS` that enough typefaces hold and that are no specks, look-alikes included."""
    holds = {face: _characters(face) for face in TYPEFACES}
    found = []
    smallest = SMALLEST * max(_ink("H", REFERENCE_TYPEFACES[0], 64).size)
    for character in sorted(holds[REFERENCE_TYPEFACES[0]]):
        script = script_of(character)
        typefaces = tuple(face for face in TYPEFACES if character in holds[face])
        if script is None or len(typefaces) < MIN_TYPEFACES:
            continue
        if max(_ink(character, REFERENCE_TYPEFACES[0], 64).size) >= smallest:
            found.append(Letter(character, script, typefaces))
    order = list(SCRIPTS)
    return tuple(sorted(found, key=lambda letter: (order.index(letter.script), letter.character)))


def script_of(character: str) -> str | None:
    """Return the script of a letter that may become a class, or None for any other character.

    Python knows no script property; the names of letters begin with their script. Modifier letters (Lm) and title-case
    digraphs (Lt) are shapes of other letters and no candidates.
    """
    if unicodedata.category(character) not in ("Lu", "Ll", "Lo") or not unicodedata.is_normalized("NFKD", character):
        return None
    name = unicodedata.name(character, "")
    return next((script for script in SCRIPTS if name.startswith(f"{script} ")), None)


def similarity(members: tuple[Letter, ...]) -> Float[np.ndarray, "n n"]:
    """Return how alike letters look: the largest correlation over the reference typefaces that hold both, -1 to 1.

    The ink of each letter is scaled, without changing its aspect, to fill a square of 32 pixels, blurred slightly (so
    that one pixel of offset counts little), and compared by Pearson's correlation over pixels.

    Args:
        members: Letters; the first reference typeface must hold them all.
    """
    result = np.full((len(members), len(members)), -1.0)
    for face in REFERENCE_TYPEFACES:
        rows = np.array([row for row, letter in enumerate(members) if face in letter.typefaces], dtype=np.int64)
        if rows.size == 0:
            continue
        pixels = np.stack([_reference(members[row].character, face) for row in rows])
        pixels -= pixels.mean(axis=1, keepdims=True)
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
        block = np.ix_(rows, rows)
        result[block] = np.maximum(result[block], pixels @ pixels.T)
    return result


def _reference(character: str, face: str) -> Float[np.ndarray, " p"]:
    side, margin = 32, 4
    ink = _ink(character, face, 128)
    width, height = ink.size
    square = Image.new("L", (max(ink.size), max(ink.size)))
    square.paste(ink, ((square.width - width) // 2, (square.height - height) // 2))
    framed = Image.new("L", (side + 2 * margin, side + 2 * margin))
    framed.paste(square.resize((side, side), Image.Resampling.BOX), (margin, margin))
    return np.asarray(framed.filter(ImageFilter.GaussianBlur(1)), np.float64).ravel()


def _ink(character: str, face: str, pixels: int) -> Image.Image:
    """Return a letter cropped to its ink, in a typeface scaled to a given number of pixels an em."""
    font = _font(face, pixels)
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    image = Image.new("L", (int(np.ceil(right - left)), int(np.ceil(bottom - top))))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return image.crop(image.getbbox())


def _draw(character: str, face: str, image_size: int) -> Image.Image:
    """Return a letter centred on a canvas of `_SUPERSAMPLING` times the image's side, before jitter."""
    side = image_size * _SUPERSAMPLING
    _, top, _, _ = _font(face, 1000).getbbox("H", anchor="ls")
    ink = _ink(character, face, max(1, round(_CAPITAL_HEIGHT * side * 1000 / -top)))
    shrink = _LARGEST * side / max(ink.size)
    if shrink < 1:
        width, height = (max(1, round(length * shrink)) for length in ink.size)
        ink = ink.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (side, side))
    canvas.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return canvas


def _jitter(drawn: Image.Image, image_size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    """Return the picture turned, sheared, scaled and shifted by random amounts, at its final size."""
    angle = np.deg2rad(rng.uniform(-_ROTATION, _ROTATION))
    shear = rng.uniform(-_SHEAR, _SHEAR)
    scale = rng.uniform(*_SCALE)
    shift = rng.uniform(-_SHIFT, _SHIFT, size=2) * drawn.width
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Pillow asks where each pixel of the result comes from: the inverse map, about the centre.
    inverse = np.linalg.inv(scale * turn @ np.array([[1.0, shear], [0.0, 1.0]]))
    centre = np.full(2, (drawn.width - 1) / 2)
    offset = centre - inverse @ (centre + shift)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    moved = drawn.transform(
        drawn.size, Image.Transform.AFFINE, tuple(float(x) for x in coefficients), Image.Resampling.BILINEAR
    )
    return np.asarray(moved.resize((image_size, image_size), Image.Resampling.BOX))


def _typeface_file(face: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    # Basic layout: one glyph a letter, whether or not a shaping library is installed.
    return ImageFont.truetype(_typeface_file(face), pixels, layout_engine=ImageFont.Layout.BASIC)


def _characters(face: str) -> frozenset[str]:
    """Return the characters that a typeface draws as Unicode means them."""
    from matplotlib.ft2font import FT2Font

    characters = {chr(code) for code, glyph in FT2Font(str(_typeface_file(face))).get_charmap().items() if glyph != 0}
    if face.startswith("cm"):
        # Computer Modern keeps TeX's encodings: beyond the English letters its code points hold other symbols.
        characters = {character for character in characters if character.isascii() and character.isalpha()}
    return frozenset(characters)


def _versions() -> list[str | None]:
    """Return what the pictures depend on beside this module: the typefaces and the rasteriser."""
    import matplotlib
    import PIL

    return [matplotlib.__version__, PIL.__version__, features.version("freetype2")]
