"""Published few-shot accuracies: what was trained on what and an accuracy enter, a sentence that compares them leaves.

Bands are what several publications and libraries found with the same network, learner and data set; no number here is
from memory. A result is compared only if its protocol is the published one: the whole data set, the size of its images,
its ways and shots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metantk_core.datasets import SPLITS, ImageDataset, Split
from metantk_core.meta_training.accuracy import Accuracy, Evaluation
from metantk_core.meta_training.config import Classifier

UNKNOWN = "No published number is known here for this network and way of training."

_META_LEARNERS = "MAML's and ANIL's papers, learn2learn, LibFewShot and PaddleFSL"
_RFS = "Tian et al., ECCV 2020"
_CONV4 = ("conv4-32", "conv4-64")
_MAML = ("MAML", "MAML (first order)")
_ANSWERED: Mapping[str, Classifier] = MappingProxyType({"RFS": "logistic_regression"})  # else by gradient steps


@dataclass(frozen=True)
class Band:
    """What others found.

    Attributes:
        low: Lowest accuracy, in per cent.
        high: Highest accuracy, in per cent; the same for a single number.
        source: Who found it.
    """

    low: int | float
    high: int | float
    source: str

    def __str__(self) -> str:
        """Return the band as people write it."""
        return f"{self.low:g} %" if self.low == self.high else f"{self.low:g} to {self.high:g} %"


@dataclass(frozen=True)
class Whole:
    """A data set as it was published.

    Attributes:
        title: What people call it.
        classes: Number of classes of each split.
        images: Number of images of each split.
        image_size: Height and width of the images that published networks saw.
        rotated: Whether images turned by 90, 180 and 270 degrees may be further classes, four times as many in all.
    """

    title: str
    classes: Mapping[Split, int]
    images: Mapping[Split, int]
    image_size: int
    rotated: bool = False


def _whole(
    title: str, classes: tuple[int, int, int], images: tuple[int, int, int], image_size: int, *, rotated: bool = False
) -> Whole:
    by_classes, by_images = (dict(zip(SPLITS, counts, strict=True)) for counts in (classes, images))
    return Whole(title, by_classes, by_images, image_size, rotated)


WHOLE: Mapping[str, Whole] = MappingProxyType(
    {
        "miniimagenet": _whole("miniImageNet", (64, 16, 20), (38_400, 9_600, 12_000), 84),
        "tieredimagenet": _whole("tieredImageNet", (351, 97, 160), (448_695, 124_261, 206_209), 84),
        "cifar-fs": _whole("CIFAR-FS", (64, 16, 20), (38_400, 9_600, 12_000), 32),
        "fc100": _whole("FC100", (60, 20, 20), (36_000, 12_000, 12_000), 32),
        "omniglot": _whole("Omniglot", (1_100, 100, 423), (22_000, 2_000, 8_460), 28, rotated=True),
    }
)
"""The data sets that bands are known for, by their kinds."""


def _bands() -> dict[tuple[str, str, str, int], Band]:
    """Return the bands by data set, learner, network and shots; all are of 5 ways."""
    bands: dict[tuple[str, str, str, int], Band] = {}
    for data, one, five in (
        ("miniimagenet", (46.5, 50), (62, 66)),
        ("cifar-fs", (56, 59), (70, 73.6)),
        ("fc100", (36, 41), (47, 50)),
    ):
        for network in _CONV4:
            for learner in _MAML:
                bands[data, learner, network, 1] = Band(*one, _META_LEARNERS)
                bands[data, learner, network, 5] = Band(*five, _META_LEARNERS)
    for network in _CONV4:
        bands["omniglot", "MAML", network, 1] = Band(98, 99, _META_LEARNERS)
        bands["omniglot", "MAML (first order)", network, 1] = Band(96, 97, _META_LEARNERS)
        # Within 1 to 2 points of MAML on miniImageNet, 3.5 to 5 below it on CIFAR-FS with 5 shots.
        bands["miniimagenet", "ANIL", network, 1] = Band(44.5, 52, f"2 points around MAML's band: {_META_LEARNERS}")
        bands["miniimagenet", "ANIL", network, 5] = Band(60, 68, f"2 points around MAML's band: {_META_LEARNERS}")
        bands["cifar-fs", "ANIL", network, 5] = Band(65, 70.1, f"3.5 to 5 points below MAML's band: {_META_LEARNERS}")
    for data, one, five in (
        ("miniimagenet", 62.02, 79.64),
        ("tieredimagenet", 69.74, 84.41),
        ("cifar-fs", 71.5, 86.0),
        ("fc100", 42.6, 59.1),
    ):
        bands[data, "RFS", "resnet12", 1] = Band(one, one, _RFS)
        bands[data, "RFS", "resnet12", 5] = Band(five, five, _RFS)
    return bands


BANDS: Mapping[tuple[str, str, str, int], Band] = MappingProxyType(_bands())
"""What others found, by kind of data, learner, network and shots; all with 5 ways."""


def published_sentence(evaluation: Evaluation, dataset: ImageDataset, learner: str, network: str) -> str:
    """Return how an accuracy, and those of further shots, compare with published ones.

    Args:
        evaluation: The accuracies and their protocol.
        dataset: The images.
        learner: What people call the learner, ``TrainingConfig.title``.
        network: The architecture as text.
    """
    found = (
        Accuracy(evaluation.classifier, evaluation.shots, evaluation.accuracy, evaluation.half_width),
        *evaluation.others,
    )
    answered = _ANSWERED.get(learner, "gradient_steps")
    known = [
        (accuracy, BANDS[key])
        for accuracy in found
        if accuracy.classifier == answered
        and (key := (dataset.kind, learner, network, accuracy.shots)) in BANDS
        and evaluation.ways == 5
        and evaluation.split == "test"
    ]
    if not known:
        return UNKNOWN
    whole, (_, first) = WHOLE[dataset.kind], known[0]
    bands = ", ".join(f"{accuracy.shots}-shot: {band}" for accuracy, band in known)
    published = f"Published for {network} by {learner} on {whole.title}, 5-way {bands} ({first.source})"
    other = _difference(dataset, whole)
    if other:
        return f"{published}; not comparable: {other}."
    if len(known) == 1:
        return f"{published}; this {_compared(*known[0])}."
    compared = " and ".join(f"{_compared(accuracy, band)} with {_shots(accuracy.shots)}" for accuracy, band in known)
    return f"{published}; this {compared}."


def _compared(found: Accuracy, band: Band) -> str:
    accuracy, half_width = 100 * found.accuracy, 100 * found.half_width
    if half_width > 50:
        return "is not known well enough to be compared"
    if accuracy + half_width < band.low:
        return f"is {band.low - accuracy:.1f} points below"
    if accuracy - half_width > band.high:
        return f"is {accuracy - band.high:.1f} points above"
    return "agrees with it"


def _shots(number: int) -> str:
    return f"{number} shot{'' if number == 1 else 's'}"


def _difference(dataset: ImageDataset, whole: Whole) -> str:
    """Return in which way images are not those that others used; nothing if they are."""
    for split in SPLITS:
        images = dataset.split(split)
        classes, count = len(images.class_names), len(images)
        published = [(k * whole.classes[split], k * whole.images[split]) for k in ((1, 4) if whole.rotated else (1,))]
        if (classes, count) not in published:
            others = " or ".join(f"{some:,} of {number:,}" for some, number in published)
            return f"{classes:,} {split} classes of {count:,} images are here, of {others}"
    size = dataset.train.image_shape[1]
    return "" if size == whole.image_size else f"images here are {size} pixels wide, those {whole.image_size}"
