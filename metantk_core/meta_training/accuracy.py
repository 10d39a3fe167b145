"""The accuracy that an evaluation found, with its protocol: a value that needs no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metantk_core.errors import InputError
from metantk_core.meta_training.class_answers import ClassAnswers, worst_episodes
from metantk_core.statistics import telling_half_width


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of another way of answering than the one that a model was evaluated for, on as many episodes.

    Attributes:
        classifier: What answered.
        shots: Support images of a class; with as many as in the evaluation, the episodes are the same.
        accuracy: Mean query accuracy over episodes, 0 to 1.
        half_width: Half width of its 95 % interval.
    """

    classifier: str
    shots: int
    accuracy: float
    half_width: float


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
        algorithm: By which learner the network was trained.
        inner_steps: Steps of the adaptation; None if weights don't adapt.
        inner_learning_rate: Step size of the adaptation; None if weights don't adapt.
        norm: Normalisation layers of the network.
        transductive: Whether the queries of an episode help each other, through batch normalisation.
        dataset: Name of the images.
        split: Split of the images.
        seed: Seed of the episodes.
        model: Digest of the model.
        best_iteration: Meta-gradient steps behind the weights that were evaluated.
        per_episode: Accuracy of each episode, in order.
        device: Kind of device that the network ran on, such as ``"cpu"`` or ``"cuda"``; empty if that is not known.
        classifier: What answered.
        augmented_copies: Augmented copies that stood for each support image; 0 if it stood for itself.
        others: What other classifiers, or other numbers of shots, came to.
        published: How it compares with published accuracies, in a sentence; empty if nobody looked.
        answers: How the queries of each class were answered; None of evaluations of before that was counted.
        trainings: Accuracy of each training in each episode, where this is of several trainings of a network: then
            accuracies are means over them, and what is of one training is the first one's. Empty for one training.
    """

    accuracy: float
    half_width: float
    interval: str
    episodes: int
    ways: int
    shots: int
    queries: int
    algorithm: str
    inner_steps: int | None
    inner_learning_rate: float | None
    norm: str
    transductive: bool
    dataset: str
    split: str
    seed: int
    model: str
    best_iteration: int
    per_episode: tuple[float, ...]
    device: str = ""
    classifier: str = "gradient_steps"
    augmented_copies: int = 0
    others: tuple[Accuracy, ...] = ()
    published: str = ""
    answers: ClassAnswers | None = None
    trainings: tuple[tuple[float, ...], ...] = ()

    @property
    def each_training(self) -> tuple[tuple[float, ...], ...]:
        """Accuracy of each episode, a row a training."""
        return self.trainings or (self.per_episode,)

    @property
    def worst_decile(self) -> float:
        """Mean accuracy of the worst tenth of the episodes, 0 to 1; of several trainings, of each one's own worst."""
        worst = [accuracies[index] for accuracies in self.each_training for index in worst_episodes(accuracies)]
        return math.fsum(worst) / len(worst)

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Everything but the numbers that were measured, and what does not apply."""
        measured = ("accuracy", "half_width", "per_episode", "others", "published", "answers", "trainings")
        return {name: value for name, value in asdict(self).items() if name not in measured and value is not None}

    def summary(self) -> str:
        """Return the accuracy and its protocol in one phrase."""
        copies = f" with {self.augmented_copies} augmented copies of each support image"
        answered = "" if self.classifier == "gradient_steps" else f"by {self.classifier.replace('_', ' ')}"
        if self.augmented_copies:
            answered += copies if answered else copies.removeprefix(" ")
        half_width = telling_half_width(self.half_width)
        interval = f" ± {100 * half_width:.1f}" if half_width is not None else ""
        return (
            f"{100 * self.accuracy:.1f}{interval} % on {self.dataset} {self.split} classes "
            f"({self.ways}-way {self.shots}-shot, {self.queries} queries a class, {self.episodes} episodes, "
            f"{f'{answered}, ' if answered else ''}"
            f"{'transductive' if self.transductive else 'not transductive'}, "
            f"{self.interval if interval else 'no interval of so few episodes, or equal ones'}"
            f"{f', computed on {self.device}' if self.device else ''})"
        )

    def to_json(self) -> str:
        """Return one line of JSON that ``from_json`` reads back to an equal value."""
        return json.dumps(asdict(self))

    def as_values(self) -> dict[str, Any]:
        """Return plain values for programs: what is kept, but in the place of counts what follows from them."""
        values = asdict(self)
        del values["answers"]
        values["worst_decile"] = {"accuracy": self.worst_decile, "episodes": len(worst_episodes(self.per_episode))}
        if self.answers is not None:
            values["worst_decile"]["classes"] = [asdict(one) for one in self.answers.in_worst(self.each_training)]
            values["classes"] = [asdict(one) for one in self.answers.classes()]
            values["confusions"] = [asdict(one) for one in self.answers.confusions()]
        return values

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Return the evaluation of a JSON text.

        Raises:
            InputError: The text is not what ``to_json`` writes.
        """
        try:
            values = json.loads(text)
            others = tuple(Accuracy(**other) for other in values.get("others", ()))
            answers = values.get("answers") and ClassAnswers.from_values(values["answers"])
            read = {"per_episode": tuple(values["per_episode"]), "others": others, "answers": answers}
            read["trainings"] = tuple(tuple(training) for training in values.get("trainings", ()))
            return cls(**{**values, **read})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("Expected an evaluation as JSON, but it can't be read; evaluate again.") from error
