"""Step: dataset in, the leaderboard and history of a whole search out; for searches that fit one pod."""

from typing import Any

from components.search import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
search: Any = component.search

__all__ = ["search"]
