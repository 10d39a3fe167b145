"""Prepared data sets in the artifact store, each once for all runs and machines: identities enter, arrays leave.

The layout, whose number is a part of every key::

    prepared/1/<identity>.json      sealed: the summary of a data set, by what it was made from
    prepared/1/<content>/<array>    its arrays, by what is in them: equal images from two places are kept once

Arrays are written first and the summary last, on condition that there is none: of two who prepare at once one is first,
and both go on with that one.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from metantk_core.files import amount
from metantk_core.ports import ArtifactStore, DamageError
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest
from metantk_core.workflow.sealed import sealed, unsealed, write_sealed

TOP = "prepared"
LAYOUT = 1
SUMMARY = "dataset.json"
_MEGABYTE = 10**6

_LOG = logging.getLogger(__name__)


class StoredDatasets:
    """The ``Shelf`` in an artifact store.

    Args:
        store: The store.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._damaged: set[str] = set()

    def holds(self, identity: str) -> bool:
        """Return whether a data set is there."""
        return self._store.exists(key_of(identity))

    def take(self, identity: str, directory: Path, progress: Progress) -> bool:
        """Put the files of a data set into a new directory, and return whether it is there as a whole."""
        try:
            return self.fetch(identity, directory, progress)
        except DamageError as error:
            _LOG.warning("%s It is prepared again.", error)
            self.distrust(identity)
            shutil.rmtree(directory, ignore_errors=True)
            return False

    def fetch(self, identity: str, directory: Path, progress: Progress = silent) -> bool:
        """Put the files of a data set into a new directory, and return whether there is one.

        Whether it is whole is for those to see who know what belongs to it.

        Raises:
            DamageError: Something of it is not what was written.
        """
        key = key_of(identity)
        found = self._store.read(key)
        if found is None:
            return False
        summary = unsealed(key, found)
        if summary is None:
            raise DamageError(f"{self._store.place(key)} was changed after it was written.")
        directory.mkdir()
        (directory / SUMMARY).write_bytes(summary)
        there = list(self._store.listing(f"{contents_of(summary)}/"))
        heard = _telling(progress, sum(stored.size for stored in there), "from the store")
        for stored in there:
            self._store.read_into(stored.key, directory / stored.key.rpartition("/")[2], heard)
        return True

    def put(self, identity: str, directory: Path, progress: Progress) -> bool:
        """Add a data set, and return whether it is the one that is there now."""
        summary = (directory / SUMMARY).read_bytes()
        folder = contents_of(summary)
        there = {stored.key: stored.size for stored in self._store.listing(f"{folder}/")}
        arrays = sorted(path for path in directory.iterdir() if path.name != SUMMARY)
        anew = identity in self._damaged
        missing = [path for path in arrays if anew or there.get(f"{folder}/{path.name}") != path.stat().st_size]
        heard = _telling(progress, sum(path.stat().st_size for path in missing), "to the store")
        for path in missing:
            self._store.write_file(f"{folder}/{path.name}", path, heard)
        key = key_of(identity)
        if anew:
            write_sealed(self._store, key, summary)
            self._damaged.discard(identity)
            return True
        found = unsealed(key, self._store.create(key, sealed(key, summary)))
        if found is None:
            self.distrust(identity)
        return found is None or contents_of(found) == folder

    def distrust(self, identity: str) -> None:
        """Take note that what is there is damaged: what is put there next replaces it."""
        self._damaged.add(identity)


def contents_of(summary: bytes) -> str:
    """Return the folder, in the store, of the arrays that a summary describes."""
    values = json.loads(summary)
    return f"{TOP}/{LAYOUT}/{digest([values['digest'], values['arrays'], values['image_shape']], length=32)}"


def key_of(identity: str) -> str:
    """Return the key of the summary of a data set."""
    return f"{TOP}/{LAYOUT}/{identity}.json"


def _telling(progress: Progress, total: int, what: str) -> Callable[[int], None]:
    """Return what is told the bytes of each piece, and tells the progress in megabytes."""
    done = [0]
    of = max(1, -(-total // _MEGABYTE))

    def heard(size: int) -> None:
        done[0] += size
        progress(min(done[0] // _MEGABYTE, of), of, f"MB of prepared images {what}, {amount(done[0])}")

    return heard
