"""Charts over the rounds of a search: numbers by round enter, SVG in the page's colours leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from metantk_core.ranking import Reliability
from metantk_core.report.charts import LIGHT, add_legend, new_axes, new_figure, to_svg

_SERIES = (("ink", "o", "-"), ("best", "s", (0, (5, 1.5))), ("random", "D", (0, (1.5, 1.2))), ("worst", "^", "-."))
_LOWEST = -1.0  # where the axis of reliabilities ends: anything below 0 is noise


@dataclass(frozen=True)
class Agreement:
    """How far the two halves of the draws choose alike in one round.

    Attributes:
        number: Number of the round.
        shares: Of each choice that was not a tie, the share of splits whose halves agree, 0 to 1; at least one.
        chance: What it would be on average if all differences were noise.
    """

    number: int
    shares: tuple[float, ...]
    chance: float

    @property
    def mean(self) -> float:
        """Mean share of all choices."""
        return float(np.mean(self.shares))


def agreement_chart(rounds: Sequence[Agreement]) -> str:
    """Return how often both halves of the draws make the choices of each round, with what chance would give."""
    figure = new_figure()
    axes = new_axes(figure, "round", "splits whose halves agree")
    for place, found in enumerate(rounds):
        # Equal ones side by side: no two points hide each other, and nothing is random.
        shares = sorted(found.shares)
        equal = [shares.count(share) for share in shares]
        x = [
            place + (number - shares.index(share) - (many - 1) / 2) * min(0.1, 0.8 / many)
            for number, (share, many) in enumerate(zip(shares, equal, strict=True))
        ]
        label = "each choice" if place == 0 else None
        axes.scatter(x, shares, s=11, color=LIGHT["others"], linewidths=0, label=label, clip_on=False)
    positions = range(len(rounds))
    means = [found.mean for found in rounds]
    axes.plot(positions, means, color=LIGHT["best"], marker="o", markersize=5, linewidth=1.6, label="mean")
    chances = [found.chance for found in rounds]
    axes.plot(positions, chances, color=LIGHT["worst"], linewidth=1.5, linestyle=(0, (4, 1.5)), label="chance")
    _round_ticks(axes, [found.number for found in rounds])
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    add_legend(axes, above=True)
    said = "; ".join(
        f"round {found.number}: {100 * found.mean:.0f} %, chance {100 * found.chance:.0f} %" for found in rounds
    )
    return to_svg(figure, "agreement", f"Mean agreement of the halves of the draws. {said}.")


def reliability_chart(series: Sequence[tuple[str, Sequence[tuple[int, int, Reliability]]]]) -> str:
    """Return the reliability of each criterion over rounds, with its 95 % interval.

    Args:
        series: Names of criteria; for each the number of a round, its draws and the reliability.
    """
    figure = new_figure()
    draws = {number: many for _, points in series for number, many, _ in points}
    numbers = sorted(draws)
    varied = len(set(draws.values())) > 1
    axes = new_axes(figure, "round, and draws of each candidate" if varied else "round", "reliability, ICC(C,k)")
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.9)
    lowest = 0.0
    for place, (name, points) in enumerate(series):
        colour, marker, dash = _SERIES[place % len(_SERIES)]
        x = np.array([numbers.index(number) for number, _, _ in points]) + (place - (len(series) - 1) / 2) * 0.13
        y = np.array([max(_LOWEST, found.icc) for _, _, found in points])
        low = np.array([max(_LOWEST, found.low) for _, _, found in points])
        high = np.array([max(_LOWEST, found.high) for _, _, found in points])
        lowest = min(lowest, float(low.min()))
        axes.errorbar(
            x,
            y,
            yerr=[y - low, high - y],
            color=LIGHT[colour],
            marker=marker,
            markersize=4.6,
            linewidth=1.1,
            linestyle=dash,
            elinewidth=1.3,
            label=name,
        )
    _round_ticks(axes, numbers, [f"{number}\n{draws[number]} draws" for number in numbers] if varied else None)
    axes.set_ylim(max(_LOWEST, lowest - 0.05), 1.04)
    add_legend(axes, above=True)
    return to_svg(figure, "round-reliability", f"Reliability of {len(series)} criteria over {len(numbers)} rounds.")


def progress_chart(best: Sequence[float], mean: Sequence[float], *, label: str) -> str:
    """Return the best score and the mean of all candidates so far, over the generations of an evolution.

    Args:
        best: Of the first population, then of each generation.
        mean: Mean score of all candidates so far.
        label: Name and scale of the score, and which direction is better.
    """
    figure = new_figure()
    axes = new_axes(figure, "generation (0: the random first population)", label)
    few = len(best) <= 30
    for values, name, colour, marker, dash in (
        (best, "best so far", "best", "o", "-"),
        (mean, "mean of all so far", "others", "s", (0, (5, 1.5))),
    ):
        axes.plot(
            range(len(values)),
            values,
            color=LIGHT[colour],
            marker=marker if few else None,
            markersize=4.2,
            linewidth=1.6,
            linestyle=dash,
            label=name,
            drawstyle="steps-post" if name == "best so far" and not few else "default",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    add_legend(axes, above=True)
    return to_svg(figure, "evolution", f"Best score and mean score over {len(best) - 1} generations, {label}.")


def race_chart(stages: Sequence[tuple[int, int]]) -> str:
    """Return how many candidates got how many draws in a race.

    Args:
        stages: Draws, and how many candidates had so many of them.
    """
    figure = new_figure()
    axes = new_axes(figure, "draws of a candidate", "candidates that got so many draws")
    positions = range(len(stages))
    axes.bar(positions, [many for _, many in stages], width=0.62, color=LIGHT["best"])
    for place, (_, many) in enumerate(stages):
        axes.annotate(
            str(many),
            (place, many),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=LIGHT["ink"],
        )
    axes.set_xticks(list(positions), [str(draws) for draws, _ in stages])
    axes.set_ylim(0, 1.12 * max(many for _, many in stages))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    said = "; ".join(f"{many} with {draws} draws" for draws, many in stages)
    return to_svg(figure, "race", f"Candidates still running in the rounds of the race: {said}.")


def _round_ticks(axes: Axes, numbers: Sequence[int], labels: Sequence[str] | None = None) -> None:
    """Name the rounds, not more of them than have room."""
    step = 1 + (len(numbers) - 1) // (8 if labels else 16)
    names = labels or [str(number) for number in numbers]
    axes.set_xticks(range(0, len(numbers), step), names[::step])
    axes.set_xlim(-0.5, len(numbers) - 0.5)
