"""Image files: the bytes of one enter, its pixels as they are stored leave.

Nothing of the bytes is trusted. Axes: ``c`` channels, ``h`` rows, ``w`` columns.
"""

import warnings
from io import BufferedIOBase
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from metantk_core.datasets.sources import MAX_PIXELS, to_array
from metantk_core.errors import InputError
from metantk_core.files import reason

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow goes by content, not by suffix, and knows formats that start other programs (EPS runs Ghostscript)."""


def decoded(
    stream: BufferedIOBase,
    what: str,
    image_size: int,
    channels: Literal[1, 3],
    *,
    formats: tuple[str, ...] = FORMATS,
    remedy: str = "Replace or remove it.",
) -> UInt8[np.ndarray, "c h w"]:
    """Return the pixels of an image file, turned as its EXIF data say.

    Args:
        stream: The file.
        what: What to call it at the beginning of a sentence, such as ``"Image 'a.png'"``.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
        formats: Formats that it may have, as Pillow calls them.
        remedy: What a person can do about one that can't be read.

    Raises:
        InputError: It is no image of these formats, is damaged, too large, or of unknown range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it has dealt with
            with Image.open(stream, formats=formats) as image:  # pyright: ignore[reportArgumentType] - any such file
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f"{what} has {image.width:,} x {image.height:,} pixels: expected at most "
                        f"{MAX_PIXELS:,} in all. Make it smaller."
                    )
                if image.format == "PPM" and image.mode == "I":  # 16 bits, whatever the file calls white
                    return to_array(Image.fromarray(np.asarray(image).astype(np.uint16)), image_size, channels)
                if image.mode in ("I", "F"):
                    raise InputError(
                        f"{what} has 32-bit pixels, whose range is unknown: expected 8 or 16 bits. Convert it."
                    )
                return to_array(ImageOps.exif_transpose(image), image_size, channels)
    except InputError:
        raise
    # Pillow's decoders raise whatever they stumble over: a broken PNG is a SyntaxError, broken EXIF a struct.error.
    except Exception as error:
        words = f"it is none of {', '.join(formats)}" if "cannot identify" in str(error) else reason(error)
        raise InputError(f"{what} can't be read ({words}). {remedy}") from error
