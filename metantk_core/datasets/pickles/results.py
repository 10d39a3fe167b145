"""What has been read from a pickle: tokens enter, arrays leave, with limits that make it safe to walk through."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from metantk_core.datasets.pickles.arrays import ArrayToken, LongText, Name, TypeToken
from metantk_core.datasets.pickles.refusals import COPY_ANEW, WRITE_ANEW, RefusalError

Value: TypeAlias = (
    bool
    | int
    | float
    | str
    | bytes
    | memoryview
    | np.generic
    | np.ndarray
    | list[Any]
    | tuple[Any, ...]
    | dict[Any, Any]
    | None
)
"""What a pickle may hold, lists and dictionaries of the same included; keys are text, bytes and whole numbers.

Byte strings of more than 255 bytes are read-only memoryviews of the file.
"""

DEEPEST = 32
"""How many lists, tuples and dictionaries may lie in one another."""
MOST_ELEMENTS = 1 << 24
"""How many values a program meets that walks through the result, shared ones as often as they are met."""
_VISIT = 256  # bytes that a container takes while it is walked through


def finished(value: object, charge: Callable[[int], None]) -> Value:
    """Return a value with its arrays in the place of their tokens.

    Args:
        value: What `Machine.run` returned; its lists and dictionaries are changed.
        charge: Accounts for memory.

    Raises:
        RefusalError: It lies in itself, is too deep or too large, or holds something that is no plain value.
    """
    root = [value]
    extents: dict[int, tuple[int, int]] = {}  # of what is finished: depth, and values in it
    finished_tuples: dict[int, tuple[object, ...]] = {}
    begun: set[int] = set()
    ahead: list[tuple[object, int, bool]] = [(root, 0, False)]
    while ahead:
        container, level, last = ahead.pop()
        key = id(container)
        if key in extents:
            continue
        if last:
            depth, count = 0, 0
            for inner in _inside(container):
                inner_depth, inner_count = extents.get(id(inner), (0, 0)) if _is_container(inner) else (0, 0)
                depth, count = max(depth, inner_depth), count + 1 + inner_count
            if depth > DEEPEST:
                raise _too_deep()
            if count > MOST_ELEMENTS:
                raise RefusalError(f"holds more than {MOST_ELEMENTS:,} values beside those in arrays")
            extents[key] = (depth + 1, count)
            _replace(container, finished_tuples)
            continue
        if key in begun:
            raise RefusalError("holds a list or dictionary that lies in itself")
        if level > DEEPEST:
            raise _too_deep()
        begun.add(key)
        ahead.append((container, level, True))
        inner = {id(inner): inner for inner in _inside(container) if _is_container(inner)}
        charge(_VISIT * (1 + len(inner)))
        ahead.extend((one, level + 1, False) for one in inner.values())
    return root[0]  # pyright: ignore[reportReturnType] - all tokens are replaced or refused


def _too_deep() -> RefusalError:
    return RefusalError(f"holds more than {DEEPEST} lists, tuples or dictionaries in one another")


def _is_container(value: object) -> bool:
    return type(value) in (list, tuple, dict)


def _inside(container: object) -> Iterable[object]:
    return container.values() if isinstance(container, dict) else container  # pyright: ignore[reportReturnType]


def _replace(container: object, finished_tuples: dict[int, tuple[object, ...]]) -> None:
    """Put arrays in the place of their tokens, in a list or dictionary itself, for a tuple in another one."""
    match container:
        case list():
            for place, value in enumerate(container):
                container[place] = _plain(value, finished_tuples)
        case dict():
            for key, value in container.items():
                container[key] = _plain(value, finished_tuples)
        case tuple():
            values = tuple(_plain(value, finished_tuples) for value in container)
            if any(new is not old for new, old in zip(values, container, strict=True)):
                finished_tuples[id(container)] = values


def _plain(value: object, finished_tuples: dict[int, tuple[object, ...]]) -> object:
    match value:
        case tuple():
            return finished_tuples.get(id(value), value)
        case ArrayToken(array=None):
            raise RefusalError("holds an array without its elements", COPY_ANEW)
        case ArrayToken():
            return value.array
        case TypeToken():
            raise RefusalError(f"holds a type of NumPy's ('{value.name}') where a value is expected", WRITE_ANEW)
        case Name():
            raise RefusalError(f"holds {value.value} itself where a value is expected", WRITE_ANEW)
        case LongText():
            raise RefusalError(f"holds a text of {len(value.utf8):,} bytes")
    return value
