r"""AZ-NAS's scores of stages: a network and noise enter, what its stages make of features and of gradients leaves.

A stage is the stem or a block after it; its features are the maps that it hands on. One forward pass and one small
backward a stage serve three scores. The fourth proxy of AZ-NAS, complexity, is the score ``flops``; how the four are
put together is a ranking of candidates by the sum of the logarithms of their ranks, which no network has alone.

Axes: n inputs · c h w one of them, or the maps of a stage · s stages · d channels of a finer grid's pixels together.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.networks import FewShotNetwork
from metantk_core.networks.cells import DartsBody, NASBench201Body
from metantk_core.scores.record import Outcome, Score

INPUTS = 64
"""Inputs of a batch, as in the published code for NAS-Bench-201."""

_Maps = Float[Tensor, "n _ _ _"]


@dataclass(frozen=True)
class StageStatistics:
    """What the stages of a network do.

    Attributes:
        entropies: Of each stage's features: the entropy, in nats, of the eigenvalues of the covariance of their
            channels, divided by their sum. NaN if the features are the same everywhere or not finite.
        norms: Of each stage but the first: the estimated spectral norm of its Jacobian; infinite where gradients pass
            through unchanged.
        finite: Whether all features are finite.
    """

    entropies: tuple[float, ...]
    norms: tuple[float, ...]
    finite: bool


def gaussian_noise(
    image_shape: tuple[int, int, int], random: torch.Generator, *, inputs: int = INPUTS
) -> Float[Tensor, "n c h w"]:
    """Return the inputs that the published code takes: independent N(0, 1), in float32 on the CPU.

    Args:
        image_shape: Channels, height and width.
        random: Gives the numbers.
        inputs: Number n of inputs.
    """
    return torch.randn(inputs, *image_shape, generator=random)


def stages_of(network: nn.Module, inputs: Float[Tensor, "n c h w"]) -> tuple[nn.Module, ...]:
    """Return the modules whose outputs are the features of stages, in the order in which they run.

    In our networks these are the stem, every cell, and the reductions between them, as in the source. In any other
    module they are looked for from the outside: its children that hold a convolution, run once, and hand on maps of
    more than one pixel (lists and dictionaries of modules stand for what is in them). If there is one such child, its
    own children are asked, and so on: ``conv1`` and ``layer1`` to ``layer4`` of a ResNet, the blocks of ``features`` in
    a MobileNet.

    Args:
        network: Ours or any other.
        inputs: Some images that it takes, for a pass that finds out.

    Returns:
        In a network of attention none, or the one that makes patches.
    """
    body = network.body if isinstance(network, FewShotNetwork) else None
    if isinstance(body, NASBench201Body | DartsBody):
        reductions = body.reductions if isinstance(body, NASBench201Body) else {}
        stages: list[nn.Module] = [body.stem]
        for number, cell in enumerate(body.cells):
            if str(number) in reductions:
                stages.append(reductions[str(number)])
            stages.append(cell)
        return tuple(stages)
    finished: list[nn.Module] = []
    makes_maps: set[nn.Module] = set()

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        finished.append(module)
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2:].numel() > 1:
            makes_maps.add(module)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(inputs[:2])
    finally:
        for hook in hooks:
            hook.remove()
    makes_maps = {m for m in makes_maps if finished.count(m) == 1 and _convolves(m)}
    level = _blocks(network, makes_maps)
    while len(level) == 1 and _blocks(level[0], makes_maps):
        level = _blocks(level[0], makes_maps)
    return tuple(sorted(level, key=finished.index))


def _blocks(parent: nn.Module, makes_maps: set[nn.Module]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for child in parent.children():
        if child in makes_maps:
            blocks.append(child)
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            blocks += _blocks(child, makes_maps)
    return blocks


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())


def stage_statistics(
    network: nn.Module,
    stages: Sequence[nn.Module],
    inputs: Float[Tensor, "n c h w"],
    random: torch.Generator,
) -> StageStatistics:
    r"""Return what the stages of a network do to features and to gradients.

    Of stage l with features :math:`f_l`, signs :math:`g` drawn at random for each number of :math:`f_l`, and the
    gradient :math:`g' = (\partial f_l / \partial f_{l-1})^\top g`, the estimate of the Jacobian at one pixel is the
    mean of :math:`g' g^\top` over images and pixels. Where a stage makes maps smaller, the pixels of its input that one
    pixel of its output stands for count as channels; what a size that doesn't divide lacks is filled up with zeros.

    Gradients go from a stage to the one before along every path that does not start earlier: a cell that also
    sees the cell before the previous one is differentiated by the previous one alone.

    Args:
        network: Published with batch normalisation in training mode and weights from N(0, 2 / fan-in); see
            :func:`metantk_core.networks.batch_normalised`. It is left as it is.
        stages: Modules of the network, in the order in which they run, each once. The features of one that returns a
            list are its last tensor.
        inputs: Published are :func:`gaussian_noise`. On the network's device, in its precision.
        random: Gives the signs.
    """
    entropies: list[float] = []
    norms: list[float] = []
    finite = [True]

    def look(maps: _Maps, before: _Maps | None) -> None:
        finite[0] = finite[0] and bool(maps.isfinite().all())
        entropies.append(_entropy(maps.detach()))
        if before is not None:
            signs = torch.randint(2, maps.shape, generator=random).to(maps) * 2 - 1
            norms.append(_jacobian_norm(maps, before, signs))

    with torch.enable_grad(), exact_arithmetic(), _handed_on(stages, look):
        network(inputs)
    return StageStatistics(tuple(entropies), tuple(norms), finite[0])


@contextmanager
def _handed_on(stages: Sequence[nn.Module], look: Any) -> Iterator[None]:
    """While active, each stage's features start a graph of their own, after ``look`` saw them and those before.

    So no more than one stage's activations are kept for a backward.
    """
    leaves: list[Tensor] = []

    def hand_on(module: nn.Module, arguments: Any, output: Any) -> Any:
        parts = list(output) if isinstance(output, list | tuple) else [output]
        look(parts[-1], leaves[-1] if leaves else None)
        leaves[:] = [parts[-1].detach().requires_grad_()]
        parts[-1] = leaves[0].clone()  # what follows may work in place
        return type(output)(parts) if isinstance(output, list | tuple) else parts[-1]

    hooks = [stage.register_forward_hook(hand_on) for stage in stages]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _entropy(maps: _Maps) -> float:
    rows = maps.transpose(0, 1).flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = (rows @ rows.mT).cpu()
    if not bool(covariance.isfinite().all()):
        return math.nan
    spectrum = torch.linalg.eigvalsh(covariance).clamp_min(0)
    return float(torch.special.entr(spectrum / spectrum.sum()).sum())


def _jacobian_norm(maps: _Maps, before: _Maps, signs: _Maps) -> float:
    if not maps.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(maps, [before], signs, materialize_grads=True)
    if gradient.shape == signs.shape and torch.equal(gradient, signs):
        return math.inf
    grid = torch.Size(min(sizes) for sizes in zip(signs.shape[-2:], gradient.shape[-2:], strict=True))
    given, taken = (_on_grid(values, grid).transpose(0, 1).flatten(1).double() for values in (gradient, signs))
    jacobian: Float64[Tensor, "d _"] = (given @ taken.mT).cpu() / given.shape[1]
    return float(torch.linalg.matrix_norm(jacobian, 2)) if bool(jacobian.isfinite().all()) else math.nan


def _on_grid(values: _Maps, grid: torch.Size) -> Float[Tensor, "n d h w"]:
    """Return maps on a coarser grid, the pixels of each of its cells as channels."""
    (height, width), (tall, wide) = (
        grid,
        (-(-size // cells) for size, cells in zip(values.shape[-2:], grid, strict=True)),
    )
    filled = F.pad(values, (0, wide * width - values.shape[-1], 0, tall * height - values.shape[-2]))
    cells = filled.unflatten(-1, (width, wide)).unflatten(-3, (height, tall))  # n c height tall width wide
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def expressivity(statistics: StageStatistics) -> Score:
    r"""Return :math:`\sum_l s_l`, the entropies of the stages' features: large if features fill their space evenly.

    Source: Lee and Ham, CVPR 2024 (AZ-NAS), expressivity. Eigenvalues of zero count as zero; the published code adds
    :math:`10^{-8}` to the shares in the logarithm.

    Args:
        statistics: What :func:`stage_statistics` gives.

    Returns:
        The number; ``DEGENERATE`` if there is no stage or the features of one are the same everywhere.
    """
    return _missing(statistics, least=1) or Score(sum(statistics.entropies))


def progressivity(statistics: StageStatistics) -> Score:
    r"""Return :math:`\min_l (s_l - s_{l-1})`, the least growth of entropy from a stage to the next.

    Source: Lee and Ham, CVPR 2024 (AZ-NAS), progressivity.

    Args:
        statistics: What :func:`stage_statistics` gives.

    Returns:
        The number; ``DEGENERATE`` for the reasons of :func:`expressivity`, or if there are fewer than two stages.
    """
    failed = _missing(statistics, least=2)
    return failed or Score(min(after - before for before, after in pairwise(statistics.entropies)))


def trainability(statistics: StageStatistics) -> Score:
    r"""Return the mean over stages of :math:`2 - \sigma_l - 1 / \sigma_l`: 0 if all keep the size of gradients.

    σ is the spectral norm of the estimated Jacobian.

    Source: Lee and Ham, CVPR 2024 (AZ-NAS), trainability.

    Args:
        statistics: What :func:`stage_statistics` gives.

    Returns:
        At most 0; ``DEGENERATE`` if there are fewer than two stages, or if one passes gradients through unchanged (its
        signs come back, and the estimate would be one of signs with themselves) or none at all. The published code
        gives minus infinity, and about :math:`-10^6`, then.
    """
    if len(statistics.norms) < 1:
        return Score(None, Outcome.DEGENERATE, "fewer than two stages were found")
    if not statistics.finite or any(math.isnan(norm) for norm in statistics.norms):
        return Score(None, Outcome.NON_FINITE, "the features or gradients of some stage are not finite")
    for words, norm in (("unchanged", math.inf), ("nowhere", 0.0)):
        if norm in statistics.norms:
            number = statistics.norms.index(norm) + 2
            return Score(None, Outcome.DEGENERATE, f"gradients pass through stage {number} {words}")
    return Score(sum(2 - norm - 1 / norm for norm in statistics.norms) / len(statistics.norms))


def _missing(statistics: StageStatistics, least: int) -> Score | None:
    if not statistics.finite:
        return Score(None, Outcome.NON_FINITE, "the features of some stage are not finite")
    if len(statistics.entropies) < least:
        return Score(None, Outcome.DEGENERATE, f"fewer than {'two stages' if least == 2 else 'one stage'} were found")
    flat = [number for number, entropy in enumerate(statistics.entropies, start=1) if math.isnan(entropy)]
    if flat:
        return Score(None, Outcome.DEGENERATE, f"the features of stage {flat[0]} are the same everywhere")
    return None
