"""MeCo: a network enters, a sum over its convolutions of how independent the channels of their maps are leaves.

Axes: d channels · h w pixels of a layer's maps.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.scores.record import Outcome, Score

SIZE = 64
"""Height and width of the input, as in the published code, whatever images the network is for."""


def meco(network: nn.Module, channels: int, random: torch.Generator, *, size: int = SIZE) -> Score:
    r"""Return :math:`\sum_l \lambda_{\min}(P_l)`, P being the correlations between the channels of layer l's maps.

    The network sees one image of Gaussian noise, in a forward pass without gradients. A layer is a convolution, be it a
    module or a function: normalisation after it scales and shifts channels, which changes no correlation. (The
    published code counts the output of every module instead, containers too, so that the sum depends on how a network
    is put together.) Maps with no more pixels than channels contribute 0, as do those with a channel that is the same
    at all pixels: its correlations count as 0, as published.

    Source: Jiang, Wang, Bie, NeurIPS 2023 (MeCo).

    Args:
        network: Published with batch normalisation, of this one image; see
            :func:`metantk_core.networks.batch_normalised`.
        channels: Channels of the images that it takes.
        random: Gives the image.
        size: Height and width of the image.

    Returns:
        From 0 to the number of convolutions; ``DEGENERATE`` if there is none.
    """
    example = next(network.parameters(), torch.empty(()))
    image = torch.randn(1, channels, size, size, generator=random).to(example)
    with torch.no_grad(), exact_arithmetic(), _Convolutions() as seen:
        network(image)
    if not seen.smallest:
        return Score(None, Outcome.DEGENERATE, "the network has no convolution")
    total = sum(seen.smallest)
    if not math.isfinite(total):
        return Score(None, Outcome.NON_FINITE, "the maps of some convolution are not finite")
    return Score(total)


class _Convolutions(TorchDispatchMode):
    """Keeps the smallest eigenvalue of the correlations of each convolution's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.smallest: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and result.dim() > 2:
            self.smallest.append(_smallest_eigenvalue(result[0].flatten(1)))
        return result


def _smallest_eigenvalue(maps: Float[Tensor, "d _"]) -> float:
    wide = maps.double().cpu()
    if not bool(wide.isfinite().all()):
        return math.nan
    if wide.shape[1] <= wide.shape[0]:
        return 0.0  # centred rows span one direction less than there are pixels
    centred = wide - wide.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1)
    if bool((lengths <= wide.shape[1] * torch.finfo(wide.dtype).eps * wide.abs().amax(dim=1)).any()):
        return 0.0
    directions = centred / lengths[:, None]
    return max(torch.linalg.eigvalsh(directions @ directions.mT)[0].item(), 0.0)
