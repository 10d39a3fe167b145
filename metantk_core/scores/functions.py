"""How each score is computed: the evidence of a draw enters, a number or an outcome leaves; one line a score.

What the names mean is in :mod:`metantk_core.scores.definitions`, and in the functions that these lines lead to.

Axes: n images of the batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.candidates import Costs
from metantk_core.kernels import Precision, centred_targets, held_out_predictions
from metantk_core.scores.activations import linear_regions, linear_regions_of_batches, naswot
from metantk_core.scores.alignment import (
    kernel_target_alignment,
    label_gradient_alignment,
    same_class,
    spectral_entropy,
)
from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.config import CompleteLoop, inner_loop
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.evidence import Draw, Evidence, KernelEvidence, NoScore
from metantk_core.scores.gradients import LossGradients, fisher, fisher_fan_in, grad_norm, plain, snip, zico
from metantk_core.scores.record import Outcome, Score
from metantk_core.scores.synflow import synflow


class Measured(NamedTuple):
    """A value that knows the precision of the gradients behind it."""

    value: Score | float
    precision: Precision


ScoreFunction = Callable[[Evidence, CompleteLoop], Score | float | Measured]
"""What computes a score of one draw; the inner loop matters to scores of the MetaNTK alone."""


def evaluated(name: str, evidence: Evidence) -> Score:
    """Return one score of a draw.

    Args:
        name: A score that is not counted.
        evidence: Of the draw.
    """
    try:
        found = FUNCTIONS[SCORES.plain_name(name)](evidence, inner_loop(name, evidence.draw.config))
    except NoScore as nothing:
        return nothing.score
    value, precision = found if isinstance(found, Measured) else (found, "float32")
    return replace(value if isinstance(value, Score) else checked(name, value), precision=precision)


def checked(name: str, value: float) -> Score:
    """Return a number as a score, or the outcome that it stands for."""
    label = SCORES[name].label
    if value == -math.inf or (value <= 0 and SCORES[name].scale == "log10"):
        return Score(None, Outcome.DEGENERATE, f"{label} is the logarithm of zero: nothing there to measure")
    if not math.isfinite(value):
        return Score(None, Outcome.NON_FINITE, f"{label} is not finite")
    return Score(value)


def _of_ntk(
    measure: Callable[[Float64[Tensor, "n n"], KernelEvidence, Draw], Score | float], *, smallest: bool = False
) -> ScoreFunction:
    """Return the score that is measured on the NTK; ``smallest`` if its smallest eigenvalue matters."""

    def score(evidence: Evidence, _: CompleteLoop) -> Measured:
        kernels = evidence.kernels(smallest=smallest)
        return Measured(measure(kernels.ntk.full, kernels, evidence.draw), kernels.precision)

    return score


def _of_meta_ntk(
    measure: Callable[[KernelEvidence, CompleteLoop, Draw], Score | float], *, smallest: bool = True
) -> ScoreFunction:
    """Return the score that is measured on the MetaNTK; ``smallest`` if its smallest eigenvalue matters."""

    def score(evidence: Evidence, loop: CompleteLoop) -> Measured:
        kernels = evidence.kernels(loop, smallest=smallest)
        return Measured(measure(kernels, loop, evidence.draw), kernels.precision)

    return score


def _unevenness(measure: Callable[..., Score]) -> ScoreFunction:
    """Return the score that says how uneven the spectrum of the MetaNTK is."""
    return _of_meta_ntk(
        lambda kernels, loop, _: measure(kernels.meta(loop), precision=kernels.epsilon, floor=kernels.meta_floor(loop))
    )


def _aligned(alignment: Callable[[Float64[Tensor, "n n"], Float64[Tensor, "n n"]], float]) -> ScoreFunction:
    return _of_ntk(lambda ntk, _, draw: alignment(ntk, same_class(draw.classes)))


def _metantk_entropy(kernels: KernelEvidence, loop: CompleteLoop, draw: Draw) -> float:
    meta = kernels.meta(loop)
    return spectral_entropy(meta) if bool(meta.isfinite().all()) else math.nan


def _regression(kernels: KernelEvidence, loop: CompleteLoop, draw: Draw) -> tuple[float, float]:
    """Return accuracy and squared loss of kernel regression, each task predicted from the others."""
    ways, episodes = draw.config.episode.ways, draw.episodes
    labels = torch.stack([episode.query_labels for episode in episodes])
    targets = centred_targets(labels, ways)
    support = centred_targets(torch.stack([episode.support_labels for episode in episodes]), ways)
    meta, adapted, floor = kernels.meta(loop), kernels.adapted(loop), kernels.meta_floor(loop)
    predicted = torch.cat(
        [
            held_out_predictions(
                meta, adapted, support, targets, held_out=(task,), floor=floor, precision=kernels.epsilon
            )
            for task in range(len(episodes))
        ]
    )
    accuracy = (predicted.argmax(dim=-1) == labels).double().mean().item()
    return accuracy, (predicted - targets).square().sum(dim=-1).mean().item()


def _of_gradients(measure: Callable[[LossGradients], float]) -> ScoreFunction:
    return lambda evidence, _: measure(evidence.gradients)


def _linear_regions(evidence: Evidence, _: CompleteLoop) -> Score:
    draw = evidence.draw
    assert draw.regions_network is not None
    batches = draw.regions_images()
    if draw.config.linear_regions.definition == "published":
        return linear_regions_of_batches(draw.regions_network, batches, draw.reuse)
    (images,) = batches
    return linear_regions(draw.regions_network, images, draw.reuse)


FUNCTIONS: Mapping[str, ScoreFunction] = MappingProxyType(
    {
        "metantk_cond": _unevenness(condition_number),
        "ntk_cond": _of_ntk(lambda ntk, of, _: condition_number(ntk, precision=of.epsilon), smallest=True),
        "ntk_trace": _of_ntk(lambda ntk, *_: ntk.trace().item()),
        "ntk_frobenius": _of_ntk(lambda ntk, *_: ntk.norm().item()),
        "spectral_entropy": _of_ntk(lambda ntk, *_: spectral_entropy(ntk)),
        "label_gradient_alignment": _aligned(label_gradient_alignment),
        "kernel_target_alignment": _aligned(kernel_target_alignment),
        "metantk_logdet": _unevenness(log_determinant),
        "metantk_trace_ratio": _unevenness(trace_ratio),
        "metantk_spectral_entropy": _of_meta_ntk(_metantk_entropy, smallest=False),
        "metantk_regression_accuracy": _of_meta_ntk(lambda *of: _regression(*of)[0]),
        "metantk_regression_loss": _of_meta_ntk(lambda *of: _regression(*of)[1]),
        "naswot": lambda evidence, _: naswot(evidence.codes),
        "grad_norm": _of_gradients(grad_norm),
        "snip": _of_gradients(snip),
        "plain": _of_gradients(plain),
        "fisher": _of_gradients(fisher),
        "fisher_fan_in": _of_gradients(fisher_fan_in),
        "zico": _of_gradients(zico),
        "synflow": lambda evidence, _: synflow(evidence.network, evidence.draw.image_shape),
        "linear_regions": _linear_regions,
    }
)
"""Every score that depends on a draw."""

COUNTS: Mapping[str, Callable[[Costs], int]] = MappingProxyType(
    {"params": lambda costs: costs.params, "flops": lambda costs: costs.macs}
)
"""Every score that is counted."""
