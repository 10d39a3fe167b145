"""How far float32 gradients move kernels and scores: search spaces and seeds enter, tables of relative errors leave.

Each network's kernels are computed twice, as scores are (gradients in float32, algebra in float64) and in float64
throughout, from the same weights and images. The first table says how far apart the kernels are; the second one, over
trials of many sizes, whether scores are right within 1 % where float32 is taken to be enough:

    python -m benchmarks.precision --quick
    python -m benchmarks.precision --json precision.json

Axes: n images of the batch · tq query images of all tasks · c h w one image.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.candidates import SPACES, Genotype
from metantk_core.datasets import DataConfig, ImageDataset, prepare
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.kernels import (
    SINGLE_PRECISION,
    Kernels,
    batch,
    eigenvalues,
    empirical_ntk,
    meta_ntk,
    rounding_floor,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, initialise
from metantk_core.scores import SCORES, Draw, Evidence, ScoringConfig, condition_number, evaluated, scoring_episodes
from metantk_core.seeding import numpy_generator

Kind = Literal["supernet", "decided"]

KERNEL_SCORES = tuple(name for name in SCORES if SCORES[name].cost == "pass")
"""Scores whose values are compared, with the usual inner loop and with that of ANIL."""


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


@dataclass(frozen=True)
class Trial:
    """One network and one batch, drawn at random from all that scoring meets.

    Attributes:
        number: Seed of everything.
        space: Name of the search space.
        kind: A supernet, or a candidate with one operation an edge.
        channels: Channels after the stem.
        cells: Cells of the network (of a stage, in NAS-Bench-201).
        tasks: Episodes of 5 ways.
        shots: Support images of a class.
        queries: Query images of a class.
        image_size: Height and width.
        source: Embedded letters, or uniform noise.
        near: Size of the noise by which one image of the batch differs from another; 0 where all are different. It
            makes kernels as nearly singular as one likes.
    """

    number: int
    space: str
    kind: Kind
    channels: int
    cells: int
    tasks: int
    shots: int
    queries: int
    image_size: int
    source: Literal["glyphs", "noise"]
    near: float

    @property
    def images(self) -> int:
        """Number of images of the batch."""
        return 5 * self.tasks * (self.shots + self.queries)

    @property
    def config(self) -> ScoringConfig:
        """What is scored, and with which inner loop."""
        return ScoringConfig(
            num_inits=1,
            tasks=self.tasks,
            episode=EpisodeConfig(ways=5, shots=self.shots, queries=self.queries),
            image_size=self.image_size,
            network=NetworkConfig(channels=self.channels, cells=self.cells),
        )


@dataclass(frozen=True)
class Verdict:
    """What became of one score in a trial.

    Attributes:
        score: Its name.
        precision: What its value was computed in.
        value: The value, if there is one.
        exact: The value in float64, if there is one.
    """

    score: str
    precision: str
    value: float | None
    exact: float | None

    @property
    def error(self) -> float | None:
        """Relative error; None where a value is missing or zero."""
        return None if self.value is None or not self.exact else abs(self.value / self.exact - 1)


@dataclass(frozen=True)
class Outcomes:
    """One trial, its scores, and how far rounding moved the smallest eigenvalues.

    Attributes:
        trial: What was scored.
        verdicts: One for each score.
        moved: Change of the smallest eigenvalue of the NTK and of the last-layer kernel, as multiples of ε √n times the
            largest squared gradient length; the constant that the floor is made of has to be larger where no image's
            gradient jumps.
        jump: Largest relative change of a squared gradient length.
        seconds: Of the pass in float32, and in float64.
    """

    trial: Trial
    verdicts: tuple[Verdict, ...]
    moved: tuple[float, float]
    jump: float
    seconds: tuple[float, float]


def trial_of(number: int, channels: int | None = None) -> tuple[Trial, np.random.Generator]:
    """Return the trial of a number, and the generator that then draws its candidate.

    Args:
        number: From 0; spaces take turns.
        channels: Width; drawn from 4, 8 and 16 if none is given.
    """
    rng = np.random.default_rng([77, number])
    space = ("nasbench201", "darts_fewshot", "darts")[number % 3]
    width = int(rng.choice([4, 8, 16], p=[0.4, 0.4, 0.2]))
    tasks = int(rng.choice([1, 3, 6, 12], p=[0.3, 0.4, 0.2, 0.1]))
    shots, queries = int(rng.choice([1, 1, 3])), int(rng.choice([1, 1, 3]))
    size = int(rng.choice([8, 16, 32], p=[0.3, 0.5, 0.2]))
    source = str(rng.choice(["glyphs", "glyphs", "noise"]))
    cells = int(rng.choice([1, 2] if space == "nasbench201" else [2, 3, 5]))
    kind: Kind = "supernet" if rng.random() < 0.1 and width < 16 else "decided"
    images = 5 * tasks * (shots + queries)
    if images > 60 or size == 32:  # what would take minutes
        kind = "decided"
    if images >= 120 and size == 32:
        size = 16
    near = float(rng.choice([0, 0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]))
    source_name: Literal["glyphs", "noise"] = "noise" if source == "noise" else "glyphs"
    trial = Trial(number, space, kind, channels or width, cells, tasks, shots, queries, size, source_name, near)
    return trial, rng


def draw_of(trial: Trial, rng: np.random.Generator, dataset: ImageDataset) -> Draw:
    """Return the network and the episodes of a trial.

    Args:
        trial: What to draw.
        rng: As :func:`trial_of` leaves it.
        dataset: Where images come from if they are not noise.
    """
    config, size = trial.config, trial.image_size
    if trial.source == "glyphs":
        source = EpisodeSource(dataset.train, config.episode, dataset.mean, dataset.std, image_size=size)
    else:
        source = EpisodeSource(_noise(size), config.episode, (0.5,), (0.29,), image_size=size)
    episodes = scoring_episodes(source, config, trial.number, 0)
    genotype = SPACES[trial.space].supernet() if trial.kind == "supernet" else SPACES[trial.space].sample(rng)
    channels = source.image_shape[0]
    with torch.random.fork_rng(devices=[]):
        network = build(genotype, config.network, in_channels=channels, ways=5, variant="scoring")
    initialise(network, trial.number, "score", "init", 0)
    draw = Draw(network, episodes, config, trial.number, 0, "cpu", source.image_shape, None)
    if not trial.near:
        return draw
    generator = torch.Generator().manual_seed(trial.number)
    one, other = torch.randperm(trial.images, generator=generator)[:2].tolist()
    images = draw.images.clone()
    images[one] = images[other] + trial.near * torch.randn(images[other].shape, generator=generator)
    queries, supports = images.split([5 * trial.tasks * trial.queries, 5 * trial.tasks * trial.shots])
    episodes = tuple(
        replace(episode, query_images=mine, support_images=theirs)
        for episode, mine, theirs in zip(episodes, queries.chunk(trial.tasks), supports.chunk(trial.tasks), strict=True)
    )
    return replace(draw, episodes=episodes)


def _noise(size: int) -> LabelledImages:
    images = np.random.default_rng(0).integers(0, 256, (800, 1, size, size)).astype(np.uint8)
    labels = np.repeat(np.arange(20), 40).astype(np.int64)
    return LabelledImages(images, labels, tuple(f"class {number}" for number in range(20)), "train", "noise")


def outcomes(trial: Trial, draw: Draw) -> Outcomes | None:
    """Return what became of the scores of a trial; None if its network gives nothing to compare."""
    assert isinstance(draw.network, FewShotNetwork)
    images, start = draw.images, perf_counter()
    rounded = tangent_and_last_layer_kernel(draw.network, images)
    between = perf_counter()
    exact = tangent_and_last_layer_kernel(deepcopy(draw.network).double(), images.double())
    return judged(trial, draw, rounded, exact, (between - start, perf_counter() - between))


def judged(trial: Trial, draw: Draw, rounded: Kernels, exact: Kernels, seconds: tuple[float, float]) -> Outcomes | None:
    """Return what became of the scores of a trial, given its kernels of both precisions."""
    assert rounded.nngp is not None
    assert exact.nngp is not None
    if not bool(rounded.ntk.any()):
        return None
    names = [name for name in KERNEL_SCORES if trial.tasks >= SCORES[name].tasks]
    names += [f"{name}_anil" for name in names if name.startswith("metantk")]
    evidence = Evidence(draw, kernels=rounded), Evidence(draw, kernels=exact, precision="float64")
    found, wanted = ({name: evaluated(name, of) for name in names} for of in evidence)
    verdicts = tuple(Verdict(name, found[name].precision, found[name].value, wanted[name].value) for name in names)
    moved = []
    for one, other in ((rounded.ntk, exact.ntk), (rounded.nngp, exact.nngp)):
        unit = SINGLE_PRECISION * sqrt(len(one)) * other.diagonal().max().item()
        moved.append(abs(eigenvalues(one)[0] - eigenvalues(other)[0]).item() / unit)
    ratios = (rounded.ntk.diagonal() / exact.ntk.diagonal() - 1).abs()
    jump = max((ratio for ratio in ratios.tolist() if isfinite(ratio)), default=0.0)
    return Outcomes(trial, verdicts, (moved[0], moved[1]), jump, seconds)


def table_of_scores(rows: Sequence[Outcomes]) -> str:
    """Return, for each score, where its values come from and how wrong they are, as a Markdown table."""
    lines = [
        "| score | trials | from float32 | largest error of these | from float64 | no value | of the usual trials from "
        "float64 |",
        "|---|---|---|---|---|---|---|",
    ]
    usual = [row for row in rows if not row.trial.near]
    for name in dict.fromkeys(verdict.score for row in rows for verdict in row.verdicts):
        verdicts = _of(name, rows)
        kept = [verdict for verdict in verdicts if verdict.value is not None]
        single = [verdict for verdict in kept if verdict.precision == "float32"]
        worst = max((verdict.error for verdict in single if verdict.error is not None), default=0.0)
        often = [verdict.precision == "float64" for verdict in _of(name, usual)]
        share = f"{sum(often)} of {len(often)}"
        cells = len(verdicts), len(single), f"{worst:.1e}", len(kept) - len(single), len(verdicts) - len(kept), share
        lines.append(f"| `{name}` | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _of(name: str, rows: Sequence[Outcomes]) -> list[Verdict]:
    return [verdict for row in rows for verdict in row.verdicts if verdict.score == name]


def main() -> None:
    """Measure, print the table, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description="Relative errors of kernels from float32 gradients.")
    parser.add_argument("--quick", action="store_true", help="narrow, shallow networks and one seed: seconds")
    parser.add_argument("--spaces", nargs="+", choices=tuple(SPACES), default=tuple(SPACES), help="search spaces")
    parser.add_argument("--channels", type=int, default=16, help="channels after the stem")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--trials", type=int, default=400, help="number of trials of the scores; 0: none")
    parser.add_argument("--wide-trials", type=int, default=6, help="number of further trials at 48 channels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every error there")
    arguments = parser.parse_args()
    channels, cells, seeds = (4, 3, 1) if arguments.quick else (arguments.channels, 5, arguments.seeds)
    trials, wide = (12, 0) if arguments.quick else (arguments.trials, arguments.wide_trials)
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
        scored = []
        for number, width in [(number, None) for number in range(trials)] + [(number, 48) for number in range(wide)]:
            trial, rng = trial_of(number, width)
            result = outcomes(trial, draw_of(trial, rng, dataset))
            if result is not None:
                scored.append(result)
                print(result.trial, result.moved, result.jump, flush=True)
    print(table(rows))
    print(table_of_scores(scored))
    if arguments.json:
        found: dict[str, Any] = {"kernels": [asdict(row) for row in rows], "scores": [asdict(row) for row in scored]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
