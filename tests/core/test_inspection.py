"""What is said of images as people have them: all that is there, and all that is wrong, each in its own sentence."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_layouts import MADE
from PIL import Image
from typer.testing import CliRunner

from metantk_core.command_line import app
from metantk_core.datasets import SPLITS
from metantk_core.datasets.importing import import_images, planned
from metantk_core.datasets.inspection import Inspection, inspect
from metantk_core.errors import InputError

KINDS = ["mini-rfs", "mini-cache", "mini-ravi", "cifarfs-metaopt", "fc100-rfs", "tiered-rfs", "tiered-ren", "omniglot"]


def write_tree(root: Path, classes: int = 5, images: int = 20, side: int = 10) -> Path:
    for number, split in enumerate(SPLITS):
        for name in range(classes):
            folder = root / split / f"{split} {name}"
            folder.mkdir(parents=True)
            for row in range(images):
                pixels = np.random.default_rng([number, name, row]).integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{row:02}.png")
    return root


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "tree")


def sentences(found: Inspection, *, fatal: bool) -> list[str]:
    return [problem.sentence for problem in found.problems if problem.fatal == fatal]


# What is there


@pytest.mark.parametrize("kind", KINDS)
def test_each_layout_is_named_with_its_classes_images_and_sizes(few_shot_archives, tmp_path, kind):
    root = few_shot_archives / kind
    found = inspect(str(root), sheet=tmp_path / "sheet.png")
    assert found.usable
    assert found.layout
    plan = planned(str(root))
    made = import_images(plan, tmp_path / "imported")
    for split in SPLITS:
        part = found.splits[split]
        assert (part.classes, part.images) == (made.classes[split], made.images[split])
        assert part.looked_at == part.images
    assert found.sizes == ((plan.config.image_size,) * 2 + (found.looked_at,),)
    assert found.size == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert (found.colours > 0) == (kind != "omniglot")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    # What was imported is seen as it was, but for the layout.
    again = inspect(str(tmp_path / "imported"))
    assert (again.kind, again.splits, again.sizes) == (found.kind, found.splits, found.sizes)
    assert again.layout == "an imported data set"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mini-rfs", "assumed: colours are taken as red, green, blue"),
        ("tiered-rfs", "assumed: colours are taken as blue, green, red"),
        ("tiered-ren", "the files say so"),
        ("mini-ravi", "the files say so"),
        ("omniglot", "none"),
    ],
)
def test_how_the_order_of_colours_is_known_is_said(few_shot_archives, kind, words):
    assert words in inspect(str(few_shot_archives / kind)).colour_order
    if kind == "mini-rfs":
        turned = inspect(str(few_shot_archives / kind), choices={"colour_order": "bgr"})
        assert turned.colour_order == "bgr, as it was said"


def test_nothing_is_wrong_with_good_images(tree):
    found = inspect(str(tree))
    assert found.problems == ()
    assert found.remarks == ()
    expected = {"classes": 5, "images": 100, "smallest": 20, "median": 20.0, "largest": 20, "looked_at": 100}
    assert [vars(found.splits[split]) for split in SPLITS] == [expected] * 3


def test_a_sheet_shows_the_images_in_their_places(tree, tmp_path):
    Image.new("RGB", (10, 10), (250, 10, 20)).save(tree / "train" / "train 0" / "00.png")
    Image.new("RGB", (300, 200), (10, 240, 20)).save(tree / "test" / "test 4" / "11.png")
    inspect(str(tree), sheet=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    for colour in ((250, 10, 20), (10, 240, 20)):
        rows, columns = np.nonzero((pixels == colour).all(-1))
        assert len(rows) == 96 * 96  # one picture of 48 points, two pixels each
        assert (rows.max() - rows.min(), columns.max() - columns.min()) == (95, 95)


@pytest.mark.parametrize("kind", ["mini-rfs", "mini-ravi", "tiered-rfs"])
def test_a_fast_look_reads_less_and_draws_the_same_sheet(few_shot_archives, tmp_path, kind):
    root = few_shot_archives / kind
    whole = inspect(str(root), sheet=tmp_path / "whole.png")
    fast = inspect(str(root), sheet=tmp_path / "fast.png", fast=True)
    assert (tmp_path / "fast.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert (fast.layout, fast.sizes[0][:2]) == (whole.layout, whole.sizes[0][:2])


def test_a_fast_look_at_many_images_reads_few(tmp_path):
    root = tmp_path / "arrays"
    root.mkdir()
    for number, split in enumerate(SPLITS):
        images = np.random.default_rng(number).integers(0, 256, (5000, 4, 4, 3), np.uint8)
        np.savez(root / f"{split}.npz", images=images, labels=100 * number + np.arange(5000) // 50)
    told: list[tuple[int, int]] = []
    found = inspect(str(root), fast=True, progress=lambda done, total, detail="": told.append((done, total)))
    assert all(96 <= part.looked_at <= 160 for part in found.splits.values())
    assert told[-1][0] == told[-1][1] == found.looked_at


# What is wrong


def test_every_image_that_can_not_be_read_is_named(tree):
    broken = ["train/train 0/00.png", "train/train 0/01.png", "train/train 4/19.png", "val/val 2/07.png"]
    for name in broken:
        (tree / name).write_bytes(b"no image")
    found = inspect(str(tree))
    assert not found.usable
    assert [next(name for name in broken if name in words) for words in sentences(found, fatal=True)] == broken
    assert found.looked_at == 296


def test_a_file_that_is_broken_from_one_image_on_is_one_sentence(tmp_path):
    root = tmp_path / "arrays"
    root.mkdir()
    for number, split in enumerate(SPLITS):
        images = np.random.default_rng(number).integers(0, 256, (2000, 20, 20, 3), np.uint8)
        np.savez(root / f"{split}.npz", images=images, labels=100 * number + np.arange(2000) // 100)
    content = bytearray((root / "val.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (root / "val.npz").write_bytes(content)
    (words,) = sentences(inspect(str(root)), fatal=True)
    assert "val.npz' can't be read as an npz archive" in words


def test_all_that_is_wrong_with_folders_is_said_at_once(tree):
    for name in ("train/train 1", "train/train 3", "val/val 0"):
        shutil.rmtree(tree / name)
        (tree / name).mkdir()
    words = sentences(inspect(str(tree)), fatal=True)
    assert [word.split("'")[1] for word in words] == ["train 1", "train 3", "val 0"]
    assert all("is empty: no image file" in word for word in words)


def test_all_that_is_wrong_with_archives_of_the_field_is_said_at_once(few_shot_archives, tmp_path):
    root = Path(shutil.copytree(few_shot_archives / "cifarfs-rfs", tmp_path / "cifarfs"))
    (root / "train.pickle").write_bytes(b"")
    (root / "test.pickle").write_bytes(b"<html>")
    words = sentences(inspect(str(root)), fatal=True)
    assert ["train.pickle' is empty" in words[0], "test.pickle' is a page of the web" in words[1]] == [True, True]
    root = Path(shutil.copytree(few_shot_archives / "mini-ravi", tmp_path / "ravi"))
    gone = [path.name for path in sorted((root / "images").iterdir())][::40]
    for name in gone:
        (root / "images" / name).unlink()
    words = sentences(inspect(str(root)), fatal=True)
    assert sorted(word.split("'")[3] for word in words) == gone


def test_every_class_that_is_in_two_splits_is_named(tree):
    shutil.copytree(tree / "train" / "train 1", tree / "test" / "train 1")
    shutil.copytree(tree / "train" / "train 2", tree / "val" / "train 2")
    words = sentences(inspect(str(tree)), fatal=True)
    assert ["'train 2' is in splits 'train' and 'val'" in words[0], "'train 1' is in splits" in words[1]] == [True] * 2


@pytest.mark.parametrize(
    ("left", "words", "fatal"),
    [
        (
            8,
            "such as 'val 3' with 8: it allows episodes of 1 shot with 7 queries or of 5 shots with 3 queries a",
            False,
        ),
        (4, "such as 'val 3' with 4: it allows episodes of 1 shot with 3 queries a class", False),
        (2, "such as 'val 3' with 2: it allows episodes of 1 shot with 1 query a class", False),
        (1, "such as 'val 3' with 1: no episode is possible with it; add images or leave it out", True),
    ],
)
def test_a_class_with_few_images_is_told_with_the_episodes_that_it_allows(tree, left, words, fatal):
    for path in sorted((tree / "val" / "val 3").iterdir())[left:]:
        path.unlink()
    (told,) = sentences(inspect(str(tree)), fatal=fatal)
    assert told.startswith("1 of the 5 classes of split 'val' has fewer than 20 images, ")
    assert words in told


@pytest.mark.parametrize(("left", "fatal"), [(4, False), (2, False), (1, True)])
def test_a_split_with_few_classes_is_told_with_the_episodes_that_it_allows(tree, left, fatal):
    for path in sorted((tree / "test").iterdir())[left:]:
        shutil.rmtree(path)
    (told,) = sentences(inspect(str(tree)), fatal=fatal)
    assert told == (
        "Split 'test' has one class: an episode has at least two. Add classes."
        if fatal
        else f"Split 'test' has {left} classes: at most {left}-way episodes."
    )


def test_plain_images_copies_and_other_sizes_are_told(tree):
    Image.new("RGB", (10, 10), "red").save(tree / "train" / "train 2" / "05.png")
    Image.new("RGB", (10, 10), "red").save(tree / "test" / "test 2" / "05.png")
    shutil.copy(tree / "val" / "val 1" / "03.png", tree / "val" / "val 1" / "04.png")
    Image.new("RGB", (40, 30), "blue").save(tree / "val" / "val 4" / "00.png")
    found = inspect(str(tree))
    assert found.sizes == ((10, 10, 299), (40, 30, 1))
    assert sentences(found, fatal=True) == []
    told = sentences(found, fatal=False)
    assert told[0].startswith("1 image of split 'train' is one plain colour, such as image 45, of class 'train 2'")
    assert told[1].startswith("1 image of split 'val' is one plain colour, such as image 80, of class 'val 4'")
    assert told[2].startswith("1 image of split 'test' is one plain colour")
    assert told[3].startswith("1 image of split 'val' is a copy of another one there, pixel for pixel")
    assert len(told) == 4  # plain images that are in two splits are no more than plain


def test_a_channel_that_never_varies_is_told_as_a_run_would_refuse_it(tree):
    for path in (tree / "train").rglob("*.png"):
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[..., 2] = 200
        Image.fromarray(pixels).save(path)
    (told,) = sentences(inspect(str(tree)), fatal=True)
    assert "one constant value in a channel" in told
    with pytest.raises(InputError, match="one constant value in a channel"):
        import_images(planned(str(tree)), tree.parent / "imported")


@pytest.mark.parametrize(("count", "fatal"), [(1, False), (15, True)])
def test_images_that_lie_in_two_splits_are_told_and_too_many_can_not_be_used(tree, count, fatal):
    for row in range(count):
        shutil.copy(tree / "train" / "train 0" / f"{row:02}.png", tree / "test" / "test 0" / f"{row:02}.png")
    found = inspect(str(tree))
    (told,) = sentences(found, fatal=fatal)
    start = "1 image" if count == 1 else f"{count} images"
    assert told.startswith(f"{start} of split 'test' ({count}.00%) also in 'train', pixel for pixel, such as image 0")
    assert found.usable != fatal


def test_folders_without_splits_are_told_how_to_get_some(tree):
    (words, hint) = sentences(inspect(str(tree / "train")), fatal=True)
    assert words.startswith("No data set is recognised")
    assert hint.startswith("Its 5 folders may be classes: metantk data split")


@pytest.mark.parametrize("ending", [b"more", b""])
def test_what_is_wrong_behind_the_last_image_is_told_once_as_a_run_would_refuse_it(tmp_path, ending):
    MADE["mnist"](tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    if ending:
        images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes()) + ending))
    else:
        images.write_bytes(images.read_bytes()[:-8] + bytes(8))  # checksum and length of what was packed
    (told,) = sentences(inspect(str(tmp_path)), fatal=True)
    with pytest.raises(InputError) as refused:
        import_images(planned(str(tmp_path)), tmp_path.parent / "imported")
    assert told == str(refused.value)
    assert "train-images-idx3-ubyte.gz' can't be read as an IDX file" in told


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


def test_the_command_prints_for_people_and_for_programs(tree, tmp_path):
    done = run(tree, "--sheet", tmp_path / "sheet.png")
    assert done.exit_code == 0
    for words in ("folders of images", "all 10 x 10 pixels", "Nothing is wrong with it", str(tmp_path / "sheet.png")):
        assert words in done.stdout
    done = run(tree, "--json")
    told = json.loads(done.stdout)
    assert (told["usable"], told["looked_at"], told["splits"]["val"]["classes"]) == (True, 300, 5)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_exit_code_says_whether_a_run_could_use_it(tree, tmp_path, as_json):
    options = ["--json"] if as_json else []
    (tree / "val" / "val 0" / "00.png").write_bytes(b"none")
    assert run(tree, *options).exit_code == 2
    assert run(tmp_path / "gone", *options).exit_code == 2
    done = run(tmp_path / "gone")
    assert "✗ " in done.stdout
    assert "Traceback" not in done.output


def test_choices_that_are_none_are_a_sentence(tree):
    done = run(tree, "--colour-order", "grb")
    assert done.exit_code == 1
    assert "colour_order" in str(done.exception)


@pytest.mark.parametrize("name", ["folder.png", "/proc/sheet.png"])
def test_a_sheet_that_can_not_be_written_is_a_sentence(tree, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"Can't write the contact sheet '.*' \(.*\)\. Name another file"):
        inspect(str(tree), sheet=tmp_path / name)


def test_a_sheet_never_takes_the_place_of_a_file_of_another_kind(tree, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"expected a name that ends in \.png, not '.*thesis\.tex'"):
        inspect(str(tree), sheet=tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("given", ["", ",", "A,,B"])
def test_classes_without_a_name_are_refused(tree, given):
    done = run(tree, "--test-classes", given)
    assert (done.exit_code, "or their names with commas" in done.output) == (2, True)


def test_a_name_of_digits_alone_is_a_name(tree):
    done = run(tree, "--test-classes", "9" * 5000)
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert isinstance(done.exception, InputError)


def test_two_sizes_of_equal_area_are_both_told(tree):
    for row, path in enumerate((tree / "train").rglob("*.png")):
        Image.new("RGB", ((12, 16), (16, 12))[row % 2], (row, 2 * row % 256, 7)).save(path)
    assert "from 10 x 10 to 16 x 12 pixels" in run(tree).stdout
    assert "from 12 x 16 to 16 x 12 pixels" in run(make_turned(tree)).stdout


def make_turned(tree: Path) -> Path:
    for row, path in enumerate(tree.rglob("*.png")):
        Image.new("RGB", ((12, 16), (16, 12))[row % 2], (row % 256, 2 * row % 256, row // 256)).save(path)
    return tree
