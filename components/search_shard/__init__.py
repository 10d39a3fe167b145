"""Step: the state of a search before its first round in, its end out, found together with other shards in the store."""

from typing import Any

from components.search_shard import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
search_shard: Any = component.search_shard

__all__ = ["search_shard"]
