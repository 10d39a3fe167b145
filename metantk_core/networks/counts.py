"""How large a network is: a network enters, its parameters or its multiply-accumulate operations leave."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, those of normalisations and of the head included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of convolutions and linear layers for one image.

    The literature on NAS calls this number "FLOPs". Normalisation, activation, pooling and addition are not counted.

    Args:
        network: The network; it is not changed.
        image_shape: Channels, height and width of the image.
    """
    # Shapes are all that counting needs: no memory, no arithmetic.
    shadow = copy.deepcopy(network).to("meta").train()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(torch.empty(1, *image_shape, device="meta"))
    return counter.get_total_flops() // 2
