"""Pickles of ``data`` and ``labels``: miniImageNet, CIFAR-FS and FC100 as RFS and MetaOptNet have them."""

from typing import Literal

from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.layouts.layout import (
    Copy,
    Layout,
    by_class,
    check_images,
    check_labels,
    read_dictionary,
    streamed,
)
from metantk_core.datasets.sources import SplitSource
from metantk_core.files import Place


def _split(place: Place, paths: tuple[str, ...], split: Split, image_size: int, channels: Literal[1, 3]) -> SplitSource:
    (path,) = paths
    where = place.where(path)
    content = read_dictionary(place, path, ("data", "labels"))
    images = check_images(content["data"], "data", where, split)
    labels = check_labels(content["labels"], len(images), "labels", where)
    class_names, labels = by_class(labels, None, split, where)
    return SplitSource(class_names, labels, lambda start=0: streamed(images[start:], image_size, channels))


# `…_train_phase_val` and `…_train_phase_test` hold further images of the training classes, which nothing here needs.
MINI_IMAGENET = Layout(
    "pickles of miniImageNet",
    (
        Copy(
            {
                "train": ("miniImageNet_category_split_train_phase_train.pickle",),
                "val": ("miniImageNet_category_split_val.pickle",),
                "test": ("miniImageNet_category_split_test.pickle",),
            },
            ("miniimagenet",),
        ),
    ),
    _split,
    "rgb",
)
CIFAR = Layout(
    "pickles of CIFAR-FS or FC100",
    tuple(
        Copy({split: (f"{beginning}{split}.pickle",) for split in SPLITS}, known)
        for beginning, known in (
            ("", ("cifar-fs", "fc100")),
            ("CIFAR_FS_", ("cifar-fs",)),
            ("FC100_", ("fc100",)),
        )
    ),
    _split,
    "rgb",
)
