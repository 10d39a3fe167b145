"""Training batches: the images of a split and (seed, epoch, number) enter, what a network is shown leaves.

Axes: ``b`` images of a batch, ``c`` channels, ``h`` rows, ``w`` columns.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from metantk_core.augmentation import NO_AUGMENTATION, AugmentationConfig, augmented
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import check_moments, network_input
from metantk_core.errors import InputError
from metantk_core.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of a split with their classes, as a network is shown them.

    Attributes:
        rows: Positions of the images in their split, on the CPU, shape ``[b]``.
        images: Augmented and normalised, on the device, shape ``[b, c, h, w]``.
        labels: Positions of their classes in ``class_names`` of the split, on the device, shape ``[b]``.
    """

    rows: Int64[Tensor, " b"]
    images: Float32[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]


@dataclass(frozen=True, eq=False)
class BatchSource:
    """Give the images of one split in batches, in another order every epoch.

    A batch is a pure function of (images, settings, seed, epoch, number): training that goes on after an interruption,
    at any batch, sees what it would have seen. Only the images of the batch are read.

    An epoch has batches of one size alone; the images that are left over, fewer than a batch, are not in it. Layers
    that normalise a batch would see a few images only, in the extreme a single one, and as every epoch has another
    order, all images have their turn. A split of fewer images than a batch is one batch.

    Attributes:
        images: The images of a split.
        batch_size: Images b of a batch.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1.
        augmentation: What is done to each image, by draws of its own.
        image_size: Height and width of the images of batches, or None for that of the stored ones.

    Raises:
        InputError: There is not one mean and one standard deviation for each channel, or a crop may show nothing but
            padding.
    """

    images: LabelledImages
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: AugmentationConfig = NO_AUGMENTATION
    image_size: int | None = None

    def __post_init__(self) -> None:
        check_moments(self.images, self.mean, self.std)
        if self.batch_size < 1:
            raise InputError(f"Expected a batch size of at least 1, but got {self.batch_size}.")
        _, height, width = self.images.image_shape
        padding = self.augmentation.padding_of(height)
        if self.augmentation.crop and padding >= min(height, width):
            raise InputError(
                f"Expected augmentation.padding below {min(height, width)}, for images of {width} x {height} pixels, "
                f"but got {padding}: crops could be black all over."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes of the split; labels are 0 to this minus 1."""
        return len(self.images.class_names)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of an epoch, at least 1."""
        return max(1, len(self.images) // self.batch_size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of a batch."""
        channels, height, width = self.images.image_shape
        return (channels, height, width) if self.image_size is None else (channels, self.image_size, self.image_size)

    def batch(self, seed: int, epoch: int, index: int, device: torch.device | str = "cpu") -> Batch:
        """Return one batch of an epoch.

        Args:
            seed: The seed of the whole run.
            epoch: Number of the epoch, from 0.
            index: Number of the batch in the epoch, from 0.
            device: Where the network runs.
        """
        if not 0 <= index < self.batches_per_epoch:
            raise ValueError(f"expected the number of one of {self.batches_per_epoch} batches, got {index}")
        rows = _order(len(self.images), seed, epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        pixels = augmented(
            torch.from_numpy(self.images.take(rows)),
            self.augmentation,
            numpy_generator(seed, "batches", "augmentation", epoch, index),
            device,
        )
        return Batch(
            rows=torch.from_numpy(rows),
            images=network_input(pixels, self.mean, self.std, image_size=self.image_size, device=device),
            labels=torch.from_numpy(self.images.labels[rows]).to(device),
        )


@lru_cache(maxsize=2)  # drawn for an epoch, not for each of its batches
def _order(images: int, seed: int, epoch: int) -> Int64[np.ndarray, " _"]:
    """Return the order of the images in an epoch."""
    return numpy_generator(seed, "batches", "order", epoch).permutation(images)
