"""A pipeline as a file for a cluster: what the compiler makes of a graph enters; YAML with equal parts once leaves."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from metantk_core.errors import InputError
from metantk_core.search.config import MOST_SHARDS
from pipelines.graph_size import GraphSize, Growth


def write_package(pipeline: Any, path: Path, *, shards: int, most_shards: int = MOST_SHARDS) -> GraphSize:
    """Write a pipeline as YAML, and return how large it is; equal pipelines give equal bytes.

    If it has a parameter ``most_shards``, that becomes what a cluster can run, whatever number is asked for then.

    Args:
        pipeline: What ``dsl.pipeline`` made.
        path: The file, whose name ends in .yaml.
        shards: Number of shards a round that it is likely to run with.
        most_shards: The most for which there is a place.

    Raises:
        InputError: The file can't be written there, its name doesn't end in .yaml, or the pipeline is larger than a
            cluster takes.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"Expected the name of a YAML file for the pipeline, but got {path}; end it in .yaml.")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compiled = Path(folder) / path.name
            compiler.Compiler().compile(pipeline, str(compiled))
            text = compiled.read_text(encoding="utf-8")
            documents = shared(list(yaml.load_all(text, Loader=_Loader)))
            heading = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
            growth = Growth(documents)
            parameters = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
            most = min(growth.most_shards(), most_shards)
            if "most_shards" in parameters:
                parameters["most_shards"]["defaultValue"] = most
            packed = heading + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True)
            compiled.write_text(packed, encoding="utf-8")
            os.replace(compiled, path)
    except OSError as error:
        raise InputError(
            f"Can't write the pipeline to {path}: {error.strerror}; choose a folder that exists and is writable."
        ) from error
    return growth.size(min(shards, most))._replace(package_bytes=len(packed.encode()))


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def shared(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents of a compiled pipeline with equal executors and equal components in it once.

    KFP's compiler copies a pipeline that is used as a step of another one, with all that is in it, for each use.

    Args:
        documents: The pipeline's specification, and what its executors ask of platforms if they ask anything.
    """
    spec = json.loads(json.dumps(documents[0]))
    others = json.loads(json.dumps(documents[1:]))
    platforms = [
        platform["deploymentSpec"]["executors"] for other in others for platform in other["platforms"].values()
    ]
    executors, components = spec["deploymentSpec"]["executors"], spec["components"]

    def asked(label: str) -> Any:
        return executors[label], [platform.get(label) for platform in platforms]

    kept = _first_of_equals({label: asked(label) for label in executors})
    for component in components.values():
        if "executorLabel" in component:
            component["executorLabel"] = kept[component["executorLabel"]]
    for label in [label for label in executors if kept[label] != label]:
        for part in (executors, *platforms):
            part.pop(label, None)
    # What is made of equal components is equal only once these have one name.
    while True:
        kept = _first_of_equals(components)
        twice = [name for name in components if kept[name] != name]
        if not twice:
            return [spec, *others]
        for name in twice:
            del components[name]
        for component in (spec["root"], *components.values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task["componentRef"]["name"] = kept[task["componentRef"]["name"]]


def _first_of_equals(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return for each name the first one, by length and alphabet, of an equal part."""
    first: dict[str, str] = {}
    names = sorted(parts, key=lambda name: (len(name), name))
    return {name: first.setdefault(json.dumps(parts[name], sort_keys=True), name) for name in names}
