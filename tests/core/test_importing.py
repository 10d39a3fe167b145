"""What is imported once is what a run would have prepared, through kills, and is used as it is."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metantk_core.command_line import app
from metantk_core.datasets import SPLITS, DataConfig, importing, prepare, scratch, stored, verify
from metantk_core.datasets.importing import Import, import_images, planned
from metantk_core.datasets.layouts import recognised
from metantk_core.datasets.stored import channel_sums
from metantk_core.errors import InputError
from metantk_core.files import Folder

KINDS = ["mini-rfs", "mini-cache", "mini-ravi", "cifarfs-rfs", "fc100-metaopt", "tiered-rfs", "tiered-ren"]


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch):
    """Flushing to a real disk takes most of the time here, and shows in no result."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_arrays(root: Path, count: int = 300, side: int = 12, channels: int = 3) -> Path:
    root.mkdir(parents=True)
    for number, split in enumerate(SPLITS):
        images = np.random.default_rng(number).integers(0, 256, (count, side, side, channels), np.uint8)
        np.savez(root / f"{split}.npz", images=images, labels=10 * number + np.arange(count) % 5)
    return root


def write_tree(root: Path, sizes: list[tuple[int, int]], grey: bool = True) -> Path:
    for number, split in enumerate(SPLITS):
        folder = root / split / f"class {number}"
        folder.mkdir(parents=True)
        for row, (width, height) in enumerate(sizes):
            pixels = np.random.default_rng([number, row]).integers(0, 256, (height, width, 3), np.uint8)
            pixels = pixels[..., :1].repeat(3, -1) if grey else pixels
            Image.fromarray(pixels).save(folder / f"{row:03}.png")
    return root


# What is imported


@pytest.mark.parametrize("kind", KINDS)
def test_an_import_is_what_a_run_would_have_prepared(few_shot_archives, tmp_path, kind):
    plan = planned(str(few_shot_archives / kind))
    made = import_images(plan, tmp_path / "imported")
    prepared = prepare(plan.config, tmp_path / "prepared")
    assert contents(tmp_path / "imported") == contents(tmp_path / "prepared")
    assert (made.digest, made.made) == (prepared.digest, True)
    assert made.images == {split: len(prepared.split(split)) for split in SPLITS}
    assert made.size == sum(map(len, contents(tmp_path / "imported").values()))


@pytest.mark.parametrize("kind", ["mini-rfs", "tiered-rfs"])
@pytest.mark.parametrize(("image_size", "channels"), [(84, 3), (32, 1), (20, 3)])
def test_what_was_imported_is_used_like_its_source(few_shot_archives, tmp_path, kind, image_size, channels):
    source = str(few_shot_archives / kind)
    import_images(planned(source, 84, 3), tmp_path / "imported")
    config = DataConfig(path=str(tmp_path / "imported"), image_size=image_size, channels=channels)
    used = prepare(config, tmp_path / "used")
    asked = DataConfig(path=source, image_size=image_size, channels=channels)
    assert used.digest == prepare(asked, tmp_path / "prepared").digest
    assert used.train.class_names == verify(tmp_path / "used").train.class_names


def test_files_of_equal_size_are_linked_and_the_import_stays_as_it_is(few_shot_archives, tmp_path):
    import_images(planned(str(few_shot_archives / "cifarfs-rfs")), tmp_path / "imported")
    before = contents(tmp_path / "imported")
    config = DataConfig(path=str(tmp_path / "imported"), image_size=32, channels=3)
    prepare(config, tmp_path / "used")
    for split in SPLITS:
        name = f"{split}_images.npy"
        assert os.path.samefile(tmp_path / "imported" / name, tmp_path / "used" / name)
    assert contents(tmp_path / "imported") == before
    made = (tmp_path / "used" / "dataset.json").stat().st_mtime_ns
    prepare(config, tmp_path / "used")  # the links are no change of the source
    assert (tmp_path / "used" / "dataset.json").stat().st_mtime_ns == made
    shutil.rmtree(tmp_path / "imported")
    assert prepare(config, tmp_path / "used").train.take([3]).shape == (1, 3, 32, 32)


def test_images_on_another_disk_are_not_copied(few_shot_archives, tmp_path, monkeypatch):
    import_images(planned(str(few_shot_archives / "cifarfs-rfs")), tmp_path / "imported")

    def another_disk(*names: object, **options: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    config = DataConfig(path=str(tmp_path / "imported"), image_size=32, channels=3)
    dataset = prepare(config, tmp_path / "used")
    assert (tmp_path / "used" / "train_images.npy").is_symlink()
    assert prepare(config, tmp_path / "used").digest == dataset.digest


@pytest.mark.parametrize("image_size", [12, 8])
@pytest.mark.parametrize("file", sorted(stored.FILES))
def test_a_changed_import_is_a_sentence_that_names_the_file(tmp_path, file, image_size):
    import_images(planned(str(write_arrays(tmp_path / "arrays", count=20))), tmp_path / "imported")
    content = bytearray((tmp_path / "imported" / file).read_bytes())
    content[-10] ^= 1
    (tmp_path / "imported" / file).write_bytes(content)
    config = DataConfig(path=str(tmp_path / "imported"), image_size=image_size, channels=3)
    with pytest.raises(InputError, match=rf"{tmp_path}/imported/{file}'.*Import the images again\."):
        prepare(config, tmp_path / "used")
    assert not (tmp_path / "used").exists()
    (tmp_path / "imported" / file).unlink()
    with pytest.raises(InputError, match=rf"'{file}'|No data set is recognised"):
        prepare(config, tmp_path / "used")


@pytest.mark.parametrize("start", [0, 1, 64, 65, 300])
@pytest.mark.parametrize("kind", ["arrays", "imported", "pickles", "encoded"])
def test_a_stream_may_start_at_any_image(few_shot_archives, tmp_path, kind, start):
    root = {"pickles": few_shot_archives / "mini-rfs", "encoded": few_shot_archives / "tiered-ren"}.get(kind)
    if root is None:
        root = write_arrays(tmp_path / "arrays")
        if kind == "imported":
            import_images(planned(str(root)), tmp_path / "imported")
            root = tmp_path / "imported"
    part = recognised(Folder(root), 12, 3).splits()["val"]
    whole = list(part.images())
    assert len(whole) == len(part.labels)
    rest = list(part.images(start))
    assert len(rest) == max(0, len(whole) - start)
    assert all(map(np.array_equal, rest, whole[start:]))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 3, 12, 12), (2, 3, 512, 512)])
def test_sums_of_channels_are_exact(shape):
    for images in (np.random.default_rng(0).integers(0, 256, shape, np.uint8), np.full(shape, 255, np.uint8)):
        values = images.astype(np.int64)
        for row, part in zip(channel_sums(images), (values, values**2), strict=True):
            assert row.tolist() == part.sum((0, 2, 3)).tolist()


# Which size and colours


def test_size_and_colours_are_those_of_the_images(tmp_path):
    grey = planned(str(write_tree(tmp_path / "grey", [(20, 20)] * 3)))
    assert (grey.config.image_size, grey.config.channels) == (20, 1)
    colour = planned(str(write_tree(tmp_path / "colour", [(20, 20)] * 3, grey=False)))
    assert (colour.config.image_size, colour.config.channels) == (20, 3)
    assert planned(str(tmp_path / "grey"), 16, 3).config.image_shape == (3, 16, 16)
    made = import_images(grey, tmp_path / "imported")
    asked = DataConfig(path=str(tmp_path / "grey"), image_size=20, channels=1)
    assert made.digest == prepare(asked, tmp_path / "prepared").digest


@pytest.mark.parametrize("sizes", [[(20, 20), (20, 21)], [(30, 20)], [(7, 7)], [(600, 600)]])
def test_sizes_that_can_not_be_kept_ask_for_one(tmp_path, sizes):
    root = write_tree(tmp_path / "tree", sizes)
    with pytest.raises(InputError, match=r"pixels.*give --image-size"):
        planned(str(root))
    assert import_images(planned(str(root), 20), tmp_path / "imported").image_shape == (1, 20, 20)


def test_a_late_image_of_another_kind_is_named(tmp_path):
    root = write_tree(tmp_path / "sizes", [(20, 20)] * 30 + [(20, 24)])
    with pytest.raises(InputError, match=r"Image 30 of split 'train'.*20 x 24 pixels, the first one 20 x 20: give"):
        import_images(planned(str(root)), tmp_path / "imported")
    root = write_tree(tmp_path / "colours", [(20, 20)] * 30)
    Image.new("RGB", (20, 20), "red").save(root / "val" / "class 1" / "x.png")
    with pytest.raises(InputError, match=r"Image 30 of split 'val'.*has colours.*--channels 3"):
        import_images(planned(str(root)), tmp_path / "imported")
    assert import_images(planned(str(root), None, 3), tmp_path / "imported").image_shape == (3, 20, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colours", "imported", "sizes"]


# What is never replaced


def test_a_destination_that_holds_anything_else_is_refused(tmp_path):
    plan = planned(str(write_arrays(tmp_path / "arrays", count=20)))
    (tmp_path / "empty").mkdir()
    assert import_images(plan, tmp_path / "empty").made
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"other' holds 'thesis\.tex'\. Choose another destination"):
        import_images(plan, tmp_path / "other")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"'.*file' is no folder"):
        import_images(plan, tmp_path / "file")
    with pytest.raises(InputError, match=r"arrays' holds 'test\.npz'"):
        import_images(plan, tmp_path / "arrays")
    another = planned(str(write_arrays(tmp_path / "more", count=25)))
    with pytest.raises(InputError, match=r"holds another data set \('arrays'\)"):
        import_images(another, tmp_path / "empty")
    with pytest.raises(InputError, match=r"holds another data set"):
        import_images(planned(str(tmp_path / "arrays"), 9), tmp_path / "empty")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


def test_a_destination_that_can_not_be_replaced_or_lies_in_the_source_is_refused_at_once(tmp_path, monkeypatch):
    source = write_tree(tmp_path / "tree", [(9, 9)] * 3)
    before = sorted(source.rglob("*"))
    for inside in (source / "train" / "new", source / "new"):
        with pytest.raises(InputError, match="lies in the source"):
            import_images(planned(str(source)), inside)
    assert sorted(source.rglob("*")) == before
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"is the folder that you are in, .*: name a new folder in it"):
        import_images(planned(str(source)), Path())
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(InputError, match=r"is a disk of its own, .*: name a new folder in it"):
        import_images(planned(str(source)), tmp_path / "disk")
    assert sorted(os.listdir(tmp_path)) == ["disk", "here", "tree"]


def test_a_link_to_an_empty_folder_is_that_folder(tmp_path):
    source = write_tree(tmp_path / "tree", [(9, 9)] * 3)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert import_images(planned(str(source)), tmp_path / "link").made
    assert verify(tmp_path / "real").name == "tree"
    assert not import_images(planned(str(source)), tmp_path / "link").made
    assert sorted(os.listdir(tmp_path)) == ["link", "real", "tree"]


def test_a_disk_without_space_is_named_by_the_folder_that_people_know(tmp_path, monkeypatch):
    source = write_tree(tmp_path / "tree", [(9, 9)] * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))  # pyright: ignore
    with pytest.raises(InputError, match=f"the disk of '{tmp_path}' has 100 bytes"):
        import_images(planned(str(source)), tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir() if path.name != "tree"] in ([], [".imported.metantk-resumable"])


def test_who_waits_for_another_import_and_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="faster"), scratch.resumable(tmp_path / "imported", "mine"):
        raise InputError("faster")
    assert list(tmp_path.iterdir()) == []


def test_what_an_attempt_has_made_before_an_error_is_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), scratch.resumable(tmp_path / "imported", "mine") as made:
        assert 1 / (made / "array").write_text("")
    with scratch.resumable(tmp_path / "imported", "mine") as made:
        assert (made / "array").is_file()


def test_a_second_import_finds_the_first_and_a_changed_source_is_refused(tmp_path):
    source = write_arrays(tmp_path / "arrays", count=20)
    first = import_images(planned(str(source)), tmp_path / "imported")
    before = contents(tmp_path / "imported")
    again = import_images(planned(str(source)), tmp_path / "imported")
    assert (again.made, again.digest) == (False, first.digest)
    shutil.rmtree(source)
    write_arrays(source, count=21)
    with pytest.raises(InputError, match="holds these images before they were changed"):
        import_images(planned(str(source)), tmp_path / "imported")
    assert contents(tmp_path / "imported") == before
    with pytest.raises(InputError, match=r"There is no '.*gone': expected a folder"):
        planned(str(tmp_path / "gone"))


# Kills


def _import_slowly(plan: Import, directory: Path, told: Path) -> None:
    def slow(done: int, total: int, detail: str = "") -> None:
        with told.open("a") as file:
            file.write(f"{done} {detail}\n")
        time.sleep(0.004)

    import_images(plan, directory, slow)


def _started(work: Callable[[], object]) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


@pytest.mark.parametrize("seed", range(3))
def test_an_import_that_is_killed_at_any_instant_goes_on_and_ends_with_the_same_bytes(tmp_path, seed):
    plan = planned(str(write_arrays(tmp_path / "arrays", count=640)))
    import_images(plan, tmp_path / "whole")
    luck, told, kills = random.Random(seed), tmp_path / "told", 0
    while not (tmp_path / "imported").exists():
        process = _started(lambda: _import_slowly(plan, tmp_path / "imported", told))
        process.join(luck.uniform(0.0, 0.12))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills
    assert not import_images(plan, tmp_path / "imported").made
    assert contents(tmp_path / "imported") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays", "imported", "told", "whole"]
    # None is made again: what an attempt found is what the last one had stored, or one block more.
    heard = [int(line.split()[0]) for line in told.read_text().splitlines()]
    assert all(0 <= after - before <= 128 for before, after in itertools.pairwise(heard))


@pytest.mark.parametrize("damage", ["pixels", "checksums", "shorter", "header", "empty"])
def test_what_a_dead_attempt_left_damaged_is_made_again(tmp_path, damage):
    plan = planned(str(write_arrays(tmp_path / "arrays")))
    import_images(plan, tmp_path / "whole")
    told = tmp_path / "told"
    process = _started(lambda: _import_slowly(plan, tmp_path / "imported", told))
    while not told.exists() or told.read_text().count("\n") < 8:
        time.sleep(0.005)
    process.kill()
    process.join()
    file = tmp_path / ".imported.metantk-resumable" / "new" / "train_images.npy"
    content = bytearray(file.read_bytes())
    if damage == "pixels":
        content[5000] ^= 1
    elif damage == "header":
        content[10] ^= 1
    file.write_bytes({"shorter": content[:-7], "empty": b""}.get(damage, content))
    if damage == "checksums":
        other = file.with_name("val_checksums.npy")
        other.write_bytes(other.read_bytes()[:150] + b"\0" * 50)
    assert import_images(plan, tmp_path / "imported").made
    assert contents(tmp_path / "imported") == contents(tmp_path / "whole")


def test_an_import_of_a_source_that_changed_meanwhile_begins_anew_and_says_so(tmp_path, caplog):
    source = write_arrays(tmp_path / "arrays")
    plan, told = planned(str(source)), tmp_path / "told"
    process = _started(lambda: _import_slowly(plan, tmp_path / "imported", told))
    while not told.exists() or told.read_text().count("\n") < 8:
        time.sleep(0.005)
    process.kill()
    process.join()
    shutil.rmtree(source)
    write_arrays(source, side=14)
    heard = []
    made = import_images(planned(str(source)), tmp_path / "imported", lambda done, total, detail="": heard.append(done))
    assert "the source has changed since: all is made anew" in caplog.text
    assert (made.image_shape, min(heard)) == ((3, 14, 14), 64)
    assert made.digest == prepare(planned(str(source)).config, tmp_path / "prepared").digest


def test_a_source_that_changes_while_it_is_imported_is_noticed(tmp_path):
    source = write_tree(tmp_path / "tree", [(16, 16)] * 100)
    first = source / "train" / "class 0" / "000.png"

    def touch(done: int, total: int, detail: str = "") -> None:
        os.utime(first, ns=(done, done))

    with pytest.raises(InputError, match="were changed while they were read"):
        import_images(planned(str(source)), tmp_path / "imported", touch)
    assert not (tmp_path / "imported").exists()


def test_of_two_imports_at_once_one_makes_it_and_the_other_finds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "SECONDS_TO_MESSAGE", 0.05)
    plan, told = planned(str(write_arrays(tmp_path / "arrays"))), tmp_path / "told"
    process = _started(lambda: _import_slowly(plan, tmp_path / "imported", told))
    while not told.exists():
        time.sleep(0.005)
    assert not import_images(plan, tmp_path / "imported").made
    process.join()
    assert process.exitcode == 0


def test_grey_is_what_has_equal_channels():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert importing.is_grey(image)
    assert importing.is_grey(image.repeat(3, 0))
    for channel in range(3):
        other = image.repeat(3, 0)
        other[channel, 2, 1] ^= 1
        assert not importing.is_grey(other)


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", "import", *map(str, arguments)])


def test_the_command_prints_for_people_and_for_programs(tmp_path):
    source = write_arrays(tmp_path / "arrays", count=20)
    done = run(source, tmp_path / "imported")
    assert done.exit_code == 0
    for words in ("arrays: npz files", "12 x 12 pixels, RGB", f"data.path={tmp_path}/imported", "data.image_size=12"):
        assert words in done.stdout
    told = json.loads(run(source, tmp_path / "imported", "--json").stdout)
    assert (told["made"], told["image_shape"], told["images"]) == (False, [3, 12, 12], dict.fromkeys(SPLITS, 20))


@pytest.mark.parametrize("destination", ["ftp://host/x", "http://me:secret@host/x", "s3://", "s3://A_B/x"])
def test_a_destination_that_is_none_is_refused_before_images_are_read(tmp_path, destination):
    done = run(tmp_path / "gone", destination)
    assert isinstance(done.exception, InputError)
    assert "s3://bucket/prefix" in str(done.exception)
    assert "secret" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []
