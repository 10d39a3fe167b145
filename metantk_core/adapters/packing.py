"""Small files written together: an artifact store that charges for requests enters, one that needs few leaves.

A search keeps one small file a candidate, which costs a bucket one request each. Files that may be lost with the
process (``durable=False``) are held back here, for half a minute at most, and written together: a pack. A pack never
changes, lies in the folder of its files, and holds them as they were written. Other processes find it under any number
of shards, for its name means nothing. Where many packs lie, somebody writes one more, which holds what they hold and
names them: whoever comes later reads that one in their place.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from metantk_core.files import write_atomically
from metantk_core.ports import ArtifactStore, DamageError, Leftovers, Stored, admit_key

SECONDS = 30.0
"""Work that a killed process can lose at most."""
PACK = ".pack"
"""Beginning of the names of packs."""
_MERGED = ".pack-all"
_MOST_PACKS = 16  # read one by one
_LARGEST_PACK = 8 * 2**20  # bytes held back

_LOG = logging.getLogger(__name__)


class PackingStore:
    """An ``ArtifactStore`` in front of another one.

    What one process holds back others don't see; what others pack is seen as it was when a folder was first looked at.
    Leave it as a context manager, or call :meth:`flush`, to have everything written.

    Args:
        behind: Where packs and all other files are kept.
        below: Beginning of the keys that may be packed; all others go straight to where they are kept.
        seconds: How long a file is held back at most.
    """

    def __init__(self, behind: ArtifactStore, below: str, seconds: float = SECONDS) -> None:
        self._behind = behind
        self._below = below
        self._seconds = seconds
        self._lock = threading.RLock()
        self._held: dict[str, dict[str, bytes]] = {}  # folder → name → content
        self._size = 0
        self._seen: dict[str, _Folder] = {}
        self._written: set[str] = set()  # folders that packs of this process lie in
        self._timer: threading.Timer | None = None
        self._trouble: Exception | None = None

    def read(self, key: str) -> bytes | None:
        """Return what is stored under a key, or none."""
        folder, name = self._split(key)
        if not folder:
            return self._behind.read(key)
        with self._lock:
            held = self._held.get(folder, {}).get(name)
            there = self._look(folder)
        if held is not None or name in there.packed:
            return there.packed[name] if held is None else held
        # Most of the thousands of files that are asked for are not there at all: no request for each of them.
        return self._behind.read(key) if name in there.plain else None

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Store bytes under a key: at once, or with others within half a minute if they may be lost.

        Raises:
            InputError: They can't be written, or what was held back before could not be.
        """
        folder, name = self._split(key)
        with self._lock:
            if self._trouble is not None:
                trouble, self._trouble = self._trouble, None
                raise trouble
            if durable or not folder:
                self._behind.write(key, data, durable=durable)
                if folder in self._seen:
                    self._seen[folder].plain.add(name)
                    self._seen[folder].packed.pop(name, None)
                self._held.get(folder, {}).pop(name, None)
                return
            self._held.setdefault(folder, {})[name] = data
            self._size += len(data)
            if self._size > _LARGEST_PACK:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(self._seconds, self._flush_later)
                self._timer.daemon = True
                self._timer.start()

    def create(self, key: str, data: bytes) -> bytes:
        """Store bytes under a key, at once, unless something is there, and return what is there then."""
        there = self.read(key)
        return self._behind.create(key, data) if there is None else there

    def read_into(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> bool:
        """Put what is stored under a key into a file, and return whether there was anything."""
        if not self._split(key)[0]:
            return self._behind.read_into(key, path, heard)
        data = self.read(key)
        if data is not None:
            write_atomically(path, data)
        return data is not None

    def write_file(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> None:
        """Store a file under a key, at once."""
        if self._split(key)[0]:
            self.write(key, path.read_bytes())
        else:
            self._behind.write_file(key, path, heard)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove what is stored under some keys, but for what is in a pack with others: packs go as a whole."""
        with self._lock:
            gone = list(keys)
            for folder, name in map(self._split, gone):
                self._held.get(folder, {}).pop(name, None)
                if folder in self._seen:
                    self._seen[folder].plain.discard(name)
            self._behind.delete(gone)

    def listing(self, prefix: str = "") -> Iterator[Stored]:
        """Give what is stored where packs are kept: packs, and files by themselves."""
        return self._behind.listing(prefix)

    def clear_unfinished(self, seconds: float, *, really: bool = True) -> Leftovers:
        """Remove what killed writers left where packs are kept."""
        return self._behind.clear_unfinished(seconds, really=really)

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        return self._behind.exists(key) if not self._split(key)[0] else self.read(key) is not None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with a prefix, sorted."""
        top = prefix[: prefix.rfind("/") + 1]
        with self._lock:
            found = {f"{folder}/{name}" for folder, files in self._held.items() for name in files}
            packs = set()
            for key in self._behind.keys(top):
                folder, _, name = key.rpartition("/")
                if name.startswith(PACK):
                    packs.add(folder)
                else:
                    found.add(key)
            for folder in packs:
                found |= {f"{folder}/{name}" for name in self._look(folder).packed}
        yield from sorted(key for key in found if key.startswith(prefix))

    def place(self, key: str) -> str:
        """Return where the bytes of a key are, or would be if they were not in a pack."""
        return self._behind.place(key)

    def flush(self) -> None:
        """Write what is held back.

        Raises:
            InputError: It can't be written; it is held back still.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for folder in list(self._held):
                files = self._held[folder]
                if files:
                    self._behind.write(f"{folder}/{_name(PACK)}", _packed(files))
                    self._written.add(folder)
                if folder in self._seen:
                    self._seen[folder].packed |= files
                del self._held[folder]
            self._size = 0

    def __enter__(self) -> "PackingStore":
        """Give this store."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write what is held back, whatever ended the work; after work that is done, see that there are few packs."""
        self.flush()
        if error is None:
            for folder in self._written:
                packs, merged = self._listed(folder)[1:]
                # A pack of packs may be large: how many it stands for is a part of its name.
                if len(packs) - max((int(name.split("-")[3]) for name in merged), default=0) > _MOST_PACKS:
                    self._packed_in(folder)

    def _split(self, key: str) -> tuple[str, str]:
        """Return folder and name of a key that may be packed; no folder for one that may not."""
        admit_key(key)
        folder, _, name = key.rpartition("/")
        return (folder, name) if key.startswith(self._below) and not name.startswith(PACK) else ("", key)

    def _flush_later(self) -> None:
        try:
            self.flush()
        except Exception as error:  # told by the next write, in the thread that can do something about it
            with self._lock:
                self._trouble = error

    def _look(self, folder: str) -> "_Folder":
        """Return what was in a folder when it was first looked at, and what this process has added."""
        if folder not in self._seen:
            self._seen[folder] = self._packed_in(folder)
        return self._seen[folder]

    def _packed_in(self, folder: str) -> "_Folder":
        """Return what is in a folder now; where that took many requests, leave a pack for those who come later."""
        plain, single, merged = self._listed(folder)
        there, known = _Folder(plain), set[str]()
        if merged:  # the last one holds the most
            pack = self._pack(f"{folder}/{max(merged)}")
            there.packed |= pack.files
            known = single.intersection(pack.of)
        for name in sorted(single - known):
            there.packed |= self._pack(f"{folder}/{name}").files
        if len(single - known) > _MOST_PACKS:
            name = _name(_MERGED, len(single))
            self._behind.write(f"{folder}/{name}", _packed(there.packed, sorted(single)))
        return there

    def _listed(self, folder: str) -> tuple[set[str], set[str], set[str]]:
        """Return the names of a folder's plain files, of its packs, and of its packs of packs."""
        names = {key.removeprefix(f"{folder}/") for key in self._behind.keys(f"{folder}/")}
        packs = {name for name in names if name.startswith(PACK)}
        merged = {name for name in packs if name.startswith(_MERGED)}
        return names - packs, packs - merged, merged

    def _pack(self, key: str) -> "_Pack":
        try:
            found = _unpacked(self._behind.read(key) or b"")
        except DamageError:
            found = None
        if found is None:
            _LOG.warning("%s is damaged; what it held is computed again.", self._behind.place(key))
            # Into another pack: one that holds nothing is warned of no more.
            self._behind.write(key, _packed({}), durable=False)
        return found or _Pack({}, ())


@dataclass(frozen=True)
class _Pack:
    """Files by name, and the names of the packs that they are from, if they are from others."""

    files: dict[str, bytes]
    of: Sequence[str]


class _Folder:
    """What is in a folder: the names of its files, and the contents of those in packs."""

    def __init__(self, plain: set[str]) -> None:
        self.plain = plain
        self.packed: dict[str, bytes] = {}


def _name(start: str, packs: int = 1) -> str:
    """Return the name of a new pack; names are in the order of time: what was written later under one key counts."""
    return f"{start}-{time.time_ns():020}-{packs}-{uuid.uuid4().hex[:8]}"


def packed_files(data: bytes) -> dict[str, bytes] | None:
    """Return the files in a pack by their names; none if it is not whole."""
    pack = _unpacked(data)
    return None if pack is None else pack.files


def _packed(files: dict[str, bytes], of: Sequence[str] = ()) -> bytes:
    """Return files as one: a line of JSON with names and lengths, then the contents."""
    head = {"files": {name: len(data) for name, data in files.items()}, **({"of": list(of)} if of else {})}
    return json.dumps(head).encode() + b"\n" + b"".join(files.values())


def _unpacked(data: bytes) -> _Pack | None:
    """Return the files of a pack; none if it is not whole."""
    line, _, body = data.partition(b"\n")
    try:
        head = json.loads(line)
        sizes = {str(name): int(size) for name, size in head["files"].items()}
        of = [str(name) for name in head.get("of", ())]
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    if min(sizes.values(), default=0) < 0 or sum(sizes.values()) != len(body):
        return None
    files, start = {}, 0
    for name, size in sizes.items():
        files[name] = body[start : start + size]
        start += size
    return _Pack(files, of)
