"""What `metantk data import` made: images in the form in which a run stores them, used as they are where sizes agree.

Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns, ``b`` bytes.
"""

import os
import shutil
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from metantk_core.datasets.images import SPLITS, Split, checksum
from metantk_core.datasets.npy import Header
from metantk_core.datasets.sources import AS_THEY_ARE, Recognition, Source, SplitSource, stream
from metantk_core.datasets.stored import FILES, Summary, UnusableError, images_header, read_labels, read_summary
from metantk_core.errors import InputError
from metantk_core.files import FILE, Folder, Place, link_or_copy, shown
from metantk_core.progress import Progress
from metantk_core.seeding import digest

NAME = "an imported data set"
_AT_ONCE = 64
_PIECE = 1 << 20
_MEGABYTE = 10**6


def imported(place: Place, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images of a folder that an import made.

    Where they have the size and channels that are asked for, their files are used: linked on this machine, copied from
    a bucket. Otherwise they are converted, each compared with its checksum when it is read.

    Args:
        place: The folder.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: A file is missing or not what was written; later, while images stream, an image is not.
    """
    for name in sorted(FILES):
        entry = place.entry(name)
        if entry is None or entry.kind != FILE:
            raise InputError(f"'{shown(place.where(name))}' has gone, or is no file. Import the images again.")
    try:
        summary = read_summary(place)
    except UnusableError as problem:
        raise InputError(f"{problem} Import the images again.") from problem
    there = summary.image_shape == [channels, image_size, image_size]
    return Source(
        name=summary.name,
        # Not of the files' times: a second name for a file, which is how they are used, changes one of them.
        fingerprint=digest([NAME, summary.checksum]),
        splits=lambda: {split: _split(place, split, summary, image_size, channels) for split in SPLITS},
        layout=NAME,
        recognise=lambda splits: Recognition(summary.kind, tuple(summary.assumptions)),
        finished=(lambda directory, progress: _put(place, directory, progress)) if there else None,
    )


def _split(place: Place, split: Split, summary: Summary, image_size: int, channels: Literal[1, 3]) -> SplitSource:
    try:
        labels, checksums = read_labels(place, split, summary)
        header = images_header(place, split, len(labels), summary)
    except UnusableError as problem:
        raise InputError(f"{problem} Import the images again.") from problem
    return SplitSource(
        tuple(summary.class_names[split]),
        labels,
        lambda start=0: _images(place, split, header, checksums, image_size, channels, start),
    )


def _images(
    place: Place,
    split: Split,
    header: Header,
    checksums: UInt8[np.ndarray, "n b"],
    image_size: int,
    channels: Literal[1, 3],
    start: int,
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    count, *shape = header.shape
    size = int(np.prod(shape))
    name = f"{split}_images.npy"
    with place.open(name) as file:
        file.seek(header.length + start * size)
        for row in range(start, count, _AT_ONCE):
            images = _read(file, min(_AT_ONCE, count - row), shape)
            for offset, image in enumerate(images):
                if checksum(image) != checksums[row + offset].tobytes():
                    place.forget(name)
                    raise InputError(
                        f"Image {row + offset} in '{shown(place.where(name))}' was changed after it was written. "
                        "Import the images again."
                    )
            if shape[0] == channels and image_size in (AS_THEY_ARE, shape[1]):
                yield from images
            else:
                yield from stream(images.transpose(0, 2, 3, 1), image_size, channels)


def _read(file: BufferedIOBase, count: int, shape: list[int]) -> UInt8[np.ndarray, "n c h w"]:
    data = file.read(count * int(np.prod(shape)))
    whole = len(data) // int(np.prod(shape))  # less than asked for where the file has just become shorter
    images = np.zeros((count, *shape), np.uint8)
    images[:whole] = np.frombuffer(data[: whole * images[0].size], np.uint8).reshape(whole, *shape)
    return images


def _put(place: Place, directory: Path, progress: Progress) -> None:
    """Put the files into a directory: under a second name where this machine can, else as copies."""
    sizes = {name: entry.size for name in sorted(FILES) if (entry := place.entry(name)) is not None}
    total = max(1, -(-sum(sizes.values()) // _MEGABYTE))
    done = 0
    for name, size in sizes.items():
        if isinstance(place, Folder):
            _link(place.root / name, directory / name)
        else:
            with place.open(name) as file, open(directory / name, "wb") as copy:
                shutil.copyfileobj(file, copy, _PIECE)
                copy.flush()
                os.fsync(copy.fileno())
        done += size
        progress(min(done // _MEGABYTE, total), total, "MB of imported images")


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; one of images on another disk gets a symbolic link, since it may be of gigabytes."""
    if source.name.endswith("_images.npy"):
        try:
            os.link(source, target)
        except OSError:  # another disk, or somebody else's file
            os.symlink(source.resolve(), target)
    else:
        link_or_copy(source, target)
