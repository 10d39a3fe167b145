"""Step: what all shards of a search ended with in, the one state and the records of all rounds out."""

from typing import Any

from components.join_shards import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
join_shards: Any = component.join_shards

__all__ = ["join_shards"]
