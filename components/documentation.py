"""READMEs of components: docstrings and metadata enter, ``python -m components.documentation`` writes them all."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docstring_parser
import yaml

FOLDER = Path(__file__).parent
METADATA = "metadata.yaml"


def components() -> dict[str, Any]:
    """Return the components by name."""
    names = sorted(path.parent.name for path in FOLDER.glob(f"*/{METADATA}"))
    return {name: getattr(importlib.import_module(f"components.{name}"), name) for name in names}


def metadata(name: str) -> dict[str, Any]:
    """Return what is said about a component beside its source."""
    return yaml.safe_load((FOLDER / name / METADATA).read_text(encoding="utf-8"))


def readme(name: str, component: Any) -> str:
    """Return the README of a component.

    Args:
        name: Its name.
        component: What ``dsl.component`` made of its function.
    """
    spec, about = component.component_spec, metadata(name)
    described = docstring_parser.parse(
        inspect.getdoc(component.python_func) or "", docstring_parser.DocstringStyle.GOOGLE
    )
    words = {part.arg_name: part.description or "" for part in described.params}
    if described.returns is not None:
        words["Output"] = described.returns.description or ""
    summary = "\n\n".join(filter(None, [described.short_description, described.long_description]))
    called = [f"    {key}=...," for key in spec.inputs or {} if not _is_status(spec.inputs[key])]
    services = [
        f"{service['name']} {service['version']}" for services in about["dependencies"].values() for service in services
    ]
    parts = [
        f"# {name.replace('_', ' ').capitalize()}\n",
        f"{summary}\n",
        f"Stability: {about['stability']}. Needs {', '.join(services)}, and an image that holds `metantk_core`.\n",
        *_table("Inputs", spec.inputs, words),
        *_table("Outputs", spec.outputs, words),
        "## Use\n",
        "```python",
        f"from components.{name} import {name}\n",
        f"task = {name}(",
        *called,
        ")",
        "```\n",
        f"Tags: {', '.join(about['tags'])}.",
    ]
    return "\n".join(parts) + "\n"


def write() -> None:
    """Write the READMEs of all components."""
    for name, component in components().items():
        (FOLDER / name / "README.md").write_text(readme(name, component), encoding="utf-8")


def _table(title: str, ports: Any, words: Mapping[str, str]) -> list[str]:
    rows = [
        f"| `{name}` | {_kind(port)} | {' '.join(words[name].split()).replace('``', '`')} |"
        for name, port in (ports or {}).items()
    ]
    return [f"## {title}\n", "| name | type | |", "|---|---|---|", *rows, ""] if rows else []


def _kind(port: Any) -> str:
    kind = str(port.type).removeprefix("system.").partition("@")[0]
    return f"list of {kind}" if getattr(port, "is_artifact_list", False) else kind


def _is_status(port: Any) -> bool:
    """Return whether Kubeflow fills an input in itself."""
    return "Status" in str(port.type)


if __name__ == "__main__":
    write()
