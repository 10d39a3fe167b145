"""Prepared data sets: a configuration enters, a directory of memory-mappable arrays and its `ImageDataset` leave.

A prepared directory holds ``{split}_images.npy`` (uint8 ``[n, c, h, w]``), ``{split}_labels.npy``,
``{split}_checksums.npy`` (uint8 ``[n, 16]``) and ``dataset.json``. All of it is sealed: ``dataset.json`` has its own
checksum and those of labels and checksums, which cover the pixels. So whatever was changed later is noticed: pixels
when `prepare` finds the directory and again when an image is used, everything else by `load`, which reads no pixels.

Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns, ``b`` bytes.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from pydantic import BaseModel, FiniteFloat, ValidationError

from metantk_core.datasets import glyphs, layouts
from metantk_core.datasets.config import DataConfig
from metantk_core.datasets.images import CHECKSUM_BYTES, SPLITS, ImageDataset, LabelledImages, Split, checksum
from metantk_core.datasets.npy import Header, read_header
from metantk_core.datasets.overlap import admit_shared
from metantk_core.datasets.pixel_file import PixelFile
from metantk_core.datasets.scratch import SUFFIX, workplace
from metantk_core.datasets.sources import Recognition, Source
from metantk_core.errors import InputError, first_complaint
from metantk_core.files import Folder, Place, amount, open_regular, reason, shown, write_atomically
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest

FORMAT = 3
SUMMARY = "dataset.json"
_ARRAYS = ("images", "labels", "checksums")
_FILES = frozenset({SUMMARY, *(f"{split}_{array}.npy" for split in SPLITS for array in _ARRAYS)})
_LONGEST_SUMMARY = 1 << 28
_BUFFER = 1 << 20
_BLUER = 4 / 255  # ImageNet and CIFAR are redder than blue by 16 and 17 of 255
_logger = logging.getLogger(__name__)


class _Summary(BaseModel, frozen=True, extra="forbid", strict=True):
    """What ``dataset.json`` holds."""

    format: Literal[3]
    name: str
    class_names: dict[Split, list[str]]
    mean: list[FiniteFloat]
    std: list[FiniteFloat]
    image_shape: list[int]
    arrays: dict[str, str]  # SHA-256 of the elements of the small files
    digest: str
    fingerprint: str
    config: dict[str, Any]
    kind: str
    layout: str
    assumptions: list[str]
    checksum: str

    def sealed(self) -> "_Summary":
        """Return the summary with the checksum of everything else."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        return self.model_copy(update={"checksum": digest(content, length=64)})


class _UnusableError(Exception):
    """A directory holds no good data set, but nothing else either: it may be made anew."""


class _DamagedError(_UnusableError):
    """What a directory holds isn't what was stored there; the text is a sentence that names the file."""


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
    source = _source(config, place)
    with contextlib.suppress(_UnusableError):
        dataset = _stored(config, directory, source)
        if source is not None and shelf is not None and not shelf.holds(_identity(config, source)):
            shelf.put(_identity(config, source), directory, progress)
        return dataset
    assert source is not None  # else a sentence has said that it is gone
    with _writing(directory), workplace(directory) as scratch:
        try:
            return _stored(config, directory, source)  # another process may have made it meanwhile
        except _DamagedError as damage:
            _logger.warning("%s It is prepared again.", damage)
        except _UnusableError:
            pass
        made = scratch / "new"
        if shelf is not None and _taken(shelf, source, config, made, progress):
            _admit(_open(made, _summary(made)), config)
        else:
            made.mkdir()
            _write(source, config, made, progress)
            for sentence in _admit(_open(made, _summary(made)), config):
                _logger.warning("%s: %s", source.name, sentence)
            if shelf is not None and not shelf.put(_identity(config, source), made, progress):
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
        return _open(directory, _summary(directory))
    except _UnusableError as problem:
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
        _check_pixels(dataset, directory)
    except _DamagedError as damage:
        raise InputError(str(damage)) from damage
    return dataset


def _identity(config: DataConfig, source: Source) -> str:
    """Return the digest of what a data set is made from; not of where that lies."""
    settings = {name: value for name, value in config.identity.items() if name != "path"}
    return digest([FORMAT, settings, source.fingerprint], length=32)


def _taken(shelf: Shelf, source: Source, config: DataConfig, directory: Path, progress: Progress) -> bool:
    """Put the data set of a configuration from a shelf into a new directory; return whether a good one was there."""
    if not shelf.take(_identity(config, source), directory, progress):
        return False
    try:
        summary = _summary(directory)
        _check_pixels(_open(directory, summary), directory)
    except _UnusableError as problem:
        _logger.warning("What was prepared before is damaged: %s It is prepared again.", problem)
        shutil.rmtree(directory)
        shelf.distrust(_identity(config, source))
        return False
    # It was made from equal images of another name, in another place.
    ours = {"name": source.name, "fingerprint": source.fingerprint, "config": config.identity}
    _write_summary(summary.model_copy(update=ours), directory)
    return True


def _source(config: DataConfig, place: Place | None) -> Source | None:
    """Return the source of a configuration, or none if its folder is gone."""
    if config.source == "glyphs":
        return glyphs.glyphs(config.image_size, config.channels, config.seed, config.images_per_class)
    place = _on_disk(config.path or "") if place is None else place
    try:
        if not place.holds_folder() and place.entry("") is None:
            return None
    except InputError:
        raise
    except (OSError, ValueError):
        pass  # the reader says it better
    return layouts.chosen(config.source, place, config.image_size, config.channels, config.choices)


def _on_disk(path: str) -> Folder:
    """Return the place of a path on this machine, with ``~`` for a person's home."""
    with contextlib.suppress(RuntimeError):  # no such user: then ~name is a name
        return Folder(Path(path).expanduser())
    return Folder(Path(path))


def _stored(config: DataConfig, directory: Path, source: Source | None) -> ImageDataset:
    """Return what a directory holds, all pixels checked, if it is what is asked for.

    Args:
        config: What is asked for.
        directory: Where.
        source: What it would be made from; none if that is gone.

    Raises:
        _UnusableError: It must be made, and can be.
        InputError: It holds something else, its splits have images in common, or it must be made and can't be.
    """
    try:
        summary = _summary(directory)
        asked = config.identity
        if summary.config != asked:
            raise InputError(
                f"'{directory}' holds a data set of another configuration ({_differences(summary.config, asked)}). "
                "Choose another directory, or remove this one."
            )
        if source is not None and summary.fingerprint != source.fingerprint:
            raise _UnusableError(f"The source of the prepared data set in '{directory}' has changed.")
        dataset = _open(directory, summary)
        _check_pixels(dataset, directory)
    except _UnusableError as problem:
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
        others = sorted(set(os.listdir(directory)) - _FILES)
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
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise InputError(
            f"Can't write the prepared data set to '{shown(directory)}' ({reason(error)}). "
            f"Choose a directory that you may write to{', with more space' if full else ''}."
        ) from error


def _check_space(splits: dict[Split, tuple[int, ...]], directory: Path) -> None:
    """Refuse what the disk can't take, before hours of work end in a full disk."""
    needed = sum(np.dtype(np.uint8).itemsize * int(np.prod(shape, dtype=object)) for shape in splits.values())
    needed += sum(shape[0] * (8 + CHECKSUM_BYTES) for shape in splits.values())
    disk = shutil.disk_usage(directory)
    if disk.total and needed > disk.free:  # some network file systems tell neither
        ours = (folder for folder in directory.parents if folder.name.endswith(SUFFIX))
        place = next((folder.parent for folder in ours), directory)
        raise InputError(
            f"The prepared data set takes {amount(needed)}, but the disk of '{shown(place)}' has {amount(disk.free)} "
            "left; make space, lower data.image_size, or choose another disk."
        )


def _write(source: Source, config: DataConfig, directory: Path, progress: Progress) -> None:
    splits = source.splits()
    size = (config.channels, config.image_size, config.image_size)
    shapes: dict[Split, tuple[int, ...]] = {name: (len(splits[name].labels), *size) for name in SPLITS}
    _check_space(shapes, directory)
    total = sum(shape[0] for shape in shapes.values())
    done = 0
    # Sums of integers are exact in any order, so the moments are the same to the last bit wherever they are taken.
    moments = np.zeros((2, config.channels), np.int64)
    parts: list[_Part] = []
    arrays: dict[str, str] = {}
    for name in SPLITS:
        split = splits[name]
        checksums = np.empty((len(split.labels), CHECKSUM_BYTES), np.uint8)
        # Written, not mapped: a full disk is an error of a write, but kills the process that touches a mapped page.
        with _array_file(directory / f"{name}_images.npy", np.uint8, shapes[name]) as write:
            for row, image in zip(range(len(split.labels)), split.images(), strict=True):
                write(image)
                checksums[row] = np.frombuffer(checksum(image), np.uint8)
                if name == "train":
                    values = image.astype(np.int64)
                    moments += np.stack([values.sum((1, 2)), np.square(values).sum((1, 2))])
                done += 1
                if done % 64 == 0 or done == total:
                    progress(done, total, f"images of {name}")
        for array, values in (("labels", split.labels.astype("<i8")), ("checksums", checksums)):
            file = f"{name}_{array}.npy"
            with _array_file(directory / file, values.dtype, values.shape) as write:
                write(values)
            arrays[file] = hashlib.sha256(values.tobytes()).hexdigest()
        parts.append(_Part(name, split.class_names, shapes[name], split.labels, checksums))
    pixels = len(splits["train"].labels) * config.image_size**2
    mean = moments[0] / pixels / 255
    std = np.sqrt(np.maximum(moments[1] / pixels / 255**2 - np.square(mean), 0))
    if not (std > 0).all():
        raise InputError(f"All train images of '{source.name}' are one constant value in a channel; nothing to learn.")
    recognition = source.recognise(splits)
    assumptions = (*recognition.assumptions, *_doubts(recognition, mean))
    for sentence in assumptions:
        _logger.warning("%s: %s", source.name, sentence)
    summary = _Summary(
        format=FORMAT,
        name=source.name,
        class_names={name: list(splits[name].class_names) for name in SPLITS},
        mean=mean.tolist(),
        std=std.tolist(),
        image_shape=list(config.image_shape),
        arrays=arrays,
        digest=_content_digest(parts),
        fingerprint=source.fingerprint,
        config=config.identity,
        kind=recognition.kind,
        layout=source.layout,
        assumptions=list(assumptions),
        checksum="",
    )
    _write_summary(summary, directory)


def _doubts(recognition: Recognition, mean: Float64[np.ndarray, " c"]) -> tuple[str, ...]:
    """Return a sentence if known photographs are bluer than red, as none are on the average."""
    if not recognition.photographs or len(mean) != 3 or mean[2] - mean[0] < _BLUER:
        return ()
    first, _, last = 255 * mean
    return (
        f"Its images are more blue than red on the average ({last:.0f} and {first:.0f} of 255), unlike those of "
        f"{recognition.kind}: look at the contact sheet, and set data.colour_order if red and blue are exchanged.",
    )


def _write_summary(summary: _Summary, directory: Path) -> None:
    text = json.dumps(summary.sealed().model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(directory / SUMMARY, text.encode("utf-8"))


@contextlib.contextmanager
def _array_file(path: Path, dtype: np.dtype | type, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], object]]:
    """Write an array file piece by piece; gives the function that takes the next piece."""
    with open(path, "wb", buffering=_BUFFER) as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        yield lambda piece: file.write(np.ascontiguousarray(piece).data)
        file.flush()
        os.fsync(file.fileno())  # some file systems tell only now that there is no space


@dataclass(frozen=True)
class _Part:
    """What identifies the content of one split."""

    split: Split
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    labels: Int64[np.ndarray, " n"]
    checksums: UInt8[np.ndarray, "n b"]


def _content_digest(parts: list[_Part]) -> str:
    content = hashlib.sha256()
    for part in parts:
        content.update(json.dumps([part.split, part.class_names, part.shape]).encode())
        content.update(part.labels.astype("<i8").tobytes())
        content.update(part.checksums.tobytes())
    return content.hexdigest()[:16]


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


def _summary(directory: Path) -> _Summary:
    """Return the checked content of ``dataset.json``.

    Raises:
        _UnusableError: There is none.
        _DamagedError: It isn't what `prepare` wrote.
    """
    file = directory / SUMMARY
    try:
        with open_regular(file) as stream:
            text = stream.read(_LONGEST_SUMMARY)
    except (FileNotFoundError, NotADirectoryError):
        raise _UnusableError(f"'{directory}' holds no prepared data set: no {SUMMARY} in it.") from None
    except OSError as error:
        raise _DamagedError(f"'{file}' can't be read ({reason(error)}).") from error
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"'{file}' is damaged ({reason(error)}).") from error
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is int and version != FORMAT:
        raise _UnusableError(f"'{file}' is of another version.")
    try:
        summary = _Summary.model_validate(content)
    except ValidationError as error:
        raise _DamagedError(f"'{file}' is damaged ({shown(first_complaint(error))}).") from error
    except RecursionError as error:
        raise _DamagedError(f"'{file}' is damaged (nested too deeply).") from error
    if summary.sealed() != summary:
        raise _DamagedError(f"'{file}' was changed after it was written.")
    return summary


def _open(directory: Path, summary: _Summary) -> ImageDataset:
    """Return the data set that a checked summary describes, everything but the pixels checked.

    Raises:
        _DamagedError: An array is not the one that was stored.
    """
    splits: dict[Split, LabelledImages] = {}
    for split in SPLITS:
        labels = _read_array(directory, f"{split}_labels.npy", np.dtype("<i8"), summary)
        checksums = _read_array(directory, f"{split}_checksums.npy", np.dtype(np.uint8), summary)
        file = directory / f"{split}_images.npy"
        header = _array_header(file, np.dtype(np.uint8))
        if header.shape != (len(labels), *summary.image_shape):
            raise _DamagedError(f"'{file}' is damaged (shape {list(header.shape)}).")
        images = np.memmap(file, np.uint8, mode="r", offset=header.length, shape=header.shape)
        names = tuple(summary.class_names[split])
        channels, rows, columns = summary.image_shape
        pixels = PixelFile(file, header.length, (channels, rows, columns))
        splits[split] = LabelledImages(images, labels.astype(np.int64), names, split, summary.name, checksums, pixels)
    return ImageDataset(
        **splits,
        name=summary.name,
        mean=tuple(summary.mean),
        std=tuple(summary.std),
        digest=summary.digest,
        kind=summary.kind,
        layout=summary.layout,
        assumptions=tuple(summary.assumptions),
    )


def _read_array(directory: Path, name: str, dtype: np.dtype, summary: _Summary) -> np.ndarray:
    file = directory / name
    header = _array_header(file, dtype)
    try:
        with open_regular(file) as stream:
            stream.seek(header.length)
            data = stream.read(header.size)
    except OSError as error:
        raise _DamagedError(f"'{file}' can't be read ({reason(error)}).") from error
    if hashlib.sha256(data).hexdigest() != summary.arrays.get(name):
        raise _DamagedError(f"'{file}' was changed after it was written.")
    return np.frombuffer(data, dtype).reshape(header.shape)


def _array_header(file: Path, dtype: np.dtype) -> Header:
    try:
        with open_regular(file) as stream:
            header = read_header(stream.read)
            size = os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        raise _DamagedError(f"'{file}' is damaged ({reason(error)}).") from error
    if header.dtype != dtype or header.fortran_order or header.length + header.size != size:
        raise _DamagedError(f"'{file}' is damaged (it holds {size:,} bytes, and claims to be {header}).")
    return header


def _check_pixels(dataset: ImageDataset, directory: Path) -> None:
    """Compare every image with its checksum, reading, not mapping, so that memory stays as it is.

    Raises:
        _DamagedError: One differs.
    """
    for split in SPLITS:
        part = dataset.split(split)
        file = directory / f"{split}_images.npy"
        size = int(np.prod(part.images.shape[1:]))
        assert part.checksums is not None
        try:
            with open(file, "rb", buffering=_BUFFER) as stream:
                stream.seek(os.fstat(stream.fileno()).st_size - part.images.nbytes)
                for row, expected in enumerate(part.checksums):
                    if checksum(np.frombuffer(stream.read(size), np.uint8)) != expected.tobytes():
                        raise _DamagedError(f"Image {row} in '{file}' was changed after it was written.")
        except OSError as error:
            raise _DamagedError(f"'{file}' can't be read ({reason(error)}).") from error


def _differences(stored: dict[str, Any], asked: dict[str, Any]) -> str:
    keys = [key for key in asked if stored.get(key) != asked[key]]
    return ", ".join(f"{key} {shown(stored.get(key))} instead of {shown(asked[key])}" for key in keys)
