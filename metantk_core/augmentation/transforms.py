"""The transforms of the protocols: pixels and what was drawn for each image enter, pixels leave.

What is drawn is apart from what is done with it. Each transform is that of torchvision's functional transforms with the
same parameters, to the grey level; torchvision's own random transforms draw once for a whole batch, and take no
generator.

Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from metantk_core.augmentation.config import AugmentationConfig

_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114  # ITU-R 601-2 luma, as torchvision rounds it
_KINDS = 3  # of jitter: brightness, contrast, saturation


@dataclass(frozen=True, eq=False)
class Draws:
    """What was drawn for each of n images.

    Attributes:
        down: First row of the crop in the padded image, 0 to twice the padding.
        right: First column of the crop.
        flip: Whether the image is mirrored.
        factors: What brightness, contrast and saturation are multiplied by.
        order: In which order; 0 for brightness, 1 for contrast, 2 for saturation.
    """

    down: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]
    flip: Bool[np.ndarray, " n"]
    factors: Float64[np.ndarray, "n 3"]
    order: Int64[np.ndarray, "n 3"]


def drawn(number: int, padding: int, colour_jitter: float, random: np.random.Generator) -> Draws:
    """Return draws for some images, uniform and independent.

    The same numbers are taken from the generator whatever the settings: images keep their crops when colours change,
    too, and the first images keep their draws when there are more.

    Args:
        number: Number n of images.
        padding: Pixels on each side, at least 0.
        colour_jitter: How far factors are from 1 at most.
        random: Gives the numbers.
    """
    uniform = random.random((number, 3 + 2 * _KINDS))
    places = (uniform[:, :2] * (2 * padding + 1)).astype(np.int64)
    return Draws(
        down=places[:, 0],
        right=places[:, 1],
        flip=uniform[:, 2] < 0.5,
        factors=1 + colour_jitter * (2 * uniform[:, 3 : 3 + _KINDS] - 1),
        order=np.argsort(uniform[:, 3 + _KINDS :], axis=1),
    )


def augmented(
    pixels: UInt8[Tensor, "n c h w"],
    config: AugmentationConfig,
    random: np.random.Generator,
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "n c h w"]:
    """Return images augmented, each by draws of its own.

    Args:
        pixels: Images on the CPU; they stay as they are.
        config: How.
        random: Gives the draws; one of its own for every batch, so that nothing depends on what was drawn before.
        device: Where the result lies, and where colours are changed.
    """
    if not config.changes:
        return pixels.to(device)
    padding = config.padding_of(pixels.shape[-2]) if config.crop else 0
    draws = drawn(len(pixels), padding, config.colour_jitter, random)
    if config.crop:
        pixels = padded_crop(pixels, padding, draws.down, draws.right)
    if config.flip:  # before the colours, where it is cheap: each of the two is the same after the other
        pixels = flipped(pixels, draws.flip)
    pixels = pixels.to(device)
    return jittered(pixels, draws.factors, draws.order) if config.colour_jitter > 0 else pixels


def augmented_copies(
    pixels: UInt8[Tensor, "n c h w"],
    copies: int,
    config: AugmentationConfig,
    random: np.random.Generator,
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "m c h w"]:
    """Return augmented copies of images, m = copies x n: first one of each, then another one of each, and so on.

    So labels are repeated as a whole. No copy is the image itself: the published evaluation [Tian et al. 2020,
    "Rethinking few-shot image classification"] repeats the support images and sends all through the transforms of
    training.

    Args:
        pixels: Images on the CPU.
        copies: How many of each, at least 1.
        config: How they are augmented.
        random: As for :func:`augmented`; the first copies are the same however many there are.
        device: Where the result lies.
    """
    return augmented(pixels.repeat(copies, 1, 1, 1), config, random, device)


def padded_crop(
    pixels: UInt8[Tensor, "n c h w"], padding: int, down: Int64[np.ndarray, " n"], right: Int64[np.ndarray, " n"]
) -> UInt8[Tensor, "n c h w"]:
    """Return the part of each image, padded with black, that begins at a place and has the image's size.

    Args:
        pixels: Images on the CPU.
        padding: Pixels of black on each side.
        down: First row in the padded image, 0 to twice the padding.
        right: First column in the padded image.
    """
    whole = pixels.numpy()
    result = np.zeros_like(whole)
    height, width = whole.shape[-2:]
    # Not padded and cropped, but moved: a gather of a whole batch takes ten times as long as these copies.
    for image, target, rows, columns in zip(
        whole, result, (down - padding).tolist(), (right - padding).tolist(), strict=True
    ):
        target[:, max(0, -rows) : max(0, height - rows), max(0, -columns) : max(0, width - columns)] = image[
            :, max(0, rows) : max(0, height + rows), max(0, columns) : max(0, width + columns)
        ]
    return torch.from_numpy(result)


def flipped(pixels: UInt8[Tensor, "n c h w"], which: Bool[np.ndarray, " n"]) -> UInt8[Tensor, "n c h w"]:
    """Return images, some of them mirrored left and right.

    Args:
        pixels: Images.
        which: Those that are mirrored.
    """
    rows = torch.from_numpy(np.flatnonzero(which)).to(pixels.device)
    return pixels.index_copy(0, rows, pixels[rows].flip(-1))


def jittered(
    pixels: UInt8[Tensor, "n c h w"], factors: Float64[np.ndarray, "n 3"], order: Int64[np.ndarray, "n 3"]
) -> UInt8[Tensor, "n c h w"]:
    """Return images with other brightness, contrast and saturation, one after the other, whole grey levels after each.

    Each mixes an image with another one: black, its mean grey, its own grey levels. Grey images have no saturation.

    Args:
        pixels: Images of one or three channels.
        factors: What brightness, contrast and saturation are multiplied by, at least 0.
        order: In which order; 0 for brightness, 1 for contrast, 2 for saturation.
    """
    result = torch.empty_like(pixels)
    # 1 - factor is rounded once, as torchvision does it with numbers of double precision.
    share, rest = (torch.from_numpy(part.astype(np.float32)).to(pixels.device) for part in (factors, 1 - factors))
    for kinds in permutations(range(_KINDS)):
        rows = torch.from_numpy(np.flatnonzero((order == kinds).all(axis=1))).to(pixels.device)
        if not len(rows):
            continue
        images = pixels[rows].to(torch.float32)
        for kind in kinds:
            mine, other = (part[rows, kind][:, None, None, None] for part in (share, rest))
            images = _CHANGES[kind](images, mine, other)
        result[rows] = images.to(torch.uint8)
    return result


_Images = Float32[Tensor, "n c h w"]
_Shares = Float32[Tensor, "n 1 1 1"]


def _brighter(images: _Images, share: _Shares, rest: _Shares) -> _Images:
    return _whole_levels(images * share)


def _sharper(images: _Images, share: _Shares, rest: _Shares) -> _Images:
    grey = _grey(images)
    # Whole numbers, whose sum is exact, divided by a tensor: as in normalisation, the same bits on every device.
    count = torch.tensor(float(grey[0].numel()), device=images.device)
    mean = grey.sum(dim=(1, 2, 3), keepdim=True) / count
    return _whole_levels((images * share).add_(rest * mean))


def _more_colourful(images: _Images, share: _Shares, rest: _Shares) -> _Images:
    return images if images.shape[1] == 1 else _whole_levels((images * share).add_(_grey(images).mul_(rest)))


_CHANGES = (_brighter, _sharper, _more_colourful)


def _grey(images: _Images) -> Float32[Tensor, "n 1 h w"]:
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.split(1, dim=1)
    return (red * _RED).add_(green * _GREEN).add_(blue * _BLUE).floor_()


def _whole_levels(images: _Images) -> _Images:
    return images.clamp_(0, 255).floor_()
