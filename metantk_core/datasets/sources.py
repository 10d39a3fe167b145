"""What every source of images hands over to be stored, and the two sources that people bring: folders and npz files.

A path enters; for each split the class names, the labels and a stream of images leave, so that a data set larger than
memory passes through one image at a time. Axes: ``n`` images, ``c`` channels, ``h`` rows, ``w`` columns.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from metantk_core.datasets.images import SPLITS, Split, check_disjoint
from metantk_core.errors import InputError
from metantk_core.seeding import digest

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, eq=False)
class SplitSource:
    """One split before it is stored.

    Attributes:
        class_names: One name for each class.
        labels: Shape ``[n]``, 0 to ``len(class_names) - 1``.
        images: Start the stream of the n images, in the order of the labels, each ``[c, h, w]``.
    """

    class_names: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    images: Callable[[], Iterator[UInt8[np.ndarray, "c h w"]]]


@dataclass(frozen=True)
class Source:
    """Three splits before they are stored.

    Attributes:
        name: A readable name of the data set.
        fingerprint: Digest of what the images are made from, known without making them: when it changes, stored
            images are out of date.
        splits: Find the splits; asked only if images must be stored.
    """

    name: str
    fingerprint: str
    splits: Callable[[], Mapping[Split, SplitSource]]


def to_array(image: Image.Image, image_size: int, channels: Literal[1, 3]) -> UInt8[np.ndarray, "c h w"]:
    """Return an image in the shape in which it is stored.

    Sides are resized independently (a photo of another shape is squashed, as the field does), with an antialiasing
    filter. Transparent pixels become white paper.

    Args:
        image: An image of any size; 8 or 16 bits, palette, grey, colour, with or without transparency.
        image_size: Height and width of the result.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def folder(path: Path, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images in ``path/{train,val,test}/<class>/*.{jpg,png,...}``.

    Classes and files are taken in the order of their names. Hidden files and files that are no images by their suffix
    are passed over.

    Args:
        path: The folder that holds the three splits.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: If the folder, a split or a split's classes are missing, a class is empty or in two splits; later,
            while images stream, if one can't be read.
    """
    if not path.is_dir():
        raise InputError(f"No folder '{path}': expected a folder that holds train/, val/ and test/. Check data.path.")
    splits: dict[Split, SplitSource] = {}
    listing: list[tuple[str, int, int]] = []
    for split in SPLITS:
        root = path / split
        if not root.is_dir():
            raise InputError(
                f"Split '{split}' is missing: no folder '{root}'. "
                f"Expected {{train,val,test}}/<class>/<image> in '{path}'."
            )
        classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not classes:
            raise InputError(f"Split '{split}' has no classes: expected one folder of images a class in '{root}'.")
        files: list[Path] = []
        labels: list[int] = []
        for label, class_folder in enumerate(classes):
            found = sorted(
                entry
                for entry in class_folder.iterdir()
                if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
            )
            if not found:
                raise InputError(
                    f"Class '{class_folder.name}' of split '{split}' is empty: no image file ({_suffixes()}) in "
                    f"'{class_folder}'. Add images or remove the folder."
                )
            files += found
            labels += [label] * len(found)
        for file in files:
            status = file.stat()
            listing.append((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns))
        splits[split] = SplitSource(
            class_names=tuple(entry.name for entry in classes),
            labels=np.array(labels, np.int64),
            images=lambda files=tuple(files): (_read_image(file, image_size, channels) for file in files),
        )
    check_disjoint({split: source.class_names for split, source in splits.items()})
    return Source(path.resolve().name, digest(listing), lambda: splits)


def npz(path: Path, image_size: int, channels: Literal[1, 3]) -> Source:
    """Return the images in ``path/{train,val,test}.npz``.

    Each file holds ``images``, uint8 ``[n, h, w]`` or ``[n, h, w, c]`` with 1, 3 or 4 channels, and ``labels`` ``[n]``:
    integers or strings that name the classes in all three files. With an optional ``class_names``, strings, labels are
    positions in it. Pickled objects are refused. Images are read row by row, never all at once.

    Args:
        path: The folder that holds the three files.
        image_size: Height and width to store at.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: If the folder, a file or a key is missing, an array has another type or shape, or a class is in two
            splits.
    """
    if not path.is_dir():
        raise InputError(
            f"No folder '{path}': expected a folder that holds train.npz, val.npz and test.npz. Check data.path."
        )
    splits: dict[Split, SplitSource] = {}
    listing: list[tuple[str, int, int]] = []
    for split in SPLITS:
        file = path / f"{split}.npz"
        if not file.is_file():
            raise InputError(f"Split '{split}' is missing: no file '{file}'. Expected train.npz, val.npz and test.npz.")
        splits[split] = _npz_split(file, split, image_size, channels)
        status = file.stat()
        listing.append((file.name, status.st_size, status.st_mtime_ns))
    check_disjoint({split: source.class_names for split, source in splits.items()})
    return Source(path.resolve().name, digest(listing), lambda: splits)


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _read_image(file: Path, image_size: int, channels: Literal[1, 3]) -> UInt8[np.ndarray, "c h w"]:
    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F"):
                raise InputError(
                    f"Image '{file}' has 32-bit pixels, whose range is unknown: expected 8 or 16 bits. Convert it."
                )
            return to_array(ImageOps.exif_transpose(image), image_size, channels)
    except InputError:
        raise
    # Pillow reports damage in many ways: a broken PNG is a SyntaxError, a broken header a ValueError.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"Image '{file}' can't be read ({error}). Replace or remove it.") from error


def _npz_split(file: Path, split: Split, image_size: int, channels: Literal[1, 3]) -> SplitSource:
    try:
        with np.load(file, allow_pickle=False) as archive:
            for key in ("images", "labels"):
                if key not in archive.files:
                    raise InputError(
                        f"'{file}' has no array '{key}', only {sorted(archive.files)}: expected 'images' and 'labels'."
                    )
            raw_labels = archive["labels"]
            given_names = archive["class_names"] if "class_names" in archive.files else None
        with _open_member(file, "images") as (_, shape, dtype, fortran_order):
            pass
    except InputError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"'{file}' can't be read as npz without pickled objects ({error}). Write it anew.") from error
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise InputError(
            f"'images' in '{file}' is {dtype} of shape {list(shape)}: expected uint8 [n, height, width] or "
            "[n, height, width, 1, 3 or 4 channels]."
        )
    if fortran_order:
        raise InputError(f"'images' in '{file}' is in Fortran order: save np.ascontiguousarray(images) instead.")
    if raw_labels.shape != (shape[0],) or raw_labels.dtype.kind not in "iuU":
        raise InputError(
            f"'labels' in '{file}' is {raw_labels.dtype} of shape {list(raw_labels.shape)}: expected one integer or "
            f"string for each of the {shape[0]} images."
        )
    if shape[0] == 0 or 0 in shape:
        raise InputError(f"'images' in '{file}' has shape {list(shape)}: expected at least one image.")
    class_names, labels = _npz_classes(file, split, raw_labels, given_names)

    def stream() -> Iterator[UInt8[np.ndarray, "c h w"]]:
        size = int(np.prod(shape[1:]))
        try:
            with _open_member(file, "images") as (member, _, _, _):
                for _ in range(shape[0]):
                    data = member.read(size)
                    if len(data) != size:
                        raise InputError(f"'{file}' ends in the middle of its images. Write it anew.")
                    pixels = np.frombuffer(data, np.uint8).reshape(shape[1:])
                    picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and shape[3] == 1 else pixels)
                    yield to_array(picture, image_size, channels)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"'{file}' is damaged ({error}). Write it anew.") from error

    return SplitSource(class_names, labels, stream)


def _npz_classes(
    file: Path, split: Split, labels: np.ndarray, given_names: np.ndarray | None
) -> tuple[tuple[str, ...], Int64[np.ndarray, " n"]]:
    values, positions = np.unique(labels, return_inverse=True)
    if given_names is None:
        return tuple(str(value) for value in values), positions.astype(np.int64)
    if given_names.ndim != 1 or given_names.dtype.kind != "U":
        raise InputError(
            f"'class_names' in '{file}' is {given_names.dtype} of shape {list(given_names.shape)}: expected strings."
        )
    if labels.dtype.kind == "U" or values[0] < 0 or values[-1] >= len(given_names):
        raise InputError(
            f"'labels' in '{file}' must be integers from 0 to {len(given_names) - 1}, positions in 'class_names'; they "
            f"run from {values[0]} to {values[-1]}."
        )
    if len(values) < len(given_names):
        empty = min(set(range(len(given_names))) - {int(value) for value in values})
        raise InputError(f"Class '{given_names[empty]}' of split '{split}' is empty: no label {empty} in '{file}'.")
    return tuple(str(name) for name in given_names), labels.astype(np.int64)


@contextlib.contextmanager
def _open_member(file: Path, key: str) -> Iterator[tuple[zipfile.ZipExtFile, tuple[int, ...], np.dtype, bool]]:
    """Open one array of an npz file as a stream of its bytes, without decompressing all of it."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(member)
        # Files opened for reading are ZipExtFile; the stubs promise only bytes.
        yield cast(zipfile.ZipExtFile, member), shape, dtype, fortran_order
