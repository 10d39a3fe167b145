"""The NAS-Bench-201 search space: indices, random numbers or ``|op~0|+|op~0|op~1|+…`` enter, genotypes leave.

One cell type of 4 nodes, an edge from every node to every later one, one of 5 operations on each: 5^6 = 15,625 cells
(Dong & Yang, "NAS-Bench-201", ICLR 2020).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from metantk_core.candidates import isomorphism
from metantk_core.candidates.genotype import Edge, Genotype
from metantk_core.candidates.genotype_text import shown
from metantk_core.candidates.isomorphism import Equivalence
from metantk_core.candidates.space import shard
from metantk_core.errors import InputError

CELL = "cell"
#: Edges as (source, target), in the order of the text form; the first is the most significant digit of an index.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True)
class NASBench201:
    """The space of NAS-Bench-201 cells.

    Candidates are numbered in base 5: index 0 has ``none`` on all edges, index 1 differs from it on the edge from node
    2 to node 3. (The published table numbers them in a random order of its own.) A supernet's text form lists the
    operations of an edge with commas in between, as in ``|none,skip_connect~0|``.
    """

    name: str = "nasbench201"
    operations: tuple[str, ...] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The one type of cells."""
        return (CELL,)

    @property
    def degree(self) -> None:
        """Candidates have all edges of the supernet."""

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.operations) ** len(EDGES)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Genotype]:
        return (self.genotype(index) for index in range(self.size))

    def genotype(self, index: int) -> Genotype:
        """Return the candidate with a number from 0 to 15,624.

        Raises:
            InputError: If there is no such candidate.
        """
        if not 0 <= index < self.size:
            raise InputError(
                f"Cells of {self.name} are numbered from 0 to {self.size - 1}, but number {index} was asked for."
            )
        operations = []
        for _ in EDGES:
            index, digit = divmod(index, len(self.operations))
            operations.append((self.operations[digit],))
        return self._genotype(operations[::-1])

    def shard(self, index: int, count: int) -> tuple[Genotype, ...]:
        """Return one of ``count`` parts of the space (see ``candidates.shard``)."""
        return tuple(self.genotype(number) for number in shard(range(self.size), index, count))

    def canonical(self, genotype: Genotype, same: Equivalence = "benchmark") -> str:
        """Return the text of a candidate's class, which equals that of another if and only if they are the same.

        Args:
            genotype: A candidate.
            same: ``"benchmark"``: as the benchmark counts 6,466 (``isomorphism.expansion``); ``"function"``: as
                functions are equal, which gives 5,044 (``isomorphism.function``).

        Raises:
            ValueError: If the genotype is not a candidate.
        """
        if not genotype.decided:
            raise ValueError(f"only a candidate has a class, but an edge of {genotype} has several operations")
        return _canonical(tuple(edge.operations[0] for edge in genotype.edges), same)

    def representatives(self, same: Equivalence = "benchmark") -> tuple[Genotype, ...]:
        """Return the first candidate of every class of candidates that are the same.

        The benchmark's 6,466 classes are the number that the field knows. They are no classes of equal functions: 430
        of them put networks together that share weights differently (as ``conv(x) + conv(x)`` by one convolution or by
        two), so that 280 functions have no representative; and networks that only differ in a branch without input are
        kept apart. For scores of outputs and gradients at initialisation take ``"function"``: its 5,044 representatives
        stand for all 15,625 candidates.

        Args:
            same: See ``canonical``.
        """
        return tuple(self.genotype(index) for index in _first(self.operations, same))

    def supernet(self) -> Genotype:
        """Return the genotype with all 5 operations on all 6 edges."""
        return self._genotype([self.operations] * len(EDGES))

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Return one of the 15,625 candidates; all are equally likely."""
        return self.genotype(int(rng.integers(self.size)))

    def neighbours(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return the 24 candidates that have another operation on one of the 6 edges.

        Raises:
            ValueError: If the genotype is not a candidate.
        """
        if not genotype.decided:
            raise ValueError(f"only a candidate has neighbours, but an edge of {genotype} has several operations")
        return tuple(
            genotype.with_edge(edge, _edge(edge.source, edge.target, (name,)))
            for edge in genotype.edges
            for name in self.operations
            if name != edge.operations[0]
        )

    def mutate(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """Return one of the neighbours of a candidate; all are equally likely.

        Raises:
            ValueError: If the genotype is not a candidate.
        """
        choices = self.neighbours(genotype)
        return choices[rng.integers(len(choices))]

    def prunings(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return the genotypes with one operation less, on an edge that keeps another; none for a candidate."""
        return tuple(genotype.without(edge, name) for edge, name in genotype.operations() if len(edge.operations) > 1)

    def parse(self, text: str) -> Genotype:
        """Return the genotype of a text such as ``|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|``.

        Raises:
            InputError: If the text is malformed or names an unknown operation.
        """
        groups = text.strip().split("+")
        if len(groups) != 3:
            raise self._malformed(text, f"it has {len(groups)} groups joined by '+' instead of 3")
        operations = []
        for target, group in enumerate(groups, start=1):
            if len(group) < 2 or group[0] != "|" or group[-1] != "|":
                raise self._malformed(text, f"group {target} does not start and end with '|'")
            entries = group[1:-1].split("|")
            if len(entries) != target:
                raise self._malformed(text, f"group {target} has {len(entries)} entries instead of {target}")
            for source, entry in enumerate(entries):
                names, tilde, number = entry.rpartition("~")
                if not tilde or number != str(source):
                    raise self._malformed(text, f"'{shown(entry, 60)}' in group {target} does not end with '~{source}'")
                operations.append(self._known(names.split(",")))
        return self._genotype(operations)

    def format(self, genotype: Genotype) -> str:
        """Return the text form of a genotype."""
        operations = {(edge.source, edge.target): edge.operations for edge in genotype.edges}
        return "+".join(
            "|" + "|".join(f"{','.join(operations[source, target])}~{source}" for source in range(target)) + "|"
            for target in (1, 2, 3)
        )

    def _genotype(self, operations: list[tuple[str, ...]]) -> Genotype:
        pairs = zip(EDGES, operations, strict=True)
        return Genotype(self, tuple(_edge(source, target, names) for (source, target), names in pairs))

    def _known(self, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self.operations:
                known = ", ".join(self.operations)
                raise InputError(f"'{shown(name, 60)}' is no operation of {self.name}; its operations are {known}.")
        if len(set(names)) < len(names):
            raise InputError(f"An edge of a {self.name} cell names an operation twice: {', '.join(names)}.")
        return tuple(names)

    def _malformed(self, text: str, what: str) -> InputError:
        return InputError(
            f"Expected a {self.name} cell such as |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, but in '{shown(text)}' {what}."
        )


@cache
def _edge(source: int, target: int, operations: tuple[str, ...]) -> Edge:
    # All cells of the space are made of the same few edges.
    return Edge(CELL, source, target, operations)


def _canonical(operations: tuple[str, ...], same: Equivalence) -> str:
    form = isomorphism.expansion if same == "benchmark" else isomorphism.function
    return form(dict(zip(EDGES, operations, strict=True)))


@cache
def _first(names: tuple[str, ...], same: Equivalence) -> tuple[int, ...]:
    """Return the numbers of the first cells of each class, in ascending order."""
    first: dict[str, int] = {}
    for index, operations in enumerate(itertools.product(names, repeat=len(EDGES))):
        first.setdefault(_canonical(operations, same), index)
    return tuple(first.values())


NASBENCH201 = NASBench201()
