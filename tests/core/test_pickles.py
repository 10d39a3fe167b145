"""Pickles of the archives that people have: each kind is read, and from a map of the file."""

import io
import pickle
import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from metantk_core.datasets.layouts import recognised
from metantk_core.datasets.layouts.layout import streamed
from metantk_core.datasets.pickles import read_pickle
from metantk_core.errors import InputError
from metantk_core.files import Folder

# As the archives were made: so many classes of 8 images, whose numbers begin where the originals' do.
CLASSES = {"train": range(7), "val": range(64, 70), "test": range(80, 86)}
SPLITS = list(CLASSES)


def content(root: Path, path: str) -> Any:
    return read_pickle(Folder(root), path)


def eight_each(labels: Any, split: str) -> bool:
    return Counter(np.asarray(labels).tolist()) == dict.fromkeys(CLASSES[split], 8)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("cifarfs-rfs/{}.pickle", 32),
        ("cifarfs-metaopt/CIFAR_FS_{}.pickle", 32),
        ("fc100-rfs/{}.pickle", 32),
        ("fc100-metaopt/FC100_{}.pickle", 32),
        ("mini-rfs/miniImageNet_category_split_{}.pickle", 84),
    ],
)
def test_data_and_labels(few_shot_archives, pattern, size, split):
    phase = f"train_phase_{split}" if split == "train" and "mini" in pattern else split
    found = content(few_shot_archives, pattern.format(phase))
    assert set(found) == {b"data", b"labels"}
    assert found[b"data"].shape == (8 * len(CLASSES[split]), size, size, 3)
    assert found[b"data"].dtype == np.uint8
    assert type(found[b"labels"]) is list
    assert eight_each(found[b"labels"], split)


@pytest.mark.parametrize("phase", ["val", "test"])
def test_further_images_of_the_base_classes(few_shot_archives, phase):
    found = content(few_shot_archives, f"mini-rfs/miniImageNet_category_split_train_phase_{phase}.pickle")
    assert found[b"data"].shape == (56, 84, 84, 3)
    assert eight_each(found[b"labels"], "train")


@pytest.mark.parametrize("split", SPLITS)
def test_the_cache_holds_the_images_of_the_other_pickles_by_class(few_shot_archives, split):
    found = content(few_shot_archives, f"mini-cache/mini-imagenet-cache-{split}.pkl")
    assert set(found) == {b"image_data", b"class_dict"}
    rows = found[b"class_dict"]
    assert set(rows) == {f"n{number:08}".encode() for number in CLASSES[split]}
    assert sorted(row for some in rows.values() for row in some) == list(range(8 * len(CLASSES[split])))
    phase = "train_phase_train" if split == "train" else split
    other = content(few_shot_archives, f"mini-rfs/miniImageNet_category_split_{phase}.pickle")
    assert np.array_equal(found[b"image_data"], other[b"data"])
    labels = np.array(other[b"labels"])
    assert all((labels[some] == int(name[1:])).all() for name, some in rows.items())


@pytest.mark.parametrize("split", [*SPLITS, "train_phase_val"])
def test_labels_of_tiered_imagenet(few_shot_archives, split):
    found = content(few_shot_archives, f"tiered-rfs/{split}_labels.pkl")
    assert set(found) == {b"labels"}
    assert found[b"labels"].dtype == np.int64
    assert eight_each(found[b"labels"], split.removesuffix("_phase_val"))


@pytest.mark.parametrize("split", SPLITS)
def test_encoded_images_of_tiered_imagenet(few_shot_archives, split):
    labels = content(few_shot_archives, f"tiered-ren/{split}_labels.pkl")
    count = len(CLASSES[split])
    assert set(labels) == {b"label_specific", b"label_general", b"label_specific_str", b"label_general_str"}
    assert labels[b"label_specific_str"] == [f"n{number:08}".encode() for number in CLASSES[split]]
    assert labels[b"label_specific"].tolist() == np.repeat(np.arange(count), 8).tolist()
    assert labels[b"label_general"].shape == (8 * count,)
    encoded = content(few_shot_archives, f"tiered-ren/{split}_images_png.pkl")
    assert len(encoded) == 8 * count
    stored = np.load(few_shot_archives / f"tiered-rfs/{split}_images.npz")["images"]
    for one, pixels in zip(encoded, stored, strict=True):
        assert one.dtype == np.uint8
        with Image.open(io.BytesIO(one.tobytes()), formats=["PNG"]) as image:
            assert np.array_equal(np.asarray(image)[..., ::-1], pixels)  # stored in OpenCV's order of colours


def full_size(path: Path, rows: int) -> Path:
    """Write the pickle of so many zero images of 84 x 84 as Python 2 would have, the zeros as a hole in the file."""
    size = rows * 84 * 84 * 3
    head = (
        b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01(J" + struct.pack("<i", rows) + b"KTKTK\x03tcnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", size)
    )
    with path.open("wb") as file:
        file.write(head)
        file.seek(size - 3, io.SEEK_CUR)
        file.write(b"\x01\x02\x03tbs.")
    return path


def test_images_of_a_full_size_set_are_a_view_of_the_file(tmp_path):
    full_size(tmp_path / "train.pickle", 38_400)
    tracemalloc.start()
    found = content(tmp_path, "train.pickle")[b"data"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    assert found.shape == (38_400, 84, 84, 3)
    assert found[-1, -1, -1].tolist() == [1, 2, 3]
    assert not found.flags.writeable


class FarAway(Folder):
    """A place whose files are streams, as objects in a bucket are."""

    def open(self, path: str) -> io.BufferedIOBase:
        return io.BytesIO((self.root / path).read_bytes())


def test_a_file_that_is_far_away_is_read_as_one_on_disk(few_shot_archives):
    path = "cifarfs-rfs/val.pickle"
    near, far = content(few_shot_archives, path), cast(Any, read_pickle(FarAway(few_shot_archives), path))
    assert np.array_equal(near[b"data"], far[b"data"])
    assert near[b"labels"] == far[b"labels"]


@pytest.mark.parametrize("place", [Folder, FarAway])
def test_a_file_that_is_not_there_or_empty_is_named(place, tmp_path):
    (tmp_path / "empty.pickle").touch()
    with pytest.raises(InputError, match=r"empty\.pickle' is empty\."):
        read_pickle(place(tmp_path), "empty.pickle")
    with pytest.raises(
        InputError, match=r"Can't read '.*none\.pickle' \(No such file or directory\)\. Check data\.path"
    ):
        read_pickle(place(tmp_path), "none.pickle")


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_a_file_that_is_cut_off_is_told(few_shot_archives, tmp_path, kept):
    data = (few_shot_archives / "cifarfs-rfs/val.pickle").read_bytes()
    (tmp_path / "val.pickle").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=r"val\.pickle' ends after [0-9,]+ bytes.*Copy or download it again\."):
        read_pickle(Folder(tmp_path), "val.pickle")


def resident_pages_of_files() -> int:
    """Return the bytes of mapped files that count as memory of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile"))


def test_images_that_were_given_are_no_memory_any_more(tmp_path):
    images = content(full_size(tmp_path / "train.pickle", 10_000).parent, "train.pickle")[b"data"]
    before = resident_pages_of_files()
    assert sum(1 for _ in streamed(images, 84, 3)) == 10_000
    assert resident_pages_of_files() - before < 30e6  # of 212 MB
    assert images[-1, -1, -1].tolist() == [1, 2, 3]  # what was let go of is read again


def test_encoded_images_that_were_given_are_no_memory_any_more(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (84, 84, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, format="PNG", compress_level=0)
    for split, rows in (("train", 3000), ("val", 2), ("test", 2)):
        images = [encoded.getvalue() + bytes([row % 256]) for row in range(rows)]
        (tmp_path / f"{split}_images_png.pkl").write_bytes(pickle.dumps(images, 4))
        labels = {"label_specific": [0] * rows, "label_specific_str": [split]}
        (tmp_path / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels))
    del images
    before = resident_pages_of_files()
    train = recognised(Folder(tmp_path), 84, 3).splits()["train"]
    assert resident_pages_of_files() - before < 30e6  # of 64 MB
    for image in train.images():
        assert np.array_equal(image, noise.transpose(2, 0, 1))
    assert resident_pages_of_files() - before < 30e6
