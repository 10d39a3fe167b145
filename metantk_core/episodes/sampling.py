"""Episodes: labelled images and a seed enter, few-shot tasks as normalised tensors leave.

Axes: ``s`` support images, ``q`` query images, ``c`` channels, ``h`` rows, ``w`` columns; ``...`` any leading axes.
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
    """One few-shot task; images come class by class, in the order of the labels.

    Attributes:
        support_images: Normalised, shape ``[s, c, h, w]`` with s = ways x shots.
        support_labels: 0 to ways - 1, shape ``[s]``.
        query_images: Normalised, shape ``[q, c, h, w]`` with q = ways x queries.
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
        channels = images.images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels:
            raise InputError(
                f"Images of '{images.name}' have {channels} channels, but there are {len(self.mean)} means and "
                f"{len(self.std)} standard deviations: give one of each for every channel."
            )
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
        labels = torch.arange(ways)
        return Episode(
            support_images=self._take(drawn[:, :shots].ravel()),
            support_labels=labels.repeat_interleave(shots),
            query_images=self._take(drawn[:, shots:].ravel()),
            query_labels=labels.repeat_interleave(queries),
            class_names=tuple(self.images.class_names[c] for c in classes),
        )

    def _take(self, rows: Int64[np.ndarray, " n"]) -> Float32[Tensor, "n c h w"]:
        pixels = torch.from_numpy(self.images.take(rows))
        return resize(normalise(pixels, self.mean, self.std), self.image_size)


def normalise(
    images: UInt8[Tensor, "... c h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[Tensor, "... c h w"]:
    """Return images as numbers about 0: (pixel / 255 - mean) / std; the one place where pixels become floats.

    Args:
        images: Pixels, 0 to 255.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1, above 0.
    """
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device)[:, None, None]
    spread = torch.tensor(std, dtype=torch.float32, device=images.device)[:, None, None]
    return (images.to(torch.float32) / 255 - centre) / spread


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
