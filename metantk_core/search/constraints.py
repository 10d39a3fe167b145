"""Limits on size and speed: costs enter, whether a candidate may take part leaves; and the Pareto front of two aims."""

import math
from collections.abc import Sequence

from pydantic import BaseModel, Field

from metantk_core.candidates import Costs
from metantk_core.errors import InputError


class ConstraintsConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """What a candidate's training network may cost at most; a limit itself is allowed."""

    max_params: int | None = Field(default=None, ge=1, le=10**12, description="Parameters, norms and head included.")
    max_macs: int | None = Field(default=None, ge=1, le=10**15, description="Multiply-accumulates for one image.")
    max_latency: float | None = Field(
        default=None, gt=0, le=3600, description="Seconds for one image, by a stored latency table."
    )

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.max_params, self.max_macs, self.max_latency))


def admits(costs: Costs, constraints: ConstraintsConfig) -> bool:
    """Return whether costs are within all limits.

    Args:
        costs: What a network costs.
        constraints: The limits.

    Raises:
        InputError: If latency is limited but unknown.
    """
    return not violation(costs, constraints)


def violation(costs: Costs, constraints: ConstraintsConfig) -> str:
    """Return what a network has too much of, for people; nothing if it is within all limits.

    Args:
        costs: What the network costs.
        constraints: The limits.

    Raises:
        InputError: If latency is limited but unknown.
    """
    over = []
    if constraints.max_params is not None and costs.params > constraints.max_params:
        over.append(f"{costs.params:,} parameters (at most {constraints.max_params:,})")
    if constraints.max_macs is not None and costs.macs > constraints.max_macs:
        over.append(f"{costs.macs:,} multiply-accumulates (at most {constraints.max_macs:,})")
    if constraints.max_latency is not None:
        if costs.latency is None:
            raise InputError(
                f"max_latency is {constraints.max_latency:g} s, but no latency was measured: give a latency table, or "
                "leave max_latency out."
            )
        if costs.latency > constraints.max_latency:
            over.append(f"{costs.latency:.3g} s for an image (at most {constraints.max_latency:.3g} s)")
    return ", ".join(over)


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return which points no other point dominates, in O(n log n).

    A point dominates another one if it is at most as large in both coordinates and smaller in one. Equal points don't
    dominate each other: all of them are in the front, or none.

    Args:
        points: Two numbers each, of which lower is better; infinite ones are allowed.

    Returns:
        Indices of the points, by ascending first coordinate; those of equal points in ascending order.

    Raises:
        ValueError: If a coordinate is not a number (NaN), which can't be compared.
    """
    if any(math.isnan(value) for point in points for value in point):
        raise ValueError("a Pareto front needs numbers, but a point has NaN")
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (*points[index], index)):
        # Whoever came before has a first coordinate that is not larger, so only the least second one so far matters.
        if not front or points[index][1] < points[front[-1]][1] or tuple(points[index]) == tuple(points[front[-1]]):
            front.append(index)
    return tuple(front)
