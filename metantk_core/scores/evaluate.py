"""Scoring a candidate: a genotype, a source of episodes and a seed enter, one record per score leaves.

Scores that come from the same computation share it, however many are asked for: per initialisation at most one
per-image-gradient pass, one forward and one backward of a loss. What is drawn for a repeat, weights and episodes, is
shared by all candidates: differences between candidates are differences between architectures.

Axes: n images of the batch · tq query images of all tasks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from time import perf_counter
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, field_validator, model_validator
from torch import Tensor, nn

from metantk_core.candidates import Costs, Genotype
from metantk_core.episodes import Episode, EpisodeConfig, EpisodeSource
from metantk_core.kernels import (
    EPSILON,
    KernelBlocks,
    Kernels,
    Outputs,
    ParameterChoice,
    Precision,
    adaptation,
    adapted_lengths,
    batch,
    centred_targets,
    eigenvalues,
    even_gradients,
    held_out_predictions,
    inner_loop_is_known,
    meta_ntk,
    rounding_floor,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import (
    CostTable,
    FewShotNetwork,
    NetworkConfig,
    Scheme,
    build,
    build_thin,
    cost_table,
    initialise,
    restricted,
)
from metantk_core.scores.activations import (
    CodeKernel,
    Reuse,
    code_kernel,
    linear_regions,
    linear_regions_of_batches,
    naswot,
)
from metantk_core.scores.alignment import (
    kernel_target_alignment,
    label_gradient_alignment,
    same_class,
    spectral_entropy,
)
from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.definitions import SCORES, Algorithm, Cost
from metantk_core.scores.gradients import (
    LossGradients,
    fisher,
    fisher_fan_in,
    grad_norm,
    loss_gradients,
    plain,
    snip,
    zico,
)
from metantk_core.scores.patches import RESIZED, training_patches
from metantk_core.scores.record import Outcome, Score, ScoreRecord, device_kind
from metantk_core.scores.synflow import synflow
from metantk_core.seeding import generator

_Duration = Annotated[
    float,
    BeforeValidator(lambda time: math.inf if time == "inf" else time),
    PlainSerializer(lambda time: "inf" if math.isinf(time) else time, when_used="json"),  # JSON has no infinity
]


_KEPT_BYTES = 2**30  # of weights of initialised networks
_REUSED_BYTES = 2**28  # of activations of the networks that linear regions are counted on
_KEPT_EPISODES = 64  # batches; one of 30 images of 32 x 32 has 0.4 MB
_PADDING = 4
_MOST_IMAGES = 10_000  # of a kernel: the square of it in float64 takes 0.8 GB
_ATTEMPTS = 100  # to draw an episode that shares no image with the others of its batch


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


@dataclass(frozen=True)
class CandidateKernels:
    """The kernels of one candidate at one initialisation, on the episodes of that repeat.

    Attributes:
        ntk: Kernel of the whole network.
        nngp: Kernel of its last layer; None if it does not name one.
        meta_ntk: Kernel of meta-learning over all query images, task by task; NaN if ``ntk`` is not finite.
    """

    ntk: KernelBlocks
    nngp: KernelBlocks | None
    meta_ntk: Float64[Tensor, "tq tq"]


class _InnerLoop(NamedTuple):
    algorithm: Algorithm
    time: float
    ridge: float


@dataclass(frozen=True)
class Draw:
    """What one repeat shares: the network with its weights, and the episodes, images and labels on the device.

    It stays what it is: nothing that is drawn later changes its weights.
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
class _PassResult:
    """What scores of the kernel pass are computed from, and the precision of its gradients."""

    ntk: KernelBlocks
    nngp: KernelBlocks | None
    draw: Draw
    precision: Precision = "float32"

    @property
    def epsilon(self) -> float:
        return EPSILON[self.precision]

    def meta(self, loop: _InnerLoop) -> Float64[Tensor, "tq tq"]:
        return meta_ntk(self.ntk, self._inner(loop), time=loop.time, ridge=loop.ridge, precision=self.epsilon)

    def adapted(self, loop: _InnerLoop) -> Float64[Tensor, "t q s"]:
        return adaptation(self._inner(loop), time=loop.time, ridge=loop.ridge, precision=self.epsilon)

    def meta_floor(self, loop: _InnerLoop) -> float:
        """Return the size from which on eigenvalues of the MetaNTK are known within 1 %."""
        lengths = adapted_lengths(self.ntk, self.adapted(loop))
        return rounding_floor(self.ntk.full, precision=self.epsilon, lengths=lengths)

    def knows(self, name: str, loop: _InnerLoop) -> bool:
        """Return whether the precision is enough for a score to be right within 1 %, or no precision would be."""
        plain, ntk = SCORES.plain_name(name), self.ntk.full
        if not bool(ntk.isfinite().all()):
            return True
        if not even_gradients(ntk):
            return False
        if plain in _OF_META_NTK and not inner_loop_is_known(
            self._inner(loop), ridge=loop.ridge, precision=self.epsilon
        ):
            return False
        if plain not in _OF_SMALLEST_EIGENVALUE:
            return True
        if plain not in _OF_META_NTK:
            return eigenvalues(ntk)[0].item() > rounding_floor(ntk, precision=self.epsilon)
        meta = self.meta(loop)
        return not bool(meta.isfinite().all()) or eigenvalues(meta)[0].item() > self.meta_floor(loop)

    def _inner(self, loop: _InnerLoop) -> KernelBlocks:
        inner = {"maml": self.ntk, "anil": self.nngp}[loop.algorithm]
        if inner is None:
            raise ValueError("ANIL adapts the last layer, but the network has no attribute 'head'")
        return inner


def _unevenness(measure: Callable[..., Score], result: _PassResult, loop: _InnerLoop) -> Score:
    """Return a number that says how uneven the spectrum of the MetaNTK is."""
    return measure(result.meta(loop), precision=result.epsilon, floor=result.meta_floor(loop))


def _metantk_entropy(result: _PassResult, loop: _InnerLoop) -> float:
    meta = result.meta(loop)
    return spectral_entropy(meta) if bool(meta.isfinite().all()) else math.nan


def _regression(result: _PassResult, loop: _InnerLoop) -> tuple[float, float]:
    """Return accuracy and squared loss of kernel regression, each task predicted from the others."""
    ways, episodes = result.draw.config.episode.ways, result.draw.episodes
    labels = torch.stack([episode.query_labels for episode in episodes])
    targets = centred_targets(labels, ways)
    support = centred_targets(torch.stack([episode.support_labels for episode in episodes]), ways)
    meta, adapted, floor = result.meta(loop), result.adapted(loop), result.meta_floor(loop)
    predicted = torch.cat(
        [
            held_out_predictions(
                meta,
                adapted,
                support,
                targets,
                held_out=(task,),
                floor=floor,
                precision=result.epsilon,
            )
            for task in range(len(episodes))
        ]
    )
    accuracy = (predicted.argmax(dim=-1) == labels).double().mean().item()
    return accuracy, (predicted - targets).square().sum(dim=-1).mean().item()


def _aligned(
    alignment: Callable[[Float64[Tensor, "n n"], Float64[Tensor, "n n"]], float], result: _PassResult
) -> float:
    return alignment(result.ntk.full, same_class(result.draw.classes))


_OF_KERNELS: Mapping[str, Callable[[_PassResult, _InnerLoop], Score | float]] = MappingProxyType(
    {
        "metantk_cond": partial(_unevenness, condition_number),
        "ntk_cond": lambda result, _: condition_number(result.ntk.full, precision=result.epsilon),
        "ntk_trace": lambda result, _: result.ntk.full.trace().item(),
        "ntk_frobenius": lambda result, _: result.ntk.full.norm().item(),
        "spectral_entropy": lambda result, _: spectral_entropy(result.ntk.full),
        "label_gradient_alignment": lambda result, _: _aligned(label_gradient_alignment, result),
        "kernel_target_alignment": lambda result, _: _aligned(kernel_target_alignment, result),
        "metantk_logdet": partial(_unevenness, log_determinant),
        "metantk_trace_ratio": partial(_unevenness, trace_ratio),
        "metantk_spectral_entropy": _metantk_entropy,
        "metantk_regression_accuracy": lambda result, loop: _regression(result, loop)[0],
        "metantk_regression_loss": lambda result, loop: _regression(result, loop)[1],
    }
)
_OF_META_NTK = frozenset(name for name in _OF_KERNELS if name.startswith("metantk"))
_OF_SMALLEST_EIGENVALUE = frozenset(
    {
        "ntk_cond",
        "metantk_cond",
        "metantk_logdet",
        "metantk_trace_ratio",
        "metantk_regression_accuracy",
        "metantk_regression_loss",
    }
)
_OF_CODES: Mapping[str, Callable[[Float64[Tensor, "n n"]], Score]] = MappingProxyType({"naswot": naswot})
_OF_GRADIENTS: Mapping[str, Callable[[LossGradients], float]] = MappingProxyType(
    {
        "grad_norm": grad_norm,
        "snip": snip,
        "plain": plain,
        "fisher": fisher,
        "fisher_fan_in": fisher_fan_in,
        "zico": zico,
    }
)
_OF_DRAW: Mapping[str, Callable[[Draw], Score | float]] = MappingProxyType(
    {
        "synflow": lambda draw: synflow(draw.network, draw.image_shape),
        "linear_regions": lambda draw: _linear_regions(draw),
    }
)
_OF_COSTS: Mapping[str, Callable[[Costs], int]] = MappingProxyType(
    {"params": lambda costs: costs.params, "flops": lambda costs: costs.macs}
)


def score_candidate(
    genotype: Genotype,
    source: EpisodeSource,
    config: ScoringConfig,
    seed: int,
    *,
    training_network: NetworkConfig | None = None,
    device: str = "cpu",
) -> tuple[ScoreRecord, ...]:
    """Return one record per score of ``config.scores``, in that order.

    Args:
        genotype: A candidate, or a supernet.
        source: Episodes of the size ``config.episode``, as images of ``config.image_size``.
        config: What to compute.
        seed: Seed of the run. Values depend on nothing else (on one kind of machine and number of threads).
        training_network: Width and depth of the network that would be trained, whose parameters and operations are
            counted, at the resolution of the source's own images; as ``config.network`` if none is given.
        device: Where the networks run, as torch spells it.

    Raises:
        ValueError: The source's episodes are not those of ``config``.
    """
    scorer = Scorer(genotype, source, config, seed, training_network=training_network, device=device)
    return scorer.score(genotype, range(config.num_inits))


class Scorer:
    """Scores the parts of a supernet, which is initialised once for each draw and shared by all of them.

    A candidate's network is the supernet's without some operations: that gives the same numbers as a network built and
    initialised for it alone, because initial weights depend on their names. What is kept between candidates (networks,
    episodes) is bounded; beyond that it is made again.

    Args:
        supernet: Holds all operations of all candidates that will be scored.
        source: As for :func:`score_candidate`, like the other arguments.
        config: What to compute.
        seed: Seed of the run.
        training_network: Width and depth of the network that would be trained.
        device: Where the networks run.

    Raises:
        ValueError: The source's episodes are not those of ``config``.
    """

    def __init__(
        self,
        supernet: Genotype,
        source: EpisodeSource,
        config: ScoringConfig,
        seed: int,
        *,
        training_network: NetworkConfig | None = None,
        device: str = "cpu",
    ) -> None:
        check_source(source, config)
        self._supernet, self._source, self._config = supernet, source, config
        self._seed, self._device = seed, device
        self._training_network = training_network or config.network
        self._drawn = [name for name in config.scores if SCORES[name].cost != "none"]
        self._counted = [name for name in config.scores if name in _OF_COSTS]
        self._networks: dict[int, _Networks] = {}
        self._spare: _Networks | None = None  # initialised again for the next draw that has weights of its own
        self._episodes: dict[int, tuple[Episode, ...]] = {}
        self._regions_images: dict[tuple[str, int], tuple[Tensor, ...]] = {}
        self._reuse = Reuse(_REUSED_BYTES)

    @cached_property
    def _costs(self) -> CostTable:
        return cost_table(
            self._supernet.space,
            self._training_network,
            image_shape=self._source.images.image_shape,
            ways=self._config.episode.ways,
        )

    def score(
        self,
        genotype: Genotype,
        repeats: range,
        stream: str = "",
        weights: str = "",
        names: Sequence[str] | None = None,
    ) -> tuple[ScoreRecord, ...]:
        """Return one record per score, in the order of the configuration.

        Args:
            genotype: The supernet, or a part of it.
            repeats: Numbers of the draws. Each is a pure function of configuration, genotype, seed, number and names.
            stream: Name of other random numbers than the usual ones, for weights and episodes.
            weights: Name that sets the weights apart from others of the stream.
            names: The scores that are asked for, among those of the configuration; all if not given. The value of a
                score does not depend on which others are computed beside it.
        """
        wanted = [name for name in self._config.scores if names is None or name in names]
        drawn = [name for name in wanted if name in self._drawn]
        counted = [name for name in wanted if name in self._counted]
        draws: dict[str, list[Score]] = {name: [] for name in wanted}
        seconds = dict.fromkeys(wanted, 0.0)
        for repeat in repeats if drawn else ():
            start = perf_counter()
            with self._drawn_for(genotype, repeat, stream, weights) as draw:
                _share(seconds, drawn, start)
                for together in _sharing(drawn):
                    start = perf_counter()
                    for name, score in shared_scores(together, draw).items():
                        draws[name].append(score)
                    _share(seconds, together, start)
        if counted:
            start = perf_counter()
            costs = self._costs.of(genotype)
            for name in counted:
                draws[name].append(Score(float(_OF_COSTS[name](costs))))
            _share(seconds, counted, start)
        text, device = str(genotype), device_kind(self._device)
        return tuple(
            ScoreRecord(
                genotype.space,
                text,
                name,
                tuple(draws[name]),
                self._seed,
                seconds[name],
                stream,
                weights,
                "" if name in _OF_COSTS else device,
            )
            for name in wanted
        )

    def draw(self, genotype: Genotype, repeat: int, stream: str = "", weights: str = "") -> "Draw":
        """Return the networks, images and labels of one draw of a genotype; arguments as for :meth:`score`.

        A draw is the caller's: it holds its networks as long as it is held, and the scorer initialises them no more.
        """
        own = tuple(filter(None, (stream, weights)))
        networks = self._own_networks(genotype, repeat, own) if own else self._shared_networks(repeat)
        return self._draw_of(networks, genotype, repeat, stream, own)

    @contextmanager
    def _drawn_for(self, genotype: Genotype, repeat: int, stream: str, weights: str) -> Iterator["Draw"]:
        """Give a draw that nobody holds afterwards, so that its networks can serve another one."""
        own = tuple(filter(None, (stream, weights)))
        networks = self._own_networks(genotype, repeat, own) if own else self._shared_networks(repeat)
        try:
            yield self._draw_of(networks, genotype, repeat, stream, own)
        finally:
            if own:
                self._spare = networks

    def _draw_of(
        self, networks: "_Networks", genotype: Genotype, repeat: int, stream: str, own: tuple[str, ...]
    ) -> "Draw":
        return Draw(
            restricted(networks.network, genotype),
            self._episodes_of(repeat, stream),
            self._config,
            self._seed,
            repeat,
            self._device,
            self._source.image_shape,
            None if networks.regions is None else restricted(networks.regions, genotype),
            stream,
            # Weights that only one candidate has leave nothing to reuse.
            Reuse(0) if own else self._reuse,
            partial(self._regions_images_of, repeat, stream),
        )

    def _regions_images_of(self, repeat: int, stream: str) -> tuple[Float[Tensor, "m 1 p p"], ...]:
        """Return the images that linear regions are counted on, in batches; the same tensors for all candidates."""
        key = stream, repeat
        if key not in self._regions_images:
            if len(self._regions_images) >= _KEPT_EPISODES:
                self._regions_images.clear()
            images = regions_images(self._source, self._config.linear_regions, self._seed, repeat, stream)
            self._regions_images[key] = tuple(batch.to(self._device) for batch in images)
        return self._regions_images[key]

    def _shared_networks(self, repeat: int) -> "_Networks":
        if repeat not in self._networks:
            made = self._make()
            kept = sum(parameter.nbytes for networks in (made, *self._networks.values()) for parameter in networks)
            if kept > _KEPT_BYTES:
                self._networks.clear()
            self._initialise(made, repeat, ())
            self._networks[repeat] = made
        return self._networks[repeat]

    def _own_networks(self, genotype: Genotype, repeat: int, own: tuple[str, ...]) -> "_Networks":
        """Return networks with weights for this genotype alone: spare ones, which are then used up, or new ones."""
        networks, self._spare = self._spare or self._make(), None
        self._initialise(
            _Networks(
                restricted(networks.network, genotype),
                None if networks.regions is None else restricted(networks.regions, genotype),
            ),
            repeat,
            own,
        )
        return networks

    def _make(self) -> "_Networks":
        config, source = self._config, self._source
        network = _build(self._supernet, source, config.network, "scoring", config.episode.ways).to(self._device)
        if "linear_regions" not in self._drawn:
            return _Networks(network, None)
        return _Networks(network, _regions_network(self._supernet, source, config).to(self._device))

    def _initialise(self, networks: "_Networks", repeat: int, own: tuple[str, ...]) -> None:
        scheme = self._config.initialisation
        for network in networks.both:
            if self._config.redraw == "head":
                initialise(network, self._seed, "score", "init", scheme=scheme)
                initialise(network.head, self._seed, "score", "head", *own, repeat, scheme=scheme)
            else:
                initialise(network, self._seed, "score", "init", *own, repeat, scheme=scheme)

    def _episodes_of(self, repeat: int, stream: str) -> tuple[Episode, ...]:
        if stream:
            return scoring_episodes(self._source, self._config, self._seed, repeat, stream)
        if repeat not in self._episodes:
            if len(self._episodes) >= _KEPT_EPISODES:
                self._episodes.clear()
            self._episodes[repeat] = scoring_episodes(self._source, self._config, self._seed, repeat)
        return self._episodes[repeat]


@dataclass(frozen=True)
class _Networks:
    """The networks of one draw: the scored one, and the one that linear regions are counted on."""

    network: FewShotNetwork
    regions: FewShotNetwork | None

    @property
    def both(self) -> tuple[FewShotNetwork, ...]:
        return (self.network,) if self.regions is None else (self.network, self.regions)

    def __iter__(self) -> Iterator[nn.Parameter]:
        return (parameter for network in self.both for parameter in network.parameters())


def candidate_kernels(
    genotype: Genotype,
    source: EpisodeSource,
    config: ScoringConfig,
    seed: int,
    repeat: int,
    *,
    device: str = "cpu",
) -> CandidateKernels:
    """Return the kernels that the scores of one repeat of :func:`score_candidate` come from.

    Args:
        genotype: A candidate, or a supernet.
        source: Episodes of the size ``config.episode``.
        config: What to compute.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
        device: Where the network runs, as torch spells it.

    Raises:
        ValueError: The source's episodes are not those of ``config``.
    """
    kernels_alone = config.model_copy(update={"scores": ("metantk_cond",)})
    draw = Scorer(genotype, source, kernels_alone, seed, device=device).draw(genotype, repeat)
    loop = inner_loop("metantk_cond", config)
    result = _in_blocks(_kernels(draw), draw)
    if not result.knows("metantk_cond", loop):
        result = _in_float64(draw) or result
    return CandidateKernels(result.ntk, result.nngp, result.meta(loop))


def scoring_episodes(
    source: EpisodeSource, config: ScoringConfig, seed: int, repeat: int, stream: str = ""
) -> tuple[Episode, ...]:
    """Return the episodes of one repeat, the same for all candidates; no image occurs twice among them if that can be.

    An image that two episodes share has the same gradient twice, which makes the NTK of every network singular. So an
    episode that shares an image with an earlier one is drawn again, up to 100 times; where the data are too few for
    that, the last one is kept.

    Args:
        source: Episodes of the size ``config.episode``.
        config: How many.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
        stream: Name of random numbers of its own; empty for those shared by all.
    """
    own = (stream,) if stream else ()
    episodes: list[Episode] = []
    seen: set[bytes] = set()
    for task in range(config.tasks):
        episode = source.episode(seed, "score", "episodes", *own, repeat, task)
        images = _contents(episode)
        for attempt in range(1, _ATTEMPTS):
            if len(images) == len(episode.query_images) + len(episode.support_images) and seen.isdisjoint(images):
                break
            episode = source.episode(seed, "score", "episodes", *own, repeat, task, attempt)
            images = _contents(episode)
        seen |= images
        if config.augmentation == "flip_crop":
            episode = _augmented(episode, source, generator(seed, "score", "augmentation", *own, repeat, task))
        episodes.append(episode)
    return tuple(episodes)


def regions_images(
    source: EpisodeSource, config: LinearRegionsConfig, seed: int, repeat: int, stream: str = ""
) -> tuple[Float[Tensor, "m 1 p p"], ...]:
    """Return the images that linear regions are counted on, in the batches that are normalised together.

    Args:
        source: Gives the images that patches are taken from, and their moments.
        config: How many images of which size.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
        stream: Name of random numbers of its own; empty for those shared by all.
    """
    purpose = ("score", "linear regions", *((stream,) if stream else ()), repeat)
    if config.definition == "noise":
        size = (config.images, 1, config.image_size, config.image_size)
        return (torch.randn(size, generator=generator(seed, *purpose)),)
    mean, std = source.own_moments or (source.mean, source.std)
    patches = training_patches(
        source.images, mean, std, number=config.images, size=config.image_size, seed=seed, purpose=purpose
    )
    return patches.split(config.batch)


def _augmented(episode: Episode, source: EpisodeSource, rng: torch.Generator) -> Episode:
    """Return an episode with each image flipped by chance and moved by up to 4 pixels, black coming in."""
    mean, std = (torch.tensor(moments).view(-1, 1, 1) for moments in (source.mean, source.std))
    black = -mean / std

    def moved(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        height, width = image.shape[-2:]
        wide = black.expand(-1, height + 2 * _PADDING, width + 2 * _PADDING).clone()
        wide[:, _PADDING : _PADDING + height, _PADDING : _PADDING + width] = image
        down, right, flip = (int(torch.randint(high, (), generator=rng)) for high in (2 * _PADDING + 1,) * 2 + (2,))
        part = wide[:, down : down + height, right : right + width]
        return part.flip(-1) if flip else part

    return replace(
        episode,
        support_images=torch.stack([moved(image) for image in episode.support_images]),
        query_images=torch.stack([moved(image) for image in episode.query_images]),
    )


def _contents(episode: Episode) -> set[bytes]:
    return {image.numpy().tobytes() for image in (*episode.query_images, *episode.support_images)}


def check_source(source: EpisodeSource, config: ScoringConfig) -> None:
    """Raise ``ValueError`` unless a source gives the episodes that a configuration asks for."""
    size = config.image_size
    if source.config != config.episode or source.image_shape[1:] != (size, size):
        raise ValueError(
            f"expected episodes of {config.episode} at {size} x {size} pixels, as the scoring configuration says, "
            f"got {source.config} at {source.image_shape[1]} x {source.image_shape[2]}"
        )


def _build(
    genotype: Genotype,
    source: EpisodeSource,
    config: NetworkConfig,
    variant: Literal["scoring", "training"],
    ways: int,
    *,
    in_channels: int | None = None,
) -> FewShotNetwork:
    channels = source.images.image_shape[0] if in_channels is None else in_channels
    # Modules draw their first weights from torch's global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        return build(genotype, config, in_channels=channels, ways=ways, variant=variant)


def _regions_network(genotype: Genotype, source: EpisodeSource, config: ScoringConfig) -> FewShotNetwork:
    if config.linear_regions.definition == "published":
        with torch.random.fork_rng(devices=[]):
            return build_thin(genotype, ways=config.episode.ways)
    narrow = NetworkConfig(channels=config.linear_regions.channels, cells=config.network.cells)
    return _build(genotype, source, narrow, "scoring", config.episode.ways, in_channels=1)


def _sharing(names: Sequence[str]) -> list[list[str]]:
    """Return the names in groups that one computation serves."""
    groups: dict[str, list[str]] = {}
    for name in names:
        cost = SCORES[name].cost
        groups.setdefault(name if cost == "own pass" else cost, []).append(name)
    if "pass" in groups:
        groups["pass"] += groups.pop("forward", [])  # the pass runs forward too
    return list(groups.values())


def _share(seconds: dict[str, float], names: Sequence[str], start: float) -> None:
    share = (perf_counter() - start) / len(names)
    for name in names:
        seconds[name] += share


def inner_loop(name: str, config: ScoringConfig) -> _InnerLoop:
    """Return the inner loop that a score's name asks for, completed from the configuration."""
    loop = SCORES[name].inner_loop
    return _InnerLoop(
        config.algorithm if loop is None or loop.algorithm is None else loop.algorithm,
        config.time if loop is None or loop.time is None else loop.time,
        config.ridge if loop is None or loop.ridge is None else loop.ridge,
    )


def _kernels(draw: Draw, codes: CodeKernel | None = None, *, images: Float[Tensor, "n c h w"] | None = None) -> Kernels:
    """Run the one per-image-gradient pass of a draw, or of these images; ``codes`` sees its ReLUs."""
    config = draw.config
    if images is None:
        images = draw.images
    return tangent_and_last_layer_kernel(
        draw.network, images, parameters=config.parameters, outputs=config.outputs, on_relu=codes
    )


def _in_float64(draw: Draw) -> _PassResult | None:
    """Return what the kernel pass gives with the same weights and images in float64.

    None if a network of a person's own can't be computed in float64.
    """
    # Apple's accelerator has no float64.
    device = "cpu" if draw.images.device.type == "mps" else draw.images.device
    try:
        network = deepcopy(draw.network).to(device, torch.float64)
        exact = replace(draw, network=network)
        kernels = _kernels(exact, images=draw.images.to(device, torch.float64))
    except (RuntimeError, TypeError, ValueError):
        if isinstance(draw.network, FewShotNetwork):
            raise
        return None
    return _in_blocks(kernels, draw, "float64")


def _in_blocks(kernels: Kernels, draw: Draw, precision: Precision = "float32") -> _PassResult:
    episode, tasks = draw.config.episode, draw.config.tasks
    ntk, nngp = (
        None
        if kernel is None
        else split(kernel, tasks=tasks, queries=episode.ways * episode.queries, supports=episode.ways * episode.shots)
        for kernel in (kernels.ntk, kernels.nngp)
    )
    assert ntk is not None
    return _PassResult(ntk, nngp, draw, precision)


def _pass_scores(names: Sequence[str], draw: Draw) -> dict[str, Score]:
    """Return the scores of one draw; a draw whose pass overflowed fails all of them, with the first reason met."""
    of_codes = [name for name in names if name in _OF_CODES]
    codes = CodeKernel(len(draw.images)) if of_codes else None
    kernels = _kernels(draw, codes)
    if codes is not None:
        found = _code_scores(of_codes, codes.kernel if bool(kernels.outputs.isfinite().all()) else None)
        return found | kernel_scores([name for name in names if name not in found], kernels, draw)
    return kernel_scores(names, kernels, draw)


def kernel_scores(
    names: Sequence[str], kernels: Kernels, draw: Draw, precision: Precision = "float32"
) -> dict[str, Score]:
    """Return scores of one draw from its kernels.

    Those that float32 can't know within 1 %, or could fail for nothing but rounding, come from one more pass in
    float64, which they share.

    Args:
        names: Scores of the kernel pass.
        kernels: Of the draw's network and images.
        draw: What is computed again if need be.
        precision: What the gradients of ``kernels`` were computed in; after ``float64`` nothing is computed again.
    """
    overflowed = int((~kernels.outputs.isfinite()).sum())
    if overflowed:
        reason = f"the logits of {overflowed} of {len(kernels.outputs)} images are not finite"
        return _all_failed(names, Outcome.NON_FINITE, reason)
    broken = int((~kernels.ntk.diagonal().isfinite()).sum())
    if broken:
        reason = f"the gradients of {broken} of {len(kernels.outputs)} images are not finite"
        return _all_failed(names, Outcome.NON_FINITE, reason)
    if not bool(kernels.ntk.any()):
        return _all_failed(names, Outcome.DEGENERATE, "the kernel is zero: no output depends on any weight")
    result = _in_blocks(kernels, draw, precision)
    exact = cache(lambda: _in_float64(draw))
    scores = {}
    for name in names:
        loop = inner_loop(name, draw.config)
        enough = precision == "float64" or result.knows(name, loop)
        used = result if enough else exact() or result
        score = _checked(name, _OF_KERNELS[SCORES.plain_name(name)](used, loop))
        scores[name] = replace(score, precision=used.precision)
    return scores


def _forward_scores(names: Sequence[str], draw: Draw) -> dict[str, Score]:
    return _code_scores(names, code_kernel(draw.network, draw.images))


def _code_scores(names: Sequence[str], kernel: Float64[Tensor, "n n"] | None) -> dict[str, Score]:
    if kernel is None:
        return _all_failed(names, Outcome.NON_FINITE, "the logits of some images are not finite")
    return {name: _checked(name, _OF_CODES[name](kernel)) for name in names}


def _backward_scores(names: Sequence[str], draw: Draw) -> dict[str, Score]:
    images = [torch.cat([episode.query_images, episode.support_images]).to(draw.device) for episode in draw.episodes]
    labels = [torch.cat([episode.query_labels, episode.support_labels]).to(draw.device) for episode in draw.episodes]
    gradients = loss_gradients(draw.network, images, labels)
    if not gradients.finite():
        return _all_failed(names, Outcome.NON_FINITE, "the loss or its gradients are not finite")
    if gradients.zero():
        return _all_failed(names, Outcome.DEGENERATE, "all gradients are zero: the loss depends on no weight")
    return {name: _checked(name, _OF_GRADIENTS[name](gradients)) for name in names}


def _own_scores(names: Sequence[str], draw: Draw) -> dict[str, Score]:
    return {name: _checked(name, _OF_DRAW[name](draw)) for name in names}


_COMPUTE: Mapping[Cost, Callable[[Sequence[str], Draw], dict[str, Score]]] = MappingProxyType(
    {"pass": _pass_scores, "forward": _forward_scores, "backward": _backward_scores, "own pass": _own_scores}
)


def shared_scores(names: Sequence[str], draw: Draw) -> dict[str, Score]:
    """Return scores of one cost, which one computation serves, for one draw."""
    return _COMPUTE[SCORES[names[0]].cost](names, draw)


def _linear_regions(draw: Draw) -> Score:
    assert draw.regions_network is not None
    batches = draw.regions_images()
    if draw.config.linear_regions.definition == "published":
        return linear_regions_of_batches(draw.regions_network, batches, draw.reuse)
    (images,) = batches
    return linear_regions(draw.regions_network, images, draw.reuse)


def _checked(name: str, value: Score | float) -> Score:
    """Return a number as a score, or the outcome that it stands for."""
    if isinstance(value, Score):
        return value
    label = SCORES[name].label
    if value == -math.inf or (value <= 0 and SCORES[name].scale == "log10"):
        return Score(None, Outcome.DEGENERATE, f"{label} is the logarithm of zero: nothing there to measure")
    if not math.isfinite(value):
        return Score(None, Outcome.NON_FINITE, f"{label} is not finite")
    return Score(value)


def _all_failed(names: Sequence[str], outcome: Outcome, reason: str) -> dict[str, Score]:
    return {name: Score(None, outcome, reason) for name in names}
