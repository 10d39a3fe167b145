"""How long commands and steps take to start: a table of seconds, beside those of Python's smallest useful imports.

Processor seconds (user and system) say what a command costs whatever else the machine does; seconds on the clock are
what a person waits. Both are the best of several starts, and the ratio is to ``import typer, pydantic, numpy`` in the
same run.

    python benchmarks/startup.py [--quick] [--smoke] [--json FILE]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = "import typer, pydantic, numpy"
COMMANDS = ("recipes", "score", "rank", "search", "train", "evaluate", "run", "compile", "ui")
METANTK = ("-m", "metantk_core")
ROWS: dict[str, tuple[str, ...]] = {
    BASE: ("-c", BASE),
    "metantk --help": (*METANTK, "--help"),
    **{f"metantk {command} --help": (*METANTK, command, "--help") for command in COMMANDS},
    "wrong argument": (*METANTK, "run", "--no-such-option"),
    "unknown recipe": (*METANTK, "run", "no-such-recipe"),
    "unknown setting": (*METANTK, "run", "smoke", "--set", "search.no_such_setting=1"),
    "bad genotype": (*METANTK, "score", "|none~0|"),
    "wrong address": (*METANTK, "run", "smoke", "--tracking-uri", "gopher://somewhere"),
    "imports of a step: MLflow alone": (
        "-c",
        "from metantk_core import workspace; import metantk_core.adapters.mlflow_tracking",
    ),
    "imports of a step: torch alone": ("-c", "from metantk_core.workflow import score_shard"),
    "imports of a step that scores": (
        "-c",
        "from metantk_core.workflow import score_shard; import metantk_core.adapters.mlflow_tracking",
    ),
}
QUICK = (BASE, "metantk --help", "metantk score --help", "unknown recipe", "bad genotype")


def measured(arguments: tuple[str, ...], repeats: int) -> dict[str, float]:
    """Return the least processor seconds and the least seconds on the clock of a Python process with arguments."""
    processor, clock = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
            clock.append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            if done.returncode not in (0, 2):
                raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return {"processor": min(processor), "clock": min(clock)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rows, best of 3: under a minute")
    parser.add_argument("--smoke", action="store_true", help="also `metantk run smoke`, once, in a fresh workspace")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    options = parser.parse_args()
    rows = {name: ROWS[name] for name in (QUICK if options.quick else ROWS)}
    if options.smoke:
        rows["metantk run smoke"] = (*METANTK, "run", "smoke")
    repeats = 3 if options.quick else 5
    found: dict[str, dict[str, float]] = {}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':34} {'processor s':>11} {'clock s':>9} {'ratio':>7}")
    for name, arguments in rows.items():
        found[name] = measured(arguments, 1 if name == "metantk run smoke" else repeats)
        ratio = found[name]["processor"] / found[BASE]["processor"]
        print(f"{name:34} {found[name]['processor']:11.2f} {found[name]['clock']:9.2f} {ratio:7.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
