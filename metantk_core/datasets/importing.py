"""Imports: a configuration enters, a directory in the form in which a run stores images leaves, once and for all.

Unlike what a run prepares, an import is what a person keeps, in a place that they choose: its image size is that of
the source unless they say otherwise, it goes on where it was killed, and it never replaces anything.

Axes: ``c`` channels of the source, ``s`` of what is stored, ``h`` rows, ``w`` columns.
"""

import dataclasses
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import ValidationError

from metantk_core.datasets.config import DataConfig
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.overlap import shared_images
from metantk_core.datasets.scratch import destination, resumable
from metantk_core.datasets.sources import AS_THEY_ARE, ImageStream, Source, SplitSource
from metantk_core.datasets.store import identity_of, load, opened, verify, writing
from metantk_core.datasets.stored import FILES, SUMMARY, UnusableError, images_header, read_labels, read_summary, write
from metantk_core.errors import InputError, first_complaint
from metantk_core.files import Folder, Place, shown
from metantk_core.progress import Progress, silent

_LOOKED_AT = 16  # images of each split, before one knows whether they are grey


@dataclass(frozen=True)
class Import:
    """What is to be imported, and how.

    Attributes:
        config: Which images, and how they are stored.
        layout: What people call the way in which they are kept.
        size_is_theirs: Whether the image size is that of the source, so that all images must have it.
        channels_are_theirs: Whether images are stored as grey because those looked at are, so that all must be.
        place: What holds them; none for the folder that the configuration names.
    """

    config: DataConfig
    layout: str
    size_is_theirs: bool
    channels_are_theirs: bool
    place: Place | None = None

    def source(self) -> Source:
        """Return the images as they are stored; while they stream, those that are not as expected are refused."""
        asked = self.config.model_copy(
            update={
                "image_size": AS_THEY_ARE if self.size_is_theirs else self.config.image_size,
                "channels": 3 if self.channels_are_theirs else self.config.channels,
            }
        )
        source = opened(asked, self.place)
        if not (self.size_is_theirs or self.channels_are_theirs):
            return source
        return dataclasses.replace(source, splits=lambda: self._admitted(source.splits()))

    def _admitted(self, splits: Mapping[Split, SplitSource]) -> dict[Split, SplitSource]:
        def images(split: Split, start: int = 0) -> Iterator[UInt8[np.ndarray, "c h w"]]:
            for row, image in enumerate(splits[split].images(start), start):
                yield self._admit(image, split, row)

        def stream(split: Split) -> ImageStream:
            return lambda start=0: images(split, start)

        return {split: dataclasses.replace(part, images=stream(split)) for split, part in splits.items()}

    def _admit(self, image: UInt8[np.ndarray, "c h w"], split: Split, row: int) -> UInt8[np.ndarray, "s h w"]:
        size = self.config.image_size
        if image.shape[1:] != (size, size):
            raise InputError(
                f"Image {row} of split '{split}' in '{shown(self.config.path)}' has {image.shape[2]} x "
                f"{image.shape[1]} pixels, the first one {size} x {size}: give --image-size, to which all are resized."
            )
        if not self.channels_are_theirs:
            return image
        if not is_grey(image):
            raise InputError(
                f"Image {row} of split '{split}' in '{shown(self.config.path)}' has colours, the first ones are grey: "
                "give --channels 3 to keep them, or 1 to make all grey."
            )
        return image[:1]


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        name: Name of the data set.
        digest: Digest of the content.
        image_shape: Channels, height and width of every image.
        classes: Number of classes of each split.
        images: Number of images of each split.
        size: Bytes.
        remarks: Sentences on what was assumed, and on images that lie in two splits.
        made: Whether it was made just now; otherwise it was there.
    """

    name: str
    digest: str
    image_shape: tuple[int, ...]
    classes: Mapping[Split, int]
    images: Mapping[Split, int]
    size: int
    remarks: tuple[str, ...]
    made: bool


def imported(place: Place, *, made: bool) -> Imported:
    """Return what a place holds that an import made.

    Raises:
        InputError: Something of it is missing or was changed.
    """
    try:
        summary = read_summary(place)
        images: dict[Split, int] = {split: len(read_labels(place, split, summary)[0]) for split in SPLITS}
        for split, count in images.items():
            images_header(place, split, count, summary)
    except UnusableError as problem:
        raise InputError(f"{problem} Remove it and import the images again.") from problem
    classes: dict[Split, int] = {split: len(summary.class_names[split]) for split in SPLITS}
    size = sum(entry.size for entry in place.entries() if entry.name in FILES)
    shape = tuple(summary.image_shape)
    return Imported(summary.name, summary.digest, shape, classes, images, size, tuple(summary.assumptions), made)


def planned(
    path: str,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    place: Place | None = None,
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> Import:
    """Return how images are imported, after a look at the first ones.

    Args:
        path: What holds them: a folder, or ``s3://bucket/prefix``.
        image_size: Height and width to store at; none for those of the images.
        channels: 1 for grey, 3 for RGB; none for what the images are.
        place: What holds them; none for a folder on this machine.
        choices: Further settings of ``DataConfig``, where files can't tell.

    Raises:
        InputError: A choice is none, or no images can be used there; they have several sizes, or one that can't be
            stored.
    """
    try:
        first = DataConfig(path=path, **choices)
    except ValidationError as error:
        words = first_complaint(error).removeprefix("Value error, ")
        raise InputError(f"The images can't be read as asked for ({words}): correct it.") from error
    source = opened(first.model_copy(update={"image_size": AS_THEY_ARE, "channels": 3}), place)
    theirs = image_size is None
    images: dict[Split, list[np.ndarray]] = {}
    if image_size is None or channels is None:
        images = {split: list(islice(part.images(), _LOOKED_AT)) for split, part in source.splits().items()}
    if image_size is None:
        image_size = _common_size(path, (image for some in images.values() for image in some))
    grey = channels is None and all(map(is_grey, (image for some in images.values() for image in some)))
    try:
        config = DataConfig(path=path, image_size=image_size, channels=channels or (1 if grey else 3), **choices)
    except ValidationError as error:
        raise InputError(
            f"The images in '{shown(path)}' have {image_size} x {image_size} pixels, which can't be stored "
            f"({first_complaint(error)}): give --image-size."
        ) from error
    return Import(config, source.layout, theirs, grey, place)


def import_images(plan: Import, directory: Path, progress: Progress = silent) -> Imported:
    """Put images into a directory as they are stored, unless they are there, and return what it holds then.

    The directory appears finished or not at all. What an attempt that was killed has stored is kept, beside it, and the
    next one goes on from there; if the source has changed since, it begins anew, with a warning.

    Args:
        plan: What is to be imported.
        directory: Where; must not exist, be empty, or hold what the same import has made.
        progress: Told after every few images.

    Raises:
        InputError: An image can't be read, the directory holds something else or can't be written, or the source
            changes meanwhile.
    """
    source = plan.source()
    if is_there(Folder(directory), plan, source):
        verify(directory)
        return imported(Folder(directory), made=False)
    directory = destination(directory, plan.config.path if plan.place is None else None)
    with writing(directory), resumable(directory, identity_of(plan.config, source)) as made:
        if is_there(Folder(directory), plan, source):  # another process was faster
            return imported(Folder(directory), made=False)
        write(source, plan.config, made, progress)
        if plan.place is None and plan.source().fingerprint != source.fingerprint:
            raise InputError(
                f"The images in '{shown(plan.config.path)}' were changed while they were read. Run the same command "
                "again when nobody writes there any more."
            )
        try:
            os.rename(made, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise InputError(
                f"Somebody else has put something into '{shown(directory)}' meanwhile. Remove that, and run the same "
                "command again: what was imported is kept."
            ) from error
    made_now = imported(Folder(directory), made=True)
    shared = tuple(f"{some.sentence}." for some in shared_images(load(directory)))
    return dataclasses.replace(made_now, remarks=made_now.remarks + shared)


def is_there(place: Place, plan: Import, source: Source) -> bool:
    """Return whether a place holds what an import would make.

    Args:
        place: The place.
        plan: The import.
        source: What it reads.

    Raises:
        InputError: It holds something else.
    """
    try:
        held = [entry.name for entry in place.entries()] if place.holds_folder() else []
    except OSError:
        held = []  # whether it can be made is seen when it is made
    if isinstance(place, Folder) and not held and os.path.lexists(place.root) and not place.holds_folder():
        raise InputError(f"'{shown(place.where())}' is no folder. Choose another destination.")
    if not held:
        return False
    if SUMMARY in held:
        try:
            summary = read_summary(place)
        except UnusableError as problem:
            raise InputError(f"{problem} Choose another destination, or remove this one.") from problem
        ours, theirs = plan.config.identity | {"path": ""}, summary.config | {"path": ""}
        if summary.fingerprint == source.fingerprint and theirs == ours:
            return True
        changed = theirs == ours and summary.config.get("path") == plan.config.path
        what = "these images before they were changed" if changed else f"another data set ('{shown(summary.name)}')"
    else:
        what = f"'{shown(held[0])}'"
    raise InputError(f"'{shown(place.where())}' holds {what}. Choose another destination, or remove this one.")


def is_grey(image: UInt8[np.ndarray, "c h w"]) -> bool:
    """Return whether an image has no colours."""
    return len(image) == 1 or (np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]))


def _common_size(path: str, images: Iterable[np.ndarray]) -> int:
    sizes = {(image.shape[2], image.shape[1]) for image in images}
    (width, height), *others = sorted(sizes)
    if others or width != height:
        words = f"{others[0][0]} x {others[0][1]} and " if others else ""
        raise InputError(
            f"Images in '{shown(path)}' have {words}{width} x {height} pixels: give --image-size, to which all are "
            "resized, as in --image-size 84."
        )
    return width
