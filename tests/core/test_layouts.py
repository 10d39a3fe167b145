"""Layouts that people have: each is recognised by its files, and what is wrong with one gets a sentence of its own."""

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from metantk_core.config import load_config
from metantk_core.datasets import SPLITS, DataConfig, prepare
from metantk_core.datasets.layouts import recognised
from metantk_core.datasets.sources import Source, to_array
from metantk_core.errors import InputError
from metantk_core.files import Folder
from metantk_core.recipes import RECIPES

FIRST = {"train": 0, "val": 64, "test": 80}  # number of each split's first class
COUNTS = {"train": 7, "val": 6, "test": 6}
KINDS = ["mini-rfs", "mini-cache", "cifarfs-rfs", "cifarfs-metaopt", "fc100-rfs", "fc100-metaopt"]
LABELLED = [kind for kind in KINDS if kind != "mini-cache"]


def source(root: Path, size: int = 8) -> Source:
    return recognised(Folder(root), size, 3)


def sentence(root: Path) -> str:
    """Return what is said of a folder that can't be used."""
    with pytest.raises(InputError) as error:
        source(root).splits()
    text = str(error.value)
    assert text.isprintable()
    assert text.endswith(".")
    return text


def contents(root: Path) -> dict[str, Any]:
    """Return by their paths the pickles of a data set, as Python reads them."""
    return {
        file.name: pickle.loads(file.read_bytes(), encoding="latin1")
        for file in sorted(root.iterdir())
        if "train_phase_val" not in file.name and "train_phase_test" not in file.name
    }


@pytest.fixture
def copied(few_shot_archives, tmp_path) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        return Path(shutil.copytree(few_shot_archives / kind, tmp_path / kind))

    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_recognised_with_its_classes_and_pixels(few_shot_archives, kind):
    size = 84 if kind.startswith("mini") else 32
    found = source(few_shot_archives / kind, size).splits()
    for split in SPLITS:
        part, first, count = found[split], FIRST[split], COUNTS[split]
        name = "n{:08}" if kind == "mini-cache" else "{}"
        assert part.class_names == tuple(name.format(number) for number in range(first, first + count))
        assert part.labels.tolist() == np.repeat(np.arange(count), 8).tolist()
        file = next(name for name in contents(few_shot_archives / kind) if split in name.replace("train_phase_", ""))
        stored = contents(few_shot_archives / kind)[file]
        pixels = stored["image_data" if kind == "mini-cache" else "data"]
        assert np.array_equal(np.stack(list(part.images())), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["cifarfs-rfs", "mini-cache"])
def test_copies_that_people_made_with_python_3_are_the_same(copied, kind, protocol):
    root = copied(kind)
    before = {split: list(part.images()) for split, part in source(root).splits().items()}
    for name, content in contents(root).items():
        if "labels" in content:
            numbers = content["labels"]
            # As MetaOptNet's have beside what is needed.
            content |= {"catname2label": {f"n{n}": n for n in numbers}, "label2catname": {n: f"n{n}" for n in numbers}}
            content["labels"] = [np.array(numbers), [np.int64(n) for n in numbers], numbers][protocol % 3]
        elif protocol % 2:
            content["class_dict"] = {label: np.array(rows) for label, rows in content["class_dict"].items()}
        keyed = {key.encode(): value for key, value in content.items()} if protocol == 4 else content
        (root / name).write_bytes(pickle.dumps(keyed, protocol))
    if kind == "mini-cache":
        (root / "mini-imagenet-cache-val.pkl").rename(root / "mini-imagenet-cache-validation.pkl")
    after = source(root).splits()
    for split in SPLITS:
        assert after[split].labels.tolist() == np.repeat(np.arange(COUNTS[split]), 8).tolist()
        assert np.array_equal(np.stack(list(after[split].images())), np.stack(before[split]))


@pytest.mark.parametrize("kind", ["tiered-rfs", "tiered-ren"])
def test_both_kinds_of_tiered_imagenet_are_red_green_blue(few_shot_archives, kind):
    found = source(few_shot_archives / kind, 84).splits()
    for split in SPLITS:
        part, first, count = found[split], FIRST[split], COUNTS[split]
        name = "n{:08}" if kind == "tiered-ren" else "{}"
        assert part.class_names == tuple(name.format(number) for number in range(first, first + count))
        assert part.labels.tolist() == np.repeat(np.arange(count), 8).tolist()
        # The archives were made from the same pictures.
        phase = f"train_phase_{split}" if split == "train" else split
        file = few_shot_archives / f"mini-rfs/miniImageNet_category_split_{phase}.pickle"
        pixels = pickle.loads(file.read_bytes(), encoding="latin1")["data"]
        assert np.array_equal(np.stack(list(part.images())), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("form", ["bytes", "vectors", "JPEG"])
def test_encoded_images_may_be_bytes_or_vectors_and_labels_may_have_no_names(copied, form):
    root = copied("tiered-ren")
    before = {split: list(part.images()) for split, part in source(root, 84).splits().items()}
    for split in SPLITS:
        images = [
            array.ravel() for array in pickle.loads((root / f"{split}_images_png.pkl").read_bytes(), encoding="bytes")
        ]
        if form == "JPEG":
            images = [as_jpeg(one.tobytes()) for one in images]
        written = images if form == "vectors" else [bytes(one) for one in images]
        (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps(written, 4))
        labels = pickle.loads((root / f"{split}_labels.pkl").read_bytes(), encoding="bytes")[b"label_specific"]
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps({b"label_specific": labels.tolist()}))
    after = source(root, 84).splits()
    for split in SPLITS:
        assert after[split].class_names == tuple(f"{split} {number}" for number in range(COUNTS[split]))
        difference = np.abs(np.stack(list(after[split].images())).astype(int) - np.stack(before[split])).mean()
        assert difference < (8 if form == "JPEG" else 1e-9)


def as_jpeg(data: bytes) -> bytes:
    written = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(written, format="JPEG", quality=95, subsampling=0)
    return written.getvalue()


def test_a_path_alone_prepares_what_lies_there(few_shot_archives, tmp_path):
    config = DataConfig(path=str(few_shot_archives / "cifarfs-metaopt"), image_size=32, channels=3)
    assert config.source == "auto"
    dataset = prepare(config, tmp_path / "prepared")
    stored = contents(few_shot_archives / "cifarfs-metaopt")["CIFAR_FS_val.pickle"]["data"]
    assert np.array_equal(dataset.val.images, stored.transpose(0, 3, 1, 2))
    assert dataset.val.class_names == tuple(map(str, range(64, 70)))


def test_a_path_beside_a_recipe_of_glyphs_is_enough():
    assert load_config("smoke", RECIPES, ["data.path=images"]).data.source == "auto"
    assert load_config("smoke", RECIPES).data.source == "glyphs"
    assert load_config("smoke", RECIPES, ["data.path=images", "data.source=folder"]).data.source == "folder"
    with pytest.raises(InputError, match="glyphs are embedded and take none"):
        load_config("smoke", RECIPES, ["data.path=images", "data.source=glyphs"])


def test_folders_and_npz_files_are_recognised_too(few_shot_archives, tmp_path):
    stored = contents(few_shot_archives / "cifarfs-rfs")
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for split in SPLITS:
        content = stored[f"{split}.pickle"]
        np.savez(arrays / f"{split}.npz", images=content["data"], labels=content["labels"])
    pickled, packed = source(few_shot_archives / "cifarfs-rfs").splits(), source(arrays).splits()
    for split in SPLITS:
        assert pickled[split].class_names == packed[split].class_names
        assert np.array_equal(np.stack(list(pickled[split].images())), np.stack(list(packed[split].images())))
    tree = tmp_path / "tree"
    for split in SPLITS:
        for name in ("a", "b"):
            (tree / split / f"{split}-{name}").mkdir(parents=True)
            shutil.copy(next((few_shot_archives / "mini-ravi" / "images").iterdir()), tree / split / f"{split}-{name}")
    assert source(tree).splits()["val"].class_names == ("val-a", "val-b")


def test_a_change_of_a_file_changes_the_fingerprint(copied):
    root = copied("cifarfs-rfs")
    before = source(root).fingerprint
    assert source(root).fingerprint == before
    data = (root / "val.pickle").read_bytes()
    (root / "val.pickle").write_bytes(data)
    assert source(root).fingerprint != before


@pytest.mark.parametrize("kind", [*KINDS, "tiered-rfs", "tiered-ren"])
def test_what_is_there_is_known_without_reading_it(few_shot_archives, kind):
    class Listed(Folder):
        def open(self, path: str) -> NoReturn:
            raise AssertionError(path)

    assert (
        recognised(Listed(few_shot_archives / kind), 8, 3).fingerprint == source(few_shot_archives / kind).fingerprint
    )


# What is not there


def test_what_is_missing_or_not_alone_is_named(copied, few_shot_archives, tmp_path):
    root = copied("mini-cache")
    (root / "mini-imagenet-cache-val.pkl").unlink()
    assert "Split 'val' of the cache pickles of miniImageNet in" in sentence(root)
    assert "no file 'mini-imagenet-cache-val.pkl'. Put it there." in sentence(root)
    root = copied("mini-rfs")
    (root / "miniImageNet_category_split_train_phase_train.pickle").unlink()
    assert "Split 'train' of the pickles of miniImageNet in" in sentence(root)
    both = copied("cifarfs-rfs")
    shutil.copytree(few_shot_archives / "fc100-metaopt", both, dirs_exist_ok=True)
    assert "holds pickles of CIFAR-FS or FC100 and pickles of CIFAR-FS or FC100: expected one data set" in sentence(
        both
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "(it is empty): expected train/, val/ and test/" in sentence(empty)
    (empty / "notes.txt").touch()
    assert "(it holds ['notes.txt']): expected train/, val/ and test/" in sentence(empty)
    (empty / "train").mkdir()
    assert "Split 'val' in" in sentence(empty)
    assert "is missing: no val/. Put it there." in sentence(empty)
    assert "Check data.path." in sentence(tmp_path / "nowhere")
    folder = copied("fc100-rfs")
    (folder / "val.pickle").unlink()
    (folder / "val.pickle").mkdir()
    assert "no file 'val.pickle'" in sentence(folder)


# What is damaged


def changed(root: Path, change: Callable[[dict[str, Any]], Any], file: str = "val.pickle") -> Path:
    content = pickle.loads((root / file).read_bytes(), encoding="latin1")
    (root / file).write_bytes(pickle.dumps(change(content)))
    return root


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another key": (lambda c: {"images": c["data"], "labels": c["labels"]}, "has no 'data', only ['images', 'labels']"),
    "no labels": (lambda c: {"data": c["data"]}, "has no 'labels', only ['data']"),
    "a list": (lambda c: [c["data"], c["labels"]], "holds a list: expected a dictionary with 'data' and 'labels'"),
    "an array": (lambda c: c["data"], "holds an array (uint8 of shape [48, 32, 32, 3]): expected a dictionary"),
    "fractions": (lambda c: {**c, "data": c["data"] / np.float32(255)}, "'data' in {} is float32 of shape"),
    "flat images": (lambda c: {**c, "data": c["data"].reshape(48, -1)}, "is uint8 of shape [48, 3072]: expected"),
    "channels first": (lambda c: {**c, "data": c["data"].transpose(0, 3, 1, 2)}, "is uint8 of shape [48, 3, 32, 32]"),
    "images in a list": (lambda c: {**c, "data": list(c["data"])}, "'data' in {} is no array"),
    "no images": (lambda c: {"data": c["data"][:0], "labels": []}, "expected at least one image"),
    "a label too few": (lambda c: {**c, "labels": c["labels"][1:]}, "has 48 images, but 47 in 'labels'"),
    "labels of fractions": (lambda c: {**c, "labels": np.array(c["labels"]) / 1.0}, "'labels' in {} is float64"),
    "labels of text": (lambda c: {**c, "labels": ["a"] * 48}, "'labels' in {} is something else"),
    "labels one by one": (lambda c: {**c, "labels": np.eye(48, dtype=int)}, "'labels' in {} is int64 of shape"),
    "classes of train": (lambda c: {**c, "labels": [n - 64 for n in c["labels"]]}, "is in splits 'train' and 'val'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_data_or_labels_is_told(copied, damage):
    change, words = DAMAGE[damage]
    root = changed(copied("cifarfs-rfs"), change)
    assert words.format(f"'{root / 'val.pickle'}'") in sentence(root)


def with_rows(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, "class_dict": change(content["class_dict"])}


ROWS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda rows: list(rows.values()), "'class_dict' in {} is no dictionary from names to rows"),
    "a row beyond": (lambda rows: {**rows, "n00000064": [0, 48]}, "Class 'n00000064' in {} is no list of rows"),
    "a row before": (lambda rows: {**rows, "n00000064": [-1]}, "is no list of rows from 0 to 47"),
    "no rows": (lambda rows: {**rows, "n00000064": []}, "is no list of rows from 0 to 47"),
    "a number": (lambda rows: {**rows, "n00000064": 7}, "is no list of rows from 0 to 47"),
    "rows in lists": (lambda rows: {**rows, "n00000064": [[0], [1]]}, "is no list of rows from 0 to 47"),
    "ragged rows": (lambda rows: {**rows, "n00000064": [[0], 1]}, "is no list of rows from 0 to 47"),
    "rows twice": (lambda rows: {**rows, "n00000065": rows["n00000064"]}, "in a class already, such as row"),
    "a row twice": (lambda rows: {**rows, "n00000064": [0, 0]}, "in a class already, such as row 0"),
    "rows of nobody": (lambda rows: {**rows, "n00000064": [0]}, "of which 7 are in no class, such as row 1"),
    "a blank name": (lambda rows: {" " if n == "n00000064" else n: r for n, r in rows.items()}, "is blank"),
}  # fmt: skip


@pytest.mark.parametrize("damage", ROWS)
def test_what_is_wrong_with_rows_of_classes_is_told(copied, damage):
    change, words = ROWS[damage]
    root = changed(copied("mini-cache"), with_rows(change), "mini-imagenet-cache-val.pkl")
    assert words.format(f"'{root / 'mini-imagenet-cache-val.pkl'}'") in sentence(root)


ENCODED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "an array": ("images_png", lambda images: np.zeros((2, 3)), "is no list of encoded images"),
    "no images": ("images_png", lambda images: [], "is no list of encoded images"),
    "decoded images": ("images_png", lambda images: [np.zeros((8, 8, 3), "u1")] * 48, "is no list of encoded"),
    "numbers": ("images_png", lambda images: [1] * 48, "is no list of encoded images"),
    "one that is none": ("images_png", lambda images: [*images[:-1], b"GIF89a"], "47 in {} can't be read (it is "),
    "one cut off": ("images_png", lambda images: [images[0][:90], *images[1:]], "Image 0 in {} can't be read ("),
    "one too few": ("images_png", lambda images: images[1:], "has 47 images, but 48 in 'label_specific'"),
    "other labels": ("labels", lambda labels: {"label_general": []}, "has no 'label_specific', only"),
    "names of nobody": ("labels", lambda labels: {**labels, "label_specific_str": 7}, "_str' in {} is no list"),
    "too few names": ("labels", lambda labels: {**labels, "label_specific_str": ["a", "b"]}, "they run from 0 to 5"),
    "a name twice": ("labels", lambda labels: {**labels, "label_specific_str": [*"aabcde"]}, "twice in split 'val'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", ENCODED)
def test_what_is_wrong_with_encoded_images_is_told(copied, damage):
    which, change, words = ENCODED[damage]
    root = changed(copied("tiered-ren"), change, f"val_{which}.pkl")
    with pytest.raises(InputError) as error:
        list(source(root).splits()["val"].images())
    assert words.format(f"'{root / f'val_{which}.pkl'}'") in str(error.value)


def test_listed_images_have_the_classes_of_the_pickles_and_the_pixels_of_the_files(few_shot_archives):
    found = source(few_shot_archives / "mini-ravi", 84).splits()
    pickled = source(few_shot_archives / "mini-cache", 84).splits()
    for split in SPLITS:
        assert found[split].class_names == pickled[split].class_names
        assert found[split].labels.tolist() == pickled[split].labels.tolist()
        rows = (few_shot_archives / "mini-ravi" / f"{split}.csv").read_text().splitlines()[1:]
        for image, row in zip(found[split].images(), rows, strict=True):
            with Image.open(few_shot_archives / "mini-ravi" / "images" / row.split(",")[0]) as picture:
                assert np.array_equal(image, to_array(picture, 84, 3))


LISTS = {
    "another header": (lambda text: text.replace("filename,label", "file,class"), "begins with 'file,class': expected"),
    "no header": (lambda text: text.split("\n", 1)[1], "begins with 'n0000006400000000.png,n00000064': expected"),
    "nothing": (lambda text: "", "begins with '': expected"),
    "no images": (lambda text: "filename,label\n", "lists 0 images: expected one"),
    "a third field": (lambda text: text + "a.png,n1,7\n", "Line 50 of {} has 3 fields"),
    "an open quote": (lambda text: text + '"a.png,n1\n', "can't be read as a list of images (unexpected end of data)"),
    "no text": (lambda text: "filename,label\n\udcff.png,a\n", "can't be read as a list of images ("),
    "a file of nobody": (lambda text: text + "a.png,n1\n", "lists 'a.png' (image 49), which is no image file in"),
    "a file elsewhere": (
        lambda text: text + "../val.csv,n1\n",
        "lists '../val.csv' (image 49), which is no image file",
    ),
    "a class of train": (lambda text: text.replace("n00000064", "n00000000"), "lists 'n00000000"),
    "a blank class": (lambda text: text.replace(",n00000064", ", "), "is blank"),
}


@pytest.mark.parametrize("damage", LISTS)
def test_what_is_wrong_with_a_list_is_told(copied, damage):
    change, words = LISTS[damage]
    root = copied("mini-ravi")
    text = change((root / "val.csv").read_text())
    (root / "val.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    if damage == "a class of train":
        for file in (root / "images").glob("n00000064*"):
            shutil.copy(file, file.with_name(file.name.replace("n00000064", "n00000000")))
        words = "Class 'n00000000' is in splits 'train' and 'val'"
    assert words.format(f"'{root / 'val.csv'}'") in sentence(root)


def test_a_changed_image_of_a_list_changes_the_fingerprint_and_a_missing_part_is_named(copied):
    root = copied("mini-ravi")
    before = source(root).fingerprint
    image = root / "images" / "n0000006400000000.png"
    image.write_bytes((root / "images" / "n0000006400000001.png").read_bytes())
    assert source(root).fingerprint != before
    (root / "images").rename(root / "pictures")
    assert "is missing: no images. Put it there." in sentence(root)
    (root / "pictures").rename(root / "images")
    (root / "test.csv").unlink()
    assert "is missing: no test.csv. Put it there." in sentence(root)


def test_what_is_wrong_with_arrays_of_tiered_imagenet_is_told(copied):
    root = copied("tiered-rfs")
    labels = (root / "val_labels.pkl").read_bytes()
    (root / "val_labels.pkl").write_bytes(pickle.dumps({"labels": np.arange(47)}))
    assert "has 48 images, but 47 in 'labels'" in sentence(root)
    (root / "val_labels.pkl").unlink()
    assert "Split 'val' of the arrays of tieredImageNet in" in sentence(root)
    assert "no file 'val_labels.pkl'" in sentence(root)
    (root / "val_labels.pkl").write_bytes(labels)
    np.savez(root / "val_images.npz", data=np.zeros((48, 8, 8, 3), np.uint8))
    assert "has no array 'images', only ['data']" in sentence(root)
    np.savez(root / "val_images.npz", images=np.zeros((48, 8, 8, 3), np.float32))
    assert "is float32 of shape [48, 8, 8, 3]" in sentence(root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_and_one_that_would_run_something_are_named(copied, kind):
    root = copied(kind)
    file = next(file for file in sorted(root.iterdir()) if "test" in file.name.replace("train_phase_test", ""))
    data = file.read_bytes()
    file.write_bytes(data[:-20])
    assert f"'{file}' ends after" in sentence(root)
    file.write_bytes(b"cos\nsystem\n(X\x04\0\0\0truetR.")
    assert f"'{file}' asks for os.system at byte 0" in sentence(root)
