"""ResNet-12 as few-shot learning has it: images enter, feature maps leave.

Axes: n images, c channels (d: other channels), h height, w width.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.errors import InputError
from metantk_core.networks.normalisation import Normalise

_WIDTHS = (64, 160, 320, 640)
_SLOPE = 0.1  # of negative activations
_LEAST = 2 ** len(_WIDTHS)


class ResNet12Block(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, all normalised, and 2x2 max pooling of their sum.

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave.
        norm: Makes the normalisation.
    """

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
        return F.max_pool2d(F.leaky_relu(total + x, _SLOPE), 2)


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
