"""Compiled pipelines: a file enters; its name, digest and parameters leave, and the same without Kubeflow's cache."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from metantk_core.adapters.addresses import may_hold_secret, scheme, shown
from metantk_core.errors import InputError, quoted
from metantk_core.files import open_regular, reason
from metantk_core.secrecy import may_be_secret

_MOST_BYTES = 32 * 2**20  # KFP's own limit of an upload
_DIGITS = 12
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a large pipeline takes the other one ten seconds
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_KINDS = {
    "STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool, "LIST": list, "STRUCT": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        name: Name of the pipeline.
        content: The YAML, as the compiler wrote it.
        parameters: KFP's words for the types of its parameters, such as ``STRING``, by name.
        required: Names of the parameters without a default.
        defaults: Values of the others.
    """

    name: str
    content: bytes
    parameters: Mapping[str, str]
    required: frozenset[str]
    defaults: Mapping[str, object]

    @property
    def digest(self) -> str:
        """Digits that name the content."""
        return hashlib.sha256(self.content).hexdigest()[:_DIGITS]

    def arguments(self, texts: Iterable[str]) -> dict[str, object]:
        """Return values of parameters as KFP takes them.

        Args:
            texts: ``NAME=VALUE``, each; a value that is no string as JSON.

        Raises:
            InputError: There is no such parameter, the value is none of its type or may hold a secret, or a parameter
                that has no default is left out.
        """
        found: dict[str, object] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise InputError(
                    f"Expected --param NAME=VALUE with a parameter of the pipeline ({known}), got {quoted(text)}; see "
                    "the head of the compiled file."
                )
            found[name] = self._value(name, value)
        missing = sorted(self.required - set(found))
        if missing:
            raise InputError(
                f"Expected --param for {', '.join(missing)}, which the pipeline has no default for; add --param "
                f"{missing[0]}=VALUE."
            )
        return found

    def _value(self, name: str, text: str) -> object:
        kind = self.parameters[name]
        if scheme(text) and may_hold_secret(text):
            raise InputError(
                f"The address {shown(text)} of the parameter {name} was given with a user, password, query or "
                "fragment, which everybody who sees the run could read; give it without, and the secret to the pods."
            )
        if may_be_secret(name, text):
            raise InputError(
                f"The value of the parameter {name} (not shown) looks like a secret, which everybody who sees the run "
                "could read; give secrets to the pods."
            )
        if kind == "STRING":
            return text
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        wanted = _KINDS.get(kind, object)
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if not fits and not (wanted is float and isinstance(value, int) and not isinstance(value, bool)):
            raise InputError(
                f"Expected a value of the type {kind} for the parameter {name}, as JSON, got {quoted(text)}; give one "
                f"such as {_example(kind)}."
            )
        return value

    def without_cache(self) -> "Package":
        """Return the same pipeline, all of whose steps run each time: Kubeflow would else give the last results."""
        documents = list(yaml.load_all(self.content, Loader=_LOADER))
        changed = False
        for graph in _graphs(documents[0]):
            for task in graph.get("tasks", {}).values():
                changed |= bool(task.get("cachingOptions", {}).pop("enableCache", False))
        if not changed:
            return self
        written = yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=True, allow_unicode=True).encode()
        return replace(self, content=written)

    def written(self, folder: Path) -> Path:
        """Write it into a folder and return the file."""
        path = folder / "pipeline.yaml"
        path.write_bytes(self.content)
        return path


def is_package(path: Path) -> bool:
    """Return whether a file looks like a compiled pipeline; a configuration is YAML, too."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    try:
        with open_regular(path) as file:
            head = file.read(_MOST_BYTES)
    except (OSError, ValueError):
        return False
    return head.startswith(b"# PIPELINE DEFINITION") or b"\npipelineInfo:" in b"\n" + head


def read_package(path: Path) -> Package:
    """Return the compiled pipeline in a file.

    Raises:
        InputError: It can't be read, or is none that Kubeflow would take.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read the pipeline {path} ({reason(error)}); name a file that 'metantk compile' has written."
        ) from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"Expected a compiled pipeline of at most 32 MiB, but {path} is larger; give it fewer steps.")
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    messages: Any = pipeline_spec_pb2  # which are made when it is imported
    try:
        documents = list(yaml.load_all(content, Loader=_LOADER))
        json_format.ParseDict(documents[0], messages.PipelineSpec())
        for platform in documents[1:]:
            json_format.ParseDict(platform, messages.PlatformSpec())
        name = documents[0]["pipelineInfo"]["name"]
        inputs = documents[0].get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    except (yaml.YAMLError, json_format.ParseError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"Expected a pipeline that KFP 2 has compiled in {path}, got something else; make one with 'metantk "
            "compile'."
        ) from error
    required = {key for key, one in inputs.items() if "defaultValue" not in one and not one.get("isOptional")}
    kinds = {key: str(one.get("parameterType", "STRING")) for key, one in inputs.items()}
    defaults = {key: one["defaultValue"] for key, one in inputs.items() if "defaultValue" in one}
    return Package(name, content, kinds, frozenset(required), defaults)


def _graphs(specification: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = [specification.get("root", {}), *specification.get("components", {}).values()]
    return [part["dag"] for part in parts if "dag" in part]


def _example(kind: str) -> str:
    examples = {"NUMBER_INTEGER": "3", "NUMBER_DOUBLE": "0.5", "BOOLEAN": "true", "LIST": "'[1, 2]'"}
    return examples.get(kind, """'{"key": 1}'""")
