"""The form in which images are stored: a source enters, a directory of memory-mappable arrays leaves, and is read.

A directory holds ``{split}_images.npy`` (uint8 ``[n, c, h, w]``), ``{split}_labels.npy``, ``{split}_checksums.npy``
(uint8 ``[n, 16]``) and ``dataset.json``. All of it is sealed: ``dataset.json`` has its own checksum and those of labels
and checksums, which cover the pixels. So whatever was changed later is noticed.

Axes: ``n`` images, ``k`` some of them, ``c`` channels, ``h`` rows, ``w`` columns, ``b`` bytes.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from pydantic import BaseModel, FiniteFloat, ValidationError

from metantk_core.datasets.config import DataConfig
from metantk_core.datasets.images import CHECKSUM_BYTES, SPLITS, ImageDataset, LabelledImages, Split, checksum
from metantk_core.datasets.npy import Header, read_header
from metantk_core.datasets.pixel_file import PixelFile
from metantk_core.datasets.scratch import RESUMABLE, SUFFIX
from metantk_core.datasets.sources import Recognition, Source, SplitSource
from metantk_core.errors import InputError, first_complaint
from metantk_core.files import Folder, Place, amount, reason, shown, write_atomically
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest

FORMAT = 3
SUMMARY = "dataset.json"
_ARRAYS = ("images", "labels", "checksums")
FILES = frozenset({SUMMARY, *(f"{split}_{array}.npy" for split in SPLITS for array in _ARRAYS)})
"""Names of all files of a directory."""
_LONGEST_SUMMARY = 1 << 28
_BUFFER = 1 << 20
_AT_ONCE = 64
_CHECKED_IN_A_MOMENT = 1 << 30  # bytes
_TOLD_EVERY = 1024  # images checked
_BLUER = 4 / 255  # ImageNet and CIFAR are redder than blue by 16 and 17 of 255


class Summary(BaseModel, frozen=True, extra="forbid", strict=True):
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

    def sealed(self) -> "Summary":
        """Return the summary with the checksum of everything else."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        return self.model_copy(update={"checksum": digest(content, length=64)})


class UnusableError(Exception):
    """A directory holds no good data set, but nothing else either: it may be made anew."""


class DamagedError(UnusableError):
    """What a directory holds isn't what was stored there; the text is a sentence that names the file."""


# Writing


def write(source: Source, config: DataConfig, directory: Path, progress: Progress) -> None:
    """Store the images of a source in a directory.

    Images that an earlier call, which was killed, has stored there are compared with their checksums and kept as far as
    they agree; it was about the same source and configuration. The bytes at the end are the same.

    Args:
        source: The images.
        config: How they are stored.
        directory: Where; it is there, and holds nothing else.
        progress: Told after every few images.

    Raises:
        InputError: The source can't be read, there is too little space, or all training images are one constant.
        OSError: The directory can't be written.
    """
    splits = source.splits()
    size = (config.channels, config.image_size, config.image_size)
    shapes: dict[Split, tuple[int, ...]] = {name: (len(splits[name].labels), *size) for name in SPLITS}
    _check_space(shapes, directory)
    total = sum(shape[0] for shape in shapes.values())
    # Sums of integers are exact in any order, so the moments are the same to the last bit wherever they are taken.
    moments = np.zeros((2, config.channels), np.int64)
    parts: list[_Part] = []
    with contextlib.ExitStack() as files:
        growing = {
            name: _Split(
                files.enter_context(_Growing(directory / f"{name}_images.npy", shapes[name])),
                files.enter_context(_Growing(directory / f"{name}_checksums.npy", (shapes[name][0], CHECKSUM_BYTES))),
                moments if name == "train" else None,
            )
            for name in SPLITS
        }
        done = sum(split.keep() for split in growing.values())
        if done:
            progress(done, total, "images stored before")
        for name in SPLITS:
            for block in _blocks(splits[name], growing[name].rows):
                growing[name].add(block)
                done += len(block)
                progress(done, total, f"images of {name}")
            parts.append(
                _Part(name, splits[name].class_names, shapes[name], splits[name].labels, growing[name].checksums())
            )
    arrays: dict[str, str] = {}
    for part in parts:
        with _Growing(directory / f"{part.split}_labels.npy", (part.shape[0],), "<i8") as file:
            file.keep(0)
            file.write(part.labels.astype("<i8"))
        arrays[f"{part.split}_labels.npy"] = hashlib.sha256(part.labels.astype("<i8").tobytes()).hexdigest()
        arrays[f"{part.split}_checksums.npy"] = hashlib.sha256(part.checksums.tobytes()).hexdigest()
    pixels = len(splits["train"].labels) * config.image_size**2
    mean = moments[0] / pixels / 255
    std = np.sqrt(np.maximum(moments[1] / pixels / 255**2 - np.square(mean), 0))
    if not (std > 0).all():
        raise InputError(f"All train images of '{source.name}' are one constant value in a channel; nothing to learn.")
    recognition = source.recognise(splits)
    assumptions = (*recognition.assumptions, *doubts(recognition, mean))
    summary = Summary(
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
    write_summary(summary, directory)


def doubts(recognition: Recognition, mean: Float64[np.ndarray, " c"]) -> tuple[str, ...]:
    """Return a sentence if known photographs are bluer than red, as none are on the average.

    Args:
        recognition: What the data set was taken for.
        mean: Mean of each channel over training images, which are scaled to 0..1.
    """
    if not recognition.photographs or len(mean) != 3 or mean[2] - mean[0] < _BLUER:
        return ()
    first, _, last = 255 * mean
    return (
        f"Its images are more blue than red on the average ({last:.0f} and {first:.0f} of 255), unlike those of "
        f"{recognition.kind}: look at the contact sheet, and set data.colour_order if red and blue are exchanged.",
    )


def write_summary(summary: Summary, directory: Path) -> None:
    """Write ``dataset.json``, sealed."""
    text = json.dumps(summary.sealed().model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(directory / SUMMARY, text.encode("utf-8"))


def _check_space(splits: Mapping[Split, tuple[int, ...]], directory: Path) -> None:
    """Refuse what the disk can't take, before hours of work end in a full disk."""
    needed = sum(np.dtype(np.uint8).itemsize * int(np.prod(shape, dtype=object)) for shape in splits.values())
    needed += sum(shape[0] * (8 + CHECKSUM_BYTES) for shape in splits.values())
    disk = shutil.disk_usage(directory)
    there = sum(file.stat().st_size for file in directory.iterdir())
    if disk.total and needed > disk.free + there:  # some network file systems tell neither
        ours = (folder for folder in directory.parents if folder.name.endswith((SUFFIX, RESUMABLE)))
        place = next((folder.parent for folder in ours), directory)
        raise InputError(
            f"The prepared data set takes {amount(needed)}, but the disk of '{shown(place)}' has {amount(disk.free)} "
            "left; make space, lower data.image_size, or choose another disk."
        )


def _blocks(split: SplitSource, start: int) -> Iterator[UInt8[np.ndarray, "k c h w"]]:
    """Give the images of a split from one on, some at a time, and make sure that there is one for each label."""
    left = len(split.labels) - start
    images = split.images(start) if left else iter(())
    while left:
        some = list(itertools.islice(images, _AT_ONCE))
        if not some or len(some) > left:
            break
        left -= len(some)
        yield np.stack(some)
    if left or next(images, None) is not None:
        raise ValueError("a source gave another number of images than of labels")


class _Growing:
    """An array file that is written row by row, and may have been begun before.

    It is written, not mapped: a full disk is an error of a write, but kills the process that touches a mapped page.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "|u1") -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
        self._head, self._shape, self._dtype = head.getvalue(), shape, np.dtype(dtype)
        self._row = self._dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(handle, "r+b", buffering=_BUFFER)
        begun = self._file.read(len(self._head)) == self._head
        size = os.fstat(handle).st_size - len(self._head)
        self.rows = min(size // self._row, shape[0]) if begun else 0
        if not begun:
            self._file.seek(0)
            self._file.write(self._head)
            self.keep(0)

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        try:
            if error is None:
                self.flush()
                os.fsync(self._file.fileno())  # some file systems tell only now that there is no space
        finally:
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():
                self._file.close()

    def read(self, first: int, count: int) -> np.ndarray:
        """Return some rows."""
        self._file.seek(len(self._head) + first * self._row)
        data = self._file.read(count * self._row)
        return np.frombuffer(data, self._dtype).reshape(-1, *self._shape[1:])

    def keep(self, rows: int) -> None:
        """Go on behind so many rows."""
        end = len(self._head) + rows * self._row
        self._file.flush()
        self._file.seek(end)
        self._file.truncate(end)
        self.rows = rows

    def write(self, rows: np.ndarray) -> None:
        """Add some rows."""
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def flush(self) -> None:
        """Hand everything to the system, which keeps it when this process is killed."""
        self._file.flush()


class _Split:
    """The files of one split while they are written; ``moments`` are sums of values and squares, of all its images."""

    def __init__(self, images: _Growing, checksums: _Growing, moments: Int64[np.ndarray, "2 c"] | None) -> None:
        self._images, self._checksums, self._moments = images, checksums, moments

    @property
    def rows(self) -> int:
        """Number of images that are stored."""
        return self._images.rows

    def keep(self) -> int:
        """Keep what is there up to the first image that is not what its checksum says; return how many they are."""
        there, kept = min(self._images.rows, self._checksums.rows), 0
        while kept < there:
            images = self._images.read(kept, min(_AT_ONCE, there - kept))
            expected = self._checksums.read(kept, len(images))
            wrong = np.flatnonzero((_checksums(images) != expected).any(1))
            good = int(wrong[0]) if len(wrong) else len(images)
            self._count(images[:good])
            kept += good
            if good < len(images):
                break
        self._images.keep(kept)
        self._checksums.keep(kept)
        return kept

    def add(self, images: UInt8[np.ndarray, "k c h w"]) -> None:
        """Store some more images."""
        self._images.write(images)
        self._checksums.write(_checksums(images))
        self._images.flush()
        self._checksums.flush()
        self._count(images)

    def checksums(self) -> UInt8[np.ndarray, "n b"]:
        """Return the checksums of all images."""
        return self._checksums.read(0, self.rows)

    def _count(self, images: UInt8[np.ndarray, "k c h w"]) -> None:
        if self._moments is not None and len(images):
            self._moments += channel_sums(images)


def _checksums(images: UInt8[np.ndarray, "k c h w"]) -> UInt8[np.ndarray, "k b"]:
    return np.frombuffer(b"".join(map(checksum, images)), np.uint8).reshape(len(images), CHECKSUM_BYTES)


def channel_sums(images: UInt8[np.ndarray, "k c h w"]) -> Int64[np.ndarray, "2 c"]:
    """Return the sums of values and of their squares over all pixels of each channel."""
    count, channels, height, width = images.shape
    lines = images.reshape(-1, width)  # sums of a line fit into 32 bits up to 66,000 columns
    sums = np.einsum("ij->i", lines, dtype=np.uint32, casting="unsafe")
    squares = np.einsum("ij,ij->i", lines, lines, dtype=np.uint32, casting="unsafe")
    return np.stack([part.reshape(count, channels, height).sum((0, 2), np.int64) for part in (sums, squares)])


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


# Reading


def read_summary(place: Place) -> Summary:
    """Return the checked content of ``dataset.json``.

    Raises:
        UnusableError: There is none.
        DamagedError: It isn't what was written.
    """
    file = shown(place.where(SUMMARY))
    try:
        with place.open(SUMMARY) as stream:
            text = stream.read(_LONGEST_SUMMARY)
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableError(f"'{shown(place.where())}' holds no prepared data set: no {SUMMARY} in it.") from None
    except OSError as error:
        raise DamagedError(f"'{file}' can't be read ({reason(error)}).") from error
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"'{file}' is damaged ({reason(error)}).") from error
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is int and version != FORMAT:
        raise UnusableError(f"'{file}' is of another version.")
    try:
        summary = Summary.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"'{file}' is damaged ({shown(first_complaint(error))}).") from error
    except RecursionError as error:
        raise DamagedError(f"'{file}' is damaged (nested too deeply).") from error
    if summary.sealed() != summary:
        raise DamagedError(f"'{file}' was changed after it was written.")
    return summary


def open_directory(directory: Path, summary: Summary) -> ImageDataset:
    """Return the data set that a checked summary describes, memory-mapped, everything but the pixels checked.

    Raises:
        DamagedError: An array is not the one that was stored.
    """
    place = Folder(directory)
    splits: dict[Split, LabelledImages] = {}
    for split in SPLITS:
        labels, checksums = read_labels(place, split, summary)
        header = images_header(place, split, len(labels), summary)
        file = directory / f"{split}_images.npy"
        images = np.memmap(file, np.uint8, mode="r", offset=header.length, shape=header.shape)
        names = tuple(summary.class_names[split])
        channels, rows, columns = summary.image_shape
        pixels = PixelFile(file, header.length, (channels, rows, columns))
        splits[split] = LabelledImages(images, labels, names, split, summary.name, checksums, pixels)
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


def read_labels(
    place: Place, split: Split, summary: Summary
) -> tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, "n b"]]:
    """Return labels and checksums of a split.

    Raises:
        DamagedError: They aren't those that were stored.
    """
    labels = _read_array(place, f"{split}_labels.npy", np.dtype("<i8"), summary)
    checksums = _read_array(place, f"{split}_checksums.npy", np.dtype(np.uint8), summary)
    return labels.astype(np.int64), checksums


def images_header(place: Place, split: Split, count: int, summary: Summary) -> Header:
    """Return the header of the images of a split.

    Raises:
        DamagedError: It isn't that of so many images.
    """
    header = _array_header(place, f"{split}_images.npy", np.dtype(np.uint8))
    if header.shape != (count, *summary.image_shape):
        raise DamagedError(f"'{shown(place.where(f'{split}_images.npy'))}' is damaged (shape {list(header.shape)}).")
    return header


def _read_array(place: Place, name: str, dtype: np.dtype, summary: Summary) -> np.ndarray:
    header = _array_header(place, name, dtype)
    try:
        with place.open(name) as stream:
            stream.seek(header.length)
            data = stream.read(header.size)
    except OSError as error:
        raise DamagedError(f"'{shown(place.where(name))}' can't be read ({reason(error)}).") from error
    if hashlib.sha256(data).hexdigest() != summary.arrays.get(name):
        raise DamagedError(f"'{shown(place.where(name))}' was changed after it was written.")
    return np.frombuffer(data, dtype).reshape(header.shape)


def _array_header(place: Place, name: str, dtype: np.dtype) -> Header:
    file = shown(place.where(name))
    try:
        with place.open(name) as stream:
            header = read_header(stream.read)
            size = stream.seek(0, os.SEEK_END)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedError(f"'{file}' is damaged ({reason(error)}).") from error
    if header.dtype != dtype or header.fortran_order or header.length + header.size != size:
        raise DamagedError(f"'{file}' is damaged (it holds {size:,} bytes, and claims to be {header}).")
    return header


def check_pixels(dataset: ImageDataset, directory: Path, progress: Progress = silent) -> None:
    """Compare every image with its checksum, reading, not mapping, so that memory stays as it is.

    Args:
        dataset: What the directory holds.
        directory: Where.
        progress: Told after every few images of a data set that takes more than a moment.

    Raises:
        DamagedError: One differs.
    """
    total, done = sum(len(dataset.split(split)) for split in SPLITS), 0
    if sum(dataset.split(split).images.nbytes for split in SPLITS) < _CHECKED_IN_A_MOMENT:
        progress = silent
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
                        raise DamagedError(f"Image {row} in '{file}' was changed after it was written.")
                    done += 1
                    if done % _TOLD_EVERY == 0 or done == total:
                        progress(done, total, "images checked")
        except OSError as error:
            raise DamagedError(f"'{file}' can't be read ({reason(error)}).") from error
