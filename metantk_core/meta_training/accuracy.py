"""The accuracy that an evaluation found, with its protocol: a value that needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from metantk_core.errors import InputError


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
