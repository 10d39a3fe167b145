"""Supervised training on base classes: augmented batches enter, gradients of the cross-entropy leave.

Axes: b images of a batch, k base classes.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F

from metantk_core.architectures import LearnableNetwork
from metantk_core.batches import Batch, BatchSource
from metantk_core.meta_training.adaptation import correct_share
from metantk_core.meta_training.config import RfsTraining
from metantk_core.meta_training.learning import Step, gradient_problem
from metantk_core.networks import dropping
from metantk_core.seeding import generator


class RfsLearner:
    """Features by telling all base classes apart (Tian et al. 2020): cross-entropy, SGD with momentum, steps of decay.

    Args:
        network: What learns; its head has an output for each base class.
        config: How.
        source: Batches of the base classes' images.
        seed: Seed of the run.
        device: Where the network is.
    """

    def __init__(
        self,
        network: LearnableNetwork,
        config: RfsTraining,
        source: BatchSource,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
            network.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        per_epoch = source.batches_per_epoch
        self.steps_per_epoch: int | None = per_epoch
        self.iterations = config.epochs * per_epoch
        self.validate_every = config.validate_every * per_epoch
        self.too_much = "training.batch_size"
        self._config, self._source, self._seed, self._device = config, source, seed, torch.device(device)
        self._per_epoch = per_epoch

    def draw(self, iteration: int) -> tuple[int, Batch]:
        """Return the iteration and its batch."""
        epoch, index = divmod(iteration, self._per_epoch)
        return iteration, self._source.batch(self._seed, epoch, index, self._device)

    def gradient(self, drawn: tuple[int, Batch]) -> Step:
        """Put the gradient of the batch's mean cross-entropy into the parameters."""
        iteration, batch = drawn
        self.network.zero_grad(set_to_none=True)
        self.network.train()
        random = generator(self._seed, "train", "drop path", iteration)
        with dropping(self.network, self.drop_path(iteration), batch.images, random), self._precision():
            logits = self.network(batch.images)
        loss = F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, batch.labels)
        value = loss.item()
        if not math.isfinite(value):
            return Step(math.nan, math.nan, len(batch.labels), f"the loss is {value}")
        loss.backward()
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        right = correct_share(logits.detach(), batch.labels)
        return Step(value, right, len(batch.labels), gradient_problem(norm, "gradient"))

    def learning_rate(self, iteration: int) -> float:
        """Return SGD's step size: it falls at the epochs that the settings name."""
        epoch = iteration // self._per_epoch
        return self._config.learning_rate * self._config.decay ** sum(
            epoch >= decayed for decayed in self._config.decay_epochs
        )

    def drop_path(self, iteration: int) -> float:
        """Return the share of operations that is left out: it rises with the epochs, from 0."""
        return self._config.drop_path * (iteration // self._per_epoch) / self._config.epochs

    def _precision(self) -> AbstractContextManager[object]:
        if self._config.mixed_precision and self._device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()
