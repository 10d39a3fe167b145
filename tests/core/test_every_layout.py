"""Every layout is recognised by its files alone, with the classes, the pixels and the colours that were put there."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_layouts import CLASSES, EACH, MADE, SIZE, Content

from metantk_core.config import RunConfig, load_config
from metantk_core.datasets import SPLITS, DataConfig, ImageDataset, prepare
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES

KINDS = {
    "mini-rfs": ("miniimagenet", "pickles of miniImageNet"),
    "mini-cache": ("miniimagenet", "cache pickles of miniImageNet"),
    "mini-ravi": ("lists", "lists of images"),
    "folders": ("folder", "folders of images"),
    "npz": ("npz", "npz files"),
    "tiered-rfs": ("tieredimagenet", "arrays of tieredImageNet"),
    "tiered-ren": ("tieredimagenet", "encoded images of tieredImageNet"),
    "cifar-fs": ("cifar-fs-or-fc100", "pickles of CIFAR-FS or FC100"),
    "cifar-fs-metaopt": ("cifar-fs", "pickles of CIFAR-FS or FC100"),
    "fc100-metaopt": ("fc100", "pickles of CIFAR-FS or FC100"),
    "omniglot": ("omniglot", "Omniglot's folders of drawings"),
    "mnist": ("mnist", "IDX files"),
    "emnist-letters": ("emnist-letters", "IDX files"),
}


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch):
    """Flushing to a real disk takes most of the time here, and shows in no result."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def prepared(root: Path, out: Path, **settings: Any) -> ImageDataset:
    asked: dict[str, Any] = {"path": str(root), "image_size": SIZE, "channels": 3}
    return prepare(DataConfig(**asked | settings), out)


def by_class(dataset: ImageDataset, split: Any) -> dict[str, np.ndarray]:
    part = dataset.split(split)
    return {name: part.images[part.labels == label] for label, name in enumerate(part.class_names)}


def same_images(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two sets of images are equal, in whatever order."""
    return sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)


@pytest.mark.parametrize("kind", MADE)
def test_each_gives_its_classes_and_pixels(tmp_path, kind):
    (tmp_path / "images").mkdir()
    content: Content = MADE[kind](tmp_path / "images")
    dataset = prepared(tmp_path / "images", tmp_path / "out", rotations="none")
    assert (dataset.kind, dataset.layout) == KINDS[kind]
    found = {split: by_class(dataset, split) for split in SPLITS}
    if "all" in content:
        found = {"all": {name: images for part in found.values() for name, images in part.items()}}
    else:
        assert {split: len(part) for split, part in found.items()} == CLASSES
    for split, part in content.items():
        assert set(found[split]) == set(part)
        for name, images in part.items():
            assert len(images) == EACH
            assert same_images(found[split][name], np.broadcast_to(images, (EACH, 3, SIZE, SIZE)))


@pytest.mark.parametrize("kind", [kind for kind in MADE if kind not in ("omniglot", "mnist", "emnist-letters")])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_turned_round_where_a_person_says_so(tmp_path, kind, channels):
    (tmp_path / "images").mkdir()
    MADE[kind](tmp_path / "images")
    usual = "bgr" if kind == "tiered-rfs" else "rgb"
    other = "rgb" if usual == "bgr" else "bgr"
    as_it_is = prepared(tmp_path / "images", tmp_path / "one", channels=channels)
    said = prepared(tmp_path / "images", tmp_path / "two", channels=channels, colour_order=usual)
    turned = prepared(tmp_path / "images", tmp_path / "three", channels=channels, colour_order=other)
    assert as_it_is.digest == said.digest
    if channels == 3:
        assert np.array_equal(turned.val.images, as_it_is.val.images[:, ::-1])
        return
    # Of the same drawings in colour: ITU-R 601's share of each channel, red and blue exchanged.
    red, green, blue = prepared(tmp_path / "images", tmp_path / "four").val.images.transpose(1, 0, 2, 3)
    expected = 0.299 * blue + 0.587 * green + 0.114 * red
    assert np.abs(turned.val.images[:, 0] - expected).max() < 1
    assert np.abs(as_it_is.val.images[:, 0] - expected).max() > 3


def test_red_and_blue_exchanged_in_known_photographs_are_doubted(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    MADE["mini-rfs"](tmp_path / "images")
    right = prepared(tmp_path / "images", tmp_path / "one")
    assert not any("more blue than red" in sentence for sentence in right.assumptions)
    assert any("red, green, blue" in sentence for sentence in right.assumptions)
    wrong = prepared(tmp_path / "images", tmp_path / "two", colour_order="bgr")
    assert any("more blue than red on the average" in sentence for sentence in wrong.assumptions)
    assert "more blue than red on the average" in caplog.text


# What it is called


def with_classes(root: Path, counts: tuple[int, int, int]) -> Path:
    """Write pickles of CIFAR-FS or FC100 with so many classes of one image."""
    root.mkdir()
    first = 0
    for split, count in zip(SPLITS, counts, strict=True):
        images = np.random.default_rng(first).integers(0, 256, (count, 8, 8, 3), np.uint8)
        content = {"data": images, "labels": list(range(first, first + count))}
        (root / f"{split}.pickle").write_bytes(pickle.dumps(content))
        first += count
    return root


@pytest.mark.parametrize(
    ("counts", "kind", "words"),
    [
        ((64, 16, 20), "cifar-fs", "Taken for CIFAR-FS (64, 16 and 20 classes), unlike FC100 (60, 20 and 20 classes)."),
        ((60, 20, 20), "fc100", "Taken for FC100 (60, 20 and 20 classes), unlike CIFAR-FS (64, 16 and 20 classes)."),
        ((60, 16, 24), "cifar-fs-or-fc100", "It may be CIFAR-FS (64, 16 and 20 classes) or FC100 (60, 20 and 20"),
    ],
)
def test_cifar_fs_and_fc100_are_told_apart_by_their_numbers_of_classes(tmp_path, caplog, counts, kind, words):
    dataset = prepared(with_classes(tmp_path / "cifar", counts), tmp_path / "out")
    assert dataset.kind == kind
    assert dataset.assumptions[0].startswith(words)
    assert f"cifar: {words}" in caplog.text
    caplog.clear()
    assert prepared(tmp_path / "cifar", tmp_path / "out").assumptions == dataset.assumptions
    assert not caplog.text  # said once


def test_a_name_says_which_it_is_and_is_compared_with_what_is_there(tmp_path):
    root = with_classes(tmp_path / "cifar", (64, 16, 20))
    assert prepared(root, tmp_path / "one", name="my-birds").kind == "my-birds"
    said = prepared(root, tmp_path / "two", name="fc100")
    assert said.kind == "fc100"
    assert said.assumptions[0] == ("By data.name it is FC100 (60, 20 and 20 classes); there are 64, 16 and 20 classes.")
    assert said.digest == prepared(root, tmp_path / "three").digest
    with pytest.raises(InputError, match="holds a data set of another configuration"):
        prepared(root, tmp_path / "two", name="cifar-fs")


def test_what_nobody_says_is_no_part_of_a_run():
    glyphs = RunConfig()
    values = {"source": "glyphs", "path": None, "image_size": 32, "channels": 1, "seed": 0, "images_per_class": 20}
    assert glyphs.experiment["data"] == values
    mine = RunConfig(data=DataConfig(path="x"), dataset_digest="0123")
    changes: list[dict[str, Any]] = [
        {"colour_order": "bgr"},
        {"rotations": "all"},
        {"val_classes": 5},
        {"test_classes": ["a", "b*"]},
    ]
    for change in changes:
        changed = RunConfig.from_json(RunConfig(data=DataConfig(path="x", **change), dataset_digest="0123").to_json())
        assert changed.digest != mine.digest
    unimportant: list[dict[str, Any]] = [{"name": "fc100"}, {"source": "npz"}, {"allow_shared_images": True}]
    for change in unimportant:
        assert RunConfig(data=DataConfig(path="x", **change), dataset_digest="0123").digest == mine.digest


@pytest.mark.parametrize(
    "setting", ["name=mnist", "colour_order=bgr", "rotations=all", "val_classes=3", "allow_shared_images=true"]
)
def test_glyphs_leave_nothing_to_say(setting):
    with pytest.raises(InputError, match="is for images of your own; glyphs leave nothing to say"):
        load_config("smoke", RECIPES, [f"data.{setting}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("val_classes=0", "val_classes"),
        ("val_classes=[]", "expected a number of classes, or a list of their names"),
        ("val_classes=true", "expected a number of classes, or a list of their names"),
        ("test_classes=[1.5]", "expected a number of classes, or a list of their names"),
        ('test_classes=["", b]', "test_classes"),
        ("name=Mini ImageNet", "name"),
        ("colour_order=gbr", "colour_order"),
    ],
)
def test_choices_that_are_none_are_refused(setting, words):
    with pytest.raises(InputError, match=re.escape(words)):
        load_config("smoke", RECIPES, ["data.path=x", f"data.{setting}"])


def test_a_folder_that_is_not_there_is_one_good_sentence(tmp_path):
    with pytest.raises(InputError) as error:
        prepared(tmp_path / "nowhere", tmp_path / "out")
    assert str(error.value) == (
        f"No folder '{tmp_path}/nowhere': expected one that holds images, in a layout of docs/own-data.md. Check "
        "data.path."
    )
