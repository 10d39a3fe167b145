"""Arrays of a pickle: the calls by which NumPy stores them enter, read-only views of the file leave.

A name that a pickle asks for is a `Name` and never the thing itself. What such a name is called with must be, to the
letter, what NumPy writes; then this module makes what NumPy would have made.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np

from metantk_core.datasets.pickles.refusals import COPY_ANEW, DISTRUST, RefusalError

SHORT_BYTES = 255
"""Byte strings up to this length are copied out of the file; longer ones are views of it."""
LONGEST_TEXT = 1 << 10
"""Bytes of text that becomes a string; what is longer can only be bytes that Python 3 wrote as text for Python 2."""
_MOST_AXES = 32
_LONGEST_AXIS = 1 << 40
_PIECE = 1 << 18
DECODING = 8 * _PIECE
"""Bytes of memory that decoding a long text takes for a while, its result aside."""
_OVERHEAD = 384  # bytes of an array and its token, or of a view, without its elements
_SCALAR = 96
_TYPES = {name: np.dtype(name) for name in ("b1", "u1", "i1", "i2", "i4", "i8", "f4", "f8")}


class Name(Enum):
    """Something that a pickle of arrays asks for by name; the value is that name for people."""

    RECONSTRUCT = "numpy's _reconstruct"
    SCALAR = "numpy's scalar"
    FROM_BUFFER = "numpy's _frombuffer"
    ARRAY = "numpy.ndarray"
    TYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    BYTES = "bytes"


# NumPy 2 renamed `core`; Python 2 called `builtins` otherwise.
NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Name.RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Name.SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Name.FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): Name.ARRAY,
    ("numpy", "dtype"): Name.TYPE,
    ("_codecs", "encode"): Name.ENCODE,
    ("__builtin__", "bytes"): Name.BYTES,
}


@dataclass(eq=False, slots=True)
class TypeToken:
    """A type of elements; without a ``dtype`` until the pickle has said in which order their bytes are.

    Attributes:
        name: One of `_TYPES`.
        dtype: The type.
    """

    name: str
    dtype: np.dtype | None = None


@dataclass(eq=False, slots=True)
class ArrayToken:
    """An array; without its ``array`` until the pickle has given its elements."""

    array: np.ndarray | None = None


@dataclass(eq=False, slots=True)
class LongText:
    """Text too long for anything but bytes in disguise: its UTF-8, a view of the file."""

    utf8: memoryview


Charge = Callable[[int], None]
"""Accounts for bytes of memory before they are taken, and refuses if there are too many."""


def called(name: Name, arguments: tuple[object, ...], charge: Charge) -> object:
    """Return what a call gives.

    Args:
        name: What is called.
        arguments: What with.
        charge: Accounts for memory.

    Raises:
        RefusalError: NumPy writes no such call, or what it says of an array can't be.
    """
    match name, arguments:
        case Name.TYPE, (kind, align, copy) if _pair(align, copy):
            return _type_named(kind)
        case Name.RECONSTRUCT, (Name.ARRAY, tuple((zero,)), kind) if _is(zero, 0) and _letters(kind) == "b":
            charge(_OVERHEAD)
            return ArrayToken()
        case Name.FROM_BUFFER, (raw, TypeToken() as kind, shape, order):
            charge(_OVERHEAD)
            return ArrayToken(_array(raw, kind, shape, _letters(order), charge))
        case Name.FROM_BUFFER, (raw, TypeToken() as kind, shape, "K", axes):
            charge(_OVERHEAD)
            return ArrayToken(_turned(_array(raw, kind, shape, "C", charge), axes))
        case Name.SCALAR, (TypeToken() as kind, raw):
            charge(_SCALAR)
            return _array(raw, kind, (), "C", charge)[()]
        case Name.ENCODE, (str() | LongText() as text, "latin1"):
            return _encoded(text, charge)
        case Name.BYTES, ():
            return b""
    raise RefusalError(f"calls {name.value} in a way in which no array is stored", DISTRUST)


def build(target: object, state: object, charge: Charge) -> None:
    """Give a type its byte order or an array its elements.

    Args:
        target: The type or array.
        state: What the pickle sets it to.
        charge: Accounts for memory.

    Raises:
        RefusalError: It is neither, has its state already, or NumPy writes no such state.
    """
    match target, state:
        case TypeToken(dtype=None), tuple():
            target.dtype = _ordered(target.name, state)
        case ArrayToken(array=None), tuple((version, shape, TypeToken() as kind, bool() as fortran, raw)) if _is(
            version, 1
        ):
            target.array = _array(raw, kind, shape, "F" if fortran else "C", charge)
        case TypeToken(dtype=None) | ArrayToken(array=None), _:
            what = "a type" if isinstance(target, TypeToken) else "an array"
            raise RefusalError(f"sets {what} to a state that NumPy writes for none of numbers", DISTRUST)
        case _:
            raise RefusalError(f"sets the state of {_described(target)}", DISTRUST)


def _described(value: object) -> str:
    match value:
        case TypeToken() | ArrayToken():
            return "a type or an array that has one already"
        case Name():
            return value.value
    return f"something that is no array ({type(value).__name__})"


def _is(value: object, expected: object) -> bool:
    """Return whether a value is exactly another one: neither True nor 1.0 is 1."""
    return type(value) is type(expected) and value == expected


def _pair(align: object, copy: object) -> bool:
    """Return whether two arguments are those of every plain type; before NumPy 1.17 they were written as numbers."""
    return (align is False and copy is True) or (_is(align, 0) and _is(copy, 1))


def _letters(value: object) -> str:
    """Return a short text, which Python 2 wrote as bytes; empty for anything else."""
    if type(value) is bytes:
        return value.decode("ascii", "replace")
    return value if type(value) is str else ""


def _type_named(kind: object) -> TypeToken:
    name = _letters(kind)
    if name not in _TYPES:
        asked = repr(name[:20]) if name else f"no name ({type(kind).__name__})"
        raise RefusalError(
            f"holds an array of NumPy's type {asked}",
            f"expected one of {', '.join(_TYPES)}. Convert it, and write it anew with np.savez, in a program that you "
            "trust",
        )
    return TypeToken(name)


def _ordered(name: str, state: tuple[object, ...]) -> np.dtype:
    orders = ("|",) if _TYPES[name].itemsize == 1 else ("<", ">")
    if len(state) == 8:
        version, order, *nothing, size, alignment, flags = state
        plain = _is(version, 3) and _is(size, -1) and _is(alignment, -1) and _is(flags, 0)
        if plain and all(value is None for value in nothing) and _letters(order) in orders:
            return np.dtype(f"{_letters(order)}{name}")
    raise RefusalError(f"sets NumPy's type '{name}' to a state that no plain number has", DISTRUST)


def _array(raw: object, kind: TypeToken, shape: object, order: str, charge: Charge) -> np.ndarray:
    """Return a read-only view of the elements; of truth values a copy, since only 0 and 1 may stand for one."""
    dtype = kind.dtype
    if dtype is None:
        raise RefusalError("holds an array whose type is unfinished", DISTRUST)
    if type(shape) is not tuple or len(shape) > _MOST_AXES:
        raise RefusalError("holds an array without a shape", DISTRUST)
    if not all(type(axis) is int and 0 <= axis <= _LONGEST_AXIS for axis in shape):
        raise RefusalError("holds an array whose axes have impossible lengths", DISTRUST)
    if order not in ("C", "F"):
        raise RefusalError("holds an array whose elements are in an unknown order", DISTRUST)
    if type(raw) is not bytes and type(raw) is not memoryview:
        raise RefusalError(f"holds an array whose elements are no bytes ({type(raw).__name__})", DISTRUST)
    size = prod(shape) * dtype.itemsize
    if size != len(raw):
        raise RefusalError(
            f"holds an array that claims {size:,} bytes ({dtype} of shape {list(shape)}) and has {len(raw):,}",
            COPY_ANEW,
        )
    try:
        array = np.ndarray(shape, np.uint8 if dtype.kind == "b" else dtype, raw, order=order)
    except ValueError:  # an empty array whose other axes multiply to more than NumPy can count
        raise RefusalError("holds an array whose axes have impossible lengths", DISTRUST) from None
    if dtype.kind == "b":
        charge(size)
        array = np.not_equal(array, 0, out=np.empty(shape, np.bool_, order=order))
    array.flags.writeable = False
    return array


def _turned(array: np.ndarray, axes: object) -> np.ndarray:
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes):
        raise RefusalError("orders the axes of an array by what are no numbers", DISTRUST)
    if sorted(axes) != list(range(array.ndim)):  # pyright: ignore[reportArgumentType] - integers, as was just seen
        raise RefusalError("orders the axes of an array in a way in which none can be", DISTRUST)
    return array.transpose(axes)


def _encoded(text: str | LongText, charge: Charge) -> bytes | memoryview:
    """Return the bytes that Python 3 wrote as text, each as one character, for Python 2 to read."""
    try:
        if isinstance(text, str):
            charge(len(text) + (_OVERHEAD if len(text) > SHORT_BYTES else 64))
            data = text.encode("latin-1")
            return data if len(data) <= SHORT_BYTES else memoryview(data)
        pieces = [text.utf8[start : start + _PIECE] for start in range(0, len(text.utf8), _PIECE)]
        starts = sum(int(np.count_nonzero(np.frombuffer(piece, np.uint8) & 0xC0 != 0x80)) for piece in pieces)
        charge(starts + _OVERHEAD)
        result, filled = np.empty(starts, np.uint8), 0
        decoder = codecs.getincrementaldecoder("utf-8")()
        for position, piece in enumerate(pieces):
            part = decoder.decode(piece, final=position == len(pieces) - 1).encode("latin-1")
            result[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
        return result.data.toreadonly()
    except UnicodeEncodeError:
        raise RefusalError("writes as bytes a text with characters above 255, which are no bytes", COPY_ANEW) from None
    except UnicodeDecodeError:
        raise RefusalError("holds text that is not UTF-8", COPY_ANEW) from None
