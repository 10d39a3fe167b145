"""What every artifact store promises, asked of a folder and of buckets; and progress files, kept as a folder's are."""

import io
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_servers import BUCKET, environment

from metantk_core import files, wiring
from metantk_core.adapters import progress
from metantk_core.adapters.progress import ProgressFile, ProgressLines, read_progress
from metantk_core.errors import InputError
from metantk_core.ports import ArtifactStore, Leftovers

PASSING: tuple[Fault, ...] = ("internal error", "reset before", "reset in request", "lost answer", "reset in answer")


@pytest.fixture(params=["path", "file URI", "moto", "moto behind a faulty proxy", "SeaweedFS"])
def store_at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a place where stores are; whatever is below it is a store of its own."""
    if request.param in ("path", "file URI"):
        yield f"{'' if request.param == 'path' else 'file://'}{tmp_path / 'a new folder'}"
        return
    server = request.getfixturevalue("moto" if "moto" in request.param else "seaweedfs")
    luck = random.Random(0)

    def choose(_: Request) -> Fault | None:
        return luck.choice(PASSING) if luck.random() < 0.2 else None

    with FaultyProxy(server.address, choose) as proxy:
        address = proxy.address if "proxy" in request.param else server.address
        for name, value in environment(address).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def store(store_at: str) -> ArtifactStore:
    return wiring.artifact_store(store_at)


def test_what_was_written_is_read_and_the_last_one_wins(store: ArtifactStore):
    assert store.read("run/scores/0.jsonl") is None
    assert not store.exists("run/scores/0.jsonl")
    store.write("run/scores/0.jsonl", b"old")
    store.write("run/scores/0.jsonl", b"\x00new\xff")
    assert store.read("run/scores/0.jsonl") == b"\x00new\xff"
    assert store.exists("run/scores/0.jsonl")


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_bytes_come_back_as_they_were(store: ArtifactStore, size: int):
    data = random.Random(size).randbytes(size)
    store.write("run/a", data)
    assert store.read("run/a") == data
    assert store.exists("run/a")
    assert list(store.keys()) == ["run/a"]


def test_of_several_who_create_one_thing_one_is_first_and_all_get_what_that_one_wrote(store: ArtifactStore):
    contents = [f"content {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda content: store.create("run/a", content), contents))
    assert len(found) == 1
    assert found == {store.read("run/a")}
    assert found <= set(contents)
    assert store.create("run/b", b"alone") == b"alone"


@pytest.mark.parametrize("size", [0, 1, 3_000_000, 40_000_000])
def test_files_of_any_size_are_stored_and_come_back(store: ArtifactStore, size: int, tmp_path: Path):
    if size > 3_000_000 and not hasattr(store, "client"):
        pytest.skip("a folder knows no sizes")
    source, target = tmp_path / "source", tmp_path / "a" / "folder" / "target"
    source.write_bytes(random.Random(size).randbytes(size))
    heard: list[int] = []
    store.write_file("run/large", source, heard.append)
    assert sum(heard) == size
    heard.clear()
    assert store.read_into("run/large", target, heard.append)
    assert target.read_bytes() == source.read_bytes()
    assert sum(heard) >= size  # what comes torn comes again
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    if size <= 3_000_000:
        assert store.read("run/large") == source.read_bytes()
    assert store.read_into("run/large", target)
    assert not store.read_into("run/nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert [(stored.key, stored.size) for stored in store.listing("run/")] == [("run/large", size)]


def test_what_is_deleted_is_gone_and_nothing_else(store: ArtifactStore):
    for number in range(25):
        store.write(f"run/ü {number}", b"data")
    store.delete([f"run/ü {number}" for number in range(24)])
    store.delete(["run/ü 0", "never/there"])
    store.delete([])
    assert list(store.keys()) == ["run/ü 24"]
    assert store.read("run/ü 0") is None
    store.write("run/ü 0", b"again")
    assert store.read("run/ü 0") == b"again"


def test_a_listing_says_how_large_things_are_and_how_old(store: ArtifactStore):
    store.write("a", b"12345")
    store.write("b/c", b"")
    first, second = store.listing()
    assert (first.key, first.size) == ("a", 5)
    assert (second.key, second.size) == ("b/c", 0)
    assert -2 < first.seconds < 60
    assert [stored.key for stored in store.listing("b")] == ["b/c"]


def test_what_one_process_wrote_another_one_reads(store_at: str):
    wiring.artifact_store(store_at).write("run/a", b"data")
    again = wiring.artifact_store(store_at)
    assert again.read("run/a") == b"data"
    assert again.place("run/a") == wiring.artifact_store(store_at).place("run/a")


def test_stores_side_by_side_share_nothing_even_if_their_names_begin_alike(store_at: str):
    first, second = (wiring.artifact_store(f"{store_at}/{name}") for name in ("run", "run2"))
    first.write("a", b"1")
    second.write("a", b"2")
    second.write("b", b"2")
    assert list(first.keys()) == ["a"]
    assert first.read("a") == b"1"
    assert first.read("b") is None
    assert list(second.keys()) == ["a", "b"]
    assert len({store.place("a") for store in (first, second)}) == 2


def test_keys_come_sorted_and_by_prefix(store: ArtifactStore):
    assert list(store.keys()) == []
    for key in ("b/2", "b/10", "a", "b/c/1", "bc/1"):
        store.write(key, b"")
    assert list(store.keys()) == ["a", "b/10", "b/2", "b/c/1", "bc/1"]
    assert list(store.keys("b/")) == ["b/10", "b/2", "b/c/1"]
    assert list(store.keys("b")) == ["b/10", "b/2", "b/c/1", "bc/1"]
    assert list(store.keys("b/1")) == ["b/10"]
    assert list(store.keys("nothing/here")) == []


def test_all_of_many_keys_are_listed(store: ArtifactStore):
    keys = sorted(f"run/{number}/{number % 5}" for number in range(40))
    for key in keys:
        store.write(key, key.encode())
    assert list(store.keys()) == keys
    assert list(store.keys("run/3")) == [key for key in keys if key.startswith("run/3")]


def test_a_folder_of_keys_is_no_key(store: ArtifactStore):
    store.write("run/scores", b"")
    assert store.read("run") is None
    assert store.read("run/scores/0") is None
    assert not store.exists("run")


def test_a_key_never_leads_out_of_the_store(store: ArtifactStore):
    keys = ("", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b", "a/.unfinished-b")
    uses = (store.read, store.exists, store.place, lambda key: store.write(key, b""), lambda key: store.delete([key]))
    for key, use in product(keys, uses):
        with pytest.raises(ValueError, match="A key is a relative path"):
            use(key)


@settings(deadline=None, max_examples=50)
@given(key=st.text(max_size=12))
def test_any_text_is_refused_or_stays_inside(tmp_path_factory: pytest.TempPathFactory, key: str):
    outside = tmp_path_factory.mktemp("outside")
    store = wiring.artifact_store(str(outside / "root"))
    try:
        store.write(key, b"data")
    except (ValueError, UnicodeError):
        return
    assert store.read(key) == b"data"
    assert [path.name for path in outside.iterdir()] == ["root"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_key_of_any_characters_is_refused_or_comes_back_as_it_was(store: ArtifactStore, key: str):
    try:
        store.write(key, b"data")
    except ValueError:
        return
    assert store.read(key) == b"data"
    listed = list(store.keys(key))
    assert key in listed
    assert all(other.startswith(key) for other in listed)


def test_an_interrupted_write_leaves_the_old_content_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = wiring.artifact_store(str(tmp_path))
    store.write("a", b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_crash_left_unfinished_is_no_key(tmp_path: Path):
    store = wiring.artifact_store(str(tmp_path))
    store.write("run/a", b"")
    (tmp_path / "run" / ".unfinished-1234").write_bytes(b"half")
    assert list(store.keys()) == ["run/a"]


def test_what_a_killed_writer_left_is_found_and_removed_and_what_a_living_one_writes_stays(tmp_path: Path):
    store = wiring.artifact_store(str(tmp_path))
    store.write("run/a", b"data")
    left = tmp_path / "run" / ".unfinished-1234"
    left.write_bytes(b"half")
    assert store.clear_unfinished(0.0) == Leftovers(0, 0)  # somebody may have made it just now
    os.utime(left, (0, 0))
    with files.written_atomically(tmp_path / "run" / "b") as living:
        living.write(b"12345678")
        living.flush()
        os.utime(living.name, (0, 0))
        assert store.clear_unfinished(0.0, really=False) == Leftovers(1, 4)
        assert left.exists()
        assert store.clear_unfinished(0.0) == Leftovers(1, 4)
    assert not left.exists()
    assert list(store.keys()) == ["run/a", "run/b"]


def test_readers_never_see_half_of_what_is_written(store: ArtifactStore):
    contents = [bytes([letter]) * 200_000 for letter in range(4)]
    store.write("a", contents[0])
    writers = [
        threading.Thread(target=lambda data=data: [store.write("a", data) for _ in range(20)]) for data in contents
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(store.read("a"))
    assert seen <= set(contents)
    assert store.read("a") in contents


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="Can't write to /proc/metantk"):
        wiring.artifact_store("/proc/metantk").write("a", b"")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(InputError, match="taken"):
        wiring.artifact_store(str(tmp_path / "taken")).write("a", b"")


@pytest.mark.parametrize("uri", ["", "gs://bucket", "http://me:secret@host/x"])
def test_an_address_that_is_neither_folder_nor_bucket_is_refused(uri: str):
    with pytest.raises(InputError, match=r"An artifact store is a folder .* or a bucket") as caught:
        wiring.artifact_store(uri)
    assert "secret" not in str(caught.value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_the_first_and_the_last_news_are_always_written_and_few_between(tmp_path: Path, clock):
    report = ProgressFile(tmp_path / "progress", "score/shard 0")
    seen = []
    for done in range(11):
        report(done, 10, f"unit {done}")
        seen.append(read_progress(tmp_path / "progress")[0].done)
        clock(0.1)
    assert seen[0] == 0
    assert seen[-1] == 10
    assert len(set(seen)) <= 6


def test_time_left_counts_only_work_done_in_this_attempt(tmp_path: Path, clock):
    report = ProgressFile(tmp_path, "train")
    report(80, 100)
    assert read_progress(tmp_path)[0].seconds_left is None
    clock(10)
    report(90, 100)
    (step,) = read_progress(tmp_path)
    assert step.seconds_left == pytest.approx(10)
    assert not step.finished
    report(100, 100)
    assert read_progress(tmp_path)[0].finished


def test_steps_are_shown_in_the_order_in_which_they_began(tmp_path: Path, clock):
    for step in ("z first", "a second"):
        ProgressFile(tmp_path, step)(0, 1)
        clock(1)
    (tmp_path / "failure.json").write_text('{"sentence": "no"}')
    (tmp_path / "broken.json").write_text("{")
    assert [step.step for step in read_progress(tmp_path)] == ["z first", "a second"]
    assert read_progress(tmp_path / "not there") == ()


def test_lines_say_share_and_time_left_every_few_seconds(clock):
    stream = io.StringIO()
    report = ProgressLines(stream, "score")
    for done in range(5):
        report(done, 4, "0.31" if done else "")
        clock(3)
    assert stream.getvalue().splitlines() == [
        "score: 0/4 (0%)",
        "score: 2/4 (50%), about 6 s left, 0.31",
        "score: 4/4 (100%), done in 12 s, 0.31",
    ]
