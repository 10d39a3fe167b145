"""The main pipeline: score shards in parallel, rank, meta-train and evaluate chosen candidates, report, register."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.evaluate import evaluate
from components.meta_train import meta_train
from components.plan_shards import plan_shards
from components.prepare_dataset import prepare_dataset
from components.rank_candidates import rank_candidates
from components.register_model import register_model
from components.score_shard import score_shard
from components.step import IMAGE
from components.write_report import write_report
from metantk_core.config import RunConfig
from metantk_core.errors import InputError

PIPELINE_NAME = "metantk-search-and-meta-train"


@dataclass(frozen=True)
class Resources:
    """What the steps that compute ask of the cluster; the local runner ignores it.

    Attributes:
        image: Container image that holds ``metantk_core`` and ``kfp``.
        accelerator: Resource name of the accelerator, such as ``nvidia.com/gpu``; empty for none.
        accelerators: Number of accelerators a step.
        cpu: CPU request, such as ``4``; empty for the cluster's default.
        memory: Memory request, such as ``16G``; empty for the cluster's default.
        retries: How often a step is repeated after its pod died; finished work is not repeated.
    """

    image: str = IMAGE
    accelerator: str = ""
    accelerators: int = 1
    cpu: str = ""
    memory: str = ""
    retries: int = 3


def build(
    config: str, roles: list[Any], resources: Resources | None = None, *, store: str = "", tracking_uri: str = ""
) -> Any:
    """Return the pipeline, with a run's configuration as the default of its parameter.

    Args:
        config: ``RunConfig`` as JSON; can be replaced at submission.
        roles: The candidates that are meta-trained; their number is part of the graph.
        resources: What the steps ask of the cluster.
        store: Default address of the artifact store.
        tracking_uri: Default address of MLflow.
    """
    resources = resources or Resources()

    def placed(task: dsl.PipelineTask, *, computes: bool = False) -> dsl.PipelineTask:
        task.set_container_image(resources.image)
        if resources.retries:
            task.set_retry(resources.retries, backoff_duration="10s", backoff_factor=2.0)
        if computes and resources.cpu:
            task.set_cpu_request(resources.cpu)
        if computes and resources.memory:
            task.set_memory_request(resources.memory)
        if computes and resources.accelerator:
            task.set_accelerator_type(resources.accelerator).set_accelerator_limit(resources.accelerators)
        return task

    @dsl.pipeline(
        name=PIPELINE_NAME, description="Rank candidates at initialisation, meta-train, evaluate and register."
    )
    def search_and_meta_train(config: str = config, store: str = store, tracking_uri: str = tracking_uri) -> None:
        ports: dict[str, Any] = {"config": config, "store": store, "tracking_uri": tracking_uri}
        prepared = placed(prepare_dataset(**ports))
        run, dataset = prepared.outputs["run"], prepared.outputs["dataset"]
        plan = placed(plan_shards(config=config))
        with dsl.ParallelFor(plan.output, name="shards") as shard:
            scored = placed(score_shard(**ports, run=run, shard=shard, dataset=dataset), computes=True)
        ranked = placed(rank_candidates(**ports, run=run, scores=dsl.Collected(scored.outputs["scores"])))
        with dsl.ParallelFor(roles, name="candidates") as role:
            trained = placed(
                meta_train(**ports, run=run, role=role, dataset=dataset, leaderboard=ranked.outputs["leaderboard"]),
                computes=True,
            )
            evaluated = placed(
                evaluate(**ports, run=run, role=role, dataset=dataset, model=trained.outputs["model"]), computes=True
            )

        def results() -> dict[str, Any]:
            # Built anew for each consumer: the compiler changes a Collected when it meets it.
            return {
                "run": run,
                "roles": roles,
                "dataset": dataset,
                "models": dsl.Collected(trained.outputs["model"]),
                "evaluations": dsl.Collected(evaluated.outputs["evaluation"]),
            }

        reported = placed(write_report(**ports, **results(), leaderboard=ranked.outputs["leaderboard"]))
        placed(register_model(**ports, **results())).after(reported)

    return search_and_meta_train


def write(config: RunConfig, path: Path, resources: Resources, *, store: str = "", tracking_uri: str = "") -> None:
    """Write the compiled pipeline; equal arguments give equal bytes.

    Raises:
        InputError: The file can't be written there, or its name doesn't end in .yaml.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"Expected the name of a YAML file for the pipeline, but got {path}; end it in .yaml.")
    pipeline = build(config.to_json(), list(config.trained_roles), resources, store=store, tracking_uri=tracking_uri)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compiled = Path(folder) / path.name
            compiler.Compiler().compile(pipeline, str(compiled))
            os.replace(compiled, path)
    except OSError as error:
        raise InputError(
            f"Can't write the pipeline to {path}: {error.strerror}; choose a folder that exists and is writable."
        ) from error
