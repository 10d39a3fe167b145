"""Texts of settings: YAML or JSON, a file or a value, enters; plain values leave, read as YAML 1.2 and JSON are.

What a person may read otherwise than the program is refused: a key that stands twice, ``010`` (8 in YAML 1.1, 10 in
1.2). ``yes``, ``no``, ``on``, ``off``, ``1:30`` and dates are words, as in YAML 1.2; tags other than those of plain
values are refused, so nothing in a text is ever run.
"""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from metantk_core.errors import InputError

LARGEST_FILE = 2**20
"""Bytes of a file of settings: a thousand times what all settings with a comment each take."""
HOW: dict[str, Any] = {"how": True}
"""Mark of a setting (``json_schema_extra``) that says how a run is run and can't change a number of it."""
_DEEPEST = 32  # levels; settings have four
_MOST_VALUES = 10_000  # aliases counted as often as they are used
_DIGITS = 100  # of a whole number

_TAG = "tag:yaml.org,2002:"
# The core schema of YAML 1.2, section 10.3.2.
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read_settings(path: Path) -> object:
    """Return the values of a YAML or JSON file; one whose name ends in ``.json`` is read as JSON.

    Raises:
        InputError: It is no file, too large, not UTF-8, or not understood; says where.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(
                f"Expected a configuration file, but {path} is no file; give the path of a YAML or JSON file."
            )
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Can't read the configuration file {path}: {reason}; check the path.") from error
    if len(data) > LARGEST_FILE:
        raise InputError(f"Expected settings, but {path} is larger than {LARGEST_FILE:,} bytes; check the path.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"Expected UTF-8 text in {path}, but line {line} is not; save it as UTF-8.") from error
    try:
        return parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except InputError as error:
        raise InputError(f"Can't use {path}: {error}; correct the file.") from error


def parse_json(text: str) -> object:
    """Return the values of a JSON text.

    Raises:
        InputError: It is no JSON, a key stands twice, or it is nested too deep; a part of a sentence.
    """
    try:
        return _checked(json.loads(text, object_pairs_hook=_distinct))
    except json.JSONDecodeError as error:
        raise InputError(
            f"expected JSON, but line {error.lineno} column {error.colno} is none ({error.msg})"
        ) from error
    except RecursionError as error:
        raise InputError(f"expected settings, but it is nested deeper than {_DEEPEST} levels") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a whole number of at most {_DIGITS} digits, but one is longer") from error


def parse_yaml(text: str) -> object:
    """Return the values of a YAML text.

    Raises:
        InputError: No YAML, a key stands twice, or a value is not plain; a part of a sentence that names the line.
    """
    try:
        node = _Loader(text).get_single_node()
        return None if node is None else _checked(_Values().of(node, 0))
    except yaml.YAMLError as error:
        raise InputError(_complaint(error)) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, with a limit on nesting; what the scalars mean is decided by ``_Values``."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML reads it from the class
    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self._depth > _DEEPEST:
            raise InputError(f"expected settings, but it is nested deeper than {_DEEPEST} levels")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Values:
    """Nodes to values; an alias is counted every time, so that a few lines can't stand for billions of values."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: Node, depth: int) -> Any:
        self._count += 1
        if depth > _DEEPEST or self._count > _MOST_VALUES:
            what = f"nested deeper than {_DEEPEST} levels" if depth > _DEEPEST else f"more than {_MOST_VALUES:,} values"
            raise InputError(f"expected settings, but it is {what}")
        if isinstance(node, ScalarNode):
            return _scalar(node)
        kind = "map" if isinstance(node, MappingNode) else "seq"
        if node.tag != _TAG + kind:
            raise _refusal(node, f"the tag {_short(node.tag)} is not understood; leave it out")
        if isinstance(node, SequenceNode):
            return [self.of(item, depth + 1) for item in node.value]
        pairs: dict[str, Any] = {}
        for name, value in node.value:
            key = _scalar(name) if isinstance(name, ScalarNode) else None
            if not isinstance(key, str):
                raise _refusal(
                    name, "expected a name before the ':'; write a word, in quotes if it is a number, true or null"
                )
            if key in pairs:
                raise _refusal(name, f"the key {_short(key)} stands there a second time; leave one of both")
            pairs[key] = self.of(value, depth + 1)
        return pairs


def _scalar(node: ScalarNode) -> str | int | float | bool | None:
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind == "str":
        return text if node.style else _plain(node, text)
    if kind in ("null", "bool", "int", "float"):  # said with a tag, as in !!int "3"
        value = _plain(node, text)
        allowed = {"null": type(None), "bool": bool, "int": int, "float": int | float}[kind]
        if isinstance(value, allowed) and (kind == "bool" or not isinstance(value, bool)):
            return float(value) if kind == "float" and value is not None else value
        raise _refusal(node, f"{_short(text)} is no {kind}")
    raise _refusal(node, f"the tag {_short(node.tag)} is not understood; leave it out")


def _plain(node: ScalarNode, text: str) -> str | int | float | bool | None:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        digits = text.lstrip("+-")
        if len(digits) > _DIGITS:
            raise _refusal(node, f"expected a whole number of at most {_DIGITS} digits, but one is longer")
        if digits[:2] in ("0o", "0x"):
            return int(digits, 0)
        if len(digits) > 1 and digits[0] == "0":
            raise _refusal(
                node, f"{text} means {_octal(digits)} to some programs and {int(text)} to others; write it without 0"
            )
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return _SPECIAL.get(text.lower(), text)


def _octal(digits: str) -> str:
    return str(int(digits, 8)) if set(digits) <= set("01234567") else "a word"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise InputError(f"the key {_short(key)} stands there twice; leave one of both")
        values[key] = value
    return values


def _checked(value: Any, depth: int = 0) -> Any:
    """Refuse what no setting can hold: control characters and halves of characters, nesting and numbers without end."""
    if depth > _DEEPEST:
        raise InputError(f"expected settings, but it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, str) and _CONTROL.search(value):
        raise InputError("expected text, but a value holds a control character or no valid UTF-8")
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        raise InputError(f"expected a whole number of at most {_DIGITS} digits, but one is longer")
    if isinstance(value, dict):
        for key, below in value.items():
            _checked(key, depth + 1)
            _checked(below, depth + 1)
    elif isinstance(value, list):
        for below in value:
            _checked(below, depth + 1)
    return value


def _complaint(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(error.problem or error.context).split())
        return f"expected YAML, but it is none ({what}{f', line {mark.line + 1}' if mark else ''})"
    return "expected YAML, but it holds a control character or no valid UTF-8"


def _refusal(node: Node, what: str) -> InputError:
    return InputError(f"line {node.start_mark.line + 1}: {what}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
