"""Many small files cost a bucket few requests, and are as safe as half a minute of work."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.adapters.packing import PackingStore
from metantk_core.errors import InputError
from metantk_core.ports import ArtifactStore


@dataclass(frozen=True)
class Counting(FilesystemStore):
    """A store that counts what is asked of it."""

    asked: Counter[str] = field(default_factory=Counter)

    def read(self, key: str) -> bytes | None:
        self.asked["read"] += 1
        return super().read(key)

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        self.asked["write"] += 1
        super().write(key, data, durable=durable)

    def exists(self, key: str) -> bool:
        self.asked["exists"] += 1
        return super().exists(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        self.asked["list"] += 1
        return super().keys(prefix)


@pytest.fixture
def bucket(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "bucket")


def test_a_pack_is_an_artifact_store(bucket: Counting):
    assert isinstance(PackingStore(bucket, "scores/"), ArtifactStore)


def test_a_thousand_small_files_are_one_request_and_all_are_read_with_two(bucket: Counting):
    with PackingStore(bucket, "scores/") as store:
        for number in range(1000):
            store.write(f"scores/a/{number}", str(number).encode(), durable=False)
        assert store.read("scores/a/7") == b"7"
    assert bucket.asked["write"] == 1
    bucket.asked.clear()
    again = PackingStore(bucket, "scores/")
    assert [again.read(f"scores/a/{number}") for number in range(1000)] == [str(n).encode() for n in range(1000)]
    assert all(again.read(f"scores/a/{number}") is None for number in range(1000, 2000))
    assert bucket.asked == {"list": 1, "read": 1}


def test_what_must_not_be_lost_and_what_is_elsewhere_is_written_at_once(bucket: Counting):
    store = PackingStore(bucket, "scores/")
    store.write("scores/a/index", b"")
    store.write("run/checkpoint", b"x", durable=False)
    assert FilesystemStore(bucket.root).read("scores/a/index") == b""
    assert FilesystemStore(bucket.root).read("run/checkpoint") == b"x"
    FilesystemStore(bucket.root).write("run/checkpoint", b"y")
    assert store.read("run/checkpoint") == b"y"


def test_a_file_is_held_back_no_longer_than_was_said_though_nothing_more_is_written(bucket: Counting):
    store = PackingStore(bucket, "scores/", seconds=0.2)
    store.write("scores/a/1", b"1", durable=False)
    assert PackingStore(bucket, "scores/").read("scores/a/1") is None
    until = time.monotonic() + 10
    while not list(FilesystemStore(bucket.root).keys()) and time.monotonic() < until:
        time.sleep(0.02)
    assert PackingStore(bucket, "scores/").read("scores/a/1") == b"1"


def test_large_files_are_not_held_back(bucket: Counting):
    store = PackingStore(bucket, "scores/", seconds=1000.0)
    for number in range(3):
        store.write(f"scores/a/{number}", bytes(4 * 2**20), durable=False)
    assert bucket.asked["write"] == 1


def test_the_last_one_wins_whether_packed_or_not(bucket: Counting):
    for number in range(3):
        with PackingStore(bucket, "scores/") as store:
            store.write("scores/a/1", str(number).encode(), durable=False)
    assert PackingStore(bucket, "scores/").read("scores/a/1") == b"2"
    store = PackingStore(bucket, "scores/")
    store.write("scores/a/1", b"held", durable=False)
    assert store.read("scores/a/1") == b"held"
    store.flush()
    assert store.read("scores/a/1") == b"held"


def test_packed_held_and_plain_files_are_listed_alike(bucket: Counting):
    with PackingStore(bucket, "scores/") as store:
        store.write("scores/a/packed", b"", durable=False)
    store = PackingStore(bucket, "scores/")
    store.write("scores/a/held", b"", durable=False)
    store.write("scores/a/plain", b"")
    store.write("scores/ab/other", b"")
    assert list(store.keys("scores/a/")) == ["scores/a/held", "scores/a/packed", "scores/a/plain"]
    assert list(store.keys("scores/a/p")) == ["scores/a/packed", "scores/a/plain"]
    assert list(store.keys("scores/a")) == [*store.keys("scores/a/"), "scores/ab/other"]
    assert all(map(store.exists, [*store.keys()]))


def test_several_writers_at_once_lose_nothing(bucket: Counting):
    def write(first: int) -> None:
        with PackingStore(bucket, "scores/", seconds=0.01) as store:
            for number in range(first, first + 100):
                store.write(f"scores/a/{number}", str(number).encode(), durable=False)
                time.sleep(0.001)

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = PackingStore(bucket, "scores/")
    assert len(list(store.keys("scores/a/"))) == 800
    assert all(store.read(f"scores/a/{number}") == str(number).encode() for number in range(800))


def test_many_packs_are_read_one_by_one_only_once(bucket: Counting):
    for number in range(40):
        with PackingStore(bucket, "scores/") as store:
            store.write(f"scores/a/{number}", str(number).encode(), durable=False)
    bucket.asked.clear()
    store = PackingStore(bucket, "scores/")
    assert [store.read(f"scores/a/{number}") for number in range(40)] == [str(n).encode() for n in range(40)]
    assert bucket.asked["read"] <= 18
    assert bucket.asked["write"] <= 1
    assert list(store.keys("scores/")) == sorted(f"scores/a/{number}" for number in range(40))


def test_a_damaged_pack_of_packs_is_done_without(bucket: Counting, caplog):
    for number in range(20):
        with PackingStore(bucket, "scores/") as store:
            store.write(f"scores/a/{number}", str(number).encode(), durable=False)
    (merged,) = (key for key in [*FilesystemStore(bucket.root).keys()] if ".pack-all" in key)
    FilesystemStore(bucket.root).write(merged, b"{")
    store = PackingStore(bucket, "scores/")
    assert [store.read(f"scores/a/{number}") for number in range(20)] == [str(n).encode() for n in range(20)]
    assert "damaged" in caplog.text


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"[1]\n", lambda data: b"{"])
def test_a_damaged_pack_is_warned_of_and_holds_nothing(bucket: Counting, damage, caplog):
    with PackingStore(bucket, "scores/") as store:
        store.write("scores/a/1", b"one", durable=False)
    (pack,) = FilesystemStore(bucket.root).keys()
    FilesystemStore(bucket.root).write(pack, damage(FilesystemStore(bucket.root).read(pack)))
    store = PackingStore(bucket, "scores/")
    assert store.read("scores/a/1") is None
    assert "damaged" in caplog.text
    store.write("scores/a/1", b"one", durable=False)
    assert store.read("scores/a/1") == b"one"
    store.flush()
    caplog.clear()
    assert PackingStore(bucket, "scores/").read("scores/a/1") == b"one"
    assert not caplog.text


def test_what_could_not_be_written_in_between_is_told_and_kept(bucket: Counting, monkeypatch: pytest.MonkeyPatch):
    store = PackingStore(bucket, "scores/", seconds=0.05)

    def refuse(*_: object, **__: object) -> None:
        raise InputError("The bucket is gone; make it again.")

    with monkeypatch.context() as patched:
        patched.setattr(Counting, "write", refuse)
        store.write("scores/a/1", b"1", durable=False)
        time.sleep(0.3)
        with pytest.raises(InputError, match="bucket is gone"):
            store.write("scores/a/2", b"2", durable=False)
    store.flush()
    assert PackingStore(bucket, "scores/").read("scores/a/1") == b"1"
