"""How networks are meta-trained and evaluated: settings, which need no torch."""

from typing import Literal

from pydantic import BaseModel, Field

from metantk_core.episodes import EpisodeConfig
from metantk_core.networks import NetworkConfig, Normalisation

Algorithm = Literal["maml", "anil"]
"""Which weights adapt to an episode: all, or the head alone."""


class TrainingConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a network is meta-trained."""

    algorithm: Algorithm = Field(
        default="maml", description="maml adapts all weights to an episode, anil the head alone"
    )
    first_order: bool = Field(default=True, description="Leave out second derivatives; ANIL learns little without them")
    episode: EpisodeConfig = Field(
        default=EpisodeConfig(ways=5, shots=1, queries=15), description="Episodes of training and validation"
    )
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the network"
    )
    norm: Normalisation = Field(default="batch_support", description="Normalisation layers of the network")
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


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a model is evaluated."""

    episode: EpisodeConfig = Field(
        default=EpisodeConfig(ways=5, shots=1, queries=15), description="Episodes of test classes"
    )
    episodes: int = Field(default=600, ge=2, le=1_000_000, description="Number of episodes")
    inner_steps: int | None = Field(
        default=None, ge=0, le=1000, description="Steps of the adaptation; as in training if not given"
    )
