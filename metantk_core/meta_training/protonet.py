"""Prototypical networks: episodes enter, gradients of the distances' cross-entropy leave.

Axes: s support images, q query images, k ways.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from metantk_core.architectures import LearnableNetwork
from metantk_core.episodes import EpisodeSource, NormalisedEpisode
from metantk_core.meta_training.adaptation import remembers_moments
from metantk_core.meta_training.answering import class_means, distance_logits
from metantk_core.meta_training.config import ProtoNetTraining
from metantk_core.meta_training.learning import Step, gradient_problem, query_gradient
from metantk_core.networks import forget_moments


class ProtoNetLearner:
    r"""Features whose squared Euclidean distances to class means tell queries apart (Snell et al. 2017).

    The loss of an episode is the mean cross-entropy over its queries of :math:`-\lVert f(x) - c_k \rVert^2` with the
    prototypes :math:`c_k`, the mean features of each class's support images (eqs. 1 and 2). The optimiser is Adam; its
    step size is halved at intervals.

    Args:
        network: What learns; its features alone are asked for.
        config: How.
        source: Episodes of training classes.
        seed: Seed of the run.
        device: Where the network is.
    """

    def __init__(
        self,
        network: LearnableNetwork,
        config: ProtoNetTraining,
        source: EpisodeSource,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.iterations = config.iterations
        self.validate_every = config.validate_every
        self.steps_per_epoch: int | None = None
        self.too_much = "training.episode.queries"
        self._config, self._source, self._seed, self._device = config, source, seed, device
        self._support_first = remembers_moments(network)

    def draw(self, iteration: int) -> list[NormalisedEpisode]:
        """Return the episodes of a gradient."""
        return [
            self._source.normalised(self._source.episode(self._seed, "train", iteration, index), self._device)
            for index in range(self._config.meta_batch)
        ]

    def gradient(self, drawn: list[NormalisedEpisode]) -> Step:
        """Put the mean gradient of the episodes' query losses into the parameters."""
        self.network.zero_grad(set_to_none=True)
        step = query_gradient(drawn, self.query_logits)
        if step.problem:
            return step
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return replace(step, problem=gradient_problem(norm, "gradient"))

    def learning_rate(self, iteration: int) -> float:
        """Return Adam's step size."""
        return self._config.learning_rate * 0.5 ** (iteration // self._config.halve_every)

    def query_logits(self, episode: NormalisedEpisode) -> Float[Tensor, "q k"]:
        """Return minus the squared distances of queries to prototypes, differentiable in the parameters.

        Support and query images pass together, as published, unless the support images alone normalise an episode.
        """
        self.network.train()
        support_images, query_images = episode.support_images, episode.query_images
        if self._support_first:
            support = self.network.features(support_images)
            self.network.eval()
            queries = self.network.features(query_images)
            forget_moments(self.network)  # the graph holds what it needs
        else:
            together = self.network.features(torch.cat([support_images, query_images]))
            support, queries = together.split([len(support_images), len(query_images)])
        ways = self._config.episode.ways
        return distance_logits(class_means(support, episode.support_labels, ways), queries)
