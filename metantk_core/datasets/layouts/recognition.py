"""Which layout a folder has: a place enters, the source of its images leaves."""

from typing import Literal

from metantk_core.datasets import archives, folders
from metantk_core.datasets.images import SPLITS
from metantk_core.datasets.layouts import listed
from metantk_core.datasets.layouts.cached import CACHE
from metantk_core.datasets.layouts.labelled import CIFAR, MINI_IMAGENET
from metantk_core.datasets.layouts.layout import Files, Layout
from metantk_core.datasets.layouts.tiered import TIERED_ARRAYS, TIERED_ENCODED
from metantk_core.datasets.sources import Source
from metantk_core.errors import InputError
from metantk_core.files import FOLDER, Place, reason, shown

LAYOUTS = (MINI_IMAGENET, CACHE, CIFAR, TIERED_ENCODED, TIERED_ARRAYS)
"""Layouts with files of their own names; beside them there are folders and npz files."""


def recognised(place: Place, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images of a folder in whichever layout its files are.

    Args:
        place: The folder.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: It has none, parts of one, or two; or what is in it can't be used.
    """
    try:
        there = place.holds_folder()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read the folder '{shown(place.where())}' ({reason(error)}). Check data.path, and who may read it."
        ) from error
    if not there:
        raise InputError(f"No folder '{shown(place.where())}': expected one that holds images. Check data.path.")
    kinds = {entry.name: entry.kind for entry in place.entries()}
    files = {name for name, kind in kinds.items() if kind != FOLDER}
    found = [(layout, names) for layout in LAYOUTS for names in layout.files if files.issuperset(_all(names))]
    is_tree = all(kinds.get(split) == FOLDER for split in SPLITS)
    is_npz = files.issuperset(f"{split}.npz" for split in SPLITS)
    is_listed = kinds.get(listed.FOLDER_NAME) == FOLDER and files.issuperset(listed.FILES.values())
    described = [layout.name for layout, _ in found] + ["folders of images"] * is_tree + ["npz files"] * is_npz
    described += ["lists of images"] * is_listed
    if len(described) > 1:
        raise InputError(
            f"'{shown(place.where())}' holds {' and '.join(described)}: expected one data set. Put each into a folder "
            "of its own."
        )
    if found:
        layout, names = found[0]
        return layout.source(place, names, image_size, channels)
    if is_tree:
        return folders.folder(place, image_size, channels)
    if is_npz:
        return archives.npz(place, image_size, channels)
    if is_listed:
        return listed.listed(place, image_size, channels)
    raise _unrecognised(place, kinds)


def _all(files: Files) -> set[str]:
    return {file for split in SPLITS for file in files[split]}


def _unrecognised(place: Place, kinds: dict[str, str]) -> InputError:
    """Return the sentence about a folder that has no layout, or a part of one."""
    partial: list[tuple[Layout, Files]] = [
        (layout, names) for layout in LAYOUTS for names in layout.files if kinds.keys() & _all(names)
    ]
    if partial:
        # Of several copies' names the one of which most is there.
        layout, names = max(partial, key=lambda part: len(kinds.keys() & _all(part[1])))
        missing = ((split, file) for split in SPLITS for file in names[split] if kinds.get(file, FOLDER) == FOLDER)
        split, file = next(missing)
        return InputError(
            f"Split '{split}' of the {layout.name} in '{shown(place.where())}' is missing: no file '{file}'. "
            "Put it there."
        )
    if kinds.keys() & set(listed.FILES.values()):
        wanted = dict.fromkeys(listed.FILES.values(), False) | {listed.FOLDER_NAME: True}
        gone = next(name for name, folder in wanted.items() if name not in kinds or (kinds[name] == FOLDER) != folder)
        return InputError(
            f"Part of the lists of images in '{shown(place.where())}' is missing: no {gone}. Put it there."
        )
    for split in SPLITS:
        if split in kinds or f"{split}.npz" in kinds:
            others = [other for other in SPLITS if other not in kinds and f"{other}.npz" not in kinds]
            if others:
                form = f"{others[0]}.npz" if f"{split}.npz" in kinds else f"{others[0]}/"
                return InputError(
                    f"Split '{others[0]}' in '{shown(place.where())}' is missing: no {form}. Put it there."
                )
    seen = f"it holds {shown(sorted(kinds)[:6])}" if kinds else "it is empty"
    known = ", ".join(layout.name for layout in LAYOUTS)
    return InputError(
        f"No data set is recognised in '{shown(place.where())}' ({seen}): expected train/, val/ and test/ with a "
        f"folder a class, {{train,val,test}}.npz, images/ and {{train,val,test}}.csv, or {known}. See docs/own-data.md."
    )
