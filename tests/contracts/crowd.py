"""What processes of a crowd do, apart from the tests: each of them imports this and no more."""

import metantk_core.adapters.mlflow_tracking  # noqa: F401 - once, before forks
from metantk_core import wiring
from metantk_core.ports import MetricPoint


def log_a_shard(address: str, number: int) -> str:
    """Be a shard that meets the others at a run which nobody has opened before."""
    tracker = wiring.tracker(address, "crowd")
    parent = tracker.open_run("parent", "parent")
    run = tracker.open_run(f"parent/{number}", f"shard-{number}", parent=parent)
    tracker.log_parameters(run, {f"group.p{one}": f"{number}.{one}" for one in range(110)})
    for part in range(2):
        steps = range(1000 * number + 100 * part, 1000 * number + 100 * part + 100)
        for place in (run, parent):
            tracker.log_metrics(place, [MetricPoint("score/mean", float(step), step) for step in steps])
    tracker.log_table(run, {"number": [number] * 50, "row": list(range(50))}, "scores.json")
    tracker.close_run(run, "finished")
    return parent


def open_and_log(uri: str, number: int) -> str:
    """Be one of many who open the same run, each with a child of its own."""
    tracker = wiring.tracker(uri)
    parent = tracker.open_run("parent", "parent")
    run = tracker.open_run(f"parent/{number}", f"shard-{number}", parent=parent)
    tracker.log_metrics(run, [MetricPoint("score/mean", float(step), step) for step in range(100)])
    tracker.close_run(run, "finished")
    return parent
