"""Episodes are pure functions of images, configuration, seed and purpose, and uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metantk_core.datasets import LabelledImages
from metantk_core.episodes import Episode, EpisodeConfig, EpisodeSource, network_input, normalise, resize
from metantk_core.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def numbered(counts: list[int], size: int = 4, seed: int = 0) -> LabelledImages:
    """Images that tell their row: the first pixel of channels 0 and 1; labels are mixed up."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    images = np.zeros((len(labels), 3, size, size), np.uint8)
    rows = np.arange(len(labels))
    images[:, 0] = (rows % 256)[:, None, None]
    images[:, 1] = (rows // 256)[:, None, None]
    return LabelledImages(images, labels, tuple(f"c{k}" for k in range(len(counts))), "val", "numbers")


def rows_of(pixels: torch.Tensor) -> list[int]:
    low, high = pixels[:, :2, 0, 0].int().T
    return (low + 256 * high).tolist()


def source(counts: list[int], **sizes: int) -> EpisodeSource:
    return EpisodeSource(numbered(counts), EpisodeConfig(**sizes), MEAN, STD)


def same(one: Episode, other: Episode) -> bool:
    return one.class_names == other.class_names and all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("support_rows", "support_pixels", "support_labels", "query_rows", "query_pixels", "query_labels")
    )


@given(
    counts=st.lists(st.integers(6, 12), min_size=3, max_size=8),
    ways=st.integers(2, 3),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_an_episode_is_labelled_right_and_support_and_query_never_overlap(counts, ways, shots, queries, seed):
    tasks = source(counts, ways=ways, shots=shots, queries=queries)
    episode = tasks.episode(seed, "test")
    assert episode.support_pixels.shape == (ways * shots, 3, 4, 4)
    assert episode.query_pixels.shape == (ways * queries, 3, 4, 4)
    assert episode.support_labels.tolist() == [way for way in range(ways) for _ in range(shots)]
    assert episode.query_labels.tolist() == [way for way in range(ways) for _ in range(queries)]
    assert len(set(episode.class_names)) == ways
    support, query = rows_of(episode.support_pixels), rows_of(episode.query_pixels)
    assert (support, query) == (episode.support_rows.tolist(), episode.query_rows.tolist())
    assert len({*support, *query}) == ways * (shots + queries)
    for rows, labels in ((support, episode.support_labels), (query, episode.query_labels)):
        for row, label in zip(rows, labels.tolist(), strict=True):
            assert f"c{tasks.images.labels[row]}" == episode.class_names[label]


def test_same_seed_gives_same_episode_whatever_was_drawn_before():
    fresh, used = source([9] * 8, queries=3), source([9] * 8, queries=3)
    for index in range(5):
        used.episode(7, "other", index)
    torch.manual_seed(1)
    assert same(fresh.episode(3, "score", 0), used.episode(3, "score", 0))


def test_another_seed_or_purpose_gives_another_episode():
    tasks = source([20] * 20)
    first = tasks.episode(3, "score", 0)
    for other in (tasks.episode(4, "score", 0), tasks.episode(3, "score", 1), tasks.episode(3, "train", 0)):
        assert not same(first, other)


def test_memory_mapped_images_give_the_same_episode(tmp_path):
    images = numbered([8] * 6)
    np.save(tmp_path / "images.npy", images.images)
    mapped = LabelledImages(
        np.load(tmp_path / "images.npy", mmap_mode="r"), images.labels, images.class_names, "val", "numbers"
    )
    config = EpisodeConfig(queries=2)
    one = EpisodeSource(images, config, MEAN, STD).episode(0)
    assert same(one, EpisodeSource(mapped, config, MEAN, STD).episode(0))


class Watched(np.ndarray):
    """An array that keeps what it is asked for."""

    asked: list

    def __getitem__(self, key):
        self.asked.append(key)
        return np.asarray(self)[key]


def test_only_the_images_drawn_are_read_in_the_order_in_which_they_lie():
    images = numbered([8] * 6)
    watched = images.images.view(Watched)
    watched.asked = []
    tasks = EpisodeSource(
        LabelledImages(watched, images.labels, images.class_names, "val", "numbers"),
        EpisodeConfig(queries=2),
        MEAN,
        STD,
    )
    assert not watched.asked
    episode = tasks.episode(0)
    assert watched.asked == sorted(rows_of(episode.support_pixels) + rows_of(episode.query_pixels))


def test_classes_and_images_are_drawn_uniformly():
    counts = [6, 9, 12, 7, 8]
    tasks = source(counts, ways=2, shots=1, queries=1)
    labels = tasks.images.labels
    drawn = 2000
    classes, pairs, support = np.zeros(5), np.zeros((5, 5)), np.zeros(len(labels))
    for index in range(drawn):
        episode = tasks.episode(11, index)
        chosen = [int(name[1:]) for name in episode.class_names]
        classes[chosen] += 1
        pairs[chosen[0], chosen[1]] += 1
        support[episode.support_rows] += 1
    assert stats.chisquare(classes).pvalue > 0.001
    assert stats.chisquare(pairs[~np.eye(5, dtype=bool)]).pvalue > 0.001  # every ordered pair, none favoured
    for label in range(5):
        assert stats.chisquare(support[labels == label]).pvalue > 0.001
    assert np.trace(pairs) == 0


def test_images_are_normalised_per_channel():
    pixels = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2) * 10
    expected = np.empty((2, 3, 2, 2))
    for channel in range(3):
        expected[:, channel] = (pixels[:, channel].numpy().astype(float) / 255 - MEAN[channel]) / STD[channel]
    result = normalise(pixels, MEAN, STD)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_episode_is_normalised_once_and_as_one_function_does_it():
    tasks = EpisodeSource(numbered([8] * 6, size=12), EpisodeConfig(queries=2), MEAN, STD, image_size=8)
    drawn = tasks.episode(0)
    shown = tasks.normalised(drawn)
    for name in ("support", "query"):
        pixels, images = getattr(drawn, f"{name}_pixels"), getattr(shown, f"{name}_images")
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, torch.from_numpy(tasks.images.images[getattr(drawn, f"{name}_rows")]))
        assert torch.equal(images, network_input(pixels, MEAN, STD, image_size=8))
        assert torch.equal(images, resize(normalise(pixels, MEAN, STD), 8))
        assert torch.equal(getattr(shown, f"{name}_labels"), getattr(drawn, f"{name}_labels"))
    assert shown.class_names == drawn.class_names


def test_every_grey_level_becomes_the_quotient_rounded_at_each_step():
    levels = np.arange(256, dtype=np.float32)
    expected = (levels / np.float32(255) - np.float32(MEAN[0])) / np.float32(STD[0])
    found = normalise(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256), MEAN, STD)[0, 0]
    assert np.array_equal(found.numpy(), expected)


def test_a_smaller_size_averages_instead_of_skipping_pixels():
    board = torch.tensor([0.0, 1.0]).repeat(16)[None, :].repeat(32, 1)
    board = (board - board.T).abs()[None, None]  # a chess board: every pixel differs from its neighbours
    small = resize(board, 8)
    assert small.shape == (1, 1, 8, 8)
    assert (small - 0.5).abs().max() < 0.05
    assert resize(board, None) is board
    assert resize(board, 32) is board


def test_episodes_come_at_the_size_asked_for():
    tasks = EpisodeSource(numbered([8] * 6, size=12), EpisodeConfig(queries=2), MEAN, STD, image_size=8)
    assert tasks.image_shape == (3, 8, 8)
    assert tasks.normalised(tasks.episode(0)).query_images.shape == (10, 3, 8, 8)
    assert tasks.episode(0).class_names == source([8] * 6, queries=2).episode(0).class_names


def test_too_few_images_are_refused_with_the_class_and_the_counts():
    with pytest.raises(InputError, match="Class 'c2' of split 'val' has 12 images, but 1 shot \\+ 15 queries need 16"):
        source([16, 20, 12, 17, 18])
    with pytest.raises(InputError, match=r"Class 'c1' .* has 1 image, but 2 shots \+ 1 query need 3 \(2 classes"):
        source([2, 1, 5, 5, 5], shots=2, queries=1)
    source([16] * 5)


def test_too_few_classes_are_refused_with_their_names():
    with pytest.raises(InputError, match=r"has 2 classes \('c0', 'c1'\), but 5-way episodes need 5"):
        source([20, 20])


def test_a_mean_for_each_channel_is_needed():
    with pytest.raises(InputError, match="3 channels, but there are 1 means"):
        EpisodeSource(numbered([20] * 5), EpisodeConfig(), (0.5,), (0.5,))
