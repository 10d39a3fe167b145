"""Augmented images are those of torchvision with the same draws, and draws are uniform, one set an image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import stats

from benchmarks.batches import BATCH, SIZE, microseconds, noise, parts, ways
from metantk_core.augmentation import (
    NO_AUGMENTATION,
    AugmentationConfig,
    augmented,
    augmented_copies,
    drawn,
    flipped,
    jittered,
    padded_crop,
)
from metantk_core.batches import Batch
from metantk_core.seeding import numpy_generator
from metantk_core.torchvision_import import torchvision_importable


def pictures(number: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth images with noise: contrasts and colours as photographs have them, black and white among them."""
    rng = np.random.default_rng(number)
    waves = np.sin(np.linspace(0, 6, height)[:, None] * rng.uniform(0.3, 1, (number, channels, 1, 1)))
    pixels = 128 + 110 * waves + rng.normal(0, 25, (number, channels, height, width))
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 84, 84), (1, 32, 32), (3, 33, 20)])
def test_images_are_cropped_coloured_and_mirrored_as_torchvision_does_it_with_the_same_draws(channels, height, width):
    with torchvision_importable():
        from torchvision.transforms import functional as reference
    changes = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)
    images, config = pictures(40, channels, height, width), AugmentationConfig(colour_jitter=0.4)
    before = images.clone()
    found = augmented(images, config, numpy_generator(0, "test"))
    padding = config.padding_of(height)
    draws = drawn(40, padding, 0.4, numpy_generator(0, "test"))
    for number, image in enumerate(images):
        expected = reference.pad(image, [padding])
        expected = reference.crop(expected, int(draws.down[number]), int(draws.right[number]), height, width)
        for kind in draws.order[number]:
            expected = changes[kind](expected, float(draws.factors[number, kind]))
        if draws.flip[number]:
            expected = reference.hflip(expected)
        assert torch.equal(found[number], expected), number
    assert torch.equal(images, before)
    assert len({image.numpy().tobytes() for image in found}) == 40


def test_colours_are_those_of_the_image_library_of_the_published_code_up_to_rounding():
    images = pictures(20, 3, 24, 24)
    draws = drawn(20, 0, 0.4, numpy_generator(1, "test"))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    found = jittered(images, draws.factors, draws.order).numpy().transpose(0, 2, 3, 1).astype(int)
    for number, image in enumerate(images.numpy().transpose(0, 2, 3, 1)):
        picture = Image.fromarray(np.ascontiguousarray(image))
        for kind in draws.order[number]:
            picture = enhancers[kind](picture).enhance(float(draws.factors[number, kind]))
        difference = np.abs(found[number] - np.asarray(picture))
        assert difference.max() <= 3
        assert difference.mean() < 1


def test_the_benchmark_compares_batches_that_are_alike(tmp_path):
    images = noise(tmp_path, 2 * BATCH)
    makes = ways(images)
    torch.manual_seed(0)  # torchvision has no other generator
    loop, ours = makes["published loop: crop, flip"](0), makes["crop, flip"](0)
    assert isinstance(loop, torch.Tensor)
    assert isinstance(ours, Batch)
    assert loop.shape == ours.images.shape == (BATCH, 3, SIZE, SIZE)
    # Noise, augmented: the same mean and spread, whoever does it.
    assert float(loop.mean()) == pytest.approx(float(ours.images.mean()), abs=0.05)
    assert float(loop.std()) == pytest.approx(float(ours.images.std()), rel=0.05)
    found = microseconds({**makes, **parts(images)}, batches=1, rounds=1)
    assert set(found) == {*makes, *parts(images)}
    assert all(time > 0 for time in found.values())


def test_an_image_leaves_its_frame_by_the_padding_at_most_and_black_comes_in():
    white = torch.full((4, 1, 6, 6), 255, dtype=torch.uint8)
    down, right = np.array([0, 2, 4, 2]), np.array([0, 2, 0, 3])
    found = padded_crop(white, 2, down, right)
    for image, (bottom, top), (east, west) in zip(
        found[:, 0], [(2, 6), (0, 6), (0, 4), (0, 6)], [(2, 6), (0, 6), (2, 6), (0, 5)], strict=True
    ):
        expected = torch.zeros(6, 6, dtype=torch.uint8)
        expected[bottom:top, east:west] = 255
        assert torch.equal(image, expected)
    assert not padded_crop(white, 9, np.full(4, 18), np.full(4, 9)).any()  # further than the image is high


def test_only_the_images_drawn_are_mirrored():
    images = pictures(3, 3, 5, 4)
    found = flipped(images, np.array([True, False, True]))
    assert torch.equal(found, torch.stack([images[0].flip(-1), images[1], images[2].flip(-1)]))


def test_draws_are_uniform_and_each_image_has_its_own():
    draws = drawn(6000, 4, 0.4, numpy_generator(0, "test"))
    for places in (draws.down, draws.right):
        assert stats.chisquare(np.bincount(places, minlength=9)).pvalue > 0.001
    assert len(np.bincount(draws.down)) == 9
    assert stats.binomtest(int(draws.flip.sum()), 6000).pvalue > 0.001
    for factors in draws.factors.T:
        assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 0.001
    orders = np.unique(draws.order, axis=0, return_counts=True)
    assert len(orders[0]) == 6
    assert stats.chisquare(orders[1]).pvalue > 0.001
    columns = np.column_stack([draws.down, draws.right, draws.flip, draws.factors, draws.order[:, 0]]).astype(float)
    for between in (columns, np.column_stack([columns[:-1, 0], columns[1:, 0], columns[:-1, 3], columns[1:, 3]])):
        correlations = np.corrcoef(between.T)[np.triu_indices(between.shape[1], 1)]
        assert np.abs(correlations).max() < 4 / np.sqrt(6000)


def test_draws_depend_neither_on_other_settings_nor_on_the_number_of_images():
    images = pictures(6, 3, 20, 20)

    def found(number: int = 6, **settings: object) -> torch.Tensor:
        return augmented(images[:number], AugmentationConfig.model_validate(settings), numpy_generator(3, "test"))

    assert torch.equal(found()[:4], found(4))
    plain = found(colour_jitter=0.0)
    draws = drawn(6, 2, 0.4, numpy_generator(3, "test"))
    assert torch.equal(found(), jittered(plain, draws.factors, draws.order))
    assert torch.equal(plain, flipped(found(colour_jitter=0.0, flip=False), draws.flip))
    assert not torch.equal(found(), augmented(images, AugmentationConfig(), numpy_generator(4, "test")))


def test_copies_come_one_of_each_image_after_the_other_all_augmented():
    images = pictures(5, 3, 16, 16)
    three, two = (
        augmented_copies(images, copies, AugmentationConfig(), numpy_generator(0, "test")) for copies in (3, 2)
    )
    assert three.shape == (15, 3, 16, 16)
    assert torch.equal(three[:10], two)
    assert torch.equal(two, augmented(torch.cat([images, images]), AugmentationConfig(), numpy_generator(0, "test")))
    assert len({image.numpy().tobytes() for image in three}) == 15
    assert all(not torch.equal(copy, images[number % 5]) for number, copy in enumerate(three))


def test_without_augmentation_images_stay_as_they_are():
    images = pictures(3, 3, 8, 8)
    assert not NO_AUGMENTATION.changes
    assert torch.equal(augmented(images, NO_AUGMENTATION, numpy_generator(0)), images)
    assert torch.equal(augmented_copies(images, 2, NO_AUGMENTATION, numpy_generator(0)), torch.cat([images, images]))


@pytest.mark.parametrize(("height", "padding"), [(84, 8), (32, 4), (28, 3), (105, 13), (4, 1)])
def test_padding_is_that_of_the_published_protocols(height, padding):
    assert AugmentationConfig().padding_of(height) == padding
    assert AugmentationConfig(padding=7).padding_of(height) == 7
