"""Image files in one folder and a list of them a split: miniImageNet as Ravi and Larochelle have it."""

import csv
import hashlib
import io
import json
from typing import Literal

import numpy as np

from metantk_core.datasets.config import Choices
from metantk_core.datasets.folders import is_image, stream_files
from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.layouts.known import taken_for
from metantk_core.datasets.sources import MAX_IMAGES, Source, SplitSource, check_counts, check_name
from metantk_core.errors import Complaints, InputError
from metantk_core.files import FILE, Place, amount, reason, shown

FOLDER_NAME = "images"
FILES: dict[Split, str] = {split: f"{split}.csv" for split in SPLITS}
_LONGEST = 64_000_000  # bytes of a list; that of the training images of miniImageNet has 1.3 MB


def listed(place: Place, image_size: int, channels: Literal[1, 3], choices: Choices) -> Source:
    """Return the images in ``images/`` that ``{train,val,test}.csv`` list, with the header ``filename,label``.

    Args:
        place: What holds the folder and the lists.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
        choices: What a person says of them.

    Raises:
        InputError: A list can't be read or names an image that isn't there, or a class is in two splits; later, while
            images stream, if one can't be read.
    """
    there = {entry.name: entry for entry in place.entries(FOLDER_NAME, is_image) if entry.kind == FILE}
    splits: dict[Split, SplitSource] = {}
    listing = hashlib.sha256()
    complaints = Complaints()
    for split, path in FILES.items():
        where = place.where(path)
        rows = _rows(place, path)
        check_counts(len(rows), 0, split, where)
        for number, (file, _) in enumerate(rows):
            if file not in there:
                complaints.add(
                    InputError(
                        f"'{shown(where)}' lists '{shown(file)}' (image {number + 1:,}), which is no image file in "
                        f"'{shown(place.where(FOLDER_NAME))}'. Put it there, or take it off the list."
                    )
                )
                continue
            entry = there[file]
            listing.update(json.dumps([split, *rows[number], entry.size, *entry.version]).encode())
        names, labels = np.unique([name for _, name in rows], return_inverse=True)
        for name in names.tolist():
            check_name(name, split, where)
        check_counts(len(rows), len(names), split, where)
        files = [f"{FOLDER_NAME}/{file}" for file, _ in rows]
        splits[split] = SplitSource(
            tuple(names.tolist()),
            labels.astype(np.int64),
            lambda start=0, files=files: stream_files(place, files[start:], image_size, channels),
        )
    complaints.raise_any()
    check_disjoint({split: source.class_names for split, source in splits.items()})
    recognise = taken_for(("miniimagenet",), choices.name, otherwise="lists")
    return Source(place.name, listing.hexdigest()[:16], lambda: splits, "lists of images", recognise)


def _rows(place: Place, path: str) -> list[tuple[str, str]]:
    """Return the names of the files and of their classes in a list."""
    where = shown(place.where(path))
    expected = "expected lines of a file name, a comma and a class name below the line 'filename,label'"
    try:
        with place.open(path) as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise ValueError(f"it has more than {amount(_LONGEST)}")
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"'{where}' can't be read as a list of images ({reason(error)}): {expected}.") from error
    if not lines or [field.strip() for field in lines[0]] != ["filename", "label"]:
        raise InputError(f"'{where}' begins with '{shown(','.join(lines[0]) if lines else '')}': {expected}.")
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        if len(line) != 2:
            raise InputError(f"Line {number:,} of '{where}' has {len(line)} fields: {expected}.")
        rows.append((line[0], line[1]))
    if not 0 < len(rows) <= MAX_IMAGES:
        raise InputError(f"'{where}' lists {len(rows):,} images: expected one to {MAX_IMAGES:,}.")
    return rows
