"""Search spaces of the DARTS family: random numbers or ``Genotype(normal=[…], …)`` enter, genotypes leave.

Two cell types, normal and reduce; nodes 0 and 1 are the outputs of the two cells before, every later node takes edges
from all nodes before it, and the cell's output concatenates all later nodes. In a candidate each of them has 2 incoming
edges with one operation each.
"""

from dataclasses import dataclass, replace
from math import comb
from types import MappingProxyType

import numpy as np

from metantk_core.candidates.genotype import Edge, Genotype
from metantk_core.candidates.genotype_text import GenotypeTextError, Value, parts_of, shown
from metantk_core.errors import InputError

CELLS = ("normal", "reduce")
#: Nodes of a cell that are outputs of the cells before.
INPUTS = 2
#: Incoming edges that a node of a candidate has.
DEGREE = 2
#: How the published few-shot search writes pools with the normalisation that they have here in any case.
OTHER_NAMES = MappingProxyType({"avg_pool_3x3BN": "avg_pool_3x3", "max_pool_3x3BN": "max_pool_3x3"})


@dataclass(frozen=True)
class DartsFamily:
    """A search space of the DARTS family.

    The text form of candidates is the field's, with the two edges of each node in a row. That form can't say which
    node an edge of a supernet enters, so there every entry is ``((operation, …), source, target)``.

    Attributes:
        name: Name of the space.
        operations: Operations that an edge can have.
        nodes: Number of nodes of a cell that are not inputs.
    """

    name: str
    operations: tuple[str, ...]
    nodes: int

    @property
    def targets(self) -> range:
        """The nodes that edges enter, which the cell's output concatenates."""
        return range(INPUTS, INPUTS + self.nodes)

    @property
    def cell_types(self) -> tuple[str, ...]:
        """Normal cells and those that reduce."""
        return CELLS

    @property
    def degree(self) -> int:
        """Number of edges that enter each node of a candidate."""
        return DEGREE

    @property
    def size(self) -> int:
        """Number of candidates."""
        cell = 1
        for target in self.targets:
            cell *= comb(target, DEGREE) * len(self.operations) ** DEGREE
        return cell ** len(CELLS)

    def supernet(self) -> Genotype:
        """Return the genotype with all operations on all edges."""
        edges = [
            Edge(cell, source, target, self.operations)
            for cell in CELLS
            for target in self.targets
            for source in range(target)
        ]
        return Genotype(self, tuple(edges))

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Return a candidate; all are equally likely, for every node has all pairs of sources and operations alike."""
        edges = []
        for cell in CELLS:
            for target in self.targets:
                for source in rng.choice(target, size=DEGREE, replace=False):
                    name = self.operations[rng.integers(len(self.operations))]
                    edges.append(Edge(cell, int(source), target, (name,)))
        return Genotype(self, tuple(edges))

    def neighbours(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return the candidates that differ in one edge: by its operation, or by its source.

        An edge that changes its operation stays where it is; one that changes its source keeps its operation and the
        node it enters, and leaves any node before that one which the other edge into it does not leave. A candidate of
        DARTS-fewshot has 72 + 12 neighbours, one of DARTS 96 + 24.

        Raises:
            ValueError: If the genotype is not a candidate: decided, with 2 edges into each node.
        """
        return tuple(genotype.with_edge(before, after) for before, after in self._changes(genotype))

    def mutate(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """Return one of the neighbours of a candidate; all are equally likely.

        Raises:
            ValueError: If the genotype is not a candidate, or the space has no other.
        """
        changes = self._changes(genotype)
        if not changes:
            raise ValueError(f"{genotype} has no neighbour: {self.name} has one operation and one pair of sources")
        return genotype.with_edge(*changes[rng.integers(len(changes))])

    def prunings(self, genotype: Genotype) -> tuple[Genotype, ...]:
        """Return what one step of the pruning search [Wang et al. 2022, Algorithm 1] can make of a genotype.

        While an edge has several operations, those are all genotypes with one operation less on such an edge; then all
        genotypes with one edge less into a node that has more than 2; none for a candidate.
        """
        if not genotype.decided:
            return tuple(
                genotype.without(edge, name) for edge, name in genotype.operations() if len(edge.operations) > 1
            )
        places = [(edge.cell, edge.target) for edge in genotype.edges]
        return tuple(
            genotype.without(edge, name)
            for edge, name in genotype.operations()
            if places.count((edge.cell, edge.target)) > DEGREE
        )

    def parse(self, text: str) -> Genotype:
        """Return the genotype of a text in any form of the field.

        ``str(genotype)`` gives ``Genotype(normal=[('op', 0), …], normal_concat=range(2, 5), reduce=[…],
        reduce_concat=…)``. Published codes also write one nested list for each node, lists in the place of ranges, a
        name before it, and ``max_pool_3x3BN`` (see docs/spaces.md). The text is taken apart, never run.

        Raises:
            InputError: If the text is malformed or names an unknown operation.
        """
        try:
            parts = parts_of(text)
        except GenotypeTextError as error:
            raise self._malformed(text, str(error)) from None
        wanted = [part for cell in CELLS for part in (cell, f"{cell}_concat")]
        if sorted(parts) != sorted(wanted):
            raise self._malformed(text, f"the parts are not exactly {', '.join(wanted)}, each by name")
        edges = []
        for cell in CELLS:
            if parts[f"{cell}_concat"] != list(self.targets):
                raise self._malformed(
                    text, f"{cell}_concat does not list all nodes from {INPUTS} to {self.targets[-1]}"
                )
            edges += self._edges(text, cell, parts[cell])
        return Genotype(self, tuple(edges))

    def format(self, genotype: Genotype) -> str:
        """Return the text form of a genotype."""
        places = [(edge.cell, edge.target) for edge in genotype.edges]
        short = genotype.decided and all(
            places.count((cell, node)) == DEGREE for cell in CELLS for node in self.targets
        )
        concat = f"range({INPUTS}, {INPUTS + self.nodes})"
        parts = []
        for cell in CELLS:
            entries = [
                repr((edge.operations[0], edge.source) if short else (edge.operations, edge.source, edge.target))
                for edge in genotype.cell(cell)
            ]
            parts.append(f"{cell}=[{', '.join(entries)}], {cell}_concat={concat}")
        return f"Genotype({', '.join(parts)})"

    def _changes(self, genotype: Genotype) -> list[tuple[Edge, Edge]]:
        places = [(edge.cell, edge.target) for edge in genotype.edges]
        wanted = [(cell, target) for cell in CELLS for target in self.targets for _ in range(DEGREE)]
        if not genotype.decided or places != wanted:
            raise ValueError(f"only a candidate with {DEGREE} edges into each node has neighbours, not {genotype}")
        taken = {(edge.cell, edge.target, edge.source) for edge in genotype.edges}
        changes: list[tuple[Edge, Edge]] = []
        for edge in genotype.edges:
            changes += [
                (edge, replace(edge, operations=(name,))) for name in self.operations if name != edge.operations[0]
            ]
            changes += [
                (edge, replace(edge, source=source))
                for source in range(edge.target)
                if (edge.cell, edge.target, source) not in taken
            ]
        return changes

    def _edges(self, text: str, cell: str, part: Value) -> list[Edge]:
        entries = self._entries(text, cell, part)
        if not entries or (len(entries[0]) == 2 and len(entries) != DEGREE * self.nodes):
            raise self._malformed(
                text, f"{cell} has {len(entries)} entries instead of {DEGREE} for each of {self.nodes} nodes"
            )
        edges = []
        for number, entry in enumerate(entries):
            target = entry[2] if len(entry) == 3 else INPUTS + number // DEGREE
            if not isinstance(target, int) or target not in self.targets:
                raise self._malformed(
                    text,
                    f"an edge of {cell} enters {_repr(target)}, which is no node from {INPUTS} to {self.targets[-1]}",
                )
            source = entry[1]
            if not isinstance(source, int) or not 0 <= source < target:
                raise self._malformed(
                    text, f"node {target} of {cell} takes an edge from {_repr(source)}, which is no node before it"
                )
            operations = [entry[0]] if len(entry) == 2 else entry[0]
            edges.append(Edge(cell, source, target, self._known(text, cell, operations)))
        joined = [(edge.source, edge.target) for edge in edges]
        for source, target in joined:
            if joined.count((source, target)) > 1:
                raise self._malformed(text, f"node {target} of {cell} takes two edges from node {source}")
        for target in self.targets:
            if [end for _, end in joined].count(target) < DEGREE:
                raise self._malformed(text, f"fewer than {DEGREE} edges enter node {target} of {cell}")
        return edges

    def _entries(self, text: str, cell: str, part: Value) -> list[list[Value]]:
        """Return the entries of a cell in a row, all of one length; the text may hold a list of them for each node."""
        if not isinstance(part, list):
            raise self._malformed(text, f"{cell} is not a list")
        entries = part
        # An entry begins with the name of its operation, or ends with two numbers; a node has nothing but lists.
        if any(isinstance(node, list) and all(isinstance(entry, list) for entry in node) for node in part):
            if len(part) != self.nodes:
                raise self._malformed(text, f"{cell} has {len(part)} nodes instead of {self.nodes}")
            entries = []
            for node, into in zip(self.targets, part, strict=True):
                if not isinstance(into, list) or not all(isinstance(entry, list) for entry in into):
                    raise self._malformed(text, f"node {node} of {cell} is not a list of pairs, as others are")
                if len(into) != DEGREE:
                    raise self._malformed(text, f"node {node} of {cell} has {len(into)} entries instead of {DEGREE}")
                entries += into
        lengths = (2, 3) if entries is part else (2,)
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, list) or len(entry) not in lengths or len(entry) != len(entries[0]):
                raise self._malformed(text, f"entry {number} of {cell} is not a pair ('operation', source)")
        return entries

    def _known(self, text: str, cell: str, operations: Value) -> tuple[str, ...]:
        if not isinstance(operations, list) or not operations:
            raise self._malformed(text, f"an entry of {cell} has no operations")
        known = []
        for given in operations:
            name = OTHER_NAMES.get(given, given) if isinstance(given, str) else given
            if not isinstance(name, str) or name not in self.operations:
                raise InputError(
                    f"{_repr(given)} is no operation of {self.name}; its operations are {', '.join(self.operations)}."
                )
            known.append(name)
        if len(set(known)) < len(known):
            raise self._malformed(text, f"an entry of {cell} names an operation twice")
        return tuple(known)

    def _malformed(self, text: str, what: str) -> InputError:
        first, concat = self.operations[0], f"range({INPUTS}, {INPUTS + self.nodes})"
        return InputError(
            f"Expected a {self.name} genotype such as Genotype(normal=[('{first}', 0), ('{first}', 1), ...], "
            f"normal_concat={concat}, reduce=[...], reduce_concat={concat}), but in '{shown(text, 300)}' {what}."
        )


def _repr(value: Value) -> str:
    return shown(repr(value), 60)


#: Elsken et al., "Meta-Learning of Neural Architectures for Few-Shot Learning", CVPR 2020, without its ``none``.
DARTS_FEWSHOT = DartsFamily(
    name="darts_fewshot",
    operations=(
        "skip_connect",
        "sep_conv_3x3",
        "dil_conv_3x3",
        "avg_pool_3x3",
        "max_pool_3x3",
        "conv_1x5_5x1",
        "conv_3x3",
    ),
    nodes=3,
)

#: Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, without its ``none``.
DARTS = DartsFamily(
    name="darts",
    operations=(
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "avg_pool_3x3",
        "max_pool_3x3",
    ),
    nodes=4,
)
