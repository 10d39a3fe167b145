"""Steps about images: configuration and ports enter, a prepared dataset and the sources of episodes leave."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from metantk_core import datasets
from metantk_core.batches import BatchSource
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset, SharedImages, Split
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.files import Place, link_or_copy
from metantk_core.meta_training import RfsTraining
from metantk_core.ports import ArtifactStore, DatasetSummary
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest
from metantk_core.workflow.prepared import StoredDatasets
from metantk_core.workflow.runs import Ports, remark

# Channel moments of CIFAR-10's training images; the published search normalises all datasets with them.
_CIFAR10_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
_CIFAR10_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


def dataset_folder(cache: Path, config: RunConfig) -> Path:
    """Return the folder of a run's dataset among the prepared datasets of a machine."""
    return cache / f"{config.data.source}-{digest(config.data.identity)}"


def prepare_dataset(config: RunConfig, directory: Path, ports: Ports, *, cache: Path | None = None) -> ImageDataset:
    """Build or convert the dataset into a folder and note it in the tracker.

    Args:
        config: The run.
        directory: Where the prepared arrays go; must not exist yet or hold the same dataset.
        ports: Ports of the step.
        cache: Folder that keeps prepared datasets for further runs on this machine; files are linked, not copied, where
            the file system can.

    Raises:
        InputError: The data are missing, broken or too few for the episodes that the run asks for.
    """
    progress = ports.progress_for("dataset")
    dataset = prepare_images(config, directory, progress, cache=cache, images=ports.images, store=ports.store)
    admit_dataset(config, dataset, ports)
    return dataset


def prepare_images(
    config: RunConfig,
    directory: Path,
    progress: Progress = silent,
    *,
    cache: Path | None = None,
    images: Callable[[str | None], Place | None] = lambda path: None,
    store: ArtifactStore | None = None,
) -> ImageDataset:
    """Build or convert the dataset into a folder, or take it from the store if it was prepared before.

    Args:
        config: The run.
        directory: Where the prepared arrays go.
        progress: Told how far it is.
        cache: See ``prepare_dataset``.
        images: Gives the place of images from ``data.path``, unless that is a folder on this machine.
        store: Keeps a person's own images as they were prepared; none for nowhere.

    Raises:
        InputError: The data are missing or broken.
    """
    shelf = None
    # Glyphs are drawn faster than they are fetched; and what lies in the workspace needs no second name there.
    if store is not None and config.data.path is not None and (cache is None or not _lies_beside(store, cache)):
        shelf = StoredDatasets(store)
    kept = directory if cache is None else dataset_folder(cache, config)
    dataset = datasets.prepare(config.data, kept, progress, place=images(config.data.path), shelf=shelf)
    if cache is None:
        return dataset
    _hand_over(kept, directory)
    return datasets.load(directory)


def admit_dataset(config: RunConfig, dataset: ImageDataset, ports: Ports) -> None:
    """Check that a dataset gives all episodes that a run asks for, and note it as the run's input in the tracker.

    Raises:
        InputError: It has too few classes or images, or is not the one that the run is about.
    """
    if config.dataset_digest not in (None, dataset.digest):
        raise InputError(
            f"Expected the images with the digest {config.dataset_digest}, but those in "
            f"{config.data.path or config.data.source} have {dataset.digest}; put the old ones back, or leave "
            "dataset_digest out for a run on these."
        )
    score_source(config, dataset)
    for name in ("best", *config.yardsticks):
        training_source(config.for_network(name), dataset)
        episode_source(config.for_network(name), dataset, "val")
    episode_source(config, dataset, "test")
    # What it was recognised as is known only now.
    told = " ".join((*dataset.assumptions, *(f"{shared.sentence}." for shared in _shared(config, dataset))))
    remark(ports.store, config.run_id, "images", told)
    words = {"": dataset.kind, ".layout": dataset.layout, ".assumptions": told}
    ports.tracker.tag_run(ports.run, {f"metantk.dataset{which}": text for which, text in words.items() if text})
    for split in datasets.SPLITS:
        ports.tracker.log_dataset(ports.run, summary_of(config, dataset, split), context=split)
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder, "contact-sheet.png")
        datasets.contact_sheet(dataset, sheet)
        ports.tracker.log_file(ports.run, sheet, "dataset")


def _shared(config: RunConfig, dataset: ImageDataset) -> tuple[SharedImages, ...]:
    """Return which images lie in two splits, of those that may; glyphs are drawn to differ."""
    return () if config.data.source == "glyphs" else datasets.shared_images(dataset)


def summary_of(config: RunConfig, dataset: ImageDataset, split: Split) -> DatasetSummary:
    """Return what a tracker shows of one split."""
    images = dataset.split(split)
    return DatasetSummary(
        name=f"{dataset.name}-{split}",
        digest=dataset.digest,
        source=config.data.path or dataset.name,
        num_images=len(images.labels),
        num_classes=len(images.class_names),
        image_shape=tuple(int(n) for n in images.images.shape[1:]),
    )


def score_source(config: RunConfig, dataset: ImageDataset) -> EpisodeSource:
    """Return the source of the episodes that candidates are scored on: training classes, at the scoring resolution."""
    mean, std = dataset.mean, dataset.std
    if config.scoring.normalisation == "cifar10":
        mean, std = (moments if len(mean) == 3 else (sum(moments) / 3,) for moments in (_CIFAR10_MEAN, _CIFAR10_STD))
    return EpisodeSource(
        dataset.train,
        config.scoring.episode,
        mean,
        std,
        image_size=config.scoring.image_size,
        own_moments=(dataset.mean, dataset.std),
    )


def training_source(config: RunConfig, dataset: ImageDataset) -> EpisodeSource | BatchSource:
    """Return the source of what a learner learns from: episodes of training classes, or batches of their images."""
    training, images = config.training, dataset.train
    if isinstance(training, RfsTraining):
        return BatchSource(images, training.batch_size, dataset.mean, dataset.std, training.augmentation)
    return EpisodeSource(images, training.episode, dataset.mean, dataset.std)


def episode_source(config: RunConfig, dataset: ImageDataset, split: Literal["val", "test"]) -> EpisodeSource:
    """Return the source of the episodes of validation or evaluation.

    Raises:
        InputError: There are too few classes or images for them.
    """
    evaluation = config.evaluation
    episode = config.training.validated_on if split == "val" else evaluation.episode
    if split == "test" and evaluation.other_shots:
        most = max(episode.shots, *evaluation.other_shots)
        EpisodeSource(
            dataset.test, episode.model_copy(update={"shots": most}), dataset.mean, dataset.std
        )  # raises now what would be raised at the end
    return EpisodeSource(dataset.split(split), episode, dataset.mean, dataset.std)


def _lies_beside(store: ArtifactStore, cache: Path) -> bool:
    return Path(store.place(cache.name)) == cache.absolute()


def _hand_over(kept: Path, directory: Path) -> None:
    """Put the files of a prepared dataset into another folder: linked, or copied where the file system can't link.

    Raises:
        InputError: They can't be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for source in sorted(kept.iterdir()):
            link_or_copy(source, directory / source.name)
    except OSError as error:
        raise InputError(
            f"Can't put the prepared dataset from '{kept}' into '{directory}' ({error.strerror}); both folders must be "
            "there, with space left in the second."
        ) from error
