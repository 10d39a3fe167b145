"""How networks are trained and evaluated: settings, which need no torch.

A learner is told by ``algorithm``; each has settings of its own, and another learner's setting is an unknown one.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from metantk_core.augmentation import AugmentationConfig
from metantk_core.episodes import EpisodeConfig
from metantk_core.networks import EpisodeNormalisation, ImageNormalisation, NetworkConfig, Normalisation

Adaptation = Literal["maml", "anil"]
"""Which weights adapt to an episode: all, or the head alone."""

Algorithm = Literal["maml", "anil", "protonet", "rfs"]
"""What is learned: weights that adapt in a few steps, distances to prototypes, or features by base classes."""

Engine = Literal["learn2learn", "batched"]
"""What computes the inner loops of a meta-gradient; the numbers are the same up to rounding."""

Classifier = Literal["gradient_steps", "prototypes", "nearest_centroid", "cosine", "logistic_regression"]
"""How a trained network answers an episode; see :mod:`metantk_core.meta_training.answering`."""

_FEW_SHOT = EpisodeConfig(ways=5, shots=1, queries=15)


class MamlTraining(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a network is meta-trained by MAML (Finn et al. 2017), FOMAML or ANIL (Raghu et al. 2020)."""

    classifier: ClassVar[Classifier] = "gradient_steps"
    """What answers an episode if nothing else is asked for."""
    beside: ClassVar[tuple[Classifier, ...]] = ()
    """What else is reported beside it."""
    augmented_copies: ClassVar[int] = 0
    """How many augmented copies stand for a support image, 0 for the image as it is."""

    algorithm: Adaptation = Field(
        default="maml",
        description="maml adapts all weights to an episode, anil the head alone; protonet and rfs, which learn "
        "features, have other settings (docs/training.md)",
    )
    first_order: bool = Field(default=True, description="Leave out second derivatives; ANIL learns little without them")
    episode: EpisodeConfig = Field(default=_FEW_SHOT, description="Episodes of training and validation")
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the network"
    )
    norm: EpisodeNormalisation = Field(default="batch_support", description="Normalisation layers of the network")
    engine: Engine = Field(
        default="learn2learn",
        description="What computes inner loops: learn2learn, one episode after the other, or torch.func, all of a "
        "meta-batch at once; the same numbers up to rounding (docs/training.md: which is faster)",
    )
    inner_learning_rate: float = Field(
        default=0.1, gt=0, le=1000, description="Step size of the adaptation to an episode"
    )
    inner_steps: int = Field(
        default=5, ge=0, le=1000, description="Steps of the adaptation, in training, validation and use"
    )
    outer_learning_rate: float = Field(
        default=3e-3, gt=0, le=1000, description="Adam's first step size; falls to 0 along a cosine"
    )
    gradient_clip: float = Field(
        default=10.0,
        gt=0,
        le=1e30,
        description="Largest norm of a meta-gradient; longer ones are shortened; 1e30 shortens none",
    )
    meta_batch: int = Field(default=4, ge=1, le=1000, description="Episodes of one meta-gradient")
    iterations: int = Field(default=1000, ge=1, le=10_000_000, description="Meta-gradient steps")
    validate_every: int = Field(
        default=100, ge=1, le=10_000_000, description="Iterations from one validation to the next"
    )
    validation_episodes: int = Field(
        default=100, ge=2, le=100_000, description="Episodes of a validation; the same ones each time"
    )

    @property
    def validated_on(self) -> EpisodeConfig:
        """The size of the episodes of validation: as in training, for the head has as many outputs."""
        return self.episode

    @property
    def title(self) -> str:
        """What people call it."""
        order = " (first order)" if self.first_order else ""
        return f"{self.algorithm.upper()}{order}"

    @property
    def length(self) -> str:
        """How long it takes, in its own unit."""
        return _counted(self.iterations, "iteration")


class ProtoNetTraining(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a network is trained as a prototypical network (Snell et al. 2017)."""

    title: ClassVar[str] = "ProtoNet"
    """What people call it."""
    classifier: ClassVar[Classifier] = "prototypes"
    """What answers an episode if nothing else is asked for."""
    beside: ClassVar[tuple[Classifier, ...]] = ()
    """What else is reported beside it."""
    augmented_copies: ClassVar[int] = 0
    """How many augmented copies stand for a support image, 0 for the image as it is."""

    algorithm: Literal["protonet"] = Field(
        default="protonet", description="Features whose class means tell queries of an episode apart"
    )
    episode: EpisodeConfig = Field(
        default=EpisodeConfig(ways=20, shots=1, queries=15),
        description="Episodes of training; more ways than in evaluation train better (Snell et al. 2017, section 3)",
    )
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the network"
    )
    norm: Normalisation = Field(default="batch_running", description="Normalisation layers of the network")
    learning_rate: float = Field(default=1e-3, gt=0, le=1000, description="Adam's step size")
    halve_every: int = Field(
        default=2000, ge=1, le=10_000_000, description="Iterations after which the step size is halved, each time"
    )
    meta_batch: int = Field(default=1, ge=1, le=1000, description="Episodes of one gradient")
    iterations: int = Field(default=10_000, ge=1, le=10_000_000, description="Gradient steps")
    validate_every: int = Field(
        default=500, ge=1, le=10_000_000, description="Iterations from one validation to the next"
    )
    validation_episode: EpisodeConfig = Field(default=_FEW_SHOT, description="Episodes of validation")
    validation_episodes: int = Field(
        default=100, ge=2, le=100_000, description="Episodes of a validation; the same ones each time"
    )

    @property
    def validated_on(self) -> EpisodeConfig:
        """The size of the episodes of validation."""
        return self.validation_episode

    @property
    def length(self) -> str:
        """How long it takes, in its own unit."""
        return _counted(self.iterations, "iteration")


class RfsTraining(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a network is trained to tell all base classes apart (RFS: Tian et al. 2020, "Rethinking few-shot ...")."""

    title: ClassVar[str] = "RFS"
    """What people call it."""
    classifier: ClassVar[Classifier] = "logistic_regression"
    """What answers an episode if nothing else is asked for."""
    beside: ClassVar[tuple[Classifier, ...]] = ("nearest_centroid", "cosine")
    """What else is reported beside it."""
    augmented_copies: ClassVar[int] = 5
    """How many augmented copies stand for a support image, 0 for the image as it is."""

    algorithm: Literal["rfs"] = Field(
        default="rfs", description="Features that tell all training classes apart; a linear classifier an episode"
    )
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the network"
    )
    norm: ImageNormalisation = Field(
        default="batch_running", description="Normalisation layers of the network: batches here are no episodes"
    )
    batch_size: int = Field(default=64, ge=2, le=100_000, description="Images of a step")
    epochs: int = Field(default=100, ge=1, le=100_000, description="Passes over the training images")
    learning_rate: float = Field(default=0.02, gt=0, le=1000, description="First step size of SGD with momentum")
    decay_epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(60, 80),
        strict=False,  # JSON has lists alone
        description="Epochs after which the step size is multiplied by decay; [] for never",
    )
    decay: float = Field(default=0.1, gt=0, le=1, description="What the step size is multiplied by at these epochs")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, le=1, description="Weight decay, of all parameters")
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the operations on a cell's edges that are left out for an image, or of the last maps of "
        "resnet12; rises from 0 to this over the epochs, linearly",
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig, description="How training images are varied, and copies of support images"
    )
    mixed_precision: bool = Field(
        default=True, description="On a GPU, take products in bfloat16; on a CPU float32 in any case"
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="Weights that are kept: of the last epoch, as published, or the best in validation"
    )
    validate_every: int = Field(default=10, ge=1, le=100_000, description="Epochs from one validation to the next")
    validation_episode: EpisodeConfig = Field(default=_FEW_SHOT, description="Episodes of validation")
    validation_episodes: int = Field(
        default=100, ge=2, le=100_000, description="Episodes of a validation; the same ones each time"
    )

    @model_validator(mode="after")
    def _decays_in_time(self) -> "RfsTraining":
        decays = self.decay_epochs
        if list(decays) != sorted(set(decays)) or (decays and decays[-1] >= self.epochs):
            raise ValueError(
                f"decay_epochs are {list(decays)} of {self.epochs} epochs: give rising numbers below {self.epochs}, "
                "or [] for a step size that stays"
            )
        return self

    @property
    def validated_on(self) -> EpisodeConfig:
        """The size of the episodes of validation."""
        return self.validation_episode

    @property
    def length(self) -> str:
        """How long it takes, in its own unit."""
        return _counted(self.epochs, "epoch")


LEARNERS_SETTINGS: tuple[type[BaseModel], ...] = (MamlTraining, ProtoNetTraining, RfsTraining)
"""The settings of all learners; the first one in each says of which."""


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _with_algorithm(settings: object) -> object:
    """Return settings that name their algorithm: those of before there were several are MAML's."""
    return {"algorithm": "maml", **settings} if isinstance(settings, dict) else settings


TrainingConfig = Annotated[
    Annotated[MamlTraining | ProtoNetTraining | RfsTraining, Field(discriminator="algorithm")],
    BeforeValidator(_with_algorithm),
]
"""How a network is trained: the settings of one of the learners, which ``algorithm`` names."""


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a model is evaluated."""

    episode: EpisodeConfig = Field(default=_FEW_SHOT, description="Episodes of test classes")
    episodes: int = Field(default=600, ge=2, le=1_000_000, description="Number of episodes")
    inner_steps: int | None = Field(
        default=None, ge=0, le=1000, description="Steps of the adaptation; as in training if not given"
    )
    classifier: Classifier | None = Field(
        default=None,
        description="What answers an episode; if not given, what belongs to the learner: gradient_steps (maml, anil), "
        "prototypes (protonet), logistic_regression (rfs)",
    )
    beside: tuple[Classifier, ...] | None = Field(
        default=None,
        strict=False,  # JSON has lists alone
        description="Further classifiers, on the same episodes; if not given, nearest_centroid and cosine after rfs",
    )
    augmented_copies: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Augmented copies that stand for a support image, 0 for the image as it is; if not given, 5 after "
        "rfs as published, otherwise 0",
    )
    further_shots: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        default=(),
        strict=False,
        description="Further numbers of support images a class, each on as many episodes",
    )

    @property
    def other_shots(self) -> tuple[int, ...]:
        """The further numbers of shots, each once, without that of the episodes."""
        return tuple(shots for shots in dict.fromkeys(self.further_shots) if shots != self.episode.shots)
