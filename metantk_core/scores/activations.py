r"""Which ReLUs are on: a network and images enter, a kernel of codes or a number of different codes leaves.

A code is the pattern of signs of the inputs of all ReLUs, every channel and position of an image; a ReLU is on where
its output is positive. ReLUs are seen where the forward pass computes them, be they modules or functions.

Axes: n images · c h w one image · u units of all ReLUs.
"""

import math
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped, UInt8, UInt64
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels import outputs_with_relus, outputs_with_relus_by_chunks
from metantk_core.kernels.shortcuts import OnRelu
from metantk_core.scores.record import Outcome, Score

_COLUMNS = 2**20  # of a code at a time: float32 counts exactly up to 2^24
_PATTERNS = 2**20  # of single units that wait for being compared: 8 MB for up to 64 images
_MANY = 8  # a pass that almost all images are done with is left when this share of them remains
_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
# What a forward pass is made of, as far as results depend on arguments alone and nothing is changed in place.
_PURE = frozenset(
    {
        torch.ops.aten.relu.default,
        torch.ops.aten.convolution.default,
        torch.ops.aten.native_group_norm.default,
        torch.ops.aten.avg_pool2d.default,
        torch.ops.aten.max_pool2d_with_indices.default,
        torch.ops.aten.constant_pad_nd.default,
        torch.ops.aten.cat.default,
        torch.ops.aten.add.Tensor,
        torch.ops.aten.div.Tensor,
        torch.ops.aten.mul.Tensor,
    }
)
# Batch normalisation by the moments of the batch alone, on any device; with moments to update it would be no function.
_BATCH_NORMS = frozenset({torch.ops.aten.native_batch_norm.default, torch.ops.aten.cudnn_batch_norm.default})
_BYTES = 8  # of an image's code that are looked at together
_NOT_FINITE = Score(None, Outcome.NON_FINITE, "logits on the images that count linear regions are not finite")


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

    def __call__(self, output: Shaped[Tensor, "n ..."]) -> None:
        """Add the agreements of one ReLU's output, or of which of its units are on."""
        version, agreements = self._seen.get(output, (-1, self._sum))
        if version != output._version:
            agreements = torch.zeros_like(self._sum, device=output.device)
            for codes in output.detach().flatten(1).split(_COLUMNS, dim=1):
                on = (codes > 0).to(torch.float32)
                both = (on @ on.mT).double()
                number = both.diagonal()  # of units that are on
                agreements += on.shape[1] - number[:, None] - number + 2 * both
            self._seen[output] = output._version, agreements
        self._sum = self._sum.to(output.device) + agreements

    @property
    def kernel(self) -> Float64[Tensor, "n n"]:
        """The sum so far: whole numbers, on the CPU."""
        return self._sum.cpu()


def code_kernel(
    network: nn.Module, images: Float[Tensor, "n c h w"], at_once: int | None = None
) -> Float64[Tensor, "n n"] | None:
    """Return the kernel of codes from the forward pass of the kernel engine alone.

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.
        at_once: Images in one pass; all if not given.

    Returns:
        Whole numbers; none if the network's outputs are not finite.
    """
    codes = CodeKernel(len(images))
    outputs = _outputs(network, images, at_once, codes)
    return codes.kernel if bool(outputs.isfinite().all()) else None


def naswot(kernel: Float64[Tensor, "n n"]) -> Score:
    """Return the log-determinant of a kernel of codes: large where images have different codes.

    Source: Mellor et al., ICML 2021.

    Args:
        kernel: What :func:`code_kernel` gives.

    Returns:
        The natural logarithm; ``DEGENERATE`` if the kernel is singular (no ReLU, two images with the same code, or too
        few units), by the rule of ``numpy.linalg.matrix_rank``.
    """
    if not bool(kernel.any()):
        return Score(None, Outcome.DEGENERATE, "the network has no ReLU")
    spectrum = torch.linalg.eigvalsh(kernel)
    if spectrum[0] <= len(kernel) * torch.finfo(torch.float64).eps * spectrum[-1]:
        alike = int((kernel == kernel.diagonal().max()).sum(dim=1).gt(1).sum())
        why = f"{alike} of {len(kernel)} images share their code with another" if alike else "too few codes differ"
        return Score(None, Outcome.DEGENERATE, f"the kernel of activation codes is singular: {why}")
    return Score(float(spectrum.log().sum()))


class SamplePatterns:
    """Different patterns of single units over the images; a function that is shown the output of each ReLU of a pass.

    The pattern of a unit says for which images it is on. Units of all ReLUs, channels and positions are compared with
    each other, and a ReLU that is shown again adds nothing.

    Args:
        images: Number of images.
    """

    def __init__(self, images: int) -> None:
        self._distinct = np.empty((0, -(-images // 64)), dtype=np.uint64)  # 64 images in a word
        self._pending: list[UInt64[np.ndarray, "u _"]] = []
        self._seen: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def __call__(self, output: Shaped[Tensor, "n ..."]) -> None:
        """Take up the patterns of one ReLU's units, given its output or which of them are on."""
        if self._seen.get(output) == output._version:
            return
        self._seen[output] = output._version
        packed = np.packbits((output.detach() > 0).flatten(1).cpu().numpy(), axis=0)
        patterns = np.zeros((packed.shape[1], 8 * self._distinct.shape[1]), dtype=np.uint8)
        patterns[:, : len(packed)] = packed.T
        self._pending.append(patterns.view(np.uint64))
        if sum(map(len, self._pending)) > max(_PATTERNS, len(self._distinct)):
            self._merge()

    @property
    def count(self) -> int:
        """Number of different patterns so far."""
        self._merge()
        return len(self._distinct)

    def _merge(self) -> None:
        rows = np.concatenate([self._distinct, *self._pending])
        self._pending.clear()
        # Sorting whole numbers is far faster than numpy's unique.
        rows = np.sort(rows, axis=0) if rows.shape[1] == 1 else rows[np.lexsort(rows.T)]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        self._distinct = rows[new]


def sample_patterns(
    network: nn.Module, images: Float[Tensor, "n c h w"], at_once: int | None = None
) -> SamplePatterns | None:
    """Return the patterns of all units from the forward pass of the kernel engine alone.

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.
        at_once: Images in one pass; all if not given.

    Returns:
        None if the network's outputs are not finite.
    """
    patterns = SamplePatterns(len(images))
    outputs = _outputs(network, images, at_once, patterns)
    return patterns if bool(outputs.isfinite().all()) else None


def _outputs(
    network: nn.Module, images: Float[Tensor, "n c h w"], at_once: int | None, on_relu: OnRelu
) -> Float[Tensor, "n ..."]:
    if at_once is None or at_once >= len(images):
        return outputs_with_relus(network, images, on_relu)
    return outputs_with_relus_by_chunks(network, images, at_once, on_relu)


def swap(patterns: SamplePatterns) -> Score:
    r"""Return the number of different patterns of units over the images, :math:`|\{\, (1[z_u(x_i) > 0])_{i} : u \,\}|`.

    At most :math:`2^n` for n images, and at most the number of units. ``naswot`` compares the images' codes, this
    compares those of the units.

    Source: Peng et al., ICLR 2024 (SWAP-NAS).

    Args:
        patterns: What has seen the ReLUs of a pass.

    Returns:
        The number; ``DEGENERATE`` if the network has no ReLU.
    """
    if not patterns.count:
        return Score(None, Outcome.DEGENERATE, "the network has no ReLU")
    return Score(float(patterns.count))


def swap_regularised(patterns: SamplePatterns, parameters: int, *, centre: float, width: float) -> Score:
    r"""Return the number of :func:`swap` times :math:`\exp(-(\Theta - \mu)^2 / \sigma)`.

    Θ is the number of parameters. The factor draws a search towards networks of a size; μ and σ belong to the search,
    not to the network. As in the published code, Θ and μ are in thousands, and σ, which is not squared, in their
    squares.

    Source: Peng et al., ICLR 2024 (SWAP-NAS), regularised SWAP-Score.

    Args:
        patterns: As for :func:`swap`.
        parameters: Trainable parameters of the network.
        centre: μ, in thousands of parameters.
        width: σ, above 0.

    Returns:
        The number; ``DEGENERATE`` for the reason of :func:`swap`, or if the factor is too small for float64.
    """
    score = swap(patterns)
    if score.value is None:
        return score
    value = score.value * math.exp(-((parameters / 1000 - centre) ** 2) / width)
    if value < np.finfo(np.float64).tiny:
        return Score(None, Outcome.DEGENERATE, f"{parameters:,} parameters are too far from {centre:g} thousand")
    return Score(value)


def linear_regions(network: nn.Module, images: Float[Tensor, "n c h w"], reuse: "Reuse | None" = None) -> Score:
    r"""Return the number of different codes among images: :math:`\sum_i 1 / \#\{j : code_j = code_i\}`.

    Most images have a code of their own after a few ReLUs, and no further ReLU takes it away from them. So the pass is
    left when few images still share theirs, and only those are looked at to the end.

    Source: Xiong et al., ICML 2020; Chen, Gong, Wang, ICLR 2021 (TE-NAS).

    Args:
        network: Does not mix images.
        images: Images on the network's device, in its precision.
        reuse: Results of networks that share modules with this one, on the same tensor of images; takes up new ones.

    Returns:
        From 1 to n; ``NON_FINITE`` if the network's outputs are, for an image that was looked at to the end.
    """
    reuse = Reuse(0) if reuse is None else reuse
    regions = _Regions(len(images), few=len(images) // _MANY)
    try:
        outputs = _forward(network, images, regions.look, reuse)
        decided = 0
    except _FewLeft:
        left = np.flatnonzero(regions.alike)
        decided = len(images) - len(left)
        rest = reuse.once(tuple(left), lambda given: given[left if len(left) else [0]], (images,))
        regions = _Regions(len(rest), few=None)
        outputs = _forward(network, rest, regions.look, reuse)
        decided -= not len(left)  # the one that stands for all is counted already
    if not bool(outputs.isfinite().all()):
        return _NOT_FINITE
    return Score(float(decided + regions.count()))


def linear_regions_of_batches(
    network: nn.Module, batches: Sequence[Float[Tensor, "n c h w"]], reuse: "Reuse | None" = None
) -> Score:
    r"""Return the number of different codes, as :func:`linear_regions` does, for a network that mixes a batch's images.

    Every image takes part in the moments that all images of its batch are normalised by, so that none can be left out
    before the end. Codes are compared across batches.

    Args:
        network: Computes an image from the images of its batch.
        batches: Images on the network's device, in its precision.
        reuse: As for :func:`linear_regions`; the batches must be the same tensors.

    Returns:
        From 1 to the number of images; ``NON_FINITE`` if some output of the network is.
    """
    reuse = Reuse(0) if reuse is None else reuse
    different: set[bytes] = set()
    for images in batches:
        codes = [torch.zeros(len(images), 0, dtype=torch.uint8)]

        def look(output: Tensor, codes: list[Tensor] = codes) -> None:
            codes.append(reuse.once("packed", _packed, (output,)))

        outputs = _forward(network, images, look, reuse)
        if not bool(outputs.isfinite().all()):
            return _NOT_FINITE
        different.update(map(bytes, torch.cat(codes, dim=1).numpy()))
    return Score(float(len(different)))


def _packed(output: Float[Tensor, "n ..."]) -> UInt8[Tensor, "n _"]:
    """Return which units of a ReLU are on, 8 in a byte, on the CPU."""
    return torch.from_numpy(np.packbits((output > 0).flatten(1).cpu().numpy(), axis=1))


def _forward(
    network: nn.Module, images: Float[Tensor, "n c h w"], look: Callable[[Tensor], None], reuse: "Reuse"
) -> Tensor:
    """Return the outputs of one forward pass without gradients, whose ReLUs ``look`` sees."""
    with torch.no_grad(), exact_arithmetic(), _Pass(look, reuse):
        return network(images)


class Reuse:
    """What was made of the same tensors before: activations that come before the first difference of two networks.

    Tensors are known by identity and version, and those of kept results are kept alive.

    Args:
        limit: Bytes that are kept. When there is more, what was not given again since the last time is forgotten; 0
            keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: dict[object, _Kept] = {}

    def once(self, name: object, make: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Return what a function makes of arguments, made now or before.

        Args:
            name: Name of the function.
            make: Depends on nothing but its arguments, which it does not change.
            args: Tensors, sequences of tensors, or values that can be compared.

        Returns:
            A tensor, or several as a tuple.
        """
        if not self._limit:
            return make(*args)
        key = name, _identity(args)
        kept = self._kept.get(key)
        if kept is not None and _identity(kept.result) == kept.identity:
            kept.again = True
            return kept.result
        result = make(*args)
        kept = self._kept[key] = _Kept(result, _identity(result), args)
        self._bytes += kept.bytes
        if self._bytes > self._limit:
            self._forget_some()
        return result

    def _forget_some(self) -> None:
        self._kept = {key: kept for key, kept in self._kept.items() if kept.again}
        self._bytes = sum(kept.bytes for kept in self._kept.values())
        if self._bytes > self._limit / 2:
            self._kept, self._bytes = {}, 0
        for kept in self._kept.values():
            kept.again = False


@dataclass
class _Kept:
    result: Any
    identity: Any
    args: Sequence[Any]  # held, so that no other tensor gets the identity of one of them
    again: bool = False

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.result if isinstance(self.result, tuple) else (self.result,)))


def _identity(value: Any) -> Any:
    """Return what tells a value from others."""
    if isinstance(value, Tensor):
        return id(value), value._version
    return tuple(map(_identity, value)) if isinstance(value, tuple | list) else (type(value), value)


class _Pass(TorchDispatchMode):
    """Shows the output of every ReLU and gives results again."""

    def __init__(self, look: Callable[[Tensor], None], reuse: Reuse) -> None:
        super().__init__()
        self._look, self._reuse = look, reuse

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        pure = (func in _PURE or (func in _BATCH_NORMS and args[3] is None)) and not kwargs
        result = self._reuse.once(func, func, args) if pure else func(*args, **(kwargs or {}))
        if func in _RELUS:
            self._look(result)
        return result


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
        self._unseen.append(_packed(output).numpy())
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
