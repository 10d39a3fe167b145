"""Weights by seed: a network and a purpose enter, the same network with weights that depend on nothing else leaves.

Axes: g groups of a convolution · o outputs and i inputs of one group, an input being one tap of one channel.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from metantk_core.seeding import generator


def _kaiming(shape: torch.Size, groups: int, random: torch.Generator) -> Float32[Tensor, "..."]:
    return torch.randn(shape, generator=random) * math.sqrt(2 / shape[1:].numel())


def _orthogonal(shape: torch.Size, groups: int, random: torch.Generator) -> Float32[Tensor, "..."]:
    blocks = torch.randn(groups, shape[0] // groups, shape[1:].numel(), generator=random)
    outputs, inputs = blocks.shape[1:]
    tall = blocks if outputs > inputs else blocks.mT
    # QR of a Gaussian matrix is uniform over all orthogonal ones if the diagonal of R is positive (Mezzadri 2007);
    # in double precision, so that the numbers are the same wherever they are taken.
    basis, triangle = torch.linalg.qr(tall.double())
    basis = basis * torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None, :]
    weights = (basis if outputs > inputs else basis.mT) * math.sqrt(2 * max(outputs / inputs, 1.0))
    return weights.float().reshape(shape)


def _torch_default(shape: torch.Size, groups: int, random: torch.Generator) -> Float32[Tensor, "..."]:
    return _uniform(shape, shape[1:].numel(), random)


def _uniform(shape: torch.Size, inputs: int, random: torch.Generator) -> Float32[Tensor, "..."]:
    return (2 * torch.rand(shape, generator=random) - 1) / math.sqrt(inputs)


#: Draws a weight from (shape, groups of its convolution, generator).
_WEIGHTS: Mapping[str, Callable[[torch.Size, int, torch.Generator], Tensor]] = MappingProxyType(
    {"kaiming": _kaiming, "orthogonal": _orthogonal, "torch_default": _torch_default}
)


@torch.no_grad()
def initialise(network: nn.Module, seed: int, *purpose: str | int, scheme: str = "kaiming") -> None:
    r"""Give every parameter of a network its initial value, in place.

    Normalisations have scale 1 and shift 0. What the weights of convolutions and linear layers are is the scheme:

    - ``kaiming``: independent, :math:`N(0, 2 / \text{fan in})` (He et al. 2015); biases are 0.
    - ``orthogonal``: the weights of a layer (of each group of a convolution), as a matrix of outputs by inputs, are
      uniform over the matrices with orthogonal rows of one length, or columns if there are more outputs than inputs
      (Saxe et al. 2014), of the same mean square :math:`2 / \text{fan in}`; so filters of depthwise convolutions have
      a random direction and a fixed norm. Biases are 0.
    - ``torch_default``: what torch's modules draw by themselves, weights and biases uniform within
      :math:`\pm 1 / \sqrt{\text{fan in}}`. The networks of the published search have these, as the initialisation that
      it asks for does not reach them.

    Every parameter has a generator of its own, keyed by its name: two candidates that have an operation on an edge in
    common start it from the same weights (common random numbers), so that differences between candidates are
    differences between architectures.

    Args:
        network: The network to initialise, on any device and of any floating type; numbers are drawn in float32 on the
            CPU, so that they are the same everywhere.
        seed: Seed of the whole run.
        purpose: What the weights are for, as in ``("score", "init", 2)``.
        scheme: How weights are drawn: a ``Scheme``.

    Raises:
        ValueError: There is no such scheme.
    """
    if scheme not in _WEIGHTS:
        raise ValueError(f"expected one of {', '.join(_WEIGHTS)} as scheme, got {scheme!r}")
    for name, parameter in network.named_parameters():
        module = network.get_submodule(name.rpartition(".")[0])
        random = generator(seed, *purpose, "parameter", name)
        if parameter.dim() > 1:
            parameter.copy_(_WEIGHTS[scheme](parameter.shape, getattr(module, "groups", 1), random))
        elif not name.endswith("bias"):
            parameter.fill_(1.0)
        elif scheme == "torch_default" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            parameter.copy_(_uniform(parameter.shape, module.weight[0].numel(), random))
        else:
            parameter.fill_(0.0)
