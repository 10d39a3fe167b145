"""Features of a split's images, each computed once: a network and a split enter, a row an image leaves.

Episodes draw the same images again and again: 600 episodes of 75 queries look at 69 classes of 20 images 32 times over.

Axes: n images of the split, d features.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metantk_core.architectures import LearnableNetwork
from metantk_core.episodes import EpisodeSource, network_input
from metantk_core.meta_training.adaptation import mixes_queries, remembers_moments
from metantk_core.meta_training.answering import FEATURE_BATCH, features_in_batches

MOST_BYTES = 2**30
"""Of features that are kept, on the device."""


def table_pays(network: LearnableNetwork, source: EpisodeSource, passes: int) -> bool:
    """Return whether the features of a whole split are fewer to compute than those of episodes, and can be shared.

    They can where a network makes the same of an image whatever else is in its episode.

    Args:
        network: The network.
        source: Episodes of the split.
        passes: Images of all episodes that would pass through the network without a table.
    """
    if remembers_moments(network) or mixes_queries(network):
        return False
    return len(source.images) < passes


@torch.no_grad()
def feature_table(
    network: LearnableNetwork,
    source: EpisodeSource,
    told: Callable[[int], None],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n d"] | None:
    """Return what the head would see of each image of a split, to the last digit what it sees in an episode.

    Args:
        network: Left in ``eval()`` mode.
        source: Episodes of the split, which say how images are normalised.
        told: Is told how many images are done.
        device: Where the network is.

    Returns:
        The features, or None if they would take more memory than they are worth.
    """
    network.eval()
    parts: list[Tensor] = []
    for start in range(0, len(source.images), FEATURE_BATCH):
        rows = np.arange(start, min(start + FEATURE_BATCH, len(source.images)))
        images = network_input(
            torch.from_numpy(source.images.take(rows)),
            source.mean,
            source.std,
            image_size=source.image_size,
            device=device,
        )
        parts.append(features_in_batches(network, images))
        if len(source.images) * parts[0][0].nbytes > MOST_BYTES:
            return None
        told(start + len(rows))
    return torch.cat(parts)
