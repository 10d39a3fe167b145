"""Imports of full size: numbers of images enter, images a second, what bounds them, and memory leave.

Run as ``python -m benchmarks.importing [--quick] [--json FILE]``. Sets of the sizes of miniImageNet (38,400 images, as
RFS's pickles and as JPEG files with lists) and of tieredImageNet's training images (448,695, as RFS's npz; its 124,261
and 206,209 others are fewer here) are made in a folder, imported by ``metantk data import`` in a process of its own,
and removed. Resident memory is that process's; of pages that processes share each counts its part (PSS).

Beside it, the processor seconds that the parts of an import take, of 4,096 images in this process: reading and
decoding; checksums; sums for mean and standard deviation; writing, without waiting for the disk.
"""

import argparse
import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from metantk_core.datasets import SPLITS, DataConfig, Split
from metantk_core.datasets.images import checksum
from metantk_core.datasets.layouts import recognised
from metantk_core.datasets.stored import channel_sums
from metantk_core.files import Folder

SIDE = 84
CLASSES: dict[Split, int] = {"train": 64, "val": 16, "test": 20}
TIERED_CLASSES: dict[Split, int] = {"train": 351, "val": 97, "test": 160}
_AT_ONCE = 512
_SAMPLE = 4096


@dataclass(frozen=True)
class Figures:
    """What one import took.

    Attributes:
        layout: How the images were kept.
        images: Number of images.
        gigabytes: Size of what was made.
        seconds: Wall time of the command.
        processor: Processor seconds of the command.
        pace: Images a second.
        reading: Processor microseconds an image for reading and decoding.
        checksums: The same for checksums.
        sums: The same for mean and standard deviation.
        writing: The same for writing.
        resident: Largest resident memory in MB.
        proportional: Largest proportional memory in MB.
    """

    layout: str
    images: int
    gigabytes: float
    seconds: float
    processor: float
    pace: float
    reading: float
    checksums: float
    sums: float
    writing: float
    resident: float
    proportional: float


# Sets


def counts(images: int, classes: dict[Split, int]) -> dict[Split, int]:
    """Return how many images each split has, in the ratio of its classes."""
    return {split: max(classes[split], images * classes[split] // sum(classes.values())) for split in SPLITS}


def pictures(split: Split, count: int, classes: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Give images ``[k h w 3]`` by class, some at a time: each class has a pattern of its own, under noise."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    coarse = rng.integers(0, 160, (classes, 12, 12, 3), np.uint8)
    labels = labels_of(count, classes)
    for start in range(0, count, _AT_ONCE):
        some = labels[start : start + _AT_ONCE]
        fine = coarse[some].repeat(SIDE // 12, axis=1).repeat(SIDE // 12, axis=2)
        noise = np.frombuffer(rng.bytes(fine.size), np.uint8).reshape(fine.shape)
        yield fine + (noise & 63)


def labels_of(count: int, classes: int) -> np.ndarray:
    """Return the class of each image, sorted."""
    return np.arange(count) * classes // count


def write_pickles(root: Path, images: int) -> None:
    """Write miniImageNet as RFS and MetaOptNet have it."""
    first = 0
    for split, count in counts(images, CLASSES).items():
        data = np.concatenate(list(pictures(split, count, CLASSES[split])))
        labels = (first + labels_of(count, CLASSES[split])).tolist()
        phase = "train_phase_train" if split == "train" else split
        with open(root / f"miniImageNet_category_split_{phase}.pickle", "wb") as file:
            pickle.dump({"data": data, "labels": labels}, file, protocol=4)
        first += CLASSES[split]


def write_files(root: Path, images: int) -> None:
    """Write miniImageNet as Ravi and Larochelle have it: JPEG files and lists."""
    (root / "images").mkdir()
    first = 0
    for split, count in counts(images, CLASSES).items():
        with open(root / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            names = (f"n{first + label:08}{row:08}.jpg" for row, label in enumerate(labels_of(count, CLASSES[split])))
            for block in pictures(split, count, CLASSES[split]):
                for pixels in block:
                    name = next(names)
                    Image.fromarray(pixels).save(root / "images" / name, quality=90)
                    rows.writerow([name, name[:9]])
        first += CLASSES[split]


def write_tiered(root: Path, images: int) -> None:
    """Write tieredImageNet as RFS has it, its validation and test images fewer."""
    first = 0
    for split, classes in TIERED_CLASSES.items():
        count = images if split == "train" else max(classes, classes * min(128, images // TIERED_CLASSES["train"]))
        with (
            zipfile.ZipFile(root / f"{split}_images.npz", "w") as archive,
            archive.open("images.npy", "w", force_zip64=True) as file,
        ):
            head = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE, 3)}
            np.lib.format.write_array_header_1_0(file, head)  # pyright: ignore[reportArgumentType]
            for block in pictures(split, count, classes):
                file.write(block.tobytes())
        with open(root / f"{split}_labels.pkl", "wb") as file:
            pickle.dump({"labels": (first + labels_of(count, classes)).tolist()}, file, protocol=2)
        first += classes


SETS: dict[str, Callable[[Path, int], None]] = {
    "pickles": write_pickles,
    "files": write_files,
    "tiered": write_tiered,
}


# Measurements


def measured(source: Path, destination: Path) -> Figures:
    """Import a set in a process of its own and return what it took."""
    command = [sys.executable, "-m", "metantk_core", "data", "import", str(source), str(destination), "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdout=answer, stderr=words)
        resident, proportional = peaks(process)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        answer.seek(0)
        words.seek(0)
        if status:
            raise SystemExit(words.read().decode()[-2000:])
        made = json.load(answer)
    images = sum(made["images"].values())
    return Figures(
        layout=made["layout"],
        images=images,
        gigabytes=made["size"] / 1e9,
        seconds=seconds,
        processor=usage.ru_utime + usage.ru_stime,
        pace=images / seconds,
        **parts(source, destination.parent),
        resident=resident,
        proportional=proportional,
    )


def peaks(process: "subprocess.Popen[bytes]") -> tuple[float, float]:
    """Return the largest resident and proportional memory of a process while it runs, in MB, looked at often."""
    largest = {"VmHWM": 0.0, "Pss": 0.0}
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        try:
            lines = [
                line
                for file in ("status", "smaps_rollup")
                for line in Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
            ]
        except OSError:
            break
        for line in lines:
            name, _, rest = line.partition(":")
            if name in largest:
                largest[name] = max(largest[name], float(rest.split()[0]) / 1024)
        time.sleep(0.1)
    return largest["VmHWM"], largest["Pss"]


def parts(source: Path, scratch: Path) -> dict[str, float]:
    """Return what the parts of an import take of a processor, in microseconds an image."""
    config = DataConfig(path=str(source), image_size=SIDE, channels=3)
    split = recognised(Folder(source), config.image_size, config.channels).splits()["train"]
    images, reading = timed(lambda: list(islice(split.images(), _SAMPLE)))
    blocks = [np.stack(images[start : start + 64]) for start in range(0, len(images), 64)]

    def write() -> None:
        with open(scratch / "written", "wb") as file:
            for block in blocks:
                file.write(block.data)

    _, checksums = timed(lambda: [checksum(image) for block in blocks for image in block])
    _, sums = timed(lambda: [channel_sums(block) for block in blocks])
    _, writing = timed(write)
    (scratch / "written").unlink()
    taken = {"reading": reading, "checksums": checksums, "sums": sums, "writing": writing}
    return {what: seconds / len(images) * 1e6 for what, seconds in taken.items()}


def timed(work: Callable[[], object]) -> tuple[list[np.ndarray], float]:
    """Return the result of some work and its processor seconds."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started  # pyright: ignore[reportReturnType]


def main() -> None:
    """Make sets, import them, print what that takes."""
    parser = argparse.ArgumentParser(description="Imports of full size.")
    parser.add_argument("--quick", action="store_true", help="sets of a twentieth of the size, under a minute")
    parser.add_argument("--images", type=int, help="images of the sets like miniImageNet; 38,400 unless told")
    parser.add_argument("--tiered", type=int, help="training images like tieredImageNet's; 448,695 unless told")
    parser.add_argument("--only", choices=SETS, action="append", help="one of the sets; repeatable")
    parser.add_argument("--folder", type=Path, help="where sets are made, and removed again: up to 21 GB")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="move what was imported last there, and keep it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    part = 20 if arguments.quick else 1
    images, tiered = arguments.images or 38_400 // part, arguments.tiered or 448_695 // part
    rows: list[Figures] = []
    print("| layout | images | made | wall | processor | images/s | RSS | PSS | reading | checksums | sums | writing |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.only or SETS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            source, destination = Path(folder, name), Path(folder, "imported")
            source.mkdir()
            SETS[name](source, tiered if name == "tiered" else images)
            rows.append(row := measured(source, destination))
            if arguments.keep:
                shutil.rmtree(source)
                shutil.move(destination, arguments.keep)
        print(
            f"| {row.layout} | {row.images:,} | {row.gigabytes:.2f} GB | {row.seconds:.1f} s | {row.processor:.1f} s "
            f"| {row.pace:,.0f} | {row.resident:,.0f} MB | {row.proportional:,.0f} MB | {row.reading:.1f} µs "
            f"| {row.checksums:.1f} µs | {row.sums:.1f} µs | {row.writing:.1f} µs |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
