"""A look at images as people have them: a place enters; what it holds, and all that is wrong with it, leaves.

Nothing is stored. Images are looked at in the size that each has. What a run would refuse makes a data set unusable;
anything else that a person would want to know is said as well.

Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns, ``b`` bytes.
"""

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from pydantic import ValidationError

from metantk_core.datasets.config import DataConfig
from metantk_core.datasets.folders import is_image
from metantk_core.datasets.images import CHECKSUM_BYTES, SPLITS, Split, check_disjoint, checksum
from metantk_core.datasets.importing import is_grey
from metantk_core.datasets.overlap import SharedImages
from metantk_core.datasets.sheet import Part, draw_sheet, rows_shown
from metantk_core.datasets.sources import AS_THEY_ARE, Source, SplitSource
from metantk_core.datasets.store import opened
from metantk_core.datasets.stored import doubts
from metantk_core.errors import InputError, all_of, first_complaint
from metantk_core.files import FILE, FOLDER, Place, folder_at, reason, shown
from metantk_core.progress import Progress, silent

WAYS, QUERIES = 5, 15
"""The episodes that papers report on: so many classes, and so many queries of each beside the support images."""
SHOTS = (1, 5)
_MOST_UNREADABLE = 100  # images of a split; then it is given up
_TELL_EVERY = 64
_SIDE_SHOWN = 96  # pixels of a picture on a contact sheet
_MEAN_OF_EVERY = 16
_SAMPLE = 64  # images of each split for a fast look, beside those on the sheet
_RUNS = 8  # pieces in which they lie


@dataclass(frozen=True)
class Problem:
    """Something wrong.

    Attributes:
        sentence: What, and what to do.
        fatal: Whether a run would refuse the data set.
    """

    sentence: str
    fatal: bool


@dataclass(frozen=True)
class SplitFound:
    """What one split holds.

    Attributes:
        classes: Number of classes.
        images: Number of images.
        smallest: Images of the class that has fewest.
        median: Images of a class in the middle.
        largest: Images of the class that has most.
        looked_at: Number of images that were read.
    """

    classes: int
    images: int
    smallest: int
    median: float
    largest: int
    looked_at: int


@dataclass(frozen=True)
class Inspection:
    """What a place holds.

    Attributes:
        path: The place.
        name: Its name.
        layout: How the images are kept; empty if that was not recognised.
        kind: Which data set it was taken for.
        size: Bytes of all files there.
        splits: What each split holds; empty if that can't be read.
        sizes: The sizes of images, width and height, and how many have each, the most frequent first.
        colours: How many of those looked at have colours.
        colour_order: In which order the colours are, and how that is known.
        remarks: What was assumed.
        problems: What is wrong.
    """

    path: str
    name: str
    layout: str
    kind: str
    size: int
    splits: Mapping[Split, SplitFound]
    sizes: tuple[tuple[int, int, int], ...]
    colours: int
    colour_order: str
    remarks: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether a run could use it."""
        return not any(problem.fatal for problem in self.problems)

    @property
    def looked_at(self) -> int:
        """Number of images that were read."""
        return sum(split.looked_at for split in self.splits.values())


def inspect(
    path: str,
    place: Place | None = None,
    *,
    choices: Mapping[str, Any] = MappingProxyType({}),
    fast: bool = False,
    sheet: Path | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Return what a place holds.

    Args:
        path: What holds the images: a folder, or ``s3://bucket/prefix``.
        place: The same, if it is a bucket.
        choices: Further settings of ``DataConfig``, where files can't tell.
        fast: Look at some images of each split only; then nothing is said of equal ones.
        sheet: Where a contact sheet is written, if there are images; none for nowhere.
        progress: Told after every few images.

    Raises:
        InputError: A choice is none, or the sheet can't be written.
    """
    try:
        config = DataConfig(path=path, **choices)
    except ValidationError as error:
        words = first_complaint(error).removeprefix("Value error, ")
        raise InputError(f"The images can't be read as asked for ({words}): correct it.") from error
    config = config.model_copy(update={"image_size": AS_THEY_ARE, "channels": 3})
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise InputError(f"A contact sheet is a PNG file: expected a name that ends in .png, not '{shown(sheet)}'.")
        with _drawing(sheet):  # not found out after all images were read
            sheet.parent.mkdir(parents=True, exist_ok=True)
            if sheet.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
    there = folder_at(path) if place is None else place
    try:
        source = opened(config, place)
        splits = source.splits()
    except InputError as complaint:
        sentences = (*all_of(complaint), *_hint(there))
        problems = tuple(Problem(sentence, fatal=True) for sentence in sentences)
        return Inspection(path, there.name, "", "", _size_of(there), {}, (), 0, "", (), problems)
    looks: dict[Split, _Look] = {split: _Look(split, splits[split]) for split in SPLITS}
    total = sum(look.wanted(fast) for look in looks.values())
    done = 0
    for look in looks.values():
        for _ in look.images(fast):
            done += 1
            if done % _TELL_EVERY == 0 or done == total:
                progress(done, total, f"images of {look.split}")
    recognition = source.recognise(splits)
    doubted = doubts(recognition, looks["train"].mean / 255)
    sizes = Counter[tuple[int, int]]()
    for look in looks.values():
        sizes.update(look.sizes)
    colours = sum(look.colours for look in looks.values())
    problems = [*_unreadable(looks), *_of_classes(splits), *_plain(looks)]
    if not fast:
        problems += _shared(looks)
    if sheet is not None and sizes:
        parts: dict[Split, Part] = {split: look.part for split, look in looks.items()}
        with _drawing(sheet):
            draw_sheet(source.name, _facts(sizes, colours), parts, sheet)
    found: dict[Split, SplitFound] = {split: look.found for split, look in looks.items()}
    return Inspection(
        path=path,
        name=source.name,
        layout=source.layout,
        kind=recognition.kind,
        size=_size_of(there),
        splits=found,
        sizes=tuple((width, height, count) for (width, height), count in sizes.most_common()),
        colours=colours,
        colour_order=_colour_order(source, config, recognition.assumptions, colours),
        remarks=recognition.assumptions,
        problems=(*problems, *(Problem(sentence, fatal=False) for sentence in doubted)),
    )


@contextmanager
def _drawing(sheet: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Can't write the contact sheet '{shown(sheet)}' ({reason(error)}). Name another file."
        ) from error


class _Look:
    """What is seen of one split while its images pass."""

    def __init__(self, split: Split, source: SplitSource) -> None:
        self.split, self.source = split, source
        self.sizes = Counter[tuple[int, int]]()
        self.colours = 0
        self.means = 0
        self.mean = np.zeros(3)
        self.constant = np.ones(3, np.bool_)
        self._first: UInt8[np.ndarray, "c 1 1"] | None = None
        self.unreadable: list[str] = []
        count = len(source.labels)
        self.checksums = np.zeros((count, CHECKSUM_BYTES), np.uint8)
        self.plain = np.zeros(count, np.bool_)
        self.seen = np.zeros(count, np.bool_)
        self._shown = rows_shown(source.labels, len(source.class_names))
        self._pictures: dict[int, UInt8[np.ndarray, "c y x"] | None] = {
            int(row): None for rows in self._shown.values() for row in rows
        }

    def wanted(self, fast: bool) -> int:
        """Return how many images are looked at."""
        return sum(stop - start for start, stop in self._runs(fast))

    def images(self, fast: bool) -> Iterator[None]:
        """Look at images one after the other; those that can't be read are noted and passed over."""
        for start, stop in self._runs(fast):
            row = start
            while row < stop:
                images = self.source.images(row)
                try:
                    for image in islice(images, stop - row):
                        self._look_at(row, image)
                        row += 1
                        yield
                    if stop == len(self.source.labels):
                        next(images, None)  # what is wrong behind the last image: more bytes, another checksum
                    break
                except InputError as complaint:
                    again = self.unreadable[-1:] == [str(complaint)]
                    if not again:
                        self.unreadable.append(str(complaint))
                    if again or len(self.unreadable) >= _MOST_UNREADABLE:
                        return  # the file itself is broken from here on, and not one of many
                    row += 1

    def _runs(self, fast: bool) -> list[tuple[int, int]]:
        """Return the images to look at, as rows from where to where."""
        count = len(self.source.labels)
        if not fast:
            return [(0, count)]
        some = np.zeros(count, np.bool_)
        some[list(self._pictures)] = True
        for start in np.linspace(0, count, _RUNS, endpoint=False).astype(int):
            some[start : start + _SAMPLE // _RUNS] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[False], some, [False]]).astype(np.int8)))
        return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]

    def _look_at(self, row: int, image: UInt8[np.ndarray, "c h w"]) -> None:
        self.seen[row] = True
        self.sizes[image.shape[2], image.shape[1]] += 1
        self.checksums[row] = np.frombuffer(checksum(image), np.uint8)
        self._first = image[:, :1, :1].copy() if self._first is None else self._first
        self.constant &= (image == self._first).all((1, 2)) if self.constant.any() else False
        self.plain[row] = bool((image == image[:, :1, :1]).all())
        self.colours += not is_grey(image)
        if row % _MEAN_OF_EVERY == 0:
            self.means += 1
            self.mean += (image.mean((1, 2)) - self.mean) / self.means
        if row in self._pictures:
            self._pictures[row] = _small(image)

    @property
    def found(self) -> SplitFound:
        """What the split holds."""
        counts = np.bincount(self.source.labels, minlength=len(self.source.class_names))
        return SplitFound(
            classes=len(counts),
            images=len(self.source.labels),
            smallest=int(counts.min()),
            median=float(np.median(counts)),
            largest=int(counts.max()),
            looked_at=int(self.seen.sum()),
        )

    @property
    def part(self) -> Part:
        """What a contact sheet shows of it."""
        rows = [
            (self.source.class_names[label], [seen for row in some if (seen := self._pictures[int(row)]) is not None])
            for label, some in self._shown.items()
        ]
        return Part(len(self.source.class_names), len(self.source.labels), rows)


def _small(image: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c y x"]:
    """Return an image that takes little memory, for the sheet."""
    if max(image.shape) <= _SIDE_SHOWN:
        return image.copy()  # a view would keep the images around it
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize((_SIDE_SHOWN, _SIDE_SHOWN), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


# What is wrong


def _unreadable(looks: Mapping[Split, _Look]) -> Iterator[Problem]:
    told = set[str]()  # splits may come from the same file
    for look in looks.values():
        for sentence in look.unreadable:
            if sentence not in told:
                yield Problem(sentence, fatal=True)
        told |= set(look.unreadable)
        if len(look.unreadable) == _MOST_UNREADABLE:
            yield Problem(
                f"Split '{look.split}' may have more images that can't be read: the rest was not looked at. Repair "
                "these first.",
                fatal=True,
            )


def _of_classes(splits: Mapping[Split, SplitSource]) -> Iterator[Problem]:
    """Give what numbers of classes and images don't allow."""
    try:
        check_disjoint({split: part.class_names for split, part in splits.items()})
    except InputError as complaint:
        yield from (Problem(sentence, fatal=True) for sentence in all_of(complaint))
    for split, part in splits.items():
        classes = len(part.class_names)
        if classes < 2:
            yield Problem(f"Split '{split}' has one class: an episode has at least two. Add classes.", fatal=True)
        elif classes < WAYS:
            yield Problem(f"Split '{split}' has {classes} classes: at most {classes}-way episodes.", fatal=False)
        counts = np.bincount(part.labels, minlength=classes)
        few = int((counts < max(SHOTS) + QUERIES).sum())
        if few:
            least = int(counts.argmin())
            yield Problem(
                f"{few:,} of the {classes:,} classes of split '{split}' {'has' if few == 1 else 'have'} fewer than "
                f"{max(SHOTS) + QUERIES} images, "
                f"such as '{part.class_names[least]}' with {counts[least]}: {_allowed(int(counts[least]))}.",
                fatal=bool(counts[least] < 2),
            )


def _allowed(images: int) -> str:
    """Return which episodes a class of so many images allows."""
    queries = [(shots, images - shots) for shots in SHOTS if images > shots]
    if not queries:
        return "no episode is possible with it; add images or leave it out"
    words = [
        f"{shots} {'shot' if shots == 1 else 'shots'} with {min(left, QUERIES)} {'query' if left == 1 else 'queries'}"
        for shots, left in queries
    ]
    return f"it allows episodes of {' or of '.join(words)} a class"


def _plain(looks: Mapping[Split, _Look]) -> Iterator[Problem]:
    for look in looks.values():
        rows = np.flatnonzero(look.plain)
        if len(rows):
            name = look.source.class_names[look.source.labels[rows[0]]]
            count = f"{len(rows):,} images" if len(rows) > 1 else "1 image"
            yield Problem(
                f"{count} of split '{look.split}' {'are' if len(rows) > 1 else 'is'} one plain colour, such as image "
                f"{rows[0]:,}, of class '{name}': nothing can be learnt from them.",
                fatal=False,
            )
    if looks["train"].constant.any() and looks["train"].seen.all():
        yield Problem(
            "All images of split 'train' have one constant value in a channel: there is nothing to learn.", fatal=True
        )


def _shared(looks: Mapping[Split, _Look]) -> Iterator[Problem]:
    """Give which splits have images in common, and which hold one more than once."""
    keys = {split: _keys(look.checksums) for split, look in looks.items()}
    content = {split: look.seen & ~look.plain for split, look in looks.items()}
    for one, other in combinations(SPLITS, 2):
        rows = np.flatnonzero(content[one] & np.isin(keys[one], keys[other][content[other]]))
        if not len(rows):
            continue
        there = np.flatnonzero(content[other] & np.isin(keys[other], keys[one][rows]))
        equal = there[np.argmax(keys[other][there] == keys[one][rows[0]])]
        there = np.concatenate([[equal], there[there != equal]])
        found = SharedImages(
            (one, other),
            (tuple(rows.tolist()), tuple(there.tolist())),
            (len(rows) / len(keys[one]), len(there) / len(keys[other])),
            max(_of_class(looks[one].source, rows), _of_class(looks[other].source, there)),
            (_class_of(looks[one].source, int(rows[0])), _class_of(looks[other].source, int(equal))),
        )
        yield Problem(f"{found.sentence}.", fatal=found.too_many)
    for split in SPLITS:
        repeated = _repeated(keys[split], content[split])
        if repeated:
            count = "1 image" if repeated == 1 else f"{repeated:,} images"
            yield Problem(
                f"{count} of split '{split}' {'is a copy' if repeated == 1 else 'are copies'} of another one there, "
                "pixel for pixel: an episode may have both, one as support and one as query.",
                fatal=False,
            )


def _keys(checksums: UInt8[np.ndarray, "n b"]) -> np.ndarray:
    """Return each checksum as one value, which can be sorted."""
    return np.ascontiguousarray(checksums).view(f"V{CHECKSUM_BYTES}").ravel()


def _repeated(keys: np.ndarray, content: Bool[np.ndarray, " n"]) -> int:
    return int(content.sum()) - len(np.unique(keys[content]))


def _of_class(source: SplitSource, rows: Int64[np.ndarray, " n"]) -> float:
    """Return which part of one class some images are, at most."""
    classes = len(source.class_names)
    there = np.bincount(source.labels, minlength=classes)
    return float((np.bincount(source.labels[rows], minlength=classes) / np.maximum(there, 1)).max())


def _class_of(source: SplitSource, row: int) -> str:
    return source.class_names[source.labels[row]]


# What is there


def _colour_order(source: Source, config: DataConfig, assumptions: Iterable[str], colours: int) -> str:
    """Return in which order colours are, and how that is known."""
    if not colours:
        return "none: all images are grey"
    if config.colour_order is not None:
        return f"{config.colour_order}, as it was said"
    assumed = next((sentence for sentence in assumptions if sentence.startswith("Colours are taken")), None)
    if assumed is not None:
        return f"assumed: {assumed[:1].lower()}{assumed[1:].removesuffix('.')}"
    if source.layout == "npz files":
        return "assumed: red, green, blue, as npz files should have them; data.colour_order=bgr turns them round"
    return "red, green, blue: the files say so"


def _facts(sizes: Counter[tuple[int, int]], colours: int) -> str:
    (width, height), _ = sizes.most_common(1)[0]
    words = f"{width} × {height} pixels" if len(sizes) == 1 else f"{len(sizes)} sizes, most {width} × {height} pixels"
    return f"{words}, {'RGB' if colours else 'grey'}"


def _hint(place: Place) -> Iterator[str]:
    """Give a sentence on folders that may be classes without splits."""
    try:
        folders = [entry.name for entry in place.entries() if entry.kind == FOLDER]
        if (
            len(folders) > 1
            and not {*SPLITS} & {*folders}
            and any(is_image(entry.name) for entry in place.entries(folders[0]))
        ):
            yield (
                f"Its {len(folders):,} folders may be classes: metantk data split SOURCE DESTINATION divides them into "
                "train, val and test."
            )
    except (InputError, OSError, ValueError):
        return


def _size_of(place: Place, path: str = "") -> int:
    """Return the bytes of all files in a place; those that can't be read count nothing."""
    size = 0
    try:
        for entry in place.entries(path):
            if entry.kind == FILE:
                size += entry.size
            elif entry.kind == FOLDER:
                size += _size_of(place, f"{path}/{entry.name}".lstrip("/"))
    except (InputError, OSError, ValueError, RecursionError):
        return size
    return size
