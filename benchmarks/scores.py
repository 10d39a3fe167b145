"""What scores cost: candidates enter, the price of every computation in kernel passes leaves, and beside a plain loop.

Run as ``python -m benchmarks.scores [--quick] [--candidates N] [--json FILE]``. Two tables, of one draw of random cells
of NAS-Bench-201 (C = 16, 5 cells a stage, 32 x 32, 3 episodes of 5-way 1-shot with one query a class), one thread,
processor time, in turns, medians:

1. Sets of scores over the kernel pass alone: all scores of the pass, with those of activation codes, with those of the
   loss's gradients, and each computation that has a pass of its own.
2. A plain loop over ours for the eight scores that both have. The loop does what the published codes do: one pass a
   score, one backward pass an image for the kernel, gradients kept whole, activations compared by matrix products. It
   gets our weights and images, and its values are compared with ours.

Axes: n images · w all weights · u units of one ReLU.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.search import source_of
from metantk_core.candidates import Genotype, space_named
from metantk_core.scores import SCORES, Draw, Scorer, ScoringConfig

OF_COST = {cost: [name for name, of in SCORES.items() if of.cost == cost] for cost in ("pass", "forward", "backward")}
OWN = [name for name, of in SCORES.items() if of.cost == "own pass"]


def settings(scores: Sequence[str]) -> ScoringConfig:
    """Return the configuration of the draw for some scores."""
    network = {"channels": 16, "cells": 5}
    swap = {"centre": 500_000, "width": 1e12}
    return ScoringConfig.model_validate({"scores": scores, "num_inits": 1, "network": network, "swap": swap})


# --- The plain loop ---


def layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the convolutions and linear layers, whose weights scores are about."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def loss_of(network: nn.Module, draw: Draw) -> Tensor:
    """Return the loss of all episodes, one of which has as many images as another."""
    return F.cross_entropy(network(torch.cat(draw.task_images)), torch.cat(draw.task_labels))


def gradients_of(network: nn.Module, loss: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return weight and gradient of each layer, from a backward pass."""
    network.zero_grad()
    loss.backward()
    return [(of.weight, of.weight.grad) for of in layers(network) if of.weight.grad is not None]


def plain_grad_norm(network: nn.Module, draw: Draw) -> float:
    """Return the sum of the norms of the layers' gradients."""
    return sum(float(gradient.norm()) for _, gradient in gradients_of(network, loss_of(network, draw)))


def plain_snip(network: nn.Module, draw: Draw) -> float:
    """Return the sum of absolute products of weight and gradient."""
    pairs = gradients_of(network, loss_of(network, draw))
    return sum(float((weight.detach() * gradient).abs().sum()) for weight, gradient in pairs)


def plain_plain(network: nn.Module, draw: Draw) -> float:
    """Return the sum of products of weight and gradient."""
    return sum(
        float((weight.detach() * gradient).sum()) for weight, gradient in gradients_of(network, loss_of(network, draw))
    )


def plain_fisher(network: nn.Module, draw: Draw) -> float:
    """Return the sum over channels of half the mean square of activation times gradient."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handles = [layer.register_forward_hook(keep) for layer in layers(network)]
    gradients_of(network, loss_of(network, draw))
    for handle in handles:
        handle.remove()
    products = [(output * output.grad).flatten(2).sum(2) if output.dim() > 2 else output * output.grad
                for output in kept if output.grad is not None]  # fmt: skip
    return sum(0.5 * float(product.square().mean(dim=0).sum()) for product in products)


def plain_zico(network: nn.Module, draw: Draw) -> float:
    """Return the sum over layers of the log of the sum of mean over deviation of the gradients of the episodes."""
    by_task: dict[int, list[np.ndarray]] = {}
    for images, labels in zip(draw.task_images, draw.task_labels, strict=True):
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        for number, layer in enumerate(layers(network)):
            if layer.weight.grad is not None:
                by_task.setdefault(number, []).append(layer.weight.grad.flatten().detach().numpy().copy())
    total = 0.0
    for gradients in by_task.values():
        stacked = np.array(gradients)
        deviation = stacked.std(axis=0)
        varies = deviation > 0
        if varies.any():
            total += float(np.log((np.abs(stacked).mean(axis=0)[varies] / deviation[varies]).sum()))
    return total


def plain_naswot(network: nn.Module, draw: Draw) -> float:
    """Return the log-determinant of the agreements of activation codes, unit by unit."""
    images = draw.images
    kernel = np.zeros((len(images), len(images)))

    def add(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        on = (output.detach().flatten(1) > 0).float()
        kernel[:] += (on @ on.T).numpy() + ((1 - on) @ (1 - on).T).numpy()

    handles = [module.register_forward_hook(add) for module in network.modules() if isinstance(module, nn.ReLU)]
    network(images)
    for handle in handles:
        handle.remove()
    return float(np.linalg.slogdet(kernel)[1])


def plain_synflow(network: nn.Module, draw: Draw) -> float:
    """Return the log of the flow of an image of ones without normalisation, in float64."""
    positive = copy.deepcopy(network).double()
    for parent in list(positive.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.copy_(parameter.abs() if parameter.dim() > 1 else torch.zeros_like(parameter))
    ones = torch.ones(1, *draw.image_shape, dtype=torch.float64)
    pairs = gradients_of(positive, positive(ones).sum())
    return float(torch.log(sum((weight * gradient).abs().sum() for weight, gradient in pairs)))  # type: ignore[arg-type]


def plain_ntk_cond(network: nn.Module, draw: Draw) -> float:
    """Return the condition number of the kernel of the gradients that one backward pass an image gives."""
    rows = []
    for image in draw.images:
        pairs = gradients_of(network, network(image[None]).sum())
        rows.append(torch.cat([gradient.flatten() for _, gradient in pairs]))
    gradients = torch.stack(rows)
    spectrum = torch.linalg.eigvalsh(torch.einsum("nw,mw->nm", gradients, gradients))
    return float(spectrum[-1] / spectrum[0])


PLAIN: Mapping[str, Callable[[nn.Module, Draw], float]] = {
    "grad_norm": plain_grad_norm,
    "snip": plain_snip,
    "plain": plain_plain,
    "fisher": plain_fisher,
    "synflow": plain_synflow,
    "zico": plain_zico,
    "naswot": plain_naswot,
    "ntk_cond": plain_ntk_cond,
}


def plain_loop(network: nn.Module, draw: Draw) -> dict[str, float]:
    """Return all eight scores."""
    return {name: compute(network, draw) for name, compute in PLAIN.items()}


# --- Times ---


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds that something takes."""
    start = process_time()
    work()
    return process_time() - start


def medians(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median time of each of some works, done in turns, after one time that doesn't count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            seconds = spent(work)
            if repeat:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def prices(candidates: Sequence[Genotype], repeats: int) -> dict[str, float]:
    """Return the seconds of sets of scores for all candidates, and print them in kernel passes."""
    passes, codes, backward = OF_COST["pass"], OF_COST["forward"], OF_COST["backward"]
    sets = {
        "kernel pass": passes,
        "+ codes": [*passes, *codes],
        "+ gradients of the loss": [*passes, *backward],
        "+ both": [*passes, *codes, *backward],
        **{name: [name] for name in OWN},
    }
    source, space = source_of(settings(passes)), candidates[0].space
    scorers = {
        name: Scorer(space_named(space).supernet(), source, settings(scores), 0) for name, scores in sets.items()
    }
    works = {
        name: partial(lambda scorer: [scorer.score(genotype, range(1)) for genotype in candidates], scorer)
        for name, scorer in scorers.items()
    }
    found = medians(works, repeats)
    print("| computation | scores | kernel passes |\n|---|---|---|")
    for name, scores in sets.items():
        listed = ", ".join(scores) if name in ("kernel pass", *OWN) else f"{len(scores)}"
        print(f"| {name} | {listed} | {found[name] / found['kernel pass']:.2f} |", flush=True)
    ratio = found["+ both"] / found["kernel pass"]
    print(f"all scores of the kernel pass, of codes and of gradients ÷ kernel pass: {ratio:.2f} (wanted: at most 2)")
    return found


def beside_the_loop(candidates: Sequence[Genotype], repeats: int) -> dict[str, Any]:
    """Time the eight scores in both ways and compare their values."""
    config = settings(list(PLAIN))
    scorer = Scorer(space_named(candidates[0].space).supernet(), source_of(config), config, 0)
    rows = []
    for genotype in candidates:
        draw = scorer.draw(genotype, 0)
        theirs = plain_loop(draw.network, draw)
        ours = {record.score: record.draws[0].value for record in scorer.score(genotype, range(1))}
        apart = {
            name: abs(value - theirs[name]) / abs(theirs[name]) for name, value in ours.items() if value is not None
        }
        seconds = medians(
            {
                "loop": partial(plain_loop, draw.network, draw),
                "ours": partial(scorer.score, genotype, range(1)),
                **{name: partial(compute, draw.network, draw) for name, compute in PLAIN.items()},
            },
            repeats,
        )
        rows.append({"genotype": str(genotype), "seconds": seconds, "apart": apart})
    ratios = [row["seconds"]["loop"] / row["seconds"]["ours"] for row in rows]
    print("\n| score | plain loop ÷ all eight of ours | largest relative difference |\n|---|---|---|")
    for name in PLAIN:
        share = statistics.median(row["seconds"][name] / row["seconds"]["ours"] for row in rows)
        apart = max((row["apart"].get(name, 0.0) for row in rows), default=0.0)
        print(f"| {name} | {share:.2f} | {apart:.0e} |")
    print(f"the loop ÷ ours, all eight: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    return {"candidates": rows, "ratio": statistics.median(ratios)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one candidate, one repeat, under a minute")
    parser.add_argument("--candidates", type=int, default=4, help="random cells")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    number, repeats = (1, 1) if given.quick else (given.candidates, 5)
    rng, space = np.random.default_rng(0), space_named("nasbench201")
    # A cell without a path from input to output has no kernel.
    connected: list[Genotype] = []
    while len(connected) < number:
        genotype = space.sample(rng)
        if "none~0|" not in str(genotype) and "nor_conv" in str(genotype):
            connected.append(genotype)
    print(f"torch {torch.__version__}, one thread, {number} cells of NAS-Bench-201, C = 16, 5 cells a stage, 32 x 32")
    results = {"torch": torch.__version__, "prices": prices(connected, repeats)}
    results["plain loop"] = beside_the_loop(connected, repeats)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
