"""Cells: the edges of one cell type enter, a module that runs them leaves; and the bodies that stack cells.

A body takes images to feature maps. Names of parameters say where they sit, as in
``body.cells.0.nodes.edges.0-2.sep_conv_3x3.first.depthwise.weight``: cell 0, edge from node 0 to node 2.

Axes: n images, c channels (d: other channels), h height, w width.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.candidates import Edge, Genotype
from metantk_core.networks.normalisation import Normalise
from metantk_core.networks.operations import FactorisedReduction, MakeOperation, relu_conv_norm

Maps = Float[Tensor, "n _ _ _"]
Module = TypeVar("Module", bound=nn.Module)


class Nodes(nn.Module):
    """The inner part of a cell: a node is the sum over its incoming edges of the mean over the edge's operations.

    Args:
        edges: All edges of one cell type.
        inputs: Number of nodes that are given; the later ones are computed.
        channels: Number of channels of every node.
        stride: Stride of the edges that leave an input; the others have stride 1.
        operations: Makers of operations by name.
        norm: Makes the normalisation.

    Attributes:
        cell: The cell type.

    Raises:
        ValueError: If no edge enters some later node.
    """

    kept: Iterator[Tensor] | None = None  # see dropping_paths

    def __init__(
        self,
        edges: Sequence[Edge],
        *,
        inputs: int,
        channels: int,
        stride: int,
        operations: Mapping[str, MakeOperation],
        norm: Normalise,
    ) -> None:
        super().__init__()
        last = max((edge.target for edge in edges), default=inputs)
        self.cell = edges[0].cell if edges else ""
        self.sources = _sources(edges, range(inputs, last + 1))
        self.edges = nn.ModuleDict()
        for edge in edges:
            step = stride if edge.source < inputs else 1
            choices = {name: operations[name](channels, step, norm) for name in edge.operations}
            self.edges[f"{edge.source}-{edge.target}"] = nn.ModuleDict(choices)

    def restricted(self, edges: Sequence[Edge]) -> "Nodes":
        """Return the nodes with some of the edges and operations only; the modules are these, not copies.

        Args:
            edges: Edges of this cell type, each with some of the operations that it has here.

        Raises:
            ValueError: If no edge enters some computed node, or an edge or operation is not here.
        """
        kept = {f"{edge.source}-{edge.target}": edge.operations for edge in edges}
        here = dict(self.edges.items())
        part = _hollow(self)
        part.sources = _sources(edges, self.sources)
        part.edges = nn.ModuleDict()
        for name, operations in kept.items():
            choices = here.get(name)
            if not isinstance(choices, nn.ModuleDict) or not set(operations) <= set(choices):
                raise ValueError(f"the edge {name} does not have all of {', '.join(operations)}")
            part.edges[name] = nn.ModuleDict({operation: choices[operation] for operation in operations})
        return part

    def forward(self, *inputs: Maps) -> list[Maps]:
        """Return the activations of all nodes, inputs first."""
        nodes = list(inputs)
        for target, sources in self.sources.items():
            # Edges with equally many operations share one division: an edge gives the mean of its operations.
            outputs: dict[int, list[Maps]] = {}
            for source in sources:
                operations = self.edges[f"{source}-{target}"]
                assert isinstance(operations, nn.ModuleDict)
                outputs.setdefault(len(operations), []).extend(
                    self._of(operation, nodes[source]) for operation in operations.values()
                )
            means = [sum_of(terms) / count if count > 1 else sum_of(terms) for count, terms in outputs.items()]
            nodes.append(sum_of(means))
        return nodes

    def _of(self, operation: nn.Module, x: Maps) -> Maps:
        y = operation(x)
        if self.kept is None or isinstance(operation, nn.Identity):
            return y
        return y * next(self.kept)[:, None, None, None].to(y.dtype)


@contextmanager
def dropping_paths(
    network: nn.Module, share: float, images: Float[Tensor, "n c h w"], random: torch.Generator
) -> Iterator[None]:
    """Leave out operations on edges of cells at random while images pass once, for each image others.

    What stays is divided by its probability, so that the mean of a node is what it is otherwise. Edges that pass their
    input on as it is always stay (Larsson et al. 2017; as NASNet and DARTS train their cells).

    Args:
        network: Its cells are those of the search spaces; other networks are left as they are.
        share: Probability that an operation is left out for an image, below 1.
        images: What will pass.
        random: On the CPU, so that what is left out is the same on all devices.
    """
    cells = [module for module in network.modules() if isinstance(module, Nodes)]
    number = sum(
        not isinstance(operation, nn.Identity)
        for cell in cells
        for operations in cell.edges.children()
        for operation in operations.children()
    )
    if share == 0 or number == 0:
        yield
        return
    kept = (torch.rand(number, len(images), generator=random) >= share) / (1 - share)
    rows = iter(kept.to(images.device, images.dtype))
    for cell in cells:
        cell.kept = rows
    try:
        yield
    finally:
        for cell in cells:
            cell.kept = None


def _sources(edges: Sequence[Edge], targets: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Return the nodes that lead to each computed node, or refuse one that nothing leads to."""
    sources = {target: tuple(edge.source for edge in edges if edge.target == target) for target in targets}
    for target, found in sources.items():
        if not found:
            raise ValueError(f"no edge enters node {target}")
    return sources


def _hollow(module: Module) -> Module:
    """Return a module of the same class and attributes, whose table of submodules can be changed on its own."""
    twin = object.__new__(type(module))
    twin.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return twin


def sum_of(terms: Sequence[Maps]) -> Maps:
    """Return the sum of at least one term, without the leading zero that ``sum`` would start from."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class ResidualReduction(nn.Module):
    """The block between two stages of NAS-Bench-201: two 3x3 convolutions with stride 2 in all, beside a shortcut.

    The shortcut is 2x2 average pooling and a 1x1 convolution without normalisation (Dong & Yang 2020, section 2.1).

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave.
        norm: Makes the normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Normalise) -> None:
        super().__init__()
        self.first = relu_conv_norm(in_channels, out_channels, 3, norm, stride=2)
        self.second = relu_conv_norm(out_channels, out_channels, 3, norm)
        # Rounds odd sizes up, as the strided convolution beside it does.
        self.pool = nn.AvgPool2d(2, stride=2, ceil_mode=True)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return activations of half the height and width, rounded up."""
        return self.shortcut(self.pool(x)) + self.second(self.first(x))


class NASBench201Body(nn.Module):
    """Stem, 3 stages of cells with residual reductions in between, normalisation, ReLU (Dong & Yang 2020, figure 1).

    Args:
        edges: Edges of the cell.
        in_channels: Channels of the images.
        channels: Channels of the first stage; each later stage has twice as many.
        cells: Cells of each stage.
        operations: Makers of operations by name.
        norm: Makes the normalisation.
        stem: Whether there is a stem; without one the first cell sees the images, which have ``channels`` channels.

    Attributes:
        out_channels: Channels of the feature maps.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        *,
        in_channels: int,
        channels: int,
        cells: int,
        operations: Mapping[str, MakeOperation],
        norm: Normalise,
        stem: bool = True,
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, channels, norm) if stem else nn.Identity()
        self.cells = nn.ModuleList()
        self.reductions = nn.ModuleDict()
        for stage in range(3):
            if stage:
                self.reductions[str(len(self.cells))] = ResidualReduction(channels, 2 * channels, norm)
                channels *= 2
            for _ in range(cells):
                self.cells.append(Nodes(edges, inputs=1, channels=channels, stride=1, operations=operations, norm=norm))
        self.norm = norm(channels)
        self.out_channels = channels

    def restricted(self, genotype: Genotype) -> "NASBench201Body":
        """Return the body with the edges and operations of a genotype only; the modules are these, not copies."""
        body = _hollow(self)
        body.cells = nn.ModuleList(
            cell.restricted(genotype.cell("cell")) for cell in self.cells if isinstance(cell, Nodes)
        )
        return body

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the feature maps of images."""
        x = self.stem(x)
        for number, cell in enumerate(self.cells):
            if str(number) in self.reductions:
                x = self.reductions[str(number)](x)
            x = cell(x)[-1]
        return F.relu(self.norm(x))


class DartsCell(nn.Module):
    """A cell of the DARTS family: both inputs are brought to one shape, the output concatenates the computed nodes.

    Args:
        edges: Edges of the cell's type.
        before_channels: Channels of the output of the cell before the previous one.
        previous_channels: Channels of the previous cell's output.
        channels: Channels of the nodes.
        after_reduction: Whether the previous cell reduced, so that the input before it is twice as large.
        reduction: Whether edges from the inputs have stride 2.
        operations: Makers of operations by name.
        norm: Makes the normalisation.

    Attributes:
        out_channels: Channels of the output.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        *,
        before_channels: int,
        previous_channels: int,
        channels: int,
        after_reduction: bool,
        reduction: bool,
        operations: Mapping[str, MakeOperation],
        norm: Normalise,
    ) -> None:
        super().__init__()
        if after_reduction:
            self.preprocess_0 = FactorisedReduction(before_channels, channels, norm)
        else:
            self.preprocess_0 = relu_conv_norm(before_channels, channels, 1, norm)
        self.preprocess_1 = relu_conv_norm(previous_channels, channels, 1, norm)
        self.nodes = Nodes(
            edges, inputs=2, channels=channels, stride=2 if reduction else 1, operations=operations, norm=norm
        )
        self.out_channels = channels * len(self.nodes.sources)
        self.reduction = reduction

    def restricted(self, genotype: Genotype) -> "DartsCell":
        """Return the cell with the edges and operations of a genotype only; the modules are these, not copies."""
        cell = _hollow(self)
        cell.nodes = self.nodes.restricted(genotype.cell("reduce" if self.reduction else "normal"))
        return cell

    def forward(self, before: Float[Tensor, "n c0 h0 w0"], previous: Float[Tensor, "n c1 h1 w1"]) -> Maps:
        """Return the output of the cell."""
        nodes = self.nodes(self.preprocess_0(before), self.preprocess_1(previous))
        return torch.cat(nodes[2:], dim=-3)


class DartsBody(nn.Module):
    """Stem and cells of the DARTS family; reduction cells halve the size and double the channels.

    Args:
        normal: Edges of the normal cell.
        reduce: Edges of the reduction cell.
        in_channels: Channels of the images.
        channels: Channels of the stem and of the nodes of the first cells.
        cells: Number of cells, normal and reduction cells together.
        final_norm: Whether normalisation and ReLU follow the last cell.
        operations: Makers of operations by name.
        norm: Makes the normalisation.
        reductions: Numbers of the cells that reduce, counted from 0; if not given, those at ``cells // 3`` and
            ``2 * cells // 3``.
        stem: Whether there is a stem; without one the first cell sees the images, which have ``channels`` channels.

    Attributes:
        out_channels: Channels of the feature maps.
    """

    def __init__(
        self,
        normal: Sequence[Edge],
        reduce: Sequence[Edge],
        *,
        in_channels: int,
        channels: int,
        cells: int,
        final_norm: bool,
        operations: Mapping[str, MakeOperation],
        norm: Normalise,
        reductions: Collection[int] | None = None,
        stem: bool = True,
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, channels, norm) if stem else nn.Identity()
        self.cells = nn.ModuleList()
        if reductions is None:
            reductions = (cells // 3, 2 * cells // 3)
        before = previous = channels
        after_reduction = False
        for number in range(cells):
            reduction = number in reductions
            channels = 2 * channels if reduction else channels
            cell = DartsCell(
                reduce if reduction else normal,
                before_channels=before,
                previous_channels=previous,
                channels=channels,
                after_reduction=after_reduction,
                reduction=reduction,
                operations=operations,
                norm=norm,
            )
            self.cells.append(cell)
            before, previous, after_reduction = previous, cell.out_channels, reduction
        self.final = nn.Sequential(norm(previous), nn.ReLU()) if final_norm else nn.Identity()
        self.out_channels = previous

    def restricted(self, genotype: Genotype) -> "DartsBody":
        """Return the body with the edges and operations of a genotype only; the modules are these, not copies."""
        body = _hollow(self)
        body.cells = nn.ModuleList(cell.restricted(genotype) for cell in self.cells if isinstance(cell, DartsCell))
        return body

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the feature maps of images."""
        before = previous = self.stem(x)
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return self.final(previous)


def _stem(in_channels: int, channels: int, norm: Normalise) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), norm(channels))
