"""The main pipeline: search in rounds of shards, rank, meta-train and evaluate chosen candidates, report, register."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.close_round import close_round
from components.close_run import close_run
from components.evaluate import evaluate
from components.meta_train import meta_train
from components.prepare_dataset import prepare_dataset
from components.rank_candidates import rank_candidates
from components.register_model import register_model
from components.score_shard import score_shard
from components.search import search
from components.start_search import start_search
from components.step import IMAGE
from components.write_report import write_report
from metantk_core import workflow
from metantk_core.config import RunConfig
from metantk_core.errors import InputError
from pipelines.cluster_values import (
    MOST_RETRIES,
    admit_accelerator,
    admit_addresses,
    admit_image,
    cpu_request,
    memory_request,
)

PIPELINE_NAME = "metantk-search-and-meta-train"


@dataclass(frozen=True)
class Resources:
    """What the steps that compute ask of the cluster; the local runner ignores it.

    Attributes:
        image: Container image that holds ``metantk_core`` and ``kfp``.
        accelerator: Resource name of the accelerator, such as ``nvidia.com/gpu``; empty for none.
        accelerators: Number of accelerators a step, 1 to 64.
        cpu: CPU request as a Kubernetes quantity, such as ``4`` or ``500m``; empty for the cluster's default.
        memory: Memory request as a Kubernetes quantity, such as ``16G`` or ``1.5Gi``; empty for the cluster's default.
        retries: How often a step is repeated after its pod died, 0 to 20; finished work is not repeated.

    Raises:
        InputError: The cluster, or the compiler, would refuse a value.
    """

    image: str = IMAGE
    accelerator: str = ""
    accelerators: int = 1
    cpu: str = ""
    memory: str = ""
    retries: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no name, quantity or number of the kind."""
        admit_image(self.image)
        if self.accelerator:
            admit_accelerator(self.accelerator)
        for name, value, least, most in (
            ("accelerators", self.accelerators, 1, 64),
            ("retries", self.retries, 0, MOST_RETRIES),
        ):
            if not least <= value <= most:
                raise InputError(f"Expected {name} from {least} to {most}, got {value}; give another number.")
        cpu_request(self.cpu)
        memory_request(self.memory)


def add_search(
    config: RunConfig, placed: Callable[..., dsl.PipelineTask], ports: dict[str, Any], dataset: Any
) -> tuple[Any, Any]:
    """Add the steps of a search to the pipeline that is being built; return its leaderboard and its history.

    Args:
        config: Says how many rounds and shards there are.
        placed: Gives a task its place on the cluster.
        ports: The run and addresses, which every step takes.
        dataset: The prepared images.
    """
    shards = config.search.shards
    if shards == 1:
        found = placed(search(**ports, dataset=dataset), computes=True)
        return found.outputs["leaderboard"], found.outputs["history"]
    # The state and the records of all rounds so far go from round to round; no step looks for them anywhere else.
    timed = config.search.constraints.max_latency is not None  # where networks run, or it would be another machine's
    started = placed(start_search(**ports), computes=timed)
    state, records = started.outputs["state"], started.outputs["records"]
    for number in range(1, workflow.num_rounds(config) + 1):
        so_far = {**ports, "state": state, "earlier": records}
        # The number of rounds is known beforehand; those after the end of a search have nothing to score.
        with dsl.ParallelFor(list(range(shards)), name=f"round-{number}") as shard:
            scored = placed(score_shard(**so_far, dataset=dataset, shard=shard, shards=shards), computes=True)
        closed = placed(close_round(**so_far, scores=dsl.Collected(scored.outputs["scores"])))
        state, records = closed.outputs["following"], closed.outputs["records"]
    ranked = placed(rank_candidates(**ports, state=state, records=records))
    return ranked.outputs["leaderboard"], ranked.outputs["history"]


def build(
    config: RunConfig,
    resources: Resources | None = None,
    *,
    store: str = "",
    tracking_uri: str = "",
    kubeflow: str = "",
) -> Any:
    """Return the pipeline of a run.

    The run's configuration is the default of a parameter, which can be replaced at submission. What makes the graph
    can't: the candidates that are meta-trained, the number of rounds and of shards, and whether latency is limited, for
    it is measured where the computing steps are placed.

    Args:
        config: The run.
        resources: What the steps ask of the cluster.
        store: Default address of the artifact store.
        tracking_uri: Default address of MLflow.
        kubeflow: Default address of Kubeflow's pages, which the run in MLflow links to.
    """
    resources = resources or Resources()
    roles: list[Any] = list(config.trained_roles)
    config_given = config  # the pipeline has a parameter of that name

    def placed(task: dsl.PipelineTask, *, computes: bool = False) -> dsl.PipelineTask:
        task.set_container_image(resources.image)
        if resources.retries:
            task.set_retry(resources.retries, backoff_duration="10s", backoff_factor=2.0)
        if computes and resources.cpu:
            task.set_cpu_request(cpu_request(resources.cpu))
        if computes and resources.memory:
            task.set_memory_request(memory_request(resources.memory))
        if computes and resources.accelerator:
            task.set_accelerator_type(resources.accelerator).set_accelerator_limit(resources.accelerators)
        return task

    @dsl.pipeline(
        name=PIPELINE_NAME, description="Rank candidates at initialisation, meta-train, evaluate and register."
    )
    def search_and_meta_train(
        config: str = config.to_json(), store: str = store, tracking_uri: str = tracking_uri, kubeflow: str = kubeflow
    ) -> None:
        addresses: dict[str, Any] = {"store": store, "tracking_uri": tracking_uri}
        begun: dict[str, Any] = {**addresses, "config": config, "pipeline": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        with dsl.ExitHandler(placed(close_run(**begun)), name="run"):
            prepared = placed(prepare_dataset(**begun, kubeflow=kubeflow))
            dataset = prepared.outputs["dataset"]
            ports: dict[str, Any] = {**addresses, "run": prepared.outputs["run"]}
            leaderboard, history = add_search(config_given, placed, ports, dataset)
            with dsl.ParallelFor(roles, name="candidates") as role:
                trained = placed(
                    meta_train(**ports, role=role, dataset=dataset, leaderboard=leaderboard),
                    computes=True,
                )
                evaluated = placed(
                    evaluate(**ports, role=role, dataset=dataset, model=trained.outputs["model"]), computes=True
                )

            def results() -> dict[str, Any]:
                # Built anew for each consumer: the compiler changes a Collected when it meets it.
                return {
                    "roles": roles,
                    "dataset": dataset,
                    "models": dsl.Collected(trained.outputs["model"]),
                    "evaluations": dsl.Collected(evaluated.outputs["evaluation"]),
                }

            reported = placed(write_report(**ports, **results(), leaderboard=leaderboard, history=history))
            placed(register_model(**ports, **results())).after(reported)

    return search_and_meta_train


def write(
    config: RunConfig,
    path: Path,
    resources: Resources,
    *,
    store: str = "",
    tracking_uri: str = "",
    kubeflow: str = "",
) -> None:
    """Write the compiled pipeline; equal arguments give equal bytes.

    Raises:
        InputError: The file can't be written there, its name doesn't end in .yaml, or an address is none for pods.
    """
    admit_addresses(store, tracking_uri, kubeflow)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"Expected the name of a YAML file for the pipeline, but got {path}; end it in .yaml.")
    pipeline = build(config, resources, store=store, tracking_uri=tracking_uri, kubeflow=kubeflow)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compiled = Path(folder) / path.name
            compiler.Compiler().compile(pipeline, str(compiled))
            os.replace(compiled, path)
    except OSError as error:
        raise InputError(
            f"Can't write the pipeline to {path}: {error.strerror}; choose a folder that exists and is writable."
        ) from error
