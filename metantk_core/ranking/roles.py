"""What is trained of a leaderboard, and how often: names, which need nothing else."""

import re
from typing import Literal, get_args

Role = Literal["best", "worst", "random"]
ROLES: tuple[str, ...] = get_args(Role)

_TOP = re.compile(r"top-([1-9][0-9]*)")
_REPEATED = re.compile(r"(.+) seed ([1-9][0-9]*)")


def top_roles(top: int) -> tuple[str, ...]:
    """Return the names of the ranks that are trained behind the search's choice, ``"top-2"`` to ``"top-k"``."""
    return tuple(f"top-{rank}" for rank in range(2, top + 1))


def rank_of(role: str) -> int | None:
    """Return the rank that a name such as ``"top-3"`` stands for; none for another name."""
    found = _TOP.fullmatch(role)
    return int(found[1]) if found else None


def is_role(name: str) -> bool:
    """Return whether a name is that of a candidate of the leaderboard, not of a network of the literature."""
    return name in ROLES or rank_of(name) is not None


def training_names(network: str, seeds: int) -> tuple[str, ...]:
    """Return the names of a network's trainings: its own if there is one, ``"best seed 2"`` if there are more."""
    return (network,) if seeds == 1 else tuple(f"{network} seed {number}" for number in range(1, seeds + 1))


def training_of(name: str) -> tuple[str, int]:
    """Return the network that a training of a name is of, and which of its trainings it is, from 1."""
    found = _REPEATED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 1)
