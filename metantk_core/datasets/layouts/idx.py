"""IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST have them, packed by gzip or not.

A file is a magic number, the lengths of its axes, and bytes. Nothing that it says of itself is believed: its size
bounds what it may claim, and images are read some at a time.
"""

import contextlib
import gzip
import hashlib
import json
import re
import string
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from math import prod
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from metantk_core.datasets.config import Choices
from metantk_core.datasets.images import Split
from metantk_core.datasets.layouts.choosing import by_split, split_of_each
from metantk_core.datasets.layouts.known import taken_for
from metantk_core.datasets.sources import MAX_IMAGES, MAX_PIXELS, Source, SplitSource, to_array
from metantk_core.errors import InputError
from metantk_core.files import Place, reason, shown

_FILE = re.compile(r"(?:emnist-([a-z]+)-)?(train|t10k|test)-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
_GZIP = b"\x1f\x8b"
_DEFLATE_RATIO = 1032  # deflate can't pack more bytes into one
_PIECE = 1 << 20
_UNSIGNED_BYTES = 8
_BALANCED = string.digits + string.ascii_uppercase + "abdefghnqrt"
# What the numbers of EMNIST's files stand for; those of letters begin with 1.
_CHARACTERS = {
    "letters": " " + string.ascii_uppercase,
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _BALANCED,
    "balanced": _BALANCED,
}


@dataclass(frozen=True)
class Family:
    """The IDX files of one data set in a folder.

    Attributes:
        variant: Which of EMNIST's it is; empty for MNIST and others whose files have its names.
        files: The file of each part, such as ``("train", "images")``.
    """

    variant: str
    files: Mapping[tuple[str, str], str]

    @property
    def names(self) -> tuple[str, ...]:
        """What ``data.name`` may call it."""
        return (f"emnist-{self.variant}",) if self.variant else ("mnist", "fashion-mnist", "kmnist")

    @property
    def missing(self) -> str:
        """The part that is missing, in words; empty if it is whole."""
        wanted = [("train", "images"), ("train", "labels")]
        wanted += [(part, what) for part, _ in self.files for what in ("images", "labels")]
        gone = next((part for part in wanted if part not in self.files), None)
        if gone is None:
            return ""
        beginning = f"emnist-{self.variant}-" if self.variant else ""
        return f"{beginning}{gone[0]}-{gone[1]}-idx{3 if gone[1] == 'images' else 1}-ubyte, or with .gz behind"


def families(names: set[str]) -> list[Family]:
    """Return the data sets whose IDX files are among the names of some files."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for name in sorted(names):  # so what is packed comes after what was unpacked beside it
        match = _FILE.fullmatch(name)
        if match:
            variant, part, what, _ = match.groups()
            found.setdefault(variant or "", {}).setdefault((part, what[:6]), name)
    return [Family(variant, files) for variant, files in found.items()]


def idx(place: Place, family: Family, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
    """Return the images in the IDX files of one data set.

    Its own division in train and test is of images, not of classes, and says nothing of new classes: images of both are
    put together, and the classes are divided. Of 10 classes 4 are for train and 3 each for val and test, which
    gives 3-way episodes; of more, a fifth each for val and test, and at least 5.

    Args:
        place: What holds the files.
        family: Their names.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 repeats it.
        choices: What a person says of them.

    Raises:
        InputError: A file has gone; later, one is damaged, or no class is left for a split.
    """
    listing = hashlib.sha256()
    for part, path in family.files.items():
        entry = place.entry(path)
        if entry is None:
            raise InputError(f"'{shown(place.where(path))}' has gone. Put it back.")
        listing.update(json.dumps([*part, path, entry.size, *entry.version]).encode())
    said = []
    if not family.variant and choices.name is None:
        said = [
            "Files of MNIST, Fashion-MNIST and KMNIST have the same names: taken for MNIST. data.name can say which."
        ]
    said += [] if len(family.files) == 4 else ["Only the images of one of the two parts are here."]
    return Source(
        place.name,
        listing.hexdigest()[:16],
        lambda: _splits(place, family, image_size, channels, choices),
        "IDX files",
        taken_for((family.names[0],), choices.name, *said),
    )


def _splits(
    place: Place, family: Family, image_size: int, channels: Literal[1, 3], choices: Choices
) -> dict[Split, SplitSource]:
    parts = [
        (family.files[part, "images"], _labels(place, family, part))
        for part in ("train", "t10k", "test")
        if (part, "images") in family.files
    ]
    values = np.unique(np.concatenate([labels for _, labels in parts])).tolist()
    names = {value: _name(family.variant, value) for value in values}
    split_of = split_of_each(list(names.values()), choices, _usual, place.where())
    splits: dict[Split, SplitSource] = {}
    for split, members in by_split(list(names.values()), split_of).items():
        positions = np.full(256, -1, np.int64)
        for value, name in names.items():
            positions[value] = members.index(name) if name in members else -1
        labels = np.concatenate([positions[numbers] for _, numbers in parts])
        wanted = [(path, positions[numbers] >= 0) for path, numbers in parts]
        splits[split] = SplitSource(
            members,
            labels[labels >= 0],
            lambda start=0, wanted=wanted: islice(_stream(place, wanted, family, image_size, channels), start, None),
        )
    return splits


def _name(variant: str, value: int) -> str:
    characters = _CHARACTERS.get(variant, string.digits)
    return characters[value] if value < len(characters) and characters[value] != " " else str(value)


def _usual(count: int) -> tuple[int, int]:
    few = max(round(count / 5), min(5, count // 3))
    return few, few


def _labels(place: Place, family: Family, part: str) -> UInt8[np.ndarray, " n"]:
    """Return the labels of a part, after a comparison of their number with that of the images."""
    path, images = family.files[part, "labels"], family.files[part, "images"]
    with _elements(place, images, 3) as (stream, (count, *_)):
        pass
    with _elements(place, path, 1) as (stream, (labels,)):
        if labels != count:
            raise InputError(
                f"'{shown(place.where(images))}' has {count:,} images, but '{shown(place.where(path))}' {labels:,} "
                "labels: expected one for each. Copy or download both again."
            )
        result = np.frombuffer(_exactly(stream, labels), np.uint8)
        _end(stream)
    return result


def _stream(
    place: Place,
    wanted: list[tuple[str, Bool[np.ndarray, " n"]]],
    family: Family,
    image_size: int,
    channels: Literal[1, 3],
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    """Give the images of the rows that are wanted."""
    for path, rows in wanted:
        with _elements(place, path, 3) as (stream, (count, height, width)):
            if count != len(rows):
                raise ValueError("it has changed while it was read")
            at_once = max(1, _PIECE // (height * width))
            for start in range(0, count, at_once):
                some = min(at_once, count - start)
                pixels = np.frombuffer(_exactly(stream, some * height * width), np.uint8).reshape(some, height, width)
                for image in pixels[rows[start : start + some]]:
                    # EMNIST's are stored column by column.
                    picture = Image.fromarray(np.ascontiguousarray(image.T) if family.variant else image)
                    yield to_array(picture, image_size, channels)
            _end(stream)


@contextlib.contextmanager
def _elements(place: Place, path: str, axes: int) -> Iterator[tuple[BufferedIOBase, tuple[int, ...]]]:
    """Open a file after its header, and give the lengths of its axes; what is wrong with it becomes a sentence."""
    where = shown(place.where(path))
    entry = place.entry(path)
    try:
        with place.open(path) as raw:
            packed = raw.read(2) == _GZIP  # some programs unpack a file and leave its name
            raw.seek(0)
            size = (entry.size if entry else 0) * (_DEFLATE_RATIO if packed else 1)
            # Files of places have all that gzip asks of one.
            with gzip.GzipFile(fileobj=raw) if packed else contextlib.nullcontext(raw) as stream:  # pyright: ignore
                yield stream, _header(stream, axes, size)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zlib.error) as error:
        place.forget(path)
        raise InputError(
            f"'{where}' can't be read as an IDX file of {'images' if axes == 3 else 'labels'} ({reason(error)}). Copy "
            "or download it again."
        ) from error


def _header(stream: BufferedIOBase, axes: int, size: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise ValueError("it is empty" if not magic else "it ends too early")
    if magic[:2] != bytes(2):
        raise ValueError("it doesn't begin as an IDX file does")
    if magic[2] != _UNSIGNED_BYTES:
        raise ValueError(f"its elements are of type 0x{magic[2]:02x}, not bytes (0x08)")
    if magic[3] != axes:
        raise ValueError(f"it has {magic[3]} axes instead of {axes}")
    shape = tuple(int(length) for length in np.frombuffer(_exactly(stream, 4 * axes), ">u4"))
    if 0 in shape:
        raise ValueError(f"it has shape {list(shape)}, without a single element")
    if shape[0] > MAX_IMAGES or prod(shape[1:]) > MAX_PIXELS:
        raise ValueError(
            f"it claims shape {list(shape)}: expected at most {MAX_IMAGES:,} images of {MAX_PIXELS:,} pixels"
        )
    if 4 + 4 * axes + prod(shape) > size:
        raise ValueError(f"it claims shape {list(shape)}, more than it can hold")
    return shape


def _exactly(stream: BufferedIOBase, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("it ends too early")
    return data


def _end(stream: BufferedIOBase) -> None:
    if stream.read(1):
        raise ValueError("it goes on after its last element")
