"""What one draw of a network gives: kernels, activation codes, gradients, each computed when a score first asks, once.

Scores that come from the same computation share it, however many there are: at most one per-image-gradient pass, one
forward, one forward and backward of a loss. A score is a function of this evidence
(:mod:`metantk_core.scores.functions`).

Axes: n images of the batch · tq query images of all tasks · t q s tasks, query and support images of one.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from metantk_core.episodes import Episode
from metantk_core.kernels import (
    EPSILON,
    KernelBlocks,
    Kernels,
    Precision,
    adaptation,
    adapted_lengths,
    batch,
    eigenvalues,
    even_gradients,
    inner_loop_is_known,
    meta_ntk,
    rounding_floor,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import FewShotNetwork
from metantk_core.scores.activations import CodeKernel, Reuse, code_kernel
from metantk_core.scores.config import CompleteLoop, ScoringConfig
from metantk_core.scores.gradients import LossGradients, loss_gradients
from metantk_core.scores.record import Outcome, Score

_T = TypeVar("_T")


class NoScore(Exception):  # noqa: N818 - an outcome, not an error
    """What a score would be computed from is not there.

    Args:
        outcome: How scoring ends.
        reason: For people.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.score = Score(None, outcome, reason)


@dataclass(frozen=True)
class Draw:
    """What one repeat shares: the network with its weights, and the episodes, images and labels on the device.

    It stays what it is: nothing that is drawn later changes its weights.

    Attributes:
        network: What is scored, on the device.
        episodes: Those of the repeat.
        config: What is computed.
        seed: Seed of the run.
        repeat: Number of the draw, from 0.
        device: Where the network runs, as torch spells it.
        image_shape: Channels, height and width of the images.
        regions_network: The network that linear regions are counted on; None if they are not asked for.
        stream: Name of the random numbers; empty for the usual ones.
        reuse: What was made of the same tensors before, for linear regions.
        regions_images: Gives the images that linear regions are counted on, in batches.
    """

    network: nn.Module
    episodes: tuple[Episode, ...]
    config: ScoringConfig
    seed: int
    repeat: int
    device: str
    image_shape: tuple[int, int, int]
    regions_network: FewShotNetwork | None
    stream: str = ""
    reuse: Reuse = field(default_factory=lambda: Reuse(0))
    regions_images: Callable[[], tuple[Float[Tensor, "m 1 p p"], ...]] = tuple

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """Images of the batch, in the order of a kernel's rows."""
        queries = [episode.query_images for episode in self.episodes]
        return batch(queries, [episode.support_images for episode in self.episodes]).to(self.device)

    @property
    def classes(self) -> Int64[Tensor, " n"]:
        """Class of each image of the batch: a class that occurs in two episodes has one number."""
        names = [episode.class_names[label] for episode in self.episodes for label in episode.query_labels.tolist()] + [
            episode.class_names[label] for episode in self.episodes for label in episode.support_labels.tolist()
        ]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])


@dataclass(frozen=True)
class KernelEvidence:
    """The kernels of a draw's network, and the precision of the gradients behind them.

    Attributes:
        ntk: Kernel of the whole network.
        nngp: Kernel of its last layer; None if it does not name one.
        precision: What gradients were computed in.
    """

    ntk: KernelBlocks
    nngp: KernelBlocks | None
    precision: Precision = "float32"

    @property
    def epsilon(self) -> float:
        """Relative precision of the gradients."""
        return EPSILON[self.precision]

    def meta(self, loop: CompleteLoop) -> Float64[Tensor, "tq tq"]:
        """Return the MetaNTK."""
        return meta_ntk(self.ntk, self._inner(loop), time=loop.time, ridge=loop.ridge, precision=self.epsilon)

    def adapted(self, loop: CompleteLoop) -> Float64[Tensor, "t q s"]:
        """Return the map from support residuals to query predictions of each task."""
        return adaptation(self._inner(loop), time=loop.time, ridge=loop.ridge, precision=self.epsilon)

    def meta_floor(self, loop: CompleteLoop) -> float:
        """Return the size from which on eigenvalues of the MetaNTK are known within 1 %."""
        lengths = adapted_lengths(self.ntk, self.adapted(loop))
        return rounding_floor(self.ntk.full, precision=self.epsilon, lengths=lengths)

    def knows(self, loop: CompleteLoop | None, *, smallest: bool) -> bool:
        """Return whether the precision is enough for a score to be right within 1 %, or no precision would be.

        Args:
            loop: Inner loop of the MetaNTK that the score is of; None if it is of the NTK.
            smallest: Whether the score depends on the smallest eigenvalue.
        """
        ntk = self.ntk.full
        if not bool(ntk.isfinite().all()):
            return True
        if not even_gradients(ntk):
            return False
        if loop is not None and not inner_loop_is_known(self._inner(loop), ridge=loop.ridge, precision=self.epsilon):
            return False
        if not smallest:
            return True
        if loop is None:
            return eigenvalues(ntk)[0].item() > rounding_floor(ntk, precision=self.epsilon)
        meta = self.meta(loop)
        return not bool(meta.isfinite().all()) or eigenvalues(meta)[0].item() > self.meta_floor(loop)

    def _inner(self, loop: CompleteLoop) -> KernelBlocks:
        inner = {"maml": self.ntk, "anil": self.nngp}[loop.algorithm]
        if inner is None:
            raise ValueError("ANIL adapts the last layer, but the network has no attribute 'head'")
        return inner


class Evidence:
    """What scores of one draw are computed from.

    What is asked for may not be there: everything here raises ``NoScore`` then, with the same reason each time.

    Args:
        draw: The network, its images and labels.
        costs: The costs of all scores that will ask (``ScoreDefinition.cost``): one pass serves both those of kernels
            and those of activation codes.
        kernels: Of the draw's network and images, if they are known already.
        precision: What the gradients of ``kernels`` were computed in; after ``float64`` nothing is computed again.
    """

    def __init__(
        self,
        draw: Draw,
        costs: Collection[str] = (),
        *,
        kernels: Kernels | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.draw = draw
        self._codes_with_pass = {"pass", "forward"} <= set(costs)
        self._known = kernels
        self._precision: Precision = precision

    @property
    def network(self) -> nn.Module:
        """The network, with its weights."""
        return self.draw.network

    def kernels(self, loop: CompleteLoop | None = None, *, smallest: bool = False) -> KernelEvidence:
        """Return the kernels, in float64 where a score could not be known within 1 % from float32, or fail by rounding.

        Args:
            loop: As for :meth:`KernelEvidence.knows`.
            smallest: As for :meth:`KernelEvidence.knows`.
        """
        rounded = _given(self._rounded)
        if rounded.precision == "float64" or rounded.knows(loop, smallest=smallest):
            return rounded
        return self._exact or rounded

    @cached_property
    def unchecked(self) -> KernelEvidence:
        """The kernels as the one pass gave them, also if they are zero or not finite."""
        return _in_blocks(self._pass[0], self.draw, self._precision)

    @property
    def codes(self) -> Float64[Tensor, "n n"]:
        """On how many units two images agree."""
        kernel = self._codes
        if kernel is None:
            raise NoScore(Outcome.NON_FINITE, "the logits of some images are not finite")
        return kernel

    @property
    def gradients(self) -> LossGradients:
        """Gradients of the episodes' losses."""
        return _given(self._gradients)

    def of_tasks(self, tasks: Sequence[int]) -> "Evidence":
        """Return the evidence of some of the episodes, whose kernel is a part of that of all.

        Args:
            tasks: Numbers of the episodes, from 0.
        """
        config = self.draw.config
        queries, supports = (config.episode.ways * number for number in (config.episode.queries, config.episode.shots))
        rows = [task * queries + image for task in tasks for image in range(queries)]
        rows += [config.tasks * queries + task * supports + image for task in tasks for image in range(supports)]
        whole, _ = self._pass
        kernels = Kernels(
            whole.ntk[rows][:, rows],
            None if whole.nngp is None else whole.nngp[rows][:, rows],
            whole.outputs[rows],
        )
        draw = replace(
            self.draw,
            episodes=tuple(self.draw.episodes[task] for task in tasks),
            config=config.model_copy(update={"tasks": len(tasks)}),
        )
        return Evidence(draw, kernels=kernels, precision=self._precision)

    @cached_property
    def _pass(self) -> tuple[Kernels, CodeKernel | None]:
        """The one per-image-gradient pass; activation codes come along if they are asked for too."""
        if self._known is not None:
            return self._known, None
        codes = CodeKernel(len(self.draw.images)) if self._codes_with_pass else None
        return _pass(self.draw, self.draw.images, codes), codes

    @cached_property
    def _rounded(self) -> KernelEvidence | NoScore:
        kernels, _ = self._pass
        overflowed = int((~kernels.outputs.isfinite()).sum())
        if overflowed:
            reason = f"the logits of {overflowed} of {len(kernels.outputs)} images are not finite"
            return NoScore(Outcome.NON_FINITE, reason)
        broken = int((~kernels.ntk.diagonal().isfinite()).sum())
        if broken:
            reason = f"the gradients of {broken} of {len(kernels.outputs)} images are not finite"
            return NoScore(Outcome.NON_FINITE, reason)
        if not bool(kernels.ntk.any()):
            return NoScore(Outcome.DEGENERATE, "the kernel is zero: no output depends on any weight")
        return self.unchecked

    @cached_property
    def _exact(self) -> KernelEvidence | None:
        """The same with the same weights and images in float64; None if a network of a person's own can't do that."""
        draw = self.draw
        # Apple's accelerator has no float64.
        device = "cpu" if draw.images.device.type == "mps" else draw.images.device
        try:
            network = deepcopy(draw.network).to(device, torch.float64)
            kernels = _pass(replace(draw, network=network), draw.images.to(device, torch.float64), None)
        except (RuntimeError, TypeError, ValueError):
            if isinstance(draw.network, FewShotNetwork):
                raise
            return None
        return _in_blocks(kernels, draw, "float64")

    @cached_property
    def _codes(self) -> Float64[Tensor, "n n"] | None:
        if not self._codes_with_pass:
            return code_kernel(self.network, self.draw.images)
        kernels, codes = self._pass
        assert codes is not None
        return codes.kernel if bool(kernels.outputs.isfinite().all()) else None

    @cached_property
    def _gradients(self) -> LossGradients | NoScore:
        draw = self.draw
        images = [
            torch.cat([episode.query_images, episode.support_images]).to(draw.device) for episode in draw.episodes
        ]
        labels = [
            torch.cat([episode.query_labels, episode.support_labels]).to(draw.device) for episode in draw.episodes
        ]
        gradients = loss_gradients(self.network, images, labels)
        if not gradients.finite():
            return NoScore(Outcome.NON_FINITE, "the loss or its gradients are not finite")
        if gradients.zero():
            return NoScore(Outcome.DEGENERATE, "all gradients are zero: the loss depends on no weight")
        return gradients


def _given(found: _T | NoScore) -> _T:
    if isinstance(found, NoScore):
        raise found
    return found


def _pass(draw: Draw, images: Float[Tensor, "n c h w"], codes: CodeKernel | None) -> Kernels:
    """Run the one per-image-gradient pass of a draw's network; ``codes`` sees its ReLUs."""
    return tangent_and_last_layer_kernel(
        draw.network, images, parameters=draw.config.parameters, outputs=draw.config.outputs, on_relu=codes
    )


def _in_blocks(kernels: Kernels, draw: Draw, precision: Precision) -> KernelEvidence:
    episode, tasks = draw.config.episode, draw.config.tasks
    ntk, nngp = (
        None
        if kernel is None
        else split(kernel, tasks=tasks, queries=episode.ways * episode.queries, supports=episode.ways * episode.shots)
        for kernel in (kernels.ntk, kernels.nngp)
    )
    assert ntk is not None
    return KernelEvidence(ntk, nngp, precision)
