"""Episodes: labelled images and a seed enter, few-shot tasks leave: as pixels, and as what a network is shown.

Axes: ``s`` support images, ``q`` query images, ``n`` any images, ``c`` channels, ``h`` rows, ``w`` columns; ``...`` any
leading axes.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes.config import EpisodeConfig
from metantk_core.errors import InputError
from metantk_core.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class Episode:
    """One few-shot task as it was drawn; images come class by class, in the order of the labels.

    Attributes:
        support_rows: Positions of the support images in their split, shape ``[s]`` with s = ways x shots.
        support_pixels: These images, 0 to 255, shape ``[s, c, h, w]``.
        support_labels: 0 to ways - 1, shape ``[s]``.
        query_rows: Positions of the query images in their split, shape ``[q]`` with q = ways x queries.
        query_pixels: These images, 0 to 255, shape ``[q, c, h, w]``.
        query_labels: 0 to ways - 1, shape ``[q]``.
        class_names: The class behind each label.
    """

    support_rows: Int64[Tensor, " s"]
    support_pixels: UInt8[Tensor, "s c h w"]
    support_labels: Int64[Tensor, " s"]
    query_rows: Int64[Tensor, " q"]
    query_pixels: UInt8[Tensor, "q c h w"]
    query_labels: Int64[Tensor, " q"]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class NormalisedEpisode:
    """One few-shot task as a network is shown it, on the device where the network runs.

    Attributes:
        support_images: Normalised, shape ``[s, c, h, w]``.
        support_labels: 0 to ways - 1, shape ``[s]``.
        query_images: Normalised, shape ``[q, c, h, w]``.
        query_labels: 0 to ways - 1, shape ``[q]``.
        class_names: The class behind each label.
    """

    support_images: Float32[Tensor, "s c h w"]
    support_labels: Int64[Tensor, " s"]
    query_images: Float32[Tensor, "q c h w"]
    query_labels: Int64[Tensor, " q"]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class EpisodeSource:
    """Draw episodes from the images of one split.

    An episode is a pure function of (images, config, seed, purpose); it does not depend on what was drawn before, and
    of memory-mapped images only those drawn are read.

    Attributes:
        images: The images of a split.
        config: The size of an episode.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1.
        image_size: Height and width of the images of episodes, or None for that of the stored ones.
        own_moments: Mean and standard deviation of the images themselves, where episodes are normalised by others.

    Raises:
        InputError: If the split has too few classes, or a class too few images, for such an episode.
    """

    images: LabelledImages
    config: EpisodeConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None
    own_moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    _rows: tuple[Int64[np.ndarray, " _"], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        images, config = self.images, self.config
        check_moments(images, self.mean, self.std)
        available = len(images.class_names)
        if available < config.ways:
            raise InputError(
                f"Split '{images.split}' of '{images.name}' has {available} classes ({_some(images.class_names)}), but "
                f"{config.ways}-way episodes need {config.ways}; lower ways or add classes."
            )
        needed = config.shots + config.queries
        counts = np.bincount(images.labels, minlength=available)
        short = np.flatnonzero(counts < needed)
        if short.size:
            first = short[np.argmin(counts[short])]
            others = f" ({short.size} classes have too few)" if short.size > 1 else ""
            count = int(counts[first])
            request = f"{_plural(config.shots, 'shot')} + {_plural(config.queries, 'query', 'queries')}"
            raise InputError(
                f"Class '{images.class_names[first]}' of split '{images.split}' has {_plural(count, 'image')}, "
                f"but {request} need {needed}{others}; lower shots or queries, or add images."
            )
        order = np.argsort(images.labels, kind="stable")
        object.__setattr__(self, "_rows", tuple(np.split(order, np.cumsum(counts)[:-1])))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of an episode."""
        channels, height, width = self.images.image_shape
        return (channels, height, width) if self.image_size is None else (channels, self.image_size, self.image_size)

    def episode(self, seed: int, *purpose: str | int) -> Episode:
        """Return the episode of a seed and a purpose.

        Classes are drawn uniformly without replacement, and so are the images of each class; label k is the k-th class
        drawn.

        Args:
            seed: The seed of the whole run.
            purpose: What the episode is for, as in ``("score", "episodes", 0, 2)``.
        """
        ways, shots, queries = self.config.ways, self.config.shots, self.config.queries
        rng = numpy_generator(seed, *purpose)
        classes = rng.choice(len(self.images.class_names), size=ways, replace=False)
        drawn = np.stack([rng.choice(self._rows[c], size=shots + queries, replace=False) for c in classes])
        rows = np.concatenate([drawn[:, :shots].ravel(), drawn[:, shots:].ravel()])
        pixels, labels = torch.from_numpy(self.images.take(rows)), torch.arange(ways)
        supports = ways * shots
        return Episode(
            support_rows=torch.from_numpy(rows[:supports]),
            support_pixels=pixels[:supports],
            support_labels=labels.repeat_interleave(shots),
            query_rows=torch.from_numpy(rows[supports:]),
            query_pixels=pixels[supports:],
            query_labels=labels.repeat_interleave(queries),
            class_names=tuple(self.images.class_names[c] for c in classes),
        )

    def normalised(self, episode: Episode, device: torch.device | str = "cpu") -> NormalisedEpisode:
        """Return an episode as a network is shown it: normalised, of the size asked for, on the network's device.

        Args:
            episode: An episode of this source; its pixels may be augmented.
            device: Where the network runs; that is where pixels become numbers.
        """
        support, query = (
            network_input(pixels, self.mean, self.std, image_size=self.image_size, device=device)
            for pixels in (episode.support_pixels, episode.query_pixels)
        )
        return NormalisedEpisode(
            support, episode.support_labels.to(device), query, episode.query_labels.to(device), episode.class_names
        )


def check_moments(images: LabelledImages, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ``InputError`` unless there are a mean and a standard deviation for each channel of some images."""
    channels = images.image_shape[0]
    if len(mean) != channels or len(std) != channels:
        raise InputError(
            f"Images of '{images.name}' have {channels} channels, but there are {len(mean)} means and {len(std)} "
            "standard deviations: give one of each for every channel."
        )


def network_input(
    pixels: UInt8[Tensor, "n c h1 w1"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Float32[Tensor, "n c h2 w2"]:
    """Return images as a network is shown them; whatever a network sees went through here, once.

    Pixels are moved, a byte each, and become numbers where the network runs.

    Args:
        pixels: 0 to 255.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1, above 0.
        image_size: Height and width of the result in pixels, or None for those of the images.
        device: Where the network runs.
    """
    return resize(normalise(pixels.to(device), mean, std), image_size)


def normalise(
    images: UInt8[Tensor, "... c h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[Tensor, "... c h w"]:
    """Return images as numbers about 0: (pixel / 255 - mean) / std, the same bits on every device.

    Args:
        images: Pixels, 0 to 255.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1, above 0.
    """
    # Divided by a tensor: torch multiplies by the rounded 1 / 255 where a GPU's tensor is divided by a number.
    white, centre, spread = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None] for values in ((255,), mean, std)
    )
    return images.to(torch.float32).div_(white).sub_(centre).div_(spread)


def resize(images: Float[Tensor, "n c h1 w1"], image_size: int | None) -> Float[Tensor, "n c h2 w2"]:
    """Return square images of another size, with antialiasing; as they are if ``image_size`` is None or theirs already.

    Args:
        images: Normalised images.
        image_size: Height and width of the result, in pixels.
    """
    if image_size is None or images.shape[-2:] == (image_size, image_size):
        return images
    return F.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True, align_corners=False)


def _plural(count: int, word: str, words: str | None = None) -> str:
    return f"{count} {word if count == 1 else words or word + 's'}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names[:10]) + (", ..." if len(names) > 10 else "")
