"""Files of pickles: a place on disk or in a bucket enters, its value leaves."""

import mmap
import shutil
import tempfile
from io import BufferedIOBase, UnsupportedOperation

from metantk_core.datasets.pickles.machine import Machine
from metantk_core.datasets.pickles.pages import let_go_of
from metantk_core.datasets.pickles.refusals import RefusalError
from metantk_core.datasets.pickles.results import Value, finished
from metantk_core.errors import InputError
from metantk_core.files import Place, amount, reason, shown

LARGEST_FILE = 1 << 36
_OTHERS = {
    b"PK\x03\x04": ("is a zip archive", "unpack it; an .npz or a file of torch is one, too"),
    b"\x1f\x8b": ("is compressed by gzip", "unpack it"),
    b"BZh": ("is compressed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("is compressed by xz", "unpack it"),
    b"\x89HDF": ("is an HDF5 file", "write its arrays with np.savez"),
    b"\x93NUMPY": ("is a single array (.npy)", "write images and labels with np.savez"),
    b"<": ("is a page of the web", "download it again: the server may have wanted a login or a confirmation"),
    b"version https://git-lfs": ("is a pointer of Git LFS", "fetch the file itself with git lfs pull"),
}


def read_pickle(place: Place, path: str) -> Value:
    """Return what a file holds, its arrays as read-only views of the file.

    Nothing that the file asks for is imported or called. Memory beside the pages of the file: at most the file's size
    and 64 MB, and for arrays of bytes or numbers as Python 2 wrote them next to nothing. The file must not become
    shorter while its arrays are in use.

    Python 2 had one type for text and bytes: its strings are bytes here. Byte strings of more than 255 bytes are
    memoryviews.

    Args:
        place: Where the file lies.
        path: Its path there.

    Raises:
        InputError: It can't be read, is no pickle, or holds anything but arrays of plain numbers, numbers, text, bytes,
            lists, tuples and dictionaries; the sentence says what, and at which byte.
    """
    where = place.where(path)
    try:
        with place.open(path) as file:
            data = _mapped(file)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"Can't read '{shown(where)}' ({reason(error)}). Check data.path, and who may read it."
        ) from error
    try:
        return unpickled(data, where)
    except InputError:
        place.forget(path)
        raise


def unpickled(data: bytes | mmap.mmap | memoryview, where: str) -> Value:
    """Return what a pickle in memory holds; see `read_pickle`.

    Args:
        data: The pickle.
        where: What it is called in a sentence.
    """
    view = memoryview(data).toreadonly().cast("B")
    for beginning, (what, instead) in _OTHERS.items():
        if view[: len(beginning)] == beginning:
            raise InputError(f"'{shown(where)}' {what}, not a pickle: {instead}.")
    if not len(view):
        raise InputError(f"'{shown(where)}' is empty. Copy or download it again.")
    if len(view) > LARGEST_FILE:
        raise InputError(
            f"'{shown(where)}' has {amount(len(view))}: expected at most {amount(LARGEST_FILE)}. Split it up."
        )
    before = 0

    def passed(at: int) -> None:
        nonlocal before
        if isinstance(data, mmap.mmap):
            let_go_of(data, before, at)
        before = at

    machine = Machine(view, passed)
    try:
        value = machine.run()
        passed(len(view))
    except RefusalError as refusal:
        raise InputError(f"'{shown(where)}' {refusal.what} at byte {machine.start:,}: {refusal.instead}.") from refusal
    try:
        return finished(value, machine.charge)
    except RefusalError as refusal:
        raise InputError(f"'{shown(where)}' {refusal.what}: {refusal.instead}.") from refusal


def _mapped(file: BufferedIOBase) -> bytes | mmap.mmap:
    """Return the content of a file as a memory map; a file that is far away gets a copy without a name first."""
    try:
        handle = file.fileno()
    except UnsupportedOperation:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ) if copy.tell() else b""
    if not file.seek(0, 2):
        return b""
    return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
