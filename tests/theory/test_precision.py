"""What float32 gradients do to kernels, against a run in float64 throughout, and what singular kernels become.

Axes: n images.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.precision import errors
from metantk_core.candidates import SPACES
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.kernels import meta_ntk, split
from metantk_core.scores import Outcome, ScoringConfig, condition_number, rounding_floor, score_candidate

CONFIG = ScoringConfig.model_validate({"num_inits": 1, "image_size": 16, "network": {"channels": 8, "cells": 3}})
DOUBLE = torch.float64


def noise(classes: int = 10, images_per_class: int = 6, size: int = 16, episode: EpisodeConfig = CONFIG.episode):
    images = np.random.default_rng(0).integers(0, 256, (classes * images_per_class, 1, size, size)).astype(np.uint8)
    labels = np.repeat(np.arange(classes), images_per_class).astype(np.int64)
    labelled = LabelledImages(images, labels, tuple(f"class {i}" for i in range(classes)), "train", "noise")
    return EpisodeSource(labelled, episode, (0.5,), (0.29,), image_size=size)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["supernet", "decided"])
def test_condition_numbers_from_float32_gradients_are_right_to_a_thousandth_unless_one_image_jumps(space, kind):
    draws = np.random.default_rng(3)
    candidates = [SPACES[space].supernet()] if kind == "supernet" else [SPACES[space].sample(draws) for _ in range(4)]
    config = CONFIG
    if space == "nasbench201":  # cells of each of three stages
        config = config.model_copy(update={"network": config.network.model_copy(update={"cells": 1})})
    found = [errors(candidate, noise(), config, seed) for seed, candidate in enumerate(candidates)]
    measured = [row for row in found if row is not None]
    assert measured
    for row in measured:
        # Where rounding switches a ReLU, the gradient of one image jumps, and no arithmetic takes that back.
        jumped = row.worst_image > 0.9
        assert 0 < row.ntk < (1e-2 if jumped else 1e-4)
        assert row.ntk_cond < (1e-2 if jumped else 1e-3)
        assert row.meta_ntk_cond < (1e-2 if jumped else 1e-3)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 15),
    deficiency=st.integers(1, 15),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]),
    rounding=st.sampled_from([0.0, 1e-8]),
)
def test_rank_deficient_kernel_is_an_outcome_with_a_reason_never_a_number(seed, size, deficiency, scale, rounding):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(size, max(size - deficiency, 0)))
    kernel = scale * (rows @ rows.T)
    noise_of_gradients = rng.normal(size=(size, size)) * rounding * scale  # makes eigenvalues negative too
    score = condition_number(torch.from_numpy(kernel + (noise_of_gradients + noise_of_gradients.T) / 2))
    if size > deficiency:
        assert score.outcome is Outcome.DEGENERATE
        assert score.value is None
        assert "singular" in score.reason
    else:  # nothing but rounding: whatever it looks like, it is no infinite or negative number
        assert score.value is None or 1 <= score.value < math.inf


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    rank=st.integers(1, 40),
    ridge=st.sampled_from([0.0, 1e-3]),
    time=st.sampled_from([0.3, math.inf]),
)
def test_metantk_condition_is_a_number_of_at_least_one_or_a_reason_at_every_rank(seed, rank, ridge, time):
    rows = np.random.default_rng(seed).normal(size=(18, rank)).astype(np.float32).astype(np.float64)
    kernel = torch.from_numpy(rows @ rows.T)
    ntk = split(kernel, tasks=3, queries=3, supports=3)
    meta = meta_ntk(ntk, ntk, time=time, ridge=ridge, precision=torch.finfo(torch.float32).eps)
    score = condition_number(meta, floor=rounding_floor(kernel))
    if rank < 9:  # a congruence has at most the rank of what it transforms
        assert score.outcome is Outcome.DEGENERATE
    if score.value is None:
        assert score.reason
    else:
        assert 1 <= score.value < math.inf


def test_image_that_occurs_twice_makes_the_ntk_degenerate_and_no_number_is_made_up():
    source = noise(classes=5, images_per_class=2)
    source.images.images[:] = source.images.images[0]
    records = score_candidate(
        SPACES["nasbench201"].parse(
            "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
        ),
        source,
        CONFIG,
        0,
    )
    for record in records:
        if record.score.endswith("_cond"):
            assert [draw.outcome for draw in record.draws] == [Outcome.DEGENERATE]
            assert [draw.value for draw in record.draws] == [None]
