"""What every search space can do, and how a list of candidates is cut into shards."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from metantk_core.candidates.genotype import Family, Genotype
from metantk_core.candidates.isomorphism import Equivalence
from metantk_core.errors import InputError

T = TypeVar("T")


@runtime_checkable
class SearchSpace(Family, Protocol):
    """A family of candidate networks."""

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that an edge can have."""
        ...

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The types of cells that a genotype has edges of, in alphabetical order."""
        ...

    @property
    def size(self) -> int:
        """The number of candidates."""
        ...

    @property
    def degree(self) -> int | None:
        """The number of edges that enter each node of a candidate, or none if all edges of the supernet stay."""
        ...

    def supernet(self) -> Genotype:
        """Return the genotype with all edges and all operations."""
        ...

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Return a candidate; all candidates are equally likely."""
        ...

    def neighbours(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return every candidate that differs from a candidate by one small change; never the candidate itself.

        Being a neighbour is mutual, and every candidate can be reached from every other one by such changes.

        Raises:
            ValueError: If the genotype is not a candidate.
        """
        ...

    def mutate(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """Return a neighbour of a candidate; all its neighbours are equally likely (for Real et al., AAAI 2019).

        Raises:
            ValueError: If the genotype is not a candidate.
        """
        ...

    def prunings(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return every genotype that one step of pruning can make of ``genotype``; none for a candidate."""
        ...

    def parse(self, text: str) -> Genotype:
        """Return the genotype that a text describes; ``format`` gives such texts.

        Raises:
            InputError: If the text is malformed or names an unknown operation.
        """
        ...


@runtime_checkable
class FiniteSearchSpace(SearchSpace, Protocol):
    """A search space small enough to be walked through from end to end."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Genotype]: ...

    def genotype(self, index: int) -> Genotype:
        """Return the candidate with a number from 0 to ``len(space) - 1``."""
        ...

    def representatives(self, same: Equivalence = "benchmark") -> tuple[Genotype, ...]:
        """Return one candidate of every class of candidates that are the same: the first one of each, in order.

        Args:
            same: What makes two candidates the same: the published count, or the function that they compute.
        """
        ...

    def shard(self, index: int, count: int) -> tuple[Genotype, ...]:
        """Return one of ``count`` parts of the space, which have no candidate in common and together are the space."""
        ...


def shard(items: Sequence[T], index: int, count: int) -> tuple[T, ...]:
    """Return one of ``count`` parts of a list: every item is in exactly one, and sizes differ by 1 at most.

    Args:
        items: The whole list.
        index: Number of the part, from 0.
        count: Number of parts; parts beyond the number of items are empty.

    Raises:
        InputError: If there is no such part.
    """
    if count < 1 or not 0 <= index < count:
        raise InputError(
            f"Shards are numbered from 0 to their number less one, but shard {index} of {count} was asked for."
        )
    return tuple(items[index::count])
