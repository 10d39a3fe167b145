r"""Gram matrices of the per-image weight gradients of one layer: its input and its output gradient enter, [n n] leaves.

With the patches :math:`U_a` [k p] of an image's input and its output gradient :math:`G_a` [d p], the weight's gradient
is :math:`J_a = G_a U_a^\top`, and the entry of the Gram matrix is

.. math:: \langle J_a, J_b \rangle = \sum_{p,q} (U_a^\top U_b)_{pq} (G_a^\top G_b)_{pq}.

Each layer takes the cheapest of these exact ways: the right side where there are few positions (``product_gram``,
linear layers), :math:`J` from unfolded patches, from one product a tap, or from one convolution with every image as a
group of its own.

Axes: n images · c input channels, d output channels · h w input, p q output pixels · k entries of a patch ·
p positions (flattened pixels) · _ anything.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BLOCK_BYTES = 32 * 2**20
"""Most memory that the per-image gradients of one layer take at a time (a single output channel may need more)."""

_MANY_POSITIONS = 128
"""Pixels of an output from which on one grouped convolution is faster than products (measured on a CPU)."""

_TILE = 16
"""Rows that the kernels of matrix products work on together."""


@dataclass(frozen=True)
class Convolution:
    """The settings of a convolution over 1, 2 or 3 axes.

    Attributes:
        kernel: Size of the kernel along each axis.
        stride: Step along each axis.
        padding: Zeros on both sides of each axis.
        dilation: Distance of taps along each axis.
        groups: Number of groups of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def unit_stride(self) -> bool:
        """Whether the kernel moves by one pixel."""
        return set(self.stride) == {1}

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel sees all channels of the one input pixel at its place."""
        return self.groups == 1 and self.unit_stride and set(self.kernel) == {1} and set(self.padding) == {0}


@lru_cache
def without_unseen_pixels(size: tuple[int, ...], settings: Convolution) -> tuple[tuple[slice, ...], Convolution] | None:
    """Return the pixels that a convolution looks at and its settings on these alone; None if it looks at all of them.

    A convolution with stride 2 and dilation 2, or with stride 2 and one tap, never looks at every other row.

    Args:
        size: Of the input, along each axis.
        settings: Of the layer.
    """
    pixels, left_of, smaller = [], [], []
    for length, kernel, stride, padding, dilation in zip(
        size, settings.kernel, settings.stride, settings.padding, settings.dilation, strict=True
    ):
        step = stride if kernel == 1 else math.gcd(stride, dilation)
        start = -padding % step
        along = kernel, stride // step, (padding + start) // step, max(1, dilation // step)
        left = -(-(length - start) // step)
        if left < 1 or _outputs(left, *along) != _outputs(length, kernel, stride, padding, dilation):
            return None
        pixels.append(slice(start, None, step))
        left_of.append(left)
        smaller.append(along)
    if tuple(left_of) == size:
        return None
    kernel, stride, padding, dilation = (tuple(values) for values in zip(*smaller, strict=True))
    return tuple(pixels), Convolution(kernel, stride, padding, dilation, settings.groups)


def _outputs(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def linear_gram(x: Float[Tensor, "n *p c"], g: Float[Tensor, "n *p d"]) -> Float[Tensor, "n n"]:
    """Return the Gram matrix of the gradients of a linear layer's weight.

    Args:
        x: Input of the layer; there may be positions between images and features.
        g: Gradient of its output.
    """
    if x.dim() == 2:
        return (x @ x.mT) * (g @ g.mT)
    return product_gram(g.flatten(1, -2).mT, x.flatten(1, -2).mT)


def bias_gram(g: Float[Tensor, "n d p"]) -> Float[Tensor, "n n"]:
    """Return the Gram matrix of the gradients of a bias.

    Args:
        g: Gradient of the layer's output.
    """
    gradients = g.sum(2)
    return gradients @ gradients.mT


def convolution_gram(
    x: Float[Tensor, "n c *hw"], g: Float[Tensor, "n d *pq"], settings: Convolution
) -> Float[Tensor, "n n"]:
    """Return the Gram matrix of the gradients of a convolution's weight.

    Args:
        x: Input of the layer.
        g: Gradient of its output, contiguous.
        settings: Of the layer.
    """
    images, channels = x.shape[:2]
    if settings.groups > 1:
        if settings.groups == channels == g.shape[1] and x.dim() == 4 and set(settings.dilation) != {1}:
            return _depthwise_by_taps(x, g, settings)
        return _by_grouped_convolution(x, g, settings)
    if settings.pointwise:
        return product_gram(g.flatten(2), x.flatten(2))
    positions = g[0, 0].numel()
    few = _positions_are_few(images, positions, g.shape[1], channels * math.prod(settings.kernel))
    if x.dim() != 4 or (positions >= _MANY_POSITIONS and not few):
        return _by_grouped_convolution(x, g, settings)
    if few:
        patches = F.unfold(x, settings.kernel, settings.dilation, settings.padding, settings.stride)
        return product_gram(g.flatten(2), patches)
    return _by_rows(x, g, settings)


def convolution(
    x: Float[Tensor, "n c *hw"],
    weight: Float[Tensor, "d _ *kernel"],
    bias: Float[Tensor, " d"] | None,
    settings: Convolution,
) -> Float[Tensor, "n d *pq"]:
    """Return the output of a convolution.

    Args:
        x: Input of the layer.
        weight: Weight of the layer.
        bias: Bias of the layer, if it has one.
        settings: Of the layer.
    """
    if settings.pointwise:
        outputs = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)).view(len(x), -1, *x.shape[2:])
        return outputs if bias is None else outputs.add_(bias[(slice(None), *(None,) * (x.dim() - 2))])
    axes = len(settings.stride)
    return torch.convolution(
        x, weight, bias, settings.stride, settings.padding, settings.dilation, False, (0,) * axes, settings.groups
    )


def weight_gradient(
    x: Float[Tensor, "n ..."], g: Float[Tensor, "n ..."], settings: Convolution | None
) -> Float[Tensor, "d ..."]:
    """Return the gradient of a layer's weight, summed over images.

    Args:
        x: Input of the layer.
        g: Gradient of its output, contiguous.
        settings: Of a convolution; None for a linear layer.
    """
    if settings is None:
        return g.reshape(-1, g.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
    # Only the shape of the weight is looked at.
    weight = g.new_empty(1).expand(g.shape[1], x.shape[1] // settings.groups, *settings.kernel)
    return _backward(x, weight, g, settings, settings.groups, 1)


def input_gradient(
    x: Float[Tensor, "n c *hw"],
    weight: Float[Tensor, "d _ *kernel"],
    g: Float[Tensor, "n d *pq"],
    settings: Convolution,
) -> Float[Tensor, "n c *hw"]:
    """Return the gradient of a convolution's input.

    Args:
        x: Input of the layer.
        weight: Weight of the layer.
        g: Gradient of its output, contiguous.
        settings: Of the layer.
    """
    if settings.pointwise:
        return torch.bmm(weight.flatten(1).mT.expand(len(g), -1, -1), g.flatten(2)).view(x.shape)
    depthwise = settings.groups == x.shape[1] == g.shape[1]
    reach = [step * (size - 1) for step, size in zip(settings.dilation, settings.kernel, strict=True)]
    padding = [far - near for far, near in zip(reach, settings.padding, strict=True)]
    if depthwise and settings.unit_stride and x.dim() == 4 and min(padding) >= 0:
        # The same numbers as below; libraries run a depthwise convolution several times faster forwards.
        return F.conv2d(g, weight.flip(2, 3), None, 1, padding, settings.dilation, settings.groups)
    return _backward(x, weight, g, settings, settings.groups, 0)


def product_gram(g: Float[Tensor, "n d p"], u: Float[Tensor, "n k p"]) -> Float[Tensor, "n n"]:
    """Return the Gram matrix of the products ``g @ u.T``, the cheaper way.

    Args:
        g: Output gradients.
        u: Inputs (patches of them) at the same positions.
    """
    images, rows, positions = g.shape
    entries = u.shape[1]
    if _positions_are_few(images, positions, rows, entries):
        left, right = (z.transpose(1, 2).flatten(0, 1) for z in (g, u))
        products = (left @ left.mT).mul_(right @ right.mT)
        return products.unflatten(1, (images, positions)).unflatten(0, (images, positions)).sum((1, 3))
    # Rows of zeros fill up the last tile of a matrix product's kernel, which is faster than what it does with a rest.
    filled = -(-images // _TILE) * _TILE
    total = g.new_zeros(filled, filled)
    block = max(1, min(rows, _BLOCK_BYTES // (filled * entries * g.element_size())))
    buffer = g.new_zeros(filled, block * entries)
    for part in g.split(block, dim=1):
        gradients = buffer[:, : part.shape[1] * entries]
        torch.bmm(part, u.mT, out=gradients[:images].view(images, -1, entries))
        total.addmm_(gradients, gradients.mT)
    return total[:images, :images]


def _positions_are_few(images: int, positions: int, rows: int, entries: int) -> bool:
    """Return whether two position-by-position products are fewer operations than the gradients and their product."""
    return images * positions**2 * (rows + entries) < (positions + images) * rows * entries


def _by_rows(x: Float[Tensor, "n c h w"], g: Float[Tensor, "n d p q"], settings: Convolution) -> Float[Tensor, "n n"]:
    """Patches of one row of taps at a time: those of all rows are parts of one tensor, whose copies are few."""
    outputs, (height, width) = g.flatten(2), g.shape[2:]
    padded = F.pad(x, (settings.padding[1],) * 2 + (settings.padding[0],) * 2)
    if settings.kernel[1] > 1 or settings.stride[1] > 1:
        images, channels, row, pixel = padded.stride()
        shape = *padded.shape[:2], settings.kernel[1], padded.shape[2], width
        steps = images, channels, settings.dilation[1] * pixel, row, settings.stride[1] * pixel
        padded = padded.as_strided(shape, steps).flatten(1, 2)
    total = g.new_zeros(len(g), len(g))
    for tap in range(settings.kernel[0]):
        start = tap * settings.dilation[0]
        window = padded[:, :, start : start + (height - 1) * settings.stride[0] + 1 : settings.stride[0], :width]
        total += product_gram(outputs, window.flatten(2))
    return total


def _depthwise_by_taps(
    x: Float[Tensor, "n c h w"], g: Float[Tensor, "n c p q"], settings: Convolution
) -> Float[Tensor, "n n"]:
    """Correlation of input and output gradient over the few taps; dilated ones have no fast convolution backwards."""
    padded = F.pad(x, (settings.padding[1],) * 2 + (settings.padding[0],) * 2)
    spans = [(size - 1) * step + 1 for size, step in zip(g.shape[2:], settings.stride, strict=True)]
    gradients = g.new_empty(settings.kernel[0] * settings.kernel[1], len(g), g.shape[1])
    product = torch.empty_like(g)
    for tap, total in enumerate(gradients):
        top, left = (
            index * step for index, step in zip(divmod(tap, settings.kernel[1]), settings.dilation, strict=True)
        )
        window = padded[:, :, top : top + spans[0] : settings.stride[0], left : left + spans[1] : settings.stride[1]]
        torch.sum(torch.mul(window, g, out=product), (2, 3), out=total)
    return torch.einsum("tnc,tmc->nm", gradients, gradients)


def _by_grouped_convolution(
    x: Float[Tensor, "n c *hw"], g: Float[Tensor, "n d *pq"], settings: Convolution
) -> Float[Tensor, "n n"]:
    """One weight gradient of a convolution whose groups are the images' groups: all per-image gradients at once."""
    images, rows = g.shape[:2]
    entries = x.shape[1] // settings.groups
    merged = x.reshape(1, -1, *x.shape[2:])
    total = g.new_zeros(images, images)
    block = rows
    if settings.groups == 1:
        block = max(1, min(rows, _BLOCK_BYTES // (images * entries * math.prod(settings.kernel) * g.element_size())))
    for part in g.split(block, dim=1):
        # Only the shape of the weight is looked at.
        weight = g.new_empty(1).expand(images * part.shape[1], entries, *settings.kernel)
        outputs = part.reshape(1, -1, *g.shape[2:])
        gradients = _backward(merged, weight, outputs, settings, images * settings.groups, 1).reshape(images, -1)
        total.addmm_(gradients, gradients.mT)
    return total


def _backward(
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "..."],
    g: Float[Tensor, "..."],
    settings: Convolution,
    groups: int,
    wanted: int,
) -> Float[Tensor, "..."]:
    """Return one of the gradients of a convolution: of its input (0) or of its weight (1)."""
    mask = [number == wanted for number in range(3)]
    stride, padding, dilation = list(settings.stride), list(settings.padding), list(settings.dilation)
    results = torch.ops.aten.convolution_backward.default(
        g, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, mask
    )
    return results[wanted]
