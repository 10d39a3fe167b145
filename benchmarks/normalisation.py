"""What group normalisation in the place of batch normalisation does to scores: cells enter, rank agreements leave.

Most published scores were defined on networks with batch normalisation in training mode; here images must not mix, so
networks are normalised image by image. Each cell's network is scored twice, with the same weights and images:

    python -m benchmarks.normalisation --quick
    python -m benchmarks.normalisation --json normalisation.json

With batch normalisation, images of one batch share moments: all images for the kernel, the codes and one loss, those of
an episode for ZiCo's gradients. The kernel is then that of TE-NAS: row i is the gradient of the logits of image i,
through the moments of its batch.

Axes: n images of the batch · p weights.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from scipy.stats import spearmanr
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.candidates import Genotype, space_named
from metantk_core.datasets import DataConfig, prepare
from metantk_core.episodes import EpisodeSource, NormalisedEpisode
from metantk_core.kernels import batch, parameter_names
from metantk_core.networks import batch_normalised, build, initialise
from metantk_core.scores import SCORES, Score, ScoringConfig, condition_number, scoring_episodes
from metantk_core.scores.activations import code_kernel, naswot
from metantk_core.scores.alignment import spectral_entropy
from metantk_core.scores.gradients import fisher, fisher_fan_in, grad_norm, loss_gradients, plain, snip, zico
from metantk_core.scores.synflow import synflow
from metantk_core.seeding import numpy_generator

SEED = 0
REPORTED = {
    "zico": 0.97,
    "naswot": 0.91,
    "ntk_cond": 0.79,
    "grad_norm": 0.77,
    "snip": 0.72,
    "fisher": 0.32,
    "plain": -0.05,
}
"""What a recomputation with the published codes found on 28 other cells; that of ``fisher`` by their convention."""


def tangent_kernel(network: nn.Module, images: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n n"]:
    """Return the Gram matrix of the gradients of each image's summed logits, in a pass of the whole batch."""
    weights = [network.get_parameter(name) for name in parameter_names(network, "weights")]
    with torch.enable_grad(), exact_arithmetic():
        totals = network(images).sum(dim=1)
        rows = []
        for total in totals:
            gradients = torch.autograd.grad(total, weights, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    jacobian: Float64[Tensor, "n p"] = torch.stack(rows)
    return jacobian @ jacobian.mT


def scores_of(network: nn.Module, episodes: Sequence[NormalisedEpisode]) -> dict[str, float]:
    """Return the scores of a network by name; NaN where there is none."""
    images = batch([episode.query_images for episode in episodes], [episode.support_images for episode in episodes])
    by_task = [torch.cat([episode.query_images, episode.support_images]) for episode in episodes]
    labels = [torch.cat([episode.query_labels, episode.support_labels]) for episode in episodes]
    kernel = tangent_kernel(network, images)
    codes = code_kernel(network, images)
    whole = loss_gradients(network, [torch.cat(by_task)], [torch.cat(labels)])
    found: dict[str, Score | float] = {
        "zico": zico(loss_gradients(network, by_task, labels)),
        "naswot": math.nan if codes is None else naswot(codes),
        "ntk_cond": condition_number(kernel),
        "ntk_trace": float(kernel.trace()),
        "ntk_frobenius": float(kernel.norm()),
        "spectral_entropy": spectral_entropy(kernel),
        "grad_norm": grad_norm(whole),
        "snip": snip(whole),
        "fisher": fisher(whole),
        "fisher_fan_in": fisher_fan_in(whole),
        "plain": plain(whole),
        "synflow": synflow(network, (images.shape[1], images.shape[2], images.shape[3])),
    }
    values = {name: score.value if isinstance(score, Score) else score for name, score in found.items()}
    return {name: math.nan if value is None else value for name, value in values.items()}


def compared(genotype: Genotype, source: EpisodeSource, config: ScoringConfig) -> dict[str, tuple[float, float]] | None:
    """Return each score with group and with batch normalisation; None if some of them are not there."""
    episodes = scoring_episodes(source, config, SEED, 0)
    with torch.random.fork_rng(devices=[]):
        network = build(
            genotype,
            config.network,
            in_channels=source.image_shape[0],
            ways=config.episode.ways,
            variant="scoring",
        )
        initialise(network, SEED, "score", "init", 0)
        pair = scores_of(network, episodes), scores_of(batch_normalised(network), episodes)
    both = {name: (pair[0][name], pair[1][name]) for name in pair[0]}
    return both if all(math.isfinite(value) for values in both.values() for value in values) else None


def agreement(rows: Sequence[dict[str, tuple[float, float]]], first: tuple[str, int], second: tuple[str, int]) -> float:
    """Return Spearman's correlation of two scores, each named with 0 for group and 1 for batch normalisation."""
    one, other = ([row[name][kind] for row in rows] for name, kind in (first, second))
    return float(spearmanr(one, other)[0])  # type: ignore[arg-type]


def table(rows: Sequence[dict[str, tuple[float, float]]]) -> str:
    """Return the rank agreement of each score, and of the two conventions of ``fisher``."""
    lines = [f"| score | rank agreement, {len(rows)} cells | reported, 28 others |", "|---|---|---|"]
    for name in rows[0]:
        lines.append(f"| `{name}` | {agreement(rows, (name, 0), (name, 1)):.2f} | {REPORTED.get(name, '-')} |")
    for words, first, second in (
        ("group normalisation", 0, 0),
        ("batch normalisation", 1, 1),
        ("group and batch normalisation", 0, 1),
    ):
        found = agreement(rows, ("fisher", first), ("fisher_fan_in", second))
        lines.append(f"\n`fisher` and `fisher_fan_in`, {words}: {found:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description="Rank agreement of scores with group and with batch normalisation.")
    parser.add_argument("--quick", action="store_true", help="four narrow cells on small images: seconds")
    parser.add_argument("--cells", type=int, default=28, help="number of cells")
    parser.add_argument("--channels", type=int, default=8, help="channels after the stem")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write both values of every score there")
    arguments = parser.parse_args()
    cells, channels, size = (4, 4, 8) if arguments.quick else (arguments.cells, arguments.channels, 32)
    config = ScoringConfig.model_validate({"network": {"channels": channels, "cells": 1}, "image_size": size})
    space, rng = space_named("nasbench201"), numpy_generator(SEED, "normalisation")
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    left_out = 0
    with tempfile.TemporaryDirectory() as directory:
        dataset = prepare(DataConfig(), Path(directory) / "glyphs")
        source = EpisodeSource(dataset.train, config.episode, dataset.mean, dataset.std, image_size=size)
        while len(rows) < cells:
            genotype = space.sample(rng)
            if str(genotype) in rows:
                continue
            found = compared(genotype, source, config)
            if found is None:
                left_out += 1
            else:
                rows[str(genotype)] = found
                print(f"{len(rows)} of {cells}", flush=True)
    assert set(rows[next(iter(rows))]) <= set(SCORES)
    print(table(list(rows.values())))
    print(f"\n{left_out} more cells were left out: some score is not there with one of the normalisations.")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
