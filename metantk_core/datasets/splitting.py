"""Splits of classes where there are none: a folder with a folder a class enters, one with train, val and test leaves.

Which class goes where depends on the seed and the names of the classes alone. The source stays as it is.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Literal

from metantk_core.datasets.config import Choices
from metantk_core.datasets.folders import is_image
from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.layouts.choosing import by_split, split_of_each
from metantk_core.datasets.scratch import destination, workplace
from metantk_core.datasets.sources import check_name
from metantk_core.errors import Complaints, InputError
from metantk_core.files import FILE, FOLDER, Folder, reason, shown
from metantk_core.progress import Progress, silent

Means = Literal["link", "copy"]
SHARES: Mapping[Split, float] = {"train": 0.64, "val": 0.16, "test": 0.2}
"""Those of miniImageNet."""
_FEWEST = 2  # classes of a split: an episode has two at least


@dataclass(frozen=True)
class Divided:
    """What was made.

    Attributes:
        classes: The classes of each split.
        images: Number of images of each split.
        copied: Number of images that were copied; the others are links, second names of the same files.
        passed_over: Number of files that are no images by their suffix.
    """

    classes: Mapping[Split, tuple[str, ...]]
    images: Mapping[Split, int]
    copied: int
    passed_over: int


def divide(
    source: Path,
    directory: Path,
    *,
    shares: Mapping[Split, float] = SHARES,
    seed: int = 0,
    by: Means = "link",
    progress: Progress = silent,
) -> Divided:
    """Put the classes of a folder into ``{train,val,test}/<class>`` of another one, which appears as a whole.

    Args:
        source: Holds a folder of images for each class.
        directory: Where the splits go; must not exist, or be empty.
        shares: Which part of the classes each split gets.
        seed: Seed of the choice.
        by: Whether images get a second name (copied where the file system can't do that) or are copied.
        progress: Told after every few images.

    Raises:
        InputError: The source holds no classes, too few, or splits already; a class has no images; the destination
            holds something or can't be written.
    """
    counts_wanted = _admit_shares(shares)
    directory = _admit_destination(source, directory)
    found, passed_over = _classes(source)
    counts = _counts(len(found), counts_wanted, source)
    choices = Choices(val_classes=counts["val"], test_classes=counts["test"], seed=seed)
    names = sorted(found)
    assigned = split_of_each(names, choices, lambda count: (0, 0), str(source))
    total = sum(map(len, found.values()))
    done, copied = 0, 0
    images: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    with _writing(directory), workplace(directory) as scratch:
        for name in names:
            folder = scratch / "new" / assigned[name] / name
            folder.mkdir(parents=True)
            for file in found[name]:
                copied += _put(source / name / file, folder / file, by)
                done += 1
                if done % 64 == 0 or done == total:
                    progress(done, total, "images")
            images[assigned[name]] += len(found[name])
        os.rename(scratch / "new", directory)
    return Divided(by_split(names, assigned), images, copied, passed_over)


def _admit_shares(shares: Mapping[Split, float]) -> Mapping[Split, float]:
    if any(not 0 < share < 1 for share in shares.values()) or abs(fsum(shares.values()) - 1) > 1e-6:
        words = ", ".join(f"{share:g} for {split}" for split, share in shares.items())
        raise InputError(f"Expected shares of the classes that are above 0 and together 1, got {words}; correct them.")
    return shares


def _admit_destination(source: Path, directory: Path) -> Path:
    """Return the destination, free of links, if it can be made."""
    real = destination(directory, str(source))
    try:
        held = sorted(os.listdir(directory)) if os.path.lexists(directory) else []
    except NotADirectoryError:
        raise InputError(f"'{shown(directory)}' is no folder. Choose another destination.") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"Can't look at '{shown(directory)}' ({reason(error)}). Choose another destination."
        ) from error
    if held:
        raise InputError(
            f"'{shown(directory)}' holds {shown(repr(held[0]))}. Choose another destination, or remove it."
        )
    return real


def _classes(source: Path) -> tuple[dict[str, list[str]], int]:
    """Return the image files of each class, and how many others there are."""
    place = Folder(source)
    try:
        there = place.holds_folder()
    except (OSError, ValueError) as error:
        raise InputError(f"Can't read '{shown(source)}' ({reason(error)}). Check who may read it.") from error
    if not there:
        raise InputError(
            f"There is no folder '{shown(source)}': expected one that holds a folder of images for each class."
        )
    found: dict[str, list[str]] = {}
    passed_over = 0
    complaints = Complaints()
    entries = list(place.entries())
    folders = [entry.name for entry in entries if entry.kind == FOLDER]
    if {"train", "val", "test"} & set(folders):
        raise InputError(
            f"'{shown(source)}' has splits already. A run reads it as it is, or after you put that in order."
        )
    if not folders:
        holds = f"it holds {shown([entry.name for entry in entries][:6])}" if entries else "it is empty"
        raise InputError(
            f"'{shown(source)}' has no classes ({holds}): expected a folder of images for each. Classes in npz files "
            "or pickles are divided where those are written."
        )
    for name in folders:
        with complaints.kept():
            check_name(name, "train", str(source))
            files = list(place.entries(name))
            images = [entry.name for entry in files if is_image(entry.name) and entry.kind == FILE]
            passed_over += len(files) - len(images)
            if not images:
                raise InputError(
                    f"Class '{shown(name)}' has no image files in '{shown(source / name)}'. Add images or remove the "
                    "folder."
                )
            found[name] = images
    with complaints.kept():
        check_disjoint({"train": tuple(found)})
    complaints.raise_any()
    return found, passed_over + len(entries) - len(folders)


def _counts(classes: int, shares: Mapping[Split, float], source: Path) -> dict[Split, int]:
    """Return how many classes each split gets: by share, what is left over by the largest remainder, at least two."""
    if classes < _FEWEST * len(SPLITS):
        raise InputError(
            f"'{shown(source)}' has {classes} {'class' if classes == 1 else 'classes'}: expected at least "
            f"{_FEWEST * len(SPLITS)}, two each for train, val and test, since an episode has two or more. Add classes."
        )
    exact = {split: share * classes for split, share in shares.items()}
    counts: dict[Split, int] = {split: int(exact[split] + 1e-9) for split in SPLITS}
    by_remainder = sorted(SPLITS, key=lambda split: (counts[split] - exact[split], SPLITS.index(split)))
    for split in by_remainder[: classes - sum(counts.values())]:
        counts[split] += 1
    for split in SPLITS:
        while counts[split] < _FEWEST:
            counts[max(SPLITS, key=lambda other: counts[other])] -= 1
            counts[split] += 1
    return counts


def _put(source: Path, target: Path, by: Means) -> bool:
    """Put an image under another name, and return whether it had to be copied."""
    if by == "link":
        try:
            os.link(os.path.realpath(source), target)
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
                raise
    shutil.copyfile(source, target)
    return True


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "Make space, or choose another disk" if full else "Choose a folder that you may write to"
        raise InputError(f"Can't write the splits to '{shown(directory)}' ({reason(error)}). {todo}.") from error
