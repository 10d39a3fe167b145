"""Images in npz files, one a split: a place enters, a source of images leaves.

Nothing that a file says of itself is believed: all sizes are checked against what the file can hold before anything is
allocated, arrays are read piece by piece, and pickled objects never.
"""

import contextlib
import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.datasets.npy import MAGIC, Header, read_header
from metantk_core.datasets.sources import (
    MAX_PIXELS,
    ImageStream,
    Source,
    SplitSource,
    check_counts,
    check_name,
    of_kind,
    stream,
)
from metantk_core.errors import Complaints, InputError
from metantk_core.files import Place, reason, shown

_DEFLATE_RATIO = 1032  # deflate can't pack more bytes into one
_LONGEST_LISTING = 1 << 20  # bytes of an archive's table of contents; three members take some 200
_LONGEST_STRING = 1024  # characters
_PIECE = 1 << 20
# What zipfile and zlib raise on archives that are damaged or of kinds that they don't know.
_DAMAGE = (
    OSError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,  # NotImplementedError among them
    MemoryError,
)


def npz(place: Place, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images in ``{train,val,test}.npz``.

    Each file holds ``images``, uint8 ``[n, h, w]`` or ``[n, h, w, c]`` with 1, 3 or 4 channels, and ``labels`` ``[n]``:
    integers or strings that name the classes in all three files. With an optional ``class_names``, strings, labels are
    positions in it. Pickled objects are refused. Images are read row by row, never all at once.

    Args:
        place: What holds the three files.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: If the folder, a file or a key is missing, a file is damaged, an array has another type or shape, or
            a class is in two splits.
    """
    splits: dict[Split, SplitSource] = {}
    listing = hashlib.sha256()
    complaints = Complaints()
    for split in SPLITS:
        with complaints.kept():
            file = _file_of(place, split)
            splits[split] = _split(file, split, image_size, channels)
            listing.update(json.dumps([split, file.size, *file.version]).encode())
    complaints.raise_any()
    check_disjoint({split: source.class_names for split, source in splits.items()})
    return Source(place.name, listing.hexdigest()[:16], lambda: splits, "npz files", of_kind("npz"))


def _file_of(place: Place, split: Split) -> "_File":
    path = f"{split}.npz"
    where = shown(place.where(path))
    try:
        entry = place.entry(path)
        if entry is None and not place.holds_folder():
            raise InputError(
                f"No folder '{shown(place.where())}': expected a folder that holds train.npz, val.npz and test.npz. "
                "Check data.path."
            )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"Can't read '{where}' ({reason(error)}). Check data.path, and who may read it.") from error
    if entry is None:
        raise InputError(f"Split '{split}' is missing: no file '{where}'. Expected train.npz, val.npz and test.npz.")
    return _File(place, path, entry.size, entry.version)


def images_of(
    place: Place, path: str, split: Split, image_size: int, channels: Literal[1, 3], *, blue_first: bool = False
) -> tuple[int, ImageStream]:
    """Return how many images the array ``images`` of an archive holds, and what starts their stream.

    Args:
        place: Where the archive lies.
        path: Its path there.
        split: The split.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.
        blue_first: Whether colours are stored as blue, green, red.

    Raises:
        InputError: The archive is missing or damaged, or the array has another type or shape.
    """
    entry = place.entry(path)
    if entry is None:
        raise InputError(f"No file '{shown(place.where(path))}'. Put it back.")
    file = _File(place, path, entry.size)
    with _opened(file) as archive, _array(archive, file, "images") as images:
        header = images.header
    _check_images(file, split, header)
    return header.shape[0], lambda start=0: _stream(file, header, image_size, channels, start, blue_first=blue_first)


@dataclass(frozen=True)
class _File:
    """An archive: where it lies, and how large it is; its text is its address for people."""

    place: Place
    path: str
    size: int
    version: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        return self.place.where(self.path)


@dataclass(frozen=True)
class _Array:
    """One array of an open archive: its header, and the stream of its elements."""

    header: Header
    elements: zipfile.ZipExtFile

    def pieces(self) -> Iterator[np.ndarray]:
        """Give the elements of a vector, about a megabyte at a time."""
        (count,), dtype = self.header.shape, self.header.dtype
        at_once = max(1, _PIECE // dtype.itemsize)
        for start in range(0, count, at_once):
            data = _read_exactly(self.elements, min(at_once, count - start) * dtype.itemsize)
            codes = np.dtype(np.uint32).newbyteorder(dtype.byteorder)
            if dtype.kind == "U" and np.frombuffer(data, codes).max() > 0x10FFFF:
                raise ValueError("its strings hold numbers that are no characters")
            yield np.frombuffer(data, dtype)
        self.end()

    def end(self) -> None:
        """Check that nothing follows; zipfile compares the checksum when it meets the end."""
        if self.elements.read(1):
            raise ValueError("it goes on after its last element")


def _read_exactly(stream: zipfile.ZipExtFile, count: int) -> bytes:
    """Return the next bytes of a member of an archive.

    Raises:
        EOFError: There are fewer.
    """
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("it ends too early")
    return data


class _Careful:
    """A file that hands out no more bytes at once than an archive's table of contents may have.

    Zipfile reads the whole table in one go, however long the file says that it is.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.limited = True
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if not self.limited:
            return self._file.read(size)
        data = self._file.read(size if 0 <= size <= _LONGEST_LISTING else _LONGEST_LISTING + 1)
        if len(data) > _LONGEST_LISTING:
            raise ValueError("its table of contents is larger than three arrays need")
        return data


@contextlib.contextmanager
def _opened(file: _File) -> Iterator[zipfile.ZipFile]:
    """Open an archive; whatever is found wrong with it until it is closed becomes a sentence."""
    try:
        with file.place.open(file.path) as raw:
            if raw.read(len(MAGIC)) == MAGIC:
                raise InputError(
                    f"'{shown(file)}' is a single array (.npy): expected an archive of 'images' and 'labels'. Write it "
                    "with np.savez."
                )
            careful = _Careful(raw)
            with zipfile.ZipFile(careful) as archive:  # pyright: ignore[reportArgumentType]
                careful.limited = False
                yield archive
    except InputError:
        raise
    except _DAMAGE as error:
        file.place.forget(file.path)
        raise InputError(
            f"'{shown(file)}' can't be read as an npz archive ({reason(error)}). Write it anew with np.savez."
        ) from error


@contextlib.contextmanager
def _array(archive: zipfile.ZipFile, file: _File, key: str) -> Iterator[_Array]:
    """Open one array of an archive, after a comparison of its claims with each other and with the size of the file."""
    found = [info for info in archive.infolist() if info.filename == f"{key}.npy"]
    if len(found) != 1:
        names = [info.filename.removesuffix(".npy") for info in archive.infolist() if info.filename.endswith(".npy")]
        problem = f"{len(found)} arrays '{key}'" if found else f"no array '{key}', only {sorted(names)[:8]}"
        raise InputError(f"'{shown(file)}' has {shown(problem)}: expected 'images' and 'labels'. Write it anew.")
    member = found[0]
    if member.flag_bits & 1:
        raise InputError(f"'{key}' in '{shown(file)}' is encrypted: expected an archive as np.savez writes it.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"'{key}' in '{shown(file)}' is compressed by method {member.compress_type}: expected none or deflate, as "
            "np.savez and np.savez_compressed write it."
        )
    ratio = _DEFLATE_RATIO if member.compress_type == zipfile.ZIP_DEFLATED else 1
    if member.compress_size > file.size or member.file_size > ratio * member.compress_size:
        raise ValueError(f"'{key}' claims {member.file_size:,} bytes, more than the file can hold")
    with archive.open(member) as elements:
        try:
            header = read_header(elements.read)
        except ValueError as error:
            raise ValueError(f"'{key}': {error}") from error
        if header.length + header.size != member.file_size:
            raise ValueError(
                f"'{key}' claims shape {list(header.shape)} of {header.dtype}, but holds "
                f"{member.file_size - header.length:,} bytes"
            )
        # Files opened for reading are ZipExtFile; the stubs promise only bytes.
        yield _Array(header, elements)  # pyright: ignore[reportArgumentType]


def _split(file: _File, split: Split, image_size: int, channels: Literal[1, 3]) -> SplitSource:
    with _opened(file) as archive:
        with _array(archive, file, "images") as images:
            expected = images.header
        _check_images(file, split, expected)
        with _array(archive, file, "labels") as array:
            raw, shape = array.header.dtype, array.header.shape
            if shape != expected.shape[:1] or raw.kind not in "iuU":
                raise InputError(
                    f"'labels' in '{shown(file)}' is {raw} of shape {list(shape)}: expected one integer or string for "
                    f"each of the {expected.shape[0]:,} images."
                )
            _check_strings(file, "labels", raw)
            values, labels = _distinct(array, file, split)
        given = None
        if "class_names.npy" in archive.namelist():
            with _array(archive, file, "class_names") as array:
                raw, shape = array.header.dtype, array.header.shape
                if len(shape) != 1 or raw.kind != "U":
                    raise InputError(
                        f"'class_names' in '{shown(file)}' is {raw} of shape {list(shape)}: expected strings."
                    )
                _check_strings(file, "class_names", raw)
                check_counts(expected.shape[0], shape[0], split, str(file))
                given = tuple(name for piece in array.pieces() for name in piece.tolist())
    class_names, labels = _named(file, split, values, labels, given)
    for name in class_names:
        check_name(name, split, str(file))
    return SplitSource(class_names, labels, lambda start=0: _stream(file, expected, image_size, channels, start))


def _check_images(file: _File, split: Split, header: Header) -> None:
    shape = header.shape
    if header.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise InputError(
            f"'images' in '{shown(file)}' is {header.dtype} of shape {list(shape)}: expected uint8 [n, height, width] "
            "or [n, height, width, 1, 3 or 4 channels]."
        )
    if header.fortran_order:
        raise InputError(f"'images' in '{shown(file)}' is in Fortran order: save np.ascontiguousarray(images) instead.")
    if 0 in shape:
        raise InputError(f"'images' in '{shown(file)}' has shape {list(shape)}: expected at least one image.")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise InputError(
            f"Images in '{shown(file)}' have {shape[1]:,} x {shape[2]:,} pixels: expected at most {MAX_PIXELS:,} in "
            "all. Make them smaller."
        )
    check_counts(shape[0], 0, split, str(file))


def _check_strings(file: _File, key: str, dtype: np.dtype) -> None:
    if dtype.kind == "U" and not 0 < dtype.itemsize <= 4 * _LONGEST_STRING:
        raise InputError(
            f"'{key}' in '{shown(file)}' holds strings of {dtype.itemsize // 4:,} characters: expected 1 to "
            f"{_LONGEST_STRING:,}."
        )


def _distinct(array: _Array, file: _File, split: Split) -> tuple[list[int] | list[str], Int64[np.ndarray, " n"]]:
    """Return the sorted distinct values of a vector, and for each element its value's position among them."""
    codes: dict[int | str, int] = {}
    result = np.empty(array.header.shape[0], np.int64)
    start = 0
    for piece in array.pieces():
        values, positions = np.unique(piece, return_inverse=True)
        known = [codes.setdefault(value, len(codes)) for value in values.tolist()]
        check_counts(0, len(codes), split, str(file))
        result[start : start + len(piece)] = np.array(known, np.int64)[positions]
        start += len(piece)
    ordered = sorted(codes)  # pyright: ignore[reportArgumentType] - all integers or all strings
    ranks = np.empty(len(ordered), np.int64)
    ranks[[codes[value] for value in ordered]] = np.arange(len(ordered))
    return ordered, ranks[result]  # pyright: ignore[reportReturnType]


def _named(
    file: _File,
    split: Split,
    values: list[int] | list[str],
    labels: Int64[np.ndarray, " n"],
    given: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], Int64[np.ndarray, " n"]]:
    if given is None:
        return tuple(str(value) for value in values), labels
    low, high = values[0], values[-1]
    if isinstance(low, str) or isinstance(high, str) or low < 0 or high >= len(given):
        raise InputError(
            f"'labels' in '{shown(file)}' must be integers from 0 to {len(given) - 1}, positions in 'class_names'; "
            f"they run from {shown(low)} to {shown(high)}."
        )
    if len(values) < len(given):
        empty = min(set(range(len(given))).difference(int(value) for value in values))
        raise InputError(
            f"Class '{shown(given[empty])}' of split '{split}' is empty: no label {empty} in '{shown(file)}'."
        )
    return given, labels  # all of 0, 1, ... occur, so each value is its own position


def _stream(
    file: _File, expected: Header, image_size: int, channels: Literal[1, 3], start: int = 0, *, blue_first: bool = False
) -> Iterator[UInt8[np.ndarray, "c h w"]]:
    count, *shape = expected.shape
    size = expected.size // count
    with _opened(file) as archive, _array(archive, file, "images") as images:
        if images.header != expected:
            raise ValueError("it changed while it was read")
        for skipped in range(0, start * size, _PIECE):  # read all the same, for the checksum at the end
            _read_exactly(images.elements, min(_PIECE, start * size - skipped))
        at_once = max(1, _PIECE // size)
        for row in range(start, count, at_once):
            some = min(at_once, count - row)
            pixels = np.frombuffer(_read_exactly(images.elements, some * size), np.uint8).reshape(some, *shape)
            if len(shape) == 3 and shape[2] == 3 and blue_first:
                pixels = pixels[..., ::-1]
            yield from stream(pixels if len(shape) == 3 else pixels[..., None], image_size, channels)
        images.end()
