"""Estimated beside real latency: random networks enter, their rank correlation and how far estimates are off leave.

Run as ``python -m benchmarks.latency [--quick] [--json FILE]``. The estimate is the sum of what ``measure_latency``
measured of each operation; the real time is a pass of one image through the whole network, the median of many. One
thread of a CPU; wall time, as on the device that the limit is for.
"""

import argparse
import json
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy import stats

from metantk_core.candidates import Genotype, SearchSpace, space_named
from metantk_core.networks import NetworkConfig, build, cost_table, initialise, measure_latency

SHAPE, WAYS = (3, 32, 32), 5
SPACES = {"nasbench201": NetworkConfig(channels=16, cells=5), "darts_fewshot": NetworkConfig(channels=16, cells=5)}


def real_latency(genotype: Genotype, config: NetworkConfig, passes: int) -> float:
    """Return the median time of a pass of one image, in seconds."""
    network = build(genotype, config, in_channels=SHAPE[0], ways=WAYS, variant="training")
    initialise(network, 0, "benchmark")
    images = torch.randn(WAYS, *SHAPE, generator=torch.Generator().manual_seed(0))
    image, times = images[:1], []
    with torch.no_grad():
        network.train()(images)  # queries are normalised by the moments of the support images
        network.eval()
        for _ in range(passes + 3):
            start = perf_counter()
            network(image)
            times.append(perf_counter() - start)
    return statistics.median(times[3:])


def compared(space: SearchSpace, config: NetworkConfig, networks: int, passes: int) -> dict[str, Any]:
    """Return estimated and real latencies of random networks, and how they agree."""
    table = cost_table(space.name, config, image_shape=SHAPE, ways=WAYS)
    table = table.with_latency(measure_latency(space.name, config, image_shape=SHAPE, ways=WAYS, device="cpu"))
    rng = np.random.default_rng(0)
    candidates = [space.sample(rng) for _ in range(networks)]
    estimated = np.array([table.of(genotype).latency for genotype in candidates], dtype=float)
    real = np.array([real_latency(genotype, config, passes) for genotype in candidates])
    ranks = np.corrcoef(stats.rankdata(estimated), stats.rankdata(real))[0, 1]
    return {
        "estimated": estimated.tolist(),
        "real": real.tolist(),
        "rank correlation": float(ranks),
        "off": float(np.median(estimated / real) - 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6 networks a space, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks, passes = (6, 10) if given.quick else (20, 50)
    results: dict[str, Any] = {"torch": torch.__version__}
    print(f"torch {torch.__version__}, one thread, {networks} random networks of C = 16, 32 x 32, one image at a time")
    print("| space | real, ms | rank correlation with the estimate | estimate, in the median |\n|---|---|---|---|")
    for name, config in SPACES.items():
        results[name] = row = compared(space_named(name), config, networks, passes)
        print(
            f"| {name} | {1000 * min(row['real']):.1f} to {1000 * max(row['real']):.1f} | "
            f"{row['rank correlation']:.2f} | {row['off']:+.0%} |",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
