"""What an enumeration of NAS-Bench-201 costs beside its kernels: nothing enters, a table of seconds leaves.

Run as ``python benchmarks/orchestration.py [--quick] [--json FILE] [--shards K]``. The search over all 15,625
candidates goes through the functions that the pipeline's steps call, with a store in a folder and MLflow on SQLite, but
candidates are scored by a stub that returns their records at once: all that is left is planning, records on disk,
closing the round, ranking, and MLflow. The budget is 2 % of what the kernels take at 0.5 s a candidate; it is compared
with the seconds of the processor in this process, because the kernels' 0.5 s are such too and a busy machine hardly
changes them, and wall time, in which waiting for the disk shows, stands beside them.

Beside it: what the scorer itself does for a candidate before and after its kernels.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import torch

from metantk_core import datasets, wiring
from metantk_core.architectures import Architecture
from metantk_core.candidates import parse_genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.ranking import Leaderboard, rank, render_markdown
from metantk_core.scores import SCORES, Score, Scorer, ScoreRecord, score_draw, scoring_episodes
from metantk_core.search import SearchState
from metantk_core.seeding import numpy_generator
from metantk_core.workflow import (
    Records,
    close_round,
    finish_search,
    read_records,
    score_shard,
    score_source,
    start_search,
    write_records,
)
from metantk_core.workflow.runs import Ports, open_run

SECONDS_A_CANDIDATE = 0.5
MOST_SHARE, MOST_SECONDS_TO_RANK = 0.02, 2.0
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
T = TypeVar("T")


class Stub(Scorer):
    """A scorer whose records are there at once, with random values."""

    def score(
        self,
        architecture: Architecture,
        repeats: range,
        stream: str = "",
        weights: str = "",
        names: Sequence[str] | None = None,
    ) -> tuple[ScoreRecord, ...]:
        """Return records as the scorer would, one a score that is asked for."""
        del stream, weights  # all candidates share random numbers here
        text, seed = str(architecture), self._seed
        values = numpy_generator(seed, text).lognormal(2, 1, max(1, len(repeats)))
        draws = tuple(Score(float(value)) for value in values)
        return tuple(
            ScoreRecord(architecture.space, text, name, draws[:1], seed, 0.0)
            if SCORES[name].cost == "none"
            else ScoreRecord(architecture.space, text, name, draws, seed, 0.5, device="cpu")
            for name in self._config.scores
            if names is None or name in names
        )


class Stopwatch:
    """Seconds of the processor and of the wall clock by what was done, in the order in which it was."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Add the time that passes inside."""
        begin, wall = process_time(), perf_counter()
        yield
        before = self.seconds.get(what, (0.0, 0.0))
        self.seconds[what] = before[0] + process_time() - begin, before[1] + perf_counter() - wall


def config_of(quick: bool) -> RunConfig:
    """Return the run: all cells, or some in quick mode."""
    search = (
        {"strategy": "sample", "num_candidates": 1000} if quick else {"strategy": "enumerate", "num_candidates": 15_625}
    )
    return RunConfig.from_values(
        {
            "name": "orchestration",
            "data": {"source": "glyphs", "image_size": 16},
            "search": {"space": "nasbench201", **search},
            "scoring": {"num_inits": 3, "image_size": 16, "network": {"channels": 16, "cells": 1}},
        },
        "the benchmark",
    )


def enumerate_cells(
    config: RunConfig, dataset: ImageDataset, folder: Path, shards: int
) -> dict[str, tuple[float, float]]:
    """Return the seconds (processor, wall) of each part of a search with the stub."""
    watch = Stopwatch()
    with watch("connect to MLflow and open the run"):
        tracker = wiring.tracker(f"sqlite:///{folder}/mlflow.db")
        run = open_run(config, tracker)
    registry = wiring.model_registry(f"sqlite:///{folder}/mlflow.db")
    ports = Ports(wiring.artifact_store(str(folder / "store")), tracker, registry, run)
    with watch("plan"):
        state = start_search(config, ports)
    texts = []
    with patch("metantk_core.workflow.scoring.Scorer", Stub):
        for part in range(shards):
            with watch("state between steps"):
                state = SearchState.from_json(state.to_json())
            with watch("shards: plan, write records"):
                written = score_shard(config, state, part, shards, dataset, Records(), ports)
            with watch("records between steps"):
                texts.append(write_records(written))
    with watch("records between steps"):
        found = Records().joined(record for text in texts for record in read_records(text))
    with watch("close the round"):
        state = close_round(config, state, found, ports)
    with watch("records between steps"):
        found = Records().joined(read_records(write_records(found)))
    with watch("state between steps"):
        state = SearchState.from_json(state.to_json())
    with watch("finish: rank, log"):
        result = finish_search(config, state, found, ports)
    processor, wall = (sum(times) for times in zip(*watch.seconds.values(), strict=True))
    parts = {**watch.seconds, "all": (processor, wall)}
    # Parts of the above, on their own; and a rerun of a finished search, which only reads.
    stub = Stub(space_named(config.search.space).supernet(), score_source(config, dataset), config.scoring, config.seed)
    draws = range(config.scoring.num_inits)
    records = [r for job in state.board for r in stub.score(job.genotype, draws)]
    again = Stopwatch()
    with again("rank"):
        board = rank(records, by=config.criterion, winner=str(state.history.winner))
    with again("leaderboard to and from JSON"):
        Leaderboard.from_json(board.to_json())
    with again("leaderboard as Markdown"):
        render_markdown(board)
    state = start_search(config, ports)
    with again("rerun of all shards"):
        for part in range(shards):
            score_shard(config, state, part, shards, dataset, Records(), ports)
    assert board == result.leaderboard
    return parts | {f"({what})": seconds for what, seconds in again.seconds.items()}


def scorer_parts(config: RunConfig, dataset: ImageDataset, candidates: int) -> dict[str, float]:
    """Return median seconds of what the scorer does for one candidate and draw, kernels included."""
    space, source = space_named("nasbench201"), score_source(config, dataset)
    scorer = Scorer(space.supernet(), source, config.scoring, config.seed)
    first = seconds_of(lambda: scorer.draw(space.supernet(), 0))
    rng, timed = np.random.default_rng(0), {part: list[float]() for part in ("text", "draw", "kernel", "whole")}
    for genotype in (parse_genotype("nasbench201", CELL), *(space.sample(rng) for _ in range(candidates))):
        begin = perf_counter()
        _ = parse_genotype("nasbench201", str(genotype)).key
        parsed = perf_counter()
        draw = scorer.draw(genotype, 0)
        drawn = perf_counter()
        score_draw(["metantk_cond", "ntk_cond"], draw)
        passed = perf_counter()
        scorer.score(genotype, range(1))
        steps = (parsed - begin, drawn - parsed, passed - drawn, perf_counter() - passed)
        for part, seconds in zip(timed, steps, strict=True):
            timed[part].append(seconds)
    median = {part: statistics.median(seconds[1:]) for part, seconds in timed.items()}  # the first one warms up
    return {
        "networks and episodes of a draw, once for all candidates": first,
        "episodes of a draw, when no other candidate shares them": seconds_of(
            lambda: scoring_episodes(source, config.scoring, 0, 1)
        ),
        "genotype from and to text, key": median["text"],
        "candidate's part of the network, images": median["draw"],
        "kernel and its scores": median["kernel"],
        "all scores of a candidate, one draw": median["whole"],
    }


def seconds_of(work: Callable[[], T]) -> float:
    """Return how long something takes."""
    begin = perf_counter()
    work()
    return perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 cells, under a minute")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = config_of(given.quick)
    number = config.search.num_candidates
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.prepare(config.data, Path(folder, "glyphs"))
        seconds = enumerate_cells(config, dataset, Path(folder), given.shards)
        parts = scorer_parts(config, dataset, 5 if given.quick else 20)
    kernels = number * SECONDS_A_CANDIDATE
    print(f"{number:,} candidates in {given.shards} shards; kernels at {SECONDS_A_CANDIDATE} s: {kernels:,.0f} s")
    print("| outside the kernels | seconds of the processor | share of the kernels | wall |\n|---|---|---|---|")
    for what, (processor, wall) in seconds.items():
        print(f"| {what} | {processor:.2f} | {processor / kernels:.2%} | {wall:.2f} |")
    met = seconds["all"][0] / kernels < MOST_SHARE and seconds["(rank)"][0] < MOST_SECONDS_TO_RANK
    print(f"under {MOST_SHARE:.0%} in all, and ranked in under {MOST_SECONDS_TO_RANK:g} s: {'yes' if met else 'NO'}")
    print("\n| scorer, NAS-Bench-201, C = 16, 1 cell a stage, 16 x 16 | ms |\n|---|---|")
    for what, spent in parts.items():
        print(f"| {what} | {1000 * spent:.2f} |")
    if given.json:
        figures = {"candidates": number, "shards": given.shards, "seconds": seconds, "scorer": parts}
        Path(given.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
