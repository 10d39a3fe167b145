"""Operations of the search spaces: channels, stride and a normalisation enter, a module leaves.

Every operation keeps the number of channels and divides height and width by the stride (rounding up). Convolutions
have no bias, for a normalisation follows. Nothing works in place: gradients are taken under ``torch.func.vmap``.

Axes: n images, c channels (d: other channels), h height, w width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.networks.normalisation import Normalise

#: Makes an operation from (channels, stride, normalisation).
MakeOperation = Callable[[int, int, Normalise], nn.Module]


class Zero(nn.Module):
    """The operation ``none``: zeros, which stay tied to the input so that its parameters get a gradient of zero."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return zeros of the shape of the input."""
        return x * 0


class FactorisedReduction(nn.Module):
    """Halves height and width: two strided 1x1 convolutions, one on even pixels, one on odd pixels, side by side.

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave, at least 2; each convolution makes half of them.
        norm: Makes the normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Normalise) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, stride=2, bias=False)
        self.norm = norm(out_channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return activations of half the height and width, rounded up."""
        x = self.relu(x)
        height, width = x.shape[-2:]
        # Shifted by one pixel; an odd size is filled up with zeros, so that both halves have the same size.
        shifted = F.pad(x, (-1, width % 2, -1, height % 2))
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=-3))


def relu_conv_norm(in_channels: int, out_channels: int, kernel: int, norm: Normalise, *, stride: int = 1) -> nn.Module:
    """Return ReLU, convolution, normalisation; the size stays (up to the stride).

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave.
        kernel: Odd size of the kernel in pixels.
        norm: Makes the normalisation.
        stride: Stride of the convolution.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return _chain(relu=nn.ReLU(), conv=conv, norm=norm(out_channels))


def _chain(**modules: nn.Module) -> nn.Sequential:
    # Named, so that the parameters' names say what they are.
    chain = nn.Sequential()
    for name, module in modules.items():
        chain.add_module(name, module)
    return chain


def _separable(channels: int, stride: int, norm: Normalise, *, kernel: int = 3, dilation: int = 1) -> nn.Module:
    """Return ReLU, depthwise convolution, pointwise convolution, normalisation."""
    depthwise = nn.Conv2d(
        channels,
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return _chain(relu=nn.ReLU(), depthwise=depthwise, pointwise=pointwise, norm=norm(channels))


def _skip(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, norm)


def _sep_conv(channels: int, stride: int, norm: Normalise, *, kernel: int = 3) -> nn.Module:
    return _chain(
        first=_separable(channels, stride, norm, kernel=kernel), second=_separable(channels, 1, norm, kernel=kernel)
    )


def _sep_conv_5x5(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return _sep_conv(channels, stride, norm, kernel=5)


def _dil_conv(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return _separable(channels, stride, norm, dilation=2)


def _dil_conv_5x5(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return _separable(channels, stride, norm, kernel=5, dilation=2)


def _avg_pool(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return _chain(pool=nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False), norm=norm(channels))


def _max_pool(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return _chain(pool=nn.MaxPool2d(3, stride=stride, padding=1), norm=norm(channels))


def _conv_1x5_5x1(channels: int, stride: int, norm: Normalise) -> nn.Module:
    # The first halves both axes, as in the space's source (Elsken et al., CVPR 2020), not each convolution its own.
    across = nn.Conv2d(channels, channels, (1, 5), stride=stride, padding=(0, 2), bias=False)
    down = nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False)
    return _chain(relu=nn.ReLU(), across=across, down=down, norm=norm(channels))


def _none(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return Zero()


def _bare_avg_pool(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


def _nor_conv_1x1(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return relu_conv_norm(channels, channels, 1, norm, stride=stride)


def _nor_conv_3x3(channels: int, stride: int, norm: Normalise) -> nn.Module:
    return relu_conv_norm(channels, channels, 3, norm, stride=stride)


#: How each space makes its operations; the same name can mean different modules in different spaces.
OPERATIONS: Mapping[str, Mapping[str, MakeOperation]] = MappingProxyType(
    {
        "nasbench201": MappingProxyType(
            {
                "none": _none,
                "skip_connect": _skip,
                "nor_conv_1x1": _nor_conv_1x1,
                "nor_conv_3x3": _nor_conv_3x3,
                "avg_pool_3x3": _bare_avg_pool,
            }
        ),
        "darts_fewshot": MappingProxyType(
            {
                "skip_connect": _skip,
                "sep_conv_3x3": _sep_conv,
                "dil_conv_3x3": _dil_conv,
                "avg_pool_3x3": _avg_pool,
                "max_pool_3x3": _max_pool,
                "conv_1x5_5x1": _conv_1x5_5x1,
                "conv_3x3": _separable,
            }
        ),
        # Pools are normalised as in the published search network, where batch normalisation (without affine
        # parameters) follows them; the published final network has bare pools. Here both networks of a candidate are
        # of one kind, the one that `darts_fewshot` has.
        "darts": MappingProxyType(
            {
                "skip_connect": _skip,
                "sep_conv_3x3": _sep_conv,
                "sep_conv_5x5": _sep_conv_5x5,
                "dil_conv_3x3": _dil_conv,
                "dil_conv_5x5": _dil_conv_5x5,
                "avg_pool_3x3": _avg_pool,
                "max_pool_3x3": _max_pool,
            }
        ),
    }
)

#: Raised whenever an operation of the space, and with it the networks of its candidates, or a named network changes:
#: what was computed with another revision is never served from a store.
REVISIONS: Mapping[str, int] = MappingProxyType({"nasbench201": 1, "darts_fewshot": 2, "darts": 1, "named": 1})
