"""What a data set is: labelled images of three splits whose classes are disjoint.

Arrays and names enter, checked immutable values leave. Axes: ``n`` images, ``k`` chosen images, ``c`` channels, ``h``
rows, ``w`` columns, ``b`` bytes.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64, UInt8

from metantk_core.datasets.pixel_file import PixelFile
from metantk_core.errors import Complaints, InputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
CHECKSUM_BYTES = 16


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of one split.

    Attributes:
        images: Shape ``[n, c, h, w]``, 0 to 255; may be a read-only memory map of a file far larger than memory.
        labels: Shape ``[n]``; the class of each image, 0 to ``len(class_names) - 1``.
        class_names: One name for each class.
        split: The split that the images belong to.
        name: The data set that they come from.
        checksums: The `checksum` of each image as it was stored; none if they never left memory.
        file: Where chosen images are read from; none if ``images`` are in memory.
    """

    images: UInt8[np.ndarray, "n c h w"]
    labels: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]
    split: Split
    name: str
    checksums: UInt8[np.ndarray, "n b"] | None = None
    file: PixelFile | None = None

    def __post_init__(self) -> None:
        if self.labels.size == 0:
            raise InputError(f"Split '{self.split}' of data set '{self.name}' has no images; put some there.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise InputError(
                f"Labels of split '{self.split}' of data set '{self.name}' run from {low} to {high}, but it has "
                f"{len(self.class_names)} class names, so labels must be 0 to {len(self.class_names) - 1}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, rows: Int64[np.ndarray, " k"] | Sequence[int]) -> UInt8[np.ndarray, "k c h w"]:
        """Return a copy of some images, each compared with its checksum if there is one.

        So every image is checked whenever it is used, and gigabytes that nobody uses are never read. They are read in
        the order in which they lie on the disk.

        Args:
            rows: Positions of the images.

        Raises:
            InputError: An image can't be read or isn't the one that was stored; the sentence names it and its file.
        """
        rows = np.asarray(rows, np.int64)
        taken = np.empty((len(rows), *self.image_shape), np.uint8)
        for place in np.argsort(rows, kind="stable"):
            row = int(rows[place])
            taken[place] = self.images[row] if self.file is None else self.file.read(row)
            if self.checksums is not None and checksum(taken[place]) != self.checksums[row].tobytes():
                where = "memory" if self.file is None else self.file.path
                raise InputError(
                    f"Image {row} of split '{self.split}' of data set '{self.name}' has changed since it was stored in "
                    f"'{where}'; start the run again: that checks all images and, where their source is there, makes "
                    "them anew."
                )
        return taken


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Three splits with disjoint classes, and the numbers that every stage normalises with.

    Attributes:
        train: Images to meta-train on.
        val: Images to choose models on.
        test: Images that only reported accuracies see.
        name: A readable name.
        mean: Mean of each channel over the train images, which are scaled to 0..1.
        std: Standard deviation of each channel over the train images, which are scaled to 0..1.
        digest: Digest of class names, labels and pixels of all splits: equal for equal content, wherever it came from
            and wherever it lies, and another one for any other.
        kind: Which data set it was taken for, such as ``cifar-fs``, or how it was stored, such as ``folder``.
        layout: What its files were, in words.
        assumptions: Sentences on what the files could not tell.

    Raises:
        InputError: If a class name is in two splits.
    """

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    kind: str = ""
    layout: str = ""
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_disjoint({split: self.split(split).class_names for split in SPLITS})

    def split(self, name: Split) -> LabelledImages:
        """Return the images of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def checksum(image: UInt8[np.ndarray, "..."]) -> bytes:
    """Return the first `CHECKSUM_BYTES` bytes of the SHA-256 of an image's pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()[:CHECKSUM_BYTES]


def check_disjoint(class_names: dict[Split, tuple[str, ...]]) -> None:
    """Refuse class names that occur twice, in one split or in two; é is é, whether written as one character or two.

    Args:
        class_names: The names of the classes of each split.

    Raises:
        InputError: If a class is there twice; the sentence names the class and the splits.
    """
    seen: dict[str, Split] = {}
    complaints = Complaints()
    for split, names in class_names.items():
        for name in names:
            same = unicodedata.normalize("NFC", name)
            if same in seen:
                first = seen[same]
                where = f"twice in split '{split}'" if first == split else f"in splits '{first}' and '{split}'"
                complaints.add(
                    InputError(
                        f"Class '{name}' is {where}; the classes of train, val and test must differ, or accuracy on "
                        "test classes says nothing about new classes. Move or rename it."
                    )
                )
            seen[same] = split
    complaints.raise_any()
