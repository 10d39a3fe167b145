"""How far float32 gradients move kernels: search spaces and seeds enter, a table of relative errors leaves.

Each network's kernels are computed twice, as scores are (gradients in float32, algebra in float64) and in float64
throughout, from the same weights and images:

    python -m benchmarks.precision --quick
    python -m benchmarks.precision --json precision.json

Axes: n images of the batch · tq query images of all tasks.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.candidates import SPACES, Genotype
from metantk_core.datasets import DataConfig, prepare
from metantk_core.episodes import EpisodeSource
from metantk_core.kernels import batch, empirical_ntk, meta_ntk, split
from metantk_core.networks import build, initialise
from metantk_core.scores import ScoringConfig, condition_number, rounding_floor, scoring_episodes
from metantk_core.scores.conditioning import SINGLE_PRECISION
from metantk_core.seeding import numpy_generator

Kind = Literal["supernet", "decided"]


@dataclass(frozen=True)
class Errors:
    """Relative errors of one network's kernels from float32 gradients, and the condition numbers themselves.

    Attributes:
        space: Name of the search space.
        kind: A supernet, or a candidate with one operation an edge.
        channels: Channels after the stem.
        seed: Seed of the candidate, the weights and the episodes.
        ntk: Error of the NTK, in the Frobenius norm.
        meta_ntk: Error of the MetaNTK, in the Frobenius norm.
        ntk_cond: Error of the NTK's condition number.
        meta_ntk_cond: Error of the MetaNTK's condition number.
        worst_image: Part of the NTK's squared error that is in the row and column of one image. Rounding that adds up
            is spread over the images; a ReLU that rounding turns on or off makes one image's gradient jump.
        exact_ntk_cond: The NTK's condition number in float64.
        exact_meta_ntk_cond: The MetaNTK's condition number in float64.
    """

    space: str
    kind: Kind
    channels: int
    seed: int
    ntk: float
    meta_ntk: float
    ntk_cond: float
    meta_ntk_cond: float
    worst_image: float
    exact_ntk_cond: float
    exact_meta_ntk_cond: float


def errors(genotype: Genotype, source: EpisodeSource, config: ScoringConfig, seed: int) -> Errors | None:
    """Return the errors of one network's kernels; None if they have no condition number, as scoring would say.

    Args:
        genotype: A candidate, or a supernet.
        source: Episodes of the size that ``config`` says.
        config: The scored networks, episodes and inner loop.
        seed: Seed of everything that is drawn.
    """
    episodes = scoring_episodes(source, config, seed, 0)
    images = batch([episode.query_images for episode in episodes], [episode.support_images for episode in episodes])
    with torch.random.fork_rng(devices=[]):
        network = build(
            genotype,
            config.network,
            in_channels=images.shape[1],
            ways=config.episode.ways,
            variant="scoring",
        )
    initialise(network, seed, "score", "init", 0)
    rounded = empirical_ntk(network, images, parameters=config.parameters)
    exact = empirical_ntk(network.double(), images.double(), parameters=config.parameters)
    metas = []
    for kernel in (rounded, exact):
        blocks = split(
            kernel,
            tasks=config.tasks,
            queries=config.episode.ways * config.episode.queries,
            supports=config.episode.ways * config.episode.shots,
        )
        metas.append(meta_ntk(blocks, blocks, time=config.time, ridge=config.ridge, precision=SINGLE_PRECISION))
    scores = [condition_number(kernel) for kernel in (rounded, exact)]
    scores += [
        condition_number(meta, floor=rounding_floor(kernel))
        for meta, kernel in zip(metas, (rounded, exact), strict=True)
    ]
    values = [score.value for score in scores if score.value is not None]
    if len(values) < len(scores):
        return None
    return Errors(
        genotype.space,
        "decided" if genotype.decided else "supernet",
        config.network.channels,
        seed,
        ntk=((rounded - exact).norm() / exact.norm()).item(),
        meta_ntk=((metas[0] - metas[1]).norm() / metas[1].norm()).item(),
        ntk_cond=abs(values[0] / values[1] - 1),
        meta_ntk_cond=abs(values[2] / values[3] - 1),
        worst_image=_share_of_worst_image(rounded - exact),
        exact_ntk_cond=values[1],
        exact_meta_ntk_cond=values[3],
    )


def _share_of_worst_image(error: Float64[Tensor, "n n"]) -> float:
    """Return the part of the summed squared error that is in the row and column of one image."""
    squares = error**2
    return ((2 * squares.sum(dim=0) - squares.diagonal()).max() / squares.sum()).item()


def networks_of(space: str, kind: Kind, seed: int) -> Iterator[Genotype]:
    """Yield the supernet of a space, or candidates of it: not every candidate can be scored."""
    if kind == "supernet":
        yield SPACES[space].supernet()
        return
    draws = numpy_generator(seed, "precision", space)
    while True:
        yield SPACES[space].sample(draws)


def table(rows: Sequence[Errors]) -> str:
    """Return the median and the largest error of each kind of network as a Markdown table."""
    lines = [
        "| network | C | seeds | NTK | MetaNTK | cond(NTK) | cond(MetaNTK) | in one image | exact cond(MetaNTK) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((row.space, row.kind, row.channels) for row in rows)
    for space, kind, channels in groups:
        group = [row for row in rows if (row.space, row.kind, row.channels) == (space, kind, channels)]
        cells = [
            f"{median(values):.1e}; {max(values):.1e}"
            for values in (
                [getattr(row, name) for row in group] for name in ("ntk", "meta_ntk", "ntk_cond", "meta_ntk_cond")
            )
        ]
        exact = [row.exact_meta_ntk_cond for row in group]
        cells.append(", ".join(f"{row.worst_image:.2f}" for row in group))
        cells.append(f"{min(exact):.3g} – {max(exact):.3g}")
        lines.append(f"| {space} {kind} | {channels} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description="Relative errors of kernels from float32 gradients.")
    parser.add_argument("--quick", action="store_true", help="narrow, shallow networks and one seed: seconds")
    parser.add_argument("--spaces", nargs="+", choices=tuple(SPACES), default=tuple(SPACES), help="search spaces")
    parser.add_argument("--channels", type=int, default=16, help="channels after the stem")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every error there")
    arguments = parser.parse_args()
    channels, cells, seeds = (4, 3, 1) if arguments.quick else (arguments.channels, 5, arguments.seeds)
    kinds: tuple[Kind, ...] = ("supernet", "decided")
    with tempfile.TemporaryDirectory() as directory:
        dataset = prepare(DataConfig(), Path(directory) / "glyphs")
        config = ScoringConfig.model_validate({"network": {"channels": channels, "cells": cells}})
        source = EpisodeSource(dataset.train, config.episode, dataset.mean, dataset.std, image_size=config.image_size)
        rows = []
        for space in arguments.spaces:
            for kind in kinds:
                for seed in range(seeds):
                    measured = (errors(genotype, source, config, seed) for genotype in networks_of(space, kind, seed))
                    rows.append(next(row for row in measured if row is not None))
                    print(rows[-1], flush=True)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
