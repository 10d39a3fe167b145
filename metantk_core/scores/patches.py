"""Patches of training images: a split and a seed enter, the small images that linear regions are counted on leave.

Axes: n images · c channels · h rows, w columns of a stored image · r rows or columns of a resized one · p those
of a patch.
"""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from metantk_core.datasets import LabelledImages
from metantk_core.scores.config import RESIZED
from metantk_core.seeding import numpy_generator

_AT_ONCE = 500  # images; those of 84 x 84 pixels take 28 MB


def training_patches(
    images: LabelledImages,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    number: int,
    size: int,
    seed: int,
    purpose: tuple[str | int, ...],
) -> Float32[Tensor, "n 1 p p"]:
    """Return patches of images drawn at random: resized to 32 x 32, cropped at random, one channel of each at random.

    No image is drawn twice unless there are too few; then all are drawn equally often, up to one. Only the images
    drawn are read, and few are in memory at a time. Resized pixels are whole
    grey levels, as image files have them, so that equal surroundings give equal patches.

    Args:
        images: The images of a split.
        mean: Mean of each channel, of images scaled to 0..1.
        std: Standard deviation of each channel, of images scaled to 0..1.
        number: Number n of patches.
        size: Height and width p of a patch, at most 32.
        seed: Seed of the run.
        purpose: What the patches are for.
    """
    rng = numpy_generator(seed, *purpose)
    times = -(-number // len(images))
    rows = np.concatenate([rng.permutation(len(images)) for _ in range(times)])[:number]
    channels = rng.integers(images.image_shape[0], size=number)
    down, right = rng.integers(RESIZED - size + 1, size=(2, number))
    parts = [
        _patches(_channels(images.take(rows[part]), channels[part]), down[part], right[part], size)
        for part in (slice(start, start + _AT_ONCE) for start in range(0, number, _AT_ONCE))
    ]
    centre, spread = (torch.tensor(moments, dtype=torch.float32)[channels][:, None, None] for moments in (mean, std))
    return ((torch.cat(parts) / 255 - centre) / spread)[:, None]


def _channels(pixels: UInt8[np.ndarray, "n c h w"], channels: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w"]:
    """Return one channel of each image."""
    return pixels[np.arange(len(pixels)), channels]


def _patches(
    images: UInt8[np.ndarray, "n h w"], down: np.ndarray, right: np.ndarray, size: int
) -> Float32[Tensor, "n p p"]:
    """Return the patches at some places of resized images, as whole grey levels."""
    pixels = torch.from_numpy(images).double()
    rows, columns = (
        _resizing(length)[torch.from_numpy(start)[:, None] + torch.arange(size)]
        for length, start in zip(images.shape[1:], (down, right), strict=True)
    )
    # Resizing is linear, first along one axis and then along the other: only the patch is computed.
    return (rows @ pixels @ columns.mT).round().clamp(0, 255).float()


def _resizing(length: int) -> Float64[Tensor, "r h"]:
    """Return the weights of the pixels of a column of ``length`` in those of one of 32."""
    # Each column of the identity is a column of pixels with a single one that is not black.
    wide = torch.eye(length, dtype=torch.float64).expand(1, 1, -1, -1)
    return torch.nn.functional.interpolate(
        wide, size=(RESIZED, length), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
