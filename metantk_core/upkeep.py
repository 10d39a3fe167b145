"""What lies in a store, whether it is whole, and what of it nobody needs: a store enters, tables leave.

Kinds are told by keys, whose layouts are described where they are written: ``workflow.score_store``,
``workflow.prepared``, ``workflow.unsent``. What none of these explains is somebody else's, and is neither read nor
removed.
"""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from metantk_core import datasets, networks, scores
from metantk_core.adapters.packing import PACK, packed_files
from metantk_core.errors import InputError
from metantk_core.ports import ArtifactStore, DamageError, Stored
from metantk_core.progress import Progress, silent
from metantk_core.workflow import prepared, sealed

RECORDS, PACKS, CHECKPOINTS = "score records", "packs of score records", "checkpoints"
RUNS, DATASETS, UNSENT, OLDER, OTHER = "results of runs", "prepared datasets", "unsent calls", "older layouts", "other"
KINDS = (RUNS, RECORDS, PACKS, CHECKPOINTS, DATASETS, UNSENT, OLDER, OTHER)
SECONDS_TO_ABANDON = 86_400.0
"""Age after which nobody is still writing what has no end."""

_RUN = re.compile(
    r"[a-z0-9][a-z0-9-]*-[0-9a-f]{8}/"
    r"(model\.json|config\.json|requirements\.txt|evaluation-[^/]+\.json|leaderboard\.(json|md)|search\.json|"
    r"report\.html|latency-[a-z]+-\d+\.sealed|"
    r"rounds/[0-9a-f]+/\d+-\d+\.sealed)"
)
_TOPS = ("scores", "training", "evaluation")
_UNVERSIONED = re.compile(r"scores/[0-9a-f]{12,64}/[^/]+\.jsonl|(training|evaluation)/[0-9a-f]{12,64}\.checkpoint")
_INDEX = f"scores/{sealed.FORMAT}/index/"
_SENT = ".sent"
_AT_ONCE = 8  # files that are read
_MEGABYTE = 10**6


@dataclass(frozen=True)
class Amount:
    """How much there is of a kind.

    Attributes:
        count: How many things: files, or what files are about.
        size: Bytes.
    """

    count: int = 0
    size: int = 0


@dataclass(frozen=True)
class Damage:
    """What is wrong with something in a store.

    Attributes:
        place: Where it is, for people.
        why: What is wrong, in a few words.
    """

    place: str
    why: str


@dataclass(frozen=True)
class Verified:
    """What was found when everything was read.

    Attributes:
        read: What was read.
        damaged: What is not what was written.
    """

    read: Amount
    damaged: tuple[Damage, ...]


def contents(store: ArtifactStore) -> dict[str, Amount]:
    """Return how much of each kind a store holds; of results, data sets and calls the things are counted, not files."""
    found = list(store.listing())
    keys = {stored.key for stored in found}
    sizes, things = Counter[str](), {kind: set[str]() for kind in KINDS}
    for stored in found:
        kind = kind_of(stored.key)
        sizes[kind] += stored.size
        if kind == UNSENT:
            if stored.key.endswith(".json") and f"{stored.key}{_SENT}" not in keys:
                things[kind].add(stored.key)
        elif kind == DATASETS:
            if _is_summary(stored.key):
                things[kind].add(stored.key)
        else:
            things[kind].add(stored.key.partition("/")[0] if kind == RUNS else stored.key)
    return {kind: Amount(len(things[kind]), sizes[kind]) for kind in KINDS}


def kind_of(key: str) -> str:
    """Return what a key leads to, one of ``KINDS``."""
    top, *below = key.split("/")
    if _UNVERSIONED.fullmatch(key):
        return OLDER
    layout = {prepared.TOP: prepared.LAYOUT, **dict.fromkeys(_TOPS, sealed.FORMAT)}.get(top)
    if layout is not None and len(below) > 1 and below[0].isdigit():
        if int(below[0]) != layout:
            return OLDER if int(below[0]) < layout else OTHER
        if top == "scores":
            return PACKS if below[-1].startswith(PACK) else RECORDS
        return DATASETS if top == prepared.TOP else CHECKPOINTS
    if top == "unsent" and below:
        return UNSENT
    return RUNS if _RUN.fullmatch(key) else OTHER


def verify(store: ArtifactStore, progress: Progress = silent) -> Verified:
    """Read everything in a store and compare it with its seals and checksums.

    Args:
        store: The store.
        progress: Told megabytes that were read.

    Raises:
        InputError: The store can't be read, or there is no space for a data set.
    """
    ours = [stored for stored in store.listing() if kind_of(stored.key) != OTHER]
    total = max(1, -(-sum(stored.size for stored in ours) // _MEGABYTE))
    count, size, damaged = 0, 0, list[Damage]()

    def heard(some: Sequence[Stored], found: Iterable[Damage]) -> None:
        nonlocal count, size
        damaged.extend(found)
        count += len(some)
        size += sum(stored.size for stored in some)
        progress(min(size // _MEGABYTE, total), total, f"MB read, {count} of {len(ours)} files")

    progress(0, total)
    small = [stored for stored in ours if kind_of(stored.key) != DATASETS]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for start in range(0, len(small), 8 * _AT_ONCE):
            some = small[start : start + 8 * _AT_ONCE]
            for stored, found in zip(some, threads.map(lambda stored: _check(store, stored.key), some), strict=True):
                heard([stored], found)
    for some, found in _check_datasets(store, [stored for stored in ours if kind_of(stored.key) == DATASETS]):
        heard(some, found)
    progress(total, total, f"{count} files")
    return Verified(Amount(count, size), tuple(damaged))


def prune(
    store: ArtifactStore, *, really: bool = True, seconds: float = SECONDS_TO_ABANDON, progress: Progress = silent
) -> dict[str, Amount]:
    """Remove what no run of this version can need, and return how much of what.

    That is records and checkpoints of older layouts; records of scores and spaces whose definition has changed since;
    records that nothing leads to; arrays of data sets that were never finished; and what killed writers left.

    Args:
        store: The store.
        really: Whether it is removed; otherwise it is only found.
        seconds: Age after which nobody is still writing what has no end.
        progress: Told how many files are removed.

    Raises:
        InputError: The store can't be read, or nothing be removed.
    """
    found = list(store.listing())
    removed = {
        "of older layouts": [stored for stored in found if kind_of(stored.key) == OLDER],
        "records of older definitions": _outdated(store, found),
        "unfinished datasets": list(_unfinished_datasets(store, found, seconds)),
    }
    total = sum(map(len, removed.values()))
    done = 0
    if really and total:
        progress(0, total)
        for some in removed.values():
            for start in range(0, len(some), 1000):
                page = some[start : start + 1000]
                store.delete([stored.key for stored in page])
                done += len(page)
                progress(done, total)
    left = store.clear_unfinished(seconds, really=really)
    return {
        **{what: Amount(len(some), sum(stored.size for stored in some)) for what, some in removed.items()},
        "unfinished uploads and files": Amount(left.count, left.size),
    }


def _is_summary(key: str) -> bool:
    return key.count("/") == 2 and key.endswith(".json")


def _check(store: ArtifactStore, key: str) -> list[Damage]:
    """Return what is wrong with one file that is small enough for memory."""
    try:
        data = store.read(key)
    except DamageError:
        return [Damage(store.place(key), "it is not what was written")]
    if data is None:  # removed just now
        return []
    kind, name = kind_of(key), key.rpartition("/")[2]
    checks: Mapping[str, Callable[[str, bytes], bool]] = {
        ".jsonl": _is_sealed,
        ".checkpoint": _is_sealed,
        f"-{sealed.FORMAT}.sealed": _is_sealed,
        ".json": _is_json,
    }
    if kind == OLDER:
        return []
    if kind == PACKS:
        return list(_check_pack(store, key, data))
    if kind == UNSENT and "/files/" in key:
        good, why = hashlib.sha256(data).hexdigest() == name, "it is not the file that it is named after"
    else:
        fitting = (check(key, data) for suffix, check in checks.items() if name.endswith(suffix))
        good, why = all(fitting), "it was changed after it was written"
    return [] if good else [Damage(store.place(key), why)]


def _check_pack(store: ArtifactStore, key: str, data: bytes) -> Iterator[Damage]:
    files = packed_files(data)
    if files is None:
        yield Damage(store.place(key), "it is no whole pack")
        return
    folder = key.rpartition("/")[0]
    for name, content in files.items():
        if not _is_sealed(f"{folder}/{name}", content):
            yield Damage(store.place(key), f"{name} in it was changed after it was written")


def _check_datasets(
    store: ArtifactStore, files: Sequence[Stored]
) -> Iterator[tuple[Sequence[Stored], Sequence[Damage]]]:
    """Give the files of each data set, with what is wrong with it."""
    by_key = {stored.key: stored for stored in files}
    arrays: dict[str, list[Stored]] = {}
    for stored in files:
        if not _is_summary(stored.key):
            arrays.setdefault(stored.key.rpartition("/")[0], []).append(stored)
    shelf = prepared.StoredDatasets(store)
    for identity, summary in _summaries(store, by_key):
        key = prepared.key_of(identity)
        if summary is None:
            yield [by_key[key]], [Damage(store.place(key), "it was changed after it was written")]
            continue
        content = prepared.contents_of(summary)
        some = [by_key[key], *arrays.pop(content, ())]
        if len(some) == 1 and any(stored.key.startswith(f"{content}/") for stored in files):
            yield some, []  # another summary leads to the same arrays
            continue
        yield some, _check_dataset(store, shelf, identity, content)
    for some in arrays.values():  # of a data set that is not finished
        yield some, []


def _check_dataset(
    store: ArtifactStore, shelf: prepared.StoredDatasets, identity: str, content: str
) -> Sequence[Damage]:
    with tempfile.TemporaryDirectory(prefix="metantk-verify-") as scratch:
        place = Path(scratch, "dataset")
        try:
            if not shelf.fetch(identity, place):
                return []  # removed just now
        except DamageError as error:
            return [Damage(store.place(content), str(error))]
        try:
            datasets.verify(place)
        except InputError as error:
            why = str(error).replace(f"{place}/", "").replace(str(place), "the dataset")
            return [Damage(store.place(content), why)]
    return []


def _summaries(store: ArtifactStore, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Give the identities of data sets and their summaries, none for a damaged one."""
    for key in keys:
        if _is_summary(key):
            try:
                found = store.read(key)
            except DamageError:
                found = b""
            if found is not None:
                yield key.rpartition("/")[2].removesuffix(".json"), sealed.unsealed(key, found)


def _outdated(store: ArtifactStore, found: Sequence[Stored]) -> list[Stored]:
    """Return the records that no score of this version reads, then the entries that lead to them."""
    portions: dict[str, list[Stored]] = {}
    for stored in found:
        if kind_of(stored.key) in (RECORDS, PACKS) and not stored.key.startswith(_INDEX):
            portions.setdefault(stored.key.split("/")[2], []).append(stored)
    # Listed after the records: an entry is written before the first record that it leads to.
    entries = list(store.listing(_INDEX))
    stale = [entry for entry in entries if not _is_readable(store, entry.key)]
    kept = {_portion(entry.key) for entry in entries if entry not in stale}
    records = [stored for portion, some in portions.items() if portion not in kept for stored in some]
    return [*records, *stale]


def _portion(key: str) -> str:
    return key.rpartition("-")[2]


def _is_readable(store: ArtifactStore, key: str) -> bool:
    """Return whether a score of this version may read what an entry leads to; one that says nothing may be."""
    try:
        about = json.loads(store.read(key) or b"{}")
        score, space = about["score"], about["space"]
        known, spaces = scores.SCORES, networks.REVISIONS
        old = score in known and about["revision"] < known[score].revision
        return not old and not (space in spaces and about["space revision"] < spaces[space])
    except (ValueError, KeyError, TypeError):
        return True


def _unfinished_datasets(store: ArtifactStore, found: Sequence[Stored], seconds: float) -> Iterator[Stored]:
    """Give the arrays that no summary leads to, if they have been there for long."""
    ours = [stored for stored in found if kind_of(stored.key) == DATASETS]
    summaries = [summary for _, summary in _summaries(store, [stored.key for stored in ours])]
    if None in summaries:
        return  # whose arrays these are is not known
    led_to = {prepared.contents_of(summary) for summary in summaries if summary is not None}
    arrays: dict[str, list[Stored]] = {}
    for stored in ours:
        folder = stored.key.rpartition("/")[0]
        if not _is_summary(stored.key) and folder not in led_to:
            arrays.setdefault(folder, []).append(stored)
    for some in arrays.values():
        if min(stored.seconds for stored in some) >= seconds:
            yield from some


def _is_sealed(key: str, data: bytes) -> bool:
    return sealed.unsealed(key, data) is not None


def _is_json(key: str, data: bytes) -> bool:
    del key
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
