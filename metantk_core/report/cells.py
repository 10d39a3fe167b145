"""Cells as graphs: a genotype enters, a drawing of each of its cells leaves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from metantk_core.candidates import Edge, Genotype, space_named
from metantk_core.report.charts import LIGHT, new_figure, to_png, to_svg

NONE = "none"
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "none": "none",
        "skip_connect": "skip",
        "nor_conv_1x1": "conv 1×1",
        "nor_conv_3x3": "conv 3×3",
        "avg_pool_3x3": "avg pool 3×3",
        "max_pool_3x3": "max pool 3×3",
        "sep_conv_3x3": "sep conv 3×3",
        "sep_conv_5x5": "sep conv 5×5",
        "dil_conv_3x3": "dil conv 3×3",
        "dil_conv_5x5": "dil conv 5×5",
        "conv_1x5_5x1": "conv 1×5 5×1",
        "conv_3x3": "conv 3×3",
    }
)
_Point = tuple[float, float]
# The figure's width in inches, and a node's radius in the drawing's units.
_WIDTH, _RADIUS = 4.7, 0.26
# Bends of NAS-Bench-201's edges: neighbours straight, longer ones as arcs on both sides.
_BENDS_201: Mapping[tuple[int, int], float] = MappingProxyType({(0, 2): -0.52, (1, 3): 0.52, (0, 3): -0.74})


@dataclass(frozen=True)
class Layout:
    """Where the nodes of a cell are drawn.

    Attributes:
        places: Centres of the nodes, in the drawing's units, in which a node has the radius 0.26.
        names: Nodes that have a name, such as the cell's inputs.
        bends: How far edges bend, by source and target, relative to their length; straight if left out.
        inputs: Nodes that hold the cell's inputs.
        outputs: Nodes that make the cell's output.
        concatenated: Centre of the concatenation of the outputs, if there is one.
        extent: Left, right, bottom and top end of the drawing.
    """

    places: Mapping[int, tuple[float, float]]
    names: Mapping[int, str]
    bends: Mapping[tuple[int, int], float]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    concatenated: tuple[float, float] | None
    extent: tuple[float, float, float, float]

    @property
    def width(self) -> float:
        """Width of the drawing in its units."""
        return self.extent[1] - self.extent[0]

    @property
    def height(self) -> float:
        """Height of the drawing in its units."""
        return self.extent[3] - self.extent[2]

    def curve(self, source: int, target: int) -> tuple[_Point, _Point, _Point]:
        """Return start, control point and end of an edge's quadratic curve."""
        return _path(self.places[source], self.places[target], self.bends.get((source, target), 0.0))


def layout(space: str, edges: Sequence[Edge]) -> Layout:
    """Return where the nodes are that some edges of one cell type connect.

    Args:
        space: Name of the search space.
        edges: At least those into the last node.
    """
    last = max(edge.target for edge in edges)
    if len(space_named(space).cell_types) == 1:
        places: dict[int, _Point] = {node: (1.75 * node, 0.0) for node in range(last + 1)}
        extent = (-0.5, 1.75 * last + 0.5, -1.25, 2.25)
        return Layout(places, {0: "in", last: "out"}, _BENDS_201, (0,), (last,), None, extent)
    # Two inputs on the left, nodes in a zigzag, the concatenation on the right.
    places = {0: (0.0, 1.3), 1: (0.0, -1.3)}
    places |= {node: (1.9 + 1.75 * (node - 2), 1.05 * (1 if node % 2 == 0 else -1)) for node in range(2, last + 1)}
    end = (1.9 + 1.75 * (last - 1), 0.0)
    bends = {(edge.source, edge.target): _bend(places, edge) for edge in edges}
    names = {0: "c(k−2)", 1: "c(k−1)"}
    return Layout(places, names, bends, (0, 1), tuple(range(2, last + 1)), end, (-0.5, end[0] + 0.55, -2.0, 2.0))


def cell_names(genotype: Genotype) -> tuple[str, ...]:
    """Return the names of a genotype's cell types, in their order."""
    return tuple(dict.fromkeys(edge.cell for edge in genotype.edges))


def draw_cell_svg(genotype: Genotype, cell: str | None = None, *, name: str = "cell", standalone: bool = True) -> str:
    """Return the drawing of one cell type as SVG.

    Edges without an operation, or from which nothing reaches the output, are dashed and faint.

    Args:
        genotype: What to draw; an edge with several operations shows their number.
        cell: Name of the cell type; the first one if None.
        name: Prefix of the identifiers inside, different for each drawing of a page.
        standalone: Bring the colours of both schemes along, for use outside of the report.
    """
    cell = cell or cell_names(genotype)[0]
    parts = "; ".join(f"{edge.source} to {edge.target}: {_label(edge)}" for edge in _edges(genotype, cell))
    return to_svg(_draw(genotype, cell), name, f"Cell {cell} of {genotype.space}. {parts}.", standalone=standalone)


def draw_cell_png(genotype: Genotype, cell: str | None = None, *, dpi: int = 200) -> bytes:
    """Return the drawing of one cell type as PNG on a white ground; arguments as for ``draw_cell_svg``."""
    return to_png(_draw(genotype, cell or cell_names(genotype)[0]), dpi=dpi)


def live_edges(edges: Sequence[Edge], *, inputs: Sequence[int], outputs: Sequence[int]) -> frozenset[Edge]:
    """Return the edges that carry something from an input to an output of the cell.

    Args:
        edges: The edges of one cell type; one whose only operation is ``none`` carries nothing.
        inputs: Nodes that hold the cell's inputs.
        outputs: Nodes that make the cell's output.
    """
    carrying = [edge for edge in edges if set(edge.operations) != {NONE}]
    fed, used = set(inputs), set(outputs)
    for edge in sorted(carrying, key=lambda e: e.source):
        if edge.source in fed:
            fed.add(edge.target)
    for edge in sorted(carrying, key=lambda e: -e.target):
        if edge.target in used:
            used.add(edge.source)
    return frozenset(edge for edge in carrying if edge.source in fed and edge.target in used)


def operation_name(operation: str) -> str:
    """Return an operation's name for people."""
    return _NAMES.get(operation, operation)


def family_colour(operation: str) -> str:
    """Return the colour of an operation's family: convolutions, pooling, and what has no weights."""
    if "conv" in operation:
        return LIGHT["best"]
    return LIGHT["random"] if "pool" in operation else LIGHT["muted"]


def _edges(genotype: Genotype, cell: str) -> tuple[Edge, ...]:
    return tuple(edge for edge in genotype.edges if edge.cell == cell)


def _label(edge: Edge) -> str:
    if len(edge.operations) == 1:
        return operation_name(edge.operations[0])
    return f"{len(edge.operations)} operations"


def _draw(genotype: Genotype, cell: str) -> Figure:
    edges = _edges(genotype, cell)
    found = layout(genotype.space, edges)
    places, names, bends, concatenated, outputs = (
        found.places,
        found.names,
        found.bends,
        found.concatenated,
        found.outputs,
    )
    left, right, bottom, top = found.extent
    alive = live_edges(edges, inputs=found.inputs, outputs=outputs)
    # The axes fill the figure, so that one unit is a known number of points and labels know their extent.
    figure = new_figure(_WIDTH, _WIDTH * (top - bottom) / (right - left))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    unit = 72 * _WIDTH / (right - left)
    node_gap, size = _RADIUS * unit, 7.4
    taken = [(x, y, 2 * _RADIUS, 2 * _RADIUS) for x, y in places.values()]
    if concatenated:
        taken.append((*concatenated, 1.0, 0.5))
    for edge in sorted(edges, key=lambda e: e.target - e.source):
        ends = places[edge.source], places[edge.target]
        bend = bends.get((edge.source, edge.target), 0.0)
        lives = edge in alive
        colour = _operation_colour(edge) if lives else LIGHT["others"]
        axes.add_patch(
            FancyArrowPatch(
                *ends,
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=8,
                shrinkA=node_gap,
                shrinkB=node_gap + 0.5,
                color=colour,
                linewidth=1.6 if lives else 0.9,
                linestyle="-" if lives else (0, (3, 2.5)),
                alpha=1.0 if lives else 0.6,
            )
        )
        # Where an edge is hardly longer than its label, two short lines leave the arrow visible.
        label = _label(edge)
        spare = math.dist(*ends) * unit - 2 * node_gap - 0.6 * size * len(label) - 7
        lines = label.rsplit(" ", 1) if spare < 20 and not abs(bend) > 0.3 else [label]
        width = (0.6 * size * max(map(len, lines)) + 7) / unit
        depth = (1.2 * size * len(lines) + 4) / unit
        x, y = _free_place(*_path(*ends, bend), width, depth, taken)
        taken.append((x, y, width, depth))
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - depth / 2),
                width,
                depth,
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=LIGHT["surface"],
                edgecolor=colour,
                linewidth=1.0 if lives else 0.6,
                zorder=3,
            )
        )
        for row, line in enumerate(lines):
            height = y + (len(lines) / 2 - row - 0.5) * 1.15 * size / unit - 0.36 * size / unit
            axes.text(
                x,
                height,
                line,
                ha="center",
                va="baseline",
                fontsize=size,
                color=LIGHT["ink"] if lives else LIGHT["muted"],
                zorder=4,
            )
    if concatenated:
        for node in outputs:
            axes.add_patch(
                FancyArrowPatch(
                    places[node],
                    concatenated,
                    connectionstyle="arc3,rad=0",
                    arrowstyle="-|>",
                    mutation_scale=7,
                    shrinkA=node_gap,
                    shrinkB=0.4 * unit,
                    color=LIGHT["others"],
                    linewidth=1.0,
                    linestyle=(0, (1, 1.5)),
                )
            )
        x, y = concatenated
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.46, y - 0.22),
                0.92,
                0.44,
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=LIGHT["surface"],
                edgecolor=LIGHT["muted"],
                linewidth=1.1,
                zorder=3,
            )
        )
        axes.text(
            x, y - 0.36 * size / unit, "concat", ha="center", va="baseline", fontsize=size, color=LIGHT["ink"], zorder=4
        )
    for node, (x, y) in places.items():
        named = node in names
        fill, ink = (LIGHT["ink"], LIGHT["surface"]) if named else (LIGHT["surface"], LIGHT["ink"])
        axes.add_patch(Circle((x, y), _RADIUS, facecolor=fill, edgecolor=LIGHT["ink"], linewidth=1.2, zorder=5))
        axes.text(x, y - 0.36 * 8.5 / unit, str(node), ha="center", va="baseline", fontsize=8.5, color=ink, zorder=6)
        if named:
            height = y + _RADIUS + 4 / unit if y > 0 else y - _RADIUS - 10 / unit
            axes.text(x, height, names[node], ha="center", va="baseline", fontsize=size, color=LIGHT["muted"])
    return figure


def _path(start: _Point, end: _Point, bend: float) -> tuple[_Point, _Point, _Point]:
    """Return start, control point and end of the quadratic curve that matplotlib's ``arc3`` draws."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return start, ((start[0] + end[0]) / 2 + bend * dy, (start[1] + end[1]) / 2 - bend * dx), end


def _bend(places: Mapping[int, _Point], edge: Edge) -> float:
    """Return a bend that leads an edge of a DARTS cell around the nodes between its ends."""
    (_, y0), (_, y1) = places[edge.source], places[edge.target]
    span = edge.target - max(edge.source, 1)
    if abs(y0 - y1) < 0.5:  # both on one side: outside around what lies between
        return (-0.22 if y0 > 0 else 0.22) if span > 1 else 0.0
    return (0.14 if y1 > y0 else -0.14) if span > 1 else 0.0


def _free_place(
    start: _Point,
    control: _Point,
    end: _Point,
    width: float,
    depth: float,
    taken: Sequence[tuple[float, float, float, float]],
) -> _Point:
    """Return the place on a curve, near its middle if possible, where a label covers the least of what is there."""
    best, least = (0.0, 0.0), math.inf
    for step in range(41):
        t = 0.5 + (0.32 * (step // 2 + step % 2) / 20) * (1 if step % 2 else -1)
        before, at, after = (1 - t) ** 2, 2 * t * (1 - t), t**2
        x = before * start[0] + at * control[0] + after * end[0]
        y = before * start[1] + at * control[1] + after * end[1]
        covered = sum(
            max(0.0, (width + w) / 2 + 0.05 - abs(x - cx)) * max(0.0, (depth + d) / 2 + 0.05 - abs(y - cy))
            for cx, cy, w, d in taken
        )
        if covered < least - 1e-9:
            best, least = (x, y), covered
    return best


def _operation_colour(edge: Edge) -> str:
    """Return the colour of an edge's only operation, or of several choices."""
    return family_colour(edge.operations[0]) if len(edge.operations) == 1 else LIGHT["muted"]
