"""Rankings: score records enter in any order, a leaderboard that says how far to trust itself leaves."""

from metantk_core.ranking.consistency import Reliability, draws_needed, reliability
from metantk_core.ranking.criterion import Criterion, Losses, losses
from metantk_core.ranking.leaderboard import Leaderboard, Standing
from metantk_core.ranking.markdown import render_markdown
from metantk_core.ranking.order import rank
from metantk_core.ranking.racing import separated
from metantk_core.ranking.records import check_devices
from metantk_core.ranking.resampling import agreement, certainty, halves, resamples

__all__ = [
    "Criterion",
    "Leaderboard",
    "Losses",
    "Reliability",
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
