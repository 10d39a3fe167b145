"""Killed at any moment, as often as one likes, a search and a run end with the same bytes and leave nothing behind.

A chain starts a command in an empty folder, kills it at a random moment, starts it again, and so on, until it ends.
`METANTK_KILLS` says how many kills the long test makes (100), `METANTK_KILL_SEED` repeats one.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

KILLS = int(os.environ.get("METANTK_KILLS", "100"))
SEED = int(os.environ.get("METANTK_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)

# A signal before the first line of ours ends the interpreter in its own way.
CODES = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130, -signal.SIGINT),
}
TINY = [
    "data.images_per_class=6",
    "scoring.tasks=2",
    "scoring.episode={ways: 3, shots: 1, queries: 1}",
    "scoring.image_size=8",
    "scoring.network.channels=2",
    "scoring.scores=[metantk_cond, params]",
    "training.iterations=2",
    "training.validate_every=1",
    "training.meta_batch=1",
    "training.network.channels=2",
    "training.validation_episodes=2",
    "evaluation.episodes=4",
]
STRATEGIES = {
    "sample": ["search.num_candidates=4"],
    "race": ["search.num_candidates=4", "search.race.first=2"],
    "evolve": ["search.num_candidates=5", "search.evolve={population: 3, tournament: 2, children: 2}"],
    "prune": ["search.num_candidates=2", "scoring.num_inits=1"],
}
SEARCHES = tuple(f"search by {strategy}" for strategy in STRATEGIES)
COMMANDS = {f"search by {name}": ["search", f"search.strategy={name}", *more] for name, more in STRATEGIES.items()}
COMMANDS["run"] = ["run", "search.num_candidates=3"]


@dataclass
class Chain:
    """One command, started again and again in a folder of its own."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.mark = f"METANTK_TEST_MARK={uuid.uuid4().hex}"
        (self.folder / "tmp").mkdir(parents=True)

    def start(self) -> subprocess.Popen[bytes]:
        command, *settings = COMMANDS[self.name]
        name, _, value = self.mark.partition("=")
        overrides = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "metantk_core", command, "smoke", *overrides, "--json"],
                cwd=self.folder,
                env={**os.environ, "MLFLOW_TRACKING_URI": "", "TMPDIR": str(self.folder / "tmp"), name: value},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def killed_after(self, seconds: float, number: signal.Signals) -> bool:
        """Start the command and send it a signal; say whether it was still running."""
        before = self.running()  # left by a SIGKILL; who is told to go while it imports can't close them yet
        process = self.start()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait(timeout=120)
        if process.returncode == 0:
            return False
        said = (self.folder / "said").read_text(errors="replace")
        assert process.returncode in CODES[number], (number, process.returncode, said)
        if process.returncode > 0:
            assert "Traceback" not in said, said
            assert not self.processes()
            assert set(self.running()) <= set(before)
        until = time.monotonic() + 60
        while self.processes() and time.monotonic() < until:
            time.sleep(0.1)
        assert not self.processes(), "a step outlived the run that started it"
        return True

    def finish(self) -> float:
        """Run the command to its end; return the seconds that it took."""
        began = time.monotonic()
        assert self.start().wait(timeout=600) == 0, (self.folder / "said").read_text(errors="replace")
        return time.monotonic() - began

    def results(self) -> dict[str, bytes]:
        """Return what must be the same, however often the command was killed."""
        return {
            path.name: path.read_bytes()
            for name in ("leaderboard.json", "search.json", "evaluation-*.json")
            for path in self.folder.glob(f"runs/smoke-*/{name}")
        }

    def running(self) -> list[str]:
        """Return the tracked runs that look as if they went on."""
        database = self.folder / "runs" / "mlflow.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            return [row[0] for row in connection.execute("SELECT name FROM runs WHERE status = 'RUNNING'")]

    def left_over(self) -> list[str]:
        """Return the files that only a killed process can have left."""
        return [
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.name.startswith((".unfinished-", ".scratch"))
            or path.name.endswith("-journal")
            or (path.parent.name == "datasets" and path.name.startswith("."))
            or path.parent == self.folder / "tmp"
        ]

    def processes(self) -> list[str]:
        """Return the command lines of the processes that belong to this chain."""
        return [command for mark, command in _environments() if self.mark.encode() in mark]


def _environments() -> Iterator[tuple[bytes, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue


def survive(name: str, folder: Path, kills: int, whole: dict[str, bytes], seconds: float, rng: random.Random) -> int:
    """Kill a command until it has ended all the same or enough is enough; return how often it was killed."""
    chain = Chain(name, folder)
    killed = 0
    while killed < kills:
        after = rng.uniform(0, 1.5) if rng.random() < 0.2 else rng.uniform(0, seconds)
        if not chain.killed_after(after, rng.choice(list(CODES))):
            break
        killed += 1
    chain.finish()
    assert chain.results() == whole
    assert chain.running() == []
    assert chain.left_over() == []
    assert not chain.processes()
    return killed


def whole(name: str, folder: Path) -> tuple[dict[str, bytes], float]:
    """Return what a command leaves that nobody disturbs, and the seconds that it takes."""
    chain = Chain(name, folder)
    seconds = chain.finish()
    assert chain.results()
    assert chain.left_over() == []
    assert chain.running() == []
    return chain.results(), seconds


@pytest.mark.minutes
def test_a_search_that_is_killed_again_and_again_ends_as_if_nobody_had(tmp_path):
    undisturbed, seconds = whole("search by sample", tmp_path / "whole")
    assert survive("search by sample", tmp_path / "killed", 3, undisturbed, 0.8 * seconds, random.Random(4)) > 0


@pytest.mark.minutes
def test_a_hundred_kills_change_nothing_and_leave_nothing(tmp_path):
    rng = random.Random(SEED)
    print(f"METANTK_KILL_SEED={SEED} METANTK_KILLS={KILLS}")  # noqa: T201 - to repeat a failure
    undisturbed = {name: whole(name, tmp_path / "whole" / name) for name in COMMANDS}
    killed = dict.fromkeys(COMMANDS, 0)

    def one(name: str, number: int, seed: int) -> tuple[str, int]:
        results, seconds = undisturbed[name]
        folder = tmp_path / f"{name} {number}"
        return name, survive(name, folder, 5, results, seconds, random.Random(seed))

    started = dict.fromkeys(COMMANDS, 0)
    under_way: dict[Future[tuple[str, int]], str] = {}
    with ThreadPoolExecutor(2) as pool:
        while under_way or sum(killed.values()) < KILLS:
            while len(under_way) < 2 and sum(killed.values()) + 5 * len(under_way) < KILLS:
                # A run takes as long as many searches, which go on beside it.
                wants_run = killed["run"] < max(1, KILLS // 8) and "run" not in under_way.values()
                name = "run" if wants_run else min(SEARCHES, key=lambda name: started[name])
                started[name] += 1
                under_way[pool.submit(one, name, sum(started.values()), rng.getrandbits(32))] = name
            for chain in wait(under_way, return_when=FIRST_COMPLETED).done:
                del under_way[chain]
                name, times = chain.result()
                killed[name] += times
            print(killed, flush=True)  # noqa: T201
    assert min(killed.values()) > 0
