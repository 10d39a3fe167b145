"""Search spaces of the DARTS family: random numbers or ``Genotype(normal=[…], …)`` enter, genotypes leave.

Two cell types, normal and reduce; nodes 0 and 1 are the outputs of the two cells before, every later node takes edges
from all nodes before it, and the cell's output concatenates all later nodes. In a candidate each of them has 2 incoming
edges with one operation each.
"""

import ast
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from metantk_core.candidates.genotype import Edge, Genotype
from metantk_core.errors import InputError

CELLS = ("normal", "reduce")
#: Nodes of a cell that are outputs of the cells before.
INPUTS = 2
#: Incoming edges that a node of a candidate has.
DEGREE = 2


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
        return Genotype(self.name, tuple(edges))

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Return a candidate; all are equally likely, for every node has all pairs of sources and operations alike."""
        edges = []
        for cell in CELLS:
            for target in self.targets:
                for source in rng.choice(target, size=DEGREE, replace=False):
                    name = self.operations[rng.integers(len(self.operations))]
                    edges.append(Edge(cell, int(source), target, (name,)))
        return Genotype(self.name, tuple(edges))

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
        """Return the genotype of a text such as ``str(genotype)`` gives.

        That is ``Genotype(normal=[('op', 0), …], normal_concat=range(2, 5), reduce=[…], reduce_concat=…)``, where a
        concat may also be a list. The text is taken apart, never run.

        Raises:
            InputError: If the text is malformed or names an unknown operation.
        """
        fields = self._fields(text)
        edges = []
        for cell in CELLS:
            if fields[f"{cell}_concat"] != list(self.targets):
                raise self._malformed(
                    text, f"{cell}_concat does not list all nodes from {INPUTS} to {self.targets[-1]}"
                )
            edges += self._edges(text, cell, fields[cell])
        return Genotype(self.name, tuple(edges))

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

    def _fields(self, text: str) -> dict[str, list]:
        try:
            call = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._malformed(text, "brackets, quotes or commas do not match up") from None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
            raise self._malformed(text, "'Genotype(' is not what it starts with")
        names = [keyword.arg for keyword in call.keywords]
        wanted = [part for cell in CELLS for part in (cell, f"{cell}_concat")]
        if call.args or sorted(map(str, names)) != sorted(wanted):
            raise self._malformed(text, f"the parts are not exactly {', '.join(wanted)}, each by name")
        return {str(keyword.arg): self._list(text, str(keyword.arg), keyword.value) for keyword in call.keywords}

    def _list(self, text: str, name: str, node: ast.expr) -> list:
        try:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
                limits = [ast.literal_eval(argument) for argument in node.args]
                # A cell has few nodes; a range of a billion is a mistake, not a list to make.
                value = list(range(*limits)[: self.targets[-1] + 1])
            else:
                value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise self._malformed(text, f"{name} is not a list of plain values") from None
        if not isinstance(value, list | tuple):
            raise self._malformed(text, f"{name} is not a list")
        return list(value)

    def _edges(self, text: str, cell: str, entries: list) -> list[Edge]:
        for entry in entries:
            if not isinstance(entry, tuple | list) or len(entry) not in (2, 3) or len(entry) != len(entries[0]):
                raise self._malformed(text, f"an entry of {cell} is not a pair ('operation', source)")
        if not entries or (len(entries[0]) == 2 and len(entries) != DEGREE * self.nodes):
            raise self._malformed(
                text, f"{cell} has {len(entries)} entries instead of {DEGREE} for each of {self.nodes} nodes"
            )
        edges = []
        for number, entry in enumerate(entries):
            target = entry[2] if len(entry) == 3 else INPUTS + number // DEGREE
            if type(target) is not int or target not in self.targets:
                raise self._malformed(
                    text, f"an edge of {cell} enters {target!r}, which is no node from {INPUTS} to {self.targets[-1]}"
                )
            source = entry[1]
            if type(source) is not int or not 0 <= source < target:
                raise self._malformed(
                    text, f"node {target} of {cell} takes an edge from {source!r}, which is no node before it"
                )
            operations = (entry[0],) if len(entry) == 2 else entry[0]
            edges.append(Edge(cell, source, target, self._known(text, cell, operations)))
        joined = [(edge.source, edge.target) for edge in edges]
        for source, target in joined:
            if joined.count((source, target)) > 1:
                raise self._malformed(text, f"node {target} of {cell} takes two edges from node {source}")
        for target in self.targets:
            if [end for _, end in joined].count(target) < DEGREE:
                raise self._malformed(text, f"fewer than {DEGREE} edges enter node {target} of {cell}")
        return edges

    def _known(self, text: str, cell: str, operations: object) -> tuple[str, ...]:
        if not isinstance(operations, tuple | list) or not operations:
            raise self._malformed(text, f"an entry of {cell} has no operations")
        for name in operations:
            if name not in self.operations:
                raise InputError(
                    f"{name!r} is no operation of {self.name}; its operations are {', '.join(self.operations)}."
                )
        if len(set(operations)) < len(operations):
            raise self._malformed(text, f"an entry of {cell} names an operation twice")
        return tuple(operations)

    def _malformed(self, text: str, what: str) -> InputError:
        shown = text if len(text) <= 300 else text[:297] + "..."
        first, concat = self.operations[0], f"range({INPUTS}, {INPUTS + self.nodes})"
        return InputError(
            f"Expected a {self.name} genotype such as Genotype(normal=[('{first}', 0), ('{first}', 1), ...], "
            f"normal_concat={concat}, reduce=[...], reduce_concat={concat}), but in '{shown}' {what}."
        )


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
