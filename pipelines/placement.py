"""How a task is placed on a cluster: a task and what a profile says of its step enter, the task leaves, placed."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from kfp import dsl, kubernetes

from components.step import IMAGE
from metantk_core.wiring import ACCELERATOR
from pipelines.caching import CACHING
from pipelines.cluster_values import SHARED_MEMORY_VOLUME, quantity, seconds
from pipelines.profile import Placement, Profile, StepName

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""By which Kueue takes a pod into a local queue (https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods)."""


class Placer:
    """Places the tasks of a pipeline as a profile says.

    Args:
        profile: Says what each step asks of the cluster.
        latency: Whether latency is limited: it is measured where networks run, or it would be another machine's.
        caching: Whether Kubeflow may take results of earlier runs, for the steps where that hides nothing.
    """

    def __init__(self, profile: Profile, *, latency: bool = False, caching: bool = True) -> None:
        self.profile = profile
        self._latency = latency
        self._caching = caching

    def __call__(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Return the task, placed."""
        step = cast(StepName, task.component_spec.name.replace("-", "_"))
        measures = step == "start_search" and self._latency
        task.set_caching_options(self._caching and CACHING[step].on)
        return place(task, self.profile.placement(step, computes=True if measures else None))


def place(task: dsl.PipelineTask, wanted: Placement) -> dsl.PipelineTask:
    """Return a task that asks of the cluster what is wanted; the local runner ignores most of it."""
    task.set_container_image(wanted.image or IMAGE)
    if wanted.retries and wanted.retries.count:
        task.set_retry(
            wanted.retries.count,
            backoff_duration=f"{seconds(wanted.retries.wait)}s",
            backoff_factor=wanted.retries.factor,
            # Not a limit of the pause: Argo repeats nothing later than this after the first start, and KFP's default,
            # an hour, is shorter than many a step.
            backoff_max_duration=f"{seconds(wanted.retries.within)}s",
        )
    for amount, ask in (
        (wanted.cpu, task.set_cpu_request),
        (wanted.cpu_limit, task.set_cpu_limit),
        (wanted.memory, task.set_memory_request),
        (wanted.memory_limit, task.set_memory_limit),
    ):
        if amount:
            ask(amount)
    if wanted.gpus:
        task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpus)
        task.set_env_variable(ACCELERATOR, str(wanted.gpu_type))  # a step that gets none says so
    for name, value in {**_threads(wanted), **dict(_set(wanted.environment))}.items():
        task.set_env_variable(name, value)
    _place_on_nodes(task, wanted)
    _mount(task, wanted)
    return task


def _set(joined: Mapping[str, str | None] | None) -> Iterator[tuple[str, str]]:
    """Yield the keys and values that were not taken away."""
    yield from ((key, value) for key, value in (joined or {}).items() if value is not None)


def _threads(wanted: Placement) -> dict[str, str]:
    """Return as many threads as a step may have cores; torch would take all of the node's, whoever works there."""
    cores = wanted.cpu_limit or wanted.cpu
    return {"OMP_NUM_THREADS": str(math.ceil(quantity(cores)))} if cores else {}


def _place_on_nodes(task: dsl.PipelineTask, wanted: Placement) -> None:
    for key, value in _set(wanted.node_selector):
        kubernetes.add_node_selector(task, key, value)
    for toleration in wanted.tolerations:
        kubernetes.add_toleration(
            task, toleration.key, toleration.operator, toleration.value, toleration.effect, toleration.seconds
        )
    for key, value in {**dict(_set(wanted.labels)), **({QUEUE_LABEL: wanted.queue} if wanted.queue else {})}.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in _set(wanted.annotations):
        kubernetes.add_pod_annotation(task, key, value)
    if wanted.timeout:
        kubernetes.set_timeout(task, seconds(wanted.timeout))
    if wanted.image_pull_policy:
        kubernetes.set_image_pull_policy(task, wanted.image_pull_policy)
    if wanted.image_pull_secrets:
        secrets: Any = list(wanted.image_pull_secrets)
        kubernetes.set_image_pull_secrets(task, secrets)


def _mount(task: dsl.PipelineTask, wanted: Placement) -> None:
    for volume in wanted.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.mount, volume.sub_path)
    if wanted.shared_memory:
        kubernetes.empty_dir_mount(task, SHARED_MEMORY_VOLUME, "/dev/shm", "Memory", wanted.shared_memory)  # noqa: S108
    for secret in wanted.secrets:
        for variable, key in secret.variables.items():  # one by one, for two variables may have the same value
            kubernetes.use_secret_as_env(task, secret.name, {key: variable}, optional=secret.optional)
