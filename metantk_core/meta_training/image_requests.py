"""Image files of new classes: files with labels and files without enter, a class for each of the latter leaves.

What a person has: pictures of any size and mode, named after what they show. Axes: s support images, q query images,
c channels, h height, w width, k classes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from jaxtyping import UInt8

from metantk_core.datasets.decoding import decoded
from metantk_core.errors import InputError
from metantk_core.files import amount, shown
from metantk_core.meta_training.classifier import FewShotClassifier

MOST_IMAGES = 10_000
"""Of one request; more would keep a server busy for hours."""
LARGEST_FILE = 64_000_000


@dataclass(frozen=True, eq=False)
class Picture:
    """An image file.

    Attributes:
        name: What to call it where it can't be used, such as its path.
        content: Its bytes, in any of Pillow's usual formats.
        label: Its class if it is a support image; none if its class is asked for.
    """

    name: str
    content: bytes
    label: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a picture is taken for.

    Attributes:
        name: The picture's.
        label: The most probable class.
        probability: Its probability, 0 to 1.
        probabilities: That of every class, by its label, in the order of the labels.
    """

    name: str
    label: str
    probability: float
    probabilities: dict[str, float]


def classify(classifier: FewShotClassifier, pictures: Sequence[Picture]) -> list[Answer]:
    """Return the classes of pictures without a label, in their order, after a look at those that have one.

    Pictures are resized to what the model was trained on (sides independently) and turned grey or RGB, as training
    images were. The order of the support pictures doesn't matter.

    Args:
        classifier: The model.
        pictures: Support pictures of as many classes as the model tells apart, and queries.

    Raises:
        InputError: There are no support or no query pictures, one can't be read, or the number of classes doesn't fit.
    """
    support = [picture for picture in pictures if picture.label is not None]
    queries = [picture for picture in pictures if picture.label is None]
    if not support or not queries:
        raise InputError(
            f"Expected support images, which have a label, and query images, which have none, but got {len(support):,} "
            f"and {len(queries):,}; give at least one image of each class, and one to classify."
        )
    if len(pictures) > MOST_IMAGES:
        raise InputError(
            f"Expected at most {MOST_IMAGES:,} images at once, but got {len(pictures):,}; ask in several parts."
        )
    labels = sorted({cast(str, picture.label) for picture in support})
    _check_labels(labels, classifier.ways)
    # In an order of their own: sums over support images are the same however they were sent.
    support.sort(key=lambda picture: (cast(str, picture.label), picture.content))
    positions = np.array([labels.index(cast(str, picture.label)) for picture in support], np.int64)
    shape = classifier.model.image_shape
    probabilities = classifier.predict_proba(_pixels(support, shape), positions, _pixels(queries, shape))
    return [
        Answer(
            picture.name,
            labels[int(row.argmax())],
            float(row.max()),
            {label: float(value) for label, value in zip(labels, row, strict=True)},
        )
        for picture, row in zip(queries, probabilities, strict=True)
    ]


def _check_labels(labels: list[str], ways: int | None) -> None:
    if any(not label.strip() for label in labels):
        raise InputError("Expected labels with something in them, but one is blank; leave the label of queries out.")
    if len(labels) < 2 or ways not in (None, len(labels)):
        named = ", ".join(f"'{shown(label)}'" for label in labels[:8]) + (", …" if len(labels) > 8 else "")
        expected = "at least 2 classes" if ways is None else f"exactly {ways} classes, which this model was trained for"
        raise InputError(
            f"Expected support images of {expected}, but got {len(labels)} ({named}); show it other images, or take a "
            "model that was trained with another training.episode.ways."
        )


def _pixels(pictures: Sequence[Picture], shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n c h w"]:
    channels, size, _ = shape
    for picture in pictures:
        if len(picture.content) > LARGEST_FILE:
            raise InputError(
                f"Image '{shown(picture.name)}' has {amount(len(picture.content))}: expected at most "
                f"{amount(LARGEST_FILE)}; make it smaller."
            )
    return np.stack(
        [
            decoded(
                io.BytesIO(picture.content),
                f"Image '{shown(picture.name)}'",
                size,
                cast(Literal[1, 3], channels),
                remedy="Give an image file as it is; over HTTP its bytes, as base64.",
            )
            for picture in pictures
        ]
    )
