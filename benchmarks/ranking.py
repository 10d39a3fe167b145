"""Speed of everything between scores and a leaderboard: a number of candidates enters, a table of times leaves.

Run as ``python benchmarks/ranking.py [--quick] [--json FILE] [--repeats N]``. Times are those of the processor, on one
core, the least of the repeats: what else runs on the machine adds to them but never takes away.

The records are made up: 8 draws of two scores and two counts for each candidate, which is what an enumeration of
NAS-Bench-201 leaves, 62,500 lines. A race leaves different numbers of draws; a combination ranks within every draw.
"""

import argparse
import json
import os
from collections.abc import Callable
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.ranking import Criterion, Leaderboard, losses, rank, render_markdown
from metantk_core.scores import Score, ScoreRecord
from metantk_core.workflow import read_records

SIZES = (1_000, 15_625)
DRAWS = 8
COMBINATION = {"metantk_cond": 1.0, "naswot": 1.0}
#: Most seconds that a step may take for 15,625 candidates.
MOST = {"rank by one score": 2.0, "rank by two scores": 2.0}


def made_up(candidates: int) -> list[ScoreRecord]:
    """Return records as scoring would leave them: candidates that differ, and draws that differ as much."""
    rng = np.random.default_rng(0)
    records: list[ScoreRecord] = []
    for index in range(candidates):
        genotype, quality = str(NASBENCH201.genotype(index)), rng.normal()
        for score, draws in (("metantk_cond", DRAWS), ("naswot", DRAWS), ("params", 1), ("flops", 1)):
            values = 10 ** (2 + 0.3 * (quality + rng.normal(size=draws)))
            records.append(ScoreRecord("nasbench201", genotype, score, tuple(Score(float(v)) for v in values), 0, 0.1))
    return records


def of_a_race(records: list[ScoreRecord]) -> list[ScoreRecord]:
    """Return the records with 2, 4 or 8 draws of each candidate."""
    kept = {record.genotype: 2 << (number % 3) for number, record in enumerate(records[::4])}
    return [ScoreRecord(r.space, r.genotype, r.score, r.draws[: kept[r.genotype]], r.seed, r.seconds) for r in records]


def steps(candidates: int) -> dict[str, Callable[[], object]]:
    """Return every step by name, with what it needs made before."""
    records = made_up(candidates)
    race = of_a_race(records)
    text = "\n".join(record.to_json() for record in records)
    board = rank(records, by="metantk_cond")
    stored = board.to_json()
    return {
        "write records": lambda: [record.to_json() for record in records],
        "read records": lambda: read_records(text),
        "rank by one score": lambda: rank(records, by="metantk_cond"),
        "rank by two scores": lambda: rank(records, by=COMBINATION),
        "rank a race": lambda: rank(race, by="metantk_cond"),
        "losses by two scores": lambda: losses(records, Criterion.of(COMBINATION)),
        "to_json": board.to_json,
        "from_json": lambda: Leaderboard.from_json(stored),
        "digest": lambda: board.digest,
        "render_markdown": lambda: render_markdown(board),
    }


def least_seconds(step: Callable[[], object], repeats: int) -> float:
    """Return the least processor time of a step."""
    times = []
    for _ in range(repeats):
        started = process_time()
        step()
        times.append(process_time() - started)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 candidates only")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    sizes = SIZES[:1] if given.quick else SIZES
    results: dict[int, dict[str, float]] = {}
    for size in sizes:
        results[size] = {name: least_seconds(step, given.repeats) for name, step in steps(size).items()}
    print(f"processor seconds, one core, least of {given.repeats}; 4 scores, {DRAWS} draws\n")
    print(f"| step | {' | '.join(f'{size:,} candidates' for size in sizes)} |")
    print(f"|---|{'---:|' * len(sizes)}")
    for name in results[sizes[0]]:
        cells = []
        for size in sizes:
            seconds, most = results[size][name], MOST.get(name) if size == SIZES[-1] else None
            verdict = "" if most is None else f" (most {most:g}: {'met' if seconds <= most else 'MISSED'})"
            cells.append(f"{seconds:.3f}{verdict}")
        print(f"| {name} | {' | '.join(cells)} |")
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"draws": DRAWS, "repeats": given.repeats, "seconds": results}, file, indent=2)


if __name__ == "__main__":
    main()
