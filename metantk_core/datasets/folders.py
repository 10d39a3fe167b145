"""Images in folders, one a class: a path enters, a source of images leaves.

Nothing of the folder is trusted: links may loop, names may be no text, and files may be anything.
"""

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.sources import (
    MAX_PIXELS,
    Source,
    SplitSource,
    check_counts,
    check_name,
    data_set_name,
    kind,
    open_regular,
    reason,
    shown,
    to_array,
)
from metantk_core.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow goes by content, not by suffix, and knows formats that start other programs (EPS runs Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def folder(path: Path, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images in ``path/{train,val,test}/<class>/*.{jpg,png,...}``.

    Classes and files are taken in the order of their names. Hidden files and files that are no images by their suffix
    are passed over. Links are followed.

    Args:
        path: The folder that holds the three splits.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: If the folder, a split or a split's classes are missing or can't be read, a class is empty or in two
            splits, a name is no text, a link leads nowhere; later, while images stream, if one can't be read.
    """
    if not _is_folder(path):
        raise InputError(
            f"No folder '{shown(path)}': expected a folder that holds train/, val/ and test/. Check data.path."
        )
    splits: dict[Split, SplitSource] = {}
    listing = hashlib.sha256()
    for split in SPLITS:
        root = path / split
        if not _is_folder(root):
            raise InputError(
                f"Split '{split}' is missing: no folder '{shown(root)}'. "
                f"Expected {{train,val,test}}/<class>/<image> in '{shown(path)}'."
            )
        classes: list[tuple[Path, list[str]]] = []
        for name, status in _entries(root, lambda name: True):
            if stat.S_ISDIR(status.st_mode):
                check_name(name, split, root)
                classes.append((root / name, _image_files(root / name, split, listing)))
        if not classes:
            raise InputError(
                f"Split '{split}' has no classes: expected one folder of images a class in '{shown(root)}'."
            )
        counts = [len(files) for _, files in classes]
        check_counts(sum(counts), len(classes), split, root)
        splits[split] = SplitSource(
            class_names=tuple(class_folder.name for class_folder, _ in classes),
            labels=np.repeat(np.arange(len(classes), dtype=np.int64), counts),
            images=lambda classes=tuple(classes): _stream(classes, image_size, channels),
        )
    check_disjoint({split: source.class_names for split, source in splits.items()})
    return Source(data_set_name(path), listing.hexdigest()[:16], lambda: splits)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read the folder '{shown(path)}' ({reason(error)}). Check data.path, and who may read it."
        ) from error


def _entries(place: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result]]:
    """Give name and status of what is in a folder, hidden entries left out, in the order of names."""
    try:
        names = sorted(name for name in os.listdir(place) if not name.startswith(".") and wanted(name))
    except OSError as error:
        raise InputError(
            f"Can't read the folder '{shown(place)}' ({reason(error)}). Check who may read it, or remove it."
        ) from error
    for name in names:
        try:
            yield name, os.stat(place / name)
        except OSError as error:
            what = "is a link that leads nowhere" if os.path.islink(place / name) else "can't be read"
            raise InputError(f"'{shown(place / name)}' {what} ({reason(error)}). Repair or remove it.") from error


def _image_files(place: Path, split: Split, listing: "hashlib._Hash") -> list[str]:
    found = []
    for name, status in _entries(place, lambda name: os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES):
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                f"Image '{shown(place / name)}' is {kind(status.st_mode)}: expected a file. Replace or remove it."
            )
        # The time of change of the entry itself, too: contents may be replaced with size and time of writing kept.
        key = [split, place.name, name, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        listing.update(json.dumps(key).encode())
        found.append(name)
    if not found:
        raise InputError(
            f"Class '{shown(place.name)}' of split '{split}' is empty: no image file "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}) in '{shown(place)}'. Add images or remove the folder."
        )
    return found


def _stream(
    classes: tuple[tuple[Path, list[str]], ...], image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    for place, names in classes:
        for name in names:
            yield _read_image(place / name, image_size, channels)


def _read_image(file: Path, image_size: int, channels: Literal[1, 3]) -> UInt8[np.ndarray, "c h w"]:
    try:
        with warnings.catch_warnings(), open_regular(file) as stream:
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it has dealt with
            with Image.open(stream, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f"Image '{shown(file)}' has {image.width:,} x {image.height:,} pixels: expected at most "
                        f"{MAX_PIXELS:,} in all. Make it smaller."
                    )
                if image.format == "PPM" and image.mode == "I":  # 16 bits, whatever the file calls white
                    return to_array(Image.fromarray(np.asarray(image).astype(np.uint16)), image_size, channels)
                if image.mode in ("I", "F"):
                    raise InputError(
                        f"Image '{shown(file)}' has 32-bit pixels, whose range is unknown: expected 8 or 16 bits. "
                        "Convert it."
                    )
                return to_array(ImageOps.exif_transpose(image), image_size, channels)
    except InputError:
        raise
    # Pillow's decoders raise whatever they stumble over: a broken PNG is a SyntaxError, broken EXIF a struct.error.
    except Exception as error:
        words = "it is none of " + ", ".join(_FORMATS) if "cannot identify" in str(error) else reason(error)
        raise InputError(f"Image '{shown(file)}' can't be read ({words}). Replace or remove it.") from error
