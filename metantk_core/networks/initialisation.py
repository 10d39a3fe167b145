"""Weights by seed: a network and a purpose enter, the same network with weights that depend on nothing else leaves."""

import math

import torch
from torch import nn

from metantk_core.seeding import generator


@torch.no_grad()
def initialise(network: nn.Module, seed: int, *purpose: str | int) -> None:
    r"""Give every parameter of a network its initial value, in place.

    Weights of convolutions and linear layers are Kaiming-normal, :math:`N(0, 2 / \text{fan in})` (He et al. 2015);
    biases are 0, normalisations have scale 1 and shift 0. Every parameter has a generator of its own, keyed by its
    name: two candidates that have an operation on an edge in common start it from the same weights (common random
    numbers), so that differences between candidates are differences between architectures.

    Args:
        network: The network to initialise, on any device and of any floating type; numbers are drawn in float32 on the
            CPU, so that they are the same everywhere.
        seed: Seed of the whole run.
        purpose: What the weights are for, as in ``("score", "init", 2)``.
    """
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            deviation = math.sqrt(2 / parameter[0].numel())
            draw = torch.randn(parameter.shape, generator=generator(seed, *purpose, "parameter", name))
            parameter.copy_(draw * deviation)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
