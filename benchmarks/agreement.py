"""How scores agree and how reliable they are: a folder of score records enters, two Markdown tables leave.

After a ``metantk search`` that computed several scores: ``python benchmarks/agreement.py runs/scores/2/<portion>``.

Axes: m scores.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy import stats

from metantk_core.ranking import Leaderboard, rank
from metantk_core.scores import SCORES
from metantk_core.workflow import read_records


def main(folder: Path) -> None:
    """Print reliability and rank correlations of all scores in a folder of records."""
    # The first line of a file is its seal.
    texts = [path.read_text().partition("\n")[2] for path in sorted(folder.glob("*.jsonl"))]
    records = [record for text in texts for record in read_records(text)]
    names = list(dict.fromkeys(record.score for record in records))
    boards = {name: rank(records, by=name) for name in names}
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in records:
        seconds[_computation(record.score)] += record.seconds

    print(
        "| score | ICC of one draw | ICC of the mean (95 %) | draws for 0.8 | failed | distinct means "
        "| time, pass = 1 |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, board in boards.items():
        found = board.reliability
        means = [standing.mean for standing in board.standings if standing.mean is not None]
        single = f"{found.single:.2f}" if found else "-"
        average = f"{found.icc:.2f} ({found.low:.2f} … {found.high:.2f})" if found else "-"
        failed = len(board.standings) - len(means)
        ratio = seconds[_computation(name)] / seconds["pass"]
        # By Spearman and Brown, the mean of m draws reaches 0.8 at m = 4 (1 - ICC) / ICC.
        needed = math.ceil(4 * (1 - found.single) / found.single - 1e-9) if found and found.single > 0 else "-"
        print(f"| `{name}` | {single} | {average} | {needed or 1} | {failed} | {len(set(means))} | {ratio:.2f} |")

    good = set.intersection(*({s.genotype for s in board.standings if s.mean is not None} for board in boards.values()))
    print(
        f"\nSpearman's correlation over the {len(good)} candidates without a failure, better with better, times 100:\n"
    )
    print(f"| | {' | '.join(str(number) for number in range(1, len(names) + 1))} |")
    print(f"|---|{'---|' * len(names)}")
    for number, (name, row) in enumerate(zip(names, _correlations(boards, sorted(good)), strict=True), start=1):
        cells = ["·" if other >= number else f"{100 * value:+.0f}" for other, value in enumerate(row, start=1)]
        print(f"| {number} `{name}` | {' | '.join(cells)} |")


def _computation(name: str) -> str:
    """Return what computes a score: scores of one computation share its time."""
    cost = SCORES[name].cost
    return name if cost in ("own pass", "none") else cost


def _correlations(boards: dict[str, Leaderboard], genotypes: list[str]) -> Float64[np.ndarray, "m m"]:
    columns = []
    for name, board in boards.items():
        means = {standing.genotype: standing.mean for standing in board.standings}
        sign = 1.0 if SCORES[name].direction == "higher" else -1.0
        columns.append(stats.rankdata([sign * (means[genotype] or 0.0) for genotype in genotypes]))
    return np.corrcoef(np.array(columns))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/agreement.py FOLDER, as in runs/scores/2/0123456789abcdef")
    main(Path(sys.argv[1]))
