"""Steps of the search: configuration, images and the state of the search enter, records and a leaderboard leave."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError
from metantk_core.ranking import Leaderboard, check_devices, rank, render_markdown
from metantk_core.search import Found, SearchHistory, SearchState, advance, start
from metantk_core.workflow.limits import latency_table, limited_setting
from metantk_core.workflow.records import Records
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.scoring import Scored, score_shard, untimed
from metantk_core.workflow.tracked import track_ranking, track_round, track_search


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


def search(config: RunConfig, dataset: ImageDataset, ports: Ports, on_scored: Scored = untimed) -> SearchResult:
    """Search from start to end in this process.

    Args:
        config: The run.
        dataset: Its images.
        ports: Ports of the step.
        on_scored: See ``score_shard``.
    """
    state, records = start_search(config, ports), Records()
    while not state.finished:
        records = records.joined(score_shard(config, state, 0, 1, dataset, records, ports, on_scored))
        state = close_round(config, state, records, ports)
    return finish_search(config, state, records, ports)


def start_search(config: RunConfig, ports: Ports) -> SearchState:
    """Return the state before the first round and open the search's run in the tracker.

    Raises:
        InputError: The limits leave too few candidates.
    """
    latency = latency_table(config, ports)
    state = replace(start(limited_setting(config, latency)), latency=latency)
    track_search(config, ports)
    return state


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
    following = after_round(config, state, records)
    if not state.finished:
        track_round(config, ports, following.rounds[-1])
    return following


def after_round(config: RunConfig, state: SearchState, records: Records) -> SearchState:
    """Return the state after the planned round, as ``close_round`` does, and tell nobody.

    Args:
        config: The run.
        state: The state that planned the round.
        records: Those of the round and of all earlier ones.

    Raises:
        InputError: As for ``close_round``.
    """
    if state.finished:
        return state
    found = _found(config, records)
    if not config.search.mix_devices:
        check_devices(record for job in (*state.board, *state.plan) for record in found(job))
    return advance(limited_setting(config, state.latency), state, found)


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
    winner = str(state.history.winner)
    leaderboard = rank(ranked, by=config.criterion, winner=winner, mix_devices=config.search.mix_devices)
    ports.store.write(f"{config.run_id}/leaderboard.json", leaderboard.to_json().encode())
    ports.store.write(f"{config.run_id}/leaderboard.md", render_markdown(leaderboard).encode())
    ports.store.write(f"{config.run_id}/search.json", state.history.to_json().encode())
    track_ranking(config, ports, state.rounds, leaderboard)
    progress(1, 1)
    return SearchResult(leaderboard, state.history)


def _found(config: RunConfig, records: Records) -> Found:
    """Return what answers a strategy, which asks for the same records more than once."""
    return cache(lambda job: records.of(job, config.scoring.scores))
