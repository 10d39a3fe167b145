"""NumPy's array files: the first bytes enter, type and shape leave, checked before anything is allocated."""

import ast
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
_PLAIN_TYPE = re.compile(r"[<>|=]?[A-Za-z][0-9]{0,9}")


@dataclass(frozen=True)
class Header:
    """What an array file says of its array.

    Attributes:
        shape: Lengths of the axes.
        dtype: Type of an element; no Python objects, no structures.
        fortran_order: Whether the first axis varies fastest.
        length: Bytes before the elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    length: int

    @property
    def size(self) -> int:
        """Bytes of the elements; any number, since a header may claim what it likes."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(read: Callable[[int], bytes]) -> Header:
    """Return the header of an array file.

    NumPy's own reader evaluates repairs of old headers and allocates what a header claims; this one does neither.

    Args:
        read: Gives the next bytes of the file, fewer at its end.

    Raises:
        ValueError: It is no header of an array of numbers or strings; the text says why.
    """
    start = read(8)
    if start[:6] != MAGIC or len(start) < 8:
        raise ValueError("it doesn't begin as a .npy array does")
    if start[6] not in (1, 2, 3):
        raise ValueError(f"it is of version {start[6]}.{start[7]} of the .npy format, not of 1.0 to 3.0")
    width = 2 if start[6] == 1 else 4
    field = read(width)
    length = struct.unpack("<H" if width == 2 else "<I", field)[0] if len(field) == width else 0
    text = read(length) if length <= _LONGEST_HEADER else b""
    if not 0 < len(text) == length:
        raise ValueError("its header is cut off or too long")
    shape, fortran_order, dtype = _parsed(text.decode("utf-8" if start[6] == 3 else "latin-1"))
    return Header(shape, dtype, fortran_order, 8 + width + length)


def _parsed(text: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        # Python 2 wrote lengths as 10L.
        fields = ast.literal_eval(re.sub(r"(?<=[0-9])L\b", "", text).strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError("its header is malformed") from None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is malformed")
    descr, fortran_order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(shape, tuple) or not all(type(axis) is int and axis >= 0 for axis in shape) or len(shape) > 32:
        raise ValueError("its header gives no shape")
    if not isinstance(fortran_order, bool) or not isinstance(descr, str) or not _PLAIN_TYPE.fullmatch(descr):
        raise ValueError("its elements are neither numbers nor strings")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"'{descr}' is no type of NumPy's") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never read")
    return shape, fortran_order, dtype
