"""Pickles written by hand, instruction by instruction: programs that a hostile file would run, and damaged archives."""

import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Name:
    """Something that a pickle asks for by name."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """Something that a pickle calls, by itself or by the result of another call."""

    function: Any
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class State:
    """Something whose state a pickle sets."""

    target: Any
    state: Any


def name(module: str, what: str) -> Name:
    return Name(module, what)


def call(function: Any, *arguments: Any) -> Call:
    return Call(function, arguments)


def program(value: Any) -> bytes:
    """Return the pickle whose value is a call, a state, or plain content with such in it."""
    return _code(value) + b"."


def _code(value: Any) -> bytes:
    match value:
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return _code(value.function) + _code(value.arguments) + b"R"
        case State():
            return _code(value.target) + _code(value.state) + b"b"
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_code(key) + _code(one) for key, one in value.items()) + b"u"
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case bool() | None:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return pickle.dumps(value, 2)[2:-1]


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
SCALAR = name("numpy.core.multiarray", "scalar")
FROM_BUFFER = name("numpy.core.numeric", "_frombuffer")
ARRAY, TYPE = name("numpy", "ndarray"), name("numpy", "dtype")
ENCODE = name("_codecs", "encode")
PLAIN_STATE = (3, "|", None, None, None, -1, -1, 0)


def dtype(kind: str = "u1", state: Any = PLAIN_STATE) -> State:
    return State(call(TYPE, kind, False, True), state)


def array(shape: Any = (3,), raw: Any = b"abc", kind: Any = None, version: Any = 1, fortran: Any = False) -> State:
    empty = call(RECONSTRUCT, ARRAY, (0,), b"b")
    return State(empty, (version, shape, dtype() if kind is None else kind, fortran, raw))


# Mutations of archives, for fuzzing

_NUMBERS = [bytes(8), b"\xff" * 8, b"\xff\xff\xff\x0f" + bytes(4), b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0"]
_PIECES = [
    *(
        bytes([code])
        for code in b"(.)0123NKMJIGTUXBCtaelsudhjrqcRbioPQ}]g2\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c"
    ),
    *(bytes([code]) for code in (0x8D, 0x8E, 0x8F, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0, 255)),
    *_NUMBERS,
    b"cos\nsystem\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"c_codecs\nencode\n",
    b"c__builtin__\nbytes\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"X\x06\0\0\0latin1",
    b"U\x02u1",
    b"U\x01|",
    b"U\x02O8",
    b"h\0h\1",
    b"]\x94h\0a",
    _code(dtype()),
    _code(dtype("b1")),
    _code(dtype("i8", (3, "<", None, None, None, -1, -1, 0))),
    _code(dtype("O8", (3, "|", None, None, None, -1, -1, 0))),
    _code(array()),
    _code(array((1 << 31,), b"b")),
    _code(call(FROM_BUFFER, b"abcdef", dtype(), (2, 3), "C")),
    _code(call(FROM_BUFFER, b"abcdef", dtype(), (2, 3), "K", (1, 0))),
    _code(call(SCALAR, dtype(), b"a")),
    _code(call(ENCODE, "\xff\x80", "latin1")),
    _code(call(ENCODE, "ab", "rot13")),
    _code(call(name("__builtin__", "bytes"))),
    _code({"data": array(), "labels": [1, 2, 3]}),
]


@dataclass(frozen=True)
class Original:
    """An archive, and where its instructions begin."""

    data: bytes
    starts: tuple[int, ...]


def original(data: bytes) -> Original:
    """Return an archive to mutate, without the lengths of frames, which would refuse every change first."""
    frames = [start or 0 for code, _, start in pickletools.genops(data) if code.name == "FRAME"]
    for start in reversed(frames):
        data = data[:start] + data[start + 9 :]
    return Original(data, tuple(start or 0 for _, _, start in pickletools.genops(data)))


@st.composite
def mutated(draw: st.DrawFn, originals: list[Original]) -> bytes:
    """Return an archive with some bits flipped, parts cut, repeated or replaced, and instructions put in."""
    chosen = draw(st.sampled_from(originals))
    data = bytearray(chosen.data)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.sampled_from(chosen.starts))
        piece = draw(st.sampled_from(_PIECES))
        data[at : at + draw(st.sampled_from([0, 0, 1, len(piece)]))] = piece
    for _ in range(draw(st.integers(0, 3))):
        if not data:
            break
        # Pixels fill most of a file; what is decided stands at both of its ends.
        last = len(data) - 1
        near_end = st.integers(max(0, last - 300), last)
        at = draw(st.integers(0, min(last, 300)) | near_end | st.integers(0, last))
        change = draw(st.sampled_from(["flip", "set", "cut", "put in", "remove", "repeat", "splice"]))
        if change == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            piece = draw(st.sampled_from(_PIECES))
            data[at : at + len(piece)] = piece
        elif change == "cut":
            del data[at:]
        elif change == "put in":
            data[at:at] = b"".join(draw(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=4)))
        elif change == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif change == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 20))
        else:
            other = draw(st.sampled_from(originals)).data
            start = draw(st.integers(0, min(len(other), 400)))
            data[at:at] = other[start : start + draw(st.integers(1, 300))]
    return bytes(data)


INSTRUCTIONS = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=9), max_size=60).map(
    lambda pieces: b"".join(pieces) + b"."
)
"""Instructions in any order: far more of them lead somewhere than of bytes in any order."""


_INTEGERS = st.sampled_from([0, 1, 2, 3, 6, -1, 255, 1 << 31, 1 << 40, (1 << 63) - 1]) | st.integers(-9, 9)
_KINDS = st.sampled_from(
    ["u1", "i1", "i2", "i4", "i8", "f4", "f8", "b1", "O8", "V3", "U2", "S1", "M8", "u8", "", b"u1"]
)
_ORDERS = st.sampled_from(["|", "<", ">", "=", b"|", b"<", None, 1])
_SIZES = st.sampled_from([-1, -1, 0])
_STATES = st.just(PLAIN_STATE) | st.tuples(
    st.sampled_from([3, 3, 3, 4, True]), _ORDERS, st.none(), st.none(), st.none(), _SIZES, _SIZES, st.just(0)
)
_TYPES = st.builds(dtype) | st.builds(dtype, _KINDS, _STATES)
_RAW = st.binary(max_size=24) | st.sampled_from([b"abcdef", b"abc", b"\0\1\2", b"x" * 300]) | _INTEGERS
_RAW |= st.builds(call, st.just(ENCODE), st.text(st.characters(max_codepoint=300), max_size=9), st.just("latin1"))
_SHAPES = st.lists(_INTEGERS, max_size=4).map(tuple) | st.sampled_from([(3,), (6,), (2, 3), (0,), 3, None])
_ARRAYS = (
    st.builds(array)
    | st.builds(array, _SHAPES, _RAW, _TYPES, st.sampled_from([1, 1, 1, True, 2]), st.booleans())
    | st.builds(call, st.just(FROM_BUFFER), _RAW, _TYPES, _SHAPES, st.sampled_from(["C", "F", "K", "A", 0]))
    | st.builds(call, st.just(FROM_BUFFER), _RAW, _TYPES, _SHAPES, st.just("K"), _SHAPES)
    | st.builds(call, st.just(SCALAR), _TYPES, _RAW)
)
_NAMES = st.sampled_from([RECONSTRUCT, SCALAR, FROM_BUFFER, ARRAY, TYPE, ENCODE, name("__builtin__", "bytes")])
_LEAVES = _INTEGERS | st.none() | st.booleans() | st.floats() | st.text(max_size=9) | _RAW | _ARRAYS | _ARRAYS | _NAMES
_KEYS = st.sampled_from(["data", "labels", b"data", 1, -1, None, 0.5]) | _NAMES
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_KEYS, inner, max_size=3)
        | st.builds(State, _ARRAYS | _TYPES | inner, inner)
        | st.builds(call, _NAMES, inner, inner)
    ),
    max_leaves=12,
)
PROGRAMS = _VALUES.map(program)
"""Content with arrays and calls in it that are nearly as NumPy writes them, or just so."""
