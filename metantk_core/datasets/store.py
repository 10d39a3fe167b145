"""Prepared data sets: a configuration enters, a directory of memory-mappable arrays and its `ImageDataset` leave.

What a directory holds is in `metantk_core.datasets.stored`. What was changed later is noticed: pixels when `prepare`
finds the directory and again when an image is used, everything else by `load`, which reads no pixels.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from metantk_core.datasets import glyphs, layouts
from metantk_core.datasets.config import DataConfig
from metantk_core.datasets.images import ImageDataset
from metantk_core.datasets.overlap import admit_shared
from metantk_core.datasets.scratch import workplace
from metantk_core.datasets.sources import Source
from metantk_core.datasets.stored import (
    FILES,
    FORMAT,
    SUMMARY,
    DamagedError,
    Summary,
    UnusableError,
    check_pixels,
    open_directory,
    read_summary,
    write,
    write_summary,
)
from metantk_core.errors import InputError
from metantk_core.files import Folder, Place, folder_at, reason, shown
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest

_logger = logging.getLogger(__name__)


@runtime_checkable
class Shelf(Protocol):
    """Where prepared data sets lie for everybody, each once.

    An identity is the digest of what a data set is made from: settings and source.
    """

    def holds(self, identity: str) -> bool:
        """Return whether a data set is there."""
        ...

    def take(self, identity: str, directory: Path, progress: Progress) -> bool:
        """Put the files of a data set into a new directory, and return whether there is one."""
        ...

    def put(self, identity: str, directory: Path, progress: Progress) -> bool:
        """Add a data set, and return whether it is the one that lies there now: somebody may have been faster."""
        ...

    def distrust(self, identity: str) -> None:
        """Take note that what lies there is damaged: what is put there next replaces it."""
        ...


def prepare(
    config: DataConfig,
    directory: Path,
    progress: Progress = silent,
    *,
    place: Place | None = None,
    shelf: Shelf | None = None,
) -> ImageDataset:
    """Return the data set of a configuration, stored in ``directory``.

    A directory that already holds the same configuration is used after all of its images have been compared with their
    checksums (about a second a gigabyte). It is built again if the source changed since, or, after a warning that names
    the file, if it is damaged. A directory appears finished or not at all: of processes that want it at once one builds
    it and the others wait; what killed ones left is removed.

    Args:
        config: What to store.
        directory: Where; must not exist, be empty, or hold what an earlier call stored for the same configuration.
        progress: Told after every few images.
        place: Where the images lie; none for the folder that ``config.path`` names.
        shelf: Where somebody may have prepared the data set before, and others look for it later; none for nowhere.

    Raises:
        InputError: If the source can't be read, the directory can't be written or holds something else, the disk has
            too little space, a damaged data set can't be built again because its source is gone, or its splits have
            images in common.
    """
    source = source_of(config, place)
    if place is not None and source is not None and source.finished is not None:
        shelf = None  # everybody finds it there as it is
    with contextlib.suppress(UnusableError):
        dataset = _stored(config, directory, source, progress)
        if source is not None and shelf is not None and not shelf.holds(identity_of(config, source)):
            shelf.put(identity_of(config, source), directory, progress)
        return dataset
    assert source is not None  # else a sentence has said that it is gone
    with writing(directory), workplace(directory) as scratch:
        try:
            return _stored(config, directory, source, progress)  # another process may have made it meanwhile
        except DamagedError as damage:
            _logger.warning("%s It is prepared again.", damage)
        except UnusableError:
            pass
        made = scratch / "new"
        if shelf is not None and _taken(shelf, source, config, made, progress):
            _admit(load(made), config)
        else:
            made.mkdir()
            if source.finished is None:
                write(source, config, made, progress)
            else:
                source.finished(made, progress)
                _take_over(made, source, config, progress)
            dataset = load(made)
            for sentence in (*dataset.assumptions, *_admit(dataset, config)):
                _logger.warning("%s: %s", source.name, sentence)
            if shelf is not None and not shelf.put(identity_of(config, source), made, progress):
                # All are to work on the same one, and another decoder of images may have made others of them.
                first = scratch / "first"
                made = first if _taken(shelf, source, config, first, progress) else made
        _move_into_place(made, directory, scratch)
    return load(directory)


def load(directory: Path) -> ImageDataset:
    """Return a prepared data set, its images memory-mapped.

    All but the pixels is checked here; each image is compared with its checksum when it is taken.

    Args:
        directory: A directory that `prepare` made.

    Raises:
        InputError: If it holds no complete prepared data set.
    """
    try:
        return open_directory(directory, read_summary(Folder(directory)))
    except UnusableError as problem:
        raise InputError(f"{problem} Remove the directory and prepare it again.") from problem


def verify(directory: Path) -> ImageDataset:
    """Return a prepared data set after all of its images have been compared with their checksums.

    Args:
        directory: A directory that `prepare` made, or its files from elsewhere.

    Raises:
        InputError: Something is damaged; the sentence names the file.
    """
    dataset = load(directory)
    try:
        check_pixels(dataset, directory)
    except DamagedError as damage:
        raise InputError(str(damage)) from damage
    return dataset


def identity_of(config: DataConfig, source: Source) -> str:
    """Return the digest of what a data set is made from; not of where that lies."""
    settings = {name: value for name, value in config.identity.items() if name != "path"}
    return digest([FORMAT, settings, source.fingerprint], length=32)


def _taken(shelf: Shelf, source: Source, config: DataConfig, directory: Path, progress: Progress) -> bool:
    """Put the data set of a configuration from a shelf into a new directory; return whether a good one was there."""
    if not shelf.take(identity_of(config, source), directory, progress):
        return False
    try:
        summary = read_summary(Folder(directory))
        check_pixels(open_directory(directory, summary), directory, progress)
    except UnusableError as problem:
        _logger.warning("What was prepared before is damaged: %s It is prepared again.", problem)
        shutil.rmtree(directory)
        shelf.distrust(identity_of(config, source))
        return False
    # It was made from equal images of another name, in another place.
    _rename(summary, directory, source, config)
    return True


def _take_over(directory: Path, source: Source, config: DataConfig, progress: Progress) -> None:
    """Make a directory that holds another one's arrays that of a configuration, after a comparison of all its images.

    Raises:
        InputError: Something of it is damaged; the sentence names where it came from.
    """
    try:
        summary = read_summary(Folder(directory))
        check_pixels(open_directory(directory, summary), directory, progress)
    except UnusableError as problem:
        words = str(problem).replace(str(directory), config.path or "")
        raise InputError(f"{words} Import the images again.") from problem
    _rename(summary, directory, source, config)


def _rename(summary: Summary, directory: Path, source: Source, config: DataConfig) -> None:
    ours = {"name": source.name, "fingerprint": source.fingerprint, "config": config.identity}
    write_summary(summary.model_copy(update=ours), directory)


def opened(config: DataConfig, place: Place | None) -> Source:
    """Return the source of a configuration.

    Raises:
        InputError: There is none.
    """
    source = source_of(config, place)
    if source is None:
        raise InputError(
            f"There is no '{shown(config.path)}': expected a folder that holds images, or s3://bucket/prefix."
        )
    return source


def source_of(config: DataConfig, place: Place | None) -> Source | None:
    """Return the source of a configuration, or none if its folder is gone."""
    if config.source == "glyphs":
        return glyphs.glyphs(config.image_size, config.channels, config.seed, config.images_per_class)
    place = folder_at(config.path or "") if place is None else place
    try:
        if not place.holds_folder() and place.entry("") is None:
            return None
    except InputError:
        raise
    except (OSError, ValueError):
        pass  # the reader says it better
    return layouts.chosen(config.source, place, config.image_size, config.channels, config.choices)


def _stored(config: DataConfig, directory: Path, source: Source | None, progress: Progress) -> ImageDataset:
    """Return what a directory holds, all pixels checked, if it is what is asked for.

    Args:
        config: What is asked for.
        directory: Where.
        source: What it would be made from; none if that is gone.
        progress: Told while much is checked.

    Raises:
        UnusableError: It must be made, and can be.
        InputError: It holds something else, its splits have images in common, or it must be made and can't be.
    """
    try:
        summary = read_summary(Folder(directory))
        asked = config.identity
        if summary.config != asked:
            raise InputError(
                f"'{directory}' holds a data set of another configuration ({_differences(summary.config, asked)}). "
                "Choose another directory, or remove this one."
            )
        if source is not None and summary.fingerprint != source.fingerprint:
            raise UnusableError(f"The source of the prepared data set in '{directory}' has changed.")
        dataset = open_directory(directory, summary)
        check_pixels(dataset, directory, progress)
    except UnusableError as problem:
        if source is None:
            hint = f" {problem}" if os.path.exists(directory / SUMMARY) else ""
            raise InputError(f"{layouts.no_folder(config.path or '')}{hint}") from None
        _check_replaceable(directory)
        raise
    _admit(dataset, config)
    return dataset


def _admit(dataset: ImageDataset, config: DataConfig) -> tuple[str, ...]:
    """Refuse images of one split that lie in another; return sentences on those that may.

    Not of glyphs: they are drawn to differ, and as small as eight pixels some come out alike.
    """
    return () if config.source == "glyphs" else admit_shared(dataset, allowed=config.allow_shared_images)


def _check_replaceable(directory: Path) -> None:
    """Refuse a place that holds anything but the files of a prepared data set."""
    try:
        others = sorted(set(os.listdir(directory)) - FILES)
    except OSError as error:
        if not os.path.exists(directory):
            return  # whether it can be made is seen when it is made
        holds = f"it can't be read as a folder: {reason(error)}"
    else:
        if not others:
            return
        holds = f"it holds {shown(repr(others[0]))}"
    raise InputError(
        f"'{shown(directory)}' exists and holds no prepared data set that may be replaced ({holds}). Choose another "
        "directory."
    )


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn what the system says while a directory is written into a sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise InputError(
            f"Can't write the prepared data set to '{shown(directory)}' ({reason(error)}). "
            f"Choose a directory that you may write to{', with more space' if full else ''}."
        ) from error


def _move_into_place(made: Path, directory: Path, scratch: Path) -> None:
    for attempt in range(5):
        try:
            os.replace(made, directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Out of date, or another process without locks was faster. Set it aside first, so that what is in the way
            # is never half removed.
            _check_replaceable(directory)
            with contextlib.suppress(FileNotFoundError):
                os.replace(directory, scratch / f"old-{attempt}")
    raise InputError(f"'{directory}' is written by other processes all the time. Choose another directory.")


def _differences(stored: dict[str, Any], asked: dict[str, Any]) -> str:
    keys = [key for key in asked if stored.get(key) != asked[key]]
    return ", ".join(f"{key} {shown(stored.get(key))} instead of {shown(asked[key])}" for key in keys)
