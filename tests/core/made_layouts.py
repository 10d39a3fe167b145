"""Small data sets in every layout that people have, written as Python 3 and NumPy 2 write them, and what is in them."""

import gzip
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from metantk_core.datasets import SPLITS

CLASSES = {"train": 5, "val": 3, "test": 4}
EACH = 6  # images of a class
SIZE = 12  # pixels
ALPHABETS = {"images_background": {"Greek": 5, "Latin": 6}, "images_evaluation": {"Tibetan": 5}}


@dataclass(frozen=True)
class Extent:
    """How much is written.

    Attributes:
        classes: Classes by split.
        each: Images of a class.
        size: Height and width, in pixels.
        alphabets: Omniglot's characters, by folder and alphabet.
    """

    classes: Mapping[str, int] = field(default_factory=lambda: CLASSES)
    each: int = EACH
    size: int = SIZE
    alphabets: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: ALPHABETS)


SMALL = Extent()
Content = Mapping[str, Mapping[str, np.ndarray]]
"""By split and class the images, as they are to be stored: ``[n, c, h, w]``."""


class Writer(Protocol):
    """Writes a layout into an empty folder and returns what is in it."""

    def __call__(self, root: Path, extent: Extent = SMALL) -> Content: ...


def photographs(names: Callable[[str, int], str], extent: Extent) -> Content:
    """Return coloured images, redder than blue, by the names that a layout gives to classes."""
    content = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng(number)
        low, high = [90, 60, 0], [256, 226, 166]
        images = rng.integers(low, high, (extent.classes[split], extent.each, extent.size, extent.size, 3)).astype(
            np.uint8
        )
        content[split] = {names(split, k): one.transpose(0, 3, 1, 2) for k, one in enumerate(images)}
    return content


def drawings(names: list[str], extent: Extent) -> Mapping[str, np.ndarray]:
    """Return pictures in black and white, some 20 % of them ink (255), ``[n, h, w]`` by class."""
    rng = np.random.default_rng(len(names))
    shape = (extent.each, extent.size, extent.size)
    return {name: (255 * (rng.random(shape) < 0.2)).astype(np.uint8) for name in names}


def flat(part: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the images of a split as files of arrays have them, ``[n, h, w, c]``."""
    return np.concatenate([images.transpose(0, 2, 3, 1) for images in part.values()])


def number_of(split: str, k: int) -> str:
    return str({"train": 0, "val": 64, "test": 80}[split] + k)


def synset(split: str, k: int) -> str:
    return f"n{int(number_of(split, k)):08}"


def labels_of(part: Mapping[str, np.ndarray]) -> list[int]:
    return [int(name.lstrip("n")) for name, images in part.items() for _ in images]


def labelled(file_name: str) -> Writer:
    def write(root: Path, extent: Extent = SMALL) -> Content:
        content = photographs(number_of, extent)
        for split, part in content.items():
            phase = f"train_phase_{split}" if split == "train" and "mini" in file_name else split
            data = {"data": np.ascontiguousarray(flat(part)), "labels": labels_of(part)}
            (root / file_name.format(phase)).write_bytes(pickle.dumps(data, 2))
        return content

    return write


def cached(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(synset, extent)
    for split, part in content.items():
        rows = {name: list(range(extent.each * k, extent.each * (k + 1))) for k, name in enumerate(part)}
        data = {"image_data": np.ascontiguousarray(flat(part)), "class_dict": rows}
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(data))
    return content


def listed(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(synset, extent)
    (root / "images").mkdir()
    for split, part in content.items():
        rows = [(f"{name}{row}.png", name, image) for name, images in part.items() for row, image in enumerate(images)]
        (root / f"{split}.csv").write_text(
            "filename,label\n" + "".join(f"{file},{name}\n" for file, name, _ in rows), encoding="utf-8"
        )
        for file, _, image in rows:
            Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(root / "images" / file)
    return content


def folders(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(lambda split, k: f"{split} {k}", extent)
    for split, part in content.items():
        for name, images in part.items():
            (root / split / name).mkdir(parents=True)
            for row, image in enumerate(images):
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(root / split / name / f"{row}.png")
    return content


def arrays(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(number_of, extent)
    for split, part in content.items():
        np.savez(root / f"{split}.npz", images=flat(part), labels=labels_of(part))
    return content


def tiered_arrays(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(number_of, extent)
    for split, part in content.items():
        np.savez(root / f"{split}_images.npz", images=flat(part)[..., ::-1])
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps({"labels": np.array(labels_of(part))}))
    return content


def tiered_encoded(root: Path, extent: Extent = SMALL) -> Content:
    content = photographs(synset, extent)
    for split, part in content.items():
        (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps([as_png(image) for image in flat(part)]))
        labels = {
            b"label_specific": np.repeat(np.arange(len(part)), extent.each),
            b"label_general": np.zeros(extent.each * len(part), np.int64),
            b"label_specific_str": list(part),
            b"label_general_str": ["everything"],
        }
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels))
    return content


def as_png(image: np.ndarray) -> np.ndarray:
    """Return a picture as OpenCV encodes one: a column of bytes."""
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(written, format="PNG")
    return np.frombuffer(written.getvalue(), np.uint8)[:, None]


def omniglot(root: Path, extent: Extent = SMALL) -> Content:
    """Write black ink on white paper in one bit, and return it inverted; which class is where is open."""
    names = [
        f"{alphabet}/character{k + 1:02}"
        for part in extent.alphabets.values()
        for alphabet, count in part.items()
        for k in range(count)
    ]
    drawn = drawings(names, extent)
    for part, alphabets in extent.alphabets.items():
        for name, images in drawn.items():
            if name.split("/")[0] in alphabets:
                (root / part / name).mkdir(parents=True)
                for row, image in enumerate(images):
                    picture = Image.fromarray(255 - image).convert("1")
                    picture.save(root / part / name / f"{len(drawn):04}_{row + 1:02}.png")
    return {"all": {name: images[:, None] for name, images in drawn.items()}}


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array of bytes as Y. LeCun's files have it."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def idx(beginning: str, test: str, names: str, first: int = 0, *, ending: str = "") -> Writer:
    def write(root: Path, extent: Extent = SMALL) -> Content:
        drawn = drawings(list(names), extent)
        order = np.random.default_rng(0).permutation(len(names) * extent.each)
        images = np.concatenate(list(drawn.values()))[order]
        labels = np.repeat(np.arange(len(names)) + first, extent.each)[order]
        if beginning:  # EMNIST's are stored column by column
            images = images.transpose(0, 2, 1)
        for part, rows in (("train", slice(10, None)), (test, slice(0, 10))):
            for kind, content in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
                data = idx_bytes(content)
                packed = gzip.compress(data, mtime=0) if ending else data
                (root / f"{beginning}{part}-{kind}-ubyte{ending}").write_bytes(packed)
        return {"all": {name: images[:, None] for name, images in drawn.items()}}

    return write


MADE: dict[str, Writer] = {
    "mini-rfs": labelled("miniImageNet_category_split_{}.pickle"),
    "mini-cache": cached,
    "mini-ravi": listed,
    "folders": folders,
    "npz": arrays,
    "tiered-rfs": tiered_arrays,
    "tiered-ren": tiered_encoded,
    "cifar-fs": labelled("{}.pickle"),
    "cifar-fs-metaopt": labelled("CIFAR_FS_{}.pickle"),
    "fc100-metaopt": labelled("FC100_{}.pickle"),
    "omniglot": omniglot,
    "mnist": idx("", "t10k", "0123456789", ending=".gz"),
    "emnist-letters": idx("emnist-letters-", "test", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", 1),
}
"""By name what writes each layout.

Where classes are not divided, they are all under ``all``.
"""
