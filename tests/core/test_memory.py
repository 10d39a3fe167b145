"""Scoring many candidates holds no more than scoring one: nothing of a candidate is kept."""

import numpy as np
import pytest
import torch

from benchmarks.memory import SETTINGS, course, measured
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeSource


def noise() -> EpisodeSource:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 16, 16)).astype(np.uint8)
    labels = np.repeat(np.arange(10), 6).astype(np.int64)
    labelled = LabelledImages(images, labels, tuple(f"class {i}" for i in range(10)), "train", "noise")
    return EpisodeSource(labelled, SETTINGS.episode, (0.5,), (0.29,), image_size=16)


def test_measurement_sees_tensors_and_memory():
    before = measured(0)
    # So large that no memory which earlier tests left behind is used again: 200 MB each.
    kept = [torch.ones(50_000_000) for _ in range(2)]
    after = measured(0)
    assert after.tensors - before.tensors == 2
    assert after.resident - before.resident > 350
    del kept


@pytest.mark.slow
@pytest.mark.minutes
def test_memory_does_not_grow_with_the_number_of_candidates():
    # The networks of 200 candidates have more than 10,000 tensors, their graphs more than 100 MB of activations.
    config = SETTINGS.model_copy(update={"scores": ("metantk_cond", "naswot", "grad_norm", "synflow", "params")})
    first, *_, last = course(noise(), config, 240, 40)
    assert last.tensors - first.tensors < 20
    assert last.resident - first.resident < 30
