r"""SynFlow: a network enters, the logarithm of its synaptic flow leaves; no image and no label is looked at.

Axes: c h w one image · l layers.
"""

import copy
import math

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels import parameter_names
from metantk_core.scores.record import Outcome, Score

_NORMALISATIONS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def layer_flows(network: nn.Module, image_shape: tuple[int, int, int]) -> Float64[Tensor, " l"]:
    r"""Return :math:`\sum |W \odot \partial R / \partial W|` of each convolution and linear layer, by float64.

    R is the sum of the outputs for one image of ones, of the same network with all weights replaced by their absolute
    values, all biases by 0, and without normalisation. In a plain chain of layers all flows are R (the conservation law
    of Tanaka et al.).

    Args:
        network: Left as it is. Its normalisation layers are torch's, other than batch statistics of its own making.
        image_shape: Channels, height and width of the image.

    Returns:
        In the order of the network's parameters; not finite where float64 is too small.
    """
    positive = copy.deepcopy(network).double()
    for parent in list(positive.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _NORMALISATIONS):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in positive.parameters():
            if parameter.dim() > 1:
                parameter.abs_()
            else:
                parameter.zero_()
    return _flows(positive, image_shape)


def synflow(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    r"""Return the natural logarithm of the flow of all layers; minus infinity if nothing flows.

    Source: Tanaka et al., NeurIPS 2020.

    Args:
        network: Left as it is.
        image_shape: Channels, height and width of the images that it takes.
    """
    total = float(layer_flows(network, image_shape).sum())
    return math.log(total) if total > 0 else (-math.inf if total == 0 else total)


def synflow_bn(network: nn.Module, image_shape: tuple[int, int, int]) -> Score:
    r"""Return the natural logarithm of the flow of all layers with normalisation kept.

    .. math:: \log \sum |W \odot \partial R / \partial W|,

    with R the sum of the outputs for one image of ones, of the network with all parameters replaced by their absolute
    values, biases and those of normalisation layers too. Everything is in float64. Nothing is conserved along the
    layers here: scaling the weights before a normalisation changes no output, and :math:`\sum W \odot \partial R /
    \partial W` of such a layer is zero.

    Source: Tanaka et al., NeurIPS 2020; with batch normalisation, of this one image: Abdelfattah et al., ICLR 2021, as
    their code (zero-cost-nas) computes ``synflow_bn``, and NASLib. The logarithm is ours.

    Args:
        network: Left as it is. Its normalisation counts; published is batch normalisation in training mode, see
            :func:`metantk_core.networks.batch_normalised`.
        image_shape: Channels, height and width of the images that it takes.

    Returns:
        The number; ``DEGENERATE`` if nothing flows, or if the last maps have a single pixel, which one image can't be
        normalised by.
    """
    positive = copy.deepcopy(network).double()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    try:
        total = float(_flows(positive, image_shape).sum())
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return Score(None, Outcome.DEGENERATE, "one image has no moments where its maps have a single pixel")
    if not math.isfinite(total):
        return Score(None, Outcome.NON_FINITE, "the flow of an image of ones is not finite")
    if total == 0:
        return Score(None, Outcome.DEGENERATE, "nothing flows: no output depends on any weight")
    return Score(math.log(total))


def _flows(positive: nn.Module, image_shape: tuple[int, int, int]) -> Float64[Tensor, " l"]:
    """Return the flow of each layer for an image of ones."""
    names = parameter_names(positive, "weights")
    weights = [positive.get_parameter(name).requires_grad_() for name in names]
    ones = torch.ones(1, *image_shape, dtype=torch.float64, device=weights[0].device)
    with torch.enable_grad(), exact_arithmetic():
        flow = positive(ones).sum()
        gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    products = [(weight.detach() * gradient).abs().sum() for weight, gradient in zip(weights, gradients, strict=True)]
    return torch.stack(products).cpu()
