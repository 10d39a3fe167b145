"""Classes without splits get some: seeded, disjoint, and without a change of what was there."""

import errno
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from metantk_core.command_line import app
from metantk_core.datasets import SPLITS, DataConfig, prepare
from metantk_core.datasets.splitting import Divided, divide
from metantk_core.errors import InputError


def write_classes(root: Path, count: int, images: int = 3) -> Path:
    for number in range(count):
        (root / f"class {number:03}").mkdir(parents=True)
        for row in range(images):
            shade = (number * 2 % 256, row, number + row)
            Image.new("RGB", (9, 9), shade).save(root / f"class {number:03}" / f"{row}.png")
    return root


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def classes(tmp_path) -> Path:
    return write_classes(tmp_path / "classes", 50)


@pytest.mark.parametrize("by", ["link", "copy"])
def test_each_class_is_in_one_split_with_all_its_images(classes, tmp_path, by):
    before = everything(classes)
    divided = divide(classes, tmp_path / "divided", by=by)
    assert {split: len(names) for split, names in divided.classes.items()} == {"train": 32, "val": 8, "test": 10}
    found = everything(tmp_path / "divided")
    assert {name.partition("/")[2]: content for name, content in found.items()} == before == everything(classes)
    same = [os.path.samefile(tmp_path / "divided" / name, classes / name.partition("/")[2]) for name in found]
    assert set(same) == {by == "link"}
    assert divided.copied == (0 if by == "link" else 150)
    dataset = prepare(DataConfig(path=str(tmp_path / "divided"), image_size=9, channels=3), tmp_path / "prepared")
    assert {split: dataset.split(split).class_names for split in SPLITS} == dict(divided.classes)
    shutil.rmtree(tmp_path / "divided")
    assert everything(classes) == before


def test_the_choice_depends_on_seed_and_names_alone(classes, tmp_path):
    def chosen(name: str, seed: int) -> Divided:
        return divide(classes, tmp_path / name, seed=seed)

    first = chosen("a", 0)
    assert chosen("b", 0) == first
    assert len({chosen(f"seed {seed}", seed).classes["test"] for seed in range(1, 6)} | {first.classes["test"]}) == 6
    counts = Counter(name for seed in range(40) for name in chosen(f"many {seed}", 100 + seed).classes["test"])
    assert all(1 <= counts[f"class {number:03}"] <= 20 for number in range(50))  # of 40, each with chance 1/5


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (100, (0.64, 0.16, 0.2), (64, 16, 20)),
        (6, (0.64, 0.16, 0.2), (2, 2, 2)),
        (7, (0.64, 0.16, 0.2), (3, 2, 2)),
        (11, (0.5, 0.25, 0.25), (5, 3, 3)),
        (10, (0.1, 0.1, 0.8), (2, 2, 6)),
        (30, (0.5, 0.3, 0.2), (15, 9, 6)),
    ],
)
def test_shares_are_met_as_well_as_whole_classes_allow(tmp_path, count, shares, expected):
    divided = divide(
        write_classes(tmp_path / "classes", count, images=1),
        tmp_path / "divided",
        shares=dict(zip(SPLITS, shares, strict=True)),
    )
    assert tuple(len(divided.classes[split]) for split in SPLITS) == expected


def test_where_files_can_not_be_linked_they_are_copied_and_links_are_followed(classes, tmp_path, monkeypatch):
    (classes / "class 000" / "0.png").rename(tmp_path / "elsewhere.png")
    (classes / "class 000" / "0.png").symlink_to("../../elsewhere.png")
    divided = divide(classes, tmp_path / "linked")
    (found,) = (tmp_path / "linked").rglob("class 000/0.png")
    assert not found.is_symlink()
    assert os.path.samefile(found, tmp_path / "elsewhere.png")

    def another_disk(*names: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    again = divide(classes, tmp_path / "copied")
    assert (divided.copied, again.copied) == (0, 150)
    assert everything(tmp_path / "copied") == everything(tmp_path / "linked")


def test_an_error_leaves_nothing(classes, tmp_path):
    def fail(done: int, total: int, detail: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        divide(classes, tmp_path / "divided", progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["classes"]


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_classes_are_refused(tmp_path, count):
    root = write_classes(tmp_path / "classes", count)
    with pytest.raises(InputError, match=rf"has {count} class(es)?: expected at least 6, two each for train"):
        divide(root, tmp_path / "divided")
    assert not (tmp_path / "divided").exists()


def test_what_can_not_be_divided_is_refused_with_its_sentence(classes, tmp_path):
    for name in ("class 003", "class 007"):
        shutil.rmtree(classes / name)
        (classes / name).mkdir()
    with pytest.raises(InputError, match="Class 'class 003' has no image files") as refused:
        divide(classes, tmp_path / "divided")
    assert ["'class 007' has no image files" in note for note in refused.value.__notes__] == [True]
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "train.pickle").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no classes \(it holds \['train.pickle'\]\)"):
        divide(tmp_path / "pickles", tmp_path / "divided")
    for split in SPLITS:
        (tmp_path / "whole" / split / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="has splits already"):
        divide(tmp_path / "whole", tmp_path / "divided")
    with pytest.raises(InputError, match="There is no folder"):
        divide(tmp_path / "gone", tmp_path / "divided")


def test_a_destination_that_holds_something_or_lies_in_the_source_is_refused(classes, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"full' holds 'thesis\.tex'"):
        divide(classes, tmp_path / "full")
    for inside in (classes, classes / "divided"):
        with pytest.raises(InputError, match="lies in the source"):
            divide(classes, inside)
    (tmp_path / "empty").mkdir()
    assert divide(classes, tmp_path / "empty").images["train"] == 96


def test_the_folder_that_one_is_in_and_addresses_are_refused_and_links_are_followed(classes, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is the folder that you are in"):
        divide(classes, Path())
    for given in (["s3://bucket/classes", "divided"], [str(classes), "s3://bucket/divided"]):
        done = CliRunner().invoke(app, ["data", "split", *given])
        assert "Expected two folders on this machine" in str(done.exception)
    assert os.listdir() == []
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    divide(classes, tmp_path / "link")
    assert sorted(os.listdir(tmp_path / "here")) == ["test", "train", "val"]


def test_a_full_disk_names_the_destination_and_promises_nothing(classes, tmp_path, monkeypatch):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"divided' \(No space left on device\)\. Make space") as refused:
        divide(classes, tmp_path / "divided", by="copy")
    assert "kept" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["classes"]


def test_a_class_that_is_there_twice_in_another_writing_is_refused(tmp_path):
    root = write_classes(tmp_path / "classes", 8)
    (root / "class 000").rename(root / "\u00e9")
    (root / "class 001").rename(root / "e\u0301")
    with pytest.raises(InputError, match=r"Class '(\u00e9|e\u0301)' is twice"):
        divide(root, tmp_path / "divided")


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.9, 0.2, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none_are_refused(classes, tmp_path, shares):
    with pytest.raises(InputError, match="Expected shares of the classes that are above 0 and together 1"):
        divide(classes, tmp_path / "divided", shares=dict(zip(SPLITS, shares, strict=True)))


def test_the_command_prints_for_people_and_for_programs(classes, tmp_path):
    (classes / "readme.txt").write_text("of birds")
    (classes / "class 001" / "notes.txt").write_text("of one")
    done = CliRunner().invoke(app, ["data", "split", str(classes), str(tmp_path / "one")])
    assert done.exit_code == 0
    assert "150 images linked" in done.stdout
    assert "Passed over 2 files" in done.stdout
    done = CliRunner().invoke(app, ["data", "split", str(classes), str(tmp_path / "two"), "--json", "--seed", "3"])
    told = json.loads(done.stdout)
    assert (told["seed"], len(told["classes"]["val"]), told["images"]["test"]) == (3, 8, 30)
    assert CliRunner().invoke(app, ["data", "split", "a", "b", "--by", "move"]).exit_code == 2
