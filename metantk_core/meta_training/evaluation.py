"""Evaluation: a model and episodes of test classes enter, an accuracy with its 95 % interval leaves."""

import math
import time
from collections.abc import Sequence

import torch

from metantk_core.device_memory import sparingly
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training.accuracy import Evaluation
from metantk_core.meta_training.adaptation import adapted_logits, correct_share, enough_memory
from metantk_core.meta_training.checkpoint import Checkpoint, pack, unpack
from metantk_core.meta_training.config import EvaluationConfig
from metantk_core.meta_training.model import TrainedModel
from metantk_core.meta_training.sources import source_digest
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest
from metantk_core.statistics import student_quantile

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
    if config.episode.ways != model.ways:
        raise InputError(
            f"Expected episodes of {model.ways} classes, as the model's head has, but got {config.episode.ways}; "
            "evaluate with as many ways as in training."
        )
    training = model.training
    steps = training.inner_steps if config.inner_steps is None else config.inner_steps
    work = digest([model.digest, config.model_dump(mode="json"), seed, source_digest(test)])
    saved = checkpoint.load() if checkpoint else None
    accuracies = list(unpack(saved, work, "evaluation")[0]["accuracies"]) if saved is not None else []

    network = model.network().to(device)
    last_save = time.monotonic()
    progress(len(accuracies), config.episodes, _detail(accuracies))
    while len(accuracies) < config.episodes:
        drawn = test.episode(seed, "evaluate", test.images.split, len(accuracies))
        episode = test.normalised(drawn, device)
        with enough_memory("an episode of evaluation", "evaluation"):
            logits = sparingly(
                lambda: adapted_logits(
                    network,
                    episode.support_images,  # noqa: B023 - called at once
                    episode.support_labels,  # noqa: B023
                    episode.query_images,  # noqa: B023
                    algorithm=training.algorithm,
                    learning_rate=training.inner_learning_rate,
                    steps=steps,
                )
            )
        accuracies.append(correct_share(logits.cpu(), drawn.query_labels))
        if checkpoint and (len(accuracies) == config.episodes or time.monotonic() - last_save > CHECKPOINT_SECONDS):
            checkpoint.save(pack(work, {"accuracies": accuracies}, {}))
            last_save = time.monotonic()
        progress(len(accuracies), config.episodes, _detail(accuracies))

    accuracy, half_width = mean_and_half_width(accuracies)
    return Evaluation(
        accuracy=accuracy,
        half_width=half_width,
        interval="95 % interval, Student's t over episodes",
        episodes=config.episodes,
        ways=config.episode.ways,
        shots=config.episode.shots,
        queries=config.episode.queries,
        algorithm=training.algorithm,
        inner_steps=steps,
        inner_learning_rate=training.inner_learning_rate,
        norm=training.norm,
        transductive=training.norm == "batch_transductive",
        dataset=test.images.name,
        split=test.images.split,
        seed=seed,
        model=model.digest,
        best_iteration=model.best_iteration,
        per_episode=tuple(accuracies),
        device=torch.device(device).type,
    )


def mean_and_half_width(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    r"""Return the mean and the half width of its confidence interval, :math:`t_{n-1} \, s / \sqrt{n}`.

    Args:
        values: At least two independent numbers.
        confidence: Probability that the interval covers the expected value, if the mean is about normal.
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, student_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)


def _detail(accuracies: Sequence[float]) -> str:
    return f"accuracy {100 * math.fsum(accuracies) / len(accuracies):.1f} %" if accuracies else ""
