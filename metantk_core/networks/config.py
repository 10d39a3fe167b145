"""How a network is built and what its weights are at first: settings, which need no torch."""

from typing import Literal

from pydantic import BaseModel, Field

Variant = Literal["scoring", "training"]
"""What a network is for; see :func:`build`."""

Normalisation = Literal["batch_support", "batch_transductive", "batch_running", "group"]
"""What normalises activations; see :mod:`metantk_core.networks.normalisation`."""

EpisodeNormalisation = Literal["batch_support", "batch_transductive", "group"]
"""Those that keep nothing from one episode to the next: weights that adapt to an episode can have these alone."""

ImageNormalisation = Literal["batch_running", "group"]
"""Those by which what a trained network makes of an image depends on no other image."""

BatchNormTreatment = Literal["group", "eval"]
"""What is done about batch normalisation in a network of a person's own: GroupNorm instead, or running statistics."""

Scheme = Literal["kaiming", "orthogonal", "torch_default"]
"""How weights are drawn; see :func:`initialise`."""


class NetworkConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How wide and how deep a network is."""

    channels: int = Field(
        default=16, ge=1, le=1024, description="Channels after the stem, at most 1024; each reduction doubles them."
    )
    cells: int = Field(
        default=5,
        ge=1,
        le=100,
        description="DARTS family: number of cells in all; NAS-Bench-201: cells in each of the 3 stages.",
    )
