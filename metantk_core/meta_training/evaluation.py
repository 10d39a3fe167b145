"""Evaluation: a model and episodes of test classes enter, an accuracy with its 95 % interval leaves."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metantk_core.architectures import seeded
from metantk_core.augmentation import AugmentationConfig, augmented_copies
from metantk_core.device_memory import sparingly
from metantk_core.episodes import Episode, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training.accuracy import Accuracy, Evaluation
from metantk_core.meta_training.adaptation import chosen_classes, correct_share, enough_memory
from metantk_core.meta_training.answering import CLASSIFIERS, InnerLoop, Shown, answers
from metantk_core.meta_training.checkpoint import Checkpoint, pack, unpack
from metantk_core.meta_training.class_answers import ClassAnswers, Tally
from metantk_core.meta_training.config import Classifier, EvaluationConfig, RfsTraining, TrainingConfig
from metantk_core.meta_training.feature_table import feature_table, table_pays
from metantk_core.meta_training.model import TrainedModel
from metantk_core.meta_training.sources import source_digest
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest, numpy_generator
from metantk_core.statistics import mean_and_half_width

#: Accuracies are saved at least this often, in seconds.
CHECKPOINT_SECONDS = 5.0


def evaluate(
    model: TrainedModel,
    test: EpisodeSource,
    config: EvaluationConfig,
    seed: int,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Return the accuracy of a model on new classes; each episode starts from the same meta-trained weights.

    Episodes are drawn by (seed, split, index): two models are compared on the same episodes.

    Args:
        model: The model.
        test: Episodes of classes that it was not trained on.
        config: How many episodes, and how the model adapts to them.
        seed: Seed of the run.
        checkpoint: Where the accuracies are kept, and found after an interruption.
        progress: Told after each episode.
        device: Where the network runs.

    Raises:
        InputError: The episodes don't fit the model or the configuration, or the checkpoint is of other work,
            or the device has too little memory for an episode.
    """
    if test.config != config.episode:
        raise InputError(f"Expected a source of episodes {config.episode!r}, but got one of {test.config!r}.")
    if model.ways not in (None, config.episode.ways):
        raise InputError(
            f"Expected episodes of {model.ways} classes, as the model's head has, but got {config.episode.ways}; "
            "evaluate with as many ways as in training."
        )
    training, ways = model.training, config.episode.ways
    inner_loop = InnerLoop.of(training, config.inner_steps)
    classifiers = asked_of(training, config)
    copies = training.augmented_copies if config.augmented_copies is None else config.augmented_copies
    sources = [test, *(_with_shots(test, shots) for shots in config.other_shots)]
    work = digest([model.digest, config.model_dump(mode="json"), seed, source_digest(test)])
    saved = checkpoint.load() if checkpoint else None
    # One row an episode, one accuracy a classifier; the episodes of further shots come after the others.
    rows: list[list[float]] = []
    tally = Tally()  # of the first classifier, on the first episodes
    if saved is not None:
        values = unpack(saved, work, "evaluation")[0]
        rows, tally = values["accuracies"], Tally.of(values)

    network = model.network().to(device)

    def answered(shown: Shown, index: int) -> dict[Classifier, Tensor]:
        with seeded(model.architecture, seed, "evaluate", index):  # a person's module may hold dropout
            return answers(shown, classifiers)

    last_save = time.monotonic()
    total = config.episodes * len(sources)
    progress(len(rows), total, _detail(rows))
    table = None
    passes = (total - len(rows)) * ways * (config.episode.queries + (0 if copies else config.episode.shots))
    if "gradient_steps" not in classifiers and table_pays(network, test, passes):
        number = len(test.images.labels)

        def told(done: int) -> None:
            progress(len(rows), total, f"features of image {done:,} of {number:,}")

        with enough_memory("a batch of images", "evaluation.episode.queries"):
            table = sparingly(lambda: feature_table(network, test, told, device))
    while len(rows) < total:
        source, index = sources[len(rows) // config.episodes], len(rows) % config.episodes
        drawn = source.episode(seed, "evaluate", test.images.split, index)
        random = numpy_generator(seed, "evaluate", test.images.split, index, "augmentation")
        episode = source.normalised(with_copies(drawn, copies, training, random), device)
        shown = Shown(
            network,
            episode.support_images,
            episode.support_labels,
            episode.query_images,
            ways,
            inner_loop,
            known_support=None if table is None or copies else table[drawn.support_rows.to(device)],
            known_queries=None if table is None else table[drawn.query_rows.to(device)],
        )
        with enough_memory("an episode of evaluation", "evaluation.episode.queries"):
            logits = sparingly(lambda: answered(shown, index))  # noqa: B023 - called at once
        rows.append([correct_share(logits[name].cpu(), drawn.query_labels) for name in classifiers])
        if len(rows) <= config.episodes:
            classes = test.images.labels[drawn.query_rows[:: config.episode.queries].numpy()]
            tally.add(classes.tolist(), drawn.query_labels.tolist(), chosen_classes(logits[classifiers[0]]).tolist())
        if checkpoint and (len(rows) == total or time.monotonic() - last_save > CHECKPOINT_SECONDS):
            checkpoint.save(pack(work, {"accuracies": rows, **tally.as_values()}, {}))
            last_save = time.monotonic()
        progress(len(rows), total, _detail(rows[(len(rows) - 1) // config.episodes * config.episodes :]))

    found = [
        Accuracy(
            name,
            source.config.shots,
            *mean_and_half_width([row[column] for row in rows[number * config.episodes :][: config.episodes]]),
        )
        for number, source in enumerate(sources)
        for column, name in enumerate(classifiers)
    ]
    return Evaluation(
        accuracy=found[0].accuracy,
        half_width=found[0].half_width,
        interval="95 % interval, Student's t over episodes",
        episodes=config.episodes,
        ways=ways,
        shots=config.episode.shots,
        queries=config.episode.queries,
        algorithm=training.algorithm,
        inner_steps=inner_loop.steps if inner_loop else None,
        inner_learning_rate=inner_loop.learning_rate if inner_loop else None,
        norm=training.norm,
        transductive=training.norm == "batch_transductive",
        dataset=test.images.name,
        split=test.images.split,
        seed=seed,
        model=model.digest,
        best_iteration=model.best_iteration,
        per_episode=tuple(row[0] for row in rows[: config.episodes]),
        device=torch.device(device).type,
        classifier=found[0].classifier,
        augmented_copies=copies,
        others=tuple(found[1:]),
        answers=ClassAnswers.from_values(
            {"names": test.images.class_names, "queries": config.episode.queries, **tally.as_values()}
        ),
    )


def asked_of(training: TrainingConfig, config: EvaluationConfig) -> tuple[Classifier, ...]:
    """Return the classifiers that an evaluation asks, the one of the accuracy first.

    Args:
        training: How the network was trained.
        config: How it is evaluated; what it doesn't say is what belongs to the learner.

    Raises:
        InputError: Weights that don't adapt are to answer by gradient steps.
    """
    first = config.classifier or training.classifier
    beside = config.beside if config.beside is not None else training.beside
    asked: tuple[Classifier, ...] = tuple(dict.fromkeys((first, *beside)))
    if "gradient_steps" in asked and InnerLoop.of(training) is None:
        others = ", ".join(name for name in CLASSIFIERS if name != "gradient_steps")
        raise InputError(
            f"Expected classifiers that {training.title} has been trained for, but evaluation asks gradient_steps, "
            f"which maml and anil alone learn; give some of {others}."
        )
    return asked


def with_copies(episode: Episode, copies: int, training: TrainingConfig, random: np.random.Generator) -> Episode:
    """Return an episode in which augmented copies stand for each support image.

    Args:
        episode: The episode as it was drawn.
        copies: How many stand for an image; 0 leaves the image.
        training: How the network was trained; where that says how images are varied, copies are varied alike.
        random: Source of what is varied.
    """
    if copies == 0:
        return episode
    return replace(
        episode,
        support_rows=episode.support_rows.repeat(copies),
        support_pixels=augmented_copies(episode.support_pixels, copies, augmentation_of(training), random),
        support_labels=episode.support_labels.repeat(copies),
    )


def augmentation_of(training: TrainingConfig) -> AugmentationConfig:
    """Return how copies of support images are varied: as in training, or as published where training varies nothing."""
    return training.augmentation if isinstance(training, RfsTraining) else AugmentationConfig()


def _with_shots(source: EpisodeSource, shots: int) -> EpisodeSource:
    return replace(source, config=source.config.model_copy(update={"shots": shots}))


def _detail(rows: Sequence[Sequence[float]]) -> str:
    return f"accuracy {100 * math.fsum(row[0] for row in rows) / len(rows):.1f} %" if rows else ""
