"""The memory of a search: jobs enter, the draws of their scores that were computed before leave; keyed by score.

The layout, whose number is a part of every key::

    scores/2/index/<score>/<first>-<stop>-<portion>    the portion holds these draws of the score, whose name it says
    scores/2/<portion>/<candidate>.jsonl               one record a score that was computed with others, sealed

``<score>`` is the digest of everything that a score depends on beside the candidate (``identity.score_key``),
``<portion>`` that of the scores and draws that were computed together. No file ever changes: another score, or more
draws, is another portion, so processes that write at the same time never take anything from each other. Scores that are
counted cost less than a file and are not kept.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.networks import REVISIONS
from metantk_core.ports import ArtifactStore
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search import Job
from metantk_core.seeding import digest
from metantk_core.workflow.identity import score_key
from metantk_core.workflow.records import lacking, read_records, write_records
from metantk_core.workflow.sealed import FORMAT, read_if_whole, unsealed, warn_of_damage, write_sealed

_ENTRY = re.compile(r"(\d{1,9})-(\d{1,9})-([0-9a-f]{16})")


class _Portion(NamedTuple):
    """Draws of some scores that were computed together."""

    first: int
    stop: int
    digest: str


class ScoreStore:
    """The draws that are kept of a run's scores.

    Args:
        config: The run.
        dataset: Its images.
        store: Where records are kept.
        device: Kind of the device that scores are computed on.
    """

    def __init__(self, config: RunConfig, dataset: ImageDataset, store: ArtifactStore, device: str) -> None:
        self._config, self._store, self._device = config, store, device
        names = [name for name in config.scoring.scores if SCORES[name].cost != "none"]
        self._keys = {name: score_key(name, config, dataset, device) for name in names}

    def completed(self, job: Job, found: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
        """Return records with the draws added that are kept, as far as the job lacks them.

        Args:
            job: What is to be scored.
            found: What is there of it.
        """
        complete = dict(found)
        wanted = {name: lacking(job, name, found.get(name)) for name in self._keys}
        portions = {
            portion
            for name, draws in wanted.items()
            for portion in self._portions[name]
            if draws and portion.first < draws.stop and portion.stop > draws.start
        }
        for portion in sorted(portions):
            for record in self._read(job, portion):
                name, first = record.score, portion.first
                if portion not in self._portions.get(name, ()):
                    continue  # a score of this name with other settings
                kept = complete.get(name)
                have = len(kept.draws) if kept else 0
                if first <= have < portion.stop and have < wanted[name].stop:
                    more = record.without_first(have - first)
                    complete[name] = kept.followed_by(more) if kept else more
        return complete

    def write(self, job: Job, draws: range, records: Iterable[ScoreRecord]) -> None:
        """Keep draws that were computed together, without waiting for the disk: a power failure costs scoring again.

        Args:
            job: What was scored.
            draws: Numbers of the draws.
            records: One a score, with these draws alone; left out are what is counted, and what a device had too
                little memory for, which is tried again where there may be more.
        """
        drawn = [record for record in records if record.score in self._keys and record.lasting]
        if not drawn:
            return
        keys = sorted(self._keys[record.score] for record in drawn)
        portion = _Portion(draws.start, draws.stop, digest([keys, draws.start, draws.stop]))
        for record in drawn:
            known = self._portions[record.score]
            if portion not in known:
                # Before the first file: one that no entry leads to would never be found.
                self._store.write(
                    f"{self._index(record.score)}{'-'.join(map(str, portion))}", self._about(record.score)
                )
                known.add(portion)
        write_sealed(self._store, self._key(job, portion), write_records(drawn).encode(), durable=False)

    def _read(self, job: Job, portion: _Portion) -> tuple[ScoreRecord, ...]:
        key = self._key(job, portion)
        found = read_if_whole(self._store, key)
        if found is None:
            return ()
        data = unsealed(key, found)
        try:
            records = None if data is None else read_records(data.decode())
        except (InputError, UnicodeDecodeError):
            records = None
        if records is not None and all(self._is_of(record, job, portion) for record in records):
            return records
        warn_of_damage(self._store, key)
        # What is computed again may be kept in another portion; nothing, under a good seal, is warned of no more.
        write_sealed(self._store, key, b"", durable=False)
        return ()

    def _is_of(self, record: ScoreRecord, job: Job, portion: _Portion) -> bool:
        """Return whether a record is what its file's name says; a sealed one that is not was written by mistake."""
        return (
            record.space == self._config.search.space
            and (record.genotype, record.stream, record.weights) == (str(job.genotype), job.stream, job.weights)
            and (record.seed, record.device) == (self._config.seed, self._device)
            and len(record.draws) == portion.stop - portion.first
        )

    @cached_property
    def _portions(self) -> dict[str, set[_Portion]]:
        """The portions that hold draws of each score, those of other processes as they were at the first look."""
        found: dict[str, set[_Portion]] = {}
        for name in self._keys:
            prefix = self._index(name)
            entries = (_ENTRY.fullmatch(key.removeprefix(prefix)) for key in self._store.keys(prefix))
            found[name] = {_Portion(int(entry[1]), int(entry[2]), entry[3]) for entry in entries if entry}
        return found

    def _about(self, name: str) -> bytes:
        """Return what the digest of a score does not tell: whether anybody still reads it (``metantk store prune``)."""
        space = self._config.search.space
        about = {"score": name, "revision": SCORES[name].revision, "space": space, "space revision": REVISIONS[space]}
        return json.dumps(about).encode()

    def _index(self, name: str) -> str:
        return f"scores/{FORMAT}/index/{self._keys[name]}/"

    def _key(self, job: Job, portion: _Portion) -> str:
        names = (job.stream, job.weights)
        apart = f"-{digest(names)}" if any(names) else ""
        return f"scores/{FORMAT}/{portion.digest}/{job.genotype.key}{apart}.jsonl"
