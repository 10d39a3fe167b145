"""Steps of the search: configuration, images and the state of the search enter, records and a leaderboard leave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import torch

from metantk_core import __version__
from metantk_core.candidates import Costs, Genotype, parse_genotype, shard, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.networks import LatencyTable, cost_table, measure_latency
from metantk_core.ranking import Leaderboard, rank, render_markdown
from metantk_core.registry import ArtifactStore, MetricPoint
from metantk_core.scores import SCORES, Scorer, ScoreRecord, score_candidate, score_model
from metantk_core.search import Job, SearchHistory, SearchRound, SearchState, Setting, advance, most_rounds, start
from metantk_core.search.constraints import admits
from metantk_core.seeding import digest
from metantk_core.workflow.data import score_source
from metantk_core.workflow.ports import Ports


def score(config: RunConfig, genotype: str, dataset: ImageDataset, *, device: str = "cpu") -> tuple[ScoreRecord, ...]:
    """Return the scores of one architecture, one record a score.

    Args:
        config: Says how candidates are scored.
        genotype: The architecture in the text form of the configured search space.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: The text is no genotype of the space.
    """
    return score_candidate(
        parse_genotype(config.search.space, genotype),
        score_source(config, dataset),
        config.scoring,
        config.seed,
        training_network=config.training.network,
        device=device,
    )


def score_own_model(
    config: RunConfig, address: str, dataset: ImageDataset, *, device: str = "cpu"
) -> tuple[ScoreRecord, ...]:
    """Return the scores of a network that somebody wrote, one record a score.

    Args:
        config: Says how networks are scored.
        address: ``package.module:factory`` of what builds the network.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: The address leads to no factory, or what it makes can't be scored.
    """
    return score_model(address, score_source(config, dataset), config.scoring, config.seed, device=device)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        leaderboard: The candidates in order, with the winner.
        history: What happened in which round.
    """

    leaderboard: Leaderboard
    history: SearchHistory

    def write(self, *, leaderboard: Path, history: Path, table: Path) -> None:
        """Write the leaderboard and the history as JSON, and the leaderboard for people as Markdown."""
        leaderboard.write_text(self.leaderboard.to_json(), encoding="utf-8")
        history.write_text(self.history.to_json(), encoding="utf-8")
        table.write_text(render_markdown(self.leaderboard), encoding="utf-8")


def search(config: RunConfig, dataset: ImageDataset, ports: Ports) -> SearchResult:
    """Search from start to end in this process."""
    state = start_search(config, ports)
    while not state.finished:
        score_shard(config, state, 0, 1, dataset, ports)
        state = close_round(config, state, dataset, ports)
    return finish_search(config, state, dataset, ports)


def num_rounds(config: RunConfig) -> int:
    """Return the most rounds that the search of a run takes: so many has its pipeline."""
    return most_rounds(_setting(config))


def start_search(config: RunConfig, ports: Ports) -> SearchState:
    """Return the state before the first round and open the search's run in the tracker.

    Raises:
        InputError: The limits leave too few candidates.
    """
    limits = config.search.constraints
    if limits.max_latency is not None and ports.store.read(_latency_key(config)) is None:
        # Measured once a run: all steps, on whatever machine, then admit the same candidates.
        measured = measure_latency(
            config.search.space,
            config.training.network,
            image_shape=config.data.image_shape,
            ways=config.training.episode.ways,
            device=ports.device,
        )
        ports.store.write(_latency_key(config), measured.to_json().encode())
    state = start(_limited_setting(config, ports))
    parameters = {
        "strategy": config.search.strategy,
        "space": config.search.space,
        "criterion": config.criterion.label,
        "rounds at most": num_rounds(config),
    }
    ports.tracker.log_parameters(_search_run(config, ports), parameters)
    return state


def score_shard(
    config: RunConfig, state: SearchState, index: int, shards: int, dataset: ImageDataset, ports: Ports
) -> tuple[ScoreRecord, ...]:
    """Score every job of one part of the planned round and return the records, candidate by candidate.

    Records are stored as soon as a candidate is scored; what is stored is not computed again, and a candidate with too
    few draws gets only the missing ones.

    Args:
        config: The run.
        state: The state that planned the round.
        index: Number of the part, from 0.
        shards: Number of parts.
        dataset: The images.
        ports: Ports of the step.

    Raises:
        InputError: A stored record is not readable.
    """
    stored = _Records(config, dataset, ports.store)
    mine = shard(state.plan, index, shards)
    progress = ports.progress_for(_part_name(config, state, index, shards))
    records: list[ScoreRecord] = []
    scorer: Scorer | None = None
    progress(0, max(1, len(mine)))
    for done, job in enumerate(mine, start=1):
        found = stored.read(job)
        missing = stored.missing(job, found)
        if missing:
            # Made for the first candidate that needs it: a repeated step often needs none.
            scorer = scorer or Scorer(
                space_named(config.search.space).supernet(),
                score_source(config, dataset),
                config.scoring,
                config.seed,
                training_network=config.training.network,
                device=ports.device,
            )
            more = scorer.score(parse_genotype(config.search.space, job.genotype), missing, job.stream, job.weights)
            found = _joined(found, more) if found else more
            stored.write(job, found)
        records += [record.first(job.draws) for record in found]
        progress(done, len(mine))
    if not mine:
        progress(1, 1)
    return tuple(records)


def close_round(config: RunConfig, state: SearchState, dataset: ImageDataset, ports: Ports) -> SearchState:
    """Return the state after the planned round, all of whose parts have been scored, and log what it found.

    Raises:
        InputError: Records of some candidates are missing, or nothing that the search could go on with was scored.
    """
    if state.finished:
        return state
    # Strategies ask for the same records more than once.
    found = cache(_Records(config, dataset, ports.store).of)
    following = advance(_limited_setting(config, ports), state, found)
    ports.tracker.log_metrics(_search_run(config, ports), round_metrics(following.rounds[-1]))
    return following


def finish_search(config: RunConfig, state: SearchState, dataset: ImageDataset, ports: Ports) -> SearchResult:
    """Return the leaderboard and the history of a search that has ended; keep and log both.

    Raises:
        InputError: The search has not ended, or records are missing.
    """
    if not state.finished:
        raise InputError(
            f"Expected a finished search, but round {state.next_round} is still to be scored; run all rounds."
        )
    progress = ports.progress_for("rank")
    progress(0, 1)
    found = _Records(config, dataset, ports.store)
    records = [record for job in state.board for record in found.of(job)]
    leaderboard = rank(records, by=config.criterion, winner=state.history.winner)
    ports.store.write(f"{config.run_id}/leaderboard.json", leaderboard.to_json().encode())
    ports.store.write(f"{config.run_id}/leaderboard.md", render_markdown(leaderboard).encode())
    ports.store.write(f"{config.run_id}/search.json", state.history.to_json().encode())
    run = _search_run(config, ports)
    ports.tracker.log_table(run, round_columns(state.rounds), "rounds.json")
    if any(closed.removals for closed in state.rounds):
        ports.tracker.log_table(run, removal_columns(state.rounds), "prunings.json")
    ports.tracker.log_table(ports.run, leaderboard_columns(leaderboard), "leaderboard.json")
    ports.tracker.log_metrics(ports.run, ranking_metrics(leaderboard))
    ports.tracker.close_run(run, "finished")
    progress(1, 1)
    return SearchResult(leaderboard, state.history)


def write_records(records: Iterable[ScoreRecord]) -> str:
    """Return records as JSON lines."""
    return "".join(f"{record.to_json()}\n" for record in records)


def read_records(text: str) -> tuple[ScoreRecord, ...]:
    """Return the records of JSON lines, in their order.

    Raises:
        InputError: A line is not a whole record.
    """
    return tuple(ScoreRecord.from_json(line) for line in text.splitlines() if line.strip())


def leaderboard_columns(leaderboard: Leaderboard) -> dict[str, list[str | int | float | None]]:
    """Return the leaderboard as columns of equal length, one row a candidate, best first."""
    names = sorted({name for standing in leaderboard.standings for name, _ in standing.others})
    columns: dict[str, list[str | int | float | None]] = {
        "rank": [standing.rank for standing in leaderboard.standings],
        "genotype": [standing.genotype for standing in leaderboard.standings],
        leaderboard.label: [standing.mean for standing in leaderboard.standings],
        "standard error": [standing.standard_error for standing in leaderboard.standings],
        "draws": [standing.draws for standing in leaderboard.standings],
        "outcome": [
            f"{standing.outcome}{': ' if standing.reason else ''}{standing.reason}"
            for standing in leaderboard.standings
        ],
    }
    for name in names:
        columns[name] = [dict(standing.others).get(name) for standing in leaderboard.standings]
    return columns


def round_columns(rounds: Sequence[SearchRound]) -> dict[str, list[str | int | float | None]]:
    """Return the rounds of a search as columns of equal length, one row a round."""
    names = list(dict.fromkeys(name for closed in rounds for name, _ in closed.measures))
    columns: dict[str, list[str | int | float | None]] = {
        "round": [closed.number for closed in rounds],
        "title": [closed.title for closed in rounds],
        "scored": [closed.scored for closed in rounds],
        "draws": [closed.draws for closed in rounds],
        "failed": [closed.failed for closed in rounds],
    }
    for name in names:
        columns[name] = [dict(closed.measures).get(name) for closed in rounds]
    return columns


def removal_columns(rounds: Sequence[SearchRound]) -> dict[str, list[str | int | float | None]]:
    """Return all candidates of all pruning rounds as columns of equal length, one row a candidate."""
    rows = [(closed, removal) for closed in rounds for removal in closed.removals]
    names = list(dict.fromkeys(name for _, removal in rows for name, _ in removal.changes))
    columns: dict[str, list[str | int | float | None]] = {
        "round": [closed.number for closed, _ in rows],
        "cell": [removal.cell for _, removal in rows],
        "edge": [f"{removal.source}-{removal.target}" for _, removal in rows],
        "operation": [removal.operation for _, removal in rows],
        "removed": [str(removal.removed).lower() for _, removal in rows],
        "rank sum": [removal.total for _, removal in rows],
        "reason": [removal.reason for _, removal in rows],
    }
    for name in names:
        columns[f"change of {name}"] = [dict(removal.changes)[name] for _, removal in rows]
        columns[f"standard error of {name}"] = [dict(removal.standard_errors)[name] for _, removal in rows]
        columns[f"rank by {name}"] = [dict(removal.ranks)[name] for _, removal in rows]
    return columns


def round_metrics(closed: SearchRound) -> list[MetricPoint]:
    """Return a round as points of curves over rounds."""
    numbers = [("scored", closed.scored), ("draws", closed.draws), ("failed", closed.failed), *closed.measures]
    return [MetricPoint(f"search/{name}", float(value), closed.number) for name, value in numbers]


def ranking_metrics(leaderboard: Leaderboard) -> list[MetricPoint]:
    """Return what a ranking says about itself as metrics: its size, its failures and how far it can be trusted."""
    failed = sum(standing.mean is None for standing in leaderboard.standings)
    values: dict[str, float | None] = {
        "rank/candidates": len(leaderboard.standings),
        "rank/failed": failed,
        "rank/reliability": leaderboard.reliability.icc if leaderboard.reliability else None,
        "rank/leader stability": leaderboard.leader_stability,
        "rank/best": leaderboard.best.mean,
        "rank/place of the winner": leaderboard.best.rank,
    }
    values |= {f"rank/stability of the best {size}": share for size, share in leaderboard.top_stability}
    return [MetricPoint(name, float(value), 0) for name, value in values.items() if value is not None]


@dataclass(frozen=True)
class _Records:
    """The records of a run's candidates in the artifact store, under a digest of all that they depend on."""

    config: RunConfig
    dataset: ImageDataset
    store: ArtifactStore

    def read(self, job: Job) -> tuple[ScoreRecord, ...]:
        """Return what is stored about a job, which may have fewer or more draws; nothing if nothing is."""
        data = self.store.read(self._key(job))
        # A power failure may have cut a file that had not reached the disk, anywhere.
        if data is None or not data.endswith(b"\n") or b"\0" in data:
            return ()
        records = read_records(data.decode())
        return records if tuple(record.score for record in records) == self.config.scoring.scores else ()

    def of(self, job: Job) -> tuple[ScoreRecord, ...]:
        """Return the records of a job with exactly its draws.

        Raises:
            InputError: They are not all there.
        """
        found = self.read(job)
        missing = self.missing(job, found)
        if missing:
            raise InputError(
                f"Expected {job.draws} draws of {job.genotype}, but {len(missing)} are missing; score all shards of "
                "the round with one configuration."
            )
        return tuple(record.first(job.draws) for record in found)

    def missing(self, job: Job, found: Sequence[ScoreRecord]) -> range:
        """Return the draws of a job that are not among what was found."""
        drawn = any(SCORES[name].cost != "none" for name in self.config.scoring.scores)
        return range(max((len(record.draws) for record in found), default=0), job.draws if drawn else 1)

    def write(self, job: Job, records: Iterable[ScoreRecord]) -> None:
        """Store the records of a job, without waiting for the disk: all that a power failure costs is scoring again."""
        self.store.write(self._key(job), write_records(records).encode(), durable=False)

    def _key(self, job: Job) -> str:
        genotype = parse_genotype(self.config.search.space, job.genotype).key
        names = (job.stream, job.weights)
        apart = f"-{digest(names)}" if any(names) else ""
        return f"scores/{self._digest}/{genotype}{apart}.jsonl"

    @cached_property
    def _digest(self) -> str:
        return _score_digest(self.config, self.dataset)


def _setting(config: RunConfig) -> Setting:
    return Setting(config.search, config.criterion, config.scoring.num_inits, config.seed)


def _limited_setting(config: RunConfig, ports: Ports) -> Setting:
    """Return what stays the same during a search, with the limits on what may be found."""
    limits = config.search.constraints
    if not limits.limited:
        return _setting(config)
    table = cost_table(
        config.search.space,
        config.training.network,
        image_shape=config.data.image_shape,
        ways=config.training.episode.ways,
    )
    timed = limits.max_latency is not None
    if timed:
        measured = ports.store.read(_latency_key(config))
        if measured is None:
            raise InputError("Expected this run's latency table, but it is not there; start the search again.")
        table = table.with_latency(LatencyTable.from_json(measured.decode()))

    def allowed(genotype: Genotype) -> bool:
        least = Costs(
            params=int(table.cheapest(genotype, "params")),
            macs=int(table.cheapest(genotype, "macs")),
            latency=float(table.cheapest(genotype, "latency")) if timed else None,
        )
        return admits(least, limits)

    return replace(_setting(config), allowed=allowed)


def _latency_key(config: RunConfig) -> str:
    return f"{config.run_id}/latency.json"


def _joined(found: Sequence[ScoreRecord], more: Sequence[ScoreRecord]) -> tuple[ScoreRecord, ...]:
    """Return records with the later draws added; what is not drawn at random is there already."""
    return tuple(
        old if SCORES[old.score].cost == "none" else old.followed_by(new) for old, new in zip(found, more, strict=True)
    )


def _search_run(config: RunConfig, ports: Ports) -> str:
    described = f"Strategy `{config.search.strategy}` on `{config.search.space}`, by {config.criterion.label}."
    return ports.tracker.open_run(
        f"{ports.run}/search", "search", parent=ports.run, description=described, tags={"metantk.step": "search"}
    )


def _part_name(config: RunConfig, state: SearchState, index: int, shards: int) -> str:
    """Return the name of a step for people."""
    rounds = num_rounds(config)
    part = f"score {index + 1} of {shards}" if shards > 1 else "score"
    return part if rounds == 1 else f"round {state.next_round} of {rounds}, {part}"


def _score_digest(config: RunConfig, dataset: ImageDataset) -> str:
    """Everything that a record depends on besides its genotype, its draws and their stream."""
    scoring = config.scoring.model_dump(mode="json")
    del scoring["num_inits"]
    return digest(
        [
            scoring,
            config.training.network.model_dump(mode="json"),
            dataset.digest,
            config.seed,
            __version__,
            torch.__version__,
        ]
    )
