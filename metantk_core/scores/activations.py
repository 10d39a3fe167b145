r"""Which ReLUs are on: a network and images enter, a kernel of codes or the number of linear regions leaves.

A code is the pattern of signs of the inputs of all ReLUs, every channel and position of an image; a ReLU is on where
its output is positive. ReLUs are seen where the forward pass computes them, be they modules or functions.

Axes: n images · c h w one image · u units of all ReLUs.
"""

from collections.abc import MutableMapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from metantk_core.kernels import outputs_with_relus, watched
from metantk_core.scores.record import Outcome, Score

_COLUMNS = 2**20  # of a code at a time: float32 counts exactly up to 2^24


class CodeKernel:
    r"""Number of units on which two images agree; a function that is shown the output of each ReLU of a pass.

    .. math:: K = \sum_{\text{ReLUs}} C C^\top + (1 - C)(1 - C)^\top,

    with one row of zeros and ones per image in C, which is not kept. A ReLU that is shown again counts again.

    Args:
        images: Number of images.
    """

    def __init__(self, images: int) -> None:
        self._sum = torch.zeros(images, images, dtype=torch.float64)
        self._seen: MutableMapping[Tensor, tuple[int, Tensor]] = WeakTensorKeyDictionary()

    def __call__(self, output: Float[Tensor, "n ..."]) -> None:
        """Add the agreements of one ReLU's output."""
        version, agreements = self._seen.get(output, (-1, self._sum))
        if version != output._version:
            agreements = torch.zeros_like(self._sum, device=output.device)
            for on in (output.detach() > 0).flatten(1).split(_COLUMNS, dim=1):
                signs = torch.where(on, 1.0, -1.0)  # their products count agreements minus disagreements
                agreements += (signs @ signs.mT + signs.shape[1]).double() / 2
            self._seen[output] = output._version, agreements
        self._sum = self._sum.to(output.device) + agreements

    @property
    def kernel(self) -> Float64[Tensor, "n n"]:
        """The sum so far: whole numbers, on the CPU."""
        return self._sum.cpu()


def code_kernel(network: nn.Module, images: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n n"] | None:
    """Return the kernel of codes from the forward pass of the kernel engine alone.

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.

    Returns:
        Whole numbers; none if the network's outputs are not finite.
    """
    codes = CodeKernel(len(images))
    outputs = outputs_with_relus(network, images, codes)
    return codes.kernel if bool(outputs.isfinite().all()) else None


def naswot(kernel: Float64[Tensor, "n n"]) -> Score:
    """Return the log-determinant of a kernel of codes: large where images have different codes.

    Source: Mellor et al., ICML 2021.

    Args:
        kernel: What :func:`code_kernel` gives.

    Returns:
        The natural logarithm; ``DEGENERATE`` if the kernel is singular (two images with the same code, or too few
        units), by the rule of ``numpy.linalg.matrix_rank``.
    """
    spectrum = torch.linalg.eigvalsh(kernel)
    if spectrum[0] <= len(kernel) * torch.finfo(torch.float64).eps * spectrum[-1]:
        alike = int((kernel == kernel.diagonal().max()).sum(dim=1).gt(1).sum())
        why = f"{alike} of {len(kernel)} images share their code with another" if alike else "too few codes differ"
        return Score(None, Outcome.DEGENERATE, f"the kernel of activation codes is singular: {why}")
    return Score(float(spectrum.log().sum()))


def linear_regions(network: nn.Module, images: Float[Tensor, "n c h w"]) -> Score:
    r"""Return the number of different codes among images: :math:`\sum_i 1 / \#\{j : code_j = code_i\}`.

    Source: Xiong et al., ICML 2020; Chen, Gong, Wang, ICLR 2021 (TE-NAS).

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.

    Returns:
        From 1 to n; ``NON_FINITE`` if the network's outputs are.
    """
    parts: list[UInt8[np.ndarray, "n _"]] = []

    def keep(output: Tensor) -> None:
        parts.append(_packed((output > 0).flatten(1)))

    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False), watched(keep):
        outputs = network(images)
    if not bool(outputs.isfinite().all()):
        return Score(None, Outcome.NON_FINITE, "logits on the images that count linear regions are not finite")
    if not parts:
        return Score(1.0)  # no ReLU: linear everywhere
    codes = np.concatenate(parts, axis=1)
    return Score(float(len({code.tobytes() for code in codes})))


def _packed(on: Bool[Tensor, "n u"]) -> UInt8[np.ndarray, "n _"]:
    return np.packbits(on.cpu().numpy(), axis=1)
