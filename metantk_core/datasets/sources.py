"""What every source of images hands over to be stored, and what all of them share: limits, names, pixels.

A source knows for each split the class names, the labels and a stream of images, so that a data set larger than memory
passes through one image at a time. Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from metantk_core.datasets.images import Split
from metantk_core.errors import InputError
from metantk_core.files import shown
from metantk_core.progress import Progress

# Far above every data set of the field; what claims more is damaged or hostile, and would fill memory.
MAX_IMAGES = 20_000_000
MAX_CLASSES = 100_000
MAX_PIXELS = 89_478_485  # of one image, as Pillow has it: 256 MB of RGB
LONGEST_NAME = 255
AS_THEY_ARE = 0
"""An image size that asks for images in the size that each has."""
_AT_ONCE = 64


@runtime_checkable
class ImageStream(Protocol):
    """Starts a stream of images, in the order of their labels."""

    def __call__(self, start: int = 0, /) -> Iterator[UInt8[np.ndarray, "c h w"]]:
        """Give the images from one of them on: what was broken off does not begin at the first one again."""
        ...


@dataclass(frozen=True, eq=False)
class SplitSource:
    """One split before it is stored.

    Attributes:
        class_names: One name for each class.
        labels: Shape ``[n]``, 0 to ``len(class_names) - 1``.
        images: Starts the stream of the n images.
    """

    class_names: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    images: ImageStream


@dataclass(frozen=True)
class Recognition:
    """What a data set was taken for.

    Attributes:
        kind: Which one it is, such as ``cifar-fs``; for none that is known, how it is stored, such as ``folder``.
        assumptions: Sentences on what files could not tell, or tell of a copy that is not the usual one.
        photographs: Whether it is known to hold photographs, which are redder than blue on the average.
    """

    kind: str
    assumptions: tuple[str, ...] = ()
    photographs: bool = False


@dataclass(frozen=True)
class Source:
    """Three splits before they are stored.

    Attributes:
        name: A readable name of the data set.
        fingerprint: Digest of what the images are made from, known without making them: when it changes, stored
            images are out of date.
        splits: Find the splits; asked only if images must be stored.
        layout: What its files are, in words.
        recognise: Says from the splits what it was taken for.
        finished: Puts arrays into a folder that are stored already as they are asked for; none if images must be
            converted.
    """

    name: str
    fingerprint: str
    splits: Callable[[], Mapping[Split, SplitSource]]
    layout: str
    recognise: Callable[[Mapping[Split, SplitSource]], Recognition]
    finished: Callable[[Path, Progress], None] | None = None


def of_kind(kind: str) -> Callable[[Mapping[Split, SplitSource]], Recognition]:
    """Return what says of any splits that they are of one kind."""
    return lambda splits: Recognition(kind)


def to_array(image: Image.Image, image_size: int, channels: Literal[1, 3]) -> UInt8[np.ndarray, "c h w"]:
    """Return an image in the shape in which it is stored.

    Sides are resized independently (a photo of another shape is squashed, as the field does), with an antialiasing
    filter. Transparent pixels become white paper.

    Args:
        image: An image of any size; 8 or 16 bits, palette, grey, colour, with or without transparency.
        image_size: Height and width of the result, or `AS_THEY_ARE`.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size != AS_THEY_ARE and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def stream(
    images: UInt8[np.ndarray, "n h w c"], image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    """Give images as they are stored, one after the other.

    Args:
        images: As a file has them: grey, RGB, or RGB and transparency.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
    """
    height, width, found = images.shape[1:]
    if found == channels and (image_size == AS_THEY_ARE or height == width == image_size):
        # Nothing is to be done to them but to put channels first, which is faster for many at a time.
        for start in range(0, len(images), _AT_ONCE):
            yield from np.ascontiguousarray(images[start : start + _AT_ONCE].transpose(0, 3, 1, 2))
        return
    for pixels in images:
        picture = Image.fromarray(pixels[..., 0] if found == 1 else pixels)
        yield to_array(picture, image_size, channels)


def check_name(name: str, split: Split, place: str) -> None:
    """Refuse a class name that can't be shown, stored or told from others.

    Raises:
        InputError: It is blank, too long, not UTF-8, or holds control characters.
    """
    wrong = None
    if not name.strip():
        wrong = "is blank"
    elif len(name) > LONGEST_NAME:
        wrong = f"has {len(name):,} characters"
    elif any("\udc80" <= c <= "\udcff" for c in name):  # how Python keeps bytes of a path that it can't decode
        wrong = "is not UTF-8"
    elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        wrong = "holds characters that are no text"
    if wrong:
        raise InputError(
            f"A class name of split '{split}' in '{shown(place)}' {wrong}: '{shown(name)}'. Expected up to "
            f"{LONGEST_NAME} characters of text; rename the class."
        )


def check_counts(images: int, classes: int, split: Split, place: str) -> None:
    """Refuse splits far larger than any in use.

    Raises:
        InputError: There are more images or classes than `MAX_IMAGES` and `MAX_CLASSES`.
    """
    if images > MAX_IMAGES or classes > MAX_CLASSES:
        raise InputError(
            f"Split '{split}' in '{shown(place)}' has {images:,} images of {classes:,} classes: expected at most "
            f"{MAX_IMAGES:,} and {MAX_CLASSES:,}. Leave some out."
        )
