r"""The last-layer kernel (NNGP) from features alone: a network and images enter, a Gram matrix leaves.

Axes: n images · c h w one image · d features.
"""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels.parameters import ParameterChoice
from metantk_core.kernels.tangent import IMAGES_AT_ONCE


def last_layer_kernel(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    images_at_once: int = IMAGES_AT_ONCE,
) -> Float64[Tensor, "n n"]:
    r"""Return the last-layer kernel from one forward pass, without gradients.

    The gradient of the summed logits of a linear head is the feature vector φ once per logit, and 1 once per logit for
    the biases, so the kernel is

    .. math:: K(a, b) = \text{ways} \cdot (\langle \varphi(x_a), \varphi(x_b) \rangle + [\text{biases count}]).

    Args:
        network: Has ``features``, from ``[n, c, h, w]`` to ``[n, d]``, and a linear layer ``head``.
        images: Images on the network's device, in its precision.
        parameters: Weights of the head, with or without its biases.
        images_at_once: Images whose activations are in memory at the same time.

    Returns:
        Float64 kernel on the CPU, equal to ``Kernels.nngp`` up to rounding.
    """
    head = cast(nn.Linear, network.get_submodule("head"))
    features_of = cast(Callable[[Tensor], Tensor], network.features)
    with torch.no_grad(), exact_arithmetic():
        features = torch.cat([features_of(part) for part in images.split(images_at_once)]).double().cpu()
    kernel = features @ features.mT
    if parameters == "weights+biases" and head.bias is not None:
        kernel = kernel + 1
    return head.out_features * kernel
