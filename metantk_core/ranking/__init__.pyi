from .consistency import Reliability, draws_needed, reliability
from .criterion import Criterion, Losses, losses
from .leaderboard import Leaderboard, Standing
from .markdown import render_markdown
from .order import rank
from .racing import separated
from .records import check_devices
from .resampling import agreement, certainty, halves, resamples
from .roles import ROLES, Role, is_role, rank_of, top_roles, training_names, training_of

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
    "is_role",
    "losses",
    "rank",
    "rank_of",
    "reliability",
    "render_markdown",
    "resamples",
    "separated",
    "top_roles",
    "training_names",
    "training_of",
]
