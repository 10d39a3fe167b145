"""Steps that score: candidates and images enter, score records leave."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from metantk_core.architectures import OwnModule, parse_architecture
from metantk_core.candidates import shard, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError, quoted
from metantk_core.scores import SCORES, Scorer, ScoreRecord, score_candidate
from metantk_core.search import Job, SearchState
from metantk_core.search.config import MOST_SHARDS
from metantk_core.workflow.data import score_source
from metantk_core.workflow.limits import num_rounds
from metantk_core.workflow.records import Records, lacking
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.score_store import ScoreStore

Scored = Callable[[Job, Sequence[ScoreRecord]], object]
"""Takes what was computed of a candidate: the job, and the records of the draws that were missing."""


def untimed(job: Job, records: Sequence[ScoreRecord]) -> None:
    """Take no note."""


def score(config: RunConfig, genotype: str, dataset: ImageDataset, *, device: str = "cpu") -> tuple[ScoreRecord, ...]:
    """Return the scores of one architecture, one record a score.

    Args:
        config: Says how candidates are scored.
        genotype: The architecture in the text form of the configured search space, or the name of a network.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: The text is no genotype of the space.
    """
    architecture = parse_architecture(config.search.space, genotype)
    assert not isinstance(architecture, OwnModule)
    return score_candidate(
        architecture,
        score_source(config, dataset),
        config.scoring,
        config.seed,
        training_network=config.training.network,
        device=device,
    )


def found_a_value(records: Sequence[ScoreRecord]) -> bool:
    """Return whether any score that depends on weights has a value in all its draws, or none was asked for."""
    drawn = [record for record in records if SCORES[record.score].cost != "none"]
    return not drawn or any(all(draw.value is not None for draw in record.draws) for record in drawn)


def score_shard(
    config: RunConfig,
    state: SearchState,
    index: int,
    shards: int,
    dataset: ImageDataset,
    earlier: Records,
    ports: Ports,
    on_scored: Scored = untimed,
) -> tuple[ScoreRecord, ...]:
    """Score every job of one part of the planned round and return the records, candidate by candidate.

    Only what neither earlier rounds nor the store have is computed: the missing draws of the missing scores. They are
    stored as soon as a candidate is scored.

    Args:
        config: The run.
        state: The state that planned the round.
        index: Number of the part, from 0.
        shards: Number of parts.
        dataset: The images.
        earlier: The records of earlier rounds.
        ports: Ports of the step.
        on_scored: Told what was computed of each candidate, after it was stored; not what was found.
    """
    kind = ports.device_kind
    memory = ScoreStore(config, dataset, ports.store, kind)
    scorer = cache(lambda: _scorer(config, dataset, ports.device))  # a repeated step often needs none
    mine = shard(state.plan, index, shards)
    progress = ports.progress_for(_part_name(config, state, index, shards))
    records: list[ScoreRecord] = []
    progress(0, max(1, len(mine)))
    for done, job in enumerate(mine, start=1):
        found = memory.completed(job, _usable(earlier, job, kind))
        fresh: list[ScoreRecord] = []
        for draws, names in _missing(config, job, found):
            more = scorer().score(job.genotype, draws, job.stream, job.weights, names)
            memory.write(job, draws, more)
            fresh += more
            found |= {new.score: found[new.score].followed_by(new) if new.score in found else new for new in more}
        if fresh:
            on_scored(job, fresh)
        records += [found[name].first(job.draws) for name in config.scoring.scores]
        progress(done, len(mine))
    if not mine:
        progress(1, 1)
    return tuple(records)


def shard_names(config: RunConfig, state: SearchState, shards: int = 0, most: int = MOST_SHARDS) -> list[str]:
    """Return the names of the shards of the planned round, such as ``1/8``: no more than there is to score.

    After the end of a search there is one still, which has nothing to do: a loop over nothing ends some pipelines.

    Args:
        config: The run.
        state: The state that planned the round.
        shards: How many are asked for; 0 for as many as the configuration says.
        most: The most, whatever is asked for.

    Raises:
        InputError: A number is no number of shards.
    """
    if not 0 <= shards <= MOST_SHARDS or not 1 <= most <= MOST_SHARDS:
        raise InputError(
            f"Expected shards from 1 to {MOST_SHARDS}, or 0 for as many as search.shards says, and most_shards from 1 "
            f"to {MOST_SHARDS}, got {shards} and {most}; give other ones."
        )
    total = max(1, min(shards or config.search.shards, most, len(state.plan)))
    return [f"{number}/{total}" for number in range(1, total + 1)]


def shard_number(name: str) -> tuple[int, int]:
    """Return the number of a shard, from 1, and how many there are.

    Raises:
        InputError: It is no name of a shard.
    """
    number, slash, total = name.partition("/")
    if not slash or not number.isdecimal() or not total.isdecimal() or not 1 <= int(number) <= int(total):
        raise InputError(f"Expected a shard such as 1/8, the first of eight, got {quoted(name)}.")
    return int(number), int(total)


def _scorer(config: RunConfig, dataset: ImageDataset, device: str) -> Scorer:
    return Scorer(
        space_named(config.search.space).supernet(),
        score_source(config, dataset),
        config.scoring,
        config.seed,
        training_network=config.training.network,
        device=device,
    )


def _usable(earlier: Records, job: Job, kind: str) -> dict[str, ScoreRecord]:
    """Return the records of a job that this kind of device can add draws to, or that lack none."""
    return {
        name: record
        for name, record in earlier.found(job).items()
        if record.device in ("", kind) or not lacking(job, name, record)
    }


def _missing(config: RunConfig, job: Job, found: Mapping[str, ScoreRecord]) -> list[tuple[range, list[str]]]:
    """Return the scores of a job that lack draws, in groups that lack the same ones."""
    counted: list[str] = []
    groups: dict[range, list[str]] = {}
    for name in config.scoring.scores:
        draws = lacking(job, name, found.get(name))
        if draws:
            (counted if SCORES[name].cost == "none" else groups.setdefault(draws, [])).append(name)
    if not groups:
        return [(range(0), counted)] if counted else []
    first, *others = groups.items()
    return [(first[0], first[1] + counted), *others]


def _part_name(config: RunConfig, state: SearchState, index: int, shards: int) -> str:
    """Return the name of a step for people."""
    rounds = num_rounds(config)
    part = f"score {index + 1} of {shards}" if shards > 1 else "score"
    return part if rounds == 1 else f"round {state.next_round} of {rounds}, {part}"
