"""Which layout a folder has: a place enters, the source of its images leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from metantk_core.datasets import archives, folders
from metantk_core.datasets.config import Choices, ColourOrder, Rotations, SourceName
from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.layouts import imported, listed
from metantk_core.datasets.layouts.cached import CACHE
from metantk_core.datasets.layouts.choosing import with_colours_turned_round, with_rotations
from metantk_core.datasets.layouts.idx import families, idx
from metantk_core.datasets.layouts.known import taken_for
from metantk_core.datasets.layouts.labelled import CIFAR, MINI_IMAGENET
from metantk_core.datasets.layouts.layout import NO_CHOICES
from metantk_core.datasets.layouts.omniglot import PARTS, omniglot
from metantk_core.datasets.layouts.tiered import TIERED_ARRAYS, TIERED_ENCODED
from metantk_core.datasets.sources import Recognition, Source, SplitSource
from metantk_core.datasets.stored import FILES, SUMMARY
from metantk_core.errors import InputError
from metantk_core.files import FOLDER, Below, Place, reason, shown

LAYOUTS = (MINI_IMAGENET, CACHE, CIFAR, TIERED_ENCODED, TIERED_ARRAYS)
"""Layouts with files of their own names; beside them there are folders, lists, npz and IDX files."""
_DEEPEST = 3  # folders in one another that are looked into, as in omniglot-master/python
_MOST_FOLDERS = 16  # in all, of one depth: more are classes


def recognised(place: Place, image_size: int, channels: Literal[1, 3], choices: Choices = NO_CHOICES) -> Source:
    """Return the images of a folder in whichever layout its files are.

    If there is nothing in it but a few folders, beside files that mean nothing here, these are looked into.

    Args:
        place: The folder.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
        choices: What a person says where files can't tell.

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
        raise no_folder(place.where())
    level: list[Place] = [place]
    for _ in range(_DEEPEST + 1):
        inside = [(one, {entry.name: entry.kind for entry in one.entries()}) for one in level]
        found = [(one, sets) for one, kinds in inside if (sets := _found(one, kinds))]
        if len(found) > 1:
            places = " and ".join(f"'{shown(one.where())}'" for one, _ in found)
            raise InputError(f"'{shown(place.where())}' holds data sets in {places}: data.path must name one of these.")
        if found:
            ((inner, sets),) = found
            source = _only(sets, inner, choices).source(image_size, channels, choices)
            return source if inner is place else _found_below(source, inner)
        broken = next(filter(None, (_broken(one, kinds) for one, kinds in inside)), None)
        if broken:
            raise broken
        level = [Below(one, name) for one, kinds in inside for name, kind in kinds.items() if kind == FOLDER]
        if len(level) > _MOST_FOLDERS:
            break
    raise _unrecognised(place)


def _found_below(source: Source, inner: Place) -> Source:
    """Return a source that says in which folder it was found."""

    def recognise(splits: Mapping[Split, SplitSource]) -> Recognition:
        recognition = source.recognise(splits)
        sentence = f"Found in its folder '{shown(_way_to(inner))}'."
        return replace(recognition, assumptions=(sentence, *recognition.assumptions))

    return replace(source, recognise=recognise)


def _way_to(place: Place) -> str:
    """Return the path of a folder from the place that a person named; empty for that itself."""
    return f"{_way_to(place.place)}/{place.path}".removeprefix("/") if isinstance(place, Below) else ""


def chosen(source: SourceName, place: Place, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
    """Return the images of a place in the layout that a person asks for.

    Args:
        source: The layout; ``auto`` recognises it.
        place: The folder.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
        choices: What a person says where files can't tell.

    Raises:
        InputError: What is there can't be used.
    """
    if source == "auto":
        return recognised(place, image_size, channels, choices)
    return {"folder": _tree, "npz": _archives}[source](place).source(image_size, channels, choices)


def no_folder(path: str) -> InputError:
    """Return the sentence about a path under which nothing lies."""
    return InputError(
        f"No folder '{shown(path)}': expected one that holds images, in a layout of docs/own-data.md. Check data.path."
    )


@dataclass(frozen=True)
class _Found:
    """A data set in a folder.

    Attributes:
        described: What it is, for people.
        place: The folder.
        read: Reads it: image size, channels, choices.
        names: What ``data.name`` may call it, where that can choose among several.
        colour_order: In which order its colours are if nobody says; none if it has none.
        brings_splits: Whether its classes are divided already.
        rotations: In which splits turned images are further classes if nobody says.
    """

    described: str
    place: Place
    read: Callable[[int, Literal[1, 3], Choices], Source]
    names: tuple[str, ...] = ()
    colour_order: ColourOrder | None = "rgb"
    brings_splits: bool = True
    rotations: Rotations = "none"

    def source(self, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
        """Return its images, with what a person chose."""
        where = shown(self.place.where())
        if choices.colour_order is not None and self.colour_order is None:
            raise InputError(
                f"data.colour_order is for colours, but {self.described} in '{where}' have none. Leave it out."
            )
        if self.brings_splits and (choices.val_classes is not None or choices.test_classes is not None):
            raise InputError(
                f"data.val_classes and data.test_classes are for data sets without splits, but {self.described} in "
                f"'{where}' have theirs. Leave them out, or move classes from one split to another there."
            )
        turned_round = choices.colour_order not in (None, self.colour_order)
        source = self.read(image_size, 3 if turned_round else channels, choices)
        if turned_round:
            source = with_colours_turned_round(source, channels)
        return with_rotations(source, choices.rotations or self.rotations)


def _found(place: Place, kinds: dict[str, str]) -> list[_Found]:
    """Return the data sets whose files are all in a folder."""
    files = {name for name, kind in kinds.items() if kind != FOLDER}
    found = [
        _Found(
            layout.name,
            place,
            lambda size, channels, choices, layout=layout, copy=copy: layout.source(
                place, copy, size, channels, choices
            ),
            colour_order=layout.colour_order or "rgb",
        )
        for layout in LAYOUTS
        for copy in layout.copies
        if files.issuperset(copy.names)
    ]
    if all(kinds.get(split) == FOLDER for split in SPLITS):
        found.append(_tree(place))
    if files.issuperset(f"{split}.npz" for split in SPLITS):
        found.append(_archives(place))
    if kinds.get(listed.FOLDER_NAME) == FOLDER and files.issuperset(listed.FILES.values()):
        found.append(_Found("lists of images", place, partial(listed.listed, place)))
    if all(kinds.get(part) == FOLDER for part in PARTS):
        drawings = "Omniglot's folders of drawings"
        found.append(
            _Found(drawings, place, partial(omniglot, place), colour_order=None, brings_splits=False, rotations="all")
        )
    if files.issuperset(FILES):
        found.append(_Found(imported.NAME, place, partial(_imported, place)))
    for family in families(files):
        if not family.missing:
            described = f"IDX files of {' or '.join(family.names)}"
            read = partial(idx, place, family)
            found.append(_Found(described, place, read, family.names, colour_order=None, brings_splits=False))
    return found


def _tree(place: Place) -> _Found:
    def read(image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
        return _named(folders.folder(place, image_size, channels), choices)

    return _Found("folders of images", place, read)


def _archives(place: Place) -> _Found:
    def read(image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
        return _named(archives.npz(place, image_size, channels), choices)

    return _Found("npz files", place, read)


def _imported(place: Place, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
    return _named(imported.imported(place, image_size, channels), choices)


def _named(source: Source, choices: Choices) -> Source:
    """Return a source of anybody's images, called as its owner calls it."""
    return source if choices.name is None else replace(source, recognise=taken_for((), choices.name))


def _only(found: list[_Found], place: Place, choices: Choices) -> _Found:
    """Return the one data set that a folder holds, or that a person chooses among those that it holds."""
    if len(found) > 1 and choices.name is not None:
        found = [one for one in found if choices.name in one.names] or found
    if len(found) > 1:
        names = [one.names[0] for one in found if one.names]
        choice = f", or say which with data.name, such as {names[0]}" if len(names) > 1 else ""
        raise InputError(
            f"'{shown(place.where())}' holds {' and '.join(one.described for one in found)}: expected one data set. "
            f"Put each into a folder of its own{choice}."
        )
    return found[0]


def _broken(place: Place, kinds: dict[str, str]) -> InputError | None:
    """Return the sentence about a folder that holds a part of a data set; none if it holds none."""
    parts = [(layout, copy) for layout in LAYOUTS for copy in layout.copies if kinds.keys() & copy.names]
    if parts:
        # Of several copies' names the one of which most is there.
        layout, copy = max(parts, key=lambda part: len(kinds.keys() & part[1].names))
        missing = ((split, file) for split in SPLITS for file in copy.files[split] if kinds.get(file, FOLDER) == FOLDER)
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
    if SUMMARY in kinds:
        gone = next(name for name in sorted(FILES) if kinds.get(name, FOLDER) == FOLDER)
        return InputError(
            f"Part of the imported data set in '{shown(place.where())}' is missing: no file '{gone}'. Import the "
            "images again."
        )
    half = [part for part in PARTS if part in kinds or f"{part}.zip" in kinds]
    if half:
        gone = next(part for part in PARTS if kinds.get(part) != FOLDER)
        how = f"unpack {gone}.zip" if f"{gone}.zip" in kinds else "unpack both archives of Omniglot"
        return InputError(
            f"Part of Omniglot in '{shown(place.where())}' is missing: no folder {gone}. Put it there: {how}."
        )
    for family in families(set(kinds)):
        if family.missing:
            return InputError(
                f"A file of {family.names[0]} in '{shown(place.where())}' is missing: {family.missing}. Put it there."
            )
    return None


def _unrecognised(place: Place) -> InputError:
    """Return the sentence about a folder that has no layout."""
    seen = [entry.name for entry in place.entries()]
    holds = f"it holds {shown(seen[:6])}" if seen else "it is empty"
    known = ", ".join(layout.name for layout in LAYOUTS)
    return InputError(
        f"No data set is recognised in '{shown(place.where())}' ({holds}): expected train/, val/ and test/ with a "
        f"folder a class, {{train,val,test}}.npz, images/ and {{train,val,test}}.csv, {known}, Omniglot's folders, or "
        "IDX files. See docs/own-data.md."
    )
