"""Omniglot and IDX files: classes are divided as the field does or as a person says, and what is wrong is told."""

import gzip
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_layouts import EACH, MADE, SIZE, idx_bytes
from PIL import Image

from metantk_core.datasets import SPLITS, DataConfig
from metantk_core.datasets.config import Choices
from metantk_core.datasets.layouts import recognised
from metantk_core.datasets.layouts.choosing import split_of_each
from metantk_core.datasets.sources import Source
from metantk_core.errors import InputError
from metantk_core.files import Folder


def source(root: Path, size: int = SIZE, **settings: Any) -> Source:
    return recognised(Folder(root), size, 1, DataConfig(path=str(root), **settings).choices)


def classes(root: Path, **settings: Any) -> dict[str, tuple[str, ...]]:
    return {split: part.class_names for split, part in source(root, **settings).splits().items()}


def refusal(root: Path, **settings: Any) -> str:
    """Return what is said of a folder that can't be used."""
    with pytest.raises(InputError) as error:
        [list(part.images()) for part in source(root, **settings).splits().values()]
    text = str(error.value)
    assert text.isprintable()
    assert text.endswith(".")
    return text


@pytest.fixture
def drawn(tmp_path) -> Path:
    root = tmp_path / "drawn"
    root.mkdir()
    MADE["omniglot"](root)
    return root


@pytest.fixture
def digits(tmp_path) -> Path:
    root = tmp_path / "digits"
    root.mkdir()
    MADE["mnist"](root)
    return root


@pytest.fixture
def letters(tmp_path) -> Path:
    root = tmp_path / "letters"
    root.mkdir()
    MADE["emnist-letters"](root)
    return root


# Which classes are where


def test_all_of_omniglot_is_1100_100_and_423_characters_with_three_turned_beside_each(tmp_path):
    one = tmp_path / "drawing.png"
    Image.new("1", (8, 8), 1).save(one)
    for part, count in (("images_background", 964), ("images_evaluation", 659)):
        for k in range(count):
            folder = tmp_path / "omniglot" / part / f"Alphabet of {part} {k % 30}" / f"character{k // 30 + 1:02}"
            folder.mkdir(parents=True)
            (folder / "0001_01.png").hardlink_to(one)
    plain = classes(tmp_path / "omniglot", rotations="none")
    assert {split: len(names) for split, names in plain.items()} == {"train": 1100, "val": 100, "test": 423}
    assert {split: len(names) for split, names in classes(tmp_path / "omniglot").items()} == {
        "train": 4400,
        "val": 400,
        "test": 1692,
    }
    assert source(tmp_path / "omniglot").recognise(source(tmp_path / "omniglot").splits()).assumptions == ()
    # Drawn from all alphabets, from both folders.
    assert {name.split(" ")[2] for name in plain["val"]} == {"images_background", "images_evaluation"}
    another = classes(tmp_path / "omniglot", rotations="none", seed=1)
    assert len(set(another["test"]) & set(plain["test"])) < 423 * 0.5


def test_fewer_characters_are_divided_in_the_usual_shares_and_that_is_said(drawn):
    found = classes(drawn, rotations="none")
    assert {split: len(names) for split, names in found.items()} == {"train": 11, "val": 1, "test": 4}
    assumed = source(drawn).recognise(source(drawn).splits()).assumptions
    assert assumed == ("Of Omniglot's 1,623 characters 16 are here, split in the usual shares.",)


def test_ten_digits_are_four_three_and_three_and_letters_sixteen_five_and_five(digits, letters):
    assert {split: len(names) for split, names in classes(digits).items()} == {"train": 4, "val": 3, "test": 3}
    assert {split: len(names) for split, names in classes(letters).items()} == {"train": 16, "val": 5, "test": 5}
    assert sorted(name for names in classes(letters).values() for name in names) == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert classes(digits) != classes(digits, seed=1)


def test_a_person_says_how_many_or_which(digits, drawn):
    assert {split: len(names) for split, names in classes(digits, val_classes=1, test_classes=2).items()} == {
        "train": 7,
        "val": 1,
        "test": 2,
    }
    named = classes(digits, val_classes=["7"], test_classes=[0, "3", 8])
    assert named == {"train": ("1", "2", "4", "5", "6", "9"), "val": ("7",), "test": ("0", "3", "8")}
    alphabet = classes(drawn, rotations="none", test_classes=["Tibetan/*"], val_classes=["Latin/*"])
    assert set(alphabet["test"]) == {f"Tibetan/character{k:02}" for k in range(1, 6)}
    assert {name.split("/")[0] for name in alphabet["train"]} == {"Greek"}


def test_a_class_keeps_its_place_in_the_draw_whatever_else_is_there():
    def usual(count: int) -> tuple[int, int]:
        return 3, 3

    names = [f"class {k}" for k in range(40)]
    choices = DataConfig(path="x").choices
    before = split_of_each(names, choices, usual, "x")
    after = split_of_each([name for name in names if before[name] != "val"], choices, usual, "x")
    assert [name for name in names if before[name] == "test"] == [name for name in names if after.get(name) == "val"]


@pytest.mark.parametrize(
    ("pattern", "held_out"), [("x[1]", ["x[1]"]), ("x?", ["x?"]), ("x[*", ["x[1]"]), ("x1", ["x1"])]
)
def test_only_the_star_stands_for_anything_in_the_name_of_a_class(pattern, held_out):
    names = ["x[1]", "x1", "x?", "xy", "b", "c"]
    choices = Choices(val_classes=("b",), test_classes=(pattern,))
    split_of = split_of_each(names, choices, lambda count: (1, 1), "x")
    assert [name for name in names if split_of[name] == "test"] == held_out


def test_choices_that_can_not_be_are_refused(digits, drawn, tmp_path):
    assert "names '17', but" in refusal(digits, test_classes=["17"])
    assert "Class '3' is in data.val_classes and in data.test_classes" in refusal(
        digits, test_classes=["3"], val_classes=[*"012345"]
    )
    assert "none is left for train" in refusal(digits, test_classes=5, val_classes=5)
    assert "has 10 classes, too few for 9 of test beside the others" in refusal(digits, test_classes=9, val_classes=5)
    assert "data.colour_order is for colours" in refusal(digits, colour_order="bgr")
    (tmp_path / "arrays").mkdir()
    MADE["npz"](tmp_path / "arrays")
    assert "are for data sets without splits, but npz files in" in refusal(tmp_path / "arrays", val_classes=3)


# Turned drawings


@pytest.mark.parametrize(
    ("rotations", "turned"), [(None, SPLITS), ("all", SPLITS), ("train", ("train",)), ("none", ())]
)
def test_turned_drawings_are_classes_of_their_own(drawn, rotations, turned):
    plain = source(drawn, rotations="none").splits()
    found = source(drawn, rotations=rotations).splits()
    for split in SPLITS:
        before, after = plain[split], found[split]
        images, of_classes = np.stack(list(after.images())), np.array(after.class_names)
        if split not in turned:
            assert after.class_names == before.class_names
            continue
        for k, image in enumerate(before.images()):
            name = before.class_names[before.labels[k]]
            four = images[4 * k : 4 * k + 4]
            assert of_classes[after.labels[4 * k : 4 * k + 4]].tolist() == [
                name,
                *(f"{name}/rot{angle}" for angle in (90, 180, 270)),
            ]
            # Anticlockwise by a quarter: what was on the right is on top.
            for quarter in range(3):
                assert np.array_equal(four[quarter + 1], four[quarter].transpose(0, 2, 1)[:, ::-1])
            assert np.array_equal(four[0], image)
        assert np.bincount(after.labels).tolist() == [EACH] * len(after.class_names)
        # What was broken off goes on where it was.
        assert np.array_equal(np.stack(list(after.images(5))), images[5:])


def test_ink_is_white_at_the_size_that_papers_use(tmp_path):
    for part, alphabet in (("images_background", "A"), ("images_evaluation", "B")):
        for k in range(3):
            folder = tmp_path / part / alphabet / f"character{k}"
            folder.mkdir(parents=True)
            picture = Image.new("1", (105, 105), 1)
            picture.paste(0, (0, 0, 30, 105))  # a stroke down the left
            picture.save(folder / "1.png")
    (image,) = source(tmp_path, 28, rotations="none").splits()["val"].images()
    assert image.shape == (1, 28, 28)
    assert (image[0, :, :7] == 255).all()
    assert (image[0, :, 9:] == 0).all()


def test_omniglot_is_found_as_it_is_unpacked(drawn, tmp_path):
    below = tmp_path / "data" / "omniglot-py"
    below.mkdir(parents=True)
    for part in ("images_background", "images_evaluation"):
        (below / part).mkdir()
        (drawn / part).rename(below / part / part)
        (below / f"{part}.zip").touch()
    found = source(tmp_path / "data")
    assert found.name == "data"
    assert len(found.splits()["train"].class_names) == 44
    shutil.rmtree(below / "images_evaluation")
    assert "no folder images_evaluation. Put it there: unpack images_evaluation.zip." in refusal(tmp_path / "data")
    (below / "images_evaluation" / "Greek").mkdir(parents=True)
    assert "holds no folders of alphabets with folders of characters" in refusal(tmp_path / "data")
    (below / "images_evaluation" / "Greek" / "character99").mkdir()
    assert "character99' holds no images" in refusal(tmp_path / "data")
    os.mkfifo(below / "images_evaluation" / "Greek" / "character99" / "1.png")
    assert "character99/1.png' is a FIFO: expected a file" in refusal(tmp_path / "data")


# IDX files


def test_images_of_both_parts_are_divided_by_class_and_packed_or_not_they_are_the_same(digits, tmp_path):
    before = source(digits).splits()
    (tmp_path / "plain").mkdir()
    for file in digits.iterdir():
        (tmp_path / "plain" / file.stem.replace("-idx", ".idx")).write_bytes(gzip.decompress(file.read_bytes()))
        # Browsers unpack files and leave their names.
        file.write_bytes(gzip.decompress(file.read_bytes()))
    for root in (tmp_path / "plain", digits):
        after = source(root).splits()
        for split in SPLITS:
            assert after[split].class_names == before[split].class_names
            assert np.array_equal(np.stack(list(after[split].images())), np.stack(list(before[split].images())))
            assert np.bincount(after[split].labels).tolist() == [EACH] * len(after[split].class_names)
    assert np.array_equal(np.stack(list(before["train"].images(7))), np.stack(list(before["train"].images()))[7:])


def test_which_of_several_is_a_name(digits, letters):
    for file in letters.iterdir():
        file.rename(digits / file.name)
    text = refusal(digits)
    assert "IDX files of emnist-letters and IDX files of mnist or fashion-mnist or kmnist" in text
    assert "or say which with data.name, such as emnist-letters" in text
    assert set(classes(digits, name="fashion-mnist")["train"]) < set("0123456789")
    assert len(classes(digits, name="emnist-letters")["train"]) == 16


def test_of_several_folders_that_hold_data_sets_one_is_to_be_named(digits, drawn, letters, tmp_path):
    for name, raw in (("MNIST", digits), ("EMNIST", letters)):
        (tmp_path / "torchvision" / name / "processed").mkdir(parents=True)
        raw.rename(tmp_path / "torchvision" / name / "raw")
    root = tmp_path / "torchvision"
    assert f"holds data sets in '{root}/EMNIST/raw' and '{root}/MNIST/raw': data.path must name one" in refusal(root)
    assert len(source(root / "EMNIST").splits()["train"].class_names) == 16
    shutil.rmtree(root / "EMNIST")
    assert len(source(root).splits()["train"].class_names) == 4
    assert source(root).recognise(source(root).splits()).assumptions[0] == "Found in its folder 'MNIST/raw'."
    for number in range(20):
        (root / f"class {number}").mkdir()
    assert "No data set is recognised in" in refusal(root)


def test_which_family_it_is_files_can_not_tell(digits):
    found = source(digits).recognise(source(digits).splits())
    assert found.kind == "mnist"
    assert "have the same names: taken for MNIST. data.name can say which." in found.assumptions[0]
    said = source(digits, name="kmnist").recognise(source(digits).splits())
    assert (said.kind, said.assumptions) == ("kmnist", ())


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "nothing": (IMAGES, lambda data: b"", "an IDX file of images (it is empty)"),
    "a part of the header": (IMAGES, lambda data: data[:9], "(it ends too early)"),
    "cut off": (IMAGES, lambda data: data[:-1], "(it claims shape [50, 12, 12], more than it can hold)"),
    "cut off and packed": (IMAGES, lambda data: gzip.compress(data[:-1]), "(it ends too early)"),
    "cut off in packing": (IMAGES, lambda data: gzip.compress(data)[:-9], "an IDX file of images ("),
    "damaged in packing": (IMAGES, lambda data: flipped(gzip.compress(data)), "an IDX file of images ("),
    "more behind": (IMAGES, lambda data: data + b"x", "(it goes on after its last element)"),
    "a page": (IMAGES, lambda data: b"<html>", "(it doesn't begin as an IDX file does)"),
    "fractions": (IMAGES, lambda data: data[:2] + b"\x0d" + data[3:], "of type 0x0d, not bytes (0x08)"),
    "two axes": (IMAGES, lambda data: data[:3] + b"\x02" + data[4:], "(it has 2 axes instead of 3)"),
    "no images": (IMAGES, lambda data: idx_bytes(np.zeros((0, 9, 9))), "without a single element"),
    "labels as images": (IMAGES, lambda data: idx_bytes(np.zeros(50)), "(it has 1 axes instead of 3)"),
    "images as labels": (LABELS, lambda data: idx_bytes(np.zeros((50, 9, 9))), "of labels (it has 3 axes"),
    "a label too few": (LABELS, lambda data: idx_bytes(np.zeros(49)), "has 50 images, but "),
    "billions": (IMAGES, lambda data: b"\0\0\x08\x03" + b"\x7f" * 12, "expected at most 20,000,000 images"),
    "more than it holds": (
        IMAGES,
        lambda data: gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 20_000_000, 28, 28)),
        "more than it can hold",
    ),
}  # fmt: skip


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 255]) + data[41:]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_an_idx_file_is_told(digits, damage):
    name, change, words = DAMAGE[damage]
    (digits / name).write_bytes(change(gzip.decompress((digits / name).read_bytes())))
    text = refusal(digits)
    assert str(digits / name) in text
    assert words in text


def test_what_unpacks_to_far_more_than_it_claims_is_not_unpacked(digits):
    data = gzip.decompress((digits / IMAGES).read_bytes())
    bomb = gzip.compress(data + bytes(80_000_000), 1)
    (digits / IMAGES).write_bytes(bomb)
    tracemalloc.start()
    assert "it goes on after its last element" in refusal(digits)
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_a_missing_idx_file_is_named(digits):
    (digits / LABELS).unlink()
    assert "A file of mnist in" in refusal(digits)
    assert "is missing: train-labels-idx1-ubyte, or with .gz behind. Put it there." in refusal(digits)


def test_one_part_is_enough_and_that_is_said(digits):
    for file in digits.glob("t10k*"):
        file.unlink()
    found = source(digits)
    assert "Only the images of one of the two parts are here." in found.recognise(found.splits()).assumptions
