"""Pages of mapped files: what has been read enters, its memory goes back to the system, its content stays.

Each page of a mapped file that was touched counts as memory of the process until somebody else needs it. Archives of
ten gigabytes are read from one end to the other, and nobody should see ten gigabytes for that.
"""

import mmap

import numpy as np

_MARGIN = 1 << 20  # bytes: whoever touches a page gets those around it, behind it too, that are at hand


def let_go(part: np.ndarray | memoryview | bytes) -> None:
    """Hand back the pages that some content of a mapped file lies in; who looks at it again reads them again.

    Content that lies elsewhere, or in pieces, stays as it is.

    Args:
        part: A part of the value of a pickle.
    """
    array = part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8)
    whole = _mapped(part)
    if whole is None or not array.flags.c_contiguous:
        return
    start = _address(array) - _address(np.frombuffer(whole, np.uint8))
    let_go_of(whole, start, start + array.nbytes)


def let_go_of(whole: mmap.mmap, start: int, end: int) -> None:
    """Hand back the pages of a mapped file between two of its bytes.

    Args:
        whole: The file, mapped for reading alone: then nothing can be lost.
        start: The first byte.
        end: The byte after the last one.
    """
    first = max(0, start - _MARGIN)
    first -= first % mmap.PAGESIZE
    if hasattr(mmap, "MADV_DONTNEED") and end > first:
        whole.madvise(mmap.MADV_DONTNEED, first, end - first)


def _mapped(part: object) -> mmap.mmap | None:
    """Return the mapped file that some content is a view of."""
    while isinstance(part, np.ndarray | memoryview):
        part = part.base if isinstance(part, np.ndarray) else part.obj
    return part if isinstance(part, mmap.mmap) else None


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
