"""Training batches of a large image set: a number of images enters, images a second and resident memory leave.

Run as ``python -m benchmarks.batches [--quick] [--data FOLDER] [--json FILE]``. Batches of 64 images of 84 x 84 are
made as training takes them: read from the prepared file (whose pages the machine holds), compared with their checksums,
cropped after padding by 8, with or without colour jitter, flipped, normalised. The other side is the loop of the
published code: torchvision's random transforms on one PIL image after the other. Times are processor time of one
thread, medians of runs in turns, so that other programs on the machine change them little.

Then one epoch is read, and resident memory printed, with images read from the file and, beside it, through a memory
map. Without ``--data``, the folder of a prepared data set, images of noise are written to a temporary folder.

Needs torchvision, which the extra ``meta-training`` brings.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from PIL import Image

from benchmarks.memory import resident_megabytes
from metantk_core import datasets
from metantk_core.augmentation import NO_AUGMENTATION, AugmentationConfig, drawn, flipped, jittered, padded_crop
from metantk_core.batches import BatchSource
from metantk_core.datasets import LabelledImages
from metantk_core.datasets.images import CHECKSUM_BYTES, checksum
from metantk_core.datasets.pixel_file import PixelFile
from metantk_core.episodes import normalise
from metantk_core.seeding import numpy_generator
from metantk_core.torchvision_import import torchvision_importable

SIZE, BATCH, PADDING, JITTER = 84, 64, 8, 0.4
CLASSES = 64
MEAN = tuple(value / 255 for value in (120.396, 115.594, 104.540))
STD = tuple(value / 255 for value in (70.682, 68.276, 72.545))
PLAIN = AugmentationConfig(colour_jitter=0.0)


def noise(folder: Path, number: int) -> LabelledImages:
    """Write images of noise to a file, and return them as a prepared data set has them.

    Args:
        folder: Where the file goes.
        number: Number of images.
    """
    rng = np.random.default_rng(0)
    path = folder / "train_images.npy"
    checksums = np.empty((number, CHECKSUM_BYTES), np.uint8)
    with path.open("wb") as file:
        for row in range(number):
            image = rng.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
            file.write(image.tobytes())
            checksums[row] = np.frombuffer(checksum(image), np.uint8)
    images = np.memmap(path, np.uint8, mode="r", shape=(number, 3, SIZE, SIZE))
    labels = np.arange(number, dtype=np.int64) % CLASSES
    names = tuple(f"class {label}" for label in range(CLASSES))
    return LabelledImages(images, labels, names, "train", "noise", checksums, PixelFile(path, 0, (3, SIZE, SIZE)))


def published_loop(images: LabelledImages, colour_jitter: float) -> Callable[[int], torch.Tensor]:
    """Return a function that makes a batch as the published training code does: image by image, by torchvision.

    Args:
        images: Where images come from.
        colour_jitter: How far factors are from 1 at most; 0 for no jitter.
    """
    with torchvision_importable():
        from torchvision import transforms
    jitter = [transforms.ColorJitter(colour_jitter, colour_jitter, colour_jitter)] if colour_jitter else []
    change = transforms.Compose(
        [
            transforms.RandomCrop(SIZE, padding=PADDING),
            *jitter,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    order = numpy_generator(0, "benchmark").permutation(len(images))

    def batch(index: int) -> torch.Tensor:
        rows = order[index * BATCH : (index + 1) * BATCH]
        pixels = (np.ascontiguousarray(images.images[row].transpose(1, 2, 0)) for row in rows)
        return torch.stack([change(Image.fromarray(image)) for image in pixels])  # type: ignore[misc]

    return batch


def ways(images: LabelledImages) -> dict[str, Callable[[int], object]]:
    """Return the ways to make a batch, by name; each takes the batch's number.

    Args:
        images: Where images come from.
    """

    def ours(source: BatchSource) -> Callable[[int], object]:
        return lambda index: source.batch(0, 0, index)

    plain, jitter = (BatchSource(images, BATCH, MEAN, STD, kind) for kind in (PLAIN, AugmentationConfig()))
    unchecked = BatchSource(replace(images, checksums=None), BATCH, MEAN, STD, PLAIN)
    return {
        "crop, flip": ours(plain),
        "crop, flip, unchecked": ours(unchecked),
        "crop, jitter, flip": ours(jitter),
        "nothing": ours(BatchSource(images, BATCH, MEAN, STD, NO_AUGMENTATION)),
        "published loop: crop, flip": published_loop(images, 0.0),
        "published loop: crop, jitter, flip": published_loop(images, JITTER),
    }


def parts(images: LabelledImages) -> dict[str, Callable[[int], object]]:
    """Return the parts of a batch, by name.

    Args:
        images: Where images come from.
    """
    unchecked = replace(images, checksums=None)
    order = numpy_generator(0, "benchmark").permutation(len(images))
    pixels = torch.from_numpy(images.take(order[:BATCH]))
    draws = drawn(BATCH, PADDING, JITTER, numpy_generator(0, "benchmark"))
    return {
        "read": lambda index: unchecked.take(order[index * BATCH : (index + 1) * BATCH]),
        "checksums": lambda _: [checksum(image) for image in pixels.numpy()],
        "crop": lambda _: padded_crop(pixels, PADDING, draws.down, draws.right),
        "flip": lambda _: flipped(pixels, draws.flip),
        "jitter": lambda _: jittered(pixels, draws.factors, draws.order),
        "normalise": lambda _: normalise(pixels, MEAN, STD),
    }


def microseconds(work: dict[str, Callable[[int], object]], batches: int, rounds: int) -> dict[str, float]:
    """Return the processor time of each kind of work, in microseconds an image: the median of rounds in turns.

    Args:
        work: By name; takes the number of a batch.
        batches: Batches a round; more do not become other work.
        rounds: Number of rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, make in work.items():
            start = process_time()
            for index in range(batches):
                make(index)
            if number:  # the first fills the machine's page cache
                times[name].append((process_time() - start) / batches / BATCH * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def growth(images: LabelledImages) -> float:
    """Return by how many megabytes resident memory has grown after each image was in a batch once.

    Args:
        images: Where images come from.
    """
    source = BatchSource(images, BATCH, MEAN, STD, PLAIN)
    source.batch(0, 0, 0)
    before, most = resident_megabytes(), 0.0
    for index in range(source.batches_per_epoch):
        source.batch(0, 0, index)
        if index % 50 == 49 or index == source.batches_per_epoch - 1:
            most = max(most, resident_megabytes() - before)
    return most


def main() -> None:
    """Measure, print the tables, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description="Images a second and resident memory of training batches.")
    parser.add_argument("--quick", action="store_true", help="4,096 images and few rounds: seconds")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of a prepared data set of 84 x 84 in colour"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        number = 4_096 if arguments.quick else 38_400
        images = noise(Path(folder), number) if arguments.data is None else datasets.load(arguments.data).train
        batches, rounds = (8, 3) if arguments.quick else (20, 7)
        whole = microseconds(ways(images), batches, rounds)
        pieces = microseconds(parts(images), batches, rounds)
        # The map first would leave its pages to whoever comes next.
        file, mapped = growth(images), growth(replace(images, file=None))
        megabytes = images.images.nbytes / 1e6
    print(f"{len(images):,} images of 84 x 84, batches of {BATCH}, one thread, processor time\n")
    print("| batch | µs an image | images a second | times the published loop |\n|---|---|---|---|")
    for name, time in whole.items():
        loop = whole[f"published loop: crop,{' jitter,' if 'jitter' in name else ''} flip"]
        print(f"| {name} | {time:.1f} | {1e6 / time:,.0f} | {loop / time:.1f} |")
    print("\n| part | µs an image |\n|---|---|")
    for name, time in pieces.items():
        print(f"| {name} | {time:.1f} |")
    print(f"\nAn epoch of {megabytes:,.0f} MB: resident memory grows by {file:,.0f} MB read from the file, and by")
    print(f"{mapped:,.0f} MB through a memory map.")
    if arguments.json:
        found = {"images": len(images), "microseconds": whole, "parts": pieces}
        arguments.json.write_text(
            json.dumps({**found, "megabytes": megabytes, "growth": {"file": file, "map": mapped}}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
