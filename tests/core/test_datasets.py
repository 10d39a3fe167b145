"""People's own images are stored as they are meant, and what can't be used is refused in a sentence."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from metantk_core.datasets import SPLITS, DataConfig, ImageDataset, LabelledImages, contact_sheet, load, prepare
from metantk_core.datasets.sources import to_array
from metantk_core.errors import InputError

CLASSES = {"train": ("ant", "bee", "cat"), "val": ("dog", "elk"), "test": ("fox", "gnu")}


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "animals"
    for split, names in CLASSES.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                rng = np.random.default_rng([ord(name[0]), index])
                suffix = "png" if index else "JPG"
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(
                    root / split / name / f"{index}.{suffix}"
                )
    return root


@pytest.fixture
def npz(tmp_path) -> Path:
    root = tmp_path / "arrays"
    root.mkdir()
    write_npz(root)
    return root


def write_npz(root: Path, **changes) -> None:
    rng = np.random.default_rng(0)
    for offset, split in enumerate(SPLITS):
        arrays = {
            "images": rng.integers(0, 256, (6, 9, 9, 3), np.uint8),
            "labels": 10 * offset + np.repeat([3, 1, 2], 2),
        }
        if split == "val":
            arrays |= changes
        np.savez(root / f"{split}.npz", **{key: value for key, value in arrays.items() if value is not None})


def config(path: Path, source="folder", **more) -> DataConfig:
    return DataConfig.model_validate({"source": source, "path": str(path), "image_size": 8, "channels": 3, **more})


def test_folder_images_are_stored_class_by_class_in_the_order_of_their_names(folder, tmp_path):
    dataset = prepare(config(folder), tmp_path / "out")
    assert dataset.name == "animals"
    for split in SPLITS:
        names = CLASSES[split]
        members = dataset.split(split)
        assert members.class_names == names
        assert members.labels.tolist() == [label for label in range(len(names)) for _ in range(4)]
        assert isinstance(members.images, np.memmap)
        assert members.images.shape == (4 * len(names), 3, 8, 8)
    picture = Image.open(folder / "val" / "elk" / "2.png").resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(dataset.val.images[6], np.asarray(picture).transpose(2, 0, 1))


def test_mean_and_spread_are_those_of_the_train_pixels(folder, tmp_path):
    dataset = prepare(config(folder), tmp_path / "out")
    values = np.asarray(dataset.train.images, np.float64) / 255
    np.testing.assert_allclose(dataset.mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std((0, 2, 3)), rtol=1e-12)


def test_hidden_files_and_files_that_are_no_images_are_passed_over(folder, tmp_path):
    (folder / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "ant" / "._1.png").write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    dataset = prepare(config(folder), tmp_path / "out")
    assert dataset.train.class_names == CLASSES["train"]
    assert len(dataset.train) == 12


def test_a_second_call_uses_what_is_there(folder, tmp_path):
    first = prepare(config(folder), tmp_path / "out")
    stamp = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
    calls = []
    again = prepare(config(folder), tmp_path / "out", lambda done, total, detail="": calls.append(done))
    assert again.digest == first.digest
    assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == stamp
    assert not calls


def test_changed_images_are_stored_again(folder, tmp_path):
    first = prepare(config(folder), tmp_path / "out")
    Image.new("RGB", (10, 10), "red").save(folder / "train" / "ant" / "9.png")
    again = prepare(config(folder), tmp_path / "out")
    assert len(again.train) == 13
    assert again.digest != first.digest
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["animals", "out"]


def test_prepared_images_outlive_their_source(folder, tmp_path):
    first = prepare(config(folder), tmp_path / "out")
    folder.rename(tmp_path / "elsewhere")
    assert prepare(config(folder), tmp_path / "out").digest == first.digest


def test_another_configuration_is_not_written_over(folder, tmp_path):
    prepare(config(folder), tmp_path / "out")
    with pytest.raises(InputError, match="channels 3 instead of 1"):
        prepare(config(folder, channels=1), tmp_path / "out")


def test_a_directory_with_other_things_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds no prepared data set"):
        prepare(config(folder), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


def test_an_empty_directory_is_filled(folder, tmp_path):
    (tmp_path / "out").mkdir()
    assert len(prepare(config(folder), tmp_path / "out").train) == 12


def test_progress_ends_with_everything_done(folder, tmp_path):
    calls = []
    prepare(config(folder), tmp_path / "out", lambda done, total, detail="": calls.append((done, total)))
    assert calls[-1] == (28, 28)


def test_same_images_same_digest_in_another_place_and_other_images_another(folder, tmp_path):
    first = prepare(config(folder), tmp_path / "one")
    second = prepare(config(folder), tmp_path / "two")
    other = prepare(config(folder, image_size=9), tmp_path / "three")
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_image_is_named_and_nothing_is_left_behind(folder, tmp_path, damage):
    file = folder / "val" / "dog" / "2.png"
    data = file.read_bytes()
    file.write_bytes({"text": b"not an image", "truncated": data[: len(data) // 2], "empty": b""}[damage])
    with pytest.raises(InputError, match=r"val/dog/2\.png"):
        prepare(config(folder), tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["animals"]


def test_what_is_wrong_with_a_folder_is_said(folder, tmp_path):
    with pytest.raises(InputError, match="No folder"):
        prepare(config(tmp_path / "nowhere"), tmp_path / "out")
    (folder / "test" / "owl").mkdir()
    with pytest.raises(InputError, match="Class 'owl' of split 'test' is empty"):
        prepare(config(folder), tmp_path / "out")
    (folder / "test" / "owl").rename(folder / "test" / "ant")
    Image.new("L", (8, 8)).save(folder / "test" / "ant" / "1.png")
    with pytest.raises(InputError, match="Class 'ant' is in splits 'train' and 'test'"):
        prepare(config(folder), tmp_path / "out")
    (folder / "val").rename(tmp_path / "val")
    with pytest.raises(InputError, match="Split 'val' is missing"):
        prepare(config(folder), tmp_path / "out")
    (folder / "val").mkdir()
    with pytest.raises(InputError, match="Split 'val' has no classes"):
        prepare(config(folder), tmp_path / "out")


def test_an_output_that_can_not_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="Can't write the prepared data set"):
        prepare(config(folder), tmp_path / "file" / "out")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="Choose a directory that you may write to"):
            prepare(config(folder), tmp_path / "locked" / "out")


def test_an_interrupted_build_leaves_nothing(folder, tmp_path):
    def interrupt(done: int, total: int, detail: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config(folder), tmp_path / "out", interrupt)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["animals"]


def _build(path: str, out: str) -> None:
    prepare(config(Path(path)), Path(out))


def test_processes_that_build_at_once_end_with_one_good_directory(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build, args=(str(folder), str(tmp_path / "out"))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["animals", "out"]
    assert load(tmp_path / "out").digest == prepare(config(folder), tmp_path / "two").digest


def test_npz_labels_name_classes_in_sorted_order(npz, tmp_path):
    dataset = prepare(config(npz, "npz", image_size=9), tmp_path / "out")
    assert dataset.val.class_names == ("11", "12", "13")
    assert dataset.val.labels.tolist() == [2, 2, 0, 0, 1, 1]
    with np.load(npz / "val.npz") as archive:
        assert np.array_equal(dataset.val.images, archive["images"].transpose(0, 3, 1, 2))


def test_npz_reads_grey_compressed_and_named_classes(npz, tmp_path):
    grey = np.random.default_rng(1).integers(0, 200, (4, 8, 8), np.uint8)
    for offset, split in enumerate(SPLITS):
        np.savez_compressed(
            npz / f"{split}.npz",
            images=grey + np.uint8(offset) if split != "test" else (grey + np.uint8(offset))[..., None],
            labels=np.array([1, 0, 0, 1]),
            class_names=np.array([f"a{offset}", f"b{offset}"]),
        )
    dataset = prepare(config(npz, "npz", channels=1), tmp_path / "out")
    assert dataset.test.class_names == ("a2", "b2")
    assert dataset.test.labels.tolist() == [1, 0, 0, 1]
    assert np.array_equal(dataset.train.images[:, 0], grey)
    assert np.array_equal(dataset.test.images[:, 0], grey + 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, r"no array 'labels', only \['images'\]"),
        ({"images": None}, "no array 'images'"),
        ({"images": np.zeros((6, 9, 9), np.float32)}, "is float32 of shape"),
        ({"images": np.zeros((6, 9, 9, 2), np.uint8)}, "expected uint8"),
        ({"images": np.asfortranarray(np.zeros((6, 9, 9), np.uint8))}, "Fortran order"),
        ({"images": np.array([None] * 6)}, "object|pickle"),
        ({"labels": np.array([{}] * 6)}, "pickled"),
        ({"labels": np.zeros(5, np.int64)}, "one integer or string for each of the 6 images"),
        ({"labels": np.linspace(0, 1, 6)}, "is float64"),
        ({"labels": np.array([1, 1, 2, 2, 3, 3])}, "Class '1' is in splits 'train' and 'val'"),
        ({"labels": np.array([0, 0, 0, 0, 1, 9]), "class_names": np.array(["p", "q"])}, "from 0 to 1"),
        ({"labels": np.zeros(6, np.int64), "class_names": np.array(["p", "q"])}, "Class 'q' of split 'val' is empty"),
    ],
)
def test_what_is_wrong_with_an_npz_is_said(npz, tmp_path, changes, words):
    write_npz(npz, **changes)
    with pytest.raises(InputError, match=words):
        prepare(config(npz, "npz"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_or_damaged_npz_is_named(npz, tmp_path):
    (npz / "val.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match=r"val\.npz"):
        prepare(config(npz, "npz"), tmp_path / "out")
    (npz / "val.npz").unlink()
    with pytest.raises(InputError, match="Split 'val' is missing"):
        prepare(config(npz, "npz"), tmp_path / "out")


def test_images_without_any_contrast_are_refused(npz, tmp_path):
    np.savez(npz / "train.npz", images=np.full((4, 8, 8), 7, np.uint8), labels=np.array([0, 0, 1, 1]))
    with pytest.raises(InputError, match="one constant value"):
        prepare(config(npz, "npz"), tmp_path / "out")


def test_transparent_pixels_become_white_paper_and_16_bits_become_8():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert to_array(clear, 8, 1).tolist() == np.full((1, 8, 8), 255).tolist()
    deep = Image.fromarray(np.full((8, 8), 0x8001, np.uint16))
    assert to_array(deep, 8, 1).tolist() == np.full((1, 8, 8), 128).tolist()


@given(
    width=st.integers(1, 40), height=st.integers(1, 40), size=st.integers(8, 24), channels=st.sampled_from([1, 3]),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]), level=st.integers(0, 255),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_an_image_of_one_colour_keeps_it_at_any_size_and_mode(width, height, size, channels, mode, level):
    value = 255 * (level > 127) if mode == "1" else level
    image = Image.new("RGB", (width, height), (value,) * 3).convert(mode)
    pixels = to_array(image, size, channels)
    assert pixels.shape == (channels, size, size)
    if mode != "P":  # palettes dither
        assert np.abs(pixels.astype(int) - value).max() <= 1


def test_a_configuration_is_checked_before_anything_is_read():
    for wrong in (
        {"source": "folder"},
        {"source": "glyphs", "path": "x"},
        {"channels": 2},
        {"image_size": 0},
        {"sourc": "glyphs"},
        {"source": "web", "path": "x"},
    ):
        with pytest.raises(ValidationError):
            DataConfig.model_validate(wrong)


def test_load_refuses_what_was_never_prepared_or_is_damaged(folder, tmp_path):
    with pytest.raises(InputError, match="holds no prepared data set"):
        load(tmp_path)
    prepare(config(folder), tmp_path / "out")
    (tmp_path / "out" / "val_images.npy").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path / "out")
    (tmp_path / "out" / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json"):
        load(tmp_path / "out")


def test_the_summary_says_what_was_stored(folder, tmp_path):
    prepare(config(folder), tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert summary["config"]["source"] == "folder"
    assert summary["class_names"] == {split: list(names) for split, names in CLASSES.items()}


def test_labels_must_have_names_and_splits_different_classes():
    images = np.zeros((2, 1, 4, 4), np.uint8)
    with pytest.raises(InputError, match="labels must be 0 to 0"):
        LabelledImages(images, np.array([0, 1]), ("a",), "train", "x")
    splits = [LabelledImages(images, np.array([0, 0]), ("a",), split, "x") for split in SPLITS]
    with pytest.raises(InputError, match="Class 'a' is in splits 'train' and 'val'"):
        ImageDataset(*splits, name="x", mean=(0.5,), std=(0.5,), digest="")


def test_the_contact_sheet_shows_images_of_every_split(folder, tmp_path):
    dataset = prepare(config(folder), tmp_path / "out")
    contact_sheet(dataset, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    assert os.listdir(tmp_path / "new") == ["sheet.png"]
    tile = np.asarray(
        Image.fromarray(np.ascontiguousarray(dataset.test.images[4].transpose(1, 2, 0))).resize(
            (96, 96), Image.Resampling.BICUBIC
        )
    )
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (1, 96, 3))[:, :, 0, 0]
    assert (windows == tile[0]).all((-1, -2)).any()  # the first row of pixels of the first picture of 'gnu'
