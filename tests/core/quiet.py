"""Ports that keep what is stored and tell nobody, and a small dataset: for tests of what a search keeps."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.config import RunConfig, load_config
from metantk_core.datasets import ImageDataset, LabelledImages
from metantk_core.recipes import RECIPES
from metantk_core.search import SearchState
from metantk_core.seeding import digest
from metantk_core.workflow import Ports, Records, SearchResult, close_round, finish_search, score_shard, start_search


class Unlogged:
    """A tracker, and a registry, of which nothing is asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: "run"


def quiet_ports(root: Path, device: str = "cpu") -> Ports:
    nobody = cast(Any, Unlogged())
    return Ports(FilesystemStore(root), nobody, nobody, "run", device=device)


def noise(seed: int = 0, channels: int = 1) -> ImageDataset:
    rng = np.random.default_rng(seed)

    def images(split: Any) -> LabelledImages:
        pixels = rng.integers(0, 256, (40, channels, 8, 8)).astype(np.uint8)
        names = tuple(f"{split} {number}" for number in range(5))
        return LabelledImages(pixels, np.repeat(np.arange(5), 8).astype(np.int64), names, split, "noise")

    return ImageDataset(
        images("train"),
        images("val"),
        images("test"),
        name="noise",
        mean=(0.5,) * channels,
        std=(0.29,) * channels,
        digest=digest([seed, channels]),
    )


def tiny(*overrides: str) -> RunConfig:
    """Return a search of a few tiny networks."""
    small = [
        "search.num_candidates=4",
        "search.race.first=2",
        "scoring.num_inits=3",
        "scoring.network={channels: 2, cells: 1}",
        "scoring.linear_regions.images=32",
        "scoring.image_size=8",
        "scoring.tasks=2",
        "scoring.episode={ways: 3, shots: 1, queries: 1}",
        "scoring.scores=[metantk_cond, linear_regions, params]",
        "rank_by=metantk_cond",
        "training.network={channels: 2, cells: 1}",
        "data.image_size=8",
    ]
    return load_config("smoke", RECIPES, [*small, *overrides])


def searched(config: RunConfig, dataset: ImageDataset, ports: Ports, shards: int = 1) -> SearchResult:
    """Search as pods do, with state and records as text in between."""
    state, found = start_search(config, ports), Records()
    while not state.finished:
        parts = [score_shard(config, state, index, shards, dataset, found, ports) for index in range(shards)]
        found = found.joined(record for part in parts for record in part)
        state = SearchState.from_json(close_round(config, state, found, ports).to_json())
    return finish_search(config, state, found, ports)
