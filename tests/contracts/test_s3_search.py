"""A search whose memory is a bucket behind a network that fails: the same leaderboard, and nothing computed twice."""

import os
import random
import signal
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from forked_commands import begun, ended
from object_servers import BUCKET, Moto, environment
from quiet import noise, quiet_ports, searched, tiny

from metantk_core import wiring
from metantk_core.adapters import progress
from metantk_core.ranking import render_markdown
from metantk_core.scores import SCORES, Scorer
from metantk_core.workflow import scoring
from metantk_core.workflow.runs import StoredCheckpoint

FAULTS: tuple[Fault, ...] = ("internal error", "reset before", "reset in request", "lost answer", "reset in answer")


class Idle(Scorer):
    """Refuses to compute what would be stored: all but what is counted."""

    def score(self, architecture, repeats, stream="", weights="", names=None):
        assert all(SCORES[name].cost == "none" for name in names or ())
        return super().score(architecture, repeats, stream, weights, names)


@pytest.fixture
def bucket(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Address of a store behind a proxy that fails at a fifth of all requests."""
    luck, lock = random.Random(5), threading.Lock()

    def choose(seen: Request) -> Fault | None:
        with lock:
            if luck.random() >= 0.2:
                return None
            return "torn answer" if seen.method == "GET" and luck.random() < 0.3 else luck.choice(FAULTS)

    with FaultyProxy(moto.address, choose) as proxy:
        for name, value in environment(proxy.address).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"
        assert sum(proxy.done.values()) > proxy.done["passed on"]


def test_a_search_with_a_bucket_gives_the_leaderboard_of_a_folder_and_repeats_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, dataset = tiny("search.strategy=race"), noise()
    in_folder = searched(config, dataset, quiet_ports(tmp_path))
    ports = replace(quiet_ports(tmp_path), store=wiring.artifact_store(bucket))
    in_bucket = searched(config, dataset, ports, shards=2)
    assert render_markdown(in_bucket.leaderboard) == render_markdown(in_folder.leaderboard)
    kept = list(ports.store.keys())
    assert kept == list(wiring.artifact_store(str(tmp_path)).keys())

    monkeypatch.setattr(scoring, "Scorer", Idle)
    again = replace(ports, store=wiring.artifact_store(bucket))
    assert render_markdown(searched(config, dataset, again).leaderboard) == render_markdown(in_folder.leaderboard)
    assert list(again.store.keys()) == kept


def test_a_checkpoint_of_a_training_survives_in_a_bucket(bucket: str):
    state = random.Random(6).randbytes(3_000_000)
    for number in range(5):
        StoredCheckpoint(wiring.artifact_store(bucket), "training/2/a.checkpoint").save(state + bytes([number]))
        found = StoredCheckpoint(wiring.artifact_store(bucket), "training/2/a.checkpoint").load()
        assert found == state + bytes([number])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_scored_until_a_signal_came_is_in_the_bucket(
    number: signal.Signals, moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.5)
    place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    served = environment(moto.address)
    settings = ("--set", "search.num_candidates=200", "--set", "data.images_per_class=6")
    hear, say = os.pipe()
    command = ("search", "smoke", *settings, "--store", place, "--workspace", str(tmp_path))
    process = begun(*command, cwd=tmp_path, stdout=os.open(os.devnull, os.O_WRONLY), stderr=say, **served)
    os.close(say)
    with os.fdopen(hear) as heard:
        # By the second line of progress something has been scored, which is written after half a minute otherwise.
        lines = (line for line in heard if line.startswith("score: ") and not line.startswith("score: 0/"))
        said = next(lines)
        os.kill(process, number)
        heard.read()
    assert ended(process) == 128 + number
    done = int(said.removeprefix("score: ").partition("/")[0])
    with patch.dict(os.environ, served), wiring.opened_store(place) as store:
        assert len([key for key in store.keys("scores/") if key.endswith(".jsonl")]) >= done
