r"""Zen-NAS's score: a network enters, the logarithm of how far its last maps move with its input leaves.

No image and no label is looked at: weights and inputs are Gaussian noise.

Axes: n inputs · c h w one of them · d p q its last maps.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels import parameter_names
from metantk_core.networks import FewShotNetwork
from metantk_core.networks.normalisation import BatchMoments
from metantk_core.scores.record import Outcome, Score
from metantk_core.seeding import generator

INPUTS = 16
"""Inputs of a batch, as in the published code; averages over repeats are taken over a score's draws."""

_ALPHA = 0.01
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, BatchMoments)
_AFFINE = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def zen(
    network: nn.Module, image_shape: tuple[int, int, int], random: torch.Generator, *, inputs: int = INPUTS
) -> Score:
    r"""Return Zen-NAS's score, a measure of how much the last maps vary with the input.

    .. math:: \log \operatorname{mean}_{x, \epsilon} \|f(x) - f(x + \alpha \epsilon)\|_F
        + \sum_{\text{batch norms}} \tfrac12 \log \operatorname{mean}_j \sigma_j^2,

    where f gives the last feature maps, before global average pooling, :math:`\alpha = 0.01`, x and ε are independent
    N(0, 1), and :math:`\sigma_j^2` is the variance of channel j over the batch of x that a normalisation divides by:
    the second term puts back what batch normalisation takes away. All weights are drawn anew from N(0, 1), biases are
    0, normalisation scales by 1. Every parameter has random numbers of its own, keyed by its name, so that two networks
    that have a layer in common have it with the same weights.

    What the sources differ in: the norm is Frobenius's, as in the paper (the codes of Zen-NAS, NASLib and AZ-NAS take
    the sum of absolute values); variances are those of this batch, as in the paper (the codes read running averages: of
    earlier repeats, or, with one repeat as in NASLib and AZ-NAS, 81 % of the ones that they start from). The paper
    takes residual links away before; as in NASLib and AZ-NAS that is not done here, where a cell's skip connections are
    what is searched for. A normalisation that sees nothing but zeros (behind a node without input) counts as nothing.

    Source: Lin et al., ICCV 2021 (Zen-NAS), algorithm 1.

    Args:
        network: Has batch normalisation, see :func:`metantk_core.networks.batch_normalised`; without any it is the
            first term alone, the logarithm of the paper's Φ-score. It is left as it is. The last maps of a module other
            than ours are the last tensor with four axes and more than one pixel of its forward pass.
        image_shape: Channels, height and width of the inputs.
        random: Gives all random numbers.
        inputs: Number n of inputs.

    Returns:
        The number; ``DEGENERATE`` if the last maps do not depend on the input.
    """
    seed = int(torch.randint(2**62, (), generator=random))
    drawn = copy.deepcopy(network)
    _draw(drawn, seed)
    example = next(drawn.parameters(), torch.empty(()))
    noise = torch.randn(2, inputs, *image_shape, generator=generator(seed, "inputs")).to(example)
    variances: list[Tensor] = []  # stay where they are until the pass has ended: a GPU need not be waited for

    def look(module: nn.Module, arguments: tuple) -> None:
        wide = arguments[0].double()
        variances.append(wide.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean())

    maps = last_maps(drawn)
    with torch.no_grad(), exact_arithmetic():
        hooks = [m.register_forward_pre_hook(look) for m in drawn.modules() if isinstance(m, _BATCH_NORMS)]
        before = maps(noise[0])
        for hook in hooks:
            hook.remove()
        if before is None:
            return Score(None, Outcome.DEGENERATE, "the network makes no feature maps of more than one pixel")
        after = maps(noise[0] + _ALPHA * noise[1])
    assert after is not None
    numbers = torch.stack(variances).tolist() if variances else []
    logarithms = [math.log(number) / 2 if number > 0 else math.nan for number in numbers if number != 0]
    moved = (before.double() - after.double()).flatten(1).norm(dim=1).mean().item()
    if moved == 0:
        return Score(None, Outcome.DEGENERATE, "the last feature maps do not depend on the input")
    if not math.isfinite(moved + sum(logarithms)):
        return Score(None, Outcome.NON_FINITE, "the last feature maps or their variances are not finite")
    return Score(math.log(moved) + sum(logarithms))


def last_maps(network: nn.Module) -> Callable[[Float[Tensor, "n c h w"]], Tensor | None]:
    """Return what computes the feature maps that global average pooling sees.

    Args:
        network: One of ours, whose body makes them, or any module: then they are the last tensor of four axes with
            more than one pixel that its forward pass makes. In a network with attention that may be no maps at all.

    Returns:
        A function of images; it gives None if there are no such maps.
    """
    if isinstance(network, FewShotNetwork):
        return network.body

    def traced(images: Float[Tensor, "n c h w"]) -> Tensor | None:
        with _LastMaps() as found:
            network(images)
        return found.maps

    return traced


class _LastMaps(TorchDispatchMode):
    """Keeps the last tensor of four axes with more than one pixel."""

    maps: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple) else result
        if isinstance(first, Tensor) and first.dim() == 4 and first.shape[-2:].numel() > 1:
            self.maps = first
        return result


@torch.no_grad()
def _draw(network: nn.Module, seed: int) -> None:
    """Give a network weights from N(0, 1), without biases and with neutral normalisation."""
    counted = {choice: set(parameter_names(network, choice)) for choice in ("weights", "weights+biases")}
    for name, parameter in network.named_parameters():
        if name in counted["weights"]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, "parameter", name)))
        elif name in counted["weights+biases"]:
            parameter.zero_()
    for module in network.modules():
        if isinstance(module, _AFFINE):
            for parameter, neutral in ((module.weight, 1.0), (module.bias, 0.0)):
                if parameter is not None:
                    parameter.fill_(neutral)
