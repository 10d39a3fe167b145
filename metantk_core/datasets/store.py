"""Prepared data sets: a configuration enters, a directory of memory-mappable arrays and its `ImageDataset` leave.

A prepared directory holds ``{split}_images.npy`` (uint8 ``[n, c, h, w]``), ``{split}_labels.npy`` and ``dataset.json``.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from metantk_core.datasets import glyphs, sources
from metantk_core.datasets.images import SPLITS, ImageDataset, LabelledImages, Split
from metantk_core.datasets.sources import Source
from metantk_core.errors import InputError
from metantk_core.progress import Progress, silent

FORMAT = 1
SUMMARY = "dataset.json"
SourceName = Literal["glyphs", "folder", "npz"]


class DataConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Which images to learn from, and how they are stored."""

    source: SourceName = Field(
        default="glyphs", description="Embedded letters, or your own images as folders or npz files."
    )
    path: str | None = Field(
        default=None, max_length=4096, description="Folder that holds the splits; only for folder and npz."
    )
    image_size: int = Field(default=32, ge=8, le=512, description="Height and width of stored images, in pixels.")
    channels: Literal[1, 3] = Field(default=1, description="1 stores grey images, 3 stores RGB.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**53,
        description="Seed of the jitter of glyphs; apart from the run's seed, so runs share data.",
    )
    images_per_class: int = Field(default=20, ge=1, le=1000, description="Images of each letter of glyphs.")

    @field_validator("channels", mode="before")
    @classmethod
    def _is_a_number(cls, channels: object) -> object:
        if type(channels) is not int:  # true and 1.0 equal 1
            raise ValueError("channels is 1 or 3")
        return channels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the stored images."""
        return self.channels, self.image_size, self.image_size

    @model_validator(mode="after")
    def _path_fits_source(self) -> "DataConfig":
        if self.path is not None and "://" in self.path:
            raise ValueError("path is a folder on this machine, not an address: copy the images there")
        if self.source == "glyphs" and self.path is not None:
            raise ValueError("path is for the sources folder and npz; glyphs are embedded and take none")
        if self.source != "glyphs" and not self.path:
            raise ValueError(f"path is required for source {self.source!r}: the folder that holds train, val and test")
        return self


def prepare(config: DataConfig, directory: Path, progress: Progress = silent) -> ImageDataset:
    """Return the data set of a configuration, stored in ``directory``.

    A directory that already holds the same configuration is used as it is, unless the source changed since: then it is
    built again. A directory appears finished or not at all, also when two processes build it at once or one is killed.

    Args:
        config: What to store.
        directory: Where; must not exist, be empty, or hold what an earlier call stored for the same configuration.
        progress: Told after every few images.

    Raises:
        InputError: If the source can't be read, the directory can't be written or holds something else.
    """
    stored = _stored_summary(directory)
    if stored is not None:
        if stored["config"] != config.model_dump(mode="json"):
            raise InputError(
                f"'{directory}' holds a data set of another configuration ({_differences(stored['config'], config)}). "
                "Choose another directory, or remove this one."
            )
        if config.path is not None and not Path(config.path).expanduser().exists():
            return load(directory)  # The original may be gone; what was made of it is still good.
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"'{directory}' exists and holds no prepared data set. Choose another directory.")
    source = _source(config)
    if stored is not None and stored["fingerprint"] == source.fingerprint:
        return load(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise InputError(
            f"Can't write the prepared data set to '{directory}' ({error.strerror}). "
            "Choose a directory that you may write to."
        ) from error
    try:
        _write(source, config, temporary, progress)
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        _move_into_place(temporary, directory, source.fingerprint)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load(directory)


def load(directory: Path) -> ImageDataset:
    """Return a prepared data set, its images memory-mapped.

    Args:
        directory: A directory that `prepare` made.

    Raises:
        InputError: If it holds no complete prepared data set.
    """
    summary = _stored_summary(directory)
    if summary is None:
        raise InputError(f"'{directory}' holds no prepared data set: no readable {SUMMARY} in it. Prepare one first.")
    splits: dict[Split, LabelledImages] = {}
    for split in SPLITS:
        try:
            images = np.load(directory / f"{split}_images.npy", mmap_mode="r", allow_pickle=False)
            labels = np.load(directory / f"{split}_labels.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"The prepared data set in '{directory}' is damaged ({error}). Remove it and prepare it again."
            ) from error
        splits[split] = LabelledImages(images, labels, tuple(summary["class_names"][split]), split, summary["name"])
    return ImageDataset(
        **splits,
        name=summary["name"],
        mean=tuple(summary["mean"]),
        std=tuple(summary["std"]),
        digest=summary["digest"],
    )


def _source(config: DataConfig) -> Source:
    if config.source == "glyphs":
        return glyphs.glyphs(config.image_size, config.channels, config.seed, config.images_per_class)
    readers: dict[SourceName, Callable[[Path, int, Literal[1, 3]], Source]] = {
        "folder": sources.folder,
        "npz": sources.npz,
    }
    return readers[config.source](Path(config.path or "").expanduser(), config.image_size, config.channels)


def _write(source: Source, config: DataConfig, directory: Path, progress: Progress) -> None:
    splits = source.splits()
    total = sum(len(split.labels) for split in splits.values())
    done = 0
    content = hashlib.sha256()
    # Sums of integers are exact in any order, so the moments are the same to the last bit wherever they are taken.
    moments = np.zeros((2, config.channels), np.int64)
    for name in SPLITS:
        split = splits[name]
        shape = (len(split.labels), config.channels, config.image_size, config.image_size)
        content.update(json.dumps([name, split.class_names, shape]).encode())
        content.update(split.labels.astype("<i8").tobytes())
        array = np.lib.format.open_memmap(directory / f"{name}_images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for row, image in enumerate(split.images()):
            array[row] = image
            content.update(image.tobytes())
            if name == "train":
                values = image.astype(np.int64)
                moments += np.stack([values.sum((1, 2)), np.square(values).sum((1, 2))])
            done += 1
            if done % 64 == 0 or done == total:
                progress(done, total, f"images of {name}")
        array.flush()
        del array
        np.save(directory / f"{name}_labels.npy", split.labels)
    pixels = len(splits["train"].labels) * config.image_size**2
    mean = moments[0] / pixels / 255
    std = np.sqrt(np.maximum(moments[1] / pixels / 255**2 - np.square(mean), 0))
    if not (std > 0).all():
        raise InputError(f"All train images of '{source.name}' are one constant value in a channel; nothing to learn.")
    summary = {
        "format": FORMAT,
        "name": source.name,
        "class_names": {name: list(splits[name].class_names) for name in SPLITS},
        "mean": mean.tolist(),
        "std": std.tolist(),
        "digest": content.hexdigest()[:16],
        "fingerprint": source.fingerprint,
        "config": config.model_dump(mode="json"),
    }
    (directory / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")


def _move_into_place(temporary: Path, directory: Path, fingerprint: str) -> None:
    for _ in range(5):
        try:
            os.replace(temporary, directory)
            return
        except OSError:
            stored = _stored_summary(directory)
            if stored is not None and stored["fingerprint"] == fingerprint:
                return  # Another process was faster; it made the same.
            if stored is None:
                raise InputError(
                    f"'{directory}' appeared meanwhile and holds something else. Choose another."
                ) from None
            # Out of date, and ours: set it aside first, so that what is in the way is never half removed.
            aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
            with contextlib.suppress(FileNotFoundError):
                os.replace(directory, aside)
            shutil.rmtree(aside, ignore_errors=True)
    raise InputError(f"'{directory}' is written by other processes all the time. Choose another directory.")


def _stored_summary(directory: Path) -> dict | None:
    try:
        summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"'{directory / SUMMARY}' can't be read ({error}). Remove the directory.") from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        raise InputError(f"'{directory / SUMMARY}' is of another version. Remove the directory and prepare it again.")
    return summary


def _differences(stored: dict, config: DataConfig) -> str:
    asked = config.model_dump(mode="json")
    keys = [key for key in asked if stored.get(key) != asked[key]]
    return ", ".join(f"{key} {stored.get(key)} instead of {asked[key]}" for key in keys)
