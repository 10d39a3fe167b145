"""What all layouts have: the files by which one is recognised, and the checks of what they hold."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from metantk_core.datasets.config import Choices, ColourOrder
from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.layouts.known import taken_for
from metantk_core.datasets.pickles import Value, let_go, read_pickle
from metantk_core.datasets.sources import MAX_PIXELS, Source, SplitSource, check_counts, check_name, stream
from metantk_core.errors import Complaints, InputError
from metantk_core.files import FILE, Place, shown

NO_CHOICES = Choices()
_COLOURS: dict[ColourOrder, str] = {
    "rgb": "Colours are taken as red, green, blue, as the usual copies have them; data.colour_order=bgr turns them "
    "round.",
    "bgr": "Colours are taken as blue, green, red, as the usual copies have them; data.colour_order=rgb turns them "
    "round.",
}
_AT_ONCE = 512
Files = Mapping[Split, tuple[str, ...]]
SplitReader = Callable[[Place, tuple[str, ...], Split, int, Literal[1, 3]], SplitSource]


@dataclass(frozen=True)
class Copy:
    """One of the copies of a layout that are about.

    Attributes:
        files: The names of the files of each split.
        known: The known data sets that have files of these names.
    """

    files: Files
    known: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """The names of all files."""
        return {file for split in SPLITS for file in self.files[split]}


@dataclass(frozen=True)
class Layout:
    """A way in which people keep images, in one file or two a split.

    Attributes:
        name: A name for people.
        copies: The names that the files may have.
        read: Reads those of one split.
        colour_order: In which order it has colours; none if its files say so themselves.
    """

    name: str
    copies: tuple[Copy, ...]
    read: SplitReader
    colour_order: ColourOrder | None

    def source(
        self, place: Place, copy: Copy, image_size: int, channels: Literal[1, 3], choices: Choices = NO_CHOICES
    ) -> Source:
        """Return the images in some files of this layout, which are read when the splits are asked for.

        Args:
            place: What holds the files.
            copy: Their names.
            image_size: Height and width to store at.
            channels: 1 for grey, 3 for RGB.
            choices: What a person says of them.

        Raises:
            InputError: A file has gone; later, one is damaged or holds something else, or a class is in two splits.
        """
        files = copy.files
        listing = hashlib.sha256()
        for split in SPLITS:
            for path in files[split]:
                entry = place.entry(path)
                if entry is None or entry.kind != FILE:
                    raise InputError(f"'{shown(place.where(path))}' has gone, or is no file. Put it back.")
                listing.update(json.dumps([split, path, entry.size, *entry.version]).encode())
        order = () if self.colour_order is None or choices.colour_order else (_COLOURS[self.colour_order],)
        return Source(
            place.name,
            listing.hexdigest()[:16],
            lambda: self._splits(place, files, image_size, channels),
            self.name,
            taken_for(copy.known, choices.name, *order),
        )

    def _splits(self, place: Place, files: Files, image_size: int, channels: Literal[1, 3]) -> dict[Split, SplitSource]:
        splits: dict[Split, SplitSource] = {}
        complaints = Complaints()
        for split in SPLITS:
            with complaints.kept():
                splits[split] = self.read(place, files[split], split, image_size, channels)
        complaints.raise_any()
        check_disjoint({split: source.class_names for split, source in splits.items()})
        return splits


def streamed(
    images: UInt8[np.ndarray, "n h w c"], image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    """Give images of a mapped file as they are stored, one after the other, and let go of those that were given.

    Args:
        images: As the file has them.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
    """
    for start in range(0, len(images), _AT_ONCE):
        some = images[start : start + _AT_ONCE]
        yield from stream(some, image_size, channels)
        let_go(some)


def read_dictionary(place: Place, path: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a pickled dictionary whose keys are text, which Python 2 wrote as bytes.

    Args:
        place: Where the file lies.
        path: Its path there.
        keys: What must be in it.

    Raises:
        InputError: It can't be read, is no dictionary, or lacks a key.
    """
    found = read_pickle(place, path)
    where, expected = shown(place.where(path)), " and ".join(f"'{key}'" for key in keys)
    if not isinstance(found, dict):
        raise InputError(f"'{where}' holds {_described(found)}: expected a dictionary with {expected}. Write it anew.")
    named = {key.decode("utf-8", "replace") if isinstance(key, bytes) else key: value for key, value in found.items()}
    missing = [key for key in keys if key not in named]
    if missing:
        others = shown([str(key) for key in named][:8])
        raise InputError(f"'{where}' has no '{missing[0]}', only {others}: expected {expected}. Write it anew.")
    return named


def _described(value: Value) -> str:
    if isinstance(value, np.ndarray):
        return f"an array ({value.dtype} of shape {list(value.shape)})"
    return {"list": "a list", "tuple": "a tuple", "NoneType": "nothing"}.get(type(value).__name__, "a single value")


def check_images(images: object, key: str, where: str, split: Split) -> UInt8[np.ndarray, "n h w c"]:
    """Return images if they are such.

    Raises:
        InputError: They are of another type or shape.
    """
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
    ):
        what = f"{images.dtype} of shape {list(images.shape)}" if isinstance(images, np.ndarray) else "no array"
        raise InputError(
            f"'{key}' in '{shown(where)}' is {what}: expected uint8 [n, height, width, 1 or 3 channels]. Write it anew."
        )
    if 0 in images.shape:
        raise InputError(
            f"'{key}' in '{shown(where)}' has shape {list(images.shape)}: expected at least one image. Write it anew."
        )
    if images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise InputError(
            f"Images in '{shown(where)}' have {images.shape[1]:,} x {images.shape[2]:,} pixels: expected at most "
            f"{MAX_PIXELS:,} in all. Make them smaller."
        )
    check_counts(len(images), 0, split, where)
    return images


def check_labels(labels: object, count: int, key: str, where: str) -> Int64[np.ndarray, " n"]:
    """Return one whole number an image, whether they were written as a list or as an array.

    Raises:
        InputError: They are something else, or of another number.
    """
    numbers = whole_numbers(labels)
    if numbers is None:
        what = f"{labels.dtype} of shape {list(labels.shape)}" if isinstance(labels, np.ndarray) else "something else"
        raise InputError(
            f"'{key}' in '{shown(where)}' is {what}: expected one whole number for each of the {count:,} images. Write "
            "it anew."
        )
    if len(numbers) != count:
        raise InputError(
            f"'{shown(where)}' has {count:,} images, but {len(numbers):,} in '{key}': expected one for each. Copy or "
            "download it again."
        )
    return numbers


def whole_numbers(values: object) -> Int64[np.ndarray, " n"] | None:
    """Return a list or vector of whole numbers as a vector; none if it is anything else."""
    if isinstance(values, list | tuple):
        if all(type(value) is int or isinstance(value, np.integer) for value in values):
            return np.array(values, np.int64)
        return None
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.size == max(values.shape, default=0):
        return values.reshape(-1).astype(np.int64)
    return None


def by_class(
    values: Int64[np.ndarray, " n"], names: Mapping[int, str] | None, split: Split, where: str
) -> tuple[tuple[str, ...], Int64[np.ndarray, " n"]]:
    """Return class names, and for each image the position of its class among them.

    Args:
        values: The class of each image as the file has it.
        names: What the classes are called; none if the numbers are their names.
        split: The split.
        where: The file.

    Raises:
        InputError: A name can't be used, or there are too many.
    """
    distinct, labels = np.unique(values, return_inverse=True)
    check_counts(len(values), len(distinct), split, where)
    class_names = tuple(str(value) if names is None else names[value] for value in distinct.tolist())
    for name in class_names:
        check_name(name, split, where)
    return class_names, labels.astype(np.int64)
