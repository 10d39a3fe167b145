"""Logistic regression of episodes, exact and batched, beside scikit-learn's: episodes enter, a table of times leaves.

The features stand for those of a trained network: ReLUs of 640 channels, of length 1, of classes that overlap so that
about two thirds of queries are told apart; copies are augmented ones of the same image. Per kind of episode: the time
of ours, of scikit-learn at its default tolerance and at 1e-10, and how many of their predictions differ from ours.

    python -m benchmarks.logistic_regression --quick
    python -m benchmarks.logistic_regression --json logistic-regression.json

Axes: e episodes, n support images, q queries, d features.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metantk_core.meta_training.logistic_regression import fit_logistic_regression

WAYS, QUERIES = 5, 15
KINDS = ((1, 1), (1, 5), (5, 1), (5, 5))
TOLERANCES = (1e-4, 1e-10)
"""scikit-learn's default, and one that is the minimum as far as predictions go."""
_OVERLAP = {1: 0.3, 5: 0.17}


@dataclass(frozen=True)
class Row:
    """What one kind of episode took.

    Attributes:
        shots: Images of a class.
        copies: Augmented copies of each.
        seconds: Of an episode, by ours.
        theirs: Of an episode, by scikit-learn at each tolerance.
        differing: Predictions that differ from ours, at each tolerance.
        predictions: Number of predictions.
        accuracy: Share of queries that ours tells right.
    """

    shots: int
    copies: int
    seconds: float
    theirs: tuple[float, ...]
    differing: tuple[int, ...]
    predictions: int
    accuracy: float


def features_of(
    episodes: int,
    shots: int,
    *,
    copies: int = 1,
    width: int = 640,
    queries: int = QUERIES,
    ways: int = WAYS,
    seed: int = 0,
) -> tuple[Float64[Tensor, "e n d"], Int64[Tensor, "e n"], Float64[Tensor, "e q d"]]:
    """Return features of support images with their labels, and of queries, class by class."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, _OVERLAP.get(shots, 0.2), (episodes, ways, 1, width))
    images = centres + rng.normal(size=(episodes, ways, shots + queries, width))
    support = images[:, :, :shots, None] + 0.3 * rng.normal(size=(episodes, ways, shots, copies, width))
    both = (np.maximum(part, 0).reshape(episodes, -1, width) for part in (support, images[:, :, shots:]))
    support, query = (torch.from_numpy(part / np.linalg.norm(part, axis=2, keepdims=True)) for part in both)
    labels = torch.arange(ways).repeat_interleave(shots * copies).repeat(episodes, 1)
    return support, labels, query


def measured(shots: int, copies: int, episodes: int, repeats: int) -> Row:
    """Return the row of one kind of episode: medians of some repeats, solvers in turn."""
    support, labels, query = features_of(episodes, shots, copies=copies)
    ours: list[float] = []
    theirs: dict[float, list[float]] = {tolerance: [] for tolerance in TOLERANCES}
    found, differing = torch.empty(0), dict.fromkeys(TOLERANCES, 0)
    for _ in range(repeats):
        start = perf_counter()
        found = fit_logistic_regression(support, labels, WAYS).logits(query).argmax(2)
        ours.append((perf_counter() - start) / episodes)
        for tolerance in TOLERANCES:
            solver = partial(LogisticRegression, C=1, tol=tolerance, max_iter=10_000)
            start = perf_counter()
            told = np.stack(
                [solver().fit(*known).predict(asked) for *known, asked in zip(support, labels, query, strict=True)]
            )
            theirs[tolerance].append((perf_counter() - start) / episodes)
            differing[tolerance] = int((told != found.numpy()).sum())
    return Row(
        shots,
        copies,
        median(ours),
        tuple(median(times) for times in theirs.values()),
        tuple(differing.values()),
        found.numel(),
        (found == torch.arange(WAYS).repeat_interleave(QUERIES)).double().mean().item(),
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| episode | accuracy | ours | scikit-learn, default | at 1e-10 | other predictions, default | at 1e-10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{WAYS}-way {row.shots}-shot" + (f", {row.copies} copies" if row.copies > 1 else "")
        times = " | ".join(f"{1e3 * time:.1f} ms ({time / row.seconds:.1f} x)" for time in row.theirs)
        flips = " | ".join(f"{count} of {row.predictions:,}" for count in row.differing)
        lines.append(f"| {name} | {100 * row.accuracy:.0f} % | {1e3 * row.seconds:.2f} ms | {times} | {flips} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer episodes: seconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    episodes, repeats = (20, 1) if arguments.quick else (100, 3)
    rows = [measured(shots, copies, episodes, repeats) for shots, copies in KINDS]
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
