"""Images in a bucket are read as from a folder: the same data set, whatever the network does; and kept on disk."""

import fcntl
import io
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from made_layouts import MADE
from object_servers import BUCKET, READER, READERS_SECRET, SECRET, Moto, SeaweedFS, environment, raw_client
from PIL import Image

from metantk_core import wiring
from metantk_core.adapters import s3_images
from metantk_core.adapters.pieces import Pieces, pieces
from metantk_core.adapters.s3_images import BucketPlace, connect_images
from metantk_core.adapters.s3_requests import Patience
from metantk_core.datasets import SPLITS, DataConfig, ImageDataset, prepare
from metantk_core.errors import InputError

CELL = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
QUICK = Patience(connect=1.0, read=1.0, total=20.0)
PASSING: tuple[Fault, ...] = ("internal error", "reset before", "lost answer", "reset in answer", "torn answer")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METANTK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(address: str, **account: str) -> None:
        for name, value in environment(address, **account).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def proxy(moto: Moto, use: Any) -> Iterator[FaultyProxy]:
    """A proxy before moto, through which everything goes."""
    with FaultyProxy(moto.address) as proxy:
        use(proxy.address)
        yield proxy


def write_tree(root: Path, classes: int = 2, images: int = 3) -> Path:
    for number, split in enumerate(SPLITS):
        for name in range(classes):
            folder = root / split / f"ü {number}-{name}"
            folder.mkdir(parents=True)
            for image in range(images):
                pixels = np.random.default_rng([number, name, image]).integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
    return root


def write_archives(root: Path, images: int = 8, size: int = 9) -> Path:
    root.mkdir(parents=True)
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (images, size, size, 3), np.uint8)
        np.savez(root / f"{split}.npz", labels=10 * number + np.arange(images) % 2, images=pixels)
    return root


def upload(root: Path, address: str) -> str:
    """Put a folder into the bucket, and return the address of it there."""
    prefix, client = uuid.uuid4().hex, raw_client(address)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


def config(path: object, source: str = "folder") -> DataConfig:
    return DataConfig(source=source, path=str(path), image_size=9, channels=3)  # pyright: ignore[reportArgumentType]


def prepared(path: object, out: Path, source: str = "folder") -> ImageDataset:
    return prepare(config(path, source), out, place=wiring.images(str(path)))


def refusal(path: str, out: Path, source: str = "folder") -> str:
    with pytest.raises(InputError) as caught:
        prepared(path, out, source)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    assert not out.exists()
    return text


# The same as a folder


@pytest.mark.parametrize("kind", MADE)
def test_every_layout_is_in_a_bucket_what_it_is_on_disk(moto, use, tmp_path, kind):
    use(moto.address)
    (tmp_path / "images").mkdir()
    MADE[kind](tmp_path / "images")
    near = prepared(tmp_path / "images", tmp_path / "near", "auto")
    far = prepared(upload(tmp_path / "images", moto.address), tmp_path / "far", "auto")
    assert (far.digest, far.kind, far.layout, far.assumptions) == (
        near.digest,
        near.kind,
        near.layout,
        near.assumptions,
    )


@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
@pytest.mark.parametrize(("source", "write"), [("folder", write_tree), ("npz", write_archives)])
def test_images_in_a_bucket_are_the_data_set_that_they_are_in_a_folder(
    server: str, source: str, write: Any, request: Any, use: Any, tmp_path: Path
):
    address = request.getfixturevalue(server).address
    use(address)
    root = write(tmp_path / "images")
    path = upload(root, address)
    there, here = prepared(path, tmp_path / "there", source), prepared(root, tmp_path / "here", source)
    assert there.digest == here.digest
    assert there.train.class_names == here.train.class_names
    assert there.name == path.rpartition("/")[2]


def test_an_account_that_may_only_read_can_read(seaweedfs: SeaweedFS, use: Any, tmp_path: Path):
    path = upload(write_tree(tmp_path / "images"), seaweedfs.address)
    use(seaweedfs.address, user=READER, secret=READERS_SECRET)
    assert len(prepared(path, tmp_path / "out").train) == 6


def test_the_whole_bucket_may_hold_the_images(moto: Moto, use: Any, tmp_path: Path):
    bucket = f"bucket-{uuid.uuid4().hex}"
    client = raw_client(moto.address)
    client.create_bucket(Bucket=bucket)
    for split in SPLITS:
        for name in "ab":
            data = io.BytesIO()
            pixels = np.random.default_rng([ord(name), SPLITS.index(split)]).integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(data, "PNG")
            client.put_object(Bucket=bucket, Key=f"{split}/{split}-{name}/1.png", Body=data.getvalue())
    client.put_object(Bucket=bucket, Key="train/", Body=b"")  # as programs make that know folders
    client.put_object(Bucket=bucket, Key="train/notes.txt", Body=b"")
    client.put_object(Bucket=bucket, Key="train/train-a/.hidden.png", Body=b"")
    use(moto.address)
    for path in (f"s3://{bucket}", f"s3://{bucket}/"):
        assert prepared(path, tmp_path / uuid.uuid4().hex).train.class_names == ("train-a", "train-b")


def test_images_are_known_without_reading_them_and_read_once(proxy: FaultyProxy, moto: Moto, tmp_path: Path):
    root = write_tree(tmp_path / "images")
    path = upload(root, moto.address)
    first = prepared(path, tmp_path / "out")
    assert Counter(seen.method for seen in proxy.seen)["GET"] == 18 + 3 + 1  # images; pages of seven; is it there?
    proxy.seen.clear()
    assert prepared(path, tmp_path / "out").digest == first.digest
    assert len(proxy.seen) == 4
    proxy.seen.clear()
    assert prepared(path, tmp_path / "elsewhere").digest == first.digest  # from the cache
    assert len(proxy.seen) == 4


def test_a_changed_object_is_another_data_set_and_the_others_are_not_read_again(
    proxy: FaultyProxy, moto: Moto, tmp_path: Path
):
    path = upload(write_tree(tmp_path / "images"), moto.address)
    first = prepared(path, tmp_path / "out")
    other = write_tree(tmp_path / "others", images=4) / "train" / "ü 0-0" / "3.png"
    name = f"{path.removeprefix(f's3://{BUCKET}/')}/train/ü 0-0/1.png"
    raw_client(moto.address).put_object(Bucket=BUCKET, Key=name, Body=other.read_bytes())
    proxy.seen.clear()
    assert prepared(path, tmp_path / "out").digest != first.digest
    assert len(proxy.seen) == 4 + 1


# A large file


def test_a_file_larger_than_the_cache_is_read_with_little_memory_and_any_part_of_it_alone(
    proxy: FaultyProxy, moto: Moto, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3_images, "_PIECE", 2**16)
    monkeypatch.setenv("METANTK_CACHE_SIZE", "300kB")
    root = write_archives(tmp_path / "arrays", images=1500, size=16)
    path = upload(root, moto.address)
    size = (root / "train.npz").stat().st_size
    assert size > 1_000_000
    place = wiring.images(path)
    assert place is not None
    content = (root / "train.npz").read_bytes()
    with place.open("train.npz") as file:
        file.seek(-10, io.SEEK_END)
        assert file.read() == content[-10:]
        file.seek(70_000)
        assert file.read(5) == content[70_000:70_005]
        assert sum("range" in str(seen.fields) for seen in proxy.seen) == 2
        file.seek(0)
        assert file.read() == content
        file.seek(size + 5)
        assert file.read(3) == b""
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)
    assert prepared(path, tmp_path / "there", "npz").digest == prepared(root, tmp_path / "here", "npz").digest
    assert sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) <= 300_000


# What goes wrong


def test_a_fifth_of_all_requests_fail_and_nothing_is_lost_or_torn(moto: Moto, use: Any, tmp_path: Path):
    luck = random.Random(7)
    root = write_tree(tmp_path / "images", classes=4, images=10)
    path = upload(root, moto.address)
    with FaultyProxy(moto.address, lambda _: luck.choice(PASSING) if luck.random() < 0.2 else None) as proxy:
        use(proxy.address)
        bucket, prefix = path.removeprefix("s3://").split("/")
        place = connect_images(bucket, prefix, QUICK)
        there = prepare(config(path), tmp_path / "there", place=place)
        assert sum(proxy.done.values()) - proxy.done["passed on"] > 20
        assert proxy.done["torn answer"]
    assert there.digest == prepared(root, tmp_path / "here").digest


def test_what_is_not_there_or_not_allowed_is_a_sentence(
    seaweedfs: SeaweedFS, use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    use(seaweedfs.address)
    assert refusal(f"s3://{BUCKET}/no/such/prefix", out).startswith(f"No folder 's3://{BUCKET}/no/such/prefix'")
    assert "there is no such bucket" in refusal("s3://no-such-bucket/images", out)
    root = write_tree(tmp_path / "images")
    path = upload(root, seaweedfs.address)
    assert f"no file '{path}/train.npz'" in refusal(path, out, "npz")
    assert f"Split 'train' is missing: no folder '{path}/train/train'" in refusal(f"{path}/train", out)
    use(seaweedfs.address, secret="a-wrong-secret")
    assert "the secret key is not the one" in refusal(path, out)
    monkeypatch.setenv("METANTK_CACHE_SIZE", "plenty")
    use(seaweedfs.address)
    assert "Expected a size such as 10GB" in refusal(path, out)


@pytest.mark.parametrize("how", ["removed", "replaced", "replaced by one of the same size"])
def test_an_object_that_goes_or_changes_half_way_ends_the_command_with_its_name(
    how: str, moto: Moto, use: Any, tmp_path: Path
):
    use(moto.address)
    path = upload(write_tree(tmp_path / "images"), moto.address)
    place = wiring.images(path)
    assert place is not None
    assert place.holds_folder()
    name = f"{path.removeprefix(f's3://{BUCKET}/')}/val/ü 1-0/2.png"
    client = raw_client(moto.address)
    body = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    if how == "removed":
        client.delete_object(Bucket=BUCKET, Key=name)
    else:
        client.put_object(Bucket=BUCKET, Key=name, Body=body[::-1] if "size" in how else b"another")
    with pytest.raises(InputError, match=r"val/ü 1-0/2\.png was changed or removed while the data set was read"):
        prepare(config(path), tmp_path / "out", place=place)
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_named_and_is_read_again_when_it_is_repaired(moto: Moto, use: Any, tmp_path: Path):
    use(moto.address)
    root = write_tree(tmp_path / "images")
    (root / "test" / "ü 2-1" / "0.png").write_bytes(b"no image")
    path = upload(root, moto.address)
    said = refusal(path, tmp_path / "out")
    assert said.startswith(f"Image '{path}/test/ü 2-1/0.png' can't be read")


def test_a_server_that_goes_away_half_way_is_waited_for_and_then_named(proxy: FaultyProxy, moto: Moto, tmp_path: Path):
    root = write_tree(tmp_path / "images", classes=4, images=10)
    path = upload(root, moto.address)
    bucket, prefix = path.removeprefix("s3://").split("/")
    asked = [0]

    def choose(seen: Request) -> Fault | None:
        asked[0] += ".png" in seen.target
        return "reset before" if asked[0] > 60 else None

    place = connect_images(bucket, prefix, Patience(1.0, 1.0, 1.0))
    proxy.choose = choose
    with pytest.raises(InputError, match=r"Can't read images from s3://.*the connection breaks off.*is kept"):
        prepare(config(path), tmp_path / "out", place=place)
    proxy.choose = lambda _: None
    proxy.seen.clear()
    assert prepared(path, tmp_path / "out").digest == prepared(root, tmp_path / "here").digest
    assert sum(".png" in seen.target for seen in proxy.seen) <= 120 - 60 + 5  # a few whose answers broke off in the end


def test_a_killed_command_costs_what_was_under_way(proxy: FaultyProxy, moto: Moto, tmp_path: Path):
    root = write_tree(tmp_path / "images", classes=5, images=20)
    path = upload(root, moto.address)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from metantk_core import wiring; "
            "from metantk_core.datasets import DataConfig, prepare; path, out = sys.argv[1:]; "
            "data = DataConfig(source='folder', path=path, image_size=9, channels=3); "
            "prepare(data, Path(out), place=wiring.images(path))",
            path,
            str(tmp_path / "out"),
        ],
        env=dict(os.environ),
    )
    until = time.monotonic() + 60
    while sum(".png" in seen.target for seen in proxy.seen) < 100:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    read = sum(".png" in seen.target for seen in proxy.seen)
    proxy.seen.clear()
    prepared(path, tmp_path / "out")
    again = sum(".png" in seen.target for seen in proxy.seen)
    assert again <= 300 - read + 32  # those that were asked for and not there yet
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images", "out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_waits_for_a_server(
    number: signal.Signals, proxy: FaultyProxy, moto: Moto, tmp_path: Path
):
    path = upload(write_tree(tmp_path / "images"), moto.address)
    proxy.choose = lambda seen: "hang" if ".png" in seen.target else None
    settings = ["data.source=folder", f"data.path={path}", "data.channels=3"]
    options = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "metantk_core", "score", CELL, "smoke", *options, "--workspace", str(tmp_path / "runs")],
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not any(".png" in seen.target for seen in proxy.seen):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    begun = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - begun < 5
    assert process.returncode == 128 + number


# The cache


def test_the_cache_is_never_larger_than_its_limit_and_the_oldest_goes_first(tmp_path: Path):
    kept = Pieces(tmp_path, 100_000)
    for number in range(50):
        kept.write(str(number), bytes(7000))
        if number > 0:
            assert kept.read("0") == bytes(7000)  # used all the time
        assert _size(tmp_path) <= 100_000
    there = [number for number in range(50) if kept.read(str(number)) is not None]
    assert there[0] == 0
    assert there[1:] == list(range(there[1], 50))
    assert 8 <= len(there) <= 12
    kept.write("too large", bytes(100_000))
    assert kept.read("too large") is None


def test_what_is_damaged_in_the_cache_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    kept = Pieces(tmp_path, 100_000)
    kept.write("a", b"right")
    (file,) = (path for path in tmp_path.rglob("*") if len(path.name) == 64)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert kept.read("a") is None
    assert f"{file} is damaged" in caplog.text
    assert not file.exists()


def test_a_cache_on_a_full_disk_is_none_and_says_so_once(
    tmp_path: Path, moto: Moto, use: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        monkeypatch.setenv("METANTK_CACHE", str(disk))
        use(moto.address)
        path = upload(write_tree(tmp_path / "images"), moto.address)
        assert len(prepared(path, tmp_path / "out").train) == 6
    finally:
        subprocess.run(["umount", disk], check=True)
    assert caplog.text.count("Can't keep copies") == 1
    assert "No space left on device" in caplog.text


def _fill(root: str, number: int) -> bool:
    kept = Pieces(Path(root), 200_000)
    rng = random.Random(number)
    for _ in range(150):
        name = str(rng.randrange(60))
        content = name.encode() * 4000
        found = kept.read(name)
        assert found in (None, content)
        kept.write(name, content)
        with Path(root, "used").open() as account:
            fcntl.flock(account, fcntl.LOCK_EX)  # so that nobody writes while the files are counted
            if _size(Path(root)) > 200_000:
                return False
    return True


def test_processes_that_share_a_cache_keep_its_limit_and_never_read_halves(tmp_path: Path):
    with ProcessPoolExecutor(4) as processes:
        assert all(processes.map(_fill, [str(tmp_path)] * 4, range(4)))


def test_the_size_of_the_cache_is_what_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for text, expected in {"10GB": 10**10, "1.5 GiB": 3 * 2**29, "500mb": 5 * 10**8, "4096": 4096}.items():
        monkeypatch.setenv("METANTK_CACHE_SIZE", text)
        found = pieces()
        assert found is not None
        assert found._limit == expected
    monkeypatch.setenv("METANTK_CACHE_SIZE", "0")
    assert pieces() is None
    for text in ("-1", "10 bananas", "1e9", "GB"):
        monkeypatch.setenv("METANTK_CACHE_SIZE", text)
        with pytest.raises(InputError, match="in METANTK_CACHE_SIZE"):
            pieces()


@pytest.mark.parametrize("path", ["s3://me:hidden@bucket/a", "s3://bucket/a?token=hidden", "s3://", "http://host/a"])
def test_an_address_that_may_hold_a_secret_is_no_path_of_images(path: str):
    with pytest.raises(ValueError, match=r"s3://bucket/prefix with plain names") as caught:
        config(path)
    with pytest.raises(InputError) as said:
        wiring.images("s3://me:hidden@bucket/a")
    assert "hidden" not in str(said.value)
    del caught


def test_a_bucket_is_a_place(proxy: FaultyProxy):
    from metantk_core.files import Place

    place = connect_images(BUCKET, "nothing")
    assert isinstance(place, BucketPlace)
    assert isinstance(place, Place)


def _size(folder: Path) -> int:
    """Return what a disk counts of the files in a folder that may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if len(path.name) == 64:
                total += -(-path.stat().st_size // 4096) * 4096
        except OSError:
            pass
    return total
