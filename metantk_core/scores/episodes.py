"""What a repeat is scored on: a source of images and a seed enter, the episodes and patches of one repeat leave.

All candidates see the same ones, so that differences between candidates are differences between architectures.

Axes: c h w one image · m patches of p x p pixels.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from metantk_core.episodes import Episode, EpisodeSource, NormalisedEpisode
from metantk_core.scores.config import LinearRegionsConfig, ScoringConfig
from metantk_core.scores.patches import training_patches
from metantk_core.seeding import generator

_PADDING = 4
_ATTEMPTS = 100  # to draw an episode that shares no image with the others of its batch


def scoring_episodes(
    source: EpisodeSource, config: ScoringConfig, seed: int, repeat: int, stream: str = ""
) -> tuple[NormalisedEpisode, ...]:
    """Return the episodes of one repeat, the same for all candidates; no image occurs twice among them if that can be.

    An image that two episodes share has the same gradient twice, which makes the NTK of every network singular. So an
    episode that shares an image with an earlier one is drawn again, up to 100 times; where the data are too few for
    that, the last one is kept.

    Args:
        source: Episodes of the size ``config.episode``.
        config: How many.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
        stream: Name of random numbers of its own; empty for those shared by all.
    """
    own = (stream,) if stream else ()
    episodes: list[NormalisedEpisode] = []
    seen: set[bytes] = set()
    for task in range(config.tasks):
        episode = source.episode(seed, "score", "episodes", *own, repeat, task)
        images = _contents(episode)
        for attempt in range(1, _ATTEMPTS):
            if len(images) == len(episode.query_rows) + len(episode.support_rows) and seen.isdisjoint(images):
                break
            episode = source.episode(seed, "score", "episodes", *own, repeat, task, attempt)
            images = _contents(episode)
        seen |= images
        # On the CPU, whose resizing gives every device the same numbers: they are kept for all candidates.
        shown = source.normalised(episode)
        if config.augmentation == "flip_crop":
            shown = _augmented(shown, source, generator(seed, "score", "augmentation", *own, repeat, task))
        episodes.append(shown)
    return tuple(episodes)


def regions_images(
    source: EpisodeSource, config: LinearRegionsConfig, seed: int, repeat: int, stream: str = ""
) -> tuple[Float[Tensor, "m 1 p p"], ...]:
    """Return the images that linear regions are counted on, in the batches that are normalised together.

    Args:
        source: Gives the images that patches are taken from, and their moments.
        config: How many images of which size.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
        stream: Name of random numbers of its own; empty for those shared by all.
    """
    purpose = ("score", "linear regions", *((stream,) if stream else ()), repeat)
    if config.definition == "noise":
        size = (config.images, 1, config.image_size, config.image_size)
        return (torch.randn(size, generator=generator(seed, *purpose)),)
    mean, std = source.own_moments or (source.mean, source.std)
    patches = training_patches(
        source.images, mean, std, number=config.images, size=config.image_size, seed=seed, purpose=purpose
    )
    return patches.split(config.batch)


def _augmented(episode: NormalisedEpisode, source: EpisodeSource, rng: torch.Generator) -> NormalisedEpisode:
    """Return an episode with each image flipped by chance and moved by up to 4 pixels, black coming in."""
    mean, std = (torch.tensor(moments).view(-1, 1, 1) for moments in (source.mean, source.std))
    black = -mean / std

    def moved(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        height, width = image.shape[-2:]
        wide = black.expand(-1, height + 2 * _PADDING, width + 2 * _PADDING).clone()
        wide[:, _PADDING : _PADDING + height, _PADDING : _PADDING + width] = image
        down, right, flip = (int(torch.randint(high, (), generator=rng)) for high in (2 * _PADDING + 1,) * 2 + (2,))
        part = wide[:, down : down + height, right : right + width]
        return part.flip(-1) if flip else part

    return replace(
        episode,
        support_images=torch.stack([moved(image) for image in episode.support_images]),
        query_images=torch.stack([moved(image) for image in episode.query_images]),
    )


def _contents(episode: Episode) -> set[bytes]:
    return {image.numpy().tobytes() for image in (*episode.query_pixels, *episode.support_pixels)}


def check_source(source: EpisodeSource, config: ScoringConfig) -> None:
    """Raise ``ValueError`` unless a source gives the episodes that a configuration asks for."""
    size = config.image_size
    if source.config != config.episode or source.image_shape[1:] != (size, size):
        raise ValueError(
            f"expected episodes of {config.episode} at {size} x {size} pixels, as the scoring configuration says, "
            f"got {source.config} at {source.image_shape[1]} x {source.image_shape[2]}"
        )
