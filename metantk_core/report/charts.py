"""The charts of the report: plain numbers enter, SVG that follows the page's light or dark colours leaves.

matplotlib draws with the concrete colours of ``LIGHT``; in the finished SVG each becomes a CSS variable with that
colour as its fallback. So one drawing serves both schemes, and the same drawing stands alone as a file. Equal numbers
give equal bytes: no dates, fixed identifiers, and a font that comes with matplotlib for the layout.

Axis legend: n candidates, t tasks, m rows of a kernel, v validations.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from metantk_core.report.formatting import count, percent, power_of_ten

# Okabe and Ito's colours for series (told apart with any colour vision); the rest are the page's neutrals.
LIGHT: Mapping[str, str] = MappingProxyType(
    {
        "ink": "#1c2127",
        "muted": "#5d6672",
        "grid": "#dfe3e8",
        "surface": "#fefefe",
        "best": "#0072b2",
        "worst": "#d55e00",
        "random": "#00906a",
        "others": "#8e99a6",
    }
)
DARK: Mapping[str, str] = MappingProxyType(
    {
        "ink": "#e8ebef",
        "muted": "#9fa9b5",
        "grid": "#343b44",
        "surface": "#1a1e24",
        "best": "#56b4e9",
        "worst": "#f0883e",
        "random": "#2fc79b",
        "others": "#76818d",
    }
)
# Series are told apart by shape and dash as well, for print in grey.
_MARKERS = MappingProxyType({"best": "o", "worst": "s", "random": "D"})
_DASHES = MappingProxyType({"best": "-", "worst": (0, (5, 1.5)), "random": (0, (1.5, 1.2))})
_THIN: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.55}  # of trainings beside the one that is shown
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: small, selectable, read aloud; the page chooses the font
    "svg.hashsalt": "metantk",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,  # labels are data, a dollar sign in them is a dollar sign
    "axes.unicode_minus": True,
    "path.simplify": False,
}
# A vector for each point is fine up to here; a report must stay small for 15,625 candidates.
_MOST_VECTORS = 1500
_WIDTH, _HEIGHT = 4.7, 3.0
# Blue for positive, orange for negative, white for zero: told apart with any colour vision.
_DIVERGING = LinearSegmentedColormap.from_list("kernel", ["#7f3b08", "#e08214", "#fdfdfd", "#2f7ebc", "#08306b"])


@dataclass(frozen=True)
class Curve:
    """What one network learned, for ``learning_curves``: shares and losses at the iterations of its validations.

    Attributes:
        role: ``"best"``, ``"worst"``, ``"random"`` or another name.
        iterations: Iterations of the validations.
        train_loss: Mean query loss of the meta-training episodes since the validation before.
        train_accuracy: Mean query accuracy of these, 0 to 1.
        validation_accuracy: Mean query accuracy on validation episodes, 0 to 1.
        validation_half_width: Half width of its 95 % interval.
        chosen: The iteration whose weights were kept.
        unit: What training is counted in: ``iterations`` and ``chosen`` are of it.
        training: Which of several trainings of the network this is, such as ``"seed 2"``; empty for the only one.
        others: Iterations, losses and validation accuracies of the others.
    """

    role: str
    iterations: Float[np.ndarray, " v"]
    train_loss: Float[np.ndarray, " v"]
    train_accuracy: Float[np.ndarray, " v"]
    validation_accuracy: Float[np.ndarray, " v"]
    validation_half_width: Float[np.ndarray, " v"]
    chosen: int
    unit: str = "iteration"
    training: str = ""
    others: tuple[tuple[Float[np.ndarray, " o"], Float[np.ndarray, " o"], Float[np.ndarray, " o"]], ...] = ()


def new_figure(width: float = _WIDTH, height: float = _HEIGHT) -> Figure:
    """Return an empty figure, sizes in inches, that belongs to no global state."""
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def to_svg(figure: Figure, name: str, description: str, *, standalone: bool = False) -> str:
    """Return a figure as one ``<svg>`` element in the page's colours.

    Args:
        figure: What to write.
        name: Prefix of the identifiers inside, different for each figure of a page.
        description: What the chart shows, for those who hear it instead of seeing it.
        standalone: Bring the colours of both schemes along, for use outside of the report.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(
            buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Identifiers are unique within a page only if each figure has its own.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for key, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{key}, {colour})")
    svg = re.sub(
        r"('DejaVu Sans'|DejaVu Sans)(, [^;\"]*)?",
        "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif",
        svg,
    )
    style = (
        f"<style>{_scheme(':root', LIGHT)}@media (prefers-color-scheme: dark){{{_scheme(':root', DARK)}}}</style>"
        if standalone
        else ""
    )
    opening, rest = svg.split(">", 1)
    size = "" if standalone else r'(width|height)="[^"]*"\s*'
    opening = re.sub(size, "", opening) if size else opening
    label = html.escape(description, quote=True)
    return f'{opening.rstrip()} role="img" aria-label="{label}"><title>{label}</title>{style}{rest}'.strip()


def to_png(figure: Figure, *, dpi: int = 200) -> bytes:
    """Return a figure as PNG on a white ground."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, facecolor=LIGHT["surface"], metadata={"Software": None})
    return buffer.getvalue()


def new_axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    """Return the axes of a figure in the page's style, with horizontal grid lines."""
    with mpl.rc_context(_STYLE):
        axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(True, axis="y", color=LIGHT["grid"], linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT["grid"])
    axes.tick_params(colors=LIGHT["muted"], labelsize=8, length=3)
    axes.set_xlabel(x_label, color=LIGHT["ink"], fontsize=8.5)
    axes.set_ylabel("\n".join(textwrap.wrap(y_label, 34)), color=LIGHT["ink"], fontsize=8.5)
    return axes


def add_legend(axes: Axes, *, above: bool = False) -> None:
    """Add the legend: above the axes, or inside where it covers least."""
    handles, labels = axes.get_legend_handles_labels()
    if above:
        columns = 1 if max(map(len, labels)) > 20 else 2 if len(labels) == 4 else 3
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            frameon=False,
            fontsize=8,
            labelcolor=LIGHT["ink"],
            borderaxespad=0.3,
            handlelength=2.2,
            columnspacing=1.4,
        )
    else:
        axes.legend(handles, labels, loc="best", frameon=False, fontsize=8, labelcolor=LIGHT["ink"], handlelength=1.4)


def colour_variables() -> str:
    """Return the style sheet's colours: light ones, dark ones for those who prefer them, and light ones on paper."""
    return (
        f"{_scheme(':root', LIGHT)}\n@media (prefers-color-scheme: dark) {{ {_scheme(':root', DARK)} }}\n"
        f"@media print {{ {_scheme(':root', LIGHT)} }}"
    )


def score_histogram(
    values: Float[np.ndarray, " n"], marked: Sequence[tuple[str, float]], *, label: str, failed: int
) -> str:
    """Return the histogram of the candidates' scores.

    Args:
        values: Mean scores of the candidates that have one; at least one.
        marked: Roles and scores that get a line.
        label: Name and scale of the score, and which direction is better.
        failed: Number of candidates without a score, which can't be shown on the axis and are counted in words.
    """
    figure = new_figure()
    axes = new_axes(figure, label, "candidates")
    axes.hist(values, bins=_bins(values), color=LIGHT["others"], edgecolor=LIGHT["surface"], linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.16)
    for role, value in marked:
        axes.axvline(value, color=_colour(role), linewidth=1.6, linestyle=_DASHES.get(role, "-"))
    _label_lines(axes, marked)
    if failed:
        axes.set_title(f"not shown: {failed} without a score", loc="right", fontsize=8, color=LIGHT["muted"])
    return to_svg(
        figure, "histogram", f"Histogram of the scores of {len(values)} candidates; {failed} more have no score."
    )


def score_strip(
    means: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"], marked: Sequence[tuple[str, int]], *, label: str
) -> str:
    """Return the scores in order of rank, with one standard error up and down.

    Args:
        means: Mean scores, best first.
        errors: Standard errors; not a number where there was one draw only.
        marked: Roles and their positions in ``means``.
        label: Name and scale of the score, and which direction is better.
    """
    figure = new_figure()
    axes = new_axes(figure, "position in the ranking (1 is best)", label)
    position = np.arange(1, len(means) + 1)
    known = np.nan_to_num(errors)
    if len(means) <= 120:
        axes.errorbar(
            position,
            means,
            yerr=known,
            fmt="o",
            markersize=3.2,
            color=LIGHT["others"],
            ecolor=LIGHT["others"],
            elinewidth=1,
        )
    else:
        # Means are monotone in rank, so group means show all of them; the band takes the mean error of the group.
        groups = np.array_split(np.arange(len(means)), min(len(means), 400))
        x = np.array([position[group].mean() for group in groups])
        y = np.array([means[group].mean() for group in groups])
        e = np.array([known[group].mean() for group in groups])
        axes.fill_between(x, y - e, y + e, color=LIGHT["others"], alpha=0.45, linewidth=0)
        axes.plot(x, y, color=LIGHT["others"], linewidth=1.4)
    for role, index in marked:
        axes.errorbar(
            position[index],
            means[index],
            yerr=known[index],
            fmt=_MARKERS.get(role, "^"),
            markersize=5.5,
            color=_colour(role),
            elinewidth=1.6,
            label=role,
            zorder=5,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    margin = max(0.6, 0.02 * len(means))
    axes.set_xlim(1 - margin, len(means) + margin)
    if marked:
        add_legend(axes)
    return to_svg(figure, "strip", f"Scores of {len(means)} candidates in order of rank with their standard errors.")


def scatter(
    counts: Float[np.ndarray, " n"],
    means: Float[np.ndarray, " n"],
    marked: Sequence[tuple[str, int]],
    *,
    x_label: str,
    label: str,
    name: str,
    front: Sequence[int] = (),
) -> str:
    """Return the scores against a count (parameters, multiply-accumulates), which needs no network to know.

    Args:
        counts: The counts, at least 0.
        means: Mean scores of the same candidates.
        marked: Roles and their positions in both.
        x_label: What is counted.
        label: Name and scale of the score, and which direction is better.
        name: Name of the chart within the page.
        front: Positions of the candidates that no other one beats in both, by ascending count; drawn as steps.
    """
    figure = new_figure()
    axes = new_axes(figure, x_label, label)
    many = len(means) > _MOST_VECTORS
    if len(front):
        places = np.array(front)
        axes.plot(
            counts[places],
            means[places],
            drawstyle="steps-post",
            color=LIGHT["ink"],
            linewidth=1.1,
            marker="o",
            markersize=4.2,
            markerfacecolor="none",
            markeredgecolor=LIGHT["ink"],
            markeredgewidth=1.0,
            label="Pareto front",
            zorder=4,
        )
    axes.scatter(
        counts,
        means,
        s=5 if many else 16,
        color=LIGHT["others"],
        alpha=0.35 if many else 0.8,
        linewidths=0,
        rasterized=many,
    )
    for role, index in marked:
        axes.scatter(
            counts[index],
            means[index],
            s=46,
            marker=_MARKERS.get(role, "^"),
            color=_colour(role),
            label=role,
            zorder=5,
            edgecolors=LIGHT["surface"],
            linewidths=0.8,
        )
    positive = counts[counts > 0]
    if len(positive) == len(counts) and counts.max() > 30 * counts.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if counts.max() < 100 * counts.min() else (1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_count(value)))
    if marked or len(front):
        add_legend(axes)
    said = f" {len(front)} of them are on the Pareto front." if len(front) else ""
    return to_svg(figure, name, f"Scores of {len(means)} candidates against {x_label}.{said}")


def kernel_limit(kernels: Sequence[Float[np.ndarray, "_ _"]]) -> float:
    """Return the common end of the colour scale of several kernels, each divided by its mean diagonal."""
    return max((float(np.abs(scaled_kernel(kernel)).max()) for kernel in kernels), default=1.0) or 1.0


def scaled_kernel(kernel: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """Return a kernel divided by its mean diagonal, which changes no condition number and makes kernels comparable."""
    scale = float(np.trace(kernel)) / len(kernel)
    return np.asarray(kernel / scale if scale > 0 else kernel, dtype=np.float64)


def kernel_heat_map(kernel: Float[np.ndarray, "m m"], *, tasks: int, ways: int, limit: float, role: str) -> str:
    """Return a MetaNTK as a heat map with its task blocks marked.

    Args:
        kernel: The matrix, rows task by task and class by class.
        tasks: Number of tasks.
        ways: Classes of a task.
        limit: End of the colour scale, symmetric about zero; the same for all kernels that are compared.
        role: Whose kernel it is.
    """
    rows = len(kernel)
    figure = new_figure(_WIDTH, 4.1)
    axes = new_axes(figure, "", "")
    axes.grid(False)
    image = axes.imshow(
        scaled_kernel(kernel), cmap=_DIVERGING, norm=Normalize(-limit, limit), interpolation="nearest", aspect="equal"
    )
    block, small = rows / tasks, rows / tasks / ways
    for task in range(1, tasks):
        for line in (axes.axhline, axes.axvline):
            line(task * block - 0.5, color="#333b45", linewidth=1.3)
    # Class ticks only where their numbers have room.
    ticks = [task * block + (way + 0.5) * small - 0.5 for task in range(tasks) for way in range(ways)]
    labels = [str(way + 1) for _ in range(tasks) for way in range(ways)]
    room = tasks * ways <= 30
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks if room else [], labels if room else [], fontsize=7)
        axis.set_tick_params(length=0, pad=2)
    centres = [(task + 0.5) * block - 0.5 for task in range(tasks)]
    for place, side in ((axes.secondary_xaxis("top"), "x"), (axes.secondary_yaxis("right"), "y")):
        axis = place.xaxis if side == "x" else place.yaxis
        axis.set_ticks(centres, [f"task {task + 1}" for task in range(tasks)], fontsize=8, color=LIGHT["ink"])
        axis.set_tick_params(length=0, pad=3)
        if side == "y":
            for text in axis.get_ticklabels():
                text.set(rotation=270, va="center")
        for spine in place.spines.values():
            spine.set_visible(False)
    if room:
        axes.set_xlabel("class within the task", fontsize=8)
        axes.set_ylabel("class within the task", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(LIGHT["muted"])
    bar = figure.colorbar(image, ax=axes, shrink=0.72, aspect=22, pad=0.03)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(colors=LIGHT["muted"], labelsize=7.5, length=2)
    return to_svg(
        figure,
        f"kernel-{_slug(role)}",
        f"Heat map of the MetaNTK of the {role} candidate: {tasks} tasks of {ways} classes.",
    )


def spectrum(kernels: Sequence[tuple[str, Float[np.ndarray, "_ _"]]]) -> str:
    """Return the eigenvalues of kernels, largest first, relative to the largest, on a logarithmic scale.

    Args:
        kernels: Roles and symmetric matrices.
    """
    figure = new_figure()
    axes = new_axes(figure, "eigenvalue, largest first", "relative to the largest")
    lowest = 1.0
    for role, kernel in kernels:
        values = np.linalg.eigvalsh(kernel.astype(np.float64))[::-1]
        if not values[0] > 0:
            continue
        relative = values / values[0]
        # What is zero or below it within rounding has no place on a logarithmic axis; the line ends there.
        shown = np.where(relative > 0, relative, np.nan)
        lowest = min(lowest, float(np.nanmin(shown)))
        condition = f"condition number {count(float(values[0] / values[-1]))}" if values[-1] > 0 else "singular"
        axes.plot(
            np.arange(1, len(values) + 1),
            shown,
            color=_colour(role),
            linestyle=_DASHES.get(role, "-"),
            linewidth=1.5,
            marker=_MARKERS.get(role, "^") if len(values) <= 60 else None,
            markersize=3.6,
            label=f"{role}: {condition}",
        )
    axes.set_yscale("log")
    axes.set_ylim(10 ** (math.floor(math.log10(lowest) * 2) / 2) * 0.8, 1.6)
    _power_ticks(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if axes.get_legend_handles_labels()[0]:
        add_legend(axes, above=True)
    return to_svg(figure, "spectrum", "Eigenvalues of the MetaNTK of the compared candidates on a logarithmic scale.")


def accuracy_dots(
    rows: Sequence[tuple[str, float, float]],
    *,
    chance: float,
    trainings: Mapping[str, Float[np.ndarray, " n"]] = MappingProxyType({}),
) -> str:
    """Return accuracies with their intervals as dots on one scale, which ends at chance or below on the left.

    Args:
        rows: Role, accuracy (0 to 1) and half width of the 95 % interval.
        chance: Accuracy of guessing.
        trainings: Accuracies of single trainings by role, shown as small dots below the mean.
    """
    figure = new_figure(_WIDTH, 0.75 + 0.36 * len(rows))
    axes = new_axes(figure, "accuracy on test classes", "")
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=LIGHT["grid"], linewidth=0.7)
    axes.axvline(chance, color=LIGHT["muted"], linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate(
        "chance",
        (chance, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, 1),
        textcoords="offset points",
        fontsize=7.5,
        color=LIGHT["muted"],
    )
    for row, (role, accuracy, half_width) in enumerate(rows):
        axes.errorbar(
            accuracy,
            row,
            xerr=half_width,
            fmt=_MARKERS.get(role, "^"),
            markersize=6,
            color=_colour(role),
            elinewidth=2,
            capsize=3,
        )
        if role in trainings:
            each = trainings[role]
            axes.plot(each, np.full(len(each), row + 0.25), ".", markersize=4, alpha=0.7, color=_colour(role))
    axes.set_yticks(range(len(rows)), [role for role, _, _ in rows], color=LIGHT["ink"])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    single = [float(accuracy) for each in trainings.values() for accuracy in each]
    low = min([chance, *(accuracy - half_width for _, accuracy, half_width in rows), *single])
    high = max([chance, *(accuracy + half_width for _, accuracy, half_width in rows), *single])
    axes.set_xlim(max(0.0, low - 0.05), min(1.0, high + 0.05) + 0.005)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    return to_svg(figure, "accuracy", "; ".join(f"{role}: {percent(accuracy)}" for role, accuracy, _ in rows))


def learning_curves(curves: Sequence[Curve], *, chance: float | None) -> tuple[tuple[str, str], ...]:
    """Return captions and charts: the losses of all networks, then each network's accuracies, all on one scale.

    Args:
        curves: The networks' histories.
        chance: Accuracy of guessing, or None if it isn't known.
    """
    reached = [points for curve in curves for points in (curve.iterations, *(other[0] for other in curve.others))]
    last = max((float(points.max()) for points in reached if len(points)), default=1.0)
    figure = new_figure()
    unit = curves[0].unit if curves else "iteration"
    axes = new_axes(figure, unit, "training loss")
    for curve in curves:
        for iterations, losses, _ in curve.others:
            axes.plot(iterations, losses, color=_colour(curve.role), linestyle=_DASHES.get(curve.role, "-"), **_THIN)
        axes.plot(
            curve.iterations,
            curve.train_loss,
            color=_colour(curve.role),
            linestyle=_DASHES.get(curve.role, "-"),
            linewidth=1.5,
            label=curve.role,
            marker=_MARKERS.get(curve.role, "^") if len(curve.iterations) <= 12 else None,
            markersize=3.4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, last * 1.02)
    add_legend(axes, above=True)
    charts = [("Training loss", to_svg(figure, "loss", f"Training loss of each network over the {unit}s."))]
    shares = [
        share
        for curve in curves
        for share in (
            *curve.train_accuracy,
            *(curve.validation_accuracy - np.nan_to_num(curve.validation_half_width)),
            *(curve.validation_accuracy + np.nan_to_num(curve.validation_half_width)),
            *(share for _, _, accuracies in curve.others for share in accuracies),
        )
        if math.isfinite(share)
    ]
    shares += [] if chance is None else [chance]
    low, high = max(0.0, min(shares, default=0.0) - 0.04), min(1.0, max(shares, default=1.0) + 0.04)
    for curve in curves:
        figure = new_figure()
        axes = new_axes(figure, curve.unit, "accuracy")
        colour = _colour(curve.role)
        # In epochs learn those that tell all base classes apart; in iterations those that learn from episodes.
        training = "training, base classes" if curve.unit == "epoch" else "training"
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if chance is not None:
            axes.axhline(chance, color=LIGHT["muted"], linewidth=1, linestyle=(0, (3, 2)), label="chance")
        axes.plot(curve.iterations, curve.train_accuracy, color=LIGHT["others"], linewidth=1.3, label=training)
        half = np.nan_to_num(curve.validation_half_width)
        axes.fill_between(
            curve.iterations,
            curve.validation_accuracy - half,
            curve.validation_accuracy + half,
            color=colour,
            alpha=0.22,
            linewidth=0,
        )
        for number, (iterations, _, accuracies) in enumerate(curve.others):
            named = None if number else f"other seed{'' if len(curve.others) == 1 else 's'}"
            axes.plot(iterations, accuracies, color=colour, label=named, **_THIN)
        axes.plot(curve.iterations, curve.validation_accuracy, color=colour, linewidth=1.6, label="validation, 95 %")
        chosen = np.flatnonzero(curve.iterations == curve.chosen)
        if len(chosen):
            axes.plot(
                curve.chosen,
                curve.validation_accuracy[chosen[0]],
                marker="o",
                markersize=7,
                markerfacecolor=LIGHT["surface"],
                markeredgecolor=colour,
                markeredgewidth=2,
                linestyle="none",
                label=f"chosen: {curve.chosen}",
            )
        axes.set_xlim(0, last * 1.02)
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        add_legend(axes, above=True)
        charts.append(
            (
                f"Accuracy, {curve.role}{f', {curve.training}' if curve.training else ''}",
                to_svg(figure, f"curve-{_slug(curve.role)}", f"Accuracies of the {curve.role} network."),
            )
        )
    return tuple(charts)


def _scheme(selector: str, colours: Mapping[str, str]) -> str:
    return f"{selector} {{ " + " ".join(f"--{key}: {colour};" for key, colour in colours.items()) + " }"


def _label_lines(axes: Axes, marked: Sequence[tuple[str, float]]) -> None:
    """Name vertical lines near the top, on the side away from the nearer edge."""
    low, high = axes.get_xlim()
    for row, (role, value) in enumerate(marked):
        right = value > (low + high) / 2
        axes.annotate(
            role,
            (value, 1 - 0.075 * row),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, -1),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=8,
            color=_colour(role),
        )


def _power_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    if decades < 1.2:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(LogLocator(numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(round(math.log10(value)))))
    axes.yaxis.set_minor_locator(NullLocator())


def _bins(values: Float[np.ndarray, " n"]) -> int:
    """Return the number of bins of Freedman and Diaconis, between 6 and 40."""
    spread = float(np.subtract(*np.percentile(values, [75, 25])))
    width = 2 * spread / len(values) ** (1 / 3)
    extent = float(np.ptp(values))
    return int(np.clip(extent / width if width > 0 else 6, 6, 40))


def _colour(role: str) -> str:
    return LIGHT[role] if role in ("best", "worst", "random") else LIGHT["ink"]


def _short_count(value: float) -> str:
    """Return a count for an axis: round numbers without needless zeros."""
    text = count(value)
    number, space, suffix = text.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + space + suffix


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
