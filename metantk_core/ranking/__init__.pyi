from .consistency import Reliability, draws_needed, reliability
from .criterion import Criterion, Losses, losses
from .leaderboard import Leaderboard, Standing
from .markdown import render_markdown
from .order import rank
from .racing import separated
from .records import check_devices
from .resampling import agreement, certainty, halves, resamples
from .roles import ROLES, Role

__all__ = [
    "ROLES",
    "Criterion",
    "Leaderboard",
    "Losses",
    "Reliability",
    "Role",
    "Standing",
    "agreement",
    "certainty",
    "check_devices",
    "draws_needed",
    "halves",
    "losses",
    "rank",
    "reliability",
    "render_markdown",
    "resamples",
    "separated",
]
