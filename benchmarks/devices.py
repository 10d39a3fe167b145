"""What a GPU changes: candidates scored and trained on CPU and GPU enter, tables of differences and times leave.

Run as ``python -m benchmarks.devices [--quick] [--part values|kernel|search|training] [--json FILE]``. Without a GPU
it refuses. Weights, episodes and noise are drawn on the CPU on both sides, so that both compute the same thing: values
differ by rounding alone. Times are wall time, with the GPU waited for, after one run that does not count.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.kernel import CASES, WAYS_TO_RUN, images_of, network_of
from benchmarks.search import DRAWS, random_path, scoring_of, source_of
from metantk_core.candidates import SPACES, Genotype, SearchSpace, space_named
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.meta_training import MamlTraining, meta_train
from metantk_core.networks import NetworkConfig
from metantk_core.scores import SCORES, Scorer, ScoringConfig, score_candidate

GPU = "cuda"
WAYS = ("ordinary", "engine", "per-sample")


def waited(work: Callable[[], object]) -> float:
    """Return the seconds that something takes, until the GPU has finished it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


# --- Values ---


def candidates_of(space: SearchSpace, number: int) -> list[Genotype]:
    """Return random candidates of a space."""
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(number)]


def values_of(
    candidates: list[Genotype], config: ScoringConfig, device: str
) -> tuple[dict[str, list[float | None]], float]:
    """Return the values of all scores of all draws, by score, and the seconds that they took."""
    source, values = source_of(config), defaultdict(list)
    start = time.perf_counter()
    for genotype in candidates:
        for record in score_candidate(genotype, source, config, 0, device=device):
            values[record.score] += [draw.value for draw in record.draws]
    return dict(values), time.perf_counter() - start


def compared(ours: list[float | None], theirs: list[float | None]) -> dict[str, float]:
    """Return how far two lists of values are apart.

    Returns:
        The median and the largest relative difference, the rank correlation, and how many have a value on one side
        alone.
    """
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    apart = [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in pairs]
    several = len({a for a, _ in pairs}) > 1
    ranks = [stats.rankdata(side) for side in zip(*pairs, strict=True)]
    rank = float(np.corrcoef(*ranks)[0, 1]) if several else math.nan
    return {
        "median": statistics.median(apart) if apart else math.nan,
        "largest": max(apart, default=math.nan),
        "rank correlation": rank,
        "one side alone": sum((a is None) != (b is None) for a, b in zip(ours, theirs, strict=True)),
        "values": len(pairs),
    }


def compare_values(quick: bool) -> dict[str, Any]:
    """Score candidates of all spaces on the CPU, on the GPU, and on the GPU again."""
    results: dict[str, Any] = {}
    for name in SPACES:
        space = space_named(name)
        scores = [score for score, definition in SCORES.items() if definition.cost != "none"]
        config = ScoringConfig.model_validate(
            {
                "scores": scores,
                "num_inits": 2,
                "image_size": 16,
                "network": {"channels": 8, "cells": 1 if name == "nasbench201" else 5},
                "swap": {"centre": 60_000, "width": 1e10},
            }
        )
        candidates = candidates_of(space, 2 if quick else 8)
        on_cpu, cpu_seconds = values_of(candidates, config, "cpu")
        on_gpu, _ = values_of(candidates, config, GPU)
        again, gpu_seconds = values_of(candidates, config, GPU)
        rows = {score: compared(on_cpu[score], on_gpu[score]) for score in scores}
        unequal = [score for score in scores if on_gpu[score] != again[score]]
        results[name] = {
            "scores": rows,
            "unequal on the GPU": unequal,
            "CPU, s": cpu_seconds,
            "GPU, s": gpu_seconds,
            "candidates": len(candidates),
        }
        print(
            f"\n{name}, C = 8, {config.network.cells} cells, 16 x 16, {len(candidates)} candidates x 2 draws, "
            f"{len(scores)} scores: CPU {cpu_seconds:.1f} s, GPU {gpu_seconds:.1f} s; "
            f"a second time on the GPU: {', '.join(unequal) or 'none'} unequal"
        )
        print("| score | values | median difference | largest | rank correlation | on one side alone |")
        print("|---|---|---|---|---|---|")
        for score, row in sorted(rows.items(), key=lambda item: -item[1]["largest"]):
            print(
                f"| {score} | {row['values']} | {row['median']:.1e} | {row['largest']:.1e} | "
                f"{row['rank correlation']:.4f} | {row['one side alone']} |"
            )
    return results


# --- Kernel ---


def time_kernels(quick: bool) -> dict[str, Any]:
    """Time the engine beside an ordinary pass and per-sample gradients, on both devices."""
    print(f"\n| network | {' | '.join(f'{way}, GPU ms' for way in WAYS)} | GPU MB | engine, CPU ms | CPU ÷ GPU |")
    print("|---|---|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for case in list(CASES)[-2:] if quick else CASES:
        network, images = network_of(case).to(GPU), images_of().to(GPU)
        row: dict[str, float] = {}
        for way in WAYS:
            work = partial(WAYS_TO_RUN[way], network, images)
            work()
            torch.cuda.reset_peak_memory_stats()
            row[way] = statistics.median(waited(work) for _ in range(5))
            row[f"{way}, MB"] = torch.cuda.max_memory_allocated() / 2**20
        network, images = network.cpu(), images.cpu()
        WAYS_TO_RUN["engine"](network, images)
        row["CPU"] = statistics.median(waited(partial(WAYS_TO_RUN["engine"], network, images)) for _ in range(3))
        results[case] = row
        print(
            f"| {case} | {' | '.join(f'{1000 * row[way]:.1f}' for way in WAYS)} | {row['engine, MB']:.0f} | "
            f"{1000 * row['CPU']:.0f} | {row['CPU'] / row['engine']:.1f} |",
            flush=True,
        )
    return results


# --- Search ---


def time_search(quick: bool) -> dict[str, Any]:
    """Time a whole pruning search of DARTS-fewshot, one round in three measured and the others interpolated."""
    space = space_named("darts_fewshot")
    path = random_path(space, 0)
    results: dict[str, Any] = {}
    for channels, cells in ((16, 5),) if quick else ((16, 5), (48, 5), (48, 8)):
        config = scoring_of(channels, cells, 32, DRAWS)
        scorer = Scorer(path[0], source_of(config), config, 0, device=GPU)
        scorer.score(path[0], range(1))
        known: dict[int, float] = {}
        for supernet in path[:: 7 if quick else 3]:
            prunings = space.prunings(supernet)[:: 20 if quick else 4]
            seconds = waited(lambda: [scorer.score(genotype, range(1)) for genotype in prunings])  # noqa: B023
            known[len(list(supernet.operations()))] = seconds / len(prunings)
        sizes, total, count = sorted(known), 0.0, 0
        for supernet in path:
            here = len(space.prunings(supernet)) + 1
            total += here * float(np.interp(len(list(supernet.operations())), sizes, [known[n] for n in sizes]))
            count += here
        results[f"C = {channels}, {cells} cells"] = {"seconds a candidate": known, "hours": DRAWS * total / 3600}
        first, last = known[sizes[-1]], known[sizes[0]]
        print(
            f"DARTS-fewshot, C = {channels}, {cells} cells, 32 x 32: {1000 * first:.0f} ms a candidate and draw in the "
            f"first round, {1000 * last:.0f} ms in the last one measured; {DRAWS * total / 60:.1f} minutes for all "
            f"{count} candidates and {DRAWS} draws",
            flush=True,
        )
    return results


# --- Training ---


def time_training(quick: bool) -> dict[str, Any]:
    """Time iterations of MAML with little validation, compare both devices, and train twice on the GPU."""
    results: dict[str, Any] = {}
    cases: Mapping[str, tuple[str, int, int, bool]] = {
        "NAS-Bench-201 cell, C = 16, first order": ("nasbench201", 16, 1, True),
        "DARTS-fewshot cell, C = 48, first order": ("darts_fewshot", 48, 5, True),
        "DARTS-fewshot cell, C = 48, second order": ("darts_fewshot", 48, 5, False),
    }
    print("\n| MAML, 5-way 1-shot, 32 x 32 | CPU, episodes a second | GPU | ratio | loss, CPU | GPU | again |")
    print("|---|---|---|---|---|---|---|")
    for name, (space, channels, cells, first_order) in list(cases.items())[: 1 if quick else None]:
        genotype = space_named(space).sample(np.random.default_rng(3))
        row: list[dict[str, Any]] = []
        for device, iterations in (("cpu", 2), (GPU, 2), (GPU, 20), (GPU, 20)):
            config = MamlTraining(
                network=NetworkConfig(channels=channels, cells=cells),
                first_order=first_order,
                iterations=iterations,
                validate_every=iterations,
                validation_episodes=2,
            )
            source = _training_source(config.episode)
            start = time.perf_counter()
            trained = meta_train(genotype, source, source, config, 0, device=device)
            seconds = time.perf_counter() - start
            row.append(
                {
                    "device": device,
                    "iterations": iterations,
                    "episodes a second": iterations * config.meta_batch / seconds,
                    "loss": trained.history[-1].train_loss,
                    "weights": trained.digest,
                }
            )
        cpu, first, gpu, again = row
        results[name] = row
        print(
            f"| {name} | {cpu['episodes a second']:.2f} | {gpu['episodes a second']:.2f} | "
            f"{gpu['episodes a second'] / cpu['episodes a second']:.1f} | {cpu['loss']:.6f} | {first['loss']:.6f} | "
            f"{'equal weights' if gpu['weights'] == again['weights'] else 'OTHER WEIGHTS'} |",
            flush=True,
        )
    return results


def _training_source(episode: EpisodeConfig) -> EpisodeSource:
    config = scoring_of(16, 1, 32, 1)
    letters = source_of(config)
    return EpisodeSource(letters.images, episode, letters.mean, letters.std)


PARTS: Mapping[str, Callable[[bool], dict[str, Any]]] = {
    "values": compare_values,
    "kernel": time_kernels,
    "search": time_search,
    "training": time_training,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few candidates and small networks, under a minute")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.devices: expected a GPU that torch sees, but there is none.")
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "GPU": torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
    }
    print(f"torch {torch.__version__}, {results['GPU']}, {results['threads']} threads of the CPU")
    for part in given.part or PARTS:
        results[part] = PARTS[part](given.quick)
        if given.json:
            given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
