"""MAML, first-order MAML and ANIL: episodes enter, meta-gradients leave.

The inner loop is learn2learn's, episode by episode, or that of all episodes at once, in ``batched_adaptation``.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from metantk_core.architectures import LearnableNetwork
from metantk_core.episodes import EpisodeSource, NormalisedEpisode
from metantk_core.errors import InputError
from metantk_core.meta_training.adaptation import adaptable, correct_share, remembers_moments
from metantk_core.meta_training.batched_adaptation import batched_query_logits
from metantk_core.meta_training.config import MamlTraining
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.learning import Step, gradient_problem, mean, query_gradient
from metantk_core.networks import forget_moments


class MamlLearner:
    """MAML of a network (Finn et al. 2017) or of its head alone (ANIL, Raghu et al. 2020).

    The outer loop is Adam, its learning rate falls to 0 along half a cosine, its gradients are clipped in norm.

    Args:
        network: What learns.
        config: How.
        source: Episodes of training classes.
        seed: Seed of the run.
        device: Where the network is.

    Raises:
        InputError: The network is none that the engine gets right, or nothing of it adapts.
    """

    def __init__(
        self,
        network: LearnableNetwork,
        config: MamlTraining,
        source: EpisodeSource,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=config.outer_learning_rate)
        self.iterations = config.iterations
        self.validate_every = config.validate_every
        self.steps_per_epoch: int | None = None
        self.too_much = "training.episode.queries"
        self._config, self._source, self._seed, self._device = config, source, seed, device
        self._refresh = remembers_moments(network)
        if config.engine == "batched" and any(isinstance(part, _BatchNorm) for part in network.modules()):
            raise InputError(
                "Expected a network without torch's own batch normalisation for training.engine=batched, which would "
                "take its moments for constants in second derivatives; use training.engine=learn2learn."
            )
        adapting = network if config.algorithm == "maml" else network.head
        if not adaptable(adapting):
            raise InputError(
                "Expected a head whose parameters can adapt, for that is all that ANIL does in an episode, but none "
                "requires a gradient; leave requires_grad of the last linear layer as it is, or train by maml."
            )
        # Weights that no logit depends on (beside a `none` edge) have no gradient: that is not an error. Nor are those
        # that a person has frozen.
        self._maml = load_maml()(
            adapting,
            lr=config.inner_learning_rate,
            first_order=config.first_order,
            allow_unused=True,
            allow_nograd=True,
        )

    def draw(self, iteration: int) -> list[NormalisedEpisode]:
        """Return the episodes of a meta-gradient."""
        return [
            self._source.normalised(self._source.episode(self._seed, "train", iteration, index), self._device)
            for index in range(self._config.meta_batch)
        ]

    def gradient(self, drawn: list[NormalisedEpisode]) -> Step:
        """Put the clipped mean gradient of the episodes' query losses into the parameters."""
        self.network.zero_grad(set_to_none=True)
        forget_moments(self.network)  # an attempt that memory was too little for may have left some
        batched = self._config.engine == "batched"
        step = self._batched_gradient(drawn) if batched else query_gradient(drawn, self.query_logits)
        if step.problem:
            return step
        forget_moments(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._config.gradient_clip)
        return replace(step, problem=gradient_problem(norm, "meta-gradient"))

    def learning_rate(self, iteration: int) -> float:
        """Return Adam's step size."""
        return self._config.outer_learning_rate * (1 + math.cos(math.pi * iteration / self.iterations)) / 2

    def _batched_gradient(self, drawn: list[NormalisedEpisode]) -> Step:
        """Add the gradient of the mean query cross-entropy of all episodes to the parameters, in one pass."""
        config = self._config
        labels = torch.stack([episode.query_labels for episode in drawn])
        logits = batched_query_logits(
            self.network,
            torch.stack([episode.support_images for episode in drawn]),
            torch.stack([episode.support_labels for episode in drawn]),
            torch.stack([episode.query_images for episode in drawn]),
            algorithm=config.algorithm,
            learning_rate=config.inner_learning_rate,
            steps=config.inner_steps,
            first_order=config.first_order,
        )
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        images = sum(len(episode.support_labels) + len(episode.query_labels) for episode in drawn)
        if not loss.isfinite():
            return Step(math.nan, math.nan, images, f"the loss is {loss.item()}")
        loss.backward()
        right = mean([correct_share(some, their) for some, their in zip(logits.detach(), labels, strict=True)])
        return Step(loss.item(), right, images)

    def query_logits(self, episode: NormalisedEpisode) -> Tensor:
        """Return the logits of an episode's queries after adaptation, differentiable in the network's parameters."""
        learner = self._maml.clone()
        if self._config.algorithm == "anil":
            self.network.train()
            support = self.network.features(episode.support_images)
            for _ in range(self._config.inner_steps):
                learner.adapt(F.cross_entropy(learner(support), episode.support_labels))
            self.network.eval()
            return learner(self.network.features(episode.query_images))
        learner.train()
        for _ in range(self._config.inner_steps):
            learner.adapt(F.cross_entropy(learner(episode.support_images), episode.support_labels))
        if self._refresh:
            learner(episode.support_images)
        learner.eval()
        return learner(episode.query_images)
