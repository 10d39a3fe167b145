"""A search by several processes at once: each gets its share of every round, all end with the same state and records.

They meet in the store: who has scored a part of a round puts it there, the first one of a part counts, and everybody
decides alike by all parts what the next round scores. Nobody waits for a process that never came or has died: parts
that stay away are scored by the others.
"""

import time
from collections.abc import Callable, Sequence

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search import SearchState
from metantk_core.seeding import digest
from metantk_core.workflow.identity import score_key
from metantk_core.workflow.records import Records, read_records, write_records
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.scoring import score_shard
from metantk_core.workflow.sealed import FORMAT, read_sealed, sealed, unsealed, write_sealed
from metantk_core.workflow.searching import after_round
from metantk_core.workflow.tracked import track_round

LEAST_PATIENCE = 60.0
"""Seconds without news from others after which their parts are scored; more if one's own part took longer."""


def search_together(
    config: RunConfig,
    state: SearchState,
    number: int,
    total: int,
    dataset: ImageDataset,
    ports: Ports,
    *,
    patience: float = LEAST_PATIENCE,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[SearchState, Records]:
    """Search from a state to the end beside processes with other numbers, and return the last state and all records.

    Args:
        config: The run.
        state: The state before the first round, the same for all.
        number: Number of this process, from 1.
        total: How many there are.
        dataset: The images.
        ports: Ports of the step; the store is the one that all of them use.
        patience: Least seconds without news after which the parts of others are scored.
        sleep: Waits; seconds.
    """
    records = Records()
    while not state.finished:
        parts = _Parts(config, state, min(total, len(state.plan)), dataset, records, ports)
        records = records.joined(parts.all(number, patience, sleep))
        state = after_round(config, state, records)
    return state, records


class _Parts:
    """The parts of one round, in the store."""

    def __init__(
        self, config: RunConfig, state: SearchState, total: int, dataset: ImageDataset, earlier: Records, ports: Ports
    ) -> None:
        self._config, self._state, self._total = config, state, total
        self._dataset, self._earlier, self._ports = dataset, earlier, ports
        drawn = [name for name in config.scoring.scores if SCORES[name].cost != "none"]
        keys = [score_key(name, config, dataset, ports.device_kind) for name in drawn]
        self._place = f"{config.run_id}/rounds/{digest([state.to_json(), *keys, total])}/"

    def all(self, number: int, patience: float, sleep: Callable[[float], object]) -> list[ScoreRecord]:
        """Return the records of the round: of one's own part, if there is one, then of what others have scored."""
        found: dict[int, Sequence[ScoreRecord]] = {}
        # Who comes to help doesn't begin where all others do.
        order = sorted(range(self._total), key=lambda part: digest([number, part]))
        if number <= self._total:
            started = time.monotonic()
            found[number - 1] = self._read(number - 1) or self._score(number - 1)
            patience = max(patience, 2 * (time.monotonic() - started))
        waited = 0.0
        while len(found) < self._total:
            there = self._there()
            news = {part: records for part in there - found.keys() if (records := self._read(part)) is not None}
            found |= news
            waited = 0.0 if news else waited
            if len(found) == self._total:
                break
            if waited >= patience:
                part = next(part for part in order if part not in found)
                found[part] = self._score(part)  # and on with the next one, unless others have news now
            else:
                pause = min(5.0, max(0.05, patience / 20))
                sleep(pause)
                waited += pause
        return [record for part in range(self._total) for record in found[part]]

    def _score(self, part: int) -> Sequence[ScoreRecord]:
        """Score a part and return its records as the first one left them who scored it."""
        records = score_shard(self._config, self._state, part, self._total, self._dataset, self._earlier, self._ports)
        key, data = self._key(part), write_records(records).encode()
        first = unsealed(key, self._ports.store.create(key, sealed(key, data)))
        if first is None:  # damaged
            write_sealed(self._ports.store, key, data)
        return records if first is None else self._records(first)

    def _read(self, part: int) -> Sequence[ScoreRecord] | None:
        data = read_sealed(self._ports.store, self._key(part))
        return None if data is None else self._records(data)

    def _there(self) -> set[int]:
        keys = {self._key(part): part for part in range(self._total)}
        return {keys[key] for key in self._ports.store.keys(self._place) if key in keys}

    def _key(self, part: int) -> str:
        return f"{self._place}{part + 1}-{FORMAT}.sealed"

    def _records(self, data: bytes) -> Sequence[ScoreRecord]:
        return read_records(data.decode())


def join_shards(config: RunConfig, states: Sequence[SearchState], ports: Ports) -> SearchState:
    """Return the state that all processes of a search ended with, and log what its rounds found.

    Args:
        config: The run.
        states: The states that they ended with.
        ports: Ports of the step.

    Raises:
        InputError: They did not end with the same one.
    """
    if not states or any(state.to_json() != states[0].to_json() for state in states):
        raise InputError(
            "Expected all shards of the search to end with the same state, but they did not; give all of them the same "
            "store, image and kind of device, and start the pipeline again."
        )
    for closed in states[0].rounds:
        track_round(config, ports, closed)
    return states[0]
