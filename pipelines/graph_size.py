"""How large a compiled pipeline becomes on a cluster: its documents enter; numbers, and what is too much, leave.

Kubeflow has Argo run a pipeline as one object, which holds the graph and a node for everything that was begun, with its
inputs; while it grows, Argo compresses the nodes. When that doesn't fit any more, the run ends with an error. What is
counted here follows Kubeflow's compiler for Argo (backend/src/v2/compiler/argocompiler of 2.17) and Argo's controller;
the bytes are an estimate: such nodes are made up and compressed.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

from metantk_core.errors import InputError
from metantk_core.search.config import MOST_SHARDS

LARGEST_WORKFLOW = 2**20
"""Bytes of the object, with compressed nodes, by Argo's default (MAX_WORKFLOW_SIZE); etcd takes half as much again."""

_TEMPLATES_OF_KUBEFLOW = 14_000  # bytes: those of drivers and of containers, in every workflow
_TASK = 900  # bytes around a task's specification
_MOST_MADE_UP = 2_000  # nodes; for more shards it is a straight line
_FILLED = 7 / 8  # of the largest workflow; the rest is for what is repeated
_ROUND = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_SHARDS)
"""Numbers of shards that a pipeline may have at most: few, so that another zlib comes to the same one."""


class GraphSize(NamedTuple):
    """How large a pipeline becomes.

    Attributes:
        package_bytes: The compiled YAML.
        shards: Shards a round, of all that follows.
        steps: Steps of ours that run, at most.
        pods: Their pods and those of Kubeflow's drivers, if nothing is repeated.
        nodes: Nodes of Argo, with a retry around each, as Kubeflow's defaults have it.
        workflow_bytes: The object that Argo keeps: the graph and all nodes, compressed.
        argument_bytes: The longest argument of a step, of which Linux takes 131,072.
    """

    package_bytes: int
    shards: int
    steps: int
    pods: int
    nodes: int
    workflow_bytes: int
    argument_bytes: int

    def sentence(self) -> str:
        """Return the size in words."""
        several = f" in {self.shards} shards" if self.shards > 1 else ""
        return (
            f"It is {self.package_bytes / 1000:,.0f} kB and runs at most {self.steps:,} steps{several}: {self.pods:,} "
            f"pods with Kubeflow's own. Argo will keep about {self.workflow_bytes / 1000:,.0f} kB of at most "
            f"{LARGEST_WORKFLOW / 1000:,.0f} kB ({self.nodes:,} nodes)."
        )


class _Counts(NamedTuple):
    steps: int
    pods: int
    nodes: int


class Growth:
    """How large a pipeline becomes with so and so many shards a round.

    Args:
        documents: The pipeline's specification, and what its executors ask of platforms if they ask anything.
    """

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents
        many = max(4, *(n for n in (4, 16, 64) if _Run(documents, n).counts().nodes <= _MOST_MADE_UP), 0)
        few = many // 4
        status = {number: _Run(documents, number).status_bytes() for number in (few, many)}
        self._more = (status[many] - status[few]) / (many - few)
        self._least = _Run(documents, 1).graph_bytes() + status[few] - few * self._more

    def size(self, shards: int) -> GraphSize:
        """Return how large the pipeline becomes with a number of shards a round: items of a list that a step gives."""
        run = _Run(self._documents, shards)
        return GraphSize(
            package_bytes=0,
            shards=shards,
            **run.counts()._asdict(),
            workflow_bytes=int(self._least + self._more * shards),
            argument_bytes=run.longest_argument(),
        )

    def most_shards(self) -> int:
        """Return the most shards a round, as a round number, with which a cluster can run the pipeline.

        Raises:
            InputError: It is too large with any number.
        """
        if self._least + self._more > _FILLED * LARGEST_WORKFLOW:
            raise InputError(
                f"Expected a pipeline of which Argo keeps at most {LARGEST_WORKFLOW:,} bytes, an eighth of them for "
                f"what is repeated, but the rounds of this one take about {int(self._least + self._more):,} even "
                "without shards; give a store, where shards meet instead of in steps, lower the number of rounds (of "
                "an evolution: raise search.evolve.children), or set search.shards to 1, which makes the search one "
                "step."
            )
        return max(n for n in _ROUND if self._least + n * self._more <= _FILLED * LARGEST_WORKFLOW)


class _Run:
    """A pipeline with a number of shards, as Kubeflow runs it."""

    def __init__(self, documents: list[dict[str, Any]], shards: int) -> None:
        self._spec = documents[0]
        self._components: dict[str, Any] = {**self._spec["components"], "root": self._spec["root"]}
        self._executors = self._spec["deploymentSpec"]["executors"]
        platforms = [platform for other in documents[1:] for platform in other["platforms"].values()]
        self._asked = platforms[0]["deploymentSpec"]["executors"] if platforms else {}
        self._shards = shards

    def counts(self) -> _Counts:
        """Return steps, pods and nodes."""
        inner = self._counts("root")
        return _Counts(inner.steps, inner.pods + 1, inner.nodes + 6)  # the root's driver, and what is around it

    def _counts(self, component: str) -> _Counts:
        steps = pods = nodes = 0
        for task in self._tasks(component).values():
            name = task["componentRef"]["name"]
            below = self._counts(name) if "dag" in self._components[name] else _Counts(1, 1, 4)
            times = 1
            if "parameterIterator" in task:
                times = self._items(task)
                below = _Counts(below.steps, below.pods, below.nodes + 2)  # an iteration
                pods, nodes = pods + 1, nodes + 5  # the loop, its driver and the group of its iterations
            hook = 2 if "triggerPolicy" in task else 0
            # Each iteration and each step has a driver; retries are around all.
            steps += times * below.steps
            pods += times * (below.pods + 1)
            nodes += times * (below.nodes + (4 if "dag" in self._components[name] else 2)) + hook
        return _Counts(steps, pods, nodes)

    def graph_bytes(self) -> int:
        """Return the size of the graph as Argo has it, roughly."""
        tasks = [
            (len(_text(task)) + _TASK) * (3 if "parameterIterator" in task else 1)
            for component in self._components
            for task in self._tasks(component).values()
        ]
        parts = [*self._components.values(), *self._executors.values(), *self._asked.values()]
        values = [parameter.get("defaultValue", "") for parameter in self._parameters("root").values()]
        return int(_TEMPLATES_OF_KUBEFLOW + sum(tasks) + sum(len(_text(_text(part))) for part in [*parts, *values]))

    def longest_argument(self) -> int:
        """Return the length of the longest argument: what a step is told of its inputs and outputs."""
        numbers = count(1)
        return max(
            len(_text(self._inputs_and_outputs(name, numbers)))
            for name, component in self._components.items()
            if "executorLabel" in component
        )

    def status_bytes(self) -> int:
        """Return the size of the nodes that Argo keeps at the end, compressed as Argo does that."""
        nodes = dict(self._nodes("root", "root", count(1)))
        # Argo keeps them in the order of their names, which are numbers without order.
        whole = ",".join(f"{_text(name)}:{nodes[name]}" for name in sorted(nodes))
        return len(base64.b64encode(zlib.compress(whole.encode(), 6)))

    def _nodes(self, component: str, place: str, numbers: Iterator[int]) -> Iterator[tuple[str, str]]:
        for task_name, task in self._tasks(component).items():
            name = task["componentRef"]["name"]
            looped = "parameterIterator" in task
            if looped:
                yield from self._around(f"{place}.{task_name}", "DAG", {}, numbers)
                yield from self._driver(f"{place}.{task_name}.iteration", name, task, numbers)
            for item in range(self._items(task) if looped else 1):
                where = f"{place}.{task_name}" + (f".iteration({item}:{item})" if looped else "")
                if looped:
                    yield from self._around(where, "DAG", {"iteration-index": item}, numbers)
                if "dag" in self._components[name]:
                    yield from self._driver(where, name, task, numbers)
                    yield from self._around(where, "DAG", {"condition": "true"}, numbers)
                    yield from self._nodes(name, where, numbers)
                else:
                    patch = self._patch(name, numbers)
                    yield from self._driver(where, name, task, numbers, patch)
                    for kind in ("DAG", "Pod"):
                        yield from self._around(f"{where}.executor", kind, {"pod-spec-patch": patch}, numbers)

    def _driver(
        self, where: str, name: str, task: Any, numbers: Iterator[int], patch: str = ""
    ) -> Iterator[tuple[str, str]]:
        component = self._components[name]
        label = component.get("executorLabel")
        told = {"component": _text(component), "task": _text(task), "task-name": where.rpartition(".")[2]}
        if label:
            told |= {"container": _text(self._executors[label]), "kubernetes-config": _text(self._asked.get(label, {}))}
        yield from self._around(f"{where}-driver", "Pod", told, numbers, {"pod-spec-patch": patch} if patch else {})

    def _around(
        self,
        where: str,
        kind: str,
        inputs: Mapping[str, Any],
        numbers: Iterator[int],
        outputs: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Yield a node and the retry around it, which has the same inputs."""
        for around in ("Retry", kind):
            number = next(numbers)
            name = f"metantk-search-and-meta-train-x7k2p-{_digits(number, 10)}"
            node = {
                "id": name,
                "name": f"metantk-search-and-meta-train-x7k2p.{where}{'(0)' if around == kind else ''}",
                "displayName": where.rpartition(".")[2],
                "type": around,
                "templateName": "system-container-driver",
                "templateScope": "local/metantk-search-and-meta-train-x7k2p",
                "phase": "Succeeded",
                "boundaryID": f"metantk-search-and-meta-train-x7k2p-{_digits(number // 4, 10)}",
                "startedAt": f"2026-01-01T{_digits(number, 6)}Z",
                "finishedAt": f"2026-01-01T{_digits(-number, 6)}Z",
                "progress": "1/1",
                "resourcesDuration": {"cpu": number % 7, "memory": number % 89},
                "inputs": {"parameters": [{"name": key, "value": value} for key, value in inputs.items()]},
                "outputs": {
                    "parameters": [{"name": key, "value": value} for key, value in (outputs or {}).items()],
                    "artifacts": [{"name": "main-logs", "s3": {"key": f"private-artifacts/{name}/main.log"}}],
                    "exitCode": "0",
                },
                "children": [f"metantk-search-and-meta-train-x7k2p-{_digits(number + 1, 10)}"],
                "hostNodeName": f"gke-cluster-pool-{number % 16}",
            }
            yield name, _text(node)

    def _patch(self, name: str, numbers: Iterator[int]) -> str:
        """Return what a step's driver makes of it: a pod's container, told everything about the step."""
        component = self._components[name]
        container = self._executors[component["executorLabel"]]["container"]
        told = _text(self._inputs_and_outputs(name, numbers))
        arguments = [_text(component) if part == "--component_spec" else part for part in container.get("args", [])]
        launcher = [
            "--run_id",
            _digits(1, 32),
            "--executor_input",
            told,
            "--component_spec",
            _text(component),
            "--",
            told,
        ]
        return _text(
            {
                "containers": [
                    {
                        "name": "main",
                        "image": container["image"],
                        "command": ["/kfp-launcher/launch", *launcher],
                        "args": [*container.get("command", []), *arguments],
                        "resources": container.get("resources", {}),
                        "env": container.get("env", []),
                    },
                    self._asked.get(component["executorLabel"], {}),
                ]
            }
        )

    def _inputs_and_outputs(self, name: str, numbers: Iterator[int]) -> dict[str, Any]:
        component = self._components[name]
        inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
        values = {key: parameter.get("defaultValue", "") for key, parameter in self._parameters("root").items()}
        artifacts: dict[str, Any] = {
            key: {
                "artifacts": [
                    _artifact(key, next(numbers)) for _ in range(self._shards if kind.get("isArtifactList") else 1)
                ]
            }
            for key, kind in inputs.get("artifacts", {}).items()
        }
        return {
            "inputs": {
                "parameterValues": {key: values.get(key, "a text") for key in inputs.get("parameters", {})},
                "artifacts": artifacts,
            },
            "outputs": {
                "parameters": {key: {"outputFile": f"/outputs/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": {
                    key: {"artifacts": [_artifact(key, next(numbers))]} for key in outputs.get("artifacts", {})
                },
                "outputFile": f"/outputs/{_digits(next(numbers), 32)}/executor_output.json",
            },
        }

    def _tasks(self, component: str) -> dict[str, Any]:
        return self._components[component].get("dag", {}).get("tasks", {})

    def _parameters(self, component: str) -> dict[str, Any]:
        return self._components[component].get("inputDefinitions", {}).get("parameters", {})

    def _items(self, task: Any) -> int:
        raw = task["parameterIterator"]["items"].get("raw")
        return self._shards if raw is None else len(json.loads(raw))


def _artifact(name: str, number: int) -> dict[str, Any]:
    """Return an artifact as a step is told of it."""
    run, task = _digits(0, 32), _digits(number, 32)
    return {
        "name": _digits(number, 6),
        "type": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"},
        "uri": f"minio://mlpipeline/v2/artifacts/metantk-search-and-meta-train/{run}/score-shard/{task}/{name}",
        "metadata": {"display_name": name, "store_session_info": "{}"},
    }


def _digits(number: int, length: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:length]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
