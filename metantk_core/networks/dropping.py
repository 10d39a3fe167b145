"""What supervised training leaves out at random: a network and images enter, one pass that does without it leaves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.networks.cells import dropping_paths
from metantk_core.networks.resnet12 import dropping_blocks


@contextmanager
def dropping(
    network: nn.Module, share: float, images: Float[Tensor, "n c h w"], random: torch.Generator
) -> Iterator[None]:
    """Leave out operations of cells, or squares of ResNet-12's maps, while images pass once; others stay as they are.

    Args:
        network: What the images pass.
        share: Share that is left out, below 1.
        images: What will pass.
        random: On the CPU, so that what is left out is the same on all devices.
    """
    with dropping_paths(network, share, images, random), dropping_blocks(network, share, images, random):
        yield
