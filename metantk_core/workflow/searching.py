"""Steps of the search: configuration, images and the state of the search enter, records and a leaderboard leave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from metantk_core.candidates import Costs, Genotype, parse_genotype, shard, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.networks import LatencyTable, cost_table, measure_latency
from metantk_core.ports import MetricPoint
from metantk_core.ranking import Leaderboard, check_devices, rank, render_markdown
from metantk_core.scores import (
    SCORES,
    Scorer,
    ScoreRecord,
    score_candidate,
)
from metantk_core.search import (
    Found,
    Job,
    SearchHistory,
    SearchRound,
    SearchState,
    Setting,
    advance,
    most_rounds,
    start,
)
from metantk_core.search.constraints import admits
from metantk_core.workflow.data import score_source
from metantk_core.workflow.records import Records, lacking
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.score_store import ScoreStore
from metantk_core.workflow.sealed import FORMAT, read_sealed, write_sealed


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


def found_a_value(records: Sequence[ScoreRecord]) -> bool:
    """Return whether any score that depends on weights has a value in all its draws, or none was asked for."""
    drawn = [record for record in records if SCORES[record.score].cost != "none"]
    return not drawn or any(all(draw.value is not None for draw in record.draws) for record in drawn)


def check_limits(config: RunConfig) -> None:
    """Do nothing if some candidate of the space may be within the limits on parameters and multiply-accumulates.

    Raises:
        InputError: Even the cheapest parts of all candidates together are above a limit.
    """
    limits = config.search.constraints
    if limits.max_params is None and limits.max_macs is None:
        return
    table = cost_table(
        config.search.space,
        config.training.network,
        image_shape=config.data.image_shape,
        ways=config.training.episode.ways,
    )
    supernet = space_named(config.search.space).supernet()
    checks: tuple[tuple[Literal["params", "macs"], int | None], ...] = (
        ("params", limits.max_params),
        ("macs", limits.max_macs),
    )
    for cost, limit in checks:
        least = int(table.cheapest(supernet, cost))
        if limit is not None and least > limit:
            raise InputError(
                f"No candidate of {config.search.space} is within search.constraints.max_{cost} = {limit:,}: the least "
                f"is {least:,}; raise the limit, or lower training.network.channels."
            )


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
    state, records = start_search(config, ports), Records()
    while not state.finished:
        records = records.joined(score_shard(config, state, 0, 1, dataset, records, ports))
        state = close_round(config, state, records, ports)
    return finish_search(config, state, records, ports)


def num_rounds(config: RunConfig) -> int:
    """Return the most rounds that the search of a run takes: so many has its pipeline."""
    return most_rounds(_setting(config))


def start_search(config: RunConfig, ports: Ports) -> SearchState:
    """Return the state before the first round and open the search's run in the tracker.

    Raises:
        InputError: The limits leave too few candidates.
    """
    latency = _latency(config, ports) if config.search.constraints.max_latency is not None else None
    state = replace(start(_limited(config, latency)), latency=latency)
    parameters = {
        "strategy": config.search.strategy,
        "space": config.search.space,
        "criterion": config.criterion.label,
        "rounds at most": num_rounds(config),
    }
    ports.tracker.log_parameters(_search_run(config, ports), parameters)
    return state


def score_shard(
    config: RunConfig,
    state: SearchState,
    index: int,
    shards: int,
    dataset: ImageDataset,
    earlier: Records,
    ports: Ports,
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
        for draws, names in _missing(config, job, found):
            genotype = parse_genotype(config.search.space, job.genotype)
            more = scorer().score(genotype, draws, job.stream, job.weights, names)
            memory.write(job, draws, more)
            found |= {new.score: found[new.score].followed_by(new) if new.score in found else new for new in more}
        records += [found[name].first(job.draws) for name in config.scoring.scores]
        progress(done, len(mine))
    if not mine:
        progress(1, 1)
    return tuple(records)


def close_round(config: RunConfig, state: SearchState, records: Records, ports: Ports) -> SearchState:
    """Return the state after the planned round, all of whose parts have been scored, and log what it found.

    Args:
        config: The run.
        state: The state that planned the round.
        records: Those of the round and of all earlier ones.
        ports: Ports of the step.

    Raises:
        InputError: Records of some candidates are missing or from another kind of device, or nothing that the search
            could go on with was scored.
    """
    if state.finished:
        return state
    found = _found(config, records)
    if not config.search.mix_devices:
        check_devices(record for job in (*state.board, *state.plan) for record in found(job))
    following = advance(_limited(config, state.latency), state, found)
    ports.tracker.log_metrics(_search_run(config, ports), round_metrics(following.rounds[-1]))
    return following


def finish_search(config: RunConfig, state: SearchState, records: Records, ports: Ports) -> SearchResult:
    """Return the leaderboard and the history of a search that has ended; keep and log both.

    Args:
        config: The run.
        state: The state after the last round.
        records: Those of all rounds.
        ports: Ports of the step.

    Raises:
        InputError: The search has not ended, or records are missing.
    """
    if not state.finished:
        raise InputError(
            f"Expected a finished search, but round {state.next_round} is still to be scored; run all rounds."
        )
    progress = ports.progress_for("rank")
    progress(0, 1)
    found = _found(config, records)
    ranked = [record for job in state.board for record in found(job)]
    leaderboard = rank(ranked, by=config.criterion, winner=state.history.winner, mix_devices=config.search.mix_devices)
    ports.store.write(f"{config.run_id}/leaderboard.json", leaderboard.to_json().encode())
    ports.store.write(f"{config.run_id}/leaderboard.md", render_markdown(leaderboard).encode())
    ports.store.write(f"{config.run_id}/search.json", state.history.to_json().encode())
    run = _search_run(config, ports, leaderboard.devices)
    ports.tracker.log_table(run, round_columns(state.rounds), "rounds.json")
    if any(closed.removals for closed in state.rounds):
        ports.tracker.log_table(run, removal_columns(state.rounds), "prunings.json")
    ports.tracker.log_table(ports.run, leaderboard_columns(leaderboard), "leaderboard.json")
    ports.tracker.log_metrics(ports.run, ranking_metrics(leaderboard))
    ports.tracker.close_run(run, "finished")
    progress(1, 1)
    return SearchResult(leaderboard, state.history)


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


def _setting(config: RunConfig) -> Setting:
    return Setting(config.search, config.criterion, config.scoring.num_inits, config.seed)


def _limited(config: RunConfig, latency: LatencyTable | None) -> Setting:
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
    if limits.max_latency is not None:
        if latency is None:
            raise InputError("Expected a state with this search's latency table, but it has none; start it again.")
        table = table.with_latency(latency)

    def allowed(genotype: Genotype) -> bool:
        least = Costs(
            params=int(table.cheapest(genotype, "params")),
            macs=int(table.cheapest(genotype, "macs")),
            latency=None if latency is None else float(table.cheapest(genotype, "latency")),
        )
        return admits(least, limits)

    return replace(_setting(config), allowed=allowed)


def _latency(config: RunConfig, ports: Ports) -> LatencyTable:
    """Return the run's latency table: measured once a kind of device, so that a repeated search has one result."""
    key = f"{config.run_id}/latency-{ports.device_kind}-{FORMAT}.sealed"
    kept = read_sealed(ports.store, key)
    if kept is not None:
        return LatencyTable.from_json(kept.decode())
    measured = measure_latency(
        config.search.space,
        config.training.network,
        image_shape=config.data.image_shape,
        ways=config.training.episode.ways,
        device=ports.device,
    )
    write_sealed(ports.store, key, measured.to_json().encode())
    return measured


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


def _found(config: RunConfig, records: Records) -> Found:
    """Return what answers a strategy, which asks for the same records more than once."""
    return cache(lambda job: records.of(job, config.scoring.scores))


def _search_run(config: RunConfig, ports: Ports, devices: Sequence[str] = ()) -> str:
    described = f"Strategy `{config.search.strategy}` on `{config.search.space}`, by {config.criterion.label}."
    # Not the device of the step that asks, which may be one that computes nothing.
    scored_on = {"metantk.device": ", ".join(devices)} if devices else {}
    return ports.tracker.open_run(
        f"{ports.run}/search",
        "search",
        parent=ports.run,
        description=described,
        tags={"metantk.step": "search", **scored_on},
    )


def _part_name(config: RunConfig, state: SearchState, index: int, shards: int) -> str:
    """Return the name of a step for people."""
    rounds = num_rounds(config)
    part = f"score {index + 1} of {shards}" if shards > 1 else "score"
    return part if rounds == 1 else f"round {state.next_round} of {rounds}, {part}"
