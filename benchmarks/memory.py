"""Memory over many candidates: a number of candidates enters, resident memory after every hundredth leaves.

Run as ``python -m benchmarks.memory [--quick] [--json FILE]``. Candidates of NAS-Bench-201 are scored one after the
other in this process, as a shard of a search does it, with scores of every cost. What scoring kept of each candidate
would add up: a network of this size has about 90 tensors, and the graph of a pass takes almost 2 MB.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from metantk_core.candidates import space_named
from metantk_core.datasets import DataConfig, prepare
from metantk_core.episodes import EpisodeSource
from metantk_core.scores import ScoringConfig, score_candidate
from metantk_core.seeding import numpy_generator

#: A tiny network, and scores of every cost: the kernel pass, a forward, a loss backward, passes of their own, counts.
SETTINGS = ScoringConfig.model_validate(
    {
        "scores": ("metantk_cond", "ntk_cond", "naswot", "grad_norm", "synflow", "linear_regions", "params", "flops"),
        "num_inits": 1,
        "tasks": 2,
        "image_size": 16,
        "network": {"channels": 4, "cells": 1},
        "linear_regions": {"images": 100},
    }
)


@dataclass(frozen=True)
class Memory:
    """What a process holds.

    Attributes:
        candidates: Number of candidates that it has scored so far.
        resident: Resident memory in MB.
        tensors: Number of live tensors.
    """

    candidates: int
    resident: float
    tensors: int


def resident_megabytes() -> float:
    """Return the resident memory of this process, pages of mapped files included."""
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def measured(candidates: int) -> Memory:
    """Return what this process holds now."""
    gc.collect()
    resident = resident_megabytes()
    # By type, not by isinstance, which asks some objects of other libraries to import themselves.
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return Memory(candidates, resident, tensors)


def course(source: EpisodeSource, config: ScoringConfig, candidates: int, every: int) -> Iterator[Memory]:
    """Yield what this process holds after every so many scored candidates.

    Args:
        source: Episodes of the size that ``config`` says.
        config: What to compute.
        candidates: How many are scored in all.
        every: How many are scored between two measurements.
    """
    space, draws = space_named("nasbench201"), numpy_generator(0, "memory")
    for number in range(1, candidates + 1):
        score_candidate(space.sample(draws), source, config, 0)
        if number % every == 0:
            yield measured(number)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Resident memory while candidates are scored.")
    parser.add_argument("--quick", action="store_true", help="200 candidates, under a minute")
    parser.add_argument("--candidates", type=int, help="number of candidates; 1,000 unless told")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    candidates = arguments.candidates or (200 if arguments.quick else 1000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        dataset = prepare(DataConfig(), Path(directory) / "glyphs")
        source = EpisodeSource(dataset.train, SETTINGS.episode, dataset.mean, dataset.std, SETTINGS.image_size)
        rows = []
        print("| candidates scored | resident memory | live tensors |\n|---|---|---|")
        for row in course(source, SETTINGS, candidates, min(100, candidates)):
            rows.append(row)
            print(f"| {row.candidates:,} | {row.resident:.0f} MB | {row.tensors} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
