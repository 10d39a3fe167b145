"""Costs of all candidates from one look at the supernet: a space and a configuration enter, a table leaves.

Parameters and multiply-accumulates add up: every operation on every edge contributes the same, whatever is beside it.
So does the time of an image, approximately, once the operations have been timed on a machine.
"""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from metantk_core.candidates import Genotype, space_named
from metantk_core.candidates.costs import Costs
from metantk_core.errors import InputError, first_complaint
from metantk_core.networks.build import FewShotNetwork, build
from metantk_core.networks.cells import Nodes
from metantk_core.networks.config import NetworkConfig
from metantk_core.networks.counts import count_parameters, macs_by_module
from metantk_core.networks.initialisation import initialise
from metantk_core.seeding import generator, numpy_generator

Part = tuple[str, int, int, str]
"""Cell type, source, target and operation: all modules that a network has of it, in all cells of the type."""

What = Literal["params", "macs", "latency"]

_REFERENCES = 5


@dataclass(frozen=True)
class LatencyTable:
    """Seconds that the parts of a network took for one image on one machine; a JSON round trip keeps every digit.

    Attributes:
        space: Name of the search space.
        config: Width and depth.
        image_shape: Channels, height and width of the image.
        ways: Number of classes of an episode.
        device: What it was measured on, for people.
        repeats: Number of measurements of which each number is the median.
        constant: Seconds of all that is no part.
        parts: Cell type, source, target, operation, and its seconds in all cells of the type together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    space: str
    config: NetworkConfig
    image_shape: tuple[int, int, int]
    ways: int
    device: str
    repeats: int
    constant: float
    parts: tuple[tuple[str, int, int, str, float], ...]

    def __post_init__(self) -> None:
        for seconds in (self.constant, *(row[-1] for row in self.parts)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"seconds are at least 0 and finite, got {seconds}")
        if len({row[:-1] for row in self.parts}) < len(self.parts):
            raise ValueError("a part has two times")

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps(_TABLE.dump_python(self, mode="json"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "LatencyTable":
        """Return the table that a text holds.

        Raises:
            InputError: The text is broken or is no latency table.
        """
        try:
            return _TABLE.validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"Expected a latency table in JSON, but {first_complaint(error)}: measure it again."
            ) from error


_TABLE = TypeAdapter(LatencyTable)


@dataclass(frozen=True)
class CostTable:
    """What every operation on every edge costs, for networks of one width, depth and image size that are trained.

    Attributes:
        space: Name of the search space.
        config: Width and depth.
        image_shape: Channels, height and width of the image.
        ways: Number of classes of an episode.
        constant: Costs of all that every candidate has: stem, preprocessing, reductions, head.
        parts: Costs by cell type, source, target and operation, in all cells of the type together.
    """

    space: str
    config: NetworkConfig
    image_shape: tuple[int, int, int]
    ways: int
    constant: Costs
    parts: Mapping[Part, Costs]

    def of(self, genotype: Genotype) -> Costs:
        """Return the costs of the network of a candidate or supernet.

        Parameters and multiply-accumulates are exactly what ``count_parameters`` and ``count_macs`` find in the
        training variant. The latency is an estimate: a sum of parts that were timed one by one.

        Args:
            genotype: A genotype of this table's space.

        Raises:
            ValueError: If it is of another space.
        """
        self._check(genotype)
        parts = [self.parts[edge.cell, edge.source, edge.target, name] for edge, name in genotype.operations()]
        return _total([self.constant, *parts])

    def cheapest(self, genotype: Genotype, what: What) -> int | float:
        """Return the least that a candidate can cost which is left in a supernet.

        The candidate has one operation on each edge, and in the DARTS family 2 edges into each node; it is one of
        those that pruning can still reach. Each cost is minimised for itself: the candidate with the fewest parameters
        need not be the one with the fewest multiply-accumulates.

        Args:
            genotype: A supernet or candidate of this table's space.
            what: The cost.

        Raises:
            ValueError: If the genotype is of another space, or there is no latency in the table.
        """
        self._check(genotype)
        degree = space_named(self.space).degree
        least: dict[tuple[str, int], list[float]] = {}
        for edge in genotype.edges:
            names = edge.operations
            costs = [_cost(self.parts[edge.cell, edge.source, edge.target, name], what) for name in names]
            least.setdefault((edge.cell, edge.target), []).append(min(costs))
        kept = [cost for costs in least.values() for cost in sorted(costs)[:degree]]
        return _cost(self.constant, what) + (math.fsum(kept) if what == "latency" else sum(kept))

    def with_latency(self, table: LatencyTable) -> "CostTable":
        """Return this table with estimated latencies; the same measurements always give the same estimates.

        Args:
            table: What ``measure_latency`` found, maybe on another machine.

        Raises:
            InputError: If it was measured for other networks or images.
        """
        for name in ("space", "config", "image_shape", "ways"):
            if getattr(table, name) != getattr(self, name):
                raise InputError(
                    f"The latency table was measured with {name} = {getattr(table, name)}, but the networks have "
                    f"{getattr(self, name)}: measure it again."
                )
        seconds = {row[:-1]: row[-1] for row in table.parts}
        if set(seconds) != set(self.parts):
            raise InputError(f"The latency table lacks operations of {self.space} or has others: measure it again.")
        return replace(
            self,
            constant=replace(self.constant, latency=table.constant),
            parts=MappingProxyType({part: replace(costs, latency=seconds[part]) for part, costs in self.parts.items()}),
        )

    def _check(self, genotype: Genotype) -> None:
        if genotype.space != self.space:
            raise ValueError(f"a cost table of {self.space} does not know the space {genotype.space}")


@lru_cache(maxsize=16)  # a second or two, and every shard and round of a search asks for the same one
def cost_table(space: str, config: NetworkConfig, *, image_shape: tuple[int, int, int], ways: int) -> CostTable:
    """Return the costs of all networks of a space, in their training variant; counted on its supernet once.

    Args:
        space: Name of the search space.
        config: Width and depth.
        image_shape: Channels, height and width of the images.
        ways: Number of classes of an episode.

    Raises:
        InputError: If there is no such space.
    """
    network = _shapes(space_named(space).supernet(), config, image_shape, ways)
    macs = macs_by_module(network, image_shape)
    parts: dict[Part, Costs] = {}
    for part, name, module in _modules(network):
        costs = Costs(count_parameters(module), macs.get(name, 0))
        parts[part] = _total([parts[part], costs]) if part in parts else costs
    # A cell type that a shallow network does not have costs nothing.
    for edge, name in space_named(space).supernet().operations():
        parts.setdefault((edge.cell, edge.source, edge.target, name), Costs(0, 0))
    known = _total(list(parts.values()))
    constant = Costs(count_parameters(network) - known.params, macs[""] - known.macs)
    return CostTable(space, config, image_shape, ways, constant, MappingProxyType(parts))


@torch.no_grad()
def measure_latency(
    space: str,
    config: NetworkConfig,
    *,
    image_shape: tuple[int, int, int],
    ways: int,
    repeats: int = 20,
    device: str = "cpu",
) -> LatencyTable:
    """Time the parts of a space's training networks, one image at a time, with what runs on the machine right now.

    Each operation is timed by itself, on the activations that it gets in the supernet, in ``eval()`` mode; operations
    of the same shapes are timed once. What the parts leave unexplained of five random candidates, in the median and
    at least 0, is the constant. Sums of these numbers estimate a candidate's latency: they know nothing of caches or of
    operations that run side by side.

    Args:
        space: Name of the search space.
        config: Width and depth.
        image_shape: Channels, height and width of the images.
        ways: Number of classes of an episode.
        repeats: Measurements of each operation and candidate, at least 1; the median counts.
        device: Where networks run, such as ``cuda``.

    Raises:
        InputError: If there is no such space.
        ValueError: If nothing is to be measured.
    """
    if repeats < 1:
        raise ValueError(f"a median needs at least one measurement, got {repeats}")
    supernet = space_named(space).supernet()
    network = _runnable(_shapes(supernet, config, image_shape, ways), image_shape, device)
    modules = list(_modules(network))
    by_name = {name: module for _, name, module in modules}
    given: dict[str, Tensor] = {}

    def remember(name: str) -> RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            given[name] = args[0]

        return by_name[name].register_forward_pre_hook(hook)

    hooks = [remember(name) for name in by_name]
    network(_images(1, image_shape, device))
    for hook in hooks:
        hook.remove()

    kinds: dict[tuple, Callable[[], Tensor]] = {}
    kind_of: dict[str, tuple] = {}
    for part, name, module in modules:
        x = given[name]
        # Two operations of one name differ by channels, size and stride, which these three show.
        kind = kind_of[name] = (part[-1], x.shape, module(x).shape, count_parameters(module))
        kinds.setdefault(kind, lambda module=module, x=x: module(x))
    seconds = _medians(kinds, repeats, device)
    parts = {(edge.cell, edge.source, edge.target, name): 0.0 for edge, name in supernet.operations()}
    for part, name, _ in modules:
        parts[part] += seconds[kind_of[name]]

    image = _images(1, image_shape, device)
    rest = []
    for number in range(_REFERENCES):
        candidate = space_named(space).sample(numpy_generator(0, "latency", "candidate", number))
        made = _runnable(_shapes(candidate, config, image_shape, ways), image_shape, device)
        whole = _medians({"whole": lambda made=made: made(image)}, repeats, device)["whole"]
        rest.append(
            whole - sum(parts[edge.cell, edge.source, edge.target, name] for edge, name in candidate.operations())
        )
    constant = max(0.0, statistics.median(rest))
    rows = tuple((*part, value) for part, value in parts.items())
    return LatencyTable(space, config, image_shape, ways, _device_name(device), repeats, constant, rows)


def _total(costs: list[Costs]) -> Costs:
    latencies = [cost.latency for cost in costs if cost.latency is not None]
    return Costs(
        sum(cost.params for cost in costs),
        sum(cost.macs for cost in costs),
        # Exact sums do not depend on the order.
        math.fsum(latencies) if len(latencies) == len(costs) else None,
    )


def _cost(costs: Costs, what: What) -> int | float:
    value = {"params": costs.params, "macs": costs.macs, "latency": costs.latency}[what]
    if value is None:
        raise ValueError("there is no latency in this table: add one by with_latency")
    return value


def _shapes(genotype: Genotype, config: NetworkConfig, image_shape: tuple[int, int, int], ways: int) -> FewShotNetwork:
    """Return a training network without memory for its weights, which takes nothing from a random generator."""
    with torch.device("meta"):
        return build(genotype, config, in_channels=image_shape[0], ways=ways, variant="training")


def _runnable(network: FewShotNetwork, image_shape: tuple[int, int, int], device: str) -> FewShotNetwork:
    """Return a network with weights, and with the moments of some images to normalise by, in ``eval()`` mode."""
    network = network.to_empty(device=device)
    initialise(network, 0, "latency")
    # Two images, for one pixel of one image has no moments.
    network.train()(_images(2, image_shape, device))
    return network.eval()


def _images(count: int, image_shape: tuple[int, int, int], device: str) -> Tensor:
    return torch.randn(count, *image_shape, generator=generator(0, "latency", "images")).to(device)


def _modules(network: nn.Module) -> Iterator[tuple[Part, str, nn.Module]]:
    """Yield every operation of a network: what it is part of, its name, and the module."""
    for prefix, nodes in network.named_modules():
        if not isinstance(nodes, Nodes):
            continue
        for key, choices in nodes.edges.items():
            assert isinstance(choices, nn.ModuleDict)
            source, target = map(int, key.split("-"))
            for name, module in choices.items():
                yield (nodes.cell, source, target, name), f"{prefix}.edges.{key}.{name}", module


def _medians(calls: Mapping, repeats: int, device: str) -> dict:
    """Return the median seconds of each call; all take turns, so that a busy moment of the machine hits all alike."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    measured: dict = {key: [] for key in calls}
    for turn in range(-1, repeats):
        for key, call in calls.items():
            if turn < 0:
                call()  # The first call of a shape chooses how to compute it.
            wait()
            start = time.perf_counter()
            call()
            wait()
            if turn >= 0:
                measured[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in measured.items()}


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
