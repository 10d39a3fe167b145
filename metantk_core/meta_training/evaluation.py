"""Evaluation: a model and episodes of test classes enter, an accuracy with its 95 % interval leaves."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training.adaptation import adapted_logits, correct_share
from metantk_core.meta_training.checkpoint import Checkpoint, pack, unpack
from metantk_core.meta_training.config import EvaluationConfig
from metantk_core.meta_training.model import TrainedModel
from metantk_core.meta_training.sources import source_digest
from metantk_core.progress import Progress, silent
from metantk_core.seeding import digest
from metantk_core.statistics import student_quantile

#: Accuracies are saved at least this often, in seconds.
CHECKPOINT_SECONDS = 5.0


@dataclass(frozen=True)
class Evaluation:
    """The few-shot accuracy of a model, with everything that a reader needs to compare it.

    Attributes:
        accuracy: Mean query accuracy over episodes, 0 to 1.
        half_width: Half width of its 95 % interval.
        interval: How the interval was made.
        episodes: Number of episodes.
        ways: Classes of an episode.
        shots: Support images of a class.
        queries: Query images of a class.
        algorithm: Which parameters adapt.
        inner_steps: Steps of the adaptation.
        inner_learning_rate: Step size of the adaptation.
        norm: Normalisation layers of the network.
        transductive: Whether the queries of an episode help each other, through batch normalisation.
        dataset: Name of the images.
        split: Split of the images.
        seed: Seed of the episodes.
        model: Digest of the model.
        best_iteration: Meta-gradient steps behind the weights that were evaluated.
        per_episode: Accuracy of each episode, in order.
        device: Kind of device that the network ran on, such as ``"cpu"`` or ``"cuda"``; empty if that is not known.
    """

    accuracy: float
    half_width: float
    interval: str
    episodes: int
    ways: int
    shots: int
    queries: int
    algorithm: str
    inner_steps: int
    inner_learning_rate: float
    norm: str
    transductive: bool
    dataset: str
    split: str
    seed: int
    model: str
    best_iteration: int
    per_episode: tuple[float, ...]
    device: str = ""

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Everything but the numbers that were measured."""
        measured = ("accuracy", "half_width", "per_episode")
        return {name: value for name, value in asdict(self).items() if name not in measured}

    def summary(self) -> str:
        """Return the accuracy and its protocol in one phrase."""
        return (
            f"{100 * self.accuracy:.1f} ± {100 * self.half_width:.1f} % on {self.dataset} {self.split} classes "
            f"({self.ways}-way {self.shots}-shot, {self.queries} queries a class, {self.episodes} episodes, "
            f"{'transductive' if self.transductive else 'not transductive'}, {self.interval}"
            f"{f', computed on {self.device}' if self.device else ''})"
        )

    def to_json(self) -> str:
        """Return one line of JSON that ``from_json`` reads back to an equal value."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Return the evaluation of a JSON text.

        Raises:
            InputError: The text is not what ``to_json`` writes.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "per_episode": tuple(values["per_episode"])})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("Expected an evaluation as JSON, but it can't be read; evaluate again.") from error


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
        InputError: The episodes don't fit the model or the configuration, or the checkpoint is of other work.
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
        episode = test.episode(seed, "evaluate", test.images.split, len(accuracies))
        logits = adapted_logits(
            network,
            episode.support_images.to(device),
            episode.support_labels.to(device),
            episode.query_images.to(device),
            algorithm=training.algorithm,
            learning_rate=training.inner_learning_rate,
            steps=steps,
        )
        accuracies.append(correct_share(logits.cpu(), episode.query_labels))
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
