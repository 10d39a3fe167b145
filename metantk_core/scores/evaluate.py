"""Scoring a candidate: a genotype, a source of episodes and a seed enter, one record per score leaves.

Every kernel-based score comes from one per-image-gradient pass per initialisation. What is drawn for a repeat, weights
and episodes, is shared by all candidates: differences between candidates are differences between architectures.

Axes: n images of the batch · tq query images of all tasks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from jaxtyping import Float64
from pydantic import BaseModel, Field, PlainSerializer, field_validator
from torch import Tensor

from metantk_core.candidates import Genotype
from metantk_core.episodes import Episode, EpisodeConfig, EpisodeSource
from metantk_core.kernels import (
    KernelBlocks,
    Kernels,
    ParameterChoice,
    batch,
    meta_ntk,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, count_macs, count_parameters, initialise
from metantk_core.scores.conditioning import SINGLE_PRECISION, condition_number, rounding_floor
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.record import Outcome, Score, ScoreRecord

_Duration = Annotated[
    float, PlainSerializer(lambda time: "inf" if math.isinf(time) else time, when_used="json")  # JSON has no infinity
]


_ATTEMPTS = 100  # to draw an episode that shares no image with the others of its batch


class ScoringConfig(BaseModel, frozen=True, extra="forbid"):
    """How candidates are scored at initialisation."""

    scores: tuple[str, ...] = Field(
        default=("metantk_cond", "ntk_cond", "params", "flops"),
        min_length=1,
        description="Names of the scores to compute.",
    )
    num_inits: int = Field(
        default=3, ge=1, description="Initialisations, each with episodes of its own, that a score averages."
    )
    tasks: int = Field(default=3, ge=1, description="Episodes of one kernel.")
    episode: EpisodeConfig = Field(
        default=EpisodeConfig(ways=5, shots=1, queries=1), description="Size of these episodes."
    )
    image_size: int = Field(default=32, ge=1, description="Height and width of the scored images, in pixels.")
    network: NetworkConfig = Field(
        default=NetworkConfig(channels=16, cells=5), description="Width and depth of the scored networks."
    )
    algorithm: Literal["maml", "anil"] = Field(
        default="maml", description="Inner loop of the MetaNTK: all parameters adapt (maml) or the head alone (anil)."
    )
    time: _Duration = Field(
        default=math.inf, ge=0, description="Inner learning rate times inner steps; inf is adaptation to convergence."
    )
    ridge: float = Field(default=1e-3, ge=0, allow_inf_nan=False, description="Regularisation λ of the inner loop.")
    parameters: ParameterChoice = Field(default="weights", description="Parameters that kernels count.")

    @field_validator("scores")
    @classmethod
    def _known_and_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in SCORES]
        if unknown:
            raise ValueError(f"unknown score {', '.join(unknown)}; the scores are {', '.join(SCORES)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a score is named twice in {', '.join(names)}")
        return names


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


def _metantk_cond(kernels: CandidateKernels) -> Score:
    return condition_number(kernels.meta_ntk, floor=rounding_floor(kernels.ntk.full))


def _ntk_cond(kernels: CandidateKernels) -> Score:
    return condition_number(kernels.ntk.full)


_OF_KERNELS: Mapping[str, Callable[[CandidateKernels], Score]] = MappingProxyType(
    {"metantk_cond": _metantk_cond, "ntk_cond": _ntk_cond}
)
_OF_NETWORK: Mapping[str, Callable[[FewShotNetwork, tuple[int, int, int]], int]] = MappingProxyType(
    {"params": lambda network, _: count_parameters(network), "flops": count_macs}
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
    check_source(source, config)
    text = str(genotype)
    from_pass = [name for name in config.scores if name in _OF_KERNELS]
    draws: dict[str, list[Score]] = {name: [] for name in config.scores}
    seconds = dict.fromkeys(config.scores, 0.0)

    if from_pass:
        start = perf_counter()
        network = _build(genotype, source, config.network, "scoring", config.episode.ways)
        for repeat in range(config.num_inits):
            kernels = _pass(network, source, config, seed, repeat, device)
            for name, score in kernel_scores(from_pass, kernels, config).items():
                draws[name].append(score)
        share = (perf_counter() - start) / len(from_pass)
        seconds.update(dict.fromkeys(from_pass, share))

    counted = [name for name in config.scores if name in _OF_NETWORK]
    if counted:
        start = perf_counter()
        network = _build(genotype, source, training_network or config.network, "training", config.episode.ways)
        shape = source.images.image_shape
        for name in counted:
            draws[name].append(Score(float(_OF_NETWORK[name](network, shape))))
        seconds.update(dict.fromkeys(counted, (perf_counter() - start) / len(counted)))

    return tuple(
        ScoreRecord(genotype.space, text, name, tuple(draws[name]), seed, seconds[name]) for name in config.scores
    )


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
    check_source(source, config)
    network = _build(genotype, source, config.network, "scoring", config.episode.ways)
    return _in_blocks(_pass(network, source, config, seed, repeat, device), config)


def scoring_episodes(source: EpisodeSource, config: ScoringConfig, seed: int, repeat: int) -> tuple[Episode, ...]:
    """Return the episodes of one repeat, the same for all candidates; no image occurs twice among them if that can be.

    An image that two episodes share has the same gradient twice, which makes the NTK of every network singular. So an
    episode that shares an image with an earlier one is drawn again, up to 100 times; where the data are too few for
    that, the last one is kept.

    Args:
        source: Episodes of the size ``config.episode``.
        config: How many.
        seed: Seed of the run.
        repeat: Number of the initialisation, from 0.
    """
    episodes: list[Episode] = []
    seen: set[bytes] = set()
    for task in range(config.tasks):
        episode = source.episode(seed, "score", "episodes", repeat, task)
        images = _contents(episode)
        for attempt in range(1, _ATTEMPTS):
            if len(images) == len(episode.query_images) + len(episode.support_images) and seen.isdisjoint(images):
                break
            episode = source.episode(seed, "score", "episodes", repeat, task, attempt)
            images = _contents(episode)
        episodes.append(episode)
        seen |= images
    return tuple(episodes)


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
    genotype: Genotype, source: EpisodeSource, config: NetworkConfig, variant: Literal["scoring", "training"], ways: int
) -> FewShotNetwork:
    # Modules draw their first weights from torch's global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        return build(genotype, config, in_channels=source.images.image_shape[0], ways=ways, variant=variant)


def _pass(
    network: FewShotNetwork, source: EpisodeSource, config: ScoringConfig, seed: int, repeat: int, device: str
) -> Kernels:
    """Initialise ``network`` in place for one repeat and return the kernels on that repeat's episodes."""
    episodes = scoring_episodes(source, config, seed, repeat)
    images = batch([episode.query_images for episode in episodes], [episode.support_images for episode in episodes])
    initialise(network, seed, "score", "init", repeat)
    return tangent_and_last_layer_kernel(network.to(device), images.to(device), parameters=config.parameters)


def _in_blocks(kernels: Kernels, config: ScoringConfig) -> CandidateKernels:
    ways, shots, queries = config.episode.ways, config.episode.shots, config.episode.queries
    ntk, nngp = (
        None if kernel is None else split(kernel, tasks=config.tasks, queries=ways * queries, supports=ways * shots)
        for kernel in (kernels.ntk, kernels.nngp)
    )
    assert ntk is not None
    inner = {"maml": ntk, "anil": nngp}[config.algorithm]
    if inner is None:
        raise ValueError("ANIL adapts the last layer, but the network has no attribute 'head'")
    meta = meta_ntk(ntk, inner, time=config.time, ridge=config.ridge, precision=SINGLE_PRECISION)
    return CandidateKernels(ntk, nngp, meta)


def kernel_scores(names: Sequence[str], kernels: Kernels, config: ScoringConfig) -> dict[str, Score]:
    """Return the scores of one draw; a draw whose pass overflowed fails all of them, with the first reason met."""
    overflowed = int((~kernels.outputs.isfinite()).sum())
    if overflowed:
        reason = f"the logits of {overflowed} of {len(kernels.outputs)} images are not finite"
        return {name: Score(None, Outcome.NON_FINITE, reason) for name in names}
    broken = int((~kernels.ntk.diagonal().isfinite()).sum())
    if broken:
        reason = f"the gradients of {broken} of {len(kernels.outputs)} images are not finite"
        return {name: Score(None, Outcome.NON_FINITE, reason) for name in names}
    blocks = _in_blocks(kernels, config)
    return {name: _OF_KERNELS[name](blocks) for name in names}
