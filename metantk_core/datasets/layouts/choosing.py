"""What a person may choose whatever the layout: a source enters, one with other colours, classes or splits leaves.

Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from metantk_core.datasets.config import Choices, HeldOut, Rotations
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.sources import ImageStream, Source, SplitSource, check_counts, check_name
from metantk_core.errors import InputError
from metantk_core.files import shown
from metantk_core.seeding import digest


def with_colours_turned_round(source: Source, channels: Literal[1, 3]) -> Source:
    """Return a source whose first channel is the other one's last.

    Args:
        source: Images of three channels, in the wrong order.
        channels: 1 to make them grey then, 3 to leave them in colour.
    """

    def turned(images: ImageStream) -> ImageStream:
        return lambda start=0: (_in_other_order(image, channels) for image in images(start))

    return _changed(source, lambda split, part: replace(part, images=turned(part.images)))


def _in_other_order(image: UInt8[np.ndarray, "3 h w"], channels: Literal[1, 3]) -> UInt8[np.ndarray, "c h w"]:
    if channels == 3:
        return np.ascontiguousarray(image[::-1])
    return np.asarray(Image.fromarray(np.ascontiguousarray(image[::-1].transpose(1, 2, 0))).convert("L"))[None]


def with_rotations(source: Source, which: Rotations) -> Source:
    """Return a source in which each class has three more beside it: its images turned by 90, 180 and 270 degrees.

    Anticlockwise. The class ``a`` is followed by ``a/rot90``, ``a/rot180`` and ``a/rot270``, in the same split.

    Args:
        source: Square images.
        which: The splits.
    """
    if which == "none":
        return source

    def turned(split: Split, part: SplitSource) -> SplitSource:
        if which == "train" and split != "train":
            return part
        check_counts(4 * len(part.labels), 4 * len(part.class_names), split, source.name)
        names = tuple(f"{name}{turn}" for name in part.class_names for turn in ("", "/rot90", "/rot180", "/rot270"))
        for name in names:
            check_name(name, split, source.name)
        labels = (4 * part.labels[:, None] + np.arange(4)).ravel()
        return SplitSource(names, labels, lambda start=0: _all_turned(part.images, start))

    return _changed(source, turned)


def _all_turned(images: ImageStream, start: int) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    first, skipped = divmod(start, 4)
    for image in images(first):
        for quarters in range(skipped, 4):
            yield np.ascontiguousarray(np.rot90(image, quarters, axes=(1, 2)))
        skipped = 0


def _changed(source: Source, change: Callable[[Split, SplitSource], SplitSource]) -> Source:
    def splits() -> dict[Split, SplitSource]:
        return {split: change(split, part) for split, part in source.splits().items()}

    return replace(source, splits=splits, finished=None)


def split_of_each(
    names: Sequence[str], choices: Choices, usual: Callable[[int], tuple[int, int]], where: str
) -> Mapping[str, Split]:
    """Return the split of each class of a data set that brings no splits.

    Classes that nobody named are drawn by the seed and their names alone: whatever else is there, and on every machine,
    one of two classes comes before the other.

    Args:
        names: The classes.
        choices: How many or which are for val and test.
        usual: Gives from the number of classes how many val and test get if nobody says.
        where: Where they lie.

    Raises:
        InputError: No class is left for a split, a name fits none, or one is in both.
    """
    named: dict[str, Split] = {}
    held_out: list[tuple[Split, HeldOut | None]] = [("val", choices.val_classes), ("test", choices.test_classes)]
    for split, wanted in held_out:
        if isinstance(wanted, tuple):
            _assign(named, names, split, wanted, where)
    order = sorted((name for name in names if name not in named), key=lambda name: digest([choices.seed, name]))
    for (split, wanted), count in zip(held_out, usual(len(names)), strict=True):
        if not isinstance(wanted, tuple):
            take = count if wanted is None else wanted
            named |= dict.fromkeys(order[:take], split)
            if len(order) < take:
                raise InputError(
                    f"'{shown(where)}' has {len(names):,} classes, too few for {take:,} of {split} beside the others; "
                    "lower data.val_classes or data.test_classes."
                )
            order = order[take:]
    named |= dict.fromkeys(order, "train")
    for split in SPLITS:
        if split not in named.values():
            raise InputError(
                f"Of the {len(names):,} classes in '{shown(where)}' none is left for {split}: expected at least one "
                "each for train, val and test. Change data.val_classes or data.test_classes."
            )
    return named


def _assign(named: dict[str, Split], names: Sequence[str], split: Split, wanted: tuple[str, ...], where: str) -> None:
    """Give the classes that a person names to a split."""
    for pattern in wanted:
        only_stars = re.sub(r"[?[]", r"[\g<0>]", pattern)  # other signs stand for themselves
        fitting = [name for name in names if fnmatchcase(name, only_stars)]
        if not fitting:
            raise InputError(
                f"data.{split}_classes names '{shown(pattern)}', but '{shown(where)}' has no such class, only "
                f"{shown(list(names[:8]))}{' and more' if len(names) > 8 else ''}; correct it."
            )
        twice = [name for name in fitting if named.get(name, split) != split]
        if twice:
            raise InputError(
                f"Class '{shown(twice[0])}' is in data.val_classes and in data.test_classes; leave it out of one."
            )
        named |= dict.fromkeys(fitting, split)


def by_split(names: Sequence[str], splits: Mapping[str, Split]) -> dict[Split, tuple[str, ...]]:
    """Return the classes of each split, in the order in which they are given."""
    return {split: tuple(name for name in names if splits[name] == split) for split in SPLITS}
