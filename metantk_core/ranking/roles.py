"""Which ranks of a leaderboard are meta-trained: names, which need nothing else."""

from typing import Literal, get_args

Role = Literal["best", "worst", "random"]
ROLES: tuple[str, ...] = get_args(Role)
