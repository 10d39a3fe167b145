"""Step: the state and the records of a finished search in, a leaderboard and the search's history out."""

from typing import Any

from components.rank_candidates import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
rank_candidates: Any = component.rank_candidates

__all__ = ["rank_candidates"]
