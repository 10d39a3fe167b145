"""What `metantk store` says of a store and does to it, asked of a folder and of a bucket."""

import json
import os
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from object_servers import BUCKET, Moto, SeaweedFS, environment, raw_client
from quiet import noise, quiet_ports, searched, tiny
from test_images_in_buckets import upload, write_tree
from typer.testing import CliRunner

from metantk_core import scores, upkeep, wiring
from metantk_core.adapters import s3
from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.adapters.s3 import S3Store
from metantk_core.command_line import app
from metantk_core.config import RunConfig
from metantk_core.datasets import load
from metantk_core.errors import InputError
from metantk_core.ports import ArtifactStore
from metantk_core.ranking import render_markdown
from metantk_core.scores import SCORES, Scorer
from metantk_core.upkeep import Amount, contents, prune, verify
from metantk_core.workflow import prepare_images
from metantk_core.workflow.runs import StoredCheckpoint
from metantk_core.workflow.unsent import Unsent

PASSING: tuple[Fault, ...] = ("internal error", "reset before", "reset in request", "lost answer", "reset in answer")


@pytest.fixture(params=["folder", "bucket behind a faulty proxy"])
def address(
    request: pytest.FixtureRequest, tmp_path: Path, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "store")
        return
    monkeypatch.setattr(s3, "_MOST_LOOKS", 2)  # of what is damaged, with a pause before each
    luck = random.Random(1)

    def choose(_: Request) -> Fault | None:
        return luck.choice(PASSING) if luck.random() < 0.07 else None

    with FaultyProxy(moto.address, choose) as proxy:
        for name, value in environment(proxy.address).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def store(address: str) -> ArtifactStore:
    return wiring.artifact_store(address)


def search_in(address: str, folder: Path) -> str:
    with wiring.opened_store(address) as store:
        ports = replace(quiet_ports(folder), store=store)
        return render_markdown(searched(tiny(), noise(), ports).leaderboard)


def own_images(root: Path, **changes: object) -> RunConfig:
    values = json.loads(tiny().to_json())
    values["data"] = {"source": "folder", "path": str(root), "image_size": 9, "channels": 3, **changes}
    return RunConfig.from_values(values, "the test")


def fill(address: str, store: ArtifactStore, folder: Path) -> str:
    """Put one of everything into a store, and return the leaderboard of a search."""
    board = search_in(address, folder)
    StoredCheckpoint(store, "training/2/0123456789abcdef.checkpoint").save(b"weights")
    prepare_images(own_images(write_tree(folder / "images")), folder / "out", store=store)
    unsent = Unsent(store, "tiny-01234567", "http://mlflow:5000")
    unsent.keep("log_metrics", run="a", points=[])
    unsent.keep("log_file", run="a", name="x", content=unsent.keep_file(b"a file"), folder="")
    unsent.mark(unsent.left()[0], {})
    store.write("tiny-01234567/leaderboard.json", b"{}")
    store.write("tiny-01234567/model.json", b"{}")
    store.write("somebody/else/a.json", b"{")
    return board


def test_everything_is_counted_by_what_it_is(address: str, store: ArtifactStore, tmp_path: Path):
    fill(address, store, tmp_path)
    found = contents(store)
    assert sum(amount.size for amount in found.values()) == sum(stored.size for stored in store.listing())
    counts = {kind: amount.count for kind, amount in found.items()}
    records = counts.pop(upkeep.RECORDS)
    packs = counts.pop(upkeep.PACKS)
    assert counts == {
        upkeep.RUNS: 2,  # the search's own, and the one above
        upkeep.CHECKPOINTS: 1,
        upkeep.DATASETS: 1,
        upkeep.UNSENT: 1,
        upkeep.OLDER: 0,
        upkeep.OTHER: 1,
    }
    assert packs >= 1 if address.startswith("s3") else packs == 0 < records


def test_a_store_that_is_whole_is_read_and_nothing_found(address: str, store: ArtifactStore, tmp_path: Path):
    fill(address, store, tmp_path)
    told: list[tuple[int, int]] = []
    found = verify(store, lambda done, total, detail="": told.append((done, total)))
    assert found.damaged == ()
    assert found.read.count == len(list(store.keys())) - 1  # not what is somebody else's
    assert told[0] == (0, 1)


def test_each_thing_that_was_changed_is_named(address: str, store: ArtifactStore, tmp_path: Path):
    fill(address, store, tmp_path)
    keys = list(store.keys())
    chosen = {
        "record": next(key for key in keys if key.endswith(".jsonl") or "/.pack" in key),
        "checkpoint": "training/2/0123456789abcdef.checkpoint",
        "pixels": next(key for key in keys if key.endswith("val_images.npy")),
        "call": next(key for key in keys if key.startswith("unsent/") and key.endswith(".json")),
        "file": next(key for key in keys if "/files/" in key),
        "run": "tiny-01234567/model.json",
    }
    for key in chosen.values():
        data = store.read(key)
        assert data is not None
        _damage(store, key, data[:-3] + bytes([data[-3] ^ 1]) if len(data) > 10 else b"{")
    found = verify(store)
    assert len(found.damaged) == len(chosen)
    said = "\n".join(f"{damage.place}: {damage.why}" for damage in found.damaged)
    for what, key in chosen.items():
        assert store.place(key if what != "pixels" else key.rpartition("/")[0]) in said, what


def test_what_was_changed_is_computed_again_and_replaced(address: str, store: ArtifactStore, tmp_path: Path):
    board = search_in(address, tmp_path)
    checkpoint = StoredCheckpoint(store, "training/2/0123456789abcdef.checkpoint")
    checkpoint.save(b"weights")
    for key in list(store.keys()):
        if "/index/" not in key and not key.endswith(".json"):
            _damage(store, key, b"other")
    assert search_in(address, tmp_path) == board
    assert checkpoint.load() is None
    checkpoint.save(b"weights")
    assert verify(store).damaged == ()


def test_what_no_run_needs_is_removed_and_nothing_else(
    address: str, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    board = fill(address, store, tmp_path)
    needed = set(store.keys())
    assert all(amount == Amount() for amount in prune(store, seconds=0.0).values())
    assert set(store.keys()) == needed
    older = ["scores/1/0123456789abcdef/a.jsonl", "scores/0123456789abcdef/a.jsonl", "training/1/a.checkpoint"]
    older += ["evaluation/0123456789abcdef.checkpoint", "prepared/0/a.json"]
    newer = ["scores/3/0123456789abcdef/a.jsonl", "prepared/2/a.json"]
    nowhere = ["scores/2/0123456789abcdef/a.jsonl", "scores/2/0123456789abcdef/.pack-1"]
    begun = [f"prepared/1/{32 * '0'}/train_images.npy"]
    for key in [*older, *newer, *nowhere, *begun]:
        store.write(key, b"data")
    found = prune(store, really=False, seconds=0.0)
    assert {what: amount.count for what, amount in found.items() if amount.count} == {
        "of older layouts": len(older),
        "records of older definitions": len(nowhere),
        "unfinished datasets": 1,
    }
    assert set(store.keys()) == needed | {*older, *newer, *nowhere, *begun}
    assert prune(store)["unfinished datasets"] == Amount()  # for a day somebody may be at it
    told: list[tuple[int, int]] = []
    assert prune(store, seconds=0.0, progress=lambda done, total, detail="": told.append((done, total))) == {
        **found,
        "of older layouts": Amount(),
        "records of older definitions": Amount(),
    }
    assert told[-1] == (1, 1)
    assert set(store.keys()) == needed | set(newer)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is scored again")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", _counted_only(Scorer.score, refuse))
        assert search_in(address, tmp_path) == board
    assert verify(store).damaged == ()


def test_records_of_a_score_whose_definition_has_changed_are_removed_and_others_stay(
    address: str, store: ArtifactStore, tmp_path: Path
):
    search_in(address, tmp_path)
    names = [name for name in tiny().scoring.scores if SCORES[name].cost != "none"]
    before = set(store.keys("scores/"))
    changed = {name: replace(SCORES[name], revision=SCORES[name].revision + 1) for name in names}
    with patch.object(scores, "SCORES", {**SCORES, names[0]: changed[names[0]]}):
        found = prune(store)["records of older definitions"]
    entries = {key for key in before if "/index/" in key}
    left = set(store.keys("scores/"))
    # Computed together with others: what these read stays.
    assert before - left == {key for key in entries if key not in left}
    assert found.count == len(before - left) == len(entries) // len(names)
    with patch.object(scores, "SCORES", {**SCORES, **changed}):
        prune(store)
    assert list(store.keys("scores/")) == []


def test_parts_of_large_objects_that_were_never_finished_are_removed_when_they_are_old(
    seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment(seaweedfs.address).items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex
    store, client = wiring.artifact_store(f"s3://{BUCKET}/{prefix}"), raw_client(seaweedfs.address)
    for number in range(3):
        where = {"Bucket": BUCKET, "Key": f"{prefix}/ü {number}"}
        upload = client.create_multipart_upload(**where)["UploadId"]
        client.upload_part(**where, UploadId=upload, PartNumber=1, Body=bytes(1000))
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}-of-others")
    assert prune(store)["unfinished uploads and files"] == Amount()
    assert prune(store, really=False, seconds=0.0)["unfinished uploads and files"] == Amount(3, 3000)
    assert prune(store, seconds=0.0)["unfinished uploads and files"] == Amount(3, 3000)
    assert prune(store, seconds=0.0)["unfinished uploads and files"] == Amount()
    assert len(client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}-")["Uploads"]) == 1


def test_a_thousand_objects_are_removed_with_one_request_and_a_server_without_that_one_by_one(
    moto: Moto, monkeypatch: pytest.MonkeyPatch
):
    with FaultyProxy(moto.address) as proxy:
        for name, value in environment(proxy.address).items():
            monkeypatch.setenv(name, value)
        store = wiring.artifact_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        store.delete([f"a/{number}" for number in range(1500)])
        assert [seen.method for seen in proxy.seen] == ["GET", "POST", "POST"]
        store.write("b", b"")
        proxy.choose = lambda seen: "no such request" if seen.method == "POST" else None
        store.delete(["b", "c"])
        assert list(store.keys()) == []


# Prepared data sets


def test_a_prepared_dataset_is_taken_from_the_store_and_never_prepared_again(
    address: str, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = own_images(write_tree(tmp_path / "images"))
    first = prepare_images(config, tmp_path / "first", store=store)
    with monkeypatch.context() as patched:
        patched.setattr("metantk_core.datasets.store.write", _never)
        second = prepare_images(config, tmp_path / "second", store=wiring.artifact_store(address))
        third = prepare_images(config, tmp_path / "third" / "out", cache=tmp_path / "third", store=store)
    assert first.digest == second.digest == third.digest
    assert (second.train.take([3]) == first.train.take([3])).all()
    if isinstance(store, FilesystemStore):  # on one disk they are the same files
        inodes = {os.stat(path).st_ino for path in tmp_path.rglob("train_images.npy")}
        assert len(inodes) == 1
    assert len(list(store.keys())) == 10


def test_what_a_machine_has_prepared_before_it_knew_the_store_is_there_for_others(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = own_images(write_tree(tmp_path / "images"))
    prepare_images(config, tmp_path / "first")
    prepare_images(config, tmp_path / "first", store=store)
    monkeypatch.setattr("metantk_core.datasets.store.write", _never)
    prepare_images(config, tmp_path / "second", store=store)


def test_equal_images_of_another_place_and_settings_of_another_size_are_told_apart(
    store: ArtifactStore, tmp_path: Path, moto: Moto, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment(moto.address).items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    monkeypatch.setenv("METANTK_CACHE_SIZE", "0")
    root = write_tree(tmp_path / "images")
    address = upload(root, moto.address)
    here = prepare_images(own_images(root), tmp_path / "here", store=store)
    there = prepare_images(own_images(root, path=address), tmp_path / "there", images=wiring.images, store=store)
    assert there.digest == here.digest
    assert load(tmp_path / "there").name == address.rpartition("/")[2]
    assert len([key for key in list(store.keys()) if key.endswith("train_images.npy")]) == 1
    assert prepare_images(own_images(root, image_size=10), tmp_path / "large", store=store).train.image_shape == (
        3,
        10,
        10,
    )
    assert contents(store)[upkeep.DATASETS].count == 3


def _prepare(work: tuple[str, str, str]) -> tuple[str, str]:
    root, out, address = work
    found = prepare_images(own_images(Path(root)), Path(out), store=wiring.artifact_store(address))
    return found.digest, found.name


def test_of_several_that_prepare_at_once_all_end_with_one(address: str, store: ArtifactStore, tmp_path: Path):
    root = write_tree(tmp_path / "images")
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(_prepare, [(str(root), str(tmp_path / f"out {n}"), address) for n in range(4)]))
    assert len(found) == 1
    assert contents(store)[upkeep.DATASETS].count == 1
    assert len(list(store.keys())) == 10
    assert verify(store).damaged == ()


def test_of_two_that_make_different_pixels_of_the_same_files_the_first_is_what_all_use(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = write_tree(tmp_path / "images")
    first = prepare_images(own_images(root), tmp_path / "first", store=store)
    with monkeypatch.context() as patched:  # it looks, finds nothing, and is slower
        patched.setattr("metantk_core.workflow.prepared.StoredDatasets.take", _then_as_before(patched))
        patched.setattr("metantk_core.datasets.decoding.to_array", _brighter)
        second = prepare_images(own_images(root), tmp_path / "second", store=store)
    assert second.digest == first.digest
    assert (second.train.take([0]) == first.train.take([0])).all()


@pytest.mark.parametrize("what", ["train_images.npy", "test_labels.npy", ".json"])
def test_a_damaged_dataset_in_the_store_is_prepared_again_and_replaced(
    what: str, store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = own_images(write_tree(tmp_path / "images"))
    first = prepare_images(config, tmp_path / "first", store=store)
    key = next(key for key in list(store.keys()) if key.endswith(what))
    data = store.read(key)
    assert data is not None
    _damage(store, key, data[:-1] + bytes([data[-1] ^ 1]))
    assert prepare_images(config, tmp_path / "second", store=store).digest == first.digest
    assert "prepared again" in caplog.text
    assert verify(store).damaged == ()
    caplog.clear()
    assert prepare_images(config, tmp_path / "third", store=store).digest == first.digest
    assert caplog.text == ""


def test_a_prepared_dataset_costs_few_requests(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = own_images(write_tree(tmp_path / "images"))
    with FaultyProxy(moto.address) as proxy:
        for name, value in environment(proxy.address).items():
            monkeypatch.setenv(name, value)
        store = wiring.artifact_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        counts = []
        for folder in ("first", "first", "second"):
            proxy.seen.clear()
            prepare_images(config, tmp_path / folder, store=store)
            listed = [seen for seen in proxy.seen if "list-type" in seen.target]
            counts.append((len(proxy.seen) - len(listed), min(len(listed), 1)))  # lists come in pages of seven here
    assert counts == [(1 + 9 + 2, 1), (1, 0), (1 + 2 * 9, 1)]


# The commands


def test_the_commands_say_what_they_found_and_end_as_scripts_expect(address: str, store: ArtifactStore, tmp_path: Path):
    fill(address, store, tmp_path)
    run = CliRunner().invoke
    listed = run(app, ["store", "ls", "--store", address, "--json"])
    assert listed.exit_code == 0
    assert json.loads(listed.stdout)["contents"][upkeep.DATASETS]["count"] == 1
    shown = run(app, ["store", "ls", "--store", address]).stdout
    assert "prepared datasets" in shown
    assert upkeep.OLDER not in shown
    assert run(app, ["store", "verify", "--store", address]).exit_code == 0
    store.write("scores/1/0123456789abcdef/a.jsonl", b"data")
    dry = run(app, ["store", "prune", "--store", address, "--dry-run", "--json"])
    assert json.loads(dry.stdout)["removed"]["of older layouts"] == {"count": 1, "size": 4}
    assert store.exists("scores/1/0123456789abcdef/a.jsonl")
    assert "Removed from" in run(app, ["store", "prune", "--store", address]).stdout
    assert not store.exists("scores/1/0123456789abcdef/a.jsonl")
    _damage(store, "training/2/0123456789abcdef.checkpoint", b"other")
    bad = run(app, ["store", "verify", "--store", address, "--json"])
    assert bad.exit_code == 1
    assert [damage["place"] for damage in json.loads(bad.stdout)["damaged"]] == [
        store.place("training/2/0123456789abcdef.checkpoint")
    ]


def test_a_store_that_is_not_there_is_a_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such folder"):
        CliRunner().invoke(app, ["store", "ls", "--store", str(tmp_path / "no")], catch_exceptions=False)


def _never(*_: object) -> None:
    raise AssertionError("it is prepared again")


def _then_as_before(patched: pytest.MonkeyPatch):
    from metantk_core.workflow.prepared import StoredDatasets

    before = StoredDatasets.take

    def take(self, identity, directory, progress):
        patched.setattr(StoredDatasets, "take", before)
        return False

    return take


def _brighter(image, image_size, channels):
    from metantk_core.datasets.sources import to_array

    return to_array(image, image_size, channels) ^ 1


def _counted_only(score, refuse):
    def counted(self, architecture, repeats, stream="", weights="", names=None):
        if any(SCORES[name].cost != "none" for name in names or ()):
            refuse()
        return score(self, architecture, repeats, stream, weights, names)

    return counted


def _damage(store: ArtifactStore, key: str, data: bytes) -> None:
    """Change what is stored behind the store's back."""
    if isinstance(store, S3Store):
        where = store._where(key)

        def ask() -> None:
            there = store.client.head_object(**where)
            store.client.put_object(**where, Body=data, Metadata=there["Metadata"])

        store._asked("write", key, ask)
    else:
        path = Path(store.place(key))
        path.unlink()  # it may be the file of a prepared data set, too
        path.write_bytes(data)


def test_a_folder_that_looks_like_a_login_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["store", "ls", "--workspace", "bob:x/hunter2@host"])
    said = done.output + str(done.exception)
    assert "which may hold a password, is not shown" in said
    assert "hunter2" not in said
