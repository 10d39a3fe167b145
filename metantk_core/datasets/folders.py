"""Images in folders, one a class: a place enters, a source of images leaves.

Nothing of the folder is trusted: links may loop, names may be no text, and files may be anything.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from metantk_core.datasets.decoding import decoded
from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.sources import (
    Source,
    SplitSource,
    check_counts,
    check_name,
    of_kind,
)
from metantk_core.errors import Complaints, InputError
from metantk_core.files import FILE, FOLDER, Place, reason, shown

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def folder(place: Place, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images in ``{train,val,test}/<class>/*.{jpg,png,...}``.

    Classes and files are taken in the order of their names. Hidden files and files that are no images by their suffix
    are passed over. Links are followed.

    Args:
        place: What holds the three splits.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: If the folder, a split or a split's classes are missing or can't be read, a class is empty or in two
            splits, a name is no text, a link leads nowhere; later, while images stream, if one can't be read.
    """
    if not _is_folder(place):
        raise InputError(
            f"No folder '{shown(place.where())}': expected a folder that holds train/, val/ and test/. Check data.path."
        )
    splits: dict[Split, SplitSource] = {}
    listing = hashlib.sha256()
    complaints = Complaints()
    for split in SPLITS:
        with complaints.kept():
            splits[split] = _split(place, split, listing, image_size, channels)
    complaints.raise_any()
    check_disjoint({split: source.class_names for split, source in splits.items()})
    return Source(place.name, listing.hexdigest()[:16], lambda: splits, "folders of images", of_kind("folder"))


def _split(
    place: Place, split: Split, listing: "hashlib._Hash", image_size: int, channels: Literal[1, 3]
) -> SplitSource:
    if not _is_folder(place, split):
        raise InputError(
            f"Split '{split}' is missing: no folder '{shown(place.where(split))}'. "
            f"Expected {{train,val,test}}/<class>/<image> in '{shown(place.where())}'."
        )
    root = place.where(split)
    complaints = Complaints()
    classes: list[tuple[str, list[str]]] = []
    for entry in place.entries(split):
        if entry.kind == FOLDER:
            with complaints.kept():
                check_name(entry.name, split, root)
                classes.append((entry.name, _image_files(place, split, entry.name, listing)))
    complaints.raise_any()
    if not classes:
        raise InputError(f"Split '{split}' has no classes: expected one folder of images a class in '{shown(root)}'.")
    counts = [len(files) for _, files in classes]
    check_counts(sum(counts), len(classes), split, root)
    files = [f"{split}/{name}/{file}" for name, found in classes for file in found]
    return SplitSource(
        class_names=tuple(name for name, _ in classes),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), counts),
        images=lambda start=0: stream_files(place, files[start:], image_size, channels),
    )


def _is_folder(place: Place, path: str = "") -> bool:
    try:
        return place.holds_folder(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read the folder '{shown(place.where(path))}' ({reason(error)}). Check data.path, and who may read "
            "it."
        ) from error


def is_image(name: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _image_files(place: Place, split: Split, class_name: str, listing: "hashlib._Hash") -> list[str]:
    path = f"{split}/{class_name}"
    found = []
    for entry in place.entries(path, is_image):
        if entry.kind == FOLDER:
            continue
        if entry.kind != FILE:
            raise InputError(
                f"Image '{shown(place.where(f'{path}/{entry.name}'))}' is {entry.kind}: expected a file. Replace or "
                "remove it."
            )
        listing.update(json.dumps([split, class_name, entry.name, entry.size, *entry.version]).encode())
        found.append(entry.name)
    if not found:
        raise InputError(
            f"Class '{shown(class_name)}' of split '{split}' is empty: no image file "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}) in '{shown(place.where(path))}'. Add images or remove the folder."
        )
    return found


def stream_files(
    place: Place, files: Sequence[str], image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    """Give images one after the other, as they are stored.

    Args:
        place: Where the files lie.
        files: Their paths there.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: One can't be read.
    """
    opened = place.opened(files)
    for file in files:
        yield _read_image(place, file, opened, image_size, channels)


def _read_image(
    place: Place, file: str, opened: Iterator[BufferedIOBase], image_size: int, channels: Literal[1, 3]
) -> UInt8[np.ndarray, "c h w"]:
    what = f"Image '{shown(place.where(file))}'"
    try:
        with next(opened) as stream:
            return decoded(stream, what, image_size, channels)
    except InputError:
        place.forget(file)
        raise
    except (OSError, ValueError) as error:
        place.forget(file)
        raise InputError(f"{what} can't be read ({reason(error)}). Replace or remove it.") from error
