"""What a search costs a bucket in requests: a search whose scorer is a stub enters, a table of counts leaves.

Run as ``python -m benchmarks.bucket [--quick] [--shards K] [--json FILE]``. All 15,625 cells of NAS-Bench-201 are
scored in 64 shards, each of which opens the store as a pod does. The stub takes no time: what is held back for half a
minute is written after every 60 candidates instead, which are half a minute at 0.5 s a candidate. Then shards are
repeated: ten that were killed half-way, and all of them by a whole rerun. Beside it, the same without packs.

The bucket is moto's, on this machine, unless AWS_ENDPOINT_URL names another server; its bucket is then given by
``--bucket``.
"""

import argparse
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from benchmarks.orchestration import Stub, config_of
from metantk_core import datasets, wiring
from metantk_core.adapters.packing import PackingStore
from metantk_core.adapters.s3 import S3Store
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.ports import ArtifactStore
from metantk_core.scores import ScoreRecord
from metantk_core.workflow import Ports, Records, close_round, finish_search, score_shard, start_search

CANDIDATES_A_PACK = 60
WAYS = {"packs": True, "one object a candidate": False}


class Killed(Exception):  # noqa: N818 - not an error of ours
    """The pod is gone."""


class Unlogged:
    """A tracker and a registry of which nothing is asked."""

    def __getattr__(self, name: str) -> Any:
        """Return something that takes everything."""
        return lambda *_, **__: "run"


class Paced(Stub):
    """A stub during which half a minute passes every 60 candidates, and which may be killed."""

    store: ArtifactStore
    done = 0
    killed_after: int | None = None

    def score(self, *given: Any, **named: Any) -> tuple[ScoreRecord, ...]:
        """Return records."""
        cls = type(self)
        cls.done += 1
        if cls.done == cls.killed_after:
            raise Killed
        if cls.done % CANDIDATES_A_PACK == 0 and isinstance(cls.store, PackingStore):
            cls.store.flush()
        return super().score(*given, **named)


@contextmanager
def opened(uri: str, counts: Counter[str], packed: bool) -> Iterator[ArtifactStore]:
    """Give the store as a pod opens it, and count its requests."""
    with wiring.opened_store(uri) as store:
        behind = cast(S3Store, cast(Any, store)._behind)
        behind.client.meta.events.register("before-send.s3", lambda request, **_: counts.update([request.method]))
        Paced.store = store if packed else behind
        yield Paced.store


def searched(
    config: RunConfig, dataset: ImageDataset, uri: str, shards: int, packed: bool
) -> dict[str, dict[str, int]]:
    """Return the requests of each part of a search, by what was done."""
    counted: dict[str, Counter[str]] = {}

    @contextmanager
    def pod(what: str) -> Iterator[Ports]:
        with opened(uri, counted.setdefault(what, Counter()), packed) as store:
            yield Ports(store, cast(Any, Unlogged()), cast(Any, Unlogged()), "run")

    def score(part: int, what: str, killed_after: int | None = None) -> tuple[ScoreRecord, ...]:
        Paced.done, Paced.killed_after = 0, killed_after
        with pod(what) as ports:
            return score_shard(config, state, part, shards, dataset, Records(), ports)

    with pod("start") as ports:
        state = start_search(config, ports)
    found = Records()
    with patch("metantk_core.workflow.scoring.Scorer", Paced):
        for part in range(shards):
            if part < 10:
                with suppress(Killed):
                    score(part, "ten shards, killed half-way", len(state.plan) // shards // 2)
            found = found.joined(score(part, "ten shards, repeated" if part < 10 else "the other shards"))
        with pod("close and finish") as ports:
            finish_search(config, close_round(config, state, found, ports), found, ports)
        for part in range(shards):
            score(part, "a rerun of all shards")
    return {what: dict(counts) for what, counts in counted.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 candidates in 8 shards, under a minute")
    parser.add_argument("--shards", type=int, help="64, or 8 in quick mode")
    parser.add_argument("--way", choices=list(WAYS), help="only this one")
    parser.add_argument("--bucket", default="metantk-requests", help="made if it is not there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts there")
    given = parser.parse_args()
    shards = given.shards or (8 if given.quick else 64)
    results: dict[str, Any] = {"shards": shards}
    with tempfile.TemporaryDirectory() as folder, _server(given.bucket):
        config = config_of(given.quick)
        dataset = datasets.prepare(config.data, Path(folder, "glyphs"))
        for name, packed in WAYS.items():
            if given.way not in (None, name):
                continue
            prefix = f"{name.replace(' ', '-')}-{os.getpid()}"
            results[name] = counts = searched(config, dataset, f"s3://{given.bucket}/{prefix}", shards, packed)
            _print(name, counts)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


def _print(name: str, counts: dict[str, dict[str, int]]) -> None:
    methods = ("PUT", "GET", "HEAD")
    print(f"\n{name}\n\n| part | {' | '.join(methods)} | all |\n|---|---|---|---|---|")
    for what, found in counts.items():
        cells = " | ".join(f"{found.get(method, 0):,}" for method in methods)
        print(f"| {what} | {cells} | {sum(found.values()):,} |", flush=True)


@contextmanager
def _server(bucket: str) -> Iterator[None]:
    if os.environ.get("AWS_ENDPOINT_URL"):
        yield
        return
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    places = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with patch.dict(os.environ, places | secrets):
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield
    server.stop()


if __name__ == "__main__":
    main()
