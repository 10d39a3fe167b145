"""Whatever lies in the folders of images: a data set that is right, or a sentence that names the file.

Never another exception, never a hang, never more memory than the images need.
"""

import contextlib
import io
import os
import re
import resource
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from metantk_core.datasets import SPLITS, DataConfig, Split, prepare
from metantk_core.datasets.archives import npz
from metantk_core.datasets.folders import folder
from metantk_core.datasets.sources import MAX_PIXELS, Source, to_array
from metantk_core.errors import InputError
from metantk_core.files import Folder, Place

SIZE = 8
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"]
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]


def read(source: Source) -> dict[Split, tuple[tuple[str, ...], list[int], np.ndarray]]:
    """Return everything that a source gives, with the checks that any reader could make."""
    found = {}
    for split, part in source.splits().items():
        images = list(part.images())
        assert len(images) == len(part.labels) > 0
        assert all(image.shape == (3, SIZE, SIZE) and image.dtype == np.uint8 for image in images)
        assert sorted(set(part.labels.tolist())) == list(range(len(part.class_names)))
        found[split] = (part.class_names, part.labels.tolist(), np.stack(images))
    names = [name for names, _, _ in found.values() for name in names]
    assert len(set(names)) == len(names)
    assert all(name.strip() and name.encode("utf-8") for name in names)
    return found


def outcome(reader: Callable[[Place, int, Literal[3]], Source], path: Path) -> Any:
    """Return what a source gives, or the sentence that refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read(reader(Folder(path), SIZE, 3))
        except InputError as error:
            sentence = str(error)
    assert sentence.isprintable(), sentence
    assert 30 < len(sentence) < 1500, sentence
    assert sentence.endswith("."), sentence
    assert ".." not in sentence.replace(str(path), ""), sentence
    return sentence


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "images")


def write_tree(root: Path) -> Path:
    for offset, split in enumerate(SPLITS):
        for name in ("a", "b"):
            (root / split / f"{name}{offset}").mkdir(parents=True)
            pixels = np.random.default_rng([offset, ord(name)]).integers(0, 256, (9, 7, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{name}{offset}" / "1.png")
    return root


@pytest.fixture
def archives(tmp_path) -> Path:
    return write_archives(tmp_path / "arrays")


def write_archives(root: Path) -> Path:
    root.mkdir(parents=True)
    for offset, split in enumerate(SPLITS):
        np.savez(root / f"{split}.npz", **arrays(offset))  # pyright: ignore[reportArgumentType]
    return root


def arrays(offset: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(offset)
    return {"images": rng.integers(0, 256, (4, 8, 8, 3), np.uint8), "labels": 10 * offset + np.arange(4) % 2}


@contextlib.contextmanager
def memory_no_larger_than(megabytes: int) -> Iterator[None]:
    """Refuse this process more than so much address space above what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# Folders


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """Give a folder that an account without rights may read, while this process has that account."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        privileged = os.geteuid() == 0
        try:
            if privileged:
                os.seteuid(65534)
            yield Path(place)
        finally:
            if privileged:
                os.seteuid(0)


@pytest.mark.parametrize("place", ["", "val", "val/b1", "val/b1/1.png"])
def test_a_place_that_may_not_be_read_is_named(place):
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:  # where nobody, too, gets in
        os.chmod(outer, 0o755)
        root = write_tree(Path(outer) / "images")
        os.chmod(root / place, 0)
        with as_nobody():
            sentence = outcome(folder, root)
        os.chmod(root / place, 0o755)
    assert isinstance(sentence, str)
    assert "Permission denied" in sentence
    assert str(root / place) in sentence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"a\nb", "no text"),
        (b"\x1b[2J", "no text"),
        ("a\u2028b".encode(), "no text"),
        (b" ", "is blank"),
        (b"a0", "in splits 'train' and 'val'"),
    ],
)
def test_a_class_name_that_can_not_be_shown_or_told_apart_is_refused(tree, name, words):
    os.rename(tree / "val" / "a1", os.path.join(os.fsencode(tree / "val"), name))
    assert words in outcome(folder, tree)


def test_one_name_written_in_two_ways_is_one_class(tree):
    (tree / "train" / "a0").rename(tree / "train" / "\u00e9")
    (tree / "val" / "a1").rename(tree / "val" / "e\u0301")
    assert "in splits 'train' and 'val'" in outcome(folder, tree)


def _loop(place: Path) -> None:
    place.symlink_to(place.name)


def _broken(place: Path) -> None:
    place.symlink_to("nowhere")


def _device(place: Path) -> None:
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "words"),
    [(_loop, "leads nowhere"), (_broken, "leads nowhere"), (_device, "is a device"), (os.mkfifo, "is a FIFO")],
)
@pytest.mark.parametrize("place", ["val/b1/2.png", "val/c1"])
def test_links_that_lead_nowhere_and_files_that_are_none_are_refused(tree, make, words, place):
    make(tree / place)
    found = outcome(folder, tree)
    if place == "val/c1" and "leads" not in words:
        assert isinstance(found, dict)  # no folder, so no class: passed over as any other file there
    else:
        assert words in found
        assert str(tree / place) in found


def test_a_fifo_that_takes_the_place_of_an_image_meanwhile_is_not_waited_for(tree):
    part = folder(Folder(tree), SIZE, 3).splits()["val"]
    (tree / "val" / "b1" / "1.png").unlink()
    os.mkfifo(tree / "val" / "b1" / "1.png")
    with pytest.raises(InputError, match=r"b1/1\.png' can't be read \(it is a FIFO, not a file\)"):
        list(part.images())


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "~nobodyatall/x", "a\0b", "\udcff"])
@pytest.mark.parametrize("reader", [folder, npz])
def test_an_impossible_path_is_a_sentence(reader, path):
    assert isinstance(outcome(reader, Path(path)), str)


@pytest.mark.parametrize("source", ["folder", "npz"])
@pytest.mark.parametrize("path", ["x" * 300, "x/" * 2048, "~nobodyatall/x", "/dev/null", "/dev/null/x"])
def test_an_impossible_path_in_a_configuration_is_a_sentence(source, path, tmp_path):
    with pytest.raises(InputError, match=r"folder|read"):
        prepare(DataConfig(source=source, path=path), tmp_path / "out")


def test_content_decides_and_not_every_format_that_pillow_knows_is_read(tree, monkeypatch):
    file = tree / "val" / "b1" / "1.png"
    Image.new("RGB", (8, 8), "red").save(file, format="EPS")  # would start Ghostscript
    assert "none of BMP, GIF" in outcome(folder, tree)
    Image.new("RGB", (8, 8), "red").save(file, format="JPEG")
    assert isinstance(outcome(folder, tree), dict)


def test_a_portable_graymap_of_16_bits_is_read(tree):
    Image.fromarray(np.full((8, 8), 0x8001, np.uint16)).save(tree / "val" / "b1" / "1.png", format="PPM")
    assert (outcome(folder, tree)["val"][2][1] == 128).all()


def test_turned_photos_stand_upright_and_of_animations_the_first_picture_counts(tree):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # a white line on top
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    Image.fromarray(pixels).save(tree / "val" / "b1" / "1.png", exif=exif)
    found = outcome(folder, tree)
    assert (found["val"][2][1][:, :, -1] == 255).all()
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    (tree / "val" / "b1" / "1.png").unlink()
    frames[0].save(tree / "val" / "b1" / "1.gif", save_all=True, append_images=frames[1:])
    assert (outcome(folder, tree)["val"][2][1] == 10).all()


def _png(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(bytes(2**20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        _png(10_000, 10_000),
        _png(2**31 - 1, 2**31 - 1),
        _png(30_000, 30_000),
        b"P6 99999 99999 255\n",
        b"P5 1000000000 1 65535\n",
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
    ],
)
def test_an_image_that_claims_more_pixels_than_any_photo_is_refused_before_they_take_memory(tree, content):
    (tree / "val" / "b1" / "1.png").write_bytes(content)
    with memory_no_larger_than(200):
        sentence = outcome(folder, tree)
    assert "b1/1.png' " in sentence


HASTE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@st.composite
def pictures(draw) -> tuple[bytes, str]:
    """Return an image file as Pillow writes it, of any mode, size and format that go together."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mode, form = draw(st.sampled_from(MODES)), draw(st.sampled_from(FORMATS))
    pixels = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) << 8)
    elif mode != "LAB":
        image = image.convert(mode)
    data = io.BytesIO()
    try:
        image.save(data, format=form)
    except (OSError, ValueError, KeyError):  # this format doesn't know this mode
        image.convert("RGB").save(data, format=form)
    return data.getvalue(), form


@st.composite
def mutations(draw, content: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes cut, with some replaced, repeated or put in."""
    data = bytearray(draw(content))
    for _ in range(draw(st.integers(1, 4))):
        # Most of what a decoder believes stands at the beginning.
        at = min(draw(st.integers(0, 80) | st.integers(0, max(0, len(data) - 1))), max(0, len(data) - 1))
        change = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "repeat"]))
        if not data:
            break
        if change == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]))
        elif change == "cut":
            del data[at:]
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif change == "remove":
            del data[at : at + draw(st.integers(1, 8))]
        else:
            data[at:at] = data[at : at + 16]
    return bytes(data)


def kind_of(found: dict | str) -> str:
    """Return what the statistics of hypothesis count."""
    return "read" if isinstance(found, dict) else "refused"


def _image_file(base: Path, content: bytes) -> Path:
    root = base / "tree"
    if not root.exists():
        write_tree(root)
    (root / "val" / "b1" / "1.png").write_bytes(content)
    return root


def check_any_bytes(base: Path, content: bytes) -> None:
    found = outcome(folder, _image_file(base, content))
    event(kind_of(found))
    assert isinstance(found, dict) or "val/b1/1.png'" in found


def check_any_picture(base: Path, picture: tuple[bytes, str]) -> None:
    content, _ = picture
    found = outcome(folder, _image_file(base, content))
    event(kind_of(found))
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "LAB":
            return
        meant = Image.fromarray(np.asarray(image).astype(np.uint16)) if image.mode == "I" else image  # a PGM of 16 bits
        assert np.array_equal(found["val"][2][1], to_array(meant, SIZE, 3))


ANY_BYTES = mutations(pictures().map(lambda picture: picture[0])) | st.binary(max_size=200)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    memory = Path("/dev/shm")  # thousands of small files
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as place:
        yield Path(place)


@settings(max_examples=120, **HASTE)
@given(content=ANY_BYTES)
def test_any_bytes_as_an_image(base, content):
    check_any_bytes(base, content)


@pytest.mark.minutes
@settings(max_examples=4000, **HASTE)
@given(content=ANY_BYTES)
def test_any_bytes_as_an_image_thoroughly(base, content):
    check_any_bytes(base, content)


@settings(max_examples=60, **HASTE)
@given(picture=pictures())
def test_an_image_of_any_mode_size_and_format_is_read_as_it_is_meant(base, picture):
    check_any_picture(base, picture)


@pytest.mark.minutes
@settings(max_examples=2000, **HASTE)
@given(picture=pictures())
def test_an_image_of_any_mode_size_and_format_is_read_as_it_is_meant_thoroughly(base, picture):
    check_any_picture(base, picture)


NAMES = st.sampled_from(
    [b"a", b"b", b"c", b".hidden", b"x.png", b"\xff", b"\xc3\xa9", b"e\xcc\x81", b"a\n", b" ", b"n" * 255]
)
ENTRIES = st.sampled_from(["image", "text", "empty", "folder", "fifo", "loop", "broken", "up", "class"])


def check_any_tree(base: Path, tree: list[tuple[str, bytes, bytes, str]]) -> None:
    root = base / "odd"
    shutil.rmtree(root, ignore_errors=True)
    write_tree(root)
    for split, name, file, what in tree:
        place = os.path.join(os.fsencode(root / split), name)
        with contextlib.suppress(OSError):  # a place that is taken already
            if what == "class":
                os.symlink(os.fsencode(root / split / "."), place)
                continue
            os.makedirs(place, exist_ok=True)
            entry = os.path.join(place, file)
            if what == "image":
                shutil.copy(root / "val" / "a1" / "1.png", os.fsdecode(entry))
            elif what in ("text", "empty"):
                with open(entry, "xb") as made:  # a FIFO that is there already would wait for a reader
                    made.write(b"text" if what == "text" else b"")
            elif what == "folder":
                os.mkdir(entry)
            elif what == "fifo":
                os.mkfifo(entry)
            else:
                os.symlink({"loop": file, "broken": b"nowhere", "up": b".."}[what], entry)
    event(kind_of(outcome(folder, root)))


TREES = st.lists(
    st.tuples(st.sampled_from(SPLITS), NAMES, NAMES.map(lambda name: name + b".png") | NAMES, ENTRIES), max_size=6
)


@settings(max_examples=60, **HASTE)
@given(tree=TREES)
def test_any_tree_of_folders(base, tree):
    check_any_tree(base, tree)


@pytest.mark.minutes
@settings(max_examples=3000, **HASTE)
@given(tree=TREES)
def test_any_tree_of_folders_thoroughly(base, tree):
    check_any_tree(base, tree)


def test_nothing_is_left_over_after_a_refusal(tree, tmp_path):
    (tree / "test" / "b2" / "1.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"b2/1\.png"):
        prepare(DataConfig(source="folder", path=str(tree), image_size=8), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]


# Archives


def npy(header: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """Return an array file with any header."""
    text = header.encode("latin-1")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + data


def described(descr: str, shape: str, data: bytes = b"") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", data)


def write_zip(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of members that are there twice
        for name, content in members.items():
            archive.writestr(name.rstrip("*"), content)


def members(**changes: bytes | None) -> dict[str, bytes]:
    result = {}
    for key, array in arrays().items():
        data = io.BytesIO()
        np.save(data, array)
        result[f"{key}.npy"] = data.getvalue()
    result |= {f"{key}.npy": content for key, content in changes.items() if content is not None}
    return {key: content for key, content in result.items() if changes.get(key[:-4], b"") is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": described("'<i8'", "(1000000000000,)")}, "claims shape"),
        ({"labels": described("'<i8'", "(100000000000000000000,)")}, "claims shape"),
        ({"images": described("'|u1'", "(100000000000000000000, 8, 8)")}, "claims shape"),
        ({"labels": described("'<i8'", "(-1,)")}, "gives no shape"),
        ({"labels": described("'<i8'", "(True,)")}, "gives no shape"),
        ({"labels": described("'<i8'", "4")}, "gives no shape"),
        ({"labels": described("'<i8'", "(4.0,)")}, "gives no shape"),
        ({"labels": described("'<i8'", "(" + "1," * 40 + ")")}, "gives no shape"),
        ({"labels": described("'|O'", "(4,)", bytes(32))}, "pickled"),
        ({"labels": described("[('a', '<i8')]", "(4,)", bytes(32))}, "neither numbers nor strings"),
        ({"labels": described("'i4,O'", "(4,)", bytes(32))}, "neither numbers nor strings"),
        ({"labels": described("'<f8'", "(4,)", struct.pack("4d", *[float("nan")] * 4))}, "float64"),
        ({"labels": described("'|b1'", "(4,)", bytes(4))}, "is bool"),
        ({"labels": described("'<U0'", "(4,)")}, "strings of 0"),
        ({"labels": described("'<U9999'", "(4,)", bytes(4 * 9999 * 4))}, "strings of 9,999"),
        ({"labels": described("'<U1'", "(4,)", b"\xff" * 16)}, "can't be read"),
        ({"labels": described("'<U1'", "(4,)", struct.pack("<4I", *[0xD800] * 4))}, "no text"),
        ({"labels": described("'<U1'", "(4,)", bytes(16))}, "is blank"),
        ({"class_names": described("'<U1'", "(2,)", struct.pack("<2I", 0xDFFF, 65))}, "must be integers from 0 to 1"),
        ({"labels": npy("{" * 5000)}, "malformed"),
        ({"labels": npy("(" * 9999)}, "malformed"),
        ({"labels": npy("-" * 9999 + "1")}, "malformed"),
        ({"labels": npy("{'descr': '<i8'}")}, "malformed"),
        ({"labels": npy("[1, 2]")}, "malformed"),
        ({"labels": npy("{[]: 1}")}, "malformed"),
        ({"labels": npy("__import__('os')")}, "malformed"),
        ({"labels": npy("", length=60000)}, "cut off or too long"),
        ({"labels": npy("", version=(2, 0), length=2**32 - 1)}, "cut off or too long"),
        ({"labels": npy("{}", version=(9, 0))}, "version 9"),
        ({"labels": b"\x93NUMP"}, "doesn't begin as"),
        ({"labels": b""}, "doesn't begin as"),
        ({"labels": described("'<i8'", "(4,)", bytes(33))}, "claims shape"),
        ({"images": described("'|u1'", "(1, 100000, 100000)", bytes(8))}, "claims shape"),
        ({"images": described("'|u1'", "(4, 0, 8)")}, "at least one image"),
        ({"images*": members()["images.npy"], "images": members()["images.npy"]}, "2 arrays 'images'"),
        ({"labels": None, "x": b""}, "no array 'labels', only"),
    ],
)  # fmt: skip
def test_a_hostile_array_is_refused_before_it_takes_memory(archives, changes, words):
    content = members(**{key: value for key, value in changes.items() if not key.endswith("*")})
    if "images*" in changes:
        content = {"images.npy*": changes["images*"], **content}
    write_zip(archives / "val.npz", content)
    with memory_no_larger_than(100):
        sentence = outcome(npz, archives)
    assert isinstance(sentence, str)
    assert words in sentence
    assert str(archives / "val.npz") in sentence


def test_a_member_that_is_no_array_and_a_file_that_is_no_archive_are_told(archives):
    np.save(archives / "val.npy", arrays()["images"])
    (archives / "val.npy").rename(archives / "val.npz")
    assert "is a single array (.npy)" in outcome(npz, archives)
    write_zip(archives / "val.npz", {key.removesuffix(".npy"): data for key, data in members().items()})
    assert "no array 'images'" in outcome(npz, archives)
    (archives / "val.npz").unlink()
    os.mkfifo(archives / "val.npz")
    assert "it is a FIFO" in outcome(npz, archives)


def _patched(
    file: Path, key: str, *, flags: int | None = None, method: int | None = None, size: int | None = None
) -> None:
    """Change what an archive says of a member, in its table of contents and before the member."""
    data = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            name = data[at + (46 if offset == 8 else 30) :][: len(key)]
            if name != key.encode():
                continue
            if flags is not None:
                struct.pack_into("<H", data, at + offset, flags)
            if method is not None:
                struct.pack_into("<H", data, at + offset + 2, method)
            if size is not None:
                struct.pack_into("<I", data, at + offset + 16, size)
    file.write_bytes(data)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"method": 12}, "compressed by method 12"),
        ({"method": 14}, "compressed by method 14"),
        ({"method": 97}, "compressed by method 97"),
        ({"size": 2**31}, "more than the file can hold"),
        ({"size": 100}, "can't be read"),
    ],
)
@pytest.mark.parametrize("key", ["labels", "images"])
def test_an_archive_that_says_other_things_of_itself_is_refused(archives, compression, patch, words, key):
    write_zip(archives / "val.npz", members(), compression)
    _patched(archives / "val.npz", f"{key}.npy", **patch)
    sentence = outcome(npz, archives)
    assert words in sentence
    assert key in sentence


def test_a_huge_table_of_contents_is_not_read(archives):
    data = bytearray((archives / "val.npz").read_bytes())
    end = data.rfind(b"PK\x05\x06")
    table = bytes(2**26)
    struct.pack_into("<II", data, end + 12, len(table), end)
    (archives / "val.npz").write_bytes(data[:end] + table + data[end:])
    with memory_no_larger_than(32):
        assert "table of contents" in outcome(npz, archives)


def test_a_bomb_is_read_image_by_image(archives):
    shape = (2000, 1000, 1000)  # 2 GB of zeros in 2 MB
    with zipfile.ZipFile(archives / "val.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            member.write(described("'|u1'", str(shape)))
            for _ in range(20):
                member.write(bytes(10**6))
        archive.writestr("labels.npy", described("'<i8'", "(20,)", np.arange(20).tobytes()))
    assert "claims shape" in outcome(npz, archives)
    with zipfile.ZipFile(archives / "val.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w") as member:
            member.write(described("'|u1'", "(60, 1000, 1000)"))
            for _ in range(60):
                member.write(bytes(10**6))
        archive.writestr("labels.npy", described("'<i8'", "(60,)", (1000 + np.arange(60)).tobytes()))
    with memory_no_larger_than(40):
        assert len(outcome(npz, archives)["val"][1]) == 60


def test_images_larger_than_any_photo_are_refused(archives):
    side = int(MAX_PIXELS**0.5) + 1
    with zipfile.ZipFile(archives / "val.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w") as member:
            member.write(described("'|u1'", f"(1, {side}, {side})"))
            for _ in range(side):
                member.write(bytes(side))
        archive.writestr("labels.npy", described("'<i8'", "(1,)", bytes(8)))
    assert "Make them smaller" in outcome(npz, archives)


def test_an_old_header_of_python_2_is_read(archives):
    content = members(labels=described("'<i8'", "(4L,)", struct.pack("<4q", 5, 6, 5, 6)))
    write_zip(archives / "val.npz", content)
    assert outcome(npz, archives)["val"][:2] == (("5", "6"), [0, 1, 0, 1])


TYPES = st.sampled_from(
    ["u1", "i1", "<i4", ">i8", "<u8", "<f4", "<c8", "|b1", "<U3", ">U3", "|S3", "|O", "<M8[s]", "|V4"]
)
TEXT = st.text(max_size=3)


@st.composite
def any_array(draw) -> np.ndarray:
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    dtype = np.dtype(draw(TYPES))
    if dtype.kind == "U":
        values = draw(st.lists(TEXT, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return np.array(values, dtype).reshape(shape)
    return (
        np.full(shape, draw(st.integers(0, 3)), object).astype(dtype)
        if dtype.kind in "iufcbO"
        else np.zeros(shape, dtype)
    )


@st.composite
def any_archive(draw) -> tuple[bytes, dict[str, np.ndarray] | None]:
    """Return an archive and, if it is as it should be, what is in it."""
    count = draw(st.integers(1, 5))
    good = {
        "images": np.full((count, *draw(st.sampled_from([(8, 8), (5, 9, 1), (8, 8, 3), (3, 3, 4)]))), 7, np.uint8),
        "labels": np.array(draw(st.lists(st.integers(-3, 300), min_size=count, max_size=count))) * 1000 + 500,
    }
    content = dict(good)
    for key in draw(st.sets(st.sampled_from(["images", "labels", "class_names", "more"]), max_size=2)):
        if draw(st.booleans()):
            content[key] = draw(any_array())
        else:
            content.pop(key, None)
    data = io.BytesIO()
    (np.savez if draw(st.booleans()) else np.savez_compressed)(data, **content)  # pyright: ignore[reportArgumentType]
    untouched = all(content.get(key) is good[key] for key in good) and "class_names" not in content
    return data.getvalue(), good if untouched else None


def check_any_archive(base: Path, archive: tuple[bytes, dict[str, np.ndarray] | None]) -> None:
    root = base / "arrays"
    if not root.exists():
        write_archives(root)
    content, good = archive
    (root / "val.npz").write_bytes(content)
    found = outcome(npz, root)
    event(kind_of(found))
    if good is not None:
        assert isinstance(found, dict), found
        names = sorted(set(good["labels"].tolist()))
        assert found["val"][:2] == (tuple(map(str, names)), [names.index(label) for label in good["labels"].tolist()])
    if isinstance(found, str):
        assert re.search(r"val\.npz'|splits? '", found), found


ANY_ARCHIVE = any_archive() | mutations(any_archive().map(lambda archive: archive[0])).map(lambda data: (data, None))


@settings(max_examples=120, **HASTE)
@given(archive=ANY_ARCHIVE)
def test_any_archive(base, archive):
    check_any_archive(base, archive)


@pytest.mark.minutes
@settings(max_examples=4000, **HASTE)
@given(archive=ANY_ARCHIVE)
def test_any_archive_thoroughly(base, archive):
    check_any_archive(base, archive)


HEADERS = st.builds(
    lambda descr, order, shape, more: f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}",
    st.sampled_from(
        ["'|u1'", "'<i8'", "'<U2'", "'|O'", "None", "[('a','<i4')]", "'i4,i4'", "'<i999'", "b'u1'", "'<U999999999'"]
    ),
    st.sampled_from(["False", "True", "0", "None"]),
    st.lists(
        st.sampled_from(["0", "1", "4", "8", "-1", "10**9", "9" * 30, "None", "'4'", "4.0", "1e9", "4L", "True", "()"]),
        max_size=5,
    ).map(lambda axes: f"({', '.join(axes)},)"),
    st.sampled_from(["", "'x': 1", "*()", "'shape': 4", "\\", "\0", "#"]),
)  # fmt: skip


def check_any_header(base: Path, key: str, header: str, data: bytes) -> None:
    root = base / "headers"
    if not root.exists():
        write_archives(root)
    write_zip(root / "val.npz", members(**{key: npy(header, data)}))
    found = outcome(npz, root)
    event(kind_of(found))
    assert isinstance(found, dict) or "val.npz'" in found or "split" in found


@settings(max_examples=120, **HASTE)
@given(
    key=st.sampled_from(["images", "labels", "class_names"]),
    header=HEADERS | st.text(st.characters(max_codepoint=255)),
    data=st.binary(max_size=64),
)
def test_any_header_of_an_array(base, key, header, data):
    check_any_header(base, key, header, data)


@pytest.mark.minutes
@settings(max_examples=4000, **HASTE)
@given(
    key=st.sampled_from(["images", "labels", "class_names"]),
    header=HEADERS | st.text(st.characters(max_codepoint=255)),
    data=st.binary(max_size=64),
)
def test_any_header_of_an_array_thoroughly(base, key, header, data):
    check_any_header(base, key, header, data)
