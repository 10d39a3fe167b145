"""What every artifact store promises, asked of the one in a folder; and progress files, which are kept the same way."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metantk_core import wiring
from metantk_core.adapters import filesystem, progress
from metantk_core.adapters.progress import ProgressFile, ProgressLines, read_progress
from metantk_core.errors import InputError
from metantk_core.registry import ArtifactStore


@pytest.fixture(params=["path", "file URI"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = tmp_path / "a new folder"
    return wiring.artifact_store(str(root) if request.param == "path" else f"file://{root}")


def test_what_was_written_is_read_and_the_last_one_wins(store: ArtifactStore):
    assert store.read("run/scores/0.jsonl") is None
    assert not store.exists("run/scores/0.jsonl")
    store.write("run/scores/0.jsonl", b"old")
    store.write("run/scores/0.jsonl", b"\x00new\xff")
    assert store.read("run/scores/0.jsonl") == b"\x00new\xff"
    assert store.exists("run/scores/0.jsonl")


def test_keys_come_sorted_and_by_prefix(store: ArtifactStore):
    assert list(store.keys()) == []
    for key in ("b/2", "b/10", "a", "b/c/1", "bc/1"):
        store.write(key, b"")
    assert list(store.keys()) == ["a", "b/10", "b/2", "b/c/1", "bc/1"]
    assert list(store.keys("b/")) == ["b/10", "b/2", "b/c/1"]
    assert list(store.keys("b")) == ["b/10", "b/2", "b/c/1", "bc/1"]
    assert list(store.keys("b/1")) == ["b/10"]
    assert list(store.keys("nothing/here")) == []


def test_a_folder_of_keys_is_no_key(store: ArtifactStore):
    store.write("run/scores", b"")
    assert store.read("run") is None
    assert store.read("run/scores/0") is None
    assert not store.exists("run")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_a_key_never_leads_out_of_the_store(store: ArtifactStore, key: str):
    for use in (store.read, store.exists, lambda key: store.write(key, b"")):
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


def test_an_interrupted_write_leaves_the_old_content_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = wiring.artifact_store(str(tmp_path))
    store.write("a", b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(filesystem.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_crash_left_unfinished_is_no_key(tmp_path: Path):
    store = wiring.artifact_store(str(tmp_path))
    store.write("run/a", b"")
    (tmp_path / "run" / ".unfinished-1234").write_bytes(b"half")
    assert list(store.keys()) == ["run/a"]


def test_readers_never_see_half_a_file(tmp_path: Path):
    store = wiring.artifact_store(str(tmp_path))
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


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="Can't write to /proc/metantk"):
        wiring.artifact_store("/proc/metantk").write("a", b"")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(InputError, match="taken"):
        wiring.artifact_store(str(tmp_path / "taken")).write("a", b"")


@pytest.mark.parametrize("uri", ["", "s3://bucket", "http://me:secret@host/x"])
def test_an_address_that_is_no_folder_is_refused(uri: str):
    with pytest.raises(InputError, match="An artifact store is a folder") as caught:
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
