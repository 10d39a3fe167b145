"""How large a network is: a network enters, its parameters or its multiply-accumulate operations leave."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metantk_core.networks.normalisation import BatchMoments


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
    return macs_by_module(network, image_shape)[""]


def macs_by_module(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the multiply-accumulate operations of every module that has any, by its name; ``""`` is the whole network.

    A module's number includes those of the modules in it.

    Args:
        network: The network; it is not changed.
        image_shape: Channels, height and width of the image.
    """
    # Shapes are all that counting needs: no memory, no arithmetic.
    shadow = copy.deepcopy(network).to("meta").train()
    # Three quarters of the time would go into normalisations, which change no shape and are not counted.
    for module in list(shadow.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchMoments):
                setattr(module, name, nn.Identity())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(torch.empty(1, *image_shape, device="meta"))
    root = type(network).__name__
    found = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    return {**found, "": counter.get_total_flops() // 2}
