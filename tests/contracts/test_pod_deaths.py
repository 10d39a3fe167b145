"""Pods that die at any moment and are started again, as Kubeflow does it: the same leaderboard, and one run in MLflow.

A search in two shards keeps its work in a bucket of SeaweedFS. Each step is a process of its own; one of them, chosen
at random, gets SIGKILL at a random moment and is started again with the same arguments. Both graphs are run: shards
that meet in the store, and shards of one round after the other. `METANTK_KILLS` says how many searches the long test
does that with (50), `METANTK_KILL_SEED` repeats one.
"""

import inspect
import json
import os
import random
import signal
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked_commands import _ready
from object_servers import BUCKET, SeaweedFS, environment

from components.close_round import close_round
from components.close_run import close_run
from components.join_shards import join_shards
from components.prepare_dataset import prepare_dataset
from components.rank_candidates import rank_candidates
from components.score_shard import score_shard
from components.search_shard import search_shard
from components.start_search import start_search
from metantk_core.config import RunConfig, load_config
from metantk_core.recipes import RECIPES
from metantk_core.workflow import limits
from pipelines.step_processes import end_after

KILLS = int(os.environ.get("METANTK_KILLS", "50"))
SEED = int(os.environ.get("METANTK_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
RETRIES = 3  # as compiled pipelines have it
SMALL = [
    "search.num_candidates=6",
    "search.shards=2",
    "search.strategy=race",
    "search.race.first=2",
    "scoring.num_inits=3",
    "data.images_per_class=6",
    "scoring.tasks=2",
    "scoring.episode={ways: 3, shots: 1, queries: 1}",
    "scoring.image_size=8",
    "scoring.network={channels: 2, cells: 1}",
    "scoring.scores=[metantk_cond, params]",
]


@dataclass
class Pods:
    """Runs the steps of a search as processes; at most one of them dies, and is started again."""

    config: RunConfig
    folder: Path
    store: str
    together: bool
    dies: int = -1
    after: float = 0.0
    steps: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    deaths: int = 0
    failures: int = 0  # of a server that did not answer in time, on a busy machine: repeated as well
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.tracking = f"sqlite:///{self.folder}/mlflow.db"

    def artifact(self) -> Any:
        self._numbers += 1
        return SimpleNamespace(path=str(self.folder / f"artifact {self._numbers}"), metadata={})

    def run(self, *calls: tuple[Any, dict[str, Any]]) -> None:
        """Run steps side by side until each has ended well."""
        started = [(component, given, self._start(component, given)) for component, given in calls]
        for component, given, (number, begun, process) in started:
            name = component.python_func.__name__
            if number == self.dies:
                time.sleep(max(0.0, begun + self.after - time.monotonic()))
                os.kill(process, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            for _ in range(RETRIES):
                if code == 0:
                    break
                self.deaths += code == -signal.SIGKILL
                self.failures += code != -signal.SIGKILL
                code = os.waitstatus_to_exitcode(os.waitpid(self._start(component, given, again=True)[2], 0)[1])
            assert code == 0, f"{name} ended with {code}:\n{(self.folder / 'said').read_text(errors='replace')}"
            self.seconds.append(time.monotonic() - begun)

    def _start(self, component: Any, given: dict[str, Any], *, again: bool = False) -> tuple[int, float, int]:
        if not again:
            self.steps.append(component.python_func.__name__)
        number, begun, process = len(self.steps) - 1, time.monotonic(), os.fork()
        if process == 0:
            end_after(self._work(component, given))
        return number, begun, process

    def _work(self, component: Any, given: dict[str, Any]) -> Callable[[], None]:
        def work() -> None:
            signal.alarm(300)
            said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            known = {"store": self.store, "tracking_uri": self.tracking, "config": self.config.to_json()}
            known |= {"summary": SimpleNamespace(log_metric=lambda *_: None), "pipeline": "a pipeline", "kubeflow": ""}
            known |= {"shards": 0, "most_shards": 256, "page": self.artifact()}
            wanted = inspect.signature(component.python_func).parameters
            component.python_func(**{name: value for name, value in {**known, **given}.items() if name in wanted})

        return work

    def leaderboard(self) -> str:
        """Return the digest of what the search finds, after all of its steps."""
        import pipelines.step_imports  # noqa: F401 - once, and not in every step

        _ready()
        dataset, run, state, records = (self.artifact() for _ in range(4))
        self.run((prepare_dataset, {"dataset": dataset, "run": run}))
        self.run((start_search, {"run": run, "state": state, "records": records}))
        state, records = (self._together if self.together else self._by_rounds)(run, dataset, state, records)
        board = self.artifact()
        outputs = {"leaderboard": board, "history": self.artifact(), "table": self.artifact()}
        self.run((rank_candidates, {"run": run, "state": state, "records": records, **outputs}))
        self.run((close_run, {"status": SimpleNamespace(state="SUCCEEDED", error_message="")}))
        return json.dumps(json.loads(Path(board.path).read_text()), sort_keys=True)

    def _together(self, run: Any, dataset: Any, state: Any, records: Any) -> tuple[Any, Any]:
        shards, start = self.config.search.shards, {"run": run, "dataset": dataset, "state": state}
        ended, found = ([self.artifact() for _ in range(shards)] for _ in range(2))
        self.run(
            *(
                (
                    search_shard,
                    {**start, "shard": f"{index + 1}/{shards}", "ended": ended[index], "records": found[index]},
                )
                for index in range(shards)
            )
        )
        last, more = self.artifact(), self.artifact()
        self.run((join_shards, {"run": run, "ended": ended, "found": found, "state": last, "records": more}))
        return last, more

    def _by_rounds(self, run: Any, dataset: Any, state: Any, records: Any) -> tuple[Any, Any]:
        shards = self.config.search.shards
        for _ in range(limits.num_rounds(self.config)):
            scores, following, more = [self.artifact() for _ in range(shards)], self.artifact(), self.artifact()
            so_far = {"run": run, "state": state, "earlier": records, "dataset": dataset}
            self.run(
                *(
                    (score_shard, {**so_far, "shard": f"{index + 1}/{shards}", "scores": scores[index]})
                    for index in range(shards)
                )
            )
            self.run((close_round, {**so_far, "scores": scores, "following": following, "records": more}))
            state, records = following, more
        return state, records

    def runs(self) -> list[tuple[str, str]]:
        """Return name and status of the runs in MLflow."""
        with closing(sqlite3.connect(self.folder / "mlflow.db", timeout=20)) as connection:
            return connection.execute("SELECT name, status FROM runs ORDER BY name").fetchall()


@pytest.fixture
def searched(seaweedfs: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pods]:
    for name, value in environment(seaweedfs.address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("METANTK_DATASET_CACHE", str(tmp_path / "datasets"))
    config = load_config("smoke", RECIPES, SMALL)

    def make(together: bool, dies: int = -1, after: float = 0.0) -> Pods:
        return Pods(config, tmp_path / uuid.uuid4().hex, f"s3://{BUCKET}/{uuid.uuid4().hex}", together, dies, after)

    return make


def survive(searched: Callable[..., Pods], deaths: int, rng: random.Random) -> Counter[str]:
    """Let a step of a search die, until so many have; return how often which one did."""
    graphs = [searched(together) for together in (True, False)]
    expected = [whole.leaderboard() for whole in graphs]
    assert expected[0] == expected[1]
    runs = graphs[0].runs()
    for whole in graphs:
        assert [status for _, status in whole.runs()] == ["FINISHED"] * len(runs)
        assert {name for name, _ in whole.runs()} == {name for name, _ in runs}
    assert len({name for name, _ in runs}) == len(runs)
    died: Counter[str] = Counter()
    tried = failed = 0
    while died.total() < deaths:
        tried += 1
        assert tried <= 3 * deaths + 3, "steps end before anybody kills them"
        whole = graphs[tried % 2]
        step = rng.randrange(len(whole.steps))
        pods = searched(whole.together, step, rng.uniform(0, 0.9 * whole.seconds[step]))
        assert pods.leaderboard() == expected[0]
        assert pods.runs() == runs
        died[whole.steps[step]] += pods.deaths
        failed += pods.failures
        print(f"searches: {tried}, killed: {dict(died)}, failed otherwise: {failed}", flush=True)  # noqa: T201
    return died


def test_search_whose_pods_die_ends_with_the_same_leaderboard_and_one_run(searched: Callable[..., Pods]):
    assert survive(searched, 1, random.Random(5)).total() == 1


@pytest.mark.minutes
def test_fifty_dead_pods_change_no_leaderboard_and_leave_one_run_each(searched: Callable[..., Pods]):
    print(f"METANTK_KILL_SEED={SEED} METANTK_KILLS={KILLS}")  # noqa: T201 - to repeat a failure
    assert survive(searched, KILLS, random.Random(SEED)).total() == KILLS
