"""A cell that thins out: what a pruning round starts from and what it leaves enter, a small drawing leaves."""

from collections.abc import Sequence

from matplotlib.patches import Circle, PathPatch
from matplotlib.path import Path

from metantk_core.candidates import Edge, Genotype
from metantk_core.report.cells import Layout, family_colour, layout, operation_name
from metantk_core.report.charts import LIGHT, new_figure, to_svg

# Width of the figure in inches; in points the distance of strands, the width of a bundle, and room for it at the edge.
_WIDTH, _GAP, _BUNDLE, _MARGIN = 2.9, 2.1, 14.0, 8.0
_RADIUS = 0.26


def draw_round(whole: Genotype, before: Genotype, after: Genotype | None, cell: str, *, name: str, title: str) -> str:
    """Return one cell type in one round as SVG: an edge is a bundle of strands, one for each operation it still has.

    Strands that the round removes are dashed; a strand has the same place in all rounds.

    Args:
        whole: The supernet before the first round, which says where strands are.
        before: What the round starts from.
        after: What it leaves; none draws ``before`` alone.
        cell: Name of the cell type.
        name: Prefix of the identifiers inside, different for each drawing of a page.
        title: The round for people, for those who hear the drawing instead of seeing it.
    """
    edges = tuple(edge for edge in whole.edges if edge.cell == cell)
    found = layout(whole.space, edges)
    figure = new_figure(_WIDTH, _WIDTH * found.height / found.width + 2 * _MARGIN / 72)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    unit = 72 * _WIDTH / found.width
    left, right, bottom, top = found.extent
    axes.set_xlim(left, right)
    axes.set_ylim(bottom - _MARGIN / unit, top + _MARGIN / unit)
    gone = set(removed(before, after, cell)) if after else set()
    there = {(edge.source, edge.target, operation) for edge, operation in before.operations() if edge.cell == cell}
    for edge in edges:
        gap = min(_GAP, _BUNDLE / len(edge.operations)) / unit
        for slot, operation in enumerate(edge.operations):
            strand = (edge.source, edge.target, operation)
            if strand not in there:
                continue
            leaves = strand in gone
            axes.add_patch(
                PathPatch(
                    _strand(found, edge, (slot - (len(edge.operations) - 1) / 2) * gap),
                    facecolor="none",
                    edgecolor=LIGHT["worst"] if leaves else family_colour(operation),
                    linewidth=1.3 if leaves else 0.95,
                    linestyle=(0, (2.2, 1.1)) if leaves else "-",
                    zorder=3 if leaves else 2,
                )
            )
    if found.concatenated:
        for node in found.outputs:
            axes.plot(
                *zip(found.places[node], found.concatenated, strict=True),
                color=LIGHT["others"],
                linewidth=0.9,
                linestyle=(0, (1, 1.6)),
                zorder=1,
            )
        axes.add_patch(
            Circle(found.concatenated, 0.16, facecolor=LIGHT["others"], edgecolor=LIGHT["surface"], zorder=5)
        )
    for node, (x, y) in found.places.items():
        named = node in found.names
        fill, ink = (LIGHT["ink"], LIGHT["surface"]) if named else (LIGHT["surface"], LIGHT["ink"])
        axes.add_patch(Circle((x, y), _RADIUS, facecolor=fill, edgecolor=LIGHT["ink"], linewidth=1.0, zorder=5))
        axes.text(x, y - 2.9 / unit, str(node), ha="center", va="baseline", fontsize=8, color=ink, zorder=6)
    listed = "; ".join(f"{source} to {target}: {operation_name(o)}" for source, target, o in sorted(gone))
    words = f"Removes {listed}." if gone else f"{len(there)} operations on {len(edges)} edges."
    return to_svg(figure, name, f"{title}, {cell}. {words}")


def removed(before: Genotype, after: Genotype, cell: str) -> tuple[tuple[int, int, str], ...]:
    """Return source, target and operation of all that one cell type has before a round and not after it."""
    left = {(edge.cell, edge.source, edge.target, operation) for edge, operation in after.operations()}
    return tuple(
        (edge.source, edge.target, operation)
        for edge, operation in before.operations()
        if edge.cell == cell and (edge.cell, edge.source, edge.target, operation) not in left
    )


def grouped(gone: Sequence[tuple[int, int, str]]) -> tuple[tuple[str, str], ...]:
    """Return the names of removed operations, each with the edges that lost it, as in ``("skip", "0→2, 1→2")``."""
    edges: dict[str, list[str]] = {}
    for source, target, operation in gone:
        edges.setdefault(operation_name(operation), []).append(f"{source}→{target}")
    return tuple((operation, ", ".join(places)) for operation, places in edges.items())


def _strand(found: Layout, edge: Edge, offset: float) -> Path:
    """Return an edge's curve, moved sideways by so many of the drawing's units."""
    start, control, end = found.curve(edge.source, edge.target)
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx**2 + dy**2) ** 0.5
    x, y = -dy / length * offset, dx / length * offset
    points = [(px + x, py + y) for px, py in (start, control, end)]
    return Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
