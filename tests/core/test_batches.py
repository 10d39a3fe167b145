"""A training batch is a pure function of images, settings, seed, epoch and number."""

import numpy as np
import pytest
import torch

from metantk_core.augmentation import AugmentationConfig, augmented
from metantk_core.batches import Batch, BatchSource
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import network_input, normalise
from metantk_core.errors import InputError
from metantk_core.seeding import numpy_generator

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def split(number: int = 50, size: int = 8) -> LabelledImages:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (number, 3, size, size)).astype(np.uint8)
    return LabelledImages(images, rng.integers(0, 7, number), tuple(f"c{k}" for k in range(7)), "train", "noise")


def source(number: int = 50, **settings: object) -> BatchSource:
    return BatchSource(split(number), **{"batch_size": 8, "mean": MEAN, "std": STD, **settings})  # type: ignore[arg-type]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("rows", "images", "labels"))


def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch():
    batches = source()
    assert batches.batches_per_epoch == 6
    epochs = [[batches.batch(0, epoch, index) for index in range(6)] for epoch in range(30)]
    seen = [torch.cat([batch.rows for batch in epoch]).tolist() for epoch in epochs]
    assert all(len(rows) == len(set(rows)) == 48 for rows in seen)
    assert len({tuple(rows) for rows in seen}) == 30
    assert set().union(*seen) == set(range(50))  # what one epoch leaves out comes in another


def test_images_and_labels_are_those_of_the_rows():
    batches = source()
    batch = batches.batch(0, 2, 3)
    images = batches.images
    assert torch.equal(batch.images, normalise(torch.from_numpy(images.images[batch.rows]), MEAN, STD))
    assert batch.labels.tolist() == images.labels[batch.rows].tolist()
    assert (batches.num_classes, batches.image_shape) == (7, (3, 8, 8))


def test_a_batch_does_not_depend_on_what_was_drawn_before():
    fresh, used = (source(augmentation=AugmentationConfig()) for _ in range(2))
    for epoch, index in ((0, 0), (3, 5), (1, 2)):
        used.batch(4, epoch, index)
    torch.manual_seed(1)
    assert same(fresh.batch(4, 1, 3), used.batch(4, 1, 3))


def test_every_epoch_batch_and_seed_has_draws_of_its_own():
    whole = source(8, batch_size=8, augmentation=AugmentationConfig())  # every batch has all images

    def in_order(seed: int, epoch: int) -> torch.Tensor:
        batch = whole.batch(seed, epoch, 0)
        return batch.images[batch.rows.argsort()]

    assert torch.equal(in_order(0, 0), in_order(0, 0))
    assert not torch.equal(in_order(0, 0), in_order(0, 1))
    assert not torch.equal(in_order(0, 0), in_order(1, 0))


def test_images_are_augmented_as_stored_then_resized_and_normalised_once():
    settings = AugmentationConfig()
    batches = BatchSource(split(20, 16), 8, MEAN, STD, settings, image_size=8)
    batch = batches.batch(1, 0, 1)
    pixels = torch.from_numpy(batches.images.take(batch.rows.numpy()))
    expected = augmented(pixels, settings, numpy_generator(1, "batches", "augmentation", 0, 1))
    assert torch.equal(batch.images, network_input(expected, MEAN, STD, image_size=8))
    assert batches.image_shape == (3, 8, 8) == batch.images.shape[1:]


def test_a_split_smaller_than_a_batch_is_one_batch():
    batches = source(5)
    assert batches.batches_per_epoch == 1
    assert sorted(batches.batch(0, 0, 0).rows.tolist()) == [0, 1, 2, 3, 4]


def test_what_is_asked_for_wrongly_is_refused():
    with pytest.raises(ValueError, match="one of 6 batches, got 6"):
        source().batch(0, 0, 6)
    with pytest.raises(InputError, match="3 channels, but there are 1 means"):
        source(mean=(0.5,))
    with pytest.raises(InputError, match="batch size of at least 1"):
        source(batch_size=0)
    with pytest.raises(InputError, match=r"padding below 8, for images of 8 x 8 pixels, but got 8"):
        source(augmentation=AugmentationConfig(padding=8))
    source(augmentation=AugmentationConfig(padding=8, crop=False))
