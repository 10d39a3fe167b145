"""4-CONV, the yardstick of few-shot learning: images enter, feature maps leave.

Axes: n images, c channels (d: filters), h height, w width.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.errors import InputError
from metantk_core.networks.normalisation import Normalise

_BLOCKS = 4
_LEAST = 2**_BLOCKS


class Conv4Body(nn.Module):
    """Four times a 3x3 convolution with bias, normalisation, ReLU and 2x2 max pooling (Vinyals et al. 2016; Finn 2017).

    Images of 84 pixels leave as maps of 5, of 32 as maps of 2, of 28 as maps of 1: pooling rounds down.

    Args:
        in_channels: Channels of the images.
        filters: Filters of each convolution.
        image_size: Height and width of the images, at least 16.
        norm: Makes the normalisation.

    Attributes:
        out_channels: Channels of the maps.
        num_positions: Positions of the maps.

    Raises:
        InputError: The images are too small to be halved four times.
    """

    def __init__(self, in_channels: int, filters: int, image_size: tuple[int, int], norm: Normalise) -> None:
        super().__init__()
        if min(image_size) < _LEAST:
            raise InputError(
                f"Expected images of at least {_LEAST} x {_LEAST} pixels for 4-CONV, which halves them four times, got "
                f"{image_size[0]} x {image_size[1]}; set a larger image_size, or take another network."
            )
        self.blocks = nn.ModuleList()
        for number in range(_BLOCKS):
            parts = OrderedDict[str, nn.Module](
                conv=nn.Conv2d(filters if number else in_channels, filters, 3, padding=1),
                norm=norm(filters),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(2),
            )
            self.blocks.append(nn.Sequential(parts))
        self.out_channels = filters
        self.num_positions = (image_size[0] // _LEAST) * (image_size[1] // _LEAST)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the feature maps of images."""
        for block in self.blocks:
            x = block(x)
        return x
