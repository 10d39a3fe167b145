"""ResNet-12 as few-shot learning has it, and the squares of its maps that training leaves out at random.

Axes: n images, c channels (d: other channels), h height, w width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.errors import InputError
from metantk_core.networks.normalisation import Normalise

_WIDTHS = (64, 160, 320, 640)
_SLOPE = 0.1  # of negative activations
_LEAST = 2 ** len(_WIDTHS)
_DROPPED = 2  # stages, the last ones, whose maps lose squares
_SIDE, _SMALL_SIDE = 5, 2  # of a square, in maps of at least 5 pixels (images of 80) and in smaller ones


class ResNet12Block(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, all normalised, and 2x2 max pooling of their sum.

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave.
        norm: Makes the normalisation.

    Attributes:
        kept: What the output is multiplied by; see :func:`dropping_blocks`.
    """

    kept: Tensor | None = None

    def __init__(self, in_channels: int, out_channels: int, norm: Normalise) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for channels in (in_channels, out_channels, out_channels):
            self.convs.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False))
            self.norms.append(norm(out_channels))
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return activations of half the height and width, rounded down."""
        total = self.shortcut(x)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(F.leaky_relu(x, _SLOPE) if number else x))
        x = F.max_pool2d(F.leaky_relu(total + x, _SLOPE), 2)
        return x if self.kept is None else x * self.kept


class ResNet12Body(nn.Module):
    """Four residual blocks of widths 64, 160, 320 and 640, leaky ReLU of slope 0.1 (Lee et al. 2019; Tian et al. 2020).

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 16.
        norm: Makes the normalisation.

    Attributes:
        out_channels: Channels of the maps.

    Raises:
        InputError: The images are too small to be halved four times.
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], norm: Normalise) -> None:
        super().__init__()
        if min(image_size) < _LEAST:
            raise InputError(
                f"Expected images of at least {_LEAST} x {_LEAST} pixels for ResNet-12, which halves them four times, "
                f"got {image_size[0]} x {image_size[1]}; set a larger image_size, or take another network."
            )
        self.blocks = nn.ModuleList()
        for width in _WIDTHS:
            self.blocks.append(ResNet12Block(in_channels, width, norm))
            in_channels = width
        self.out_channels = in_channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the feature maps of images."""
        for block in self.blocks:
            x = block(x)
        return x


@contextmanager
def dropping_blocks(
    network: nn.Module, share: float, images: Float[Tensor, "n c h w"], random: torch.Generator
) -> Iterator[None]:
    r"""Leave squares out of the maps of ResNet-12's last two stages at random while images pass once.

    DropBlock [Ghiasi et al. 2018, Algorithm 1], as RFS trains ResNet-12: each position at which a square of side b fits
    into a map of side s begins one with probability :math:`p \, s^2 / (b^2 (s - b + 1)^2)`, image by image and channel
    by channel; what stays is scaled so that as much passes as there was. Squares have 5 pixels a side, and 2 in maps of
    fewer than 5.

    Args:
        network: Other networks than ResNet-12 are left as they are.
        share: Share p of a map that is left out, about, below 1.
        images: What will pass.
        random: On the CPU, so that what is left out is the same on all devices.
    """
    blocks: list[ResNet12Block] = []
    if share > 0:
        for body in network.modules():
            if isinstance(body, ResNet12Body):
                blocks = [block for block in body.blocks if isinstance(block, ResNet12Block)]
    for stage in range(max(0, len(blocks) - _DROPPED), len(blocks)):
        height, width = (size // 2 ** (stage + 1) for size in images.shape[-2:])
        kept = kept_positions((len(images), _WIDTHS[stage], height, width), share, random)
        blocks[stage].kept = kept.to(images.device, images.dtype)
    try:
        yield
    finally:
        for block in blocks:
            block.kept = None


def kept_positions(shape: tuple[int, int, int, int], share: float, random: torch.Generator) -> Float[Tensor, "n d h w"]:
    """Return maps with zeros in squares, and elsewhere one number, so that their mean is 1.

    Args:
        shape: Of the maps.
        share: Share of zeros, about.
        random: Gives the places.
    """
    number, channels, height, width = shape
    side = _SIDE if min(height, width) >= _SIDE else min(_SMALL_SIDE, height, width)
    down, across = height - side + 1, width - side + 1
    begins = share * height * width / (side**2 * down * across)
    starts = (torch.rand(number, channels, down, across, generator=random) < begins).float()
    # A position is in a square that begins up to a side above it and to its left.
    dropped = F.max_pool2d(F.pad(starts, (side - 1,) * 4), side, stride=1)
    kept = 1 - dropped
    return kept * (kept.numel() / kept.sum().clamp_min(1))
