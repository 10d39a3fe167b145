"""Imports whose destination is an artifact store, as a rule a bucket: a plan enters, stored arrays leave.

They are made on this machine first and then stored, ``dataset.json`` last: who reads there finds all of it or nothing.
Until then ``import.json`` says what the arrays belong to, so that the attempt after one that was killed stores only
those that are missing.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from metantk_core.datasets import importing
from metantk_core.datasets.importing import Import, Imported
from metantk_core.datasets.stored import FILES, SUMMARY
from metantk_core.errors import InputError
from metantk_core.files import Place, amount, shown
from metantk_core.ports import ArtifactStore
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest

BEGUN = "import.json"
"""Key of what is stored while an import is not finished."""
_MEGABYTE = 10**6


def import_into(
    plan: Import,
    store: ArtifactStore,
    place: Place,
    room: Path,
    progress: Callable[[str], Progress] = lambda what: silent,
) -> Imported:
    """Store images as they are prepared, unless they are there, and return what is stored then.

    Args:
        plan: What is to be imported.
        store: Where it goes; nothing else is in it.
        place: The same, to be read.
        room: Folder on this machine in which it is made; removed afterwards, and kept when the attempt is broken off.
        progress: Gives what is told how far a part of the work is.

    Raises:
        InputError: The images can't be read, the store can't be written or holds something else.
    """
    address, source = place.where().rstrip("/"), (plan.config.path or "").rstrip("/")
    if plan.place is not None and f"{address}/".startswith(f"{source}/") and address != source:
        raise InputError(
            f"'{shown(address)}' lies in the source, '{shown(source)}', where it would be taken for a part of it. "
            "Choose another destination."
        )
    held = {entry.name for entry in place.entries()}
    # Arrays alone are what an attempt has stored that was broken off.
    if (SUMMARY in held or held - FILES - {BEGUN}) and importing.is_there(place, plan, plan.source()):
        shutil.rmtree(room, ignore_errors=True)
        return importing.imported(place, made=False)
    made = importing.import_images(plan, room, progress("import"))
    _store(room, store, progress("store"))
    shutil.rmtree(room)
    return dataclasses.replace(made, made=True)


def _store(room: Path, store: ArtifactStore, progress: Progress) -> None:
    summary = (room / SUMMARY).read_bytes()
    there = {stored.key: stored.size for stored in store.listing()}
    mark = json.dumps({"of": digest(summary.decode("utf-8"), length=64)}).encode()
    if store.read(BEGUN) != mark:
        there = {}
        store.write(BEGUN, mark)
    sizes = {name: (room / name).stat().st_size for name in sorted(FILES - {SUMMARY})}
    total, done = max(1, -(-sum(sizes.values()) // _MEGABYTE)), 0

    def heard(size: int) -> None:
        nonlocal done
        done += size
        progress(min(-(-done // _MEGABYTE), total), total, f"MB stored, {amount(done)}")

    heard(sum(size for name, size in sizes.items() if there.get(name) == size))
    for name, size in sizes.items():
        if there.get(name) != size:
            store.write_file(name, room / name, heard)
    if store.create(SUMMARY, summary) != summary:
        raise InputError(
            f"Somebody else has stored another data set at '{store.place(SUMMARY)}' meanwhile. Choose another "
            "destination."
        )
    store.delete([BEGUN])
