"""The chart of a figure over reruns: values and intervals enter, SVG in the colours of the page leaves."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from metantk_core.report.charts import LIGHT, add_legend, new_axes, new_figure, to_svg
from metantk_core.reruns.figures import Estimate

_MOST_LABELS = 6
_LEAST_SPAN = 0.04  # of a value, so that the last digits of equal ones don't look like mountains


def figure_history(
    estimates: Sequence[Estimate | None],
    labels: Sequence[str],
    *,
    worse: Sequence[bool],
    baseline: float | None,
    baseline_at: int | None,
    breaks: Sequence[int],
    name: str,
    shown: Callable[[float], str],
    scale: str,
    identifier: str,
) -> str:
    """Return a figure over reruns, the last of which is the one that the page is about.

    Args:
        estimates: What was measured, the oldest first; none where that is missing.
        labels: A few words for each rerun, such as its date.
        worse: Whether the figure had left its tolerance then.
        baseline: What it is of the baseline, if there is one.
        baseline_at: Position of the baseline's rerun, if it is among them.
        breaks: Positions before which versions or the machine changed.
        name: Name of the figure.
        shown: Writes a number of it.
        scale: Scale of the axis, ``linear`` or ``log``.
        identifier: Prefix of identifiers, different for each chart of a page.
    """
    figure = new_figure(4.7, 2.5)
    axes = new_axes(figure, "", "")
    places = [place for place, estimate in enumerate(estimates) if estimate is not None]
    known = [estimate for estimate in estimates if estimate is not None]
    values = [estimate.value for estimate in known]
    if scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    for place in breaks:
        axes.axvline(place - 0.5, color=LIGHT["others"], linewidth=0.9, linestyle=(0, (1.5, 1.5)), zorder=1)
    if baseline is not None:
        axes.axhline(
            baseline, color=LIGHT["random"], linewidth=1.2, linestyle=(0, (5, 1.5)), label="baseline", zorder=2
        )
    axes.plot(places, values, color=LIGHT["others"], linewidth=1.1, zorder=3)
    for kind, colour, marker, wanted in (
        ("as good", LIGHT["best"], "o", False),
        ("regression", LIGHT["worst"], "s", True),
    ):
        mine = [(place, estimate) for place, estimate in zip(places, known, strict=True) if worse[place] is wanted]
        if not mine:
            continue
        axes.errorbar(
            [place for place, _ in mine],
            [estimate.value for _, estimate in mine],
            yerr=[
                [max(0.0, estimate.value - _end(estimate.low, estimate.value)) for _, estimate in mine],
                [max(0.0, _end(estimate.high, estimate.value) - estimate.value) for _, estimate in mine],
            ],
            fmt=marker,
            markersize=4.6,
            color=colour,
            ecolor=colour,
            elinewidth=1.1,
            zorder=5,
        )
        axes.plot([], [], marker, markersize=4.6, color=colour, label=kind)  # without its bars, in the legend
    if baseline_at is not None and (measured := estimates[baseline_at]) is not None:
        axes.plot(
            [baseline_at],
            [measured.value],
            marker="o",
            markersize=9.5,
            markerfacecolor="none",
            markeredgecolor=LIGHT["random"],
            markeredgewidth=1.4,
            linestyle="none",
            zorder=6,
        )
    step = max(1, -(-len(labels) // _MOST_LABELS))
    ticks = list(range(len(labels) - 1, -1, -step))[::-1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xticklabels([labels[tick] for tick in ticks])
    axes.set_xlim(-0.6, len(labels) - 0.4)
    whole = all(estimate.value == int(estimate.value) and estimate.low is None for estimate in known)
    _set_limits(axes, known, baseline, scale, least=2.0 if whole else 0.0)
    if scale != "log":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole))
    else:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(FixedLocator([low * (high / low) ** (part / 4) for part in range(5)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    add_legend(axes, above=True)
    said = (
        f"{name} over {len(labels)} reruns, the last one {shown(values[-1])}" if values else f"{name}: never measured"
    )
    return to_svg(figure, identifier, f"{said}.")


def _end(end: float | None, value: float) -> float:
    return value if end is None else end


def _set_limits(axes: Axes, known: Sequence[Estimate], baseline: float | None, scale: str, least: float) -> None:
    """Give the axis room around all values and intervals, and more, ``least`` at least, if they hardly differ."""
    ends = [end for estimate in known for end in (estimate.low, estimate.value, estimate.high) if end is not None]
    ends += [baseline] if baseline is not None else []
    low, high = min(ends), max(ends)
    if scale == "log":
        factor = max((high / low) ** 0.1, (1 + _LEAST_SPAN) ** 2)
        axes.set_ylim(low / factor, high * factor)
        return
    span = max(least, _LEAST_SPAN * max(abs(low), abs(high), 1e-12))
    margin = max(0.1 * (high - low), (span - (high - low)) / 2)
    axes.set_ylim(low - margin, high + margin)
