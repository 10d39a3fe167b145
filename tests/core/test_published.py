"""Accuracies are compared with published ones, and only where data and protocol are the published ones."""

from dataclasses import replace

import numpy as np
import pytest

from metantk_core.datasets import ImageDataset, LabelledImages
from metantk_core.meta_training import Accuracy, Evaluation, published_sentence
from metantk_core.meta_training.published import BANDS, UNKNOWN, WHOLE

FOUND = Evaluation(
    accuracy=0.48,
    half_width=0.008,
    interval="95 %",
    episodes=600,
    ways=5,
    shots=1,
    queries=15,
    algorithm="maml",
    inner_steps=5,
    inner_learning_rate=0.01,
    norm="batch_transductive",
    transductive=True,
    dataset="ours",
    split="test",
    seed=0,
    model="0",
    best_iteration=1,
    per_episode=(0.48, 0.48),
)


def data_set(kind, *, size=84, classes=None, times=1):
    """Return a data set as large as the published one, of one pixel that all images share."""
    whole = WHOLE[kind]
    splits = {}
    for split in ("train", "val", "test"):
        number = times * (whole.classes[split] if classes is None else classes)
        count = times * whole.images[split]
        images = np.broadcast_to(np.zeros((1, 3, 1, 1), np.uint8), (count, 3, size, size))
        names = tuple(f"{split} {number}" for number in range(number))
        splits[split] = LabelledImages(images, np.arange(count) % number, names, split, "ours")
    return ImageDataset(**splits, name="ours", mean=(0.5,) * 3, std=(0.2,) * 3, digest="0", kind=kind)


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [(0.48, "agrees with it"), (0.46, "agrees with it"), (0.40, "6.5 points below"), (0.55, "5.0 points above")],
)
def test_an_accuracy_agrees_with_a_band_that_its_interval_reaches(accuracy, words):
    sentence = published_sentence(
        replace(FOUND, accuracy=accuracy), data_set("miniimagenet"), "MAML (first order)", "conv4-32"
    )
    assert sentence.startswith(
        "Published for conv4-32 by MAML (first order) on miniImageNet, 5-way 1-shot: 46.5 to 50 %"
    )
    assert words in sentence


def test_a_single_published_number_is_compared_as_such():
    five = replace(FOUND, shots=5, accuracy=0.79, half_width=0.004, algorithm="rfs", classifier="logistic_regression")
    sentence = published_sentence(five, data_set("miniimagenet"), "RFS", "resnet12")
    assert "5-way 5-shot: 79.64 % (Tian et al., ECCV 2020)" in sentence
    assert "0.6 points below" in sentence


def test_further_shots_are_compared_with_their_own_numbers_and_other_classifiers_with_none():
    others = (
        Accuracy("nearest_centroid", 1, 0.62, 0.01),
        Accuracy("logistic_regression", 5, 0.78, 0.01),
        Accuracy("logistic_regression", 10, 0.85, 0.01),
    )
    found = replace(FOUND, accuracy=0.62, algorithm="rfs", classifier="logistic_regression", others=others)
    sentence = published_sentence(found, data_set("miniimagenet"), "RFS", "resnet12")
    assert sentence == (
        "Published for resnet12 by RFS on miniImageNet, 5-way 1-shot: 62.02 %, 5-shot: 79.64 % (Tian et al., ECCV "
        "2020); this agrees with it with 1 shot and is 1.6 points below with 5 shots."
    )
    other = replace(found, classifier="cosine", others=())
    assert published_sentence(other, data_set("miniimagenet"), "RFS", "resnet12") == UNKNOWN


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (lambda: data_set("miniimagenet", size=32), "images here are 32 pixels wide, those 84"),
        (lambda: data_set("miniimagenet", classes=7), "7 train classes of 38,400 images are here, of 64 of 38,400"),
        # Rotations as further classes are Omniglot's alone.
        (lambda: data_set("miniimagenet", times=4), "256 train classes of 153,600 images are here, of 64 of 38,400"),
    ],
)
def test_other_images_than_the_published_ones_are_not_compared(dataset, words):
    sentence = published_sentence(FOUND, dataset(), "MAML", "conv4-32")
    assert f"not comparable: {words}." in sentence
    assert "agrees" not in sentence


def test_omniglot_is_whole_with_and_without_its_rotations():
    accurate = replace(FOUND, accuracy=0.985, half_width=0.002)
    for times in (1, 4):
        sentence = published_sentence(accurate, data_set("omniglot", size=28, times=times), "MAML", "conv4-64")
        assert "98 to 99 %" in sentence
        assert "agrees with it" in sentence


@pytest.mark.parametrize(
    ("change", "learner", "network"),
    [
        ({"ways": 20}, "MAML", "conv4-32"),
        ({"shots": 10}, "MAML", "conv4-32"),
        ({"split": "val"}, "MAML", "conv4-32"),
        ({}, "ProtoNet", "conv4-32"),
        ({}, "MAML", "paper-mini-5-a"),
    ],
)
def test_where_nothing_is_published_that_is_said(change, learner, network):
    assert published_sentence(replace(FOUND, **change), data_set("miniimagenet"), learner, network) == UNKNOWN


def test_every_band_is_of_a_data_set_whose_size_is_known():
    assert {data for data, *_ in BANDS} == set(WHOLE)
    assert all(0 < band.low <= band.high < 100 for band in BANDS.values())
