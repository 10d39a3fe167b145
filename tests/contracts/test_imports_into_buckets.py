"""Imports whose destination is a bucket: there as a whole or not at all, through kills, and read from there."""

import multiprocessing
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_servers import BUCKET, SECRET, Moto, SeaweedFS, environment, raw_client

from metantk_core import wiring
from metantk_core.datasets import SPLITS, DataConfig, prepare
from metantk_core.datasets.importing import Import, Imported, planned
from metantk_core.datasets.stored import FILES
from metantk_core.errors import InputError
from metantk_core.workflow import import_into


@pytest.fixture(params=["moto", pytest.param("seaweedfs", marks=pytest.mark.minutes)])
def server(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moto | SeaweedFS:
    server = request.getfixturevalue(request.param)
    monkeypatch.setenv("METANTK_CACHE", str(tmp_path / "cache"))
    for name, value in environment(server.address).items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def plan(tmp_path: Path) -> Import:
    root = tmp_path / "arrays"
    root.mkdir()
    for number, split in enumerate(SPLITS):
        images = np.random.default_rng(number).integers(0, 256, (300, 12, 12, 3), np.uint8)
        np.savez(root / f"{split}.npz", images=images, labels=10 * number + np.arange(300) % 5)
    return planned(str(root))


def imported(plan: Import, address: str) -> Imported:
    place = wiring.images(address)
    assert place is not None
    return import_into(plan, wiring.artifact_store(address), place, wiring.waiting_room(address))


def new_address() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def objects(server: Moto | SeaweedFS, address: str) -> dict[str, bytes]:
    prefix, client = address.removeprefix(f"s3://{BUCKET}/"), raw_client(server.address)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    return {
        item["Key"].removeprefix(f"{prefix}/"): client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        for page in pages
        for item in page.get("Contents", [])
    }


def test_what_was_imported_into_a_bucket_is_used_from_there(server, plan, tmp_path):
    address = new_address()
    made = imported(plan, address)
    assert made.made
    assert objects(server, address).keys() == FILES
    assert not wiring.waiting_room(address).exists()
    again = imported(plan, address)
    assert (again.made, again.digest) == (False, made.digest)
    for image_size in (12, 8):
        far = DataConfig(path=address, image_size=image_size, channels=3)
        near = DataConfig(path=plan.config.path, image_size=image_size, channels=3)
        taken = prepare(far, tmp_path / f"far-{image_size}", place=wiring.images(address))
        assert taken.digest == prepare(near, tmp_path / f"near-{image_size}").digest
    # Nothing was converted, and so nothing else is in the files.
    for split in SPLITS:
        file = f"{split}_images.npy"
        assert (tmp_path / "far-12" / file).read_bytes() == objects(server, address)[file]


def test_a_destination_in_the_source_is_refused(server, plan):
    source = new_address()
    client = raw_client(server.address)
    for file in Path(plan.config.path or "").iterdir():
        client.upload_file(str(file), BUCKET, f"{source.removeprefix(f's3://{BUCKET}/')}/{file.name}")
    before = objects(server, source)
    inside = planned(source, place=wiring.images(source))
    with pytest.raises(InputError, match="lies in the source"):
        imported(inside, f"{source}/train/new")
    assert objects(server, source) == before
    assert imported(inside, f"{source}-84").made


@pytest.mark.minutes  # the same kills of an import into a folder are quicker
def test_an_import_into_a_bucket_that_is_killed_at_any_instant_goes_on(server, plan):
    whole, address = new_address(), new_address()
    imported(plan, whole)
    luck, kills = random.Random(0), 0
    wiring.images(address)  # boto3 is imported here, so that children need not
    for attempt in range(60):
        child = multiprocessing.get_context("fork").Process(target=imported, args=(plan, address), daemon=True)
        child.start()
        child.join(luck.uniform(0.0, 0.4 + attempt / 20))
        kills += child.is_alive()
        child.kill()
        child.join()
        held = objects(server, address)
        assert "dataset.json" not in held or held.keys() >= FILES
        if "dataset.json" in held:
            break
    assert kills
    assert imported(plan, address).digest == imported(plan, whole).digest
    assert {name: held for name, held in objects(server, address).items() if name in FILES} == objects(server, whole)


def test_arrays_that_an_earlier_attempt_stored_are_not_stored_again(server, plan, monkeypatch):
    address, written = new_address(), Counter[str]()
    store = wiring.artifact_store(address)
    place = wiring.images(address)
    assert place is not None
    real = type(store).write_file

    class BrokenError(Exception):
        pass

    def write_file(self: Any, key: str, path: Path, heard: Any) -> None:
        if sum(written.values()) == 4:
            written["broken"] += 1
            raise BrokenError
        real(self, key, path, heard)
        written[key] += 1

    monkeypatch.setattr(type(store), "write_file", write_file)
    with pytest.raises(BrokenError):
        import_into(plan, store, place, wiring.waiting_room(address))
    assert imported(plan, address).made
    del written["broken"]
    assert len(written) == 9
    assert set(written.values()) == {1}


def test_a_place_in_a_bucket_that_holds_anything_else_is_refused(server, plan, tmp_path):
    address = new_address()
    client, prefix = raw_client(server.address), address.removeprefix(f"s3://{BUCKET}/")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/thesis.tex", Body=b"mine")
    with pytest.raises(InputError, match=rf"'{address}' holds 'thesis\.tex'\. Choose another destination") as refused:
        imported(plan, address)
    assert SECRET not in str(refused.value)
    assert objects(server, address) == {"thesis.tex": b"mine"}
    taken = new_address()
    imported(plan, taken)
    with pytest.raises(InputError, match="holds another data set"):
        imported(planned(str(tmp_path / "arrays"), 9), taken)
