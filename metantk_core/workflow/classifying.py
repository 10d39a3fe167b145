"""A trained network in use: folders of image files enter, a class for each query image leaves."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from metantk_core.datasets.folders import IMAGE_SUFFIXES, is_image
from metantk_core.errors import InputError
from metantk_core.files import FOLDER, Place, reason, shown
from metantk_core.meta_training import Answer, FewShotClassifier, Picture, classify
from metantk_core.meta_training.image_requests import LARGEST_FILE


@dataclass(frozen=True)
class Classified:
    """What a network takes the images of a folder for.

    Attributes:
        answers: One a query image, in the order of their paths.
        labels: The classes that were shown to it.
        support: How many images of each class were shown to it, in the order of the labels.
        truth: The class of each query image, where they lie in folders named after the classes; else none.
    """

    answers: tuple[Answer, ...]
    labels: tuple[str, ...]
    support: tuple[int, ...]
    truth: tuple[str, ...] | None

    @property
    def right(self) -> int | None:
        """How many answers are right, if that is known."""
        if self.truth is None:
            return None
        return sum(answer.label == truth for answer, truth in zip(self.answers, self.truth, strict=True))


def classify_folders(classifier: FewShotClassifier, support: Place, query: Place) -> Classified:
    """Return the classes of images in a folder, after a look at a few images of each class.

    Args:
        classifier: The network.
        support: Holds one folder of images a class.
        query: Holds images; or, like the other, one folder a class: then answers can be counted.

    Raises:
        InputError: A folder is missing, empty or can't be read, an image can't be read, or classes don't fit.
    """
    folders = admit_images(support, query)
    known = [picture for label in folders for picture in _pictures(support, label, label)]
    inner, loose = _content(query)
    asked = [picture for folder in inner for picture in _pictures(query, folder, None)]
    asked += [Picture(name, _file(query, name)) for name in loose]
    if not asked:
        raise InputError(
            f"Expected images to classify in '{shown(query.where())}', but there are none "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); name a folder that holds some."
        )
    counts = Counter(picture.label for picture in known)
    return Classified(
        answers=tuple(classify(classifier, [*known, *asked])),
        labels=tuple(sorted(folders)),
        support=tuple(counts[label] for label in sorted(folders)),
        # Folders of queries are taken for classes only if all of them are: their names are then the truth.
        truth=tuple(picture.name.partition("/")[0] for picture in asked)
        if not loose and set(inner) <= set(folders)
        else None,
    )


def admit_images(support: Place, query: Place) -> list[str]:
    """Return the classes of the support images, the names of their folders; to be asked before a network is fetched.

    Args:
        support: Holds one folder of images a class.
        query: Holds images, or folders of images.

    Raises:
        InputError: A folder is missing or can't be read, or there are no classes.
    """
    folders, _ = _content(support)
    if not folders:
        raise InputError(
            f"Expected a folder of images for each class in '{shown(support.where())}', but it holds none; put the "
            "images of each class into a folder that is named after it."
        )
    _content(query)
    return folders


def _pictures(place: Place, folder: str, label: str | None) -> list[Picture]:
    _, names = _content(place, folder)
    if not names:
        raise InputError(
            f"Expected images in '{shown(place.where(folder))}', but there are none "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); put some there or remove the folder."
        )
    return [Picture(path, _file(place, path), label) for path in (f"{folder}/{name}" for name in names)]


def _content(place: Place, folder: str = "") -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the image files in a folder."""
    with _readable(place, folder):
        entries = list(place.entries(folder))
    folders = [entry.name for entry in entries if entry.kind == FOLDER]
    return folders, [entry.name for entry in entries if entry.kind != FOLDER and is_image(entry.name)]


def _file(place: Place, path: str) -> bytes:
    with _readable(place, path), place.open(path) as stream:
        return stream.read(LARGEST_FILE + 1)  # so much that it is known to be too large


@contextmanager
def _readable(place: Place, path: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read '{shown(place.where(path))}' ({reason(error)}); name folders that hold images."
        ) from error
