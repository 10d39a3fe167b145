"""Scoring candidates: a genotype, a source of episodes and a seed enter, one record per score leaves.

What is drawn for a repeat, weights and episodes, is shared by all candidates: differences between candidates are
differences between architectures.

Axes: tq query images of all tasks · m patches of p x p pixels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from metantk_core.architectures import (
    Architecture,
    OwnModule,
    build_network,
    costs_of,
    part_of,
    running,
    seeded,
)
from metantk_core.candidates import Genotype, NamedNetwork
from metantk_core.episodes import EpisodeSource, NormalisedEpisode
from metantk_core.kernels import KernelBlocks
from metantk_core.networks import (
    BatchNormTreatment,
    NetworkConfig,
    build_thin,
    initialise,
)
from metantk_core.scores.activations import Reuse
from metantk_core.scores.config import ScoringConfig, inner_loop
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.episodes import check_source, regions_images, scoring_episodes
from metantk_core.scores.evidence import Draw, Evidence, NoScore
from metantk_core.scores.functions import COUNTS, evaluated, sources
from metantk_core.scores.record import Score, ScoreRecord, device_kind
from metantk_core.scores.user_model import check_model, check_network, counts_of, refuse_scores_of_spaces

_KEPT_BYTES = 2**30  # of weights of initialised networks
_REUSED_BYTES = 2**28  # of activations of the networks that linear regions are counted on
_T = TypeVar("_T")
_KEPT_EPISODES = 64  # batches; one of 30 images of 32 x 32 has 0.4 MB


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


def score_draw(names: Sequence[str], draw: Draw) -> tuple[dict[str, Score], dict[str, float]]:
    """Return scores of one draw, and the wall time of each; scores that share a computation share its time.

    Args:
        names: Scores that are not counted.
        draw: Network, images and labels.
    """
    origin = sources(names)
    evidence = Evidence(draw, set(origin.values()))
    scores: dict[str, Score] = {}
    together: defaultdict[str, list[str]] = defaultdict(list)
    spent: defaultdict[str, float] = defaultdict(float)
    for name in names:
        start = perf_counter()
        scores[name] = evaluated(name, evidence)
        of_pass = origin[name] in ("codes", "patterns") and "kernels" in origin.values()
        group = name if origin[name] == "draw" else "kernels" if of_pass else origin[name]
        together[group].append(name)
        spent[group] += perf_counter() - start
    return scores, {name: spent[group] / len(sharing) for group, sharing in together.items() for name in sharing}


def score_candidate(
    architecture: Genotype | NamedNetwork,
    source: EpisodeSource,
    config: ScoringConfig,
    seed: int,
    *,
    training_network: NetworkConfig | None = None,
    device: str = "cpu",
) -> tuple[ScoreRecord, ...]:
    """Return one record per score of ``config.scores``, in that order.

    Args:
        architecture: A candidate, a supernet, or a named network.
        source: Episodes of the size ``config.episode``, as images of ``config.image_size``.
        config: What to compute.
        seed: Seed of the run. Values depend on nothing else (on one kind of machine and number of threads).
        training_network: Width and depth of the network that would be trained, whose parameters and operations are
            counted, at the resolution of the source's own images; as ``config.network`` if none is given.
        device: Where the networks run, as torch spells it.

    Raises:
        InputError: A score can't be had for a named network, or its images are too small.
        ValueError: The source's episodes are not those of ``config``.
    """
    scorer = Scorer(architecture, source, config, seed, training_network=training_network, device=device)
    return scorer.score(architecture, range(config.num_inits))


def score_model(
    model: str | OwnModule,
    source: EpisodeSource,
    config: ScoringConfig,
    seed: int,
    *,
    device: str = "cpu",
    batch_norm: BatchNormTreatment | None = None,
    on_network: Callable[[nn.Module], None] | None = None,
) -> tuple[ScoreRecord, ...]:
    """Return one record per score of ``config.scores`` for a person's own network, at its own initialisation.

    The factory is called once for every draw, with torch's global generator seeded for that draw (and put back
    afterwards), so that the model initialises itself as it was written to. Parameters and multiply-accumulates are
    counted on the same network, at the scoring resolution. What the module prints goes to standard error.

    Args:
        model: The module, or its address ``package.module:factory``.
        source: Episodes of the size ``config.episode``, as images of ``config.image_size``.
        config: What to compute; ``config.network`` plays no part.
        seed: Seed of the run.
        device: Where the network runs, as torch spells it.
        batch_norm: What is done about batch normalisation that mixes images; nothing means that it is refused. A module
            that is given as such has it already.
        on_network: Sees the network of the first draw as it is scored, once it has been checked; its
            :func:`metantk_core.kernels.parameter_names` are the parameters that count.

    Raises:
        InputError: The address leads to no factory, or what the factory makes can't be scored.
        ValueError: The source's episodes are not those of ``config``.
    """
    if isinstance(model, str):
        model = check_model(model, config, batch_norm=batch_norm)
    scorer = Scorer(model, source, config, seed, device=device, on_network=on_network)
    return scorer.score(model, range(config.num_inits))


class Scorer:
    """Scores architectures: the parts of a supernet, which share its weights in each draw, or another network.

    A candidate's network is the supernet's without some operations: that gives the same numbers as a network built and
    initialised for it alone, because initial weights depend on their names. What is kept between candidates (networks,
    episodes) is bounded; beyond that it is made again.

    Args:
        whole: Holds all operations of all candidates that will be scored; or the named network or module that will be.
        source: As for :func:`score_candidate`, like the other arguments.
        config: What to compute.
        seed: Seed of the run.
        training_network: Width and depth of the network that would be trained.
        device: Where the networks run.
        on_network: Sees the first network of a person's module, once it has been checked.

    Raises:
        InputError: A score can't be had for what is no candidate of a space.
        ValueError: The source's episodes are not those of ``config``.
    """

    def __init__(
        self,
        whole: Architecture,
        source: EpisodeSource,
        config: ScoringConfig,
        seed: int,
        *,
        training_network: NetworkConfig | None = None,
        device: str = "cpu",
        on_network: Callable[[nn.Module], None] | None = None,
    ) -> None:
        check_source(source, config)
        if not isinstance(whole, Genotype):
            refuse_scores_of_spaces(config, str(whole))
        self._whole, self._source, self._config = whole, source, config
        self._seed, self._device = seed, device
        self._training_network = training_network or config.network
        self._drawn = [name for name in config.scores if SCORES[name].cost != "none"]
        self._counted = [name for name in config.scores if name in COUNTS]
        self._on_network = on_network
        self._checked: set[OwnModule] = set()
        self._networks: dict[int, _Networks] = {}
        self._spare: _Networks | None = None  # initialised again for the next draw that has weights of its own
        self._episodes: dict[int, tuple[NormalisedEpisode, ...]] = {}
        self._regions_images: dict[tuple[str, int], tuple[Tensor, ...]] = {}
        self._reuse = Reuse(_REUSED_BYTES)

    def _counts(self, architecture: Genotype | NamedNetwork, names: Sequence[str]) -> dict[str, int]:
        costs = costs_of(
            architecture,
            self._training_network,
            image_shape=self._source.images.image_shape,
            ways=self._config.episode.ways,
        )
        return {name: COUNTS[name](costs) for name in names}

    def score(
        self,
        architecture: Architecture,
        repeats: range,
        stream: str = "",
        weights: str = "",
        names: Sequence[str] | None = None,
    ) -> tuple[ScoreRecord, ...]:
        """Return one record per score, in the order of the configuration.

        Args:
            architecture: The supernet or a part of it; or what else ``whole`` is.
            repeats: Numbers of the draws. Each is a pure function of configuration, architecture, seed, number and
                names.
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
        counts, counting = dict[str, int](), 0.0
        if not drawn:  # a person's network has to be there to be counted
            repeats = range(1 if isinstance(architecture, OwnModule) and counted else 0)
        for repeat in repeats:
            start = perf_counter()
            with self._drawn_for(architecture, repeat, stream, weights) as draw:
                drawing = (perf_counter() - start) / len(drawn or counted)
                if isinstance(architecture, OwnModule) and counted and not counts:
                    counts, counting = _timed(partial(counts_of, architecture, draw, counted))
                scores, spent = score_draw(drawn, draw)
            for name in drawn:
                draws[name].append(scores[name])
            for name in drawn or counted:
                seconds[name] += drawing + spent.get(name, 0.0)
        if counted and not isinstance(architecture, OwnModule):
            counts, counting = _timed(partial(self._counts, architecture, counted))
        for name, number in counts.items():
            draws[name].append(Score(float(number)))
            seconds[name] += counting / len(counts)
        text, device = str(architecture), device_kind(self._device)
        return tuple(
            ScoreRecord(
                architecture.space,
                text,
                name,
                tuple(draws[name]),
                self._seed,
                seconds[name],
                stream,
                weights,
                "" if name in COUNTS else device,
            )
            for name in wanted
        )

    def draw(self, architecture: Architecture, repeat: int, stream: str = "", weights: str = "") -> Draw:
        """Return the networks, images and labels of one draw of an architecture; arguments as for :meth:`score`.

        A draw is the caller's: it holds its networks as long as it is held, and the scorer initialises them no more.
        """
        own = tuple(filter(None, (stream, weights)))
        with seeded(architecture, self._seed, "score", "init", *own, repeat):
            return self._draw_of(self._networks_of(architecture, repeat, own), architecture, repeat, stream, own)

    @contextmanager
    def _drawn_for(self, architecture: Architecture, repeat: int, stream: str, weights: str) -> Iterator[Draw]:
        """Give a draw that nobody holds afterwards, so that its networks can serve another one."""
        own = tuple(filter(None, (stream, weights)))
        with seeded(architecture, self._seed, "score", "init", *own, repeat):
            networks = self._networks_of(architecture, repeat, own)
            try:
                draw = self._draw_of(networks, architecture, repeat, stream, own)
                with running(architecture, "fails while its scores are computed"):
                    yield draw
            finally:
                if own and not isinstance(architecture, OwnModule):
                    self._spare = networks

    def _draw_of(
        self, networks: "_Networks", architecture: Architecture, repeat: int, stream: str, own: tuple[str, ...]
    ) -> Draw:
        part = networks.part_of(architecture)
        draw = Draw(
            part.network,
            self._episodes_of(repeat, stream),
            self._config,
            self._seed,
            repeat,
            self._device,
            self._source.image_shape,
            part.regions,
            stream,
            # Weights that only one candidate has leave nothing to reuse.
            Reuse(0) if own else self._reuse,
            partial(self._regions_images_of, repeat, stream),
        )
        if isinstance(architecture, OwnModule) and architecture not in self._checked:
            check_network(architecture, draw)
            self._checked.add(architecture)
            if self._on_network is not None:
                with running(architecture, "fails when it is asked for its modules or parameters"):
                    self._on_network(draw.network)
        return draw

    def _regions_images_of(self, repeat: int, stream: str) -> tuple[Float[Tensor, "m 1 p p"], ...]:
        """Return the images that linear regions are counted on, in batches; the same tensors for all candidates."""
        key = stream, repeat
        if key not in self._regions_images:
            if len(self._regions_images) >= _KEPT_EPISODES:
                self._regions_images.clear()
            images = regions_images(self._source, self._config.linear_regions, self._seed, repeat, stream)
            self._regions_images[key] = tuple(batch.to(self._device) for batch in images)
        return self._regions_images[key]

    def _networks_of(self, architecture: Architecture, repeat: int, own: tuple[str, ...]) -> "_Networks":
        if isinstance(architecture, OwnModule):
            return _Networks(self._build(architecture, self._config.network), None)
        return self._own_networks(architecture, repeat, own) if own else self._shared_networks(repeat)

    def _shared_networks(self, repeat: int) -> "_Networks":
        if repeat not in self._networks:
            made = self._make()
            kept = sum(parameter.nbytes for networks in (made, *self._networks.values()) for parameter in networks)
            if kept > _KEPT_BYTES:
                self._networks.clear()
            self._initialise(made, repeat, ())
            self._networks[repeat] = made
        return self._networks[repeat]

    def _own_networks(self, architecture: Architecture, repeat: int, own: tuple[str, ...]) -> "_Networks":
        """Return networks with weights for this architecture alone: spare ones, which are then used up, or new ones."""
        networks, self._spare = self._spare or self._make(), None
        self._initialise(networks.part_of(architecture), repeat, own)
        return networks

    def _make(self) -> "_Networks":
        network = self._build(self._whole, self._config.network)
        if "linear_regions" not in self._drawn:
            return _Networks(network, None)
        assert isinstance(self._whole, Genotype)
        return _Networks(network, self._regions_network(self._whole))

    def _build(self, architecture: Architecture, config: NetworkConfig, in_channels: int | None = None) -> nn.Module:
        channels, height, width = self._source.image_shape
        return build_network(
            architecture,
            config,
            image_shape=(channels if in_channels is None else in_channels, height, width),
            ways=self._config.episode.ways,
            variant="scoring",
            device=self._device,
        )

    def _regions_network(self, supernet: Genotype) -> nn.Module:
        settings = self._config.linear_regions
        if settings.definition == "published":
            with torch.random.fork_rng(devices=[]):
                return build_thin(supernet, ways=self._config.episode.ways).to(self._device)
        narrow = NetworkConfig(channels=settings.channels, cells=self._config.network.cells)
        return self._build(supernet, narrow, in_channels=1)

    def _initialise(self, networks: "_Networks", repeat: int, own: tuple[str, ...]) -> None:
        scheme = self._config.initialisation
        for network in networks.both:
            if self._config.redraw == "head":
                initialise(network, self._seed, "score", "init", scheme=scheme)
                initialise(network.get_submodule("head"), self._seed, "score", "head", *own, repeat, scheme=scheme)
            else:
                initialise(network, self._seed, "score", "init", *own, repeat, scheme=scheme)

    def _episodes_of(self, repeat: int, stream: str) -> tuple[NormalisedEpisode, ...]:
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

    network: nn.Module
    regions: nn.Module | None

    @property
    def both(self) -> tuple[nn.Module, ...]:
        return (self.network,) if self.regions is None else (self.network, self.regions)

    def part_of(self, architecture: Architecture) -> "_Networks":
        regions = None if self.regions is None else part_of(self.regions, architecture)
        return _Networks(part_of(self.network, architecture), regions)

    def __iter__(self) -> Iterator[nn.Parameter]:
        return (parameter for network in self.both for parameter in network.parameters())


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    start = perf_counter()
    return work(), perf_counter() - start


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
    loop = inner_loop("metantk_cond", config)
    draw = Scorer(genotype, source, kernels_alone, seed, device=device).draw(genotype, repeat)
    evidence = Evidence(draw)
    try:
        kernels = evidence.kernels(loop, smallest=True)
    except NoScore:
        kernels = evidence.unchecked
    return CandidateKernels(kernels.ntk, kernels.nngp, kernels.meta(loop))
