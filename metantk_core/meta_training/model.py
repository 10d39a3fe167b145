"""Trained networks as values: weights with all that is needed to rebuild and use them enter and leave folders.

A folder holds ``weights.safetensors`` and ``model.json``.

Axes: c channels, h height, w width.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from metantk_core.architectures import (
    Architecture,
    LearnableNetwork,
    format_architecture,
    initial_network,
    learnable_network,
    parse_architecture,
)
from metantk_core.batches import BatchSource
from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.files import write_atomically
from metantk_core.meta_training.checkpoint import own_memory
from metantk_core.meta_training.config import MamlTraining, ProtoNetTraining, RfsTraining, TrainingConfig
from metantk_core.networks import NetworkConfig, Normalisation
from metantk_core.seeding import digest

ModelOutcome = Literal["finished", "diverged", "untrained"]

_FORMAT = 1
_WEIGHTS = "weights.safetensors"
_MODEL = "model.json"
_TRAINING: TypeAdapter[TrainingConfig] = TypeAdapter(TrainingConfig)


@dataclass(frozen=True)
class Validation:
    """What was known about a network at one iteration.

    Attributes:
        iteration: Gradient steps taken, at least 0.
        train_loss: Mean loss (of queries, or of a batch) over the iterations since the validation before; at iteration
            0, that of the first iteration under the initial weights.
        train_accuracy: The same mean of the accuracy, 0 to 1.
        validation_accuracy: Mean query accuracy on the validation episodes, 0 to 1.
        validation_half_width: Half width of its 95 % interval (Student's t over episodes).
        epoch: Passes over the training images until then; None if training has no epochs.
    """

    iteration: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float
    validation_half_width: float
    epoch: int | None = None


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network and where it comes from.

    Attributes:
        architecture: What was trained.
        training: By which learner it was trained, how, and how it adapts.
        seed: Seed of the run.
        image_shape: Channels, height and width of its images.
        mean: Mean of each channel of images scaled to 0..1, subtracted before the network sees them.
        std: Standard deviation of each channel, divided by.
        dataset: Name of the training data.
        outputs: Outputs of the head: the ways of an episode, or all base classes; 0 if there is no head.
        state: Weights by name, on the CPU: those that were kept.
        history: One entry a validation, the first at iteration 0.
        best_iteration: The iteration whose weights were kept: the earliest with the best validation accuracy, or the
            last one, where the learner takes that.
        iterations: Gradient steps taken.
        outcome: ``"finished"``; ``"diverged"`` if a loss or a gradient was not finite, which ended training at
            ``iterations``; or ``"untrained"``.
        reason: Why it diverged, for people; empty otherwise.
        seconds: Time that training took, over all its parts.
    """

    architecture: Architecture
    training: TrainingConfig
    seed: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    outputs: int
    state: Mapping[str, Tensor]
    history: tuple[Validation, ...]
    best_iteration: int
    iterations: int
    outcome: ModelOutcome
    reason: str
    seconds: float

    @property
    def space(self) -> str:
        """What files and records say of where the architecture is from: a search space, ``named`` or ``model``."""
        return self.architecture.space

    @property
    def genotype(self) -> str:
        """The architecture as text; with ``space`` it can be read back."""
        return format_architecture(self.architecture)

    @property
    def ways(self) -> int | None:
        """The number of classes that it must tell apart, if that is fixed: by a head that adapts to episodes."""
        return self.outputs if isinstance(self.training, MamlTraining) else None

    @property
    def validation_accuracy(self) -> float:
        """The accuracy of the kept weights on validation classes; 0 if training diverged before it was known."""
        kept = (point for point in self.history if point.iteration == self.best_iteration)
        return next((point.validation_accuracy for point in kept), 0.0)

    @property
    def protocol(self) -> str:
        """What was learned from what, for how long, for people."""
        return described(self.training, self.outputs)

    @property
    def digest(self) -> str:
        """The digest of all that its predictions depend on: 16 hexadecimal digits."""
        weights = hashlib.sha256(save(_plain(self.state))).hexdigest()
        training = self.training
        adaptation: list[str | float] = [training.algorithm, training.norm]
        if isinstance(training, MamlTraining):
            adaptation = [training.algorithm, training.inner_learning_rate, training.inner_steps, training.norm]
        network = training.network.model_dump(mode="json")
        return digest([self.space, self.genotype, network, adaptation, self.image_shape, self.mean, self.std, weights])

    def network(self) -> LearnableNetwork:
        """Return a new module with these weights, on the CPU; a person's module is imported for that.

        Raises:
            InputError: The weights don't fit the architecture and the configuration, or a person's code fails.
        """
        network = learnable_network(self.architecture, **_network_of(self.training, self.image_shape, self.outputs))
        try:
            network.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise InputError(
                f"The weights don't fit the network of {self.genotype} with {self.training.network!r}; "
                "the model's files belong to different models, save it again."
            ) from error
        return network


def best_validated(models: Mapping[str, TrainedModel]) -> str:
    """Return the training whose kept weights were best on validation classes, the first of equals.

    Test classes choose nothing: what is registered is chosen as the weights of one training are.

    Args:
        models: The trainings of one network by name, validated on the same episodes.
    """
    return max(models, key=lambda name: models[name].validation_accuracy)


def described(training: TrainingConfig, outputs: int) -> str:
    """Return what is learned from what, for how long, for people.

    Args:
        training: The settings of a learner.
        outputs: Outputs of the head, as in ``TrainedModel``.
    """
    if isinstance(training, RfsTraining):
        return f"{training.title}, {outputs} base classes, {training.length}"
    episode = training.episode
    return f"{training.title}, {episode.ways}-way {episode.shots}-shot episodes, {training.length}"


def untrained_model(
    architecture: Architecture, source: EpisodeSource | BatchSource, config: TrainingConfig, seed: int
) -> TrainedModel:
    """Return the model that training starts from, as a baseline.

    Args:
        architecture: A candidate, a named network or a person's module.
        source: Gives the shape and the normalisation of images.
        config: How it would be trained, and how it adapts.
        seed: Seed of the run.
    """
    outputs = outputs_of(config, source)
    return TrainedModel(
        architecture=architecture,
        training=config,
        seed=seed,
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        dataset=source.images.name,
        outputs=outputs,
        state=starting_network(architecture, config, source.image_shape, outputs, seed).state_dict(),
        history=(),
        best_iteration=0,
        iterations=0,
        outcome="untrained",
        reason="",
        seconds=0.0,
    )


def outputs_of(config: TrainingConfig, source: EpisodeSource | BatchSource) -> int:
    """Return the outputs of the head that a learner trains, 0 for none.

    Args:
        config: The settings of the learner.
        source: What it learns from.
    """
    if isinstance(config, MamlTraining):
        return config.episode.ways
    return 0 if isinstance(config, ProtoNetTraining) else len(source.images.class_names)


def starting_network(
    architecture: Architecture, config: TrainingConfig, image_shape: tuple[int, int, int], outputs: int, seed: int
) -> LearnableNetwork:
    """Return the network that training starts from."""
    return initial_network(architecture, seed=seed, **_network_of(config, image_shape, outputs))


def save_model(model: TrainedModel, directory: Path) -> None:
    """Write a model into a folder, which is made if it does not exist.

    Args:
        model: The model.
        directory: The folder; the two files in it are replaced one after the other, each atomically, and a reader
            notices if they belong to different models.

    Raises:
        InputError: The folder can't be written to.
    """
    weights = save(_plain(model.state))
    unlike = ("state", "training", "history", "architecture")
    values = {"space": model.space, "genotype": model.genotype}
    values |= {name: value for name, value in vars(model).items() if name not in unlike}
    values |= {
        "format": _FORMAT,
        "training": model.training.model_dump(mode="json"),
        "history": [asdict(point) for point in model.history],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / _WEIGHTS, weights, durable=False)
        write_atomically(directory / _MODEL, json.dumps(values, indent=1, ensure_ascii=False).encode(), durable=False)
    except OSError as error:
        raise InputError(f"Can't write the model to {directory}: {error.strerror}; choose another folder.") from error


def load_model(directory: Path) -> TrainedModel:
    """Read a model that ``save_model`` wrote.

    Args:
        directory: Its folder.

    Raises:
        InputError: The folder holds no model, or a damaged one.
    """
    try:
        weights = (directory / _WEIGHTS).read_bytes()
        text = (directory / _MODEL).read_bytes()
    except OSError as error:
        raise InputError(
            f"Expected a model ({_MODEL} and {_WEIGHTS}) in {directory}, but {error.filename} can't be read: "
            f"{error.strerror}; give the folder that training wrote."
        ) from error
    try:
        values = json.loads(text)
        if values.pop("format") != _FORMAT or values.pop("weights_sha256") != hashlib.sha256(weights).hexdigest():
            raise ValueError("its parts do not belong together")
        channels, height, width = values.pop("image_shape")
        training = _TRAINING.validate_python(values.pop("training"))
        if isinstance(training, MamlTraining):
            values.setdefault("outputs", training.episode.ways)  # models of before there were other learners
        return TrainedModel(
            architecture=parse_architecture(values.pop("space"), values.pop("genotype")),
            training=training,
            history=tuple(Validation(**point) for point in values.pop("history")),
            image_shape=(channels, height, width),
            mean=tuple(values.pop("mean")),
            std=tuple(values.pop("std")),
            state=load(weights),
            **values,
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError, SafetensorError) as error:
        raise InputError(f"The model in {directory} is damaged or from another version; train it again.") from error


class _NetworkOf(TypedDict):
    config: NetworkConfig
    image_shape: tuple[int, int, int]
    ways: int
    norm: Normalisation


def _network_of(config: TrainingConfig, image_shape: tuple[int, int, int], outputs: int) -> _NetworkOf:
    """Return what a network depends on beside its architecture and its weights."""
    return {"config": config.network, "image_shape": image_shape, "ways": outputs, "norm": config.norm}


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return own_memory(dict(sorted(state.items())))
