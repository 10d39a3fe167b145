"""tieredImageNet: encoded images as Ren et al. published them, and RFS's arrays, whose colours begin with blue."""

import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import UInt8

from metantk_core.datasets.archives import images_of
from metantk_core.datasets.decoding import decoded
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.layouts.layout import Copy, Layout, by_class, check_labels, read_dictionary
from metantk_core.datasets.pickles import let_go, read_pickle
from metantk_core.datasets.sources import SplitSource, check_counts
from metantk_core.errors import InputError
from metantk_core.files import Place, shown


def _arrays(
    place: Place, paths: tuple[str, ...], split: Split, image_size: int, channels: Literal[1, 3]
) -> SplitSource:
    archive, path = paths
    count, images = images_of(place, archive, split, image_size, channels, blue_first=True)
    where = place.where(path)
    labels = check_labels(read_dictionary(place, path, ("labels",))["labels"], count, "labels", where)
    class_names, labels = by_class(labels, None, split, where)
    return SplitSource(class_names, labels, images)


def _encoded(
    place: Place, paths: tuple[str, ...], split: Split, image_size: int, channels: Literal[1, 3]
) -> SplitSource:
    path, labels_path = paths
    where = place.where(path)
    images = read_pickle(place, path)
    if not isinstance(images, list | tuple) or not images or not all(map(_is_encoded, images)):
        raise InputError(
            f"'{shown(where)}' is no list of encoded images: expected bytes or vectors of uint8. Write it anew."
        )
    check_counts(len(images), 0, split, where)
    content = read_dictionary(place, labels_path, ("label_specific",))
    where_labels = place.where(labels_path)
    labels = check_labels(content["label_specific"], len(images), "label_specific", where_labels)
    names = _names(content, labels, split, where_labels)
    class_names, labels = by_class(labels, names, split, where_labels)
    return SplitSource(
        class_names,
        labels,
        lambda start=0: _stream(images[start:], start, where, image_size, channels),
    )


def _stream(
    images: Sequence[Any], first: int, where: str, image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    for row, encoded in enumerate(images, first):
        yield _decoded(encoded, row, where, image_size, channels)
        let_go(encoded)


def _is_encoded(image: object) -> bool:
    if isinstance(image, np.ndarray):
        return image.dtype == np.uint8 and image.size == max(image.shape, default=0)
    return isinstance(image, bytes | memoryview)


def _names(content: dict[str, Any], labels: np.ndarray, split: Split, where: str) -> dict[int, str]:
    """Return what the classes are called; without names, split and number."""
    given = content.get("label_specific_str")
    values = np.unique(labels).tolist()
    if given is None:
        return {value: f"{split} {value}" for value in values}
    if not isinstance(given, list | tuple) or not all(isinstance(name, str | bytes) for name in given):
        raise InputError(f"'label_specific_str' in '{shown(where)}' is no list of names. Write it anew.")
    if values[0] < 0 or values[-1] >= len(given):
        raise InputError(
            f"'label_specific' in '{shown(where)}' must be positions in the {len(given):,} names of "
            f"'label_specific_str'; they run from {values[0]} to {values[-1]}. Copy or download it again."
        )
    named = {value: given[value] for value in values}
    return {
        value: name.decode("utf-8", "replace") if isinstance(name, bytes) else name for value, name in named.items()
    }


def _decoded(
    encoded: object, row: int, where: str, image_size: int, channels: Literal[1, 3]
) -> UInt8[np.ndarray, "c h w"]:
    data = io.BytesIO(encoded.tobytes() if isinstance(encoded, np.ndarray) else cast(bytes, encoded))
    # Pillow decodes to red, green, blue; only OpenCV turns them round.
    return decoded(
        data,
        f"Image {row} in '{shown(where)}'",
        image_size,
        channels,
        formats=("PNG", "JPEG"),
        remedy="Copy or download the file again.",
    )


TIERED_ENCODED = Layout(
    "encoded images of tieredImageNet",
    (Copy({split: (f"{split}_images_png.pkl", f"{split}_labels.pkl") for split in SPLITS}, ("tieredimagenet",)),),
    _encoded,
    None,
)
# `train_phase_val_…` holds further images of the training classes, which nothing here needs.
TIERED_ARRAYS = Layout(
    "arrays of tieredImageNet",
    (Copy({split: (f"{split}_images.npz", f"{split}_labels.pkl") for split in SPLITS}, ("tieredimagenet",)),),
    _arrays,
    "bgr",
)
