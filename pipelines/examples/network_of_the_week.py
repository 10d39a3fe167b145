"""Somebody else's pipeline with two steps of this project: a budget enters, the architecture to build next leaves.

``prepare_dataset`` opens the run and makes the images, ``search`` finds the architecture; what comes before and after
is not ours, knows nothing of ``metantk_core`` and could be in any image::

    python -m pipelines.examples.network_of_the_week week.yaml
"""

# What Kubeflow makes of a function takes no outputs and gives a task, which the function's own annotations don't tell.
# pyright: reportCallIssue=false, reportArgumentType=false

import sys
from typing import Any

from kfp import compiler, dsl

from components.prepare_dataset import prepare_dataset
from components.search import search


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False, packages_to_install=[])
def plan(budget: int, config: dsl.Output[dsl.Artifact]) -> str:
    """Turn this week's budget into settings of a search.

    Args:
        budget: Seconds of GPU time that may be spent.
        config: The settings, as a record of the week.

    Returns:
        The same settings, as the steps of MetaNTK take them.
    """
    import json
    from pathlib import Path

    settings = {
        "name": "week",
        "data": {"source": "glyphs", "image_size": 16},
        "search": {"num_candidates": max(3, budget // 10), "shards": 1},
        "scoring": {"num_inits": 2, "image_size": 16, "network": {"channels": 4, "cells": 1}},
    }
    Path(config.path).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return json.dumps(settings)


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False, packages_to_install=[])
def choose(leaderboard: dsl.Input[dsl.Dataset], note: dsl.Output[dsl.Markdown]) -> str:
    """Take the winner of a leaderboard, and say how far its first place can be trusted.

    Args:
        leaderboard: What the search found, as JSON.
        note: What to tell the team.

    Returns:
        The architecture.
    """
    import json
    from pathlib import Path

    found = json.loads(Path(leaderboard.path).read_text(encoding="utf-8"))
    reliability = found["reliability"] or {"icc": 0.0}
    text = f"Build `{found['winner']}`: first of {len(found['standings'])}, reliability {reliability['icc']:.2f}.\n"
    Path(note.path).write_text(text, encoding="utf-8")
    return found["winner"]


@dsl.pipeline(name="network-of-the-week", description="Find an architecture within a budget, and say what to build.")
def network_of_the_week(budget: int = 60, tracking_uri: str = "", store: str = "") -> str:
    """Find an architecture within a budget.

    Args:
        budget: Seconds of GPU time.
        tracking_uri: MLflow, as pods see it.
        store: Where finished work is kept; empty for nowhere.

    Returns:
        The architecture to build.
    """
    planned = plan(budget=budget)
    places: dict[str, Any] = {"store": store, "tracking_uri": tracking_uri}
    prepared = prepare_dataset(
        **places, config=planned.outputs["Output"], pipeline=dsl.PIPELINE_JOB_ID_PLACEHOLDER, kubeflow=""
    )
    found = search(**places, run=prepared.outputs["run"], dataset=prepared.outputs["dataset"])
    found.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    return choose(leaderboard=found.outputs["leaderboard"]).outputs["Output"]


if __name__ == "__main__":
    compiler.Compiler().compile(network_of_the_week, sys.argv[1])
