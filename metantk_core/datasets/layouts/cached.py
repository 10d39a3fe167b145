"""Pickles of ``image_data`` and ``class_dict``: miniImageNet as it is cached by many projects."""

from typing import Literal

import numpy as np

from metantk_core.datasets.images import Split
from metantk_core.datasets.layouts.layout import (
    Copy,
    Layout,
    by_class,
    check_images,
    read_dictionary,
    streamed,
    whole_numbers,
)
from metantk_core.datasets.sources import SplitSource
from metantk_core.errors import InputError
from metantk_core.files import Place, shown


def _split(place: Place, paths: tuple[str, ...], split: Split, image_size: int, channels: Literal[1, 3]) -> SplitSource:
    (path,) = paths
    where = place.where(path)
    content = read_dictionary(place, path, ("image_data", "class_dict"))
    images = check_images(content["image_data"], "image_data", where, split)
    names, classes = _classes(content["class_dict"], len(images), where)
    class_names, labels = by_class(classes, names, split, where)
    return SplitSource(class_names, labels, lambda start=0: streamed(images[start:], image_size, channels))


def _classes(rows: object, count: int, where: str) -> tuple[dict[int, str], np.ndarray]:
    """Return the names of the classes, in their order, and the number of the class of each image."""
    if not isinstance(rows, dict) or not all(isinstance(key, str | bytes) for key in rows):
        raise InputError(f"'class_dict' in '{shown(where)}' is no dictionary from names to rows. Write it anew.")
    named = {key.decode("utf-8", "replace") if isinstance(key, bytes) else key: some for key, some in rows.items()}
    names = dict(enumerate(sorted(named)))
    classes = np.full(count, -1, np.int64)
    for number, name in names.items():
        some = whole_numbers(named[name])
        if some is None or not len(some) or some.min() < 0 or some.max() >= count:
            raise InputError(
                f"Class '{shown(name)}' in '{shown(where)}' is no list of rows from 0 to {count - 1}. Copy or download "
                "it again."
            )
        taken = some[classes[some] >= 0]
        if len(taken) or len(np.unique(some)) < len(some):
            row = int(taken[0]) if len(taken) else int(some[0])
            raise InputError(
                f"Class '{shown(name)}' in '{shown(where)}' has images that are in a class already, such as row {row}. "
                "Copy or download it again."
            )
        classes[some] = number
    left = np.flatnonzero(classes < 0)
    if len(left):
        raise InputError(
            f"'{shown(where)}' has {count:,} images, of which {len(left):,} are in no class, such as row {left[0]}. "
            "Copy or download it again."
        )
    return names, classes


CACHE = Layout(
    "cache pickles of miniImageNet",
    tuple(
        Copy(
            {
                "train": ("mini-imagenet-cache-train.pkl",),
                "val": (f"mini-imagenet-cache-{val}.pkl",),
                "test": ("mini-imagenet-cache-test.pkl",),
            },
            ("miniimagenet",),
        )
        for val in ("val", "validation")
    ),
    _split,
    "rgb",
)
