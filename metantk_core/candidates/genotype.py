"""Candidate networks as values: edges and operations enter, a hashable genotype in canonical form leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from metantk_core.seeding import digest


@dataclass(frozen=True, order=True)
class Edge:
    """One edge of a cell and the operations that are left on it, in alphabetical order.

    Attributes:
        cell: Cell type that the edge belongs to, as in ``"reduce"``.
        source: Node that the edge leaves.
        target: Node that the edge enters, after ``source``.
        operations: At least one operation, each once; more than one makes the edge a piece of a supernet.
    """

    cell: str
    source: int
    target: int
    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.source < self.target:
            raise ValueError(
                f"an edge leads from an earlier node to a later one, not from {self.source} to {self.target}"
            )
        if not self.operations or len(set(self.operations)) < len(self.operations):
            raise ValueError(f"an edge holds each of its operations once, and at least one: {self.operations}")
        object.__setattr__(self, "operations", tuple(sorted(self.operations)))


@runtime_checkable
class Family(Protocol):
    """What a genotype asks of its search space."""

    @property
    def name(self) -> str:
        """The name of the space."""
        ...

    def format(self, genotype: "Genotype") -> str:
        """Return the text form of a genotype."""
        ...


@dataclass(frozen=True, order=True)
class Genotype:
    """A network of a search space: a candidate if it is decided, otherwise a supernet.

    Edges are kept in one canonical order (cell type, target, source), so that equal networks are equal values, whatever
    the order in which somebody wrote them. Isomorphic cells, which only compute the same function, stay different.

    Attributes:
        family: The search space.
        edges: Edges of all cell types; there is one at most between two nodes of a cell type.
    """

    family: Family = field(hash=False, repr=False)
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        edges = tuple(sorted(self.edges, key=_canonical))
        places = [_canonical(edge) for edge in edges]
        if len(set(places)) < len(places):
            raise ValueError("two edges join the same nodes of one cell type")
        object.__setattr__(self, "edges", edges)

    @property
    def space(self) -> str:
        """The name of the search space."""
        return self.family.name

    @cached_property
    def key(self) -> str:
        """The digest of the canonical form: 16 hexadecimal digits."""
        return digest([self.space, [[e.cell, e.source, e.target, list(e.operations)] for e in self.edges]])

    @property
    def decided(self) -> bool:
        """Whether every edge has exactly one operation."""
        return all(len(edge.operations) == 1 for edge in self.edges)

    def cell(self, name: str) -> tuple[Edge, ...]:
        """Return the edges of one cell type, in canonical order."""
        return tuple(edge for edge in self.edges if edge.cell == name)

    def without(self, edge: Edge, operation: str) -> "Genotype":
        """Return the genotype with one operation less; an edge goes with its last operation.

        Args:
            edge: An edge of this genotype.
            operation: An operation of that edge.

        Raises:
            ValueError: If this genotype has no such edge, or the edge no such operation.
        """
        if edge not in self.edges or operation not in edge.operations:
            raise ValueError(f"there is no operation {operation} on {edge} to take away")
        left = tuple(other for other in edge.operations if other != operation)
        kept = tuple(other for other in self.edges if other != edge)
        return Genotype(self.family, (*kept, replace(edge, operations=left)) if left else kept)

    def with_edge(self, before: Edge, after: Edge) -> "Genotype":
        """Return the genotype with one edge in the place of another.

        Args:
            before: An edge of this genotype.
            after: What it becomes.

        Raises:
            ValueError: If this genotype has no such edge, or another edge joins the nodes of the new one.
        """
        if before not in self.edges:
            raise ValueError(f"there is no {before} to replace")
        return Genotype(self.family, tuple(after if edge == before else edge for edge in self.edges))

    def operations(self) -> Iterator[tuple[Edge, str]]:
        """Yield every operation with its edge, in canonical order."""
        for edge in self.edges:
            for operation in edge.operations:
                yield edge, operation

    def __str__(self) -> str:
        return self.family.format(self)


def _canonical(edge: Edge) -> tuple[str, int, int]:
    return edge.cell, edge.target, edge.source
