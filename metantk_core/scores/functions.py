"""How each score is computed: the evidence of a draw enters, a number or an outcome leaves; one line a score.

What the names mean is in :mod:`metantk_core.scores.definitions`, and in the functions that these lines lead to.

Axes: n images of the batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from metantk_core.candidates import Costs
from metantk_core.device_memory import NoRoomError, in_chunks, sparingly
from metantk_core.kernels import TOLERANCE, Precision, centred_targets, held_out_predictions
from metantk_core.networks import FewShotNetwork, count_parameters
from metantk_core.scores.activations import linear_regions, linear_regions_of_batches, naswot, swap, swap_regularised
from metantk_core.scores.alignment import (
    kernel_target_alignment,
    label_gradient_alignment,
    same_class,
    spectral_entropy,
)
from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.config import CompleteLoop, inner_loop
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.evidence import Draw, Evidence, KernelEvidence, NoScore, Source
from metantk_core.scores.gradients import (
    fisher,
    fisher_fan_in,
    grad_norm,
    gradsign,
    grasp,
    plain,
    snip,
    zico,
    zico_error,
)
from metantk_core.scores.jacobians import epe_nas, jacob_cov
from metantk_core.scores.meco import SIZE, meco
from metantk_core.scores.record import Outcome, Score
from metantk_core.scores.stages import expressivity, progressivity, trainability
from metantk_core.scores.synflow import synflow, synflow_bn
from metantk_core.scores.weights import l2_norm
from metantk_core.scores.zen import zen


class Measured(NamedTuple):
    """A value that knows the precision of the gradients behind it."""

    value: Score | float
    precision: Precision


@dataclass(frozen=True)
class ScoreFunction:
    """How a score is computed from the evidence of one draw.

    Attributes:
        source: The evidence that it is computed from.
        compute: Takes evidence and the inner loop, which matters to scores of the MetaNTK alone.
    """

    source: Source
    compute: Callable[[Evidence, CompleteLoop], Score | float | Measured]


def evaluated(name: str, evidence: Evidence) -> Score:
    """Return one score of a draw.

    Args:
        name: A score that is not counted.
        evidence: Of the draw.
    """
    compute, loop = FUNCTIONS[SCORES.plain_name(name)].compute, inner_loop(name, evidence.draw.config)
    try:
        # What can be computed from fewer images at a time is so already, where the evidence is made.
        found = sparingly(lambda: compute(evidence, loop))
    except NoScore as nothing:
        return nothing.score
    except NoRoomError as too_little:
        return Score(None, Outcome.OUT_OF_MEMORY, str(too_little))
    value, precision = found if isinstance(found, Measured) else (found, "float32")
    return replace(value if isinstance(value, Score) else checked(name, value), precision=precision)


def sources(names: Iterable[str]) -> dict[str, Source]:
    """Return the evidence that each score is computed from.

    Args:
        names: Scores that are not counted.
    """
    return {name: FUNCTIONS[SCORES.plain_name(name)].source for name in names}


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

    return ScoreFunction("kernels", score)


def _of_meta_ntk(
    measure: Callable[[KernelEvidence, CompleteLoop, Draw], Score | float], *, smallest: bool = True
) -> ScoreFunction:
    """Return the score that is measured on the MetaNTK; ``smallest`` if its smallest eigenvalue matters."""

    def score(evidence: Evidence, loop: CompleteLoop) -> Measured:
        kernels = evidence.kernels(loop, smallest=smallest)
        return Measured(measure(kernels, loop, evidence.draw), kernels.precision)

    return ScoreFunction("kernels", score)


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


def _of(source: Source, measure: Callable[..., Score | float]) -> ScoreFunction:
    """Return the score that is measured on one kind of evidence."""
    return ScoreFunction(source, lambda evidence, _: measure(getattr(evidence, source)))


def _own(measure: Callable[[Evidence], Score | float]) -> ScoreFunction:
    """Return the score that has a pass of its own."""
    return ScoreFunction("draw", lambda evidence, _: measure(evidence))


def _linear_regions(evidence: Evidence) -> Score:
    draw = evidence.draw
    assert draw.regions_network is not None
    batches = draw.regions_images()
    if draw.config.linear_regions.definition == "published":
        return linear_regions_of_batches(draw.regions_network, batches, draw.reuse)
    (images,) = batches
    return linear_regions(draw.regions_network, images, draw.reuse)


def _grasp(evidence: Evidence) -> float:
    draw = evidence.draw
    try:
        gradients, images, labels = evidence.gradients, draw.task_images, draw.task_labels
        return in_chunks(
            lambda at_once: grasp(evidence.network, images, labels, gradients, at_once), max(map(len, images))
        )
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        reason = f"torch has no second derivative of what the network computes ({str(error).splitlines()[0]})"
        raise NoScore(Outcome.DEGENERATE, reason) from None


def _zico(evidence: Evidence) -> float | Measured:
    gradients = evidence.gradients
    value = zico(gradients)
    # The estimate may be several times too small.
    if zico_error(gradients) <= TOLERANCE / 10 * abs(value):
        return value
    exact = evidence.exact_gradients
    return value if exact is None else Measured(zico(exact), "float64")


def _zen(evidence: Evidence) -> Score:
    network = evidence.batch_normalised
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return Score(None, Outcome.DEGENERATE, "Zen-NAS is defined with batch normalisation, and the network has none")
    return zen(network, evidence.draw.image_shape, evidence.random("zen"))


def _meco(evidence: Evidence) -> Score:
    try:
        return meco(evidence.batch_normalised, evidence.draw.image_shape[0], evidence.random("meco"))
    except RuntimeError:
        if isinstance(evidence.network, FewShotNetwork):
            raise
        return Score(None, Outcome.DEGENERATE, f"the network can't take the image of {SIZE} x {SIZE} pixels of MeCo")


def _gradsign(evidence: Evidence) -> Score | float:
    value = gradsign(evidence.network, evidence.draw.task_images, evidence.draw.task_labels)
    return value or Score(None, Outcome.DEGENERATE, "all gradients are zero: the loss depends on no weight")


def _swap_regularised(evidence: Evidence) -> Score:
    settings = evidence.draw.config.swap
    assert settings is not None
    parameters = count_parameters(evidence.network)
    return swap_regularised(evidence.patterns, parameters, centre=settings.centre, width=settings.width)


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
        "naswot": _of("codes", naswot),
        "swap": _of("patterns", swap),
        "swap_regularised": ScoreFunction("patterns", lambda evidence, _: _swap_regularised(evidence)),
        "grad_norm": _of("gradients", grad_norm),
        "snip": _of("gradients", snip),
        "plain": _of("gradients", plain),
        "fisher": _of("gradients", fisher),
        "fisher_fan_in": _of("gradients", fisher_fan_in),
        "zico": ScoreFunction("gradients", lambda evidence, _: _zico(evidence)),
        "grasp": _own(_grasp),
        "gradsign": _own(_gradsign),
        "synflow": _own(lambda of: synflow(of.network, of.draw.image_shape)),
        "synflow_bn": _own(lambda of: synflow_bn(of.batch_normalised, of.draw.image_shape)),
        "jacob_cov": _of("jacobian", jacob_cov),
        "epe_nas": ScoreFunction("jacobian", lambda of, _: epe_nas(of.jacobian, of.draw.classes)),
        "zen": _own(_zen),
        "az_expressivity": _of("stages", expressivity),
        "az_progressivity": _of("stages", progressivity),
        "az_trainability": _of("stages", trainability),
        "meco": _own(_meco),
        "l2_norm": _own(lambda of: l2_norm(of.network)),
        "linear_regions": _own(_linear_regions),
    }
)
"""Every score that depends on a draw."""

COUNTS: Mapping[str, Callable[[Costs], int]] = MappingProxyType(
    {"params": lambda costs: costs.params, "flops": lambda costs: costs.macs}
)
"""Every score that is counted."""
