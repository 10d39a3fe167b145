r"""Which ReLUs are on: a network and images enter, a kernel of codes or the number of linear regions leaves.

A code is the pattern of signs of the inputs of all ReLUs, every channel and position of an image; a ReLU is on where
its output is positive. ReLUs are seen where the forward pass computes them, be they modules or functions.

Axes: n images · c h w one image · u units of all ReLUs.
"""

from collections.abc import Callable, MutableMapping

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from metantk_core.kernels import outputs_with_relus, watched
from metantk_core.scores.record import Outcome, Score

_COLUMNS = 2**20  # of a code at a time: float32 counts exactly up to 2^24
_MANY = 8  # a pass that almost all images are done with is left when this share of them remains
_BYTES = 8  # of an image's code that are looked at together


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

    Most images have a code of their own after a few ReLUs, and no further ReLU takes it away from them. So the pass is
    left when few images still share theirs, and only those are looked at to the end.

    Source: Xiong et al., ICML 2020; Chen, Gong, Wang, ICLR 2021 (TE-NAS).

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.

    Returns:
        From 1 to n; ``NON_FINITE`` if the network's outputs are, for an image that was looked at to the end.
    """
    regions = _Regions(len(images), few=len(images) // _MANY)
    try:
        outputs = _forward(network, images, regions.look)
        decided = 0
    except _FewLeft:
        left = np.flatnonzero(regions.alike)
        decided = len(images) - len(left)
        rest = images[torch.from_numpy(left).to(images.device)] if len(left) else images[:1]
        regions = _Regions(len(rest), few=None)
        outputs = _forward(network, rest, regions.look)
        decided -= not len(left)  # the one that stands for all is counted already
    if not bool(outputs.isfinite().all()):
        return Score(None, Outcome.NON_FINITE, "logits on the images that count linear regions are not finite")
    return Score(float(decided + regions.count()))


def _forward(network: nn.Module, images: Float[Tensor, "n c h w"], look: Callable[[Tensor], None]) -> Tensor:
    """Return the outputs of one forward pass without gradients, whose ReLUs ``look`` sees."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False), watched(look):
        return network(images)


class _FewLeft(Exception):  # noqa: N818 - no error
    """Almost all images have a code of their own."""


class _Regions:
    """Which images have the same code in all ReLUs so far.

    Args:
        images: Number n of images.
        few: A ReLU that leaves so many images that share their code, or fewer, raises ``_FewLeft``, unless there were
            numbers that are not finite; None looks at all ReLUs.
    """

    def __init__(self, images: int, few: int | None) -> None:
        self.alike = np.ones(images, dtype=bool)
        self._few = few
        self._groups = np.zeros(images, dtype=np.int32)  # of the images that share their code
        self._unseen: list[UInt8[np.ndarray, "n _"]] = []
        self._finite = True

    def look(self, output: Tensor) -> None:
        """Take the code of one more ReLU into account."""
        self._unseen.append(np.packbits((output > 0).flatten(1).cpu().numpy(), axis=1))
        if self._few is None:
            return
        self._finite = self._finite and bool(output.isfinite().all())
        if sum(code.shape[1] for code in self._unseen) >= _BYTES:
            self._tell_apart()
            if self._finite and int(self.alike.sum()) <= self._few:
                raise _FewLeft

    def count(self) -> int:
        """Return the number of different codes."""
        self._tell_apart()
        return int((~self.alike).sum()) + len(np.unique(self._groups))

    def _tell_apart(self) -> None:
        if not self._unseen or not len(self._groups):
            return
        codes = np.concatenate([self._groups[:, None].view(np.uint8), *(code[self.alike] for code in self._unseen)], 1)
        self._unseen.clear()
        _, groups, sizes = np.unique(
            codes.view(np.dtype((np.void, codes.shape[1]))).ravel(), return_inverse=True, return_counts=True
        )
        shared = sizes[groups] > 1
        self._groups = groups[shared].astype(np.int32)
        self.alike[self.alike] = shared
