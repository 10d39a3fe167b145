"""Step: configuration in, the state of a search before its first round, and the shards to score it in, out."""

from typing import Any

from components.start_search import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
start_search: Any = component.start_search

__all__ = ["start_search"]
