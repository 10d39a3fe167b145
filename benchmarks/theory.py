"""Theory against training as networks widen: two plots and their numbers.

    python -m benchmarks.theory --quick            # under a minute, writes nothing but what it is told to
    python -m benchmarks.theory --json theory.json --plots docs/images

What is measured is in :mod:`benchmarks.wide_networks`. Equal seeds give equal numbers and equal files.

Axes: widths × seeds.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from benchmarks.wide_networks import distances, kernel_distances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = dict[int, tuple[float, ...]]  # for each width, one relative error a seed

INK, MUTED, GRID = "#1c2127", "#5d6672", "#dfe3e8"
COLOURS = ("#0072b2", "#d55e00", "#00906a")  # Okabe and Ito's: told apart with any colour vision


def measure(widths: Sequence[int], deep_widths: Sequence[int], seeds: int) -> dict[str, Curve]:
    """Return the relative errors of every comparison, by name, width and seed.

    Args:
        widths: Widths of the meta-trained networks with one hidden layer.
        deep_widths: Widths of the networks with two hidden layers, whose kernels alone are compared.
        seeds: Number of networks of each width.
    """
    found = []
    for width in widths:
        found.append(distances(width, range(seeds)))
        print(f"width {width}: {found[-1]}", flush=True)
    return {
        "trained, own kernel": {d.width: d.to_own_kernel for d in found},
        "trained, infinite width": {d.width: d.to_infinite_width for d in found},
        "kernel, 1 hidden layer": {d.width: d.of_kernel for d in found},
        "kernel, 2 hidden layers": {width: kernel_distances(width, range(seeds), depth=2) for width in deep_widths},
    }


def draw(curves: Mapping[str, Curve], directory: Path) -> None:
    """Write ``theory-training.svg`` and ``theory-kernel.svg``.

    Args:
        curves: What :func:`measure` gave.
        directory: Where the files go.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    plots = {
        "theory-training": (
            "MAML-trained networks approach the kernel's prediction",
            "relative error of the meta-test output",
            {
                "trained, infinite width": "against the kernel of infinite width",
                "trained, own kernel": "against the network's own kernel",
            },
        ),
        "theory-kernel": (
            "The kernel at initialisation approaches its closed form",
            "relative error of the NTK",
            {"kernel, 2 hidden layers": "two hidden layers", "kernel, 1 hidden layer": "one hidden layer"},
        ),
    }
    directory.mkdir(parents=True, exist_ok=True)
    style: dict[Any, Any] = {"svg.hashsalt": "metantk", "svg.fonttype": "path", "font.size": 10, "text.color": INK}
    with mpl.rc_context(style):
        for name, (title, label, shown) in plots.items():
            figure = Figure(figsize=(6.4, 4.0), layout="constrained")
            axes = figure.subplots()
            for colour, (key, legend) in zip(COLOURS, shown.items(), strict=False):
                _curve(axes, curves[key], colour, legend)
            _guide(axes, [curves[key] for key in shown])
            _finish(axes, title, label, sorted({width for key in shown for width in curves[key]}))
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def _curve(axes: "Axes", curve: Curve, colour: str, legend: str) -> None:
    means = [geometric_mean(values) for values in curve.values()]
    axes.plot(list(curve), means, color=colour, linewidth=2, marker="o", markersize=6, label=legend, zorder=3)
    points = [(width, value) for width, values in curve.items() for value in values]
    axes.scatter(*zip(*points, strict=True), s=14, color=colour, alpha=0.35, linewidths=0, zorder=2)


def _guide(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Draw 1/√width below everything, from three quarters of the lowest mean of the first width."""
    widths = sorted({width for curve in curves for width in curve})
    lowest = min(geometric_mean(values) * (width / widths[0]) ** 0.5 for c in curves for width, values in c.items())
    line = [0.6 * lowest * (widths[0] / width) ** 0.5 for width in widths]
    axes.plot(widths, line, color=MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    middle = len(widths) // 2
    axes.annotate(
        r"$1/\sqrt{\mathrm{width}}$",
        (widths[middle], line[middle]),
        xytext=(-6, -6),
        textcoords="offset points",
        ha="right",
        va="top",
        color=MUTED,
    )


def _finish(axes: "Axes", title: str, label: str, widths: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log", xlabel="width of the hidden layers", ylabel=label)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10)
    axes.set_xticks(widths, [f"{width:,}" for width in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    ticks = [t for t in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low <= t <= high]
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(frameon=False, loc="upper right")


def main() -> None:
    """Measure, print the geometric means, and write numbers and plots where asked to."""
    parser = argparse.ArgumentParser(description="Distances between meta-trained wide networks and the theory.")
    parser.add_argument("--quick", action="store_true", help="three widths, two networks each: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every relative error there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write the two plots there")
    arguments = parser.parse_args()
    if arguments.quick:
        curves = measure((256, 1024, 4096), (256, 1024), 2)
    else:
        curves = measure((256, 1024, 4096, 16384), (256, 1024, 4096), 6)
    for name, curve in curves.items():
        print(f"{name:24}", "  ".join(f"{width:>6,}: {geometric_mean(values):.4f}" for width, values in curve.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(curves, indent=1) + "\n")
    if arguments.plots:
        draw(curves, arguments.plots)


if __name__ == "__main__":
    main()
