"""How candidates are scored: settings, and the inner loop that the name of a score completes; needs no torch."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from metantk_core.episodes.config import EpisodeConfig
from metantk_core.kernels.choices import Outputs, ParameterChoice
from metantk_core.networks.config import NetworkConfig, Scheme
from metantk_core.scores.definitions import SCORES, Algorithm

RESIZED = 32
"""Height and width that an image is resized to before a patch is cut from it."""

_MOST_IMAGES = 10_000  # of a kernel: the square of it in float64 takes 0.8 GB
_Duration = Annotated[
    float,
    BeforeValidator(lambda time: math.inf if time == "inf" else time),
    PlainSerializer(lambda time: "inf" if math.isinf(time) else time, when_used="json"),  # JSON has no infinity
]


class LinearRegionsConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """The network and the images of ``linear_regions``; the defaults are the published ones."""

    definition: Literal["published", "noise"] = Field(
        default="published",
        description="'published': patches of training images through one thin cell of each kind, with batch "
        "normalisation; 'noise': images of white noise through a narrow network as deep as the scored one, normalised "
        "image by image.",
    )
    channels: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Channels after the stem, with 'noise'; the published network has no stem, and 1 channel at first.",
    )
    image_size: int = Field(
        default=3, ge=1, le=512, description="Height and width of the images, which have one channel."
    )
    images: int = Field(default=3000, ge=2, le=100_000, description="Number of images: the largest possible score.")
    batch: int = Field(
        default=1000, ge=2, le=100_000, description="Patches that are normalised together, with 'published'."
    )

    @model_validator(mode="after")
    def _possible(self) -> "LinearRegionsConfig":
        if self.definition == "noise":
            return self
        if self.channels != 1:
            raise ValueError(
                f"channels is for definition=noise; the published network has 1 channel, not {self.channels}"
            )
        if self.image_size > RESIZED:
            raise ValueError(f"patches are cut from images of {RESIZED} pixels; image_size is at most that")
        if self.images % min(self.batch, self.images):
            raise ValueError(f"images must be a multiple of batch ({self.batch}), or fewer; {self.images} is not")
        return self


class ScoringConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How candidates are scored at initialisation."""

    scores: tuple[str, ...] = Field(
        default=("metantk_cond", "ntk_cond", "params", "flops"),
        min_length=1,
        max_length=100,
        strict=False,  # JSON has lists alone
        description="Names of the scores to compute; metantk_cond_anil_time1_ridge1e-5 and the like are other inner "
        "loops beside the one below.",
    )
    num_inits: int = Field(
        default=3, ge=1, le=1000, description="Initialisations, each with episodes of its own, that a score averages."
    )
    tasks: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Episodes of one kernel, whose images are 10,000 at most: it has their square.",
    )
    episode: EpisodeConfig = Field(
        default=EpisodeConfig(ways=5, shots=1, queries=1), description="Size of these episodes."
    )
    image_size: int = Field(default=32, ge=1, le=512, description="Height and width of the scored images, in pixels.")
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the scored networks."
    )
    algorithm: Algorithm = Field(
        default="maml", description="Inner loop of the MetaNTK: all parameters adapt (maml) or the head alone (anil)."
    )
    time: _Duration = Field(
        default=math.inf, ge=0, description="Inner learning rate times inner steps; inf is adaptation to convergence."
    )
    ridge: float = Field(default=1e-3, ge=0, le=1e30, description="Regularisation λ of the inner loop.")
    parameters: ParameterChoice = Field(default="weights", description="Parameters that kernels count.")
    outputs: Outputs = Field(
        default="sum",
        description="Kernel of the summed logits (sum), or the sum of the kernels of all logits (trace): the first "
        "averaged over random signs of the head's rows, for about three times the time.",
    )
    initialisation: Scheme = Field(
        default="kaiming",
        description="How weights are drawn: kaiming, orthogonal, or torch_default, which the published search has.",
    )
    linear_regions: LinearRegionsConfig = Field(
        default=LinearRegionsConfig(), description="What the score linear_regions counts on."
    )
    redraw: Literal["all", "head"] = Field(
        default="all",
        description="What each initialisation draws anew: all weights, or the last layer alone (as the published code "
        "did by mistake: its networks kept one set of other weights).",
    )
    augmentation: Literal["none", "flip_crop"] = Field(
        default="none", description="What happens to the images: nothing, or random flips and crops with padding 4."
    )
    normalisation: Literal["dataset", "cifar10"] = Field(
        default="dataset",
        description="Channel moments that images are normalised with: the dataset's own, or those of CIFAR-10, which "
        "the published search used for all datasets.",
    )

    @field_validator("scores")
    @classmethod
    def _known_and_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in SCORES]
        if unknown:
            raise ValueError(f"unknown score {', '.join(unknown)}; the scores are {', '.join(SCORES)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a score is named twice in {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _has_enough_tasks(self) -> "ScoringConfig":
        images = self.tasks * self.episode.ways * (self.episode.shots + self.episode.queries)
        if images > _MOST_IMAGES:
            raise ValueError(
                f"{self.tasks} tasks of {images // self.tasks:,} images are {images:,} images of one kernel, more than "
                f"{_MOST_IMAGES:,}: lower tasks, episode.ways, shots or queries"
            )
        for name in self.scores:
            if self.tasks < SCORES[name].tasks:
                raise ValueError(
                    f"{name} compares episodes and needs tasks of at least {SCORES[name].tasks}, not {self.tasks}"
                )
        return self


class CompleteLoop(NamedTuple):
    """The inner loop of a MetaNTK with nothing left open."""

    algorithm: Algorithm
    time: float
    ridge: float


def inner_loop(name: str, config: ScoringConfig) -> CompleteLoop:
    """Return the inner loop that a score's name asks for, completed from the configuration."""
    loop = SCORES[name].inner_loop
    return CompleteLoop(
        config.algorithm if loop is None or loop.algorithm is None else loop.algorithm,
        config.time if loop is None or loop.time is None else loop.time,
        config.ridge if loop is None or loop.ridge is None else loop.ridge,
    )
