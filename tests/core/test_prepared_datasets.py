"""What is stored is what was meant, through full disks, killed processes, flipped bits and rivals."""

import contextlib
import errno
import fcntl
import json
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metantk_core.datasets import SPLITS, DataConfig, ImageDataset, load, prepare, scratch, stored
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training.sources import source_digest
from metantk_core.workflow import data as workflow_data

FILES = [f"{split}_{array}.npy" for split in SPLITS for array in ("images", "labels", "checksums")] + ["dataset.json"]


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch):
    """Flushing to a real disk takes most of the time here, and shows in no result."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write_source(root: Path, count: int = 6, seed: int = 0) -> Path:
    root.mkdir()
    rng = np.random.default_rng(seed)
    for offset, split in enumerate(SPLITS):
        images = rng.integers(0, 256, (count, 8, 8), np.uint8)
        np.savez(root / f"{split}.npz", images=images, labels=10 * offset + np.arange(count) % 3)
    return root


@pytest.fixture
def source(tmp_path) -> Path:
    return write_source(tmp_path / "arrays")


def config(source: Path) -> DataConfig:
    return DataConfig(source="npz", path=str(source), image_size=8, channels=1)


def same(one: ImageDataset, other: ImageDataset) -> bool:
    """Whether two data sets are equal in everything that a run can see."""
    parts = [(one.split(split), other.split(split)) for split in SPLITS]
    return (one.name, one.mean, one.std, one.digest) == (other.name, other.mean, other.std, other.digest) and all(
        a.class_names == b.class_names and np.array_equal(a.labels, b.labels) and np.array_equal(a.images, b.images)
        for a, b in parts
    )


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Full disks


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [10, 200, 500])
def test_a_write_that_fails_is_a_sentence_and_leaves_nothing(source, tmp_path, limit):
    with files_no_larger_than(limit), pytest.raises(InputError, match=r"Can't write the prepared data set.*more space"):
        prepare(config(source), tmp_path / "out")
    assert left_in(tmp_path) == ["arrays"]
    assert len(prepare(config(source), tmp_path / "out").train) == 6


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    source = write_source(tmp_path / "arrays", count=3000)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with pytest.raises(
            InputError, match=r"takes [\d.]+ [kM]B, but the disk of '[^.]*' has [\d.]+ [kM]B left; make space"
        ):
            prepare(config(source), disk / "out")
        assert left_in(disk) == []
        plenty = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
        with pytest.raises(InputError, match=r"No space left on device.*with more space"):
            prepare(config(source), disk / "out")
        assert left_in(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_the_disk_can_not_take_is_refused_before_anything_is_made(source, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**9))
    large = config(source).model_copy(update={"image_size": 10_000, "channels": 3})  # 18 images of 300 MB
    with pytest.raises(InputError, match=r"takes 5\.4 GB, but .* 1\.0 GB left; make space, lower data\.image_size"):
        prepare(large, tmp_path / "out", lambda done, total, detail="": calls.append(done))
    assert not calls
    assert left_in(tmp_path) == ["arrays"]


# Content that is no longer what was stored


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_is_named_and_prepared_again(source, tmp_path, caplog, file):
    first = prepare(config(source), tmp_path / "out")
    content = bytearray((tmp_path / "out" / file).read_bytes())
    content[-10] ^= 1
    (tmp_path / "out" / file).write_bytes(content)
    again = prepare(config(source), tmp_path / "out")
    assert again.digest == first.digest
    assert f"{tmp_path / 'out' / file}'" in caplog.text
    assert "prepared again" in caplog.text
    caplog.clear()
    assert same(prepare(config(source), tmp_path / "out"), again)
    assert not caplog.text


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_is_a_sentence_when_the_source_is_gone(source, tmp_path, file):
    prepare(config(source), tmp_path / "out")
    content = bytearray((tmp_path / "out" / file).read_bytes())
    content[-10] ^= 1
    (tmp_path / "out" / file).write_bytes(content)
    source.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"No folder '.*arrays'.*{tmp_path}/out/{file}"):
        prepare(config(source), tmp_path / "out")
    assert (tmp_path / "out" / file).read_bytes() == content


def test_a_step_never_uses_an_image_that_has_changed(source, tmp_path):
    prepare(config(source), tmp_path / "out")
    file = tmp_path / "out" / "val_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last image
    file.write_bytes(content)
    val = load(tmp_path / "out").val
    assert len(val.take([0, 1, 2])) == 3
    with pytest.raises(InputError, match=r"Image 5 of split 'val' .*val_images\.npy"):
        val.take(np.array([0, 5]))
    with pytest.raises(InputError, match="Image 5 of split 'val'"):
        EpisodeSource(val, EpisodeConfig(ways=3, shots=1, queries=1), (0.5,), (0.5,)).episode(0)


def test_a_comparison_that_takes_longer_than_a_moment_says_how_far_it_is(source, tmp_path, monkeypatch):
    prepare(config(source), tmp_path / "out")
    told: list[tuple[int, int, str]] = []

    def tell(done: int, total: int, detail: str = "") -> None:
        told.append((done, total, detail))

    prepare(config(source), tmp_path / "out", tell)
    assert told == []
    monkeypatch.setattr(stored, "_CHECKED_IN_A_MOMENT", 0)
    monkeypatch.setattr(stored, "_TOLD_EVERY", 7)
    prepare(config(source), tmp_path / "out", tell)
    total = sum(len(load(tmp_path / "out").split(split)) for split in SPLITS)
    assert total > 7
    assert told == [(done, total, "images checked") for done in (*range(7, total, 7), total)]


def test_a_file_that_is_cut_short_in_use_is_a_sentence_and_no_bus_error(source, tmp_path):
    prepare(config(source), tmp_path / "out")
    val = load(tmp_path / "out").val
    file = tmp_path / "out" / "val_images.npy"
    os.truncate(file, file.stat().st_size - 1)
    assert len(val.take([0, 4])) == 2
    with pytest.raises(InputError, match=r"bytes of image 5 in '.*val_images\.npy', but the file ends after"):
        val.take([5])


def test_a_file_that_is_replaced_in_use_is_read_on_as_it_was(source, tmp_path):
    prepare(config(source), tmp_path / "out")
    val = load(tmp_path / "out").val
    before = val.take(range(6))
    (tmp_path / "new").write_bytes(bytes(os.path.getsize(tmp_path / "out" / "val_images.npy")))
    os.replace(tmp_path / "new", tmp_path / "out" / "val_images.npy")
    assert np.array_equal(val.take(range(6)), before)


def _resident(file) -> list[int]:
    """Kilobytes of a mapped file that count as this process's memory."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    ours = [part for part in mappings if str(file) in part]
    return [int(size) for part in ours for size in re.findall(r"^Rss:\s+(\d+) kB", part, re.MULTILINE)]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_images_that_were_taken_do_not_stay_in_memory(source, tmp_path):
    prepare(config(source), tmp_path / "out")
    val = load(tmp_path / "out").val
    val.take(range(6))
    assert _resident(tmp_path / "out" / "val_images.npy") == [0]
    assert val.images.sum() > 0
    assert _resident(tmp_path / "out" / "val_images.npy") != [0]  # it would be seen


def test_images_come_in_the_order_in_which_they_are_asked_for(source, tmp_path):
    val = prepare(config(source), tmp_path / "out").val
    rows = [5, 0, 3, 0, 4]
    assert np.array_equal(val.take(rows), np.array(val.images)[rows])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_flipped_bit_or_missing_end_is_noticed(tmp_path_factory, file, place, bit, cut):
    base = tmp_path_factory.getbasetemp() / "flipped"
    if not base.exists():
        base.mkdir()
        write_source(base / "arrays")
        prepare(config(base / "arrays"), base / "out")
    content = (base / "out" / file).read_bytes()
    good = load(base / "out")
    pixels = [np.array(good.split(split).images) for split in SPLITS]
    at = int(place * len(content))
    changed = content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    (base / "out" / file).write_bytes(changed)
    again = prepare(config(base / "arrays"), base / "out")
    assert again.digest == good.digest
    assert all(np.array_equal(again.split(split).images, images) for split, images in zip(SPLITS, pixels, strict=True))


@pytest.mark.parametrize(
    "content",
    [
        '{"format":1}', '{"format":2}', '{"format":true}', '{"format":"2"}', "[]", "null", "1", '"x"', "", "{", "NaN",
        "[" * 100_000, "1" * 5_000, '{"format":2,"name":3,"class_names":[],"mean":"x"}', "\udcff", '"\\ud800"',
    ],
)  # fmt: skip
def test_a_summary_that_is_none_is_prepared_again_or_a_sentence(source, tmp_path, content):
    first = prepare(config(source), tmp_path / "out")
    file = tmp_path / "out" / "dataset.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"dataset\.json"):
        load(tmp_path / "out")
    assert prepare(config(source), tmp_path / "out").digest == first.digest
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    shutil.rmtree(source)
    with pytest.raises(InputError, match=r"dataset\.json"):
        prepare(config(source), tmp_path / "out")


@pytest.mark.parametrize("key", ["name", "class_names", "mean", "std", "digest", "fingerprint", "config", "checksum"])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [[]], 1e308])
def test_a_summary_with_other_values_is_never_used(source, tmp_path, key, value):
    first = prepare(config(source), tmp_path / "out")
    file = tmp_path / "out" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InputError, match=r"dataset\.json' (is damaged|was changed)"):
        load(tmp_path / "out")
    assert prepare(config(source), tmp_path / "out").digest == first.digest


@pytest.mark.parametrize("file", ["dataset.json", "val_images.npy", "val_labels.npy"])
def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(source, tmp_path, file):
    first = prepare(config(source), tmp_path / "out")
    (tmp_path / "out" / file).unlink()
    os.mkfifo(tmp_path / "out" / file)
    with pytest.raises(InputError, match="it is a FIFO, not a file"):
        load(tmp_path / "out")
    assert prepare(config(source), tmp_path / "out").digest == first.digest


def test_a_damaged_directory_with_other_things_in_it_is_left_alone(source, tmp_path):
    prepare(config(source), tmp_path / "out")
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert len(prepare(config(source), tmp_path / "out").train) == 6
    (tmp_path / "out" / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"may be replaced \(it holds 'thesis\.tex'\)"):
        prepare(config(source), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_contents_replaced_with_size_and_time_kept_are_noticed(source, tmp_path):
    first = prepare(config(source), tmp_path / "out")
    file = source / "val.npz"
    times = file.stat()
    other = write_source(tmp_path / "other", seed=1) / "val.npz"
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert prepare(config(source), tmp_path / "out").digest != first.digest


def test_the_digest_is_of_the_content_alone(source, tmp_path):
    first = prepare(config(source), tmp_path / "one")
    renamed = source.rename(tmp_path / "renamed")
    for split in SPLITS:
        with np.load(renamed / f"{split}.npz") as archive:
            np.savez_compressed(renamed / f"{split}.npz", **dict(archive))
    second = prepare(config(renamed), tmp_path / "two")
    assert (first.digest, first.mean) == (second.digest, second.mean)
    digests = {first.digest}
    with np.load(renamed / "val.npz") as archive:
        good = dict(archive)
    pixels = good["images"].copy()
    pixels[5, 7, 7] ^= 1
    for changes in (
        {"images": pixels},
        {"images": good["images"][::-1]},
        {"labels": good["labels"][::-1]},
        {"labels": good["labels"] + 1},
        {"images": good["images"][:5], "labels": good["labels"][:5]},
    ):
        np.savez(renamed / "val.npz", **(good | changes))
        digests.add(prepare(config(renamed), tmp_path / "two").digest)
    assert len(digests) == 6


def test_stored_sources_of_episodes_differ_by_any_pixel(source, tmp_path):
    prepared = prepare(config(source), tmp_path / "out").val
    assert prepared.checksums is not None
    other = prepared.checksums.copy()
    other[3, 0] ^= 1
    changed = LabelledImages(
        prepared.images, prepared.labels, prepared.class_names, prepared.split, prepared.name, other
    )
    episodes = EpisodeConfig(ways=3, shots=1, queries=1)
    one, two = (EpisodeSource(images, episodes, (0.5,), (0.5,)) for images in (prepared, changed))
    assert source_digest(one) != source_digest(two)


# Processes that are killed, and rivals


def _child(action):
    process = multiprocessing.get_context("fork").Process(target=action, daemon=True)
    process.start()
    return process


def _wait_for(condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_a_killed_process_left_is_removed_by_the_next_preparation(source, tmp_path):
    reached = tmp_path / "reached"

    def stop(done: int, total: int, detail: str = "") -> None:
        reached.touch()
        time.sleep(60)

    process = _child(lambda: prepare(config(source), tmp_path / "out", stop))
    _wait_for(reached.exists)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert ".out.metantk-unfinished" in left_in(tmp_path)
    other = write_source(tmp_path / "others", seed=1)
    prepare(config(other), tmp_path / "another")  # for another data set in the same folder
    assert left_in(tmp_path) == ["another", "arrays", "others", "reached"]
    assert len(prepare(config(source), tmp_path / "out").train) == 6


def test_a_second_process_waits_for_the_first_and_says_so(source, tmp_path, monkeypatch, caplog):
    reached, calls = tmp_path / "reached", []
    monkeypatch.setattr(scratch, "SECONDS_TO_MESSAGE", 0.2)

    def slow(done: int, total: int, detail: str = "") -> None:
        reached.touch()
        time.sleep(0.5)

    process = _child(lambda: prepare(config(source), tmp_path / "out", slow))
    _wait_for(reached.exists)
    dataset = prepare(config(source), tmp_path / "out", lambda done, total, detail="": calls.append(done))
    process.join()
    assert not calls
    assert len(dataset.train) == 6
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"Waiting for process {process.pid} on " in caplog.text
    assert left_in(tmp_path) == ["arrays", "out", "reached"]


def test_a_process_that_writes_nothing_is_not_waited_for_for_ever(source, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "SECONDS_TO_MESSAGE", 0.1)
    monkeypatch.setattr(scratch, "SECONDS_TO_GIVE_UP", 0.2)
    place = tmp_path / ".out.metantk-unfinished"
    place.mkdir()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 on elsewhere")
        lock.flush()
        with pytest.raises(InputError, match=r"process 1 on elsewhere.*end it and start again"):
            prepare(config(source), tmp_path / "out")
    assert len(prepare(config(source), tmp_path / "out").train) == 6


@pytest.mark.parametrize("locks", [True, False])
def test_work_of_another_machine_is_left_alone_until_it_is_old(source, tmp_path, monkeypatch, locks):
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    if not locks:  # as some network file systems
        monkeypatch.setattr(fcntl, "flock", no_locks)
    fresh = tmp_path / ".out.metantk-unfinished" / "deadbeef-7-0123" / "new"
    stale = tmp_path / ".other.metantk-unfinished" / "deadbeef-8-0123" / "new"
    for folder in (fresh, stale):
        folder.mkdir(parents=True)
        (folder.parent.parent / "lock").touch()
    old = time.time() - 7200
    for entry in (stale, stale.parent):
        os.utime(entry, (old, old))
    assert len(prepare(config(source), tmp_path / "out").train) == 6
    assert fresh.exists()
    assert not stale.exists()
    os.utime(fresh, (old, old))
    os.utime(fresh.parent, (old, old))
    shutil.rmtree(tmp_path / "out")
    prepare(config(source), tmp_path / "out")
    assert left_in(tmp_path) == ["arrays", "out"]


@pytest.mark.parametrize("thing", ["a file", "a file for the lock's folder"])
def test_other_things_in_the_way_are_a_sentence(source, tmp_path, thing):
    if thing == "a file":
        (tmp_path / "out").write_text("mine")
        words = "exists and holds no prepared data set"
    else:
        (tmp_path / ".out.metantk-unfinished").write_text("mine")
        words = "Can't write the prepared data set"
    with pytest.raises(InputError, match=words):
        prepare(config(source), tmp_path / "out")


def test_an_over_long_place_is_a_sentence(source, tmp_path):
    with pytest.raises(InputError, match="File name too long"):
        prepare(config(source), tmp_path / ("x" * 300))


@pytest.mark.parametrize("links", [True, False])
def test_a_step_gets_the_dataset_of_the_cache_even_after_a_half_made_copy(source, tmp_path, monkeypatch, links):
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    prepared = prepare(config(source), tmp_path / "kept")
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "train_images.npy").write_bytes(b"half")
    workflow_data._hand_over(tmp_path / "kept", tmp_path / "step")
    assert same(load(tmp_path / "step"), prepared)
    workflow_data._hand_over(tmp_path / "kept", tmp_path / "step")
    if not links:
        with files_no_larger_than(100), pytest.raises(InputError, match="Can't put the prepared dataset"):
            workflow_data._hand_over(tmp_path / "kept", tmp_path / "other")
