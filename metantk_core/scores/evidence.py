"""What one draw of a network gives: kernels, activation codes, gradients, each computed when a score first asks, once.

Scores that come from the same computation share it, however many there are: at most one per-image-gradient pass, one
forward, one forward and backward of a loss. A score is a function of this evidence
(:mod:`metantk_core.scores.functions`).

Axes: n images of the batch · p pixels of all channels of one image · tq query images of all tasks · t q s tasks, query
and support images of one.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from metantk_core.device_memory import NoRoomError, in_chunks
from metantk_core.episodes import NormalisedEpisode
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
    kernels_by_pairs,
    look_on,
    meta_ntk,
    outputs_with_relus_by_chunks,
    rounding_floor,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.kernels.shortcuts import OnRelu
from metantk_core.networks import FewShotNetwork, batch_normalised
from metantk_core.scores.activations import CodeKernel, Reuse, SamplePatterns, code_kernel, sample_patterns
from metantk_core.scores.config import CompleteLoop, ScoringConfig
from metantk_core.scores.gradients import EpisodeLosses, LossGradients, loss_gradients
from metantk_core.scores.jacobians import input_gradients
from metantk_core.scores.record import Outcome, Score
from metantk_core.scores.stages import StageStatistics, gaussian_noise, stage_statistics, stages_of
from metantk_core.seeding import generator

Source = Literal["kernels", "codes", "patterns", "gradients", "jacobian", "stages", "draw"]
"""What a score is computed from: a property of ``Evidence``; ``"draw"`` for a score with a pass of its own."""

_T = TypeVar("_T")
_Passed = tuple[Kernels, CodeKernel | None, SamplePatterns | None, EpisodeLosses | None]


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
    episodes: tuple[NormalisedEpisode, ...]
    config: ScoringConfig
    seed: int
    repeat: int
    device: str
    image_shape: tuple[int, int, int]
    regions_network: nn.Module | None
    stream: str = ""
    reuse: Reuse = field(default_factory=lambda: Reuse(0))
    regions_images: Callable[[], tuple[Float[Tensor, "m 1 p p"], ...]] = tuple

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """Images of the batch, in the order of a kernel's rows."""
        # A person's network may overwrite what it is given.
        return self._images if isinstance(self.network, FewShotNetwork) else self._images.clone()

    @cached_property
    def _images(self) -> Float[Tensor, "n c h w"]:
        queries = [episode.query_images for episode in self.episodes]
        return batch(queries, [episode.support_images for episode in self.episodes]).to(self.device)

    @property
    def task_images(self) -> list[Float[Tensor, "_ c h w"]]:
        """Images of each episode, queries first."""
        return [torch.cat([e.query_images, e.support_images]).to(self.device) for e in self.episodes]

    @property
    def task_labels(self) -> list[Int64[Tensor, " _"]]:
        """Labels of the same images."""
        return [torch.cat([e.query_labels, e.support_labels]).to(self.device) for e in self.episodes]

    def rows(self, tasks: Sequence[int]) -> list[int]:
        """Return the places in the batch of the images of some episodes, queries first.

        Args:
            tasks: Numbers of the episodes, from 0.
        """
        config = self.config
        queries, supports = (config.episode.ways * number for number in (config.episode.queries, config.episode.shots))
        rows = [task * queries + image for task in tasks for image in range(queries)]
        return rows + [config.tasks * queries + task * supports + image for task in tasks for image in range(supports)]

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
        wanted: What all scores together will ask for: the kernels' pass shows its ReLUs to who else needs them.
        kernels: Of the draw's network and images, if they are known already.
        precision: What the gradients of ``kernels`` were computed in; after ``float64`` nothing is computed again.
    """

    def __init__(
        self,
        draw: Draw,
        wanted: Collection[Source] = (),
        *,
        kernels: Kernels | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.draw = draw
        self._wanted = frozenset(wanted)
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
        return _given(self._exact) or rounded

    @cached_property
    def unchecked(self) -> KernelEvidence:
        """The kernels as the one pass gave them, also if they are zero or not finite."""
        return _in_blocks(self._pass[0], self.draw, self._precision)

    @property
    def codes(self) -> Float64[Tensor, "n n"]:
        """On how many units two images agree."""
        return _finite(self._codes)

    @property
    def patterns(self) -> SamplePatterns:
        """On which images each unit is on."""
        return _finite(self._patterns)

    @property
    def gradients(self) -> LossGradients:
        """Gradients of the episodes' losses."""
        return _given(self._gradients)

    @property
    def exact_gradients(self) -> LossGradients | None:
        """The same in float64; None if a network of a person's own can't do that."""
        return _given(self._exact_gradients)

    @cached_property
    def _exact_gradients(self) -> LossGradients | NoScore | None:
        return self._in_double(self._loss_gradients)

    @cached_property
    def batch_normalised(self) -> nn.Module:
        """The network with the same weights and batch normalisation as in training; scores leave it as it is."""
        return batch_normalised(self.network)

    @cached_property
    def jacobian(self) -> Float64[Tensor, "n p"]:
        """Gradients by the pixels of each image, of the batch-normalised network."""
        return input_gradients(self.batch_normalised, self.draw.images)

    @cached_property
    def stages(self) -> StageStatistics:
        """What the stages of the batch-normalised network make of noise."""
        network, random = self.batch_normalised, self.random("az")
        noise = gaussian_noise(self.draw.image_shape, random).to(self.draw.device)
        return stage_statistics(network, stages_of(network, noise), noise, random)

    def random(self, purpose: str) -> torch.Generator:
        """Return random numbers of the draw, the same for all networks and whatever was drawn before."""
        stream = (self.draw.stream,) if self.draw.stream else ()
        return generator(self.draw.seed, "score", purpose, *stream, self.draw.repeat)

    def of_tasks(self, tasks: Sequence[int]) -> "Evidence":
        """Return the evidence of some of the episodes, whose kernel is a part of that of all.

        Args:
            tasks: Numbers of the episodes, from 0.
        """
        config, rows = self.draw.config, self.draw.rows(tasks)
        whole = self._pass[0]
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

    @property
    def _pass(self) -> "_Passed":
        """The one per-image-gradient pass; what is seen of ReLUs and losses comes along if it is asked for too."""
        return _given(self._passed)

    @cached_property
    def _passed(self) -> "_Passed | NoScore":
        if self._known is not None:
            return self._known, None, None, None
        images = self.draw.images

        def run(at_once: int) -> _Passed:
            codes = CodeKernel(len(images)) if "codes" in self._wanted else None
            patterns = SamplePatterns(len(images)) if "patterns" in self._wanted else None
            see = _both(codes, patterns)
            if at_once < len(images):
                if see is not None:
                    outputs_with_relus_by_chunks(self.network, images, at_once, see)
                return _pass(self.draw, images, at_once), codes, patterns, None
            losses = self._losses(self.network, images) if "gradients" in self._wanted else None
            return _pass(self.draw, images, at_once, see, losses), codes, patterns, losses

        return _in_room(run, len(images), smallest=2)

    @property
    def _pass_is_wanted(self) -> bool:
        return "kernels" in self._wanted

    @cached_property
    def _rounded(self) -> KernelEvidence | NoScore:
        kernels = self._pass[0]
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
    def _exact(self) -> KernelEvidence | NoScore | None:
        """The same with the same weights and images in float64; None if a network of a person's own can't do that."""

        def compute(network: nn.Module, images: Float[Tensor, "n c h w"]) -> Kernels | NoScore:
            draw = replace(self.draw, network=network)
            return _in_room(lambda at_once: _pass(draw, images, at_once), len(images), smallest=2)

        kernels = self._in_double(compute)
        return _in_blocks(kernels, self.draw, "float64") if isinstance(kernels, Kernels) else kernels

    def _in_double(self, compute: Callable[[nn.Module, Tensor], _T]) -> _T | None:
        """Return what comes of network and images in float64; None if a network of a person's own can't do that."""
        images = self.draw.images
        # Apple's accelerator has no float64.
        device = "cpu" if images.device.type == "mps" else images.device
        try:
            return compute(deepcopy(self.network).to(device, torch.float64), images.to(device, torch.float64))
        except (RuntimeError, TypeError, ValueError):
            if isinstance(self.network, FewShotNetwork):
                raise
            return None

    @cached_property
    def _codes(self) -> Float64[Tensor, "n n"] | NoScore | None:
        if not self._pass_is_wanted:
            images = self.draw.images
            return _in_room(lambda at_once: code_kernel(self.network, images, at_once), len(images))
        kernels, codes, *_ = self._pass
        assert codes is not None
        return codes.kernel if bool(kernels.outputs.isfinite().all()) else None

    @cached_property
    def _patterns(self) -> SamplePatterns | NoScore | None:
        if not self._pass_is_wanted:
            images = self.draw.images
            return _in_room(lambda at_once: sample_patterns(self.network, images, at_once), len(images))
        kernels, _, patterns, _ = self._pass
        return patterns if bool(kernels.outputs.isfinite().all()) else None

    @cached_property
    def _gradients(self) -> LossGradients | NoScore:
        passed = self._passed if self._pass_is_wanted else None
        losses = passed[3] if isinstance(passed, tuple) else None  # several passes over few images see no losses
        gradients = (
            losses.gradients() if losses and losses.whole else self._loss_gradients(self.network, self.draw.images)
        )
        if isinstance(gradients, NoScore):
            return gradients
        if not gradients.finite():
            return NoScore(Outcome.NON_FINITE, "the loss or its gradients are not finite")
        if gradients.zero():
            return NoScore(Outcome.DEGENERATE, "all gradients are zero: the loss depends on no weight")
        return gradients

    def _loss_gradients(self, network: nn.Module, images: Float[Tensor, "n c h w"]) -> LossGradients | NoScore:
        def compute(at_once: int) -> LossGradients:
            losses = self._losses(network, images)
            if losses is not None and at_once == len(images):
                look_on(network, images, losses)
                if losses.whole:
                    return losses.gradients()
            rows, labels = self._episodes(images)
            return loss_gradients(network, [images[of] for of in rows], labels, at_once)

        return _in_room(compute, len(images))

    def _losses(self, network: nn.Module, images: Float[Tensor, "n c h w"]) -> EpisodeLosses | None:
        """Return who sees the losses in a pass of the kernel's kind; None if weights may be used in any way."""
        return EpisodeLosses(network, *self._episodes(images)) if isinstance(network, FewShotNetwork) else None

    def _episodes(self, images: Float[Tensor, "n c h w"]) -> tuple[list[Tensor], list[Tensor]]:
        """Return, of each episode, the places of its images in the batch and their labels, on the images' device."""
        draw, device = self.draw, images.device
        rows = [torch.tensor(draw.rows([task]), device=device) for task in range(len(draw.episodes))]
        return rows, [labels.to(device) for labels in draw.task_labels]


def _given(found: _T | NoScore) -> _T:
    if isinstance(found, NoScore):
        raise found
    return found


def _finite(found: _T | NoScore | None) -> _T:
    if found is None:
        raise NoScore(Outcome.NON_FINITE, "the logits of some images are not finite")
    return _given(found)


def _in_room(work: Callable[[int], _T], images: int, *, smallest: int = 1) -> _T | NoScore:
    """Return what work gives, from as many images at a time as there is memory for, or that there is too little."""
    try:
        return in_chunks(work, images, smallest=smallest)
    except NoRoomError as too_little:
        return NoScore(Outcome.OUT_OF_MEMORY, str(too_little))


def _both(*watchers: OnRelu | None) -> OnRelu | None:
    """Return what shows a ReLU's output to all that want to see it."""
    seeing = [watcher for watcher in watchers if watcher is not None]
    if len(seeing) < 2:
        return seeing[0] if seeing else None

    def show(output: Tensor) -> None:
        for watcher in seeing:
            watcher(output)

    return show


def _pass(
    draw: Draw,
    images: Float[Tensor, "n c h w"],
    at_once: int,
    on_relu: OnRelu | None = None,
    losses: EpisodeLosses | None = None,
) -> Kernels:
    """Run the one per-image-gradient pass of a draw's network, or several if not all images may pass at once."""
    if at_once < len(images):
        parameters, outputs = draw.config.parameters, draw.config.outputs
        return kernels_by_pairs(draw.network, images, at_once, parameters=parameters, outputs=outputs)
    return tangent_and_last_layer_kernel(
        draw.network,
        images,
        parameters=draw.config.parameters,
        outputs=draw.config.outputs,
        on_relu=on_relu,
        onlooker=losses,
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
