"""The interpreter: the bytes of a pickle enter, its value leaves, arrays still as tokens.

Python's own `pickle` documents the instructions in `pickletools`. Those that arrays, numbers, text, lists and
dictionaries are written with, in protocols 1 to 5, are here; each other one is a refusal.
"""

import re
import struct
import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from metantk_core.datasets.pickles.arrays import (
    DECODING,
    LONGEST_TEXT,
    NAMES,
    SHORT_BYTES,
    LongText,
    Name,
    build,
    called,
)
from metantk_core.datasets.pickles.refusals import COPY_ANEW, DISTRUST, WRITE_ANEW, RefusalError
from metantk_core.files import amount, shown

ALLOWANCE = 64_000_000
"""Bytes of memory that reading a file may take above the file's own size."""
LARGEST_MEMO = 1 << 26
"""Positions at which a pickle may keep values to come back to."""
_LONGEST_LINE = 256
_OFTEN = 1 << 24  # bytes between two reports of where the reading is
_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,19}")
# Bytes that Python needs besides an object's own size, rounded up: places in lists that grow, keys of dictionaries.
_PLACE = 24
_MEMO = 128
_KEY = 160
_VIEW = 256

_T = TypeVar("_T")


class Machine:
    """One reading of one pickle.

    Args:
        data: The whole file.
        passed: Told now and then up to which byte the file has been read.

    Attributes:
        start: Where the instruction begins that is being carried out, bytes from the beginning.
    """

    def __init__(self, data: memoryview, passed: Callable[[int], object] = bool) -> None:
        self.start = 0
        self._passed, self._next = passed, _OFTEN
        self._data = data
        self._at = 0
        self._left = len(data) + ALLOWANCE - DECODING
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Return the value of the pickle.

        Raises:
            RefusalError: It holds what is not read, or is damaged.
        """
        while True:
            self.start = self._at
            if self._at >= self._next:
                self._passed(self._at)
                self._next = self._at + _OFTEN
            if self._at == len(self._data):
                self._take(1)  # says that there is nothing more
            code = self._data[self._at]
            self._at += 1
            operation = _OPERATIONS.get(code)
            if operation is not None:
                operation(self)
            elif code == _STOP:
                return self._end()
            else:
                raise _unknown(code)

    def charge(self, size: int) -> None:
        """Account for memory that is about to be taken.

        Args:
            size: Bytes.

        Raises:
            RefusalError: All that the file may take is used up.
        """
        self._left -= size
        if self._left < 0:
            raise RefusalError(
                f"takes more memory than its own {amount(len(self._data))} and {amount(ALLOWANCE)}",
                "no archive of images needs that. Hold labels and images as arrays, and write them with np.savez",
            )

    # What instructions are made of

    def _take(self, count: int) -> memoryview:
        """Return the next bytes of the file, not copied."""
        end = self._at + count
        if end > len(self._data):
            raise RefusalError(
                f"ends after {len(self._data):,} bytes, before what it says of itself is complete", COPY_ANEW
            )
        part = self._data[self._at : end]
        self._at = end
        return part

    def _number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(width), "little", signed=signed)

    def _line(self) -> bytes:
        text = bytes(self._data[self._at : self._at + _LONGEST_LINE])
        length = text.find(b"\n")
        if length < 0:
            raise RefusalError(f"holds a line of more than {_LONGEST_LINE} bytes where a name or number is", COPY_ANEW)
        self._at += length + 1
        return text[:length]

    def _push(self, value: object, size: int = 0) -> None:
        self.charge(_PLACE + size)
        self._stack.append(value)

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise RefusalError("uses a value that it has not given", COPY_ANEW)
        return self._stack.pop()

    def _since_mark(self) -> list[object]:
        """Take what was put on the stack since the last mark."""
        if not self._marks:
            raise RefusalError("ends a list that it has not begun", COPY_ANEW)
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _top(self, kind: type[_T]) -> _T:
        value = self._pop()
        if type(value) is not kind:
            raise RefusalError(
                f"puts a value into what is no {'list' if kind is list else 'dictionary'} ({type(value).__name__})",
                COPY_ANEW,
            )
        self._stack.append(value)
        return value  # pyright: ignore[reportReturnType] - its type is exactly that

    # Numbers

    def _integer(self, value: int) -> None:
        if not -(1 << 63) <= value < 1 << 63:
            raise RefusalError("holds a whole number of more than 64 bits")
        self._push(value, 32)

    def _integer_in_words(self, *, suffix: bytes) -> None:
        line = self._line()
        if not suffix and line in (b"00", b"01"):
            self._push(line == b"01")
            return
        if not line.endswith(suffix) or not _WHOLE_NUMBER.fullmatch(digits := line.removesuffix(suffix)):
            raise RefusalError("holds a whole number of more than 64 bits, or what is no number", COPY_ANEW)
        self._integer(int(digits))

    def _long_integer(self) -> None:
        length = self._number(1)
        if length > 8:
            raise RefusalError("holds a whole number of more than 64 bits")
        self._integer(self._number(length, signed=True))

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0], 32)

    # Text and bytes

    def _bytes(self, length: int) -> None:
        if length < 0:
            raise RefusalError(f"holds a text of {length:,} bytes", COPY_ANEW)
        view = self._take(length)
        self._push(*((bytes(view), 64 + length) if length <= SHORT_BYTES else (view, _VIEW)))

    def _text(self, length: int) -> None:
        view = self._take(length)
        if length > LONGEST_TEXT:
            self._push(LongText(view), _VIEW + _PLACE)
            return
        try:
            text = str(view, "utf-8")
        except UnicodeDecodeError:
            raise RefusalError("holds text that is not UTF-8", COPY_ANEW) from None
        self._push(text, sys.getsizeof(text) + _PLACE)

    # Lists and dictionaries

    def _tuple(self, values: list[object]) -> None:
        value = tuple(values)
        self._push(value, sys.getsizeof(value) + _PLACE)

    def _last(self, count: int) -> list[object]:
        return [self._pop() for _ in range(count)][::-1]

    def _append(self, values: list[object]) -> None:
        self.charge(_PLACE * len(values))
        self._top(list).extend(values)

    def _set(self, values: list[object]) -> None:
        if len(values) % 2:
            raise RefusalError("has a key without a value in a dictionary", COPY_ANEW)
        self.charge(_KEY * len(values) // 2)
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, bytes, int) and not isinstance(key, np.integer):
                kind = key.value if isinstance(key, Name) else type(key).__name__
                raise RefusalError(f"has a key in a dictionary that is neither text nor a whole number ({kind})")
            if key in target:
                raise RefusalError(f"has the key {shown(repr(key))} twice in a dictionary", COPY_ANEW)
            target[key] = value

    # What is kept to come back to

    def _keep(self, position: int) -> None:
        if position > LARGEST_MEMO:
            raise RefusalError(
                f"keeps a value at position {position:,}, of which there are at most {LARGEST_MEMO:,}", DISTRUST
            )
        value = self._pop()
        self._stack.append(value)
        self.charge(_MEMO)
        self._memo[position] = value

    def _kept(self, position: int) -> None:
        if position not in self._memo:
            raise RefusalError(f"comes back to a value that it has not kept ({position:,})", COPY_ANEW)
        self._push(self._memo[position])

    # Names and calls

    def _name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise RefusalError("asks for something by what is no name", DISTRUST)
        token = NAMES.get((module, name))
        if token is None:
            raise RefusalError(f"asks for {shown(f'{module}.{name}')}", DISTRUST)
        self._push(token)

    def _name_in_lines(self) -> None:
        self._name(self._line().decode("latin-1"), self._line().decode("latin-1"))

    def _call(self) -> None:
        name, arguments = self._last(2)
        if not isinstance(name, Name) or type(arguments) is not tuple:
            raise RefusalError(f"calls something that is no function ({type(name).__name__})", DISTRUST)
        self._push(called(name, arguments, self.charge), _PLACE)

    def _build(self) -> None:
        target, state = self._last(2)
        build(target, state, self.charge)
        self._stack.append(target)

    # The file

    def _protocol(self) -> None:
        version = self._number(1)
        if version > 5:
            raise RefusalError(f"is of protocol {version}", "protocols 1 to 5 are known. Write it anew with protocol=5")

    def _frame(self) -> None:
        length = self._number(8)
        if length > len(self._data) - self._at:
            raise RefusalError(
                f"announces {length:,} more bytes and has {len(self._data) - self._at:,}",
                COPY_ANEW,
            )

    def _mark(self) -> None:
        self.charge(2 * _PLACE)
        self._marks.append(len(self._stack))

    def _end(self) -> object:
        value = self._pop()
        if self._stack or self._marks:
            raise RefusalError("ends in the middle of a list", COPY_ANEW)
        if self._at < len(self._data):
            raise RefusalError(
                f"goes on for {len(self._data) - self._at:,} bytes after its end",
                "expected one value in a pickle. Write its arrays anew with np.savez, in a program that you trust",
            )
        return value


_STOP = ord(".")
# By the codes of Python's module pickle.
_OPERATIONS: dict[int, Callable[[Machine], None]] = {
    0x80: Machine._protocol,
    0x95: Machine._frame,
    ord("("): Machine._mark,
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("K"): lambda m: m._integer(m._number(1)),
    ord("M"): lambda m: m._integer(m._number(2)),
    ord("J"): lambda m: m._integer(m._number(4, signed=True)),
    ord("I"): lambda m: m._integer_in_words(suffix=b""),
    ord("L"): lambda m: m._integer_in_words(suffix=b"L"),
    0x8A: Machine._long_integer,
    ord("G"): Machine._float,
    ord("U"): lambda m: m._bytes(m._number(1)),
    ord("T"): lambda m: m._bytes(m._number(4, signed=True)),
    ord("C"): lambda m: m._bytes(m._number(1)),
    ord("B"): lambda m: m._bytes(m._number(4)),
    0x8E: lambda m: m._bytes(m._number(8)),
    0x96: lambda m: m._bytes(m._number(8)),
    0x8C: lambda m: m._text(m._number(1)),
    ord("X"): lambda m: m._text(m._number(4)),
    0x8D: lambda m: m._text(m._number(8)),
    ord(")"): lambda m: m._push(()),
    0x85: lambda m: m._tuple(m._last(1)),
    0x86: lambda m: m._tuple(m._last(2)),
    0x87: lambda m: m._tuple(m._last(3)),
    ord("t"): lambda m: m._tuple(m._since_mark()),
    ord("]"): lambda m: m._push([], 64),
    ord("a"): lambda m: m._append(m._last(1)),
    ord("e"): lambda m: m._append(m._since_mark()),
    ord("}"): lambda m: m._push({}, 64),
    ord("s"): lambda m: m._set(m._last(2)),
    ord("u"): lambda m: m._set(m._since_mark()),
    ord("q"): lambda m: m._keep(m._number(1)),
    ord("r"): lambda m: m._keep(m._number(4)),
    0x94: lambda m: m._keep(len(m._memo)),
    ord("h"): lambda m: m._kept(m._number(1)),
    ord("j"): lambda m: m._kept(m._number(4)),
    ord("c"): Machine._name_in_lines,
    0x93: lambda m: m._name(*m._last(2)),
    ord("R"): Machine._call,
    ord("b"): Machine._build,
}

_OTHER_PROTOCOL = (
    "protocols 1 to 5 are read. Load it where it was made, if you trust it, and write it anew with protocol=2"
)
_ELSEWHERE = "all that is needed must be in it. Write its arrays anew with np.savez, in a program that you trust"
# Instructions that exist and are not carried out: their names, what the file does, and what to do instead.
_REFUSED: dict[int, tuple[str, str, str]] = {
    code: (name, what, instead)
    for what, instead, names in (
        (
            "makes an object of a class",
            DISTRUST,
            {"INST": ord("i"), "OBJ": ord("o"), "NEWOBJ": 0x81, "NEWOBJ_EX": 0x92},
        ),
        (
            "asks for something by its number in a list of Python's",
            DISTRUST,
            {"EXT1": 0x82, "EXT2": 0x83, "EXT4": 0x84},
        ),
        ("refers to something that lies outside of it", _ELSEWHERE, {"PERSID": ord("P"), "BINPERSID": ord("Q")}),
        ("keeps its arrays outside of it", _ELSEWHERE, {"NEXT_BUFFER": 0x97, "READONLY_BUFFER": 0x98}),
        ("holds a set", WRITE_ANEW, {"EMPTY_SET": 0x8F, "ADDITEMS": 0x90, "FROZENSET": 0x91}),
        (
            "is written in the text form of pickles, protocol 0",
            _OTHER_PROTOCOL,
            {
                "STRING": ord("S"),
                "UNICODE": ord("V"),
                "FLOAT": ord("F"),
                "GET": ord("g"),
                "PUT": ord("p"),
                "LIST": ord("l"),
                "DICT": ord("d"),
            },
        ),
        (
            "moves values about as no plain data need",
            WRITE_ANEW,
            {"POP": ord("0"), "POP_MARK": ord("1"), "DUP": ord("2")},
        ),
        ("holds a whole number of more than 64 bits", WRITE_ANEW, {"LONG4": 0x8B}),
    )
    for name, code in names.items()
}


def _unknown(code: int) -> RefusalError:
    """Return the refusal of an instruction that is not among the `_OPERATIONS`."""
    if code not in _REFUSED:
        return RefusalError(f"holds {code:#04x} where an instruction of a pickle is expected", COPY_ANEW)
    name, what, instead = _REFUSED[code]
    return RefusalError(f"{what} ({name})", instead)
