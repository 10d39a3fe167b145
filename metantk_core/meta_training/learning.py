"""What the training loop asks of a learner: an iteration's number enters, a gradient in the parameters leaves.

A learner knows what is learned from what; the loop knows validation, checkpoints, interruption and progress, and no
learner.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from metantk_core.architectures import LearnableNetwork
from metantk_core.episodes import NormalisedEpisode
from metantk_core.meta_training.adaptation import correct_share


@dataclass(frozen=True)
class Step:
    """What one gradient was taken of.

    Attributes:
        loss: Mean loss.
        accuracy: Share of right answers, 0 to 1.
        images: Number of images that passed.
        problem: What is not finite, for people; empty if all is.
    """

    loss: float
    accuracy: float
    images: int
    problem: str = ""


@runtime_checkable
class Learner(Protocol):
    """What is learned, and from what.

    Every iteration is a function of (network, seed, iteration) alone: training that was interrupted goes on as if it
    had not been.

    Attributes:
        network: What learns.
        optimiser: Changes its parameters by their gradients.
        iterations: Steps in all.
        validate_every: Steps from one validation to the next.
        steps_per_epoch: Steps of a pass over the training images; None if there are no epochs.
        too_much: What takes less memory if there is less of it, such as ``"training.episode.queries"``.
    """

    network: LearnableNetwork
    optimiser: torch.optim.Optimizer
    iterations: int
    validate_every: int
    steps_per_epoch: int | None
    too_much: str

    def draw(self, iteration: int) -> Any:
        """Return what an iteration learns from, on the network's device."""
        ...

    def gradient(self, drawn: Any) -> Step:
        """Put the gradient of the loss into the parameters, in the place of what is there."""
        ...

    def learning_rate(self, iteration: int) -> float:
        """Return the optimiser's step size."""
        ...


def query_gradient(episodes: Sequence[NormalisedEpisode], query_logits: Callable[[NormalisedEpisode], Tensor]) -> Step:
    """Add the gradient of the mean query cross-entropy of some episodes to the parameters.

    Args:
        episodes: The episodes; the gradient of each is taken before the next one is seen.
        query_logits: Gives the logits of an episode's queries.
    """
    losses, accuracies, images = [], [], 0
    for episode in episodes:
        logits = query_logits(episode)
        loss = F.cross_entropy(logits, episode.query_labels)
        losses.append(loss.item())
        accuracies.append(correct_share(logits.detach(), episode.query_labels))
        images += len(episode.support_labels) + len(episode.query_labels)
        if not math.isfinite(losses[-1]):
            return Step(math.nan, math.nan, images, f"the loss is {losses[-1]}")
        (loss / len(episodes)).backward()
    return Step(mean(losses), mean(accuracies), images)


def gradient_problem(norm: torch.Tensor, what: str) -> str:
    """Return what is wrong with a gradient, for people; nothing if its norm is finite.

    Args:
        norm: Norm of the gradient of all parameters.
        what: Name of the gradient.
    """
    return "" if norm.isfinite() else f"the {what}'s norm is {norm.item()}"


def mean(values: Sequence[float]) -> float:
    """Return the mean; not a number if there are none."""
    return math.fsum(values) / len(values) if values else math.nan
