"""Images that lie in two splits make a wrong number: they are found by their checksums, and many are refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import UInt8

from metantk_core.datasets import SPLITS, DataConfig, ImageDataset, prepare, repeated_images, shared_images
from metantk_core.errors import InputError

CLASSES, EACH = 10, 20


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch):
    """Flushing to a real disk takes most of the time here, and shows in no result."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def arrays() -> dict[str, UInt8[np.ndarray, "n h w"]]:
    return {
        split: np.random.default_rng(number).integers(0, 256, (CLASSES * EACH, 9, 9), np.uint8)
        for number, split in enumerate(SPLITS)
    }


def prepared(arrays: dict[str, np.ndarray], root: Path, out: str = "out", **settings: Any) -> ImageDataset:
    (root / "arrays").mkdir(exist_ok=True)
    for number, (split, images) in enumerate(arrays.items()):
        labels = np.repeat(np.arange(CLASSES), EACH) + 100 * number
        np.savez(root / "arrays" / f"{split}.npz", images=images, labels=labels)
    config = DataConfig(path=str(root / "arrays"), image_size=9, channels=1, **settings)
    return prepare(config, root / out)


def test_none_are_found_where_none_are(arrays, tmp_path, caplog):
    assert shared_images(prepared(arrays, tmp_path)) == ()
    assert not caplog.text


def test_what_is_shared_is_found_as_a_comparison_of_all_pairs_finds_it(arrays, tmp_path):
    arrays["test"][[3, 70, 71]] = arrays["train"][[150, 12, 13]]
    arrays["val"][9] = arrays["test"][100]
    arrays["val"][20] = 7  # one plain colour
    arrays["train"][30] = 7
    dataset = prepared(arrays, tmp_path, allow_shared_images=True)
    expected = {}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        equal = (arrays[one][:, None] == arrays[other][None]).all((2, 3))
        equal[arrays[one].std((1, 2)) == 0] = False
        if equal.any():
            expected[one, other] = (set(np.flatnonzero(equal.any(1))), set(np.flatnonzero(equal.any(0))))
    found = shared_images(dataset)
    assert {shared.splits: tuple(map(set, shared.rows)) for shared in found} == expected
    assert set(expected) == {("train", "test"), ("val", "test")}
    first = found[0]
    assert first.shares == (3 / 200, 3 / 200)
    assert first.of_class == 2 / 20
    assert np.array_equal(arrays["train"][first.rows[0][0]], arrays["test"][first.rows[1][0]])
    assert first.example == (str(first.rows[0][0] // EACH), str(200 + first.rows[1][0] // EACH))


def test_many_are_refused_with_an_example_and_nothing_is_left(arrays, tmp_path):
    arrays["test"][40:44] = arrays["train"][100]
    with pytest.raises(InputError) as error:
        prepared(arrays, tmp_path)
    assert str(error.value) == (
        "'arrays': 4 images of split 'test' (2.00%) also in 'train', pixel for pixel, such as image 40 of class '202', "
        "which is image 100 there, of class '5'. Accuracy on what training has seen says nothing about new classes: "
        "remove the copies, or set data.allow_shared_images=true if that is meant."
    )
    assert os.listdir(tmp_path) == ["arrays"]
    prepared(arrays, tmp_path, allow_shared_images=True)
    # Allowing it is no other data set, but no other run gets it unasked.
    with pytest.raises(InputError, match="also in 'train'"):
        prepare(DataConfig(path=str(tmp_path / "arrays"), image_size=9, channels=1), tmp_path / "out")


def test_a_class_of_train_under_another_name_is_refused_however_large_the_splits_are(arrays, tmp_path):
    arrays["test"][:EACH] = arrays["train"][:EACH]
    with pytest.raises(InputError, match=r"20 images of split 'test' \(10\.00%\) also in 'train'"):
        prepared(arrays, tmp_path)


def test_a_few_are_told_and_go_on(arrays, tmp_path, caplog):
    arrays["test"][[5, 60]] = arrays["val"][[4, 90]]  # 1 %, of different classes
    dataset = prepared(arrays, tmp_path)
    assert len(shared_images(dataset)) == 1
    assert "2 images of split 'test' (1.00%) also in 'val', pixel for pixel" in caplog.text


def test_plain_images_and_glyphs_are_no_copies(arrays, tmp_path):
    for images in arrays.values():
        images[:50] = 255
    assert shared_images(prepared(arrays, tmp_path)) == ()
    prepare(DataConfig(image_size=8, images_per_class=1), tmp_path / "glyphs")


def test_copies_within_a_split_are_counted_and_let_through(arrays, tmp_path):
    arrays["train"][[50, 51, 199]] = arrays["train"][[3, 3, 7]]
    arrays["train"][100:120] = 9
    dataset = prepared(arrays, tmp_path)
    assert repeated_images(dataset.train) == 3
    assert repeated_images(dataset.val) == 0
