"""Omniglot as its authors have it: drawings of the characters of fifty alphabets, one folder a character."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from metantk_core.datasets.config import Choices
from metantk_core.datasets.folders import is_image, stream_files
from metantk_core.datasets.images import Split
from metantk_core.datasets.layouts.choosing import by_split, split_of_each
from metantk_core.datasets.layouts.known import taken_for
from metantk_core.datasets.sources import Source, SplitSource, check_counts, check_name
from metantk_core.errors import InputError
from metantk_core.files import FILE, FOLDER, Place, shown

PARTS = ("images_background", "images_evaluation")
_ALL, _VAL, _TEST = 1623, 100, 423  # of which 1,100 are left for train


def omniglot(place: Place, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
    """Return the drawings in ``images_background/<alphabet>/<character>/*.png`` and ``images_evaluation/…``.

    Both folders together hold the characters, since the usual splits mix them: 1,100 for train, 100 for val and 423 for
    test, drawn at random (Finn et al. 2017; learn2learn); of fewer characters the same shares. Ink is white, paper
    black, as there.

    Args:
        place: What holds the two folders.
        image_size: Height and width to store at; papers use 28.
        channels: 1 for grey, 3 repeats it.
        choices: What a person says of them.

    Raises:
        InputError: A folder is empty, or no class is left for a split; later, while images stream, if one can't be
            read.
    """
    listing = hashlib.sha256()
    characters: dict[str, list[str]] = {}
    for part in PARTS:
        found = list(_characters(place, part))
        if not found:
            raise InputError(
                f"'{shown(place.where(part))}' holds no folders of alphabets with folders of characters: expected "
                f"{part}/<alphabet>/<character>/<drawing>.png. Unpack Omniglot again."
            )
        for path, name in found:
            files = [entry for entry in place.entries(path, is_image) if entry.kind != FOLDER]
            for entry in files:
                if entry.kind != FILE:
                    raise InputError(
                        f"Image '{shown(place.where(f'{path}/{entry.name}'))}' is {entry.kind}: expected a file. "
                        "Replace or remove it."
                    )
            if not files:
                raise InputError(
                    f"'{shown(place.where(path))}' holds no images: expected the drawings of a character. Copy "
                    "Omniglot again, or remove the folder."
                )
            if name in characters:
                raise InputError(
                    f"Character '{shown(name)}' is in {PARTS[0]} and in {PARTS[1]} of '{shown(place.where())}': "
                    "expected different alphabets. Remove one."
                )
            characters[name] = [f"{path}/{entry.name}" for entry in files]
            for entry in files:
                listing.update(json.dumps([path, entry.name, entry.size, *entry.version]).encode())
    names = sorted(characters)
    split_of = split_of_each(names, choices, _usual, place.where())
    splits: dict[Split, SplitSource] = {}
    for split, members in by_split(names, split_of).items():
        counts = [len(characters[name]) for name in members]
        for name in members:
            check_name(name, split, place.where())
        check_counts(sum(counts), len(members), split, place.where())
        files = [file for name in members for file in characters[name]]
        splits[split] = SplitSource(
            members,
            np.repeat(np.arange(len(members), dtype=np.int64), counts),
            lambda start=0, files=files: _inverted(place, files[start:], image_size, channels),
        )
    said = ()
    if len(names) != _ALL:
        said = (f"Of Omniglot's {_ALL:,} characters {len(names):,} are here, split in the usual shares.",)
    return Source(
        place.name,
        listing.hexdigest()[:16],
        lambda: splits,
        "Omniglot's folders of drawings",
        taken_for(("omniglot",), choices.name, *said),
    )


def _characters(place: Place, part: str) -> Iterator[tuple[str, str]]:
    """Give the path and the name of each character, such as ``Greek/character01``."""
    # Programs that unpack an archive into a folder of its name put the folder that it holds in there.
    alphabets, root = list(place.entries(part)), part
    if any(entry.name == part and entry.kind == FOLDER for entry in alphabets):
        root = f"{part}/{part}"
        alphabets = list(place.entries(root))
    for alphabet in alphabets:
        if alphabet.kind != FOLDER:
            continue
        for character in place.entries(f"{root}/{alphabet.name}"):
            if character.kind == FOLDER:
                yield f"{root}/{alphabet.name}/{character.name}", f"{alphabet.name}/{character.name}"


def _usual(count: int) -> tuple[int, int]:
    return max(1, round(count * _VAL / _ALL)), max(1, round(count * _TEST / _ALL))


def _inverted(
    place: Place, files: Sequence[str], image_size: int, channels: Literal[1, 3]
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    for image in stream_files(place, files, image_size, channels):
        yield 255 - image
