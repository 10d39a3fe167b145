"""Meta-gradients by learn2learn and by torch.func: algorithms enter, a table of tasks a second leaves.

Both engines take the same meta-batches of random images through the same networks, in turn. Each row is an algorithm
on a network; the last column says which engine a user of this machine should take.

    python -m benchmarks.inner_loop --quick
    python -m benchmarks.inner_loop --json inner-loop.json --device cuda
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from metantk_core.architectures import learnable_network, parse_architecture
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.meta_training.config import Adaptation, MamlTraining
from metantk_core.meta_training.maml import MamlLearner
from metantk_core.networks import NetworkConfig, initialise

ALGORITHMS: tuple[tuple[str, Adaptation, bool], ...] = (
    ("FOMAML", "maml", True),
    ("MAML", "maml", False),
    ("ANIL", "anil", False),
)
NETWORKS = {
    "NAS-Bench-201, C = 16": (
        "nasbench201",
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
        NetworkConfig(channels=16, cells=1),
    ),
    "paper-mini-5-a, C = 16": ("darts_fewshot", "paper-mini-5-a", NetworkConfig(channels=16, cells=5)),
    "conv4-32": ("nasbench201", "conv4-32", NetworkConfig(channels=16, cells=1)),
}


@dataclass(frozen=True)
class Row:
    """What one algorithm does in a second.

    Attributes:
        network: Name of the network.
        algorithm: Name of the algorithm.
        learn2learn: Tasks a second, one after the other.
        batched: Tasks a second, all at once.
    """

    network: str
    algorithm: str
    learn2learn: float
    batched: float


def random_episodes(image_size: int, meta_batch: int) -> EpisodeSource:
    """Return a source of 5-way 1-shot episodes with 15 queries a class, of noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 20)
    images = rng.integers(0, 256, (len(labels), 1, image_size, image_size), dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(20))
    whole = LabelledImages(images, labels, names, "train", "noise")
    return EpisodeSource(whole, EpisodeConfig(ways=5, shots=1, queries=15), (0.5,), (0.29,))


def measured(network: str, name: str, algorithm: Adaptation, first_order: bool, arguments: argparse.Namespace) -> Row:
    """Return the row of an algorithm on a network: medians, the engines in turn."""
    space, text, size = NETWORKS[network]
    source = random_episodes(arguments.image_size, arguments.meta_batch)
    learners = {}
    for engine in ("learn2learn", "batched"):
        config = MamlTraining.model_validate(
            {
                "algorithm": algorithm,
                "first_order": first_order,
                "network": size.model_dump(),
                "meta_batch": arguments.meta_batch,
                "engine": engine,
            }
        )
        shape = (1, arguments.image_size, arguments.image_size)
        made = learnable_network(parse_architecture(space, text), size, image_shape=shape, ways=5, norm=config.norm)
        initialise(made, 0, "benchmark")
        learners[engine] = MamlLearner(made.to(arguments.device), config, source, 0, arguments.device)
    times: dict[str, list[float]] = {engine: [] for engine in learners}
    for repeat in range(arguments.repeats + 1):
        for engine, learner in learners.items():
            drawn = learner.draw(repeat)
            start = perf_counter()
            learner.gradient(drawn)
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            if repeat:  # the first one warms up
                times[engine].append(perf_counter() - start)
    return Row(network, name, *(arguments.meta_batch / median(times[engine]) for engine in learners))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| network | algorithm | learn2learn, tasks/s | batched, tasks/s | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = row.batched / row.learn2learn
        lines.append(f"| {row.network} | {row.algorithm} | {row.learn2learn:.1f} | {row.batched:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and one repeat: seconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.image_size, arguments.repeats = 16, 1
    torch.set_num_threads(1)
    rows = [measured(network, *algorithm, arguments) for network in arguments.networks for algorithm in ALGORITHMS]
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
