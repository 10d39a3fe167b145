"""Equal images: a data set with the checksums of its images enters, which of them lie where they should not leaves.

Axes: ``n`` images, ``k`` chosen images, ``c`` channels, ``h`` rows, ``w`` columns.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int64

from metantk_core.datasets.images import CHECKSUM_BYTES, SPLITS, ImageDataset, LabelledImages, Split
from metantk_core.errors import InputError

MOST_SHARED = 0.01
"""Share of a split's images that may lie in another split too: as much can an accuracy be wrong by."""
MOST_OF_A_CLASS = 0.5
"""Share of a class's images that may: with more, it is a class of the other split under another name."""
_AT_ONCE = 64


@dataclass(frozen=True)
class SharedImages:
    """Images that two splits have in common, pixel for pixel; those of one plain colour are not counted.

    Attributes:
        splits: The two.
        rows: Their rows in the first and in the second; the first of each are equal.
        shares: Which part of the images of the first and of the second they are.
        of_class: Which part of the images of one class they are, at most.
        example: The names of the classes of the first such image, in the first and in the second.
    """

    splits: tuple[Split, Split]
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    shares: tuple[float, float]
    of_class: float
    example: tuple[str, str]

    @property
    def too_many(self) -> bool:
        """Whether accuracies would be wrong by more than they are exact."""
        return max(self.shares) > MOST_SHARED or self.of_class > MOST_OF_A_CLASS

    @property
    def sentence(self) -> str:
        """What there is, for people."""
        one, other = self.splits
        row, row_there = (rows[0] for rows in self.rows)
        class_name, class_there = self.example
        count = len(self.rows[1])
        return (
            f"{count:,} {'image' if count == 1 else 'images'} of split '{other}' ({self.shares[1]:.2%}) also in '{one}'"
            f", pixel for pixel, such as image {row_there:,} of class '{class_there}', which is image {row:,} there, "
            f"of class '{class_name}'"
        )


def shared_images(dataset: ImageDataset) -> tuple[SharedImages, ...]:
    """Return which images lie in two splits, for each two that have any in common.

    Only the checksums of all images are read, and the pixels of those that are there twice.

    Args:
        dataset: A prepared data set.
    """
    rows = _in_two_splits(dataset)
    found = (_shared(dataset.split(a), dataset.split(b), rows[a], rows[b]) for a, b in combinations(SPLITS, 2))
    return tuple(shared for shared in found if shared is not None)


def repeated_images(images: LabelledImages) -> int:
    """Return how many images of a split are copies of an earlier one, pixel for pixel; plain ones are not counted."""
    _, first, counts = np.unique(_keys(images), return_index=True, return_counts=True)
    twice = counts > 1
    return int((counts[twice] - 1)[_with_content(images, first[twice])].sum())


def admit_shared(dataset: ImageDataset, *, allowed: bool) -> tuple[str, ...]:
    """Refuse a data set whose splits have so many images in common that its accuracies would be wrong.

    Args:
        dataset: A prepared data set.
        allowed: Whether a person takes that.

    Returns:
        Sentences on what is in common, if that is little or allowed.

    Raises:
        InputError: It is more than `MOST_SHARED` of a split or `MOST_OF_A_CLASS` of a class.
    """
    found = shared_images(dataset)
    for shared in found:
        if shared.too_many and not allowed:
            raise InputError(
                f"'{dataset.name}': {shared.sentence}. Accuracy on what training has seen says nothing about new "
                "classes: remove the copies, or set data.allow_shared_images=true if that is meant."
            )
    return tuple(f"{shared.sentence}." for shared in found)


def _in_two_splits(dataset: ImageDataset) -> dict[Split, Int64[np.ndarray, " _"]]:
    """Return the rows of each split whose checksums begin as one of another split: all that are equal, hardly any else.

    As whole numbers they are sorted five times as fast as whole checksums.
    """
    beginnings: dict[Split, np.ndarray] = {split: _keys(dataset.split(split)).view("<u8")[::2] for split in SPLITS}
    values, counts = np.unique(np.concatenate([np.unique(some) for some in beginnings.values()]), return_counts=True)
    return {split: np.flatnonzero(np.isin(some, values[counts > 1])) for split, some in beginnings.items()}


def _keys(images: LabelledImages) -> np.ndarray:
    """Return the checksum of each image as one value, which can be sorted."""
    if images.checksums is None:
        raise ValueError("images that were never stored have no checksums")
    return np.ascontiguousarray(images.checksums).view(f"V{CHECKSUM_BYTES}").ravel()


def _shared(
    one: LabelledImages, other: LabelledImages, rows: Int64[np.ndarray, " _"], rows_there: Int64[np.ndarray, " _"]
) -> SharedImages | None:
    """Return what two splits have in common, which is among some rows of each."""
    mine, others = _keys(one), _keys(other)
    rows = rows[np.isin(mine[rows], others[rows_there])]
    rows_there = rows_there[np.isin(others[rows_there], mine[rows])]
    rows, rows_there = rows[_with_content(one, rows)], rows_there[_with_content(other, rows_there)]
    if not len(rows):
        return None
    # The rows begin with two that are equal.
    equal = rows_there[np.argmax(others[rows_there] == mine[rows[0]])]
    rows_there = np.concatenate([[equal], rows_there[rows_there != equal]])
    of_class = max(_of_class(one, rows), _of_class(other, rows_there))
    return SharedImages(
        (one.split, other.split),
        (tuple(rows.tolist()), tuple(rows_there.tolist())),
        (len(rows) / len(one), len(rows_there) / len(other)),
        of_class,
        (one.class_names[one.labels[rows[0]]], other.class_names[other.labels[rows_there[0]]]),
    )


def _of_class(images: LabelledImages, rows: Int64[np.ndarray, " k"]) -> float:
    classes = len(images.class_names)
    counts = np.bincount(images.labels, minlength=classes)
    return float((np.bincount(images.labels[rows], minlength=classes) / np.maximum(counts, 1)).max())


def _with_content(images: LabelledImages, rows: Int64[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Return which of some images are more than one plain colour, as blank pages and missing photographs are."""
    content = np.empty(len(rows), np.bool_)
    for start in range(0, len(rows), _AT_ONCE):
        some = images.take(rows[start : start + _AT_ONCE])
        content[start : start + _AT_ONCE] = (some != some[:, :, :1, :1]).any((1, 2, 3))
    return content
